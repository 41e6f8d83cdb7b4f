//! The seam to the stream's records.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use super::budget::BytePermit;
use super::page::{Behind, Page};
use crate::shard::{ChildShard, HashKeyRange, SequenceNumber, ShardId, WrittenBy};
pub use crate::telemetry::status::Retrieval;
use crate::telemetry::waiting::Waiting;

/// Where reading of a shard starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record the stream still has.
    TrimHorizon,
    /// Records written from now on.
    Latest,
    /// The first record that arrived at or after this time, µs since the epoch.
    Timestamp(i64),
    /// The record with this sequence number itself.
    At(SequenceNumber),
    /// The record after this sequence number.
    After(SequenceNumber),
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The iterator is too old: ask again from the last position read.
    #[error("shard iterator expired")]
    ExpiredIterator,
    /// Too many calls or bytes for this shard: slow down, keep the iterator.
    #[error("reading the shard is throttled")]
    Throttled,
    /// The stream or the shard does not exist any more.
    #[error("shard not found")]
    NotFound,
    /// Access refused or request invalid; shown to the operator, retried slowly.
    #[error("reading the shard is refused: {0}")]
    Refused(String),
    /// The sequence number to start at is not of this shard; retried slowly.
    #[error(
        "the stream does not accept the checkpoint: {0}; if the lease belongs to another stream, correct \
         --stream or --application and keep the leases; if this stream was deleted and created again, stop the \
         workers and run `kinetide leases delete --all`, or use another --application"
    )]
    Foreign(String),
    /// Somebody else subscribes to the shard under the same consumer: another worker, as long as one of both has not noticed
    /// that the lease has moved, or another application.
    #[error(
        "another subscription of this fan-out consumer took the shard: {0}; if it comes again and again, another \
         application uses the consumer: give each its own --consumer-name"
    )]
    InUse(String),
    /// There is no consumer for enhanced fan-out and none can be made, or it may not be used; retried slowly.
    #[error("enhanced fan-out is not possible: {0}")]
    NoFanOut(String),
    /// The stream does not hold what was read from it: its end was cut off, and other records may be there by now. Nothing
    /// is moved; retried slowly.
    #[error("{0}")]
    Truncated(String),
    /// Anything else; keep the iterator and try again.
    #[error("could not read the shard")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FetchError {
    /// Every answer of [`FetchError::kind`] but that for throttling, which is counted apart.
    pub const KINDS: [&'static str; 8] = [
        "expired_iterator",
        "not_found",
        "refused",
        "stream_recreated",
        "subscription_in_use",
        "no_fan_out",
        "log_truncated",
        "unavailable",
    ];

    /// The kind as a short word, for metrics and for the reason of a stalled shard.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ExpiredIterator => "expired_iterator",
            Self::Throttled => "throttled",
            Self::NotFound => "not_found",
            Self::Refused(_) => "refused",
            Self::Foreign(_) => "stream_recreated",
            Self::InUse(_) => "subscription_in_use",
            Self::NoFanOut(_) => "no_fan_out",
            Self::Truncated(_) => "log_truncated",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// What lies ahead of a place in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The first record there, and when it arrived, µs since the epoch. `None`: there is none, or it was not found at once.
    pub first: Option<(SequenceNumber, i64)>,
    /// How far this place is behind the newest record.
    pub behind: Behind,
}

/// What became of the record that reading was to start at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartRecord {
    /// It is there, and read again.
    There,
    /// It has left the stream, and records between it and the first one that is there perhaps with it. `None`: nothing
    /// is there.
    Gone(Option<SequenceNumber>),
    /// It is not there, and nothing says that it or another one has left the stream unread: it was compacted away, or there
    /// never was one. Only where sequence numbers have holes ([`Page::sparse`]).
    LeftOut,
}

/// What a reader brings.
#[derive(Debug)]
pub struct Pulled {
    /// The records, possibly none.
    pub page: Page,
    /// The memory that the page takes. Given back with it, or to the batch that its records go to.
    pub room: Room,
    /// Where the page ends.
    pub behind: Behind,
    /// Told once by a reader that starts at a record ([`StartAt::At`]), as soon as it is known. Told later by one that finds
    /// that records after the last one it brought have left the stream.
    pub start: Option<StartRecord>,
    /// Nothing comes after this page, and these are the children of the shard; empty where the stream does not name them.
    pub end: Option<Vec<ChildShard>>,
}

/// Room in memory for one page.
#[derive(Debug)]
pub struct Room {
    /// The bytes that are taken from the budget.
    pub permit: BytePermit,
    /// The bytes of the page are somebody else's, who lets one page after the other into this place.
    pub place: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// The page takes so many bytes.
    pub fn fit(&mut self, bytes: usize) {
        if self.place.is_none() {
            self.permit.set(bytes);
        }
    }
}

/// What a reader asks of whoever it reads for.
#[async_trait]
pub trait ReadsFor: Send + Sync {
    /// Returns when the stream may be asked, with room for what may come: at most `bytes`. Asked for only when something
    /// is about to be pulled, as bytes that are held over a pause make memory look short for ever.
    async fn room(&self, bytes: usize) -> Room;

    /// A call with this name begins; it is over when the answer is dropped.
    fn calling(&self, call: &'static str) -> Waiting;

    /// Returns when it is proven that the shard is still ours to read, by something that was asked after this call; never
    /// where it is not.
    async fn still_ours(&self);

    /// From now on the shard is read in this way.
    fn reads_by(&self, retrieval: Retrieval);

    /// The last record of the shard that was read before, and who wrote it, as far as that is known.
    fn read_upto(&self) -> Option<WrittenBy> {
        None
    }

    /// The hash keys of the shard, as far as they are known.
    fn hash_range(&self) -> Option<HashKeyRange> {
        None
    }
}

/// The records of streams, shard by shard. One of the four seams: how a shard is read, by polling or by a subscription, at
/// which pace, and what has to be renewed meanwhile, is behind it.
#[async_trait]
pub trait RecordSource: Send + Sync {
    /// A reader of `shard` that begins at `start`. Dropping it closes whatever it has open. `seed`: of its random pauses.
    fn open(
        &self,
        shard: &ShardId,
        start: StartAt,
        reads_for: Arc<dyn ReadsFor>,
        seed: u64,
    ) -> Box<dyn ShardReader>;

    /// What lies ahead of `start` in `shard`, for people: it costs little and is not asked for while reading.
    ///
    /// # Errors
    /// After a few tries. [`FetchError::Foreign`]: there can be no such place.
    async fn lag(&self, shard: &ShardId, start: &StartAt) -> Result<Ahead, FetchError>;

    /// An upper bound of the bytes that one page may take.
    fn page_bytes_max(&self) -> usize;
}

/// One shard, from one record to the next.
#[async_trait]
pub trait ShardReader: Send {
    /// What comes next, once it is time to ask. Empty pages are ordinary. Not called any more after a page with an end.
    ///
    /// # Errors
    /// Of one try: the reader waits by itself before the next one, for ever if need be. [`FetchError::NotFound`] again and
    /// again: the stream has forgotten the shard.
    async fn next(&mut self) -> Result<Pulled, FetchError>;
}
