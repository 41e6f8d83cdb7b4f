//! What is counted of a run in which nothing goes wrong.

use nix::sys::signal::Signal;

use super::super::stage::STREAM;
use super::{Gated, eventually, leases_command};

/// Every counter against the known truth of a scripted run.
#[tokio::test(flavor = "multi_thread")]
async fn counters_are_what_happened() {
    let gated = Gated::new().await;
    let stage = &gated.stage;
    // Nothing is renewed so late that a lease is lost.
    let settings: Vec<_> =
        gated.settings().into_iter().filter(|(name, _)| *name != "--failover-time").collect();
    let worker = stage.worker(&settings).await;
    for (name, _) in truth(0, 0) {
        let text = worker.get("/metrics").await.1;
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} is not there from the start\n{text}"
        );
    }
    for name in ["process_start_time_seconds ", "process_resident_memory_bytes "] {
        assert!(worker.metric(name).await > 1e6, "{name}");
    }
    assert_eq!(worker.metric("kinetide_build_info{version=").await, 1.0);
    stage.put(0..50);
    for _ in 0..7 {
        stage.aws.kinesis().put(STREAM, "broken", b"no record").unwrap();
    }
    stage.all_delivered().await;
    gated.split();
    stage.put(50..70);
    eventually("all is done", || async {
        let ended = worker.metric("kinetide_shards_ended_total ").await == 1.0;
        (ended && worker.metric("kinetide_records_delivered_total ").await == 77.0).then_some(())
    })
    .await;
    for (name, value) in truth(70, 7) {
        assert_eq!(worker.metric(name).await, value, "{name}");
    }
    // One shard goes to another worker, gracefully.
    let other = stage.worker(&settings).await;
    let released = leases_command(&gated, &["release", "shardId-000000000001", "--yes"]).await;
    released.says(0, &[]);
    eventually("the other worker begins", || async {
        (other.metric("kinetide_leases_begun_total ").await == 1.0).then_some(())
    })
    .await;
    // Counted once the old owner has its response, which may be after the new one has begun.
    eventually("the release is counted", || async {
        (worker.metric("kinetide_leases_released_total ").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(worker.metric("kinetide_leases_released_total ").await, 1.0);
    assert_eq!(worker.metric("kinetide_leases_lost_total ").await, 0.0);
    let log = {
        let mut worker = worker;
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
        worker.log()
    };
    assert!(!log.contains("lease lost") && !log.contains("not drained"), "{log}");
    stage.all_delivered().await;
    other.drain().await;
    gated.exactly_once(77).await;
}

/// Counters after so many rows and dead letters, a split, and nothing else.
fn truth(rows: u32, dead_letters: u32) -> Vec<(&'static str, f64)> {
    let (rows, dead) = (f64::from(rows), f64::from(dead_letters));
    let happened = |n: f64| if rows > 0.0 { n } else { 0.0 };
    vec![
        ("kinetide_records_transformed_total ", rows),
        ("kinetide_records_dead_lettered_total{reason=\"not_json\"}", dead),
        ("kinetide_records_dead_lettered_total{reason=\"not_utf8\"}", 0.0),
        ("kinetide_records_delivered_total ", rows + dead),
        ("kinetide_leases_begun_total ", happened(3.0)),
        ("kinetide_leases_assigned_total{how=\"new\"}", happened(3.0)),
        ("kinetide_leases_assigned_total{how=\"expired\"}", 0.0),
        ("kinetide_leases_lost_total ", 0.0),
        ("kinetide_leases_released_total ", 0.0),
        ("kinetide_objects_delivered_total{outcome=\"existed\"}", 0.0),
        ("kinetide_batches_recovered_total{how=\"finished\"}", 0.0),
        ("kinetide_checkpoints_total{outcome=\"unavailable\"}", 0.0),
        ("kinetide_checkpoints_trimmed_total ", 0.0),
        ("kinetide_shards_ended_total ", happened(1.0)),
        ("kinetide_worker_id_collisions_total ", 0.0),
        ("kinetide_deliver_retries_total ", 0.0),
        ("kinetide_fetch_errors_total{kind=\"refused\"}", 0.0),
    ]
}
