//! The permission matrix: each call that a worker makes to AWS, denied, throttled and hung, at the start and in mid-run.
//! What readiness, liveness, status, metrics, `kinetide leases` and the exit code show is in the tables below; nothing is
//! lost or doubled, and everything recovers without a restart.
//!
//! `KINETIDE_PERMISSIONS=all` plays every call with every fault at both times, as `.ci/run` does. An ordinary run is
//! shorter, and pairwise: each call with each fault, each call at each time that it is made at, and each fault at each
//! time. Which fault a service answers with is decided in one place for both times (`explain`, `said`), and what the
//! worker does then in one place for all faults: so a third dimension that goes wrong only together with both others
//! is the least likely.
//!
//! The full matrix has the machine to itself, and a failover time of 1 s with fewer workers at a time. An ordinary run stands
//! beside other tests, and takes 3 s as they do: the leader's lock lasts half of it and a call to the lease table has a
//! third, and a response can take as long as that of one second. Then leases lapse and leaders change because of the
//! machine, and what the tables say of one call would be mixed with trouble of others.

mod counters;
pub(super) mod gate;

use std::sync::LazyLock;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::firehose::server::Server as Firehose;
use super::roles::own_environment;
use super::roles::sts::{Role, Sts};
use super::stage::{STREAM, Stage, Worker};
use super::{Ran, command, finish, kinetide};
use crate::s3::server::S3;
use gate::{Fault, Gate, Service};

use Fault::{Denied, Hung, Throttled};
use Trigger::{LostResponse, Records, Reshard};

/// Cases under way at the same time, over all tests of this module: they wait most of the time, and more would be a test of
/// the machine.
static UNDER_WAY: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(if in_full() { 8 } else { 10 }));
/// Processes that start at the same time: that is when they need a processor.
static STARTING: Semaphore = Semaphore::const_new(2);
/// Time between two looks at a worker: many are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const IN_FULL: &str = "KINETIDE_PERMISSIONS";

/// What only those ask for who read by enhanced fan-out.
const SUBSCRIBE: &str = "SubscribeToShard";
const CONSUMER: [&str; 2] = ["DescribeStreamConsumer", "RegisterStreamConsumer"];

/// For the stream and the lake.
const ROLE: &str = "arn:aws:iam::222233334444:role/visitor";

/// Where it shows that a call does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// In `troubles` of the coordinator.
    Coordinator,
    /// At the shards, which are all stuck.
    Shards,
}

/// What makes a worker at rest make such calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Records,
    Reshard,
    /// Of a put: what it made is met at the next try.
    LostResponse,
}

/// An operation, where its trouble shows, what it takes for a worker to make such calls, and the faults of a short run.
type InRun = (Service, &'static str, Shows, Trigger, &'static [Fault]);

/// In each of them: `/healthz` is 200, `/readyz` is 503 and says why.
const IN_MID_RUN: [InRun; 15] = [
    (Service::Kinesis, "ListShards", Shows::Coordinator, Records, &[Denied, Hung]),
    (Service::Kinesis, "GetShardIterator", Shows::Shards, Reshard, &[Denied, Hung]),
    (Service::Kinesis, "GetRecords", Shows::Shards, Records, &[Denied, Hung]),
    // Those that are open go on: it takes new shards.
    (Service::Kinesis, SUBSCRIBE, Shows::Shards, Reshard, &[Denied, Hung]),
    (Service::DynamoDb, "Scan", Shows::Coordinator, Records, &[Denied, Hung]),
    (Service::DynamoDb, "Query", Shows::Coordinator, Records, &[Denied, Hung]),
    (Service::DynamoDb, "GetItem", Shows::Coordinator, Reshard, &[Denied, Hung]),
    (Service::DynamoDb, "UpdateItem", Shows::Coordinator, Records, &[Denied, Hung]),
    (Service::DynamoDb, "PutItem", Shows::Coordinator, Reshard, &[Denied, Hung]),
    (Service::DynamoDb, "DeleteItem", Shows::Coordinator, Reshard, &[Denied, Throttled, Hung]),
    (Service::S3, "PUT", Shows::Shards, Records, &[Denied, Hung]),
    (Service::S3, "HEAD", Shows::Shards, LostResponse, &[Denied, Hung]),
    (Service::S3, "GET", Shows::Shards, LostResponse, &[Denied, Throttled, Hung]),
    (Service::Firehose, "PutRecordBatch", Shows::Shards, Records, &[Denied, Hung]),
    // Of the roles for the stream and the lake, whose credentials run out meanwhile.
    (Service::Sts, "AssumeRole", Shows::Shards, Records, &[Denied, Throttled, Hung]),
];

