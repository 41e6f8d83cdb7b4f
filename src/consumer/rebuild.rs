//! Builds a pending batch again from the records of the stream, whatever its size.
//!
//! Owns: how it is known that no record of the batch is missing, and the memory that a rebuild takes.
//! Does not own: what follows from the outcome (`checkpoint`), how a shard is read (`reader`).
//!
//! Sequence numbers have gaps, so that the records themselves do not show whether they are all there. But retention
//! takes the oldest first: a record that is still there after reading has seen all later ones be there meanwhile.

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::StreamSetup;
use super::reader::{self, Fetched, Purpose};
use crate::batch::{Batch, BatchContext, BatchLimits, Batcher, RecordsThere, each_record};
use crate::fetch::{BytePermit, StartAt, Turn};
use crate::lease::HeldLease;
use crate::shard::{Position, RecordId, SequenceNumber};
use crate::shutdown::joined;
use crate::telemetry::status::ShardHandle;

/// What a rebuild asks for at its start besides the room for a page: most batches take no more. One that does gets it
/// while it is free; else it begins again when its turn has come.
const SHARE_BYTES: usize = 8 << 20;

/// The batch without the rows that are there already (none when all are), the bytes that it holds, and its last record:
/// behind the end that it had, where that is an aggregate that was taken for one record.
pub(super) type Rebuilt = (Option<Batch>, BytePermit, Position);

/// A batch to be built again.
pub(super) struct Rebuild {
    pub(super) stream: Arc<StreamSetup>,
    pub(super) lease: Arc<HeldLease>,
    pub(super) status: Arc<ShardHandle>,
    pub(super) context: Arc<BatchContext>,
    pub(super) rng: ChaCha8Rng,
    pub(super) first: Position,
    pub(super) last: RecordId,
    pub(super) generation: u32,
    /// Records up to here are done, also where that is inside the batch.
    pub(super) done: Option<RecordId>,
    /// Records whose rows are not made again.
    pub(super) there: Arc<RecordsThere>,
}

/// How one reading of the records ended.
enum Pass {
    Whole(Box<Rebuilt>),
    /// Not every record can be shown to be there.
    Gone,
    /// There is not enough memory now.
    Short,
}

impl Rebuild {
    /// Reads the records and batches them. `None` when not every one of them can be shown to have been read.
    pub(super) async fn run(&mut self) -> Option<Rebuilt> {
        let budget = self.stream.budget.clone();
        let start_bytes = self.page_bytes() + SHARE_BYTES;
        if start_bytes < budget.total() {
            let held = budget.acquire(start_bytes).await;
            match self.read(held, None).await {
                Pass::Whole(rebuilt) => return Some(*rebuilt),
                Pass::Gone => return None,
                // To wait for more while holding some could be to wait for others that do the same.
                Pass::Short => {}
            }
        }
        let turn = budget.turn().await;
        let held = budget.acquire(start_bytes).await;
        match self.read(held, Some(&turn)).await {
            Pass::Whole(rebuilt) => Some(*rebuilt),
            Pass::Gone => None,
            Pass::Short => unreachable!("who has the turn waits for memory"),
        }
    }

    async fn read(&mut self, held: BytePermit, turn: Option<&Turn>) -> Pass {
        let limits =
            BatchLimits { rows_bytes_max: usize::MAX, objects_max: usize::MAX, ..self.context.limits };
        let context = BatchContext { limits, ..(*self.context).clone() };
        let mut again = Again {
            batcher: Batcher::new(Arc::new(context)),
            first: self.first.clone(),
            last: self.last.clone(),
            end: self.last.clone().position(),
            done: self.done.clone(),
            there: Arc::clone(&self.there),
            held,
            waits: turn.is_some(),
            seen_first: false,
            seen_last: false,
            pages: 0,
        };
        let (mut reading, mut pages) = self.start_reader();
        while let Some(fetched) = pages.recv().await {
            let page_bytes = self.page_bytes();
            let (now, progress) =
                super::sized(fetched.page.bytes(), again, move |again| again.take(&fetched, page_bytes))
                    .await;
            again = now;
            match progress {
                HowFar::Gone => return Pass::Gone,
                HowFar::Short => return Pass::Short,
                HowFar::Complete => {
                    drop((reading, pages));
                    // One page holds what was there at one moment.
                    if again.pages > 1 && !self.first_is_there().await {
                        return Pass::Gone;
                    }
                    return self.close(again).await;
                }
                HowFar::More => {}
            }
            let needed = again.batcher.held_bytes() + page_bytes;
            match turn {
                Some(turn) => again.held.grow_in_turn(needed, turn).await,
                None if !again.held.try_grow(needed.saturating_sub(again.held.bytes())) => {
                    return Pass::Short;
                }
                None => {}
            }
        }
        while let Some(ended) = reading.join_next().await {
            joined(ended).await;
        }
        // The shard ends before the batch does.
        Pass::Gone
    }

