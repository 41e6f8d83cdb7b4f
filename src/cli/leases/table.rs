//! A report as text for people, within the width of a screen, and its height where it is drawn again and again.

use std::collections::BTreeMap;

use crate::report::{LeaderReport, LeaseReport, Report, State, WorkerReport};
use crate::terminal;

/// Where no terminal says another.
const WIDTH: usize = 100;
/// Narrower and lower ones get lines that do not fit.
const LEAST: (usize, usize) = (60, 16);
/// Longer lines are hard to read.
const WIDTH_MAX: usize = 160;
const GAP: &str = "  ";
/// Cells are not cut below this.
const CELL_LEAST: usize = 9;
/// Shards that are named one by one where several have the same trouble.
const NAMED_MAX: usize = 3;

/// What a report has to fit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    width: usize,
    /// `None`: as many lines as it takes.
    height: Option<usize>,
}

impl Default for Screen {
    fn default() -> Self {
        Self { width: WIDTH, height: None }
    }
}

impl Screen {
    /// A terminal of this size; with a height where what scrolls off it is never seen.
    pub(super) fn new(width: usize, height: Option<usize>) -> Self {
        let height = height.map(|height| height.max(LEAST.1));
        Self { width: width.clamp(LEAST.0, WIDTH_MAX), height }
    }

    /// The first lines of `text`, and how many more there are; `share` is the part of the height that they may take.
    fn cut(self, text: String, share: usize) -> String {
        let Some(height) = self.height else { return text };
        let (most, lines) = (height / share, text.lines().count());
        if lines <= most {
            return text;
        }
        let shown: Vec<&str> = text.lines().take(most.saturating_sub(1)).collect();
        format!("{}\n  … and {} more lines\n", shown.join("\n"), lines - shown.len())
    }
}

/// The whole report. Where the height is limited, what is not read comes first, then why, and shards that are read take
/// what is left.
pub(super) fn text(report: &Report, screen: Screen) -> String {
    let mut below = screen.cut(troubles(&report.leases, screen.width), 3);
    below.push('\n');
    below.push_str(&leader(report.leader.as_ref(), screen.width));
    below.push_str(&screen.cut(workers(&report.workers, screen.width), 4));
    let mut notes = String::new();
    for row in &report.odd_rows {
        let text = format!("{}: {}", row.key, row.problem);
        notes.push_str(&terminal::wrapped(screen.width, &text, "Row not understood: ", "  "));
    }
    for note in &report.notes {
        notes.push_str(&terminal::wrapped(screen.width, note, "Note: ", "      "));
    }
    below.push_str(&screen.cut(notes, 5));
    let summary = terminal::wrapped(screen.width, &summary(report), "", "  ");
    let table = if !report.leases.is_empty() {
        // A blank line, the header, the line for what is left out, and the cursor's.
        let taken = summary.lines().count() + below.lines().count() + 4;
        let rows_max = screen.height.map_or(usize::MAX, |height| height.saturating_sub(taken));
        leases(report, rows_max, screen.width)
    } else if report.looked() {
        "No leases yet: the first worker creates them.\n".to_owned()
    } else {
        "No leases. The shards could not be listed, so it is unknown whether there should be any.\n"
            .to_owned()
    };
    format!("{summary}\n{table}{below}")
}

fn summary(report: &Report) -> String {
    let count = |state| report.leases.iter().filter(|lease| lease.state == state).count();
    let (unread, unheard) = (count(State::NotRead), count(State::Unheard));
    let mut parts = vec![format!("{} read", count(State::Read))];
    if unheard > 0 {
        parts.push(format!("{unheard} not renewed yet"));
    }
    if unread > 0 {
        parts.push(format!("{unread} NOT READ"));
    }
    if count(State::Finished) > 0 {
        parts.push(format!("{} finished", count(State::Finished)));
    }
    let stream = report.stream.as_ref().map(|stream| format!(" of stream {stream}")).unwrap_or_default();
    let (number, s) = (report.leases.len(), if report.leases.len() == 1 { "" } else { "s" });
    format!("{}{stream}: {number} shard{s}, {}", report.application, parts.join(", "))
}

