//! A worker that a program builds: the same settings, checks and defaults as those of `kinetide run`, by methods in place
//! of flags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::{StartError, run, run_until};
use crate::config::{
    BadSetting, Config, Endpoints, LakeConfig, LakePlace, Landing, RetrievalConfig, RetrievalSetting, Source,
    StreamConfig, StreamsConfig, Work, application, default_landing, endpoint, folder, lake, layout, stream,
    time_position, worker_id,
};
use crate::deliver::Sink;
use crate::fetch::OutOfRange;
use crate::processor::ProcessorFactory;
use crate::shard::Checkpoint;
use crate::telemetry::http::Token;
use crate::transform::Transform;
use crate::worker::Drain;

/// One worker of an application. Workers of one application share the shards of its stream, in one process or in many;
/// they may be Java KCL workers too.
#[derive(Clone, Debug)]
pub struct Worker {
    config: Config,
}

/// Where reading begins in a shard that has no lease yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialPosition {
    /// Its oldest record.
    #[default]
    TrimHorizon,
    /// Records from now on.
    Latest,
    /// The first record that arrived at or after this time.
    At(SystemTime),
}

impl Worker {
    /// A worker of this application, which reads this stream. The application is the name of its lease table; the stream is
    /// given by its name or ARN.
    pub fn builder(application: impl Into<String>, stream: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder {
            application: application.into(),
            stream: stream.into(),
            worker_id: None,
            initial_position: InitialPosition::default(),
            kinesis_endpoint: None,
            dynamodb_endpoint: None,
            http_token: None,
            source: None,
            retrieval: RetrievalConfig::default(),
            changes: Vec::new(),
        }
    }

    /// Works until SIGTERM, SIGINT or SIGHUP, then drains. A second signal ends it at once.
    ///
    /// # Errors
    /// When something that it needs is missing, refused or out of reach at the start, or the lease table is another
    /// application's.
    pub async fn run(self) -> Result<Drain, StartError> {
        run(self.config).await
    }

    /// Works until `stop` returns, then drains within the shutdown budget. Dropping this is a crash: what was not
    /// checkpointed comes again, elsewhere and after the failover time.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<Drain, StartError> {
        let stopping = CancellationToken::new();
        let work = Box::pin(run_until(self.config, stopping.clone(), std::future::pending()));
        let stopped = async {
            stop.await;
            stopping.cancel();
            std::future::pending().await
        };
        tokio::select! {
            drain = work => drain,
            () = stopped => unreachable!("it waits for the worker"),
        }
    }
}

type Change = Box<dyn FnOnce(&mut Config) + Send>;

/// Settings that every worker has. Finished by what is to be done with the records: [`WorkerBuilder::processor`] or
/// [`WorkerBuilder::transform`]. Each method has the name of a flag (or, as `http_token`, of a variable) of `kinetide run`, its default and its limits; messages
/// about settings name the flag.
#[must_use = "a builder does nothing until processor or transform is called"]
pub struct WorkerBuilder {
    application: String,
    stream: String,
    worker_id: Option<String>,
    initial_position: InitialPosition,
    kinesis_endpoint: Option<String>,
    dynamodb_endpoint: Option<String>,
    http_token: Option<String>,
    source: Option<Source>,
    retrieval: RetrievalConfig,
    changes: Vec<Change>,
}

impl WorkerBuilder {
    /// Id of this worker, unique among running workers. Default: host name and a random part.
    pub fn worker_id(mut self, id: impl Into<String>) -> Self {
        self.worker_id = Some(id.into());
        self
    }

    /// Where reading begins in a shard that has no lease yet. Default: its oldest record.
    pub fn initial_position(mut self, position: InitialPosition) -> Self {
        self.initial_position = position;
        self
    }

    /// Time without a renewal after which a lease goes to another worker. The same on all workers. Default: 10 s.
    pub fn failover_time(self, time: Duration) -> Self {
        self.change(move |config| config.failover = time)
    }

    /// Time between scans of the lease table. Default: 1 s.
    pub fn lease_scan_interval(self, time: Duration) -> Self {
        self.change(move |config| config.scan_interval = time)
    }

    /// Time between the leader's checks for shards without a lease. Default: 60 s.
    pub fn shard_sync_interval(self, time: Duration) -> Self {
        self.change(move |config| config.shard_sync_interval = time)
    }

    /// Longest time between polls of a shard that has no new records, or few that go to a batch. Default: 1 s for a
    /// processor, for a lake a thirtieth of the batch age between 1 s and 10 s.
    pub fn poll_idle_max(self, time: Duration) -> Self {
        self.change(move |config| config.poll_idle_max = Some(time))
    }

    /// What becomes of an aggregate of the Kinesis Producer Library that holds records outside the shard's hash key range.
    /// Default: they are delivered.
    pub fn kpl_out_of_range(self, policy: OutOfRange) -> Self {
        self.change(move |config| config.kpl_out_of_range = policy)
    }

