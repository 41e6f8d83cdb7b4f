//! `kinetide dead-letters show`.

use std::io;

use clap::Args;
use serde::Serialize;

use super::super::Exit;
use super::scan::{Lake, Seen, Visitor, Which, scan};
use super::text::time;
use crate::dead_letters::Shape;
use crate::terminal::{print_text, printable, say_error};
use crate::transform::fnv1a;

#[derive(Debug, Args)]
#[command(
    after_help = "Payloads may hold personal data. Without --reveal it shows the payload's size, a hash, and its structure: \
    member names, with types instead of values. Member names are always shown, even if a producer puts personal data \
    into them.\n\nExample:\n  \
    kinetide dead-letters show 49590338271490256608559692538361571095921575989136588898 --lake s3://my-lake/crypto"
)]
pub(super) struct ShowArgs {
    /// Sequence number of the record, as `kinetide dead-letters list` shows it.
    #[arg(value_name = "SEQUENCE")]
    pub(super) sequence_number: String,

    /// Show the payload itself.
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    time: String,
    reason: String,
    error_code: String,
    error_message: String,
    source: &'static str,
    shard: String,
    sequence_number: String,
    sub_sequence_number: u64,
    attempts_made: u64,
    attempt_ended: String,
    replayed: bool,
    object: String,
    line: u64,
    payload: Payload,
}

#[derive(Debug, Serialize)]
struct Payload {
    bytes: usize,
    /// Equal payloads have equal ones.
    fnv1a: String,
    /// Names and types; or why there are none.
    #[serde(flatten)]
    structure: Structure,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    value: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Structure {
    Structure(Shape),
    NoStructure(String),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Value {
    Text(String),
    Base64(String),
}

struct Show {
    reveal: bool,
    shown: Vec<Shown>,
}

impl Visitor for Show {
    fn see(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        let letter = seen.letter;
        let mut raw = Vec::new();
        letter.decode_into(&mut raw);
        let payload = Payload {
            bytes: raw.len(),
            fnv1a: format!("{:016x}", fnv1a(&raw)),
            structure: Shape::of(&raw).map_or_else(Structure::NoStructure, Structure::Structure),
            value: self.reveal.then(|| match String::from_utf8(raw) {
                Ok(text) => Value::Text(text),
                Err(_) => Value::Base64(letter.raw_base64.clone().into_owned()),
            }),
        };
        self.shown.push(Shown {
            time: time(letter.arrival_us),
            reason: seen.reason.to_owned(),
            error_code: letter.error_code.clone().into_owned(),
            error_message: letter.error_message.clone().into_owned(),
            source: letter.source.as_str(),
            shard: letter.shard_id.clone().into_owned(),
            sequence_number: letter.sequence_number.clone().into_owned(),
            sub_sequence_number: letter.sub_sequence.unwrap_or(0),
            attempts_made: letter.attempts,
            attempt_ended: time(
                i64::try_from(letter.attempt_ending_ms).unwrap_or(i64::MAX).saturating_mul(1000),
            ),
            replayed: seen.replayed,
            object: seen.key.to_owned(),
            line: seen.line,
            payload,
        });
        Ok(())
    }
}

pub(super) async fn run(lake: &Lake, which: &Which, args: ShowArgs, json: bool) -> anyhow::Result<Exit> {
    let mut show = Show { reveal: args.reveal, shown: Vec::new() };
    let found = scan(lake, which, &mut show).await?;
    let out = if json {
        serde_json::to_string(&show.shown)? + "\n"
    } else {
        show.shown.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n")
    };
    print_text(&out)?;
    found.problems.tell();
    if show.shown.is_empty() {
        let advice = "check the number with `kinetide dead-letters list`, or remove filters";
        say_error(format!("no such dead letter in {lake}; {advice}"));
    }
    Ok(if found.problems.none() && !show.shown.is_empty() { Exit::Done } else { Exit::Failed })
}

fn text(shown: &Shown) -> Result<String, serde_json::Error> {
    let Payload { bytes, fnv1a, structure, value } = &shown.payload;
    let sub = shown.sub_sequence_number.to_string();
    let attempts = format!("{}, the last at {}", shown.attempts_made, shown.attempt_ended);
    let object = format!("{}, line {}", shown.object, shown.line);
    let hidden = if value.is_none() { "; --reveal shows it" } else { "" };
    let payload = format!("{bytes} bytes, fnv1a {fnv1a}{hidden}");
    let mut out = String::new();
    for (name, value) in [
        ("arrived", &shown.time[..]),
        ("reason", &shown.error_code),
        ("message", &shown.error_message),
        ("source", shown.source),
        ("shard", &shown.shard),
        ("sequence number", &shown.sequence_number),
        ("sub sequence", &sub),
        ("attempts", &attempts),
        ("replayed", if shown.replayed { "yes" } else { "no" }),
        ("object", &object),
        ("payload", &payload),
    ] {
        out.push_str(&format!("{name:17}{}\n", printable(value)));
    }
    let document = match (value, structure) {
        (Some(Value::Text(text) | Value::Base64(text)), _) => text.clone(),
        (None, Structure::Structure(shape)) => serde_json::to_string_pretty(shape)?,
        (None, Structure::NoStructure(problem)) => problem.clone(),
    };
    for line in document.lines() {
        out.push_str(&format!("  {}\n", printable(&line.replace('\t', "  "))));
    }
    Ok(out)
}
