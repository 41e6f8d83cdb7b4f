//! `json`: any JSON object, its members behind the record's place and arrival time.

use super::row::push_ingestion_time;
use super::{BadRecord, RecordContext, RowInfo, Scratch};
use crate::decode::decode_object;
use crate::decode::json::push_string;

pub(super) const NAME: &str = "json";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 1;

const RESERVED: [&str; 3] = ["shard_id", "sequence_number", "ingestion_time"];

pub(super) fn apply(
    context: &RecordContext<'_>,
    data: &[u8],
    scratch: &mut Scratch,
    row: &mut Vec<u8>,
) -> Result<RowInfo, BadRecord> {
    let Scratch { image, columns } = scratch;
    decode_object(data, image)?;
    columns.assign(image, 0..image.len(), &RESERVED)?;
    row.extend_from_slice(b"{\"shard_id\":");
    push_string(row, context.shard_id);
    row.extend_from_slice(b",\"sequence_number\":");
    push_string(row, context.sequence_number);
    push_ingestion_time(row, context);
    columns.push(image, row);
    row.extend_from_slice(b"}\n");
    Ok(RowInfo { cdc_us: context.arrival_us })
}
