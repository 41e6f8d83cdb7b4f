//! What the process is doing, shard by shard: the state behind `/api/status`, the shard gauges and `/healthz`.
//!
//! Owns: the two lags as numbers. `millis_behind_latest` is what the stream said of the reader;
//! `delivered_age` is the age of the oldest record that is not in the lake yet, as far as anyone can know.
//! Does not own: the facts themselves; a consumer reports them through its [`ShardHandle`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::fleet::FleetSnapshot;
use crate::clock;

/// A reader at the tip asks at least about once a second. After this much silence nobody knows whether the tip
/// has moved, and the age counts from the last answer.
const SILENCE: Duration = Duration::from_secs(10);

/// Who this process is.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessFacts {
    /// Worker id in the lease table.
    pub worker: String,
    /// Application, the name of the lease table.
    pub application: String,
    /// Stream that is read.
    pub stream: String,
    /// What is promised of each record.
    pub delivery: Delivery,
}

/// How often a record may be in what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Delivery {
    /// Rows go to the lake.
    #[serde(rename = "exactly once")]
    ExactlyOnce,
    /// Rows go to Firehose, which cannot be asked what it has.
    #[serde(rename = "at least once")]
    AtLeastOnce,
}

/// What a shard's consumer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum ShardState {
    /// A parent shard is not finished yet.
    WaitingForParents,
    /// Bringing a former owner's batch to an end.
    Recovering,
    /// Reading records.
    Reading,
    /// Reading nothing new, only delivering what it has.
    Delivering,
    /// The same, because the lease goes to another worker afterwards.
    HandingOver,
    /// Not moving on, for this reason: one of a few fixed words, as it labels a metric. Details go to
    /// [`ShardHandle::error`].
    Stalled(&'static str),
    /// Read to its end.
    Finished,
}

/// Tells how the fleet stands, when asked.
type FleetSource = Box<dyn Fn() -> FleetSnapshot + Send + Sync>;

/// The state of the process, shared by all its parts. Updates are cheap: one short lock of one shard.
pub struct Status {
    process: ProcessFacts,
    started: Instant,
    progress_limit: Duration,
    progress: Mutex<Instant>,
    ready: AtomicBool,
    draining: AtomicBool,
    fleet: OnceLock<FleetSource>,
    shards: Mutex<BTreeMap<String, Arc<Mutex<ShardFacts>>>>,
}

#[derive(Debug)]
struct ShardFacts {
    state: ShardState,
    state_since: Instant,
    /// What a shard does from now on where it used to read.
    finishing: Option<ShardState>,
    /// What the shard tries meanwhile changes neither its state nor its error.
    halted: bool,
    checkpoint: Option<String>,
    lease_counter: u64,
    millis_behind_latest: Option<u64>,
    last_page: Instant,
    oldest_undelivered_arrival_us: Option<i64>,
    records_delivered: u64,
    batch_records: u64,
    batch_bytes: u64,
    in_flight_bytes: u64,
    last_error: Option<String>,
}

/// The process at one moment, as `/api/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Who it is.
    #[serde(flatten)]
    pub process: ProcessFacts,
    /// Version of kinetide.
    pub version: &'static str,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Takes part in the work.
    pub ready: bool,
    /// Shutting down.
    pub draining: bool,
    /// The lease coordinator makes progress.
    pub healthy: bool,
    /// The largest of all shards.
    pub millis_behind_latest: u64,
    /// The largest of all shards.
    pub delivered_age_ms: u64,
    /// The fleet, as far as this worker sees it.
    pub fleet: Option<FleetSnapshot>,
    /// One entry for each shard that this process has a consumer for, by id.
    pub shards: Vec<ShardSnapshot>,
}

/// One shard at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardSnapshot {
    /// Its id.
    pub shard: String,
    /// `state`, and `reason` if stalled.
    #[serde(flatten)]
    pub state: ShardState,
    /// How long it has been in this state, ms.
    pub state_for_ms: u64,
    /// Checkpoint, as the lease table spells it.
    pub checkpoint: Option<String>,
    /// Lease counter of the last write.
    pub lease_counter: u64,
    /// How far the reader was behind the tip when the stream last answered, ms.
    pub millis_behind_latest: Option<u64>,
    /// Arrival time of the oldest record fetched and not yet in the lake, µs since the epoch.
    pub oldest_undelivered_arrival_us: Option<i64>,
    /// Age of the oldest record not yet in the lake, ms. 0 when nothing is outstanding and the reader is at
    /// the tip; at least `millis_behind_latest` when it is not; counted on while the stream does not answer.
    pub delivered_age_ms: u64,
    /// Records landed and committed by this consumer.
    pub records_delivered: u64,
    /// Records in the open batch.
    pub batch_records: u64,
    /// Uncompressed bytes in the open batch.
    pub batch_bytes: u64,
    /// Bytes held between fetch and delivery.
    pub in_flight_bytes: u64,
    /// The last thing that went wrong, if anything did.
    pub last_error: Option<String>,
}

