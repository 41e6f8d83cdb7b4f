//! What the readers of a stream do now, for those who plan how many there should be.

use std::collections::BTreeSet;

use super::super::wait_line::WaitLine;
use super::act::none_active;
use super::{Fleet, lag};
use crate::clock::wall_clock_s;
use crate::lease::WorkerId;
use crate::shard::ShardId;

/// The fleet of one stream at one moment.
#[derive(Debug, Default)]
pub(in crate::cli) struct Readers {
    /// Leases that are not finished.
    pub(in crate::cli) shards: Vec<Reading>,
    /// Workers that are active or renew a lease of the stream, and the share of its processors that each uses, percent.
    pub(in crate::cli) workers: Vec<(String, Option<f64>)>,
}

/// How one shard is read.
#[derive(Debug)]
pub(in crate::cli) struct Reading {
    pub(in crate::cli) shard: ShardId,
    /// KB/s; none where nobody reads it.
    pub(in crate::cli) kbps: Option<f64>,
    /// How far its checkpoint is behind the tip, ms.
    pub(in crate::cli) behind_ms: Option<u64>,
}

impl Fleet {
    /// Whether no worker is active.
    ///
    /// # Errors
    /// Which are, or why that is not known.
    pub(in crate::cli) async fn none_active(&self) -> anyhow::Result<()> {
        let mut observer = self.observer(false);
        let mut progress = WaitLine::default();
        let watched = observer.watch(|_| true, |text| progress.say(&text)).await;
        progress.done();
        watched.map_err(|error| self.table_trouble(error))?;
        none_active(&observer)
    }

    /// Looks at the readers of the first stream, and asks the stream how far they are.
    ///
    /// # Errors
    /// When the lease table cannot be read.
    pub(in crate::cli) async fn readers(&self) -> anyhow::Result<Readers> {
        let Some(stream) = self.streams.first() else { return Ok(Readers::default()) };
        let mut observer = self.observer(true);
        let mut progress = WaitLine::default();
        let watched = observer.watch(|_| true, |text| progress.say(&text)).await;
        progress.done();
        watched.map_err(|error| self.table_trouble(error))?;
        let fleet = &observer.fleet;
        let open = || {
            let all = fleet.leases().filter(|seen| !seen.lease.finished() && stream.has(&seen.lease.key));
            all.filter(|seen| observer.lists(&seen.lease.key))
        };
        // Before the stream is asked: that takes a while, and rows of workers grow old soon. Who renews leases works, too.
        let active = fleet.active_workers(observer.now, wall_clock_s()).map(|seen| &seen.row.id);
        let renewing = open().filter(|seen| fleet.is_live(seen, observer.now));
        let renewing = renewing.filter_map(|seen| seen.lease.actual_owner());
        let names: BTreeSet<&WorkerId> = active.chain(renewing).collect();
        let cpu = |id: &WorkerId| fleet.workers().find(|seen| seen.row.id == *id)?.row.mean_cpu();
        let workers = names.into_iter().map(|id| (id.to_string(), cpu(id))).collect();
        let lags = lag::lags(stream.records.as_ref(), open().map(|seen| &seen.lease)).await;
        let shards = open().map(|seen| Reading {
            shard: seen.lease.key.shard().clone(),
            // The row keeps what its last owner read.
            kbps: seen.lease.throughput_kbps.filter(|_| fleet.is_live(seen, observer.now)),
            behind_ms: lags.get(&seen.lease.key).and_then(|lag| lag.millis_behind_latest),
        });
        let shards = shards.collect();
        Ok(Readers { shards, workers })
    }
}
