//! A fleet of coordinators on one table, and what may happen to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt};
use kinetide::internals::lease::coordinator::{Coordinator, CoordinatorSettings};
use kinetide::internals::lease::memory::{Faults, MemoryLeaseTable};
use kinetide::internals::lease::plan::Rules;
use kinetide::internals::lease::{
    HeldLease, LeaderRow, Lease, LeaseKey, LeaseTable, LeaseWrite, LeaseWriteError, StreamLeases, StreamSet,
    TableError, TableSnapshot, WorkerId, WorkerRow, WriteError,
};
use kinetide::internals::shard::ChildShard;
use kinetide::internals::shard::{
    Checkpoint, FindStart, HashKeyRange, ListError, Position, SequenceNumber, Shard, ShardId, ShardLister,
    StartError, StartFound, StartFrom,
};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub(super) const FAILOVER: Duration = Duration::from_secs(10);
pub(super) const SCAN: Duration = Duration::from_secs(1);
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Everything that the table accepted, checked as it comes.
pub(super) struct Log {
    start: Instant,
    pub(super) lines: Vec<String>,
    pub(super) rows: BTreeMap<LeaseKey, Lease>,
    /// Every form that each row ever had.
    forms: BTreeMap<LeaseKey, Vec<Lease>>,
    /// Who was told that a write to this counter is his.
    writers: BTreeMap<(LeaseKey, u64), WorkerId>,
}

impl Log {
    fn new() -> Self {
        let (lines, rows, forms, writers) = Default::default();
        Self { start: Instant::now(), lines, rows, forms, writers }
    }

    fn line(&mut self, text: String) {
        self.lines.push(format!("{:>8} {text}", self.start.elapsed().as_millis()));
    }

    fn accepted(&mut self, before: Option<&Lease>, after: Option<&Lease>) {
        match (before, after) {
            (None, Some(row)) => assert!(!self.forms.contains_key(&row.key), "{} came back", row.key),
            (Some(old), Some(row)) => {
                assert!(old.checkpoint <= row.checkpoint, "{} moved back", row.key);
                if row.counter > old.counter && row.owner.is_some() && !row.finished() {
                    for parent in &row.parents {
                        let parent = self.rows.get(&row.key.sibling(parent));
                        assert!(
                            parent.is_none_or(Lease::finished),
                            "{} owned before its parents ended",
                            row.key
                        );
                    }
                }
            }
            _ => {}
        }
        match (before, after) {
            (_, Some(row)) => {
                self.line(format!("{} {:?} {} {}", row.key, row.owner, row.counter, row.checkpoint.as_str()));
                self.rows.insert(row.key.clone(), row.clone());
                self.forms.entry(row.key.clone()).or_default().push(row.clone());
            }
            (Some(old), None) => {
                self.line(format!("{} deleted", old.key));
                self.rows.remove(&old.key);
            }
            (None, None) => {}
        }
    }

    fn told(&mut self, key: &LeaseKey, counter: u64, worker: &WorkerId) {
        let first = self.writers.entry((key.clone(), counter)).or_insert_with(|| worker.clone());
        assert_eq!(first, worker, "two accepted writers of {key} at {counter}");
    }
}

/// One worker's way to the table; notes what the worker was told.
struct Wire {
    table: Arc<MemoryLeaseTable>,
    process: WorkerId,
    log: Arc<Mutex<Log>>,
    lookers: Arc<Mutex<BTreeSet<WorkerId>>>,
}

#[async_trait]
impl LeaseTable for Wire {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.table.ensure_exists().await
    }
    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.lookers.lock().unwrap().insert(self.process.clone());
        self.table.snapshot().await
    }
    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        self.table.owned_by(worker).await
    }
    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        self.table.get(key).await
    }
    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        self.table.create(lease).await
    }
    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        let answer = self.table.write(seen, write).await;
        if let (Ok(row), false) = (&answer, !write.moves_counter()) {
            self.log.lock().unwrap().told(&row.key, row.counter, &self.process);
        }
        answer
    }
    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        self.table.delete(seen).await
    }
    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        self.table.leader().await
    }
    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        self.table.lead(seen, next).await
    }
    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        self.table.resign(mine).await
    }
    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        self.table.report(worker).await
    }
    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        self.table.forget_worker(seen).await
    }
}

/// A stream that can be resharded.
#[derive(Default)]
pub(super) struct Stream(Mutex<Vec<Shard>>);

impl Stream {
    fn new(shards: usize) -> Self {
        let stream = Self::default();
        for _ in 0..shards {
            stream.open(&[]);
        }
        stream
    }

