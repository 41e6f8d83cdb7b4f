//! What a change record and a row of the lake say, in the same terms: a position, facts about the change, and
//! the item's attributes under their column names.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Json, Malformed, Members, hash};

/// Columns that hold the item's known attributes under their own names; null where the item has none.
const BASE: [&str; 12] = [
    "transaction_id",
    "timestamp",
    "exchange",
    "trading_pair",
    "order_type",
    "price",
    "quantity",
    "trade_fee",
    "trade_status",
    "user_id",
    "wallet_address",
    "order_source",
];

/// Those of them that are numbers.
const AMOUNTS: [&str; 3] = ["price", "quantity", "trade_fee"];

/// Columns that say what happened; all are compared, but for the position, which is how a row finds its record.
const FACTS: [&str; 9] = [
    "cdc_ts_us",
    "delete_reason",
    "event_id",
    "event_name",
    "event_timestamp",
    "is_deleted",
    "ordering_key",
    "source",
    "table_name",
];
const POSITION: [&str; 2] = ["shard_id", "sequence_number"];
/// Stands right behind the sequence number, in rows of records that are part of an aggregate and in no other. Elsewhere it
/// is an attribute.
const SUB_SEQUENCE: &str = "sub_sequence_number";

/// Columns that the enrichment computes; its own tests look at these.
const COMPUTED: [&str; 9] = [
    "trade_value",
    "risk_flag",
    "normalized_price",
    "adjusted_trade_fee",
    "user_category",
    "hour_bucket",
    "ingestion_time",
    "is_valid",
    "invalid_reason",
];

/// Names that no column may have, because the partitions of the folder have them.
const PARTITIONS: [&str; 4] = ["year", "month", "day", "hour"];

/// The column that is the key.
const KEY: &str = "transaction_id";

type Attributes<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// Sequence number as a number: up to 76 decimal digits, the upper 38 and the lower 38.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sequence(u128, u128);

/// `ordering_key`: of the Kinesis input creation time, then sequence number, then the index inside an aggregate; of
/// DynamoDB Streams the sequence number alone, at time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderingKey(u128, Sequence, Option<u32>);

/// Hashes of an item under its column names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemHash {
    /// Of the key alone.
    pub(super) key: u64,
    /// Of all attributes, lists in their order.
    pub(super) exact: u64,
    /// Of all attributes, lists and sets without order.
    pub(super) unordered: u64,
}

/// What a record says, as hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) facts: u64,
    pub(super) attributes: u64,
}

/// One line of a landing object.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) shard_id: Cow<'a, str>,
    pub(super) sequence: Sequence,
    pub(super) sub: Option<u32>,
    pub(super) ordering_key: Option<OrderingKey>,
    pub(super) cdc_ts_us: Option<i64>,
    pub(super) is_deleted: bool,
    /// It is valid, and its flag says `HIGH_RISK`.
    pub(super) high_risk: bool,
    /// Hash of `event_id`.
    pub(super) event_id: u64,
    pub(super) facts: u64,
    pub(super) item: ItemHash,
}

impl Sequence {
    /// Reads decimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = !text.is_empty() && text.len() <= 76 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return None;
        }
        let (upper, lower) = text.split_at(text.len().saturating_sub(38));
        Some(Self(if upper.is_empty() { 0 } else { upper.parse().ok()? }, lower.parse().ok()?))
    }
}

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(0, lower) => write!(f, "{lower}"),
            Self(upper, lower) => write!(f, "{upper}{lower:038}"),
        }
    }
}

impl Row<'_> {
    /// The hour of the change, counted since the epoch.
    pub(super) fn hour(&self) -> Option<i64> {
        self.cdc_ts_us.map(|us| us.div_euclid(3_600_000_000))
    }
}

impl OrderingKey {
    fn parse(text: &str) -> Option<Self> {
        if let Some(sequence) = text.strip_prefix("seq-") {
            return (sequence.len() == 40).then_some(Self(0, Sequence::parse(sequence)?, None));
        }
        let (time, rest) = text.split_once('-')?;
        let (sequence, sub) = match rest.split_once('-') {
            Some((sequence, sub)) if sub.len() == 10 => (sequence, Some(sub.parse().ok()?)),
            Some(_) => return None,
            None => (rest, None),
        };
        if time.len() != 20 || sequence.len() != 60 || !time.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self(time.parse().ok()?, Sequence::parse(sequence)?, sub))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, rename = "eventID")]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    table_name: Option<Cow<'a, str>>,
    user_identity: Option<UserIdentity<'a>>,
    #[serde(borrow)]
    dynamodb: Change<'a>,
}

