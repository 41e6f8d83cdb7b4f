//! `kinetide snapshot`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Exit;
use crate::aws::{AssumeRole, StreamAddress, is_loopback, stream_config};
use crate::cause::chain;
use crate::clock::{be_wrong_by, wall_clock_us};
use crate::config::{
    BadSetting, EncryptionArgs, KafkaArgs, LakeRoleArgs, MARKET_API_KEY, StreamRoleArgs, duration, endpoint,
    lake, stream, topic, within,
};
use crate::deliver::{LakeUrl, ObjectSink, S3Settings, open_to_write};
use crate::market::kinesis::StreamTarget;
use crate::market::{
    Account, Counts, EVERY_MAX, EVERY_MIN, Ended, HttpSource, KeySource, LakeTarget, Poller, Request, Secret,
    Settings, Target, serve,
};
use crate::shutdown;
use crate::telemetry::logs::{self, DEFAULT_FILTER, LogFilter, LogFormat};
use crate::telemetry::metrics;
use crate::terminal::{error_line, print, say_error};
use crate::transform::Provider;

/// At the end so long is waited for what is not delivered yet.
const DRAIN: Duration = Duration::from_secs(20);

/// Flags of `kinetide snapshot`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["lake", "stream", "topic"]))]
#[command(group = ArgGroup::new("when").required(true).args(["every", "once"]))]
#[command(
    after_help = "The API key is read from the variable KINETIDE_MARKET_API_KEY or from --api-key-file, and is never \
    printed.\n\n\
    In a lake each interval has one snapshot, named by the start of the interval: two pollers write each once. \
    docs/MARKET.md shows the folders and what becomes of intervals without a snapshot.\n\n\
    On SIGTERM, SIGINT (Ctrl-C) or SIGHUP it delivers what it has fetched and exits.\n\n\
    Exit code: 0 when all is delivered; with --once, when the snapshot is there. 1 when it is not, or something fetched \
    could not be delivered. 2 for wrong settings.\n\nExamples:\n  \
    kinetide snapshot --provider coingecko --every 5m --lake s3://my-lake\n  \
    kinetide snapshot --provider coincap --every 10s --stream prices\n  \
    kinetide snapshot --provider coingecko --once --lake ./lake --json"
)]
pub struct SnapshotArgs {
    /// Who is asked for prices.
    #[arg(long, env = "KINETIDE_MARKET_PROVIDER", value_name = "NAME",
          value_parser = PossibleValuesParser::new(Provider::ALL.map(Provider::as_str)))]
    provider: String,

    /// Take a snapshot in each interval of this length, until stopped: 5m for CoinGecko, 10s for CoinCap are usual.
    /// Intervals begin at multiples of it since 1970.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    every: Option<Duration>,

    /// Take one snapshot, of the interval that is now (5m for CoinGecko, 10s for CoinCap), and exit.
    #[arg(long)]
    once: bool,

    /// Lake to write to: s3://bucket/prefix, file:///folder, or a folder like /folder or ./folder. Bodies go to
    /// market/PROVIDER/raw, rows to market/PROVIDER/processed.
    #[arg(long, value_name = "URL")]
    lake: Option<String>,

    /// Kinesis stream to write to. `kinetide run --transform market-snapshot` makes rows of its records. An ARN also sets
    /// its region and account.
    #[arg(long, value_name = "NAME|ARN")]
    stream: Option<String>,

    /// Topic of Kafka to write to; needs --kafka-bootstrap. Records are as with --stream.
    #[arg(long, value_name = "NAME", requires = "kafka_bootstrap")]
    topic: Option<String>,

    /// How many coins to ask for [default: 250 of CoinGecko, 100 of CoinCap].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=2000))]
    coins: Option<u16>,

    /// The key is one of a paid plan of CoinGecko, which has a host of its own.
    #[arg(long, env = "KINETIDE_MARKET_PRO")]
    pro: bool,

    /// File with the API key. It is read before each request, so that it can be replaced meanwhile.
    #[arg(long, env = "KINETIDE_MARKET_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Another server than the provider's.
    #[arg(long, env = "KINETIDE_MARKET_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,

    /// Address for /metrics, /healthz and /readyz, like 127.0.0.1:9090 [default: none].
    #[arg(long, env = "KINETIDE_MARKET_HTTP", value_name = "ADDRESS", conflicts_with = "once")]
    http: Option<SocketAddr>,

    /// AWS region [default: from the environment].
    #[arg(long, env = "KINETIDE_REGION", value_name = "REGION")]
    region: Option<String>,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,

    /// Kinesis endpoint URL, such as one of `kinetide local` [default: AWS].
    #[arg(long, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    kinesis_endpoint: Option<String>,

    /// How brokers of Kafka are reached.
    #[command(flatten)]
    kafka: KafkaArgs,

    /// In whose role the lake is written.
    #[command(flatten)]
    lake_role: LakeRoleArgs,

    /// In whose role the stream is written.
    #[command(flatten)]
    stream_role: StreamRoleArgs,

    /// How objects are encrypted.
    #[command(flatten)]
    encryption: EncryptionArgs,

    /// Format of log lines.
    #[arg(long, env = "KINETIDE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    log_format: LogFormat,

    /// Log filter: a level, or targets with levels, like info,kinetide=debug. Errors are logged unless it says off.
    #[arg(long, env = "KINETIDE_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,

    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,

    /// Seconds to add to the wall clock, for trials.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
}

