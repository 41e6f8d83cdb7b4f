//! The protocol as a pure state machine: events in, the next step out. No async, no clock, no I/O; the consumer,
//! the model checker and the simulation all drive this one.

use super::pending::{PendingBatch, PendingError, Stage};
use crate::lease::{LeaseWrite, Pending};
use crate::shard::{Checkpoint, Position};

/// A closed batch: what it covers and the objects that will hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchPlan {
    /// First record.
    pub first: Position,
    /// Last record.
    pub last: Position,
    /// Keys of its objects, which may be none.
    pub objects: Vec<String>,
    /// True when some of its rows are in none of them but go to a delivery stream.
    pub streamed: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lease is ours; this is its row, read after taking it.
    Taken {
        /// `checkpoint` of the row.
        checkpoint: Checkpoint,
        /// The pending trio of the row.
        pending: Option<Pending>,
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
        /// Keys of the objects.
        objects: Vec<String>,
        /// True when there are rows for a delivery stream. No objects and no such rows: every row is there already.
        streamed: bool,
    },
    /// The records asked for have left the stream's retention.
    RecordsGone,
    /// Answer to [`Step::Find`]: whether every key has an object.
    Found {
        /// True when none is missing.
        all: bool,
    },
    /// Every key to be sealed has an object now, an empty one or one with rows.
    Sealed,
    /// The write to the lease row was accepted.
    Written,
    /// Every object of the batch exists, and the delivery stream has accepted the other rows.
    Delivered,
    /// Every child shard has a lease and the row names them.
    ChildrenCreated,
}

/// What to do next. Each step is answered by one event, except the last four.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read the records from `first` to `last` again and batch them, leaving out rows that stand in `without`.
    /// Answer: `Rebuilt` or `RecordsGone`.
    Rebuild {
        /// First record of the batch.
        first: Position,
        /// Last record of the batch.
        last: Position,
        /// Generation of the object keys.
        generation: u32,
        /// Keys of sealed objects; rows found there are not written again.
        without: Vec<String>,
    },
    /// Look whether every key has an object. Answer: `Found`.
    Find(Vec<String>),
    /// Create an empty object under every key that has none. Answer: `Sealed`.
    Seal(Vec<String>),
    /// Write to the lease row, on condition of its counter. Answer: `Written`; if the lease is lost, stop.
    Write(LeaseWrite),
    /// Create every object of the batch, create-only; an object that exists counts. Send the rows that go to a delivery
    /// stream, sent before or not. Answer: `Delivered`.
    Deliver(Vec<String>),
    /// Create the leases of the child shards and name them on the row. Answer: `ChildrenCreated`.
    CreateChildren,
    /// Nothing is pending: read on after this checkpoint, and report `Closed` or `Drained`.
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing pending.
    Idle,
    /// Taken over with a batch pending: reading its records again.
    Rebuilding(PendingBatch),
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
    phase: Phase,
}

