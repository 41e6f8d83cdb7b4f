use std::collections::HashMap;
use std::sync::Arc;

use axum::http::{StatusCode, header};
use serde_json::json;

use super::*;
use crate::aws::sdk_config;
use crate::generate::Source;
use crate::generate::synthetic::{Mix, Synthetic};
use crate::produce::run::{Plan, Sink, run};

/// What the scripted server holds and how it answers.
#[derive(Default)]
struct Script {
    calls: usize,
    /// Decoded payloads in the order of arrival.
    stored: Vec<Vec<u8>>,
    partition_keys: Vec<String>,
    largest_call: usize,
}

type Shared = Arc<Mutex<Script>>;

/// Answers `PutRecords`. `answer` gets the number of the call and of the record in it: true stores the record.
async fn server(answer: fn(usize, usize) -> bool) -> (Client, Shared, tokio::task::JoinSet<()>) {
    let script = Shared::default();
    let state = Arc::clone(&script);
    let app = axum::Router::new().fallback(move |body: axum::body::Bytes| {
        let state = Arc::clone(&state);
        async move { reply(&mut state.lock().unwrap(), answer, &body) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (Client::new(&sdk_config(Some(&endpoint), None).await), script, tasks)
}

fn reply(
    script: &mut Script,
    answer: fn(usize, usize) -> bool,
    body: &[u8],
) -> (StatusCode, [(header::HeaderName, &'static str); 1], String) {
    let kind = [(header::CONTENT_TYPE, "application/x-amz-json-1.1")];
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    if request["StreamName"] != "trades" {
        let error = json!({"__type": "ResourceNotFoundException", "message": "no such stream"});
        return (StatusCode::BAD_REQUEST, kind, error.to_string());
    }
    let call = script.calls;
    script.calls += 1;
    let records = request["Records"].as_array().unwrap();
    script.largest_call = script.largest_call.max(records.len());
    let mut results = Vec::new();
    for (place, record) in records.iter().enumerate() {
        if answer(call, place) {
            let data = record["Data"].as_str().unwrap();
            script.stored.push(base64_simd::STANDARD.decode_to_vec(data).unwrap());
            script.partition_keys.push(record["PartitionKey"].as_str().unwrap().to_owned());
            results.push(json!({"SequenceNumber": "1", "ShardId": "shardId-000000000000"}));
        } else {
            results
                .push(json!({"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}));
        }
    }
    let failed = results.iter().filter(|result| result.get("ErrorCode").is_some()).count();
    (StatusCode::OK, kind, json!({"FailedRecordCount": failed, "Records": results}).to_string())
}

fn writer(client: Client, stream: &str) -> Sink {
    let stream = StreamAddress::named(stream);
    let table = envelope::Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() };
    Sink::Stream(Arc::new(StreamWriter::new(client, stream, table, 1)))
}

fn synthetic(mix: Mix) -> Source {
    Source::Synthetic(Box::new(Synthetic::new(1, mix)))
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_records_are_sent_again_and_only_these() {
    // Every third record of every other call is refused.
    let (client, script, _tasks) = server(|call, place| call % 2 == 1 || place % 3 > 0).await;
    let plan = Plan { records: Some(3000), ..Plan::default() };
    let mix = Mix {
        live_keys_max: 300,
        ttl_rate: 0.2,
        ttl_deletes: true,
        bad_rate: 0.01,
        odd_values: true,
        ..Mix::default()
    };
    let totals =
        run(plan, synthetic(mix), writer(client, "trades"), |_| {}, CancellationToken::new()).await.unwrap();
    assert_eq!(totals.written, 3000);
    assert!(totals.resent > 0 && totals.expiries > 0 && totals.broken > 0, "{totals:?}");

    let script = script.lock().unwrap();
    assert_eq!(script.stored.len(), 3000, "each record is stored once");
    assert_eq!(script.stored.iter().map(|data| data.len() as u64).sum::<u64>(), totals.bytes);
    assert!(script.largest_call <= 500);

    // Each record's old image is the one before it, though requests overlap and were partly refused.
    let mut images: HashMap<String, serde_json::Value> = HashMap::new();
    let mut created = HashMap::new();
    let mut broken = 0;
    for (data, partition_key) in script.stored.iter().zip(&script.partition_keys) {
        let record = serde_json::from_slice::<serde_json::Value>(data).unwrap_or_default();
        let key = record["dynamodb"]["Keys"]["transaction_id"]["S"].as_str();
        let Some(key) = key.filter(|key| images.contains_key(*key) || record["eventName"] == "INSERT") else {
            broken += 1;
            continue;
        };
        assert_eq!(&envelope::partition_key(key.as_bytes()), partition_key);
        let at = record["dynamodb"]["ApproximateCreationDateTime"].as_i64().unwrap();
        assert!(created.insert(key.to_owned(), at).is_none_or(|before| before < at));
        let before = images.remove(key).unwrap_or_default();
        assert_eq!(record["dynamodb"].get("OldImage").cloned().unwrap_or_default(), before);
        if let Some(new) = record["dynamodb"].get("NewImage") {
            images.insert(key.to_owned(), new.clone());
        }
    }
    assert!(broken <= totals.broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_an_error_at_once() {
    let (client, _script, _tasks) = server(|_, _| true).await;
    let plan = Plan { records: Some(10), ..Plan::default() };
    let sink = writer(client, "other");
    let error =
        run(plan, synthetic(Mix::default()), sink, |_| {}, CancellationToken::new()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("stream other") && message.contains("ResourceNotFound"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let (client, script, _tasks) = server(|_, _| true).await;
    let plan = Plan { records: Some(300), rate: Some(400.0), ramp: None };
    let sink = writer(client, "trades");
    let totals = run(plan, synthetic(Mix::default()), sink, |_| {}, CancellationToken::new()).await.unwrap();
    assert!((0.7..2.0).contains(&totals.seconds), "300 records at 400/s took {} s", totals.seconds);
    assert!(script.lock().unwrap().largest_call <= 20, "a slow rate is a trickle");
}

#[test]
fn calls_stay_below_the_limits_of_the_service() {
    let records = |count: usize, size: usize| -> Vec<Record> {
        (0..count)
            .map(|_| Record {
                partition_key: "0".repeat(32),
                data: vec![0; size],
                parts: Vec::new(),
                shard: None,
            })
            .collect()
    };
    assert_eq!(fitting(&records(900, 100)), 500);
    assert_eq!(fitting(&records(900, 400_000)), 13);
    assert_eq!(fitting(&records(3, 6_000_000)), 1);
}
