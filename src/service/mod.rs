//! Wires settings → clients → seams → worker, and looks first whether they can work together. The one file that
//! knows every module.

mod builder;
mod cloudwatch;
mod endpoints;
mod reading;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::streams::{Streams, Surroundings, open_all, readable};
use crate::aws::sdk_config;
use crate::cause::chain;
use crate::clock::wall_clock_s;
use crate::config::{Config, LakePlace, TipWaits};
use crate::consumer::{ConsumerSettings, Lake, Shared, StreamSetups};
use crate::deliver::{DeliveryStream, Sink};
use crate::fetch::{ByteBudget, FetchError};
use crate::lease::coordinator::{Coordinator, CoordinatorSettings};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::lease::{LeaseTable, TableError};
pub use crate::preflight::StartError;
use crate::preflight::{
    self, check_lake, check_table, listen, not_our_leases, not_usable, open_firehose, open_lake,
};
use crate::report::LiveSettings;
use crate::shutdown;
use crate::telemetry::cpu::CpuMeter;
use crate::telemetry::http::Guard;
use crate::telemetry::metrics::{self, Words};
use crate::telemetry::status::{Delivery, ProcessFacts, Status};
use crate::transform::ErrorCode;
use crate::worker::{self, Drain};
pub use builder::{InitialPosition, LakeWorkerBuilder, Worker, WorkerBuilder};
#[cfg(feature = "cli")]
pub(crate) use reading::{Brokers, Reading, StreamClient};

/// Uploads given up half-way are aborted within this time at the end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a worker until a signal, and drains.
///
/// # Errors
/// When something that it needs is missing, refused or out of reach at the start.
pub async fn run(config: Config) -> Result<Drain, StartError> {
    let stop = CancellationToken::new();
    let signals = shutdown::on_signal(stop.clone());
    let at_once = async { signals.await.map_err(|error| StartError::new("signals", error)) };
    Box::pin(run_until(config, stop, at_once)).await
}

