//! `snapshot`: processes that ask a scripted provider, which replays real replies where they lie beside this clone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flate2::read::MultiGzDecoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::time::sleep;

use super::endpoints::{Endpoint, serve};
use super::stage::{STREAM, Stage};
use super::{command, finish, kinetide};

const KEYS: [&str; 2] = ["first-secret-key", "second-secret-key"];

fn unzipped(path: &Path) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// Real replies of a provider, and one of ours.
fn replies(provider: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = if provider == "coingecko" { "coingecko-markets.json" } else { "coincap-assets.json" };
    let mut replies = vec![std::fs::read_to_string(root.join("tests/fixtures/market").join(own)).unwrap()];
    let Ok(files) = std::fs::read_dir(root.join("../shared/data/market")) else {
        eprintln!("SKIPPED: real prices, as there are none beside this clone (shared/data/market)");
        return replies;
    };
    for file in files.map(|file| file.unwrap().path()) {
        if !file.file_name().unwrap().to_str().unwrap().starts_with(provider) {
            continue;
        }
        let text = unzipped(&file);
        // One was put into an object by its owner.
        let list =
            text.strip_prefix("{\"markets\":").or(text.trim_start().strip_prefix('{').and_then(|rest| {
                rest.trim_start().strip_prefix("\"markets\"")?.trim_start().strip_prefix(':')
            }));
        let reply = list.filter(|_| provider == "coingecko");
        replies
            .push(reply.map_or(text.clone(), |list| list.trim_end().trim_end_matches('}').trim().to_owned()));
    }
    assert!(replies.len() > 2);
    replies
}

/// What a provider knows.
#[derive(Default)]
struct Provider {
    asked: usize,
    refused: usize,
}

/// A provider that is troubled at every second request, in a different way each time, and that takes another key after
/// some.
async fn troubled(replies: Vec<String>) -> (Endpoint, Arc<Mutex<Provider>>) {
    let state = Arc::new(Mutex::new(Provider::default()));
    let shared = Arc::clone(&state);
    let answer = move |request: Request| {
        let shared = Arc::clone(&shared);
        let replies = replies.clone();
        async move {
            let key = request.headers().get("x-cg-demo-api-key").map(|key| key.to_str().unwrap().to_owned());
            let asked = {
                let mut state = shared.lock().unwrap();
                let wanted = KEYS[usize::from(state.asked >= 8)];
                if key.as_deref() != Some(wanted) {
                    state.refused += 1;
                    return (StatusCode::UNAUTHORIZED, format!("no such key: {key:?}")).into_response();
                }
                state.asked += 1;
                state.asked
            };
            let reply = replies[asked / 2 % replies.len()].clone();
            match asked % 10 {
                1 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "slow down").into_response(),
                3 => StatusCode::BAD_GATEWAY.into_response(),
                5 => ([("content-type", "text/html")], "<html>Just a moment...</html>").into_response(),
                7 => reply[..reply.len() / 2].to_owned().into_response(),
                9 => {
                    sleep(Duration::from_secs(3)).await;
                    reply.into_response()
                }
                _ => reply.into_response(),
            }
        }
    };
    (serve(Router::new().fallback(answer)).await, state)
}

/// Files below a folder of the lake by the start of their interval.
fn zone(lake: &Path, zone: &str) -> BTreeMap<i64, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![lake.join("market").join(zone)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.file_name().unwrap().to_str().unwrap();
                found.insert(name.split('.').next().unwrap().parse().unwrap(), path);
            }
        }
    }
    found
}

fn members(text: &str) -> BTreeMap<String, &RawValue> {
    serde_json::from_str(text).unwrap()
}

