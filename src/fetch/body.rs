//! The JSON body of a `GetRecords` answer, or of an event of `SubscribeToShard`, which says in another member where to go
//! on → a page over that body.
//!
//! Two readers. The walker knows the members that Kinesis writes, in any order, and steps from quote to quote; at the
//! first thing it does not expect it gives up, and serde_json reads the whole body instead. Both give the same page where
//! the body is valid JSON. Payloads are not looked into here: whoever decodes the base64 finds what is wrong with them.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::buffer::Body;
use super::page::{Page, PageBuilder, Span, is_sequence_number};
use crate::shard::{ChildShard, HashKeyRange, ShardId};

/// Why a body is not a page. Says where, never what the record holds.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not the JSON that the API promises.
    #[error("response of the stream is not valid at line {line}, column {column}")]
    NotJson { line: usize, column: usize },
    /// JSON, with a member that cannot be.
    #[error("response of the stream has an invalid {0}")]
    Invalid(&'static str),
}

/// Reads an answer. Payloads of the page are base64 text, not yet checked.
pub fn parse(body: Body) -> Result<Page, BodyError> {
    match walk(&body) {
        Some(walked) => {
            let mut page = Page::over_base64(body, walked.spans);
            page.next_iterator = walked.next_iterator;
            page.millis_behind_latest = walked.millis_behind_latest;
            Ok(page)
        }
        None => parse_carefully(&body),
    }
}

#[derive(Debug)]
struct Walked {
    spans: Vec<Span>,
    next_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
}

/// The quick reader; `None`: let serde_json decide. Shards end once in their life, so `ChildShards` is left to it too.
fn walk(body: &[u8]) -> Option<Walked> {
    let mut cursor = Cursor { body, at: 0 };
    let (mut records, mut next_iterator, mut behind) = (None, None, None);
    cursor.skip_space();
    cursor.expect(b'{')?;
    loop {
        match cursor.key()? {
            b"Records" if records.is_none() => records = Some(cursor.records()?),
            b"NextShardIterator" | b"ContinuationSequenceNumber" if next_iterator.is_none() => {
                next_iterator = Some(cursor.nullable_text()?);
            }
            b"MillisBehindLatest" if behind.is_none() => {
                behind = Some(std::str::from_utf8(cursor.integer()?).ok()?.parse().ok()?);
            }
            _ => return None,
        }
        if !cursor.more(b'}')? {
            break;
        }
    }
    cursor.skip_space();
    (cursor.at == body.len()).then_some(())?;
    Some(Walked { spans: records?, next_iterator: next_iterator?, millis_behind_latest: behind })
}

