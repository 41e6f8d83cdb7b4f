//! One shard, from taking its lease to its end or loss: reads pages, fills batches, delivers them one at a time.
//!
//! Owns: the order of these things for one shard, and the reason why it stops.
//! Does not own: the rules of a delivery (`checkpoint`), how each of its steps is carried out (`steps`), when to
//! poll (`reader`).
//!
//! ```text
//!  reader task ──pages──► open batch ──closed──► delivery task (prepare, objects, commit)
//!                             ▲                        │
//!                             └── the next one fills meanwhile; one is under way at a time
//! ```

mod done;
mod halted;
mod reader;
mod rebuild;
mod row;
mod steps;
mod stream;

pub(crate) use done::Done;
pub(crate) use reader::{Fetched, Purpose, read_shard};
pub(crate) use row::ShardRow;
pub use stream::{Retention, RunShard, Shared, StopReason, StreamSetup, StreamSetups};

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, BatchContext, BatchLimits, Batcher, Layout, each_record};
use crate::checkpoint::{BatchPlan, Event, PendingFormat, Protocol, Unpacking};
use crate::deliver::{DeliveryStream, Sink};
use crate::fetch::{ByteBudget, BytePermit, StartAt};
use crate::lease::HeldLease;
use crate::shard::{Checkpoint, ChildShard, RecordId};
use crate::shutdown::joined;
use crate::telemetry::metrics;
use crate::telemetry::status::ShardState;
use crate::transform::Transform;

use halted::Halted;
use steps::{Outcome, Steps};

/// A page with more bytes than this takes over half a millisecond to transform.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// When memory is short, a batch is closed early if it holds this much or is this old. Smaller and younger ones
/// would free little and make many small objects.
const EARLY_BYTES: usize = 4 << 20;
const EARLY_AGE: Duration = Duration::from_secs(5);
/// How often it is said that objects are small because records are of too many hours.
const CROWDED_INTERVAL: Duration = Duration::from_secs(600);

/// How records become objects.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// When a batch is full.
    pub limits: BatchLimits,
    /// A batch is closed this long after its first record was read.
    pub batch_age_max: Duration,
    /// The lake, in one spelling: which batches are its own.
    pub lake: String,
    /// How pending batches are described; `None` as the fleet understands it.
    pub pending_format: Option<PendingFormat>,
}

/// Where rows land: what all shards share whose records become rows.
pub struct Lake {
    /// Takes objects.
    pub sink: Arc<dyn Sink>,
    /// Takes the rows, where they do not go to the lake.
    pub firehose: Option<DeliveryStream>,
    /// How records become objects.
    pub settings: ConsumerSettings,
}

/// The work of a stream whose records become rows, which land exactly once.
pub struct Land {
    /// Where they land.
    pub lake: Arc<Lake>,
    /// What makes them.
    pub transform: Arc<dyn Transform>,
    /// Where objects go.
    pub layout: Layout,
}

#[async_trait]
impl RunShard for Land {
    async fn run(
        &self,
        shared: Arc<Shared>,
        stream: Arc<StreamSetup>,
        lease: Arc<HeldLease>,
        stop: CancellationToken,
    ) -> StopReason {
        let lost = lease.lost().clone();
        let consume = Consumer::start(self, shared, stream, lease).run(stop);
        tokio::select! {
            biased;
            // Dropping the consumer drops its tasks: a lost lease writes nothing any more.
            () = lost.cancelled() => StopReason::LeaseLost,
            reason = consume => reason,
        }
    }
}

struct Consumer {
    lake: Arc<Lake>,
    row: ShardRow,
    context: Arc<BatchContext>,
    crowded_noted: Option<Instant>,
}

impl Consumer {
    fn start(land: &Land, shared: Arc<Shared>, stream: Arc<StreamSetup>, lease: Arc<HeldLease>) -> Self {
        let context = Arc::new(BatchContext {
            stream: stream.name.clone(),
            shard: lease.key().shard().clone(),
            source: stream.kind,
            layout: land.layout.clone(),
            limits: land.lake.settings.limits,
            transform: Arc::clone(&land.transform),
            packing: land.lake.firehose.as_ref().map(DeliveryStream::packing),
        });
        let row = ShardRow::new(shared, stream, lease);
        Self { lake: Arc::clone(&land.lake), row, context, crowded_noted: None }
    }

