//! A topic of Kafka as the target: a record for each snapshot, and one for each gap.

use async_trait::async_trait;
use kafka_protocol::error::ResponseError;

use super::delivery::{NotDelivered, RecordTarget};
use super::plan::Interval;
use crate::cause::chain;
use crate::kafka::KafkaError;
use crate::produce::kafka::{TopicProducer, TopicRecord};
use crate::transform::Provider;

/// A topic. A record is there once, unless this process ends while it is on its way.
pub struct TopicTarget {
    producer: TopicProducer,
    provider: Provider,
}

impl TopicTarget {
    /// Snapshots of `provider` as records of the producer's topic.
    pub fn new(producer: TopicProducer, provider: Provider) -> Self {
        Self { producer, provider }
    }
}

#[async_trait]
impl RecordTarget for TopicTarget {
    fn provider(&self) -> Provider {
        self.provider
    }

    /// One key for all: a reader has the snapshots of a provider in their order. The time is that of the interval.
    async fn put(&self, interval: Interval, record: Vec<u8>) -> Result<(), NotDelivered> {
        let key = Some(self.provider.as_str().as_bytes());
        let record = TopicRecord { key, value: &record, time_ms: interval.start_us() / 1000 };
        let told = |error: &KafkaError| tracing::debug!(%error, "the record is sent again");
        self.producer.send(&[record], told).await.map(drop).map_err(|error| NotDelivered {
            // It would be too large for ever.
            for_good: matches!(
                error.code(),
                Some(ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge)
            ),
            reason: chain(&error),
        })
    }
}
