//! UTC times: µs since the epoch ↔ ISO 8601 text. Proleptic Gregorian calendar, no leap seconds.

use super::row::PAIRS;

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3600 * SECOND_US;

/// A point in time by its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Utc {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    second_us: u64,
}

impl Utc {
    /// The last time whose year has four digits, 9999-12-31T23:59:59.999999Z, µs.
    pub(crate) const MAX_US: i64 = 253_402_300_799_999_999;

    /// Times before 1970 and after 9999 become the nearest time in that range: no stream has such records, and
    /// paths and columns keep their width.
    pub(crate) fn from_us(us: i64) -> Self {
        let us = us.clamp(0, Self::MAX_US).unsigned_abs();
        let hour_us = HOUR_US.unsigned_abs();
        let hours = us / hour_us;
        // The year starts in March here, so that the leap day is the last of its year.
        let days = hours / 24 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: hours % 24,
            second_us: us % hour_us,
        }
    }

    /// `2026-01-15T09:30:00.123456Z`.
    pub(crate) fn push_iso(&self, out: &mut Vec<u8>) {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        self.put_hour(&mut text);
        put_pair(&mut text, 14, self.second_us / 60_000_000);
        put_pair(&mut text, 17, self.second_us / 1_000_000 % 60);
        let us = self.second_us % 1_000_000;
        put_pair(&mut text, 20, us / 10_000);
        put_pair(&mut text, 22, us / 100 % 100);
        put_pair(&mut text, 24, us % 100);
        out.extend_from_slice(&text);
    }

    /// `2026-01-15T09:30:00.123Z`.
    pub(crate) fn push_iso_ms(&self, out: &mut Vec<u8>) {
        self.push_iso(out);
        out.truncate(out.len() - 4);
        out.push(b'Z');
    }

    /// `2026-01-15 09:00:00`.
    pub(crate) fn push_hour_bucket(&self, out: &mut Vec<u8>) {
        let mut text = *b"0000-00-00 00:00:00";
        self.put_hour(&mut text);
        out.extend_from_slice(&text);
    }

    /// Date and hour, where both texts have them.
    fn put_hour<const N: usize>(&self, text: &mut [u8; N]) {
        put_pair(text, 0, self.year / 100);
        put_pair(text, 2, self.year % 100);
        put_pair(text, 5, self.month);
        put_pair(text, 8, self.day);
        put_pair(text, 11, self.hour);
    }
}

/// Puts the two digits of `value`, which has no more, at `index`.
fn put_pair<const N: usize>(text: &mut [u8; N], index: usize, value: u64) {
    text[index..index + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
}

/// Days from the epoch to a date, which must be in the years 0 to 9999.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Takes `width` digits off the front of `text`.
fn number(text: &mut &[u8], width: usize) -> Option<i64> {
    let (digits, rest) = text.split_at_checked(width)?;
    *text = rest;
    digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

fn mark(text: &mut &[u8], wanted: &[u8]) -> Option<()> {
    let (first, rest) = text.split_first()?;
    *text = rest;
    wanted.contains(first).then_some(())
}

/// Reads `2026-01-15T09:29:59.987654` as UTC µs since the epoch. Takes `T` or a space, 0 to 9 digits of a
/// fraction (cut to µs), and no zone, `Z`, `+hh:mm`, `+hhmm` or `+hh`. `None` when it is no such time, or one
/// outside 1970 to 9999.
pub fn parse_utc_us(text: &[u8]) -> Option<i64> {
    let text = &mut { text };
    let year = number(text, 4)?;
    mark(text, b"-")?;
    let month = number(text, 2).filter(|month| (1..=12).contains(month))?;
    mark(text, b"-")?;
    let day = number(text, 2).filter(|day| (1..=days_in(year, month)).contains(day))?;
    mark(text, b"T t")?;
    let hour = number(text, 2).filter(|hour| *hour < 24)?;
    mark(text, b":")?;
    let minute = number(text, 2).filter(|minute| *minute < 60)?;
    mark(text, b":")?;
    let second = number(text, 2).filter(|second| *second < 60)?;
    let fraction = if text.first() == Some(&b'.') { fraction_us(text)? } else { 0 };
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second - offset_seconds(text)?;
    let us = seconds * SECOND_US + fraction;
    (0..=Utc::MAX_US).contains(&us).then_some(us)
}

fn fraction_us(text: &mut &[u8]) -> Option<i64> {
    let digits = text[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits > 9 {
        return None;
    }
    *text = &text[1..];
    let kept = number(text, digits.min(6))?;
    *text = &text[digits.saturating_sub(6)..];
    Some((digits..6).fold(kept, |us, _| us * 10))
}

fn offset_seconds(text: &mut &[u8]) -> Option<i64> {
    let (sign, mut rest) = match *text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let hours = number(&mut rest, 2).filter(|hours| *hours < 24)?;
    let minutes = match rest {
        [] => 0,
        [b':', rest @ ..] | rest if rest.len() == 2 => number(&mut { rest }, 2).filter(|m| *m < 60)?,
        _ => return None,
    };
    Some(sign * (hours * 60 + minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn iso(us: i64) -> String {
        let mut out = Vec::new();
        Utc::from_us(us).push_iso(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn spellings_of_one_time() {
        let expected = Some(1_768_469_399_987_654);
        for text in [
            "2026-01-15T09:29:59.987654",
            "2026-01-15 09:29:59.987654Z",
            "2026-01-15T09:29:59.987654999+00:00",
            "2026-01-15T10:59:59.987654+0130",
            "2026-01-15T04:29:59.987654-05",
        ] {
            assert_eq!(parse_utc_us(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(parse_utc_us(b"2026-01-15T09:29:59"), Some(1_768_469_399_000_000));
        assert_eq!(parse_utc_us(b"2026-01-15T09:29:59.5Z"), Some(1_768_469_399_500_000));
        assert_eq!(parse_utc_us(b"2024-02-29T00:00:00."), Some(1_709_164_800_000_000));
    }

    #[test]
    fn no_times() {
        for text in [
            "",
            "2026-01-15",
            "2026-1-15T09:29:59",
            "2026-13-15T09:29:59",
            "2026-02-29T09:29:59",
            "2026-01-15T24:00:00",
            "2026-01-15T09:60:00",
            "2026-01-15T09:29:60",
            "2026-01-15T09:29:59.1234567890",
            "2026-01-15T09:29:59+1",
            "2026-01-15T09:29:59+01:",
            "2026-01-15T09:29:59+01:99",
            "2026-01-15T09:29:59 UTC",
            "2026-01-15T09:29:59ZZ",
            "1969-12-31T23:59:59",
        ] {
            assert_eq!(parse_utc_us(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn hour_buckets_cut_minutes_off() {
        let mut out = Vec::new();
        Utc::from_us(1_768_469_399_987_654).push_hour_bucket(&mut out);
        assert_eq!(out, b"2026-01-15 09:00:00");
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(iso(i64::MIN), "1970-01-01T00:00:00.000000Z");
        assert_eq!(iso(i64::MAX), "9999-12-31T23:59:59.999999Z");
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(us in 0..=Utc::MAX_US - HOUR_US * 48) {
            let text = iso(us);
            prop_assert_eq!(text.parse::<jiff::Timestamp>().unwrap().as_microsecond(), us);
            prop_assert_eq!(parse_utc_us(text.as_bytes()), Some(us));
        }

        #[test]
        fn never_panics(text: Vec<u8>, cut in 0usize..35) {
            parse_utc_us(&text);
            parse_utc_us(&b"2026-01-15T09:29:59.987654321+00:00"[..cut]);
        }
    }
}
