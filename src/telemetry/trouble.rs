//! Calls that fail, as state: which, why, since when and how often; and when that is logged.
//!
//! Owns: what counts as trouble and when it is over, growing pauses between log lines about it.
//! Does not own: the calls (whoever makes one begins an [`Attempt`]), what trouble means for readiness (`status`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::clock;

/// Trouble that goes on is logged again after this time, then after twice as long, and so on
const LOG_PAUSE: Duration = Duration::from_secs(30);
/// up to this.
const LOG_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Trouble of a call that is not made any more ends when the same operation works elsewhere after so long.
const QUIET: Duration = Duration::from_secs(20);

/// A kind of call: the operation of the service, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// As AWS names it, for example `UpdateItem`.
    pub operation: &'static str,
    /// What the call is for, in words.
    pub purpose: &'static str,
}

/// Trouble with one kind of call at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TroubleSnapshot {
    /// The operation of AWS.
    pub call: &'static str,
    /// What the call is for.
    pub purpose: &'static str,
    /// The stream that it is about, in an application of several streams.
    pub stream: Option<String>,
    /// The last cause, with everything below it, on one line.
    pub cause: String,
    /// When the first of the failed calls was made, UTC.
    pub since: String,
    /// How long ago that is, ms.
    pub for_ms: u64,
    /// Calls that failed since then; a call without an answer so far counts.
    pub failures: u64,
    /// It has lasted so long that the process is not ready.
    pub lasting: bool,
}

/// All kinds of calls that somebody makes, and how they go.
#[derive(Debug)]
pub struct Troubles {
    /// Trouble that lasts for so long makes the process unready.
    patience: Duration,
    /// Trouble of a call that was not made for so long is over.
    forget: Duration,
    records: Mutex<BTreeMap<Key, Record>>,
}

/// A kind of call, and the stream that it is about where there are several.
type Key = (Call, Option<Arc<str>>);

/// When trouble is logged: when it begins, then at growing intervals, and once when it is over; but trouble that comes
/// and goes no more often than that.
#[derive(Debug, Default)]
pub struct LogPace {
    quiet_until: Option<Instant>,
    pause: Duration,
    said: bool,
}

#[derive(Debug, Default)]
struct Record {
    /// Calls without an answer yet, by number, and when they were made.
    under_way: BTreeMap<u64, Instant>,
    next: u64,
    answered: Option<Instant>,
    failing: Option<Failing>,
    pace: LogPace,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    since_us: i64,
    failures: u64,
    cause: String,
    last: Instant,
    /// Nobody makes such calls for now.
    resting: bool,
}

/// One call under way. Dropped without a word it counts as failed if it has taken long: whoever gives up a call that
/// hangs drops it.
#[derive(Debug)]
pub struct Attempt {
    troubles: Arc<Troubles>,
    key: Key,
    number: u64,
    made: Instant,
    over: bool,
}

impl Troubles {
    /// No trouble yet with any of `calls`. Trouble is lasting after `patience`; a call with trouble that is made more
    /// seldom than every `forget` has none.
    pub fn new(calls: &[Call], patience: Duration, forget: Duration) -> Arc<Self> {
        let records = calls.iter().map(|call| ((*call, None), Record::default())).collect();
        Arc::new(Self { patience, forget, records: Mutex::new(records) })
    }

    /// A call is made now.
    pub fn begin(self: &Arc<Self>, call: Call) -> Attempt {
        self.begin_about(call, None)
    }

    /// A call about this stream is made now.
    pub fn begin_about(self: &Arc<Self>, call: Call, stream: Option<Arc<str>>) -> Attempt {
        let made = Instant::now();
        let key = (call, stream);
        let mut records = self.records();
        let record = records.entry(key.clone()).or_default();
        let number = record.next;
        record.next += 1;
        record.under_way.insert(number, made);
        drop(records);
        Attempt { troubles: Arc::clone(self), key, number, made, over: false }
    }

