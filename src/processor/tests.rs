//! Processors that behave and that do not, in whole workers, in virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::consumer::{Retention, Shared, StreamSetup, StreamSetups};
use crate::fetch::memory::MemoryStream;
use crate::fetch::{ByteBudget, OutOfRange, Polling, Starts, Unpacking};
use crate::lease::coordinator::{Coordinator, CoordinatorSettings};
use crate::lease::memory::MemoryLeaseTable;
use crate::lease::plan::Rules;
use crate::lease::{Lease, LeaseTable, LeaseWrite, StreamLeases, StreamSet, WorkerId};
use crate::produce::aggregate::Aggregate;
use crate::shard::{Position, SequenceNumber, ShardLister};
use crate::telemetry::snapshot::ShardSnapshot;
use crate::telemetry::status::{Delivery, ProcessFacts, ShardState, Status};
use crate::transform::SourceKind;
use crate::worker::{self, Drain};

const FAILOVER: Duration = Duration::from_secs(10);
const START_US: i64 = 1_768_469_400_000_000;

/// What processors did, and what they are to do.
#[derive(Default)]
struct Script {
    /// Shard, call, and the record or checkpoint that it was about.
    calls: Mutex<Vec<(String, &'static str, String)>>,
    /// What happens at the record with this text, so many times.
    at: Mutex<BTreeMap<String, (Does, u32)>>,
    forgets_the_end: AtomicBool,
    checkpoints: Mutex<Vec<Checkpointer>>,
}

#[derive(Clone, Copy)]
enum Does {
    Panic,
    Fail,
    Wait(Duration),
    /// Checkpoints at other places than it may.
    Stray,
}

struct Played {
    shard: String,
    script: Arc<Script>,
}

impl Played {
    fn note(&self, call: &'static str, what: impl Into<String>) {
        self.script.calls.lock().unwrap().push((self.shard.clone(), call, what.into()));
    }
}

#[async_trait]
impl Processor for Played {
    async fn initialize(&mut self, start: &ShardStart) -> Result<(), ProcessorError> {
        self.note("initialize", start.checkpoint.as_str());
        if let Some(pending) = &start.pending {
            self.note("pending", pending.checkpoint.as_str());
        }
        Ok(())
    }

    async fn records(
        &mut self,
        records: &Records,
        checkpointer: &Checkpointer,
    ) -> Result<(), ProcessorError> {
        self.script.checkpoints.lock().unwrap().push(checkpointer.clone());
        for record in records.iter() {
            let text = String::from_utf8(record.data().into_owned()).unwrap();
            self.note("record", text.clone());
            let does = {
                let mut at = self.script.at.lock().unwrap();
                at.get_mut(&text).filter(|(_, times)| *times > 0).map(|(does, times)| {
                    *times -= 1;
                    *does
                })
            };
            match does {
                None => {}
                Some(Does::Panic) => panic!("no way on from {text}"),
                Some(Does::Fail) => return Err(format!("refused {text}").into()),
                Some(Does::Wait(time)) => sleep(time).await,
                Some(Does::Stray) => {
                    let far = Position::new(SequenceNumber::parse("9").unwrap());
                    for position in [far, Position::new(SequenceNumber::parse(&"9".repeat(60)).unwrap())] {
                        let refused = checkpointer.checkpoint_at(&position).await.unwrap_err();
                        assert!(matches!(refused, CheckpointError::OutOfRange { .. }), "{refused}");
                    }
                    checkpointer.checkpoint_at(&record.position()).await?;
                    checkpointer.checkpoint_at(&record.position()).await?;
                }
            }
        }
        match checkpointer.checkpoint().await {
            Ok(()) => self.note("checkpoint", checkpointer.last().as_str()),
            Err(error) => self.note("refused", error.to_string()),
        }
        Ok(())
    }

    async fn shard_end(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
        self.note("shard_end", "");
        match self.script.forgets_the_end.swap(false, Ordering::Relaxed) {
            true => Ok(()),
            false => Ok(checkpointer.checkpoint().await?),
        }
    }

