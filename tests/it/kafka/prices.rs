//! A poller of market prices produces to a topic, and a worker lands it: the rows are those that a lake has.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use kinetide::internals::local::{LocalAws, LocalSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broker::{Brokers, Peer};
use super::worker::rows;

const TOPIC: &str = "prices";
const REPLY: &str = include_str!("../../fixtures/market/coincap-assets.json");
const LONGEST: Duration = Duration::from_secs(120);

fn kinetide(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| ["PATH", "TMPDIR"].contains(&name.as_str())))
        .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
        .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("KINETIDE_MARKET_API_KEY", "a-secret-key")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The columns of the prices alone.
fn prices(folder: &Path) -> Vec<Value> {
    let mut rows = rows(folder);
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.retain(|name, _| {
            !["ordering_key", "shard_id", "sequence_number", "ingestion_time"].contains(&&**name)
        });
    }
    rows
}

pub(super) async fn a_poller_produces_and_a_worker_lands(brokers: &Brokers, peer: &Arc<Peer>) {
    peer.create(TOPIC, 2, json!({}), 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    let router = Router::new().fallback(async || REPLY);
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (dir, aws) = (TempDir::new().unwrap(), LocalAws::start(LocalSettings::default()).await.unwrap());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (direct, lake, bootstrap) = (path("direct"), path("lake"), brokers.bootstrap());
    let topic = ["--topic", TOPIC, "--kafka-bootstrap", &bootstrap];
    for target in [&["--lake", &*direct][..], &topic] {
        let once = ["snapshot", "--provider", "coincap", "--once", "--endpoint", &provider];
        let ran = kinetide(&[&once, target].concat()).stderr(Stdio::piped()).output().await.unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let run = [
        "run",
        "--source",
        "kafka",
        "--transform",
        "market-snapshot",
        "--landing",
        "market/coincap/processed",
    ];
    let more = ["--lake", &lake, "--dynamodb-endpoint", aws.dynamodb_url(), "--region", aws.region()];
    let quick = ["--batch-age", "300ms", "--http", "127.0.0.1:0", "--shard-sync-interval", "1s"];
    let log = std::fs::File::create(path("log")).unwrap();
    let _worker = kinetide(&[&run[..], &more, &quick, &topic].concat()).stderr(log).spawn().unwrap();
    let (expected, since) = (prices(&dir.path().join("direct/market/coincap/processed")), Instant::now());
    assert_eq!(expected.len(), 3);
    loop {
        let found = prices(&dir.path().join("lake/market/coincap/processed"));
        if !found.is_empty() {
            assert_eq!(found, expected);
            return;
        }
        assert!(since.elapsed() < LONGEST, "{}", std::fs::read_to_string(path("log")).unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
