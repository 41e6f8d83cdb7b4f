//! Replays that are killed at every step, that race, and whose requests are lost, late or answered by nobody: each
//! letter is in at most one row, and in one as soon as a replay that can make it comes to its end.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::*;
use crate::batch::{BatchLimits, Gzip, HIGH_RISK_ALERTS, Layout, high_risk_copy, read_records, seal_object};
use crate::deliver::memory::{Faults, MemorySink};
use crate::deliver::{Created, MayCreate, Sink, SinkError};
use crate::produce::aggregate::Aggregate;
use crate::transform::testing::copying;
use crate::transform::{
    BadRecord, Builtin, Enrichment, ErrorCode, RecordContext, SourceKind, Transform, dead_letter_row,
};

const CHANGE: &[u8] = include_bytes!("../../tests/fixtures/kinesis-dynamodb-insert.json");
const HOUR_US: i64 = 3_600_000_000;
/// 2026-01-15T09:00:00Z.
const HOUR: i64 = 1_768_467_600_000_000;

/// What the letters hold: rows for all, for `json` only, and for no transform.
const RAW: [&[u8]; 7] = [CHANGE, b"{\"a\":1}", b"no JSON", CHANGE, b"{\"a\":2}", b"{}", CHANGE];

fn object() -> LetterObject {
    LetterObject {
        reason: "wrong_type".to_owned(),
        hour_us: HOUR,
        name: "trades-shardId-000000000000-1-7.ndjson.gz".to_owned(),
    }
}

/// The letters, numbered from 1 as their lines are; each in the hour after the one before, so that `json` makes
/// several objects of them.
fn letters() -> Bytes {
    let mut rows = Vec::new();
    for (number, raw) in (1..).zip(RAW) {
        let context = RecordContext {
            source: SourceKind::Kinesis,
            stream: None,
            shard_id: "shardId-000000000000",
            sequence_number: &number.to_string(),
            sub_sequence: None,
            key: None,
            arrival_us: HOUR + number / 3 * HOUR_US,
            null: false,
        };
        dead_letter_row(&context, &BadRecord::from(ErrorCode::WrongType), raw, &mut rows);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&rows).unwrap();
    encoder.finish().unwrap().into()
}

fn job(transform: impl Transform) -> Job {
    let layout = Layout { landing: "landing/trades".to_owned(), errors: "errors".to_owned(), alerts: false };
    Job { transform: Arc::new(transform), layout, limits: BatchLimits::default() }
}

fn jobs() -> [Job; 2] {
    [job(Builtin::json()), job(Builtin::dynamodb_cdc())]
}

/// Lines of which a job makes rows.
fn rows_of(job: &Job) -> Vec<u64> {
    match job.transform.id().name() {
        "json" => vec![1, 2, 4, 5, 6, 7],
        _ => vec![1, 4, 7],
    }
}

fn landed_by(replayed: &Replayed) -> u64 {
    replayed.landed.values().sum()
}

async fn run(lake: &dyn Sink, job: &Job) -> Result<Replayed, ReplayError> {
    replay(lake, job, &object(), &letters(), &|_| true).await
}

/// How often each letter is a row; and that the records of replays say just that.
async fn rows(lake: &MemorySink) -> HashMap<u64, u32> {
    let mut rows = HashMap::new();
    for (key, body) in lake.objects() {
        if key.starts_with("landing/") {
            for position in read_records(&body).unwrap() {
                *rows.entry(position.sequence.as_str().parse().unwrap()).or_default() += 1;
            }
        }
    }
    // A sink of its own, without faults.
    let copy = MemorySink::new();
    for (key, body) in lake.objects() {
        copy.create(&key, body).await.unwrap();
    }
    let chain = read_chain(&copy, "errors", &object()).await.unwrap();
    let landed = landed(&copy, &chain).await.unwrap();
    for line in 1..=RAW.len() as u64 {
        let times = rows.get(&line).copied().unwrap_or_default();
        assert!(times <= 1, "letter {line} is in {times} rows");
        assert_eq!(landed.contains(line), times == 1, "letter {line}");
    }
    rows
}

