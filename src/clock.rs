//! The wall clock, read in one place. Durations and expiry use `tokio::time::Instant`, never this.

use std::sync::atomic::{AtomicI64, Ordering};

static OFFSET_S: AtomicI64 = AtomicI64::new(0);

/// Makes the clock of this process wrong by so many seconds, for trials of what that does.
pub fn be_wrong_by(seconds: i64) {
    OFFSET_S.store(seconds, Ordering::Relaxed);
}

/// Microseconds since the Unix epoch by this host's clock. For ages shown to people and for arrival times the
/// embedded servers hand out; no decision about leases or delivery may depend on it.
pub fn wall_clock_us() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let right = since_epoch.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
    right.saturating_add(OFFSET_S.load(Ordering::Relaxed).saturating_mul(1_000_000))
}

/// As [`wall_clock_us`], in whole seconds.
pub fn wall_clock_s() -> u64 {
    u64::try_from(wall_clock_us() / 1_000_000).unwrap_or(0)
}

/// A time as people and machines read it: `2026-01-15T09:30:00Z`.
pub fn utc(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us)
        .map_or_else(|_| format!("{us} µs"), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_of_utc() {
        assert_eq!(utc(1_768_469_400_999_999), "2026-01-15T09:30:00Z");
        assert_eq!(utc(i64::MAX), format!("{} µs", i64::MAX));
    }
}
