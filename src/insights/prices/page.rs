//! The part of the page about market prices: the visuals of the dashboard in `quicksight/market-visuals.yaml`.

use std::fmt::{Result, Write};

use super::Prices;
use super::figures::{Hourly, Moment, PriceFigures, hour_text};
use super::gather::TREND;
use super::read::PriceCoverage;
use super::row::{Figure, Price};
use crate::clock::utc;
use crate::figures::grouped;
use crate::insights::charts::{self, Series};
use crate::insights::page::{
    BARS_MAX, covers, decimal, details, name, none, shown_of, spoken, table, unreadable, with_class,
};

const HOUR_S: i64 = 3_600;
/// Places of a picture of 24 hours.
const SLOT_S: i64 = 300;

/// Writes it.
pub(in crate::insights) fn part(page: &mut String, prices: &Prices) -> Result {
    let Prices { coverage, figures, .. } = prices;
    unreadable(page, &coverage.unreadable)?;
    if figures.coins == 0 {
        let why = if coverage.rows_outside > 0 {
            "There are prices, but not of the time that was asked for."
        } else {
            "No price could be read."
        };
        write!(page, "<section class=\"wide\"><h2>No prices</h2><p>{why}</p></section>")?;
    } else {
        visuals(page, figures)?;
    }
    covered(page, coverage)
}

fn visuals(page: &mut String, figures: &PriceFigures) -> Result {
    kpi(
        page,
        "Total Market Cap",
        &dollars(figures.total_market_cap),
        "All coins together, in US dollars: the newest price of each.",
    )?;
    kpi(
        page,
        "Volume in 24 Hours",
        &dollars(figures.total_volume_24h),
        "What was traded of all coins, in US dollars.",
    )?;
    if let Some(newest) = &figures.newest_hour {
        let said = format!(
            "The newest hour with prices, {} UTC, has {} prices of {} coins. With a poll every five minutes there are twelve \
             snapshots.",
            &hour_text(newest.hour)[..16],
            grouped(newest.prices),
            grouped(newest.coins)
        );
        kpi(page, "Snapshots of the Last Hour", &grouped(newest.snapshots), &said)?;
    }
    changes(page, figures)?;
    top_100(page, &figures.top_100)?;
    page.push_str("<div class=\"row\">");
    let value = |price: &Price| price.market_cap.map(amount);
    bars(
        page,
        "Market Cap",
        "Which coins are worth most, in US dollars.",
        "market cap",
        &figures.market_cap,
        value,
    )?;
    let volume = |price: &Price| price.volume_24h.map(amount);
    bars(
        page,
        "Volume by Coin",
        "Which coins are traded most, in US dollars and 24 hours.",
        "volume",
        &figures.volume_24h,
        volume,
    )?;
    let day = |price: &Price| price.price_change_pct_24h.as_ref().map(change);
    bars(
        page,
        "Top Gainers",
        "Which coins rose most in 24 hours, in percent.",
        "change",
        &figures.top_gainers,
        day,
    )?;
    let week = |price: &Price| price.price_change_pct_7d.as_ref().map(change);
    bars(
        page,
        "Trending",
        "Which coins rose most in 7 days, in percent.",
        "change",
        &figures.trending,
        week,
    )?;
    page.push_str("</div>");
    trend(page, &figures.trend)?;
    bitcoin(page, &figures.bitcoin_24h)
}

fn kpi(page: &mut String, title: &str, value: &str, what: &str) -> Result {
    write!(
        page,
        "<section><h2>{title}</h2><p class=\"kpi\">{value}</p><p class=\"soft\">{what}</p></section>"
    )
}

fn changes(page: &mut String, figures: &PriceFigures) -> Result {
    const TITLE: &str = "Market Cap Now and Before";
    let Some(changes) = &figures.market_cap_changes else { return Ok(()) };
    write!(
        page,
        "<section class=\"wide\"><h2>{TITLE}</h2><p class=\"soft\">All coins of one snapshot: the newest one, and the first \
         ones from 00:00 UTC and from 24 hours before on. Where the coins are not as many the values do not compare.</p>"
    )?;
    let row =
        |what: &str, Moment { snapshot_time, total, coins }: Moment, percent: Option<&Option<String>>| {
            let percent =
                percent.map_or_else(String::new, |percent| percent.as_deref().map_or_else(none, signed));
            vec![what.to_owned(), moment(snapshot_time), dollars(total), grouped(coins), percent]
        };
    let rows = vec![
        row("now", changes.now, None),
        row("00:00 UTC", changes.midnight, Some(&changes.pct_since_midnight)),
        row("24 hours ago", changes.day_ago, Some(&changes.pct_since_day_ago)),
    ];
    table(page, TITLE, &["when", "snapshot", "market cap", "coins", "change since, %"], 2, rows)?;
    page.push_str("</section>");
    Ok(())
}

