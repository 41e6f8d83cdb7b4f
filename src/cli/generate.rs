//! `kinetide generate`.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::aws::{AssumeRole, StreamAddress, sdk_config, stream_config};
use crate::config::{BadSetting, KafkaArgs, StreamRoleArgs, endpoint, stream, table_name, topic};
use crate::generate::synthetic::{Mix, Synthetic};
use crate::generate::trades::{Place, TradeFiles};
use crate::generate::{Source, envelope};
use crate::produce::dynamodb::{TableWriter, create_table};
#[cfg(feature = "kafka")]
use crate::produce::kafka::{TopicProducer, TopicWriter};
use crate::produce::kinesis::StreamWriter;
use crate::produce::{Ended, Event, Plan, Sink, Totals, run_to_end};
use crate::shutdown;
use crate::terminal::{print, printable_lines, say, say_error};

/// Records when neither `--records` nor `--trades` is given.
const RECORDS: u64 = 10_000;

/// Bad lines that are shown one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 20;

const BAR: &str = "{msg} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta} left";
const SPINNER: &str = "{spinner} {msg} {human_pos}  {per_sec}";

/// Time between progress lines when stderr is no terminal.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A target that refuses everything for this long is spoken of, again and again.
const REFUSED_SHOWN: Duration = Duration::from_secs(3);

/// Flags of `kinetide generate`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["table", "stream", "topic"]))]
#[command(
    after_help = "On SIGTERM, SIGINT (Ctrl-C) or SIGHUP it waits for the requests in flight, prints the summary and \
    exits.\n\n\
    Exit code: 0 when everything is written, 1 when the target refuses, a file cannot be read to its end, no trade could \
    be read, or a signal stopped it, 2 for wrong settings.\n\nExamples:\n  \
    kinetide generate --table CryptoTransactions --create --records 100000\n  \
    kinetide generate --stream trades --rate 500 --seed 7\n  \
    kinetide generate --stream trades --kpl 50\n  \
    kinetide generate --kafka-bootstrap 127.0.0.1:9092 --topic trades\n  \
    kinetide generate --table CryptoTransactions --trades binance.csv.gz bitmex.csv.gz"
)]
pub struct GenerateArgs {
    /// DynamoDB table to write to.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,

    /// Kinesis stream to write to. Records look like the change records of a table. An ARN also sets its region and
    /// account.
    #[arg(long, value_name = "NAME|ARN")]
    stream: Option<String>,

    /// Topic of Kafka to write to; needs --kafka-bootstrap. Records are as with --stream.
    #[arg(long, value_name = "NAME", requires = "kafka_bootstrap")]
    topic: Option<String>,

    /// Create the table if it does not exist: on-demand, with a stream of new and old images, and TTL on `expires_at`.
    #[arg(long, conflicts_with_all = ["stream", "topic"])]
    create: bool,

    /// Replay trades from these files instead of synthetic ones: CSV, plain or gzip, with the header
    /// `exchange,symbol,trade_id,timestamp_ms,side,price,amount`.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["ttl_rate", "bad_rate", "live_keys"])]
    trades: Vec<PathBuf>,

    /// Changes to write [default: 10000, or all trades in the files].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    records: Option<u64>,

    /// Maximum changes per second [default: as fast as the target accepts them].
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,

    /// Seed of the random changes: the same seed gives the same changes.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Maximum number of items alive at once; beyond that, items are only modified and removed.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = at_least_one)]
    live_keys: u64,

    /// Share of new items, 0 to 1, with an `expires_at` in the past, so that TTL deletes them.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    ttl_rate: f64,

    /// Share of records, 0 to 1, that no consumer can decode, so that they become dead letters. Not with --table.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, conflicts_with = "table")]
    bad_rate: f64,

