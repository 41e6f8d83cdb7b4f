//! What is sent: names, units and dimensions in CloudWatch, from the state of the process.
//!
//! Each worker sends each metric once a minute, so that Sum over a minute is the fleet where numbers add up, and Maximum is
//! the fleet's worst where they are ages. What is unknown is left out. Names and dimensions are those of KCL where it has
//! the metric. The namespace is the application, as there: no dimension names it.

use std::collections::{BTreeMap, BTreeSet};

use super::Level;
use crate::telemetry::metrics::as_f64;
use crate::telemetry::snapshot::{ShardSnapshot, Snapshot};
use crate::telemetry::tally::{ByShard, Tally};

/// Shards that wait for their parents are not read, and nothing is wrong.
const IN_ORDER: &str = "waiting_for_parents";

/// What KCL's leader calls its part.
const ASSIGNING: &str = "LeaseAssignmentManager";

const COUNT: &str = "Count";
const BYTES: &str = "Bytes";
const SECONDS: &str = "Seconds";
const MILLISECONDS: &str = "Milliseconds";

/// One metric at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Datum {
    pub(super) name: &'static str,
    pub(super) dimensions: Vec<(&'static str, String)>,
    /// As CloudWatch writes it.
    pub(super) unit: &'static str,
    /// One, or one of each shard.
    pub(super) values: Vec<f64>,
}

impl Datum {
    /// An age, of which the fleet's is the largest: it may be told more often than once a minute without adding up.
    pub(super) fn is_age(&self) -> bool {
        matches!(self.unit, SECONDS | MILLISECONDS)
    }
}

/// What there is to tell.
pub(super) struct Moment<'a> {
    pub(super) level: Level,
    /// The application has, or may get, several streams.
    pub(super) several: bool,
    /// The process now; none after its end, when only counts are left to be told.
    pub(super) snapshot: Option<&'a Snapshot>,
    /// What was done since the last time.
    pub(super) done: &'a ByShard,
    /// Gaps found since the last time.
    pub(super) trimmed: u64,
    /// How long ago the last time was.
    pub(super) seconds: f64,
}

pub(super) fn data(moment: &Moment<'_>) -> Vec<Datum> {
    let mut data = Vec::new();
    of_fleet(moment, &mut data);
    of_work(moment, None, &mut data);
    if moment.several {
        let known = moment.snapshot.iter().flat_map(|snapshot| &snapshot.streams);
        let mut streams: BTreeSet<&str> = known.map(String::as_str).collect();
        streams.extend(moment.done.keys().map(|(stream, _)| stream.as_str()));
        streams.extend(shards(moment).map(|shard| shard.stream.as_str()));
        for stream in streams {
            of_work(moment, Some(stream), &mut data);
        }
    }
    if moment.level == Level::Detailed {
        of_shards(moment, &mut data);
    }
    data.retain(|datum| !datum.values.is_empty());
    data
}

fn shards<'a>(moment: &Moment<'a>) -> impl Iterator<Item = &'a ShardSnapshot> + use<'a> {
    moment.snapshot.into_iter().flat_map(|snapshot| &snapshot.shards)
}

fn of_kcl(operation: &str) -> Vec<(&'static str, String)> {
    vec![("Operation", operation.to_owned())]
}

/// What this worker says of the fleet, and of what the leader does.
fn of_fleet(moment: &Moment<'_>, data: &mut Vec<Datum>) {
    let fleet = moment.snapshot.and_then(|snapshot| snapshot.fleet.as_ref());
    let led = fleet.and_then(|fleet| fleet.led.as_ref());
    let late = led.map(|led| led.reasons.iter().filter(|(word, _)| **word != IN_ORDER));
    let late: Option<Vec<_>> = late.map(|late| late.map(|(_, reason)| *reason).collect());
    let not_read = late.as_ref().map(|late| late.iter().map(|reason| reason.shards as u64).sum::<u64>());
    let longest_ms = late.as_ref().and_then(|late| {
        // For how long is not always known; that nothing waits is.
        let longest = late.iter().filter_map(|reason| reason.longest_ms).max();
        longest.or((not_read == Some(0)).then_some(0))
    });
    let overdue_ms = fleet.and_then(|fleet| fleet.leader_overdue_ms);
    let seconds = |ms: Option<u64>| ms.map(|ms| as_f64(ms) / 1000.0);
    let workers = led.map(|led| led.workers.iter().filter(|worker| worker.active).count() as u64);
    let leases =
        led.map(|led| led.leases.read + led.leases.unheard + led.leases.not_read + led.leases.finished);
    let unplaced = led.and_then(|led| led.unplaced);
    let count = |number: Option<usize>| number.map(|number| as_f64(number as u64));
    // What fails now, so none is none.
    let trouble_ms =
        moment.snapshot.map(|snapshot| snapshot.troubles.iter().map(|trouble| trouble.for_ms).max());
    let trouble_ms = trouble_ms.map(|longest| longest.unwrap_or(0));
    for (name, dimensions, unit, value) in [
        ("CheckpointsTrimmed", Vec::new(), COUNT, Some(as_f64(moment.trimmed))),
        ("LeaderOverdueSeconds", Vec::new(), SECONDS, seconds(overdue_ms)),
        ("CoordinatorTroubleSeconds", Vec::new(), SECONDS, seconds(trouble_ms)),
        ("ShardsNotRead", Vec::new(), COUNT, not_read.map(as_f64)),
        ("ShardsNotReadSeconds", Vec::new(), SECONDS, seconds(longest_ms)),
        ("NumWorkers", of_kcl(ASSIGNING), COUNT, workers.map(as_f64)),
        ("TotalLeases", of_kcl(ASSIGNING), COUNT, count(leases)),
        ("LeaseSpillover", of_kcl(ASSIGNING), COUNT, count(unplaced)),
    ] {
        data.push(Datum { name, dimensions, unit, values: value.into_iter().collect() });
    }
}

