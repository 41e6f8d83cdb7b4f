//! What commands write for people: lines on stderr that never stop a command, results on stdout, and both without
//! characters that change what a terminal shows. A reader that has gone (`… | head -n 1`) ends a command quietly.
//!
//! Does not own: the log of the service (`telemetry::logs`), which outlives its reader.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::LazyLock;

use tokio_util::sync::CancellationToken;

use crate::cause::one_line;

static READER_GONE: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// A line on stderr. Where it cannot be written it is lost; see [`reader_gone`].
pub fn say(line: impl Display) {
    ask(format!("{line}\n"));
}

/// As [`say`], without the end of the line.
pub fn ask(text: impl Display) {
    let text = printable_lines(&text.to_string());
    let mut err = io::stderr().lock();
    let written = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    drop(noted(written));
}

/// What went wrong, on stderr.
pub fn say_error(error: impl Display) {
    say(error_line(error));
}

/// What went wrong, on one line.
pub fn error_line(error: impl Display) -> String {
    format!("error: {}", printable(&one_line(&error.to_string())))
}

/// A result on stdout, at the end of a command: without a reader it is lost, and what was done counts.
///
/// # Errors
/// When it cannot be written for another reason.
pub fn print(line: impl Display) -> io::Result<()> {
    print_text(&format!("{line}\n"))
}

/// As [`print()`], for a text that ends its lines itself.
///
/// # Errors
/// As [`print()`].
pub fn print_text(text: &str) -> io::Result<()> {
    match Out.write_all(text.as_bytes()).and_then(|()| Out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Stdout, for results. Errors name it.
#[derive(Debug, Default)]
pub struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        noted(io::stdout().write(bytes)).map_err(of_stdout)
    }

    fn flush(&mut self) -> io::Result<()> {
        noted(io::stdout().flush()).map_err(of_stdout)
    }
}

/// Returns when whoever reads stderr or stdout has gone: as a shell's commands end then, so does this one.
pub async fn reader_gone() {
    READER_GONE.cancelled().await;
}

fn of_stdout(error: io::Error) -> io::Error {
    match error.kind() {
        // Whoever tries again must know it by its kind alone.
        ErrorKind::Interrupted | ErrorKind::WouldBlock => error,
        kind => io::Error::new(kind, format!("could not write to stdout: {error}")),
    }
}

fn noted<T>(outcome: io::Result<T>) -> io::Result<T> {
    if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        READER_GONE.cancel();
    }
    outcome
}

/// Whether a command failed only because whoever reads its output has seen enough. A connection of ours that broke is
/// another matter: that lies deeper in an error.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Text from outside, safe on a terminal: control characters, those that change the direction of writing, and those that
/// nobody sees are written as their codes.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_deceptive(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A text broken between words to lines of at most `width` columns, with `first` before the first line and `rest` before
/// the others. Longer words stay whole.
pub fn wrapped(width: usize, text: &str, first: &str, rest: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split([' ', '\n', '\t', '\r']).filter(|word| !word.is_empty()) {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
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

/// [`printable`] for each line of a text.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Whether a character does something to a terminal other than to show a sign.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, fillers, directions, joiners, ends of lines, isolates, byte order mark, notes, tags.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert!(matches!(printable("Größe 1 €, 通貨 🙂"), Cow::Borrowed(_)));
        for (text, shown) in [
            ("a\u{1b}[2Jb", r"a\u{1b}[2Jb"),
            ("user\u{202e}txt.exe", r"user\u{202e}txt.exe"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
            ("a\nb\tc", r"a\u{a}b\u{9}c"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("\u{200f}\u{61c}\u{feff}", r"\u{200f}\u{61c}\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn a_connection_that_broke_is_no_reader_that_has_gone() {
        let broken = || io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(broken())));
        assert!(is_broken_pipe(&anyhow::Error::from(broken()).context("could not write -")));
        #[derive(Debug, thiserror::Error)]
        #[error("the lake")]
        struct Lake(#[source] io::Error);
        assert!(!is_broken_pipe(&anyhow::Error::from(Lake(broken()))));
    }
}