/// Where to, checked.
enum Place {
    Lake {
        url: LakeUrl,
        endpoint: Option<String>,
        settings: S3Settings,
    },
    Stream {
        stream: StreamAddress,
        endpoint: Option<String>,
        role: Option<AssumeRole>,
    },
    #[cfg(feature = "kafka")]
    Topic {
        topic: String,
        brokers: crate::kafka::KafkaSettings,
    },
}

/// The settings, checked.
struct Checked {
    settings: Settings,
    request: Request,
    key: KeySource,
    place: Place,
    filter: LogFilter,
}

/// Runs the command.
///
/// # Errors
/// When the log cannot be set up, the target cannot be used, or the result cannot be printed.
pub async fn run(args: SnapshotArgs) -> anyhow::Result<Exit> {
    let Checked { settings, request, key, place, filter } =
        match checked(&args, &|name| std::env::var_os(name)) {
            Ok(checked) => checked,
            Err(error) => {
                say_error(error);
                return Ok(Exit::BadSettings);
            }
        };
    be_wrong_by(args.clock_offset);
    let log = logs::init(args.log_format, filter)?;
    let Settings { provider, every, once, .. } = settings;
    let stop = CancellationToken::new();
    let work = async {
        let source = HttpSource::new(request).map_err(anyhow::Error::msg)?;
        let (target, lake) = target(place, provider, args.region.as_deref()).await?;
        let poller = Poller::new(settings, Arc::new(source), key, target, wall_clock_us);
        let counts = poller.counts();
        let serving = endpoints(args.http, Arc::clone(&counts), every, stop.clone()).await?;
        let ended = tokio::select! {
            ended = poller.run(stop.clone()) => ended,
            error = serving => return Err(error),
        };
        if let Some(lake) = lake {
            lake.settled().await;
        }
        anyhow::Ok((ended, counts))
    };
    let done = tokio::select! {
        done = work => done,
        second = shutdown::on_signal(stop.clone()) => {
            second.context("could not listen to signals")?;
            return Ok(Exit::Failed);
        }
    };
    let exit = match done {
        Ok((ended, counts)) => {
            print(summary(&args, &counts))?;
            exit(ended, &counts, once)
        }
        Err(error) => {
            log.line(&error_line(format!("{error:#}")));
            Exit::Failed
        }
    };
    log.flush();
    Ok(exit)
}

fn exit(ended: Ended, counts: &Counts, once: bool) -> Exit {
    let there = counts.new_snapshots() + counts.existing() > 0;
    if ended.clean && (there || !once) { Exit::Done } else { Exit::Failed }
}

fn summary(args: &SnapshotArgs, counts: &Counts) -> String {
    let (new, existing, gaps, in_vain) =
        (counts.new_snapshots(), counts.existing(), counts.gaps(), counts.attempts_in_vain());
    if args.json {
        let newest = counts.newest_s();
        let newest = (newest > 0).then_some(newest);
        return json!({
            "provider": args.provider, "snapshots": new, "existing": existing, "gaps": gaps,
            "attempts_failed": in_vain, "newest_interval": newest,
        })
        .to_string();
    }
    format!(
        "{}: {new} snapshots written, {existing} there already, {gaps} intervals without one, {in_vain} attempts failed",
        args.provider
    )
}

/// Serves the endpoints, where an address is given; returns only with an error.
async fn endpoints(
    address: Option<SocketAddr>,
    counts: Arc<Counts>,
    every: Duration,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Error>> {
    let bound = match address {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("--http {address}: could not listen"))?;
            tracing::info!(address = %listener.local_addr()?, "serving /metrics, /healthz, /readyz");
            Some((listener, metrics::install_for_snapshots()?))
        }
    };
    Ok(async move {
        let Some((listener, metrics)) = bound else { return std::future::pending().await };
        let served = serve(listener, metrics, counts, every, stop.clone()).await;
        match served {
            Err(error) => anyhow::Error::from(error).context("the HTTP endpoints failed"),
            // Stopped, as the poller will be.
            Ok(()) => std::future::pending().await,
        }
    })
}

