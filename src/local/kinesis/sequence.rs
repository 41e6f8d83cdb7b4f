//! Sequence numbers: 56 decimal digits that look like the real ones and sort as text and as numbers.
//!
//! Layout: `4966`, the creation time of the shard in µs (18 digits), the shard's index (10), the number of the
//! record in its shard (24). Record 0 is the start of the shard. A child is created after its parent, so its
//! numbers are greater than all of its parent's.

use std::fmt;

/// Digits of a sequence number.
pub(crate) const DIGITS: usize = 56;

const PREFIX: &[u8; 4] = b"4966";
const CREATED: std::ops::Range<usize> = 4..22;
const SHARD: std::ops::Range<usize> = 22..32;
const RECORD: std::ops::Range<usize> = 32..DIGITS;

/// Place of a record in a stream. The derived order is the order of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence {
    /// When the shard was created, µs since the epoch; unique per reshard of a stream.
    pub(crate) shard_created_us: u64,
    /// Index of the shard in its stream.
    pub(crate) shard: u32,
    /// Number of the record in its shard, from 1; 0 is the shard's start.
    pub(crate) record: u64,
}

impl Sequence {
    /// Reads the digits; `None` when this server cannot have written them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == DIGITS
            && text.as_bytes().starts_with(PREFIX)
            && text.bytes().all(|b| b.is_ascii_digit());
        valid.then_some(())?;
        Some(Self {
            shard_created_us: text[CREATED].parse().ok()?,
            shard: text[SHARD].parse().ok()?,
            record: text[RECORD].parse().ok()?,
        })
    }

    /// The digits, without going through the formatter: this runs once per record read.
    pub(crate) fn digits(self) -> [u8; DIGITS] {
        let mut digits = [b'0'; DIGITS];
        digits[..PREFIX.len()].copy_from_slice(PREFIX);
        write_right_aligned(&mut digits[CREATED], self.shard_created_us);
        write_right_aligned(&mut digits[SHARD], u64::from(self.shard));
        write_right_aligned(&mut digits[RECORD], self.record);
        digits
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).expect("ASCII digits only"))
    }
}

fn write_right_aligned(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        if number == 0 {
            return;
        }
        *digit = b'0' + u8::try_from(number % 10).expect("a remainder by ten is below ten");
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_sequence() -> impl Strategy<Value = Sequence> {
        (0..1_000_000_000_000_000_000_u64, any::<u32>(), any::<u64>())
            .prop_map(|(shard_created_us, shard, record)| Sequence { shard_created_us, shard, record })
    }

    proptest! {
        #[test]
        fn digits_round_trip_and_keep_the_order(a in any_sequence(), b in any_sequence()) {
            let (x, y) = (a.to_string(), b.to_string());
            prop_assert_eq!(x.len(), 56);
            prop_assert!(x.starts_with("4966"));
            prop_assert_eq!(Sequence::parse(&x), Some(a));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }

    #[test]
    fn foreign_numbers_are_refused() {
        for text in ["", "1", "TRIM_HORIZON", &"9".repeat(56), &format!("4966{}x", "0".repeat(51))] {
            assert_eq!(Sequence::parse(text), None, "{text}");
        }
    }
}
