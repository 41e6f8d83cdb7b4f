//! Carries out the steps of the protocol: the only place that does what [`Step`] says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::rebuild::Rebuild;
use crate::batch::{Batch, BatchContext, read_positions, seal_object};
use crate::cause::chain;
use crate::checkpoint::{Event, Halt, Protocol, Step};
use crate::deliver::{Backoff, Created, SinkError, calls, retry_until};
use crate::fetch::BytePermit;
use crate::lease::{HeldLease, LeaseWrite, LeaseWriteError};
use crate::shard::{Checkpoint, ChildShard, Position};
use crate::telemetry::metrics::{self, ObjectOutcome, RecoveredHow, WriteOutcome};
use crate::telemetry::status::{ShardHandle, Side};
use crate::transform::ErrorCode;

/// Objects of one batch that are under way at the same time.
const UPLOADS: usize = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A failing sink is shown as a stall from this try on; one failure is part of a busy day.
const STALL_TRIES: u32 = 3;
/// Or from this time on: a sink that does not answer takes long for one try.
const STALL_TIME: Duration = Duration::from_secs(10);

/// Where the protocol stands after its steps.
pub(super) enum Outcome {
    /// Read on after this checkpoint.
    Read(Checkpoint),
    /// The shard is done.
    Finished,
    /// A person has to look.
    Halted(Halt),
}

/// What a delivery brought into the lake, to be counted when it is committed.
struct Landed {
    records: u64,
    bytes: u64,
    dead_letters: Vec<(ErrorCode, u64)>,
}

fn report_landed(landed: &Landed) {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    metrics::batch_delivered(size(landed.records), size(landed.bytes));
    for (reason, letters) in &landed.dead_letters {
        metrics::records_dead_lettered(reason.as_str(), *letters);
    }
}

/// The hands of the protocol for one delivery or recovery.
pub(super) struct Steps {
    shared: Arc<Shared>,
    lease: Arc<HeldLease>,
    status: Arc<ShardHandle>,
    context: Arc<BatchContext>,
    rng: ChaCha8Rng,
    /// The batch in hand.
    pub(super) batch: Option<Batch>,
    /// The bytes of a batch that was rebuilt.
    rebuilt: Option<BytePermit>,
    /// Children of the shard, where its last page named them.
    pub(super) children: Vec<ChildShard>,
}

impl Steps {
    pub(super) fn new(
        shared: Arc<Shared>,
        lease: Arc<HeldLease>,
        status: Arc<ShardHandle>,
        context: Arc<BatchContext>,
        rng: ChaCha8Rng,
    ) -> Self {
        Self { shared, lease, status, context, rng, batch: None, rebuilt: None, children: Vec::new() }
    }

    /// Reports `event` and carries out what follows from it, until there is nothing to do but read. A lost lease
    /// makes this wait for ever; whoever waits for it watches the lease.
    pub(super) async fn drive(&mut self, protocol: &mut Protocol, event: Event) -> Outcome {
        let mut step = protocol.on(event);
        let (mut repaired, mut rebuilt) = (false, false);
        let mut landed = None;
        loop {
            tracing::debug!(shard = %self.lease.key(), ?step, "step");
            let event = match step {
                Step::Rebuild { first, last, generation, without } => {
                    rebuilt = true;
                    self.rebuild(first, last, generation, &without).await
                }
                Step::Find(keys) => Event::Found { all: self.find(&keys).await },
                Step::Seal(keys) => {
                    repaired = true;
                    self.seal(&keys).await;
                    Event::Sealed
                }
                Step::Write(write) => {
                    self.write(write).await;
                    Event::Written
                }
                Step::Deliver(keys) => {
                    landed = Some(self.deliver(&keys).await);
                    Event::Delivered
                }
                Step::CreateChildren => {
                    self.create_children().await;
                    Event::ChildrenCreated
                }
                Step::Read(checkpoint) => {
                    if let Some(landed) = landed {
                        report_landed(&landed);
                    }
                    if rebuilt {
                        let how = if repaired { RecoveredHow::Repaired } else { RecoveredHow::Finished };
                        metrics::batch_recovered(how);
                        tracing::info!(shard = %self.lease.key(), ?how, "batch of a former owner brought to its end");
                    }
                    return Outcome::Read(checkpoint);
                }
                Step::Finished => {
                    if let Some(landed) = landed {
                        report_landed(&landed);
                    }
                    return Outcome::Finished;
                }
                Step::Halt(halt) => return Outcome::Halted(halt),
            };
            step = protocol.on(event);
        }
    }