/// All of what `job` can make is there, once, and nothing is under way.
async fn settled(lake: &MemorySink, job: &Job) {
    let rows = rows(lake).await;
    for line in rows_of(job) {
        assert_eq!(rows.get(&line), Some(&1), "letter {line} is lost");
    }
    assert!(!rows.contains_key(&3), "no transform makes a row of it");
}

/// A sink whose user dies at a call: before it has any effect, or before its answer.
struct Mortal {
    lake: Arc<MemorySink>,
    calls_left: AtomicUsize,
    with_effect: bool,
    dead: Notify,
}

impl Mortal {
    fn new(lake: &Arc<MemorySink>, calls: usize, with_effect: bool) -> Self {
        let (calls_left, dead) = (AtomicUsize::new(calls), Notify::new());
        Self { lake: Arc::clone(lake), calls_left, with_effect, dead }
    }

    /// Runs a replay until it ends or dies; true when it has ended.
    async fn carries(&self, job: &Job) -> bool {
        tokio::select! {
            biased;
            () = self.dead.notified() => false,
            outcome = run(self, job) => {
                outcome.unwrap();
                true
            }
        }
    }

    /// Whether this call is the one.
    fn dies(&self) -> bool {
        let less = |calls: usize| calls.checked_sub(1);
        self.calls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    async fn die<T>(&self) -> T {
        self.dead.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Sink for Mortal {
    async fn create_while(&self, key: &str, body: Bytes, may: MayCreate) -> Result<Created, SinkError> {
        let dies = self.dies();
        if dies && !self.with_effect {
            return self.die().await;
        }
        let created = self.lake.create_while(key, body, may).await;
        if dies { self.die().await } else { created }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        if self.dies() { self.die().await } else { self.lake.read(key).await }
    }

    async fn exists(&self, key: &str) -> Result<bool, SinkError> {
        if self.dies() { self.die().await } else { self.lake.exists(key).await }
    }
}

#[tokio::test]
async fn a_replay_lands_what_can_be_a_row_and_nothing_twice() {
    let lake = MemorySink::new();
    let [json, cdc] = jobs();
    let first = run(&lake, &cdc).await.unwrap();
    assert_eq!((landed_by(&first), first.already_there, first.sealed_by_others), (3, 0, 0));
    assert_eq!(first.landed, [("landing/trades".to_owned(), 3)].into());
    let reasons = [(ErrorCode::NotJson, 1), (ErrorCode::NoDynamodb, 3)];
    assert_eq!(first.failed, reasons.into());
    settled(&lake, &cdc).await;
    let before = lake.objects();
    assert_eq!(landed_by(&run(&lake, &cdc).await.unwrap()), 0);
    assert_eq!(lake.objects(), before, "a second run writes nothing");
    let second = run(&lake, &json).await.unwrap();
    assert_eq!((landed_by(&second), second.failed), (3, [(ErrorCode::NotJson, 1)].into()));
    settled(&lake, &json).await;
    let keys: Vec<String> = lake.objects().into_keys().collect();
    assert_eq!(keys.len(), 4 + 4, "rows of four hours, two plans, two times done: {keys:#?}");
}

/// What several replays at once say they have created is what is there.
#[tokio::test]
async fn the_figures_of_replays_at_the_same_time_add_up() {
    for (first, second) in [("json", "json"), ("json", "cdc"), ("cdc", "cdc")] {
        let lake = MemorySink::new();
        let named = |name| if name == "json" { job(Builtin::json()) } else { job(Builtin::dynamodb_cdc()) };
        let jobs = [named(first), named(second), named(first)];
        let done = futures::future::join_all(jobs.iter().map(|job| run(&lake, job))).await;
        let done: Vec<Replayed> = done.into_iter().map(Result::unwrap).collect();
        let there = rows(&lake).await.len() as u64;
        assert_eq!(done.iter().map(landed_by).sum::<u64>(), there, "{done:#?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_comes_with_the_next_generation() {
    for limits in [
        BatchLimits { objects_max: 1, ..BatchLimits::default() },
        BatchLimits { rows_bytes_max: 100, ..BatchLimits::default() },
    ] {
        let lake = MemorySink::new();
        let json = Job { limits, ..job(Builtin::json()) };
        let replayed = run(&lake, &json).await.unwrap();
        assert_eq!((landed_by(&replayed), replayed.failed), (6, [(ErrorCode::NotJson, 1)].into()));
        settled(&lake, &json).await;
        assert!(read_chain(&lake, "errors", &object()).await.unwrap().generation() > 2);
    }
}

#[tokio::test]
async fn only_what_is_wanted_is_replayed() {
    let lake = MemorySink::new();
    let json = job(Builtin::json());
    let two = |letter: &Letter<'_>| letter.sequence_number == "2";
    assert_eq!(landed_by(&replay(&lake, &json, &object(), &letters(), &two).await.unwrap()), 1);
    assert_eq!(rows(&lake).await, HashMap::from([(2, 1)]));
    assert_eq!(landed_by(&run(&lake, &json).await.unwrap()), 5);
    settled(&lake, &json).await;
}

#[tokio::test]
async fn an_interrupted_replay_of_the_same_transform_is_finished_without_seals() {
    let [json, cdc] = jobs();
    // Dies after the plan: it is looked for, created, and then nothing.
    for (first, seals) in [(&json, 0), (&cdc, 1)] {
        let lake = Arc::new(MemorySink::new());
        assert!(!Mortal::new(&lake, 1, true).carries(first).await);
        assert_eq!(lake.objects().len(), 1, "the plan");
        run(&*lake, &json).await.unwrap();
        settled(&lake, &json).await;
        let objects = lake.objects();
        let empty = |(key, body): &(&String, &Bytes)| {
            key.starts_with("landing/") && read_records(body).unwrap().is_empty()
        };
        assert_eq!(objects.iter().filter(empty).count(), seals);
    }
}

/// Every pair of transforms, each killed at every call, before it had an effect or before its answer came.
#[tokio::test]
async fn killed_at_every_step_by_turns() {
    let mut worlds = 0;
    for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (one, other) in [(false, false), (false, true), (true, false), (true, true)] {
            for calls in 0.. {
                let ended = 'second: {
                    for more in 0.. {
                        let lake = Arc::new(MemorySink::new());
                        let ended = Mortal::new(&lake, calls, one).carries(&jobs()[first]).await;
                        rows(&lake).await;
                        let second_ended = Mortal::new(&lake, more, other).carries(&jobs()[second]).await;
                        rows(&lake).await;
                        run(&*lake, &jobs()[first]).await.unwrap();
                        settled(&lake, &jobs()[first]).await;
                        worlds += 1;
                        if second_ended {
                            break 'second ended;
                        }
                    }
                    unreachable!("a replay ends")
                };
                if ended {
                    break;
                }
            }
        }
    }
    assert!(worlds > 500, "{worlds} worlds");
}

/// Alerts follow from the rows that landed, and are there when a replay has come to its end, wherever the one before it was
/// killed, and whatever that knew of alerts.
#[tokio::test]
async fn copies_of_replayed_rows_survive_a_kill_at_every_step() {
    let crypto = |alerts| {
        let all = Enrichment { high_risk_above: 1000.into(), ..Enrichment::default() };
        let job = job(Builtin::crypto_transactions(&all).unwrap());
        Job { layout: Layout { alerts, ..job.layout }, ..job }
    };
    for (first, with_effect) in [(true, true), (true, false), (false, true)] {
        for calls in 0.. {
            let lake = Arc::new(MemorySink::new());
            let ended = Mortal::new(&lake, calls, with_effect).carries(&crypto(first)).await;
            // What is done without alerts is done.
            if !first && lake.objects().contains_key(&object().done_key("errors", 1)) {
                break;
            }
            run(&*lake, &crypto(true)).await.unwrap();
            settled(&lake, &crypto(true)).await;
            let (copies, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                lake.objects().into_iter().partition(|(key, _)| key.starts_with(HIGH_RISK_ALERTS));
            let of = others
                .iter()
                .filter_map(|(key, body)| high_risk_copy(key, body, Gzip::level(1)).ok().flatten());
            let of = of.inspect(|copy| assert_eq!(copy.content.rows, 3));
            let wanted: BTreeMap<_, _> = of.map(|copy| (copy.key, copy.body)).collect();
            assert!(wanted.len() == 1 && copies == wanted, "{calls} calls: {:?}", copies.keys());
            if ended {
                break;
            }
        }
    }
}

/// A build that makes the same objects of other rows does not finish the plan of another one; and who finishes a plan counts
/// what it has created itself.
#[tokio::test]
async fn who_goes_on_with_a_plan_claims_neither_its_rows_nor_its_name() {
    let crypto = Builtin::crypto_transactions(&Enrichment::default()).unwrap();
    let jobs = [job(Builtin::dynamodb_cdc()), job(crypto)];
    let mut alone = Vec::new();
    for job in &jobs {
        let lake = MemorySink::new();
        run(&lake, job).await.unwrap();
        alone.push(lake.objects());
    }
    let names = |objects: &BTreeMap<String, Bytes>| objects.keys().cloned().collect::<Vec<_>>();
    assert!(names(&alone[0]) == names(&alone[1]) && alone[0] != alone[1]);
    let rows = |objects: &BTreeMap<String, Bytes>| {
        let rows = objects.iter().filter(|(key, _)| key.starts_with("landing/"));
        rows.map(|(_, body)| read_records(body).unwrap().len() as u64).sum::<u64>()
    };
    let mut amid = 0;
    for (next, calls) in [0, 1].into_iter().flat_map(|next| (0..12).map(move |calls| (next, calls))) {
        let lake = Arc::new(MemorySink::new());
        let ended = Mortal::new(&lake, calls, true).carries(&jobs[0]).await;
        let before = lake.objects();
        let replayed = run(&*lake, &jobs[next]).await.unwrap();
        assert_eq!(landed_by(&replayed), rows(&lake.objects()) - rows(&before), "{calls} calls");
        amid += u32::from(!ended && rows(&before) > 0);
        let plan =
            ReplayPlan::parse(&lake.read(&object().plan_key("errors", 1)).await.unwrap().unwrap()).unwrap();
        let maker = jobs.iter().position(|job| *job.transform.id() == plan.transform).unwrap();
        for output in &plan.outputs {
            let body = lake.read(&output.key).await.unwrap().unwrap();
            assert!(body == seal_object() || body == alone[maker][&output.key], "{} of {maker}", output.key);
        }
    }
    assert!(amid > 0, "none died amid its rows");
}

/// Several at once, of several transforms, killed at any time, over a lake that loses, delays and repeats.
#[tokio::test(start_paused = true)]
async fn replays_may_race() {
    let second = Duration::from_secs(1);
    let (mut sealed, mut interrupted) = (0, 0);
    for seed in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let lake = MemorySink::new();
        let faults = Faults {
            delay: Duration::from_millis(1)..second,
            refused: 0.1,
            lost_answer: 0.1,
            late: 0.1,
            late_max: second * 20,
        };
        lake.set_faults(seed, faults.clone());
        let jobs = jobs();
        let racers: Vec<_> = (0..rng.random_range(2..5))
            .map(|_| {
                let start = second.mul_f64(rng.random_range(0.0..8.0));
                let life = second.mul_f64(rng.random_range(0.0..40.0));
                (start, life, jobs.choose(&mut rng).expect("there are jobs"))
            })
            .collect();
        let race = racers.into_iter().map(|(start, life, job)| {
            let lake = &lake;
            async move {
                sleep(start).await;
                matches!(timeout(life, run(lake, job)).await, Ok(Ok(_)))
            }
        });
        interrupted += join_all(race).await.into_iter().filter(|ended| !ended).count();
        rows(&lake).await;
        // What the dead have sent may still be on its way.
        lake.set_faults(seed, Faults { delay: faults.delay, ..Faults::default() });
        let last = jobs.choose(&mut rng).expect("there are jobs");
        run(&lake, last).await.unwrap();
        settled(&lake, last).await;
        sleep(second * 60).await;
        settled(&lake, last).await;
        let objects = lake.objects();
        sealed += objects.iter().filter(|(key, body)| key.starts_with("landing/") && body.len() < 30).count();
    }
    assert!(sealed > 20 && interrupted > 100, "{sealed} seals, {interrupted} interrupted: too tame");
}

#[tokio::test]
async fn what_somebody_else_has_written_stops_the_replay() {
    let [json, cdc] = jobs();
    let plan_key = object().plan_key("errors", 1);
    // Not a plan, and a plan whose object holds something else.
    let lake = MemorySink::new();
    lake.create(&plan_key, Bytes::from_static(b"{}")).await.unwrap();
    assert!(matches!(run(&lake, &json).await, Err(ReplayError::Damaged { key, .. }) if key == plan_key));

    let lake = Arc::new(MemorySink::new());
    Mortal::new(&lake, 1, true).carries(&cdc).await;
    let plan = ReplayPlan::parse(&lake.objects()[&plan_key]).unwrap();
    lake.create(&plan.outputs[0].key, letters()).await.unwrap();
    assert!(
        matches!(run(&*lake, &json).await, Err(ReplayError::Foreign { key }) if key == plan.outputs[0].key)
    );
    assert_eq!(lake.objects().len(), 2, "nothing is done");

    let broken = &letters()[..letters().len() - 3];
    let lake = MemorySink::new();
    let outcome = replay(&lake, &json, &object(), broken, &|_| true).await;
    assert!(matches!(outcome, Err(ReplayError::Broken(_))) && lake.objects().is_empty());
}

/// A letter of which a transform makes several rows is replayed once, as one; one of which it makes none stays open.
#[tokio::test]
async fn letters_may_give_several_rows_or_none() {
    let mut rows = Vec::new();
    for (number, raw) in (1..).zip(["3{\"a\":1}", "0{\"a\":2}", "1{\"a\":3}", "2{\"a\":4}", "none"]) {
        let context = RecordContext {
            source: SourceKind::Kinesis,
            stream: None,
            shard_id: "shardId-000000000000",
            sequence_number: &i64::to_string(&number),
            sub_sequence: None,
            key: None,
            arrival_us: HOUR + number / 4 * HOUR_US,
            null: false,
        };
        dead_letter_row(&context, &BadRecord::from(ErrorCode::WrongType), raw.as_bytes(), &mut rows);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&rows).unwrap();
    let letters = encoder.finish().unwrap();
    let (lake, job) = (MemorySink::new(), job(copying()));
    let would = rehearse(&job.transform, &letters, |_, _| true).unwrap();
    assert_eq!((would.rows, would.failed.len()), (3, 1));
    for landed in [3, 0] {
        let replayed = replay(&lake, &job, &object(), &letters, &|_| true).await.unwrap();
        assert_eq!((landed_by(&replayed), replayed.failed.len()), (landed, 1));
        let objects = lake.objects();
        let mut found: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with("landing/")).collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        let records = found.into_iter().map(|(_, body)| {
            let records = read_records(body).unwrap().into_iter();
            records.map(|record| record.sequence.to_string()).collect::<Vec<_>>().concat()
        });
        assert_eq!(records.collect::<Vec<_>>(), ["1113", "44"]);
    }
}

/// An aggregate that a release without unpacking has left becomes the rows that one with it makes, all or none.
#[tokio::test]
async fn an_old_letter_of_an_aggregate_becomes_rows_of_its_records() {
    let aggregate = |records: &[&str]| {
        let mut aggregate = Aggregate::default();
        records.iter().for_each(|record| aggregate.push("key", record.as_bytes()));
        aggregate.finish()
    };
    let mut rows = Vec::new();
    let mut add = |number: i64, sub_sequence, code, raw: &[u8]| {
        let context = RecordContext {
            source: SourceKind::Kinesis,
            stream: None,
            shard_id: "shardId-000000000000",
            sequence_number: &number.to_string(),
            sub_sequence,
            key: None,
            arrival_us: HOUR,
            null: false,
        };
        dead_letter_row(&context, &BadRecord::from(code), raw, &mut rows);
    };
    let packed = ErrorCode::KplAggregate;
    add(1, None, packed, &aggregate(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]));
    add(2, None, packed, &aggregate(&[r#"{"a":4}"#, "no JSON"]));
    // One inside another is a record that packs nothing for us, and so is what cannot be unpacked.
    add(3, Some(7), packed, &aggregate(&[r#"{"a":5}"#]));
    add(4, None, packed, b"\xf3\x89\x9a\xc2 and more");
    add(5, None, ErrorCode::WrongType, br#"{"a":6}"#);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&rows).unwrap();
    let letters = encoder.finish().unwrap();

    let (lake, job) = (MemorySink::new(), job(Builtin::json()));
    let would = rehearse(&job.transform, &letters, |_, _| true).unwrap();
    assert_eq!(would.rows, 2);
    for landed in [2, 0] {
        let replayed = replay(&lake, &job, &object(), &letters, &|_| true).await.unwrap();
        assert_eq!(landed_by(&replayed), landed);
        let failed: Vec<_> =
            replayed.failed.into_iter().map(|(code, count)| (code.as_str(), count)).collect();
        let expected = [("not_json", 1), ("kpl_aggregate", 1), ("bad_aggregate", 1)];
        assert!(failed.len() == 3 && expected.iter().all(|one| failed.contains(one)), "{failed:?}");
        let objects = lake.objects();
        let landing: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with("landing/")).collect();
        let [(_, body)] = landing[..] else { panic!("{} objects of rows", landing.len()) };
        let records = read_records(body).unwrap().into_iter();
        let ids: Vec<_> = records.map(|record| (record.sequence.to_string(), record.sub)).collect();
        let id = |number: &str, sub| (number.to_owned(), sub);
        assert_eq!(ids, [id("1", Some(0)), id("1", Some(1)), id("1", Some(2)), id("5", None)]);
    }

    // Change records of two hours.
    let later = String::from_utf8(CHANGE.to_vec()).unwrap();
    let time = later.split("\"ApproximateCreationDateTime\":").nth(1).unwrap();
    let time: String = time.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let next =
        (time.parse::<i64>().unwrap() + if time.len() > 14 { HOUR_US } else { HOUR_US / 1_000 }).to_string();
    let later = later.replacen(&time, &next, 1);
    let now = std::str::from_utf8(CHANGE).unwrap();
    let maker = |records: &[&str]| {
        let mut rows = Vec::new();
        let context = RecordContext {
            source: SourceKind::Kinesis,
            stream: None,
            shard_id: "shardId-000000000000",
            sequence_number: "1",
            sub_sequence: None,
            key: None,
            arrival_us: HOUR,
            null: false,
        };
        dead_letter_row(&context, &BadRecord::from(packed), &aggregate(records), &mut rows);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&rows).unwrap();
        let transform: Arc<dyn Transform> = Arc::new(Builtin::dynamodb_cdc());
        rehearse(&transform, &encoder.finish().unwrap(), |_, _| true).unwrap()
    };
    assert_eq!(maker(&[now, now]).rows, 1);
    let apart = maker(&[now, &later]);
    assert_eq!((apart.rows, apart.failed.get(&packed)), (0, Some(&1)));
}
