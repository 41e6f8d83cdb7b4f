//! Bytes of a record, or the body of a response → the provider, the fetch time and the entries.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::entry::Text;
use crate::decode::{BadRecord, ErrorCode, Number, document_text, not_read};
use crate::transform::{Utc, parse_utc_us};

/// A provider of market prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// CoinGecko, `/coins/markets`.
    CoinGecko,
    /// CoinCap, `/assets`.
    CoinCap,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CoinGecko, Self::CoinCap];

    /// The name in flags, records and folders.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CoinGecko => "coingecko",
            Self::CoinCap => "coincap",
        }
    }

    /// The provider called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == name)
    }

    /// The provider whose entries have a member `name` and the other's have not.
    fn of_member(name: &str) -> Option<Self> {
        match name {
            "current_price" | "market_cap" | "market_cap_rank" | "total_volume" => Some(Self::CoinGecko),
            "priceUsd" | "marketCapUsd" | "volumeUsd24Hr" | "changePercent24Hr" | "vwap24Hr"
            | "vwapUsd24Hr" => Some(Self::CoinCap),
            _ => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The entries of one reply, as they are written.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) provider: Provider,
    /// Fetch time, where the record says one, µs since the epoch.
    pub(super) fetched_us: Option<i64>,
    /// Never empty.
    pub(super) entries: Vec<&'a RawValue>,
}

/// Reads a record: a bare reply, or one that a poller has wrapped; answers what `use_it` makes of it.
pub(super) fn read_record<R>(data: &[u8], use_it: impl FnOnce(Reply<'_>) -> R) -> Result<R, BadRecord> {
    let text = document_text(data)?;
    let Some(wrapper) = Object::read(text).map_err(|error| error.explain(data))? else {
        return Reply::read(text, None).map(use_it);
    };
    let Some(body) = wrapper.body else { return Reply::of_object(text, &wrapper, None).map(use_it) };
    let provider = match wrapper.provider.filter(|name| !is_null(name)) {
        None => None,
        Some(name) => {
            let name: Option<Text<'_>> = serde_json::from_str(name.get()).ok();
            let known = name.and_then(|name| Provider::named(&name.0));
            Some(known.ok_or_else(|| no_snapshot("`provider` is none of coingecko and coincap"))?)
        }
    };
    let fetched_us = wrapper.fetched_at_ms.map_or(Ok(None), time_us)?;
    if is_null(body) {
        return Err(no_snapshot("the poller got no reply that it could use for this interval"));
    }
    let body = match body.get().strip_prefix('"') {
        None => Cow::Borrowed(body.get()),
        Some(_) => {
            let Text(body) = serde_json::from_str(body.get()).map_err(|error| not_read(&error, data))?;
            body
        }
    };
    let mut reply = Reply::read(&body, provider)?;
    reply.fetched_us = fetched_us.or(reply.fetched_us);
    Ok(use_it(reply))
}

impl<'a> Reply<'a> {
    /// Reads the body of a response; `provider` is known, or told by the entries.
    pub(super) fn read(body: &'a str, provider: Option<Provider>) -> Result<Self, BadRecord> {
        match Object::read(body).map_err(|error| error.explain(body.as_bytes()))? {
            Some(object) => Self::of_object(body, &object, provider),
            None => {
                let entries =
                    serde_json::from_str(body).map_err(|error| not_read(&error, body.as_bytes()))?;
                Self::of_list(entries, provider)
            }
        }
    }

    /// `{timestamp, data: […]}`, or a single entry.
    fn of_object(body: &'a str, object: &Object<'a>, provider: Option<Provider>) -> Result<Self, BadRecord> {
        match (object.data, object.told) {
            (Some(data), _) if provider != Some(Provider::CoinGecko) => {
                let entries =
                    serde_json::from_str(data.get()).map_err(|_| no_snapshot("`data` is no list"))?;
                let fetched_us = object.timestamp.map_or(Ok(None), time_us)?;
                Ok(Self { fetched_us, ..Self::of_list(entries, Some(Provider::CoinCap))? })
            }
            (_, Some(told)) => {
                let entry = serde_json::from_str(body).map_err(|error| not_read(&error, body.as_bytes()))?;
                Self::of_list(vec![entry], Some(provider.unwrap_or(told)))
            }
            _ => Err(no_snapshot("the document is neither a list of prices nor has one")),
        }
    }

    fn of_list(entries: Vec<&'a RawValue>, provider: Option<Provider>) -> Result<Self, BadRecord> {
        if entries.is_empty() {
            return Err(no_snapshot("the list of prices is empty"));
        }
        let told = |entry: &&RawValue| Object::read(entry.get()).ok().flatten()?.told;
        let provider = provider
            .or_else(|| entries.iter().find_map(told))
            .ok_or_else(|| no_snapshot("no entry of the list has a price of CoinGecko or CoinCap"))?;
        Ok(Self { provider, fetched_us: None, entries })
    }
}

/// The members of an object that matter outside of entries.
#[derive(Debug, Default)]
struct Object<'a> {
    provider: Option<&'a RawValue>,
    fetched_at_ms: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    /// Whose entry it would be.
    told: Option<Provider>,
}

