//! A line of an object of prices → a price, with the columns of the table `analytics_prices`.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::clock::utc;
use crate::decode::Number;
use crate::insights::row::{NotARow, text};

/// The last second that tables and pages can write.
const LAST_S: i64 = 253_402_300_799;
/// A number with more letters than this stays as the provider wrote it.
const PLAIN_MAX: usize = 40;

/// The price of a coin in a snapshot. In JSON numbers are texts, so that no digit is lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Price {
    pub(super) id: String,
    pub(super) symbol: Option<String>,
    pub(super) name: Option<String>,
    pub(super) current_price: Option<Figure>,
    #[serde(serialize_with = "digits")]
    pub(super) market_cap: Option<i64>,
    pub(super) market_cap_rank: Option<i32>,
    #[serde(serialize_with = "digits")]
    pub(super) volume_24h: Option<i64>,
    pub(super) price_change_pct_1h: Option<Figure>,
    pub(super) price_change_pct_24h: Option<Figure>,
    pub(super) price_change_pct_7d: Option<Figure>,
    /// Of the snapshot, in seconds.
    #[serde(rename = "snapshot_time", serialize_with = "time")]
    pub(super) at: i64,
}

/// A number as the provider wrote it, without an exponent. Never computed with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) text: Box<str>,
    /// For pictures, and for the order, which is that of doubles as in SQL.
    pub(super) about: f64,
}

/// What a line is.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A price, and how many of its values could not be used.
    Price(Box<Price>, u64),
    /// It has no id, or no time: the load leaves it out too.
    WithoutKey,
}

#[derive(Deserialize)]
struct Columns<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    symbol: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    current_price: Option<&'a RawValue>,
    #[serde(borrow)]
    market_cap: Option<&'a RawValue>,
    #[serde(borrow)]
    market_cap_rank: Option<&'a RawValue>,
    #[serde(borrow)]
    volume_24h: Option<&'a RawValue>,
    #[serde(borrow)]
    price_change_pct_1h: Option<&'a RawValue>,
    #[serde(borrow)]
    price_change_pct_24h: Option<&'a RawValue>,
    #[serde(borrow)]
    price_change_pct_7d: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    unusable: Option<&'a RawValue>,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is no JSON object, or its id or a name is not a text.
    pub(super) fn parse(line: &[u8]) -> Result<Self, NotARow> {
        let line = simdutf8::basic::from_utf8(line).map_err(|_| NotARow::Json)?;
        let columns: Columns<'_> = serde_json::from_str(line).map_err(|_| NotARow::Json)?;
        let id = text("id", columns.id)?.filter(|id| !id.is_empty());
        let at = columns.timestamp.and_then(|at| unquoted(at).parse().ok());
        let (Some(id), Some(at @ 0..=LAST_S)) = (id, at) else { return Ok(Self::WithoutKey) };
        // What the transform set aside: its column is null, and the row says so.
        let mut odd = u64::from(columns.unusable.is_some());
        let mut figure = |json: Option<&RawValue>| {
            let found = json.map(|json| Figure::parse(unquoted(json)));
            odd += u64::from(found == Some(None));
            found.flatten()
        };
        let current_price = figure(columns.current_price);
        let [price_change_pct_1h, price_change_pct_24h, price_change_pct_7d] =
            [columns.price_change_pct_1h, columns.price_change_pct_24h, columns.price_change_pct_7d]
                .map(&mut figure);
        let mut whole = |json: Option<&RawValue>, limit: i128| {
            let found = json.map(|json| whole(unquoted(json), limit));
            odd += u64::from(found == Some(None));
            found.flatten()
        };
        let [market_cap, volume_24h] =
            [columns.market_cap, columns.volume_24h].map(|json| whole(json, 1 << 63));
        let rank = whole(columns.market_cap_rank, 1 << 31);
        let price = Price {
            id: id.into_owned(),
            symbol: text("symbol", columns.symbol)?.map(Into::into),
            name: text("name", columns.name)?.map(Into::into),
            current_price,
            market_cap,
            market_cap_rank: rank.and_then(|rank| rank.try_into().ok()),
            volume_24h,
            price_change_pct_1h,
            price_change_pct_24h,
            price_change_pct_7d,
            at,
        };
        Ok(Self::Price(Box::new(price), odd))
    }
}

impl Price {
    /// Coins and moments in their order, and which of two prices of a coin in one snapshot the load takes: the least value by
    /// value, null after all others.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        fn last<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Ordering {
            match (a, b) {
                (Some(a), Some(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
                (a, b) => a.is_none().cmp(&b.is_none()),
            }
        }
        let figures = |price: &Self| {
            [&price.price_change_pct_1h, &price.price_change_pct_24h, &price.price_change_pct_7d]
                .map(|figure| figure.as_ref().map(|figure| figure.about))
        };
        let about = |figure: &Option<Figure>| figure.as_ref().map(|figure| figure.about);
        let changes = || figures(self).into_iter().zip(figures(other)).map(|(a, b)| last(a, b));
        (&self.id, self.at)
            .cmp(&(&other.id, other.at))
            .then_with(|| last(self.market_cap_rank, other.market_cap_rank))
            .then_with(|| last(about(&self.current_price), about(&other.current_price)))
            .then_with(|| last(self.market_cap, other.market_cap))
            .then_with(|| last(self.volume_24h, other.volume_24h))
            .then_with(|| changes().find(|order| order.is_ne()).unwrap_or(Ordering::Equal))
            .then_with(|| last(self.symbol.as_ref(), other.symbol.as_ref()))
            .then_with(|| last(self.name.as_ref(), other.name.as_ref()))
    }
}

