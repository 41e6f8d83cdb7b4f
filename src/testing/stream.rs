//! What every stream must do for those who list and read it: one list of checks, for the twin in memory and for every
//! adapter.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed check")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::wall_clock_us;
use crate::fetch::{FetchError, Page, Polled, Polling, RecordSource, StartAt};
use crate::shard::{HashKeyRange, SequenceNumber, Shard, ShardId, ShardLister};

/// A stream of one shard at first, as the checks see it from outside.
#[async_trait]
pub trait StreamScene: Send + Sync {
    /// Reads it, a page a call.
    fn source(&self) -> Arc<dyn Polled>;
    /// Reads it shard by shard: by polling, unless it is said otherwise. Another one each time, which no other reader can
    /// drive away.
    fn records(&self) -> Arc<dyn RecordSource> {
        Arc::new(Polling::new(self.source(), Duration::from_secs(1)))
    }
    /// Lists it.
    fn lister(&self) -> Arc<dyn ShardLister>;
    /// Puts a record with the number as its data into the only open shard, or into any.
    fn put(&self, number: usize) -> SequenceNumber;
    /// Puts a record of so many bytes into the only open shard.
    fn put_large(&self, bytes: usize);
    /// Splits an open shard in the middle: its children, the lower first.
    fn split(&self, shard: &ShardId) -> [ShardId; 2];
    /// Merges two open shards that lie side by side: their child.
    fn merge(&self, lower: &ShardId, upper: &ShardId) -> ShardId;
    /// Drops every record put so far, as retention does.
    async fn trim(&self);
    /// From now on every page before the tip is empty, or none is.
    fn only_empty_pages(&self, on: bool);
    /// Calls are refused for rate, or are not.
    fn throttle(&self, on: bool);
    /// When this returns, each iterator handed out before has expired.
    async fn expire_iterators(&self);
}

/// Runs the checks, each on a stream of its own.
///
/// # Panics
/// When one of them fails.
pub async fn stream_conforms<S: StreamScene>(new: impl AsyncFn() -> S) {
    eprintln!("conformance: every_start_is_where_it_should_be");
    Box::pin(every_start_is_where_it_should_be(&new().await)).await;
    eprintln!("conformance: every_record_comes_once_and_in_order");
    Box::pin(every_record_comes_once_and_in_order(&new().await)).await;
    eprintln!("conformance: an_iterator_may_be_used_again");
    Box::pin(an_iterator_may_be_used_again(&new().await)).await;
    eprintln!("conformance: the_tip_is_told_and_only_the_tip");
    Box::pin(the_tip_is_told_and_only_the_tip(&new().await)).await;
    eprintln!("conformance: an_empty_page_before_the_tip_says_so");
    Box::pin(an_empty_page_before_the_tip_says_so(&new().await)).await;
    eprintln!("conformance: throttling_costs_no_iterator");
    Box::pin(throttling_costs_no_iterator(&new().await)).await;
    eprintln!("conformance: a_split_parent_ends_with_its_children");
    Box::pin(a_split_parent_ends_with_its_children(&new().await)).await;
    eprintln!("conformance: a_merged_child_has_two_parents");
    Box::pin(a_merged_child_has_two_parents(&new().await)).await;
    eprintln!("conformance: what_retention_took_is_passed_over");
    Box::pin(what_retention_took_is_passed_over(&new().await)).await;
    eprintln!("conformance: a_number_of_another_stream_is_refused");
    Box::pin(a_number_of_another_stream_is_refused(&new().await)).await;
    eprintln!("conformance: a_shard_that_is_not_there_is_not_found");
    Box::pin(a_shard_that_is_not_there_is_not_found(&new().await)).await;
    eprintln!("conformance: a_listing_covers_all_hash_keys");
    Box::pin(a_listing_covers_all_hash_keys(&new().await)).await;
}

async fn shards(stream: &dyn StreamScene) -> Vec<Shard> {
    let mut shards = stream.lister().list().await.unwrap();
    shards.sort_by(|a, b| a.id.cmp(&b.id));
    shards
}

