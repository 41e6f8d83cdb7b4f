//! A line of a landing object → what the report needs of it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::decimal::Amount;

/// A row as the transform `crypto-transactions` lands it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// The key of its trade; none where the item has none.
    pub(super) key: Option<Cow<'a, str>>,
    /// Of two states of a trade the one with the greater text is newer.
    pub(super) order: Cow<'a, str>,
    /// When the item changed, µs since the epoch.
    pub(super) changed_us: i64,
    pub(super) is_deleted: bool,
    pub(super) is_valid: bool,
    pub(super) trade: Trade<Option<Cow<'a, str>>>,
}

/// What dashboards ask of a trade. `T`: a text, or a number that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trade<T> {
    pub(super) exchange: T,
    pub(super) trading_pair: T,
    pub(super) order_type: T,
    pub(super) trade_status: T,
    pub(super) risk_flag: T,
    pub(super) user_category: T,
    pub(super) hour_bucket: T,
    pub(super) user_id: T,
    pub(super) quantity: Option<Amount>,
    pub(super) trade_fee: Option<Amount>,
    pub(super) normalized_price: Option<Amount>,
}

impl<T> Trade<T> {
    /// The same with other texts.
    pub(super) fn map<U>(&self, mut other: impl FnMut(&T) -> U) -> Trade<U> {
        Trade {
            exchange: other(&self.exchange),
            trading_pair: other(&self.trading_pair),
            order_type: other(&self.order_type),
            trade_status: other(&self.trade_status),
            risk_flag: other(&self.risk_flag),
            user_category: other(&self.user_category),
            hour_bucket: other(&self.hour_bucket),
            user_id: other(&self.user_id),
            quantity: self.quantity,
            trade_fee: self.trade_fee,
            normalized_price: self.normalized_price,
        }
    }
}

/// Why a line is not a row. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotARow {
    #[error("not a JSON object of a row")]
    Json,
    #[error("no {0}, which every row has")]
    Missing(&'static str),
    #[error("{0} is not {1}")]
    Type(&'static str, &'static str),
    #[error("longer than any row")]
    TooLong,
}

#[derive(Deserialize)]
struct Columns<'a> {
    #[serde(borrow)]
    transaction_id: Option<&'a RawValue>,
    #[serde(borrow)]
    ordering_key: Option<&'a RawValue>,
    #[serde(borrow)]
    cdc_ts_us: Option<&'a RawValue>,
    #[serde(borrow)]
    is_deleted: Option<&'a RawValue>,
    #[serde(borrow)]
    is_valid: Option<&'a RawValue>,
    #[serde(borrow)]
    exchange: Option<&'a RawValue>,
    #[serde(borrow)]
    trading_pair: Option<&'a RawValue>,
    #[serde(borrow)]
    order_type: Option<&'a RawValue>,
    #[serde(borrow)]
    trade_status: Option<&'a RawValue>,
    #[serde(borrow)]
    risk_flag: Option<&'a RawValue>,
    #[serde(borrow)]
    user_category: Option<&'a RawValue>,
    #[serde(borrow)]
    hour_bucket: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    #[serde(borrow)]
    trade_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    normalized_price: Option<&'a RawValue>,
}

impl<'a> Row<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is not a row, or a column has another type than that of the table.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, NotARow> {
        let line = simdutf8::basic::from_utf8(line).map_err(|_| NotARow::Json)?;
        let columns: Columns<'_> = serde_json::from_str(line).map_err(|_| NotARow::Json)?;
        let order = present("ordering_key", text("ordering_key", columns.ordering_key)?)?;
        let changed = present("cdc_ts_us", columns.cdc_ts_us)?;
        Ok(Self {
            key: text("transaction_id", columns.transaction_id)?.filter(|key| !key.is_empty()),
            order,
            changed_us: changed.get().parse().map_err(|_| NotARow::Type("cdc_ts_us", "an integer"))?,
            is_deleted: flag("is_deleted", columns.is_deleted)?,
            is_valid: flag("is_valid", columns.is_valid)?,
            trade: Trade {
                exchange: text("exchange", columns.exchange)?,
                trading_pair: text("trading_pair", columns.trading_pair)?,
                order_type: text("order_type", columns.order_type)?,
                trade_status: text("trade_status", columns.trade_status)?,
                risk_flag: text("risk_flag", columns.risk_flag)?,
                user_category: text("user_category", columns.user_category)?,
                hour_bucket: text("hour_bucket", columns.hour_bucket)?,
                user_id: text("user_id", columns.user_id)?,
                quantity: amount("quantity", columns.quantity)?,
                trade_fee: amount("trade_fee", columns.trade_fee)?,
                normalized_price: amount("normalized_price", columns.normalized_price)?,
            },
        })
    }
}

