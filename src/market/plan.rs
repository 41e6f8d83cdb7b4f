//! Intervals: when one begins and ends, where its objects lie, which are missing, how long to wait before the next try.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::batch::hour_folder;
use crate::clock::utc;
use crate::transform::{Provider, parse_utc_us};

const SECOND_US: i64 = 1_000_000;
const DAY_S: i64 = 86_400;

/// The shortest time between two snapshots.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const EVERY_MAX: Duration = Duration::from_secs(86_400);

/// No wait is longer, however often a request has failed.
const WAIT_MAX_S: f64 = 60.0;
/// Nor one that a provider asks for.
const RETRY_AFTER_MAX_S: u64 = 86_400;

/// A piece of time that has one snapshot. Intervals begin at multiples of their length since the epoch, so that all
/// pollers have the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    /// s since the epoch.
    pub(super) start_s: i64,
    every_s: i64,
}

impl Interval {
    /// The one that `us` lies in, µs since the epoch.
    pub fn at(us: i64, every: Duration) -> Self {
        let every_s = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
        let start_s = us.div_euclid(SECOND_US).div_euclid(every_s) * every_s;
        Self { start_s, every_s }
    }

    pub(super) fn next(self) -> Self {
        Self { start_s: self.start_s + self.every_s, ..self }
    }

    /// One of the same length that begins at this time, which is the start of one.
    pub(super) fn starting(self, start_s: i64) -> Self {
        Self { start_s, ..self }
    }

    /// The one that lies so much earlier.
    pub(super) fn earlier(self, seconds: i64) -> Self {
        let start_s = (self.start_s - seconds).max(0).div_euclid(self.every_s) * self.every_s;
        Self { start_s, ..self }
    }

    /// The folders of the days from that of `first` to that of this one.
    pub(super) fn days_since(self, first: Self) -> Vec<String> {
        let day =
            |at: i64| hour_folder(at * DAY_S * SECOND_US).rsplit_once('/').map(|parts| parts.0.to_owned());
        (first.start_s.div_euclid(DAY_S)..=self.start_s.div_euclid(DAY_S)).filter_map(day).collect()
    }

    /// Whether these starts may be of intervals as long as this one.
    pub(super) fn is_length_of(self, starts: &BTreeSet<i64>) -> bool {
        starts.iter().all(|start| start % self.every_s == 0)
    }

    /// Intervals from `earlier` to before this one; 0 where it is later.
    pub(super) fn intervals_since(self, earlier: Self) -> i64 {
        ((self.start_s - earlier.start_s) / self.every_s).max(0)
    }

    pub(super) fn start_us(self) -> i64 {
        self.start_s * SECOND_US
    }

    pub(super) fn end_us(self) -> i64 {
        self.next().start_us()
    }

    /// Requests begin before this time, so that their answers come within the interval: the last tenth is for that, at
    /// most 5 s.
    pub(super) fn last_try_us(self) -> i64 {
        self.end_us() - (self.every_s * SECOND_US / 10).min(5 * SECOND_US)
    }

    /// The key of what a zone holds of it.
    pub(super) fn key(self, provider: Provider, zone: Zone) -> String {
        let hour = hour_folder(self.start_us());
        format!("{}/{hour}/{}{}", zone.folder(provider), self.start_s, zone.ending())
    }
}

/// What of a snapshot lies where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// Bodies as they came.
    Raw,
    /// Rows of those.
    Processed,
    /// Intervals without a snapshot.
    Gaps,
}

impl Zone {
    /// Its folder in the lake.
    pub(super) fn folder(self, provider: Provider) -> String {
        let zone = match self {
            Self::Raw => "raw",
            Self::Processed => "processed",
            Self::Gaps => "gaps",
        };
        format!("market/{provider}/{zone}")
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Raw | Self::Gaps => ".json",
            Self::Processed => ".ndjson.gz",
        }
    }

    /// The start of the interval whose object has this key; `None` for an object that is not ours.
    pub(super) fn start_of(self, key: &str) -> Option<i64> {
        key.rsplit('/').next()?.strip_suffix(self.ending())?.parse().ok()
    }
}

