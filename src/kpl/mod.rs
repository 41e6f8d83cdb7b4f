//! Records that the Kinesis Producer Library (KPL) has packed into one: reading the format. Pure.
//!
//! An aggregate is four magic bytes, a protobuf message, and the MD5 of that message:
//!
//! ```text
//! AggregatedRecord  1: repeated string partition_key_table   2: repeated string explicit_hash_key_table   3: repeated Record
//! Record            1: uint64 partition_key_index   2: optional uint64 explicit_hash_key_index   3: bytes data   4: repeated Tag
//! ```
//!
//! It is unpacked whole or not at all: whatever the Java KCL would read in part, or hand on as it is, stays one record.

mod digests;

use std::ops::Range;

use md5::{Digest, Md5};

use self::digests::{digests, digests_of_short};

/// How every aggregate begins. No UTF-8 text does.
pub const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;

const KEY_TABLE: u64 = 1;
const HASH_KEY_TABLE: u64 = 2;
const RECORDS: u64 = 3;

const KEY_INDEX: u64 = 1;
const HASH_KEY_INDEX: u64 = 2;
const DATA: u64 = 3;

/// Why a payload that begins like an aggregate cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Shorter than magic, one byte and checksum.
    #[error("it is too short")]
    Short,
    /// Cut off or changed on its way, or no aggregate at all.
    #[error("its checksum is wrong")]
    Checksum,
    /// Not the protobuf message that it must be.
    #[error("its message cannot be read")]
    Message,
    /// A record names a key that is not in the table.
    #[error("a record in it names a key that is not there")]
    Index,
    /// A partition key is not UTF-8, or an explicit hash key no number of 128 bits.
    #[error("a key in it cannot be read")]
    Key,
    /// Nothing is packed in it.
    #[error("it holds no records")]
    Empty,
}

/// One record of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    key: u32,
    hash_key: Option<u32>,
    data: Range<u32>,
}

impl Part {
    /// Where its partition key stands in the table of keys.
    pub fn key_index(&self) -> usize {
        self.key as usize
    }

    /// Its payload, as a range of the aggregate.
    pub fn data(&self) -> Range<usize> {
        wide(&self.data)
    }
}

/// Reads aggregates, one after the other into the same memory. What it allocates is bounded by the records and keys that
/// are there, never by a length that an aggregate tells.
#[derive(Debug, Default)]
pub struct Reader {
    keys: Vec<Range<u32>>,
    hash_keys: Vec<u128>,
    parts: Vec<Part>,
}

impl Reader {
    /// Reads a payload; what it packs is asked for afterwards. `None`: it does not begin like an aggregate.
    ///
    /// # Errors
    /// When it does, and cannot be unpacked.
    pub fn read(&mut self, payload: &[u8]) -> Option<Result<(), Broken>> {
        payload.starts_with(&MAGIC).then(|| self.unpack(payload, None))
    }

    /// As [`Reader::read`], where [`intact`] has told what the checksum says.
    ///
    /// # Errors
    /// When it begins like an aggregate, and cannot be unpacked.
    pub fn read_checked(&mut self, payload: &[u8], intact: bool) -> Option<Result<(), Broken>> {
        payload.starts_with(&MAGIC).then(|| self.unpack(payload, Some(intact)))
    }

    /// The records of the aggregate that was read, at least one.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The partition keys in it, as ranges of the aggregate; UTF-8.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
        self.keys.iter().map(wide)
    }

    /// The partition key of a record in it, as a range of the aggregate.
    pub fn key(&self, part: &Part) -> Range<usize> {
        wide(&self.keys[part.key as usize])
    }

    /// The explicit hash key of a record in it, where it has one.
    pub fn hash_key(&self, part: &Part) -> Option<u128> {
        part.hash_key.map(|index| self.hash_keys[index as usize])
    }

    fn unpack(&mut self, payload: &[u8], intact: Option<bool>) -> Result<(), Broken> {
        self.keys.clear();
        self.hash_keys.clear();
        self.parts.clear();
        let end =
            payload.len().checked_sub(MD5_BYTES).filter(|end| *end > MAGIC.len()).ok_or(Broken::Short)?;
        let whole = MAGIC.len()..end;
        if !intact.unwrap_or_else(|| Md5::digest(&payload[whole.clone()]).as_slice() == &payload[end..]) {
            return Err(Broken::Checksum);
        }
        let mut fields = Fields { bytes: payload, left: whole };
        while let Some(field) = fields.next() {
            match field? {
                (KEY_TABLE, Value::Bytes(key)) => {
                    // Nearly all are: it costs less to see.
                    let text = &payload[key.clone()];
                    if !text.is_ascii() && simdutf8::basic::from_utf8(text).is_err() {
                        return Err(Broken::Key);
                    }
                    self.keys.push(narrow(&key)?);
                }
                (HASH_KEY_TABLE, Value::Bytes(key)) => self.hash_keys.push(hash_key(&payload[key])?),
                (RECORDS, Value::Bytes(record)) => self.parts.push(part(payload, record)?),
                _ => {}
            }
        }
        // The tables may stand behind the records.
        let (keys, hash_keys) = (self.keys.len(), self.hash_keys.len());
        let there = |part: &Part| {
            part.key_index() < keys && part.hash_key.is_none_or(|index| (index as usize) < hash_keys)
        };
        match self.parts.as_slice() {
            [] => Err(Broken::Empty),
            parts if parts.iter().all(there) => Ok(()),
            _ => Err(Broken::Index),
        }
    }
}