/// The same from the start on: the process does not end, and works once the call does.
const FROM_THE_START: [InRun; 6] = [
    (Service::Kinesis, "ListShards", Shows::Coordinator, Records, &[Throttled]),
    (Service::Kinesis, "GetShardIterator", Shows::Shards, Records, &[Throttled]),
    (Service::Kinesis, "GetRecords", Shows::Shards, Records, &[Throttled]),
    (Service::DynamoDb, "Query", Shows::Coordinator, Records, &[Throttled]),
    (Service::DynamoDb, "UpdateItem", Shows::Coordinator, Records, &[Throttled]),
    (Service::Firehose, "PutRecordBatch", Shows::Shards, Records, &[Throttled]),
];

/// At the start each of these ends the process with exit code 1: what the message names, and the faults of a short run.
const AT_START: [(Service, &str, &str, &[Fault]); 12] = [
    (Service::Kinesis, "DescribeStreamSummary", "stream trades", &[Denied, Throttled, Hung]),
    (Service::Kinesis, CONSUMER[0], "stream trades", &[Denied, Hung]),
    (Service::Kinesis, CONSUMER[1], "stream trades", &[Denied, Throttled]),
    (Service::DynamoDb, "DescribeTable", "lease table kinetide-trades", &[Denied, Throttled, Hung]),
    (Service::DynamoDb, "CreateTable", "lease table kinetide-trades", &[Denied, Throttled, Hung]),
    (Service::DynamoDb, "UpdateTable", "lease table kinetide-trades", &[Denied, Throttled, Hung]),
    (Service::DynamoDb, "GetItem", "lease table kinetide-trades", &[Denied, Throttled]),
    (Service::DynamoDb, "Scan", "lease table kinetide-trades", &[Denied, Throttled]),
    (Service::DynamoDb, "PutItem", "lease table kinetide-trades", &[Denied, Throttled]),
    (Service::S3, "PUT", "lake s3://lake/raw", &[Denied, Throttled]),
    (Service::S3, "HEAD", "lake s3://lake/raw", &[Denied, Throttled]),
    (Service::Sts, "AssumeRole", "stream trades", &[Denied, Throttled, Hung]),
];

/// A stage whose services are behind gates.
pub(super) struct Gated {
    pub(super) stage: Stage,
    pub(super) s3: S3,
    firehose: Firehose,
    _sts: Sts,
    gates: [Gate; 5],
}

impl Gated {
    pub(super) async fn new() -> Self {
        let mut stage = Stage::new(1).await;
        let s3 = S3::start(&[]).await;
        let firehose = Firehose::start([]).await;
        let sts = Sts::start(&[Role { arn: ROLE, external_id: None, life: Duration::from_secs(4) }]).await;
        let gates = [
            Gate::to(Service::Kinesis, stage.aws.kinesis_url()).await,
            Gate::to(Service::DynamoDb, stage.aws.dynamodb_url()).await,
            Gate::to(Service::S3, &s3.url).await,
            Gate::to(Service::Firehose, &firehose.endpoint.url).await,
            Gate::to(Service::Sts, &sts.endpoint.url).await,
        ];
        stage.env = own_environment(&gates[Service::Sts as usize].endpoint.url);
        Self { stage, s3, firehose, _sts: sts, gates }
    }

