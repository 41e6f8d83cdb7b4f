//! How a worker ends, and who goes on: by SIGTERM, by SIGKILL, and with another transform.

use std::collections::BTreeMap;
use std::time::Duration;

use kinetide::internals::lease::{Lease, LeaseKey, LeaseTable};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::eventually;
use super::overload::Noisy;
use super::stage::{STREAM, Stage, Worker};
use crate::s3::server::{Mood, Op, S3};

/// How many leases each worker owns.
async fn owners(stage: &Stage) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for lease in stage.leases().await.into_iter().filter(|lease| !lease.finished()) {
        let owner = lease.owner.map_or_else(|| "nobody".to_owned(), |owner| owner.as_str().to_owned());
        *owners.entry(owner).or_default() += 1;
    }
    owners
}

async fn own(stage: &Stage, expected: &[(&Worker, usize)]) {
    let expected: BTreeMap<_, _> = expected.iter().map(|(worker, n)| (worker.id.clone(), *n)).collect();
    eventually("the workers share the shards", || async { (owners(stage).await == expected).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_hands_over_at_once() {
    let stage = Stage::new(4).await;
    // Batches stay open until the drain closes them.
    let old = [("--batch-age", "60s"), ("--failover-time", "10s")];
    let (mut first, second) = tokio::join!(stage.worker(&old), stage.worker(&old));
    own(&stage, &[(&first, 2), (&second, 2)]).await;
    stage.put(0..400);
    eventually("all is read", || async {
        let read = first.metric("kinetide_records_fetched_total").await
            + second.metric("kinetide_records_fetched_total").await;
        (read >= 400.0).then_some(())
    })
    .await;
    let owned = |lease: &Lease| lease.owner.as_ref().is_some_and(|owner| owner.as_str() == second.id);
    let own: Vec<LeaseKey> = stage.leases().await.into_iter().filter(owned).map(|lease| lease.key).collect();
    assert!(
        stage.leases().await.iter().all(|lease| lease.checkpoint.position().is_none()),
        "nothing is committed"
    );

    let told = Instant::now();
    first.signal(Signal::SIGTERM);
    // For each shard: the row as the other worker got it, and when; then how long until it has written to it.
    let mut given: BTreeMap<LeaseKey, (u64, Instant)> = BTreeMap::new();
    let mut taken: BTreeMap<LeaseKey, Duration> = BTreeMap::new();
    while taken.len() < given.len() || given.len() < 2 {
        assert!(told.elapsed().as_secs() < 60, "{given:?} {taken:?}");
        for lease in stage.leases().await.into_iter().filter(|lease| !own.contains(&lease.key)) {
            assert!(lease.owner.is_some(), "{} goes to nobody", lease.key);
            if lease.owner.as_ref().is_some_and(|owner| owner.as_str() == second.id) {
                let (counter, since) =
                    *given.entry(lease.key.clone()).or_insert((lease.counter, Instant::now()));
                if lease.counter > counter {
                    taken.entry(lease.key).or_insert(since.elapsed());
                }
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    let unread = taken.values().max().unwrap();
    println!("drained and handed over in {:?}, of it {unread:?} without a reader", told.elapsed());
    assert!(unread.as_secs() < 2, "without a reader for {unread:?}");
    assert_eq!(first.ended().await, Some(0), "{}", first.log());

    let before = second.metric("kinetide_records_fetched_total").await;
    stage.put(400..500);
    eventually("the other worker reads on", || async {
        (second.metric("kinetide_records_fetched_total").await >= before + 100.0).then_some(())
    })
    .await;
    second.drain().await;
    assert_eq!(owners(&stage).await, BTreeMap::from([("nobody".to_owned(), 4)]));
    stage.exactly_once(500).await;
}

/// Nothing of a worker that drained stays in the table: the next one leads at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_worker_leaves_nothing_behind() {
    let stage = Stage::new(2).await;
    for _ in 0..3 {
        let mut worker = stage.worker(&[]).await;
        own(&stage, &[(&worker, 2)]).await;
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
        let table = stage.table();
        assert_eq!(table.snapshot().await.unwrap().workers, [], "{}", worker.log());
        assert_eq!(table.leader().await.unwrap(), None, "{}", worker.log());
        assert_eq!(owners(&stage).await, BTreeMap::from([("nobody".to_owned(), 2)]));
    }
}

/// Kills a worker between prepare and commit and lets another one, with these settings, go on.
async fn killed_with_a_batch_pending(settings: &str) -> (Stage, Worker) {
    let stage = Stage::new(1).await;
    let first = stage.worker(&[]).await;
    stage.put(0..50);
    stage.all_delivered().await;
    // One hour folder of the batch can be made, the other cannot: one object lands, one does not.
    let obstacle = stage.lake().join("errors");
    std::fs::write(&obstacle, "in the way").unwrap();
    stage.put(50..100);
    stage.aws.kinesis().put(STREAM, "broken", b"no record").unwrap();
    eventually("a batch is pending and its rows have landed", || async {
        let pending = stage.leases().await.iter().any(|lease| lease.pending.is_some());
        let stalled = first.status().await["shards"][0]["reason"] == "lake";
        (pending && stalled).then_some(())
    })
    .await;
    first.kill().await;
    std::fs::remove_file(obstacle).unwrap();
    let file = stage.dir.path().join("settings.toml");
    std::fs::write(&file, settings).unwrap();
    let second = stage.worker(&[("--settings", &file.display().to_string())]).await;
    stage.put(100..150);
    stage.all_delivered().await;
    (stage, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_worker_finishes_the_very_batch_of_a_killed_one() {
    let (stage, worker) = killed_with_a_batch_pending("").await;
    assert!(worker.metric("kinetide_batches_recovered_total{how=\"finished\"}").await >= 1.0);
    assert!(worker.metric("kinetide_objects_delivered_total{outcome=\"existed\"}").await >= 1.0);
    assert_eq!(worker.metric("kinetide_leases_assigned_total{how=\"expired\"}").await, 1.0);
    worker.drain().await;
    let check = stage.exactly_once(151).await;
    assert_eq!((check.dead_letters, check.empty_objects), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_transform_seals_and_repairs() {
    let (stage, worker) = killed_with_a_batch_pending("[enrichment]\nhigh_risk_above = \"123456\"\n").await;
    assert!(worker.metric("kinetide_batches_recovered_total{how=\"repaired\"}").await >= 1.0);
    worker.drain().await;
    let check = stage.exactly_once(151).await;
    assert_eq!(check.dead_letters, 1);
    assert!(check.empty_objects >= 1, "the object that had not landed is sealed: {check:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_cannot_be_finished_is_aborted_and_left_to_the_next_worker() {
    let stage = Stage::new(1).await;
    // Both parts that are under way at first are never answered.
    let s3 = S3::start(&[(Op::Part, Mood::Silence), (Op::Part, Mood::Silence)]).await;
    let settings = [
        ("--lake", "s3://lake/raw"),
        ("--s3-endpoint", s3.url.as_str()),
        ("--s3-sse", "kms"),
        // An object of more than 16 MiB, and a small one.
        ("--batch-age", "10s"),
        ("--batch-bytes", "24MiB"),
    ];
    let noisy = Noisy::new();
    for number in 0..800 {
        stage.aws.kinesis().put(STREAM, "one key", &noisy.change(number)).unwrap();
    }
    let mut worker = stage.worker(&[&settings[..], &[("--shutdown-budget", "3s")]].concat()).await;
    eventually("the upload hangs", || async { (s3.count(Op::Part) == 2).then_some(()) }).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "{}", worker.log());
    let uploads = (s3.count(Op::Begin), s3.count(Op::Abort), s3.open_uploads());
    assert_eq!(uploads, (1, 1, 0), "{:?}\n{}", s3.ops(), worker.log());
    assert!(s3.bytes() == 0 && stage.leases().await[0].pending.is_some(), "{}", worker.log());

    let mut next = stage.worker(&settings).await;
    stage.all_delivered().await;
    next.signal(Signal::SIGTERM);
    assert_eq!(next.ended().await, Some(0), "{}", next.log());
    let uploads = (s3.count(Op::Begin), s3.count(Op::Complete), s3.count(Op::Abort));
    assert_eq!(uploads, (2, 1, 1), "{:?}\n{}", s3.ops(), next.log());
    for seen in s3.seen().iter().filter(|seen| matches!(seen.op, Op::Begin | Op::Put)) {
        assert_eq!(seen.headers["x-amz-server-side-encryption"], "aws:kms");
    }
    let saved = stage.dir.path().join("saved");
    s3.save("lake", &saved);
    let check = stage.verify_lake(saved.join("raw")).await;
    assert!(check.ok() && check.records_put == 800, "{check:#?}");
}
