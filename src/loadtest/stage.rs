//! The servers of a run: embedded or somebody else's, the streams and the lease table in them, and the proxies in front.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client as Kinesis;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use object_store::ObjectStore;
use object_store::path::Path;
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::LoadPlan;
use super::error::LoadError;
use super::faults::Service;
use super::proxy::{self, Network};
use super::reshard::{Reshard, choose};
use crate::aws::{StreamAddress, explain, sdk_config};
use crate::deliver::{self, LakeUrl};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::local::kinesis::{Fault, FaultKind};
use crate::local::{LocalAws, LocalSettings};
use crate::shard::ShardLister;
use crate::shard::kinesis::KinesisShardLister;
use crate::terminal::say;
use crate::trial::numbered;
use crate::trial::workers::WorkerEndpoints;

/// Share of the pages that the embedded Kinesis leaves empty amid chaos; the real one does so as a matter of course.
const EMPTY_PAGES: f64 = 0.1;
/// A stream that is made or changed is ready within this time.
const READY: Duration = Duration::from_secs(120);

/// Servers and what is in them.
pub(super) struct Stage {
    local: Option<LocalAws>,
    kinesis: Kinesis,
    dynamodb: aws_sdk_dynamodb::Client,
    /// Where the servers are; for the embedded ones too.
    endpoints: WorkerEndpoints,
    embedded_kinesis: bool,
    region: Option<String>,
    /// Region as the records name it.
    pub(super) region_name: String,
    /// All with shards of equal ids.
    pub(super) streams: Vec<String>,
    pub(super) application: String,
    pub(super) lake: LakeUrl,
    pub(super) network: Arc<Network>,
    proxies: JoinSet<()>,
    seed: u64,
}

