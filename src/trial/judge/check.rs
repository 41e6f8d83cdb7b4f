//! What the check of a lake found.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::latency::Latencies;
use crate::figures::grouped;

/// Defects that are described one by one; the others are only counted.
const PROBLEMS_SHOWN: usize = 20;

/// The defect that is known only where there is a table to compare with.
pub(crate) const UNLIKE_THE_TABLE: &str = "keys that differ from the table";

/// Missing and repeated positions that are listed; the others are only counted.
const POSITIONS_SHOWN: usize = 5;

/// Place of a record in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The stream, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The shard.
    pub shard_id: String,
    /// The sequence number, decimal digits.
    pub sequence_number: String,
    /// The index inside an aggregate, for a record that is part of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_sequence_number: Option<u32>,
}

/// What a lake holds, against what was put into the stream and what the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeCheck {
    /// Records in the stream.
    pub records_put: u64,
    /// Lines of landing objects.
    pub rows_delivered: u64,
    /// Lines of dead letter objects, without those that were replayed.
    pub dead_letters: u64,
    /// Dead letters that a replay has made into rows since; their rows are among those delivered.
    #[serde(default)]
    pub replayed: u64,
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
    /// Rows and dead letters of records whose put was not answered: sent again, they are two records of the stream.
    #[serde(default)]
    pub unclear: u64,
    /// The first defects in words, without item values.
    pub problems: Vec<String>,
    /// Copies of rows of high risk.
    #[serde(default)]
    pub alerts: u64,
    /// Valid rows of high risk that were to be copied, and are not.
    #[serde(default)]
    pub alerts_missing: u64,
    /// Copies beyond the first of a row, or of no such row.
    #[serde(default)]
    pub alerts_unexpected: u64,
    /// From the put of a record to its object.
    #[serde(skip)]
    pub latencies: Latencies,
}

/// What was found of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCheck {
    /// Its name.
    pub stream: String,
    /// In its objects, against what was put into it and what its table holds.
    #[serde(flatten)]
    pub lake: LakeCheck,
}

/// What was found of all streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// In the whole lake.
    pub all: LakeCheck,
    /// Stream by stream.
    pub each: Vec<StreamCheck>,
}

/// Writes a line for each stream where there are several.
pub(crate) fn write_streams<'a>(
    f: &mut fmt::Formatter<'_>,
    streams: impl ExactSizeIterator<Item = &'a StreamCheck>,
) -> fmt::Result {
    if streams.len() < 2 {
        return Ok(());
    }
    writeln!(
        f,
        "\n  stream                                  records     missing  duplicated   other defects"
    )?;
    for StreamCheck { stream, lake } in streams {
        let figures = [lake.records_put, lake.missing, lake.duplicated, lake.other_defects()];
        let [put, missing, duplicated, others] = figures.map(grouped);
        writeln!(f, "  {stream:<32}{put:>15}{missing:>12}{duplicated:>12}{others:>16}")?;
    }
    Ok(())
}

impl LakeCheck {
    /// Writes the first records that are missing or duplicated, and other problems, a line each.
    pub(crate) fn write_findings(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, first) in [("missing", &self.missing_first), ("duplicated", &self.duplicated_first)] {
            for position in first {
                writeln!(f, "  {what}: {position}")?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }

    /// Whether every record is in the lake exactly once and says what it should.
    pub fn ok(&self) -> bool {
        self.defects().iter().all(|(_, count)| *count == 0)
            && self.records_put + self.unclear == self.rows_delivered + self.dead_letters
    }

    /// Every kind of defect with its count.
    pub fn defects(&self) -> [(&'static str, u64); 11] {
        [
            ("missing", self.missing),
            ("duplicated", self.duplicated),
            ("never put", self.unexpected),
            ("wrong values", self.value_mismatches),
            ("in the wrong hour", self.misplaced),
            ("unnecessary dead letters", self.needless_dead_letters),
            (UNLIKE_THE_TABLE, self.key_state_mismatches.unwrap_or(0)),
            ("broken objects", self.broken_objects),
            ("broken lines", self.broken_lines),
            ("alerts missing", self.alerts_missing),
            ("alerts beyond the rows", self.alerts_unexpected),
        ]
    }

    /// Defects beside missing and duplicated records.
    pub fn other_defects(&self) -> u64 {
        let all: u64 = self.defects().iter().map(|(_, count)| count).sum();
        all - self.missing - self.duplicated
    }

    /// Counts a record by how often it was seen.
    pub(super) fn seen(&mut self, times: u32, position: impl FnOnce() -> Position) {
        let (count, first, more) = match times {
            0 => (&mut self.missing, &mut self.missing_first, 1),
            1 => return,
            more => (&mut self.duplicated, &mut self.duplicated_first, u64::from(more) - 1),
        };
        *count += more;
        if first.len() < POSITIONS_SHOWN {
            first.push(position());
        }
    }

    /// Counts one defect and keeps its description while there are few.
    pub(super) fn defect(&mut self, counter: impl FnOnce(&mut Self) -> &mut u64, description: String) {
        *counter(self) += 1;
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(description);
        }
    }

    /// Adds what was found in another object, or of another stream.
    pub(super) fn merge(&mut self, other: Self) {
        let shown = |first: &mut Vec<Position>, more: Vec<Position>| {
            first.extend(more);
            first.truncate(POSITIONS_SHOWN);
        };
        shown(&mut self.missing_first, other.missing_first);
        shown(&mut self.duplicated_first, other.duplicated_first);
        self.records_put += other.records_put;
        self.missing += other.missing;
        self.duplicated += other.duplicated;
        self.bytes_in += other.bytes_in;
        let mismatches = [self.key_state_mismatches, other.key_state_mismatches];
        self.key_state_mismatches = mismatches.into_iter().flatten().reduce(|a, b| a + b);
        self.rows_delivered += other.rows_delivered;
        self.dead_letters += other.dead_letters;
        self.replayed += other.replayed;
        self.unexpected += other.unexpected;
        self.value_mismatches += other.value_mismatches;
        self.misplaced += other.misplaced;
        self.needless_dead_letters += other.needless_dead_letters;
        self.objects += other.objects;
        self.empty_objects += other.empty_objects;
        self.broken_objects += other.broken_objects;
        self.broken_lines += other.broken_lines;
        self.bytes_out += other.bytes_out;
        self.unclear += other.unclear;
        self.alerts += other.alerts;
        self.alerts_missing += other.alerts_missing;
        self.alerts_unexpected += other.alerts_unexpected;
        self.latencies.merge(other.latencies);
        let room = PROBLEMS_SHOWN - self.problems.len();
        self.problems.extend(other.problems.into_iter().take(room));
    }
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stream) = &self.stream {
            write!(f, "{stream} ")?;
        }
        write!(f, "{} {}", self.shard_id, self.sequence_number)?;
        self.sub_sequence_number.map_or(Ok(()), |sub| write!(f, ".{sub}"))
    }
}