fn top_100(page: &mut String, top: &[Price]) -> Result {
    const TITLE: &str = "Top 100";
    write!(
        page,
        "<section class=\"wide\"><h2>{TITLE}</h2><p class=\"soft\">Price and volume in US dollars, changes in percent, \
         rounded; by the rank that the provider gives.</p>"
    )?;
    let rows = top.iter().map(|coin| {
        let percent = |change: &Option<Figure>| change.as_ref().map_or_else(none, rounded);
        vec![
            coin.market_cap_rank.map_or_else(none, |rank| rank.to_string()),
            named(coin),
            price(coin),
            percent(&coin.price_change_pct_1h),
            percent(&coin.price_change_pct_24h),
            percent(&coin.price_change_pct_7d),
            dollars(coin.volume_24h.map(i128::from)),
        ]
    });
    table(
        page,
        TITLE,
        &["rank", "coin", "price", "1 h", "24 h", "7 days", "volume, 24 h"],
        2,
        rows.collect(),
    )?;
    page.push_str("</section>");
    Ok(())
}

/// A value for a bar: its length, a figure that fits, all digits.
type Value = (f64, String, String);

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn amount(value: i64) -> Value {
    (value as f64, charts::tick(value as f64), dollars(Some(value.into())))
}

fn change(figure: &Figure) -> Value {
    (figure.about, format!("{} %", rounded(figure)), signed(&figure.text))
}

fn bars(
    page: &mut String,
    title: &str,
    what: &str,
    column: &str,
    coins: &[Price],
    value: impl Fn(&Price) -> Option<Value>,
) -> Result {
    let there: Vec<_> = coins.iter().filter_map(|coin| Some((named(coin), value(coin)?))).collect();
    let shown: Vec<_> = there
        .iter()
        .take(BARS_MAX)
        .map(|(coin, (size, short, _))| (coin.clone(), *size, short.clone()))
        .collect();
    write!(page, "<section><h2>{title}</h2><p class=\"soft\">{what}</p>")?;
    shown_of(page, shown.len(), coins.len(), "coins")?;
    if !shown.is_empty() {
        let said = spoken(shown.iter().map(|(coin, _, figure)| (coin, figure)));
        page.push_str(&charts::bars(title, &format!("{what} The first ones: {said}."), &shown));
    }
    let rows = coins.iter().map(|coin| vec![named(coin), value(coin).map_or_else(none, |(.., all)| all)]);
    details(page, title, &["coin", column], 1, rows.collect())
}

fn trend(page: &mut String, trend: &[Hourly]) -> Result {
    const TITLE: &str = "Four Coins in 7 Days";
    write!(
        page,
        "<section class=\"wide\"><h2>{TITLE}</h2><p class=\"soft\">The last price of each hour, in US dollars. Each picture \
         has its own scale.</p><div class=\"small\">"
    )?;
    let hours: Vec<i64> = trend.iter().map(|of| of.hour).collect();
    let places = Places::of(&hours, HOUR_S);
    for coin in TREND {
        let mut values = places.empty();
        for of in trend.iter().filter(|of| of.price.id == coin) {
            values[places.at(of.hour)] = of.price.current_price.as_ref().map(|price| price.about);
        }
        places.picture(page, coin, &format!("Price of {coin} by hour"), 0, values)?;
    }
    page.push_str("</div>");
    let mut newest: Vec<&Hourly> = trend.iter().collect();
    newest.sort_by_key(|of| std::cmp::Reverse(of.hour));
    let rows = newest.into_iter().map(|Hourly { hour, price: of }| {
        let whole = |value: Option<i64>| dollars(value.map(i128::from));
        vec![hour_text(*hour), of.id.clone(), price(of), whole(of.market_cap), whole(of.volume_24h)]
    });
    details(page, TITLE, &["hour", "coin", "price", "market cap", "volume, 24 h"], 2, rows.collect())
}

/// One figure of a price, for a picture.
type Of = dyn Fn(&Price) -> Option<f64>;