    /// Builds the objects of a batch again, without the rows that stand in `without`.
    async fn rebuild(
        &mut self,
        first: Position,
        last: Position,
        generation: u32,
        without: &[String],
    ) -> Event {
        let there = self.positions(without).await;
        // A first rebuild whose objects are of no use: its bytes must not stand in the way of the second.
        (self.batch, self.rebuilt) = (None, None);
        let mut rebuild = Rebuild {
            shared: Arc::clone(&self.shared),
            lease: Arc::clone(&self.lease),
            status: Arc::clone(&self.status),
            context: Arc::clone(&self.context),
            rng: self.fork_rng(),
            first,
            last,
            generation,
            there: Arc::new(there),
        };
        let Some((batch, held)) = rebuild.run().await else {
            let (first, last) = (&rebuild.first.sequence, &rebuild.last.sequence);
            tracing::warn!(shard = %self.lease.key(), %first, %last, "records of the pending batch have left the stream");
            return Event::RecordsGone;
        };
        let objects = batch.iter().flat_map(|batch| &batch.objects);
        let objects = objects.map(|object| object.key.clone()).collect();
        let streamed = batch.as_ref().is_some_and(|batch| !batch.packed.is_empty());
        (self.batch, self.rebuilt) = (batch, Some(held));
        Event::Rebuilt { objects, streamed }
    }

    /// Positions of the rows in these objects.
    async fn positions(&mut self, keys: &[String]) -> HashSet<Position> {
        let mut positions = HashSet::new();
        for key in keys {
            loop {
                let object =
                    self.retry("read", key, |shared, key| async move { shared.sink.read(&key).await }).await;
                let Some(object) = object else { break };
                match read_positions(&object) {
                    Ok(rows) => break positions.extend(rows),
                    // Somebody changed an object of ours. Guessing would double its rows.
                    Err(error) => {
                        self.stalled("unreadable_object", &format!("{key}: {error}"));
                        sleep(RETRY_PAUSE * 20).await;
                    }
                }
            }
        }
        positions
    }

    async fn find(&mut self, keys: &[String]) -> bool {
        for key in keys {
            if !self.retry("find", key, |shared, key| async move { shared.sink.exists(&key).await }).await {
                return false;
            }
        }
        true
    }

    async fn seal(&mut self, keys: &[String]) {
        for key in keys {
            let outcome =
                self.retry("seal", key, |shared, key| async move {
                    shared.sink.create(&key, seal_object()).await
                })
                .await;
            tracing::info!(%key, ?outcome, "object of another transform sealed");
        }
    }

    /// Creates the objects of the batch in hand, and sends its other rows.
    async fn deliver(&mut self, keys: &[String]) -> Landed {
        let batch = self.batch.take().expect("a batch is in hand when it is to be delivered");
        let _held = self.rebuilt.take();
        self.status.resumed();
        let started = Instant::now();
        debug_assert!(batch.objects.iter().map(|object| &object.key).eq(keys));
        let bodies: Vec<(String, Bytes)> =
            batch.objects.into_iter().map(|object| (object.key, object.body)).collect();
        let seeds: Vec<u64> = bodies.iter().map(|_| self.rng.random()).collect();
        let this = &*self;
        stream::iter(bodies.into_iter().zip(seeds))
            .for_each_concurrent(UPLOADS, |((key, body), seed)| async move {
                let create = |shared: Arc<Shared>, key: String| {
                    let body = body.clone();
                    async move { shared.sink.create(&key, body).await }
                };
                let created = this.retry_seeded(seed, "deliver", &key, create).await;
                metrics::object_delivered(match created {
                    Created::New => ObjectOutcome::Created,
                    Created::Existed => ObjectOutcome::Existed,
                });
            })
            .await;
        if !keys.is_empty() {
            metrics::deliver_finished("objects", true, started.elapsed());
        }
        self.send(batch.packed).await;
        self.status.recovered(Side::Delivering);
        Landed { records: batch.records, bytes: batch.rows_bytes, dead_letters: batch.dead_letters }
    }

