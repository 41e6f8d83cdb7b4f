//! The reader of one shard: polls at the shard's pace, refreshes iterators, waits for bytes.

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::cause::chain;
use crate::fetch::{BytePermit, FetchError, Next, Pacing, Page, StartAt, fetch_page};
use crate::lease::{CaughtUp, Gap, HeldLease, gap};
use crate::shard::{ChildShard, SequenceNumber, ShardId};
use crate::telemetry::metrics;
use crate::telemetry::status::{ShardHandle, Side};
use crate::telemetry::trouble::LogPace;
use crate::telemetry::waiting::Waiting;

/// What a poll at the tip of a shard reserves: what may have come since the last one. A page that turns out
/// larger is accounted for all the same, and others wait the longer.
///
/// A small page holds it too, until it is in the batch: its rows may take more than its records do.
const TIP_BYTES: usize = 512 << 10;

/// The stream does not know the shard when it says so this often in a row.
const GONE_ANSWERS: u32 = 2;
/// And then for as long as it says so, with this pause.
const GONE_PAUSE: Duration = Duration::from_secs(5);
/// Throttling is part of a busy day; a shard that has had no answer for so long because of it stands still.
const THROTTLED_MAX: Duration = Duration::from_secs(10);
/// The reason of a shard whose call has no answer yet: as [`FetchError::Unavailable`] says it once its time limit is over.
const NO_ANSWER: &str = "unavailable";
const SHARD_GONE: &str = "the stream does not know this shard (any more): nothing of it can be read. If its listings \
    agree, the leader reports what may be lost, deletes the lease, and has the child shards read on; check --stream and \
    --region if this shard should be there";

/// What a reader reads for, and where the bytes of its pages come from.
pub(super) enum Purpose {
    /// To deliver what comes: each page waits for its bytes.
    Deliver,
    /// To build again what is known to be there: somebody holds the bytes of one page, which is read when the one before
    /// is dropped. The tip of the shard is told each time, as nothing of what is looked for comes after it.
    Rebuild(Arc<Semaphore>),
}

/// A page with the bytes it holds.
pub(super) struct Fetched {
    pub(super) page: Page,
    /// Given back with the page, or to the batch that its records went to.
    pub(super) permit: BytePermit,
    /// The children, when nothing comes after this page.
    pub(super) end: Option<Vec<ChildShard>>,
    /// The stream has forgotten the shard: what was read is nowhere else.
    pub(super) gone: bool,
    /// The place in memory of a page that is read to rebuild.
    _place: Option<OwnedSemaphorePermit>,
}

/// Reads `shard` from `start` on and sends every page that has records or ends the shard, until nobody receives
/// them. Trouble is waited out; the status tells of it. An empty page that does not end the shard is sent once, when
/// the tip is reached without any record at or after a `start` that names one: that record is gone (to rebuild: whenever
/// the tip is reached). Another one tells that the stream has forgotten the shard; the reader goes on asking. Nothing is
/// asked for while the renewal of `lease` is late.
pub(super) async fn read_shard(
    shared: Arc<Shared>,
    lease: Arc<HeldLease>,
    mut start: StartAt,
    purpose: Purpose,
    status: Arc<ShardHandle>,
    mut rng: ChaCha8Rng,
    pages: mpsc::Sender<Fetched>,
) {
    let shard = lease.key().shard().clone();
    let mut pacing = Pacing::new(shared.settings.poll_idle_max);
    let mut iterator: Option<String> = None;
    let mut not_before = Instant::now();
    let mut reserve = shared.source.page_bytes_max();
    // The record at the checkpoint is read again; another one in its place means that it has been trimmed, and those
    // between them perhaps.
    let mut expected = match &start {
        StartAt::At(sequence) => Some(sequence.clone()),
        _ => None,
    };
    let mut trouble = Trouble::new();
    let mut not_found = 0;
    loop {
        sleep_until(not_before).await;
        lease.renewed_lately().await;
        let (mut permit, place) = match &purpose {
            Purpose::Deliver => (shared.budget.acquire(reserve).await, None),
            Purpose::Rebuild(place) => {
                let place = Arc::clone(place).acquire_owned().await;
                (shared.budget.empty(), Some(place.expect("the semaphore is never closed")))
            }
        };
        pacing.call_started(Instant::now());
        trouble.asks();
        let fetched = async {
            let at = match iterator.take() {
                Some(iterator) => iterator,
                None => {
                    let _waiting = asking(&status, "GetShardIterator");
                    shared.source.iterator(&shard, &start).await?
                }
            };
            let _waiting = asking(&status, "GetRecords");
            let page = fetch_page(shared.source.as_ref(), &shard, &at).await;
            iterator = Some(at);
            page
        };
        let mut page = match fetched.await {
            Ok(page) => page,
            Err(error) => {
                drop(permit);
                trouble.report(&shard, &status, &error);
                match pacing.after_error(Instant::now(), &error, &mut rng) {
                    Next::RetryAt(at) => not_before = at,
                    Next::NewIteratorAt(at) => {
                        iterator = None;
                        not_before = at;
                    }
                    Next::ShardGone => {
                        iterator = None;
                        not_before = Instant::now() + GONE_PAUSE;
                        status.stalled_since(Side::Reading, error.kind(), SHARD_GONE, trouble.since());
                        not_found += 1;
                        if not_found == GONE_ANSWERS {
                            let (page, permit) = (Page::default(), shared.budget.empty());
                            let told = Fetched { page, permit, end: None, gone: true, _place: None };
                            if pages.send(told).await.is_err() {
                                return;
                            }
                        }
                    }
                }
                continue;
            }
        };
        trouble.over(&shard);
        not_found = 0;
        permit.set(match purpose {
            Purpose::Deliver if page.is_empty() => page.bytes(),
            Purpose::Deliver => page.bytes().max(TIP_BYTES),
            Purpose::Rebuild(_) => 0,
        });
        status.page_fetched(page.millis_behind_latest);
        status.stream_time(page.served_us);
        let at_tip = page.millis_behind_latest == Some(0);
        let looked_for = expected.take_if(|_| !page.is_empty() || at_tip);
        // A rebuild that misses a record says so itself.
        if let (Some(checkpoint), Purpose::Deliver) = (&looked_for, &purpose) {
            report_gap(&lease, &page, checkpoint, shared.settings.retention_hours);
        }
        if let Some(last) = page.records().next_back() {
            start = StartAt::After(
                SequenceNumber::parse(last.sequence_number).expect("a page has decimal digits"),
            );
        }
        if let (true, Purpose::Deliver, Some(at_us), StartAt::At(last) | StartAt::After(last)) =
            (at_tip, &purpose, page.served_us, &start)
        {
            let retention_hours = shared.settings.retention_hours;
            lease.at_tip(CaughtUp { after: last.clone(), at_us, retention_hours });
        }
        not_before = pacing.after_page(Instant::now(), page.len(), page.millis_behind_latest);
        reserve = if at_tip { TIP_BYTES.max(page.bytes() * 2) } else { shared.source.page_bytes_max() };
        reserve = reserve.min(shared.source.page_bytes_max());
        iterator = page.next_iterator.take();
        let end = iterator.is_none().then(|| std::mem::take(&mut page.children));
        let last = end.is_some();
        let tip_told = at_tip && matches!(purpose, Purpose::Rebuild(_));
        let tells = last || !page.is_empty() || looked_for.is_some() || tip_told;
        if !tells {
            continue;
        }
        let sent = pages.send(Fetched { page, permit, end, gone: false, _place: place }).await;
        if last || sent.is_err() {
            return;
        }
    }
}

