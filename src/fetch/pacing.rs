//! When a shard is asked again: a pure clockwork, fed with what came back.
//!
//! Kinesis takes five `GetRecords` calls a second and 2 MB/s for each shard, from all readers together, and
//! refuses calls for some seconds after a full 10 MB answer. So a reader that is behind calls at the full rate
//! and lets refusals slow it down; a reader at the tip slows down by itself, as an empty call costs as much as
//! some seventy records.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::page::Behind;
use super::source::FetchError;

/// Five calls a second ("Quotas and limits", Kinesis developer guide). Also the rate of `GetShardIterator`.
pub(super) const CALL_INTERVAL: Duration = Duration::from_millis(200);

/// First and longest wait after a refusal for rate; the longest is about what a full answer costs.
const THROTTLED: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(5));

/// First and longest wait after a failure that may pass by itself.
const FAILED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// First and longest wait after a failure that a person has to mend.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What to do after a failed call, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Make the same call again, not before this time.
    RetryAt(Instant),
    /// The iterator is of no use any more: ask for another one, after the last record read, not before this
    /// time.
    NewIteratorAt(Instant),
    /// The shard or the stream does not exist any more.
    ShardGone,
}

/// The pace of one shard's reader.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Between two calls while there are records.
    interval: Duration,
    idle_first: Duration,
    idle_max: Duration,
    /// After an empty answer.
    idle: Duration,
    failures: u32,
    last_call: Option<Instant>,
}

impl Pacing {
    /// A new pace. At the tip of the shard polls slow down from one every `idle_first` to one every `idle_max` (at least
    /// 200 ms).
    pub(super) fn new(idle_first: Duration, idle_max: Duration) -> Self {
        let idle_max = idle_max.max(CALL_INTERVAL);
        let idle_first = idle_first.min(idle_max);
        let interval = CALL_INTERVAL;
        Self { interval, idle_first, idle_max, idle: idle_first, failures: 0, last_call: None }
    }

    /// For a source that may be called as often as this while there are records.
    pub(super) fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// A call is being sent. Waits are counted from here, so that the time of a call is part of its interval.
    pub(super) fn call_started(&mut self, now: Instant) {
        self.last_call = Some(now);
    }

    /// A page came. Answers the earliest time of the next call: at full rate after records or behind the tip,
    /// later and later while the shard has nothing new.
    pub(super) fn after_page(&mut self, now: Instant, records: usize, behind: Behind) -> Instant {
        self.failures = 0;
        let pause = if records == 0 && matches!(behind, Behind::Tip | Behind::Unknown) {
            let longer = (self.idle * 2).min(self.idle_max);
            std::mem::replace(&mut self.idle, longer)
        } else {
            self.idle = self.idle_first;
            if behind == Behind::Tip { self.interval.max(CALL_INTERVAL) } else { self.interval }
        };
        self.not_before(now, self.last_call.unwrap_or(now) + pause)
    }

    /// A call failed. Waits double with each failure in a row; the upper half of each is random, so that
    /// readers which failed together do not come back together.
    pub(super) fn after_error(&mut self, now: Instant, error: &FetchError, rng: &mut impl Rng) -> Next {
        self.failures = self.failures.saturating_add(1);
        match error {
            FetchError::NotFound => Next::ShardGone,
            // The first time is ordinary (iterators live five minutes); an iterator that is always expired is not.
            FetchError::ExpiredIterator if self.failures == 1 => Next::NewIteratorAt(self.earliest(now)),
            FetchError::ExpiredIterator => Next::NewIteratorAt(self.back_off(now, FAILED, rng)),
            FetchError::Throttled => Next::RetryAt(self.back_off(now, THROTTLED, rng)),
            FetchError::Unavailable(_) | FetchError::InUse(_) => {
                Next::RetryAt(self.back_off(now, FAILED, rng))
            }
            FetchError::Refused(_)
            | FetchError::Foreign(_)
            | FetchError::NoFanOut(_)
            | FetchError::Truncated(_) => Next::NewIteratorAt(self.back_off(now, REFUSED, rng)),
        }
    }

    fn earliest(&self, now: Instant) -> Instant {
        self.not_before(now, self.last_call.unwrap_or(now) + CALL_INTERVAL)
    }

    fn not_before(&self, now: Instant, time: Instant) -> Instant {
        time.max(now)
    }

