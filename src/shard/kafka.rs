//! Lists the partitions of a topic of Kafka, and looks up where they begin.
//!
//! Owns: which topic a name means now, what its partitions are called.
//! Does not own: how records are read (`fetch::kafka`), the calls themselves (`kafka`).
//!
//! A topic is known by its id: one that was deleted and created again has another, and its partitions are others, whose
//! offsets begin anew.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Checkpoint, ChildShard, FindStart, Lineage, ListError, Position, SequenceNumber, Shard, ShardId,
    ShardLister, StartError, StartFound, StartFrom, StreamId,
};
use crate::kafka::{Cluster, Isolation, KafkaError, Offset, Topic, id_text, parse_id};

/// One topic of a cluster.
#[derive(Debug)]
pub struct KafkaTopic {
    cluster: Arc<Cluster>,
    name: String,
    meaning: Mutex<Meaning>,
}

/// Which topics a name has meant.
#[derive(Debug, Default)]
struct Meaning {
    first: Option<Uuid>,
    /// Another one, by the last answer.
    other: Option<Uuid>,
}

impl Meaning {
    /// It means this topic now, says a broker. True when it has meant the same other topic as by the answer before: brokers
    /// learn of a new topic one after the other, so that one answer alone may be an old one.
    fn is(&mut self, topic: Uuid) -> bool {
        let other = Some(topic).filter(|topic| *topic != *self.first.get_or_insert(*topic));
        let before = std::mem::replace(&mut self.other, other);
        other.is_some() && other == before
    }
}

/// A partition: its topic's id, and its number.
pub type PartitionId = (Uuid, i32);

/// How a partition is called: the topic's id as Kafka's tools show it, and the number, `gBEe4cIsQoucH0jxnLkQnw-12`.
pub fn shard_id((topic, partition): PartitionId) -> ShardId {
    ShardId::new(format!("{}-{partition}", id_text(topic)))
}

/// Reads what [`shard_id`] writes.
pub fn partition_of(shard: &ShardId) -> Option<PartitionId> {
    let (topic, partition) = shard.as_str().rsplit_once('-')?;
    let digits = partition.bytes().all(|b| b.is_ascii_digit());
    Some((parse_id(topic)?, partition.parse().ok().filter(|_| digits)?))
}

impl KafkaTopic {
    /// The topic that has this name whenever it is asked for.
    pub fn new(cluster: Arc<Cluster>, name: impl Into<String>) -> Self {
        Self { cluster, name: name.into(), meaning: Mutex::default() }
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The topic as it is now.
    ///
    /// # Errors
    /// When there is none, or no broker answers.
    pub async fn now(&self) -> Result<Arc<Topic>, ListError> {
        let topic = self.cluster.topic_named(&self.name).await.map_err(|error| self.failed(error))?;
        self.meaning().first.get_or_insert(topic.id);
        Ok(topic)
    }

    /// Whether the name means another topic by now than when it was first asked for: it was deleted and created again. Not
    /// before two calls in a row have found the same one.
    ///
    /// # Errors
    /// When there is none, or no broker answers.
    pub async fn is_another(&self) -> Result<bool, ListError> {
        let topic = self.cluster.topic_named(&self.name).await.map_err(|error| self.failed(error))?;
        Ok(self.meaning().is(topic.id))
    }

    fn meaning(&self) -> std::sync::MutexGuard<'_, Meaning> {
        self.meaning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: KafkaError) -> ListError {
        match error {
            KafkaError::NoTopic(_) => ListError::NotFound(format!("of topic {}", self.name)),
            error => ListError::Unavailable { stream: format!("topic {}", self.name), source: error.into() },
        }
    }

    async fn start(&self, shard: &ShardId, from: StartFrom) -> Result<i64, KafkaError> {
        let partition = partition_of(shard).ok_or_else(|| KafkaError::NoTopic(shard.to_string()))?;
        let (place, isolation) = match from {
            StartFrom::Tip => (Offset::Latest, Isolation::Committed),
            // Kafka's times are whole milliseconds.
            StartFrom::Time(us) => {
                (Offset::Time(us.div_euclid(1000) + i64::from(us % 1000 != 0)), Isolation::Committed)
            }
        };
        match self.cluster.offset(partition, place, isolation).await? {
            Some(offset) => Ok(offset),
            None => {
                let end = self.cluster.offset(partition, Offset::Latest, isolation).await?;
                Ok(end.unwrap_or(0))
            }
        }
    }
}

#[async_trait]
impl ShardLister for KafkaTopic {
    fn lineage(&self) -> Lineage {
        Lineage::Flat
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        let topic = self.now().await?;
        let partitions = topic.partitions.keys().map(|partition| Shard {
            id: shard_id((topic.id, *partition)),
            parents: Vec::new(),
            hash_range: None,
            // It moves with retention.
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        });
        Ok(partitions.collect())
    }

    /// A partition has no end.
    async fn children(&self, _shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        Ok(Some(Vec::new()))
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        let topic = self.now().await?;
        Ok(Some(StreamId::of_topic(&topic.cluster, &topic.id_text())))
    }

    /// Whether the partition has given out an offset so high.
    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        let (Some(partition), Ok(offset)) = (partition_of(shard), sequence.as_str().parse::<i64>()) else {
            return Ok(false);
        };
        let end = self.cluster.offset(partition, Offset::Latest, Isolation::Uncommitted).await;
        end.map(|end| end.is_some_and(|end| offset < end)).map_err(|error| self.failed(error))
    }
}

#[async_trait]
impl FindStart for KafkaTopic {
    async fn find(&self, shard: &ShardId, from: StartFrom) -> Result<StartFound, StartError> {
        let found = self.start(shard, from).await;
        let first = found.map_err(|error| StartError { shard: shard.clone(), source: error.into() })?;
        let before = u128::try_from(first).ok().and_then(|first| first.checked_sub(1));
        let at = before.map_or(Checkpoint::TrimHorizon, |before| Checkpoint::At(Position::from(before)));
        Ok(StartFound { at, closed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_another_topic_when_two_answers_say_so() {
        let (mut meaning, [first, second, third]) =
            (Meaning::default(), std::array::from_fn(|_| Uuid::new_v4()));
        let answers = [
            (first, false),
            (first, false),
            (second, false),
            // An old answer.
            (first, false),
            (second, false),
            (third, false),
            (third, true),
        ];
        for (at, (topic, expected)) in answers.into_iter().enumerate() {
            assert_eq!(meaning.is(topic), expected, "answer {at}");
        }
    }

    #[test]
    fn a_partition_is_read_as_it_is_called() {
        for partition in [0, 12, i32::MAX] {
            let id = (Uuid::new_v4(), partition);
            assert_eq!(partition_of(&shard_id(id)), Some(id));
        }
        for wrong in [
            "",
            "shardId-000000000000",
            "gBEe4cIsQoucH0jxnLkQnw",
            "gBEe4cIsQoucH0jxnLkQnw-x",
            "gBEe4cIsQoucH0jxnLkQnw--1",
        ] {
            assert_eq!(partition_of(&ShardId::new(wrong)), None, "{wrong}");
        }
    }
}
