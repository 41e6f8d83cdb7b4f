//! One answer of the stream: the body as it came, and where in it the records lie.

use std::ops::Range;

use bytes::Bytes;

use super::source::ChildShard;

/// The payload of a record, as it lies in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The bytes themselves.
    Plain(&'a [u8]),
    /// Standard base64 text, not yet checked.
    Base64(&'a [u8]),
}

/// One record of a page, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Decimal digits of its sequence number.
    pub sequence_number: &'a str,
    /// Its partition key.
    pub partition_key: &'a str,
    /// Arrival time in the stream (`ApproximateArrivalTimestamp`), µs since the epoch.
    pub arrival_us: i64,
    /// Its payload.
    pub payload: Payload<'a>,
}

#[derive(Clone, Debug)]
struct Span {
    sequence_number: Range<usize>,
    partition_key: Range<usize>,
    payload: Range<usize>,
    arrival_us: i64,
}

/// Records of one shard in order, kept in the body they arrived in: no allocation per record.
#[derive(Clone, Debug, Default)]
pub struct Page {
    body: Bytes,
    base64: bool,
    spans: Vec<Span>,
    /// Where to go on; absent at the end of a closed shard.
    pub next_iterator: Option<String>,
    /// How far the end of this page is behind the tip, ms.
    pub millis_behind_latest: Option<i64>,
    /// Children, on the last page of a closed shard.
    pub children: Vec<ChildShard>,
}

impl Page {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True when the page has no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes that the page holds in memory, records and index.
    pub fn bytes(&self) -> usize {
        self.body.len() + self.spans.len() * size_of::<Span>()
    }

    /// The records in order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator {
        self.spans.iter().map(|span| self.record(span))
    }

    fn record(&self, span: &Span) -> Record<'_> {
        // Ranges are made by `PageBuilder`, which takes the two texts as `&str`.
        let text = |range: &Range<usize>| {
            simdutf8::basic::from_utf8(&self.body[range.clone()]).expect("checked when the page was built")
        };
        let payload = &self.body[span.payload.clone()];
        Record {
            sequence_number: text(&span.sequence_number),
            partition_key: text(&span.partition_key),
            arrival_us: span.arrival_us,
            payload: if self.base64 { Payload::Base64(payload) } else { Payload::Plain(payload) },
        }
    }
}

/// Builds a page record by record, in one buffer of its own or over an existing body.
#[derive(Debug, Default)]
pub struct PageBuilder {
    body: Vec<u8>,
    spans: Vec<Span>,
}

impl PageBuilder {
    /// Appends a record with a plain payload.
    pub fn push(&mut self, sequence_number: &str, partition_key: &str, arrival_us: i64, payload: &[u8]) {
        let mut append = |bytes: &[u8]| {
            let start = self.body.len();
            self.body.extend_from_slice(bytes);
            start..self.body.len()
        };
        let span = Span {
            sequence_number: append(sequence_number.as_bytes()),
            partition_key: append(partition_key.as_bytes()),
            payload: append(payload),
            arrival_us,
        };
        self.spans.push(span);
    }

    /// The page; iterator, lag and children are set by the caller.
    pub fn finish(self) -> Page {
        Page { body: self.body.into(), base64: false, spans: self.spans, ..Page::default() }
    }
}
