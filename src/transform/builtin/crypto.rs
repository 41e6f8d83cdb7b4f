//! `crypto-transactions`: fixed columns of the table `CryptoTransactions`, with exact enrichment.

use super::Scratch;
use super::columns::{ColumnRules, Columns, same_column};
use super::enrichment::{Enriched, Rules};
use crate::decode::{Kind, Members, Number, decode_event};
use crate::transform::row::{ENVELOPE, push_bool, push_decimal, push_envelope, push_ingestion_time};
use crate::transform::{BadRecord, ErrorCode, RecordContext, Utc, parse_utc_us};

pub(super) const NAME: &str = "crypto-transactions";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 2;

/// The name of a column as it stands in a row that has begun.
macro_rules! member {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// No name of a column from the image is longer, with what is around it.
const MEMBER_MAX: usize = 24;

const fn filled(member: &str) -> ([u8; MEMBER_MAX], usize) {
    let mut bytes = [0; MEMBER_MAX];
    bytes.split_at_mut(member.len()).0.copy_from_slice(member.as_bytes());
    (bytes, member.len())
}

macro_rules! names_and_members {
    ($($name:literal),* $(,)?) => {
        /// Columns from the image, in row order.
        pub(super) const BASE: [&str; 12] = [$($name),*];
        /// Filled up to one length, so that a copy of them is no call; and their own lengths.
        const BASE_MEMBERS: [([u8; MEMBER_MAX], usize); 12] = [$(filled(member!($name))),*];
    };
}

names_and_members![
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
const TRANSACTION_ID: usize = 0;
const TIMESTAMP: usize = 1;
const EXCHANGE: usize = 2;
const PRICE: usize = 5;
const QUANTITY: usize = 6;
const TRADE_FEE: usize = 7;
const TRADE_STATUS: usize = 8;

/// Columns that are no attribute: the envelope and what is computed.
pub(super) const OWN: [&str; 20] = {
    let mut names = [""; 20];
    let computed = [
        "trade_value",
        "risk_flag",
        "normalized_price",
        "adjusted_trade_fee",
        "user_category",
        "hour_bucket",
        "is_valid",
        "invalid_reason",
    ];
    let mut i = 0;
    while i < names.len() {
        names[i] = if i < 12 { ENVELOPE[i] } else { computed[i - 12] };
        i += 1;
    }
    names
};

/// Appends the row of a record; answers its time.
pub(super) fn apply(
    rules: &Rules,
    names: &ColumnRules,
    context: &RecordContext<'_>,
    data: &[u8],
    scratch: &mut Scratch,
    row: &mut Vec<u8>,
) -> Result<i64, BadRecord> {
    let Scratch { image, columns } = scratch;
    let (event, members) = decode_event(data, image)?;
    let known = Known::find(names, context, members, columns)?;

    let base = |index: usize| known.value(members, index);
    let number = |index: usize| {
        let Kind::Number(short) = members.kind(known.members[index]?) else { return None };
        Some((base(index)?, short))
    };
    let enriched = rules.enrich(number(PRICE), number(QUANTITY), number(TRADE_FEE), base(EXCHANGE));
    let trade_us = base(TIMESTAMP).and_then(|json| parse_utc_us(json.get(1..json.len() - 1)?));

    push_envelope(row, context, &event);
    for (index, member) in BASE_MEMBERS.iter().enumerate() {
        row.extend_from_slice(&member.0);
        row.truncate(row.len() - MEMBER_MAX + member.1);
        known.push(members, index, row);
    }
    push_enriched(row, rules, &enriched);
    row.extend_from_slice(member!("hour_bucket").as_bytes());
    match trade_us {
        Some(us) => {
            row.push(b'"');
            Utc::from_us(us).push_hour_bucket(row);
            row.push(b'"');
        }
        None => row.extend_from_slice(b"null"),
    }
    push_ingestion_time(row, context);
    let reason = invalid_reason(&known, members, &enriched, trade_us);
    row.extend_from_slice(member!("is_valid").as_bytes());
    push_bool(row, reason.is_none());
    row.extend_from_slice(member!("invalid_reason").as_bytes());
    push_word(row, reason);
    columns.push(names, members, row);
    row.extend_from_slice(b"}\n");
    Ok(event.created_us)
}

/// Where in the image the known attributes are.
struct Known {
    members: [Option<usize>; BASE.len()],
}

impl Known {
    /// Finds the known attributes, and gives the others columns. A value that does not fit the type of its column makes
    /// the record a dead letter: a null would lose it, and one that does not fit breaks every reader of the table.
    fn find(
        names: &ColumnRules,
        context: &RecordContext<'_>,
        members: Members<'_>,
        columns: &mut Columns,
    ) -> Result<Self, BadRecord> {
        let mut known = Self { members: [None; BASE.len()] };
        columns.begin(context);
        for member in 0..members.len() {
            // Nearly every name is that of its column already.
            let exact = if names.has_renames() { None } else { base_index(members.name(member)) };
            let Some(index) = exact.or_else(|| {
                let index = base_index(columns.add(names, members, member))?;
                columns.take_back();
                Some(index)
            }) else {
                continue;
            };
            if let Some(other) = known.members[index].replace(member) {
                return Err(same_column(BASE[index].as_bytes(), members.name(other), members.name(member)));
            }
            check_type(index, members.kind(member), members.value(member))?;
        }
        columns.settle(members)?;
        Ok(known)
    }

    /// The JSON of a known attribute; `None` where it is missing or null.
    fn value<'i>(&self, members: Members<'i>, index: usize) -> Option<&'i [u8]> {
        let member = self.members[index].filter(|member| members.kind(*member) != Kind::Null)?;
        Some(members.value(member))
    }

    /// Appends the JSON of a known attribute.
    fn push(&self, members: Members<'_>, index: usize, row: &mut Vec<u8>) {
        match self.members[index] {
            Some(member) => members.push_value(member, row),
            None => row.extend_from_slice(b"null"),
        }
    }
}

