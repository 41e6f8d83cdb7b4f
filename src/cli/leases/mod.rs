//! `kinetide leases`: who reads which shard, why one is not read, and what an operator can do about it.

mod act;
mod change;
mod convert;
mod delivered;
mod lag;
mod readers;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use rustix::termios::tcgetwinsize;
use tokio::time::{sleep, timeout};

pub(super) use self::act::{Confirm, asked, unconfirmed};
pub(super) use self::readers::Readers;
use self::table::Screen;
pub(super) use self::table::wrapped;
use super::Exit;
use super::wait_line::WaitLine;
use crate::aws::{AssumeRole, StreamAddress, explain, sdk_config};
use crate::cause::chain;
use crate::config::{
    BadSetting, Endpoints, KafkaArgs, StreamRoleArgs, application, duration, endpoint, stream,
    table as table_named, topic, within,
};
use crate::fetch::{Polling, RecordSource};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::lease::{LeaseKey, LeaseTable, Observer, TableError};
use crate::report::Report;
use crate::service::{Brokers, Reading, StreamClient};
use crate::shard::dynamodbstreams::Which;
use crate::shard::{FindStart, ShardLister, StreamId};
use crate::shutdown::Signals;
use crate::terminal::{Out, print_text, printable_lines, say, say_error};

/// DynamoDB must answer within this time.
const START_TIMEOUT: Duration = Duration::from_secs(8);
/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(3);
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J\x1b[3J";

const FLEET: &str = "Fleet";
const AWS: &str = "AWS";

/// Flags of `kinetide leases`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a command it shows a table of all shards: first those that are not read, with the reason, since \
    when, and what to do. Nothing is written. To see which lease owners are alive, it scans the lease table twice, a third \
    of the failover time apart; if an owner has not renewed by then, it waits for the whole failover time.\n\n\
    Checkpoint age and lag (iterator age) come from the stream: two calls per shard.\n\n\
    docs/LEASES.md explains every reason and every member of --json.\n\n\
    Exit code: 0 when shown or written, 1 when a change is refused, when a lease row changed meanwhile, or when the lease \
    table or the stream could not be read, 2 for wrong settings, or for a change that needs --yes because stdin is not a \
    terminal.\n\nExamples:\n  \
    kinetide leases --stream trades\n  \
    kinetide leases --application kinetide-trades --watch\n  \
    kinetide leases --stream trades --json --no-lag | jq '.leases[] | select(.state == \"not_read\")'\n  \
    kinetide leases release shardId-000000000003 --stream trades\n  \
    kinetide leases set-checkpoint shardId-000000000003 trim-horizon --stream trades --dry-run"
)]
pub struct LeasesArgs {
    #[command(flatten)]
    fleet: FleetArgs,

    #[command(flatten)]
    show: ShowArgs,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    /// Name of the application and of its lease table [default: kinetide-STREAM].
    #[arg(long, global = true, help_heading = FLEET, env = "KINETIDE_APPLICATION", value_name = "NAME")]
    pub(super) application: Option<String>,

    /// Stream that the application reads [default: NAME if the application is kinetide-NAME]. Of an application of
    /// several streams those to look at: several times, or with commas.
    #[arg(long, global = true, help_heading = FLEET, env = "KINETIDE_STREAM", value_name = "NAME|ARN",
          value_delimiter = ',')]
    pub(super) stream: Vec<String>,

    /// Table whose changes the application reads by DynamoDB Streams, by name or ARN. As --stream.
    #[arg(long, global = true, help_heading = FLEET, env = "KINETIDE_TABLE", value_name = "NAME|ARN",
          value_delimiter = ',')]
    pub(super) table: Vec<String>,

    /// Topic of Kafka that the application reads; needs --kafka-bootstrap. As --stream.
    #[arg(long, global = true, help_heading = FLEET, env = "KINETIDE_TOPIC", value_name = "NAME",
          value_delimiter = ',')]
    pub(super) topic: Vec<String>,

    /// Failover time of the workers, 1s to 10m. Must be the value that the workers run with.
    #[arg(long, global = true, help_heading = FLEET, env = "KINETIDE_FAILOVER_TIME", value_name = "TIME",
          default_value = "10s", value_parser = duration)]
    pub(super) failover_time: Duration,

    /// AWS region [default: from the environment]. A stream named by its ARN is in the ARN's region.
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_REGION", value_name = "REGION")]
    pub(super) region: Option<String>,

    /// Kinesis endpoint URL [default: AWS].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    pub(super) kinesis_endpoint: Option<String>,

    /// DynamoDB endpoint URL [default: AWS].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_DYNAMODB_ENDPOINT", value_name = "URL")]
    pub(super) dynamodb_endpoint: Option<String>,

    /// DynamoDB Streams endpoint URL [default: AWS; if --dynamodb-endpoint is on this machine, that one].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_DYNAMODB_STREAMS_ENDPOINT", value_name = "URL")]
    pub(super) dynamodb_streams_endpoint: Option<String>,

    #[command(flatten)]
    pub(super) kafka: KafkaArgs,

    #[command(flatten)]
    pub(super) stream_role: StreamRoleArgs,

    /// Print JSON: the fleet as one object, or the changes as one array.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Do not call Kinesis: no checkpoint age, no lag, no comparison with the stream's shards.
    #[arg(long)]
    no_lag: bool,

    /// Repeat every 3 seconds until Ctrl-C; with --json, one line each time.
    #[arg(long)]
    watch: bool,
}

