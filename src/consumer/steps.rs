//! Carries out the steps of the protocol: the only place that does what [`Step`] says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use rand::Rng;
use tokio::time::{Instant, sleep};

use super::Lake;
use super::rebuild::Rebuild;
use super::row::{RETRY_PAUSE, ShardRow};
use crate::batch::{
    Batch, BatchContext, Content, LakeObject, RecordsThere, high_risk_copy, read_content, read_records,
    seal_object,
};
use crate::cause::chain;
use crate::checkpoint::{Event, Halt, PendingFormat, PlannedObject, Protocol, Sought, Step, Unpacking};
use crate::deliver::{Backoff, Created, MayCreate, SinkError, calls, retry_until};
use crate::fetch::BytePermit;
use crate::lease::LeaseWrite;
use crate::shard::{Checkpoint, Position, RecordId};
use crate::telemetry::metrics::{self, ObjectOutcome, RecoveredHow};
use crate::telemetry::status::{ShardHandle, Side};
use crate::transform::ErrorCode;

/// Objects of one batch that are under way at the same time.
const UPLOADS: usize = 4;
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
    /// When the last of its records arrived.
    arrived_us: Option<i64>,
}

/// A commit of what landed says when its last record arrived.
fn with_arrival(write: LeaseWrite, landed: Option<&Landed>) -> LeaseWrite {
    match write {
        LeaseWrite::Commit { to, .. } => {
            LeaseWrite::Commit { to, arrived_us: landed.and_then(|landed| landed.arrived_us), epoch: None }
        }
        other => other,
    }
}

fn report_landed(landed: &Landed, status: &ShardHandle) {
    status.landed(landed.records, landed.bytes, landed.dead_letters.iter().map(|(_, letters)| letters).sum());
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    metrics::batch_delivered(size(landed.records), size(landed.bytes));
    for (reason, letters) in &landed.dead_letters {
        metrics::records_dead_lettered(reason.as_str(), *letters);
    }
}

/// The hands of the protocol for one delivery or recovery.
pub(super) struct Steps {
    pub(super) row: ShardRow,
    lake: Arc<Lake>,
    context: Arc<BatchContext>,
    /// The batch in hand.
    pub(super) batch: Option<Batch>,
    /// The bytes of the batch in hand.
    pub(super) held: Option<BytePermit>,
    /// Rows that were copied for alerts.
    alerted: u64,
}

impl Steps {
    pub(super) fn new(row: ShardRow, lake: Arc<Lake>, context: Arc<BatchContext>) -> Self {
        Self { row, lake, context, batch: None, held: None, alerted: 0 }
    }

    /// Reports `event` and carries out what follows from it, until there is nothing to do but read. A lost lease
    /// makes this wait for ever; whoever waits for it watches the lease.
    pub(super) async fn drive(&mut self, protocol: &mut Protocol, event: Event) -> Outcome {
        protocol.write_format(self.pending_format());
        let mut step = protocol.on(event);
        let (mut repaired, mut rebuilt) = (false, false);
        let mut landed = None;
        loop {
            tracing::debug!(shard = %self.row.lease.key(), ?step, "step");
            let event = match step {
                Step::Rebuild { first, last, generation, without, done } => {
                    rebuilt = true;
                    self.rebuild(first, last, generation, &without, done).await
                }
                Step::FindStart(checkpoint) => match self.row.find_start(&checkpoint).await {
                    Some((at, start_us)) => Event::StartFound { at, start_us },
                    None => Event::StartUnknown,
                },
                Step::Find(objects) => Event::Found { all: self.find(&objects).await },
                Step::Compare(_) => Event::Compared { ours: self.compare().await },
                Step::Seal(keys) => {
                    repaired = true;
                    self.seal(&keys).await;
                    Event::Sealed
                }
                Step::Write(write) => {
                    self.row.write(with_arrival(write, landed.as_ref())).await;
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
                    self.row.create_children().await;
                    Event::ChildrenCreated
                }
                Step::Read(checkpoint) => {
                    self.report(landed.as_ref());
                    if rebuilt {
                        let how = if repaired { RecoveredHow::Repaired } else { RecoveredHow::Finished };
                        metrics::batch_recovered(how);
                        tracing::info!(
                            shard = %self.row.lease.key(), ?how,
                            "completed the previous owner's pending batch"
                        );
                    }
                    return Outcome::Read(checkpoint);
                }
                Step::Finished => {
                    self.report(landed.as_ref());
                    return Outcome::Finished;
                }
                Step::Halt(halt) => return Outcome::Halted(halt),
            };
            protocol.write_format(self.pending_format());
            step = protocol.on(event);
        }
    }

