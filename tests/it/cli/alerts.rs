//! Copies of rows of high risk: through SIGKILL, in a fleet where not every worker makes them, of replayed rows.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::stage::{STREAM, Stage, change};
use super::{eventually, kinetide};

/// A trade worth 514,006, which is of high risk where it is no failed one.
fn risky(number: u64, status: &str) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(&change(number)).unwrap();
    record["dynamodb"]["NewImage"]["quantity"] = json!({ "N": "8" });
    record["dynamodb"]["NewImage"]["trade_status"] = json!({ "S": status });
    serde_json::to_vec(&record).unwrap()
}

impl Stage {
    /// A stage whose settings file asks for alerts, and that file.
    async fn with_alerts(shards: u32) -> (Self, String) {
        let mut stage = Self::new(shards).await;
        stage.alerts = true;
        let file = stage.dir.path().join("settings.toml");
        std::fs::write(&file, "[alerts]\nhigh_risk = true\n").unwrap();
        (stage, file.display().to_string())
    }

    /// Of each ten trades four are of high risk, and one of those is not valid.
    fn put_trades(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let data = match number % 10 {
                0..3 => risky(number, "SUCCESS"),
                3 => risky(number, "FAILED"),
                _ => change(number),
            };
            self.aws.kinesis().put(STREAM, &format!("key-{number}"), &data).unwrap();
        }
    }

    /// A file where the folder of copies must be: none can be made until it is removed.
    fn block_copies(&self) -> PathBuf {
        let folder = self.lake().join("alerts");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("high_risk");
        std::fs::write(&file, "in the way").unwrap();
        file
    }
}

fn objects(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()));
    entries.map_or(0, |paths| paths.map(|path| if path.is_dir() { objects(&path) } else { 1 }).sum())
}

/// The rows are in the lake, their copies cannot be, and the worker is killed there: the checkpoint has not moved, and the
/// next worker brings what is missing and nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_rows_and_copies_loses_and_doubles_none() {
    let (stage, file) = Stage::with_alerts(2).await;
    let obstacle = stage.block_copies();
    let worker = stage.worker(&[("--settings", &file)]).await;
    stage.put_trades(0..100);
    eventually("rows are there and their copies are not", || async {
        let status = worker.status().await;
        let stalled = status["shards"].as_array().unwrap().iter().filter(|shard| {
            let error = shard["last_error"].as_str().unwrap_or_default();
            shard["state"] == "stalled" && error.contains("alerts/high_risk/")
        });
        (stalled.count() == 2).then_some(())
    })
    .await;
    assert!(objects(&stage.lake().join("landing")) >= 2);
    assert_eq!(worker.metric("kinetide_batches_delivered_total").await, 0.0, "no checkpoint passes them");
    assert_eq!(worker.metric("kinetide_rows_alerted_total").await, 0.0);
    worker.kill().await;
    std::fs::remove_file(obstacle).unwrap();

    let next = stage.worker(&[("--settings", &file)]).await;
    stage.all_delivered().await;
    stage.put_trades(100..200);
    stage.all_delivered().await;
    next.counts("kinetide_rows_alerted_total", 60.0).await;
    next.drain().await;
    let check = stage.exactly_once(200).await;
    assert_eq!(check.alerts, 60, "{check:#?}");
}

/// While the setting is rolled out, the worker that brings a batch to its end decides; what a worker without it leaves
/// behind has no copies, and no row has two.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_finishes_a_batch_decides_on_its_copies() {
    let (stage, file) = Stage::with_alerts(1).await;
    let without = stage.worker(&[]).await;
    stage.put_trades(0..50);
    stage.all_delivered().await;
    without.drain().await;
    assert_eq!(objects(&stage.lake().join("alerts")), 0, "off by default");

    // Its batch is in the lake but for the copies, and is finished by a worker that makes none.
    let obstacle = stage.block_copies();
    let with = stage.worker(&[("--settings", &file)]).await;
    stage.put_trades(50..100);
    eventually("the copies are missing", || async {
        let shard = with.status().await["shards"][0].clone();
        (shard["state"] == "stalled").then_some(())
    })
    .await;
    with.kill().await;
    std::fs::remove_file(obstacle).unwrap();
    let without = stage.worker(&[]).await;
    stage.all_delivered().await;
    without.drain().await;

    let with = stage.worker(&[("--settings", &file)]).await;
    stage.put_trades(100..150);
    stage.all_delivered().await;
    with.drain().await;
    let check = stage.verify().await;
    assert_eq!((check.missing, check.duplicated, check.alerts), (0, 0, 15), "{check:#?}");
    assert_eq!((check.alerts_missing, check.alerts_unexpected), (30, 0), "{check:#?}");
    assert_eq!(check.other_defects(), check.alerts_missing, "{check:#?}");
}

/// Rows that `dead-letters replay` makes are rows, and the settings file is the same.
#[tokio::test(flavor = "multi_thread")]
async fn replayed_rows_are_copied() {
    let (stage, file) = Stage::with_alerts(1).await;
    // A record that this transform cannot make a row of, and another can.
    let worker = stage.worker(&[("--settings", &file)]).await;
    let mut record: Value = serde_json::from_slice(&risky(0, "SUCCESS")).unwrap();
    record["dynamodb"]["NewImage"]["Price"] = record["dynamodb"]["NewImage"]["price"].take();
    record["dynamodb"]["NewImage"]["price"] = json!({ "S": "514006" });
    stage.aws.kinesis().put(STREAM, "a", &serde_json::to_vec(&record).unwrap()).unwrap();
    stage.all_delivered().await;
    worker.drain().await;
    let renamed = stage.dir.path().join("renamed.toml");
    let text = "[alerts]\nhigh_risk = true\n[columns.rename]\nPrice = \"price\"\nprice = \"price_text\"\n";
    std::fs::write(&renamed, text).unwrap();
    let (lake, renamed) = (stage.lake().display().to_string(), renamed.display().to_string());
    let replay = ["dead-letters", "replay", "--transform", "crypto-transactions", "--yes"];
    let ran = kinetide(&[&replay[..], &["--lake", &lake, "--settings", &renamed]].concat()).await;
    ran.says(0, &[]);
    assert_eq!((objects(&stage.lake().join("landing")), objects(&stage.lake().join("alerts"))), (1, 1));
}

/// Who asks for alerts and would never get one is told so at the start.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_cannot_be_are_refused() {
    let (stage, file) = Stage::with_alerts(1).await;
    for (more, words) in [
        (&[("--transform", "json")][..], "needs a stream with --transform crypto-transactions"),
        (&[("--firehose", "rows")], "leave it out with --firehose"),
        (&[("--landing", "alerts")], "must be apart from alerts/high_risk"),
    ] {
        let arguments = stage.arguments(&[more, &[("--settings", &file)]].concat());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        kinetide(&arguments).await.says(2, &[words]);
        let check = [&["check"], &arguments[1..]].concat();
        kinetide(&check).await.says(2, &[words]);
    }
}
