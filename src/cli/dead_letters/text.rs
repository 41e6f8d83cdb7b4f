//! Pieces of what is printed.

use serde::Serialize;

use crate::terminal::say_error;
use crate::transform::Utc;

/// Problems that are told one by one; the others are counted.
const PROBLEMS_SHOWN: usize = 20;

/// What could not be read.
#[derive(Debug, Default, Serialize)]
pub(super) struct Problems {
    count: u64,
    first: Vec<Problem>,
    /// Filters that match nothing, with what there is.
    #[serde(skip)]
    unmatched: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Problem {
    object: String,
    line: Option<u64>,
    problem: String,
}

impl Problems {
    pub(super) fn add(&mut self, object: &str, line: Option<u64>, problem: impl ToString) {
        self.count += 1;
        if self.first.len() < PROBLEMS_SHOWN {
            self.first.push(Problem { object: object.to_owned(), line, problem: problem.to_string() });
        }
    }

    /// Notes a filter that matches nothing: a typo in it must not look like success.
    pub(super) fn unmatched(&mut self, filter: String) {
        self.unmatched.push(filter);
    }

    pub(super) fn none(&self) -> bool {
        self.count == 0 && self.unmatched.is_empty()
    }

    /// On stderr, for people.
    pub(super) fn tell(&self) {
        for Problem { object, line, problem } in &self.first {
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            say_error(format!("{object}{line}: {problem}"));
        }
        let more = self.count - self.first.len() as u64;
        if more > 0 {
            say_error(format!("{more} more could not be read"));
        }
        self.unmatched.iter().for_each(say_error);
    }
}

/// `2026-01-15T09:30:00.123456Z`.
pub(super) fn time(us: i64) -> String {
    let mut text = Vec::new();
    Utc::from_us(us).push_iso(&mut text);
    String::from_utf8(text).expect("a time is ASCII")
}

/// Rows of cells as aligned columns, those in `right` to the right.
pub(super) fn aligned(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// `n thing` or `n things`.
pub(super) fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}
