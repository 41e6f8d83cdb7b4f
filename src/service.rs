//! Wires settings → clients → seams → worker, and looks first whether they can work together. The one file that
//! knows every module.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_firehose::error::ProvideErrorMetadata;
use aws_sdk_firehose::types::{CompressionFormat, DeliveryStreamStatus, DeliveryStreamType};
use aws_sdk_kinesis::types::StreamStatus;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::aws::{OfStream, StreamAddress, explain, sdk_config, stream_config};
use crate::batch::Packing;
use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::config::Config;
use crate::consumer::{ConsumerSettings, Shared};
use crate::deliver::{self, DeliveryStream, LakeUrl, ObjectSink};
use crate::fetch::kinesis::KinesisSource;
use crate::fetch::{ByteBudget, FetchError, Polled, Polling, Starts};
use crate::lease::coordinator::{Coordinator, CoordinatorSettings};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::lease::{LeaseTable, RETENTION_HOURS_MIN, TableError};
use crate::shard::kinesis::KinesisShardLister;
use crate::shutdown;
use crate::telemetry::cpu::CpuMeter;
use crate::telemetry::http::{self, HttpState};
use crate::telemetry::metrics::{self, Words};
use crate::telemetry::status::{Delivery, ProcessFacts, Status};
use crate::transform::{ErrorCode, SourceKind};
use crate::worker::{self, Drain};

/// Each thing that the service needs must answer within this time at the start.
const START_TIMEOUT: Duration = Duration::from_secs(8);
/// Uploads given up half-way are aborted within this time at the end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct StartError {
    what: String,
    problem: String,
    wrong_setting: bool,
}

impl StartError {
    fn new(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { what: what.into(), problem: problem.to_string(), wrong_setting: false }
    }

    /// True when a setting is wrong, beyond doubt: the same start will never succeed.
    pub fn is_wrong_setting(&self) -> bool {
        self.wrong_setting
    }
}

