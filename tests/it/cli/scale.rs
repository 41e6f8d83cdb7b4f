//! `scale`: plans for fleets that run, and changes of the shards while workers read, that are interrupted, or refused.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use kinetide::internals::aws::sdk_config;
use kinetide::internals::local::kinesis::KinesisSettings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::sleep;

use super::cbor::{answer, decoded, path, saying};
use super::endpoints::{Endpoint, serve};
use super::permissions::gate::{Fault, Gate, Service};
use super::stage::{STREAM, Stage};
use super::{Ran, command, finish, kinetide};

impl Stage {
    fn scale_args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["scale"], args, &["--stream", STREAM, "--kinesis-endpoint", self.aws.kinesis_url()]].concat()
    }

    /// Runs `kinetide scale plan` on this stage.
    async fn plan(&self, args: &[&str]) -> Ran {
        let fleet = ["plan", "--failover-time", "3s", "--dynamodb-endpoint", self.aws.dynamodb_url()];
        kinetide(&self.scale_args(&[&fleet, args].concat())).await
    }

    /// Runs `kinetide scale apply` on this stage.
    async fn apply(&self, shards: &str, more: &[&str]) -> Ran {
        kinetide(&self.scale_args(&[&["apply", "--shards", shards], more].concat())).await
    }

    /// Starts it, and waits until it has begun a step.
    async fn apply_begun(&self, shards: &str) -> Child {
        let mut child = command(&self.scale_args(&["apply", "--shards", shards, "--yes"])).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap();
        assert!(first.as_ref().is_some_and(|line| line.starts_with("trades: 1 → 2 shards")), "{first:?}");
        child.stderr = Some(lines.into_inner().into_inner());
        child
    }

    fn open_shards(&self) -> usize {
        self.aws.kinesis().open_shards(STREAM).unwrap().len()
    }
}

fn parsed(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}\n{}\n{}", ran.out, ran.err))
}

fn takes(time: Duration) -> KinesisSettings {
    KinesisSettings { resize_time: time, ..KinesisSettings::default() }
}

