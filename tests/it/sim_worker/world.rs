//! A fleet of whole workers, their stream, table and lake, and what may happen to them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinetide::internals::batch::{BatchLimits, Gzip, GzipEncoder, Layout};
use kinetide::internals::checkpoint::PendingFormat;
use kinetide::internals::consumer::{
    ConsumerSettings, Lake, Land, Retention, Shared, StreamSetup, StreamSetups,
};
use kinetide::internals::fetch::fanout::FanOut;
use kinetide::internals::fetch::fanout::memory::MemoryFanOut;
use kinetide::internals::fetch::memory::MemoryStream;
use kinetide::internals::fetch::memory_table::MemoryTable;
use kinetide::internals::fetch::{
    ByteBudget, OutOfRange, Polling, RecordSource, Retrieval, Starts, Unpacking,
};
use kinetide::internals::lease::coordinator::{Coordinator, CoordinatorSettings};
use kinetide::internals::lease::memory::MemoryLeaseTable;
use kinetide::internals::lease::plan::Rules;
use kinetide::internals::lease::{Lease, StreamLeases, StreamSet, TableError, WorkerId};
use kinetide::internals::produce::aggregate::Aggregate;
use kinetide::internals::shard::{Checkpoint, Position, Shard, ShardId, ShardLister};
use kinetide::internals::telemetry::status::{Delivery, ProcessFacts, ShardSnapshot, Status};
use kinetide::internals::transform::{Builtin, Enrichment, SourceKind, Transform};
use kinetide::internals::worker::{self, Drain};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::copies::{self, Copies, copies_of};
use super::log::{Log, Place, number_of};
use super::wire::{Gate, Outside, Wire};

/// 2026-01-15T09:30:00Z, when every run begins.
pub(super) const START_US: i64 = 1_768_469_400_000_000;
/// This, and all that follows from it, is slower than in life, so that a day has fewer events.
pub(super) const FAILOVER: Duration = Duration::from_secs(60);
/// How soon a subscription notices a record.
const FAN_OUT_LOOK: Duration = Duration::from_secs(5);
/// Timers are exact to a millisecond.
const GRAIN: Duration = Duration::from_millis(50);

/// Where shards without a lease start.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Initial {
    TrimHorizon,
    Latest,
    /// µs since the epoch.
    Time(i64),
}

impl Initial {
    fn checkpoint(self) -> Checkpoint {
        match self {
            Self::TrimHorizon => Checkpoint::TrimHorizon,
            Self::Latest => Checkpoint::Latest,
            Self::Time(_) => Checkpoint::AtTimestamp,
        }
    }

    fn time(self) -> Option<i64> {
        if let Self::Time(us) = self { Some(us) } else { None }
    }
}

/// What workers are set to.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) rows_bytes_max: usize,
    pub(super) objects_max: usize,
    pub(super) byte_budget: usize,
    pub(super) batch_age_max: Duration,
    pub(super) drain_budget: Duration,
    pub(super) lake: &'static str,
    pub(super) pending_format: Option<PendingFormat>,
    pub(super) initial: Initial,
    /// Rows of high risk are copied.
    pub(super) alerts: bool,
    /// Where it is by enhanced fan-out, shards are polled while that is not possible.
    pub(super) retrieval: Retrieval,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rows_bytes_max: 16 << 10,
            objects_max: 6,
            byte_budget: 64 << 20,
            batch_age_max: Duration::from_secs(120),
            drain_budget: Duration::from_secs(25),
            lake: "s3://lake/raw",
            pending_format: None,
            initial: Initial::TrimHorizon,
            alerts: false,
            retrieval: Retrieval::Polling,
        }
    }
}

