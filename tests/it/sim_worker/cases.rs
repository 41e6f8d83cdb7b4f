//! Situations that a storm seldom meets, made by hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kinetide::internals::batch::seal_object;
use kinetide::internals::checkpoint::PendingBatch;
use kinetide::internals::deliver::{Sink, memory};
use kinetide::internals::lease::memory::Faults;
use kinetide::internals::lease::{Delivered, Lease, LeaseKey, LeaseTable, LeaseWrite, Pending, WorkerId};
use kinetide::internals::shard::{Checkpoint, Position, ShardId};
use kinetide::internals::telemetry::status::ShardState;
use kinetide::internals::transform::{Builtin, Transform};
use kinetide::internals::worker::Drain;
use tokio::time::Instant;

use super::record;
use super::world::{FAILOVER, START_US, Settings, World};

pub(super) const HOUR_US: i64 = 3_600_000_000;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn transform() -> Arc<dyn Transform> {
    Arc::new(Builtin::dynamodb_cdc())
}

/// One shard, whose records change every hour, so that each has an object of its own in a batch.
pub(super) fn world(records: i64, page_records_max: usize, settings: Settings) -> World {
    let world = World::new(1, 1, page_records_max, settings);
    put(&world, records);
    world
}

pub(super) fn put(world: &World, records: i64) {
    for n in 0..records {
        world.put(0, &record("t", START_US - n * HOUR_US, r#"{"N":"1"}"#));
    }
}

pub(super) fn shard() -> ShardId {
    ShardId::new("shardId-000000000000")
}

/// The lease of [`shard`].
pub(super) fn lease() -> LeaseKey {
    shard().into()
}

pub(super) fn slow_lake(world: &World) {
    let delay = Duration::from_secs(2)..Duration::from_secs(3);
    world.outside.sink.set_faults(1, memory::Faults { delay, ..memory::Faults::default() });
}

pub(super) async fn until_prepared(world: &mut World) {
    while world.log.lock().unwrap().prepared.is_empty() {
        world.run(Duration::from_millis(10)).await;
    }
}

/// Leaves a batch that is prepared by a worker that is gone, with its objects in the lake or not.
pub(super) async fn left_pending(world: &mut World, delivered: bool) {
    slow_lake(world);
    if !delivered {
        world.outside.fail_sink(MINUTE * 10, false);
    }
    let worker = world.start_worker(&transform());
    until_prepared(world).await;
    world.outside.fail_table(MINUTE, false);
    world.run(Duration::from_secs(20)).await;
    world.crash(worker);
    world.run(MINUTE * 10).await;
    let log = world.log.lock().unwrap();
    assert!(log.rows[&lease()].pending.is_some() && log.landed.is_empty() != delivered);
}

pub(super) fn pending_objects(world: &World) -> Vec<String> {
    let log = world.log.lock().unwrap();
    let pending = log.rows[&lease()].pending.clone().unwrap();
    PendingBatch::from_pending(&pending).unwrap().unwrap().objects
}

pub(super) async fn assert_halts(world: &mut World, reason: &str) {
    let before = world.log.lock().unwrap().rows.get(&lease()).cloned();
    world.start_worker(&transform());
    world.run(FAILOVER * 4).await;
    let status = world.shard_status(&shard()).unwrap();
    assert_eq!(status.state, ShardState::Stalled("halted"));
    let error = status.last_error.unwrap();
    assert!(error.contains(reason), "{error}");
    let row = world.log.lock().unwrap().rows[&lease()].clone();
    let before = before.unwrap();
    assert_eq!((&row.checkpoint, &row.pending), (&before.checkpoint, &before.pending));
    assert!(row.owner.is_some(), "its lease is kept, or others would try in turn");
    world.drain_all().await;
    // A batch that stays pending is left to a person.
    assert_eq!(world.drains.contains(&Drain::CutShort), before.pending.is_some());
}

/// The records of a delivered batch are trimmed; later ones are there or not.
#[tokio::test(start_paused = true)]
async fn records_that_are_gone_and_delivered_are_left_behind() {
    for later in [3, 0] {
        let mut world = world(4, 10, Settings::default());
        left_pending(&mut world, true).await;
        let last = world.log.lock().unwrap().produced[&shard()][3];
        put(&world, later);
        world.stream.trim(&shard(), &last.into());
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(world.log.lock().unwrap().landed.len(), 4 + usize::try_from(later).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_are_gone_and_not_all_delivered_halt_the_shard() {
    for later in [3, 0] {
        let mut world = world(4, 10, Settings::default());
        left_pending(&mut world, false).await;
        let first = world.log.lock().unwrap().produced[&shard()][0];
        put(&world, later);
        world.stream.trim(&shard(), &first.into());
        if later == 0 {
            let last = world.log.lock().unwrap().produced[&shard()][3];
            world.stream.trim(&shard(), &last.into());
        }
        // All but one are there.
        for key in pending_objects(&world).iter().skip(1) {
            world.outside.sink.create(key, seal_object()).await.unwrap();
        }
        assert_halts(&mut world, "left the stream's retention").await;
    }
}

async fn with_pending_state(state: &[u8]) -> World {
    let world = world(4, 10, Settings::default());
    let last = world.log.lock().unwrap().produced[&shard()][2];
    let pending =
        Pending { checkpoint: Checkpoint::At(Position::new(last.into())), state: Some(Arc::from(state)) };
    let listed = world.shards().await.remove(0);
    let lease = Lease { pending: Some(pending), ..Lease::new(&listed, Checkpoint::TrimHorizon) };
    assert!(world.outside.table.create(&lease).await.unwrap());
    world
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_a_newer_format_halts_the_shard() {
    let mut world = with_pending_state(br#"{"kinetide":4,"ranges":[]}"#).await;
    assert_halts(&mut world, "run the newer version").await;
}

/// All of its objects exist, there being none: that says nothing of rows that went to Firehose.
#[tokio::test(start_paused = true)]
async fn rows_for_firehose_that_are_gone_halt_the_shard() {
    let produced = world(4, 10, Settings::default()).log.lock().unwrap().produced[&shard()].clone();
    let state = format!(
        r#"{{"kinetide":2,"first":"{}","last":"{}","transform":"t","stage":"deliver","streamed":true}}"#,
        produced[0], produced[2]
    );
    let mut world = with_pending_state(state.as_bytes()).await;
    world.stream.trim(&shard(), &produced[0].into());
    assert_halts(&mut world, "left the stream's retention").await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_understood_halts_the_shard() {
    let mut world = with_pending_state(br#"{"kinetide":1}"#).await;
    assert_halts(&mut world, "cannot be read").await;
}

/// As KCL does with a checkpoint that another application prepared.
#[tokio::test(start_paused = true)]
async fn foreign_state_goes_on_from_the_checkpoint() {
    for state in [&b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap"[..], b"", b"{\"offset\":7}"] {
        let mut world = with_pending_state(state).await;
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(world.log.lock().unwrap().landed.len(), 4);
        world.run(MINUTE).await;
        let status = world.shard_status(&shard()).unwrap();
        assert_eq!((status.batch_records, status.batch_bytes, status.in_flight_bytes), (0, 0, 0));
        assert_eq!(status.state, ShardState::Reading);
        // At the tip, as far as the last poll could tell.
        assert!(status.delivered_age_ms <= Some(21_000), "{:?}", status.delivered_age_ms);
    }
}

/// The last page of a closed shard is half in a batch when the stop comes: the rest of it is not read, so the shard
/// is not at its end.
#[tokio::test(start_paused = true)]
async fn a_stop_amid_the_last_page_is_not_the_end_of_the_shard() {
    let mut world = world(5, 10, Settings { rows_bytes_max: 1, ..Settings::default() });
    world.stream.split(&shard());
    slow_lake(&world);
    let worker = world.start_worker(&transform());
    until_prepared(&mut world).await;
    world.stop(worker);
    world.run(MINUTE).await;
    assert_eq!(world.drains, [Drain::Clean]);
    assert!(world.log.lock().unwrap().ended.is_empty());
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 5);
}

/// A batch is finished by a worker with less memory than it needs, for which nobody else would make room.
#[tokio::test(start_paused = true)]
async fn a_batch_above_the_byte_budget_is_rebuilt() {
    for version in [transform(), Arc::new(Builtin::json())] {
        let mut world = world(6, 1, Settings { objects_max: 6, ..Settings::default() });
        left_pending(&mut world, false).await;
        world.settings.byte_budget = 1 << 20;
        world.start_worker(&version);
        world.until_done(MINUTE * 10).await;
    }
}

fn named_by(world: &World, worker: usize) -> Vec<ShardId> {
    let me = Some(&world.workers[worker].id);
    let log = world.log.lock().unwrap();
    let named = |row: &&Lease| row.owner.as_ref() == me || row.checkpoint_owner.as_ref() == me;
    log.rows.values().filter(named).map(|row| row.key.shard().clone()).collect()
}

async fn until_stopped(world: &mut World) {
    while !world.all_stopped() {
        world.run(Duration::from_millis(10)).await;
    }
}

/// A stop while leases are assigned to this worker and not begun: at each moment of a start with a slow table.
#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_what_was_assigned_and_not_begun() {
    let mut met = 0;
    for shards in [1, 40] {
        for after_ms in (0..6000).step_by(400) {
            let mut world = World::new(1, shards, 10, Settings::default());
            let delay = Duration::from_millis(500)..Duration::from_millis(900);
            let faults = Faults { seed: after_ms, delay, lost_request: 0.0, lost_answer: 0.0 };
            world.outside.table.set_faults(Some(faults));
            let worker = world.start_worker(&transform());
            while named_by(&world, worker).is_empty() {
                world.run(Duration::from_millis(10)).await;
            }
            world.run(Duration::from_millis(after_ms)).await;
            let begun = world.log.lock().unwrap().rows.values().any(|row| row.counter > 1);
            met += usize::from(!begun);
            world.stop(worker);
            until_stopped(&mut world).await;
            assert_eq!(named_by(&world, worker), [], "{shards} shards, {after_ms} ms");
            assert_eq!(world.drains, [Drain::Clean], "{shards} shards, {after_ms} ms");
        }
    }
    assert!(met > 0, "the schedule is met");
}

/// What another worker is about to hand over to this one, and what it was given behind its back.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_handed_over_to_it() {
    for (handed_over, ends) in [(true, true), (true, false), (false, true)] {
        let mut world = world(4, 10, Settings::default());
        let first = world.start_worker(&transform());
        world.run(MINUTE * 2).await;
        let second = world.start_worker(&transform());
        world.run(Duration::from_secs(30)).await;
        let to = world.workers[second].id.clone();
        let row = world.log.lock().unwrap().rows[&lease()].clone();
        assert_eq!(row.owner.as_ref(), Some(&world.workers[first].id));
        if !ends {
            world.freeze(first, MINUTE);
        }
        // By hand, at the very moment of the stop.
        let write = if handed_over { LeaseWrite::HandOff(to) } else { LeaseWrite::Assign(to) };
        world.outside.table.write(&row, &write).await.unwrap();
        world.stop(second);
        while world.drains.is_empty() {
            world.run(Duration::from_millis(10)).await;
        }
        let left = named_by(&world, second);
        assert_eq!(left.is_empty(), ends);
        let expected = if ends { Drain::Clean } else { Drain::CutShort };
        assert_eq!(world.drains, [expected], "handed over {handed_over}, ends {ends}");
        world.until_done(MINUTE * 10).await;
    }
}

/// Releases that have no answer, or come late: the row says whether they have happened.
#[tokio::test(start_paused = true)]
async fn a_drain_is_clean_only_if_the_table_says_so() {
    let mut unanswered = 0;
    for seed in 0..40 {
        let mut world = World::new(seed, 6, 10, Settings::default());
        let worker = world.start_worker(&transform());
        world.run(MINUTE * 2).await;
        let delay = Duration::from_millis(10)..Duration::from_millis(300);
        let faults = Faults { seed, delay, lost_request: 0.2, lost_answer: 0.4 };
        world.outside.table.set_faults(Some(faults));
        world.stop(worker);
        until_stopped(&mut world).await;
        let clean = world.drains == [Drain::Clean];
        assert!(!clean || named_by(&world, worker).is_empty(), "seed {seed}");
        unanswered += usize::from(clean);
    }
    assert!(unanswered > 10, "{unanswered} of 40 are clean in the end");
}

/// Nothing that hangs may take longer than the budget.
#[tokio::test(start_paused = true)]
async fn a_drain_keeps_its_budget_while_the_table_hangs() {
    for (before, records, after) in [(75, 0, 0), (75, 4, 0), (75, 4, 3), (75, 4, 17), (0, 0, 9)] {
        let mut world = World::new(1, 6, 10, Settings::default());
        let worker = world.start_worker(&transform());
        world.run(Duration::from_secs(before)).await;
        put(&world, records);
        world.run(Duration::from_secs(before / 3)).await;
        world.outside.fail_table(MINUTE * 10, true);
        world.run(Duration::from_secs(after)).await;
        world.stop(worker);
        while !world.all_stopped() {
            world.run(Duration::from_millis(10)).await;
        }
    }
}

/// Nor may the lake; what is under way stays pending.
#[tokio::test(start_paused = true)]
async fn a_drain_keeps_its_budget_while_the_lake_hangs() {
    let mut world = world(4, 10, Settings::default());
    let worker = world.start_worker(&transform());
    world.run(Duration::from_secs(30)).await;
    world.outside.fail_sink(MINUTE, true);
    world.stop(worker);
    while !world.all_stopped() {
        world.run(Duration::from_millis(10)).await;
    }
    assert_eq!(world.drains, [Drain::CutShort]);
    let row = world.log.lock().unwrap().rows[&lease()].clone();
    assert!(row.pending.is_some() && row.owner.is_none(), "handed back, and not lost");
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
}

/// Retention takes the shard before its reader comes back: what was not read is lost, and what comes after it is read
/// from its oldest record.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_forgotten_unread_gives_way_to_its_children() {
    let mut world = world(4, 10, Settings::default());
    let worker = world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    world.stop(worker);
    world.run(MINUTE).await;
    put(&world, 3);
    world.stream.split(&shard());
    put(&world, 5);
    forget(&world, &shard());
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    let log = world.log.lock().unwrap();
    assert_eq!(log.landed.len(), 4 + 5, "the three are lost");
    assert!(!log.rows.contains_key(&lease()));
}

fn forget(world: &World, shard: &ShardId) {
    world.stream.forget(shard);
    world.log.lock().unwrap().forgotten.insert(shard.clone());
}

/// What was read of it before is only in the memory of its reader.
#[tokio::test(start_paused = true)]
async fn what_was_read_of_a_forgotten_shard_is_delivered() {
    let mut world = world(4, 10, Settings { batch_age_max: MINUTE * 600, ..Settings::default() });
    world.start_worker(&transform());
    world.run(MINUTE).await;
    assert_eq!(world.shard_status(&shard()).unwrap().batch_records, 4);
    // Without a page that tells of the end.
    world.stream.split(&shard());
    forget(&world, &shard());
    world.run(MINUTE).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 4);
    let status = world.shard_status(&shard()).unwrap();
    assert_eq!(status.state, ShardState::Stalled("not_found"));
    assert!(status.last_error.unwrap().contains("the leader reports what may be lost"));
    world.until_done(MINUTE * 60).await;
    world.run(MINUTE).await;
    assert!(!world.log.lock().unwrap().rows.contains_key(&lease()));
    assert!(world.shard_status(&shard()).is_none());
}

/// The pending batch of a forgotten shard: with all its objects in the lake it is committed, else a person decides.
#[tokio::test(start_paused = true)]
async fn a_pending_batch_of_a_forgotten_shard_is_committed_if_it_is_delivered() {
    for delivered in [true, false] {
        let mut world = world(4, 10, Settings::default());
        left_pending(&mut world, delivered).await;
        world.stream.split(&shard());
        forget(&world, &shard());
        if delivered {
            world.start_worker(&transform());
            world.until_done(MINUTE * 60).await;
            assert!(!world.log.lock().unwrap().rows.contains_key(&lease()));
        } else {
            assert_halts(&mut world, "left the stream's retention").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_at_a_timestamp_that_is_not_set_halts_the_shard() {
    let mut world = world(4, 10, Settings::default());
    let listed = world.shards().await.remove(0);
    assert!(world.outside.table.create(&Lease::new(&listed, Checkpoint::AtTimestamp)).await.unwrap());
    assert_halts(&mut world, "set --initial-position").await;
}

/// Its sequence numbers are above the checkpoint of the former one: nothing is read, made or deleted.
#[tokio::test(start_paused = true)]
async fn a_stream_made_anew_is_not_read_with_old_checkpoints() {
    let mut world = World::new(1, 2, 10, Settings::default());
    put(&world, 4);
    let listed = world.shards().await.remove(0);
    let former = Lease::new(&listed, Checkpoint::At(Position::new(0.into())));
    assert!(world.outside.table.create(&former).await.unwrap());
    world.start_worker(&transform());
    let refused = world.refused_start().await.to_string();
    assert!(
        refused.contains("kinetide leases delete --all") && refused.contains("another stream"),
        "{refused}"
    );
    let rows = world.outside.table.rows();
    assert_eq!(rows.len(), 1, "the other shard gets no lease");
    assert_eq!((&rows[0].checkpoint, &rows[0].pending), (&former.checkpoint, &None));
    assert!(world.log.lock().unwrap().landed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_table_ends_all_reading_and_no_process() {
    let mut world = world(4, 10, Settings::default());
    world.start_worker(&transform());
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    world.outside.table.drop_table();
    put(&world, 4);
    for minute in 0..30 {
        world.run(MINUTE).await;
        for worker in &world.workers {
            let status = worker.status.snapshot();
            assert!(
                status.healthy && !status.ready,
                "another process would make the table again: {status:?}"
            );
            // A lease that nobody is known to have taken is kept for three failover times of a minute more.
            assert!(minute < 5 || status.shards.is_empty(), "nobody can hold a lease: {status:?}");
        }
    }
    assert_eq!(world.log.lock().unwrap().landed.len(), 4);
    world.drain_all().await;
}

/// A lease is to be handed over while the lake is out of reach: its owner lets go of the unfinished batch, and the next
/// one brings it to its end.
#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_delivered_is_handed_over_unfinished() {
    let mut world = World::new(1, 2, 10, Settings::default());
    for n in 0..8 {
        let shard_by_turns = if n % 2 == 0 { 0 } else { u128::MAX };
        world.put(shard_by_turns, &record("t", START_US - n * HOUR_US, r#"{"N":"1"}"#));
    }
    world.outside.fail_sink(MINUTE * 20, false);
    world.start_worker(&transform());
    until_prepared(&mut world).await;
    world.start_worker(&transform());
    let owners = |world: &World| {
        let log = world.log.lock().unwrap();
        log.rows.values().filter_map(|row| row.actual_owner().cloned()).collect::<BTreeSet<_>>()
    };
    let start = Instant::now();
    while owners(&world).len() < 2 {
        assert!(start.elapsed() < MINUTE * 10, "nothing was handed over");
        world.run(Duration::from_secs(1)).await;
    }
    assert!(world.log.lock().unwrap().rows.values().all(|row| row.pending.is_some()));
    world.until_done(MINUTE * 40).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 8);
    world.drain_all().await;
    assert_eq!(world.drains, [Drain::Clean, Drain::Clean]);
}

/// Left by a Java worker amid an aggregate, or by a build that took all of it for one record.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_inside_an_aggregate_is_gone_on_from() {
    for (sub, whole, rest) in [(0, false, 2), (1, false, 1), (2, false, 0), (0, true, 0)] {
        let mut world = World::new(1, 1, 10, Settings::default());
        let data: Vec<String> = (0..3).map(|n| record("t", START_US - n * HOUR_US, r#"{"N":"1"}"#)).collect();
        let first = world.put_packed(0, &data).remove(0);
        put(&world, 2);
        let position = Position { sequence: first.1.into(), sub };
        let listed = world.shards().await.remove(0);
        let delivered = whole.then(|| Delivered { upto: first.1.into(), at_us: START_US });
        let lease = Lease { delivered, ..Lease::new(&listed, Checkpoint::At(position)) };
        assert!(world.outside.table.create(&lease).await.unwrap());
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(world.log.lock().unwrap().landed.len(), 2 + rest, "{sub} {whole}");
    }
}

/// As the leader of another library does: the lease of a merged child has an owner before its parents are finished.
#[tokio::test(start_paused = true)]
async fn a_merged_child_that_is_given_out_early_waits_for_both_parents() {
    for first_is_finished in [true, false] {
        let mut world = World::new(1, 2, 10, Settings { rows_bytes_max: 1, ..Settings::default() });
        let parents = [shard(), ShardId::new("shardId-000000000001")];
        let unread = &parents[usize::from(first_is_finished)];
        // The one that is finished has had no records.
        world.put(if first_is_finished { u128::MAX } else { 0 }, &record("t", START_US, r#"{"N":"1"}"#));
        let child = world.stream.merge(&parents[0], &parents[1]);
        put(&world, 2);
        for listed in world.shards().await {
            let finished = listed.id != child && listed.id != *unread;
            let start = if finished { Checkpoint::ShardEnd } else { Checkpoint::TrimHorizon };
            // Nobody renews the lease of the other parent, so that it waits for a failover.
            let owner = WorkerId::new(if listed.id == child { "worker-000" } else { "gone" });
            let lease = Lease { owner: Some(owner), ..Lease::new(&listed, start) };
            assert!(world.outside.table.create(&lease).await.unwrap());
        }
        world.start_worker(&transform());
        world.run(FAILOVER / 2).await;
        assert!(world.log.lock().unwrap().landed.is_empty(), "the child is read before {unread}");
        world.until_done(MINUTE * 20).await;
        assert_eq!(world.log.lock().unwrap().landed.len(), 3);
    }
}

/// Counted from when its first record was read, whatever came before; a full batch does not wait.
#[tokio::test(start_paused = true)]
async fn a_batch_is_closed_at_its_age() {
    let mut world = World::new(1, 1, 10, Settings::default());
    world.start_worker(&transform());
    world.run(MINUTE * 5).await;
    let age_max = world.settings.batch_age_max;
    for pause in [0, 1, 50, 170] {
        world.run(Duration::from_secs(pause)).await;
        let before = world.log.lock().unwrap().prepared.len();
        put(&world, 1);
        let put_at = Instant::now();
        while world.log.lock().unwrap().prepared.len() == before {
            world.run(Duration::from_millis(500)).await;
        }
        // Polls are at most 20 s apart.
        let age = put_at.elapsed();
        assert!(age >= age_max && age < age_max + Duration::from_secs(25), "{age:?} after {pause} s");
        world.run(MINUTE).await;
    }
    let before = world.log.lock().unwrap().landed.len();
    put(&world, 24);
    world.run(MINUTE).await;
    // Six objects to a batch, and none is left open.
    assert_eq!(world.log.lock().unwrap().landed.len(), before + 24);
}

/// The next owner would deliver it too, but only when its own batch is due.
#[tokio::test(start_paused = true)]
async fn a_hand_over_delivers_the_open_batch_first() {
    let mut world = World::new(1, 1, 10, Settings { batch_age_max: MINUTE * 600, ..Settings::default() });
    for _ in 0..2 {
        world.start_worker(&transform());
        world.run(MINUTE * 3).await;
    }
    put(&world, 4);
    world.run(MINUTE).await;
    assert_eq!(world.shard_status(&shard()).unwrap().batch_records, 4);
    let row = world.outside.table.get(&lease()).await.unwrap().unwrap();
    let ids = world.workers.iter().map(|worker| worker.id.clone());
    let next = ids.into_iter().find(|id| row.owner.as_ref() != Some(id)).unwrap();
    world.outside.table.write(&row, &LeaseWrite::HandOff(next.clone())).await.unwrap();
    let start = Instant::now();
    while world.log.lock().unwrap().rows[&lease()].actual_owner() != Some(&next) {
        assert!(start.elapsed() < MINUTE * 3, "not handed over");
        world.run(Duration::from_secs(1)).await;
    }
    assert_eq!(world.log.lock().unwrap().landed.len(), 4);
}
