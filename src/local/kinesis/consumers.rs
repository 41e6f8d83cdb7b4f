//! Enhanced fan-out consumers of a stream, and which subscription of each holds a shard.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::errors::ApiError;

/// A second subscription is refused for this long after the first
/// ([SubscribeToShard](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html)).
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(5);

/// Consumers of one stream at most (the service's default quota).
const CONSUMERS_MAX: usize = 20;

/// The consumers of one stream by name.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    by_name: BTreeMap<String, Consumer>,
}

/// A registered consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) arn: String,
    /// µs since the epoch.
    pub(crate) created_us: i64,
    deregistered: CancellationToken,
    /// By shard index.
    subscriptions: HashMap<u32, (Instant, CancellationToken)>,
}

/// What ends a subscription before its time.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// A newer subscription took the shard over.
    pub(crate) superseded: CancellationToken,
    /// The consumer is gone.
    pub(crate) deregistered: CancellationToken,
}

impl Consumers {
    /// Registers a consumer of the stream with this ARN.
    ///
    /// # Errors
    /// `ResourceInUseException` when the name is taken, `LimitExceededException` when the stream has 20.
    pub(crate) fn register(
        &mut self,
        stream_arn: &str,
        name: &str,
        now_us: i64,
    ) -> Result<&Consumer, ApiError> {
        if self.by_name.contains_key(name) {
            return Err(ApiError::resource_in_use(format!(
                "Consumer {name} under stream {stream_arn} already exists."
            )));
        }
        if self.by_name.len() >= CONSUMERS_MAX {
            return Err(ApiError::limit_exceeded(format!(
                "The stream has {CONSUMERS_MAX} consumers. Deregister one first."
            )));
        }
        let consumer = Consumer {
            name: name.to_owned(),
            arn: format!("{stream_arn}/consumer/{name}:{}", now_us / 1_000_000),
            created_us: now_us,
            deregistered: CancellationToken::new(),
            subscriptions: HashMap::new(),
        };
        Ok(self.by_name.entry(name.to_owned()).or_insert(consumer))
    }

    /// Finds a consumer by name or by ARN.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub(crate) fn find(&mut self, name_or_arn: &str) -> Result<&mut Consumer, ApiError> {
        self.by_name
            .values_mut()
            .find(|consumer| consumer.name == name_or_arn || consumer.arn == name_or_arn)
            .ok_or_else(|| ApiError::consumer_not_found(name_or_arn))
    }

    /// Removes a consumer and ends its subscriptions.
    ///
    /// # Errors
    /// `ResourceNotFoundException`.
    pub(crate) fn deregister(&mut self, name_or_arn: &str) -> Result<(), ApiError> {
        let name = self.find(name_or_arn)?.name.clone();
        if let Some(consumer) = self.by_name.remove(&name) {
            consumer.deregistered.cancel();
        }
        Ok(())
    }

    /// The consumers by name.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.by_name.values()
    }
}

impl Consumer {
    /// Gives a shard to a new subscription; an older one is told that it lost it.
    ///
    /// # Errors
    /// `ResourceInUseException` within five seconds of the last success.
    pub(crate) fn subscribe(&mut self, shard: u32, now: Instant) -> Result<Grant, ApiError> {
        if let Some((since, superseded)) = self.subscriptions.get(&shard) {
            if now.saturating_duration_since(*since) < RESUBSCRIBE_AFTER {
                return Err(ApiError::resource_in_use(format!(
                    "Another active subscription exists for this consumer: {}. Subscribe again after five seconds.",
                    self.arn
                )));
            }
            superseded.cancel();
        }
        let superseded = CancellationToken::new();
        self.subscriptions.insert(shard, (now, superseded.clone()));
        Ok(Grant { superseded, deregistered: self.deregistered.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_subscription_waits_five_seconds_and_then_takes_over() {
        let mut consumers = Consumers::default();
        consumers.register("arn:s", "app", 7_000_000).unwrap();
        let consumer = consumers.find("arn:s/consumer/app:7").unwrap();
        let start = Instant::now();
        let first = consumer.subscribe(0, start).unwrap();
        let refused = consumer.subscribe(0, start + Duration::from_millis(4_999)).unwrap_err();
        assert_eq!(refused.kind, "ResourceInUseException");
        assert!(consumer.subscribe(1, start).is_ok(), "another shard is free");
        assert!(!first.superseded.is_cancelled());
        let second = consumer.subscribe(0, start + Duration::from_secs(5)).unwrap();
        assert!(first.superseded.is_cancelled() && !second.superseded.is_cancelled());
        consumers.deregister("app").unwrap();
        assert!(second.deregistered.is_cancelled());
        assert_eq!(consumers.find("app").unwrap_err().kind, "ResourceNotFoundException");
    }

    #[test]
    fn names_are_taken_once_and_twenty_are_enough() {
        let mut consumers = Consumers::default();
        for i in 0..CONSUMERS_MAX {
            consumers.register("arn:s", &i.to_string(), 0).unwrap();
        }
        assert_eq!(consumers.register("arn:s", "0", 0).unwrap_err().kind, "ResourceInUseException");
        assert_eq!(consumers.register("arn:s", "more", 0).unwrap_err().kind, "LimitExceededException");
    }
}
