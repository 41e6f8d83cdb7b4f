//! Enhanced fan-out consumers and `SubscribeToShard`.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::Kinesis;
use super::super::consumers::Consumer;
use super::super::errors::ApiError;
use super::super::subscribe::Subscription;
use super::get::Start;
use super::{json, named_stream, parse, seconds, within};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Register {
    #[serde(rename = "StreamARN")]
    stream_arn: String,
    consumer_name: String,
}

pub(super) fn register(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: Register = parse(body)?;
    let stream = named_stream(kinesis, None, Some(&request.stream_arn))?;
    let mut consumers = stream.consumers();
    let consumer = consumers.register(&stream.arn, &request.consumer_name, now_us)?;
    Ok(json(&json!({"Consumer": description(consumer, "CREATING")})))
}

/// The two ways to name a consumer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsumerRef {
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
    consumer_name: Option<String>,
    #[serde(rename = "ConsumerARN")]
    consumer_arn: Option<String>,
}

impl ConsumerRef {
    /// The ARN that leads to the stream, and the name or ARN of the consumer in it.
    fn parts(&self) -> Result<(&str, &str), ApiError> {
        match (&self.consumer_arn, &self.stream_arn, &self.consumer_name) {
            (Some(arn), _, _) => Ok((arn, arn)),
            (None, Some(stream), Some(name)) => Ok((stream, name)),
            _ => Err(ApiError::invalid_argument("Give ConsumerARN, or StreamARN and ConsumerName.")),
        }
    }
}

pub(super) fn describe(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: ConsumerRef = parse(body)?;
    let (arn, name) = request.parts()?;
    let stream = named_stream(kinesis, None, Some(arn))?;
    let mut consumers = stream.consumers();
    let mut value = description(consumers.find(name)?, "ACTIVE");
    value["StreamARN"] = stream.arn.as_str().into();
    Ok(json(&json!({"ConsumerDescription": value})))
}

pub(super) fn deregister(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: ConsumerRef = parse(body)?;
    let (arn, name) = request.parts()?;
    named_stream(kinesis, None, Some(arn))?.consumers().deregister(name)?;
    Ok(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    #[serde(rename = "StreamARN")]
    stream_arn: String,
    max_results: Option<u32>,
    next_token: Option<String>,
}

pub(super) fn list(kinesis: &Kinesis, body: &Bytes) -> Result<Vec<u8>, ApiError> {
    let request: List = parse(body)?;
    let max = within(request.max_results.unwrap_or(100), 1..=10_000, "maxResults")?;
    let stream = named_stream(kinesis, None, Some(&request.stream_arn))?;
    let consumers = stream.consumers();
    // The token is the last name shown.
    let after = request.next_token;
    let mut rest = consumers.iter().filter(|c| after.as_ref().is_none_or(|after| c.name > *after)).peekable();
    let page: Vec<_> = rest.by_ref().take(max).collect();
    let mut answer = json!({"Consumers": page.iter().map(|c| description(c, "ACTIVE")).collect::<Vec<_>>()});
    if let (Some(last), Some(_)) = (page.last(), rest.peek()) {
        answer["NextToken"] = last.name.as_str().into();
    }
    Ok(json(&answer))
}

fn description(consumer: &Consumer, status: &str) -> Value {
    json!({
        "ConsumerName": consumer.name,
        "ConsumerARN": consumer.arn,
        "ConsumerStatus": status,
        "ConsumerCreationTimestamp": seconds(consumer.created_us),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Subscribe {
    #[serde(rename = "ConsumerARN")]
    consumer_arn: String,
    shard_id: String,
    starting_position: StartingPosition,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StartingPosition {
    r#type: String,
    sequence_number: Option<String>,
    timestamp: Option<f64>,
}

pub(super) fn subscribe_to_shard(
    kinesis: &Kinesis,
    body: &Bytes,
    now_us: i64,
) -> Result<Subscription, ApiError> {
    let request: Subscribe = parse(body)?;
    let stream = named_stream(kinesis, None, Some(&request.consumer_arn))?;
    let shard = stream.shard(&request.shard_id, now_us)?;
    let position = &request.starting_position;
    let start = Start {
        kind: &position.r#type,
        sequence_number: position.sequence_number.as_deref(),
        timestamp: position.timestamp,
    };
    let next = start.resolve(&stream, &shard, "startingPosition.type", now_us)?;
    let grant = stream.consumers().find(&request.consumer_arn)?.subscribe(shard.index, Instant::now())?;
    Ok(Subscription::new(stream, shard, next, grant, kinesis.settings().real_limits))
}