fn bitcoin(page: &mut String, snapshots: &[Price]) -> Result {
    const TITLE: &str = "Bitcoin in 24 Hours";
    write!(
        page,
        "<section class=\"wide\"><h2>{TITLE}</h2><p class=\"soft\">Price and volume in US dollars, and the change in 24 hours \
         in percent, by snapshot.</p><div class=\"small\">"
    )?;
    let moments: Vec<i64> = snapshots.iter().map(|of| of.at).collect();
    let places = Places::of(&moments, SLOT_S);
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let volume = |of: &Price| of.volume_24h.map(|volume| volume as f64);
    let of_price = |of: &Price| of.current_price.as_ref().map(|price| price.about);
    let of_change = |of: &Price| of.price_change_pct_24h.as_ref().map(|change| change.about);
    let kinds: [(&str, &Of); 3] =
        [("price", &of_price), ("volume, 24 h", &volume), ("change in 24 h, %", &of_change)];
    for (colour, (kind, value)) in kinds.into_iter().enumerate() {
        let mut values = places.empty();
        for of in snapshots {
            values[places.at(of.at)] = value(of);
        }
        places.picture(page, kind, &format!("Bitcoin, {kind}"), colour, values)?;
    }
    page.push_str("</div>");
    let rows = snapshots.iter().rev().map(|of| {
        let percent = of.price_change_pct_24h.as_ref().map_or_else(none, |change| signed(&change.text));
        vec![moment(of.at), price(of), dollars(of.volume_24h.map(i128::from)), percent]
    });
    details(page, TITLE, &["snapshot", "price", "volume, 24 h", "change in 24 h, %"], 1, rows.collect())
}

/// Places of the same length from the first moment to the last one, those without a price too.
struct Places {
    first: i64,
    length: i64,
    names: Vec<String>,
}

impl Places {
    fn of(moments: &[i64], length: i64) -> Self {
        let starts = || moments.iter().map(|at| at - at.rem_euclid(length));
        let (Some(first), Some(last)) = (starts().min(), starts().max()) else {
            return Self { first: 0, length, names: Vec::new() };
        };
        let count = (last - first) / length + 1;
        let names = (0..count).map(|place| hour_text(first + place * length)).collect();
        Self { first, length, names }
    }

    fn at(&self, moment: i64) -> usize {
        usize::try_from((moment - self.first) / self.length).unwrap_or(0)
    }

    fn empty(&self) -> Vec<Option<f64>> {
        vec![None; self.names.len()]
    }

    fn picture(
        &self,
        page: &mut String,
        caption: &str,
        what: &str,
        colour: usize,
        values: Vec<Option<f64>>,
    ) -> Result {
        write!(page, "<figure><figcaption>{caption}</figcaption>")?;
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        let (Some(first), Some(last)) = (known.first(), known.last()) else {
            page.push_str("<p class=\"soft\">No figures.</p></figure>");
            return Ok(());
        };
        let range =
            (self.names.first().map_or("", String::as_str), self.names.last().map_or("", String::as_str));
        let said = format!(
            "{what}, from {} to {} UTC: {} in the beginning, {} in the end.",
            range.0,
            range.1,
            charts::tick(*first),
            charts::tick(*last)
        );
        let series = Series { colour: charts::colour(colour), values };
        page.push_str(&with_class(&charts::lines(what, &said, &self.names, None, &[series]), "hours"));
        page.push_str("</figure>");
        Ok(())
    }
}

fn covered(page: &mut String, coverage: &PriceCoverage) -> Result {
    let time = |time: &Option<String>| time.clone().unwrap_or_else(none);
    covers(
        page,
        &[
            ("objects read, of the last eight days", grouped(coverage.objects)),
            ("prices read", grouped(coverage.rows)),
            ("first snapshot", time(&coverage.first_snapshot)),
            ("last snapshot", time(&coverage.last_snapshot)),
            ("prices that were there once more", grouped(coverage.rows_twice)),
            ("values that are no numbers, and count as missing", grouped(coverage.values_unreadable)),
            ("lines without an id or a time", grouped(coverage.rows_without_key)),
            ("prices outside the time asked for", grouped(coverage.rows_outside)),
            ("objects that could not be read", grouped(coverage.unreadable.objects)),
            ("lines that could not be read", grouped(coverage.unreadable.rows)),
        ],
    )
}

fn named(coin: &Price) -> String {
    name(&Some(coin.id.clone()))
}

fn price(coin: &Price) -> String {
    coin.current_price.as_ref().map_or_else(none, |price| decimal(&price.text))
}

fn dollars(value: Option<i128>) -> String {
    value.map_or_else(none, |value| decimal(&value.to_string()))
}

/// A change where there is no room for all its digits.
fn rounded(change: &Figure) -> String {
    format!("{:+.2}", change.about)
}

/// A change, with its sign.
fn signed(text: &str) -> String {
    let text = decimal(text);
    if text.starts_with('-') { text } else { format!("+{text}") }
}

/// A moment without what a table has no room for.
fn moment(at: i64) -> String {
    utc(at.saturating_mul(1_000_000)).trim_end_matches('Z').replace('T', " ")
}
