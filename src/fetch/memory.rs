//! A stream in memory: the twin of Kinesis for tests and simulations, in virtual time.
//!
//! It behaves where behaviour matters: sequence numbers grow over all shards, iterators expire, a closed shard
//! ends with a page that names its children, `MillisBehindLatest` follows the arrival times. Faults come from
//! a seed, so that a run can be repeated.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::page::{Page, PageBuilder};
use super::polling::Polled;
use super::source::{FetchError, StartAt};
use crate::shard::{ChildShard, HashKeyRange, ListError, SequenceNumber, Shard, ShardId, ShardLister};

/// As in Kinesis.
const ITERATOR_LIFETIME: Duration = Duration::from_secs(300);

/// What goes wrong, and how often. Probabilities from 0 to 1, drawn for each call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Refused for rate.
    pub throttled: f64,
    /// No answer.
    pub unavailable: f64,
    /// The iterator is expired before its time.
    pub expired: f64,
    /// A page before the tip has no records, as those of Kinesis may at any time.
    pub empty: f64,
    /// Each call takes a random time up to this.
    pub delay_max: Duration,
}

/// A stream in memory.
pub struct MemoryStream {
    arrival_us: Box<dyn Fn(Instant) -> i64 + Send + Sync>,
    page_records_max: usize,
    state: Mutex<State>,
}

struct State {
    shards: BTreeMap<ShardId, MemoryShard>,
    shards_opened: usize,
    next_sequence: u128,
    /// Bytes of the largest record so far.
    record_bytes_max: usize,
    faults: Faults,
    rng: ChaCha8Rng,
    /// When each iterator was handed out; the iterator names its entry.
    iterators: BTreeMap<u64, Instant>,
    next_iterator: u64,
}

struct MemoryShard {
    info: Shard,
    children: Vec<ChildShard>,
    records: VecDeque<MemoryRecord>,
}

struct MemoryRecord {
    sequence: u128,
    partition_key: String,
    arrival_us: i64,
    data: Vec<u8>,
}

impl MemoryStream {
    /// A stream of `shards` open shards with equal ranges and pages of up to `page_records_max` records.
    /// `arrival_us` gives the arrival time of a record put at a moment of tokio's clock.
    pub fn new(
        shards: usize,
        page_records_max: usize,
        arrival_us: impl Fn(Instant) -> i64 + Send + Sync + 'static,
    ) -> Self {
        assert!(shards > 0 && page_records_max > 0, "a stream has shards, and a page has room");
        let stream = Self {
            arrival_us: Box::new(arrival_us),
            page_records_max,
            state: Mutex::new(State {
                shards: BTreeMap::new(),
                shards_opened: 0,
                record_bytes_max: 0,
                next_sequence: 1,
                faults: Faults::default(),
                rng: ChaCha8Rng::seed_from_u64(0),
                iterators: BTreeMap::new(),
                next_iterator: 0,
            }),
        };
        let width = u128::MAX / shards as u128;
        for n in 0..shards as u128 {
            let end = if n + 1 == shards as u128 { u128::MAX } else { width * (n + 1) - 1 };
            stream.state().open(Vec::new(), HashKeyRange { start: width * n, end });
        }
        stream
    }

    /// From now on calls fail and are slow as `faults` says, drawn from `seed`.
    pub fn set_faults(&self, seed: u64, faults: Faults) {
        let mut state = self.state();
        state.rng = ChaCha8Rng::seed_from_u64(seed);
        state.faults = faults;
    }

    /// Puts a record into the open shard that takes `hash_key`, like `PutRecord` with an explicit hash key.
    /// `None` when no open shard does (all closed).
    pub fn put(
        &self,
        hash_key: u128,
        partition_key: &str,
        data: impl Into<Vec<u8>>,
    ) -> Option<(ShardId, SequenceNumber)> {
        let arrival_us = (self.arrival_us)(Instant::now());
        let data = data.into();
        let mut state = self.state();
        let sequence = state.next_sequence;
        let takes = |s: &&mut MemoryShard| {
            let holds = |range: HashKeyRange| (range.start..=range.end).contains(&hash_key);
            !s.info.closed && s.info.hash_range.is_some_and(holds)
        };
        let shard = state.shards.values_mut().find(takes)?;
        let bytes = partition_key.len() + data.len();
        let partition_key = partition_key.to_owned();
        shard.records.push_back(MemoryRecord { sequence, partition_key, arrival_us, data });
        let id = shard.info.id.clone();
        state.record_bytes_max = state.record_bytes_max.max(bytes);
        state.next_sequence += 1;
        Some((id, sequence.into()))
    }

