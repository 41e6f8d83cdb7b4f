//! The reading of one shard as the consumer sees it: the pages of a reader, with what the status, the lease and the log are
//! to know of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::StreamSetup;
use crate::cause::chain;
use crate::fetch::{Behind, ByteBudget, FetchError, Page, ReadsFor, Retrieval, Room, StartAt, StartRecord};
use crate::lease::{CaughtUp, Gap, HeldLease, gap};
use crate::shard::{ChildShard, HashKeyRange, Position, SequenceNumber, ShardId, WrittenBy};
use crate::telemetry::metrics;
use crate::telemetry::status::{ShardHandle, Side};
use crate::telemetry::trouble::LogPace;
use crate::telemetry::waiting::Waiting;

/// The stream does not know the shard when it says so this often in a row.
const GONE_ANSWERS: u32 = 2;
/// Throttling is part of a busy day; a shard that has had no answer for so long because of it stands still.
const THROTTLED_MAX: Duration = Duration::from_secs(10);
/// The reason of a shard whose call has no answer yet: as [`FetchError::Unavailable`] says it once its time limit is over.
const NO_ANSWER: &str = "unavailable";
const SHARD_GONE: &str = "the stream does not list this shard (any more), so it cannot be read. If later \
     listings agree, the leader reports what may be lost, deletes the lease, and the child shards are read; \
     check --stream and --region if this shard should exist";

/// What a reader reads for, and where the bytes of its pages come from.
pub(crate) enum Purpose {
    /// To deliver what comes: each page waits for its bytes.
    Deliver,
    /// To build again what is known to be there: somebody holds the bytes of one page, which is read when the one before
    /// is dropped. The tip of the shard is told each time, as nothing of what is looked for comes after it.
    Rebuild(Arc<Semaphore>),
}

/// A page with the room it takes.
pub(crate) struct Fetched {
    pub(crate) page: Page,
    /// Given back with the page, or to the batch that its records went to.
    pub(crate) room: Room,
    /// The children, when nothing comes after this page.
    pub(crate) end: Option<Vec<ChildShard>>,
    /// The stream has forgotten the shard: what was read is nowhere else.
    pub(crate) gone: bool,
    /// It begins with the record that reading was to start at, which may pack others or be left out.
    pub(crate) from_start: bool,
}

/// The lease, the memory and the status that a reader works with.
struct Held {
    lease: Arc<HeldLease>,
    budget: ByteBudget,
    status: Arc<ShardHandle>,
    /// Where one page after the other is let in; else each takes its bytes from the budget.
    place: Option<Arc<Semaphore>>,
}

#[async_trait]
impl ReadsFor for Held {
    /// Nothing is asked for while the renewal of the lease is late.
    async fn room(&self, bytes: usize) -> Room {
        self.lease.renewed_lately().await;
        match &self.place {
            None => Room { permit: self.budget.acquire(bytes).await, place: None },
            Some(place) => {
                let place = Arc::clone(place).acquire_owned().await;
                Room {
                    permit: self.budget.empty(),
                    place: Some(place.expect("the semaphore is never closed")),
                }
            }
        }
    }

    fn calling(&self, call: &'static str) -> Waiting {
        Waiting::begin(&self.status, Side::Reading, NO_ANSWER, call, 0)
    }

    async fn still_ours(&self) {
        self.lease.renewed_from_now().await;
    }

    /// What is read again for a batch is no news of how the shard is read.
    fn reads_by(&self, retrieval: Retrieval) {
        if self.place.is_none() {
            self.status.read_by(retrieval);
        }
    }

    fn read_upto(&self) -> Option<WrittenBy> {
        self.lease.row().read_upto().cloned()
    }

    fn hash_range(&self) -> Option<HashKeyRange> {
        self.lease.row().hash_range
    }
}

