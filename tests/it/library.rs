//! A program that brings its own stream and its own place to deliver to, by nothing but what the root of the crate names.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::source::Source;
use kinetide::testing::{MemorySink, MemoryStream};
use kinetide::{Builtin, Drain, SourceKind, Worker};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_and_a_sink_of_a_program_make_a_worker() {
    let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
    let (stream, sink) = (Arc::new(MemoryStream::new(2, 50, |_| START_US)), Arc::new(MemorySink::new()));
    let put: Vec<String> = (0..300u128)
        .map(|n| {
            let (_, sequence) = stream.put(n << 120, "key", format!(r#"{{"n":{n}}}"#)).unwrap();
            sequence.to_string()
        })
        .collect();
    let worker = Worker::builder("its-own-source", "its-own")
        .dynamodb_endpoint(aws.dynamodb_url())
        .lease_scan_interval(Duration::from_millis(200))
        .source(Source::polled(SourceKind::Kinesis, Arc::clone(&stream) as _, Arc::clone(&stream) as _))
        .transform_to(Builtin::json(), "a lake in memory", Arc::clone(&sink) as _)
        .batch_age(Duration::from_millis(500))
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut work = JoinSet::new();
    work.spawn(worker.run_until(async { drop(stopped.await) }));
    let began = Instant::now();
    while rows(&sink).len() < put.len() {
        assert!(work.try_join_next().is_none(), "the worker goes on");
        assert!(began.elapsed() < Duration::from_secs(120), "{} rows", rows(&sink).len());
        sleep(Duration::from_millis(50)).await;
    }
    stop.send(()).unwrap();
    assert_eq!(work.join_next().await.unwrap().unwrap().unwrap(), Drain::Clean);
    let (mut landed, mut expected) = (rows(&sink), put);
    landed.sort();
    expected.sort();
    assert_eq!(landed, expected);
    assert!(sink.objects().keys().all(|key| key.starts_with("landing/its-own/")));
}

const START_US: i64 = 1_768_469_400_000_000;

/// Sequence number of each row.
fn rows(sink: &MemorySink) -> Vec<String> {
    let mut rows = Vec::new();
    for object in sink.objects().values() {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&object[..]).read_to_string(&mut text).unwrap();
        rows.extend(text.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["sequence_number"].as_str().unwrap().to_owned()
        }));
    }
    rows
}
