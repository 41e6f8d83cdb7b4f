//! A topic of Kafka as the target: a record for each snapshot, and one for each gap.

use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::delivery::{Delivered, NotDelivered, Target, gap_record, record};
use super::plan::{Gap, Interval};
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

    /// One key for all: a reader has the snapshots of a provider in their order. The time is that of the interval.
    async fn put(&self, interval: Interval, data: &[u8]) -> Result<(), NotDelivered> {
        let key = Some(self.provider.as_str().as_bytes());
        let record = TopicRecord { key, value: data, time_ms: interval.start_us() / 1000 };
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

#[async_trait]
impl Target for TopicTarget {
    /// A topic does not say.
    async fn has(&self, _interval: Interval) -> Result<bool, NotDelivered> {
        Ok(false)
    }

    async fn snapshot(
        &self,
        interval: Interval,
        time_us: Option<i64>,
        body: &Bytes,
    ) -> Result<Delivered, NotDelivered> {
        let text = str::from_utf8(body)
            .map_err(|_| NotDelivered { reason: "the body is not UTF-8".to_owned(), for_good: true })?;
        self.put(interval, &record(self.provider, interval, time_us, text)).await?;
        Ok(Delivered::New)
    }

    async fn gap(&self, gap: &Gap) -> Result<(), NotDelivered> {
        self.put(gap.first, &gap_record(gap)).await
    }

    async fn look_back(&self, _before: Interval) -> Result<Vec<Gap>, NotDelivered> {
        Ok(Vec::new())
    }
}