/// Rows of CoinGecko against the reply that they were made of, number by number as text.
fn check_rows(rows: &str, reply: &str, start: i64) {
    let mut ids = HashSet::new();
    let coins: Vec<&RawValue> = serde_json::from_str(reply).unwrap();
    let coins = coins.iter().map(|coin| members(coin.get()));
    let coins: Vec<_> = coins.filter(|coin| ids.insert(coin["id"].get().to_owned())).collect();
    assert_eq!(rows.lines().count(), coins.len());
    for (row, coin) in rows.lines().zip(coins) {
        let row = members(row);
        for (column, member) in [
            ("id", "id"),
            ("name", "name"),
            ("current_price", "current_price"),
            ("volume_24h", "total_volume"),
        ] {
            let expected = coin.get(member).map_or("null", |value| value.get());
            let expected = if column == "volume_24h" { expected.trim_matches('"') } else { expected };
            assert_eq!(row[column].get(), expected, "{column} of {}", row["id"].get());
        }
        assert_eq!((row["timestamp"].get(), row.len()), (&*start.to_string(), 15));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pollers_of_a_troubled_provider_lose_no_interval() {
    let replies = replies("coingecko");
    let (provider, state) = troubled(replies.clone()).await;
    let dir = TempDir::new().unwrap();
    let (lake, key) = (dir.path().join("lake"), dir.path().join("key"));
    std::fs::write(&key, KEYS[0]).unwrap();
    let (lake_text, key_text) = (lake.display().to_string(), key.display().to_string());
    let arguments = ["snapshot", "--provider", "coingecko", "--every", "1s", "--json", "--log", "trace"];
    let more = ["--lake", &lake_text, "--endpoint", &provider.url, "--api-key-file", &key_text];
    let all = [&arguments[..], &more].concat();
    let pollers = [command(&all).spawn().unwrap(), command(&all).spawn().unwrap()];
    super::eventually("the first key has run out", || async {
        (state.lock().unwrap().refused > 5).then_some(())
    })
    .await;
    std::fs::write(&key, format!("{}\n", KEYS[1])).unwrap();
    super::eventually("half of the answers were good", || async {
        (state.lock().unwrap().asked >= 20).then_some(())
    })
    .await;
    for poller in &pollers {
        kill(Pid::from_raw(i32::try_from(poller.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    }
    let [one, other] = pollers;
    let (one, other) = tokio::join!(finish(one), finish(other));
    let mut written = 0;
    for ran in [&one, &other] {
        ran.says(0, &["http_401"]);
        assert!(KEYS.iter().all(|key| !ran.err.contains(key) && !ran.out.contains(key)), "{}", ran.err);
        let result: Value = serde_json::from_str(&ran.out).unwrap();
        written += result["snapshots"].as_u64().unwrap();
    }
    let (raw, processed) = (zone(&lake, "coingecko/raw"), zone(&lake, "coingecko/processed"));
    assert_eq!(written, raw.len() as u64, "each was written once");
    assert!(raw.len() >= 3 && raw.keys().eq(processed.keys()), "{raw:?}\n{processed:?}");
    for (start, path) in &raw {
        let body = std::fs::read_to_string(path).unwrap();
        assert!(replies.contains(&body), "byte for byte");
        check_rows(&unzipped(&processed[start]), &body, *start);
    }
    let mut accounted: BTreeSet<i64> = raw.keys().copied().collect();
    for (start, path) in zone(&lake, "coingecko/gaps") {
        let gap: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        accounted.extend(start..start + gap["intervals"].as_i64().unwrap());
    }
    let (first, last) = (*raw.keys().next().unwrap(), *raw.keys().last().unwrap());
    assert_eq!((first..=last).filter(|start| !accounted.contains(start)).collect::<Vec<_>>(), [0i64; 0]);
}

async fn answering(status: StatusCode, body: String) -> Endpoint {
    let answer = move || {
        let body = body.clone();
        async move { (status, body).into_response() as Response }
    };
    serve(Router::new().fallback(answer)).await
}

/// Straight into a lake, and by way of a stream and a worker: the same rows. A gap in a stream is a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gives_the_rows_that_a_lake_has() {
    let stage = Stage::new(1).await;
    let reply = replies("coincap").pop().unwrap();
    let provider = answering(StatusCode::OK, reply.clone()).await;
    let direct = stage.dir.path().join("direct");
    let (direct_text, kinesis) = (direct.display().to_string(), stage.aws.kinesis_url().to_owned());
    let once = |url: &str, place: [&str; 2]| {
        let arguments = ["snapshot", "--provider", "coincap", "--once", "--endpoint", url];
        let more = ["--kinesis-endpoint", &kinesis, "--region", stage.aws.region()];
        let all = [&arguments[..], &place, &more].concat();
        command(&all).env("KINETIDE_MARKET_API_KEY", KEYS[0]).spawn().unwrap()
    };
    let lake = finish(once(&provider.url, ["--lake", &direct_text])).await;
    lake.says(0, &["snapshot delivered"]);
    assert!(
        lake.out.starts_with("coincap: 1 snapshots written, 0 there already, 0 intervals"),
        "{}",
        lake.out
    );
    finish(once(&provider.url, ["--stream", STREAM])).await.says(0, &[]);
    let down = answering(StatusCode::NOT_FOUND, String::new()).await;
    let gap = finish(once(&down.url, ["--stream", STREAM])).await;
    gap.says(1, &["http_404", "gap recorded"]);
    assert!(!gap.err.contains(KEYS[0]));

    let landing = ("--landing", "market/coincap/processed");
    let worker = stage.worker(&[("--transform", "market-snapshot"), landing]).await;
    stage.all_delivered().await;
    worker.drain().await;
    let expected = unzipped(zone(&direct, "coincap/processed").values().next().unwrap());
    let raw = std::fs::read_to_string(zone(&direct, "coincap/raw").values().next().unwrap()).unwrap();
    assert_eq!(raw, reply);
    let mut landed = String::new();
    let mut letters = 0;
    let mut folders = vec![stage.lake()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.display().to_string() {
                _ if path.is_dir() => folders.push(path),
                name if name.contains("/market/") => landed += &unzipped(&path),
                name if name.contains("/errors/no_snapshot/") => letters += unzipped(&path).lines().count(),
                _ => {}
            }
        }
    }
    let entry = |row: &str| format!("{{\"event_time\"{}\n", row.split_once("\"event_time\"").unwrap().1);
    assert_eq!(landed.lines().map(entry).collect::<String>(), expected);
    assert_eq!(letters, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_at_once() {
    let coingecko = ["snapshot", "--provider", "coingecko", "--once"];
    let (topic, file, no_stream, no_lake) = tokio::join!(
        async {
            kinetide(&[&coingecko[..], &["--topic", "prices", "--kafka-bootstrap", "nowhere"]].concat()).await
        },
        async {
            kinetide(&[&coingecko[..], &["--lake", "./l", "--api-key-file", "/no/file"]].concat()).await
        },
        async {
            let closed = ["--stream", "s", "--kinesis-endpoint", "http://127.0.0.1:1"];
            kinetide(&[&coingecko[..], &closed].concat()).await
        },
        async { kinetide(&[&coingecko[..], &["--lake", "/dev/null/lake"]].concat()).await },
    );
    topic.says(2, &["--kafka-bootstrap", "HOST:PORT"]);
    file.says(2, &["--api-key-file", "cannot be read"]);
    no_stream.says(1, &["stream s", "refused"]);
    no_lake.says(1, &["--lake", "cannot be written"]);
}
