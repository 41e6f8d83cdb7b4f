//! How rows and dead letters say which record they were made of. A repair reads it back.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::RecordContext;
use super::row::push_digits;
use crate::decode::json::push_string;
use crate::shard::{RecordId, SequenceNumber};

/// The column of the index inside an aggregate. A record that is none has no such column, so that it may have an
/// attribute of that name; only right behind the sequence number it is the index.
pub(super) const SUB_SEQUENCE: &str = "sub_sequence_number";

impl RecordContext<'_> {
    /// Appends the columns that say which record a row was made of: `"shard_id":"…","sequence_number":"…"`, and
    /// `"sub_sequence_number":…` where it is part of an aggregate. Every row must have them, as members of its outermost
    /// object and one behind the other.
    pub fn push_place(&self, row: &mut Vec<u8>) {
        row.extend_from_slice(b"\"shard_id\":");
        push_string(row, self.shard_id);
        row.extend_from_slice(b",\"sequence_number\":");
        push_string(row, self.sequence_number);
        if let Some(sub) = self.sub_sequence {
            row.extend_from_slice(b",\"sub_sequence_number\":");
            push_digits(row, sub, 1);
        }
    }
}

/// Which record a row or a dead letter row was made of; `None` when it does not say so.
pub fn record_of(line: &[u8]) -> Option<RecordId> {
    serde_json::from_slice::<Place>(line).ok().map(|place| place.0)
}

struct Place(RecordId);

/// Names of members in rows and in dead letters.
#[derive(serde::Deserialize)]
#[serde(field_identifier)]
enum Member {
    #[serde(rename = "sequence_number", alias = "sequenceNumber")]
    Sequence,
    #[serde(rename = "sub_sequence_number", alias = "subSequenceNumber")]
    Sub,
    #[serde(other)]
    Other,
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut row: A) -> Result<Place, A::Error> {
                let mut place: Option<RecordId> = None;
                // The member before was the sequence number.
                let mut behind = false;
                while let Some(member) = row.next_key::<Member>()? {
                    match (member, &mut place) {
                        (Member::Sequence, None) => {
                            let Text(digits) = row.next_value()?;
                            let sequence = SequenceNumber::parse(&digits);
                            let sequence = sequence.ok_or_else(|| A::Error::custom("no sequence number"))?;
                            place = Some(RecordId { sequence, sub: None });
                            behind = true;
                            continue;
                        }
                        (Member::Sequence, Some(_)) => return Err(A::Error::custom("two sequence numbers")),
                        (Member::Sub, Some(place)) if behind => place.sub = Some(row.next_value()?),
                        _ => {
                            row.next_value::<IgnoredAny>()?;
                        }
                    }
                    behind = false;
                }
                place.map(Place).ok_or_else(|| A::Error::custom("no sequence number"))
            }
        }
        deserializer.deserialize_map(Look)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::{Builtin, ErrorCode, SourceKind, Transform, dead_letter_row};

    fn id(digits: &str, sub: Option<u64>) -> Option<RecordId> {
        Some(RecordId { sequence: SequenceNumber::parse(digits).unwrap(), sub })
    }

    #[test]
    fn rows_say_their_record_and_attributes_do_not() {
        for (line, expected) in [
            (r#"{"sequence_number":"17"}"#, id("17", None)),
            (
                r#"{"a":{"sequence_number":"9"},"sequence_number":"17","sub_sequence_number":0}"#,
                id("17", Some(0)),
            ),
            (r#"{"sequenceNumber":"17","subSequenceNumber":3,"x":1}"#, id("17", Some(3))),
            (r#"{"sequence_number":"17","a":1,"sub_sequence_number":3}"#, id("17", None)),
            (
                r#"{"sub_sequence_number":3,"sequence_number":"17","sub_sequence_numbers":"x"}"#,
                id("17", None),
            ),
            (r#"{"sequence_number":"17","is_deleted":false,"sub_sequence_number":"text"}"#, id("17", None)),
            (r#"{"sequence_number":"17","sub_sequence_number":"3"}"#, None),
            (r#"{"sequence_number":"17","sub_sequence_number":-1}"#, None),
            (r#"{"sequence_number":"17","sequenceNumber":"17"}"#, None),
            (r#"{"sequence_number":"x"}"#, None),
            (r#"{"sequence_number":17}"#, None),
            (r#"{"a":1}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(record_of(line.as_bytes()), expected, "{line}");
        }
    }

    proptest! {
        /// What a transform writes is what is read back, whatever attributes the record has.
        #[test]
        fn any_record_is_found_again(
            digits in "[0-9]{1,56}",
            sub: Option<u64>,
            attribute in prop::sample::select(vec!["sub_sequence_number", "sequence_number", "subSequenceNumber", "a"]),
            value in prop::sample::select(vec!["1", "\"1\"", "null", "{\"sequence_number\":\"5\"}"]),
        ) {
            let context = RecordContext {
                source: SourceKind::Kinesis,
                stream: None,
                shard_id: "shardId-0",
                sequence_number: &digits,
                sub_sequence: sub,
                key: None,
                arrival_us: 7, null: false,
            };
            let mut rows = Vec::new();
            let document = format!("{{\"{attribute}\":{value}}}");
            Builtin::json().start().apply(&context, document.as_bytes(), &mut rows).unwrap();
            prop_assert_eq!(record_of(&rows), id(&digits, sub));
            rows.clear();
            dead_letter_row(&context, &ErrorCode::NotJson.into(), b"x", &mut rows);
            prop_assert_eq!(record_of(&rows), id(&digits, sub));
        }
    }
}