    /// Leaves out the next sequence numbers, as every stream does now and then.
    pub fn leave_out(&self, numbers: usize) {
        self.state().next_sequence += numbers as u128;
    }

    /// Splits an open shard in the middle of its range; answers the children, lower range first.
    pub fn split(&self, shard: &ShardId) -> [ShardId; 2] {
        let mut state = self.state();
        let range = state.close(shard);
        let middle = range.start + (range.end - range.start) / 2;
        let ranges = [
            HashKeyRange { start: range.start, end: middle },
            HashKeyRange { start: middle + 1, end: range.end },
        ];
        ranges.map(|range| state.open(vec![shard.clone()], range))
    }

    /// Merges two open shards with adjacent ranges; answers the child.
    pub fn merge(&self, lower: &ShardId, upper: &ShardId) -> ShardId {
        let mut state = self.state();
        let (low, high) = (state.close(lower), state.close(upper));
        assert_eq!(low.end.checked_add(1), Some(high.start), "only adjacent shards merge");
        state.open(vec![lower.clone(), upper.clone()], HashKeyRange { start: low.start, end: high.end })
    }

    /// Closes an open shard with one child that takes over its range; answers the child.
    pub fn rotate(&self, shard: &ShardId) -> ShardId {
        let mut state = self.state();
        let range = state.close(shard);
        state.open(vec![shard.clone()], range)
    }

    /// Opens a shard with all hash keys that comes after none. No other is to be open.
    pub fn begin(&self) -> ShardId {
        self.state().open(Vec::new(), HashKeyRange { start: 0, end: u128::MAX })
    }

    /// Closes an open shard without children, so that a run can come to an end.
    pub fn close(&self, shard: &ShardId) {
        self.state().close(shard);
    }

    /// Drops the oldest records of a shard, as retention does: those up to and including `last`.
    pub fn trim(&self, shard: &ShardId, last: &SequenceNumber) {
        let mut state = self.state();
        let shard = state.shard_mut(shard);
        while shard.records.front().is_some_and(|r| SequenceNumber::from(r.sequence) <= *last) {
            shard.records.pop_front();
        }
    }

    /// Forgets a shard, as the stream does with a closed one after retention.
    pub fn forget(&self, shard: &ShardId) {
        self.state().shards.remove(shard);
    }

    /// Makes every iterator handed out so far expire.
    pub fn expire_iterators(&self) {
        self.state().iterators.clear();
    }

    /// Every record that the stream still holds: shard, sequence number, data.
    pub fn records(&self) -> Vec<(ShardId, SequenceNumber, Vec<u8>)> {
        let state = self.state();
        let all = state.shards.values().flat_map(|shard| {
            shard.records.iter().map(|r| (shard.info.id.clone(), r.sequence.into(), r.data.clone()))
        });
        all.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic of another thread has failed the test already")
    }

    /// Takes the time of a call and draws what happens to it.
    async fn call(&self) -> Result<(), Fault> {
        let (delay, fault) = self.state().draw();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        fault.map_or(Ok(()), Err)
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Throttled,
    Unavailable,
    Expired,
}

impl Fault {
    fn of_fetch(self) -> FetchError {
        match self {
            Self::Throttled => FetchError::Throttled,
            Self::Unavailable => FetchError::Unavailable("fault by seed".into()),
            Self::Expired => FetchError::ExpiredIterator,
        }
    }
}

impl State {
    fn draw(&mut self) -> (Duration, Option<Fault>) {
        let Faults { throttled, unavailable, expired, delay_max, .. } = self.faults;
        let delay = delay_max.mul_f64(self.rng.random_range(0.0..=1.0));
        let roll: f64 = self.rng.random();
        let fault = match roll {
            r if r < throttled => Some(Fault::Throttled),
            r if r < throttled + unavailable => Some(Fault::Unavailable),
            r if r < throttled + unavailable + expired => Some(Fault::Expired),
            _ => None,
        };
        (delay, fault)
    }