    pub(super) fn open(&self, parents: &[ShardId]) {
        let mut shards = self.0.lock().unwrap();
        for parent in shards.iter_mut().filter(|shard| parents.contains(&shard.id)) {
            parent.closed = true;
        }
        let number = shards.len();
        shards.push(Shard {
            id: ShardId::new(format!("shard-{number:03}")),
            parents: parents.to_vec(),
            hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
            starting_sequence_number: SequenceNumber::from(number as u128),
            closed: false,
        });
    }

    pub(super) fn open_shards(&self) -> Vec<ShardId> {
        self.0.lock().unwrap().iter().filter(|shard| !shard.closed).map(|shard| shard.id.clone()).collect()
    }

    pub(super) fn split(&self, shard: &ShardId) {
        // Both children at once, as a listing shows them.
        self.open(std::slice::from_ref(shard));
        self.open(std::slice::from_ref(shard));
    }

    fn children(&self, parent: &ShardId) -> Vec<ChildShard> {
        let child = |shard: &Shard| ChildShard {
            id: shard.id.clone(),
            parents: shard.parents.clone(),
            hash_range: shard.hash_range,
        };
        let shards = self.0.lock().unwrap();
        shards.iter().filter(|shard| shard.parents.contains(parent)).map(child).collect()
    }
}

#[async_trait]
impl ShardLister for Stream {
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

#[async_trait]
impl FindStart for Stream {
    async fn find(&self, _: &ShardId, _: StartFrom) -> Result<StartFound, StartError> {
        Ok(StartFound { at: Checkpoint::TrimHorizon, closed: false })
    }
}

/// A process that can be made to stand still: while it stalls, nothing in it runs.
struct Process<F> {
    work: Pin<Box<F>>,
    stalled_until: Arc<Mutex<Instant>>,
    nap: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let until = *self.stalled_until.lock().unwrap();
        if Instant::now() < until {
            let mut nap = Box::pin(sleep_until(until));
            let polled = nap.as_mut().poll(context);
            self.nap = Some(nap);
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
        self.work.as_mut().poll(context)
    }
}

pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) stalled_until: Arc<Mutex<Instant>>,
    /// Seconds that its wall clock is ahead of the others.
    clock_off: Arc<AtomicI64>,
    pub(super) stop_taking: CancellationToken,
    stop: CancellationToken,
    process: AbortHandle,
    alive: bool,
}

pub(super) struct Fleet {
    pub(super) table: Arc<MemoryLeaseTable>,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) stream: Arc<Stream>,
    pub(super) workers: Vec<Worker>,
    processes: JoinSet<()>,
    seed: u64,
    /// Who has read the whole table.
    pub(super) lookers: Arc<Mutex<BTreeSet<WorkerId>>>,
    /// Workers that start from now on keep a lease that they should hand over.
    pub(super) stubborn: bool,
    /// Workers that start from now on read nothing, so that only renewals keep their leases.
    pub(super) idle: bool,
    /// How often each lease was begun, by whichever worker.
    pub(super) begun: Arc<Mutex<BTreeMap<LeaseKey, usize>>>,
}

impl Fleet {
    pub(super) fn new(seed: u64, shards: usize, faults: bool) -> Self {
        println!("seed {seed}");
        let log = Arc::new(Mutex::new(Log::new()));
        let observed = Arc::clone(&log);
        let mut table = MemoryLeaseTable::new()
            .with_observer(move |before, after| observed.lock().unwrap().accepted(before, after));
        if faults {
            let delay = Duration::from_millis(1)..Duration::from_millis(80);
            table = table.with_faults(Faults { seed, delay, lost_request: 0.03, lost_answer: 0.05 });
        }
        Self {
            table: Arc::new(table),
            log,
            stream: Arc::new(Stream::new(shards)),
            workers: Vec::new(),
            processes: JoinSet::new(),
            seed,
            lookers: Arc::default(),
            stubborn: false,
            idle: false,
            begun: Arc::default(),
        }
    }

    /// A fleet whose workers start together and share the shards after `time`, on a good network.
    pub(super) async fn at_rest(seed: u64, shards: usize, workers: usize, time: Duration) -> Self {
        let mut fleet = Self::new(seed, shards, false);
        for _ in 0..workers {
            fleet.start_worker();
        }
        fleet.run(time).await;
        fleet.assert_balanced();
        fleet
    }

    pub(super) fn start_worker(&mut self) {
        self.start_worker_as(&format!("worker-{:02}", self.workers.len()), 0);
    }

