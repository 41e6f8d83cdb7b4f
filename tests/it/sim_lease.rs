//! Fleets of coordinators on one table behind a bad network, in virtual time: crashes, stalls longer than the
//! failover time, reshards. Everything is drawn from one seed, which is printed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt};
use kinetide::lease::coordinator::{Coordinator, CoordinatorSettings};
use kinetide::lease::memory::{Faults, MemoryLeaseTable};
use kinetide::lease::plan::Rules;
use kinetide::lease::{
    HeldLease, LeaderRow, Lease, LeaseKey, LeaseTable, LeaseWrite, LeaseWriteError, TableError,
    TableSnapshot, WorkerId, WorkerRow, WriteError,
};
use kinetide::shard::ChildShard;
use kinetide::shard::{
    Checkpoint, HashKeyRange, ListError, Position, SequenceNumber, Shard, ShardId, ShardLister,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

const FAILOVER: Duration = Duration::from_secs(10);
const SCAN: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);

/// Everything that the table accepted, checked as it comes.
struct Log {
    start: Instant,
    lines: Vec<String>,
    rows: BTreeMap<LeaseKey, Lease>,
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
                        let parent = self.rows.get(parent);
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
    worker: WorkerId,
    log: Arc<Mutex<Log>>,
}

#[async_trait]
impl LeaseTable for Wire {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.table.ensure_exists().await
    }
    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
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
            self.log.lock().unwrap().told(&row.key, row.counter, &self.worker);
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
struct Stream(Mutex<Vec<Shard>>);

impl Stream {
    fn new(shards: usize) -> Self {
        let stream = Self::default();
        for _ in 0..shards {
            stream.open(&[]);
        }
        stream
    }

    fn open(&self, parents: &[ShardId]) {
        let mut shards = self.0.lock().unwrap();
        for parent in shards.iter_mut().filter(|shard| parents.contains(&shard.id)) {
            parent.closed = true;
        }
        let number = shards.len();
        shards.push(Shard {
            id: ShardId::new(format!("shard-{number:03}")),
            parents: parents.to_vec(),
            hash_range: HashKeyRange { start: 0, end: u128::MAX },
            starting_sequence_number: SequenceNumber::from(number as u128),
            closed: false,
        });
    }

    fn open_shards(&self) -> Vec<ShardId> {
        self.0.lock().unwrap().iter().filter(|shard| !shard.closed).map(|shard| shard.id.clone()).collect()
    }

    fn split(&self, shard: &ShardId) {
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

struct Worker {
    id: WorkerId,
    coordinator: Arc<Coordinator>,
    stalled_until: Arc<Mutex<Instant>>,
    stop_taking: CancellationToken,
    process: AbortHandle,
    alive: bool,
}

struct Fleet {
    table: Arc<MemoryLeaseTable>,
    log: Arc<Mutex<Log>>,
    stream: Arc<Stream>,
    workers: Vec<Worker>,
    processes: JoinSet<()>,
    seed: u64,
}

impl Fleet {
    fn new(seed: u64, shards: usize, faults: bool) -> Self {
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
        }
    }

    fn start_worker(&mut self) {
        let number = self.workers.len();
        let id = WorkerId::new(format!("worker-{number:02}"));
        let began = self.log.lock().unwrap().start;
        let settings = CoordinatorSettings {
            worker: id.clone(),
            failover: FAILOVER,
            scan_interval: SCAN,
            shard_sync_interval: Duration::from_secs(20),
            initial: Checkpoint::TrimHorizon,
            rules: Rules { leases_max: 1000, kbps_max: f64::INFINITY },
            cpu: Arc::new(|| None),
            wall_clock: Arc::new(move || 1_768_469_400 + began.elapsed().as_secs()),
            seed: self.seed.wrapping_mul(31).wrapping_add(number as u64),
        };
        let wire = Wire { table: Arc::clone(&self.table), worker: id.clone(), log: Arc::clone(&self.log) };
        let stream = Arc::clone(&self.stream);
        let lister: Arc<dyn ShardLister> = Arc::<Stream>::clone(&stream);
        let coordinator = Coordinator::new(settings, Arc::new(wire), lister);
        let stop_taking = CancellationToken::new();
        let stalled_until = Arc::new(Mutex::new(Instant::now()));
        let work = work(Arc::clone(&coordinator), stream, stop_taking.clone());
        let process = Process { work: Box::pin(work), stalled_until: Arc::clone(&stalled_until), nap: None };
        let process = self.processes.spawn(process);
        self.log.lock().unwrap().line(format!("{id} starts"));
        self.workers.push(Worker { id, coordinator, stalled_until, stop_taking, process, alive: true });
    }

    fn crash(&mut self, number: usize) {
        self.workers[number].process.abort();
        self.workers[number].alive = false;
        self.log.lock().unwrap().line(format!("{} crashes", self.workers[number].id));
    }

    fn stall(&mut self, number: usize, time: Duration) {
        *self.workers[number].stalled_until.lock().unwrap() = Instant::now() + time;
        self.log.lock().unwrap().line(format!("{} stalls for {time:?}", self.workers[number].id));
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|&number| self.workers[number].alive).collect()
    }