/// Versions that put records into other rows, other objects, or make dead letters of them: one of each.
pub(super) fn transforms() -> [Arc<dyn Transform>; 4] {
    let other = Enrichment { high_risk_above: 1000.into(), ..Enrichment::default() };
    [
        Arc::new(Builtin::crypto_transactions(&Enrichment::default()).unwrap()),
        Arc::new(Builtin::crypto_transactions(&other).unwrap()),
        Arc::new(Builtin::dynamodb_cdc()),
        Arc::new(Builtin::json()),
    ]
}

/// All versions: one of them makes several rows of a record, or none.
pub(super) fn all_transforms() -> Vec<Arc<dyn Transform>> {
    let mut versions = Vec::from(transforms());
    versions.push(Arc::new(Copies::new()));
    versions
}

pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) status: Arc<Status>,
    pub(super) budget: ByteBudget,
    pub(super) gate: Arc<Gate>,
    /// Seconds that its wall clock is ahead of the others.
    clock_off: Arc<AtomicI64>,
    stop: CancellationToken,
    asked_to_stop: Option<Instant>,
    process: AbortHandle,
    alive: bool,
}

pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) stream: Arc<MemoryStream>,
    pub(super) outside: Arc<Outside>,
    pub(super) workers: Vec<Worker>,
    processes: JoinSet<(usize, Result<Drain, TableError>)>,
    /// How the workers that were asked to stop did so.
    pub(super) drains: Vec<Drain>,
    pub(super) seed: u64,
    began: Instant,
    /// When every shard had a lease, µs since the epoch: what came before may be left out by those that start at LATEST.
    pub(super) began_us: i64,
    /// What workers are set to that start from now on.
    pub(super) later_initial: Initial,
}

impl World {
    pub(super) fn new(seed: u64, shards: usize, page_records_max: usize, settings: Settings) -> Self {
        let began = Instant::now();
        let micros = move |at: Instant| START_US + i64::try_from((at - began).as_micros()).unwrap();
        let stream = Arc::new(MemoryStream::new(shards, page_records_max, micros));
        Self::over(seed, stream, settings)
    }

    /// The stream is read as those of a table.
    pub(super) fn of_table(seed: u64, page_records_max: usize, settings: Settings) -> Self {
        let mut world = Self::new(seed, 1, page_records_max, settings);
        let outside = Arc::get_mut(&mut world.outside).unwrap();
        outside.of_table = Some(Arc::new(MemoryTable::over(Arc::clone(&world.stream))));
        world
    }

