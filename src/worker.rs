//! One process: keeps leases and runs one consumer for each lease it holds.
//!
//! Owns: the tasks of the process's shards, and the order of a shutdown.
//! Does not own: which leases (`lease`), what a consumer does (`consumer`), when to stop (`shutdown`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::cause::chain;
use crate::consumer::{Shared, StopReason};
use crate::lease::coordinator::HAND_OFF_TIMEOUT;
use crate::lease::{HeldLease, LeaseKey, TableError};
use crate::shutdown::joined;
use crate::telemetry::metrics;

/// The part of the shutdown budget that is kept for releasing leases whose consumers did not finish.
const RELEASE_SLICE: Duration = Duration::from_secs(2);
/// So often, with pauses from the first to the second, the table is asked to take back what is left at the end.
const REST_TRIES: u32 = 3;
const REST_PAUSE: Duration = Duration::from_millis(200);
const REST_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often health and the lease gauge are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Everything read is in the lake and committed, every lease released.
    Clean,
    /// Something is left, and named in the log: batches that the next owner of a shard finishes, which repeats nothing and
    /// loses nothing, or leases that others take only when they expire.
    CutShort,
}

/// Works until `stop`, then drains within `budget`.
///
/// # Errors
/// When the lease table is not one to work with.
pub async fn run(
    shared: Arc<Shared>,
    stop: CancellationToken,
    budget: Duration,
) -> Result<Drain, TableError> {
    let finish = CancellationToken::new();
    let _finish_when_dropped = finish.clone().drop_guard();
    let (gained, mut new_leases) = mpsc::channel(64);
    let mut coordinating = JoinSet::new();
    coordinating.spawn(Arc::clone(&shared.coordinator).run(gained, stop.clone(), finish.clone()));

    let mut worker = Worker {
        shared,
        stop,
        consumers: JoinSet::new(),
        leases: HashMap::new(),
        releases: JoinSet::new(),
        unreleased: BTreeSet::new(),
        draining: false,
        left: BTreeMap::new(),
        unknown: false,
    };
    let beat = worker.shared.coordinator.pulse().begin("running consumers");
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => break,
            Some(ended) = coordinating.join_next() => {
                return match joined(ended).await {
                    Err(error) => Err(error),
                    Ok(()) => unreachable!("the coordinator runs until it is told to finish"),
                };
            }
            Some(done) = worker.consumers.join_next_with_id() => worker.done(done),
            Some(lease) = new_leases.recv() => worker.start(lease),
            _ = ticks.tick() => {
                beat.next(TICK);
                worker.tick();
            }
        }
    }
    // The budget bounds what comes now.
    drop(beat);

    worker.shared.status.set_draining();
    worker.draining = true;
    let end = Instant::now() + budget;
    // Begun while the stop was on its way. What is found from now on the coordinator gives back itself.
    new_leases.close();
    while let Some(lease) = new_leases.recv().await {
        worker.release(lease);
    }
    worker.drain(end - RELEASE_SLICE.min(budget)).await;
    // They have no consumer.
    for lease in worker.shared.coordinator.held().into_iter().filter(|lease| lease.row().finished()) {
        worker.release(lease);
    }
    // Whether they are back is for the table to say: see below.
    let _ = timeout_at(end, worker.released()).await;
    if timeout_at(end, worker.shared.coordinator.left()).await.is_err() {
        tracing::warn!(
            "could not delete this worker's metrics row or release the leader lock; both will expire"
        );
    }
    worker.give_back_rest(end).await;
    finish.cancel();
    while coordinating.join_next().await.is_some() {}
    for (shard, what) in &worker.left {
        tracing::warn!(%shard, left = what, "not drained");
    }
    Ok(if worker.left.is_empty() && !worker.unknown { Drain::Clean } else { Drain::CutShort })
}

struct Worker {
    shared: Arc<Shared>,
    stop: CancellationToken,
    consumers: JoinSet<StopReason>,
    leases: HashMap<Id, Arc<HeldLease>>,
    /// Leases on their way back, each for itself: a call that hangs must not hold up the others.
    releases: JoinSet<(LeaseKey, bool)>,
    /// Those that the table did not confirm.
    unreleased: BTreeSet<LeaseKey>,
    draining: bool,
    /// What the drain leaves to others, by shard.
    left: BTreeMap<LeaseKey, &'static str>,
    /// Nobody could say whether leases are left.
    unknown: bool,
}

const LOST: &str = "the lease was lost during the drain; the next owner reads again what was not committed";
const PENDING: &str = "a batch is pending; the next owner of the shard completes it";
const OUT_OF_TIME: &str = "the shutdown budget is spent; the next owner reads again what was not committed";
const NOT_RELEASED: &str = "could not release the lease; another worker gets it when it has expired";

impl Worker {
    fn start(&mut self, lease: Arc<HeldLease>) {
        let task = self.consumers.spawn(consume(
            Arc::clone(&self.shared),
            Arc::clone(&lease),
            self.stop.child_token(),
        ));
        self.leases.insert(task.id(), lease);
        metrics::leases_held(self.leases.len());
    }

