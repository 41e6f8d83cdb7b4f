//! `kinetide insights` over a small lake, with objects that should not be in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::{Ran, command, finish, kinetide};

const INSERT: &str = include_str!("../../fixtures/kinesis-dynamodb-insert.json");
const HOUR: &str = "landing/transactions/year=2026/month=01/day=15/hour=09";

/// A change of the trade `key`, so many µs after 09:30.
fn change(key: &str, us: i64, quantity: &str, remove: bool) -> String {
    let mut change: Value = serde_json::from_str(INSERT).unwrap();
    let dynamodb = &mut change["dynamodb"];
    dynamodb["ApproximateCreationDateTime"] = (1_768_469_400_000_000 + us).into();
    dynamodb["Keys"]["transaction_id"]["S"] = key.into();
    dynamodb["NewImage"]["transaction_id"]["S"] = key.into();
    dynamodb["NewImage"]["quantity"]["N"] = quantity.into();
    if remove {
        dynamodb["OldImage"] = dynamodb["NewImage"].take();
        dynamodb.as_object_mut().unwrap().remove("NewImage");
        change["eventName"] = "REMOVE".into();
    }
    change.to_string() + "\n"
}

/// Rows as the service lands them.
async fn rows(changes: &[String]) -> String {
    let transform = ["transform", "--transform", "crypto-transactions"];
    let mut child = command(&transform).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(changes.concat().as_bytes()).await.unwrap();
    let ran = finish(child).await;
    ran.says(0, &[]);
    ran.out
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn put(lake: &Path, key: &str, body: &[u8]) {
    let path = lake.join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, body).unwrap();
}

/// A lake of two trades, of which one was changed, and a deleted one; the older changes come last.
async fn small_lake() -> TempDir {
    let folder = TempDir::new().unwrap();
    let newer = [
        change("a", 5, "2.000000000000000001", false),
        change("b", 6, "0.5", false),
        change("gone", 7, "1", true),
    ];
    let older = [change("a", 1, "100", false), change("gone", 2, "100", false)];
    let (newer, older) = tokio::join!(rows(&newer), rows(&older));
    put(folder.path(), &format!("{HOUR}/1.ndjson.gz"), &gzip(&newer));
    put(folder.path(), &format!("{HOUR}/2.ndjson.gz"), &gzip(&older));
    folder
}

