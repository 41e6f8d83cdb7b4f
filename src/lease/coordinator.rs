//! Keeps this worker's share of the leases: takes, renews, hands back.
//!
//! Owns: the loops and their pace, the set of held leases, the view of all others.
//! Does not own: which lease to take (`plan`), what becomes of a write (`held`), which leases should exist
//! (`sync`), reading a shard (the worker does, from [`Coordinator::run`]'s channel on).
//!
//! ```text
//! scan ─► view ─► plan ─► take ─► gained ─► renew, renew, … ─► release │ forget │ lost
//! ```
//!
//! What it costs in DynamoDB (on demand, us-east-1, $0.125 per million read and $0.625 per million write
//! units): a scan reads about 10 rows per half unit, so with one scan a second and at most
//! [`SCAN_ROWS_PER_SECOND`] rows a second one worker pays $0.00002 an hour per lease up to 500 leases, then
//! $0.011 an hour whatever the number. A renew is one write unit: $0.0007 an hour per lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, FuturesUnordered, StreamExt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::held::{HeldLease, LeaseWriteError};
use super::plan::{LeaseView, plan};
use super::row::{Lease, LeaseKey, WorkerId};
use super::sync::{ShardSync, SyncError};
use super::table::{LeaseTable, TableError, WriteError, chain};
use super::write::LeaseWrite;
use crate::shard::{Checkpoint, ChildShard, ShardId, ShardLister};
use crate::telemetry::metrics::{self, TakenHow, WriteOutcome};

/// A scan reads at most this many rows a second on average: larger tables are scanned less often.
pub const SCAN_ROWS_PER_SECOND: usize = 500;
/// Calls to the table at the same time, per loop. KCL renews with as many threads.
const CONCURRENCY: usize = 20;
/// A renew comes this much before the third of the failover time, as in KCL.
const EPSILON: Duration = Duration::from_millis(25);
/// The longest pause between tries while the table or the stream is out of reach.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const RELEASE_ATTEMPTS: usize = 3;
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

/// How a coordinator works.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// Our id, unique per live process.
    pub worker: WorkerId,
    /// A lease whose counter stands still for this long is free for all. The same for all workers.
    pub failover: Duration,
    /// Time between two scans of the table, longer for large tables.
    pub scan_interval: Duration,
    /// Time between two comparisons of stream and table.
    pub shard_sync_interval: Duration,
    /// Where shards without any leased ancestor start.
    pub initial: Checkpoint,
    /// The most leases to hold.
    pub leases_max: usize,
    /// Seed of all random choices.
    pub seed: u64,
}

/// What is known of one lease, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseStatus {
    /// Its key.
    pub key: LeaseKey,
    /// The worker that may renew and checkpoint it.
    pub owner: Option<WorkerId>,
    /// Its counter.
    pub counter: u64,
    /// How far the shard is read.
    pub checkpoint: Checkpoint,
    /// True when a batch is prepared and not committed.
    pub pending: bool,
    /// True when the shard is read to its end.
    pub finished: bool,
    /// Shards that must be finished before this one is read.
    pub parents: Vec<ShardId>,
    /// True when this worker holds it.
    pub mine: bool,
    /// For how long its counter has stood still, as observed here.
    pub unmoved: Duration,
}

/// Runs the leases of one worker.
pub struct Coordinator {
    settings: CoordinatorSettings,
    table: Arc<dyn LeaseTable>,
    shards: ShardSync,
    state: Mutex<State>,
    held_changed: Notify,
    first_scan: CancellationToken,
}

struct State {
    view: LeaseView,
    held: BTreeMap<LeaseKey, Arc<HeldLease>>,
    rng: ChaCha8Rng,
    last_scan: Option<Instant>,
}