    /// Maximum number of leases of this worker. The leader's value applies to the whole fleet. Default: no limit.
    pub fn leases_max(self, leases: usize) -> Self {
        self.change(move |config| config.rules.leases_max = leases)
    }

    /// Memory for records between fetch and checkpoint, all shards together, bytes. Default: 256 MiB.
    pub fn byte_budget(self, bytes: usize) -> Self {
        self.change(move |config| config.byte_budget = bytes)
    }

    /// Longest time for a drain. Default: 20 s.
    pub fn shutdown_budget(self, time: Duration) -> Self {
        self.change(move |config| config.shutdown_budget = time)
    }

    /// Address for `/metrics`, `/healthz`, `/readyz` and `/api/status`. Default: none; metrics then go to the recorder that
    /// the program has installed for the crate `metrics`, if any.
    pub fn http(self, address: SocketAddr) -> Self {
        self.change(move |config| config.http = Some(address))
    }

    /// The secret that opens `/api/status` and the other endpoints but `/metrics`, `/healthz` and `/readyz`, as bearer token or
    /// password. Default: none; then they are served on a loopback address only. The environment is not looked at.
    pub fn http_token(mut self, token: impl Into<String>) -> Self {
        self.http_token = Some(token.into());
        self
    }

    /// AWS region. Default: from the environment. A stream given by its ARN is read in the ARN's region.
    pub fn region(self, region: impl Into<String>) -> Self {
        let region = region.into();
        self.change(move |config| config.region = Some(region))
    }

    /// Kinesis endpoint URL. Default: AWS, or what the environment says.
    pub fn kinesis_endpoint(mut self, url: impl Into<String>) -> Self {
        self.kinesis_endpoint = Some(url.into());
        self
    }

    /// DynamoDB endpoint URL. Default: AWS, or what the environment says.
    pub fn dynamodb_endpoint(mut self, url: impl Into<String>) -> Self {
        self.dynamodb_endpoint = Some(url.into());
        self
    }

    /// The stream is read by this source, and not from Kinesis. Its name is the one that the builder was given.
    pub fn source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// How shards are read. Default: by polling.
    pub fn retrieval(mut self, by: RetrievalSetting) -> Self {
        self.retrieval.by = by;
        self
    }

    /// Name of the consumer for enhanced fan-out; it is registered if it does not exist. Default: the application.
    pub fn consumer_name(mut self, name: impl Into<String>) -> Self {
        self.retrieval.consumer = Some(name.into());
        self
    }

    /// Each shard's records go to a processor of its own, at least once. `factory`: makes one for a shard, as closures do.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn processor(self, factory: impl ProcessorFactory) -> Result<Worker, BadSetting> {
        Ok(Worker { config: self.config(Work::Process(Arc::new(factory)), None)?.checked()? })
    }

    /// Records become rows by this transform, which land in the lake at this URL exactly once: `s3://bucket/prefix`, or a
    /// folder.
    pub fn transform(self, transform: impl Transform, lake: impl Into<String>) -> LakeWorkerBuilder {
        LakeWorkerBuilder {
            worker: self,
            transform: Arc::new(transform),
            place: Place::Url(lake.into()),
            landing: None,
            errors: "errors".to_owned(),
            s3_endpoint: None,
            changes: Vec::new(),
        }
    }

    /// As [`WorkerBuilder::transform`], but what lands goes to a sink of the program. `name` says in pending batches which
    /// lake they are of: it must be the same on all workers, and another one for another place.
    pub fn transform_to(
        self,
        transform: impl Transform,
        name: impl Into<String>,
        sink: Arc<dyn Sink>,
    ) -> LakeWorkerBuilder {
        let lake = self.transform(transform, "");
        LakeWorkerBuilder { place: Place::Sink(name.into(), sink), ..lake }
    }

    fn change(mut self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    fn config(self, work: Work, lake: Option<LakeConfig>) -> Result<Config, BadSetting> {
        let address = stream(&self.stream)?;
        let application = application(Some(&self.application), address.name())?;
        let (initial, initial_timestamp_us) = match self.initial_position {
            InitialPosition::TrimHorizon => (Checkpoint::TrimHorizon, None),
            InitialPosition::Latest => (Checkpoint::Latest, None),
            InitialPosition::At(time) => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                time_position(us)
                    .map_err(|allowed| BadSetting::new("initial-position", format!("{time:?}"), allowed))?
            }
        };
        let retrieval = RetrievalConfig::new(self.retrieval.by, self.retrieval.consumer)?;
        let source = self.source;
        let stream =
            StreamConfig { address, role: None, source, retrieval, work, initial, initial_timestamp_us };
        let mut config = Config::new(application, worker_id(self.worker_id)?, StreamsConfig::one(stream));
        self.changes.into_iter().for_each(|change| change(&mut config));
        let token = self.http_token.map(|token| Token::new(&token)).transpose();
        config.http_token = token.map_err(|allowed| BadSetting::new("http-token", "(secret)", allowed))?;
        config.endpoints = Endpoints {
            kinesis: endpoint("kinesis-endpoint", self.kinesis_endpoint)?,
            dynamodb: endpoint("dynamodb-endpoint", self.dynamodb_endpoint)?,
            ..Endpoints::default()
        };
        Ok(Config { lake, ..config })
    }
}

