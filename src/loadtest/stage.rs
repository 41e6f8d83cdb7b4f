//! The stage of a run: the scene and the lake, and the proxies in front of them.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::LoadPlan;
use super::faults::Service;
use super::proxy::{self, Network};
use crate::deliver::{self, LakeUrl};
use crate::local::LocalSettings;
use crate::local::kinesis::{Fault, FaultKind};
use crate::trial::TrialError;
use crate::trial::scene::servers::Servers;
use crate::trial::scene::{Scene, Wanted};
use crate::trial::workers::WorkerEndpoints;

/// Share of the pages that the embedded Kinesis leaves empty amid chaos; the real one does so as a matter of course.
const EMPTY_PAGES: f64 = 0.1;

/// The scene, the lake, and what is between them and the workers.
pub(super) struct Stage {
    pub(super) scene: Scene,
    pub(super) lake: LakeUrl,
    pub(super) network: Arc<Network>,
    proxies: JoinSet<()>,
    seed: u64,
}

impl Stage {
    /// Starts or reaches the servers and makes the streams.
    pub(super) async fn set(plan: &LoadPlan, run: &str, lake: LakeUrl) -> Result<Self, TrialError> {
        let mut settings = LocalSettings {
            ttl_sweep: Duration::from_secs(3600),
            dynamodb_stream_shards: plan.shards,
            ..LocalSettings::default()
        };
        if !plan.chaos.0.is_empty() {
            let operation = "GetRecords".to_owned();
            settings.kinesis.faults = vec![Fault { operation, kind: FaultKind::Empty, rate: EMPTY_PAGES }];
            settings.kinesis.fault_seed = plan.seed;
        }
        let servers = Servers::start(settings, &plan.endpoints, plan.region.as_deref()).await?;
        let application = format!("kinetide-{run}");
        // The lease table has the name of the application.
        let tables = plan.sources.iter().all(|source| source.of_tables());
        let name = if tables { format!("{application}-trades") } else { application.clone() };
        let wanted = Wanted {
            application: &application,
            name: &name,
            sources: &plan.sources,
            count: plan.streams_of_each,
            shards: plan.shards,
            packed: plan.packed,
            tables: None,
            kafka: plan.kafka.as_ref(),
        };
        Ok(Self {
            scene: Scene::set(servers, wanted).await?,
            lake,
            network: Arc::default(),
            proxies: JoinSet::new(),
            seed: plan.seed,
        })
    }

    /// The lake, not through a proxy, and where in it the rows are.
    pub(super) async fn lake_store(&self) -> Result<(Arc<dyn ObjectStore>, Path), TrialError> {
        let s3 = self.scene.servers.endpoints.s3.as_deref();
        let opened = deliver::open(&self.lake, self.scene.servers.region.as_deref(), s3).await;
        let sink = opened.map_err(|error| TrialError::server(format!("lake {}", self.lake), error))?;
        Ok((Arc::clone(sink.store()), sink.prefix().clone()))
    }

    /// Proxies for one worker, open until `stop`, and their URLs. A server behind TLS is spoken to directly: its
    /// certificate is not for us.
    pub(super) async fn endpoints_for(
        &mut self,
        worker: &str,
        stop: &CancellationToken,
    ) -> Result<WorkerEndpoints, TrialError> {
        let mut endpoints = self.scene.servers.endpoints.clone();
        let of_tables = self.scene.streams.iter().any(|stream| stream.source().of_tables());
        for (number, (service, url)) in [
            (Service::Kinesis, &mut endpoints.kinesis),
            (Service::DynamoDb, &mut endpoints.dynamodb),
            (Service::S3, &mut endpoints.s3),
            (Service::DynamoDbStreams, &mut endpoints.dynamodb_streams),
        ]
        .into_iter()
        .enumerate()
        {
            let Some(url) = url.as_mut().filter(|url| url.starts_with("http://")) else { continue };
            if service == Service::DynamoDbStreams && !of_tables {
                continue;
            }
            let number = u64::try_from(number).expect("four services");
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
            *url = opened.await.map_err(|error| TrialError::server("proxy", error))?;
        }
        while self.proxies.try_join_next().is_some() {}
        Ok(endpoints)
    }
}
