//! `--initial-position`: whatever happens before a shard's first commit, everything since the application began is in
//! the lake once, and nothing from before.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;

use flate2::read::MultiGzDecoder;
use kinetide::internals::aws::StreamAddress;
use kinetide::internals::lease::{Lease, LeaseTable};
use kinetide::internals::shard::{Checkpoint, ShardLister};
use serde_json::Value;

use super::stage::{STREAM, Stage, Worker};
use super::{eventually, kinetide};

/// Only a batch that is closed for another reason is ever committed.
const NEVER: (&str, &str) = ("--batch-age", "1h");
const LATEST: (&str, &str) = ("--initial-position", "latest");

/// The numbers of the trades in the lake, each once.
pub(super) fn landed(stage: &Stage) -> BTreeSet<u64> {
    let mut landed = BTreeSet::new();
    for entry in walk(&stage.lake().join("landing")) {
        let mut text = String::new();
        MultiGzDecoder::new(std::fs::File::open(&entry).unwrap()).read_to_string(&mut text).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let id = row["transaction_id"].as_str().unwrap().strip_prefix("trade-").unwrap();
            assert!(landed.insert(id.parse().unwrap()), "{id} is there twice");
        }
    }
    landed
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .filter(|path| path.to_str().unwrap().ends_with(".ndjson.gz"))
        .collect()
}

async fn all_landed(stage: &Stage, expected: Range<u64>) {
    let expected: BTreeSet<u64> = expected.collect();
    eventually("everything since the start is in the lake", || async {
        let there = landed(stage);
        assert!(there.is_subset(&expected), "from before the start: {there:?}");
        (there == expected).then_some(())
    })
    .await;
}

async fn begun(stage: &Stage, worker: &Worker, shards: usize) {
    eventually("all shards are read", || async {
        let reading = |shard: &Value| shard["state"] == "reading";
        let status = worker.status().await;
        let all = status["shards"].as_array().unwrap().iter().filter(|shard| reading(shard)).count();
        (all == shards).then_some(())
    })
    .await;
    let symbolic = |lease: &Lease| matches!(lease.checkpoint, Checkpoint::Latest | Checkpoint::AtTimestamp);
    assert!(!stage.leases().await.iter().any(symbolic), "the rows say where reading begins");
}

