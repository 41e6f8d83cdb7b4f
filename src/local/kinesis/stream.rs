//! One stream: its shards now and before, and the operations that change them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio_util::sync::CancellationToken;

use super::SHARDS_MAX;
use super::arn::stream_arn;
use super::consumers::Consumers;
use super::errors::{ACCOUNT, ApiError};
use super::hash_key;
use super::limits::{RESIZES_A_DAY, free_again};
use super::reshard::{self, Reshard};
use super::shard::{Shard, shard_index};
use crate::shard::HashKeyRange;

/// A stream. Puts hold the layout for reading, resharding holds it for writing: no record reaches a closed shard.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) arn: String,
    /// µs since the epoch.
    pub(crate) created_us: i64,
    /// Cancelled when the stream is deleted.
    pub(crate) deleted: CancellationToken,
    layout: RwLock<Layout>,
    consumers: Mutex<Consumers>,
}

/// Shards and settings of a stream.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Every shard ever, by index.
    shards: Vec<Arc<Shard>>,
    /// The open shards by their first hash key.
    open: BTreeMap<u128, Arc<Shard>>,
    /// When the newest generation of shards was made.
    generation_us: i64,
    /// The stream is `UPDATING` before this time.
    updating_until_us: i64,
    /// When its shards were counted anew in the last 24 hours, the oldest first.
    resized_us: VecDeque<i64>,
    pub(crate) retention_hours: u32,
    pub(crate) max_record_kib: u32,
    pub(crate) on_demand: bool,
}

const HOUR_US: i64 = 3_600_000_000;

impl Stream {
    pub(crate) fn new(name: &str, region: &str, shards: u32, now_us: i64) -> Self {
        let mut layout = Layout {
            shards: Vec::new(),
            open: BTreeMap::new(),
            generation_us: now_us,
            updating_until_us: now_us,
            resized_us: VecDeque::new(),
            retention_hours: 24,
            max_record_kib: 1024,
            on_demand: false,
        };
        for range in hash_key::even_ranges(shards) {
            layout.add([None, None], range);
        }
        Self {
            name: name.to_owned(),
            arn: stream_arn(region, name),
            created_us: now_us,
            deleted: CancellationToken::new(),
            layout: RwLock::new(layout),
            consumers: Mutex::new(Consumers::default()),
        }
    }