    /// Nobody makes calls of this kind about this stream any more: they have no trouble.
    pub fn over(&self, call: Call, stream: Option<Arc<str>>) {
        if let Some(record) = self.records().get_mut(&(call, stream)) {
            record.failing = None;
        }
    }

    /// Nobody makes calls of this kind about this stream for now. If the next one fails, it is the same trouble.
    pub fn rest(&self, call: Call, stream: Option<Arc<str>>) {
        let mut records = self.records();
        if let Some(failing) = records.get_mut(&(call, stream)).and_then(|record| record.failing.as_mut()) {
            failing.resting = true;
        }
    }

    /// What does not work now, the longest first.
    pub fn snapshot(&self) -> Vec<TroubleSnapshot> {
        let now = Instant::now();
        let records = self.records();
        let found = records.iter().filter_map(|(key, record)| self.trouble(&records, key, record, now));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|trouble| std::cmp::Reverse(trouble.for_ms));
        found
    }

    /// For each operation for how long it has been in trouble; zero for those without.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        let mut all: BTreeMap<&'static str, f64> =
            self.records().keys().map(|(call, _)| (call.operation, 0.0)).collect();
        for trouble in self.snapshot() {
            let longest = all.entry(trouble.call).or_default();
            *longest = longest.max(Duration::from_millis(trouble.for_ms).as_secs_f64());
        }
        all
    }

    fn trouble(
        &self,
        records: &BTreeMap<Key, Record>,
        key: &Key,
        record: &Record,
        now: Instant,
    ) -> Option<TroubleSnapshot> {
        let (call, stream) = key;
        let hung = record.hung(now, self.slow());
        let failing = record.failing.as_ref().filter(|failing| {
            let made_no_more = now.duration_since(failing.last);
            let works_elsewhere = || {
                let others = records.iter().filter(|((other, about), _)| {
                    other.operation == call.operation && other.purpose != call.purpose && about == stream
                });
                others.filter_map(|(_, other)| other.answered).any(|answered| answered > failing.last)
            };
            let goes_on = made_no_more < self.forget && (made_no_more < QUIET || !works_elsewhere());
            hung.is_some() || goes_on && !failing.resting
        });
        let (since, since_us, failures, cause) = match (failing, hung) {
            (Some(failing), _) => (failing.since, failing.since_us, failing.failures, failing.cause.clone()),
            (None, Some(made)) => {
                let waited = now.duration_since(made);
                let since_us = clock::wall_clock_us() - i64::try_from(waited.as_micros()).unwrap_or(0);
                (made, since_us, 1, no_answer(waited))
            }
            (None, None) => return None,
        };
        let lasted = now.duration_since(since);
        Some(TroubleSnapshot {
            call: call.operation,
            purpose: call.purpose,
            stream: stream.as_ref().map(|stream| stream.to_string()),
            cause,
            since: clock::utc(since_us),
            for_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            failures,
            lasting: lasted >= self.patience,
        })
    }

    /// A call without an answer for so long is in trouble.
    fn slow(&self) -> Duration {
        self.patience / 6
    }

    fn answered(&self, key: &Key, number: u64) {
        let now = Instant::now();
        let mut records = self.records();
        let record = records.entry(key.clone()).or_default();
        record.under_way.remove(&number);
        record.answered = Some(now);
        let over = record.failing.take().filter(|_| record.pace.said());
        record.pace.over();
        drop(records);
        if let Some(over) = over {
            let (call, stream) = key;
            tracing::info!(
                call = call.operation,
                purpose = call.purpose,
                stream = stream.as_deref(),
                failures = over.failures,
                seconds = now.duration_since(over.since).as_secs(),
                "call works again"
            );
        }
    }

    fn failed(&self, key: &Key, number: u64, made: Instant, cause: String) {
        let now = Instant::now();
        let mut records = self.records();
        let record = records.entry(key.clone()).or_default();
        record.under_way.remove(&number);
        // Made no more for long: what comes now is another trouble.
        record.failing.take_if(|failing| now.duration_since(failing.last) >= self.forget);
        let since_us =
            || clock::wall_clock_us() - i64::try_from(now.duration_since(made).as_micros()).unwrap_or(0);
        let failing = record.failing.get_or_insert_with(|| Failing {
            since: made,
            since_us: since_us(),
            failures: 0,
            cause: String::new(),
            last: now,
            resting: false,
        });
        failing.failures += 1;
        (failing.last, failing.resting) = (now, false);
        let (failures, seconds) = (failing.failures, now.duration_since(failing.since).as_secs());
        failing.cause.clone_from(&cause);
        let speaks = record.pace.speaks();
        drop(records);
        if speaks {
            let (call, stream) = key;
            tracing::warn!(
                call = call.operation,
                purpose = call.purpose,
                stream = stream.as_deref(),
                failures,
                seconds,
                error = cause,
                "call failed, retrying"
            );
        }
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogPace {
    /// Something failed: true when that is to be logged.
    pub fn speaks(&mut self) -> bool {
        let now = Instant::now();
        if self.quiet_until.is_some_and(|quiet| now < quiet) {
            return false;
        }
        let pause = self.pause.max(LOG_PAUSE);
        (self.quiet_until, self.pause) = (Some(now + pause), (pause * 2).min(LOG_PAUSE_MAX));
        self.said = true;
        true
    }

    /// The trouble of now was logged.
    pub fn said(&self) -> bool {
        self.said
    }

    /// The trouble is over.
    pub fn over(&mut self) {
        (self.pause, self.said) = (LOG_PAUSE, false);
    }
}

impl Record {
    /// When the oldest call was made that has had no answer for `slow`, and since which no other one had.
    fn hung(&self, now: Instant, slow: Duration) -> Option<Instant> {
        let oldest = *self.under_way.values().min()?;
        let others_answered = self.answered.is_some_and(|answered| answered > oldest);
        (now.duration_since(oldest) >= slow && !others_answered).then_some(oldest)
    }
}

impl Attempt {
    /// The service has done what it was asked, or said in so many words why not.
    pub fn answered(mut self) {
        self.over = true;
        self.troubles.answered(&self.key, self.number);
    }

    /// It was refused, or had no answer.
    pub fn failed(mut self, cause: String) {
        self.over = true;
        self.troubles.failed(&self.key, self.number, self.made, cause);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let waited = self.made.elapsed();
        if waited >= self.troubles.slow() {
            self.troubles.failed(&self.key, self.number, self.made, no_answer(waited));
        } else if let Some(record) = self.troubles.records().get_mut(&self.key) {
            record.under_way.remove(&self.number);
        }
    }
}

fn no_answer(waited: Duration) -> String {
    format!("no response within {:.1} s; check the endpoint and the network", waited.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIST: Call = Call { operation: "ListShards", purpose: "listing" };
    const RENEW: Call = Call { operation: "UpdateItem", purpose: "renewing" };
    const REPORT: Call = Call { operation: "UpdateItem", purpose: "reporting" };
    const PATIENCE: Duration = Duration::from_secs(20);

    fn troubles() -> Arc<Troubles> {
        Troubles::new(&[LIST, RENEW, REPORT], PATIENCE, Duration::from_secs(300))
    }

    async fn seconds(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_has_a_beginning_a_cause_and_a_count_until_a_call_is_answered() {
        let troubles = troubles();
        assert_eq!(troubles.snapshot(), []);
        for second in [0, 12, 12] {
            seconds(second).await;
            troubles.begin(LIST).failed(format!("denied at {second}"));
        }
        let found = troubles.snapshot();
        let [trouble] = &found[..] else { panic!("{found:?}") };
        assert_eq!((trouble.call, trouble.for_ms, trouble.failures), ("ListShards", 24_000, 3));
        assert_eq!((trouble.cause.as_str(), trouble.lasting), ("denied at 12", true));
        assert!(trouble.since.ends_with('Z'));
        assert_eq!(troubles.seconds(), [("ListShards", 24.0), ("UpdateItem", 0.0)].into());
        troubles.begin(LIST).answered();
        assert_eq!(troubles.snapshot(), []);
        troubles.begin(LIST).failed("again".to_owned());
        assert_eq!(troubles.snapshot()[0].for_ms, 0, "another trouble");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_trouble_before_and_after_it_is_given_up() {
        let troubles = troubles();
        let hangs = troubles.begin(LIST);
        seconds(3).await;
        assert_eq!(troubles.snapshot(), [], "it may be slow");
        seconds(22).await;
        let found = troubles.snapshot().remove(0);
        assert!(found.lasting && found.failures == 1 && found.for_ms == 25_000, "{found:?}");
        assert!(found.cause.starts_with("no response within 25.0 s"), "{found:?}");
        drop(hangs);
        seconds(5).await;
        assert_eq!(troubles.snapshot()[0].for_ms, 30_000, "it counts from when it was made");
        // One that hangs among others that are answered is none.
        troubles.begin(LIST).answered();
        let hangs = troubles.begin(LIST);
        seconds(30).await;
        troubles.begin(LIST).answered();
        assert_eq!(troubles.snapshot(), []);
        drop(hangs);
        // And neither is one that is dropped at once.
        drop(troubles.begin(RENEW));
        assert_eq!(troubles.snapshot().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_of_calls_that_nobody_makes_any_more_ends() {
        let troubles = troubles();
        troubles.begin(RENEW).failed("denied".to_owned());
        troubles.begin(LIST).failed("denied".to_owned());
        seconds(30).await;
        assert_eq!(troubles.snapshot().len(), 2, "it is made seldom");
        troubles.begin(REPORT).answered();
        assert_eq!(troubles.snapshot().len(), 1, "the operation works");
        troubles.over(LIST, None);
        assert_eq!(troubles.snapshot(), []);
        troubles.begin(LIST).failed("denied".to_owned());
        seconds(301).await;
        assert_eq!(troubles.snapshot(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_rests_is_not_shown_and_goes_on_with_the_next_failure() {
        let troubles = troubles();
        troubles.begin(LIST).failed("denied".to_owned());
        troubles.rest(LIST, None);
        assert_eq!(troubles.snapshot(), [], "nobody makes such calls");
        seconds(40).await;
        troubles.begin(LIST).failed("denied".to_owned());
        let found = troubles.snapshot().remove(0);
        assert_eq!((found.for_ms, found.failures, found.lasting), (40_000, 2, true));
        // But not after long: nobody knows how it was meanwhile.
        troubles.rest(LIST, None);
        seconds(301).await;
        troubles.begin(LIST).failed("denied".to_owned());
        assert_eq!(troubles.snapshot().remove(0).for_ms, 0);
        troubles.rest(LIST, None);
        troubles.begin(LIST).answered();
        troubles.begin(LIST).failed("denied".to_owned());
        assert_eq!(troubles.snapshot().remove(0).failures, 1, "it was over");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_logged_at_growing_intervals() {
        let mut pace = LogPace::default();
        let mut logged = Vec::new();
        for second in 0..1000 {
            if pace.speaks() {
                logged.push(second);
            }
            seconds(1).await;
        }
        assert_eq!(logged, [0, 30, 90, 210, 450, 930]);
        // What comes and goes does not fill the log either.
        let mut pace = LogPace::default();
        let mut logged = Vec::new();
        for second in 0..100 {
            if pace.speaks() {
                logged.push(second);
            }
            pace.over();
            seconds(1).await;
        }
        assert_eq!(logged, [0, 30, 60, 90]);
    }
}
