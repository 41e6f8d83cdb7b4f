//! Settings of a worker: as people type them, or as a program builds them → `Config` as the code uses them, checked once.

#[cfg(feature = "cli")]
mod access;
#[cfg(feature = "cli")]
mod args;
mod check;
#[cfg(feature = "cli")]
mod kafka;
mod retrieval;
#[cfg(feature = "cli")]
mod secret;
mod streams;
#[cfg(feature = "cli")]
mod token;
#[cfg(feature = "cli")]
pub mod variables;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::aws::{StreamAddress, is_loopback};
use crate::batch::{BatchLimits, Packing, folder_of};
use crate::checkpoint::PendingFormat;
use crate::clock::wall_clock_us;
use crate::deliver::{LakeUrl, S3Settings, Sink};
use crate::fetch::OutOfRange;
use crate::kafka::KafkaSettings;
use crate::lease::WorkerId;
use crate::lease::plan::Rules;
use crate::shard::Checkpoint;
use crate::telemetry::cloudwatch::Level;
use crate::telemetry::http::Token;
use crate::transform::Transform;

#[cfg(feature = "cli")]
pub use access::{EncryptionArgs, LakeRoleArgs, StreamRoleArgs};
#[cfg(feature = "cli")]
pub use args::{
    CloudWatchSetting, FirehoseGzip, GzipEncoderSetting, OutOfRangeSetting, PendingFormatSetting, RunArgs,
    byte_size,
};
#[cfg(feature = "local")]
pub use check::local_folder;
pub use check::{application, folder, lake, layout, stream, table, table_name, topic};
#[cfg(feature = "cli")]
pub use kafka::KafkaArgs;
pub use retrieval::{RetrievalConfig, RetrievalSetting};
pub use streams::{Kind, Landing, Source, StreamConfig, StreamsConfig, Work};
pub use streams::{transform, transform_and_alerts};

/// Row keys that KCL uses for itself in the lease table.
const FIXED_ROW_KEYS: [&str; 3] = ["Leader", "Migration3.0", "TableMigration3.5"];

/// What makes rows of records when nobody says it, in every command.
pub const DEFAULT_TRANSFORM: &str = "dynamodb-cdc";

/// Settings that have a variable and no flag: the token of the HTTP endpoints and the password for the brokers of Kafka, each
/// with the file that holds it, and a key for market prices.
pub const WITHOUT_FLAG: [&str; 5] = [
    "KINETIDE_HTTP_TOKEN",
    "KINETIDE_HTTP_TOKEN_FILE",
    "KINETIDE_KAFKA_PASSWORD",
    "KINETIDE_KAFKA_PASSWORD_FILE",
    MARKET_API_KEY,
];

/// The API key of a provider of market prices.
pub const MARKET_API_KEY: &str = "KINETIDE_MARKET_API_KEY";

/// Bytes of a worker's id: it is the key of a row, and is shown in tables.
const WORKER_ID_MAX: usize = 256;

/// Settings of the service, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams to read.
    pub streams: StreamsConfig,
    /// Application: name of the lease table.
    pub application: String,
    /// This worker.
    pub worker: WorkerId,
    /// Where rows land; `None` where no stream lands.
    pub lake: Option<LakeConfig>,
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
    /// The slowest poll, where it is set: see [`TipWaits`].
    pub poll_idle_max: Option<Duration>,
    /// What becomes of aggregates with records outside the shard.
    pub kpl_out_of_range: OutOfRange,
    /// Address of the HTTP endpoints, where there are to be any.
    pub http: Option<SocketAddr>,
    /// What opens those that not everybody may ask, off this host.
    pub http_token: Option<Token>,
    /// Time for a drain.
    pub shutdown_budget: Duration,
    /// Drain when stdin ends.
    pub stop_with_parent: bool,
    /// Where ECS tells a task its limits, on ECS.
    pub ecs_metadata_uri: Option<String>,
    /// AWS region, if set.
    pub region: Option<String>,
    /// Metrics for CloudWatch, if any are sent.
    pub cloudwatch: Option<CloudWatchConfig>,
    /// Endpoints, if set.
    pub endpoints: Endpoints,
}