    pub(crate) fn layout(&self) -> RwLockReadGuard<'_, Layout> {
        self.layout.read().expect("no code panics while it holds the lock")
    }

    pub(crate) fn layout_mut(&self) -> RwLockWriteGuard<'_, Layout> {
        self.layout.write().expect("no code panics while it holds the lock")
    }

    pub(crate) fn consumers(&self) -> MutexGuard<'_, Consumers> {
        self.consumers.lock().expect("no code panics while it holds the lock")
    }

    /// A shard that the stream still knows.
    ///
    /// # Errors
    /// `ResourceNotFoundException` when there is none, or retention has passed since it was closed.
    pub(crate) fn shard(&self, id: &str, now_us: i64) -> Result<Arc<Shard>, ApiError> {
        let layout = self.layout();
        let found = shard_index(id)
            .and_then(|index| layout.shards.get(usize::try_from(index).ok()?))
            .filter(|shard| layout.knows(shard, now_us));
        found.cloned().ok_or_else(|| ApiError::shard_not_found(id, &self.name))
    }

    /// Splits an open shard at `key`, the start of the upper child.
    ///
    /// # Errors
    /// As `SplitShard`: `ResourceInUseException` for a closed shard, and while the stream is `UPDATING`;
    /// `InvalidArgumentException` for a key outside.
    pub(crate) fn split(&self, id: &str, key: u128, now_us: i64) -> Result<[Arc<Shard>; 2], ApiError> {
        let shard = self.shard(id, now_us)?;
        let mut layout = self.layout_mut();
        self.check_active(&layout, now_us)?;
        self.check_open(&layout, &shard)?;
        let HashKeyRange { start, end } = shard.range;
        if key <= start.saturating_add(1) || key >= end {
            return Err(ApiError::invalid_argument(format!(
                "NewStartingHashKey {key} used in SplitShard() on shard {id} in stream {} under account {ACCOUNT} is \
                 not both greater than one plus the shard's StartingHashKey {start} and less than the shard's \
                 EndingHashKey {end}.",
                self.name
            )));
        }
        Ok(layout.split(&shard, key, now_us))
    }

    /// Merges two adjacent open shards.
    ///
    /// # Errors
    /// As `MergeShards`: `ResourceInUseException` for a closed shard, and while the stream is `UPDATING`;
    /// `InvalidArgumentException` when they are not adjacent.
    pub(crate) fn merge(&self, id: &str, adjacent: &str, now_us: i64) -> Result<Arc<Shard>, ApiError> {
        let (first, second) = (self.shard(id, now_us)?, self.shard(adjacent, now_us)?);
        let mut layout = self.layout_mut();
        self.check_active(&layout, now_us)?;
        self.check_open(&layout, &first)?;
        self.check_open(&layout, &second)?;
        let touches = |low: &Shard, high: &Shard| low.range.end.checked_add(1) == Some(high.range.start);
        if !touches(&first, &second) && !touches(&second, &first) {
            return Err(ApiError::invalid_argument(format!(
                "Shards {id} and {adjacent} in stream {} under account {ACCOUNT} are not an adjacent pair of shards \
                 eligible for merging",
                self.name
            )));
        }
        Ok(layout.merge(&first, &second, now_us))
    }

    /// Goes to `target` even shards by splits and merges; answers the count before. The stream is `UPDATING` for
    /// `takes_us`; `limited`: ten times in 24 hours.
    ///
    /// # Errors
    /// As `UpdateShardCount`: of a provisioned stream that is `ACTIVE`, at most double, at least half of the open
    /// shards, and a new count.
    pub(crate) fn resize(
        &self,
        target: u32,
        takes_us: i64,
        limited: bool,
        now_us: i64,
    ) -> Result<u32, ApiError> {
        let mut layout = self.layout_mut();
        if layout.on_demand {
            return Err(ApiError::on_demand(&self.name));
        }
        self.check_active(&layout, now_us)?;
        let current = layout.open_count();
        if target > SHARDS_MAX {
            return Err(ApiError::limit_exceeded(format!(
                "TargetShardCount {target} is above the limit of {SHARDS_MAX} shards in a stream."
            )));
        }
        let refused = match target {
            0 => Some(format!("TargetShardCount {target} must be at least 1")),
            t if t == current => {
                Some(format!("TargetShardCount is equal to the current open shard count {current}"))
            }
            t if t > current.saturating_mul(2) => {
                Some("UpdateShardCount cannot scale up over double".to_owned())
            }
            t if t < current.div_ceil(2) => Some("UpdateShardCount cannot scale down below half".to_owned()),
            _ => None,
        };
        if let Some(reason) = refused {
            return Err(ApiError::invalid_argument(format!(
                "{reason}. Current open shard count: {current} Target shard count: {target}"
            )));
        }
        while layout.resized_us.front().is_some_and(|at| free_again(*at) <= now_us) {
            layout.resized_us.pop_front();
        }
        if limited && layout.resized_us.len() >= RESIZES_A_DAY {
            return Err(ApiError::limit_exceeded(format!(
                "UpdateShardCount was called {RESIZES_A_DAY} times for stream {} under account {ACCOUNT} in the last \
                 24 hours, which is the limit.",
                self.name
            )));
        }
        layout.resized_us.push_back(now_us);
        layout.updating_until_us = now_us.saturating_add(takes_us);
        let ranges: Vec<HashKeyRange> = layout.open().map(|shard| shard.range).collect();
        for step in reshard::steps(&ranges, target) {
            match step {
                Reshard::SplitAt(key) => {
                    let shard = Arc::clone(layout.route(key));
                    layout.split(&shard, key, now_us);
                }
                Reshard::MergeAt(key) => {
                    let (low, high) = (Arc::clone(layout.route(key - 1)), Arc::clone(layout.route(key)));
                    layout.merge(&low, &high, now_us);
                }
            }
        }
        Ok(current)
    }

    fn check_active(&self, layout: &Layout, now_us: i64) -> Result<(), ApiError> {
        if !layout.updating(now_us) {
            return Ok(());
        }
        Err(ApiError::resource_in_use(format!(
            "Stream {} under account {ACCOUNT} not ACTIVE, instead in state UPDATING",
            self.name
        )))
    }

    fn check_open(&self, layout: &Layout, shard: &Shard) -> Result<(), ApiError> {
        if layout.open.get(&shard.range.start).is_some_and(|open| open.index == shard.index) {
            return Ok(());
        }
        Err(ApiError::resource_in_use(format!(
            "Shard {} in stream {} under account {ACCOUNT} has already been merged or split, and thus is not eligible \
             for merging or splitting.",
            shard.id, self.name
        )))
    }
}