/// Intervals in a row that have no snapshot, as the lake and the stream say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Who was asked.
    pub provider: &'static str,
    /// Start of the first, ISO 8601.
    pub interval_start: String,
    /// End of the last.
    pub interval_end: String,
    /// How many.
    pub intervals: i64,
    /// Why, in one word: `http_503`, `timeout`, `not_polled`, …
    pub reason: String,
    /// Requests that were made in vain.
    pub attempts: u32,
    #[serde(skip)]
    pub(super) first: Interval,
}

impl Gap {
    /// So many intervals from this one on.
    pub fn new(provider: Provider, first: Interval, intervals: i64, reason: &str, attempts: u32) -> Self {
        let end_us = first.start_us() + intervals * first.every_s * SECOND_US;
        Self {
            provider: provider.as_str(),
            interval_start: utc(first.start_us()),
            interval_end: utc(end_us),
            intervals,
            reason: reason.to_owned(),
            attempts,
            first,
        }
    }
}

impl Gap {
    /// Whether `next` goes on where this one ends, for the same reason.
    pub(super) fn joins(&self, next: &Self) -> bool {
        self.interval_end == next.interval_start
            && self.reason == next.reason
            && self.provider == next.provider
    }

    pub(super) fn join(&mut self, next: &Self) {
        self.interval_end.clone_from(&next.interval_end);
        self.intervals += next.intervals;
        self.attempts += next.attempts;
    }
}

/// Runs of intervals from `from` to before `to` that are not in `there`: the first of each, and how many.
pub(super) fn missing(from: Interval, to: Interval, there: &BTreeSet<i64>) -> Vec<(Interval, i64)> {
    let mut runs: Vec<(Interval, i64)> = Vec::new();
    let mut interval = from;
    let mut in_run = false;
    while interval < to {
        let absent = !there.contains(&interval.start_s);
        match runs.last_mut() {
            Some((_, count)) if absent && in_run => *count += 1,
            _ if absent => runs.push((interval, 1)),
            _ => {}
        }
        in_run = absent;
        interval = interval.next();
    }
    runs
}

/// The wait after so many requests in vain, at least 1: 1 s doubling to a minute, and not less than the provider asks for.
/// `jitter` from 0 to 1 makes it up to a quarter longer, so that pollers do not come in step.
pub(super) fn wait(tries: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let doubled = f64::from(tries.saturating_sub(1).min(16)).exp2().min(WAIT_MAX_S);
    let own = Duration::from_secs_f64(doubled * (1.0 + jitter / 4.0));
    let asked = retry_after.map(|asked| asked + Duration::from_secs_f64(jitter));
    own.max(asked.unwrap_or_default())
}