async fn insights(lake: &Path, more: &[&str]) -> (Ran, PathBuf) {
    let page = lake.with_extension("html");
    let _ = std::fs::remove_file(&page);
    let place = [lake.display().to_string(), page.display().to_string()];
    let args = [&["insights", "--lake", &place[0], "--out", &place[1]][..], more].concat();
    (kinetide(&args).await, page)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_states_are_counted_and_bad_objects_named() {
    let lake = small_lake().await;
    let (ran, page) = insights(lake.path(), &["--json"]).await;
    ran.says(0, &[]);
    assert!(ran.err.is_empty(), "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let figures = &found["figures"];
    assert_eq!(
        (&figures["transactions"], &figures["deleted"], &figures["trades"]),
        (&3.into(), &1.into(), &2.into())
    );
    let volume = json!([{"trading_pair": "BTC/USD", "quantity": "2.500000000000000001"}]);
    assert_eq!(figures["volume_per_trading_pair"], volume);
    assert_eq!(figures["trade_fee"], "0.8642");
    assert_eq!(figures["user_activity"], json!([{"hour": "2026-01-15 09:00:00", "trades": 2, "users": 1}]));
    assert_eq!(found["coverage"]["rows"], 5);
    let good = std::fs::read_to_string(&page).unwrap();
    assert!(good.contains("2.500000000000000001") && !good.contains("Not everything could be read"));

    let until = ["--json", "--until", "2026-01-15T09:30:00.000004Z"];
    let (ran, _) = insights(lake.path(), &until).await;
    let before: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(before["figures"]["volume_per_trading_pair"][0]["quantity"], "200");

    let whole = gzip(&rows(&[change("a", 9, "7", false)]).await);
    put(lake.path(), &format!("{HOUR}/truncated.ndjson.gz"), &whole[..whole.len() - 9]);
    put(lake.path(), &format!("{HOUR}/empty.ndjson.gz"), b"");
    put(lake.path(), &format!("{HOUR}/<img src=x>.txt"), b"foreign");
    put(lake.path(), &format!("{HOUR}/lines.ndjson.gz"), &gzip("{\"colour\":\"red\"}\nrubbish\n"));
    let (ran, page) = insights(lake.path(), &["--json"]).await;
    ran.says(
        1,
        &[
            "truncated.ndjson.gz: ",
            "empty.ndjson.gz: ",
            "<img src=x>.txt: ",
            "line 1: no ordering_key",
            "line 2: ",
        ],
    );
    let bad: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(&bad["figures"], figures, "neighbours are as before");
    let unreadable = &bad["coverage"]["unreadable"];
    assert_eq!((&unreadable["objects"], &unreadable["rows"]), (&3.into(), &2.into()));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Not everything could be read") && page.contains("&lt;img src=x&gt;.txt"));
}

/// As a poller lands it.
fn put_prices(lake: &Path) {
    let line = |id: &str, price: &str| {
        format!(
            "{{\"id\":\"{id}\",\"current_price\":{price},\"market_cap\":7,\"market_cap_rank\":1,\"timestamp\":1768469400}}\n"
        )
    };
    let lines = line("bitcoin", "96500.10") + &line("pepe", "9.52e-06");
    let hour = "market/coingecko/processed/year=2026/month=01/day=15/hour=09";
    put(lake, &format!("{hour}/1768469400.ndjson.gz"), &gzip(&lines));
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_are_shown_alone_or_beside_trades() {
    let folder = TempDir::new().unwrap();
    put_prices(folder.path());
    for more in [&[][..], &["--landing", "market/coingecko/processed"]] {
        let (ran, page) = insights(folder.path(), more).await;
        ran.says(0, &[]);
        assert_eq!((ran.out, &*ran.err), (format!("prices of 2 coins in {}\n", page.display()), ""));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("0.00000952") && page.contains("96,500.10") && !page.contains("No trades"));
    }
    let (ran, _) = insights(folder.path(), &["--prices", "elsewhere"]).await;
    ran.says(1, &["no trades in"]);
    let (ran, _) = insights(folder.path(), &["--since", "2026-01-15T09:30:01Z"]).await;
    ran.says(1, &["no prices in", "--prices, --since and --until"]);

    let lake = small_lake().await;
    put_prices(lake.path());
    let hour = "market/coingecko/processed/year=2026/month=01/day=15/hour=09";
    let (ran, page) = insights(lake.path(), &[]).await;
    ran.says(0, &[]);
    assert_eq!(ran.out, format!("2 trades and prices of 2 coins in {}\n", page.display()));
    put(
        lake.path(),
        &format!("{hour}/other.gz"),
        &gzip("{\"id\":\"x\",\"market_cap\":\"much\",\"timestamp\":5}\n"),
    );
    put(lake.path(), &format!("{hour}/cut.gz"), b"");
    let (ran, _) = insights(lake.path(), &["--json"]).await;
    ran.says(1, &["1 values of prices in", "unreadable_values", "cut.gz: "]);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["figures"]["trades"], 2);
    assert_eq!(
        (&found["prices"]["figures"]["coins"], &found["prices"]["coverage"]["objects"]),
        (&3.into(), &2.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_without_trades_and_wrong_settings_are_said() {
    let folder = TempDir::new().unwrap();
    let (ran, page) = insights(folder.path(), &[]).await;
    ran.says(1, &["no trades in", "/landing/transactions: check --lake, --landing"]);
    assert!(ran.out.contains("0 trades in") && std::fs::read_to_string(page).unwrap().contains("No trades"));

    let lake = small_lake().await;
    let (ran, page) = insights(lake.path(), &["--memory", "700B"]).await;
    ran.says(1, &["trades need more than --memory 700 B", "--since"]);
    assert!(!page.exists() && ran.out.is_empty());
    let (ran, page) = insights(lake.path(), &[]).await;
    ran.says(0, &[]);
    assert_eq!(ran.out, format!("2 trades in {}\n", page.display()));

    let here = lake.path().display().to_string();
    for (args, words) in [
        (&[][..], "no lake: set --lake"),
        (&["--lake", "/no/such/lake"], "use a folder that exists"),
        (&["--lake", &here, "--since", "1h", "--until", "2h"], "--since is later than --until"),
        (&["--lake", &here, "--out", "/no/folder/x.html"], "no folder /no/folder"),
        (&["--lake", &here, "--landing", "../x"], "--landing"),
        (&["--lake", &here, "--prices", "../x"], "--prices"),
        (&["--lake", &here, "--memory", "much"], "1GiB"),
    ] {
        kinetide(&[&["insights"], args].concat()).await.says(2, &[words]);
    }
}
