//! A topic of somebody's cluster of Kafka, made for the play and removed after it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Choose, TrialSource, TrialStream};
use crate::generate::envelope;
use crate::kafka::{Cluster, KafkaSettings, Sasl, Topic};
use crate::produce::Sink;
use crate::produce::kafka::{TopicProducer, TopicWriter};
use crate::produce::kinesis::Receipt;
use crate::terminal::say;
use crate::trial::TrialError;

/// One topic.
#[derive(Debug)]
pub(super) struct TopicStream {
    cluster: Arc<Cluster>,
    topic: Arc<Topic>,
}

impl TopicStream {
    /// Makes one.
    pub(super) async fn make(brokers: &KafkaSettings, name: String, shards: u32) -> Result<Self, TrialError> {
        let cluster = Arc::new(Cluster::new(brokers.clone()));
        let partitions = i32::try_from(shards).unwrap_or(i32::MAX);
        let made = cluster.create_topic(&name, partitions).await;
        let topic = made.map_err(|error| TrialError::server(format!("topic {name}"), error.to_string()))?;
        Ok(Self { cluster, topic })
    }
}

#[async_trait]
impl TrialStream for TopicStream {
    fn name(&self) -> &str {
        &self.topic.name
    }

    fn in_leases(&self) -> String {
        format!("{}:{}", self.topic.cluster, self.topic.id_text())
    }

    fn source(&self) -> TrialSource {
        TrialSource::Kafka
    }

    fn flags(&self) -> Vec<String> {
        let settings = self.cluster.settings();
        let mut flags = vec!["--kafka-bootstrap".to_owned(), settings.bootstrap.to_string()];
        flags.extend(settings.tls.then(|| "--kafka-tls".to_owned()));
        if let Some(ca) = &settings.ca {
            flags.extend(["--kafka-ca".to_owned(), ca.display().to_string()]);
        }
        if let Some(client) = &settings.client {
            flags.extend(["--kafka-cert".to_owned(), client.certificate.display().to_string()]);
            flags.extend(["--kafka-key".to_owned(), client.key.display().to_string()]);
        }
        match &settings.sasl {
            // The password is in the environment, which workers inherit.
            Some(Sasl::User { mechanism, user, .. }) => {
                flags.extend(["--kafka-sasl".to_owned(), mechanism.as_str().to_lowercase()]);
                flags.extend(["--kafka-user".to_owned(), user.clone()]);
            }
            Some(Sasl::AwsMskIam { .. }) => flags.extend(["--kafka-sasl", "aws-msk-iam"].map(str::to_owned)),
            None => {}
        }
        flags
    }

    fn puts(&self, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        let table = envelope::Table { name: "CryptoTransactions".to_owned(), region: "us-east-1".to_owned() };
        let producer = TopicProducer::of(Arc::clone(&self.cluster), &self.topic);
        Sink::Topic(Arc::new(TopicWriter::new(producer, table, seed).with_receipts(receipts)))
    }

    async fn disturb(&self, _choose: &mut Choose<'_>) -> Result<String, String> {
        Err("partitions neither split nor merge".to_owned())
    }

    async fn strike(&self) {
        if let Err(error) = self.cluster.delete_topic(self.name()).await {
            say(format!("the topic {} could not be deleted: {error}", self.name()));
        }
    }
}
