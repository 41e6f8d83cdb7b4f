//! The page: one HTML file that needs nothing else, with a picture and a table of each visual.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Result, Write};

use super::Insights;
use super::charts::{self, COLOURS, Series};
use super::figures::Share;
use super::prices;
use super::read::Unreadable;
use crate::drawing::escaped;
use crate::figures::grouped;
use crate::terminal::printable;

/// Hours in a picture: a week. Earlier ones are in the JSON.
const HOURS_MAX: usize = 168;
/// Names in a picture of bars.
pub(super) const BARS_MAX: usize = 12;
/// Lines of a table; more are in the JSON.
const ROWS_MAX: usize = 500;
/// Letters of a name.
const NAME_MAX: usize = 80;

const STYLE: &str = "\
    :root{color-scheme:light dark;--back:#f3f4f6;--card:#fff;--ink:#1c2127;--soft:#565e69;--line:#d5d9df;--bad:#a3231b}\
    @media(prefers-color-scheme:dark){:root{--back:#101317;--card:#191d23;--ink:#e7eaee;--soft:#a5adb8;--line:#343b45;\
    --bad:#ff8f86}}*{box-sizing:border-box}body{margin:0;padding:1.5rem clamp(.75rem,3vw,2.5rem);background:var(--back);\
    color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}header,main,footer{max-width:76rem;margin:0 auto}\
    h1{font-size:1.6rem;line-height:1.25;margin:0}h2{font-size:1.05rem;margin:0 0 .25rem}p{margin:.25rem 0}.soft{color:var(--soft)}\
    main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem;margin-top:1.25rem}\
    section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;min-width:0;display:flex;\
    flex-direction:column}section.wide{grid-column:1/-1}@media(min-width:60rem){section.two{grid-column:span 2}}section.bad{border-color:var(--bad)}.bad h2{color:var(--bad)}\
    .part{grid-column:1/-1;margin-top:1rem}.row{grid-column:1/-1;display:grid;\
    grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr));gap:1rem}.small{display:grid;\
    grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.25rem 1.25rem}figure{margin:.5rem 0}figcaption{font-weight:600}\
    .kpi{font-size:clamp(1.5rem,7vw,2.1rem);font-weight:650;line-height:1.2;margin:.35rem 0}svg{display:block;width:100%;height:auto;margin:.5rem auto}\
    svg.ring{max-width:13rem}svg.hours{max-width:36rem}svg text{fill:var(--ink)}ul{list-style:none;margin:.25rem 0;padding:0}\
    ul.keys{display:flex;flex-wrap:wrap;gap:.15rem 1rem}.keys i{display:inline-block;width:.8em;height:.8em;border-radius:2px;\
    margin-right:.4em}details{margin-top:auto;padding-top:.5rem}summary{cursor:pointer;color:var(--soft)}.scroll{overflow:auto;\
    max-height:26rem}table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}.covers{max-width:36rem}th,td{padding:.25rem .75rem .25rem 0;\
    text-align:left;border-bottom:1px solid var(--line);vertical-align:top}th{font-weight:600}th{overflow-wrap:normal}td{overflow-wrap:break-word}.n{text-align:right;white-space:nowrap}\
    tr>:last-child{padding-right:0}footer{margin-top:1.25rem}";

/// The page of a report.
pub fn html(insights: &Insights) -> String {
    let mut page = String::with_capacity(128 << 10);
    write_page(&mut page, insights).expect("writing into a string cannot fail");
    page
}

