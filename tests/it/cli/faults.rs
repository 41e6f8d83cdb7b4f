//! Trouble while the service runs: it waits, says why, tries again, and loses or doubles nothing.

use std::time::Duration;

use kinetide::internals::lease::LeaseTable;
use serde_json::Value;
use tokio::time::sleep;

use super::endpoints::Proxy;
use super::eventually;
use super::stage::{FAILOVER, STREAM, Stage, Worker};
use crate::s3::server::{Mood, Op, S3};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_in_every_way_is_read_exactly_once() {
    let stage = Stage::new(2).await;
    let worker = stage.worker(&[]).await;
    let faults =
        ["*:5xx:0.1", "*:cut:0.1", "*:lost-answer:0.1", "*:delay=50ms:0.3", "GetRecords:throttle:0.2"];
    stage.aws.kinesis().set_faults(faults.map(|fault| fault.parse().unwrap()).to_vec(), 7);
    stage.put(0..300);
    let first = stage.aws.kinesis().open_shards(STREAM).unwrap().remove(0);
    stage.aws.kinesis().split(STREAM, &first).unwrap();
    for tens in 30..60 {
        stage.put(tens * 10..tens * 10 + 10);
        sleep(Duration::from_millis(50)).await;
    }
    stage.all_delivered().await;
    assert!(worker.metric("kinetide_fetch_throttled_total").await > 0.0);
    assert!(worker.metric("kinetide_fetch_errors_total").await > 0.0);
    stage.aws.kinesis().set_faults(Vec::new(), 0);
    worker.drain().await;
    stage.exactly_once(600).await;
}

async fn stalled(worker: &Worker) -> Value {
    eventually("the shard is shown as stalled", || async {
        let shard = worker.status().await["shards"][0].clone();
        (shard["state"] == "stalled").then_some(shard)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_refuses_stalls_the_shard_until_it_heals() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    let obstacle = stage.block_lake();
    stage.put(0..100);

    let shard = stalled(&worker).await;
    assert_eq!(shard["reason"], "lake");
    assert!(
        shard["last_error"].as_str().unwrap().contains("could not create landing/transactions"),
        "{shard}"
    );
    assert_eq!(worker.metric("kinetide_shard_stalled{").await, 1.0);
    let age = |status: Value| status["delivered_age_ms"].as_u64().unwrap();
    let before = age(worker.status().await);
    sleep(Duration::from_millis(500)).await;
    let after = age(worker.status().await);
    assert!(after >= before + 400, "the age of the oldest record grows: {before}, {after}");
    // It reads on meanwhile, renews its lease, and is as healthy as can be.
    stage.put(100..150);
    assert_eq!(worker.get("/healthz").await.0, 200);

    std::fs::remove_file(obstacle).unwrap();
    stage.all_delivered().await;
    let shard = worker.status().await["shards"][0].clone();
    assert_eq!((&shard["state"], &shard["delivered_age_ms"]), (&"reading".into(), &0.into()), "{shard}");
    assert!(worker.metric("kinetide_deliver_retries_total").await >= 3.0);
    worker.drain().await;
    stage.exactly_once(150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_in_a_bad_mood_gets_every_object_once() {
    let stage = Stage::new(2).await;
    // A 409 is another put under way: there is no object yet.
    let moods = [
        Mood::Refuse(503, "SlowDown"),
        Mood::Refuse(500, "InternalError"),
        Mood::Refuse(409, "ConditionalRequestConflict"),
        Mood::Refuse(409, "ConditionalRequestConflict"),
        Mood::Refuse(403, "AccessDenied"),
        Mood::DoAndFail,
        Mood::LoseAnswer,
        Mood::Refuse(507, "InsufficientStorage"),
    ];
    let s3 = S3::start(&moods.map(|mood| (Op::Put, mood))).await;
    let worker = stage.worker(&[("--lake", "s3://lake/raw"), ("--s3-endpoint", &s3.url)]).await;
    stage.put(0..200);
    stage.all_delivered().await;
    stage.put(200..300);
    stage.all_delivered().await;
    worker.drain().await;
    let saved = stage.dir.path().join("saved");
    assert!(s3.seen().iter().all(|seen| seen.op != Op::Put || seen.headers.contains_key("if-none-match")));
    s3.save("lake", &saved);
    let check = stage.verify_lake(saved.join("raw")).await;
    assert!(check.ok() && check.records_put == 300, "{check:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_table_that_is_away_for_longer_than_a_failover_loses_nothing() {
    let stage = Stage::new(2).await;
    let proxy = Proxy::to(stage.aws.dynamodb_url()).await;
    let worker = stage.worker(&[("--dynamodb-endpoint", &proxy.endpoint.url)]).await;
    stage.put(0..100);
    stage.all_delivered().await;

    proxy.turn(false);
    stage.put(100..200);
    sleep(FAILOVER + Duration::from_millis(500)).await;
    eventually("leases that cannot be renewed are given up", || async {
        (worker.metric("kinetide_leases_held ").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(stage.verify().await.rows_delivered, 100, "nothing lands without a lease");
    proxy.turn(true);
    stage.all_delivered().await;
    let lost = worker.metric("kinetide_leases_lost_total").await;
    assert!(lost >= 2.0);
    let told = worker.log().lines().filter(|line| line.contains(r#""message":"lease lost""#)).count();
    assert_eq!(told.to_string(), lost.to_string(), "each is logged once");
    assert!(
        worker.metric("kinetide_lease_renew_duration_seconds_count{outcome=\"unavailable\"}").await >= 1.0
    );
    worker.drain().await;
    stage.exactly_once(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_table_that_is_deleted_is_not_made_again() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..50);
    stage.all_delivered().await;

    stage.drop_lease_table().await;
    stage.put(50..60);
    eventually("the worker is not ready any more", || async {
        (worker.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    eventually("nobody can hold a lease", || async {
        (worker.metric("kinetide_leases_held ").await == 0.0).then_some(())
    })
    .await;
    // Longer than anything that would end a process without a sign of life.
    sleep(FAILOVER * 3 + Duration::from_secs(1)).await;
    assert_eq!(worker.get("/healthz").await.0, 200);
    assert_eq!(worker.metric("kinetide_lease_table_lost").await, 1.0);
    let log = worker.log();
    let told = log.lines().filter(|line| line.contains("the lease table was deleted")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains("ERROR") && told[0].contains("Stop all workers"), "{log}");
    assert!(stage.leases().await.is_empty() && stage.table().snapshot().await.is_err(), "not made again");
    assert_eq!(stage.verify().await.rows_delivered, 50);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_anew_is_not_read_with_old_checkpoints() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..50);
    stage.all_delivered().await;
    let before = stage.leases().await;

    stage.recreate_stream(2).await;
    stage.put(50..80);
    let shard = eventually("the shard says why it stands still", || async {
        let shard = worker.status().await["shards"][0].clone();
        (shard["reason"] == "stream_recreated").then_some(shard)
    })
    .await;
    assert!(shard["last_error"].as_str().unwrap().contains("kinetide leases delete --all"), "{shard}");
    eventually("the leader sees it", || async {
        (worker.metric("kinetide_stream_recreated").await == 1.0).then_some(())
    })
    .await;
    sleep(Duration::from_secs(3)).await;
    let after = stage.leases().await;
    assert_eq!(after.len(), 1, "the new shard gets no lease");
    assert_eq!(after[0].checkpoint, before[0].checkpoint);
    assert_eq!(worker.metric("kinetide_records_delivered_total").await, 50.0);
    assert!(worker.log().contains("the stream was deleted and created again"));
    worker.drain().await;
}
