//! `PutRecord` and `PutRecords`. The base64 text of a record is checked, then kept as a slice of the request body.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use super::super::Kinesis;
use super::super::errors::ApiError;
use super::super::hash_key;
use super::super::log::decoded_length;
use super::super::sequence::DIGITS;
use super::{named_stream, parse};

/// Records in one call, and their total size with partition keys
/// ([PutRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html)).
const RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 10 << 20;

/// Bodies below this are copied, so that a small record does not keep the connection's read buffer alive.
const COPY_BELOW: usize = 64 << 10;

#[derive(Deserialize)]
struct PutRecords<'a> {
    #[serde(borrow, rename = "Records")]
    records: Vec<Entry<'a>>,
    #[serde(rename = "StreamName")]
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    explicit_hash_key: Option<String>,
}

#[derive(Deserialize)]
struct PutRecord<'a> {
    #[serde(borrow, rename = "Data")]
    data: Cow<'a, str>,
    #[serde(borrow, rename = "PartitionKey")]
    partition_key: Cow<'a, str>,
    #[serde(rename = "ExplicitHashKey")]
    explicit_hash_key: Option<String>,
    #[serde(rename = "StreamName")]
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
}

/// A record that passed all checks.
struct Checked {
    hash: u128,
    partition_key: Bytes,
    data: Bytes,
    /// Decoded data and partition key, bytes.
    size: usize,
}

pub(super) fn put_record(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let body = owned(body);
    let request: PutRecord<'_> = parse(&body)?;
    let stream = named_stream(kinesis, request.stream_name.as_deref(), request.stream_arn.as_deref())?;
    let entry = Entry {
        data: request.data,
        partition_key: request.partition_key,
        explicit_hash_key: request.explicit_hash_key,
    };
    let layout = stream.layout();
    let record = entry.check(&body, layout.max_record_kib)?;
    let shard = layout.route(record.hash);
    let limited_size = kinesis.settings().real_limits.then_some(record.size);
    let number = shard
        .put(record.partition_key, record.data, now_us, limited_size)
        .ok_or_else(|| ApiError::throttled(&shard.id, &stream.name))?;
    Ok(format!(r#"{{"ShardId":"{}","SequenceNumber":"{}"}}"#, shard.id, shard.sequence(number)).into_bytes())
}

pub(super) fn put_records(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let body = owned(body);
    let request: PutRecords<'_> = parse(&body)?;
    let stream = named_stream(kinesis, request.stream_name.as_deref(), request.stream_arn.as_deref())?;
    let count = request.records.len();
    if count == 0 || count > RECORDS_MAX {
        let constraint = match count {
            0 => "Member must have length greater than or equal to 1".to_owned(),
            _ => format!("Member must have length less than or equal to {RECORDS_MAX}"),
        };
        return Err(ApiError::validation(&format!("of {count} records"), "records", &constraint));
    }
    let layout = stream.layout();
    let mut checked = Vec::with_capacity(count);
    let mut total = 0;
    for entry in request.records {
        let record = entry.check(&body, layout.max_record_kib)?;
        total += record.size;
        checked.push(record);
    }
    if total > REQUEST_BYTES_MAX {
        return Err(ApiError::invalid_argument("Records size exceeds 10 MB limit"));
    }

    let limited = kinesis.settings().real_limits;
    let mut failed = 0;
    let mut answer = Vec::with_capacity(64 + count * (DIGITS + 72));
    answer.extend_from_slice(br#"{"Records":["#);
    for (i, record) in checked.into_iter().enumerate() {
        if i > 0 {
            answer.push(b',');
        }
        let shard = layout.route(record.hash);
        let limited_size = limited.then_some(record.size);
        if let Some(number) = shard.put(record.partition_key, record.data, now_us, limited_size) {
            answer.extend_from_slice(br#"{"ShardId":""#);
            answer.extend_from_slice(shard.id.as_bytes());
            answer.extend_from_slice(br#"","SequenceNumber":""#);
            answer.extend_from_slice(&shard.sequence(number).digits());
            answer.extend_from_slice(br#""}"#);
        } else {
            failed += 1;
            let ApiError { kind, message, .. } = ApiError::throttled(&shard.id, &stream.name);
            answer.extend_from_slice(
                format!(r#"{{"ErrorCode":"{kind}","ErrorMessage":"{message}"}}"#).as_bytes(),
            );
        }
    }
    answer.extend_from_slice(format!(r#"],"FailedRecordCount":{failed}}}"#).as_bytes());
    Ok(answer)
}

impl Entry<'_> {
    fn check(self, body: &Bytes, max_record_kib: u32) -> Result<Checked, ApiError> {
        let key_length = self.partition_key.chars().take(257).count();
        if !(1..=256).contains(&key_length) {
            // The key itself may be personal data.
            let constraint = "Member must have length between 1 and 256";
            return Err(ApiError::validation("of another length", "partitionKey", constraint));
        }
        let hash = match self.explicit_hash_key {
            None => hash_key::of_partition_key(&self.partition_key),
            Some(key) => hash_key::parse(&key).ok_or_else(|| {
                ApiError::invalid_argument(format!(
                    "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value \
                     was {key}"
                ))
            })?,
        };
        if base64_simd::STANDARD.check(self.data.as_bytes()).is_err() {
            return Err(ApiError::serialization("Data is not valid base64 text."));
        }
        let size = decoded_length(self.data.as_bytes()) + self.partition_key.len();
        let size_max = usize::try_from(max_record_kib).unwrap_or(usize::MAX).saturating_mul(1024);
        if size > size_max {
            let constraint = format!("Member must have length less than or equal to {size_max}");
            return Err(ApiError::validation(
                &format!("of {size} bytes with its partition key"),
                "data",
                &constraint,
            ));
        }
        let partition_key = match self.partition_key {
            // Borrowed means that the body holds it without escapes, so its text is the inside of a JSON string.
            Cow::Borrowed(key) => body.slice_ref(key.as_bytes()),
            Cow::Owned(key) => json_inside(&key),
        };
        let data = match self.data {
            Cow::Borrowed(data) => body.slice_ref(data.as_bytes()),
            Cow::Owned(data) => Bytes::from(data),
        };
        Ok(Checked { hash, partition_key, data, size })
    }
}

/// `text` as the inside of a JSON string.
pub(crate) fn json_inside(text: &str) -> Bytes {
    let quoted = Bytes::from(serde_json::Value::from(text).to_string());
    quoted.slice(1..quoted.len() - 1)
}

fn owned(body: &Bytes) -> Bytes {
    if body.len() < COPY_BELOW { Bytes::copy_from_slice(body) } else { body.clone() }
}
