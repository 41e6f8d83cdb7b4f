//! The byte budget under the worst that can come together: a shard with a backlog far above it, hundreds of small
//! ones, and a lake that takes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::sleep;

use super::eventually;
use super::stage::{STREAM, Stage, Worker, change};

const MIB: u64 = 1 << 20;
pub(super) const BUDGET: u64 = 32 * MIB;
/// What a process needs besides: itself, its SDK clients, and what it keeps of each shard.
pub(super) const BESIDES: u64 = 160 * MIB;
/// Small shards beside the large one.
const SHARDS: u32 = 400;
/// The records of the backlog are of so many hours in turn; each hour wants a compressor of its own.
const HOURS: u64 = 40;
/// Three times the budget, as the stream sends it.
const LARGE: u64 = 1200;
const LARGE_BYTES: usize = 64 << 10;
const SMALL: u64 = 200;

/// Text that does not repeat.
pub(super) fn noise() -> String {
    let mut noise = vec![0; LARGE_BYTES / 4 * 3];
    ChaCha8Rng::seed_from_u64(7).fill(&mut noise[..]);
    base64_simd::STANDARD.encode_to_string(noise)
}

/// A change whose bytes gzip cannot make fewer by much.
pub(super) fn large(number: u64, noise: &str) -> Vec<u8> {
    let image = format!(r#""NewImage":{{"noise":{{"S":"{noise}"}},"#);
    let created = 1_768_469_400_000_000 + number;
    let later = created + number % HOURS * 3_600_000_000;
    let text = String::from_utf8(change(number)).unwrap().replace("\"NewImage\":{", &image);
    assert!(text.contains(&created.to_string()));
    text.replace(&created.to_string(), &later.to_string()).into_bytes()
}

/// Watches the gauge until `done`: it never exceeds the budget. Answers the most it said.
pub(super) async fn watch(worker: &Worker, done: impl Future<Output = ()>) -> f64 {
    watch_within(worker, BUDGET, done).await
}

async fn watch_within(worker: &Worker, budget: u64, done: impl Future<Output = ()>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let limit = budget as f64;
    let mut most: f64 = 0.0;
    tokio::pin!(done);
    loop {
        tokio::select! {
            () = &mut done => return most,
            () = sleep(Duration::from_millis(50)) => {
                let held = worker.metric("kinetide_in_flight_bytes").await;
                assert!(held <= limit, "{held} bytes in flight");
                most = most.max(held);
            }
        }
    }
}

/// Waits until nothing more was read for some seconds. Answers the number of records read.
pub(super) async fn read_on(worker: &Worker) -> f64 {
    let (mut fetched, mut seconds) = (0.0, 0);
    while seconds < 3 {
        sleep(Duration::from_secs(1)).await;
        let now = worker.metric("kinetide_records_fetched_total").await;
        seconds = if now > fetched { 0 } else { seconds + 1 };
        fetched = now;
    }
    fetched
}

/// The counter of each lease that has an owner.
async fn counters(stage: &Stage) -> BTreeMap<String, u64> {
    let owned = stage.leases().await.into_iter().filter(|lease| lease.owner.is_some());
    owned.map(|lease| (lease.key.to_string(), lease.counter)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_its_budget_while_the_lake_takes_nothing() {
    let stage = Stage::new(SHARDS).await;
    let obstacle = stage.block_lake();
    let noise = noise();
    for number in 0..LARGE {
        stage.aws.kinesis().put(STREAM, "one key", &large(number, &noise)).unwrap();
    }
    // Some of the other shards have a record, most are idle.
    stage.put(LARGE..LARGE + SMALL / 2);
    let budget = format!("{}MiB", BUDGET / MIB);
    let settings = [
        ("--byte-budget", budget.as_str()),
        // The embedded table has to carry the renews of all shards, on a busy machine too.
        ("--failover-time", "60s"),
        ("--lease-scan-interval", "1s"),
        ("--poll-idle-max", "2s"),
    ];
    let worker = stage.worker(&settings).await;
    let started = worker.peak_bytes();
    let stopped = watch(&worker, async {
        eventually("every shard has a reader", || async {
            (counters(&stage).await.len() == SHARDS as usize).then_some(())
        })
        .await;
        stage.put(LARGE + SMALL / 2..LARGE + SMALL);
        let before = counters(&stage).await;
        let read = read_on(&worker).await;
        assert!(read > 10.0 && read < 600.0, "{read} records: what does not fit stays in the stream");
        eventually("every lease is renewed", || async {
            let now = counters(&stage).await;
            before.iter().all(|(key, counter)| now.get(key).is_some_and(|now| now > counter)).then_some(())
        })
        .await;
        assert_eq!(worker.metric("kinetide_records_delivered_total").await, 0.0);
    })
    .await;
    std::fs::remove_file(obstacle).unwrap();
    let healed = watch(&worker, stage.all_delivered()).await;
    let peak = worker.peak_bytes();
    println!("{stopped} bytes in flight with a stopped lake, {healed} afterwards");
    println!("peak of the process {started:?} at its start, {peak:?} in the end");
    assert!(peak.is_none_or(|peak| peak < BUDGET + BESIDES), "{peak:?} bytes");
    assert_eq!(worker.metric("kinetide_leases_lost_total").await, 0.0, "{}", worker.log());
    assert_eq!(
        worker.metric("kinetide_leases_begun_total").await,
        f64::from(SHARDS),
        "and none was taken twice"
    );
    worker.drain().await;
    stage.exactly_once(LARGE + SMALL).await;
}

/// Each shard has a batch that its former owner could not deliver. Together they take more than the next worker may hold.
#[tokio::test(flavor = "multi_thread")]
async fn pending_batches_of_forty_shards_are_rebuilt_within_the_budget() {
    const PENDING: u32 = 40;
    const SMALL_BUDGET: u64 = 32 * MIB;
    const RECORDS: u64 = 360;
    let stage = Stage::new(PENDING).await;
    let obstacle = stage.block_lake();
    let noise = noise();
    for number in 0..RECORDS {
        let key = format!("key-{number}");
        stage.aws.kinesis().put(STREAM, &key, &large(number, &noise)).unwrap();
    }
    // A busy machine takes its time over so many bytes.
    let failover = ("--failover-time", "12s");
    let former = stage.worker(&[("--byte-budget", "1GiB"), failover]).await;
    eventually("every shard has a pending batch", || async {
        let leases = stage.leases().await;
        let pending = leases.iter().filter(|lease| lease.pending.is_some()).count();
        (pending == PENDING as usize).then_some(())
    })
    .await;
    former.kill().await;
    let worker = stage.worker(&[("--byte-budget", "32MiB"), failover]).await;
    let stopped = watch_within(&worker, SMALL_BUDGET, async {
        eventually("the other worker has taken over", || async {
            let leases = stage.leases().await;
            let mine = |owner: &kinetide::internals::lease::WorkerId| owner.as_str() == worker.id;
            leases.iter().all(|lease| lease.owner.as_ref().is_some_and(mine)).then_some(())
        })
        .await;
        read_on(&worker).await;
    })
    .await;
    std::fs::remove_file(obstacle).unwrap();
    let healed = watch_within(&worker, SMALL_BUDGET, stage.all_delivered()).await;
    println!("{stopped} bytes in flight with a stopped lake, {healed} afterwards");
    worker.drain().await;
    stage.exactly_once(RECORDS).await;
}
