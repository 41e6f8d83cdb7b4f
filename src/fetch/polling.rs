//! Reads shards by asking again and again: iterators, pages, the pace between them.
//!
//! Owns: when an iterator is asked for anew, how many bytes a call reserves, and how many records it asks for.
//! Does not own: the calls ([`Polled`]), how long a pause is (`pacing`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, sleep_until};

use super::pacing::{Brought, CALL_INTERVAL, Next, Pacing};
use super::page::{Behind, Page};
use super::source::{
    Ahead, FetchError, Pulled, ReadsFor, RecordSource, Retrieval, ShardReader, StartAt, StartRecord,
};
use super::started::StartLook;
use crate::shard::{SequenceNumber, ShardId, WrittenBy};
use crate::telemetry::metrics;

/// Most records that one call may bring (`GetRecords`, API reference).
pub(super) const PAGE_RECORDS_MAX: usize = 10_000;
/// What a poll at the tip of a shard reserves: what may have come since the last one. A page that turns out
/// larger is accounted for all the same, and others wait the longer.
///
/// A small page holds it too, until it is in the batch: its rows may take more than its records do.
pub(super) const TIP_BYTES: usize = 512 << 10;
/// Body bytes that a call asks for, by the size of the records so far. Larger ones save calls that cost little, and a page
/// waits, a page is transformed and one comes for each shard: with the largest ones, of 18 MiB, memory is full of pages.
const PAGE_BYTES_AIM: usize = 4 << 20;
/// Bytes of a record in a page, as long as none was seen: of an aggregate of the KPL. Where records are small, the first page
/// is short and the next one as long as is good; the other way round it would be as long as the service lets it be.
const RECORD_BYTES: usize = 64 << 10;
/// A call asks for at least so many records: a few large ones are not to slow down the small ones after them, of which one
/// page is that short. More would make pages larger than is good where each record is large, as aggregates of the KPL are.
const LIMIT_MIN: usize = 10;
/// Between two questions after a shard that the stream does not know.
pub(super) const GONE_PAUSE: Duration = Duration::from_secs(5);

/// How the question after [`Polled::still_holds`] is called; only Kafka has one.
const HOLDS: &str = "OffsetForLeaderEpoch";

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

    /// Whether the shard still holds this record, written by this leader. Asked behind the first page of an iterator, where
    /// it is known: what is there afterwards was there when the page was read.
    ///
    /// # Errors
    /// [`FetchError::Truncated`] when it does not, or as for a page.
    async fn still_holds(&self, _shard: &ShardId, _read: &WrittenBy) -> Result<(), FetchError> {
        Ok(())
    }

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

    /// Whether records that a call leaves out stay with the service until they are asked for. Where they are sent all the
    /// same, a call asks for as many as a page may hold.
    fn leaves_records(&self) -> bool {
        true
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
    gather_max: Duration,
}

impl Polling {
    /// With a pause of at most `idle_max` between two polls of a shard without new records.
    pub fn new(stream: Arc<dyn Polled>, idle_max: Duration) -> Self {
        Self { stream, idle_max, gather_max: Duration::ZERO }
    }