impl Coordinator {
    /// A coordinator that has not looked at anything yet.
    pub fn new(
        settings: CoordinatorSettings,
        table: Arc<dyn LeaseTable>,
        lister: Arc<dyn ShardLister>,
    ) -> Arc<Self> {
        let state = State {
            view: LeaseView::new(settings.failover),
            held: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            last_scan: None,
        };
        let shards = ShardSync { table: Arc::clone(&table), lister, initial: settings.initial.clone() };
        Arc::new(Self {
            settings,
            table,
            shards,
            state: Mutex::new(state),
            held_changed: Notify::new(),
            first_scan: CancellationToken::new(),
        })
    }

    /// Takes and renews leases until `finish`, or until nobody receives `gained` any more. Each lease is sent
    /// once, after its take succeeded; the receiver watches [`HeldLease::lost`].
    ///
    /// After `stop_taking` the held leases are still renewed. Fails only at the start, when the table is not
    /// one to work with; later trouble is logged and waited out.
    pub async fn run(
        self: Arc<Self>,
        gained: mpsc::Sender<Arc<HeldLease>>,
        stop_taking: CancellationToken,
        finish: CancellationToken,
    ) -> Result<(), TableError> {
        let stop = finish.child_token();
        tokio::select! {
            biased;
            // Not after the call that a loop waits for: it may hang.
            () = stop.cancelled() => Ok(()),
            ended = self.work(&gained, &stop_taking, &stop) => ended,
        }
    }

    async fn work(
        &self,
        gained: &mpsc::Sender<Arc<HeldLease>>,
        stop_taking: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), TableError> {
        let mut trouble = Trouble::new("preparing the lease table");
        loop {
            match self.table.ensure_exists().await {
                Ok(()) => break,
                Err(error @ TableError::Unusable { .. }) => return Err(error),
                Err(error) => {
                    trouble.failed(&error);
                    sleep(trouble.backoff(self.settings.scan_interval)).await;
                }
            }
        }
        tokio::join!(
            self.keep_renewing(stop),
            self.keep_taking(gained, stop_taking, stop),
            self.keep_in_step(stop_taking, stop),
        );
        Ok(())
    }

