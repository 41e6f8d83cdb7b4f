use super::*;
use crate::batch::{Gzip, GzipEncoder};
use clap::Parser;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: RunArgs,
}

fn config(more: &[&str]) -> Result<Config, BadSetting> {
    let base = ["run", "--stream", "trades", "--lake", "/tmp/lake"];
    let args = Command::try_parse_from(base.iter().chain(more)).unwrap().args;
    Config::try_from(args)
}

#[test]
fn level_1_knows_rows_unless_zlib_is_asked_for() {
    let gzip = |more: &[&str]| config(more).unwrap().lake.unwrap().limits.gzip;
    assert_eq!(gzip(&[]), Gzip { level: 1, encoder: GzipEncoder::Rows });
    assert_eq!(gzip(&["--gzip-encoder", "zlib"]), Gzip { level: 1, encoder: GzipEncoder::Zlib });
    assert_eq!(gzip(&["--gzip-level", "6"]).level, 6);
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = config(&[]).unwrap();
    assert_eq!(config.application, "kinetide-trades");
    assert_eq!(config.streams.streams[0].landing().unwrap().layout.landing, "landing/trades");
    // What a program gets that builds its worker itself.
    let mut built = Config::new(config.application.clone(), config.worker.clone(), config.streams.clone());
    built.lake = Some(LakeConfig::new(LakePlace::Url("/tmp/lake".parse().unwrap())));
    built.http = config.http;
    built.ecs_metadata_uri.clone_from(&config.ecs_metadata_uri);
    assert_eq!(format!("{config:?}"), format!("{built:?}"));
    assert_eq!((config.failover, config.byte_budget), (Duration::from_secs(10), 256 << 20));
    assert_eq!(config.streams.streams[0].initial, Checkpoint::TrimHorizon);
    let crypto = super::tests::config(&["--transform", "crypto-transactions"]).unwrap();
    assert_eq!(crypto.streams.streams[0].landing().unwrap().layout.landing, "landing/transactions");
}

/// What PERFORMANCE.md and the help text promise.
#[test]
fn records_wait_at_the_tip_for_a_thirtieth_of_the_batch_age() {
    let ms = Duration::from_millis;
    let waits = |age: Option<u64>, set: Option<u64>| {
        let waits = TipWaits::new(age.map(ms), set.map(ms));
        (waits.idle.as_millis(), waits.gathering.as_millis())
    };
    assert_eq!(waits(Some(300_000), None), (10_000, 10_000));
    assert_eq!((waits(Some(60_000), None), waits(Some(3_600_000), None)), ((2000, 2000), (10_000, 10_000)));
    assert_eq!(waits(Some(3000), None), (1000, 100), "an empty poll costs, whatever the age");
    assert_eq!(
        (waits(Some(300_000), Some(1000)), waits(Some(300_000), Some(30_000))),
        ((1000, 1000), (30_000, 10_000))
    );
    assert_eq!(
        (waits(None, None), waits(None, Some(5000))),
        ((1000, 0), (5000, 0)),
        "a processor wants it at once"
    );
    assert_eq!(config(&[]).unwrap().poll_idle_max, None);
    let set = config(&["--poll-idle-max", "1s"]).unwrap();
    assert_eq!(set.poll_idle_max, Some(Duration::from_secs(1)));
}

#[test]
fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
    let message = |more: &[&str]| config(more).unwrap_err().to_string();
    assert_eq!(
        message(&["--failover-time", "200ms"]),
        "--failover-time \"200ms\": must be between 1s and 10m"
    );
    assert_eq!(
        message(&["--byte-budget", "1MiB"]),
        "--byte-budget \"1.0 MiB\": must be between 32.0 MiB and 1.0 TiB"
    );
    for (setting, value) in [
        ("--stream", "a b"),
        ("--stream", "arn:aws:kinesis:eu-north-1:1:stream/trades"),
        ("--lake", "gs://x"),
        ("--lake", "s3://bucket/a//b"),
        ("--lake", "s3://bucket//a"),
        ("--transform", "csv"),
        ("--landing", "../x"),
        ("--landing", "landing/_x"),
        ("--landing", "landing//x"),
        ("--errors", ".errors"),
        ("--initial-position", "yesterday"),
        ("--initial-position", "2999-01-01T00:00:00Z"),
        ("--worker-id", "Leader"),
        ("--leases-max", "0"),
        ("--kinesis-endpoint", "localhost:1"),
        ("--firehose", "a/b"),
        ("--settings", "/does/not/exist.toml"),
        ("--s3-sse", "kms"),
        ("--cloudwatch-namespace", "AWS/Kinesis"),
        ("--cloudwatch-namespace", "a b"),
        ("--cloudwatch-endpoint", "localhost:1"),
    ] {
        let text = match setting {
            "--stream" | "--lake" => {
                let args = ["run", "--stream", "s", "--lake", "/l"].map(str::to_owned);
                let mut args = args.to_vec();
                let at = args.iter().position(|arg| arg == setting).unwrap();
                args[at + 1] = value.to_owned();
                let args = Command::try_parse_from(args).unwrap().args;
                Config::try_from(args).unwrap_err().to_string()
            }
            _ => message(&[setting, value]),
        };
        assert!(text.starts_with(&format!("{setting} \"{value}\"")), "{text}");
    }
}

