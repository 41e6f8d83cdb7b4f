//! Three brokers: leaders move while a partition is read, and a log that was cut is not read on in silence.

use std::sync::Arc;
use std::time::Duration;

use kinetide::internals::fetch::{Behind, FetchError, Polled, StartAt};
use kinetide::internals::shard::{ShardId, WrittenBy};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::broker::{Brokers, Peer, Sent};
use super::worker::{Stage, rows};
use super::{Topic, number};

const LONGEST: Duration = Duration::from_secs(120);

fn leader(peer: &Peer, topic: &str) -> usize {
    usize::try_from(peer.ask(&json!(["leader", topic, 0])).unwrap().as_i64().unwrap()).unwrap()
}

fn produce(peer: &Peer, topic: &str, values: std::ops::Range<usize>) -> Vec<i64> {
    let values: Vec<String> = values.map(|value| json!({"n": value}).to_string()).collect();
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
    // The last page is of the leader that wrote the last record.
    let page = topic.page(&shard, StartAt::At(number(last))).await.unwrap();
    let written = WrittenBy { upto: number(last), epoch: page.leader_epoch.unwrap() };
    topic.source.still_holds(&shard, &written).await.unwrap();
    let stage = Stage::new(brokers, "cut").await;
    let mut worker = stage.worker("before");
    stage.delivered(&[(0, last)].into(), &["before"]).await;
    worker.kill().await.unwrap();
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
    // Who comes back to the checkpoint would read on, if that did not say who wrote its record.
    let page = topic.page(&shard, StartAt::At(number(last))).await.unwrap();
    assert!(page.records().next().unwrap().sequence_number == last.to_string() && !page.trimmed);
    let answer = topic.source.still_holds(&shard, &written).await;
    assert!(matches!(answer, Err(FetchError::Truncated(_))), "{answer:?}");
    nobody_watched(&stage, last).await;
    brokers.run(first);
}

/// A worker that comes when the log has grown past its checkpoint again stalls, and reads on when a person has said so.
async fn nobody_watched(stage: &Stage, last: i64) {
    let mut worker = stage.worker("after");
    let since = Instant::now();
    while !stage.logs(&["after"]).contains("its log was cut") {
        assert!(since.elapsed() < LONGEST, "{}", stage.logs(&["after"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.kill().await.unwrap();
    let landed = || {
        let rows = rows(&stage.lake().join("landing/cut"));
        let mut numbers: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(
        (stage.checkpoints().await[&0], landed()),
        (last, (0..30).collect()),
        "nothing was moved or read"
    );
    let listed: Value =
        serde_json::from_str(&stage.told(&["leases", "--json", "--failover-time", "3s"]).await).unwrap();
    let key = listed["leases"][0]["lease"].as_str().unwrap();
    let accept =
        ["leases", "set-checkpoint", key, &last.to_string(), "--evict", "--yes", "--failover-time", "3s"];
    stage.told(&accept).await;
    let mut worker = stage.worker("accepted");
    // Behind the ten records that both logs have there are fifty of the new leader.
    stage.delivered(&[(0, 59)].into(), &["accepted"]).await;
    worker.kill().await.unwrap();
    assert_eq!(landed(), (0..30).chain(120..150).collect::<Vec<_>>());
}