#[derive(Deserialize)]
struct UserIdentity<'a> {
    #[serde(borrow, rename = "type", alias = "Type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "principalId", alias = "PrincipalId")]
    principal: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change<'a> {
    approximate_creation_date_time: i64,
    #[serde(borrow)]
    approximate_creation_date_time_precision: Option<Cow<'a, str>>,
    /// Only DynamoDB Streams has it.
    #[serde(borrow)]
    sequence_number: Option<Cow<'a, str>>,
    #[serde(borrow)]
    keys: &'a RawValue,
    #[serde(borrow)]
    new_image: Option<&'a RawValue>,
    #[serde(borrow)]
    old_image: Option<&'a RawValue>,
}

/// Reads a record of Kinesis Data Streams for DynamoDB, or of DynamoDB Streams. An error means that it belongs to the dead letters.
pub(super) fn expected(
    data: &[u8],
    (shard, sequence_number): (&str, &str),
    sub: Option<u32>,
) -> Result<Expected, Malformed> {
    let record: Envelope<'_> = serde_json::from_slice(data).map_err(|_| "not a change record")?;
    let change = &record.dynamodb;
    let (image, deleted) = match record.event_name.as_ref() {
        "INSERT" | "MODIFY" => (change.new_image.ok_or("no image")?, false),
        "REMOVE" => (change.old_image.unwrap_or(change.keys), true),
        _ => return Err("unknown event name"),
    };
    let mut item = json::typed_map(image)?;
    // The key is in every row, also where an image is empty.
    let there = item.len();
    for (name, value) in json::typed_map(change.keys)? {
        if !item[..there].iter().any(|(known, _)| *known == name) {
            item.push((name, value));
        }
    }
    let attributes = columns(item, sub.is_some())?;
    let fits = |(name, value): &(Cow<'_, str>, Json<'_>)| match value {
        Json::Number(text) => !AMOUNTS.contains(&name.as_ref()) || fits_column(text),
        _ => true,
    };
    if !attributes.iter().all(fits) {
        return Err("an amount does not fit its column");
    }
    let created_us = created_us(change)?;
    let (source, ordering_key) = match &change.sequence_number {
        Some(number) => ("dynamodb-streams", format!("seq-{number:0>40}")),
        None => {
            let index = sub.map_or(String::new(), |sub| format!("-{sub:010}"));
            // Kinesis calls all shards so; Kafka's have the id of their topic.
            let source = if shard.starts_with("shardId-") { "kinesis" } else { "kafka" };
            (source, format!("{created_us:020}-{sequence_number:0>60}{index}"))
        }
    };
    let by_ttl = record.user_identity.is_some_and(|who| {
        who.kind.as_deref() == Some("Service") && who.principal.as_deref() == Some("dynamodb.amazonaws.com")
    });
    let text = |text: &str| Json::Text(Cow::Owned(text.to_owned()));
    let optional = |value: &Option<Cow<'_, str>>| value.as_deref().map_or(Json::Null, text);
    let reason = match (deleted, by_ttl) {
        (false, _) => Json::Null,
        (true, true) => text("ttl"),
        (true, false) => text("user"),
    };
    let timestamp =
        jiff::Timestamp::from_microsecond(created_us).map_err(|_| "creation time out of range")?;
    let facts = [
        Json::Number(Cow::Owned(created_us.to_string())),
        reason,
        optional(&record.event_id),
        text(&record.event_name),
        text(&timestamp.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()),
        Json::Bool(deleted),
        text(&ordering_key),
        text(source),
        optional(&record.table_name),
    ];
    Ok(Expected { facts: hash(&facts), attributes: hash(&attributes) })
}

/// The hash of a record's event id, as a row has it; `None` for what is no record.
pub(super) fn event_id(data: &[u8]) -> Option<u64> {
    let record: Envelope<'_> = serde_json::from_slice(data).ok()?;
    Some(hash(&Json::Text(record.event_id?)))
}

/// The hash of the key that a record changes, as [`ItemHash`] has it, also where the record cannot be a row.
pub(super) fn key(data: &[u8]) -> Option<u64> {
    let record: Envelope<'_> = serde_json::from_slice(data).ok()?;
    let keys = json::typed_map(record.dynamodb.keys).ok()?;
    keys.iter().find(|(name, _)| name == KEY).map(|(_, value)| hash(value))
}

