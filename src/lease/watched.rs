//! The seams to the lease table and the stream's listing, with an eye on how each call goes.
//!
//! Owns: which operation of AWS a call is, and whether its outcome counts as an answer.
//! Does not own: what becomes of it: see [`Troubles`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::fleet::{LeaderRow, TableSnapshot, WorkerRow};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::LeaseWrite;
use crate::cause::chain;
use crate::shard::{
    ChildShard, FindStart, Lineage, ListError, SequenceNumber, Shard, ShardId, ShardLister, StartError,
    StartFound, StartFrom, StreamId,
};
use crate::telemetry::trouble::{Attempt, Call, Troubles};

macro_rules! calls {
    ($($name:ident: $operation:literal, $purpose:literal;)*) => {
        $(const $name: Call = Call { operation: $operation, purpose: $purpose };)*
        /// Every call that a coordinator makes.
        const ALL: &[Call] = &[$($name),*];
    };
}

calls! {
    PREPARE: "DescribeTable", "preparing the lease table";
    SCAN: "Scan", "reading the lease table";
    QUERY: "Query", "looking for the leases of this worker";
    GET: "GetItem", "reading a lease";
    CREATE: "PutItem", "creating a lease";
    WRITE: "UpdateItem", "writing a lease: renewals, checkpoints, assignments";
    DELETE: "DeleteItem", "deleting a finished lease";
    LOCK_GET: "GetItem", "reading the leader lock";
    LOCK_WRITE: "UpdateItem", "writing the leader lock";
    LOCK_DELETE: "DeleteItem", "releasing the leader lock";
    REPORT: "UpdateItem", "writing this worker's metrics row";
    FORGET: "DeleteItem", "deleting a worker's metrics row";
    LIST: "ListShards", "listing the shards of the stream";
    STREAM: "DescribeStreamSummary", "checking which stream it is";
    LIST_OF_TABLE: "DescribeStream", "listing the shards of the table's streams";
    STREAM_OF_TABLE: "ListStreams", "checking which streams the table has";
    ACCEPTS: "GetShardIterator", "checking whether a checkpoint belongs to the stream";
    FIND_START: "GetRecords", "looking up where a new shard starts";
}

/// Trouble of a coordinator's calls. It is lasting after two failover times; calls are made at least every `seldom`.
pub(super) fn troubles(failover: Duration, seldom: Duration) -> Arc<Troubles> {
    Troubles::new(ALL, failover * 2, (seldom * 5 / 2).max(Duration::from_secs(60)))
}

/// The calls that compare a stream and its leases.
const COMPARING: [Call; 6] = [LIST, STREAM, LIST_OF_TABLE, STREAM_OF_TABLE, ACCEPTS, FIND_START];

/// This worker does not compare this stream, or the only one, and its leases any more.
pub(super) fn compares_no_more(troubles: &Troubles, stream: Option<Arc<str>>) {
    COMPARING.into_iter().for_each(|call| troubles.over(call, stream.clone()));
}

/// The same, for as long as it does not lead.
pub(super) fn compares_not_now(troubles: &Troubles, stream: Option<Arc<str>>) {
    COMPARING.into_iter().for_each(|call| troubles.rest(call, stream.clone()));
}

/// A table or a lister with an eye on its calls.
pub(super) struct Watched<T: ?Sized> {
    inner: Arc<T>,
    troubles: Arc<Troubles>,
    /// The stream that its calls are about, where there are several.
    stream: Option<Arc<str>>,
}

impl<T: ?Sized> Watched<T> {
    pub(super) fn new(inner: Arc<T>, troubles: &Arc<Troubles>) -> Arc<Self> {
        Self::about(inner, troubles, None)
    }

