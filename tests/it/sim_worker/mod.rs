//! Whole workers in virtual time: for half a day they live through crashes, freezes, restarts, deploys of other
//! transforms, outages of the table and of the lake, throttles, splits and merges. Then all calms down, and the lake
//! must hold every record exactly once.
//!
//! Everything is drawn from one seed, which is printed when a run fails; `KINETIDE_SIM_SEED=7 cargo test sim_worker`
//! runs that seed alone, `KINETIDE_SIM_SEEDS=500` runs that many, for a whole day each.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod alerts;
mod cases;
mod copies;
mod fan_out;
mod log;
mod proof;
mod quiet;
mod recovery;
mod starts;
mod table;
mod verify;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinetide::internals::checkpoint::PendingFormat;
use kinetide::internals::deliver::memory;
use kinetide::internals::fetch::{self, Retrieval};
use kinetide::internals::lease::memory as lease_memory;
use kinetide::internals::lease::{Lease, LeaseTable, LeaseWrite};
use kinetide::internals::shard::{Checkpoint, Position, Shard};
use kinetide::internals::worker::Drain;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use copies::copies_of;
use log::{Log, Place, number_of};
use verify::{Good, Produced, read_back};
use world::{FAILOVER, Initial, START_US, Settings, World, all_transforms};

const PENDING_FORMATS: [Option<PendingFormat>; 4] =
    [None, None, Some(PendingFormat::One), Some(PendingFormat::Two)];
const DAY: Duration = Duration::from_secs(86_400);
const SEEDS: u64 = 3;
/// How many seeds are wanted, as `.ci/run` says it; each of them lives longer then.
const WANTED: &str = "KINETIDE_SIM_SEEDS";
/// From this seed on workers read by enhanced fan-out.
const FAN_OUT_SEEDS: u64 = 1_000_000;
/// From this seed on the stream is that of a table.
const TABLE_SEEDS: u64 = 2_000_000;
/// What the stream was written to before the workers start.
const BEFORE_US: i64 = 1_200_000_000;
/// Lines of the event log that are shown when a run fails.
const LINES_SHOWN: usize = 60;
const SHARDS_OPEN: (usize, usize) = (1, 7);
const WORKERS: (usize, usize) = (1, 4);

/// One virtual day of one seed.
struct Storm {
    rng: ChaCha8Rng,
    world: World,
    produced: BTreeMap<Place, Produced>,
    /// Number in `all_transforms` of the version that new workers run.
    version: usize,
    wanted: usize,
    stream_calms: Option<Instant>,
    /// When subscriptions work again.
    seats_calm: Option<Instant>,
}