/// Reads a line of a landing object.
pub(super) fn row(line: &str) -> Result<Row<'_>, Malformed> {
    let members: Members<'_> = serde_json::from_str(line).map_err(|_| "a line is not a JSON object")?;
    let mut facts: [Json<'_>; FACTS.len()] = std::array::from_fn(|_| Json::Null);
    let mut position = [None, None];
    let (mut sub, mut behind) = (None, false);
    let (mut flag, mut valid) = ("", "");
    let mut attributes = Attributes::with_capacity(members.0.len());
    let mut names = HashSet::with_capacity(members.0.len());
    for (name, raw) in members.0 {
        if !names.insert(name.clone()) {
            return Err("a row has a column twice");
        }
        if let Ok(place) = FACTS.binary_search(&name.as_ref()) {
            facts[place] = json::plain(raw)?;
        } else if let Some(place) = POSITION.iter().position(|known| *known == name) {
            position[place] = Some(json::string(raw)?);
            behind = place == 1;
            continue;
        } else if behind && name == SUB_SEQUENCE {
            sub = Some(raw.get().parse().map_err(|_| "an index inside an aggregate is not a number")?);
        } else if !COMPUTED.contains(&name.as_ref()) {
            attributes.push((name, json::plain(raw)?));
        } else if name == "risk_flag" {
            flag = raw.get();
        } else if name == "is_valid" {
            valid = raw.get();
        }
        behind = false;
    }
    let [Some(shard_id), Some(sequence)] = position else { return Err("a row has no position") };
    let sequence = Sequence::parse(&sequence).ok_or("a sequence number is not a number")?;
    let [cdc_ts_us, _, event_id, _, _, is_deleted, ordering_key, ..] = &facts;
    Ok(Row {
        shard_id,
        sequence,
        sub,
        ordering_key: match ordering_key {
            Json::Text(text) => OrderingKey::parse(text),
            _ => None,
        },
        cdc_ts_us: match cdc_ts_us {
            Json::Number(text) => text.parse().ok(),
            _ => None,
        },
        is_deleted: *is_deleted == Json::Bool(true),
        high_risk: flag == "\"HIGH_RISK\"" && valid == "true",
        event_id: hash(event_id),
        facts: hash(&facts),
        item: item_hash(without_empty(attributes)),
    })
}

/// Reads an item of the table, a map of DynamoDB attribute values.
pub(super) fn table_item(data: &[u8]) -> Result<ItemHash, Malformed> {
    let raw: &RawValue = serde_json::from_slice(data).map_err(|_| "an item is not JSON")?;
    Ok(item_hash(columns(json::typed_map(raw)?, false)?))
}

fn item_hash(mut attributes: Attributes<'_>) -> ItemHash {
    let key = attributes.iter().find(|(name, _)| name == KEY).map(|(_, value)| hash(value));
    let exact = hash(&attributes);
    attributes.iter_mut().for_each(|(_, value)| value.forget_order());
    ItemHash { key: key.unwrap_or_default(), exact, unordered: hash(&attributes) }
}

/// The columns of an image, by the documented rule: each name is spelled anew, and two that are spelled alike make a
/// dead letter. `part`: of a record that is part of an aggregate.
fn columns(mut image: Attributes<'_>, part: bool) -> Result<Attributes<'_>, Malformed> {
    for (name, _) in &mut image {
        if !BASE.contains(&name.as_ref()) {
            *name = Cow::Owned(column(name, part));
        }
    }
    let distinct: HashSet<&str> = image.iter().map(|(name, _)| name.as_ref()).collect();
    match distinct.len() == image.len() {
        true => Ok(without_empty(image)),
        false => Err("two attributes are the same column"),
    }
}

/// Lower case; `_` for other ASCII; other characters by code point; a prefix where the name is taken.
fn column(name: &str, part: bool) -> String {
    let spell = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_lowercase().to_string(),
        c if c.is_ascii() => "_".to_owned(),
        c => format!("_u{:04x}", u32::from(c)),
    };
    let spelled: String = if name.is_empty() { "_".to_owned() } else { name.chars().map(spell).collect() };
    let bare = spelled.trim_start_matches("item_");
    let taken = [&FACTS[..], &POSITION, &COMPUTED, &PARTITIONS].iter().any(|names| names.contains(&bare));
    if taken || part && bare == SUB_SEQUENCE { format!("item_{spelled}") } else { spelled }
}

