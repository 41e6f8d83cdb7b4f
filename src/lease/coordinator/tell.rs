//! Telling how the fleet stands, for `/api/status` and the metrics: who leads, and on the leader, who reads what and
//! why a shard is not read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Coordinator, State};
use crate::lease::explain::{Explained, Sight, Standing, StreamSight, explain};
use crate::lease::row::WorkerId;
use crate::lease::sync::{Found, ShardSync};
use crate::scale;
use crate::telemetry::fleet::{
    FleetSnapshot, LeaderSnapshot, LeaseCounts, LedSnapshot, NotReadSnapshot, ReasonSnapshot, StreamSnapshot,
    WorkerSnapshot,
};

/// So many shards that are not read are named; the others are counted.
const NAMED_MAX: usize = 300;

/// What the leader found at a look.
pub(super) struct Told {
    at: Instant,
    leases: LeaseCounts,
    workers_wanted: Option<u32>,
    workers: Vec<WorkerSnapshot>,
    /// Leases that no worker has room for, by the last plan.
    pub(super) unplaced: Option<usize>,
    /// For each reason how many shards, and since when the longest of them is not read.
    reasons: BTreeMap<&'static str, (usize, Option<Instant>)>,
    /// The longest first.
    not_read: Vec<Explained>,
}

impl Coordinator {
    /// Explains what was seen at the last look, once for all who ask until the next one.
    ///
    /// Without the stream's listing, which is older than what was seen: a child that is newer would be taken for a
    /// shard of another stream.
    pub(super) fn explain_look(&self) {
        let mut state = self.state();
        let now = Instant::now();
        let State { view, watch, .. } = &*state;
        let host_clock = (self.settings.wall_clock)();
        let known = self.streams.known();
        let streams: Vec<StreamSight<'_>> =
            known.iter().map(|stream| StreamSight { stream: Some(stream), listing: None }).collect();
        let all = explain(&Sight {
            fleet: view,
            leader: watch.seen(),
            streams: &streams,
            several: Some(self.streams.several()),
            now,
            host_clock,
        });

        let mut leases = LeaseCounts::default();
        let mut reasons: BTreeMap<&'static str, (usize, Option<Instant>)> = BTreeMap::new();
        let mut not_read = Vec::new();
        for explained in all {
            match &explained.standing {
                Standing::Read => leases.read += 1,
                Standing::Unheard => leases.unheard += 1,
                Standing::Finished(_) => leases.finished += 1,
                Standing::NotRead(reason) => {
                    leases.not_read += 1;
                    let (shards, longest) = reasons.entry(reason.word()).or_default();
                    *shards += 1;
                    *longest = longest.iter().copied().chain(explained.since).min();
                    not_read.push(explained);
                }
            }
        }
        not_read.sort_by_key(|explained| (explained.since.is_none(), explained.since));
        not_read.truncate(NAMED_MAX);

        let mut workers: BTreeMap<&WorkerId, (bool, usize)> =
            view.workers().map(|seen| (&seen.row.id, (false, 0))).collect();
        let mut load = scale::FleetLoad::default();
        for worker in view.active_workers(now, host_clock) {
            workers.entry(&worker.row.id).or_default().0 = true;
            load.cpu_percent.push(worker.row.mean_cpu());
        }
        for seen in view.leases().filter(|seen| !seen.lease.finished()) {
            if view.is_ready(&seen.lease) {
                load.shards += 1;
                load.kbps.push(seen.lease.throughput_kbps);
            }
            if let Some(owner) = seen.lease.actual_owner() {
                workers.entry(owner).or_default().1 += 1;
            }
        }
        let named = |(id, (active, leases)): (&WorkerId, (bool, usize))| WorkerSnapshot {
            worker: id.to_string(),
            active,
            leases,
        };
        let workers = workers.into_iter().map(named).collect();
        // Until this look's plan the last one counts.
        let unplaced = state.told.as_ref().and_then(|told| told.unplaced);
        let workers_wanted = scale::wanted(&load);
        state.told = Some(Told { at: now, leases, workers_wanted, workers, unplaced, reasons, not_read });
    }

    /// How the fleet stands, as far as this worker can tell.
    pub fn fleet_status(&self) -> FleetSnapshot {
        let now = Instant::now();
        let state = self.state();
        let ago = |at: Instant| millis(now.duration_since(at));
        let leader = state.watch.seen().filter(|(row, _)| !row.released).map(|(row, since)| LeaderSnapshot {
            worker: row.owner.to_string(),
            this_worker: state.watch.leading(now).is_some(),
            unmoved_ms: ago(since),
            lease_ms: millis(row.lease_duration),
        });
        let told = state.told.as_ref().filter(|_| state.watch.leading(now).is_some());
        FleetSnapshot {
            leader,
            leader_overdue_ms: state.watch.overdue(now).map(millis),
            worker_id_collisions: state.collisions.count,
            worker_id_collision_ms_ago: state.collisions.last.map(ago),
            led: told.map(|told| told.snapshot(self.streams_led(), ago)),
        }
    }

    fn streams_led(&self) -> Vec<StreamSnapshot> {
        let snapshot = |stream: &Arc<ShardSync>| {
            let Found { holes, recreated } = stream.found();
            StreamSnapshot { stream: stream.name().to_string(), holes, recreated }
        };
        self.streams.all().iter().map(snapshot).collect()
    }
}

impl Told {
    fn snapshot(&self, streams: Vec<StreamSnapshot>, ago: impl Fn(Instant) -> u64) -> LedSnapshot {
        let counted = |(word, (shards, longest)): (&&'static str, &(usize, Option<Instant>))| {
            (*word, ReasonSnapshot { shards: *shards, longest_ms: longest.map(&ago) })
        };
        let named = |explained: &Explained| {
            let Standing::NotRead(reason) = &explained.standing else { return None };
            Some(NotReadSnapshot {
                stream: explained.key.stream().map(ToString::to_string),
                shard: explained.key.shard().as_str().to_owned(),
                reason: reason.word(),
                why: reason.to_string(),
                next_step: reason.next_step(),
                for_ms: explained.since.map(&ago),
                at_least: explained.at_least,
            })
        };
        LedSnapshot {
            looked_ms_ago: ago(self.at),
            leases: self.leases,
            workers_wanted: self.workers_wanted,
            workers: self.workers.clone(),
            unplaced: self.unplaced,
            streams,
            reasons: self.reasons.iter().map(counted).collect(),
            not_read: self.not_read.iter().filter_map(named).collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
