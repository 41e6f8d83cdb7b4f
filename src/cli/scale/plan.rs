//! `kinetide scale plan`: asks, or reads what was asked, and prints the plan.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_cloudwatch::Client;
use clap::Args;
use serde::Serialize;

use super::super::leases;
use super::super::one_stream::{AWS, Named, StreamArgs};
use super::stream::{Seen, Stream};
use super::{Exit, refuse, text, written};
use crate::aws::{StreamAddress, stream_config};
use crate::config::{BadSetting, application, duration, endpoint, within};
use crate::scale::{self, Line, Observed, ScalePlan};
use crate::terminal::{print, print_text, printable_lines};

/// A file of observations is not longer than this: 10,000 shards take 2 MB.
const FILE_MAX: u64 = 32 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Asks the stream (its shards and how far readers are behind), the lease table (throughput of each lease, CPU \
    of each worker) and, where the role allows cloudwatch:GetMetricData, CloudWatch (the busiest minute of the last 24 \
    hours). Nothing is written. What could not be asked is named, and is unknown in the plan, never 0: without CloudWatch it \
    never proposes fewer shards. With --kinesis-endpoint CloudWatch is asked only at --cloudwatch-endpoint.\n\n\
    --json prints what was observed and the plan. A file of that, edited or not, makes a plan again with --from.\n\n\
    Exit code: 0 with a plan, 1 when the stream could not be read or its number of shards could not be decided, 2 for \
    wrong settings.\n\nExamples:\n  \
    kinetide scale plan --stream trades\n  \
    kinetide scale plan --stream trades --json > observed.json\n  \
    kinetide scale plan --from observed.json"
)]
pub(super) struct PlanArgs {
    /// Name of the application and of its lease table [default: kinetide-STREAM].
    #[arg(long, env = "KINETIDE_APPLICATION", value_name = "NAME")]
    application: Option<String>,

    /// Failover time of the workers, 1s to 10m. Must be the value that the workers run with.
    #[arg(long, env = "KINETIDE_FAILOVER_TIME", value_name = "TIME", default_value = "10s", value_parser = duration)]
    failover_time: Duration,

    /// Plan from a file of observations instead of asking AWS; - is stdin.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// DynamoDB endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_DYNAMODB_ENDPOINT", value_name = "URL")]
    dynamodb_endpoint: Option<String>,

    /// CloudWatch endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_CLOUDWATCH_ENDPOINT", value_name = "URL")]
    cloudwatch_endpoint: Option<String>,
}

impl PlanArgs {
    pub(super) fn has_file(&self) -> bool {
        self.from.is_some()
    }

    /// The application, with all settings checked.
    pub(super) fn settings(&self, named: &Named) -> Result<String, String> {
        let text = |problem: BadSetting| problem.to_string();
        within("failover-time", self.failover_time, Duration::from_secs(1), Duration::from_secs(600))
            .map_err(text)?;
        endpoint("dynamodb-endpoint", self.dynamodb_endpoint.clone()).map_err(text)?;
        endpoint("cloudwatch-endpoint", self.cloudwatch_endpoint.clone()).map_err(text)?;
        application(self.application.as_deref(), named.address.name()).map_err(text)
    }
}

/// As `--json` prints it.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    observed: &'a Observed,
    plan: &'a ScalePlan,
}

/// Plans from a file.
pub(super) fn of_file(stream: &StreamArgs, args: &PlanArgs) -> anyhow::Result<Exit> {
    let path = args.from.as_deref().context("a file is named")?;
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(FILE_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
    };
    let read = read.map_err(|error| error.to_string());
    match read.and_then(|_| Observed::parse(&text)) {
        Ok(observed) => show(&observed, stream.json),
        Err(problem) => Ok(refuse(&format!("--from {:?}: {problem}", path.display()))),
    }
}

