//! When a shard is subscribed to again: a pure clockwork, fed with what came of the last subscription.
//!
//! A second subscription within five seconds of a successful one is refused, and a later one takes the shard over from
//! the one before. A subscription ends after five minutes; it is renewed a little earlier, each shard at a moment of its
//! own, as those of a worker begin together.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::fetch::polling::GONE_PAUSE;
use crate::fetch::source::FetchError;

/// Between two subscriptions of a shard
/// ([SubscribeToShard](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html)), with a little
/// more for the clocks.
const SUBSCRIBE_AFTER: Duration = Duration::from_millis(5_100);
/// Added to it at random, so that shards which failed together do not come back together.
const JITTER_MAX: Duration = Duration::from_millis(900);
/// A subscription is renewed at an age between these two: it lives for 300 s.
const RENEW_AT: (u64, u64) = (270_000, 290_000);
/// A subscription that has lived for so long was not fought for.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// First and longest wait where somebody else has the shard: the lease is looked at meanwhile.
const IN_USE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(40));
/// First and longest wait after a refusal for rate: one call a second for each shard.
const THROTTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// First and longest wait after a failure that may pass by itself.
const FAILED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// First and longest wait after a failure that a person has to mend.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// A quiet subscription sends an empty event about every five seconds. After so long without any it is dead
/// (KCL restarts it then, too).
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// Whoever reads hears something at least this often.
const ANSWER_EVERY: Duration = Duration::from_secs(5);
/// For so long after an event nothing new is known to be there: the next empty one is due.
const BELIEVED: Duration = Duration::from_secs(10);

/// What to do while no event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// Wait until then.
    Until(Instant),
    /// Say that there is nothing new; `true`: what the last event said of the tip still holds.
    Answer(bool),
    /// Subscribe again, from where the last event ended.
    Renew,
    /// The subscription is dead.
    Silent,
}

