//! The judge: what was put, what Java was given, what lies in our lake. Shares no code with the pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// A record's place in the stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) shard: String,
    pub(super) sequence: String,
    /// Its index in an aggregate; 0 where it is a record of its own.
    pub(super) sub: u64,
}

impl Place {
    /// Of a record of its own.
    pub(super) fn new(shard: impl Into<String>, sequence: impl Into<String>) -> Self {
        Self { shard: shard.into(), sequence: sequence.into(), sub: 0 }
    }
}

/// How the records were shared.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) put: usize,
    pub(super) java: usize,
    pub(super) ours: usize,
    /// Given to Java more than once, or to Java and to us: replays above a checkpoint.
    pub(super) replayed: usize,
}

/// Each record must have been given to Java or be in our lake, in our lake at most once, and nothing else may be.
pub(super) fn judge(
    put: &BTreeSet<Place>,
    java: &[Place],
    lake: &BTreeMap<Place, usize>,
) -> Result<Verdict, String> {
    let given: BTreeSet<&Place> = java.iter().collect();
    let missing = put.iter().filter(|place| !given.contains(place) && !lake.contains_key(place));
    none("put, and nobody has it", missing)?;
    none("in our lake twice", lake.iter().filter(|(_, times)| **times > 1).map(|(place, _)| place))?;
    let invented = given.iter().copied().chain(lake.keys()).filter(|place| !put.contains(place));
    none("never put", invented)?;
    let both = given.iter().filter(|place| lake.contains_key(place)).count();
    Ok(Verdict {
        put: put.len(),
        java: given.len(),
        ours: lake.len(),
        replayed: both + java.len() - given.len(),
    })
}

fn none<'a>(what: &str, places: impl Iterator<Item = &'a Place>) -> Result<(), String> {
    let places: Vec<&Place> = places.collect();
    match places[..] {
        [] => Ok(()),
        [first, ..] => Err(format!("{} records were {what}; the first is {first:?}", places.len())),
    }
}

/// Rows and dead letters in a lake folder, with how often each is there.
pub(super) fn lake(folder: &Path) -> BTreeMap<Place, usize> {
    let mut found = BTreeMap::new();
    for file in files(folder) {
        // Others are half written.
        if !file.to_str().unwrap().ends_with(".ndjson.gz") {
            continue;
        }
        let mut text = String::new();
        MultiGzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let word = |name: &str| row[name].as_str().map(str::to_owned);
            let place = Place {
                shard: word("shard_id").or(word("shardId")).unwrap(),
                sequence: word("sequence_number").or(word("sequenceNumber")).unwrap(),
                sub: row["sub_sequence_number"].as_u64().or(row["subSequenceNumber"].as_u64()).unwrap_or(0),
            };
            *found.entry(place).or_default() += 1;
        }
    }
    found
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(numbers: impl IntoIterator<Item = u32>) -> Vec<Place> {
        let place = |number: u32| Place::new("s", number.to_string());
        numbers.into_iter().map(place).collect()
    }

    fn judged(java: &[u32], lake: &[(u32, usize)]) -> Result<Verdict, String> {
        let put = places(1..=4).into_iter().collect();
        let java = places(java.iter().copied());
        let lake = lake.iter().map(|(number, times)| (places([*number]).remove(0), *times)).collect();
        judge(&put, &java, &lake)
    }

    #[test]
    fn the_judge_sees_loss_doubles_and_inventions() {
        let verdict = judged(&[1, 2, 2, 3], &[(3, 1), (4, 1)]).unwrap();
        assert_eq!((verdict.put, verdict.java, verdict.ours, verdict.replayed), (4, 3, 2, 2));
        assert!(judged(&[1, 2], &[(4, 1)]).is_err(), "3 is missing");
        assert!(judged(&[1, 2, 3], &[(4, 2)]).is_err(), "4 is there twice");
        assert!(judged(&[1, 2, 3, 4, 5], &[]).is_err(), "5 was never put");
    }
}
