//! Sealing keys and reading back what an object holds, for the repair of a batch that another version prepared, and to
//! see whether an object is the one meant.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::content::{Content, ContentHash};
use super::encode::Encoder;
use crate::shard::{Position, SequenceNumber};

/// A valid gzip of nothing: put under a key it keeps others from creating that object.
pub fn seal_object() -> Bytes {
    Encoder::new(1).finish()
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

/// A row or a dead letter row, as far as repair cares.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow, alias = "sequenceNumber")]
    sequence_number: Cow<'a, str>,
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

/// The positions of all rows in an object, in the order of its rows. Takes objects of several gzip members.
pub fn read_positions(object: &[u8]) -> Result<Vec<Position>, UnreadableObject> {
    let mut lines = BufReader::new(MultiGzDecoder::new(object));
    let (mut positions, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(UnreadableObject::Gzip)? == 0 {
            return Ok(positions);
        }
        let row: Option<Row<'_>> = serde_json::from_slice(&line).ok();
        let sequence = row.and_then(|row| SequenceNumber::parse(&row.sequence_number));
        match sequence {
            Some(sequence) => positions.push(Position::new(sequence)),
            None => return Err(UnreadableObject::Row { row: positions.len() as u64 + 1 }),
        }
    }
}
