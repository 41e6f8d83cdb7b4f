//! One answer of the stream: the body as it came, and where in it the records lie.

mod replacing;

use std::borrow::Cow;
use std::ops::Range;

pub(super) use self::replacing::{Lying, Replacing};
use super::buffer::Body;
use crate::shard::{ChildShard, Position, RecordId, SequenceNumber};

/// How far the end of what was read is behind the newest record of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// It is the newest record.
    Tip,
    /// By so many ms.
    Millis(u64),
    /// The stream did not say.
    Unknown,
}

impl Behind {
    /// In ms, 0 at the tip; `None` where it is not known.
    pub fn millis(self) -> Option<u64> {
        match self {
            Self::Tip => Some(0),
            Self::Millis(ms) => Some(ms),
            Self::Unknown => None,
        }
    }
}

/// The payload of a record, as it lies in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The bytes themselves.
    Plain(&'a [u8]),
    /// Standard base64 text, not yet checked.
    Base64(&'a [u8]),
}

const CHECKED: &str = "every span was checked against its body when made";
const PAGE_BYTES: &str = "a page of 4 GiB is a mistake of the caller";

/// One record of a page, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Decimal digits of its sequence number.
    pub sequence_number: &'a str,
    /// Its index inside an aggregate; `None`: it is a stream record, whole.
    pub sub_sequence: Option<u64>,
    /// Bytes of its key: of a partition key UTF-8, of Kafka any.
    pub(crate) key: &'a [u8],
    /// What it does not have.
    pub(crate) absent: Absent,
    /// Arrival time in the stream (`ApproximateArrivalTimestamp`), µs since the epoch.
    pub arrival_us: i64,
    /// Its payload.
    pub payload: Payload<'a>,
}

/// What a record of Kafka may lack: its key, or its value. A record of AWS has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) key: bool,
    pub(crate) value: bool,
}

/// Where a record lies in the body. Offsets of 32 bits: a page of the stream is some MB.
#[derive(Clone, Debug)]
pub(super) struct Span {
    sequence_number: Range<u32>,
    partition_key: Range<u32>,
    payload: Range<u32>,
    arrival_us: i64,
}

impl Span {
    /// A record of `body`; `None` when a range lies outside it or beyond 4 GiB, the sequence number is none, or the key is
    /// not UTF-8.
    pub(super) fn new(
        body: &[u8],
        sequence_number: Range<usize>,
        partition_key: Range<usize>,
        payload: Range<usize>,
        arrival_us: i64,
    ) -> Option<Self> {
        is_sequence_number(body.get(sequence_number.clone())?).then_some(())?;
        let key = body.get(partition_key.clone())?;
        // Nearly every key is ASCII, which is seen sooner.
        (key.is_ascii() || simdutf8::basic::from_utf8(key).is_ok()).then_some(())?;
        body.get(payload.clone())?;
        Some(Self {
            sequence_number: narrow(sequence_number)?,
            partition_key: narrow(partition_key)?,
            payload: narrow(payload)?,
            arrival_us,
        })
    }
}

/// What `SequenceNumber::parse` takes, without its allocation.
pub(super) fn is_sequence_number(text: &[u8]) -> bool {
    // No branch inside, so that the compiler can look at many digits at a time.
    let digits = text.iter().fold(true, |digits, byte| digits & byte.is_ascii_digit());
    digits && !text.is_empty() && text.len() <= 128
}

fn narrow(range: Range<usize>) -> Option<Range<u32>> {
    Some(u32::try_from(range.start).ok()?..u32::try_from(range.end).ok()?)
}

