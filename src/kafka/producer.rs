//! Somebody who produces: each record is in its topic once, however often it had to be sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::cluster::Cluster;
use super::error::KafkaError;
use super::write::{Compression, Stamp, Written, stamped};

/// First and longest pause before a batch is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// One partition of a topic.
type Partition = (Uuid, i32);

/// Produces to the topics of a cluster. Batches of one partition go one after the other.
///
/// The broker knows each batch by the producer's id and a number, so that one that is sent again, because its answer did not
/// come, is not appended again. With the end of the process the id is gone: what was on its way then may be there or not.
pub struct Producer {
    cluster: Arc<Cluster>,
    compression: Compression,
    patience: Duration,
    next: Mutex<HashMap<Partition, Arc<Mutex<Option<Stamp>>>>>,
}

impl Producer {
    /// Gives up after `patience`.
    pub fn new(cluster: Arc<Cluster>, compression: Compression, patience: Duration) -> Self {
        Self { cluster, compression, patience, next: Mutex::default() }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Appends records to a partition, at least one, and returns when all replicas in step have them: the offset of the first
    /// one. `told` hears of each try that has failed.
    ///
    /// # Errors
    /// When a person has to mend something, or patience is over: then the records may be there all the same.
    pub async fn send(
        &self,
        partition: Partition,
        records: &[Written<'_>],
        mut told: impl FnMut(&KafkaError) + Send,
    ) -> Result<i64, KafkaError> {
        let next = Arc::clone(self.next.lock().await.entry(partition).or_default());
        let mut next = next.lock().await;
        // Put back only when it is known what became of the batch: a number that may be used must not be used for others.
        let mut stamp = next.take();
        let since = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            match self.send_once(partition, records, &mut stamp).await {
                Ok((offset, sent)) => {
                    *next = Some(Stamp { sequence: after(sent.sequence, records.len()), ..sent });
                    return Ok(offset);
                }
                Err(error) if !error.may_pass() || is_stranger(&error) || since.elapsed() > self.patience => {
                    return Err(error);
                }
                Err(error) => {
                    told(&error);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn send_once(
        &self,
        partition: Partition,
        records: &[Written<'_>],
        stamp: &mut Option<Stamp>,
    ) -> Result<(i64, Stamp), KafkaError> {
        let stamp = match stamp {
            Some(stamp) => *stamp,
            None => {
                let (producer, epoch) = self.cluster.producer_id().await?;
                *stamp.insert(Stamp { producer, epoch, sequence: 0 })
            }
        };
        let batch = stamped(records, self.compression, stamp);
        self.cluster.produce(partition, &batch).await.map(|offset| (offset, stamp))
    }
}

/// The broker does not know this producer any more, or expects another number.
fn is_stranger(error: &KafkaError) -> bool {
    matches!(
        error.code(),
        Some(
            ResponseError::UnknownProducerId
                | ResponseError::InvalidProducerEpoch
                | ResponseError::OutOfOrderSequenceNumber
        )
    )
}

/// Numbers begin at 0 again after the largest.
fn after(sequence: i32, records: usize) -> i32 {
    let sum = i64::from(sequence) + i64::try_from(records).unwrap_or(0);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_again_after_the_largest() {
        assert_eq!([after(0, 1), after(5, 10), after(i32::MAX, 1), after(i32::MAX - 1, 3)], [1, 15, 0, 1]);
    }
}