async fn read(worker: &Worker, records: u64) {
    eventually("the records are in open batches", || async {
        let status = worker.status().await;
        let batches =
            status["shards"].as_array().unwrap().iter().map(|shard| shard["batch_records"].as_u64());
        (batches.map(Option::unwrap).sum::<u64>() == records).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_first_commit_loses_nothing_at_latest() {
    let stage = Stage::new(2).await;
    stage.put(0..5);
    let worker = stage.worker(&[LATEST, NEVER]).await;
    begun(&stage, &worker, 2).await;
    stage.put(5..25);
    read(&worker, 20).await;
    worker.kill().await;
    stage.put(25..30);
    // Not even an owner that is set to another position.
    let worker = stage.worker(&[("--initial-position", "trim-horizon")]).await;
    stage.put(30..35);
    all_landed(&stage, 5..35).await;
    worker.drain().await;
}

/// A stop before anything came, records while nobody runs, a split of a shard of which nothing is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_idle_and_a_split_lose_nothing_at_latest() {
    for old in [0, 5] {
        let stage = Stage::new(1).await;
        stage.put(0..old);
        let worker = stage.worker(&[LATEST, NEVER]).await;
        begun(&stage, &worker, 1).await;
        worker.drain().await;
        stage.put(old..old + 10);
        let shard = stage.aws.kinesis().open_shards(STREAM).unwrap().remove(0);
        stage.aws.kinesis().split(STREAM, &shard).unwrap();
        stage.put(old + 10..old + 20);
        let worker = stage.worker(&[LATEST]).await;
        all_landed(&stage, old..old + 20).await;
        worker.drain().await;
    }
}

/// The leader of another library writes LATEST and no place. The first owner pins it, and a shard that was closed
/// meanwhile is not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_says_latest_is_pinned_before_it_is_read() {
    let stage = Stage::new(2).await;
    stage.put(0..10);
    stage.table().ensure_exists().await.unwrap();
    let sdk =
        kinetide::internals::aws::sdk_config(Some(stage.aws.kinesis_url()), Some(stage.aws.region())).await;
    let lister = kinetide::internals::shard::kinesis::KinesisShardLister::new(
        aws_sdk_kinesis::Client::new(&sdk),
        StreamAddress::named(STREAM),
    );
    for shard in lister.list().await.unwrap() {
        assert!(stage.table().create(&Lease::new(&shard, Checkpoint::Latest)).await.unwrap());
    }
    let worker = stage.worker(&[LATEST, NEVER]).await;
    begun(&stage, &worker, 2).await;
    stage.put(10..20);
    read(&worker, 10).await;
    worker.kill().await;
    let worker = stage.worker(&[LATEST]).await;
    all_landed(&stage, 10..20).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_shard_at_latest_is_read_before_it_ends() {
    let stage = Stage::new(1).await;
    stage.table().ensure_exists().await.unwrap();
    let sdk =
        kinetide::internals::aws::sdk_config(Some(stage.aws.kinesis_url()), Some(stage.aws.region())).await;
    let lister = kinetide::internals::shard::kinesis::KinesisShardLister::new(
        aws_sdk_kinesis::Client::new(&sdk),
        StreamAddress::named(STREAM),
    );
    let shard = lister.list().await.unwrap().remove(0);
    assert!(stage.table().create(&Lease::new(&shard, Checkpoint::Latest)).await.unwrap());
    stage.put(0..10);
    stage.aws.kinesis().split(STREAM, &shard.id).unwrap();
    stage.put(10..20);
    let worker = stage.worker(&[LATEST]).await;
    all_landed(&stage, 0..20).await;
    assert!(worker.log().contains("closed before anybody read it from LATEST"));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_latest_for_the_moment_of_the_command() {
    let stage = Stage::new(1).await;
    stage.put(0..10);
    let worker = stage.worker(&[NEVER]).await;
    read(&worker, 10).await;
    worker.kill().await;
    let arguments = ["leases", "set-checkpoint", "shardId-000000000000", "latest", "--yes", "--evict"];
    let fleet = ["--stream", STREAM, "--failover-time", "3s"];
    let endpoints =
        ["--kinesis-endpoint", stage.aws.kinesis_url(), "--dynamodb-endpoint", stage.aws.dynamodb_url()];
    let ran = kinetide(&[&arguments[..], &fleet, &endpoints].concat()).await;
    assert!(ran.out.contains("1 written"), "{} {}", ran.out, ran.err);
    stage.put(10..20);
    let worker = stage.worker(&[]).await;
    all_landed(&stage, 10..20).await;
    worker.drain().await;
}

/// The time stands in the rows: another one in the settings of a later worker moves nothing, children included.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_time_is_that_of_the_first_worker() {
    let stage = Stage::new(1).await;
    stage.put(0..10);
    let first = stage.aws.kinesis().open_shards(STREAM).unwrap().remove(0);
    let [lower, _] = stage.aws.kinesis().split(STREAM, &first).unwrap();
    stage.put(10..40);
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let time = jiff::Timestamp::now();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    stage.put(40..60);
    stage.aws.kinesis().split(STREAM, &lower).unwrap();
    stage.put(60..80);
    let time = time.to_string();
    let worker = stage.worker(&[("--initial-position", &time), NEVER]).await;
    eventually("the first lease", || async { (!stage.leases().await.is_empty()).then_some(()) }).await;
    worker.kill().await;
    let worker = stage.worker(&[("--initial-position", "2020-01-01T00:00:00Z")]).await;
    all_landed(&stage, 40..80).await;
    worker.drain().await;
}
