//! What this worker saw since it started, step by step for the last hours: what `/api/history` shows.
//!
//! Owns: the steps, how many are kept, and that what is not known stays unknown.
//! Does not own: the facts (`status`, `tally`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;
use super::status::Status;
use super::tally::{ByShard, Tally};
use crate::clock::{utc, wall_clock_us};

/// One point in this time.
const STEP: Duration = Duration::from_secs(30);
/// So many are kept: six hours.
const POINTS_MAX: usize = 720;

/// The steps of the last hours.
pub struct History {
    status: Arc<Status>,
    since: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    all: VecDeque<Point>,
    /// Where there are several; each goes when its last point does.
    streams: BTreeMap<String, VecDeque<Point>>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Point {
    /// Its end, µs since the epoch.
    #[serde(rename = "time", serialize_with = "as_utc")]
    time_us: i64,
    /// The largest of the shards at that moment.
    millis_behind: Option<u64>,
    /// The largest of the shards at that moment.
    delivered_age_seconds: Option<f64>,
    /// Records committed, per second of the step; its dead letters are among them.
    records_per_second: f64,
    /// Their bytes, uncompressed.
    bytes_per_second: f64,
    /// Dead letters of the step.
    dead_letters: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn as_utc<S: Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&utc(*us))
}

#[derive(Serialize)]
struct Shown<'a> {
    since: &'a str,
    step_seconds: u64,
    points: &'a VecDeque<Point>,
    streams: Vec<ShownStream<'a>>,
}

#[derive(Serialize)]
struct ShownStream<'a> {
    stream: &'a str,
    points: &'a VecDeque<Point>,
}

impl History {
    /// Nothing yet; what `status` is told from now on counts.
    pub fn new(status: Arc<Status>) -> Arc<Self> {
        status.count_for_history();
        Arc::new(Self { status, since: utc(wall_clock_us()), kept: Mutex::default() })
    }

    /// Takes note of each step until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut last = Instant::now();
        let mut ticks = interval_at(last + STEP, STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                now = ticks.tick() => {
                    let done = self.status.take_history();
                    self.note(&self.status.snapshot(), &done, now - last, wall_clock_us());
                    last = now;
                }
            }
        }
    }

    /// As JSON.
    pub fn json(&self) -> Vec<u8> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = kept.streams.iter().map(|(stream, points)| ShownStream { stream, points }).collect();
        let shown = Shown { since: &self.since, step_seconds: STEP.as_secs(), points: &kept.all, streams };
        serde_json::to_vec(&shown).expect("texts and numbers are JSON")
    }

    fn note(&self, now: &Snapshot, done: &ByShard, took: Duration, time_us: i64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut kept.all, point(now, done, took, time_us, |_| true));
        let read: BTreeSet<&String> = now.streams.iter().collect();
        if read.len() > 1 || !kept.streams.is_empty() {
            for stream in read {
                let points = kept.streams.entry(stream.clone()).or_default();
                add(points, point(now, done, took, time_us, |of| of == stream));
            }
        }
        let oldest_us = kept.all.front().map_or(time_us, |point| point.time_us);
        kept.streams.retain(|_, points| points.back().is_some_and(|point| point.time_us >= oldest_us));
    }
}

fn add(points: &mut VecDeque<Point>, point: Point) {
    while points.len() >= POINTS_MAX {
        points.pop_front();
    }
    points.push_back(point);
}

