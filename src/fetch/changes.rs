//! The JSON body of a `GetRecords` answer of DynamoDB Streams → a page over that body.
//!
//! The payload of a record is its text, as it stands in the body: nothing that the service says is lost, whatever it adds.
//! Only what a reader needs is looked into: sequence number, creation time and key.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::{BodyError, seconds_to_us};
use super::buffer::Body;
use super::page::{Page, Span};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_shard_iterator: Option<String>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    dynamodb: Change<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change<'a> {
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    #[serde(borrow)]
    approximate_creation_date_time: &'a RawValue,
    /// The item that was changed.
    #[serde(borrow)]
    keys: Option<&'a RawValue>,
}

/// Reads an answer. A record's partition key is the key of its item, as JSON.
pub fn parse(body: Body) -> Result<Page, BodyError> {
    let (spans, next) = walk(&body)?;
    let mut page = Page::over_plain(body, spans);
    page.next_iterator = next;
    Ok(page)
}

fn walk(body: &[u8]) -> Result<(Vec<Span>, Option<String>), BodyError> {
    // serde_json's own message may quote values.
    let not_json =
        |error: serde_json::Error| BodyError::NotJson { line: error.line(), column: error.column() };
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(not_json)?;
    let spans = answer.records.iter().map(|record| span(body, record.get()));
    // An empty text is none, as other servers write it.
    let next = answer.next_shard_iterator.filter(|next| !next.is_empty());
    Ok((spans.collect::<Result<_, _>>()?, next))
}

fn span(body: &[u8], record: &str) -> Result<Span, BodyError> {
    let Record { dynamodb: change } =
        serde_json::from_str(record).map_err(|_| BodyError::Invalid("record"))?;
    let created_us = seconds_to_us(change.approximate_creation_date_time.get().as_bytes())
        .ok_or(BodyError::Invalid("ApproximateCreationDateTime"))?;
    let sequence = match change.sequence_number {
        Cow::Borrowed(digits) => within(body, digits),
        // Digits need no escape.
        Cow::Owned(_) => return Err(BodyError::Invalid("SequenceNumber")),
    };
    let key = change.keys.map_or(0..0, |keys| within(body, keys.get()));
    Span::new(body, sequence, key, within(body, record), created_us)
        .ok_or(BodyError::Invalid("SequenceNumber"))
}

/// Where a part of the body lies in it.
fn within(body: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::Payload;

    const SAMPLE: &str = include_str!("../../tests/fixtures/dynamodb-streams-record.json");

    #[test]
    fn records_are_cut_out_of_the_answer_as_they_are() {
        let page = parse(SAMPLE.into()).unwrap();
        assert!(page.next_iterator.as_ref().is_some_and(|next| next.ends_with("|1|EXAMPLE")));
        let numbers: Vec<_> = page.records().map(|record| record.sequence_number).collect();
        assert_eq!(numbers, ["000000000000000000101", "000000000000000000102", "000000000000000000103"]);
        let whole: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        for (record, expected) in page.records().zip(whole["Records"].as_array().unwrap()) {
            let Payload::Plain(text) = record.payload else { panic!("changes are plain text") };
            assert!(SAMPLE.contains(std::str::from_utf8(text).unwrap()));
            assert_eq!(serde_json::from_slice::<serde_json::Value>(text).unwrap(), *expected);
            let key: serde_json::Value = serde_json::from_str(record.partition_key()).unwrap();
            assert_eq!(key, expected["dynamodb"]["Keys"]);
            assert_eq!(record.arrival_us, 1_768_469_400_000_000);
        }
    }

    #[test]
    fn the_end_of_a_shard_has_no_iterator() {
        for body in [
            r#"{"Records":[]}"#,
            r#"{"Records":[],"NextShardIterator":null}"#,
            r#"{"NextShardIterator":"","Records":[]}"#,
        ] {
            let page = parse(body.into()).unwrap();
            assert!(page.is_empty() && page.next_iterator.is_none(), "{body}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_without_a_word_of_its_values() {
        for (body, words) in [
            ("", "line 1"),
            ("{}", "line 1"),
            (r#"{"Records":[{"dynamodb":{}}]}"#, "invalid record"),
            (r#"{"Records":[{"secret":1}]}"#, "invalid record"),
            (r#"{"Records":["secret"]}"#, "invalid record"),
            (
                r#"{"Records":[{"dynamodb":{"SequenceNumber":"secret","ApproximateCreationDateTime":1}}]}"#,
                "invalid SequenceNumber",
            ),
            (
                r#"{"Records":[{"dynamodb":{"SequenceNumber":"1","ApproximateCreationDateTime":"secret"}}]}"#,
                "invalid ApproximateCreationDateTime",
            ),
        ] {
            let problem = parse(body.into()).unwrap_err().to_string();
            assert!(problem.contains(words) && !problem.contains("secret"), "{body}: {problem}");
        }
    }

    proptest! {
        /// A body that was changed anywhere is a page or refused.
        #[test]
        fn nothing_panics(at in 0..SAMPLE.len(), byte: u8, cut: bool) {
            let mut body = SAMPLE.as_bytes().to_vec();
            if cut { body.truncate(at) } else { body[at] = byte }
            if let Ok(page) = parse(body.into()) {
                page.records().for_each(|record| drop(record.id()));
            }
        }
    }
}
