//! Keeps this worker's part in the fleet: finds and renews its leases, hands them over, leads when elected.
//!
//! Owns: the loops and their pace, the set of held leases, what one worker knows of the others.
//! Does not own: what follows from it (`plan`, `leader`, `view`), what becomes of a write to a held lease (`held`),
//! which leases should exist (`sync`), reading a shard (the worker does, from [`Coordinator::run`]'s channel on).
//!
//! ```text
//! every worker:  report ─► discover ─► gained ─► renew, renew, … ─► release │ forget │ lost
//! the leader:    lock ─► look at the whole table ─► plan ─► assign │ hand off;  shards and leases in step
//! ```
//!
//! As in KCL 3.x nobody takes a lease by himself: the leader writes the owner, the owner finds the row by the index.
//!
//! What it costs in DynamoDB (on demand, us-east-1, $0.125 per million read and $0.625 per million write units):
//! see `docs/PERFORMANCE.md`.

mod discover;
mod lead;
mod leave;
mod lock;
mod renew;
mod report;
mod tell;

pub use lead::{HAND_OFF_TIMEOUT, SCAN_ROWS_PER_SECOND};
pub use leave::Rest;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fleet::{LeaderRow, PENDING_FORMAT_OF_ALL};
use super::held::HeldLease;
use super::key::LeaseKey;
use super::leader::LeaderWatch;
use super::plan::Rules;
use super::row::{Lease, WorkerId};
use super::stream_set::{StreamLeases, StreamSet};
use super::streams::Streams;
use super::sync::{SyncError, parents_finished};
use super::table::{LeaseTable, TableError};
use super::view::FleetView;
use super::watched::{self, Watched};
use super::whose::NotOurs;
use crate::shard::audit::AGREED_AFTER;
use crate::shard::graph::Inconsistent;
use crate::shard::{ChildShard, StreamId};
use crate::telemetry::metrics;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::trouble::Troubles;

/// Calls to the table at the same time, per loop. KCL renews with as many threads.
const CONCURRENCY: usize = 20;
/// The leader's lock is free after this share of the failover time: the next leader needs the rest, and a little more,
/// to see whose leases stand still. KCL's own lock lasts two minutes.
const LEADER_SHARE: u32 = 2;
/// The longest pause between tries while the table or the stream is out of reach.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Tells the share of its processors that this process used since the last call, in percent; `None` where that cannot
/// be measured.
pub type CpuMeter = Arc<dyn Fn() -> Option<f64> + Send + Sync>;
/// Tells the time of day, seconds since the epoch.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a coordinator works.
#[derive(Clone)]
pub struct CoordinatorSettings {
    /// Our id, unique per live process.
    pub worker: WorkerId,
    /// A lease whose counter stands still for this long is free for all. The same for all workers.
    pub failover: Duration,
    /// Time between two looks at the table: of a worker for its own leases, of the leader at everything (longer for
    /// large tables).
    pub scan_interval: Duration,
    /// Time between two comparisons of stream and table.
    pub shard_sync_interval: Duration,
    /// The most that one worker is given.
    pub rules: Rules,
    /// How busy this process is.
    pub cpu: CpuMeter,
    /// What stands in the rows about workers.
    pub wall_clock: WallClock,
    /// Seed of all random choices.
    pub seed: u64,
}

/// Takes part in a fleet for one worker.
pub struct Coordinator {
    settings: CoordinatorSettings,
    table: Arc<dyn LeaseTable>,
    streams: Streams,
    /// Seconds since the epoch.
    started: u64,
    state: Mutex<State>,
    /// Only one look at a time is taken to decide about successors.
    deciding: tokio::sync::Mutex<()>,
    held_changed: Notify,
    look_now: Notify,
    discover_now: Notify,
    report_now: Notify,
    /// What makes others count on this worker, or give it leases: its row, the leader's lock, its own work as the leader.
    presence: TaskTracker,
    /// Why this worker cannot take part any more.
    refused: OnceLock<NotOurs>,
    troubles: Arc<Troubles>,
    pulse: Arc<Pulse>,
    /// How many shards this worker reads by enhanced fan-out.
    fan_out: OnceLock<Count>,
}

