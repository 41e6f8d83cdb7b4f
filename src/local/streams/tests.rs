use dynoxide::actions::create_table::StreamSpecification;
use dynoxide::actions::update_table::UpdateTableRequest;

use super::*;
use crate::local::dynamodb::{create_table, database};

const TABLE: &str = "Trades";

fn streams(shards: u32) -> Streams {
    let database = database().unwrap();
    create_table(&database, TABLE, "id").unwrap();
    Streams::new(database, "eu-north-1", shards)
}

fn put(streams: &Streams, id: usize, value: usize) {
    let item = json!({ "id": { "S": id.to_string() }, "value": { "N": value.to_string() } });
    let request = serde_json::from_value(json!({ "TableName": TABLE, "Item": item })).unwrap();
    streams.0.database.put_item(request).unwrap();
}

fn turn(streams: &Streams, on: bool) {
    let view = on.then(|| "NEW_AND_OLD_IMAGES".to_owned());
    let request = UpdateTableRequest {
        table_name: TABLE.to_owned(),
        stream_specification: Some(StreamSpecification { stream_enabled: on, stream_view_type: view }),
        ..UpdateTableRequest::default()
    };
    streams.0.database.update_table(request).unwrap();
}

/// What each shard holds.
fn all(streams: &Streams) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    streams
        .visit(
            TABLE,
            |_| 0,
            |shard, change| {
                let value: Value = serde_json::from_str(&change.json).unwrap();
                let id = value["dynamodb"]["Keys"]["id"]["S"].as_str().unwrap().to_owned();
                all.entry(shard.to_owned()).or_default().push(id);
            },
        )
        .unwrap();
    all
}

#[test]
fn each_change_is_in_one_shard_and_those_of_an_item_in_one_line() {
    let streams = streams(3);
    assert!(all(&streams).is_empty());
    (0..40).for_each(|id| put(&streams, id, 1));
    let family = streams.rotate(TABLE);
    assert_eq!(family.len(), 3);
    (0..40).for_each(|id| put(&streams, id, 2));
    let all = all(&streams);
    assert_eq!(all.values().map(Vec::len).sum::<usize>(), 80);
    for (parent, child) in family {
        assert_eq!(all.get(&parent), all.get(&child), "the same items, once changed");
    }
}

#[test]
fn a_shard_that_is_closed_while_it_is_read_has_nothing_of_its_children() {
    let streams = streams(1);
    put(&streams, 1, 1);
    let mut seen = Vec::new();
    let each = |shard: &str, change: &Change| {
        if seen.is_empty() {
            streams.rotate(TABLE);
            put(&streams, 2, 1);
        }
        seen.push((shard.to_owned(), change.sequence_number.clone()));
    };
    streams.visit(TABLE, |_| 0, each).unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(all(&streams).into_values().collect::<Vec<_>>(), [["1"], ["2"]]);
}

#[test]
fn a_write_that_changes_nothing_is_in_no_stream() {
    let streams = streams(1);
    put(&streams, 1, 1);
    put(&streams, 1, 1);
    assert_eq!(all(&streams).values().map(Vec::len).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_stream_that_is_turned_off_and_on_again_is_another_one() {
    let streams = streams(1);
    put(&streams, 1, 1);
    let before = all(&streams);
    turn(&streams, false);
    put(&streams, 2, 1);
    assert_eq!(all(&streams), before, "in no stream");
    turn(&streams, true);
    put(&streams, 3, 1);
    let after = all(&streams);
    assert_eq!(after.values().flatten().collect::<Vec<_>>(), ["1", "3"]);
    assert_eq!(after.len(), 2);
    let state = streams.refreshed(TABLE);
    let on: Vec<bool> = state.tables[TABLE].iter().map(|stream| stream.on).collect();
    assert_eq!(on, [false, true]);
}

#[test]
fn what_is_forgotten_is_gone() {
    let streams = streams(1);
    put(&streams, 1, 1);
    assert_eq!(all(&streams).len(), 1);
    streams.forget_before(TABLE, wall_clock_us() + 1_000_000);
    assert!(all(&streams).is_empty());
}
