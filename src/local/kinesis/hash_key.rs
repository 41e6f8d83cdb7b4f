//! Hash keys: from a partition key to a number of 128 bits, and ranges of such numbers.

use md5::{Digest, Md5};

use crate::shard::HashKeyRange;

/// MD5 of the partition key as an unsigned number
/// ([PutRecord](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html)).
pub(crate) fn of_partition_key(key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(key.as_bytes()).into())
}

/// A hash key as the API spells it: decimal, no sign, no leading zeros; `None` otherwise.
pub(crate) fn parse(text: &str) -> Option<u128> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    canonical.then(|| text.parse().ok()).flatten()
}

/// Cuts the whole key space in `count` ranges of nearly equal width, in order. `count` is at least 1.
pub(crate) fn even_ranges(count: u32) -> Vec<HashKeyRange> {
    let count = u128::from(count.max(1));
    if count == 1 {
        return vec![HashKeyRange { start: 0, end: u128::MAX }];
    }
    // 2^128 / count rounded down, computed without 2^128.
    let width = u128::MAX / count + u128::from(u128::MAX % count == count - 1);
    (0..count)
        .map(|i| HashKeyRange {
            start: i * width,
            end: if i + 1 == count { u128::MAX } else { (i + 1) * width - 1 },
        })
        .collect()
}

/// The key at which a range splits in two halves; `None` when it holds only one key.
pub(crate) fn middle(range: HashKeyRange) -> Option<u128> {
    (range.start < range.end).then(|| range.start + (range.end - range.start) / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_md5_read_as_an_unsigned_number() {
        // RFC 1321: MD5("abc") = 900150983cd24fb0d6963f7d28e17f72; the top bit is set.
        assert_eq!(of_partition_key("abc"), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
    }

    /// The boundaries that the service gives a stream of two and of three shards.
    #[test]
    fn ranges_are_those_of_the_service() {
        assert_eq!(even_ranges(2)[1].start, 170_141_183_460_469_231_731_687_303_715_884_105_728);
        assert_eq!(even_ranges(3)[1].start, 113_427_455_640_312_821_154_458_202_477_256_070_485);
    }

    #[test]
    fn only_canonical_decimals_are_hash_keys() {
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse("340282366920938463463374607431768211455"), Some(u128::MAX));
        for text in ["", "+1", "-1", "01", "1 ", "340282366920938463463374607431768211456"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn even_ranges_cover_every_key_once(count in 1_u32..3_000) {
            let ranges = even_ranges(count);
            prop_assert_eq!(ranges.len(), count as usize);
            prop_assert_eq!(ranges[0].start, 0);
            prop_assert_eq!(ranges[ranges.len() - 1].end, u128::MAX);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end + 1 == pair[1].start));
        }
    }
}
