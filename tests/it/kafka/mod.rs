//! Topics of Kafka, read from real brokers, with another client that produces and reads beside ours.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod broker;
mod leaders;
mod msk;
mod page;
mod prices;
mod secure;
mod trials;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kinetide::internals::fetch::kafka::KafkaSource;
use kinetide::internals::fetch::{Behind, FetchError, Page, Polled, StartAt};
use kinetide::internals::kafka::{Cluster, Compression, batch_of};
use kinetide::internals::shard::kafka::{KafkaTopic, partition_of};
use kinetide::internals::shard::{
    Checkpoint, FindStart, Lineage, ListError, SequenceNumber, ShardId, ShardLister, StartFrom,
};
use kinetide::testing::{StreamScene, reader_conforms};
use serde_json::json;

use broker::{Brokers, Outside, Peer, Read, Sent};

/// A topic of one partition, as the checks see it.
struct OverKafka {
    cluster: Arc<Cluster>,
    peer: Arc<Peer>,
    topic: String,
}

impl OverKafka {
    fn new(brokers: &Brokers, peer: &Arc<Peer>) -> Self {
        static TOPICS: AtomicUsize = AtomicUsize::new(0);
        let topic = format!("conforms-{}", TOPICS.fetch_add(1, Ordering::Relaxed));
        peer.create(&topic, 1, json!({"max.message.bytes": "20000000"}), 1);
        Self { cluster: brokers.cluster(), peer: Arc::clone(peer), topic }
    }
}

fn number(offset: i64) -> SequenceNumber {
    SequenceNumber::from(u128::try_from(offset).unwrap())
}

#[async_trait]
impl StreamScene for OverKafka {
    fn source(&self) -> Arc<dyn Polled> {
        Arc::new(KafkaSource::new(Arc::clone(&self.cluster)))
    }

    fn lister(&self) -> Arc<dyn ShardLister> {
        Arc::new(KafkaTopic::new(Arc::clone(&self.cluster), &*self.topic))
    }

    fn put(&self, value: usize) -> SequenceNumber {
        let value = value.to_string();
        number(self.peer.produce(&self.topic, &[(0, Some(b"key"), Some(value.as_bytes()), 0)], "none")[0])
    }

    fn put_large(&self, bytes: usize) {
        self.peer.produce(&self.topic, &[(0, None, Some(&vec![b'x'; bytes]), 0)], "none");
    }

    fn split(&self, _: &ShardId) -> [ShardId; 2] {
        unreachable!("partitions do not split")
    }

    fn merge(&self, _: &ShardId, _: &ShardId) -> ShardId {
        unreachable!("partitions do not merge")
    }

    async fn trim(&self) {
        self.peer.ask(&json!(["forget", self.topic, 0, -1])).unwrap();
    }

    fn only_empty_pages(&self, _: bool) {}

    fn throttle(&self, _: bool) {}

    async fn expire_iterators(&self) {}
}

/// A topic with our reader.
struct Topic {
    topic: Arc<KafkaTopic>,
    source: KafkaSource,
    name: &'static str,
    peer: Arc<Peer>,
}

impl Topic {
    fn new(brokers: &Brokers, peer: &Arc<Peer>, name: &'static str) -> Self {
        let cluster = brokers.cluster();
        let topic = Arc::new(KafkaTopic::new(Arc::clone(&cluster), name));
        Self { topic, source: KafkaSource::new(cluster), name, peer: Arc::clone(peer) }
    }

    /// The partition with this number.
    async fn shard(&self, partition: i32) -> ShardId {
        let mut listed = self.topic.list().await;
        // Not every broker knows at once of a topic that was just made.
        for _ in 0..100 {
            if listed.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            listed = self.topic.list().await;
        }
        let listed = listed.unwrap();
        let found = listed.iter().find(|shard| partition_of(&shard.id).unwrap().1 == partition);
        found.unwrap().id.clone()
    }

    async fn page(&self, shard: &ShardId, start: StartAt) -> Result<Page, FetchError> {
        let iterator = self.source.iterator(shard, &start).await?;
        self.source.fetch(shard, &iterator, 10_000).await
    }

