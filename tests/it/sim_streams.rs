//! Fleets that read two streams in virtual time: shard ids and sequence numbers of both are equal, workers die and come
//! back, streams are resharded, the lease table loses answers; deploys add a stream and remove one. What is in the lake
//! is held against each stream, and every owner of a lease against the streams that it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kinetide::internals::batch::{BatchLimits, Layout, read_records};
use kinetide::internals::consumer::{
    ConsumerSettings, Lake, Land, Retention, Shared, StreamSetup, StreamSetups,
};
use kinetide::internals::deliver::memory::MemorySink;
use kinetide::internals::fetch::memory::MemoryStream;
use kinetide::internals::fetch::{ByteBudget, Polling, Starts};
use kinetide::internals::lease::coordinator::{Coordinator, CoordinatorSettings};
use kinetide::internals::lease::memory::{Faults, MemoryLeaseTable};
use kinetide::internals::lease::plan::Rules;
use kinetide::internals::lease::{Lease, StreamLeases, StreamSet, WorkerId};
use kinetide::internals::shard::{
    Checkpoint, ListError, SequenceNumber, Shard, ShardId, ShardLister, StreamId,
};
use kinetide::internals::telemetry::status::{Delivery, ProcessFacts, Status};
use kinetide::internals::transform::{Builtin, SourceKind};
use kinetide::internals::worker;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const START_US: i64 = 1_768_469_400_000_000;
const FAILOVER: Duration = Duration::from_secs(10);
const NAMES: [&str; 2] = ["trades", "orders"];
const BOTH: [usize; 2] = [0, 1];

/// For each worker the names of the streams that it reads.
type Readers = Arc<Mutex<BTreeMap<WorkerId, BTreeSet<&'static str>>>>;

/// A stream in memory that says which one it is.
struct Named {
    stream: Arc<MemoryStream>,
    id: StreamId,
}

#[async_trait]
impl ShardLister for Named {
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        self.stream.list().await
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        Ok(Some(self.id.clone()))
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        self.stream.accepts(shard, sequence).await
    }
}

struct World {
    streams: [Arc<Named>; 2],
    table: Arc<MemoryLeaseTable>,
    lake: Arc<MemorySink>,
    workers: JoinSet<usize>,
    alive: BTreeMap<usize, Alive>,
    readers: Readers,
    started: usize,
    rng: ChaCha8Rng,
    seed: u64,
}

struct Alive {
    coordinator: Arc<Coordinator>,
    stop: CancellationToken,
    process: tokio::task::AbortHandle,
}

/// Whoever is named as the owner of a lease reads its stream.
fn judge(readers: &Readers, row: Option<&Lease>) {
    let Some((lease, owner)) = row.and_then(|row| Some((&row.key, row.owner.as_ref()?))) else { return };
    let readers = readers.lock().unwrap();
    let stream = lease.stream().expect("each names its stream").name();
    assert!(readers[owner].contains(stream), "{lease} is given to {owner}, which reads {:?}", readers[owner]);
}

