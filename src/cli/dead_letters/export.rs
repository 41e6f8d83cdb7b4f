//! `kinetide dead-letters export`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::super::Exit;
use super::scan::{Lake, Seen, Visitor, Which, scan};
use super::text::{Problems, counted};
use crate::terminal::{Out, print, say, say_error};

#[derive(Debug, Args)]
#[command(
    after_help = "The output contains the payloads, which may hold personal data. The file is created so that only its \
    owner can read it; an existing file is not overwritten.\n\n\
    One JSON object per line: the members of the dead letter as they are in the lake, then `replayed`, `object` and \
    `line`. The payload is `rawData`, in base64; with --raw it is `rawText` where it is UTF-8.\n\nExample:\n  \
    kinetide dead-letters export --lake s3://my-lake/crypto --open --to - | jq -r .rawData | \
    kinetide transform --base64"
)]
pub(super) struct ExportArgs {
    /// File to create, or - for stdout.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,

    /// Write payloads as text where they are UTF-8.
    #[arg(long)]
    raw: bool,

    /// Only dead letters that are not yet replayed.
    #[arg(long)]
    open: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    attempts_made: u64,
    arrival_timestamp: i64,
    error_code: &'a str,
    error_message: &'a str,
    attempt_ending_timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_text: Option<&'a str>,
    source: &'a str,
    shard_id: &'a str,
    sequence_number: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_sequence_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_timestamp_micros: Option<i64>,
    replayed: bool,
    object: &'a str,
    line: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    exported: u64,
    unreadable: &'a Problems,
}

struct Export<W> {
    raw: bool,
    open: bool,
    decoded: Vec<u8>,
    exported: u64,
    out: W,
}

impl<W: Write> Visitor for Export<W> {
    fn see(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        if self.open && seen.replayed {
            return Ok(());
        }
        let letter = seen.letter;
        if self.raw {
            letter.decode_into(&mut self.decoded);
        }
        let raw_text = if self.raw { str::from_utf8(&self.decoded).ok() } else { None };
        let line = Line {
            attempts_made: letter.attempts,
            arrival_timestamp: letter.arrival_us / 1000,
            error_code: &letter.error_code,
            error_message: &letter.error_message,
            attempt_ending_timestamp: letter.attempt_ending_ms,
            raw_data: raw_text.is_none().then_some(&letter.raw_base64),
            raw_text,
            source: letter.source.as_str(),
            shard_id: &letter.shard_id,
            sequence_number: &letter.sequence_number,
            sub_sequence_number: letter.sub_sequence,
            arrival_timestamp_micros: Some(letter.arrival_us).filter(|us| us % 1000 != 0),
            replayed: seen.replayed,
            object: seen.key,
            line: seen.line,
        };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")?;
        self.exported += 1;
        Ok(())
    }
}

pub(super) async fn run(lake: &Lake, which: &Which, args: ExportArgs, json: bool) -> anyhow::Result<Exit> {
    let to_stdout = args.to == Path::new("-");
    let out = if to_stdout { Target::Stdout(Out) } else { Target::File(NewFile::create(&args.to)?) };
    let out = BufWriter::with_capacity(64 << 10, out);
    let mut export = Export { raw: args.raw, open: args.open, decoded: Vec::new(), exported: 0, out };
    let found = scan(lake, which, &mut export).await?;
    export.out.into_inner().map_err(IntoInnerError::into_error)?.finish()?;
    let exported = export.exported;
    let summary = if json {
        serde_json::to_string(&Report { exported, unreadable: &found.problems })?
    } else {
        format!("{} written", counted(exported, "dead letter"))
    };
    // On stdout are the dead letters.
    if to_stdout {
        say(summary);
    } else {
        print(summary)?;
    }
    found.problems.tell();
    Ok(if found.problems.none() { Exit::Done } else { Exit::Failed })
}

/// Where dead letters go. Errors of a file name it.
enum Target {
    Stdout(Out),
    File(NewFile),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.open.write(bytes).map_err(|error| file.named("write", &error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(_) => Ok(()),
        }
    }
}

impl Target {
    /// All is written: makes it last.
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::File(mut file) => {
                file.open.sync_all().map_err(|error| file.named("write", &error))?;
                file.whole = true;
                Ok(())
            }
        }
    }
}

/// A new file for its owner only. It is removed again unless it becomes whole: half of it would be personal data that
/// nobody knows of.
struct NewFile {
    path: PathBuf,
    open: File,
    whole: bool,
}

impl NewFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let open = options.open(path).with_context(|| format!("could not create {}", path.display()))?;
        Ok(Self { path: path.to_owned(), open, whole: false })
    }

    fn named(&self, what: &str, error: &io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("could not {what} {}: {error}; the file was removed", self.path.display()),
        )
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.whole
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            say_error(format!("could not remove the unfinished {}: {error}", self.path.display()));
        }
    }
}
