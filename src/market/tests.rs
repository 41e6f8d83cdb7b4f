//! Pollers in virtual time: providers that refuse, hang and lie, targets that are away, clocks that jump.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::answer::{Response, Trouble};
use super::delivery::{Delivered, NotDelivered, Target};
use super::plan::{Gap, Interval};
use super::poller::{Poller, Settings};
use super::secret::{KeySource, Secret};
use super::source::{Failed, Source};
use crate::transform::Provider;

/// 2026-01-15T09:30:02Z, in the interval that begins at 09:30:00.
const BEGIN_US: i64 = 1_768_469_402_000_000;
const EVERY: Duration = Duration::from_secs(60);
const GOOD: &str = r#"[{"id":"a","current_price":1}]"#;

/// How the provider answers one request.
#[derive(Clone, Debug)]
enum Answer {
    Good,
    Status(u16, Option<u64>),
    Body(&'static str),
    Hangs,
    Unreachable,
    CutOff,
}

/// A provider that answers by a script, and well when that is over.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Answer>>,
    /// The only key that it takes, where it wants one.
    key: Mutex<Option<String>>,
    /// When it was asked, and with which key.
    asked: Mutex<Vec<(Instant, Option<String>)>>,
}

#[async_trait]
impl Source for Scripted {
    async fn fetch(&self, key: Option<&Secret>, within: Duration) -> Result<Response, Failed> {
        let key = key.map(|key| key.reveal().to_owned());
        self.asked.lock().unwrap().push((Instant::now(), key.clone()));
        let failed = |trouble| Err(Failed { trouble, detail: String::new() });
        let response = |status, retry_after: Option<u64>, body: &'static str| {
            let retry_after = retry_after.map(|seconds| seconds.to_string());
            Ok(Response { status, retry_after, body: Bytes::from_static(body.as_bytes()) })
        };
        let wanted = self.key.lock().unwrap().clone();
        if wanted.is_some() && wanted != key {
            return response(401, None, "");
        }
        let answer = self.script.lock().unwrap().pop_front().unwrap_or(Answer::Good);
        match answer {
            Answer::Good => response(200, None, GOOD),
            Answer::Status(status, retry_after) => response(status, retry_after, ""),
            Answer::Body(body) => response(200, None, body),
            Answer::Hangs => {
                sleep(within).await;
                failed(Trouble::TimedOut)
            }
            Answer::Unreachable => failed(Trouble::Unreachable),
            Answer::CutOff => failed(Trouble::CutOff),
        }
    }
}

/// A target in memory, which may be away for a while.
#[derive(Default)]
struct Memory {
    snapshots: Mutex<BTreeMap<i64, Bytes>>,
    gaps: Mutex<Vec<Gap>>,
    away_until: Mutex<Option<Instant>>,
    /// It may not be listed until then.
    blind_until: Mutex<Option<Instant>>,
    looked_back: Mutex<bool>,
}

impl Memory {
    fn here(&self) -> Result<(), NotDelivered> {
        let away = self.away_until.lock().unwrap().is_some_and(|until| Instant::now() < until);
        if away { Err(NotDelivered { reason: "away".to_owned(), for_good: false }) } else { Ok(()) }
    }

    /// Starts of intervals with a snapshot, and of those in gaps; none may be in both or twice.
    fn accounted(&self) -> (BTreeSet<i64>, BTreeMap<i64, String>) {
        let there: BTreeSet<i64> = self.snapshots.lock().unwrap().keys().copied().collect();
        let mut gaps = BTreeMap::new();
        for gap in &*self.gaps.lock().unwrap() {
            let mut interval = gap.first;
            for _ in 0..gap.intervals {
                assert!(gaps.insert(interval.start_s, gap.reason.clone()).is_none(), "twice: {gap:?}");
                assert!(!there.contains(&interval.start_s), "no gap: {gap:?}");
                interval = interval.next();
            }
            assert_eq!(gap.interval_end, crate::clock::utc(interval.start_us()));
        }
        (there, gaps)
    }
}

#[async_trait]
impl Target for Memory {
    async fn has(&self, interval: Interval) -> Result<bool, NotDelivered> {
        self.here()?;
        Ok(self.snapshots.lock().unwrap().contains_key(&interval.start_s))
    }

