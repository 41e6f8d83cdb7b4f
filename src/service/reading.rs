//! Who reads and lists a stream of AWS, by what kind of stream it is.

use std::sync::Arc;

use aws_config::SdkConfig;

use crate::aws::{AssumeRole, Ear, StreamAddress, stream_config};
use crate::fetch::dynamodbstreams::DynamoDbStreamsSource;
use crate::fetch::kinesis::KinesisSource;
use crate::fetch::{Polled, Starts};
use crate::shard::dynamodbstreams::{DynamoDbStreamsLister, TableStreams, Which};
use crate::shard::kinesis::KinesisShardLister;
use crate::shard::{FindStart, ShardLister};
use crate::transform::SourceKind;

/// A client for the service that a stream is read from.
#[derive(Clone)]
pub(crate) enum StreamClient {
    /// Of Kinesis.
    Kinesis(aws_sdk_kinesis::Client),
    /// Of DynamoDB Streams, with what it found of the table.
    Table(Arc<TableStreams>),
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
    pub(crate) async fn new(
        address: &StreamAddress,
        role: Option<&AssumeRole>,
        endpoint: Option<&str>,
        region: Option<&str>,
        which: Which,
        ear: Option<Ear>,
    ) -> Self {
        let sdk = stream_config(address, role, endpoint, region).await;
        Self::with(&sdk, address, which, ear)
    }

    /// As [`StreamClient::new`], with what [`stream_config`] has answered.
    pub(crate) fn with(sdk: &SdkConfig, address: &StreamAddress, which: Which, ear: Option<Ear>) -> Self {
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
        }
    }
}