    /// Lets time pass, looking at everything all the while.
    async fn run(&mut self, time: Duration) {
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
        let log = self.log.lock().unwrap();
        for worker in &self.workers {
            for held in worker.coordinator.held() {
                let row = held.row();
                assert!(log.forms[&row.key].contains(&row), "{} believes {row:?}", worker.id);
            }
        }
    }

    /// Leases to be read now.
    fn ready(&self) -> Vec<Lease> {
        let log = self.log.lock().unwrap();
        let ended = |parent: &ShardId| log.rows.get(parent).is_none_or(Lease::finished);
        log.rows.values().filter(|row| !row.finished() && row.parents.iter().all(ended)).cloned().collect()
    }

    /// True when some living worker holds `lease` and may believe in it.
    fn is_held(&self, lease: &LeaseKey) -> bool {
        let now = Instant::now();
        let holds = |worker: &Worker| {
            let held = worker.coordinator.held();
            held.iter().any(|held| held.key() == lease && held.is_valid(now))
        };
        self.workers
            .iter()
            .any(|worker| worker.alive && *worker.stalled_until.lock().unwrap() <= now && holds(worker))
    }

    async fn until_all_held(&mut self, limit: Duration) -> Duration {
        let start = Instant::now();
        while self.ready().is_empty() || !self.ready().iter().all(|lease| self.is_held(&lease.key)) {
            assert!(
                start.elapsed() < limit,
                "seed {}: leases still without a reader after {limit:?}",
                self.seed
            );
            self.run(TICK).await;
        }
        start.elapsed()
    }

    fn leader(&self) -> usize {
        let leads = |worker: &Worker| worker.coordinator.is_leader();
        self.workers.iter().position(leads).expect("somebody leads")
    }

    fn counts(&self) -> Vec<usize> {
        let held = |&number: &usize| {
            let held = self.workers[number].coordinator.held();
            held.iter().filter(|held| !held.row().finished()).count()
        };
        self.alive().iter().map(held).collect()
    }

    fn assert_balanced(&self) {
        let counts = self.counts();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), self.ready().len());
    }
}

/// A worker with the plainest of consumers: counts up, and goes on to the children of a closed shard.
async fn work(coordinator: Arc<Coordinator>, stream: Arc<Stream>, stop_taking: CancellationToken) {
    let (gained, mut leases) = mpsc::channel(4);
    let mut run = Box::pin(Arc::clone(&coordinator).run(gained, stop_taking, CancellationToken::new()));
    let mut consumers = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return ended.unwrap(),
            Some(lease) = leases.recv() => consumers.push(consume(&coordinator, &stream, lease)),
            Some(()) = consumers.next(), if !consumers.is_empty() => {}
        }
    }
}

