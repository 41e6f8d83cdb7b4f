//! Workers on the stream of a table: one that is turned off and on again, and each call to it denied, throttled and hung.

use std::sync::Arc;

use kinetide::internals::trial::{Put, Puts, verify};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use serde_json::json;

use super::permissions::gate::{Fault, Gate, Service};
use super::stage::{Stage, Worker};
use super::{command, eventually, finish, kinetide};

const TABLE: &str = "Trades";

/// A table with a stream, and what workers need.
struct TableStage {
    stage: Stage,
    gate: Gate,
    put: usize,
}

impl TableStage {
    async fn new() -> Self {
        let stage = Stage::new(1).await;
        stage.aws.create_table(TABLE, "transaction_id").unwrap();
        let gate = Gate::to(Service::DynamoDbStreams, stage.aws.dynamodb_streams_url()).await;
        Self { stage, gate, put: 0 }
    }

    /// Of a worker that reads the table, through the gate.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.stage.arguments(&[
            ("--source", "dynamodb-streams"),
            ("--table", TABLE),
            ("--transform", "dynamodb-cdc"),
            ("--dynamodb-streams-endpoint", &self.gate.endpoint.url),
        ]);
        let stream = arguments.iter().position(|argument| argument == "--stream").unwrap();
        arguments.drain(stream..stream + 2);
        arguments
    }

    async fn worker(&self) -> Worker {
        let worker = self.stage.started_with(self.arguments()).await;
        ready(&worker).await;
        worker
    }

    /// Changes as many items.
    fn put(&mut self, count: usize) {
        for number in self.put..self.put + count {
            let item = json!({ "transaction_id": { "S": format!("t-{number}") }, "n": { "N": "1" } });
            let request = serde_json::from_value(json!({ "TableName": TABLE, "Item": item })).unwrap();
            self.stage.aws.database().put_item(request).unwrap();
        }
        self.put += count;
    }

    fn turn(&self, on: bool) {
        let specification = if on {
            json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" })
        } else {
            json!({ "StreamEnabled": false })
        };
        let request = json!({ "TableName": TABLE, "StreamSpecification": specification });
        let request = serde_json::from_value(request).unwrap();
        self.stage.aws.database().update_table(request).unwrap();
    }

    /// Waits until each change that is in a stream of the table is in the lake, once: so many.
    async fn exactly_once(&self, changes: u64) {
        eventually("every change is in the lake", || async {
            let mut puts = Puts::default();
            let visited = self.stage.aws.streams().visit(
                TABLE,
                |_| 0,
                |shard, change| {
                    let data = change.json.as_bytes();
                    puts.add(shard, Put::new(shard, &change.sequence_number, data, 0).unwrap()).unwrap();
                },
            );
            visited.unwrap();
            let store = LocalFileSystem::new_with_prefix(self.stage.lake()).ok()?;
            let check = verify(Arc::new(store), &Path::default(), puts, None, |_, _| {}).await.ok()?;
            assert_eq!((check.records_put, check.duplicated), (changes, 0), "{check:#?}");
            check.ok().then_some(())
        })
        .await;
    }

    /// What `kinetide leases` says.
    async fn leases(&self) -> String {
        let (streams, dynamodb) = (self.stage.aws.dynamodb_streams_url(), self.stage.aws.dynamodb_url());
        let endpoints = ["--dynamodb-streams-endpoint", streams, "--dynamodb-endpoint", dynamodb];
        let named = ["leases", "--table", TABLE, "--failover-time", "3s"];
        let ran = kinetide(&[&named[..], &endpoints].concat()).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

async fn ready(worker: &Worker) {
    eventually("the worker is ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_off_shows_until_it_is_on_again() {
    let mut table = TableStage::new().await;
    table.put(20);
    let worker = table.worker().await;
    let off = async |expected: f64| {
        eventually("status says whether the stream is on", || async {
            let status = worker.status().await;
            let [stream] = status["table_streams"].as_array()?.as_slice() else { return None };
            let seen = (worker.metric("kinetide_stream_off{").await, stream["on"] == false);
            (seen == (expected, expected > 0.0)).then_some(stream.clone())
        })
        .await
    };
    let stream = off(0.0).await;
    assert!(stream["reason"].is_null() && stream["off_since"].is_null(), "{stream}");
    table.exactly_once(20).await;
    assert!(!table.leases().await.contains("turned off"));

    table.turn(false);
    let stream = off(1.0).await;
    assert!(stream["reason"].as_str().unwrap().contains("turned off"), "{stream}");
    assert!(stream["off_since"].as_str().unwrap().ends_with('Z'), "{stream}");
    let note = "the stream of table Trades is turned off";
    assert!(table.leases().await.contains(note), "{}", table.leases().await);
    table.put(5);

    table.turn(true);
    off(0.0).await;
    table.put(20);
    // Changes made meanwhile are in no stream.
    table.exactly_once(40).await;
    assert!(!table.leases().await.contains("turned off"));
    worker.drain().await;
}

/// Where a fault of a call shows, besides that the worker is not ready.
#[derive(Clone, Copy)]
enum Shows {
    /// As trouble with this call.
    Coordinator(&'static str),
    /// At its shards.
    Shards,
}

async fn in_mid_run(operation: &'static str, shows: Shows) {
    let mut table = TableStage::new().await;
    let worker = table.worker().await;
    let mut put = 0;
    for (fault, words) in [
        (Fault::Denied, &["AccessDeniedException", "allow it in the role"][..]),
        (Fault::Throttled, &["hrottl"]),
        (Fault::Hung, &["no response"]),
    ] {
        table.gate.set(operation, Some(fault));
        // Readers ask for iterators of new shards only.
        table.stage.aws.streams().rotate(TABLE);
        table.put(10);
        put += 10;
        let what = format!("{operation} {fault:?} is seen");
        eventually(&what, || async {
            let (code, body) = worker.get("/readyz").await;
            assert_eq!(worker.get("/healthz").await.0, 200, "{what}: a restart mends nothing");
            let named = match shows {
                Shows::Coordinator(call) => body.contains(&format!("not ready: {call} (")),
                Shows::Shards => body.contains("stuck: shardId-"),
            };
            (code == 503 && named && words.iter().all(|word| body.contains(word))).then_some(())
        })
        .await;
        table.gate.set(operation, None);
        table.exactly_once(put).await;
        ready(&worker).await;
    }
    assert!(!worker.log().contains("panicked"), "{}", worker.log());
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_to_the_stream_of_a_table_that_fails_is_seen_and_loses_nothing() {
    tokio::join!(
        in_mid_run("DescribeStream", Shows::Coordinator("DescribeStream")),
        in_mid_run("ListStreams", Shows::Coordinator("ListStreams")),
        in_mid_run("GetShardIterator", Shows::Shards),
        in_mid_run("GetRecords", Shows::Shards),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_needs_of_the_stream_of_a_table_is_said() {
    for operation in ["ListStreams", "DescribeStream"] {
        let table = TableStage::new().await;
        table.gate.set(operation, Some(Fault::Denied));
        let arguments = table.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = finish(command(&arguments).spawn().unwrap()).await;
        ran.says(1, &["stream of table/Trades", "AccessDeniedException", "allow it in the role"]);
    }
}