/// True when a column of type decimal(38,18) holds the number as it is.
fn fits_column(number: &str) -> bool {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (Ok(exponent), Ok(decimals)) = (exponent.parse::<i64>(), i64::try_from(fraction.len())) else {
        return false;
    };
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0').len();
    let lowest = exponent - decimals + i64::try_from(digits.len() - significant).unwrap_or(0);
    let highest = lowest + i64::try_from(significant).unwrap_or(i64::MAX) - 1;
    whole.len() <= 20 && (significant == 0 || (lowest >= -18 && highest <= 19))
}

/// Known columns are null in a row where the item lacks them, so null and missing are one there.
fn without_empty(mut attributes: Attributes<'_>) -> Attributes<'_> {
    attributes.retain(|(name, value)| *value != Json::Null || !BASE.contains(&name.as_ref()));
    attributes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    attributes
}

/// Creation time in microseconds: by the precision where the record has one, else by the number's size.
fn created_us(change: &Change<'_>) -> Result<i64, Malformed> {
    let value = change.approximate_creation_date_time;
    let converted = match change.approximate_creation_date_time_precision.as_deref() {
        Some("MICROSECOND") => Some(value),
        Some("MILLISECOND") => value.checked_mul(1000),
        _ => match value.unsigned_abs() {
            0..100_000_000_000 => value.checked_mul(1_000_000),
            100_000_000_000..100_000_000_000_000 => value.checked_mul(1000),
            100_000_000_000_000..100_000_000_000_000_000 => Some(value),
            _ => Some(value / 1000),
        },
    };
    converted.ok_or("creation time out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(attributes: &[&'static str]) -> Vec<String> {
        let image = attributes.iter().map(|name| (Cow::Borrowed(*name), Json::Bool(true))).collect();
        columns(image, false).unwrap().into_iter().map(|(name, _)| name.into_owned()).collect()
    }

    #[test]
    fn the_lists_of_columns_fit_together() {
        assert!(FACTS.is_sorted());
        let all = [&BASE[..], &FACTS, &POSITION, &COMPUTED, &PARTITIONS].concat();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn attributes_are_renamed_for_the_catalog() {
        assert_eq!(names(&["Mixed Case.Name", "N"]), ["mixed_case_name", "n"]);
        assert_eq!(names(&["Größe", "Grüße", ""]), ["_", "gr_u00f6_u00dfe", "gr_u00fc_u00dfe"]);
        assert_eq!(
            names(&["year", "event_id", "item_year"]),
            ["item_event_id", "item_item_year", "item_year"]
        );
        for pair in [["url", "URL"], ["price", "Price"], ["a.b", "a_b"]] {
            let image = pair.iter().map(|name| (Cow::Borrowed(*name), Json::Bool(true))).collect();
            assert!(columns(image, false).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn amounts_fit_their_columns() {
        for number in
            ["0", "-12.50", "8.052E-8", "1E+19", "99999999999999999999.999999999999999999", "1.10e-17"]
        {
            assert!(fits_column(number), "{number}");
        }
        for number in
            ["1E+20", "1E-19", "0.1234567890123456789", "100000000000000000000", "1E999999999999999999999"]
        {
            assert!(!fits_column(number), "{number}");
        }
    }

    #[test]
    fn sequence_numbers_are_numbers() {
        let parse = |text: &str| Sequence::parse(text).unwrap();
        let long = "49590338271490256608559692538361571095921575989136588898";
        assert_eq!(parse(long).to_string(), long);
        assert!(parse("9") < parse("10") && parse("99") < parse(long));
        assert_eq!(parse("007"), parse("7"));
        assert!(["", "-1", "1e3", &"1".repeat(77)].iter().all(|text| Sequence::parse(text).is_none()));
        assert_eq!(parse(&"9".repeat(76)).to_string(), "9".repeat(76));
    }

    #[test]
    fn creation_times_know_their_unit() {
        let read = |value, precision: Option<&'static str>| {
            created_us(&Change {
                approximate_creation_date_time: value,
                approximate_creation_date_time_precision: precision.map(Cow::Borrowed),
                sequence_number: None,
                keys: RawValue::NULL,
                new_image: None,
                old_image: None,
            })
            .unwrap()
        };
        let us = 1_768_469_400_123_456;
        assert_eq!(read(us, Some("MICROSECOND")), us);
        assert_eq!(read(1_768_469_400_123, Some("MILLISECOND")), 1_768_469_400_123_000);
        assert_eq!(read(1_768_469_400_123, None), 1_768_469_400_123_000);
        assert_eq!(read(us, None), us);
        assert_eq!(read(1_768_469_400, None), 1_768_469_400_000_000);
        assert_eq!(read(us * 1000, None), us);
    }
}
