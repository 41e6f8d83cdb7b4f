//! `kinetide scale`: how many shards and workers there should be, and the change of the shards.

mod apply;
mod plan;
mod stream;
mod text;
mod written;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use self::stream::Stream;
use super::Exit;
use crate::aws::{AssumeRole, StreamAddress, stream_config};
use crate::config::{BadSetting, StreamRoleArgs, endpoint, stream};
use crate::terminal::say_error;

const AWS: &str = "AWS";

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

#[derive(Debug, Args)]
struct StreamArgs {
    /// Stream to scale.
    #[arg(long, global = true, env = "KINETIDE_STREAM", value_name = "NAME|ARN")]
    stream: Option<String>,

    /// AWS region [default: from the environment]. A stream named by its ARN is in the ARN's region.
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_REGION", value_name = "REGION")]
    region: Option<String>,

    /// Kinesis endpoint URL [default: AWS].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    kinesis_endpoint: Option<String>,

    #[command(flatten)]
    stream_role: StreamRoleArgs,

    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
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

/// A stream as it was named, and in whose role it is asked.
struct Named {
    address: StreamAddress,
    role: Option<AssumeRole>,
}

/// Runs the command.
///
/// # Errors
/// When the stream cannot be asked.
pub async fn run(args: ScaleArgs) -> anyhow::Result<Exit> {
    let ScaleArgs { stream, command } = args;
    match command {
        Command::Plan(args) if args.has_file() => plan::of_file(&stream, &args),
        Command::Plan(args) => {
            match settings(&stream).and_then(|named| Ok((args.settings(&named)?, named))) {
                Ok((application, named)) => Box::pin(plan::run(&stream, &args, application, named)).await,
                Err(problem) => Ok(refuse(&problem)),
            }
        }
        Command::Apply(args) => match settings(&stream) {
            Ok(named) => apply::run(&connect(&stream, &named).await?, &args, stream.json).await,
            Err(problem) => Ok(refuse(&problem)),
        },
    }
}

fn settings(args: &StreamArgs) -> Result<Named, String> {
    let text = |problem: BadSetting| problem.to_string();
    let named = args.stream.as_deref().ok_or("no stream: set --stream")?;
    let address = stream(named).map_err(text)?;
    endpoint("kinesis-endpoint", args.kinesis_endpoint.clone()).map_err(text)?;
    let role = args.stream_role.clone().checked(None).map_err(text)?;
    Ok(Named { address, role })
}

async fn connect(args: &StreamArgs, named: &Named) -> anyhow::Result<Stream> {
    let (endpoint, region) = (args.kinesis_endpoint.as_deref(), args.region.as_deref());
    let sdk = stream_config(&named.address, named.role.as_ref(), endpoint, region).await;
    if sdk.region().is_none() {
        return Err(anyhow!("no AWS region: set --region or AWS_REGION"));
    }
    Ok(Stream::new(aws_sdk_kinesis::Client::new(&sdk), named.address.clone()))
}

fn refuse(problem: &str) -> Exit {
    say_error(problem);
    Exit::BadSettings
}
