//! What one worker has seen of the fleet: whose leases are alive, which workers are.
//!
//! Owns: timing of counters as an observer. A lease or a worker is judged by changes of its row on the observer's own
//! monotonic clock; no wall clock of another host decides.
//! Does not own: reading the table (`coordinator`), what follows from it (`plan`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::{OddRow, TableSnapshot, WorkerRow};
use super::row::{Lease, LeaseKey, WorkerId};
use crate::shard::graph::ready;

/// A worker whose row has not changed for this long gets no leases (`WorkerUtilizationAwareAssignmentConfig`: twice
/// the reporting interval).
pub const ACTIVE_WINDOW: Duration = Duration::from_secs(60);

/// The lease table as one observer saw it, with the time since when each row has not moved.
#[derive(Clone, Debug)]
pub struct FleetView {
    failover: Duration,
    watching_since: Option<Instant>,
    leases: BTreeMap<LeaseKey, Seen>,
    workers: BTreeMap<WorkerId, SeenWorker>,
    odd: Vec<OddRow>,
    /// When a lease of this worker was last found expired.
    lapsed: BTreeMap<WorkerId, Instant>,
}

/// One lease, and since when its counter stands still.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The row as last read.
    pub lease: Lease,
    /// The end of the read that first showed this counter.
    pub since: Instant,
    /// The end of the read that first showed this hand-off, during one.
    pub handing_off_since: Option<Instant>,
    /// The worker that may renew was seen to get the lease, and not to write since.
    pub given: bool,
    /// The worker that may renew was seen to do so, or to write otherwise.
    pub heard: bool,
}

/// One worker, and since when its row stands still.
#[derive(Clone, Debug)]
pub struct SeenWorker {
    /// The row as last read.
    pub row: WorkerRow,
    /// The end of the read that first showed this row.
    pub since: Instant,
    /// It was seen to change, so somebody writes it.
    pub moved: bool,
}

impl FleetView {
    /// A view of nothing yet. A lease counts as expired when its counter stands still for `failover`.
    pub fn new(failover: Duration) -> Self {
        let (leases, workers, odd, lapsed) = Default::default();
        Self { failover, watching_since: None, leases, workers, odd, lapsed }
    }

    /// The time after which a lease counts as expired.
    pub fn failover(&self) -> Duration {
        self.failover
    }

    /// Takes in a whole scan. `returned` is the time after the read returned: a row may be older than that,
    /// never younger, so a live lease is never called expired too early.
    pub fn observe(&mut self, table: TableSnapshot, returned: Instant) {
        self.watching_since.get_or_insert(returned);
        let mut before = std::mem::take(&mut self.leases);
        for lease in table.leases {
            let seen = observed(before.remove(&lease.key), lease, returned);
            self.leases.insert(seen.lease.key.clone(), seen);
        }
        let mut before = std::mem::take(&mut self.workers);
        for row in table.workers {
            let seen = match before.remove(&row.id) {
                Some(seen) if seen.row.updated == row.updated => SeenWorker { row, ..seen },
                Some(_) => SeenWorker { row, since: returned, moved: true },
                None => SeenWorker { row, since: returned, moved: false },
            };
            self.workers.insert(seen.row.id.clone(), seen);
        }
        self.odd = table.odd;
        let expired = |seen: &&Seen| !seen.lease.finished() && !self.is_live(seen, returned);
        let silent =
            self.leases.values().filter(expired).filter_map(|seen| seen.lease.actual_owner().cloned());
        let silent: Vec<WorkerId> = silent.collect();
        self.lapsed.extend(silent.into_iter().map(|worker| (worker, returned)));
        self.lapsed.retain(|worker, _| self.workers.contains_key(worker));
    }

    /// Takes in one lease that was just written or read.
    pub fn note(&mut self, lease: Lease, returned: Instant) {
        let seen = observed(self.leases.remove(&lease.key), lease, returned);
        self.leases.insert(seen.lease.key.clone(), seen);
    }

    /// Forgets everything: what was seen is too old to time anything by.
    pub fn clear(&mut self) {
        self.watching_since = None;
        self.leases.clear();
        self.workers.clear();
        self.odd.clear();
        self.lapsed.clear();
    }

    /// The end of the first scan. What stands still since then may have done so for longer.
    pub fn watching_since(&self) -> Option<Instant> {
        self.watching_since
    }

    /// Every known lease, in order of its key.
    pub fn leases(&self) -> impl Iterator<Item = &Seen> {
        self.leases.values()
    }

    /// The lease with this key.
    pub fn get(&self, key: &LeaseKey) -> Option<&Seen> {
        self.leases.get(key)
    }

    /// True when the lease has an owner who still renews it, as far as one can tell.
    pub fn is_live(&self, seen: &Seen, now: Instant) -> bool {
        let Some(owner) = seen.lease.actual_owner() else { return false };
        // A Java worker looks for its leases once in a failover time and renews for the first time a third later. One
        // of ours does so within moments.
        let finds_at_once = |worker: &SeenWorker| worker.row.is_kinetide();
        let slow = seen.given && !self.workers.get(owner).is_some_and(finds_at_once);
        let limit = if slow { self.failover * 2 } else { self.failover };
        now.duration_since(seen.since) <= limit
    }

    /// True when the shard is not finished and may be read: each parent finished or gone.
    pub fn is_ready(&self, lease: &Lease) -> bool {
        let checkpoint_of = |parent: &LeaseKey| self.leases.get(parent).map(|seen| &seen.lease.checkpoint);
        !lease.finished() && ready(&lease.parents, checkpoint_of)
    }

    /// The workers that can be given leases: their row is fresh and usable, and was written after the last time that
    /// a lease of theirs was found expired. `wall_clock` is our own, in seconds since the epoch; it only vouches for
    /// rows not yet seen to change.
    pub fn active_workers(&self, now: Instant, wall_clock: u64) -> impl Iterator<Item = &WorkerRow> {
        let is_active = move |seen: &&SeenWorker| {
            let fresh = seen.moved || wall_clock.abs_diff(seen.row.updated) < ACTIVE_WINDOW.as_secs();
            let lapsed = self.lapsed.get(&seen.row.id).is_some_and(|lapsed| seen.since <= *lapsed);
            fresh && !lapsed && now.duration_since(seen.since) < ACTIVE_WINDOW && seen.row.usage().is_some()
        };
        self.workers.values().filter(is_active).map(|seen| &seen.row)
    }

    /// Rows of the last scan that were not understood.
    pub fn odd(&self) -> &[OddRow] {
        &self.odd
    }

    /// Every worker that has a row.
    pub fn workers(&self) -> impl Iterator<Item = &SeenWorker> {
        self.workers.values()
    }
}

fn observed(before: Option<Seen>, lease: Lease, returned: Instant) -> Seen {
    let owners = |lease: &Lease| (lease.owner.clone(), lease.checkpoint_owner.clone());
    let began = match &before {
        Some(seen) if owners(&seen.lease) == owners(&lease) => seen.handing_off_since.unwrap_or(returned),
        _ => returned,
    };
    let since = match &before {
        Some(seen) if seen.lease.counter == lease.counter => seen.since,
        _ => returned,
    };
    let (given, heard) = before.as_ref().map_or((false, false), |seen| {
        let moved = seen.lease.counter != lease.counter;
        if seen.lease.actual_owner() == lease.actual_owner() {
            (seen.given && !moved, seen.heard || moved)
        } else {
            (true, false)
        }
    });
    Seen { since, given, heard, handing_off_since: lease.checkpoint_owner.is_some().then_some(began), lease }
}
