//! The constants of the enrichment: as people write them, and as the computation uses them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decode::json::push_string;
use crate::decode::{Number, Short};

/// Constants of `crypto-transactions`. The defaults are the rules of the pipelines this service replaces; the
/// catalog's column types fit them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrichment {
    /// Digits that price, quantity and fee may have each after the cast, 1 to 18. More is `out_of_range`.
    pub precision: u32,
    /// Decimals of the price after the cast, and of the normalized price. At most `precision`.
    pub price_scale: u32,
    /// Decimals of the quantity after the cast.
    pub quantity_scale: u32,
    /// Decimals of the fee after the cast.
    pub fee_scale: u32,
    /// A trade value above this is `HIGH_RISK`.
    pub high_risk_above: Constant,
    /// A trade value above this is at least `MEDIUM_RISK`.
    pub medium_risk_above: Constant,
    /// A quantity above this makes a `VIP Trader`.
    pub vip_above: Constant,
    /// A quantity above this makes at least an `Active Trader`.
    pub active_above: Constant,
    /// Exchange → factor of the normalized price. Other exchanges have factor 1; names are case sensitive.
    pub price_factors: BTreeMap<String, Constant>,
    /// Factors on the fee by trade value; of those that apply the one with the highest `from` counts.
    pub fee_discounts: Vec<FeeDiscount>,
}

/// One step of the fee discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeeDiscount {
    /// The trade value from which (inclusive) it applies.
    pub from: Constant,
    /// The factor.
    pub factor: Constant,
}

impl Default for Enrichment {
    fn default() -> Self {
        let hundredths = |mantissa| Constant { mantissa, scale: 2 }.normalized();
        let factors = [
            ("Binance", 100),
            ("Coinbase", 102),
            ("Kraken", 98),
            ("OKX", 101),
            ("FTX", 99),
            ("Bitfinex", 103),
        ];
        Self {
            precision: 10,
            price_scale: 2,
            quantity_scale: 6,
            fee_scale: 4,
            high_risk_above: Constant::from(500_000),
            medium_risk_above: Constant::from(100_000),
            vip_above: Constant::from(2),
            active_above: Constant::from(1),
            price_factors: factors.map(|(name, factor)| (name.to_owned(), hundredths(factor))).into(),
            fee_discounts: vec![
                FeeDiscount { from: Constant::from(100_000), factor: hundredths(90) },
                FeeDiscount { from: Constant::from(50_000), factor: hundredths(95) },
            ],
        }
    }
}

impl Enrichment {
    /// A text that is equal for equal constants, however they were written.
    pub(super) fn canonical(&self) -> String {
        serde_json::to_string(self).expect("maps with text keys always serialise")
    }
}

/// An exact decimal constant of up to 18 digits, not negative. Written as a string (`"0.95"`) or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Constant {
    mantissa: u64,
    scale: u32,
}

impl Constant {
    /// Without trailing zeros, so that equal constants are equal values.
    fn normalized(mut self) -> Self {
        while self.scale > 0 && self.mantissa.is_multiple_of(10) {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }

    /// The constant times 10^`scale`; `None` when it has more decimals or does not fit.
    fn at_scale(self, scale: u32) -> Option<i128> {
        10i128.checked_pow(scale.checked_sub(self.scale)?)?.checked_mul(i128::from(self.mantissa))
    }
}

impl From<u32> for Constant {
    fn from(whole: u32) -> Self {
        Self { mantissa: whole.into(), scale: 0 }
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:0width$}", self.mantissa, width = self.scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        if fraction.is_empty() { f.write_str(whole) } else { write!(f, "{whole}.{fraction}") }
    }
}

impl From<Constant> for String {
    fn from(constant: Constant) -> Self {
        constant.to_string()
    }
}

impl FromStr for Constant {
    type Err = InvalidEnrichment;

