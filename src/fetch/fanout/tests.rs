//! What goes wrong with subscriptions, in virtual time, over the stream in memory.

use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::{advance, sleep, timeout};

use super::memory::{MemoryFanOut, Seats};
use super::*;
use crate::fetch::memory::{Faults, MemoryStream};
use crate::fetch::{ByteBudget, Polling, StartRecord};
use crate::telemetry::status::tests::facts;
use crate::telemetry::status::{ShardHandle, ShardState, Side, Status};
use crate::telemetry::waiting::Waiting;

const START_US: i64 = 1_768_469_400_000_000;
const LOOK: Duration = Duration::from_millis(200);

/// Whoever a shard is read for.
struct Reads {
    budget: ByteBudget,
    status: Arc<ShardHandle>,
    /// The lease is renewed as long as there is a permit.
    renewals: Semaphore,
    looked: Mutex<usize>,
    ways: Mutex<Vec<Retrieval>>,
}

#[async_trait]
impl ReadsFor for Reads {
    async fn room(&self, bytes: usize) -> Room {
        Room { permit: self.budget.acquire(bytes).await, place: None }
    }

    fn calling(&self, call: &'static str) -> Waiting {
        Waiting::begin(&self.status, Side::Reading, "unavailable", call, 0)
    }

    async fn still_ours(&self) {
        *self.looked.lock().unwrap() += 1;
        drop(self.renewals.acquire().await.unwrap());
    }

    fn reads_by(&self, retrieval: Retrieval) {
        self.ways.lock().unwrap().push(retrieval);
    }
}

struct Scene {
    stream: Arc<MemoryStream>,
    seats: Arc<Seats>,
    reads: Arc<Reads>,
    auto: bool,
    put: usize,
}

