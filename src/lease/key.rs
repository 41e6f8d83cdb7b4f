//! The primary key of a lease: a shard, and in an application of several streams also its stream.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::shard::{Kinship, ShardId, StreamId};

/// Primary key of a lease, in one of KCL's two forms: the shard id alone in an application of one stream
/// (`shardId-000000000000`), or with the stream before it (`MultiStreamLease`:
/// `123456789012:trades:1768469400:shardId-000000000000`). A partition of Kafka has always the second form, with ids of its
/// own: `kafka:CLUSTER:TOPIC-ID:PARTITION`.
///
/// Relatives of a shard are named by shard ids in the rows, in both forms; [`LeaseKey::sibling`] makes keys of them.
#[derive(Clone)]
pub struct LeaseKey {
    /// As it stands in the table. Equality and order are those of the text.
    text: Arc<str>,
    stream: Option<StreamId>,
    shard: ShardId,
}

impl LeaseKey {
    /// The key of a shard: of this stream, or in an application of one stream.
    pub fn new(stream: Option<&StreamId>, shard: &ShardId) -> Self {
        match stream {
            None => shard.clone().into(),
            Some(stream) => Self {
                text: format!("{stream}:{}", stream.in_key(shard)).into(),
                stream: Some(stream.clone()),
                shard: shard.clone(),
            },
        }
    }

    /// Reads the text of the table. What is not of the second form (`[0-9]+:[^:]+:[0-9]+:SHARD`) is a shard id.
    pub fn parse(text: &str) -> Self {
        let with_stream = text.rsplit_once(':').and_then(|(stream, shard)| {
            let stream = StreamId::parse(stream).filter(StreamId::is_whole)?;
            (!shard.is_empty()).then(|| {
                let shard = stream.shard_of_key(shard);
                (stream, shard)
            })
        });
        match with_stream {
            None => ShardId::new(text).into(),
            Some((stream, shard)) => Self { text: text.into(), stream: Some(stream), shard },
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The shard, as its stream names it.
    pub fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// The stream; `None` in an application of one stream.
    pub fn stream(&self) -> Option<&StreamId> {
        self.stream.as_ref()
    }

    /// True when the lease may be of this stream, as far as the key and what is known of the stream say.
    pub fn may_be_of(&self, stream: &StreamId) -> bool {
        self.stream.as_ref().is_none_or(|of| of.kinship(stream) == Kinship::Same)
    }

    /// The key of another shard of the same stream.
    #[must_use]
    pub fn sibling(&self, shard: &ShardId) -> Self {
        Self::new(self.stream.as_ref(), shard)
    }
}

/// In an application of one stream.
impl From<ShardId> for LeaseKey {
    fn from(shard: ShardId) -> Self {
        Self { text: shard.text(), stream: None, shard }
    }
}

impl PartialEq for LeaseKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for LeaseKey {}

impl Hash for LeaseKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for LeaseKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for LeaseKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_of_several_streams_is_that_of_kcl() {
        let text = "123456789012:trades:1768469400:shardId-000000000007";
        let key = LeaseKey::parse(text);
        assert_eq!(key.shard().as_str(), "shardId-000000000007");
        assert_eq!(key.stream().unwrap().to_string(), "123456789012:trades:1768469400");
        assert_eq!(key.to_string(), text);
        let sibling = key.sibling(&ShardId::new("shardId-000000000008"));
        assert_eq!(sibling.as_str(), "123456789012:trades:1768469400:shardId-000000000008");
        assert_eq!(LeaseKey::parse(sibling.as_str()).stream(), key.stream());
    }

    #[test]
    fn a_partition_of_kafka_is_named_by_the_ids_of_cluster_and_topic() {
        let text = "kafka:gRE5whIsQoucH0jxnLkQnw:gBEe4cIsQoucH0jxnLkQnw:12";
        let key = LeaseKey::parse(text);
        let stream = key.stream().unwrap();
        assert_eq!(stream.to_string(), "kafka:gRE5whIsQoucH0jxnLkQnw:gBEe4cIsQoucH0jxnLkQnw");
        assert_eq!(key.shard().as_str(), "gBEe4cIsQoucH0jxnLkQnw-12");
        assert_eq!(LeaseKey::new(Some(stream), key.shard()).as_str(), text);
        assert_eq!(key.sibling(&stream.shard_of_key("3")).as_str(), format!("{stream}:3"));
    }

    #[test]
    fn everything_else_is_a_shard_id() {
        for text in [
            "shardId-000000000007",
            "s",
            "a:b",
            "1:trades:shardId-1",
            ":trades:5:shardId-1",
            "1:trades::shardId-1",
            "1::5:shardId-1",
            "x1:trades:5:shardId-1",
            "1:trades:-5:shardId-1",
            "1:trades:5:",
        ] {
            let key = LeaseKey::parse(text);
            assert_eq!((key.stream(), key.shard().as_str(), key.as_str()), (None, text, text));
            assert_eq!(key.sibling(&ShardId::new("other")).as_str(), "other");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_made(account in "[0-9]{1,12}", name in "[A-Za-z0-9._$-]{1,20}", created: u64, shard in "[A-Za-z0-9-]{1,20}") {
            let stream = StreamId::parse(&format!("{account}:{name}:{created}")).unwrap();
            for stream in [None, Some(&stream)] {
                let key = LeaseKey::new(stream, &ShardId::new(shard.as_str()));
                let read = LeaseKey::parse(key.as_str());
                prop_assert_eq!(&read, &key);
                prop_assert_eq!(read.stream(), stream);
                prop_assert_eq!(read.shard(), key.shard());
            }
        }
    }
}
