//! The task that sends metrics to CloudWatch, once a minute, and ages more often where that is asked for.
//!
//! It asks the state of the process and nobody waits for it: what cannot be sent waits here for a quarter of an hour, then it
//! is dropped and counted. A call whose answer is lost is made again, so counts may be told twice then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_cloudwatch::types::MetricDatum;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pack::{self, Call as Packed, Resolution};
use super::series::{self, Datum, Moment};
use super::{ExportSnapshot, Level};
use crate::telemetry::metrics;
use crate::telemetry::status::Status;
use crate::telemetry::tally::ByShard;
use crate::telemetry::trouble::{Call, LogPace, Troubles};

const PUT: Call = Call { operation: "PutMetricData", purpose: "sending metrics to CloudWatch" };

/// Until the answer to a call.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A call that failed is made again after the first pause, then after twice as long, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What could not be sent for so long is dropped: an alarm that comes later helps nobody.
const KEEP: Duration = Duration::from_secs(900);
/// And what is more than this, as it would be sent, the oldest first.
const KEEP_BYTES: usize = 8 << 20;
/// What is left at the end of the process is sent within this time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Trouble of a call that was not made for so long is over.
const FORGET: Duration = Duration::from_secs(3600);

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutFailed {
    /// Why, in one line for people.
    pub cause: String,
    /// The same call would be refused again.
    pub for_ever: bool,
}

/// Makes one call with these metrics.
type Put = Box<dyn Fn(Vec<MetricDatum>) -> BoxFuture<'static, Result<(), PutFailed>> + Send + Sync>;
/// The wall clock, µs since the epoch.
type WallClock = Box<dyn Fn() -> i64 + Send + Sync>;

/// What is sent, and when.
pub struct ExporterSettings {
    /// How much.
    pub level: Level,
    /// Namespace in CloudWatch.
    pub namespace: String,
    /// It has, or may get, several streams.
    pub several: bool,
    /// Time between two of each metric; the workers of a fleet tell the same time of those in the same interval.
    pub every: Duration,
    /// Time between two of each age, which are then stored by the second; none: with all others.
    pub ages_every: Option<Duration>,
    /// A number of this process's own: the workers of a fleet do not all send at the same moment.
    pub seed: u64,
    /// Wall clock, µs since the epoch.
    pub wall_clock: WallClock,
    /// Makes a call.
    pub put: Put,
}

/// How the sending goes.
#[derive(Debug)]
pub(in crate::telemetry) struct Export {
    level: Level,
    namespace: String,
    troubles: Arc<Troubles>,
    waiting: AtomicU64,
    dropped: AtomicU64,
}

impl Export {
    pub(in crate::telemetry) fn snapshot(&self) -> ExportSnapshot {
        ExportSnapshot {
            level: self.level,
            namespace: self.namespace.clone(),
            waiting: self.waiting.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            trouble: self.troubles.snapshot().into_iter().next(),
        }
    }
}

/// Sends metrics until it is told to stop.
pub struct Exporter {
    settings: ExporterSettings,
    status: Arc<Status>,
    export: Arc<Export>,
    waiting: VecDeque<Waiting>,
    /// When the last data were made.
    told: Instant,
    /// Gaps that were told.
    trimmed: u64,
    drops: LogPace,
}

struct Waiting {
    call: Packed,
    since: Instant,
}

/// When data are made next, and of which time they are, seconds since the epoch.
struct Due {
    at: Instant,
    stamp: i64,
}