/// Asks, and plans.
pub(super) async fn run(
    stream_args: &StreamArgs,
    args: &PlanArgs,
    application: String,
    named: Named,
) -> anyhow::Result<Exit> {
    let stream = Stream::new(stream_args.client(&named).await?, named.address.clone());
    let seen = stream.look().await?;
    if seen.open_shards == 0 {
        anyhow::bail!(
            "stream {}: has no shards yet, it is {}; ask again when it is ACTIVE",
            stream.address(),
            seen.status
        );
    }
    let mut notes = Vec::new();
    let lines = stream.lines(&seen).await.map_err(|error| notes.push(format!("{error:#}"))).ok();
    let (readers, written) = tokio::join!(
        Box::pin(readers(stream_args, args, application, &named)),
        Box::pin(told_by_cloudwatch(stream_args, args, &named)),
    );
    let readers = readers.map_err(|error| notes.push(format!("{error:#}"))).unwrap_or_default();
    let cloudwatch = written.map_err(|problem| notes.push(format!("CloudWatch: {problem}"))).ok();
    let observed = observed(&stream, &seen, lines.as_deref(), &readers, cloudwatch, notes);
    show(&observed, stream_args.json)
}

async fn readers(
    stream: &StreamArgs,
    args: &PlanArgs,
    application: String,
    named: &Named,
) -> anyhow::Result<leases::Readers> {
    let endpoint = args.dynamodb_endpoint.clone();
    stream.fleet(named, application, args.failover_time, endpoint).await?.readers().await
}

async fn told_by_cloudwatch(
    stream: &StreamArgs,
    args: &PlanArgs,
    named: &Named,
) -> Result<scale::Written, String> {
    if stream.kinesis_endpoint.is_some() && args.cloudwatch_endpoint.is_none() {
        return Err(
            "not asked: Kinesis is at --kinesis-endpoint, and no --cloudwatch-endpoint is set".to_owned()
        );
    }
    let (endpoint, region) = (args.cloudwatch_endpoint.as_deref(), stream.region.as_deref());
    let sdk = stream_config(&named.address, named.role.as_ref(), endpoint, region).await;
    written::written(&Client::new(&sdk), named.address.name()).await
}

fn observed(
    stream: &Stream,
    seen: &Seen,
    lines: Option<&[Line]>,
    readers: &leases::Readers,
    cloudwatch: Option<scale::Written>,
    notes: Vec<String>,
) -> Observed {
    let address: &StreamAddress = stream.address();
    let open = lines.unwrap_or_default().iter().filter(|line| line.open);
    let shard = |line: &Line| {
        let reading = readers.shards.iter().find(|reading| reading.shard.as_str() == line.id);
        scale::Shard {
            shard: line.id.clone(),
            throughput_kbps: reading.and_then(|reading| reading.kbps),
            millis_behind_latest: reading.and_then(|reading| reading.behind_ms),
        }
    };
    let worker = |(worker, cpu_percent): &(String, Option<f64>)| scale::Worker {
        worker: worker.clone(),
        cpu_percent: *cpu_percent,
    };
    Observed {
        stream: scale::Stream {
            name: address.to_string(),
            mode: seen.mode,
            open_shards: seen.open_shards,
            updates_in_24h: lines.and_then(scale::uses),
            retention_hours: seen.retention_hours,
        },
        shards: open.map(shard).collect(),
        workers: readers.workers.iter().map(worker).collect(),
        cloudwatch,
        notes,
    }
}

fn show(observed: &Observed, json: bool) -> anyhow::Result<Exit> {
    let plan = scale::plan(observed);
    if json {
        print(serde_json::to_string(&Printed { observed, plan: &plan })?)?;
    } else {
        print_text(&printable_lines(&text::plan(observed, &plan)))?;
    }
    let decided = plan.shards.wanted.is_some() || observed.stream.mode == scale::Mode::OnDemand;
    Ok(if decided { Exit::Done } else { Exit::Failed })
}
