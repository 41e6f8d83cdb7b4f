//! `kinetide dead-letters count`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::super::Exit;
use super::scan::{Lake, Seen, Visitor, Which, scan};
use super::text::{Problems, aligned, counted, time};
use crate::terminal::print_text;

const HOUR_US: i64 = 3_600_000_000;

#[derive(Debug, Args)]
#[command(after_help = "\"Open\" means not yet replayed. Reads every matching object.\n\nExamples:\n  \
    kinetide dead-letters count --lake s3://my-lake/crypto --since 24h\n  \
    kinetide dead-letters count --lake s3://my-lake/crypto --reason not_json --by hour")]
pub(super) struct CountArgs {
    /// What to count by.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Reason)]
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// By reason.
    Reason,
    /// By hour of arrival, newest first, and reason.
    Hour,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    hour: Option<String>,
    reason: String,
    open: u64,
    replayed: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    open: u64,
    replayed: u64,
    counts: &'a [Row],
    /// Objects whose last replay has not come to its end.
    interrupted_replays: u64,
    unreadable: &'a Problems,
}

struct Count {
    by: By,
    /// Open and replayed.
    counts: BTreeMap<(Reverse<i64>, String), (u64, u64)>,
}

impl Visitor for Count {
    fn see(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        let hour = match self.by {
            By::Reason => 0,
            By::Hour => seen.letter.arrival_us / HOUR_US,
        };
        let count = self.counts.entry((Reverse(hour), seen.reason.to_owned())).or_default();
        if seen.replayed {
            count.1 += 1;
        } else {
            count.0 += 1;
        }
        Ok(())
    }
}

pub(super) async fn run(lake: &Lake, which: &Which, args: CountArgs, json: bool) -> anyhow::Result<Exit> {
    let mut count = Count { by: args.by, counts: BTreeMap::new() };
    let found = scan(lake, which, &mut count).await?;
    let row = |((Reverse(hour), reason), (open, replayed)): ((Reverse<i64>, String), (u64, u64))| Row {
        hour: (args.by == By::Hour).then(|| time(hour * HOUR_US)[..13].to_owned() + "Z"),
        reason,
        open,
        replayed,
    };
    let rows: Vec<Row> = count.counts.into_iter().map(row).collect();
    let open = rows.iter().map(|row| row.open).sum();
    let replayed = rows.iter().map(|row| row.replayed).sum();
    let mut out = String::new();
    if json {
        let interrupted_replays = found.interrupted;
        let report =
            Report { open, replayed, counts: &rows, interrupted_replays, unreadable: &found.problems };
        out = serde_json::to_string(&report)? + "\n";
    } else if rows.is_empty() {
        writeln!(out, "No matching dead letters in {lake}.")?;
    } else {
        let by_hour = args.by == By::Hour;
        let line = |hour: &str, reason: &str, open: String, replayed: String| {
            let hour = by_hour.then(|| hour.to_owned());
            hour.into_iter().chain([reason.to_owned(), open, replayed]).collect::<Vec<_>>()
        };
        let mut lines = vec![line("HOUR", "REASON", "OPEN".to_owned(), "REPLAYED".to_owned())];
        for row in &rows {
            let hour = row.hour.as_deref().unwrap_or_default();
            lines.push(line(hour, &row.reason, row.open.to_string(), row.replayed.to_string()));
        }
        lines.push(line("", "all", open.to_string(), replayed.to_string()));
        let first = usize::from(by_hour) + 1;
        out.push_str(&aligned(&lines, &[first, first + 1]));
        if found.interrupted > 0 {
            let objects = counted(found.interrupted, "object");
            writeln!(out, "The last replay of {objects} was interrupted: run it again to complete it.")?;
        }
    }
    print_text(&out)?;
    found.problems.tell();
    Ok(if found.problems.none() { Exit::Done } else { Exit::Failed })
}
