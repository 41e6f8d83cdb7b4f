//! How far the demo is: from the streams and the lease table alone, as an operator could know it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::feed::Feed;
use crate::clock::wall_clock_us;
use crate::lease::{LeaseTable, TableError};
use crate::shard::{Checkpoint, ShardId};
use crate::trial::{Checkpoints, Progress, TrialError};

/// What the lease table says about the streams' records.
pub(super) struct Watch {
    feed: Feed,
    streams: Vec<String>,
    table: Arc<dyn LeaseTable>,
    checkpoints: Checkpoints,
    lag_max_ms: u64,
}

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Of all streams.
    pub(super) progress: Progress,
    /// Age of the oldest record above the checkpoints, ms.
    pub(super) lag_ms: u64,
    /// Unfinished leases by owner; `""` for those without one.
    pub(super) owners: BTreeMap<String, usize>,
}

impl Watch {
    /// Of these streams, which lease keys call by `in_leases`.
    pub(super) fn new(
        feed: Feed,
        streams: &[String],
        in_leases: &[String],
        table: Arc<dyn LeaseTable>,
    ) -> Self {
        let checkpoints = Checkpoints::new(in_leases);
        Self { feed, streams: streams.to_vec(), table, checkpoints, lag_max_ms: 0 }
    }

    /// The largest age seen so far, ms.
    pub(super) fn lag_max_ms(&self) -> u64 {
        self.lag_max_ms
    }

    /// The streams.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    pub(super) async fn look(&mut self) -> Result<Look, TrialError> {
        let leases = match self.table.snapshot().await.map(|table| table.leases) {
            // The first worker makes it.
            Err(TableError::NotFound(_)) => Vec::new(),
            leases => leases?,
        };
        self.checkpoints.see(&leases);
        let mut look = Look::default();
        for (number, stream) in self.streams.iter().enumerate() {
            let shards = self.feed.shards(stream)?;
            let up_to = |shard: &ShardId, checkpoint: &Checkpoint| self.feed.up_to(stream, shard, checkpoint);
            look.progress.add(self.checkpoints.progress(number, shards, up_to));
        }
        for lease in leases.iter().filter(|lease| !lease.finished()) {
            let owner = lease.owner.as_ref().map_or("", |owner| owner.as_str());
            *look.owners.entry(owner.to_owned()).or_default() += 1;
        }
        look.lag_ms = look.progress.lag_ms(wall_clock_us());
        self.lag_max_ms = self.lag_max_ms.max(look.lag_ms);
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
        format!("lag {:.1} s  shards {readers}", Duration::from_millis(self.lag_ms).as_secs_f64())
    }
}