/// What a record has.
#[derive(Clone, Copy)]
enum Member {
    Arrival,
    Data,
    Encryption,
    PartitionKey,
    SequenceNumber,
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// After an element: true at a comma, false at `close`.
    fn more(&mut self, close: u8) -> Option<bool> {
        self.skip_space();
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => Some(true),
            _ if byte == close => Some(false),
            _ => None,
        }
    }

    /// What lies between two quotes, if it holds no backslash. It may hold control characters, which JSON
    /// forbids; a payload with one fails later as base64, every other text is checked by its reader.
    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        let length = memchr::memchr2(b'"', b'\\', &self.body[start..])?;
        self.at = start + length;
        self.expect(b'"')?;
        Some(start..start + length)
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        self.skip_space();
        let key = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Some(&self.body[key])
    }

    fn text(&mut self) -> Option<Range<usize>> {
        let range = self.string()?;
        self.body[range.clone()].iter().all(|b| *b >= 0x20).then_some(range)
    }

    fn nullable_text(&mut self) -> Option<Option<String>> {
        if self.body[self.at..].starts_with(b"null") {
            self.at += 4;
            return Some(None);
        }
        let range = self.text()?;
        Some(Some(std::str::from_utf8(&self.body[range]).ok()?.to_owned()))
    }

    /// The bytes of a number; its reader checks the grammar.
    fn number(&mut self) -> &'a [u8] {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        &self.body[start..self.at]
    }

    /// An integer without sign or leading zero.
    fn integer(&mut self) -> Option<&'a [u8]> {
        let number = self.number();
        let plain =
            number.iter().all(u8::is_ascii_digit) && (number.len() == 1 || number.first() != Some(&b'0'));
        plain.then_some(number)
    }

    fn records(&mut self) -> Option<Vec<Span>> {
        let mut spans = Vec::new();
        self.expect(b'[')?;
        self.skip_space();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(spans);
        }
        loop {
            self.skip_space();
            spans.push(self.record()?);
            if spans.len() == 1 {
                // Records of one shard are alike: one reservation instead of doubling.
                spans.reserve((self.body.len() / self.at).min(10_000));
            }
            if !self.more(b']')? {
                return Some(spans);
            }
        }
    }

    /// Steps over the name of a member of a record, and over its colon.
    fn member(&mut self) -> Option<Member> {
        // As the service writes them: one look, and not one for each quote and space.
        const WRITTEN: [(&[u8], Member); 4] = [
            (b"\"Data\":", Member::Data),
            (b"\"PartitionKey\":", Member::PartitionKey),
            (b"\"SequenceNumber\":", Member::SequenceNumber),
            (b"\"ApproximateArrivalTimestamp\":", Member::Arrival),
        ];
        for (name, member) in WRITTEN {
            if self.body[self.at..].starts_with(name) {
                self.at += name.len();
                return Some(member);
            }
        }
        Some(match self.key()? {
            b"ApproximateArrivalTimestamp" => Member::Arrival,
            b"Data" => Member::Data,
            b"EncryptionType" => Member::Encryption,
            b"PartitionKey" => Member::PartitionKey,
            b"SequenceNumber" => Member::SequenceNumber,
            _ => return None,
        })
    }

    fn record(&mut self) -> Option<Span> {
        let (mut sequence_number, mut partition_key, mut payload, mut arrival) = (None, None, None, None);
        let mut encryption = None;
        self.expect(b'{')?;
        loop {
            match self.member()? {
                Member::SequenceNumber if sequence_number.is_none() => sequence_number = Some(self.string()?),
                Member::Arrival if arrival.is_none() => {
                    arrival = Some(seconds_to_us(self.number())?);
                }
                Member::Data if payload.is_none() => payload = Some(self.string()?),
                Member::PartitionKey if partition_key.is_none() => partition_key = Some(self.text()?),
                Member::Encryption if encryption.is_none() => encryption = Some(self.nullable_text()?),
                _ => return None,
            }
            if !self.more(b'}')? {
                break;
            }
        }
        // On-demand streams that distribute records themselves leave the key out.
        Span::new(self.body, sequence_number?, partition_key.unwrap_or(0..0), payload?, arrival?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    #[serde(borrow)]
    records: Vec<AnswerRecord<'a>>,
    #[serde(alias = "ContinuationSequenceNumber")]
    next_shard_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
    child_shards: Option<Vec<AnswerChild>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnswerRecord<'a> {
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    #[serde(borrow)]
    approximate_arrival_timestamp: &'a RawValue,
    #[serde(borrow)]
    data: Cow<'a, str>,
    /// Left out by on-demand streams that distribute records themselves.
    #[serde(borrow)]
    partition_key: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnswerChild {
    shard_id: String,
    #[serde(default)]
    parent_shards: Vec<String>,
    hash_key_range: AnswerHashKeyRange,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AnswerHashKeyRange {
    starting_hash_key: String,
    ending_hash_key: String,
}

fn parse_carefully(body: &[u8]) -> Result<Page, BodyError> {
    // serde_json's own message may quote values.
    let answer: Answer<'_> = serde_json::from_slice(body)
        .map_err(|e| BodyError::NotJson { line: e.line(), column: e.column() })?;
    let mut builder = PageBuilder::base64();
    for record in &answer.records {
        if !is_sequence_number(record.sequence_number.as_bytes()) {
            return Err(BodyError::Invalid("SequenceNumber"));
        }
        let arrival_us = seconds_to_us(record.approximate_arrival_timestamp.get().as_bytes())
            .ok_or(BodyError::Invalid("ApproximateArrivalTimestamp"))?;
        let partition_key = record.partition_key.as_deref().unwrap_or_default();
        builder.push(&record.sequence_number, partition_key, arrival_us, record.data.as_bytes());
    }
    let children =
        answer.child_shards.unwrap_or_default().into_iter().map(child).collect::<Result<_, _>>()?;
    let mut page = builder.finish();
    page.next_iterator = answer.next_shard_iterator;
    page.millis_behind_latest = answer.millis_behind_latest;
    page.children = children;
    Ok(page)
}

fn child(child: AnswerChild) -> Result<ChildShard, BodyError> {
    let key = |text: &str| text.parse().map_err(|_| BodyError::Invalid("HashKeyRange"));
    if child.shard_id.is_empty() {
        return Err(BodyError::Invalid("ShardId"));
    }
    Ok(ChildShard {
        id: ShardId::new(child.shard_id),
        parents: child.parent_shards.into_iter().map(ShardId::new).collect(),
        hash_range: Some(HashKeyRange {
            start: key(&child.hash_key_range.starting_hash_key)?,
            end: key(&child.hash_key_range.ending_hash_key)?,
        }),
    })
}

/// A JSON number of seconds, read exactly: µs, further digits cut off. The service writes milliseconds as a
/// fraction, at times with an exponent (`1.768469400123E9`), which a float would not keep exactly.
pub(super) fn seconds_to_us(number: &[u8]) -> Option<i64> {
    let (negative, rest) = match number {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, number),
    };
    let (whole, rest) = rest.split_at(digits(rest));
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return None;
    }
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => match digits(rest) {
            0 => return None,
            n => rest.split_at(n),
        },
        _ => (&[][..], rest),
    };
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', rest @ ..] => {
            let (sign, rest) = match rest {
                [b'-', rest @ ..] => (-1, rest),
                [b'+', rest @ ..] => (1, rest),
                _ => (1, rest),
            };
            if rest.is_empty() || digits(rest) != rest.len() {
                return None;
            }
            // Beyond this limit nothing but zero fits anyway.
            sign * rest.iter().fold(0i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000_000))
        }
        _ => return None,
    };
    // How many digits of whole and fraction stand before the decimal point of the µs.
    let keep = i64::try_from(whole.len()).ok()? + exponent + 6;
    let keep = usize::try_from(keep).unwrap_or(0);
    let (whole, fraction) =
        (&whole[..keep.min(whole.len())], &fraction[..keep.saturating_sub(whole.len()).min(fraction.len())]);
    let append = |us: i64, digit: &u8| us * 10 + i64::from(digit - b'0');
    let checked = |us: i64, digit: &u8| us.checked_mul(10)?.checked_add(i64::from(digit - b'0'));
    let mut us = if whole.len() + fraction.len() <= 18 {
        // Nearly all: so few digits always fit.
        fraction.iter().fold(whole.iter().fold(0, append), append)
    } else {
        fraction.iter().try_fold(whole.iter().try_fold(0, checked)?, checked)?
    };
    for _ in whole.len() + fraction.len()..if us == 0 { 0 } else { keep } {
        us = us.checked_mul(10)?;
    }
    Some(if negative { -us } else { us })
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).count()
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