/// What this worker does, for all streams or for one of several.
fn of_work(moment: &Moment<'_>, stream: Option<&str>, data: &mut Vec<Datum>) {
    let is_of = |of: &str| stream.is_none_or(|stream| stream == of);
    let shards: Vec<&ShardSnapshot> = shards(moment).filter(|shard| is_of(&shard.stream)).collect();
    let mut done = Tally::default();
    moment.done.iter().filter(|((of, _), _)| is_of(of)).for_each(|(_, tally)| done.add(*tally));
    let running = moment.snapshot.is_some();
    let rate = (running && moment.seconds > 0.0).then(|| as_f64(done.records) / moment.seconds);
    let one = |value: u64| vec![as_f64(value)];
    let ours = || stream.map(|stream| ("Stream", ascii(stream))).into_iter().collect::<Vec<_>>();
    let behind = match stream {
        Some(_) => ours(),
        None => of_kcl("ApplicationTracker"),
    };
    for (name, dimensions, unit, values) in [
        ("DeliveredAge", ours(), SECONDS, shards.iter().filter_map(|shard| age_seconds(shard)).collect()),
        (
            "MillisBehindLatest",
            behind,
            MILLISECONDS,
            shards.iter().filter_map(|shard| shard.millis_behind_latest).map(as_f64).collect(),
        ),
        ("RecordsDelivered", ours(), COUNT, one(done.records)),
        ("BytesDelivered", ours(), BYTES, one(done.bytes)),
        ("RecordsPerSecond", ours(), "Count/Second", rate.into_iter().collect()),
        ("DeadLetters", ours(), COUNT, one(done.dead_letters)),
        ("DeliverFailures", ours(), COUNT, one(done.deliver_failures)),
        ("LeasesHeld", ours(), COUNT, if running { one(shards.len() as u64) } else { Vec::new() }),
    ] {
        data.push(Datum { name, dimensions, unit, values });
    }
}

fn of_shards(moment: &Moment<'_>, data: &mut Vec<Datum>) {
    let now: BTreeMap<(&str, &str), &ShardSnapshot> =
        shards(moment).map(|shard| ((shard.stream.as_str(), shard.shard.as_str()), shard)).collect();
    let done = moment.done.keys().map(|(stream, shard)| (stream.as_str(), shard.as_str()));
    let all: BTreeSet<(&str, &str)> = now.keys().copied().chain(done).collect();
    for (stream, shard) in all {
        let tally = moment.done.get(&(stream.to_owned(), shard.to_owned())).copied().unwrap_or_default();
        let snapshot = now.get(&(stream, shard));
        let behind = snapshot.and_then(|snapshot| snapshot.millis_behind_latest).map(as_f64);
        let mut of_kcl = vec![("Operation", "ProcessTask".to_owned()), ("ShardId", ascii(shard))];
        let mut ours = vec![("ShardId", ascii(shard))];
        if moment.several {
            of_kcl.push(("StreamId", ascii(stream)));
            ours.push(("Stream", ascii(stream)));
        }
        for (name, dimensions, unit, value) in [
            ("RecordsProcessed", of_kcl.clone(), COUNT, Some(as_f64(tally.records))),
            ("DataBytesProcessed", of_kcl.clone(), BYTES, Some(as_f64(tally.bytes))),
            ("MillisBehindLatest", of_kcl, MILLISECONDS, behind),
            ("DeliveredAge", ours, SECONDS, snapshot.and_then(|shard| age_seconds(shard))),
        ] {
            data.push(Datum { name, dimensions, unit, values: value.into_iter().collect() });
        }
    }
}

fn age_seconds(shard: &ShardSnapshot) -> Option<f64> {
    shard.delivered_age_ms.map(|ms| as_f64(ms) / 1000.0)
}

/// CloudWatch refuses a whole call for one dimension that is not printable ASCII. Names at AWS are; a source of a program
/// may call its shards anything.
fn ascii(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().take(1024).map(plain).collect();
    if text.trim().is_empty() { "?".to_owned() } else { text }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