impl Stage {
    /// Starts or reaches the servers and makes the streams.
    pub(super) async fn set(plan: &LoadPlan, run: &str, lake: LakeUrl) -> Result<Self, LoadError> {
        let own = &plan.endpoints;
        let local = match (&own.kinesis, &own.dynamodb) {
            (Some(_), Some(_)) => None,
            _ => {
                let mut settings =
                    LocalSettings { ttl_sweep: Duration::from_secs(3600), ..LocalSettings::default() };
                if let Some(region) = &plan.region {
                    settings.kinesis.region.clone_from(region);
                }
                if !plan.chaos.0.is_empty() {
                    let operation = "GetRecords".to_owned();
                    settings.kinesis.faults =
                        vec![Fault { operation, kind: FaultKind::Empty, rate: EMPTY_PAGES }];
                    settings.kinesis.fault_seed = plan.seed;
                }
                Some(LocalAws::start(settings).await?)
            }
        };
        let embedded = |given: &Option<String>, url: fn(&LocalAws) -> &str| {
            given.clone().or_else(|| local.as_ref().map(|local| url(local).to_owned()))
        };
        let endpoints = WorkerEndpoints {
            kinesis: embedded(&own.kinesis, LocalAws::kinesis_url),
            dynamodb: embedded(&own.dynamodb, LocalAws::dynamodb_url),
            s3: own.s3.clone(),
        };
        let region = plan.region.clone().or_else(|| local.as_ref().map(|local| local.region().to_owned()));
        let config = |endpoint: &Option<String>| {
            let (endpoint, region) = (endpoint.clone(), region.clone());
            async move { sdk_config(endpoint.as_deref(), region.as_deref()).await }
        };
        let (for_kinesis, for_dynamodb) =
            tokio::join!(config(&endpoints.kinesis), config(&endpoints.dynamodb));
        let region_name = region_of(&for_kinesis)?;
        let mut stage = Self {
            local,
            kinesis: Kinesis::new(&for_kinesis),
            dynamodb: aws_sdk_dynamodb::Client::new(&for_dynamodb),
            endpoints,
            embedded_kinesis: own.kinesis.is_none(),
            region,
            region_name,
            streams: numbered(&format!("kinetide-{run}"), plan.streams),
            application: format!("kinetide-{run}"),
            lake,
            network: Arc::default(),
            proxies: JoinSet::new(),
            seed: plan.seed,
        };
        for stream in &stage.streams {
            stage.make_stream(stream, plan.shards).await?;
        }
        // A client that tries again by itself would put records twice without telling.
        let once = aws_sdk_kinesis::config::Builder::from(&for_kinesis)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                for_kinesis
                    .timeout_config()
                    .cloned()
                    .unwrap_or_else(|| aws_config::timeout::TimeoutConfig::builder().build()),
            );
        stage.kinesis = Kinesis::from_conf(once.build());
        Ok(stage)
    }

    async fn make_stream(&self, stream: &str, shards: u32) -> Result<(), LoadError> {
        let shards = i32::try_from(shards).unwrap_or(i32::MAX);
        let made = self.kinesis.create_stream().stream_name(stream).shard_count(shards).send().await;
        made.map_err(|error| refused(stream, explain(&error)))?;
        self.ready(stream).await
    }

    /// Waits until the stream is active.
    async fn ready(&self, stream: &str) -> Result<(), LoadError> {
        let started = Instant::now();
        loop {
            let asked = self.kinesis.describe_stream_summary().stream_name(stream).send().await;
            let status = asked
                .map_err(|error| refused(stream, explain(&error)))?
                .stream_description_summary
                .map(|summary| summary.stream_status);
            if status == Some(StreamStatus::Active) {
                return Ok(());
            }
            if started.elapsed() > READY {
                return Err(refused(stream, format!("not ACTIVE within {} s", READY.as_secs())));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// A client for the streams that does not try again by itself.
    pub(super) fn kinesis(&self) -> Kinesis {
        self.kinesis.clone()
    }

    /// The lease table, not through a proxy.
    pub(super) fn leases(&self) -> DynamoDbLeaseTable {
        DynamoDbLeaseTable::new(self.dynamodb.clone(), &self.application)
    }

    /// The lake, not through a proxy, and where in it the rows are.
    pub(super) async fn lake_store(&self) -> Result<(Arc<dyn ObjectStore>, Path), LoadError> {
        let opened = deliver::open(&self.lake, self.region.as_deref(), self.endpoints.s3.as_deref());
        let sink = opened.await.map_err(|error| LoadError::server(format!("lake {}", self.lake), error))?;
        Ok((Arc::clone(sink.store()), sink.prefix().clone()))
    }

    /// The region for `--region` of workers.
    pub(super) fn region(&self) -> Option<String> {
        self.region.clone()
    }

    /// Proxies for one worker, open until `stop`, and their URLs. A server behind TLS is spoken to directly: its
    /// certificate is not for us.
    pub(super) async fn endpoints_for(
        &mut self,
        worker: &str,
        stop: &CancellationToken,
    ) -> Result<WorkerEndpoints, LoadError> {
        let mut endpoints = self.endpoints.clone();
        for (number, (service, url)) in [
            (Service::Kinesis, &mut endpoints.kinesis),
            (Service::DynamoDb, &mut endpoints.dynamodb),
            (Service::S3, &mut endpoints.s3),
        ]
        .into_iter()
        .enumerate()
        {
            let Some(url) = url.as_mut().filter(|url| url.starts_with("http://")) else { continue };
            let number = u64::try_from(number).expect("three services");
            let seed = worker
                .bytes()
                .fold(self.seed ^ number, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            let opened = proxy::open(
                Arc::clone(&self.network),
                (service, url),
                worker,
                seed,
                stop.clone(),
                &mut self.proxies,
            );
            *url = opened.await.map_err(|error| LoadError::server("proxy", error))?;
        }
        while self.proxies.try_join_next().is_some() {}
        Ok(endpoints)
    }

    /// Splits or merges shards of a stream, or changes their count; answers what was done. A stream that is still changing says no.
    pub(super) async fn reshard(
        &self,
        stream: &str,
        shards: u32,
        rng: &mut ChaCha8Rng,
    ) -> Result<String, String> {
        let listing =
            KinesisShardLister::new(self.kinesis.clone(), StreamAddress::named(stream)).list().await;
        let listing = listing.map_err(|error| error.to_string())?;
        let Some(reshard) = choose(&listing, shards, rng) else {
            return Err("there is no open shard".into());
        };
        match reshard {
            Reshard::Split(shard, key) => {
                let call = self.kinesis.split_shard().stream_name(stream).shard_to_split(shard.as_str());
                let done = call.new_starting_hash_key(key.to_string()).send().await;
                done.map(|_| format!("split {}", short(shard.as_str()))).map_err(|error| explain(&error))
            }
            Reshard::Merge(low, high) => {
                let call = self.kinesis.merge_shards().stream_name(stream).shard_to_merge(low.as_str());
                let done = call.adjacent_shard_to_merge(high.as_str()).send().await;
                let text = || format!("merged {} and {}", short(low.as_str()), short(high.as_str()));
                done.map(|_| text()).map_err(|error| explain(&error))
            }
            Reshard::Count(count) => {
                let call = self.kinesis.update_shard_count().stream_name(stream);
                let target = i32::try_from(count).unwrap_or(i32::MAX);
                let call = call.target_shard_count(target).scaling_type(ScalingType::UniformScaling);
                let done = call.send().await;
                done.map(|_| format!("changed to {count} shards")).map_err(|error| explain(&error))
            }
        }
    }

    /// Lets the embedded Kinesis forget records that arrived before a time: they are in the lake.
    pub(super) fn forget_before(&self, oldest_us: i64) {
        let Some(local) = self.local.as_ref().filter(|_| self.embedded_kinesis) else { return };
        for stream in &self.streams {
            if let Err(error) = local.kinesis().forget_before(stream, oldest_us) {
                tracing::debug!(?error, "the stream is not there");
            }
        }
    }

    /// Removes streams and lease table from somebody else's servers, and stops ours.
    pub(super) async fn strike(self) {
        for stream in self.streams.iter().filter(|_| !self.embedded_kinesis) {
            let done = self.kinesis.delete_stream().stream_name(stream).enforce_consumer_deletion(true);
            if let Err(error) = done.send().await {
                say(format!("the stream {stream} could not be deleted: {}", explain(&error)));
            }
        }
        match self.local {
            Some(local) => local.shutdown().await,
            None => {
                let done = self.dynamodb.delete_table().table_name(&self.application).send().await;
                if let Err(error) = done {
                    say(format!("the table {} could not be deleted: {}", self.application, explain(&error)));
                }
            }
        }
    }
}

fn refused(stream: &str, problem: String) -> LoadError {
    LoadError::server(format!("stream {stream}"), problem)
}

fn region_of(config: &SdkConfig) -> Result<String, LoadError> {
    let region = config.region().map(ToString::to_string);
    region.ok_or_else(|| LoadError::Wish("no AWS region: set --region or AWS_REGION".to_owned()))
}

/// The number of a shard, as people call it: `shardId-000000000007` is 7.
fn short(shard: &str) -> &str {
    let digits = shard.trim_start_matches("shardId-").trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}
