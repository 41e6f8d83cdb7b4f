//! Newest states → the figures of dashboards. Every sum and count is exact; those of the shipped SQL are the same.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;

use serde::{Serialize, Serializer};

use super::decimal::Sum;
use super::latest::{Latest, Name, What};

/// What dashboards show. Sums are texts in JSON, because numbers there would lose digits.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// Transactions with a state, deleted and invalid ones too.
    pub transactions: u64,
    /// Of these, deleted.
    pub deleted: u64,
    /// Of these, not valid.
    pub invalid: u64,
    /// Valid and not deleted: all that follows is of these.
    pub trades: u64,
    /// Trade Fee Collected.
    #[serde(serialize_with = "decimal")]
    pub(super) trade_fee: Sum,
    /// Exchange Comparison.
    pub(super) exchange_comparison: Vec<Exchange>,
    /// Trading Volume per Trading Pair, the largest first.
    pub(super) volume_per_trading_pair: Vec<Volume>,
    /// Risk Distribution.
    pub(super) risk_distribution: Vec<Share>,
    /// Number of Trades by Status.
    pub(super) trades_by_status: Vec<Share>,
    /// Order Type Distribution.
    pub(super) order_types: Vec<Share>,
    /// User Category Distribution.
    pub(super) user_categories: Vec<Share>,
    /// Trades of each hour and risk.
    pub(super) risk_by_hour: Vec<Risk>,
    /// The average of each hour and exchange.
    pub(super) normalized_price_by_hour: Vec<Price>,
    /// Who traded in each hour.
    pub(super) user_activity: Vec<Activity>,
}

/// Of an exchange. Names may be null, as they may be in the lake.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Exchange {
    pub(super) exchange: Option<String>,
    #[serde(serialize_with = "decimal")]
    pub(super) quantity: Sum,
    #[serde(serialize_with = "decimal")]
    pub(super) trade_fee: Sum,
    pub(super) trades: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Volume {
    pub(super) trading_pair: Option<String>,
    #[serde(serialize_with = "decimal")]
    pub(super) quantity: Sum,
}

/// How many trades have this value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) name: Option<String>,
    pub(super) trades: u64,
}

/// Hours are those of the trades, like `2026-01-15 09:00:00`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Risk {
    pub(super) hour: Option<String>,
    pub(super) risk_flag: Option<String>,
    pub(super) trades: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Price {
    pub(super) hour: Option<String>,
    pub(super) exchange: Option<String>,
    #[serde(serialize_with = "average")]
    pub(super) normalized_price: Sum,
    pub(super) trades: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Activity {
    pub(super) hour: Option<String>,
    pub(super) trades: u64,
    /// Different users.
    pub(super) users: usize,
}

fn decimal<S: Serializer>(sum: &Sum, serializer: S) -> Result<S::Ok, S::Error> {
    sum.text().serialize(serializer)
}

fn average<S: Serializer>(sum: &Sum, serializer: S) -> Result<S::Ok, S::Error> {
    sum.average().serialize(serializer)
}

#[derive(Default)]
struct OfExchange {
    quantity: Sum,
    trade_fee: Sum,
    trades: u64,
}

#[derive(Default)]
struct OfHour {
    trades: u64,
    users: HashSet<NonZeroU32>,
}

#[derive(Default)]
struct OfPrice {
    normalized: Sum,
    trades: u64,
}

impl Figures {
    /// Of these states.
    pub(super) fn of(latest: &Latest) -> Self {
        let mut figures = Self::default();
        let mut exchanges: HashMap<Name, OfExchange> = HashMap::new();
        let mut pairs: HashMap<Name, Sum> = HashMap::new();
        let [mut risks, mut statuses, mut types, mut categories] =
            [(); 4].map(|()| HashMap::<Name, u64>::new());
        let mut risk_hours: HashMap<(Name, Name), u64> = HashMap::new();
        let mut prices: HashMap<(Name, Name), OfPrice> = HashMap::new();
        let mut hours: HashMap<Name, OfHour> = HashMap::new();
        for state in latest.states() {
            figures.transactions += 1;
            let trade = match state {
                What::Deleted => {
                    figures.deleted += 1;
                    continue;
                }
                What::Invalid => {
                    figures.invalid += 1;
                    continue;
                }
                What::Live(trade) => trade,
            };
            figures.trades += 1;
            let exchange = exchanges.entry(trade.exchange).or_default();
            let pair = pairs.entry(trade.trading_pair).or_default();
            exchange.trades += 1;
            if let Some(quantity) = trade.quantity {
                exchange.quantity.add(quantity);
                pair.add(quantity);
            }
            if let Some(fee) = trade.trade_fee {
                exchange.trade_fee.add(fee);
                figures.trade_fee.add(fee);
            }
            *risks.entry(trade.risk_flag).or_default() += 1;
            *statuses.entry(trade.trade_status).or_default() += 1;
            *types.entry(trade.order_type).or_default() += 1;
            *categories.entry(trade.user_category).or_default() += 1;
            *risk_hours.entry((trade.hour_bucket, trade.risk_flag)).or_default() += 1;
            let price = prices.entry((trade.hour_bucket, trade.exchange)).or_default();
            price.trades += 1;
            if let Some(normalized) = trade.normalized_price {
                price.normalized.add(normalized);
            }
            let hour = hours.entry(trade.hour_bucket).or_default();
            hour.trades += 1;
            hour.users.extend(trade.user_id);
        }
        let text = |name: Name| latest.text(name).map(str::to_owned);
        let shares = |counts: HashMap<Name, u64>| {
            let share = |(name, trades)| Share { name: text(name), trades };
            sorted(counts.into_iter().map(share), |share| share.name.clone())
        };
        let of_exchange = |(exchange, OfExchange { quantity, trade_fee, trades })| Exchange {
            exchange: text(exchange),
            quantity,
            trade_fee,
            trades,
        };
        figures.exchange_comparison =
            sorted(exchanges.into_iter().map(of_exchange), |of| of.exchange.clone());
        let volume = |(pair, quantity)| Volume { trading_pair: text(pair), quantity };
        figures.volume_per_trading_pair = sorted(pairs.into_iter().map(volume), |volume| {
            (Reverse(volume.quantity), volume.trading_pair.clone())
        });
        figures.risk_distribution = shares(risks);
        figures.trades_by_status = shares(statuses);
        figures.order_types = shares(types);
        figures.user_categories = shares(categories);
        let risk = |((hour, flag), trades)| Risk { hour: text(hour), risk_flag: text(flag), trades };
        figures.risk_by_hour =
            sorted(risk_hours.into_iter().map(risk), |risk| (risk.hour.clone(), risk.risk_flag.clone()));
        let price = |((hour, exchange), OfPrice { normalized, trades })| Price {
            hour: text(hour),
            exchange: text(exchange),
            normalized_price: normalized,
            trades,
        };
        figures.normalized_price_by_hour =
            sorted(prices.into_iter().map(price), |price| (price.hour.clone(), price.exchange.clone()));
        let activity =
            |(hour, OfHour { trades, users })| Activity { hour: text(hour), trades, users: users.len() };
        figures.user_activity = sorted(hours.into_iter().map(activity), |activity| activity.hour.clone());
        figures
    }
}

fn sorted<T, K: Ord>(found: impl Iterator<Item = T>, by: impl Fn(&T) -> K) -> Vec<T> {
    let mut found: Vec<T> = found.collect();
    found.sort_by_cached_key(by);
    found
}
