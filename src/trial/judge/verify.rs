//! The check of a lake against the stream and the table: every record is in exactly one row or dead letter, every
//! value is what the stream said, and the newest row of each key is what the table holds.
//!
//! Frugal: of each record about 80 bytes are kept, of each key about 100 where there is a table to compare with,
//! whatever their size; objects are read one at a time per processor.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use thiserror::Error;
use tokio::task::JoinSet;

use super::check::{Checked, LakeCheck, Position, StreamCheck};
use super::foreign;
use super::json::hash;
use super::lake::{self, Object, Replays, Zone};
use super::puts::Puts;
use super::record::{self, OrderingKey, Row, Sequence};
use crate::shutdown::joined;

/// Parts of the map of keys, each under its own lock.
const KEY_PARTS: u64 = 64;

/// Why the check could not be made. Defects of the lake are not errors: they are in the result.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// A sequence number must be up to 76 decimal digits.
    #[error("the stream gave a sequence number that is not a number in {shard_id}")]
    SequenceNumber {
        /// The shard.
        shard_id: String,
    },
    /// The stream, or whoever listed it, gave one position twice.
    #[error("the stream gave {0} twice: list each record once")]
    PositionTwice(Position),
    /// An item of the table is not DynamoDB JSON.
    #[error("an item of the table could not be read: {0}")]
    TableItem(&'static str),
    /// The lake cannot be listed or read.
    #[error("could not read the lake: {0}")]
    Store(#[from] object_store::Error),
}

/// What the table holds in the end.
#[derive(Debug, Default)]
pub struct Table {
    items: HashMap<u64, u64>,
}

/// The newest row of a key.
#[derive(Debug)]
struct Newest {
    at: OrderingKey,
    /// `None` when it says that the item was deleted.
    attributes: Option<u64>,
}

impl Table {
    /// Adds one item, as DynamoDB JSON: a map of attribute values.
    pub fn add(&mut self, item: &[u8]) -> Result<(), VerifyError> {
        let item = record::table_item(item).map_err(VerifyError::TableItem)?;
        self.items.insert(item.key, item.unordered);
        Ok(())
    }
}

/// Reads the whole lake below `root` and compares it with what was put into the one stream and, if given, with the table,
/// which must have been empty before the first record. Nothing may be written meanwhile. `progress` is told how many
/// objects were read, of how many.
///
/// # Errors
/// When the lake cannot be read.
pub async fn verify(
    store: Arc<dyn ObjectStore>,
    root: &Path,
    puts: Puts,
    table: Option<Table>,
    progress: impl FnMut(usize, usize),
) -> Result<LakeCheck, VerifyError> {
    Ok(verify_streams(store, root, vec![(puts, table)], progress).await?.all)
}

/// As [`verify`], for the lake of several streams, each with its table. An object is of the stream whose name begins its
/// own: a record that lies in an object of another stream is lost to its own stream and foreign to that one, whatever
/// shard and sequence number it has.
///
/// # Errors
/// When the lake cannot be read.
pub async fn verify_streams(
    store: Arc<dyn ObjectStore>,
    root: &Path,
    streams: Vec<(Puts, Option<Table>)>,
    progress: impl FnMut(usize, usize),
) -> Result<Checked, VerifyError> {
    let replays = lake::replays(store.as_ref(), root).await?;
    let mut objects = lake::list(store.as_ref(), root).await?;
    // The largest first, so that no processor ends alone with one.
    objects.sort_unstable_by_key(|object| std::cmp::Reverse(object.meta.size));
    judge(store, objects, replays, streams, progress).await
}

/// As [`verify`], for the lake of another consumer, whose lines need only say which record they are (see `foreign`).
///
/// # Errors
/// When the lake cannot be read.
pub async fn verify_foreign(
    store: Arc<dyn ObjectStore>,
    root: &Path,
    mut puts: Puts,
    progress: impl FnMut(usize, usize),
) -> Result<Checked, VerifyError> {
    puts.forget_seen();
    // The oldest first: of a record that is there twice, the latency is that of the first.
    let objects = foreign::objects(store.as_ref(), root).await?;
    judge(store, objects, Replays::default(), vec![(puts, None)], progress).await
}

/// Reads objects, one at a time per processor, and concludes.
async fn judge(
    store: Arc<dyn ObjectStore>,
    objects: Vec<Object>,
    replays: Replays,
    streams: Vec<(Puts, Option<Table>)>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Checked, VerifyError> {
    let mut all = LakeCheck::default();
    for at in &replays.broken {
        all.defect(|f| &mut f.broken_objects, format!("{at}: not the record of a replay"));
    }
    let replays = Arc::new(replays);
    let check = |(puts, table): (Puts, Option<Table>)| {
        let key_parts = if table.is_some() { KEY_PARTS } else { 0 };
        let newest = (0..key_parts).map(|_| Mutex::default()).collect();
        (Arc::new(Check { puts, replays: Arc::clone(&replays), newest, copies: Mutex::default() }), table)
    };
    let (checks, tables): (Vec<_>, Vec<_>) = streams.into_iter().map(check).unzip();
    let names: Vec<&str> = checks.iter().map(|check| check.puts.stream().unwrap_or_default()).collect();
    let named = |name: &&str| StreamCheck { stream: (*name).to_owned(), lake: LakeCheck::default() };
    let mut each: Vec<StreamCheck> = names.iter().map(named).collect();
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut readers = JoinSet::new();
    let count = objects.len();
    for (read, object) in objects.into_iter().enumerate() {
        progress(read, count);
        let Some(stream) = stream_of(&object.meta.location, &names) else {
            let what = format!("{}: its name begins with that of no stream", object.meta.location);
            all.defect(|f| &mut f.broken_objects, what);
            continue;
        };
        if readers.len() >= processors
            && let Some(found) = readers.join_next().await
        {
            let (stream, found): (usize, LakeCheck) = joined(found).await?;
            each[stream].lake.merge(found);
        }
        let (store, check) = (Arc::clone(&store), Arc::clone(&checks[stream]));
        readers.spawn(async move {
            let bytes = store.get(&object.meta.location).await?.bytes().await?;
            let read = tokio::task::spawn_blocking(move || check.read(&object, &bytes)).await;
            Ok::<_, object_store::Error>((stream, read.expect("reading an object does not panic")))
        });
    }
    while let Some(found) = readers.join_next().await {
        let (stream, found) = joined(found).await?;
        each[stream].lake.merge(found);
    }
    for ((check, table), StreamCheck { lake, .. }) in checks.iter().zip(tables).zip(&mut each) {
        check.conclude(table, lake);
        all.merge(lake.clone());
    }
    Ok(Checked { all, each })
}

/// Of which stream an object is. A stream that is alone has all of them.
fn stream_of(object: &Path, names: &[&str]) -> Option<usize> {
    if let [_] = names {
        return Some(0);
    }
    let file = object.filename()?;
    let of = |name: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    // The name of one may begin like that of another.
    (0..names.len()).filter(|stream| of(names[*stream])).max_by_key(|stream| names[*stream].len())
}

/// What one stream is judged by.
struct Check {
    puts: Puts,
    replays: Arc<Replays>,
    /// Empty when there is no table to compare with.
    newest: Vec<Mutex<HashMap<u64, Newest>>>,
    /// Rows of high risk less their copies, by the hash of the line, and where the first of them was.
    copies: Mutex<HashMap<u64, (i64, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter<'a> {
    #[serde(borrow)]
    shard_id: Cow<'a, str>,
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    sub_sequence_number: Option<u32>,
    #[serde(borrow)]
    raw_data: Cow<'a, str>,
}

impl Check {
    /// Checks all lines of one object.
    fn read(&self, object: &Object, gzip: &Bytes) -> LakeCheck {
        let mut found = LakeCheck { objects: 1, bytes_out: gzip.len() as u64, ..LakeCheck::default() };
        let at = object.meta.location.as_ref();
        let created_us = object.meta.last_modified.timestamp_micros();
        let took = |found: &mut LakeCheck, sent_us: Option<i64>| {
            if let Some(sent_us) = sent_us {
                found.latencies.add((created_us - sent_us) / 1_000);
            }
        };
        let mut number = 0;
        let lines = match object.zone {
            Zone::Foreign => return foreign::check(&self.puts, &object.meta, gzip),
            Zone::Landing(hour) => lake::each_line(gzip, |line| {
                let sent_us = self.landing_row(line, hour, at, &mut found);
                took(&mut found, sent_us);
            }),
            Zone::DeadLetters => lake::each_line(gzip, |line| {
                number += 1;
                let replayed = self.replays.of(&object.meta.location, number);
                let sent_us = self.dead_letter(line, at, replayed, &mut found);
                took(&mut found, sent_us);
            }),
            Zone::Alerts(hour) => {
                // They are counted by their rows.
                (found.objects, found.bytes_out) = (0, 0);
                lake::each_line(gzip, |line| self.alert(line, hour, at, &mut found))
            }
        };
        match lines {
            Ok(0) if matches!(object.zone, Zone::Alerts(_)) => {
                found.defect(|f| &mut f.broken_objects, format!("{at}: no copy in it"));
            }
            Ok(0) if !gzip.is_empty() => found.empty_objects += 1,
            Ok(0) => found.defect(|f| &mut f.broken_objects, format!("{at}: no gzip at all")),
            Ok(_) => {}
            Err(reason) => found.defect(|f| &mut f.broken_objects, format!("{at}, {reason}")),
        }
        found
    }

    /// Checks a row; answers when its record was sent.
    fn landing_row(&self, line: &str, hour: Option<i64>, at: &str, found: &mut LakeCheck) -> Option<i64> {
        found.rows_delivered += 1;
        let row = match record::row(line) {
            Ok(row) => row,
            Err(reason) => {
                found.defect(|f| &mut f.broken_lines, format!("{at}: {reason}"));
                return None;
            }
        };
        if row.high_risk && self.puts.alerts() {
            self.copied(line, &row, at, 1);
        }
        let puts = self.puts.find(&row.shard_id, row.sequence, row.sub);
        let [put] = puts else {
            if let Some(first) = puts.first() {
                puts.iter().for_each(|put| _ = put.see());
                let what = format!(
                    "{at}: {} is in a row of the whole aggregate",
                    self.puts.position(&row.shard_id, first)
                );
                found.defect(|f| &mut f.value_mismatches, what);
                return None;
            }
            if self.puts.is_unclear(row.event_id) || self.puts.is_optional(&row.shard_id, row.sequence) {
                found.unclear += 1;
                return None;
            }
            let sub = row.sub.map_or(String::new(), |sub| format!(".{sub}"));
            let position = format!("{at}: {} {}{sub} was never put", row.shard_id, row.sequence);
            found.defect(|f| &mut f.unexpected, position);
            return None;
        };
        put.see();
        let differs = match &put.expected {
            Err(_) => Some("cannot be a row: its record is malformed"),
            Ok(expected) if expected.attributes != row.item.exact => Some("an attribute differs"),
            Ok(expected) if expected.facts != row.facts => Some("the facts about the change differ"),
            Ok(_) => None,
        };
        if let Some(what) = differs {
            let what = format!("{at}: {} {what}", self.puts.position(&row.shard_id, put));
            found.defect(|f| &mut f.value_mismatches, what);
        }
        if hour.is_none() || hour != row.hour() {
            let what = format!("{at}: {} belongs to another hour", self.puts.position(&row.shard_id, put));
            found.defect(|f| &mut f.misplaced, what);
        }
        if !self.newest.is_empty() {
            self.remember(&row);
        }
        Some(put.sent_us())
    }

    /// Checks a copy of a row.
    fn alert(&self, line: &str, hour: Option<i64>, at: &str, found: &mut LakeCheck) {
        found.alerts += 1;
        match record::row(line) {
            Err(reason) => found.defect(|f| &mut f.broken_lines, format!("{at}: {reason}")),
            Ok(row) => {
                self.copied(line, &row, at, -1);
                if hour.is_none() || hour != row.hour() {
                    let what = format!("{at}: {} {} belongs to another hour", row.shard_id, row.sequence);
                    found.defect(|f| &mut f.misplaced, what);
                }
            }
        }
    }

    fn copied(&self, line: &str, row: &Row<'_>, at: &str, more: i64) {
        let mut copies = self.copies.lock().expect("nothing panics under this lock");
        let place = || (0, format!("{at}: {} {}", row.shard_id, row.sequence));
        copies.entry(hash(&line)).or_insert_with(place).0 += more;
    }

    fn remember(&self, row: &Row<'_>) {
        // Without an ordering key the facts differ, and the row has been counted there.
        let Some(at) = row.ordering_key else { return };
        let newest = Newest { at, attributes: (!row.is_deleted).then_some(row.item.unordered) };
        match self.part(row.item.key).lock().expect("nothing panics under this lock").entry(row.item.key) {
            Slot::Vacant(slot) => {
                slot.insert(newest);
            }
            Slot::Occupied(mut slot) if slot.get().at < at => {
                slot.insert(newest);
            }
            Slot::Occupied(_) => {}
        }
    }

    fn part(&self, key: u64) -> &Mutex<HashMap<u64, Newest>> {
        let part = usize::try_from(key % KEY_PARTS).expect("less than 64");
        &self.newest[part]
    }

    /// Checks a dead letter; answers when its record was sent. One that was replayed does not count as seen: its row
    /// does, and must be there.
    fn dead_letter(&self, line: &str, at: &str, replayed: bool, found: &mut LakeCheck) -> Option<i64> {
        if replayed {
            found.replayed += 1;
        } else {
            found.dead_letters += 1;
        }
        let Ok(letter) = serde_json::from_str::<DeadLetter<'_>>(line) else {
            found.defect(|f| &mut f.broken_lines, format!("{at}: a line is not a dead letter"));
            return None;
        };
        let data = base64_simd::STANDARD.decode_to_vec(letter.raw_data.as_bytes());
        let payload = data.ok().map(|data| hash(&data.as_slice()));
        let sequence = Sequence::parse(&letter.sequence_number);
        let puts = sequence
            .map_or(&[][..], |number| self.puts.find(&letter.shard_id, number, letter.sub_sequence_number));
        let Some(put) = puts.first() else {
            if payload.is_some_and(|payload| self.puts.is_unclear(payload))
                || sequence.is_some_and(|number| self.puts.is_optional(&letter.shard_id, number))
            {
                found.unclear += 1;
                return None;
            }
            let position = format!("{at}: {} {} was never put", letter.shard_id, letter.sequence_number);
            found.defect(|f| &mut f.unexpected, position);
            return None;
        };
        if !replayed {
            puts.iter().for_each(|put| _ = put.see());
        }
        // What an aggregate looked like nobody remembers.
        if puts.len() == 1 && payload != Some(put.payload) {
            let what = format!(
                "{at}: {} has another rawData than the record",
                self.puts.position(&letter.shard_id, put)
            );
            found.defect(|f| &mut f.value_mismatches, what);
        }
        if puts.iter().any(|put| put.expected.is_ok()) && !replayed {
            let what = format!(
                "{at}: {} is a dead letter but can be read",
                self.puts.position(&letter.shard_id, put)
            );
            found.defect(|f| &mut f.needless_dead_letters, what);
        }
        (!replayed).then(|| put.sent_us())
    }

    /// What can be said once every object was read.
    fn conclude(&self, table: Option<Table>, result: &mut LakeCheck) {
        result.records_put = self.puts.len();
        result.bytes_in = self.puts.bytes();
        for (shard_id, put) in self.puts.iter() {
            result.seen(put.seen(), || self.puts.position(shard_id, put));
        }
        for (count, at) in self.copies.lock().expect("nothing panics under this lock").values() {
            for _ in 0..*count {
                result.defect(|f| &mut f.alerts_missing, format!("{at} is of high risk and has no copy"));
            }
            for _ in *count..0 {
                let what = format!("{at} is a copy of no row of high risk, or a second one");
                result.defect(|f| &mut f.alerts_unexpected, what);
            }
        }
        let Some(Table { mut items }) = table else { return };
        // What the table says of a key may stand in a dead letter.
        for (_, put) in self.puts.iter() {
            if let Err(Some(key)) = put.expected {
                items.remove(&key);
                self.part(key).lock().expect("nothing panics under this lock").remove(&key);
            }
        }
        let mut mismatches = 0;
        for part in &self.newest {
            for (key, newest) in part.lock().expect("nothing panics under this lock").iter() {
                mismatches += u64::from(items.remove(key) != newest.attributes);
            }
        }
        // Left over: keys of the table that no row speaks of.
        result.key_state_mismatches = Some(mismatches + items.len() as u64);
    }
}
