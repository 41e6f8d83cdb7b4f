//! Exact decimals with 18 places, the type decimal(38,18) of the tables, and sums of them that cannot overflow.

use std::cmp::Ordering;

use crate::decode::Number;

const SCALE: u32 = 18;
const ONE: i128 = 10i128.pow(SCALE);
const LIMIT: i128 = 10i128.pow(38);

/// A number of a row, in units of 10^-18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount(i128);

impl Amount {
    /// Reads a number as it stands in JSON; `None` for what does not fit decimal(38,18) digit for digit.
    pub(super) fn parse(json: &str) -> Option<Self> {
        let number = Number::parse(json.as_bytes()).filter(Number::fits_decimal)?;
        number.scaled(SCALE, LIMIT).map(Self)
    }
}

/// The sum of some numbers. Whole parts and the rest are added apart, so that 10^18 numbers fit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    whole: i128,
    units: i128,
    count: u64,
}

impl Sum {
    pub(super) fn add(&mut self, amount: Amount) {
        self.whole += amount.0 / ONE;
        self.units += amount.0 % ONE;
        self.count += 1;
    }

    /// The units below one, and all else in the whole part.
    fn carried(&self) -> (i128, i128) {
        (self.whole + self.units.div_euclid(ONE), self.units.rem_euclid(ONE))
    }

    /// Whether it is below zero, its whole part and its units without the sign.
    fn parts(&self) -> (bool, u128, u128) {
        let (mut whole, mut units) = self.carried();
        let negative = whole < 0;
        if negative && units > 0 {
            (whole, units) = (whole + 1, ONE - units);
        }
        (negative, whole.unsigned_abs(), units.unsigned_abs())
    }

    /// For a picture.
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    pub(super) fn about(&self) -> f64 {
        self.whole as f64 + self.units as f64 / ONE as f64
    }

    /// As [`Sum::about`], of [`Sum::average`].
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    pub(super) fn average_about(&self) -> Option<f64> {
        (self.count > 0).then(|| self.about() / self.count as f64)
    }

    /// As a plain decimal without needless zeros; `None` for the sum of nothing, as in SQL.
    pub(super) fn text(&self) -> Option<String> {
        let (negative, whole, units) = self.parts();
        (self.count > 0).then(|| plain(negative, whole, units, SCALE as usize))
    }

    /// The average, rounded half away from zero to 6 places; `None` for that of nothing.
    pub(super) fn average(&self) -> Option<String> {
        let (negative, whole, units) = self.parts();
        let count = u128::from(self.count);
        if count == 0 {
            return None;
        }
        let per_millionth = count * 10u128.pow(SCALE - 6);
        let rest = whole % count * ONE.unsigned_abs() + units;
        let millionths = (rest + per_millionth / 2) / per_millionth;
        let (whole, millionths) = (whole / count + millionths / 1_000_000, millionths % 1_000_000);
        Some(plain(negative && whole + millionths > 0, whole, millionths, 6))
    }
}

/// By value; what has no value comes first.
impl Ord for Sum {
    fn cmp(&self, other: &Self) -> Ordering {
        let value = |sum: &Self| (sum.count > 0).then(|| sum.carried());
        value(self).cmp(&value(other))
    }
}

impl PartialOrd for Sum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sum {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Sum {}

pub(super) fn plain(negative: bool, whole: u128, fraction: u128, places: usize) -> String {
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}{whole}.{fraction:0places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::{Decimal, RoundingStrategy};

    use super::*;

    fn sum(numbers: &[&str]) -> Sum {
        let mut sum = Sum::default();
        numbers.iter().for_each(|number| sum.add(Amount::parse(number).unwrap()));
        sum
    }

    #[test]
    fn sums_keep_every_digit_and_do_not_overflow() {
        let most = "99999999999999999999.999999999999999999";
        assert_eq!(sum(&[most; 1_000]).text().unwrap(), "99999999999999999999999.999999999999999");
        let less = sum(&[most, "-0.000000000000000001"]);
        assert_eq!(less.text().unwrap(), "99999999999999999999.999999999999999998");
        assert_eq!(sum(&["-0.5", "-0.75"]).text().unwrap(), "-1.25");
        assert_eq!(sum(&["-1.5", "0.25"]).text().unwrap(), "-1.25");
        assert_eq!(sum(&["1E-18", "10", "-0"]).text().unwrap(), "10.000000000000000001");
        assert_eq!(sum(&["100", "-100"]).text().unwrap(), "0");
        assert_eq!((sum(&[]).text(), sum(&[]).average()), (None, None));
        assert_eq!(sum(&["1", "1", "0"]).average().unwrap(), "0.666667");
        assert_eq!(sum(&["-0.0000005"]).average().unwrap(), "-0.000001");
        assert_eq!(sum(&["-0.0000004"]).average().unwrap(), "0");
        assert_eq!(sum(&[most; 3]).average().unwrap(), "100000000000000000000");
        for refused in ["1E20", "0.0000000000000000001", "\"1\"", "abc", "", "01"] {
            assert_eq!(Amount::parse(refused), None, "{refused}");
        }
    }

    proptest! {
        /// Against a decimal type that shares no code with it.
        #[test]
        fn sums_and_averages_are_those_of_another_decimal(
            numbers in prop::collection::vec((-10i64.pow(15)..10i64.pow(15), 0u32..=9), 1..40)
        ) {
            let numbers: Vec<Decimal> = numbers.into_iter().map(|(n, scale)| Decimal::new(n, scale)).collect();
            let mut sum = Sum::default();
            numbers.iter().for_each(|n| sum.add(Amount::parse(&n.to_string()).unwrap()));
            let expected: Decimal = numbers.iter().sum();
            prop_assert_eq!(sum.text().unwrap(), expected.normalize().to_string());
            let average = expected / Decimal::from(numbers.len());
            let rounded = average.round_dp_with_strategy(6, RoundingStrategy::MidpointAwayFromZero);
            prop_assert_eq!(sum.average().unwrap(), rounded.normalize().to_string());
        }
    }
}
