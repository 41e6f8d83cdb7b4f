//! Attributes of DynamoDB items, typed. Pure.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

pub(super) const LEASE_KEY: &str = "leaseKey";
pub(super) const ENTITY_TYPE: &str = "entityType";
/// Value of `entityType` for leases; rows from before KCL 3.5 have none.
pub(super) const ENTITY_LEASE: &str = "LEASE";

/// One row as the SDK gives it.
pub(super) type Item = HashMap<String, AttributeValue>;

/// Why a row is not what it should be. Names attributes, never their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUnderstood {
    #[error("attribute {0} is missing")]
    Missing(&'static str),
    #[error("attribute {0} does not have the type or form that KCL writes")]
    Malformed(&'static str),
    #[error("attribute entityType names a kind of row that this version does not know")]
    Foreign,
}

pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn n(number: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(number.into().to_string())
}

pub(super) fn b(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// A measured value with KCL's six decimals. DynamoDB refuses what is no number or far too large, and with it the
/// whole write; so the value is cut to what can be meant.
pub(super) fn measured(value: f64) -> AttributeValue {
    let value = if value.is_nan() { -1.0 } else { value.clamp(-1.0, 1e15) };
    AttributeValue::N(format!("{value:.6}"))
}

/// A string that is not empty.
pub(super) fn text<'a>(item: &'a Item, name: &'static str) -> Result<Option<&'a str>, NotUnderstood> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(NotUnderstood::Malformed(name)),
    }
}

/// A natural number that Java can read too, and that can be counted up.
pub(super) fn number(item: &Item, name: &'static str) -> Result<Option<u64>, NotUnderstood> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::N(digits)) => match digits.parse::<u64>() {
            Ok(number) if number < i64::MAX.unsigned_abs() => Ok(Some(number)),
            _ => Err(NotUnderstood::Malformed(name)),
        },
        Some(_) => Err(NotUnderstood::Malformed(name)),
    }
}

/// An update expression with its condition, names and values. Attribute names stand in it as they are, except for
/// the one of KCL's that is a reserved word of DynamoDB: `key`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Update {
    pub(super) update: String,
    pub(super) condition: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Update {
    /// Names a value for use in an expression.
    pub(super) fn value(&mut self, name: &str, value: AttributeValue) -> String {
        let name = format!(":{name}");
        self.values.insert(name.clone(), value);
        name
    }

    /// Names the key attribute of the table for use in an expression.
    pub(super) fn key(&mut self, key: &str) -> &'static str {
        self.names.insert("#key".to_owned(), key.to_owned());
        "#key"
    }
}
