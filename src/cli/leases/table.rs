//! A report as text for people, within 100 columns.

use std::collections::BTreeMap;

use super::report::{LeaderReport, LeaseReport, Report, State, WorkerReport};

const WIDTH: usize = 100;
const GAP: &str = "  ";
/// Ids are not cut below this.
const ID_LEAST: usize = 12;
/// Shards that are named one by one where several have the same trouble.
const NAMED_MAX: usize = 3;

/// The whole report; of the shards that are read at most `read_max`.
pub(super) fn text(report: &Report, read_max: usize) -> String {
    let mut out = summary(report);
    out.push('\n');
    if report.leases.is_empty() {
        out.push_str("No leases yet: the first worker creates them.\n");
    } else {
        out.push_str(&leases(&report.leases, report.stream.is_some(), read_max));
    }
    out.push_str(&troubles(&report.leases));
    out.push('\n');
    out.push_str(&leader(report.leader.as_ref()));
    out.push_str(&workers(&report.workers));
    for row in &report.odd_rows {
        out.push_str(&wrapped(&format!("{}: {}", row.key, row.problem), "Row not understood: ", "  "));
    }
    for note in &report.notes {
        out.push_str(&wrapped(note, "Note: ", "      "));
    }
    out
}

fn summary(report: &Report) -> String {
    let count = |state| report.leases.iter().filter(|lease| lease.state == state).count();
    let (unread, unheard) = (count(State::NotRead), count(State::Unheard));
    let mut parts = vec![format!("{} read", count(State::Read))];
    if unheard > 0 {
        parts.push(format!("{unheard} not heard of yet"));
    }
    if unread > 0 {
        parts.push(format!("{unread} NOT READ"));
    }
    if count(State::Finished) > 0 {
        parts.push(format!("{} finished", count(State::Finished)));
    }
    let stream = report.stream.as_ref().map(|stream| format!(" of stream {stream}")).unwrap_or_default();
    let (number, s) = (report.leases.len(), if report.leases.len() == 1 { "" } else { "s" });
    format!("{}{stream}: {number} shard{s}, {}\n", report.application, parts.join(", "))
}

