//! A Firehose that does what a script says: accepts, refuses some or all, and accepts without saying so.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use futures::stream;
use serde_json::{Value, json};

use super::super::endpoints::{Endpoint, serve};

/// What it does with a call of `PutRecordBatch`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) enum Mood {
    /// Accepts all.
    Accept,
    /// Accepts the first record and refuses the others; a call of one record it refuses.
    RefuseOthers,
    /// Accepts the first record, and does not mention the others.
    ForgetOthers,
    /// Refuses the call with this code, as the service does.
    Refuse(u16, &'static str),
    /// Accepts all and breaks the connection.
    LoseAnswer,
}

/// One call as the server saw it.
pub(super) struct Call {
    pub(super) records: Vec<Vec<u8>>,
    /// Stored, by record.
    pub(super) stored: Vec<bool>,
    /// The sender was told that it is accepted, by record.
    pub(super) told: Vec<bool>,
}

#[derive(Default)]
struct Script {
    /// In the order of the calls; afterwards the mood is `always`.
    moods: VecDeque<Mood>,
    always: Option<Mood>,
    calls: Vec<Call>,
    description: Value,
}

pub(in crate::cli) struct Server {
    pub(in crate::cli) endpoint: Endpoint,
    script: Arc<Mutex<Script>>,
}

/// The description of a delivery stream that can be used.
pub(super) fn description() -> Value {
    json!({
        "DeliveryStreamName": "rows", "DeliveryStreamARN": "arn:aws:firehose:eu-north-1:1:deliverystream/rows",
        "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut", "VersionId": "1",
        "HasMoreDestinations": false,
        "Destinations": [{
            "DestinationId": "d-1",
            "ExtendedS3DestinationDescription": {
                "RoleARN": "arn:aws:iam::1:role/r", "BucketARN": "arn:aws:s3:::b", "CompressionFormat": "UNCOMPRESSED",
                "BufferingHints": {}, "EncryptionConfiguration": {},
            },
        }],
    })
}

impl Server {
    pub(in crate::cli) async fn start(moods: impl Into<VecDeque<Mood>>) -> Self {
        let script = Script { moods: moods.into(), description: description(), ..Script::default() };
        let script = Arc::new(Mutex::new(script));
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::max(4 << 20))
            .with_state(Arc::clone(&script));
        Self { endpoint: serve(router).await, script }
    }

    /// From now on, when the script is at its end.
    pub(super) fn always(&self, mood: Mood) {
        self.script().always = Some(mood);
    }

    pub(super) fn describe_as(&self, description: Value) {
        self.script().description = description;
    }

    pub(super) fn calls(&self) -> usize {
        self.script().calls.len()
    }

    /// Shows every call.
    pub(super) fn look<T>(&self, look: impl FnOnce(&[Call]) -> T) -> T {
        look(&self.script().calls)
    }

    /// How often each row was stored, by shard and sequence number. Records in gzip must be whole members.
    pub(in crate::cli) fn rows(&self) -> BTreeMap<(String, String), u64> {
        let mut rows = BTreeMap::new();
        for call in &self.script().calls {
            for (record, stored) in call.records.iter().zip(&call.stored) {
                for line in stored.then(|| lines(record)).into_iter().flatten() {
                    let text = |name: &str| line[name].as_str().unwrap().to_owned();
                    *rows.entry((text("shard_id"), text("sequence_number"))).or_default() += 1;
                }
            }
        }
        rows
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

/// The rows of a record.
pub(super) fn lines(record: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    if record.starts_with(b"\x1f\x8b") {
        GzDecoder::new(record).read_to_string(&mut text).unwrap();
    } else {
        text.push_str(std::str::from_utf8(record).unwrap());
    }
    assert!(text.ends_with('\n'), "a record ends with its line");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut script = script.lock().unwrap();
    if target.ends_with(".DescribeDeliveryStream") {
        return match request["DeliveryStreamName"].as_str() {
            Some("rows") => reply(&json!({ "DeliveryStreamDescription": script.description })),
            _ => refuse(400, "ResourceNotFoundException"),
        };
    }
    assert_eq!(
        (target, &request["DeliveryStreamName"]),
        ("Firehose_20150804.PutRecordBatch", &"rows".into())
    );
    let decode =
        |record: &Value| base64_simd::STANDARD.decode_to_vec(record["Data"].as_str().unwrap()).unwrap();
    let records: Vec<Vec<u8>> = request["Records"].as_array().unwrap().iter().map(decode).collect();
    assert!((1..=500).contains(&records.len()), "{} records", records.len());
    assert!(records.iter().all(|record| (1..=1000 << 10).contains(&record.len())), "records within limits");
    let always = script.always.unwrap_or(Mood::Accept);
    let mood = script.moods.pop_front().unwrap_or(always);
    let entry = |ok: bool| match ok {
        true => json!({ "RecordId": "id" }),
        false => json!({ "ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down." }),
    };
    let all = vec![true; records.len()];
    let none = vec![false; records.len()];
    let first: Vec<bool> = (0..records.len()).map(|index| index == 0).collect();
    let (stored, told, response) = match mood {
        Mood::Accept => (all.clone(), all.clone(), reply(&entries(0, all.into_iter().map(entry)))),
        Mood::RefuseOthers if records.len() == 1 => (none.clone(), none, reply(&entries(1, [entry(false)]))),
        Mood::RefuseOthers => {
            let refused = records.len() - 1;
            (first.clone(), first.clone(), reply(&entries(refused, first.into_iter().map(entry))))
        }
        Mood::ForgetOthers => (first.clone(), first, reply(&entries(0, [entry(true)]))),
        Mood::Refuse(status, code) => (none.clone(), none, refuse(status, code)),
        Mood::LoseAnswer => {
            let cut = stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
            (all, none, Body::from_stream(cut).into_response())
        }
    };
    script.calls.push(Call { records, stored, told });
    response
}

fn entries(failed: usize, entries: impl IntoIterator<Item = Value>) -> Value {
    json!({ "FailedPutCount": failed, "Encrypted": false, "RequestResponses": entries.into_iter().collect::<Vec<_>>() })
}

fn reply(body: &Value) -> Response {
    ([("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response()
}

fn refuse(status: u16, code: &'static str) -> Response {
    let body = json!({ "__type": code, "message": "no" }).to_string();
    let headers = [("x-amzn-errortype", code), ("content-type", "application/x-amz-json-1.1")];
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}
