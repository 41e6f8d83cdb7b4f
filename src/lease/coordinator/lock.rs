//! The leader's lock: looked at by everybody, kept by one.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::leave::{ATTEMPTS, PAUSE};
use super::{Coordinator, pause, within};
use crate::cause::chain;
use crate::lease::fleet::LeaderRow;
use crate::lease::leader::LockStep;
use crate::lease::table::TableError;

/// No call about the lock may take longer than this share of the failover time.
const CALL_SHARE: u32 = 6;
/// A lock that nobody has taken for so many failover times after it was free is reported.
const OVERDUE_FAILOVERS: u32 = 3;

impl Coordinator {
    /// Looks at the lock, takes it when it is free, renews it. Not while leaving.
    pub(super) async fn keep_the_lock(&self, leave: &CancellationToken, stop: &CancellationToken) {
        let beat = self.pulse.begin("keeping the leader lock");
        let never = Notify::new();
        let mut overdue_told = false;
        while !leave.is_cancelled() {
            let led = self.is_leader();
            let step = self.state().watch.step(Instant::now());
            // Not given up when it is time to leave: a lock that is just being taken could not be given back.
            let attended = within(self.settings.failover / CALL_SHARE, self.attend(step, leave)).await;
            let wait = match attended {
                Ok(()) => {
                    let now = Instant::now();
                    let due = self.state().watch.due(now);
                    due.duration_since(now)
                }
                Err(_) => self.settings.failover / 24,
            };
            let overdue = self.tell_leadership(led);
            let alarming =
                overdue.is_some_and(|overdue| overdue > self.settings.failover * OVERDUE_FAILOVERS);
            if alarming && !overdue_told {
                tracing::error!(
                    overdue = ?overdue.unwrap_or_default(),
                    "the fleet has no leader: leases without an owner are not assigned"
                );
            }
            overdue_told = alarming;
            let wait = self.jittered(wait);
            beat.next(wait);
            tokio::select! {
                biased;
                () = leave.cancelled() => break,
                go_on = pause(wait, &never, stop) => if !go_on { return },
            }
        }
        self.resign().await;
    }

    async fn attend(&self, step: LockStep, leave: &CancellationToken) -> Result<(), TableError> {
        match step {
            LockStep::Look => {
                let row = self.table.leader().await?;
                self.state().watch.observe(row, Instant::now());
                // What the look says may be done at once: an absent leader costs every shard time.
                let step = self.state().watch.step(Instant::now());
                match step {
                    LockStep::Lead(seen) if !leave.is_cancelled() => self.take_lock(seen).await,
                    _ => Ok(()),
                }
            }
            LockStep::Lead(seen) => self.take_lock(seen).await,
        }
    }

    async fn take_lock(&self, seen: Option<LeaderRow>) -> Result<(), TableError> {
        let sent = Instant::now();
        let next = {
            let mut state = self.state();
            // Another one at each write; random, as other workers' versions must not be met by chance.
            let version = uuid::Builder::from_random_bytes(rand::Rng::random(&mut state.rng)).into_uuid();
            let workers = state.view.active_workers(sent, (self.settings.wall_clock)()).count() as u64;
            // Who has not looked yet repeats what the last leader said.
            let workers = if workers > 0 { workers } else { seen.as_ref().map_or(0, |seen| seen.workers) };
            // What was not looked at is not known.
            let pending_format = state.view.pending_format(sent, (self.settings.wall_clock)());
            state.watch.next(&version.to_string(), workers, pending_format, sent)
        };
        let accepted = self.table.lead(seen.as_ref(), &next).await;
        let mut state = self.state();
        match accepted {
            Ok(accepted) => {
                state.watch.answered(&next, accepted, Instant::now());
                Ok(())
            }
            Err(error) => {
                // The write may stand: read before writing again.
                state.watch.unanswered();
                Err(error)
            }
        }
    }

    fn tell_leadership(&self, led: bool) -> Option<Duration> {
        let now = Instant::now();
        let (leads, overdue) = {
            let state = self.state();
            (state.watch.leading(now).is_some(), state.watch.overdue(now))
        };
        if leads != led {
            let what = if leads { "elected leader" } else { "no longer leader" };
            tracing::info!(worker = %self.settings.worker, "{what}");
            self.look_now.notify_one();
        }
        overdue
    }

    /// Gives the lock back, so that another worker can lead at its next look.
    async fn resign(&self) {
        let limit = self.settings.failover / CALL_SHARE;
        for _ in 0..ATTEMPTS {
            if self.state().watch.is_unsure()
                && let Ok(row) = within(limit, self.table.leader()).await
            {
                self.state().watch.observe(row, Instant::now());
            }
            let (mine, unsure) = {
                let watch = &self.state().watch;
                (watch.mine().cloned(), watch.is_unsure())
            };
            match mine {
                None if !unsure => return,
                None => sleep(PAUSE).await,
                Some(mine) => match within(limit, self.table.resign(&mine)).await {
                    Ok(true) => {
                        self.state().watch.observe(None, Instant::now());
                        return tracing::info!("leader lock released");
                    }
                    // It is gone, somebody else's, or ours as a write without an answer has left it.
                    Ok(false) => self.state().watch.unanswered(),
                    Err(error) => {
                        tracing::debug!(error = %chain(&error), "could not release the leader lock");
                        self.state().watch.unanswered();
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        tracing::warn!("the leader lock may not be released; it will expire");
    }
}
