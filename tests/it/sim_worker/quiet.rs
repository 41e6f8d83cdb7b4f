//! Shards that are quiet for longer than the stream keeps records: what retention takes of them was read, or was not.

use std::time::Duration;

use kinetide::internals::lease::{Lease, LeaseTable, LeaseWrite};
use kinetide::internals::shard::{Checkpoint, Position};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::cases::{MINUTE, lease, put, shard, transform, world};
use super::record;
use super::world::{START_US, Settings, World};

const HOUR: Duration = Duration::from_secs(3600);

fn reported(metrics: &PrometheusHandle) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix("kinetide_checkpoints_trimmed_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

/// A record that no worker of ours will find.
fn put_unseen(world: &World) -> u128 {
    world.put_bytes(0, record("t", START_US, r#"{"N":"1"}"#).into())
}

async fn row(world: &World) -> Lease {
    world.outside.table.get(&lease()).await.unwrap().unwrap()
}

/// One record, which a worker reads; then it waits at the tip for so long and ends.
async fn quiet_for(time: Duration) -> World {
    let mut world = world(1, 10, Settings::default());
    let worker = world.start_worker(&transform());
    world.until_done(MINUTE * 10).await;
    world.run(time).await;
    end(&mut world, worker).await;
    world
}

async fn end(world: &mut World, worker: usize) {
    world.stop(worker);
    while !world.all_stopped() {
        world.run(Duration::from_secs(1)).await;
    }
}

/// Takes all that the stream has up to this record.
fn trim(world: &World, last: u128) {
    world.stream.trim(&shard(), &last.into());
}

fn last_read(world: &World) -> u128 {
    *world.log.lock().unwrap().produced[&shard()].last().unwrap()
}

/// Starts a worker and gives it time to look. Answers its number.
async fn back(world: &mut World) -> usize {
    let worker = world.start_worker(&transform());
    world.run(MINUTE * 10).await;
    worker
}

#[tokio::test(start_paused = true)]
async fn a_quiet_shard_whose_last_record_was_read_has_lost_nothing() {
    // The next record comes while nobody reads, or after somebody has looked and gone again.
    for (idle, looks_between) in [(HOUR * 25, 0), (HOUR, 2)] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _here = metrics::set_default_local_recorder(&recorder);
        let mut world = quiet_for(idle).await;
        let first = last_read(&world);
        assert_eq!(row(&world).await.caught_up.unwrap().after, first.into());
        trim(&world, first);
        for _ in 0..looks_between {
            world.run(HOUR * 20).await;
            let worker = back(&mut world).await;
            end(&mut world, worker).await;
        }
        world.run(HOUR * 20).await;
        put(&world, 1);
        back(&mut world).await;
        world.until_done(MINUTE * 10).await;
        assert_eq!(reported(&metrics), 0, "{looks_between}");
    }
}

/// Records come and go while nobody reads, for longer than the stream keeps them.
#[tokio::test(start_paused = true)]
async fn records_that_went_unread_are_reported_once() {
    for (next_is_there, ended_well) in [(true, true), (false, true), (true, false), (false, false)] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _here = metrics::set_default_local_recorder(&recorder);
        let mut world = if ended_well {
            quiet_for(HOUR).await
        } else {
            let mut world = world(1, 10, Settings::default());
            let worker = world.start_worker(&transform());
            world.until_done(MINUTE * 10).await;
            world.run(HOUR).await;
            world.crash(worker);
            world
        };
        let lost = put_unseen(&world);
        world.run(HOUR * 30).await;
        trim(&world, lost);
        if next_is_there {
            put(&world, 1);
        }
        let worker = back(&mut world).await;
        assert_eq!(reported(&metrics), 1, "{next_is_there} {ended_well}");
        end(&mut world, worker).await;
        put(&world, 1);
        back(&mut world).await;
        world.until_done(MINUTE * 10).await;
        assert_eq!(reported(&metrics), 1, "{next_is_there} {ended_well}");
    }
}

/// A worker on the Java KCL moves the checkpoint and leaves our attribute. What it says is of another checkpoint.
#[tokio::test(start_paused = true)]
async fn what_is_noted_counts_for_its_own_checkpoint_only() {
    for lost in [false, true] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _here = metrics::set_default_local_recorder(&recorder);
        let mut world = quiet_for(HOUR).await;
        let read_by_java = put_unseen(&world);
        let seen = row(&world).await;
        let checkpoint = Checkpoint::At(Position::new(read_by_java.into()));
        let seen = world.outside.table.write(&seen, &LeaseWrite::commit(checkpoint)).await.unwrap();
        assert_eq!(seen.caught_up.unwrap().after, last_read(&world).into(), "left alone");
        if lost {
            let lost = put_unseen(&world);
            world.run(HOUR * 30).await;
            trim(&world, lost);
        }
        put(&world, 1);
        back(&mut world).await;
        world.until_done(MINUTE * 10).await;
        assert_eq!(reported(&metrics), u64::from(lost));
    }
}

/// A lease that nobody of this version has held yet.
#[tokio::test(start_paused = true)]
async fn where_nothing_is_noted_a_missing_record_is_reported_when_there_is_a_later_one() {
    for later in [false, true] {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        let _here = metrics::set_default_local_recorder(&recorder);
        let mut world = world(0, 10, Settings::default());
        let read = put_unseen(&world);
        let old = Lease::new(&world.shards().await[0], Checkpoint::At(Position::new(read.into())));
        assert!(world.outside.table.create(&old).await.unwrap());
        trim(&world, read);
        if later {
            put(&world, 1);
        }
        let worker = back(&mut world).await;
        assert_eq!(reported(&metrics), u64::from(later));
        assert!(later || row(&world).await.caught_up.is_some(), "noted from now on");
        end(&mut world, worker).await;
        put(&world, 1);
        back(&mut world).await;
        world.until_done(MINUTE * 10).await;
        assert_eq!(reported(&metrics), u64::from(later));
    }
}
