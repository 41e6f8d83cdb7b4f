//! `dynamodb-cdc`: changes of any DynamoDB table, the image flattened behind the envelope.

use super::Scratch;
use super::columns::ColumnRules;
use crate::decode::decode_event;
use crate::transform::row::{push_envelope, push_ingestion_time};
use crate::transform::{BadRecord, RecordContext};

pub(super) const NAME: &str = "dynamodb-cdc";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 2;

/// Appends the row of a record; answers its time.
pub(super) fn apply(
    rules: &ColumnRules,
    context: &RecordContext<'_>,
    data: &[u8],
    scratch: &mut Scratch,
    row: &mut Vec<u8>,
) -> Result<i64, BadRecord> {
    let Scratch { image, columns } = scratch;
    let (event, members) = decode_event(data, image)?;
    columns.assign(rules, context, members)?;
    push_envelope(row, context, &event);
    push_ingestion_time(row, context);
    columns.push(rules, members, row);
    row.extend_from_slice(b"}\n");
    Ok(event.created_us)
}
