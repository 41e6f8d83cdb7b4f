//! Carries out the steps of the protocol: the only place that does what [`Step`] says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::rebuild::Rebuild;
use super::{Shared, StreamSetup};
use crate::batch::{
    Batch, BatchContext, Content, LakeObject, RecordsThere, read_content, read_records, seal_object,
};
use crate::cause::chain;
use crate::checkpoint::{Event, Halt, PendingFormat, PlannedObject, Protocol, Sought, Step};
use crate::deliver::{Backoff, Created, MayCreate, SinkError, calls, retry_until};
use crate::fetch::BytePermit;
use crate::lease::{HeldLease, LeaseWrite, LeaseWriteError};
use crate::shard::{Checkpoint, ChildShard, Position, StartFrom};
use crate::telemetry::metrics::{self, ObjectOutcome, RecoveredHow, WriteOutcome};
use crate::telemetry::status::{ShardHandle, Side};
use crate::telemetry::waiting::Waiting;
use crate::transform::ErrorCode;

/// Objects of one batch that are under way at the same time.
const UPLOADS: usize = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How soon a worker that cannot believe in its lease looks again.
const VALIDITY_PAUSE: Duration = Duration::from_millis(100);
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
#[derive(Default)]
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
    stream: Arc<StreamSetup>,
    lease: Arc<HeldLease>,
    status: Arc<ShardHandle>,
    context: Arc<BatchContext>,
    rng: ChaCha8Rng,
    /// The batch in hand.
    pub(super) batch: Option<Batch>,
    /// The bytes of the batch in hand.
    pub(super) held: Option<BytePermit>,
    /// Children of the shard, where its last page named them.
    pub(super) children: Vec<ChildShard>,
}

