//! Page → page: records that the Kinesis Producer Library (KPL) has packed become the records that are in them. Pure.
//!
//! Owns: which payloads are unpacked, and what becomes of records outside the shard's hash key range.
//! Does not own: the format (`kpl`), what becomes of an aggregate that cannot be unpacked (`decode`).

use std::ops::{AddAssign, Range};

use super::page::{Page, Payload, Record, Repack};
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
    let mut unpacker = Unpacker::new(&page, range, outside);
    unpacker.all(&page);
    let Unpacker { new, found, .. } = unpacker;
    (new.finish(page), found)
}

struct Unpacker {
    new: Repack,
    found: Found,
    reader: Reader,
    ranges: Ranges,
    outside: OutOfRange,
    decoded: Vec<u8>,
}

impl Unpacker {
    fn new(page: &Page, range: Option<HashKeyRange>, outside: OutOfRange) -> Self {
        Self {
            new: Repack::of(page),
            found: Found::default(),
            reader: Reader::default(),
            ranges: Ranges::new(range),
            outside,
            decoded: Vec::new(),
        }
    }

    fn all(&mut self, page: &Page) {
        let (mut records, mut group) = (page.records(), Vec::new());
        loop {
            let mut packed = 0;
            group.clear();
            while packed < GROUP
                && let Some(record) = records.next()
            {
                packed += usize::from(begins(&record));
                group.push(record);
            }
            if group.is_empty() {
                break;
            }
            let (mark, found) = (self.new.mark(), self.found);
            if self.together(&group).is_none() {
                self.new.back_to(mark);
                self.found = found;
                group.iter().for_each(|record| self.alone(record));
            }
        }
    }

    /// Unpacks aggregates where they are decoded to, and checks them at once. `None` where one of them is to stay as it is or
    /// to be left out; then what has come of the others is of no use.
    fn together(&mut self, records: &[Record<'_>]) -> Option<()> {
        let packed = records.iter().filter(|record| begins(record)).map(|record| self.new.decode(record));
        let packed = packed.collect::<Option<Vec<_>>>()?;
        let intact = intact(packed.iter().map(|payload| self.new.decoded(payload.clone())));
        let mut packed = packed.into_iter().zip(intact);
        for record in records {
            if !begins(record) {
                self.new.keep(record);
                continue;
            }
            let (at, intact) = packed.next()?;
            let payload = self.new.decoded(at.clone());
            self.reader.read_checked(payload, intact)?.ok()?;
            let outside = self.ranges.outside(&self.reader, payload);
            if outside > 0 && self.outside == OutOfRange::KclExact {
                return None;
            }
            self.new.place(record, at.start, parts(&self.reader));
            self.found += unpacked(&self.reader, outside);
        }
        Some(())
    }

    fn alone(&mut self, record: &Record<'_>) {
        let Some(payload) = decode(record, &mut self.decoded) else { return self.new.keep(record) };
        if self.reader.read(payload).is_none_or(|read| read.is_err()) {
            self.found.broken += 1;
            return self.new.keep(record);
        }
        let outside = self.ranges.outside(&self.reader, payload);
        if outside > 0 && self.outside == OutOfRange::KclExact {
            self.found.dropped += 1;
            return;
        }
        self.new.unpack(record, payload, parts(&self.reader));
        self.found += unpacked(&self.reader, outside);
    }
}

fn unpacked(reader: &Reader, outside: u64) -> Found {
    Found { unpacked: 1, records: reader.parts().len() as u64, outside, ..Found::default() }
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

fn begins(record: &Record<'_>) -> bool {
    record.sub_sequence.is_none() && begins_packed(record.payload)
}

fn begins_packed(payload: Payload<'_>) -> bool {
    match payload {
        Payload::Plain(data) => data.starts_with(&MAGIC),
        Payload::Base64(text) => text.starts_with(MAGIC_BASE64),
    }
}

/// The payload, where it begins like an aggregate.
fn decode<'a>(record: &Record<'a>, decoded: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if !begins(record) {
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
