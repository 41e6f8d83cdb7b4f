//! Prices hour by hour, from the newest one back → what the figures need of them.

use std::collections::{BTreeMap, BTreeSet};

use super::row::Price;

/// The coins of the trend, as in the view `v_trendline_core`.
pub(super) const TREND: [&str; 4] = ["bitcoin", "ethereum", "tether", "solana"];

/// What is kept. It grows with the number of snapshots, and not with that of prices.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) newest: Option<Newest>,
    /// By moment.
    pub(super) totals: BTreeMap<i64, Total>,
    /// The last price of each hour of the four coins, with the start of its hour.
    pub(super) trend: Vec<(i64, Price)>,
    pub(super) bitcoin: Vec<Price>,
}

/// The newest hour that has prices.
#[derive(Debug)]
pub(super) struct Newest {
    /// Its start, in seconds.
    pub(super) hour: i64,
    pub(super) prices: u64,
    pub(super) snapshots: u64,
    /// The newest price of each coin.
    pub(super) coins: Vec<Price>,
}

/// What the coins of a snapshot are worth together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    pub(super) sum: i128,
    /// Coins with a value.
    pub(super) coins: u64,
}

impl Total {
    pub(super) fn add(&mut self, value: Option<i64>) {
        self.sum += i128::from(value.unwrap_or(0));
        self.coins += u64::from(value.is_some());
    }

    /// None of nothing, as in SQL.
    pub(super) fn value(&self) -> Option<i128> {
        (self.coins > 0).then_some(self.sum)
    }
}

impl Gathered {
    /// Takes in all prices of an hour; later calls have earlier hours. Returns how many were there twice.
    pub(super) fn hour(&mut self, hour: i64, mut prices: Vec<Price>) -> u64 {
        let all = prices.len();
        prices.sort_by(Price::order);
        prices.dedup_by(|next, kept| (&next.id, next.at) == (&kept.id, kept.at));
        let twice = (all - prices.len()) as u64;
        for price in &prices {
            self.totals.entry(price.at).or_default().add(price.market_cap);
        }
        // The last of those that follow each other is the newest of its coin.
        let last: Vec<&Price> =
            prices.chunk_by(|a, b| a.id == b.id).filter_map(|of_a_coin| of_a_coin.last()).collect();
        let core = last.iter().filter(|price| TREND.contains(&&*price.id));
        self.trend.extend(core.map(|price| (hour, (*price).clone())));
        self.bitcoin.extend(prices.iter().filter(|price| price.id == TREND[0]).cloned());
        if self.newest.is_none() && !prices.is_empty() {
            let moments: BTreeSet<i64> = prices.iter().map(|price| price.at).collect();
            let (count, snapshots) = (prices.len() as u64, moments.len() as u64);
            let coins = last.into_iter().cloned().collect();
            self.newest = Some(Newest { hour, prices: count, snapshots, coins });
        }
        twice
    }
}