/// Why an object was not read.
enum Unread {
    Json(serde_json::Error),
    Duplicate,
}

impl Unread {
    fn explain(self, data: &[u8]) -> BadRecord {
        match self {
            Self::Json(error) => not_read(&error, data),
            Self::Duplicate => ErrorCode::DuplicateName.into(),
        }
    }
}

impl<'a> Object<'a> {
    /// `None` for a document that is a list.
    ///
    /// # Errors
    /// When the text is no JSON, or neither an object nor a list.
    fn read(text: &'a str) -> Result<Option<Self>, Unread> {
        if text.trim_start().starts_with('[') {
            return Ok(None);
        }
        struct Members<'a>(Object<'a>, bool);
        impl<'de> Deserialize<'de> for Members<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Look;
                impl<'de> Visitor<'de> for Look {
                    type Value = Members<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                        let (mut found, mut twice) = (Object::default(), false);
                        while let Some(Text(name)) = map.next_key()? {
                            found.told = found.told.or(Provider::of_member(&name));
                            let place = match &*name {
                                "provider" => &mut found.provider,
                                "fetched_at_ms" => &mut found.fetched_at_ms,
                                "body" => &mut found.body,
                                "timestamp" => &mut found.timestamp,
                                "data" => &mut found.data,
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    continue;
                                }
                            };
                            twice |= place.replace(map.next_value()?).is_some();
                        }
                        Ok(Members(found, twice))
                    }
                }
                deserializer.deserialize_map(Look)
            }
        }
        match serde_json::from_str(text) {
            Ok(Members(_, true)) => Err(Unread::Duplicate),
            Ok(Members(found, false)) => Ok(Some(found)),
            Err(error) => Err(Unread::Json(error)),
        }
    }
}

/// A time as providers write it: ms since the epoch as a number or as a string, or ISO 8601; `None` for null. No prices
/// are older than 1973, so that a smaller number is in seconds.
///
/// # Errors
/// `bad_time` for anything else, and outside 1970 to 9999.
pub(super) fn time_us(value: &RawValue) -> Result<Option<i64>, BadRecord> {
    /// 100,000,000,000 ms, µs.
    const SMALLEST_MS: i128 = 100_000_000_000_000;
    if is_null(value) {
        return Ok(None);
    }
    let bad = || {
        let message = "the fetch time is neither ms since the epoch nor ISO 8601, or out of range".to_owned();
        BadRecord { code: ErrorCode::BadTime, message }
    };
    let text: Cow<'_, str> = match value.get().strip_prefix('"') {
        None => Cow::Borrowed(value.get()),
        Some(_) => serde_json::from_str::<Text<'_>>(value.get()).map_err(|_| bad())?.0,
    };
    if let Some(us) = parse_utc_us(text.as_bytes()) {
        return Ok(Some(us));
    }
    let us = Number::parse(text.as_bytes())
        .and_then(|ms| ms.scaled(3, 1 << 62))
        .filter(|us| *us >= 0)
        .map(|us| if us < SMALLEST_MS { us * 1000 } else { us });
    let us = us.and_then(|us| i64::try_from(us).ok()).filter(|us| *us <= Utc::MAX_US);
    us.map(Some).ok_or_else(bad)
}

pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

fn no_snapshot(what: &str) -> BadRecord {
    BadRecord { code: ErrorCode::NoSnapshot, message: what.to_owned() }
}
