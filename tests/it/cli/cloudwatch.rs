//! Metrics that go to CloudWatch: what a worker sends at its end, a CloudWatch that does not take them, and alarms of one
//! that is not ours.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use kinetide::internals::aws::{CloudWatch, sdk_config};
use kinetide::internals::clock::wall_clock_us;
use kinetide::internals::telemetry::cloudwatch::{Exporter, ExporterSettings, Level, PutFailed};
use kinetide::internals::telemetry::fleet::{FleetSnapshot, LedSnapshot, ReasonSnapshot};
use kinetide::internals::telemetry::status::{Delivery, ProcessFacts, ShardState, Status};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cbor::{answer, decoded, path, saying};
use super::endpoints::{Endpoint, black_hole, serve};
use super::eventually;
use super::stage::Stage;

/// A CloudWatch that takes everything, with what it was told.
async fn taking() -> (Endpoint, Arc<Mutex<Vec<(HeaderMap, Value)>>>) {
    let told = Arc::<Mutex<Vec<(HeaderMap, Value)>>>::default();
    let keep = Arc::clone(&told);
    let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
        assert_eq!(uri.path(), path("PutMetricData"));
        keep.lock().unwrap().push((headers, decoded(&body)));
        async { answer(&json!({})) }
    });
    (serve(router).await, told)
}

/// The counts of a worker that ends before its first minute are told with its last words.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_cloudwatch_what_it_did() {
    let stage = Stage::new(2).await;
    let (endpoint, told) = taking().await;
    let worker = stage
        .worker(&[
            ("--cloudwatch", "detailed"),
            ("--cloudwatch-namespace", "Trades/Prod"),
            ("--cloudwatch-endpoint", &endpoint.url),
        ])
        .await;
    let status = worker.status().await;
    assert_eq!(status["cloudwatch"]["namespace"], "Trades/Prod");
    stage.put(0..100);
    stage.all_delivered().await;
    worker.drain().await;

    let told = told.lock().unwrap();
    assert!(!told.is_empty(), "it was told something");
    let mut sums = std::collections::BTreeMap::<String, f64>::new();
    for (headers, body) in told.iter() {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            (&header("smithy-protocol")[..], &header("content-type")[..]),
            ("rpc-v2-cbor", "application/cbor")
        );
        let signature = header("authorization");
        assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential="), "{signature}");
        assert!(signature.contains("/monitoring/aws4_request, SignedHeaders="), "{signature}");
        assert_eq!(body["Namespace"], "Trades/Prod");
        for datum in body["MetricData"].as_array().unwrap() {
            let name = datum["MetricName"].as_str().unwrap();
            *sums.entry(name.to_owned()).or_default() += datum["Value"].as_f64().unwrap_or(0.0);
        }
    }
    for (name, sum) in [("RecordsDelivered", 100.0), ("RecordsProcessed", 100.0), ("DeadLetters", 0.0)] {
        assert_eq!(sums[name], sum, "{name}");
    }
    assert!(sums["BytesDelivered"] > 1000.0 && sums["BytesDelivered"] == sums["DataBytesProcessed"]);
}

/// Data are delivered, the worker is ready and drains clean, whatever CloudWatch does.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_cloudwatch_touches_no_data() {
    let unavailable =
        Router::new().fallback(|| async { (StatusCode::SERVICE_UNAVAILABLE, "<html>Busy</html>") });
    let (hangs, throttles, refuses, unavailable) = tokio::join!(
        black_hole(),
        saying("Throttling", "slow down"),
        saying("InvalidParameterValue", "no"),
        serve(unavailable),
    );
    // A port that nobody listens on: it was ours.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    for (endpoint, said) in [
        (hangs.url.as_str(), "the process ends"),
        (&throttles.url, "slow down"),
        (&refuses.url, "CloudWatch refused them"),
        (&unavailable.url, "HTTP status 503 without an error code"),
        (&closed, "check the endpoint"),
    ] {
        let stage = Stage::new(1).await;
        let worker = stage.worker(&[("--cloudwatch", "summary"), ("--cloudwatch-endpoint", endpoint)]).await;
        stage.put(0..50);
        stage.all_delivered().await;
        assert_eq!(worker.get("/readyz").await.0, 200);
        let log = worker.log.clone();
        let begun = Instant::now();
        worker.drain().await;
        assert!(begun.elapsed() < Duration::from_secs(15), "a drain waits two seconds at most");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains(said), "{said} is not in\n{log}");
        assert!(log.contains("the data are not affected"), "{log}");
    }
}

