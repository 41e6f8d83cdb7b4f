//! One line of a dead letter object.

use std::borrow::Cow;

use serde::Deserialize;

use crate::shard::SequenceNumber;
use crate::transform::{ErrorCode, RecordContext, SourceKind};

/// A dead letter row, every member checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    /// How often it was tried.
    pub attempts: u64,
    /// Arrival of the record in the stream, µs since the epoch.
    pub arrival_us: i64,
    /// Why it is no row.
    pub error_code: Cow<'a, str>,
    /// The same for people.
    pub error_message: Cow<'a, str>,
    /// The last try, ms since the epoch.
    pub attempt_ending_ms: u64,
    /// The payload, standard base64.
    pub raw_base64: Cow<'a, str>,
    /// Where the record came from.
    pub source: SourceKind,
    /// Its shard.
    pub shard_id: Cow<'a, str>,
    /// Decimal digits of its sequence number.
    pub sequence_number: Cow<'a, str>,
    /// Its index inside an aggregate; `None`: the whole stream record.
    pub sub_sequence: Option<u64>,
}

/// Why a line is no dead letter. Says no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableLetter {
    /// Not JSON, or members are missing, twice, or of a wrong type.
    #[error("it is not a JSON object with the members of a dead letter")]
    Members,
    /// Longer than any record can be.
    #[error("it is longer than any dead letter can be")]
    TooLong,
    /// The arrival time is out of range, or its two members contradict each other.
    #[error("its arrival time is out of range")]
    Arrival,
    /// `rawData` is not base64.
    #[error("its rawData is not standard base64")]
    RawData,
    /// `source` is not one of ours.
    #[error("its source is not known to this version of kinetide")]
    Source,
    /// `sequenceNumber` is not decimal digits.
    #[error("its sequence number is not a number")]
    SequenceNumber,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    attempts_made: u64,
    arrival_timestamp: u64,
    #[serde(borrow)]
    error_code: Cow<'a, str>,
    #[serde(borrow)]
    error_message: Cow<'a, str>,
    attempt_ending_timestamp: u64,
    #[serde(borrow)]
    raw_data: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    shard_id: Cow<'a, str>,
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    sub_sequence_number: Option<u64>,
    arrival_timestamp_micros: Option<u64>,
}