fn wide(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl<'a> Record<'a> {
    /// Its partition key. Empty where the stream distributes records itself, and for a key of Kafka that is not UTF-8.
    pub fn partition_key(&self) -> &'a str {
        simdutf8::basic::from_utf8(self.key).unwrap_or_default()
    }

    /// Its key as it is; `None`: it has none, as is possible in Kafka.
    pub fn key(&self) -> Option<&'a [u8]> {
        (!self.absent.key).then_some(self.key)
    }

    /// True when it has no value, as a tombstone of Kafka. Its payload is empty then.
    pub fn is_null(&self) -> bool {
        self.absent.value
    }

    /// Its payload, decoded.
    ///
    /// # Panics
    /// On base64 that nobody has checked. What a processor gets was.
    pub fn data(&self) -> Cow<'a, [u8]> {
        match self.payload {
            Payload::Plain(data) => Cow::Borrowed(data),
            Payload::Base64(text) => {
                Cow::Owned(base64_simd::STANDARD.decode_to_vec(text).expect("the payload was checked"))
            }
        }
    }

    /// Which record it is.
    pub fn id(&self) -> RecordId {
        let sequence = SequenceNumber::parse(self.sequence_number).expect("a page has decimal digits only");
        RecordId { sequence, sub: self.sub_sequence }
    }

    /// Its place in the shard.
    pub fn position(&self) -> Position {
        self.id().position()
    }
}

/// Records of one shard in order, kept in the body they arrived in: no allocation per record.
#[derive(Clone, Debug, Default)]
pub struct Page {
    body: Body,
    base64: bool,
    spans: Vec<Span>,
    /// Indexes inside aggregates, one for each span; empty where no record has one, so that those of a plain stream cost
    /// nothing.
    subs: Vec<Option<u32>>,
    /// What records lack, one for each span; empty where no record lacks anything.
    absent: Vec<Absent>,
    /// Where to go on: an iterator, or of a subscription the sequence number to go on after; absent at the end of a closed
    /// shard.
    pub next_iterator: Option<String>,
    /// How far the end of this page is behind the tip, ms.
    pub millis_behind_latest: Option<i64>,
    /// The page is empty, and it is not known whether this is the tip.
    pub tip_unsure: bool,
    /// Records that were to be read before this page have left the stream.
    pub trimmed: bool,
    /// Where the stream begins by now, if it says so where records have left it.
    pub first_kept: Option<SequenceNumber>,
    /// Sequence numbers of this stream have holes: a record that is not there was perhaps never to be read.
    pub sparse: bool,
    /// The epoch of the leader that wrote all of its records, where the stream has such a thing.
    pub leader_epoch: Option<i32>,
    /// When the stream answered, by its own clock, µs since the epoch; exact to a second.
    pub served_us: Option<i64>,
    /// Children, on the last page of a closed shard.
    pub children: Vec<ChildShard>,
}

impl Page {
    /// A page over a body as it came, with base64 payloads. Each span was made over this very body.
    pub(super) fn over_base64(body: Body, spans: Vec<Span>) -> Self {
        Self { body, base64: true, spans, ..Self::default() }
    }

    /// A page over a body as it came, with plain payloads. Each span was made over this very body.
    pub(super) fn over_plain(body: Body, spans: Vec<Span>) -> Self {
        Self { body, spans, ..Self::default() }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Where it ends.
    pub fn behind(&self) -> Behind {
        match self.millis_behind_latest {
            Some(0) => Behind::Tip,
            Some(ms) => Behind::Millis(u64::try_from(ms).unwrap_or(0)),
            None => Behind::Unknown,
        }
    }

    /// True when the page has no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes that the page holds in memory, records and index. This is what counts against the byte budget.
    pub fn bytes(&self) -> usize {
        self.body.len()
            + size_of_val(&self.spans[..])
            + size_of_val(&self.subs[..])
            + size_of_val(&self.absent[..])
    }

    /// The records in order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator {
        self.spans.iter().enumerate().map(|(index, span)| self.record(index, span))
    }

