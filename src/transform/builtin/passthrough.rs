//! `json`: any JSON object, its members behind the record's place and arrival time.

use super::Scratch;
use super::columns::ColumnRules;
use crate::decode::decode_object;
use crate::transform::row::{push_ingestion_time, push_ordering_key};
use crate::transform::{BadRecord, RecordContext};

pub(super) const NAME: &str = "json";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 2;

/// Its own columns, in row order.
pub(super) const OWN: [&str; 4] = ["ordering_key", "shard_id", "sequence_number", "ingestion_time"];

/// Appends the row of a record; answers its time.
pub(super) fn apply(
    rules: &ColumnRules,
    context: &RecordContext<'_>,
    data: &[u8],
    scratch: &mut Scratch,
    row: &mut Vec<u8>,
) -> Result<i64, BadRecord> {
    let Scratch { image, columns } = scratch;
    let members = decode_object(data, image)?;
    columns.assign(rules, context, members)?;
    row.extend_from_slice(b"{\"ordering_key\":");
    push_ordering_key(row, context, context.arrival_us.max(0).unsigned_abs(), None);
    row.push(b',');
    context.push_place(row);
    push_ingestion_time(row, context);
    columns.push(rules, members, row);
    row.extend_from_slice(b"}\n");
    Ok(context.arrival_us)
}
