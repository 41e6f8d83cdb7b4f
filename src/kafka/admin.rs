//! Makes topics and removes them, for trials.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::sleep;

use super::cluster::{Cluster, Topic};
use super::error::KafkaError;

/// The cluster has this long.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A topic that was made has leaders after so many looks.
const LOOKS: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Cluster {
    /// Makes a topic with the cluster's own number of replicas, and waits until all partitions have a leader.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<Arc<Topic>, KafkaError> {
        let wanted = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(-1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX));
        let connection = self.any().await?;
        let answer = connection.ask(&request, TIMEOUT).await?;
        if let Some(made) = answer.topics.into_iter().find(|topic| topic.error_code != 0) {
            let said = made.error_message.map_or_else(String::new, |said| said.to_string());
            return Err(KafkaError::refused(connection.broker(), format!("topic {name}: {said}")));
        }
        let mut looks = 0;
        loop {
            let found = self.topic_named(name).await;
            let whole = |topic: &Arc<Topic>| {
                topic.partitions.len() == usize::try_from(partitions).unwrap_or(0)
                    && topic.partitions.values().all(|partition| partition.leader.is_some())
            };
            match found {
                Ok(topic) if whole(&topic) => return Ok(topic),
                found if looks == LOOKS => return found,
                _ => looks += 1,
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Removes a topic with all that is in it.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn delete_topic(&self, name: &str) -> Result<(), KafkaError> {
        let named = TopicName(StrBytes::from_string(name.to_owned()));
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![DeleteTopicState::default().with_name(Some(named))])
            .with_timeout_ms(i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX));
        let connection = self.any().await?;
        let answer = connection.ask(&request, TIMEOUT).await?;
        let code = answer.responses.first().map_or(0, |topic| topic.error_code);
        KafkaError::of(connection.broker(), code).map_or(Ok(()), Err)
    }
}
