//! Settings that several commands take, and settings that must fit each other.

use std::time::Duration;

use bytesize::ByteSize;

use super::{BadSetting, Config, LakeConfig, LakePlace, name, within};
use crate::aws::{BadArn, StreamAddress};
use crate::batch::{HIGH_RISK_ALERTS, Layout, Packing};
use crate::deliver::{LakeUrl, mistaken_url};
use crate::kafka::is_topic_name;

/// What KCL puts behind the name of an application to name its other tables; the longest that there is.
const SUFFIX_MAX: usize = "-WorkerMetricStats".len();
/// Names of DynamoDB tables (API Reference).
const TABLE_NAME: std::ops::RangeInclusive<usize> = 3..=255;

/// One response of the lease table takes no longer than this, or than a third of the failover time.
const RESPONSE_MAX: Duration = Duration::from_secs(5);

/// Rows of a batch take this much less memory than they are long, at best.
const COMPRESSED: u64 = 8;

/// ECS kills a task this long after SIGTERM at the most (Fargate), less what the end of the process takes.
const ECS_DRAIN_MAX: Duration = Duration::from_secs(110);

/// Batches younger than this make a flood of small objects.
const BATCH_AGE_ODD: Duration = Duration::from_secs(1);

/// Java 17's GZIPInputStream ends early in such a file (JDK-7036144), as Trino 411 shows.
const MANY_MEMBERS: &str = "--firehose-gzip records: each object is gzip with many members. Some JVM readers (Trino on \
    Java 17, possibly Athena) read only the first member and lose the other rows without an error; use \
    --firehose-gzip firehose unless you know that your readers read all members";

/// Up to here a pause between polls is short, whatever the age of batches.
const POLL_SHORT: Duration = Duration::from_secs(5);

/// Where the lake is.
pub fn lake(text: &str) -> Result<LakeUrl, BadSetting> {
    text.parse().map_err(|reason: String| BadSetting::new("lake", text, reason))
}

/// The Kinesis stream, by its name or ARN.
pub fn stream(text: &str) -> Result<StreamAddress, BadSetting> {
    let bad = |reason: String| BadSetting::new("stream", text, reason);
    match text.parse().map_err(|reason: BadArn| bad(reason.to_string()))? {
        StreamAddress::Table(_) => {
            Err(bad("is a table of DynamoDB: name it with --table and --source dynamodb-streams".to_owned()))
        }
        StreamAddress::Topic(_) => {
            Err(bad("is a topic of Kafka: name it with --topic and --source kafka".to_owned()))
        }
        stream => Ok(stream),
    }
}

/// The table whose changes are read, by its name or ARN, or by the ARN of one of its streams.
pub fn table(text: &str) -> Result<StreamAddress, BadSetting> {
    let table = text.parse().map_err(|reason: BadArn| BadSetting::new("table", text, reason.to_string()))?;
    Ok(StreamAddress::Table(table))
}

/// The topic that is read, by its name.
pub fn topic(text: &str) -> Result<StreamAddress, BadSetting> {
    if is_topic_name(text) {
        return Ok(StreamAddress::Topic(text.to_owned()));
    }
    Err(BadSetting::new("topic", text, "must be 1 to 249 letters, digits, '.', '_' or '-'"))
}

/// The name of a DynamoDB table.
pub fn table_name(setting: &'static str, value: &str) -> Result<(), BadSetting> {
    name(setting, value, *TABLE_NAME.end())?;
    if value.len() < *TABLE_NAME.start() {
        let (least, most) = TABLE_NAME.into_inner();
        return Err(BadSetting::new(
            setting,
            value,
            format!("must be {least} to {most} letters, digits, '.', '_' or '-'"),
        ));
    }
    Ok(())
}

