//! The examples as processes, against an AWS in this process: killed in the middle, and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::ShardId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const STREAM: &str = "trades";

struct Stage {
    aws: LocalAws,
    dir: TempDir,
    put: usize,
}

impl Stage {
    async fn new() -> Self {
        let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
        aws.kinesis().create_stream(STREAM, 2).unwrap();
        Self { aws, dir: TempDir::new().unwrap(), put: 0 }
    }

    /// Puts records of the words `FIRST SECOND`, over all shards.
    fn put(&mut self, records: usize) {
        for number in self.put..self.put + records {
            let data = format!("first-{number} second-{number}");
            self.aws.kinesis().put(STREAM, &format!("key-{number}"), data.as_bytes()).unwrap();
        }
        self.put += records;
    }

    fn split(&self) {
        let (open, _) = self.aws.kinesis().shards(STREAM).unwrap().swap_remove(0);
        self.aws.kinesis().split(STREAM, &open).unwrap();
    }

    /// Starts an example. What it prints goes to a file of its own.
    fn start(&self, example: &str, lake: Option<&Path>) -> (Child, PathBuf) {
        let binary = std::env::current_exe().unwrap();
        let binary = binary.ancestors().nth(2).unwrap().join("examples").join(example);
        assert!(
            binary.exists(),
            "{} is missing: `cargo test` builds it, or `cargo build --examples`",
            binary.display()
        );
        let out =
            self.dir.path().join(format!("{}.out", std::fs::read_dir(self.dir.path()).unwrap().count()));
        let child = Command::new(binary)
            .args(["an-example", STREAM])
            .args(lake)
            .env_clear()
            .env("AWS_REGION", self.aws.region())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL_KINESIS", self.aws.kinesis_url())
            .env("AWS_ENDPOINT_URL_DYNAMODB", self.aws.dynamodb_url())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        (child, out)
    }

    /// The texts of all records, shard by shard, by sequence number.
    fn records(&self) -> BTreeMap<(String, String), String> {
        let mut records = BTreeMap::new();
        let visit = |shard: &ShardId, sequence: &str, data: &[u8]| {
            let text = String::from_utf8(base64_simd::STANDARD.decode_to_vec(data).unwrap()).unwrap();
            records.insert((shard.to_string(), sequence.to_owned()), text);
        };
        let mut visit = visit;
        let kinesis = self.aws.kinesis();
        kinesis
            .visit(
                STREAM,
                |_| 0,
                |shard, record| visit(shard, record.sequence_number.as_str(), &record.data[..]),
            )
            .unwrap();
        assert_eq!(records.len(), self.put);
        records
    }
}

async fn signal(child: &mut Child, signal: Signal) -> Option<i32> {
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), signal).unwrap();
    timeout(Duration::from_secs(60), child.wait()).await.expect("the example ends").unwrap().code()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Shard, sequence number, index and word of each row in the lake.
fn rows(folder: &Path) -> Vec<(String, String, u64, String)> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rows.extend(self::rows(&path));
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        rows.extend(text.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("shard_id"), text("sequence_number"), row["index"].as_u64().unwrap(), text("word"))
        }));
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_transform_lands_each_word_once_though_it_is_killed() {
    let mut stage = Stage::new().await;
    let lake = stage.dir.path().join("lake");
    let landing = lake.join("landing").join(STREAM);
    stage.put(500);
    let (mut first, _) = stage.start("custom_transform", Some(&lake));
    until("the first rows", || !rows(&landing).is_empty()).await;
    stage.put(500);
    // More is read, or under way, or half of it landed.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(signal(&mut first, Signal::SIGKILL).await, None);
    stage.split();
    stage.put(500);
    let (mut second, _) = stage.start("custom_transform", Some(&lake));
    until("the rest", || rows(&landing).len() >= 2 * 1500).await;
    assert_eq!(signal(&mut second, Signal::SIGTERM).await, Some(0));
    let mut expected = Vec::new();
    for ((shard, sequence), text) in stage.records() {
        let words = text.split(' ').zip(0..);
        expected.extend(words.map(|(word, index)| (shard.clone(), sequence.clone(), index, word.to_owned())));
    }
    let mut landed = rows(&landing);
    landed.sort();
    expected.sort();
    assert!(landed == expected, "{} rows, {} expected", landed.len(), expected.len());
    assert!(!lake.join("errors").exists(), "no dead letters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_processor_sees_every_record_in_order_and_children_after_their_parents() {
    let mut stage = Stage::new().await;
    stage.put(500);
    let (mut first, said_first) = stage.start("record_processor", None);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let printed = |path: &Path| read(path).lines().filter(|line| line.starts_with("record ")).count();
    until("the first records", || printed(&said_first) > 0).await;
    stage.put(500);
    until("some more records", || printed(&said_first) > 600).await;
    assert_eq!(signal(&mut first, Signal::SIGKILL).await, None);
    stage.split();
    stage.put(500);
    let (mut second, said_second) = stage.start("record_processor", None);
    let records = stage.records();
    let seen = |path: &Path| -> Vec<(String, String)> {
        let text = read(path);
        let lines = text.lines().filter_map(|line| line.strip_prefix("record "));
        let whole = lines.filter(|line| line.split(' ').count() == 4);
        let place = whole.map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            (words.next().unwrap(), words.next().unwrap())
        });
        place.collect()
    };
    let all_seen = || {
        let seen: BTreeSet<_> = seen(&said_first).into_iter().chain(seen(&said_second)).collect();
        records.keys().all(|record| seen.contains(record))
    };
    until("every record", all_seen).await;
    assert_eq!(signal(&mut second, Signal::SIGTERM).await, Some(0));
    // In order for each shard in each process, which gives a record once.
    for path in [&said_first, &said_second] {
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for (shard, sequence) in seen(path) {
            let before = last.insert(shard, sequence.clone()).unwrap_or_default();
            assert!((before.len(), &before) < (sequence.len(), &sequence), "{sequence} after {before}");
        }
    }
    // The shard that was split ends before its children begin.
    let parent = "shardId-000000000000";
    let text = read(&said_second);
    let at = |line: &str| text.lines().position(|said| said.starts_with(line));
    let end = at(&format!("end {parent}")).expect("the parent ends");
    for child in ["shardId-000000000002", "shardId-000000000003"] {
        assert!(at(&format!("begin {child}")).unwrap() > end, "{text}");
    }
    assert!(text.lines().all(|line| !line.starts_with("lost")), "{text}");
}