#[test]
fn a_stream_is_named_by_its_arn_too() {
    let arn = "arn:aws-cn:kinesis:cn-north-1:111122223333:stream/trades";
    let args = ["run", "--stream", arn, "--lake", "/l", "--region", "cn-northwest-1"];
    let config = Config::try_from(Command::try_parse_from(args).unwrap().args).unwrap();
    assert_eq!(
        (config.streams.streams[0].address.to_string().as_str(), config.application.as_str()),
        (arn, "kinetide-trades")
    );
    assert_eq!(config.streams.streams[0].landing().unwrap().layout.landing, "landing/trades");
    assert_eq!(config.streams.streams[0].address.region_or(config.region.as_deref()), Some("cn-north-1"));
}

#[test]
fn the_changes_of_a_table_are_a_source() {
    let parsed = |more: &[&str]| {
        let args = ["run", "--lake", "/l"].iter().chain(more);
        Config::try_from(Command::try_parse_from(args).unwrap().args).map_err(|error| error.to_string())
    };
    let config = parsed(&["--source", "dynamodb-streams", "--table", "Trades"]).unwrap();
    assert_eq!(config.application, "kinetide-Trades");
    let stream = &config.streams.streams[0];
    assert_eq!((stream.address.to_string().as_str(), stream.kind()), ("table/Trades", Kind::DynamodbStreams));
    assert_eq!(stream.landing().unwrap().layout.landing, "landing/Trades");
    let arn = "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades/stream/2026-01-15T09:30:00.123";
    let by_arn = parsed(&["--source", "dynamodb-streams", "--table", arn]).unwrap();
    assert_eq!(by_arn.application, "kinetide-Trades");
    for (args, words) in [
        (
            &["--table", "Trades"][..],
            "--table \"Trades\": must be left out: with --source kinesis it is --stream",
        ),
        (&["--source", "dynamodb-streams", "--stream", "x"], "--stream \"x\": must be left out"),
        (&["--source", "dynamodb-streams"], "--table \"\": is missing: give --table once for each table"),
        (&["--source", "dynamodb-streams", "--table", "a b"], "--table \"a b\": must be 3 to 255"),
        (&["--stream", "table/Trades"], "name it with --table"),
    ] {
        let problem = parsed(args).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
}

#[cfg(feature = "kafka")]
#[test]
fn topics_are_a_source() {
    let parsed = |more: &[&str]| {
        let args = ["run", "--lake", "/l", "--source", "kafka"].iter().chain(more);
        Config::try_from(Command::try_parse_from(args).unwrap().args).map_err(|error| error.to_string())
    };
    let config = parsed(&["--kafka-bootstrap", "127.0.0.1:9092", "--topic", "orders"]).unwrap();
    assert_eq!(config.application, "kinetide-orders");
    let stream = &config.streams.streams[0];
    assert_eq!((stream.address.name(), stream.kind()), ("orders", Kind::Kafka));
    assert_eq!(stream.landing().unwrap().layout.landing, "landing/orders");
    for (args, words) in [
        (&[][..], "--topic \"\": is missing: give --topic once for each topic"),
        (&["--topic", "orders"], "--kafka-bootstrap \"\": is missing: where is topic orders?"),
        (&["--stream", "x"], "--stream \"x\": must be left out: with --source kafka it is --topic"),
        (&["--kafka-bootstrap", "127.0.0.1:9092", "--topic", "a b"], "--topic \"a b\""),
    ] {
        let problem = parsed(args).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
}

/// What stands in for AWS on this machine has DynamoDB and its streams at one place.
#[test]
fn streams_are_where_the_tables_are_on_this_machine_only() {
    let table = "table/Trades".parse().unwrap();
    for (dynamodb, streams, expected) in [
        (None, None, None),
        (Some("http://127.0.0.1:8000"), None, Some("http://127.0.0.1:8000")),
        (Some("https://dynamodb.example.com"), None, None),
        (Some("http://127.0.0.1:8000"), Some("http://127.0.0.1:8001"), Some("http://127.0.0.1:8001")),
    ] {
        let endpoints = Endpoints {
            dynamodb: dynamodb.map(str::to_owned),
            dynamodb_streams: streams.map(str::to_owned),
            kinesis: Some("http://127.0.0.1:4567".to_owned()),
            ..Endpoints::default()
        };
        assert_eq!(endpoints.of(&table), expected, "{dynamodb:?} {streams:?}");
        assert_eq!(endpoints.of(&"trades".parse().unwrap()), Some("http://127.0.0.1:4567"));
    }
}

/// Readers of lakes skip folders that begin so.
#[test]
fn a_stream_with_a_hidden_name_has_a_folder_that_is_seen() {
    let args = ["run", "--stream", "_trades", "--lake", "/l"];
    let config = Config::try_from(Command::try_parse_from(args).unwrap().args).unwrap();
    assert!(
        config.streams.streams[0].landing().unwrap().layout.landing.starts_with("landing/xtrades-"),
        "{}",
        config.streams.streams[0].landing().unwrap().layout.landing
    );
}

#[test]
fn a_time_is_a_position() {
    let config = config(&["--initial-position", "2026-01-15T09:30:00Z"]).unwrap();
    assert_eq!(config.streams.streams[0].initial_timestamp_us, Some(1_768_469_400_000_000));
}

#[test]
fn an_unknown_member_of_the_settings_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[enrichmnt]\n").unwrap();
    let error = config(&["--settings", file.path().to_str().unwrap()]).unwrap_err();
    assert!(error.to_string().contains("enrichmnt"), "{error}");
}

#[test]
fn settings_that_may_not_do_what_was_meant_are_named() {
    for usual in
        [&[][..], &["--byte-budget", "64MiB"], &["--failover-time", "20s"], &["--batch-age", "100ms"]]
    {
        assert_eq!(config(usual).unwrap().oddities(), Vec::<String>::new(), "{usual:?}");
    }
    let s3 = ["--stream", "trades", "--lake", "s3://lake/raw", "--batch-age", "900ms"];
    let s3 = Command::try_parse_from(std::iter::once("run").chain(s3)).unwrap().args;
    assert!(Config::try_from(s3).unwrap().oddities()[0].starts_with("--batch-age 900ms"));
    let on_ecs = Config {
        ecs_metadata_uri: Some("http://169.254.170.2/v4".into()),
        ..config(&["--shutdown-budget", "111s"]).unwrap()
    };
    assert!(on_ecs.oddities()[0].contains("stopTimeout"));
    assert_eq!(
        Config { shutdown_budget: Duration::from_secs(110), ..on_ecs }.oddities(),
        Vec::<String>::new()
    );
    let pairs: [(&[&str], [&str; 2]); 2] = [
        (&["--byte-budget", "32MiB"], ["--batch-bytes 64.0 MiB", "--byte-budget 32.0 MiB"]),
        (&["--failover-time", "21s"], ["--shutdown-budget 20s", "--failover-time 21s"]),
    ];
    for (odd, words) in pairs {
        let found = config(odd).unwrap().oddities();
        assert!(found.len() == 1 && words.iter().all(|word| found[0].contains(word)), "{found:?}");
    }
}

#[test]
fn settings_that_cannot_go_together_are_refused_at_the_limit() {
    for (fits, refused, other) in [
        (
            ["--batch-bytes", "256MiB", "--byte-budget", "32MiB"],
            "--batch-bytes 300MiB",
            "--byte-budget 32.0 MiB",
        ),
        (
            ["--shutdown-budget", "5s", "--failover-time", "10m"],
            "--shutdown-budget 4s",
            "--failover-time 10m",
        ),
        (["--shutdown-budget", "1s", "--failover-time", "3s"], "--failover-time 4s", "--failover-time 4s"),
    ] {
        assert!(config(&fits).is_ok(), "{fits:?}");
        let (setting, value) = refused.split_once(' ').unwrap();
        let mut wrong = fits;
        let at = wrong.iter().position(|flag| *flag == setting).unwrap();
        wrong[at + 1] = value;
        let message = config(&wrong).unwrap_err().to_string();
        assert!(message.contains(other), "{message}");
    }
}
