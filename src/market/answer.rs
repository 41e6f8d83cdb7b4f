//! What the response to a request means: a snapshot, another try, or none.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::plan::{Interval, retry_after, wait};
use crate::transform::{Provider, look_at_reply};

/// A response, whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its header `Retry-After`.
    pub retry_after: Option<String>,
    /// Its body, byte for byte.
    pub body: Bytes,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The provider refuses, or is in trouble itself.
    Status(u16),
    /// No response within the time.
    TimedOut,
    /// No connection.
    Unreachable,
    /// The response ended before its end.
    CutOff,
    /// It has more bytes than any reply.
    TooLarge,
    /// It is no reply of the provider, by the reason that a dead letter would have.
    NotASnapshot(&'static str),
    /// There is no key where one is needed, or it cannot be read.
    NoKey,
}

impl Trouble {
    /// In one word, as gaps and metrics say it.
    pub fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Status(status) => return Cow::Owned(format!("http_{status}")),
            Self::TimedOut => "timeout",
            Self::Unreachable => "unreachable",
            Self::CutOff => "cut_off",
            Self::TooLarge => "too_large",
            Self::NotASnapshot(reason) => reason,
            Self::NoKey => "no_key",
        })
    }

    /// The provider does not take the key.
    pub(super) fn is_of_key(&self) -> bool {
        matches!(self, Self::Status(401 | 403) | Self::NoKey)
    }

    /// Whether the same request may succeed later.
    fn passes(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..),
            _ => true,
        }
    }
}

/// What a good response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Good {
    /// The time that the reply says itself, µs since the epoch.
    pub(super) time_us: Option<i64>,
    /// Its entries, repeated ones included.
    pub(super) entries: usize,
}

/// Whether a response is a snapshot.
pub(super) fn judge(provider: Provider, response: &Response) -> Result<Good, Trouble> {
    if response.status != 200 {
        return Err(Trouble::Status(response.status));
    }
    match look_at_reply(provider, &response.body) {
        Ok((time_us, entries)) => Ok(Good { time_us, entries }),
        Err(bad) => Err(Trouble::NotASnapshot(bad.code.as_str())),
    }
}

/// A request in vain.
#[derive(Clone, Debug)]
pub(super) struct InVain {
    pub(super) trouble: Trouble,
    /// As the provider asks for it.
    pub(super) retry_after: Option<Duration>,
}

impl InVain {
    pub(super) fn new(trouble: Trouble, response: Option<&Response>, now_us: i64) -> Self {
        let header = response.and_then(|response| response.retry_after.as_deref());
        Self { trouble, retry_after: header.and_then(|header| retry_after(header, now_us)) }
    }
}

/// What comes after a request in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next try, µs since the epoch.
    Again(i64),
    /// The interval has no snapshot of this poller. No request before this time, µs since the epoch.
    GiveUp(i64),
}

/// When there may be another try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until {
    /// The last one begins by this time, µs since the epoch.
    pub(super) last_us: i64,
    /// A key that is refused may be replaced meanwhile.
    pub(super) key_may_change: bool,
}

/// After the `tries`th try of an interval, at `now_us`.
pub(super) fn next(in_vain: &InVain, tries: u32, now_us: i64, until: Until, jitter: f64) -> Next {
    let wait = wait(tries, in_vain.retry_after, jitter);
    let at_us = now_us + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2);
    let passes = if in_vain.trouble.is_of_key() { until.key_may_change } else { in_vain.trouble.passes() };
    if passes && at_us <= until.last_us {
        return Next::Again(at_us);
    }
    // What the provider asked for counts beyond the interval; our own pauses do not.
    Next::GiveUp(in_vain.retry_after.map_or(now_us, |_| at_us))
}

/// When the last try of an interval may begin: where one is all there is, it has some time also if it comes late.
pub(super) fn until_us(interval: Interval, once: bool, begun_us: i64) -> i64 {
    const ONCE_AT_LEAST_US: i64 = 45_000_000;
    let last = interval.last_try_us();
    if once { last.max(begun_us + ONCE_AT_LEAST_US) } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_768_469_412_000_000;

    fn response(status: u16, body: &str) -> Response {
        Response { status, retry_after: None, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn only_a_reply_with_prices_is_a_snapshot() {
        let good = r#"[{"id":"a","current_price":1},{"id":"a"}]"#;
        let found = judge(Provider::CoinGecko, &response(200, good)).unwrap();
        assert_eq!(found, Good { time_us: None, entries: 2 });
        let coincap = r#"{"timestamp":1768469412000,"data":[{"id":"a"}]}"#;
        let found = judge(Provider::CoinCap, &response(200, coincap)).unwrap();
        assert_eq!(found, Good { time_us: Some(NOW_US), entries: 1 });
        for (provider, status, body, reason) in [
            (Provider::CoinGecko, 503, good, "http_503"),
            (Provider::CoinGecko, 204, good, "http_204"),
            (Provider::CoinGecko, 200, "<html>", "not_json"),
            (Provider::CoinGecko, 200, "[]", "no_snapshot"),
            (Provider::CoinGecko, 200, &good[..20], "not_json"),
            (Provider::CoinGecko, 200, coincap, "no_snapshot"),
            (Provider::CoinCap, 200, r#"{"error":"x"}"#, "no_snapshot"),
            (Provider::CoinCap, 200, "", "not_json"),
        ] {
            assert_eq!(judge(provider, &response(status, body)).unwrap_err().reason(), reason, "{body}");
        }
    }

    #[test]
    fn passing_trouble_is_tried_again_within_the_interval() {
        let after = |trouble: Trouble, asked: Option<u64>, tries, until_s: i64| {
            let in_vain = InVain { trouble, retry_after: asked.map(Duration::from_secs) };
            let until = Until { last_us: NOW_US + until_s * 1_000_000, key_may_change: tries == 1 };
            match next(&in_vain, tries, NOW_US, until, 0.0) {
                Next::Again(us) => (true, (us - NOW_US) / 1_000_000),
                Next::GiveUp(us) => (false, (us - NOW_US) / 1_000_000),
            }
        };
        assert_eq!(after(Trouble::Status(503), None, 1, 100), (true, 1));
        assert_eq!(after(Trouble::TimedOut, None, 5, 100), (true, 16));
        assert_eq!(after(Trouble::NotASnapshot("not_json"), None, 2, 100), (true, 2));
        assert_eq!(after(Trouble::Status(429), Some(30), 1, 100), (true, 30));
        assert_eq!(after(Trouble::Status(401), None, 1, 100), (true, 1));
        // Here there is no file that could hold another key.
        assert_eq!(after(Trouble::Status(401), None, 2, 100), (false, 0));
        assert_eq!(after(Trouble::NoKey, None, 2, 100), (false, 0));
        // The interval is over, and the provider wants to be left alone for longer.
        assert_eq!(after(Trouble::Status(429), Some(900), 1, 100), (false, 900));
        assert_eq!(after(Trouble::Status(503), None, 7, 50), (false, 0));
        for status in [301, 400, 404, 410] {
            assert_eq!(after(Trouble::Status(status), None, 1, 100), (false, 0));
        }
    }
}
