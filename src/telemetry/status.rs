//! What the process is doing, shard by shard: the state behind `/api/status`, the shard gauges, `/healthz` and `/readyz`.
//!
//! Owns: the two lags as numbers. `millis_behind_latest` is what the stream said of the reader;
//! `delivered_age` is the age of the oldest record that is not in the lake yet, as far as anyone can know.
//! Does not own: the facts themselves; a consumer reports them through its [`ShardHandle`]. What follows from them for
//! readiness (`health`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::cloudwatch::Export;
use super::fleet::FleetSnapshot;
use super::health::{HALTED, Phase, Readiness, readiness};
use super::pulse::Pulse;
pub use super::snapshot::{
    Delivery, ProcessFacts, Retrieval, ShardSnapshot, ShardState, Snapshot, TableStream,
};
use super::tally::{ByShard, Tallies, Tally};
use super::trouble::{TroubleSnapshot, Troubles};
use super::waiting::Waits;
use crate::clock;

/// A reader at the tip asks at least about once a second. After this much silence nobody knows whether the tip
/// has moved, and the age counts from the last answer.
const SILENCE: Duration = Duration::from_secs(10);
/// What the stream said of the reader is forgotten after so long without an answer: nobody knows where the tip is. Longer
/// than the slowest poll.
const FORGET: Duration = Duration::from_secs(120);
/// Clocks agree when they are no further apart: an answer is exact to a second, and may take as long as its time limits.
const CLOCK_GRAIN_US: i64 = 15_000_000;

/// The two halves of a shard's work, which can be in trouble each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Asking the stream.
    Reading,
    /// Bringing what was read into the lake and the lease table.
    Delivering,
}

/// A shard, among those of all streams: stream and id.
type ShardName = (String, String);

/// Tells how the fleet stands, when asked.
type FleetSource = Box<dyn Fn() -> FleetSnapshot + Send + Sync>;

/// The state of the process, shared by all its parts. Updates are cheap: one short lock of one shard.
pub struct Status {
    process: ProcessFacts,
    started: Instant,
    started_us: i64,
    patience: Duration,
    working: AtomicBool,
    draining: AtomicBool,
    table_lost: AtomicBool,
    fleet: OnceLock<FleetSource>,
    coordinator: OnceLock<(Arc<Troubles>, Arc<Pulse>)>,
    export: OnceLock<Arc<Export>>,
    /// For CloudWatch.
    done: Tallies,
    /// For the history.
    steps: Tallies,
    streams: Mutex<Vec<String>>,
    /// Streams of tables: since when they are off, µs since the epoch, if they are.
    off_since: Mutex<BTreeMap<String, Option<i64>>>,
    settings_problem: Mutex<Option<String>>,
    shards: Mutex<BTreeMap<ShardName, Arc<Mutex<ShardFacts>>>>,
    /// How far the stream's clock is ahead of this host's, µs; 0 when they agree.
    clock_off_us: AtomicI64,
}

#[derive(Debug)]
pub(super) struct ShardFacts {
    /// Where neither side is stalled.
    state: ShardState,
    state_since: Instant,
    /// Why a side does not move on, and since when; by [`Side`].
    stalls: [Option<(&'static str, Instant)>; 2],
    /// Since when one thing or another keeps the shard from moving.
    stalled_since: Option<Instant>,
    /// What a shard does from now on where it used to read.
    finishing: Option<ShardState>,
    /// What the shard tries meanwhile changes neither its state nor its error.
    halted: bool,
    checkpoint: Option<String>,
    lease_counter: u64,
    retrieval: Option<Retrieval>,
    millis_behind_latest: Option<u64>,
    last_page: Instant,
    /// The stream has answered at least once.
    page_seen: bool,
    oldest_undelivered_arrival_us: Option<i64>,
    records_delivered: u64,
    batch_records: u64,
    batch_bytes: u64,
    in_flight_bytes: u64,
    error: Option<ShardError>,
    pub(super) waits: Waits,
}

#[derive(Debug)]
struct ShardError {
    text: String,
    at_us: i64,
    /// `None`: of the shard as a whole.
    side: Option<Side>,
    over: bool,
}

impl Status {
    /// A process that starts. A shard that is stalled for `patience` is stuck.
    pub fn new(process: ProcessFacts, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            process,
            started: Instant::now(),
            started_us: clock::wall_clock_us(),
            patience,
            working: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            table_lost: AtomicBool::new(false),
            clock_off_us: AtomicI64::new(0),
            fleet: OnceLock::new(),
            coordinator: OnceLock::new(),
            export: OnceLock::new(),
            done: Tallies::default(),
            steps: Tallies::default(),
            streams: Mutex::default(),
            off_since: Mutex::default(),
            settings_problem: Mutex::default(),
            shards: Mutex::default(),
        })
    }

