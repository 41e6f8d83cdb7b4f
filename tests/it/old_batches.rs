//! Batches that an earlier release has left pending, finished by this one: `tests/fixtures/pending/`, made by its
//! binary (`make.py` there).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64_simd::STANDARD;
use kinetide::internals::batch::{
    Batch, BatchContext, BatchLimits, Batcher, Gzip, GzipEncoder, Layout, read_records,
};
use kinetide::internals::checkpoint::{PendingBatch, PendingFormat, Proof, Stage, Unpacking};
use kinetide::internals::consumer::{
    ConsumerSettings, Lake, Land, Retention, Shared, StreamSetup, StreamSetups,
};
use kinetide::internals::deliver::Sink;
use kinetide::internals::deliver::memory::MemorySink;
use kinetide::internals::fetch::memory::MemoryStream;
use kinetide::internals::fetch::{
    ByteBudget, FetchError, Page, PageBuilder, Polled, Polling, StartAt, Starts,
};
use kinetide::internals::lease::coordinator::{Coordinator, CoordinatorSettings};
use kinetide::internals::lease::memory::MemoryLeaseTable;
use kinetide::internals::lease::plan::Rules;
use kinetide::internals::lease::{Lease, LeaseTable, Pending, StreamLeases, StreamSet, WorkerId};
use kinetide::internals::shard::{Checkpoint, Position, RecordId, SequenceNumber, ShardId, ShardLister};
use kinetide::internals::telemetry::status::{Delivery, ProcessFacts, Status};
use kinetide::internals::transform::{Builtin, Enrichment, SourceKind, Transform};
use kinetide::internals::worker::{self, Drain};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const FIXTURES: [(&str, &str); 5] = [
    ("plain", include_str!("../fixtures/pending/plain.json")),
    ("dead letters", include_str!("../fixtures/pending/dead-letters.json")),
    ("sealing", include_str!("../fixtures/pending/sealing.json")),
    ("shard end", include_str!("../fixtures/pending/shard-end.json")),
    ("streamed", include_str!("../fixtures/pending/streamed.json")),
];

#[derive(Deserialize)]
struct Fixture {
    state: String,
    records: Vec<OldRecord>,
    /// Objects in the lake when the batch was left.
    there: BTreeMap<String, String>,
    /// Objects in the lake when the earlier release had finished it by itself.
    #[serde(default)]
    made: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct OldRecord {
    sequence: String,
    #[serde(default)]
    sub: Option<u32>,
    data: String,
    arrival_us: i64,
}

impl OldRecord {
    fn position(&self) -> Position {
        let sequence = SequenceNumber::parse(&self.sequence).unwrap();
        Position { sequence, sub: self.sub.unwrap_or(0).into() }
    }
}

impl Fixture {
    fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap()
    }

    fn pending(&self) -> Pending {
        let last = self.records.last().unwrap().position();
        let state = Some(Arc::from(self.state.as_bytes()));
        Pending { checkpoint: Checkpoint::At(last), state }
    }

    fn batch(&self) -> PendingBatch {
        PendingBatch::from_pending(&self.pending()).unwrap().unwrap()
    }
}

/// A release that is rolled back to must read what this one writes in format 1, and so must one beside it.
#[test]
fn format_1_is_written_as_it_was_byte_for_byte() {
    for (name, text) in FIXTURES {
        let fixture = Fixture::read(text);
        let batch = fixture.batch();
        assert!(batch.proof.is_none());
        assert_eq!(batch.to_pending(), fixture.pending(), "{name}");
        assert_eq!(batch.stage == Stage::Seal, name == "sealing");
        assert_eq!((batch.shard_end, batch.streamed), (name == "shard end", name == "streamed"));
    }
}

/// The records of one shard, where their sequence numbers are those of Kinesis.
struct OldStream(Vec<OldRecord>);

#[async_trait]
impl Polled for OldStream {
    async fn iterator(&self, _: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        let sequence = |record: &OldRecord| record.position().sequence;
        let from = match start {
            StartAt::At(at) => self.0.iter().filter(|record| sequence(record) < *at).count(),
            StartAt::After(at) => self.0.iter().filter(|record| sequence(record) <= *at).count(),
            _ => 0,
        };
        Ok(from.to_string())
    }

