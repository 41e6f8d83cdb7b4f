//! Enhanced fan-out among whole workers: who has the subscription of a shard, and what is done where there can be none.

use std::time::Duration;

use kinetide::internals::fetch::Retrieval;

use super::cases::{MINUTE, put, shard, transform, world};
use super::world::{FAILOVER, Settings, World};

fn by_fan_out() -> Settings {
    Settings { retrieval: Retrieval::FanOut, ..Settings::default() }
}

/// That none is there twice is seen when it lands.
fn assert_each_once(world: &World, records: usize) {
    assert_eq!(world.log.lock().unwrap().landed.len(), records);
}

fn retrieval(world: &World) -> Option<Retrieval> {
    world.shard_status(&shard()).and_then(|status| status.retrieval)
}

/// A process that wakes up after its lease has gone closes its subscription: nobody is driven away again and again.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_closes_the_subscription() {
    let mut world = world(3, 10, by_fan_out());
    let former = world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    assert_eq!(world.outside.seats.open(), 1);
    world.freeze(former, FAILOVER * 5);
    world.start_worker(&transform());
    world.run(FAILOVER * 3).await;
    put(&world, 3);
    world.until_done(MINUTE * 10).await;
    world.run(FAILOVER * 5).await;
    assert_eq!(world.outside.seats.open(), 1);
    let before = world.outside.seats.counts();
    put(&world, 3);
    world.run(MINUTE * 20).await;
    let (subscribed, refused) = world.outside.seats.counts();
    assert!(
        subscribed - before.0 <= 5 && refused == before.1,
        "renewals, and no fight: {before:?}, {subscribed}"
    );
    world.until_done(MINUTE * 10).await;
    world.drain_all().await;
    assert_eq!(world.outside.seats.open(), 0);
    assert_each_once(&world, 9);
}

#[tokio::test(start_paused = true)]
async fn a_shard_goes_from_worker_to_worker_without_a_gap() {
    let mut world = world(3, 10, by_fan_out());
    let first = world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    for _ in 0..3 {
        put(&world, 4);
        let worker = world.working()[0];
        world.start_worker(&transform());
        world.run(Duration::from_secs(30)).await;
        world.stop(worker);
        world.until_done(MINUTE * 10).await;
    }
    assert!(!world.working().contains(&first));
    world.drain_all().await;
    assert_eq!(world.outside.seats.open(), 0);
    assert_each_once(&world, 15);
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_split_and_of_a_merge_are_subscribed_to() {
    let mut world = world(5, 10, by_fan_out());
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    put(&world, 20);
    let [lower, upper] = world.stream.split(&shard());
    put(&world, 5);
    world.until_done(MINUTE * 20).await;
    assert_eq!(world.outside.seats.open(), 2, "of the children, and none of the parent");
    world.stream.merge(&lower, &upper);
    put(&world, 5);
    world.until_done(MINUTE * 20).await;
    assert_eq!(world.outside.seats.open(), 1);
    world.drain_all().await;
    assert_each_once(&world, 35);
}

/// A batch of a former owner is read again by polling: a subscription for it would drive away the reader's own.
#[tokio::test(start_paused = true)]
async fn what_is_read_again_takes_no_subscription() {
    let mut world = world(4, 10, by_fan_out());
    super::cases::left_pending(&mut world, false).await;
    let before = world.outside.seats.counts();
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    assert_eq!(world.outside.seats.counts(), (before.0 + 1, before.1), "that of the reader");
    world.drain_all().await;
    assert_each_once(&world, 4);
}

#[tokio::test(start_paused = true)]
async fn the_status_says_how_a_shard_is_read() {
    let mut world = world(3, 10, by_fan_out());
    world.outside.seats.set_no_consumer(Some("no place is left"));
    world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    assert_eq!((retrieval(&world), world.outside.seats.open()), (Some(Retrieval::Polling), 0));
    world.outside.seats.set_no_consumer(None);
    put(&world, 3);
    world.run(MINUTE * 3).await;
    assert_eq!((retrieval(&world), world.outside.seats.open()), (Some(Retrieval::FanOut), 1));
    world.until_done(MINUTE * 10).await;
    world.drain_all().await;
    assert_each_once(&world, 6);
}