    /// Sends packed rows to the delivery stream, one call after the other so that they arrive in the order of the shard.
    async fn send(&mut self, packed: Vec<Bytes>) {
        if packed.is_empty() {
            return;
        }
        let started = Instant::now();
        for call in calls(packed) {
            let (seed, call_started) = (self.rng.random(), Instant::now());
            let firehose = self.shared.firehose.as_ref().expect("rows are packed for a delivery stream only");
            let failed = |reason: &str, tries, wait| {
                self.trouble("firehose", "send", reason, tries, wait, call_started)
            };
            firehose.deliver(call, Backoff { seed }, failed).await;
            self.status.recovered(Side::Delivering);
        }
        metrics::deliver_finished("firehose", true, started.elapsed());
    }

    /// Writes to the lease row until the table has it.
    async fn write(&mut self, write: LeaseWrite) {
        let commit = matches!(write, LeaseWrite::Commit(_));
        let mut refused = false;
        loop {
            match self.lease.write(write.clone()).await {
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
                        &format!("the lease table takes no write: {}", chain(&*source)),
                    );
                    sleep(self.jittered(RETRY_PAUSE)).await;
                }
            }
        }
    }

    async fn create_children(&mut self) {
        loop {
            let children = self.known_children().await;
            match self.shared.coordinator.create_children(&self.lease, &children).await {
                Ok(()) => return self.status.recovered(Side::Delivering),
                Err(error) => {
                    let problem = format!("could not create the leases of the children: {}", chain(&error));
                    self.stalled("children", &problem);
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
        loop {
            let problem = match self.shared.lister.list().await {
                Ok(shards) => {
                    let mine = |shard: &crate::shard::Shard| shard.parents.contains(self.lease.key());
                    let child = |shard: crate::shard::Shard| ChildShard {
                        id: shard.id,
                        parents: shard.parents,
                        hash_range: shard.hash_range,
                    };
                    let children: Vec<_> = shards.into_iter().filter(mine).map(child).collect();
                    if !children.is_empty() {
                        return children;
                    }
                    "the shard is closed and the stream lists no child of it".to_owned()
                }
                Err(error) => chain(&error),
            };
            self.stalled("no_children", &problem);
            sleep(self.jittered(RETRY_PAUSE * 4)).await;
        }
    }

    async fn retry<T, F, Fut>(&mut self, action: &'static str, key: &str, call: F) -> T
    where
        F: Fn(Arc<Shared>, String) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        let seed = self.rng.random();
        let done = self.retry_seeded(seed, action, key, call).await;
        self.status.recovered(Side::Delivering);
        done
    }

    async fn retry_seeded<T, F, Fut>(&self, seed: u64, action: &'static str, key: &str, call: F) -> T
    where
        F: Fn(Arc<Shared>, String) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        let started = Instant::now();
        retry_until(
            Backoff { seed },
            || call(Arc::clone(&self.shared), key.to_owned()),
            |error: &SinkError, tries, wait| {
                self.trouble("lake", action, &chain(error), tries, wait, started);
            },
        )
        .await
    }

    /// One try failed. Tells it now and then, and shows a stall when it goes on for long.
    fn trouble(
        &self,
        sink: &'static str,
        action: &'static str,
        reason: &str,
        tries: u32,
        wait: Duration,
        started: Instant,
    ) {
        metrics::deliver_retried();
        if tries.is_power_of_two() {
            let shard = self.lease.key();
            tracing::warn!(%shard, sink, action, tries, ?wait, reason, "delivery failed, trying again");
        }
        if tries >= STALL_TRIES || started.elapsed() >= STALL_TIME {
            self.stalled(sink, reason);
        } else {
            self.status.failed(Side::Delivering, reason);
        }
    }

    fn stalled(&self, reason: &'static str, detail: &str) {
        self.status.stalled(Side::Delivering, reason, detail);
    }

    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.5..1.5))
    }

    fn fork_rng(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::from_rng(&mut self.rng)
    }
}
