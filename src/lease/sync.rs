//! Keeps the leases in step with the shards of the stream.
//!
//! Owns: the reads and writes around the rules of `shard::graph`. Every write is conditional and may be repeated
//! by several workers at once.
//! Does not own: when it happens and who does it (`coordinator`), the rules themselves (`shard::graph`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::held::{HeldLease, LeaseWriteError};
use super::row::Lease;
use super::table::{LeaseTable, TableError, chain};
use super::write::LeaseWrite;
use crate::shard::graph::{Inconsistent, Leased, Leases, deletable, missing_leases};
use crate::shard::{Checkpoint, ChildShard, ListError, Shard, ShardId, ShardLister};

/// Why leases and shards could not be brought in step. Worth another try, except for a lost lease.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The lease table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The stream.
    #[error(transparent)]
    List(#[from] ListError),
    /// The stream's listing contradicts itself.
    #[error(transparent)]
    Listing(#[from] Inconsistent),
    /// The lease that the request was about.
    #[error(transparent)]
    Lease(#[from] LeaseWriteError),
    /// A merged child needs the leases of both parents first. Try again in a moment.
    #[error("the lease of the other merge parent {0} does not exist yet")]
    ParentMissing(ShardId),
}

/// A stream and the table that holds its leases.
pub(super) struct ShardSync {
    table: Arc<dyn LeaseTable>,
    lister: Arc<dyn ShardLister>,
    /// Where shards without any leased ancestor start.
    initial: Checkpoint,
}

impl ShardSync {
    pub(super) fn new(table: Arc<dyn LeaseTable>, lister: Arc<dyn ShardLister>, initial: Checkpoint) -> Self {
        Self { table, lister, initial }
    }

    /// Creates the leases that are missing, deletes those that are done with.
    pub(super) async fn sync(&self) -> Result<(), SyncError> {
        let listing = self.lister.list().await?;
        let rows = self.table.snapshot().await?.leases;
        let leases: Leases = rows.iter().map(|row| (row.key.clone(), leased(row))).collect();
        for (shard, start) in missing_leases(&listing, &leases, &self.initial)? {
            let start_at = start.as_str().to_owned();
            if self.table.create(&Lease::new(shard, start)).await? {
                tracing::info!(lease = %shard.id, start = start_at, "lease created");
            }
        }
        let done: BTreeSet<&ShardId> = deletable(&leases, &listing).into_iter().collect();
        for row in rows.iter().filter(|row| done.contains(&row.key)) {
            self.delete(row).await;
        }
        Ok(())
    }

    /// Deletes those of these finished leases that nobody needs any more.
    pub(super) async fn clean_up(&self, finished: &[Lease]) -> Result<(), SyncError> {
        // Only a lease that does not name its children needs the stream to know that it has none.
        let childless = finished.iter().any(|row| row.children.is_empty());
        let listing = if childless { self.lister.list().await? } else { Vec::new() };
        for row in finished {
            let mut family = Leases::from([(row.key.clone(), leased(row))]);
            for relative in row.parents.iter().chain(&row.children) {
                if let Some(relative) = self.table.get(relative).await? {
                    family.insert(relative.key.clone(), leased(&relative));
                }
            }
            if deletable(&family, &listing).contains(&&row.key) {
                self.delete(row).await;
            }
        }
        Ok(())
    }

    async fn delete(&self, row: &Lease) {
        match self.table.delete(row).await {
            Ok(()) => tracing::info!(lease = %row.key, "finished lease deleted"),
            Err(error) => tracing::debug!(lease = %row.key, error = %chain(&error), "lease not deleted"),
        }
    }

    /// Makes sure that a merge parent has, or had, a lease.
    async fn require_lease(&self, parent: &ShardId) -> Result<(), SyncError> {
        if self.table.get(parent).await?.is_some() {
            return Ok(());
        }
        let listed = |listing: &[Shard]| listing.iter().any(|shard| shard.id == *parent);
        if !listed(&self.lister.list().await?) {
            return Ok(()); // forgotten by the stream: there is nothing to read any more
        }
        self.sync().await?;
        match self.table.get(parent).await? {
            Some(_) => Ok(()),
            None => Err(SyncError::ParentMissing(parent.clone())),
        }
    }

    /// Creates the leases of a closed shard's children, then records them on the parent's row.
    ///
    /// A merged child waits for the leases of both parents: otherwise the other parent would never be read, or
    /// after its child.
    pub(super) async fn create_children(
        &self,
        parent: &HeldLease,
        children: &[ChildShard],
    ) -> Result<(), SyncError> {
        let row = parent.row();
        let start = match row.checkpoint {
            Checkpoint::AtTimestamp => Checkpoint::AtTimestamp,
            _ => Checkpoint::TrimHorizon,
        };
        for child in children {
            if self.table.get(&child.id).await?.is_some() {
                continue;
            }
            for other in child.parents.iter().filter(|other| *other != parent.key()) {
                self.require_lease(other).await?;
            }
            if self.table.create(&Lease::new(&child.to_shard(), start.clone())).await? {
                tracing::info!(lease = %child.id, parent = %parent.key(), "lease of child shard created");
            }
        }
        let mut ids: Vec<ShardId> = children.iter().map(|child| child.id.clone()).collect();
        ids.sort_unstable();
        if !ids.is_empty() && row.children != ids {
            parent.write(LeaseWrite::SetChildren(ids)).await?;
        }
        Ok(())
    }

    /// True when the shard of `lease` may be read: each parent's lease is finished or gone, read consistently.
    pub(super) async fn parents_finished(&self, lease: &Lease) -> Result<bool, TableError> {
        for parent in &lease.parents {
            if self.table.get(parent).await?.is_some_and(|parent| !parent.finished()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn leased(row: &Lease) -> Leased {
    Leased {
        checkpoint: row.checkpoint.clone(),
        parents: row.parents.clone(),
        children: row.children.clone(),
    }
}