    /// Everything from `start` to the tip.
    async fn read(&self, shard: &ShardId, start: StartAt) -> Vec<Read> {
        let mut iterator = self.source.iterator(shard, &start).await.unwrap();
        let mut all = Vec::new();
        loop {
            let page = self.source.fetch(shard, &iterator, 700).await.unwrap();
            assert!(page.bytes() <= self.source.page_bytes_max());
            all.extend(page.records().map(|record| {
                let value = (!record.is_null()).then(|| record.data().into_owned());
                let offset = record.sequence_number.parse().unwrap();
                (offset, record.key().map(<[u8]>::to_vec), value, record.arrival_us / 1000)
            }));
            if page.behind() == Behind::Tip {
                return all;
            }
            iterator = page.next_iterator.unwrap();
        }
    }

    /// What was read, where the other client reads the same.
    async fn agrees(&self, partition: i32) -> Vec<Read> {
        self.agrees_when(partition, |_| true).await
    }

    /// The same as soon as it is all there: of a transaction that is committed the broker shows the records a little later.
    async fn agrees_when(&self, partition: i32, there: impl Fn(&[Read]) -> bool) -> Vec<Read> {
        let shard = self.shard(partition).await;
        let began = tokio::time::Instant::now();
        loop {
            let ours = self.read(&shard, StartAt::TrimHorizon).await;
            if there(&ours) && ours == self.peer.read(self.name, partition) {
                return ours;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{}: the other client reads otherwise, or not all of it comes: {} records",
                self.name,
                ours.len()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One broker for all of these: it takes a while to start.
#[tokio::test(flavor = "multi_thread")]
async fn topics_are_read_as_another_client_reads_them() {
    let Some(outside) = Outside::given("topics of Kafka") else { return };
    let mut brokers = Brokers::start(outside, 1, "log.cleaner.backoff.ms=100\n", &[]).await;
    let peer = brokers.peer();
    Box::pin(reader_conforms(async || OverKafka::new(&brokers, &peer))).await;
    Box::pin(all_codecs_keys_and_tombstones(&brokers, &peer)).await;
    Box::pin(only_what_is_committed(&brokers, &peer)).await;
    Box::pin(what_compaction_leaves(&brokers, &peer)).await;
    Box::pin(starts_and_ends(&brokers, &peer)).await;
    Box::pin(partitions_come_and_topics_go(&brokers, &peer)).await;
    Box::pin(what_we_write_is_read(&brokers, &peer)).await;
    Box::pin(prices::a_poller_produces_and_a_worker_lands(&brokers, &peer)).await;
    Box::pin(trials::generated_records_are_in_the_topic(&brokers, &peer)).await;
    Box::pin(trials::the_demo_with_a_kill_ends_exactly_once(&brokers)).await;
    Box::pin(worker::a_topic_is_made_anew(&brokers, &peer)).await;
    Box::pin(worker::lands_exactly_once(&mut brokers, &peer)).await;
}

/// Three brokers, which keep what is written on two or three of them.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_move_and_logs_are_cut() {
    let Some(outside) = Outside::given("changes of leaders of Kafka") else { return };
    let kept = "default.replication.factor=3\nmin.insync.replicas=2\n";
    let mut brokers = Brokers::start(outside, 3, kept, &[]).await;
    let peer = brokers.peer();
    Box::pin(leaders::leaders_move(&mut brokers, &peer)).await;
    Box::pin(trials::a_load_test_kills_brokers_too(&mut brokers)).await;
    Box::pin(leaders::a_log_is_cut(&mut brokers, &peer)).await;
}

async fn all_codecs_keys_and_tombstones(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "codecs");
    peer.create("codecs", 1, json!({}), 1);
    for (codec, ms) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().zip(1_768_469_400_000..) {
        let values: Vec<Vec<u8>> =
            (0..2000).map(|n| format!("{codec} {n} {}", "x".repeat(n % 300)).into_bytes()).collect();
        let mut records: Vec<Sent<'_>> =
            values.iter().map(|value| (0, Some(&b"\xff\x00key"[..]), Some(&value[..]), ms)).collect();
        records.extend([(0, None, Some(&b""[..]), ms), (0, Some(&b""[..]), None, ms), (0, None, None, ms)]);
        peer.produce("codecs", &records, codec);
    }
    let read = topic.agrees(0).await;
    assert_eq!((read.len(), read[2002].2.as_ref(), read[2002].3), (10_015, None, 1_768_469_400_000));
}

async fn only_what_is_committed(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "transactions");
    peer.create("transactions", 1, json!({}), 1);
    let values: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let records: Vec<Sent<'_>> = values.iter().map(|value| (0, None, Some(value.as_bytes()), 0)).collect();
    for round in 0..3 {
        peer.transaction("transactions", "a", &records, "commit");
        peer.transaction("transactions", "b", &records[..round + 1], "open");
        peer.transaction("transactions", "a", &records, "abort");
        peer.produce("transactions", &records[..5], "lz4");
        peer.transaction("transactions", "b", &records, if round == 1 { "abort" } else { "commit" });
    }
    topic.agrees_when(0, |read| read.len() == 3 * 45 + (1 + 40) + (3 + 40)).await;
    // An open one holds back what comes after it, and nothing says that this is not the tip.
    let shard = topic.shard(0).await;
    let open = peer.transaction("transactions", "b", &records[..1], "open")[0];
    let after = peer.produce("transactions", &records[..1], "none")[0];
    assert!(topic.read(&shard, StartAt::TrimHorizon).await.last().unwrap().0 < open);
    peer.transaction("transactions", "b", &[], "abort");
    topic.agrees_when(0, |read| read.last().unwrap().0 == after).await;
    // A start whose record is the end of a transaction is no gap.
    let page = topic.page(&shard, StartAt::At(number(after - 1))).await.unwrap();
    assert!(page.sparse && !page.trimmed && page.first_kept.is_none());
}

async fn what_compaction_leaves(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "compacted");
    let compacted = json!({
        "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.ms": "100",
        "max.compaction.lag.ms": "100"
    });
    peer.create("compacted", 1, compacted, 1);
    let shard = topic.shard(0).await;
    let texts: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let record = |n: usize| (0, Some(&b"abcde"[n % 5..=n % 5]), Some(texts[n].as_bytes()), 0);
    for first in (0..200).step_by(20) {
        peer.produce("compacted", &(first..first + 20).map(record).collect::<Vec<_>>(), "lz4");
    }
    // A segment is closed by what comes after it, and only closed ones are compacted.
    let mut read = topic.read(&shard, StartAt::TrimHorizon).await;
    let mut agreed = false;
    for _ in 0..300 {
        if read.iter().any(|(offset, ..)| *offset == 195) {
            peer.produce("compacted", &[record(195)], "none");
        } else if read == peer.read("compacted", 0) {
            agreed = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(110)).await;
        read = topic.read(&shard, StartAt::TrimHorizon).await;
    }
    assert!(agreed, "the other client reads the same after compaction: {read:?}");
    for (key, n) in b"abcde".iter().zip(195..) {
        let last = read.iter().rfind(|(_, of, ..)| of.as_deref() == Some(&[*key]));
        assert_eq!(last.unwrap().2.as_deref(), Some(texts[n].as_bytes()));
    }
    // A start whose record was compacted away is no gap: the next one, the last of its key, is read.
    for start in [StartAt::At(number(195)), StartAt::After(number(195))] {
        let page = topic.page(&shard, start.clone()).await.unwrap();
        assert!(page.sparse && !page.trimmed && page.first_kept.is_none(), "{start:?}");
        assert_eq!(topic.read(&shard, start).await[0].0, 196);
    }
}