    fn done(&mut self, done: Result<(Id, StopReason), tokio::task::JoinError>) {
        let (id, reason) = match done {
            Ok(done) => done,
            // Only at the end of a drain that was cut short; see there.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Some(lease) = self.leases.remove(&id) else { return };
        metrics::leases_held(self.leases.len());
        match reason {
            StopReason::ShutdownRequested => {
                if self.draining && lease.row().pending.is_some() {
                    self.leave(lease.key(), PENDING);
                }
                self.release(lease);
            }
            StopReason::ShardEnd => {
                // Kept and renewed until it can be deleted: a leader of another kind would assign it again.
                tracing::info!(shard = %lease.key(), "shard read to its end");
            }
            StopReason::LeaseLost => {
                self.shared.coordinator.forget(&lease);
                if self.draining {
                    self.leave(lease.key(), LOST);
                }
            }
        }
    }

    fn release(&mut self, lease: Arc<HeldLease>) {
        let coordinator = Arc::clone(&self.shared.coordinator);
        self.releases.spawn(async move {
            let released = coordinator.release(&lease).await;
            (lease.key().clone(), released)
        });
    }

    async fn released(&mut self) {
        while let Some(done) = self.releases.join_next().await {
            let (lease, released) = joined(done).await;
            if !released {
                self.unreleased.insert(lease);
            }
        }
    }

    /// Gives back what the table has in the name of this worker after all, and notes what stays: a release without an
    /// answer may have come to pass, and a lease that was assigned at the last moment was never held.
    async fn give_back_rest(&mut self, end: Instant) {
        let coordinator = Arc::clone(&self.shared.coordinator);
        let mut left: BTreeSet<LeaseKey> = BTreeSet::new();
        let mut problem = "no response within the shutdown budget".to_owned();
        let mut known = false;
        let mut pause = REST_PAUSE;
        for tries in 1.. {
            match timeout_at(end, coordinator.give_back_rest()).await {
                Ok(Ok(rest)) if rest.leases.is_empty() => return,
                Ok(Ok(rest)) => {
                    (known, left) = (true, rest.leases.into_iter().collect());
                    if tries >= REST_TRIES && !rest.moving {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    problem = chain(&error);
                    if tries >= REST_TRIES {
                        break;
                    }
                }
                Err(_) => break,
            }
            if Instant::now() + pause >= end {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(REST_PAUSE_MAX);
        }
        if !known {
            self.unknown = true;
            tracing::warn!(
                error = problem,
                "the lease table could not be read: this worker may still own leases; other workers get them \
                 when they have expired"
            );
            left.append(&mut self.unreleased);
            left.extend(coordinator.held().iter().map(|lease| lease.key().clone()));
        }
        for lease in &left {
            self.leave(lease, NOT_RELEASED);
        }
    }

    /// The first thing that is left of a shard explains the others.
    fn leave(&mut self, shard: &LeaseKey, what: &'static str) {
        self.left.entry(shard.clone()).or_insert(what);
    }

    fn tick(&self) {
        let coordinator = &self.shared.coordinator;
        if coordinator.has_looked() {
            self.shared.status.set_working();
        }
        self.shared.status.set_table_lost(coordinator.table_lost());
    }

    /// Waits for the consumers, which drain by themselves, and hands back each lease as its consumer ends, or at the
    /// deadline.
    async fn drain(&mut self, deadline: Instant) {
        while !self.consumers.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.consumers.join_next_with_id() => self.done(done),
                () = sleep_until(deadline) => {
                    tracing::warn!(shards = self.leases.len(), "shutdown budget spent; unfinished batches stay pending");
                    self.consumers.abort_all();
                    let mut leases: Vec<_> = std::mem::take(&mut self.leases).into_values().collect();
                    leases.sort_unstable_by(|a, b| a.key().cmp(b.key()));
                    for lease in leases {
                        self.leave(lease.key(), OUT_OF_TIME);
                        self.release(lease);
                    }
                    return;
                }
            }
        }
    }
}

/// Runs the consumer of one shard; when the leader gives the lease to another worker, to a clean stop, but not for
/// longer than a hand-off may take. What is unfinished then is brought to its end by the next owner.
async fn consume(shared: Arc<Shared>, lease: Arc<HeldLease>, stop: CancellationToken) -> StopReason {
    let Some(stream) = shared.stream_of(lease.key()) else { return StopReason::ShutdownRequested };
    let removed = stream.removed.clone();
    let work = Arc::clone(&stream.work);
    let mut consumer = std::pin::pin!(work.run(shared, stream, Arc::clone(&lease), stop.clone()));
    let why = tokio::select! {
        biased;
        reason = &mut consumer => return reason,
        () = lease.handed_over().cancelled() => "the lease is to be handed over",
        () = removed.cancelled() => "the stream is not read any more",
    };
    stop.cancel();
    tracing::info!(shard = %lease.key(), why, "finishing");
    timeout(HAND_OFF_TIMEOUT, consumer).await.unwrap_or_else(|_| {
        tracing::warn!(shard = %lease.key(), "not finished in time; the batch stays pending for the next owner");
        StopReason::ShutdownRequested
    })
}
