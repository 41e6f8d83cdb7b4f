//! `kinetide scale apply`: goes to a number of shards by legal steps, each watched to its end.
//!
//! Nothing is kept but the stream itself: whoever runs the same command again goes on from what the stream shows. A call
//! whose answer is lost is not guessed either: the stream shows whether it was carried out.

use std::time::Duration;

use anyhow::{Context, anyhow};
use aws_sdk_kinesis::types::StreamStatus;
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::stream::{NotAsked, Seen, Stream};
use super::{Exit, text};
use crate::scale::{self, Mode, SHARDS_MAX, USES_A_DAY};
use crate::shutdown::Signals;
use crate::terminal::{print, say, say_error};

/// Between two looks at a stream that is changing, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Looks or calls that fail one after the other.
const FAILURES_MAX: u32 = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "AWS takes at most double or half the number of shards in one call, and ten calls in 24 hours. Without --yes \
    it shows the steps and changes nothing. With --yes it makes one call after the other and waits for each until the \
    stream is ACTIVE.\n\n\
    It can be interrupted at any time, also by kill -9: AWS finishes the step that was begun, and the same command goes on \
    from what the stream shows. Records keep flowing meanwhile; workers find the new shards by themselves.\n\n\
    An on-demand stream is refused: AWS sets its shards, and its warm throughput is what can be raised.\n\n\
    Exit code: 0 when the stream has so many shards, or the steps were shown, 1 when it has not: the day's calls are used \
    up, AWS refuses, or it was interrupted; 2 for wrong settings.\n\nExamples:\n  \
    kinetide scale apply --stream trades --shards 8\n  \
    kinetide scale apply --stream trades --shards 8 --yes"
)]
pub(super) struct ApplyArgs {
    /// Number of shards that the stream is to have.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=i64::from(SHARDS_MAX)))]
    shards: u32,

    /// Change the stream; without it the steps are only shown.
    #[arg(long)]
    yes: bool,
}

impl ApplyArgs {
    pub(super) fn changes(&self) -> bool {
        self.yes
    }
}

/// How it went, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    stream: String,
    dry_run: bool,
    target: u32,
    /// Open shards at the start.
    before: u32,
    /// Open shards at the end; null where that is not known.
    after: Option<u32>,
    /// Numbers of shards that were asked for, or would be.
    steps: Vec<u32>,
    /// Uses of the last 24 hours, before this run.
    updates_in_24h: Option<u32>,
    /// The stream has the shards.
    done: bool,
    problem: Option<String>,
    /// When the next step is possible, where the day's uses are used up.
    possible_again: Option<String>,
}

/// Why the stream does not have the shards.
struct Stopped {
    problem: String,
    possible_again: Option<String>,
}

impl From<anyhow::Error> for Stopped {
    fn from(error: anyhow::Error) -> Self {
        Self { problem: format!("{error:#}"), possible_again: None }
    }
}

/// Shows the steps or takes them.
///
/// # Errors
/// When the stream cannot be asked at all.
pub(super) async fn run(stream: &Stream, args: &ApplyArgs, json: bool) -> anyhow::Result<Exit> {
    let mut signals = Signals::new().context("could not listen to signals")?;
    let seen = stream.look().await?;
    if seen.mode == Mode::OnDemand {
        return Err(on_demand(stream, &seen, args.shards));
    }
    let lines = stream.lines(&seen).await.ok();
    let mut report = Report {
        stream: stream.address().to_string(),
        dry_run: !args.yes,
        target: args.shards,
        before: seen.open_shards,
        after: Some(seen.open_shards),
        steps: Vec::new(),
        updates_in_24h: lines.as_deref().and_then(scale::uses),
        done: seen.active() && seen.open_shards == args.shards,
        problem: None,
        possible_again: None,
    };
    let steps = scale::steps(seen.open_shards, args.shards);
    if !args.yes {
        if !json {
            let shown =
                text::steps(&report.stream, seen.open_shards, &steps, report.updates_in_24h, seen.active());
            let ask =
                if steps.is_empty() { "Nothing to do" } else { "Nothing was changed: add --yes to do it" };
            print(format!("{shown}{ask}"))?;
            return Ok(Exit::Done);
        }
        report.steps = steps;
        return finish(&report, true);
    }
    let stopped = {
        let mut asked = Vec::new();
        let outcome = tokio::select! {
            outcome = Box::pin(carry_out(stream, args.shards, &mut asked)) => outcome,
            name = signals.next() => Err(Stopped {
                problem: format!(
                    "interrupted by {name}: AWS finishes the step that it has begun; run the same command again to go on"
                ),
                possible_again: None,
            }),
        };
        report.steps = asked;
        outcome.err()
    };
    report.after = stream.look().await.ok().map(|seen| seen.open_shards);
    report.done = stopped.is_none();
    if let Some(Stopped { problem, possible_again }) = stopped {
        (report.problem, report.possible_again) = (Some(problem), possible_again);
    }
    finish(&report, json)
}

