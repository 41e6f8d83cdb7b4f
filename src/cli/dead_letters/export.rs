//! `kinetide dead-letters export`.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::super::Exit;
use super::scan::{Lake, Seen, Visitor, Which, scan};
use super::text::{Problems, counted};

#[derive(Debug, Args)]
#[command(
    after_help = "The payloads are in it, values and all: they hold personal data. A new file can be read by \
    its owner only; an existing one is not overwritten.\n\n\
    One JSON object a line: the members of the dead letter as they are in the lake, then `replayed`, `object` and \
    `line`. The payload is `rawData`, in base64; with --raw it is `rawText` where it is UTF-8.\n\nExample:\n  \
    kinetide dead-letters export --lake s3://my-lake/crypto --open --to - | jq -r .rawData | \
    kinetide transform --base64"
)]
pub(super) struct ExportArgs {
    /// A new file, or - for stdout.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,

    /// Payloads as text where they are UTF-8.
    #[arg(long)]
    raw: bool,

    /// Only those that are no rows yet.
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
            sub_sequence_number: Some(letter.sub_sequence).filter(|sub| *sub > 0),
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
    let name = args.to.display();
    let out: Box<dyn Write> = if to_stdout {
        Box::new(io::stdout())
    } else {
        Box::new(create(&args.to).with_context(|| format!("could not create {name}"))?)
    };
    let out = BufWriter::with_capacity(64 << 10, out);
    let mut export = Export { raw: args.raw, open: args.open, decoded: Vec::new(), exported: 0, out };
    let found = scan(lake, which, &mut export).await?;
    export.out.flush().with_context(|| format!("could not write {name}"))?;
    let exported = export.exported;
    let summary = if json {
        serde_json::to_string(&Report { exported, unreadable: &found.problems })?
    } else {
        format!("{} written", counted(exported, "dead letter"))
    };
    // On stdout are the dead letters.
    if to_stdout {
        writeln!(io::stderr(), "{summary}")?;
    } else {
        writeln!(io::stdout(), "{summary}")?;
    }
    found.problems.tell()?;
    Ok(if found.problems.none() { Exit::Done } else { Exit::Failed })
}

/// A new file for its owner only.
fn create(path: &Path) -> io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
