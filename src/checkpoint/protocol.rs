//! The protocol as a pure state machine: events in, the next step out. No async, no clock, no I/O; the consumer,
//! the model checker and the simulation all drive this one.

use super::pending::{PendingBatch, PendingError, PendingFormat, Proof, Stage, Unpacking};
use crate::batch::Content;
use crate::lease::{LastPrepared, LeaseWrite, Pending};
use crate::shard::{Checkpoint, Position, RecordId};

/// The longest description, bytes: an item of DynamoDB takes 400 KB, and the row holds more than this. It has room for
/// the keys of the largest batch and of two repairs of it, written in full.
pub const STATE_BYTES_MAX: usize = 300 << 10;
/// The most repairs of one batch. Each needs a takeover by a build that would make other objects, so that many are no
/// accident any more, and each reads all objects of those before it.
const GENERATIONS_MAX: u32 = 64;

/// One object of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedObject {
    /// Its key.
    pub key: String,
    /// What it holds.
    pub content: Content,
}

/// An object to look for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sought {
    /// Its key.
    pub key: String,
    /// What it must hold. `None` where the description does not say so: rows then, as no object of a batch is empty.
    pub content: Option<Content>,
}

/// A closed batch: what it covers and the objects that will hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchPlan {
    /// First record.
    pub first: Position,
    /// Last record.
    pub last: Position,
    /// Its objects, which may be none.
    pub objects: Vec<PlannedObject>,
    /// True when some of its rows are in none of them but go to a delivery stream.
    pub streamed: bool,
    /// How the records of the stream became its records.
    pub unpacking: Unpacking,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lease is ours; this is its row, read after taking it.
    Taken {
        /// `checkpoint` of the row.
        checkpoint: Checkpoint,
        /// What is done where that is a record: all up to this one.
        done: Option<RecordId>,
        /// The pending trio of the row.
        pending: Option<Pending>,
        /// The batch that the row remembers.
        last_prepared: Option<LastPrepared>,
    },
    /// A batch is closed. `shard_end`: the shard has nothing after it.
    Closed {
        /// The batch.
        plan: BatchPlan,
        /// True when the shard is closed and read to its end.
        shard_end: bool,
    },
    /// The shard is read to its end and no batch is open.
    Drained,
    /// The records asked for are read again; these objects would hold the rows asked for, those aside that go to a
    /// delivery stream.
    Rebuilt {
        /// The objects.
        objects: Vec<PlannedObject>,
        /// True when there are rows for a delivery stream. No objects and no such rows: every row is there already.
        streamed: bool,
        /// The last record: that of the batch, or behind it where the build that made the batch took a whole aggregate for
        /// one record.
        last: Position,
        /// How the records were unpacked.
        unpacking: Unpacking,
    },
    /// The records asked for have left the stream's retention.
    RecordsGone,
    /// Answer to [`Step::FindStart`].
    StartFound {
        /// TRIM_HORIZON, or the last record that is not to be read.
        at: Checkpoint,
        /// The time that it stands for, where it was one.
        start_us: Option<i64>,
    },
    /// Answer to [`Step::FindStart`]: at a time that neither the row nor the settings name.
    StartUnknown,
    /// Answer to [`Step::Find`]: whether every object is there and holds what it must.
    Found {
        /// True when none is missing, and none is another one.
        all: bool,
    },
    /// Answer to [`Step::Compare`].
    Compared {
        /// True when each object that exists holds what ours does.
        ours: bool,
    },
    /// Every key to be sealed has an object now, an empty one or one with rows.
    Sealed,
    /// The write to the lease row was accepted.
    Written,
    /// Every object of the batch exists, those that did before hold what ours do, and the delivery stream has accepted the
    /// other rows.
    Delivered,
    /// Answer to [`Step::Deliver`] as well: an object exists that holds something else, as a seal or the rows of another
    /// build. Nothing went to the delivery stream.
    Foreign,
    /// Every child shard has a lease and the row names them.
    ChildrenCreated,
}