    fn open(&mut self, parents: Vec<ShardId>, hash_range: HashKeyRange) -> ShardId {
        let hash_range = Some(hash_range);
        let id = ShardId::new(format!("shardId-{:012}", self.shards_opened));
        self.shards_opened += 1;
        for parent in &parents {
            let child = ChildShard { id: id.clone(), parents: parents.clone(), hash_range };
            self.shard_mut(parent).children.push(child);
        }
        let starting_sequence_number = self.next_sequence.into();
        self.next_sequence += 1;
        let info = Shard { id: id.clone(), parents, hash_range, starting_sequence_number, closed: false };
        let shard = MemoryShard { info, children: Vec::new(), records: VecDeque::new() };
        self.shards.insert(id.clone(), shard);
        id
    }

    fn close(&mut self, id: &ShardId) -> HashKeyRange {
        let shard = self.shard_mut(id);
        assert!(!shard.info.closed, "{id} is closed already");
        shard.info.closed = true;
        shard.info.hash_range.expect("a shard is opened with hash keys")
    }

    fn shard_mut(&mut self, id: &ShardId) -> &mut MemoryShard {
        self.shards.get_mut(id).unwrap_or_else(|| panic!("{id} is not a shard of this stream"))
    }

    fn new_iterator(&mut self, from: u128, now: Instant) -> String {
        let number = self.next_iterator;
        self.next_iterator += 1;
        while let Some(oldest) = self.iterators.first_entry() {
            if now - *oldest.get() < ITERATOR_LIFETIME {
                break;
            }
            oldest.remove();
        }
        self.iterators.insert(number, now);
        format!("{number}/{from}")
    }
}

#[async_trait]
impl Polled for MemoryStream {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        match self.call().await {
            Ok(()) | Err(Fault::Expired) => {}
            Err(fault) => return Err(fault.of_fetch()),
        }
        let mut state = self.state();
        let MemoryShard { info, records, .. } = state.shards.get(shard).ok_or(FetchError::NotFound)?;
        let number = |sequence: &SequenceNumber| match sequence.as_str().parse::<u128>() {
            Ok(number) if *sequence >= info.starting_sequence_number => Ok(number),
            _ => {
                Err(FetchError::Foreign(format!("sequence number {sequence} did not come from this stream")))
            }
        };
        let from = match start {
            StartAt::TrimHorizon => 0,
            StartAt::Latest => state.next_sequence,
            StartAt::Timestamp(us) => {
                records.iter().find(|r| r.arrival_us >= *us).map_or(state.next_sequence, |r| r.sequence)
            }
            StartAt::At(sequence) => number(sequence)?,
            StartAt::After(sequence) => number(sequence)? + 1,
        };
        Ok(state.new_iterator(from, Instant::now()))
    }

    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        self.call().await.map_err(Fault::of_fetch)?;
        let now = Instant::now();
        let mut state = self.state();
        let (number, from) = iterator
            .split_once('/')
            .and_then(|(number, from)| Some((number.parse::<u64>().ok()?, from.parse::<u128>().ok()?)))
            .ok_or_else(|| FetchError::Refused("not an iterator of this stream".into()))?;
        if state.iterators.get(&number).is_none_or(|issued| now - *issued >= ITERATOR_LIFETIME) {
            return Err(FetchError::ExpiredIterator);
        }
        let State { rng, faults, .. } = &mut *state;
        let is_empty = faults.empty > 0.0 && rng.random_bool(faults.empty);
        let found = state.shards.get(shard).ok_or(FetchError::NotFound)?;
        let first = found.records.partition_point(|r| r.sequence < from);
        if let (true, Some(next)) = (is_empty, found.records.get(first)) {
            let behind_us = (self.arrival_us)(now) - next.arrival_us;
            let mut page = Page::default();
            page.next_iterator = Some(state.new_iterator(from, now));
            // Never 0, which says that there is nothing.
            page.millis_behind_latest = Some((behind_us / 1000).max(1));
            return Ok(page);
        }
        let mut builder = PageBuilder::default();
        let mut last = None;
        for record in found.records.iter().skip(first).take(self.page_records_max.min(records_max)) {
            let sequence = record.sequence.to_string();
            builder.push(&sequence, &record.partition_key, record.arrival_us, &record.data);
            last = Some(record);
        }
        let mut page = builder.finish();
        let at_tip = first + page.len() == found.records.len();
        let behind_us = match last {
            Some(last) if !at_tip => ((self.arrival_us)(now) - last.arrival_us).max(1000),
            _ => 0,
        };
        page.millis_behind_latest = Some(behind_us.max(0) / 1000);
        page.served_us = Some((self.arrival_us)(now).div_euclid(1_000_000) * 1_000_000);
        if at_tip && found.info.closed {
            page.children = found.children.clone();
        } else {
            let next = match last {
                Some(last) => last.sequence + 1,
                None => from,
            };
            page.next_iterator = Some(state.new_iterator(next, now));
        }
        Ok(page)
    }

    fn page_bytes_max(&self) -> usize {
        // The overhead stands for sequence number, span and what the allocator rounds up.
        self.page_records_max * (self.state().record_bytes_max + 128)
    }
}

