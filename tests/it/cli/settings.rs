//! Wrong settings end with exit code 2 and a message that names the setting, the value and what is allowed.

use futures::future::join_all;

use super::{Ran, command, finish, kinetide};

const BASE: [&str; 5] = ["run", "--stream", "trades", "--lake", "./lake"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
    let cases: [(&[&str], [&str; 3]); 17] = [
        (&["--batch-age", "30"], ["--batch-age", "30", "30s or 500ms"]),
        (&["--batch-age", "2h"], ["--batch-age", "2h", "between 100ms and 1h"]),
        (&["--batch-bytes", "lots"], ["--batch-bytes", "lots", "64MiB"]),
        (&["--byte-budget", "1MiB"], ["--byte-budget", "1.0 MiB", "between 32.0 MiB"]),
        (&["--gzip-level", "12"], ["--gzip-level", "12", "1..=9"]),
        (&["--http", "8080"], ["--http", "8080", "127.0.0.1:8080"]),
        (&["--log", "kinetide=loud"], ["--log", "kinetide=loud", "info,kinetide=debug"]),
        (&["--log-format", "yaml"], ["--log-format", "yaml", "auto, text, json"]),
        (&["--transform", "csv"], ["--transform", "csv", "crypto-transactions, dynamodb-cdc, json"]),
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
    ];
    let run = |(flags, words): (&'static [&'static str], [&'static str; 3])| async move {
        kinetide(&[&BASE, flags].concat()).await.says(2, &words);
    };
    join_all(cases.map(run)).await;
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
    lake.says(2, &["--lake", "gs://x", "s3://bucket/prefix"]);
    flag.says(2, &["--lake", "ftp://y"]);
    missing.says(2, &["--lake <URL>"]);
    level.says(2, &["--gzip-level", "'x'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_explains_every_command_within_100_columns() {
    let help = |args: &'static [&'static str]| async move { (args, kinetide(args).await) };
    let pages: [&[&str]; 17] = [
        &["--help"],
        &["run", "--help"],
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
