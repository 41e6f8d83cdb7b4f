//! Model check of the protocol: every interleaving, within bounds, of crashes, takeovers, zombies, lost answers,
//! late requests, other transforms, forgotten batches and vanished records, over the same `Protocol` and `apply` that run
//! for real.
//!
//! A zombie is a worker whose lease was taken and that goes on with its steps; every order of its steps and the
//! new owner's is explored. What is checked: no record is in two rows, every record at or below the checkpoint is
//! in a row, the checkpoint never moves back, and nobody gets stuck.
//!
//! Workers may also copy some rows, object by object: each copy is of rows that are there, none is there twice, and where all
//! workers copy, none is missing below the checkpoint.
//!
//! Workers may also send rows to a delivery stream, which nobody can look into. There a record may be any number of
//! times; below the checkpoint it must be in the lake or there.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bounds::Bounds;
use made::{build, content, copied, planned};
use stateright::{Model, Property};

use super::{BatchPlan, Event, PendingBatch, Protocol, Sought, Step};
use crate::lease::{Lease, LeaseWrite, Pending, WorkerId, apply};
use crate::shard::{Checkpoint, HashKeyRange, Shard, ShardId};

mod bounds;
mod cases;
mod made;
mod packed;
mod properties;

/// What a Java worker prepares; everything else is a batch of ours.
const JAVA: &[u8] = b"java";

/// How a batch is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Forgotten {
    /// `leases set-checkpoint` to the checkpoint that it has.
    Same,
    /// `leases delete`: the lease is made again, from the start.
    Deleted,
    /// A Java worker prepares a checkpoint of its own, and leaves.
    Java,
    /// A Java worker takes the next record, checkpoints it and leaves.
    JavaTook,
}

#[derive(Clone, Debug, PartialEq)]
struct ModelRow(Lease);

impl Eq for ModelRow {}

impl Hash for ModelRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Lease { owner, counter, checkpoint, pending, last_prepared, delivered, .. } = &self.0;
        let delivered = delivered.as_ref().map(|delivered| &delivered.upto);
        (owner, counter, checkpoint, pending, last_prepared, delivered).hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    seen: ModelRow,
    protocol: Protocol,
    step: Todo,
    /// Objects of the batch in hand, by key.
    contents: BTreeMap<String, Vec<u8>>,
    /// Its records for the delivery stream that are not accepted yet.
    stream: Vec<u8>,
    /// Objects of which rows are to be copied.
    due: Vec<String>,
    /// The write was sent and no answer came.
    unanswered: bool,
}

/// A process that many states share: a step is of one of them. So it is copied, and its hash made, when it changes only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    process: Arc<Process>,
    hash: u64,
}

impl From<Process> for Kept {
    fn from(process: Process) -> Self {
        let mut hasher = DefaultHasher::new();
        process.hash(&mut hasher);
        Self { process: Arc::new(process), hash: hasher.finish() }
    }
}

impl Deref for Kept {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Kept {
    fn taken(self) -> Process {
        Arc::unwrap_or_clone(self.process)
    }
}

/// `Step`, comparable and with the part of a list that is still to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Todo {
    Rebuild {
        first: u8,
        last: u8,
        generation: u32,
        without: Vec<String>,
        done: u8,
    },
    Find(Vec<Sought>),
    Compare(Vec<String>),
    Seal(Vec<String>),
    Write(WriteKind),
    Deliver(Vec<String>),
    /// Copies are due before this event answers the step.
    Copy(Event),
    CreateChildren,
    Read(u8),
    Done,
    Halted,
    /// Left to a build that understands it.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum WriteKind {
    Prepare(Pending),
    Commit(Checkpoint),
}

