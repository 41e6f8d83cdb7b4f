//! Prices of whole lakes: which ones count, and how they are shown.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use super::*;
use crate::batch::hour_folder;
use crate::insights::{Coverage, Figures, Insights, html};

const FOLDER: &str = "market/coingecko/processed";
/// 2026-01-15T09:30:00Z.
const NOW: i64 = 1_768_469_400;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A line of a coin in a snapshot.
fn line(id: &str, at: i64, price: &str, cap: &str, change: &str) -> String {
    format!(
        "{{\"id\":{},\"symbol\":\"s\",\"name\":\"n\",\"current_price\":{price},\"market_cap\":{cap},\"market_cap_rank\":1,\
         \"volume_24h\":{cap},\"price_change_pct_24h\":{change},\"price_change_pct_7d\":{change},\"timestamp\":{at}}}\n",
        json!(id)
    )
}

fn key(at: i64, name: &str) -> String {
    format!("{FOLDER}/{}/{name}", hour_folder(at * 1_000_000))
}

fn scope() -> PriceScope {
    PriceScope { folder: FOLDER.to_owned(), since_us: i64::MIN, until_us: i64::MAX, now_us: NOW * 1_000_000 }
}

async fn look(objects: &[(String, Vec<u8>)], scope: &PriceScope) -> Option<Prices> {
    let store = InMemory::new();
    for (key, body) in objects {
        store.put(&Path::parse(key).unwrap(), body.clone().into()).await.unwrap();
    }
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let found = read_prices(&store, &Path::default(), scope, |_, _| {}).await.unwrap();
    found.map(|(coverage, figures)| Prices { lake: "here".to_owned(), coverage, figures })
}

fn figures(prices: &Prices) -> Value {
    serde_json::to_value(&prices.figures).unwrap()
}

/// A snapshot of every hour, back from now, in which bitcoin's price is the number of the hour.
fn hourly(hours: i64) -> Vec<(String, Vec<u8>)> {
    let object = |ago: i64| {
        let at = NOW - ago * HOUR;
        let lines = ["bitcoin", "solana"].map(|id| line(id, at, &format!("{ago}.50"), "100", "-1.5"));
        (key(at, &format!("{at}.ndjson.gz")), gzip(&lines.concat()))
    };
    (0..hours).map(object).collect()
}

