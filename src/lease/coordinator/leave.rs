//! Leaving: each lease goes to the worker that is to have it, so that it is read on within a moment.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lead::fleet;
use super::{Coordinator, within};
use crate::cause::chain;
use crate::lease::held::{HeldLease, LeaseWriteError};
use crate::lease::plan::successors;
use crate::lease::row::WorkerId;
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

impl Coordinator {
    /// Hands a lease back in the table: ends its hand-off, or gives it to the worker that should have it next, or to
    /// nobody if there is none; then the leader assigns it. False when it could not be given back: it expires.
    pub async fn release(&self, lease: &HeldLease) -> bool {
        let mut released = false;
        for attempt in 1.. {
            let row = lease.row();
            let write = if row.checkpoint_owner.is_some() || row.finished() {
                LeaseWrite::Evict
            } else {
                self.successor(lease).await.map_or(LeaseWrite::Evict, LeaseWrite::Assign)
            };
            match lease.write(write).await {
                Ok(row) => {
                    let to = row.owner.as_ref().map_or("nobody", WorkerId::as_str);
                    tracing::info!(lease = %lease.key(), to, "lease released");
                    metrics::lease_released();
                    self.note(row);
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
                    tracing::warn!(lease = %lease.key(), error = %chain(&error), "lease not released, it will expire");
                    break;
                }
            }
        }
        self.drop_held(lease);
        released
    }

    /// Who should have this lease next, by a look at the table that is not old.
    async fn successor(&self, lease: &HeldLease) -> Option<WorkerId> {
        let _one_look_for_all = self.deciding.lock().await;
        let fresh = |at: Instant| at.elapsed() < DECISION_AGE_MAX;
        if !self.state().successors.as_ref().is_some_and(|(at, _)| fresh(*at)) {
            self.decide_successors().await;
        }
        self.state().successors.as_ref().and_then(|(_, successors)| successors.get(lease.key()).cloned())
    }

    /// Looks at the table once and decides who gets which of our leases.
    async fn decide_successors(&self) {
        match within(LOOK_TIMEOUT, self.look()).await {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "leases are released to nobody: the table cannot be read");
            }
        }
        let now = Instant::now();
        let mut state = self.state();
        let me = &self.settings.worker;
        let mut fleet = fleet(&state.view, now, (self.settings.wall_clock)(), self.ours.get());
        fleet.workers.retain(|worker| worker.id != *me);
        let moves = successors(&fleet, me, self.started, &self.settings.rules);
        state.successors = Some((now, moves.into_iter().map(|change| (change.lease, change.to)).collect()));
    }
}
