//! JSON with its numbers as text, read from plain JSON or from DynamoDB's typed values, so that the two can be
//! compared. Written apart from the pipeline's own decoder on purpose.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting that is read; DynamoDB allows 32 levels.
const DEPTH_MAX: usize = 64;

/// Why a text is not what it should be. Says no value.
pub(super) type Malformed = &'static str;

/// A JSON value. Members of maps are sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// The number's own text.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Map(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// The members of an object in the order of the text.
#[derive(Debug)]
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

/// Reads a plain JSON value.
pub(super) fn plain(raw: &RawValue) -> Result<Json<'_>, Malformed> {
    plain_at(raw, 0)
}

/// Reads a map of attribute values: an image, a key, an item.
pub(super) fn typed_map(raw: &RawValue) -> Result<Vec<(Cow<'_, str>, Json<'_>)>, Malformed> {
    typed_members(raw, 0)
}

/// A hash of anything, the same within one process.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Json<'_> {
    /// Forgets the order of lists, in which sets are written too: a set has none.
    pub(super) fn forget_order(&mut self) {
        match self {
            Self::List(members) => {
                members.iter_mut().for_each(Self::forget_order);
                members.sort_unstable();
            }
            Self::Map(members) => members.iter_mut().for_each(|(_, value)| value.forget_order()),
            _ => {}
        }
    }
}

fn plain_at(raw: &RawValue, depth: usize) -> Result<Json<'_>, Malformed> {
    // Typed values are at most DEPTH_MAX deep, and so are rows made from them, under the row itself.
    if depth > DEPTH_MAX + 1 {
        return Err("nested too deep");
    }
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'n') => Json::Null,
        Some(b't') => Json::Bool(true),
        Some(b'f') => Json::Bool(false),
        Some(b'"') => Json::Text(string(raw)?),
        Some(b'[') => Json::List(
            list(raw)?.into_iter().map(|member| plain_at(member, depth + 1)).collect::<Result<_, _>>()?,
        ),
        Some(b'{') => {
            let member = |(name, raw)| Ok::<_, Malformed>((name, plain_at(raw, depth + 1)?));
            Json::Map(sorted(members(raw)?.0.into_iter().map(member).collect::<Result<_, _>>()?)?)
        }
        _ => Json::Number(Cow::Borrowed(text)),
    })
}

/// Reads a DynamoDB attribute value: an object with one member, whose name is the type.
fn typed_at(raw: &RawValue, depth: usize) -> Result<Json<'_>, Malformed> {
    if depth > DEPTH_MAX {
        return Err("nested too deep");
    }
    let members = members(raw)?.0;
    let [(tag, value)] = &members[..] else { return Err("an attribute value needs exactly one type") };
    let value: &RawValue = value;
    Ok(match tag.as_ref() {
        "S" => Json::Text(string(value)?),
        "N" => number(value)?,
        "B" => binary(value)?,
        "BOOL" => match value.get() {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            _ => return Err("BOOL is neither true nor false"),
        },
        "NULL" if value.get() == "true" => Json::Null,
        "NULL" => return Err("NULL is not true"),
        "SS" => Json::List(
            list(value)?
                .into_iter()
                .map(|member| string(member).map(Json::Text))
                .collect::<Result<_, _>>()?,
        ),
        "NS" => Json::List(list(value)?.into_iter().map(number).collect::<Result<_, _>>()?),
        "BS" => Json::List(list(value)?.into_iter().map(binary).collect::<Result<_, _>>()?),
        "L" => Json::List(
            list(value)?.into_iter().map(|member| typed_at(member, depth + 1)).collect::<Result<_, _>>()?,
        ),
        "M" => Json::Map(sorted(typed_members(value, depth + 1)?)?),
        _ => return Err("unknown type of an attribute value"),
    })
}

fn typed_members(raw: &RawValue, depth: usize) -> Result<Vec<(Cow<'_, str>, Json<'_>)>, Malformed> {
    members(raw)?.0.into_iter().map(|(name, raw)| Ok((name, typed_at(raw, depth)?))).collect()
}

fn sorted<'a>(
    mut members: Vec<(Cow<'a, str>, Json<'a>)>,
) -> Result<Vec<(Cow<'a, str>, Json<'a>)>, Malformed> {
    members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err("a member occurs twice");
    }
    let lower: std::collections::HashSet<String> =
        members.iter().map(|(name, _)| name.to_lowercase()).collect();
    match lower.len() == members.len() {
        true => Ok(members),
        false => Err("names differ only by case"),
    }
}

fn members(raw: &RawValue) -> Result<Members<'_>, Malformed> {
    serde_json::from_str(raw.get()).map_err(|_| "expected an object")
}

fn list(raw: &RawValue) -> Result<Vec<&RawValue>, Malformed> {
    serde_json::from_str(raw.get()).map_err(|_| "expected an array")
}

/// The text of a JSON string.
pub(super) fn string(raw: &RawValue) -> Result<Cow<'_, str>, Malformed> {
    serde_json::from_str::<Text<'_>>(raw.get()).map(|text| text.0).map_err(|_| "expected a string")
}

/// DynamoDB writes a number as a string; some producers leave the quotes out.
fn number(raw: &RawValue) -> Result<Json<'_>, Malformed> {
    let text = match raw.get().starts_with('"') {
        true => string(raw)?,
        false => Cow::Borrowed(raw.get()),
    };
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<&RawValue>(&text).is_ok_and(|whole| whole.get() == text);
    match is_number && in_range(&text) {
        true => Ok(Json::Number(text)),
        false => Err("N is not a number"),
    }
}

