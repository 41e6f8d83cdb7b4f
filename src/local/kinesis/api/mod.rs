//! The API: from the body of a call to state and back. One file per family of operations.

mod consumers;
mod get;
mod put;
mod shards;
mod streams;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::Kinesis;
use super::arn::stream_of;
use super::errors::ApiError;
use super::stream::Stream;
use super::subscribe::Subscription;
use crate::clock::wall_clock_us;

pub(crate) use get::write_records;
pub(crate) use put::json_inside;
pub(crate) use shards::child_shards;

/// Every operation that is answered.
pub(crate) const OPERATIONS: &[&str] = &[
    "CreateStream",
    "DecreaseStreamRetentionPeriod",
    "DeleteStream",
    "DeregisterStreamConsumer",
    "DescribeLimits",
    "DescribeStream",
    "DescribeStreamConsumer",
    "DescribeStreamSummary",
    "GetRecords",
    "GetShardIterator",
    "IncreaseStreamRetentionPeriod",
    "ListShards",
    "ListStreamConsumers",
    "ListStreams",
    "MergeShards",
    "PutRecord",
    "PutRecords",
    "RegisterStreamConsumer",
    "SplitShard",
    "SubscribeToShard",
    "UpdateMaxRecordSize",
    "UpdateShardCount",
];

/// What a call is answered with.
pub(crate) enum Answer {
    /// A JSON body; empty for operations without output.
    Json(Vec<u8>),
    /// A stream of events.
    Events(Box<Subscription>),
}

/// Answers one call.
///
/// # Errors
/// What the service would answer.
pub(crate) fn answer(
    kinesis: &Kinesis,
    operation: &str,
    body: Bytes,
    empty: bool,
) -> Result<Answer, ApiError> {
    // Some clients send nothing for an input without members.
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let now_us = wall_clock_us();
    let json = match operation {
        "GetRecords" => get::get_records(kinesis, &body, now_us, empty)?,
        "PutRecords" => put::put_records(kinesis, &body, now_us)?,
        "PutRecord" => put::put_record(kinesis, &body, now_us)?,
        "GetShardIterator" => get::get_shard_iterator(kinesis, &body, now_us)?,
        "SubscribeToShard" => {
            return Ok(Answer::Events(Box::new(consumers::subscribe_to_shard(kinesis, &body, now_us)?)));
        }
        "CreateStream" => streams::create_stream(kinesis, &body)?,
        "DeleteStream" => streams::delete_stream(kinesis, &body)?,
        "DescribeLimits" => streams::describe_limits(kinesis),
        "DescribeStream" => streams::describe_stream(kinesis, &body, now_us)?,
        "DescribeStreamSummary" => streams::describe_stream_summary(kinesis, &body, now_us)?,
        "ListStreams" => streams::list_streams(kinesis, &body, now_us)?,
        "IncreaseStreamRetentionPeriod" => streams::change_retention(kinesis, &body, true)?,
        "DecreaseStreamRetentionPeriod" => streams::change_retention(kinesis, &body, false)?,
        "UpdateMaxRecordSize" => streams::update_max_record_size(kinesis, &body)?,
        "ListShards" => shards::list_shards(kinesis, &body, now_us)?,
        "SplitShard" => shards::split_shard(kinesis, &body, now_us)?,
        "MergeShards" => shards::merge_shards(kinesis, &body, now_us)?,
        "UpdateShardCount" => shards::update_shard_count(kinesis, &body, now_us)?,
        "RegisterStreamConsumer" => consumers::register(kinesis, &body, now_us)?,
        "DescribeStreamConsumer" => consumers::describe(kinesis, &body)?,
        "ListStreamConsumers" => consumers::list(kinesis, &body)?,
        "DeregisterStreamConsumer" => consumers::deregister(kinesis, &body)?,
        _ => return Err(ApiError::unknown_operation(operation)),
    };
    Ok(Answer::Json(json))
}

/// The two ways to name a stream, as members of nearly every input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StreamRef {
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
}

impl StreamRef {
    fn find(&self, kinesis: &Kinesis) -> Result<Arc<Stream>, ApiError> {
        named_stream(kinesis, self.stream_name.as_deref(), self.stream_arn.as_deref())
    }
}

/// Finds a stream by name, by ARN, or by both where they agree.
fn named_stream(kinesis: &Kinesis, name: Option<&str>, arn: Option<&str>) -> Result<Arc<Stream>, ApiError> {
    let from_arn = arn.map(|arn| stream_of(arn, kinesis.region())).transpose()?;
    match (name, from_arn) {
        (Some(a), Some(b)) if a != b => {
            Err(ApiError::invalid_argument(format!("StreamARN does not belong to the stream {a}.")))
        }
        (Some(name), _) | (None, Some(name)) => kinesis.stream(name),
        (None, None) => Err(ApiError::invalid_argument("Either StreamName or StreamARN must be given.")),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    Ok(serde_json::from_slice(body)?)
}

/// A number of the request that has to lie in a range.
fn within(value: u32, range: std::ops::RangeInclusive<u32>, member: &str) -> Result<usize, ApiError> {
    let (low, high) = (range.start(), range.end());
    let constraint = if value < *low {
        format!("Member must have value greater than or equal to {low}")
    } else if value > *high {
        format!("Member must have value less than or equal to {high}")
    } else {
        return Ok(usize::try_from(value).unwrap_or(usize::MAX));
    };
    Err(ApiError::validation(&format!("'{value}'"), member, &constraint))
}

/// A timestamp of the request (seconds, with a fraction) in µs.
fn timestamp_us(seconds: f64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from float saturates, and any time is a valid input"
    )]
    let us = (seconds * 1e6).round() as i64;
    us
}

/// A time as the control plane writes it: seconds with a fraction of ms.
fn seconds(us: i64) -> serde_json::Number {
    let text = format!("{}.{:03}", us.div_euclid(1_000_000), us.rem_euclid(1_000_000) / 1_000);
    text.parse().expect("a decimal number")
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