fn secs(range: std::ops::Range<u64>, rng: &mut impl Rng) -> Duration {
    Duration::from_millis(rng.random_range(range.start * 1000..range.end * 1000))
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let alerts = rng.random();
        let settings = Settings {
            alerts,
            rows_bytes_max: rng.random_range(2..32) << 10,
            objects_max: rng.random_range(2..8),
            byte_budget: if rng.random() { 4 << 20 } else { 64 << 20 },
            batch_age_max: secs(20..400, &mut rng),
            pending_format: *PENDING_FORMATS.choose(&mut rng).unwrap(),
            retrieval: match seed {
                FAN_OUT_SEEDS..TABLE_SEEDS => Retrieval::FanOut,
                _ => Retrieval::Polling,
            },
            initial: match seed % 3 {
                0 => Initial::TrimHorizon,
                1 => Initial::Latest,
                _ => Initial::Time(START_US + rng.random_range(0..BEFORE_US)),
            },
            ..Settings::default()
        };
        let (shards, page_records_max) = (rng.random_range(1..5), rng.random_range(3..40));
        let world = if seed < TABLE_SEEDS {
            World::new(seed, shards, page_records_max, settings)
        } else {
            World::of_table(seed, page_records_max, settings)
        };
        let version = rng.random_range(0..all_transforms().len());
        let wanted = rng.random_range(1..=WORKERS.1);
        Self { rng, world, produced: BTreeMap::new(), version, wanted, stream_calms: None, seats_calm: None }
    }

    /// What was there before the application, and its first minutes: at LATEST it begins when all shards have leases, and
    /// nothing is written until then, so that what is to be read is known.
    async fn begin(&mut self) {
        let end = START_US + BEFORE_US;
        while START_US + i64::try_from(self.elapsed().as_micros()).unwrap() < end {
            self.put();
            let pause = secs(0..20, &mut self.rng);
            self.world.run(pause).await;
        }
        // Now and then made by the leader of another library, which writes down no place.
        if self.world.settings.initial == Initial::Latest && self.rng.random() {
            for shard in self.world.shards().await {
                self.world.outside.table.create(&Lease::new(&shard, Checkpoint::Latest)).await.unwrap();
            }
        }
        self.rough_network();
        for _ in 0..self.wanted {
            self.start_worker();
        }
        let shards = self.world.shards().await.len();
        while self.world.log.lock().unwrap().starts.len() < shards {
            self.world.run(Duration::from_secs(1)).await;
        }
        self.world.began_us = START_US + i64::try_from(self.elapsed().as_micros()).unwrap();
        // What workers are set to from now on changes nothing any more: the rows say where reading begins.
        self.world.later_initial = match self.rng.random_range(0..3) {
            0 => Initial::Latest,
            1 => Initial::TrimHorizon,
            _ => Initial::Time(START_US + self.rng.random_range(0..BEFORE_US * 2)),
        };
    }

    async fn live(&mut self, time: Duration) {
        self.begin().await;
        let end = Instant::now() + time;
        while Instant::now() < end {
            let pause = secs(1..24, &mut self.rng);
            self.world.run(pause).await;
            for _ in 0..[0, 0, 1, 1, 2, 5][self.rng.random_range(0..6)] {
                self.put();
            }
            if self.stream_calms.is_some_and(|at| Instant::now() >= at) {
                self.stream_calms = None;
                self.rough_stream(0.03);
            }
            if self.seats_calm.is_some_and(|at| Instant::now() >= at) {
                self.calm_seats();
            }
            if self.rng.random_bool(0.06) {
                self.mishap().await;
            }
            // Somebody, some day, sees that a worker is missing.
            if self.world.working().len() < self.wanted && self.rng.random_bool(0.1) {
                self.start_worker();
            }
        }
    }

    fn rough_network(&mut self) {
        let seed = self.rng.random();
        self.world.outside.table.set_faults(Some(lease_memory::Faults {
            seed,
            delay: Duration::from_millis(1)..Duration::from_millis(90),
            lost_request: 0.01,
            lost_answer: 0.03,
        }));
        let lake = memory::Faults {
            delay: Duration::from_millis(5)..Duration::from_millis(800),
            refused: 0.03,
            lost_answer: 0.03,
            late: 0.03,
            late_max: Duration::from_secs(120),
        };
        self.world.outside.sink.set_faults(self.rng.random(), lake);
        self.rough_stream(0.03);
    }

    fn rough_stream(&mut self, throttled: f64) {
        let delay_max = Duration::from_millis(300);
        let faults =
            fetch::memory::Faults { throttled, unavailable: 0.02, expired: 0.01, empty: 0.1, delay_max };
        self.world.stream.set_faults(self.rng.random(), faults);
    }

    fn start_worker(&mut self) {
        self.world.start_worker(&all_transforms()[self.version]);
    }

    /// One record of the stream, now and then one that packs others.
    fn put(&mut self) {
        let packed =
            if !self.of_table() && self.rng.random_bool(0.2) { self.rng.random_range(1..7) } else { 0 };
        let (made, data): (Vec<_>, Vec<_>) = (0..packed.max(1)).map(|n| self.record(n)).unzip();
        let hash_key = self.rng.random();
        let places = match packed {
            0 => vec![self.world.put(hash_key, &data[0])],
            _ => self.world.put_packed(hash_key, &data),
        };
        self.produced.extend(places.into_iter().zip(made));
    }

    /// Now and then one that is no good.
    fn record(&mut self, n: usize) -> (Produced, String) {
        let id = format!("t-{:06}", self.produced.len() + n);
        let arrival_us = START_US + i64::try_from(self.elapsed().as_micros()).unwrap();
        let hours_ago = [0, 0, 0, 0, 0, 0, 0, 1, 1, 3][self.rng.random_range(0..10)];
        let created_us = arrival_us - hours_ago * 3_600_000_000 - self.rng.random_range(0..9_000_000);
        let (good, price) = match self.rng.random_range(0..100) {
            0..3 => (Good::Never, ""),
            3..6 => (Good::Sometimes, r#"{"S":"dear"}"#),
            _ => (Good::Always, r#"{"N":"64250.75"}"#),
        };
        let data = match good {
            Good::Never => format!("{id} is not json"),
            _ => record(&id, created_us, price),
        };
        let copies = copies_of(data.as_bytes());
        (Produced { id, good, copies, arrival_us }, data)
    }

    fn of_table(&self) -> bool {
        self.world.outside.of_table.is_some()
    }

    fn elapsed(&self) -> Duration {
        self.world.elapsed()
    }

    async fn mishap(&mut self) {
        let working = self.world.working();
        let Some(&one) = working.choose(&mut self.rng) else { return };
        let many = working.len() > WORKERS.0;
        match self.rng.random_range(0..16) {
            0 => {
                let alive = self.world.alive();
                self.world.crash(*alive.choose(&mut self.rng).unwrap());
            }
            1 | 2 => {
                let time = secs(1..FAILOVER.as_secs() * 3, &mut self.rng);
                self.world.freeze(one, time);
            }
            3 | 4 => self.stop(one),
            5 => {
                let (time, hangs) = (secs(5..300, &mut self.rng), self.rng.random());
                self.world.note(format_args!("table out for {time:?}, hangs: {hangs}"));
                self.world.outside.fail_table(time, hangs);
            }
            6 => {
                let (time, hangs) = (secs(5..300, &mut self.rng), self.rng.random());
                self.world.note(format_args!("lake out for {time:?}, hangs: {hangs}"));
                self.world.outside.fail_sink(time, hangs);
            }
            7 => {
                self.world.note("stream throttles");
                self.rough_stream(0.5);
                self.stream_calms = Some(Instant::now() + secs(30..300, &mut self.rng));
            }
            8 if self.world.settings.retrieval == Retrieval::FanOut => self.trouble_with_seats().await,
            8 => {
                self.world.note("iterators expire");
                self.world.stream.expire_iterators();
            }
            9 | 10 => self.reshard().await,
            11 => self.deploy().await,
            12 => self.retention().await,
            13 => {
                let seconds = self.rng.random_range(-7200..7200);
                self.world.step_clock(one, seconds);
            }
            14 => self.forget_pending().await,
            _ => {
                self.wanted = self.rng.random_range(WORKERS.0..=WORKERS.1);
                if many && working.len() > self.wanted {
                    self.stop(one);
                }
            }
        }
    }

    /// What may happen to subscriptions.
    async fn trouble_with_seats(&mut self) {
        let seats = Arc::clone(&self.world.outside.seats);
        let calm = Instant::now() + secs(30..600, &mut self.rng);
        match self.rng.random_range(0..4) {
            0 => {
                self.world.note("all subscriptions end");
                seats.end_all();
            }
            1 => {
                let shards = self.world.shards().await;
                let shard = shards.choose(&mut self.rng).unwrap().id.clone();
                self.world.note(format_args!("somebody else subscribes to {shard}"));
                seats.take_over(&shard);
            }
            2 => {
                self.world.note("subscriptions fall silent");
                seats.set_mute(true);
                self.seats_calm = Some(calm);
            }
            _ => {
                self.world.note("the consumer is deregistered, and none can be registered");
                seats.set_no_consumer(Some("no place is left"));
                seats.end_all();
                self.seats_calm = Some(calm);
            }
        }
    }

    fn calm_seats(&mut self) {
        self.seats_calm = None;
        self.world.outside.seats.set_mute(false);
        self.world.outside.seats.set_no_consumer(None);
    }

    fn stop(&mut self, one: usize) {
        // A frozen process cannot know that it is asked to; its budget would be over when it wakes up.
        if !self.world.workers[one].gate.is_frozen() {
            self.world.stop(one);
        }
    }

    /// Splits or merges, as often as not with a backlog in what is closed, sometimes while its reader is told to
    /// stop.
    async fn reshard(&mut self) {
        let mut open: Vec<_> = self.world.shards().await.into_iter().filter(|shard| !shard.closed).collect();
        if self.rng.random() {
            for _ in 0..self.rng.random_range(1..80) {
                self.put();
            }
        }
        open.sort_by_key(|shard| shard.hash_range.map(|range| range.start));
        let at = self.rng.random_range(0..open.len());
        if self.of_table() {
            self.reshape(open);
        } else if open.len() > 1 && (self.rng.random() || open.len() == SHARDS_OPEN.1) {
            let at = at.min(open.len() - 2);
            let child = self.world.stream.merge(&open[at].id, &open[at + 1].id);
            self.world.note(format_args!("{} and {} merge to {child}", open[at].id, open[at + 1].id));
        } else if open.len() < SHARDS_OPEN.1 {
            let [lower, upper] = self.world.stream.split(&open[at].id);
            self.world.note(format_args!("{} splits to {lower} and {upper}", open[at].id));
        }
        if self.rng.random_bool(0.3) {
            self.world.run(secs(0..20, &mut self.rng)).await;
            if let Some(&one) = self.world.working().choose(&mut self.rng) {
                self.stop(one);
            }
        }
    }

    /// What becomes of the shards of a table: one rotates or splits, or the stream is turned off and on again, which is
    /// another one then.
    fn reshape(&mut self, open: Vec<Shard>) {
        let one = open.choose(&mut self.rng).unwrap().id.clone();
        let stream = &self.world.stream;
        let what = match self.rng.random_range(0..6) {
            0 if open.len() < SHARDS_OPEN.1 => format!("{one} splits to {:?}", stream.split(&one)),
            1 => {
                open.iter().for_each(|shard| stream.close(&shard.id));
                format!("turned off and on again: {}", stream.begin())
            }
            _ => format!("{one} rotates to {}", stream.rotate(&one)),
        };
        self.world.note(what);
    }

    /// What is committed leaves the stream, and so do shards that are read to their end.
    async fn retention(&mut self) {
        self.world.note("retention");
        for shard in self.world.shards().await {
            let log = self.world.log.lock().unwrap();
            if log.ended.contains(&shard.id) {
                self.world.stream.forget(&shard.id);
            } else if let Some(done) =
                log.rows.get(&shard.id.clone().into()).and_then(|row| row.checkpoint.position())
            {
                // What is packed in one record leaves with it.
                let next = log.parts.get(&(number_of(done) + 1));
                let is_open = next.is_some_and(|next| next.sequence == done.sequence);
                let last = number_of(&Position::new(done.sequence.clone())) - u128::from(is_open);
                self.world.stream.trim(&shard.id, &last.into());
            }
        }
    }

    /// Somebody takes a lease away and sets its checkpoint to where it is, or a Java worker has it for a moment and checkpoints
    /// amid what is pending (as far as that is in the lake, which is all that it could have done with it).
    async fn forget_pending(&mut self) {
        let Some(row) = self.pending_row().await else { return };
        let table = Arc::clone(&self.world.outside.table);
        let Ok(row) = table.write(&row, &LeaseWrite::Evict).await else { return };
        let last = row.pending.as_ref().and_then(|pending| pending.checkpoint.position().cloned());
        let (Some(last), true) = (last, self.rng.random()) else {
            self.world.note(format_args!("{}: what is pending is forgotten", row.key));
            return drop(table.write(&row, &LeaseWrite::commit(row.checkpoint.clone())).await);
        };
        let done = row.checkpoint.position().cloned();
        let checkpoint = {
            let log = self.world.log.lock().unwrap();
            let records = log.produced.get(row.key.shard()).map_or(&[][..], Vec::as_slice).iter();
            let open = records.map(|at| (*at, log.position(*at)));
            let open = open.filter(|(_, at)| done.as_ref().is_none_or(|done| at > done) && *at < last);
            let landed = open.take_while(|(at, _)| log.landed.contains_key(&(row.key.shard().clone(), *at)));
            landed.last().map_or(row.checkpoint.clone(), |(_, at)| Checkpoint::At(at))
        };
        self.world.note(format_args!("{}: another worker checkpoints {}", row.key, checkpoint.as_str()));
        drop(table.write(&row, &LeaseWrite::commit(checkpoint)).await);
    }

    /// A lease whose batch is prepared, which is so for a moment now and then.
    async fn pending_row(&mut self) -> Option<Lease> {
        for _ in 0..1000 {
            let rows: Vec<_> = self.world.log.lock().unwrap().rows.values().cloned().collect();
            let pending: Vec<_> = rows.into_iter().filter(|row| row.pending.is_some()).collect();
            if let Some(row) = pending.choose(&mut self.rng) {
                return Some(row.clone());
            }
            self.put();
            self.world.run(Duration::from_millis(300)).await;
        }
        None
    }

    /// Every worker is replaced, one after the other or all at once, by another version.
    async fn deploy(&mut self) {
        self.version =
            (self.version + self.rng.random_range(1..all_transforms().len())) % all_transforms().len();
        self.world.settings.pending_format = *PENDING_FORMATS.choose(&mut self.rng).unwrap();
        // In two fleets of three the setting is what it was at the start.
        if self.world.seed.is_multiple_of(3) {
            self.world.settings.alerts = self.rng.random();
        }
        let at_once: bool = self.rng.random();
        for old in self.world.working() {
            if self.rng.random() {
                self.start_worker();
            }
            if self.rng.random_bool(0.2) {
                self.world.crash(old)
            } else {
                self.stop(old)
            }
            if !at_once {
                let pause = secs(0..60, &mut self.rng);
                self.world.run(pause).await;
                self.put();
            }
        }
    }

    /// Nothing goes wrong any more: everything must come to its end.
    async fn calm(&mut self) {
        self.world.note("all is calm");
        self.world.outside.table.set_faults(None);
        self.world.outside.sink.set_faults(0, memory::Faults::default());
        self.world.stream.set_faults(0, fetch::memory::Faults::default());
        self.calm_seats();
        self.start_worker();
        // The longest freeze and outage.
        self.world.run(Duration::from_secs(300)).await;
        self.world.until_done(Duration::from_secs(3600)).await;
        let drained = self.world.drains.len();
        self.world.drain_all().await;
        assert!(self.world.drains[drained..].iter().all(|drain| *drain == Drain::Clean));
    }
}

/// A change of `CryptoTransactions` as DynamoDB puts it into a Kinesis stream.
fn record(id: &str, created_us: i64, price: &str) -> String {
    format!(
        r#"{{"awsRegion":"eu-north-1","eventID":"e-{id}","eventName":"INSERT","userIdentity":null,"recordFormat":"application/json","tableName":"CryptoTransactions","dynamodb":{{"ApproximateCreationDateTime":{created_us},"Keys":{{"transaction_id":{{"S":"{id}"}}}},"NewImage":{{"transaction_id":{{"S":"{id}"}},"timestamp":{{"S":"2026-01-15T09:29:59.987654"}},"exchange":{{"S":"Coinbase"}},"trading_pair":{{"S":"BTC/USD"}},"price":{price},"quantity":{{"N":"2.345678"}},"trade_fee":{{"N":"0.4321"}},"trade_status":{{"S":"COMPLETED"}}}},"SizeBytes":341,"ApproximateCreationDateTimePrecision":"MICROSECOND"}},"eventSource":"aws:dynamodb"}}"#
    )
}

fn seeds(first: u64) -> Vec<u64> {
    (first..first + variable(WANTED).unwrap_or(SEEDS)).collect()
}

/// How long a seed lives. With subscriptions a day has many more events, and shards that rotate have some more.
fn life(seed: u64) -> Duration {
    let day = if variable(WANTED).is_some() { DAY } else { DAY / 2 };
    match seed {
        0..FAN_OUT_SEEDS => day,
        FAN_OUT_SEEDS..TABLE_SEEDS => day / 6,
        TABLE_SEEDS.. => day / 2,
    }
}

/// Lives one seed in a runtime of its own; its event log.
fn run_seed(seed: u64, time: Duration) -> Vec<String> {
    let shown: Arc<Mutex<Option<Arc<Mutex<Log>>>>> = Arc::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let run = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut storm = Storm::new(seed);
            *shown.lock().unwrap() = Some(Arc::clone(&storm.world.log));
            storm.live(time).await;
            storm.calm().await;
            let (rows, letters) = read_back(&storm.world, &storm.produced);
            let alerts = verify::read_alerts(&storm.world);
            let log = storm.world.log.lock().unwrap();
            println!("seed {seed}: {rows} rows, {alerts} alerts, {letters} dead letters, {:?}", log.counts);
            log.lines.clone()
        })
    }));
    run.unwrap_or_else(|panic| {
        if let Some(log) = shown.lock().unwrap().as_ref() {
            let log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for line in log.lines.iter().skip(log.lines.len().saturating_sub(LINES_SHOWN)) {
                println!("{line}");
            }
        }
        let as_long = variable(WANTED).map_or(String::new(), |_| format!("{WANTED}=1 "));
        println!("seed {seed} failed; run it alone: {as_long}KINETIDE_SIM_SEED={seed} cargo test sim_worker");
        resume_unwind(panic)
    })
}

