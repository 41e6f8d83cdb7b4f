//! Settings of the service: `RunArgs` as people type them → `Config` as the code uses them, checked once.

mod access;
mod check;
mod streams;
pub mod variables;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use crate::batch::{BatchLimits, Packing, folder_of};
use crate::checkpoint::PendingFormat;
use crate::clock::wall_clock_us;
use crate::deliver::{LakeUrl, S3Settings};
use crate::lease::WorkerId;
use crate::lease::plan::Rules;
use crate::shard::Checkpoint;
use crate::telemetry::logs::{DEFAULT_FILTER, LogFormat};
use crate::transform::Transform;

pub use access::{EncryptionArgs, LakeRoleArgs, StreamRoleArgs};
#[cfg(feature = "local")]
pub(crate) use check::local_folder;
pub(crate) use check::{application, folder, lake, layout, stream, table_name};
pub(crate) use streams::transform;
pub use streams::{StreamConfig, StreamsConfig};

/// Row keys that KCL uses for itself in the lease table.
const FIXED_ROW_KEYS: [&str; 3] = ["Leader", "Migration3.0", "TableMigration3.5"];

/// What makes rows of records when nobody says it, in every command.
pub(crate) const DEFAULT_TRANSFORM: &str = "dynamodb-cdc";

/// Bytes of a worker's id: it is the key of a row, and is shown in tables.
const WORKER_ID_MAX: usize = 256;

const STREAM: &str = "Stream and lake";
const STREAM_HELP: &str = "Kinesis stream to read, by name or ARN. An ARN also sets its region and account. For several \
     streams give it several times (in the variable: with commas), or tables [[streams]] in the file of --settings";
const BATCHES: &str = "Batches";
const SHARING: &str = "Sharing shards among workers";
const PROCESS: &str = "Process";
const AWS: &str = "AWS";

/// Flags and variables of `kinetide run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Every setting is a flag or an environment variable; the flag wins. TIME is written like 500ms, 30s or \
    5m, SIZE like 64MiB.\n\n\
    On SIGTERM, SIGINT (Ctrl-C) or SIGHUP the worker drains: it stops reading, delivers and commits what it has read, \
    releases its leases and exits.\n\n\
    Exit code: 0 after a clean drain, 1 when it could not start or could not drain in time, 2 for wrong settings.\n\n\
    Examples:\n  \
    kinetide run --stream trades --lake s3://my-lake/raw --region eu-north-1\n  \
    kinetide run --stream trades --lake ./lake --kinesis-endpoint http://127.0.0.1:4567 \\\n      \
    --dynamodb-endpoint http://127.0.0.1:8000\n  \
    kinetide run --stream trades --lake s3://my-lake/rest --firehose trades-to-s3\n  \
    kinetide run --stream arn:aws:kinesis:eu-north-1:111122223333:stream/trades \\\n      \
    --stream-role arn:aws:iam::111122223333:role/reader --lake s3://my-lake/raw"
)]
pub struct RunArgs {
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
    /// [default: kinetide-STREAM].
    #[arg(long, help_heading = STREAM, env = "KINETIDE_APPLICATION", value_name = "NAME")]
    pub application: Option<String>,

    /// How a record becomes a row: crypto-transactions, dynamodb-cdc or json.
    #[arg(long, help_heading = STREAM, env = "KINETIDE_TRANSFORM", value_name = "NAME",
          default_value = DEFAULT_TRANSFORM)]
    pub transform: String,

    /// TOML file for settings that are not flags: its tables are enrichment and columns.
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

    /// Longest time between polls of a shard without new records, 200ms to 1m.
    #[arg(long, help_heading = SHARING, env = "KINETIDE_POLL_IDLE_MAX", value_name = "TIME",
          default_value = "1s", value_parser = duration)]
    pub poll_idle_max: Duration,

    /// Id of this worker, unique among running workers [default: host name and a random part].
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_WORKER_ID", value_name = "ID")]
    pub worker_id: Option<String>,

    /// Address for /metrics, /healthz, /readyz and /api/status; port 0 picks a free port.
    #[arg(long, help_heading = PROCESS, env = "KINETIDE_HTTP", value_name = "ADDRESS",
          default_value = "127.0.0.1:8080", value_parser = address)]
    pub http: SocketAddr,

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

    /// S3 endpoint URL, for a lake at s3:// [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// Firehose endpoint URL [default: AWS].
    #[arg(long, help_heading = AWS, env = "KINETIDE_FIREHOSE_ENDPOINT", value_name = "URL")]
    pub firehose_endpoint: Option<String>,

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

