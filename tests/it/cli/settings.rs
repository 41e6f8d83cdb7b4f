//! Wrong settings end with exit code 2 and a message that names the setting, the value and what is allowed.

use futures::future::join_all;

use super::stage::{STREAM, Stage, change};
use super::{Ran, command, eventually, finish, kinetide};

/// Not for DynamoDB, but for KCL's other tables.
const TOO_LONG: &str = concat!(
    "a-name-that-dynamodb-takes-for-a-table-but-that-leaves-no-room-for-what-kcl-puts-behind-it-",
    "a-name-that-dynamodb-takes-for-a-table-but-that-leaves-no-room-for-what-kcl-puts-behind-it-",
    "a-name-that-dynamodb-takes-for-a-table-but-that-leaves-no-room"
);

const BASE: [&str; 5] = ["run", "--stream", "trades", "--lake", "./lake"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
    let cases: [(&[&str], [&str; 3]); 34] = [
        (&["--batch-age", "30"], ["--batch-age", "30", "30s or 500ms"]),
        (&["--batch-age", "2h"], ["--batch-age", "2h", "between 100ms and 1h"]),
        (&["--batch-bytes", "lots"], ["--batch-bytes", "lots", "64MiB"]),
        (&["--byte-budget", "1MiB"], ["--byte-budget", "1.0 MiB", "between 32.0 MiB"]),
        (&["--gzip-level", "12"], ["--gzip-level", "12", "1..=9"]),
        (&["--gzip-encoder", "brotli"], ["--gzip-encoder", "brotli", "rows, zlib"]),
        (&["--http", "8080"], ["--http", "8080", "127.0.0.1:8080"]),
        (&["--log", "kinetide=loud"], ["--log", "kinetide=loud", "info,kinetide=debug"]),
        (&["--log-format", "yaml"], ["--log-format", "yaml", "auto, text, json"]),
        (
            &["--transform", "csv"],
            ["--transform", "csv", "crypto-transactions, dynamodb-cdc, json, market-snapshot, raw"],
        ),
        (&["--initial-position", "noon"], ["--initial-position", "noon", "trim-horizon, latest, or a time"]),
        (&["--kinesis-endpoint", "here"], ["--kinesis-endpoint", "here", "http://127.0.0.1:4567"]),
        (&["--failover-time", "1ms"], ["--failover-time", "1ms", "between 1s and 10m"]),
        (&["--settings", "/no/file"], ["--settings", "/no/file", "cannot be read"]),
        (&["--firehose", "a b"], ["--firehose", "a b", "1 to 64 letters"]),
        (
            &["--firehose", "rows", "--firehose-gzip", "both"],
            ["--firehose-gzip", "both", "firehose, records"],
        ),
        (&["--firehose-gzip", "records"], ["--firehose <NAME>", "required", "not provided"]),
        (&["--leases-max", "none"], ["--leases-max", "none", "invalid"]),
        (&["--log", "debgu"], ["--log", "debgu", "\"debug\""]),
        (&["--log", "info,kinetid"], ["--log", "kinetid", "\"kinetide\""]),
        (&["--application", "a"], ["--application", "\"a\"", "must be 3 to 237"]),
        (&["--application", "ab"], ["--application", "\"ab\"", "must be 3 to 237"]),
        (&["--application", TOO_LONG], ["--application", TOO_LONG, "1 to 237"]),
        (&["--landing", "s3://b/landing"], ["--landing", "s3://b/landing", "goes to --lake"]),
        (&["--landing", "/landing"], ["--landing", "/landing", "leave out the '/'"]),
        (&["--landing", "_landing"], ["--landing", "_landing", "Athena"]),
        (&["--errors", "file:///errors"], ["--errors", "file:///errors", "goes to --lake"]),
        (&["--errors", "landing"], ["--errors", "\"landing\"", "apart from --landing \"landing/trades\""]),
        (&["--landing", "errors/x"], ["--errors", "errors", "apart from --landing \"errors/x\""]),
        (
            &["--failover-time", "1s", "--lease-scan-interval", "60s"],
            ["--lease-scan-interval", "1m", "--failover-time 1s"],
        ),
        (&["--batch-age", "5s", "--poll-idle-max", "30s"], ["--poll-idle-max", "30s", "--batch-age 5s"]),
        (
            &["--failover-time", "30s", "--shutdown-budget", "2s"],
            ["--shutdown-budget", "\"2s\"", "at least 5s with --failover-time 30s"],
        ),
        (
            &["--batch-bytes", "1GiB", "--byte-budget", "64MiB"],
            ["--batch-bytes", "\"1.0 GiB\"", "8 times --byte-budget 64.0 MiB"],
        ),
        (&["--worker-id", " w"], ["--worker-id", "\" w\"", "1 to 256"]),
    ];
    let run = |(flags, words): (&'static [&'static str], [&'static str; 3])| async move {
        kinetide(&[&BASE, flags].concat()).await.says(2, &words);
    };
    join_all(cases.map(run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_may_not_do_what_was_meant_are_named_in_the_log_and_the_status() {
    let stage = Stage::new(1).await;
    let odd = [("--byte-budget", "32MiB"), ("--failover-time", "25s")];
    let worker = stage.worker(&odd).await;
    let status = worker.status().await;
    let warnings: Vec<&str> =
        status["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect();
    let words = [
        ["--batch-bytes 64.0 MiB", "--byte-budget 32.0 MiB"],
        ["--shutdown-budget 20s", "--failover-time 25s"],
    ];
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, words) in warnings.iter().zip(words) {
        assert!(words.iter().all(|word| warning.contains(word)), "{warning}");
        assert!(
            worker.log().lines().any(|line| line.contains("WARN") && line.contains(warning)),
            "{}",
            worker.log()
        );
    }
    worker.drain().await;
}

/// Records of more hours than a batch can have objects: batches are closed early, and that is said once.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_closed_early_for_their_many_hours_are_said() {
    let stage = Stage::new(1).await;
    let hours = 1100;
    for hour in 0..hours {
        let mut record: serde_json::Value = serde_json::from_slice(&change(hour)).unwrap();
        let at_us = 1_768_469_400_000_000 - hour * 3_600_000_000;
        record["dynamodb"]["ApproximateCreationDateTime"] = at_us.into();
        stage.aws.kinesis().put(STREAM, "key", &serde_json::to_vec(&record).unwrap()).unwrap();
    }
    let worker = stage.worker(&[("--batch-age", "5m")]).await;
    // The rest of them waits for the age of the batch.
    let warning = eventually("it is said", || async {
        let log = worker.log();
        let line = log.lines().find(|line| line.contains("batch closed early"))?.to_owned();
        (worker.metric("kinetide_records_delivered_total ").await >= 700.0).then_some(line)
    })
    .await;
    assert!(warning.contains("more hours than a batch can have objects"), "{warning}");
    let records = serde_json::from_str::<serde_json::Value>(&warning).unwrap()["records"].as_u64().unwrap();
    assert!((256..=512).contains(&records), "{warning}");
    assert_eq!(worker.log().matches("batch closed early").count(), 1, "not for each");
    worker.drain().await;
    stage.exactly_once(hours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_set_what_flags_set_and_flags_win() {
    let with = |variables: &'static [(&'static str, &'static str)], args: &'static [&'static str]| async move {
        finish(command(args).envs(variables.iter().copied()).spawn().unwrap()).await
    };
    let both: &[(&str, &str)] = &[("KINETIDE_STREAM", "trades"), ("KINETIDE_LAKE", "gs://x")];
    let (lake, flag, missing, level) = tokio::join!(
        with(both, &["run"]),
        with(both, &["run", "--lake", "ftp://y"]),
        with(&[], &["run", "--stream", "trades"]),
        with(&[("KINETIDE_GZIP_LEVEL", "x")], &["run", "--stream", "trades", "--lake", "./lake"]),
    );
    lake.says(2, &["KINETIDE_LAKE (--lake)", "gs://x", "s3://bucket/prefix"]);
    flag.says(2, &["--lake", "ftp://y"]);
    missing.says(2, &["--lake <URL>"]);
    level.says(2, &["KINETIDE_GZIP_LEVEL (--gzip-level", "'x'"]);
}

/// No typo becomes a folder on this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_lake_is_refused_with_what_was_meant() {
    let place = tempfile::tempdir().unwrap();
    let here = |args: Vec<&'static str>| {
        let child = command(&args).current_dir(place.path()).spawn().unwrap();
        async move { finish(child).await }
    };
    let mut runs = Vec::new();
    for (lake, meant) in [
        ("s3:/my-lake/crypto", "s3://my-lake/crypto"),
        ("S3://my-lake/crypto", "s3://my-lake/crypto"),
        ("s3a://my-lake/crypto", "s3://my-lake/crypto"),
        ("https://my-lake.s3.eu-north-1.amazonaws.com/crypto", "s3://my-lake/crypto"),
        ("arn:aws:s3:::my-lake", "s3://my-lake"),
        ("file:/tmp/lake", "file:///tmp/lake"),
        ("my-lake/crypto", "s3://my-lake/crypto"),
    ] {
        runs.push((here(vec!["run", "--stream", "trades", "--lake", lake]), meant));
        runs.push((here(vec!["dead-letters", "count", "--lake", lake]), meant));
        runs.push((here(vec!["loadtest", "--records", "1", "--dir", "./run", "--lake", lake]), meant));
    }
    runs.push((
        here(vec!["demo", "--records", "1", "--dir", "s3://my-lake/demo"]),
        "a folder on this machine",
    ));
    for (run, meant) in runs {
        run.await.says(2, &[meant]);
    }
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_nobody_knows_are_named_and_empty_ones_are_none() {
    let with = |variables: &'static [(&'static str, &'static str)], args: &'static [&'static str]| async move {
        finish(command(args).envs(variables.iter().copied()).spawn().unwrap()).await
    };
    let run: &[&str] = &["run", "--stream", "trades", "--lake", "gs://x"];
    let (unknown, missing, empty, switch, wrong, none) = tokio::join!(
        with(&[("KINETIDE_BATCHAGE", "5s"), ("KINETIDE_TEST_S3", "x")], run),
        with(&[("KINETIDE_STRAEM", "trades")], &["run", "--lake", "./lake"]),
        with(&[("KINETIDE_BATCH_AGE", ""), ("KINETIDE_APPLICATION", "")], run),
        with(&[("KINETIDE_S3_BUCKET_KEY", "0"), ("KINETIDE_LOCAL_REAL_LIMITS", "off")], run),
        with(&[("KINETIDE_S3_BUCKET_KEY", "maybe")], run),
        with(&[("KINETIDE_BATCHAGE", "5s")], &["transform"]),
    );
    unknown.says(
        2,
        &["warning: unknown environment variable KINETIDE_BATCHAGE; did you mean KINETIDE_BATCH_AGE?"],
    );
    assert!(!unknown.err.contains("KINETIDE_TEST_S3"), "{}", unknown.err);
    missing.says(2, &["did you mean KINETIDE_STREAM?", "--stream \"\": is missing"]);
    for ran in [&empty, &switch] {
        ran.says(2, &["gs is not supported"]);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    wrong.says(2, &["KINETIDE_S3_BUCKET_KEY", "maybe"]);
    none.says(0, &["did you mean KINETIDE_BATCH_AGE?", "0 records"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_explains_every_command_within_100_columns() {
    let help = |args: &'static [&'static str]| async move { (args, kinetide(args).await) };
    let pages: [&[&str]; 18] = [
        &["--help"],
        &["run", "--help"],
        &["check", "--help"],
        &["leases", "--help"],
        &["leases", "release", "--help"],
        &["leases", "evict", "--help"],
        &["leases", "set-checkpoint", "--help"],
        &["leases", "delete", "--help"],
        &["dead-letters", "--help"],
        &["dead-letters", "list", "--help"],
        &["dead-letters", "count", "--help"],
        &["dead-letters", "show", "--help"],
        &["dead-letters", "replay", "--help"],
        &["dead-letters", "export", "--help"],
        &["demo", "--help"],
        &["local", "--help"],
        &["generate", "--help"],
        &["transform", "--help"],
    ];
    for (args, ran) in join_all(pages.map(help)).await {
        assert_eq!(ran.code, Some(0), "{args:?}");
        assert!(ran.out.lines().all(|line| line.chars().count() <= 100), "{}", ran.out);
        if args.len() > 1 {
            assert!(ran.out.contains("Example"), "{args:?} shows no example");
        }
        if args[0] == "run" {
            assert!(ran.out.contains("Exit code: 0") && ran.out.contains("KINETIDE_FAILOVER_TIME"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_or_none_shows_what_there_is() {
    let (unknown, none) = tokio::join!(kinetide(&["runn"]), kinetide(&[]));
    unknown.says(2, &["runn", "'run'"]);
    let Ran { code, err, .. } = none;
    assert_eq!(code, Some(2));
    assert!(err.contains("demo") && err.contains("Start here"), "{err}");
}
