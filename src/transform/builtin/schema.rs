//! The types of the columns that a transform writes, and of dead letters.

use super::enrichment::Rules;
use super::{Builtin, Kind, Provider, crypto, passthrough, raw, snapshot};
use crate::transform::row::ENVELOPE;

/// The type of a column, in the terms that catalogs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Text.
    Text,
    /// True or false.
    Boolean,
    /// A whole number of 64 bits.
    BigInt,
    /// A binary floating-point number of 64 bits. Rows may have more digits than it keeps.
    Double,
    /// An exact decimal.
    Decimal {
        /// Digits.
        precision: u32,
        /// Digits behind the point.
        scale: u32,
    },
}

/// A column with its type. All can be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, as in the rows.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnType,
}

/// Members of a dead letter, in their order.
pub const DEAD_LETTER_COLUMNS: [Column; 11] = [
    Column { name: "attemptsMade", kind: ColumnType::BigInt },
    Column { name: "arrivalTimestamp", kind: ColumnType::BigInt },
    Column { name: "errorCode", kind: ColumnType::Text },
    Column { name: "errorMessage", kind: ColumnType::Text },
    Column { name: "attemptEndingTimestamp", kind: ColumnType::BigInt },
    Column { name: "rawData", kind: ColumnType::Text },
    Column { name: "source", kind: ColumnType::Text },
    Column { name: "shardId", kind: ColumnType::Text },
    Column { name: "sequenceNumber", kind: ColumnType::Text },
    Column { name: "subSequenceNumber", kind: ColumnType::BigInt },
    Column { name: "arrivalTimestampMicros", kind: ColumnType::BigInt },
];

impl Builtin {
    /// The columns that every row has, in their order. Other members of a record follow them, by name.
    pub fn columns(&self) -> Vec<Column> {
        self.columns_of(Provider::CoinGecko)
    }

    /// As [`Builtin::columns`]; where they depend on it, those of a provider's rows.
    pub fn columns_of(&self, provider: Provider) -> Vec<Column> {
        match &self.kind {
            Kind::MarketSnapshot => return snapshot::columns(provider),
            Kind::Raw => return raw::columns(),
            _ => {}
        }
        let names: Vec<&'static str> = match &self.kind {
            Kind::CryptoTransactions(_) => {
                let (change, arrival) = ENVELOPE.split_at(ENVELOPE.len() - 1);
                let (computed, validity) = crypto::OWN[ENVELOPE.len()..].split_at(6);
                [change, &crypto::BASE, computed, arrival, validity].concat()
            }
            Kind::DynamodbCdc => ENVELOPE.to_vec(),
            _ => passthrough::OWN.to_vec(),
        };
        let rules = match &self.kind {
            Kind::CryptoTransactions(rules) => Some(rules.as_ref()),
            _ => None,
        };
        names.into_iter().map(|name| Column { name, kind: kind(name, rules) }).collect()
    }
}

fn kind(name: &str, rules: Option<&Rules>) -> ColumnType {
    let decimal = |(precision, scale)| ColumnType::Decimal { precision, scale };
    match (name, rules) {
        ("cdc_ts_us", _) => ColumnType::BigInt,
        ("is_deleted" | "is_valid", _) => ColumnType::Boolean,
        ("price" | "quantity" | "trade_fee", Some(_)) => decimal((38, 18)),
        ("trade_value", Some(rules)) => decimal(rules.value_digits()),
        ("normalized_price", Some(rules)) => decimal(rules.price_digits()),
        ("adjusted_trade_fee", Some(rules)) => decimal(rules.fee_digits()),
        _ => ColumnType::Text,
    }
}