async fn starts_and_ends(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "starts");
    peer.create("starts", 1, json!({}), 1);
    let shard = topic.shard(0).await;
    let found = async |from| topic.topic.find(&shard, from).await.unwrap().at;
    assert_eq!(found(StartFrom::Tip).await, Checkpoint::TrimHorizon, "nothing was written yet");
    let values: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let at_ms = |n: i64| 1_768_469_400_000 + n * 1000;
    let records: Vec<Sent<'_>> =
        values.iter().zip(0..).map(|(value, n)| (0, None, Some(value.as_bytes()), at_ms(n))).collect();
    assert_eq!(peer.produce("starts", &records, "none"), (0..10).collect::<Vec<_>>());
    for (from, expected) in [
        (StartFrom::Tip, Some(9)),
        (StartFrom::Time(at_ms(4) * 1000), Some(3)),
        (StartFrom::Time(at_ms(4) * 1000 - 1), Some(3)),
        (StartFrom::Time(at_ms(4) * 1000 + 1), Some(4)),
        (StartFrom::Time(0), None),
        (StartFrom::Time(at_ms(99) * 1000), Some(9)),
    ] {
        let expected = expected.map(|n| Checkpoint::At(u128::into(n)));
        assert_eq!(found(from).await, expected.unwrap_or(Checkpoint::TrimHorizon), "{from:?}");
    }
    // Retention passes the place to read on.
    peer.ask(&json!(["forget", "starts", 0, 6])).unwrap();
    for (start, trimmed) in
        [(StartAt::At(number(2)), true), (StartAt::After(number(4)), true), (StartAt::At(number(5)), false)]
    {
        let page = topic.page(&shard, start.clone()).await.unwrap();
        assert_eq!((page.len(), page.trimmed, &page.first_kept), (0, trimmed, &Some(number(6))), "{start:?}");
        let next = topic.source.fetch(&shard, page.next_iterator.as_deref().unwrap(), 10).await.unwrap();
        assert_eq!((next.len(), next.trimmed, next.behind()), (4, false, Behind::Tip));
    }
    // Nothing is ever moved back to the end.
    for start in [StartAt::At(number(10)), StartAt::At(number(11)), StartAt::After(number(4711))] {
        let refused = topic.page(&shard, start.clone()).await;
        assert!(matches!(refused, Err(FetchError::Truncated(_))), "{start:?}: {refused:?}");
    }
    assert_eq!(topic.page(&shard, StartAt::After(number(9))).await.unwrap().behind(), Behind::Tip);
    assert!(topic.topic.accepts(&shard, &number(9)).await.unwrap());
    assert!(!topic.topic.accepts(&shard, &number(10)).await.unwrap());
}

