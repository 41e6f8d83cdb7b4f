//! `ListShards` and the operations that change the shards of a stream.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Kinesis;
use super::super::errors::{ACCOUNT, ApiError};
use super::super::hash_key;
use super::super::shard::{Shard, shard_id};
use super::super::stream::{Layout, Stream};
use super::{StreamRef, json, named_stream, parse, timestamp_us, within};

/// Page tokens live for 300 seconds
/// ([ListShards](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html)).
const TOKEN_TTL_US: i64 = 300_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListShards {
    #[serde(flatten)]
    stream: StreamRef,
    next_token: Option<String>,
    exclusive_start_shard_id: Option<String>,
    max_results: Option<u32>,
    stream_creation_timestamp: Option<f64>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    r#type: String,
    shard_id: Option<String>,
    timestamp: Option<f64>,
}

/// The rest of a listing, as the client carries it.
#[derive(Deserialize, Serialize)]
struct Token {
    issued_us: i64,
    stream: String,
    created_us: i64,
    after: String,
    filter: Option<ShardFilter>,
}

pub(super) fn list_shards(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: ListShards = parse(body)?;
    let max = within(request.max_results.unwrap_or(1_000), 1..=10_000, "maxResults")?;
    let (stream, after, filter) = match &request.next_token {
        Some(token) => {
            let named = request.stream.stream_name.is_some()
                || request.exclusive_start_shard_id.is_some()
                || request.stream_creation_timestamp.is_some()
                || request.shard_filter.is_some();
            if named {
                return Err(ApiError::invalid_argument(
                    "NextToken and StreamName, StreamCreationTimestamp, ExclusiveStartShardId or ShardFilter cannot be \
                     provided together.",
                ));
            }
            let token = Token::decode(token)?;
            if now_us.saturating_sub(token.issued_us) > TOKEN_TTL_US {
                return Err(ApiError::expired_next_token());
            }
            let stream = named_stream(kinesis, Some(&token.stream), request.stream.stream_arn.as_deref())?;
            if stream.created_us != token.created_us {
                return Err(ApiError::stream_not_found(&token.stream, ACCOUNT));
            }
            (stream, Some(token.after), token.filter)
        }
        None => (request.stream.find(kinesis)?, request.exclusive_start_shard_id, request.shard_filter),
    };

    let layout = stream.layout();
    let wanted = Wanted::of(filter.as_ref(), &stream, &layout, now_us)?;
    let mut matching = layout
        .known(now_us)
        .filter(|shard| after.as_ref().is_none_or(|after| shard.id > *after) && wanted.takes(shard))
        .peekable();
    let shards: Vec<_> = matching.by_ref().take(max).collect();
    let mut answer = json!({"Shards": shards.iter().map(|shard| description(shard)).collect::<Vec<_>>()});
    if let (Some(last), Some(_)) = (shards.last(), matching.peek()) {
        let token = Token {
            issued_us: now_us,
            stream: stream.name.clone(),
            created_us: stream.created_us,
            after: last.id.clone(),
            filter,
        };
        answer["NextToken"] = token.encode()?.into();
    }
    Ok(json(&answer))
}

impl Token {
    fn encode(&self) -> Result<String, ApiError> {
        Ok(base64_simd::STANDARD.encode_to_string(serde_json::to_vec(self)?))
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        base64_simd::STANDARD
            .decode_to_vec(text)
            .ok()
            .and_then(|plain| serde_json::from_slice(&plain).ok())
            .ok_or_else(|| ApiError::invalid_argument("Invalid NextToken."))
    }
}

/// A shard filter with its times resolved.
enum Wanted {
    All,
    After(String),
    OpenAt(i64),
    OpenSince(i64),
    OpenNow,
}