/// What to do next. Each step is answered by one event, except the last four. Where rows are copied for alerts, the copies
/// of every object that a step creates, finds or reads are there before it is answered, so that no checkpoint passes them.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read the records from `first` to `last` again and batch them, leaving out rows that stand in `without`.
    /// Answer: `Rebuilt` or `RecordsGone`.
    Rebuild {
        /// First record of the batch.
        first: Position,
        /// Last record of the batch.
        last: RecordId,
        /// Generation of the object keys.
        generation: u32,
        /// Keys of sealed objects; rows found there are not written again.
        without: Vec<String>,
        /// The row's checkpoint, where it is a record: what is at or before it is done, also inside the batch.
        done: Option<RecordId>,
    },
    /// Look up which record is the last that is not to be read, for AT_TIMESTAMP or LATEST. Answer: `StartFound` or
    /// `StartUnknown`.
    FindStart(Checkpoint),
    /// Look whether every object is there. Answer: `Found`.
    Find(Vec<Sought>),
    /// Look whether those objects of the batch in hand that exist hold what it would put there. Answer: `Compared`.
    Compare(Vec<String>),
    /// Create an empty object under every key that has none. Answer: `Sealed`.
    Seal(Vec<String>),
    /// Write to the lease row, on condition of its counter. Answer: `Written`; if the lease is lost, stop.
    Write(LeaseWrite),
    /// Create every object of the batch, create-only; an object that exists counts when it holds the same rows. Then send
    /// the rows that go to a delivery stream, sent before or not. Answer: `Delivered` or `Foreign`.
    Deliver(Vec<String>),
    /// Create the leases of the child shards and name them on the row. Answer: `ChildrenCreated`.
    CreateChildren,
    /// Nothing is pending: read on after this checkpoint, which is TRIM_HORIZON or a position, and report `Closed` or
    /// `Drained`.
    Read(Checkpoint),
    /// The shard is done.
    Finished,
    /// A person has to look: see the reason.
    Halt(Halt),
}

/// Why a shard waits for a person. Going on would lose or double records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Halt {
    /// The description of the pending batch cannot be used.
    #[error(transparent)]
    Pending(#[from] PendingError),
    /// The batch was prepared for another lake, where some of its objects may be.
    #[error(
        "records {first} to {last} were prepared for the lake {theirs}, and this worker writes to {ours}: start workers \
         with --lake {theirs} until the batch is committed (if both name the same place, only until then); if that lake \
         is given up, forget the batch with `kinetide leases set-checkpoint`, and rows of it that are there are delivered \
         here as well"
    )]
    OtherLake {
        /// First sequence number of the batch.
        first: String,
        /// Last sequence number of the batch.
        last: String,
        /// The lake of the batch.
        theirs: String,
        /// The lake of this worker.
        ours: String,
    },
    /// The batch was repaired too often for its row, or has too many objects.
    #[error(
        "records {first} to {last} were prepared {generations} times over by builds or settings that make different \
         objects, and their description has reached its limit: run the same build with the same settings on all workers; \
         then forget the batch with `kinetide leases set-checkpoint`, and rows of it that are in the lake are delivered \
         again"
    )]
    TooManyObjects {
        /// First sequence number of the batch.
        first: String,
        /// Last sequence number of the batch.
        last: String,
        /// How often it was prepared.
        generations: u32,
    },
    /// The records of a pending batch are gone, and not all of its objects exist or rows of it went to a delivery stream,
    /// which tells nobody whether it has accepted them.
    #[error(
        "records {first} to {last} were prepared, are not known to be delivered, and have left the stream's retention: \
         restore them from the source or accept the loss by setting the checkpoint"
    )]
    RecordsGone {
        /// First sequence number of the batch.
        first: String,
        /// Last sequence number of the batch.
        last: String,
    },
    /// The row is at AT_TIMESTAMP and nobody says which time.
    #[error(
        "the lease starts at a timestamp that only the settings know: \
         set --initial-position to the application's time, for example 2026-01-15T00:00:00Z"
    )]
    StartUnknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing pending.
    Idle,
    /// The checkpoint is symbolic: looking up what it stands for.
    FindingStart,
    /// Writing that to the row, before anything is read.
    Pinning(Checkpoint),
    /// Taken over with a batch pending: reading its records again.
    Rebuilding(PendingBatch),
    /// We would make the same objects, as far as a description without proof says: looking at those that exist.
    Comparing(PendingBatch),
    /// Its records are gone: looking whether its objects exist.
    Finding(PendingBatch),
    /// Its objects are not the ones we would make: writing that they are to be sealed.
    DeclaringRepair(PendingBatch),
    /// Sealing them.
    Sealing(PendingBatch),
    /// Sealed: reading the records again, for the rows that are missing.
    RebuildingRest(PendingBatch),
    /// Writing the description of a batch.
    Preparing(PendingBatch),
    /// Creating its objects.
    Delivering(PendingBatch),
    /// Shard end: creating the leases of the children.
    CreatingChildren,
    /// Moving the checkpoint.
    Committing(Checkpoint),
    /// Finished or halted.
    Stopped,
}