/// Every write is conditional on what was shown.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Change(Change),
    /// Move an application between leases of one stream and of several, with its checkpoints.
    Convert(convert::ConvertArgs),
    /// Show up to where each shard is in the lake, for leases that are older than the lake.
    Delivered(delivered::DeliveredArgs),
}

impl Command {
    /// How a person agrees, where something is written.
    fn confirm(&self) -> Option<&act::Confirm> {
        match self {
            Self::Change(change) => Some(change.confirm()),
            Self::Convert(args) => Some(&args.confirm),
            Self::Delivered(_) => None,
        }
    }
}

/// What can be changed of single leases.
#[derive(Debug, Subcommand)]
enum Change {
    /// Hand leases off to another worker, gracefully if their owner is alive.
    Release(act::ReleaseArgs),
    /// Remove the owner of leases immediately; the leader assigns them to a worker.
    Evict(act::EvictArgs),
    /// Set the checkpoint of a lease: where its shard is read from.
    SetCheckpoint(act::SetCheckpointArgs),
    /// Delete leases, so that their shards start again at the initial position.
    Delete(act::DeleteArgs),
}

impl LeasesArgs {
    /// Whether it looks until a signal comes.
    pub(super) fn watches(&self) -> bool {
        self.show.watch && self.command.is_none()
    }
}

/// What to talk to.
pub(super) struct Fleet {
    application: String,
    streams: Vec<Stream>,
    region: Option<String>,
    failover: Duration,
    table: Arc<dyn LeaseTable>,
    json: bool,
}

/// A stream, and who asks it.
struct Stream {
    address: StreamAddress,
    /// As the address says.
    named: StreamId,
    lister: Arc<dyn ShardLister>,
    records: Arc<dyn RecordSource>,
    starts: Arc<dyn FindStart>,
}

impl Stream {
    fn new(address: StreamAddress, client: &StreamClient) -> Self {
        let Reading { polled, lister, starts, .. } = client.reading(&address);
        Self {
            named: StreamId::of(&address),
            lister,
            // Shards are only looked at here, so no pause between two reads of one is ever made.
            records: Arc::new(Polling::new(polled, Duration::ZERO)),
            starts,
            address,
        }
    }

    /// Whether a lease with this key is of this stream, as far as the key says.
    fn has(&self, key: &LeaseKey) -> bool {
        key.may_be_of(&self.named)
    }
}

/// Runs the command.
pub async fn run(args: LeasesArgs) -> anyhow::Result<Exit> {
    let named = match settings(&args) {
        Ok(named) => named,
        Err(problem) => {
            say_error(problem);
            return Ok(Exit::BadSettings);
        }
    };
    let LeasesArgs { fleet, show, command } = args;
    if let Some(problem) = command.as_ref().and_then(Command::confirm).and_then(act::unconfirmed) {
        say_error(problem);
        return Ok(Exit::BadSettings);
    }
    let fleet = connect(fleet, named).await?;
    match command {
        Some(Command::Change(change)) => act::run(&fleet, change).await,
        Some(Command::Convert(args)) => convert::run(&fleet, &args).await,
        Some(Command::Delivered(args)) => delivered::run(&fleet, args).await,
        None => show_fleet(&fleet, &show).await,
    }
}

