//! The streams of an application as its leases see them.
//!
//! Owns: which stream a lease is of, and the set of streams, which may grow and shrink while the worker runs.
//! Does not own: how the leases of one stream are kept in step with its shards (`sync`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::key::LeaseKey;
use super::row::Lease;
use super::stream_set::{StreamLeases, StreamSet};
use super::sync::{ShardSync, SyncError};
use super::table::LeaseTable;
use super::watched;
use super::whose::{self, NotOurs};
use crate::shard::StreamId;
use crate::telemetry::trouble::Troubles;

/// Looks once whose leases these are, as a worker of these streams does before it takes part.
///
/// # Errors
/// [`SyncError::NotOurs`] when it would not take part; otherwise when it could not look, or would look again.
pub async fn prove(set: StreamSet, table: Arc<dyn LeaseTable>) -> Result<(), SyncError> {
    let troubles = watched::troubles(Duration::ZERO, Duration::ZERO);
    Streams::new(set, table, troubles, Duration::ZERO).prove().await
}

pub(super) struct Streams {
    several: bool,
    table: Arc<dyn LeaseTable>,
    troubles: Arc<Troubles>,
    interval: Duration,
    all: Mutex<Vec<Arc<ShardSync>>>,
    changed: Notify,
}

impl Streams {
    pub(super) fn new(
        set: StreamSet,
        table: Arc<dyn LeaseTable>,
        troubles: Arc<Troubles>,
        interval: Duration,
    ) -> Self {
        let (several, all) = match set {
            StreamSet::One(one) => (false, vec![one]),
            StreamSet::Several(all) => (true, all),
        };
        let (all_of_them, changed) = (Mutex::default(), Notify::new());
        let this = Self { several, table, troubles, interval, all: all_of_them, changed };
        *this.lock() = all.into_iter().map(|stream| this.sync(stream)).collect();
        this
    }

    fn sync(&self, stream: StreamLeases) -> Arc<ShardSync> {
        Arc::new(ShardSync::new(Arc::clone(&self.table), stream, self.several, &self.troubles, self.interval))
    }

    pub(super) fn all(&self) -> Vec<Arc<ShardSync>> {
        self.lock().clone()
    }

    /// From now on these are the streams. What is known of those that stay is kept.
    pub(super) fn set(&self, streams: Vec<StreamLeases>) {
        let mut all = self.lock();
        let before = std::mem::take(&mut *all);
        for stream in streams {
            let known = before.iter().find(|known| known.is(&stream)).cloned();
            all.push(known.unwrap_or_else(|| self.sync(stream)));
        }
        for gone in before.iter().filter(|gone| !all.iter().any(|now| Arc::ptr_eq(now, gone))) {
            gone.is_gone();
        }
        drop(all);
        self.changed.notify_waiters();
    }

    /// Ends when the set changes, from the moment on when this is called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The stream that a lease with this key is of, once it is known which one that is.
    pub(super) fn of(&self, key: &LeaseKey) -> Option<Arc<ShardSync>> {
        let all = self.lock();
        if !self.several {
            return all.first().filter(|_| key.stream().is_none()).cloned();
        }
        let stream = key.stream()?;
        all.iter().find(|one| one.id() == Some(stream)).cloned()
    }

    /// The streams that are known by now.
    pub(super) fn known(&self) -> Vec<StreamId> {
        self.lock().iter().filter_map(|stream| stream.id().cloned()).collect()
    }

    /// True when lease keys name their streams.
    pub(super) fn several(&self) -> bool {
        self.several
    }

    /// True when it is known of each stream which one it is, as far as leases depend on it.
    pub(super) fn are_known(&self) -> bool {
        !self.several || self.lock().iter().all(|stream| stream.id().is_some())
    }

    /// What the worker says of itself: the streams that are known by now. An application of one stream needs no words.
    pub(super) fn in_words(&self) -> Option<String> {
        let known = || self.known().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        self.several.then(known)
    }

    /// True when a stream that is not known yet may turn out to be that of this lease.
    pub(super) fn may_come_to_know(&self, key: &LeaseKey) -> bool {
        let all = self.lock();
        let mut unknown = all.iter().filter(|stream| stream.id().is_none());
        unknown.any(|stream| key.may_be_of(&StreamId::in_settings(&stream.name())))
    }

    /// Whether the row may be of this application, as far as it says: perhaps of a stream that other workers read.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn check(&self, row: &Lease) -> Result<(), NotOurs> {
        whose::check_form(row, self.several)?;
        match self.lock().first().and_then(|one| one.id().cloned()).filter(|_| !self.several) {
            Some(ours) => whose::check(row, &ours),
            None => Ok(()),
        }
    }

    /// Looks whose leases these are, before this worker takes part. With several streams each is found out for itself,
    /// later: one that cannot be looked at does not keep the others waiting.
    ///
    /// # Errors
    /// [`SyncError::NotOurs`] when they are of another stream, or name their shards in the other form; otherwise when it
    /// could not look.
    pub(super) async fn prove(&self) -> Result<(), SyncError> {
        let table = self.table.snapshot().await?;
        for row in &table.leases {
            whose::check_form(row, self.several)?;
        }
        match self.all().first().filter(|_| !self.several) {
            Some(only) => only.prove(&table).await,
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<ShardSync>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