/// The target, and the lake that it is, which may have something to settle in the end.
async fn target(
    place: Place,
    provider: Provider,
    region: Option<&str>,
) -> anyhow::Result<(Arc<dyn Target>, Option<Arc<ObjectSink>>)> {
    match place {
        Place::Lake { url, endpoint, settings } => {
            let sink = open_to_write(&url, region, endpoint.as_deref(), &settings).await;
            let sink = Arc::new(sink.map_err(|error| anyhow::anyhow!("--lake {url}: {error}"))?);
            sink.probe().await.map_err(|error| anyhow::anyhow!("--lake {url}: {}", chain(&error)))?;
            Ok((Arc::new(LakeTarget::new(Arc::clone(&sink), provider)), Some(sink)))
        }
        Place::Stream { stream, endpoint, role } => {
            let sdk = stream_config(&stream, role.as_ref(), endpoint.as_deref(), region).await;
            let target = StreamTarget::new(aws_sdk_kinesis::Client::new(&sdk), stream.clone(), provider);
            target.check().await.map_err(|error| anyhow::anyhow!("stream {stream}: {error}"))?;
            Ok((Arc::new(target), None))
        }
        #[cfg(feature = "kafka")]
        Place::Topic { topic, brokers } => {
            let cluster = Arc::new(crate::kafka::Cluster::new(brokers));
            let producer = crate::produce::kafka::TopicProducer::new(cluster, &topic).await;
            let producer = producer.map_err(|error| anyhow::anyhow!("topic {topic}: {}", chain(&error)))?;
            Ok((Arc::new(crate::market::kafka::TopicTarget::new(producer, provider)), None))
        }
    }
}