    pub(super) fn gate(&self, service: Service) -> &Gate {
        &self.gates[service as usize]
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let [kinesis, dynamodb, s3, ..] = &self.gates;
        vec![
            ("--kinesis-endpoint", &kinesis.endpoint.url),
            ("--dynamodb-endpoint", &dynamodb.endpoint.url),
            ("--s3-endpoint", &s3.endpoint.url),
            ("--lake", "s3://lake/raw"),
            ("--failover-time", failover()),
            ("--batch-age", "100ms"),
            ("--lease-scan-interval", "400ms"),
            ("--poll-idle-max", "400ms"),
        ]
    }

    /// Settings of a worker whose calls of this operation are to be seen.
    pub(super) fn settings_for(&self, service: Service, operation: &str) -> Vec<(&str, &str)> {
        let mut settings = self.settings();
        if operation == SUBSCRIBE || CONSUMER.contains(&operation) {
            settings.push(("--retrieval", "fan-out"));
        }
        if service == Service::Firehose {
            let endpoint = self.gate(Service::Firehose).endpoint.url.as_str();
            settings.extend([("--firehose", "rows"), ("--firehose-endpoint", endpoint)]);
        }
        if service == Service::Sts {
            settings.extend([("--stream-role", ROLE), ("--lake-role", ROLE)]);
        }
        settings
    }

    /// Splits every open shard: no shard goes on as it was.
    fn split(&self) {
        let kinesis = self.stage.aws.kinesis();
        for shard in kinesis.open_shards(STREAM).unwrap() {
            kinesis.split(STREAM, &shard).unwrap();
        }
    }

    fn start(&self, (service, operation, .., trigger, _): InRun, fault: Fault) {
        if trigger == LostResponse {
            self.gate(service).set("PUT", Some(Fault::Unanswered));
        }
        self.gate(service).set(operation, Some(fault));
    }

    /// Waits until every record is at or below a checkpoint, those of new shards too.
    async fn settled(&self) {
        eventually("every record is delivered", || async {
            let leases = self.stage.leases().await;
            let open = self.stage.aws.kinesis().open_shards(STREAM).unwrap();
            let leased = open.iter().all(|shard| leases.iter().any(|lease| lease.key.shard() == shard));
            (leased && self.stage.delivered().await).then_some(())
        })
        .await;
    }

