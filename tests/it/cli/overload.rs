//! Three times as much input as the lake takes: the lag grows, memory and leases do not mind, and when the input stops
//! everything arrives, once.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::eventually;
use super::stage::{STREAM, Stage, Worker, change};
use crate::s3::server::{Op, S3};

const MIB: u64 = 1 << 20;
const SHARDS: u32 = 8;
const BUDGET: u64 = 32 * MIB;
/// What a process needs besides: itself and its clients (50 MiB at its start, in a debug build), answers that are being
/// received and requests on their way, and what the allocator keeps.
const BESIDES: u64 = 128 * MIB;
/// How much more comes in than goes out.
const EXCESS: f64 = 3.0;
/// Bytes of noise in a record. As text it is a third longer, which gzip takes away again; the rest is small beside it.
const NOISE: usize = 24 << 10;

/// How long the overload lasts; catching up takes twice as long.
fn seconds() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "the length of this test, not a setting")]
    let given = std::env::var("KINETIDE_OVERLOAD_SECONDS");
    given.map_or(12, |seconds| seconds.parse().unwrap())
}

/// Changes of which the lake gets `NOISE` bytes each: none has a like within the reach of gzip.
pub(super) struct Noisy(Vec<String>);

impl Noisy {
    pub(super) fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut noise = || {
            let mut bytes = vec![0; NOISE];
            rng.fill(&mut bytes[..]);
            format!(r#""NewImage":{{"noise":{{"S":"{}"}},"#, base64_simd::STANDARD.encode_to_string(bytes))
        };
        Self((0..64).map(|_| noise()).collect())
    }

    pub(super) fn change(&self, number: u64) -> Vec<u8> {
        let image = &self.0[usize::try_from(number).unwrap() % self.0.len()];
        String::from_utf8(change(number)).unwrap().replacen("\"NewImage\":{", image, 1).into_bytes()
    }
}

/// Seconds since the oldest record came that is read and not in the lake, over all workers.
async fn lag(workers: &[Worker]) -> f64 {
    let mut lag: f64 = 0.0;
    for worker in workers {
        lag = lag.max(worker.status().await["delivered_age_ms"].as_f64().unwrap_or_default() / 1000.0);
    }
    lag
}

async fn sum(workers: &[Worker], metric: &str) -> f64 {
    let mut sum = 0.0;
    for worker in workers {
        sum += worker.metric(metric).await;
    }
    sum
}

/// The owner of each lease, and how often it changed since the last checkpoint.
async fn owners(stage: &Stage) -> BTreeMap<String, (Option<String>, u64)> {
    let owner = |lease: kinetide::internals::lease::Lease| {
        (lease.key.to_string(), (lease.owner.map(|owner| owner.to_string()), lease.owner_switches))
    };
    stage.leases().await.into_iter().map(owner).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_times_what_the_lake_takes_grows_the_lag_and_nothing_else() {
    let seconds = seconds();
    let length = Duration::from_secs(seconds.into());
    // So slow that the backlog of any length exceeds the memory of both workers, and no slower than that.
    let capacity = (64.0 / f64::from(seconds)).clamp(0.5, 3.0) * 1_048_576.0;
    let (stage, s3) = tokio::join!(Stage::new(SHARDS), S3::slow(capacity));
    let budget = format!("{}MiB", BUDGET / MIB);
    let settings = [
        ("--lake", "s3://lake/raw"),
        ("--s3-endpoint", s3.url.as_str()),
        ("--byte-budget", budget.as_str()),
        // All shards at once share the line: an object must be through within the time-out of its put.
        ("--batch-bytes", "2MiB"),
        ("--batch-age", "1s"),
        // Half of the shards each: then the leader has nothing to balance, and a lease that moves is one that was lost.
        ("--leases-max", "4"),
        // As in production.
        ("--failover-time", "10s"),
        ("--lease-scan-interval", "1s"),
    ];
    let workers = [stage.worker(&settings).await, stage.worker(&settings).await];
    eventually("the shards are shared", || async {
        for worker in &workers {
            if worker.metric("kinetide_leases_held ").await != f64::from(SHARDS) / 2.0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let before = owners(&stage).await;
    let begun = sum(&workers, "kinetide_leases_begun_total").await;
    let started: Vec<_> = workers.iter().map(Worker::peak_bytes).collect();

    let noisy = Noisy::new();
    let (mut put, mut lags) = (0_u64, Vec::new());
    let began = Instant::now();
    let mut looks = interval(length / 10);
    let mut next = began;
    let pause = Duration::from_secs_f64(NOISE as f64 / capacity / EXCESS);
    while began.elapsed() < length {
        tokio::select! {
            () = sleep_until(next) => {
                stage.aws.kinesis().put(STREAM, &format!("key-{put}"), &noisy.change(put)).unwrap();
                put += 1;
                next += pause;
            }
            _ = looks.tick() => lags.push(lag(&workers).await),
        }
    }
    lags.push(lag(&workers).await);
    let there = s3.bytes();
    let given = put * NOISE as u64;
    println!(
        "{given} bytes in {length:?} for a lake that takes {capacity} a second: {there} are there; lags {lags:.1?} s"
    );
    assert!(given as f64 > capacity * length.as_secs_f64() * 2.2, "the input keeps its pace, more or less");
    assert!((there as f64) < given as f64 * 0.45, "it is an overload");
    let (middle, end) = (lags[lags.len() / 2], lags[lags.len() - 1]);
    assert!(end > middle * 1.3 && end > length.as_secs_f64() / 3.0, "the lag grows: {lags:?}");

    let deadline = began + length * 5 + Duration::from_secs(60);
    while !stage.delivered().await {
        assert!(Instant::now() < deadline, "{} of {given} bytes are there", s3.bytes());
        sleep(Duration::from_millis(500)).await;
        let now = owners(&stage).await;
        let moved = now.iter().find(|(key, (owner, _))| before[*key].0 != *owner);
        assert!(moved.is_none(), "a lease changed its owner: {moved:?}");
    }
    let took = began.elapsed();
    let peaks: Vec<_> = workers.iter().map(Worker::peak_bytes).collect();
    let sent: usize = s3.seen().iter().filter(|seen| seen.op == Op::Put).map(|seen| seen.bytes).sum();
    println!(
        "caught up after {took:?}; peaks {started:?} at the start, {peaks:?} in the end; {sent} bytes sent"
    );

    assert!(peaks.iter().flatten().all(|peak| *peak < BUDGET + BESIDES), "{peaks:?} bytes");
    assert_eq!(sum(&workers, "kinetide_leases_lost_total").await, 0.0);
    assert_eq!(sum(&workers, "kinetide_leases_begun_total").await, begun, "none was taken again");
    assert!(owners(&stage).await.values().all(|(_, switches)| *switches == 0), "{:?}", owners(&stage).await);
    assert_eq!(sent, s3.bytes(), "nothing was sent in vain");
    eventually("the lag is gone", || async { (lag(&workers).await == 0.0).then_some(()) }).await;
    for worker in workers {
        worker.drain().await;
    }
    let saved = stage.dir.path().join("saved");
    s3.save("lake", &saved);
    let check = stage.verify_lake(saved.join("raw")).await;
    assert!(check.ok() && check.records_put == put, "{check:#?}");
}
