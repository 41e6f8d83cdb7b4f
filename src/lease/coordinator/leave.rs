//! Leaving: each lease goes to the worker that is to have it, so that it is read on within a moment.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::lead::fleet;
use super::{CONCURRENCY, Coordinator, within};
use crate::cause::chain;
use crate::lease::held::{HeldLease, LeaseWriteError};
use crate::lease::key::LeaseKey;
use crate::lease::plan::successors;
use crate::lease::row::{Lease, WorkerId};
use crate::lease::table::{TableError, WriteError};
use crate::lease::write::LeaseWrite;
use crate::telemetry::metrics;

/// What a worker gives back is tried so often,
pub(super) const ATTEMPTS: usize = 3;
/// with this pause.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// A decision about successors is used for so long: they may leave as well.
const DECISION_AGE_MAX: Duration = Duration::from_secs(2);
/// A worker that leaves waits no longer for a look at the table.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the table still has in the name of a worker that leaves.
#[derive(Debug, Default)]
pub struct Rest {
    /// Leases whose rows name it.
    pub leases: Vec<LeaseKey>,
    /// One of them is about to change: another worker hands it over, which may take [`super::HAND_OFF_TIMEOUT`], or it is
    /// just being given back.
    pub moving: bool,
}

/// How a row stands that names a worker that leaves.
pub(super) enum Standing {
    Back,
    Moving,
    Ours,
}

impl Coordinator {
    /// Hands a lease back in the table: ends its hand-off, or gives it to the worker that should have it next, or to
    /// nobody if there is none; then the leader assigns it. False when it could not be given back: it expires.
    pub async fn release(&self, lease: &HeldLease) -> bool {
        let mut released = false;
        for attempt in 1.. {
            let row = lease.row();
            match lease.write(self.way_back(&row).await).await {
                Ok(row) => {
                    self.note_released(row);
                    released = true;
                    break;
                }
                // Its row is deleted: nobody needs it any more.
                Err(LeaseWriteError::Lost) if row.finished() => {
                    released = true;
                    break;
                }
                Err(LeaseWriteError::Unavailable(_)) if attempt < ATTEMPTS => sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(
                        lease = %lease.key(), error = %chain(&error),
                        "could not release the lease; it will expire"
                    );
                    break;
                }
            }
        }
        self.drop_held(lease);
        released
    }

    /// After `leave` and [`Self::left`]: looks at the whole table once, and gives back what it has in the name of this worker
    /// that is not on its way back already: leases assigned at the last moment and never begun, and those whose release
    /// had no answer. Answers what stays; to be asked again.
    ///
    /// # Errors
    /// When the table cannot be read: then nobody knows.
    pub async fn give_back_rest(&self) -> Result<Rest, TableError> {
        let rows = match self.table.snapshot().await {
            Ok(table) => table.leases,
            // A table that is gone names nobody.
            Err(TableError::NotFound(_)) => return Ok(Rest::default()),
            Err(error) => return Err(error),
        };
        let ours = |row: &Lease| self.is_named_by(row).then(|| row.key.clone());
        let mut keys: BTreeSet<LeaseKey> = rows.iter().filter_map(ours).collect();
        // What was assigned here a moment ago may be newer than that.
        keys.extend(self.state().view.leases().filter_map(|seen| ours(&seen.lease)));
        let mut rest = Rest::default();
        let back = stream::iter(keys).map(|key| async move { (self.give_back(&key).await, key) });
        let mut back = std::pin::pin!(back.buffer_unordered(CONCURRENCY));
        while let Some((standing, key)) = back.next().await {
            match standing {
                Standing::Back => continue,
                Standing::Moving => rest.moving = true,
                Standing::Ours => {}
            }
            rest.leases.push(key);
        }
        rest.leases.sort_unstable();
        Ok(rest)
    }

    fn is_named_by(&self, row: &Lease) -> bool {
        let me = Some(&self.settings.worker);
        row.owner.as_ref() == me || row.checkpoint_owner.as_ref() == me
    }

    /// Gives back one lease that is not held. It need not be begun for that: the condition of the write proves that nobody
    /// has taken it.
    pub(super) async fn give_back(&self, key: &LeaseKey) -> Standing {
        if self.state().held.contains_key(key) {
            return Standing::Moving;
        }
        let limit = self.settings.failover / 3;
        let row = match within(limit, self.table.get(key)).await {
            Ok(Some(row)) if self.is_named_by(&row) => row,
            Ok(_) => return Standing::Back,
            Err(_) => return Standing::Ours,
        };
        if row.checkpoint_owner.is_some() && row.actual_owner() != Some(&self.settings.worker) {
            return Standing::Moving;
        }
        // One of another application, as the row itself says, is not for this worker to touch.
        if self.streams.check(&row).is_err() {
            return Standing::Ours;
        }
        let write = self.way_back(&row).await;
        match timeout(limit, self.table.write(&row, &write)).await {
            Ok(Ok(row)) => {
                self.note_released(row);
                Standing::Back
            }
            Ok(Err(WriteError::Conflict(_))) => Standing::Moving,
            Ok(Err(error)) => {
                tracing::debug!(lease = %key, error = %chain(&error), "could not release the lease");
                Standing::Ours
            }
            Err(_) => Standing::Ours,
        }
    }

    /// How a lease is given back: the end of its hand-off, or the worker that should have it next, or nobody.
    async fn way_back(&self, row: &Lease) -> LeaseWrite {
        if row.checkpoint_owner.is_some() || row.finished() {
            return LeaseWrite::Evict;
        }
        self.successor(&row.key).await.map_or(LeaseWrite::Evict, LeaseWrite::Assign)
    }

    fn note_released(&self, row: Lease) {
        let to = row.owner.as_ref().map_or("nobody", WorkerId::as_str);
        tracing::info!(lease = %row.key, to, "lease released");
        metrics::lease_released();
        self.note(row);
    }

    /// Who should have this lease next, by a look at the table that is not old.
    async fn successor(&self, lease: &LeaseKey) -> Option<WorkerId> {
        let _one_look_for_all = self.deciding.lock().await;
        let fresh = |at: Instant| at.elapsed() < DECISION_AGE_MAX;
        if !self.state().successors.as_ref().is_some_and(|(at, _)| fresh(*at)) {
            self.decide_successors().await;
        }
        self.state().successors.as_ref().and_then(|(_, successors)| successors.get(lease).cloned())
    }

    /// Looks at the table once and decides who gets which of our leases.
    async fn decide_successors(&self) {
        match within(LOOK_TIMEOUT, self.look()).await {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = %chain(&error),
                    "releasing leases without a successor: the lease table cannot be read"
                );
            }
        }
        let now = Instant::now();
        let mut state = self.state();
        let me = &self.settings.worker;
        let mut fleet =
            fleet(&state.view, now, (self.settings.wall_clock)(), |row| self.streams.check(row).is_ok());
        fleet.workers.retain(|worker| worker.id != *me);
        let moves = successors(&fleet, me, self.started, &self.settings.rules);
        state.successors = Some((now, moves.into_iter().map(|change| (change.lease, change.to)).collect()));
    }
}
