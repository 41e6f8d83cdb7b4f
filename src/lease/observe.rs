//! Watches a lease table for long enough to tell who is alive.
//!
//! A counter says nothing by itself; that it moves does. A live owner moves it every third of the failover time, so two
//! looks that far apart show who renews, and a failover time shows who does not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};

use super::explain::{Explained, Sight, StreamSight, explain};
use super::{FleetView, LeaderRow, Lease, LeaseKey, LeaseTable, TableError};
use crate::cause::chain;
use crate::clock::wall_clock_s;
use crate::shard::{ListError, Shard, ShardLister, StreamId};

/// More than the third of a failover time between two looks: a renew takes its time.
const SLACK: Duration = Duration::from_millis(300);
/// A stream is not listed more often, however often the leases are looked at.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// A stream that does not answer within this time is not waited for: the leases are there all the same.
const LIST_MAX: Duration = Duration::from_secs(8);

/// What was seen of a fleet so far.
pub struct Observer {
    table: Arc<dyn LeaseTable>,
    streams: Vec<Observed>,
    /// Leases and workers.
    pub fleet: FleetView,
    /// The lock, and the end of the read that first showed its version.
    pub leader: Option<(LeaderRow, Instant)>,
    /// The lock was seen to be written.
    pub leader_heard: bool,
    listed: Option<Instant>,
    /// The end of the last look.
    pub now: Instant,
}

/// A stream that is looked at too.
struct Observed {
    /// As it is named in the settings.
    named: StreamId,
    lister: Arc<dyn ShardLister>,
    /// Which one it is, once that is known.
    id: Option<StreamId>,
    listing: Option<Vec<Shard>>,
    /// Why it is not listed.
    problem: Option<String>,
}

impl Observed {
    /// Whether a lease with this key is of this stream.
    fn has(&self, key: &LeaseKey) -> bool {
        key.may_be_of(self.id.as_ref().unwrap_or(&self.named))
    }
}

impl Observer {
    /// Nothing seen yet. Streams go by the names of the settings.
    pub fn new(
        table: Arc<dyn LeaseTable>,
        streams: Vec<(StreamId, Arc<dyn ShardLister>)>,
        failover: Duration,
    ) -> Self {
        let observed = |(named, lister)| Observed { named, lister, id: None, listing: None, problem: None };
        Self {
            table,
            streams: streams.into_iter().map(observed).collect(),
            fleet: FleetView::new(failover),
            leader: None,
            leader_heard: false,
            listed: None,
            now: Instant::now(),
        }
    }

    /// Looks until it is known whether the owners of the leases that `matters` are alive, and the leader where one has no
    /// owner; at most for the failover time and a bit. `waits` is told why it takes so long.
    ///
    /// # Errors
    /// As [`Observer::look`].
    pub async fn watch(
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
        let beat = self.beat();
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

    /// Two looks this far apart show who renews.
    pub fn beat(&self) -> Duration {
        self.fleet.failover() / 3 + SLACK
    }

    /// True while it is not known of every owner, and of the leader where one is needed, whether it is alive.
    pub fn is_undecided(&self) -> bool {
        self.unheard(|_| true)
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the lease table cannot be read.
    pub async fn look(&mut self) -> Result<(), TableError> {
        let (snapshot, leader, listed) =
            tokio::join!(self.table.snapshot(), self.table.leader(), self.list());
        let (snapshot, leader) = (snapshot?, leader?);
        self.now = Instant::now();
        if let Some(all) = listed {
            self.listed = Some(self.now);
            for (stream, listed) in self.streams.iter_mut().zip(all) {
                (stream.listing, stream.problem) = match listed {
                    Ok((shards, id)) => {
                        stream.id = id;
                        (Some(shards), None)
                    }
                    Err(error) => (None, Some(chain(&error))),
                };
            }
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

    /// Each stream's shards and id, when it is time to list them.
    async fn list(&self) -> Option<Vec<Result<(Vec<Shard>, Option<StreamId>), ListError>>> {
        let due = self.listed.is_none_or(|listed| listed.elapsed() >= LIST_EVERY);
        let one = |stream: &Observed| {
            let lister = Arc::clone(&stream.lister);
            let name = stream.named.name().to_owned();
            async move {
                let both = async { tokio::join!(lister.list(), lister.stream()) };
                let (shards, stream) = timeout(LIST_MAX, both).await.map_err(|_| ListError::Unavailable {
                    stream: name,
                    source: format!("no response within {} s", LIST_MAX.as_secs()).into(),
                })?;
                // What a stream is called helps; an operator may list shards and not describe.
                shards.map(|shards| (shards, stream.ok().flatten()))
            }
        };
        if due { Some(join_all(self.streams.iter().map(one)).await) } else { None }
    }

    /// Why streams are not listed.
    pub fn listing_problems(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().filter_map(|stream| stream.problem.as_deref())
    }

    /// Streams that take no more records, as the last listing has told.
    pub fn off(&self) -> impl Iterator<Item = &StreamId> {
        let off = |stream: &&Observed| stream.listing.is_some() && stream.lister.is_off();
        self.streams.iter().filter(off).map(|stream| &stream.named)
    }

    /// Why the stream of this lease is not listed.
    pub fn listing_problem(&self, key: &LeaseKey) -> Option<&str> {
        self.of(key)?.problem.as_deref()
    }

    /// The shards of this lease's stream, where they were listed.
    pub fn listing(&self, key: &LeaseKey) -> Option<&[Shard]> {
        self.of(key)?.listing.as_deref()
    }

    /// Which stream this lease is of, where it was asked.
    pub fn stream(&self, key: &LeaseKey) -> Option<&StreamId> {
        self.of(key)?.id.as_ref()
    }

    /// Which stream this is, where it was asked.
    pub fn id_of(&self, named: &StreamId) -> Option<&StreamId> {
        self.streams.iter().find(|stream| stream.named == *named)?.id.as_ref()
    }

    /// Whether the stream lists the shard of this lease.
    pub fn lists(&self, key: &LeaseKey) -> bool {
        self.listing(key).is_some_and(|listing| listing.iter().any(|shard| shard.id == *key.shard()))
    }

    fn of(&self, key: &LeaseKey) -> Option<&Observed> {
        self.streams.iter().find(|stream| stream.has(key))
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
    pub fn explained(&self) -> Vec<Explained> {
        // In order of the keys, so those of one stream stand together.
        let named = self.fleet.leases().filter_map(|seen| seen.lease.key.stream());
        let mut named: Vec<&StreamId> = named.collect();
        named.dedup();
        let only = self
            .streams
            .first()
            .filter(|_| named.is_empty())
            .map(|stream| StreamSight { stream: stream.id.as_ref(), listing: stream.listing.as_deref() });
        let several = named.iter().map(|&id| StreamSight {
            stream: Some(id),
            listing: self
                .streams
                .iter()
                .find(|stream| stream.id.as_ref() == Some(id))
                .and_then(|stream| stream.listing.as_deref()),
        });
        let streams: Vec<StreamSight<'_>> = only.into_iter().chain(several).collect();
        explain(&Sight {
            fleet: &self.fleet,
            leader: self.leader.as_ref().map(|(row, since)| (row, *since)),
            streams: &streams,
            several: None,
            now: self.now,
            host_clock: wall_clock_s(),
        })
    }
}