#[expect(clippy::disallowed_methods, reason = "switches of this test, not settings")]
fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Runs seeds on all processors, until one fails.
fn run_seeds(seeds: &[u64]) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(seeds.len());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let run = catch_unwind(|| run_seed(*seed, life(*seed)));
            if let Err(panic) = run {
                next.store(seeds.len(), Ordering::Relaxed);
                resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn every_record_lands_once_whatever_happens() {
    match variable("KINETIDE_SIM_SEED") {
        Some(seed) => run_seeds(&[seed]),
        None => run_seeds(&seeds(0)),
    }
}

#[test]
fn every_record_lands_once_by_fan_out_too() {
    run_seeds(&seeds(FAN_OUT_SEEDS));
}

/// Shards that rotate and split, and streams that are turned off and on again.
#[test]
fn every_record_lands_once_from_the_stream_of_a_table_too() {
    run_seeds(&seeds(TABLE_SEEDS));
}

#[test]
fn one_seed_gives_one_history() {
    let seed = variable("KINETIDE_SIM_SEED").unwrap_or(1000);
    let (first, second) = (run_seed(seed, DAY / 8), run_seed(seed, DAY / 8));
    for (number, (one, other)) in first.iter().zip(&second).enumerate() {
        let before = &first[number.saturating_sub(LINES_SHOWN / 4)..number];
        assert!(one == other, "event {number} of seed {seed}: after {before:#?}\n{one}\n{other}");
    }
    assert!(first.len() == second.len() && first.len() > 1000);
}
