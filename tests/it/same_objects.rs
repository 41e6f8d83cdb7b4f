//! Objects of this build beside those of an earlier one: `tests/fixtures/batches/objects.txt`, printed by this test when
//! it was written. Where a line changes, a fleet of both builds repairs each other's batches: raise the version of the
//! transform, or find out what changed.

use std::fmt::Write as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use kinetide::internals::batch::{
    Batch, BatchContext, BatchLimits, Batcher, Gzip, GzipEncoder, Layout, Packing,
};
use kinetide::internals::fetch::{Page, PageBuilder};
use kinetide::internals::shard::ShardId;
use kinetide::internals::transform::{Builtin, ColumnSettings, Nested, SourceKind, TransformSettings};

use super::tidy;

const EXPECTED: &str = include_str!("../fixtures/batches/objects.txt");
const START_US: i64 = 1_768_469_400_000_000;
const HOUR_US: i64 = 3_600_000_000;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name))
    };
}

/// Good and bad ones, some with members that are called as columns of kinetide are.
const RECORDS: [&[u8]; 18] = [
    fixture!("kinesis-dynamodb-insert.json"),
    fixture!("kinesis-dynamodb-modify.json"),
    fixture!("kinesis-dynamodb-remove.json"),
    fixture!("kinesis-dynamodb-ttl-remove.json"),
    fixture!("kinesis-dynamodb-insert-millis.json"),
    fixture!("all-types.json"),
    fixture!("bad-number.json"),
    fixture!("keys-only.json"),
    fixture!("missing-dynamodb.json"),
    fixture!("not-json.txt"),
    fixture!("two-tags.json"),
    fixture!("unknown-type.json"),
    br#"{"a":1,"b":{"c":[1,2]},"sub_sequence_number":7,"sequence_number":"x","Year":1}"#,
    br#"{"sub_sequence_number":"text","subSequenceNumber":1,"item_sub_sequence_number":2}"#,
    br#"{"eventName":"INSERT","dynamodb":{"ApproximateCreationDateTime":1768469400123456,"Keys":{"k":{"S":"1"}},"NewImage":{"k":{"S":"1"},"sub_sequence_number":{"N":"3"},"m":{"M":{"n":{"NULL":true}}}}}}"#,
    b"",
    b"\xf3\x89\x9a\xc2 not an aggregate",
    "{\"ключ\":\"значение\",\"t\":\"\u{2028}\"}".as_bytes(),
];

fn page(base64: bool) -> Page {
    let mut page = if base64 { PageBuilder::base64() } else { PageBuilder::default() };
    for (index, record) in RECORDS.iter().cycle().take(2 * RECORDS.len()).enumerate() {
        let sequence = (100 + index * 3).to_string();
        let arrival_us = START_US + i64::try_from(index % 3 / 2).unwrap() * HOUR_US + 1000;
        if base64 {
            let mut text = base64_simd::STANDARD.encode_to_string(record).into_bytes();
            text.extend_from_slice(if index % 20 == 19 { b"!" } else { b"" });
            page.push(&sequence, "key", arrival_us, &text);
        } else {
            page.push(&sequence, "key", arrival_us, record);
        }
    }
    page.finish()
}

fn transforms() -> Vec<Builtin> {
    let columns = ColumnSettings {
        rename: [("a".to_owned(), "sub_sequence_number_of_a".to_owned())].into(),
        nested: Nested::JsonText,
    };
    let other = TransformSettings { columns, ..TransformSettings::default() };
    [TransformSettings::default(), other]
        .iter()
        .flat_map(|settings| Builtin::NAMES.map(|name| Builtin::named(name, settings).unwrap()))
        .collect()
}

/// The earlier build knew zlib only.
const ZLIB: Gzip = Gzip { level: 1, encoder: GzipEncoder::Zlib };

fn batch(
    transform: &Builtin,
    source: SourceKind,
    packing: Option<Packing>,
    base64: bool,
    gzip: Gzip,
) -> (String, Batch) {
    let context = Arc::new(BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000003"),
        source,
        layout: Layout { landing: "landing/trades".to_owned(), errors: "errors".to_owned(), alerts: false },
        limits: BatchLimits { gzip, ..BatchLimits::default() },
        transform: Arc::new(transform.clone()),
        packing,
    });
    let mut batcher = Batcher::new(Arc::clone(&context));
    page(base64).records().for_each(|record| batcher.push(&record));
    (context.id(), batcher.close().unwrap())
}

/// What another encoder makes of the records is known by its rows alone.
fn same_but_for_bytes(one: &Batch, other: &Batch) {
    let objects = |batch: &Batch| -> Vec<_> {
        batch.objects.iter().map(|object| (object.key.clone(), object.content)).collect()
    };
    assert_eq!(objects(one), objects(other));
    let packed = |batch: &Batch| -> Vec<String> {
        let text = |record: &bytes::Bytes| match record.starts_with(b"\x1f\x8b") {
            true => std::io::read_to_string(GzDecoder::new(&record[..])).unwrap(),
            false => String::from_utf8(record.to_vec()).unwrap(),
        };
        batch.packed.iter().map(text).collect()
    };
    assert_eq!(packed(one), packed(other));
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn objects_are_those_of_an_earlier_build() {
    let mut found = String::new();
    for transform in transforms() {
        for source in [SourceKind::Kinesis, SourceKind::DynamoDbStreams] {
            for packing in [None, Some(Packing::Lines), Some(Packing::GzipMembers)] {
                let (id, batch) = batch(&transform, source, packing, packing.is_none(), ZLIB);
                same_but_for_bytes(
                    &batch,
                    &self::batch(&transform, source, packing, packing.is_none(), Gzip::level(1)).1,
                );
                let (first, last) = (&batch.first, &batch.last);
                writeln!(found, "{id} {} {first:?} {last:?}", source.as_str()).unwrap();
                let Batch { records, rows, rows_bytes, .. } = batch;
                let (oldest, newest) = (batch.oldest_arrival_us, batch.newest_arrival_us);
                writeln!(found, " {records} records, {rows} rows, {rows_bytes} bytes, {oldest} to {newest}")
                    .unwrap();
                for object in &batch.objects {
                    writeln!(found, " {} {} {:016x}", object.key, object.content.rows, object.content.hash)
                        .unwrap();
                }
                for record in &batch.packed {
                    writeln!(found, " packed {:016x}", hash(record)).unwrap();
                }
            }
        }
    }
    let wrong = found.lines().zip(EXPECTED.lines()).find(|(found, expected)| found != expected);
    assert!(found == EXPECTED, "first difference: {wrong:?}\n{found}");
}

/// Another backend would change the bytes of objects (see `batch/encode.rs`). Any dependency can switch one on: that of C
/// counts before zlib-rs, that of miniz_oxide only where there is no other.
#[test]
fn flate2_compresses_with_zlib_rs() {
    let lock: toml::Table = tidy::read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let flate2: Vec<_> =
        packages.iter().filter(|package| package["name"].as_str() == Some("flate2")).collect();
    assert_eq!(flate2.len(), 1, "one version of flate2");
    let needs: Vec<&str> =
        flate2[0]["dependencies"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(needs, ["crc32fast", "miniz_oxide", "zlib-rs"]);
    let names = packages.iter().map(|package| package["name"].as_str().unwrap());
    let of_c: Vec<&str> =
        names.filter(|name| name.starts_with("libz-") || *name == "cloudflare-zlib-sys").collect();
    assert!(of_c.is_empty(), "{of_c:?}");
}