/// What the shards of the streams that are `meant` have together.
fn point(
    now: &Snapshot,
    done: &ByShard,
    took: Duration,
    time_us: i64,
    meant: impl Fn(&str) -> bool,
) -> Point {
    let shards = || now.shards.iter().filter(|shard| meant(&shard.stream));
    let mut sum = Tally::default();
    done.iter().filter(|((stream, _), _)| meant(stream)).for_each(|(_, tally)| sum.add(*tally));
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    let rate = |count: u64| count as f64 / took.as_secs_f64().max(0.001);
    Point {
        time_us,
        millis_behind: shards().filter_map(|shard| shard.millis_behind_latest).max(),
        delivered_age_seconds: shards()
            .filter_map(|shard| shard.delivered_age_ms)
            .max()
            .map(|ms| Duration::from_millis(ms).as_secs_f64()),
        records_per_second: rate(sum.records),
        bytes_per_second: rate(sum.bytes),
        dead_letters: sum.dead_letters,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::telemetry::status::ShardState;
    use crate::telemetry::status::tests::facts;

    fn shown(history: &History) -> Value {
        serde_json::from_slice(&history.json()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_says_what_was_done_in_it_and_what_is_unknown_stays_so() {
        let status = Status::new(facts("w"), Duration::from_secs(20));
        status.set_streams(vec!["trades".to_owned()]);
        let history = History::new(Arc::clone(&status));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&history).run(CancellationToken::new()));
        assert_eq!(shown(&history)["points"], json!([]), "no step is over");

        let shard = status.shard("trades", "1", ShardState::WaitingForParents, 1);
        shard.landed(60, 3000, 2);
        sleep(STEP + Duration::from_millis(1)).await;
        shard.state(ShardState::Reading);
        shard.page_fetched(Some(1500));
        sleep(STEP).await;
        drop(shard);
        sleep(STEP).await;
        let all = shown(&history);
        assert_eq!((&all["step_seconds"], &all["streams"]), (&json!(30), &json!([])));
        let point = |at: usize| {
            let mut point = all["points"][at].clone();
            assert!(point.as_object_mut().unwrap().remove("time").unwrap().as_str().unwrap().ends_with('Z'));
            point
        };
        let expected = |behind: Value, age: Value, records: f64, bytes: f64, letters: u64| {
            json!({"millis_behind": behind, "delivered_age_seconds": age, "records_per_second": records,
                   "bytes_per_second": bytes, "dead_letters": letters})
        };
        assert_eq!(point(0), expected(Value::Null, Value::Null, 2.0, 100.0, 2));
        assert_eq!(point(1)["millis_behind"], 1500);
        assert!(point(1)["delivered_age_seconds"].as_f64().unwrap() > 1.0);
        assert_eq!(point(2), expected(Value::Null, Value::Null, 0.0, 0.0, 0), "no shard here any more");
    }

    #[tokio::test(start_paused = true)]
    async fn several_streams_are_told_apart_and_only_the_last_hours_are_kept() {
        let status = Status::new(facts("w"), Duration::from_secs(20));
        let history = History::new(Arc::clone(&status));
        let note = |step: usize, streams: &[&str]| {
            status.set_streams(streams.iter().map(|&stream| stream.to_owned()).collect());
            let us = i64::try_from(step).unwrap() * 30_000_000;
            history.note(&status.snapshot(), &status.take_history(), STEP, us);
        };
        let (trades, quotes) = (
            status.shard("trades", "1", ShardState::Reading, 1),
            status.shard("quotes", "1", ShardState::Reading, 1),
        );
        trades.landed(30, 10, 0);
        quotes.landed(90, 10, 0);
        note(1, &["quotes", "trades"]);
        let all = shown(&history);
        assert_eq!(all["points"][0]["records_per_second"], 4.0);
        let of = |at: usize| {
            (&all["streams"][at]["stream"], &all["streams"][at]["points"][0]["records_per_second"])
        };
        assert_eq!(of(0), (&json!("quotes"), &json!(3.0)));
        assert_eq!(of(1), (&json!("trades"), &json!(1.0)));
        for step in 2..=POINTS_MAX + 1 {
            note(step, &["trades"]);
        }
        let all = shown(&history);
        assert_eq!(all["points"].as_array().unwrap().len(), POINTS_MAX);
        assert_eq!(all["points"][0]["time"], "1970-01-01T00:01:00Z");
        let streams: Vec<_> = all["streams"].as_array().unwrap().iter().map(|of| &of["stream"]).collect();
        assert_eq!(streams, ["trades"], "what was read hours ago is not shown for ever");
    }
}
