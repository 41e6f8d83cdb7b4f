//! The seam to the table that holds the leases.

use async_trait::async_trait;

use super::fleet::{LeaderRow, TableSnapshot, WorkerRow};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::whose::NotOurs;
use super::write::LeaseWrite;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a read, or a call about the table itself, gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The table does not exist.
    #[error("lease table {0} not found")]
    NotFound(String),
    /// The table exists and is not what a lease table must be, or access is refused. Retrying does not help.
    #[error("lease table {table}: {reason}")]
    Unusable {
        /// Name of the table.
        table: String,
        /// What is wrong, and what to change.
        reason: String,
    },
    /// The leases in it are not those of our stream. Retrying does not help.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// Throttled, unreachable or failing: worth another try.
    #[error("lease table not available")]
    Unavailable(#[source] Source),
}

/// Why a conditional write did not (visibly) succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The condition failed; the row as it stands now, absent if it was deleted.
    #[error("the lease row has moved on")]
    Conflict(Option<Box<Lease>>),
    /// Refused before it could have had any effect (throttled, not sent). Worth another try.
    #[error("lease write refused")]
    NotWritten(#[source] Source),
    /// No answer, or one that says nothing (time-out, broken connection, 5xx): the write may or may not have
    /// happened, and may still happen.
    #[error("outcome of the lease write unknown")]
    Unknown(#[source] Source),
}

/// The lease table. One of the four seams; implemented by DynamoDB and by a twin in memory, held to one
/// conformance suite.
#[async_trait]
pub trait LeaseTable: Send + Sync {
    /// Creates what is missing and waits until it can be used. Refuses tables whose fleet works by other rules than
    /// those of KCL 3.x.
    async fn ensure_exists(&self) -> Result<(), TableError>;

    /// All leases and workers. May be slightly stale. Rows that cannot be understood are reported once.
    async fn snapshot(&self) -> Result<TableSnapshot, TableError>;

    /// The keys of the leases whose `leaseOwner` is this worker, by the index. May be slightly stale.
    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError>;

    /// One lease, read consistently.
    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError>;

    /// Creates the row unless there is one with this key; false when there was.
    async fn create(&self, lease: &Lease) -> Result<bool, TableError>;

    /// Applies `write` on the condition that the row still exists with `seen.counter`. Answers the row as
    /// written: [`super::apply`] of `seen`, with attributes that do not belong to the write as they stand.
    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError>;

    /// Deletes the row on the condition that it still has `seen.counter`.
    async fn delete(&self, seen: &Lease) -> Result<(), WriteError>;

    /// The leader's lock, read consistently.
    async fn leader(&self) -> Result<Option<LeaderRow>, TableError>;

    /// Takes or keeps the lock: writes `next` on the condition that the row is as `seen` (by its version), or that
    /// there is none. False when it was not.
    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError>;

    /// Deletes the lock on the condition that it is as `mine`. False when it was not.
    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError>;

    /// Writes the row of a worker, whatever is there. Answers the row before it.
    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError>;

    /// Deletes the row of a worker on the condition that its `updated` is as `seen`. False when it was not.
    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError>;
}
