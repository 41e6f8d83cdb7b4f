//! What operators see of a running worker.

use serde_json::Value;

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
        ("kinetide_millis_behind_latest{shard=\"shardId-000000000000\"}", 0.0, f64::MAX),
        ("kinetide_delivered_age_seconds{shard=\"shardId-000000000001\"}", 0.0, 10.0),
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
    assert_eq!((&status["stream"], &status["worker"]), (&"trades".into(), &worker.id.as_str().into()));
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