    async fn fetch(&self, _: &ShardId, iterator: &str, _: usize) -> Result<Page, FetchError> {
        let from: usize = iterator.parse().unwrap();
        let mut page = PageBuilder::default();
        let records = self.0.iter().skip(from).take(2);
        records.clone().for_each(|r| match r.sub {
            None => page.push(&r.sequence, "key", r.arrival_us, r.data.as_bytes()),
            Some(sub) => page.push_part(&r.sequence, sub, "key", r.arrival_us, r.data.as_bytes()),
        });
        let mut page = page.finish();
        let next = from + records.count();
        page.millis_behind_latest = Some(if next == self.0.len() { 0 } else { 1000 });
        page.next_iterator = Some(next.to_string());
        Ok(page)
    }

    fn page_bytes_max(&self) -> usize {
        64 << 10
    }
}

/// A worker of this release finds the batch with these objects in the lake; the lake when it has come to the last record.
async fn finish(
    pending: &Pending,
    records: &[OldRecord],
    there: &BTreeMap<String, String>,
    transform: Arc<dyn Transform>,
    format: PendingFormat,
    gzip: Gzip,
) -> Arc<MemorySink> {
    let (table, sink) = (Arc::new(MemoryLeaseTable::new()), Arc::new(MemorySink::new()));
    let lister = Arc::new(MemoryStream::new(1, 1, |_| 0));
    let shard = lister.list().await.unwrap().remove(0);
    let lease = Lease { pending: Some(pending.clone()), ..Lease::new(&shard, Checkpoint::TrimHorizon) };
    assert!(table.create(&lease).await.unwrap());
    for (key, body) in there {
        sink.create(key, STANDARD.decode_to_vec(body).unwrap().into()).await.unwrap();
    }
    let failover = Duration::from_secs(10);
    let starts = Arc::new(Starts::new(Arc::clone(&lister) as _));
    let coordinator = Coordinator::new(
        CoordinatorSettings {
            worker: WorkerId::new("new"),
            failover,
            scan_interval: Duration::from_secs(1),
            shard_sync_interval: Duration::from_secs(60),
            rules: Rules { leases_max: 10, kbps_max: f64::INFINITY },
            cpu: Arc::new(|| None),
            wall_clock: Arc::new(|| 1_768_469_400),
            seed: 1,
        },
        Arc::clone(&table) as _,
        StreamSet::One(StreamLeases {
            name: "trades".into(),
            lister: Arc::clone(&lister) as _,
            starts: Arc::clone(&starts) as _,
            initial: Checkpoint::TrimHorizon,
            initial_timestamp_us: None,
        }),
    );
    let facts = ProcessFacts {
        worker: "new".into(),
        application: "app".into(),
        delivery: Delivery::ExactlyOnce,
        warnings: Vec::new(),
    };
    let landing = if transform.id().name() == "crypto-transactions" { "transactions" } else { "trades" };
    let budget = ByteBudget::new(64 << 20);
    let settings = ConsumerSettings {
        limits: BatchLimits { gzip, ..BatchLimits::default() },
        batch_age_max: Duration::from_secs(5),
        lake: "/lake".into(),
        pending_format: Some(format),
    };
    let work = Land {
        lake: Arc::new(Lake { sink: Arc::clone(&sink) as _, firehose: None, settings }),
        transform,
        layout: Layout { landing: format!("landing/{landing}"), errors: "errors".into(), alerts: false },
    };
    let source = Arc::new(Polling::new(Arc::new(OldStream(records.to_vec())), Duration::from_secs(1)));
    let setup = StreamSetup {
        address: "trades".into(),
        name: "trades".into(),
        kind: SourceKind::Kinesis,
        again: Arc::clone(&source) as _,
        source,
        lister,
        starts,
        work: Arc::new(work),
        initial_timestamp_us: None,
        retention: Retention::default(),
        budget: budget.clone(),
        removed: CancellationToken::new(),
    };
    let shared = Arc::new(Shared {
        streams: StreamSetups::new(vec![Arc::new(setup)]),
        coordinator,
        budget,
        status: Status::new(facts, failover * 3),
        seed: 1,
    });
    let end = Checkpoint::At(records.last().unwrap().position());
    let stop = CancellationToken::new();
    let mut work = JoinSet::new();
    work.spawn(worker::run(shared, stop.clone(), failover));
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let row = table.rows().remove(0);
        if row.checkpoint == end && row.pending.is_none() {
            stop.cancel();
            assert_eq!(work.join_next().await.unwrap().unwrap().unwrap(), Drain::Clean);
            return sink;
        }
    }
    panic!("not committed: {:?}", table.rows());
}

