//! `kinetide check`: everything that a worker needs, as it is and as it can be wrong; what makes a worker refuse to start
//! is said in the same words, and nothing is left behind.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::StatusCode;
use futures::future::join_all;
use kinetide::internals::lease::{LeaseTable, TableError};
use serde_json::{Value, json};

use super::cbor::{answer, saying};
use super::endpoints::{black_hole, serve};
use super::permissions::Gated;
use super::permissions::gate::{Fault, Service};
use super::stage::{STREAM, Stage};
use super::{Ran, command, finish};
use Fault::{Denied, Hung};

const TABLE: &str = "lease table kinetide-trades";
/// Behind nobody's door.
const CLOSED: &str = "http://127.0.0.1:1";

/// What `check --json` found.
struct Found {
    ran: Ran,
    json: Value,
}

impl Found {
    fn items(&self) -> impl Iterator<Item = &Value> {
        self.json["items"].as_array().unwrap().iter()
    }

    /// The item of this part.
    #[track_caller]
    fn item(&self, about: &str, item: &str) -> &Value {
        let mut found = self.items().filter(|found| found["about"] == about && found["item"] == item);
        found.next().unwrap_or_else(|| panic!("no {item} of {about} in {:#}", self.json))
    }

    /// Asserts that the item stands so and its text holds these words.
    #[track_caller]
    fn says(&self, about: &str, item: &str, verdict: &str, words: &[&str]) {
        let found = self.item(about, item);
        assert_eq!(found["verdict"], verdict, "{found:#}\n{}", self.ran.err);
        let text = found["text"].as_str().unwrap();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not in {text}");
    }

    /// The items that stand so, each with what it is about.
    fn that_are(&self, verdict: &str) -> Vec<(&str, &str)> {
        let those = self.items().filter(|item| item["verdict"] == verdict);
        those.map(|item| (item["about"].as_str().unwrap(), item["item"].as_str().unwrap())).collect()
    }

    fn setting(&self, name: &str) -> &Value {
        self.json["settings"].as_array().unwrap().iter().find(|each| each["setting"] == name).unwrap()
    }
}

/// Arguments of a worker as those of the check.
fn arguments(stage: &Stage, more: &[(&str, &str)]) -> Vec<String> {
    let mut arguments = stage.arguments(more);
    "check".clone_into(&mut arguments[0]);
    arguments
}

async fn ran(stage: &Stage, arguments: &[String]) -> Ran {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    finish(command(&arguments).envs(stage.env.iter().cloned()).spawn().unwrap()).await
}

async fn check(stage: &Stage, more: &[(&str, &str)]) -> Found {
    let mut arguments = arguments(stage, more);
    arguments.push("--json".to_owned());
    let ran = ran(stage, &arguments).await;
    let json: Value =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.err));
    let failed = json["items"].as_array().unwrap().iter().any(|item| item["verdict"] == "failed");
    assert_eq!(ran.code, Some(i32::from(failed)), "{json:#}");
    documented(&json);
    Found { ran, json }
}

