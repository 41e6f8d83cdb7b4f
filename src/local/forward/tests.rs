use std::collections::HashMap;

use dynoxide::actions::delete_item::DeleteItemRequest;
use dynoxide::actions::put_item::PutItemRequest;
use dynoxide::{AttributeValue, Item};
use serde_json::Value;

use super::super::kinesis::KinesisSettings;
use super::super::{LocalAws, LocalSettings};
use super::*;

fn item(id: usize, version: usize) -> Item {
    HashMap::from([
        ("id".to_owned(), AttributeValue::S(format!("item-{id}"))),
        ("version".to_owned(), AttributeValue::N(version.to_string())),
    ])
}

fn put(database: &Database, id: usize, version: usize) {
    let request = PutItemRequest {
        table_name: "Trades".to_owned(),
        item: item(id, version),
        ..PutItemRequest::default()
    };
    database.put_item(request).unwrap();
}

fn delete(database: &Database, id: usize) {
    let key = HashMap::from([("id".to_owned(), AttributeValue::S(format!("item-{id}")))]);
    let request = DeleteItemRequest { table_name: "Trades".to_owned(), key, ..DeleteItemRequest::default() };
    database.delete_item(request).unwrap();
}

/// The records of the stream, shard by shard.
fn records(kinesis: &Kinesis) -> Vec<Value> {
    let mut records = Vec::new();
    let decode = |data: &[u8]| base64_simd::STANDARD.decode_to_vec(data).unwrap();
    kinesis
        .visit(
            "changes",
            |_| 0,
            |_, record| records.push(serde_json::from_slice(&decode(&record.data)).unwrap()),
        )
        .unwrap();
    records
}

async fn local(ttl_sweep: Duration) -> LocalAws {
    LocalAws::start(LocalSettings {
        ttl_sweep,
        kinesis: KinesisSettings::default(),
        ..LocalSettings::default()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_arrives_once_and_in_the_order_of_its_item() {
    const ITEMS: usize = 40;
    const VERSIONS: usize = 30;
    let aws = local(Duration::from_secs(3_600)).await;
    aws.kinesis().create_stream("changes", 4).unwrap();
    // The forwarder waits for its table.
    let forwarder = aws.forward("Trades", "changes");
    aws.create_table("Trades", "id").unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let database = aws.database().clone();
        writers.spawn_blocking(move || {
            for version in 0..VERSIONS {
                for id in (writer..ITEMS).step_by(4) {
                    put(&database, id, version);
                }
            }
            for id in (writer..ITEMS).step_by(4) {
                delete(&database, id);
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    forwarder.drained().await;

    let records = records(aws.kinesis());
    assert_eq!(records.len(), ITEMS * (VERSIONS + 1));
    assert_eq!(forwarder.records(), u64::try_from(records.len()).unwrap());
    let mut seen: HashMap<&str, (usize, i64)> = HashMap::new();
    for record in &records {
        let change = &record["dynamodb"];
        let (versions, last_us) = seen.entry(change["Keys"]["id"]["S"].as_str().unwrap()).or_default();
        let expected_name = match *versions {
            0 => "INSERT",
            VERSIONS => "REMOVE",
            _ => "MODIFY",
        };
        assert_eq!(record["eventName"], expected_name);
        if *versions < VERSIONS {
            assert_eq!(change["NewImage"]["version"]["N"], versions.to_string());
        }
        if *versions > 0 {
            assert_eq!(change["OldImage"]["version"]["N"], (*versions - 1).to_string());
        }
        let created_us = change["ApproximateCreationDateTime"].as_i64().unwrap();
        assert!(created_us > *last_us && (crate::clock::wall_clock_us() - created_us).abs() < 60_000_000);
        (*versions, *last_us) = (*versions + 1, created_us);
    }
    aws.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_to_live_and_no_changes_are_told_apart() {
    let aws = local(Duration::from_millis(20)).await;
    aws.kinesis().create_stream("changes", 1).unwrap();
    aws.create_table("Trades", "id").unwrap();
    let forwarder = aws.forward("Trades", "changes");
    let ttl = serde_json::json!({
        "TableName": "Trades",
        "TimeToLiveSpecification": {"AttributeName": "version", "Enabled": true},
    });
    put(aws.database(), 1, 5);
    put(aws.database(), 1, 5);
    // Seconds long past, but not so long that DynamoDB ignores them.
    let past = usize::try_from(crate::clock::wall_clock_us() / 1_000_000 - 3_600).unwrap();
    put(aws.database(), 1, past);
    aws.database().update_time_to_live(serde_json::from_value(ttl).unwrap()).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while forwarder.records() < 3 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    forwarder.drained().await;
    let records = records(aws.kinesis());
    let names: Vec<&str> = records.iter().map(|record| record["eventName"].as_str().unwrap()).collect();
    assert_eq!(names, ["INSERT", "MODIFY", "REMOVE"], "the second put changed nothing");
    assert_eq!(records[1]["userIdentity"], Value::Null);
    assert_eq!(records[2]["userIdentity"]["principalId"], "dynamodb.amazonaws.com");
    aws.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_stops_nothing() {
    let aws = local(Duration::from_secs(3_600)).await;
    aws.create_table("Trades", "id").unwrap();
    let forwarder = aws.forward("Trades", "changes");
    put(aws.database(), 1, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(forwarder.records(), 0);
    aws.kinesis().create_stream("changes", 1).unwrap();
    forwarder.drained().await;
    assert_eq!(records(aws.kinesis()).len(), 1);
}