    /// The payloads of all records that are no part of an aggregate: as those of [`Page::records`], for less.
    pub(super) fn whole_payloads(&self) -> impl Iterator<Item = Payload<'_>> {
        let spans = self.spans.iter().enumerate().filter(|(index, _)| self.sub_sequence(*index).is_none());
        spans.map(|(_, span)| self.payload(span, true))
    }

    fn record(&self, index: usize, span: &Span) -> Record<'_> {
        let sub_sequence = self.sub_sequence(index);
        Record {
            sequence_number: self.text(&span.sequence_number),
            sub_sequence,
            key: self.slice(&span.partition_key),
            absent: self.absent.get(index).copied().unwrap_or_default(),
            arrival_us: span.arrival_us,
            payload: self.payload(span, sub_sequence.is_none()),
        }
    }

    fn sub_sequence(&self, index: usize) -> Option<u64> {
        self.subs.get(index).copied().flatten().map(u64::from)
    }

    /// What is unpacked, so that it is not `whole`, is decoded.
    fn payload(&self, span: &Span, whole: bool) -> Payload<'_> {
        let payload = self.slice(&span.payload);
        if self.base64 && whole { Payload::Base64(payload) } else { Payload::Plain(payload) }
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.body[wide(range)]
    }

    /// A text that was checked, which the compiler has to be told by a check. A short one takes byte for byte; so what
    /// follows is looked at too, 64 bytes at once, and only where that is no text the short one by itself.
    fn text(&self, range: &Range<u32>) -> &str {
        const AT_ONCE: usize = 64;
        let checked = self.slice(range);
        let more = self.body[range.start as usize..].first_chunk::<AT_ONCE>();
        let more = more.and_then(|more| simdutf8::basic::from_utf8(more).ok());
        match more.and_then(|more| more.get(..checked.len())) {
            Some(text) => text,
            None => simdutf8::basic::from_utf8(checked).expect(CHECKED),
        }
    }
}

/// Builds a page record by record, in one buffer of its own.
#[derive(Debug, Default)]
pub struct PageBuilder {
    body: Vec<u8>,
    base64: bool,
    spans: Vec<Span>,
    subs: Vec<Option<u32>>,
    absent: Vec<Absent>,
}

impl PageBuilder {
    /// A builder whose payloads are base64 text, handed on as [`Payload::Base64`]. The default takes them plain.
    pub fn base64() -> Self {
        Self { base64: true, ..Self::default() }
    }

    /// Appends a record. A page holds less than 4 GiB in all.
    pub fn push(&mut self, sequence_number: &str, partition_key: &str, arrival_us: i64, payload: &[u8]) {
        self.push_bytes(sequence_number, partition_key.as_bytes(), arrival_us, payload);
    }

    /// As [`PageBuilder::push`], for a record whose key may be any bytes, and which may lack key and payload.
    pub fn push_optional(
        &mut self,
        sequence_number: &str,
        key: Option<&[u8]>,
        arrival_us: i64,
        payload: Option<&[u8]>,
    ) {
        let absent = Absent { key: key.is_none(), value: payload.is_none() };
        self.push_bytes(sequence_number, key.unwrap_or_default(), arrival_us, payload.unwrap_or_default());
        if absent != Absent::default() {
            self.absent.resize(self.spans.len() - 1, Absent::default());
            self.absent.push(absent);
        }
    }

    /// Bytes of the records so far.
    pub fn bytes(&self) -> usize {
        self.body.len() + size_of_val(&self.spans[..])
    }

    fn push_bytes(&mut self, sequence_number: &str, key: &[u8], arrival_us: i64, payload: &[u8]) {
        let mut append = |bytes: &[u8]| {
            let start = self.body.len();
            self.body.extend_from_slice(bytes);
            narrow(start..self.body.len()).expect(PAGE_BYTES)
        };
        let span = Span {
            sequence_number: append(sequence_number.as_bytes()),
            partition_key: append(key),
            payload: append(payload),
            arrival_us,
        };
        self.spans.push(span);
        if !self.subs.is_empty() {
            self.subs.push(None);
        }
    }

    /// As [`PageBuilder::push`], for a record that is part of an aggregate: of the stream record `sequence_number` the one
    /// with the index `sub_sequence`, counted from 0. Its payload is plain.
    pub fn push_part(
        &mut self,
        sequence_number: &str,
        sub_sequence: u32,
        partition_key: &str,
        arrival_us: i64,
        payload: &[u8],
    ) {
        self.push(sequence_number, partition_key, arrival_us, payload);
        self.subs.resize(self.spans.len(), None);
        self.subs[self.spans.len() - 1] = Some(sub_sequence);
    }

