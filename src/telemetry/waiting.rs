//! Calls of a shard that have had no answer yet: a service that hangs shows while it does, not only when a time limit is
//! over.
//!
//! Owns: how long a call may take before its shard counts as stalled.
//! Does not own: calls that were answered with an error (`status`), those of the lease coordinator (`trouble`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::status::{ShardHandle, Side};
use crate::clock;

/// A call that carries a body may take longer by the time that it takes on a slow line.
const SLOW_LINE_BYTES_PER_SECOND: usize = 1 << 20;

/// The calls of one shard that are under way.
#[derive(Debug, Default)]
pub(super) struct Waits {
    next: u64,
    under_way: BTreeMap<u64, Wait>,
    /// When a call of each side was last over: a line that carries something does not hang.
    moved: [Option<Instant>; 2],
}

#[derive(Debug)]
struct Wait {
    side: Side,
    reason: &'static str,
    what: String,
    since: Instant,
    /// What its body may take.
    body: Duration,
}

/// A call that takes too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overdue {
    /// As the reason of a stalled shard.
    pub(super) reason: &'static str,
    /// Since when nothing has moved.
    pub(super) since: Instant,
    /// The same, µs since the epoch.
    pub(super) since_us: i64,
    /// For people.
    pub(super) text: String,
}

impl Waits {
    fn begin(&mut self, wait: Wait) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, wait);
        self.next
    }

    fn end(&mut self, number: u64) {
        if let Some(wait) = self.under_way.remove(&number) {
            self.moved[wait.side as usize] = Some(Instant::now());
        }
    }

    /// The call that has kept its side from moving for longer than `patience`, the longest first.
    pub(super) fn overdue(&self, now: Instant, patience: Duration) -> Option<Overdue> {
        let late = |wait: &Wait| {
            let since = self.moved[wait.side as usize].map_or(wait.since, |moved| moved.max(wait.since));
            let waited = now.duration_since(since);
            (waited >= patience + wait.body).then(|| Overdue {
                reason: wait.reason,
                since,
                since_us: clock::wall_clock_us() - i64::try_from(waited.as_micros()).unwrap_or(0),
                text: format!("{}: no response for {} s; {ADVICE}", wait.what, waited.as_secs()),
            })
        };
        self.under_way.values().filter_map(late).min_by_key(|overdue| overdue.since)
    }
}

const ADVICE: &str = "it may hang: check the service, the endpoint and the network";

/// A call that is under way; dropped when it is over, however it went.
#[must_use = "the call is over when this is dropped"]
pub struct Waiting {
    shard: Arc<ShardHandle>,
    number: u64,
}

impl Waiting {
    /// A call for one side of a shard begins now, with a body of `bytes`. Without an answer in time the shard is shown as
    /// stalled for this `reason`, and `what` is not done.
    pub fn begin(
        shard: &Arc<ShardHandle>,
        side: Side,
        reason: &'static str,
        what: impl Into<String>,
        bytes: usize,
    ) -> Self {
        let body = Duration::from_secs((bytes / SLOW_LINE_BYTES_PER_SECOND) as u64);
        let wait = Wait { side, reason, what: what.into(), since: Instant::now(), body };
        let number = shard.facts().waits.begin(wait);
        Self { shard: Arc::clone(shard), number }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shard.facts().waits.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::telemetry::status::tests::facts;
    use crate::telemetry::status::{ShardSnapshot, ShardState, Status};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn status() -> Arc<Status> {
        let status = Status::new(facts("w"), PATIENCE);
        status.set_working();
        status
    }

    fn only(status: &Status) -> ShardSnapshot {
        status.snapshot().shards.remove(0)
    }

    async fn seconds(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_stalls_its_shard_while_it_hangs() {
        let status = status();
        let shard = Arc::new(status.shard("trades", "shardId-7", ShardState::Reading, 3));
        let put = Waiting::begin(&shard, Side::Delivering, "lake", "create a.gz", 100);
        seconds(19).await;
        assert_eq!((only(&status).state, only(&status).last_error), (ShardState::Reading, None));
        seconds(2).await;
        let seen = only(&status);
        assert_eq!((seen.state, seen.state_for_ms), (ShardState::Stalled("lake"), 21_000));
        assert_eq!((seen.stalled_for_ms, seen.last_error_over), (Some(21_000), Some(false)));
        let error = seen.last_error.unwrap();
        assert!(error.starts_with("create a.gz: no response for 21 s; "), "{error}");
        let ready = status.readiness().text();
        assert!(ready.contains("none of the 1 shards") && ready.contains("no response for 21 s"), "{ready}");
        // It is given up: what is shown then goes on from the same beginning.
        shard.stalled_since(Side::Delivering, "lake", "timed out", put_began(&shard));
        drop(put);
        seconds(1).await;
        let seen = only(&status);
        assert_eq!((seen.stalled_for_ms, seen.last_error.as_deref()), (Some(22_000), Some("timed out")));
        assert!(!status.readiness().is_ready());
        shard.recovered(Side::Delivering);
        assert!(status.readiness().is_ready());
    }

    fn put_began(shard: &ShardHandle) -> Instant {
        shard.facts().waits.under_way.values().next().unwrap().since
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_and_moves_does_not_hang() {
        let status = status();
        let shard = Arc::new(status.shard("trades", "shardId-7", ShardState::Reading, 3));
        // Others of the same side go on.
        let slow = Waiting::begin(&shard, Side::Delivering, "lake", "create a.gz", 0);
        for _ in 0..10 {
            drop(Waiting::begin(&shard, Side::Delivering, "lake", "create b.gz", 0));
            seconds(15).await;
            drop(Waiting::begin(&shard, Side::Reading, "unavailable", "GetRecords", 0));
        }
        assert_eq!(only(&status).state, ShardState::Reading);
        seconds(5).await;
        assert_eq!(only(&status).stalled_for_ms, Some(20_000), "the other side does not count");
        drop(slow);
        assert_eq!((only(&status).state, only(&status).stalled_for_ms), (ShardState::Reading, None));
        // A large body.
        let _large = Waiting::begin(&shard, Side::Delivering, "lake", "create c.gz", 16 << 20);
        seconds(35).await;
        assert_eq!(only(&status).state, ShardState::Reading);
        seconds(1).await;
        assert_eq!(only(&status).state, ShardState::Stalled("lake"));
    }
}