impl<'a> Letter<'a> {
    /// Reads a line, with or without its `\n`.
    pub fn parse(line: &'a [u8]) -> Result<Self, UnreadableLetter> {
        let members: Members<'a> = serde_json::from_slice(line).map_err(|_| UnreadableLetter::Members)?;
        let arrival_us = match members.arrival_timestamp_micros {
            None => members.arrival_timestamp.checked_mul(1000),
            Some(us) => (us / 1000 == members.arrival_timestamp).then_some(us),
        };
        let arrival_us = arrival_us.and_then(|us| i64::try_from(us).ok()).ok_or(UnreadableLetter::Arrival)?;
        base64_simd::STANDARD.check(members.raw_data.as_bytes()).map_err(|_| UnreadableLetter::RawData)?;
        let source = SourceKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == members.source)
            .ok_or(UnreadableLetter::Source)?;
        if SequenceNumber::parse(&members.sequence_number).is_none() {
            return Err(UnreadableLetter::SequenceNumber);
        }
        Ok(Self {
            attempts: members.attempts_made,
            arrival_us,
            error_code: members.error_code,
            error_message: members.error_message,
            attempt_ending_ms: members.attempt_ending_timestamp,
            raw_base64: members.raw_data,
            source,
            shard_id: members.shard_id,
            sequence_number: members.sequence_number,
            sub_sequence: members.sub_sequence_number,
        })
    }

    /// Whether it stands for all records of an aggregate, from before those were unpacked.
    pub fn is_packed(&self) -> bool {
        self.sub_sequence.is_none() && self.error_code == ErrorCode::KplAggregate.as_str()
    }

    /// The payload as the stream had it, into `raw`, whose content goes.
    pub fn decode_into(&self, raw: &mut Vec<u8>) {
        raw.clear();
        base64_simd::STANDARD
            .decode_append(self.raw_base64.as_bytes(), raw)
            .expect("parse has checked the base64");
    }

    /// Bytes of the payload.
    pub fn raw_bytes(&self) -> usize {
        let padding = self.raw_base64.bytes().rev().take_while(|byte| *byte == b'=').count();
        self.raw_base64.len() / 4 * 3 - padding
    }

    /// What the reader of the stream knew about the record: a row made with it is the row that the service would
    /// have made.
    pub fn context(&self) -> RecordContext<'_> {
        RecordContext {
            source: self.source,
            stream: None,
            shard_id: &self.shard_id,
            sequence_number: &self.sequence_number,
            sub_sequence: self.sub_sequence,
            key: None,
            arrival_us: self.arrival_us,
            null: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::{BadRecord, dead_letter_row};

    const LINE: &str = concat!(
        r#"{"attemptsMade":1,"arrivalTimestamp":1768469430000,"errorCode":"not_json","errorMessage":"m","#,
        r#""attemptEndingTimestamp":1768469430000,"rawData":"/3g=","source":"kinesis","shardId":"s","#,
        r#""sequenceNumber":"17"}"#
    );

    #[test]
    fn what_is_no_dead_letter_is_refused_with_the_reason() {
        assert_eq!(Letter::parse(LINE.as_bytes()).unwrap().raw_bytes(), 2);
        for (from, to, reason) in [
            (r#""errorCode":"not_json","#, "", UnreadableLetter::Members),
            (r#""errorCode""#, r#""errorCode":"a","errorCode""#, UnreadableLetter::Members),
            (r#""17""#, "17", UnreadableLetter::Members),
            (r#""17""#, r#""1x""#, UnreadableLetter::SequenceNumber),
            ("/3g=", "/3g", UnreadableLetter::RawData),
            (r#""kinesis""#, r#""sqs""#, UnreadableLetter::Source),
            (
                r#""arrivalTimestamp":1768469430000"#,
                r#""arrivalTimestamp":99999999999999999"#,
                UnreadableLetter::Arrival,
            ),
            ("}", r#","arrivalTimestampMicros":1768469431000000}"#, UnreadableLetter::Arrival),
        ] {
            let line = LINE.replacen(from, to, 1);
            assert_ne!(line, LINE);
            assert_eq!(Letter::parse(line.as_bytes()), Err(reason), "{line}");
        }
        for line in ["", "[]", "null", "{}"] {
            assert_eq!(Letter::parse(line.as_bytes()), Err(UnreadableLetter::Members));
        }
    }

    proptest! {
        /// Nothing that a transform looks at is lost on the way through a dead letter.
        #[test]
        fn a_letter_says_what_the_reader_knew(
            raw: Vec<u8>,
            shard in ".{1,20}",
            sequence in "[0-9]{1,56}",
            sub_sequence: Option<u64>,
            arrival_us in 0..=i64::MAX,
            message in ".*",
            from_table: bool,
        ) {
            let source = if from_table { SourceKind::DynamoDbStreams } else { SourceKind::Kinesis };
            let context = RecordContext {
                source, stream: None, shard_id: &shard, sequence_number: &sequence, sub_sequence, key: None, arrival_us, null: false,
            };
            let bad = BadRecord { code: ErrorCode::NoTag, message: message.clone() };
            let mut row = Vec::new();
            dead_letter_row(&context, &bad, &raw, &mut row);
            let letter = Letter::parse(&row).unwrap();
            prop_assert_eq!(format!("{:?}", letter.context()), format!("{context:?}"));
            let mut decoded = b"old".to_vec();
            letter.decode_into(&mut decoded);
            prop_assert_eq!(letter.raw_bytes(), raw.len());
            prop_assert_eq!(decoded, raw);
            prop_assert_eq!((&letter.error_code[..], &letter.error_message[..]), ("no_tag", &message[..]));
        }
    }
}
