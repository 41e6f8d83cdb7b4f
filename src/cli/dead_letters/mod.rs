//! `kinetide dead-letters`: what did not become a row, why, and making rows of it later.

mod count;
mod export;
mod list;
mod replay;
mod scan;
mod show;
mod text;

use clap::{Args, Subcommand};

use self::scan::{Lake, Which};
use super::Exit;
use crate::clock::wall_clock_us;
use crate::config::{LakeRoleArgs, duration, endpoint, folder, lake, stream};
use crate::deliver::{S3Settings, open_existing};
use crate::shard::SequenceNumber;
use crate::terminal::say_error;
use crate::transform::parse_utc_us;

const LAKE: &str = "Lake";
const WHICH: &str = "Which dead letters";

/// Flags of `kinetide dead-letters`.
#[derive(Debug, Args)]
#[command(
    after_help = "A dead letter is a record that could not become a row. It is stored under errors/REASON/ with the \
    record's original bytes. These commands never change or delete dead letters; a replay is recorded beside them, in \
    errors/_replays/.\n\n\
    Objects and lines that cannot be read are counted and named on stderr. TIME is a time like 2026-01-15T09:30:00Z, or \
    an age like 24h.\n\n\
    docs/DEAD-LETTERS.md explains each reason, how to replay, and what a replay guarantees.\n\n\
    Exit code: 0 when done, 1 when something could not be read or did not land, 2 for wrong settings, or for a replay \
    that needs --yes because stdin is not a terminal.\n\nExamples:\n  \
    kinetide dead-letters count --lake s3://my-lake/crypto --since 24h\n  \
    kinetide dead-letters list --lake s3://my-lake/crypto --reason wrong_type --open\n  \
    kinetide dead-letters show 49590338271490256608559692538361571095921575989136588898 --lake s3://my-lake/crypto\n  \
    kinetide dead-letters replay --lake s3://my-lake/crypto --transform crypto-transactions --dry-run"
)]
pub struct DeadLettersArgs {
    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    which: WhichArgs,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// The lake to read: s3://bucket/prefix, file:///folder, or a folder like /folder or ./folder.
    #[arg(long, global = true, help_heading = LAKE, env = "KINETIDE_LAKE", value_name = "URL")]
    lake: Option<String>,

    /// Folder in the lake for dead letters.
    #[arg(long, global = true, help_heading = LAKE, env = "KINETIDE_ERRORS", value_name = "FOLDER",
          default_value = "errors")]
    errors: String,

    /// AWS region [default: from the environment].
    #[arg(long, global = true, help_heading = LAKE, env = "KINETIDE_REGION", value_name = "REGION")]
    region: Option<String>,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, global = true, help_heading = LAKE, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,

    #[command(flatten)]
    role: LakeRoleArgs,

    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// Only dead letters of this stream [default: all streams that land in the lake]. Only the name in an ARN counts.
    #[arg(long, global = true, help_heading = WHICH, env = "KINETIDE_STREAM", value_name = "NAME|ARN")]
    stream: Option<String>,

    /// Only dead letters with this reason, like not_json. Repeatable.
    #[arg(long, global = true, help_heading = WHICH, value_name = "REASON", value_parser = reason)]
    reason: Vec<String>,

    /// Only dead letters of this shard. Repeatable.
    #[arg(long, global = true, help_heading = WHICH, value_name = "SHARD")]
    shard: Vec<String>,

    /// Only records that arrived in the stream at this time or later.
    #[arg(long, global = true, help_heading = WHICH, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,

    /// Only records that arrived in the stream at this time or earlier.
    #[arg(long, global = true, help_heading = WHICH, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List dead letters, newest first.
    List(list::ListArgs),
    /// Count dead letters by reason.
    Count(count::CountArgs),
    /// Show one dead letter in full; its values only with --reveal.
    Show(show::ShowArgs),
    /// Transform dead letters again and land those that become rows, each exactly once.
    Replay(replay::ReplayArgs),
    /// Write dead letters, values included, to a file.
    Export(export::ExportArgs),
}

fn reason(text: &str) -> Result<String, String> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let named = !text.starts_with('_') && !text.is_empty() && text.bytes().all(letter);
    named.then(|| text.to_owned()).ok_or_else(|| "must be a reason like not_json".to_owned())
}

/// µs since the epoch.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    let age = || {
        let us = i64::try_from(duration(text).ok()?.as_micros()).ok()?;
        Some(wall_clock_us().saturating_sub(us))
    };
    parse_utc_us(text.as_bytes())
        .or_else(age)
        .ok_or_else(|| "must be a time like 2026-01-15T09:30:00Z or an age like 24h".to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the lake cannot be listed or written.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<Exit> {
    let DeadLettersArgs { place, which, action } = args;
    let json = place.json;
    match settings(place, which, &action).await {
        Ok((lake, which)) => match action {
            Action::List(args) => list::run(&lake, &which, args, json).await,
            Action::Count(args) => count::run(&lake, &which, args, json).await,
            Action::Show(args) => show::run(&lake, &which, args, json).await,
            Action::Replay(args) => replay::run(&lake, &which, args, json).await,
            Action::Export(args) => export::run(&lake, &which, args, json).await,
        },
        Err(problem) => refuse(&problem),
    }
}

fn refuse(problem: &str) -> anyhow::Result<Exit> {
    say_error(problem);
    Ok(Exit::BadSettings)
}

async fn settings(place: PlaceArgs, which: WhichArgs, action: &Action) -> Result<(Lake, Which), String> {
    let text = |problem: crate::config::BadSetting| problem.to_string();
    let url = place.lake.ok_or("no lake: set --lake")?;
    let url = lake(&url).map_err(text)?;
    let errors = folder("errors", &place.errors).map_err(text)?.to_owned();
    let s3_endpoint = endpoint("s3-endpoint", place.s3_endpoint).map_err(text)?;
    let stream = which.stream.as_deref().map(stream).transpose().map_err(text)?;
    let (since_us, until_us) = (which.since.unwrap_or(0), which.until.unwrap_or(i64::MAX));
    if since_us > until_us {
        return Err("--since is later than --until".to_owned());
    }
    let sequence = match action {
        Action::Show(args) => Some(SequenceNumber::parse(&args.sequence_number).ok_or_else(|| {
            format!("{:?} is not a sequence number, which has only digits", args.sequence_number)
        })?),
        _ => None,
    };
    let role = place.role.checked(&url, None).map_err(text)?;
    let s3 = match action {
        Action::Replay(args) => args.encryption.clone().checked(&url).map_err(text)?,
        _ => S3Settings::default(),
    };
    let s3 = S3Settings { role, ..s3 };
    let sink = open_existing(&url, place.region.as_deref(), s3_endpoint.as_deref(), &s3)
        .await
        .map_err(|error| format!("--lake {:?}: {error}", url.to_string()))?;
    let which = Which {
        stream: stream.map(|stream| stream.name().to_owned()),
        reasons: which.reason,
        shards: which.shard,
        since_us,
        until_us,
        sequence,
    };
    Ok((Lake { sink, url, errors }, which))
}