fn faults(seed: u64) -> Faults {
    Faults {
        seed,
        delay: Duration::from_millis(1)..Duration::from_millis(400),
        lost_request: 0.01,
        lost_answer: 0.02,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let epoch = Instant::now();
        let stream = |name: &str| {
            let arrival = move |at: Instant| START_US + i64::try_from((at - epoch).as_micros()).unwrap();
            let id = StreamId::parse(&format!("111122223333:{name}:1768469400")).unwrap();
            Arc::new(Named { stream: Arc::new(MemoryStream::new(2, 50, arrival)), id })
        };
        let readers = Readers::default();
        let known = Arc::clone(&readers);
        let table = MemoryLeaseTable::new().with_observer(move |_, after| judge(&known, after));
        Self {
            streams: NAMES.map(stream),
            table: Arc::new(table.with_faults(faults(seed))),
            readers,
            lake: Arc::new(MemorySink::new()),
            workers: JoinSet::new(),
            alive: BTreeMap::new(),
            started: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seed,
        }
    }

    /// Starts a worker that reads these streams; answers its number.
    fn start(&mut self, reads: &[usize]) -> usize {
        let number = self.started;
        self.started += 1;
        let seed = self.seed.wrapping_mul(1009).wrapping_add(number as u64);
        let id = WorkerId::new(format!("w-{number:02}"));
        self.readers.lock().unwrap().insert(id.clone(), reads.iter().map(|of| NAMES[*of]).collect());
        let budget = ByteBudget::new(8 << 20);
        let (setups, leases): (Vec<_>, Vec<_>) =
            reads.iter().map(|of| opened(&self.streams[*of], &budget, &self.lake)).unzip();
        let began = Instant::now();
        let coordinator = Coordinator::new(
            CoordinatorSettings {
                worker: id.clone(),
                failover: FAILOVER,
                scan_interval: Duration::from_secs(1),
                shard_sync_interval: Duration::from_secs(20),
                rules: Rules { leases_max: 100, kbps_max: f64::INFINITY },
                cpu: Arc::new(|| None),
                wall_clock: Arc::new(move || 1_768_469_400 + began.elapsed().as_secs()),
                seed,
            },
            Arc::<MemoryLeaseTable>::clone(&self.table),
            StreamSet::Several(leases),
        );
        let facts = ProcessFacts {
            worker: id.to_string(),
            application: "several".into(),
            delivery: Delivery::ExactlyOnce,
            warnings: Vec::new(),
        };
        let shared = Arc::new(Shared {
            streams: StreamSetups::new(setups),
            coordinator,
            budget,
            status: Status::new(facts, FAILOVER * 2),
            seed,
        });
        let coordinator = Arc::clone(&shared.coordinator);
        let stop = CancellationToken::new();
        let until = stop.clone();
        let process = self.workers.spawn(async move {
            worker::run(shared, until, Duration::from_secs(20)).await.unwrap();
            number
        });
        self.alive.insert(number, Alive { coordinator, stop, process });
        number
    }

    /// A worker dies or is told to stop.
    fn end(&mut self, number: usize) {
        let worker = self.alive.remove(&number).unwrap();
        if self.rng.random() { worker.process.abort() } else { worker.stop.cancel() }
    }

    /// One worker dies or is told to stop; another one comes.
    fn replace(&mut self) {
        let at = self.rng.random_range(0..self.alive.len());
        self.end(*self.alive.keys().nth(at).unwrap());
        self.start(&BOTH);
    }

    /// Records and reshards, for some minutes.
    async fn work(&mut self) {
        for _ in 0..self.rng.random_range(2..8) {
            sleep(Duration::from_secs(self.rng.random_range(1..40))).await;
            if self.rng.random_range(0..8) == 0 {
                self.reshard().await;
            }
            self.put();
        }
    }

    async fn reshard(&mut self) {
        let stream = &self.streams[self.rng.random_range(0..2)].stream;
        let mut open: Vec<Shard> =
            stream.list().await.unwrap().into_iter().filter(|shard| !shard.closed).collect();
        open.sort_by_key(|shard| shard.hash_range.map(|range| range.start));
        let at = self.rng.random_range(0..open.len());
        if open.len() > 2 && at + 1 < open.len() {
            stream.merge(&open[at].id, &open[at + 1].id);
        } else if open.len() < 5 {
            stream.split(&open[at].id);
        }
    }

    fn put(&mut self) {
        let stream = self.rng.random_range(0..2);
        for _ in 0..self.rng.random_range(1..60) {
            let hash_key = self.rng.random();
            let data = format!(r#"{{"of":"{}"}}"#, NAMES[stream]);
            self.streams[stream].stream.put(hash_key, "key", data).unwrap();
        }
    }

    /// For each stream what is in the lake, row by row: shard by name of the object, and sequence number.
    fn landed(&self) -> [Vec<(String, String)>; 2] {
        let objects = self.lake.objects();
        NAMES.map(|name| {
            let folder = format!("landing/{name}/");
            let mine = objects.iter().filter(|(key, _)| key.starts_with(&folder));
            let rows = mine.flat_map(|(key, body)| {
                let from = key.find("shardId-").unwrap();
                let shard = key[from..from + "shardId-000000000000".len()].to_owned();
                let records = read_records(body).unwrap().into_iter();
                records.map(move |record| (shard.clone(), record.sequence.to_string()))
            });
            let mut rows: Vec<_> = rows.collect();
            rows.sort();
            rows
        })
    }

    fn put_so_far(&self) -> [Vec<(String, String)>; 2] {
        [0, 1].map(|of| {
            let all = self.streams[of].stream.records().into_iter();
            let mut all: Vec<_> =
                all.map(|(shard, sequence, _)| (shard.to_string(), sequence.to_string())).collect();
            all.sort();
            all
        })
    }
}

fn opened(
    stream: &Arc<Named>,
    budget: &ByteBudget,
    lake: &Arc<MemorySink>,
) -> (Arc<StreamSetup>, StreamLeases) {
    let name: Arc<str> = stream.id.name().into();
    let settings = ConsumerSettings {
        limits: BatchLimits { rows_bytes_max: 20_000, ..BatchLimits::default() },
        batch_age_max: Duration::from_secs(5),
        lake: "lake".into(),
        pending_format: None,
    };
    let work = Land {
        lake: Arc::new(Lake { sink: Arc::<MemorySink>::clone(lake), firehose: None, settings }),
        transform: Arc::new(Builtin::json()),
        layout: Layout { landing: format!("landing/{name}"), errors: "errors".into(), alerts: false },
    };
    let starts = Arc::new(Starts::new(Arc::<MemoryStream>::clone(&stream.stream)));
    let source = Arc::new(Polling::new(Arc::<MemoryStream>::clone(&stream.stream), Duration::from_secs(1)));
    let setup = StreamSetup {
        address: Arc::clone(&name),
        name: name.to_string(),
        kind: SourceKind::Kinesis,
        again: Arc::clone(&source) as _,
        source,
        lister: Arc::<Named>::clone(stream),
        starts: Arc::<Starts>::clone(&starts),
        work: Arc::new(work),
        initial_timestamp_us: None,
        retention: Retention::default(),
        budget: budget.of_stream(),
        removed: CancellationToken::new(),
    };
    let leases = StreamLeases {
        name,
        lister: Arc::<Named>::clone(stream),
        starts,
        initial: Checkpoint::TrimHorizon,
        initial_timestamp_us: None,
    };
    (Arc::new(setup), leases)
}

/// Half an hour of it; then the last workers bring all to its end.
async fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..3 {
        world.start(&BOTH);
    }
    for _ in 0..60 {
        sleep(Duration::from_secs(world.rng.random_range(1..60))).await;
        match world.rng.random_range(0..10) {
            0 | 1 => world.replace(),
            2 => world.reshard().await,
            _ => world.put(),
        }
    }
    world.comes_to_its_end().await;
}

