//! The source and the lister of DynamoDB Streams, against the embedded server and, where they are given, DynamoDB Local and
//! ministack.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use kinetide::internals::fetch::{Behind, FetchError, Page, Polled, StartAt};
use kinetide::internals::shard::{Lineage, SequenceNumber, Shard, ShardId, ShardLister};
use serde_json::Value;

use server::Server;

/// Servers of others, by the variables that say where they are.
const OTHERS: [&str; 2] = ["KINETIDE_TEST_DYNAMODB_LOCAL", "KINETIDE_TEST_MINISTACK"];

#[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
async fn on_each(name: &str, check: impl AsyncFn(&mut Server)) {
    check(&mut Server::embedded(name).await).await;
    for variable in OTHERS {
        match std::env::var(variable) {
            Ok(url) => check(&mut Server::at(&url, name).await).await,
            Err(_) => eprintln!("SKIPPED: {name} without {variable}"),
        }
    }
}

fn changes(page: &Page) -> Vec<Value> {
    page.records().map(|record| serde_json::from_slice(&record.data()).unwrap()).collect()
}

/// From `start` to the tip or the end: the records' JSON, and whether it was the end.
async fn read(server: &Server, shard: &ShardId, start: StartAt) -> (Vec<(SequenceNumber, Vec<u8>)>, bool) {
    let source = server.source();
    let mut iterator = source.iterator(shard, &start).await.unwrap();
    let mut all = Vec::new();
    loop {
        let page = source.fetch(shard, &iterator, 10_000).await.unwrap();
        assert!(page.served_us.is_some() || !server.has_clock, "the answer says when it was given");
        all.extend(page.records().map(|record| (record.position().sequence, record.data().to_vec())));
        let at_tip = page.behind() == Behind::Tip;
        match page.next_iterator {
            None => return (all, true),
            Some(_) if at_tip => return (all, false),
            Some(next) => iterator = next,
        }
    }
}