/// Runs the service until a signal, and drains.
///
/// # Errors
/// When something that it needs is missing, refused or out of reach at the start.
pub async fn run(config: Config) -> Result<Drain, StartError> {
    let words =
        Words { dead_letters: &ErrorCode::ALL.map(ErrorCode::as_str), fetch_errors: &FetchError::KINDS };
    let recorder = metrics::install(&words).map_err(|error| StartError::new("metrics", error))?;
    let region = config.region.as_deref();
    let (role, endpoint) = (config.stream_role.as_ref(), config.endpoints.kinesis.as_deref());
    let kinesis = stream_config(&config.stream, role, endpoint, region).await;
    let dynamodb = sdk_config(config.endpoints.dynamodb.as_deref(), region).await;
    // A stream's ARN says where the stream is, not where the lease table and the lake are.
    if dynamodb.region().is_none() || kinesis.region().is_none() {
        return Err(StartError::new("AWS region", "not set; set --region or AWS_REGION"));
    }
    let kinesis = aws_sdk_kinesis::Client::new(&kinesis);
    let dynamodb = aws_sdk_dynamodb::Client::new(&dynamodb);
    let sink = deliver::open_to_write(&config.lake, region, config.endpoints.s3.as_deref(), &config.s3)
        .await
        .map_err(|error| StartError::new(format!("lake {}", config.lake), error))?;
    let sink = Arc::new(sink);
    let listener = TcpListener::bind(config.http).await.map_err(|error| {
        StartError::new(format!("--http {}", config.http), format!("{error}; choose another address or port"))
    })?;
    let table = DynamoDbLeaseTable::new(dynamodb.clone(), &config.application).with_failover(config.failover);
    let (stream, leases, lake, firehose) = tokio::join!(
        check_stream(&kinesis, &config.stream),
        check_table(&dynamodb, &config.application),
        check_lake(sink.as_ref(), &config),
        open_firehose(&config),
    );
    let retention_hours = stream?;
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
        stream: config.stream.name().to_owned(),
        delivery,
        warnings: warnings(&config),
    };
    let status = Status::new(facts, config.failover * 2);
    let address = listener.local_addr().map_err(|error| StartError::new("--http", error))?;
    tracing::info!(
        worker = %config.worker, application = config.application, stream = %config.stream,
        lake = config.lake.place(),
        firehose = firehose.as_ref().map(DeliveryStream::name), transform = %config.transform.id(), http = %address,
        ?delivery, "started"
    );

    let lister = Arc::new(KinesisShardLister::new(kinesis.clone(), config.stream.clone()));
    let polled: Arc<dyn Polled> = Arc::new(KinesisSource::new(kinesis, config.stream.clone()));
    let starts = Arc::new(Starts::new(Arc::clone(&polled)));
    let source = Arc::new(Polling::new(polled, config.poll_idle_max));
    let cpu = CpuMeter::new(config.ecs_metadata_uri.as_deref()).await;
    let coordinator = Coordinator::new(
        CoordinatorSettings {
            worker: config.worker.clone(),
            failover: config.failover,
            scan_interval: config.scan_interval,
            shard_sync_interval: config.shard_sync_interval,
            initial: config.initial.clone(),
            initial_timestamp_us: config.initial_timestamp_us,
            starts: Arc::clone(&starts) as _,
            rules: config.rules,
            cpu: Arc::new(move || cpu.sample()),
            wall_clock: Arc::new(|| u64::try_from(wall_clock_us() / 1_000_000).unwrap_or(0)),
            seed: seed(),
        },
        Arc::new(table),
        Arc::clone(&lister) as _,
    );
    let told = Arc::clone(&coordinator);
    status.fleet_from(move || told.fleet_status());
    status.watch(coordinator.troubles(), coordinator.pulse());
    let shared = Arc::new(Shared {
        source,
        lister,
        starts,
        sink: Arc::clone(&sink) as _,
        firehose,
        coordinator,
        budget: ByteBudget::new(config.byte_budget),
        status: Arc::clone(&status),
        settings: ConsumerSettings {
            stream: config.stream.name().to_owned(),
            source: SourceKind::Kinesis,
            layout: config.layout,
            limits: config.limits,
            batch_age_max: config.batch_age_max,
            transform: config.transform,
            lake: config.lake.place(),
            pending_format: config.pending_format,
            initial_timestamp_us: config.initial_timestamp_us,
            retention_hours,
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
                TableError::NotOurs(not_ours) => StartError {
                    wrong_setting: not_ours.is_wrong_setting(),
                    ..StartError::new(format!("lease table {application}"), not_ours)
                },
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

/// Whether the stream can be read; answers for how many hours it keeps records.
async fn check_stream(client: &aws_sdk_kinesis::Client, stream: &StreamAddress) -> Result<u32, StartError> {
    let what = || format!("stream {stream}");
    let call = client.describe_stream_summary().of(stream).send();
    let answer =
        timeout(START_TIMEOUT, call).await.map_err(|_| StartError::new(what(), out_of_reach("Kinesis")))?;
    let summary = match answer {
        Ok(answer) => answer.stream_description_summary,
        Err(error)
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            return Err(StartError::new(what(), format!("does not exist; {}", stream.check())));
        }
        Err(error) => return Err(StartError::new(what(), explain(&error))),
    };
    match summary.map(|summary| (summary.stream_status, summary.retention_period_hours)) {
        Some((StreamStatus::Active | StreamStatus::Updating, hours)) => {
            Ok(u32::try_from(hours).unwrap_or(0).max(RETENTION_HOURS_MIN))
        }
        Some((other, _)) => {
            Err(StartError::new(what(), format!("its status is {other}; start again when it is ACTIVE")))
        }
        None => Err(StartError::new(what(), "the response has no status")),
    }
}

/// Whether DynamoDB answers and lets us look. A missing table is made later.
async fn check_table(client: &aws_sdk_dynamodb::Client, table: &str) -> Result<(), StartError> {
    let what = || format!("lease table {table}");
    let call = client.describe_table().table_name(table).send();
    match timeout(START_TIMEOUT, call).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("DynamoDB"))),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error))
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            Ok(())
        }
        Ok(Err(error)) => Err(StartError::new(what(), explain(&error))),
    }
}