    /// A new table and an empty lake beside a stream that is there.
    pub(super) fn over(seed: u64, stream: Arc<MemoryStream>, settings: Settings) -> Self {
        let log = Arc::new(Mutex::new(Log::new()));
        let outside = Outside::new(MemoryLeaseTable::new(), Arc::clone(&stream), Arc::clone(&log));
        Self {
            log,
            stream,
            outside: Arc::new(outside),
            workers: Vec::new(),
            processes: JoinSet::new(),
            drains: Vec::new(),
            seed,
            began: Instant::now(),
            began_us: START_US,
            later_initial: settings.initial,
            settings,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn note(&self, text: impl std::fmt::Display) {
        self.log.lock().unwrap().line(text);
    }

    /// A record that is not followed to the lake.
    pub(super) fn put_bytes(&self, hash_key: u128, data: Vec<u8>) -> u128 {
        let (_, sequence) = self.stream.put(hash_key, "key", data).unwrap();
        sequence.as_str().parse().unwrap()
    }

    pub(super) fn put(&self, hash_key: u128, data: &str) -> (ShardId, u128) {
        let (shard, sequence) = self.stream.put(hash_key, "key", data).unwrap();
        let sequence = sequence.as_str().parse().unwrap();
        let mut log = self.log.lock().unwrap();
        log.produced.entry(shard.clone()).or_default().push(sequence);
        if copies_of(data.as_bytes()) == 0 {
            log.without_copies.insert((shard.clone(), sequence));
        }
        (shard, sequence)
    }

    /// Several records in one of the stream, as the Kinesis Producer Library packs them. The number of the first is the sequence
    /// number; the next numbers, which the stream leaves out, are those of the others.
    pub(super) fn put_packed(&self, hash_key: u128, data: &[String]) -> Vec<Place> {
        let mut aggregate = Aggregate::default();
        data.iter().for_each(|data| aggregate.push("key", data.as_bytes()));
        let (shard, sequence) = self.stream.put(hash_key, "a", aggregate.finish()).unwrap();
        self.stream.leave_out(data.len());
        let first: u128 = sequence.as_str().parse().unwrap();
        let mut log = self.log.lock().unwrap();
        let mut places = Vec::new();
        for (data, sub) in data.iter().zip(0..) {
            let place = (shard.clone(), first + u128::from(sub));
            log.produced.entry(shard.clone()).or_default().push(place.1);
            log.parts.insert(place.1, Position { sequence: sequence.clone(), sub });
            if copies_of(data.as_bytes()) == 0 {
                log.without_copies.insert(place.clone());
            }
            places.push(place);
        }
        places
    }

    pub(super) fn start_worker(&mut self, transform: &Arc<dyn Transform>) -> usize {
        self.log.lock().unwrap().copied |= transform.id().name() == copies::NAME;
        let number = self.workers.len();
        let id = WorkerId::new(format!("worker-{number:03}"));
        let seed = self.seed.wrapping_mul(1009).wrapping_add(number as u64);
        let gate = Arc::new(Gate::new());
        let wire = Arc::new(Wire {
            outside: Arc::clone(&self.outside),
            gate: Arc::clone(&gate),
            worker: id.clone(),
        });
        let clock_off = Arc::new(AtomicI64::new(0));
        let (began, told) = (self.began, Arc::clone(&clock_off));
        let starts = match self.outside.of_table {
            Some(_) => Starts::in_order(Arc::<Wire>::clone(&wire)),
            None => Starts::new(Arc::<Wire>::clone(&wire)),
        };
        let starts = Arc::new(starts);
        let coordinator = Coordinator::new(
            CoordinatorSettings {
                worker: id.clone(),
                failover: FAILOVER,
                scan_interval: Duration::from_secs(10),
                shard_sync_interval: Duration::from_secs(120),
                rules: Rules { leases_max: 1000, kbps_max: f64::INFINITY },
                cpu: Arc::new(|| None),
                wall_clock: Arc::new(move || {
                    let seconds = START_US / 1_000_000 + i64::try_from(began.elapsed().as_secs()).unwrap();
                    u64::try_from(seconds + told.load(Ordering::Relaxed)).unwrap()
                }),
                seed,
            },
            Arc::<Wire>::clone(&wire),
            StreamSet::One(StreamLeases {
                name: "trades".into(),
                lister: Arc::<Wire>::clone(&wire),
                starts: Arc::clone(&starts) as _,
                initial: self.later_initial.checkpoint(),
                initial_timestamp_us: self.later_initial.time(),
            }),
        );
        let facts = ProcessFacts {
            worker: id.to_string(),
            application: "simulation".into(),
            delivery: Delivery::ExactlyOnce,
            warnings: Vec::new(),
        };
        let status = Status::new(facts, FAILOVER * 3);
        let limits = BatchLimits {
            rows_bytes_max: self.settings.rows_bytes_max,
            objects_max: self.settings.objects_max,
            // Every other worker compresses as an earlier release did: they finish each other's batches.
            gzip: Gzip {
                level: 1,
                encoder: if number.is_multiple_of(2) { GzipEncoder::Rows } else { GzipEncoder::Zlib },
            },
        };
        let budget = ByteBudget::new(self.settings.byte_budget);
        let settings = ConsumerSettings {
            limits,
            batch_age_max: self.settings.batch_age_max,
            lake: self.settings.lake.into(),
            pending_format: self.settings.pending_format,
        };
        let work = Land {
            lake: Arc::new(Lake { sink: Arc::<Wire>::clone(&wire), firehose: None, settings }),
            transform: Arc::clone(transform),
            layout: Layout {
                landing: "landing".into(),
                errors: "errors".into(),
                alerts: self.settings.alerts,
            },
        };
        let polling = Polling::new(Arc::<Wire>::clone(&wire), Duration::from_secs(20));
        let polling: Arc<dyn RecordSource> = Arc::new(polling.gathering(Duration::from_secs(5)));
        let source = match self.settings.retrieval {
            Retrieval::Polling => Arc::clone(&polling),
            Retrieval::FanOut => {
                let (wire, seats) = (Arc::clone(&wire), Arc::clone(&self.outside.seats));
                let fan_out = Arc::new(MemoryFanOut::new(wire, seats, FAN_OUT_LOOK));
                Arc::new(FanOut::or_polling(fan_out, Arc::clone(&polling), "trades")) as _
            }
        };
        let setup = StreamSetup {
            address: "trades".into(),
            name: "trades".into(),
            kind: SourceKind::Kinesis,
            source: unpacked(source),
            again: unpacked(polling),
            lister: wire,
            starts,
            work: Arc::new(work),
            initial_timestamp_us: self.later_initial.time(),
            retention: Retention::default(),
            budget: budget.of_stream(),
            removed: CancellationToken::new(),
        };
        let shared = Shared {
            streams: StreamSetups::new(vec![Arc::new(setup)]),
            coordinator,
            budget: budget.clone(),
            status: Arc::clone(&status),
            seed,
        };
        let stop = CancellationToken::new();
        let work = worker::run(Arc::new(shared), stop.clone(), self.settings.drain_budget);
        let process = Process { work: Box::pin(work), gate: Arc::clone(&gate), nap: None };
        let process = self.processes.spawn(async move { (number, process.await) });
        let alerts = self.settings.alerts;
        self.note(format_args!("{id} starts with {}, alerts: {alerts}", transform.id()));
        self.log.lock().unwrap().alerts.insert(alerts);
        self.workers.push(Worker {
            id,
            status,
            budget,
            gate,
            clock_off,
            stop,
            asked_to_stop: None,
            process,
            alive: true,
        });
        number
    }

    pub(super) fn crash(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        worker.gate.kill();
        worker.process.abort();
        worker.alive = false;
        self.note(format_args!("{} crashes", self.workers[number].id));
    }

    pub(super) fn freeze(&mut self, number: usize, time: Duration) {
        self.workers[number].gate.freeze(time);
        self.note(format_args!("{} is frozen for {time:?}", self.workers[number].id));
    }

    pub(super) fn step_clock(&mut self, number: usize, seconds: i64) {
        self.workers[number].clock_off.fetch_add(seconds, Ordering::Relaxed);
        self.note(format_args!("the clock of {} steps by {seconds} s", self.workers[number].id));
    }

    pub(super) fn stop(&mut self, number: usize) {
        self.note(format_args!("{} is asked to stop", self.workers[number].id));
        self.workers[number].asked_to_stop = Some(Instant::now());
        self.workers[number].stop.cancel();
    }

    /// Workers that run, those that drain included.
    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|&number| self.workers[number].alive).collect()
    }

