//! The operations of DynamoDB Streams over HTTP.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use dynoxide::actions::list_tables::ListTablesRequest;

use super::shards::{Shard, Stream};
use super::{ITERATOR_TTL, LOOK, Refused, Streams};
use crate::clock::wall_clock_us;
use crate::local::forward::{position, sequence_number};

const TARGET: &str = "DynamoDBStreams_20120810.";
/// Shards of an answer at most.
const SHARDS_MAX: usize = 100;

const NOT_FOUND: &str = "ResourceNotFoundException";
const INVALID: &str = "ValidationException";

/// Serves until `stop`.
pub(in crate::local) async fn serve(listener: TcpListener, streams: Streams, stop: CancellationToken) {
    let router = Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
        let streams = streams.clone();
        async move { handle(streams, &headers, body).await }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the embedded DynamoDB Streams ended");
    }
}

async fn handle(streams: Streams, headers: &HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.strip_prefix(TARGET).unwrap_or_default().to_owned();
    // The database blocks.
    let answered = tokio::task::spawn_blocking(move || streams.answer(&operation, &body)).await;
    let (status, body) = match answered {
        Ok(Ok(answer)) => (StatusCode::OK, answer),
        Ok(Err((code, message))) => {
            let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
            (StatusCode::BAD_REQUEST, json!({ "__type": kind, "message": message }).to_string())
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "__type": "InternalServerError" }).to_string()),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.0")], body).into_response()
}

fn text<'a>(request: &'a Value, member: &str) -> &'a str {
    request.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn not_found(what: &str) -> Refused {
    (NOT_FOUND, format!("Requested resource not found: {what}"))
}

impl Streams {
    fn answer(&self, operation: &str, body: &[u8]) -> Result<String, Refused> {
        let request: Value = serde_json::from_slice(body)
            .map_err(|_| ("SerializationException", "The request is not JSON.".to_owned()))?;
        match operation {
            "ListStreams" => self.list_streams(&request),
            "DescribeStream" => self.describe_stream(&request),
            "GetShardIterator" => self.get_shard_iterator(&request),
            "GetRecords" => self.get_records(&request),
            _ => Err(("UnknownOperationException", String::new())),
        }
    }

    fn list_streams(&self, request: &Value) -> Result<String, Refused> {
        let tables = match text(request, "TableName") {
            "" => {
                let listed = self.0.database.list_tables(ListTablesRequest::default());
                listed.map_err(|error| (INVALID, error.to_string()))?.table_names
            }
            table => vec![table.to_owned()],
        };
        let mut streams = Vec::new();
        for table in tables {
            for stream in self.refreshed(&table).tables.get(&table).into_iter().flatten() {
                let Stream { arn, label, .. } = stream;
                streams.push(json!({ "StreamArn": arn, "StreamLabel": label, "TableName": table }));
            }
        }
        Ok(json!({ "Streams": streams }).to_string())
    }

    /// The table and the stream of an ARN.
    fn named(&self, arn: &str) -> Result<(String, Stream), Refused> {
        let parts = arn.split_once(":table/").and_then(|(_, path)| path.split_once("/stream/"));
        let (table, label) = parts.ok_or((INVALID, "Invalid StreamArn".to_owned()))?;
        let state = self.refreshed(table);
        let streams = state.tables.get(table).into_iter().flatten();
        let stream = streams.clone().find(|stream| stream.label == label);
        stream.map(|stream| (table.to_owned(), stream.clone())).ok_or_else(|| not_found(arn))
    }

