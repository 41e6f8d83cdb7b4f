//! `kinetide demo`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Exit;
use super::generate::{at_least_one, positive};
use crate::config::{KafkaArgs, local_folder};
use crate::demo::{DemoPlan, play};
use crate::kafka::KafkaSettings;
use crate::shutdown;
use crate::terminal::{print, say_error};
use crate::trial::scene::TrialSource;

/// Flags of `kinetide demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes trades to an embedded DynamoDB table, forwards its changes to an embedded Kinesis stream, and \
    runs worker processes that land them in a folder. Then it looks for every record in the lake, and writes a dashboard \
    of the trades, insights.html, into the folder of --dir. Progress goes to \
    stderr, the result to stdout.\n\n\
    Exit code: 0 when every record is in the lake exactly once, 1 when not or when interrupted, 2 for wrong \
    settings.\n\nExamples:\n  \
    kinetide demo\n  \
    kinetide demo --records 200000 --workers 3 --shards 4 --kill --reshard\n  \
    kinetide demo --streams 2 --kill --reshard\n  \
    kinetide demo --source fan-out --kill --reshard\n  \
    kinetide demo --source dynamodb-streams --kill --reshard\n  \
    kinetide demo --source kafka --kafka-bootstrap 127.0.0.1:9092 --kill\n  \
    kinetide demo --trades trades/*.csv.gz --json"
)]
pub struct DemoArgs {
    /// Streams of the application, 1 to 8. Each has its own table, and --shards, --records and --rate are those of each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    streams: u8,

    /// Where workers read from: kinesis (by polling), fan-out (Kinesis by enhanced fan-out), dynamodb-streams (the table's
    /// own stream), or kafka (a topic that is made on the brokers of --kafka-bootstrap, and removed after the demo).
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = TrialSource::Kinesis, hide_possible_values = true)]
    source: TrialSource,

    /// Changes to write to the table [default: 100000, or all trades in the files].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    records: Option<u64>,

    /// Maximum changes per second [default: no limit].
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,

    /// Shards of the stream at the start, 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    shards: u32,

    /// Worker processes, 1 to 16.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,

    /// Replay trades from these files instead of synthetic ones: CSV, plain or gzip, with the header
    /// `exchange,symbol,trade_id,timestamp_ms,side,price,amount`.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    trades: Vec<PathBuf>,

    /// Kill a worker half-way (SIGKILL) and start another one.
    #[arg(long)]
    kill: bool,

    /// Split and merge shards during the run; those of a table's own stream rotate and split.
    #[arg(long)]
    reshard: bool,

    /// How brokers of Kafka are reached.
    #[command(flatten)]
    kafka: KafkaArgs,

    /// Empty folder for the lake and the workers' logs [default: a new one in the temporary folder].
    #[arg(long, value_name = "DIR", value_parser = local_folder)]
    dir: Option<PathBuf>,

    /// Seed of the random trades: the same seed gives the same trades.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Let some attributes change their type from item to item. Readers that infer types fail on such a lake.
    #[arg(long, conflicts_with = "trades")]
    odd_values: bool,

    /// Keep servers and workers running after the summary, until Ctrl-C.
    #[arg(long)]
    keep_running: bool,

    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// The brokers, where topics are to be read.
pub(super) fn brokers(
    args: &KafkaArgs,
    region: Option<&str>,
    wanted: bool,
) -> Result<Option<KafkaSettings>, String> {
    let brokers = args.checked(region).map_err(|problem| problem.to_string())?;
    if !wanted {
        return Ok(None);
    }
    if !cfg!(feature = "kafka") {
        return Err("--source kafka: this build is without Kafka".to_owned());
    }
    let missing = "--source kafka needs a broker: set --kafka-bootstrap, like 127.0.0.1:9092 (docs/KAFKA.md says how to start \
                   one on this machine)";
    brokers.map(Some).ok_or_else(|| missing.to_owned())
}

/// The brokers of the play.
fn kafka(args: &DemoArgs) -> Result<Option<KafkaSettings>, String> {
    let kafka = brokers(&args.kafka, None, args.source == TrialSource::Kafka)?;
    if kafka.is_some() && args.reshard {
        return Err("--reshard: partitions of Kafka neither split nor merge; leave it out".to_owned());
    }
    Ok(kafka)
}

/// Plays the demo; exit code 1 when anything is missing, doubled or changed.
///
/// # Errors
/// When it could not be played to its end.
pub async fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    let kafka = match kafka(&args) {
        Ok(kafka) => kafka,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let dir = args
        .dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!("kinetide-demo-{}", std::process::id())));
    let plan = DemoPlan {
        streams: args.streams.into(),
        source: args.source,
        kafka,
        records: args.records.or(args.trades.is_empty().then_some(100_000)),
        rate: args.rate,
        shards: args.shards,
        workers: args.workers.into(),
        trades: args.trades,
        kill: args.kill,
        reshard: args.reshard,
        dir: dir.clone(),
        seed: args.seed,
        odd_values: args.odd_values,
        keep_running: args.keep_running,
    };
    let cancel = CancellationToken::new();
    let lake = dir.join("lake");
    let json = args.json;
    let mut printed = Ok(());
    let playing = play(plan, cancel.clone(), |summary| {
        printed = if json {
            serde_json::to_string(summary).map_err(std::io::Error::other).and_then(print)
        } else {
            let look =
                format!("find {}/landing -name '*.gz' | head -n 1 | xargs zcat | head -n 3", lake.display());
            let place = lake.display();
            let dashboard = summary.dashboard.as_ref().map_or_else(String::new, |page| {
                format!("\n\nThe dashboard of its trades, to open in a browser:\n  {page}")
            });
            print(format!(
                "{summary}\n\nThe lake is {place}. To look at its first rows:\n  {look}{dashboard}"
            ))
        };
    });
    let mut playing = Box::pin(playing);
    let signals = shutdown::on_signal(cancel);
    let summary = tokio::select! {
        summary = &mut playing => summary,
        second = signals => {
            second.context("could not listen to signals")?;
            return Ok(Exit::Failed);
        }
    };
    drop(playing);
    let summary = summary?;
    printed.context("could not print the summary")?;
    Ok(if summary.ok() { Exit::Done } else { Exit::Failed })
}
