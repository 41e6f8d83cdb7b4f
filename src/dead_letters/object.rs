//! Where a dead letter object lies, and the keys that follow from it.

use crate::batch::{hour_folder, name_start, range_of_name, replay_name};
use crate::shard::{SequenceNumber, ShardId};

/// The folder of the records of replays, below that of the dead letters. Hive, Glue and Athena pass over folders
/// whose name starts so.
const REPLAYS: &str = "_replays";

/// One object of dead letters: `REASON/year=…/month=…/day=…/hour=…/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterObject {
    /// Folder of the reason.
    pub reason: String,
    /// Start of the hour of arrival, µs since the epoch.
    pub hour_us: i64,
    /// Name of the object.
    pub name: String,
}

impl LetterObject {
    fn path(&self) -> String {
        format!("{}/{}/{}", self.reason, hour_folder(self.hour_us), self.name)
    }

    /// Its key in the lake, whose dead letters lie in the folder `errors`.
    pub fn key(&self, errors: &str) -> String {
        format!("{errors}/{}", self.path())
    }

    /// Key of what replay number `generation`, from 1, is going to do.
    pub fn plan_key(&self, errors: &str, generation: u32) -> String {
        format!("{errors}/{REPLAYS}/{}/{generation}.json", self.path())
    }

    /// Key of what it has done.
    pub fn done_key(&self, errors: &str, generation: u32) -> String {
        format!("{errors}/{REPLAYS}/{}/{generation}.done.json", self.path())
    }

    /// Name of the objects of rows of that replay.
    pub fn rows_name(&self, generation: u32) -> String {
        replay_name(&self.name, &self.reason, self.hour_us, generation)
    }

    /// False when its name says that it cannot hold this record.
    pub fn may_hold(&self, sequence: &SequenceNumber) -> bool {
        range_of_name(&self.name).is_none_or(|(first, last)| (first..=last).contains(sequence))
    }

    /// Stream and shard that its name says, where shards are called as in Kinesis.
    pub fn stream_and_shard(&self) -> Option<(&str, &str)> {
        let at = self.name.find("-shardId-")?;
        let rest = &self.name[at + 1..];
        let length = "shardId-".len() + rest["shardId-".len()..].find('-')?;
        Some((&self.name[..at], &rest[..length]))
    }

    /// Whether it can be of this stream; of one shard of it, where that is known.
    pub fn is_of(&self, stream: &str, shard: Option<&str>) -> bool {
        self.name.starts_with(&name_start(stream, shard.map(ShardId::new).as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_speak() {
        let object = LetterObject {
            reason: "not_json".to_owned(),
            hour_us: 1_768_467_600_000_000,
            name: "trades-shardId-000000000003-17-42.ndjson.gz".to_owned(),
        };
        let path = "not_json/year=2026/month=01/day=15/hour=09/trades-shardId-000000000003-17-42.ndjson.gz";
        assert_eq!(object.key("errors"), format!("errors/{path}"));
        assert_eq!(object.plan_key("a/errors", 1), format!("a/errors/_replays/{path}/1.json"));
        assert_eq!(object.done_key("errors", 12), format!("errors/_replays/{path}/12.done.json"));
        assert_eq!(object.rows_name(2), "trades-shardId-000000000003-17-42-not_json-2026011509-x2.ndjson.gz");
        let number = |text: &str| SequenceNumber::parse(text).unwrap();
        assert!(object.may_hold(&number("17")) && object.may_hold(&number("042")));
        assert!(!object.may_hold(&number("16")) && !object.may_hold(&number("170")));
        assert!(object.is_of("trades", None) && object.is_of("trades", Some("shardId-000000000003")));
        assert_eq!(object.stream_and_shard(), Some(("trades", "shardId-000000000003")));
        assert!(!object.is_of("trade", None) && !object.is_of("trades-shardId", Some("000000000003x")));
    }
}