/// Runs a worker until `stop`, and drains. When `at_once` returns, it leaves what is not drained by then.
///
/// # Errors
/// As [`run`], and what `at_once` returns.
pub async fn run_until(
    config: Config,
    stop: CancellationToken,
    at_once: impl Future<Output = Result<(), StartError>>,
) -> Result<Drain, StartError> {
    let recorder = match config.http {
        Some(_) => Some(record_metrics()?),
        // A program that has a recorder of its own gets the same metrics.
        None => None,
    };
    let region = config.region.as_deref();
    let dynamodb = sdk_config(config.endpoints.dynamodb.as_deref(), region).await;
    preflight::region(&dynamodb)?;
    let dynamodb = aws_sdk_dynamodb::Client::new(&dynamodb);
    // A program's own sink is open.
    let sink = match config.lake.as_ref().map(|lake| (&lake.place, &lake.s3)) {
        Some((LakePlace::Url(url), s3)) => Some(Arc::new(open_lake(url, s3, &config).await?)),
        Some((LakePlace::Sink(..), _)) | None => None,
    };
    let listener = match config.http {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let table = DynamoDbLeaseTable::new(dynamodb.clone(), &config.application).with_failover(config.failover);
    let budget = ByteBudget::new(config.byte_budget);
    let surroundings = Surroundings {
        brokers: reading::Brokers::of(&config.endpoints),
        region: config.region.clone(),
        endpoints: config.endpoints.clone(),
        several: config.streams.several,
        application: config.application.clone(),
        tip_waits: TipWaits::new(config.lake.as_ref().map(|lake| lake.batch_age_max), config.poll_idle_max),
        kpl_out_of_range: config.kpl_out_of_range,
        budget: budget.clone(),
    };
    let (streams, leases, lake, firehose) = tokio::join!(
        open_all(&config.streams.streams, &surroundings),
        check_table(&dynamodb, &config.application),
        check_lake(sink.as_deref(), &config),
        open_firehose(&config),
    );
    let streams = readable(streams)?;
    let firehose = leases.map(drop).and(lake).and(firehose)?;
    // Adding the index to a large table of an older application takes a while; the log says so meanwhile.
    table.ensure_exists().await.map_err(|error| not_usable(&config.application, error))?;

    // A program's own processor sees again what it had not checkpointed.
    let exactly_once = config.lake.is_some() && firehose.is_none();
    let delivery = if exactly_once { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let facts = ProcessFacts {
        worker: config.worker.to_string(),
        application: config.application.clone(),
        delivery,
        warnings: warnings(&config),
    };
    let status = Status::new(facts, config.failover * 2);
    let exporter = match &config.cloudwatch {
        Some(cloudwatch) => Some(cloudwatch::exporter(cloudwatch, &config, &status).await),
        None => None,
    };
    let address = listener.as_ref().map(|(_, address)| tracing::field::display(address));
    tracing::info!(
        worker = %config.worker, application = config.application,
        lake = config.lake.as_ref().map(|lake| lake.place.name()),
        firehose = firehose.as_ref().map(DeliveryStream::name), http = address, ?delivery, "started"
    );
    let lake = config.lake.map(|lake| {
        let settings = ConsumerSettings {
            limits: lake.limits,
            batch_age_max: lake.batch_age_max,
            lake: lake.place.name(),
            pending_format: lake.pending_format,
        };
        let sink: Arc<dyn Sink> = match (lake.place, &sink) {
            (LakePlace::Sink(_, sink), _) => sink,
            (LakePlace::Url(_), opened) => Arc::clone(opened.as_ref().expect("opened above")) as _,
        };
        Arc::new(Lake { sink, firehose, settings })
    });
    let streams = Streams::new(config.streams, surroundings, streams, lake);
    streams.tell(&status);

    let table: Arc<dyn LeaseTable> = Arc::new(table);
    let cpu = CpuMeter::new(config.ecs_metadata_uri.as_deref()).await;
    let coordinator = Coordinator::new(
        CoordinatorSettings {
            worker: config.worker.clone(),
            failover: config.failover,
            scan_interval: config.scan_interval,
            shard_sync_interval: config.shard_sync_interval,
            rules: config.rules,
            cpu: Arc::new(move || cpu.sample()),
            wall_clock: Arc::new(wall_clock_s),
            seed: seed(),
        },
        Arc::clone(&table),
        streams.leases(),
    );
    let told = Arc::clone(&coordinator);
    status.fleet_from(move || told.fleet_status());
    status.watch(coordinator.troubles(), coordinator.pulse());
    // The status knows the coordinator: it is not to be kept by it.
    let counted = Arc::downgrade(&status);
    coordinator.tells_fan_out(move || counted.upgrade().map_or(0, |status| status.shards_by_fan_out()));
    let shared = Arc::new(Shared {
        streams: StreamSetups::new(streams.setups()),
        coordinator,
        budget,
        status: Arc::clone(&status),
        seed: seed(),
    });

    let application = config.application;
    let served = CancellationToken::new();
    let mut edge = JoinSet::new();
    if let (Some((listener, bound)), Some(recorder)) = (listener, recorder) {
        let guard = Guard { bound, token: config.http_token };
        let fleet = LiveSettings {
            application: application.clone(),
            failover: config.failover,
            table,
            streams: endpoints::listers(&shared),
        };
        endpoints::spawn(&mut edge, listener, recorder, status, fleet, guard, &served);
    }
    edge.spawn(streams.follow(Arc::clone(&shared), served.clone()));
    if let Some(exporter) = exporter {
        edge.spawn(exporter.run(served.clone()));
    }
    let mut parent = JoinSet::new();
    if config.stop_with_parent {
        let stop = stop.clone();
        parent.spawn(async move {
            let outcome = shutdown::parent_gone().await;
            tracing::info!(?outcome, "the parent process is gone: draining");
            stop.cancel();
        });
    }
    let drain = tokio::select! {
        drain = worker::run(shared, stop.clone(), config.shutdown_budget) => {
            drain.map_err(|error| match error {
                TableError::NotOurs(not_ours) => not_our_leases(&application, &not_ours),
                error => StartError::new("coordinator", chain(&error)),
            })?
        }
        told = at_once => {
            told?;
            tracing::warn!("stopped at once; unfinished batches stay pending");
            Drain::CutShort
        }
    };
    if let Some(sink) = sink
        && timeout(SETTLE_TIMEOUT, sink.settled()).await.is_err()
    {
        tracing::warn!(
            "unfinished uploads were not aborted in time; a lifecycle rule of the bucket must remove them"
        );
    }
    served.cancel();
    while edge.join_next().await.is_some() {}
    tracing::info!(?drain, "stopped");
    Ok(drain)
}

fn record_metrics() -> Result<PrometheusHandle, StartError> {
    let words =
        Words { dead_letters: &ErrorCode::ALL.map(ErrorCode::as_str), fetch_errors: &FetchError::KINDS };
    metrics::install(&words).map_err(|error| StartError::new("metrics", error))
}

/// What people should know of these settings, also where they look later only.
fn warnings(config: &Config) -> Vec<String> {
    let warnings = config.oddities();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    warnings
}

/// Another one for each process: two that were given one worker id must be told apart.
fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