    async fn shutdown_requested(&mut self, _: &Checkpointer) -> Result<(), ProcessorError> {
        self.note("shutdown_requested", "");
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.note("lease_lost", "");
    }
}

struct World {
    stream: Arc<MemoryStream>,
    table: Arc<MemoryLeaseTable>,
    script: Arc<Script>,
    workers: JoinSet<Drain>,
    statuses: Vec<(Arc<Status>, CancellationToken)>,
}

impl World {
    fn new() -> Self {
        let epoch = Instant::now();
        let clock = move |at: Instant| START_US + i64::try_from((at - epoch).as_micros()).unwrap();
        Self {
            stream: Arc::new(MemoryStream::new(1, 10, clock)),
            table: Arc::new(MemoryLeaseTable::new()),
            script: Arc::default(),
            workers: JoinSet::new(),
            statuses: Vec::new(),
        }
    }

    fn start(&mut self, initial: Checkpoint) {
        let (stream, budget) = (&self.stream, ByteBudget::new(8 << 20));
        let starts = Arc::new(Starts::new(Arc::clone(stream) as _));
        let (worker, began) = (format!("w{}", self.statuses.len()), Instant::now());
        let coordinator = Coordinator::new(
            CoordinatorSettings {
                worker: WorkerId::new(worker.as_str()),
                failover: FAILOVER,
                scan_interval: Duration::from_secs(1),
                shard_sync_interval: FAILOVER,
                rules: Rules { leases_max: 100, kbps_max: f64::INFINITY },
                cpu: Arc::new(|| None),
                wall_clock: Arc::new(move || 1_768_469_400 + began.elapsed().as_secs()),
                seed: 1,
            },
            Arc::clone(&self.table) as _,
            StreamSet::One(StreamLeases {
                name: "trades".into(),
                lister: Arc::clone(stream) as _,
                starts: Arc::clone(&starts) as _,
                initial,
                initial_timestamp_us: None,
            }),
        );
        let facts = ProcessFacts {
            worker,
            application: "app".into(),
            delivery: Delivery::AtLeastOnce,
            warnings: Vec::new(),
        };
        let status = Status::new(facts, FAILOVER * 2);
        let script = Arc::clone(&self.script);
        let factory = move |shard: &ShardId| Played { shard: shard.to_string(), script: Arc::clone(&script) };
        let polling = Arc::new(Polling::new(Arc::clone(stream) as _, Duration::from_secs(1)));
        let source = Arc::new(Unpacking::new(polling, OutOfRange::Deliver));
        let setup = StreamSetup {
            address: "trades".into(),
            name: "trades".into(),
            kind: SourceKind::Kinesis,
            source: Arc::clone(&source) as _,
            again: source,
            lister: Arc::clone(stream) as _,
            starts,
            work: Arc::new(Process::new(Arc::new(factory))),
            initial_timestamp_us: None,
            retention: Retention::default(),
            budget: budget.of_stream(),
            removed: CancellationToken::new(),
        };
        let streams = StreamSetups::new(vec![Arc::new(setup)]);
        let shared = Arc::new(Shared { streams, coordinator, budget, status: Arc::clone(&status), seed: 1 });
        let stop = CancellationToken::new();
        self.statuses.push((status, stop.clone()));
        self.workers.spawn(async move { worker::run(shared, stop, FAILOVER).await.unwrap() });
    }

    fn put(&self, from: usize, to: usize) {
        for n in from..to {
            self.stream.put(0, "k", n.to_string()).unwrap();
        }
    }

    fn calls(&self, call: &str) -> Vec<String> {
        let calls = self.script.calls.lock().unwrap();
        calls.iter().filter(|(_, name, _)| *name == call).map(|(.., what)| what.clone()).collect()
    }

    fn at(&self, record: &str, does: Does, times: u32) {
        self.script.at.lock().unwrap().insert(record.to_owned(), (does, times));
    }

