//! A Kinesis stream as the target: a record for each snapshot, and one for each gap.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::timeout;

use super::delivery::{NotDelivered, RecordTarget};
use super::plan::Interval;
use crate::aws::{OfStream, StreamAddress, explain};
use crate::transform::Provider;

/// The stream must answer a first question within this time.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

/// A stream. A record is sent again where it is not known whether it arrived, so that a snapshot may be there twice: its
/// rows have the same id and time.
pub struct StreamTarget {
    client: Client,
    stream: StreamAddress,
    provider: Provider,
}

impl StreamTarget {
    /// Snapshots of `provider` as records of `stream`.
    pub fn new(client: Client, stream: StreamAddress, provider: Provider) -> Self {
        Self { client, stream, provider }
    }

    /// Whether the stream is there. One that may not be described may still be written.
    ///
    /// # Errors
    /// When it is missing or out of reach.
    pub async fn check(&self) -> Result<(), NotDelivered> {
        let failed = |reason| NotDelivered { reason, for_good: false };
        match timeout(FIRST_ANSWER, self.client.describe_stream_summary().of(&self.stream).send()).await {
            Err(_) => Err(failed(
                "no response within 8 s; check the endpoint, the network and the region".to_owned(),
            )),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match error.code() {
                Some("AccessDeniedException") => Ok(()),
                Some("ResourceNotFoundException") => {
                    Err(failed(format!("it does not exist; {}", self.stream.check())))
                }
                _ => Err(failed(explain(&error))),
            },
        }
    }
}

#[async_trait]
impl RecordTarget for StreamTarget {
    fn provider(&self) -> Provider {
        self.provider
    }

    /// One partition key for all: a reader has the snapshots of a provider in their order.
    async fn put(&self, _interval: Interval, record: Vec<u8>) -> Result<(), NotDelivered> {
        let entry = PutRecordsRequestEntry::builder()
            .partition_key(self.provider.as_str())
            .data(Blob::new(record))
            .build()
            .expect("data and partition key are set");
        let call = self.client.put_records().of(&self.stream).records(entry);
        match call.send().await {
            Ok(reply) => match reply.records.first().and_then(|record| record.error_code.clone()) {
                None => Ok(()),
                Some(code) => Err(NotDelivered { reason: code, for_good: false }),
            },
            // As for a record that is larger than the stream takes.
            Err(error) => Err(NotDelivered {
                for_good: matches!(error.code(), Some("ValidationException" | "InvalidArgumentException")),
                reason: explain(&error),
            }),
        }
    }
}
