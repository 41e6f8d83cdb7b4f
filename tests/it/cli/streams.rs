//! Several streams in one application, as processes: their shards have equal ids.

use std::sync::Arc;

use kinetide::internals::aws::sdk_config;
use kinetide::internals::lease::dynamodb::DynamoDbLeaseTable;
use kinetide::internals::lease::{Lease, LeaseTable};
use kinetide::internals::shard::Checkpoint;
use kinetide::internals::trial::{LakeCheck, verify};
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::stage::{STREAM, Stage, Worker, change};
use super::{command, eventually};

const APPLICATION: &str = "several";

/// A stage with these streams besides the usual one, and a settings file.
struct Several {
    stage: Stage,
    leases: DynamoDbLeaseTable,
}

impl Several {
    async fn new(others: &[&str]) -> Self {
        let stage = Stage::new(2).await;
        for other in others {
            stage.aws.kinesis().create_stream(other, 2).unwrap();
        }
        let sdk = sdk_config(Some(stage.aws.dynamodb_url()), Some(stage.aws.region())).await;
        let leases = DynamoDbLeaseTable::new(aws_sdk_dynamodb::Client::new(&sdk), APPLICATION);
        Self { stage, leases }
    }

    /// Writes the settings file, with a folder for each stream.
    fn name(&self, streams: &[&str]) {
        let table = |stream: &&str| {
            format!(
                "[[streams]]\nstream = \"{stream}\"\nlanding = \"{stream}/landing/rows\"\nerrors = \"{stream}/errors\"\n\n"
            )
        };
        self.write(&streams.iter().map(table).collect::<String>());
    }

    fn write(&self, settings: &str) {
        // As editors do: never half a file.
        let (file, new) = (self.settings(), self.stage.dir.path().join("new.toml"));
        std::fs::write(&new, settings).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    fn settings(&self) -> String {
        self.stage.dir.path().join("settings.toml").display().to_string()
    }

    fn arguments(&self) -> Vec<String> {
        let (settings, more) = (self.settings(), [("--application", APPLICATION)]);
        let mut all = self.stage.arguments(&[&more[..], &[("--settings", settings.as_str())]].concat());
        let at = all.iter().position(|argument| argument == "--stream").unwrap();
        all.drain(at..at + 2);
        all
    }

    async fn worker(&self) -> Worker {
        let worker = self.stage.started_with(self.arguments()).await;
        eventually("the worker is ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) })
            .await;
        worker
    }

    fn put(&self, stream: &str, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.stage.aws.kinesis().put(stream, &format!("key-{number}"), &change(number)).unwrap();
        }
    }

    async fn rows(&self) -> Vec<Lease> {
        self.leases.snapshot().await.unwrap_or_default().leases
    }

    async fn delivered(&self, stream: &str) {
        let kinesis = self.stage.aws.kinesis();
        eventually("every record of the stream is delivered", || async {
            let rows = self.rows().await;
            let of = |row: &&Lease| row.key.stream().is_some_and(|of| of.name() == stream);
            kinesis
                .shards(stream)
                .unwrap()
                .into_iter()
                .all(|(shard, put)| {
                    let lease = rows.iter().filter(of).find(|row| *row.key.shard() == shard);
                    match lease.map(|lease| &lease.checkpoint) {
                        Some(Checkpoint::At(at)) => {
                            kinesis.count_up_to(stream, &shard, &at.sequence).unwrap() == put
                        }
                        Some(_) => put == 0,
                        None => false,
                    }
                })
                .then_some(())
        })
        .await;
    }

    async fn check(&self, stream: &str) -> LakeCheck {
        let store = LocalFileSystem::new_with_prefix(self.stage.lake()).unwrap();
        verify(Arc::new(store), &Path::from(stream), self.stage.puts(stream), None, |_, _| {}).await.unwrap()
    }

    async fn exactly_once(&self, stream: &str, records: u64) {
        let check = self.check(stream).await;
        assert!(check.ok() && check.records_put == records, "{stream}: {check:#?}");
    }
}

#[tokio::test]
async fn streams_whose_shards_have_equal_ids_land_each_for_itself() {
    let several = Several::new(&["orders"]).await;
    several.name(&[STREAM, "orders"]);
    several.put(STREAM, 0..200);
    several.put("orders", 1_000..1_300);
    let workers = [several.worker().await, several.worker().await];
    several.delivered(STREAM).await;
    several.delivered("orders").await;

    let rows = several.rows().await;
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let stream = row.key.stream().expect("each key names its stream");
        let key = format!("{stream}:{}", row.key.shard());
        assert!(stream.is_whole() && row.key.as_str() == key, "{}", row.key);
    }
    // Both names are told apart by who reads them.
    let mut seen = Vec::new();
    for worker in &workers {
        let status = worker.status().await;
        assert_eq!(status["streams"], serde_json::json!([STREAM, "orders"]));
        for shard in status["shards"].as_array().unwrap() {
            let text = |member: &str| shard[member].as_str().unwrap().to_owned();
            seen.push((text("stream"), text("shard")));
        }
    }
    seen.sort();
    let ids = ["shardId-000000000000", "shardId-000000000001"];
    let all =
        ["orders", STREAM].iter().flat_map(|stream| ids.map(|id| ((*stream).to_owned(), id.to_owned())));
    assert_eq!(seen, all.collect::<Vec<_>>());
    let metrics = workers[0].get("/metrics").await.1;
    assert!(metrics.contains("kinetide_delivered_age_seconds{stream=\""), "{metrics}");