impl Steps {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: Arc<StreamSetup>,
        lease: Arc<HeldLease>,
        status: Arc<ShardHandle>,
        context: Arc<BatchContext>,
        rng: ChaCha8Rng,
    ) -> Self {
        Self { shared, stream, lease, status, context, rng, batch: None, held: None, children: Vec::new() }
    }

    /// Reports `event` and carries out what follows from it, until there is nothing to do but read. A lost lease
    /// makes this wait for ever; whoever waits for it watches the lease.
    pub(super) async fn drive(&mut self, protocol: &mut Protocol, event: Event) -> Outcome {
        protocol.write_format(self.pending_format());
        let mut step = protocol.on(event);
        let (mut repaired, mut rebuilt) = (false, false);
        let mut landed = None;
        loop {
            tracing::debug!(shard = %self.lease.key(), ?step, "step");
            let event = match step {
                Step::Rebuild { first, last, generation, without, done } => {
                    rebuilt = true;
                    self.rebuild(first, last, generation, &without, done).await
                }
                Step::FindStart(checkpoint) => self.find_start(&checkpoint).await,
                Step::Find(objects) => Event::Found { all: self.find(&objects).await },
                Step::Compare(_) => Event::Compared { ours: self.compare().await },
                Step::Seal(keys) => {
                    repaired = true;
                    self.seal(&keys).await;
                    Event::Sealed
                }
                Step::Write(write) => {
                    self.write(write).await;
                    Event::Written
                }
                Step::Deliver(keys) => match self.deliver(&keys).await {
                    Some(now) => {
                        landed = Some(now);
                        Event::Delivered
                    }
                    None => Event::Foreign,
                },
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
                        tracing::info!(
                            shard = %self.lease.key(), ?how,
                            "completed the previous owner's pending batch"
                        );
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
            protocol.write_format(self.pending_format());
            step = protocol.on(event);
        }
    }

    /// How batches are described: as set, or as the whole fleet understands it.
    fn pending_format(&self) -> PendingFormat {
        self.shared.settings.pending_format.unwrap_or_else(|| {
            let read_by_all = self.shared.coordinator.pending_format();
            if read_by_all >= 2 { PendingFormat::Two } else { PendingFormat::One }
        })
    }

    /// Builds the objects of a batch again, without the rows that stand in `without`.
    async fn rebuild(
        &mut self,
        first: Position,
        last: Position,
        generation: u32,
        without: &[String],
        done: Option<Position>,
    ) -> Event {
        let there = self.records_there(without).await;
        // A first rebuild whose objects are of no use: its bytes must not stand in the way of the second.
        (self.batch, self.held) = (None, None);
        let mut rebuild = Rebuild {
            stream: Arc::clone(&self.stream),
            lease: Arc::clone(&self.lease),
            status: Arc::clone(&self.status),
            context: Arc::clone(&self.context),
            rng: self.fork_rng(),
            first,
            last,
            generation,
            there: Arc::new(there),
            done,
        };
        let Some((batch, held)) = rebuild.run().await else {
            let (first, last) = (&rebuild.first.sequence, &rebuild.last.sequence);
            tracing::warn!(
                shard = %self.lease.key(), %first, %last,
                "records of the pending batch are no longer in the stream"
            );
            return Event::RecordsGone;
        };
        let objects = batch.iter().flat_map(planned_objects).collect();
        let streamed = batch.as_ref().is_some_and(|batch| !batch.packed.is_empty());
        (self.batch, self.held) = (batch, Some(held));
        Event::Rebuilt { objects, streamed }
    }

    /// The records whose rows are in these objects.
    async fn records_there(&mut self, keys: &[String]) -> RecordsThere {
        let mut there = RecordsThere::default();
        for key in keys {
            loop {
                let Some(object) = self.read("read", key).await else { break };
                match read_records(&object) {
                    Ok(records) => break there.extend(records),
                    // Somebody changed an object of ours. Guessing would double its rows.
                    Err(error) => {
                        self.stalled("unreadable_object", &format!("{key}: {error}"), Instant::now());
                        sleep(RETRY_PAUSE * 20).await;
                    }
                }
            }
        }
        there
    }

    /// Looks up what a symbolic checkpoint stands for, until the stream says so.
    async fn find_start(&mut self, checkpoint: &Checkpoint) -> Event {
        let from = match checkpoint {
            Checkpoint::AtTimestamp => {
                let time = self.lease.row().start_us.or(self.stream.initial_timestamp_us);
                let Some(us) = time else { return Event::StartUnknown };
                StartFrom::Time(us)
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
            return Event::StartFound { at, start_us };
        }
    }

    /// Whether every object is there, and holds what it must.
    async fn find(&mut self, objects: &[Sought]) -> bool {
        for Sought { key, content } in objects {
            let Some(found) = self.read("find", key).await else { return false };
            if !holds(found, *content).await {
                tracing::error!(shard = %self.lease.key(), %key, "not the object that was prepared");
                return false;
            }
        }
        true
    }

    /// Whether those objects of the batch in hand that exist hold the same rows.
    async fn compare(&mut self) -> bool {
        let objects = self.batch.iter().flat_map(|batch| &batch.objects);
        let objects: Vec<(String, Content)> = objects.map(|o| (o.key.clone(), o.content)).collect();
        for (key, content) in objects {
            if let Some(found) = self.read("compare", &key).await
                && !holds(found, Some(content)).await
            {
                self.foreign(&key);
                return false;
            }
        }
        true
    }

    async fn seal(&mut self, keys: &[String]) {
        for key in keys {
            let seed = self.rng.random();
            let outcome = self.create(seed, "seal", key, &seal_object()).await;
            tracing::info!(%key, ?outcome, "sealed an object of another transform");
        }
    }

    /// Creates the objects of the batch in hand, and sends its other rows. `None` when an object exists that holds other
    /// rows: then nothing was sent, and the batch is not in hand any more.
    async fn deliver(&mut self, keys: &[String]) -> Option<Landed> {
        let Some(batch) = self.batch.take() else {
            // A batch without rows, whose records the checkpoint has passed meanwhile: nothing of it was built again.
            assert!(keys.is_empty(), "a batch is in hand when it has objects");
            return Some(Landed::default());
        };
        let _held = self.held.take();
        self.status.resumed();
        let started = Instant::now();
        debug_assert!(batch.objects.iter().map(|object| &object.key).eq(keys));
        let seeds: Vec<u64> = batch.objects.iter().map(|_| self.rng.random()).collect();
        let this = &*self;
        let ours: Vec<bool> = stream::iter(batch.objects.into_iter().zip(seeds))
            .map(|(object, seed)| async move { this.deliver_object(seed, &object).await })
            .buffer_unordered(UPLOADS)
            .collect()
            .await;
        if ours.contains(&false) {
            return None;
        }
        if !keys.is_empty() {
            metrics::deliver_finished("objects", true, started.elapsed());
        }
        self.send(batch.packed).await;
        self.status.recovered(Side::Delivering);
        Some(Landed { records: batch.records, bytes: batch.rows_bytes, dead_letters: batch.dead_letters })
    }

    /// Creates an object; one that exists counts when it holds the same rows. It may have been made by a former owner, or
    /// by ourselves when an answer was lost; an empty seal or the rows of another build are neither.
    async fn deliver_object(&self, seed: u64, object: &LakeObject) -> bool {
        loop {
            if self.create(seed, "deliver", &object.key, &object.body).await == Created::New {
                metrics::object_delivered(ObjectOutcome::Created);
                return true;
            }
            // Gone again: somebody takes objects away.
            let Some(found) = self.read_seeded(seed, "read", &object.key).await else { continue };
            let ours = found == object.body || holds(found, Some(object.content)).await;
            if ours {
                metrics::object_delivered(ObjectOutcome::Existed);
            } else {
                self.foreign(&object.key);
            }
            return ours;
        }
    }

    /// Puts one object, create-only, for as long as it takes. The lease is looked at before each try, and by the sink before
    /// each part and the completion of an upload: what a worker sends when its time is over could arrive after the batch
    /// was finished and its objects were moved away.
    async fn create(&self, seed: u64, action: &'static str, key: &str, body: &Bytes) -> Created {
        let lease = Arc::clone(&self.lease);
        let may: MayCreate = Arc::new(move || lease.is_valid(Instant::now()));
        let create = |shared: Arc<Shared>, key: String| {
            let (body, may) = (body.clone(), Arc::clone(&may));
            async move {
                if !may() {
                    let _waiting = self.waiting("lease_table", "renewing the lease", 0);
                    while !may() {
                        sleep(VALIDITY_PAUSE).await;
                    }
                }
                let _waiting = self.waiting("lake", format!("could not {action} {key}"), body.len());
                shared.sink.create_while(&key, body, may).await
            }
        };
        self.retry(seed, action, key, create).await
    }

    fn foreign(&self, key: &str) {
        metrics::object_delivered(ObjectOutcome::Foreign);
        tracing::error!(
            shard = %self.lease.key(), %key,
            "an object with this key exists and holds other rows: repairing the batch; rows that are in no \
             object get new objects"
        );
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
            let bytes = call.iter().map(Bytes::len).sum();
            let _waiting = self.waiting("firehose", "PutRecordBatch", bytes);
            firehose.deliver(call, Backoff { seed }, failed).await;
            self.status.recovered(Side::Delivering);
        }
        metrics::deliver_finished("firehose", true, started.elapsed());
    }

    /// Writes to the lease row until the table has it.
    async fn write(&mut self, write: LeaseWrite) {
        let commit = matches!(write, LeaseWrite::Commit(_));
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

    async fn create_children(&mut self) {
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
            let waiting = self.waiting("no_children", "ListShards", 0);
            let listed = self.stream.lister.list().await;
            drop(waiting);
            let problem = match listed {
                Ok(shards) => {
                    let mine = |shard: &crate::shard::Shard| shard.parents.contains(self.lease.key().shard());
                    let child = |shard: crate::shard::Shard| ChildShard {
                        id: shard.id,
                        parents: shard.parents,
                        hash_range: shard.hash_range,
                    };
                    let children: Vec<_> = shards.into_iter().filter(mine).map(child).collect();
                    if !children.is_empty() {
                        return children;
                    }
                    "the shard is closed, and the stream lists no child shards of it".to_owned()
                }
                Err(error) => chain(&error),
            };
            self.stalled("no_children", &problem, started);
            sleep(self.jittered(RETRY_PAUSE * 4)).await;
        }
    }

    /// An object, if there is one.
    async fn read(&mut self, action: &'static str, key: &str) -> Option<Bytes> {
        let seed = self.rng.random();
        let found = self.read_seeded(seed, action, key).await;
        self.status.recovered(Side::Delivering);
        found
    }

    async fn read_seeded(&self, seed: u64, action: &'static str, key: &str) -> Option<Bytes> {
        let read = |shared: Arc<Shared>, key: String| async move {
            let _waiting = self.waiting("lake", format!("could not {action} {key}"), 0);
            shared.sink.read(&key).await
        };
        self.retry(seed, action, key, read).await
    }

    async fn retry<T, F, Fut>(&self, seed: u64, action: &'static str, key: &str, call: F) -> T
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
            tracing::warn!(%shard, sink, action, tries, ?wait, reason, "delivery failed, retrying");
        }
        if tries >= STALL_TRIES || started.elapsed() >= STALL_TIME {
            self.stalled(sink, reason, started);
        } else {
            self.status.failed(Side::Delivering, reason);
        }
    }

    /// Nothing has moved since `since`.
    fn stalled(&self, reason: &'static str, detail: &str, since: Instant) {
        self.status.stalled_since(Side::Delivering, reason, detail, since);
    }

    /// A call begins, which stalls the shard when it hangs.
    fn waiting(&self, reason: &'static str, what: impl Into<String>, bytes: usize) -> Waiting {
        Waiting::begin(&self.status, Side::Delivering, reason, what, bytes)
    }

    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.5..1.5))
    }

    fn fork_rng(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::from_rng(&mut self.rng)
    }
}

/// What the protocol is told of a batch's objects.
pub(super) fn planned_objects(batch: &Batch) -> impl Iterator<Item = PlannedObject> {
    batch.objects.iter().map(|object| PlannedObject { key: object.key.clone(), content: object.content })
}

/// Whether an object holds this, or rows at least.
async fn holds(object: Bytes, wanted: Option<Content>) -> bool {
    let bytes = object.len();
    let ((), found) = super::sized(bytes, (), move |()| read_content(&object)).await;
    found.is_ok_and(|found| wanted.map_or(found.rows > 0, |wanted| found == wanted))
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
