//! The CDC envelope of DynamoDB changes: Kinesis Data Streams for DynamoDB, and records of DynamoDB Streams.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::attribute::{ImageSeed, KeySeed, give_up};
use super::image::{Image, Members};
use super::number::{Number, Short};
use super::{BadRecord, ErrorCode, checked, quick, utf8};

/// What happened to the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventName {
    /// A new item.
    Insert,
    /// A changed item.
    Modify,
    /// A deleted item.
    Remove,
}

impl EventName {
    /// The name as the stream spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Modify => "MODIFY",
            Self::Remove => "REMOVE",
        }
    }

    /// The event that the stream spells so.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        [Self::Insert, Self::Modify, Self::Remove].into_iter().find(|event| event.as_str().as_bytes() == name)
    }
}

/// Who deleted the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteReason {
    /// A caller of the table.
    User,
    /// DynamoDB, because the item's time to live was over.
    Ttl,
}

/// One change without its image. Texts are UTF-8 that nobody has to check again.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// `eventID`; a hint only, not promised to be equal on duplicates.
    pub id: Option<Cow<'a, [u8]>>,
    /// What happened.
    pub name: EventName,
    /// Creation time, µs since the epoch, 0 to the end of the year 9999.
    pub created_us: i64,
    /// Name of the table, taken out of the ARN where the record has one.
    pub table_name: Option<Cow<'a, [u8]>>,
    /// `dynamodb.SequenceNumber`, which only DynamoDB Streams has.
    pub sequence_number: Option<Cow<'a, [u8]>>,
    /// Who deleted the item, on REMOVE.
    pub delete_reason: Option<DeleteReason>,
}

/// Reads one change record, and the members of the image that makes the row: the new one, on REMOVE the old one where
/// the stream has it; and the key in any case.
pub fn decode_event<'a>(data: &'a [u8], image: &'a mut Image) -> Result<(Event<'a>, Members<'a>), BadRecord> {
    image.begin(data);
    let fields = match image.try_quick(|image| quick::read(data, image)) {
        Some(fields) => fields,
        None => general(data, image)?,
    };
    let event = fields.finish(data, image)?;
    Ok((event, image.members(data)))
}

/// Reads any record.
fn general<'a>(data: &'a [u8], image: &mut Image) -> Result<Fields<'a>, BadRecord> {
    let text = utf8(data)?;
    image.begin_borrowed(data);
    let mut fields = Fields::default();
    let mut document = serde_json::Deserializer::from_str(text);
    let envelope = Envelope { fields: &mut fields, image: &mut *image };
    let outcome = envelope.deserialize(&mut document).and_then(|()| document.end());
    checked(outcome, data, image)?;
    Ok(fields)
}

/// What the readers collect.
#[derive(Default)]
pub(super) struct Fields<'de> {
    pub(super) id: Text<'de>,
    pub(super) name: Option<EventName>,
    pub(super) table_name: Text<'de>,
    pub(super) source_arn: Text<'de>,
    pub(super) by_ttl: bool,
    pub(super) change_seen: bool,
    /// The `dynamodb` member, where it came before `eventName` and so before we knew which image to read.
    deferred: Option<&'de RawValue>,
    pub(super) created: Option<&'de [u8]>,
    pub(super) precision: Text<'de>,
    pub(super) sequence_number: Text<'de>,
    pub(super) keys: Option<&'de [u8]>,
    pub(super) image_seen: bool,
}