/// Everything that can be wrong without asking a server. `variable`: the environment.
fn checked(
    args: &SnapshotArgs,
    variable: &dyn Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Checked, BadSetting> {
    if let Some(name) = &args.topic {
        topic(name)?;
        if !cfg!(feature = "kafka") {
            return Err(BadSetting::new("topic", name, "cannot be written: this build is without Kafka"));
        }
        args.kafka.checked(None)?;
    }
    let filter = args.log.parse().map_err(|reason| BadSetting::new("log", &args.log, reason))?;
    let provider = Provider::named(&args.provider).expect("the flag takes only names of providers");
    let every = args.every.unwrap_or(Request::every_default(provider));
    within("every", every, EVERY_MIN, EVERY_MAX)?;
    if every.subsec_nanos() > 0 {
        return Err(BadSetting::new("every", humantime::format_duration(every), "must be whole seconds"));
    }
    if args.pro && provider != Provider::CoinGecko {
        return Err(BadSetting::new("pro", true, "is for --provider coingecko only"));
    }
    let coins = args.coins.unwrap_or(Request::entries_default(provider));
    let most = Request::entries_max(provider);
    if coins > most {
        return Err(BadSetting::new("coins", coins, format!("{provider} gives at most {most} at once")));
    }
    let account = if args.pro { Account::Pro } else { Account::Demo };
    let server = endpoint("endpoint", args.endpoint.clone())?;
    let server = server.as_deref().map(Url::parse).transpose();
    let server = server.map_err(|error| {
        BadSetting::new("endpoint", args.endpoint.as_deref().unwrap_or_default(), error.to_string())
    })?;
    let request = Request::new(provider, account, server.as_ref(), coins).map_err(|problem| {
        BadSetting::new("endpoint", args.endpoint.as_deref().unwrap_or_default(), problem)
    })?;
    let key = key(args, variable)?;
    let needs_key = Request::needs_key(provider, account);
    if needs_key && matches!(key, KeySource::None) {
        let allowed = format!("{provider} answers nobody without a key: set this, or --api-key-file");
        return Err(BadSetting::new(MARKET_API_KEY, "", allowed));
    }
    if let (Some(server), true) = (&args.endpoint, !matches!(key, KeySource::None))
        && request.url.scheme() != "https"
        && !is_loopback(server)
    {
        return Err(BadSetting::new("endpoint", server, "the API key goes to https:// only"));
    }
    let settings = Settings { provider, every, once: args.once, needs_key, drain: DRAIN, seed: rand_seed() };
    Ok(Checked { settings, request, key, place: place(args)?, filter })
}

fn rand_seed() -> u64 {
    // Pollers that start together must not come in step.
    wall_clock_us().unsigned_abs() ^ u64::from(std::process::id()) << 40
}

fn key(
    args: &SnapshotArgs,
    variable: &dyn Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<KeySource, BadSetting> {
    let given = variable(MARKET_API_KEY).filter(|value| !value.is_empty());
    match (given, &args.api_key_file) {
        (None, None) => Ok(KeySource::None),
        (Some(_), Some(_)) => {
            Err(BadSetting::new(MARKET_API_KEY, "", "set this or --api-key-file, not both"))
        }
        (Some(text), None) => {
            let secret = Secret::new(text.to_str().unwrap_or_default());
            let secret = secret.map_err(|problem| BadSetting::new(MARKET_API_KEY, "", problem))?;
            Ok(KeySource::Given(secret))
        }
        (None, Some(file)) => {
            let source = KeySource::File(file.clone());
            let read = source.read();
            read.map_err(|problem| BadSetting::new("api-key-file", file.display(), problem))?;
            Ok(source)
        }
    }
}

fn place(args: &SnapshotArgs) -> Result<Place, BadSetting> {
    if let Some(url) = &args.lake {
        let url = lake(url)?;
        let endpoint = endpoint("s3-endpoint", args.s3_endpoint.clone())?;
        let role = args.lake_role.clone().checked(&url, None)?;
        let settings = S3Settings { role, ..args.encryption.clone().checked(&url)? };
        return Ok(Place::Lake { url, endpoint, settings });
    }
    #[cfg(feature = "kafka")]
    if let (Some(topic), Some(brokers)) = (&args.topic, args.kafka.checked(args.region.as_deref())?) {
        return Ok(Place::Topic { topic: topic.clone(), brokers });
    }
    let stream = stream(args.stream.as_deref().unwrap_or_default())?;
    let endpoint = endpoint("kinesis-endpoint", args.kinesis_endpoint.clone())?;
    let role = args.stream_role.clone().checked(None)?;
    Ok(Place::Stream { stream, endpoint, role })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SnapshotArgs,
    }

    fn parse(line: &str) -> Result<SnapshotArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("snapshot").chain(line.split_whitespace())).map(|line| line.args)
    }

    /// What is wrong with a line, with this key in the environment.
    fn problem(line: &str, key: &str) -> Option<String> {
        let args = parse(line).unwrap();
        checked(&args, &|_| Some(key.into())).err().map(|problem| problem.to_string())
    }

    #[test]
    fn one_target_and_one_rhythm_are_needed() {
        for good in
            ["--every 5m --lake ./l", "--once --stream s", "--once --topic t --kafka-bootstrap b:9092"]
        {
            assert!(parse(&format!("--provider coingecko {good}")).is_ok(), "{good}");
        }
        for wrong in [
            "--provider coingecko --lake ./l",
            "--provider coingecko --every 5m",
            "--provider coingecko --every 5m --once --lake ./l",
            "--provider coingecko --every 5m --lake ./l --stream s",
            "--provider binance --every 5m --lake ./l",
            "--every 5m --lake ./l",
            "--provider coingecko --once --topic t",
            "--provider coingecko --once --lake ./l --http 127.0.0.1:0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_are_looked_at_before_anybody_is_asked() {
        let coingecko = "--provider coingecko --lake ./l --every";
        assert_eq!(problem(&format!("{coingecko} 5m"), ""), None);
        assert_eq!(problem("--provider coincap --lake ./l --once", "secret-key"), None);
        for (line, key, word) in [
            (&*format!("{coingecko} 500ms"), "", "between 1s and 1day"),
            (&format!("{coingecko} 1500ms"), "", "whole seconds"),
            (&format!("{coingecko} 5m --coins 251"), "", "at most 250"),
            (&format!("{coingecko} 5m --endpoint nowhere"), "", "must be a URL"),
            (&format!("{coingecko} 5m --endpoint http://prices.example"), "secret-key", "https:// only"),
            (&format!("{coingecko} 5m --pro"), "", "without a key"),
            (&format!("{coingecko} 5m --api-key-file /no/file"), "", "cannot be read"),
            (&format!("{coingecko} 5m --api-key-file /no/file"), "secret-key", "not both"),
            (&format!("{coingecko} 5m"), "secret key", "other characters"),
            ("--provider coincap --lake ./l --once", "", "without a key"),
            ("--provider coincap --lake ./l --once --pro", "secret-key", "coingecko only"),
            ("--provider coingecko --once --topic a/b --kafka-bootstrap b:9092", "", "--topic"),
            ("--provider coingecko --once --lake gs://b", "", "--lake"),
            ("--provider coingecko --once --stream a/b", "", "--stream"),
        ] {
            let problem = problem(line, key).unwrap_or_default();
            assert!(problem.contains(word) && !problem.contains("secret"), "{line}: {problem}");
        }
    }
}
