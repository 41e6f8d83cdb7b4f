//! Uploads and the lease that they rest on.

use tokio::time::{Instant, advance, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::batch::{BatchLimits, Layout};
use crate::consumer::{ConsumerSettings, Land, Retention, Shared, StreamSetup, StreamSetups};
use crate::deliver::memory::MemorySink;
use crate::fetch::memory::MemoryStream;
use crate::fetch::{ByteBudget, Polling, Starts};
use crate::lease::coordinator::{Coordinator, CoordinatorSettings};
use crate::lease::memory::MemoryLeaseTable;
use crate::lease::plan::Rules;
use crate::lease::{HeldLease, Lease, LeaseTable, StreamLeases, StreamSet, WorkerId};
use crate::shard::ShardLister;
use crate::telemetry::status::{Delivery, ProcessFacts, ShardState, Status};
use crate::transform::{Builtin, SourceKind};

const FAILOVER: Duration = Duration::from_secs(10);

/// The hands of a worker that holds a lease, and its lake.
async fn steps() -> (Steps, Arc<MemorySink>) {
    let (table, sink) = (Arc::new(MemoryLeaseTable::new()), Arc::new(MemorySink::new()));
    let stream = Arc::new(MemoryStream::new(1, 1, |_| 0));
    let worker = WorkerId::new("me");
    let starts = Arc::new(Starts::new(Arc::clone(&stream) as _));
    let coordinator = Coordinator::new(
        CoordinatorSettings {
            worker: worker.clone(),
            failover: FAILOVER,
            scan_interval: FAILOVER,
            shard_sync_interval: FAILOVER,
            rules: Rules { leases_max: 1, kbps_max: f64::INFINITY },
            cpu: Arc::new(|| None),
            wall_clock: Arc::new(|| 0),
            seed: 1,
        },
        Arc::clone(&table) as _,
        StreamSet::One(StreamLeases {
            name: "trades".into(),
            lister: Arc::clone(&stream) as _,
            starts: Arc::clone(&starts) as _,
            initial: Checkpoint::TrimHorizon,
            initial_timestamp_us: None,
        }),
    );
    let shard = stream.list().await.unwrap().remove(0);
    let lease = Lease { owner: Some(worker.clone()), ..Lease::new(&shard, Checkpoint::TrimHorizon) };
    assert!(table.create(&lease).await.unwrap());
    let lease = HeldLease::new(table, lease, worker, Instant::now(), FAILOVER);
    let facts = ProcessFacts {
        worker: "me".into(),
        application: "app".into(),
        delivery: Delivery::ExactlyOnce,
        warnings: Vec::new(),
    };
    let status = Status::new(facts, FAILOVER);
    let settings = ConsumerSettings {
        limits: BatchLimits::default(),
        batch_age_max: FAILOVER,
        lake: "lake".into(),
        pending_format: None,
    };
    let lake = Arc::new(Lake { sink: Arc::clone(&sink) as _, firehose: None, settings });
    let work = Arc::new(Land {
        lake: Arc::clone(&lake),
        transform: Arc::new(Builtin::json()),
        layout: Layout { landing: "landing".into(), errors: "errors".into(), alerts: false },
    });
    let budget = ByteBudget::new(1 << 20);
    let setup = Arc::new(StreamSetup {
        address: "trades".into(),
        name: "trades".into(),
        kind: SourceKind::Kinesis,
        source: Arc::new(Polling::new(Arc::clone(&stream) as _, FAILOVER)),
        again: Arc::new(Polling::new(Arc::clone(&stream) as _, FAILOVER)),
        lister: stream,
        starts,
        work: Arc::clone(&work) as _,
        initial_timestamp_us: None,
        retention: Retention::default(),
        budget: budget.clone(),
        removed: CancellationToken::new(),
    });
    let context = Arc::new(BatchContext {
        stream: setup.name.clone(),
        shard: shard.id,
        source: setup.kind,
        layout: work.layout.clone(),
        limits: lake.settings.limits,
        transform: Arc::clone(&work.transform),
        packing: None,
    });
    let shared =
        Shared { streams: StreamSetups::new(vec![Arc::clone(&setup)]), coordinator, budget, status, seed: 1 };
    let row = ShardRow::new(Arc::new(shared), setup, lease);
    row.status.state(ShardState::Reading);
    (Steps::new(row, lake, context), sink)
}

/// What is put when another worker may have the lease could come after it has finished the batch, and after its objects
/// were moved on.
#[tokio::test(start_paused = true)]
async fn nothing_is_put_under_a_lease_that_may_be_over() {
    let (steps, sink) = steps().await;
    let body = Bytes::from_static(b"rows");
    let put = |key: &'static str| steps.create(1, "deliver", key, &body);
    assert_eq!(timeout(FAILOVER / 2, put("a")).await, Ok(Created::New));
    advance(FAILOVER).await;
    assert!(timeout(FAILOVER * 5, put("b")).await.is_err());
    assert_eq!(sink.objects().into_keys().collect::<Vec<_>>(), ["a"]);
}

/// Also not at a later try of one that began in time.
#[tokio::test(start_paused = true)]
async fn each_try_looks_at_the_lease_again() {
    let (steps, sink) = steps().await;
    sink.set_faults(1, crate::deliver::memory::Faults { refused: 1.0, ..Default::default() });
    let body = Bytes::from_static(b"rows");
    let mut put = Box::pin(steps.create(1, "deliver", "a", &body));
    assert!(timeout(FAILOVER, &mut put).await.is_err());
    sink.set_faults(1, Default::default());
    assert!(timeout(FAILOVER * 5, &mut put).await.is_err());
    assert!(sink.objects().is_empty());
}

/// A lake that hangs, and a lease whose renewals do, show while they do.
#[tokio::test(start_paused = true)]
async fn what_hangs_stalls_the_shard_with_its_reason() {
    let (steps, sink) = steps().await;
    let seen = || steps.row.shared.status.snapshot().shards.remove(0);
    let body = Bytes::from_static(b"rows");
    let delay = FAILOVER * 3..FAILOVER * 3 + Duration::from_secs(1);
    sink.set_faults(1, crate::deliver::memory::Faults { delay, ..Default::default() });
    let mut put = Box::pin(steps.create(1, "deliver", "a", &body));
    assert!(timeout(FAILOVER * 9 / 10, &mut put).await.is_err());
    assert_eq!((seen().state, seen().last_error), (ShardState::Reading, None));
    assert!(timeout(FAILOVER, &mut put).await.is_err());
    let stalled = seen();
    assert_eq!((stalled.state, stalled.stalled_for_ms), (ShardState::Stalled("lake"), Some(19_000)));
    let error = stalled.last_error.unwrap();
    assert!(error.starts_with("could not deliver a: no response for 19 s; "), "{error}");
    assert_eq!(put.await, Created::New);
    assert_eq!(seen().state, ShardState::Reading);
    let mut put = Box::pin(steps.create(1, "deliver", "b", &body));
    assert!(timeout(FAILOVER * 2, &mut put).await.is_err());
    assert_eq!(seen().state, ShardState::Stalled("lease_table"));
}