impl<'de> Fields<'de> {
    fn finish(mut self, data: &[u8], image: &mut Image) -> Result<Event<'de>, BadRecord> {
        if !self.change_seen {
            return Err(ErrorCode::NoDynamodb.into());
        }
        let name = self.name.ok_or(ErrorCode::UnknownEventName)?;
        if let Some(raw) = self.deferred.take() {
            let mut change = serde_json::Deserializer::from_str(raw.get());
            let outcome = Change { fields: &mut self, image: &mut *image, name }.deserialize(&mut change);
            checked(outcome, data, image)?;
        }
        let created_us = self
            .created
            .and_then(|text| micros(text, self.precision.as_bytes()))
            .ok_or(ErrorCode::BadTime)?;
        if !self.image_seen {
            // A deletion is known by its key alone; any other change needs the item.
            if name != EventName::Remove {
                return Err(ErrorCode::NoImage.into());
            }
            image.clear();
        }
        if let Some(keys) = self.keys
            && !has_only_key(image.members(data), keys)
        {
            let mut key = serde_json::Deserializer::from_str(utf8(keys)?);
            checked(KeySeed { image, document: data }.deserialize(&mut key), data, image)?;
        }
        if image.members(data).is_empty() {
            return Err(ErrorCode::NoImage.into());
        }
        let reason = if self.by_ttl { DeleteReason::Ttl } else { DeleteReason::User };
        Ok(Event {
            id: self.id.0,
            name,
            created_us,
            table_name: self.table_name.0.or(self.source_arn.0).map(table_of),
            sequence_number: self.sequence_number.0,
            delete_reason: (name == EventName::Remove).then_some(reason),
        })
    }
}

/// True for a key of one attribute that the image has, without white space: nearly always so, and seen without parsing.
fn has_only_key(members: Members<'_>, keys: &[u8]) -> bool {
    let Some(named) = keys.strip_prefix(b"{\"") else { return false };
    (0..members.len()).any(|index| {
        let typed = named.strip_prefix(members.name(index)).and_then(|rest| rest.strip_prefix(b"\":{\""));
        let Some([_, b'"', b':', b'"', value @ ..]) = typed else { return false };
        memchr::memchr2(b'"', b'\\', value).is_some_and(|end| value[end..] == *b"\"}}")
    })
}

/// The table's name out of `arn:aws:dynamodb:…:table/NAME/stream/…`; any other text as it is.
fn table_of(text: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    const MARK: &[u8] = b":table/";
    let of_arn = |text: &[u8]| {
        let arn = text.strip_prefix(b"arn:")?;
        let name = &arn[arn.windows(MARK.len()).position(|window| window == MARK)? + MARK.len()..];
        Some(name.split(|byte| *byte == b'/').next().unwrap_or(name).to_owned())
    };
    match of_arn(&text) {
        Some(name) => Cow::Owned(name),
        None => text,
    }
}

/// The last microsecond of the year 9999, the last that ISO 8601 writes with four digits.
const TIME_MAX_US: i128 = 253_402_300_799_999_999;

/// The creation time in µs. Precision tells the unit; without one the size does: below 1e11 seconds, 1e14 ms,
/// 1e17 µs, else ns.
fn micros(text: &[u8], precision: Option<&[u8]>) -> Option<i64> {
    // As DynamoDB writes it to a stream.
    if precision == Some(b"MICROSECOND")
        && let Some(micros) = Short::parse(text).and_then(Short::whole)
    {
        return i64::try_from(micros).ok().filter(|micros| i128::from(*micros) <= TIME_MAX_US);
    }
    let number = Number::parse(text).filter(|number| !number.is_negative())?;
    let limit = 10i128.pow(25);
    let micros = match precision {
        Some(b"MICROSECOND") => number.scaled(0, limit),
        Some(b"MILLISECOND") => number.scaled(3, limit),
        Some(_) => None,
        None => match number.scaled(0, limit)? {
            size if size < 10i128.pow(11) => number.scaled(6, limit),
            size if size < 10i128.pow(14) => number.scaled(3, limit),
            size if size < 10i128.pow(17) => Some(size),
            nanos => Some(nanos / 1000),
        },
    }?;
    i64::try_from(micros).ok().filter(|_| micros <= TIME_MAX_US)
}

/// Optional text that borrows where it can, also inside other types (serde's own `Option<Cow>` always copies).
#[derive(Default)]
pub(super) struct Text<'de>(pub(super) Option<Cow<'de, [u8]>>);

