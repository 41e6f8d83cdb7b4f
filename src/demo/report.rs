//! What the check of a lake found, for machines and for people.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Defects that are described one by one; the others are only counted.
const PROBLEMS_SHOWN: usize = 20;

/// Place of a record in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The shard.
    pub shard_id: String,
    /// The sequence number, decimal digits.
    pub sequence_number: String,
}

/// What a lake holds, against what was put into the stream and what the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeCheck {
    /// Records in the stream.
    pub records_put: u64,
    /// Lines of landing objects.
    pub rows_delivered: u64,
    /// Lines of dead letter objects.
    pub dead_letters: u64,
    /// Records that are in no row and no dead letter.
    pub missing: u64,
    /// The first of them, by shard and sequence number.
    pub missing_first: Vec<Position>,
    /// Rows and dead letters beyond the first of a record.
    pub duplicated: u64,
    /// The first records that have any.
    pub duplicated_first: Vec<Position>,
    /// Rows and dead letters whose position was never put.
    pub unexpected: u64,
    /// Rows that say something else than the record; dead letters with another payload.
    pub value_mismatches: u64,
    /// Rows in the folder of another hour than their own.
    pub misplaced: u64,
    /// Dead letters whose record can be read.
    pub needless_dead_letters: u64,
    /// Keys whose newest row is not what the table holds; `None` when there was no table to compare with.
    pub key_state_mismatches: Option<u64>,
    /// Objects of rows or dead letters.
    pub objects: u64,
    /// Objects that are sound but hold no line; sealed objects are so on purpose.
    pub empty_objects: u64,
    /// Objects that cannot be read to their end.
    pub broken_objects: u64,
    /// Lines that are no row or no dead letter.
    pub broken_lines: u64,
    /// Payload bytes put into the stream.
    pub bytes_in: u64,
    /// Bytes of the objects, as stored.
    pub bytes_out: u64,
    /// The first defects in words, without item values.
    pub problems: Vec<String>,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The check of the lake.
    #[serde(flatten)]
    pub lake: LakeCheck,
    /// Changes made in the table. A change that changes nothing makes no record, an expired item makes one more.
    pub changes_made: u64,
    /// Lines of trade files that could not be read and were passed over.
    pub bad_lines: u64,
    /// From the first record to the last commit.
    pub seconds: f64,
    /// Workers killed on purpose.
    pub workers_killed: u64,
    /// Splits, merges and changes of the shard count.
    pub reshards: u64,
    /// The largest age of the oldest record not yet in the lake, in milliseconds.
    pub max_delivered_age_ms: u64,
}

impl LakeCheck {
    /// Whether every record is in the lake exactly once and says what it should.
    pub fn ok(&self) -> bool {
        self.defects().iter().all(|(_, count)| *count == 0)
            && self.records_put == self.rows_delivered + self.dead_letters
    }

    /// Every kind of defect with its count.
    fn defects(&self) -> [(&'static str, u64); 9] {
        [
            ("missing", self.missing),
            ("duplicated", self.duplicated),
            ("never put", self.unexpected),
            ("other values", self.value_mismatches),
            ("in the wrong hour", self.misplaced),
            ("needless dead letters", self.needless_dead_letters),
            ("keys unlike the table", self.key_state_mismatches.unwrap_or(0)),
            ("broken objects", self.broken_objects),
            ("broken lines", self.broken_lines),
        ]
    }

    /// Counts one defect and keeps its description while there are few.
    pub(super) fn defect(&mut self, counter: impl FnOnce(&mut Self) -> &mut u64, description: String) {
        *counter(self) += 1;
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(description);
        }
    }

    /// Adds what was found in another object.
    pub(super) fn merge(&mut self, other: Self) {
        self.rows_delivered += other.rows_delivered;
        self.dead_letters += other.dead_letters;
        self.unexpected += other.unexpected;
        self.value_mismatches += other.value_mismatches;
        self.misplaced += other.misplaced;
        self.needless_dead_letters += other.needless_dead_letters;
        self.objects += other.objects;
        self.empty_objects += other.empty_objects;
        self.broken_objects += other.broken_objects;
        self.broken_lines += other.broken_lines;
        self.bytes_out += other.bytes_out;
        let room = PROBLEMS_SHOWN - self.problems.len();
        self.problems.extend(other.problems.into_iter().take(room));
    }
}

