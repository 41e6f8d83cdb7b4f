//! The load test, run small.

use serde_json::Value;
use tempfile::TempDir;

use super::kinetide;
use super::secrecy::nothing_of_a_load_test_is_shown;

/// A number of a verdict.
fn number(verdict: &Value, name: &str) -> u64 {
    verdict[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {verdict}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_run_with_faults_ends_exactly_once_and_says_what_it_measured() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let report = folder.path().join("report.html");
    let ran = kinetide(&[
        "loadtest",
        "--rate",
        "400",
        "--duration",
        "15s",
        "--shards",
        "2",
        "--workers",
        "2",
        "--chaos",
        "kill,pause,5xx",
        "--chaos-every",
        "2500ms",
        "--alerts",
        "--seed",
        "7",
        "--json",
        "--dir",
        &dir,
        "--report",
        &report.display().to_string(),
    ])
    .await;
    ran.says(0, &["kill: killed worker-", "pause: stopped worker-", "5xx: "]);
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    let verdict: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdict["exactly_once"], true);
    for name in ["missing", "duplicated", "reshards"] {
        assert_eq!(number(&verdict, name), 0, "{name}");
    }
    assert_eq!(number(&verdict, "put"), number(&verdict, "delivered"));
    assert!((4_000..6_500).contains(&number(&verdict, "put")), "{verdict}");
    assert!(number(&verdict, "workers_killed") >= 1, "{verdict}");
    let lake = |name: &str| number(&verdict["lake"], name);
    assert!(
        lake("alerts") > 50 && lake("alerts_missing") == 0 && lake("alerts_unexpected") == 0,
        "{verdict}"
    );
    let latency = |name: &str| number(&verdict["latency_ms"], name);
    assert!(latency("p50") > 100 && latency("p50") <= latency("p99") && latency("p99") <= latency("max"));

    let faults = verdict["faults"].as_array().unwrap();
    let kill = faults.iter().find(|fault| fault["kind"] == "kill").unwrap();
    assert!(number(kill, "shards_unread") > 0 && number(kill, "unread_ms_max") > 500, "{kill}");
    let requests = verdict["requests"].as_array().unwrap();
    let services: Vec<&str> = requests.iter().map(|requests| requests["service"].as_str().unwrap()).collect();
    assert_eq!(services, ["kinesis", "dynamodb"]);
    assert!(requests.iter().all(|requests| number(requests, "per_million_records") > 0));
    assert!(requests.iter().any(|requests| number(requests, "struck") > 0));
    let workers = verdict["workers"].as_array().unwrap();
    assert!(workers.len() > 2 && workers.iter().any(|worker| worker["end"] == "killed"), "{workers:?}");
    if cfg!(target_os = "linux") {
        assert!(workers.iter().any(|worker| number(worker, "rss_max_bytes") > 1 << 20));
        assert!(workers.iter().any(|worker| worker["cpu_seconds"].as_f64().unwrap() > 0.0));
    }
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.contains("exactly once") && page.contains("--seed 7") && page.contains("<svg"));

    nothing_of_a_load_test_is_shown(dir.as_ref(), &[&ran.out, &ran.err, &page]);

    let again = kinetide(&["loadtest", "--dir", &dir]).await;
    again.says(1, &[&dir, "not empty", "--dir"]);
}

/// Every fault, on two streams whose shards have equal ids.
#[tokio::test(flavor = "multi_thread")]
async fn two_streams_of_one_application_are_judged_each_for_itself() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let report = folder.path().join("report.html");
    let page = report.display().to_string();
    let load = ["--streams", "2", "--rate", "200", "--duration", "26s", "--shards", "2", "--workers", "3"];
    let chaos = ["--chaos", "all", "--chaos-every", "1700ms", "--seed", "4"];
    let output = ["--json", "--dir", &dir, "--report", &page];
    let ran = kinetide(&[&["loadtest"][..], &load, &chaos, &output].concat()).await;
    ran.says(0, &["(2 shards each)", "reshard: ", "kill: killed worker-"]);
    let verdict: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdict["exactly_once"], true);
    let streams = verdict["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 2);
    let mut put = 0;
    for stream in streams {
        assert_eq!(stream["exactly_once"], true, "{stream}");
        assert!((1_500..6_000).contains(&number(stream, "records_put")), "{stream}");
        let landed = number(stream, "rows_delivered") + number(stream, "dead_letters");
        assert_eq!((number(stream, "records_put"), number(stream, "missing")), (landed, 0), "{stream}");
        assert!(number(&stream["latency_ms"], "p50") > 100 && number(stream, "lag_ms_max") > 0, "{stream}");
        put += number(stream, "records_put");
    }
    assert_eq!((number(&verdict, "put"), number(&verdict, "delivered")), (put, put));
    let name = |stream: usize| streams[stream]["stream"].as_str().unwrap();
    assert_eq!(name(1), format!("{}-2", name(0)));
    let faults = verdict["faults"].as_array().unwrap();
    let kinds: std::collections::BTreeSet<_> =
        faults.iter().map(|fault| fault["kind"].as_str().unwrap()).collect();
    // On a busy machine a resharding may be refused, or nobody be left to stop.
    assert!(kinds.len() >= 11, "{kinds:?}");
    let text = std::fs::read_to_string(report).unwrap();
    assert!(text.contains("<h2>Streams</h2>") && text.contains(&format!("{}, in the lake", name(1))));
}

