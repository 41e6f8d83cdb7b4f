//! When a shard is asked again: a pure clockwork, fed with what came back.
//!
//! Kinesis takes five `GetRecords` calls a second and 2 MB/s for each shard, from all readers together, and
//! refuses calls for some seconds after a full 10 MB answer. So a reader that is behind calls at the full rate
//! and lets refusals slow it down; a reader at the tip slows down by itself, as an empty call costs as much as
//! some seventy records. Where records may wait (they go to a batch that stays open for minutes), it also waits until a
//! call is worth its cost: by the rate at which they came so far, and never longer than they may wait.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::page::Behind;
use super::polling::TIP_BYTES;
use super::source::FetchError;

/// Five calls a second ("Quotas and limits", Kinesis developer guide). Also the rate of `GetShardIterator`.
pub(super) const CALL_INTERVAL: Duration = Duration::from_millis(200);

/// What a call is to bring where records may wait: with fewer it costs more than they do.
const WORTH_RECORDS: usize = 100;
/// The same for large records: half of what a poll at the tip reserves.
const WORTH_BYTES: usize = TIP_BYTES / 2;

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
    /// The longest pause at the tip while records come.
    gather_max: Duration,
    /// The last pause at the tip.
    paused: Duration,
    /// When the last call was sent that was answered with the tip: what the next one brings came since.
    at_tip: Option<Instant>,
    failures: u32,
    last_call: Option<Instant>,
}

/// What an answer brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brought {
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) behind: Behind,
}

impl Pacing {
    /// A new pace. At the tip of the shard polls slow down from one every `idle_first` to one every `idle_max` (at least
    /// 200 ms).
    pub(super) fn new(idle_first: Duration, idle_max: Duration) -> Self {
        let idle_max = idle_max.max(CALL_INTERVAL);
        let idle_first = idle_first.min(idle_max);
        let (interval, gather_max) = (CALL_INTERVAL, Duration::ZERO);
        let (idle, paused) = (idle_first, interval);
        Self {
            interval,
            idle_first,
            idle_max,
            idle,
            gather_max,
            paused,
            at_tip: None,
            failures: 0,
            last_call: None,
        }
    }

    /// For a source that may be called as often as this while there are records.
    pub(super) fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// For records that may wait so long at the tip until they are read: a call is made when it is worth it.
    pub(super) fn gathering(self, gather_max: Duration) -> Self {
        Self { gather_max, ..self }
    }

    /// A call is being sent. Waits are counted from here, so that the time of a call is part of its interval.
    pub(super) fn call_started(&mut self, now: Instant) {
        self.last_call = Some(now);
    }

    /// A page came. Answers the earliest time of the next call: at full rate behind the tip, and at it while many records
    /// come; later and later while the shard has few or nothing new.
    pub(super) fn after_page(&mut self, now: Instant, brought: Brought) -> Instant {
        self.failures = 0;
        let called = self.last_call.unwrap_or(now);
        let tip_before =
            std::mem::replace(&mut self.at_tip, (brought.behind == Behind::Tip).then_some(called));
        let pause = match brought {
            Brought { records: 0, behind: Behind::Tip | Behind::Unknown, .. } => {
                let longer = (self.idle * 2).min(self.idle_max);
                std::mem::replace(&mut self.idle, longer)
            }
            Brought { behind: Behind::Tip, .. } => {
                let pause = self.gathered(tip_before.map(|before| called - before), brought);
                self.idle = (pause * 2).clamp(self.idle_first, self.idle_max);
                pause
            }
            _ => {
                self.idle = self.idle_first;
                self.interval
            }
        };
        self.paused = pause;
        self.not_before(now, called + pause)
    }

    /// The pause in which enough records come, when it goes on as in the time since the call before, which reached the tip
    /// too. At most twice the last one: one thin page says little.
    fn gathered(&self, since: Option<Duration>, brought: Brought) -> Duration {
        let shortest = self.interval.max(CALL_INTERVAL);
        let longest = self.gather_max.min(self.paused * 2).max(shortest);
        let Some(since) = since else { return shortest };
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let times = |worth: usize, came: usize| worth as f64 / came.max(1) as f64;
        let times = times(WORTH_RECORDS, brought.records).min(times(WORTH_BYTES, brought.bytes));
        Duration::try_from_secs_f64(since.as_secs_f64() * times).unwrap_or(longest).clamp(shortest, longest)
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

    /// An answer with records of 1 KiB.
    fn brought(records: usize, behind: Behind) -> Brought {
        Brought { records, bytes: records << 10, behind }
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
            pacing.after_page(t0 + ms(30), brought(records, behind)) - t0
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
            [0; 4].map(|_| (pacing.after_page(t0, brought(0, Unknown)) - t0).as_millis())
        };
        assert_eq!(pauses(1000, 4000), [1000, 2000, 4000, 4000]);
        assert_eq!((pauses(1000, 1000), pauses(1000, 200)), ([1000; 4], [200; 4]));
    }

    /// When the calls are made of a shard that gets so many records a second, each of so many bytes, and what they bring.
    fn calls(pacing: &mut Pacing, per_second: f64, bytes: usize, during: Duration) -> Vec<(Duration, usize)> {
        let t0 = Instant::now();
        let (mut now, mut read, mut calls) = (t0, 0, Vec::new());
        while now - t0 < during {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few records")]
            let there = ((now - t0).as_secs_f64() * per_second) as usize;
            let records = there - read;
            pacing.call_started(now);
            let next = pacing.after_page(now, Brought { records, bytes: records * bytes, behind: Tip });
            calls.push((next - now, records));
            (now, read) = (next, there);
        }
        calls
    }