fn shard(n: usize) -> ShardId {
    ShardId::new(format!("shardId-{n:012}"))
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scene {
    fn new() -> Self {
        let began = Instant::now();
        let us = move |at: Instant| START_US + i64::try_from((at - began).as_micros()).unwrap();
        let status = Status::new(facts("w"), s(60)).shard("trades", "shard", ShardState::Reading, 0);
        Self {
            stream: Arc::new(MemoryStream::new(1, 1000, us)),
            seats: Arc::default(),
            reads: Arc::new(Reads {
                budget: ByteBudget::new(8 << 20),
                status: Arc::new(status),
                renewals: Semaphore::new(1),
                looked: Mutex::default(),
                ways: Mutex::default(),
            }),
            auto: false,
            put: 0,
        }
    }

    fn auto() -> Self {
        Self { auto: true, ..Self::new() }
    }

    fn put(&mut self, records: usize) {
        for _ in 0..records {
            self.stream.put(0, "key", self.put.to_string()).unwrap();
            self.put += 1;
        }
    }

    fn open(&self, start: StartAt) -> Box<dyn ShardReader> {
        let fan_out = Arc::new(MemoryFanOut::new(Arc::clone(&self.stream), Arc::clone(&self.seats), LOOK));
        let polling = Arc::new(Polling::new(Arc::clone(&self.stream) as _, s(1)));
        let source = match self.auto {
            true => FanOut::or_polling(fan_out, polling, "trades"),
            false => FanOut::new(fan_out, polling),
        };
        source.open(&shard(0), start, Arc::clone(&self.reads) as _, 7)
    }

    /// The records so far, each once and in order, and the errors on the way.
    async fn read(&self, reader: &mut dyn ShardReader, seen: &mut usize) -> Vec<FetchError> {
        let mut errors = Vec::new();
        while *seen < self.put {
            match timeout(s(300), reader.next()).await.expect("it goes on") {
                Ok(pulled) => {
                    for record in pulled.page.records() {
                        assert_eq!(std::str::from_utf8(&record.data()).unwrap(), seen.to_string());
                        *seen += 1;
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }
}

#[tokio::test(start_paused = true)]
async fn records_come_once_over_renewals_and_sudden_ends_and_one_subscription_at_a_time() {
    let mut scene = Scene::new();
    let mut reader = scene.open(StartAt::TrimHorizon);
    let mut seen = 0;
    for round in 0..60 {
        scene.put(7);
        let errors = scene.read(&mut *reader, &mut seen).await;
        assert!(errors.is_empty(), "{errors:?}");
        if round % 20 == 13 {
            scene.seats.end_all();
        }
        sleep(s(20)).await;
    }
    let (subscribed, refused) = scene.seats.counts();
    assert!(
        (6..=10).contains(&subscribed),
        "20 minutes, renewed before each five, and three ends: {subscribed}"
    );
    assert_eq!((refused, scene.seats.open_max(), scene.seats.open()), (0, 1, 1));
    drop(reader);
    assert_eq!(scene.seats.open(), 0, "dropping the reader closes it");
    assert_eq!(*scene.reads.ways.lock().unwrap(), [Retrieval::FanOut]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_taken_over_is_not_taken_back_before_the_lease_is_renewed() {
    let mut scene = Scene::new();
    scene.put(3);
    let mut reader = scene.open(StartAt::TrimHorizon);
    let mut seen = 0;
    scene.read(&mut *reader, &mut seen).await;
    scene.seats.take_over(&shard(0));
    let error = reader.next().await.unwrap_err();
    assert!(matches!(error, FetchError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("--consumer-name"), "{error}");
    assert_eq!(scene.seats.open(), 0);
    // The table does not answer: nobody knows whose the shard is.
    let reads = Arc::clone(&scene.reads);
    let held = reads.renewals.try_acquire().unwrap();
    scene.put(2);
    assert!(timeout(s(120), reader.next()).await.is_err());
    assert_eq!((*scene.reads.looked.lock().unwrap(), scene.seats.counts().0), (1, 1));
    drop(held);
    assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
    assert_eq!((scene.seats.counts(), scene.seats.open_max()), ((2, 0), 1));
}

/// The one before has subscribed a moment ago and is gone.
#[tokio::test(start_paused = true)]
async fn the_five_seconds_of_a_former_owner_are_waited_out() {
    let mut scene = Scene::new();
    scene.put(1);
    let mut former = scene.open(StartAt::TrimHorizon);
    scene.read(&mut *former, &mut 0).await;
    drop(former);
    let (mut reader, mut seen, began) = (scene.open(StartAt::TrimHorizon), 0, Instant::now());
    let errors = scene.read(&mut *reader, &mut seen).await;
    assert!(matches!(errors[..], [FetchError::InUse(_)]), "{errors:?}");
    assert!((s(5)..s(7)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!((scene.seats.counts(), scene.seats.open_max()), ((2, 1), 1));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_shard_answers_every_five_seconds_and_takes_no_memory() {
    let scene = Scene::new();
    let mut reader = scene.open(StartAt::TrimHorizon);
    let mut last = Instant::now();
    let mut waits = 0;
    for answer in 0..100 {
        let pulled = {
            let next = reader.next();
            tokio::pin!(next);
            match next.as_mut().now_or_never() {
                Some(pulled) => pulled,
                None => {
                    waits += 1;
                    let held = scene.reads.budget.in_use();
                    assert_eq!(held, 0, "bytes that are held over a wait make memory look short");
                    timeout(s(6), next).await.expect("it answers")
                }
            }
        };
        let pulled = pulled.unwrap();
        assert_eq!(pulled.page.len(), 0);
        // Before the first event nobody knows where the tip is.
        assert!(answer == 0 || pulled.behind == Behind::Tip, "{answer}: {:?}", pulled.behind);
        assert!(last.elapsed() <= s(5) + LOOK, "{:?}", last.elapsed());
        last = Instant::now();
    }
    assert!(waits > 50, "{waits}");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_a_word_is_given_up_and_made_again() {
    let mut scene = Scene::new();
    let mut reader = scene.open(StartAt::TrimHorizon);
    while reader.next().await.unwrap().behind != Behind::Tip {}
    scene.seats.set_mute(true);
    let (began, mut tips) = (Instant::now(), Vec::new());
    let error = loop {
        match timeout(s(6), reader.next()).await.expect("it answers") {
            Ok(pulled) => tips.push(pulled.behind),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, FetchError::Unavailable(why) if why.to_string().contains("35 s")), "{error:?}");
    assert_eq!(began.elapsed(), s(35));
    assert_eq!(tips[..1], [Behind::Tip], "an event may be late");
    assert!(tips[1..].iter().all(|behind| *behind == Behind::Unknown) && tips.len() == 6, "{tips:?}");
    scene.seats.set_mute(false);
    scene.put(2);
    assert!(scene.read(&mut *reader, &mut 0).await.is_empty());
    assert_eq!((scene.seats.counts().0, scene.seats.open_max()), (2, 1));
}

/// What has no room stays where it is: neither the silence nor anything else makes a second subscription.
#[tokio::test(start_paused = true)]
async fn without_room_nothing_is_pulled_and_nothing_subscribed() {
    let mut scene = Scene::new();
    let mut reader = scene.open(StartAt::TrimHorizon);
    reader.next().await.unwrap();
    scene.put(2000);
    let taken = scene.reads.budget.acquire(usize::MAX).await;
    let pulled = {
        let next = reader.next();
        tokio::pin!(next);
        assert!(timeout(s(200), next.as_mut()).await.is_err(), "there is no room");
        assert_eq!((scene.seats.counts().0, scene.seats.open_max()), (1, 1));
        drop(taken);
        next.await.unwrap()
    };
    let mut seen = pulled.page.len();
    assert_eq!(seen, 1000);
    assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
    assert_eq!((seen, scene.seats.counts().0, scene.seats.open_max()), (2000, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_children_in_an_event_end_the_shard() {
    let mut scene = Scene::new();
    scene.put(5);
    let mut reader = scene.open(StartAt::TrimHorizon);
    let mut seen = 0;
    scene.read(&mut *reader, &mut seen).await;
    let children = scene.stream.split(&shard(0));
    let pulled = reader.next().await.unwrap();
    let told: Vec<_> = pulled.end.unwrap().into_iter().map(|child| child.id).collect();
    assert_eq!(told, children);
    assert_eq!(scene.seats.open(), 0, "nothing is left to hear of it");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_the_stream_has_forgotten_is_not_found_again_and_again() {
    let mut scene = Scene::new();
    scene.put(1);
    let mut reader = scene.open(StartAt::TrimHorizon);
    scene.read(&mut *reader, &mut 0).await;
    scene.stream.forget(&shard(0));
    for _ in 0..3 {
        assert!(matches!(reader.next().await, Err(FetchError::NotFound)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_at_the_start_is_told_once() {
    for (trimmed, more, expected) in [
        (false, 1, StartRecord::There),
        (true, 1, StartRecord::Gone(Some(SequenceNumber::from(3)))),
        (true, 0, StartRecord::Gone(None)),
    ] {
        let mut scene = Scene::new();
        scene.put(1 + more);
        let first = scene.stream.records()[0].1.clone();
        if trimmed {
            scene.stream.trim(&shard(0), &first);
        }
        let mut reader = scene.open(StartAt::At(first));
        let told = loop {
            if let Some(told) = reader.next().await.unwrap().start {
                break told;
            }
        };
        assert_eq!(told, expected);
        scene.seats.end_all();
        for _ in 0..5 {
            assert_eq!(reader.next().await.unwrap().start, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_stream_cost_nothing_but_time() {
    for seed in 0..20 {
        let mut scene = Scene::new();
        let faults = Faults { throttled: 0.1, unavailable: 0.1, expired: 0.1, empty: 0.2, delay_max: s(2) };
        scene.stream.set_faults(seed, faults);
        let (mut reader, mut seen) = (scene.open(StartAt::TrimHorizon), 0);
        for _ in 0..30 {
            scene.put(5);
            scene.read(&mut *reader, &mut seen).await;
            advance(s(7)).await;
        }
        assert_eq!(scene.seats.open_max(), 1, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn auto_polls_while_there_can_be_no_consumer_and_goes_back() {
    use Retrieval::{FanOut as Subscribed, Polling as Polled};
    let mut scene = Scene::auto();
    scene.seats.set_no_consumer(Some("no place is left"));
    let (mut reader, mut seen) = (scene.open(StartAt::TrimHorizon), 0);
    let ways = |scene: &Scene| scene.reads.ways.lock().unwrap().clone();
    for _ in 0..30 {
        scene.put(3);
        assert!(scene.read(&mut *reader, &mut seen).await.is_empty(), "no reason to worry anybody");
        advance(s(6)).await;
    }
    assert_eq!((ways(&scene), scene.seats.counts().0), (vec![Subscribed, Polled], 0));
    scene.seats.set_no_consumer(None);
    for _ in 0..30 {
        scene.put(3);
        assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
        advance(s(6)).await;
    }
    assert_eq!(ways(&scene), [Subscribed, Polled, Subscribed]);
    assert_eq!((scene.seats.counts().0, scene.seats.open()), (1, 1));
    // Somebody deregisters the consumer, and no place is left.
    scene.seats.set_no_consumer(Some("gone"));
    scene.seats.end_all();
    for _ in 0..5 {
        scene.put(3);
        assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
        advance(s(6)).await;
    }
    assert_eq!((ways(&scene).last(), scene.seats.open()), (Some(&Polled), 0));
}

/// As behind a proxy that holds back what is pushed.
#[tokio::test(start_paused = true)]
async fn auto_polls_a_shard_whose_subscriptions_bring_nothing() {
    let mut scene = Scene::auto();
    scene.seats.set_mute(true);
    let (mut reader, mut seen, began) = (scene.open(StartAt::TrimHorizon), 0, Instant::now());
    scene.put(3);
    assert_eq!(scene.read(&mut *reader, &mut seen).await.len(), 1, "35 s of silence, and once more");
    assert!((s(60)..s(90)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(scene.reads.ways.lock().unwrap().last(), Some(&Retrieval::Polling));
    assert_eq!(scene.seats.open(), 0);
}

/// Where the shard is empty at LATEST, another start at LATEST would pass over what came meanwhile.
#[tokio::test(start_paused = true)]
async fn auto_stays_with_polling_until_it_knows_where_it_is() {
    let mut scene = Scene::auto();
    scene.seats.set_no_consumer(Some("no place is left"));
    let (mut reader, mut seen) = (scene.open(StartAt::Latest), 0);
    reader.next().await.unwrap();
    scene.seats.set_no_consumer(None);
    let began = Instant::now();
    while began.elapsed() < s(200) {
        assert_eq!(reader.next().await.unwrap().page.len(), 0);
    }
    assert_eq!(scene.seats.counts().0, 0);
    scene.put(4);
    assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
    advance(s(61)).await;
    scene.put(4);
    assert!(scene.read(&mut *reader, &mut seen).await.is_empty());
    assert_eq!(scene.seats.counts().0, 1);
}