/// Streams of all kinds of one application: polled and subscribed to, with aggregates, and of a table that is compared with
/// its newest rows.
#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_stream_loses_anything_in_bad_weather() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let kinds = ["kinesis", "fan-out", "dynamodb-streams"];
    let load = ["--rate", "150", "--duration", "16s", "--shards", "2", "--workers", "2", "--kpl", "20"];
    let chaos = [
        "--source",
        &kinds.join(","),
        "--chaos",
        "kill,pause,throttle,5xx,cut,deny,reshard",
        "--chaos-every",
        "2s",
        "--seed",
        "3",
    ];
    let ran = kinetide(&[&["loadtest", "--json", "--dir", &dir][..], &load, &chaos].concat()).await;
    ran.says(0, &["kill: killed worker-"]);
    let verdict: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdict["exactly_once"], true, "{verdict}");
    assert_eq!(number(&verdict, "put"), number(&verdict, "delivered"));
    let requests = verdict["requests"].as_array().unwrap();
    for (service, call) in [("kinesis", "SubscribeToShard"), ("dynamodb-streams", "DescribeStream")] {
        let requests = requests.iter().find(|requests| requests["service"] == service).unwrap();
        assert!(requests.to_string().contains(call), "{requests}");
    }
    let streams = verdict["streams"].as_array().unwrap();
    for (stream, kind) in streams.iter().zip(kinds) {
        assert_eq!((&stream["exactly_once"], &stream["source"]), (&true.into(), &kind.into()), "{stream}");
        let records = number(stream, "records_put");
        assert!(records > 1_000 && number(stream, "dead_letters") < records / 50, "{stream}");
        let compared = (kind == "dynamodb-streams").then_some(0);
        assert_eq!(stream["key_state_mismatches"].as_u64(), compared, "{stream}");
    }
    assert_eq!(streams.len(), 3);
    let settings = std::fs::read_to_string(folder.path().join("new").join("settings.toml")).unwrap();
    assert_eq!(settings.matches("[[streams]]").count(), 3, "{settings}");
}

