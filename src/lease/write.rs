//! Every write to a lease row, as data, with the condition and effect it has in KCL's table
//! (`DynamoDBLeaseRefresher`, `DynamoDBLeaseSerializer`).

use super::row::{Lease, Pending, WorkerId};
use crate::shard::{Checkpoint, ShardId};

/// One conditional update of a lease row.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseWrite {
    /// Heartbeat: counter + 1.
    Renew,
    /// Become the owner: counter + 1, `checkpointOwner` removed, owner switches counted.
    Take(WorkerId),
    /// Give the lease up: owner removed (or only `checkpointOwner` during a hand-off), counter + 1.
    Evict,
    /// Announce a batch: the pending trio is set, `checkpoint` stays; counter + 1.
    Prepare(Pending),
    /// Move the checkpoint and remove the pending trio; counter + 1, owner switches back to 0.
    Commit(Checkpoint),
    /// Record the children at shard end. KCL's meta update: no counter.
    SetChildren(Vec<ShardId>),
}

/// The condition of `write`, decided on `seen`, on the row as it stands.
///
/// Always `leaseCounter = seen.counter`, which implies KCL's "row exists" for the children. The start of a
/// graceful hand-off changes the owners and not the counter, so as in KCL a renew also fails when there is a
/// `checkpointOwner` that it does not know of, and an evict when either owner is not as seen.
pub fn holds(current: &Lease, seen: &Lease, write: &LeaseWrite) -> bool {
    current.counter == seen.counter
        && match write {
            LeaseWrite::Renew => seen.checkpoint_owner.is_some() || current.checkpoint_owner.is_none(),
            LeaseWrite::Evict => {
                current.owner == seen.owner && current.checkpoint_owner == seen.checkpoint_owner
            }
            _ => true,
        }
}

/// What the row looks like after `write`, given that its condition [`holds`] on `row`.
pub fn apply(row: &Lease, write: &LeaseWrite) -> Lease {
    let mut next = row.clone();
    if !matches!(write, LeaseWrite::SetChildren(_)) {
        next.counter += 1;
    }
    match write {
        LeaseWrite::Renew => {}
        LeaseWrite::Take(me) => {
            if counts_as_switch(row, me) {
                next.owner_switches += 1;
            }
            next.owner = Some(me.clone());
            next.checkpoint_owner = None;
        }
        LeaseWrite::Evict => {
            if row.checkpoint_owner.is_none() {
                next.owner = None;
            }
            next.checkpoint_owner = None;
        }
        LeaseWrite::Prepare(pending) => {
            next.owner_switches = 0;
            next.pending = Some(pending.clone());
        }
        LeaseWrite::Commit(checkpoint) => {
            next.owner_switches = 0;
            next.checkpoint = checkpoint.clone();
            next.pending = None;
        }
        LeaseWrite::SetChildren(children) => next.children = children.clone(),
    }
    next
}

/// KCL adds to `ownerSwitchesSinceCheckpoint` when an old owner is replaced by another worker, or when the old
/// owner of a hand-off takes its lease back.
pub(super) fn counts_as_switch(row: &Lease, new_owner: &WorkerId) -> bool {
    row.owner.as_ref().is_some_and(|owner| owner != new_owner)
        || row.checkpoint_owner.as_ref() == Some(new_owner)
}
