//! `kinetide transform`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde::de::IgnoredAny;

use super::Exit;
use crate::config::{DEFAULT_TRANSFORM, transform};
use crate::terminal::{Out, say_error};
use crate::transform::{
    BadRecord, ErrorCode, RecordContext, RowMaker, SourceKind, dead_letter_row, parse_utc_us,
};

const SHARD_ID: &str = "shardId-000000000000";

/// Bytes of a line, or of a document over many lines: a record has at most 10 MiB, a third more in base64.
const LINE_MAX: usize = 16 << 20;

/// Flags of `kinetide transform`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes nothing to a lake. The last line on stderr counts records, rows and dead letters.\n\n\
    Exit code: 0 when every record became a row, 1 when there was a dead letter or the input could not be read, 2 for \
    wrong settings.\n\nExamples:\n  \
    kinetide transform --transform crypto-transactions tests/fixtures/kinesis-dynamodb-insert.json\n  \
    aws kinesis get-records --shard-iterator ... | jq -r '.Records[].Data' | kinetide transform --base64"
)]
pub struct TransformArgs {
    /// How a record becomes rows: crypto-transactions, dynamodb-cdc, json, market-snapshot or raw.
    #[arg(long, env = "KINETIDE_TRANSFORM", value_name = "NAME", default_value = DEFAULT_TRANSFORM)]
    transform: String,

    /// TOML file for settings that are not flags: its tables are enrichment and columns.
    #[arg(long, env = "KINETIDE_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,

    /// Each line is one record in base64, as in the response of GetRecords.
    #[arg(long)]
    base64: bool,

    /// Treat the records as DynamoDB Streams records, not as Kinesis records.
    #[arg(long)]
    dynamodb_streams: bool,

    /// Arrival time of all records, like 2026-01-15T09:30:30Z [default: the creation time of each record, so that the
    /// same input always gives the same rows].
    #[arg(long, value_name = "TIME", value_parser = time)]
    arrival: Option<i64>,

    /// File to read: one JSON document per line, or one document over many lines. `-` is stdin.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

fn time(text: &str) -> Result<i64, String> {
    parse_utc_us(text.as_bytes()).ok_or_else(|| "must be a time like 2026-01-15T09:30:30Z".to_owned())
}

/// Runs the command.
pub async fn run(args: TransformArgs) -> anyhow::Result<Exit> {
    let transform = match transform(&args.transform, args.settings.as_deref()) {
        Ok(transform) => transform,
        Err(error) => {
            say_error(error);
            return Ok(Exit::BadSettings);
        }
    };
    let name = args.file.display();
    let input: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&args.file).with_context(|| format!("could not open {name}"))?))
    };
    let mut run = Run {
        maker: RowMaker::new(Arc::new(transform)),
        args: &args,
        rows: BufWriter::with_capacity(64 << 10, Out),
        dead_letters: io::stderr().lock(),
        text: Vec::new(),
        decoded: Vec::new(),
        records: 0,
        made: 0,
        refused: 0,
    };
    run.all(input).with_context(|| format!("could not transform {name}"))
}

/// Puts the next line into `line`, its end included. Of a line that is too long only the start is there; the rest is
/// read and forgotten. False at the end of the input.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let room = LINE_MAX as u64 + 1;
    input.by_ref().take(room).read_until(b'\n', line)?;
    if line.len() > LINE_MAX && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

struct Run<'a, R, D> {
    maker: RowMaker,
    args: &'a TransformArgs,
    rows: R,
    dead_letters: D,
    /// Of the rows of one record.
    text: Vec<u8>,
    decoded: Vec<u8>,
    records: u64,
    made: u64,
    refused: u64,
}

impl<R: Write, D: Write> Run<'_, R, D> {
    fn all(&mut self, mut input: impl BufRead) -> io::Result<Exit> {
        let mut text = Vec::new();
        next_line(&mut input, &mut text)?;
        if text.len() > LINE_MAX {
            // What followed is read and forgotten.
            text.push(b'\n');
        }
        if !self.args.base64 && text.len() <= LINE_MAX && is_cut_off(&text) {
            let room = LINE_MAX - text.len();
            input.by_ref().take(room as u64).read_to_end(&mut text)?;
            if serde_json::from_slice::<IgnoredAny>(&text).is_ok() && input.fill_buf()?.is_empty() {
                self.record(text.trim_ascii())?;
                text.clear();
            }
        }
        self.lines((&text[..]).chain(input))?;
        self.rows.flush()?;
        let Self { records, made, refused, .. } = self;
        writeln!(self.dead_letters, "{records} records: {made} rows, {refused} dead letters")?;
        Ok(if self.refused == 0 { Exit::Done } else { Exit::Failed })
    }

    fn lines(&mut self, mut input: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        for number in 1u64.. {
            if !next_line(&mut input, &mut line)? {
                break;
            }
            if line.len() > LINE_MAX {
                self.records += 1;
                self.refused += 1;
                writeln!(
                    self.dead_letters,
                    "line {number} has more than 16 MiB, which no record can have: skipped"
                )?;
            } else if !line.trim_ascii().is_empty() {
                self.record(line.trim_ascii())?;
            }
        }
        Ok(())
    }

    fn record(&mut self, line: &[u8]) -> io::Result<()> {
        self.records += 1;
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        let outcome = if !self.args.base64 {
            self.write(line, None)
        } else if base64_simd::STANDARD.decode_append(line, &mut decoded).is_ok() {
            self.write(&decoded, None)
        } else {
            self.write(line, Some(ErrorCode::NotBase64.into()))
        };
        self.decoded = decoded;
        outcome
    }

    /// Writes the row of `data`, or its dead letter where it is `bad` already.
    fn write(&mut self, data: &[u8], bad: Option<BadRecord>) -> io::Result<()> {
        let sequence_number = self.records.to_string();
        let mut context = RecordContext {
            source: if self.args.dynamodb_streams {
                SourceKind::DynamoDbStreams
            } else {
                SourceKind::Kinesis
            },
            stream: None,
            shard_id: SHARD_ID,
            sequence_number: &sequence_number,
            sub_sequence: None,
            key: None,
            arrival_us: self.args.arrival.unwrap_or(0),
            null: false,
        };
        let Self { maker, text, .. } = self;
        let mut apply = |context: &RecordContext<'_>| {
            text.clear();
            maker.make_caught(context, data, text)
        };
        let mut outcome = match bad {
            Some(bad) => Err(bad),
            None => apply(&context),
        };
        // The creation time is known only now.
        if let (Ok(info), None) = (&outcome, self.args.arrival) {
            context.arrival_us = info.time_us;
            outcome = apply(&context);
        }
        match outcome {
            Ok(info) => {
                self.made += info.rows;
                self.rows.write_all(&self.text)
            }
            Err(bad) => {
                self.refused += 1;
                self.text.clear();
                dead_letter_row(&context, &bad, data, &mut self.text);
                self.dead_letters.write_all(&self.text)
            }
        }
    }
}