fn write_page(page: &mut String, insights: &Insights) -> Result {
    let (trades, prices) = (insights.has_trades_part(), insights.prices.as_ref());
    let title = match (trades, prices) {
        (true, None) => "Trades",
        (true, Some(_)) => "Trades and market prices",
        (false, _) => "Market prices",
    };
    let lake = prices.filter(|_| !trades).map_or(&insights.lake, |prices| &prices.lake);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\"><meta name=\"referrer\" content=\"no-referrer\"><title>{title} in {lake}</title>\
         <style>{STYLE}",
        lake = text(lake)
    )?;
    for (index, colour) in COLOURS.iter().enumerate() {
        write!(page, ".c{index}{{background:#{:02x}{:02x}{:02x}}}", colour.0, colour.1, colour.2)?;
    }
    page.push_str("</style></head><body><header>");
    heading(page, if trades { "Trades" } else { "Market prices" }, lake)?;
    page.push_str("</header><main>");
    if trades {
        unreadable(page, &insights.coverage.unreadable)?;
        if insights.figures.trades == 0 {
            nothing(page, insights)?;
        } else {
            visuals(page, insights)?;
        }
        covered(page, insights)?;
    }
    if let Some(prices) = prices {
        if trades {
            page.push_str("<div class=\"part\">");
            heading(page, "Market prices", &prices.lake)?;
            page.push_str("</div>");
        }
        prices::page::part(page, prices)?;
    }
    write!(page, "</main><footer class=\"soft\"><p>Made by kinetide at {}. ", text(&insights.made_at))?;
    if trades {
        page.push_str(
            "Counts and sums are of the newest state of each trade that is valid and not deleted; they are exact. ",
        );
    }
    if prices.is_some() {
        page.push_str(
            "Prices are as the provider sent them; sums of them are exact. Data provided by CoinGecko.",
        );
    }
    page.push_str("</p></footer></body></html>\n");
    Ok(())
}

fn heading(page: &mut String, title: &str, lake: &str) -> Result {
    write!(page, "<h1>{title}</h1><p class=\"soft\">{}</p>", text(lake))
}

/// What is missing comes first.
pub(super) fn unreadable(page: &mut String, unreadable: &Unreadable) -> Result {
    if unreadable.none() {
        return Ok(());
    }
    write!(
        page,
        "<section class=\"wide bad\"><h2>Not everything could be read</h2><p>{} objects and {} lines are not in these \
         figures:</p><ul>",
        grouped(unreadable.objects),
        grouped(unreadable.rows)
    )?;
    for line in unreadable.lines() {
        write!(page, "<li>{}</li>", escaped(&printable(&line)))?;
    }
    page.push_str("</ul></section>");
    Ok(())
}

fn nothing(page: &mut String, insights: &Insights) -> Result {
    let why = if insights.figures.transactions > 0 {
        "All transactions are deleted or not valid."
    } else if insights.coverage.rows + insights.coverage.rows_outside > 0 {
        "No row belongs to a trade in the time that was asked for."
    } else {
        "No row could be read."
    };
    write!(page, "<section class=\"wide\"><h2>No trades</h2><p>{why}</p></section>")
}

fn visuals(page: &mut String, insights: &Insights) -> Result {
    let figures = &insights.figures;
    let fee = figures.trade_fee.text().map_or_else(none, |fee| decimal(&fee));
    write!(
        page,
        "<section><h2>Trade Fee Collected</h2><p class=\"kpi\">{fee}</p><p class=\"soft\">The raw fee, before discounts.</p>\
         <p class=\"kpi\">{}</p><p class=\"soft\">Trades that are valid and not deleted.</p></section>",
        grouped(figures.trades)
    )?;
    let rows = figures.exchange_comparison.iter().map(|of| {
        let sum = |sum: Option<String>| sum.map_or_else(none, |sum| decimal(&sum));
        vec![name(&of.exchange), sum(of.quantity.text()), sum(of.trade_fee.text()), grouped(of.trades)]
    });
    page.push_str("<section class=\"two\"><h2>Exchange Comparison</h2>");
    table(page, "Exchange Comparison", &["exchange", "quantity", "trade fee", "trades"], 1, rows.collect())?;
    page.push_str("</section>");
    volume(page, insights)?;
    ring(page, "Risk Distribution", "risk", &figures.risk_distribution)?;
    ring(page, "Number of Trades by Status", "status", &figures.trades_by_status)?;
    ring(page, "Order Type Distribution", "order type", &figures.order_types)?;
    categories(page, &figures.user_categories)?;
    risk_by_hour(page, insights)?;
    price_by_hour(page, insights)?;
    activity(page, insights)
}