impl Text<'_> {
    pub(super) fn as_bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text.as_bytes()))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.as_bytes().to_owned()))))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// Who made the change, where it was not a caller. The API writes capitals, Lambda does not.
#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow, default, rename = "type", alias = "Type")]
    kind: Text<'a>,
    #[serde(borrow, default, rename = "principalId", alias = "PrincipalId")]
    principal: Text<'a>,
}

impl Identity<'_> {
    fn is_ttl(&self) -> bool {
        self.kind.as_bytes() == Some(b"Service")
            && self.principal.as_bytes() == Some(b"dynamodb.amazonaws.com")
    }
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum EnvelopeMember {
    #[serde(rename = "eventID")]
    Id,
    #[serde(rename = "eventName")]
    Name,
    #[serde(rename = "tableName")]
    TableName,
    #[serde(rename = "eventSourceARN")]
    SourceArn,
    #[serde(rename = "userIdentity")]
    Identity,
    #[serde(rename = "dynamodb")]
    Change,
    #[serde(other)]
    Other,
}

struct Envelope<'f, 'de> {
    fields: &'f mut Fields<'de>,
    image: &'f mut Image,
}

impl<'de> DeserializeSeed<'de> for Envelope<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, image } = self;
        while let Some(member) = map.next_key()? {
            match member {
                EnvelopeMember::Id => fields.id = map.next_value()?,
                EnvelopeMember::Name => {
                    fields.name = map.next_value::<Text<'_>>()?.as_bytes().and_then(EventName::parse);
                    if fields.name.is_none() {
                        return Err(give_up(image, ErrorCode::UnknownEventName));
                    }
                }
                EnvelopeMember::TableName => fields.table_name = map.next_value()?,
                EnvelopeMember::SourceArn => fields.source_arn = map.next_value()?,
                EnvelopeMember::Identity => {
                    fields.by_ttl = map.next_value::<Option<Identity<'_>>>()?.is_some_and(|who| who.is_ttl());
                }
                EnvelopeMember::Change => {
                    if std::mem::replace(&mut fields.change_seen, true) {
                        return Err(give_up(image, ErrorCode::DuplicateName));
                    }
                    match fields.name {
                        Some(name) => map.next_value_seed(Change { fields, image: &mut *image, name })?,
                        None => fields.deferred = Some(map.next_value()?),
                    }
                }
                EnvelopeMember::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum ChangeMember {
    #[serde(rename = "ApproximateCreationDateTime")]
    Created,
    #[serde(rename = "ApproximateCreationDateTimePrecision")]
    Precision,
    SequenceNumber,
    Keys,
    NewImage,
    OldImage,
    #[serde(other)]
    Other,
}

/// The `dynamodb` member. Of the two images only the one that makes the row is looked into.
struct Change<'f, 'de> {
    fields: &'f mut Fields<'de>,
    image: &'f mut Image,
    name: EventName,
}

impl<'de> DeserializeSeed<'de> for Change<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Change<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the dynamodb member")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { fields, image, name } = self;
        while let Some(member) = map.next_key()? {
            match (member, name) {
                (ChangeMember::Created, _) => {
                    fields.created = Some(map.next_value::<&RawValue>()?.get().as_bytes())
                }
                (ChangeMember::Precision, _) => fields.precision = map.next_value()?,
                (ChangeMember::SequenceNumber, _) => fields.sequence_number = map.next_value()?,
                (ChangeMember::Keys, _) => {
                    fields.keys = Some(map.next_value::<&RawValue>()?.get().as_bytes())
                }
                (ChangeMember::NewImage, EventName::Insert | EventName::Modify)
                | (ChangeMember::OldImage, EventName::Remove) => {
                    if fields.image_seen {
                        return Err(give_up(image, ErrorCode::DuplicateName));
                    }
                    fields.image_seen = map.next_value_seed(ImageSeed(image))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
