//! Enhanced fan-out against the embedded Kinesis over TLS. `docs/PERFORMANCE.md` has the figures.
//!
//! `windows`: what one subscription brings over a long way, for some sizes of the HTTP/2 window.
//! `latency`: how long a record takes from its put to a processor in another process, by polling and by fan-out.
//! `behind`: how long such a process takes for a shard that is behind, and how much CPU, at the limits of the service.
//! `idle`: memory and CPU of such a process with many shards that bring nothing.
#![allow(clippy::print_stdout, reason = "this is what it does")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap ends the measurement")]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinetide::internals::clock::wall_clock_us;
use kinetide::internals::local::kinesis::KinesisSettings;
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::{
    Checkpointer, Processor, ProcessorError, Records, RetrievalSetting, ShardId, Worker, async_trait,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};

const STREAM: &str = "s";
const CA_FILE: &str = "ca.pem";
const ROUND_TRIPS_MS: [u64; 4] = [1, 20, 50, 100];
const WINDOWS_KIB: [u32; 6] = [64, 128, 256, 512, 1024, 2048];
/// Of each measurement, after the first event.
const MEASURED: Duration = Duration::from_secs(4);
/// More than the fastest takes in that time.
const BACKLOG_BYTES: usize = 600 << 20;
const RECORD_BYTES: usize = 50_000;

const RATES: [u64; 2] = [100, 1_000];
const SHARDS: u32 = 4;
/// A checkpoint for each event would measure the lease table.
const SAVED_EVERY: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(8);
const PUTTING: Duration = Duration::from_secs(20);
/// What a record says that is not timed.
const NOT_TIMED: &str = "0";

const BEHIND_BYTES: usize = 200_000_000;
const BEHIND_RECORD_BYTES: usize = 1_000;

const IDLE_SHARDS: u32 = 1_000;
/// Until a worker has all leases and all subscriptions.
const SETTLING: Duration = Duration::from_secs(60);
const IDLING: Duration = Duration::from_secs(30);

const WAYS: [&str; 2] = ["polling", "fan-out"];

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["windows"] => windows().await,
        ["latency"] => latency().await,
        ["behind"] => behind().await,
        ["idle"] => idle().await,
        ["worker", by, kinesis, dynamodb, records] => {
            worker(by, kinesis, dynamodb, records.parse().unwrap()).await;
        }
        // As `cargo test` and `cargo bench` start it.
        _ => println!("usage: fan_out windows | latency | behind | idle"),
    }
}

/// Servers, and a worker beside them that ends after so many records that are timed.
struct Scene {
    aws: LocalAws,
    folder: TempDir,
}

impl Scene {
    async fn set(shards: u32, real_limits: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let settings = LocalSettings {
            kinesis: KinesisSettings { real_limits, ..KinesisSettings::default() },
            ca_file: Some(folder.path().join(CA_FILE)),
            ..LocalSettings::default()
        };
        let aws = LocalAws::start(settings).await.unwrap();
        aws.kinesis().create_stream(STREAM, shards).unwrap();
        Self { aws, folder }
    }

    fn worker(&self, by: &str, records: u64) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["worker", by, self.aws.kinesis_tls_url().unwrap(), self.aws.dynamodb_url()]);
        command.arg(records.to_string()).env("AWS_CA_BUNDLE", self.folder.path().join(CA_FILE));
        command.kill_on_drop(true).spawn().unwrap()
    }
}

/// The begin of a line that a worker ends.
fn begin(line: std::fmt::Arguments<'_>) {
    print!("{line}: ");
    std::io::stdout().flush().unwrap();
}

async fn ended(mut worker: Child) {
    assert!(worker.wait().await.unwrap().success());
}

async fn latency() {
    for rate in RATES {
        for by in WAYS {
            begin(format_args!("{rate} records/s by {by}"));
            let scene = Scene::set(SHARDS, false).await;
            let records = rate * PUTTING.as_secs();
            let worker = scene.worker(by, records);
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
            for number in 0..rate * WARM_UP.as_secs() + records {
                ticks.tick().await;
                let timed = number >= rate * WARM_UP.as_secs();
                let text = if timed { wall_clock_us().to_string() } else { NOT_TIMED.to_owned() };
                scene.aws.kinesis().put(STREAM, &format!("key-{number}"), text.as_bytes()).unwrap();
            }
            ended(worker).await;
        }
    }
}

async fn behind() {
    for by in WAYS {
        begin(format_args!("{} MB by {by}", BEHIND_BYTES / 1_000_000));
        let scene = Scene::set(1, true).await;
        let records = BEHIND_BYTES / BEHIND_RECORD_BYTES;
        for _ in 0..records {
            let text = format!("{:<BEHIND_RECORD_BYTES$}", wall_clock_us());
            scene.aws.kinesis().put(STREAM, "k", text.as_bytes()).unwrap();
        }
        ended(scene.worker(by, u64::try_from(records).unwrap())).await;
    }
}

async fn idle() {
    for by in WAYS {
        begin(format_args!("{IDLE_SHARDS} idle shards by {by}"));
        let scene = Scene::set(IDLE_SHARDS, false).await;
        ended(scene.worker(by, 0)).await;
    }
}

