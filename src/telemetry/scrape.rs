//! Gauges that are written at the moment of the scrape, from [`Status`](super::status::Status).
//!
//! A gauge of the `metrics` crate cannot be taken back: a shard that left for another worker would be reported for ever
//! with its last value, an age would stand still while its shard does, and what has become unknown would look known.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fleet::{LedSnapshot, ReasonSnapshot, StreamSnapshot};
use super::metrics::as_f64;
use super::status::{Retrieval, ShardSnapshot, Snapshot, TableStream};

/// Name, meaning and value of a shard's gauge; no value, no line.
type ShardGauge = (&'static str, &'static str, fn(&ShardSnapshot) -> Option<f64>);

/// The gauges of one shard, written at the scrape.
const SHARD_GAUGES: [ShardGauge; 4] = [
    (
        "kinetide_millis_behind_latest",
        "MillisBehindLatest of the last fetch: how far the reader is behind the tip of its shard, in milliseconds. No series when the stream has not answered for two minutes.",
        |shard| shard.millis_behind_latest.map(as_f64),
    ),
    (
        "kinetide_delivered_age_seconds",
        "Age of the oldest record of the shard that is not yet in the lake, in seconds.",
        |shard| shard.delivered_age_ms.map(|ms| as_f64(ms) / 1000.0),
    ),
    (
        "kinetide_shard_fan_out",
        "1 while the shard is read by a subscription of enhanced fan-out, 0 while it is polled.",
        |shard| shard.retrieval.map(|retrieval| f64::from(u8::from(retrieval == Retrieval::FanOut))),
    ),
    ("kinetide_shard_stalled", "1 while the shard makes no progress, with the reason.", |shard| {
        shard.stalled_reason().map(|_| 1.0)
    }),
];

/// Name, meaning and value of what the leader says of the fleet.
type LedGauge = (&'static str, &'static str, fn(&LedSnapshot) -> Option<usize>);

/// What the leader says of the fleet, written at the scrape: the view of a former leader goes with its lead.
const LED_GAUGES: [LedGauge; 3] = [
    ("kinetide_workers_active", "Workers that can be assigned leases, on the leader.", |led| {
        Some(led.workers.iter().filter(|worker| worker.active).count())
    }),
    (
        "kinetide_leases_unplaced",
        "Leases without an owner that no worker has room for, on the leader.",
        |led| led.unplaced,
    ),
    (
        "kinetide_workers_wanted",
        "How many workers the fleet should have, on the leader: docs/SCALING.md has the rule.",
        |led| led.workers_wanted.and_then(|wanted| wanted.try_into().ok()),
    ),
];

/// Name, meaning and value of a gauge of one stream.
type StreamGauge = (&'static str, &'static str, fn(&StreamSnapshot) -> Option<usize>);

/// What the leader says of each stream, written at the scrape.
const STREAM_GAUGES: [StreamGauge; 2] = [
    (
        "kinetide_shard_holes",
        "Hash key ranges that no unfinished lease covers, on the leader; normal for moments around a reshard.",
        |stream| stream.holes,
    ),
    (
        "kinetide_stream_recreated",
        "1 while the leader finds that the leases belong to an earlier stream of the same name, else 0.",
        |stream| stream.recreated.map(usize::from),
    ),
];

/// Name, meaning and value of a gauge of one reason why shards are not read.
type ReasonGauge = (&'static str, &'static str, fn(&ReasonSnapshot) -> Option<f64>);

/// What the leader says of shards that nobody reads, written at the scrape.
const REASON_GAUGES: [ReasonGauge; 2] = [
    (
        "kinetide_shards_not_read",
        "Shards that no worker reads, by reason, on the leader; docs/LEASES.md explains each reason.",
        |reason| Some(as_f64(reason.shards as u64)),
    ),
    (
        "kinetide_shards_not_read_seconds",
        "Longest time that one of these shards has not been read, by reason, on the leader.",
        |reason| reason.longest_ms.map(|ms| as_f64(ms) / 1000.0),
    ),
];