/// Rows of cells as aligned columns. While it is too wide, the columns in `shrink` give way one after the other.
fn aligned(rows: &[Vec<String>], shrink: &[usize]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let mut widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for &column in shrink {
        let total = widths.iter().sum::<usize>() + GAP.len() * (columns.max(1) - 1);
        let over = total.saturating_sub(WIDTH);
        widths[column] = widths[column].min(widths[column].saturating_sub(over).max(ID_LEAST));
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

fn leases(leases: &[LeaseReport], with_stream: bool, read_max: usize) -> String {
    let header = ["", "SHARD", "OWNER", "CHECKPOINT", "LAG", "STATE", "FOR"].map(str::to_owned).to_vec();
    let mut rows = vec![header];
    let mut read = 0;
    let mut left_out = 0;
    for lease in leases {
        if matches!(lease.state, State::Read | State::Finished) {
            read += 1;
            if read > read_max {
                left_out += 1;
                continue;
            }
        }
        rows.push(cells(lease, with_stream));
    }
    let mut out = aligned(&rows, &[2, 1]);
    if left_out > 0 {
        out.push_str(&format!("   … and {left_out} more that are read or finished\n"));
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
        (Some(problem), _) if problem.chars().count() > 10 => "refused".to_owned(),
        (Some(problem), _) => problem.clone(),
        (None, Some(ms)) => duration(seconds(ms)),
        (None, None) => "-".to_owned(),
    };
    let state = match (lease.state, lease.reason) {
        (State::NotRead, Some(reason)) => reason.replace('_', " "),
        (State::Read, _) if lease.pending.is_some() => "read, batch pending".to_owned(),
        (State::Read | State::NotRead, _) => "read".to_owned(),
        (State::Unheard, _) => "not heard of yet".to_owned(),
        (State::Finished, _) => "finished".to_owned(),
    };
    let held_for = match lease.for_seconds.filter(|_| lease.state != State::Read) {
        Some(held) if lease.at_least => format!("≥ {}", duration(held)),
        Some(held) => duration(held),
        None => String::new(),
    };
    vec![mark.to_owned(), lease.shard.clone(), owner, checkpoint(lease, with_stream), lag, state, held_for]
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
        None => shortened(text, ID_LEAST),
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
fn troubles(leases: &[LeaseReport]) -> String {
    let mut out = String::new();
    let mut whys: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for lease in leases.iter().filter(|lease| lease.state == State::NotRead) {
        if let (Some(why), Some(next_step)) = (&lease.why, lease.next_step) {
            whys.entry(next_step).or_default().entry(why).or_default().push(&lease.shard);
        }
    }
    for (next_step, sentences) in &whys {
        for (why, shards) in sentences.iter().take(NAMED_MAX) {
            out.push_str(&wrapped(&format!("{}: {why}", named(shards)), "  ", "    "));
        }
        if sentences.len() > NAMED_MAX {
            let more: usize = sentences.values().skip(NAMED_MAX).map(Vec::len).sum();
            out.push_str(&format!("  … and {more} more shards in the same way\n"));
        }
        out.push_str(&wrapped(next_step, "    → ", "      "));
    }
    let mut other = |lease: &LeaseReport, text: &str| {
        out.push_str(&wrapped(&format!("{}: {text}", lease.shard), "  ", "    "));
    };
    for lease in leases {
        if let Some(problem) = lease.pending.as_ref().and_then(|pending| pending.problem.as_ref()) {
            other(lease, problem);
        } else if let Some(pending) = lease.pending.as_ref().filter(|_| lease.state == State::NotRead) {
            let what = match (pending.ours, pending.objects.len()) {
                (true, 1) => "a batch of 1 object is prepared; the next owner finishes it first".to_owned(),
                (true, n) => format!("a batch of {n} objects is prepared; the next owner finishes it first"),
                (false, _) => {
                    "another application prepared a batch; reading goes on from the checkpoint".to_owned()
                }
            };
            other(lease, &what);
        }
        if lease.lag.trimmed {
            other(
                lease,
                "the record at its checkpoint has left the stream, and records after it may be lost with it",
            );
        }
        if let Some(problem) = lease.lag.lag_problem.as_ref().filter(|problem| problem.chars().count() > 10) {
            other(lease, &format!("its lag is not known: {problem}"));
        }
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

fn named(shards: &[&str]) -> String {
    let first: Vec<&str> = shards.iter().copied().take(NAMED_MAX).collect();
    let more = shards.len() - first.len();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

fn leader(leader: Option<&LeaderReport>) -> String {
    let Some(leader) = leader else {
        return "Leader: none. Nobody assigns leases until a worker takes the lock.\n".to_owned();
    };
    let at_least = if leader.at_least { "≥ " } else { "" };
    let unmoved = format!("{at_least}{} ago", duration(leader.unmoved_seconds));
    let lock = duration(leader.lease_seconds);
    let text = if leader.released {
        format!("none. {} gave the lock back; the next worker that looks takes it", leader.worker)
    } else if leader.expired {
        format!("none. {} wrote its lock {unmoved}, which was good for {lock}", leader.worker)
    } else {
        format!("{}, wrote its lock {unmoved}; it runs out after {lock}", leader.worker)
    };
    wrapped(&text, "Leader: ", "        ")
}

fn workers(workers: &[WorkerReport]) -> String {
    if workers.is_empty() {
        return "Workers: none.\n".to_owned();
    }
    let header = ["WORKER", "LEASES", "CPU", "THROUGHPUT", "SEEN", "STATE"].map(str::to_owned).to_vec();
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} %"));
    let row = |worker: &WorkerReport| {
        let state = match worker {
            WorkerReport { has_row: false, .. } => "no row: gets no leases",
            WorkerReport { active: true, leader: true, .. } => "active, leader",
            WorkerReport { active: true, .. } => "active",
            WorkerReport { leader: true, .. } => "silent, leader",
            _ => "silent",
        };
        vec![
            worker.worker.clone(),
            worker.leases.to_string(),
            percent(worker.cpu_percent),
            percent(worker.throughput_percent),
            worker.seen_seconds_ago.map_or("-".to_owned(), |ago| format!("{} ago", duration(ago))),
            state.to_owned(),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(workers.iter().map(row)).collect();
    format!("\n{}", aligned(&rows, &[0]))
}

/// Broken between words, with `first` before the first line and `rest` before the others.
pub(super) fn wrapped(text: &str, first: &str, rest: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = rest.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out + &line + "\n"
}
