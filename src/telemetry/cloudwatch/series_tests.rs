//! What is sent of a process, and what is left out.

use super::*;
use crate::telemetry::fleet::{FleetSnapshot, LeaseCounts, LedSnapshot, ReasonSnapshot, WorkerSnapshot};
use crate::telemetry::snapshot::ShardState;
use crate::telemetry::trouble::TroubleSnapshot;

fn snapshot(streams: &[&str], fleet: Option<FleetSnapshot>, shards: Vec<ShardSnapshot>) -> Snapshot {
    let status = crate::telemetry::status::Status::new(
        crate::telemetry::status::tests::facts("w"),
        std::time::Duration::from_secs(20),
    );
    status.set_streams(streams.iter().map(ToString::to_string).collect());
    Snapshot { fleet, shards, ..status.snapshot() }
}

fn shard(stream: &str, shard: &str, behind_ms: Option<u64>, age_ms: Option<u64>) -> ShardSnapshot {
    ShardSnapshot {
        stream: stream.to_owned(),
        millis_behind_latest: behind_ms,
        delivered_age_ms: age_ms,
        ..ShardSnapshot::of(shard, ShardState::Reading)
    }
}

fn reason(shards: usize, longest_ms: Option<u64>) -> ReasonSnapshot {
    ReasonSnapshot { shards, longest_ms }
}

fn moment<'a>(level: Level, snapshot: Option<&'a Snapshot>, done: &'a ByShard) -> Moment<'a> {
    Moment { level, several: false, snapshot, done, trimmed: 0, seconds: 60.0 }
}

fn trouble(for_ms: u64) -> TroubleSnapshot {
    TroubleSnapshot {
        call: "UpdateItem",
        purpose: "renewing",
        stream: None,
        cause: "denied".to_owned(),
        since: String::new(),
        for_ms,
        failures: 3,
        lasting: true,
    }
}

/// Name and dimensions in one spelling → values.
fn shown(moment: &Moment<'_>) -> BTreeMap<String, Vec<f64>> {
    let mut all = BTreeMap::new();
    for datum in data(moment) {
        let dimensions = datum.dimensions.iter().map(|(name, value)| format!("{name}={value}"));
        let name = format!("{} {}", datum.name, dimensions.collect::<Vec<_>>().join(","));
        let name = name.trim_end().to_owned();
        assert!(all.insert(name, datum.values).is_none(), "each metric once");
    }
    all
}

fn expected(metrics: &[(&str, &[f64])]) -> BTreeMap<String, Vec<f64>> {
    metrics.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
}

#[test]
fn a_leader_sends_all_there_is() {
    let led = LedSnapshot {
        workers: vec![
            WorkerSnapshot { worker: "a".to_owned(), active: true, leases: 2 },
            WorkerSnapshot { worker: "b".to_owned(), active: false, leases: 0 },
        ],
        reasons: [
            ("owner_silent", reason(2, Some(9_000))),
            ("unowned", reason(1, None)),
            ("waiting_for_parents", reason(5, Some(90_000))),
        ]
        .into(),
        leases: LeaseCounts { read: 4, unheard: 1, not_read: 8, finished: 2 },
        unplaced: Some(7),
        ..LedSnapshot::default()
    };
    let fleet = FleetSnapshot { leader_overdue_ms: Some(0), led: Some(led), ..FleetSnapshot::default() };
    let shards = vec![shard("trades", "1", Some(250), Some(1_500)), shard("trades", "2", None, None)];
    let mut snapshot = snapshot(&["trades"], Some(fleet), shards);
    snapshot.troubles = [4_000, 130_000].map(trouble).into();
    // A shard that has left counts too.
    let tally = Tally { records: 60, bytes: 6_000, dead_letters: 1, deliver_failures: 2 };
    let done = ["2", "gone"].map(|shard| (("trades".to_owned(), shard.to_owned()), tally)).into();
    let mut moment = moment(Level::Summary, Some(&snapshot), &done);
    moment.trimmed = 3;
    let summary = expected(&[
        ("CheckpointsTrimmed", &[3.0]),
        ("LeaderOverdueSeconds", &[0.0]),
        ("CoordinatorTroubleSeconds", &[130.0]),
        ("ShardsNotRead", &[3.0]),
        ("ShardsNotReadSeconds", &[9.0]),
        ("NumWorkers Operation=LeaseAssignmentManager", &[1.0]),
        ("TotalLeases Operation=LeaseAssignmentManager", &[15.0]),
        ("LeaseSpillover Operation=LeaseAssignmentManager", &[7.0]),
        ("MillisBehindLatest Operation=ApplicationTracker", &[250.0]),
        ("DeliveredAge", &[1.5]),
        ("RecordsDelivered", &[120.0]),
        ("BytesDelivered", &[12_000.0]),
        ("RecordsPerSecond", &[2.0]),
        ("DeadLetters", &[2.0]),
        ("DeliverFailures", &[4.0]),
        ("LeasesHeld", &[2.0]),
    ]);
    assert_eq!(summary.len(), 16, "as the help and docs/OPERATING.md say");
    assert_eq!(shown(&moment), summary);

    moment.several = true;
    let mut of_streams = shown(&moment);
    of_streams.retain(|name, _| name.contains("Stream="));
    assert_eq!(of_streams.len(), 8, "as the help and docs/OPERATING.md say");
    assert_eq!(of_streams["RecordsDelivered Stream=trades"], [120.0]);
    assert_eq!(of_streams["MillisBehindLatest Stream=trades"], [250.0]);

    (moment.several, moment.level) = (false, Level::Detailed);
    let mut detailed = shown(&moment);
    detailed.retain(|name, _| name.contains("ShardId"));
    let per_shard = expected(&[
        ("RecordsProcessed Operation=ProcessTask,ShardId=1", &[0.0]),
        ("DataBytesProcessed Operation=ProcessTask,ShardId=1", &[0.0]),
        ("MillisBehindLatest Operation=ProcessTask,ShardId=1", &[250.0]),
        ("DeliveredAge ShardId=1", &[1.5]),
        ("RecordsProcessed Operation=ProcessTask,ShardId=2", &[60.0]),
        ("DataBytesProcessed Operation=ProcessTask,ShardId=2", &[6_000.0]),
        ("RecordsProcessed Operation=ProcessTask,ShardId=gone", &[60.0]),
        ("DataBytesProcessed Operation=ProcessTask,ShardId=gone", &[6_000.0]),
    ]);
    assert_eq!(detailed, per_shard);
    moment.several = true;
    let several = shown(&moment);
    assert!(several.contains_key("RecordsProcessed Operation=ProcessTask,ShardId=1,StreamId=trades"));
    assert!(several.contains_key("DeliveredAge ShardId=1,Stream=trades"));
}