    /// A worker with this id, whose wall clock is off by so many seconds.
    pub(super) fn start_worker_as(&mut self, id: &str, clock_off: i64) {
        let number = self.workers.len();
        let id = WorkerId::new(id);
        // Processes are told apart whatever they call themselves.
        let process = WorkerId::new(format!("process-{number:02}"));
        let clock_off = Arc::new(AtomicI64::new(clock_off));
        let told = Arc::clone(&clock_off);
        let began = self.log.lock().unwrap().start;
        let settings = CoordinatorSettings {
            worker: id.clone(),
            failover: FAILOVER,
            scan_interval: SCAN,
            shard_sync_interval: Duration::from_secs(20),
            rules: Rules { leases_max: 1000, kbps_max: f64::INFINITY },
            cpu: Arc::new(|| None),
            wall_clock: Arc::new(move || {
                (1_768_469_400 + began.elapsed().as_secs())
                    .saturating_add_signed(told.load(Ordering::Relaxed))
            }),
            seed: self.seed.wrapping_mul(31).wrapping_add(number as u64),
        };
        let wire = Wire {
            table: Arc::clone(&self.table),
            process,
            log: Arc::clone(&self.log),
            lookers: Arc::clone(&self.lookers),
        };
        let stream = Arc::clone(&self.stream);
        let streams = StreamSet::One(StreamLeases {
            name: "trades".into(),
            lister: Arc::<Stream>::clone(&stream),
            starts: Arc::<Stream>::clone(&stream),
            initial: Checkpoint::TrimHorizon,
            initial_timestamp_us: None,
        });
        let coordinator = Coordinator::new(settings, Arc::new(wire), streams);
        let (stop_taking, stop) = (CancellationToken::new(), CancellationToken::new());
        let stalled_until = Arc::new(Mutex::new(Instant::now()));
        let habits = Habits { stubborn: self.stubborn, idle: self.idle, begun: Arc::clone(&self.begun) };
        let work = work(Arc::clone(&coordinator), stream, stop_taking.clone(), stop.clone(), habits);
        let process = Process { work: Box::pin(work), stalled_until: Arc::clone(&stalled_until), nap: None };
        let process = self.processes.spawn(process);
        self.log.lock().unwrap().line(format!("{id} starts"));
        let alive = true;
        let worker = Worker { id, coordinator, stalled_until, clock_off, stop_taking, stop, process, alive };
        self.workers.push(worker);
    }

    /// Asks a worker to leave.
    pub(super) fn stop(&mut self, number: usize) {
        self.log.lock().unwrap().line(format!("{} stops", self.workers[number].id));
        self.workers[number].stop_taking.cancel();
        self.workers[number].stop.cancel();
    }

    pub(super) fn step_clock(&mut self, number: usize, seconds: i64) {
        self.workers[number].clock_off.fetch_add(seconds, Ordering::Relaxed);
        self.log.lock().unwrap().line(format!("the clock of {} steps", self.workers[number].id));
    }

    pub(super) fn crash(&mut self, number: usize) {
        self.workers[number].process.abort();
        self.workers[number].alive = false;
        self.log.lock().unwrap().line(format!("{} crashes", self.workers[number].id));
    }