/// `KINETIDE_TEST_MINISTACK` is the endpoint of ministack 1.5.33. Its alarms look at the points of the last periods, of all
/// dimensions together.
#[tokio::test(flavor = "multi_thread")]
async fn ministack_turns_alarms_on_and_off_again() {
    #[expect(clippy::disallowed_methods, reason = "the switch of this test, not a setting")]
    let Ok(endpoint) = std::env::var("KINETIDE_TEST_MINISTACK") else {
        println!("skipped: alarms on ministack because KINETIDE_TEST_MINISTACK names no endpoint");
        return;
    };
    let namespace = format!("app-{}", uuid::Uuid::new_v4());
    let named = |metric: &str| format!("{namespace}-{metric}");
    for (metric, threshold) in [("DeliveredAge", 60), ("ShardsNotRead", 0)] {
        let alarm = json!({
            "AlarmName": named(metric), "Namespace": namespace, "MetricName": metric, "Statistic": "Maximum",
            "Dimensions": [], "Period": 10, "EvaluationPeriods": 1, "Threshold": threshold,
            "ComparisonOperator": "GreaterThanThreshold",
        });
        ask(&endpoint, "PutMetricAlarm", &alarm).await;
    }

    let facts = ProcessFacts {
        worker: "w".to_owned(),
        application: "app".to_owned(),
        delivery: Delivery::ExactlyOnce,
        warnings: Vec::new(),
    };
    let status = Status::new(facts, Duration::from_secs(20));
    status.set_streams(vec!["trades".to_owned()]);
    let shard = status.shard("trades", "shardId-000000000000", ShardState::Reading, 1);
    let not_read = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&not_read);
    status.fleet_from(move || {
        let reason = ReasonSnapshot { shards: told.load(Ordering::Relaxed), longest_ms: Some(1_000) };
        let led = LedSnapshot { reasons: [("owner_silent", reason)].into(), ..LedSnapshot::default() };
        FleetSnapshot { led: Some(led), ..FleetSnapshot::default() }
    });
    let client = CloudWatch::new(&sdk_config(Some(&endpoint), Some("us-east-1")).await);
    let into = namespace.clone();
    let settings = ExporterSettings {
        level: Level::Detailed,
        namespace: namespace.clone(),
        several: false,
        every: Duration::from_secs(1),
        ages_every: Some(Duration::from_secs(1)),
        seed: 0,
        wall_clock: Box::new(wall_clock_us),
        put: Box::new(move |metrics| {
            let (client, into) = (client.clone(), into.clone());
            Box::pin(async move {
                let put = client.put(&into, metrics).await;
                put.map_err(|error| PutFailed { cause: error.to_string(), for_ever: error.for_ever })
            })
        }),
    };
    let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
    task.spawn(Exporter::new(settings, Arc::clone(&status)).run(stop.clone()));

    let becomes = async |metric: &str, state: &str| {
        eventually(&format!("the alarm on {metric} is {state}"), || async {
            // A page keeps the age known.
            shard.page_fetched(Some(0));
            shard.landed(3, 300, 0);
            let alarms = ask(&endpoint, "DescribeAlarms", &json!({"AlarmNames": [named(metric)]})).await;
            (alarms["MetricAlarms"][0]["StateValue"] == state).then_some(())
        })
        .await;
    };
    becomes("DeliveredAge", "OK").await;
    becomes("ShardsNotRead", "OK").await;
    shard.oldest_undelivered(Some(wall_clock_us() - 90_000_000));
    not_read.store(2, Ordering::Relaxed);
    becomes("DeliveredAge", "ALARM").await;
    becomes("ShardsNotRead", "ALARM").await;
    shard.oldest_undelivered(None);
    not_read.store(0, Ordering::Relaxed);
    becomes("DeliveredAge", "OK").await;
    becomes("ShardsNotRead", "OK").await;
    stop.cancel();
    task.join_next().await.unwrap().unwrap();
    let export = status.snapshot().cloudwatch.unwrap();
    assert!(export.trouble.is_none() && export.dropped == 0, "{export:?}");

    let now = wall_clock_us() / 1_000_000;
    let asked = json!({
        "Namespace": namespace, "MetricName": "DeliveredAge", "StartTime": now - 300, "EndTime": now + 60,
        "Period": 300, "Statistics": ["Maximum", "Minimum"],
        "Dimensions": [],
    });
    let found = ask(&endpoint, "GetMetricStatistics", &asked).await;
    let points = found["Datapoints"].as_array().unwrap();
    let most = points.iter().map(|point| point["Maximum"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((90.0..200.0).contains(&most) && points[0]["Unit"] == "Seconds", "{found}");
    let listed = ask(&endpoint, "ListMetrics", &json!({"Namespace": namespace})).await;
    let listed = listed["Metrics"].as_array().unwrap();
    let has = |name: &str, dimensions: Value| {
        listed.iter().any(|metric| metric["MetricName"] == name && metric["Dimensions"] == dimensions)
    };
    let dimension = |name: &str, value: &str| json!({"Name": name, "Value": value});
    let process_task = [dimension("Operation", "ProcessTask"), dimension("ShardId", "shardId-000000000000")];
    assert!(has("RecordsProcessed", json!(process_task)), "{listed:?}");
    assert!(has("CheckpointsTrimmed", json!([])), "{listed:?}");
}

/// One call to CloudWatch by its JSON protocol.
async fn ask(endpoint: &str, operation: &str, input: &Value) -> Value {
    let credential = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/monitoring/aws4_request, \
        SignedHeaders=host, Signature=0";
    let request = reqwest::Client::new()
        .post(endpoint)
        .header("x-amz-target", format!("GraniteServiceVersion20100801.{operation}"))
        .header("content-type", "application/x-amz-json-1.0")
        .header("authorization", credential)
        .body(input.to_string());
    let response = request.send().await.unwrap();
    let (status, body) = (response.status(), response.bytes().await.unwrap());
    assert!(status.is_success(), "{operation}: {status} {}", String::from_utf8_lossy(&body));
    if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() }
}
