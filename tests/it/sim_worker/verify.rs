//! Reads the lake back: every record in exactly one row or dead letter, in the object that its key promises.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use kinetide::internals::batch::HIGH_RISK_ALERTS;
use kinetide::internals::shard::ShardId;
use serde_json::Value;

use super::log::{Place, shard_of};
use super::world::{Initial, World};

/// What was put into the stream.
pub(super) struct Produced {
    pub(super) id: String,
    /// Whether it can become a row: of every transform, of some, or of none.
    pub(super) good: Good,
    /// How many rows the version gives that makes copies.
    pub(super) copies: u64,
    /// µs since the epoch.
    pub(super) arrival_us: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Good {
    Always,
    Sometimes,
    Never,
}

/// Records that are rows, or left out by a version that makes none of them, and dead letters.
pub(super) fn read_back(world: &World, produced: &BTreeMap<Place, Produced>) -> (usize, usize) {
    // Where it is, and the copies that are still to come.
    let mut seen: BTreeMap<Place, (String, u64)> = BTreeMap::new();
    let (mut rows, mut letters) = (0, 0);
    for (key, object) in world.outside.sink.objects() {
        if key.starts_with(HIGH_RISK_ALERTS) {
            continue;
        }
        let text = text_of(&object);
        let dead = key.starts_with("errors/");
        assert!(dead || key.starts_with("landing/year=2026/month=01/day=1"), "{key}");
        let (first, last) = range_of(&key);
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let (shard, sequence) = match dead {
                true => (text("shardId"), text("sequenceNumber")),
                false => (text("shard_id"), text("sequence_number")),
            };
            let sub =
                row[if dead { "subSequenceNumber" } else { "sub_sequence_number" }].as_u64().unwrap_or(0);
            let place = (ShardId::new(shard), sequence.parse::<u128>().unwrap() + u128::from(sub));
            assert!(place.0 == shard_of(&key) && (first..=last).contains(&place.1), "{place:?} in {key}");
            let Some(record) = produced.get(&place) else { panic!("{place:?} was never put") };
            let copy = row["copy"].as_u64();
            match (seen.get_mut(&place), copy) {
                (Some((other, more)), Some(copy)) if *other == key && copy + *more == record.copies => {
                    *more = more.checked_sub(1).unwrap();
                    continue;
                }
                (Some((other, _)), _) => panic!("{place:?} is in {other} and in {key}"),
                (None, Some(copy)) => assert_eq!(copy, 0),
                (None, None) => {}
            }
            if dead {
                letters += 1;
                assert!(record.good != Good::Always, "{} is a dead letter in {key}", record.id);
            } else {
                rows += 1;
                assert!(record.good != Good::Never && line.contains(&record.id), "{} in {key}", record.id);
                if let Some(created) = row["cdc_ts_us"].as_i64() {
                    let hour = created / 3_600_000_000 % 24;
                    assert!(key.contains(&format!("/hour={hour:02}/")), "{created} in {key}");
                }
            }
            seen.insert(place, (key.clone(), copy.map_or(0, |_| record.copies - 1)));
        }
    }
    let cut = seen.iter().find(|(_, (_, more))| *more > 0);
    assert!(cut.is_none(), "some rows of a record are missing: {cut:?}");
    let copied = world.log.lock().unwrap().copied;
    let starts = world.log.lock().unwrap().starts.clone();
    let is_after_the_start = |place: &Place| starts.get(&place.0).is_none_or(|start| place.1 > *start);
    for (place, record) in produced {
        let after = is_after_the_start(place);
        match world.settings.initial {
            Initial::Time(us) => assert_eq!(after, record.arrival_us >= us, "{place:?}"),
            Initial::Latest => assert_eq!(after, record.arrival_us >= world.began_us, "{place:?}"),
            Initial::TrimHorizon => assert!(after, "{place:?}"),
        }
        let early = if after { None } else { seen.get(place) };
        assert!(early.is_none(), "{place:?} was put before the start and is in {early:?}");
    }
    let (left_out, lost): (Vec<_>, Vec<_>) = produced
        .iter()
        .filter(|(place, _)| is_after_the_start(place) && !seen.contains_key(place))
        .partition(|(_, record)| copied && record.copies == 0 && record.good != Good::Never);
    assert!(lost.is_empty(), "{} records are not in the lake, the first is {:?}", lost.len(), lost[0].0);
    (rows + left_out.len(), letters)
}

/// Copies of rows: each object of them has those of one object of rows, all of them, in its order. Where every worker made
/// copies none is missing, else those of whole objects may be.
pub(super) fn read_alerts(world: &World) -> usize {
    let objects = world.outside.sink.objects();
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for (key, object) in objects.iter().filter(|(key, _)| key.starts_with("landing/")) {
        let high = |line: &&str| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["risk_flag"] == "HIGH_RISK" && row["is_valid"] == true
        };
        let rows: String = text_of(object).lines().filter(high).map(|line| format!("{line}\n")).collect();
        if !rows.is_empty() {
            wanted.insert(key.replace("landing/", "alerts/high_risk/"), rows);
        }
    }
    let mut found = 0;
    for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(HIGH_RISK_ALERTS)) {
        let rows = wanted.remove(key).unwrap_or_else(|| panic!("{key} is of no object of rows"));
        assert_eq!(text_of(object), rows, "{key}");
        found += rows.lines().count();
    }
    let always = !world.log.lock().unwrap().alerts.contains(&false);
    assert!(!always || wanted.is_empty(), "copies are missing: {:?}", wanted.keys());
    found
}

fn text_of(object: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(object).read_to_string(&mut text).unwrap();
    text
}

/// First and last record in the name of an object: `…-shardId-N-first[.sub]-last[.sub][-rG].ndjson.gz`.
fn range_of(key: &str) -> (u128, u128) {
    let name = key.rsplit_once("shardId-").unwrap().1.strip_suffix(".ndjson.gz").unwrap();
    let number = |digits: &str| digits.split('.').map(|digits| digits.parse::<u128>().unwrap()).sum::<u128>();
    let mut parts = name.split('-').skip(1).take(2).map(number);
    (parts.next().unwrap(), parts.next().unwrap())
}
