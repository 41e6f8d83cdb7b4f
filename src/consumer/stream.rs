//! What a consumer knows of the stream that its shard is of.
//!
//! Owns: the streams of a worker, found by lease; they come and go while it runs.
//! Does not own: which stream a lease key names (`lease`), where the settings come from (`service`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::fetch::{ByteBudget, RecordSource};
use crate::lease::coordinator::Coordinator;
use crate::lease::{HeldLease, LeaseKey, RETENTION_HOURS_MIN};
use crate::shard::{FindStart, ShardLister};
use crate::telemetry::status::Status;
use crate::transform::SourceKind;

/// Why nobody reads a shard any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// Asked to; everything read is delivered and committed, the lease is still held.
    ShutdownRequested,
    /// The shard is read to its end, and its lease says so.
    ShardEnd,
    /// The lease is lost; nothing more was written.
    LeaseLost,
}

/// What all shards of a process share, whatever is done with their records.
pub struct Shared {
    /// What is read.
    pub streams: StreamSetups,
    /// Holds the leases, and creates those of children.
    pub coordinator: Arc<Coordinator>,
    /// Bytes in memory, over all shards.
    pub budget: ByteBudget,
    /// What operators see.
    pub status: Arc<Status>,
    /// Seed of all random choices.
    pub seed: u64,
}

impl Shared {
    /// The stream of a lease; `None` where this worker does not read it (any more).
    pub fn stream_of(&self, lease: &LeaseKey) -> Option<Arc<StreamSetup>> {
        self.streams.get(&self.coordinator.stream_of(lease)?)
    }
}

/// What is done with the records of a shard.
#[async_trait]
pub trait RunShard: Send + Sync {
    /// Works on one shard of `stream` until `stop`, its end, or the loss of its lease.
    async fn run(
        &self,
        shared: Arc<Shared>,
        stream: Arc<StreamSetup>,
        lease: Arc<HeldLease>,
        stop: CancellationToken,
    ) -> StopReason;
}

/// One stream: where its records come from, and what is done with them.
pub struct StreamSetup {
    /// How people name it: its name or ARN, unlike that of every other stream of the worker.
    pub address: Arc<str>,
    /// Its name, part of the object keys.
    pub name: String,
    /// Its kind.
    pub kind: SourceKind,
    /// Reads records.
    pub source: Arc<dyn RecordSource>,
    /// Reads records again that are known to be there, for a batch of a former owner or one that is repaired. It may be the
    /// same; but not where each reader of a shard drives the others away.
    pub again: Arc<dyn RecordSource>,
    /// Lists shards, for the children of one that does not name them.
    pub lister: Arc<dyn ShardLister>,
    /// Looks up what a symbolic checkpoint stands for.
    pub starts: Arc<dyn FindStart>,
    /// What is done with its records.
    pub work: Arc<dyn RunShard>,
    /// Where AT_TIMESTAMP leases start whose row does not say it, µs since the epoch.
    pub initial_timestamp_us: Option<i64>,
    /// How long the stream keeps records, as far as is known.
    pub retention: Retention,
    /// Bytes in memory, shared with the other streams.
    pub budget: ByteBudget,
    /// Cancelled when the worker does not read the stream any more.
    pub removed: CancellationToken,
}

/// How long a stream keeps records, hours.
#[derive(Debug)]
pub struct Retention(AtomicU32);

impl Retention {
    /// So many hours.
    pub fn hours(hours: u32) -> Self {
        Self(AtomicU32::new(hours))
    }

    /// Found out meanwhile.
    pub fn set(&self, hours: u32) {
        self.0.store(hours, Ordering::Relaxed);
    }

    /// So many hours.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Retention {
    /// What every stream has at least.
    fn default() -> Self {
        Self::hours(RETENTION_HOURS_MIN)
    }
}

/// The streams that a worker reads.
#[derive(Default)]
pub struct StreamSetups(Mutex<Vec<Arc<StreamSetup>>>);

impl StreamSetups {
    /// These.
    pub fn new(streams: Vec<Arc<StreamSetup>>) -> Self {
        Self(Mutex::new(streams))
    }

    /// From now on these. Consumers of those that are gone are told to finish.
    pub fn set(&self, streams: Vec<Arc<StreamSetup>>) {
        let before = std::mem::replace(&mut *self.lock(), streams);
        let now = self.all();
        for gone in before.iter().filter(|gone| !now.iter().any(|stream| Arc::ptr_eq(stream, gone))) {
            gone.removed.cancel();
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<StreamSetup>> {
        self.lock().clone()
    }

    /// The stream with this address.
    pub fn get(&self, address: &str) -> Option<Arc<StreamSetup>> {
        self.lock().iter().find(|stream| &*stream.address == address).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<StreamSetup>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
