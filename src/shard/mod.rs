//! What there is to read: shards, their positions and their family.
//!
//! Owns: shard ids, sequence numbers and their order, hash key ranges, which shards may be read yet.
//! Does not own: who reads a shard (`lease`), how its records are fetched (`fetch`).

pub mod audit;
pub mod dynamodbstreams;
pub mod graph;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kinesis;
mod position;
mod start;
mod stream;
mod written_by;

pub use position::{Checkpoint, Position, RecordId, SequenceNumber};
pub use start::{FindStart, StartError, StartFound, StartFrom};
pub use stream::{Kinship, StreamId};
pub use written_by::WrittenBy;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

/// Id of a shard, as the stream names it (`shardId-000000000000`); unique within its stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// Wraps the id as the stream spells it; never empty.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Inclusive range of hash keys, 0 to 2^128 − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashKeyRange {
    /// First hash key of the range.
    pub start: u128,
    /// Last hash key of the range.
    pub end: u128,
}

impl HashKeyRange {
    /// True when both hold some hash key.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl fmt::Display for HashKeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.end)
    }
}

/// How the shards of a stream follow each other, and so by which rules their leases are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// Each hash key belongs to one open shard, and children take over all hash keys of their parents: Kinesis. Hash keys
    /// that no lease covers show that a lease is missing.
    HashKeys,
    /// Children name their parents, and nothing shows that one is missing: DynamoDB Streams.
    Tree,
    /// Shards neither begin nor end after others: partitions of Kafka.
    Flat,
}

/// One shard as the stream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// Parent shards: none, one (split) or two (merge). A parent may be gone from the stream already.
    pub parents: Vec<ShardId>,
    /// Hash keys that the shard takes, where its stream has such.
    pub hash_range: Option<HashKeyRange>,
    /// Sequence number at which the shard starts; 0 where that is not known, or moves.
    pub starting_sequence_number: SequenceNumber,
    /// True when the shard takes no more records.
    pub closed: bool,
}

/// A child announced at the end of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub id: ShardId,
    /// Its parents: one after a split, two after a merge.
    pub parents: Vec<ShardId>,
    /// Hash keys that it takes, where its stream has such.
    pub hash_range: Option<HashKeyRange>,
}

impl ChildShard {
    /// As a listed shard. Its first sequence number is not known from here.
    pub fn to_shard(&self) -> Shard {
        Shard {
            id: self.id.clone(),
            parents: self.parents.clone(),
            hash_range: self.hash_range,
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        }
    }
}

/// Why a stream could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The stream does not exist (any more).
    #[error("stream {0} not found: it was deleted, or it is in another region or account")]
    NotFound(String),
    /// Anything else; worth another try.
    #[error("could not list the shards of {stream}")]
    Unavailable {
        /// The stream asked for.
        stream: String,
        /// What the service or the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Lists the shards of one stream. One of the four seams.
#[async_trait]
pub trait ShardLister: Send + Sync {
    /// How its shards follow each other.
    fn lineage(&self) -> Lineage {
        Lineage::HashKeys
    }

    /// Every shard the stream still knows, closed ones included, in any order.
    async fn list(&self) -> Result<Vec<Shard>, ListError>;

    /// The children of a shard that is read to its end, whose last page did not name them. An empty answer: there are none,
    /// and none will come. `None`: some must come, and are not listed yet.
    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        let listed = self.list().await?.into_iter().filter(|listed| listed.parents.contains(shard));
        let child = |listed: Shard| ChildShard {
            id: listed.id,
            parents: listed.parents,
            hash_range: listed.hash_range,
        };
        let children: Vec<_> = listed.map(child).collect();
        Ok((!children.is_empty()).then_some(children))
    }

    /// Which stream this is, in words that tell it from a later one of the same name. `None`: the source cannot say.
    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        Ok(None)
    }

    /// Whether the stream takes no more records for good, as far as the last answers have told: its shards are read to their
    /// end, and what is written now is in no stream.
    fn is_off(&self) -> bool {
        false
    }

    /// False when the shard does not take the sequence number for one of its own. A source that cannot say takes all.
    async fn accepts(&self, _shard: &ShardId, _sequence: &SequenceNumber) -> Result<bool, ListError> {
        Ok(true)
    }
}
