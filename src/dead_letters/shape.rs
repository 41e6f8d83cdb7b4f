//! The structure of a payload without its values: names and types.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// Different elements of a list that are told.
const ELEMENTS_MAX: usize = 8;

/// What a JSON document is made of. Member names are shown, values are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A value without parts, by the name of its type.
    Value(&'static str),
    /// A list: the different shapes of its elements.
    List(Vec<Shape>),
    /// An object: its members in their order.
    Map(Vec<(String, Shape)>),
}

impl Shape {
    /// The shape of one JSON document.
    ///
    /// # Errors
    /// Where it stops being JSON; without anything from the text.
    pub fn of(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| {
            // serde's own words may quote the text.
            format!("not JSON that can be shown (line {}, column {})", error.line(), error.column())
        })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Shape, E> {
                Ok(Shape::Value("null"))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
                Ok(Shape::Value("boolean"))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
                Ok(Shape::Value("number"))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
                Ok(Shape::Value("number"))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
                Ok(Shape::Value("number"))
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::Value("string"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shapes = Vec::new();
                while shapes.len() < ELEMENTS_MAX {
                    match list.next_element()? {
                        Some(shape) if shapes.contains(&shape) => {}
                        Some(shape) => shapes.push(shape),
                        None => return Ok(Shape::List(shapes)),
                    }
                }
                if list.next_element::<IgnoredAny>()?.is_some() {
                    shapes.push(Shape::Value("…"));
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                }
                Ok(Shape::List(shapes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Shape::Map(members))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(name) => serializer.serialize_str(name),
            Self::List(shapes) => {
                let mut list = serializer.serialize_seq(Some(shapes.len()))?;
                shapes.iter().try_for_each(|shape| list.serialize_element(shape))?;
                list.end()
            }
            Self::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, shape)| map.serialize_entry(name, shape))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_and_no_values() {
        let text = br#"{"a":"secret","b":[1,2.5,"secret",null],"c":{"d":true},"a":[]}"#;
        let shape = serde_json::to_string(&Shape::of(text).unwrap()).unwrap();
        let expected = r#"{"a":"string","b":["number","string","null"],"c":{"d":"boolean"},"a":[]}"#;
        assert_eq!(shape, expected);
        let many: Vec<String> = (0..20).map(|n| format!("{{\"m{n}\":0}}")).collect();
        let Shape::List(shapes) = Shape::of(format!("[{}]", many.join(",")).as_bytes()).unwrap() else {
            panic!("a list")
        };
        assert_eq!((shapes.len(), &shapes[8]), (9, &Shape::Value("…")));
    }

    #[test]
    fn what_is_no_json_is_said_without_quoting_it() {
        let deep = "[".repeat(10_000);
        for text in ["", "secret", "{\"secret\":secret}", "{\"a\":1} secret", "1e999", &deep] {
            let error = Shape::of(text.as_bytes()).unwrap_err();
            assert!(error.starts_with("not JSON that can be shown (line ") && !error.contains("secret"));
        }
    }
}
