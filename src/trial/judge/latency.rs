//! How long records took from their put to an object in the lake.

use std::collections::BTreeMap;

/// Times in whole milliseconds, each with its count: exact, and small however many records there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(BTreeMap<u32, u64>);

impl Latencies {
    /// Adds one, in milliseconds. Clocks of two machines may differ: below zero counts as zero.
    pub fn add(&mut self, ms: i64) {
        let ms = u32::try_from(ms.max(0)).unwrap_or(u32::MAX);
        *self.0.entry(ms).or_default() += 1;
    }

    /// Adds those of others.
    pub fn merge(&mut self, others: Self) {
        for (ms, count) in others.0 {
            *self.0.entry(ms).or_default() += count;
        }
    }

    /// The time within which this share of the records were there, in milliseconds; 0 when there are none.
    pub fn percentile(&self, percent: u8) -> u64 {
        let all: u64 = self.0.values().sum();
        let wanted = (u128::from(all) * u128::from(percent)).div_ceil(100);
        let mut below = 0;
        let found = self.0.iter().find(|(_, count)| {
            below += u128::from(**count);
            below >= wanted
        });
        found.map_or(0, |(ms, _)| u64::from(*ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(99), 0);
        (1..=100).for_each(|ms| latencies.add(ms));
        assert_eq!([50, 99, 100].map(|percent| latencies.percentile(percent)), [50, 99, 100]);
        let mut more = Latencies::default();
        more.add(-5);
        more.add(7_000);
        latencies.merge(more);
        assert_eq!((latencies.percentile(0), latencies.percentile(100)), (0, 7_000));
    }
}
