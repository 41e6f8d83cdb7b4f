//! Enhanced fan-out against the embedded Kinesis over TLS. `docs/PERFORMANCE.md` has the figures.
//!
//! `windows`: what one subscription brings over a long way, for some sizes of the HTTP/2 window.
#![allow(clippy::print_stdout, reason = "this is what it does")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap ends the measurement")]

use std::net::SocketAddr;
use std::time::Duration;

use kinetide::internals::local::{LocalAws, LocalSettings};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const STREAM: &str = "s";
const ROUND_TRIPS_MS: [u64; 4] = [1, 20, 50, 100];
const WINDOWS_KIB: [u32; 6] = [64, 128, 256, 512, 1024, 2048];
/// Of each measurement, after the first event.
const MEASURED: Duration = Duration::from_secs(4);
/// More than the fastest takes in that time.
const BACKLOG_BYTES: usize = 600 << 20;
const RECORD_BYTES: usize = 50_000;

#[tokio::main]
async fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("windows") => windows().await,
        // As `cargo test` and `cargo bench` start it.
        _ => println!("usage: fan_out windows"),
    }
}

async fn windows() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let settings = LocalSettings { ca_file: Some(ca_file.clone()), ..LocalSettings::default() };
    let aws = LocalAws::start(settings).await.unwrap();
    aws.kinesis().create_stream(STREAM, 1).unwrap();
    for _ in 0..BACKLOG_BYTES / RECORD_BYTES {
        aws.kinesis().put(STREAM, "k", &[b'x'; RECORD_BYTES]).unwrap();
    }
    let server: SocketAddr = aws.kinesis_url().trim_start_matches("http://").parse().unwrap();
    let ca = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca_file).unwrap()).unwrap();
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
