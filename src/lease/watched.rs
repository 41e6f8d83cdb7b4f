//! The seams to the lease table and the stream's listing, with an eye on how each call goes.
//!
//! Owns: which operation of AWS, or of Kafka, a call is, and whether its outcome counts as an answer.
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
    LIST_OF_TOPIC: "Metadata", "listing the partitions of the topic";
    STREAM_OF_TOPIC: "Metadata", "checking which topic it is";
    ACCEPTS_OF_TOPIC: "ListOffsets", "checking whether a checkpoint belongs to the topic";
    FIND_START_OF_TOPIC: "ListOffsets", "looking up where a new partition starts";
}

/// The calls by which a stream of one kind is compared with its leases.
#[derive(Clone, Copy)]
struct Comparing {
    list: Call,
    stream: Call,
    accepts: Call,
    find_start: Call,
}

impl Comparing {
    const fn of(lineage: Lineage) -> Self {
        let (accepts, find_start) = (ACCEPTS, FIND_START);
        match lineage {
            Lineage::HashKeys => Self { list: LIST, stream: STREAM, accepts, find_start },
            Lineage::Tree => Self { list: LIST_OF_TABLE, stream: STREAM_OF_TABLE, accepts, find_start },
            Lineage::Flat => Self {
                list: LIST_OF_TOPIC,
                stream: STREAM_OF_TOPIC,
                accepts: ACCEPTS_OF_TOPIC,
                find_start: FIND_START_OF_TOPIC,
            },
        }
    }
}

/// Trouble of a coordinator's calls. It is lasting after two failover times; calls are made at least every `seldom`.
pub(super) fn troubles(failover: Duration, seldom: Duration) -> Arc<Troubles> {
    Troubles::new(ALL, failover * 2, (seldom * 5 / 2).max(Duration::from_secs(60)))
}

/// The calls that compare a stream of any kind and its leases.
fn comparing() -> impl Iterator<Item = Call> {
    let kinds = [Lineage::HashKeys, Lineage::Tree, Lineage::Flat].map(Comparing::of);
    kinds.into_iter().flat_map(|calls| [calls.list, calls.stream, calls.accepts, calls.find_start])
}

/// This worker does not compare this stream, or the only one, and its leases any more.
pub(super) fn compares_no_more(troubles: &Troubles, stream: Option<Arc<str>>) {
    comparing().for_each(|call| troubles.over(call, stream.clone()));
}

/// The same, for as long as it does not lead.
pub(super) fn compares_not_now(troubles: &Troubles, stream: Option<Arc<str>>) {
    comparing().for_each(|call| troubles.rest(call, stream.clone()));
}

/// A table or a lister with an eye on its calls.
pub(super) struct Watched<T: ?Sized> {
    inner: Arc<T>,
    troubles: Arc<Troubles>,
    /// The stream that its calls are about, where there are several.
    stream: Option<Arc<str>>,
    calls: Comparing,
}

impl<T: ?Sized> Watched<T> {
    pub(super) fn new(inner: Arc<T>, troubles: &Arc<Troubles>) -> Arc<Self> {
        Self::about(inner, troubles, None, Lineage::HashKeys)
    }

    /// `lineage`: that of the stream, which has calls of its own.
    pub(super) fn about(
        inner: Arc<T>,
        troubles: &Arc<Troubles>,
        stream: Option<Arc<str>>,
        lineage: Lineage,
    ) -> Arc<Self> {
        Arc::new(Self { inner, troubles: Arc::clone(troubles), stream, calls: Comparing::of(lineage) })
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

#[async_trait]
impl ShardLister for Watched<dyn ShardLister> {
    fn lineage(&self) -> Lineage {
        self.inner.lineage()
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        self.read(self.calls.list, self.inner.list()).await
    }

    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        self.read(self.calls.list, self.inner.children(shard)).await
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        self.read(self.calls.stream, self.inner.stream()).await
    }

    fn is_off(&self) -> bool {
        self.inner.is_off()
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        self.read(self.calls.accepts, self.inner.accepts(shard, sequence)).await
    }
}

#[async_trait]
impl FindStart for Watched<dyn FindStart> {
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError> {
        self.read(self.calls.find_start, self.inner.find(shard, from)).await
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

    struct Down(Lineage);

    #[async_trait]
    impl ShardLister for Down {
        fn lineage(&self) -> Lineage {
            self.0
        }

        async fn list(&self) -> Result<Vec<Shard>, ListError> {
            Err(ListError::NotFound("anywhere".to_owned()))
        }

        async fn children(&self, _: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
            Err(ListError::NotFound("anywhere".to_owned()))
        }

        async fn stream(&self) -> Result<Option<StreamId>, ListError> {
            Err(ListError::NotFound("anywhere".to_owned()))
        }

        async fn accepts(&self, _: &ShardId, _: &SequenceNumber) -> Result<bool, ListError> {
            Err(ListError::NotFound("anywhere".to_owned()))
        }
    }

    #[async_trait]
    impl FindStart for Down {
        async fn find(&self, shard: &ShardId, _: StartFrom) -> Result<StartFound, StartError> {
            Err(StartError { shard: shard.clone(), source: "down".into() })
        }
    }

    /// Whoever is woken by a message looks for the call that it names.
    #[tokio::test(start_paused = true)]
    async fn the_calls_of_a_stream_are_those_of_its_kind() {
        let of_kinesis = ["DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards"];
        let of_tables = ["DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"];
        let of_topics = ["ListOffsets", "ListOffsets", "Metadata", "Metadata"];
        for (lineage, expected) in
            [(Lineage::HashKeys, of_kinesis), (Lineage::Tree, of_tables), (Lineage::Flat, of_topics)]
        {
            let (lister, starts): (Arc<dyn ShardLister>, Arc<dyn FindStart>) =
                (Arc::new(Down(lineage)), Arc::new(Down(lineage)));
            let troubles = troubles(Duration::from_secs(10), Duration::from_secs(10));
            let lister = Watched::about(lister, &troubles, None, lineage);
            let starts = Watched::about(starts, &troubles, None, lineage);
            let shard = ShardId::new("shard");
            assert!(lister.list().await.is_err() && lister.children(&shard).await.is_err());
            assert!(lister.stream().await.is_err() && lister.accepts(&shard, &0.into()).await.is_err());
            assert!(starts.find(&shard, StartFrom::Tip).await.is_err());
            let mut calls: Vec<_> = troubles.snapshot().into_iter().map(|trouble| trouble.call).collect();
            calls.sort_unstable();
            assert_eq!(calls, expected);
            let words = troubles.snapshot().into_iter().map(|trouble| trouble.purpose).collect::<String>();
            assert_eq!(words.contains("topic"), lineage == Lineage::Flat, "{words}");
            compares_no_more(&troubles, None);
            assert_eq!(troubles.snapshot().len(), 0);
        }
    }
}