    fn row(&self) -> Lease {
        self.table.rows().remove(0)
    }

    fn shard(&self) -> ShardSnapshot {
        self.statuses[0].0.snapshot().shards.remove(0)
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        for _ in 0..6000 {
            if reached(self) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("not reached: {what}; {:?}", self.script.calls.lock().unwrap());
    }

    async fn last_worker_drains(self) {
        self.drains(Drain::Clean).await;
    }

    async fn drains(mut self, how: Drain) {
        self.statuses.iter().for_each(|(_, stop)| stop.cancel());
        while let Some(drain) = self.workers.join_next().await {
            assert_eq!(drain.unwrap(), how);
        }
    }
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_slow_processor_keeps_its_lease_and_holds_up_its_shard_only() {
    let mut world = World::new();
    world.put(0, 100);
    world.at("3", Does::Wait(FAILOVER * 6), 1);
    world.start(Checkpoint::TrimHorizon);
    world.until("the slow record", |world| world.calls("record").contains(&"3".to_owned())).await;
    let before = world.row();
    sleep(FAILOVER * 3).await;
    let row = world.row();
    assert_eq!((row.owner.clone(), row.checkpoint), (before.owner, before.checkpoint));
    assert!(row.counter > before.counter + 3, "renewed: {} after {}", row.counter, before.counter);
    assert_eq!(world.calls("record"), numbers(0, 4), "nothing more is given");
    let shard = world.shard();
    assert_eq!(shard.state, ShardState::Stalled("processor_slow"));
    assert!(shard.last_error.unwrap().contains("has not returned from records for 20 s"));
    world.until("the end", |world| world.calls("record").len() == 100).await;
    assert_eq!(world.calls("record"), numbers(0, 100), "each once");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.shard().state, ShardState::Reading);
    world.last_worker_drains().await;
}

#[tokio::test(start_paused = true)]
async fn a_processor_that_fails_begins_again_at_the_checkpoint_later_and_later() {
    for (does, words) in [
        (Does::Panic, "the processor panicked in records: no way on from 15"),
        (Does::Fail, "the processor failed in records: refused 15"),
    ] {
        let mut world = World::new();
        world.put(0, 40);
        world.at("15", does, 4);
        world.start(Checkpoint::TrimHorizon);
        world.until("a failure", |world| world.calls("initialize").len() == 2).await;
        let owner = world.row().owner;
        let began = Instant::now();
        world.until("the last failure", |world| world.calls("initialize").len() == 5).await;
        // 2, 4 and 8 s, less up to a quarter.
        assert!((Duration::from_secs(10)..Duration::from_secs(16)).contains(&began.elapsed()));
        assert_eq!(world.row().owner, owner, "the lease is kept");
        let end = world.stream.records()[39].1.to_string();
        world.until("the end", |world| world.row().checkpoint.as_str() == end).await;
        assert!(world.calls("lease_lost").is_empty() && world.calls("shutdown_requested").is_empty());
        // The page of the record came five times, and no other one more than once.
        let again: Vec<String> = numbers(0, 10)
            .into_iter()
            .chain((0..4).flat_map(|_| numbers(10, 16)))
            .chain(numbers(10, 40))
            .collect();
        assert_eq!(world.calls("record"), again);
        sleep(Duration::from_secs(2)).await;
        let shard = world.shard();
        assert_eq!((shard.state, shard.last_error_over), (ShardState::Reading, Some(true)));
        assert_eq!(shard.last_error.as_deref(), Some(words));
        world.last_worker_drains().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_finished_when_its_processor_says_so_and_its_children_come_then() {
    let mut world = World::new();
    world.put(0, 15);
    world.script.forgets_the_end.store(true, Ordering::Relaxed);
    world.stream.split(&ShardId::new("shardId-000000000000"));
    world.put(15, 20);
    world.start(Checkpoint::TrimHorizon);
    world.until("the end", |world| world.calls("shard_end").len() == 1).await;
    sleep(Duration::from_millis(300)).await;
    assert!(!world.row().finished());
    let shards = world.statuses[0].0.snapshot().shards;
    let shard = shards.iter().find(|shard| shard.shard.ends_with("000000000000")).unwrap();
    assert_eq!(shard.state, ShardState::Stalled("processor_failed"));
    assert!(shard.last_error.as_ref().unwrap().contains("without a successful checkpoint"), "{shard:?}");
    assert_eq!(world.calls("record"), numbers(0, 15), "no child is read");
    world.until("the children", |world| world.calls("record").contains(&"19".to_owned())).await;
    assert_eq!(world.calls("record"), numbers(0, 20), "what was checkpointed does not come again");
    assert_eq!(world.calls("shard_end").len(), 2);
    world.last_worker_drains().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_refused_once_the_lease_is_lost() {
    let mut world = World::new();
    world.put(0, 5);
    world.at("2", Does::Wait(FAILOVER), 1);
    world.start(Checkpoint::TrimHorizon);
    world.until("the record", |world| world.calls("record").contains(&"2".to_owned())).await;
    let row = world.row();
    world.table.write(&row, &LeaseWrite::Assign(WorkerId::new("other"))).await.unwrap();
    world.until("the call", |world| !world.calls("lease_lost").is_empty()).await;
    let refused = world.calls("refused");
    assert!(refused.len() == 1 && refused[0].contains("shardId-000000000000 is lost"), "{refused:?}");
    assert_eq!(world.row().checkpoint, Checkpoint::TrimHorizon);
    // The other worker does not exist, so this one gets the shard again, from its start.
    world.until("the shard", |world| world.calls("checkpoint").len() == 1).await;
    assert_eq!(world.calls("record"), [numbers(0, 5), numbers(0, 5)].concat());
    let stale = world.script.checkpoints.lock().unwrap()[0].clone();
    assert!(matches!(stale.checkpoint().await, Err(CheckpointError::LeaseLost { .. })));
    world.last_worker_drains().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_stays_within_what_was_given_and_never_moves_back() {
    let mut world = World::new();
    world.put(0, 20);
    world.at("12", Does::Stray, 1);
    world.at("15", Does::Fail, 1);
    world.start(Checkpoint::TrimHorizon);
    let all = world.stream.records();
    let last = Checkpoint::At(Position::new(all[19].1.clone()));
    world
        .until("the end", |world| world.table.rows().first().is_some_and(|row| row.checkpoint == last))
        .await;
    let (first, given) = {
        let given = world.script.checkpoints.lock().unwrap();
        (given[0].clone(), given.last().unwrap().clone())
    };
    let stale = first.checkpoint_at(&Position::new(all[12].1.clone())).await.unwrap_err();
    assert!(matches!(stale, CheckpointError::Ended { .. }), "{stale}");
    assert_eq!(world.calls("initialize").len(), 2, "one failure, that of 15");
    let back = given.checkpoint_at(&Position::new(all[18].1.clone())).await.unwrap_err();
    assert!(matches!(back, CheckpointError::OutOfRange { .. }), "{back}");
    assert_eq!(world.row().checkpoint, last);
    assert!(given.checkpoint_at(&Position::new(all[19].1.clone())).await.is_ok(), "the same again");
    world.last_worker_drains().await;
}

/// A checkpoint amid an aggregate: the next processor gets what is behind it, and a pin at LATEST is behind all of it.
#[tokio::test(start_paused = true)]
async fn records_of_an_aggregate_are_given_and_checkpointed_one_by_one() {
    let packed = |from: u32, to: u32| {
        let mut aggregate = Aggregate::default();
        (from..to).for_each(|n| aggregate.push("k", n.to_string().as_bytes()));
        aggregate.finish()
    };
    let mut world = World::new();
    let (_, sequence) = world.stream.put(0, "a", packed(0, 6)).unwrap();
    world.at("2", Does::Stray, 1);
    world.at("4", Does::Fail, 1);
    world.start(Checkpoint::TrimHorizon);
    let last = Checkpoint::At(Position { sequence, sub: 5 });
    let at_last = |world: &World| world.table.rows().first().is_some_and(|row| row.checkpoint == last);
    world.until("the end", at_last).await;
    assert_eq!(world.calls("record"), ["0", "1", "2", "3", "4", "3", "4", "5"]);
    world.last_worker_drains().await;

    let mut world = World::new();
    world.stream.put(0, "a", packed(0, 6)).unwrap();
    world.start(Checkpoint::Latest);
    world.until("a start", |world| world.calls("initialize").len() == 1).await;
    world.stream.put(0, "a", packed(6, 8)).unwrap();
    world.until("both records", |world| world.calls("record").len() >= 2).await;
    assert_eq!(world.calls("record"), ["6", "7"]);
    world.last_worker_drains().await;
}

/// What others have prepared: a Java worker, and a worker of ours that lands rows.
#[tokio::test(start_paused = true)]
async fn what_is_pending_is_shown_and_taken_off_but_a_batch_of_a_lake_is_left_alone() {
    for (state, is_lake) in [(&b"java"[..], false), (&br#"{"kinetide":999}"#[..], true)] {
        let mut world = World::new();
        world.put(0, 5);
        let third = Checkpoint::At(Position::new(world.stream.records()[2].1.clone()));
        let shard = world.stream.list().await.unwrap().remove(0);
        let pending = Some(Pending { checkpoint: third.clone(), state: Some(state.into()) });
        let row = Lease { pending, ..Lease::new(&shard, Checkpoint::TrimHorizon) };
        assert!(world.table.create(&row).await.unwrap());
        world.start(Checkpoint::TrimHorizon);
        if is_lake {
            let says = |world: &World| {
                let shards = world.statuses[0].0.snapshot().shards;
                shards.iter().any(|shard| shard.stalled_reason() == Some("processor_failed"))
            };
            world.until("a failure", says).await;
            assert!(world.shard().last_error.unwrap().contains("an application name of its own"));
            assert_eq!((world.row().pending, world.calls("record").len()), (row.pending, 0));
            // The batch is still to be completed.
            world.drains(Drain::CutShort).await;
        } else {
            world.until("a checkpoint", |world| world.calls("checkpoint").len() == 1).await;
            assert_eq!(world.calls("pending"), [third.as_str()]);
            assert_eq!(world.calls("record"), numbers(0, 5), "from the checkpoint");
            assert_eq!(world.row().pending, None);
            world.last_worker_drains().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latest_is_a_position_before_the_processor_begins() {
    let mut world = World::new();
    world.put(0, 5);
    sleep(Duration::from_secs(60)).await;
    world.start(Checkpoint::Latest);
    world.until("the start", |world| world.calls("initialize").len() == 1).await;
    let last = world.stream.records()[4].1.to_string();
    assert_eq!(world.calls("initialize"), [last.as_str()]);
    world.put(5, 8);
    world.until("the records", |world| world.calls("record").len() == 3).await;
    assert_eq!(world.calls("record"), numbers(5, 8));
    world.last_worker_drains().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_goes_to_another_worker_has_one_processor_at_a_time() {
    let mut world = World::new();
    world.stream.split(&ShardId::new("shardId-000000000000"));
    world.start(Checkpoint::TrimHorizon);
    world.until("both children", |world| world.calls("initialize").len() == 3).await;
    world.start(Checkpoint::TrimHorizon);
    world.until("a hand-off", |world| world.calls("initialize").len() == 4).await;
    let calls = world.script.calls.lock().unwrap().clone();
    let [.., asked, begun] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((asked.1, begun.1, &asked.0), ("shutdown_requested", "initialize", &begun.0));
    world.put(0, 3);
    world.until("the records", |world| world.calls("record").len() == 3).await;
    world.last_worker_drains().await;
}
