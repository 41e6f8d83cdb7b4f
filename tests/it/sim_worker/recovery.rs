//! Pending batches that are built again: records that leave the stream meanwhile, a lake that holds any part of the batch,
//! objects that cannot be read, shards that halt and go on.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use kinetide::internals::deliver::Sink;
use kinetide::internals::fetch::memory;
use kinetide::internals::lease::{Lease, LeaseTable, LeaseWrite, Pending};
use kinetide::internals::shard::{Checkpoint, Position};
use kinetide::internals::telemetry::status::ShardState;
use kinetide::internals::transform::{Builtin, Transform};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cases::{
    HOUR_US, MINUTE, assert_halts, lease, left_pending, pending_objects, put, shard, transform, world,
};
use super::record;
use super::world::{FAILOVER, START_US, Settings, World, transforms};

fn sequence(world: &World, index: usize) -> u128 {
    world.log.lock().unwrap().produced[&shard()][index]
}

async fn until_recovering(world: &mut World) {
    while world.shard_status(&shard()).map(|status| status.state) != Some(ShardState::Recovering) {
        world.run(Duration::from_millis(50)).await;
    }
}

/// Retention takes `trimmed` records, some of them not read yet, while a batch of ten is being read again one by one.
async fn trimmed_in_mid_rebuild(trimmed: usize, later: i64) -> World {
    let mut world = world(10, 1, Settings { objects_max: 64, ..Settings::default() });
    left_pending(&mut world, false).await;
    put(&world, later);
    // A call takes about a second, so that there is time between two pages.
    world
        .stream
        .set_faults(3, memory::Faults { delay_max: Duration::from_secs(2), ..memory::Faults::default() });
    world.start_worker(&transform());
    until_recovering(&mut world).await;
    world.run(Duration::from_secs(4)).await;
    let state = world.shard_status(&shard()).unwrap().state;
    assert_eq!(state, ShardState::Recovering, "amid the rebuild");
    let last = sequence(&world, trimmed - 1);
    world.stream.trim(&shard(), &last.into());
    world
}

/// The batch with a hole is neither delivered nor committed.
#[tokio::test(start_paused = true)]
async fn records_that_go_while_they_are_read_halt_the_shard() {
    for (trimmed, later) in [(7, 0), (7, 3), (10, 0), (12, 3)] {
        let mut world = trimmed_in_mid_rebuild(trimmed, later).await;
        assert_halts(&mut world, "left the stream's retention").await;
        assert!(world.log.lock().unwrap().landed.is_empty());
    }
}

/// Whether a record went before it was read or after cannot be told when the first is gone, unless all is in one page.
#[tokio::test(start_paused = true)]
async fn a_batch_of_one_page_needs_no_second_look() {
    let mut world = world(10, 10, Settings { objects_max: 64, ..Settings::default() });
    left_pending(&mut world, false).await;
    world.outside.fail_sink(MINUTE * 5, false);
    world.start_worker(&transform());
    until_recovering(&mut world).await;
    world.run(Duration::from_secs(30)).await;
    let first = sequence(&world, 0);
    world.stream.trim(&shard(), &first.into());
    world.until_done(MINUTE * 10).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 10);
}

/// Wherever retention takes it, a rebuild is whole or it halts: the log would see a checkpoint above a record that is not
/// in the lake.
#[tokio::test(start_paused = true)]
async fn a_rebuild_is_whole_or_halts_whenever_records_go() {
    let (mut whole, mut halted) = (0, 0);
    for seed in 0..32 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let records = rng.random_range(1..9);
        let settings = Settings { objects_max: 64, ..Settings::default() };
        let mut world = world(records, rng.random_range(1..4), settings);
        left_pending(&mut world, false).await;
        let delay_max = Duration::from_secs(2);
        world.stream.set_faults(seed, memory::Faults { delay_max, empty: 0.2, ..memory::Faults::default() });
        world.start_worker(&transforms()[rng.random_range(0..4)]);
        until_recovering(&mut world).await;
        world.run(Duration::from_millis(rng.random_range(0..30_000))).await;
        put(&world, rng.random_range(0..3));
        let trimmed = sequence(&world, rng.random_range(0..usize::try_from(records).unwrap()));
        world.stream.trim(&shard(), &trimmed.into());
        world.run(MINUTE * 10).await;
        let row = world.log.lock().unwrap().rows[&lease()].clone();
        let state = world.shard_status(&shard()).unwrap().state;
        match row.pending {
            None => whole += 1,
            Some(_) => {
                assert_eq!(state, ShardState::Stalled("halted"), "seed {seed}: {row:?}");
                halted += 1;
            }
        }
    }
    assert!(whole > 3 && halted > 3, "{whole} whole, {halted} halted");
}