    async fn run(mut self, stop: CancellationToken) -> StopReason {
        tokio::select! {
            biased;
            () = stop.cancelled() => return StopReason::ShutdownRequested,
            () = self.row.parents_finished() => {}
        }
        if self.row.lease.row().pending.is_some() {
            self.row.status.state(ShardState::Recovering);
        }
        let mut halted = Halted::new();
        loop {
            let reason = match self.work(&stop).await {
                Ok(stopped) => return stopped,
                Err(reason) => reason,
            };
            // What is halted may have changed in the meantime: the row, the lake, what the stream answers.
            if halted.wait(&mut self, &reason, &stop).await {
                return StopReason::ShutdownRequested;
            }
        }
    }

    /// Brings what is pending to its end and reads on. An error is why no automatic way on is known.
    async fn work(&mut self, stop: &CancellationToken) -> Result<StopReason, String> {
        let mut protocol = Protocol::new(self.context.id(), self.lake.settings.lake.as_str());
        let row = self.row.lease.row();
        let done = row.done();
        let (checkpoint, pending, last_prepared) = (row.checkpoint, row.pending, row.last_prepared);
        let taken = Event::Taken { checkpoint, done, pending, last_prepared };
        let mut steps = self.steps();
        let outcome = tokio::select! {
            biased;
            // The batch stays pending; the next owner brings it to its end.
            () = stop.cancelled() => return Ok(StopReason::ShutdownRequested),
            outcome = steps.drive(&mut protocol, taken) => outcome,
        };
        match outcome {
            Outcome::Read(after) => self.read(protocol, after, stop).await,
            Outcome::Finished => Ok(self.finished()),
            Outcome::Halted(halt) => Err(halt.to_string()),
        }
    }

    /// The main loop: from `after` to the end, batch by batch.
    async fn read(
        &mut self,
        protocol: Protocol,
        after: Checkpoint,
        stop: &CancellationToken,
    ) -> Result<StopReason, String> {
        self.row.status.checkpoint(after.as_str());
        self.row.status.resumed();
        self.row.status.state(ShardState::Reading);
        let (mut reader, mut pages) = self.start_reader(start_at(&after));
        let mut open = Open::new(&self.context, &self.row.stream.budget, self.row.lease.row().done());
        let mut delivery = JoinSet::new();
        let mut protocol = Some(protocol);
        let mut draining = false;
        loop {
            let short = self.row.shared.budget.is_short();
            if protocol.is_some() {
                if open.due(draining, short, self.lake.settings.batch_age_max) {
                    let machine = protocol.take().expect("looked at above");
                    self.note_crowded(&open.batcher);
                    let rows = open.batcher.waiting_bytes();
                    let (closed, batch) = sized(rows, open, |open| open.batcher.close()).await;
                    open = closed;
                    let batch = batch.expect("a batch that is due is not empty");
                    delivery.spawn(self.delivery(machine, &mut open, batch));
                } else if open.ended() {
                    let mut steps = self.steps();
                    steps.row.children = std::mem::take(&mut open.children);
                    let mut machine = protocol.take().expect("looked at above");
                    delivery.spawn(async move {
                        let outcome = steps.drive(&mut machine, Event::Drained).await;
                        Delivered { protocol: machine, outcome, records: 0 }
                    });
                } else if draining {
                    return Ok(StopReason::ShutdownRequested);
                }
            }
            let batch_open = protocol.is_some() && !open.batcher.is_empty();
            tokio::select! {
                biased;
                Some(done) = delivery.join_next(), if !delivery.is_empty() => {
                    let done: Delivered = joined(done).await;
                    match done.outcome {
                        Outcome::Read(checkpoint) => {
                            self.row.status.checkpoint(checkpoint.as_str());
                            self.row.status.delivered(done.records);
                            self.row.status.oldest_undelivered(open.batcher.oldest_arrival_us());
                            self.row.status.in_flight_bytes(open.permit.bytes());
                            protocol = Some(done.protocol);
                        }
                        Outcome::Finished => return Ok(self.finished()),
                        Outcome::Halted(halt) => return Err(halt.to_string()),
                    }
                }
                () = stop.cancelled(), if !draining => {
                    draining = true;
                    let handed_over = self.row.lease.handed_over().is_cancelled();
                    self.row.status.finishing(if handed_over { ShardState::HandingOver } else { ShardState::Delivering });
                    reader.abort_all();
                    open.leave_page();
                }
                () = sleep_until(open.deadline(self.lake.settings.batch_age_max)), if batch_open => {}
                () = self.row.shared.budget.short(), if batch_open && !short => {}
                () = sleep(EARLY_AGE), if batch_open && short => {}
                // It ends by itself at the end of the shard. Its panic is not to leave the shard without a reader.
                Some(ended) = reader.join_next(), if !draining => joined(ended).await,
                Some(fetched) = pages.recv(), if !draining && open.wants_page() => {
                    self.row.lease.count_bytes(fetched.page.bytes());
                    open.take_page(fetched);
                }
            }
            if !draining && open.has_work() {
                open = open.fill().await;
                self.row.status.batch(count(open.batcher.records()), open.batcher.rows_bytes());
                if protocol.is_some() {
                    self.row.status.oldest_undelivered(open.batcher.oldest_arrival_us());
                }
                self.row.status.in_flight_bytes(open.permit.bytes());
            }
        }
    }

