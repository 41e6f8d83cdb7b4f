//! The permission matrix: each call that a worker makes to AWS, denied, throttled and hung, at the start and in mid-run.
//! What readiness, liveness, status, metrics, `kinetide leases` and the exit code show is in the tables below; nothing is
//! lost or doubled, and everything recovers without a restart.
//!
//! In every run each call is denied, and in mid-run also hung; `KINETIDE_PERMISSIONS=all` plays all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::watch;

use super::endpoints::{Endpoint, serve};
use super::stage::{STREAM, Stage, Worker};
use super::{Ran, command, eventually, finish, kinetide};
use crate::s3::server::S3;

/// Cases under way at the same time: more would be a test of the machine.
const SIDE_BY_SIDE: usize = 4;
const IN_FULL: &str = "KINETIDE_PERMISSIONS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Kinesis,
    DynamoDb,
    S3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Denied,
    Throttled,
    Hung,
}

/// Where it shows that a call does not work in mid-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// In `troubles` of the coordinator.
    Coordinator,
    /// At the shards, which are all stuck.
    Shards,
}

/// An operation, where its trouble shows, and whether it takes a reshard for a worker at rest to make such calls.
type MidRun = (Service, &'static str, Shows, bool);

/// In each of them: `/healthz` is 200, `/readyz` is 503 and says why.
const MID_RUN: [MidRun; 10] = [
    (Service::Kinesis, "ListShards", Shows::Coordinator, false),
    (Service::Kinesis, "GetShardIterator", Shows::Shards, true),
    (Service::Kinesis, "GetRecords", Shows::Shards, false),
    (Service::DynamoDb, "Scan", Shows::Coordinator, false),
    (Service::DynamoDb, "Query", Shows::Coordinator, false),
    (Service::DynamoDb, "GetItem", Shows::Coordinator, true),
    (Service::DynamoDb, "UpdateItem", Shows::Coordinator, false),
    (Service::DynamoDb, "PutItem", Shows::Coordinator, true),
    (Service::DynamoDb, "DeleteItem", Shows::Coordinator, true),
    (Service::S3, "PUT", Shows::Shards, false),
];

/// At the start each of these ends the process with exit code 1.
const AT_START: [(Service, &str, &str); 8] = [
    (Service::Kinesis, "DescribeStreamSummary", "stream trades"),
    (Service::DynamoDb, "DescribeTable", "lease table kinetide-trades"),
    (Service::DynamoDb, "CreateTable", "lease table kinetide-trades"),
    (Service::DynamoDb, "GetItem", "lease table kinetide-trades"),
    (Service::DynamoDb, "Scan", "lease table kinetide-trades"),
    (Service::DynamoDb, "PutItem", "lease table kinetide-trades"),
    (Service::S3, "PUT", "lake s3://lake/raw"),
    (Service::S3, "HEAD", "lake s3://lake/raw"),
];

/// Between workers and one service: passes requests on, except those of operations in trouble.
struct Gate {
    endpoint: Endpoint,
    faults: Arc<Faults>,
}

struct Faults {
    service: Service,
    of: Mutex<BTreeMap<&'static str, Fault>>,
    changed: watch::Sender<u64>,
}

impl Gate {
    async fn to(service: Service, url: &str) -> Self {
        let faults = Arc::new(Faults { service, of: Mutex::default(), changed: watch::channel(0).0 });
        let (client, target, shared) = (reqwest::Client::new(), url.to_owned(), Arc::clone(&faults));
        let router = Router::new().fallback(move |request: Request| {
            let (client, target, faults) = (client.clone(), target.clone(), Arc::clone(&shared));
            async move { faults.pass(&client, &target, request).await }
        });
        Self { endpoint: serve(router).await, faults }
    }

    fn set(&self, operation: &'static str, fault: Option<Fault>) {
        let mut of = self.faults.of.lock().unwrap();
        match fault {
            Some(fault) => of.insert(operation, fault),
            None => of.remove(operation),
        };
        drop(of);
        // Whoever waits for an answer waits no longer.
        self.faults.changed.send_modify(|changes| *changes += 1);
    }
}

impl Faults {
    async fn pass(&self, client: &reqwest::Client, target: &str, request: Request) -> Response {
        let named = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = match named.and_then(|target| target.rsplit_once('.')) {
            Some((_, operation)) => operation.to_owned(),
            None => request.method().as_str().to_owned(),
        };
        let fault = self.of.lock().unwrap().get(operation.as_str()).copied();
        match fault {
            None => forward(client, target, request).await,
            Some(Fault::Hung) => {
                let mut changes = self.changed.subscribe();
                changes.changed().await.unwrap();
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Some(fault) => self.refusal(fault, &operation),
        }
    }

    fn refusal(&self, fault: Fault, operation: &str) -> Response {
        if self.service == Service::S3 {
            let (status, code) = match fault {
                Fault::Denied => (StatusCode::FORBIDDEN, "AccessDenied"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            };
            let body = format!("<Error><Code>{code}</Code><Message>no {operation}</Message></Error>");
            return (status, [("content-type", "application/xml")], body).into_response();
        }
        let code = match (fault, self.service, operation) {
            (Fault::Denied, ..) => "AccessDeniedException",
            (_, Service::Kinesis, "ListShards") => "LimitExceededException",
            (_, Service::Kinesis, _) => "ProvisionedThroughputExceededException",
            _ => "ThrottlingException",
        };
        let message = format!("User: somebody is not authorized to perform: {operation}");
        let body = serde_json::json!({ "__type": code, "message": message }).to_string();
        let headers = [("x-amzn-errortype", code), ("content-type", "application/x-amz-json-1.1")];
        (StatusCode::BAD_REQUEST, headers, body).into_response()
    }
}

async fn forward(client: &reqwest::Client, target: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let sent = client
        .request(parts.method, format!("{target}{path}"))
        .headers(parts.headers)
        .body(body)
        .send()
        .await;
    let Ok(answer) = sent else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A stage whose services are behind gates.
struct Gated {
    stage: Stage,
    s3: S3,
    gates: [Gate; 3],
}

impl Gated {
    async fn new() -> Self {
        let stage = Stage::new(1).await;
        let s3 = S3::start(&[]).await;
        let gates = [
            Gate::to(Service::Kinesis, stage.aws.kinesis_url()).await,
            Gate::to(Service::DynamoDb, stage.aws.dynamodb_url()).await,
            Gate::to(Service::S3, &s3.url).await,
        ];
        Self { stage, s3, gates }
    }

    fn gate(&self, service: Service) -> &Gate {
        &self.gates[service as usize]
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let [kinesis, dynamodb, s3] = &self.gates;
        vec![
            ("--kinesis-endpoint", &kinesis.endpoint.url),
            ("--dynamodb-endpoint", &dynamodb.endpoint.url),
            ("--s3-endpoint", &s3.endpoint.url),
            ("--lake", "s3://lake/raw"),
            ("--failover-time", "2s"),
            ("--batch-age", "100ms"),
        ]
    }

    fn split(&self) {
        let kinesis = self.stage.aws.kinesis();
        let first = kinesis.open_shards(STREAM).unwrap().remove(0);
        kinesis.split(STREAM, &first).unwrap();
    }

    /// Waits until every record is at or below a checkpoint, those of new shards too.
    async fn settled(&self) {
        eventually("every record is delivered", || async {
            let leases = self.stage.leases().await;
            let open = self.stage.aws.kinesis().open_shards(STREAM).unwrap();
            let leased = open.iter().all(|shard| leases.iter().any(|lease| lease.key == *shard));
            (leased && self.stage.delivered().await).then_some(())
        })
        .await;
    }

    async fn exactly_once(&self, records: u64) {
        let saved = self.stage.dir.path().join("saved");
        self.s3.save("lake", &saved);
        let check = self.stage.verify_lake(saved.join("raw")).await;
        assert!(check.ok() && check.records_put == records, "{check:#?}");
    }
}

fn in_full() -> bool {
    std::env::vars().any(|(name, value)| name == IN_FULL && value == "all")
}

fn faults(service: Service, operation: &str) -> Vec<Fault> {
    match (in_full(), service) {
        (true, _) => vec![Fault::Denied, Fault::Throttled, Fault::Hung],
        // A put may take a minute, so it takes as long to see that one hangs.
        (false, Service::S3) => vec![Fault::Denied],
        // A worker whose new iterators hang does not say yet that it is not ready.
        (false, _) if operation == "GetShardIterator" => vec![Fault::Denied],
        (false, _) => vec![Fault::Denied, Fault::Hung],
    }
}

/// Words that the cause must hold.
fn cause(service: Service, fault: Fault) -> &'static [&'static str] {
    match (fault, service) {
        (Fault::Denied, Service::S3) => &["AccessDenied", "allow it in the role"],
        (Fault::Denied, _) => &["AccessDeniedException", "allow it in the role"],
        (Fault::Throttled, Service::S3) => &["SlowDown"],
        (Fault::Throttled, _) => &["hrottl"],
        (Fault::Hung, _) => &[],
    }
}

async fn in_mid_run((service, operation, shows, reshard): MidRun) {
    let gated = Gated::new().await;
    let (stage, gate) = (&gated.stage, gated.gate(service));
    let worker = stage.worker(&gated.settings()).await;
    let mut put = 0;
    for fault in faults(service, operation) {
        let context = format!("{operation} {fault:?}");
        gate.set(operation, Some(fault));
        if reshard {
            gated.split();
        }
        stage.put(put..put + 20);
        put += 20;
        let ready = eventually(&format!("{context}: not ready"), || async {
            let (code, body) = worker.get("/readyz").await;
            assert_eq!(worker.get("/healthz").await.0, 200, "{context}: a restart mends nothing");
            let named = match shows {
                Shows::Coordinator => body.contains(&format!("not ready: {operation} (")),
                Shows::Shards => body.contains("of this worker can move") && body.contains("stuck: shardId-"),
            };
            (code == 503 && named).then_some(body)
        })
        .await;
        let words = cause(service, fault);
        assert!(words.iter().all(|word| ready.contains(word)), "{context}: {ready}");
        assert!(ready.lines().all(|line| line.len() < 700), "{context}: {ready}");
        shown(&worker, &context, operation, shows).await;
        if fault == Fault::Denied {
            leases(&gated, &context, operation).await;
        }

        gate.set(operation, None);
        stage.put(put..put + 20);
        put += 20;
        gated.settled().await;
        eventually(&format!("{context}: ready again"), || async {
            let status = worker.status().await;
            let shards = status["shards"].as_array().unwrap();
            let over = |shard: &Value| shard["last_error"].is_null() || shard["last_error_over"] == true;
            let ready = worker.get("/readyz").await == (200, "ready\n".to_owned());
            let moves = worker.metric("kinetide_shard_stalled{").await == 0.0;
            (ready && moves && shards.iter().all(over)).then_some(())
        })
        .await;
    }
    // Whether a drain is clean is not for a machine to say that is too slow for leases of two seconds.
    let mut worker = worker;
    worker.signal(Signal::SIGTERM);
    assert!(matches!(worker.ended().await, Some(0 | 1)), "{}", worker.log());
    gated.exactly_once(put).await;
}

/// Status and metrics say the same. Asked until they do: on a slow machine a lease of two seconds comes and goes.
async fn shown(worker: &Worker, context: &str, operation: &str, shows: Shows) {
    let trouble = format!("kinetide_coordinator_trouble_seconds{{call=\"{operation}\"}}");
    eventually(&format!("{context}: in status and metrics"), || async {
        let status = worker.status().await;
        let reasons = status["not_ready"].as_array().unwrap();
        let stalled = worker.metric("kinetide_shard_stalled{").await;
        let (seconds, ready) = (worker.metric(&trouble).await, worker.metric("kinetide_ready ").await);
        let there = match shows {
            Shows::Coordinator => {
                let troubles = status["troubles"].as_array().unwrap();
                let found = troubles.iter().find(|trouble| trouble["call"] == operation)?;
                assert!(
                    found["since"].as_str().unwrap().ends_with('Z') && found["cause"].is_string(),
                    "{found}"
                );
                assert!(found["failures"].as_u64().unwrap() >= 1, "{found}");
                found["for_ms"].as_u64().unwrap() >= 2000 && seconds >= 2.0
            }
            Shows::Shards => {
                let open =
                    |shard: &Value| shard["last_error"].is_string() && shard["last_error_over"] == false;
                status["shards"].as_array().unwrap().iter().any(open) && stalled >= 1.0
            }
        };
        (there && status["ready"] == false && !reasons.is_empty() && ready == 0.0).then_some(())
    })
    .await;
}

async fn leases_command(gated: &Gated, more: &[&str]) -> Ran {
    let [kinesis, dynamodb, _] = &gated.gates;
    let (kinesis, dynamodb) = (kinesis.endpoint.url.as_str(), dynamodb.endpoint.url.as_str());
    let fleet = ["--stream", STREAM, "--failover-time", "2s"];
    let endpoints = ["--kinesis-endpoint", kinesis, "--dynamodb-endpoint", dynamodb];
    kinetide(&[&["leases"], more, &fleet, &endpoints].concat()).await
}

/// `kinetide leases` with the same permissions: it fails where it cannot look, and says why.
async fn leases(gated: &Gated, context: &str, operation: &str) {
    let looks = ["ListShards", "Scan", "GetItem"].contains(&operation);
    let ran = leases_command(gated, &[]).await;
    let said = format!("{}{}", ran.out, ran.err);
    assert_eq!(ran.code, Some(i32::from(looks)), "{context}: {said}");
    if looks {
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("access denied") && said.contains("allow it in the role"), "{context}: {said}");
    }
}

async fn side_by_side(cases: impl IntoIterator<Item = impl Future<Output = ()>>) {
    futures::stream::iter(cases).for_each_concurrent(SIDE_BY_SIDE, |case| case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_fails_in_mid_run_is_seen_and_loses_nothing() {
    side_by_side(MID_RUN.map(|case| Box::pin(in_mid_run(case)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_fails_at_the_start_ends_the_process_with_what_to_do() {
    let denied = |(service, operation, what): (Service, &'static str, &'static str)| {
        (service, operation, what, Fault::Denied)
    };
    let hung = |(service, operation, what): (Service, &'static str, &'static str)| {
        (service, operation, what, Fault::Hung)
    };
    let mut cases: Vec<_> = AT_START.map(denied).to_vec();
    if in_full() {
        cases.extend(AT_START.map(hung));
    }
    let case = |(service, operation, what, fault): (Service, &'static str, &'static str, Fault)| async move {
        let gated = Gated::new().await;
        gated.gate(service).set(operation, Some(fault));
        let arguments = gated.stage.arguments(&gated.settings());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = finish(command(&arguments).spawn().unwrap()).await;
        let advice = if fault == Fault::Denied { "allow it in the role" } else { "check the endpoint" };
        ran.says(1, &[what, advice]);
        let message = ran.err.lines().last().unwrap();
        assert!(message.starts_with("error: ") && message.len() < 500, "{operation}: {message}");
    };
    side_by_side(cases.into_iter().map(|each| Box::pin(case(each)))).await;
}

/// A table that takes no writes lets nobody give a lease back: that is no clean end.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_leaves_something_is_not_clean_and_names_it() {
    let gated = Gated::new().await;
    let settings =
        [&gated.settings()[..], &[("--shutdown-budget", "4s"), ("--failover-time", "10s")]].concat();
    let settings: Vec<_> = settings.iter().copied().filter(|s| *s != ("--failover-time", "2s")).collect();
    let mut worker = gated.stage.worker(&settings).await;
    gated.stage.put(0..20);
    gated.stage.all_delivered().await;
    gated.gate(Service::DynamoDb).set("UpdateItem", Some(Fault::Denied));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "{}", worker.log());
    let log = worker.log();
    let left = log.lines().find(|line| line.contains("not drained")).unwrap_or_else(|| panic!("{log}"));
    assert!(left.contains("shardId-000000000000") && left.contains("could not be given back"), "{left}");
    assert!(log.contains(r#""drain":"CutShort""#), "{log}");
    gated.gate(Service::DynamoDb).set("UpdateItem", None);

    // The same with a batch that is prepared.
    let mut worker = gated.stage.worker(&gated.settings()).await;
    gated.gate(Service::S3).set("PUT", Some(Fault::Denied));
    gated.stage.put(20..40);
    eventually("a batch is prepared", || async {
        gated.stage.leases().await.iter().any(|lease| lease.pending.is_some()).then_some(())
    })
    .await;
    gated.gate(Service::DynamoDb).set("UpdateItem", Some(Fault::Denied));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "{}", worker.log());
    assert!(worker.log().contains("not drained"), "{}", worker.log());

    for service in [Service::DynamoDb, Service::S3] {
        gated.gate(service).set(if service == Service::S3 { "PUT" } else { "UpdateItem" }, None);
    }
    let worker = gated.stage.worker(&settings).await;
    gated.settled().await;
    worker.drain().await;
    gated.exactly_once(40).await;
}

/// Every counter against the known truth of a scripted run.
#[tokio::test(flavor = "multi_thread")]
async fn counters_are_what_happened() {
    let gated = Gated::new().await;
    let stage = &gated.stage;
    // Nothing is renewed so late that a lease is lost.
    let settings: Vec<_> =
        gated.settings().into_iter().filter(|(name, _)| *name != "--failover-time").collect();
    let worker = stage.worker(&settings).await;
    for (name, _) in truth(0, 0) {
        let text = worker.get("/metrics").await.1;
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} is not there from the start\n{text}"
        );
    }
    for name in ["process_start_time_seconds ", "process_resident_memory_bytes "] {
        assert!(worker.metric(name).await > 1e6, "{name}");
    }
    assert_eq!(worker.metric("kinetide_build_info{version=").await, 1.0);
    stage.put(0..50);
    for _ in 0..7 {
        stage.aws.kinesis().put(STREAM, "broken", b"no record").unwrap();
    }
    stage.all_delivered().await;
    gated.split();
    stage.put(50..70);
    eventually("all is done", || async {
        let ended = worker.metric("kinetide_shards_ended_total ").await == 1.0;
        (ended && worker.metric("kinetide_records_delivered_total ").await == 77.0).then_some(())
    })
    .await;
    for (name, value) in truth(70, 7) {
        assert_eq!(worker.metric(name).await, value, "{name}");
    }
    // One shard goes to another worker, gracefully.
    let other = stage.worker(&settings).await;
    let released = leases_command(&gated, &["release", "shardId-000000000001", "--yes"]).await;
    released.says(0, &[]);
    eventually("the other worker begins", || async {
        (other.metric("kinetide_leases_begun_total ").await == 1.0).then_some(())
    })
    .await;
    // Counted once the old owner has its response, which may be after the new one has begun.
    eventually("the release is counted", || async {
        (worker.metric("kinetide_leases_released_total ").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(worker.metric("kinetide_leases_released_total ").await, 1.0);
    assert_eq!(worker.metric("kinetide_leases_lost_total ").await, 0.0);
    let log = {
        let mut worker = worker;
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
        worker.log()
    };
    assert!(!log.contains("lease lost") && !log.contains("not drained"), "{log}");
    stage.all_delivered().await;
    other.drain().await;
    gated.exactly_once(77).await;
}

/// Counters after so many rows and dead letters, a split, and nothing else.
fn truth(rows: u32, dead_letters: u32) -> Vec<(&'static str, f64)> {
    let (rows, dead) = (f64::from(rows), f64::from(dead_letters));
    let happened = |n: f64| if rows > 0.0 { n } else { 0.0 };
    vec![
        ("kinetide_records_transformed_total ", rows),
        ("kinetide_records_dead_lettered_total{reason=\"not_json\"}", dead),
        ("kinetide_records_dead_lettered_total{reason=\"not_utf8\"}", 0.0),
        ("kinetide_records_delivered_total ", rows + dead),
        ("kinetide_leases_begun_total ", happened(3.0)),
        ("kinetide_leases_assigned_total{how=\"new\"}", happened(3.0)),
        ("kinetide_leases_assigned_total{how=\"expired\"}", 0.0),
        ("kinetide_leases_lost_total ", 0.0),
        ("kinetide_leases_released_total ", 0.0),
        ("kinetide_objects_delivered_total{outcome=\"existed\"}", 0.0),
        ("kinetide_batches_recovered_total{how=\"finished\"}", 0.0),
        ("kinetide_checkpoints_total{outcome=\"unavailable\"}", 0.0),
        ("kinetide_checkpoints_trimmed_total ", 0.0),
        ("kinetide_shards_ended_total ", happened(1.0)),
        ("kinetide_worker_id_collisions_total ", 0.0),
        ("kinetide_deliver_retries_total ", 0.0),
        ("kinetide_fetch_errors_total{kind=\"refused\"}", 0.0),
    ]
}

/// The stream is deleted under a worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_gone_is_a_reason_not_to_be_ready() {
    let gated = Gated::new().await;
    let worker = gated.stage.worker(&gated.settings()).await;
    gated.stage.put(0..10);
    gated.stage.all_delivered().await;
    gated.stage.drop_stream().await;
    let body = eventually("the worker is not ready", || async {
        let (code, body) = worker.get("/readyz").await;
        (code == 503 && body.contains("stuck: ")).then_some(body)
    })
    .await;
    assert!(body.contains("not_found") && body.contains("check --stream"), "{body}");
    let ran = leases_command(&gated, &[]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    assert!(ran.out.contains("not found"), "{}", ran.out);
    worker.kill().await;
}