/// What DynamoDB stores: up to 38 significant digits, 1E-130 to 9.99…E+125 either side of zero, and zero. Spelled so
/// that readers of the lake take it: up to 300 digits, an exponent that a number of that size can have.
fn in_range(number: &str) -> bool {
    // Nearly all of them.
    if number.len() <= 38 && !number.contains(['e', 'E']) {
        return true;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole.trim_start_matches('-'), fraction].concat();
    let Ok(exponent) = i32::try_from(exponent.parse::<i64>().unwrap_or(i64::MAX)) else { return false };
    let places = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
    if digits.len() > 300 || exponent < -1000 || exponent > 308 + places(fraction.len()) {
        return false;
    }
    let other_than_zero = |c: char| c != '0';
    let Some(first) = digits.find(other_than_zero) else { return true };
    let last = digits.rfind(other_than_zero).unwrap_or(first);
    let magnitude = places(digits.len()) - places(fraction.len()) - 1 - places(first) + exponent;
    last - first < 38 && (-130..=125).contains(&magnitude)
}

fn binary(raw: &RawValue) -> Result<Json<'_>, Malformed> {
    let text = string(raw)?;
    match base64_simd::STANDARD.check(text.as_bytes()) {
        Ok(()) => Ok(Json::Text(text)),
        Err(_) => Err("B is not base64"),
    }
}

/// A string that is borrowed where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(32);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn typed_values_equal_the_plain_json_they_stand_for() {
        for (from, to) in [
            (r#"{"S":"a\n\u00fc\"\ud83e\uddca"}"#, "\"a\\nü\\\"🧊\""),
            (r#"{"S":""}"#, r#""""#),
            (r#"{"N":"9007199254740993"}"#, "9007199254740993"),
            (
                r#"{"N":"9.9999999999999999999999999999999999999E+125"}"#,
                "9.9999999999999999999999999999999999999E+125",
            ),
            (r#"{"N":-12.5}"#, "-12.5"),
            (r#"{"B":"AAECA//+"}"#, r#""AAECA//+""#),
            (r#"{"BOOL":false}"#, "false"),
            (r#"{"NULL":true}"#, "null"),
            (r#"{"NS":["3","-1","0.5"]}"#, "[3,-1,0.5]"),
            (r#"{"SS":["b","a",""]}"#, r#"["b","a",""]"#),
            (r#"{"BS":["AQ==","/w=="]}"#, r#"["AQ==","/w=="]"#),
            (r#"{"L":[{"S":"SALE"},{"NULL":true},{"L":[{"N":"2"}]},{"M":{}}]}"#, r#"["SALE",null,[2],{}]"#),
            (r#"{"M":{"S":{"S":"x"},"N":{"N":"7"}}}"#, r#"{"N":7,"S":"x"}"#),
        ] {
            assert_eq!(typed_at(raw(from), 0).unwrap(), plain(raw(to)).unwrap(), "{from}");
        }
    }

    #[test]
    fn numbers_are_compared_by_their_text() {
        for (from, to) in [("1.0", "1"), ("1.50", "1.5"), ("1E2", "100"), ("0.1", "0.10")] {
            let from = format!(r#"{{"N":"{from}"}}"#);
            assert_ne!(typed_at(raw(&from), 0).unwrap(), plain(raw(to)).unwrap());
        }
    }

    /// Those that are refused make dead letters, which are not needless.
    #[test]
    fn numbers_are_those_of_dynamodb() {
        let nines = "9".repeat(38);
        for (number, stored) in [
            ("1E-130", true),
            ("-1e-130", true),
            (&format!("0.{}1", "0".repeat(129)), true),
            ("9.9999999999999999999999999999999999999E+125", true),
            (&format!("{nines}E+88"), true),
            (&format!("{nines}.000"), true),
            ("0", true),
            ("0E-999", true),
            (&format!("-0.{}", "0".repeat(299)), true),
            ("9E-131", false),
            (&format!("0.{}1", "0".repeat(130)), false),
            ("1E+126", false),
            ("10E+125", false),
            (&format!("{nines}9"), false),
            (&format!("1{}1", "0".repeat(37)), false),
            ("0E-1001", false),
            ("0E+309", false),
            (&format!("0.{}", "0".repeat(300)), false),
            ("1E99999999999999999999", false),
        ] {
            let from = format!(r#"{{"N":"{number}"}}"#);
            assert_eq!(typed_at(raw(&from), 0).is_ok(), stored, "{number}");
            let set = format!(r#"{{"NS":["1","{number}"]}}"#);
            assert_eq!(typed_at(raw(&set), 0).is_ok(), stored, "{number}");
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        let deep = format!("{}{}{}", r#"{"L":["#.repeat(70), r#"{"N":"1"}"#, "]}".repeat(70));
        for bad in [
            r#"{}"#,
            r#"{"S":"a","N":"1"}"#,
            r#"{"X":"a"}"#,
            r#"{"S":1}"#,
            r#"{"N":"1.2.3"}"#,
            r#"{"N":" 1"}"#,
            r#"{"N":"NaN"}"#,
            r#"{"N":"01"}"#,
            r#"{"N":"true"}"#,
            r#"{"N":""}"#,
            r#"{"B":"*"}"#,
            r#"{"BOOL":"true"}"#,
            r#"{"NULL":false}"#,
            r#"{"NS":["x"]}"#,
            r#"{"L":{}}"#,
            r#"{"M":[]}"#,
            r#"{"M":{"a":{"S":"1"},"a":{"S":"2"}}}"#,
            &deep,
        ] {
            assert!(typed_at(raw(bad), 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn order_of_sets_can_be_forgotten() {
        let read = |text: &'static str| {
            let mut value = plain(raw(text)).unwrap();
            value.forget_order();
            value
        };
        assert_eq!(read("[3,1,[2,1]]"), read("[[1,2],1,3]"));
        assert_ne!(read("[3,1]"), read("[3,1,1]"));
    }
}
