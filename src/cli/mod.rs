//! The command line: one file or folder per subcommand. Each holds its flags and what it prints; the work is elsewhere.

pub mod check;
pub mod consumers;
pub mod dead_letters;
#[cfg(feature = "local")]
pub mod demo;
pub mod generate;
pub mod health;
pub mod insights;
pub mod leases;
#[cfg(feature = "local")]
pub mod loadtest;
#[cfg(feature = "local")]
pub mod local;
mod one_stream;
pub mod panics;
pub mod run;
pub mod scale;
pub mod schema;
pub mod snapshot;
pub mod transform;
mod wait_line;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::variables::{self, Unknown};
use crate::shutdown::{self, Signals};
use crate::terminal::{is_broken_pipe, say};

const ABOUT: &str = "Reads a change stream and lands it in a lake as gzip NDJSON, exactly once";

#[cfg(feature = "local")]
const START_HERE: &str = "Start here: `kinetide demo` runs the whole pipeline on this machine, without an AWS account. \
    `kinetide COMMAND --help` explains each command.";
#[cfg(not(feature = "local"))]
const START_HERE: &str = "`kinetide COMMAND --help` explains each command.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "kinetide", version, about = ABOUT, propagate_version = true, arg_required_else_help = true)]
#[command(max_term_width = 100, after_help = START_HERE)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Variables that no command knows.
    #[arg(skip)]
    unknown: Vec<Unknown>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a worker: lease shards, transform records, land rows in the lake, checkpoint.
    Run(Box<run::RunArgs>),
    /// Check everything that a worker with these settings needs, item by item, and show where each setting comes from.
    #[command(after_help = check::AFTER_HELP)]
    Check(Box<check::CheckArgs>),
    /// Show which worker reads which shard, and why a shard is not read; release, evict or delete leases, set checkpoints.
    Leases(Box<leases::LeasesArgs>),
    /// Plan how many shards and tasks there should be, and change the number of shards.
    Scale(Box<scale::ScaleArgs>),
    /// List the consumers for enhanced fan-out that a stream has, or deregister one.
    Consumers(Box<consumers::ConsumersArgs>),
    /// Check whether a worker is alive, as a container health check.
    Health(health::HealthArgs),
    /// List, count, show, replay or export dead letters.
    DeadLetters(Box<dead_letters::DeadLettersArgs>),
    /// Write a dashboard of the trades in a lake: one HTML file with charts, computed from the landed rows.
    Insights(Box<insights::InsightsArgs>),
    /// Run the whole pipeline on this machine and check that no record was lost or duplicated.
    #[cfg(feature = "local")]
    Demo(Box<demo::DemoArgs>),
    /// Run worker processes under load, inject faults, and check every record.
    #[cfg(feature = "local")]
    Loadtest(Box<loadtest::LoadtestArgs>),
    /// Run the embedded Kinesis and DynamoDB alone, for any AWS client.
    #[cfg(feature = "local")]
    Local(Box<local::LocalArgs>),
    /// Write synthetic or recorded trades to a DynamoDB table or a Kinesis stream.
    Generate(Box<generate::GenerateArgs>),
    /// Take snapshots of market prices from CoinGecko or CoinCap, into a lake or a Kinesis stream.
    Snapshot(Box<snapshot::SnapshotArgs>),
    /// Print the column types of rows or dead letters for Athena, DuckDB, pyarrow, Spark and others.
    Schema(Box<schema::SchemaArgs>),
    /// Run a transform on records from a file: rows on stdout, dead letters on stderr.
    Transform(Box<transform::TransformArgs>),
}

/// How a command ends, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; for the service, drained cleanly.
    Done = 0,
    /// Failed, or ended by a signal.
    Failed = 1,
    /// The settings are wrong.
    BadSettings = 2,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Cli {
    /// Reads the arguments and the variables of this process; where they are wrong, or ask for help, it says so and ends.
    pub fn of_this_process() -> Self {
        let typed: Vec<OsString> = std::env::args_os().collect();
        let mut command = variables::prepared(Self::command(), &|name| std::env::var_os(name));
        let unknown = variables::unknown(&Self::command(), std::env::vars_os().map(|(name, _)| name));
        let parsed = command.try_get_matches_from_mut(&typed).and_then(|matches| {
            variables::remember(&command, &matches);
            Self::from_arg_matches(&matches)
        });
        match parsed {
            Ok(cli) => Self { unknown, ..cli },
            Err(error) => {
                if error.use_stderr() {
                    unknown.iter().for_each(|variable| say(format!("warning: {variable}")));
                }
                variables::explained(error, &Self::command(), &typed).exit()
            }
        }
    }

    /// Runs the command. An error is shown to the user as exit code 1.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn run(self) -> anyhow::Result<Exit> {
        // These say it themselves.
        if !matches!(self.command, Command::Run(_) | Command::Check(_)) {
            self.unknown.iter().for_each(|variable| say(format!("warning: {variable}")));
        }
        let mut signals = JoinSet::new();
        let stop = CancellationToken::new();
        if !self.command.ends_by_itself() {
            let code = Exit::Failed as i32;
            signals.spawn(shutdown::end_on_signal(Signals::new()?, stop.clone(), code));
        }
        let outcome = tokio::select! {
            outcome = self.command.run(&self.unknown) => outcome,
            () = stop.cancelled() => Ok(Exit::Failed),
        };
        match outcome {
            // Whoever reads has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(Exit::Done),
            outcome => outcome,
        }
    }
}

impl Command {
    /// Whether the command looks at signals itself, to end in good order.
    fn ends_by_itself(&self) -> bool {
        match self {
            Self::Run(_) | Self::Generate(_) | Self::Snapshot(_) => true,
            #[cfg(feature = "local")]
            Self::Demo(_) | Self::Loadtest(_) | Self::Local(_) => true,
            Self::Leases(args) => args.watches(),
            Self::Scale(args) => args.ends_by_itself(),
            Self::Check(_)
            | Self::Consumers(_)
            | Self::DeadLetters(_)
            | Self::Insights(_)
            | Self::Transform(_)
            | Self::Health(_)
            | Self::Schema(_) => false,
        }
    }

    async fn run(self, unknown: &[Unknown]) -> anyhow::Result<Exit> {
        match self {
            Command::Run(args) => run::run(*args, unknown).await,
            Command::Check(args) => Box::pin(check::run(*args, unknown)).await,
            Command::Leases(args) => leases::run(*args).await,
            Command::Scale(args) => Box::pin(scale::run(*args)).await,
            Command::Consumers(args) => Box::pin(consumers::run(*args)).await,
            Command::Health(args) => health::run(args).await,
            Command::DeadLetters(args) => Box::pin(dead_letters::run(*args)).await,
            Command::Insights(args) => Box::pin(insights::run(*args)).await,
            #[cfg(feature = "local")]
            Command::Demo(args) => demo::run(*args).await,
            #[cfg(feature = "local")]
            Command::Loadtest(args) => Box::pin(loadtest::run(*args)).await,
            #[cfg(feature = "local")]
            Command::Local(args) => local::run(*args).await,
            Command::Generate(args) => generate::run(*args).await,
            Command::Snapshot(args) => Box::pin(snapshot::run(*args)).await,
            Command::Schema(args) => schema::run(*args).await,
            Command::Transform(args) => transform::run(*args).await,
        }
    }
}
