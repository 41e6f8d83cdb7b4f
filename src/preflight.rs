//! Looks, before anything is read, whether the service can work: one check for each kind of client.
//!
//! Owns: what is asked at the start, and what to do when the answer is no.
//! Does not own: what is made of the clients afterwards (`service`).

use std::time::Duration;

use aws_sdk_firehose::error::ProvideErrorMetadata;
use aws_sdk_firehose::types::{CompressionFormat, DeliveryStreamStatus, DeliveryStreamType};
use aws_sdk_kinesis::types::StreamStatus;
use tokio::time::timeout;

use crate::aws::{OfStream, StreamAddress, explain, sdk_config};
use crate::batch::Packing;
use crate::config::{Config, LakeConfig, LakePlace};
use crate::deliver::{DeliveryStream, LakeUrl, ObjectSink};
use crate::lease::RETENTION_HOURS_MIN;

/// Each thing that the service needs must answer within this time at the start.
const START_TIMEOUT: Duration = Duration::from_secs(8);
/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct StartError {
    what: String,
    problem: String,
    wrong_setting: bool,
}

impl StartError {
    pub(crate) fn new(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { what: what.into(), problem: problem.to_string(), wrong_setting: false }
    }

    /// Whether a setting is wrong, beyond doubt.
    pub(crate) fn of_a_setting(self, wrong_setting: bool) -> Self {
        Self { wrong_setting, ..self }
    }

    /// True when a setting is wrong, beyond doubt: the same start will never succeed.
    pub fn is_wrong_setting(&self) -> bool {
        self.wrong_setting
    }
}

/// Whether the stream can be read; answers for how many hours it keeps records.
pub(crate) async fn check_stream(
    client: &aws_sdk_kinesis::Client,
    stream: &StreamAddress,
) -> Result<u32, StartError> {
    let what = || format!("stream {stream}");
    let call = client.describe_stream_summary().of(stream).send();
    let answer =
        timeout(START_TIMEOUT, call).await.map_err(|_| StartError::new(what(), out_of_reach("Kinesis")))?;
    let summary = match answer {
        Ok(answer) => answer.stream_description_summary,
        Err(error)
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            return Err(StartError::new(what(), format!("does not exist; {}", stream.check())));
        }
        Err(error) => return Err(StartError::new(what(), explain(&error))),
    };
    match summary.map(|summary| (summary.stream_status, summary.retention_period_hours)) {
        Some((StreamStatus::Active | StreamStatus::Updating, hours)) => {
            Ok(u32::try_from(hours).unwrap_or(0).max(RETENTION_HOURS_MIN))
        }
        Some((other, _)) => {
            Err(StartError::new(what(), format!("its status is {other}; start again when it is ACTIVE")))
        }
        None => Err(StartError::new(what(), "the response has no status")),
    }
}

/// Whether DynamoDB answers and lets us look. A missing table is made later.
pub(crate) async fn check_table(client: &aws_sdk_dynamodb::Client, table: &str) -> Result<(), StartError> {
    let what = || format!("lease table {table}");
    let call = client.describe_table().table_name(table).send();
    match timeout(START_TIMEOUT, call).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("DynamoDB"))),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error))
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            Ok(())
        }
        Ok(Err(error)) => Err(StartError::new(what(), explain(&error))),
    }
}

/// Whether the lake takes objects, and never replaces one.
pub(crate) async fn check_lake(sink: Option<&ObjectSink>, config: &Config) -> Result<(), StartError> {
    let Some((sink, LakeConfig { place: LakePlace::Url(url), .. })) = sink.zip(config.lake.as_ref()) else {
        return Ok(());
    };
    let what = || format!("lake {url}");
    let advice = match url {
        LakeUrl::S3 { .. } => {
            "check --lake, the region, --s3-endpoint, and that the role in use may read and write there"
        }
        LakeUrl::Folder(_) => "check --lake, and that this process may read and write there",
    };
    match timeout(START_TIMEOUT, sink.probe()).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("the lake"))),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let said = error.to_string();
            // A known error code comes with what to do.
            let advised = said.contains("; ");
            Err(StartError::new(what(), if advised { said } else { format!("{said}; {advice}") }))
        }
    }
}

/// The delivery stream, where rows go to one.
pub(crate) async fn open_firehose(config: &Config) -> Result<Option<DeliveryStream>, StartError> {
    let firehose = config.lake.as_ref().and_then(|lake| lake.firehose.as_ref());
    let Some((name, packing)) = firehose else { return Ok(None) };
    let sdk = sdk_config(config.endpoints.firehose.as_deref(), config.region.as_deref()).await;
    check_firehose(&sdk, name, *packing).await?;
    Ok(Some(DeliveryStream::new(&sdk, name, *packing)))
}

/// Whether the delivery stream is there, takes our calls, and compresses as we expect. A process may be allowed to put and
/// not to look.
async fn check_firehose(
    config: &aws_config::SdkConfig,
    name: &str,
    packing: Packing,
) -> Result<(), StartError> {
    let wrong = |problem: &str| Err(StartError::new(format!("delivery stream {name}"), problem));
    let client = aws_sdk_firehose::Client::new(config);
    let call = client.describe_delivery_stream().delivery_stream_name(name).send();
    let found = match timeout(START_TIMEOUT, call).await {
        Err(_) => return wrong(&out_of_reach("Firehose")),
        Ok(Ok(answer)) => answer.delivery_stream_description,
        Ok(Err(error)) => match error.code() {
            Some("ResourceNotFoundException") => {
                return wrong("does not exist; check --firehose, --region and the account");
            }
            Some("AccessDeniedException") => {
                tracing::warn!(
                    delivery_stream = name,
                    "not checked: allow firehose:DescribeDeliveryStream in the role of this process"
                );
                return Ok(());
            }
            _ => return wrong(&explain(&error)),
        },
    };
    let Some(found) = found else {
        return wrong("the response describes no delivery stream; check the endpoint");
    };
    match &found.delivery_stream_status {
        DeliveryStreamStatus::Active => {}
        other => return wrong(&format!("its status is {other}; start again when it is ACTIVE")),
    }
    match &found.delivery_stream_type {
        DeliveryStreamType::DirectPut => {}
        other => {
            return wrong(&format!(
                "its source is {other}; use a delivery stream with the source Direct PUT"
            ));
        }
    }
    let to_s3 = found.destinations.iter().find_map(|each| each.extended_s3_destination_description.as_ref());
    match to_s3.map(|s3| &s3.compression_format) {
        Some(CompressionFormat::Uncompressed) | None => Ok(()),
        Some(_) if packing == Packing::Lines => Ok(()),
        Some(other) => wrong(&format!(
            "compresses its objects ({other}), so they would be compressed twice; set its compression to \
             UNCOMPRESSED, or use --firehose-gzip firehose"
        )),
    }
}

fn out_of_reach(service: &str) -> String {
    format!(
        "{service} did not respond within {} s; check the endpoint, the network and the region",
        START_TIMEOUT.as_secs()
    )
}
