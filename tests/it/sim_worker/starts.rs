//! Leases whose row does not say where reading begins, as the leader of another library makes them; and what a worker may do
//! while it cannot believe in its lease.

use std::time::Duration;

use kinetide::internals::lease::{Lease, LeaseTable};
use kinetide::internals::shard::Checkpoint;

use super::cases::{MINUTE, lease, put, shard, transform, until_prepared, world};
use super::world::{Initial, START_US, Settings, World};

async fn leased(world: &World, start: Checkpoint) {
    let listed = world.shards().await.remove(0);
    assert!(world.outside.table.create(&Lease::new(&listed, start)).await.unwrap());
}

fn landed(world: &World) -> usize {
    world.log.lock().unwrap().landed.len()
}

async fn until_pinned(world: &mut World) -> Lease {
    loop {
        let row = world.log.lock().unwrap().rows[&lease()].clone();
        if !matches!(row.checkpoint, Checkpoint::Latest | Checkpoint::AtTimestamp) {
            return row;
        }
        world.run(Duration::from_millis(10)).await;
    }
}

/// However long the first owner lives, the next one begins where it did.
#[tokio::test(start_paused = true)]
async fn latest_is_one_place_for_all_owners() {
    for seconds in [0, 1, 30, 200] {
        let mut world = world(3, 2, Settings::default());
        leased(&world, Checkpoint::Latest).await;
        let first = world.start_worker(&transform());
        let row = until_pinned(&mut world).await;
        let last = world.log.lock().unwrap().produced[&shard()][2];
        assert_eq!(row.checkpoint.position().unwrap().sequence, last.into());
        put(&world, 2);
        world.run(Duration::from_secs(seconds)).await;
        world.crash(first);
        put(&world, 2);
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(landed(&world), 4, "after {seconds} s");
    }
}

/// Nobody knows which of its records came after the lease was made.
#[tokio::test(start_paused = true)]
async fn a_shard_that_was_closed_unread_is_read_whole() {
    for after in [0, 2] {
        let mut world = world(3, 2, Settings::default());
        leased(&world, Checkpoint::Latest).await;
        put(&world, after);
        world.stream.split(&shard());
        put(&world, 1);
        world.start_worker(&transform());
        world.until_done(MINUTE * 10).await;
        assert_eq!(landed(&world), 4 + usize::try_from(after).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_time_stands_in_the_row_until_the_first_commit() {
    let us = START_US + 30_000_000;
    let settings = Settings { initial: Initial::Time(us), ..Settings::default() };
    let mut world = world(3, 2, settings);
    leased(&world, Checkpoint::AtTimestamp).await;
    world.run(MINUTE).await;
    put(&world, 2);
    world.start_worker(&transform());
    let row = until_pinned(&mut world).await;
    let last = world.log.lock().unwrap().produced[&shard()][2];
    assert_eq!((row.checkpoint.position().unwrap().sequence.clone(), row.start_us), (last.into(), Some(us)));
    world.until_done(MINUTE * 10).await;
    assert_eq!(landed(&world), 2);
    assert_eq!(world.log.lock().unwrap().rows[&lease()].start_us, None);
}

/// A request on its way could arrive when the batch was finished by another owner and its objects were moved away.
#[tokio::test(start_paused = true)]
async fn nothing_is_put_while_the_lease_has_lapsed() {
    let mut world = world(4, 10, Settings::default());
    world.outside.fail_sink(MINUTE * 4, false);
    world.start_worker(&transform());
    until_prepared(&mut world).await;
    world.outside.fail_sink(MINUTE * 2, false);
    world.outside.fail_table(MINUTE * 3, false);
    world.run(MINUTE * 3 - Duration::from_secs(1)).await;
    assert!(world.outside.sink.objects().is_empty(), "the lake takes objects again, the lease is over");
    world.until_done(MINUTE * 10).await;
    assert_eq!(landed(&world), 4);
}
