//! Workers that read by enhanced fan-out, as processes; and `kinetide consumers`.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use kinetide::internals::aws::sdk_config;
use kinetide::internals::clock::wall_clock_us;
use serde_json::Value;

use super::position::landed;
use super::stage::{STREAM, Stage, change};
use super::{Ran, eventually, kinetide};

const FAN_OUT: (&str, &str) = ("--retrieval", "fan-out");
const CONSUMER: &str = "kinetide-trades";

impl Stage {
    /// Runs `kinetide consumers` on this stage.
    async fn consumers(&self, arguments: &[&str]) -> Ran {
        let all =
            [&["consumers"], arguments, &["--stream", STREAM, "--kinesis-endpoint", self.aws.kinesis_url()]];
        kinetide(&all.concat()).await
    }

    async fn deregister(&self, arguments: &[&str]) -> Ran {
        let dynamodb = ["--dynamodb-endpoint", self.aws.dynamodb_url(), "--failover-time", "3s"];
        self.consumers(&[&["deregister", CONSUMER], arguments, &dynamodb].concat()).await
    }

    async fn consumer_names(&self) -> Vec<String> {
        let listed = self.consumers(&["list", "--json"]).await;
        listed.tells(0, &[]);
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        let names = listed.as_array().unwrap().iter();
        names.map(|consumer| consumer["consumer"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) async fn register(&self, consumer: &str) {
        let sdk =
            kinetide::internals::aws::sdk_config(Some(self.aws.kinesis_url()), Some(self.aws.region())).await;
        let client = aws_sdk_kinesis::Client::new(&sdk);
        let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}");
        client.register_stream_consumer().stream_arn(arn).consumer_name(consumer).send().await.unwrap();
    }
}

impl Ran {
    /// Asserts the exit code, and that its output holds each of the words.
    #[track_caller]
    fn tells(&self, code: i32, words: &[&str]) {
        self.says(code, &[]);
        for word in words {
            assert!(
                self.out.contains(word) || self.err.contains(word),
                "{word:?} is not in\n{}{}",
                self.out,
                self.err
            );
        }
    }
}

/// By HTTP/2 over TLS: through a reshard, the death of a worker and a hand-over everything lands once, and nobody polls.
#[tokio::test(flavor = "multi_thread")]
async fn workers_read_by_enhanced_fan_out() {
    let mut stage = Stage::new(2).await;
    let ca = stage.dir.path().join("ca.pem").display().to_string();
    stage.env = vec![("AWS_CA_BUNDLE".to_owned(), ca)];
    let by_tls = [FAN_OUT, ("--kinesis-endpoint", stage.aws.kinesis_tls_url().unwrap())];
    stage.put(0..40);
    let first = stage.worker(&by_tls).await;
    stage.all_delivered().await;
    let status = first.status().await;
    let shards = status["shards"].as_array().unwrap();
    assert!(shards.len() == 2 && shards.iter().all(|shard| shard["retrieval"] == "fan-out"), "{status:#}");
    assert_eq!(first.metric("kinetide_shard_fan_out{").await, 2.0);
    assert_eq!(first.metric("kinetide_fan_out_subscriptions").await, 2.0);
    assert!(first.metric("kinetide_fan_out_events_total").await >= 2.0);
    assert_eq!(first.metric("kinetide_fetch_duration_seconds_count").await, 0.0, "GetRecords is not called");
    assert_eq!(stage.consumer_names().await, [CONSUMER]);

    let dynamodb = stage.aws.dynamodb_url();
    let leases =
        ["leases", "--stream", STREAM, "--failover-time", "3s", "--no-lag", "--dynamodb-endpoint", dynamodb];
    eventually("the leases tell it", || async {
        let told = kinetide(&leases).await;
        told.tells(0, &["w0"]);
        told.out.contains("active, leader, 2 by fan-out").then_some(())
    })
    .await;

    let kinesis = stage.aws.kinesis();
    let shard = kinesis.open_shards(STREAM).unwrap().remove(0);
    kinesis.split(STREAM, &shard).unwrap();
    stage.put(40..80);
    stage.all_delivered().await;

    let second = stage.worker(&by_tls).await;
    stage.put(80..120);
    first.kill().await;
    stage.put(120..160);
    stage.all_delivered().await;
    eventually("the second has all", || async {
        (second.metric("kinetide_fan_out_subscriptions").await == 3.0).then_some(())
    })
    .await;
    second.drain().await;
    stage.exactly_once(160).await;
    assert_eq!(stage.consumer_names().await, [CONSUMER], "it stays until somebody deregisters it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_deregistered_on_purpose_only() {
    let stage = Stage::new(1).await;
    stage.consumers(&["list"]).await.tells(0, &["0 consumers of stream trades", "queues"]);
    stage.deregister(&["--yes"]).await.tells(1, &["has no consumer kinetide-trades", "none"]);
    let worker = stage.worker(&[FAN_OUT]).await;
    stage.put(0..5);
    stage.all_delivered().await;
    stage.consumers(&["list"]).await.tells(0, &["kinetide-trades", "ACTIVE", "1 consumer of"]);

    stage.deregister(&["--yes"]).await.tells(1, &["is not deregistered", "--force"]);
    stage.deregister(&["--dry-run"]).await.tells(1, &["active workers: w0"]);
    stage.deregister(&[]).await.tells(2, &["--yes"]);
    stage
        .deregister(&["--yes", "--application", "kinetide-other"])
        .await
        .tells(1, &["is not known", "--force"]);
    assert_eq!(stage.consumer_names().await, [CONSUMER]);

    // Forced, while it is used: the worker registers another one and goes on.
    stage.deregister(&["--yes", "--force", "--json"]).await.tells(0, &["\"outcome\":\"deregistered\""]);
    stage.put(5..20);
    stage.all_delivered().await;
    assert_eq!(stage.consumer_names().await, [CONSUMER]);
    assert!(worker.log().contains("somebody has deregistered the fan-out consumer"));
    worker.drain().await;
    stage.exactly_once(20).await;

    stage.deregister(&["--dry-run"]).await.tells(0, &["no worker of kinetide-trades is active"]);
    assert_eq!(stage.consumer_names().await, [CONSUMER]);
    stage.deregister(&["--yes"]).await.tells(0, &["consumer kinetide-trades deregistered"]);
    assert_eq!(stage.consumer_names().await, [""; 0]);
}

/// A stream without a free place: `fan-out` does not start, `auto` polls and says why once.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_for_a_consumer_auto_polls() {
    let stage = Stage::new(2).await;
    for number in 0..20 {
        stage.register(&format!("queue-{number}")).await;
    }
    let arguments = stage.arguments(&[FAN_OUT]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let place =
        ["stream trades", "LimitExceededException", "queues", "kinetide consumers list --stream trades"];
    kinetide(&arguments).await.tells(1, &place);

    stage.put(0..30);
    let worker = stage.worker(&[("--retrieval", "auto")]).await;
    stage.all_delivered().await;
    let status = worker.status().await;
    let shards = status["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["retrieval"] == "polling"), "{status:#}");
    assert_eq!(worker.metric("kinetide_shard_fan_out{").await, 0.0);
    let log = worker.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("the stream is polled until")).collect();
    assert!(told.len() == 1 && told[0].contains("LimitExceededException"), "{log}");
    worker.drain().await;
    stage.exactly_once(30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_whether_the_consumer_can_be_used() {
    let stage = Stage::new(1).await;
    let check = async |more: &[(&str, &str)]| {
        let mut arguments = stage.arguments(more);
        arguments[0] = "check".to_owned();
        arguments.push("--json".to_owned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        kinetide(&arguments).await
    };
    let polls = check(&[]).await;
    polls.tells(0, &[]);
    assert!(!polls.out.contains("\"fan-out\""), "{}", polls.out);
    check(&[FAN_OUT])
        .await
        .tells(0, &["consumer kinetide-trades is not registered yet", "RegisterStreamConsumer"]);
    assert_eq!(stage.consumer_names().await, [""; 0], "nothing is changed");
    stage.register("lake").await;
    check(&[FAN_OUT, ("--consumer-name", "lake")]).await.tells(0, &["consumer lake is ACTIVE, and may be"]);
}

/// Servers that are not ours: a worker subscribes, and each record lands once.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a test that needs another server is chosen by a variable")]
async fn other_servers_are_read_by_enhanced_fan_out() {
    for variable in ["KINETIDE_TEST_KINESIS_LOCAL", "KINETIDE_TEST_MINISTACK"] {
        match std::env::var(variable) {
            Ok(url) => reads_from(&url).await,
            Err(_) => println!("SKIPPED: enhanced fan-out of another server, as {variable} names none"),
        }
    }
}

async fn reads_from(url: &str) {
    // Said to both, as the worker does not have the environment of this process.
    let region = "us-east-1";
    let client = Client::new(&sdk_config(Some(url), Some(region)).await);
    let stream = format!("fan-out-{}", wall_clock_us());
    client.create_stream().stream_name(&stream).shard_count(2).send().await.unwrap();
    eventually("the stream is active", || async {
        let summary = client.describe_stream_summary().stream_name(&stream).send().await.unwrap();
        let status = summary.stream_description_summary.unwrap().stream_status;
        (status == StreamStatus::Active).then_some(())
    })
    .await;
    let put = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let record = client.put_record().stream_name(&stream).partition_key(format!("key-{number}"));
            record.data(Blob::new(change(number))).send().await.unwrap();
        }
    };
    put(0..20).await;
    let stage = Stage::new(1).await;
    let from = [FAN_OUT, ("--kinesis-endpoint", url), ("--region", region), ("--stream", &stream)];
    let worker = stage.worker(&from).await;
    put(20..40).await;
    eventually("all have landed", || async { (landed(&stage).len() == 40).then_some(()) }).await;
    let status = worker.status().await;
    let shards = status["shards"].as_array().unwrap();
    assert!(shards.len() == 2 && shards.iter().all(|shard| shard["retrieval"] == "fan-out"), "{status:#}");
    assert_eq!(worker.metric("kinetide_fetch_duration_seconds_count").await, 0.0, "GetRecords is not called");
    worker.drain().await;
    assert_eq!(landed(&stage).into_iter().collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
}
