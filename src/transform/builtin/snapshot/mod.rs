//! `market-snapshot`: a reply of a market data provider, one row for each coin in it.

mod entry;
mod reply;
#[cfg(test)]
mod tests;

use super::schema::{Column, ColumnType};
use crate::decode::document_text;
use crate::transform::row::{push_ingestion_time, push_ordering_key};
use crate::transform::{BadRecord, RecordContext, RowInfo};
use entry::{Entry, Holds, Ids, UNUSABLE, fields};
use reply::{Reply, read_record};

pub use reply::Provider;

pub(super) const NAME: &str = "market-snapshot";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 1;

/// Its columns in front of those of an entry.
const OWN: [&str; 4] = ["ordering_key", "shard_id", "sequence_number", "ingestion_time"];

/// Appends the rows of a record.
pub(super) fn apply(
    context: &RecordContext<'_>,
    data: &[u8],
    rows: &mut Vec<u8>,
) -> Result<RowInfo, BadRecord> {
    read_record(data, |reply| {
        push_rows(&reply, context.arrival_us, rows, |us, rows| {
            rows.extend_from_slice(b"\"ordering_key\":");
            push_ordering_key(rows, context, us.max(0).unsigned_abs(), None);
            rows.push(b',');
            context.push_place(rows);
            push_ingestion_time(rows, context);
            rows.push(b',');
        })
    })
}

/// Appends the rows of the body of a response, without the columns that name a record of a stream. `fetched_us` is when it
/// was fetched, µs since the epoch; a time that the body says itself comes first.
///
/// # Errors
/// When the body is no reply of this provider with at least one entry.
pub fn snapshot_rows(
    provider: Provider,
    fetched_us: i64,
    body: &[u8],
    rows: &mut Vec<u8>,
) -> Result<RowInfo, BadRecord> {
    let reply = Reply::read(document_text(body)?, Some(provider))?;
    Ok(push_rows(&reply, fetched_us, rows, |_, _| ()))
}

/// The time that the body of a response says itself, µs since the epoch, and its number of entries.
///
/// # Errors
/// When the body is no reply of this provider with at least one entry.
pub fn look_at_reply(provider: Provider, body: &[u8]) -> Result<(Option<i64>, usize), BadRecord> {
    let reply = Reply::read(document_text(body)?, Some(provider))?;
    Ok((reply.fetched_us, reply.entries.len()))
}

/// Appends a row for each entry, `begin` its first columns. The partition is that of the first.
fn push_rows(
    reply: &Reply<'_>,
    arrival_us: i64,
    rows: &mut Vec<u8>,
    begin: impl Fn(i64, &mut Vec<u8>),
) -> RowInfo {
    let fetched_us = reply.fetched_us.unwrap_or(arrival_us);
    let mut ids = Ids::default();
    let mut info = RowInfo { time_us: fetched_us, rows: 0 };
    for entry in &reply.entries {
        let mut entry = Entry::read(reply.provider, entry);
        if ids.is_repeated(&entry) {
            continue;
        }
        let us = entry.time_us(fetched_us);
        if info.rows == 0 {
            info.time_us = us;
        }
        rows.push(b'{');
        begin(us, rows);
        entry.push(us, rows);
        rows.extend_from_slice(b"}\n");
        info.rows += 1;
    }
    info
}

/// The columns of a provider's rows. The date members of CoinGecko's rows repeat the folders and are left out: a table
/// cannot have a column twice.
pub(super) fn columns(provider: Provider) -> Vec<Column> {
    let text = |name| Column { name, kind: ColumnType::Text };
    let mut columns: Vec<Column> = OWN.map(text).into();
    if provider == Provider::CoinCap {
        columns.push(text("event_time"));
    }
    columns.extend(fields(provider).iter().map(|field| match field.holds {
        Holds::Text => text(field.column),
        Holds::Number => Column { name: field.column, kind: ColumnType::Double },
    }));
    if provider == Provider::CoinGecko {
        columns.push(Column { name: "timestamp", kind: ColumnType::BigInt });
    }
    columns.push(text(UNUSABLE));
    columns
}