    /// The process takes part in the work from now on.
    pub fn set_working(&self) {
        self.working.store(true, Ordering::Relaxed);
    }

    /// The lease table does not exist any more, or does again.
    pub fn set_table_lost(&self, lost: bool) {
        self.table_lost.store(lost, Ordering::Relaxed);
    }

    /// The process is shutting down: not ready any more.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks `source` for the fleet whenever the state is shown. Only the first source counts.
    pub fn fleet_from(&self, source: impl Fn() -> FleetSnapshot + Send + Sync + 'static) {
        self.fleet.get_or_init(|| Box::new(source));
    }

    /// Shows the troubles of the lease coordinator, and whether its loops go round. Only the first ones count.
    pub fn watch(&self, troubles: Arc<Troubles>, pulse: Arc<Pulse>) {
        self.coordinator.get_or_init(|| (troubles, pulse));
    }

    /// Shows how metrics are sent to CloudWatch, and counts for it from now on what is done. Only the first counts.
    pub(super) fn exports(&self, export: Arc<Export>) {
        self.export.get_or_init(|| export);
        self.done.begin();
    }

    /// What was done by each shard since the last time.
    pub(super) fn take_done(&self) -> ByShard {
        self.done.take()
    }

    /// Counts for the history from now on what is done.
    pub(super) fn count_for_history(&self) {
        self.steps.begin();
    }

    /// What was done by each shard since the last step of the history.
    pub(super) fn take_history(&self) -> ByShard {
        self.steps.take()
    }

    /// What a restart would mend, if anything: a loop of the process that does not come back.
    pub fn sick(&self) -> Option<String> {
        let (name, late) = self.coordinator.get()?.1.late()?;
        Some(format!(
            "the loop \"{name}\" has hung for {} s: restart the process, and report this",
            late.as_secs()
        ))
    }

    /// For each operation of AWS that the lease coordinator uses for how long it has failed, seconds.
    pub fn trouble_seconds(&self) -> BTreeMap<&'static str, f64> {
        self.coordinator.get().map(|(troubles, _)| troubles.seconds()).unwrap_or_default()
    }

    /// From now on these streams are read.
    pub fn set_streams(&self, streams: Vec<String>) {
        lock(&self.off_since).retain(|stream, _| streams.contains(stream));
        *lock(&self.streams) = streams;
    }

    /// Whether the stream of a table, which is one of those that are read, is turned off now.
    pub fn set_stream_off(&self, stream: &str, off: bool) {
        let mut all = lock(&self.off_since);
        let known = all.entry(stream.to_owned()).or_default();
        *known = off.then(|| known.unwrap_or_else(clock::wall_clock_us));
    }

    /// What is wrong with the settings file as it is now, if anything; true when that is something else than before.
    pub fn set_settings_problem(&self, problem: Option<String>) -> bool {
        let mut now = lock(&self.settings_problem);
        std::mem::replace(&mut *now, problem.clone()) != problem
    }

    /// Registers the consumer of a shard of `stream`; it is shown until the handle is dropped.
    pub fn shard(
        self: &Arc<Self>,
        stream: &str,
        shard: &str,
        state: ShardState,
        lease_counter: u64,
    ) -> ShardHandle {
        let now = Instant::now();
        let facts = Arc::new(Mutex::new(ShardFacts {
            state,
            state_since: now,
            stalls: [None; 2],
            stalled_since: matches!(state, ShardState::Stalled(_)).then_some(now),
            finishing: None,
            halted: false,
            checkpoint: None,
            lease_counter,
            retrieval: None,
            millis_behind_latest: None,
            last_page: now,
            page_seen: false,
            oldest_undelivered_arrival_us: None,
            records_delivered: 0,
            batch_records: 0,
            batch_bytes: 0,
            in_flight_bytes: 0,
            error: None,
            waits: Waits::default(),
        }));
        let name = (stream.to_owned(), shard.to_owned());
        lock(&self.shards).insert(name.clone(), Arc::clone(&facts));
        ShardHandle { status: Arc::clone(self), name, facts }
    }

    /// How many shards are read by enhanced fan-out.
    pub fn shards_by_fan_out(&self) -> usize {
        let shards = lock(&self.shards);
        shards.values().filter(|facts| lock(facts).retrieval == Some(Retrieval::FanOut)).count()
    }

    /// The process as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(clock::wall_clock_us() + self.clock_off_us.load(Ordering::Relaxed))
    }

    fn snapshot_at(&self, now_us: i64) -> Snapshot {
        let now = Instant::now();
        let shards: Vec<_> = lock(&self.shards)
            .iter()
            .map(|(name, facts)| lock(facts).snapshot(name.clone(), now, now_us, self.patience))
            .collect();
        let troubles = self.coordinator.get().map(|(troubles, _)| troubles.snapshot()).unwrap_or_default();
        let readiness = self.readiness_of(&troubles, &shards);
        Snapshot {
            process: self.process.clone(),
            streams: lock(&self.streams).clone(),
            table_streams: lock(&self.off_since).iter().map(table_stream).collect(),
            settings_problem: lock(&self.settings_problem).clone(),
            version: env!("CARGO_PKG_VERSION"),
            started_us: self.started_us,
            uptime_seconds: (now - self.started).as_secs(),
            ready: readiness.is_ready(),
            not_ready: readiness.not_ready,
            draining: self.draining.load(Ordering::Relaxed),
            healthy: self.sick().is_none(),
            millis_behind_latest: shards.iter().filter_map(|s| s.millis_behind_latest).max(),
            delivered_age_ms: shards.iter().filter_map(|s| s.delivered_age_ms).max(),
            troubles,
            cloudwatch: self.export.get().map(|export| export.snapshot()),
            fleet: self.fleet.get().map(|source| source()),
            shards,
        }
    }

    /// Whether the process takes part in the work, and which of its shards cannot move.
    pub fn readiness(&self) -> Readiness {
        let Snapshot { troubles, shards, .. } = self.snapshot();
        self.readiness_of(&troubles, &shards)
    }

    fn readiness_of(&self, troubles: &[TroubleSnapshot], shards: &[ShardSnapshot]) -> Readiness {
        let phase = match (self.draining.load(Ordering::Relaxed), self.working.load(Ordering::Relaxed)) {
            (true, _) => Phase::Draining,
            (false, true) => Phase::Working,
            (false, false) => Phase::Starting,
        };
        let streams = lock(&self.streams).len();
        readiness(phase, self.table_lost.load(Ordering::Relaxed), troubles, streams, shards, self.patience)
    }
}