    fn describe_stream(&self, request: &Value) -> Result<String, Refused> {
        let (table, stream) = self.named(text(request, "StreamArn"))?;
        let limit = request.get("Limit").and_then(Value::as_u64).unwrap_or(SHARDS_MAX as u64);
        let limit = usize::try_from(limit).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX);
        let parent = request.get("ShardFilter").map(|filter| text(filter, "ShardId"));
        let after = text(request, "ExclusiveStartShardId");
        let listed: Vec<&Shard> = stream
            .shards
            .iter()
            .skip_while(|shard| !after.is_empty() && shard.id != after)
            .skip(usize::from(!after.is_empty()))
            .filter(|shard| parent.is_none_or(|parent| shard.parent.as_deref() == Some(parent)))
            .collect();
        let shards: Vec<Value> = listed.iter().take(limit).map(|shard| described(shard)).collect();
        let mut description = json!({
            "StreamArn": stream.arn,
            "StreamLabel": stream.label,
            "StreamStatus": if stream.on { "ENABLED" } else { "DISABLED" },
            "StreamViewType": stream.view,
            "CreationRequestDateTime": stream.created_us / 1_000_000,
            "TableName": table,
            "Shards": shards,
        });
        if listed.len() > limit {
            description["LastEvaluatedShardId"] = json!(listed[limit - 1].id);
        }
        Ok(json!({ "StreamDescription": description }).to_string())
    }

    fn get_shard_iterator(&self, request: &Value) -> Result<String, Refused> {
        let (table, stream) = self.named(text(request, "StreamArn"))?;
        let id = text(request, "ShardId");
        let shard = stream.shards.iter().find(|shard| shard.id == id).ok_or_else(|| not_found(id))?;
        let numbered = || {
            let number = position(text(request, "SequenceNumber"));
            let of_shard = |at: &u64| *at > shard.after && shard.to.is_none_or(|to| *at <= to);
            let at = number
                .filter(of_shard)
                .ok_or((INVALID, "Invalid SequenceNumber for the shard".to_owned()))?;
            if at <= stream.trimmed {
                return Err(("TrimmedDataAccessException", "The requested data has been trimmed".to_owned()));
            }
            Ok(at)
        };
        let after = match text(request, "ShardIteratorType") {
            "TRIM_HORIZON" => shard.after.max(stream.trimmed),
            "LATEST" => match shard.to {
                Some(to) => to,
                None => super::last_position(&self.0.database, &table).unwrap_or(0).max(shard.after),
            },
            "AT_SEQUENCE_NUMBER" => numbered()? - 1,
            "AFTER_SEQUENCE_NUMBER" => numbered()?,
            _ => return Err((INVALID, "Invalid ShardIteratorType".to_owned())),
        };
        let Stream { arn, .. } = &stream;
        Ok(json!({ "ShardIterator": format!("{arn}|{id}|{after}|{}", wall_clock_us()) }).to_string())
    }

    fn get_records(&self, request: &Value) -> Result<String, Refused> {
        let invalid = || (INVALID, "Invalid ShardIterator".to_owned());
        let iterator = text(request, "ShardIterator");
        let parts: Vec<&str> = iterator.rsplitn(4, '|').collect();
        let [issued_us, after, id, arn] = parts[..] else { return Err(invalid()) };
        let after: u64 = after.parse().map_err(|_| invalid())?;
        let issued_us: i64 = issued_us.parse().map_err(|_| invalid())?;
        let (table, stream) = self.named(arn)?;
        let life = self.state().iterator_ttl.unwrap_or(ITERATOR_TTL);
        if u128::try_from(wall_clock_us() - issued_us).unwrap_or(0) >= life.as_micros() {
            return Err(("ExpiredIteratorException", "Iterator expired".to_owned()));
        }
        let shard = stream.shards.iter().find(|shard| shard.id == id).ok_or_else(|| not_found(id))?;
        if after < stream.trimmed && after > shard.after {
            return Err(("TrimmedDataAccessException", "The requested data has been trimmed".to_owned()));
        }
        let limit = request.get("Limit").and_then(Value::as_u64).unwrap_or(LOOK as u64);
        let limit = usize::try_from(limit).unwrap_or(LOOK).clamp(1, LOOK);
        let read = self.read(&table, &stream, shard, after.max(stream.trimmed), limit);
        let (changes, next) = read.map_err(|error| ("InternalServerError", error.to_string()))?;
        let is_over = changes.is_empty() && shard.to.is_some_and(|to| next >= to || next == after);
        let records: Vec<&str> = changes.iter().map(|change| change.json.as_str()).collect();
        let next = if is_over {
            String::new()
        } else {
            let next = json!(format!("{arn}|{id}|{next}|{}", wall_clock_us()));
            format!(",\"NextShardIterator\":{next}")
        };
        Ok(format!("{{\"Records\":[{}]{next}}}", records.join(",")))
    }
}

fn described(shard: &Shard) -> Value {
    let mut range = json!({ "StartingSequenceNumber": sequence_number(shard.after + 1) });
    if let Some(to) = shard.to {
        range["EndingSequenceNumber"] = json!(sequence_number(to.max(shard.after + 1)));
    }
    let mut described = json!({ "ShardId": shard.id, "SequenceNumberRange": range });
    if let Some(parent) = &shard.parent {
        described["ParentShardId"] = json!(parent);
    }
    described
}
