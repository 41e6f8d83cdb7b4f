//! Finding the leases that the leader, or a worker that left, has given to this one.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::sync::mpsc::{self, error::SendError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{BACKOFF_MAX, Backoff, CONCURRENCY, Coordinator, pause, within};
use crate::cause::chain;
use crate::lease::held::HeldLease;
use crate::lease::key::LeaseKey;
use crate::lease::table::{TableError, WriteError};
use crate::lease::write::LeaseWrite;
use crate::telemetry::metrics;

impl Coordinator {
    /// Looks for rows in our name that we do not hold, again and again. While leaving, such a row is given to another
    /// worker at once: whoever wrote it did not know that we leave.
    pub(super) async fn keep_discovering(
        &self,
        gained: &mpsc::Sender<Arc<HeldLease>>,
        leave: &CancellationToken,
        stop: &CancellationToken,
    ) {
        let beat = self.pulse.begin("discovering leases");
        let mut trouble = Backoff::default();
        loop {
            let leaving = leave.is_cancelled();
            let found = within(BACKOFF_MAX * 3, self.unheld()).await;
            self.tell_table(&found);
            let wait = match found {
                Ok(keys) => {
                    trouble.over();
                    let leases = stream::iter(keys).map(|key| self.begin_or_give_back(key, leave, stop));
                    let mut begun = std::pin::pin!(leases.buffer_unordered(CONCURRENCY));
                    while let Some(lease) = begun.next().await {
                        beat.next(Duration::ZERO);
                        let Some(lease) = lease else { continue };
                        if lease.row().finished() {
                            // Nothing to read; renewed until it can be deleted.
                        } else if let Err(SendError(lease)) = gained.send(lease).await {
                            // Nobody to receive it: the caller leaves, perhaps since this began to wait, or is gone.
                            if !leave.is_cancelled() {
                                stop.cancel();
                                continue;
                            }
                            self.release(&lease).await;
                        }
                    }
                    self.jittered(self.settings.scan_interval)
                }
                Err(_) => trouble.failed(self.settings.scan_interval),
            };
            beat.next(wait);
            tokio::select! {
                biased;
                // Looked at again: who leaves may have begun to since the wait began, and closes the channel.
                () = gained.closed(), if !leave.is_cancelled() => if !leave.is_cancelled() { stop.cancel() },
                // What was assigned in the last moment goes on to another worker at once.
                () = leave.cancelled(), if !leaving => {}
                go_on = pause(wait, &self.discover_now, stop) => if !go_on { return },
            }
        }
    }

    /// Begins to hold a lease in our name; while leaving, gives it back instead.
    async fn begin_or_give_back(
        &self,
        key: LeaseKey,
        leave: &CancellationToken,
        stop: &CancellationToken,
    ) -> Option<Arc<HeldLease>> {
        if leave.is_cancelled() {
            self.give_back(&key).await;
            return None;
        }
        let lease = self.begin(key, stop).await?;
        if leave.is_cancelled() {
            self.release(&lease).await;
            return None;
        }
        Some(lease)
    }

    /// Gives back a lease of a stream that this worker does not read: whoever gave it did not know that yet. One of a stream
    /// that it has not found out about it leaves alone for a while.
    async fn refuse(&self, key: &LeaseKey) {
        if self.streams.may_come_to_know(key) {
            return;
        }
        tracing::warn!("a lease was given to this worker that it gives back: {}", self.not_among(key));
        self.give_back(key).await;
    }

    /// The rows in our name that we do not hold, by the index.
    async fn unheld(&self) -> Result<Vec<LeaseKey>, TableError> {
        let mut keys = self.table.owned_by(&self.settings.worker).await?;
        let state = self.state();
        keys.retain(|key| state.held.get(key).is_none_or(|held| held.lost().is_cancelled()));
        Ok(keys)
    }

    /// Begins to hold a lease in our name, with a renew: only a write proves that it is ours and from when on.
    ///
    /// Not while its former owner may still checkpoint. A renew whose answer is lost is found by the next look as a
    /// row in our name.
    ///
    /// A lease of another stream is left alone, and so is the fleet that counts on this worker for it: `stop`.
    async fn begin(&self, key: LeaseKey, stop: &CancellationToken) -> Option<Arc<HeldLease>> {
        let me = &self.settings.worker;
        let limit = self.settings.failover / 3;
        let seen = match timeout(limit, self.table.get(&key)).await {
            Ok(Ok(Some(row))) if row.owner.as_ref() == Some(me) && row.checkpoint_owner.is_none() => row,
            Ok(Ok(_)) | Err(_) => return None,
            Ok(Err(error)) => {
                tracing::debug!(lease = %key, error = %chain(&error), "could not read the lease");
                return None;
            }
        };
        if let Err(not_ours) = self.streams.check(&seen) {
            tracing::error!("this worker was assigned a lease that it must not read: {not_ours}");
            self.refused.get_or_init(|| not_ours);
            stop.cancel();
            return None;
        }
        if self.streams.of(&key).is_none() {
            self.refuse(&key).await;
            return None;
        }
        let sent = Instant::now();
        let row =
            match timeout(limit, self.table.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }))
                .await
            {
                Ok(Ok(row)) => row,
                Ok(Err(WriteError::Conflict(_))) | Err(_) => return None,
                Ok(Err(error)) => {
                    tracing::debug!(lease = %key, error = %chain(&error), "could not start with the lease");
                    return None;
                }
            };
        tracing::info!(lease = %key, counter = row.counter, checkpoint = row.checkpoint.as_str(), "lease gained");
        metrics::lease_begun();
        let held =
            HeldLease::new(Arc::clone(&self.table), row.clone(), me.clone(), sent, self.settings.failover);
        let mut state = self.state();
        state.view.note(row, Instant::now());
        state.held.insert(key, Arc::clone(&held));
        drop(state);
        self.held_changed.notify_one();
        Some(held)
    }
}
