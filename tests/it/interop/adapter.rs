//! The same for the stream of a table: a worker on AWS's own DynamoDB Streams adapter for the library, and ours.
//!
//! Needs the consumer of `tests/interop/adapter`, and DynamoDB Local for the tables of the application; the stream is that
//! of the embedded server, as the adapter refuses the ARNs of DynamoDB Local.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kinetide::internals::local::{LocalAws, LocalSettings};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::verify::{self, Place};
use super::worker::{Kind, Worker};
use super::{given, java};

const TABLE: &str = "Handed";
const APPLICATION: &str = "kinetide-adapter";
/// The library makes its tables, waits for other workers, and takes a silent one for dead.
const SETTLED: Duration = Duration::from_secs(240);

struct Stage {
    aws: LocalAws,
    consumer: PathBuf,
    dynamodb: String,
    application: String,
    folder: TempDir,
    put: usize,
}

impl Stage {
    fn put(&mut self, count: usize) {
        for n in self.put..self.put + count {
            let item = json!({ "id": { "S": (n % 20).to_string() }, "n": { "N": n.to_string() } });
            let request = serde_json::from_value(json!({ "TableName": TABLE, "Item": item })).unwrap();
            self.aws.database().put_item(request).unwrap();
        }
        self.put += count;
    }

    fn all_put(&self) -> BTreeSet<Place> {
        let mut all = BTreeSet::new();
        let visited = self.aws.streams().visit(
            TABLE,
            |_| 0,
            |shard, change| {
                all.insert(Place::new(shard, &change.sequence_number));
            },
        );
        visited.unwrap();
        assert_eq!(all.len(), self.put);
        all
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn given_to_java(&self) -> Vec<Place> {
        ["java-1", "java-2"].iter().flat_map(|id| java::processed(self.dir(), id)).collect()
    }

    fn java(&self, id: &str) -> Worker {
        let arn = self.aws.streams().arn(TABLE).unwrap();
        let file = self.dir().join(format!("{id}.records"));
        let classes = self.consumer.join("classes");
        let jars = self.consumer.join("jars").join("*");
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg("-cp").arg(format!("{}:{}", classes.display(), jars.display()));
        command.args(["kinetide.interop.Adapter", &arn, &self.application, id, &self.dynamodb]);
        command.arg(self.aws.dynamodb_streams_url()).arg(file);
        Worker::start(Kind::Java, id, command, self.dir())
    }

    fn ours(&self) -> Worker {
        let lake = self.dir().join("lake");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
        command.args(["run", "--source", "dynamodb-streams", "--table", TABLE]);
        command.args(["--application", &self.application, "--lake", lake.to_str().unwrap()]);
        command.args(["--dynamodb-endpoint", &self.dynamodb, "--region", "us-east-1"]);
        command.args(["--dynamodb-streams-endpoint", self.aws.dynamodb_streams_url()]);
        command.args(["--batch-age", "1s", "--failover-time", "5s", "--http", "127.0.0.1:0"]);
        // The Java workers cannot say that they read it.
        command.args(["--pending-format", "2"]);
        Worker::start(Kind::Ours, "ours", command, self.dir())
    }

    /// Waits until everything that was put is with one of the two.
    async fn all_done(&self, worker: &mut Worker) {
        let done = async {
            loop {
                worker.assert_running();
                let lake = verify::lake(&self.dir().join("lake"));
                if verify::judge(&self.all_put(), &self.given_to_java(), &lake).is_ok() {
                    return;
                }
                sleep(Duration::from_millis(500)).await;
            }
        };
        let late = timeout(SETTLED, done).await;
        assert!(late.is_ok(), "not all is read in time:\n{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_adapter_and_ours_hand_a_table_back_and_forth() {
    let Some(consumer) = given("KINETIDE_TEST_JAVA_ADAPTER", "folder of the built consumer on the adapter")
    else {
        return;
    };
    let Some(dynamodb) = given("KINETIDE_TEST_DYNAMODB_LOCAL", "endpoint") else { return };
    let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
    aws.create_table(TABLE, "id").unwrap();
    let application = format!("{APPLICATION}-{}", uuid::Uuid::new_v4().simple());
    let folder = TempDir::new().unwrap();
    let consumer = PathBuf::from(consumer);
    let mut stage = Stage { aws, consumer, dynamodb, application, folder, put: 0 };
    stage.put(50);
    let mut first = stage.java("java-1");
    stage.all_done(&mut first).await;
    first.stop().await;

    // Ours goes on where it stopped, to the end of the shard and into its child.
    stage.put(50);
    assert_eq!(stage.aws.streams().rotate(TABLE).len(), 1);
    stage.put(50);
    let mut ours = stage.ours();
    stage.all_done(&mut ours).await;
    ours.stop().await;
    let lake = verify::lake(&stage.dir().join("lake"));
    assert_eq!((lake.len(), stage.given_to_java().len()), (100, 50), "neither reads what the other has");

    // And the adapter in the child, where ours stopped.
    stage.put(50);
    let mut second = stage.java("java-2");
    stage.all_done(&mut second).await;
    second.stop().await;
    let lake = verify::lake(&stage.dir().join("lake"));
    let verdict = verify::judge(&stage.all_put(), &stage.given_to_java(), &lake).unwrap();
    assert_eq!((verdict.put, verdict.java, verdict.ours, verdict.replayed), (200, 100, 100, 0));
}