/// Application, streams, and in whose role the streams are asked.
pub(super) type Named = (String, Vec<StreamAddress>, Option<AssumeRole>);

fn settings(args: &LeasesArgs) -> Result<Named, String> {
    let text = |problem: BadSetting| problem.to_string();
    let fleet = &args.fleet;
    let given = (fleet.stream.iter().map(|text| stream(text)))
        .chain(fleet.table.iter().map(|text| table_named(text)))
        .chain(fleet.topic.iter().map(|text| topic(text)));
    let streams: Vec<StreamAddress> = given.collect::<Result<_, _>>().map_err(text)?;
    if fleet.application.is_none() && streams.len() != 1 {
        return Err(
            "no application: set --application, --stream (or --table, or --topic), or both".to_owned()
        );
    }
    if let Some(topic) = fleet.topic.first() {
        if !cfg!(feature = "kafka") {
            return Err(format!("--topic {topic}: this build is without Kafka"));
        }
        if fleet.kafka.checked(None).map_err(text)?.is_none() {
            return Err(format!("--topic {topic}: set --kafka-bootstrap too"));
        }
    }
    let name = streams.first().map_or("", StreamAddress::name);
    let application = application(fleet.application.as_deref(), name).map_err(text)?;
    within("failover-time", fleet.failover_time, Duration::from_secs(1), Duration::from_secs(600))
        .map_err(text)?;
    endpoint("kinesis-endpoint", fleet.kinesis_endpoint.clone()).map_err(text)?;
    endpoint("dynamodb-endpoint", fleet.dynamodb_endpoint.clone()).map_err(text)?;
    endpoint("dynamodb-streams-endpoint", fleet.dynamodb_streams_endpoint.clone()).map_err(text)?;
    let role = fleet.stream_role.clone().checked(None).map_err(text)?;
    if args.command.is_some() && (args.show.watch || args.show.no_lag) {
        return Err("--watch and --no-lag are only for showing leases; leave them out of a change".to_owned());
    }
    let guessed = application.strip_prefix("kinetide-").map(StreamAddress::named);
    let streams = if streams.is_empty() { guessed.into_iter().collect() } else { streams };
    Ok((application, streams, role))
}

pub(super) async fn connect(args: FleetArgs, named: Named) -> anyhow::Result<Fleet> {
    let (application, addresses, role) = named;
    let region = args.region.as_deref();
    let endpoints = Endpoints {
        kinesis: args.kinesis_endpoint.clone(),
        dynamodb: args.dynamodb_endpoint.clone(),
        dynamodb_streams: args.dynamodb_streams_endpoint.clone(),
        kafka: args.kafka.checked(region)?,
        ..Endpoints::default()
    };
    let brokers = Brokers::of(&endpoints);
    let dynamodb = sdk_config(args.dynamodb_endpoint.as_deref(), region).await;
    let mut streams = Vec::new();
    for address in addresses {
        let endpoint = endpoints.of(&address);
        let client =
            StreamClient::new(&address, role.as_ref(), endpoint, region, Which::All, &brokers, None).await;
        streams.push(Stream::new(address, &client));
    }
    if dynamodb.region().is_none() {
        return Err(anyhow!("no AWS region: set --region or AWS_REGION"));
    }
    let client = aws_sdk_dynamodb::Client::new(&dynamodb);
    let what = || format!("lease table {application}");
    let call = client.describe_table().table_name(&application).send();
    let answer = timeout(START_TIMEOUT, call).await.map_err(|_| {
        let seconds = START_TIMEOUT.as_secs();
        anyhow!("{}: no response within {seconds} s; check the endpoint, the network and the region", what())
    })?;
    answer.map_err(|error| {
        let missing = error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception());
        let problem = if missing {
            "does not exist; check --application, --region and the account, or start a worker, which creates it"
                .to_owned()
        } else {
            explain(&error)
        };
        anyhow!("{}: {problem}", what())
    })?;
    let table = DynamoDbLeaseTable::new(client, &application);
    let located = timeout(START_TIMEOUT, table.locate()).await;
    let located = located.with_context(|| format!("{}: its other tables are not ready", what()))?;
    located.map_err(|error| table_trouble(&application, error))?;
    Ok(Fleet {
        application,
        streams,
        region: args.region,
        failover: args.failover_time,
        table: Arc::new(table),
        json: args.json,
    })
}

