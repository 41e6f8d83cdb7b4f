//! Three brokers: leaders move while a partition is read, and a log that was cut is not read on in silence.

use std::sync::Arc;
use std::time::Duration;

use kinetide::internals::fetch::{Behind, FetchError, Polled, StartAt};
use kinetide::internals::shard::ShardId;
use serde_json::json;
use tokio::time::Instant;

use super::broker::{Brokers, Peer, Sent};
use super::{Topic, number};

const LONGEST: Duration = Duration::from_secs(120);

fn leader(peer: &Peer, topic: &str) -> usize {
    usize::try_from(peer.ask(&json!(["leader", topic, 0])).unwrap().as_i64().unwrap()).unwrap()
}

fn produce(peer: &Peer, topic: &str, values: std::ops::Range<usize>) -> Vec<i64> {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    let records: Vec<Sent<'_>> =
        values.iter().map(|value| (0, Some(&b"k"[..]), Some(value.as_bytes()), 0)).collect();
    peer.produce(topic, &records, "none")
}

/// Reads on from `iterator` until so many records came, whatever fails meanwhile.
async fn read_on(topic: &Topic, shard: &ShardId, iterator: &mut String, wanted: usize) -> (Vec<i64>, usize) {
    let (mut offsets, mut failures) = (Vec::new(), 0);
    let since = Instant::now();
    while offsets.len() < wanted {
        assert!(since.elapsed() < LONGEST, "{} of {wanted} records, {failures} failures", offsets.len());
        match topic.source.fetch(shard, iterator, 1000).await {
            Ok(page) => {
                offsets.extend(page.records().map(|record| record.sequence_number.parse::<i64>().unwrap()));
                if page.behind() == Behind::Tip {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                *iterator = page.next_iterator.unwrap();
            }
            Err(FetchError::Unavailable(_)) => {
                failures += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    (offsets, failures)
}

pub(super) async fn leaders_move(brokers: &mut Brokers, peer: &Arc<Peer>) {
    peer.create("moves", 1, json!({"min.insync.replicas": "2"}), 3);
    let topic = Topic::new(brokers, peer, "moves");
    let shard = topic.shard(0).await;
    let mut iterator = topic.source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    let (mut put, mut read) = (Vec::new(), Vec::new());
    for round in 0..2 {
        put.extend(produce(peer, "moves", round * 100..round * 100 + 50));
        read.extend(read_on(&topic, &shard, &mut iterator, 50).await.0);
        let gone = leader(peer, "moves");
        brokers.kill(gone);
        put.extend(produce(peer, "moves", round * 100 + 50..round * 100 + 100));
        read.extend(read_on(&topic, &shard, &mut iterator, 50).await.0);
        assert_ne!(leader(peer, "moves"), gone);
        brokers.run(gone);
        // The next one that goes is not to be the last one that is in step.
        peer.ask(&json!(["in_step", "moves", 3])).unwrap();
    }
    assert_eq!(read, put);
    topic.agrees(0).await;
}

/// The only replica in step goes, one that lacks records leads, and these are gone.
pub(super) async fn a_log_is_cut(brokers: &mut Brokers, peer: &Arc<Peer>) {
    let config = json!({"min.insync.replicas": "1", "unclean.leader.election.enable": "true"});
    peer.create("cut", 1, config, 2);
    let topic = Topic::new(brokers, peer, "cut");
    let shard = topic.shard(0).await;
    produce(peer, "cut", 0..10);
    let first = leader(peer, "cut");
    let other =
        usize::try_from(peer.ask(&json!(["replica", "cut", first])).unwrap().as_i64().unwrap()).unwrap();
    brokers.kill(other);
    peer.ask(&json!(["in_step", "cut", 1])).unwrap();
    let last = *produce(peer, "cut", 10..30).last().unwrap();
    let mut iterator = topic.source.iterator(&shard, &StartAt::TrimHorizon).await.unwrap();
    assert_eq!(read_on(&topic, &shard, &mut iterator, 30).await.0.len(), 30);
    brokers.kill(first);
    brokers.run(other);
    let since = Instant::now();
    // Who reads on, and who comes back to the checkpoint.
    for start in [None, Some(StartAt::At(number(last))), Some(StartAt::After(number(last)))] {
        loop {
            assert!(since.elapsed() < LONGEST, "nobody says that the log was cut");
            let at = match &start {
                None => Ok(iterator.clone()),
                Some(start) => topic.source.iterator(&shard, start).await,
            };
            let answer = match at {
                Ok(at) => topic.source.fetch(&shard, &at, 100).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(FetchError::Truncated(_)) => break,
                Err(FetchError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                other => panic!("{start:?}: {other:?}"),
            }
        }
    }
    // Grown past the place again, with other records: only the epoch of what was read tells it.
    produce(peer, "cut", 100..150);
    let answer = topic.source.fetch(&shard, &iterator, 100).await;
    assert!(matches!(answer, Err(FetchError::Truncated(_))), "{answer:?}");
    brokers.run(first);
}
