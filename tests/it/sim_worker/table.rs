//! Whole workers on the streams of a table: shards rotate, the stream is turned off and on again, leases are lost.

use kinetide::internals::shard::{Shard, ShardId};

use super::cases::{MINUTE, transform};
use super::record;
use super::world::{FAILOVER, Initial, START_US, Settings, World};

fn put(world: &World, records: i64) {
    for n in 0..records {
        world.put(0, &record("t", START_US + n * 1_000_000, r#"{"N":"1"}"#));
    }
}

async fn open(world: &World) -> ShardId {
    let open: Vec<Shard> = world.shards().await.into_iter().filter(|shard| !shard.closed).collect();
    assert_eq!(open.len(), 1);
    open[0].id.clone()
}

fn landed(world: &World) -> usize {
    world.log.lock().unwrap().landed.len()
}

/// Every four hours, with a worker that crashes now and then, so that leases go from one to the other.
#[tokio::test(start_paused = true)]
async fn shards_rotate_for_days() {
    let mut world = World::of_table(7, 10, Settings::default());
    put(&world, 25);
    let mut worker = world.start_worker(&transform());
    for round in 1..=9 {
        world.run(MINUTE * 10).await;
        let shard = open(&world).await;
        world.stream.rotate(&shard);
        put(&world, 25);
        if round % 3 == 0 {
            world.crash(worker);
            worker = world.start_worker(&transform());
        }
        world.run(MINUTE * 230).await;
    }
    world.until_done(MINUTE * 30).await;
    assert_eq!(landed(&world), 250);
    world.drain_all().await;
}

/// What is read by nobody when the stream is turned off is read all the same, and then its shards are finished.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_turned_off_and_on_again_loses_nothing() {
    for working in [true, false] {
        for initial in [Initial::TrimHorizon, Initial::Latest] {
            let mut world = World::of_table(3, 10, Settings { initial, ..Settings::default() });
            let worker = world.start_worker(&transform());
            world.run(MINUTE * 10).await;
            put(&world, 25);
            if working {
                world.run(MINUTE * 10).await;
            } else {
                world.crash(worker);
            }
            let old = open(&world).await;
            world.stream.close(&old);
            world.run(MINUTE * 30).await;
            let new = world.stream.begin();
            put(&world, 15);
            if !working {
                world.start_worker(&transform());
            }
            world.until_done(FAILOVER * 20).await;
            assert_eq!((landed(&world), open(&world).await), (40, new), "working: {working}");
            world.drain_all().await;
        }
    }
}

/// The last shard of a stream that is off, which nobody has a lease for.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_off_is_read_by_an_application_that_begins() {
    let mut world = World::of_table(5, 10, Settings::default());
    put(&world, 25);
    let old = open(&world).await;
    world.stream.close(&old);
    world.start_worker(&transform());
    world.until_done(FAILOVER * 20).await;
    assert_eq!(landed(&world), 25);
    world.drain_all().await;
}
