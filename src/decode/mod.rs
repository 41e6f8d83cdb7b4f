//! Bytes of a record → change event.
//!
//! Owns: UTF-8, the CDC envelope, DynamoDB JSON, the units of the creation time, what makes a record malformed.
//! Does not own: which columns a row has (`transform`), base64 of the payload (`batch`).

mod attribute;
mod event;
mod hint;
mod image;
pub(crate) mod json;
mod names;
mod number;
mod object;
mod quick;

pub use event::{DeleteReason, Event, EventName, decode_event};
pub use image::{Image, Kind, Members};
pub use number::{Number, POWERS, Short};
pub use object::decode_object;

use std::fmt;

/// Why a record cannot become a row. The name is part of the key of its dead letter object: never rename one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The payload of the record is not base64.
    NotBase64,
    /// The payload is not UTF-8.
    NotUtf8,
    /// The payload is not one JSON document.
    NotJson,
    /// The document is not an object.
    NotObject,
    /// There is no `dynamodb` member.
    NoDynamodb,
    /// `eventName` is missing or none of INSERT, MODIFY, REMOVE.
    UnknownEventName,
    /// The creation time is missing, of an unknown precision or out of range.
    BadTime,
    /// The image that the row needs is missing.
    NoImage,
    /// An attribute has a type tag that DynamoDB does not know.
    UnknownType,
    /// An attribute has more than one type tag.
    TwoTags,
    /// An attribute has no type tag.
    NoTag,
    /// A number breaks the JSON grammar or DynamoDB's range.
    BadNumber,
    /// A binary attribute is not base64.
    BadBase64,
    /// A member has another JSON type than it must have.
    WrongJsonType,
    /// Lists and maps are nested deeper than the guard.
    TooDeep,
    /// Two members of an object have the same name.
    DuplicateName,
    /// A known attribute has another DynamoDB type than its column.
    WrongType,
    /// Two names of one object are one name for readers that fold case, or one column.
    AmbiguousNames,
    /// The payload is compressed.
    Compressed,
    /// The payload is several JSON documents.
    SeveralDocuments,
    /// The payload starts with the header of a schema registry.
    SchemaRegistry,
    /// The payload is an aggregate of the Kinesis Producer Library, where none is unpacked.
    KplAggregate,
    /// The payload begins like an aggregate of the Kinesis Producer Library, and cannot be unpacked.
    BadAggregate,
    /// The document is no reply of a market data provider, or one without prices.
    NoSnapshot,
    /// The transform panicked.
    TransformPanicked,
}

impl ErrorCode {
    /// All of them, in the order of the enum.
    pub const ALL: [Self; 25] = [
        Self::NotBase64,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
        Self::NoDynamodb,
        Self::UnknownEventName,
        Self::BadTime,
        Self::NoImage,
        Self::UnknownType,
        Self::TwoTags,
        Self::NoTag,
        Self::BadNumber,
        Self::BadBase64,
        Self::WrongJsonType,
        Self::TooDeep,
        Self::DuplicateName,
        Self::WrongType,
        Self::AmbiguousNames,
        Self::Compressed,
        Self::SeveralDocuments,
        Self::SchemaRegistry,
        Self::KplAggregate,
        Self::BadAggregate,
        Self::NoSnapshot,
        Self::TransformPanicked,
    ];