    /// Counts what was committed.
    fn report(&self, landed: Option<&Landed>) {
        metrics::rows_alerted(self.alerted);
        if let Some(landed) = landed {
            report_landed(landed, &self.row.status);
        }
    }

    /// How batches are described: as set, or as the whole fleet understands it.
    fn pending_format(&self) -> PendingFormat {
        self.lake.settings.pending_format.unwrap_or_else(|| {
            let read_by_all = self.row.shared.coordinator.pending_format();
            if read_by_all >= 2 { PendingFormat::Two } else { PendingFormat::One }
        })
    }

    /// Builds the objects of a batch again, without the rows that stand in `without`.
    async fn rebuild(
        &mut self,
        first: Position,
        last: RecordId,
        generation: u32,
        without: &[String],
        done: Option<RecordId>,
    ) -> Event {
        self.alerted = 0;
        let there = self.records_there(without).await;
        // A first rebuild whose objects are of no use: its bytes must not stand in the way of the second.
        (self.batch, self.held) = (None, None);
        let mut rebuild = Rebuild {
            stream: Arc::clone(&self.row.stream),
            lease: Arc::clone(&self.row.lease),
            status: Arc::clone(&self.row.status),
            context: Arc::clone(&self.context),
            rng: self.row.fork_rng(),
            first,
            last,
            generation,
            there: Arc::new(there),
            done,
        };
        let Some((batch, held, last)) = rebuild.run().await else {
            let (first, last) = (&rebuild.first.sequence, &rebuild.last.sequence);
            tracing::warn!(
                shard = %self.row.lease.key(), %first, %last,
                "records of the pending batch are no longer in the stream"
            );
            return Event::RecordsGone;
        };
        let objects = batch.iter().flat_map(planned_objects).collect();
        let streamed = batch.as_ref().is_some_and(|batch| !batch.packed.is_empty());
        let unpacking = Unpacking::of(batch.as_ref().is_some_and(|batch| batch.unpacked));
        (self.batch, self.held) = (batch, Some(held));
        Event::Rebuilt { objects, streamed, last, unpacking }
    }

    /// The records whose rows are in these objects, which nobody may write any more. Their alerts are there then.
    async fn records_there(&mut self, keys: &[String]) -> RecordsThere {
        let mut there = RecordsThere::default();
        for key in keys {
            loop {
                let Some(object) = self.read("read", key).await else { break };
                match read_records(&object) {
                    Ok(records) => {
                        there.extend(records);
                        let seed = self.row.rng.random();
                        break self.alerted += self.alert(seed, key, &object).await;
                    }
                    // Somebody changed an object of ours. Guessing would double its rows.
                    Err(error) => {
                        self.row.stalled("unreadable_object", &format!("{key}: {error}"), Instant::now());
                        sleep(RETRY_PAUSE * 20).await;
                    }
                }
            }
        }
        there
    }

    /// Whether every object is there, and holds what it must. Alerts of those that do are there then.
    async fn find(&mut self, objects: &[Sought]) -> bool {
        for Sought { key, content } in objects {
            let Some(found) = self.read("find", key).await else { return false };
            if !holds(found.clone(), *content).await {
                tracing::error!(shard = %self.row.lease.key(), %key, "not the object that was prepared");
                return false;
            }
            let seed = self.row.rng.random();
            self.alerted += self.alert(seed, key, &found).await;
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
            let seed = self.row.rng.random();
            let outcome = self.create(seed, "seal", key, &seal_object()).await;
            tracing::info!(%key, ?outcome, "sealed an object of another transform");
        }
    }

