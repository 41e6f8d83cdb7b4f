//! The throughput limits of a shard, as token buckets, and how often a stream may change its number of shards. Time comes
//! in as an argument.
//!
//! Source: <https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html>: writes 1 MiB/s and
//! 1,000 records/s, reads 5 calls/s and 2 MiB/s; a read may overdraw, later reads wait for it.

/// `UpdateShardCount` of one stream in 24 hours
/// ([UpdateShardCount](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html)).
pub(crate) const RESIZES_A_DAY: usize = 10;

/// When a use of `UpdateShardCount` counts no more, µs.
pub(crate) fn free_again(used_us: i64) -> i64 {
    used_us.saturating_add(24 * 3_600_000_000)
}

const MIB: f64 = 1024.0 * 1024.0;

/// A bucket that holds one second's worth of tokens and starts full.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    tokens: f64,
    refilled_us: i64,
}

impl TokenBucket {
    pub(crate) fn new(per_second: f64, now_us: i64) -> Self {
        Self { per_second, tokens: per_second, refilled_us: now_us }
    }

    fn refill(&mut self, now_us: i64) {
        let elapsed_us = i32::try_from(now_us.saturating_sub(self.refilled_us).max(0)).unwrap_or(i32::MAX);
        self.tokens = (self.tokens + self.per_second * f64::from(elapsed_us) / 1e6).min(self.per_second);
        self.refilled_us = self.refilled_us.max(now_us);
    }

    fn holds(&mut self, amount: f64, now_us: i64) -> bool {
        self.refill(now_us);
        self.tokens >= amount
    }

    /// Takes `amount` even where it overdraws.
    pub(crate) fn charge(&mut self, amount: f64) {
        self.tokens -= amount;
    }

    /// µs until the bucket is out of debt; 0 when it is.
    pub(crate) fn debt_us(&mut self, now_us: i64) -> u64 {
        self.refill(now_us);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small range"
        )]
        let us = (-self.tokens / self.per_second * 1e6).clamp(0.0, 1e9) as u64;
        us
    }
}

/// The limits of one shard.
#[derive(Debug)]
pub(crate) struct ShardLimits {
    put_bytes: TokenBucket,
    put_records: TokenBucket,
    read_calls: TokenBucket,
    read_bytes: TokenBucket,
}

impl ShardLimits {
    pub(crate) fn new(now_us: i64) -> Self {
        Self {
            put_bytes: TokenBucket::new(MIB, now_us),
            put_records: TokenBucket::new(1_000.0, now_us),
            read_calls: TokenBucket::new(5.0, now_us),
            read_bytes: TokenBucket::new(2.0 * MIB, now_us),
        }
    }

    /// Takes one record of `bytes` (data and partition key), or refuses it. A record larger than the bucket (1 to
    /// 10 MiB records) passes when the bucket is full.
    pub(crate) fn admit_put(&mut self, bytes: usize, now_us: i64) -> bool {
        let bytes = as_tokens(bytes);
        let admitted = self.put_bytes.holds(bytes.min(MIB), now_us) && self.put_records.holds(1.0, now_us);
        if admitted {
            self.put_bytes.charge(bytes);
            self.put_records.charge(1.0);
        }
        admitted
    }

    /// Takes one read call, or refuses it.
    pub(crate) fn admit_read(&mut self, now_us: i64) -> bool {
        let admitted = self.read_bytes.holds(1.0, now_us) && self.read_calls.holds(1.0, now_us);
        if admitted {
            self.read_calls.charge(1.0);
        }
        admitted
    }

    /// Counts the bytes that an admitted read returned.
    pub(crate) fn charge_read(&mut self, bytes: usize) {
        self.read_bytes.charge(as_tokens(bytes));
    }
}

/// Bytes per second that one enhanced fan-out consumer gets from one shard.
pub(crate) fn fan_out_bucket(now_us: i64) -> TokenBucket {
    TokenBucket::new(2.0 * MIB, now_us)
}

/// Sizes are far below the range where a float loses units.
pub(crate) fn as_tokens(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn five_reads_a_second() {
        let mut limits = ShardLimits::new(0);
        let admitted = |limits: &mut ShardLimits, now| (0..10).filter(|_| limits.admit_read(now)).count();
        assert_eq!(admitted(&mut limits, 0), 5);
        assert_eq!(admitted(&mut limits, SECOND / 5), 1);
        assert_eq!(admitted(&mut limits, 100 * SECOND), 5, "a bucket never holds more than a second");
    }

    #[test]
    fn a_full_page_blocks_reads_for_seconds() {
        let mut limits = ShardLimits::new(0);
        assert!(limits.admit_read(0));
        limits.charge_read(10 << 20);
        assert!(!limits.admit_read(3 * SECOND));
        assert!(limits.admit_read(5 * SECOND));
    }

    #[test]
    fn puts_are_limited_by_records_and_by_bytes() {
        let mut small = ShardLimits::new(0);
        assert_eq!((0..3_000).filter(|_| small.admit_put(100, 0)).count(), 1_000);
        let mut big = ShardLimits::new(0);
        assert_eq!((0..3_000).filter(|_| big.admit_put(10_240, 0)).count(), 102);
        let mut huge = ShardLimits::new(0);
        assert!(huge.admit_put(10 << 20, 0));
        assert!(!huge.admit_put(1, 5 * SECOND) && huge.admit_put(1, 10 * SECOND));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut limits = ShardLimits::new(10 * SECOND);
        while limits.admit_read(10 * SECOND) {}
        assert!(!limits.admit_read(0) && !limits.admit_read(10 * SECOND));
    }
}
