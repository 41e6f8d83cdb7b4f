//! Readers of small things: a prepared state, the settings file, numbers and times, objects of the lake.

use std::io::Write;
use std::sync::Arc;

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use kinetide::internals::batch::read_records;
use kinetide::internals::checkpoint::{PendingBatch, PendingError};
use kinetide::internals::config::{Config, RunArgs};
use kinetide::internals::decode::Number;
use kinetide::internals::lease::Pending;
use kinetide::internals::shard::{Checkpoint, Position, SequenceNumber};
use kinetide::internals::transform::{TransformId, parse_utc_us};
use kinetide::internals::trial::{Put, Puts};
use serde_json::Value;

use super::fuzz;
use super::records::judge;

/// As the row says it: at the position that the state itself names, else anywhere.
fn pending(state: &[u8]) -> Pending {
    let document: Value = serde_json::from_slice(state).unwrap_or_default();
    let sequence = document["last"].as_str().and_then(SequenceNumber::parse).unwrap_or(1.into());
    let sub = document["last_sub"].as_u64().unwrap_or(0);
    Pending { checkpoint: Checkpoint::At(Position { sequence, sub }), state: Some(Arc::from(state)) }
}

#[test]
fn a_prepared_state_is_foreign_or_an_error_or_nothing_of_it_is_lost() {
    fuzz("prepared-states", 3000, Vec::new(), |state| {
        let pending = pending(state);
        match PendingBatch::from_pending(&pending) {
            Ok(None) => {
                let ours = state.starts_with(br#"{"kinetide":"#);
                assert!(!ours, "a batch of ours is taken for that of a Java application");
                "foreign".to_owned()
            }
            Ok(Some(batch)) => {
                let again = batch.to_pending();
                assert_eq!(again.checkpoint, pending.checkpoint);
                assert_eq!(PendingBatch::from_pending(&again), Ok(Some(batch)));
                // Nothing that was written is left out: what is not there again had the value of its absence.
                let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
                let (before, after) = (read(state), read(again.state.as_deref().unwrap()));
                for (name, value) in before.as_object().unwrap() {
                    let absent = [Value::from(0), Value::from(false), Value::Array(Vec::new())];
                    // Keys can be shortened in more than one way.
                    let short = before["kinetide"] == 3 && ["objects", "sealed"].contains(&name.as_str());
                    let kept = after.get(name) == Some(value) || name == "kinetide" || short;
                    assert!(kept || (after.get(name).is_none() && absent.contains(value)), "{name}");
                }
                format!("{} {}", after["stage"], before.as_object().unwrap().len())
            }
            Err(PendingError::Newer(_)) => "newer".to_owned(),
            Err(PendingError::Unpacking(_)) => "unpacked".to_owned(),
            Err(PendingError::Damaged(reason)) => reason.split(" at line").next().unwrap().to_owned(),
        }
    });
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: RunArgs,
}

/// The outcome of a start with this settings file.
pub(super) fn settings(text: &[u8]) -> Result<Config, String> {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let args = ["run", "--stream", "trades", "--lake", "/lake", "--worker-id", "w", "--settings", &file];
    let transform = ["--transform", "crypto-transactions"];
    let args = Command::try_parse_from([&args[..], &transform].concat()).unwrap().args;
    Config::try_from(args).map_err(|error| error.to_string().replace(&file, ""))
}

#[test]
fn a_settings_file_is_taken_or_refused_with_a_reason() {
    fuzz("settings", 300, Vec::new(), |text| match settings(text) {
        Ok(config) => {
            // The id goes to lease rows and comes back from there.
            let landing = config.streams.streams[0].landing().unwrap();
            let id = landing.transform.id().to_string();
            assert_eq!(id.parse::<TransformId>().as_ref(), Ok(landing.transform.id()));
            id
        }
        Err(reason) => {
            assert!(reason.len() > 20, "{reason}");
            reason.lines().last().unwrap_or_default().to_owned()
        }
    });
}

#[test]
fn numbers_and_times_are_read_exactly_or_not_at_all() {
    fuzz("numbers", 5000, Vec::new(), |bytes| {
        let mut kinds = vec![parse_utc_us(bytes).is_some()];
        if let Some(time) = parse_utc_us(bytes) {
            assert!((0..=253_402_300_799_999_999).contains(&time));
        }
        let number = Number::parse(bytes);
        kinds.push(number.is_some());
        if let Some(number) = number {
            assert!(
                serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok(),
                "JSON's own grammar"
            );
            kinds.push(number.fits_dynamodb());
            for scale in [0, 6, 18, 37] {
                let scaled = number.scaled(scale, 10i128.pow(37));
                assert!(scaled.is_none_or(|scaled| scaled.unsigned_abs() < 10u128.pow(37)));
                kinds.push(scaled.is_some());
            }
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = text.parse::<TransformId>();
            let _ = text.parse::<kinetide::internals::deliver::LakeUrl>();
            if let Some(checkpoint) = Checkpoint::parse(text, 3) {
                assert_eq!(checkpoint.as_str(), text);
                assert_eq!(Checkpoint::parse(text, checkpoint.sub()), Some(checkpoint));
            }
            if let Some(sequence) = SequenceNumber::parse(text) {
                let padded = SequenceNumber::parse(&format!("0{text}"));
                assert!(padded.is_none_or(|padded| padded == sequence));
                let more = SequenceNumber::parse(&format!("9{text}"));
                assert!(more.is_none_or(|more| more > sequence));
                kinds.push(true);
            }
        }
        format!("{kinds:?}")
    });
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Somebody has changed an object, or put another one there: repair and the judge say so.
#[test]
fn an_object_of_the_lake_is_read_or_broken() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzz("objects", 400, Vec::new(), |text| {
        let whole = gzip(text);
        // Rows that changed, gzip that changed, and no gzip at all.
        let mut bent = whole.clone();
        if let Some(byte) = bent.get_mut(text.len() % whole.len()) {
            *byte = byte.wrapping_add(1);
        }
        let cut = whole[..text.len() % whole.len()].to_vec();
        let positions = [&whole, &bent, &cut, &text.to_vec()].map(|object| read_records(object));
        if let Ok(positions) = &positions[0] {
            let lines = text.split_inclusive(|byte| *byte == b'\n').count();
            assert_eq!(positions.len(), lines, "a position for every row");
        }
        let objects = [whole, bent, cut, text.to_vec()].into_iter().enumerate().flat_map(|(number, body)| {
            ["landing/transactions/year=2026/month=01/day=15/hour=09", "errors/not_json"]
                .map(|folder| (format!("{folder}/{number}.ndjson.gz"), body.clone()))
        });
        let mut puts = Puts::default();
        for number in ["1001", "1002"] {
            let put = Put::new("shardId-000000000000", number, b"{}", 0).unwrap();
            puts.add("shardId-000000000000", put).unwrap();
        }
        let check = runtime.block_on(judge(&objects.collect::<Vec<_>>(), puts));
        assert_eq!((check.objects, check.records_put), (8, 2));
        // The plain text is no object, unless it happens to be gzip.
        assert!(check.broken_objects > 0 || text.is_empty() || text[0] == 0x1f, "{check:?}");
        let kinds = positions.map(|found| found.map(|rows| rows.len()).map_err(|error| error.to_string()));
        format!("{} {:?} {}", check.broken_lines, kinds[0], check.value_mismatches)
    });
}
