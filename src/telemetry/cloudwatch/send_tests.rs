//! When metrics are sent, and what becomes of them when CloudWatch does not take them.

use std::sync::Mutex;

use tokio::task::JoinSet;

use super::*;
use crate::telemetry::status::ShardState;
use crate::telemetry::status::tests::facts;

/// How CloudWatch treats calls, and those that it took, with their times in seconds.
#[derive(Default)]
struct Remote {
    mood: Mutex<Mood>,
    taken: Mutex<Vec<(u64, Vec<MetricDatum>)>>,
    calls: AtomicU64,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Takes,
    Hangs,
    Throttles,
    Refuses,
}

struct Stage {
    remote: Arc<Remote>,
    status: Arc<Status>,
    stop: CancellationToken,
    task: JoinSet<()>,
    begin: Instant,
}

const START_US: i64 = 1_800_000_000_000_000;

impl Stage {
    /// A process that starts at a whole minute; its moment is in the twelfth second.
    fn new() -> Self {
        Self::with_ages(None)
    }

    /// As `new`, with ages of high resolution.
    fn with_ages(ages_every: Option<Duration>) -> Self {
        let (remote, begin) = (Arc::<Remote>::default(), Instant::now());
        let status = Status::new(facts("w"), Duration::from_secs(20));
        status.set_streams(vec!["trades".to_owned()]);
        status.set_working();
        let called = Arc::clone(&remote);
        let settings = ExporterSettings {
            level: Level::Summary,
            namespace: "app".to_owned(),
            several: false,
            every: Duration::from_secs(60),
            ages_every,
            seed: 100,
            wall_clock: Box::new(move || START_US + i64::try_from(begin.elapsed().as_micros()).unwrap()),
            put: Box::new(move |metrics| {
                let remote = Arc::clone(&called);
                Box::pin(async move {
                    remote.calls.fetch_add(1, Ordering::Relaxed);
                    let mood = *remote.mood.lock().unwrap();
                    let failed = |cause: &str, for_ever| Err(PutFailed { cause: cause.to_owned(), for_ever });
                    match mood {
                        Mood::Takes => {
                            remote.taken.lock().unwrap().push((begin.elapsed().as_secs(), metrics));
                            Ok(())
                        }
                        Mood::Hangs => std::future::pending().await,
                        Mood::Throttles => failed("throttled", false),
                        Mood::Refuses => failed("no such metric", true),
                    }
                })
            }),
        };
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        task.spawn(Exporter::new(settings, Arc::clone(&status)).run(stop.clone()));
        Self { remote, status, stop, task, begin }
    }

    fn becomes(&self, mood: Mood) {
        *self.remote.mood.lock().unwrap() = mood;
    }

    /// When calls were taken, and of which time their metrics are, both in seconds since the start.
    fn times(&self) -> Vec<(u64, i64)> {
        let of = |metrics: &[MetricDatum]| metrics[0].timestamp().unwrap().secs() - START_US / 1_000_000;
        self.remote.taken.lock().unwrap().iter().map(|(at, metrics)| (*at, of(metrics))).collect()
    }

    /// The sum of a metric over all calls that were taken.
    fn sum(&self, name: &str) -> f64 {
        let taken = self.remote.taken.lock().unwrap();
        let metrics = taken.iter().flat_map(|(_, metrics)| metrics);
        metrics
            .filter(|metric| metric.metric_name() == Some(name))
            .map(|metric| metric.value().unwrap())
            .sum()
    }

    fn export(&self) -> ExportSnapshot {
        self.status.snapshot().cloudwatch.unwrap()
    }

    async fn until(&self, second: u64) {
        tokio::time::sleep_until(self.begin + Duration::from_secs(second)).await;
    }