    /// Says now and then that batches are closed because their records are of too many hours.
    fn note_crowded(&mut self, batch: &Batcher) {
        let quiet = self.crowded_noted.is_some_and(|noted| noted.elapsed() < CROWDED_INTERVAL);
        if batch.is_crowded() && !quiet {
            self.crowded_noted = Some(Instant::now());
            tracing::warn!(
                shard = %self.row.lease.key(),
                records = batch.records(),
                rows_bytes = batch.rows_bytes(),
                "batch closed early: its records span more hours than a batch can have objects, so objects are \
                 small; put records in time order, or compact the lake"
            );
        }
    }

    /// The delivery of a batch that was just closed. The bytes it holds stay accounted for until its objects exist.
    fn delivery(
        &mut self,
        mut protocol: Protocol,
        open: &mut Open,
        batch: Batch,
    ) -> impl Future<Output = Delivered> + use<> {
        let shard_end = open.end && open.page.is_none();
        let mut permit = std::mem::replace(&mut open.permit, self.row.shared.budget.empty());
        // The encoders are gone.
        permit.set(batch.held_bytes());
        open.since = None;
        self.row.status.batch(0, 0);
        let plan = BatchPlan {
            first: batch.first.clone(),
            last: batch.last.clone(),
            objects: steps::planned_objects(&batch).collect(),
            streamed: !batch.packed.is_empty(),
            unpacking: Unpacking::of(batch.unpacked),
        };
        let records = count(batch.records);
        let mut steps = self.steps();
        if shard_end {
            steps.row.children = std::mem::take(&mut open.children);
        }
        (steps.batch, steps.held) = (Some(batch), Some(permit));
        async move {
            let outcome = steps.drive(&mut protocol, Event::Closed { plan, shard_end }).await;
            Delivered { protocol, outcome, records }
        }
    }

    fn start_reader(&mut self, start: StartAt) -> (JoinSet<()>, mpsc::Receiver<Fetched>) {
        // One page waits while one is transformed: enough to hide the round trip.
        let (sender, pages) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(reader::read_shard(
            Arc::clone(&self.row.stream),
            Arc::clone(&self.row.lease),
            start,
            Purpose::Deliver,
            Arc::clone(&self.row.status),
            self.row.fork_rng(),
            sender,
        ));
        (tasks, pages)
    }

    fn steps(&mut self) -> Steps {
        Steps::new(self.row.fork(), Arc::clone(&self.lake), Arc::clone(&self.context))
    }

    fn finished(&self) -> StopReason {
        metrics::shard_ended();
        self.row.status.resumed();
        self.row.status.state(ShardState::Finished);
        StopReason::ShardEnd
    }
}

struct Delivered {
    protocol: Protocol,
    outcome: Outcome,
    records: usize,
}

/// The open batch, the page that is being put into it, and what they hold.
struct Open {
    batcher: Batcher,
    /// When its first record came.
    since: Option<Instant>,
    permit: BytePermit,
    page: Option<(Fetched, usize)>,
    done: Done,
    end: bool,
    /// The stream has forgotten the shard.
    gone: bool,
    children: Vec<ChildShard>,
}