/// One owner's side of the protocol for one shard, from taking the lease to losing or releasing it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protocol {
    /// Id of this worker's transform.
    transform: String,
    /// The lake of this worker.
    lake: String,
    /// How batches are described.
    format: PendingFormat,
    /// What was done when the row was taken.
    done: Option<RecordId>,
    phase: Phase,
}

impl Protocol {
    /// A fresh owner that writes to `lake`. The first event is [`Event::Taken`].
    pub fn new(transform: impl Into<String>, lake: impl Into<String>) -> Self {
        Self {
            transform: transform.into(),
            lake: lake.into(),
            format: PendingFormat::One,
            done: None,
            phase: Phase::Idle,
        }
    }

    /// Batches are described like this from now on. It may change at any time, as workers come and go.
    pub fn write_format(&mut self, format: PendingFormat) {
        self.format = format;
    }

    /// True between batches.
    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Takes what happened, answers what to do.
    ///
    /// # Panics
    /// On an event that does not answer the last step: an error of the program.
    pub fn on(&mut self, event: Event) -> Step {
        let (phase, step) = match (std::mem::replace(&mut self.phase, Phase::Stopped), event) {
            (Phase::Idle, Event::Taken { checkpoint, done, pending, last_prepared }) => {
                self.done = done;
                self.taken(checkpoint, pending.as_ref(), last_prepared.as_ref())
            }
            (Phase::FindingStart, Event::StartFound { at, start_us }) => {
                let pin = LeaseWrite::Pin { checkpoint: at.clone(), start_us };
                (Phase::Pinning(at), Step::Write(pin))
            }
            (Phase::FindingStart, Event::StartUnknown) => halt(Halt::StartUnknown),
            (Phase::Pinning(checkpoint), Event::Written) => (Phase::Idle, Step::Read(checkpoint)),
            (Phase::Idle, Event::Closed { plan, shard_end }) => {
                let batch = PendingBatch {
                    first: plan.first,
                    last: plan.last,
                    transform: self.id(plan.unpacking),
                    generation: 0,
                    stage: Stage::Deliver,
                    objects: Vec::new(),
                    sealed: Vec::new(),
                    shard_end,
                    streamed: plan.streamed,
                    unpacking: plan.unpacking,
                    proof: None,
                };
                prepare(self.with_objects(batch, plan.objects))
            }
            (Phase::Idle, Event::Drained) => (Phase::CreatingChildren, Step::CreateChildren),

            (Phase::Rebuilding(batch), Event::Rebuilt { objects, streamed, unpacking, .. }) => {
                match self.agrees(&batch, &objects, streamed, unpacking) {
                    Agreement::Proven => deliver(batch),
                    Agreement::Named => {
                        let step = Step::Compare(batch.objects.clone());
                        (Phase::Comparing(batch), step)
                    }
                    Agreement::None => self.declare_repair(batch),
                }
            }
            (Phase::Comparing(batch), Event::Compared { ours: true }) => deliver(batch),
            (Phase::Comparing(batch), Event::Compared { ours: false }) => self.declare_repair(batch),
            // That its objects exist says nothing of its other rows.
            (Phase::Rebuilding(batch), Event::RecordsGone) if batch.streamed => halt_records_gone(&batch),
            (Phase::Rebuilding(batch), Event::RecordsGone) => {
                let contents = batch.proof.iter().flat_map(|proof| proof.contents.iter().copied().map(Some));
                let contents = contents.chain(std::iter::repeat(None));
                let sought = batch.objects.iter().zip(contents);
                let sought = sought.map(|(key, content)| Sought { key: key.clone(), content }).collect();
                (Phase::Finding(batch), Step::Find(sought))
            }
            (Phase::Finding(batch), Event::Found { all: true }) => commit(Checkpoint::At(batch.last)),
            (Phase::Finding(batch), Event::Found { all: false }) => halt_records_gone(&batch),

            (Phase::DeclaringRepair(batch), Event::Written) => seal(batch),
            (Phase::Sealing(batch), Event::Sealed) => {
                let step = self.rebuild(&batch);
                (Phase::RebuildingRest(batch), step)
            }
            (Phase::RebuildingRest(batch), Event::RecordsGone) => halt_records_gone(&batch),
            (Phase::RebuildingRest(_), Event::Rebuilt { objects, streamed: false, last, .. })
                if objects.is_empty() =>
            {
                commit(Checkpoint::At(last))
            }
            (Phase::RebuildingRest(batch), Event::Rebuilt { objects, streamed, last, unpacking }) => {
                let batch = PendingBatch {
                    last,
                    transform: self.id(unpacking),
                    stage: Stage::Deliver,
                    streamed,
                    unpacking,
                    ..batch
                };
                prepare(self.with_objects(batch, objects))
            }

            (Phase::Preparing(batch), Event::Written) => deliver(batch),
            // A batch that nobody knows of any more, or a build that keeps to no version. Its rows are looked for.
            (Phase::Delivering(batch), Event::Foreign) => self.declare_repair(batch),
            (Phase::Delivering(batch), Event::Delivered) if batch.shard_end => {
                (Phase::CreatingChildren, Step::CreateChildren)
            }
            (Phase::Delivering(batch), Event::Delivered) => commit(Checkpoint::At(batch.last)),
            (Phase::CreatingChildren, Event::ChildrenCreated) => commit(Checkpoint::ShardEnd),
            (Phase::Committing(Checkpoint::ShardEnd), Event::Written) => (Phase::Stopped, Step::Finished),
            (Phase::Committing(checkpoint), Event::Written) => (Phase::Idle, Step::Read(checkpoint)),

            (phase, event) => panic!("{event:?} does not answer the step of {phase:?}"),
        };
        self.phase = phase;
        step
    }