/// Failures of a reader in a row: shown in the status while they last, logged now and then.
struct Trouble {
    /// When the stream last answered.
    answered: Instant,
    /// When it was first asked since then.
    asked: Option<Instant>,
    pace: LogPace,
    failures: u64,
}

impl Trouble {
    fn new() -> Self {
        Self { answered: Instant::now(), asked: None, pace: LogPace::default(), failures: 0 }
    }

    fn asks(&mut self) {
        self.asked.get_or_insert_with(Instant::now);
    }

    /// Since when the shard is not read.
    fn since(&self) -> Instant {
        self.asked.unwrap_or_else(Instant::now)
    }

    fn report(&mut self, shard: &ShardId, status: &ShardHandle, error: &FetchError) {
        let cause = chain(error);
        let passing = matches!(error, FetchError::Throttled | FetchError::ExpiredIterator);
        if passing && self.answered.elapsed() < THROTTLED_MAX {
            return status.failed(Side::Reading, cause);
        }
        self.failures += 1;
        if self.pace.speaks() {
            let seconds = self.answered.elapsed().as_secs();
            tracing::warn!(%shard, failures = self.failures, seconds, error = cause, "shard cannot be read");
        }
        status.stalled_since(Side::Reading, error.kind(), cause, self.since());
    }

    fn over(&mut self, shard: &ShardId) {
        if self.failures > 0 && self.pace.said() {
            tracing::info!(%shard, failures = self.failures, "shard is read again");
        }
        self.failures = 0;
        self.pace.over();
        (self.answered, self.asked) = (Instant::now(), None);
    }
}

fn asking(status: &Arc<ShardHandle>, call: &str) -> Waiting {
    Waiting::begin(status, Side::Reading, NO_ANSWER, call, 0)
}

/// The first answer to a reader that begins at `checkpoint`: has retention taken records that nobody read?
fn report_gap(lease: &HeldLease, page: &Page, checkpoint: &SequenceNumber, retention_hours: u32) {
    let (shard, seen) = (lease.key(), lease.row().caught_up);
    let first = page.records().next().and_then(|record| SequenceNumber::parse(record.sequence_number));
    match gap(seen.as_ref(), checkpoint, first.as_ref(), page.served_us, Some(retention_hours)) {
        Gap::None => {}
        Gap::Possible => {
            metrics::checkpoint_trimmed();
            tracing::error!(
                %shard,
                %checkpoint,
                first = first.map(|first| first.to_string()),
                caught_up_us = seen.filter(|seen| seen.after == *checkpoint).map(|seen| seen.at_us),
                retention_hours,
                "the record at the checkpoint has left the stream, and it is longer than the retention, or not known, \
                 since the shard was read to its tip: records after it may be lost; compare with what producers sent"
            );
        }
        Gap::Unknown => tracing::warn!(
            %shard,
            %checkpoint,
            "the record at the checkpoint has left the stream, and the shard is empty: whether records came and went \
             unread is not known, as the lease does not say yet when the shard was last read to its tip"
        ),
    }
}
