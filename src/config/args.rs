//! The flags and variables of `kinetide run`, and how they become [`Config`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::access::{EncryptionArgs, LakeRoleArgs, StreamRoleArgs};
use super::token::http_token;
use super::{
    BadSetting, CloudWatchConfig, Config, DEFAULT_TRANSFORM, Endpoints, KafkaArgs, Kind, LakeConfig,
    LakePlace, RetrievalSetting, duration, endpoint, lake, name, streams, worker_id,
};
use crate::batch::{BatchLimits, Gzip, GzipEncoder, Packing};
use crate::checkpoint::PendingFormat;
use crate::deliver::S3Settings;
use crate::fetch::OutOfRange;
use crate::lease::plan::Rules;
use crate::telemetry::cloudwatch::Level;
use crate::telemetry::logs::{DEFAULT_FILTER, LogFormat};

const STREAM: &str = "Stream and lake";
const STREAM_HELP: &str = "Kinesis stream to read, by name or ARN. An ARN also sets its region and account. For several \
     streams give it several times (in the variable: with commas), or tables [[streams]] in the file of --settings";
const BATCHES: &str = "Batches";
const SHARING: &str = "Sharing shards among workers";
const PROCESS: &str = "Process";
const CLOUDWATCH: &str = "CloudWatch";
const AWS: &str = "AWS";

