//! The embedded DynamoDB Streams: the changes that dynoxide keeps of a table, in shards that can rotate and split.
//!
//! dynoxide has streams of its own, of one shard for ever. This is a view of them: a shard is a stretch of positions and a
//! range of hashes of keys. So rotation, a stream that is turned off and on again, and retention can be played.
//!
//! Owns: streams, their shards, and which changes lie in them.
//! Does not own: the changes (dynoxide), the HTTP API (`api`).

mod api;
mod shards;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dynoxide::actions::describe_table::DescribeTableRequest;
use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::get_shard_iterator::encode_shard_iterator;
use dynoxide::{Database, DynoxideError};
use serde_json::{Value, json};

use self::shards::{Shard, Stream};
use super::forward::{last_position, position};
use crate::clock::wall_clock_us;
use crate::generate::envelope::partition_key;

pub(super) use api::serve;

/// As the service: after that an iterator is refused.
const ITERATOR_TTL: Duration = Duration::from_secs(15 * 60);
/// Changes of dynoxide that are looked at in one go.
const LOOK: usize = 1000;
/// Bytes of an answer's records at most.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// The streams of all tables. Clones speak of the same ones.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    database: Database,
    region: String,
    /// Open shards of a stream at its start.
    shards: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The streams of each table, the oldest first.
    tables: BTreeMap<String, Vec<Stream>>,
    iterator_ttl: Option<Duration>,
}

/// What a call came to that was not carried out: code and words.
type Refused = (&'static str, String);

/// One change, as an answer has it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its place among all changes of the table.
    pub position: u64,
    /// Decimal digits.
    pub sequence_number: String,
    /// When it was made, seconds since the epoch.
    pub created_s: i64,
    /// The record as JSON, the same each time.
    pub json: String,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streams")
    }
}

impl Streams {
    /// Of the tables of `database`. A stream begins with so many open shards.
    pub(super) fn new(database: Database, region: &str, shards: u32) -> Self {
        Self(Arc::new(Inner {
            database,
            region: region.to_owned(),
            shards: shards.max(1),
            state: Mutex::default(),
        }))
    }

    /// The ARN of a table's newest stream; `None` where it has none.
    pub fn arn(&self, table: &str) -> Option<String> {
        let state = self.refreshed(table);
        state.tables.get(table)?.last().map(|stream| stream.arn.clone())
    }

    /// Closes every open shard of a table's stream, each with one child: parents with their children.
    pub fn rotate(&self, table: &str) -> Vec<(String, String)> {
        self.reshape(table, Stream::rotate)
    }

    /// Closes the first open shard of a table's stream, and splits its keys: the parent with each child.
    pub fn split(&self, table: &str) -> Vec<(String, String)> {
        self.reshape(table, Stream::split)
    }

    fn reshape(
        &self,
        table: &str,
        change: impl FnOnce(&mut Stream, u64) -> Vec<(String, String)>,
    ) -> Vec<(String, String)> {
        let mut state = self.refreshed(table);
        let last = last_position(&self.0.database, table).unwrap_or(0);
        let newest = state.tables.get_mut(table).and_then(|streams| streams.last_mut());
        newest.filter(|stream| stream.on).map_or_else(Vec::new, |stream| change(stream, last))
    }

    /// Forgets changes that were made before a time, µs since the epoch, as retention does.
    pub fn forget_before(&self, table: &str, oldest_us: i64) {
        let mut state = self.refreshed(table);
        let up_to = u64::try_from(oldest_us - 1).unwrap_or(0);
        for stream in state.tables.get_mut(table).into_iter().flatten() {
            stream.trimmed = stream.trimmed.max(up_to);
        }
    }

    /// From now on iterators live for so long.
    pub fn expire_iterators_after(&self, life: Duration) {
        self.state().iterator_ttl = Some(life);
    }

