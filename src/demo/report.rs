//! The result of a demo, for machines and for people.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::figures::{grouped, mebibytes, tenths};
use crate::generate::trades::Place;
use crate::trial::{LakeCheck, StreamCheck, UNLIKE_THE_TABLE, write_streams};

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The check of the lake.
    #[serde(flatten)]
    pub lake: LakeCheck,
    /// The same of each stream.
    pub streams: Vec<StreamCheck>,
    /// Changes made in the tables. A change that changes nothing makes no record, an expired item makes one more.
    pub changes_made: u64,
    /// Lines of trade files that could not be read and were passed over.
    pub bad_lines: u64,
    /// The last trade that was read, of a trade file.
    pub last_read: Option<Place>,
    /// What ended the changes before all were made; what was made is delivered and checked.
    pub error: Option<String>,
    /// From the first record to the last commit.
    pub seconds: f64,
    /// Workers killed on purpose.
    pub workers_killed: u64,
    /// Splits, merges and changes of the shard count.
    pub reshards: u64,
    /// The largest age of the oldest record not yet in the lake, in milliseconds.
    pub max_delivered_age_ms: u64,
    /// The dashboard of the lake, an HTML file.
    pub dashboard: Option<String>,
}

impl Summary {
    /// Whether the run proves that nothing was lost, doubled or changed, and was played to its end.
    pub fn ok(&self) -> bool {
        self.lake.ok() && self.error.is_none()
    }
}

/// A table for people.
impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lake = &self.lake;
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<32}{value:>14}");
        if self.changes_made > 0 {
            line("changes to the table", grouped(self.changes_made))?;
        }
        if self.bad_lines > 0 {
            line("bad lines skipped", grouped(self.bad_lines))?;
        }
        line("records put", grouped(lake.records_put))?;
        line("rows delivered", grouped(lake.rows_delivered))?;
        line("dead letters", grouped(lake.dead_letters))?;
        for (name, count) in lake.defects() {
            let compared = name != UNLIKE_THE_TABLE || lake.key_state_mismatches.is_some();
            line(name, if compared { grouped(count) } else { "not compared".to_owned() })?;
        }
        line("objects", grouped(lake.objects))?;
        if lake.empty_objects > 0 {
            line("of which empty", grouped(lake.empty_objects))?;
        }
        line("payload in", mebibytes(lake.bytes_in))?;
        line("objects out", mebibytes(lake.bytes_out))?;
        line("workers killed", grouped(self.workers_killed))?;
        line("reshardings", grouped(self.reshards))?;
        line("longest lag", format!("{} s", tenths(self.max_delivered_age_ms)))?;
        line("time", format!("{:.1} s", self.seconds))?;
        write_streams(f, self.streams.iter())?;
        if self.changes_made > 0 && self.changes_made != lake.records_put {
            writeln!(
                f,
                "\nA write that changes nothing makes no record, and an item that expires makes one more: hence\n\
                 {} records from {} changes.",
                grouped(lake.records_put),
                grouped(self.changes_made)
            )?;
        }
        writeln!(f)?;
        lake.write_findings(f)?;
        if let Some(Place { file, line }) = &self.last_read {
            writeln!(f, "Trades were read up to {file}, line {line}.")?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "NOT ALL CHANGES WERE MADE: {error}")?;
        }
        if lake.ok() {
            write!(f, "Every one of {} records is in the lake exactly once.", grouped(lake.records_put))
        } else {
            f.write_str("THE LAKE IS WRONG: see above.")
        }
    }
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
        let ended_early = Summary {
            last_read: Some(Place { file: "t.csv.gz".to_owned(), line: 18_501 }),
            error: Some("could not read trades from t.csv.gz after line 18501: it ends early".to_owned()),
            ..summary.clone()
        };
        let text = ended_early.to_string();
        assert!(!ended_early.ok());
        for expected in ["t.csv.gz, line 18501.", "NOT ALL CHANGES WERE MADE: could not read", "exactly once"]
        {
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
            assert!(Summary { lake: check, ..Summary::default() }.to_string().contains("THE LAKE IS WRONG"));
        }
    }
}
