//! Numbers as text: the JSON grammar, DynamoDB's range, and the one way to a scaled integer.

/// A number in JSON grammar, borrowed from its text. It never passes through a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

/// Digits that every reader takes in one number. Spark stops at a thousand characters.
const TEXT_MAX: usize = 300;

/// So many decimal digits fit into 64 bits, whatever they are.
const DIGITS_U64: usize = 19;

/// Powers of ten that fit into 64 bits.
pub const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// The text `text` as a number, its last character highest and `0` in front; `None` above 16 characters.
#[inline]
fn right_aligned(text: &[u8]) -> Option<u128> {
    let free = 16usize.checked_sub(text.len())?;
    let zeros = u128::from_le_bytes([b'0'; 16]);
    if free == 0 {
        return Some(u128::from_le_bytes(*text.first_chunk()?));
    }
    // Two words that overlap say the same where they do.
    let characters = if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        u128::from(u64::from_le_bytes(*first)) << (8 * free) | u128::from(u64::from_le_bytes(*last)) << 64
    } else if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        u128::from(u32::from_le_bytes(*first)) << (8 * free) | u128::from(u32::from_le_bytes(*last)) << 96
    } else {
        text.iter().fold(0, |all, byte| all >> 8 | u128::from(*byte) << 120)
    };
    Some(characters | zeros & (u128::MAX >> (8 * text.len())))
}

