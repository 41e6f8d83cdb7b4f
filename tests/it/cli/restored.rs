//! A lease table as it was some time ago: what comes twice, and how an operator prevents it.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use kinetide::internals::aws::sdk_config;
use kinetide::internals::lease::Lease;
use kinetide::internals::shard::{Checkpoint, SequenceNumber};
use serde_json::Value;

use super::stage::{STREAM, Stage};
use super::{eventually, kinetide};

const TABLE: &str = "kinetide-trades";

type Rows = Vec<HashMap<String, AttributeValue>>;

async fn client(stage: &Stage) -> aws_sdk_dynamodb::Client {
    aws_sdk_dynamodb::Client::new(&sdk_config(Some(stage.aws.dynamodb_url()), Some(stage.aws.region())).await)
}

/// Every row of the table, word for word.
async fn backup(stage: &Stage) -> Rows {
    client(stage).await.scan().table_name(TABLE).send().await.unwrap().items.unwrap()
}

/// The table has these rows and no others, whatever it had before.
async fn restore(stage: &Stage, rows: Rows) {
    let client = client(stage).await;
    for mut row in backup(stage).await {
        let key = row.remove("leaseKey").unwrap();
        client.delete_item().table_name(TABLE).key("leaseKey", key).send().await.unwrap();
    }
    for row in rows {
        client.put_item().table_name(TABLE).set_item(Some(row)).send().await.unwrap();
    }
}

/// Records at or below what `done` says of each lease.
async fn records_up_to(stage: &Stage, done: impl Fn(&Lease) -> Option<Checkpoint>) -> u64 {
    let count = |lease: &Lease| match done(lease) {
        Some(Checkpoint::At(at)) => {
            stage.aws.kinesis().count_up_to(STREAM, lease.key.shard(), &at.sequence).unwrap()
        }
        _ => 0,
    };
    stage.leases().await.iter().map(count).sum()
}

/// Delivers everything with a worker of its own, which then leaves.
async fn deliver(stage: &Stage) {
    let worker = stage.worker(&[]).await;
    stage.all_delivered().await;
    worker.drain().await;
}

async fn delivered(stage: &Stage) -> Value {
    let lake = stage.lake().display().to_string();
    let ran = kinetide(&stage.leases_args(&["delivered", "--lake", &lake, "--json"])).await;
    ran.says(0, &[]);
    serde_json::from_str(&ran.out).unwrap()
}

/// Half of 300 records before the backup, half after it in batches of another cut. Gives what the backup has done.
async fn with_an_old_table() -> (Stage, u64) {
    let stage = Stage::new(2).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..150);
    stage.all_delivered().await;
    let rows = backup(&stage).await;
    for wave in [150..220, 220..300] {
        stage.put(wave);
        stage.all_delivered().await;
    }
    worker.drain().await;
    stage.exactly_once(300).await;
    restore(&stage, rows).await;
    let done = records_up_to(&stage, |lease| Some(lease.checkpoint.clone())).await;
    assert_eq!(done, 150);
    (stage, done)
}

/// Objects are never overwritten, so nothing is lost; but batches are cut otherwise, so their objects have other names.
#[tokio::test(flavor = "multi_thread")]
async fn records_after_an_old_checkpoint_come_twice_and_none_is_lost() {
    let (stage, done) = with_an_old_table().await;
    deliver(&stage).await;
    let check = stage.verify().await;
    assert_eq!((check.missing, check.duplicated, check.other_defects()), (0, 300 - done, 0), "{check:#?}");
    // From there on all is as ever.
    stage.put(300..350);
    deliver(&stage).await;
    let check = stage.verify().await;
    assert_eq!((check.missing, check.duplicated, check.rows_delivered), (0, 300 - done, 350 + 300 - done));
}

/// As docs/runbooks/lease-table-lost.md says.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_set_to_where_the_lake_is_keep_each_record_once() {
    let (stage, _) = with_an_old_table().await;
    let found = delivered(&stage).await;
    for lease in found.as_array().unwrap() {
        assert_eq!(lease["behind"], true, "{lease:#}");
        let position = |member: &str| SequenceNumber::parse(lease[member].as_str().unwrap()).unwrap();
        assert!(position("before_last_batch") < position("delivered"), "{lease:#}");
        let command: Vec<&str> = lease["command"].as_str().unwrap().split(' ').collect();
        let ["kinetide", "leases", command @ .., "--application", TABLE, "--stream", STREAM] = &command[..]
        else {
            panic!("{command:?}")
        };
        kinetide(&stage.leases_args(&[command, &["--yes"]].concat())).await.says(0, &[]);
    }
    assert!(stage.delivered().await);
    let lake = stage.lake().display().to_string();
    let again = kinetide(&stage.leases_args(&["delivered", "--lake", &lake])).await;
    again.says(0, &[]);
    assert!(again.out.ends_with("No lease is behind the lake.\n"), "{}", again.out);
    stage.put(300..350);
    deliver(&stage).await;
    stage.exactly_once(350).await;
}

/// The objects of a batch that was pending are looked for under their names, and count when they hold its rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_pending_in_an_old_table_comes_once() {
    let stage = Stage::new(2).await;
    let obstacle = stage.block_lake();
    let worker = stage.worker(&[]).await;
    stage.put(0..100);
    eventually("a batch of each shard is pending", || async {
        let leases = stage.leases().await;
        (leases.len() == 2 && leases.iter().all(|lease| lease.pending.is_some())).then_some(())
    })
    .await;
    let rows = backup(&stage).await;
    std::fs::remove_file(obstacle).unwrap();
    stage.all_delivered().await;
    for wave in [100..150, 150..200] {
        stage.put(wave);
        stage.all_delivered().await;
    }
    worker.drain().await;
    stage.exactly_once(200).await;

    restore(&stage, rows).await;
    let pending = |lease: &Lease| lease.pending.as_ref().map(|pending| pending.checkpoint.clone());
    let prepared = records_up_to(&stage, pending).await;
    assert!(prepared > 0);
    deliver(&stage).await;
    let check = stage.verify().await;
    assert_eq!(
        (check.missing, check.duplicated, check.other_defects()),
        (0, 200 - prepared, 0),
        "{check:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_lake_is_needs_a_stream_and_a_lake() {
    let stage = Stage::new(1).await;
    deliver(&stage).await;
    let nowhere = stage.dir.path().join("nowhere").display().to_string();
    for (lake, said) in [(nowhere.as_str(), "use a folder that exists"), ("http://x", "--lake")] {
        kinetide(&stage.leases_args(&["delivered", "--lake", lake])).await.says(2, &[said]);
    }
    let found = delivered(&stage).await;
    assert_eq!(
        (&found[0]["delivered"], &found[0]["behind"]),
        (&Value::Null, &Value::from(false)),
        "{found:#}"
    );
}