/// Flags and variables of `kinetide run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Every setting is a flag or an environment variable; the flag wins. TIME is written like 500ms, 30s or \
    5m, SIZE like 64MiB.\n\n\
    The token for the console and /api/* over HTTP has no flag: KINETIDE_HTTP_TOKEN, or a file that \
    KINETIDE_HTTP_TOKEN_FILE names. Without one they are served on a loopback address only.\n\n\
    On SIGTERM, SIGINT (Ctrl-C) or SIGHUP the worker drains: it stops reading, delivers and commits what it has read, \
    releases its leases and exits.\n\n\
    Exit code: 0 after a clean drain, 1 when it could not start or could not drain in time, 2 for wrong settings.\n\n\
    Examples:\n  \
    kinetide run --stream trades --lake s3://my-lake/raw --region eu-north-1\n  \
    kinetide run --stream trades --lake ./lake --kinesis-endpoint http://127.0.0.1:4567 \\\n      \
    --dynamodb-endpoint http://127.0.0.1:8000\n  \
    kinetide run --stream trades --lake s3://my-lake/rest --firehose trades-to-s3\n  \
    kinetide run --source dynamodb-streams --table Trades --lake s3://my-lake/raw --region eu-north-1\n  \
    kinetide run --source kafka --kafka-bootstrap b-1.example.com:9092 --topic orders --transform json \\\n      \
    --lake s3://my-lake/raw\n  \
    kinetide run --stream arn:aws:kinesis:eu-north-1:111122223333:stream/trades \\\n      \
    --stream-role arn:aws:iam::111122223333:role/reader --lake s3://my-lake/raw"
)]
pub struct RunArgs {
    /// What is read: kinesis (streams of Kinesis, --stream), dynamodb-streams (the changes of DynamoDB tables, --table), or
    /// kafka (topics of Kafka, --topic).
    #[arg(long, help_heading = STREAM, env = "KINETIDE_SOURCE", value_name = "SOURCE", value_enum,
          default_value_t = Kind::Kinesis)]
    pub source: Kind,

    /// With --source dynamodb-streams: table whose changes are read, by name or ARN, or the ARN of one of its streams. For
    /// several tables give it several times (in the variable: with commas).
    #[arg(long, help_heading = STREAM, env = "KINETIDE_TABLE", value_name = "NAME|ARN", value_delimiter = ',')]
    pub table: Vec<String>,

    /// With --source kafka: topic to read, by name. For several topics give it several times (in the variable: with commas).
    #[arg(long, help_heading = STREAM, env = "KINETIDE_TOPIC", value_name = "NAME", value_delimiter = ',')]
    pub topic: Vec<String>,

    /// Kinesis streams to read.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_STREAM", value_name = "NAME|ARN", value_delimiter = ',',
          help = STREAM_HELP)]
    pub stream: Vec<String>,

    /// Where rows land: s3://bucket/prefix, file:///folder, or a folder like /folder or ./folder.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_LAKE", value_name = "URL")]
    pub lake: String,

    /// Send rows to this Firehose delivery stream instead of the lake, at least once. Dead letters, and rows too long
    /// for a Firehose record (about 1 MB), still go to the lake.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_FIREHOSE", value_name = "NAME")]
    pub firehose: Option<String>,

    /// Who compresses the rows that go to Firehose.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_FIREHOSE_GZIP", value_name = "WHO", value_enum,
          default_value_t = FirehoseGzip::Firehose, requires = "firehose")]
    pub firehose_gzip: FirehoseGzip,

    /// Name of the application and of its lease table. Workers with the same name share the shards
    /// [default: kinetide-STREAM, or kinetide-TABLE].
    #[arg(long, help_heading = STREAM, env = "KINETIDE_APPLICATION", value_name = "NAME")]
    pub application: Option<String>,

    /// How a record becomes rows: crypto-transactions, dynamodb-cdc, json, market-snapshot or raw.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_TRANSFORM", value_name = "NAME",
          default_value = DEFAULT_TRANSFORM)]
    pub transform: String,

    /// TOML file for settings that are not flags: its tables are enrichment, columns, alerts and streams.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_SETTINGS", value_name = "FILE")]
    pub settings: Option<PathBuf>,

    /// Folder in the lake for rows [default: landing/transactions for crypto-transactions, else landing/STREAM].
    #[arg(long, help_heading = STREAM, env = "KINETIDE_LANDING", value_name = "FOLDER")]
    pub landing: Option<String>,

    /// Folder in the lake for dead letters.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_ERRORS", value_name = "FOLDER", default_value = "errors")]
    pub errors: String,

    /// Where to start reading a shard that has no lease yet: trim-horizon (its oldest record), latest (new records only),
    /// or a time like 2026-01-15T09:30:00Z.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_INITIAL_POSITION", value_name = "POSITION",
          default_value = "trim-horizon")]
    pub initial_position: String,

    /// How shards are read. fan-out: by enhanced fan-out as a registered consumer, sooner and with limits of its own; AWS
    /// bills it by the shard hour and by the GB. auto: fan-out if the consumer exists or can be registered, else polling.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_RETRIEVAL", value_name = "HOW", value_enum,
          default_value_t = RetrievalSetting::Polling)]
    pub retrieval: RetrievalSetting,

    /// Name of the consumer for enhanced fan-out; it is registered if it does not exist [default: the application].
    #[arg(long, help_heading = STREAM, env = "KINETIDE_CONSUMER_NAME", value_name = "NAME")]
    pub consumer_name: Option<String>,

    /// Close a batch when its rows reach this size before compression, 1KiB to 1GiB.
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_BATCH_BYTES", value_name = "SIZE",
          default_value = "64MiB", value_parser = byte_size)]
    pub batch_bytes: ByteSize,

    /// Close a batch this long after its first record was read, 100ms to 1h.
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_BATCH_AGE", value_name = "TIME",
          default_value = "300s", value_parser = duration)]
    pub batch_age: Duration,

    /// gzip level of objects, 1 (fast) to 9 (small).
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_GZIP_LEVEL", value_name = "LEVEL", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=9))]
    pub gzip_level: u32,

    /// What compresses at gzip level 1. rows: what knows rows of JSON, smaller objects in less time. zlib: as earlier
    /// releases. Workers of one fleet may differ.
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_GZIP_ENCODER", value_name = "WHAT", value_enum,
          default_value_t = GzipEncoderSetting::Rows)]
    pub gzip_encoder: GzipEncoderSetting,

    /// Format of a pending batch in its lease row. 1 can be read by earlier releases; 2 also records what each object
    /// holds. auto writes 2 once every worker reports that it can read it. With Java KCL workers in the fleet, set 2.
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_PENDING_FORMAT", value_name = "FORMAT", value_enum,
          default_value_t = PendingFormatSetting::Auto)]
    pub pending_format: PendingFormatSetting,

    /// Memory for records between fetch and delivery, all shards together, 32MiB to 1TiB.
    #[arg(long, help_heading = BATCHES, env = "KINETIDE_BYTE_BUDGET", value_name = "SIZE",
          default_value = "256MiB", value_parser = byte_size)]
    pub byte_budget: ByteSize,

    /// Time without a renewal after which a lease goes to another worker, 1s to 10m. Must be the same on all workers.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_FAILOVER_TIME", value_name = "TIME",
          default_value = "10s", value_parser = duration)]
    pub failover_time: Duration,

    /// Time between scans of the lease table, 100ms to 1m. A table of more than 500 leases is scanned less often.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_LEASE_SCAN_INTERVAL", value_name = "TIME",
          default_value = "1s", value_parser = duration)]
    pub lease_scan_interval: Duration,

    /// Time between the leader's checks for shards without a lease, 1s to 1h. It lists the stream on every tenth check, or
    /// when a check finds a gap.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_SHARD_SYNC_INTERVAL", value_name = "TIME",
          default_value = "60s", value_parser = duration)]
    pub shard_sync_interval: Duration,

    /// Maximum number of leases per worker, 1 or more [default: no limit]. The leader's value applies to the whole
    /// fleet.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_LEASES_MAX", value_name = "N")]
    pub leases_max: Option<usize>,

    /// Maximum throughput per worker, in bytes per second by the averages of its shards, 1KiB or more
    /// [default: no limit]. The leader's value applies to the whole fleet.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_THROUGHPUT_MAX", value_name = "SIZE",
          value_parser = byte_size)]
    pub throughput_max: Option<ByteSize>,

    /// Longest time between polls of a shard that has few or no new records, 200ms to 1m: so much later may a record be
    /// read [default: a thirtieth of --batch-age, at least 1s, at most 10s].
    #[arg(long, help_heading = SHARING, env = "KINETIDE_POLL_IDLE_MAX", value_name = "TIME",
          value_parser = duration)]
    pub poll_idle_max: Option<Duration>,

    /// An aggregate of the Kinesis Producer Library (KPL) that holds records outside the shard's hash key range, as after a
    /// reshard: deliver them, or leave the whole aggregate out as the Java KCL does (only while Java workers are in the
    /// fleet).
    #[arg(long, help_heading = SHARING, env = "KINETIDE_KPL_OUT_OF_RANGE", value_name = "POLICY", value_enum,
          default_value_t = OutOfRangeSetting::Deliver)]
    pub kpl_out_of_range: OutOfRangeSetting,

    /// Id of this worker, unique among running workers [default: host name and a random part].
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_WORKER_ID", value_name = "ID")]
    pub worker_id: Option<String>,

    /// Address for /metrics, /healthz and /readyz; and for the console and /api/*, which off loopback need a token. Port 0
    /// picks a free port.
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_HTTP", value_name = "ADDRESS",
          default_value = "127.0.0.1:8080", value_parser = address)]
    pub http: SocketAddr,

    /// Metrics to send to CloudWatch once a minute. summary: 16 for the application and, with several streams, 8 for each;
    /// detailed: also 4 for each shard. CloudWatch bills each metric (about $0.30 a month).
    #[arg(long, help_heading = CLOUDWATCH, env = "KINETIDE_CLOUDWATCH", value_name = "LEVEL", value_enum,
          default_value_t = CloudWatchSetting::None)]
    pub cloudwatch: CloudWatchSetting,

    /// Namespace of the metrics in CloudWatch [default: the application].
    #[arg(long, help_heading = CLOUDWATCH, env = "KINETIDE_CLOUDWATCH_NAMESPACE", value_name = "NAME")]
    pub cloudwatch_namespace: Option<String>,

    /// Send ages (DeliveredAge, MillisBehindLatest and the like) every 10 s instead of every minute, kept by the second,
    /// for alarms that must not wait for a minute to end. Costs six more calls a minute for each worker.
    #[arg(long, help_heading = CLOUDWATCH, env = "KINETIDE_CLOUDWATCH_HIGH_RESOLUTION")]
    pub cloudwatch_high_resolution: bool,

    /// CloudWatch endpoint URL [default: AWS].
    #[arg(long, help_heading = CLOUDWATCH, env = "KINETIDE_CLOUDWATCH_ENDPOINT", value_name = "URL")]
    pub cloudwatch_endpoint: Option<String>,

    /// Longest time for a drain after SIGTERM, 1s to 1h. On ECS, set it 10 s below stopTimeout.
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_SHUTDOWN_BUDGET", value_name = "TIME",
          default_value = "20s", value_parser = duration)]
    pub shutdown_budget: Duration,

    /// Drain when stdin ends: whoever started this process has gone.
    #[arg(long, hide = true)]
    pub stop_with_parent: bool,

    /// Seconds to add to the wall clock, for trials.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    pub clock_offset: i64,

    /// Where ECS tells a task its limits; ECS sets it.
    #[arg(long, hide = true, env = "ECS_CONTAINER_METADATA_URI_V4", value_name = "URL")]
    pub ecs_metadata_uri: Option<String>,

    /// AWS region [default: from the environment]. A stream named by its ARN is read in the ARN's region.
    #[arg(long, help_heading = AWS, env = "KINETIDE_REGION", value_name = "REGION")]
    pub region: Option<String>,

    /// Kinesis endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    pub kinesis_endpoint: Option<String>,

    /// DynamoDB endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_DYNAMODB_ENDPOINT", value_name = "URL")]
    pub dynamodb_endpoint: Option<String>,

    /// DynamoDB Streams endpoint URL [default: AWS; if --dynamodb-endpoint is on this machine, that one].
    #[arg(long, help_heading = AWS, env = "KINETIDE_DYNAMODB_STREAMS_ENDPOINT", value_name = "URL")]
    pub dynamodb_streams_endpoint: Option<String>,

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// Firehose endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_FIREHOSE_ENDPOINT", value_name = "URL")]
    pub firehose_endpoint: Option<String>,

    /// How brokers of Kafka are reached.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// In whose role the stream is read.
    #[command(flatten)]
    pub stream_role: StreamRoleArgs,

    /// In whose role the lake is written.
    #[command(flatten)]
    pub lake_role: LakeRoleArgs,

    /// How new objects are encrypted.
    #[command(flatten)]
    pub encryption: EncryptionArgs,

    /// Format of log lines.
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_LOG_FORMAT", value_name = "FORMAT", value_enum,
          default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,

    /// Log filter: a level, or targets with levels, like info,kinetide=debug. Errors are logged unless it says off.
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_LOG", value_name = "FILTER",
          default_value = DEFAULT_FILTER)]
    pub log: String,
}

/// Who compresses what goes to Firehose, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FirehoseGzip {
    /// The delivery stream, by its own compression setting. It gets plain lines.
    Firehose,
    /// kinetide: each Firehose record is one complete gzip member. The delivery stream must not compress.
    Records,
}

/// What compresses at gzip level 1, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GzipEncoderSetting {
    /// What knows rows of JSON.
    Rows,
    /// zlib.
    Zlib,
}

/// How much goes to CloudWatch, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CloudWatchSetting {
    /// Nothing.
    None,
    /// Metrics of the application and of its streams.
    Summary,
    /// Beside them metrics of each shard.
    Detailed,
}

/// How pending batches are described, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PendingFormatSetting {
    /// 2 once every worker of the fleet reads it, else 1.
    Auto,
    /// Readable by earlier releases.
    #[value(name = "1")]
    One,
    /// Also records what each object holds.
    #[value(name = "2")]
    Two,
}

/// What becomes of aggregates with records outside the shard, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutOfRangeSetting {
    /// Their records are delivered, and counted.
    Deliver,
    /// They are left out whole, and counted.
    KclExact,
}

impl TryFrom<RunArgs> for Config {
    type Error = BadSetting;

    fn try_from(args: RunArgs) -> Result<Self, BadSetting> {
        let lake = lake(&args.lake)?;
        let worker = worker_id(args.worker_id)?;
        let kafka = args.kafka.checked(args.region.as_deref())?;
        let given = streams::Given {
            kind: args.source,
            streams: args.stream,
            tables: args.table,
            topics: args.topic,
            brokers: kafka.is_some(),
            settings: args.settings,
            role: args.stream_role.checked(Some(&worker))?,
            transform: args.transform,
            landing: args.landing,
            errors: args.errors,
            initial_position: args.initial_position,
            retrieval: args.retrieval,
            consumer_name: args.consumer_name,
            firehose: args.firehose.is_some(),
        };
        let streams = given.checked()?;
        let application = streams.application(args.application.as_deref())?;
        let role = args.lake_role.checked(&lake, Some(&worker))?;
        let s3 = S3Settings { role, ..args.encryption.checked(&lake)? };
        let packing = match args.firehose_gzip {
            FirehoseGzip::Firehose => Packing::Lines,
            FirehoseGzip::Records => Packing::GzipMembers,
        };
        let firehose = args.firehose.map(|stream| (stream, packing));
        if let Some((stream, _)) = &firehose {
            name("firehose", stream, 64)?;
        }
        let level = match args.cloudwatch {
            CloudWatchSetting::None => None,
            CloudWatchSetting::Summary => Some(Level::Summary),
            CloudWatchSetting::Detailed => Some(Level::Detailed),
        };
        let namespace = args.cloudwatch_namespace.map(namespace).transpose()?;
        let cloudwatch = level.map(|level| CloudWatchConfig {
            level,
            namespace,
            high_resolution: args.cloudwatch_high_resolution,
        });
        #[expect(clippy::cast_precision_loss, reason = "a limit for people")]
        let kbps_max = args.throughput_max.map_or(f64::INFINITY, |max| max.as_u64() as f64 / 1024.0);
        let rows_bytes_max = bytes("batch-bytes", args.batch_bytes)?;
        let encoder = match args.gzip_encoder {
            GzipEncoderSetting::Rows => GzipEncoder::Rows,
            GzipEncoderSetting::Zlib => GzipEncoder::Zlib,
        };
        let gzip = Gzip { level: args.gzip_level, encoder };
        let limits = BatchLimits { rows_bytes_max, gzip, ..BatchLimits::default() };
        let config = Self {
            worker,
            endpoints: Endpoints {
                kinesis: endpoint("kinesis-endpoint", args.kinesis_endpoint)?,
                dynamodb: endpoint("dynamodb-endpoint", args.dynamodb_endpoint)?,
                dynamodb_streams: endpoint("dynamodb-streams-endpoint", args.dynamodb_streams_endpoint)?,
                s3: endpoint("s3-endpoint", args.s3_endpoint)?,
                firehose: endpoint("firehose-endpoint", args.firehose_endpoint)?,
                cloudwatch: endpoint("cloudwatch-endpoint", args.cloudwatch_endpoint)?,
                kafka,
            },
            streams,
            application,
            lake: Some(LakeConfig {
                place: LakePlace::Url(lake),
                firehose,
                s3,
                limits,
                batch_age_max: args.batch_age,
                pending_format: match args.pending_format {
                    PendingFormatSetting::Auto => None,
                    PendingFormatSetting::One => Some(PendingFormat::One),
                    PendingFormatSetting::Two => Some(PendingFormat::Two),
                },
            }),
            byte_budget: bytes("byte-budget", args.byte_budget)?,
            failover: args.failover_time,
            scan_interval: args.lease_scan_interval,
            shard_sync_interval: args.shard_sync_interval,
            rules: Rules { leases_max: args.leases_max.unwrap_or(usize::MAX), kbps_max },
            poll_idle_max: args.poll_idle_max,
            kpl_out_of_range: match args.kpl_out_of_range {
                OutOfRangeSetting::Deliver => OutOfRange::Deliver,
                OutOfRangeSetting::KclExact => OutOfRange::KclExact,
            },
            http: Some(args.http),
            http_token: http_token(|name| std::env::var_os(name))?,
            shutdown_budget: args.shutdown_budget,
            stop_with_parent: args.stop_with_parent,
            ecs_metadata_uri: args.ecs_metadata_uri,
            region: args.region,
            cloudwatch,
        };
        config.checked()
    }
}

/// A namespace that CloudWatch takes from us; those of AWS begin with `AWS/`.
fn namespace(name: String) -> Result<String, BadSetting> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-/#".contains(&b);
    if (1..=255).contains(&name.len()) && name.bytes().all(letter) && !name.starts_with("AWS/") {
        return Ok(name);
    }
    let allowed = "must be 1 to 255 letters, digits, '.', '_', '-', '/' or '#', and must not start with AWS/";
    Err(BadSetting::new("cloudwatch-namespace", name, allowed))
}

fn bytes(setting: &'static str, size: ByteSize) -> Result<usize, BadSetting> {
    usize::try_from(size.as_u64())
        .map_err(|_| BadSetting::new(setting, size, "is more than this machine can address"))
}

/// Reads a size like `64MiB`.
///
/// # Errors
/// When it is none.
pub fn byte_size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "write it like 64MiB or 1GiB".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, like 127.0.0.1:8080 or 0.0.0.0:8080".to_owned())
}