/// The application's name, which is that of its lease table, and the start of the names of its other tables.
pub fn application(given: Option<&str>, stream: &str) -> Result<String, BadSetting> {
    let application = given.map_or_else(|| format!("kinetide-{stream}"), str::to_owned);
    let most = TABLE_NAME.end() - SUFFIX_MAX;
    name("application", &application, most)?;
    if application.len() < *TABLE_NAME.start() {
        let allowed = format!(
            "must be {} to {most} letters, digits, '.', '_' or '-': it is the name of a DynamoDB table",
            TABLE_NAME.start()
        );
        return Err(BadSetting::new("application", application, allowed));
    }
    Ok(application)
}

/// The folders of rows and of dead letters in the lake, apart from each other and, with `alerts`, from the folder of those.
pub fn layout(landing: &str, errors: &str, alerts: bool) -> Result<Layout, BadSetting> {
    let layout = Layout {
        landing: landing.trim_end_matches('/').to_owned(),
        errors: folder("errors", errors)?.to_owned(),
        alerts,
    };
    let is_in = |inner: &str, outer: &str| format!("{inner}/").starts_with(&format!("{outer}/"));
    let meet = |a: &str, b: &str| is_in(a, b) || is_in(b, a);
    for (setting, folder) in [("landing", &layout.landing), ("errors", &layout.errors)] {
        if alerts && meet(folder, HIGH_RISK_ALERTS) {
            let allowed = format!(
                "must be apart from {HIGH_RISK_ALERTS}, where [alerts] of the settings file puts copies: neither folder \
                 may be inside the other"
            );
            return Err(BadSetting::new(setting, folder, allowed));
        }
    }
    if meet(&layout.errors, &layout.landing) {
        let allowed = format!(
            "must be apart from --landing {:?}: neither folder may be inside the other, or readers of rows would read \
             dead letters",
            layout.landing
        );
        return Err(BadSetting::new("errors", layout.errors, allowed));
    }
    Ok(layout)
}

/// A folder in the lake.
pub fn folder<'a>(setting: &'static str, value: &'a str) -> Result<&'a str, BadSetting> {
    let refuse = |allowed: &str| Err(BadSetting::new(setting, value, allowed));
    if value.contains("://") || mistaken_url(value).is_some() {
        return refuse(
            "must be a folder inside the lake, like landing/trades; the URL of the lake goes to --lake",
        );
    }
    if value.starts_with('/') {
        return refuse(
            "must be a folder inside the lake, like landing/trades: leave out the '/' at the start",
        );
    }
    let path = value.strip_suffix('/').unwrap_or(value);
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-=/".contains(c);
    if !path.split('/').all(part) || !path.chars().all(letter) {
        return refuse("must be a path of letters, digits, '.', '_', '-' and '=' without '..'");
    }
    if path.split('/').any(|part| part.starts_with(['_', '.'])) {
        return refuse("no part may start with '_' or '.': Athena, Hive and Spark skip such folders");
    }
    Ok(path)
}

/// A folder of this machine.
#[cfg(feature = "local")]
pub fn local_folder(text: &str) -> Result<std::path::PathBuf, String> {
    match mistaken_url(text) {
        Some(_) => Err("must be a folder on this machine".to_owned()),
        None if text.trim() != text || text.is_empty() => {
            Err("must not be empty, nor start or end with a space".to_owned())
        }
        None => std::path::absolute(text).map_err(|error| error.to_string()),
    }
}