    /// Records at the tip of a shard may wait for `gather_max` to be read: while few come, calls are made when enough are
    /// there. Without this a shard with records is asked again at once.
    #[must_use]
    pub fn gathering(self, gather_max: Duration) -> Self {
        Self { gather_max, ..self }
    }

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
        let read = reads_for.read_upto();
        Box::new(Poller {
            stream: Arc::clone(&self.stream),
            shard: shard.clone(),
            reads_for,
            pacing: Pacing::new(self.stream.idle_first(), self.idle_max)
                .with_interval(self.stream.interval())
                .gathering(self.gather_max),
            rng: ChaCha8Rng::seed_from_u64(seed),
            iterator: None,
            not_before: Instant::now(),
            reserve: self.page_bytes_max(),
            record_bytes: RECORD_BYTES,
            look: StartLook::at(&start),
            start,
            read,
            proven: false,
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
    /// What a record took in the last page that had any.
    record_bytes: usize,
    look: StartLook,
    /// The last record that was read, here or before, and who wrote it.
    read: Option<WrittenBy>,
    /// Since there is an iterator, the shard was seen to hold that record. Later ones say so themselves.
    proven: bool,
}

impl Poller {
    /// Most records that the next call may bring: about as many bytes as are good, and no more than are reserved.
    fn limit(&self) -> usize {
        if !self.stream.leaves_records() {
            return PAGE_RECORDS_MAX;
        }
        (self.reserve.min(PAGE_BYTES_AIM) / self.record_bytes.max(1)).clamp(LIMIT_MIN, PAGE_RECORDS_MAX)
    }

    async fn page(&mut self, limit: usize) -> Result<Page, FetchError> {
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
        let answer = self.stream.fetch(&self.shard, &at, limit).await;
        match &answer {
            Ok(page) => metrics::page_fetched(page.len(), page.bytes(), started.elapsed()),
            Err(FetchError::Throttled) => metrics::fetch_throttled(started.elapsed()),
            Err(error) => metrics::fetch_failed(error.kind(), started.elapsed()),
        }
        self.iterator = Some(at);
        answer
    }

    /// Whether the stream is still the one that was read.
    async fn prove(&mut self) -> Result<(), FetchError> {
        if let Some(read) = self.read.as_ref().filter(|_| !self.proven) {
            let _calling = self.reads_for.calling(HOLDS);
            self.stream.still_holds(&self.shard, read).await?;
        }
        self.proven = true;
        Ok(())
    }

    fn failed(&mut self, error: &FetchError) {
        match self.pacing.after_error(Instant::now(), error, &mut self.rng) {
            Next::RetryAt(at) => self.not_before = at,
            Next::NewIteratorAt(at) => (self.iterator, self.not_before) = (None, at),
            Next::ShardGone => (self.iterator, self.not_before) = (None, Instant::now() + GONE_PAUSE),
        }
        self.proven &= self.iterator.is_some();
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
        let limit = self.limit();
        let page = match self.page(limit).await {
            Ok(page) => self.prove().await.map(|()| page),
            error => error,
        };
        let mut page = match page {
            Ok(page) => page,
            Err(error) => {
                drop(room);
                self.failed(&error);
                return Err(error);
            }
        };
        room.fit(if page.is_empty() { page.bytes() } else { page.bytes().max(TIP_BYTES) });
        // The service rounds what is left to whole ms, down to none; a full page says nothing of what is behind it.
        let behind = match page.behind() {
            Behind::Tip if page.len() >= limit => Behind::Millis(1),
            behind => behind,
        };
        let start = self.look.take(&page, behind).or_else(|| gap(&page));
        if let Some(last) = page.records().next_back() {
            let last = SequenceNumber::parse(last.sequence_number).expect("a page has decimal digits");
            if let Some(epoch) = page.leader_epoch {
                self.read = Some(WrittenBy { upto: last.clone(), epoch });
            }
            self.start = StartAt::After(last);
        }
        let brought = Brought { records: page.len(), bytes: page.bytes(), behind };
        self.not_before = self.pacing.after_page(Instant::now(), brought);
        if !page.is_empty() {
            self.record_bytes = page.bytes() / page.len();
        }
        let most = self.stream.page_bytes_max();
        self.reserve = if behind == Behind::Tip { TIP_BYTES.max(page.bytes() * 2).min(most) } else { most };
        self.iterator = page.next_iterator.take();
        let end = self.iterator.is_none().then(|| std::mem::take(&mut page.children));
        Ok(Pulled { page, room, behind, start, end })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Mutex;

    use super::*;
    use crate::fetch::page::PageBuilder;
    use crate::fetch::{ByteBudget, Room};
    use crate::telemetry::status::{Delivery, ProcessFacts, ShardHandle, ShardState, Side, Status};
    use crate::telemetry::waiting::Waiting;

    const S: Duration = Duration::from_secs(1);
    /// About what the service sends at once.
    const PAGE_BYTES_MAX: usize = 10 << 20;

    struct Reads {
        budget: ByteBudget,
        status: Arc<ShardHandle>,
        /// What was asked for before each call.
        asked: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl ReadsFor for Reads {
        async fn room(&self, bytes: usize) -> Room {
            self.asked.lock().unwrap().push(bytes);
            Room { permit: self.budget.acquire(bytes).await, place: None }
        }

        fn calling(&self, call: &'static str) -> Waiting {
            Waiting::begin(&self.status, Side::Reading, "unavailable", call, 0)
        }

        async fn still_ours(&self) {}

        fn reads_by(&self, _retrieval: Retrieval) {}
    }

    /// A shard that gets so many records of so many bytes a second.
    struct Steady {
        per_second: u64,
        bytes: usize,
        /// These are of so many bytes instead.
        large: (Range<u64>, usize),
        backlog: u64,
        /// From when on they are so many more.
        burst: (Duration, u64),
        since: Instant,
        leaves_records: bool,
        /// When each call came, what it may bring, and what it brings.
        calls: Mutex<Vec<(Duration, usize, usize)>>,
    }

    #[async_trait]
    impl Polled for Steady {
        async fn iterator(&self, _shard: &ShardId, _start: &StartAt) -> Result<String, FetchError> {
            Ok("0".to_owned())
        }

        async fn fetch(&self, _shard: &ShardId, iterator: &str, most: usize) -> Result<Page, FetchError> {
            let at = self.since.elapsed();
            let came =
                |since: Duration, per_second| u64::try_from(since.as_millis()).unwrap() * per_second / 1000;
            let more = came(at.saturating_sub(self.burst.0), self.burst.1);
            let there = self.backlog + came(at, self.per_second) + more;
            let from: u64 = iterator.parse().unwrap();
            let mut to = there.min(from + most as u64);
            let mut page = PageBuilder::default();
            for n in from..to {
                if page.bytes() > PAGE_BYTES_MAX {
                    to = n;
                    break;
                }
                let bytes = if self.large.0.contains(&n) { self.large.1 } else { self.bytes };
                page.push(&n.to_string(), "k", 0, &vec![0; bytes]);
            }
            let mut page = page.finish();
            self.calls.lock().unwrap().push((at, most, page.len()));
            page.next_iterator = Some(to.to_string());
            // In whole ms, as the service: what is left is too young to count.
            page.millis_behind_latest = Some(if there - to > 1000 { 1000 } else { 0 });
            Ok(page)
        }

        fn page_bytes_max(&self) -> usize {
            18 << 20
        }

        fn leaves_records(&self) -> bool {
            self.leaves_records
        }
    }

    fn status() -> Arc<ShardHandle> {
        let facts = ProcessFacts {
            worker: "polling".into(),
            application: "polling".into(),
            delivery: Delivery::AtLeastOnce,
            warnings: Vec::new(),
        };
        Arc::new(Status::new(facts, S).shard("stream", "shard", ShardState::Reading, 0))
    }

    /// The calls of so long, and what each of them reserved. Nothing is read twice or left out.
    async fn calls(steady: Steady, during: Duration) -> (Vec<(Duration, usize, usize)>, Vec<usize>) {
        let reads =
            Arc::new(Reads { budget: ByteBudget::new(64 << 20), status: status(), asked: Mutex::default() });
        let steady = Arc::new(steady);
        let polling = Polling::new(Arc::clone(&steady) as _, 10 * S).gathering(10 * S);
        let shard = ShardId::new("shard");
        let mut reader = polling.open(&shard, StartAt::TrimHorizon, Arc::clone(&reads) as _, 1);
        let started = Instant::now();
        let mut read = 0;
        while started.elapsed() < during {
            let pulled = reader.next().await.unwrap();
            for record in pulled.page.records() {
                assert_eq!(record.sequence_number, read.to_string());
                read += 1;
            }
        }
        let calls = steady.calls.lock().unwrap().clone();
        let asked = reads.asked.lock().unwrap().clone();
        (calls, asked)
    }

    fn steady(per_second: u64, bytes: usize, backlog: u64) -> Steady {
        let (burst, calls) = ((S, 0), Mutex::default());
        let since = Instant::now();
        Steady { per_second, bytes, large: (0..0, 0), backlog, burst, since, leaves_records: true, calls }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_asks_for_a_few_mib_by_the_size_of_the_records() {
        for (bytes, backlog) in [(1 << 10, 50_000), (10 << 10, 8000), (50, 100_000), (128 << 10, 500)] {
            let (calls, _) = calls(steady(0, bytes, backlog), 20 * S).await;
            let full: Vec<_> = calls.iter().filter(|(_, most, came)| most == came).collect();
            assert!(full.len() > 5, "{calls:?}");
            for (_, most, came) in &full[1..] {
                let size = came * bytes;
                assert!(size <= PAGE_BYTES_AIM || *most == LIMIT_MIN, "{size} bytes at once");
                assert!(size > PAGE_BYTES_AIM / 2 || *most == PAGE_RECORDS_MAX, "{size} bytes at once");
            }
        }
    }

    /// One page of small ones is short, and the next one is as long as if there had been no large ones.
    #[tokio::test(start_paused = true)]
    async fn a_few_large_records_do_not_slow_down_the_small_ones_after_them() {
        let mixed = Steady { large: (5000..5100, 1 << 20), ..steady(0, 1 << 10, 20_000) };
        let (calls, _) = calls(mixed, 20 * S).await;
        let read = calls.iter().scan(0, |read, (_, _, came)| {
            *read += came;
            Some(*read)
        });
        let after = read.take_while(|read| *read < 5100).count() + 1;
        assert!(after < 15, "{calls:?}");
        let [(_, short, _), (_, most, came), ..] = calls[after..] else { panic!("{calls:?}") };
        assert!(short < 50 && most > 3000 && came == most, "{short} records, then {most}: {calls:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thin_shard_is_asked_seldom_and_a_burst_does_not_bring_more_than_was_reserved() {
        let (thin, _) = calls(steady(10, 1 << 10, 0), 300 * S).await;
        assert!(thin.len() < 45, "{} calls", thin.len());
        let burst = Steady { burst: (100 * S, 2000), ..steady(2, 1 << 10, 0) };
        let (calls, asked) = calls(burst, 130 * S).await;
        let late = calls.windows(2).filter(|pair| pair[1].0 - pair[0].0 > 9 * S).count();
        assert!(
            late > 5 && calls.iter().any(|(_, most, came)| most == came),
            "it comes after a pause: {calls:?}"
        );
        for ((at, _, came), reserved) in calls.iter().zip(asked) {
            assert!(came * 1024 <= reserved, "{came} records at {at:?} for {reserved} bytes");
        }
    }

    /// Of a page that is full nobody knows whether more was behind it.
    #[tokio::test(start_paused = true)]
    async fn a_full_page_does_not_end_at_the_tip() {
        let (calls, _) = calls(steady(0, 1 << 10, 10_000), 5 * S).await;
        let last_full = calls.iter().rposition(|(_, most, came)| most == came).unwrap();
        assert_eq!(calls[last_full + 1].0, calls[last_full].0 + CALL_INTERVAL, "{calls:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_sends_all_the_same_is_asked_for_all() {
        let all = Steady { leaves_records: false, ..steady(100, 1 << 10, 5000) };
        let (calls, _) = calls(all, 5 * S).await;
        assert!(calls.iter().all(|(_, most, _)| *most == PAGE_RECORDS_MAX), "{calls:?}");
    }

    /// A stream that was cut and has grown again: pages come, and what was read is not in it.
    struct Regrown {
        /// What `still_holds` answers, in turn; then that all is there.
        answers: Mutex<Vec<Result<(), FetchError>>>,
        asked: Mutex<Vec<WrittenBy>>,
    }

    #[async_trait]
    impl Polled for Regrown {
        async fn iterator(&self, _shard: &ShardId, _start: &StartAt) -> Result<String, FetchError> {
            Ok("0".to_owned())
        }

        async fn fetch(&self, _shard: &ShardId, iterator: &str, _most: usize) -> Result<Page, FetchError> {
            if iterator == "3" {
                return Err(FetchError::Truncated("cut while it was read".to_owned()));
            }
            let mut page = PageBuilder::default();
            page.push(iterator, "k", 0, b"x");
            let mut page = page.finish();
            page.leader_epoch = Some(4);
            page.next_iterator = Some((iterator.parse::<u64>().unwrap() + 1).to_string());
            Ok(page)
        }

        async fn still_holds(&self, _shard: &ShardId, read: &WrittenBy) -> Result<(), FetchError> {
            self.asked.lock().unwrap().push(read.clone());
            self.answers.lock().unwrap().pop().unwrap_or(Ok(()))
        }

        fn page_bytes_max(&self) -> usize {
            1 << 20
        }
    }

    struct ReadBefore(Reads);

    #[async_trait]
    impl ReadsFor for ReadBefore {
        async fn room(&self, bytes: usize) -> Room {
            self.0.room(bytes).await
        }

        fn calling(&self, call: &'static str) -> Waiting {
            self.0.calling(call)
        }

        async fn still_ours(&self) {}

        fn reads_by(&self, _retrieval: Retrieval) {}

        fn read_upto(&self) -> Option<WrittenBy> {
            Some(WrittenBy { upto: 9.into(), epoch: 3 })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_on_until_what_was_read_is_there() {
        let cut = || Err(FetchError::Truncated("cut".to_owned()));
        let away = || Err(FetchError::Unavailable("away".into()));
        // The last one first.
        let stream =
            Arc::new(Regrown { answers: Mutex::new(vec![cut(), away(), cut()]), asked: Mutex::default() });
        let reads = Reads { budget: ByteBudget::new(64 << 20), status: status(), asked: Mutex::default() };
        let polling = Polling::new(Arc::clone(&stream) as _, S);
        let mut reader =
            polling.open(&ShardId::new("shard"), StartAt::At(9.into()), Arc::new(ReadBefore(reads)), 1);
        for expected in ["log_truncated", "unavailable", "log_truncated"] {
            assert_eq!(reader.next().await.err().unwrap().kind(), expected);
        }
        for number in 0..3 {
            let pulled = reader.next().await.unwrap();
            assert_eq!(
                pulled.page.records().next().unwrap().sequence_number,
                number.to_string(),
                "none is lost"
            );
        }
        let before = WrittenBy { upto: 9.into(), epoch: 3 };
        assert_eq!(
            *stream.asked.lock().unwrap(),
            vec![before; 4],
            "once it is there, pages say it themselves"
        );
        // Where they say that it is not, another iterator does not make it so.
        assert_eq!(reader.next().await.err().unwrap().kind(), "log_truncated");
        stream.answers.lock().unwrap().push(cut());
        assert_eq!(reader.next().await.err().unwrap().kind(), "log_truncated");
        let last = stream.asked.lock().unwrap().last().cloned();
        assert_eq!(last, Some(WrittenBy { upto: 2.into(), epoch: 4 }));
    }
}
