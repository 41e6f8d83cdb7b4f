//! `GetShardIterator` and `GetRecords`. Answers are written by appending to one buffer.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::super::Kinesis;
use super::super::errors::{ACCOUNT, ApiError};
use super::super::iterator::ShardIterator;
use super::super::log::Run;
use super::super::sequence::DIGITS;
use super::super::shard::{PAGE_BYTES_MAX, Shard};
use super::super::stream::Stream;
use super::{StreamRef, child_shards, json, named_stream, parse, timestamp_us, within};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator {
    #[serde(flatten)]
    stream: StreamRef,
    shard_id: String,
    shard_iterator_type: String,
    starting_sequence_number: Option<String>,
    timestamp: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords {
    shard_iterator: String,
    limit: Option<u32>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
}

pub(super) fn get_shard_iterator(kinesis: &Kinesis, body: &Bytes, now_us: i64) -> Result<Vec<u8>, ApiError> {
    let request: GetShardIterator = parse(body)?;
    let stream = request.stream.find(kinesis)?;
    let shard = stream.shard(&request.shard_id, now_us)?;
    let start = Start {
        kind: &request.shard_iterator_type,
        sequence_number: request.starting_sequence_number.as_deref(),
        timestamp: request.timestamp,
    };
    let next = start.resolve(&stream, &shard, "shardIteratorType", now_us)?;
    Ok(json(&json!({"ShardIterator": iterator(&stream, &shard, next, now_us)})))
}

/// Where reading starts, as both ways of reading ask for it.
pub(super) struct Start<'a> {
    pub(super) kind: &'a str,
    pub(super) sequence_number: Option<&'a str>,
    pub(super) timestamp: Option<f64>,
}

impl Start<'_> {
    /// The number of the first record to read. `member` names the type in the request.
    pub(super) fn resolve(
        &self,
        stream: &Stream,
        shard: &Shard,
        member: &str,
        now_us: i64,
    ) -> Result<u64, ApiError> {
        let record = || {
            let number = self.sequence_number.ok_or_else(|| {
                ApiError::invalid_argument(format!("Must specify a sequence number for {}.", self.kind))
            })?;
            shard.record_of(number, &stream.name)
        };
        match self.kind {
            "TRIM_HORIZON" => Ok(0),
            "LATEST" => Ok(shard.next()),
            "AT_SEQUENCE_NUMBER" => record(),
            "AFTER_SEQUENCE_NUMBER" => Ok(record()?.saturating_add(1)),
            "AT_TIMESTAMP" => {
                let us = timestamp_us(self.timestamp.ok_or_else(|| {
                    ApiError::invalid_argument("Must specify a timestamp for AT_TIMESTAMP.")
                })?);
                if us > now_us {
                    return Err(ApiError::invalid_argument(
                        "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis.",
                    ));
                }
                Ok(shard.at_time(us))
            }
            kind => {
                let constraint = "Member must satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, \
                                  AT_SEQUENCE_NUMBER, TRIM_HORIZON]";
                Err(ApiError::validation(&format!("'{kind}'"), member, constraint))
            }
        }
    }
}

pub(super) fn get_records(
    kinesis: &Kinesis,
    body: &Bytes,
    now_us: i64,
    empty: bool,
) -> Result<Vec<u8>, ApiError> {
    let request: GetRecords = parse(body)?;
    let limit = within(request.limit.unwrap_or(10_000), 1..=10_000, "limit")?;
    let from = ShardIterator::decode(&request.shard_iterator)?;
    let stream = named_stream(kinesis, Some(&from.stream), request.stream_arn.as_deref())?;
    if stream.created_us != from.stream_created_us {
        return Err(ApiError::stream_not_found(&from.stream, ACCOUNT));
    }
    from.check_age(kinesis.settings().iterator_ttl, now_us)?;
    let shard = stream.shard(&super::super::shard::shard_id(from.shard), now_us)?;
    let limited = kinesis.settings().real_limits;
    if limited && !shard.admit_read(now_us) {
        return Err(ApiError::throttled(&shard.id, &stream.name));
    }
    let oldest_us = stream.layout().oldest_us(now_us);
    let page = shard.page(from.next, if empty { 0 } else { limit }, PAGE_BYTES_MAX, oldest_us);
    if limited {
        shard.charge_read(page.run.bytes);
    }

    let mut answer = Vec::with_capacity(rendered_bytes(&page.run));
    answer.push(b'{');
    write_records(&mut answer, &shard, &page.run);
    if page.ended {
        answer.extend_from_slice(br#","ChildShards":"#);
        answer.extend_from_slice(&json(&child_shards(&stream, &shard)));
    } else {
        answer.extend_from_slice(br#","NextShardIterator":""#);
        answer.extend_from_slice(iterator(&stream, &shard, page.run.next(), now_us).as_bytes());
        answer.push(b'"');
    }
    answer.extend_from_slice(
        format!(r#","MillisBehindLatest":{}}}"#, page.millis_behind_latest(now_us)).as_bytes(),
    );
    Ok(answer)
}

fn iterator(stream: &Stream, shard: &Shard, next: u64, now_us: i64) -> String {
    let stream_created_us = stream.created_us;
    ShardIterator {
        issued_us: now_us,
        stream_created_us,
        shard: shard.index,
        next,
        stream: stream.name.clone(),
    }
    .encode()
}

/// Bytes that an answer with these records takes.
fn rendered_bytes(run: &Run) -> usize {
    let texts: usize = run.records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
    1_024 + texts + run.records.len() * (DIGITS + 112)
}

/// Appends `"Records":[…]`.
pub(crate) fn write_records(answer: &mut Vec<u8>, shard: &Shard, run: &Run) {
    answer.extend_from_slice(br#""Records":["#);
    for (number, record) in (run.first..).zip(&run.records) {
        if number > run.first {
            answer.push(b',');
        }
        answer.extend_from_slice(br#"{"SequenceNumber":""#);
        answer.extend_from_slice(&shard.sequence(number).digits());
        answer.extend_from_slice(br#"","ApproximateArrivalTimestamp":"#);
        write_arrival(answer, record.arrival_us / 1_000);
        answer.extend_from_slice(br#","Data":""#);
        answer.extend_from_slice(&record.data);
        answer.extend_from_slice(br#"","PartitionKey":""#);
        answer.extend_from_slice(&record.partition_key);
        answer.extend_from_slice(br#""}"#);
    }
    answer.push(b']');
}

/// Seconds with a fraction of ms, in the notation that the service uses (`1.441215410867E9`, see the example of
/// [GetRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html)).
fn write_arrival(answer: &mut Vec<u8>, ms: i64) {
    let digits = ms.to_string();
    // 13 digits from 2001 to 2286: ten of them are seconds.
    if digits.len() == 13 {
        answer.extend_from_slice(&digits.as_bytes()[..1]);
        answer.push(b'.');
        answer.extend_from_slice(&digits.as_bytes()[1..]);
        answer.extend_from_slice(b"E9");
    } else {
        answer.extend_from_slice(format!("{}.{:03}", ms.div_euclid(1_000), ms.rem_euclid(1_000)).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_written_as_the_service_does_and_read_back() {
        for (ms, text) in [(1_441_215_410_867, "1.441215410867E9"), (1_500, "1.500"), (0, "0.000")] {
            let mut answer = Vec::new();
            write_arrival(&mut answer, ms);
            assert_eq!(answer, text.as_bytes());
            assert_eq!(timestamp_us(text.parse().unwrap()), ms * 1_000);
        }
    }
}