impl Open {
    fn new(context: &Arc<BatchContext>, budget: &ByteBudget, done: Option<RecordId>) -> Self {
        Self {
            batcher: Batcher::new(Arc::clone(context)),
            since: None,
            permit: budget.empty(),
            page: None,
            done: Done::up_to(done),
            end: false,
            gone: false,
            children: Vec::new(),
        }
    }

    /// Whether the batch is to be closed now.
    fn due(&self, draining: bool, memory_short: bool, age_max: Duration) -> bool {
        let Some(since) = self.since else { return false };
        let age = since.elapsed();
        let early = memory_short && (self.batcher.held_bytes() >= EARLY_BYTES || age >= EARLY_AGE);
        let last = self.end || self.gone;
        let full = self.batcher.is_full() || self.batcher.is_cramped();
        draining || full || age >= age_max || early || (last && self.page.is_none())
    }

    fn deadline(&self, age_max: Duration) -> Instant {
        self.since.unwrap_or_else(Instant::now) + age_max
    }

    /// True when the shard is read to its end and everything is delivered.
    fn ended(&self) -> bool {
        self.end && self.page.is_none() && self.batcher.is_empty()
    }

    fn wants_page(&self) -> bool {
        self.page.is_none() && !self.end && !self.batcher.is_full() && !self.batcher.is_cramped()
    }

    fn has_work(&self) -> bool {
        self.page.is_some() && !self.batcher.is_full()
    }

    fn take_page(&mut self, fetched: Fetched) {
        if let Some(children) = &fetched.end {
            self.end = true;
            self.children.clone_from(children);
        }
        self.gone = fetched.gone;
        self.page = Some((fetched, 0));
    }

    /// Drops what is left of the page. Its records stay unread, and so the end that it told of is not reached.
    fn leave_page(&mut self) {
        if self.page.take().is_some() {
            self.end = false;
            self.children.clear();
        }
    }

    /// Moves records from the page to the batch until one of them is used up.
    async fn fill(self) -> Self {
        let bytes = self.page.as_ref().map_or(0, |(fetched, _)| fetched.page.bytes());
        sized(bytes, self, Self::fill_now).await.0
    }

    fn fill_now(&mut self) {
        let Some((fetched, next)) = self.page.take() else { return };
        let mut index = next;
        let rows = |batcher: &Batcher| batcher.records() - batcher.dead_letters();
        let before = rows(&self.batcher);
        each_record(fetched.page.records().skip(next), |record, panicked| {
            if !panicked {
                if self.batcher.may_end_before(record) {
                    return ControlFlow::Break(());
                }
                index += 1;
                if self.done.has(record) {
                    return ControlFlow::Continue(());
                }
            }
            // A compressor for each hour and kind of row may take more than the page that brings them: it is asked for
            // before it is there. Without it the rows take the place of the page, and the batch is closed.
            self.batcher.push_within(record, panicked, |bytes| self.permit.try_grow(bytes));
            ControlFlow::Continue(())
        });
        if self.batcher.records() > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        metrics::records_transformed(count(rows(&self.batcher) - before));
        metrics::records_read_generally(self.batcher.take_read_generally());
        if index < fetched.page.len() {
            self.page = Some((fetched, index));
        } else {
            // The bytes of the page become those of the batch: counted side by side they would exceed the budget, and
            // given back first they could go to somebody else.
            drop(fetched.page);
            self.permit.merge(fetched.room.permit);
        }
        self.permit.set(self.batcher.held_bytes());
    }
}

/// Does `work` on `value` for a page or for rows of `bytes`: here when that is little, else off the async threads, as it
/// takes over half a millisecond.
async fn sized<T, R>(bytes: usize, mut value: T, work: impl FnOnce(&mut T) -> R + Send + 'static) -> (T, R)
where
    T: Send + 'static,
    R: Send + 'static,
{
    let whole = move || {
        let result = work(&mut value);
        (value, result)
    };
    if bytes > INLINE_BYTES_MAX { joined(tokio::task::spawn_blocking(whole).await).await } else { whole() }
}

/// Where to start reading for a checkpoint. The protocol has pinned a symbolic one.
pub(crate) fn start_at(checkpoint: &Checkpoint) -> StartAt {
    match checkpoint.position() {
        Some(position) => StartAt::At(position.sequence.clone()),
        None => StartAt::TrimHorizon,
    }
}

fn count(records: u64) -> usize {
    usize::try_from(records).unwrap_or(usize::MAX)
}