#[tokio::test(start_paused = true)]
async fn batches_of_an_earlier_release_are_finished_once() {
    let transforms: [Arc<dyn Transform>; 3] = [
        Arc::new(Builtin::crypto_transactions(&Enrichment::default()).unwrap()),
        Arc::new(Builtin::dynamodb_cdc()),
        Arc::new(Builtin::json()),
    ];
    for (name, text) in FIXTURES {
        let fixture = Fixture::read(text);
        let batch = fixture.batch();
        // Left as it was, cut off at its first object, and at its last.
        let mut lakes = vec![fixture.there.clone()];
        for many in [1, batch.objects.len()] {
            let mut lake = fixture.there.clone();
            let made = fixture.made.iter().filter(|(key, _)| batch.objects.contains(key));
            lake.extend(made.take(many).map(|(key, body)| (key.clone(), body.clone())));
            lakes.push(lake);
        }
        for lake in &lakes {
            for transform in &transforms {
                for format in [PendingFormat::One, PendingFormat::Two] {
                    let (pending, with) = (fixture.pending(), Arc::clone(transform));
                    let sink = finish(&pending, &fixture.records, lake, with, format, Gzip::level(1)).await;
                    let records = |body| read_records(body).unwrap();
                    let mut landed: Vec<Position> =
                        sink.objects().values().flat_map(|b| records(b)).map(RecordId::position).collect();
                    landed.sort();
                    let all = fixture.records.iter().map(|r| SequenceNumber::parse(&r.sequence).unwrap());
                    assert!(landed.into_iter().eq(all.map(Position::new)), "{name} by {}", transform.id());
                }
            }
        }
    }
}