impl ShardSnapshot {
    /// Why the shard is stalled, if it is.
    pub fn stalled_reason(&self) -> Option<&'static str> {
        match self.state {
            ShardState::Stalled(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Status {
    /// A process that is not ready yet. It counts as unhealthy when [`Status::progressed`] was not called for
    /// `progress_limit`.
    pub fn new(process: ProcessFacts, progress_limit: Duration) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            process,
            started: now,
            progress_limit,
            progress: Mutex::new(now),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            fleet: OnceLock::new(),
            shards: Mutex::default(),
        })
    }

    /// The process takes part in the work from now on, or cannot.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// The process is shutting down: not ready any more.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks `source` for the fleet whenever the state is shown. Only the first source counts.
    pub fn fleet_from(&self, source: impl Fn() -> FleetSnapshot + Send + Sync + 'static) {
        self.fleet.get_or_init(|| Box::new(source));
    }

    /// The lease coordinator went round once more.
    pub fn progressed(&self) {
        *lock(&self.progress) = Instant::now();
    }

    /// True while the lease coordinator makes progress.
    pub fn healthy(&self) -> bool {
        lock(&self.progress).elapsed() < self.progress_limit
    }

    /// True while [`Status::set_ready`] says so, until [`Status::set_draining`].
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    /// Registers the consumer of a shard; it is shown until the handle is dropped.
    pub fn shard(self: &Arc<Self>, shard: &str, state: ShardState, lease_counter: u64) -> ShardHandle {
        let now = Instant::now();
        let facts = Arc::new(Mutex::new(ShardFacts {
            state,
            state_since: now,
            finishing: None,
            halted: false,
            checkpoint: None,
            lease_counter,
            millis_behind_latest: None,
            last_page: now,
            oldest_undelivered_arrival_us: None,
            records_delivered: 0,
            batch_records: 0,
            batch_bytes: 0,
            in_flight_bytes: 0,
            last_error: None,
        }));
        lock(&self.shards).insert(shard.to_owned(), Arc::clone(&facts));
        ShardHandle { status: Arc::clone(self), shard: shard.to_owned(), facts }
    }

    /// The process as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(clock::wall_clock_us())
    }

    fn snapshot_at(&self, now_us: i64) -> Snapshot {
        let now = Instant::now();
        let shards: Vec<_> = lock(&self.shards)
            .iter()
            .map(|(shard, facts)| lock(facts).snapshot(shard.clone(), now, now_us))
            .collect();
        Snapshot {
            process: self.process.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: (now - self.started).as_secs(),
            ready: self.ready(),
            draining: self.draining.load(Ordering::Relaxed),
            healthy: self.healthy(),
            millis_behind_latest: shards.iter().filter_map(|s| s.millis_behind_latest).max().unwrap_or(0),
            delivered_age_ms: shards.iter().map(|s| s.delivered_age_ms).max().unwrap_or(0),
            fleet: self.fleet.get().map(|source| source()),
            shards,
        }
    }
}

impl ShardFacts {
    fn snapshot(&self, shard: String, now: Instant, now_us: i64) -> ShardSnapshot {
        ShardSnapshot {
            shard,
            state: self.state,
            state_for_ms: millis(now - self.state_since),
            checkpoint: self.checkpoint.clone(),
            lease_counter: self.lease_counter,
            millis_behind_latest: self.millis_behind_latest,
            oldest_undelivered_arrival_us: self.oldest_undelivered_arrival_us,
            delivered_age_ms: self.delivered_age_ms(now, now_us),
            records_delivered: self.records_delivered,
            batch_records: self.batch_records,
            batch_bytes: self.batch_bytes,
            in_flight_bytes: self.in_flight_bytes,
            last_error: self.last_error.clone(),
        }
    }

    fn delivered_age_ms(&self, now: Instant, now_us: i64) -> u64 {
        // A finished shard owes nothing; one whose turn has not come is as late as its parents are.
        if matches!(self.state, ShardState::Finished | ShardState::WaitingForParents) {
            return 0;
        }
        let silent = now - self.last_page;
        let unread =
            self.millis_behind_latest.unwrap_or(0) + if silent > SILENCE { millis(silent) } else { 0 };
        let undelivered = self
            .oldest_undelivered_arrival_us
            .map_or(0, |arrival| u64::try_from(now_us.saturating_sub(arrival)).unwrap_or(0) / 1000);
        undelivered.max(unread)
    }
}

