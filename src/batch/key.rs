//! Where a row belongs, and the key of its object.

use super::{BatchContext, Layout};
use crate::shard::{Position, SequenceNumber, ShardId};
use crate::transform::{ErrorCode, Utc, fnv1a};

const HOUR_US: i64 = 3_600_000_000;

/// Kinesis has sequence numbers of at most 56 digits (186 bits).
const POSITION_BYTES_MAX: usize = 60;

/// No name of a reason is longer.
const REASON_BYTES_MAX: usize = 24;

/// Athena picks the codec by it.
const ENDING: &str = ".ndjson.gz";

/// Rows of one batch with the same partition share an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Partition {
    /// The reason, for dead letters.
    pub(super) error: Option<ErrorCode>,
    /// Hours since the epoch, UTC.
    hour: i64,
}

impl Partition {
    pub(super) fn of_row(time_us: i64) -> Self {
        Self { error: None, hour: hour_of(time_us) }
    }

    /// Dead letters lie by arrival time: their change time may be what is wrong with them.
    pub(super) fn of_dead_letter(error: ErrorCode, arrival_us: i64) -> Self {
        Self { error: Some(error), hour: hour_of(arrival_us) }
    }

    /// The folder, without a slash at its end.
    pub(super) fn folder(&self, layout: &Layout) -> String {
        let hour = hour_folder(self.hour * HOUR_US);
        match self.error {
            None => format!("{}/{hour}", layout.landing),
            Some(error) => format!("{}/{error}/{hour}", layout.errors),
        }
    }
}

/// The folders of the hour in which a time lies, `year=2026/month=01/day=15/hour=09`. µs since the epoch.
pub fn hour_folder(us: i64) -> String {
    let Utc { year, month, day, hour, .. } = Utc::from_us(us);
    format!("year={year:04}/month={month:02}/day={day:02}/hour={hour:02}")
}

/// Times that paths cannot write are clamped here already, so that one folder is one partition.
fn hour_of(us: i64) -> i64 {
    us.clamp(0, Utc::MAX_US) / HOUR_US
}

/// The most bytes that a key of an object of this shard can have.
pub(super) fn key_bytes_max(context: &BatchContext) -> usize {
    let Layout { landing, errors, .. } = &context.layout;
    let folder = landing.len().max(errors.len() + REASON_BYTES_MAX) + hour_folder(0).len() + 3;
    folder
        + name_start(&context.stream, Some(&context.shard)).len()
        + 2 * POSITION_BYTES_MAX
        + "-r1".len()
        + ENDING.len()
}

/// Name of the objects of a batch, the same in every folder. `generation` above 0 marks a repair. At most 255
/// bytes, so that it can be a file name.
pub(super) fn file_name(
    context: &BatchContext,
    first: &Position,
    last: &Position,
    generation: u32,
) -> String {
    let start = name_start(&context.stream, Some(&context.shard));
    let (first, last) = (position(first), position(last));
    let repair = if generation > 0 { format!("-r{generation}") } else { String::new() };
    format!("{start}{first}-{last}{repair}{ENDING}")
}

/// How the names of all objects of a stream start, or of one shard of it.
pub fn name_start(stream: &str, shard: Option<&ShardId>) -> String {
    let shard = shard.map(|shard| format!("{}-", part(shard.as_str(), 44))).unwrap_or_default();
    format!("{}-{shard}", part(stream, 64))
}

/// First and last sequence number of the batch that an object belongs to, where its name says them.
pub fn range_of_name(name: &str) -> Option<(SequenceNumber, SequenceNumber)> {
    batch_of_name(name).map(|(_, first, last)| (first, last))
}

/// The same after how its name starts ([`name_start`] of its shard, without the last hyphen).
pub fn batch_of_name(name: &str) -> Option<(&str, SequenceNumber, SequenceNumber)> {
    let digits = |part: &str| SequenceNumber::parse(part.split('.').next()?);
    let name = name.strip_suffix(ENDING)?;
    let repaired = name.rsplit_once('-').filter(|(_, repair)| repair.starts_with('r'));
    let (rest, last) = repaired.map_or(name, |(batch, _)| batch).rsplit_once('-')?;
    let (head, first) = rest.rsplit_once('-')?;
    Some((head, digits(first)?, digits(last)?))
}

/// Name of the objects of rows that were made from the dead letters of one object: of `reason`, in the hour
/// of `hour_us`, called `letters`. `generation` counts the replays of that object, from 1. At most 255 bytes. One batch
/// may have dead letters of several reasons and hours, all under the same name, so that these are part of it.
pub fn replay_name(letters: &str, reason: &str, hour_us: i64, generation: u32) -> String {
    let batch = letters.strip_suffix(ENDING).unwrap_or(letters);
    let Utc { year, month, day, hour, .. } = Utc::from_us(hour_us);
    let name = format!("{batch}-{reason}-{year:04}{month:02}{day:02}{hour:02}-x{generation}");
    format!("{}{ENDING}", part(&name, 255 - ENDING.len()))
}

/// Two batches may end in the same aggregated record, so its index is part of the name.
fn position(position: &Position) -> String {
    let text = match position.sub {
        0 => position.sequence.to_string(),
        sub => format!("{}.{sub}", position.sequence),
    };
    part(&text, POSITION_BYTES_MAX)
}

/// A name from outside as a folder of the lake.
pub fn folder_of(name: &str) -> String {
    part(name, 128)
}

/// How names begin that readers of lakes pass over: Hive, Spark and Athena, and `dead-letters` too.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

