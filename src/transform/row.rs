//! Pieces of a row: digits, decimals, and the envelope columns that all change rows share.

use super::{RecordContext, SourceKind, Utc};
use crate::decode::json::push_string_bytes;
use crate::decode::{DeleteReason, Event, EventName, POWERS};

/// Columns written by [`push_envelope`], and `ingestion_time`.
pub(super) const ENVELOPE: [&str; 12] = [
    "event_id",
    "event_name",
    "event_timestamp",
    "cdc_ts_us",
    "ordering_key",
    "source",
    "table_name",
    "shard_id",
    "sequence_number",
    "is_deleted",
    "delete_reason",
    "ingestion_time",
];

/// Digits of an index inside an aggregate, of which there are fewer than 2^32.
const SUB_DIGITS: usize = 10;

/// Decimal digits of 0 to 99, two each.
pub(super) const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [*b"00"; 100];
    let mut i = 0u8;
    while i < 100 {
        pairs[i as usize] = [b'0' + i / 10, b'0' + i % 10];
        i += 1;
    }
    pairs
};

/// Eight decimal digits of a number below 10^8 as eight bytes from 0 to 9, the first lowest.
#[inline]
fn eight_digits(value: u64) -> u64 {
    // Numbers of 32, 16 and 8 bits, side by side: each step divides all of them.
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - tens * 10) << 8)
}

/// As [`eight_digits`], sixteen of a number below 10^16.
#[inline]
fn sixteen_digits(value: u64) -> u128 {
    const HALF: u64 = POWERS[8];
    u128::from(eight_digits(value / HALF)) | u128::from(eight_digits(value % HALF)) << 64
}

const ASCII_ZEROS: u128 = u128::from_le_bytes([b'0'; 16]);

/// Appends the lowest `length` bytes.
#[inline]
fn push_low(out: &mut Vec<u8>, bytes: u128, length: usize) {
    let end = out.len() + length;
    out.extend_from_slice(&bytes.to_le_bytes());
    out.truncate(end);
}

/// Decimal digits of `value`, filled up with zeros to `width`, 1 to 20.
pub(super) fn push_digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    if value < POWERS[16] {
        let digits = sixteen_digits(value);
        let length = (16 - digits.trailing_zeros() as usize / 8).max(width);
        out.resize(out.len() + length.saturating_sub(16), b'0');
        let length = length.min(16);
        return push_low(out, (digits | ASCII_ZEROS) >> (8 * (16 - length)), length);
    }
    let mut buffer = [b'0'; 20];
    let mut end = buffer.len();
    while value > 0 {
        buffer[end - 2..end].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
        end -= 2;
    }
    // The last pair may have brought a zero in front.
    let start = if buffer.get(end) == Some(&b'0') { end + 1 } else { end };
    out.extend_from_slice(&buffer[start.min(buffer.len() - width)..]);
}

/// `value` / 10^`scale` without trailing zeros.
pub(super) fn push_decimal(out: &mut Vec<u8>, value: i128, scale: u32) {
    if value < 0 {
        out.push(b'-');
    }
    let size = value.unsigned_abs();
    if let Ok(size) = u64::try_from(size)
        && size < POWERS[15]
        && scale < 15
    {
        return push_short(out, size, scale as usize);
    }
    // 128-bit division is slow and rarely needed.
    match (u64::try_from(size), POWERS.get(scale as usize)) {
        (Ok(size), Some(unit)) => push_parts(out, size / unit, size % unit, scale),
        _ => {
            let digits = format!("{size:0width$}", width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            let fraction = fraction.trim_end_matches('0');
            out.extend_from_slice(whole.as_bytes());
            if !fraction.is_empty() {
                out.push(b'.');
                out.extend_from_slice(fraction.as_bytes());
            }
        }
    }
}

/// As [`push_decimal`], of at most fifteen digits: no branch depends on how many there are.
#[inline]
fn push_short(out: &mut Vec<u8>, size: u64, scale: usize) {
    let digits = sixteen_digits(size);
    let front = (digits.trailing_zeros() as usize / 8).min(15 - scale);
    let decimals = scale.saturating_sub(digits.leading_zeros() as usize / 8);
    let whole = 16 - scale - front;
    let text = (digits | ASCII_ZEROS) >> (8 * front);
    if decimals == 0 {
        return push_low(out, text, whole);
    }
    let behind = u128::MAX << (8 * whole);
    let with_point = text & !behind | u128::from(b'.') << (8 * whole) | (text & behind) << 8;
    push_low(out, with_point, whole + 1 + decimals);
}

fn push_parts(out: &mut Vec<u8>, whole: u64, mut fraction: u64, scale: u32) {
    push_digits(out, whole, 1);
    if fraction > 0 {
        let mut digits = scale as usize;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            digits -= 1;
        }
        out.push(b'.');
        push_digits(out, fraction, digits);
    }
}

