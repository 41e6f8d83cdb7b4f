//! How far the workers are, by what the lease table says.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::ledger::Ledger;
use super::scene::Scene;
use crate::lease::{Lease, LeaseTable};
use crate::shard::{Checkpoint, ShardId, StreamId};

/// How far the workers are with a stream, or with several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records put.
    pub put: u64,
    /// Of these, at or below a checkpoint.
    pub delivered: u64,
    /// When the oldest record above the checkpoints was sent, µs since the epoch.
    pub oldest_us: Option<i64>,
}

impl Progress {
    /// Adds that of a shard, or of another stream.
    pub fn add(&mut self, other: Self) {
        self.put += other.put;
        self.delivered += other.delivered;
        self.oldest_us = [self.oldest_us, other.oldest_us].into_iter().flatten().min();
    }

    /// Of several streams together.
    pub fn sum(streams: &[Self]) -> Self {
        let mut sum = Self::default();
        streams.iter().for_each(|stream| sum.add(*stream));
        sum
    }

    /// Age of the oldest record above the checkpoints at this time, in milliseconds.
    pub fn lag_ms(&self, now_us: i64) -> u64 {
        u64::try_from(self.oldest_us.map_or(0, |oldest| now_us - oldest) / 1_000).unwrap_or(0)
    }
}

/// The lease table of a play, beside what was put.
pub struct Watch {
    table: Arc<dyn LeaseTable>,
    ledger: Ledger,
    checkpoints: Checkpoints,
    leases: Vec<Lease>,
}

impl Watch {
    /// Of this scene.
    pub fn new(scene: &Scene, ledger: Ledger) -> Self {
        let (table, checkpoints) = (scene.leases(), Checkpoints::new(&scene.in_leases()));
        Self { table, ledger, checkpoints, leases: Vec::new() }
    }

    /// How far the workers are, stream by stream.
    pub async fn look(&mut self) -> Vec<Progress> {
        // The first worker makes the table; later, a server that does not answer leaves things as they were seen.
        if let Ok(seen) = self.table.snapshot().await {
            self.leases = seen.leases;
        }
        self.checkpoints.see(&self.leases);
        self.ledger.progress(&self.checkpoints)
    }

    /// The leases at the last look.
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }
}

/// The checkpoints of an application's streams, by stream and shard.
#[derive(Debug)]
pub(super) struct Checkpoints {
    streams: Vec<String>,
    now: HashMap<(usize, ShardId), Checkpoint>,
    /// Shards whose lease said SHARD_END; such leases are cleaned up later.
    finished: HashSet<(usize, ShardId)>,
}

impl Checkpoints {
    /// None yet.
    pub(super) fn new(streams: &[String]) -> Self {
        Self { streams: streams.to_vec(), now: HashMap::new(), finished: HashSet::new() }
    }

    /// Takes in one look at the table.
    pub(super) fn see(&mut self, leases: &[Lease]) {
        self.now.clear();
        for lease in leases {
            // The leases of an application of one stream do not name it.
            let of = |id: &StreamId, name: &String| name == id.name() || id.table_name() == Some(name);
            let named = |id: &StreamId| self.streams.iter().position(|name| of(id, name));
            let Some(stream) = lease.key.stream().map_or(Some(0), named) else { continue };
            let shard = (stream, lease.key.shard().clone());
            if lease.finished() {
                self.finished.insert(shard.clone());
            }
            self.now.insert(shard, lease.checkpoint.clone());
        }
    }

    /// How far a stream is, which has `put` records in a shard, of which `up_to` a checkpoint some are delivered, and
    /// the first other one was sent at a time.
    pub(super) fn progress(
        &self,
        stream: usize,
        shards: impl IntoIterator<Item = (ShardId, u64)>,
        up_to: impl Fn(&ShardId, &Checkpoint) -> (u64, Option<i64>),
    ) -> Progress {
        let mut progress = Progress::default();
        for (shard, put) in shards {
            let key = (stream, shard);
            let (delivered, oldest_us) = if self.finished.contains(&key) {
                (put, None)
            } else {
                up_to(&key.1, self.now.get(&key).unwrap_or(&Checkpoint::TrimHorizon))
            };
            progress.add(Progress { put, delivered, oldest_us });
        }
        progress
    }
}