impl Exporter {
    /// Sends what `status` knows, and shows there how that goes.
    pub fn new(settings: ExporterSettings, status: Arc<Status>) -> Self {
        let export = Arc::new(Export {
            level: settings.level,
            namespace: settings.namespace.clone(),
            // It never makes a process unready.
            troubles: Troubles::new(&[PUT], Duration::MAX, FORGET),
            waiting: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        status.exports(Arc::clone(&export));
        Self {
            settings,
            status,
            export,
            waiting: VecDeque::new(),
            told: Instant::now(),
            trimmed: metrics::checkpoints_trimmed(),
            drops: LogPace::default(),
        }
    }

    /// Works until `stop`; then what is left is sent, if that takes no more than a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut due = self.due(self.settings.every, None);
        let mut ages_due = self.settings.ages_every.map(|every| self.due(every, None));
        let (mut again, mut pause) = (Instant::now(), PAUSE);
        loop {
            let told = ages_due.as_ref().map_or(due.at, |ages| due.at.min(ages.at));
            let wake = if self.waiting.is_empty() { told } else { told.min(again) };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(wake) => {}
            }
            if Instant::now() >= due.at {
                self.tell(due.stamp, true);
                due = self.due(self.settings.every, Some(due.stamp));
            }
            if let (Some(every), Some(ages)) = (self.settings.ages_every, &ages_due)
                && Instant::now() >= ages.at
            {
                self.tell_ages(ages.stamp);
                ages_due = Some(self.due(every, Some(ages.stamp)));
            }
            self.drop_old();
            if Instant::now() >= again && !self.waiting.is_empty() {
                let sent = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    sent = self.send() => sent,
                };
                (again, pause) = match sent {
                    true => (Instant::now(), PAUSE),
                    false => (Instant::now() + pause, (pause * 2).min(PAUSE_MAX)),
                };
            }
        }
        self.tell(self.interval_start(micros(self.settings.every)) / 1_000_000, false);
        let sent = timeout(LAST_WORDS, async { while !self.waiting.is_empty() && self.send().await {} });
        let _ = sent.await;
        let left: Vec<Waiting> = self.waiting.drain(..).collect();
        self.dropped(left.iter().map(|waiting| waiting.call.metrics.len()).sum(), "the process ends");
    }

    /// The next moment of this worker in an interval after that of `last`.
    fn due(&self, every: Duration, last: Option<i64>) -> Due {
        let every_us = micros(every);
        // Early enough for the answer within the same interval, and not at its first moment, when clocks disagree.
        let share = i64::try_from(self.settings.seed % 500).expect("below 500") + 100;
        let offset = every_us / 1000 * share;
        let now = (self.settings.wall_clock)();
        let mut start = self.interval_start(every_us);
        while start + offset < now || last == Some(start / 1_000_000) {
            start += every_us;
        }
        let wait = Duration::from_micros(u64::try_from(start + offset - now).unwrap_or(0));
        Due { at: Instant::now() + wait, stamp: start / 1_000_000 }
    }

    /// When the interval of now began, µs since the epoch.
    fn interval_start(&self, every_us: i64) -> i64 {
        (self.settings.wall_clock)().div_euclid(every_us) * every_us
    }

    /// Makes the calls of this moment.
    fn tell(&mut self, stamp: i64, running: bool) {
        let (now, done, trimmed) = (Instant::now(), self.status.take_done(), metrics::checkpoints_trimmed());
        let snapshot = running.then(|| self.status.snapshot());
        let mut data = series::data(&Moment {
            level: self.settings.level,
            several: self.settings.several,
            snapshot: snapshot.as_ref(),
            done: &done,
            trimmed: trimmed.saturating_sub(self.trimmed),
            seconds: (now - self.told).as_secs_f64(),
        });
        if self.settings.ages_every.is_some() {
            data.retain(|datum| !datum.is_age());
        }
        (self.told, self.trimmed) = (now, trimmed);
        self.queue(stamp, &data, Resolution::Minute);
    }

    /// Makes the calls of this moment for ages alone.
    fn tell_ages(&mut self, stamp: i64) {
        let mut data = series::data(&Moment {
            level: self.settings.level,
            several: self.settings.several,
            snapshot: Some(&self.status.snapshot()),
            done: &ByShard::default(),
            trimmed: 0,
            seconds: 0.0,
        });
        data.retain(Datum::is_age);
        self.queue(stamp, &data, Resolution::Second);
    }

    fn queue(&mut self, stamp: i64, data: &[Datum], resolution: Resolution) {
        let calls = pack::calls(&self.settings.namespace, stamp, data, resolution);
        let since = Instant::now();
        self.waiting.extend(calls.into_iter().map(|call| Waiting { call, since }));
        self.note_waiting();
    }

    /// Makes the oldest call; false if it is to be made again.
    async fn send(&mut self) -> bool {
        let Some(oldest) = self.waiting.front() else { return true };
        let attempt = self.export.troubles.begin(PUT);
        let put = timeout(ANSWER_MAX, (self.settings.put)(oldest.call.metrics.clone())).await;
        let put = put.unwrap_or_else(|_| {
            let cause =
                format!("no response within {} s; check the endpoint and the network", ANSWER_MAX.as_secs());
            Err(PutFailed { cause, for_ever: false })
        });
        metrics::cloudwatch_called(put.is_ok());
        match put {
            Ok(()) => {
                attempt.answered();
                self.drops.over();
                self.waiting.pop_front();
                self.note_waiting();
                true
            }
            Err(PutFailed { cause, for_ever }) => {
                attempt.failed(cause);
                if for_ever && let Some(refused) = self.waiting.pop_front() {
                    self.dropped(refused.call.metrics.len(), "CloudWatch refused them");
                }
                for_ever
            }
        }
    }

    fn drop_old(&mut self) {
        let mut bytes: usize = self.waiting.iter().map(|waiting| waiting.call.bytes).sum();
        let mut data = 0;
        while let Some(oldest) = self.waiting.front()
            && (oldest.since.elapsed() >= KEEP || bytes > KEEP_BYTES)
        {
            bytes -= oldest.call.bytes;
            data += oldest.call.metrics.len();
            self.waiting.pop_front();
        }
        self.dropped(data, "they could not be sent in time");
    }

    fn dropped(&mut self, data: usize, why: &'static str) {
        self.note_waiting();
        if data == 0 {
            return;
        }
        let data = data as u64;
        let all = self.export.dropped.fetch_add(data, Ordering::Relaxed) + data;
        metrics::cloudwatch_dropped(data);
        if self.drops.speaks() {
            tracing::warn!(
                metrics = data,
                all,
                why,
                "metrics for CloudWatch dropped; the data are not affected"
            );
        }
    }

    fn note_waiting(&self) {
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.call.metrics.len()).sum();
        self.export.waiting.store(waiting as u64, Ordering::Relaxed);
    }
}

fn micros(every: Duration) -> i64 {
    i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
