//! Renewing: the heartbeat of each held lease.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{CONCURRENCY, Coordinator};
use crate::cause::chain;
use crate::lease::held::{HeldLease, LeaseWriteError};
use crate::lease::key::LeaseKey;
use crate::lease::write::LeaseWrite;
use crate::telemetry::metrics::{self, WriteOutcome};

/// A renew comes this much before the third of the failover time, as in KCL.
const EPSILON: Duration = Duration::from_millis(25);
/// Renewals at the same time when they are late: with as many as otherwise a slow table would let leases run out.
const CONCURRENCY_LATE: usize = 5 * CONCURRENCY;
/// Leases that are due within this share of the renew interval are renewed together, so that a worker with many does not
/// look at all of them for each.
const TOGETHER_SHARE: u32 = 20;

/// Which leases to renew, and when to look again.
struct Due {
    /// The one closest to its end first.
    leases: VecDeque<Arc<HeldLease>>,
    wake: Instant,
    late: bool,
}

impl Coordinator {
    /// Renews each lease when a third of the failover time has passed since its last write, whatever that write
    /// was; now and then in any case, for only a renew tells the shard's throughput. Never waits for anything but
    /// renews.
    pub(super) async fn keep_renewing(&self, stop: &CancellationToken) {
        let interval = (self.settings.failover / 3).saturating_sub(EPSILON);
        let beat = self.pulse.begin("renewing leases");
        let mut running = FuturesUnordered::new();
        let mut busy: BTreeSet<LeaseKey> = BTreeSet::new();
        let mut not_before: BTreeMap<LeaseKey, Instant> = BTreeMap::new();
        loop {
            let now = Instant::now();
            for lease in self.held().into_iter().filter(|lease| !lease.may_be_ours(now)) {
                not_before.remove(lease.key());
                self.drop_lost(&lease);
            }
            let mut due = self.due(now, interval, &busy, &not_before);
            beat.next(due.wake.saturating_duration_since(now));
            loop {
                let limit = if due.late { CONCURRENCY_LATE } else { CONCURRENCY };
                while running.len() < limit
                    && let Some(lease) = due.leases.pop_front()
                {
                    busy.insert(lease.key().clone());
                    running.push(renew(lease));
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    Some((result, lease)) = running.next(), if !running.is_empty() => {
                        busy.remove(lease.key());
                        not_before.remove(lease.key());
                        match result {
                            Ok(()) => {}
                            Err(LeaseWriteError::Lost) => break, // looked at above
                            Err(LeaseWriteError::Unavailable(_)) => {
                                let again = Instant::now() + interval / 8;
                                not_before.insert(lease.key().clone(), again);
                                due.wake = due.wake.min(again);
                            }
                        }
                    }
                    () = sleep_until(due.wake) => break,
                    () = self.held_changed.notified() => break,
                }
            }
        }
    }

    fn due(
        &self,
        now: Instant,
        interval: Duration,
        busy: &BTreeSet<LeaseKey>,
        not_before: &BTreeMap<LeaseKey, Instant>,
    ) -> Due {
        let together = now + interval / TOGETHER_SHARE;
        let (mut leases, mut wake) = (Vec::new(), now + interval);
        for lease in self.held() {
            wake = wake.min(lease.given_up_at());
            if busy.contains(lease.key()) {
                continue;
            }
            let due = lease.renew_due(interval);
            let due = not_before.get(lease.key()).map_or(due, |earliest| due.max(*earliest));
            if due <= together {
                leases.push((lease.last_write(), lease));
            } else {
                wake = wake.min(due);
            }
        }
        leases.sort_by_key(|(last_write, _)| *last_write);
        let late = leases.first().is_some_and(|(last_write, _)| *last_write + interval * 3 / 2 < now);
        let leases = leases.into_iter().map(|(_, lease)| lease).collect();
        // Not again and again within one batch.
        Due { leases, wake: wake.max(together), late }
    }
}

async fn renew(lease: Arc<HeldLease>) -> (Result<(), LeaseWriteError>, Arc<HeldLease>) {
    let started = Instant::now();
    let result = lease.renew().await.map(drop);
    if lease.has_settled()
        && let Err(error) = lease.write(LeaseWrite::Settle).await
    {
        tracing::debug!(lease = %lease.key(), error = %chain(&error), "not noted as settled");
    }
    let outcome = match &result {
        Ok(()) => WriteOutcome::Done,
        Err(LeaseWriteError::Lost) => WriteOutcome::NotHeld,
        Err(LeaseWriteError::Unavailable(_)) => WriteOutcome::Unavailable,
    };
    metrics::lease_renewed(outcome, started.elapsed());
    (result, lease)
}
