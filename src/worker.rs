//! One process: keeps leases and runs one consumer for each lease it holds.
//!
//! Owns: the tasks of the process's shards, and the order of a shutdown.
//! Does not own: which leases (`lease`), what a consumer does (`consumer`), when to stop (`shutdown`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::consumer::{self, Shared, StopReason};
use crate::lease::{HeldLease, TableError};
use crate::shutdown::joined;
use crate::telemetry::metrics;

/// The part of the shutdown budget that is kept for releasing leases whose consumers did not finish.
const RELEASE_SLICE: Duration = Duration::from_secs(2);
/// How often health and the lease gauge are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Everything read is in the lake and committed, every lease released.
    Clean,
    /// Time ran out; unfinished batches are left to the next owner, which repeats nothing and loses nothing.
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

    let mut worker =
        Worker { shared, stop, consumers: JoinSet::new(), leases: HashMap::new(), last_scan: None };
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
            Some(done) = worker.consumers.join_next_with_id() => worker.done(done).await,
            Some(lease) = new_leases.recv() => worker.start(lease),
            _ = ticks.tick() => worker.tick(),
        }
    }

    worker.shared.status.set_draining();
    let drain = worker.drain(Instant::now() + budget.saturating_sub(RELEASE_SLICE)).await;
    // Taken while the stop was on its way.
    new_leases.close();
    while let Some(lease) = new_leases.recv().await {
        worker.shared.coordinator.release(&lease).await;
    }
    finish.cancel();
    while coordinating.join_next().await.is_some() {}
    Ok(drain)
}

struct Worker {
    shared: Arc<Shared>,
    stop: CancellationToken,
    consumers: JoinSet<StopReason>,
    leases: HashMap<Id, Arc<HeldLease>>,
    last_scan: Option<Instant>,
}

impl Worker {
    fn start(&mut self, lease: Arc<HeldLease>) {
        let consumer = consumer::run(Arc::clone(&self.shared), Arc::clone(&lease), self.stop.child_token());
        let task = self.consumers.spawn(consumer);
        self.leases.insert(task.id(), lease);
        metrics::leases_held(self.leases.len());
    }

    async fn done(&mut self, done: Result<(Id, StopReason), tokio::task::JoinError>) {
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
                self.shared.coordinator.release(&lease).await;
                metrics::lease_released();
            }
            StopReason::ShardEnd => {
                tracing::info!(shard = %lease.key(), "shard read to its end");
                self.shared.coordinator.forget(lease.key());
            }
            StopReason::LeaseLost => {
                tracing::warn!(shard = %lease.key(), "lease lost");
                metrics::lease_lost();
                self.shared.coordinator.forget(lease.key());
            }
        }
    }

    fn tick(&mut self) {
        let last_scan = self.shared.coordinator.last_scan();
        if last_scan != self.last_scan {
            self.last_scan = last_scan;
            self.shared.status.set_ready();
            self.shared.status.progressed();
        }
    }

    /// Waits for the consumers, which drain by themselves, and hands back each lease as its consumer ends.
    async fn drain(&mut self, deadline: Instant) -> Drain {
        while !self.consumers.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.consumers.join_next_with_id() => self.done(done).await,
                () = sleep_until(deadline) => {
                    tracing::warn!(shards = self.leases.len(), "shutdown budget spent; unfinished batches stay pending");
                    self.consumers.abort_all();
                    for lease in std::mem::take(&mut self.leases).into_values() {
                        self.shared.coordinator.release(&lease).await;
                    }
                    return Drain::CutShort;
                }
            }
        }
        Drain::Clean
    }
}
