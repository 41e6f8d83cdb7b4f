//! What operators see of a running worker.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::eventually;
use super::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn metrics_health_and_status_of_a_running_worker() {
    let stage = Stage::new(2).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..100);
    stage.all_delivered().await;
    eventually("each lease is renewed", || async {
        let renewed = worker.metric("kinetide_lease_renew_duration_seconds_count{outcome=\"done\"}").await;
        (renewed >= 2.0).then_some(())
    })
    .await;

    for (name, least, most) in [
        ("kinetide_records_fetched_total ", 100.0, 100.0),
        ("kinetide_records_transformed_total ", 100.0, 100.0),
        ("kinetide_records_delivered_total ", 100.0, 100.0),
        ("kinetide_fetch_bytes_total ", 1.0, f64::MAX),
        ("kinetide_fetch_duration_seconds_count{outcome=\"ok\"}", 2.0, f64::MAX),
        ("kinetide_batches_delivered_total ", 2.0, 100.0),
        ("kinetide_batch_bytes_count", 2.0, 100.0),
        ("kinetide_batch_rows_sum", 100.0, 100.0),
        ("kinetide_objects_delivered_total{outcome=\"created\"}", 2.0, 100.0),
        ("kinetide_deliver_duration_seconds_count{sink=\"objects\",outcome=\"ok\"}", 2.0, 100.0),
        ("kinetide_checkpoints_total{outcome=\"done\"}", 2.0, 100.0),
        ("kinetide_leases_held ", 2.0, 2.0),
        ("kinetide_leases_assigned_total{how=\"new\"}", 2.0, 2.0),
        ("kinetide_in_flight_bytes ", 0.0, f64::MAX),
        ("kinetide_byte_budget_bytes ", 268_435_456.0, 268_435_456.0),
        ("kinetide_millis_behind_latest{stream=\"trades\",shard=\"shardId-000000000000\"}", 0.0, f64::MAX),
        ("kinetide_delivered_age_seconds{stream=\"trades\",shard=\"shardId-000000000001\"}", 0.0, 10.0),
    ] {
        let text = worker.get("/metrics").await.1;
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
        let value = worker.metric(name).await;
        assert!((least..=most).contains(&value), "{name} is {value}");
    }

    assert_eq!(worker.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(worker.get("/readyz").await.0, 200);
    let (code, paths) = worker.get("/nothing-here").await;
    assert!(code == 404 && paths.contains("/metrics"), "{paths}");

    let status = worker.status().await;
    assert_eq!((&status["streams"][0], &status["worker"]), (&"trades".into(), &worker.id.as_str().into()));
    assert_eq!(
        (&status["ready"], &status["draining"], &status["healthy"]),
        (&true.into(), &false.into(), &true.into())
    );
    let shards = status["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    assert_eq!(shards.iter().map(|shard| shard["records_delivered"].as_u64().unwrap()).sum::<u64>(), 100);
    for shard in shards {
        assert_eq!((&shard["state"], &shard["last_error"]), (&"reading".into(), &Value::Null));
        assert!(shard["lease_counter"].as_u64().unwrap() > 0 && shard["checkpoint"].is_string());
    }
    worker.drain().await;
}

/// Each worker says who leads; the leader also who reads what, and why a shard is not read.
#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_explains_itself() {
    let stage = Stage::new(4).await;
    // What the leader says holds until its next look.
    let slow = [("--lease-scan-interval", "1s")];
    let (first, second) = tokio::join!(stage.worker(&slow), stage.worker(&slow));
    eventually("the workers share the shards", || async {
        let (one, other) = (first.status().await, second.status().await);
        let two = |status: &Value| status["shards"].as_array().unwrap().len() == 2;
        (two(&one) && two(&other)).then_some(())
    })
    .await;
    let leads = |status: &Value| status["fleet"]["leader"]["this_worker"] == true;
    let (leader, follower) = if leads(&first.status().await) { (first, second) } else { (second, first) };
    let fleet = eventually("all is read", || async {
        let fleet = leader.status().await["fleet"].clone();
        (fleet["leases"]["read"] == 4).then_some(fleet)
    })
    .await;
    assert_eq!((&fleet["leader"]["worker"], &fleet["not_read"]), (&leader.id.as_str().into(), &json!([])));
    let workers = fleet["workers"].as_array().unwrap();
    assert!(workers.iter().all(|worker| worker["active"] == true && worker["leases"] == 2), "{fleet}");
    let fleet = follower.status().await["fleet"].clone();
    assert_eq!(
        (&fleet["leader"]["worker"], &fleet["leader"]["this_worker"]),
        (&leader.id.as_str().into(), &false.into())
    );
    assert!(fleet.get("not_read").is_none() && fleet["leader"]["unmoved_ms"].as_u64().unwrap() < 3000);
    assert_eq!(leader.metric("kinetide_shards_not_read{").await, 0.0);

    let silent = format!("its owner {} is silent", follower.id);
    follower.kill().await;
    let (mut named, mut counted) = (Value::Null, 0.0_f64);
    let started = Instant::now();
    while named.is_null() || leader.status().await["fleet"]["leases"]["read"] != 4 {
        assert!(started.elapsed() < Duration::from_secs(30), "{named}");
        let fleet = leader.status().await["fleet"].clone();
        counted = counted.max(leader.metric("kinetide_shards_not_read{reason=\"owner_silent\"}").await);
        let shards = fleet["not_read"].as_array().unwrap();
        if let Some(shard) = shards.iter().find(|shard| shard["why"] == silent.as_str()) {
            named = shard.clone();
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((&named["reason"], counted), (&"owner_silent".into(), 2.0));
    assert!(named["for_ms"].as_u64().unwrap() > 3000 && named["next_step"].is_string(), "{named}");
    leader.drain().await;
}

/// Whoever copies a task definition with a fixed id is told so by both.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_worker_id_say_so() {
    let stage = Stage::new(2).await;
    let first = stage.worker(&[("--worker-id", "twin")]).await;
    let second = stage.worker(&[("--worker-id", "twin")]).await;
    for twin in [&first, &second] {
        eventually("the collision is seen", || async {
            let seen = twin.metric("kinetide_worker_id_collisions_total").await >= 1.0;
            let told = twin.status().await["fleet"]["worker_id_collisions"].as_u64().unwrap() >= 1;
            (seen && told).then_some(())
        })
        .await;
    }
    second.kill().await;
    first.kill().await;
}
