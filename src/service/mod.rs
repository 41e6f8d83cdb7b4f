//! Wires settings → clients → seams → worker, and looks first whether they can work together. The one file that
//! knows every module.

mod streams;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::streams::{Streams, Surroundings};
use crate::aws::sdk_config;
use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::config::Config;
use crate::consumer::{ConsumerSettings, Shared, StreamSetups};
use crate::deliver::{self, DeliveryStream};
use crate::fetch::{ByteBudget, FetchError};
use crate::lease::coordinator::{Coordinator, CoordinatorSettings};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::lease::{LeaseTable, TableError};
pub use crate::preflight::StartError;
use crate::preflight::{check_lake, check_table, open_firehose};
use crate::shutdown;
use crate::telemetry::cpu::CpuMeter;
use crate::telemetry::http::{self, HttpState};
use crate::telemetry::metrics::{self, Words};
use crate::telemetry::status::{Delivery, ProcessFacts, Status};
use crate::transform::ErrorCode;
use crate::worker::{self, Drain};

/// Uploads given up half-way are aborted within this time at the end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the service until a signal, and drains.
///
/// # Errors
/// When something that it needs is missing, refused or out of reach at the start.
pub async fn run(config: Config) -> Result<Drain, StartError> {
    let words =
        Words { dead_letters: &ErrorCode::ALL.map(ErrorCode::as_str), fetch_errors: &FetchError::KINDS };
    let recorder = metrics::install(&words).map_err(|error| StartError::new("metrics", error))?;
    let region = config.region.as_deref();
    let dynamodb = sdk_config(config.endpoints.dynamodb.as_deref(), region).await;
    // A stream's ARN says where the stream is, not where the lease table and the lake are.
    if dynamodb.region().is_none() {
        return Err(StartError::new("AWS region", "not set; set --region or AWS_REGION"));
    }
    let dynamodb = aws_sdk_dynamodb::Client::new(&dynamodb);
    let sink = deliver::open_to_write(&config.lake, region, config.endpoints.s3.as_deref(), &config.s3)
        .await
        .map_err(|error| StartError::new(format!("lake {}", config.lake), error))?;
    let sink = Arc::new(sink);
    let listener = TcpListener::bind(config.http).await.map_err(|error| {
        StartError::new(format!("--http {}", config.http), format!("{error}; choose another address or port"))
    })?;
    let table = DynamoDbLeaseTable::new(dynamodb.clone(), &config.application).with_failover(config.failover);
    let budget = ByteBudget::new(config.byte_budget);
    let surroundings = Surroundings {
        region: config.region.clone(),
        endpoint: config.endpoints.kinesis.clone(),
        poll_idle_max: config.poll_idle_max,
        budget: budget.clone(),
    };
    let (streams, leases, lake, firehose) = tokio::join!(
        Streams::open(config.streams.clone(), surroundings),
        check_table(&dynamodb, &config.application),
        check_lake(sink.as_ref(), &config),
        open_firehose(&config),
    );
    let streams = streams?;
    let firehose = leases.and(lake).and(firehose)?;
    // Adding the index to a large table of an older application takes a while; the log says so meanwhile.
    table.ensure_exists().await.map_err(|error| match error {
        TableError::Unusable { table, reason } => StartError::new(format!("lease table {table}"), reason),
        error => StartError::new(format!("lease table {}", config.application), chain(&error)),
    })?;

    let delivery = if firehose.is_some() { Delivery::AtLeastOnce } else { Delivery::ExactlyOnce };
    let facts = ProcessFacts {
        worker: config.worker.to_string(),
        application: config.application.clone(),
        delivery,
        warnings: warnings(&config),
    };
    let status = Status::new(facts, config.failover * 2);
    let address = listener.local_addr().map_err(|error| StartError::new("--http", error))?;
    tracing::info!(
        worker = %config.worker, application = config.application, lake = config.lake.place(),
        firehose = firehose.as_ref().map(DeliveryStream::name), http = %address, ?delivery, "started"
    );
    streams.tell(&status);

    let cpu = CpuMeter::new(config.ecs_metadata_uri.as_deref()).await;
    let coordinator = Coordinator::new(
        CoordinatorSettings {
            worker: config.worker.clone(),
            failover: config.failover,
            scan_interval: config.scan_interval,
            shard_sync_interval: config.shard_sync_interval,
            rules: config.rules,
            cpu: Arc::new(move || cpu.sample()),
            wall_clock: Arc::new(|| u64::try_from(wall_clock_us() / 1_000_000).unwrap_or(0)),
            seed: seed(),
        },
        Arc::new(table),
        streams.leases(),
    );
    let told = Arc::clone(&coordinator);
    status.fleet_from(move || told.fleet_status());
    status.watch(coordinator.troubles(), coordinator.pulse());
    let shared = Arc::new(Shared {
        streams: StreamSetups::new(streams.setups()),
        sink: Arc::clone(&sink) as _,
        firehose,
        coordinator,
        budget,
        status: Arc::clone(&status),
        settings: ConsumerSettings {
            limits: config.limits,
            batch_age_max: config.batch_age_max,
            lake: config.lake.place(),
            pending_format: config.pending_format,
            seed: seed(),
        },
    });

    let application = config.application;
    let stop = CancellationToken::new();
    let served = CancellationToken::new();
    let mut edge = JoinSet::new();
    let router = http::router(HttpState { status, metrics: recorder.clone() });
    let server_stop = served.clone();
    edge.spawn(async move {
        if let Err(error) = http::serve(listener, router, recorder, server_stop).await {
            tracing::error!(%error, "the HTTP endpoints stopped; the worker continues without them");
        }
    });
    edge.spawn(streams.follow(Arc::clone(&shared), served.clone()));
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
                TableError::NotOurs(not_ours) => {
                    let wrong_setting = not_ours.is_wrong_setting();
                    StartError::new(format!("lease table {application}"), not_ours)
                        .of_a_setting(wrong_setting)
                }
                error => StartError::new("coordinator", chain(&error)),
            })?
        }
        second = shutdown::on_signal(stop) => {
            second.map_err(|error| StartError::new("signals", error))?;
            tracing::warn!("stopped by a second signal; unfinished batches stay pending");
            Drain::CutShort
        }
    };
    if timeout(SETTLE_TIMEOUT, sink.settled()).await.is_err() {
        tracing::warn!(
            "unfinished uploads were not aborted in time; a lifecycle rule of the bucket must remove them"
        );
    }
    served.cancel();
    while edge.join_next().await.is_some() {}
    tracing::info!(?drain, "stopped");
    Ok(drain)
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