/// What a header `Retry-After` asks for: seconds, or a time (RFC 9110 §10.2.3). At most a day.
pub(super) fn retry_after(header: &str, now_us: i64) -> Option<Duration> {
    let header = header.trim();
    let seconds = match header.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let until_us = http_date_us(header)?;
            u64::try_from((until_us - now_us).max(0)).ok()?.div_ceil(SECOND_US.unsigned_abs())
        }
    };
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_MAX_S)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be sent (RFC 9110 §5.6.7), µs since the epoch.
pub(super) fn http_date_us(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = date.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    parse_utc_us(format!("{year}-{month:02}-{day}T{time}").as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIVE_MINUTES: Duration = Duration::from_secs(300);
    /// 2026-01-15T09:30:12Z.
    const NOW_US: i64 = 1_768_469_412_000_000;

    #[test]
    fn keys_are_those_of_the_start_of_the_interval() {
        let interval = Interval::at(NOW_US, FIVE_MINUTES);
        let hour = "year=2026/month=01/day=15/hour=09";
        for (zone, expected) in [
            (Zone::Raw, format!("market/coingecko/raw/{hour}/1768469400.json")),
            (Zone::Processed, format!("market/coingecko/processed/{hour}/1768469400.ndjson.gz")),
            (Zone::Gaps, format!("market/coingecko/gaps/{hour}/1768469400.json")),
        ] {
            let key = interval.key(Provider::CoinGecko, zone);
            assert_eq!(key, expected);
            assert_eq!(zone.start_of(&key), Some(interval.start_s));
        }
        assert_eq!(Zone::Raw.start_of("market/coingecko/raw/x/readme.json"), None);
        assert_eq!(Zone::Processed.start_of("a/trades-1-2.ndjson.gz"), None);
        assert_eq!(interval.last_try_us() - interval.start_us(), 295 * SECOND_US);
        let short = Interval::at(NOW_US, Duration::from_secs(10));
        assert_eq!((short.start_s, short.end_us() - short.last_try_us()), (1_768_469_410, SECOND_US));
    }

    #[test]
    fn a_gap_says_which_intervals_and_why() {
        let gap = Gap::new(Provider::CoinCap, Interval::at(NOW_US, FIVE_MINUTES), 3, "http_503", 7);
        assert_eq!(
            serde_json::to_string(&gap).unwrap(),
            r#"{"provider":"coincap","interval_start":"2026-01-15T09:30:00Z","interval_end":"2026-01-15T09:45:00Z","#
                .to_owned()
                + r#""intervals":3,"reason":"http_503","attempts":7}"#
        );
    }

    #[test]
    fn waits_double_to_a_minute_and_are_not_shorter_than_asked_for() {
        let waits: Vec<u64> = (1..10).map(|tries| wait(tries, None, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(wait(u32::MAX, None, 1.0).as_secs(), 75);
        assert_eq!(wait(1, Some(Duration::from_secs(30)), 0.5), Duration::from_millis(30_500));
        assert_eq!(wait(7, Some(Duration::from_secs(30)), 0.0).as_secs(), 60);
    }

    #[test]
    fn retry_after_is_seconds_or_a_time() {
        for (header, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("999999999", Some(86_400)),
            ("Thu, 15 Jan 2026 09:31:12 GMT", Some(60)),
            ("Thu, 15 Jan 2026 09:00:00 GMT", Some(0)),
            ("Thu, 15 Jan 2026 09:31:12 CET", None),
            ("Thu, 15 Foo 2026 09:31:12 GMT", None),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(header, NOW_US).map(|wait| wait.as_secs()), expected, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn intervals_follow_each_other_without_a_hole(us in 0i64..4_000_000_000_000_000, every in 1u64..90_000) {
            let interval = Interval::at(us, Duration::from_secs(every));
            prop_assert!((interval.start_us()..interval.end_us()).contains(&us));
            prop_assert_eq!(Interval::at(interval.end_us(), Duration::from_secs(every)), interval.next());
            prop_assert_eq!(Interval::at(interval.end_us() - 1, Duration::from_secs(every)), interval);
            prop_assert!(interval.last_try_us() < interval.end_us() && interval.last_try_us() >= interval.start_us());
        }

        /// Each interval is either there or in exactly one run, and runs do not touch.
        #[test]
        fn what_is_missing_is_what_is_not_there(there in prop::collection::btree_set(0i64..30, 0..30)) {
            let of = |start: i64| Interval { start_s: start * 10, every_s: 10 };
            let starts: BTreeSet<i64> = there.iter().map(|start| start * 10).collect();
            let runs = missing(of(0), of(30), &starts);
            let mut covered = BTreeSet::new();
            for (first, count) in &runs {
                for at in 0..*count {
                    prop_assert!(covered.insert(first.start_s / 10 + at));
                }
                prop_assert!(first.start_s == 0 || there.contains(&(first.start_s / 10 - 1)));
            }
            let expected: BTreeSet<i64> = (0..30).filter(|start| !there.contains(start)).collect();
            prop_assert_eq!(covered, expected);
        }

        #[test]
        fn any_header_is_read_or_not(header: String) {
            retry_after(&header, NOW_US);
        }
    }
}
