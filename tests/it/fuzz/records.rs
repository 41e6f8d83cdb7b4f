//! Records between two good ones, through every transform and into a lake that the judge reads.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use kinetide::internals::batch::{Batch, BatchContext, BatchLimits, Batcher, Layout, read_records};
use kinetide::internals::fetch::{Page, PageBuilder};
use kinetide::internals::shard::ShardId;
use kinetide::internals::transform::{Builtin, SourceKind, TransformSettings};
use kinetide::internals::trial::{Put, Puts, verify};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::value::RawValue;

use super::readers::strict;
use super::{fuzz, keep_for_readers};

const GOOD: &[u8] = include_bytes!("../../fixtures/kinesis-dynamodb-insert.json");
const ARRIVAL_US: i64 = 1_768_469_401_000_000;
const NUMBERS: [&str; 3] = ["1001", "1002", "1003"];

fn context(transform: Builtin) -> Arc<BatchContext> {
    Arc::new(BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout {
            landing: "landing/transactions".to_owned(),
            errors: "errors".to_owned(),
            alerts: false,
        },
        limits: BatchLimits::default(),
        transform: Arc::new(transform),
        packing: None,
    })
}

pub(super) fn contexts() -> Vec<Arc<BatchContext>> {
    let transforms = Builtin::NAMES.map(|name| Builtin::named(name, &TransformSettings::default()).unwrap());
    transforms.map(context).into()
}

fn page(middle: &[u8]) -> Page {
    let mut page = PageBuilder::default();
    for (number, data) in NUMBERS.into_iter().zip([GOOD, middle, GOOD]) {
        page.push(number, "key", ARRIVAL_US, data);
    }
    page.finish()
}

pub(super) fn batch(context: &Arc<BatchContext>, page: &Page) -> Option<Batch> {
    let mut batcher = Batcher::new(Arc::clone(context));
    page.records().for_each(|record| batcher.push(&record));
    let batch = batcher.close();
    batch.iter().for_each(|batch| keep_for_readers(batch, &*context.transform));
    batch
}

/// The members of a row. Numbers may be larger than a float.
fn members(line: &str) -> BTreeMap<String, &RawValue> {
    serde_json::from_str(line).unwrap()
}

/// Every line of a batch: its sequence number, whether it is a dead letter, and its text.
pub(super) fn lines(batch: &Batch) -> Vec<(String, bool, String)> {
    let mut lines = Vec::new();
    for object in &batch.objects {
        let dead = object.key.starts_with("errors/");
        let mut text = String::new();
        MultiGzDecoder::new(&object.body[..]).read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n') && !text.contains(['\u{2028}', '\u{2029}', '\r']), "one row, one line");
        for line in text.lines() {
            strict(line);
            let row = members(line);
            let number = row[if dead { "sequenceNumber" } else { "sequence_number" }].get();
            lines.push((serde_json::from_str(number).unwrap(), dead, line.to_owned()));
        }
        assert_eq!(read_records(&object.body).unwrap().len() as u64, object.content.rows);
    }
    lines.sort();
    lines
}

/// The judge looks at a lake and never panics; what it counts is told by the caller.
pub(super) async fn judge(
    objects: &[(String, Vec<u8>)],
    puts: Puts,
) -> kinetide::internals::trial::LakeCheck {
    let store = InMemory::new();
    for (key, body) in objects {
        store.put(&Path::from(key.as_str()), body.clone().into()).await.unwrap();
    }
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    verify(store, &Path::default(), puts, None, |_, _| ()).await.unwrap()
}

#[test]
fn a_bad_record_is_a_row_or_a_dead_letter_and_its_neighbours_are_what_they_were() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let contexts = contexts();
    let expected: Vec<_> =
        contexts.iter().map(|context| lines(&batch(context, &page(GOOD)).unwrap())).collect();
    let fixtures = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).unwrap();
    let mut fixtures: Vec<_> =
        fixtures.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    fixtures.sort();
    let seeds = fixtures.into_iter().map(|file| std::fs::read(file).unwrap()).collect();
    fuzz("records", 300, seeds, |data| {
        let mut kinds = Vec::new();
        for (context, expected) in contexts.iter().zip(&expected) {
            let batch = batch(context, &page(data)).unwrap();
            let found = lines(&batch);
            assert_eq!((batch.records, found.len()), (3, 3));
            assert_eq!((&found[0], &found[2]), (&expected[0], &expected[2]));
            let (number, dead, line) = &found[1];
            assert_eq!(number, NUMBERS[1]);
            let row = members(line);
            if *dead {
                let kept: String = serde_json::from_str(row["rawData"].get()).unwrap();
                let kept = base64_simd::STANDARD.decode_to_vec(kept).unwrap();
                assert_eq!(kept, data, "a dead letter holds the original bytes");
                kinds.push(row["errorCode"].get().to_owned());
            } else {
                kinds.push(row.get("invalid_reason").map_or("row", |reason| reason.get()).to_owned());
            }
            if context.transform.id().name() == "crypto-transactions" {
                let mut puts = Puts::default();
                for (number, data) in NUMBERS.into_iter().zip([GOOD, data, GOOD]) {
                    let put = Put::new(context.shard.as_str(), number, data, 0).unwrap();
                    puts.add(context.shard.as_str(), put).unwrap();
                }
                let objects = batch.objects.iter().map(|object| (object.key.clone(), object.body.to_vec()));
                let check = runtime.block_on(judge(&objects.collect::<Vec<_>>(), puts));
                assert_eq!((check.missing, check.duplicated, check.unexpected), (0, 0, 0), "{check:?}");
                // The judge refuses other records than the transform, among those that no table writes. Where
                // both can read one, they read the same.
                let disagrees = |problem: &String| problem.contains("differ") || problem.contains("another");
                assert!(!check.problems.iter().any(disagrees) && check.broken_lines == 0, "{check:?}");
            }
        }
        kinds.join(" ")
    });
}