/// Metrics for CloudWatch.
#[derive(Clone, Debug)]
pub struct CloudWatchConfig {
    /// How much is sent.
    pub level: Level,
    /// Where to; none: the application.
    pub namespace: Option<String>,
    /// Ages every ten seconds.
    pub high_resolution: bool,
}

/// Where rows land, and how.
#[derive(Clone, Debug)]
pub struct LakeConfig {
    /// Where the lake is.
    pub place: LakePlace,
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
}

/// Where a lake is.
#[derive(Clone)]
pub enum LakePlace {
    /// A bucket or a folder.
    Url(LakeUrl),
    /// A sink of a program, and how batches call its place: those of another place are not its own.
    Sink(String, Arc<dyn Sink>),
}

impl LakePlace {
    /// In one spelling.
    pub fn name(&self) -> String {
        match self {
            Self::Url(url) => url.place(),
            Self::Sink(name, _) => name.clone(),
        }
    }
}

impl std::fmt::Debug for LakePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Other servers than those of AWS.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Of Kinesis.
    pub kinesis: Option<String>,
    /// Of DynamoDB.
    pub dynamodb: Option<String>,
    /// Of DynamoDB Streams.
    pub dynamodb_streams: Option<String>,
    /// Of S3.
    pub s3: Option<String>,
    /// Of Firehose.
    pub firehose: Option<String>,
    /// Of CloudWatch.
    pub cloudwatch: Option<String>,
    /// The brokers of Kafka, where topics are read.
    pub kafka: Option<KafkaSettings>,
}

impl Endpoints {
    /// Of the service that a stream is read from. Servers on this machine, which stand in for AWS, are DynamoDB and its
    /// streams in one.
    pub fn of(&self, stream: &StreamAddress) -> Option<&str> {
        if stream.table().is_none() {
            return self.kinesis.as_deref();
        }
        let of_dynamodb = self.dynamodb.as_deref().filter(|url| is_loopback(url));
        self.dynamodb_streams.as_deref().or(of_dynamodb)
    }
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {allowed}", shown(setting), given(setting, value))]
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

/// The value as it was given; a secret is not shown.
fn given(setting: &str, value: &str) -> String {
    let secret = value.is_empty() && WITHOUT_FLAG.contains(&setting);
    if secret { String::new() } else { format!(" {value:?}") }
}

/// How people set this setting; a builder's method has the name of the flag.
fn shown(setting: &str) -> String {
    if WITHOUT_FLAG.contains(&setting) {
        return setting.to_owned();
    }
    #[cfg(feature = "cli")]
    return variables::shown(setting);
    #[cfg(not(feature = "cli"))]
    return format!("--{setting}");
}

impl Config {
    /// What a worker does that is told nothing else. The flags of `kinetide run` have the same defaults.
    pub fn new(application: String, worker: WorkerId, streams: StreamsConfig) -> Self {
        Self {
            streams,
            application,
            worker,
            lake: None,
            byte_budget: 256 << 20,
            failover: Duration::from_secs(10),
            scan_interval: Duration::from_secs(1),
            shard_sync_interval: Duration::from_secs(60),
            rules: Rules { leases_max: usize::MAX, kbps_max: f64::INFINITY },
            poll_idle_max: None,
            kpl_out_of_range: OutOfRange::Deliver,
            http: None,
            http_token: None,
            shutdown_budget: Duration::from_secs(20),
            stop_with_parent: false,
            ecs_metadata_uri: None,
            region: None,
            cloudwatch: None,
            endpoints: Endpoints::default(),
        }
    }

    /// These settings, when each is within its limits and they fit each other.
    ///
    /// # Errors
    /// The first that does not.
    pub fn checked(self) -> Result<Self, BadSetting> {
        check::limits(&self)?;
        check::relations(&self)?;
        retrieval::fits(&self)?;
        Ok(self)
    }

