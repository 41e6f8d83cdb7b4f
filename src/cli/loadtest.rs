//! `kinetide loadtest`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Exit;
use super::generate::{at_least_one, positive, records_packed};
use crate::config::{KafkaArgs, duration, endpoint, initial_position, local_folder};
use crate::deliver::LakeUrl;
use crate::loadtest::{self, Choice, LoadPlan, report};
use crate::shutdown;
use crate::terminal::{print, say_error};
use crate::trial::scene::TrialSource;
use crate::trial::workers::WorkerEndpoints;

const SERVERS: &str = "Your own servers";

/// Flags of `kinetide loadtest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes change records to a stream, runs worker processes that land them, and injects faults into workers, \
    servers and network. Then it looks for every record in the lake by its sequence number. Progress goes to stderr, the \
    verdict to stdout.\n\n\
    Faults of one worker: kill (SIGKILL), pause (SIGSTOP until others have its shards, then SIGCONT), term (SIGTERM), \
    partition (no connection to any server), disk-full, clock (its wall clock is wrong by up to a day).\n\
    Faults of all workers' requests: throttle, 5xx, slow, cut (connections), deny (one call to a stream or to DynamoDB is \
    denied), hang (one such call gets no response).\n\
    Fault of Kafka: broker (runs --broker-command; not in all).\n\
    Fault of a stream: reshard (split, merge, change the shard count; shards of a table's stream rotate or split).\n\
    Each round injects every chosen fault once, or as often as it is named, in an order that follows from the seed.\n\n\
    Exit code: 0 when every record is in the lake exactly once, 1 when not, when no record had to be there, or when \
    interrupted, 2 for wrong settings.\n\nExamples:\n  \
    kinetide loadtest\n  \
    kinetide loadtest --rate 5000 --duration 10m --chaos all --report report.html\n  \
    kinetide loadtest --initial-position latest --chaos all --seed 5\n  \
    kinetide loadtest --streams 2 --rate 2000 --chaos all\n  \
    kinetide loadtest --source fan-out --chaos all\n  \
    kinetide loadtest --source kinesis,fan-out,dynamodb-streams --rate 1000 --chaos all\n  \
    kinetide loadtest --source kafka --kafka-bootstrap 127.0.0.1:9092 --chaos kill,pause,partition\n  \
    kinetide loadtest --source kafka --kafka-bootstrap b-1:9092,b-2:9092,b-3:9092 --chaos kill,broker \\\n    \
      --broker-command ./restart-broker\n  \
    kinetide loadtest --alerts --chaos all\n  \
    kinetide loadtest --kpl --chaos all\n  \
    kinetide loadtest --ramp 1000..20000 --shards 8 --chaos kill,pause --seed 7 --json"
)]
pub struct LoadtestArgs {
    /// Streams of the application, 1 to 8, of each kind of --source. --shards, --rate, --ramp and --records are those of
    /// each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    streams: u8,

    /// Where workers read from: kinesis (by polling), fan-out (Kinesis by enhanced fan-out), dynamodb-streams (the stream
    /// of a table), or several of these with commas; or kafka alone (a topic that is made on the brokers of
    /// --kafka-bootstrap, and removed at the end).
    #[arg(long, value_name = "SOURCES", value_enum, value_delimiter = ',', default_value = TrialSource::Kinesis.name(),
          hide_possible_values = true)]
    source: Vec<TrialSource>,

    /// Records per second to write.
    #[arg(long, value_name = "N", default_value_t = 5_000.0, value_parser = positive, conflicts_with = "ramp")]
    rate: f64,

    /// Raise or lower the rate evenly, from records per second at the start to records per second at the end, as in
    /// 1000..20000.
    #[arg(long, value_name = "FROM..TO")]
    ramp: Option<RampArg>,

    /// How long to write records.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    duration: Duration,

    /// Maximum number of records to write [default: no limit].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    records: Option<u64>,

    /// Shards of the stream at the start, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    shards: u32,

    /// Worker processes, 1 to 64.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,

    /// Faults to inject: comma-separated names, or all [default: none].
    #[arg(long, value_name = "FAULTS")]
    chaos: Option<Choice>,

    /// Time between faults, 200ms or more.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    chaos_every: Duration,

    /// Where workers start reading: trim-horizon, latest, or a time, as for `kinetide run`. The seed decides whether the
    /// first worker starts before, during or after the first records; the others follow one by one [default:
    /// trim-horizon, with all workers started before the first record].
    #[arg(long, value_name = "POSITION")]
    initial_position: Option<String>,

    /// Workers have [alerts] high_risk = true, and every copy of a row must be in the lake exactly once too.
    #[arg(long, conflicts_with = "worker_command")]
    alerts: bool,

    /// Put records for Kinesis into aggregates, as the Kinesis Producer Library (KPL) does, up to this many in one; some go
    /// alone.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "100", value_parser = records_packed,
          conflicts_with = "worker_command")]
    kpl: Option<usize>,

    /// Seed: the same seed gives the same records and the same order of faults.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Empty folder for the lake and the workers' logs [default: a new one in the temporary folder].
    #[arg(long, value_name = "DIR", value_parser = local_folder)]
    dir: Option<PathBuf>,

    /// Print the verdict as one JSON object.
    #[arg(long)]
    json: bool,

    /// Write a report with charts to this HTML file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Run this shell command as each worker, to test another consumer. docs/LOADTEST.md lists the environment variables
    /// that it gets and the file format that it must write.
    #[arg(long, value_name = "COMMAND")]
    worker_command: Option<String>,

    /// Shell command for --chaos broker: takes down the broker whose HOST:PORT is in KINETIDE_BROKER, one of
    /// --kafka-bootstrap, and ends when the broker is back. One that fails ends the run.
    #[arg(long, value_name = "COMMAND")]
    broker_command: Option<String>,

    /// Kinesis endpoint URL [default: the embedded Kinesis]. The run creates a stream there and deletes it at the end.
    #[arg(long, help_heading = SERVERS, value_name = "URL")]
    kinesis_endpoint: Option<String>,

    /// DynamoDB endpoint URL [default: the embedded DynamoDB]. The run creates a table there and deletes it at the end.
    #[arg(long, help_heading = SERVERS, value_name = "URL")]
    dynamodb_endpoint: Option<String>,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, help_heading = SERVERS, value_name = "URL")]
    s3_endpoint: Option<String>,

    /// Lake to write to: s3://bucket/prefix, or a folder like /folder or ./folder [default: a folder in --dir]. The run
    /// creates a folder of its own there, which stays.
    #[arg(long, help_heading = SERVERS, value_name = "URL")]
    lake: Option<LakeUrl>,

    /// How brokers of Kafka are reached.
    #[command(flatten)]
    kafka: KafkaArgs,

    /// AWS region [default: from the environment, or the embedded servers' region].
    #[arg(long, help_heading = SERVERS, value_name = "REGION")]
    region: Option<String>,
}

