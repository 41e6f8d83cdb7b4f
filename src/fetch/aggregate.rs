//! Page → page: records that the Kinesis Producer Library (KPL) has packed become the records that are in them. Pure.
//!
//! Owns: which payloads are unpacked, and what becomes of records outside the shard's hash key range.
//! Does not own: the format (`kpl`), what becomes of an aggregate that cannot be unpacked (`decode`).

use std::ops::{AddAssign, Range};

use super::page::{Lying, Page, Payload, Record, Replacing};
use crate::kpl::{MAGIC, Reader, hashes_of_keys, intact};
use crate::shard::{HashKeyRange, Position};

/// How base64 text of the magic bytes begins: five letters, and four of the six bits of the sixth.
const MAGIC_BASE64: &[u8] = b"84maw";

/// Aggregates that are checked at once.
const GROUP: usize = 16;

/// What becomes of an aggregate with records outside the shard's hash key range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// They are delivered like the others.
    #[default]
    Deliver,
    /// The aggregate is left out, as the Java KCL does, which leaves it to the other shard.
    KclExact,
}

/// What was found in a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Aggregates that were unpacked.
    pub unpacked: u64,
    /// Records that were in them.
    pub records: u64,
    /// Of these: outside the shard's hash key range, and delivered.
    pub outside: u64,
    /// Aggregates that were left out.
    pub dropped: u64,
    /// Records that begin like an aggregate and are none. They stay as they are.
    pub broken: u64,
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.unpacked += other.unpacked;
        self.records += other.records;
        self.outside += other.outside;
        self.dropped += other.dropped;
        self.broken += other.broken;
    }
}

/// Whether a page has something to unpack. A plain record costs five compared bytes.
pub fn has_aggregates(page: &Page) -> bool {
    page.whole_payloads().any(begins_packed)
}

/// The page with every aggregate unpacked. `range`: of the shard, where it is known; without it nothing is outside.
pub fn unpack(page: Page, range: Option<HashKeyRange>, outside: OutOfRange) -> (Page, Found) {
    if !has_aggregates(&page) {
        return (page, Found::default());
    }
    let (mut new, records) = Replacing::of(page);
    let mut unpacker = Unpacker { reader: Reader::default(), ranges: Ranges::new(range), outside };
    let (mut records, mut found) = (records.as_slice(), Found::default());
    while !records.is_empty() {
        let mut packed = 0;
        let full = records.iter().position(|record| {
            packed += usize::from(begins(&new, record));
            packed == GROUP
        });
        let (group, rest) = records.split_at(full.map_or(records.len(), |last| last + 1));
        found += unpacker.together(&mut new, group);
        records = rest;
    }
    (new.finish(), found)
}

struct Unpacker {
    reader: Reader,
    ranges: Ranges,
    outside: OutOfRange,
}

impl Unpacker {
    /// Decodes aggregates where they lie, checks them at once, and unpacks them.
    fn together(&mut self, new: &mut Replacing, records: &[Lying]) -> Found {
        let decode = |record| if begins(new, record) { new.decode(record) } else { None };
        let decoded: Vec<_> = records.iter().map(decode).collect();
        let payloads: Vec<_> = decoded.iter().flatten().map(|at| new.decoded(at)).collect();
        let mut intact = intact(payloads.into_iter()).into_iter();
        let mut found = Found::default();
        for (record, at) in records.iter().zip(decoded) {
            match at {
                Some(at) => found += self.replace(new, record, &at, intact.next() == Some(true)),
                None => new.keep(record),
            }
        }
        found
    }

    /// What becomes of a record that was decoded.
    fn replace(&mut self, new: &mut Replacing, record: &Lying, at: &Range<usize>, intact: bool) -> Found {
        let payload = new.decoded(at);
        let read = self.reader.read_checked(payload, intact);
        if let Some(Ok(())) = read {
            let outside = self.ranges.outside(&self.reader, payload);
            if outside > 0 && self.outside == OutOfRange::KclExact {
                return Found { dropped: 1, ..Found::default() };
            }
            new.place(record, at.start, parts(&self.reader));
            return Found {
                unpacked: 1,
                records: self.reader.parts().len() as u64,
                outside,
                ..Found::default()
            };
        }
        new.encode(record, at);
        new.keep(record);
        Found { broken: u64::from(read.is_some()), ..Found::default() }
    }
}

/// Key and payload of each record that was read.
fn parts(reader: &Reader) -> impl ExactSizeIterator<Item = (Range<usize>, Range<usize>)> {
    reader.parts().iter().map(|part| (reader.key(part), part.data()))
}

/// The last position inside a stream record: that of the record itself where it packs none.
pub(super) fn end_of(record: &Record<'_>) -> Position {
    let (mut reader, mut decoded) = (Reader::default(), Vec::new());
    let payload = decode(record, &mut decoded);
    let packed = payload.is_some_and(|payload| matches!(reader.read(payload), Some(Ok(()))));
    let last = if packed { reader.parts().len() as u64 - 1 } else { record.sub_sequence.unwrap_or(0) };
    Position { sub: last, ..record.position() }
}

fn begins(page: &Replacing, record: &Lying) -> bool {
    record.is_whole() && begins_packed(page.payload(record))
}

fn begins_packed(payload: Payload<'_>) -> bool {
    match payload {
        Payload::Plain(data) => data.starts_with(&MAGIC),
        Payload::Base64(text) => text.starts_with(MAGIC_BASE64),
    }
}

/// The payload, where it begins like an aggregate.
fn decode<'a>(record: &Record<'a>, decoded: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if record.sub_sequence.is_some() || !begins_packed(record.payload) {
        return None;
    }
    match record.payload {
        Payload::Plain(data) => Some(data),
        Payload::Base64(text) => {
            decoded.clear();
            base64_simd::STANDARD.decode_append(text, decoded).ok()?;
            decoded.starts_with(&MAGIC).then_some(&decoded[..])
        }
    }
}

/// Looks up which records lie in the range of a shard. Many have the same key, so that each is hashed once.
struct Ranges {
    /// None where the shard has all hash keys.
    range: Option<HashKeyRange>,
    inside: Vec<bool>,
}

impl Ranges {
    fn new(range: Option<HashKeyRange>) -> Self {
        let all = HashKeyRange { start: 0, end: u128::MAX };
        Self { range: range.filter(|range| *range != all), inside: Vec::new() }
    }

    /// How many records of an aggregate do not.
    fn outside(&mut self, reader: &Reader, payload: &[u8]) -> u64 {
        let Some(HashKeyRange { start, end }) = self.range else { return 0 };
        let holds = |hash_key: u128| (start..=end).contains(&hash_key);
        self.inside.clear();
        self.inside.extend(hashes_of_keys(reader.keys().map(|key| &payload[key])).map(holds));
        let parts = reader.parts().iter();
        let inside = parts.filter(|part| match reader.hash_key(part) {
            Some(hash_key) => holds(hash_key),
            None => self.inside[part.key_index()],
        });
        (reader.parts().len() - inside.count()) as u64
    }
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