async fn partitions_come_and_topics_go(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "comes-and-goes");
    assert!(matches!(topic.topic.list().await, Err(ListError::NotFound(_))));
    peer.create("comes-and-goes", 2, json!({}), 1);
    let before = topic.topic.list().await.unwrap();
    assert_eq!((before.len(), topic.topic.lineage()), (2, Lineage::Flat));
    let id = topic.topic.stream().await.unwrap().unwrap();
    assert!(id.is_whole() && id.to_string().starts_with("kafka:kinetide-TestClusterAA:"), "{id}");
    peer.ask(&json!(["partitions", "comes-and-goes", 5])).unwrap();
    let mut after = topic.topic.list().await.unwrap();
    for _ in 0..100 {
        if after.len() == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = topic.topic.list().await.unwrap();
    }
    assert!(after.len() == 5 && before.iter().all(|shard| after.contains(shard)), "{after:?}");
    peer.produce("comes-and-goes", &[(4, None, Some(b"late"), 0)], "none");
    assert_eq!(topic.read(&topic.shard(4).await, StartAt::TrimHorizon).await.len(), 1);
    // Deleted and made again it is another topic, with other partitions.
    peer.ask(&json!(["delete", "comes-and-goes"])).unwrap();
    let gone = topic.page(&before[0].id, StartAt::TrimHorizon).await;
    assert!(matches!(gone, Err(FetchError::NotFound)), "{gone:?}");
    peer.create("comes-and-goes", 1, json!({}), 1);
    peer.produce("comes-and-goes", &[(0, None, Some(b"another"), 0)], "none");
    let again = topic.topic.list().await.unwrap();
    assert!(again.len() == 1 && !before.contains(&again[0]));
    for start in [StartAt::TrimHorizon, StartAt::At(number(0))] {
        let gone = topic.page(&before[0].id, start).await;
        assert!(matches!(gone, Err(FetchError::NotFound)), "{gone:?}");
    }
    assert_ne!(topic.topic.stream().await.unwrap(), Some(id));
}

async fn what_we_write_is_read(brokers: &Brokers, peer: &Arc<Peer>) {
    let topic = Topic::new(brokers, peer, "ours");
    peer.create("ours", 1, json!({}), 1);
    let id = partition_of(&topic.shard(0).await).unwrap();
    let mut expected = Vec::new();
    for compression in [Compression::None, Compression::Gzip] {
        let records =
            [(Some(&b"k"[..]), Some(&b"value"[..]), 1_768_469_400_123), (None, None, 1_768_469_400_000)];
        let first = topic.topic.cluster().produce(id, &batch_of(&records, compression)).await.unwrap();
        assert_eq!(first, i64::try_from(expected.len()).unwrap());
        expected.extend(records.iter().zip(first..).map(|((key, value, ms), offset)| {
            (offset, key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec), *ms)
        }));
    }
    assert_eq!(topic.agrees(0).await, expected);
}