    /// Put records into aggregates, as the Kinesis Producer Library (KPL) does, up to this many in one; some go alone. Only
    /// with --stream.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "100", value_parser = records_packed,
          conflicts_with_all = ["table", "topic"])]
    kpl: Option<usize>,

    /// Let some attributes change their type from item to item. Readers that infer types fail on such a lake.
    #[arg(long, conflicts_with = "trades")]
    odd_values: bool,

    /// AWS region [default: from the environment].
    #[arg(long, env = "KINETIDE_REGION", value_name = "REGION")]
    region: Option<String>,

    /// DynamoDB endpoint URL, such as one of `kinetide local` [default: AWS].
    #[arg(long, env = "KINETIDE_DYNAMODB_ENDPOINT", value_name = "URL")]
    dynamodb_endpoint: Option<String>,

    /// Kinesis endpoint URL, such as one of `kinetide local` [default: AWS].
    #[arg(long, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    kinesis_endpoint: Option<String>,

    /// How brokers of Kafka are reached.
    #[command(flatten)]
    kafka: KafkaArgs,

    /// In whose role the stream is written.
    #[command(flatten)]
    stream_role: StreamRoleArgs,

    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// The stream to write into, and in whose role.
type Stream = (StreamAddress, Option<AssumeRole>);

#[derive(Serialize)]
struct Outcome<'a> {
    target: &'a str,
    records_per_second: f64,
    #[serde(flatten)]
    totals: &'a Totals,
    /// What ended it early.
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: GenerateArgs) -> anyhow::Result<Exit> {
    let records = args.records.or(args.trades.is_empty().then_some(RECORDS));
    let stream = match checked(&args) {
        Ok(stream) => stream,
        Err(error) => {
            say_error(error);
            return Ok(Exit::BadSettings);
        }
    };
    let plan = Plan { records, rate: args.rate, ramp: None };
    let cancel = CancellationToken::new();
    let work = async {
        let (sink, target) = sink(&args, stream).await?;
        let progress = Progress::start(records, &target);
        let show = |event: Event<'_>| progress.show(event);
        let ended = run_to_end(plan, source(&args), sink, show, cancel.clone()).await;
        progress.bar.finish_and_clear();
        anyhow::Ok((ended, target))
    };
    let (Ended { totals, error }, target) = tokio::select! {
        ended = work => ended?,
        second = shutdown::on_signal(cancel.clone()) => {
            second.context("could not listen to signals")?;
            return Ok(Exit::Failed);
        }
    };
    let outcome = Outcome {
        target: &target,
        records_per_second: totals.per_second(),
        totals: &totals,
        error: error.as_ref().map(ToString::to_string),
    };
    if args.json {
        print(serde_json::to_string(&outcome).context("could not print the result")?)?;
    } else {
        print(printable_lines(&summary(&outcome)))?;
    }
    let nothing = totals.written == 0 && totals.bad_lines > 0;
    let failed = nothing || totals.interrupted || error.is_some();
    if let Some(error) = error {
        say_error(error);
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Names and endpoints, before anything is asked of a server; answers for the stream, where it is one.
fn checked(args: &GenerateArgs) -> Result<Option<Stream>, BadSetting> {
    if let Some(name) = &args.topic {
        topic(name)?;
        if !cfg!(feature = "kafka") {
            return Err(BadSetting::new("topic", name, "cannot be written: this build is without Kafka"));
        }
        args.kafka.checked(None)?;
    }
    if let Some(table) = &args.table {
        table_name("table", table)?;
    }
    let stream = args.stream.as_deref().map(stream).transpose()?;
    if let (Some(arn), Some(region)) = (stream.as_ref().and_then(StreamAddress::arn), &args.region)
        && arn.region() != region
    {
        let allowed = format!("the stream is in {}, as its ARN says: leave out --region", arn.region());
        return Err(BadSetting::new("region", region, allowed));
    }
    endpoint("kinesis-endpoint", args.kinesis_endpoint.clone())?;
    endpoint("dynamodb-endpoint", args.dynamodb_endpoint.clone())?;
    let role = args.stream_role.clone().checked(None)?;
    Ok(stream.map(|stream| (stream, role)))
}

async fn sink(args: &GenerateArgs, stream: Option<Stream>) -> anyhow::Result<(Sink, String)> {
    if let Some(table) = &args.table {
        let sdk = sdk_config(args.dynamodb_endpoint.as_deref(), args.region.as_deref()).await;
        let client = aws_sdk_dynamodb::Client::new(&sdk);
        if args.create && create_table(&client, table).await? {
            say(format!("created table {table}"));
        }
        let writer = TableWriter::new(client, table);
        writer.check().await?;
        return Ok((Sink::Table(Arc::new(writer)), format!("table {table}")));
    }
    #[cfg(feature = "kafka")]
    if let (Some(topic), Some(brokers)) = (&args.topic, args.kafka.checked(args.region.as_deref())?) {
        let cluster = Arc::new(crate::kafka::Cluster::new(brokers));
        let producer = TopicProducer::new(cluster, topic).await?;
        let region = args.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let table = envelope::Table { name: "CryptoTransactions".to_owned(), region };
        let writer = TopicWriter::new(producer, table, args.seed);
        return Ok((Sink::Topic(Arc::new(writer)), format!("topic {topic}")));
    }
    let (stream, role) = stream.context("give --table or --stream")?;
    let (endpoint, region) = (args.kinesis_endpoint.as_deref(), args.region.as_deref());
    let sdk = stream_config(&stream, role.as_ref(), endpoint, region).await;
    let region = sdk.region().context("no AWS region: set --region or AWS_REGION")?.to_string();
    let table = envelope::Table { name: "CryptoTransactions".to_owned(), region };
    let target = format!("stream {stream}");
    let writer =
        StreamWriter::new(aws_sdk_kinesis::Client::new(&sdk), stream, table, args.seed).packed(args.kpl);
    writer.check().await?;
    Ok((Sink::Stream(Arc::new(writer)), target))
}

fn source(args: &GenerateArgs) -> Source {
    if !args.trades.is_empty() {
        return Source::Trades(Box::new(TradeFiles::new(args.trades.clone())));
    }
    let mix = Mix {
        live_keys_max: usize::try_from(args.live_keys).unwrap_or(usize::MAX),
        ttl_rate: args.ttl_rate,
        ttl_deletes: args.table.is_none(),
        bad_rate: args.bad_rate,
        odd_values: args.odd_values,
        ..Mix::default()
    };
    Source::Synthetic(Box::new(Synthetic::new(args.seed, mix)))
}

/// What people see while it runs: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    last_line: Cell<Instant>,
    /// Since when nothing was written because the target refuses.
    refused_since: Cell<Option<Instant>>,
}

impl Progress {
    fn start(records: Option<u64>, target: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = match (terminal, records) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(records)) => ProgressBar::new(records).with_style(style(BAR)),
            (true, None) => ProgressBar::new_spinner().with_style(style(SPINNER)),
        };
        bar.set_message(target.to_owned());
        Self { bar, terminal, last_line: Cell::new(Instant::now()), refused_since: Cell::new(None) }
    }

    fn show(&self, event: Event<'_>) {
        match event {
            Event::Progress(totals) => {
                self.bar.set_position(totals.written);
                let now = Instant::now();
                if !self.terminal && now - self.last_line.get() >= PROGRESS_EVERY {
                    self.last_line.set(now);
                    say(format!("{} written, {:.0}/s", totals.written, totals.per_second()));
                }
                self.refused_since.set(None);
            }
            Event::BadLine { error, count } => {
                if count <= BAD_LINES_SHOWN {
                    self.bar.suspend(|| say(format!("skipped: {error}")));
                }
            }
            // A refusal now and then is ordinary; one that lasts is not.
            Event::Refused { changes, reason } => {
                let now = Instant::now();
                let since = self.refused_since.get().unwrap_or(now);
                self.refused_since.set(Some(since));
                if now - since >= REFUSED_SHOWN && now - self.last_line.get() >= REFUSED_SHOWN {
                    self.last_line.set(now);
                    let waited = (now - since).as_secs();
                    let line =
                        format!("nothing written for {waited} s, retrying {changes} changes: {reason}");
                    self.bar.suspend(|| say(line));
                }
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants that a test parses")
}

fn summary(outcome: &Outcome<'_>) -> String {
    let totals = outcome.totals;
    let mut text = format!(
        "{} changes written to {} in {:.1} s ({:.0}/s): {} inserts, {} modifies, {} removes",
        totals.written,
        outcome.target,
        totals.seconds,
        outcome.records_per_second,
        totals.inserts,
        totals.modifies,
        totals.removes
    );
    for (count, what) in [
        (totals.expiries, "TTL deletes"),
        (totals.broken, "broken records"),
        (totals.resent, "sent again"),
        (totals.bad_lines, "bad lines skipped"),
        (totals.given_up, "given up, possibly written"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if totals.interrupted {
        text.push_str("; interrupted before the end");
    } else if outcome.error.is_some() {
        text.push_str("; stopped early by an error");
    }
    if let Some(Place { file, line }) = &totals.last_read {
        text.push_str(&format!("\nread up to {file}, line {line}"));
    }
    for bad in &totals.bad_lines_first {
        text.push_str(&format!("\nskipped: {bad}"));
    }
    match totals.bad_lines - totals.bad_lines_first.len() as u64 {
        0 => {}
        more => text.push_str(&format!("\nskipped: {more} more")),
    }
    text
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or("must be a number from 0 to 1".to_owned())
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.001);
    rate.ok_or("must be a number, at least 0.001".to_owned())
}

pub(super) fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or("must be a whole number, at least 1".to_owned())
}

pub(super) fn records_packed(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (2..=1000).contains(count));
    count.ok_or("must be a whole number from 2 to 1000".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn parse(line: &str) -> Result<GenerateArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("generate").chain(line.split_whitespace())).map(|line| line.args)
    }

    #[test]
    fn one_target_is_needed_and_only_one() {
        assert!(parse("--table T --records 5 --rate 2.5 --seed 9").is_ok());
        assert!(parse("--stream s --bad-rate 0.1").is_ok());
        for wrong in [
            "",
            "--table T --stream s",
            "--stream s --create",
            "--table T --bad-rate 0.1",
            "--table T --rate 0",
            "--table T --rate inf",
            "--table T --ttl-rate 2",
            "--table T --live-keys 0",
            "--table T --trades a.csv --ttl-rate 0.1",
            "--table T --trades a.csv --odd-values",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("--table T --trades a.csv b.csv.gz").unwrap().trades.len(), 2);
    }

    #[test]
    fn the_bar_has_a_valid_style() {
        style(BAR);
        style(SPINNER);
    }

    #[test]
    fn the_summary_tells_what_was_unusual() {
        let bad_lines_first = vec!["t.csv, line 7: expected 7 fields".to_owned()];
        let last_read = Some(Place { file: "t.csv".to_owned(), line: 13 });
        let totals = Totals {
            written: 10,
            inserts: 10,
            bad_lines: 2,
            bad_lines_first,
            last_read,
            seconds: 2.0,
            ..Totals::default()
        };
        let error = Some("could not read trades from t.csv after line 13: unexpected end of file".to_owned());
        let records_per_second = totals.per_second();
        let outcome = Outcome { target: "table T", records_per_second, totals: &totals, error };
        assert_eq!(
            summary(&outcome),
            "10 changes written to table T in 2.0 s (5/s): 10 inserts, 0 modifies, 0 removes, 2 bad lines skipped; \
             stopped early by an error\nread up to t.csv, line 13\nskipped: t.csv, line 7: expected 7 fields\n\
             skipped: 1 more"
        );
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!((&json["written"], &json["records_per_second"]), (&10.into(), &5.0.into()));
    }
}