/// The pace of one shard's subscriptions.
#[derive(Debug)]
pub(super) struct Pace {
    /// No subscription before this time.
    not_before: Instant,
    subscribed: Instant,
    renew_at: Instant,
    last_event: Instant,
    last_answer: Instant,
    /// The subscription has brought something.
    brought: bool,
    failures: u32,
    in_use: u32,
    /// The last subscription was lost to somebody else: the lease is looked at before the next one.
    taken: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            not_before: now,
            subscribed: now,
            renew_at: now,
            last_event: now,
            last_answer: now,
            brought: false,
            failures: 0,
            in_use: 0,
            taken: false,
        }
    }

    /// The earliest time of the next subscription.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Whether the next subscription would take the shard from somebody who may be its owner now.
    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }

    /// A subscription begins. That is no answer: whoever reads has heard nothing by it.
    pub(super) fn subscribed(&mut self, now: Instant, rng: &mut impl Rng) {
        (self.subscribed, self.last_event) = (now, now);
        (self.taken, self.brought) = (false, false);
        self.renew_at = now + Duration::from_millis(rng.random_range(RENEW_AT.0..=RENEW_AT.1));
        self.not_before = now + SUBSCRIBE_AFTER + JITTER_MAX.mul_f64(rng.random_range(0.0..=1.0));
    }

    /// An event came.
    pub(super) fn event(&mut self, now: Instant) {
        (self.last_event, self.last_answer, self.brought) = (now, now, true);
        self.failures = 0;
        if now - self.subscribed >= SETTLED_AFTER {
            self.in_use = 0;
        }
    }

    /// The time until now was not the stream's: there was no room for what it sent.
    pub(super) fn had_no_room(&mut self, now: Instant) {
        self.last_event = now;
    }

    /// No event has come.
    pub(super) fn idle(&mut self, now: Instant) -> Idle {
        let (silent, answer) = (self.last_event + SILENCE_MAX, self.last_answer + ANSWER_EVERY);
        if now >= silent {
            Idle::Silent
        } else if now >= self.renew_at {
            Idle::Renew
        } else if now >= answer {
            self.last_answer = now;
            Idle::Answer(now - self.last_event < BELIEVED)
        } else {
            Idle::Until(silent.min(answer).min(self.renew_at))
        }
    }

    /// The subscription came to its end; false where it did so at once, without any event.
    pub(super) fn ended(&self) -> bool {
        self.brought
    }

    /// There is no subscription for this reason. Waits double with each failure in a row; the upper half of each is random.
    pub(super) fn failed(&mut self, now: Instant, error: &FetchError, rng: &mut impl Rng) {
        self.failures = self.failures.saturating_add(1);
        let ((first, longest), failures) = match error {
            FetchError::InUse(_) => {
                self.taken = true;
                self.in_use = self.in_use.saturating_add(1);
                (IN_USE, self.in_use)
            }
            FetchError::NotFound => ((GONE_PAUSE, GONE_PAUSE), 1),
            FetchError::Throttled => (THROTTLED, self.failures),
            FetchError::Refused(_)
            | FetchError::Foreign(_)
            | FetchError::Truncated(_)
            | FetchError::NoFanOut(_) => (REFUSED, self.failures),
            FetchError::ExpiredIterator | FetchError::Unavailable(_) => (FAILED, self.failures),
        };
        let doubled = first.saturating_mul(2u32.saturating_pow(failures.min(20).saturating_sub(1)));
        let wait = doubled.min(longest);
        let wait = if matches!(error, FetchError::InUse(_)) {
            // Never less than what the stream asks for.
            wait + JITTER_MAX.mul_f64(rng.random_range(0.1..=1.0))
        } else {
            wait.mul_f64(rng.random_range(0.5..=1.0))
        };
        self.not_before = self.not_before.max(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(7)
    }

    fn in_use() -> FetchError {
        FetchError::InUse("another".into())
    }

    #[test]
    fn a_quiet_subscription_answers_every_five_seconds_and_is_dead_after_35() {
        let t0 = Instant::now();
        let mut pace = Pace::new(t0);
        pace.subscribed(t0, &mut rng());
        assert_eq!(pace.idle(t0 + s(1)), Idle::Until(t0 + s(5)));
        assert_eq!(pace.idle(t0 + s(5)), Idle::Answer(true));
        assert_eq!(pace.idle(t0 + s(5)), Idle::Until(t0 + s(10)));
        assert_eq!(pace.idle(t0 + s(10)), Idle::Answer(false), "an event was due");
        pace.event(t0 + s(11));
        assert_eq!(pace.idle(t0 + s(45)), Idle::Answer(false));
        assert_eq!(pace.idle(t0 + s(46)), Idle::Silent);
        pace.had_no_room(t0 + s(46));
        assert_ne!(pace.idle(t0 + s(60)), Idle::Silent, "that was not the stream's fault");
    }

    #[test]
    fn a_subscription_is_renewed_before_its_five_minutes_end_and_not_all_at_once() {
        let t0 = Instant::now();
        let mut rng = rng();
        let mut ages: Vec<_> = (0..20)
            .map(|_| {
                let mut pace = Pace::new(t0);
                pace.subscribed(t0, &mut rng);
                let mut at = t0;
                while pace.idle(at) != Idle::Renew {
                    at += Duration::from_millis(500);
                    pace.event(at);
                }
                (at - t0).as_secs()
            })
            .collect();
        ages.sort_unstable();
        assert!(ages[0] >= 270 && ages[19] <= 291 && ages[19] - ages[0] > 8, "{ages:?}");
    }

    #[test]
    fn who_is_driven_away_waits_longer_each_time_until_a_subscription_has_settled() {
        let t0 = Instant::now();
        let (mut rng, mut pace, mut now) = (rng(), Pace::new(t0), t0);
        let mut waits = Vec::new();
        for _ in 0..5 {
            pace.subscribed(now, &mut rng);
            pace.event(now + s(1));
            assert!(!pace.is_taken());
            now += s(20);
            pace.failed(now, &in_use(), &mut rng);
            assert!(pace.is_taken(), "the lease is looked at");
            waits.push((pace.not_before() - now).as_secs());
            now = pace.not_before();
        }
        assert_eq!(waits, [5, 10, 20, 40, 40]);
        pace.subscribed(now, &mut rng);
        pace.event(now + s(61));
        pace.failed(now + s(62), &in_use(), &mut rng);
        assert_eq!((pace.not_before() - now).as_secs(), 67);
    }

    #[test]
    fn a_subscription_that_ends_without_an_event_is_a_failure() {
        let t0 = Instant::now();
        let mut pace = Pace::new(t0);
        pace.subscribed(t0, &mut rng());
        assert!(!pace.ended());
        pace.event(t0 + s(1));
        assert!(pace.ended());
    }

    proptest! {
        /// Whatever happens, two subscriptions are five seconds apart, and none is waited for longer than a minute.
        #[test]
        fn the_five_second_rule_holds(events in prop::collection::vec((0..7u8, 0u64..4000), 1..40), seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut now = Instant::now();
            let mut pace = Pace::new(now);
            let mut last: Option<Instant> = None;
            for (event, later) in events {
                now = now.max(pace.not_before());
                prop_assert!(last.is_none_or(|last| now - last >= s(5)));
                if event < 3 {
                    last = Some(now);
                    pace.subscribed(now, &mut rng);
                }
                now += Duration::from_millis(later);
                let error = match event {
                    0 => continue,
                    1 | 4 => in_use(),
                    2 => FetchError::NotFound,
                    3 => FetchError::Throttled,
                    5 => FetchError::NoFanOut(String::new()),
                    _ => FetchError::Unavailable("no answer".into()),
                };
                pace.failed(now, &error, &mut rng);
                prop_assert!(pace.not_before() <= now + s(61));
                if event == 4 {
                    prop_assert!(pace.not_before() >= now + s(5));
                }
            }
        }
    }
}
