//! A worker that gets hardly any processor time, and for a while none, keeps the leases that nobody else wants.

use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::eventually;
use super::stage::{FAILOVER, Stage};

const SHARDS: u32 = 40;

/// Keeps every processor busy four times over until it is dropped.
fn busy() -> Vec<Child> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let spin = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).kill_on_drop(true);
        shell.spawn().unwrap()
    };
    (0..cores.min(8) * 4).map(|_| spin()).collect()
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

    let spinning = busy();
    sleep(FAILOVER).await;
    // Longer than any lease is valid.
    worker.signal(Signal::SIGSTOP);
    sleep(FAILOVER * 3 / 2).await;
    worker.signal(Signal::SIGCONT);
    sleep(FAILOVER).await;
    drop(spinning);

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