    fn from_str(text: &str) -> Result<Self, InvalidEnrichment> {
        let invalid = || InvalidEnrichment(format!("{text:?} is not a plain decimal of up to 18 digits"));
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number = Number::parse(text.as_bytes()).filter(|_| plain).ok_or_else(invalid)?;
        let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let scale = u32::try_from(scale).ok().filter(|scale| *scale <= 18).ok_or_else(invalid)?;
        let mantissa = number.scaled(scale, 10i128.pow(18)).ok_or_else(invalid)?;
        Ok(Self { mantissa: u64::try_from(mantissa).map_err(|_| invalid())?, scale }.normalized())
    }
}

/// How a constant may be written.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a decimal as a string like \"0.95\", or an integer")]
enum Written {
    Text(String),
    Integer(u32),
}

impl TryFrom<Written> for Constant {
    type Error = InvalidEnrichment;

    fn try_from(written: Written) -> Result<Self, InvalidEnrichment> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Integer(whole) => Ok(whole.into()),
        }
    }
}

/// The constants cannot be used; says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("enrichment: {0}")]
pub struct InvalidEnrichment(String);

/// What the rules make of a trade. Absent where an input is missing or out of range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Enriched {
    /// At scale [`Rules::value_scale`].
    pub(super) trade_value: Option<i128>,
    pub(super) risk_flag: Option<&'static str>,
    /// At scale [`Rules::price_scale`].
    pub(super) normalized_price: Option<i128>,
    /// Value and scale.
    pub(super) adjusted_fee: Option<(i128, u32)>,
    pub(super) user_category: Option<&'static str>,
    /// Price or quantity is zero or below after the cast.
    pub(super) non_positive: bool,
    /// A number is too large for its column.
    pub(super) out_of_range: bool,
}

/// The constants ready for integer arithmetic. With at most 18 digits a factor no product reaches 10^36.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    limit: i128,
    pub(super) price_scale: u32,
    quantity_scale: u32,
    fee_scale: u32,
    pub(super) value_scale: u32,
    high_risk_above: i128,
    medium_risk_above: i128,
    vip_above: i128,
    active_above: i128,
    /// Exchange as a JSON string → factor.
    price_factors: Vec<(Vec<u8>, Constant)>,
    /// Highest value first.
    fee_discounts: Vec<(i128, Constant)>,
}

impl TryFrom<&Enrichment> for Rules {
    type Error = InvalidEnrichment;

    fn try_from(settings: &Enrichment) -> Result<Self, InvalidEnrichment> {
        let scales = [settings.price_scale, settings.quantity_scale, settings.fee_scale];
        if !(1..=18).contains(&settings.precision) || scales.iter().any(|scale| *scale > settings.precision) {
            let problem =
                "precision must be 1 to 18, and price_scale, quantity_scale and fee_scale at most that";
            return Err(InvalidEnrichment(problem.to_owned()));
        }
        let value_scale = settings.price_scale + settings.quantity_scale;
        let at = |name: &str, constant: Constant, scale: u32| {
            constant.at_scale(scale).ok_or_else(|| {
                InvalidEnrichment(format!("{name} {constant} is too large or has more than {scale} decimals"))
            })
        };
        let steps = settings.fee_discounts.iter();
        let mut fee_discounts = steps
            .map(|step| Ok((at("fee_discounts from", step.from, value_scale)?, step.factor)))
            .collect::<Result<Vec<_>, _>>()?;
        fee_discounts.sort_by_key(|step| std::cmp::Reverse(step.0));
        let as_json = |name: &String| {
            let mut json = Vec::new();
            push_string(&mut json, name);
            json
        };
        Ok(Self {
            limit: 10i128.pow(settings.precision),
            price_scale: settings.price_scale,
            quantity_scale: settings.quantity_scale,
            fee_scale: settings.fee_scale,
            value_scale,
            high_risk_above: at("high_risk_above", settings.high_risk_above, value_scale)?,
            medium_risk_above: at("medium_risk_above", settings.medium_risk_above, value_scale)?,
            vip_above: at("vip_above", settings.vip_above, settings.quantity_scale)?,
            active_above: at("active_above", settings.active_above, settings.quantity_scale)?,
            price_factors: settings.price_factors.iter().map(|(name, f)| (as_json(name), *f)).collect(),
            fee_discounts,
        })
    }
}

