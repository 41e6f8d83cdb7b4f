//! An entry of a reply → the columns of its row. Numbers keep their digits, also those in strings.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::reply::{Provider, is_null, time_us};
use crate::decode::Number;
use crate::decode::json::push_string;
use crate::transform::Utc;
use crate::transform::row::push_digits;

/// Text of a document, borrowed from it where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Number,
}

/// A column, and the members of an entry of which the first that can be used fills it.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) column: &'static str,
    pub(super) holds: Holds,
    members: &'static [&'static str],
}

const fn text(column: &'static str, members: &'static [&'static str]) -> Field {
    Field { column, holds: Holds::Text, members }
}

const fn number(column: &'static str, members: &'static [&'static str]) -> Field {
    Field { column, holds: Holds::Number, members }
}

const COINGECKO: [Field; 10] = [
    text("id", &["id"]),
    text("symbol", &["symbol"]),
    text("name", &["name"]),
    number("current_price", &["current_price"]),
    number("market_cap", &["market_cap"]),
    number("market_cap_rank", &["market_cap_rank"]),
    number("volume_24h", &["total_volume"]),
    number("price_change_pct_1h", &["price_change_percentage_1h_in_currency"]),
    number(
        "price_change_pct_24h",
        &["price_change_percentage_24h_in_currency", "price_change_percentage_24h"],
    ),
    number("price_change_pct_7d", &["price_change_percentage_7d_in_currency"]),
];

const COINCAP: [Field; 12] = [
    text("id", &["id"]),
    text("symbol", &["symbol"]),
    text("name", &["name"]),
    number("rank", &["rank"]),
    number("price_usd", &["priceUsd"]),
    number("change_percent_24hr", &["changePercent24Hr"]),
    number("volume_usd_24hr", &["volumeUsd24Hr"]),
    number("market_cap_usd", &["marketCapUsd"]),
    number("supply", &["supply"]),
    number("max_supply", &["maxSupply"]),
    number("vwap_usd_24hr", &["vwap24Hr", "vwapUsd24Hr"]),
    text("logo", &["logo"]),
];

/// Fields of the provider that has most, and members of the field that has most.
const FIELDS_MAX: usize = COINCAP.len();
const MEMBERS_MAX: usize = 2;

/// The columns of a provider's rows that are filled from an entry.
pub(super) fn fields(provider: Provider) -> &'static [Field] {
    match provider {
        Provider::CoinGecko => &COINGECKO,
        Provider::CoinCap => &COINCAP,
    }
}

/// One entry, its members as they are written.
pub(super) struct Entry<'a> {
    provider: Provider,
    values: [[Option<&'a RawValue>; MEMBERS_MAX]; FIELDS_MAX],
    /// Its own time, which entries of CoinCap may have.
    timestamp: Option<&'a RawValue>,
    /// What fits no column although it has the name of one.
    unusable: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// All of it, where it is no object at all.
    whole: Option<&'a RawValue>,
}

impl<'a> Entry<'a> {
    pub(super) fn read(provider: Provider, entry: &'a RawValue) -> Self {
        let mut found = Self {
            provider,
            values: [[None; MEMBERS_MAX]; FIELDS_MAX],
            timestamp: None,
            unusable: Vec::new(),
            whole: None,
        };
        if serde_json::Deserializer::from_str(entry.get()).deserialize_map(Fill(&mut found)).is_err() {
            found = Self {
                values: [[None; MEMBERS_MAX]; FIELDS_MAX],
                timestamp: None,
                unusable: Vec::new(),
                ..found
            };
            found.whole = Some(entry);
        }
        found
    }

    /// The place of a member; `None` for those that no column is filled from.
    fn place(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        if self.provider == Provider::CoinCap && name == "timestamp" {
            return Some(&mut self.timestamp);
        }
        fields(self.provider).iter().zip(&mut self.values).find_map(|(field, values)| {
            let member = field.members.iter().position(|member| *member == name)?;
            Some(&mut values[member])
        })
    }

    /// Its id, where it has one.
    pub(super) fn id(&self) -> Option<Cow<'a, str>> {
        self.values[0][0].and_then(usable_text)
    }

    /// The time of its row: its own, else that of the reply.
    pub(super) fn time_us(&mut self, fetched_us: i64) -> i64 {
        match self.timestamp.map(|value| (value, time_us(value))) {
            Some((_, Ok(Some(us)))) => us,
            Some((value, Err(_))) => {
                self.unusable.push((Cow::Borrowed("timestamp"), value));
                fetched_us
            }
            _ => fetched_us,
        }
    }

    /// Appends its columns, without braces.
    pub(super) fn push(mut self, us: i64, row: &mut Vec<u8>) {
        let coincap = self.provider == Provider::CoinCap;
        let utc = Utc::from_us(us);
        if coincap {
            row.extend_from_slice(b"\"event_time\":\"");
            utc.push_iso_ms(row);
            row.extend_from_slice(b"\",");
        }
        for (index, field) in fields(self.provider).iter().enumerate() {
            if index > 0 {
                row.push(b',');
            }
            row.push(b'"');
            row.extend_from_slice(field.column.as_bytes());
            row.extend_from_slice(b"\":");
            self.push_value(index, field, row);
        }
        if !coincap {
            row.extend_from_slice(b",\"timestamp\":");
            push_digits(row, us.clamp(0, Utc::MAX_US).unsigned_abs() / 1_000_000, 1);
            for (name, part, width) in
                [("year", utc.year, 4), ("month", utc.month, 2), ("day", utc.day, 2), ("hour", utc.hour, 2)]
            {
                row.extend_from_slice(b",\"");
                row.extend_from_slice(name.as_bytes());
                row.extend_from_slice(b"\":\"");
                push_digits(row, part, width);
                row.push(b'"');
            }
        }
        self.push_unusable(row);
    }

    fn push_value(&mut self, index: usize, field: &Field, row: &mut Vec<u8>) {
        for (member, value) in field.members.iter().zip(self.values[index]) {
            let Some(value) = value.filter(|value| !is_null(value)) else { continue };
            let text = match field.holds {
                Holds::Text => usable_text(value).map(|text| push_string(row, &text)),
                Holds::Number => usable_number(value).map(|text| row.extend_from_slice(text.as_bytes())),
            };
            if text.is_some() {
                return;
            }
            self.unusable.push((Cow::Borrowed(member), value));
        }
        row.extend_from_slice(b"null");
    }

    /// `,"unusable":"…"` where there is something: JSON text of the members that fit no column.
    fn push_unusable(&self, row: &mut Vec<u8>) {
        let mut text = Vec::new();
        if let Some(whole) = self.whole {
            text.extend_from_slice(whole.get().as_bytes());
        } else if !self.unusable.is_empty() {
            for (index, (name, value)) in self.unusable.iter().enumerate() {
                text.push(if index == 0 { b'{' } else { b',' });
                push_string(&mut text, name);
                text.push(b':');
                text.extend_from_slice(value.get().as_bytes());
            }
            text.push(b'}');
        }
        if let Ok(text) = str::from_utf8(&text)
            && !text.is_empty()
        {
            row.extend_from_slice(b",\"");
            row.extend_from_slice(UNUSABLE.as_bytes());
            row.extend_from_slice(b"\":");
            push_string(row, text);
        }
    }
}

/// The column of what fits no other. Only rows that need it have it.
pub(super) const UNUSABLE: &str = "unusable";

struct Fill<'e, 'a>(&'e mut Entry<'a>);

impl<'de> Visitor<'de> for Fill<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            match self.0.place(&name) {
                Some(place @ None) => *place = Some(value),
                // The first counts, here as with ids.
                Some(Some(_)) => self.0.unusable.push((name, value)),
                None => {}
            }
        }
        Ok(())
    }
}

fn usable_text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// The digits of a number or of a string that is one, where readers of the lake take it.
fn usable_number(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = match value.get().as_bytes() {
        [b'"', ..] => usable_text(value)?,
        _ => Cow::Borrowed(value.get()),
    };
    let fits = Number::parse(text.as_bytes()).is_some_and(|number| number.fits_readers());
    fits.then_some(text)
}

/// The ids of a reply: of entries with the same one the first counts.
#[derive(Debug, Default)]
pub(super) struct Ids<'a>(HashSet<Cow<'a, str>>);

impl<'a> Ids<'a> {
    /// True for an id that was there before.
    pub(super) fn is_repeated(&mut self, entry: &Entry<'a>) -> bool {
        entry.id().is_some_and(|id| !self.0.insert(id))
    }
}
