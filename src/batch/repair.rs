//! Sealing keys and reading back what an object holds, for the repair of a batch that another version prepared, and to
//! see whether an object is the one meant.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::content::{Content, ContentHash};
use super::encode::{Encoder, Gzip};
use crate::fetch::Record;
use crate::shard::RecordId;
use crate::transform::record_of;

/// A valid gzip of nothing: put under a key it keeps others from creating that object.
pub fn seal_object() -> Bytes {
    Encoder::new(Gzip::level(1)).finish()
}

/// The object is not what this service writes.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableObject {
    /// Not gzip, or cut off.
    #[error("the object is not a complete gzip file")]
    Gzip(#[source] std::io::Error),
    /// A row that says no position.
    #[error("row {row} of the object has no readable sequence number")]
    Row {
        /// Its number, from 1.
        row: u64,
    },
}

/// Records whose rows are in the lake already: no repair makes them again.
#[derive(Debug, Default)]
pub struct RecordsThere(HashSet<RecordId>);

impl RecordsThere {
    /// Adds those of which an object has rows.
    pub fn extend(&mut self, records: impl IntoIterator<Item = RecordId>) {
        self.0.extend(records);
    }

    /// Whether the rows of a record are there: its own, or those of the whole stream record that it is packed in. That
    /// parts of an aggregate are there says nothing of the others, nor of the whole.
    pub fn has(&self, record: &Record<'_>) -> bool {
        let mut id = record.id();
        self.0.contains(&id) || id.sub.take().is_some() && self.0.contains(&id)
    }
}

/// What an object holds. Takes objects of several gzip members.
///
/// # Errors
/// When it is not gzip, or cut off.
pub fn read_content(object: &[u8]) -> Result<Content, UnreadableObject> {
    let mut text = MultiGzDecoder::new(object);
    let (mut rows, mut hash, mut piece) = (0, ContentHash::new(), vec![0; 32 << 10]);
    loop {
        let bytes = text.read(&mut piece).map_err(UnreadableObject::Gzip)?;
        if bytes == 0 {
            return Ok(Content { rows, hash: hash.finish() });
        }
        hash.update(&piece[..bytes]);
        rows += memchr::memchr_iter(b'\n', &piece[..bytes]).count() as u64;
    }
}

/// Which record each row of an object was made of, in the order of its rows. Takes objects of several gzip members.
pub fn read_records(object: &[u8]) -> Result<Vec<RecordId>, UnreadableObject> {
    let mut lines = BufReader::new(MultiGzDecoder::new(object));
    let (mut records, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(UnreadableObject::Gzip)? == 0 {
            return Ok(records);
        }
        match record_of(&line) {
            Some(record) => records.push(record),
            None => return Err(UnreadableObject::Row { row: records.len() as u64 + 1 }),
        }
    }
}
