//! DynamoDB JSON → JSON: visitors that write as they read, without a tree.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::image::{Image, Kind};
use super::number::{Number, Short};
use super::{DEPTH_MAX, ErrorCode};

/// serde_json stops at 128 JSON levels and each of ours takes two, so at this depth reading goes on in a
/// deserializer of its own. DynamoDB's items end here, so this costs nothing in practice.
const DEPTH_FRESH: usize = 32;

/// The type tags of the DynamoDB API, AttributeValue.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier)]
enum Tag {
    S,
    N,
    B,
    #[serde(rename = "BOOL")]
    Bool,
    #[serde(rename = "NULL")]
    Null,
    #[serde(rename = "SS")]
    Strings,
    #[serde(rename = "NS")]
    Numbers,
    #[serde(rename = "BS")]
    Binaries,
    L,
    M,
    #[serde(other)]
    Unknown,
}

/// Leaves the reason where `super::checked` finds it and stops serde.
pub(super) fn give_up<E: Error>(image: &mut Image, code: ErrorCode) -> E {
    image.fault = Some(code);
    E::custom("")
}

/// An image: name → tagged value. `null` counts as absent. Answers whether it is there.
pub(super) struct ImageSeed<'i>(pub(super) &'i mut Image);

impl<'de> DeserializeSeed<'de> for ImageSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ImageSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of attribute values")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        self.0.clear();
        while map.next_key_seed(MemberName(self.0))?.is_some() {
            let kind = map.next_value_seed(Value { image: self.0, depth: 0 })?;
            self.0.end_member(kind);
        }
        Ok(true)
    }
}

/// The key of an item: what of it the image lacks is added. `null` counts as absent.
pub(super) struct KeySeed<'i> {
    pub(super) image: &'i mut Image,
    pub(super) document: &'i [u8],
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of attribute values")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { image, document } = self;
        let before = image.members(document).len();
        while map.next_key_seed(MemberName(image))?.is_some() {
            if image.take_back_repeated(document, before) {
                map.next_value::<IgnoredAny>()?;
            } else {
                let kind = map.next_value_seed(Value { image, depth: 0 })?;
                image.end_member(kind);
            }
        }
        Ok(())
    }
}

/// Starts a member of the image with the name read.
pub(super) struct MemberName<'i>(pub(super) &'i mut Image);

impl<'de> DeserializeSeed<'de> for MemberName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for MemberName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.begin_member(name);
        Ok(())
    }
}

/// Writes a string, or a key with its colon.
struct Text<'i> {
    image: &'i mut Image,
    key: bool,
}

impl Text<'_> {
    fn end(self) {
        if self.key {
            self.image.out().push(b':');
        }
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        self.image.push_borrowed(text);
        self.end();
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.image.push_string(text);
        self.end();
        Ok(())
    }
}

/// Writes base64 after checking it.
struct Binary<'i>(&'i mut Image);

impl<'de> DeserializeSeed<'de> for Binary<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Binary<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if base64_simd::STANDARD.check(text.as_bytes()).is_err() {
            return Err(give_up(self.0, ErrorCode::BadBase64));
        }
        self.0.push_string(text);
        Ok(())
    }
}

/// Writes a number: DynamoDB's quoted one, or an unquoted one of other producers. Answers what it is, where it is short.
struct Digits<'i>(&'i mut Image);

impl<'de> DeserializeSeed<'de> for Digits<'_> {
    type Value = Option<Short>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Short>, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let text = match raw.as_bytes() {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Cow::Borrowed(inner),
            [b'"', ..] => {
                Cow::Owned(serde_json::from_str::<String>(raw).map_err(Error::custom)?.into_bytes())
            }
            [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(raw.as_bytes()),
            _ => return Err(give_up(self.0, ErrorCode::WrongJsonType)),
        };
        match Number::parse(&text) {
            Some(number) if number.fits_dynamodb() => {
                self.0.out().extend_from_slice(&text);
                Ok(Short::parse(&text))
            }
            _ => Err(give_up(self.0, ErrorCode::BadNumber)),
        }
    }
}

/// One tagged value; `depth` counts the lists and maps around it.
struct Value<'i> {
    image: &'i mut Image,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        if self.depth == DEPTH_FRESH {
            let raw = <&RawValue>::deserialize(deserializer)?.get();
            return serde_json::Deserializer::from_str(raw).deserialize_map(self).map_err(Error::custom);
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let Self { image, depth } = self;
        let Some(tag) = map.next_key::<Tag>()? else { return Err(give_up(image, ErrorCode::NoTag)) };
        let kind = match tag {
            Tag::S => {
                map.next_value_seed(Text { image, key: false })?;
                Kind::String
            }
            Tag::N => Kind::Number(map.next_value_seed(Digits(image))?),
            Tag::B => {
                map.next_value_seed(Binary(image))?;
                Kind::Other
            }
            Tag::Bool => {
                let text: &[u8] = if map.next_value()? { b"true" } else { b"false" };
                image.out().extend_from_slice(text);
                Kind::Other
            }
            Tag::Null => {
                // {"NULL": false} means nothing in DynamoDB.
                if !map.next_value::<bool>()? {
                    return Err(give_up(image, ErrorCode::WrongJsonType));
                }
                image.out().extend_from_slice(b"null");
                Kind::Null
            }
            Tag::Strings | Tag::Numbers | Tag::Binaries | Tag::L | Tag::M if depth == DEPTH_MAX => {
                return Err(give_up(image, ErrorCode::TooDeep));
            }
            Tag::Strings | Tag::Numbers | Tag::Binaries | Tag::L => {
                map.next_value_seed(List { image, of: tag, depth: depth + 1 })?;
                Kind::Other
            }
            Tag::M => {
                map.next_value_seed(Map { image, depth: depth + 1 })?;
                Kind::Other
            }
            Tag::Unknown => return Err(give_up(image, ErrorCode::UnknownType)),
        };
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(give_up(image, ErrorCode::TwoTags));
        }
        Ok(kind)
    }
}

/// A list or a set, `of` what its tag says.
struct List<'i> {
    image: &'i mut Image,
    of: Tag,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { image, of, depth } = self;
        image.out().push(b'[');
        let start = image.out().len();
        loop {
            let element = match of {
                Tag::Strings => seq.next_element_seed(Text { image, key: false })?,
                Tag::Numbers => seq.next_element_seed(Digits(image))?.map(|_| ()),
                Tag::Binaries => seq.next_element_seed(Binary(image))?,
                _ => seq.next_element_seed(Value { image, depth })?.map(|_| ()),
            };
            if element.is_none() {
                break;
            }
            image.out().push(b',');
        }
        close(image.out(), start, b']');
        Ok(())
    }
}

struct Map<'i> {
    image: &'i mut Image,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Map<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Map<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of attribute values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { image, depth } = self;
        image.open_map();
        let start = image.out().len();
        loop {
            let name = image.out().len();
            if map.next_key_seed(Text { image, key: true })?.is_none() {
                break;
            }
            image.note_name(name);
            map.next_value_seed(Value { image, depth })?;
            image.out().push(b',');
        }
        image.close_map().map_err(|code| give_up(image, code))?;
        close(image.out(), start, b'}');
        Ok(())
    }
}

/// Ends a list or map begun at `start`: the comma after the last element becomes the bracket.
fn close(out: &mut Vec<u8>, start: usize, bracket: u8) {
    if out.len() > start {
        out.pop();
    }
    out.push(bracket);
}