/// The gauges of the process, of every shard that this worker reads now, and, where it leads, of fleet and streams, in
/// the Prometheus text format. `troubles`: for each call how long it has failed, seconds.
pub fn gauges(snapshot: &Snapshot, troubles: &BTreeMap<&'static str, f64>) -> String {
    let mut text = process(snapshot);
    let name = "kinetide_coordinator_trouble_seconds";
    head(
        &mut text,
        name,
        "How long calls of the lease coordinator have failed or had no response, by operation; 0 without trouble.",
    );
    for (call, seconds) in troubles {
        let _ = writeln!(text, "{name}{{call=\"{call}\"}} {seconds}");
    }
    text.push('\n');
    for (name, help, value) in SHARD_GAUGES {
        head(&mut text, name, help);
        for shard in &snapshot.shards {
            let Some(value) = value(shard) else { continue };
            let labels = format!("stream=\"{}\",shard=\"{}\"", escaped(&shard.stream), escaped(&shard.shard));
            let _ = match shard.stalled_reason().filter(|_| name == "kinetide_shard_stalled") {
                Some(reason) => {
                    writeln!(text, "{name}{{{labels},reason=\"{}\"}} {value}", escaped(reason))
                }
                None => writeln!(text, "{name}{{{labels}}} {value}"),
            };
        }
        text.push('\n');
    }
    let name = "kinetide_stream_off";
    head(
        &mut text,
        name,
        "1 while the stream of a table is turned off, so that changes are in no stream, else 0.",
    );
    for TableStream { stream, on, .. } in &snapshot.table_streams {
        let _ = writeln!(text, "{name}{{stream=\"{}\"}} {}", escaped(stream), u8::from(!on));
    }
    text.push('\n');
    let led = snapshot.fleet.as_ref().and_then(|fleet| fleet.led.as_ref());
    for (name, help, value) in LED_GAUGES {
        head(&mut text, name, help);
        if let Some(value) = led.and_then(value) {
            let _ = writeln!(text, "{name} {value}");
        }
        text.push('\n');
    }
    for (name, help, value) in STREAM_GAUGES {
        head(&mut text, name, help);
        for stream in led.iter().flat_map(|led| &led.streams) {
            let Some(value) = value(stream) else { continue };
            let _ = writeln!(text, "{name}{{stream=\"{}\"}} {value}", escaped(&stream.stream));
        }
        text.push('\n');
    }
    for (name, help, value) in REASON_GAUGES {
        head(&mut text, name, help);
        for (word, reason) in led.iter().flat_map(|led| &led.reasons) {
            let Some(value) = value(reason) else { continue };
            let _ = writeln!(text, "{name}{{reason=\"{word}\"}} {value}");
        }
        text.push('\n');
    }
    text
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// What Prometheus expects of every process, and what only the process knows of itself.
fn process(snapshot: &Snapshot) -> String {
    let fleet = snapshot.fleet.as_ref();
    // Before it has looked at the lock it does not lead.
    let leads = fleet.and_then(|fleet| fleet.leader.as_ref()).is_some_and(|leader| leader.this_worker);
    let cloudwatch = snapshot.cloudwatch.as_ref();
    let failing_ms = cloudwatch.map(|export| export.trouble.as_ref().map_or(0, |trouble| trouble.for_ms));
    #[expect(clippy::cast_precision_loss, reason = "a time in seconds, exact to the microsecond for ages")]
    let started = snapshot.started_us as f64 / 1e6;
    let gauges = [
        ("process_start_time_seconds", "Start time of the process since the epoch, seconds.", Some(started)),
        (
            "process_resident_memory_bytes",
            "Resident memory of the process in bytes, where the system reports it.",
            resident_bytes().map(as_f64),
        ),
        (
            "kinetide_ready",
            "1 while the worker is ready, as /readyz says.",
            Some(f64::from(u8::from(snapshot.ready))),
        ),
        ("kinetide_leader", "1 while this worker is the leader.", Some(f64::from(u8::from(leads)))),
        (
            "kinetide_leader_overdue_seconds",
            "How long the fleet has been without a leader although it should have one, in seconds; 0 while it has one.",
            fleet.and_then(|fleet| fleet.leader_overdue_ms).map(|ms| as_f64(ms) / 1000.0),
        ),
        (
            "kinetide_cloudwatch_trouble_seconds",
            "How long metrics could not be sent to CloudWatch, in seconds; 0 without trouble.",
            failing_ms.map(|ms| as_f64(ms) / 1000.0),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        head(&mut text, name, help);
        if let Some(value) = value {
            let _ = writeln!(text, "{name} {value}");
        }
        text.push('\n');
    }
    let (name, version) = ("kinetide_build_info", escaped(snapshot.version));
    head(&mut text, name, "Always 1; the label is the version of kinetide.");
    let _ = writeln!(text, "{name}{{version=\"{version}\"}} 1\n");
    text
}

/// `VmRSS` of `/proc/self/status`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fleet::{FleetSnapshot, LeaderSnapshot, WorkerSnapshot};
    use crate::telemetry::status::{Status, tests::facts};

    /// Series of what only a leader says, and whether it leads.
    fn said(fleet: Option<FleetSnapshot>) -> Vec<String> {
        let status = Status::new(facts("w"), std::time::Duration::from_secs(20));
        let text = gauges(&Snapshot { fleet, ..status.snapshot() }, &BTreeMap::new());
        let names = [
            "kinetide_leader",
            "kinetide_workers_active",
            "kinetide_leases_unplaced",
            "kinetide_workers_wanted",
            "kinetide_shard_holes",
            "kinetide_stream_recreated",
        ];
        let is_one = |line: &&str| names.contains(&line.split(['{', ' ']).next().unwrap());
        text.lines().filter(is_one).map(str::to_owned).collect()
    }

    fn stream(name: &str, holes: Option<usize>, recreated: Option<bool>) -> StreamSnapshot {
        StreamSnapshot { stream: name.to_owned(), holes, recreated }
    }

    #[test]
    fn the_view_of_a_leader_goes_with_its_lead_and_what_it_does_not_know_is_not_there() {
        let leader =
            LeaderSnapshot { worker: "w".to_owned(), this_worker: true, unmoved_ms: 0, lease_ms: 5_000 };
        let workers = [("a", true), ("b", false)].map(|(id, active)| WorkerSnapshot {
            worker: id.to_owned(),
            active,
            leases: 0,
        });
        let led = LedSnapshot {
            workers: workers.into(),
            unplaced: Some(4),
            workers_wanted: Some(3),
            streams: vec![stream("trades", Some(2), Some(true)), stream("orders", Some(0), Some(false))],
            ..LedSnapshot::default()
        };
        let leads = FleetSnapshot { leader: Some(leader), led: Some(led), ..FleetSnapshot::default() };
        let mut new = leads.clone();
        let seen = [
            "kinetide_leader 1",
            "kinetide_workers_active 1",
            "kinetide_leases_unplaced 4",
            "kinetide_workers_wanted 3",
            r#"kinetide_shard_holes{stream="trades"} 2"#,
            r#"kinetide_shard_holes{stream="orders"} 0"#,
            r#"kinetide_stream_recreated{stream="trades"} 1"#,
            r#"kinetide_stream_recreated{stream="orders"} 0"#,
        ];
        assert_eq!(said(Some(leads)), seen);
        let led = new.led.as_mut().unwrap();
        (led.unplaced, led.streams) = (None, vec![stream("trades", None, None)]);
        led.workers_wanted = None;
        assert_eq!(said(Some(new)), seen[..2], "it has looked, and neither planned nor listed");
        assert_eq!(said(Some(FleetSnapshot::default())), ["kinetide_leader 0"]);
        assert_eq!(said(None), ["kinetide_leader 0"], "it has not looked at the lock");
    }

    #[test]
    fn the_stream_of_a_table_is_on_or_off_and_others_are_neither() {
        let status = Status::new(facts("w"), std::time::Duration::from_secs(20));
        status.set_streams(vec!["trades".to_owned(), "table/a".to_owned(), "table/b".to_owned()]);
        status.set_stream_off("table/a", true);
        status.set_stream_off("table/b", false);
        let text = gauges(&status.snapshot(), &BTreeMap::new());
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("kinetide_stream_off{")).collect();
        let expected =
            [r#"kinetide_stream_off{stream="table/a"} 1"#, r#"kinetide_stream_off{stream="table/b"} 0"#];
        assert_eq!(said, expected);
    }

    #[test]
    fn how_far_a_reader_is_behind_has_no_series_while_it_is_unknown() {
        let status = Status::new(facts("w"), std::time::Duration::from_secs(20));
        let shard = |behind_ms| ShardSnapshot {
            millis_behind_latest: behind_ms,
            delivered_age_ms: Some(130_000),
            ..ShardSnapshot::of("s-1", crate::telemetry::status::ShardState::Reading)
        };
        for behind_ms in [Some(7), None] {
            let snapshot = Snapshot { shards: vec![shard(behind_ms)], ..status.snapshot() };
            let text = gauges(&snapshot, &BTreeMap::new());
            assert_eq!(text.contains("kinetide_millis_behind_latest{"), behind_ms.is_some(), "{text}");
            assert!(text.contains("kinetide_delivered_age_seconds{"), "{text}");
        }
    }
}