    /// Every record is with Firehose, at least once.
    fn at_least_once(&self, records: usize) {
        let mut missing = 0;
        let rows = self.firehose.rows();
        let kinesis = self.stage.aws.kinesis();
        let visited = kinesis.visit(
            STREAM,
            |_| 0,
            |shard, record| {
                let place = (shard.as_str().to_owned(), record.sequence_number.as_str().to_owned());
                missing += usize::from(!rows.contains_key(&place));
            },
        );
        visited.unwrap();
        assert_eq!((missing, rows.len()), (0, records));
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

fn failover() -> &'static str {
    if in_full() { "1s" } else { "3s" }
}

fn faults(of_short_run: &'static [Fault]) -> &'static [Fault] {
    if in_full() { &[Denied, Throttled, Hung] } else { of_short_run }
}

/// Words that the cause must hold.
fn cause(service: Service, operation: &str, fault: Fault) -> &'static [&'static str] {
    match (fault, service) {
        // A response to HEAD has no body, and with it no error code.
        (Denied, Service::S3) if operation == "HEAD" => &["403 Forbidden", "allow it in the role"],
        (Throttled, Service::S3) if operation == "HEAD" => &["503 Service Unavailable"],
        (Denied, Service::S3) => &["AccessDenied", "allow it in the role"],
        (Denied, Service::Sts) => &["the role arn:", "cannot be assumed: AccessDenied", "trust policy"],
        (Denied, _) => &["AccessDeniedException", "allow it in the role"],
        (Throttled, Service::S3) => &["SlowDown"],
        (Throttled, Service::Firehose) => &["ServiceUnavailableException"],
        (Throttled, _) => &["hrottl"],
        _ => &["no response"],
    }
}

/// One worker, and one fault of one call after the other.
async fn in_mid_run(case @ (service, operation, _, trigger, of_short_run): InRun) {
    let gated = Gated::new().await;
    let stage = &gated.stage;
    let starting = STARTING.acquire().await.unwrap();
    let worker = stage.worker(&gated.settings_for(service, operation)).await;
    drop(starting);
    let mut put = 0;
    for &fault in faults(of_short_run) {
        let context = format!("{operation} {fault:?}");
        gated.start(case, fault);
        if trigger == Reshard {
            gated.split();
        }
        stage.put(put..put + 20);
        put += 20;
        seen(&gated, &worker, &context, case, fault).await;
        if fault == Denied {
            leases(&gated, &context, operation).await;
        }
        recovers(&gated, &worker, &context, case, &mut put).await;
    }
    ends(gated, worker, service, put).await;
}

/// A worker that meets one fault from its first call on.
async fn from_the_start(case @ (service, operation, ..): InRun, fault: Fault) {
    let gated = Gated::new().await;
    let context = format!("{operation} {fault:?} from the start");
    gated.start(case, fault);
    let mut put = 20;
    gated.stage.put(0..put);
    let starting = STARTING.acquire().await.unwrap();
    let worker = gated.stage.started(&gated.settings_for(service, operation)).await;
    drop(starting);
    seen(&gated, &worker, &context, case, fault).await;
    recovers(&gated, &worker, &context, case, &mut put).await;
    ends(gated, worker, service, put).await;
}

/// The trouble shows everywhere, and nothing says that a restart would help.
async fn seen(
    gated: &Gated,
    worker: &Worker,
    context: &str,
    (service, operation, shows, ..): InRun,
    fault: Fault,
) {
    let words = cause(service, operation, fault);
    let ready = eventually(&format!("{context}: not ready, {words:?}"), || async {
        let (code, body) = worker.get("/readyz").await;
        assert_eq!(worker.get("/healthz").await.0, 200, "{context}: a restart mends nothing");
        let named = match shows {
            Shows::Coordinator => body.contains(&format!("not ready: {operation} (")),
            Shows::Shards => body.contains("of this worker can move") && body.contains("stuck: shardId-"),
        };
        (code == 503 && named && words.iter().all(|word| body.contains(word))).then_some(body)
    })
    .await;
    assert!(ready.lines().all(|line| line.len() < 700), "{context}: {ready}");
    shown(worker, context, operation, shows).await;
    let log = worker.log();
    assert!(!log.contains("panicked"), "{context} on {}: {log}", gated.stage.dir.path().display());
}

/// The call works again: so does the worker, without a restart.
async fn recovers(
    gated: &Gated,
    worker: &Worker,
    context: &str,
    (service, operation, ..): InRun,
    put: &mut u64,
) {
    gated.gate(service).set(operation, None);
    gated.stage.put(*put..*put + 20);
    *put += 20;
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

async fn ends(gated: Gated, mut worker: Worker, service: Service, put: u64) {
    // Whether a drain is clean is not for a machine to say that is too slow for leases of three seconds.
    worker.signal(Signal::SIGTERM);
    assert!(matches!(worker.ended().await, Some(0 | 1)), "{}", worker.log());
    match service {
        Service::Firehose => gated.at_least_once(usize::try_from(put).unwrap()),
        _ => gated.exactly_once(put).await,
    }
}

/// Status and metrics say the same. Asked until they do: on a slow machine a lease of three seconds comes and goes.
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
    let [kinesis, dynamodb, ..] = &gated.gates;
    let (kinesis, dynamodb) = (kinesis.endpoint.url.as_str(), dynamodb.endpoint.url.as_str());
    let fleet = ["--stream", STREAM, "--failover-time", failover()];
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
    let cases = cases.into_iter().map(|case| async {
        let _one_of_all = UNDER_WAY.acquire().await.unwrap();
        case.await;
    });
    join_all(cases).await;
}

/// As [`super::eventually`], and asks less often.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, question: impl FnMut() -> F) -> T {
    super::eventually_every(LOOK_EVERY, what, question).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_fails_in_mid_run_is_seen_and_loses_nothing() {
    side_by_side(IN_MID_RUN.map(|case| Box::pin(in_mid_run(case)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_fails_from_the_start_is_seen_and_loses_nothing() {
    let cases = FROM_THE_START.into_iter();
    let cases = cases.flat_map(|case| faults(case.4).iter().map(move |fault| (case, *fault)));
    side_by_side(cases.map(|(case, fault)| Box::pin(from_the_start(case, fault)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_fails_at_the_start_ends_the_process_with_what_to_do() {
    let case = |(service, operation, what, fault): (Service, &'static str, &'static str, Fault)| async move {
        let gated = Gated::new().await;
        if operation == "UpdateTable" {
            // As an application of KCL 2.x leaves its table: without the index.
            gated.stage.aws.create_table("kinetide-trades", "leaseKey").unwrap();
        }
        gated.gate(service).set(operation, Some(fault));
        let arguments = gated.stage.arguments(&gated.settings_for(service, operation));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let env = gated.stage.env.iter().cloned();
        let ran = finish(command(&arguments).envs(env).spawn().unwrap()).await;
        let advice = match (fault, service) {
            (Denied, Service::Sts) => "allow sts:AssumeRole on it in the role",
            (Throttled, Service::Sts) => "raise the STS quota",
            (_, Service::Sts) => "check the STS endpoint",
            (Denied, _) => "allow it in the role",
            (Throttled, Service::S3) => cause(service, operation, fault)[0],
            (Throttled, _) => "raise the capacity or the quota",
            _ => "check the endpoint",
        };
        ran.says(1, &[what, advice]);
        let message = ran.err.lines().last().unwrap();
        assert!(message.starts_with("error: ") && message.len() < 500, "{operation}: {message}");
    };
    let cases = AT_START.into_iter().flat_map(|(service, operation, what, of_short_run)| {
        faults(of_short_run).iter().map(move |fault| (service, operation, what, *fault))
    });
    side_by_side(cases.map(|each| Box::pin(case(each)))).await;
}

/// A table that takes no writes lets nobody give a lease back: that is no clean end.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_leaves_something_is_not_clean_and_names_it() {
    let gated = Gated::new().await;
    // The lease is still its own when its time to drain is over.
    let settings =
        [&gated.settings()[..], &[("--shutdown-budget", "3s"), ("--failover-time", "6s")]].concat();
    let settings: Vec<_> =
        settings.iter().copied().filter(|s| *s != ("--failover-time", failover())).collect();
    let mut worker = gated.stage.worker(&settings).await;
    gated.stage.put(0..20);
    gated.stage.all_delivered().await;
    gated.gate(Service::DynamoDb).set("UpdateItem", Some(Denied));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "{}", worker.log());
    let log = worker.log();
    let left = log.lines().find(|line| line.contains("not drained")).unwrap_or_else(|| panic!("{log}"));
    assert!(left.contains("shardId-000000000000") && left.contains("could not release the lease"), "{left}");
    assert!(log.contains(r#""drain":"CutShort""#), "{log}");
    gated.gate(Service::DynamoDb).set("UpdateItem", None);

    // The same with a batch that is prepared.
    let mut worker = gated.stage.worker(&gated.settings()).await;
    gated.gate(Service::S3).set("PUT", Some(Denied));
    gated.stage.put(20..40);
    eventually("a batch is prepared", || async {
        gated.stage.leases().await.iter().any(|lease| lease.pending.is_some()).then_some(())
    })
    .await;
    gated.gate(Service::DynamoDb).set("UpdateItem", Some(Denied));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "{}", worker.log());
    assert!(worker.log().contains("not drained"), "{}", worker.log());

    for service in [Service::DynamoDb, Service::S3] {
        gated.gate(service).set(if service == Service::S3 { "PUT" } else { "UpdateItem" }, None);
    }
    let worker = gated.stage.worker(&gated.settings()).await;
    gated.settled().await;
    worker.drain().await;
    gated.exactly_once(40).await;
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