/// Reads the shard of `lease` from `start` on and sends every page that has records or ends the shard, until nobody receives
/// them. Trouble is waited out; the status tells of it. An empty page that does not end the shard is sent once, when
/// the record at a `start` that names one turns out to be gone (to rebuild: whenever the tip is reached). Another one
/// tells that the stream has forgotten the shard; the reader goes on asking.
pub(crate) async fn read_shard(
    stream: Arc<StreamSetup>,
    lease: Arc<HeldLease>,
    start: StartAt,
    purpose: Purpose,
    status: Arc<ShardHandle>,
    mut rng: ChaCha8Rng,
    pages: mpsc::Sender<Fetched>,
) {
    let delivers = matches!(purpose, Purpose::Deliver);
    let source = if delivers { &stream.source } else { &stream.again };
    let held = Arc::new(Held {
        lease: Arc::clone(&lease),
        budget: stream.budget.clone(),
        status: Arc::clone(&status),
        place: match purpose {
            Purpose::Deliver => None,
            Purpose::Rebuild(place) => Some(place),
        },
    });
    let shard = lease.key().shard().clone();
    // The last record that was read, or where reading starts.
    let mut last = match &start {
        StartAt::At(sequence) | StartAt::After(sequence) => Some(Position::new(sequence.clone())),
        _ => None,
    };
    if let (Some(at), Some(row)) = (&mut last, lease.row().checkpoint.position()) {
        at.sub = if at.sequence == row.sequence { row.sub } else { 0 };
    }
    let mut reader = source.open(&shard, start, held, rng.random());
    let mut trouble = Trouble::new();
    let mut not_found = 0;
    loop {
        trouble.asks();
        let pulled = match reader.next().await {
            Ok(pulled) => pulled,
            Err(error) => {
                trouble.report(&shard, &status, &error);
                if matches!(error, FetchError::NotFound) {
                    status.stalled_since(Side::Reading, error.kind(), SHARD_GONE, trouble.since());
                    not_found += 1;
                    if not_found == GONE_ANSWERS {
                        let room = Room { permit: stream.budget.empty(), place: None };
                        let page = Page::default();
                        let told = Fetched { page, room, end: None, gone: true, from_start: false };
                        if pages.send(told).await.is_err() {
                            return;
                        }
                    }
                }
                continue;
            }
        };
        trouble.over(&shard);
        not_found = 0;
        let page = pulled.page;
        status.page_fetched(pulled.behind.millis());
        status.stream_time(page.served_us);
        // A rebuild that misses a record says so itself.
        if let (true, Some(StartRecord::Gone(first)), Some(checkpoint)) = (delivers, &pulled.start, &last) {
            report_gap(&lease, page.served_us, first.as_ref(), checkpoint, stream.retention.get());
        }
        if let (Some(first), Some(epoch)) = (page.records().next(), page.leader_epoch) {
            lease.read_of_epoch(first.position().sequence, epoch);
        }
        if let Some(record) = page.records().next_back() {
            last = Some(record.position());
        }
        let at_tip = pulled.behind == Behind::Tip;
        if let (true, true, Some(at_us), Some(last)) = (delivers, at_tip, page.served_us, &last) {
            let retention_hours = stream.retention.get();
            lease.at_tip(CaughtUp { after: last.clone(), at_us, retention_hours });
        }
        let ends = pulled.end.is_some();
        if !ends && page.is_empty() && pulled.start.is_none() && (delivers || !at_tip) {
            continue;
        }
        let from_start = pulled.start == Some(StartRecord::There);
        let fetched = Fetched { page, room: pulled.room, end: pulled.end, gone: false, from_start };
        if pages.send(fetched).await.is_err() || ends {
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
        let passing =
            matches!(error, FetchError::Throttled | FetchError::ExpiredIterator | FetchError::InUse(_));
        if passing && self.answered.elapsed() < THROTTLED_MAX {
            return status.failed(Side::Reading, cause);
        }
        self.failures += 1;
        if self.pace.speaks() {
            let seconds = self.answered.elapsed().as_secs();
            tracing::warn!(%shard, failures = self.failures, seconds, error = cause, "could not read the shard");
        }
        status.stalled_since(Side::Reading, error.kind(), cause, self.since());
    }

    fn over(&mut self, shard: &ShardId) {
        if self.failures > 0 && self.pace.said() {
            tracing::info!(%shard, failures = self.failures, "reading the shard works again");
        }
        self.failures = 0;
        self.pace.over();
        (self.answered, self.asked) = (Instant::now(), None);
    }
}

/// The record at `checkpoint` has left the stream, where `first` is the first one now: has retention taken records that
/// nobody read?
fn report_gap(
    lease: &HeldLease,
    now_us: Option<i64>,
    first: Option<&SequenceNumber>,
    checkpoint: &Position,
    retention_hours: u32,
) {
    let (shard, seen) = (lease.key(), lease.row().caught_up);
    match gap(seen.as_ref(), checkpoint, first, now_us, Some(retention_hours)) {
        Gap::None => {}
        Gap::Possible => {
            metrics::checkpoint_trimmed();
            tracing::error!(
                %shard,
                checkpoint = %checkpoint.sequence,
                first = first.map(|first| first.to_string()),
                caught_up_us = seen.filter(|seen| seen.after == *checkpoint).map(|seen| seen.at_us),
                retention_hours,
                "the record at the checkpoint is no longer in the stream, and the shard was last read to its \
                 tip longer ago than the retention, or at an unknown time: records after it may be lost; \
                 compare with what the producers sent"
            );
        }
        Gap::Unknown => tracing::warn!(
            %shard,
            checkpoint = %checkpoint.sequence,
            "the record at the checkpoint is no longer in the stream, and the shard is empty: it is unknown \
             whether records expired unread, because the lease does not say yet when the shard was last read \
             to its tip"
        ),
    }
}
