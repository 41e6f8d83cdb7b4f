//! `kinetide scale`: how many shards and workers there should be, and the change of the shards.

mod apply;
mod plan;
mod stream;
mod text;
mod written;

use clap::{Args, Subcommand};

use self::stream::Stream;
use super::Exit;
use super::one_stream::StreamArgs;
use crate::terminal::say_error;

/// Flags of `kinetide scale`.
#[derive(Debug, Args)]
#[command(after_help = "docs/SCALING.md explains the rule, every member of --json, and the metric for \
    autoscaling.\n\nExamples:\n  \
    kinetide scale plan --stream trades\n  \
    kinetide scale apply --stream trades --shards 8\n  \
    kinetide scale apply --stream trades --shards 8 --yes")]
pub struct ScaleArgs {
    #[command(flatten)]
    stream: StreamArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how many shards and tasks there should be, why, and what they cost.
    Plan(plan::PlanArgs),
    /// Change the number of shards, in as many steps as it takes.
    Apply(apply::ApplyArgs),
}

impl ScaleArgs {
    /// Whether it says itself what a signal leaves behind.
    pub(super) fn ends_by_itself(&self) -> bool {
        matches!(&self.command, Command::Apply(args) if args.changes())
    }
}

/// Runs the command.
///
/// # Errors
/// When the stream cannot be asked.
pub async fn run(args: ScaleArgs) -> anyhow::Result<Exit> {
    let ScaleArgs { stream, command } = args;
    match command {
        Command::Plan(args) if args.has_file() => plan::of_file(&stream, &args),
        Command::Plan(args) => match stream.checked().and_then(|named| Ok((args.settings(&named)?, named))) {
            Ok((application, named)) => Box::pin(plan::run(&stream, &args, application, named)).await,
            Err(problem) => Ok(refuse(&problem)),
        },
        Command::Apply(args) => match stream.checked() {
            Ok(named) => {
                let found = Stream::new(stream.client(&named).await?, named.address);
                apply::run(&found, &args, stream.json).await
            }
            Err(problem) => Ok(refuse(&problem)),
        },
    }
}

fn refuse(problem: &str) -> Exit {
    say_error(problem);
    Exit::BadSettings
}
