//! Looks up where a shard starts: the calls around the search.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::page::Page;
use super::polling::Polled;
use super::search::{End, PAGE_RECORDS, Search, Turn, is_at_tip};
use super::source::{FetchError, StartAt};
use crate::shard::{
    Checkpoint, FindStart, Position, SequenceNumber, ShardId, StartError, StartFound, StartFrom,
};

/// Searches of a process at the same time: each holds a page of up to [`PAGE_RECORDS`] records.
const SEARCHES: usize = 4;
/// Calls that follow each other without a pause; a shard allows five a second, to all who read it.
const BURST: u32 = 4;
const PAUSE: Duration = Duration::from_millis(220);
/// How often one call is tried.
const TRIES: u32 = 6;

/// Looks up starts in the stream that `source` reads.
pub struct Starts {
    source: Arc<dyn Polled>,
    turns: Semaphore,
    /// The stream knows no positions by time.
    in_order: bool,
}

impl Starts {
    /// Over this source.
    pub fn new(source: Arc<dyn Polled>) -> Self {
        Self { source, turns: Semaphore::new(SEARCHES), in_order: false }
    }

    /// Over a source that knows no positions by time: a shard is read from its oldest record on.
    pub fn in_order(source: Arc<dyn Polled>) -> Self {
        Self { in_order: true, ..Self::new(source) }
    }
}

#[async_trait]
impl FindStart for Starts {
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError> {
        let _turn = self.turns.acquire().await;
        let mut looker = Looker { source: self.source.as_ref(), shard, calls: 0, in_order: self.in_order };
        let found = match from {
            StartFrom::Time(us) => looker.search(End::Time(us), Some(us)).await.map(|found| (found, false)),
            StartFrom::Tip => looker.tip().await,
        };
        match found {
            Ok((found, closed)) => {
                let at = found.map(Checkpoint::At);
                Ok(StartFound { at: at.unwrap_or(Checkpoint::TrimHorizon), closed })
            }
            Err(error) => Err(StartError { shard: shard.clone(), source: error.into() }),
        }
    }
}

/// How a shard that is read in order ended.
enum Reached {
    /// At the record that the mark brought.
    Mark(Option<Position>),
    /// At its tip, before the mark brought any.
    Tip(Option<Position>),
}

/// The calls of one look-up.
struct Looker<'a> {
    source: &'a dyn Polled,
    shard: &'a ShardId,
    calls: u32,
    in_order: bool,
}