/// A consumer's place in the status; dropping it takes the shard off.
pub struct ShardHandle {
    status: Arc<Status>,
    shard: String,
    facts: Arc<Mutex<ShardFacts>>,
}

impl ShardHandle {
    /// What the consumer does from now on. The time counts from the first report of a state in a row.
    pub fn state(&self, state: ShardState) {
        let mut facts = self.facts();
        if facts.halted {
            return;
        }
        let finishing = facts.finishing.filter(|_| state == ShardState::Reading);
        let state = finishing.unwrap_or(state);
        if facts.state != state {
            facts.state = state;
            facts.state_since = Instant::now();
        }
    }

    /// The shard is halted for this reason until [`ShardHandle::resumed`], also while it looks whether it can go on.
    pub fn halted(&self, reason: &str) {
        self.resumed();
        self.error(reason);
        self.state(ShardState::Stalled("halted"));
        self.facts().halted = true;
    }

    /// The shard goes on.
    pub fn resumed(&self) {
        self.facts().halted = false;
    }

    /// The consumer reads nothing more: it is in this state from now on, and again after each trouble.
    pub fn finishing(&self, state: ShardState) {
        self.facts().finishing = Some(state);
        self.state(state);
    }

    /// The checkpoint, as the lease table spells it.
    pub fn checkpoint(&self, checkpoint: &str) {
        self.facts().checkpoint = Some(checkpoint.to_owned());
    }

    /// The lease counter after a write.
    pub fn lease_counter(&self, counter: u64) {
        self.facts().lease_counter = counter;
    }

    /// The stream answered with a page, empty or not.
    pub fn page_fetched(&self, millis_behind_latest: Option<i64>) {
        let mut facts = self.facts();
        facts.last_page = Instant::now();
        facts.millis_behind_latest = millis_behind_latest.map(|ms| u64::try_from(ms).unwrap_or(0));
    }

    /// Arrival time (µs since the epoch) of the oldest record fetched and not yet in the lake; `None` when all
    /// is landed.
    pub fn oldest_undelivered(&self, arrival_us: Option<i64>) {
        self.facts().oldest_undelivered_arrival_us = arrival_us;
    }

    /// The open batch holds this much.
    pub fn batch(&self, records: usize, bytes: usize) {
        let mut facts = self.facts();
        (facts.batch_records, facts.batch_bytes) = (records as u64, bytes as u64);
    }

    /// Bytes that the shard holds between fetch and delivery.
    pub fn in_flight_bytes(&self, bytes: usize) {
        self.facts().in_flight_bytes = bytes as u64;
    }

    /// Records landed and committed just now.
    pub fn delivered(&self, records: usize) {
        self.facts().records_delivered += records as u64;
    }

    /// Something went wrong. Never holds values of records.
    pub fn error(&self, error: impl Into<String>) {
        let mut facts = self.facts();
        if !facts.halted {
            facts.last_error = Some(error.into());
        }
    }

    fn facts(&self) -> MutexGuard<'_, ShardFacts> {
        lock(&self.facts)
    }
}