    async fn close(&self, again: Again) -> Pass {
        let generation = self.generation;
        let (again, batch) = super::sized(again.batcher.waiting_bytes(), again, move |again| {
            // The keys of the batch are those that it has; a repair's own ones say where it ends.
            let last = if generation == 0 { again.last.clone().position() } else { again.end.clone() };
            again.batcher.close_as(&again.first, &last, generation)
        })
        .await;
        let mut held = again.held;
        held.set(batch.as_ref().map_or(0, Batch::held_bytes));
        Pass::Whole(Box::new((batch, held, again.end)))
    }

    /// Whether the batch's first record is still in the stream, and with it all that came after it.
    async fn first_is_there(&mut self) -> bool {
        let (mut reading, mut pages) = self.start_reader();
        match pages.recv().await {
            Some(fetched) => fetched.from_start,
            None => {
                while let Some(ended) = reading.join_next().await {
                    joined(ended).await;
                }
                false
            }
        }
    }

    /// A reader from the batch's first record on, with one page in memory at a time.
    fn start_reader(&mut self) -> (JoinSet<()>, mpsc::Receiver<Fetched>) {
        let (sender, pages) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        reading.spawn(reader::read_shard(
            Arc::clone(&self.stream),
            Arc::clone(&self.lease),
            StartAt::At(self.from()),
            Purpose::Rebuild(Arc::new(Semaphore::new(1))),
            Arc::clone(&self.status),
            ChaCha8Rng::from_rng(&mut self.rng),
            sender,
        ));
        (reading, pages)
    }

    /// Where reading starts: at a record that is to be there.
    fn from(&self) -> SequenceNumber {
        let done = self.done.as_ref().map(|done| &done.sequence);
        done.max(Some(&self.first.sequence)).cloned().expect("the first record is one")
    }

    fn page_bytes(&self) -> usize {
        self.stream.again.page_bytes_max()
    }
}

/// A batch that is being built again.
struct Again {
    batcher: Batcher,
    first: Position,
    last: RecordId,
    /// The last record of the batch as it is read now; not before that which the batch names.
    end: Position,
    done: Option<RecordId>,
    there: Arc<RecordsThere>,
    held: BytePermit,
    /// Where there is no memory it waits, instead of giving up.
    waits: bool,
    seen_first: bool,
    seen_last: bool,
    /// Pages with records of the batch.
    pages: u32,
}

enum HowFar {
    More,
    /// The last record was seen.
    Complete,
    /// A record is not there any more.
    Gone,
    Short,
}

impl Again {
    /// Takes the records of the batch from a page. `page_bytes` of what is held are for the page.
    fn take(&mut self, fetched: &Fetched, page_bytes: usize) -> HowFar {
        // After the first page an empty one is sent at the tip and at the end of the shard: nothing comes after it.
        let nothing = if self.seen_first { fetched.page.is_empty() } else { !fetched.from_start };
        if fetched.gone || nothing {
            return HowFar::Gone;
        }
        self.seen_first = true;
        self.pages += 1;
        let held_now = self.batcher.held_bytes();
        if held_now + fetched.page.bytes() > self.held.bytes() {
            // Only a batch that is larger than the whole budget, or a page above the bound, comes to this.
            self.held.set(held_now + fetched.page.bytes());
        }
        let mut spare = self.held.bytes().saturating_sub(held_now + page_bytes);
        let mut short = false;
        let mut progress = HowFar::More;
        each_record(fetched.page.records(), |record, panicked| {
            let position = record.position();
            if self.last.is_before(&position) {
                progress = if self.seen_last { HowFar::Complete } else { HowFar::Gone };
                return ControlFlow::Break(());
            }
            self.seen_last |= position.sequence == self.last.sequence;
            let done = self.done.as_ref().is_some_and(|done| !done.is_before(&position));
            if position >= self.first && !done && !self.there.has(record) {
                self.batcher.push_within(record, panicked, |bytes| {
                    let room = match spare.checked_sub(bytes) {
                        Some(rest) => {
                            spare = rest;
                            true
                        }
                        None => self.held.try_grow(bytes),
                    };
                    short |= !room;
                    room
                });
            }
            if position > self.end {
                self.end = position;
            }
            ControlFlow::Continue(())
        });
        match progress {
            // All that one record of the stream packs is on one page.
            HowFar::More if self.seen_last => HowFar::Complete,
            HowFar::More if short && !self.waits => HowFar::Short,
            progress => progress,
        }
    }
}