fn present<T>(column: &'static str, value: Option<T>) -> Result<T, NotARow> {
    value.ok_or(NotARow::Missing(column))
}

pub(super) fn text<'a>(
    column: &'static str,
    json: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>, NotARow> {
    let Some(json) = json.map(RawValue::get) else { return Ok(None) };
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Some(Cow::Borrowed(plain))),
        Some(_) => {
            serde_json::from_str(json).map(|text: String| Some(Cow::Owned(text))).map_err(|_| NotARow::Json)
        }
        None => Err(NotARow::Type(column, "a text")),
    }
}

fn flag(column: &'static str, json: Option<&RawValue>) -> Result<bool, NotARow> {
    match present(column, json)?.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(NotARow::Type(column, "true or false")),
    }
}

fn amount(column: &'static str, json: Option<&RawValue>) -> Result<Option<Amount>, NotARow> {
    let Some(json) = json else { return Ok(None) };
    Amount::parse(json.get()).map(Some).ok_or(NotARow::Type(column, "a number of decimal(38,18)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#""ordering_key":"1","cdc_ts_us":5,"is_deleted":false,"is_valid":true"#;

    fn parse(members: &str) -> Result<Option<String>, NotARow> {
        let line = format!("{{{members}}}");
        Row::parse(line.as_bytes()).map(|row| row.trade.exchange.map(Cow::into_owned))
    }

    #[test]
    fn texts_are_unescaped_and_null_is_none() {
        assert_eq!(parse(LEAST), Ok(None));
        assert_eq!(parse(&format!("{LEAST},\"exchange\":null,\"other\":[{{}}]")), Ok(None));
        assert_eq!(parse(&format!("{LEAST},\"exchange\":\"a\\u00e9\\\"\"")), Ok(Some("aé\"".to_owned())));
        let row = format!("{{{LEAST},\"transaction_id\":\"\"}}");
        assert!(Row::parse(row.as_bytes()).unwrap().key.is_none());
    }

    #[test]
    fn what_is_no_row_says_why_and_not_what_it_holds() {
        for (members, why) in [
            (String::new(), NotARow::Missing("ordering_key")),
            (LEAST.replace("\"1\"", "1"), NotARow::Type("ordering_key", "a text")),
            (LEAST.replace("\"cdc_ts_us\":5,", ""), NotARow::Missing("cdc_ts_us")),
            (LEAST.replace('5', "5.5"), NotARow::Type("cdc_ts_us", "an integer")),
            (LEAST.replace("true", "null"), NotARow::Missing("is_valid")),
            (LEAST.replace("true", "\"true\""), NotARow::Type("is_valid", "true or false")),
            (format!("{LEAST},\"exchange\":{{}}"), NotARow::Type("exchange", "a text")),
            (format!("{LEAST},\"quantity\":\"1\""), NotARow::Type("quantity", "a number of decimal(38,18)")),
            (format!("{LEAST},\"quantity\":1e99"), NotARow::Type("quantity", "a number of decimal(38,18)")),
            (format!("{LEAST},\"exchange\":\"a\",\"exchange\":\"b\""), NotARow::Json),
            (format!("{LEAST},"), NotARow::Json),
        ] {
            assert_eq!(parse(&members), Err(why), "{members}");
        }
        for line in [&b""[..], b"[]", b"hello", b"{", b"\xff"] {
            assert_eq!(Row::parse(line).err(), Some(NotARow::Json));
        }
    }
}
