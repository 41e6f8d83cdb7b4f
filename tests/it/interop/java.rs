//! The Java side: how its worker is started, what it wrote down, and what its log complains of.

use std::path::Path;

use tokio::process::Command;

use super::verify::Place;

/// Complaints in the logs of fleets of Java workers alone, which say nothing about us: a part of the entry, and why
/// it is there.
const USUAL: [(&str, &str); 4] = [
    (
        "WorkerMetricsSelector - Did not find an operating range",
        "no ECS, EKS or EC2 to take CPU figures from",
    ),
    ("LeaseAssignmentManager - Not able to assign all", "no worker has sent its metrics yet"),
    (
        "ProcessTask - Cannot get the shard for this",
        "it lists shards every 30 s; children are younger at first",
    ),
    ("InterruptedException", "a worker that stops interrupts its threads"),
];

/// A JVM that is small and starts fast.
const JVM: [&str; 3] = ["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// The consumer of `tests/interop/java`, with its options.
pub(super) fn command(consumer: &Path, options: &[(&str, &str)]) -> Command {
    let classes = consumer.join("classes");
    let jars = consumer.join("jars").join("*");
    let mut command = Command::new("java");
    command.args(JVM).arg("-cp").arg(format!("{}:{}", classes.display(), jars.display()));
    command.arg("kinetide.interop.Consumer");
    for (name, value) in options {
        command.args([format!("--{name}"), (*value).to_owned()]);
    }
    command
}

/// The records that a Java worker was given, in order, repeats included.
pub(super) fn processed(folder: &Path, id: &str) -> Vec<Place> {
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{id}.records"))) else { return Vec::new() };
    let place = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let (shard, sequence) = (words.next()?, words.next()?);
        // The last word of a line that a kill cut short is missing.
        let (sub, _time) = (words.next()?.parse().ok()?, words.next()?);
        Some(Place { shard, sequence, sub })
    };
    text.lines().filter_map(place).collect()
}

/// What a log complains of that is not [`USUAL`]: entries with a warning, an error or an exception.
pub(super) fn complaints(log: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        // 2026-11-20T06:30:36.851Z [main] INFO software.amazon.kinesis.coordinator.Scheduler - text
        let begins = line.starts_with("20") && line.contains("Z [");
        match entries.last_mut() {
            Some(entry) if !begins => {
                entry.push('\n');
                entry.push_str(line);
            }
            _ => entries.push(line.to_owned()),
        }
    }
    entries.retain(|entry| loud(entry) && !USUAL.iter().any(|(part, _)| entry.contains(part)));
    entries
}

fn loud(entry: &str) -> bool {
    let names_exception = |line: &str| {
        let line = line.strip_prefix("Caused by: ").unwrap_or(line);
        let name = line.split([':', ' ']).next().unwrap_or_default();
        name.contains('.') && (name.ends_with("Exception") || name.ends_with("Error"))
    };
    let head = entry.lines().next().unwrap_or_default();
    ["] WARN ", "] ERROR "].iter().any(|level| head.contains(level)) || entry.lines().any(names_exception)
}

#[test]
fn complaints_are_found_in_a_log() {
    let log = "\
2026-11-20T06:30:36.851Z [main] INFO a.b.Scheduler - fine
2026-11-20T06:30:36.966Z [main] WARN a.b.WorkerMetricsSelector - Did not find an operating range metadata provider.
2026-11-20T06:30:36.966Z [pool 1] WARN a.b.C - Failed
a.b.DependencyException: java.lang.InterruptedException
\tat a.b.C.d(C.java:1)
2026-11-20T06:30:36.966Z [pool 1] ERROR a.b.ShardConsumer - broken
java.lang.IllegalStateException: no
\tat a.b.C.d(C.java:1)
2026-11-20T06:30:36.966Z [pool 1] INFO a.b.C - odd
Caused by: java.io.IOException
2026-11-20T06:30:36.966Z [main] WARN a.b.C - careful
";
    let found = complaints(log);
    let heads = found.iter().map(|entry| entry.lines().next().unwrap());
    let ends: Vec<&str> = heads.map(|head| head.rsplit(' ').next().unwrap()).collect();
    assert_eq!(ends, ["broken", "odd", "careful"]);
}
