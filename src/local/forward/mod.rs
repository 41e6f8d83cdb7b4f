//! The forwarder: every change of a table becomes one record of a stream, in order.
//!
//! Owns: reading the table's stream page by page, and the position up to which changes are in Kinesis.
//! Does not own: what a record looks like (`change`).

mod change;

use std::time::Duration;

use dynoxide::actions::describe_stream::DescribeStreamRequest;
use dynoxide::actions::describe_table::DescribeTableRequest;
use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::get_shard_iterator::GetShardIteratorRequest;
use dynoxide::actions::update_table::UpdateTableRequest;
use dynoxide::{Database, DynoxideError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) use self::change::{position, sequence_number};
use super::dynamodb::both_images;
use super::kinesis::Kinesis;

/// Pause after a page without changes.
const IDLE: Duration = Duration::from_millis(10);

/// Pause while the table or the stream is missing.
const MISSING: Duration = Duration::from_millis(100);

/// Where the records go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) kinesis: Kinesis,
    pub(super) stream: String,
    pub(super) region: String,
}

/// How far a forwarder is.
#[derive(Clone, Copy, Debug, Default)]
struct Forwarded {
    /// Records put.
    records: u64,
    /// Position of the last change that is dealt with.
    position: u64,
}

/// Handle to a running forwarder. Clones speak of the same one.
#[derive(Clone)]
pub struct Forwarder {
    database: Database,
    table: String,
    progress: watch::Receiver<Forwarded>,
}

impl Forwarder {
    /// Records put in the stream so far.
    pub fn records(&self) -> u64 {
        self.progress.borrow().records
    }

    /// Returns when every change that was made before this call is in the stream, or the forwarder has ended.
    pub async fn drained(&self) {
        let (database, table) = (self.database.clone(), self.table.clone());
        let last = tokio::task::spawn_blocking(move || last_position(&database, &table)).await;
        let last = last.ok().flatten().unwrap_or(0);
        // An error means that the forwarder has ended.
        self.progress.clone().wait_for(|progress| progress.position >= last).await.ok();
    }
}

/// A forwarder and the task that does its work until `stop`.
pub(super) fn forwarder(
    database: Database,
    table: &str,
    target: Target,
    stop: CancellationToken,
) -> (Forwarder, impl Future<Output = ()> + Send + use<>) {
    let (sender, progress) = watch::channel(Forwarded::default());
    let forwarder = Forwarder { database: database.clone(), table: table.to_owned(), progress };
    let reader = Reader { database, table: table.to_owned(), target, iterator: None, progress: sender };
    (forwarder, run(reader, stop))
}

async fn run(mut reader: Reader, stop: CancellationToken) {
    // Said once, not ten times a second.
    let mut said = String::new();
    while !stop.is_cancelled() {
        // A page is read and put in one piece: an end of this task never leaves half of one behind.
        let (read, step) = match tokio::task::spawn_blocking(move || reader.step()).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the forwarder ended");
                return;
            }
        };
        reader = read;
        let pause = match step {
            Ok(0) => IDLE,
            Ok(_) => continue,
            Err(reason) => {
                if reason != said {
                    let (table, stream) = (&reader.table, &reader.target.stream);
                    tracing::info!(table, stream, reason, "forwarding is waiting");
                    said = reason;
                }
                MISSING
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Reader {
    database: Database,
    table: String,
    target: Target,
    iterator: Option<String>,
    progress: watch::Sender<Forwarded>,
}

impl Reader {
    /// Carries one page; answers how many changes it had, or why there is none.
    fn step(mut self) -> (Self, Result<usize, String>) {
        let result = self.carry_page();
        if result.is_err() {
            // The table may come back as another one.
            self.iterator = None;
        }
        (self, result)
    }

    fn carry_page(&mut self) -> Result<usize, String> {
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => first_iterator(&self.database, &self.table)?,
        };
        let request = GetRecordsRequest { shard_iterator: iterator, limit: None };
        let page = self.database.get_records(request).map_err(text)?;
        let mut done = *self.progress.borrow();
        let result = self.put(&page.records, &mut done);
        if done.position > self.progress.borrow().position {
            self.progress.send_replace(done);
        }
        result?;
        self.iterator = page.next_shard_iterator;
        Ok(page.records.len())
    }

    /// Puts what is not in the stream yet and keeps `done` true after every record, also when it stops early.
    fn put(
        &self,
        records: &[dynoxide::actions::get_records::Record],
        done: &mut Forwarded,
    ) -> Result<(), String> {
        for record in records {
            let position = change::position(&record.dynamodb.sequence_number).unwrap_or(0);
            if position <= done.position {
                continue;
            }
            let Target { kinesis, stream, region } = &self.target;
            if let Some(outgoing) = change::outgoing(record, region, &self.table)? {
                kinesis
                    .put(stream, &outgoing.partition_key, &outgoing.data)
                    .map_err(|error| error.to_string())?;
                done.records += 1;
            }
            done.position = position;
        }
        Ok(())
    }
}

/// The oldest place of the table's stream, which is turned on where it is off.
fn first_iterator(database: &Database, table: &str) -> Result<String, String> {
    let described = describe(database, table)?;
    let stream_arn = match described {
        Some(arn) => arn,
        None => {
            database
                .update_table(UpdateTableRequest {
                    table_name: table.to_owned(),
                    stream_specification: Some(both_images()),
                    ..UpdateTableRequest::default()
                })
                .map_err(text)?;
            describe(database, table)?.ok_or("the table has no stream")?
        }
    };
    let request = GetShardIteratorRequest {
        stream_arn,
        shard_id: dynoxide::streams::shard_id(table),
        shard_iterator_type: "TRIM_HORIZON".to_owned(),
        sequence_number: None,
    };
    database
        .get_shard_iterator(request)
        .map_err(text)?
        .shard_iterator
        .ok_or_else(|| "the stream has ended".to_owned())
}

fn describe(database: &Database, table: &str) -> Result<Option<String>, String> {
    let request = DescribeTableRequest { table_name: table.to_owned() };
    Ok(database.describe_table(request).map_err(text)?.table.latest_stream_arn)
}

/// Position of the newest change of a table, if there is one.
pub(super) fn last_position(database: &Database, table: &str) -> Option<u64> {
    let stream_arn = describe(database, table).ok()??;
    let request = DescribeStreamRequest { stream_arn, ..DescribeStreamRequest::default() };
    let mut shards = database.describe_stream(request).ok()?.stream_description.shards;
    change::position(&shards.pop()?.sequence_number_range.ending_sequence_number?)
}

/// The kind of error only: a message may quote keys.
fn text(error: DynoxideError) -> String {
    match error {
        DynoxideError::ResourceNotFoundException(_) => "the table does not exist".to_owned(),
        DynoxideError::ResourceInUseException(_) => "the table is being changed".to_owned(),
        _ => "the database refused to read the table's changes".to_owned(),
    }
}

#[cfg(test)]
mod tests;