fn finish(report: &Report, json: bool) -> anyhow::Result<Exit> {
    let shards = |count: Option<u32>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    if json {
        print(serde_json::to_string(report)?)?;
    } else if report.done {
        print(format!("{}: {} shards", report.stream, shards(report.after)))?;
    }
    if let Some(problem) = &report.problem {
        say_error(format!(
            "{}: {} of {} shards: {problem}",
            report.stream,
            shards(report.after),
            report.target
        ));
    }
    Ok(if report.done || report.dry_run { Exit::Done } else { Exit::Failed })
}

fn on_demand(stream: &Stream, seen: &Seen, shards: u32) -> anyhow::Error {
    anyhow!(
        "stream {} is on-demand: AWS sets its number of shards. To be ready for {shards} MiB/s at once, the load of {shards} \
         shards, raise its warm throughput: aws kinesis update-stream-warm-throughput --stream-arn {} \
         --warm-throughput-mi-bps {shards}",
        stream.address(),
        seen.arn
    )
}

/// Takes one step after the other until the stream has the shards. `asked`: the steps that were taken.
async fn carry_out(stream: &Stream, target: u32, asked: &mut Vec<u32>) -> Result<(), Stopped> {
    let name = stream.address();
    let mut failures = 0;
    loop {
        let seen = until_active(stream).await?;
        let Some(next) = scale::next(seen.open_shards, target) else { return Ok(()) };
        match stream.ask(next).await {
            Ok(()) => {
                say(format!("{name}: {} → {next} shards", seen.open_shards));
                asked.push(next);
                failures = 0;
            }
            Err(NotAsked::Refused(problem)) => return Err(anyhow!(problem).into()),
            Err(NotAsked::Limit(said)) => return Err(limited(stream, &seen, &said).await),
            Err(NotAsked::LookAgain(problem)) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(anyhow!(problem).into());
                }
                say(format!("{name}: {problem}; looking again"));
                sleep(LOOK.0 * 2_u32.pow(failures)).await;
            }
        }
    }
}

/// Looks until the stream can be changed, and says how far it is.
async fn until_active(stream: &Stream) -> anyhow::Result<Seen> {
    let (name, began) = (stream.address(), Instant::now());
    let (mut wait, mut failures, mut said) = (LOOK.0, 0, None);
    loop {
        match stream.look().await {
            Ok(seen) if seen.active() => return Ok(seen),
            Ok(seen) if seen.status == StreamStatus::Deleting => {
                return Err(anyhow!("the stream is being deleted"));
            }
            Ok(seen) => {
                failures = 0;
                if said != Some(seen.open_shards) {
                    let seconds = began.elapsed().as_secs();
                    say(format!("{name}: {}, {} shards open, {seconds} s", seen.status, seen.open_shards));
                    said = Some(seen.open_shards);
                }
            }
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(error);
                }
                say(format!("{error:#}; looking again"));
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LOOK.1);
    }
}

/// A limit was met: which one, and when it goes on.
async fn limited(stream: &Stream, seen: &Seen, said: &str) -> Stopped {
    let used = stream.lines(seen).await.ok().as_deref().and_then(scale::uses);
    if used.is_none_or(|used| used < USES_A_DAY) {
        let used = used.map_or_else(|| "unknown".to_owned(), |used| used.to_string());
        let problem = format!(
            "a limit of AWS: {said}; UpdateShardCount in the last 24 hours: {used} of {USES_A_DAY}. If it is the account's \
             limit of shards, raise the quota"
        );
        return Stopped { problem, possible_again: None };
    }
    let possible_again = stream.possible_again(seen).await.ok();
    let when = possible_again
        .as_deref()
        .map_or_else(|| "at the latest in 24 hours".to_owned(), |time| format!("after {time}"));
    let problem = format!(
        "the {USES_A_DAY} uses of UpdateShardCount in 24 hours are used up ({said}); run the same command again {when}"
    );
    Stopped { problem, possible_again }
}