/// Rows of cells as aligned columns. While it is too wide, the columns in `shrink` give way one after the other.
fn aligned(rows: &[Vec<String>], shrink: &[usize], width: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let mut widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for &column in shrink {
        let total = widths.iter().sum::<usize>() + GAP.len() * (columns.max(1) - 1);
        let over = total.saturating_sub(width);
        widths[column] = widths[column].min(widths[column].saturating_sub(over).max(CELL_LEAST));
    }
    let mut out = String::new();
    for row in rows {
        let cells =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{:width$}", shortened(cell, width)));
        out.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        out.push('\n');
    }
    out
}

/// Cut in the middle: ids differ at both ends.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let tail = (width - 1) / 2;
    let head: String = text.chars().take(width - 1 - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// The first rows of the table of leases, which are those of shards that are not read.
fn leases(report: &Report, rows_max: usize, width: usize) -> String {
    let header = ["", "SHARD", "OWNER", "CHECKPOINT", "LAG", "STATE", "FOR"].map(str::to_owned).to_vec();
    let shown = report.leases.iter().take(rows_max).map(|lease| cells(lease, report.stream.is_some()));
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(shown).collect();
    // The owner first, for a screen on which most have the same; then the words that are long.
    let mut out = aligned(&rows, &[2, 1, 5, 3], width);
    let left_out = report.leases.get(rows_max..).unwrap_or_default();
    let count = |state| left_out.iter().filter(|lease| lease.state == state).count();
    let words = [
        (count(State::NotRead), "not read"),
        (count(State::Unheard), "not renewed yet"),
        (count(State::Read), "read"),
        (count(State::Finished), "finished"),
    ];
    let mut counted = words.iter().filter(|(count, _)| *count > 0);
    if let Some((count, word)) = counted.next() {
        let others: String = counted.map(|(count, word)| format!(", {count} {word}")).collect();
        out.push_str(&format!("   … and {count} more {word}{others}\n"));
    }
    out
}

fn cells(lease: &LeaseReport, with_stream: bool) -> Vec<String> {
    let mark = match lease.state {
        State::NotRead => "!",
        State::Unheard => "?",
        State::Read | State::Finished => "",
    };
    let owner = match (&lease.owner, &lease.next_owner) {
        (Some(owner), Some(next)) => format!("{} → {}", shortened(owner, 14), shortened(next, 14)),
        (Some(owner), None) => owner.clone(),
        (None, _) => "-".to_owned(),
    };
    let lag = match (&lease.lag.lag_problem, lease.lag.millis_behind_latest) {
        (Some(problem), _) if problem.chars().count() > 10 => "unknown".to_owned(),
        (Some(problem), _) => problem.clone(),
        (None, Some(ms)) => duration(std::time::Duration::from_millis(ms).as_secs_f64()),
        (None, None) => "-".to_owned(),
    };
    let state = match (lease.state, lease.reason) {
        (State::NotRead, Some(reason)) => reason.replace('_', " "),
        (State::Read, _) if lease.pending.is_some() => "read, batch pending".to_owned(),
        (State::Read | State::NotRead, _) => "read".to_owned(),
        (State::Unheard, _) => "not renewed yet".to_owned(),
        (State::Finished, _) => "finished".to_owned(),
    };
    let held_for = match lease.for_seconds.filter(|_| lease.state != State::Read) {
        Some(held) if lease.at_least => format!("≥ {}", duration(held)),
        Some(held) => duration(held),
        None => String::new(),
    };
    vec![mark.to_owned(), lease.lease.clone(), owner, checkpoint(lease, with_stream), lag, state, held_for]
}

/// The age of a checkpoint where it is known, else the checkpoint.
fn checkpoint(lease: &LeaseReport, with_stream: bool) -> String {
    let Some(text) = &lease.checkpoint else { return "-".to_owned() };
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return text.to_lowercase().replace('_', " ");
    }
    match lease.lag.checkpoint_age_ms {
        _ if lease.lag.trimmed => "trimmed".to_owned(),
        Some(ms) => format!("{} ago", duration(seconds(ms))),
        None if with_stream => "age unknown".to_owned(),
        None => shortened(text, 12),
    }
}

