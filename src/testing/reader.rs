//! What every reader of a shard must do, however it reads: one list of checks, for polling and for subscriptions, over the
//! twin in memory and over every adapter.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed check")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::StreamScene;
use crate::fetch::{
    Behind, ByteBudget, FetchError, Pulled, ReadsFor, Retrieval, Room, ShardReader, StartAt, StartRecord,
};
use crate::shard::{Lineage, SequenceNumber, ShardId};
use crate::telemetry::status::{Delivery, ProcessFacts, ShardHandle, ShardState, Side, Status};
use crate::telemetry::waiting::Waiting;

/// No reader is silent for so long: it answers every five seconds, and some servers are slow.
const SILENT: Duration = Duration::from_secs(60);

/// Runs the checks, each on a stream of its own, side by side: they wait most of the time.
///
/// # Panics
/// When one of them fails.
pub async fn reader_conforms<S: StreamScene>(new: impl AsyncFn() -> S) {
    tokio::join!(
        Box::pin(async { a_reader_starts_where_it_should(&new().await).await }),
        Box::pin(async { a_reader_brings_every_record_once(&new().await).await }),
        Box::pin(async { a_reader_says_what_became_of_its_start(&new().await).await }),
        Box::pin(async { a_reader_ends_with_the_children_of_a_split(&new().await).await }),
        Box::pin(async { a_reader_ends_with_the_child_of_a_merge(&new().await).await }),
        Box::pin(async { a_reader_tells_its_errors_apart(&new().await).await }),
        Box::pin(async { a_quiet_reader_answers(&new().await).await }),
        Box::pin(async { a_large_record_is_a_record(&new().await).await }),
    );
}

/// Whoever a shard is read for: there is memory, and the lease is ours.
struct Reads {
    budget: ByteBudget,
    status: Arc<ShardHandle>,
}

#[async_trait]
impl ReadsFor for Reads {
    async fn room(&self, bytes: usize) -> Room {
        Room { permit: self.budget.acquire(bytes).await, place: None }
    }

    fn calling(&self, call: &'static str) -> Waiting {
        Waiting::begin(&self.status, Side::Reading, "unavailable", call, 0)
    }

    async fn still_ours(&self) {}

    fn reads_by(&self, _retrieval: Retrieval) {}
}

fn open(stream: &dyn StreamScene, shard: &ShardId, start: StartAt) -> Box<dyn ShardReader> {
    let facts = ProcessFacts {
        worker: "conformance".into(),
        application: "conformance".into(),
        delivery: Delivery::AtLeastOnce,
        warnings: Vec::new(),
    };
    let status = Status::new(facts, SILENT).shard("stream", shard.as_str(), ShardState::Reading, 0);
    let reads = Reads { budget: ByteBudget::new(64 << 20), status: Arc::new(status) };
    stream.records().open(shard, start, Arc::new(reads), 7)
}

/// The next answer that is no trouble that passes.
async fn next(reader: &mut dyn ShardReader) -> Result<Pulled, FetchError> {
    loop {
        match timeout(SILENT, reader.next()).await.expect("a reader answers") {
            Err(FetchError::Throttled | FetchError::InUse(_) | FetchError::Unavailable(_)) => {}
            answer => return answer,
        }
    }
}

fn numbers(pulled: &Pulled) -> Vec<usize> {
    pulled
        .page
        .records()
        .map(|record| std::str::from_utf8(&record.data()).unwrap().parse().unwrap())
        .collect()
}

/// Everything to the tip or the end, and what the last answer said of both.
async fn read_on(reader: &mut dyn ShardReader) -> (Vec<usize>, Pulled, Option<StartRecord>) {
    let (mut read, mut start) = (Vec::new(), None);
    loop {
        let pulled = next(reader).await.unwrap();
        read.extend(numbers(&pulled));
        if let Some(told) = &pulled.start {
            assert!(start.replace(told.clone()).is_none(), "it is told once");
        }
        if pulled.behind == Behind::Tip || pulled.end.is_some() {
            return (read, pulled, start);
        }
    }
}

async fn only_shard(stream: &dyn StreamScene) -> ShardId {
    let shards = stream.lister().list().await.unwrap();
    assert_eq!(shards.len(), 1);
    shards[0].id.clone()
}