    async fn snapshot(
        &self,
        interval: Interval,
        _time_us: Option<i64>,
        body: &Bytes,
    ) -> Result<Delivered, NotDelivered> {
        self.here()?;
        let mut snapshots = self.snapshots.lock().unwrap();
        if snapshots.contains_key(&interval.start_s) {
            return Ok(Delivered::Existed);
        }
        snapshots.insert(interval.start_s, body.clone());
        Ok(Delivered::New)
    }

    async fn gap(&self, gap: &Gap) -> Result<(), NotDelivered> {
        self.here()?;
        self.gaps.lock().unwrap().push(gap.clone());
        Ok(())
    }

    async fn look_back(&self, _before: Interval) -> Result<Vec<Gap>, NotDelivered> {
        self.here()?;
        if self.blind_until.lock().unwrap().is_some_and(|until| Instant::now() < until) {
            return Err(NotDelivered { reason: "denied".to_owned(), for_good: false });
        }
        *self.looked_back.lock().unwrap() = true;
        Ok(Vec::new())
    }
}

/// A poller, its provider, its target and its clock.
struct Stage {
    source: Arc<Scripted>,
    target: Arc<Memory>,
    begun: Instant,
    /// The clock was set, or the host slept: so many µs more than went by.
    jumped_us: Arc<AtomicI64>,
    stop: CancellationToken,
}

