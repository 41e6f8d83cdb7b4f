//! Where the reading of a shard begins.
//!
//! "Latest" and "from this time on" mean something else for each worker that interprets them. So they are looked up once,
//! as the last record that is *not* to be read, and the lease row says that one: a checkpoint like any other, which every
//! later owner reads the same way, one on the Java KCL included.

use async_trait::async_trait;

use super::{Checkpoint, ShardId};

/// Which records of a shard are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// Those that are written from now on.
    Tip,
    /// Those that arrived at or after this time, µs since the epoch.
    Time(i64),
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFound {
    /// The last record that is not to be read; TRIM_HORIZON when there is none, so that all are to be read.
    pub at: Checkpoint,
    /// The shard takes no more records.
    pub closed: bool,
}

/// Why a start was not found. Worth another try.
#[derive(Debug, thiserror::Error)]
#[error("could not look up where shard {shard} starts")]
pub struct StartError {
    /// The shard asked for.
    pub shard: ShardId,
    /// What the stream or the network said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Looks up where the reading of a shard begins.
#[async_trait]
pub trait FindStart: Send + Sync {
    /// The last record of `shard` that is not to be read.
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError>;
}
