//! Where columns begin.

use crate::matches::{Text, word};

const ONES: u64 = u64::MAX / 255;

/// Has the highest bit of the lowest byte that is 0, and maybe of others above it.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Whether a column begins with these bytes.
#[inline]
pub(crate) fn begins(first: u64) -> bool {
    first as u8 == b'\n' || first as u16 == u16::from_le_bytes(*b",\"")
}

/// Where the next column begins, at a `,` before a `"` or at a line end; `end` when there is none before. Text
/// reaches a word behind `end`.
#[inline]
pub(crate) fn next(text: &Text, mut from: usize, end: usize) -> usize {
    while from < end {
        let (here, behind) = (word(text, from), word(text, from + 1));
        let begins = zeros((here ^ (ONES * u64::from(b','))) | (behind ^ (ONES * u64::from(b'"'))))
            | zeros(here ^ (ONES * u64::from(b'\n')));
        if begins != 0 {
            return (from + begins.trailing_zeros() as usize / 8).min(end);
        }
        from += 8;
    }
    end
}