fn volume(page: &mut String, insights: &Insights) -> Result {
    const TITLE: &str = "Trading Volume per Trading Pair";
    let volumes = &insights.figures.volume_per_trading_pair;
    let figure = |sum: Option<String>| sum.map_or_else(none, |sum| decimal(&sum));
    let bars: Vec<_> = volumes
        .iter()
        .take(BARS_MAX)
        .map(|of| (name(&of.trading_pair), of.quantity.about(), rounded(of.quantity.about())))
        .collect();
    let about = format!(
        "Quantity by trading pair, the largest first: {}.",
        spoken(bars.iter().map(|(name, _, figure)| (name, figure)))
    );
    write!(page, "<section><h2>{TITLE}</h2><p class=\"soft\">Sum of the quantity.</p>")?;
    shown_of(page, bars.len(), volumes.len(), "pairs")?;
    page.push_str(&charts::bars(TITLE, &about, &bars));
    let rows = volumes.iter().map(|of| vec![name(&of.trading_pair), figure(of.quantity.text())]).collect();
    details(page, TITLE, &["trading pair", "quantity"], 1, rows)
}

fn categories(page: &mut String, shares: &[Share]) -> Result {
    const TITLE: &str = "User Category Distribution";
    let bars: Vec<_> = shares
        .iter()
        .take(BARS_MAX)
        .map(|of| (name(&of.name), about(of.trades), grouped(of.trades)))
        .collect();
    let said =
        format!("Trades by user category: {}.", spoken(bars.iter().map(|(name, _, figure)| (name, figure))));
    write!(page, "<section><h2>{TITLE}</h2><p class=\"soft\">By the quantity of the trade.</p>")?;
    shown_of(page, bars.len(), shares.len(), "categories")?;
    page.push_str(&charts::bars(TITLE, &said, &bars));
    details(page, TITLE, &["user category", "trades"], 1, counted(shares))
}

fn ring(page: &mut String, title: &str, what: &str, shares: &[Share]) -> Result {
    let total: u64 = shares.iter().map(|share| share.trades).sum();
    // As many as there are colours; the last is for all others.
    let kinds = Kinds::of(shares.iter().map(|share| &share.name));
    let (mut parts, mut others): (Vec<Part>, Vec<u64>) = (Vec::new(), Vec::new());
    for share in shares {
        match kinds.place(&share.name) {
            Some(place) => parts.push((place, name(&share.name), share.trades)),
            None => others.push(share.trades),
        }
    }
    parts.sort_by_key(|(place, ..)| *place);
    if !others.is_empty() {
        parts.push((kinds.names.len(), format!("{} others", others.len()), others.iter().sum()));
    }
    let percent = |trades: u64| format!("{:.1} %", about(trades) * 100.0 / about(total));
    let keys: Vec<(usize, String)> = parts
        .iter()
        .map(|(place, name, trades)| (kinds.colour(*place), format!("{name} {}", percent(*trades))))
        .collect();
    let said = keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(", ");
    let said = format!("Share of trades by {what}: {said}.");
    let values: Vec<_> =
        parts.iter().map(|(place, _, trades)| (about(*trades), COLOURS[kinds.colour(*place)])).collect();
    write!(page, "<section><h2>{title}</h2>")?;
    page.push_str(&with_class(&charts::donut(title, &said, &values, &grouped(total)), "ring"));
    legend(page, keys.into_iter())?;
    details(page, title, &[what, "trades"], 1, counted(shares))
}

/// A part of a ring: its place, its name, its trades.
type Part = (usize, String, u64);

/// Names that are told apart by colours.
struct Kinds<'a> {
    names: Vec<&'a Option<String>>,
}

/// Risks in their order, and the colours that people expect of them.
const RISKS: [(&str, usize); 3] = [("LOW_RISK", 3), ("MEDIUM_RISK", 1), ("HIGH_RISK", 2)];

impl<'a> Kinds<'a> {
    /// Of these names; those beyond the colours have no place.
    fn of(names: impl Iterator<Item = &'a Option<String>>) -> Self {
        let names: BTreeSet<_> = names.collect();
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by_key(|name| risk(name));
        names.truncate(COLOURS.len() - 1);
        Self { names }
    }

