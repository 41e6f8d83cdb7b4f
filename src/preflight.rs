//! Looks, before anything is read, whether the service can work: one check for each kind of client.
//!
//! Owns: what is asked at the start, and what to do when the answer is no. `kinetide check` asks the same, so that it says
//! what a start would say.
//! Does not own: what is made of the clients afterwards (`service`).

use std::net::SocketAddr;
#[cfg(feature = "kafka")]
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::TableDescription;
use aws_sdk_dynamodbstreams::types::{StreamDescription, StreamViewType};
use aws_sdk_firehose::error::ProvideErrorMetadata;
use aws_sdk_firehose::types::{
    CompressionFormat, DeliveryStreamDescription, DeliveryStreamStatus, DeliveryStreamType,
};
use aws_sdk_kinesis::types::{RecordDistributionStrategy, StreamDescriptionSummary, StreamStatus};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::aws::{OfStream, StreamAddress, explain, sdk_config};
use crate::batch::Packing;
use crate::cause::chain;
#[cfg(feature = "kafka")]
use crate::config::DEFAULT_TRANSFORM;
use crate::config::{Config, LakeConfig, LakePlace, StreamConfig};
use crate::deliver::{self, DeliveryStream, LakeUrl, ObjectSink, S3Settings};
#[cfg(feature = "kafka")]
use crate::kafka::Topic;
use crate::lease::{NotOurs, RETENTION_HOURS_MIN, TableError};
use crate::shard::ListError;
use crate::shard::dynamodbstreams::{TableStreams, is_on};
#[cfg(feature = "kafka")]
use crate::shard::kafka::KafkaTopic;

/// Each thing that the service needs must answer within this time at the start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(8);
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

    /// What cannot be used.
    #[cfg(feature = "cli")]
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Why, and what to do.
    #[cfg(feature = "cli")]
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }

    /// True when a setting is wrong, beyond doubt: the same start will never succeed.
    pub fn is_wrong_setting(&self) -> bool {
        self.wrong_setting
    }
}

/// The region of the lease table and the lake: a stream's ARN says where the stream is, not where they are.
pub(crate) fn region(sdk: &SdkConfig) -> Result<String, StartError> {
    let region = sdk.region().map(|region| region.as_ref().to_owned());
    region.ok_or_else(|| StartError::new("AWS region", "not set; set --region or AWS_REGION"))
}

/// Takes the address of the HTTP endpoints.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await;
    let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|error| {
        StartError::new(format!("--http {address}"), format!("{error}; choose another address or port"))
    })?;
    Ok((listener, address))
}

/// Whether the stream can be read; answers how it is.
pub(crate) async fn check_stream(
    client: &aws_sdk_kinesis::Client,
    stream: &StreamAddress,
) -> Result<StreamDescriptionSummary, StartError> {
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
    let Some(summary) = summary else {
        return Err(StartError::new(what(), "the response has no status"));
    };
    match &summary.stream_status {
        StreamStatus::Active | StreamStatus::Updating => Ok(summary),
        other => {
            Err(StartError::new(what(), format!("its status is {other}; start again when it is ACTIVE")))
        }
    }
}

/// Whether a table's changes can be read; answers its newest stream as it is.
pub(crate) async fn check_table_stream(
    streams: &TableStreams,
    table: &StreamAddress,
) -> Result<StreamDescription, StartError> {
    let what = || format!("stream of {table}");
    match timeout(START_TIMEOUT, streams.newest()).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("DynamoDB Streams"))),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(ListError::NotFound(_))) => {
            let turn_on = match table.table() {
                Some(named) if named.arn().is_none_or(|arn| arn.label().is_none()) => format!(
                    "; turn its stream on with `aws dynamodb update-table --table-name {} --stream-specification \
                     StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES`",
                    named.name()
                ),
                // Off for more than a day.
                _ => "; name the table, to read the stream that it has now".to_owned(),
            };
            let problem =
                format!("there is no such table, or it has no such stream: {}{turn_on}", table.check());
            Err(StartError::new(what(), problem))
        }
        Ok(Err(error)) => Err(StartError::new(what(), chain(&error))),
    }
}

/// What people should know of a table's stream that can be read.
pub(crate) fn table_oddities(stream: &StreamDescription, config: &StreamConfig) -> Vec<String> {
    let mut odd = Vec::new();
    if !is_on(stream) {
        odd.push(
            "it is turned off: it is read to its end, and changes made since are in no stream; turn the table's stream \
             on again, and they are read from then on"
                .to_owned(),
        );
    }
    let view = stream.stream_view_type().map(StreamViewType::as_str);
    let needs_item = |transform: &str| transform != "json";
    let transform = config.landing().map(|landing| landing.transform.id().name().to_owned());
    if let (Some(view @ ("KEYS_ONLY" | "OLD_IMAGE")), Some(transform)) =
        (view, transform.filter(|transform| needs_item(transform)))
    {
        odd.push(format!(
            "its view type is {view}, which has no new items: with --transform {transform} each insert and each update \
             becomes a dead letter; use a stream with NEW_IMAGE or NEW_AND_OLD_IMAGES, or --transform json"
        ));
    }
    odd
}

/// Whether a topic of Kafka can be read; answers how it is.
#[cfg(feature = "kafka")]
pub(crate) async fn check_topic(
    topic: &KafkaTopic,
    address: &StreamAddress,
) -> Result<Arc<Topic>, StartError> {
    let what = || format!("stream {address}");
    match timeout(START_TIMEOUT, topic.now()).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("Kafka"))),
        Ok(Ok(topic)) => Ok(topic),
        Ok(Err(ListError::NotFound(_))) => {
            Err(StartError::new(what(), format!("does not exist; {}", address.check())))
        }
        Ok(Err(error)) => Err(StartError::new(what(), chain(&error))),
    }
}