    // One dies, and the other reads on, both streams.
    several.put(STREAM, 200..300);
    let [dies, other] = workers;
    dies.kill().await;
    several.put("orders", 1_300..1_400);
    several.delivered(STREAM).await;
    several.delivered("orders").await;
    other.drain().await;
    several.exactly_once(STREAM, 300).await;
    several.exactly_once("orders", 400).await;
}

#[tokio::test]
async fn the_settings_file_adds_and_removes_streams_while_it_runs() {
    let several = Several::new(&["orders"]).await;
    several.name(&[STREAM]);
    several.put(STREAM, 0..50);
    several.put("orders", 1_000..1_050);
    let worker = several.worker().await;
    several.delivered(STREAM).await;
    assert!(several.rows().await.iter().all(|row| row.key.stream().unwrap().name() == STREAM));

    // Nonsense changes nothing, and is said.
    several.write("[[streams]]\nstraem = \"orders\"\n");
    let problem = eventually("the problem is shown", || async {
        worker.status().await["settings_problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("straem") && problem.contains("of before stay"), "{problem}");
    several.put(STREAM, 50..100);
    several.delivered(STREAM).await;

    several.name(&[STREAM, "orders"]);
    several.delivered("orders").await;
    assert!(worker.status().await["settings_problem"].is_null());
    several.exactly_once("orders", 50).await;

    several.name(&["orders"]);
    eventually("the stream is given up", || async {
        let status = worker.status().await;
        let shards = status["shards"].as_array().unwrap();
        shards.iter().all(|shard| shard["stream"] == "orders").then_some(())
    })
    .await;
    eventually("its leases are nobody's", || async {
        let rows = several.rows().await;
        let mut of = rows.iter().filter(|row| row.key.stream().unwrap().name() == STREAM);
        of.all(|row| row.actual_owner().is_none()).then_some(())
    })
    .await;
    several.put(STREAM, 100..150);
    several.put("orders", 1_050..1_100);
    several.delivered("orders").await;

    // And back again: it goes on where it was.
    several.name(&[STREAM, "orders"]);
    several.delivered(STREAM).await;
    worker.drain().await;
    several.exactly_once(STREAM, 150).await;
    several.exactly_once("orders", 100).await;
}

#[tokio::test]
async fn a_stream_that_is_not_there_keeps_only_itself_from_being_read() {
    let several = Several::new(&[]).await;
    several.name(&[STREAM, "late"]);
    several.put(STREAM, 0..100);
    let worker = several.worker().await;
    several.delivered(STREAM).await;
    let ready = eventually("the stream that is not there is named", || async {
        let (code, text) = worker.get("/readyz").await;
        (code == 200 && text.contains("stream late")).then_some(text)
    })
    .await;
    assert!(ready.contains("not found"), "{ready}");
    several.stage.aws.kinesis().create_stream("late", 2).unwrap();
    several.put("late", 1_000..1_100);
    several.delivered("late").await;
    eventually("nothing speaks against it", || async {
        (worker.get("/readyz").await.1 == "ready\n").then_some(())
    })
    .await;

    // One that is deleted stops, and the other does not.
    several.stage.drop_named_stream("late").await;
    several.put(STREAM, 100..200);
    several.delivered(STREAM).await;
    worker.drain().await;
    several.exactly_once(STREAM, 200).await;
}

#[tokio::test]
async fn leases_of_the_other_form_are_converted_and_not_taken_over() {
    let several = Several::new(&[]).await;
    several.name(&[STREAM]);
    let folders = [("--landing", "trades/landing/rows"), ("--errors", "trades/errors")];
    let single = [&[("--application", APPLICATION)], &folders[..]].concat();
    let single = several.stage.worker(&single).await;
    several.put(STREAM, 0..10);
    eventually("it has leases", || async { (several.rows().await.len() == 2).then_some(()) }).await;
    let convert = async |to: &str, more: &[&str]| {
        let (kinesis, dynamodb) = (several.stage.aws.kinesis_url(), several.stage.aws.dynamodb_url());
        let fleet = ["--application", APPLICATION, "--stream", STREAM, "--failover-time", "3s"];
        let endpoints = ["--kinesis-endpoint", kinesis, "--dynamodb-endpoint", dynamodb];
        let args = [&["leases", "convert", "--to", to], more, &fleet, &endpoints].concat();
        let ran = command(&args).output().await.unwrap();
        (ran.status.code(), String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
    };
    let (code, said) = convert("multi-stream", &["--yes"]).await;
    assert!(code == Some(1) && said.contains("stop them first"), "{said}");
    single.drain().await;

    let arguments = several.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let refused = command(&arguments).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("an application of one stream") && said.contains("leases convert"), "{said}");
    let before = several.rows().await;
    let (code, said) = convert("multi-stream", &["--dry-run"]).await;
    assert!(code == Some(0) && said.contains(":shardId-000000000000"), "{said}");
    assert_eq!(several.rows().await, before);

    let (code, said) = convert("multi-stream", &["--yes"]).await;
    assert_eq!((code, several.rows().await.len()), (Some(0), 2), "{said}");
    several.put(STREAM, 10..20);
    let worker = several.worker().await;
    several.delivered(STREAM).await;
    worker.drain().await;

    // And back.
    let (code, said) = convert("single-stream", &["--yes", "--json"]).await;
    assert!(code == Some(0) && said.contains("\"outcome\":\"written\""), "{said}");
    several.put(STREAM, 20..30);
    let single = [&[("--application", APPLICATION)], &folders[..]].concat();
    let single = several.stage.worker(&single).await;
    eventually("every record is delivered", || async {
        let delivered = several.check(STREAM).await;
        (delivered.rows_delivered + delivered.dead_letters >= 30).then_some(())
    })
    .await;
    single.drain().await;
    several.exactly_once(STREAM, 30).await;
}