/// Settings of the service, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams to read.
    pub streams: StreamsConfig,
    /// Application: name of the lease table.
    pub application: String,
    /// This worker.
    pub worker: WorkerId,
    /// Where rows land.
    pub lake: LakeUrl,
    /// Delivery stream that rows go to instead, and how they are packed for it.
    pub firehose: Option<(String, Packing)>,
    /// How objects are written to S3.
    pub s3: S3Settings,
    /// When a batch is full.
    pub limits: BatchLimits,
    /// When a batch is old.
    pub batch_age_max: Duration,
    /// How pending batches are described; `None` as the fleet understands it.
    pub pending_format: Option<PendingFormat>,
    /// Bytes in memory over all shards.
    pub byte_budget: usize,
    /// When a lease expires.
    pub failover: Duration,
    /// How often the lease table is read.
    pub scan_interval: Duration,
    /// How often the stream is listed.
    pub shard_sync_interval: Duration,
    /// The most that one worker is given.
    pub rules: Rules,
    /// The slowest poll.
    pub poll_idle_max: Duration,
    /// Address of the HTTP endpoints.
    pub http: SocketAddr,
    /// Time for a drain.
    pub shutdown_budget: Duration,
    /// Drain when stdin ends.
    pub stop_with_parent: bool,
    /// Where ECS tells a task its limits, on ECS.
    pub ecs_metadata_uri: Option<String>,
    /// AWS region, if set.
    pub region: Option<String>,
    /// Endpoints, if set.
    pub endpoints: Endpoints,
}

/// Other servers than those of AWS.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Of Kinesis.
    pub kinesis: Option<String>,
    /// Of DynamoDB.
    pub dynamodb: Option<String>,
    /// Of S3.
    pub s3: Option<String>,
    /// Of Firehose.
    pub firehose: Option<String>,
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {value:?}: {allowed}", variables::shown(setting))]
pub struct BadSetting {
    setting: &'static str,
    value: String,
    allowed: String,
}

impl BadSetting {
    /// `allowed`: what is wrong with the value, or what may be there instead.
    pub(crate) fn new(setting: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self { setting, value: value.to_string(), allowed: allowed.into() }
    }
}

impl Config {
    /// What may not do what was meant, each with the settings that it is about.
    pub fn oddities(&self) -> Vec<String> {
        check::oddities(self)
    }
}

impl TryFrom<RunArgs> for Config {
    type Error = BadSetting;