async fn only_shard(stream: &dyn StreamScene) -> ShardId {
    let shards = shards(stream).await;
    assert_eq!(shards.len(), 1);
    shards[0].id.clone()
}

fn numbers(page: &Page) -> Vec<usize> {
    page.records().map(|record| std::str::from_utf8(&record.data()).unwrap().parse().unwrap()).collect()
}

async fn page(stream: &dyn StreamScene, shard: &ShardId, start: StartAt) -> Page {
    let source = stream.source();
    let iterator = source.iterator(shard, &start).await.unwrap();
    source.fetch(shard, &iterator, 1000).await.unwrap()
}

/// Everything from `start` to the tip or the end, at most `records_max` records a page.
async fn read_on(
    stream: &dyn StreamScene,
    shard: &ShardId,
    start: StartAt,
    records_max: usize,
) -> (Vec<usize>, Page) {
    let source = stream.source();
    let mut iterator = source.iterator(shard, &start).await.unwrap();
    let mut read = Vec::new();
    loop {
        let page = source.fetch(shard, &iterator, records_max).await.unwrap();
        assert!(page.len() <= records_max);
        assert!(page.bytes() <= source.page_bytes_max(), "{} of {}", page.bytes(), source.page_bytes_max());
        read.extend(numbers(&page));
        match &page.next_iterator {
            Some(next) if page.millis_behind_latest != Some(0) => iterator.clone_from(next),
            _ => return (read, page),
        }
    }
}

async fn every_start_is_where_it_should_be(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let first = stream.put(0);
    // Arrival times are whole milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = stream.put(1);
    stream.put(2);
    let all = page(stream, &shard, StartAt::TrimHorizon).await;
    assert_eq!(numbers(&all), [0, 1, 2]);
    let second_us = all.records().nth(1).unwrap().arrival_us;
    assert_eq!(numbers(&page(stream, &shard, StartAt::At(first.clone())).await), [0, 1, 2]);
    assert_eq!(numbers(&page(stream, &shard, StartAt::After(first)).await), [1, 2]);
    assert_eq!(numbers(&page(stream, &shard, StartAt::At(second)).await), [1, 2]);
    assert_eq!(
        numbers(&page(stream, &shard, StartAt::Timestamp(second_us)).await),
        [1, 2],
        "the time itself"
    );
    let source = stream.source();
    let latest = source.iterator(&shard, &StartAt::Latest).await.unwrap();
    let tip = source.fetch(&shard, &latest, 1000).await.unwrap();
    assert_eq!(numbers(&tip), [0; 0]);
    stream.put(3);
    let next = source.fetch(&shard, tip.next_iterator.as_deref().unwrap(), 1000).await.unwrap();
    assert_eq!(numbers(&next), [3]);
}

async fn every_record_comes_once_and_in_order(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let put: Vec<SequenceNumber> = (0..50).map(|number| stream.put(number)).collect();
    assert!(put.is_sorted_by(|a, b| a < b));
    for records_max in [1, 7, 50, 1000] {
        let (read, _) = read_on(stream, &shard, StartAt::TrimHorizon, records_max).await;
        assert_eq!(read, Vec::from_iter(0..50), "{records_max} a page");
    }
    let whole = page(stream, &shard, StartAt::TrimHorizon).await;
    let told: Vec<_> =
        whole.records().map(|record| SequenceNumber::parse(record.sequence_number).unwrap()).collect();
    assert_eq!(told, put);
    assert!(whole.records().is_sorted_by_key(|record| record.arrival_us));
    assert!(whole.records().all(|record| record.partition_key() == "key"));
    let lately = whole.records().next_back().unwrap().arrival_us - wall_clock_us();
    assert!(lately.abs() < 600_000_000, "microseconds since the epoch: {lately}");
}

