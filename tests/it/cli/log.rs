//! A log that cannot be written, that nobody reads, or whose reader has gone costs lines and nothing else.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use super::stage::{Stage, Worker};
use super::{COMMAND_MAX, command};

/// Puts records through a worker that is up already, and drains it.
async fn works(stage: &Stage, mut worker: Worker) {
    stage.put(0..200);
    stage.all_delivered().await;
    assert_eq!(worker.get("/healthz").await.0, 200);
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(0));
    stage.exactly_once(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_does_not_stop_the_service() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (gone, broken) = std::io::pipe().unwrap();
    drop(gone);
    let run = |stderr: Stdio| async move {
        let stage = Stage::new(2).await;
        let worker = stage.unheard_worker(stderr).await;
        assert!(worker.metric("kinetide_log_lines_dropped_total").await >= 1.0);
        works(&stage, worker).await;
    };
    tokio::join!(run(full.into()), run(broken.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_does_not_freeze_the_service() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    // More than the pipe holds: from now on whoever writes to it waits.
    let filling = std::thread::spawn(move || filler.write_all(&vec![b'\n'; 1 << 20]).unwrap());
    let stage = Stage::new(2).await;
    let worker = stage.unheard_worker(writer.into()).await;
    works(&stage, worker).await;
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    filling.join().unwrap();
    assert!(log.lines().filter(|line| !line.is_empty()).count() <= 1, "it was never read before: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_good_log_drops_nothing() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    let text = worker.get("/metrics").await.1;
    assert!(text.lines().any(|line| line == "kinetide_log_lines_dropped_total 0"), "{text}");
    let log = worker.log();
    let lake = format!("\"lake\":\"{}\"", std::fs::canonicalize(stage.lake()).unwrap().display());
    assert!(log.contains(&lake), "the lake is shown as it was found: {log}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_stderr_that_goes_away_ends_a_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let dir = dir.path().join("demo");
    let mut demo = command(&["demo", "--records", "300", "--workers", "1", "--dir", dir.to_str().unwrap()])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let reader = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await.unwrap();
    assert!(line.starts_with("trades "), "{line}");
    let ended = tokio::time::timeout(COMMAND_MAX, demo.wait()).await.expect("it ends").unwrap();
    assert!(matches!(ended.code(), Some(0 | 1)), "{ended}");
}
