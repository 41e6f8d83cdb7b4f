//! Numbers as people write them, within what DynamoDB stores. They never pass through a float.

/// A number: its sign, its digits around the point, its exponent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    integer: String,
    fraction: String,
    exponent: i32,
}

impl Decimal {
    /// Reads digits with a sign, a point or an exponent, or without. `None` also for what DynamoDB does not store: more than
    /// 38 significant digits, and sizes outside 1E-130 to 9.99…E+125 (developer guide, "Supported data types").
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((mantissa, exponent)) => {
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                let plain = digits.len() <= 9 && is_digits(digits) && !digits.is_empty();
                (mantissa, exponent.parse().ok().filter(|_| plain)?)
            }
        };
        let (negative, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if integer.len() + fraction.len() == 0 || !is_digits(integer) || !is_digits(fraction) {
            return None;
        }
        let integer = integer.trim_start_matches('0').to_owned();
        let number = Self { negative, integer, fraction: fraction.to_owned(), exponent };
        number.is_stored().then_some(number)
    }

    fn is_stored(&self) -> bool {
        let digits = format!("{}{}", self.integer, self.fraction);
        let significant = digits.trim_matches('0').len();
        if significant == 0 {
            return true;
        }
        let zeros = digits.len() - digits.trim_start_matches('0').len();
        let first = i64::try_from(self.integer.len()).ok().zip(i64::try_from(zeros).ok());
        let magnitude = first.map(|(integer, zeros)| integer - 1 - zeros + i64::from(self.exponent));
        significant <= 38 && magnitude.is_some_and(|magnitude| (-130..=125).contains(&magnitude))
    }

    /// Its size as digits, and how many of them stand after the point, which may be fewer than none.
    fn units(&self) -> Option<(u128, i32)> {
        let digits = format!("0{}{}", self.integer, self.fraction).parse().ok()?;
        Some((digits, i32::try_from(self.fraction.len()).ok()? - self.exponent))
    }
}

/// Its digits as they were given, in JSON's grammar.
impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { negative, integer, fraction, exponent } = self;
        write!(f, "{}{}", if *negative { "-" } else { "" }, if integer.is_empty() { "0" } else { integer })?;
        if !fraction.is_empty() {
            write!(f, ".{fraction}")?;
        }
        if *exponent == 0 { Ok(()) } else { write!(f, "E{exponent}") }
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// A thousandth of price × amount, half up to 4 decimals, without trailing zeros; of their sizes, whatever their signs.
/// `None` when it does not fit.
pub(super) fn fee(price: &Decimal, amount: &Decimal) -> Option<String> {
    let (price, price_scale) = price.units()?;
    let (amount, amount_scale) = amount.units()?;
    let value = price.checked_mul(amount)?;
    let drop = price_scale + amount_scale + 3 - 4;
    let power = 10u128.checked_pow(drop.unsigned_abs());
    let rounded = match (drop >= 0, power) {
        (true, Some(unit)) => value.checked_add(unit / 2)? / unit,
        (true, None) => 0,
        (false, unit) => value.checked_mul(unit?)?,
    };
    let (whole, fraction) = (rounded / 10_000, rounded % 10_000);
    let text = format!("{whole}.{fraction:04}");
    Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Option<String> {
        Decimal::parse(text).map(|number| number.to_string())
    }

    #[test]
    fn numbers_keep_their_digits() {
        for (text, number) in [
            ("28165.47000000", "28165.47000000"),
            ("2.1E-7", "2.1E-7"),
            ("1e5", "1E5"),
            ("1E+05", "1E5"),
            ("-1.50", "-1.50"),
            ("+1", "1"),
            ("007", "7"),
            ("00", "0"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1E-130", "1E-130"),
            ("9.9E125", "9.9E125"),
            ("0E999", "0E999"),
            (
                "0.00000000000000000000000000000000000000000000012",
                "0.00000000000000000000000000000000000000000000012",
            ),
            ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(number), "{text}");
        }
        for wrong in [
            "",
            ".",
            "-",
            "+",
            "e5",
            "1e",
            "1e+",
            "1e1.0",
            "--1",
            "+-1",
            "1_000",
            "1,5",
            "NaN",
            "Infinity",
            "0x1",
            " 1",
            "1 ",
            "1E126",
            "1E-131",
            "10E125",
            "1e9999999999",
            "123456789012345678901234567890123456789",
            "1e++5",
            "١",
        ] {
            assert_eq!(shown(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn fees_are_exact_decimals() {
        for (price, amount, expected) in [
            ("28165.47000000", "0.00056000", Some("0.0158")),
            ("13873", "3000", Some("41619")),
            ("0.05", "1", Some("0.0001")),
            ("0.0499", "1", Some("0")),
            ("2.1E-7", "1e9", Some("0.21")),
            ("1E-130", "1E-130", Some("0")),
            ("-3", "1e3", Some("3")),
            ("1e30", "1e30", None),
            ("99999999999999999999999999999999999999", "99999", None),
        ] {
            let fee = fee(&Decimal::parse(price).unwrap(), &Decimal::parse(amount).unwrap());
            assert_eq!(fee.as_deref(), expected, "{price} × {amount}");
        }
    }

    proptest! {
        /// What is taken is read again as the same number, and is one for JSON.
        #[test]
        fn what_is_taken_is_a_number_of_json(text in "[+-]?[0-9]{0,40}[.]?[0-9]{0,5}([eE][+-]?[0-9]{1,3})?") {
            if let Some(number) = Decimal::parse(&text) {
                let shown = number.to_string();
                prop_assert_eq!(Decimal::parse(&shown), Some(number));
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&shown).is_ok(), "{}", shown);
            }
        }
    }
}