#[async_trait]
impl ShardLister for MemoryStream {
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        match self.call().await {
            Ok(()) | Err(Fault::Expired) => {}
            Err(_) => {
                return Err(ListError::Unavailable {
                    stream: "memory".into(),
                    source: "fault by seed".into(),
                });
            }
        }
        Ok(self.state().shards.values().map(|shard| shard.info.clone()).collect())
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        let state = self.state();
        Ok(state.shards.get(shard).is_none_or(|shard| *sequence >= shard.info.starting_sequence_number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Payload;

    const START_US: i64 = 1_768_469_400_000_000;

    fn stream(shards: usize, page_records_max: usize) -> MemoryStream {
        let epoch = Instant::now();
        MemoryStream::new(shards, page_records_max, move |at| {
            START_US + i64::try_from((at - epoch).as_micros()).unwrap()
        })
    }

    fn shard(n: usize) -> ShardId {
        ShardId::new(format!("shardId-{n:012}"))
    }

    fn data(page: &Page) -> Vec<String> {
        let text = |payload| match payload {
            Payload::Plain(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Payload::Base64(_) => panic!("payloads in memory are plain"),
        };
        page.records().map(|r| text(r.payload)).collect()
    }

    async fn read(stream: &MemoryStream, shard: &ShardId, start: StartAt) -> Result<Page, FetchError> {
        let iterator = stream.iterator(shard, &start).await?;
        stream.fetch(shard, &iterator, 10_000).await
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_cut_and_know_how_far_behind_they_are() {
        let stream = stream(1, 2);
        for n in 0..3 {
            stream.put(0, "key", format!("r{n}")).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let first = read(&stream, &shard(0), StartAt::TrimHorizon).await.unwrap();
        assert_eq!((data(&first), first.millis_behind_latest), (vec!["r0".into(), "r1".into()], Some(2000)));
        let record = first.records().nth(1).unwrap();
        assert_eq!((record.partition_key(), record.arrival_us), ("key", START_US + 1_000_000));
        let second = stream.fetch(&shard(0), first.next_iterator.as_deref().unwrap(), 10_000).await.unwrap();
        assert_eq!((data(&second), second.millis_behind_latest), (vec!["r2".into()], Some(0)));
        let third = stream.fetch(&shard(0), second.next_iterator.as_deref().unwrap(), 10_000).await.unwrap();
        assert!(third.is_empty() && third.next_iterator.is_some());
        assert!(stream.page_bytes_max() >= first.bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn reading_starts_where_it_is_told() {
        let stream = stream(1, 10);
        let mut sequences = Vec::new();
        for n in 0..12 {
            sequences.push(stream.put(0, "k", n.to_string()).unwrap().1);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let first = async |start| data(&read(&stream, &shard(0), start).await.unwrap()).first().cloned();
        assert_eq!(first(StartAt::TrimHorizon).await.as_deref(), Some("0"));
        assert_eq!(first(StartAt::At(sequences[9].clone())).await.as_deref(), Some("9"));
        assert_eq!(first(StartAt::After(sequences[9].clone())).await.as_deref(), Some("10"));
        assert_eq!(first(StartAt::Timestamp(START_US + 4_000_001)).await.as_deref(), Some("5"));
        assert_eq!(first(StartAt::Latest).await, None);
        stream.trim(&shard(0), &sequences[3]);
        assert_eq!(first(StartAt::At(sequences[1].clone())).await.as_deref(), Some("4"));
    }

    #[tokio::test(start_paused = true)]
    async fn resharding_ends_parents_with_their_children() {
        let stream = stream(2, 10);
        assert_eq!(stream.put(u128::MAX, "k", "before").unwrap().0, shard(1));
        let [low, high] = stream.split(&shard(0));
        let merged = stream.merge(&high, &shard(1));
        assert_eq!((&low, &high, &merged), (&shard(2), &shard(3), &shard(4)));
        let (to, after) = stream.put(u128::MAX, "k", "after").unwrap();
        assert_eq!(to, merged);

        let end = read(&stream, &shard(1), StartAt::TrimHorizon).await.unwrap();
        assert_eq!((data(&end), end.next_iterator.as_deref()), (vec!["before".into()], None));
        assert_eq!(end.children.len(), 1);
        assert_eq!((&end.children[0].id, &end.children[0].parents), (&merged, &vec![high, shard(1)]));
        let ends = read(&stream, &shard(0), StartAt::Latest).await.unwrap();
        let [low_range, high_range] = [0, 1].map(|n| ends.children[n].hash_range.unwrap());
        assert_eq!((low_range.start, low_range.end + 1), (0, high_range.start));

        let listed = stream.list().await.unwrap();
        assert_eq!(listed.iter().map(|s| s.closed).collect::<Vec<_>>(), [true, true, false, true, false]);
        assert!(listed[4].starting_sequence_number < after);

        stream.close(&low);
        stream.close(&merged);
        assert_eq!(stream.put(0, "k", "nowhere"), None);
        assert!(read(&stream, &low, StartAt::Latest).await.unwrap().next_iterator.is_none());
        stream.forget(&low);
        assert!(matches!(read(&stream, &low, StartAt::Latest).await, Err(FetchError::NotFound)));
        assert_eq!(stream.records().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn iterators_expire() {
        let stream = stream(1, 10);
        let old = stream.iterator(&shard(0), &StartAt::TrimHorizon).await.unwrap();
        tokio::time::advance(ITERATOR_LIFETIME - Duration::from_secs(1)).await;
        assert!(stream.fetch(&shard(0), &old, 10_000).await.is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(stream.fetch(&shard(0), &old, 10_000).await, Err(FetchError::ExpiredIterator)));
        let new = stream.iterator(&shard(0), &StartAt::TrimHorizon).await.unwrap();
        stream.expire_iterators();
        assert!(matches!(stream.fetch(&shard(0), &new, 10_000).await, Err(FetchError::ExpiredIterator)));
        assert!(matches!(stream.fetch(&shard(0), "made up", 10_000).await, Err(FetchError::Refused(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn pages_may_be_empty_before_the_tip() {
        let stream = stream(1, 10);
        let put = stream.put(0, "k", "r0").unwrap().1;
        stream.set_faults(1, Faults { empty: 0.5, ..Faults::default() });
        let mut iterator = stream.iterator(&shard(0), &StartAt::At(put)).await.unwrap();
        let mut empty = 0;
        loop {
            let page = stream.fetch(&shard(0), &iterator, 10_000).await.unwrap();
            iterator = page.next_iterator.clone().unwrap();
            if !page.is_empty() {
                break assert_eq!(data(&page), ["r0"]);
            }
            assert!(page.millis_behind_latest > Some(0), "the record is still to come");
            empty += 1;
            assert!(empty < 50);
        }
        let tip = stream.fetch(&shard(0), &iterator, 10_000).await.unwrap();
        assert_eq!((tip.len(), tip.millis_behind_latest), (0, Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_the_same_faults_twice() {
        let faults = Faults {
            throttled: 0.3,
            unavailable: 0.2,
            expired: 0.1,
            empty: 0.5,
            delay_max: Duration::from_millis(50),
        };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let stream = stream(1, 10);
            let iterator = stream.iterator(&shard(0), &StartAt::TrimHorizon).await.unwrap();
            stream.set_faults(seed, faults);
            let started = Instant::now();
            let mut log = Vec::new();
            for _ in 0..50 {
                let answer = stream.fetch(&shard(0), &iterator, 10_000).await;
                log.push((answer.map_or_else(|e| e.kind(), |_| "page"), started.elapsed()));
            }
            runs.push(log);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        for kind in ["page", "throttled", "unavailable", "expired_iterator"] {
            assert!(runs[0].iter().any(|(k, _)| *k == kind), "{kind}");
        }
    }
}