impl WriteKind {
    fn to_write(&self) -> LeaseWrite {
        match self {
            Self::Prepare(pending) => LeaseWrite::prepare(pending.clone()),
            Self::Commit(checkpoint) => {
                LeaseWrite::Commit { to: checkpoint.clone(), arrived_us: Some(1), epoch: None }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    row: ModelRow,
    objects: BTreeMap<String, Vec<u8>>,
    /// Copies, by the key of the object that they are of.
    copies: BTreeMap<String, Vec<u8>>,
    /// What the delivery stream has accepted.
    accepted: BTreeSet<u8>,
    /// The children of the shard have leases.
    children: bool,
    workers: Vec<Option<Kept>>,
    /// Requests whose sender has stopped waiting for them.
    late: Vec<(ModelRow, WriteKind)>,
    trimmed: u8,
    took: u8,
    crashed: u8,
    lost_answers: u8,
    late_requests: u8,
    forgot: u8,
    /// The row was deleted.
    deleted: bool,
    checkpoint_high: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Act {
    Take(usize),
    Crash(usize),
    Do(usize),
    Close(usize, u8),
    LoseAnswer(usize),
    SendLate(usize),
    Reread(usize),
    ArriveLate(usize),
    Trim,
    Forget(Forgotten),
}

/// Copies rows of one object, create-only. False when none is due any more.
fn copy_one(world: &mut World, process: &mut Process) -> bool {
    let Some(key) = process.due.pop() else { return false };
    let rows = world.objects.get(&key).map(|records| copied(records)).unwrap_or_default();
    if !rows.is_empty() {
        world.copies.entry(key).or_insert(rows);
    }
    true
}

impl Bounds {
    fn process(&self, worker: usize, row: &ModelRow) -> Process {
        let mut protocol = Protocol::new(self.transforms[worker].id(), "lake");
        protocol.write_format(self.format);
        let last_prepared = row.0.last_prepared.clone().filter(|_| self.remembered);
        let (checkpoint, pending) = (row.0.checkpoint.clone(), row.0.pending.clone());
        let event = Event::Taken { checkpoint, done: self.done_of(&row.0), pending, last_prepared };
        let refused = self.refuses(self.transforms[worker], &row.0);
        let step = if refused { Todo::Refused } else { self.todo(protocol.on(event), row) };
        Process {
            seen: row.clone(),
            protocol,
            step,
            contents: BTreeMap::new(),
            stream: Vec::new(),
            due: Vec::new(),
            unanswered: false,
        }
    }

    fn todo(&self, step: Step, row: &ModelRow) -> Todo {
        match step {
            Step::Rebuild { first, last, generation, without, done } => {
                let done = done.map_or(0, |done| self.end(&done));
                let (first, last) = (self.number(&first), self.end(&last));
                Todo::Rebuild { first, last, generation, without, done }
            }
            Step::FindStart(_) => unreachable!("starts are checked in `start_model`"),
            Step::Find(objects) => Todo::Find(objects),
            Step::Compare(keys) => Todo::Compare(keys),
            Step::Seal(keys) => Todo::Seal(keys),
            Step::Write(LeaseWrite::Prepare { pending, .. }) => {
                let batch = PendingBatch::from_pending(&pending).unwrap().unwrap();
                let mut keys = BTreeSet::new();
                let all = batch.objects.iter().chain(&batch.sealed);
                assert!(all.clone().all(|key| keys.insert(key)), "a key twice: {batch:?}");
                Todo::Write(WriteKind::Prepare(pending))
            }
            Step::Write(LeaseWrite::Commit { to: checkpoint, .. }) => {
                Todo::Write(WriteKind::Commit(checkpoint))
            }
            Step::Write(other) => panic!("the protocol never asks for {other:?}"),
            Step::Deliver(keys) => Todo::Deliver(keys),
            Step::CreateChildren => Todo::CreateChildren,
            Step::Read(_) => Todo::Read(self.done_up_to(&row.0)),
            Step::Finished => Todo::Done,
            Step::Halt(_) => Todo::Halted,
        }
    }

    fn apply(&self, world: &mut World, seen: &ModelRow, write: &WriteKind) -> bool {
        let accepted = !self.conditional || world.row.0.counter == seen.0.counter;
        if accepted {
            world.row = ModelRow(apply(&world.row.0, &write.to_write()));
            // Without a condition the request still sets the counter that its sender had in mind.
            world.row.0.counter = seen.0.counter + 1;
        }
        accepted
    }

    /// Creates one object. An object that exists counts, unless the create-only rule is left out.
    fn put(&self, world: &mut World, key: &str, records: &[u8]) {
        if !self.create_only || !world.objects.contains_key(key) {
            world.objects.insert(key.to_owned(), records.to_vec());
        }
    }

    fn done(&self, world: &World) -> bool {
        world.row.0.checkpoint == Checkpoint::ShardEnd
            || world.workers.iter().flatten().any(|process| process.step == Todo::Halted)
    }

    /// Performs the step of one worker; the event that answers it, or none while a list is not done yet.
    fn perform(&self, world: &mut World, worker: usize, process: &mut Process) -> Option<Event> {
        match process.step.clone() {
            Todo::Rebuild { first, last, generation, without, done } => {
                process.due = self.copies_of(worker, self.copies_read, without.clone()).collect();
                if first.max(done) <= world.trimmed {
                    process.step = Todo::Copy(Event::RecordsGone);
                    return None;
                }
                // That parts of a record are there says nothing of the whole.
                let made = self.transforms[worker];
                let counts = |key: &&String| made.unpacks() || key.starts_with("errors");
                let there = without.iter().filter(counts).filter_map(|key| world.objects.get(key));
                let there: BTreeSet<u8> = there.flatten().copied().collect();
                let rest = (first..=last).filter(|record| *record > done && !there.contains(record));
                (process.contents, process.stream) =
                    build(self.transforms[worker], (first, last), generation, rest);
                process.step = Todo::Copy(Event::Rebuilt {
                    objects: planned(&process.contents),
                    streamed: self.streamed_told && !process.stream.is_empty(),
                    last: self.position_for(made, last),
                    unpacking: self.unpacking(made),
                });
                None
            }
            Todo::Find(sought) => {
                let number = if self.all_found { sought.len() } else { 1 };
                let holds = |sought: &Sought| {
                    let found = world.objects.get(&sought.key).map(|records| content(records));
                    found.is_some_and(|found| {
                        sought.content.map_or(found.rows > 0, |content| content == found)
                    })
                };
                if !sought.iter().take(number).all(holds) {
                    return Some(Event::Found { all: false });
                }
                let keys = sought.into_iter().map(|sought| sought.key);
                process.due = self.copies_of(worker, self.copies_found, keys).collect();
                process.step = Todo::Copy(Event::Found { all: true });
                None
            }
            Todo::Compare(keys) => {
                let ours =
                    |key: &String| world.objects.get(key).is_none_or(|found| *found == process.contents[key]);
                Some(Event::Compared { ours: keys.iter().all(ours) })
            }
            Todo::Seal(mut keys) => {
                // A batch may have had no objects.
                if !keys.is_empty() {
                    self.put_seal(world, &keys.remove(0));
                }
                process.step = Todo::Seal(keys.clone());
                keys.is_empty().then_some(Event::Sealed)
            }
            Todo::Deliver(mut keys) => {
                if copy_one(world, process) {
                } else if !keys.is_empty() {
                    let key = keys.remove(0);
                    let ours = &process.contents[&key];
                    self.put(world, &key, ours);
                    if self.existing_checked && world.objects[&key] != *ours {
                        return Some(Event::Foreign);
                    }
                    process.due.extend(self.copies_of(worker, self.copies_created, [key]));
                } else if !process.stream.is_empty() {
                    world.accepted.insert(process.stream.remove(0));
                }
                process.step = Todo::Deliver(keys.clone());
                let over = keys.is_empty() && process.stream.is_empty() && process.due.is_empty();
                over.then_some(Event::Delivered)
            }
            Todo::Copy(event) => (!copy_one(world, process)).then_some(event),
            Todo::CreateChildren => {
                world.children = true;
                Some(Event::ChildrenCreated)
            }
            Todo::Write(_) | Todo::Read(_) | Todo::Done | Todo::Halted | Todo::Refused => {
                unreachable!("not a step to do")
            }
        }
    }

    /// These objects, where this worker copies rows of them.
    fn copies_of(
        &self,
        worker: usize,
        rule: bool,
        keys: impl IntoIterator<Item = String>,
    ) -> impl Iterator<Item = String> {
        let copies = rule && self.copies.get(worker).copied().unwrap_or_default();
        keys.into_iter().filter(move |_| copies)
    }

    fn put_seal(&self, world: &mut World, key: &str) {
        world.objects.entry(key.to_owned()).or_default();
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let shard = Shard {
            id: ShardId::new("shard"),
            parents: vec![],
            hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
            starting_sequence_number: 0.into(),
            closed: true,
        };
        vec![World {
            row: ModelRow(Lease::new(&shard, Checkpoint::TrimHorizon)),
            objects: BTreeMap::new(),
            copies: BTreeMap::new(),
            accepted: BTreeSet::new(),
            children: false,
            workers: vec![None; self.transforms.len()],
            late: Vec::new(),
            trimmed: 0,
            took: 0,
            crashed: 0,
            lost_answers: 0,
            late_requests: 0,
            forgot: 0,
            deleted: false,
            checkpoint_high: 0,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if self.done(world) {
            return;
        }
        let owner = world.row.0.owner.as_ref().map(|id| id.as_str().parse::<usize>().unwrap());
        let owner_works = owner.is_some_and(|w| {
            world.workers[w].as_ref().is_some_and(|p| {
                p.seen.0.owner == world.row.0.owner && !matches!(p.step, Todo::Done | Todo::Refused)
            })
        });
        for (worker, process) in world.workers.iter().enumerate() {
            // The bound on takes is lifted when nobody works on the shard, so that every run can end well.
            if owner != Some(worker) && world.took < self.takes || !owner_works && process.is_none() {
                acts.push(Act::Take(worker));
            }
            let Some(process) = process else { continue };
            if world.crashed < self.crashes {
                acts.push(Act::Crash(worker));
            }
            match &process.step {
                Todo::Read(from) if *from == self.records => acts.push(Act::Do(worker)),
                Todo::Read(from) => {
                    let ends = from + 1..=self.records;
                    let ends = ends.filter(|to| self.may_end_at(self.transforms[worker], *to));
                    acts.extend(ends.map(|to| Act::Close(worker, to)));
                }
                Todo::Write(_) if process.unanswered => acts.push(Act::Reread(worker)),
                Todo::Write(_) => {
                    acts.push(Act::Do(worker));
                    if world.lost_answers < self.lost_answers {
                        acts.push(Act::LoseAnswer(worker));
                    }
                    if world.late_requests < self.late_requests {
                        acts.push(Act::SendLate(worker));
                    }
                }
                Todo::Done | Todo::Halted | Todo::Refused => {}
                _ => acts.push(Act::Do(worker)),
            }
        }
        acts.extend((0..world.late.len()).map(Act::ArriveLate));
        if world.trimmed == 0 && self.trims > 0 && world.row.0.pending.is_some() {
            acts.push(Act::Trim);
        }
        // Asked of every state, so it is not parsed.
        let ours = |pending: &Pending| pending.state.as_deref() != Some(JAVA);
        if world.forgot < self.forgets && world.row.0.pending.as_ref().is_some_and(ours) {
            acts.extend([Forgotten::Same, Forgotten::Deleted, Forgotten::Java].map(Act::Forget));
            if self.done_up_to(&world.row.0) + 1 < self.records {
                acts.push(Act::Forget(Forgotten::JavaTook));
            }
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut world = last.clone();
        match act {
            Act::Take(worker) => {
                world.took = world.took.saturating_add(1).min(self.takes);
                world.row =
                    ModelRow(apply(&world.row.0, &LeaseWrite::Assign(WorkerId::new(worker.to_string()))));
                world.workers[worker] = Some(self.process(worker, &world.row).into());
            }
            Act::Crash(worker) => {
                world.crashed += 1;
                world.workers[worker] = None;
            }
            Act::Forget(how) => {
                world.forgot += 1;
                // All of them take the lease from its owner.
                let lease = apply(&world.row.0, &LeaseWrite::Evict);
                let java =
                    Pending { checkpoint: Checkpoint::At(self.position(1)), state: Some(Arc::from(JAVA)) };
                world.row = ModelRow(match how {
                    Forgotten::Same => Lease { pending: None, ..lease },
                    Forgotten::Deleted => {
                        world.deleted = true;
                        let checkpoint = Checkpoint::TrimHorizon;
                        Lease { pending: None, last_prepared: None, checkpoint, ..lease }
                    }
                    Forgotten::JavaTook => {
                        let next = self.done_up_to(&lease) + 1;
                        // It did with it whatever its application does.
                        world.accepted.insert(next);
                        Lease { pending: None, checkpoint: Checkpoint::At(self.position(next)), ..lease }
                    }
                    Forgotten::Java => Lease { pending: Some(java), ..lease },
                });
                world.checkpoint_high = 0;
                return Some(world);
            }
            Act::Trim => {
                world.trimmed = self.end_of_pending(&world.row.0);
            }
            Act::Close(worker, to) => {
                let mut process = world.workers[worker].take()?.taken();
                let Todo::Read(from) = process.step else { return None };
                (process.contents, process.stream) =
                    build(self.transforms[worker], (from + 1, to), 0, from + 1..=to);
                let made = self.transforms[worker];
                let plan = BatchPlan {
                    first: self.position_for(made, from + 1),
                    last: self.position_for(made, to),
                    objects: planned(&process.contents),
                    streamed: self.streamed_told && !process.stream.is_empty(),
                    unpacking: self.unpacking(made),
                };
                let event = Event::Closed { plan, shard_end: to == self.records };
                process.step = self.todo(process.protocol.on(event), &process.seen);
                world.workers[worker] = Some(process.into());
            }
            Act::Do(worker) => {
                let mut process = world.workers[worker].take()?.taken();
                let event = match process.step.clone() {
                    Todo::Read(_) => Some(Event::Drained),
                    Todo::Write(write) => {
                        if !self.apply(&mut world, &process.seen.clone(), &write) {
                            return Some(world); // the lease is lost: this process stops
                        }
                        process.seen = world.row.clone();
                        Some(Event::Written)
                    }
                    _ => self.perform(&mut world, worker, &mut process),
                };
                if let Some(event) = event {
                    process.step = self.todo(process.protocol.on(event), &process.seen);
                }
                self.skip_declaration(&mut process);
                world.workers[worker] = (process.step != Todo::Done).then(|| process.into());
            }
            Act::LoseAnswer(worker) => {
                world.lost_answers += 1;
                let mut process = world.workers[worker].take()?.taken();
                let Todo::Write(write) = &process.step else { return None };
                self.apply(&mut world, &process.seen, write);
                process.unanswered = true;
                world.workers[worker] = Some(process.into());
            }
            Act::SendLate(worker) => {
                world.late_requests += 1;
                let mut process = world.workers[worker].take()?.taken();
                let Todo::Write(write) = &process.step else { return None };
                world.late.push((process.seen.clone(), write.clone()));
                process.unanswered = true;
                world.workers[worker] = Some(process.into());
            }
            Act::Reread(worker) => {
                let mut process = world.workers[worker].take()?.taken();
                let Todo::Write(write) = &process.step else { return None };
                let ours = ModelRow(apply(&process.seen.0, &write.to_write()));
                process.unanswered = false;
                if world.row == ours {
                    process.seen = ours;
                    process.step = self.todo(process.protocol.on(Event::Written), &process.seen);
                    self.skip_declaration(&mut process);
                } else if world.row.0.counter != process.seen.0.counter {
                    return Some(world);
                }
                world.workers[worker] = (process.step != Todo::Done).then(|| process.into());
            }
            Act::ArriveLate(index) => {
                let (seen, write) = world.late.remove(index);
                self.apply(&mut world, &seen, &write);
            }
        }
        world.checkpoint_high = world.checkpoint_high.max(self.done_up_to(&last.row.0));
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Bounds {
    /// The planted bug: seal without having said so in the row.
    fn skip_declaration(&self, process: &mut Process) {
        if self.seal_declared {
            return;
        }
        if let Todo::Write(WriteKind::Prepare(pending)) = &process.step
            && PendingBatch::from_pending(pending)
                .is_ok_and(|batch| batch.is_some_and(|b| b.objects.is_empty()))
        {
            process.step = self.todo(process.protocol.on(Event::Written), &process.seen);
        }
    }
}
