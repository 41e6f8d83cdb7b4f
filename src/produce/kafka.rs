//! A topic of Kafka as the target: any records, or the change records that a table would have produced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::kinesis::Receipt;
use super::records::{ChangeRecords, Made};
use super::run::{ProduceError, Refusals, Written};
use crate::clock::wall_clock_us;
use crate::generate::envelope;
use crate::generate::item::Change;
use crate::kafka::{Cluster, Compression, KafkaError, Producer, Topic, Written as ToSend};
use crate::shard::kafka::shard_id;

/// Records of one request to the loop that produces; a broker takes any number.
pub(super) const BATCH_MAX: u16 = 500;
/// How long records are sent again before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long records that are on their way may take once nothing new is to be sent. A request that is dropped may be in the
/// topic, so only a broker that is away is not waited for, and its records are said to be anywhere.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// A record to produce. Those of one key are in one partition, in the order in which they are sent.
#[derive(Clone, Copy, Debug)]
pub struct TopicRecord<'a> {
    /// Its key; none: any partition.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
    /// Its time, ms since the epoch.
    pub time_ms: i64,
}

/// Produces to one topic: each record is in it once, however often it had to be sent.
pub struct TopicProducer {
    producer: Producer,
    topic: String,
    id: Uuid,
    partitions: Vec<i32>,
}

impl TopicProducer {
    /// To the topic that has this name now.
    ///
    /// # Errors
    /// When there is none, or no broker answers.
    pub async fn new(cluster: Arc<Cluster>, topic: &str) -> Result<Self, KafkaError> {
        let found = cluster.topic_named(topic).await?;
        Ok(Self::of(cluster, &found))
    }

    /// To a topic as it was found.
    pub fn of(cluster: Arc<Cluster>, topic: &Topic) -> Self {
        let partitions = topic.partitions.keys().copied().collect();
        let producer = Producer::new(cluster, Compression::Gzip, PATIENCE);
        Self { producer, topic: topic.name.clone(), id: topic.id, partitions }
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition of a key: the one that Java producers choose.
    fn partition(&self, key: Option<&[u8]>) -> i32 {
        let hash = key.map_or(0, murmur2) & 0x7fff_ffff;
        self.partitions[hash as usize % self.partitions.len()]
    }

    /// Appends records, and returns when all are there: of each its partition and its offset. `told` hears of each try that
    /// has failed.
    ///
    /// # Errors
    /// When a person has to mend something, or after two minutes: then any of them may be there.
    pub async fn send(
        &self,
        records: &[TopicRecord<'_>],
        mut told: impl FnMut(&KafkaError) + Send,
    ) -> Result<Vec<(i32, i64)>, KafkaError> {
        let mut of: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            of.entry(self.partition(record.key)).or_default().push(index);
        }
        let mut places = vec![(0, 0); records.len()];
        for (partition, indexes) in of {
            let batch: Vec<ToSend<'_>> = indexes
                .iter()
                .map(|index| (records[*index].key, Some(records[*index].value), records[*index].time_ms))
                .collect();
            let first = self.producer.send((self.id, partition), &batch, &mut told).await?;
            indexes.iter().zip(first..).for_each(|(index, offset)| places[*index] = (partition, offset));
        }
        Ok(places)
    }
}

/// The hash by which Java producers choose a partition.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        let k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Writes change records into one topic.
pub struct TopicWriter {
    producer: TopicProducer,
    records: ChangeRecords,
    receipts: Option<mpsc::Sender<Vec<Receipt>>>,
}

impl TopicWriter {
    /// Writes records that look as if `table` had sent them. The seed decides the event ids.
    pub fn new(producer: TopicProducer, table: envelope::Table, seed: u64) -> Self {
        Self { producer, records: ChangeRecords::new(table, seed), receipts: None }
    }

    /// Tells where each record is.
    #[must_use]
    pub fn with_receipts(self, receipts: mpsc::Sender<Vec<Receipt>>) -> Self {
        Self { receipts: Some(receipts), ..self }
    }

    /// Writes changes of different keys.
    pub(super) async fn write(
        &self,
        batch: &[Change],
        cancel: &CancellationToken,
        refusals: &Refusals,
    ) -> Result<Written, ProduceError> {
        let made = self.records.made(batch);
        let sent_us = wall_clock_us();
        let record = |made: &'_ Made| (made.partition_key.clone(), made.data.clone());
        let owned: Vec<(String, Vec<u8>)> = made.iter().map(record).collect();
        let records: Vec<TopicRecord<'_>> = owned
            .iter()
            .map(|(key, data)| TopicRecord {
                key: Some(key.as_bytes()),
                value: data,
                time_ms: sent_us / 1000,
            })
            .collect();
        let mut written =
            Written { bytes: made.iter().map(|made| made.data.len() as u64).sum(), ..Written::default() };
        let mut resent = 0;
        let told = |error: &KafkaError| {
            resent += made.len() as u64;
            refusals.tell(made.len(), &error.to_string());
        };
        let places = tokio::select! {
            biased;
            places = self.producer.send(&records, told) => places.map_err(|error| ProduceError::Write {
                target: format!("topic {}", self.producer.topic()),
                reason: error.to_string(),
            })?,
            () = async { cancel.cancelled().await; tokio::time::sleep(LAST_REQUESTS).await } => {
                written.given_up = true;
                let unclear = made.into_iter().map(|made| Receipt {
                    data: made.data,
                    sent_us: sent_us / 1000 * 1000,
                    place: None,
                    sub: None,
                });
                self.tell(unclear.collect()).await;
                return Ok(written);
            }
        };
        written.resent = resent;
        let topic = self.producer.id;
        let receipts = made.into_iter().zip(places).map(|(made, (partition, offset))| Receipt {
            data: made.data,
            sent_us: sent_us / 1000 * 1000,
            place: Some((shard_id((topic, partition)).to_string(), offset.to_string())),
            sub: None,
        });
        self.tell(receipts.collect()).await;
        Ok(written)
    }

    async fn tell(&self, told: Vec<Receipt>) {
        if let Some(receipts) = &self.receipts {
            // Nobody listens any more where the trial is over.
            drop(receipts.send(told).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Kafka's own tests have.
    #[test]
    fn keys_go_where_java_sends_them() {
        for (key, hash) in [
            (&b"21"[..], -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", String::from_utf8_lossy(key));
        }
    }
}