fn table_stream((stream, off_since): (&String, &Option<i64>)) -> TableStream {
    let reason = "it is turned off: it is read to its end, and changes made since are in no stream until it is turned on again";
    TableStream {
        stream: stream.clone(),
        on: off_since.is_none(),
        reason: off_since.map(|_| reason),
        off_since: off_since.map(clock::utc),
    }
}

impl ShardFacts {
    fn snapshot(
        &self,
        (stream, shard): ShardName,
        now: Instant,
        now_us: i64,
        patience: Duration,
    ) -> ShardSnapshot {
        let ((mut state, mut since), mut stalled_since) = (self.shown(), self.stalled_since);
        let mut error = self.error.as_ref().map(|error| (error.text.clone(), error.at_us, error.over));
        if !matches!(state, ShardState::Stalled(_) | ShardState::WaitingForParents | ShardState::Finished)
            && let Some(overdue) = self.waits.overdue(now, patience)
        {
            (state, since) = (ShardState::Stalled(overdue.reason), overdue.since);
            stalled_since = Some(overdue.since);
            error = Some((overdue.text, overdue.since_us, false));
        }
        ShardSnapshot {
            stream,
            shard,
            state,
            state_for_ms: millis(now - since),
            stalled_for_ms: stalled_since.map(|since| millis(now - since)),
            checkpoint: self.checkpoint.clone(),
            lease_counter: self.lease_counter,
            retrieval: self.retrieval,
            millis_behind_latest: self.millis_behind_latest.filter(|_| now - self.last_page <= FORGET),
            oldest_undelivered_arrival_us: self.oldest_undelivered_arrival_us,
            delivered_age_ms: self.delivered_age_ms(now, now_us),
            records_delivered: self.records_delivered,
            batch_records: self.batch_records,
            batch_bytes: self.batch_bytes,
            in_flight_bytes: self.in_flight_bytes,
            last_error_at: error.as_ref().map(|(_, at_us, _)| clock::utc(*at_us)),
            last_error_over: error.as_ref().map(|(_, _, over)| *over),
            last_error: error.map(|(text, ..)| text),
        }
    }

    /// What the shard does, and since when. What is read can wait for what is not delivered, not the other way round.
    fn shown(&self) -> (ShardState, Instant) {
        if matches!(self.state, ShardState::Stalled(_)) {
            return (self.state, self.state_since);
        }
        let [reading, delivering] = self.stalls;
        let stalled = |(reason, since)| (ShardState::Stalled(reason), since);
        delivering.or(reading).map_or((self.state, self.state_since), stalled)
    }

    fn note_stall(&mut self) {
        if let (ShardState::Stalled(_), since) = self.shown() {
            self.stalled_since.get_or_insert(since);
        } else if self.stalled_since.take().is_some() {
            self.state_since = Instant::now();
        }
    }

    fn failed(&mut self, side: Option<Side>, text: String) {
        if self.halted {
            return;
        }
        self.error = Some(ShardError { text, at_us: clock::wall_clock_us(), side, over: false });
    }

