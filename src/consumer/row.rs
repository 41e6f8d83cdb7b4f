//! What is done with the lease row of a shard, whatever is done with its records: where reading starts, writes, and the
//! leases of the children.
//!
//! Owns: that each is tried until it is done, and what is shown meanwhile.
//! Does not own: when it is to be done (`checkpoint`, `process`).

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::{Shared, StreamSetup};
use crate::cause::chain;
use crate::lease::{HeldLease, LeaseWrite, LeaseWriteError};
use crate::shard::{Checkpoint, ChildShard, StartFrom};
use crate::telemetry::metrics::{self, WriteOutcome};
use crate::telemetry::status::{ShardHandle, ShardState, Side};
use crate::telemetry::waiting::Waiting;

pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often the parents of a shard are looked at while they are being finished.
const PARENTS_INTERVAL: Duration = Duration::from_secs(1);

/// The row of one shard, and what its steps need.
pub(crate) struct ShardRow {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: Arc<StreamSetup>,
    pub(crate) lease: Arc<HeldLease>,
    pub(crate) status: Arc<ShardHandle>,
    pub(crate) rng: ChaCha8Rng,
    /// Children of the shard, where its last page named them.
    pub(crate) children: Vec<ChildShard>,
}

impl ShardRow {
    /// Of a shard whose lease this worker has just got.
    pub(crate) fn new(shared: Arc<Shared>, stream: Arc<StreamSetup>, lease: Arc<HeldLease>) -> Self {
        let row = lease.row();
        let (key, shard) = (lease.key().as_str(), lease.key().shard().as_str());
        let status = shared.status.shard(&stream.address, shard, ShardState::WaitingForParents, row.counter);
        status.checkpoint(row.checkpoint.as_str());
        let seed =
            key.bytes().fold(shared.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { shared, stream, lease, status: Arc::new(status), rng, children: Vec::new() }
    }

    /// The same, for work beside this.
    pub(crate) fn fork(&mut self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            stream: Arc::clone(&self.stream),
            lease: Arc::clone(&self.lease),
            status: Arc::clone(&self.status),
            rng: self.fork_rng(),
            children: Vec::new(),
        }
    }

    /// Returns when each parent of the shard is finished or gone.
    pub(crate) async fn parents_finished(&self) {
        let row = self.lease.row();
        loop {
            match self.shared.coordinator.parents_finished(&row).await {
                Ok(true) => return self.status.recovered(Side::Delivering),
                Ok(false) => self.status.recovered(Side::Delivering),
                Err(error) => {
                    self.status.failed(
                        Side::Delivering,
                        format!("could not check the parent shards: {}", chain(&error)),
                    );
                }
            }
            sleep(PARENTS_INTERVAL).await;
        }
    }