/// The value of eight digits, the first lowest.
#[inline]
fn value_of(digits: u64) -> u64 {
    let pairs = (digits & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

/// A number of at most 16 characters, no sign and no exponent: nearly every one. It is read in a few steps, without a
/// branch for each digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// All digits.
    digits: u64,
    /// Those behind the point.
    decimals: u32,
}

impl Short {
    /// Reads one; `None` for every other text, number or not.
    #[inline]
    pub fn parse(text: &[u8]) -> Option<Self> {
        const ONES: u128 = u128::MAX / 255;
        let (&first, last) = (text.first()?, text.last()?);
        let characters = right_aligned(text)?;
        let differ = characters ^ (ONES * b'.' as u128);
        // The highest bit of the first byte that is a point, and maybe of others behind it: those are no digits either.
        let points = differ.wrapping_sub(ONES) & !differ & (ONES << 7);
        let point = points.trailing_zeros() / 8;
        let (digits, decimals) = if point < 16 {
            let behind = u128::MAX << (8 * point);
            (characters & (behind << 8) | (characters & !behind) << 8 | u128::from(b'0'), 15 - point)
        } else {
            (characters, 0)
        };
        let values = digits ^ (ONES * b'0' as u128);
        let no_digits = (values.wrapping_add(ONES * 0x76) | values) & (ONES << 7);
        // Grammar: no zero in front of another digit, and digits on both sides of a point.
        let leading = first == b'0' && text.len() > 1 && text[1] != b'.';
        if no_digits != 0 || leading || first == b'.' || *last == b'.' {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
        let halves = (digits as u64, (digits >> 64) as u64);
        Some(Self { digits: value_of(halves.0) * POWERS[8] + value_of(halves.1), decimals })
    }

    /// The number, if it has no point.
    pub(super) fn whole(self) -> Option<u64> {
        (self.decimals == 0).then_some(self.digits)
    }

    /// As [`Number::scaled`], which also has to be asked where the answer is `None`.
    #[inline]
    pub fn scaled(self, scale: u32, limit: i128) -> Option<u64> {
        let value = match scale.checked_sub(self.decimals) {
            Some(more) => self.digits.checked_mul(*POWERS.get(more as usize)?)?,
            None => {
                let unit = POWERS[(self.decimals - scale) as usize];
                (self.digits + unit / 2) / unit
            }
        };
        (i128::from(value) < limit).then_some(value)
    }
}

/// Digits before the first that is not one.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

impl<'a> Number<'a> {
    /// Reads the JSON number grammar (RFC 8259 §6); `None` for anything else.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (integer, rest) = digits(rest);
        if integer.is_empty() || (integer.len() > 1 && integer[0] == b'0') {
            return None;
        }
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => match digits(rest) {
                ([], _) => return None,
                found => found,
            },
            rest => (&rest[..0], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => exponent(rest)?,
            _ => return None,
        };
        Some(Self { negative, integer, fraction, exponent })
    }

    fn count(&self) -> usize {
        self.integer.len() + self.fraction.len()
    }

    /// The digit at `index` from the left, 0 to the right of the last one.
    fn digit(&self, index: usize) -> u8 {
        let digit = match index.checked_sub(self.integer.len()) {
            None => self.integer[index],
            Some(index) => self.fraction.get(index).copied().unwrap_or(b'0'),
        };
        digit - b'0'
    }

    /// True within what DynamoDB stores: 38 significant digits, 1E-130 to 9.99…E+125 or zero
    /// (developer guide, "Supported data types"), in a spelling that readers take.
    pub fn fits_dynamodb(&self) -> bool {
        // Short plain numbers, nearly all of them, need no look at their digits.
        if self.exponent == 0 && self.count() <= 38 {
            return true;
        }
        self.fits_readers()
            && match self.significant() {
                None => true,
                Some((first, last)) => last - first < 38 && (-130..=125).contains(&self.magnitude(first)),
            }
    }

    /// True for what every reader of the lake takes: a double that is finite, and zero only where the number is. Longer
    /// texts, and exponents that only a zero could have, stop some of them (Jackson, RapidJSON, Java's BigDecimal).
    pub fn fits_readers(&self) -> bool {
        // Short plain numbers, nearly all of them, need no look at their digits.
        if self.exponent == 0 && self.count() <= TEXT_MAX {
            return true;
        }
        let fraction = signed(self.fraction.len());
        if self.count() > TEXT_MAX || !(-1000..=308 + fraction).contains(&self.exponent) {
            return false;
        }
        match self.significant() {
            None => true,
            Some((first, _)) => {
                let digits: String =
                    (first..first + 20).map(|at| char::from(b'0' + self.digit(at))).collect();
                let double = format!("{digits}e{}", self.magnitude(first) - 19).parse::<f64>();
                double.is_ok_and(|double| double.is_finite() && double != 0.0)
            }
        }
    }

    /// True when a column of type decimal(38,18) holds the number as it is.
    pub fn fits_decimal(&self) -> bool {
        let whole = self.integer.len() <= 20;
        if self.exponent == 0 && whole && self.fraction.len() <= 18 {
            return true;
        }
        match self.significant() {
            None => whole,
            Some((first, last)) => whole && self.magnitude(first) <= 19 && self.magnitude(last) >= -18,
        }
    }

    /// Indices of the first and last digit that is not 0; `None` for zero.
    fn significant(&self) -> Option<(usize, usize)> {
        let significant = |index: &usize| self.digit(*index) != 0;
        let first = (0..self.count()).find(significant)?;
        Some((first, (0..self.count()).rfind(significant).unwrap_or(first)))
    }

    /// The power of ten of the digit at `index`.
    fn magnitude(&self, index: usize) -> i64 {
        signed(self.integer.len()) - 1 - signed(index) + self.exponent
    }

    /// The number times 10^`scale`, rounded half up (away from zero) in one step; `None` when its size is not
    /// below `limit`, which must not be above 10^37.
    pub fn scaled(&self, scale: u32, limit: i128) -> Option<i128> {
        // Digits of the result; those behind it are cut and only the first of them decides the rounding.
        let kept = signed(self.integer.len()) + self.exponent + i64::from(scale);
        let mut value = match usize::try_from(kept).unwrap_or(0) {
            // Nearly all numbers.
            kept @ ..=DIGITS_U64 => i128::from(self.first_digits(kept)),
            kept => {
                let mut value = 0i128;
                for index in 0..kept {
                    if value == 0 && index >= self.count() {
                        break;
                    }
                    value = value * 10 + i128::from(self.digit(index));
                    if value >= limit {
                        return None;
                    }
                }
                value
            }
        };
        if usize::try_from(kept).is_ok_and(|next| self.digit(next) >= 5) {
            value += 1;
        }
        (value < limit).then_some(if self.negative { -value } else { value })
    }

    /// The first `count` digits as one number, with zeros behind the last; at most [`DIGITS_U64`].
    fn first_digits(&self, count: usize) -> u64 {
        let integer = &self.integer[..count.min(self.integer.len())];
        let count = count - integer.len();
        let fraction = &self.fraction[..count.min(self.fraction.len())];
        let append = |value, digit: &u8| value * 10 + u64::from(digit - b'0');
        let value = fraction.iter().fold(integer.iter().fold(0, append), append);
        (fraction.len()..count).fold(value, |value, _| value * 10)
    }

    /// True for numbers below zero, and for `-0`.
    pub fn is_negative(&self) -> bool {
        self.negative
    }
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    let (number, []) = digits(text) else { return None };
    if number.is_empty() {
        return None;
    }
    // Far beyond every range that counts, and far from overflow. No reader takes so many digits.
    if number.len() > 20 {
        return Some(sign * (1 << 40));
    }
    let size = number.iter().fold(0i64, |size, b| (size * 10 + i64::from(b - b'0')).min(1 << 40));
    Some(sign * size)
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nines(digits: usize) -> String {
        "9".repeat(digits)
    }

    fn number(text: &str) -> Number<'_> {
        Number::parse(text.as_bytes()).unwrap()
    }

    proptest! {
        /// Short numbers are read as all others, and nothing else is taken for one.
        #[test]
        fn short_numbers_are_numbers(
            text in "[0-9]{0,12}\\.?[0-9]{0,9}|[0-9.]{0,18}|[-0-9.eE+ :/\\x00\\xff]{0,17}",
            scale in 0u32..20,
            limit in 1u32..19,
        ) {
            let (text, limit) = (text.as_bytes(), 10i128.pow(limit));
            let number = Number::parse(text);
            match Short::parse(text) {
                Some(short) => {
                    let number = number.expect("a short number is a number");
                    prop_assert!(number.fits_dynamodb() && number.fits_decimal());
                    prop_assert_eq!(i128::from(short.digits), number.scaled(short.decimals, 10i128.pow(20)).unwrap());
                }
                None => prop_assert!(number.is_none_or(|number| number.negative || number.exponent != 0 || text.len() > 16 || text.contains(&b'e') || text.contains(&b'E'))),
            }
            if let Some(scaled) = Short::parse(text).and_then(|short| short.scaled(scale, limit)) {
                prop_assert_eq!(number.and_then(|number| number.scaled(scale, limit)), Some(scaled.into()));
            }
        }
    }

    #[test]
    fn a_number_of_dynamodb_ends_where_its_range_does() {
        for fits in [
            nines(38),
            format!("{}0", nines(38)),
            format!("-0.{}", nines(38)),
            format!("0.00{}00", nines(38)),
            format!("1.{}", nines(37)),
            format!("{}e88", nines(38)),
            "9.99e125".into(),
            "1e-130".into(),
            "0.0e0".into(),
        ] {
            assert!(number(&fits).fits_dynamodb(), "{fits}");
        }
        for fits_not in [
            nines(39),
            format!("-0.{}", nines(39)),
            format!("1.{}", nines(38)),
            format!("{}e89", nines(38)),
            "1e126".into(),
            "1e-131".into(),
        ] {
            assert!(!number(&fits_not).fits_dynamodb(), "{fits_not}");
        }
    }

    #[test]
    fn a_decimal_has_twenty_digits_before_and_eighteen_after_the_point() {
        for fits in
            [&nines(20), &format!("0.{}", nines(18)), "1.0000000000000000000", "1e19", "1e-18", "0e99"]
        {
            assert!(number(fits).fits_decimal(), "{fits}");
        }
        for fits_not in [&nines(21), &format!("0.{}", nines(19)), "1e20", "1e-19", "10e19"] {
            assert!(!number(fits_not).fits_decimal(), "{fits_not}");
        }
    }

    #[test]
    fn scaling_rounds_half_away_from_zero_and_stops_at_its_limit() {
        for (text, scale, expected) in [
            ("1.5", 0, Some(2)),
            ("-1.5", 0, Some(-2)),
            ("1.49", 0, Some(1)),
            ("0.5", 0, Some(1)),
            ("0.05", 0, Some(0)),
            ("12e-1", 1, Some(12)),
            ("99", 0, Some(99)),
            ("99.4", 0, Some(99)),
            ("99.5", 0, None),
            ("100", 0, None),
            ("1", 2, None),
        ] {
            assert_eq!(number(text).scaled(scale, 100), expected, "{text} × 10^{scale}");
        }
    }
}
