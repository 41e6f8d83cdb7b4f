//! The seam to the lake.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Folder of what is no row and no dead letter. Hive, Spark and Athena skip names that begin so.
pub(super) const OWN_FOLDER: &str = "_kinetide";
/// The lake cannot be opened with these settings.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadLake {
    reason: String,
}

impl BadLake {
    pub(super) fn new(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
}

/// What a create-only put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// There was no object; now there is this one.
    New,
    /// There is one already, finished by this or a former owner.
    Existed,
}

/// Why an object is not (visibly) in the lake. All of them are worth another try: a full disk is emptied, a
/// permission is granted, a service comes back; until then the shard waits and its lag shows.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {key}")]
pub struct SinkError {
    /// What was tried: `create`, `read` or `find`.
    pub action: &'static str,
    /// Key of the object.
    pub key: String,
    /// What the store said, for people.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Whether an object may still be made: the lease is ours. It ends for good or for a while, amid an upload too.
pub type MayCreate = Arc<dyn Fn() -> bool + Send + Sync>;

/// For an object that nobody else could make.
pub(super) fn always() -> MayCreate {
    Arc::new(|| true)
}

/// What is said when it may not.
pub(super) const GIVEN_UP: &str =
    "the lease is not valid now, so nothing was created: another worker may own the shard";

/// A place for objects. One of the four seams.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Creates the object unless one exists under its key. Visible whole or not at all. Looks before each step whether
    /// it still may: the last one could make the object again after somebody else has, and readers have moved it away.
    async fn create_while(&self, key: &str, body: Bytes, may: MayCreate) -> Result<Created, SinkError>;

    /// The same, where nobody else can come in between.
    async fn create(&self, key: &str, body: Bytes) -> Result<Created, SinkError> {
        self.create_while(key, body, always()).await
    }

    /// The object's bytes, if it exists.
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError>;

    /// Whether the object exists.
    async fn exists(&self, key: &str) -> Result<bool, SinkError>;
}