    /// Looks up what a symbolic checkpoint stands for, until the stream says so. `None`: nobody knows the time that it means.
    pub(crate) async fn find_start(&mut self, checkpoint: &Checkpoint) -> Option<(Checkpoint, Option<i64>)> {
        let from = match checkpoint {
            Checkpoint::AtTimestamp => {
                let time = self.lease.row().start_us.or(self.stream.initial_timestamp_us);
                StartFrom::Time(time?)
            }
            _ => StartFrom::Tip,
        };
        let shard = self.lease.key().shard().clone();
        let started = Instant::now();
        loop {
            let waiting = self.waiting("start_unknown", "looking up where the shard starts", 0);
            let found = self.stream.starts.find(&shard, from).await;
            drop(waiting);
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    self.stalled("start_unknown", &chain(&error), started);
                    sleep(self.jittered(RETRY_PAUSE * 2)).await;
                    continue;
                }
            };
            let (at, start_us) = match from {
                StartFrom::Time(us) => (found.at, Some(us)),
                // A lease is made at LATEST for an open shard. What came between that and its end is to be read, and
                // nobody knows where it begins.
                StartFrom::Tip if found.closed => {
                    tracing::warn!(
                        %shard,
                        "the shard was closed before anybody read it from LATEST: all its records that the \
                         stream still has are delivered, because records since the lease was created would be \
                         lost otherwise"
                    );
                    (Checkpoint::TrimHorizon, None)
                }
                StartFrom::Tip => (found.at, None),
            };
            tracing::info!(%shard, was = checkpoint.as_str(), start = at.as_str(), start_us, "start pinned");
            return Some((at, start_us));
        }
    }

    /// Writes to the lease row until the table has it. A lost lease makes this wait for ever; whoever waits for it watches
    /// the lease.
    pub(crate) async fn write(&mut self, write: LeaseWrite) {
        let commit = matches!(write, LeaseWrite::Commit { .. });
        let mut refused = false;
        let started = Instant::now();
        loop {
            let waiting = self.waiting("lease_table", "UpdateItem", 0);
            let written = self.lease.write(write.clone()).await;
            drop(waiting);
            match written {
                Ok(row) => {
                    if refused {
                        self.status.recovered(Side::Delivering);
                    }
                    self.status.lease_counter(row.counter);
                    if commit {
                        metrics::checkpointed(WriteOutcome::Done);
                    }
                    return;
                }
                Err(LeaseWriteError::Lost) => {
                    if commit {
                        metrics::checkpointed(WriteOutcome::NotHeld);
                    }
                    return std::future::pending().await;
                }
                Err(LeaseWriteError::Unavailable(source)) => {
                    if commit {
                        metrics::checkpointed(WriteOutcome::Unavailable);
                    }
                    refused = true;
                    self.stalled(
                        "lease_table",
                        &format!("the lease table accepts no write: {}", chain(&*source)),
                        started,
                    );
                    sleep(self.jittered(RETRY_PAUSE)).await;
                }
            }
        }
    }

    /// Creates the leases of the children.
    pub(crate) async fn create_children(&mut self) {
        let started = Instant::now();
        loop {
            let children = self.known_children().await;
            let waiting = self.waiting("children", "creating the leases of the children", 0);
            let created = self.shared.coordinator.create_children(&self.lease, &children).await;
            drop(waiting);
            match created {
                Ok(()) => return self.status.recovered(Side::Delivering),
                Err(error) => {
                    let problem =
                        format!("could not create the leases of the child shards: {}", chain(&error));
                    self.stalled("children", &problem, started);
                    sleep(self.jittered(RETRY_PAUSE)).await;
                }
            }
        }
    }

    /// The children: as the last page named them, else as the stream lists them.
    async fn known_children(&mut self) -> Vec<ChildShard> {
        if !self.children.is_empty() {
            return self.children.clone();
        }
        let started = Instant::now();
        loop {
            let waiting = self.waiting("no_children", "listing the children", 0);
            let listed = self.stream.lister.children(self.lease.key().shard()).await;
            drop(waiting);
            let problem = match listed {
                Ok(Some(children)) => return children,
                Ok(None) => "the shard is closed, and the stream lists no child shards of it".to_owned(),
                Err(error) => chain(&error),
            };
            self.stalled("no_children", &problem, started);
            sleep(self.jittered(RETRY_PAUSE * 4)).await;
        }
    }

    /// Nothing has moved since `since`.
    pub(crate) fn stalled(&self, reason: &'static str, detail: &str, since: Instant) {
        self.status.stalled_since(Side::Delivering, reason, detail, since);
    }

    /// A call begins, which stalls the shard when it hangs.
    pub(crate) fn waiting(&self, reason: &'static str, what: impl Into<String>, bytes: usize) -> Waiting {
        Waiting::begin(&self.status, Side::Delivering, reason, what, bytes)
    }

    pub(crate) fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.5..1.5))
    }

    pub(crate) fn fork_rng(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::from_rng(&mut self.rng)
    }
}