/// Where rows land, as the program says it.
enum Place {
    Url(String),
    Sink(String, Arc<dyn Sink>),
}

type LakeChange = Box<dyn FnOnce(&mut LakeConfig) + Send>;

/// Settings of a worker whose rows land.
#[must_use = "a builder does nothing until build is called"]
pub struct LakeWorkerBuilder {
    worker: WorkerBuilder,
    transform: Arc<dyn Transform>,
    place: Place,
    landing: Option<String>,
    errors: String,
    s3_endpoint: Option<String>,
    changes: Vec<LakeChange>,
}

impl LakeWorkerBuilder {
    /// Folder in the lake for rows. Default: `landing/STREAM`.
    pub fn landing(mut self, folder: impl Into<String>) -> Self {
        self.landing = Some(folder.into());
        self
    }

    /// Folder in the lake for dead letters. Default: `errors`.
    pub fn errors(mut self, folder: impl Into<String>) -> Self {
        self.errors = folder.into();
        self
    }

    /// A batch is closed when its rows reach this size before compression, bytes. Default: 64 MiB.
    pub fn batch_bytes(self, bytes: usize) -> Self {
        self.change(move |lake| lake.limits.rows_bytes_max = bytes)
    }

    /// A batch is closed this long after its first record was read. Default: 5 minutes.
    pub fn batch_age(self, time: Duration) -> Self {
        self.change(move |lake| lake.batch_age_max = time)
    }

    /// S3 endpoint URL. Default: AWS, or what the environment says.
    pub fn s3_endpoint(mut self, url: impl Into<String>) -> Self {
        self.s3_endpoint = Some(url.into());
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn build(self) -> Result<Worker, BadSetting> {
        let name = stream(&self.worker.stream)?.name().to_owned();
        let landing = self.landing.or_else(|| default_landing(&*self.transform, Some(&name)));
        let landing = landing.expect("with a stream there is a default");
        let layout = layout(folder("landing", &landing)?, &self.errors, false)?;
        let mut into = LakeConfig::new(match self.place {
            Place::Url(url) => LakePlace::Url(lake(&url)?),
            Place::Sink(name, sink) => LakePlace::Sink(name, sink),
        });
        self.changes.into_iter().for_each(|change| change(&mut into));
        let work = Work::Land(Landing { transform: self.transform, layout });
        let mut config = self.worker.config(work, Some(into))?;
        config.endpoints.s3 = endpoint("s3-endpoint", self.s3_endpoint)?;
        Ok(Worker { config: config.checked()? })
    }

    fn change(mut self, change: impl FnOnce(&mut LakeConfig) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Builtin;

    #[test]
    fn a_wrong_setting_is_named_with_its_value_and_what_is_allowed() {
        let landing = |worker: WorkerBuilder| worker.transform(Builtin::json(), "/lake");
        let trades = || Worker::builder("kinetide-trades", "trades");
        for (built, words) in [
            (landing(Worker::builder("a", "trades")).build(), "--application \"a\": must be 3 to"),
            (landing(Worker::builder("app", "a b")).build(), "--stream \"a b\""),
            (
                landing(trades().failover_time(Duration::ZERO)).build(),
                "--failover-time \"0s\": must be between",
            ),
            (landing(trades().byte_budget(1)).build(), "--byte-budget"),
            (landing(trades().leases_max(0)).build(), "--leases-max"),
            (landing(trades().http_token("short")).build(), "--http-token \"(secret)\": must be 16"),
            (landing(trades().kinesis_endpoint("localhost")).build(), "--kinesis-endpoint \"localhost\""),
            (landing(trades()).batch_age(Duration::from_secs(7200)).build(), "--batch-age \"2h\""),
            (landing(trades()).landing("../x").build(), "--landing \"../x\""),
            (landing(trades().consumer_name("a b")).build(), "--consumer-name \"a b\""),
            (landing(trades()).errors("landing/trades").build(), "--errors"),
            (trades().transform(Builtin::json(), "gs://x").build(), "--lake \"gs://x\""),
            (
                landing(trades().initial_position(InitialPosition::At(
                    SystemTime::UNIX_EPOCH + Duration::from_secs(32_503_680_000),
                )))
                .build(),
                "is in the future",
            ),
        ] {
            let refused = built.unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(landing(trades()).build().is_ok());
    }
}