impl Stage {
    fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        let source = Scripted { script: Mutex::new(script.into_iter().collect()), ..Scripted::default() };
        Self {
            source: Arc::new(source),
            target: Arc::default(),
            begun: Instant::now(),
            jumped_us: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    fn poller(&self, once: bool, key: KeySource) -> Poller {
        let settings = Settings {
            provider: Provider::CoinGecko,
            every: EVERY,
            once,
            needs_key: false,
            drain: Duration::from_secs(20),
            seed: 7,
        };
        let (begun, jumped) = (self.begun, Arc::clone(&self.jumped_us));
        let clock = move || {
            let went_by = i64::try_from((Instant::now() - begun).as_micros()).unwrap();
            BEGIN_US + went_by + jumped.load(Relaxed)
        };
        let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
        Poller::new(settings, source as Arc<dyn Source>, key, target as Arc<dyn Target>, clock)
    }

    /// Polls for so long; whether it ended clean.
    async fn polls_for(&self, time: Duration) -> bool {
        let poller = self.poller(false, KeySource::None).run(self.stop.clone());
        let stops = async {
            sleep(time).await;
            self.stop.cancel();
        };
        tokio::join!(poller, stops).0.clean
    }

    /// When the provider was asked, s after the beginning.
    fn asked_s(&self) -> Vec<u64> {
        self.source.asked.lock().unwrap().iter().map(|(at, _)| (*at - self.begun).as_secs()).collect()
    }
}

/// Starts of the intervals after the first, in intervals.
fn starts(intervals: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let first = Interval::at(BEGIN_US, EVERY);
    intervals.into_iter().map(|start| first.starting(start).intervals_since(first)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_interval_has_its_snapshot() {
    let stage = Stage::new([]);
    assert!(stage.polls_for(Duration::from_secs(299)).await);
    let (there, gaps) = stage.target.accounted();
    assert_eq!((starts(there), gaps.len()), (vec![0, 1, 2, 3, 4, 5], 0));
    // At once, and then when an interval begins.
    assert_eq!(stage.asked_s(), [0, 58, 118, 178, 238, 298]);
    assert_eq!(stage.target.snapshots.lock().unwrap().values().next().unwrap(), GOOD);
}

#[tokio::test(start_paused = true)]
async fn a_passing_trouble_costs_no_interval() {
    let stage = Stage::new([
        Answer::Status(503, None),
        Answer::Body("<html>busy</html>"),
        Answer::CutOff,
        Answer::Good,
        Answer::Status(429, Some(30)),
        Answer::Good,
        Answer::Hangs,
        Answer::Unreachable,
        Answer::Body("[]"),
    ]);
    assert!(stage.polls_for(Duration::from_secs(170)).await);
    let (there, gaps) = stage.target.accounted();
    assert_eq!((starts(there), gaps.len()), (vec![0, 1, 2], 0));
    let asked = stage.asked_s();
    assert_eq!(asked.len(), 10);
    assert!(asked[5] - asked[4] >= 30, "Retry-After is honoured: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_interval_without_a_snapshot_is_a_gap_with_its_reason() {
    let broken = (0..6).map(|_| Answer::Status(500, None));
    let asleep = [Answer::Status(429, Some(100)), Answer::Good];
    let refused = [Answer::Status(404, None)];
    let stage = Stage::new(broken.chain(asleep).chain(refused));
    assert!(stage.polls_for(Duration::from_secs(359)).await);
    let (there, gaps) = stage.target.accounted();
    // Six tries fit into the first minute. Then nobody is asked for 100 s, which the third interval still has room for.
    let expected = [(0, "http_500"), (1, "http_429"), (3, "http_404")];
    let found: Vec<(i64, &str)> =
        starts(gaps.keys().copied()).into_iter().zip(gaps.values().map(|r| &**r)).collect();
    assert_eq!(found, expected, "{:?}", stage.asked_s());
    assert_eq!(starts(there), [2, 4, 5, 6]);
    assert_eq!(stage.target.gaps.lock().unwrap()[0].attempts, 6);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_poller_is_no_gap() {
    let stage = Stage::new((0..99).map(|_| Answer::Status(500, None)));
    let first = Interval::at(BEGIN_US, EVERY);
    let other = async {
        sleep(Duration::from_secs(57)).await;
        stage.target.snapshot(first, None, &Bytes::from_static(b"theirs")).await.unwrap();
        stage.target.snapshot(first.next(), None, &Bytes::from_static(b"theirs")).await.unwrap();
    };
    let ((), clean) = tokio::join!(other, stage.polls_for(Duration::from_secs(100)));
    assert!(clean);
    let (there, gaps) = stage.target.accounted();
    assert_eq!((starts(there), gaps.len()), (vec![0, 1], 0));
    // In the second it was there before anybody was asked.
    assert!(stage.asked_s().iter().all(|at| *at < 58), "{:?}", stage.asked_s());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_runs_out_is_read_again_and_not_sent_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "old").unwrap();
    let stage = Stage::new([]);
    *stage.source.key.lock().unwrap() = Some("old".to_owned());
    let poller = stage.poller(false, KeySource::File(file.clone())).run(stage.stop.clone());
    let rotates = async {
        sleep(Duration::from_secs(50)).await;
        *stage.source.key.lock().unwrap() = Some("new".to_owned());
        sleep(Duration::from_secs(20)).await;
        std::fs::write(&file, "new\n").unwrap();
        sleep(Duration::from_secs(100)).await;
        // Gone for the last minute.
        std::fs::remove_file(&file).unwrap();
        sleep(Duration::from_secs(65)).await;
        stage.stop.cancel();
    };
    let (ended, ()) = tokio::join!(poller, rotates);
    assert!(ended.clean);
    let (there, gaps) = stage.target.accounted();
    assert_eq!(starts(there), [0, 1, 2]);
    assert_eq!(gaps.values().collect::<Vec<_>>(), ["no_key"]);
    let keys: Vec<Option<String>> =
        stage.source.asked.lock().unwrap().iter().map(|(_, key)| key.clone()).collect();
    assert_eq!(keys, ["old", "old", "new", "new"].map(|key| Some(key.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn snapshots_wait_for_a_target_that_is_away() {
    let stage = Stage::new([Answer::Good, Answer::Status(404, None)]);
    *stage.target.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(400));
    assert!(stage.polls_for(Duration::from_secs(415)).await);
    let (there, gaps) = stage.target.accounted();
    assert_eq!(starts(there), [0, 2, 3, 4, 5, 6]);
    assert_eq!(starts(gaps.into_keys()), [1]);
}

/// Without the right to list, snapshots are delivered all the same.
#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_look_back_that_fails() {
    let stage = Stage::new([]);
    *stage.target.blind_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(100));
    assert!(stage.polls_for(Duration::from_secs(3)).await);
    assert_eq!(starts(stage.target.accounted().0), [0]);
    let stage = Stage::new([]);
    *stage.target.blind_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(100));
    assert!(stage.polls_for(Duration::from_secs(299)).await);
    assert_eq!(starts(stage.target.accounted().0), [0, 1, 2, 3, 4, 5]);
    assert!(*stage.target.looked_back.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_poller_that_may_not_deliver_ends_and_says_so() {
    let stage = Stage::new([]);
    *stage.target.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(4000));
    assert!(!stage.polls_for(Duration::from_secs(100)).await);
    assert_eq!((Instant::now() - stage.begun).as_secs(), 120);
    let stage = Stage::new([]);
    *stage.target.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(110));
    assert!(stage.polls_for(Duration::from_secs(100)).await, "it came back in time");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_request_and_a_wait_at_once() {
    for script in [vec![Answer::Hangs], vec![Answer::Status(429, Some(50))], vec![]] {
        let stage = Stage::new(script);
        assert!(stage.polls_for(Duration::from_secs(5)).await);
        assert_eq!((Instant::now() - stage.begun).as_secs(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn once_is_one_interval_and_has_some_time_also_when_it_comes_late() {
    let stage = Stage::new([Answer::Status(503, None)]);
    let poller = stage.poller(true, KeySource::None);
    let counts = poller.counts();
    assert!(poller.run(stage.stop.clone()).await.clean);
    assert_eq!((counts.new_snapshots(), counts.existing(), counts.gaps()), (1, 0, 0));
    // There already.
    let poller = stage.poller(true, KeySource::None);
    let counts = poller.counts();
    assert!(poller.run(stage.stop.clone()).await.clean);
    assert_eq!((counts.new_snapshots(), counts.existing(), stage.asked_s().len()), (0, 1, 2));
    // Two seconds before the interval is over: tries go on for 45 s.
    let stage = Stage::new((0..6).map(|_| Answer::Status(503, None)));
    stage.jumped_us.store(56_000_000, Relaxed);
    assert!(stage.poller(true, KeySource::None).run(stage.stop.clone()).await.clean);
    assert_eq!(starts(stage.target.accounted().1.into_keys()), [0]);
    assert_eq!(stage.asked_s().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_a_sleeping_host_missed_is_a_gap() {
    let stage = Stage::new([]);
    let sleeps = async {
        sleep(Duration::from_secs(30)).await;
        stage.jumped_us.fetch_add(600_000_000, Relaxed);
    };
    let (clean, ()) = tokio::join!(stage.polls_for(Duration::from_secs(100)), sleeps);
    assert!(clean);
    let (there, gaps) = stage.target.accounted();
    assert_eq!(starts(there), [0, 10, 11]);
    assert_eq!(starts(gaps.keys().copied()), (1..10).collect::<Vec<_>>());
    assert!(gaps.values().all(|reason| reason == "not_polled"));
    assert_eq!(stage.target.gaps.lock().unwrap().len(), 1);
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Good),
        2 => (prop::sample::select(vec![400u16, 401, 404, 408, 429, 500, 503]), prop::option::of(0u64..200))
            .prop_map(|(status, after)| Answer::Status(status, after)),
        1 => prop::sample::select(vec!["", "[]", "{}", "<html>", "[{\"id\":"]).prop_map(Answer::Body),
        1 => Just(Answer::Hangs),
        1 => Just(Answer::Unreachable),
        1 => Just(Answer::CutOff),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the provider answers, the target does and the clock jumps to: each interval that is over has a snapshot or
    /// is in exactly one gap.
    #[test]
    fn no_interval_is_lost_silently(
        script in prop::collection::vec(answers(), 0..60),
        away in prop::option::of((0u64..600, 1u64..300)),
        jump in prop::option::of((0u64..600, 1i64..400)),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let stage = Stage::new(script);
            let disturbs = async {
                if let Some((at, _)) = jump {
                    sleep(Duration::from_secs(at)).await;
                }
                stage.jumped_us.fetch_add(jump.map_or(0, |(_, by)| by * 1_000_000), Relaxed);
            };
            let goes_away = async {
                let (at, time) = away.unwrap_or_default();
                sleep(Duration::from_secs(at)).await;
                *stage.target.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(time));
            };
            let (clean, (), ()) = tokio::join!(stage.polls_for(Duration::from_secs(1200)), disturbs, goes_away);
            assert!(clean);
            let end_us = BEGIN_US + 1_200_000_000 + stage.jumped_us.load(Relaxed);
            let (mut interval, last) = (Interval::at(BEGIN_US, EVERY), Interval::at(end_us, EVERY));
            let (there, gaps) = stage.target.accounted();
            while interval < last {
                let accounted = there.contains(&interval.start_s) || gaps.contains_key(&interval.start_s);
                assert!(accounted, "{} is lost", crate::clock::utc(interval.start_us()));
                interval = interval.next();
            }
        });
    }
}