impl Looker<'_> {
    /// The last record before now, and whether the shard is closed.
    ///
    /// An iterator at LATEST marks the moment; what it brings is to be read. A record that arrives while the search goes
    /// on must not be taken for an old one, so the iterator is looked at again in the end.
    async fn tip(&mut self) -> Result<(Option<Position>, bool), FetchError> {
        let mut mark = self.page(None, &StartAt::Latest).await?;
        let closed = mark.next_iterator.is_none();
        if let Some(first) = first_of(&mark) {
            return Ok((self.search(End::Record(first.0), Some(first.1)).await?, closed));
        }
        let found = match self.in_order {
            false => self.search(End::Tip, mark.served_us).await?,
            true => match self.read_to_tip(&mut mark).await? {
                Reached::Mark(found) => return Ok((found, closed)),
                Reached::Tip(found) => found,
            },
        };
        let Some(next) = mark.next_iterator.take() else { return Ok((found, closed)) };
        let end = match self.page(Some(next), &StartAt::Latest).await {
            Ok(page) => first_of(&page).map(|(first, first_us)| (End::Record(first), first_us)),
            // The search took longer than iterators live: the second of the first answer is nearly as good.
            Err(FetchError::ExpiredIterator) => mark.served_us.map(|us| (End::Time(us), us)),
            Err(error) => return Err(error),
        };
        match end {
            Some((end, end_us)) if found.is_some() => Ok((self.search(end, Some(end_us)).await?, closed)),
            _ => Ok((found, closed)),
        }
    }

    /// Reads the shard in order, to its tip or to what the mark brings, whichever shows first. The tip of a busy shard never
    /// does: when a page is read there is another. Looking at the mark after each page also keeps it from expiring.
    async fn read_to_tip(&mut self, mark: &mut Page) -> Result<Reached, FetchError> {
        let (mut search, start) = Search::new(End::Tip, None);
        let (mut iterator, mut marked) = (None, false);
        loop {
            let mut page = self.page(iterator.take(), &start).await?;
            if !marked && let Some(next) = mark.next_iterator.take() {
                *mark = self.page(Some(next), &StartAt::Latest).await?;
                if let Some((first, first_us)) = first_of(mark) {
                    marked = search.ends_before(&first);
                    if !marked {
                        return Ok(Reached::Mark(self.search(End::Record(first), Some(first_us)).await?));
                    }
                }
            }
            match search.take(&page) {
                Turn::More => iterator = page.next_iterator.take(),
                Turn::Found(found) if marked => return Ok(Reached::Mark(found)),
                Turn::Found(found) => return Ok(Reached::Tip(found)),
                Turn::Ask(_) => unreachable!("a search in order asks once"),
            }
        }
    }

    async fn search(&mut self, end: End, end_us: Option<i64>) -> Result<Option<Position>, FetchError> {
        let (mut search, mut start) = Search::new(end, end_us.filter(|_| !self.in_order));
        let mut iterator = None;
        loop {
            let mut page = self.page(iterator.take(), &start).await?;
            match search.take(&page) {
                Turn::More => iterator = page.next_iterator.take(),
                Turn::Ask(next) => start = next,
                Turn::Found(found) => return Ok(found),
            }
        }
    }

    /// A page from `iterator`, or from `start` where there is none: the first that has records or is at the tip.
    async fn page(&mut self, mut iterator: Option<String>, start: &StartAt) -> Result<Page, FetchError> {
        let marked = iterator.is_some() && *start == StartAt::Latest;
        let mut tries = 0;
        loop {
            if self.calls >= BURST {
                sleep(PAUSE).await;
            }
            self.calls += 1;
            let fetched = async {
                let at = match &iterator {
                    Some(iterator) => iterator.clone(),
                    None => iterator.insert(self.source.iterator(self.shard, start).await?).clone(),
                };
                self.source.fetch(self.shard, &at, PAGE_RECORDS).await
            };
            match fetched.await {
                Ok(page) if page.is_empty() && !is_at_tip(&page) => iterator = page.next_iterator,
                Ok(page) => return Ok(page),
                Err(error @ (FetchError::NotFound | FetchError::Refused(_) | FetchError::Foreign(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(error);
                    }
                    if matches!(error, FetchError::ExpiredIterator) {
                        if marked {
                            // The moment that it stands for is gone with it.
                            return Err(error);
                        }
                        iterator = None;
                    }
                    sleep(PAUSE * tries).await;
                }
            }
        }
    }
}