    /// Gives a lease back in the table, so that another worker can have it at its next scan. Best effort: a
    /// lease that could not be given back expires.
    pub async fn release(&self, lease: &HeldLease) {
        for attempt in 1.. {
            match lease.write(LeaseWrite::Evict).await {
                Ok(row) => {
                    tracing::info!(lease = %lease.key(), "lease released");
                    self.state().view.note(row, Instant::now());
                    break;
                }
                Err(LeaseWriteError::Unavailable(_)) if attempt < RELEASE_ATTEMPTS => {
                    sleep(RELEASE_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(lease = %lease.key(), error = %chain(&error), "lease not released, it will expire");
                    break;
                }
            }
        }
        self.drop_held(lease);
    }

    /// Drops a lease that is lost, or whose shard is finished, without a write.
    pub fn forget(&self, lease: &HeldLease) {
        if self.drop_held(lease) {
            // Its last row is newer than what the last scan saw.
            let row = lease.row();
            let mut state = self.state();
            if state.view.get(lease.key()).is_some_and(|seen| seen.lease.counter < row.counter) {
                state.view.note(row, Instant::now());
            }
        }
    }

    /// Creates the leases of a closed shard's children and records them on the parent's row. Comes before
    /// SHARD_END is checkpointed; may be repeated.
    ///
    /// Children start at TRIM_HORIZON; at AT_TIMESTAMP when the parent never got past that time. A merged child
    /// waits until the leases of both parents exist.
    pub async fn create_children(
        &self,
        parent: &HeldLease,
        children: &[ChildShard],
    ) -> Result<(), SyncError> {
        self.shards.create_children(parent, children).await
    }

    /// True when the shard of `lease` may be read: each parent's lease is finished or gone, read consistently.
    pub async fn parents_finished(&self, lease: &Lease) -> Result<bool, TableError> {
        self.shards.parents_finished(lease).await
    }

    /// The leases held now.
    pub fn held(&self) -> Vec<Arc<HeldLease>> {
        self.state().held.values().cloned().collect()
    }

    /// When the lease table was last read, taken and all: the sign of life of the coordinator.
    pub fn last_scan(&self) -> Option<Instant> {
        self.state().last_scan
    }

    /// Every known lease, in order of its key.
    pub fn view(&self) -> Vec<LeaseStatus> {
        let now = Instant::now();
        let state = self.state();
        let status = |seen: &super::plan::Seen| {
            let held = state.held.get(&seen.lease.key);
            // The row of a held lease is known better here than from the last scan.
            let row = held.map_or_else(|| seen.lease.clone(), |held| held.row());
            LeaseStatus {
                owner: row.actual_owner().cloned(),
                counter: row.counter,
                pending: row.pending.is_some(),
                finished: row.finished(),
                mine: held.is_some(),
                unmoved: now.duration_since(held.map_or(seen.since, |held| held.last_write())),
                key: row.key,
                checkpoint: row.checkpoint,
                parents: row.parents,
            }
        };
        state.view.rows().map(status).collect()
    }

    // --- taking ---

    async fn keep_taking(
        &self,
        gained: &mpsc::Sender<Arc<HeldLease>>,
        stop_taking: &CancellationToken,
        stop: &CancellationToken,
    ) {
        let mut trouble = Trouble::new("reading the lease table");
        loop {
            let wait = match within(BACKOFF_MAX * 3, self.table.scan()).await {
                Ok(rows) => {
                    trouble.over();
                    let rows_read = rows.len();
                    self.observe(rows);
                    if !stop_taking.is_cancelled() {
                        self.take_share(gained, stop_taking, stop).await;
                    }
                    self.first_scan.cancel();
                    self.state().last_scan = Some(Instant::now());
                    self.jittered(scan_interval(self.settings.scan_interval, rows_read))
                }
                Err(error) => {
                    trouble.failed(&error);
                    trouble.backoff(self.settings.scan_interval)
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = gained.closed() => stop.cancel(),
                () = sleep(wait) => {}
            }
        }
    }

    /// Takes in a scan that has just returned, and notices leases that were taken from us.
    fn observe(&self, rows: Vec<Lease>) {
        let returned = Instant::now();
        let mut state = self.state();
        for row in &rows {
            // Counters only grow, so a later row of another owner cannot become ours again.
            let taken = |held: &&Arc<HeldLease>| {
                row.counter > held.row().counter && row.actual_owner() != Some(&self.settings.worker)
            };
            if let Some(held) = state.held.get(&row.key).filter(taken) {
                held.lose();
            }
        }
        state.view.observe(rows, returned);
        drop(state);
        self.held_changed.notify_one();
    }

    async fn take_share(
        &self,
        gained: &mpsc::Sender<Arc<HeldLease>>,
        stop_taking: &CancellationToken,
        stop: &CancellationToken,
    ) {
        let takes = stream::iter(self.wanted()).map(|seen| async move {
            if stop_taking.is_cancelled() || stop.is_cancelled() { None } else { self.take(seen).await }
        });
        let mut taken = std::pin::pin!(takes.buffer_unordered(CONCURRENCY));
        while let Some(result) = taken.next().await {
            let Some(lease) = result else { continue };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // Nobody to receive it: the caller stops.
                _ = gained.send(lease) => {}
            }
        }
    }

    /// The rows to take now: our share, and rows in our name that we do not hold. The latter are left by a take
    /// without an answer or a lapsed lease; no other worker may touch them yet, and we need not wait.
    fn wanted(&self) -> Vec<Lease> {
        let now = Instant::now();
        let mut state = self.state();
        let State { view, held, rng, .. } = &mut *state;
        let me = &self.settings.worker;
        let mut keys: BTreeSet<LeaseKey> = view
            .rows()
            .filter(|seen| seen.lease.actual_owner() == Some(me) && view.is_ready(&seen.lease))
            .map(|seen| seen.lease.key.clone())
            .collect();
        keys.extend(plan(view, me, self.settings.leases_max, now, rng));
        keys.retain(|key| held.get(key).is_none_or(|held| held.lost().is_cancelled()));
        keys.iter().filter_map(|key| view.get(key)).map(|seen| seen.lease.clone()).collect()
    }

    /// Takes one lease; `None` when the row has moved on or the table did not answer. A take that went through
    /// unseen is found by the next scan as a row in our name. It is not guessed from the row that refused us:
    /// in our name that could as well be the last write of our previous hold on the lease.
    async fn take(&self, seen: Lease) -> Option<Arc<HeldLease>> {
        // The view may be stale, and a parent that only seems gone would break the order.
        match self.parents_finished(&seen).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return None,
        }
        let me = &self.settings.worker;
        let take = LeaseWrite::Take(me.clone());
        let sent = Instant::now();
        let row = match timeout(self.settings.failover / 3, self.table.write(&seen, &take)).await {
            Ok(Ok(row)) => row,
            Ok(Err(WriteError::Conflict(row))) => {
                if let Some(row) = row {
                    self.state().view.note(*row, Instant::now());
                }
                return None;
            }
            Ok(Err(error)) => {
                tracing::debug!(lease = %seen.key, error = %chain(&error), "lease not taken");
                return None;
            }
            Err(_) => return None,
        };
        let how = self.how_taken(&seen);
        metrics::lease_taken(how);
        let from = seen.actual_owner().map_or("nobody", WorkerId::as_str);
        tracing::info!(lease = %seen.key, from, ?how, counter = row.counter, "lease taken");
        let table = Arc::clone(&self.table);
        let held = HeldLease::new(table, row.clone(), me.clone(), sent, self.settings.failover);
        let mut state = self.state();
        state.view.note(row, Instant::now());
        state.held.insert(seen.key, Arc::clone(&held));
        drop(state);
        self.held_changed.notify_one();
        Some(held)
    }

