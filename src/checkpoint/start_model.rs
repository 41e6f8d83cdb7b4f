//! Model check of starts: a lease at LATEST over a shard that is written to all the while, taken over, killed and left
//! alone at any moment. Whatever its owners do, every record since reading began is delivered once.
//!
//! Deliveries are whole here; what may happen within one is checked in `model`.

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{BatchPlan, Event, Protocol, Step, Unpacking};
use crate::lease::{Lease, LeaseWrite, WorkerId, apply};
use crate::shard::{Checkpoint, HashKeyRange, Position, Shard, ShardId};

const RECORDS: u8 = 4;
const TAKES: u8 = 3;

#[derive(Clone, Copy)]
struct Starts {
    /// Owners go by what the row says; without it each interprets LATEST for itself, as it once was.
    pinned: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct World {
    row: Lease,
    written: u8,
    /// How many records there were when the first reading began.
    began: Option<u8>,
    delivered: Vec<u8>,
    owner: Option<Process>,
    took: u8,
}

#[derive(Clone, Debug, PartialEq)]
struct Process {
    protocol: Protocol,
    step: Step,
    /// Records that are read and not yet in a batch that is closed.
    read: u8,
}

impl Eq for World {}

impl std::hash::Hash for World {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        format!("{self:?}").hash(state);
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Act {
    Put,
    /// Another worker, or the same one after a crash; what was open is gone.
    Take,
    Do,
    Read,
    Close,
}

fn at(n: u8) -> Checkpoint {
    if n == 0 { Checkpoint::TrimHorizon } else { Checkpoint::At(position(n)) }
}

fn position(n: u8) -> Position {
    Position::new(u128::from(n).into())
}

fn number(checkpoint: &Checkpoint) -> u8 {
    checkpoint.position().map_or(0, |at| at.sequence.as_str().parse().unwrap())
}

impl Model for Starts {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let shard = Shard {
            id: ShardId::new("shard"),
            parents: vec![],
            hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
            starting_sequence_number: 0.into(),
            closed: false,
        };
        let world = |written| World {
            row: Lease::new(&shard, Checkpoint::Latest),
            written,
            began: None,
            delivered: Vec::new(),
            owner: None,
            took: 0,
        };
        vec![world(0), world(1)]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.written < RECORDS {
            acts.push(Act::Put);
        }
        if world.took < TAKES {
            acts.push(Act::Take);
        }
        match &world.owner {
            Some(Process { step: Step::Read(from), read, .. }) => {
                if *read < world.written {
                    acts.push(Act::Read);
                }
                if *read > number(from) {
                    acts.push(Act::Close);
                }
            }
            Some(_) => acts.push(Act::Do),
            None => {}
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut world = last.clone();
        let mut owner = world.owner.take();
        match act {
            Act::Put => world.written += 1,
            Act::Take => {
                world.took += 1;
                let me = WorkerId::new(world.took.to_string());
                world.row = apply(&world.row, &LeaseWrite::Assign(me));
                let mut protocol = Protocol::new("t", "lake");
                let (checkpoint, pending) = (world.row.checkpoint.clone(), world.row.pending.clone());
                let last_prepared = world.row.last_prepared.clone();
                let done = world.row.done();
                let step = protocol.on(Event::Taken { checkpoint, done, pending, last_prepared });
                owner = Some(Process { protocol, step, read: 0 });
            }
            Act::Read => owner.as_mut()?.read += 1,
            Act::Close => {
                let Process { protocol, step, read } = owner.as_mut()?;
                let Step::Read(from) = step else { return None };
                let (first, last) = (position(number(from) + 1), position(*read));
                let plan = BatchPlan {
                    first,
                    last,
                    objects: Vec::new(),
                    streamed: true,
                    unpacking: Unpacking::Whole,
                };
                *step = protocol.on(Event::Closed { plan, shard_end: false });
            }
            Act::Do => {
                let process = owner.as_mut()?;
                let event = match &process.step {
                    Step::FindStart(_) => Event::StartFound { at: at(world.written), start_us: None },
                    Step::Rebuild { last, .. } => Event::Rebuilt {
                        objects: Vec::new(),
                        streamed: true,
                        last: last.clone().position(),
                        unpacking: Unpacking::Whole,
                    },
                    Step::Write(LeaseWrite::Pin { .. }) if !self.pinned => Event::Written,
                    Step::Write(write) => {
                        let from = number(&world.row.checkpoint);
                        if let LeaseWrite::Commit { to, .. } = write {
                            // At LATEST the row does not say where it began.
                            let from = from.max(world.began.unwrap_or(0));
                            world.delivered.extend(from + 1..=number(to));
                        }
                        world.row = apply(&world.row, write);
                        Event::Written
                    }
                    Step::Compare(_) => Event::Compared { ours: true },
                    Step::Deliver(_) => Event::Delivered,
                    other => panic!("{other:?}"),
                };
                process.step = process.protocol.on(event);
            }
        }
        if let Some(Process { step: Step::Read(from), read, .. }) = &mut owner
            && *read < number(from)
        {
            *read = number(from);
        }
        if let Some(Process { step: Step::Read(from), .. }) = &owner {
            world.began.get_or_insert(number(from));
        }
        world.owner = owner;
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a symbol is never read from", |_, world: &World| {
                !matches!(
                    &world.owner,
                    Some(Process { step: Step::Read(Checkpoint::Latest | Checkpoint::AtTimestamp), .. })
                )
            }),
            Property::always("everything since reading began is read", |_, world: &World| {
                let reads_from = match &world.owner {
                    Some(Process { step: Step::Read(from), .. }) => number(from),
                    _ => return true,
                };
                let done = number(&world.row.checkpoint).max(world.began.unwrap_or(0));
                reads_from <= done
            }),
            Property::sometimes("records are delivered after a takeover", |_, world: &World| {
                world.took == TAKES && world.delivered.len() > 1
            }),
        ]
    }
}

#[test]
fn every_owner_reads_from_where_the_first_one_began() {
    let checked = Starts { pinned: true }
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    checked.assert_properties();
    println!("{} states", checked.unique_state_count());
}

#[test]
fn a_start_that_each_owner_interprets_loses_records() {
    let checked = Starts { pinned: false }.checker().threads(2).spawn_bfs().join();
    assert!(checked.discovery("everything since reading began is read").is_some());
}