/// The first record of a page, and when it arrived.
fn first_of(page: &Page) -> Option<(SequenceNumber, i64)> {
    page.records().next().map(|record| (record.position().sequence, record.arrival_us))
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::{Instant, advance, timeout};

    use super::*;
    use crate::fetch::memory::{Faults, MemoryStream};
    use crate::fetch::memory_table::MemoryTable;
    use crate::shard::ShardLister;

    const START_US: i64 = 1_768_469_400_000_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn stream(page_records_max: usize) -> Arc<MemoryStream> {
        let epoch = Instant::now();
        Arc::new(MemoryStream::new(1, page_records_max, move |at| {
            START_US + i64::try_from((at - epoch).as_micros()).unwrap()
        }))
    }

    async fn put(stream: &MemoryStream, records: usize, apart: Duration) -> Vec<SequenceNumber> {
        let mut numbers = Vec::new();
        for n in 0..records {
            numbers.push(stream.put(0, "k", n.to_string()).unwrap().1);
            advance(apart).await;
        }
        numbers
    }

    async fn find(stream: &Arc<MemoryStream>, from: StartFrom) -> StartFound {
        let shard = stream.list().await.unwrap().remove(0).id;
        Starts::new(Arc::<MemoryStream>::clone(stream)).find(&shard, from).await.unwrap()
    }

    fn at(sequence: &SequenceNumber) -> StartFound {
        StartFound { at: Checkpoint::At(Position::new(sequence.clone())), closed: false }
    }

    #[tokio::test(start_paused = true)]
    async fn the_tip_is_the_last_record_however_long_ago() {
        for (records, apart, quiet) in [
            (1, Duration::ZERO, Duration::ZERO),
            (5, Duration::from_millis(3), Duration::from_millis(10)),
            (500, Duration::from_secs(60), DAY * 30),
            (700, Duration::from_millis(1), DAY),
        ] {
            let stream = stream(7);
            let before = StartFound { at: Checkpoint::TrimHorizon, closed: false };
            assert_eq!(find(&stream, StartFrom::Tip).await, before);
            let numbers = put(&stream, records, apart).await;
            advance(quiet).await;
            assert_eq!(find(&stream, StartFrom::Tip).await, at(numbers.last().unwrap()), "{quiet:?}");
            stream.trim(&ShardId::new("shardId-000000000000"), numbers.last().unwrap());
            assert_eq!(find(&stream, StartFrom::Tip).await, before, "nothing is left");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_is_the_record_before_it() {
        let stream = stream(7);
        let numbers = put(&stream, 300, Duration::from_secs(60)).await;
        for (us, expected) in [(0, None), (1, Some(0)), (60_000_000, Some(0)), (60_000_001, Some(1))] {
            let found = find(&stream, StartFrom::Time(START_US + us)).await;
            assert_eq!(found.at.position().map(|at| &at.sequence), expected.map(|n: usize| &numbers[n]));
        }
        assert_eq!(find(&stream, StartFrom::Time(START_US + 200 * 60_000_000)).await, at(&numbers[199]));
        assert_eq!(find(&stream, StartFrom::Time(1)).await.at, Checkpoint::TrimHorizon);
    }

    /// What comes while the search goes on is to be read, also when it takes longer than iterators live.
    #[tokio::test(start_paused = true)]
    async fn records_that_arrive_during_the_search_are_after_the_start() {
        for (seed, expires) in (0..40).map(|n| (n / 2, n % 2 == 1)) {
            let stream = stream(7);
            let old = put(&stream, 300, Duration::from_secs(60)).await;
            let delay_max = Duration::from_millis(300);
            stream.set_faults(seed, Faults { delay_max, ..Faults::default() });
            let (busy, begun) = (Arc::clone(&stream), Instant::now());
            let mut writer = JoinSet::new();
            writer.spawn(async move {
                // By then the shard is listed, the moment is marked, and the search has just begun.
                sleep(delay_max * 2 + Duration::from_millis(1)).await;
                let mut expires = expires;
                loop {
                    // Not that of the mark itself: a new one would be another moment.
                    if expires && begun.elapsed() > delay_max * 4 {
                        busy.expire_iterators();
                        expires = false;
                    }
                    busy.put(0, "k", "new").unwrap();
                    sleep(Duration::from_millis(50 + seed * 40)).await;
                }
            });
            assert_eq!(find(&stream, StartFrom::Tip).await, at(old.last().unwrap()), "seed {seed}");
            writer.abort_all();
        }
    }

    /// A table that is written to without a pause has a start all the same, and it is the right one.
    #[tokio::test(start_paused = true)]
    async fn a_shard_without_times_that_is_never_at_rest_has_a_start() {
        for (seed, apart_ms) in
            (0..20).map(|seed| (seed, [3, 40, 250, 900][usize::try_from(seed % 4).unwrap()]))
        {
            let stream = stream(7);
            let old = put(&stream, 100, Duration::from_secs(60)).await;
            stream.set_faults(seed, Faults { delay_max: Duration::from_millis(60), ..Faults::default() });
            let shard = stream.list().await.unwrap().remove(0).id;
            let starts = Starts::in_order(Arc::new(MemoryTable::over(Arc::clone(&stream))));
            let busy = Arc::clone(&stream);
            let mut writer = JoinSet::new();
            writer.spawn(async move {
                loop {
                    sleep(Duration::from_millis(apart_ms)).await;
                    busy.put(0, "k", "new").unwrap();
                }
            });
            let before = stream.records().len();
            let found = timeout(DAY, starts.find(&shard, StartFrom::Tip)).await.expect("an end").unwrap();
            writer.abort_all();
            let all: Vec<_> = stream.records().into_iter().map(|(_, number, _)| number).collect();
            let at = all.iter().position(|number| found.at.position().unwrap().sequence == *number).unwrap();
            // Between what was there before the search and what came until its first answers.
            let first_answers_ms = 4 * 60 + 1;
            let later = before + usize::try_from(first_answers_ms / apart_ms).unwrap() + 1;
            assert!(
                (before - 1..=later).contains(&at),
                "seed {seed}: {at}, {} old, {} in all",
                old.len(),
                all.len()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_shard_says_so() {
        let stream = stream(7);
        let numbers = put(&stream, 20, Duration::from_secs(60)).await;
        stream.split(&ShardId::new("shardId-000000000000"));
        let found = find(&stream, StartFrom::Tip).await;
        assert_eq!(found, StartFound { closed: true, ..at(&numbers[19]) });
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_names_the_shard_and_the_cause() {
        let stream = stream(7);
        let gone = ShardId::new("shardId-000000000009");
        let error = Starts::new(Arc::<MemoryStream>::clone(&stream)).find(&gone, StartFrom::Tip).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("shardId-000000000009"));
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("not found"));
    }
}