impl Summary {
    /// Whether the run proves that nothing was lost, doubled or changed.
    pub fn ok(&self) -> bool {
        self.lake.ok()
    }
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.shard_id, self.sequence_number)
    }
}

/// A table for people.
impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lake = &self.lake;
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<24}{value:>14}");
        if self.changes_made > 0 {
            line("changes to the table", grouped(self.changes_made))?;
        }
        if self.bad_lines > 0 {
            line("bad lines passed over", grouped(self.bad_lines))?;
        }
        line("records put", grouped(lake.records_put))?;
        line("rows delivered", grouped(lake.rows_delivered))?;
        line("dead letters", grouped(lake.dead_letters))?;
        for (name, count) in lake.defects() {
            let compared = name != "keys unlike the table" || lake.key_state_mismatches.is_some();
            line(name, if compared { grouped(count) } else { "not compared".to_owned() })?;
        }
        line("objects", grouped(lake.objects))?;
        if lake.empty_objects > 0 {
            line("of these empty", grouped(lake.empty_objects))?;
        }
        line("payload in", mebibytes(lake.bytes_in))?;
        line("objects out", mebibytes(lake.bytes_out))?;
        line("workers killed", grouped(self.workers_killed))?;
        line("reshardings", grouped(self.reshards))?;
        line("longest lag", format!("{:.1} s", seconds(self.max_delivered_age_ms)))?;
        line("time", format!("{:.1} s", self.seconds))?;
        if self.changes_made > 0 && self.changes_made != lake.records_put {
            writeln!(
                f,
                "\nA change that changes nothing makes no record, and an item that expires makes one more: hence\n\
                 {} records of {} changes.",
                grouped(lake.records_put),
                grouped(self.changes_made)
            )?;
        }
        writeln!(f)?;
        for (what, first) in [("missing", &lake.missing_first), ("duplicated", &lake.duplicated_first)] {
            for position in first {
                writeln!(f, "  {what}: {position}")?;
            }
        }
        for problem in &lake.problems {
            writeln!(f, "  {problem}")?;
        }
        if self.ok() {
            write!(f, "Every one of {} records is in the lake exactly once.", grouped(lake.records_put))
        } else {
            f.write_str("THE LAKE IS NOT WHAT IT SHOULD BE: see above.")
        }
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn mebibytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let mut text = String::new();
    write!(text, "{mebibytes:.1} MiB").expect("writing into a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_well_and_survives_json() {
        let lake = LakeCheck {
            records_put: 1_234_567,
            rows_delivered: 1_234_000,
            dead_letters: 567,
            key_state_mismatches: Some(0),
            bytes_in: 3 << 20,
            ..LakeCheck::default()
        };
        let summary = Summary { lake, seconds: 12.34, workers_killed: 3, ..Summary::default() };
        assert!(summary.ok());
        let text = summary.to_string();
        for expected in ["1,234,567", "567", "3.0 MiB", "12.3 s", "exactly once"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
        assert!(json.contains(r#""records_put":1234567"#));
    }

    #[test]
    fn every_defect_spoils_the_result() {
        let sound = LakeCheck { records_put: 1, rows_delivered: 1, ..LakeCheck::default() };
        assert!(sound.ok());
        let spoil: [fn(&mut LakeCheck); 10] = [
            |c| c.missing = 1,
            |c| c.duplicated = 1,
            |c| c.unexpected = 1,
            |c| c.value_mismatches = 1,
            |c| c.misplaced = 1,
            |c| c.needless_dead_letters = 1,
            |c| c.key_state_mismatches = Some(1),
            |c| c.broken_objects = 1,
            |c| c.broken_lines = 1,
            |c| c.rows_delivered = 2,
        ];
        for (place, spoil) in spoil.iter().enumerate() {
            let mut check = sound.clone();
            spoil(&mut check);
            assert!(!check.ok(), "defect {place}");
            assert!(
                Summary { lake: check, ..Summary::default() }.to_string().contains("NOT WHAT IT SHOULD BE")
            );
        }
    }
}