/// A batch that begins and ends inside aggregates, some of whose rows are there: the others are made record by record, and
/// what is behind it in the last aggregate follows.
#[tokio::test(start_paused = true)]
async fn a_batch_is_finished_inside_an_aggregate() {
    let record = |(sequence, sub): (u64, Option<u32>)| OldRecord {
        sequence: sequence.to_string(),
        sub,
        data: "{\"a\":1}".to_owned(),
        arrival_us: 1_768_469_400_000_000 + i64::from(sub.unwrap_or(0)) * 3_600_000_000,
    };
    let all = [(5, Some(0)), (5, Some(1)), (5, Some(2)), (6, None), (7, Some(0)), (7, Some(1)), (7, Some(2))];
    let records = all.map(record);
    // Up to 5.0 everything is done; the batch is 5.1 to 7.1.
    let context = BatchContext {
        stream: "trades".into(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout { landing: "landing/trades".into(), errors: "errors".into(), alerts: false },
        limits: BatchLimits::default(),
        transform: Arc::new(Builtin::json()),
        packing: None,
    };
    let (id, mut batcher) = (context.id(), Batcher::new(Arc::new(context)));
    let stream = OldStream(records.to_vec());
    for from in ["0", "2", "4"] {
        let page = stream.fetch(&ShardId::new("shardId-000000000000"), from, 0).await.unwrap();
        let batch = records[1].position()..=records[5].position();
        page.records()
            .filter(|record| batch.contains(&record.position()))
            .for_each(|record| batcher.push(&record));
    }
    let batch = batcher.close().unwrap();
    assert_eq!(batch.objects.len(), 3);
    let pending = |transform: &str| {
        PendingBatch {
            first: batch.first.clone(),
            last: batch.last.clone(),
            transform: transform.to_owned(),
            generation: 0,
            stage: Stage::Deliver,
            objects: batch.objects.iter().map(|object| object.key.clone()).collect(),
            sealed: Vec::new(),
            shard_end: false,
            streamed: false,
            unpacking: Unpacking::Kpl,
            proof: Some(Proof {
                lake: "/lake".to_owned(),
                contents: batch.objects.iter().map(|object| object.content).collect(),
            }),
        }
        .to_pending()
    };
    for transform in [id.as_str(), "other/1/00000000"] {
        for there in 0..8usize {
            let objects = batch.objects.iter().enumerate().filter(|(index, _)| there >> index & 1 == 1);
            let there =
                objects.map(|(_, object)| (object.key.clone(), STANDARD.encode_to_string(&object.body)));
            let there = there.collect();
            let pending = pending(transform);
            let with = Arc::new(Builtin::json());
            let sink = finish(&pending, &records, &there, with, PendingFormat::Two, Gzip::level(1)).await;
            let objects = sink.objects();
            let mut landed: Vec<_> = objects.values().flat_map(|body| read_records(body).unwrap()).collect();
            landed.sort();
            let expected = all[1..].iter().map(|(sequence, sub)| RecordId {
                sequence: SequenceNumber::parse(&sequence.to_string()).unwrap(),
                sub: sub.map(u64::from),
            });
            assert!(landed.iter().cloned().eq(expected), "{transform}: {landed:?}");
        }
    }
}

/// What compressed an object is no part of what it is: a worker takes those that another encoder has made, and makes the
/// others with its own.
#[tokio::test(start_paused = true)]
async fn encoders_finish_each_others_batches() {
    let (rows, zlib) = (Gzip::level(1), Gzip { level: 1, encoder: GzipEncoder::Zlib });
    let record = |n: u32| OldRecord {
        sequence: (n + 1).to_string(),
        sub: None,
        data: format!("{{\"a\":{n},\"b\":\"{}\"}}", "text ".repeat(20)),
        arrival_us: 1_768_469_400_000_000 + i64::from(n % 3) * 3_600_000_000,
    };
    let records: Vec<OldRecord> = (0..12).map(record).collect();
    let left = |gzip: Gzip| -> (String, Batch) {
        let context = BatchContext {
            stream: "trades".into(),
            shard: ShardId::new("shardId-000000000000"),
            source: SourceKind::Kinesis,
            layout: Layout { landing: "landing/trades".into(), errors: "errors".into(), alerts: false },
            limits: BatchLimits { gzip, ..BatchLimits::default() },
            transform: Arc::new(Builtin::json()),
            packing: None,
        };
        let (id, mut batcher) = (context.id(), Batcher::new(Arc::new(context)));
        for record in &records {
            let mut page = PageBuilder::default();
            page.push(&record.sequence, "key", record.arrival_us, record.data.as_bytes());
            page.finish().records().for_each(|record| batcher.push(&record));
        }
        (id, batcher.close().unwrap())
    };
    for (one, other) in [(rows, zlib), (zlib, rows)] {
        let ((transform, batch), (_, own)) = (left(one), left(other));
        assert_eq!(batch.objects.len(), 3);
        let pending = PendingBatch {
            first: batch.first.clone(),
            last: batch.last.clone(),
            transform,
            generation: 0,
            stage: Stage::Deliver,
            objects: batch.objects.iter().map(|object| object.key.clone()).collect(),
            sealed: Vec::new(),
            shard_end: false,
            streamed: false,
            unpacking: Unpacking::Kpl,
            proof: Some(Proof {
                lake: "/lake".to_owned(),
                contents: batch.objects.iter().map(|object| object.content).collect(),
            }),
        };
        for there in 0..8usize {
            let is_there = |index: usize| there >> index & 1 == 1;
            let lake = batch.objects.iter().enumerate().filter(|(index, _)| is_there(*index));
            let lake = lake.map(|(_, object)| (object.key.clone(), STANDARD.encode_to_string(&object.body)));
            let (lake, with) = (lake.collect(), Arc::new(Builtin::json()));
            let pending = pending.to_pending();
            let sink = finish(&pending, &records, &lake, with, PendingFormat::Two, other).await;
            let made = batch.objects.iter().zip(&own.objects).enumerate().map(|(index, (there, own))| {
                assert!(there.body != own.body && there.content == own.content);
                (there.key.clone(), if is_there(index) { there.body.clone() } else { own.body.clone() })
            });
            assert!(sink.objects().into_iter().eq(made), "{there}");
        }
    }
}
