//! Reads shards by asking again and again: iterators, pages, the pace between them.
//!
//! Owns: when an iterator is asked for anew, how many bytes a call reserves.
//! Does not own: the calls ([`Polled`]), how long a pause is (`pacing`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, sleep_until};

use super::pacing::{CALL_INTERVAL, Next, Pacing};
use super::page::{Behind, Page};
use super::source::{
    Ahead, FetchError, Pulled, ReadsFor, RecordSource, Retrieval, ShardReader, StartAt, StartRecord,
};
use super::started::StartLook;
use crate::shard::{SequenceNumber, ShardId};
use crate::telemetry::metrics;

/// Most records that one call may bring (`GetRecords`, API reference).
pub(super) const PAGE_RECORDS_MAX: usize = 10_000;
/// What a poll at the tip of a shard reserves: what may have come since the last one. A page that turns out
/// larger is accounted for all the same, and others wait the longer.
///
/// A small page holds it too, until it is in the batch: its rows may take more than its records do.
pub(super) const TIP_BYTES: usize = 512 << 10;
/// Between two questions after a shard that the stream does not know.
pub(super) const GONE_PAUSE: Duration = Duration::from_secs(5);

/// Pages until a lag is given up: there may be empty ones before the first record.
const LAG_PAGES: u32 = 5;
/// Tries of a page for a lag: whoever reads the shard is asking too.
const LAG_TRIES: u32 = 3;
const LAG_PAUSE: Duration = Duration::from_millis(250);

/// A stream that is read by iterators, one page a call.
#[async_trait]
pub trait Polled: Send + Sync {
    /// An iterator (opaque to the caller) that starts at `start`.
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError>;

    /// The records at `iterator`, at most `records_max`, possibly none. After an error the same iterator may be used again,
    /// unless it has expired.
    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError>;

    /// An upper bound of the body bytes that one page may hold.
    fn page_bytes_max(&self) -> usize;

    /// The first pause between two polls of a shard that has nothing new; the next ones are longer. Never more than the
    /// longest one that is set.
    fn idle_first(&self) -> Duration {
        CALL_INTERVAL * 2
    }

    /// The pause from call to call while there are records.
    fn interval(&self) -> Duration {
        CALL_INTERVAL
    }

    /// How the two calls are called.
    fn calls(&self) -> [&'static str; 2] {
        ["GetShardIterator", "GetRecords"]
    }
}

/// Polls the shards of a stream.
pub struct Polling {
    stream: Arc<dyn Polled>,
    idle_max: Duration,
}

impl Polling {
    /// With a pause of at most `idle_max` between two polls of a shard without new records.
    pub fn new(stream: Arc<dyn Polled>, idle_max: Duration) -> Self {
        Self { stream, idle_max }
    }
}

impl Polling {
    /// A page with one record at most, for a lag.
    async fn glance(&self, shard: &ShardId, iterator: &str) -> Result<Page, FetchError> {
        let mut tries = 0;
        loop {
            match self.stream.fetch(shard, iterator, 1).await {
                Err(FetchError::Throttled | FetchError::Unavailable(_)) if tries + 1 < LAG_TRIES => {
                    tries += 1;
                    sleep(LAG_PAUSE * tries).await;
                }
                answer => return answer,
            }
        }
    }
}

#[async_trait]
impl RecordSource for Polling {
    fn open(
        &self,
        shard: &ShardId,
        start: StartAt,
        reads_for: Arc<dyn ReadsFor>,
        seed: u64,
    ) -> Box<dyn ShardReader> {
        reads_for.reads_by(Retrieval::Polling);
        Box::new(Poller {
            stream: Arc::clone(&self.stream),
            shard: shard.clone(),
            reads_for,
            pacing: Pacing::new(self.stream.idle_first(), self.idle_max)
                .with_interval(self.stream.interval()),
            rng: ChaCha8Rng::seed_from_u64(seed),
            iterator: None,
            not_before: Instant::now(),
            reserve: self.page_bytes_max(),
            look: StartLook::at(&start),
            start,
        })
    }