    pub(super) fn about(inner: Arc<T>, troubles: &Arc<Troubles>, stream: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { inner, troubles: Arc::clone(troubles), stream })
    }

    async fn read<V, E: std::error::Error + 'static>(
        &self,
        call: Call,
        outcome: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        let attempt = self.troubles.begin_about(call, self.stream.clone());
        noted(attempt, outcome.await, |_| false)
    }

    async fn written<V>(
        &self,
        call: Call,
        outcome: impl Future<Output = Result<V, WriteError>>,
    ) -> Result<V, WriteError> {
        let attempt = self.troubles.begin_about(call, self.stream.clone());
        // A row that has moved on is an answer.
        noted(attempt, outcome.await, |error| matches!(error, WriteError::Conflict(_)))
    }
}

fn noted<V, E: std::error::Error + 'static>(
    attempt: Attempt,
    outcome: Result<V, E>,
    is_answer: impl Fn(&E) -> bool,
) -> Result<V, E> {
    match &outcome {
        Err(error) if !is_answer(error) => attempt.failed(chain(error)),
        _ => attempt.answered(),
    }
    outcome
}

#[async_trait]
impl LeaseTable for Watched<dyn LeaseTable> {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.read(PREPARE, self.inner.ensure_exists()).await
    }

    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.read(SCAN, self.inner.snapshot()).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        self.read(QUERY, self.inner.owned_by(worker)).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        self.read(GET, self.inner.get(key)).await
    }

    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        self.read(CREATE, self.inner.create(lease)).await
    }

    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        self.written(WRITE, self.inner.write(seen, write)).await
    }

    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        self.written(DELETE, self.inner.delete(seen)).await
    }

    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        self.read(LOCK_GET, self.inner.leader()).await
    }

    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        self.read(LOCK_WRITE, self.inner.lead(seen, next)).await
    }

    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        self.read(LOCK_DELETE, self.inner.resign(mine)).await
    }

    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        self.read(REPORT, self.inner.report(worker)).await
    }

    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        self.read(FORGET, self.inner.forget_worker(seen)).await
    }
}

impl Watched<dyn ShardLister> {
    /// The call of Kinesis, or that of DynamoDB Streams for the same.
    fn either(&self, of_kinesis: Call, of_table: Call) -> Call {
        if self.inner.lineage() == Lineage::Tree { of_table } else { of_kinesis }
    }
}

#[async_trait]
impl ShardLister for Watched<dyn ShardLister> {
    fn lineage(&self) -> Lineage {
        self.inner.lineage()
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        self.read(self.either(LIST, LIST_OF_TABLE), self.inner.list()).await
    }

    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        self.read(self.either(LIST, LIST_OF_TABLE), self.inner.children(shard)).await
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        self.read(self.either(STREAM, STREAM_OF_TABLE), self.inner.stream()).await
    }

    fn is_off(&self) -> bool {
        self.inner.is_off()
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        self.read(ACCEPTS, self.inner.accepts(shard, sequence)).await
    }
}

#[async_trait]
impl FindStart for Watched<dyn FindStart> {
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError> {
        self.read(FIND_START, self.inner.find(shard, from)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryLeaseTable;
    use super::*;
    use crate::shard::{Checkpoint, HashKeyRange};

    /// Others write as well: that is part of every day.
    #[tokio::test(start_paused = true)]
    async fn a_row_that_has_moved_on_is_an_answer_and_no_trouble() {
        let table = Arc::new(MemoryLeaseTable::new());
        let inner: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&table);
        let seconds = Duration::from_secs(10);
        let troubles = troubles(seconds, seconds);
        let watched = Watched::new(inner, &troubles);
        let shard = Shard {
            id: ShardId::new("shard"),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 1 }),
            starting_sequence_number: 0.into(),
            closed: false,
        };
        let seen = Lease::new(&shard, Checkpoint::TrimHorizon);
        assert!(watched.create(&seen).await.unwrap() && !watched.create(&seen).await.unwrap());
        watched.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
        let late = watched.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }).await;
        assert!(matches!(late, Err(WriteError::Conflict(_))) && watched.delete(&seen).await.is_err());
        assert_eq!(troubles.snapshot().len(), 0);
        table.drop_table();
        assert!(watched.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.is_err());
        let calls: Vec<_> = troubles.snapshot().into_iter().map(|trouble| trouble.call).collect();
        assert_eq!(calls, ["UpdateItem"]);
    }
}
