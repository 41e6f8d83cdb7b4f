//! A worker that gets hardly any processor time keeps the leases that nobody else wants.

use std::process::Stdio;
use std::time::Duration;

use kinetide::lease::Lease;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::eventually;
use super::stage::Stage;

const SHARDS: u32 = 200;
/// How long the processors are taken away.
const STARVED: Duration = Duration::from_secs(15);

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
    // Idle shards are polled as often as that.
    let worker = stage.worker(&[("--batch-age", "2s")]).await;
    let owned = |rows: &[Lease]| rows.iter().filter(|row| row.actual_owner().is_some()).count();
    eventually("every lease has its owner", || async {
        let held = worker.metric("kinetide_leases_held ").await;
        (owned(&stage.leases().await) == SHARDS as usize && held >= f64::from(SHARDS)).then_some(())
    })
    .await;
    let lost = worker.metric("kinetide_leases_lost_total").await;
    let begun = worker.metric("kinetide_leases_begun_total").await;

    stage.put(0..100);
    worker.be_nice();
    let spinning = busy();
    sleep(STARVED).await;
    stage.put(100..200);
    drop(spinning);

    stage.all_delivered().await;
    let lost = worker.metric("kinetide_leases_lost_total").await - lost;
    let begun = worker.metric("kinetide_leases_begun_total").await - begun;
    // It was every one of them, and more than once.
    let few = f64::from(SHARDS) / 4.0;
    assert!(lost <= few && begun <= few, "{lost} lost and {begun} begun again of {SHARDS}");
    worker.drain().await;
    stage.exactly_once(200).await;
}