/// Each deploy replaces all workers, one after the other, by those of other settings.
async fn deploy(seed: u64) {
    let mut world = World::new(seed);
    let mut generation: Vec<usize> = (0..3).map(|_| world.start(&[0])).collect();
    world.work().await;
    for reads in [&BOTH[..], &[1], &[0], &BOTH] {
        for old in std::mem::take(&mut generation) {
            let start_first = world.rng.random();
            if start_first {
                generation.push(world.start(reads));
                world.work().await;
            }
            world.end(old);
            world.work().await;
            if !start_first {
                generation.push(world.start(reads));
                world.work().await;
            }
        }
        // A leader or an owner whose answers are lost is replaced at any time, and at that moment something else stands still.
        world.table.set_faults(None);
        sleep(Duration::from_secs(120)).await;
        world.not_read(reads);
        world.table.set_faults(Some(faults(world.rng.random())));
    }
    world.comes_to_its_end().await;
}

impl World {
    /// What stands still says so, and nothing else does.
    fn not_read(&self, reads: &[usize]) {
        let told = |worker: &Alive| worker.coordinator.fleet_status().led;
        let led = self.alive.values().find_map(told).expect("somebody leads");
        let (seed, waits) = (self.seed, ["stream_not_read", "waiting_for_parents"]);
        assert!(led.reasons.keys().all(|reason| waits.contains(reason)), "seed {seed}: {:?}", led.reasons);
        let names: Vec<&str> = reads.iter().map(|of| NAMES[*of]).collect();
        let unread = |row: &&Lease| !names.contains(&row.key.stream().unwrap().name()) && !row.finished();
        let some = self.table.rows().iter().any(|row| unread(&row));
        assert_eq!(led.reasons.contains_key("stream_not_read"), some, "seed {seed}: {:?}", led.reasons);
    }

    /// The last workers read both streams: all of both lands, each for itself.
    async fn comes_to_its_end(mut self) {
        let seed = self.seed;
        self.table.set_faults(None);
        let put = self.put_so_far();
        for minute in 0.. {
            sleep(Duration::from_secs(60)).await;
            if self.landed().iter().zip(&put).all(|(landed, put)| landed.len() >= put.len()) {
                break;
            }
            assert!(minute < 60, "seed {seed}: not everything is delivered after an hour");
        }
        sleep(Duration::from_secs(120)).await;
        for ((landed, put), name) in self.landed().iter().zip(&put).zip(NAMES) {
            assert!(!put.is_empty());
            assert_eq!(landed, put, "seed {seed}: {name}");
        }
        // Every lease names its stream, and each stream has its own.
        let of = |row: &Lease| row.key.stream().expect("each names its stream").name().to_owned();
        let named: BTreeSet<String> = self.table.rows().iter().map(of).collect();
        assert_eq!(named, NAMES.map(str::to_owned).into());
        for worker in self.alive.values() {
            worker.stop.cancel();
        }
        while let Some(ended) = self.workers.join_next().await {
            assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_streams_land_exactly_once_each() {
    for seed in 0..6 {
        play(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn deploys_add_and_remove_a_stream() {
    for seed in 10..13 {
        deploy(seed).await;
    }
}
