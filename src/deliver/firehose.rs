//! Packed rows → Firehose, until it has accepted each of them.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::Builder;
use aws_sdk_firehose::error::ProvideErrorMetadata;
use aws_sdk_firehose::operation::put_record_batch::PutRecordBatchOutput;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::calls::{Entry, accepted, billed_bytes};
use super::retry::Backoff;
use crate::aws::explain;
use crate::batch::Packing;
use crate::telemetry::metrics::{self, CallOutcome};

/// Until the answer to a call, which is up to 4 MiB long. Who gives up too early sends everything again.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls under way at the same time, over all shards of the process: each holds its records twice more, as the client's
/// copy and as base64, which no byte budget counts.
const CALLS_MAX: usize = 8;

/// A delivery stream of Firehose. What it has accepted it delivers at least once, to where it was set up to.
pub struct DeliveryStream {
    client: Client,
    name: String,
    packing: Packing,
    calls: Semaphore,
}

impl DeliveryStream {
    /// The delivery stream with this name, and how rows are packed for it.
    pub fn new(config: &SdkConfig, name: impl Into<String>, packing: Packing) -> Self {
        let timeouts = config.timeout_config().map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder);
        let timeouts = timeouts.operation_attempt_timeout(CALL_TIMEOUT).build();
        // Every try is ours: the client's own would send all records again, unseen.
        let config =
            Builder::from(config).retry_config(RetryConfig::disabled()).timeout_config(timeouts).build();
        let calls = Semaphore::new(CALLS_MAX);
        Self { client: Client::from_conf(config), name: name.into(), packing, calls }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How rows are packed for it.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Sends the records of one call, and those that are not accepted again, until all are. `failed` is told what went
    /// wrong, the number of the try (from 1) and the wait before the next one.
    ///
    /// A record may be stored more than once: an answer can be lost. What is sent again comes after what was accepted
    /// at once.
    pub async fn deliver(
        &self,
        mut records: Vec<Bytes>,
        backoff: Backoff,
        mut failed: impl FnMut(&str, u32, Duration),
    ) {
        for (wait, tries) in backoff.waits().zip(1..) {
            if tries > 1 {
                metrics::firehose_records_resent(records.len());
            }
            let reason = match self.put(&records).await {
                Ok(answer) => {
                    let mut accepted = accepted_by(&answer, records.len()).into_iter();
                    // One answer for each record, in their order.
                    records.retain(|record| {
                        let accepted = accepted.next().unwrap_or(false);
                        if accepted {
                            metrics::firehose_record_accepted(record.len(), billed_bytes(record.len()));
                        }
                        !accepted
                    });
                    if records.is_empty() {
                        metrics::firehose_called(CallOutcome::Accepted);
                        return;
                    }
                    metrics::firehose_called(CallOutcome::Partial);
                    format!("Firehose refused {} records: {}", records.len(), first_error(&answer))
                }
                Err((outcome, reason)) => {
                    metrics::firehose_called(outcome);
                    reason
                }
            };
            failed(&reason, tries, wait);
            sleep(wait).await;
        }
    }

    async fn put(&self, records: &[Bytes]) -> Result<PutRecordBatchOutput, (CallOutcome, String)> {
        let _turn = self.calls.acquire().await.expect("nobody closes it");
        let records = records.iter().map(|record| {
            Record::builder().data(Blob::new(&record[..])).build().expect("the data is all that it needs")
        });
        let call = self.client.put_record_batch().delivery_stream_name(&self.name);
        call.set_records(Some(records.collect())).send().await.map_err(|error| {
            let outcome = match error.code() {
                Some("ServiceUnavailableException" | "ThrottlingException" | "LimitExceededException") => {
                    CallOutcome::Throttled
                }
                _ => CallOutcome::Failed,
            };
            (outcome, format!("Firehose, delivery stream {}: {}", self.name, explain(&error)))
        })
    }
}

fn accepted_by(answer: &PutRecordBatchOutput, sent: usize) -> Vec<bool> {
    let entries: Vec<Entry> = answer
        .request_responses()
        .iter()
        .map(|entry| Entry {
            has_id: entry.record_id().is_some_and(|id| !id.is_empty()),
            has_error: entry.error_code().is_some(),
        })
        .collect();
    // A negative count says nothing.
    accepted(sent, usize::try_from(answer.failed_put_count()).unwrap_or(0), &entries)
}

fn first_error(answer: &PutRecordBatchOutput) -> String {
    let refused = answer.request_responses().iter().find(|entry| entry.error_code().is_some());
    refused.map_or_else(
        || "the response does not have one result per record".to_owned(),
        |entry| {
            let message = entry.error_message().map(|text| format!(": {text}")).unwrap_or_default();
            format!("{}{message}", entry.error_code().unwrap_or_default())
        },
    )
}
