//! How far the demo is: from the stream and the lease table alone, as an operator could know it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::wall_clock_us;
use crate::lease::{Lease, LeaseTable, TableError};
use crate::local::kinesis::Kinesis;
use crate::shard::{Checkpoint, ShardId};

/// What the lease table says about the stream's records.
pub(super) struct Watch {
    kinesis: Kinesis,
    stream: String,
    table: Arc<dyn LeaseTable>,
    /// Shards whose lease said SHARD_END; such leases are cleaned up later.
    finished: HashSet<ShardId>,
    age_max_us: i64,
}

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Records in the stream.
    pub(super) put: u64,
    /// Records at or below a checkpoint.
    pub(super) delivered: u64,
    /// Age of the oldest record above the checkpoints, ms.
    pub(super) age_ms: u64,
    /// Unfinished leases by owner; `""` for those without one.
    pub(super) owners: BTreeMap<String, usize>,
}

impl Watch {
    pub(super) fn new(kinesis: Kinesis, stream: &str, table: Arc<dyn LeaseTable>) -> Self {
        Self { kinesis, stream: stream.to_owned(), table, finished: HashSet::new(), age_max_us: 0 }
    }

    /// The largest age seen so far, ms.
    pub(super) fn age_max_ms(&self) -> u64 {
        u64::try_from(self.age_max_us / 1000).unwrap_or(0)
    }

    pub(super) async fn look(&mut self) -> Result<Look, TableError> {
        let leases = match self.table.snapshot().await.map(|table| table.leases) {
            // The first worker makes it.
            Err(TableError::NotFound(_)) => Vec::new(),
            leases => leases?,
        };
        let leases: BTreeMap<ShardId, Lease> =
            leases.into_iter().map(|lease| (lease.key.shard().clone(), lease)).collect();
        let mut look = Look::default();
        let mut age_us = 0;
        let now = wall_clock_us();
        for (shard, put) in self.kinesis.shards(&self.stream).unwrap_or_default() {
            let checkpoint = match leases.get(&shard) {
                Some(lease) => lease.checkpoint.clone(),
                None if self.finished.contains(&shard) => Checkpoint::ShardEnd,
                None => Checkpoint::TrimHorizon,
            };
            if checkpoint == Checkpoint::ShardEnd {
                self.finished.insert(shard.clone());
            }
            look.put += put;
            look.delivered += match &checkpoint {
                Checkpoint::ShardEnd => put,
                Checkpoint::At(position) => {
                    self.kinesis.count_up_to(&self.stream, &shard, &position.sequence).unwrap_or(0)
                }
                _ => 0,
            };
            let oldest = self.kinesis.oldest_above(&self.stream, &shard, &checkpoint).ok().flatten();
            age_us = age_us.max(oldest.map_or(0, |oldest| now - oldest));
        }
        for lease in leases.values().filter(|lease| !lease.finished()) {
            let owner = lease.owner.as_ref().map_or("", |owner| owner.as_str());
            *look.owners.entry(owner.to_owned()).or_default() += 1;
        }
        self.age_max_us = self.age_max_us.max(age_us);
        look.age_ms = u64::try_from(age_us / 1000).unwrap_or(0);
        Ok(look)
    }
}

impl Look {
    /// The look in words, without its counts.
    pub(super) fn line(&self) -> String {
        let owners: Vec<String> = self
            .owners
            .iter()
            .map(|(owner, leases)| format!("{}:{leases}", if owner.is_empty() { "nobody" } else { owner }))
            .collect();
        let readers = if owners.is_empty() { "not taken yet".to_owned() } else { owners.join(" ") };
        format!("lag {:.1} s  shards {readers}", Duration::from_millis(self.age_ms).as_secs_f64())
    }
}
