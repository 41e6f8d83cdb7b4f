//! Watches a lease table for long enough to tell who is alive.
//!
//! A counter says nothing by itself; that it moves does. A live owner moves it every third of the failover time, so two
//! looks that far apart show who renews, and a failover time shows who does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::lease::explain::{Explained, Sight, explain};
use crate::lease::{FleetView, LeaderRow, Lease, LeaseTable, TableError};
use crate::shard::{ListError, Shard, ShardLister, StreamId};

/// More than the third of a failover time between two looks: a renew takes its time.
const SLACK: Duration = Duration::from_millis(300);
/// A stream is not listed more often, however often the leases are looked at.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// What was seen of a fleet so far.
pub(super) struct Observer {
    table: Arc<dyn LeaseTable>,
    lister: Option<Arc<dyn ShardLister>>,
    pub(super) fleet: FleetView,
    /// The lock, and the end of the read that first showed its version.
    pub(super) leader: Option<(LeaderRow, Instant)>,
    /// The lock was seen to be written.
    pub(super) leader_heard: bool,
    pub(super) listing: Option<Vec<Shard>>,
    /// The stream, once it is known.
    pub(super) stream: Option<StreamId>,
    /// Why the stream is not listed, where it should be.
    pub(super) listing_problem: Option<String>,
    listed: Option<Instant>,
    /// The end of the last look.
    pub(super) now: Instant,
}

impl Observer {
    /// Nothing seen yet.
    pub(super) fn new(
        table: Arc<dyn LeaseTable>,
        lister: Option<Arc<dyn ShardLister>>,
        failover: Duration,
    ) -> Self {
        Self {
            table,
            lister,
            fleet: FleetView::new(failover),
            leader: None,
            leader_heard: false,
            listing: None,
            stream: None,
            listing_problem: None,
            listed: None,
            now: Instant::now(),
        }
    }

    /// Looks until it is known whether the owners of the leases that `matters` are alive, and the leader where one has no
    /// owner; at most for the failover time and a bit. `waits` is told why it takes so long.
    pub(super) async fn watch(
        &mut self,
        matters: impl Fn(&Lease) -> bool,
        mut waits: impl FnMut(String),
    ) -> Result<(), TableError> {
        self.look().await?;
        let first = self.now;
        let failover = self.fleet.failover();
        if !self.unheard(&matters) {
            return Ok(());
        }
        let beat = failover / 3 + SLACK;
        waits(format!(
            "watching the lease table for {:.1} s to see which owners renew …",
            beat.as_secs_f64()
        ));
        sleep_until(first + beat).await;
        self.look().await?;
        if self.unheard(&matters) {
            let seconds = failover.as_secs_f64();
            waits(format!(
                "some owners have not renewed yet, watching for the failover time of {seconds} s …"
            ));
            sleep_until(first + failover + SLACK).await;
            self.look().await?;
        }
        Ok(())
    }

    /// Looks once.
    pub(super) async fn look(&mut self) -> Result<(), TableError> {
        let (snapshot, leader, listed) =
            tokio::join!(self.table.snapshot(), self.table.leader(), self.list());
        let (snapshot, leader) = (snapshot?, leader?);
        self.now = Instant::now();
        if let Some(listed) = listed {
            self.listed = Some(self.now);
            (self.listing, self.listing_problem) = match listed {
                Ok((shards, stream)) => {
                    self.stream = stream;
                    (Some(shards), None)
                }
                Err(error) => (None, Some(chain(&error))),
            };
        }
        self.fleet.observe(snapshot, self.now);
        self.leader = leader.map(|row| match self.leader.take() {
            Some((seen, since)) if seen.version == row.version => (row, since),
            seen => {
                self.leader_heard = seen.is_some();
                (row, self.now)
            }
        });
        Ok(())
    }

    async fn list(&self) -> Option<Result<(Vec<Shard>, Option<StreamId>), ListError>> {
        let due = self.listed.is_none_or(|listed| listed.elapsed() >= LIST_EVERY);
        match &self.lister {
            Some(lister) if due => {
                let (shards, stream) = tokio::join!(lister.list(), lister.stream());
                // What a stream is called helps; an operator may list shards and not describe.
                Some(shards.map(|shards| (shards, stream.ok().flatten())))
            }
            _ => None,
        }
    }

    /// True when an owner, or the leader of a lease without one, may be alive and was not heard.
    fn unheard(&self, matters: impl Fn(&Lease) -> bool) -> bool {
        let open = |lease: &Lease| !lease.finished() && matters(lease);
        let leader = self.leader.as_ref().is_some_and(|(row, since)| {
            !self.leader_heard && !row.released && self.now.duration_since(*since) <= row.lease_duration
        });
        self.fleet.leases().filter(|seen| open(&seen.lease)).any(|seen| match seen.lease.actual_owner() {
            Some(_) => !seen.heard && self.fleet.is_live(seen, self.now),
            None => leader,
        })
    }

    /// Why each shard is not read, as far as could be seen.
    pub(super) fn explained(&self) -> Vec<Explained> {
        explain(&Sight {
            fleet: &self.fleet,
            leader: self.leader.as_ref().map(|(row, since)| (row, *since)),
            listing: self.listing.as_deref(),
            stream: self.stream.as_ref(),
            now: self.now,
            host_clock: wall_clock_s(),
        })
    }
}

/// This host's clock in seconds since the epoch.
pub(super) fn wall_clock_s() -> u64 {
    u64::try_from(wall_clock_us() / 1_000_000).unwrap_or(0)
}
