//! The row of a record that could not become a row.

use super::row::push_digits;
use super::{BadRecord, RecordContext};
use crate::decode::json::push_string;

/// Appends the dead letter row of one record: members of Firehose's own failure record (Firehose developer guide,
/// "Data transformation failure handling"), then the record's place. Times are ms since the epoch and both the
/// arrival time, so that a replay gives the same bytes. `raw` is the payload as far as it could be decoded.
///
/// Two members are there only where they say more than the others: `subSequenceNumber` inside an aggregate, and
/// `arrivalTimestampMicros`, µs, where the arrival time is finer than milliseconds (that of Kinesis is not). A row made
/// from the dead letter needs both.
pub fn dead_letter_row(context: &RecordContext<'_>, bad: &BadRecord, raw: &[u8], row: &mut Vec<u8>) {
    let arrival_ms = context.arrival_us.max(0).unsigned_abs() / 1000;
    row.extend_from_slice(b"{\"attemptsMade\":1,\"arrivalTimestamp\":");
    push_digits(row, arrival_ms, 1);
    row.extend_from_slice(b",\"errorCode\":");
    push_string(row, bad.code.as_str());
    row.extend_from_slice(b",\"errorMessage\":");
    push_string(row, &bad.message);
    row.extend_from_slice(b",\"attemptEndingTimestamp\":");
    push_digits(row, arrival_ms, 1);
    row.extend_from_slice(b",\"rawData\":\"");
    row.extend_from_slice(base64_simd::STANDARD.encode_to_string(raw).as_bytes());
    row.extend_from_slice(b"\",\"source\":");
    push_string(row, context.source.as_str());
    row.extend_from_slice(b",\"shardId\":");
    push_string(row, context.shard_id);
    row.extend_from_slice(b",\"sequenceNumber\":");
    push_string(row, context.sequence_number);
    if let Some(sub) = context.sub_sequence {
        row.extend_from_slice(b",\"subSequenceNumber\":");
        push_digits(row, sub, 1);
    }
    let arrival_us = context.arrival_us.max(0).unsigned_abs();
    if !arrival_us.is_multiple_of(1000) {
        row.extend_from_slice(b",\"arrivalTimestampMicros\":");
        push_digits(row, arrival_us, 1);
    }
    row.extend_from_slice(b"}\n");
}