    pub(super) fn stall(&mut self, number: usize, time: Duration) {
        *self.workers[number].stalled_until.lock().unwrap() = Instant::now() + time;
        self.log.lock().unwrap().line(format!("{} stalls for {time:?}", self.workers[number].id));
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|&number| self.workers[number].alive).collect()
    }

    /// Lets time pass, looking at everything all the while.
    pub(super) async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(TICK).await;
            self.check();
        }
    }

    /// What a worker believes was in the table in that form.
    fn check(&mut self) {
        while let Some(ended) = self.processes.try_join_next() {
            assert!(ended.is_ok() || ended.unwrap_err().is_cancelled(), "a worker panicked");
        }
        for worker in &mut self.workers {
            worker.alive &= !worker.process.is_finished();
        }
        let log = self.log.lock().unwrap();
        for worker in &self.workers {
            for held in worker.coordinator.held() {
                let row = held.row();
                // It is one of the newest.
                let was_so = log.forms[&row.key].iter().rev().any(|form| *form == row);
                assert!(was_so, "{} believes {row:?}", worker.id);
            }
        }
    }

    /// Leases to be read now.
    pub(super) fn ready(&self) -> Vec<Lease> {
        self.of_ready(Lease::clone)
    }

    pub(super) fn of_ready<T>(&self, what: impl Fn(&Lease) -> T) -> Vec<T> {
        let log = self.log.lock().unwrap();
        let ended = |parent: &ShardId| log.rows.get(&parent.clone().into()).is_none_or(Lease::finished);
        let ready = log.rows.values().filter(|row| !row.finished() && row.parents.iter().all(ended));
        ready.map(what).collect()
    }

    /// The living worker that holds `lease` and may believe in it.
    pub(super) fn holder(&self, lease: &LeaseKey) -> Option<usize> {
        self.holders().remove(lease)
    }

    /// The same of every lease; of two, the one that started first.
    pub(super) fn holders(&self) -> BTreeMap<LeaseKey, usize> {
        let now = Instant::now();
        let mut holders = BTreeMap::new();
        for (number, worker) in self.workers.iter().enumerate() {
            if !worker.alive || *worker.stalled_until.lock().unwrap() > now {
                continue;
            }
            for held in worker.coordinator.held().into_iter().filter(|held| held.is_valid(now)) {
                holders.entry(held.key().clone()).or_insert(number);
            }
        }
        holders
    }

    pub(super) async fn until_all_held(&mut self, limit: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let (ready, holders) = (self.ready(), self.holders());
            if !ready.is_empty() && ready.iter().all(|lease| holders.contains_key(&lease.key)) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < limit,
                "seed {}: leases still without a reader after {limit:?}",
                self.seed
            );
            self.run(TICK).await;
        }
    }

    pub(super) fn leader(&self) -> usize {
        let leads = |worker: &Worker| worker.coordinator.is_leader();
        self.workers.iter().position(leads).expect("somebody leads")
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        let held = |&number: &usize| {
            let held = self.workers[number].coordinator.held();
            held.iter().filter(|held| !held.row().finished()).count()
        };
        self.alive().iter().map(held).collect()
    }

    pub(super) fn assert_balanced(&self) {
        let counts = self.counts();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), self.ready().len());
    }
}

/// How the consumers of a worker behave.
struct Habits {
    stubborn: bool,
    idle: bool,
    begun: Arc<Mutex<BTreeMap<LeaseKey, usize>>>,
}

/// A worker with the plainest of consumers: counts up, and goes on to the children of a closed shard.
async fn work(
    coordinator: Arc<Coordinator>,
    stream: Arc<Stream>,
    stop_taking: CancellationToken,
    stop: CancellationToken,
    habits: Habits,
) {
    let (gained, mut leases) = mpsc::channel(4);
    let finish = CancellationToken::new();
    let mut run = Box::pin(Arc::clone(&coordinator).run(gained, stop_taking, finish.clone()));
    let mut consumers = FuturesUnordered::new();
    let mut left = false;
    loop {
        if left && consumers.is_empty() {
            finish.cancel();
        }
        let leave = async {
            stop.cancelled().await;
            coordinator.left().await;
        };
        tokio::select! {
            biased;
            ended = &mut run => return ended.unwrap(),
            Some(lease) = leases.recv() => {
                *habits.begun.lock().unwrap().entry(lease.key().clone()).or_default() += 1;
                consumers.push(consume(&coordinator, &stream, lease, &stop, &habits));
            }
            Some(()) = consumers.next(), if !consumers.is_empty() => {}
            () = leave, if !left => left = true,
        }
    }
}

async fn consume(
    coordinator: &Coordinator,
    stream: &Stream,
    lease: Arc<HeldLease>,
    stop: &CancellationToken,
    habits: &Habits,
) {
    let mut records_left = 4;
    loop {
        tokio::select! {
            biased;
            () = lease.lost().cancelled() => return coordinator.forget(&lease),
            () = lease.handed_over().cancelled(), if !habits.stubborn => {
                coordinator.release(&lease).await;
                return;
            }
            () = stop.cancelled() => {
                coordinator.release(&lease).await;
                return;
            }
            () = sleep(Duration::from_millis(700)), if !habits.idle => {}
        }
        // No record of a shard is before its start.
        let start: u128 = lease.key().as_str().rsplit('-').next().unwrap().parse().unwrap();
        let done =
            lease.row().checkpoint.position().map_or(start, |at| at.sequence.as_str().parse().unwrap());
        let children = stream.children(lease.key().shard());
        let write = if children.is_empty() || records_left > 0 {
            records_left -= 1;
            LeaseWrite::commit(Checkpoint::At(Position::new(SequenceNumber::from(done + 1))))
        } else if coordinator.create_children(&lease, &children).await.is_err() {
            continue;
        } else {
            LeaseWrite::commit(Checkpoint::ShardEnd)
        };
        match lease.write(write).await {
            Ok(row) if row.finished() => return,
            Ok(_) | Err(LeaseWriteError::Unavailable(_)) => {}
            Err(LeaseWriteError::Lost) => return coordinator.forget(&lease),
        }
    }
}