fn show(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Whether each setting is within its own limits.
pub(super) fn limits(config: &Config) -> Result<(), BadSetting> {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    within("failover-time", config.failover, s(1), s(600))?;
    within("lease-scan-interval", config.scan_interval, ms(100), s(60))?;
    within("shard-sync-interval", config.shard_sync_interval, s(1), s(3600))?;
    if let Some(idle_max) = config.poll_idle_max {
        within("poll-idle-max", idle_max, ms(200), s(60))?;
    }
    within("shutdown-budget", config.shutdown_budget, s(1), s(3600))?;
    size("byte-budget", config.byte_budget, ByteSize::mib(32), ByteSize::tib(1))?;
    if let Some(lake) = &config.lake {
        within("batch-age", lake.batch_age_max, ms(100), s(3600))?;
        size("batch-bytes", lake.limits.rows_bytes_max, ByteSize::kib(1), ByteSize::gib(1))?;
    }
    if config.rules.leases_max == 0 {
        return Err(BadSetting::new("leases-max", 0, "must be at least 1, or left out"));
    }
    if config.rules.kbps_max < 1.0 {
        return Err(BadSetting::new("throughput-max", "under 1KiB", "must be at least 1KiB, or left out"));
    }
    Ok(())
}

fn size(setting: &'static str, value: usize, least: ByteSize, most: ByteSize) -> Result<(), BadSetting> {
    let value = ByteSize(value as u64);
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(BadSetting::new(setting, value, format!("must be between {least} and {most}")))
}

/// Whether settings fit each other, each being within its own limits. The age of a batch needs no relation to the
/// failover time: a lease is renewed beside it.
pub(super) fn relations(config: &Config) -> Result<(), BadSetting> {
    let response = (config.failover / 3).min(RESPONSE_MAX);
    if config.shutdown_budget < response {
        let allowed = format!(
            "must be at least {} with --failover-time {}: one response of the lease table may take that long, and a \
             lease that is not released in time leaves its shard without a reader for the failover time",
            show(response),
            show(config.failover)
        );
        return Err(BadSetting::new("shutdown-budget", show(config.shutdown_budget), allowed));
    }
    if config.scan_interval > config.failover {
        let allowed = format!(
            "must be at most --failover-time {}: a worker that scans the leases less often cannot see which workers are \
             alive",
            show(config.failover)
        );
        return Err(BadSetting::new("lease-scan-interval", show(config.scan_interval), allowed));
    }
    let Some(lake) = &config.lake else { return Ok(()) };
    let (batch_bytes, byte_budget) = (lake.limits.rows_bytes_max as u64, config.byte_budget as u64);
    if batch_bytes / COMPRESSED > byte_budget {
        let allowed = format!(
            "must be at most {COMPRESSED} times --byte-budget {}: a batch is closed early when memory is short, so no \
             batch could reach this size, and one shard could use all of the memory",
            ByteSize(byte_budget)
        );
        return Err(BadSetting::new("batch-bytes", ByteSize(batch_bytes), allowed));
    }
    if let Some(idle_max) = config.poll_idle_max
        && idle_max > lake.batch_age_max.max(POLL_SHORT)
    {
        let allowed = format!(
            "must be at most --batch-age {}: records would wait longer to be read than to be delivered",
            show(lake.batch_age_max)
        );
        return Err(BadSetting::new("poll-idle-max", show(idle_max), allowed));
    }
    Ok(())
}

/// What people should know of these settings: they do no harm by themselves, and may not do what was meant.
pub(super) fn oddities(config: &Config) -> Vec<String> {
    let Config { byte_budget, shutdown_budget, failover, .. } = config;
    let mut odd = Vec::new();
    if config.lake.as_ref().is_some_and(|lake| matches!(lake.firehose, Some((_, Packing::GzipMembers)))) {
        odd.push(MANY_MEMBERS.to_owned());
    }
    if let Some(lake) = config.lake.as_ref().filter(|lake| lake.limits.rows_bytes_max > *byte_budget) {
        odd.push(format!(
            "--batch-bytes {} is above --byte-budget {}: where rows compress badly, batches are closed before they reach \
             this size, and one shard can keep the others waiting for memory",
            ByteSize(lake.limits.rows_bytes_max as u64),
            ByteSize(*byte_budget as u64)
        ));
    }
    if shutdown_budget < failover {
        odd.push(format!(
            "--shutdown-budget {} is below --failover-time {}: when a drain is cut short, its shards have no reader for \
             the failover time, which is longer than the drain may take",
            show(*shutdown_budget),
            show(*failover)
        ));
    }
    if config.ecs_metadata_uri.is_some() && *shutdown_budget > ECS_DRAIN_MAX {
        odd.push(format!(
            "--shutdown-budget {}: ECS kills a task after its stopTimeout (30s by default, at most 120s on Fargate); set \
             the shutdown budget 10s below it",
            show(*shutdown_budget)
        ));
    }
    let many_objects = |lake: &&LakeConfig| {
        lake.batch_age_max < BATCH_AGE_ODD && matches!(lake.place, LakePlace::Url(LakeUrl::S3 { .. }))
    };
    if let Some(lake) = config.lake.as_ref().filter(many_objects) {
        odd.push(format!(
            "--batch-age {} makes many small objects in the lake: more requests to pay for, and slower readers",
            show(lake.batch_age_max)
        ));
    }
    odd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_inside_the_lake_and_read_by_everybody() {
        for (value, path) in [("landing/x", "landing/x"), ("a=1/b-c.d/", "a=1/b-c.d")] {
            assert_eq!(folder("landing", value), Ok(path));
        }
        for (value, reason) in [
            ("s3://b/p", "goes to --lake"),
            ("s3:/b/p", "goes to --lake"),
            ("file:///x", "goes to --lake"),
            ("arn:aws:s3:::b", "goes to --lake"),
            ("/landing", "leave out the '/'"),
            ("", "must be a path"),
            ("a//b", "must be a path"),
            ("../x", "must be a path"),
            ("./x", "must be a path"),
            ("a b", "must be a path"),
            ("_landing", "skip such folders"),
            ("landing/.x", "skip such folders"),
        ] {
            let refused = folder("landing", value).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_table_is_no_stream() {
        let arn = "arn:aws:dynamodb:eu-north-1:111122223333:table/Trades";
        for text in [arn, "table/Trades"] {
            assert!(stream(text).unwrap_err().to_string().contains("name it with --table"), "{text}");
        }
        assert_eq!(table(arn).unwrap().to_string(), arn);
        let refused = table("arn:aws:kinesis:eu-north-1:111122223333:stream/trades").unwrap_err().to_string();
        assert!(
            refused.starts_with("--table") && refused.contains("of kinesis, not of DynamoDB"),
            "{refused}"
        );
    }

    #[test]
    fn rows_and_dead_letters_are_apart() {
        let layout = |landing, errors| super::layout(landing, errors, false);
        assert!(layout("landing/x", "errors").is_ok() && layout("errors-of-x", "errors").is_ok());
        for (landing, errors) in [("x", "x"), ("x", "x/errors"), ("errors/x", "errors"), ("x", "x/")] {
            let refused = layout(landing, errors).unwrap_err().to_string();
            assert!(refused.starts_with("--errors") && refused.contains("--landing"), "{refused}");
        }
    }

    #[test]
    fn copies_are_apart_from_what_they_are_copies_of() {
        for (landing, errors, setting) in [
            ("alerts", "errors", "--landing"),
            ("alerts/high_risk", "errors", "--landing"),
            ("landing/x", "alerts/high_risk/errors", "--errors"),
        ] {
            let refused = layout(landing, errors, true).unwrap_err().to_string();
            assert!(refused.starts_with(setting) && refused.contains("[alerts]"), "{refused}");
            assert!(layout(landing, errors, false).is_ok(), "nothing is copied");
        }
        assert!(layout("landing/alerts", "alerts/errors", true).unwrap().alerts);
    }

    #[test]
    fn an_application_names_tables() {
        assert_eq!(application(None, "s").unwrap(), "kinetide-s");
        assert!(application(Some(&"a".repeat(237)), "s").is_ok());
        for wrong in ["a", "ab", "", "a b", &"a".repeat(238)] {
            assert!(application(Some(wrong), "s").is_err(), "{wrong}");
        }
    }

    #[cfg(feature = "local")]
    #[test]
    fn a_folder_of_this_machine_is_no_url() {
        assert_eq!(local_folder("/tmp/x"), Ok("/tmp/x".into()));
        assert!(local_folder("x").unwrap().is_absolute());
        for wrong in ["s3://b/p", "s3:/b/p", "file:///x", "~/x", "", " x"] {
            assert!(local_folder(wrong).is_err(), "{wrong}");
        }
    }
}
