//! One shard, from taking its lease to its end or loss, record by record to a processor.
//!
//! ```text
//!              ┌──────── pause, growing ◄───────────────────────────────┐
//!              ▼                                                        │ panic, error, or no
//!  parents ─► start pinned ─► initialize ─► records … ─► shard_end ─────┤ checkpoint at the end
//!  finished                                    │            │
//!                                              │            └─► SHARD_END written: finished, children are read
//!                                              └─► shutdown_requested / lease_lost
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::call::{Call, Caller, message};
use super::{Checkpointer, Processor, ProcessorFactory, Records, ShardStart};
use crate::checkpoint::PendingBatch;
use crate::consumer::{
    Done, Fetched, Purpose, RunShard, ShardRow, Shared, StopReason, StreamSetup, read_shard, start_at,
};
use crate::fetch::Payload;
use crate::lease::{HeldLease, Lease, LeaseKey, LeaseWrite};
use crate::shard::Checkpoint;
use crate::shutdown::joined;
use crate::telemetry::metrics;
use crate::telemetry::status::{ShardHandle, ShardState, Side};

/// Until a processor that failed is followed by another one: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

const FORGOTTEN: &str = "the processor returned from shard_end without a successful checkpoint: the shard is not finished \
     and its children are not read; call checkpoint() on the checkpointer in shard_end";
const OF_A_LAKE: &str = "the lease holds a batch that `kinetide run` has under way: a checkpoint of a processor would lose \
     or double rows in the lake; give the processor an application name of its own";

/// The work of a stream whose records go to a program's own processors.
pub struct Process {
    factory: Arc<dyn ProcessorFactory>,
    /// A shard that was lost and came back has one processor all the same.
    places: Mutex<BTreeMap<LeaseKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl Process {
    /// With processors of this kind.
    pub fn new(factory: Arc<dyn ProcessorFactory>) -> Self {
        Self { factory, places: Mutex::default() }
    }

    /// Returns when no processor of the shard is left in this process.
    async fn place(&self, key: &LeaseKey) -> OwnedMutexGuard<()> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|_, place| Arc::strong_count(place) > 1);
            Arc::clone(places.entry(key.clone()).or_default())
        };
        place.lock_owned().await
    }
}

#[async_trait]
impl RunShard for Process {
    async fn run(
        &self,
        shared: Arc<Shared>,
        stream: Arc<StreamSetup>,
        lease: Arc<HeldLease>,
        stop: CancellationToken,
    ) -> StopReason {
        let row = ShardRow::new(shared, Arc::clone(&stream), Arc::clone(&lease));
        let status = Arc::clone(&row.status);
        let _place = tokio::select! {
            biased;
            () = lease.lost().cancelled() => return StopReason::LeaseLost,
            () = stop.cancelled() => return StopReason::ShutdownRequested,
            place = async {
                row.parents_finished().await;
                self.place(lease.key()).await
            } => place,
        };
        let mut run = Run {
            factory: Arc::clone(&self.factory),
            row: Arc::new(tokio::sync::Mutex::new(row)),
            stream,
            caller: Caller { lease: Arc::clone(&lease), status: Arc::clone(&status) },
            lease,
            status,
        };
        run.run(&stop).await
    }
}

struct Run {
    factory: Arc<dyn ProcessorFactory>,
    row: Arc<tokio::sync::Mutex<ShardRow>>,
    stream: Arc<StreamSetup>,
    lease: Arc<HeldLease>,
    status: Arc<ShardHandle>,
    caller: Caller,
}

/// How the time of one processor ended.
enum Ended {
    Stopped(StopReason),
    /// For this reason, and another one may do better.
    Failed(String),
}