#[test]
fn what_is_unknown_is_left_out_and_never_zero() {
    let done = ByShard::new();
    let follower = FleetSnapshot::default();
    let snapshot = snapshot(&["trades"], Some(follower), vec![shard("trades", "1", None, None)]);
    let names = |moment: &Moment<'_>| -> Vec<String> { shown(moment).into_keys().collect() };
    assert_eq!(
        names(&moment(Level::Detailed, Some(&snapshot), &done)),
        [
            "BytesDelivered",
            "CheckpointsTrimmed",
            "CoordinatorTroubleSeconds",
            "DataBytesProcessed Operation=ProcessTask,ShardId=1",
            "DeadLetters",
            "DeliverFailures",
            "LeasesHeld",
            "RecordsDelivered",
            "RecordsPerSecond",
            "RecordsProcessed Operation=ProcessTask,ShardId=1",
        ]
    );
    // After the end there are counts only.
    let tally = Tally { records: 1, ..Tally::default() };
    let done = [(("trades".to_owned(), "1".to_owned()), tally)].into();
    assert_eq!(
        names(&moment(Level::Summary, None, &done)),
        ["BytesDelivered", "CheckpointsTrimmed", "DeadLetters", "DeliverFailures", "RecordsDelivered",]
    );
}

#[test]
fn that_no_shard_waits_is_known_and_for_how_long_may_not_be() {
    let done = ByShard::new();
    for (reasons, shards, seconds) in [
        (vec![], 0.0, Some(0.0)),
        (vec![("waiting_for_parents", reason(1, Some(5_000)))], 0.0, Some(0.0)),
        (vec![("unowned", reason(2, None))], 2.0, None),
    ] {
        let led = LedSnapshot { reasons: reasons.into_iter().collect(), ..LedSnapshot::default() };
        let fleet = FleetSnapshot { led: Some(led), ..FleetSnapshot::default() };
        let snapshot = snapshot(&["trades"], Some(fleet), Vec::new());
        let shown = shown(&moment(Level::Summary, Some(&snapshot), &done));
        assert_eq!(shown["ShardsNotRead"], [shards]);
        assert_eq!(shown.get("ShardsNotReadSeconds").map(|values| values[0]), seconds);
    }
}

#[test]
fn a_dimension_is_what_cloudwatch_takes() {
    for (text, taken) in [("trades", "trades"), ("håll\n", "h?ll?"), ("  ", "?"), ("", "?")] {
        assert_eq!(ascii(text), taken);
    }
    assert_eq!(ascii(&"x".repeat(2000)).len(), 1024);
}