impl Rules {
    /// Digits and decimals of the trade value.
    pub(super) fn value_digits(&self) -> (u32, u32) {
        (2 * self.precision() + 1, self.value_scale)
    }

    /// Digits and decimals of the normalized price.
    pub(super) fn price_digits(&self) -> (u32, u32) {
        (self.precision(), self.price_scale)
    }

    /// Digits and decimals of the adjusted fee.
    pub(super) fn fee_digits(&self) -> (u32, u32) {
        let factors = self.fee_discounts.iter().map(|(_, factor)| *factor);
        let scale = self.fee_scale + factors.clone().map(|factor| factor.scale).max().unwrap_or(0);
        // A factor below one adds no digits before the point.
        let whole = factors.map(|factor| factor.mantissa / 10u64.pow(factor.scale)).max().unwrap_or(0);
        let more = whole.checked_ilog10().map_or(0, |digits| digits + 1);
        ((self.precision() - self.fee_scale + more + scale).min(38), scale.min(38))
    }

    fn precision(&self) -> u32 {
        self.limit.ilog10()
    }

    /// Casts first, half up, then computes exactly. Numbers are JSON texts, with what they are where they
    /// are short, `exchange` a JSON string.
    pub(super) fn enrich(
        &self,
        price: Option<(&[u8], Option<Short>)>,
        quantity: Option<(&[u8], Option<Short>)>,
        fee: Option<(&[u8], Option<Short>)>,
        exchange: Option<&[u8]>,
    ) -> Enriched {
        let mut out = Enriched::default();
        let mut cast = |number: Option<(&[u8], Option<Short>)>, scale: u32| {
            let (text, short) = number?;
            let quick = short.and_then(|short| short.scaled(scale, self.limit));
            let value = match quick {
                Some(value) => Some(value.into()),
                None => Number::parse(text)?.scaled(scale, self.limit),
            };
            out.out_of_range |= value.is_none();
            value
        };
        let price = cast(price, self.price_scale);
        let quantity = cast(quantity, self.quantity_scale);
        let fee = cast(fee, self.fee_scale);
        out.non_positive = price.is_some_and(|p| p <= 0) || quantity.is_some_and(|q| q <= 0);
        out.user_category = quantity.map(|q| match q {
            q if q > self.vip_above => "VIP Trader",
            q if q > self.active_above => "Active Trader",
            _ => "Casual Trader",
        });
        if let (Some(price), Some(exchange)) = (price, exchange) {
            let factor = self.price_factors.iter().find(|(name, _)| name == exchange);
            let normalized = match factor {
                Some((_, factor)) => round_half_up(price * i128::from(factor.mantissa), factor.scale),
                None => price,
            };
            out.normalized_price = Some(normalized).filter(|n| n.abs() < self.limit);
            out.out_of_range |= out.normalized_price.is_none();
        }
        if let (Some(price), Some(quantity)) = (price, quantity) {
            let value = price * quantity;
            out.trade_value = Some(value);
            out.risk_flag = Some(match value {
                v if v > self.high_risk_above => "HIGH_RISK",
                v if v > self.medium_risk_above => "MEDIUM_RISK",
                _ => "LOW_RISK",
            });
            out.adjusted_fee =
                fee.map(|fee| match self.fee_discounts.iter().find(|(from, _)| value >= *from) {
                    Some((_, f)) => (fee * i128::from(f.mantissa), self.fee_scale + f.scale),
                    None => (fee, self.fee_scale),
                });
        }
        out
    }
}

/// `value` / 10^`decimals`, halves away from zero (Spark's HALF_UP).
fn round_half_up(value: i128, decimals: u32) -> i128 {
    // 128-bit division is slow and rarely needed.
    if let (Ok(value), Some(unit)) = (u64::try_from(value), 10u64.checked_pow(decimals))
        && let Some(sum) = value.checked_add(unit / 2)
    {
        return (sum / unit).into();
    }
    let unit = 10i128.pow(decimals);
    let half = if value < 0 { -unit / 2 } else { unit / 2 };
    (value + half) / unit
}