    fn back_off(&self, now: Instant, (first, longest): (Duration, Duration), rng: &mut impl Rng) -> Instant {
        let doubled = first.saturating_mul(2u32.saturating_pow(self.failures.min(20).saturating_sub(1)));
        let wait = doubled.min(longest).mul_f64(rng.random_range(0.5..=1.0));
        (now + wait).max(self.earliest(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::Behind::{Millis, Tip, Unknown};
    use super::*;

    const IDLE_MAX: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn unavailable() -> FetchError {
        FetchError::Unavailable("no answer".into())
    }

    #[test]
    fn polls_slow_down_at_the_tip_and_only_there() {
        let t0 = Instant::now();
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
        let mut gap = |records, behind| {
            pacing.call_started(t0);
            pacing.after_page(t0 + ms(30), records, behind) - t0
        };
        assert_eq!(gap(10_000, Millis(5000)), ms(200));
        assert_eq!(gap(0, Millis(5000)), ms(200), "empty pages on the way to the tip are ordinary");
        assert_eq!(
            [gap(0, Tip), gap(0, Tip), gap(0, Unknown), gap(0, Tip)].map(|d| d.as_millis()),
            [400, 800, 1000, 1000]
        );
        assert_eq!(gap(1, Tip), ms(200), "a record wakes the reader up");
    }

    #[test]
    fn the_first_pause_is_the_sources_and_never_above_the_longest() {
        let t0 = Instant::now();
        let pauses = |first: u64, longest: u64| {
            let mut pacing = Pacing::new(ms(first), ms(longest));
            pacing.call_started(t0);
            [0; 4].map(|_| (pacing.after_page(t0, 0, Unknown) - t0).as_millis())
        };
        assert_eq!(pauses(1000, 4000), [1000, 2000, 4000, 4000]);
        assert_eq!((pauses(1000, 1000), pauses(1000, 200)), ([1000; 4], [200; 4]));
    }

    #[test]
    fn a_slow_call_is_followed_at_once() {
        let t0 = Instant::now();
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
        pacing.call_started(t0);
        assert_eq!(pacing.after_page(t0 + ms(700), 500, Millis(100)), t0 + ms(700));
    }

    #[test]
    fn each_error_has_its_answer() {
        let t0 = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
        pacing.call_started(t0);
        assert_eq!(
            pacing.after_error(t0, &FetchError::ExpiredIterator, &mut rng),
            Next::NewIteratorAt(t0 + ms(200))
        );
        let again = pacing.after_error(t0, &FetchError::ExpiredIterator, &mut rng);
        assert!(
            matches!(again, Next::NewIteratorAt(at) if at >= t0 + ms(200) && at <= t0 + ms(400)),
            "{again:?}"
        );
        assert_eq!(pacing.after_error(t0, &FetchError::NotFound, &mut rng), Next::ShardGone);
        pacing.after_page(t0, 0, Unknown);
        let refused = pacing.after_error(t0, &FetchError::Refused("access denied".into()), &mut rng);
        assert!(matches!(refused, Next::NewIteratorAt(at) if at >= t0 + ms(2500)), "{refused:?}");
    }

    proptest! {
        /// Never above five calls a second, never later than the longest wait, whatever comes back.
        #[test]
        fn the_next_call_is_neither_too_early_nor_too_late(
            events in prop::collection::vec((0..6u8, 0u64..3000, prop::sample::select(vec![Tip, Millis(1), Unknown])), 1..50), seed: u64,
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
            let mut now = Instant::now();
            for (event, took, behind) in events {
                let started = now;
                pacing.call_started(started);
                now += ms(took);
                let (next, longest) = match event {
                    0 | 1 => (pacing.after_page(now, usize::from(event), behind), IDLE_MAX),
                    _ => {
                        let (error, longest) = match event {
                            2 => (FetchError::Throttled, THROTTLED.1),
                            3 => (unavailable(), FAILED.1),
                            4 => (FetchError::ExpiredIterator, FAILED.1),
                            _ => (FetchError::Refused(String::new()), REFUSED.1),
                        };
                        match pacing.after_error(now, &error, &mut rng) {
                            Next::RetryAt(at) | Next::NewIteratorAt(at) => (at, longest),
                            Next::ShardGone => panic!("the shard is there"),
                        }
                    }
                };
                prop_assert!(next >= started + CALL_INTERVAL && next >= now);
                prop_assert!(next <= now + longest);
                now = next;
            }
        }

        #[test]
        fn waits_grow_while_a_shard_is_throttled(seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
            let t0 = Instant::now();
            let waits: Vec<_> = (0..6).map(|_| match pacing.after_error(t0, &FetchError::Throttled, &mut rng) {
                Next::RetryAt(at) => at - t0,
                other => panic!("{other:?}"),
            }).collect();
            for (n, wait) in waits.iter().enumerate() {
                let full = (THROTTLED.0 * (1 << n)).min(THROTTLED.1);
                prop_assert!(*wait >= full / 2 && *wait <= full, "{waits:?}");
            }
            let after = pacing.after_page(t0, 1, Millis(9000)) - t0;
            prop_assert_eq!(after, CALL_INTERVAL);
        }
    }
}