    async fn lag(&self, shard: &ShardId, start: &StartAt) -> Result<Ahead, FetchError> {
        let mut next = Some(self.stream.iterator(shard, start).await?);
        let mut behind = Behind::Unknown;
        for _ in 0..LAG_PAGES {
            let Some(iterator) = next.take() else { break };
            let page = self.glance(shard, &iterator).await?;
            behind = page.behind();
            if let Some(record) = page.records().next() {
                return Ok(Ahead { first: Some((record.position().sequence, record.arrival_us)), behind });
            }
            if behind == Behind::Tip {
                break;
            }
            next = page.next_iterator;
        }
        Ok(Ahead { first: None, behind })
    }

    fn page_bytes_max(&self) -> usize {
        self.stream.page_bytes_max()
    }
}

/// Polls one shard.
struct Poller {
    stream: Arc<dyn Polled>,
    shard: ShardId,
    reads_for: Arc<dyn ReadsFor>,
    pacing: Pacing,
    rng: ChaCha8Rng,
    /// Absent where another one is to be asked for, at `start`.
    iterator: Option<String>,
    start: StartAt,
    not_before: Instant,
    /// Bytes that the next page may take.
    reserve: usize,
    look: StartLook,
}

impl Poller {
    async fn page(&mut self) -> Result<Page, FetchError> {
        let [iterator, records] = self.stream.calls();
        let at = match self.iterator.take() {
            Some(iterator) => iterator,
            None => {
                let _calling = self.reads_for.calling(iterator);
                self.stream.iterator(&self.shard, &self.start).await?
            }
        };
        let _calling = self.reads_for.calling(records);
        let started = Instant::now();
        let answer = self.stream.fetch(&self.shard, &at, PAGE_RECORDS_MAX).await;
        match &answer {
            Ok(page) => metrics::page_fetched(page.len(), page.bytes(), started.elapsed()),
            Err(FetchError::Throttled) => metrics::fetch_throttled(started.elapsed()),
            Err(error) => metrics::fetch_failed(error.kind(), started.elapsed()),
        }
        self.iterator = Some(at);
        answer
    }

    fn failed(&mut self, error: &FetchError) {
        match self.pacing.after_error(Instant::now(), error, &mut self.rng) {
            Next::RetryAt(at) => self.not_before = at,
            Next::NewIteratorAt(at) => (self.iterator, self.not_before) = (None, at),
            Next::ShardGone => (self.iterator, self.not_before) = (None, Instant::now() + GONE_PAUSE),
        }
    }
}

/// What the page says of records before it that nobody can read any more.
fn gap(page: &Page) -> Option<StartRecord> {
    let first = page.records().next().and_then(|record| SequenceNumber::parse(record.sequence_number));
    page.trimmed.then_some(StartRecord::Gone(page.first_kept.clone().or(first)))
}

#[async_trait]
impl ShardReader for Poller {
    async fn next(&mut self) -> Result<Pulled, FetchError> {
        sleep_until(self.not_before).await;
        let mut room = self.reads_for.room(self.reserve).await;
        self.pacing.call_started(Instant::now());
        let mut page = match self.page().await {
            Ok(page) => page,
            Err(error) => {
                drop(room);
                self.failed(&error);
                return Err(error);
            }
        };
        room.fit(if page.is_empty() { page.bytes() } else { page.bytes().max(TIP_BYTES) });
        let behind = page.behind();
        let start = self.look.take(&page, behind).or_else(|| gap(&page));
        if let Some(last) = page.records().next_back() {
            self.start = StartAt::After(
                SequenceNumber::parse(last.sequence_number).expect("a page has decimal digits"),
            );
        }
        self.not_before = self.pacing.after_page(Instant::now(), page.len(), behind);
        let most = self.stream.page_bytes_max();
        self.reserve = if behind == Behind::Tip { TIP_BYTES.max(page.bytes() * 2).min(most) } else { most };
        self.iterator = page.next_iterator.take();
        let end = self.iterator.is_none().then(|| std::mem::take(&mut page.children));
        Ok(Pulled { page, room, behind, start, end })
    }
}
