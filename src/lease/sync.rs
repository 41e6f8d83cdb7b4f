//! Keeps the leases in step with the shards of the stream.
//!
//! Owns: the reads and writes around the rules of `shard::graph` and `shard::audit`. Every write is conditional and may
//! be repeated by several workers at once.
//! Does not own: when it happens and who does it (`coordinator`), the rules themselves.
//!
//! ```text
//! look at the leases ─► finished ones that nobody needs are deleted
//!        │ due (`audit`)
//! list the stream ─► read the table ─► create what is missing ─► fill in hash ranges
//!        │                                  ─► delete what is done with, and what the stream has forgotten
//!        └─► not of this stream: nothing is written
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::fleet::TableSnapshot;
use super::held::{HeldLease, LeaseWriteError};
use super::key::LeaseKey;
use super::row::Lease;
use super::stream_set::StreamLeases;
use super::table::{LeaseTable, TableError, WriteError};
use super::watched::{self, Watched};
use super::whose::{self, NotOurs};
use super::write::LeaseWrite;
use crate::cause::chain;
use crate::shard::audit::{Verdict, Watch};
use crate::shard::graph::{Inconsistent, Leased, Leases, deletable, missing_leases, strangers};
use crate::shard::{
    Checkpoint, ChildShard, FindStart, Lineage, ListError, Shard, ShardId, ShardLister, StartError,
    StartFrom, StreamId,
};
use crate::telemetry::metrics;
use crate::telemetry::trouble::Troubles;

/// Writes to the table at the same time.
const CONCURRENCY: usize = 20;
/// A hole is told of when it is found this often in a row.
const TELL_FINDINGS: u32 = 2;

/// Why leases and shards could not be brought in step. Worth another try, except for a lost lease.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The lease table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The stream.
    #[error(transparent)]
    List(#[from] ListError),
    /// Where a shard starts.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The stream's listing contradicts itself.
    #[error(transparent)]
    Listing(#[from] Inconsistent),
    /// The lease that the request was about.
    #[error(transparent)]
    Lease(#[from] LeaseWriteError),
    /// A merged child needs the leases of both parents first. Try again in a moment.
    #[error("the lease of the other merge parent {0} does not exist yet")]
    ParentMissing(ShardId),
    /// Its account, or when it was created, is not known: leases could not name it.
    #[error(
        "stream {0} does not say its account and when it was created, which leases of several streams name"
    )]
    NotWhole(StreamId),
    /// The leases are not those of this stream.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
}

/// A stream and the table that holds its leases.
pub(super) struct ShardSync {
    table: Arc<dyn LeaseTable>,
    stream: StreamLeases,
    lister: Arc<dyn ShardLister>,
    starts: Arc<dyn FindStart>,
    /// Its leases name the stream, as there may be others.
    named_by_keys: bool,
    /// Which stream it is, once that is known.
    id: OnceLock<StreamId>,
    troubles: Arc<Troubles>,
    /// What this worker remembers between its looks as the leader; none while it does not lead.
    watch: tokio::sync::Mutex<Option<Watch>>,
    /// The same for all who ask.
    found: Mutex<Found>,
    interval: Duration,
}

/// What the leader's last look at a stream has found; nothing on other workers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Hash key ranges without an unfinished lease.
    pub(super) holes: Option<usize>,
    /// The leases are of another stream.
    pub(super) recreated: Option<bool>,
}

impl ShardSync {
    /// `interval`: between two looks of the leader.
    pub(super) fn new(
        table: Arc<dyn LeaseTable>,
        stream: StreamLeases,
        named_by_keys: bool,
        troubles: &Arc<Troubles>,
        interval: Duration,
    ) -> Self {
        let about = named_by_keys.then(|| Arc::clone(&stream.name));
        let lineage = stream.lister.lineage();
        Self {
            table,
            lister: Watched::about(Arc::clone(&stream.lister), troubles, about.clone(), lineage),
            starts: Watched::about(Arc::clone(&stream.starts), troubles, about, lineage),
            watch: tokio::sync::Mutex::default(),
            found: Mutex::default(),
            stream,
            named_by_keys,
            id: OnceLock::new(),
            troubles: Arc::clone(troubles),
            interval,
        }
    }