async fn an_iterator_may_be_used_again(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    (0..4).for_each(|number| drop(stream.put(number)));
    let source = stream.source();
    let iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    for _ in 0..3 {
        assert_eq!(numbers(&source.fetch(&shard, &iterator, 2).await.unwrap()), [0, 1]);
    }
}

async fn the_tip_is_told_and_only_the_tip(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let empty = page(stream, &shard, StartAt::TrimHorizon).await;
    assert_eq!((empty.len(), empty.millis_behind_latest), (0, Some(0)));
    assert!(empty.next_iterator.is_some(), "an open shard goes on");
    (0..4).for_each(|number| drop(stream.put(number)));
    let source = stream.source();
    let iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    let part = source.fetch(&shard, &iterator, 3).await.unwrap();
    assert!(part.millis_behind_latest.is_some_and(|behind| behind > 0), "{:?}", part.millis_behind_latest);
    let rest = source.fetch(&shard, part.next_iterator.as_deref().unwrap(), 3).await.unwrap();
    assert_eq!((numbers(&rest), rest.millis_behind_latest), (vec![3], Some(0)));
}

async fn an_empty_page_before_the_tip_says_so(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    stream.put(0);
    stream.only_empty_pages(true);
    let source = stream.source();
    let mut iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    for _ in 0..3 {
        let empty = source.fetch(&shard, &iterator, 10).await.unwrap();
        assert_eq!(empty.len(), 0);
        assert!(empty.millis_behind_latest.is_some_and(|behind| behind > 0), "it is not the tip");
        iterator = empty.next_iterator.unwrap();
    }
    stream.only_empty_pages(false);
    assert_eq!(numbers(&source.fetch(&shard, &iterator, 10).await.unwrap()), [0], "nothing was passed over");
}

async fn throttling_costs_no_iterator(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    stream.put(0);
    let source = stream.source();
    let iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    stream.throttle(true);
    assert!(matches!(source.fetch(&shard, &iterator, 10).await, Err(FetchError::Throttled)));
    stream.throttle(false);
    assert_eq!(numbers(&source.fetch(&shard, &iterator, 10).await.unwrap()), [0]);
}

/// An iterator whose time is over is told from a bad one. Apart from the others: not every server lets a test wait for that.
pub async fn an_expired_iterator_says_so(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let first = stream.put(0);
    let source = stream.source();
    let iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    stream.expire_iterators().await;
    assert!(matches!(source.fetch(&shard, &iterator, 10).await, Err(FetchError::ExpiredIterator)));
    assert_eq!(numbers(&page(stream, &shard, StartAt::At(first)).await), [0], "another one serves");
}

async fn a_split_parent_ends_with_its_children(stream: &dyn StreamScene) {
    let parent = only_shard(stream).await;
    (0..3).for_each(|number| drop(stream.put(number)));
    let last = stream.put(3);
    let children = stream.split(&parent);
    for (start, expected) in [
        (StartAt::TrimHorizon, vec![0, 1, 2, 3]),
        (StartAt::At(last.clone()), vec![3]),
        (StartAt::After(last), vec![]),
        (StartAt::Latest, vec![]),
    ] {
        let (read, end) = read_on(stream, &parent, start.clone(), 100).await;
        // Some streams tell the end on a page of its own.
        let end = match &end.next_iterator {
            Some(next) => stream.source().fetch(&parent, next, 100).await.unwrap(),
            None => end,
        };
        assert_eq!(read, expected, "{start:?}");
        assert!(end.next_iterator.is_none(), "{start:?}");
        let told: BTreeSet<_> = end.children.iter().map(|child| child.id.clone()).collect();
        assert_eq!(told, BTreeSet::from(children.clone()), "{start:?}");
        assert!(end.children.iter().all(|child| child.parents == [parent.clone()]));
    }
    let listed = shards(stream).await;
    for child in children {
        let child = listed.iter().find(|shard| shard.id == child).unwrap();
        assert_eq!((child.parents.as_slice(), child.closed), ([parent.clone()].as_slice(), false));
        let before = listed.iter().find(|shard| shard.id == parent).unwrap();
        assert!(before.closed && before.hash_range.unwrap().overlaps(&child.hash_range.unwrap()));
        assert!(before.starting_sequence_number < child.starting_sequence_number);
    }
    // Where the children begin, nothing of the parent is read again.
    let put = stream.put(4);
    let mut read = Vec::new();
    for shard in listed.iter().filter(|shard| !shard.closed) {
        let (found, _) = read_on(stream, &shard.id, StartAt::TrimHorizon, 100).await;
        assert!(found.is_empty() || put > shard.starting_sequence_number);
        read.extend(found);
    }
    assert_eq!(read, [4]);
}