impl Wanted {
    fn of(
        filter: Option<&ShardFilter>,
        stream: &Stream,
        layout: &Layout,
        now_us: i64,
    ) -> Result<Self, ApiError> {
        let Some(filter) = filter else { return Ok(Self::All) };
        let horizon_us = layout.oldest_us(now_us).max(stream.created_us);
        let timestamp = || {
            let us = timestamp_us(filter.timestamp.ok_or_else(|| {
                ApiError::invalid_argument(format!(
                    "Timestamp must be provided for filter type {}.",
                    filter.r#type
                ))
            })?);
            if us > now_us {
                return Err(ApiError::invalid_argument("Timestamp must not be in the future."));
            }
            // A timestamp before the trim horizon means the trim horizon.
            Ok(us.max(horizon_us))
        };
        Ok(match filter.r#type.as_str() {
            "AFTER_SHARD_ID" => Self::After(filter.shard_id.clone().ok_or_else(|| {
                ApiError::invalid_argument("ShardId must be provided for filter type AFTER_SHARD_ID.")
            })?),
            "AT_TRIM_HORIZON" => Self::OpenAt(horizon_us),
            "FROM_TRIM_HORIZON" => Self::All,
            "AT_LATEST" => Self::OpenNow,
            "AT_TIMESTAMP" => Self::OpenAt(timestamp()?),
            "FROM_TIMESTAMP" => Self::OpenSince(timestamp()?),
            other => {
                let constraint = "Member must satisfy enum value set: [AFTER_SHARD_ID, AT_TRIM_HORIZON, \
                                  FROM_TRIM_HORIZON, AT_LATEST, AT_TIMESTAMP, FROM_TIMESTAMP]";
                return Err(ApiError::validation(&format!("'{other}'"), "shardFilter.type", constraint));
            }
        })
    }

    fn takes(&self, shard: &Shard) -> bool {
        match self {
            Self::All => true,
            Self::After(id) => shard.id > *id,
            Self::OpenAt(us) => shard.open_at(*us),
            Self::OpenSince(us) => shard.closed_us().is_none_or(|closed| closed >= *us),
            Self::OpenNow => shard.closed_us().is_none(),
        }
    }
}

/// A shard as listings show it.
pub(super) fn description(shard: &Shard) -> Value {
    let mut value = json!({
        "ShardId": shard.id,
        "HashKeyRange": hash_key_range(shard),
        "SequenceNumberRange": {"StartingSequenceNumber": shard.sequence(0).to_string()},
    });
    if let Some(parent) = shard.parent {
        value["ParentShardId"] = shard_id(parent).into();
    }
    if let Some(adjacent) = shard.adjacent_parent {
        value["AdjacentParentShardId"] = shard_id(adjacent).into();
    }
    if shard.closed_us().is_some() {
        value["SequenceNumberRange"]["EndingSequenceNumber"] =
            shard.sequence(shard.next()).to_string().into();
    }
    value
}

/// The children of a closed shard, as readers get them.
pub(crate) fn child_shards(stream: &Stream, shard: &Shard) -> Value {
    let layout = stream.layout();
    layout
        .children(shard.index)
        .map(|child| {
            let parents: Vec<_> =
                [child.parent, child.adjacent_parent].into_iter().flatten().map(shard_id).collect();
            json!({"ShardId": child.id, "ParentShards": parents, "HashKeyRange": hash_key_range(child)})
        })
        .collect()
}

fn hash_key_range(shard: &Shard) -> Value {
    json!({"StartingHashKey": shard.range.start.to_string(), "EndingHashKey": shard.range.end.to_string()})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SplitShard {
    #[serde(flatten)]
    stream: StreamRef,
    shard_to_split: String,
    new_starting_hash_key: String,
}

pub(super) fn split_shard(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: SplitShard = parse(body)?;
    let stream = request.stream.find(kinesis)?;
    let key = hash_key::parse(&request.new_starting_hash_key).ok_or_else(|| {
        let constraint = "Member must satisfy regular expression pattern: 0|([1-9]\\d{0,38})";
        ApiError::validation(
            &format!("'{}'", request.new_starting_hash_key),
            "newStartingHashKey",
            constraint,
        )
    })?;
    stream.split(&request.shard_to_split, key, now_us)?;
    Ok(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MergeShards {
    #[serde(flatten)]
    stream: StreamRef,
    shard_to_merge: String,
    adjacent_shard_to_merge: String,
}

pub(super) fn merge_shards(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: MergeShards = parse(body)?;
    let stream = request.stream.find(kinesis)?;
    stream.merge(&request.shard_to_merge, &request.adjacent_shard_to_merge, now_us)?;
    Ok(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateShardCount {
    #[serde(flatten)]
    stream: StreamRef,
    target_shard_count: u32,
    scaling_type: String,
}

pub(super) fn update_shard_count(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: UpdateShardCount = parse(body)?;
    if request.scaling_type != "UNIFORM_SCALING" {
        let constraint = "Member must satisfy enum value set: [UNIFORM_SCALING]";
        return Err(ApiError::validation(&format!("'{}'", request.scaling_type), "scalingType", constraint));
    }
    let stream = request.stream.find(kinesis)?;
    let settings = kinesis.settings();
    let takes_us = i64::try_from(settings.resize_time.as_micros()).unwrap_or(i64::MAX);
    let current = stream.resize(request.target_shard_count, takes_us, settings.real_limits, now_us)?;
    Ok(json(&json!({
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "CurrentShardCount": current,
        "TargetShardCount": request.target_shard_count,
    })))
}