    /// Workers that were not asked to stop.
    pub(super) fn working(&self) -> Vec<usize> {
        let works = |worker: &Worker| worker.alive && worker.asked_to_stop.is_none();
        (0..self.workers.len()).filter(|&number| works(&self.workers[number])).collect()
    }

    pub(super) fn all_stopped(&self) -> bool {
        self.workers.iter().all(|worker| !worker.alive)
    }

    /// Lets time pass, and looks at the workers that ended.
    pub(super) async fn run(&mut self, time: Duration) {
        sleep(time).await;
        let failure = self.log.lock().unwrap().failure.clone();
        assert!(failure.is_none(), "{failure:?}");
        while let Some(ended) = self.processes.try_join_next() {
            let (number, drain) = match ended {
                Ok(ended) => ended,
                Err(error) if error.is_cancelled() => continue,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            let drain = drain.unwrap();
            self.note(format_args!("{} drained: {drain:?}", self.workers[number].id));
            assert!(self.workers[number].asked_to_stop.is_some(), "a worker ended unasked");
            self.workers[number].alive = false;
            self.drains.push(drain);
        }
        for worker in &self.workers {
            let Some(asked) = worker.asked_to_stop.filter(|_| worker.alive) else { continue };
            // `time` at most has passed since a worker could have been seen to end.
            let limit = self.settings.drain_budget + time + GRAIN;
            assert!(asked.elapsed() <= limit, "{} did not drain within its budget", worker.id);
        }
    }

    /// Why the only worker ends unasked.
    pub(super) async fn refused_start(&mut self) -> TableError {
        let (_, ended) = self.processes.join_next().await.unwrap().unwrap();
        ended.unwrap_err()
    }

    /// What the status of any living worker says of a shard, the last one to report it first.
    pub(super) fn shard_status(&self, shard: &ShardId) -> Option<ShardSnapshot> {
        let alive = self.workers.iter().rev().filter(|worker| worker.alive);
        alive
            .flat_map(|worker| worker.status.snapshot().shards)
            .find(|snapshot| snapshot.shard == shard.as_str())
    }

    pub(super) async fn shards(&self) -> Vec<Shard> {
        loop {
            if let Ok(shards) = self.stream.list().await {
                return shards;
            }
        }
    }

    /// What is still to be done, if anything.
    pub(super) async fn unfinished(&self) -> Option<String> {
        let shards = self.shards().await;
        let log = self.log.lock().unwrap();
        for Shard { id, closed, .. } in shards {
            let Some(row) = log.rows.get(&id.clone().into()) else {
                if !log.ended.contains(&id) {
                    return Some(format!("{id} has no lease"));
                }
                continue;
            };
            let tip = log.produced.get(&id).and_then(|records| records.last());
            let at_tip = tip.is_none_or(|tip| is_at(row, *tip));
            if closed && !row.finished() || !closed && (!at_tip || row.pending.is_some()) {
                return Some(format!("{id} is not at its end or tip: {row:?}"));
            }
        }
        None
    }

    pub(super) async fn until_done(&mut self, limit: Duration) {
        let start = Instant::now();
        while let Some(rest) = self.unfinished().await {
            let status: Vec<_> =
                self.workers.iter().filter(|w| w.alive).map(|w| w.status.snapshot()).collect();
            assert!(start.elapsed() < limit, "after {limit:?} {rest}\n{status:#?}");
            self.run(Duration::from_secs(10)).await;
        }
    }

    /// Asks everybody to stop; with nothing wrong around them all drain cleanly.
    pub(super) async fn drain_all(&mut self) {
        for number in self.working() {
            self.stop(number);
        }
        while !self.all_stopped() {
            self.run(GRAIN).await;
        }
    }
}

fn unpacked(source: Arc<dyn RecordSource>) -> Arc<dyn RecordSource> {
    Arc::new(Unpacking::new(source, OutOfRange::Deliver))
}

fn is_at(row: &Lease, sequence: u128) -> bool {
    row.checkpoint.position().is_some_and(|at| number_of(at) == sequence)
}

/// A process that can be made to stand still. Its tasks belong to the runtime, so that its timers go on; but
/// nothing comes or goes through its gate, and the worker itself is not polled.
struct Process<F> {
    work: Pin<Box<F>>,
    gate: Arc<Gate>,
    nap: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.gate.is_frozen() {
            let mut nap = Box::pin(sleep_until(self.gate.frozen_until()));
            let polled = nap.as_mut().poll(context);
            self.nap = Some(nap);
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
        self.work.as_mut().poll(context)
    }
}
