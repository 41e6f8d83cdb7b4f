//! The demo, played small.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Ran, command, eventually, finish, kinetide};

/// The summary: stdout is one JSON object and nothing else.
fn summary(ran: &Ran) -> Value {
    ran.says(0, &[]);
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    serde_json::from_str(&ran.out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_demo_with_every_mishap_ends_exactly_once() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let ran = kinetide(&[
        "demo",
        "--records",
        "3000",
        "--workers",
        "2",
        "--shards",
        "2",
        "--kill",
        "--reshard",
        "--json",
        "--dir",
        &dir,
    ])
    .await;
    let summary = summary(&ran);
    let number = |name: &str| summary[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {summary}"));
    for name in ["dead_letters", "missing", "duplicated", "key_state_mismatches", "bad_lines"] {
        assert_eq!(number(name), 0.0, "{name}");
    }
    for name in ["objects", "bytes_in", "bytes_out", "seconds", "max_delivered_age_ms"] {
        assert!(number(name) > 0.0, "{name}");
    }
    assert_eq!((number("workers_killed"), number("reshards"), number("changes_made")), (1.0, 3.0, 3000.0));
    assert_eq!(number("records_put"), number("rows_delivered"));
    assert!((2700.0..3200.0).contains(&number("records_put")));
    let page = std::fs::read_to_string(summary["dashboard"].as_str().unwrap()).unwrap();
    assert!(
        page.contains("Trading Volume per Trading Pair") && page.contains(&format!("{dir}/lake/landing"))
    );
    assert!(!page.contains("could not be read</h2>"), "the lake is whole");
    println!("demo: {} s, oldest {} ms", number("seconds"), number("max_delivered_age_ms"));

    let again = kinetide(&["demo", "--dir", &dir]).await;
    again.says(1, &[&dir, "not empty", "--dir"]);
}

/// The table's own stream, whose shards rotate and split.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_table_with_every_mishap_ends_exactly_once() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let load = ["--source", "dynamodb-streams", "--records", "2000", "--workers", "2", "--shards", "2"];
    let flags = ["demo", "--kill", "--reshard", "--json", "--dir", &dir];
    let ran = kinetide(&[&flags[..], &load].concat()).await;
    ran.says(
        0,
        &["DynamoDB Streams (http", "rotated shards of CryptoTransactions: 2 children", "split a shard of"],
    );
    let summary = summary(&ran);
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {summary}"));
    for name in ["dead_letters", "missing", "duplicated", "key_state_mismatches", "value_mismatches"] {
        assert_eq!(number(name), 0, "{name}");
    }
    assert_eq!((number("workers_killed"), number("reshards"), number("changes_made")), (1, 3, 2000));
    assert_eq!(number("records_put"), number("rows_delivered"));
    assert!((1_800..2_200).contains(&number("records_put")));
}

/// Two tables and two streams. Settings that the environment holds are those of another worker.
#[tokio::test(flavor = "multi_thread")]
async fn two_streams_with_every_mishap_end_exactly_once() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let load = ["--streams", "2", "--records", "2000", "--workers", "2", "--shards", "2"];
    let flags = ["demo", "--kill", "--reshard", "--json", "--dir", &dir];
    let environment = [("KINETIDE_LANDING", "elsewhere/rows"), ("KINETIDE_PENDING_FORMAT", "7")];
    let child = command(&[&flags[..], &load].concat()).envs(environment).spawn().unwrap();
    let ran = finish(child).await;
    ran.says(0, &["2 streams of 2 shards"]);
    let summary = summary(&ran);
    let streams = summary["streams"].as_array().unwrap();
    let names: Vec<&str> = streams.iter().map(|stream| stream["stream"].as_str().unwrap()).collect();
    assert_eq!(names, ["crypto-transactions", "crypto-transactions-2"]);
    let number =
        |of: &Value, name: &str| of[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {of}"));
    for stream in streams {
        assert!((1_800..2_200).contains(&number(stream, "records_put")), "{stream}");
        assert_eq!(number(stream, "records_put"), number(stream, "rows_delivered"), "{stream}");
        for name in ["missing", "duplicated", "unexpected", "key_state_mismatches"] {
            assert_eq!(number(stream, name), 0, "{name}: {stream}");
        }
    }
    let put: u64 = streams.iter().map(|stream| number(stream, "records_put")).sum();
    assert_eq!((number(&summary, "records_put"), number(&summary, "changes_made")), (put, 4_000));
    assert_eq!((number(&summary, "workers_killed"), number(&summary, "reshards")), (1, 6));
}

/// Workers subscribe, and a killed one leaves shards that the next one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn by_enhanced_fan_out_every_mishap_ends_exactly_once() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let flags =
        ["demo", "--source", "fan-out", "--records", "2000", "--kill", "--reshard", "--json", "--dir", &dir];
    let summary = summary(&kinetide(&flags).await);
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {summary}"));
    assert_eq!((number("missing"), number("duplicated"), number("dead_letters")), (0, 0, 0));
    assert_eq!((number("workers_killed"), number("reshards"), number("changes_made")), (1, 3, 2000));
    assert_eq!(number("records_put"), number("rows_delivered"));
    let logs = std::fs::read_dir(format!("{dir}/logs")).unwrap();
    let logs: String = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    assert!(logs.contains("fan-out consumer registered"), "the workers' own default is polling");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_wishes_are_refused() {
    let (rate, records, dir, trades, streams) = tokio::join!(
        kinetide(&["demo", "--rate", "0"]),
        kinetide(&["demo", "--records", "0"]),
        kinetide(&["demo", "--dir", "/proc/none"]),
        kinetide(&["generate", "--stream", "x", "--trades", "/no/file.csv", "--bad-rate", "0.1"]),
        kinetide(&["demo", "--streams", "0"]),
    );
    streams.says(2, &["--streams", "'0'", "1..=8"]);
    rate.says(2, &["--rate", "'0'", "at least"]);
    records.says(2, &["--records", "'0'", "at least"]);
    dir.says(1, &["/proc/none", "could not be made"]);
    trades.says(2, &["--trades", "--bad-rate"]);
}

/// Processes whose command line names the folder.
fn processes(dir: &Path) -> Vec<PathBuf> {
    let name = dir.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        if std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&name))
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_workers_and_says_so() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().display().to_string();
    let child = command(&["demo", "--records", "100000", "--rate", "500", "--dir", &dir]).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    eventually("rows land", || async { folder.path().join("lake/landing").exists().then_some(()) }).await;
    if cfg!(target_os = "linux") {
        assert_eq!(processes(folder.path()).len(), 3, "the demo and two workers");
    }
    kill(pid, Signal::SIGINT).unwrap();
    let ran = finish(child).await;
    ran.says(1, &["interrupted", "workers drained", &dir]);
    assert!(ran.out.is_empty() && ran.took < Duration::from_secs(30), "{:?} {}", ran.took, ran.out);
    assert_eq!(processes(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_do_not_outlive_a_demo_that_is_killed() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().display().to_string();
    let mut child =
        command(&["demo", "--records", "100000", "--rate", "500", "--dir", &dir]).spawn().unwrap();
    eventually("rows land", || async { folder.path().join("lake/landing").exists().then_some(()) }).await;
    child.kill().await.unwrap();
    eventually("the workers end", || async { processes(folder.path()).is_empty().then_some(()) }).await;
}

const HEADER: &str = "exchange,symbol,trade_id,timestamp_ms,side,price,amount\n";

async fn replay(file: &Path) -> Ran {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().display().to_string();
    let file = file.display().to_string();
    kinetide(&["demo", "--workers", "1", "--json", "--dir", &dir, "--trades", &file]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn trades_are_replayed_and_bad_lines_are_counted() {
    let folder = TempDir::new().unwrap();
    let mut text = HEADER.to_owned();
    for trade in 0..200 {
        text += &format!(
            "binance,BTCUSDT,{trade},16806527{:05},sell,28165.47000000,0.000{trade:05}\n",
            trade * 11
        );
        if trade == 100 {
            text += "binance,BTCUSDT,x,soon,sell,1,1\n";
        }
    }
    let (good, bad) = (folder.path().join("good.csv"), folder.path().join("bad.csv"));
    // DynamoDB stores it, and no row has a column for it.
    text += "binance,BTCUSDT,tiny,1680652799999,sell,1E-130,1\n";
    std::fs::write(&good, text).unwrap();
    std::fs::write(&bad, format!("{HEADER}binance,BTCUSDT,x,soon,sell,1,1\n")).unwrap();

    let (good, bad) = tokio::join!(replay(&good), replay(&bad));
    let summary = summary(&good);
    assert_eq!((&summary["rows_delivered"], &summary["bad_lines"]), (&200.into(), &1.into()));
    assert_eq!((&summary["dead_letters"], &summary["needless_dead_letters"]), (&1.into(), &0.into()));
    assert!(good.err.contains("good.csv, line 103: timestamp_ms"), "{}", good.err);
    bad.says(1, &["no record was put", "1 lines"]);
}

/// Real trades: whether every decimal is as it was is for the demo's own check to say.
#[tokio::test(flavor = "multi_thread")]
async fn real_trades_are_replayed_digit_by_digit() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/trades/binance_spot_2023-04.csv.gz");
    if !file.exists() {
        println!("skipped: there are no trades in {}", file.display());
        return;
    }
    let summary = summary(&replay(&file).await);
    let mut text = String::new();
    let unpacked = flate2::read::MultiGzDecoder::new(std::fs::File::open(&file).unwrap());
    std::io::Read::read_to_string(&mut { unpacked }, &mut text).unwrap();
    assert_eq!(summary["rows_delivered"], text.lines().count() - 1);
    assert_eq!((&summary["bad_lines"], &summary["value_mismatches"]), (&0.into(), &0.into()));
}

/// What was read before the file ends is played, and the summary says where it ended.
#[tokio::test(flavor = "multi_thread")]
async fn trades_that_end_early_have_a_summary() {
    let folder = TempDir::new().unwrap();
    let mut text = HEADER.to_owned();
    for trade in 0..3_000u64 {
        let price = trade.wrapping_mul(2_654_435_761) % 1_000_003;
        text +=
            &format!("binance,BTCUSDT,{trade},16806527{:05},sell,{price}.5,0.000{trade:05}\n", trade * 11);
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let (half, missing) = (folder.path().join("half.csv.gz"), folder.path().join("missing.csv"));
    std::fs::write(&half, &gzip[..gzip.len() / 2]).unwrap();
    let dir = folder.path().join("for people").display().to_string();
    let file = half.display().to_string();
    let for_people = ["demo", "--workers", "1", "--dir", &dir, "--trades", &file];
    let (ended, shown, missing) = tokio::join!(replay(&half), kinetide(&for_people), replay(&missing));

    ended.says(1, &["half.csv.gz"]);
    let summary: Value = serde_json::from_str(&ended.out).unwrap();
    let rows = summary["rows_delivered"].as_u64().unwrap();
    assert!((500..2_500).contains(&rows), "{summary}");
    assert_eq!((&summary["changes_made"], &summary["missing"]), (&rows.into(), &0.into()));
    assert_eq!(summary["last_read"]["line"], rows + 1, "{summary}");
    assert!(summary["error"].as_str().unwrap().contains("half.csv.gz after line"), "{summary}");

    shown.says(1, &["half.csv.gz"]);
    let last = shown.out.trim_end().rsplit("  ").next().unwrap();
    assert!(last.ends_with("/for people/insights.html") && Path::new(last).is_file(), "{last}");
    for words in ["half.csv.gz, line ", "NOT ALL CHANGES WERE MADE", "is in the lake exactly once."] {
        assert!(shown.out.contains(words), "{words} is not in\n{}", shown.out);
    }
    missing.says(1, &["missing.csv"]);
    assert!(missing.out.is_empty(), "nothing was put: {}", missing.out);
}

/// Puts a file where the worker makes its folders, as soon as there is a lake.
async fn block(lake: &Path) {
    let landing = lake.join("landing");
    eventually("the lake is blocked", || async {
        if !lake.join("_kinetide").exists() {
            return None;
        }
        // A row may have been faster.
        let _ = std::fs::rename(&landing, lake.join("moved"));
        std::fs::write(&landing, "in the way").ok()
    })
    .await;
}

/// A lake that takes nothing: the progress says why, in the words of the worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_lake_takes_nothing_says_why() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().display().to_string();
    let err = folder.path().with_extension("err");
    let file = std::fs::File::create(&err).unwrap();
    let arguments = ["demo", "--records", "300", "--workers", "1", "--shards", "1", "--dir", &dir];
    let mut demo = command(&arguments).stderr(file).spawn().unwrap();
    block(&folder.path().join("lake")).await;
    let cause = ["records in the lake", "shardId-000000000000: could not create landing/", "(os error "];
    eventually("the progress says why", || async {
        let said = std::fs::read_to_string(&err).unwrap();
        said.lines().any(|line| cause.iter().all(|word| line.contains(word))).then_some(())
    })
    .await;
    kill(Pid::from_raw(i32::try_from(demo.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    let _ = demo.wait().await;
    std::fs::remove_file(err).unwrap();
}