impl Protocol {
    /// A fresh owner. The first event is [`Event::Taken`].
    pub fn new(transform: impl Into<String>) -> Self {
        Self { transform: transform.into(), phase: Phase::Idle }
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
            (Phase::Idle, Event::Taken { checkpoint, pending }) => self.taken(checkpoint, pending.as_ref()),
            (Phase::Idle, Event::Closed { plan, shard_end }) => prepare(PendingBatch {
                first: plan.first,
                last: plan.last,
                transform: self.transform.clone(),
                generation: 0,
                stage: Stage::Deliver,
                objects: plan.objects,
                sealed: Vec::new(),
                shard_end,
                streamed: plan.streamed,
            }),
            (Phase::Idle, Event::Drained) => (Phase::CreatingChildren, Step::CreateChildren),

            (Phase::Rebuilding(batch), Event::Rebuilt { objects, streamed }) => {
                if batch.transform == self.transform && batch.objects == objects && batch.streamed == streamed
                {
                    deliver(batch)
                } else {
                    declare_repair(batch)
                }
            }
            // That its objects exist says nothing of its other rows.
            (Phase::Rebuilding(batch), Event::RecordsGone) if batch.streamed => halt_records_gone(&batch),
            (Phase::Rebuilding(batch), Event::RecordsGone) => {
                let step = Step::Find(batch.objects.clone());
                (Phase::Finding(batch), step)
            }
            (Phase::Finding(batch), Event::Found { all: true }) => commit(Checkpoint::At(batch.last)),
            (Phase::Finding(batch), Event::Found { all: false }) => halt_records_gone(&batch),

            (Phase::DeclaringRepair(batch), Event::Written) => seal(batch),
            (Phase::Sealing(batch), Event::Sealed) => {
                let step = rebuild(&batch);
                (Phase::RebuildingRest(batch), step)
            }
            (Phase::RebuildingRest(batch), Event::RecordsGone) => halt_records_gone(&batch),
            (Phase::RebuildingRest(batch), Event::Rebuilt { objects, streamed: false })
                if objects.is_empty() =>
            {
                commit(Checkpoint::At(batch.last))
            }
            (Phase::RebuildingRest(batch), Event::Rebuilt { objects, streamed }) => prepare(PendingBatch {
                transform: self.transform.clone(),
                stage: Stage::Deliver,
                objects,
                streamed,
                ..batch
            }),

            (Phase::Preparing(batch), Event::Written) => deliver(batch),
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

    fn taken(&self, checkpoint: Checkpoint, pending: Option<&Pending>) -> (Phase, Step) {
        if checkpoint == Checkpoint::ShardEnd {
            return (Phase::Stopped, Step::Finished);
        }
        match pending.map(PendingBatch::from_pending).transpose().map(Option::flatten) {
            Err(error) => (Phase::Stopped, Step::Halt(error.into())),
            Ok(None) => (Phase::Idle, Step::Read(checkpoint)),
            // A shard end is found again by reading on; until then the batch is one like any other.
            Ok(Some(batch)) => {
                let batch = PendingBatch { shard_end: false, ..batch };
                match batch.stage {
                    Stage::Seal => seal(batch),
                    Stage::Deliver => {
                        let step = rebuild(&batch);
                        (Phase::Rebuilding(batch), step)
                    }
                }
            }
        }
    }
}

fn rebuild(batch: &PendingBatch) -> Step {
    Step::Rebuild {
        first: batch.first.clone(),
        last: batch.last.clone(),
        generation: batch.generation,
        without: batch.sealed.clone(),
    }
}

fn prepare(batch: PendingBatch) -> (Phase, Step) {
    let step = Step::Write(LeaseWrite::Prepare(batch.to_pending()));
    (Phase::Preparing(batch), step)
}

fn deliver(batch: PendingBatch) -> (Phase, Step) {
    let step = Step::Deliver(batch.objects.clone());
    (Phase::Delivering(batch), step)
}

fn commit(checkpoint: Checkpoint) -> (Phase, Step) {
    let step = Step::Write(LeaseWrite::Commit(checkpoint.clone()));
    (Phase::Committing(checkpoint), step)
}

/// Says in the row that the batch's objects are going to be sealed, *before* the first of them is: an owner with
/// the old transform that came after us would otherwise take an empty seal for its own finished object.
fn declare_repair(batch: PendingBatch) -> (Phase, Step) {
    let mut sealed = batch.sealed;
    sealed.extend(batch.objects);
    let batch = PendingBatch {
        generation: batch.generation + 1,
        stage: Stage::Seal,
        objects: Vec::new(),
        sealed,
        // Of which kind the rest is will be known when it is built.
        streamed: false,
        ..batch
    };
    let step = Step::Write(LeaseWrite::Prepare(batch.to_pending()));
    (Phase::DeclaringRepair(batch), step)
}

fn seal(batch: PendingBatch) -> (Phase, Step) {
    let step = Step::Seal(batch.sealed.clone());
    (Phase::Sealing(batch), step)
}

fn halt_records_gone(batch: &PendingBatch) -> (Phase, Step) {
    let first = batch.first.sequence.as_str().to_owned();
    let last = batch.last.sequence.as_str().to_owned();
    (Phase::Stopped, Step::Halt(Halt::RecordsGone { first, last }))
}