async fn a_reader_starts_where_it_should(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let mut latest = open(stream, &shard, StartAt::Latest);
    assert_eq!(read_on(&mut *latest).await.0, [0; 0]);
    let first = stream.put(0);
    // Arrival times are whole milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = stream.put(1);
    stream.put(2);
    let mut oldest = open(stream, &shard, StartAt::TrimHorizon);
    let all = next(&mut *oldest).await.unwrap();
    let second_us = all.page.records().nth(1).unwrap().arrival_us;
    assert_eq!(numbers(&all), [0, 1, 2]);
    for (start, expected) in [
        (StartAt::At(first.clone()), &[0, 1, 2][..]),
        (StartAt::After(first), &[1, 2]),
        (StartAt::At(second), &[1, 2]),
        (StartAt::Timestamp(second_us), &[1, 2]),
    ] {
        assert_eq!(read_on(&mut *open(stream, &shard, start.clone())).await.0, expected, "{start:?}");
    }
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(numbers(&next(&mut *latest).await.unwrap()));
    }
    assert_eq!(read, [0, 1, 2], "what came after it had been at the tip");
}

async fn a_reader_brings_every_record_once(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let mut reader = open(stream, &shard, StartAt::TrimHorizon);
    let mut put = 0;
    for records in [50, 0, 1, 20, 3] {
        let told: Vec<SequenceNumber> = (put..put + records).map(|number| stream.put(number)).collect();
        assert!(told.is_sorted());
        let mut read = Vec::new();
        while read.len() < records {
            read.extend(numbers(&next(&mut *reader).await.unwrap()));
        }
        assert_eq!(read, Vec::from_iter(put..put + records));
        put += records;
    }
}

/// Shards neither end nor follow each other, and sequence numbers are offsets.
fn is_flat(stream: &dyn StreamScene) -> bool {
    stream.lister().lineage() == Lineage::Flat
}

async fn a_reader_says_what_became_of_its_start(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let gone = stream.put(0);
    let there = read_on(&mut *open(stream, &shard, StartAt::At(gone.clone()))).await;
    assert_eq!((there.0, there.2), (vec![0], Some(StartRecord::There)));
    if is_flat(stream) {
        return a_flat_reader_says_what_became_of_its_start(stream, &shard, gone).await;
    }
    stream.trim().await;
    let empty = read_on(&mut *open(stream, &shard, StartAt::At(gone.clone()))).await;
    assert_eq!((empty.0, empty.2), (vec![], Some(StartRecord::Gone(None))));
    let kept = stream.put(1);
    let other = read_on(&mut *open(stream, &shard, StartAt::At(gone.clone()))).await;
    assert_eq!((other.0, other.2), (vec![1], Some(StartRecord::Gone(Some(kept)))));
    let after = read_on(&mut *open(stream, &shard, StartAt::After(gone))).await;
    assert_eq!((after.0, after.2), (vec![1], None), "there is nothing to tell");
}

/// Offsets show whether a record that nobody has read is gone: one that was read may be.
async fn a_flat_reader_says_what_became_of_its_start(
    stream: &dyn StreamScene,
    shard: &ShardId,
    gone: SequenceNumber,
) {
    stream.trim().await;
    let read = read_on(&mut *open(stream, shard, StartAt::At(gone.clone()))).await;
    assert_eq!(
        (read.0, read.2),
        (vec![], Some(StartRecord::LeftOut)),
        "it was read, and nothing came after it"
    );
    stream.put(1);
    stream.trim().await;
    for start in [StartAt::At(gone.clone()), StartAt::After(gone.clone())] {
        let (read, _, told) = read_on(&mut *open(stream, shard, start.clone())).await;
        let Some(StartRecord::Gone(Some(first))) = told else { panic!("{start:?}: {told:?}") };
        assert!(read.is_empty() && first > gone, "{start:?}");
    }
    let kept = stream.put(2);
    let (read, _, told) = read_on(&mut *open(stream, shard, StartAt::At(gone))).await;
    assert_eq!((read, told), (vec![2], Some(StartRecord::Gone(Some(kept)))));
}

