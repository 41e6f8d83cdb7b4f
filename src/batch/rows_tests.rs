//! Records that give no rows, or several: in batches, in records for a delivery stream, and back in a repair.

use std::collections::BTreeMap;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

use super::*;
use crate::fetch::{Page, PageBuilder};
use crate::shard::{RecordId, SequenceNumber};
use crate::transform::testing::copying;
use crate::transform::{Builtin, record_of};

const ARRIVAL_US: i64 = 1_768_469_400_000_000;
const HOUR_US: i64 = 3_600_000_000;
const PACKINGS: [Option<Packing>; 3] = [None, Some(Packing::Lines), Some(Packing::GzipMembers)];

fn context(transform: impl Transform, packing: Option<Packing>) -> Arc<BatchContext> {
    Arc::new(BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout { landing: "landing/trades".to_owned(), errors: "errors".to_owned(), alerts: false },
        limits: BatchLimits::default(),
        transform: Arc::new(transform),
        packing,
    })
}

/// Records 1, 2, …, each with how many rows [`copying`] makes of it: a dead letter for `None`.
fn page(copies: &[Option<u64>]) -> Page {
    let mut page = PageBuilder::default();
    for (index, copies) in copies.iter().enumerate() {
        let document = copies.map_or("none".to_owned(), |copies| format!("{copies}{{\"n\":{index}}}"));
        let arrival_us = ARRIVAL_US + i64::try_from(index % 3).unwrap() * HOUR_US;
        page.push(&(index + 1).to_string(), "k", arrival_us, document.as_bytes());
    }
    page.finish()
}

fn id(index: usize) -> RecordId {
    RecordId { sequence: SequenceNumber::parse(&(index + 1).to_string()).unwrap(), sub: None }
}

fn text(gzip: &[u8]) -> String {
    std::io::read_to_string(MultiGzDecoder::new(gzip)).unwrap()
}

/// Of each record, in which object it is and how often. `None` is the delivery stream.
fn places(batch: &Batch) -> BTreeMap<RecordId, Vec<Option<String>>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let objects = batch.objects.iter().map(|object| (Some(object.key.clone()), text(&object.body)));
    let packed = batch.packed.iter().map(|record| match record.starts_with(b"\x1f\x8b") {
        true => (None, text(record)),
        false => (None, String::from_utf8(record.to_vec()).unwrap()),
    });
    for (place, text) in objects.chain(packed) {
        for line in text.lines() {
            places.entry(record_of(line.as_bytes()).unwrap()).or_default().push(place.clone());
        }
    }
    places
}

fn batch(context: &Arc<BatchContext>, page: &Page) -> Option<Batch> {
    let mut batcher = Batcher::new(Arc::clone(context));
    page.records().for_each(|record| batcher.push(&record));
    batcher.close()
}

/// Its position moves on all the same.
#[test]
fn a_batch_may_have_no_rows_at_all() {
    for packing in PACKINGS {
        let mut batcher = Batcher::new(context(copying(), packing));
        let page = page(&[Some(0), Some(0), Some(0)]);
        page.records().for_each(|record| batcher.push(&record));
        assert!(!batcher.is_empty() && !batcher.is_full() && !batcher.is_cramped());
        assert_eq!((batcher.records(), batcher.rows_bytes(), batcher.held_bytes()), (3, 0, 0));
        assert_eq!((batcher.last(), batcher.oldest_arrival_us()), (Some(id(2).position()), Some(ARRIVAL_US)));
        let batch = batcher.close().unwrap();
        assert_eq!((batch.first, batch.last), (id(0).position(), id(2).position()));
        assert_eq!((batch.records, batch.rows, batch.rows_bytes), (3, 0, 0));
        assert!(batch.objects.is_empty() && batch.packed.is_empty() && batch.dead_letters.is_empty());
        assert!(batcher.is_empty() && batcher.close().is_none());
    }
}

/// Else a repair that finds some of them in the lake would take the others for there.
#[test]
fn rows_of_a_record_that_are_too_long_for_a_delivery_stream_all_go_to_the_lake() {
    let mut page = PageBuilder::default();
    let long = "x".repeat(400_000);
    for (number, copies) in [("1", 1), ("2", 3), ("3", 2)] {
        page.push(number, "k", ARRIVAL_US, format!("{copies}{{\"text\":\"{long}\"}}").as_bytes());
    }
    let batch = batch(&context(copying(), Some(Packing::Lines)), &page.finish()).unwrap();
    let places = places(&batch);
    assert_eq!((batch.rows, batch.objects.len(), batch.packed.len()), (6, 1, 2));
    assert_eq!(places[&id(0)], [None]);
    assert!(places[&id(1)].len() == 3 && places[&id(1)].iter().all(Option::is_some));
    assert_eq!(places[&id(2)], [None, None]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn all_rows_of_a_record_are_in_one_place(copies in prop::collection::vec(prop::option::weighted(0.9, 0u64..5), 1..40)) {
        let page = page(&copies);
        for packing in PACKINGS {
            let batch = batch(&context(copying(), packing), &page).unwrap();
            let dead: u64 = batch.dead_letters.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(batch.records, copies.len() as u64);
            prop_assert_eq!(batch.rows, copies.iter().flatten().sum::<u64>());
            prop_assert_eq!(dead, copies.iter().filter(|copies| copies.is_none()).count() as u64);
            for object in &batch.objects {
                prop_assert!(object.content.rows > 0);
                prop_assert_eq!(read_content(&object.body).unwrap(), object.content);
            }
            let places = places(&batch);
            for (index, copies) in copies.iter().enumerate() {
                let found = places.get(&id(index)).map_or(&[][..], Vec::as_slice);
                prop_assert_eq!(found.len() as u64, copies.unwrap_or(1), "record {}", index);
                prop_assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", found);
            }
        }
    }

    /// Some objects of a batch exist, and another transform makes the rest: the rows of a record are all of one of them.
    #[test]
    fn a_repair_never_mixes_the_rows_of_a_record(
        copies in prop::collection::vec(prop::option::weighted(0.9, 0u64..5), 1..20), kept: [bool; 6], turned: bool,
    ) {
        let page = page(&copies);
        // A document with a number before it is no JSON: `json` makes dead letters of all of them.
        let (first, second) = (context(copying(), None), context(Builtin::json(), None));
        let (first, second) = if turned { (second, first) } else { (first, second) };
        let mut before = batch(&first, &page).unwrap();
        let mut kept = kept.into_iter();
        before.objects.retain(|_| kept.next().unwrap());
        let mut there = RecordsThere::default();
        before.objects.iter().for_each(|object| there.extend(read_records(&object.body).unwrap()));
        let mut batcher = Batcher::new(second);
        page.records().filter(|record| !there.has(record)).for_each(|record| batcher.push(&record));
        let rest = batcher.close_as(&before.first, &before.last, 1);
        let (before, after) = (places(&before), rest.as_ref().map(places).unwrap_or_default());
        for (index, copies) in copies.iter().enumerate() {
            let count = |places: &BTreeMap<_, Vec<_>>| places.get(&id(index)).map_or(0, Vec::len) as u64;
            let (by_copies, by_json) = if turned { (count(&after), count(&before)) } else { (count(&before), count(&after)) };
            let copies = copies.unwrap_or(1);
            let whole = by_copies == copies && by_json == 0 || by_copies == 0 && by_json == 1;
            prop_assert!(whole, "record {}: {} by copies of {}, {} by json", index, by_copies, copies, by_json);
        }
    }
}