    fn place(&self, name: &Option<String>) -> Option<usize> {
        self.names.iter().position(|other| *other == name)
    }

    /// The colour of a place, by its number; the last is that of all others.
    fn colour(&self, place: usize) -> usize {
        let known = self.names.get(place).and_then(|name| Some(RISKS[risk(name)?].1));
        known.unwrap_or(place.min(COLOURS.len() - 1))
    }
}

fn risk(name: &Option<String>) -> Option<usize> {
    RISKS.iter().position(|(risk, _)| name.as_deref() == Some(risk))
}

fn risk_by_hour(page: &mut String, insights: &Insights) -> Result {
    const TITLE: &str = "Risk by hour";
    let risks = &insights.figures.risk_by_hour;
    let hours = Hours::of(insights);
    let kinds = Kinds::of(risks.iter().map(|risk| &risk.risk_flag));
    // One more for all others.
    let mut series: Vec<Series> = (0..=kinds.names.len())
        .map(|place| Series { colour: COLOURS[kinds.colour(place)], values: vec![None; hours.names.len()] })
        .collect();
    for risk in risks {
        let place = kinds.place(&risk.risk_flag).unwrap_or(kinds.names.len());
        if let Some(at) = hours.place(&risk.hour) {
            *series[place].values[at].get_or_insert(0.0) += about(risk.trades);
        }
    }
    hours.begin(page, "", TITLE, "Trades of each hour by risk.")?;
    let said = format!("Trades of each hour by risk, {}.", hours.range());
    page.push_str(&with_class(&charts::stacked(TITLE, &said, &hours.names, &series), "hours"));
    let mut keys: Vec<_> =
        kinds.names.iter().enumerate().map(|(place, kind)| (kinds.colour(place), name(kind))).collect();
    if risks.iter().any(|risk| kinds.place(&risk.risk_flag).is_none()) {
        keys.push((kinds.colour(kinds.names.len()), "others".to_owned()));
    }
    legend(page, keys.into_iter())?;
    let newest = risks.iter().rev().filter(|risk| hours.place(&risk.hour).is_some());
    let rows =
        newest.map(|risk| vec![name(&risk.hour), name(&risk.risk_flag), grouped(risk.trades)]).collect();
    details(page, TITLE, &["hour", "risk", "trades"], 2, rows)
}

fn price_by_hour(page: &mut String, insights: &Insights) -> Result {
    const TITLE: &str = "Normalised price by exchange";
    let prices = &insights.figures.normalized_price_by_hour;
    let hours = Hours::of(insights);
    let mut most: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for price in prices.iter().filter(|price| price.normalized_price.average().is_some()) {
        *most.entry(&price.exchange).or_default() += price.trades;
    }
    let there = most.len();
    let mut exchanges: Vec<_> = most.into_iter().collect();
    exchanges.sort_by_key(|(name, trades)| (std::cmp::Reverse(*trades), *name));
    exchanges.truncate(COLOURS.len());
    let exchanges: Vec<&Option<String>> = exchanges.into_iter().map(|(name, _)| name).collect();
    let mut series: Vec<Series> = (0..exchanges.len())
        .map(|index| Series { colour: charts::colour(index), values: vec![None; hours.names.len()] })
        .collect();
    for price in prices {
        let exchange = exchanges.iter().position(|exchange| **exchange == price.exchange);
        if let (Some(exchange), Some(at)) = (exchange, hours.place(&price.hour)) {
            series[exchange].values[at] = price.normalized_price.average_about();
        }
    }
    hours.begin(page, "two", TITLE, "Average of each hour, over all trading pairs.")?;
    shown_of(page, exchanges.len(), there, "exchanges")?;
    let said = format!("Average normalised price of each hour by exchange, {}.", hours.range());
    page.push_str(&with_class(&charts::lines(TITLE, &said, &hours.names, None, &series), "hours"));
    legend(page, exchanges.iter().map(|exchange| name(exchange)).enumerate())?;
    let newest = prices.iter().rev().filter(|price| hours.place(&price.hour).is_some());
    let rows = newest.map(|price| {
        let average = price.normalized_price.average().map_or_else(none, |average| decimal(&average));
        vec![name(&price.hour), name(&price.exchange), average, grouped(price.trades)]
    });
    details(page, TITLE, &["hour", "exchange", "average", "trades"], 2, rows.collect())
}

