//! Who reads and lists a stream, by what kind of stream it is.

use std::sync::Arc;

use aws_config::SdkConfig;

#[cfg(feature = "cli")]
use crate::aws::{AssumeRole, stream_config};
use crate::aws::{Ear, StreamAddress};
use crate::config::Endpoints;
use crate::fetch::dynamodbstreams::DynamoDbStreamsSource;
#[cfg(feature = "kafka")]
use crate::fetch::kafka::KafkaSource;
use crate::fetch::kinesis::KinesisSource;
use crate::fetch::{Polled, Starts};
#[cfg(feature = "kafka")]
use crate::kafka::Cluster;
use crate::shard::dynamodbstreams::{DynamoDbStreamsLister, TableStreams, Which};
#[cfg(feature = "kafka")]
use crate::shard::kafka::KafkaTopic;
use crate::shard::kinesis::KinesisShardLister;
use crate::shard::{FindStart, ShardLister};
use crate::transform::SourceKind;

/// The cluster that topics are in, whose connections all streams of a process share; none where no brokers are named.
#[derive(Clone, Default)]
pub(crate) struct Brokers {
    #[cfg(feature = "kafka")]
    cluster: Option<Arc<Cluster>>,
}

impl Brokers {
    /// Those of these settings.
    #[cfg(feature = "kafka")]
    pub(crate) fn of(endpoints: &Endpoints) -> Self {
        Self { cluster: endpoints.kafka.clone().map(|settings| Arc::new(Cluster::new(settings))) }
    }

    /// None: this build is without Kafka, and its settings refuse topics.
    #[cfg(not(feature = "kafka"))]
    pub(crate) fn of(_: &Endpoints) -> Self {
        Self {}
    }

    fn topic(&self, name: &str) -> StreamClient {
        #[cfg(feature = "kafka")]
        if let Some(cluster) = &self.cluster {
            return StreamClient::Topic(Arc::new(KafkaTopic::new(Arc::clone(cluster), name)));
        }
        unreachable!("settings with topic {name} name brokers")
    }
}

/// A client for the service that a stream is read from.
#[derive(Clone)]
pub(crate) enum StreamClient {
    /// Of Kinesis.
    Kinesis(aws_sdk_kinesis::Client),
    /// Of DynamoDB Streams, with what it found of the table.
    Table(Arc<TableStreams>),
    /// Of Kafka.
    #[cfg(feature = "kafka")]
    Topic(Arc<KafkaTopic>),
}

/// Who reads and lists a stream.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) kind: SourceKind,
    pub(crate) polled: Arc<dyn Polled>,
    pub(crate) lister: Arc<dyn ShardLister>,
    pub(crate) starts: Arc<dyn FindStart>,
}

impl StreamClient {
    /// A client for this stream in the region of its ARN, else in `region`. `ear`: hears how calls go.
    #[cfg(feature = "cli")]
    pub(crate) async fn new(
        address: &StreamAddress,
        role: Option<&AssumeRole>,
        endpoint: Option<&str>,
        region: Option<&str>,
        which: Which,
        brokers: &Brokers,
        ear: Option<Ear>,
    ) -> Self {
        let sdk = stream_config(address, role, endpoint, region).await;
        Self::with(&sdk, address, which, brokers, ear)
    }

    /// A client for this stream, by what `stream_config` has answered. `ear`: hears how calls go.
    pub(crate) fn with(
        sdk: &SdkConfig,
        address: &StreamAddress,
        which: Which,
        brokers: &Brokers,
        ear: Option<Ear>,
    ) -> Self {
        if address.is_topic() {
            return brokers.topic(address.name());
        }
        match address.table() {
            None => {
                let config = aws_sdk_kinesis::config::Builder::from(sdk);
                let config = match ear {
                    Some(ear) => config.interceptor(ear),
                    None => config,
                };
                Self::Kinesis(aws_sdk_kinesis::Client::from_conf(config.build()))
            }
            Some(table) => {
                let config = aws_sdk_dynamodbstreams::config::Builder::from(sdk);
                let config = match ear {
                    Some(ear) => config.interceptor(ear),
                    None => config,
                };
                let client = aws_sdk_dynamodbstreams::Client::from_conf(config.build());
                Self::Table(Arc::new(TableStreams::new(client, table.clone(), which)))
            }
        }
    }

    /// Who reads the stream with this client.
    pub(crate) fn reading(&self, address: &StreamAddress) -> Reading {
        match self {
            Self::Kinesis(client) => {
                let polled = Arc::new(KinesisSource::new(client.clone(), address.clone()));
                Reading {
                    kind: SourceKind::Kinesis,
                    polled: Arc::clone(&polled) as _,
                    lister: Arc::new(KinesisShardLister::new(client.clone(), address.clone())),
                    starts: Arc::new(Starts::new(polled)),
                }
            }
            Self::Table(streams) => {
                let polled = Arc::new(DynamoDbStreamsSource::new(Arc::clone(streams)));
                Reading {
                    kind: SourceKind::DynamoDbStreams,
                    polled: Arc::clone(&polled) as _,
                    lister: Arc::new(DynamoDbStreamsLister::new(Arc::clone(streams))),
                    starts: Arc::new(Starts::in_order(polled)),
                }
            }
            #[cfg(feature = "kafka")]
            Self::Topic(topic) => Reading {
                kind: SourceKind::Kafka,
                polled: Arc::new(KafkaSource::new(Arc::clone(topic.cluster()))),
                lister: Arc::clone(topic) as _,
                starts: Arc::clone(topic) as _,
            },
        }
    }
}