/// A record of the message. Of a field that comes twice the last one counts.
fn part(payload: &[u8], record: Range<usize>) -> Result<Part, Broken> {
    let (mut key, mut hash_key, mut data) = (None, None, None);
    let mut fields = Fields { bytes: payload, left: record };
    while let Some(field) = fields.next() {
        match field? {
            (KEY_INDEX, Value::Number(index)) => key = Some(index),
            (HASH_KEY_INDEX, Value::Number(index)) => hash_key = Some(index),
            (DATA, Value::Bytes(bytes)) => data = Some(bytes),
            _ => {}
        }
    }
    let (key, data) = key.zip(data).ok_or(Broken::Message)?;
    // No table is that long.
    let index = |index: u64| u32::try_from(index).map_err(|_| Broken::Index);
    Ok(Part { key: index(key)?, hash_key: hash_key.map(index).transpose()?, data: narrow(&data)? })
}

/// An aggregate is some MB.
fn narrow(range: &Range<usize>) -> Result<Range<u32>, Broken> {
    let narrow = |at: usize| u32::try_from(at).map_err(|_| Broken::Message);
    Ok(narrow(range.start)?..narrow(range.end)?)
}

fn wide(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// Decimal digits.
fn hash_key(digits: &[u8]) -> Result<u128, Broken> {
    let number =
        digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok());
    number.flatten().ok_or(Broken::Key)
}

/// The hash keys of partition keys: where records go that have no explicit one.
pub fn hashes_of_keys<'a>(
    keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) -> impl Iterator<Item = u128> {
    digests_of_short(keys).into_iter().map(u128::from_be_bytes)
}

/// Which payloads that begin like aggregates have the right checksum, in less time than one by one.
pub fn intact<'a>(payloads: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Vec<bool> {
    let parts = |payload: &'a [u8]| {
        let end = payload.len().saturating_sub(MD5_BYTES).max(MAGIC.len().min(payload.len()));
        (payload.get(MAGIC.len()..end).unwrap_or_default(), &payload[end..])
    };
    let found = digests(payloads.clone().map(|payload| parts(payload).0));
    payloads.zip(found).map(|(payload, found)| parts(payload).1 == found).collect()
}

enum Value {
    Number(u64),
    Bytes(Range<usize>),
    /// Four or eight bytes, which no field of ours is.
    Other,
}

/// The fields of a protobuf message that lies in `bytes`.
struct Fields<'a> {
    bytes: &'a [u8],
    left: Range<usize>,
}

impl Fields<'_> {
    /// Number and value of the next field; `None` at the end.
    fn next(&mut self) -> Option<Result<(u64, Value), Broken>> {
        (!self.left.is_empty()).then(|| self.field().ok_or(Broken::Message))
    }

    fn field(&mut self) -> Option<(u64, Value)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Value::Other)?,
            _ => return None,
        };
        (tag >> 3 > 0).then_some((tag >> 3, value))
    }

    fn skip(&mut self, length: usize) -> Option<Range<usize>> {
        let end = self.left.start.checked_add(length).filter(|end| *end <= self.left.end)?;
        let skipped = self.left.start..end;
        self.left.start = end;
        Some(skipped)
    }

    /// At most ten bytes; bits beyond the 64th are left out, as protobuf does.
    fn varint(&mut self) -> Option<u64> {
        let left = &self.bytes[self.left.clone()];
        let (value, length) = match left {
            // Nearly all.
            [one @ ..0x80, ..] => (u64::from(*one), 1),
            [low, high @ ..0x80, ..] => (u64::from(low & 0x7f) | u64::from(*high) << 7, 2),
            _ => {
                let length = left.iter().take(10).position(|byte| *byte < 0x80)? + 1;
                let append = |value, byte: &u8| value << 7 | u64::from(byte & 0x7f);
                (left[..length].iter().rev().fold(0, append), length)
            }
        };
        self.left.start += length;
        Some(value)
    }
}

#[cfg(test)]
mod tests;