    fn try_from(args: RunArgs) -> Result<Self, BadSetting> {
        let bad = |setting, value: &dyn ToString, allowed: &dyn ToString| BadSetting {
            setting,
            value: value.to_string(),
            allowed: allowed.to_string(),
        };
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        within("batch-age", args.batch_age, ms(100), s(3600))?;
        within("failover-time", args.failover_time, s(1), s(600))?;
        within("lease-scan-interval", args.lease_scan_interval, ms(100), s(60))?;
        within("shard-sync-interval", args.shard_sync_interval, s(1), s(3600))?;
        within("poll-idle-max", args.poll_idle_max, ms(200), s(60))?;
        within("shutdown-budget", args.shutdown_budget, s(1), s(3600))?;
        let rows_bytes_max = size("batch-bytes", args.batch_bytes, ByteSize::kib(1), ByteSize::gib(1))?;
        let byte_budget = size("byte-budget", args.byte_budget, ByteSize::mib(32), ByteSize::tib(1))?;
        check::relations(&args)?;
        let lake = lake(&args.lake)?;
        let worker = worker_id(args.worker_id)?;
        let given = streams::Given {
            streams: args.stream,
            settings: args.settings,
            role: args.stream_role.checked(Some(&worker))?,
            transform: args.transform,
            landing: args.landing,
            errors: args.errors,
            initial_position: args.initial_position,
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
        if args.leases_max == Some(0) {
            return Err(bad("leases-max", &0, &"must be at least 1, or left out"));
        }
        #[expect(clippy::cast_precision_loss, reason = "a limit for people")]
        let kbps_max = args.throughput_max.map_or(f64::INFINITY, |max| max.as_u64() as f64 / 1024.0);
        if kbps_max < 1.0 {
            return Err(bad("throughput-max", &"under 1KiB", &"must be at least 1KiB, or left out"));
        }
        Ok(Self {
            worker,
            endpoints: Endpoints {
                kinesis: endpoint("kinesis-endpoint", args.kinesis_endpoint)?,
                dynamodb: endpoint("dynamodb-endpoint", args.dynamodb_endpoint)?,
                s3: endpoint("s3-endpoint", args.s3_endpoint)?,
                firehose: endpoint("firehose-endpoint", args.firehose_endpoint)?,
            },
            limits: BatchLimits { rows_bytes_max, gzip_level: args.gzip_level, ..BatchLimits::default() },
            streams,
            application,
            lake,
            firehose,
            s3,
            batch_age_max: args.batch_age,
            pending_format: match args.pending_format {
                PendingFormatSetting::Auto => None,
                PendingFormatSetting::One => Some(PendingFormat::One),
                PendingFormatSetting::Two => Some(PendingFormat::Two),
            },
            byte_budget,
            failover: args.failover_time,
            scan_interval: args.lease_scan_interval,
            shard_sync_interval: args.shard_sync_interval,
            rules: Rules { leases_max: args.leases_max.unwrap_or(usize::MAX), kbps_max },
            poll_idle_max: args.poll_idle_max,
            http: args.http,
            shutdown_budget: args.shutdown_budget,
            stop_with_parent: args.stop_with_parent,
            ecs_metadata_uri: args.ecs_metadata_uri,
            region: args.region,
        })
    }
}

/// Where rows land when nobody says it; `None` where that needs the stream's name, and it is not known.
pub(crate) fn default_landing(transform: &dyn Transform, stream: Option<&str>) -> Option<String> {
    match transform.id().name() {
        "crypto-transactions" => Some("landing/transactions".to_owned()),
        _ => stream.map(|stream| format!("landing/{}", folder_of(stream))),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s or 500ms"))
}

fn byte_size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "write it like 64MiB or 1GiB".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, like 127.0.0.1:8080 or 0.0.0.0:8080".to_owned())
}

pub(crate) fn within(
    setting: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), BadSetting> {
    let show = |time| humantime::format_duration(time).to_string();
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let allowed = format!("must be between {} and {}", show(least), show(most));
    Err(BadSetting { setting, value: show(value), allowed })
}

fn size(
    setting: &'static str,
    value: ByteSize,
    least: ByteSize,
    most: ByteSize,
) -> Result<usize, BadSetting> {
    let allowed = || format!("must be between {least} and {most}");
    if !(least..=most).contains(&value) {
        return Err(BadSetting { setting, value: value.to_string(), allowed: allowed() });
    }
    usize::try_from(value.as_u64()).map_err(|_| BadSetting {
        setting,
        value: value.to_string(),
        allowed: allowed(),
    })
}

pub(crate) fn endpoint(setting: &'static str, value: Option<String>) -> Result<Option<String>, BadSetting> {
    match value {
        Some(url) if !url::Url::parse(&url).is_ok_and(|url| url.has_host()) => {
            let allowed = "must be a URL like http://127.0.0.1:4567".to_owned();
            Err(BadSetting { setting, value: url, allowed })
        }
        value => Ok(value),
    }
}

/// Names of streams and tables: the letters AWS allows.
pub(crate) fn name(setting: &'static str, value: &str, length_max: usize) -> Result<(), BadSetting> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=length_max).contains(&value.len()) && value.chars().all(letter) {
        return Ok(());
    }
    let allowed = format!("must be 1 to {length_max} letters, digits, '.', '_' or '-'");
    Err(BadSetting { setting, value: value.to_owned(), allowed })
}

pub(crate) fn initial_position(text: &str) -> Result<(Checkpoint, Option<i64>), String> {
    match text {
        "trim-horizon" => Ok((Checkpoint::TrimHorizon, None)),
        "latest" => Ok((Checkpoint::Latest, None)),
        time => match time.parse::<jiff::Timestamp>() {
            Ok(time) if time.as_microsecond() > wall_clock_us() => {
                Err("is in the future, which Kinesis refuses; give a time in the past, or latest".to_owned())
            }
            Ok(time) => Ok((Checkpoint::AtTimestamp, Some(time.as_microsecond()))),
            Err(_) => Err("must be trim-horizon, latest, or a time like 2026-01-15T09:30:00Z".to_owned()),
        },
    }
}

fn worker_id(given: Option<String>) -> Result<WorkerId, BadSetting> {
    let Some(id) = given else {
        let host = gethostname::gethostname();
        let random = uuid::Uuid::new_v4().simple().to_string();
        return Ok(WorkerId::new(format!("{}:{}", host.to_string_lossy(), &random[..12])));
    };
    let odd = id.len() > WORKER_ID_MAX || id.contains(char::is_control) || id.trim() != id;
    if id.is_empty() || odd || id.starts_with("shardId-") || FIXED_ROW_KEYS.contains(&id.as_str()) {
        let allowed = format!(
            "must be 1 to {WORKER_ID_MAX} characters, must not start or end with a space, and must not look like a key \
             of the lease table"
        );
        return Err(BadSetting { setting: "worker-id", value: id, allowed });
    }
    Ok(WorkerId::new(id))
}

#[cfg(test)]
mod tests;