async fn consume(coordinator: &Coordinator, stream: &Stream, lease: Arc<HeldLease>) {
    let mut records_left = 4;
    loop {
        tokio::select! {
            biased;
            () = lease.lost().cancelled() => return,
            () = lease.handed_over().cancelled() => return coordinator.release(&lease).await,
            () = sleep(Duration::from_millis(700)) => {}
        }
        let done = lease.row().checkpoint.position().map_or(0, |at| at.sequence.as_str().parse().unwrap());
        let children = stream.children(lease.key());
        let write = if children.is_empty() || records_left > 0 {
            records_left -= 1;
            LeaseWrite::Commit(Checkpoint::At(Position::new(SequenceNumber::from(done + 1u128))))
        } else if coordinator.create_children(&lease, &children).await.is_err() {
            continue;
        } else {
            LeaseWrite::Commit(Checkpoint::ShardEnd)
        };
        match lease.write(write).await {
            Ok(row) if row.finished() => return,
            Ok(_) | Err(LeaseWriteError::Unavailable(_)) => {}
            Err(LeaseWriteError::Lost) => return,
        }
    }
}

/// Crashes, stalls, joins and reshards at random on a bad network, then quiet. Answers the event log.
async fn storm(seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fleet = Fleet::new(seed, 8, true);
    for _ in 0..3 {
        fleet.start_worker();
    }
    for _ in 0..25 {
        let pause = rng.random_range(500..9000);
        fleet.run(Duration::from_millis(pause)).await;
        let alive = fleet.alive();
        let one = alive[rng.random_range(0..alive.len())];
        match rng.random_range(0..6) {
            0 if alive.len() > 1 => fleet.crash(one),
            1 if alive.len() < 5 => fleet.start_worker(),
            2 | 3 => fleet.stall(one, Duration::from_millis(rng.random_range(1000..25_000))),
            4 => {
                let open = fleet.stream.open_shards();
                fleet.stream.split(&open[rng.random_range(0..open.len())]);
            }
            _ => {
                let open = fleet.stream.open_shards();
                let first = rng.random_range(0..open.len().max(2) - 1);
                if let Some(pair) = open.get(first..first + 2) {
                    fleet.stream.open(pair);
                }
            }
        }
    }
    // The longest stall, then the failover time and some scans.
    fleet.run(Duration::from_secs(25)).await;
    fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 8).await;
    // Closed shards are read to their end, their children are balanced, finished leases cleaned up.
    fleet.run(Duration::from_secs(180)).await;
    fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 8).await;
    let log = fleet.log.lock().unwrap();
    let leased: BTreeSet<&ShardId> = log.rows.keys().collect();
    assert_eq!(leased, fleet.stream.open_shards().iter().collect(), "seed {seed}");
    log.lines.clone()
}