/// True when `line` starts a JSON document that goes on behind it.
fn is_cut_off(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_err_and(|error| error.is_eof())
        && !line.trim_ascii().is_empty()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: TransformArgs,
    }

    /// Rows and dead letters of `input`.
    fn check(flags: &[&str], input: &[u8], exit: Exit) -> (String, String) {
        let args = Command::try_parse_from([&["transform"], flags].concat()).unwrap().args;
        let (mut rows, mut dead_letters) = (Vec::new(), Vec::new());
        let mut run = Run {
            maker: RowMaker::new(Arc::new(transform(&args.transform, args.settings.as_deref()).unwrap())),
            args: &args,
            rows: &mut rows,
            dead_letters: &mut dead_letters,
            text: Vec::new(),
            decoded: Vec::new(),
            records: 0,
            made: 0,
            refused: 0,
        };
        assert_eq!(run.all(input).unwrap(), exit);
        (String::from_utf8(rows).unwrap(), String::from_utf8(dead_letters).unwrap())
    }

    const SAMPLE: &[u8] = include_bytes!("../../tests/fixtures/kinesis-dynamodb-insert.json");

    fn expected() -> &'static str {
        include_str!("../../tests/fixtures/expected-rows.ndjson").split_inclusive('\n').next().unwrap()
    }

    #[test]
    fn one_document_over_many_lines() {
        let crypto = ["--transform", "crypto-transactions"];
        let arrival = ["--arrival", "2026-01-15T09:30:30Z"];
        let (rows, summary) = check(&[crypto, arrival].concat(), SAMPLE, Exit::Done);
        assert_eq!((&rows[..], &summary[..]), (expected(), "1 records: 1 rows, 0 dead letters\n"));
        // Without an arrival time the creation time stands in.
        let (rows, _) = check(&crypto, SAMPLE, Exit::Done);
        assert!(rows.contains(r#""ingestion_time":"2026-01-15T09:30:00.123456Z""#));
    }

    #[test]
    fn lines_and_dead_letters() {
        let input = b"{\"a\":1}\n\n[]\r\n{\"a\":2}";
        let (rows, letters) = check(&["--transform", "json"], input, Exit::Failed);
        assert!(
            rows.lines().map(|row| &row[row.len() - 6..]).eq([",\"a\":1}", ",\"a\":2}"].map(|row| &row[1..]))
        );
        assert!(
            letters.contains(r#""errorCode":"not_object""#) && letters.contains(r#""sequenceNumber":"2""#)
        );
        assert!(letters.ends_with("3 records: 2 rows, 1 dead letters\n"));
        // A torn first line is a record of its own.
        let (rows, _) = check(&["--transform", "json"], b"{\"a\":\n{\"a\":2}\n", Exit::Failed);
        assert_eq!(rows.lines().count(), 1);
        assert_eq!(check(&[], b"", Exit::Done).1, "0 records: 0 rows, 0 dead letters\n");
    }

    #[test]
    fn a_line_too_long_is_passed_over_and_not_held() {
        for first in [&b"[1,"[..], b"x"] {
            let long = [first, &vec![b' '; LINE_MAX], b"\n{\"a\":2}\n"].concat();
            let (rows, letters) = check(&["--transform", "json"], &long, Exit::Failed);
            assert_eq!(rows.lines().count(), 1);
            assert!(letters.starts_with("line 1 has more than 16 MiB"), "{letters}");
            assert!(letters.ends_with("2 records: 1 rows, 1 dead letters\n"), "{letters}");
        }
        // A document over many lines that is too long is lines.
        let long = [b"{\n", &b" \n".repeat(LINE_MAX / 2)[..], b"\"a\":2}\n"].concat();
        assert_eq!(check(&["--transform", "json"], &long, Exit::Failed).0, "");
    }

    #[test]
    fn base64_lines() {
        let input = format!("{}\nno base64\n", base64_simd::STANDARD.encode_to_string(SAMPLE));
        let crypto = ["--transform", "crypto-transactions"];
        let flags = [&crypto[..], &["--base64", "--arrival", "2026-01-15T09:30:30Z"]].concat();
        let (rows, letters) = check(&flags, input.as_bytes(), Exit::Failed);
        assert_eq!(rows, expected());
        assert!(letters.contains("not_base64") && letters.contains("bm8gYmFzZTY0"));
    }
}