impl Run {
    async fn run(&mut self, stop: &CancellationToken) -> StopReason {
        let (mut pause, mut checkpoint) = (PAUSES.0, self.lease.row().checkpoint);
        loop {
            let reason = match self.attempt(stop).await {
                Ended::Stopped(reason) => return reason,
                Ended::Failed(reason) => reason,
            };
            let reached = self.lease.row().checkpoint;
            if reached != checkpoint {
                (pause, checkpoint) = (PAUSES.0, reached);
            }
            let next = pause.mul_f64(self.row.lock().await.rng.random_range(0.75..1.0));
            tracing::error!(
                shard = %self.lease.key(), reason, checkpoint = checkpoint.as_str(), pause = ?next,
                "the processor has ended; another one will begin at the checkpoint"
            );
            self.status.stalled(Side::Delivering, "processor_failed", reason);
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                biased;
                () = self.lease.lost().cancelled() => return StopReason::LeaseLost,
                () = stop.cancelled() => return StopReason::ShutdownRequested,
                () = sleep(next) => {}
            }
        }
    }

    /// The time of one processor.
    async fn attempt(&mut self, stop: &CancellationToken) -> Ended {
        let ended = CancellationToken::new();
        let _ended_when_dropped = ended.clone().drop_guard();
        let start = tokio::select! {
            biased;
            () = self.lease.lost().cancelled() => return Ended::Stopped(StopReason::LeaseLost),
            () = stop.cancelled() => return Ended::Stopped(StopReason::ShutdownRequested),
            start = self.start() => match start {
                Ok(start) => start,
                Err(reason) => return Ended::Failed(reason),
            },
        };
        if start.checkpoint == Checkpoint::ShardEnd {
            return self.finished();
        }
        let made = catch_unwind(AssertUnwindSafe(|| self.factory.processor(&start.shard)));
        let mut processor = match made {
            Ok(processor) => processor,
            Err(panic) => {
                return Ended::Failed(format!("no processor could be made: {}", message(&*panic)));
            }
        };
        let checkpointer = Checkpointer::new(Arc::clone(&self.row), Arc::clone(&self.lease), ended);
        match self.caller.call("initialize", processor.initialize(&start)).await {
            Call::Done => {}
            Call::Failed(reason) => return Ended::Failed(reason),
            Call::LeaseLost => return self.lost(&mut *processor).await,
        }
        self.status.state(ShardState::Reading);
        self.feed(&mut *processor, &checkpointer, &start.checkpoint, stop).await
    }

    /// Where reading begins: the checkpoint, once the row says it by a position.
    async fn start(&self) -> Result<ShardStart, String> {
        // A checkpoint of the processor before may still be on its way.
        let mut row = self.row.lock().await;
        // With whatever was changed in the row meanwhile. Without an answer it is looked at as it was.
        let _ = self.lease.look().await;
        let found = self.lease.row();
        if is_of_a_lake(&found) {
            return Err(OF_A_LAKE.to_owned());
        }
        let checkpoint = match found.checkpoint {
            symbolic @ (Checkpoint::Latest | Checkpoint::AtTimestamp) => {
                let Some((at, start_us)) = row.find_start(&symbolic).await else {
                    return Err(format!(
                        "the lease starts at {}, and no time is known for it",
                        symbolic.as_str()
                    ));
                };
                row.write(LeaseWrite::Pin { checkpoint: at.clone(), start_us }).await;
                at
            }
            known => known,
        };
        self.status.checkpoint(checkpoint.as_str());
        let (stream, shard) = (Arc::clone(&self.stream.address), self.lease.key().shard().clone());
        Ok(ShardStart { stream, shard, checkpoint, pending: found.pending })
    }

    /// Gives the processor what comes after `done`.
    async fn feed(
        &self,
        processor: &mut dyn Processor,
        checkpointer: &Checkpointer,
        done: &Checkpoint,
        stop: &CancellationToken,
    ) -> Ended {
        let (sender, mut pages) = mpsc::channel(1);
        let mut reader = JoinSet::new();
        reader.spawn(read_shard(
            Arc::clone(&self.stream),
            Arc::clone(&self.lease),
            start_at(done),
            Purpose::Deliver,
            Arc::clone(&self.status),
            self.row.lock().await.fork_rng(),
            sender,
        ));
        // What the row says of this checkpoint.
        let mut done = Done::up_to(self.lease.row().done().filter(|_| done.position().is_some()));
        loop {
            let fetched: Fetched = tokio::select! {
                biased;
                () = self.lease.lost().cancelled() => return self.lost(processor).await,
                () = stop.cancelled() => {
                    reader.abort_all();
                    return self.stopped(processor, checkpointer).await;
                }
                // It ends by itself at the end of the shard. Its panic is not to leave the shard without a reader.
                Some(ended) = reader.join_next() => {
                    joined(ended).await;
                    continue;
                }
                Some(fetched) = pages.recv() => fetched,
            };
            let Fetched { page, room, end, .. } = fetched;
            self.lease.count_bytes(page.bytes());
            let mut from = 0;
            for record in page.records() {
                if let Payload::Base64(text) = record.payload
                    && base64_simd::STANDARD.check(text).is_err()
                {
                    return Ended::Failed(format!("record {} is not base64", record.sequence_number));
                }
                from += usize::from(done.has(&record));
            }
            if from < page.len() {
                let call = self.give(processor, checkpointer, Records { page, from }).await;
                drop(room);
                match call {
                    Call::Done => {}
                    Call::Failed(reason) => return Ended::Failed(reason),
                    Call::LeaseLost => return self.lost(processor).await,
                }
            }
            if let Some(children) = end {
                self.row.lock().await.children = children;
                return self.end(processor, checkpointer).await;
            }
        }
    }

    async fn give(
        &self,
        processor: &mut dyn Processor,
        checkpointer: &Checkpointer,
        records: Records,
    ) -> Call {
        let (first, last) = (records.iter().next(), records.iter().next_back());
        let (first, last) = first.zip(last).expect("records are never empty");
        if checkpointer.is_done() {
            self.status.oldest_undelivered(Some(first.arrival_us));
        }
        checkpointer.gives(first.position(), last.position(), last.arrival_us);
        self.status.in_flight_bytes(records.page.bytes());
        let call = self.caller.call("records", processor.records(&records, checkpointer)).await;
        self.status.in_flight_bytes(0);
        self.status.checkpoint(checkpointer.last().as_str());
        if checkpointer.is_done() {
            self.status.oldest_undelivered(None);
        }
        if matches!(call, Call::Done) {
            self.status.delivered(records.len());
            self.status.landed(records.len() as u64, records.page.bytes() as u64, 0);
        }
        call
    }

    /// The shard has no more records: its children have leases before anybody may read them, and the processor says that
    /// all is done.
    async fn end(&self, processor: &mut dyn Processor, checkpointer: &Checkpointer) -> Ended {
        let created = async { self.row.lock().await.create_children().await };
        tokio::select! {
            biased;
            () = self.lease.lost().cancelled() => return self.lost(processor).await,
            () = created => {}
        }
        checkpointer.gives_end();
        match self.caller.call("shard_end", processor.shard_end(checkpointer)).await {
            Call::Done if self.lease.row().finished() => self.finished(),
            Call::Done => Ended::Failed(FORGOTTEN.to_owned()),
            Call::Failed(reason) => Ended::Failed(reason),
            Call::LeaseLost => self.lost(processor).await,
        }
    }

    async fn stopped(&self, processor: &mut dyn Processor, checkpointer: &Checkpointer) -> Ended {
        let handed_over = self.lease.handed_over().is_cancelled();
        self.status.finishing(if handed_over { ShardState::HandingOver } else { ShardState::Delivering });
        match self.caller.call("shutdown_requested", processor.shutdown_requested(checkpointer)).await {
            Call::LeaseLost => return self.lost(processor).await,
            Call::Failed(reason) => {
                tracing::error!(shard = %self.lease.key(), reason, "records since the checkpoint will come again");
            }
            Call::Done => {}
        }
        Ended::Stopped(StopReason::ShutdownRequested)
    }

    async fn lost(&self, processor: &mut dyn Processor) -> Ended {
        self.caller.tell_lost(processor.lease_lost()).await;
        Ended::Stopped(StopReason::LeaseLost)
    }

    fn finished(&self) -> Ended {
        metrics::shard_ended();
        self.status.recovered(Side::Delivering);
        self.status.state(ShardState::Finished);
        Ended::Stopped(StopReason::ShardEnd)
    }
}

/// Whether a worker that lands rows has written to this row since its last checkpoint.
fn is_of_a_lake(row: &Lease) -> bool {
    let batch = row.pending.as_ref().map(PendingBatch::from_pending);
    row.last_prepared.is_some() || matches!(batch, Some(Ok(Some(_)) | Err(_)))
}