#[tokio::test(start_paused = true)]
async fn a_fleet_survives_a_storm() {
    for seed in 0..8 {
        storm(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_history() {
    let (first, second) = (storm(77).await, storm(77).await);
    assert!(first.len() > 500);
    assert_eq!(first, second);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_shares_and_stays_still() {
    let mut fleet = Fleet::new(1, 20, false);
    for _ in 0..3 {
        fleet.start_worker();
    }
    fleet.until_all_held(SCAN * 5).await;
    fleet.run(SCAN * 15).await;
    fleet.assert_balanced();
    fleet.start_worker();
    // A leader waits for a fleet that is about to change further.
    fleet.run(FAILOVER * 6 + SCAN * 15).await;
    fleet.assert_balanced();
    let owners = |fleet: &Fleet| fleet.ready().into_iter().map(|row| row.owner).collect::<Vec<_>>();
    let rest = owners(&fleet);
    for _ in 0..60 {
        fleet.run(SCAN).await;
        assert_eq!(owners(&fleet), rest, "nothing moves at rest");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_crashed_worker_move_after_the_failover_time() {
    let mut fleet = Fleet::new(2, 10, false);
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(SCAN * 20).await;
    fleet.assert_balanced();
    let leader = fleet.leader();
    fleet.crash(1 - leader);
    let taken = fleet.until_all_held(FAILOVER + SCAN * 3).await;
    assert!(taken > FAILOVER - Duration::from_secs(4), "a live lease was taken: {taken:?}");
}

/// The next leader has to be elected, and to see for itself that the leases stand still.
#[tokio::test(start_paused = true)]
async fn leases_of_a_crashed_leader_move_after_half_a_failover_time_more() {
    let mut fleet = Fleet::new(2, 10, false);
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(SCAN * 20).await;
    fleet.assert_balanced();
    let leader = fleet.leader();
    fleet.crash(leader);
    let start = Instant::now();
    while !fleet.workers[1 - leader].coordinator.is_leader() {
        assert!(start.elapsed() < FAILOVER * 2 / 3, "nobody leads");
        fleet.run(TICK).await;
    }
    let taken = fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 3).await;
    assert!(start.elapsed() > FAILOVER - Duration::from_secs(4), "a live lease was taken: {taken:?}");
}

#[tokio::test(start_paused = true)]
async fn released_leases_move_at_the_next_scan() {
    let mut fleet = Fleet::new(3, 10, false);
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(SCAN * 20).await;
    fleet.assert_balanced();
    fleet.workers[0].stop_taking.cancel();
    for lease in fleet.workers[0].coordinator.held() {
        fleet.workers[0].coordinator.release(&lease).await;
        assert!(lease.lost().is_cancelled());
    }
    assert!(fleet.workers[0].coordinator.held().is_empty());
    let taken = fleet.until_all_held(SCAN * 3).await;
    assert!(taken <= SCAN * 3 / 2, "{taken:?}");
    assert_eq!(fleet.workers[1].coordinator.held().len(), 10);
}

/// One lease, so nobody steals: then no two workers believe in it at the same time, whatever stalls.
#[tokio::test(start_paused = true)]
async fn no_two_workers_believe_in_one_lease() {
    let mut moved = 0;
    for seed in 100..106 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut fleet = Fleet::new(seed, 1, true);
        for _ in 0..3 {
            fleet.start_worker();
        }
        let mut owners = BTreeSet::new();
        for _ in 0..20 {
            let one = rng.random_range(0..3);
            fleet.stall(one, Duration::from_millis(rng.random_range(1000..30_000)));
            for _ in 0..rng.random_range(20..300) {
                fleet.run(TICK).await;
                let now = Instant::now();
                let believers = fleet
                    .workers
                    .iter()
                    .filter(|worker| worker.coordinator.held().iter().any(|held| held.is_valid(now)));
                let believers: Vec<&WorkerId> = believers.map(|worker| &worker.id).collect();
                assert!(believers.len() <= 1, "seed {seed}: {believers:?}");
                owners.extend(believers.into_iter().cloned());
            }
        }
        moved += usize::from(owners.len() > 1);
    }
    assert!(moved > 2, "the lease hardly ever moved");
}

/// Two workers on every shard of a merge: the child waits for both.
#[tokio::test(start_paused = true)]
async fn the_leader_sees_every_lease() {
    let mut fleet = Fleet::new(4, 2, false);
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(SCAN * 10).await;
    let parents = fleet.stream.open_shards();
    fleet.stream.open(&parents);
    fleet.run(SCAN * 3).await;
    let view = fleet.workers[fleet.leader()].coordinator.view();
    assert_eq!(view.leases().count(), fleet.log.lock().unwrap().rows.len());
    for seen in view.leases() {
        assert!(seen.lease.finished() || seen.lease.owner.is_none() || view.is_live(seen, Instant::now()));
    }
    fleet.run(SCAN * 10).await;
    let child = fleet.stream.open_shards()[0].clone();
    let row = fleet.log.lock().unwrap().rows[&child].clone();
    assert!(row.owner.is_some() && row.checkpoint.position().is_some());
}
