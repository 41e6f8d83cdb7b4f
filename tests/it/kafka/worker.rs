//! Workers as processes: every committed record of a topic lands once, whatever is killed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use kinetide::internals::aws::sdk_config;
use kinetide::internals::lease::LeaseTable;
use kinetide::internals::lease::dynamodb::DynamoDbLeaseTable;
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::Checkpoint;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::broker::{Brokers, Peer, Sent};

const TOPIC: &str = "lands";
const PARTITIONS: i32 = 3;
const ROUNDS: i32 = 24;
const LONGEST: Duration = Duration::from_secs(180);

pub(super) struct Stage {
    topic: &'static str,
    aws: LocalAws,
    dir: TempDir,
    bootstrap: String,
    leases: DynamoDbLeaseTable,
}

impl Stage {
    pub(super) async fn new(brokers: &Brokers, topic: &'static str) -> Self {
        let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
        let sdk = sdk_config(Some(aws.dynamodb_url()), Some(aws.region())).await;
        let leases =
            DynamoDbLeaseTable::new(aws_sdk_dynamodb::Client::new(&sdk), format!("kinetide-{topic}"));
        Self { topic, aws, dir: TempDir::new().unwrap(), bootstrap: brokers.bootstrap(), leases }
    }

    pub(super) fn lake(&self) -> PathBuf {
        self.dir.path().join("lake")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
        command
            .args(arguments)
            .args(["--kafka-bootstrap", &self.bootstrap, "--topic", self.topic])
            .args(["--dynamodb-endpoint", self.aws.dynamodb_url(), "--region", self.aws.region()])
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| ["PATH", "TMPDIR"].contains(&name.as_str())))
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(super) fn worker(&self, id: &str) -> Child {
        self.worker_with(id, &[])
    }

    fn worker_with(&self, id: &str, more: &[&str]) -> Child {
        let lake = self.lake().display().to_string();
        let log = std::fs::File::create(self.log(id)).unwrap();
        let arguments =
            ["run", "--source", "kafka", "--transform", "json", "--lake", &lake, "--worker-id", id];
        let mut command = self.command(&arguments);
        command.args(["--batch-age", "400ms", "--failover-time", "3s", "--lease-scan-interval", "200ms"]);
        command.args(["--shard-sync-interval", "1s", "--poll-idle-max", "200ms", "--http", "127.0.0.1:0"]);
        command.args(more).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    pub(super) fn logs(&self, ids: &[&str]) -> String {
        ids.iter().map(|id| std::fs::read_to_string(self.log(id)).unwrap_or_default()).collect()
    }

    /// The checkpoint of each partition that has one.
    pub(super) async fn checkpoints(&self) -> BTreeMap<i32, i64> {
        let rows = self.leases.snapshot().await.map(|table| table.leases).unwrap_or_default();
        let of = |key: &str, checkpoint: &Checkpoint| {
            let offset = checkpoint.position()?.sequence.as_str().parse().ok()?;
            Some((key.rsplit(':').next()?.parse().ok()?, offset))
        };
        rows.iter().filter_map(|row| of(row.key.as_str(), &row.checkpoint)).collect()
    }

    /// Waits until the last committed record of each partition is at or below its checkpoint.
    pub(super) async fn delivered(&self, last: &BTreeMap<i32, i64>, ids: &[&str]) {
        let since = Instant::now();
        loop {
            let done = self.checkpoints().await;
            if last.iter().all(|(partition, offset)| done.get(partition).is_some_and(|done| done >= offset)) {
                return;
            }
            assert!(since.elapsed() < LONGEST, "{done:?} of {last:?}\n{}", self.logs(ids));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a command printed, where it ended well.
    pub(super) async fn told(&self, arguments: &[&str]) -> String {
        let ran = self.command(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{arguments:?}: {said}");
        String::from_utf8(ran.stdout).unwrap()
    }
}

fn objects(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            objects(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "gz") {
            found.push(path);
        }
    }
}

/// Every row of a folder of the lake.
pub(super) fn rows(folder: &Path) -> Vec<Value> {
    let mut files = Vec::new();
    if folder.exists() {
        objects(folder, &mut files);
    }
    let mut rows = Vec::new();
    for file in files {
        let mut text = String::new();
        let bytes = std::fs::read(file).unwrap();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        rows.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    rows
}

pub(super) async fn lands_exactly_once(brokers: &mut Brokers, peer: &Arc<Peer>) {
    peer.create(TOPIC, PARTITIONS, json!({}), 1);
    let stage = Stage::new(brokers, TOPIC).await;
    let mut first = stage.worker("w1");
    let mut second = stage.worker("w2");
    let mut number = 0;
    for round in 0..ROUNDS {
        let values: Vec<String> = (0..120).map(|n| json!({"n": number + n}).to_string()).collect();
        number += 120;
        let record = |(value, n): (&'_ String, i32)| -> (i32, Vec<u8>) {
            (n % PARTITIONS, value.clone().into_bytes())
        };
        let owned: Vec<(i32, Vec<u8>)> = values.iter().zip(0..).map(record).collect();
        let mut records: Vec<Sent<'_>> = owned
            .iter()
            .map(|(partition, value)| (*partition, Some(&b"key"[..]), Some(&value[..]), 0))
            .collect();
        match round % 4 {
            1 => drop(peer.transaction(TOPIC, "t", &records, "commit")),
            2 => drop(peer.transaction(TOPIC, "t", &records, "abort")),
            _ => {
                // No row can be made of these: a tombstone, and bytes that are no JSON.
                records.extend([(0, Some(&b"key"[..]), None, 0), (1, None, Some(&b"\xff"[..]), 0)]);
                drop(peer.produce(TOPIC, &records, ["none", "zstd"][usize::from(round % 4 == 3)]));
            }
        }
        match round {
            8 => {
                first.kill().await.unwrap();
                first = stage.worker("w3");
            }
            14 => {
                brokers.kill(0);
                tokio::time::sleep(Duration::from_secs(1)).await;
                brokers.run(0);
                brokers.are_there().await;
            }
            18 => drop(peer.ask(&json!(["partitions", TOPIC, PARTITIONS + 1])).unwrap()),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    peer.produce(TOPIC, &[(PARTITIONS, None, Some(br#"{"n": -1}"#), 0)], "none");
    let read: BTreeMap<i32, _> =
        (0..=PARTITIONS).map(|partition| (partition, peer.read(TOPIC, partition))).collect();
    let last = read.iter().map(|(partition, read)| (*partition, read.last().unwrap().0)).collect();
    stage.delivered(&last, &["w1", "w2", "w3"]).await;

    // What people see.
    let shown: Value =
        serde_json::from_str(&stage.told(&["leases", "--json", "--failover-time", "3s"]).await).unwrap();
    let shown = shown["leases"].as_array().unwrap();
    let keys: Vec<&str> = shown.iter().map(|lease| lease["lease"].as_str().unwrap_or_default()).collect();
    assert!(
        keys.len() == 4 && keys.iter().all(|key| key.starts_with("kafka:kinetide-TestClusterAA:")),
        "{shown:#?}"
    );
    let lake = stage.lake().display().to_string();
    let check = [
        "check",
        "--json",
        "--source",
        "kafka",
        "--transform",
        "json",
        "--lake",
        &lake,
        "--http",
        "127.0.0.1:0",
    ];
    let checked: Value = serde_json::from_str(&stage.told(&check).await).unwrap();
    let items = checked["items"].as_array().unwrap().iter();
    let about: Vec<_> = items.filter(|item| item["about"] == format!("stream topic/{TOPIC}")).collect();
    let found: Vec<_> = about.iter().map(|item| (item["item"].as_str().unwrap(), &item["verdict"])).collect();
    let ok = json!("ok");
    assert_eq!(found, [("endpoint", &ok), ("stream", &ok), ("shards", &ok), ("reading", &ok)], "{about:#?}");

    for worker in [&mut first, &mut second] {
        let pid = i32::try_from(worker.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), worker.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(0), "{}", stage.logs(&["w2", "w3"]));
    }
    let mut landed = BTreeMap::new();
    for row in rows(&stage.lake().join("landing").join(TOPIC)) {
        let place = place(&row["shard_id"], &row["sequence_number"]);
        assert_eq!(landed.insert(place, row["n"].to_string()), None, "twice: {place:?}");
    }
    let mut letters = BTreeMap::new();
    for letter in rows(&stage.lake().join("errors")) {
        let place = place(&letter["shardId"], &letter["sequenceNumber"]);
        assert_eq!(letter["source"], "kafka");
        let raw = base64_simd::STANDARD.decode_to_vec(letter["rawData"].as_str().unwrap()).unwrap();
        assert_eq!(letters.insert(place, raw), None, "twice: {place:?}");
    }
    let (mut good, mut bad) = (BTreeMap::new(), BTreeMap::new());
    for (partition, records) in read {
        for (offset, _, value, _) in records {
            let document = value.as_deref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
            match document {
                Some(document) => drop(good.insert((partition, offset), document["n"].to_string())),
                None => drop(bad.insert((partition, offset), value.unwrap_or_default())),
            }
        }
    }
    let differ = |a: usize, b: usize| format!("{a} landed, {b} written\n{}", stage.logs(&["w1", "w2", "w3"]));
    assert!(landed == good, "{}", differ(landed.len(), good.len()));
    assert!(letters == bad && bad.len() == 24, "{}", differ(letters.len(), bad.len()));
    eprintln!("{} rows and {} dead letters landed, each once", landed.len(), letters.len());
}

/// A topic is deleted while a worker reads it, and created again: the worker reads the new one, from its beginning also where
/// another initial position is set.
pub(super) async fn a_topic_is_made_anew(brokers: &Brokers, peer: &Arc<Peer>) {
    const ANEW: &str = "made-anew";
    let stage = Stage::new(brokers, ANEW).await;
    let produce = |numbers: std::ops::Range<i32>, partitions: i32| {
        let values: Vec<String> = numbers.map(|n| json!({"n": n}).to_string()).collect();
        let records =
            values.iter().zip(0..).map(|(value, n)| (n % partitions, None, Some(value.as_bytes()), 0));
        peer.produce(ANEW, &records.collect::<Vec<Sent<'_>>>(), "none");
    };
    let landed = async |count: usize| {
        let since = Instant::now();
        loop {
            let rows = rows(&stage.lake().join("landing").join(ANEW));
            let mut numbers: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
            numbers.sort_unstable();
            if numbers.len() >= count {
                return numbers;
            }
            assert!(since.elapsed() < LONGEST, "{numbers:?}\n{}", stage.logs(&["w"]));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let leases = async || stage.leases.snapshot().await.map_or(0, |table| table.leases.len());
    peer.create(ANEW, 2, json!({}), 1);
    let mut worker = stage.worker_with("w", &["--initial-position", "latest"]);
    let since = Instant::now();
    while leases().await < 2 {
        assert!(since.elapsed() < LONGEST, "{}", stage.logs(&["w"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    produce(0..10, 2);
    assert_eq!(landed(10).await, (0..10).collect::<Vec<_>>());
    peer.ask(&json!(["delete", ANEW])).unwrap();
    peer.create(ANEW, 2, json!({}), 1);
    produce(10..40, 2);
    assert_eq!(landed(40).await, (0..40).collect::<Vec<_>>());
    assert_eq!(leases().await, 4, "those of the former topic stay");
    assert!(stage.logs(&["w"]).contains("deleted and created again"), "{}", stage.logs(&["w"]));
    worker.kill().await.unwrap();
}

/// Partition and offset.
fn place(shard: &Value, sequence: &Value) -> (i32, i64) {
    let (_, partition) = shard.as_str().unwrap().rsplit_once('-').unwrap();
    (partition.parse().unwrap(), sequence.as_str().unwrap().parse().unwrap())
}
