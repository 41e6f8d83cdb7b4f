//! Two streams in one lake: their shards have equal ids and their records equal sequence numbers, and an object is told
//! by its name alone.

use super::*;
use crate::trial::{Checked, verify_streams};

/// One name begins like the other.
const NAMES: [&str; 2] = ["trades", "trades-2"];

/// The sound lake as that of a stream, with events of its own.
fn of(stream: &str) -> World {
    let mut world = sound();
    let prefix = stream.len();
    for (_, _, data) in &mut world.records {
        *data = String::from_utf8(std::mem::take(data))
            .unwrap()
            .replace(r#""eventID":"e"#, &format!(r#""eventID":"{prefix}-"#))
            .into_bytes();
    }
    for (path, lines) in &mut world.objects {
        let (folder, name) = path.rsplit_once('/').unwrap();
        *path = format!("{folder}/{stream}-{name}");
        for line in lines {
            *line = line.replace(r#""event_id":"e"#, &format!(r#""event_id":"{prefix}-"#));
        }
    }
    world
}

fn both() -> [World; 2] {
    NAMES.map(of)
}

async fn check(worlds: &[World; 2]) -> Checked {
    let store = Arc::new(InMemory::new());
    let mut streams = Vec::new();
    for (name, world) in NAMES.iter().zip(worlds) {
        for (path, lines) in &world.objects {
            store.put(&Path::from(path.as_str()), gzip(lines).into()).await.unwrap();
        }
        let mut puts = Puts::of(*name);
        for (shard, sequence, data) in &world.records {
            puts.add(shard, Put::new(shard, sequence, data, START_US).unwrap()).unwrap();
        }
        let mut table = Table::default();
        world.items.iter().for_each(|item| table.add(item.as_bytes()).unwrap());
        streams.push((puts, Some(table)));
    }
    verify_streams(store as Arc<dyn ObjectStore>, &Path::from("lake"), streams, |_, _| {}).await.unwrap()
}

/// What was found of each: missing, duplicated, never put, other values.
fn defects(checked: &Checked) -> [[u64; 4]; 2] {
    let of = |stream: usize| {
        let lake = &checked.each[stream].lake;
        [lake.missing, lake.duplicated, lake.unexpected, lake.value_mismatches]
    };
    [of(0), of(1)]
}

#[tokio::test]
async fn two_sound_streams_are_found_sound_each_for_itself() {
    let checked = check(&both()).await;
    assert!(checked.all.ok() && checked.each.iter().all(|stream| stream.lake.ok()), "{checked:?}");
    assert_eq!((checked.all.records_put, checked.all.objects), (82, 10));
    assert_eq!(checked.all.key_state_mismatches, Some(0));
    for (name, stream) in NAMES.iter().zip(&checked.each) {
        assert_eq!((stream.stream.as_str(), stream.lake.records_put, stream.lake.objects), (*name, 41, 5));
        assert_eq!((stream.lake.rows_delivered, stream.lake.dead_letters), (40, 1));
    }
}

#[tokio::test]
async fn a_row_in_an_object_of_the_other_stream_is_lost_there_and_foreign_here() {
    // The other stream has a record at the very same position.
    let mut worlds = both();
    let row = worlds[0].objects[1].1.remove(2);
    worlds[1].objects[1].1.push(row.clone());
    let checked = check(&worlds).await;
    assert_eq!(defects(&checked), [[1, 0, 0, 0], [0, 1, 0, 1]]);
    let lost = &checked.all.missing_first[0];
    assert_eq!((lost.stream.as_deref(), lost.sequence_number.as_str()), (Some("trades"), &*position(12).1));
    assert!(lost.to_string().starts_with("trades shardId-"), "{lost}");
    assert!(checked.all.problems[0].contains(": trades-2 shardId-"), "{:?}", checked.all.problems);
    // It has none there.
    worlds[1].records.remove(12);
    worlds[1].objects[1].1.remove(2);
    let checked = check(&worlds).await;
    assert_eq!(defects(&checked), [[1, 0, 0, 0], [0, 0, 1, 0]]);
    assert!(!checked.all.ok() && checked.each.iter().all(|stream| !stream.lake.ok()));
    // In both: only the other one is wrong.
    worlds[0].objects[1].1.push(row);
    let checked = check(&worlds).await;
    assert_eq!(defects(&checked), [[0, 0, 0, 0], [0, 0, 1, 0]]);
    assert!(checked.each[0].lake.ok() && !checked.all.ok());
}

#[tokio::test]
async fn a_whole_object_under_the_name_of_the_other_stream_is_found() {
    let mut worlds = both();
    let path = &mut worlds[0].objects[2].0;
    *path = path.replace("trades-c", "trades-2-x");
    assert_eq!(defects(&check(&worlds).await), [[10, 0, 0, 0], [0, 10, 0, 10]]);
}

#[tokio::test]
async fn a_dead_letter_of_the_other_stream_is_found() {
    let mut worlds = both();
    let letter = worlds[1].objects[4].1.remove(0);
    worlds[0].objects[4].1.push(letter.clone());
    assert_eq!(defects(&check(&worlds).await), [[0, 1, 0, 0], [1, 0, 0, 0]]);
    worlds[0].records.pop();
    worlds[0].objects[4].1 = vec![letter];
    assert_eq!(defects(&check(&worlds).await), [[0, 0, 1, 0], [1, 0, 0, 0]]);
}

#[tokio::test]
async fn the_newest_row_of_a_key_is_that_of_its_own_stream() {
    let mut worlds = both();
    worlds[1].items.remove(1);
    let checked = check(&worlds).await;
    let mismatches = checked.each.iter().map(|stream| stream.lake.key_state_mismatches.unwrap());
    assert_eq!(mismatches.collect::<Vec<_>>(), [0, 1]);
    assert_eq!(checked.all.key_state_mismatches, Some(1));
}

#[tokio::test]
async fn an_object_of_no_stream_is_found_and_its_records_are_missing() {
    let mut worlds = both();
    let path = &mut worlds[1].objects[0].0;
    *path = path.replace("trades-2-a", "orders-a");
    let checked = check(&worlds).await;
    assert_eq!(defects(&checked), [[0; 4], [10, 0, 0, 0]]);
    assert_eq!((checked.all.broken_objects, checked.all.missing), (1, 10));
    assert!(checked.all.problems[0].contains("orders-a") && checked.all.problems[0].contains("no stream"));
}

#[tokio::test]
async fn what_one_stream_need_not_have_the_other_must_not_have() {
    for stream in [0, 1] {
        let store = Arc::new(InMemory::new());
        let [ours, _] = both();
        let (path, lines) = &ours.objects[0];
        store.put(&Path::from(path.as_str()), gzip(&lines[..1]).into()).await.unwrap();
        let mut streams = NAMES.map(|name| (Puts::of(name), None));
        let (shard, sequence, _) = &ours.records[0];
        streams[stream].0.add_optional(shard, sequence);
        let root = Path::from("lake");
        let checked =
            verify_streams(store as Arc<dyn ObjectStore>, &root, streams.into(), |_, _| {}).await.unwrap();
        let lake = &checked.each[0].lake;
        assert_eq!((lake.unclear, lake.unexpected), if stream == 0 { (1, 0) } else { (0, 1) });
    }
}
