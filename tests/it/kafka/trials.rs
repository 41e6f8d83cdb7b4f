//! The demo, the load test and the generator on real brokers, as people start them.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::broker::{Brokers, Peer};

fn kinetide(brokers: &Brokers, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
    command
        .args(arguments)
        .args(["--json", "--kafka-bootstrap", &brokers.bootstrap()])
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| ["PATH", "TMPDIR"].contains(&name.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a command printed, and what it said, where it ended well.
fn told(ran: &Output, dir: &Path) -> (Value, String) {
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{}: {out}\n{said}\n{}", ran.status, logs(dir));
    (serde_json::from_str(&out).unwrap(), said)
}

fn logs(dir: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(dir.join("logs")) else { return String::new() };
    let log = |entry: std::fs::DirEntry| {
        format!("== {:?}\n{}", entry.file_name(), std::fs::read_to_string(entry.path()).unwrap_or_default())
    };
    entries.map(|entry| log(entry.unwrap())).collect()
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {of}"))
}

pub(super) async fn the_demo_with_a_kill_ends_exactly_once(brokers: &Brokers) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new");
    let load = ["--records", "4000", "--rate", "1500", "--workers", "2", "--shards", "2"];
    let flags = ["demo", "--source", "kafka", "--kill", "--dir", dir.to_str().unwrap()];
    let ran = kinetide(brokers, &[&flags[..], &load].concat()).output().await.unwrap();
    let (summary, _) = told(&ran, &dir);
    for name in ["dead_letters", "missing", "duplicated"] {
        assert_eq!(number(&summary, name), 0, "{name}: {summary}");
    }
    assert_eq!(number(&summary, "workers_killed"), 1, "{summary}");
    assert_eq!(number(&summary, "records_put"), number(&summary, "rows_delivered"));
    assert!((3_600..4_400).contains(&number(&summary, "records_put")), "{summary}");
}

/// Every record that it says it has written is there for another client, in the partition of its key.
pub(super) async fn generated_records_are_in_the_topic(brokers: &Brokers, peer: &Arc<Peer>) {
    peer.create("generated", 3, json!({}), 1);
    let flags = ["generate", "--topic", "generated", "--records", "3000", "--seed", "7"];
    let ran = kinetide(brokers, &flags).output().await.unwrap();
    let (totals, _) = told(&ran, Path::new("nowhere"));
    let mut of_key = std::collections::BTreeMap::new();
    let mut read = 0;
    for partition in 0..3 {
        let records = peer.read("generated", partition);
        assert!(!records.is_empty(), "partition {partition} has nothing");
        read += records.len() as u64;
        for (_, key, value, _) in records {
            let change: Value = serde_json::from_slice(&value.unwrap()).unwrap();
            assert_eq!(change["tableName"], "CryptoTransactions", "{change}");
            assert_eq!(*of_key.entry(key.unwrap()).or_insert(partition), partition);
        }
    }
    assert_eq!((number(&totals, "written"), read), (3000, 3000), "{totals}");
}

/// Workers and brokers are killed while records flow.
pub(super) async fn a_load_test_kills_brokers_too(brokers: &mut Brokers) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new");
    let command = brokers.restarting();
    let load = ["--rate", "500", "--duration", "20s", "--workers", "2", "--shards", "3", "--seed", "5"];
    let flags = ["loadtest", "--source", "kafka", "--dir", dir.to_str().unwrap()];
    let chaos = ["--chaos", "kill,broker,broker", "--chaos-every", "3s", "--broker-command", &command];
    let running = kinetide(brokers, &[&flags[..], &load, &chaos].concat()).spawn().unwrap();
    let mut running = std::pin::pin!(running.wait_with_output());
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let ran = loop {
        tokio::select! {
            ran = &mut running => break ran.unwrap(),
            _ = every.tick() => brokers.run_ended(),
        }
    };
    let (verdict, said) = told(&ran, &dir);
    assert_eq!(verdict["exactly_once"], true, "{verdict}");
    for name in ["missing", "duplicated"] {
        assert_eq!(number(&verdict, name), 0, "{name}: {verdict}");
    }
    assert_eq!(number(&verdict, "put"), number(&verdict, "delivered"));
    assert!(number(&verdict, "put") > 2_000 && number(&verdict, "workers_killed") >= 1, "{verdict}");
    let faults = verdict["faults"].as_array().unwrap();
    let down: Vec<f64> = faults
        .iter()
        .filter(|fault| fault["kind"] == "broker")
        .map(|fault| fault["seconds"].as_f64().unwrap())
        .collect();
    assert!(down.len() >= 2 && down.iter().all(|seconds| *seconds > 0.3), "{verdict}\n{said}");
    eprintln!(
        "{} records while brokers were killed and down for {down:?} s, each once; sent again: {}",
        number(&verdict, "put"),
        number(&verdict, "resent")
    );
}
