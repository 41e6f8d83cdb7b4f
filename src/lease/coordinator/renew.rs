//! Renewing: the heartbeat of each held lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{CONCURRENCY, Coordinator};
use crate::cause::chain;
use crate::lease::held::LeaseWriteError;
use crate::lease::row::LeaseKey;
use crate::lease::write::LeaseWrite;
use crate::telemetry::metrics::{self, WriteOutcome};

/// A renew comes this much before the third of the failover time, as in KCL.
const EPSILON: Duration = Duration::from_millis(25);

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
            let mut wake = now + interval;
            for lease in self.held() {
                if !lease.is_valid(now) {
                    not_before.remove(lease.key());
                    self.drop_lost(&lease);
                    continue;
                }
                wake = wake.min(lease.valid_until());
                if busy.contains(lease.key()) {
                    continue;
                }
                let due = lease.renew_due(interval);
                let due = not_before.get(lease.key()).map_or(due, |earliest| due.max(*earliest));
                if due > now {
                    wake = wake.min(due);
                } else if running.len() < CONCURRENCY {
                    busy.insert(lease.key().clone());
                    running.push(async move {
                        let result = lease.renew().await;
                        if lease.has_settled()
                            && let Err(error) = lease.write(LeaseWrite::Settle).await
                        {
                            tracing::debug!(lease = %lease.key(), error = %chain(&error), "not noted as settled");
                        }
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
            beat.next(wake.saturating_duration_since(now));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((result, lease)) = running.next(), if !running.is_empty() => {
                    busy.remove(lease.key());
                    not_before.remove(lease.key());
                    match result {
                        // A lost one is looked at above.
                        Ok(_) | Err(LeaseWriteError::Lost) => {}
                        Err(LeaseWriteError::Unavailable(_)) => {
                            not_before.insert(lease.key().clone(), Instant::now() + interval / 8);
                        }
                    }
                }
                () = sleep_until(wake) => {}
                () = self.held_changed.notified() => {}
            }
        }
    }
}
