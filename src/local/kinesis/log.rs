//! The records of one shard, in order.

use std::collections::VecDeque;

use bytes::Bytes;

/// A record as it is kept: ready to be copied in an answer.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The partition key as the inside of a JSON string.
    pub(crate) partition_key: Bytes,
    /// Standard base64 text of the data, as received.
    pub(crate) data: Bytes,
    /// When it arrived, µs since the epoch in whole ms, never before the record in front of it.
    pub(crate) arrival_us: i64,
}

impl Stored {
    /// Bytes that count against the limits of a read: decoded data and partition key.
    pub(crate) fn size(&self) -> usize {
        decoded_length(&self.data) + self.partition_key.len()
    }
}

/// Length of the data behind valid, padded base64 text.
pub(crate) fn decoded_length(base64: &[u8]) -> usize {
    let padding = base64.iter().rev().take(2).filter(|b| **b == b'=').count();
    base64.len() / 4 * 3 - padding
}

/// An append-only list that loses its oldest records to retention.
#[derive(Debug)]
pub(crate) struct Log {
    records: VecDeque<Stored>,
    /// Number of the front record, or of the next one when the list is empty.
    first: u64,
}

/// A run of records.
#[derive(Debug)]
pub(crate) struct Run {
    /// Number of the first record of the run, or of the next record when it is empty.
    pub(crate) first: u64,
    pub(crate) records: Vec<Stored>,
    /// Decoded size of the run.
    pub(crate) bytes: usize,
    /// Arrival of the first record behind the run.
    pub(crate) rest_from_us: Option<i64>,
}

impl Run {
    /// Number of the record behind the run.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { records: VecDeque::new(), first: 1 }
    }

    /// Number that the next record gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Appends; answers the number of the record.
    pub(crate) fn push(&mut self, partition_key: Bytes, data: Bytes, now_us: i64) -> u64 {
        let number = self.next();
        let last = self.records.back().map_or(i64::MIN, |record| record.arrival_us);
        // The service reports whole milliseconds.
        let arrival_us = (now_us - now_us.rem_euclid(1_000)).max(last);
        self.records.push_back(Stored { partition_key, data, arrival_us });
        number
    }

    /// Drops what arrived before `oldest_us`.
    pub(crate) fn trim(&mut self, oldest_us: i64) {
        while self.records.front().is_some_and(|record| record.arrival_us < oldest_us) {
            self.records.pop_front();
            self.first += 1;
        }
    }

    /// Records from number `from` on, or from the oldest one if that is trimmed: at most `records_max`, and at
    /// most `bytes_max` of decoded data, but at least one.
    pub(crate) fn read(&self, from: u64, records_max: usize, bytes_max: usize) -> Run {
        let first = from.clamp(self.first, self.next());
        let start = self.offset(first);
        let mut bytes = 0;
        let records: Vec<Stored> = self
            .records
            .range(start..)
            .take(records_max)
            .take_while(|record| {
                let fits = bytes == 0 || bytes + record.size() <= bytes_max;
                bytes += if fits { record.size() } else { 0 };
                fits
            })
            .cloned()
            .collect();
        let rest_from_us = self.records.get(start + records.len()).map(|record| record.arrival_us);
        Run { first, records, bytes, rest_from_us }
    }

    /// Number of the first record that arrived at or after `us`, or of the next record.
    pub(crate) fn at_time(&self, us: i64) -> u64 {
        self.first + self.records.partition_point(|record| record.arrival_us < us) as u64
    }

    /// Index of a number that is not below `first`.
    fn offset(&self, number: u64) -> usize {
        usize::try_from(number - self.first).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(arrivals_ms: &[i64], data: &'static str) -> Log {
        let mut log = Log::new();
        for ms in arrivals_ms {
            log.push(Bytes::from_static(b"k"), Bytes::from_static(data.as_bytes()), ms * 1_000);
        }
        log
    }

    #[test]
    fn arrivals_never_step_back_and_are_whole_milliseconds() {
        let mut log = log(&[5, 3], "");
        log.push(Bytes::new(), Bytes::new(), 6_999);
        let arrivals: Vec<i64> =
            log.read(1, 10, 100).records.iter().map(|record| record.arrival_us).collect();
        assert_eq!(arrivals, [5_000, 5_000, 6_000]);
    }

    #[test]
    fn a_page_holds_at_least_one_record_and_respects_both_caps() {
        let log = log(&[1, 2, 3, 4], "AAAA"); // 3 bytes and a key of 1
        assert_eq!(log.read(1, 10, 8).records.len(), 2);
        assert_eq!(log.read(1, 10, 1).records.len(), 1);
        assert_eq!(log.read(1, 3, 1_000).records.len(), 3);
        let run = log.read(2, 1, 1_000);
        assert_eq!((run.first, run.next(), run.bytes, run.rest_from_us), (2, 3, 4, Some(3_000)));
    }

    #[test]
    fn trimmed_records_are_skipped_and_numbers_stay() {
        let mut log = log(&[1, 2, 3], "");
        log.trim(3_000);
        assert_eq!((log.first, log.next()), (3, 4));
        assert_eq!(log.read(1, 10, 10).first, 3);
        log.trim(i64::MAX);
        assert_eq!((log.next(), log.read(1, 10, 10).first), (4, 4));
    }

    proptest! {
        #[test]
        fn pages_give_every_record_once(caps in proptest::collection::vec((1_usize..5, 0_usize..20), 1..8)) {
            let log = log(&[1; 50], "AAAA");
            let (mut from, mut seen, mut i) = (1, 0, 0);
            while from < log.next() {
                let (records, bytes) = caps[i % caps.len()];
                let run = log.read(from, records, bytes);
                prop_assert!(!run.records.is_empty());
                (from, seen, i) = (run.next(), seen + run.records.len(), i + 1);
            }
            prop_assert_eq!(seen, 50);
        }

        #[test]
        fn time_lookup_is_the_first_record_not_before(mut ms in proptest::collection::vec(0_i64..50, 0..30), at in 0_i64..60) {
            ms.sort_unstable();
            let expected = ms.iter().take_while(|t| **t < at).count() as u64 + 1;
            prop_assert_eq!(log(&ms, "").at_time(at * 1_000), expected);
        }

        #[test]
        fn decoded_length_is_exact(data: Vec<u8>) {
            let text = base64_simd::STANDARD.encode_to_string(&data);
            prop_assert_eq!(decoded_length(text.as_bytes()), data.len());
        }
    }
}