fn activity(page: &mut String, insights: &Insights) -> Result {
    const TITLE: &str = "User activity";
    let hours = Hours::of(insights);
    let all = &insights.figures.user_activity;
    let newest = || all.iter().filter(|activity| hours.place(&activity.hour).is_some());
    let trades = newest().map(|activity| Some(about(activity.trades))).collect();
    let users = newest().map(|activity| Some(about(activity.users as u64))).collect();
    let (trades, users) = (
        Series { colour: charts::colour(0), values: trades },
        Series { colour: charts::colour(1), values: users },
    );
    hours.begin(page, "", TITLE, "Trades of each hour, and how many users made them.")?;
    let said = format!("Trades and users of each hour, {}.", hours.range());
    page.push_str(&with_class(&charts::lines(TITLE, &said, &hours.names, Some(&trades), &[users]), "hours"));
    legend(page, ["trades", "users"].map(str::to_owned).into_iter().enumerate())?;
    let rows =
        newest().collect::<Vec<_>>().into_iter().rev().map(|activity| {
            vec![name(&activity.hour), grouped(activity.trades), grouped(activity.users as u64)]
        });
    details(page, TITLE, &["hour", "trades", "users"], 1, rows.collect())
}

/// The newest hours that have trades.
struct Hours<'a> {
    newest: Vec<&'a Option<String>>,
    names: Vec<String>,
    all: usize,
}

impl<'a> Hours<'a> {
    fn of(insights: &'a Insights) -> Self {
        let all = &insights.figures.user_activity;
        let newest: Vec<_> =
            all[all.len().saturating_sub(HOURS_MAX)..].iter().map(|activity| &activity.hour).collect();
        let names = newest.iter().map(|hour| name(hour)).collect();
        Self { newest, names, all: all.len() }
    }

    fn place(&self, hour: &Option<String>) -> Option<usize> {
        self.newest.binary_search(&hour).ok()
    }

    fn range(&self) -> String {
        match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!("{} hours from {first} to {last}", self.names.len()),
            _ => "no hour".to_owned(),
        }
    }

    /// The head of a card about hours.
    fn begin(&self, page: &mut String, class: &str, title: &str, what: &str) -> Result {
        write!(
            page,
            "<section class=\"{class}\"><h2>{title}</h2><p class=\"soft\">{what} Hours of the trades, in UTC; those without trades are left \
             out.</p>"
        )?;
        shown_of(page, self.names.len(), self.all, "hours, the newest")
    }
}

/// Says so where a picture does not have all.
pub(super) fn shown_of(page: &mut String, shown: usize, all: usize, what: &str) -> Result {
    if shown < all {
        write!(page, "<p class=\"soft\">{} of {} {what}.</p>", grouped(shown as u64), grouped(all as u64))?;
    }
    Ok(())
}

fn covered(page: &mut String, insights: &Insights) -> Result {
    let (coverage, figures) = (&insights.coverage, &insights.figures);
    let time = |time: &Option<String>| time.clone().unwrap_or_else(none);
    let rows = [
        ("objects read", grouped(coverage.objects)),
        ("rows read", grouped(coverage.rows)),
        ("first change", time(&coverage.first_change)),
        ("last change", time(&coverage.last_change)),
        ("transactions", grouped(figures.transactions)),
        ("of which valid and not deleted", grouped(figures.trades)),
        ("of which deleted", grouped(figures.deleted)),
        ("of which not valid", grouped(figures.invalid)),
        ("rows without a transaction_id", grouped(coverage.rows_without_key)),
        ("rows outside the time asked for", grouped(coverage.rows_outside)),
        ("objects that could not be read", grouped(coverage.unreadable.objects)),
        ("lines that could not be read", grouped(coverage.unreadable.rows)),
    ];
    covers(page, &rows)
}