/// `text` as part of a file name of at most `max` bytes, and not hidden. What had to be changed or cut stays distinct by a
/// hash.
fn part(text: &str, max: usize) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.len() <= max && text.chars().all(is_plain) && !is_hidden(text) {
        return text.to_owned();
    }
    let mut kept: String = text.chars().map(|c| if is_plain(c) { c } else { '_' }).take(max - 17).collect();
    if is_hidden(&kept) {
        kept.replace_range(..1, "x");
    }
    format!("{kept}-{:016x}", fnv1a(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::batch::{BatchLimits, Layout};
    use crate::shard::{SequenceNumber, ShardId};
    use crate::transform::{Builtin, SourceKind};
    use proptest::prelude::*;

    fn context(stream: &str, shard: &str) -> BatchContext {
        BatchContext {
            stream: stream.to_owned(),
            shard: ShardId::new(shard),
            source: SourceKind::Kinesis,
            layout: Layout {
                landing: "landing/transactions".to_owned(),
                errors: "errors".to_owned(),
                alerts: false,
            },
            limits: BatchLimits::default(),
            transform: Arc::new(Builtin::json()),
            packing: None,
        }
    }

    fn at(digits: &str, sub: u64) -> Position {
        Position { sequence: SequenceNumber::parse(digits).unwrap(), sub }
    }

    #[test]
    fn names_speak() {
        let context = context("trades", "shardId-000000000003");
        assert_eq!(
            file_name(&context, &at("17", 0), &at("0042", 0), 0),
            "trades-shardId-000000000003-17-0042.ndjson.gz"
        );
        assert_eq!(
            file_name(&context, &at("17", 1), &at("42", 7), 3),
            "trades-shardId-000000000003-17.1-42.7-r3.ndjson.gz"
        );
        let names: BTreeSet<String> =
            (0..5).map(|repair| file_name(&context, &at("17", 0), &at("42", 0), repair)).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        let us = 1_768_469_400_123_456;
        assert_eq!(
            Partition::of_row(us).folder(&context.layout),
            "landing/transactions/year=2026/month=01/day=15/hour=09"
        );
        assert_eq!(
            Partition::of_dead_letter(ErrorCode::NotJson, us).folder(&context.layout),
            "errors/not_json/year=2026/month=01/day=15/hour=09"
        );
    }

    #[test]
    fn a_stream_known_by_its_arn_is_one_file_name() {
        let arn = "arn:aws:dynamodb:eu-north-1:000000000000:table/T/stream/2026-01-15T09:00:00.000";
        let name = file_name(&context(arn, "shardId-0"), &at("1", 0), &at("2", 0), 0);
        assert_eq!(
            name,
            "arn_aws_dynamodb_eu-north-1_000000000000_table_-7723ae64e1babbfa-shardId-0-1-2.ndjson.gz"
        );
    }

    /// They would be in the lake, and no reader would see them.
    #[test]
    fn no_name_from_outside_hides_an_object() {
        for (stream, start) in [("_hidden", "xhidden-"), (".dot", "xdot-"), ("__", "x_-"), ("ü", "x-")] {
            let name = file_name(&context(stream, "shardId-0"), &at("1", 0), &at("2", 0), 0);
            assert!(name.starts_with(start) && name.starts_with(&name_start(stream, None)), "{name}");
            assert!(!is_hidden(&folder_of(stream)), "{}", folder_of(stream));
            assert!(!is_hidden(&replay_name(&name, "not_json", 0, 1)));
        }
        assert_eq!(folder_of("trades"), "trades");
        assert_eq!(folder_of(&"s".repeat(128)), "s".repeat(128));
    }

    #[test]
    fn names_tell_their_range() {
        let context = context("a-r7", "shardId-000000000003");
        for (first, last, generation) in [(at("17", 0), at("42", 0), 0), (at("17", 1), at("17", 7), 12)] {
            let name = file_name(&context, &first, &last, generation);
            assert_eq!(range_of_name(&name), Some((first.sequence, last.sequence)), "{name}");
            assert!(name.starts_with(&name_start("a-r7", Some(&context.shard))));
            assert!(name.starts_with(&name_start("a-r7", None)));
        }
        for foreign in ["17-42.gz", "a-17-b.ndjson.gz", "42.ndjson.gz", "a-r1.ndjson.gz", ".ndjson.gz"] {
            assert_eq!(range_of_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn rows_of_dead_letters_have_names_of_their_own() {
        let us = 1_768_469_400_123_456;
        assert_eq!(
            replay_name("trades-shardId-000000000003-17-42.ndjson.gz", "not_json", us, 1),
            "trades-shardId-000000000003-17-42-not_json-2026011509-x1.ndjson.gz"
        );
        let long = format!("{}.ndjson.gz", "a".repeat(240));
        let names = [("no_tag", us, 1), ("no_tag", us, 2), ("no_tags", us, 1), ("no_tag", us + HOUR_US, 1)]
            .map(|(reason, us, generation)| replay_name(&long, reason, us, generation));
        assert!(names.iter().all(|name| name.len() == 255));
        assert!((1..names.len()).all(|cut| !names[cut..].contains(&names[cut - 1])));
    }

    proptest! {
        #[test]
        fn names_are_short_plain_and_distinct(
            streams in prop::array::uniform2("[a-z:/]{1,3}|[_.x][_.a-c]{0,2}|[a-zA-Z0-9_.-]{60,128}|s{100,101}"),
            shard in "shardId-[0-9]{12}|.{1,128}",
            digits in prop::array::uniform2("[0-9]{1,128}"),
            sub: u64,
            generation: u32,
        ) {
            let [a, b] = streams.each_ref().map(|stream| {
                file_name(&context(stream, &shard), &at(&digits[0], sub), &at(&digits[1], 0), generation)
            });
            prop_assert!(a.len() <= 255 && !is_hidden(&a), "{a}");
            prop_assert!(a.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)));
            prop_assert_eq!(a == b, streams[0] == streams[1]);
        }
    }
}