impl Figure {
    /// A number in the grammar of JSON that a double can hold; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        Number::parse(text.as_bytes()).filter(Number::fits_readers)?;
        Some(Self { text: plain(text).into(), about: text.parse().ok()? })
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

/// Rounded half away from zero, as in the load.
fn whole(text: &str, limit: i128) -> Option<i64> {
    let number = Number::parse(text.as_bytes()).filter(Number::fits_readers)?;
    i64::try_from(number.scaled(0, limit)?).ok()
}

/// A number in quotes is that number.
fn unquoted(json: &RawValue) -> &str {
    json.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json.get())
}

/// `9.52e-06` is `0.00000952`. Zeros that the provider wrote stay.
fn plain(number: &str) -> String {
    let Some((digits, exponent)) = number.split_once(['e', 'E']) else { return number.to_owned() };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // Digits before the point; below zero the zeros behind it.
    let point =
        exponent.parse::<i64>().ok().and_then(|point| point.checked_add(i64::try_from(whole.len()).ok()?));
    let size = point.and_then(|point| usize::try_from(point.unsigned_abs()).ok());
    let (Some(point), Some(size @ 0..=PLAIN_MAX)) = (point, size) else { return number.to_owned() };
    let all = format!("{whole}{fraction}");
    let text = match point {
        1.. if size >= all.len() => format!("{all}{}", "0".repeat(size - all.len())),
        1.. => format!("{}.{}", &all[..size], &all[size..]),
        _ => format!("0.{}{all}", "0".repeat(size)),
    };
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let whole = whole.trim_start_matches('0');
    format!("{sign}{}{rest}", if whole.is_empty() { "0" } else { whole })
}

pub(super) fn time<S: Serializer>(at: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    utc(at.saturating_mul(1_000_000)).serialize(serializer)
}

fn digits<S: Serializer>(number: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(|number| number.to_string()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(members: &str) -> (Price, u64) {
        match Line::parse(format!("{{\"id\":\"x\",\"timestamp\":5,{members}}}").as_bytes()) {
            Ok(Line::Price(price, odd)) => (*price, odd),
            other => panic!("{members}: {other:?}"),
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_have_no_exponent() {
        for (written, shown) in [
            ("0.10", "0.10"),
            ("9.52e-06", "0.00000952"),
            ("-1.5E2", "-150"),
            ("1.25e1", "12.5"),
            ("0.5e1", "5"),
            ("12e-2", "0.12"),
            ("1e300", "1e300"),
            ("1.2345678901234567e-07", "0.00000012345678901234567"),
        ] {
            assert_eq!(&*Figure::parse(written).unwrap().text, shown);
        }
        for refused in ["n/a", "", "1e999", "NaN", "01", "1e-999"] {
            assert_eq!(Figure::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn whole_columns_are_rounded_and_what_is_no_number_is_null_and_counted() {
        let (found, odd) = price(r#""market_cap":376550123456.75,"market_cap_rank":"7.0","volume_24h":2.5"#);
        assert_eq!(
            (found.market_cap, found.market_cap_rank, found.volume_24h, odd),
            (Some(376_550_123_457), Some(7), Some(3), 0)
        );
        let (found, odd) = price(
            r#""current_price":"soon","market_cap":1e300,"market_cap_rank":3000000000,"volume_24h":"","price_change_pct_1h":{}"#,
        );
        assert_eq!((found.market_cap, found.market_cap_rank, odd), (None, None, 5));
        assert_eq!(price(r#""market_cap":null,"unusable":"{}""#).1, 1);
        let json =
            serde_json::to_value(price(r#""current_price":1e-2,"market_cap":9007199254740993"#).0).unwrap();
        assert_eq!(
            (&json["current_price"], &json["market_cap"]),
            (&"0.01".into(), &"9007199254740993".into())
        );
        assert_eq!(json["snapshot_time"], "1970-01-01T00:00:05Z");
    }

    #[test]
    fn a_line_without_id_or_time_is_no_price() {
        for line in [
            r#"{"id":"","timestamp":5}"#,
            r#"{"id":"x"}"#,
            r#"{"id":"x","timestamp":"soon"}"#,
            r#"{"id":"x","timestamp":-1}"#,
            "{}",
        ] {
            assert_eq!(Line::parse(line.as_bytes()), Ok(Line::WithoutKey), "{line}");
        }
        assert!(matches!(Line::parse(br#"{"id":"x","timestamp":"5"}"#), Ok(Line::Price(..))));
        assert_eq!(Line::parse(br#"{"id":5,"timestamp":5}"#), Err(NotARow::Type("id", "a text")));
        assert_eq!(Line::parse(b"rubbish"), Err(NotARow::Json));
    }
}