    fn taken(
        &self,
        checkpoint: Checkpoint,
        pending: Option<&Pending>,
        last_prepared: Option<&LastPrepared>,
    ) -> (Phase, Step) {
        if checkpoint == Checkpoint::ShardEnd {
            return (Phase::Stopped, Step::Finished);
        }
        let batch = match pending.map(PendingBatch::from_pending).transpose().map(Option::flatten) {
            Err(error) => return halt(error.into()),
            Ok(None) => return self.not_pending(checkpoint, last_prepared),
            // A shard end is found again by reading on; until then the batch is one like any other.
            Ok(Some(batch)) => PendingBatch { shard_end: false, ..batch },
        };
        match &batch.proof {
            Some(proof) if proof.lake != self.lake => {
                let (first, last) = ends(&batch);
                halt(Halt::OtherLake { first, last, theirs: proof.lake.clone(), ours: self.lake.clone() })
            }
            _ if batch.stage == Stage::Seal => seal(batch),
            _ => {
                let step = self.rebuild(&batch);
                (Phase::Rebuilding(batch), step)
            }
        }
    }

    /// Whether we may finish the batch, given what we would make of its records. With a proof that alone decides, except
    /// for rows in a delivery stream, of which there is none.
    fn agrees(
        &self,
        batch: &PendingBatch,
        objects: &[PlannedObject],
        streamed: bool,
        unpacking: Unpacking,
    ) -> Agreement {
        let same_keys = batch.objects.iter().eq(objects.iter().map(|object| &object.key));
        let same_transform = batch.transform == self.id(unpacking);
        if !same_keys || batch.streamed != streamed || !same_transform && (streamed || batch.proof.is_none())
        {
            return Agreement::None;
        }
        match &batch.proof {
            None => Agreement::Named,
            Some(proof) if proof.contents.iter().eq(objects.iter().map(|object| &object.content)) => {
                Agreement::Proven
            }
            Some(_) => Agreement::None,
        }
    }

    /// The batch with these objects, in the format that is written now.
    fn with_objects(&self, batch: PendingBatch, objects: Vec<PlannedObject>) -> PendingBatch {
        let (keys, contents) = objects.into_iter().map(|object| (object.key, object.content)).unzip();
        let proof = Proof { lake: self.lake.clone(), contents };
        // A build that does not unpack must not take it for one of its own.
        let proven = self.format == PendingFormat::Two || batch.unpacking != Unpacking::Whole;
        PendingBatch { objects: keys, proof: proven.then_some(proof), ..batch }
    }

    /// What decides which rows a batch has, where some of its records are unpacked or none.
    fn id(&self, unpacking: Unpacking) -> String {
        match unpacking {
            Unpacking::Whole => self.transform.clone(),
            unpacked => format!("{}+{}", self.transform, unpacked.as_str()),
        }
    }