    fn recovered(&mut self, side: Side) {
        if let Some(error) = self.error.as_mut().filter(|error| error.side == Some(side)) {
            error.over = true;
        }
        if self.stalls[side as usize].take().is_some() {
            self.note_stall();
        }
    }

    fn delivered_age_ms(&self, now: Instant, now_us: i64) -> Option<u64> {
        match self.state {
            // It owes nothing.
            ShardState::Finished => return Some(0),
            // As late as its parents are.
            ShardState::WaitingForParents => return None,
            _ => {}
        }
        let silent = now - self.last_page;
        let unread = match (self.page_seen, silent > SILENCE) {
            (_, true) => Some(self.millis_behind_latest.unwrap_or(0) + millis(silent)),
            (true, false) => Some(self.millis_behind_latest.unwrap_or(0)),
            (false, false) => None,
        };
        let undelivered = self
            .oldest_undelivered_arrival_us
            .map(|arrival| u64::try_from(now_us.saturating_sub(arrival)).unwrap_or(0) / 1000);
        undelivered.max(unread)
    }
}

/// A consumer's place in the status; dropping it takes the shard off.
pub struct ShardHandle {
    status: Arc<Status>,
    name: ShardName,
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
            if let Some(error) = facts.error.as_mut().filter(|error| error.side.is_none()) {
                error.over = !matches!(state, ShardState::Stalled(_));
            }
            facts.state = state;
            facts.state_since = Instant::now();
            facts.note_stall();
        }
    }

    /// The shard is halted for this reason until [`ShardHandle::resumed`], also while it looks whether it can go on.
    pub fn halted(&self, reason: &str) {
        self.resumed();
        self.facts().failed(None, reason.to_owned());
        self.state(ShardState::Stalled(HALTED));
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

    /// It is read in this way from now on.
    pub fn read_by(&self, retrieval: Retrieval) {
        self.facts().retrieval = Some(retrieval);
    }

    /// The stream answered with a page, empty or not.
    pub fn page_fetched(&self, millis_behind_latest: Option<u64>) {
        let mut facts = self.facts();
        facts.recovered(Side::Reading);
        facts.last_page = Instant::now();
        facts.page_seen = true;
        facts.millis_behind_latest = millis_behind_latest;
    }

    /// What time it was at the stream when it answered, µs since the epoch. The stream's clock sets the arrival times, so
    /// ages are told by it where the clock of this host is wrong.
    pub fn stream_time(&self, served_us: Option<i64>) {
        let Some(served_us) = served_us else { return };
        let off_us = served_us - clock::wall_clock_us();
        let off_us = if off_us.abs() > CLOCK_GRAIN_US { off_us } else { 0 };
        self.status.clock_off_us.store(off_us, Ordering::Relaxed);
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

    /// So much is in the lake and committed, or done by a processor.
    pub fn landed(&self, records: u64, bytes: u64, dead_letters: u64) {
        let landed = Tally { records, bytes, dead_letters, deliver_failures: 0 };
        self.status.done.add(&self.name, landed);
        self.status.steps.add(&self.name, landed);
    }

    /// A try to deliver failed.
    pub fn deliver_failed(&self) {
        self.status.done.add(&self.name, Tally { deliver_failures: 1, ..Tally::default() });
    }

    /// Something went wrong on one side, which goes on all the same. Never holds values of records.
    pub fn failed(&self, side: Side, error: impl Into<String>) {
        self.facts().failed(Some(side), error.into());
    }

    /// One side does not move on for this reason until it has recovered. The time counts from the first report in a row.
    pub fn stalled(&self, side: Side, reason: &'static str, error: impl Into<String>) {
        self.stalled_since(side, reason, error, Instant::now());
    }

    /// The same; it has not moved on `since` then.
    pub fn stalled_since(&self, side: Side, reason: &'static str, error: impl Into<String>, since: Instant) {
        let mut facts = self.facts();
        facts.failed(Some(side), error.into());
        let stall = &mut facts.stalls[side as usize];
        if stall.is_none_or(|(before, _)| before != reason) {
            *stall = Some((reason, stall.map_or(since, |_| Instant::now())));
        }
        facts.note_stall();
    }

    /// One side moves on. After a page it is known that the reading side does.
    pub fn recovered(&self, side: Side) {
        self.facts().recovered(side);
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, ShardFacts> {
        lock(&self.facts)
    }
}

impl Drop for ShardHandle {
    fn drop(&mut self) {
        let mut shards = lock(&self.status.shards);
        // A lease that was lost and taken again may have a new consumer already.
        if shards.get(&self.name).is_some_and(|facts| Arc::ptr_eq(facts, &self.facts)) {
            shards.remove(&self.name);
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
#[path = "status_tests.rs"]
pub(crate) mod tests;
