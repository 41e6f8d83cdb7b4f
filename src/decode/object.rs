//! Any JSON object → its members, values as they are written.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::attribute::{MemberName, give_up};
use super::hint::explained;
use super::image::{Image, Kind, Members};
use super::{BadRecord, ErrorCode, checked, utf8};

/// Reads the members of one JSON object: values stay as written (numbers keep every digit), without white space.
pub fn decode_object<'a>(data: &'a [u8], image: &'a mut Image) -> Result<Members<'a>, BadRecord> {
    let text = utf8(data)?;
    image.begin(data);
    let mut document = serde_json::Deserializer::from_str(text);
    let outcome = Object(&mut *image).deserialize(&mut document).and_then(|()| document.end());
    checked(outcome, data, image).map_err(|bad| match bad.code {
        // Members may be of any type, so only the document itself can be of a wrong one.
        ErrorCode::WrongJsonType => {
            explained(ErrorCode::NotObject, data).unwrap_or(ErrorCode::NotObject.into())
        }
        _ => bad,
    })?;
    Ok(image.members(data))
}

struct Object<'i>(&'i mut Image);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(MemberName(self.0))?.is_some() {
            let value: &RawValue = map.next_value()?;
            self.0.push_compact(value.get()).map_err(|code| give_up(self.0, code))?;
            self.0.end_member(Kind::Other);
        }
        Ok(())
    }
}
