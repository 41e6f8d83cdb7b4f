//! The fleet as one worker sees it: the `fleet` member of `/api/status`.
//!
//! Owns: the form. Does not own: the facts and their words, which `lease` gives.

use std::collections::BTreeMap;

use serde::Serialize;

/// The fleet at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FleetSnapshot {
    /// Who leads, as far as this worker knows.
    pub leader: Option<LeaderSnapshot>,
    /// For how long the fleet should have had another leader, ms; 0 while it has one. Unknown until the lock was read.
    pub leader_overdue_ms: Option<u64>,
    /// How often another process was found to use this worker's id.
    pub worker_id_collisions: u64,
    /// When that was last, ms ago.
    pub worker_id_collision_ms_ago: Option<u64>,
    /// What the leader sees; on the leader only.
    #[serde(flatten)]
    pub led: Option<LedSnapshot>,
}

/// The worker that holds the leader's lock.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaderSnapshot {
    /// Its id.
    pub worker: String,
    /// It is the worker that says so.
    pub this_worker: bool,
    /// For how long its lock stands still, ms.
    pub unmoved_ms: u64,
    /// Its lock is free after standing still for so long, ms.
    pub lease_ms: u64,
}

/// The fleet at the leader's last look.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LedSnapshot {
    /// When that was, ms ago.
    pub looked_ms_ago: u64,
    /// How many leases there are, by how they stand.
    pub leases: LeaseCounts,
    /// How many workers there should be, where that is known.
    pub workers_wanted: Option<u32>,
    /// Every worker that has a row or a lease, by id.
    pub workers: Vec<WorkerSnapshot>,
    /// Leases that no worker has room for; unknown until the leader has planned once.
    pub unplaced: Option<usize>,
    /// The streams as the leader compares them with the leases.
    pub streams: Vec<StreamSnapshot>,
    /// Shards that nobody reads, by the reason's fixed word.
    pub reasons: BTreeMap<&'static str, ReasonSnapshot>,
    /// The shards that nobody reads, the longest waiting first; not more than a few hundred.
    pub not_read: Vec<NotReadSnapshot>,
}

/// Leases by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeaseCounts {
    /// A live owner renews it.
    pub read: usize,
    /// It has an owner, who was not heard yet and may still be in time.
    pub unheard: usize,
    /// Nobody reads its shard.
    pub not_read: usize,
    /// Its shard is read to the end.
    pub finished: usize,
}

/// A worker as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerSnapshot {
    /// Its id.
    pub worker: String,
    /// It can be given leases.
    pub active: bool,
    /// Open leases that it may renew.
    pub leases: usize,
}

/// A stream as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamSnapshot {
    /// By name or ARN, as the settings have it.
    pub stream: String,
    /// Hash key ranges that no unfinished lease covers; unknown until the leader has looked.
    pub holes: Option<usize>,
    /// The leases are of an earlier stream of this name; unknown until the leader has listed it.
    pub recreated: Option<bool>,
}

/// The shards that nobody reads for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReasonSnapshot {
    /// How many.
    pub shards: usize,
    /// For how long the one that waits for the longest time is not read, ms; where that is known.
    pub longest_ms: Option<u64>,
}

/// A shard that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReadSnapshot {
    /// Its stream, as lease keys name it; in an application of several streams.
    pub stream: Option<String>,
    /// Its id.
    pub shard: String,
    /// A fixed word.
    pub reason: &'static str,
    /// A sentence.
    pub why: String,
    /// What to do about it.
    pub next_step: &'static str,
    /// For how long, ms, where that is known.
    pub for_ms: Option<u64>,
    /// It was so when this worker began to lead, perhaps for longer.
    pub at_least: bool,
}