/// Kinesis gives pages without records before the tip at any time: the records are there.
#[tokio::test(start_paused = true)]
async fn empty_pages_before_the_tip_are_no_sign_of_lost_records() {
    for seed in 0..8 {
        let mut world = world(6, 2, Settings::default());
        left_pending(&mut world, false).await;
        world.stream.set_faults(seed, memory::Faults { empty: 0.7, ..memory::Faults::default() });
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(world.log.lock().unwrap().landed.len(), 6);
    }
}

/// The stream does not know the shard for a while, and a person need not come for that.
#[tokio::test(start_paused = true)]
async fn a_shard_that_halted_goes_on_when_its_cause_has_passed() {
    let mut world = world(4, 10, Settings::default());
    left_pending(&mut world, false).await;
    world.outside.forget_stream(MINUTE * 3);
    let worker = world.start_worker(&transform());
    world.run(MINUTE * 2).await;
    let status = world.shard_status(&shard()).unwrap();
    assert_eq!(status.state, ShardState::Stalled("halted"));
    assert!(status.last_error.unwrap().contains("left the stream's retention"));
    assert!(status.state_for_ms > 20_000, "the looks in between change nothing: {}", status.state_for_ms);
    world.until_done(MINUTE * 10).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 4);
    assert_eq!(world.shard_status(&shard()).unwrap().state, ShardState::Reading);
    assert!(world.working().contains(&worker), "without a restart");
}

/// Somebody brings the objects of a batch whose records are gone.
#[tokio::test(start_paused = true)]
async fn a_shard_that_halted_goes_on_when_its_objects_are_there() {
    let mut world = world(4, 10, Settings::default());
    left_pending(&mut world, false).await;
    let (last, first) = (sequence(&world, 3), sequence(&world, 0));
    let made = {
        let again = World::over(1, Arc::clone(&world.stream), Settings::default());
        made_by(again, &transform()).await
    };
    assert!(first < last);
    world.stream.trim(&shard(), &last.into());
    world.start_worker(&transform());
    world.run(MINUTE * 3).await;
    assert_eq!(world.shard_status(&shard()).unwrap().state, ShardState::Stalled("halted"));
    for key in pending_objects(&world) {
        world.outside.sink.create(&key, made.objects[&key].clone()).await.unwrap();
    }
    world.until_done(MINUTE * 20).await;
    assert_eq!(world.log.lock().unwrap().landed.len(), 4);
}

/// Looks come at growing intervals: a shard that stays halted costs next to nothing.
#[tokio::test(start_paused = true)]
async fn a_halted_shard_looks_less_and_less_often() {
    let mut world = world(4, 10, Settings::default());
    left_pending(&mut world, false).await;
    let last = sequence(&world, 3);
    world.stream.trim(&shard(), &last.into());
    world.start_worker(&transform());
    world.run(MINUTE * 10).await;
    let looks = |world: &World| world.outside.sink_looks();
    let early = looks(&world);
    world.run(MINUTE * 60).await;
    let later = looks(&world) - early;
    assert!(
        early >= 4 && (10..=20).contains(&later),
        "{early} looks in ten minutes, {later} in the next hour"
    );
}

/// A batch is delivered and not committed when a Java worker checkpoints amid it and gives the lease back, or somebody sets
/// the checkpoint to where it is.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_pending_any_more_is_not_delivered_twice() {
    for (amid, later, next) in [(false, 0, 2), (false, 5, 2), (true, 0, 2), (true, 5, 2), (true, 5, 3)] {
        let mut world = world(4, 10, Settings::default());
        left_pending(&mut world, true).await;
        let seen = world.log.lock().unwrap().rows[&lease()].clone();
        let inside = Checkpoint::At(Position::new(sequence(&world, 1).into()));
        let checkpoint = if amid { inside } else { seen.checkpoint.clone() };
        let row = world.outside.table.write(&seen, &LeaseWrite::commit(checkpoint)).await.unwrap();
        assert!(row.pending.is_none() && row.last_prepared.is_some());
        put(&world, later);
        world.start_worker(&transforms()[next]);
        world.until_done(MINUTE * 10).await;
        // The log has looked for rows that are there twice.
        assert_eq!(world.log.lock().unwrap().landed.len(), 4 + usize::try_from(later).unwrap());
        assert_eq!(world.log.lock().unwrap().rows[&lease()].last_prepared, None);
    }
}

