//! The seam to the stream's records.

use async_trait::async_trait;
use tokio::time::Instant;

use super::page::Page;
use crate::shard::{SequenceNumber, ShardId};
use crate::telemetry::metrics;

/// Most records that one call may bring (`GetRecords`, API reference).
pub(super) const PAGE_RECORDS_MAX: usize = 10_000;

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
        "the stream does not take the checkpoint for one of its own: {0}; either the lease belongs to another stream, then \
         correct --stream or --application and leave the leases alone; or this stream was deleted and made again, then \
         stop the workers and run `kinetide leases delete --all`, or start with another --application"
    )]
    Foreign(String),
    /// Anything else; keep the iterator and try again.
    #[error("could not read the shard")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FetchError {
    /// Every answer of [`FetchError::kind`] but that for throttling, which is counted apart.
    pub const KINDS: [&'static str; 5] =
        ["expired_iterator", "not_found", "refused", "stream_recreated", "unavailable"];

    /// The kind as a short word, for metrics and for the reason of a stalled shard.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ExpiredIterator => "expired_iterator",
            Self::Throttled => "throttled",
            Self::NotFound => "not_found",
            Self::Refused(_) => "refused",
            Self::Foreign(_) => "stream_recreated",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Reads the records of shards, one page a call. One of the four seams.
#[async_trait]
pub trait RecordSource: Send + Sync {
    /// An iterator (opaque to the caller) that starts at `start`.
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError>;

    /// The records at `iterator`, at most `records_max`, possibly none. After an error the same iterator may be used again, unless it
    /// has expired. Callers go through [`fetch_page`], which measures.
    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError>;

    /// An upper bound of the body bytes that one page may hold, reserved from the budget before the call.
    fn page_bytes_max(&self) -> usize;
}

/// Fetches a page and reports the call to the metrics.
pub async fn fetch_page(
    source: &dyn RecordSource,
    shard: &ShardId,
    iterator: &str,
) -> Result<Page, FetchError> {
    let started = Instant::now();
    let answer = source.fetch(shard, iterator, PAGE_RECORDS_MAX).await;
    match &answer {
        Ok(page) => metrics::page_fetched(page.len(), page.bytes(), started.elapsed()),
        Err(FetchError::Throttled) => metrics::fetch_throttled(started.elapsed()),
        Err(error) => metrics::fetch_failed(error.kind(), started.elapsed()),
    }
    answer
}
