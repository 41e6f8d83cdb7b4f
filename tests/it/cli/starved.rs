//! A worker that gets hardly any processor time, and for a while none, keeps the leases that nobody else wants.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::eventually;
use super::stage::{FAILOVER, Stage, Worker};

const SHARDS: u32 = 40;
/// A fifth of the time, in slices, as a container gets it that is above its quota.
const RUNS: Duration = Duration::from_millis(20);
const STANDS: Duration = Duration::from_millis(80);

/// Lets the worker run in slices. Only it is kept from the processors, not the tests beside it.
async fn starve(worker: &Worker, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        worker.signal(Signal::SIGCONT);
        sleep(RUNS).await;
        worker.signal(Signal::SIGSTOP);
        sleep(STANDS).await;
    }
    worker.signal(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starved_lone_worker_keeps_its_leases_and_what_it_has_read() {
    let stage = Stage::new(SHARDS).await;
    let worker = stage.worker(&[("--batch-age", "10m")]).await;
    eventually("every lease is held", || async {
        (worker.metric("kinetide_leases_held ").await >= f64::from(SHARDS)).then_some(())
    })
    .await;
    stage.put(0..200);
    let read = || async {
        let shards = worker.status().await["shards"].as_array().unwrap().clone();
        shards.iter().filter_map(|shard| shard["batch_records"].as_u64()).sum::<u64>()
    };
    eventually("all of it is in open batches", || async { (read().await == 200).then_some(()) }).await;
    let (lost, begun, fetched) =
        ("kinetide_leases_lost_total", "kinetide_leases_begun_total", "kinetide_records_fetched_total");
    let before = [worker.metric(lost).await, worker.metric(begun).await, worker.metric(fetched).await];

    starve(&worker, FAILOVER).await;
    // Longer than any lease is valid.
    worker.signal(Signal::SIGSTOP);
    sleep(FAILOVER * 3 / 2).await;
    starve(&worker, FAILOVER).await;

    stage.put(200..220);
    eventually("it reads on", || async { (read().await >= 220).then_some(()) }).await;
    let lost = worker.metric(lost).await - before[0];
    let begun = worker.metric(begun).await - before[1];
    let fetched = worker.metric(fetched).await - before[2];
    // It was every one of them.
    let few = f64::from(SHARDS) / 4.0;
    assert!(lost <= few && begun <= few, "{lost} lost and {begun} begun again of {SHARDS}");
    assert!(fetched < 120.0, "{fetched} records were fetched, of which 20 were new");
    worker.drain().await;
    stage.exactly_once(220).await;
}