/// A CloudWatch that has seen this much in its busiest minute: bytes and records.
async fn cloudwatch(bytes: f64, records: f64) -> Endpoint {
    serve(Router::new().fallback(move |uri: Uri, body: Bytes| async move {
        assert_eq!(uri.path(), path("GetMetricData"));
        let asked = decoded(&body);
        assert_eq!(asked["MetricDataQueries"][0]["MetricStat"]["Metric"]["Dimensions"][0]["Value"], STREAM);
        // In two pages.
        let (first, token) = if asked.get("NextToken").is_none() { (1.0, Some("more")) } else { (0.5, None) };
        let series = |id: &str, values: &[f64]| json!({"Id": id, "Values": values, "StatusCode": "Complete"});
        let results = [series("bytes", &[7.0, bytes * first]), series("records", &[records * first])];
        let mut page = json!({"MetricDataResults": results, "Messages": []});
        if let Some(token) = token {
            page["NextToken"] = token.into();
        }
        answer(&page)
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_is_known_and_can_be_made_again() {
    let stage = Stage::new(4).await;
    let nobody = stage.plan(&[]).await;
    assert_eq!(nobody.code, Some(1), "{}", nobody.err);
    for words in [
        "shards  4        unknown",
        "tasks   unknown",
        "kinetide-trades: does not exist",
        "CloudWatch: not asked",
    ] {
        assert!(nobody.out.contains(words), "{words:?} is not in\n{}", nobody.out);
    }

    let worker = stage.worker(&[]).await;
    stage.put(0..200);
    stage.all_delivered().await;
    // Each lease says with its next heartbeat what was read.
    sleep(Duration::from_secs(4)).await;
    let alone = stage.plan(&["--json"]).await;
    alone.says(0, &[]);
    let printed = parsed(&alone);
    let plan = &printed["plan"];
    assert_eq!((&plan["shards"]["wanted"], &plan["tasks"]["now"]), (&json!(4), &json!(1)), "{printed:#}");
    let reasons = plan["shards"]["because"].to_string();
    assert!(reasons.contains("only the last moments are known"), "{reasons}");
    let observed = &printed["observed"];
    assert_eq!(observed["workers"][0]["worker"], worker.id.as_str());
    assert_eq!(
        (&observed["stream"]["updates_in_24h"], observed["shards"].as_array().unwrap().len()),
        (&json!(0), 4)
    );
    assert_eq!(observed["shards"][0]["millis_behind_latest"], 0, "{printed:#}");

    let busy = cloudwatch(60.0 * 10.0 * 1_048_576.0, 60.0 * 500.0).await;
    let busy = stage.plan(&["--cloudwatch-endpoint", &busy.url]).await;
    busy.says(0, &[]);
    for words in
        ["10.0 MiB/s are written in the busiest minute", "→ kinetide scale apply --stream trades --shards 15"]
    {
        assert!(busy.out.contains(words), "{words:?} is not in\n{}", busy.out);
    }
    let quiet = cloudwatch(60.0 * 1_000.0, 60.0).await;
    let quiet = stage.plan(&["--cloudwatch-endpoint", &quiet.url, "--json"]).await;
    assert_eq!(parsed(&quiet)["plan"]["steps"], json!([2, 1]), "{}", quiet.out);
    let denied = saying("AccessDenied", "nobody may").await;
    let denied = stage.plan(&["--cloudwatch-endpoint", &denied.url]).await;
    denied.says(0, &[]);
    let words = "Not known: CloudWatch: access denied (AccessDenied): nobody may";
    assert!(denied.out.contains(words), "{}", denied.out);

    // The same plan from the file, without a call.
    let file = stage.dir.path().join("observed.json");
    std::fs::write(&file, &alone.out).unwrap();
    let again = kinetide(&["scale", "plan", "--json", "--from", file.to_str().unwrap()]).await;
    again.says(0, &[]);
    assert_eq!(&parsed(&again)["plan"], plan);
    let docs = include_str!("../../../docs/SCALING.md");
    let members =
        [plan, &plan["shards"], &plan["cost"], observed, &observed["stream"], &observed["shards"][0]];
    let members = members.iter().flat_map(|object| object.as_object().unwrap().keys());
    for member in members.chain(observed["workers"][0].as_object().unwrap().keys()) {
        assert!(docs.contains(&format!("`{member}`")), "{member} is not documented");
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_grows_and_shrinks_in_steps_while_it_is_read() {
    let stage = Stage::on(takes(Duration::from_millis(1_200)), 2).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..200);
    let shown = stage.apply("8", &[]).await;
    shown.says(0, &[]);
    assert_eq!(
        shown.out,
        "trades: 2 → 4 → 8 shards, 2 steps\nUpdateShardCount in the last 24 hours: 0 of 10\n\
         Nothing was changed: add --yes to do it\n"
    );
    assert_eq!(stage.open_shards(), 2);
    let (grown, ()) = tokio::join!(stage.apply("8", &["--yes"]), async {
        for hundred in 2..12 {
            stage.put(hundred * 100..hundred * 100 + 100);
            sleep(Duration::from_millis(200)).await;
        }
    });
    grown.says(0, &["trades: 2 → 4 shards", "trades: UPDATING, 4 shards open", "trades: 4 → 8 shards"]);
    assert_eq!((grown.out.as_str(), stage.open_shards()), ("trades: 8 shards\n", 8));
    stage.put(1_200..1_300);
    let shrunk = stage.apply("3", &["--yes", "--json"]).await;
    shrunk.says(0, &[]);
    let report = parsed(&shrunk);
    assert_eq!(
        (&report["steps"], &report["done"], &report["updates_in_24h"]),
        (&json!([4, 3]), &json!(true), &json!(2))
    );
    let nothing = stage.apply("3", &["--yes"]).await;
    nothing.says(0, &[]);
    assert_eq!(nothing.out, "trades: 3 shards\n");
    stage.put(1_300..1_500);
    // A shard without a lease counts as delivered for the stage.
    super::eventually("every open shard has its lease", || async {
        let (open, leases) = (stage.aws.kinesis().open_shards(STREAM).unwrap(), stage.leases().await);
        open.iter().all(|shard| leases.iter().any(|lease| lease.key.shard() == shard)).then_some(())
    })
    .await;
    stage.all_delivered().await;
    let plan = parsed(&stage.plan(&["--json"]).await);
    assert_eq!(plan["observed"]["stream"]["updates_in_24h"], 4, "{plan:#}");
    worker.drain().await;
    stage.exactly_once(1_500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_after_an_interruption_goes_on() {
    let stage = Stage::on(takes(Duration::from_secs(2)), 1).await;
    let mut killed = stage.apply_begun("4").await;
    killed.start_kill().unwrap();
    assert_eq!(killed.wait().await.unwrap().code(), None);
    assert_eq!(stage.open_shards(), 2);
    let again = stage.apply("4", &["--yes", "--json"]).await;
    again.says(0, &["trades: 2 → 4 shards"]);
    let report = parsed(&again);
    assert_eq!((&report["before"], &report["after"], &report["steps"]), (&json!(2), &json!(4), &json!([4])));

    let stage = Stage::on(takes(Duration::from_secs(2)), 1).await;
    let stopped = stage.apply_begun("4").await;
    kill(Pid::from_raw(i32::try_from(stopped.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    finish(stopped)
        .await
        .says(1, &["trades: 2 of 4 shards: interrupted by SIGINT", "run the same command again"]);
}

/// A call whose answer is lost is looked up, and what the stream refuses meanwhile is no failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_not_guessed() {
    let stage = Stage::on(takes(Duration::from_millis(500)), 1).await;
    let gate = Gate::to(Service::Kinesis, stage.aws.kinesis_url()).await;
    gate.set("UpdateShardCount", Some(Fault::Unanswered));
    let args =
        ["apply", "--shards", "4", "--yes", "--stream", STREAM, "--kinesis-endpoint", &gate.endpoint.url];
    let ran = kinetide(&[&["scale"], &args[..]].concat()).await;
    ran.says(0, &["trades: 2 → 4 shards"]);
    let plan = parsed(&stage.plan(&["--json"]).await);
    assert_eq!((stage.open_shards(), &plan["observed"]["stream"]["updates_in_24h"]), (4, &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_day_is_named_with_the_time_when_it_goes_on() {
    let limited = KinesisSettings { real_limits: true, ..KinesisSettings::default() };
    let stage = Stage::on(limited, 1).await;
    let client = aws_sdk_kinesis::Client::new(&sdk_config(Some(stage.aws.kinesis_url()), None).await);
    for use_ in 0..9 {
        let call = client.update_shard_count().stream_name(STREAM).target_shard_count(2 - use_ % 2);
        call.scaling_type(aws_sdk_kinesis::types::ScalingType::UniformScaling).send().await.unwrap();
        // The shards of each use have a time of their own.
        sleep(Duration::from_millis(5)).await;
    }
    let ran = stage.apply("8", &["--yes", "--json"]).await;
    ran.says(1, &["trades: 4 of 8 shards", "are used up", "run the same command again after 20"]);
    let report = parsed(&ran);
    assert_eq!(
        (&report["done"], &report["updates_in_24h"], &report["steps"]),
        (&json!(false), &json!(9), &json!([4]))
    );
    assert!(report["possible_again"].as_str().unwrap().ends_with('Z'), "{report}");
    let shown = stage.apply("8", &[]).await;
    assert!(shown.out.contains("in the last 24 hours: 10 of 10"), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_the_way_out() {
    let stage = Stage::new(2).await;
    let client = aws_sdk_kinesis::Client::new(&sdk_config(Some(stage.aws.kinesis_url()), None).await);
    let mode = aws_sdk_kinesis::types::StreamModeDetails::builder()
        .stream_mode(aws_sdk_kinesis::types::StreamMode::OnDemand)
        .build()
        .unwrap();
    client.create_stream().stream_name("demand").stream_mode_details(mode).send().await.unwrap();
    let kinesis = ["--kinesis-endpoint", stage.aws.kinesis_url()];
    let of = |args: &[&'static str]| [&["scale"], args, &kinesis].concat();
    let gate = Gate::to(Service::Kinesis, stage.aws.kinesis_url()).await;
    gate.set("UpdateShardCount", Some(Fault::Denied));
    let broken = serve(Router::new().fallback(|| async { (StatusCode::OK, "{}") })).await;
    let apply = ["scale", "apply", "--stream", STREAM, "--shards", "4", "--yes", "--kinesis-endpoint"];
    for (args, code, words) in [
        (of(&["apply", "--stream", "demand", "--shards", "8", "--yes"]), 1, "--warm-throughput-mi-bps 8"),
        (
            of(&["apply", "--stream", "none", "--shards", "8"]),
            1,
            "stream none: does not exist; check --stream",
        ),
        (of(&["plan", "--stream", "none"]), 1, "stream none: does not exist; check --stream"),
        (of(&["apply", "--shards", "8"]), 2, "no stream: set --stream"),
        (of(&["apply", "--stream", "a b", "--shards", "8"]), 2, "--stream"),
        (of(&["apply", "--stream", STREAM, "--shards", "0"]), 2, "0 is not in 1..=10000"),
        (of(&["plan", "--stream", STREAM, "--failover-time", "1ms"]), 2, "--failover-time"),
        (of(&["plan", "--from", "/no/file"]), 2, "--from \"/no/file\": No such file"),
        ([&apply[..], &[&gate.endpoint.url]].concat(), 1, "2 of 4 shards: access denied"),
        ([&apply[..], &[&broken.url]].concat(), 1, "stream trades: "),
    ] {
        kinetide(&args).await.says(code, &[words]);
    }
    assert_eq!(stage.open_shards(), 2);
    let demand = kinetide(&of(&["plan", "--stream", "demand"])).await;
    assert!(
        demand.code == Some(0) && demand.out.contains("on-demand: AWS sets"),
        "{}{}",
        demand.out,
        demand.err
    );
}

/// Only the leader says how many workers are wanted, and who led before says no more of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_tells_how_many_workers_are_wanted() {
    const METRIC: &str = "kinetide_workers_wanted ";
    let has = |metrics: &str| metrics.lines().any(|line| line.starts_with(METRIC));
    let stage = Stage::new(2).await;
    let leader = stage.worker(&[]).await;
    stage.put(0..50);
    stage.all_delivered().await;
    super::eventually("the leader tells", || async { (leader.metric(METRIC).await == 1.0).then_some(()) })
        .await;
    let other = stage.worker(&[]).await;
    assert!(!has(&other.get("/metrics").await.1), "it does not lead");
    // Stopped for longer than its lock lasts, it comes back as a follower.
    leader.signal(Signal::SIGSTOP);
    super::eventually("the other one leads", || async { (other.metric(METRIC).await >= 1.0).then_some(()) })
        .await;
    leader.signal(Signal::SIGCONT);
    super::eventually("it leads no more", || async {
        let text = leader.get("/metrics").await.1;
        (text.contains("kinetide_leader 0") && !has(&text)).then_some(())
    })
    .await;
    leader.kill().await;
    other.drain().await;
}
