//! The streams of an application, as they are given to its leases.

use std::sync::Arc;

use crate::shard::{Checkpoint, FindStart, ShardLister};

/// One stream, as far as its leases are concerned.
#[derive(Clone)]
pub struct StreamLeases {
    /// How people name it, unlike every other stream of the application.
    pub name: Arc<str>,
    /// Lists its shards.
    pub lister: Arc<dyn ShardLister>,
    /// Looks up what LATEST and AT_TIMESTAMP stand for.
    pub starts: Arc<dyn FindStart>,
    /// Where shards without any leased ancestor start.
    pub initial: Checkpoint,
    /// The time that AT_TIMESTAMP means, µs since the epoch.
    pub initial_timestamp_us: Option<i64>,
}

/// The streams of an application, by the form of its lease keys. One application keeps one form: in the other one its
/// leases would not be seen, and every shard read again from the initial position.
#[derive(Clone)]
pub enum StreamSet {
    /// One stream, whose leases have the shard id for a key.
    One(StreamLeases),
    /// Any number of streams; their leases name stream and shard (KCL's multi-stream mode).
    Several(Vec<StreamLeases>),
}
