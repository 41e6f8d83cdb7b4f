//! `kinetide dead-letters list`.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;

use clap::Args;
use serde::Serialize;

use super::super::Exit;
use super::scan::{Lake, Seen, Visitor, Which, scan};
use super::text::{Problems, aligned, time};
use crate::terminal::{print_text, printable};

#[derive(Debug, Args)]
#[command(after_help = "Reads the newest hours first, and stops when the limit is reached.\n\nExamples:\n  \
    kinetide dead-letters list --lake s3://my-lake/crypto --open\n  \
    kinetide dead-letters list --lake s3://my-lake/crypto --json | jq -r '.dead_letters[].sequence_number'")]
pub(super) struct ListArgs {
    /// Maximum number of dead letters to list, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// Only dead letters that are not yet replayed.
    #[arg(long)]
    open: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    time: String,
    #[serde(skip)]
    arrival_us: i64,
    reason: String,
    shard: String,
    sequence_number: String,
    sub_sequence_number: u64,
    bytes: usize,
    replayed: bool,
    object: String,
    line: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    dead_letters: &'a [Row],
    /// There may be older ones.
    limited: bool,
    unreadable: &'a Problems,
}

/// The newest, and no more than asked for: memory does not grow with the lake.
struct List {
    limit: usize,
    open: bool,
    rows: Vec<Row>,
    hour: Vec<Row>,
}

impl List {
    fn room(&self) -> usize {
        self.limit - self.rows.len()
    }

    /// Keeps the newest of the hour.
    fn trim(&mut self) {
        self.hour.sort_by(|a, b| {
            let key = |row: &Row| Reverse(row.arrival_us);
            (key(a), &a.object, Reverse(a.line)).cmp(&(key(b), &b.object, Reverse(b.line)))
        });
        self.hour.truncate(self.room());
    }
}

impl Visitor for List {
    fn see(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        if self.open && seen.replayed {
            return Ok(());
        }
        let letter = seen.letter;
        self.hour.push(Row {
            time: time(letter.arrival_us),
            arrival_us: letter.arrival_us,
            reason: seen.reason.to_owned(),
            shard: letter.shard_id.clone().into_owned(),
            sequence_number: letter.sequence_number.clone().into_owned(),
            sub_sequence_number: letter.sub_sequence.unwrap_or(0),
            bytes: letter.raw_bytes(),
            replayed: seen.replayed,
            object: seen.key.to_owned(),
            line: seen.line,
        });
        if self.hour.len() >= 2 * self.room() + 100 {
            self.trim();
        }
        Ok(())
    }

    fn hour_over(&mut self, _start_us: i64) -> ControlFlow<()> {
        self.trim();
        self.rows.append(&mut self.hour);
        if self.room() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(super) async fn run(lake: &Lake, which: &Which, args: ListArgs, json: bool) -> anyhow::Result<Exit> {
    let limit = usize::try_from(args.limit)?;
    let mut list = List { limit, open: args.open, rows: Vec::new(), hour: Vec::new() };
    let found = scan(lake, which, &mut list).await?;
    let limited = list.room() == 0;
    let mut out = String::new();
    if json {
        let report = Report { dead_letters: &list.rows, limited, unreadable: &found.problems };
        out = serde_json::to_string(&report)? + "\n";
    } else if list.rows.is_empty() {
        let open = if args.open { "open " } else { "" };
        writeln!(out, "No matching {open}dead letters in {lake}.")?;
    } else {
        let header = ["TIME", "REASON", "SHARD", "SEQUENCE NUMBER", "BYTES", "REPLAYED"];
        let cells = |row: &Row| {
            let sub = match row.sub_sequence_number {
                0 => String::new(),
                sub => format!(".{sub}"),
            };
            let replayed = if row.replayed { "yes" } else { "no" };
            let number = format!("{}{sub}", row.sequence_number);
            let bytes = row.bytes.to_string();
            vec![
                row.time.clone(),
                row.reason.clone(),
                printable(&row.shard).into_owned(),
                number,
                bytes,
                replayed.to_owned(),
            ]
        };
        let rows: Vec<_> =
            std::iter::once(header.map(str::to_owned).to_vec()).chain(list.rows.iter().map(cells)).collect();
        out.push_str(&aligned(&rows, &[4]));
        if limited {
            writeln!(out, "These are the newest {limit}; raise --limit to see more.")?;
        }
    }
    print_text(&out)?;
    found.problems.tell();
    Ok(if found.problems.none() { Exit::Done } else { Exit::Failed })
}
