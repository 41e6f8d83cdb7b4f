//! Gathered prices → the figures of dashboards, those of the views in `athena/market/`.

use std::cmp::{Ordering, Reverse};

use serde::{Serialize, Serializer};

use super::gather::{Gathered, Newest, Total};
use super::row::{Figure, Price, time};
use crate::insights::decimal::plain;

const DAY_S: i64 = 86_400;
const TREND_S: i64 = 7 * DAY_S;
/// Ranks of the first hundred.
const TOP: i32 = 100;
/// Places of a change in percent.
const PERCENT_PLACES: u32 = 6;

/// What dashboards show of prices. All but counts and ranks are texts in JSON, because numbers there would lose digits.
#[derive(Debug, Default, Serialize)]
pub struct PriceFigures {
    /// Coins in the newest hour that has prices.
    pub coins: u64,
    /// That hour.
    pub(super) newest_hour: Option<Freshness>,
    /// Total Market Cap.
    #[serde(serialize_with = "whole")]
    pub(super) total_market_cap: Option<i128>,
    /// Volume in 24 Hours.
    #[serde(serialize_with = "whole")]
    pub(super) total_volume_24h: Option<i128>,
    /// The newest snapshot against earlier ones.
    pub(super) market_cap_changes: Option<Changes>,
    /// Top 100: by the rank that the provider gives.
    pub(super) top_100: Vec<Price>,
    /// Market Cap, the greatest first.
    pub(super) market_cap: Vec<Price>,
    /// Volume by Coin, the greatest first.
    pub(super) volume_24h: Vec<Price>,
    /// Top Gainers: by the change in 24 hours.
    pub(super) top_gainers: Vec<Price>,
    /// Trending: by the change in 7 days.
    pub(super) trending: Vec<Price>,
    /// Four Coins in 7 Days, by coin and hour.
    pub(super) trend: Vec<Hourly>,
    /// Bitcoin in 24 Hours.
    pub(super) bitcoin_24h: Vec<Price>,
}

/// The newest hour that has prices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Freshness {
    /// Like `2026-01-15 09:00:00`.
    #[serde(serialize_with = "hour")]
    pub(super) hour: i64,
    pub(super) prices: u64,
    pub(super) coins: u64,
    pub(super) snapshots: u64,
    #[serde(serialize_with = "time")]
    pub(super) newest_snapshot: i64,
}

/// The value of all coins at three moments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Changes {
    pub(super) now: Moment,
    /// The first snapshot from 00:00 UTC on.
    pub(super) midnight: Moment,
    /// The first one of the last 24 hours.
    pub(super) day_ago: Moment,
    pub(super) pct_since_midnight: Option<String>,
    pub(super) pct_since_day_ago: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Moment {
    #[serde(serialize_with = "time")]
    pub(super) snapshot_time: i64,
    #[serde(serialize_with = "whole")]
    pub(super) total: Option<i128>,
    /// Coins with a value. Where they are more or fewer than now the sums do not compare.
    pub(super) coins: u64,
}

/// The last price of an hour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Hourly {
    #[serde(serialize_with = "hour")]
    pub(super) hour: i64,
    #[serde(flatten)]
    pub(super) price: Price,
}