pub(super) fn push_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn push_text(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => push_string_bytes(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Digits of a sequence number, filled up with zeros to `width`.
fn push_padded(out: &mut Vec<u8>, digits: &[u8], width: usize) {
    out.resize(out.len() + width.saturating_sub(digits.len()), b'0');
    out.extend_from_slice(digits);
}

/// `{` and the columns from `event_id` to `delete_reason`.
pub(super) fn push_envelope(row: &mut Vec<u8>, context: &RecordContext<'_>, event: &Event<'_>) {
    let created = event.created_us.unsigned_abs();
    row.extend_from_slice(b"{\"event_id\":");
    push_text(row, event.id.as_deref());
    row.extend_from_slice(b",\"event_name\":\"");
    row.extend_from_slice(event.name.as_str().as_bytes());
    row.extend_from_slice(b"\",\"event_timestamp\":\"");
    Utc::from_us(event.created_us).push_iso(row);
    row.extend_from_slice(b"\",\"cdc_ts_us\":");
    push_digits(row, created, 1);
    row.extend_from_slice(b",\"ordering_key\":");
    push_ordering_key(row, context, created, event.sequence_number.as_deref());
    row.extend_from_slice(b",\"source\":\"");
    row.extend_from_slice(context.source.as_str().as_bytes());
    row.extend_from_slice(b"\",\"table_name\":");
    push_text(row, event.table_name.as_deref());
    row.push(b',');
    context.push_place(row);
    row.extend_from_slice(b",\"is_deleted\":");
    push_bool(row, event.name == EventName::Remove);
    row.extend_from_slice(b",\"delete_reason\":");
    row.extend_from_slice(match event.delete_reason {
        None => b"null",
        Some(DeleteReason::User) => b"\"user\"",
        Some(DeleteReason::Ttl) => b"\"ttl\"",
    });
}

/// A text that sorts as the changes of one item follow each other, and that nobody takes for a number: time and sequence
/// number, or for DynamoDB Streams, whose times have steps of a second, the sequence number alone (`inner` where the
/// record itself has one). Those of one aggregate follow each other by their index.
pub(super) fn push_ordering_key(
    row: &mut Vec<u8>,
    context: &RecordContext<'_>,
    time_us: u64,
    inner: Option<&[u8]>,
) {
    row.push(b'"');
    match context.source {
        SourceKind::Kinesis | SourceKind::Kafka => {
            push_digits(row, time_us, 20);
            row.push(b'-');
            push_padded(row, context.sequence_number.as_bytes(), 60);
        }
        SourceKind::DynamoDbStreams => {
            let digits = inner.filter(|text| text.iter().all(u8::is_ascii_digit));
            row.extend_from_slice(b"seq-");
            push_padded(row, digits.unwrap_or(context.sequence_number.as_bytes()), 40);
        }
    }
    if let Some(sub) = context.sub_sequence {
        row.push(b'-');
        push_digits(row, sub, SUB_DIGITS);
    }
    row.push(b'"');
}

/// `,"ingestion_time":` and the arrival time.
pub(super) fn push_ingestion_time(row: &mut Vec<u8>, context: &RecordContext<'_>) {
    row.extend_from_slice(b",\"ingestion_time\":\"");
    Utc::from_us(context.arrival_us).push_iso(row);
    row.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digits_are_those_of_the_formatter(value: u64, shift in 0u32..64, width in 0usize..=20) {
            let (value, mut out) = (value >> shift, Vec::new());
            push_digits(&mut out, value, width.max(1));
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{value:0width$}"));
        }

        #[test]
        fn decimals_are_those_of_a_decimal_library(value in -(1i128 << 95)..1i128 << 95, shift in 0u32..96, scale in 0u32..=28) {
            let (value, mut out) = (value >> shift, Vec::new());
            push_decimal(&mut out, value, scale);
            let expected = rust_decimal::Decimal::from_i128_with_scale(value, scale).normalize();
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected.to_string());
        }
    }
}
