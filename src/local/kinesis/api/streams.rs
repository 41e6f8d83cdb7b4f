//! Operations on streams as a whole.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::super::Kinesis;
use super::super::errors::ApiError;
use super::super::stream::{Layout, Stream};
use super::shards::description;
use super::{StreamRef, json, parse, seconds, within};

/// Shards of an on-demand stream at its start.
const ON_DEMAND_SHARDS: u32 = 4;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateStream {
    stream_name: String,
    shard_count: Option<u32>,
    stream_mode_details: Option<StreamModeDetails>,
    #[serde(rename = "MaxRecordSizeInKiB")]
    max_record_size_in_kib: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StreamModeDetails {
    stream_mode: String,
}

pub(super) fn create_stream(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: CreateStream = parse(body)?;
    let mode =
        request.stream_mode_details.map_or_else(|| "PROVISIONED".to_owned(), |details| details.stream_mode);
    let (shards, on_demand) = match (mode.as_str(), request.shard_count) {
        ("PROVISIONED", Some(count)) => (count, false),
        ("PROVISIONED", None) => {
            return Err(ApiError::invalid_argument(
                "ShardCount is required for the PROVISIONED stream mode.",
            ));
        }
        ("ON_DEMAND", None) => (ON_DEMAND_SHARDS, true),
        ("ON_DEMAND", Some(_)) => {
            return Err(ApiError::invalid_argument(
                "ShardCount cannot be given for the ON_DEMAND stream mode.",
            ));
        }
        (other, _) => {
            let constraint = "Member must satisfy enum value set: [PROVISIONED, ON_DEMAND]";
            return Err(ApiError::validation(
                &format!("'{other}'"),
                "streamModeDetails.streamMode",
                constraint,
            ));
        }
    };
    let max_record_kib = request.max_record_size_in_kib.unwrap_or(1_024);
    within(max_record_kib, 1_024..=10_240, "maxRecordSizeInKiB")?;
    kinesis.create_stream(&request.stream_name, shards)?;
    let stream = kinesis.stream(&request.stream_name)?;
    let mut layout = stream.layout_mut();
    layout.on_demand = on_demand;
    layout.max_record_kib = max_record_kib;
    Ok(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteStream {
    #[serde(flatten)]
    stream: StreamRef,
    enforce_consumer_deletion: Option<bool>,
}

pub(super) fn delete_stream(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: DeleteStream = parse(body)?;
    let stream = request.stream.find(kinesis)?;
    let has_consumers = stream.consumers().iter().len() > 0;
    if has_consumers && !request.enforce_consumer_deletion.unwrap_or(false) {
        return Err(ApiError::resource_in_use(format!(
            "Stream {} has consumers. Deregister them or set EnforceConsumerDeletion.",
            stream.name
        )));
    }
    kinesis.streams_mut().remove(&stream.name);
    stream.deleted.cancel();
    Ok(Vec::new())
}

pub(super) fn describe_limits(kinesis: &Kinesis) -> Vec<u8> {
    let streams = kinesis.streams();
    let open: u32 = streams.values().map(|stream| stream.layout().open_count()).sum();
    let on_demand = streams.values().filter(|stream| stream.layout().on_demand).count();
    json(&json!({
        "ShardLimit": super::super::SHARDS_MAX,
        "OpenShardCount": open,
        "OnDemandStreamCount": on_demand,
        "OnDemandStreamCountLimit": 50,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeStream {
    #[serde(flatten)]
    stream: StreamRef,
    limit: Option<u32>,
    exclusive_start_shard_id: Option<String>,
}

pub(super) fn describe_stream(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: DescribeStream = parse(body)?;
    // The service never shows more than 100 in one answer.
    let limit = within(request.limit.unwrap_or(100), 1..=10_000, "limit")?.min(100);
    let stream = request.stream.find(kinesis)?;
    let after = request.exclusive_start_shard_id;
    let mut value = properties(&stream, now_us);
    let layout = stream.layout();
    let mut shards =
        layout.known(now_us).filter(|shard| after.as_ref().is_none_or(|after| shard.id > *after)).peekable();
    value["Shards"] = shards.by_ref().take(limit).map(|shard| description(shard)).collect();
    value["HasMoreShards"] = shards.peek().is_some().into();
    Ok(json(&json!({"StreamDescription": value})))
}

pub(super) fn describe_stream_summary(
    kinesis: &Kinesis,
    body: &Bytes,
    now_us: i64,
) -> Result<Vec<u8>, ApiError> {
    let stream = parse::<StreamRef>(body)?.find(kinesis)?;
    let mut value = properties(&stream, now_us);
    value["OpenShardCount"] = stream.layout().open_count().into();
    value["ConsumerCount"] = stream.consumers().iter().len().into();
    value["MaxRecordSizeInKiB"] = stream.layout().max_record_kib.into();
    Ok(json(&json!({"StreamDescriptionSummary": value})))
}

/// What every description of a stream holds.
fn properties(stream: &Stream, now_us: i64) -> serde_json::Value {
    let layout = stream.layout();
    json!({
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "StreamStatus": status(&layout, now_us),
        "StreamModeDetails": {"StreamMode": mode(layout.on_demand)},
        "RetentionPeriodHours": layout.retention_hours,
        "StreamCreationTimestamp": seconds(stream.created_us),
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
    })
}

fn status(layout: &Layout, now_us: i64) -> &'static str {
    if layout.updating(now_us) { "UPDATING" } else { "ACTIVE" }
}

fn mode(on_demand: bool) -> &'static str {
    if on_demand { "ON_DEMAND" } else { "PROVISIONED" }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListStreams {
    limit: Option<u32>,
    exclusive_start_stream_name: Option<String>,
    next_token: Option<String>,
}

pub(super) fn list_streams(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: ListStreams = parse(body)?;
    let limit = within(request.limit.unwrap_or(100), 1..=10_000, "limit")?;
    // The token is the last name shown.
    let after = request.next_token.or(request.exclusive_start_stream_name);
    let streams = kinesis.streams();
    let mut rest = streams.values().filter(|s| after.as_ref().is_none_or(|after| s.name > *after)).peekable();
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let has_more = rest.peek().is_some();
    let summaries: Vec<_> = page
        .iter()
        .map(|stream| {
            json!({
                "StreamName": stream.name,
                "StreamARN": stream.arn,
                "StreamStatus": status(&stream.layout(), now_us),
                "StreamModeDetails": {"StreamMode": mode(stream.layout().on_demand)},
                "StreamCreationTimestamp": seconds(stream.created_us),
            })
        })
        .collect();
    let names: Vec<_> = page.iter().map(|stream| stream.name.as_str()).collect();
    let mut answer = json!({"StreamNames": names, "HasMoreStreams": has_more, "StreamSummaries": summaries});
    if let (true, Some(last)) = (has_more, page.last()) {
        answer["NextToken"] = last.name.as_str().into();
    }
    Ok(json(&answer))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeRetention {
    #[serde(flatten)]
    stream: StreamRef,
    retention_period_hours: u32,
}

pub(super) fn change_retention(kinesis: &Kinesis, body: &Bytes, increase: bool) -> Result<Vec<u8>, ApiError> {
    let request: ChangeRetention = parse(body)?;
    let stream = request.stream.find(kinesis)?;
    let hours = request.retention_period_hours;
    let mut layout = stream.layout_mut();
    let current = layout.retention_hours;
    let refused = match hours {
        0..24 => Some("Minimum allowed retention period is 24 hours".to_owned()),
        8_761.. => Some("Maximum allowed retention period is 8760 hours".to_owned()),
        _ if increase && hours < current => {
            Some(format!("Requested retention period must not be less than {current}"))
        }
        _ if !increase && hours > current => {
            Some(format!("Requested retention period must not be more than {current}"))
        }
        _ => None,
    };
    if let Some(reason) = refused {
        return Err(ApiError::invalid_argument(format!("{reason}. Requested: {hours} hours.")));
    }
    layout.retention_hours = hours;
    Ok(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateMaxRecordSize {
    #[serde(flatten)]
    stream: StreamRef,
    #[serde(rename = "MaxRecordSizeInKiB")]
    max_record_size_in_kib: u32,
}

pub(super) fn update_max_record_size(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: UpdateMaxRecordSize = parse(body)?;
    within(request.max_record_size_in_kib, 1_024..=10_240, "maxRecordSizeInKiB")?;
    request.stream.find(kinesis)?.layout_mut().max_record_kib = request.max_record_size_in_kib;
    Ok(Vec::new())
}