    /// How people name it.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.stream.name)
    }

    /// Which stream it is, once that is known.
    pub(super) fn id(&self) -> Option<&StreamId> {
        self.id.get()
    }

    /// True when this is the stream of these settings.
    pub(super) fn is(&self, stream: &StreamLeases) -> bool {
        Arc::ptr_eq(&self.stream.lister, &stream.lister)
    }

    /// Finds out which stream it is, where nobody has yet.
    pub(super) async fn identify(&self) -> Result<(), SyncError> {
        if self.id.get().is_some() {
            return Ok(());
        }
        let id = self.lister.stream().await?;
        if self.named_by_keys && !id.as_ref().is_some_and(StreamId::is_whole) {
            // Its leases would look like those of one stream, or of another one.
            return Err(SyncError::NotWhole(id.unwrap_or_else(|| StreamId::named(&*self.stream.name))));
        }
        if let Some(id) = id {
            self.id.get_or_init(|| id);
        }
        Ok(())
    }

    /// The stream is none of this application any more.
    pub(super) fn is_gone(&self) {
        watched::compares_no_more(&self.troubles, self.named_by_keys.then(|| Arc::clone(&self.stream.name)));
    }

    /// This worker does not lead: it forgets what it saw as the leader, if it was one. Trouble with calls that only a
    /// leader makes goes on when it leads again and meets it again.
    pub(super) async fn stand_by(&self) {
        if self.watch.lock().await.take().is_some() {
            self.finds(|found| *found = Found::default());
            watched::compares_not_now(
                &self.troubles,
                self.named_by_keys.then(|| Arc::clone(&self.stream.name)),
            );
        }
    }

    fn begun<'a>(&self, watch: &'a mut Option<Watch>) -> &'a mut Watch {
        watch.get_or_insert_with(|| Watch::new(self.interval, self.lister.lineage()))
    }

    /// What the last look as the leader has found.
    pub(super) fn found(&self) -> Found {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finds(&self, note: impl FnOnce(&mut Found)) {
        note(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The time until the leader's next look.
    pub(super) async fn pause(&self) -> Duration {
        self.watch.lock().await.as_ref().map_or(self.interval, Watch::pause)
    }

    fn key(&self, shard: &ShardId) -> LeaseKey {
        LeaseKey::new(self.in_keys(), shard)
    }

    /// True when the key is of the form, and of the stream, of these leases.
    fn is_key_of_ours(&self, key: &LeaseKey) -> bool {
        key.stream() == self.in_keys()
    }

    /// The stream as its lease keys name it.
    fn in_keys(&self) -> Option<&StreamId> {
        self.id.get().filter(|_| self.named_by_keys)
    }

    /// Looks whose leases these are, before this worker takes part in an application of one stream.
    ///
    /// # Errors
    /// [`SyncError::NotOurs`] when they are of another stream; [`Inconsistent::Behind`] when they seem to be and the
    /// listing may be behind; otherwise when it could not look.
    pub(super) async fn prove(&self, table: &TableSnapshot) -> Result<(), SyncError> {
        self.identify().await?;
        let rows: Vec<&Lease> = table.leases.iter().collect();
        if let Some(ours) = self.id.get() {
            whose::check_all(&rows, ours)?;
        }
        // Those that do not say whose they are.
        let unnamed: Vec<&Lease> = rows.into_iter().filter(|row| row.stream.is_none()).collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let listing = self.lister.list().await?;
        let found = strangers(&listing, &leases_of(unnamed.iter().copied()));
        if let Some(lease) = found.former.first().map(|shard| self.key(shard)) {
            return Err(NotOurs::Unlike { lease }.into());
        }
        if let Some(lease) = found.doubtful.first().cloned() {
            return Err(Inconsistent::Behind { lease }.into());
        }
        for (key, sequence) in whose::to_ask(&unnamed, &listing) {
            if !self.lister.accepts(key.shard(), sequence).await? {
                return Err(NotOurs::Unlike { lease: key.clone() }.into());
            }
        }
        Ok(())
    }

    /// One look of the leader at all leases, as they were a moment ago.
    pub(super) async fn look(&self, seen: Vec<Lease>) -> Result<(), SyncError> {
        self.identify().await?;
        let mut watch = self.watch.lock().await;
        let watch = self.begun(&mut watch);
        let seen: Vec<&Lease> = seen.iter().filter(|row| self.is_key_of_ours(&row.key)).collect();
        let leases = leases_of(seen.iter().copied());
        let due = watch.look(&leases);
        self.finds(|found| found.holes = Some(watch.holes().len()));
        for hole in watch.holes().iter().filter(|hole| hole.findings == TELL_FINDINGS) {
            tracing::warn!(stream = %self.stream.name, hash_keys = %hole.range, "no lease covers these hash keys");
        }
        if due {
            self.sync(watch).await
        } else {
            // These facts are final, so a moment does not matter; children that no row names wait for a listing.
            self.delete_finished(&seen, &leases, &[]).await;
            Ok(())
        }
    }

    /// Lists the stream and brings the leases in step with it.
    async fn sync(&self, watch: &mut Watch) -> Result<(), SyncError> {
        // Asked first: a stream that is made again meanwhile is not taken for the one that was listed.
        let ours = self.lister.stream().await?;
        let listing = self.lister.list().await?;
        let table = self.table.snapshot().await?;
        let rows: Vec<&Lease> = table.leases.iter().filter(|row| self.is_key_of_ours(&row.key)).collect();
        let mut leases = leases_of(rows.iter().copied());
        let named = match (&ours, self.id.get()) {
            (Some(ours), Some(id)) if self.named_by_keys && ours != id => {
                let lease = rows.first().map_or_else(|| self.key(&ShardId::new("")), |row| row.key.clone());
                Err(NotOurs::Former { lease, of: id.clone(), ours: ours.clone() })
            }
            (Some(ours), _) if !self.named_by_keys => whose::check_all(&rows, ours),
            _ => Ok(()),
        };
        let found = match named {
            Err(not_ours) => Err(not_ours),
            Ok(()) => match watch.listed(&listing, &mut leases, Instant::now())? {
                Verdict::Ours => Ok(()),
                Verdict::NotOurs(strangers) => {
                    let key = self.key(&strangers[0]);
                    let row = rows.iter().find(|row| row.key == key);
                    Err(row.map_or_else(
                        || NotOurs::Unlike { lease: key.clone() },
                        |row| whose::contradiction(row, ours.as_ref()),
                    ))
                }
            },
        };
        self.finds(|seen| seen.recreated = Some(found.is_err()));
        if let Err(not_ours) = found {
            tracing::error!(stream = %self.stream.name, "no lease is created or deleted: {not_ours}");
            return Ok(());
        }
        self.create_missing(&listing, &self.with_odd(&leases, &table, &listing), ours.as_ref()).await?;
        self.fill_hash_ranges(&rows, &listing).await?;
        self.name_stream(&rows, &listing, ours.as_ref()).await;
        self.delete_finished(&rows, &leases, &listing).await;
        for row in rows.iter().filter(|row| !row.finished() && leases[row.key.shard()].gone) {
            self.give_up(row).await?;
        }
        watch.in_step();
        Ok(())
    }

    async fn create_missing(
        &self,
        listing: &[Shard],
        leases: &Leases,
        ours: Option<&StreamId>,
    ) -> Result<(), SyncError> {
        let missing = missing_leases(listing, leases, self.initial(leases))?;
        // A key may say it already.
        let named: Option<Arc<str>> =
            ours.filter(|_| !self.named_by_keys).map(|ours| ours.to_string().into());
        let looked_up = missing.into_iter().map(|(shard, start)| async move {
            self.pinned(shard, &start, self.stream.initial_timestamp_us).await.map_err(SyncError::from)
        });
        let looked_up: Vec<_> = looked_up.collect();
        let mut pinned: Vec<Result<Lease, SyncError>> =
            stream::iter(looked_up).buffered(CONCURRENCY).collect().await;
        // An application begins on all shards at once, or not yet.
        if let Some(failed) = pinned.iter().position(Result::is_err).filter(|_| leases.is_empty()) {
            return pinned.swap_remove(failed).map(drop);
        }
        // Later, each for itself: a shard that cannot be looked up does not keep the others waiting.
        let create = |lease: Result<Lease, SyncError>| {
            let stream = named.clone();
            async move {
                let lease = Lease { stream, ..lease? };
                if self.table.create(&lease).await? {
                    tracing::info!(lease = %lease.key, start = lease.checkpoint.as_str(), "lease created");
                }
                Ok(())
            }
        };
        let creating: Vec<_> = pinned.into_iter().map(create).collect();
        let created: Vec<Result<(), SyncError>> =
            stream::iter(creating).buffer_unordered(CONCURRENCY).collect().await;
        created.into_iter().collect()
    }

    /// Where shards start that come after no lease. Where they may appear at any time, what came before they were found is
    /// read too, once the application has begun.
    fn initial(&self, leases: &Leases) -> &Checkpoint {
        let begun = self.lister.lineage() != Lineage::HashKeys && !leases.is_empty();
        match &self.stream.initial {
            Checkpoint::Latest if begun => &Checkpoint::TrimHorizon,
            initial => initial,
        }
    }

    /// A new lease, whose row says once and for all where reading begins: whoever would interpret LATEST or a time later
    /// would begin elsewhere.
    async fn pinned(
        &self,
        shard: &Shard,
        start: &Checkpoint,
        start_us: Option<i64>,
    ) -> Result<Lease, StartError> {
        let (from, start_us) = match (start, start_us) {
            (Checkpoint::Latest, _) => (StartFrom::Tip, None),
            (Checkpoint::AtTimestamp, Some(us)) => (StartFrom::Time(us), Some(us)),
            _ => return Ok(Lease { key: self.key(&shard.id), ..Lease::new(shard, start.clone()) }),
        };
        let found = self.starts.find(&shard.id, from).await?;
        Ok(Lease { key: self.key(&shard.id), start_us, ..Lease::new(shard, found.at) })
    }

    /// Rows that other libraries wrote may not name their hash keys.
    async fn fill_hash_ranges(&self, rows: &[&Lease], listing: &[Shard]) -> Result<(), TableError> {
        for row in rows.iter().filter(|row| row.hash_range.is_none() && !row.finished()) {
            let shard = listing.iter().find(|shard| shard.id == *row.key.shard());
            let Some(range) = shard.and_then(|shard| shard.hash_range) else { continue };
            let Some(current) = self.table.get(&row.key).await? else { continue };
            match self.table.write(&current, &LeaseWrite::SetHashRange(range)).await {
                Ok(_) => tracing::info!(lease = %row.key, "hash range filled in"),
                // Its owner was faster; the hole that it makes brings us here again.
                Err(WriteError::Conflict(_)) => {}
                Err(error) => {
                    tracing::debug!(lease = %row.key, error = %chain(&error), "could not fill in the hash range")
                }
            }
        }
        Ok(())
    }

    /// Rows of Java workers and of older builds do not say whose they are. What is not written now is so at the next
    /// listing.
    async fn name_stream(&self, rows: &[&Lease], listing: &[Shard], ours: Option<&StreamId>) {
        let Some(ours) = ours.filter(|_| !self.named_by_keys) else { return };
        let (named, listed): (Arc<str>, BTreeSet<&ShardId>) =
            (ours.to_string().into(), listing.iter().map(|shard| &shard.id).collect());
        let unnamed = rows.iter().filter(|row| row.stream.is_none() && listed.contains(row.key.shard()));
        let name = |row: &&Lease| {
            let (key, write) = (row.key.clone(), LeaseWrite::SetStream(Arc::clone(&named)));
            async move {
                // Its owner has moved the counter since the scan.
                if let Ok(Some(current)) = self.table.get(&key).await
                    && let Err(error) = self.table.write(&current, &write).await
                {
                    tracing::debug!(
                        lease = %key, error = %chain(&error),
                        "could not record the stream in the lease"
                    );
                }
            }
        };
        let naming: Vec<_> = unnamed.map(name).collect();
        stream::iter(naming).buffer_unordered(CONCURRENCY).for_each(|()| std::future::ready(())).await;
    }

    async fn delete_finished(&self, rows: &[&Lease], leases: &Leases, listing: &[Shard]) {
        let done = deletable(leases, listing);
        for row in rows.iter().filter(|row| done.binary_search(&row.key.shard()).is_ok()) {
            delete(self.table.as_ref(), row).await;
        }
    }

    /// Deletes the unfinished lease of a shard that the stream has forgotten, so that its descendants, which have
    /// leases by now, are read. A batch that is prepared and was never committed is left for a person.
    async fn give_up(&self, seen: &Lease) -> Result<(), TableError> {
        let Some(row) = self.table.get(&seen.key).await? else { return Ok(()) };
        let (lease, checkpoint) = (&row.key, row.checkpoint.as_str());
        if row.checkpoint != seen.checkpoint {
            return Ok(());
        }
        if row.pending.is_some() {
            tracing::error!(
                %lease, checkpoint,
                "the stream no longer lists this shard, and a batch of it is pending: check which of its \
                 objects are in the lake, then delete the lease with `kinetide leases delete`. Its child \
                 shards wait until then"
            );
            return Ok(());
        }
        match self.table.delete(&row).await {
            Ok(()) => {
                metrics::checkpoint_trimmed();
                tracing::error!(
                    %lease, checkpoint,
                    "the stream no longer lists this shard, which was not read to its end: records after its \
                     checkpoint, if any, are lost. Its lease is deleted, and its child shards are read"
                );
            }
            Err(error) => tracing::debug!(%lease, error = %chain(&error), "could not delete the lease"),
        }
        Ok(())
    }

    /// Makes sure that a merge parent has, or had, a lease.
    async fn require_lease(&self, parent: &ShardId) -> Result<(), SyncError> {
        let key = self.key(parent);
        if self.table.get(&key).await?.is_some() {
            return Ok(());
        }
        let listing = self.lister.list().await?;
        if !listing.iter().any(|shard| shard.id == *parent) {
            return Ok(()); // forgotten by the stream: there is nothing to read any more
        }
        let table = self.table.snapshot().await?;
        let rows: Vec<&Lease> = table.leases.iter().filter(|row| self.is_key_of_ours(&row.key)).collect();
        let leases = leases_of(rows.iter().copied());
        let ours = self.lister.stream().await?;
        let stranger = |row: &&&Lease| {
            let shard = listing.iter().find(|shard| shard.id == *row.key.shard());
            shard.is_some_and(|shard| whose::contradicts(row, shard))
        };
        if let Some(row) = rows.iter().find(stranger) {
            return Err(whose::contradiction(row, ours.as_ref()).into());
        }
        self.create_missing(&listing, &self.with_odd(&leases, &table, &listing), ours.as_ref()).await?;
        match self.table.get(&key).await? {
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
        // A parent that began at a time and never got past it may have ended before that time.
        let start = match row.start_us {
            Some(_) => Checkpoint::AtTimestamp,
            None => Checkpoint::TrimHorizon,
        };
        for child in children {
            if self.table.get(&row.key.sibling(&child.id)).await?.is_some() {
                continue;
            }
            for other in child.parents.iter().filter(|other| *other != row.key.shard()) {
                self.require_lease(other).await?;
            }
            let pinned = self.pinned(&child.to_shard(), &start, row.start_us).await?;
            let lease = Lease { stream: row.stream.clone(), ..pinned };
            if self.table.create(&lease).await? {
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

    /// The leases, with those whose rows are not understood: they are there, and how far they are is not known. Without
    /// them, shards that are read already would be read again.
    fn with_odd(&self, leases: &Leases, table: &TableSnapshot, listing: &[Shard]) -> Leases {
        let mut all = leases.clone();
        for row in &table.odd {
            let key = LeaseKey::parse(&row.key);
            let listed = listing.iter().find(|shard| self.is_key_of_ours(&key) && shard.id == *key.shard());
            if let Some(shard) = listed {
                all.entry(shard.id.clone()).or_insert_with(|| Leased {
                    checkpoint: Checkpoint::Latest,
                    parents: shard.parents.clone(),
                    children: Vec::new(),
                    hash_range: shard.hash_range,
                    gone: false,
                });
            }
        }
        all
    }
}

/// True when the shard of `lease` may be read: each parent's lease is finished or gone, read consistently.
pub(super) async fn parents_finished(table: &dyn LeaseTable, lease: &Lease) -> Result<bool, TableError> {
    for parent in &lease.parents {
        let parent = table.get(&lease.key.sibling(parent)).await?;
        if parent.is_some_and(|parent| !parent.finished()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes those of these finished leases that nobody needs any more, as far as the rows tell.
pub(super) async fn clean_up(table: &dyn LeaseTable, finished: &[Lease]) -> Result<(), SyncError> {
    for row in finished {
        let mut family = vec![row.clone()];
        for relative in row.parents.iter().chain(&row.children) {
            family.extend(table.get(&row.key.sibling(relative)).await?);
        }
        if deletable(&leases_of(&family), &[]).contains(&row.key.shard()) {
            delete(table, row).await;
        }
    }
    Ok(())
}

fn leases_of<'a>(rows: impl IntoIterator<Item = &'a Lease>) -> Leases {
    let leased = |row: &Lease| Leased {
        checkpoint: row.checkpoint.clone(),
        parents: row.parents.clone(),
        children: row.children.clone(),
        hash_range: row.hash_range,
        gone: false,
    };
    rows.into_iter().map(|row| (row.key.shard().clone(), leased(row))).collect()
}

/// Deletes a finished lease, if it still is one. Its owner renews it meanwhile, so it is read once more: a row that
/// was seen a while ago would hardly ever be deleted.
async fn delete(table: &dyn LeaseTable, seen: &Lease) {
    let key = &seen.key;
    let row = match table.get(key).await {
        Ok(Some(row)) if row.finished() => row,
        Ok(_) => return,
        Err(error) => {
            return tracing::debug!(lease = %key, error = %chain(&error), "could not delete the lease");
        }
    };
    match table.delete(&row).await {
        Ok(()) => tracing::info!(lease = %key, "finished lease deleted"),
        Err(error) => tracing::debug!(lease = %key, error = %chain(&error), "could not delete the lease"),
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