#[tokio::test]
async fn the_newest_hour_the_trend_and_the_sums_are_exact() {
    let mut objects = hourly(12 * 24);
    let caps =
        [("bitcoin", "9007199254740993"), ("tether", "0.5"), ("ethereum", "null"), ("x", "9007199254740993")];
    let late: String = caps.iter().map(|(id, cap)| line(id, NOW + 300, "1e-7", cap, "2")).collect();
    objects.push((key(NOW + 300, "late.ndjson.gz"), gzip(&late)));
    let prices = look(&objects, &scope()).await.unwrap();
    let found = figures(&prices);
    assert_eq!(
        found["newest_hour"],
        json!({"hour": "2026-01-15 09:00:00", "prices": 6, "coins": 5, "snapshots": 2, "newest_snapshot": "2026-01-15T09:35:00Z"})
    );
    // Solana is not in the last snapshot, but in its hour.
    assert_eq!(found["total_market_cap"], "18014398509482087");
    let changes = &found["market_cap_changes"];
    assert_eq!(
        changes["now"],
        json!({"snapshot_time": "2026-01-15T09:35:00Z", "total": "18014398509481987", "coins": 3})
    );
    assert_eq!(changes["midnight"]["snapshot_time"], "2026-01-15T00:30:00Z");
    assert_eq!(
        changes["day_ago"],
        json!({"snapshot_time": "2026-01-14T10:30:00Z", "total": "200", "coins": 2})
    );
    let ids = |figure: &str| -> Vec<String> {
        found[figure].as_array().unwrap().iter().map(|coin| coin["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("market_cap"), ["bitcoin", "x", "solana", "tether", "ethereum"]);
    assert_eq!(ids("top_gainers"), ["bitcoin", "ethereum", "tether", "x", "solana"]);
    assert_eq!(found["market_cap"][0]["current_price"], "0.0000001");
    assert_eq!(
        found["trend"].as_array().unwrap().len(),
        2 * 168 + 2,
        "of seven days, bitcoin's last price of an hour"
    );
    assert_eq!(found["bitcoin_24h"].as_array().unwrap().len(), 25);
    assert_eq!(found["bitcoin_24h"][0]["current_price"], "23.50");
    // Eight days before today are read, and nothing of earlier ones.
    assert_eq!((prices.coverage.objects, prices.coverage.rows), (8 * 24 + 10 + 1, 2 * (8 * 24 + 10) + 4));
    assert_eq!(prices.coverage.first_snapshot.as_deref(), Some("2026-01-07T00:30:00Z"));
}

#[tokio::test]
async fn what_cannot_be_read_or_is_there_twice_costs_only_itself() {
    let good = line("bitcoin", NOW, "2", "10", "1");
    let odd = line("ethereum", NOW, "\"soon\"", "20", "null");
    let truncated = gzip(&line("lost", NOW, "1", "1", "1"));
    let objects = [
        (key(NOW, "1.ndjson.gz"), gzip(&(good.clone() + &odd + "rubbish\n{}\n"))),
        (key(NOW, "2.ndjson.gz"), gzip(&(good.clone() + &line("bitcoin", NOW, "1", "10", "1")))),
        (key(NOW, "cut.ndjson.gz"), truncated[..truncated.len() - 2].to_vec()),
        (key(NOW, "notes.txt"), b"x".to_vec()),
        (key(NOW + 3 * DAY, "ahead.ndjson.gz"), gzip(&line("bitcoin", NOW + 3 * DAY, "9", "9", "9"))),
    ];
    let prices = look(&objects, &scope()).await.unwrap();
    let coverage = &prices.coverage;
    assert_eq!((coverage.objects, coverage.rows, coverage.rows_twice), (2, 2, 2));
    assert_eq!((coverage.rows_without_key, coverage.values_unreadable), (1, 1));
    assert_eq!((coverage.unreadable.objects, coverage.unreadable.rows), (3, 1));
    assert!(!coverage.whole());
    let lines = coverage.unreadable.lines().join("\n");
    for words in [
        "cut.ndjson.gz: ",
        "notes.txt: not where",
        "a day ahead of this machine's clock",
        "1.ndjson.gz, line 3: ",
    ] {
        assert!(lines.contains(words), "{words}: {lines}");
    }
    let found = figures(&prices);
    // Of two prices of one snapshot the load takes the lower one.
    assert_eq!(
        (&found["market_cap"][1]["current_price"], &found["total_market_cap"]),
        (&"1".into(), &"30".into())
    );
    assert!(found["market_cap"][0]["current_price"].is_null());
}

#[tokio::test]
async fn the_time_asked_for_says_which_snapshots_count() {
    let objects = hourly(48);
    let until = PriceScope { until_us: (NOW - 3 * HOUR) * 1_000_000, ..scope() };
    let prices = look(&objects, &until).await.unwrap();
    assert_eq!(figures(&prices)["bitcoin_24h"][23]["current_price"], "3.50");
    let since = PriceScope { since_us: (NOW - 2 * HOUR + 1) * 1_000_000, ..scope() };
    let prices = look(&objects, &since).await.unwrap();
    assert_eq!((prices.coverage.objects, prices.coverage.rows, prices.coverage.rows_outside), (3, 4, 2));
    let none = PriceScope { since_us: (NOW + 1) * 1_000_000, ..scope() };
    let prices = look(&objects, &none).await.unwrap();
    assert_eq!((prices.figures.coins, prices.coverage.rows_outside), (0, 2));
    assert!(page_of(prices, None).contains("not of the time that was asked for"));
    assert!(look(&[], &scope()).await.is_none());
}

/// Beside a lake of so many transactions, none of which is a trade.
fn page_of(prices: Prices, objects: Option<u64>) -> String {
    let coverage = Coverage { objects: objects.unwrap_or(0), ..Coverage::default() };
    html(&Insights::new("there".to_owned(), coverage, Figures::default(), Some(prices)))
}

#[tokio::test]
async fn a_page_has_the_parts_that_the_lake_has() {
    let mut objects = hourly(30);
    let hostile = line("<b>\"&\u{202e}</script>", NOW, "1234567.10", "5", "-99.123456789012345678");
    objects.push((key(NOW, "hostile.ndjson.gz"), gzip(&hostile)));
    let alone = page_of(look(&objects, &scope()).await.unwrap(), None);
    assert!(
        alone.contains("<h1>Market prices</h1>") && alone.contains("<title>Market prices in here</title>")
    );
    assert!(
        !alone.contains("No trades") && !alone.contains("Trade Fee Collected") && alone.contains("CoinGecko")
    );
    assert_eq!((alone.matches("<h1>").count(), alone.matches("<main>").count()), (1, 1));
    // Four rankings, two of the four coins, three of bitcoin.
    assert_eq!(alone.matches("<svg").count(), 4 + 2 + 3);
    for words in [
        "1,234,567.10",
        "-99.123456789012345678",
        "<figcaption>tether</figcaption><p class=\"soft\">No figures.",
    ] {
        assert!(alone.contains(words), "{words}");
    }
    for elsewhere in ["src=", "href=", "url(", "<script", "</script>", "style=\"", "\u{202e}", "NaN"] {
        assert!(!alone.contains(elsewhere), "{elsewhere}");
    }
    let both = page_of(look(&objects, &scope()).await.unwrap(), Some(1));
    assert_eq!((both.matches("<h1>").count(), both.matches("<main>").count()), (2, 1));
    assert!(both.contains("<title>Trades and market prices in there</title>") && both.contains("No trades"));
}