async fn only_open(server: &Server) -> ShardId {
    let open: Vec<Shard> =
        server.lister().list().await.unwrap().into_iter().filter(|shard| !shard.closed).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    open[0].id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_once_in_order_and_the_same_each_time() {
    on_each("order", async |server| {
        server.create("NEW_AND_OLD_IMAGES").await;
        for n in 0..40 {
            server.put(n % 7, n).await;
        }
        server.delete(3).await;
        assert_eq!(server.lister().lineage(), Lineage::Tree);
        let shard = only_open(server).await;
        let (first, _) = read(server, &shard, StartAt::TrimHorizon).await;
        assert_eq!(first.len(), 41);
        assert!(first.is_sorted_by(|(a, _), (b, _)| a < b), "by sequence number");
        let values: Vec<Value> =
            first.iter().map(|(_, data)| serde_json::from_slice(data).unwrap()).collect();
        let numbers: Vec<&str> =
            values.iter().filter_map(|value| value["dynamodb"]["NewImage"]["n"]["N"].as_str()).collect();
        assert_eq!(numbers, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
        let names: Vec<&str> = values.iter().map(|value| value["eventName"].as_str().unwrap()).collect();
        assert_eq!((names[0], names[7], names[40]), ("INSERT", "MODIFY", "REMOVE"));
        for ((sequence, _), value) in first.iter().zip(&values) {
            assert_eq!(value["dynamodb"]["SequenceNumber"], sequence.as_str());
        }
        // A batch that is built again by another worker must be the same bytes.
        assert_eq!(read(server, &shard, StartAt::TrimHorizon).await.0, first);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_is_where_it_should_be() {
    on_each("starts", async |server| {
        server.create("NEW_IMAGE").await;
        server.put_each(&[(0, 0), (1, 1), (2, 2)]).await;
        let shard = only_open(server).await;
        let (all, _) = read(server, &shard, StartAt::TrimHorizon).await;
        let from = async |start| read(server, &shard, start).await.0;
        let second = all[1].0.clone();
        assert_eq!(from(StartAt::At(second.clone())).await, all[1..]);
        assert_eq!(from(StartAt::After(second.clone())).await, all[2..]);
        assert!(server.lister().accepts(&shard, &second).await.unwrap());
        let source = server.source();
        let latest = source.iterator(&shard, &StartAt::Latest).await.unwrap();
        let tip = source.fetch(&shard, &latest, 100).await.unwrap();
        assert!(tip.is_empty() && tip.behind() != Behind::Tip, "one empty answer is not the tip");
        server.put(3, 3).await;
        let mut next = tip.next_iterator;
        let mut found = Vec::new();
        while let Some(iterator) = next.take().filter(|_| found.is_empty()) {
            let page = source.fetch(&shard, &iterator, 100).await.unwrap();
            (found, next) = (changes(&page), page.next_iterator);
        }
        assert_eq!(found[0]["dynamodb"]["NewImage"]["n"]["N"], "3");
        // An iterator may be used again.
        let again = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
        for _ in 0..2 {
            assert_eq!(source.fetch(&shard, &again, 2).await.unwrap().len(), 2);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_from_what_is_wrong() {
    on_each("absent", async |server| {
        assert!(server.lister().list().await.is_err(), "no table, no stream");
        server.create("NEW_IMAGE").await;
        let absent = ShardId::new("shardId-00000001768469400000-12345678");
        let answer = server.source().iterator(&absent, &StartAt::TrimHorizon).await;
        assert!(matches!(answer, Err(FetchError::NotFound)), "{answer:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_view_types_are_read() {
    on_each("views", async |server| {
        for (view, images) in [
            ("KEYS_ONLY", [false, false]),
            ("NEW_IMAGE", [true, false]),
            ("OLD_IMAGE", [false, true]),
            ("NEW_AND_OLD_IMAGES", [true, true]),
        ] {
            server.create(view).await;
            server.put_each(&[(1, 1), (1, 2)]).await;
            let (all, _) = read(server, &only_open(server).await, StartAt::TrimHorizon).await;
            let modified: Value = serde_json::from_slice(&all[1].1).unwrap();
            let change = &modified["dynamodb"];
            assert_eq!(change["Keys"]["id"]["S"], "1", "{view}");
            assert_eq!(["NewImage", "OldImage"].map(|image| change[image].is_object()), images, "{view}");
            server.drop_table().await;
        }
    })
    .await;
}

/// It ends, and the one that follows is read beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_turned_off_is_read_to_its_end_and_the_next_one_too() {
    on_each("off", async |server| {
        server.create("NEW_IMAGE").await;
        server.put_each(&[(1, 1), (2, 2)]).await;
        let old = only_open(server).await;
        if !server.turn(false).await {
            eprintln!("SKIPPED: {} cannot turn a stream off", server.url);
            return;
        }
        server.put(9, 9).await;
        let lister = server.lister();
        match lister.list().await {
            Ok(off) => {
                assert!(off.iter().all(|shard| shard.closed), "{off:?}");
                let (all, over) = read(server, &old, StartAt::TrimHorizon).await;
                assert_eq!((all.len(), over), (2, true));
                assert_eq!(lister.children(&old).await.unwrap(), Some(Vec::new()), "finished, not stuck");
            }
            // Some forget a stream as soon as it is off.
            Err(problem) => eprintln!("SKIPPED: {} lists no stream that is off: {problem}", server.url),
        }
        // Labels are times.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.turn(true).await);
        server.put(3, 3).await;
        let lister = server.lister();
        let new: Vec<Shard> =
            lister.list().await.unwrap().into_iter().filter(|shard| shard.id != old).collect();
        if new.is_empty() && !server.is_embedded() {
            eprintln!("SKIPPED: {} gives the shards of a table's streams equal ids", server.url);
            return;
        }
        let (all, _) = read(server, &new[0].id, StartAt::TrimHorizon).await;
        let last: Value = serde_json::from_slice(&all.last().unwrap().1).unwrap();
        assert_eq!((new.len(), &last["dynamodb"]["Keys"]["id"]["S"]), (1, &Value::from("3")));
        let id = lister.stream().await.unwrap().unwrap();
        assert!(id.is_whole() && id.to_string().contains("$off"), "{id}");
    })
    .await;
}

/// Only the embedded server can be told to.
#[tokio::test(flavor = "multi_thread")]
async fn shards_rotate_and_split() {
    let mut server = Server::embedded("rotation").await;
    server.create("NEW_IMAGE").await;
    for n in 0..20 {
        server.put(n, n).await;
    }
    let first = only_open(&server).await;
    let [(parent, child)] = &server.streams().rotate("rotation")[..] else { panic!("one shard rotates") };
    assert_eq!(*parent, first.as_str());
    for n in 20..40 {
        server.put(n, n).await;
    }
    let (all, over) = read(&server, &first, StartAt::TrimHorizon).await;
    assert_eq!((all.len(), over), (20, true));
    let lister = server.lister();
    let children = lister.children(&first).await.unwrap().unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!((children[0].id.as_str(), &children[0].parents), (&child[..], &vec![first.clone()]));
    assert_eq!(lister.children(&children[0].id).await.unwrap(), None, "it is open: children will come");
    let grandchildren = server.streams().split("rotation");
    assert_eq!(grandchildren.len(), 2);
    for n in 40..80 {
        server.put(n, n).await;
    }
    let listed = lister.list().await.unwrap();
    assert_eq!(listed.iter().filter(|shard| !shard.closed).count(), 2);
    let mut keys = BTreeSet::new();
    for shard in &listed {
        for (_, data) in read(&server, &shard.id, StartAt::TrimHorizon).await.0 {
            let value: Value = serde_json::from_slice(&data).unwrap();
            let key = value["dynamodb"]["Keys"]["id"]["S"].as_str().unwrap().to_owned();
            assert!(keys.insert(key), "each change is in one shard");
        }
    }
    assert_eq!(keys.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_left_the_stream_are_a_gap_and_no_silent_jump() {
    let mut server = Server::embedded("trimmed").await;
    server.create("NEW_IMAGE").await;
    server.put_each(&[(1, 1), (2, 2)]).await;
    let shard = only_open(&server).await;
    let (all, _) = read(&server, &shard, StartAt::TrimHorizon).await;
    let second_us = 1_000_000 + all[1].0.as_str()[1..].parse::<i64>().unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.streams().forget_before("trimmed", second_us);
    server.put(3, 3).await;
    let source = server.source();
    for start in [StartAt::At(all[0].0.clone()), StartAt::After(all[1].0.clone())] {
        let iterator = source.iterator(&shard, &start).await.unwrap();
        let page = source.fetch(&shard, &iterator, 100).await.unwrap();
        assert!(page.trimmed, "{start:?}");
        assert_eq!(changes(&page)[0]["dynamodb"]["Keys"]["id"]["S"], "3");
    }
    assert!(server.lister().accepts(&shard, &all[0].0).await.unwrap(), "it was of this shard");
    let foreign = SequenceNumber::from(5);
    assert!(!server.lister().accepts(&shard, &foreign).await.unwrap());
    let refused = source.iterator(&shard, &StartAt::At(foreign)).await;
    assert!(matches!(refused, Err(FetchError::Foreign(_))), "{refused:?}");
    server.streams().expire_iterators_after(Duration::from_millis(1));
    let iterator = source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(matches!(source.fetch(&shard, &iterator, 1).await, Err(FetchError::ExpiredIterator)));
}