impl Drop for ShardHandle {
    fn drop(&mut self) {
        let mut shards = lock(&self.status.shards);
        // A lease that was lost and taken again may have a new consumer already.
        if shards.get(&self.shard).is_some_and(|facts| Arc::ptr_eq(facts, &self.facts)) {
            shards.remove(&self.shard);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NOW_US: i64 = 1_768_469_400_000_000;

    fn status() -> Arc<Status> {
        let facts = ProcessFacts {
            worker: "w-1".into(),
            application: "trades".into(),
            stream: "trades-stream".into(),
            delivery: Delivery::ExactlyOnce,
        };
        Status::new(facts, Duration::from_secs(60))
    }

    fn only(status: &Status) -> ShardSnapshot {
        status.snapshot_at(NOW_US).shards.remove(0)
    }

    #[tokio::test(start_paused = true)]
    async fn delivered_age_follows_the_oldest_record_that_is_not_landed() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Reading, 3);
        shard.page_fetched(Some(0));
        assert_eq!(only(&status).delivered_age_ms, 0, "at the tip with nothing outstanding");
        shard.oldest_undelivered(Some(NOW_US - 4_000_000));
        assert_eq!(only(&status).delivered_age_ms, 4000);
        shard.oldest_undelivered(Some(NOW_US + 4_000_000));
        assert_eq!(only(&status).delivered_age_ms, 0, "clocks of two hosts differ");
        shard.oldest_undelivered(None);
        shard.page_fetched(Some(90_000));
        assert_eq!(only(&status).delivered_age_ms, 90_000, "landed all it read, and is behind");
        shard.state(ShardState::Finished);
        assert_eq!(only(&status).delivered_age_ms, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_the_stream_makes_a_shard_late() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Reading, 3);
        advance(Duration::from_secs(9)).await;
        assert_eq!(only(&status).delivered_age_ms, 0);
        advance(Duration::from_secs(51)).await;
        assert_eq!(only(&status).delivered_age_ms, 60_000, "never answered since it was taken");
        shard.page_fetched(Some(500));
        assert_eq!(only(&status).delivered_age_ms, 500);
        advance(Duration::from_secs(11)).await;
        assert_eq!(only(&status).delivered_age_ms, 11_500);
        shard.state(ShardState::WaitingForParents);
        assert_eq!(only(&status).delivered_age_ms, 0, "its turn has not come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_keeps_its_beginning() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Reading, 3);
        shard.state(ShardState::Stalled("throttled"));
        advance(Duration::from_secs(5)).await;
        shard.state(ShardState::Stalled("throttled"));
        assert_eq!(only(&status).state_for_ms, 5000);
        assert_eq!(only(&status).stalled_reason(), Some("throttled"));
        shard.state(ShardState::Stalled("refused"));
        assert_eq!(only(&status).state_for_ms, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_finishes_does_not_read_again() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Reading, 3);
        shard.finishing(ShardState::HandingOver);
        shard.state(ShardState::Stalled("lake"));
        assert_eq!(only(&status).stalled_reason(), Some("lake"));
        shard.state(ShardState::Reading);
        assert_eq!(only(&status).state, ShardState::HandingOver);
    }

    #[tokio::test(start_paused = true)]
    async fn a_halted_shard_stays_so_while_it_looks_again() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Recovering, 3);
        shard.halted("records are gone");
        advance(Duration::from_secs(5)).await;
        shard.state(ShardState::Stalled("throttled"));
        shard.error("throttled");
        shard.halted("records are gone");
        let seen = only(&status);
        assert_eq!((seen.stalled_reason(), seen.state_for_ms), (Some("halted"), 5000));
        assert_eq!(seen.last_error.as_deref(), Some("records are gone"));
        shard.resumed();
        shard.state(ShardState::Reading);
        assert_eq!(only(&status).state, ShardState::Reading);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_leaves_with_its_handle_but_not_with_a_former_one() {
        let status = status();
        let former = status.shard("shardId-7", ShardState::Delivering, 3);
        let current = status.shard("shardId-7", ShardState::Reading, 9);
        drop(former);
        assert_eq!((only(&status).state, only(&status).lease_counter), (ShardState::Reading, 9));
        drop(current);
        assert!(status.snapshot().shards.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn health_and_readiness() {
        let status = status();
        assert!(status.healthy() && !status.ready());
        status.set_ready(true);
        assert!(status.ready());
        advance(Duration::from_secs(60)).await;
        assert!(!status.healthy());
        status.progressed();
        assert!(status.healthy());
        status.set_ready(false);
        assert!(!status.ready() && status.healthy());
        status.set_ready(true);
        status.set_draining();
        assert!(!status.ready() && status.snapshot().draining);
    }

    #[tokio::test(start_paused = true)]
    async fn the_snapshot_is_plain_json() {
        let status = status();
        let shard = status.shard("shardId-7", ShardState::Stalled("refused"), 3);
        shard.page_fetched(Some(-5));
        shard.checkpoint("4959");
        shard.lease_counter(4);
        shard.batch(10, 2000);
        shard.in_flight_bytes(3000);
        shard.delivered(70);
        shard.delivered(7);
        shard.error("access denied");
        shard.oldest_undelivered(Some(NOW_US - 1_500_000));
        let json = serde_json::to_value(status.snapshot_at(NOW_US)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "worker": "w-1", "application": "trades", "stream": "trades-stream",
                "delivery": "exactly once",
                "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": 0,
                "ready": false, "draining": false, "healthy": true,
                "millis_behind_latest": 0, "delivered_age_ms": 1500, "fleet": null,
                "shards": [{
                    "shard": "shardId-7", "state": "stalled", "reason": "refused", "state_for_ms": 0,
                    "checkpoint": "4959", "lease_counter": 4, "millis_behind_latest": 0,
                    "oldest_undelivered_arrival_us": NOW_US - 1_500_000, "delivered_age_ms": 1500,
                    "records_delivered": 77, "batch_records": 10, "batch_bytes": 2000,
                    "in_flight_bytes": 3000, "last_error": "access denied",
                }],
            })
        );
    }
}
