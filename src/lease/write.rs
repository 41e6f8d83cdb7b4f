//! Every write to a lease row, as data, with the condition and effect it has in KCL's table
//! (`DynamoDBLeaseRefresher`, `DynamoDBLeaseSerializer`).

use std::sync::Arc;

use super::caught_up::CaughtUp;
use super::delivered::Delivered;
use super::row::{LastPrepared, Lease, Pending, WorkerId};
use crate::shard::{Checkpoint, HashKeyRange, ShardId, WrittenBy};

/// One conditional update of a lease row.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseWrite {
    /// Heartbeat: counter + 1. What is not known leaves what was there.
    Renew {
        /// Throughput of the shard in KB/s.
        kbps: Option<f64>,
        /// The checkpoint as it was at the tip of the shard.
        caught_up: Option<CaughtUp>,
    },
    /// Give the lease to this worker: counter + 1, `checkpointOwner` removed, owner switches counted. What the leader
    /// does with a lease that nobody reads, and an owner that stops with its own.
    Assign(WorkerId),
    /// Begin a graceful hand-off to this worker: it becomes `leaseOwner`, the owner so far `checkpointOwner`, who may
    /// still renew and checkpoint. No counter.
    HandOff(WorkerId),
    /// Give the lease up: owner removed (or only `checkpointOwner`, which ends a hand-off), counter + 1.
    Evict,
    /// Announce a batch: the pending trio is set and remembered, `checkpoint` stays; counter + 1.
    Prepare {
        /// The trio.
        pending: Pending,
        /// Of the leader that wrote its last record, where the stream has such a thing; noted where it is known.
        epoch: Option<i32>,
    },
    /// Move the checkpoint and remove the pending trio; counter + 1, owner switches back to 0. A batch that is remembered is
    /// forgotten when the checkpoint is at or after its end.
    Commit {
        /// The new checkpoint.
        to: Checkpoint,
        /// When its record arrived, by the stream's clock, µs since the epoch; noted where it is known.
        arrived_us: Option<i64>,
        /// Of the leader that wrote its record. Not known: what the row said of another record, or of another reading of
        /// this one, is forgotten.
        epoch: Option<i32>,
    },
    /// Say where reading begins, in place of a symbolic checkpoint that each owner would interpret anew; counter + 1.
    /// `pendingCheckpoint` stays.
    Pin {
        /// TRIM_HORIZON, or the last record that is not to be read.
        checkpoint: Checkpoint,
        /// The time that it stands for, where it was one.
        start_us: Option<i64>,
    },
    /// Record the children at shard end. KCL's meta update: no counter.
    SetChildren(Vec<ShardId>),
    /// Forget how often the lease has moved. No counter.
    Settle,
    /// Fill in a missing hash key range. KCL's meta update: no counter.
    SetHashRange(HashKeyRange),
    /// Note the stream of a lease that names none. No counter.
    SetStream(Arc<str>),
}

impl LeaseWrite {
    /// [`LeaseWrite::Prepare`] by somebody who does not know who wrote the record.
    pub fn prepare(pending: Pending) -> Self {
        Self::Prepare { pending, epoch: None }
    }

    /// [`LeaseWrite::Commit`] by somebody who does not know when the record arrived, and who wrote it.
    pub fn commit(to: Checkpoint) -> Self {
        Self::Commit { to, arrived_us: None, epoch: None }
    }

    /// True when the counter grows: a heartbeat, and the end of every older write that is still on its way.
    pub fn moves_counter(&self) -> bool {
        !matches!(
            self,
            Self::HandOff(_)
                | Self::SetChildren(_)
                | Self::SetHashRange(_)
                | Self::SetStream(_)
                | Self::Settle
        )
    }
}

