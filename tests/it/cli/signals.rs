//! TERM, INT and HUP mean the same to every command, and what was done before the end is told.

use std::io::Write;
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use kinetide::internals::local::kinesis::KinesisSettings;
use kinetide::internals::local::{LocalAws, LocalSettings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::stage::Stage;
use super::{COMMAND_MAX, command, eventually, finish, kinetide};

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), signal).unwrap();
}

/// Waits until the process takes the three signals itself, as process 1 must.
async fn takes_signals(child: &Child) {
    let path = format!("/proc/{}/status", child.id().unwrap());
    eventually("the process takes signals", || async {
        let status = std::fs::read_to_string(&path).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        let all = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].map(|signal| 1u64 << (signal as u32 - 1));
        all.iter().all(|bit| mask & bit > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_drains_the_service() {
    let stage = Stage::new(1).await;
    let mut worker = stage.worker(&[("--batch-age", "60s")]).await;
    stage.put(0..50);
    eventually("all is read", || async {
        (worker.metric("kinetide_records_fetched_total").await >= 50.0).then_some(())
    })
    .await;
    worker.signal(Signal::SIGHUP);
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
    stage.exactly_once(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_ends_every_command() {
    for each in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // It waits for input.
        let mut waiting = command(&["transform"]).stdin(Stdio::piped()).spawn().unwrap();
        let input = waiting.stdin.take();
        let local = command(&["local", "--kinesis-port", "0", "--dynamodb-port", "0"]).spawn().unwrap();
        tokio::join!(takes_signals(&waiting), takes_signals(&local));
        signal(&waiting, each);
        signal(&local, each);
        let (waiting, local) = tokio::join!(finish(waiting), finish(local));
        waiting.says(1, &[]);
        local.says(0, &[]);
        drop(input);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_that_is_refused_says_so_and_an_interrupted_one_is_no_success() {
    let kinesis =
        KinesisSettings { faults: vec!["PutRecords:throttle:1".parse().unwrap()], ..Default::default() };
    let aws = LocalAws::start(LocalSettings { kinesis, ..LocalSettings::default() }).await.unwrap();
    aws.kinesis().create_stream("trades", 1).unwrap();
    let args =
        ["generate", "--stream", "trades", "--region", "us-east-1", "--records", "100", "--kinesis-endpoint"];
    let mut child = command(&[&args[..], &[aws.kinesis_url()]].concat())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let refused = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            if line.contains("retrying") {
                return line;
            }
        }
    };
    let refused = timeout(COMMAND_MAX, refused).await.expect("it says that it is refused");
    assert!(refused.contains("ThroughputExceeded"), "{refused}");
    signal(&child, Signal::SIGTERM);
    let ran = finish(child).await;
    ran.says(1, &[]);
    assert!(
        ran.out.contains("0 changes written to stream trades") && ran.out.contains("interrupted"),
        "{}",
        ran.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_an_error_is_told_with_the_last_place() {
    let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
    aws.kinesis().create_stream("trades", 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut text = "exchange,symbol,trade_id,timestamp_ms,side,price,amount\n".to_owned();
    for number in 2..4_000 {
        // Not so regular that the end of the file is nothing but the end.
        let price = (number * 7_919) % 100_003;
        text.push_str(&match number {
            3 => "binance,BTCUSDT,3,1680652799,sell,1,1\n".to_owned(),
            4 => "binance,BTCUSDT,4,1680652799999,sell,2.1E-7,1\n".to_owned(),
            _ => format!("binance,BTCUSDT,{number},1680652799999,sell,{price},1\n"),
        });
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let file = dir.path().join("t.csv.gz");
    std::fs::write(&file, &gzip[..gzip.len() / 2]).unwrap();
    let file = file.to_str().unwrap();
    let args = ["generate", "--stream", "trades", "--kinesis-endpoint", aws.kinesis_url(), "--trades", file];
    let (people, machine) = tokio::join!(async { kinetide(&args).await }, async {
        kinetide(&[&args[..], &["--json"]].concat()).await
    });
    people.says(1, &["could not read trades from", "t.csv.gz after line"]);
    for words in [
        "changes written to stream trades in",
        "1 bad lines skipped",
        "stopped early by an error",
        &format!("read up to {file}, line"),
        &format!("skipped: {file}, line 3: timestamp_ms"),
    ] {
        assert!(people.out.contains(words), "{words} is not in\n{}", people.out);
    }
    machine.says(1, &[]);
    let told: Value = serde_json::from_str(&machine.out).unwrap();
    let written = told["written"].as_u64().unwrap();
    assert!(written > 100, "{told}");
    assert_eq!(
        told["last_read"]["line"].as_u64().unwrap(),
        written + told["bad_lines"].as_u64().unwrap() + 1,
        "{told}"
    );
    assert!(told["error"].as_str().unwrap().contains("after line"), "{told}");
    let shards = aws.kinesis().shards("trades").unwrap();
    assert_eq!(shards[0].1, 2 * written, "the stream has what both say");
}
