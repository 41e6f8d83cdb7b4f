//! One shard: who it is, its records, and a signal for those who wait for more.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

use super::errors::ApiError;
use super::hash_key;
use super::limits::ShardLimits;
use super::log::{Log, Run};
use super::sequence::Sequence;
use crate::shard::HashKeyRange;

/// One GetRecords answer holds at most this many bytes
/// ([GetRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html): 10 MiB).
pub(crate) const PAGE_BYTES_MAX: usize = 10 << 20;

/// A shard of a stream.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Index in the stream; the id is made of it.
    pub(crate) index: u32,
    /// `shardId-000000000000` and so on.
    pub(crate) id: String,
    /// The shard it was split from, or the first of the two it was merged from.
    pub(crate) parent: Option<u32>,
    /// The second of the two it was merged from.
    pub(crate) adjacent_parent: Option<u32>,
    pub(crate) range: HashKeyRange,
    /// µs since the epoch; greater than that of every older generation of the stream.
    pub(crate) created_us: i64,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    log: Log,
    limits: ShardLimits,
    closed_us: Option<i64>,
}

/// Records of a shard with what a reader wants to know about the place behind them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) run: Run,
    /// True when the shard is closed and nothing is left behind the run.
    pub(crate) ended: bool,
}

impl Page {
    /// Age of the first record behind the page, at least 1; 0 when the reader has caught up.
    pub(crate) fn millis_behind_latest(&self, now_us: i64) -> i64 {
        self.run.rest_from_us.map_or(0, |arrival_us| ((now_us - arrival_us) / 1_000).max(1))
    }
}

impl Shard {
    pub(crate) fn new(
        index: u32,
        [parent, adjacent_parent]: [Option<u32>; 2],
        range: HashKeyRange,
        created_us: i64,
    ) -> Self {
        let state = State { log: Log::new(), limits: ShardLimits::new(created_us), closed_us: None };
        Self {
            index,
            id: shard_id(index),
            parent,
            adjacent_parent,
            range,
            created_us,
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }

    /// The sequence number of record `record`.
    pub(crate) fn sequence(&self, record: u64) -> Sequence {
        let shard_created_us = u64::try_from(self.created_us).unwrap_or(0);
        Sequence { shard_created_us, shard: self.index, record }
    }

    /// The record that a sequence number names, when it is one of this shard.
    ///
    /// # Errors
    /// `InvalidArgumentException`, as the service says it of a number from elsewhere.
    pub(crate) fn record_of(&self, sequence_number: &str, stream: &str) -> Result<u64, ApiError> {
        Sequence::parse(sequence_number).filter(|s| *s == self.sequence(s.record)).map(|s| s.record).ok_or_else(|| {
            ApiError::invalid_argument(format!(
                "StartingSequenceNumber {sequence_number} used in GetShardIterator on shard {} in stream {stream} \
                 is invalid because it did not come from this shard.",
                self.id
            ))
        })
    }

    /// Appends a record of an open shard; answers its number, or `None` when the limits refuse it.
    pub(crate) fn put(
        &self,
        partition_key: Bytes,
        data: Bytes,
        now_us: i64,
        limited_size: Option<usize>,
    ) -> Option<u64> {
        let mut state = self.state();
        if limited_size.is_some_and(|size| !state.limits.admit_put(size, now_us)) {
            return None;
        }
        let number = state.log.push(partition_key, data, now_us);
        drop(state);
        if self.changed.receiver_count() > 0 {
            self.changed.send_replace(());
        }
        Some(number)
    }

    /// Counts one GetRecords call against the limits; false when they refuse it.
    pub(crate) fn admit_read(&self, now_us: i64) -> bool {
        self.state().limits.admit_read(now_us)
    }

    /// Counts the bytes that an admitted call returned.
    pub(crate) fn charge_read(&self, bytes: usize) {
        self.state().limits.charge_read(bytes);
    }

    /// Records from number `from` on, after dropping what arrived before `oldest_us`.
    pub(crate) fn page(&self, from: u64, records_max: usize, bytes_max: usize, oldest_us: i64) -> Page {
        let mut state = self.state();
        state.log.trim(oldest_us);
        let run = state.log.read(from, records_max, bytes_max);
        let ended = state.closed_us.is_some() && run.rest_from_us.is_none();
        Page { run, ended }
    }

    /// Number that the next record gets.
    pub(crate) fn next(&self) -> u64 {
        self.state().log.next()
    }

    /// Number of the first record that arrived at or after `us`.
    pub(crate) fn at_time(&self, us: i64) -> u64 {
        self.state().log.at_time(us)
    }

    /// Drops what arrived before `oldest_us`.
    pub(crate) fn trim(&self, oldest_us: i64) {
        self.state().log.trim(oldest_us);
    }

    /// When it was closed, µs since the epoch.
    pub(crate) fn closed_us(&self) -> Option<i64> {
        self.state().closed_us
    }

    /// Closes it. The caller keeps puts away.
    pub(crate) fn close(&self, now_us: i64) {
        self.state().closed_us = Some(now_us);
        self.changed.send_replace(());
    }

    /// Signals when a record came or the shard was closed.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How many wait for these signals: the subscriptions that are open.
    pub(crate) fn watchers(&self) -> usize {
        self.changed.receiver_count()
    }

    /// True when the shard took records at `us`.
    pub(crate) fn open_at(&self, us: i64) -> bool {
        self.created_us <= us && self.closed_us().is_none_or(|closed| closed > us)
    }

    /// The key that splits the shard in two halves.
    pub(crate) fn middle(&self) -> Option<u128> {
        hash_key::middle(self.range)
    }
}

/// The id of the shard with this index.
pub(crate) fn shard_id(index: u32) -> String {
    format!("shardId-{index:012}")
}

/// The index in a shard id; `None` when it is not spelled as the service spells it.
pub(crate) fn shard_index(id: &str) -> Option<u32> {
    let index = id.strip_prefix("shardId-")?.parse().ok()?;
    (shard_id(index) == id).then_some(index)
}