/// Every member has its line in the document.
fn documented(json: &Value) {
    fn members(json: &Value, all: &mut BTreeSet<String>) {
        match json {
            Value::Object(object) => object.iter().for_each(|(name, value)| {
                all.insert(name.clone());
                members(value, all);
            }),
            Value::Array(array) => array.iter().for_each(|value| members(value, all)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    members(json, &mut all);
    let document = crate::tidy::read("docs/CHECK.md");
    let missing: Vec<_> = all.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/CHECK.md: {missing:?}");
}

/// All files of a folder, from there on.
fn files(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path).iter().map(|below| format!("{}/{below}", name(&path)))),
            false => all.push(name(&path)),
        }
    }
    all
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_worker_all_is_ok_and_nothing_is_made() {
    let stage = Stage::new(2).await;
    let found = check(&stage, &[]).await;
    assert_eq!((&found.json["failed"], &found.json["warnings"]), (&json!(0), &json!(0)), "{:#}", found.json);
    found.says("stream trades", "stream", "ok", &["ACTIVE", "keeps records for 24 h"]);
    found.says("stream trades", "shards", "ok", &["2 open, 0 closed"]);
    found.says("stream trades", "reading", "ok", &["can be read"]);
    found.says(TABLE, "table", "ok", &["would be created by the first worker"]);
    for item in ["fleet", "permissions", "leases"] {
        found.says(TABLE, item, "not_looked_at", &[]);
    }
    found.says("this host", "clock", "ok", &[]);
    assert!(matches!(stage.table().locate().await, Err(TableError::NotFound(_))), "no table was made");
    assert_eq!(files(&stage.lake()), ["_kinetide/probe"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_worker_all_is_ok_and_no_row_changes() {
    let stage = Stage::new(1).await;
    let cloudwatch = serve(Router::new().fallback(|| async { answer(&json!({})) })).await;
    stage.worker(&[]).await.drain().await;
    let before = stage.table().snapshot().await.unwrap();
    let found =
        check(&stage, &[("--cloudwatch", "summary"), ("--cloudwatch-endpoint", &cloudwatch.url)]).await;
    assert_eq!(found.json["failed"], 0, "{:#}", found.json);
    found.says(TABLE, "table", "ok", &["on-demand", "one table", "point-in-time recovery"]);
    found.says(TABLE, "fleet", "ok", &["KCL 3.x", "may join"]);
    let all = ["Query", "PutItem", "UpdateItem", "DeleteItem"];
    assert_eq!(found.item(TABLE, "permissions")["facts"]["allowed"], json!(all));
    found.says(TABLE, "leases", "ok", &["1 lease, "]);
    found.says("CloudWatch", "metrics", "ok", &["kinetide-trades"]);
    let after = stage.table().snapshot().await.unwrap();
    assert_eq!(before.leases, after.leases);
    assert_eq!((after.workers.len(), after.odd.len()), (before.workers.len(), 0), "no row is left");

    let worker = stage.worker(&[]).await;
    let about = format!("--http {}", worker.http);
    let found = check(&stage, &[("--http", &worker.http)]).await;
    found.says(&about, "address", "warning", &["in use", "a worker that runs here already"]);
    worker.drain().await;
    let kinesis = stage.aws.kinesis_url().trim_start_matches("http://").to_owned();
    let found = check(&stage, &[("--http", &kinesis)]).await;
    found.says(&format!("--http {kinesis}"), "address", "failed", &["choose another address or port"]);
}

/// Each of these lets a worker refuse to start: the check says the same, and looks at the rest all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_stops_a_start_is_said_in_the_same_words_among_what_is_well() {
    let stage = Stage::new(1).await;
    stage.worker(&[]).await.drain().await;
    stage.aws.kinesis().create_stream("other", 1).unwrap();
    stage.aws.create_table("not-leases", "id").unwrap();
    let file = stage.dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let file = file.display().to_string();
    let hole = black_hole().await;
    let s3 = format!("lake {file}");
    let rest = ["lake", "stream trades", TABLE];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        (&[("--stream", "nope"), ("--application", "kinetide-trades")], "stream nope", "stream", &["lake"]),
        (&[("--application", "not-leases")], "lease table not-leases", "table", &rest[..2]),
        (
            &[("--stream", "other"), ("--application", "kinetide-trades")],
            TABLE,
            "leases",
            &["lake", "stream other"],
        ),
        (&[("--lake", &file)], &s3, "probe", &rest[1..]),
        (&[("--kinesis-endpoint", CLOSED)], "stream trades", "endpoint", &["lake"]),
        (&[("--dynamodb-endpoint", CLOSED)], TABLE, "endpoint", &rest[..2]),
        (&[("--kinesis-endpoint", &hole.url)], "stream trades", "endpoint", &["lake"]),
        (&[("--dynamodb-endpoint", &hole.url)], TABLE, "endpoint", &rest[..2]),
    ];
    // Two at a time: more would be a test of the machine.
    for pair in cases.chunks(2) {
        join_all(pair.iter().map(|(more, about, item, well)| async {
            let (start, found) =
                tokio::join!(async { ran(&stage, &stage.arguments(more)).await }, check(&stage, more));
            let said = start.err.lines().last().unwrap().strip_prefix("error: ").unwrap().to_owned();
            let (what, problem) = said.split_once(": ").unwrap();
            assert_eq!(what, *about, "{said}");
            // An endpoint is named before its trouble.
            let text = found.item(about, item)["text"].as_str().unwrap();
            assert!(text.ends_with(problem), "the start says {problem:?}, the check {text:?}");
            found.says(about, item, "failed", &[]);
            assert_eq!(found.ran.code, Some(1));
            assert!(found.ran.took < std::time::Duration::from_secs(40), "{:?}", found.ran.took);
            for about in *well {
                let of = |item: &&Value| item["about"].as_str().unwrap().starts_with(about);
                let verdicts: Vec<_> = found.items().filter(of).map(|item| &item["verdict"]).collect();
                let well = verdicts.contains(&&json!("ok")) && !verdicts.contains(&&json!("failed"));
                assert!(well, "{about}: {:#}", found.json);
            }
            // What follows from it is not known.
            if *item == "endpoint" {
                let rest = found.items().filter(|found| found["about"] == *about && found["item"] != *item);
                rest.for_each(|item| assert_eq!(item["verdict"], "not_looked_at", "{item}"));
            }
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_that_is_missing_is_one_failed_item() {
    const LAKE: &str = "lake s3://lake/raw";
    const READ: &str = "stream trades";
    let gated = Gated::new().await;
    gated.stage.table().ensure_exists().await.unwrap();
    type Case = (Service, &'static str, &'static [(&'static str, &'static str)]);
    gated.stage.register("kinetide-trades").await;
    let cases: [Case; 16] = [
        (Service::Kinesis, "DescribeStreamSummary", &[(READ, "stream")]),
        (Service::Kinesis, "ListShards", &[(READ, "shards")]),
        (Service::Kinesis, "GetShardIterator", &[(READ, "reading")]),
        (Service::Kinesis, "GetRecords", &[(READ, "reading")]),
        (Service::Kinesis, "DescribeStreamConsumer", &[(READ, "fan-out")]),
        (Service::Kinesis, "SubscribeToShard", &[(READ, "fan-out")]),
        (Service::DynamoDb, "DescribeTable", &[(TABLE, "table")]),
        (Service::DynamoDb, "GetItem", &[(TABLE, "table")]),
        (Service::DynamoDb, "Scan", &[(TABLE, "leases")]),
        (Service::DynamoDb, "Query", &[(TABLE, "permissions")]),
        (Service::DynamoDb, "PutItem", &[(TABLE, "permissions")]),
        (Service::DynamoDb, "UpdateItem", &[(TABLE, "permissions")]),
        (Service::DynamoDb, "DeleteItem", &[(TABLE, "permissions")]),
        (Service::S3, "PUT", &[(LAKE, "probe")]),
        (Service::S3, "POST", &[(LAKE, "probe"), (LAKE, "errors"), (LAKE, "landing/transactions")]),
        (Service::Sts, "AssumeRole", &[(READ, "role"), (LAKE, "role")]),
    ];
    for (service, operation, failed) in cases {
        gated.gate(service).set(operation, Some(Denied));
        let found = check(&gated.stage, &gated.settings_for(service, operation)).await;
        assert_eq!(found.that_are("failed"), failed, "{operation}: {:#}", found.json);
        for (about, item) in failed {
            found.says(about, item, "failed", &["enied", "allow"]);
        }
        gated.gate(service).set(operation, None);
    }
    // Whoever may put records need not look at the stream.
    let mut all = [gated.settings_for(Service::Firehose, ""), gated.settings_for(Service::Sts, "")].concat();
    all.sort_unstable();
    all.dedup();
    let well = check(&gated.stage, &all).await;
    assert!(well.that_are("failed").is_empty(), "{:#}", well.json);
    well.says("delivery stream rows", "stream", "ok", &["ACTIVE"]);
    well.says("delivery stream rows", "permissions", "not_looked_at", &["PutRecordBatch"]);
    well.says(READ, "role", "ok", &["can be assumed", "valid until"]);
    assert_eq!(gated.s3.open_uploads(), 0, "no upload is left");
    assert_eq!(gated.s3.keys().len(), 1, "the probe and nothing else: {:?}", gated.s3.keys());
    gated.gate(Service::Firehose).set("DescribeDeliveryStream", Some(Denied));
    let found = check(&gated.stage, &all).await;
    assert!(found.that_are("failed").is_empty(), "{:#}", found.json);
    found.says("delivery stream rows", "stream", "not_looked_at", &["firehose:DescribeDeliveryStream"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_named_and_keeps_nothing_else_waiting() {
    let gated = Gated::new().await;
    gated.stage.worker(&[]).await.drain().await;
    for (service, operation) in
        [(Service::Kinesis, "ListShards"), (Service::DynamoDb, "Query"), (Service::S3, "PUT")]
    {
        gated.gate(service).set(operation, Some(Hung));
    }
    let found = check(&gated.stage, &gated.settings_for(Service::S3, "")).await;
    let lake = "lake s3://lake/raw";
    assert_eq!(
        found.that_are("failed"),
        [("stream trades", "shards"), (TABLE, "permissions"), (lake, "probe")],
        "{:#}",
        found.json
    );
    found.says("stream trades", "shards", "failed", &["hangs", "10 s"]);
    found.says(lake, "probe", "failed", &["did not respond within"]);
    found.says(lake, "errors", "ok", &[]);
    assert!(found.ran.took < std::time::Duration::from_secs(60), "{:?}", found.ran.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_hours_off_is_seen_in_the_answers_and_in_refusals() {
    let stage = Stage::new(1).await;
    let refusal = Router::new().fallback(|| async {
        let code = "InvalidSignatureException";
        let body = json!({ "__type": code, "message": "Signature expired: now earlier than 5 min." });
        let headers = [("x-amzn-errortype", code), ("content-type", "application/x-amz-json-1.1")];
        (StatusCode::BAD_REQUEST, headers, body.to_string())
    });
    let refusal = serve(refusal).await;
    let found = check(&stage, &[("--clock-offset", "7200"), ("--kinesis-endpoint", &refusal.url)]).await;
    found.says("this host", "clock", "failed", &["h", "ahead of", "5 minutes", "NTP"]);
    let ahead = found.item("this host", "clock")["facts"]["ahead_seconds"].as_i64().unwrap();
    assert!((7100..=7200).contains(&ahead), "{ahead}");
    found.says("stream trades", "stream", "failed", &["Signature expired", "clock of this process"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudwatch_that_denies_fails_and_one_that_only_wants_metrics_is_not_known() {
    let stage = Stage::new(1).await;
    let (denies, wants) = tokio::join!(saying("AccessDenied", "no"), saying("MissingParameter", "no"));
    for (url, item, verdict, words) in [
        (denies.url.as_str(), "metrics", "failed", "allow it in the role"),
        (&wants.url, "metrics", "not_looked_at", "it was not denied"),
        (CLOSED, "endpoint", "failed", "check the endpoint"),
    ] {
        let found = check(&stage, &[("--cloudwatch", "summary"), ("--cloudwatch-endpoint", url)]).await;
        found.says("CloudWatch", item, verdict, &[words]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_shown_with_where_they_come_from_and_secrets_never() {
    let mut stage = Stage::new(1).await;
    stage.aws.kinesis().create_stream("orders", 1).unwrap();
    let file = stage.dir.path().join("kinetide.toml");
    let tables = "[[streams]]\nstream = \"trades\"\n[[streams]]\nstream = \"orders\"\ntransform = \"json\"\n";
    std::fs::write(&file, tables).unwrap();
    let secrets = ["team:7-secret", "pass-secret", "key-secret"];
    let endpoint = stage.aws.kinesis_url().replace("http://", "http://me:pass-secret@");
    for (name, value) in [
        ("KINETIDE_BATCH_BYTES", "32MiB"),
        ("KINETIDE_BATCHAGE", "5s"),
        ("KINETIDE_STREAM_ROLE_EXTERNAL_ID", secrets[0]),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", secrets[2]),
        ("AWS_REGION", "eu-north-1"),
        ("AWS_ENDPOINT_URL_STS", CLOSED),
    ] {
        stage.env.push((name.to_owned(), value.to_owned()));
    }
    let file = file.display().to_string();
    let more = [
        ("--settings", file.as_str()),
        ("--application", "kinetide-trades"),
        ("--stream-role", "arn:aws:iam::111122223333:role/reader"),
        ("--kinesis-endpoint", &endpoint),
        ("--lake", "s3://lake/raw"),
        ("--s3-endpoint", "http://me:pass-secret@127.0.0.1:1"),
    ];
    let mut all = arguments(&stage, &more);
    let at = all.iter().position(|word| word == "--stream").unwrap();
    all.drain(at..at + 2);
    let text = ran(&stage, &all).await;
    all.push("--json".to_owned());
    let json = ran(&stage, &all).await;
    for ran in [&text, &json] {
        assert_eq!(ran.code, Some(1), "the role cannot be assumed here: {}{}", ran.out, ran.err);
        for secret in secrets {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{}", ran.out);
        }
    }
    let found = Found { json: serde_json::from_str(&json.out).unwrap(), ran: json };
    documented(&found.json);
    for (name, value, from) in [
        ("batch-age", json!("300ms"), "flag"),
        ("batch-bytes", json!("32MiB"), "variable"),
        ("gzip-level", json!("1"), "default"),
        ("region", json!("eu-north-1"), "aws"),
        ("leases-max", json!("no limit"), "default"),
        ("stream-role-external-id", json!("(hidden)"), "variable"),
    ] {
        let setting = found.setting(name);
        assert_eq!((&setting["value"], &setting["from"]), (&value, &json!(from)), "{setting}");
    }
    assert_eq!(found.setting("batch-bytes")["source"], "KINETIDE_BATCH_BYTES");
    let of = |stream: &str, name: &str| {
        let mut all = found.json["settings"].as_array().unwrap().iter();
        all.find(|each| each["stream"] == stream && each["setting"] == name).unwrap().clone()
    };
    let (from_flag, in_file) = (of(STREAM, "transform"), of("orders", "transform"));
    assert_eq!((&from_flag["value"], &from_flag["from"]), (&json!("crypto-transactions"), &json!("flag")));
    assert_eq!((&in_file["value"], &in_file["from"]), (&json!("json"), &json!("file")));
    assert_eq!(in_file["source"], file);
    let shown = found.json["settings"].as_array().unwrap().iter().map(|each| &each["setting"]);
    assert!(shown.clone().all(|name| name != "help" && name != "version"), "only what is a setting");
    found.says("lake s3://lake/raw", "endpoint", "failed", &["http://127.0.0.1:1: ", "refused"]);
    found.says("settings", "variables", "warning", &["KINETIDE_BATCHAGE", "did you mean"]);

    // Lines fit a terminal, but for words that are longer.
    let wide = |line: &&str| line.chars().count() > 80 && line.split_whitespace().count() > 3;
    assert_eq!(text.out.lines().find(wide), None, "{}", text.out);
    for words in ["SETTINGS", "CHECKS", "  of stream orders\n", "--transform", "FAILED", "not looked at: "] {
        assert!(text.out.contains(words), "{words} is not in\n{}", text.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_end_it_as_they_end_a_start() {
    let stage = Stage::new(1).await;
    for more in [&[("--transform", "csv")][..], &[("--log", "debgu")], &[("--lake", "gs://x")]] {
        let (start, check) = tokio::join!(async { ran(&stage, &stage.arguments(more)).await }, async {
            ran(&stage, &arguments(&stage, more)).await
        });
        assert_eq!((check.code, check.out.as_str()), (Some(2), ""));
        assert_eq!(check.err, start.err);
    }
}
