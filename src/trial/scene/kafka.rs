//! Topics of somebody's cluster of Kafka, made for the play and removed after it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Choose, Scene, TrialSource};
use crate::generate::envelope;
use crate::kafka::{Cluster, KafkaSettings, Sasl, Topic};
use crate::produce::Sink;
use crate::produce::kafka::{TopicProducer, TopicWriter};
use crate::produce::kinesis::Receipt;
use crate::terminal::say;
use crate::trial::{TrialError, numbered};

/// Some topics.
#[derive(Debug)]
pub(super) struct Topics {
    cluster: Arc<Cluster>,
    names: Vec<String>,
    made: Mutex<Vec<Arc<Topic>>>,
}

impl Topics {
    /// So many topics with names that nobody else has.
    pub(super) fn new(brokers: KafkaSettings, name: &str, count: usize) -> Self {
        let unlike = format!("{name}-{:08x}", rand::random::<u32>());
        let cluster = Arc::new(Cluster::new(brokers));
        Self { cluster, names: numbered(&unlike, count), made: Mutex::default() }
    }

    fn made(&self) -> Vec<Arc<Topic>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Scene for Topics {
    fn streams(&self) -> &[String] {
        &self.names
    }

    fn source(&self, _stream: usize) -> TrialSource {
        TrialSource::Kafka
    }

    fn in_leases(&self) -> Vec<String> {
        self.made().iter().map(|topic| format!("{}:{}", topic.cluster, topic.id_text())).collect()
    }

    async fn prepare(&self, shards: u32) -> Result<(), TrialError> {
        for name in &self.names {
            let partitions = i32::try_from(shards).unwrap_or(i32::MAX);
            let made = self.cluster.create_topic(name, partitions).await;
            let made =
                made.map_err(|error| TrialError::server(format!("topic {name}"), error.to_string()))?;
            self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        }
        Ok(())
    }

    fn worker_arguments(&self) -> Vec<String> {
        let settings = self.cluster.settings();
        let mut flags = vec!["--source".to_owned(), "kafka".to_owned()];
        flags.extend(["--kafka-bootstrap".to_owned(), settings.bootstrap.to_string()]);
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
        flags.extend(self.names.iter().flat_map(|topic| ["--topic".to_owned(), topic.clone()]));
        flags
    }

    fn puts(&self, stream: usize, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        let table = envelope::Table { name: "CryptoTransactions".to_owned(), region: "us-east-1".to_owned() };
        let producer = TopicProducer::of(Arc::clone(&self.cluster), &self.made()[stream]);
        Sink::Topic(Arc::new(TopicWriter::new(producer, table, seed).with_receipts(receipts)))
    }

    async fn disturb(&self, _stream: usize, _choose: &mut Choose<'_>) -> Result<String, String> {
        Err("partitions neither split nor merge".to_owned())
    }

    /// The topics are removed after the play.
    fn forget_before(&self, _oldest_us: i64) {}

    async fn strike(&self) {
        for name in &self.names {
            if let Err(error) = self.cluster.delete_topic(name).await {
                say(format!("the topic {name} could not be deleted: {error}"));
            }
        }
    }
}