    /// Says in the row that the batch's objects are going to be sealed, *before* the first of them is: an owner with
    /// the old transform that came after us would otherwise take an empty seal for its own finished object.
    fn declare_repair(&self, batch: PendingBatch) -> (Phase, Step) {
        if batch.generation >= GENERATIONS_MAX {
            return halt_too_many(&batch);
        }
        let mut sealed = batch.sealed;
        sealed.extend(batch.objects);
        let batch = PendingBatch {
            generation: batch.generation + 1,
            stage: Stage::Seal,
            objects: Vec::new(),
            sealed,
            // Of which kind the rest is will be known when it is built.
            streamed: false,
            proof: None,
            ..batch
        };
        match prepare(self.with_objects(batch, Vec::new())) {
            (Phase::Preparing(batch), step) => (Phase::DeclaringRepair(batch), step),
            halted => halted,
        }
    }
}

impl Protocol {
    /// Nothing of ours is pending. A batch of ours may have been until a Java worker checkpointed, or somebody forgot it: a
    /// part of its rows may be in the lake, or on its way there. As long as the checkpoint has not passed it, its objects
    /// are sealed, and rows that are in none of them get new ones.
    fn not_pending(&self, checkpoint: Checkpoint, last: Option<&LastPrepared>) -> (Phase, Step) {
        let ahead = last.filter(|last| last.is_ahead_of(&checkpoint));
        match ahead.map(|last| PendingBatch::from_pending(&last.pending)).transpose().map(Option::flatten) {
            Err(error @ (PendingError::Newer(_) | PendingError::Unpacking(_))) => halt(error.into()),
            Ok(Some(batch)) if self.can_repair(&batch) => {
                self.declare_repair(PendingBatch { shard_end: false, ..batch })
            }
            // Forgotten on purpose: there is no other way on from these.
            Err(PendingError::Damaged(_)) | Ok(_) => read_on(checkpoint),
        }
    }

    fn can_repair(&self, batch: &PendingBatch) -> bool {
        let elsewhere = batch.proof.as_ref().is_some_and(|proof| proof.lake != self.lake);
        !elsewhere && batch.generation < GENERATIONS_MAX
    }

    fn rebuild(&self, batch: &PendingBatch) -> Step {
        Step::Rebuild {
            first: batch.first.clone(),
            last: batch.end(),
            generation: batch.generation,
            without: batch.sealed.clone(),
            done: self.done.clone(),
        }
    }
}

/// Reads on. Each owner would take a symbolic checkpoint for another place, and records between two of them would be lost.
fn read_on(checkpoint: Checkpoint) -> (Phase, Step) {
    match checkpoint {
        Checkpoint::Latest | Checkpoint::AtTimestamp => (Phase::FindingStart, Step::FindStart(checkpoint)),
        _ => (Phase::Idle, Step::Read(checkpoint)),
    }
}

/// What a description and a rebuild have in common.
enum Agreement {
    /// The objects are the same.
    Proven,
    /// The transform says that it makes the same, and the keys are the same.
    Named,
    None,
}

fn prepare(batch: PendingBatch) -> (Phase, Step) {
    let pending = batch.to_pending();
    if pending.state.as_ref().is_some_and(|state| state.len() > STATE_BYTES_MAX) {
        return halt_too_many(&batch);
    }
    (Phase::Preparing(batch), Step::Write(LeaseWrite::prepare(pending)))
}

fn deliver(batch: PendingBatch) -> (Phase, Step) {
    let step = Step::Deliver(batch.objects.clone());
    (Phase::Delivering(batch), step)
}

fn commit(checkpoint: Checkpoint) -> (Phase, Step) {
    let step = Step::Write(LeaseWrite::commit(checkpoint.clone()));
    (Phase::Committing(checkpoint), step)
}

fn seal(batch: PendingBatch) -> (Phase, Step) {
    let step = Step::Seal(batch.sealed.clone());
    (Phase::Sealing(batch), step)
}

fn halt(reason: Halt) -> (Phase, Step) {
    (Phase::Stopped, Step::Halt(reason))
}

fn halt_records_gone(batch: &PendingBatch) -> (Phase, Step) {
    let (first, last) = ends(batch);
    halt(Halt::RecordsGone { first, last })
}

fn halt_too_many(batch: &PendingBatch) -> (Phase, Step) {
    let (first, last) = ends(batch);
    halt(Halt::TooManyObjects { first, last, generations: batch.generation.saturating_add(1) })
}

/// First and last sequence number.
fn ends(batch: &PendingBatch) -> (String, String) {
    (batch.first.sequence.as_str().to_owned(), batch.last.sequence.as_str().to_owned())
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