async fn a_merged_child_has_two_parents(stream: &dyn StreamScene) {
    let [lower, upper] = stream.split(&only_shard(stream).await);
    let child = stream.merge(&lower, &upper);
    for parent in [&lower, &upper] {
        let end = page(stream, parent, StartAt::TrimHorizon).await;
        assert!(end.next_iterator.is_none());
        let told: Vec<_> = end.children.iter().map(|child| &child.id).collect();
        assert_eq!(told, [&child]);
        let parents: BTreeSet<_> = end.children[0].parents.iter().collect();
        assert_eq!(parents, BTreeSet::from([&lower, &upper]));
    }
    let listed = shards(stream).await;
    let merged = listed.iter().find(|shard| shard.id == child).unwrap();
    assert_eq!(merged.parents.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&lower, &upper]));
    assert_eq!(merged.hash_range, Some(HashKeyRange { start: 0, end: u128::MAX }));
}

async fn what_retention_took_is_passed_over(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let gone = stream.put(0);
    stream.put(1);
    stream.trim().await;
    let kept = stream.put(2);
    for start in [StartAt::TrimHorizon, StartAt::At(gone.clone()), StartAt::After(gone), StartAt::At(kept)] {
        let (read, _) = read_on(stream, &shard, start.clone(), 100).await;
        assert_eq!(read, [2], "{start:?}");
    }
}

async fn a_number_of_another_stream_is_refused(stream: &dyn StreamScene) {
    let shard = only_shard(stream).await;
    let own = stream.put(0);
    // Far below everything that this stream has given out.
    let foreign = SequenceNumber::parse("0").unwrap();
    for start in [StartAt::At(foreign.clone()), StartAt::After(foreign.clone())] {
        let refused = stream.source().iterator(&shard, &start).await;
        assert!(matches!(refused, Err(FetchError::Foreign(_))), "{start:?}: {refused:?}");
    }
    assert!(stream.lister().accepts(&shard, &own).await.unwrap());
    assert!(!stream.lister().accepts(&shard, &foreign).await.unwrap());
}

async fn a_shard_that_is_not_there_is_not_found(stream: &dyn StreamScene) {
    let absent = ShardId::new("shardId-000000004711");
    let answer = stream.source().iterator(&absent, &StartAt::TrimHorizon).await;
    assert!(matches!(answer, Err(FetchError::NotFound)), "{answer:?}");
}

async fn a_listing_covers_all_hash_keys(stream: &dyn StreamScene) {
    let [lower, upper] = stream.split(&only_shard(stream).await);
    stream.split(&upper);
    let again = stream.split(&lower);
    stream.merge(&again[0], &again[1]);
    let listed = shards(stream).await;
    let ids: BTreeSet<_> = listed.iter().map(|shard| &shard.id).collect();
    assert_eq!(ids.len(), listed.len(), "each shard once");
    assert_eq!(listed.len(), 8);
    let mut open: Vec<_> =
        listed.iter().filter(|shard| !shard.closed).filter_map(|shard| shard.hash_range).collect();
    open.sort_by_key(|range| range.start);
    assert_eq!((open[0].start, open[open.len() - 1].end), (0, u128::MAX));
    assert!(open.windows(2).all(|pair| pair[0].end + 1 == pair[1].start), "{open:?}");
    assert!(listed.iter().all(|shard| shard.parents.iter().all(|parent| ids.contains(parent))));
}
