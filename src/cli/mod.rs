//! The command line: one file or folder per subcommand. Each holds its flags and what it prints; the work is elsewhere.

pub mod dead_letters;
#[cfg(feature = "local")]
pub mod demo;
pub mod generate;
pub mod health;
pub mod leases;
#[cfg(feature = "local")]
pub mod loadtest;
#[cfg(feature = "local")]
pub mod local;
pub mod panics;
pub mod run;
pub mod schema;
pub mod transform;

use clap::{Parser, Subcommand};

const ABOUT: &str = "Reads a change stream and lands it in a lake as gzip NDJSON, exactly once";

#[cfg(feature = "local")]
const START_HERE: &str = "Start here: `kinetide demo` shows the whole pipeline on this machine, without an account. \
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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the consumer service: lease shards, transform records, land them, checkpoint.
    Run(Box<run::RunArgs>),
    /// Show who reads which shard and why one is not read; release, evict, reset or delete leases.
    Leases(Box<leases::LeasesArgs>),
    /// Ask a worker whether it is alive: the health check of containers.
    Health(health::HealthArgs),
    /// Look at dead letters, replay them into the lake, export them.
    DeadLetters(Box<dead_letters::DeadLettersArgs>),
    /// Run the whole pipeline on this machine, check that nothing was lost or doubled, and say where the lake is.
    #[cfg(feature = "local")]
    Demo(Box<demo::DemoArgs>),
    /// Put load on worker processes, play faults on them, and check every record: a verdict and a report.
    #[cfg(feature = "local")]
    Loadtest(Box<loadtest::LoadtestArgs>),
    /// Run only the embedded Kinesis and DynamoDB, for any AWS client.
    #[cfg(feature = "local")]
    Local(Box<local::LocalArgs>),
    /// Generate or replay trades into a DynamoDB table or a stream.
    Generate(Box<generate::GenerateArgs>),
    /// Print the types of rows and dead letters for a reader of the lake: Athena, DuckDB, pyarrow, Spark and others.
    Schema(Box<schema::SchemaArgs>),
    /// Try records on a transform: rows on stdout, dead letters on stderr.
    Transform(Box<transform::TransformArgs>),
}

/// How a command ends, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; for the service, drained cleanly.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the settings are wrong.
    BadSettings,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0u8,
            Exit::Failed => 1,
            Exit::BadSettings => 2,
        })
    }
}

impl Cli {
    /// Runs the command. An error is shown to the user as exit code 1.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Run(args) => run::run(*args).await,
            Command::Leases(args) => leases::run(*args).await,
            Command::Health(args) => health::run(args).await,
            Command::DeadLetters(args) => Box::pin(dead_letters::run(*args)).await,
            #[cfg(feature = "local")]
            Command::Demo(args) => demo::run(*args).await,
            #[cfg(feature = "local")]
            Command::Loadtest(args) => Box::pin(loadtest::run(*args)).await,
            #[cfg(feature = "local")]
            Command::Local(args) => local::run(*args).await,
            Command::Generate(args) => generate::run(*args).await,
            Command::Schema(args) => schema::run(*args).await,
            Command::Transform(args) => transform::run(*args).await,
        }
    }
}