    /// The name in snake case, as in rows, keys and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotBase64 => "not_base64",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::NoDynamodb => "no_dynamodb",
            Self::UnknownEventName => "unknown_event_name",
            Self::BadTime => "bad_time",
            Self::NoImage => "no_image",
            Self::UnknownType => "unknown_type",
            Self::TwoTags => "two_tags",
            Self::NoTag => "no_tag",
            Self::BadNumber => "bad_number",
            Self::BadBase64 => "bad_base64",
            Self::WrongJsonType => "wrong_json_type",
            Self::TooDeep => "too_deep",
            Self::DuplicateName => "duplicate_name",
            Self::WrongType => "wrong_type",
            Self::AmbiguousNames => "ambiguous_names",
            Self::Compressed => "compressed",
            Self::SeveralDocuments => "several_documents",
            Self::SchemaRegistry => "schema_registry",
            Self::KplAggregate => "kpl_aggregate",
            Self::BadAggregate => "bad_aggregate",
            Self::NoSnapshot => "no_snapshot",
            Self::TransformPanicked => "transform_panicked",
        }
    }

    /// What is wrong, for people; never with anything from the record.
    fn reason(self) -> &'static str {
        match self {
            Self::NotBase64 => "the payload is not standard base64",
            Self::NotUtf8 => "the payload is not UTF-8",
            Self::NotJson => "the payload is not one JSON document",
            Self::NotObject => "the JSON document is not an object",
            Self::NoDynamodb => "the change record has no member dynamodb",
            Self::UnknownEventName => "eventName is missing or none of INSERT, MODIFY, REMOVE",
            Self::BadTime => "the creation time is missing, of unknown precision or out of range",
            Self::NoImage => "the change record lacks the image that the row needs",
            Self::UnknownType => "an attribute has an unknown type tag",
            Self::TwoTags => "an attribute has more than one type tag",
            Self::NoTag => "an attribute has no type tag",
            Self::BadNumber => {
                "a number breaks the JSON grammar, or is larger, smaller or longer than readers take"
            }
            Self::BadBase64 => "a binary attribute is not standard base64",
            Self::WrongJsonType => "a member has another JSON type than it must have",
            Self::TooDeep => "lists and maps are nested deeper than 64 levels",
            Self::DuplicateName => "two members of one object have the same name",
            Self::WrongType => "a known attribute has another type than its column",
            Self::AmbiguousNames => "two names in one map are the same for readers that fold case",
            Self::Compressed => "the payload is compressed",
            Self::SeveralDocuments => {
                "the payload is several JSON documents: put each into a record of its own"
            }
            Self::SchemaRegistry => "the payload starts with the header of a schema registry",
            Self::KplAggregate => {
                "the payload is an aggregate of the Kinesis Producer Library inside another one, or in a stream whose \
                 aggregates are not unpacked"
            }
            Self::BadAggregate => {
                "the payload begins like an aggregate of the Kinesis Producer Library and cannot be unpacked"
            }
            Self::NoSnapshot => "the document is no reply of a market data provider, or one without prices",
            Self::TransformPanicked => {
                "the transform panicked at this record, which is an error of the program"
            }
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that cannot become a row. It is data: it goes to the lake as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct BadRecord {
    /// The kind of trouble.
    pub code: ErrorCode,
    /// What is wrong and where; never an item's value, which may be personal data.
    pub message: String,
}

impl From<ErrorCode> for BadRecord {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: code.reason().to_owned() }
    }
}

/// Lists and maps in one another that a record may have. DynamoDB itself stops at 32.
const DEPTH_MAX: usize = 64;

/// The text of a document.
///
/// # Errors
/// When the bytes are not UTF-8.
pub(crate) fn document_text(data: &[u8]) -> Result<&str, BadRecord> {
    utf8(data)
}

/// The reason for an error of serde_json about a whole document.
pub(crate) fn not_read(error: &serde_json::Error, data: &[u8]) -> BadRecord {
    let code = match error.classify() {
        serde_json::error::Category::Data => ErrorCode::WrongJsonType,
        _ => ErrorCode::NotJson,
    };
    refused(code, error, data)
}

/// Checks UTF-8 once, for the whole record: serde_json can then borrow strings without checking each.
fn utf8(data: &[u8]) -> Result<&str, BadRecord> {
    simdutf8::basic::from_utf8(data)
        .map_err(|_| hint::explained(ErrorCode::NotUtf8, data).unwrap_or(ErrorCode::NotUtf8.into()))
}

/// Turns an error of serde_json about `data` into the reason, which the visitors have left in `image` if they found it.
fn checked(outcome: serde_json::Result<()>, data: &[u8], image: &mut Image) -> Result<(), BadRecord> {
    outcome.map_err(|error| {
        let code = image.fault.take().unwrap_or(match error.classify() {
            serde_json::error::Category::Data => ErrorCode::WrongJsonType,
            _ => ErrorCode::NotJson,
        });
        refused(code, &error, data)
    })
}

fn refused(code: ErrorCode, error: &serde_json::Error, data: &[u8]) -> BadRecord {
    if let Some(bad) = hint::explained(code, data) {
        return bad;
    }
    // The text of serde's errors may quote values; the place does not.
    let message = format!("{} (line {}, column {})", code.reason(), error.line(), error.column());
    BadRecord { code, message }
}

#[cfg(test)]
mod tests;