    /// Shards of all streams of a table, the oldest first, each with its changes that are still there and come after the
    /// position that `after` says.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn visit(
        &self,
        table: &str,
        after: impl Fn(&str) -> u64,
        mut each: impl FnMut(&str, &Change),
    ) -> Result<(), DynoxideError> {
        let streams = self.refreshed(table).tables.get(table).cloned().unwrap_or_default();
        for stream in &streams {
            for shard in &stream.shards {
                let mut at = shard.after.max(stream.trimmed).max(after(&shard.id));
                loop {
                    let (changes, next) = self.read(table, stream, shard, at, LOOK)?;
                    changes.iter().for_each(|change| each(&shard.id, change));
                    if next == at {
                        break;
                    }
                    at = next;
                }
            }
        }
        Ok(())
    }

    /// Changes of a shard after a position, and the position of the last one that was looked at.
    fn read(
        &self,
        table: &str,
        stream: &Stream,
        shard: &Shard,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Change>, u64), DynoxideError> {
        let from = i64::try_from(after).unwrap_or(i64::MAX);
        let iterator = encode_shard_iterator(table, &dynoxide::streams::shard_id(table), from);
        let request = GetRecordsRequest { shard_iterator: iterator, limit: Some(LOOK) };
        let page = self.0.database.get_records(request)?;
        // It may have been closed since `stream` was looked at: what came after that is in its children.
        let to = self.end_of(table, &shard.id);
        let (mut changes, mut at, mut bytes) = (Vec::new(), after, 0);
        for record in &page.records {
            let Some(here) = position(&record.dynamodb.sequence_number) else { continue };
            if to.is_some_and(|to| here > to) {
                break;
            }
            let change = &record.dynamodb;
            // A write that changes nothing is in no stream.
            let nothing = change.new_image.is_some() && change.new_image == change.old_image;
            let keys = serde_json::to_value(&change.keys).unwrap_or_default();
            if !nothing && shard.holds(hash_of(&keys)) {
                let change = self.change(record, keys, &stream.view);
                bytes += change.json.len();
                if changes.len() == limit || (bytes > PAGE_BYTES_MAX && !changes.is_empty()) {
                    break;
                }
                changes.push(change);
            }
            at = here;
        }
        Ok((changes, at))
    }

    fn end_of(&self, table: &str, id: &str) -> Option<u64> {
        let state = self.state();
        let mut shards = state.tables.get(table).into_iter().flatten().flat_map(|stream| &stream.shards);
        shards.find(|shard| shard.id == id)?.to
    }

    /// The record as the service writes it; attributes in the order of their names.
    fn change(&self, record: &dynoxide::actions::get_records::Record, keys: Value, view: &str) -> Change {
        let change = &record.dynamodb;
        let created_us = position(&change.sequence_number).unwrap_or(0);
        let created_s = i64::try_from(created_us / 1_000_000).unwrap_or(0);
        let mut dynamodb = json!({
            "ApproximateCreationDateTime": created_s,
            "Keys": keys,
            "SequenceNumber": change.sequence_number,
            "SizeBytes": change.size_bytes,
            "StreamViewType": view,
        });
        // Through dynoxide's own writer, which has members of sets in the order of the service.
        let written = serde_json::to_value(change).unwrap_or_default();
        for image in ["NewImage", "OldImage"] {
            if let Some(image_there) = written.get(image).filter(|image| !image.is_null()) {
                dynamodb[image] = image_there.clone();
            }
        }
        let mut whole = json!({
            "eventID": record.event_id.replace('-', ""),
            "eventName": record.event_name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": self.0.region,
            "dynamodb": dynamodb,
        });
        if let Some(who) = &record.user_identity {
            whole["userIdentity"] = json!({ "PrincipalId": who.principal_id, "Type": who.identity_type });
        }
        let position = created_us;
        Change {
            position,
            sequence_number: change.sequence_number.clone(),
            created_s,
            json: whole.to_string(),
        }
    }

    /// The state, with what dynoxide says of a table now.
    fn refreshed(&self, table: &str) -> MutexGuard<'_, State> {
        let described = self.0.database.describe_table(DescribeTableRequest { table_name: table.to_owned() });
        let last = last_position(&self.0.database, table);
        let mut state = self.state();
        let streams = state.tables.entry(table.to_owned()).or_default();
        let now = described.ok().and_then(|answer| {
            let view = answer.table.stream_specification?.stream_view_type?;
            Some((answer.table.latest_stream_label?, view))
        });
        match (streams.last_mut(), now) {
            (Some(newest), Some((label, _))) if newest.label == label && newest.on => {}
            (newest, Some((label, view))) => {
                // dynoxide numbers changes by the time, and a label is one.
                let begins_us = label_us(&label);
                if let Some(before) = newest {
                    before.end(begins_us);
                }
                streams.push(Stream::new(table, &self.0.region, label, view, begins_us, self.0.shards));
            }
            (Some(newest), None) if newest.on => {
                newest.end(last.unwrap_or_else(|| u64::try_from(wall_clock_us()).unwrap_or(0)));
            }
            (_, None) => {}
        }
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no code panics while it holds this lock")
    }
}

/// Where the key of an item lies among the shards.
fn hash_of(keys: &Value) -> u32 {
    let hex = partition_key(keys.to_string().as_bytes());
    u32::from_str_radix(hex.get(..8).unwrap_or_default(), 16).unwrap_or(0)
}

/// The position before everything in a stream: dynoxide's labels are seconds and nanoseconds.
fn label_us(label: &str) -> u64 {
    let (seconds, nanos) = label.split_once('.').unwrap_or((label, "0"));
    let part = |text: &str| text.parse::<u64>().unwrap_or(0);
    (part(seconds) * 1_000_000 + part(nanos) / 1000).saturating_sub(2)
}

#[cfg(test)]
mod tests;
