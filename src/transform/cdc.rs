//! `dynamodb-cdc`: changes of any DynamoDB table, the image flattened behind the envelope.

use super::columns::ColumnRules;
use super::row::{push_envelope, push_ingestion_time};
use super::{BadRecord, RecordContext, RowInfo, Scratch};
use crate::decode::decode_event;

pub(super) const NAME: &str = "dynamodb-cdc";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 2;

pub(super) fn apply(
    rules: &ColumnRules,
    context: &RecordContext<'_>,
    data: &[u8],
    scratch: &mut Scratch,
    row: &mut Vec<u8>,
) -> Result<RowInfo, BadRecord> {
    let Scratch { image, columns } = scratch;
    let event = decode_event(data, image)?;
    columns.assign(rules, context, image)?;
    push_envelope(row, context, &event);
    push_ingestion_time(row, context);
    columns.push(rules, image, row);
    row.extend_from_slice(b"}\n");
    Ok(RowInfo { cdc_us: event.created_us })
}
