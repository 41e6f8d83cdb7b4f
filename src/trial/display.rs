//! How far a trial is, on stderr.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::TrialError;
use super::complaints::Complaints;
use super::progress::Progress;
use super::workers::Workers;
use crate::clock::wall_clock_us;
use crate::figures::tenths;
use crate::terminal::{printable, say};

/// Without any progress for this long something is wrong.
pub const STUCK_AFTER: Duration = Duration::from_secs(120);
/// Time between lines when stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
const BAR: &str = "{bar:12} {human_pos} of {human_len} in the lake  {wide_msg}";

/// A bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub struct Display {
    bar: ProgressBar,
    /// Length of the bar until everything is put: what was asked for.
    expected: u64,
    terminal: bool,
    last_line: Option<Instant>,
    complaints: Complaints,
    /// How much was delivered at the last look, and since when.
    moved: Option<(u64, Instant)>,
}

impl Display {
    /// `records`: how many will come, as far as is known.
    pub fn new(records: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(records) } else { ProgressBar::hidden() };
        bar.set_style(
            ProgressStyle::with_template(BAR).expect("the template is a constant that a test parses"),
        );
        let complaints = Complaints::default();
        Self { bar, expected: records, terminal, last_line: None, complaints, moved: None }
    }

    /// Shows how many of the records put are in the lake and how late the others are, `line`, and what workers say that keeps
    /// them from going on. `all_put`: no more records will come. Answers since when nothing has moved.
    pub async fn show(
        &mut self,
        progress: &Progress,
        all_put: bool,
        line: String,
        workers: &Workers,
    ) -> Instant {
        let Progress { put, delivered, .. } = *progress;
        let before = self.moved.filter(|(before, _)| *before == delivered);
        let (_, since) = *self.moved.insert(before.unwrap_or((delivered, Instant::now())));
        let mut line = format!("lag {} s  {line}", tenths(progress.lag_ms(wall_clock_us())));
        if put > delivered
            && let Some(text) = self.complaints.while_still(since, workers).await
        {
            line = format!("{line}  {text}");
        }
        if self.terminal {
            self.bar.set_length(if all_put { put } else { self.expected.max(put) });
            self.bar.set_position(delivered);
            self.bar.set_message(printable(&line).into_owned());
        } else if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            say(format!("{delivered} of {put} records in the lake  {line}"));
        }
        since
    }

    /// The end of a trial in which nothing moves any more.
    pub fn stuck(&self, progress: &Progress, logs: PathBuf) -> TrialError {
        self.end();
        let (left, cause) = (progress.put - progress.delivered, self.complaints.cause());
        TrialError::Stuck { after: STUCK_AFTER, left, logs, cause }
    }

    /// Says something that happened, above the bar.
    pub fn say(&self, text: &str) {
        if self.terminal {
            self.bar.suspend(|| say(text));
        } else {
            say(text);
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_a_valid_style() {
        ProgressStyle::with_template(BAR).unwrap();
    }
}