    /// Why the lease in this form could be taken. One in our own name had lapsed here.
    fn how_taken(&self, seen: &Lease) -> TakenHow {
        let state = self.state();
        let live = state.view.get(&seen.key).is_some_and(|row| state.view.is_live(row, Instant::now()));
        match seen.actual_owner() {
            None if seen.counter == 0 => TakenHow::New,
            None => TakenHow::Unowned,
            Some(owner) if live && *owner != self.settings.worker => TakenHow::Stolen,
            Some(_) => TakenHow::Expired,
        }
    }

    // --- renewing ---

    /// Renews each lease when a third of the failover time has passed since its last write, whatever that write
    /// was. Never waits for anything but renews.
    async fn keep_renewing(&self, stop: &CancellationToken) {
        let interval = (self.settings.failover / 3).saturating_sub(EPSILON);
        let mut trouble = Trouble::new("renewing leases");
        let mut running = FuturesUnordered::new();
        let mut busy: BTreeSet<LeaseKey> = BTreeSet::new();
        let mut not_before: BTreeMap<LeaseKey, Instant> = BTreeMap::new();
        loop {
            let now = Instant::now();
            let mut wake = now + interval;
            for lease in self.held() {
                if !lease.is_valid(now) {
                    not_before.remove(lease.key());
                    if self.drop_held(&lease) {
                        tracing::warn!(lease = %lease.key(), "lease lost");
                    }
                    continue;
                }
                wake = wake.min(lease.valid_until());
                if busy.contains(lease.key()) {
                    continue;
                }
                let due = lease.last_write() + interval;
                let due = not_before.get(lease.key()).map_or(due, |earliest| due.max(*earliest));
                if due > now {
                    wake = wake.min(due);
                } else if running.len() < CONCURRENCY {
                    busy.insert(lease.key().clone());
                    running.push(async move {
                        let result = lease.write(LeaseWrite::Renew).await;
                        let outcome = match &result {
                            Ok(_) => WriteOutcome::Done,
                            Err(LeaseWriteError::Lost) => WriteOutcome::NotHeld,
                            Err(LeaseWriteError::Unavailable(_)) => WriteOutcome::Unavailable,
                        };
                        metrics::lease_renewed(outcome, now.elapsed());
                        (result, lease)
                    });
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((result, lease)) = running.next(), if !running.is_empty() => {
                    busy.remove(lease.key());
                    not_before.remove(lease.key());
                    match result {
                        Ok(_) => trouble.over(),
                        Err(LeaseWriteError::Lost) => {} // looked at above
                        Err(error) => {
                            trouble.failed(&error);
                            not_before.insert(lease.key().clone(), Instant::now() + interval / 8);
                        }
                    }
                }
                () = sleep_until(wake) => {}
                () = self.held_changed.notified() => {}
            }
        }
    }

    /// Removes this very lease from the held ones, if it is one; a later acquisition of the same key stays.
    fn drop_held(&self, lease: &HeldLease) -> bool {
        lease.lose();
        let mut state = self.state();
        let held = state.held.get(lease.key()).is_some_and(|held| std::ptr::eq(Arc::as_ptr(held), lease));
        if held {
            state.held.remove(lease.key());
        }
        held
    }

    // --- shards and leases in step ---

    /// Compares stream and table now and then. One worker does it for all (the smallest id among the live
    /// owners); should two believe it is them, every write is conditional. An empty table is everybody's.
    async fn keep_in_step(&self, stop_taking: &CancellationToken, stop: &CancellationToken) {
        let mut trouble = Trouble::new("comparing the shards of the stream with the leases");
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = self.first_scan.cancelled() => {}
        }
        loop {
            let wait = if stop_taking.is_cancelled() || !self.is_my_sync() {
                self.jittered(self.settings.shard_sync_interval)
            } else {
                match self.shards.sync().await {
                    Ok(()) => {
                        trouble.over();
                        self.jittered(self.settings.shard_sync_interval)
                    }
                    Err(error) => {
                        trouble.failed(&error);
                        trouble.backoff(self.settings.scan_interval)
                    }
                }
            };
            if !pause(wait, stop).await {
                return;
            }
        }
    }