impl Layout {
    /// The open shard that takes this hash key.
    pub(crate) fn route(&self, key: u128) -> &Arc<Shard> {
        let (_, shard) = self.open.range(..=key).next_back().expect("the open shards cover every hash key");
        shard
    }

    /// The open shards in the order of their hash keys.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.open.values()
    }

    pub(crate) fn open_count(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    /// Whether a change of the shards is not over yet.
    pub(crate) fn updating(&self, now_us: i64) -> bool {
        now_us < self.updating_until_us
    }

    /// Arrival time before which records are gone.
    pub(crate) fn oldest_us(&self, now_us: i64) -> i64 {
        now_us - i64::from(self.retention_hours) * HOUR_US
    }

    /// The shards that the stream still knows, by index. Closed shards leave when retention has passed, with
    /// their records.
    pub(crate) fn known(&self, now_us: i64) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.iter().filter(move |shard| self.knows(shard, now_us))
    }

    fn knows(&self, shard: &Shard, now_us: i64) -> bool {
        let oldest_us = self.oldest_us(now_us);
        shard.trim(oldest_us);
        shard.closed_us().is_none_or(|closed| closed >= oldest_us)
    }

    /// Every shard ever, by index.
    pub(crate) fn all(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The shards that came out of `parent`.
    pub(crate) fn children(&self, parent: u32) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards
            .iter()
            .filter(move |shard| shard.parent == Some(parent) || shard.adjacent_parent == Some(parent))
    }

    fn split(&mut self, shard: &Arc<Shard>, key: u128, now_us: i64) -> [Arc<Shard>; 2] {
        self.close(&[shard], now_us);
        let HashKeyRange { start, end } = shard.range;
        let parents = [Some(shard.index), None];
        [
            self.add(parents, HashKeyRange { start, end: key - 1 }),
            self.add(parents, HashKeyRange { start: key, end }),
        ]
    }

    fn merge(&mut self, first: &Arc<Shard>, second: &Arc<Shard>, now_us: i64) -> Arc<Shard> {
        self.close(&[first, second], now_us);
        let range = HashKeyRange {
            start: first.range.start.min(second.range.start),
            end: first.range.end.max(second.range.end),
        };
        self.add([Some(first.index), Some(second.index)], range)
    }

    /// Closes shards and starts a new generation at the same moment, so that at every time the shards open then
    /// cover every hash key.
    fn close(&mut self, shards: &[&Arc<Shard>], now_us: i64) {
        self.generation_us = now_us.max(self.generation_us + 1);
        for shard in shards {
            self.open.remove(&shard.range.start);
            shard.close(self.generation_us);
        }
    }

    fn add(&mut self, parents: [Option<u32>; 2], range: HashKeyRange) -> Arc<Shard> {
        let index = u32::try_from(self.shards.len()).expect("a stream has fewer than 2^32 shards");
        let shard = Arc::new(Shard::new(index, parents, range, self.generation_us));
        self.shards.push(Arc::clone(&shard));
        self.open.insert(range.start, Arc::clone(&shard));
        shard
    }
}