/// What is wrong with a lease table, named once: some errors name it themselves.
fn table_trouble(application: &str, error: TableError) -> anyhow::Error {
    match error {
        TableError::NotFound(_) | TableError::Unusable { .. } => error.into(),
        error => anyhow::Error::new(error).context(format!("lease table {application}")),
    }
}

impl Fleet {
    fn table_trouble(&self, error: TableError) -> anyhow::Error {
        table_trouble(&self.application, error)
    }

    /// A command line of `kinetide leases` for this fleet.
    fn command(&self, arguments: &str) -> String {
        let streams: String = self
            .streams
            .iter()
            .map(|stream| match stream.address.table() {
                Some(table) => format!(" --table {table}"),
                None => format!(" --stream {}", stream.address),
            })
            .collect();
        format!("kinetide leases {arguments} --application {}{streams}", self.application)
    }

    /// The stream of a lease, among those that were named.
    fn stream_of(&self, key: &LeaseKey) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.has(key))
    }

    fn observer(&self, with_streams: bool) -> Observer {
        let lister = |stream: &Stream| (stream.named.clone(), Arc::clone(&stream.lister));
        let streams = self.streams.iter().filter(|_| with_streams).map(lister).collect();
        Observer::new(Arc::clone(&self.table), streams, self.failover)
    }

    /// What was seen, with the lags of what is not finished.
    async fn report(&self, observer: &Observer, with_streams: bool) -> Report {
        let mut lags = BTreeMap::new();
        for stream in self.streams.iter().filter(|_| with_streams) {
            let known = observer.fleet.leases().map(|seen| &seen.lease);
            let known = known.filter(|lease| stream.has(&lease.key) && observer.lists(&lease.key));
            lags.extend(lag::lags(stream.records.as_ref(), known).await);
        }
        let names: Vec<&str> = self.streams.iter().map(|stream| stream.address.name()).collect();
        let names = (with_streams && !names.is_empty()).then(|| names.join(", "));
        Report::new(&self.application, names, observer, lags)
    }
}

async fn show_fleet(fleet: &Fleet, show: &ShowArgs) -> anyhow::Result<Exit> {
    let with_streams = !show.no_lag;
    let mut observer = fleet.observer(with_streams);
    let mut progress = WaitLine::default();
    let mut signals = show.watch.then(Signals::new).transpose().context("could not listen to signals")?;
    let watching = async {
        let watched = observer.watch(|_| true, |text| progress.say(&text)).await;
        progress.done();
        watched.map_err(|error| fleet.table_trouble(error))?;
        let report = fleet.report(&observer, with_streams).await;
        print(fleet, &report, show.watch)?;
        if !show.watch {
            // The table of leases alone does not tell whether its shards are read.
            let looked = observer.listing_problems().next().is_none();
            return anyhow::Ok(if looked { Exit::Done } else { Exit::Failed });
        }
        loop {
            sleep(WATCH_EVERY).await;
            if let Err(error) = observer.look().await {
                say(format!("{:#}; trying again", fleet.table_trouble(error)));
                continue;
            }
            print(fleet, &fleet.report(&observer, with_streams).await, true)?;
        }
    };
    tokio::select! {
        shown = watching => shown,
        _ = async { signals.as_mut().expect("it is there while it watches").next().await }, if show.watch => {
            Ok(Exit::Done)
        }
    }
}

fn print(fleet: &Fleet, report: &Report, again: bool) -> anyhow::Result<()> {
    let text = if fleet.json {
        serde_json::to_string(report).context("could not print the report")? + "\n"
    } else {
        let out = io::stdout();
        let size = if out.is_terminal() { tcgetwinsize(&out).ok() } else { None };
        let clear = if again && size.is_some() { CLEAR_SCREEN } else { "" };
        let end = if again && size.is_none() { "\n" } else { "" };
        // What does not fit would scroll away before anybody has seen it.
        let screen = size.map_or_else(Screen::default, |size| {
            Screen::new(size.ws_col.into(), again.then_some(size.ws_row.into()))
        });
        format!("{clear}{}{end}", printable_lines(&table::text(report, screen)))
    };
    // Who watches has gone: then so is this.
    Ok(if again { Out.write_all(text.as_bytes()).and_then(|()| Out.flush()) } else { print_text(&text) }?)
}