    fn is_my_sync(&self) -> bool {
        let state = self.state();
        let me = &self.settings.worker;
        let smallest = state.view.live_owners(Instant::now()).into_iter().next();
        state.view.rows().next().is_none() || smallest.is_none_or(|smallest| smallest == me)
    }

    /// `interval` ± 10 %, so that workers started together do not stay in step.
    fn jittered(&self, interval: Duration) -> Duration {
        interval.mul_f64(self.state().rng.random_range(0.9..1.1))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time between scans of a table with this many rows.
fn scan_interval(wanted: Duration, rows: usize) -> Duration {
    let rows_per_second = u32::try_from(SCAN_ROWS_PER_SECOND).unwrap_or(u32::MAX);
    let affordable = Duration::from_secs(rows as u64) / rows_per_second;
    wanted.max(affordable)
}

/// Bounds a call that nobody else bounds.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, TableError>>,
) -> Result<T, TableError> {
    timeout(limit, call).await.unwrap_or_else(|late| Err(TableError::Unavailable(late.into())))
}

/// Sleeps; false when it is time to stop instead.
async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = sleep(time) => true,
    }
}

/// Repeated failures of one activity: logged when they begin and when they are over, waited out longer and
/// longer.
struct Trouble {
    activity: &'static str,
    failures: u32,
}

impl Trouble {
    fn new(activity: &'static str) -> Self {
        Self { activity, failures: 0 }
    }

    fn failed(&mut self, error: &dyn std::error::Error) {
        if self.failures == 0 {
            tracing::warn!(activity = self.activity, error = %chain(error), "failed, trying again");
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn over(&mut self) {
        if self.failures > 0 {
            tracing::info!(activity = self.activity, failures = self.failures, "works again");
        }
        self.failures = 0;
    }

    fn backoff(&self, first: Duration) -> Duration {
        first.saturating_mul(1 << self.failures.saturating_sub(1).min(5)).min(BACKOFF_MAX.max(first))
    }
}