    /// The seconds that the end took.
    async fn ends(&mut self) -> u64 {
        let told = Instant::now();
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
        told.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn each_minute_is_told_once_and_the_counts_of_the_last_one_at_the_end() {
    let mut stage = Stage::new();
    let shard = stage.status.shard("trades", "1", ShardState::Reading, 1);
    for second in 0..200 {
        stage.until(second).await;
        shard.landed(2, 100, 1);
    }
    assert_eq!(stage.times(), [(12, 0), (72, 60), (132, 120), (192, 180)]);
    drop(shard);
    assert_eq!(stage.ends().await, 0);
    let totals = ["RecordsDelivered", "BytesDelivered", "DeadLetters"].map(|name| stage.sum(name));
    assert_eq!(totals, [400.0, 20_000.0, 200.0], "none is lost with its shard or with the process");
    assert_eq!(stage.sum("LeasesHeld"), 4.0, "once a minute, and not at the end");
    assert_eq!((stage.export().dropped, stage.export().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn ages_of_high_resolution_come_every_ten_seconds_and_the_rest_as_ever() {
    let mut stage = Stage::with_ages(Some(Duration::from_secs(10)));
    let shard = stage.status.shard("trades", "1", ShardState::Reading, 1);
    for second in 0..200 {
        stage.until(second).await;
        shard.landed(2, 100, 1);
    }
    assert_eq!(stage.ends().await, 0);
    let taken = stage.remote.taken.lock().unwrap().clone();
    let told = |age: bool| {
        let is_age = |metric: &&MetricDatum| {
            let unit = metric.unit().unwrap().as_str();
            assert_eq!(metric.storage_resolution(), ["Seconds", "Milliseconds"].contains(&unit).then_some(1));
            (metric.storage_resolution() == Some(1)) == age
        };
        let metrics = taken.iter().flat_map(|(_, metrics)| metrics).filter(is_age);
        let mut times: Vec<i64> =
            metrics.map(|metric| metric.timestamp().unwrap().secs() - START_US / 1_000_000).collect();
        times.dedup();
        times
    };
    assert_eq!(told(true), (0..20).map(|n| n * 10).collect::<Vec<_>>());
    assert_eq!(told(false), [0, 60, 120, 180]);
    assert_eq!(
        (stage.sum("RecordsDelivered"), stage.sum("LeasesHeld")),
        (400.0, 4.0),
        "counts are not told twice"
    );
}

#[tokio::test(start_paused = true)]
async fn what_hangs_or_is_throttled_waits_and_nothing_waits_for_it() {
    for mood in [Mood::Hangs, Mood::Throttles] {
        let mut stage = Stage::new();
        let shard = stage.status.shard("trades", "1", ShardState::Reading, 1);
        stage.becomes(mood);
        stage.until(300).await;
        shard.landed(7, 700, 0);
        let export = stage.export();
        let trouble = export.trouble.unwrap();
        assert!(trouble.call == "PutMetricData" && trouble.failures >= 3 && !trouble.lasting, "{trouble:?}");
        assert!(trouble.for_ms >= 270_000 && export.waiting > 0 && export.dropped == 0, "{trouble:?}");
        assert!(stage.status.readiness().is_ready(), "the worker does its part of the work all the same");
        let calls = stage.remote.calls.load(Ordering::Relaxed);
        assert!(calls < 20, "with growing pauses: {calls}");
        stage.becomes(Mood::Takes);
        stage.until(400).await;
        assert!(stage.export().trouble.is_none());
        let minutes: Vec<i64> = stage.times().into_iter().map(|(_, minute)| minute).collect();
        assert_eq!(minutes, [0, 60, 120, 180, 240, 300, 360], "late, and as of their time");
        assert_eq!(stage.sum("RecordsDelivered"), 7.0);
        assert_eq!(stage.ends().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_in_time_is_dropped_and_counted() {
    let mut stage = Stage::new();
    stage.becomes(Mood::Throttles);
    stage.until(3600).await;
    let export = stage.export();
    let of_a_call = export.waiting / 15;
    assert!((15..=16).contains(&(export.waiting / of_a_call)), "a quarter of an hour: {export:?}");
    assert!(export.dropped >= 44 * of_a_call, "{export:?}");
    stage.becomes(Mood::Takes);
    stage.until(3700).await;
    let times = stage.times();
    assert!(times.iter().all(|(at, minute)| at.cast_signed() - minute < 980), "{times:?}");
    assert_eq!(stage.export().waiting, 0);
    assert_eq!(stage.ends().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_dropped_and_does_not_hold_up_the_rest() {
    let mut stage = Stage::new();
    stage.becomes(Mood::Refuses);
    stage.until(70).await;
    let export = stage.export();
    assert!(export.waiting == 0 && export.dropped > 0, "{export:?}");
    assert_eq!(export.trouble.unwrap().cause, "no such metric");
    stage.becomes(Mood::Takes);
    stage.until(130).await;
    assert_eq!(stage.times(), [(72, 60)]);
    assert_eq!(stage.ends().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_waits_a_moment_at_most() {
    for (mood, seconds) in [(Mood::Hangs, 2), (Mood::Throttles, 0)] {
        let mut stage = Stage::new();
        stage.becomes(mood);
        // One call is under way, or waits.
        stage.until(15).await;
        assert_eq!(stage.ends().await, seconds);
        assert!(stage.export().dropped > 0, "and it is said what was not sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_silence_it() {
    let status = Status::new(facts("w"), Duration::from_secs(20));
    let exporter = |now: i64| {
        Exporter::new(
            ExporterSettings {
                level: Level::Summary,
                namespace: String::new(),
                several: false,
                every: Duration::from_secs(60),
                ages_every: None,
                seed: 100,
                wall_clock: Box::new(move || now),
                put: Box::new(|_| Box::pin(async { Ok(()) })),
            },
            Arc::clone(&status),
        )
    };
    let minute = 1_800_000_000;
    for (now_s, last, wait_s, stamp) in [
        (minute, None, 12, minute),
        (minute + 12, Some(minute), 60, minute + 60),
        (minute + 13, None, 59, minute + 60),
        (minute + 3600, Some(minute), 12, minute + 3600),
        (minute - 3600, Some(minute), 12, minute - 3600),
    ] {
        let due = exporter(now_s * 1_000_000).due(Duration::from_secs(60), last);
        assert_eq!((due.at - Instant::now(), due.stamp), (Duration::from_secs(wait_s), stamp), "{now_s}");
    }
}