    /// Creates the objects of the batch in hand, each with its alerts, and sends its other rows. `None` when an object exists that holds other
    /// rows: then nothing was sent, and the batch is not in hand any more.
    async fn deliver(&mut self, keys: &[String]) -> Option<Landed> {
        let Some(batch) = self.batch.take() else {
            // A batch without rows, whose records the checkpoint has passed meanwhile: nothing of it was built again.
            assert!(keys.is_empty(), "a batch is in hand when it has objects");
            return Some(Landed::default());
        };
        let _held = self.held.take();
        self.row.status.resumed();
        let started = Instant::now();
        debug_assert!(batch.objects.iter().map(|object| &object.key).eq(keys));
        let seeds: Vec<u64> = batch.objects.iter().map(|_| self.row.rng.random()).collect();
        let this = &*self;
        let alerted: Vec<Option<u64>> = stream::iter(batch.objects.into_iter().zip(seeds))
            .map(|(object, seed)| async move {
                if this.deliver_object(seed, &object).await {
                    return Some(this.alert(seed, &object.key, &object.body).await);
                }
                this.foreign(&object.key);
                None
            })
            .buffer_unordered(UPLOADS)
            .collect()
            .await;
        self.alerted += alerted.into_iter().sum::<Option<u64>>()?;
        if !keys.is_empty() {
            metrics::deliver_finished("objects", true, started.elapsed());
        }
        self.send(batch.packed).await;
        self.row.status.recovered(Side::Delivering);
        Some(Landed {
            records: batch.records,
            bytes: batch.rows_bytes,
            dead_letters: batch.dead_letters,
            arrived_us: Some(batch.newest_arrival_us),
        })
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
            }
            return ours;
        }
    }

    /// Puts one object, create-only, for as long as it takes. The lease is looked at before each try, and by the sink before
    /// each part and the completion of an upload: what a worker sends when its time is over could arrive after the batch
    /// was finished and its objects were moved away.
    async fn create(&self, seed: u64, action: &'static str, key: &str, body: &Bytes) -> Created {
        let lease = Arc::clone(&self.row.lease);
        let may: MayCreate = Arc::new(move || lease.is_valid(Instant::now()));
        let create = |lake: Arc<Lake>, key: String| {
            let (body, may) = (body.clone(), Arc::clone(&may));
            async move {
                if !may() {
                    let _waiting = self.row.waiting("lease_table", "renewing the lease", 0);
                    while !may() {
                        sleep(VALIDITY_PAUSE).await;
                    }
                }
                let _waiting = self.row.waiting("lake", format!("could not {action} {key}"), body.len());
                lake.sink.create_while(&key, body, may).await
            }
        };
        self.retry(seed, action, key, create).await
    }

    /// Copies the rows of an object that alerts are for, where they are on: before the checkpoint passes the object,
    /// whoever created it. It must be in the lake already, as it is now, for good. Answers how many rows that were.
    async fn alert(&self, seed: u64, key: &str, object: &Bytes) -> u64 {
        if !self.context.layout.alerts {
            return 0;
        }
        let (of, bytes, gzip) = (key.to_owned(), object.clone(), self.context.limits.gzip);
        let ((), copy) = super::sized(object.len(), (), move |()| high_risk_copy(&of, &bytes, gzip)).await;
        let Some(copy) = copy.expect("an object that was made or read before") else { return 0 };
        if self.deliver_object(seed, &copy).await {
            return copy.content.rows;
        }
        metrics::object_delivered(ObjectOutcome::Foreign);
        tracing::error!(
            shard = %self.row.lease.key(), key = copy.key,
            "an object with this key exists and holds other rows: the alerts that belong there are not written"
        );
        0
    }

    fn foreign(&self, key: &str) {
        metrics::object_delivered(ObjectOutcome::Foreign);
        tracing::error!(
            shard = %self.row.lease.key(), %key,
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
            let (seed, call_started) = (self.row.rng.random(), Instant::now());
            let firehose = self.lake.firehose.as_ref().expect("rows are packed for a delivery stream only");
            let failed = |reason: &str, tries, wait| {
                self.trouble("firehose", "send", reason, tries, wait, call_started)
            };
            let bytes = call.iter().map(Bytes::len).sum();
            let _waiting = self.row.waiting("firehose", "PutRecordBatch", bytes);
            firehose.deliver(call, Backoff { seed }, failed).await;
            self.row.status.recovered(Side::Delivering);
        }
        metrics::deliver_finished("firehose", true, started.elapsed());
    }

    /// An object, if there is one.
    async fn read(&mut self, action: &'static str, key: &str) -> Option<Bytes> {
        let seed = self.row.rng.random();
        let found = self.read_seeded(seed, action, key).await;
        self.row.status.recovered(Side::Delivering);
        found
    }

    async fn read_seeded(&self, seed: u64, action: &'static str, key: &str) -> Option<Bytes> {
        let read = |lake: Arc<Lake>, key: String| async move {
            let _waiting = self.row.waiting("lake", format!("could not {action} {key}"), 0);
            lake.sink.read(&key).await
        };
        self.retry(seed, action, key, read).await
    }

    async fn retry<T, F, Fut>(&self, seed: u64, action: &'static str, key: &str, call: F) -> T
    where
        F: Fn(Arc<Lake>, String) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        let started = Instant::now();
        retry_until(
            Backoff { seed },
            || call(Arc::clone(&self.lake), key.to_owned()),
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
        self.row.status.deliver_failed();
        if tries.is_power_of_two() {
            let shard = self.row.lease.key();
            tracing::warn!(%shard, sink, action, tries, ?wait, reason, "delivery failed, retrying");
        }
        if tries >= STALL_TRIES || started.elapsed() >= STALL_TIME {
            self.row.stalled(sink, reason, started);
        } else {
            self.row.status.failed(Side::Delivering, reason);
        }
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