/// Our own service, started as a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_is_judged_by_its_lines() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let consumer = format!(
        "'{}' run --stream $KINETIDE_PEER_STREAM --application $KINETIDE_PEER_APPLICATION \
         --worker-id $KINETIDE_PEER_WORKER --lake $KINETIDE_PEER_LAKE --region $KINETIDE_PEER_REGION \
         --kinesis-endpoint $KINETIDE_PEER_KINESIS --dynamodb-endpoint $KINETIDE_PEER_DYNAMODB \
         --batch-age ${{KINETIDE_PEER_BATCH_AGE_MS}}ms --failover-time ${{KINETIDE_PEER_FAILOVER_MS}}ms \
         --lease-scan-interval 300ms --transform crypto-transactions --http 127.0.0.1:0 --stop-with-parent",
        env!("CARGO_BIN_EXE_kinetide")
    );
    let ran = kinetide(&[
        "loadtest",
        "--worker-command",
        &consumer,
        "--rate",
        "300",
        "--duration",
        "10s",
        "--shards",
        "2",
        "--workers",
        "2",
        "--chaos",
        "kill,clock,disk-full",
        "--chaos-every",
        "2500ms",
        "--json",
        "--dir",
        &dir,
    ])
    .await;
    let left_out = |kind: &str| format!("--chaos {kind} does not work with --worker-command: left out");
    ran.says(0, &["kill: killed worker-", &left_out("clock"), &left_out("disk-full")]);
    let verdict: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdict["exactly_once"], true);
    assert_eq!(verdict["worker_command"], consumer);
    assert!((2_000..4_000).contains(&number(&verdict, "put")), "{verdict}");
    assert_eq!(number(&verdict, "put"), number(&verdict, "delivered"));
    // The stream flowed on.
    let lake = |name: &str| number(&verdict["lake"], name);
    assert_eq!(number(&verdict, "put") + lake("unclear"), lake("rows_delivered"));
    assert!(number(&verdict, "workers_killed") >= 1 && number(&verdict["latency_ms"], "p50") > 100);
    assert!(verdict["faults"].as_array().unwrap().iter().all(|fault| fault["kind"] == "kill"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_that_cannot_run_is_not_waited_for() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let flags = ["--rate", "10", "--duration", "60s", "--workers", "3", "--dir", &dir];
    let ran = kinetide(&[&["loadtest", "--worker-command", "false"][..], &flags].concat()).await;
    ran.says(1, &["workers keep exiting", &dir]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_wishes_are_refused() {
    let tls = "https://kinesis.eu-north-1.amazonaws.com";
    let behind_tls = ["loadtest", "--kinesis-endpoint", tls, "--chaos", "throttle"];
    let tables = ["loadtest", "--source", "dynamodb-streams"];
    for (more, code, words) in [
        (&["--source", "fan-out,fan-out"][..], 2, &["fan-out twice", "--streams"][..]),
        (&["--source", "sqs"], 2, &["sqs"]),
        (&["--source", "dynamodb-streams", "--kpl"], 1, &["--kpl", "records of Kinesis"]),
    ] {
        kinetide(&[&["loadtest"][..], more].concat()).await.says(code, words);
    }
    for (flag, value) in [("--dynamodb-endpoint", "http://127.0.0.1:1"), ("--worker-command", "true")] {
        let ran = kinetide(&[&tables[..], &[flag, value]].concat()).await;
        ran.says(1, &["--source dynamodb-streams does not work with", flag]);
    }
    let (chaos, ramp, endpoint, proxy, disk) = tokio::join!(
        kinetide(&["loadtest", "--chaos", "kill,fire"]),
        kinetide(&["loadtest", "--ramp", "1000"]),
        kinetide(&["loadtest", "--kinesis-endpoint", "localhost:1"]),
        kinetide(&behind_tls),
        kinetide(&["loadtest", "--lake", "s3://bucket", "--chaos", "disk-full"]),
    );
    chaos.says(2, &["fire", "disk-full"]);
    ramp.says(2, &["1000..20000"]);
    endpoint.says(2, &["--kinesis-endpoint", "http://127.0.0.1"]);
    proxy.says(1, &["--chaos throttle", tls]);
    disk.says(1, &["--chaos disk-full", "--s3-endpoint"]);
}

/// The three times at which the first worker may start, and two ways to say where reading begins.
#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_in_the_lake_follows_from_where_reading_begins() {
    // Two at once: they mostly wait. The third is below.
    tokio::join!(begins_at("3", "latest"), begins_at("4", "latest"));
    let both = ["loadtest", "--initial-position", "latest", "--worker-command", "true"];
    let streams = ["loadtest", "--streams", "2", "--worker-command", "true"];
    kinetide(&streams).await.says(1, &["--streams", "--worker-command"]);
    kinetide(&both).await.says(1, &["--initial-position", "--worker-command"]);
    kinetide(&["loadtest", "--initial-position", "noon"]).await.says(2, &["--initial-position", "latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_time_all_of_it_must_be_in_the_lake_and_from_latest_what_came_later() {
    tokio::join!(begins_at("5", "latest"), begins_at("5", "2026-01-01T00:00:00Z"));
}

async fn begins_at(seed: &str, position: &str) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let flags = ["--rate", "300", "--duration", "9s", "--shards", "2", "--workers", "2", "--seed", seed];
    let chaos = ["--chaos", "kill,deny,hang", "--chaos-every", "1500ms", "--json", "--dir", &dir];
    let ran = kinetide(&[&["loadtest", "--initial-position", position][..], &flags, &chaos].concat()).await;
    ran.says(0, &["worker-2 starts"]);
    let verdict: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdict["exactly_once"], true, "{verdict}");
    assert_eq!(number(&verdict, "put"), number(&verdict, "delivered"));
    assert!(number(&verdict, "put") > 500, "{verdict}");
    if position == "latest" {
        ran.says(0, &["every shard has a lease"]);
    } else {
        assert_eq!(number(&verdict["lake"], "unclear"), 0, "all of it");
    }
}

/// All records are put, and few, before the first worker starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_which_nothing_had_to_be_in_the_lake_has_no_verdict() {
    for json in [false, true] {
        let folder = TempDir::new().unwrap();
        let (dir, report) = (folder.path().join("new"), folder.path().join("report.html"));
        let (dir, page) = (dir.display().to_string(), report.display().to_string());
        let flags = ["--records", "3", "--duration", "2s", "--shards", "1", "--workers", "1", "--seed", "4"];
        let position = ["loadtest", "--initial-position", "latest", "--dir", &dir, "--report", &page];
        let json = if json { &["--json"][..] } else { &[] };
        let ran = kinetide(&[&position[..], &flags, json].concat()).await;
        ran.says(1, &[]);
        assert!(!ran.out.contains("exactly once"), "{}", ran.out);
        if json.is_empty() {
            assert!(ran.out.contains("NO VERDICT: ") && ran.out.contains("--duration"), "{}", ran.out);
        } else {
            let verdict: Value = serde_json::from_str(&ran.out).unwrap();
            assert!(verdict["exactly_once"].is_null(), "{verdict}");
            assert!(verdict["no_verdict"].as_str().unwrap().contains("--initial-position trim-horizon"));
            assert_eq!(number(&verdict, "put"), 0);
        }
        assert!(std::fs::read_to_string(report).unwrap().contains("No verdict"));
    }
}