    /// The page; iterator, lag and children are set by the caller.
    pub fn finish(self) -> Page {
        Page {
            body: self.body.into(),
            base64: self.base64,
            spans: self.spans,
            subs: self.subs,
            absent: self.absent,
            ..Page::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_page_gives_its_records_back() {
        let mut builder = PageBuilder::default();
        builder.push("1", "ключ", 10, b"one");
        builder.push("2", "", 20, b"");
        let page = builder.finish();
        let records: Vec<_> = page.records().collect();
        assert_eq!(
            records[0],
            Record {
                sequence_number: "1",
                sub_sequence: None,
                key: "ключ".as_bytes(),
                absent: Absent::default(),
                arrival_us: 10,
                payload: Payload::Plain(b"one")
            }
        );
        assert_eq!(records[1].payload, Payload::Plain(b""));
        assert_eq!((page.len(), page.is_empty()), (2, false));
        assert!(page.bytes() > "1ключone2".len());

        let mut builder = PageBuilder::base64();
        builder.push("1", "k", 10, b"b25l");
        let page = builder.finish();
        let record = page.records().next().unwrap();
        assert_eq!((record.payload, &*record.data()), (Payload::Base64(b"b25l"), &b"one"[..]));
    }

    #[test]
    fn parts_of_an_aggregate_have_their_index_and_plain_records_none() {
        let mut builder = PageBuilder::default();
        builder.push("7", "k", 10, b"whole");
        let plain = builder.finish();
        let mut builder = PageBuilder::default();
        builder.push("7", "k", 10, b"whole");
        builder.push_part("8", 0, "a", 10, b"first");
        builder.push_part("8", 1, "b", 10, b"second");
        builder.push("9", "k", 10, b"whole");
        let page = builder.finish();
        let subs: Vec<_> = page.records().map(|record| record.sub_sequence).collect();
        assert_eq!(subs, [None, Some(0), Some(1), None]);
        let ids = page.records().rev().map(|record| (record.id(), record.position()));
        let ids: Vec<_> = ids.map(|(id, at)| (id.sub, at.sequence.to_string(), at.sub)).collect();
        let expected = [(None, "9", 0), (Some(1), "8", 1), (Some(0), "8", 0), (None, "7", 0)];
        assert_eq!(ids, expected.map(|(sub, sequence, at)| (sub, sequence.to_owned(), at)));
        let index = "7".len() + "k".len() + "whole".len() + size_of::<Span>();
        assert_eq!(plain.bytes(), index, "a plain page holds no more than before");
    }

    #[test]
    fn records_may_lack_key_and_value() {
        let mut builder = PageBuilder::default();
        builder.push_optional("0", Some(b"\xff"), 10, Some(b"value"));
        builder.push_optional("1", Some(b""), 10, None);
        builder.push_optional("5", None, 10, Some(b""));
        builder.push_optional("6", Some(b"k"), 10, Some(b"x"));
        let page = builder.finish();
        let read: Vec<_> = page.records().map(|record| (record.key(), record.is_null())).collect();
        assert_eq!(
            read,
            [(Some(&b"\xff"[..]), false), (Some(b""), true), (None, false), (Some(b"k"), false)]
        );
        assert_eq!(page.records().next().unwrap().partition_key(), "", "not UTF-8");
        assert!(page.records().nth(1).unwrap().data().is_empty());
    }

    #[test]
    fn a_span_outside_the_body_or_not_text_is_refused() {
        assert!(Span::new(b"12", 0..1, 1..2, 2..2, 0).is_some());
        assert!(Span::new(b"12", 0..1, 1..2, 2..3, 0).is_none());
        assert!(Span::new(b"1\xff", 0..1, 1..2, 2..2, 0).is_none());
        assert!(Span::new(b"1\xff", 0..1, 0..1, 1..2, 0).is_some(), "a payload may hold any bytes");
    }
}
