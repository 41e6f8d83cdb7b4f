//! A stream, a lease table, a lake, and workers as processes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kinetide::internals::aws::sdk_config;
use kinetide::internals::lease::dynamodb::DynamoDbLeaseTable;
use kinetide::internals::lease::{Lease, LeaseTable};
use kinetide::internals::local::kinesis::KinesisSettings;
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::Checkpoint;
use kinetide::internals::trial::{LakeCheck, Put, Puts, verify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object_store::local::LocalFileSystem;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

use super::{command, eventually};

pub(super) const STREAM: &str = "trades";
const APPLICATION: &str = "kinetide-trades";
/// Short enough for a test, long enough for a busy machine.
pub(super) const FAILOVER: Duration = Duration::from_secs(3);

pub(super) struct Stage {
    pub(super) aws: LocalAws,
    pub(super) dir: TempDir,
    /// What workers find in their environment.
    pub(super) env: Vec<(String, String)>,
    /// Whether every row of high risk is to have a copy.
    pub(super) alerts: bool,
    leases: DynamoDbLeaseTable,
    workers: AtomicUsize,
}

impl Stage {
    pub(super) async fn new(shards: u32) -> Self {
        Self::on(KinesisSettings::default(), shards).await
    }

    /// A stage on a Kinesis that behaves like this.
    pub(super) async fn on(kinesis: KinesisSettings, shards: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let ca_file = Some(dir.path().join("ca.pem"));
        let aws =
            LocalAws::start(LocalSettings { kinesis, ca_file, ..LocalSettings::default() }).await.unwrap();
        aws.kinesis().create_stream(STREAM, shards).unwrap();
        let sdk = sdk_config(Some(aws.dynamodb_url()), Some(aws.region())).await;
        let leases = DynamoDbLeaseTable::new(aws_sdk_dynamodb::Client::new(&sdk), APPLICATION);
        Self { aws, dir, env: Vec::new(), alerts: false, leases, workers: AtomicUsize::new(0) }
    }

    pub(super) fn lake(&self) -> PathBuf {
        self.dir.path().join("lake")
    }

    /// Arguments of a worker on this stage; later ones of `more` replace those of the same name.
    pub(super) fn arguments(&self, more: &[(&str, &str)]) -> Vec<String> {
        let lake = self.lake().display().to_string();
        let id = format!("w{}", self.workers.fetch_add(1, Ordering::Relaxed));
        let mut all = vec![
            ("--stream", STREAM),
            ("--lake", &lake),
            ("--transform", "crypto-transactions"),
            ("--worker-id", &id),
            ("--http", "127.0.0.1:0"),
            ("--kinesis-endpoint", self.aws.kinesis_url()),
            ("--dynamodb-endpoint", self.aws.dynamodb_url()),
            ("--batch-age", "300ms"),
            ("--failover-time", "3s"),
            ("--lease-scan-interval", "300ms"),
            ("--shard-sync-interval", "1s"),
            ("--poll-idle-max", "300ms"),
            ("--log-format", "json"),
        ];
        all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        let pairs = all.iter().chain(more).flat_map(|(name, value)| [*name, *value]);
        std::iter::once("run").chain(pairs).map(str::to_owned).collect()
    }

    /// Starts a worker and waits until it is ready.
    pub(super) async fn worker(&self, more: &[(&str, &str)]) -> Worker {
        let worker = self.started(more).await;
        eventually("the worker is ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) })
            .await;
        worker
    }

    /// Starts a worker and waits until it says where it listens.
    pub(super) async fn started(&self, more: &[(&str, &str)]) -> Worker {
        self.started_with(self.arguments(more)).await
    }

    /// The same with these arguments.
    pub(super) async fn started_with(&self, arguments: Vec<String>) -> Worker {
        let at = arguments.iter().position(|argument| argument == "--worker-id").unwrap();
        let id = arguments[at + 1].clone();
        let log = self.dir.path().join(format!("{id}-{}.log", self.workers.load(Ordering::Relaxed)));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let file = std::fs::File::create(&log).unwrap();
        let child = command(&arguments).envs(self.env.iter().cloned()).stderr(file).spawn().unwrap();
        let mut worker = Worker { id, child, http: String::new(), log };
        worker.http = eventually("the worker says where it listens", || async {
            let log = worker.log();
            assert!(!log.contains("error: "), "{log}");
            let started = log.lines().find(|line| line.contains(r#""message":"started""#))?;
            Some(serde_json::from_str::<Value>(started).unwrap()["http"].as_str()?.to_owned())
        })
        .await;
        worker
    }

    /// Starts a worker whose log this test does not read, and waits until it is ready.
    pub(super) async fn unheard_worker(&self, stderr: Stdio) -> Worker {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let arguments = self.arguments(&[("--http", &free)]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let child = command(&arguments).stderr(stderr).spawn().unwrap();
        let worker = Worker { id: String::new(), child, http: free, log: PathBuf::from("/dev/null") };
        eventually("the worker is ready", || async {
            TcpStream::connect(&worker.http).await.ok()?;
            (worker.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
        worker
    }

    /// Puts change records, each of a key of its own.
    pub(super) fn put(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.aws.kinesis().put(STREAM, &format!("key-{number}"), &change(number)).unwrap();
        }
    }

    pub(super) fn table(&self) -> &DynamoDbLeaseTable {
        &self.leases
    }

    /// Deletes the lease table, as somebody with the rights to do so can at any time.
    pub(super) async fn drop_lease_table(&self) {
        let sdk = sdk_config(Some(self.aws.dynamodb_url()), Some(self.aws.region())).await;
        let client = aws_sdk_dynamodb::Client::new(&sdk);
        client.delete_table().table_name(APPLICATION).send().await.unwrap();
    }

    /// Deletes the stream.
    pub(super) async fn drop_stream(&self) {
        self.drop_named_stream(STREAM).await;
    }

    pub(super) async fn drop_named_stream(&self, stream: &str) {
        let sdk = sdk_config(Some(self.aws.kinesis_url()), Some(self.aws.region())).await;
        let client = aws_sdk_kinesis::Client::new(&sdk);
        client.delete_stream().stream_name(stream).send().await.unwrap();
    }

    /// Deletes the stream and makes it again.
    pub(super) async fn recreate_stream(&self, shards: u32) {
        self.drop_stream().await;
        eventually("the name is free", || async { self.aws.kinesis().create_stream(STREAM, shards).ok() })
            .await;
    }

    pub(super) async fn leases(&self) -> Vec<Lease> {
        self.leases.snapshot().await.unwrap_or_default().leases
    }

    /// Whether every record is at or below a checkpoint.
    pub(super) async fn delivered(&self) -> bool {
        let leases = self.leases().await;
        let kinesis = self.aws.kinesis();
        kinesis.shards(STREAM).unwrap().into_iter().all(|(shard, put)| {
            match leases.iter().find(|lease| *lease.key.shard() == shard).map(|lease| &lease.checkpoint) {
                Some(Checkpoint::ShardEnd) => true,
                Some(Checkpoint::At(position)) => {
                    kinesis.count_up_to(STREAM, &shard, &position.sequence).unwrap() == put
                }
                // A finished parent's lease is cleaned up after its children have begun.
                None if !leases.is_empty() => true,
                _ => put == 0,
            }
        })
    }

    /// Waits until every record is at or below a checkpoint.
    pub(super) async fn all_delivered(&self) {
        eventually("every record is delivered", || async { self.delivered().await.then_some(()) }).await;
    }

    /// What the lake holds against what the stream holds.
    pub(super) async fn verify(&self) -> LakeCheck {
        self.verify_lake(self.lake()).await
    }

    /// What a stream holds.
    pub(super) fn puts(&self, stream: &str) -> Puts {
        let mut puts = Puts::default();
        self.aws
            .kinesis()
            .visit(
                stream,
                |_| 0,
                |shard, record| {
                    let data = base64_simd::STANDARD.decode_to_vec(&record.data[..]).unwrap();
                    let (shard, sequence) = (shard.as_str(), record.sequence_number.as_str());
                    puts.add(shard, Put::new(shard, sequence, &data, record.arrival_us).unwrap()).unwrap();
                },
            )
            .unwrap();
        puts
    }

    pub(super) async fn verify_lake(&self, lake: PathBuf) -> LakeCheck {
        let store = LocalFileSystem::new_with_prefix(lake).unwrap();
        let puts = self.puts(STREAM).with_alerts(self.alerts);
        verify(Arc::new(store), &object_store::path::Path::default(), puts, None, |_, _| {}).await.unwrap()
    }

    /// Asserts that each of `records` records is in the lake exactly once.
    pub(super) async fn exactly_once(&self, records: u64) -> LakeCheck {
        let check = self.verify().await;
        assert!(check.ok() && check.records_put == records, "{check:#?}");
        check
    }

    /// A file where the folder of all these rows must be: nothing can be delivered until it is removed.
    pub(super) fn block_lake(&self) -> PathBuf {
        let folder = self.lake().join("landing/transactions");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("year=2026");
        std::fs::write(&file, "in the way").unwrap();
        file
    }
}

/// The insert of a trade.
pub(super) fn change(number: u64) -> Vec<u8> {
    let mut record: Value =
        serde_json::from_str(include_str!("../../fixtures/kinesis-dynamodb-insert.json")).unwrap();
    let key = Value::from(format!("trade-{number}"));
    record["eventID"] = Value::from(format!("0f7a3d1e-6f0b-4f4e-9a3e-{number:012}"));
    record["dynamodb"]["ApproximateCreationDateTime"] = Value::from(1_768_469_400_000_000 + number);
    record["dynamodb"]["Keys"]["transaction_id"]["S"] = key.clone();
    record["dynamodb"]["NewImage"]["transaction_id"]["S"] = key;
    serde_json::to_vec(&record).unwrap()
}

pub(super) struct Worker {
    pub(super) id: String,
    child: Child,
    pub(super) http: String,
    pub(super) log: PathBuf,
}

impl Worker {
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        self.ask(path, "").await
    }

    /// The same with these lines in the head.
    pub(super) async fn ask(&self, path: &str, headers: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.http).await.unwrap();
        let host = &self.http;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (code, body.to_owned())
    }

    pub(super) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/status").await.1).unwrap()
    }

    /// Sum of the samples whose line starts like this.
    pub(super) async fn metric(&self, start: &str) -> f64 {
        let text = self.get("/metrics").await.1;
        let samples = text.lines().filter(|line| line.starts_with(start));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until the samples whose line starts like this add up to `value`: what a checkpoint covers is counted behind it.
    pub(super) async fn counts(&self, start: &str, value: f64) {
        eventually(&format!("{start} is {value}"), || async {
            (self.metric(start).await == value).then_some(())
        })
        .await;
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The most memory that the process has held so far (`VmHWM`), where the system tells.
    pub(super) fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().unwrap() * 1024)
    }

    /// The exit code; none after a signal.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        timeout(Duration::from_secs(40), self.child.wait()).await.expect("the worker ends").unwrap().code()
    }

    pub(super) async fn drain(mut self) {
        self.signal(Signal::SIGTERM);
        let code = self.ended().await;
        assert_eq!(code, Some(0), "{}", self.log());
    }

    pub(super) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.ended().await, None);
    }
}
