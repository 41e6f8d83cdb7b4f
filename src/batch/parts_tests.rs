//! Records that are parts of aggregates: through batches and objects, and back from those in a repair.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fetch::{Page, PageBuilder, Record};
use crate::shard::{RecordId, SequenceNumber};
use crate::transform::Builtin;

const ARRIVAL_US: i64 = 1_768_469_400_000_000;
const HOUR_US: i64 = 3_600_000_000;

fn context(transform: impl Transform) -> Arc<BatchContext> {
    Arc::new(BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout { landing: "landing/trades".to_owned(), errors: "errors".to_owned(), alerts: false },
        limits: BatchLimits::default(),
        transform: Arc::new(transform),
        packing: None,
    })
}

fn id(sequence: u64, sub: Option<u64>) -> RecordId {
    RecordId { sequence: SequenceNumber::parse(&sequence.to_string()).unwrap(), sub }
}

/// Stream records 1, 2, …: how many records each packs, 0 for one of its own. Each is a document or not.
fn page(packed: &[(u32, bool)]) -> Page {
    let mut page = PageBuilder::default();
    for (index, (parts, good)) in packed.iter().enumerate() {
        let sequence = (index + 1).to_string();
        let payload: &[u8] = if *good { b"{\"sub_sequence_number\":5}" } else { b"none" };
        let arrival_us = ARRIVAL_US + i64::try_from(index % 3).unwrap() * HOUR_US;
        match parts {
            0 => page.push(&sequence, "k", arrival_us, payload),
            _ => (0..*parts).for_each(|sub| page.push_part(&sequence, sub, "k", arrival_us, payload)),
        }
    }
    page.finish()
}

fn batch<'a>(transform: impl Transform, records: impl Iterator<Item = Record<'a>>) -> Option<Batch> {
    let mut batcher = Batcher::new(context(transform));
    records.for_each(|record| batcher.push(&record));
    batcher.close()
}

fn records_of<'a>(objects: impl IntoIterator<Item = &'a LakeObject>) -> Vec<RecordId> {
    objects.into_iter().flat_map(|object| read_records(&object.body).unwrap()).collect()
}

#[test]
fn a_batch_begins_and_ends_inside_aggregates() {
    let page = page(&[(3, true), (0, true), (4, true)]);
    let mut batcher = Batcher::new(context(Builtin::json()));
    page.records().skip(1).take(5).for_each(|record| batcher.push(&record));
    assert_eq!(batcher.last(), Some(id(3, Some(1)).position()));
    let batch = batcher.close().unwrap();
    assert_eq!((&batch.first, &batch.last), (&id(1, Some(1)).position(), &id(3, Some(1)).position()));
    assert!(batch.objects[0].key.ends_with("-1.1-3.1.ndjson.gz"), "{}", batch.objects[0].key);
    let expected = [(1, Some(1)), (1, Some(2)), (2, None), (3, Some(0)), (3, Some(1))];
    assert_eq!(records_of(&batch.objects), expected.map(|(sequence, sub)| id(sequence, sub)));
}

/// What a build made that did not unpack covers all that is in it; a part covers itself.
#[test]
fn the_whole_covers_its_parts_and_a_part_only_itself() {
    let page = page(&[(2, true), (2, true), (0, true)]);
    let mut there = RecordsThere::default();
    there.extend([id(1, None), id(2, Some(1)), id(3, Some(0))]);
    let has: Vec<_> = page.records().map(|record| there.has(&record)).collect();
    assert_eq!(has, [true, true, false, true, false]);
}

proptest! {
    /// A batch of which some objects exist, repaired by another transform: each record is there once.
    #[test]
    fn a_repair_makes_what_is_missing_part_by_part(
        packed in prop::collection::vec((0u32..4, any::<bool>()), 1..12), there: [bool; 6],
    ) {
        let page = page(&packed);
        let first = batch(Builtin::json(), page.records()).unwrap();
        let kept: Vec<_> = first.objects.iter().zip(there).filter(|(_, there)| *there).map(|(o, _)| o).collect();
        let mut known = RecordsThere::default();
        known.extend(records_of(kept.iter().copied()));
        let rest = batch(Builtin::dynamodb_cdc(), page.records().filter(|record| !known.has(record)));
        let mut all = records_of(kept.into_iter().chain(rest.iter().flat_map(|rest| &rest.objects)));
        all.sort();
        prop_assert!(all.into_iter().eq(page.records().map(|record| record.id())));
    }
}