/// What people should know of a topic that can be read.
#[cfg(feature = "kafka")]
pub(crate) fn topic_oddities(topic: &Topic, config: &StreamConfig) -> Vec<String> {
    let mut odd = Vec::new();
    let headless = topic.partitions.values().filter(|partition| partition.leader.is_none()).count();
    if headless > 0 {
        let all = topic.partitions.len();
        odd.push(format!(
            "{headless} of its {all} partitions have no leader, and cannot be read until they have one"
        ));
    }
    let transform = config.landing().map(|landing| landing.transform.id().name().to_owned());
    if transform.as_deref() == Some(DEFAULT_TRANSFORM) {
        odd.push(format!(
            "its records are read with --transform {DEFAULT_TRANSFORM}, which takes changes of DynamoDB: for other JSON \
             documents use --transform json"
        ));
    }
    odd
}

/// For how many hours a stream keeps records.
pub(crate) fn retention_hours(stream: &StreamDescriptionSummary) -> u32 {
    u32::try_from(stream.retention_period_hours).unwrap_or(0).max(RETENTION_HOURS_MIN)
}

/// What people should know of a stream that can be read.
pub(crate) fn oddity(stream: &StreamDescriptionSummary) -> Option<&'static str> {
    (stream.record_distribution_strategy() == Some(&RecordDistributionStrategy::Auto)).then_some(
        "its record distribution is AUTO: records of one partition key are spread over all shards, so that rows of \
         one key are in no order; order them by the ordering key",
    )
}

/// Whether DynamoDB answers and lets us look. A missing table is made later.
pub(crate) async fn check_table(
    client: &aws_sdk_dynamodb::Client,
    table: &str,
) -> Result<Option<TableDescription>, StartError> {
    let what = || lease_table(table);
    let call = client.describe_table().table_name(table).send();
    match timeout(START_TIMEOUT, call).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("DynamoDB"))),
        Ok(Ok(answer)) => Ok(answer.table),
        Ok(Err(error))
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            Ok(None)
        }
        Ok(Err(error)) => Err(StartError::new(what(), explain(&error))),
    }
}

fn lease_table(table: &str) -> String {
    format!("lease table {table}")
}

/// Why an application's tables cannot be used.
pub(crate) fn not_usable(application: &str, error: TableError) -> StartError {
    match error {
        TableError::Unusable { table, reason } => StartError::new(lease_table(&table), reason),
        TableError::NotOurs(not_ours) => not_our_leases(application, &not_ours),
        error => StartError::new(lease_table(application), chain(&error)),
    }
}

/// The leases in an application's table are not those of its stream.
pub(crate) fn not_our_leases(application: &str, not_ours: &NotOurs) -> StartError {
    StartError::new(lease_table(application), not_ours).of_a_setting(not_ours.is_wrong_setting())
}

/// Opens the lake.
pub(crate) async fn open_lake(
    url: &LakeUrl,
    s3: &S3Settings,
    config: &Config,
) -> Result<ObjectSink, StartError> {
    let (region, endpoint) = (config.region.as_deref(), config.endpoints.s3.as_deref());
    let sink = deliver::open_to_write(url, region, endpoint, s3).await;
    sink.map_err(|error| StartError::new(format!("lake {url}"), error))
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
    if check_firehose(&aws_sdk_firehose::Client::new(&sdk), name, *packing).await?.is_none() {
        tracing::warn!(delivery_stream = name, "not checked: {MAY_NOT_LOOK}");
    }
    Ok(Some(DeliveryStream::new(&sdk, name, *packing)))
}

/// What to do where it cannot be looked at, which keeps nobody from putting.
pub(crate) const MAY_NOT_LOOK: &str = "allow firehose:DescribeDeliveryStream in the role of this process";

/// Whether the delivery stream is there, takes our calls, and compresses as we expect; answers how it is, or nothing where
/// this process may put and not look.
pub(crate) async fn check_firehose(
    client: &aws_sdk_firehose::Client,
    name: &str,
    packing: Packing,
) -> Result<Option<DeliveryStreamDescription>, StartError> {
    let wrong = |problem: &str| Err(StartError::new(format!("delivery stream {name}"), problem));
    let call = client.describe_delivery_stream().delivery_stream_name(name).send();
    let found = match timeout(START_TIMEOUT, call).await {
        Err(_) => return wrong(&out_of_reach("Firehose")),
        Ok(Ok(answer)) => answer.delivery_stream_description,
        Ok(Err(error)) => match error.code() {
            Some("ResourceNotFoundException") => {
                return wrong("does not exist; check --firehose, --region and the account");
            }
            Some("AccessDeniedException") => return Ok(None),
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
        Some(CompressionFormat::Uncompressed) | None => Ok(Some(found)),
        Some(_) if packing == Packing::Lines => Ok(Some(found)),
        Some(other) => wrong(&format!(
            "compresses its objects ({other}), so they would be compressed twice; set its compression to \
             UNCOMPRESSED, or use --firehose-gzip firehose"
        )),
    }
}

pub(crate) fn out_of_reach(service: &str) -> String {
    format!(
        "{service} did not respond within {} s; check the endpoint, the network and the region",
        START_TIMEOUT.as_secs()
    )
}