fn check_type(index: usize, kind: Kind, value: &[u8]) -> Result<(), BadRecord> {
    let is_number = matches!(index, PRICE..=TRADE_FEE);
    match kind {
        Kind::Null => Ok(()),
        Kind::String if !is_number => Ok(()),
        // Nearly all of them.
        Kind::Number(Some(_)) if is_number => Ok(()),
        Kind::Number(None) if is_number => match Number::parse(value) {
            Some(number) if number.fits_decimal() => Ok(()),
            _ => Err(BadRecord {
                code: ErrorCode::BadNumber,
                message: format!("attribute {} does not fit its column: decimal(38,18)", BASE[index]),
            }),
        },
        _ => {
            let kind = if is_number { "a number" } else { "a string" };
            let message = format!("attribute {} must be {kind}", BASE[index]);
            Err(BadRecord { code: ErrorCode::WrongType, message })
        }
    }
}

/// Index of a name in [`BASE`]. Spelled out, because the compiler makes one jump of it.
fn base_index(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"transaction_id" => 0,
        b"timestamp" => 1,
        b"exchange" => 2,
        b"trading_pair" => 3,
        b"order_type" => 4,
        b"price" => 5,
        b"quantity" => 6,
        b"trade_fee" => 7,
        b"trade_status" => 8,
        b"user_id" => 9,
        b"wallet_address" => 10,
        b"order_source" => 11,
        _ => return None,
    })
}

/// The first reason that applies, in this order.
fn invalid_reason(
    known: &Known,
    members: Members<'_>,
    enriched: &Enriched,
    trade_us: Option<i64>,
) -> Option<&'static str> {
    let value = |index| known.value(members, index);
    let required = [TRANSACTION_ID, TRADE_STATUS, PRICE, QUANTITY];
    if value(TRADE_STATUS) == Some(b"\"FAILED\"") {
        Some("failed_status")
    } else if required.into_iter().any(|index| value(index).is_none()) {
        Some("missing_field")
    } else if enriched.non_positive {
        Some("non_positive")
    } else if enriched.out_of_range {
        Some("out_of_range")
    } else if trade_us.is_none() {
        Some("bad_timestamp")
    } else {
        None
    }
}

fn push_enriched(row: &mut Vec<u8>, rules: &Rules, enriched: &Enriched) {
    row.extend_from_slice(member!("trade_value").as_bytes());
    push_number(row, enriched.trade_value.map(|value| (value, rules.value_scale)));
    row.extend_from_slice(member!("risk_flag").as_bytes());
    push_word(row, enriched.risk_flag);
    row.extend_from_slice(member!("normalized_price").as_bytes());
    push_number(row, enriched.normalized_price.map(|price| (price, rules.price_scale)));
    row.extend_from_slice(member!("adjusted_trade_fee").as_bytes());
    push_number(row, enriched.adjusted_fee);
    row.extend_from_slice(member!("user_category").as_bytes());
    push_word(row, enriched.user_category);
}

fn push_number(row: &mut Vec<u8>, number: Option<(i128, u32)>) {
    match number {
        Some((value, scale)) => push_decimal(row, value, scale),
        None => row.extend_from_slice(b"null"),
    }
}

/// A word of ours, which needs no escapes.
fn push_word(row: &mut Vec<u8>, word: Option<&str>) {
    match word {
        Some(word) => {
            row.push(b'"');
            row.extend_from_slice(word.as_bytes());
            row.push(b'"');
        }
        None => row.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jump_agrees_with_the_list() {
        for (index, name) in BASE.iter().enumerate() {
            assert_eq!(base_index(name.as_bytes()), Some(index));
        }
    }
}