/// The last card of a part.
pub(super) fn covers(page: &mut String, rows: &[(&str, String)]) -> Result {
    page.push_str("<section class=\"wide\"><h2>What this covers</h2><table class=\"covers\"><tbody>");
    for (what, value) in rows {
        write!(page, "<tr><th scope=\"row\">{what}</th><td class=\"n\">{}</td></tr>", escaped(value))?;
    }
    page.push_str("</tbody></table></section>");
    Ok(())
}

/// The figures of a picture, and the end of its card.
pub(super) fn details(
    page: &mut String,
    title: &str,
    heads: &[&str],
    names: usize,
    rows: Vec<Vec<String>>,
) -> Result {
    page.push_str("<details><summary>Figures</summary>");
    table(page, title, heads, names, rows)?;
    page.push_str("</details></section>");
    Ok(())
}

/// The first `names` columns are names, the others numbers. A table can be scrolled by keys too.
pub(super) fn table(
    page: &mut String,
    title: &str,
    heads: &[&str],
    names: usize,
    rows: Vec<Vec<String>>,
) -> Result {
    write!(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}, figures\"><table><thead><tr>"
    )?;
    let class = |column: usize| if column < names { "" } else { " class=\"n\"" };
    for (column, head) in heads.iter().enumerate() {
        write!(page, "<th scope=\"col\"{}>{head}</th>", class(column))?;
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows.iter().take(ROWS_MAX) {
        page.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            write!(page, "<td{}>{}</td>", class(column), escaped(cell))?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
    if rows.len() > ROWS_MAX {
        let more = grouped((rows.len() - ROWS_MAX) as u64);
        write!(page, "<p class=\"soft\">{more} more lines are in the output of --json.</p>")?;
    }
    page.push_str("</div>");
    Ok(())
}

fn legend(page: &mut String, keys: impl Iterator<Item = (usize, String)>) -> Result {
    page.push_str("<ul class=\"keys\">");
    for (index, key) in keys {
        write!(page, "<li><i class=\"c{}\"></i>{}</li>", index.min(COLOURS.len() - 1), escaped(&key))?;
    }
    page.push_str("</ul>");
    Ok(())
}

fn counted(shares: &[Share]) -> Vec<Vec<String>> {
    shares.iter().map(|share| vec![name(&share.name), grouped(share.trades)]).collect()
}

/// For those who do not see the picture.
pub(super) fn spoken<'a>(parts: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    parts.map(|(name, figure)| format!("{name} {figure}")).collect::<Vec<_>>().join(", ")
}

pub(super) fn with_class(svg: &str, class: &str) -> String {
    svg.replacen("<svg ", &format!("<svg class=\"{class}\" "), 1)
}

/// A name from the lake, whatever it is.
pub(super) fn name(name: &Option<String>) -> String {
    match name.as_deref() {
        None => none(),
        Some("") => "(empty)".to_owned(),
        Some(name) if name.chars().count() > NAME_MAX => {
            printable(&name.chars().take(NAME_MAX).chain(['…']).collect::<String>()).into_owned()
        }
        Some(name) => printable(name).into_owned(),
    }
}

pub(super) fn none() -> String {
    "(none)".to_owned()
}

fn text(text: &str) -> String {
    escaped(&printable(text))
}

/// A decimal with its whole part in groups of three.
pub(super) fn decimal(text: &str) -> String {
    let (sign, size) = text.strip_prefix('-').map_or(("", text), |size| ("-", size));
    let (whole, fraction) = size.split_once('.').map_or((size, None), |(whole, rest)| (whole, Some(rest)));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), grouped);
    format!("{sign}{whole}{}", fraction.map_or_else(String::new, |fraction| format!(".{fraction}")))
}

/// A figure in a picture, whose table has all digits.
fn rounded(value: f64) -> String {
    if value.abs() < 1_000.0 { format!("{value:.3}") } else { decimal(&format!("{value:.0}")) }
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn about(count: u64) -> f64 {
    count as f64
}