/// Whether the lake takes objects, and never replaces one.
async fn check_lake(sink: &ObjectSink, config: &Config) -> Result<(), StartError> {
    let what = || format!("lake {}", config.lake);
    let advice = match config.lake {
        LakeUrl::S3 { .. } => {
            "check --lake, the region, --s3-endpoint, and that the role in use may read and write there"
        }
        LakeUrl::Folder(_) => "check --lake, and that this process may read and write there",
    };
    match timeout(START_TIMEOUT, sink.probe()).await {
        Err(_) => Err(StartError::new(what(), out_of_reach("the lake"))),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let said = error.to_string();
            // A known error code comes with what to do.
            let advised = said.contains("; ");
            Err(StartError::new(what(), if advised { said } else { format!("{said}; {advice}") }))
        }
    }
}

/// What people should know of these settings, also where they look later only.
fn warnings(config: &Config) -> Vec<String> {
    let warnings = config.oddities();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    warnings
}

/// The delivery stream, where rows go to one.
async fn open_firehose(config: &Config) -> Result<Option<DeliveryStream>, StartError> {
    let Some((name, packing)) = &config.firehose else { return Ok(None) };
    let sdk = sdk_config(config.endpoints.firehose.as_deref(), config.region.as_deref()).await;
    check_firehose(&sdk, name, *packing).await?;
    Ok(Some(DeliveryStream::new(&sdk, name, *packing)))
}

/// Whether the delivery stream is there, takes our calls, and compresses as we expect. A process may be allowed to put and
/// not to look.
async fn check_firehose(
    config: &aws_config::SdkConfig,
    name: &str,
    packing: Packing,
) -> Result<(), StartError> {
    let wrong = |problem: &str| Err(StartError::new(format!("delivery stream {name}"), problem));
    let client = aws_sdk_firehose::Client::new(config);
    let call = client.describe_delivery_stream().delivery_stream_name(name).send();
    let found = match timeout(START_TIMEOUT, call).await {
        Err(_) => return wrong(&out_of_reach("Firehose")),
        Ok(Ok(answer)) => answer.delivery_stream_description,
        Ok(Err(error)) => match error.code() {
            Some("ResourceNotFoundException") => {
                return wrong("does not exist; check --firehose, --region and the account");
            }
            Some("AccessDeniedException") => {
                tracing::warn!(
                    delivery_stream = name,
                    "not checked: allow firehose:DescribeDeliveryStream in the role of this process"
                );
                return Ok(());
            }
            _ => return wrong(&explain(&error)),
        },
    };
    let Some(found) = found else {
        return wrong("the response describes no delivery stream; check the endpoint");
    };
    match &found.delivery_stream_status {
        DeliveryStreamStatus::Active => {}
        other => return wrong(&format!("its status is {other}; start again when it is ACTIVE")),
    }
    match &found.delivery_stream_type {
        DeliveryStreamType::DirectPut => {}
        other => {
            return wrong(&format!(
                "its source is {other}; use a delivery stream with the source Direct PUT"
            ));
        }
    }
    let to_s3 = found.destinations.iter().find_map(|each| each.extended_s3_destination_description.as_ref());
    match to_s3.map(|s3| &s3.compression_format) {
        Some(CompressionFormat::Uncompressed) | None => Ok(()),
        Some(_) if packing == Packing::Lines => Ok(()),
        Some(other) => wrong(&format!(
            "compresses its objects ({other}), so they would be compressed twice; set its compression to \
             UNCOMPRESSED, or use --firehose-gzip firehose"
        )),
    }
}

fn out_of_reach(service: &str) -> String {
    format!(
        "{service} did not respond within {} s; check the endpoint, the network and the region",
        START_TIMEOUT.as_secs()
    )
}

/// Another one for each process: two that were given one worker id must be told apart.
fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