impl PriceFigures {
    /// Of these prices.
    pub(super) fn of(gathered: Gathered) -> Self {
        let Gathered { newest, totals, mut trend, mut bitcoin } = gathered;
        let Some(newest) = newest else { return Self::default() };
        let moment = |(at, total): (&i64, &Total)| Moment {
            snapshot_time: *at,
            total: total.value(),
            coins: total.coins,
        };
        let now = totals.last_key_value().map(moment);
        let market_cap_changes = now.and_then(|now| {
            let from = |start: i64| totals.range(start..).next().map(moment);
            let midnight = from(now.snapshot_time - now.snapshot_time % DAY_S)?;
            let day_ago = from(now.snapshot_time - DAY_S)?;
            let [pct_since_midnight, pct_since_day_ago] =
                [midnight, day_ago].map(|then| percent(now.total?, then.total?));
            Some(Changes { now, midnight, day_ago, pct_since_midnight, pct_since_day_ago })
        });
        let newest_of_trend = trend.iter().map(|(_, price)| price.at).max().unwrap_or(0);
        trend.retain(|(_, price)| price.at > newest_of_trend - TREND_S);
        let mut trend: Vec<_> = trend.into_iter().map(|(hour, price)| Hourly { hour, price }).collect();
        trend.sort_by(|a, b| (&a.price.id, a.hour).cmp(&(&b.price.id, b.hour)));
        let newest_of_bitcoin = bitcoin.iter().map(|price| price.at).max().unwrap_or(0);
        bitcoin.retain(|price| price.at > newest_of_bitcoin - DAY_S);
        bitcoin.sort_by_key(|price| price.at);
        let Newest { hour, prices, snapshots, coins } = newest;
        let sum = |value: fn(&Price) -> Option<i64>| {
            let mut total = Total::default();
            coins.iter().for_each(|coin| total.add(value(coin)));
            total.value()
        };
        let count = coins.len() as u64;
        let newest_snapshot = coins.iter().map(|coin| coin.at).max().unwrap_or(0);
        let by_change = |change: fn(&Price) -> &Option<Figure>| {
            ranked(&coins, |a, b| {
                let about = |price| change(price).as_ref().map(|figure| figure.about);
                about(b).is_some().cmp(&about(a).is_some()).then_with(|| {
                    about(b).unwrap_or(0.0).partial_cmp(&about(a).unwrap_or(0.0)).unwrap_or(Ordering::Equal)
                })
            })
        };
        let top = coins.iter().filter(|coin| coin.market_cap_rank.is_some_and(|rank| rank <= TOP));
        let top: Vec<Price> = top.cloned().collect();
        Self {
            coins: count,
            newest_hour: Some(Freshness { hour, prices, coins: count, snapshots, newest_snapshot }),
            total_market_cap: sum(|coin| coin.market_cap),
            total_volume_24h: sum(|coin| coin.volume_24h),
            market_cap_changes,
            top_100: ranked(&top, |a, b| a.market_cap_rank.cmp(&b.market_cap_rank)),
            // None is less than all, and so comes last.
            market_cap: ranked(&coins, |a, b| Reverse(a.market_cap).cmp(&Reverse(b.market_cap))),
            volume_24h: ranked(&coins, |a, b| Reverse(a.volume_24h).cmp(&Reverse(b.volume_24h))),
            top_gainers: by_change(|coin| &coin.price_change_pct_24h),
            trending: by_change(|coin| &coin.price_change_pct_7d),
            trend,
            bitcoin_24h: bitcoin,
        }
    }
}

/// In this order; equal ones by id.
fn ranked(coins: &[Price], order: impl Fn(&Price, &Price) -> Ordering) -> Vec<Price> {
    let mut coins = coins.to_vec();
    coins.sort_by(|a, b| order(a, b).then_with(|| a.id.cmp(&b.id)));
    coins
}

/// The change from `then` to `now` in percent, rounded half away from zero; none from nothing.
fn percent(now: i128, then: i128) -> Option<String> {
    let one = 10i128.pow(PERCENT_PLACES);
    let change = now.checked_sub(then)?.checked_mul(100 * one)?;
    let size = then.unsigned_abs();
    let millionths = (change.unsigned_abs() + size / 2).checked_div(size)?;
    let one = one.unsigned_abs();
    let negative = (change < 0) != (then < 0) && millionths > 0;
    Some(plain(negative, millionths / one, millionths % one, PERCENT_PLACES as usize))
}

/// The start of an hour, in seconds, as tables of trades write it.
pub(super) fn hour_text(hour: i64) -> String {
    let time = crate::clock::utc(hour.saturating_mul(1_000_000));
    time.trim_end_matches('Z').replace('T', " ")
}

fn hour<S: Serializer>(hour: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    hour_text(*hour).serialize(serializer)
}

fn whole<S: Serializer>(sum: &Option<i128>, serializer: S) -> Result<S::Ok, S::Error> {
    sum.map(|sum| sum.to_string()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_percent_is_rounded_half_away_from_zero() {
        for (now, then, expected) in [
            (110, 100, Some("10")),
            (100, 110, Some("-9.090909")),
            (1_000_000_005, 1_000_000_000, Some("0.000001")),
            (999_999_999, 1_000_000_000, Some("0")),
            (-90, -100, Some("-10")),
            (7, 0, None),
        ] {
            assert_eq!(percent(now, then).as_deref(), expected, "{now} after {then}");
        }
    }
}
