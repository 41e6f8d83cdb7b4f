//! The loop: an interval comes, the provider is asked until there is a snapshot or the interval is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{InVain, Next, Response, Trouble, Until, judge, next, until_us};
use super::delivery::{Delivered, Item, Queue, Target};
use super::plan::{Gap, Interval};
use super::secret::{KeySource, Secret};
use super::source::{Failed, Source};
use crate::clock::utc;
use crate::telemetry::metrics;
use crate::transform::Provider;

/// The clock is looked at so often during a long wait: it may be set, and the host may have slept.
const LOOK: Duration = Duration::from_secs(30);
/// No response takes longer.
const RESPONSE_MAX: Duration = Duration::from_secs(15);

/// How a poller works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is asked.
    pub provider: Provider,
    /// Time between two snapshots.
    pub every: Duration,
    /// One snapshot, of the interval that is now.
    pub once: bool,
    /// The provider answers nobody without a key.
    pub needs_key: bool,
    /// At the end so long is waited for what is not delivered yet.
    pub drain: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What a poller has done.
#[derive(Debug, Default)]
pub struct Counts {
    new: AtomicU64,
    existed: AtomicU64,
    gaps: AtomicU64,
    in_vain: AtomicU64,
    /// Start of the newest interval whose snapshot is there, s since the epoch.
    newest_s: AtomicI64,
}

impl Counts {
    pub(super) fn delivered(&self, interval: Interval, delivered: Delivered) {
        let (count, outcome) = match delivered {
            Delivered::New => (&self.new, "new"),
            Delivered::Existed => (&self.existed, "existed"),
        };
        count.fetch_add(1, Relaxed);
        self.newest_s.fetch_max(interval.start_s, Relaxed);
        metrics::snapshot_delivered(outcome, interval.start_s);
    }

    pub(super) fn gap(&self, intervals: i64) {
        let intervals = intervals.unsigned_abs();
        self.gaps.fetch_add(intervals, Relaxed);
        metrics::snapshots_missed(intervals);
    }

    pub(super) fn in_vain(&self, reason: &str) {
        self.in_vain.fetch_add(1, Relaxed);
        metrics::snapshot_attempt_failed(reason);
    }

    /// Snapshots that this poller has put there.
    pub fn new_snapshots(&self) -> u64 {
        self.new.load(Relaxed)
    }

    /// Snapshots that were there already.
    pub fn existing(&self) -> u64 {
        self.existed.load(Relaxed)
    }

    /// Intervals recorded as gaps.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    /// Requests and deliveries in vain.
    pub fn attempts_in_vain(&self) -> u64 {
        self.in_vain.load(Relaxed)
    }

    /// Start of the newest interval whose snapshot is there, s since the epoch; 0 before the first.
    pub fn newest_s(&self) -> i64 {
        self.newest_s.load(Relaxed)
    }
}

/// How a poller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// All that it had is delivered.
    pub clean: bool,
}

/// A poller of one provider.
pub struct Poller {
    settings: Settings,
    source: Arc<dyn Source>,
    key: KeySource,
    target: Arc<dyn Target>,
    /// µs since the epoch.
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    counts: Arc<Counts>,
    jitter: ChaCha8Rng,
    /// The provider wants no request before this time, µs since the epoch, and what it said.
    not_before_us: i64,
    why: InVain,
}

/// What became of an interval.
enum Outcome {
    Snapshot(Response, Option<i64>, usize),
    /// Of another poller.
    Existed,
    Nothing(String, u32),
}

