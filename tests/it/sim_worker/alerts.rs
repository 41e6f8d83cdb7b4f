//! Copies of rows: whatever is in the lake of a batch that somebody else prepared, and whoever finishes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kinetide::internals::batch::{HIGH_RISK_ALERTS, read_records, seal_object};
use kinetide::internals::checkpoint::PendingFormat;
use kinetide::internals::lease::Pending;
use kinetide::internals::transform::Transform;

use super::proof::{FORMATS, found, shard, subsets, world};
use super::verify::{read_alerts, read_back};
use super::world::{World, all_transforms, transforms};

const MINUTE: Duration = Duration::from_secs(60);

/// The version for which every row is of high risk.
fn maker() -> Arc<dyn Transform> {
    Arc::clone(&transforms()[1])
}

fn is_copy(key: &str) -> bool {
    key.starts_with(HIGH_RISK_ALERTS)
}

fn copies(world: &World) -> Vec<String> {
    world.outside.sink.objects().into_keys().filter(|key| is_copy(key)).collect()
}

/// The batch as a worker with alerts prepares it, and its objects, copies included.
async fn prepared(format: PendingFormat) -> (Pending, BTreeMap<String, Bytes>) {
    let (mut world, _) = world(format);
    world.settings.alerts = true;
    world.start_worker(&maker());
    world.until_done(MINUTE * 20).await;
    let pending = world.log.lock().unwrap().prepared[0].pending.clone().unwrap();
    (pending, world.outside.sink.objects())
}

/// What may be there when a worker dies: a copy comes after the object that it is of.
fn left(objects: &BTreeMap<String, Bytes>) -> impl Iterator<Item = BTreeMap<String, Bytes>> + '_ {
    subsets(objects).filter(|there| {
        let of = |key: &String| there.contains_key(&key.replace(HIGH_RISK_ALERTS, "landing"));
        there.keys().filter(|key| is_copy(key)).all(of)
    })
}

/// The worker dies at any moment. Who finishes its batch with alerts brings all copies, of rows that itself would not flag
/// too; who finishes it without brings none, and harms none.
#[tokio::test(start_paused = true)]
async fn any_part_of_a_batch_gets_its_copies_from_whoever_finishes_it() {
    let mut runs = 0;
    for format in FORMATS {
        let (pending, objects) = prepared(format).await;
        assert_eq!(objects.keys().filter(|key| is_copy(key)).count(), 3, "{:?}", objects.keys());
        for finisher in all_transforms() {
            for there in left(&objects) {
                let (mut world, produced) = found(&pending, &there, FORMATS[runs % 2]).await;
                world.settings.alerts = runs % 5 > 0;
                world.start_worker(&finisher);
                world.until_done(MINUTE * 20).await;
                let (rows, letters) = read_back(&world, &produced);
                assert_eq!(rows + letters, produced.len());
                let alerts = read_alerts(&world);
                let same = maker().id() == finisher.id();
                assert!(!same || !world.settings.alerts || alerts == 3, "{alerts} of {there:?}");
                runs += 1;
            }
        }
    }
    assert!(runs > 500, "{runs}");
}

/// The description of a batch says nothing of copies: with the setting it is, byte for byte, what it is without, so that any
/// build reads it.
#[tokio::test(start_paused = true)]
async fn the_lease_row_does_not_speak_of_copies() {
    for format in FORMATS {
        let (with, _) = prepared(format).await;
        let (mut world, _) = world(format);
        world.start_worker(&maker());
        world.until_done(MINUTE * 20).await;
        assert!(copies(&world).is_empty(), "alerts are off by default");
        assert_eq!(world.log.lock().unwrap().prepared[0].pending.as_ref(), Some(&with));
    }
}

/// What was delivered before its records went needs its copies too, and they come from the objects.
#[tokio::test(start_paused = true)]
async fn records_that_are_gone_keep_no_copy_away() {
    for format in FORMATS {
        let (pending, objects) = prepared(format).await;
        for there in
            left(&objects).filter(|there| objects.keys().all(|key| is_copy(key) || there.contains_key(key)))
        {
            let (mut world, produced) = found(&pending, &there, format).await;
            let last = produced.keys().next_back().unwrap().1;
            world.stream.trim(&shard(), &last.into());
            world.settings.alerts = true;
            world.start_worker(&maker());
            world.until_done(MINUTE * 20).await;
            assert_eq!(read_alerts(&world), 3);
        }
    }
}

/// A seal is no rows, and an object of somebody else is not ours to replace: the rows land, and the copies of other hours.
#[tokio::test(start_paused = true)]
async fn what_lies_where_a_copy_belongs_stays_and_stops_nothing() {
    let (pending, objects) = prepared(PendingFormat::Two).await;
    let key = objects.keys().find(|key| is_copy(key)).unwrap();
    let there = BTreeMap::from([(key.clone(), seal_object())]);
    let (mut world, produced) = found(&pending, &there, PendingFormat::Two).await;
    world.settings.alerts = true;
    world.start_worker(&maker());
    world.until_done(MINUTE * 20).await;
    let (rows, letters) = read_back(&world, &produced);
    assert_eq!(rows + letters, produced.len());
    assert_eq!(copies(&world).len(), 3);
    assert!(read_records(&world.outside.sink.objects()[key]).unwrap().is_empty());
}