    #[test]
    fn a_thin_shard_is_asked_when_it_is_worth_it() {
        let gathering = || Pacing::new(CALL_INTERVAL * 2, ms(10_000)).gathering(ms(10_000));
        let thin = calls(&mut gathering(), 10.0, 1024, ms(300_000));
        assert!(thin.len() < 45, "{} calls where one in 200 ms makes 1,500", thin.len());
        assert!(thin[20..].iter().all(|(_, records)| (90..=110).contains(records)), "{thin:?}");
        let busy = calls(&mut gathering(), 1000.0, 1024, ms(10_000));
        assert!(busy[1..].iter().all(|(pause, _)| *pause == CALL_INTERVAL), "{busy:?}");
        let large = calls(&mut gathering(), 10.0, 128 << 10, ms(10_000));
        assert!(large[5..].iter().all(|(_, records)| *records <= 2), "{large:?}");
        let at_once = calls(&mut Pacing::new(CALL_INTERVAL * 2, IDLE_MAX), 10.0, 1024, ms(10_000));
        assert!(
            at_once[3..].iter().all(|(pause, _)| *pause == CALL_INTERVAL),
            "nothing may wait: {at_once:?}"
        );
    }

    #[test]
    fn one_thin_page_says_little() {
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, ms(10_000)).gathering(ms(10_000));
        let mut now = Instant::now();
        let pauses = [500, 1, 1, 1].map(|records| {
            pacing.call_started(now);
            let next = pacing.after_page(now, brought(records, Tip));
            (next - std::mem::replace(&mut now, next)).as_millis()
        });
        assert_eq!(pauses, [200, 400, 800, 1600]);
    }

    #[test]
    fn a_burst_ends_the_waiting() {
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, ms(10_000)).gathering(ms(10_000));
        calls(&mut pacing, 1.0, 1024, ms(100_000));
        let t0 = Instant::now();
        let mut gap = |records, behind| {
            pacing.call_started(t0);
            pacing.after_page(t0, brought(records, behind)) - t0
        };
        assert_eq!(gap(5000, Millis(3000)), ms(200), "the page was cut");
        assert_eq!([gap(2000, Tip), gap(1, Tip)], [ms(200); 2], "how long it took is not known, or no time");
    }

    #[test]
    fn a_slow_call_is_followed_at_once() {
        let t0 = Instant::now();
        let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX);
        pacing.call_started(t0);
        assert_eq!(pacing.after_page(t0 + ms(700), brought(500, Millis(100))), t0 + ms(700));
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
        pacing.after_page(t0, brought(0, Unknown));
        let refused = pacing.after_error(t0, &FetchError::Refused("access denied".into()), &mut rng);
        assert!(matches!(refused, Next::NewIteratorAt(at) if at >= t0 + ms(2500)), "{refused:?}");
    }

    proptest! {
        /// Never above five calls a second, never later than the longest wait, whatever comes back.
        #[test]
        fn the_next_call_is_neither_too_early_nor_too_late(
            events in prop::collection::vec((0..7u8, 0u64..3000, prop::sample::select(vec![Tip, Millis(1), Unknown])), 1..50),
            gather in 0u64..5000, seed: u64,
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut pacing = Pacing::new(CALL_INTERVAL * 2, IDLE_MAX).gathering(ms(gather));
            let mut now = Instant::now();
            for (event, took, behind) in events {
                let started = now;
                pacing.call_started(started);
                now += ms(took);
                let (next, longest) = match event {
                    0 => (pacing.after_page(now, brought(0, behind)), IDLE_MAX),
                    1 | 6 => {
                        let longest = if behind == Tip { ms(gather).max(CALL_INTERVAL) } else { CALL_INTERVAL };
                        (pacing.after_page(now, brought(usize::from(event), behind)), longest)
                    }
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

        /// A record waits at most as long as it may, and a call where records come steadily is worth its cost or as late as
        /// may be.
        #[test]
        fn steady_records_wait_no_longer_than_they_may(per_second in 0.0f64..2000.0, bytes in 100usize..100_000, max in 200u64..60_000) {
            let mut pacing = Pacing::new(CALL_INTERVAL * 2, ms(max)).gathering(ms(max));
            let calls = calls(&mut pacing, per_second, bytes, ms(600_000));
            prop_assert!(calls.iter().all(|(pause, _)| (CALL_INTERVAL..=ms(max)).contains(pause)));
            // The first ones find out how many come.
            for pair in calls[calls.len() / 2..].windows(2) {
                let (pause, (_, records)) = (pair[0].0, pair[1]);
                let worth = records + 2 >= WORTH_RECORDS * 4 / 5 || (records + 1) * bytes >= WORTH_BYTES * 4 / 5;
                prop_assert!(worth || pause >= ms(max) * 9 / 20, "{pause:?} for {records} records");
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
            let after = pacing.after_page(t0, brought(1, Millis(9000))) - t0;
            prop_assert_eq!(after, CALL_INTERVAL);
        }
    }
}