impl Poller {
    /// `clock`: µs since the epoch.
    pub fn new(
        settings: Settings,
        source: Arc<dyn Source>,
        key: KeySource,
        target: Arc<dyn Target>,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            jitter: ChaCha8Rng::seed_from_u64(settings.seed),
            settings,
            source,
            key,
            target,
            clock: Box::new(clock),
            counts: Arc::default(),
            not_before_us: i64::MIN,
            why: InVain { trouble: Trouble::Status(429), retry_after: None },
        }
    }

    /// What it has done so far, also while it runs.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Polls until `stop`, or once. What was fetched is delivered before it returns, as far as the time allows.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let queue = Queue::default();
        let (target, counts) = (Arc::clone(&self.target), Arc::clone(&self.counts));
        let Settings { provider, drain, seed, .. } = self.settings;
        let delivering = queue.deliver(&*target, &counts, provider, seed);
        let polling = async {
            self.poll(&queue, &stop).await;
            queue.close();
        };
        tokio::pin!(delivering);
        tokio::select! {
            biased;
            () = polling => {}
            () = &mut delivering => {}
        }
        let clean = timeout(drain, delivering).await.is_ok() && queue.is_empty();
        if !clean {
            tracing::error!(%provider, ?drain, "stopped before everything was delivered: see the gaps of the next start");
        }
        Ended { clean }
    }

    fn now_us(&self) -> i64 {
        (self.clock)()
    }

    async fn poll(&mut self, queue: &Queue, stop: &CancellationToken) {
        let Settings { provider, every, once, .. } = self.settings;
        let mut interval = Interval::at(self.now_us(), every);
        drop(queue.push(Item::LookBack(interval, 0)));
        loop {
            let item = match self.one(interval, stop).await {
                // The poller is asked to end. An interval that goes on may get its snapshot from the next one, which looks back.
                None => {
                    if self.now_us() >= interval.end_us() {
                        drop(queue.push(Item::Gap(Gap::new(provider, interval, 1, "stopped", 0))));
                    }
                    return;
                }
                Some(Outcome::Snapshot(response, time_us, entries)) => {
                    Some(Item::Snapshot { interval, time_us, entries, body: response.body })
                }
                Some(Outcome::Existed) => {
                    self.counts.delivered(interval, Delivered::Existed);
                    tracing::info!(interval = utc(interval.start_us()), "snapshot of another poller");
                    None
                }
                Some(Outcome::Nothing(reason, attempts)) => {
                    Some(Item::Gap(Gap::new(provider, interval, 1, &reason, attempts)))
                }
            };
            if let Some(item) = item
                && queue.push(item).is_err()
            {
                drop(queue.push(Item::Gap(Gap::new(provider, interval, 1, "no_room", 0))));
            }
            if once {
                return;
            }
            // The host may have slept, or the clock was set.
            let due = interval.next().max(Interval::at(self.now_us(), every));
            let skipped = due.intervals_since(interval.next());
            if skipped > 0 {
                drop(queue.push(Item::Gap(Gap::new(provider, interval.next(), skipped, "not_polled", 0))));
            }
            if !self.sleep_until(due.start_us(), stop).await {
                return;
            }
            // It may have slept on.
            let now = Interval::at(self.now_us(), every);
            let skipped = now.intervals_since(due);
            if skipped > 0 {
                drop(queue.push(Item::Gap(Gap::new(provider, due, skipped, "not_polled", 0))));
            }
            interval = due.max(now);
        }
    }

    /// Asks for the snapshot of one interval; `None` when asked to stop.
    async fn one(&mut self, interval: Interval, stop: &CancellationToken) -> Option<Outcome> {
        let once = self.settings.once;
        match self.target.has(interval).await {
            Ok(true) => return Some(Outcome::Existed),
            Ok(false) => {}
            // The target is tried again when there is something for it.
            Err(error) => {
                tracing::warn!(reason = error.reason, "could not look for the snapshot at the target")
            }
        }
        let until_us = until_us(interval, once, self.now_us());
        let key_may_change = matches!(self.key, KeySource::File(_)) && !once;
        let mut why = self.why.clone();
        let (mut tries, mut attempts) = (0, 0);
        // A key that was refused is not sent again in this interval.
        let mut refused: Option<Option<Secret>> = None;
        let mut at_us = self.not_before_us;
        while at_us <= until_us {
            if !self.sleep_until(at_us, stop).await {
                return None;
            }
            tries += 1;
            let (answer, key) = match self.key() {
                Ok(key) if refused.as_ref() == Some(&key) => (Err(why.clone()), key),
                Ok(key) => {
                    attempts += 1;
                    let asked = self.ask(key.as_ref(), interval);
                    let answer = tokio::select! {
                        () = stop.cancelled() => return None,
                        answer = asked => answer,
                    };
                    (answer, key)
                }
                Err(why) => (Err(why), None),
            };
            match answer {
                Ok((response, time_us, entries)) => {
                    return Some(Outcome::Snapshot(response, time_us, entries));
                }
                Err(in_vain) => why = in_vain,
            }
            if why.trouble.is_of_key() {
                refused = Some(key);
            }
            let until = Until { last_us: until_us, key_may_change };
            match next(&why, tries, self.now_us(), until, self.jitter.random()) {
                Next::Again(us) => at_us = us,
                Next::GiveUp(us) => {
                    self.not_before_us = us;
                    self.why = why.clone();
                    break;
                }
            }
        }
        // Another poller may still have it, until the interval is over.
        if !once {
            self.sleep_until(interval.end_us(), stop).await;
        }
        if matches!(self.target.has(interval).await, Ok(true)) {
            return Some(Outcome::Existed);
        }
        Some(Outcome::Nothing(why.trouble.reason().into_owned(), attempts))
    }

    /// The key as it is now.
    fn key(&self) -> Result<Option<Secret>, InVain> {
        let problem = match self.key.read() {
            Ok(None) if self.settings.needs_key => "the provider needs one".to_owned(),
            Ok(key) => return Ok(key),
            Err(problem) => problem,
        };
        tracing::warn!(problem, "no API key");
        self.counts.in_vain("no_key");
        Err(InVain { trouble: Trouble::NoKey, retry_after: None })
    }

    /// One request.
    async fn ask(
        &self,
        key: Option<&Secret>,
        interval: Interval,
    ) -> Result<(Response, Option<i64>, usize), InVain> {
        let Settings { provider, every, .. } = self.settings;
        let within = RESPONSE_MAX.min(every.mul_f64(0.8));
        let (trouble, response, detail) = match self.source.fetch(key, within).await {
            Err(Failed { trouble, detail }) => (trouble, None, detail),
            Ok(response) => match judge(provider, &response) {
                Ok(good) => return Ok((response, good.time_us, good.entries)),
                Err(trouble) => (trouble, Some(response), String::new()),
            },
        };
        let in_vain = InVain::new(trouble, response.as_ref(), self.now_us());
        let reason = in_vain.trouble.reason();
        self.counts.in_vain(&reason);
        tracing::warn!(
            interval = utc(interval.start_us()),
            reason = &*reason,
            detail,
            retry_after = in_vain.retry_after.map(tracing::field::debug),
            "no snapshot yet"
        );
        Err(in_vain)
    }

    /// Waits for a time of the wall clock; false when asked to stop.
    async fn sleep_until(&self, us: i64, stop: &CancellationToken) -> bool {
        loop {
            let left_us = us.saturating_sub(self.now_us());
            if stop.is_cancelled() {
                return false;
            }
            let Ok(left_us) = u64::try_from(left_us) else { return true };
            if left_us == 0 {
                return true;
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep(Duration::from_micros(left_us).min(LOOK)) => {}
            }
        }
    }
}