/// The condition of `write`, decided on `seen`, on the row as it stands.
///
/// Always `leaseCounter = seen.counter`, which is stricter than KCL's own conditions where the leader assigns: an
/// owner that has renewed since keeps its lease. The start of a graceful hand-off changes the owners and not the
/// counter, so as in KCL a renew also fails when there is a `checkpointOwner` that it does not know of, and a write
/// that changes owners when either is not as seen.
pub fn holds(current: &Lease, seen: &Lease, write: &LeaseWrite) -> bool {
    current.counter == seen.counter
        && match write {
            LeaseWrite::Renew { .. } => seen.checkpoint_owner.is_some() || current.checkpoint_owner.is_none(),
            LeaseWrite::Assign(_) | LeaseWrite::Evict => {
                current.owner == seen.owner && current.checkpoint_owner == seen.checkpoint_owner
            }
            LeaseWrite::HandOff(_) => {
                seen.owner.is_some() && current.owner == seen.owner && current.checkpoint_owner.is_none()
            }
            LeaseWrite::SetStream(_) => current.stream.is_none(),
            _ => true,
        }
}

/// What the row looks like after `write`, given that its condition [`holds`] on `row`.
pub fn apply(row: &Lease, write: &LeaseWrite) -> Lease {
    let mut next = row.clone();
    if write.moves_counter() {
        next.counter += 1;
    }
    match write {
        LeaseWrite::Renew { kbps, caught_up } => {
            next.throughput_kbps = kbps.or(row.throughput_kbps);
            if caught_up.is_some() {
                next.caught_up.clone_from(caught_up);
            }
        }
        LeaseWrite::Assign(to) => {
            if counts_as_switch(row, to) {
                next.owner_switches += 1;
            }
            next.moves = moves_with(row, to);
            next.owner = Some(to.clone());
            next.checkpoint_owner = None;
        }
        LeaseWrite::HandOff(to) => {
            next.moves = moves_with(row, to);
            next.checkpoint_owner = next.owner.replace(to.clone());
        }
        LeaseWrite::Evict => {
            if row.checkpoint_owner.is_none() {
                next.owner = None;
            }
            next.checkpoint_owner = None;
        }
        LeaseWrite::Prepare { pending, epoch } => {
            next.owner_switches = 0;
            next.pending = Some(pending.clone());
            next.last_prepared = LastPrepared::of(pending, &row.checkpoint);
            next.written = WrittenBy::of(&pending.checkpoint, *epoch).or(next.written);
        }
        LeaseWrite::Commit { to, arrived_us, epoch } => {
            next.owner_switches = 0;
            next.checkpoint = to.clone();
            next.pending = None;
            next.last_prepared.take_if(|last| *to >= last.pending.checkpoint);
            next.start_us = None;
            next.delivered = Delivered::of(to, *arrived_us).or(next.delivered);
            next.written = WrittenBy::of(to, *epoch);
        }
        LeaseWrite::Pin { checkpoint, start_us } => {
            next.checkpoint = checkpoint.clone();
            next.start_us = *start_us;
        }
        LeaseWrite::SetChildren(children) => next.children = children.clone(),
        LeaseWrite::Settle => next.moves = 0,
        LeaseWrite::SetHashRange(range) => next.hash_range = Some(*range),
        LeaseWrite::SetStream(stream) => next.stream = Some(Arc::clone(stream)),
    }
    next
}

/// How often the lease has moved once it is given to this worker. Who finds it without an owner takes it from nobody.
pub(super) fn moves_with(row: &Lease, new_owner: &WorkerId) -> u64 {
    let from_another = row.actual_owner().is_some_and(|owner| owner != new_owner);
    row.moves.saturating_add(u64::from(from_another))
}

/// KCL adds to `ownerSwitchesSinceCheckpoint` when an old owner is replaced by another worker, or when the old
/// owner of a hand-off takes its lease back.
pub(super) fn counts_as_switch(row: &Lease, new_owner: &WorkerId) -> bool {
    row.owner.as_ref().is_some_and(|owner| owner != new_owner)
        || row.checkpoint_owner.as_ref() == Some(new_owner)
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
