//! A source whose aggregates are unpacked, over one that reads them as they are, polled or not.

use std::sync::Arc;

use async_trait::async_trait;

use super::aggregate::{Found, OutOfRange, has_aggregates, unpack};
use super::source::{Ahead, FetchError, Pulled, ReadsFor, RecordSource, ShardReader, StartAt};
use crate::shard::ShardId;
use crate::telemetry::metrics;

/// Larger pages are unpacked on a blocking thread: this much takes about half a millisecond.
const UNPACK_HERE_MAX: usize = 256 << 10;

/// Unpacks the aggregates of a stream.
pub struct Unpacking {
    packed: Arc<dyn RecordSource>,
    outside: OutOfRange,
}

impl Unpacking {
    /// Over `packed`.
    pub fn new(packed: Arc<dyn RecordSource>, outside: OutOfRange) -> Self {
        Self { packed, outside }
    }
}

#[async_trait]
impl RecordSource for Unpacking {
    fn open(
        &self,
        shard: &ShardId,
        start: StartAt,
        reads_for: Arc<dyn ReadsFor>,
        seed: u64,
    ) -> Box<dyn ShardReader> {
        let packed = self.packed.open(shard, start, Arc::clone(&reads_for), seed);
        Box::new(Unpacker { packed, reads_for, outside: self.outside })
    }

    async fn lag(&self, shard: &ShardId, start: &StartAt) -> Result<Ahead, FetchError> {
        self.packed.lag(shard, start).await
    }

    /// Indexes of very small records may take a page above it; what it takes is accounted for all the same.
    fn page_bytes_max(&self) -> usize {
        self.packed.page_bytes_max()
    }
}

struct Unpacker {
    packed: Box<dyn ShardReader>,
    reads_for: Arc<dyn ReadsFor>,
    outside: OutOfRange,
}

#[async_trait]
impl ShardReader for Unpacker {
    async fn next(&mut self) -> Result<Pulled, FetchError> {
        let mut pulled = self.packed.next().await?;
        if !has_aggregates(&pulled.page) {
            return Ok(pulled);
        }
        let (page, range, outside) =
            (std::mem::take(&mut pulled.page), self.reads_for.hash_range(), self.outside);
        let before = page.bytes();
        let (page, found) = if before > UNPACK_HERE_MAX {
            let unpacking = tokio::task::spawn_blocking(move || unpack(page, range, outside));
            unpacking.await.map_err(|e| FetchError::Unavailable(e.into()))?
        } else {
            unpack(page, range, outside)
        };
        let Found { unpacked, records, outside, broken, dropped } = found;
        metrics::aggregates_found(unpacked, records, outside, broken, dropped);
        // A small page keeps the room that it had.
        if page.bytes() > before {
            pulled.room.fit(page.bytes());
        }
        pulled.page = page;
        Ok(pulled)
    }
}