/// Two rates.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RampArg {
    from: f64,
    to: f64,
}

impl FromStr for RampArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").ok_or("must be two rates, like 1000..20000")?;
        Ok(Self { from: positive(from)?, to: positive(to)? })
    }
}

/// Runs the load test; exit code 1 when anything is missing, doubled or changed, or when there was nothing to
/// judge.
///
/// # Errors
/// When it could not be run to its end.
pub async fn run(args: LoadtestArgs) -> anyhow::Result<Exit> {
    let twice = args.source.iter().enumerate().find(|(at, source)| args.source[..*at].contains(source));
    if let Some((_, source)) = twice {
        let name = source.name();
        say_error(format!("--source has {name} twice: name each kind once; --streams makes several of each"));
        return Ok(Exit::BadSettings);
    }
    let kafka = match super::demo::brokers(
        &args.kafka,
        args.region.as_deref(),
        args.source.contains(&TrialSource::Kafka),
    ) {
        Ok(kafka) => kafka,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let command = command_line();
    let checked = || {
        Ok::<_, crate::config::BadSetting>(WorkerEndpoints {
            kinesis: endpoint("kinesis-endpoint", args.kinesis_endpoint.clone())?,
            dynamodb: endpoint("dynamodb-endpoint", args.dynamodb_endpoint.clone())?,
            dynamodb_streams: None,
            s3: endpoint("s3-endpoint", args.s3_endpoint.clone())?,
            ca_bundle: None,
        })
    };
    let endpoints = match checked() {
        Ok(endpoints) => endpoints,
        Err(error) => {
            say_error(error);
            return Ok(Exit::BadSettings);
        }
    };
    let initial = match args.initial_position.map(|text| (initial_position(&text), text)) {
        None => None,
        Some((Ok((checkpoint, _)), text)) => Some((text, checkpoint)),
        Some((Err(allowed), text)) => {
            say_error(format!("--initial-position {text:?}: {allowed}"));
            return Ok(Exit::BadSettings);
        }
    };
    let dir = args
        .dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!("kinetide-loadtest-{}", std::process::id())));
    let plan = LoadPlan {
        sources: args.source,
        streams_of_each: args.streams.into(),
        rate: args.ramp.map_or(args.rate, |ramp| ramp.from),
        ramp_to: args.ramp.map(|ramp| ramp.to),
        shards: args.shards,
        workers: args.workers.into(),
        duration: args.duration,
        records: args.records,
        chaos: args.chaos.unwrap_or_default(),
        chaos_every: args.chaos_every.max(Duration::from_millis(200)),
        initial,
        alerts: args.alerts,
        packed: args.kpl,
        seed: args.seed,
        dir,
        lake: args.lake,
        endpoints,
        kafka,
        region: args.region,
        worker_command: args.worker_command,
        broker_command: args.broker_command,
    };
    let cancel = CancellationToken::new();
    let mut running = Box::pin(loadtest::run(plan, cancel.clone()));
    let verdict = tokio::select! {
        verdict = &mut running => verdict,
        second = shutdown::on_signal(cancel) => {
            second.context("could not listen to signals")?;
            return Ok(Exit::Failed);
        }
    };
    drop(running);
    let verdict = verdict?;
    if let Some(file) = &args.report {
        std::fs::write(file, report::html(&verdict, &command))
            .with_context(|| format!("could not write the report {}", file.display()))?;
    }
    if args.json {
        print(serde_json::to_string(&verdict).context("could not print the verdict")?)?;
    } else {
        print(&verdict)?;
    }
    Ok(if verdict.ok() { Exit::Done } else { Exit::Failed })
}

/// How this process was started, to repeat it.
fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("kinetide {}", arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_two_rates() {
        assert_eq!("1000..20000".parse(), Ok(RampArg { from: 1_000.0, to: 20_000.0 }));
        for wrong in ["1000", "..5", "0..5", "a..b"] {
            assert!(wrong.parse::<RampArg>().is_err(), "{wrong}");
        }
    }
}