/// Reads until so many records that are timed have come, or for a while where there are none, and says how it was.
async fn worker(by: &str, kinesis: &str, dynamodb: &str, records: usize) {
    let by = if by == "fan-out" { RetrievalSetting::FanOut } else { RetrievalSetting::Polling };
    let (seen, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let timer = Timer { seen: Arc::clone(&seen), records, done: Arc::clone(&done), saved: Instant::now() };
    let worker = Worker::builder("latency", STREAM)
        .kinesis_endpoint(kinesis)
        .dynamodb_endpoint(dynamodb)
        .lease_scan_interval(Duration::from_millis(500))
        .retrieval(by)
        .processor(move |_: &ShardId| timer.clone())
        .unwrap();
    let started = Instant::now();
    let enough = async {
        if records > 0 {
            return done.notified().await;
        }
        sleep(SETTLING).await;
        let before = cpu();
        sleep(IDLING).await;
        let busy = (cpu() - before).as_secs_f64() / IDLING.as_secs_f64();
        println!("{:.1} MB, {:.1} % of a core", resident_kb() / 1e3, busy * 100.0);
    };
    worker.run_until(enough).await.unwrap();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    if records > 0 {
        seen.sort_unstable();
        let at = |percent: usize| seen[(seen.len() * percent / 100).min(seen.len() - 1)] as f64 / 1e3;
        let (took, cpu) = (started.elapsed().as_secs_f64(), cpu().as_secs_f64());
        println!("p50 {:.1} ms, p99 {:.1} ms; {took:.1} s, {cpu:.1} s of CPU", at(50), at(99));
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // In hundredths of a second: in user mode and in the kernel.
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn resident_kb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[derive(Clone)]
struct Timer {
    seen: Arc<Mutex<Vec<i64>>>,
    records: usize,
    done: Arc<Notify>,
    saved: Instant,
}

#[async_trait]
impl Processor for Timer {
    async fn records(
        &mut self,
        records: &Records,
        checkpointer: &Checkpointer,
    ) -> Result<(), ProcessorError> {
        let now = wall_clock_us();
        {
            let mut seen = self.seen.lock().unwrap();
            let texts = records.iter().map(|record| String::from_utf8_lossy(&record.data()).into_owned());
            let put = texts.filter(|text| text != NOT_TIMED).map(|text| text.trim().parse::<i64>().unwrap());
            seen.extend(put.map(|put| now - put));
            if seen.len() >= self.records {
                self.done.notify_one();
            }
        }
        if self.saved.elapsed() > SAVED_EVERY {
            checkpointer.checkpoint().await?;
            self.saved = Instant::now();
        }
        Ok(())
    }

    async fn shard_end(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
        Ok(checkpointer.checkpoint().await?)
    }
}

async fn windows() {
    let Scene { aws, folder } = Scene::set(1, false).await;
    for _ in 0..BACKLOG_BYTES / RECORD_BYTES {
        aws.kinesis().put(STREAM, "k", &[b'x'; RECORD_BYTES]).unwrap();
    }
    let server: SocketAddr = aws.kinesis_url().trim_start_matches("http://").parse().unwrap();
    let ca =
        reqwest::Certificate::from_pem_bundle(&std::fs::read(folder.path().join(CA_FILE)).unwrap()).unwrap();
    print!("MB/s of data, by window and round trip\n{:>10}", "KiB");
    ROUND_TRIPS_MS.iter().for_each(|ms| print!("{ms:>7} ms"));
    println!();
    for window in WINDOWS_KIB {
        print!("{window:>10}");
        for ms in ROUND_TRIPS_MS {
            let mut tasks = JoinSet::new();
            let url = far_away(server, Duration::from_millis(ms) / 2, &mut tasks).await;
            let client = reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only(ca.clone())
                .http2_initial_stream_window_size(window << 10)
                .http2_initial_connection_window_size(window << 10);
            let bytes = subscription(&client.build().unwrap(), &url).await;
            print!("{:>10.2}", bytes / MEASURED.as_secs_f64() / 1e6);
        }
        println!();
    }
}

/// Bytes of data that one subscription brings in the time that is measured.
async fn subscription(client: &reqwest::Client, url: &str) -> f64 {
    let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}");
    let call = async |operation: &str, body: Value| {
        let call = client.post(url).header("x-amz-target", format!("Kinesis_20131202.{operation}"));
        call.header("content-type", "application/x-amz-json-1.1").body(body.to_string()).send().await.unwrap()
    };
    let name = format!("c{}", kinetide::internals::clock::wall_clock_us());
    let consumer = call("RegisterStreamConsumer", json!({"StreamARN": arn, "ConsumerName": name})).await;
    let consumer: Value = serde_json::from_slice(&consumer.bytes().await.unwrap()).unwrap();
    let consumer = &consumer["Consumer"]["ConsumerARN"];
    let start = json!({"Type": "TRIM_HORIZON"});
    let body = json!({"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": start});
    let mut answer = call("SubscribeToShard", body).await;
    answer.chunk().await.unwrap().unwrap();
    let (until, mut bytes) = (Instant::now() + MEASURED, 0);
    while let Ok(piece) = tokio::time::timeout_at(until, answer.chunk()).await {
        bytes += piece.unwrap().expect("the backlog is long enough").len();
    }
    call("DeregisterStreamConsumer", json!({"ConsumerARN": consumer})).await;
    // Records are in base64 on the wire.
    bytes as f64 * 3.0 / 4.0
}

/// A door to `server` that each byte takes so long to pass; answers its URL.
async fn far_away(server: SocketAddr, delay: Duration, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            connections.spawn(async move {
                let server = TcpStream::connect(server).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::join!(pass(from_client, to_server, delay), pass(from_server, to_client, delay));
            });
        }
    });
    url
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let arriving = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let leaving = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(arriving, leaving);
}