/// Counts something, when asked.
type Count = Box<dyn Fn() -> usize + Send + Sync>;

struct State {
    view: FleetView,
    watch: LeaderWatch,
    held: BTreeMap<LeaseKey, Arc<HeldLease>>,
    /// Who gets which lease when we leave, and when that was decided.
    successors: Option<(Instant, BTreeMap<LeaseKey, WorkerId>)>,
    rng: ChaCha8Rng,
    last_look: Option<Instant>,
    /// The table does not exist any more.
    table_lost: bool,
    /// What was found at the last look as the leader.
    told: Option<tell::Told>,
    collisions: Collisions,
}

/// Other processes that use our worker id.
#[derive(Default)]
struct Collisions {
    count: u64,
    last: Option<Instant>,
    logged: Option<Instant>,
}

impl Coordinator {
    /// A coordinator that has not looked at anything yet.
    pub fn new(settings: CoordinatorSettings, table: Arc<dyn LeaseTable>, streams: StreamSet) -> Arc<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let lot = rng.random();
        let state = State {
            view: FleetView::new(settings.failover),
            watch: LeaderWatch::new(settings.worker.clone(), settings.failover / LEADER_SHARE, lot),
            held: BTreeMap::new(),
            successors: None,
            rng,
            last_look: None,
            table_lost: false,
            told: None,
            collisions: Collisions::default(),
        };
        let seldom = settings.shard_sync_interval.max(settings.scan_interval);
        let troubles = watched::troubles(settings.failover, seldom);
        let table: Arc<dyn LeaseTable> = Watched::new(table, &troubles);
        let interval = settings.shard_sync_interval;
        let streams = Streams::new(streams, Arc::clone(&table), Arc::clone(&troubles), interval);
        Arc::new(Self {
            started: (settings.wall_clock)(),
            settings,
            table,
            streams,
            state: Mutex::new(state),
            deciding: tokio::sync::Mutex::default(),
            held_changed: Notify::new(),
            look_now: Notify::new(),
            discover_now: Notify::new(),
            report_now: Notify::new(),
            presence: TaskTracker::new(),
            refused: OnceLock::new(),
            troubles,
            pulse: Arc::default(),
            fan_out: OnceLock::new(),
        })
    }

    /// The worker's row tells how many shards it reads by enhanced fan-out. Only the first source counts.
    pub fn tells_fan_out(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        self.fan_out.get_or_init(|| Box::new(count));
    }

    /// Takes part until `finish`, or until nobody receives `gained` any more. Each lease is sent once, proven ours by
    /// a write; the receiver watches [`HeldLease::lost`] and [`HeldLease::handed_over`].
    ///
    /// After `leave` the worker is given no more leases and does not lead; the held ones are still renewed, until they
    /// are released. Fails at the start when the table is not one to work with, and whenever leases turn out to be of another
    /// stream; other trouble is logged and waited out.
    pub async fn run(
        self: Arc<Self>,
        gained: mpsc::Sender<Arc<HeldLease>>,
        leave: CancellationToken,
        finish: CancellationToken,
    ) -> Result<(), TableError> {
        let stop = finish.child_token();
        tokio::select! {
            biased;
            // Not after the call that a loop waits for: it may hang.
            () = stop.cancelled() => self.refused.get().cloned().map_or(Ok(()), |not_ours| Err(not_ours.into())),
            ended = self.work(&gained, &leave, &stop) => ended,
        }
    }

    async fn work(
        &self,
        gained: &mpsc::Sender<Arc<HeldLease>>,
        leave: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), TableError> {
        let mut trouble = Backoff::default();
        loop {
            match self.table.ensure_exists().await {
                Ok(()) => break,
                Err(error @ TableError::Unusable { .. }) => return Err(error),
                Err(_) => sleep(trouble.failed(self.settings.scan_interval)).await,
            }
        }
        self.prove().await?;
        tokio::join!(
            self.keep_renewing(stop),
            self.keep_discovering(gained, leave, stop),
            self.presence.track_future(self.keep_reporting(leave, stop)),
            self.presence.track_future(self.keep_the_lock(leave, stop)),
            self.presence.track_future(self.keep_leading(leave, stop)),
            self.keep_in_step(leave, stop),
        );
        Ok(())
    }

    /// Looks whose leases these are, until that is known.
    async fn prove(&self) -> Result<(), TableError> {
        let mut trouble = Backoff::default();
        let mut doubt_since = None;
        loop {
            let proven = timeout(BACKOFF_MAX * 6, self.streams.prove()).await;
            match proven.unwrap_or_else(|late| Err(TableError::Unavailable(late.into()).into())) {
                Ok(()) => return Ok(()),
                Err(SyncError::NotOurs(not_ours)) => return Err(not_ours.into()),
                Err(SyncError::Listing(Inconsistent::Behind { lease }))
                    if doubt_since.get_or_insert_with(Instant::now).elapsed() >= AGREED_AFTER =>
                {
                    return Err(NotOurs::Unlike { lease: lease.into() }.into());
                }
                Err(_) => sleep(trouble.failed(self.settings.scan_interval)).await,
            }
        }
    }

    /// From now on these are the streams of an application of several. Leases of streams that are gone are given back by
    /// whoever holds them, and assigned only to workers that still read them; their rows stay.
    pub fn set_streams(&self, streams: Vec<StreamLeases>) {
        self.streams.set(streams);
        self.report_now.notify_one();
    }

    /// After `leave`: returns when nobody counts on this worker any more, since its row is deleted, the leader's lock given
    /// back, and what it assigned as the leader answered; or since that failed. At once when it never took part.
    pub async fn left(&self) {
        self.presence.close();
        self.presence.wait().await;
    }

    /// Drops a lease that is lost without a write.
    pub fn forget(&self, lease: &HeldLease) {
        if self.drop_lost(lease) {
            self.note(lease.row());
        }
    }

    /// Drops a lease that is not valid any more, once; false when it is dropped already.
    fn drop_lost(&self, lease: &HeldLease) -> bool {
        let row = lease.row();
        if !self.drop_held(lease) {
            return false;
        }
        if row.finished() {
            tracing::debug!(lease = %lease.key(), "finished lease deleted");
        } else if row.actual_owner() == Some(&self.settings.worker) {
            // Else it was given away by a write of ours.
            tracing::warn!(lease = %lease.key(), "lease lost");
            metrics::lease_lost();
            self.report_now.notify_one();
        }
        true
    }

    /// The calls of this coordinator that fail.
    pub fn troubles(&self) -> Arc<Troubles> {
        Arc::clone(&self.troubles)
    }

    /// Whether the loops of this coordinator go round.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Creates the leases of a closed shard's children and records them on the parent's row. Comes before
    /// SHARD_END is checkpointed; may be repeated.
    ///
    /// Children start at TRIM_HORIZON; at the time that the parent started at, when it never got past that. A merged child
    /// waits until the leases of both parents exist.
    pub async fn create_children(
        &self,
        parent: &HeldLease,
        children: &[ChildShard],
    ) -> Result<(), SyncError> {
        let Some(stream) = self.streams.of(parent.key()) else {
            return Err(SyncError::NotOurs(self.not_among(parent.key())));
        };
        let created = stream.create_children(parent, children).await;
        // They are assigned a moment sooner.
        self.look_now.notify_one();
        created
    }

    /// True when the shard of `lease` may be read: each parent's lease is finished or gone, read consistently.
    pub async fn parents_finished(&self, lease: &Lease) -> Result<bool, TableError> {
        parents_finished(self.table.as_ref(), lease).await
    }

    /// How people name the stream of this lease; `None` where it is none of ours, or not known yet.
    pub fn stream_of(&self, lease: &LeaseKey) -> Option<Arc<str>> {
        self.streams.of(lease).map(|stream| stream.name())
    }

    fn not_among(&self, lease: &LeaseKey) -> NotOurs {
        let of = lease.stream().cloned().unwrap_or_else(|| StreamId::named(""));
        NotOurs::NotAmong { lease: lease.clone(), of }
    }

    /// The leases held now, finished ones included.
    pub fn held(&self) -> Vec<Arc<HeldLease>> {
        self.state().held.values().cloned().collect()
    }

    /// True when the lease table has told this worker at least once which leases are its own.
    pub fn has_looked(&self) -> bool {
        self.state().last_look.is_some()
    }

    /// True while the lease table does not exist any more. No worker can hold a lease then.
    pub fn table_lost(&self) -> bool {
        self.state().table_lost
    }

    /// Tells of a table that was deleted while workers use it, and of its return. It is not made again here: without its
    /// checkpoints every record that the stream still holds would be delivered a second time.
    fn tell_table(&self, answer: &Result<Vec<LeaseKey>, TableError>) {
        let lost = match answer {
            Ok(_) => false,
            Err(TableError::NotFound(_)) => true,
            Err(_) => return,
        };
        let mut state = self.state();
        state.last_look = Some(Instant::now());
        if std::mem::replace(&mut state.table_lost, lost) == lost {
            return;
        }
        drop(state);
        metrics::lease_table_lost(lost);
        match answer {
            Ok(_) => tracing::info!("the lease table exists again"),
            Err(error) => tracing::error!(
                %error,
                "the lease table was deleted: all leases and checkpoints are lost, and nothing is read. Stop \
                 all workers; then restore the table from a backup under this name, or start with another \
                 --application. This process does not create it again, because records would be delivered \
                 twice; a worker that starts now would"
            ),
        }
    }

    /// Who leads, as far as this worker knows.
    pub fn leader(&self) -> Option<LeaderRow> {
        self.state().watch.leader().cloned()
    }

    /// The newest format of a pending batch that every worker of the fleet reads, as the leader says.
    pub fn pending_format(&self) -> u64 {
        self.state().watch.leader().map_or(PENDING_FORMAT_OF_ALL, |row| row.pending_format)
    }

    /// True while this worker leads.
    pub fn is_leader(&self) -> bool {
        self.state().watch.leading(Instant::now()).is_some()
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

    /// Takes in a row that was just written, unless something newer is known.
    fn note(&self, row: Lease) {
        let mut state = self.state();
        if state.view.get(&row.key).is_some_and(|seen| seen.lease.counter <= row.counter) {
            state.view.note(row, Instant::now());
        }
    }

    /// `interval` ± 10 %, so that workers started together do not stay in step.
    fn jittered(&self, interval: Duration) -> Duration {
        interval.mul_f64(self.state().rng.random_range(0.9..1.1))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bounds a call that nobody else bounds.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, TableError>>,
) -> Result<T, TableError> {
    timeout(limit, call).await.unwrap_or_else(|late| Err(TableError::Unavailable(late.into())))
}

/// Sleeps, or until woken; false when it is time to stop instead.
async fn pause(time: Duration, woken: &Notify, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = woken.notified() => true,
        () = sleep(time) => true,
    }
}

/// Repeated failures of one activity, waited out longer and longer. What fails and why is noted where the calls are made.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    fn failed(&mut self, first: Duration) -> Duration {
        let pause = first.saturating_mul(1 << self.failures.min(5)).min(BACKOFF_MAX.max(first));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn over(&mut self) {
        self.failures = 0;
    }
}