    /// What may not do what was meant, each with the settings that it is about.
    pub fn oddities(&self) -> Vec<String> {
        check::oddities(self)
    }
}

/// How long records may wait at the tip of a shard until they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TipWaits {
    /// The longest time between polls of a shard where none come.
    pub idle: Duration,
    /// The longest time between polls of a shard where few come, so that a call brings more of them.
    pub gathering: Duration,
}

impl TipWaits {
    /// Records wait for their batch to be closed anyway: reading them later by a thirtieth of its age makes them at most
    /// that much later.
    const SHARE_OF_AGE: u32 = 30;
    /// The slowest poll of a shard where no record waits for anything.
    const IDLE: Duration = Duration::from_secs(1);
    /// Nothing is saved beyond: renewing the lease costs more then.
    const MAX: Duration = Duration::from_secs(10);

    /// For records that wait in a batch of this age, or are handed on at once; none above what is set.
    pub fn new(batch_age_max: Option<Duration>, set: Option<Duration>) -> Self {
        let share = (batch_age_max.unwrap_or_default() / Self::SHARE_OF_AGE).min(Self::MAX);
        let idle = set.unwrap_or(share.max(Self::IDLE));
        Self { idle, gathering: share.min(idle) }
    }
}

impl LakeConfig {
    /// A lake that is told nothing else.
    pub fn new(place: LakePlace) -> Self {
        Self {
            place,
            firehose: None,
            s3: S3Settings::default(),
            limits: BatchLimits::default(),
            batch_age_max: Duration::from_secs(300),
            pending_format: None,
        }
    }
}

/// Where rows land when nobody says it; `None` where that needs the stream's name, and it is not known.
pub fn default_landing(transform: &dyn Transform, stream: Option<&str>) -> Option<String> {
    match transform.id().name() {
        "crypto-transactions" => Some("landing/transactions".to_owned()),
        _ => stream.map(|stream| format!("landing/{}", folder_of(stream))),
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s or 500ms"))
}

pub fn within(
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

pub fn endpoint(setting: &'static str, value: Option<String>) -> Result<Option<String>, BadSetting> {
    match value {
        Some(url) if !url::Url::parse(&url).is_ok_and(|url| url.has_host()) => {
            let allowed = "must be a URL like http://127.0.0.1:4567".to_owned();
            Err(BadSetting { setting, value: url, allowed })
        }
        value => Ok(value),
    }
}

/// Names of streams and tables: the letters AWS allows.
pub fn name(setting: &'static str, value: &str, length_max: usize) -> Result<(), BadSetting> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=length_max).contains(&value.len()) && value.chars().all(letter) {
        return Ok(());
    }
    let allowed = format!("must be 1 to {length_max} letters, digits, '.', '_' or '-'");
    Err(BadSetting { setting, value: value.to_owned(), allowed })
}

pub fn initial_position(text: &str) -> Result<(Checkpoint, Option<i64>), String> {
    match text {
        "trim-horizon" => Ok((Checkpoint::TrimHorizon, None)),
        "latest" => Ok((Checkpoint::Latest, None)),
        time => match time.parse::<jiff::Timestamp>() {
            Ok(time) => time_position(time.as_microsecond()),
            Err(_) => Err("must be trim-horizon, latest, or a time like 2026-01-15T09:30:00Z".to_owned()),
        },
    }
}

/// A time as a position, µs since the epoch.
pub fn time_position(us: i64) -> Result<(Checkpoint, Option<i64>), String> {
    if us > wall_clock_us() {
        return Err("is in the future, which Kinesis refuses; give a time in the past, or latest".to_owned());
    }
    Ok((Checkpoint::AtTimestamp, Some(us)))
}

pub fn worker_id(given: Option<String>) -> Result<WorkerId, BadSetting> {
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

#[cfg(feature = "cli")]
#[cfg(test)]
mod tests;