/// All records of a shard that ends, and its children.
async fn ended(stream: &dyn StreamScene, shard: &ShardId, start: StartAt) -> (Vec<usize>, BTreeSet<ShardId>) {
    let mut reader = open(stream, shard, start);
    let mut read = Vec::new();
    loop {
        let pulled = next(&mut *reader).await.unwrap();
        read.extend(numbers(&pulled));
        if let Some(children) = pulled.end {
            assert!(children.iter().all(|child| child.parents.contains(shard)));
            return (read, children.into_iter().map(|child| child.id).collect());
        }
    }
}

async fn a_reader_ends_with_the_children_of_a_split(stream: &dyn StreamScene) {
    if is_flat(stream) {
        return;
    }
    let parent = only_shard(stream).await;
    let mut live = open(stream, &parent, StartAt::TrimHorizon);
    (0..3).for_each(|number| drop(stream.put(number)));
    assert_eq!(read_on(&mut *live).await.0, [0, 1, 2]);
    let last = stream.put(3);
    let children = BTreeSet::from(stream.split(&parent));
    for (start, expected) in
        [(StartAt::TrimHorizon, vec![0, 1, 2, 3]), (StartAt::After(last), vec![]), (StartAt::Latest, vec![])]
    {
        let end = ended(stream, &parent, start.clone()).await;
        assert_eq!(end, (expected, children.clone()), "{start:?}");
    }
    // Who was reading meanwhile hears of it too.
    let mut read = Vec::new();
    let told = loop {
        let pulled = next(&mut *live).await.unwrap();
        read.extend(numbers(&pulled));
        if let Some(children) = pulled.end {
            break children;
        }
    };
    assert_eq!(read, [3]);
    assert_eq!(told.into_iter().map(|child| child.id).collect::<BTreeSet<_>>(), children);
}

async fn a_reader_ends_with_the_child_of_a_merge(stream: &dyn StreamScene) {
    if is_flat(stream) {
        return;
    }
    let [lower, upper] = stream.split(&only_shard(stream).await);
    let child = stream.merge(&lower, &upper);
    for parent in [&lower, &upper] {
        let end = ended(stream, parent, StartAt::TrimHorizon).await;
        assert_eq!(end, (vec![], BTreeSet::from([child.clone()])));
    }
}

async fn a_reader_tells_its_errors_apart(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    stream.put(0);
    let absent = ShardId::new("shardId-000000004711");
    let mut reader = open(stream, &absent, StartAt::TrimHorizon);
    for _ in 0..2 {
        let answer = next(&mut *reader).await;
        assert!(matches!(answer, Err(FetchError::NotFound)), "{answer:?}");
    }
    if is_flat(stream) {
        // Above everything that this stream has given out: it is not moved to the end.
        let above = StartAt::At(SequenceNumber::from(4711));
        let answer = next(&mut *open(stream, &shard, above)).await;
        assert!(matches!(answer, Err(FetchError::Truncated(_))), "{answer:?}");
        return;
    }
    // Far below everything that this stream has given out.
    let foreign = StartAt::At(SequenceNumber::parse("0").unwrap());
    let answer = next(&mut *open(stream, &shard, foreign)).await;
    assert!(matches!(answer, Err(FetchError::Foreign(_))), "{answer:?}");
}

async fn a_quiet_reader_answers(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let mut reader = open(stream, &shard, StartAt::TrimHorizon);
    for _ in 0..3 {
        let pulled = next(&mut *reader).await.unwrap();
        assert_eq!((pulled.page.len(), pulled.end), (0, None));
    }
    stream.put(0);
    let mut read = Vec::new();
    while read.is_empty() {
        read = numbers(&next(&mut *reader).await.unwrap());
    }
    assert_eq!(read, [0]);
}

/// Of 10 MiB, as streams take them where that is switched on.
async fn a_large_record_is_a_record(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    stream.put(0);
    stream.put_large(10 << 20);
    stream.put(1);
    let mut reader = open(stream, &shard, StartAt::TrimHorizon);
    let mut sizes = Vec::new();
    while sizes.len() < 3 {
        let pulled = next(&mut *reader).await.unwrap();
        sizes.extend(pulled.page.records().map(|record| record.data().len()));
    }
    assert_eq!(sizes, [1, 10 << 20, 1]);
}
