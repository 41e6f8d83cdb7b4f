//! A token bucket: how long to wait before the next records may be written.

use std::time::Duration;

use tokio::time::Instant;

/// Keeps a stream of records to a rate. Short stalls are caught up, up to a tenth of a second's worth.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    tokens: f64,
    burst: f64,
    at: Instant,
}

impl Pace {
    /// A bucket for `per_second` records per second, empty at `now`.
    pub(super) fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: 0.0, burst: (per_second / 10.0).max(1.0), at: now }
    }

    /// Goes on at another rate.
    pub(super) fn change(&mut self, per_second: f64) {
        (self.per_second, self.burst) = (per_second, (per_second / 10.0).max(1.0));
    }

    /// Takes `records` tokens, going into debt, and says how long to wait before writing them.
    pub(super) fn take(&mut self, records: u32, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst) - f64::from(records);
        Duration::from_secs_f64((-self.tokens / self.per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rate_and_does_not_hoard() {
        let start = Instant::now();
        let mut pace = Pace::new(1000.0, start);
        let mut now = start;
        for _ in 0..100 {
            now += pace.take(25, now);
        }
        let took = (now - start).as_secs_f64();
        assert!((2.49..=2.51).contains(&took), "2,500 records at 1,000/s took {took} s");
        // After an idle minute only a tenth of a second's worth is free.
        now += Duration::from_secs(60);
        assert_eq!(pace.take(100, now), Duration::ZERO);
        assert!(pace.take(100, now) >= Duration::from_millis(99));
    }
}
