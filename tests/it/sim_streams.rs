//! Fleets that read two streams in virtual time: shard ids and sequence numbers of both are equal, workers die and come
//! back, streams are resharded, the lease table loses answers. What is in the lake is held against each stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
    /// How to stop each worker that lives, and how to kill it.
    alive: BTreeMap<usize, (CancellationToken, tokio::task::AbortHandle)>,
    started: usize,
    rng: ChaCha8Rng,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let epoch = Instant::now();
        let stream = |name: &str| {
            let arrival = move |at: Instant| START_US + i64::try_from((at - epoch).as_micros()).unwrap();
            let id = StreamId::parse(&format!("111122223333:{name}:1768469400")).unwrap();
            Arc::new(Named { stream: Arc::new(MemoryStream::new(2, 50, arrival)), id })
        };
        let faults = Faults {
            seed,
            delay: Duration::from_millis(1)..Duration::from_millis(400),
            lost_request: 0.01,
            lost_answer: 0.02,
        };
        Self {
            streams: NAMES.map(stream),
            table: Arc::new(MemoryLeaseTable::new().with_faults(faults)),
            lake: Arc::new(MemorySink::new()),
            workers: JoinSet::new(),
            alive: BTreeMap::new(),
            started: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seed,
        }
    }

    fn start(&mut self) {
        let number = self.started;
        self.started += 1;
        let seed = self.seed.wrapping_mul(1009).wrapping_add(number as u64);
        let budget = ByteBudget::new(8 << 20);
        let (setups, leases): (Vec<_>, Vec<_>) =
            self.streams.iter().map(|stream| opened(stream, &budget, &self.lake)).unzip();
        let began = Instant::now();
        let coordinator = Coordinator::new(
            CoordinatorSettings {
                worker: WorkerId::new(format!("w-{number:02}")),
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
            worker: format!("w-{number:02}"),
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
        let stop = CancellationToken::new();
        let until = stop.clone();
        let process = self.workers.spawn(async move {
            worker::run(shared, until, Duration::from_secs(20)).await.unwrap();
            number
        });
        self.alive.insert(number, (stop, process));
    }

    /// One worker dies or is told to stop; another one comes.
    fn replace(&mut self) {
        let at = self.rng.random_range(0..self.alive.len());
        let number = *self.alive.keys().nth(at).unwrap();
        let (stop, process) = self.alive.remove(&number).unwrap();
        if self.rng.random() {
            process.abort()
        } else {
            stop.cancel()
        }
        self.start();
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
        layout: Layout { landing: format!("landing/{name}"), errors: "errors".into() },
    };
    let starts = Arc::new(Starts::new(Arc::<MemoryStream>::clone(&stream.stream)));
    let setup = StreamSetup {
        address: Arc::clone(&name),
        name: name.to_string(),
        kind: SourceKind::Kinesis,
        source: Arc::new(Polling::new(Arc::<MemoryStream>::clone(&stream.stream), Duration::from_secs(1))),
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
    (0..3).for_each(|_| world.start());
    for _ in 0..60 {
        sleep(Duration::from_secs(world.rng.random_range(1..60))).await;
        match world.rng.random_range(0..10) {
            0 | 1 => world.replace(),
            2 => world.reshard().await,
            _ => world.put(),
        }
    }
    world.table.set_faults(None);
    let put = world.put_so_far();
    for minute in 0.. {
        sleep(Duration::from_secs(60)).await;
        if world.landed().iter().zip(&put).all(|(landed, put)| landed.len() >= put.len()) {
            break;
        }
        assert!(minute < 60, "seed {seed}: not everything is delivered after an hour");
    }
    sleep(Duration::from_secs(120)).await;
    for ((landed, put), name) in world.landed().iter().zip(&put).zip(NAMES) {
        assert!(!put.is_empty());
        assert_eq!(landed, put, "seed {seed}: {name}");
    }
    // Every lease names its stream, and each stream has its own.
    let of = |row: &Lease| row.key.stream().expect("each names its stream").name().to_owned();
    let named: BTreeSet<String> = world.table.rows().iter().map(of).collect();
    assert_eq!(named, NAMES.map(str::to_owned).into());
    for (stop, _) in world.alive.values() {
        stop.cancel();
    }
    while let Some(ended) = world.workers.join_next().await {
        assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_streams_land_exactly_once_each() {
    for seed in 0..6 {
        play(seed).await;
    }
}