/// A Java worker has taken records amid a pending batch to where its application takes them.
#[tokio::test(start_paused = true)]
async fn what_java_has_done_of_a_batch_is_not_delivered_again() {
    for next in &transforms() {
        let mut world = world(4, 10, Settings::default());
        left_pending(&mut world, false).await;
        let done: Vec<u128> = (0..2).map(|index| sequence(&world, index)).collect();
        let landed = done.iter().map(|at| ((shard(), *at), "java".to_owned()));
        world.log.lock().unwrap().landed.extend(landed);
        let seen = world.log.lock().unwrap().rows[&lease()].clone();
        let checkpoint = Checkpoint::At(Position::new(done[1].into()));
        world.outside.table.write(&seen, &LeaseWrite::commit(checkpoint)).await.unwrap();
        world.start_worker(next);
        world.until_done(MINUTE * 10).await;
        // The log has looked for records that are there twice.
        assert_eq!(world.log.lock().unwrap().landed.len(), 4);
    }
}

/// A fleet that dies while the lake takes nothing leaves a batch in every shard. Who comes after it has less memory than
/// they take together, and some of them take most of it alone.
#[tokio::test(start_paused = true)]
async fn forty_pending_batches_are_rebuilt_within_a_small_budget() {
    const SHARDS: usize = 40;
    const RECORD: usize = 128 << 10;
    const BUDGET: usize = 20 << 20;
    let settings = Settings {
        rows_bytes_max: 1 << 30,
        objects_max: 64,
        byte_budget: 1 << 30,
        batch_age_max: MINUTE,
        ..Settings::default()
    };
    let mut world = World::new(1, SHARDS, 5, settings);
    // gzip looks back for 32 KiB: to it the same text is new each time.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let text: String = (0..RECORD).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    for shard in 0..SHARDS as u128 {
        for n in 0..if shard % 16 == 3 { 120 } else { 2 } {
            world.put(u128::MAX / SHARDS as u128 * shard + 1, &format!(r#"{{"n":{n},"text":"{text}"}}"#));
        }
    }
    world.outside.fail_sink(MINUTE * 60, false);
    let first = world.start_worker(&(Arc::new(Builtin::json()) as _));
    while world.log.lock().unwrap().prepared.len() < SHARDS {
        world.run(MINUTE).await;
    }
    world.crash(first);
    world.settings.byte_budget = BUDGET;
    let delay_max = Duration::from_secs(1);
    world.stream.set_faults(1, memory::Faults { delay_max, empty: 0.1, ..memory::Faults::default() });
    let next = world.start_worker(&(Arc::new(Builtin::json()) as _));
    let mut most = 0;
    while let Some(rest) = world.unfinished().await {
        assert!(world.elapsed() < MINUTE * 180, "{rest}");
        // More often than a call takes.
        for _ in 0..40 {
            world.run(Duration::from_millis(50)).await;
            let held = world.workers[next].budget.in_use();
            assert!(held <= BUDGET, "{held} bytes of {BUDGET} after {:?}", world.elapsed());
            most = most.max(held);
        }
    }
    assert!(most > BUDGET / 2, "{most} bytes: the budget was no limit");
    let produced: usize = world.log.lock().unwrap().produced.values().map(Vec::len).sum();
    assert_eq!(world.log.lock().unwrap().landed.len(), produced);
}

/// The task that reads a shard is gone: whoever uses the library learns of it, instead of waiting for ever.
#[tokio::test(start_paused = true)]
async fn a_panic_of_a_reader_ends_its_consumer() {
    for pending in [false, true] {
        let mut world = world(4, 1, Settings::default());
        if pending {
            left_pending(&mut world, false).await;
        }
        world.start_worker(&transform());
        world.outside.reader_panics.store(true, std::sync::atomic::Ordering::Relaxed);
        let ended = AssertUnwindSafe(world.run(MINUTE * 5)).catch_unwind().await;
        let panic = ended.expect_err("the panic goes through the worker");
        assert!(panic.downcast_ref::<&str>().is_some_and(|text| text.contains("the source is broken")));
    }
}

/// The first batch that a transform prepares, and its objects.
struct Made {
    pending: Pending,
    objects: BTreeMap<String, Bytes>,
}

async fn made_by(mut world: World, transform: &Arc<dyn Transform>) -> Made {
    let produced: Vec<u128> =
        world.stream.records().iter().map(|(_, n, _)| n.as_str().parse().unwrap()).collect();
    world.log.lock().unwrap().produced.insert(shard(), produced);
    world.start_worker(transform);
    world.until_done(MINUTE * 10).await;
    world.drain_all().await;
    let pending = world.log.lock().unwrap().prepared[0].pending.clone().unwrap();
    let objects = world.outside.sink.objects();
    Made { pending, objects }
}

/// Rows of two hours, and records that are dead letters of every transform or of some.
fn mixed() -> World {
    let world = World::new(1, 1, 4, Settings { objects_max: 64, ..Settings::default() });
    for n in 0..9i64 {
        let data = match n % 4 {
            0 => record(&format!("t-{n}"), START_US, r#"{"N":"1"}"#),
            1 => record(&format!("t-{n}"), START_US - HOUR_US, r#"{"N":"1"}"#),
            2 => record(&format!("t-{n}"), START_US, r#"{"S":"dear"}"#),
            _ => format!("t-{n} is not json"),
        };
        world.put(0, &data);
    }
    world
}

/// A world whose row has the batch pending, and whose lake holds these of its objects.
async fn with_objects(made: &Made, world: &World, there: impl Fn(usize) -> bool) -> World {
    let copy = World::over(2, Arc::clone(&world.stream), world.settings);
    let produced = world.log.lock().unwrap().produced.clone();
    copy.log.lock().unwrap().produced = produced;
    let listed = copy.shards().await.remove(0);
    let lease = Lease { pending: Some(made.pending.clone()), ..Lease::new(&listed, Checkpoint::TrimHorizon) };
    assert!(copy.outside.table.create(&lease).await.unwrap());
    for (_, (key, body)) in made.objects.iter().enumerate().filter(|(index, _)| there(*index)) {
        copy.outside.sink.create(key, body.clone()).await.unwrap();
    }
    copy
}

/// Any part of a batch may be in the lake, dead letters too, and any build may come next.
#[tokio::test(start_paused = true)]
async fn whatever_part_of_a_batch_is_in_the_lake_each_record_lands_once() {
    for old in &transforms() {
        let stage = mixed();
        let made = made_by(World::over(1, Arc::clone(&stage.stream), stage.settings), old).await;
        let folders: BTreeSet<_> = made.objects.keys().map(|key| key.split('/').next().unwrap()).collect();
        assert!(made.objects.len() >= 2 && folders.len() == 2, "rows and dead letters: {folders:?}");
        for new in &transforms() {
            for subset in 0..1usize << made.objects.len() {
                let mut world = with_objects(&made, &stage, |index| subset >> index & 1 == 1).await;
                world.start_worker(new);
                world.until_done(MINUTE * 10).await;
                // The log has looked at each object for records that are there already.
                assert_eq!(world.log.lock().unwrap().landed.len(), 9, "{} {} {subset:b}", old.id(), new.id());
            }
        }
    }
}

/// Its records are gone: only with all of its objects in the lake the shard goes on.
#[tokio::test(start_paused = true)]
async fn records_that_are_gone_need_every_object() {
    let stage = mixed();
    let made = made_by(World::over(1, Arc::clone(&stage.stream), stage.settings), &transform()).await;
    let last = sequence(&stage, 8);
    stage.stream.trim(&shard(), &last.into());
    let all = (1usize << made.objects.len()) - 1;
    for new in &transforms() {
        for subset in 0..=all {
            let mut world = with_objects(&made, &stage, |index| subset >> index & 1 == 1).await;
            world.start_worker(new);
            world.run(FAILOVER * 4).await;
            let row = world.log.lock().unwrap().rows[&lease()].clone();
            let whole = subset == all;
            assert_eq!(row.pending.is_none(), whole, "{} {subset:b}: {row:?}", new.id());
            let halted = world.shard_status(&shard()).unwrap().state == ShardState::Stalled("halted");
            assert_eq!(halted, !whole);
        }
    }
}

/// An object that cannot be read may hold any of the rows.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let stage = mixed();
    let made = made_by(World::over(1, Arc::clone(&stage.stream), stage.settings), &transform()).await;
    for (broken, body) in &made.objects {
        let whole = |key: &String| key != broken;
        let kept: Vec<bool> = made.objects.keys().map(whole).collect();
        for spoiled in
            [body.slice(..body.len() / 2), Bytes::from_static(b"{\"sequence_number\":1}"), Bytes::new()]
        {
            let mut world = with_objects(&made, &stage, |index| kept[index]).await;
            world.outside.put_unseen(broken, spoiled).await;
            let before = world.outside.sink.objects();
            world.start_worker(&(Arc::new(Builtin::json()) as _));
            world.run(FAILOVER * 5).await;
            let status = world.shard_status(&shard()).unwrap();
            assert_eq!(status.state, ShardState::Stalled("unreadable_object"), "{broken}");
            assert!(status.last_error.unwrap().contains(broken.as_str()));
            assert_eq!(world.outside.sink.objects(), before, "nothing new is written");
            let row = world.log.lock().unwrap().rows[&lease()].clone();
            assert!(row.pending.is_some() && row.checkpoint == Checkpoint::TrimHorizon);
        }
    }
}