fn seconds(ms: i64) -> f64 {
    std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

/// Like `4 s`, `2m 13s`, `3h 05m` or `4d 02h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// Why shards are not read and what to do, each once; and what else needs a person.
fn troubles(leases: &[LeaseReport], width: usize) -> String {
    let mut out = String::new();
    let mut whys: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for lease in leases.iter().filter(|lease| lease.state == State::NotRead) {
        if let (Some(why), Some(next_step)) = (&lease.why, lease.next_step) {
            whys.entry(next_step).or_default().entry(why).or_default().push(&lease.lease);
        }
    }
    for (next_step, sentences) in &whys {
        for (why, shards) in sentences.iter().take(NAMED_MAX) {
            out.push_str(&terminal::wrapped(width, &format!("{}: {why}", named(shards)), "  ", "    "));
        }
        if sentences.len() > NAMED_MAX {
            let more: usize = sentences.values().skip(NAMED_MAX).map(Vec::len).sum();
            out.push_str(&format!("  … and {more} more shards\n"));
        }
        out.push_str(&terminal::wrapped(width, next_step, "    → ", "      "));
    }
    let mut other = |lease: &LeaseReport, text: &str| {
        out.push_str(&terminal::wrapped(width, &format!("{}: {text}", lease.lease), "  ", "    "));
    };
    for lease in leases {
        if let Some(problem) = lease.pending.as_ref().and_then(|pending| pending.problem.as_ref()) {
            other(lease, problem);
        } else if let Some(pending) = lease.pending.as_ref().filter(|_| lease.state == State::NotRead) {
            let what = match (pending.ours, pending.objects.len()) {
                (true, 1) => "a batch of 1 object is pending; the next owner completes it first".to_owned(),
                (true, n) => format!("a batch of {n} objects is pending; the next owner completes it first"),
                (false, _) => {
                    "a batch of another application is pending; the next owner reads from the checkpoint"
                        .to_owned()
                }
            };
            other(lease, &what);
        }
        if lease.lag.trimmed {
            other(
                lease,
                "the record at its checkpoint is no longer in the stream; records after it may be lost",
            );
        }
        if let Some(problem) = lease.lag.lag_problem.as_ref().filter(|problem| problem.chars().count() > 10) {
            other(lease, &format!("its lag is unknown: {problem}"));
        }
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

fn named(shards: &[&str]) -> String {
    let first: Vec<&str> = shards.iter().copied().take(NAMED_MAX).collect();
    let more = shards.len() - first.len();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

fn leader(leader: Option<&LeaderReport>, width: usize) -> String {
    let Some(leader) = leader else {
        return "Leader: none. No leases are assigned until a worker takes the leader lock.\n".to_owned();
    };
    let at_least = if leader.at_least { "≥ " } else { "" };
    let unmoved = format!("{at_least}{} ago", duration(leader.unmoved_seconds));
    let lock = duration(leader.lease_seconds);
    let text = if leader.released {
        format!("none. {} released the leader lock; another worker takes it soon", leader.worker)
    } else if leader.expired {
        format!("none. {} renewed the leader lock {unmoved}; it expired after {lock}", leader.worker)
    } else {
        format!("{}, renewed the leader lock {unmoved}; it expires after {lock}", leader.worker)
    };
    terminal::wrapped(width, &text, "Leader: ", "        ")
}

fn workers(workers: &[WorkerReport], width: usize) -> String {
    if workers.is_empty() {
        return "Workers: none.\n".to_owned();
    }
    let header = ["WORKER", "LEASES", "CPU", "THROUGHPUT", "SEEN", "STATE"].map(str::to_owned).to_vec();
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} %"));
    let row = |worker: &WorkerReport| {
        let state = match worker {
            WorkerReport { has_row: false, .. } => "no metrics row",
            WorkerReport { active: true, leader: true, .. } => "active, leader",
            WorkerReport { active: true, .. } => "active",
            WorkerReport { leader: true, .. } => "silent, leader",
            _ => "silent",
        };
        let state = match worker.fan_out {
            Some(shards) if shards > 0 => format!("{state}, {shards} by fan-out"),
            _ => state.to_owned(),
        };
        vec![
            worker.worker.clone(),
            worker.leases.to_string(),
            percent(worker.cpu_percent),
            percent(worker.throughput_percent),
            worker.seen_seconds_ago.map_or("-".to_owned(), |ago| format!("{} ago", duration(ago))),
            state,
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(workers.iter().map(row)).collect();
    format!("\n{}", aligned(&rows, &[0], width))
}

/// Broken between words, with `first` before the first line and `rest` before the others.
pub(in crate::cli) fn wrapped(text: &str, first: &str, rest: &str) -> String {
    terminal::wrapped(WIDTH, text, first, rest)
}
