use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;
use crate::fetch::{PageBuilder, Payload, Record};
use crate::generate::envelope::{self, Table};
use crate::generate::synthetic::{Mix, Synthetic};
use crate::shard::{RecordId, SequenceNumber};
use crate::transform::testing::panicking;
use crate::transform::{Builtin, Enrichment};

/// 2026-01-15T09:30:00Z.
const START_US: i64 = 1_768_469_400_000_000;
const HOUR_US: i64 = 3_600_000_000;

fn context(transform: impl Transform, limits: BatchLimits) -> Arc<BatchContext> {
    Arc::new(unpacked(transform, limits))
}

fn unpacked(transform: impl Transform, limits: BatchLimits) -> BatchContext {
    BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout { landing: "landing/transactions".into(), errors: "errors".into(), alerts: false },
        limits,
        transform: Arc::new(transform),
        packing: None,
    }
}

const PACKINGS: [Option<Packing>; 3] = [None, Some(Packing::Lines), Some(Packing::GzipMembers)];

fn packed(transform: impl Transform, limits: BatchLimits, packing: Option<Packing>) -> Arc<BatchContext> {
    Arc::new(BatchContext { packing, ..unpacked(transform, limits) })
}

/// The rows that go to a delivery stream, one behind the other.
fn packed_rows(batch: &Batch) -> Vec<u8> {
    let mut rows = Vec::new();
    for record in &batch.packed {
        if record.starts_with(b"\x1f\x8b") {
            MultiGzDecoder::new(&record[..]).read_to_end(&mut rows).unwrap();
        } else {
            rows.extend_from_slice(record);
        }
    }
    rows
}

fn crypto() -> Arc<BatchContext> {
    let transform = Builtin::crypto_transactions(&Enrichment::default()).unwrap();
    context(transform, BatchLimits::default())
}

fn json(limits: BatchLimits) -> Arc<BatchContext> {
    context(Builtin::json(), limits)
}

/// Records as (arrival time, payload), numbered from 1.
type Records = Vec<(i64, Vec<u8>)>;

/// Pushes the records in pages that end at `cuts`.
fn push(batcher: &mut Batcher, records: &Records, cuts: &[usize]) {
    let mut page = PageBuilder::default();
    for (index, (arrival_us, payload)) in records.iter().enumerate() {
        page.push(&(index + 1).to_string(), "", *arrival_us, payload);
        if cuts.contains(&index) {
            std::mem::take(&mut page).finish().records().for_each(|record| batcher.push(&record));
        }
    }
    page.finish().records().for_each(|record| batcher.push(&record));
}

fn batch(context: &Arc<BatchContext>, records: &Records) -> Batch {
    let mut batcher = Batcher::new(Arc::clone(context));
    push(&mut batcher, records, &[]);
    batcher.close().unwrap()
}

fn lines(object: &LakeObject) -> Vec<String> {
    let mut text = String::new();
    MultiGzDecoder::new(&object.body[..]).read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn at(number: usize) -> Position {
    Position::new(SequenceNumber::parse(&number.to_string()).unwrap())
}

fn whole(number: usize) -> RecordId {
    RecordId { sequence: at(number).sequence, sub: None }
}

/// Text that compresses about as rows do, the same for ever.
fn document(rng: &mut impl Rng, bytes: usize) -> Vec<u8> {
    let words =
        ["Binance", "Kraken", "BTC/USD", "0.42", "64250.75", "SUCCESS", "PENDING", "7b1f0c52", "0d2f"];
    let mut text = String::from("{\"text\":\"");
    while text.len() < bytes {
        text.push_str(words[rng.random_range(0..words.len())]);
        text.push_str(&rng.random_range(0..1000u32).to_string());
    }
    text.push_str("\"}");
    text.into_bytes()
}

fn documents(seed: u64, count: usize) -> Records {
    let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|index| {
            let bytes = rng.random_range(20..2000);
            let payload = if index % 50 == 49 { b"not JSON".to_vec() } else { document(rng, bytes) };
            (START_US + rng.random_range(0..3) * HOUR_US, payload)
        })
        .collect()
}

#[test]
fn bad_records_become_dead_letters_and_leave_their_neighbours_alone() {
    let fixture = |name: &str| {
        let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        (START_US, std::fs::read(path).unwrap())
    };
    let names = [
        ("kinesis-dynamodb-insert.json", None),
        ("not-json.txt", Some("not_json")),
        ("missing-dynamodb.json", Some("no_dynamodb")),
        ("kinesis-dynamodb-modify.json", None),
        ("unknown-type.json", Some("unknown_type")),
        ("two-tags.json", Some("two_tags")),
        ("bad-number.json", Some("bad_number")),
        ("keys-only.json", Some("no_image")),
        ("kinesis-dynamodb-remove.json", None),
    ];
    let records: Records = names.iter().map(|(name, _)| fixture(name)).collect();
    let batch = batch(&crypto(), &records);
    assert_eq!((batch.records, batch.rows, batch.dead_letters.len()), (9, 3, 6));
    assert!(batch.dead_letters.iter().all(|(_, count)| *count == 1));

    let rows = batch.objects.iter().find(|object| object.key.starts_with("landing/")).unwrap();
    assert_eq!(
        rows.key,
        "landing/transactions/year=2026/month=01/day=15/hour=09/trades-shardId-000000000000-1-9.ndjson.gz"
    );
    assert_eq!(read_records(&rows.body).unwrap(), [1, 4, 9].map(whole));
    for (index, (name, code)) in names.iter().enumerate() {
        let Some(code) = code else { continue };
        let folder = format!("errors/{code}/year=2026/month=01/day=15/hour=09/");
        let object = batch.objects.iter().find(|object| object.key.starts_with(&folder)).unwrap();
        assert_eq!(read_records(&object.body).unwrap(), [whole(index + 1)]);
        let row: serde_json::Value = serde_json::from_str(&lines(object)[0]).unwrap();
        let raw = base64_simd::STANDARD.decode_to_vec(row["rawData"].as_str().unwrap()).unwrap();
        assert_eq!((row["errorCode"].as_str(), raw), (Some(*code), fixture(name).1));
    }
}

#[test]
fn base64_payloads_are_decoded_or_kept_as_they_are() {
    let mut batcher = Batcher::new(json(BatchLimits::default()));
    for (number, text) in [("1", "eyJhIjoxfQ=="), ("2", "eyJhIjoxfQ"), ("3", "eyJh Ijox"), ("4", "bm8=")] {
        let payload = Payload::Base64(text.as_bytes());
        batcher.push(&Record {
            absent: Default::default(),
            sequence_number: number,
            sub_sequence: None,
            key: b"",
            arrival_us: START_US,
            payload,
        });
    }
    let batch = batcher.close().unwrap();
    assert_eq!(batch.rows, 1);
    assert_eq!(batch.dead_letters, [(ErrorCode::NotBase64, 2), (ErrorCode::NotJson, 1)]);
    let raw = lines(&batch.objects[0]).into_iter().map(|line| {
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        base64_simd::STANDARD.decode_to_vec(row["rawData"].as_str().unwrap()).unwrap()
    });
    assert!(raw.eq([&b"eyJhIjoxfQ"[..], b"eyJh Ijox"].map(<[u8]>::to_vec)));
}

#[test]
fn a_batch_over_several_hours_has_an_object_for_each_in_key_order() {
    let records = [2, 0, 1, 0].map(|hour| (START_US + hour * HOUR_US, b"{}".to_vec())).to_vec();
    let batch = batch(&json(BatchLimits::default()), &records);
    let hours: Vec<_> = batch.objects.iter().map(|object| &object.key[47..54]).collect();
    assert_eq!(hours, ["hour=09", "hour=10", "hour=11"]);
    assert_eq!(batch.objects.iter().map(|object| object.content.rows).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!((batch.first, batch.last), (at(1), at(4)));
    assert_eq!((batch.oldest_arrival_us, batch.newest_arrival_us), (START_US, START_US + 2 * HOUR_US));
}

/// A backfill whose records are of many hours in turn: neither an object for each record, nor a compressor for each hour.
#[test]
fn hours_in_turn_share_few_objects_and_bounded_memory() {
    let context = json(BatchLimits::default());
    let mut batcher = Batcher::new(Arc::clone(&context));
    let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let records: Records =
        (0..8000).map(|index| (START_US + index % 400 * HOUR_US, document(rng, 500))).collect();
    push(&mut batcher, &records, &[]);
    assert!(!batcher.is_full() && !batcher.is_crowded());
    let (held, rows) = (batcher.held_bytes(), batcher.rows_bytes());
    assert!(held < 2 * rows, "{held} bytes for {rows} bytes of rows");
    assert!(batcher.waiting_bytes() == rows);
    let batch = batcher.close().unwrap();
    assert_eq!((batch.objects.len(), batch.rows), (400, 8000));
    // With 400 hours and 64 MiB of rows, as many compressors as hours: still about what the rows take.
    let limits = BatchLimits { rows_bytes_max: 16 << 20, ..BatchLimits::default() };
    let mut batcher = Batcher::new(json(limits));
    let records: Records = (0..30).map(|index| (START_US + index * HOUR_US, document(rng, 60_000))).collect();
    let mut most = 0;
    while !batcher.is_full() {
        push(&mut batcher, &records, &[]);
        most = most.max(batcher.held_bytes());
    }
    assert!(most < 24 << 20, "{most}");
}

/// The keys of a batch go into one item of DynamoDB, with those of its repairs.
#[test]
fn a_batch_has_no_more_objects_than_its_description_can_name() {
    let folder = "landing/".to_owned() + &"x".repeat(700);
    let context = BatchContext {
        layout: Layout { landing: folder, errors: "errors".to_owned(), alerts: false },
        ..unpacked(Builtin::json(), BatchLimits::default())
    };
    for (context, least) in [(context, 90), (unpacked(Builtin::json(), BatchLimits::default()), 400)] {
        let mut batcher = Batcher::new(Arc::new(context));
        let mut hours = 0;
        while !batcher.is_full() {
            push(&mut batcher, &vec![(START_US + hours * HOUR_US, b"{}".to_vec())], &[]);
            hours += 1;
        }
        let batch = batcher.close().unwrap();
        let keys: usize = batch.objects.iter().map(|object| object.key.len()).sum();
        assert!(keys <= 96 << 10, "{keys}");
        assert!(batch.objects.len() >= least, "{}", batch.objects.len());
    }
}

#[test]
fn times_that_no_path_can_write_share_a_partition() {
    let records = [i64::MIN, -1, 0, i64::MAX].map(|us| (us, b"{}".to_vec())).to_vec();
    let batch = batch(&json(BatchLimits::default()), &records);
    assert_eq!(batch.objects.iter().map(|object| object.content.rows).collect::<Vec<_>>(), [3, 1]);
    assert!(batch.objects[1].key.contains("year=9999/month=12/day=31/hour=23"));
}

#[test]
fn a_batch_is_full_at_its_limits_and_empty_after_close() {
    let limits = BatchLimits { rows_bytes_max: 1000, objects_max: 2, ..BatchLimits::default() };
    let mut batcher = Batcher::new(json(limits));
    assert!(batcher.is_empty() && batcher.close().is_none() && batcher.last().is_none());
    push(&mut batcher, &vec![(START_US, b"{}".to_vec()); 2], &[]);
    let held = batcher.held_bytes();
    assert!(
        !batcher.is_full() && held >= batcher.rows_bytes() && held < 4 << 10,
        "no compressor yet: {held}"
    );
    push(&mut batcher, &vec![(START_US, vec![b'x'; 600])], &[]);
    assert!(batcher.is_full(), "two objects");
    assert_eq!(
        (batcher.records(), batcher.last(), batcher.oldest_arrival_us()),
        (3, Some(at(1)), Some(START_US))
    );
    let batch = batcher.close_as(&at(1), &at(1), 2).unwrap();
    assert!(batch.objects.iter().all(|object| object.key.ends_with("-1-1-r2.ndjson.gz")));
    assert!(batcher.is_empty() && !batcher.is_full() && batcher.held_bytes() == 0);
    push(&mut batcher, &vec![(START_US, b"{}".to_vec()); 20], &[]);
    assert!(batcher.is_full() && batcher.rows_bytes() >= 1000, "bytes");
}

/// Where there is no room for compressors the rows wait for the end of the batch; its bytes are the same.
/// A record may arrive hours after its change, and a dead letter lies where it arrived.
#[test]
fn rows_lie_in_the_hour_of_their_change() {
    let table = Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() };
    let changes = Synthetic::new(1, Mix::default()).take(6).zip([0, 1, 2, 23, 24, 800]);
    let mut records: Records = changes
        .map(|(change, hours)| {
            let mut data = Vec::new();
            envelope::write(&table, &change, &uuid::Uuid::nil(), START_US - hours * HOUR_US, &mut data);
            (START_US, data)
        })
        .collect();
    records.push((START_US, b"not JSON".to_vec()));
    let batch = batch(&crypto(), &records);
    assert_eq!(batch.objects.len(), 7);
    for object in &batch.objects {
        for line in lines(object) {
            let row: serde_json::Value = serde_json::from_str(&line).unwrap();
            let us = row["cdc_ts_us"].as_i64().unwrap_or(START_US);
            assert!(object.key.contains(&hour_folder(us)), "{us} in {}", object.key);
        }
    }
}

/// To the byte and to the object, whatever kind of record it is that fills the batch.
#[test]
fn limits_and_figures_are_exact() {
    let mut records = documents(11, 30);
    for (n, (arrival_us, payload)) in records.iter_mut().enumerate() {
        *arrival_us -= i64::try_from(n).unwrap();
        if n % 3 == 2 {
            *payload = b"not JSON".repeat(n);
        }
    }
    let filled_by = |limits: BatchLimits| {
        let mut batcher = Batcher::new(json(limits));
        let mut page = PageBuilder::default();
        for (index, (arrival_us, payload)) in records.iter().enumerate() {
            page.push(&(index + 1).to_string(), "", *arrival_us, payload);
        }
        let page = page.finish();
        let pushed = page.records().take_while(|record| {
            let room = !batcher.is_full();
            if room {
                batcher.push(record);
            }
            room
        });
        pushed.count()
    };
    let mut objects = 0;
    for end in 1..=records.len() {
        let whole = batch(&json(BatchLimits::default()), &records[..end].to_vec());
        let bytes = whole.objects.iter().flat_map(lines).map(|line| line.len() + 1).sum();
        assert_eq!(whole.rows_bytes, bytes as u64);
        let arrivals = || records[..end].iter().map(|(arrival_us, _)| *arrival_us);
        assert_eq!(Some(whole.oldest_arrival_us), arrivals().min());
        assert_eq!(Some(whole.newest_arrival_us), arrivals().max());
        assert_eq!(filled_by(BatchLimits { rows_bytes_max: bytes, ..BatchLimits::default() }), end);
        if whole.objects.len() > objects {
            objects = whole.objects.len();
            assert_eq!(filled_by(BatchLimits { objects_max: objects, ..BatchLimits::default() }), end);
        }
    }
    assert!(objects > 4, "{objects}");
}

#[test]
fn a_batch_without_room_holds_its_rows_and_is_as_good() {
    let context = json(BatchLimits::default());
    let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(5);
    // More rows in each of three hours than are kept as they are; one row that is too large for that by itself; and a
    // small one.
    let mut records: Records =
        (0..600).map(|index| (START_US + index % 3 * HOUR_US, document(rng, 3000))).collect();
    records.push((START_US + 4 * HOUR_US, document(rng, 500 << 10)));
    records.push((START_US + 5 * HOUR_US, document(rng, 1000)));
    let mut page = PageBuilder::default();
    for (index, (arrival_us, payload)) in records.iter().enumerate() {
        page.push(&(index + 1).to_string(), "", *arrival_us, payload);
    }
    let page = page.finish();
    let whole = batch(&context, &records);
    for compressors in 0..5 {
        let mut batcher = Batcher::new(Arc::clone(&context));
        let mut given = 0;
        for record in page.records() {
            batcher.push_within(&record, false, |bytes| {
                assert!(bytes > 200 << 10);
                let room = given < compressors;
                given += usize::from(room);
                room
            });
        }
        assert_eq!((batcher.is_full(), batcher.is_cramped()), (false, compressors < 4));
        let (held, rows) = (batcher.held_bytes(), batcher.rows_bytes());
        assert!(held < compressors * (900 << 10) + rows + (700 << 10), "{held} bytes with {compressors}");
        assert!(compressors > 0 || held >= rows);
        assert_eq!(batcher.close().unwrap(), whole);
        assert!(!batcher.is_cramped());
    }
    // Room that comes late is taken.
    let mut batcher = Batcher::new(Arc::clone(&context));
    let mut asked = 0;
    for record in page.records() {
        batcher.push_within(&record, false, |_| {
            asked += 1;
            asked > 100
        });
    }
    assert!(batcher.is_cramped() && batcher.close().unwrap() == whole);
}

#[test]
fn a_delivery_stream_gets_the_rows_of_all_hours_in_order_and_the_lake_the_rest() {
    let long = |bytes| [b"{\"text\":\"", &vec![b'x'; bytes][..], b"\"}"].concat();
    let good = |hour| (START_US + hour * HOUR_US, b"{}".to_vec());
    // Only the last one does not fit into a record of any packing.
    let records = vec![good(2), (START_US, b"bad".to_vec()), good(0), good(1), (START_US, long(1_024_000))];
    let lake = batch(&json(BatchLimits::default()), &records);
    assert!(lake.packed.is_empty());
    let landed = lake.objects.iter().filter(|object| object.key.starts_with("landing/"));
    assert_eq!(landed.count(), 3);
    for packing in [Packing::Lines, Packing::GzipMembers] {
        let context = packed(Builtin::json(), BatchLimits::default(), Some(packing));
        let batch = batch(&context, &records);
        assert_eq!((batch.records, batch.rows, batch.rows_bytes), (5, 4, lake.rows_bytes));
        assert_eq!(read_lines(&packed_rows(&batch)), [1, 3, 4].map(whole));
        let keys: Vec<_> = batch.objects.iter().map(|object| &object.key[..14]).collect();
        assert_eq!(keys, ["errors/not_jso", "landing/transa"]);
        assert_eq!(read_records(&batch.objects[1].body).unwrap(), [whole(5)]);
        assert!(batch.held_bytes() >= packed_rows(&batch).len().min(100) + batch.objects[1].body.len());
    }
    let ids: std::collections::BTreeSet<_> = PACKINGS
        .map(|packing| packed(Builtin::json(), BatchLimits::default(), packing).id())
        .into_iter()
        .collect();
    assert_eq!(ids.len(), 3, "none finishes the batch of another: {ids:?}");
    assert!(ids.contains(&Builtin::json().id().to_string()));
}

/// Records of rows that are not compressed.
fn read_lines(rows: &[u8]) -> Vec<RecordId> {
    let mut object = encode::Encoder::new(Gzip::level(1));
    object.push(rows, 1, |_| true);
    read_records(&object.finish()).unwrap()
}

#[test]
fn a_seal_is_an_empty_object() {
    assert_eq!(read_records(&seal_object()).unwrap(), []);
    let mut text = String::new();
    MultiGzDecoder::new(&seal_object()[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn positions_come_from_whole_objects_only() {
    let object = batch(&json(BatchLimits::default()), &documents(3, 40)).objects[0].body.clone();
    let positions = read_records(&object).unwrap();
    let twice = [&object[..], &seal_object(), &object].concat();
    assert_eq!(read_records(&twice).unwrap(), [&positions[..], &positions].concat());
    for cut in [0, 5, object.len() / 2, object.len() - 1] {
        assert!(matches!(read_records(&object[..cut]), Err(UnreadableObject::Gzip(_))), "{cut}");
    }
    let mut foreign = encode::Encoder::new(Gzip::level(1));
    foreign.push(b"{\"a\":1}\n", 1, |_| true);
    assert!(matches!(read_records(&foreign.finish()), Err(UnreadableObject::Row { row: 1 })));
}

/// What is in an object is told by its rows, whatever compressed them, and by any cut or change of them.
#[test]
fn content_is_that_of_the_rows_alone() {
    let records = documents(5, 900);
    let objects = |level| {
        batch(&json(BatchLimits { gzip: Gzip::level(level), ..BatchLimits::default() }), &records).objects
    };
    let (fast, small) = (objects(1), objects(9));
    assert_ne!(fast[0].body, small[0].body);
    assert_eq!(fast[0].content, small[0].content);
    assert_eq!(read_content(&small[0].body).unwrap(), fast[0].content);
    assert_eq!(read_content(&seal_object()).unwrap().rows, 0);
    // Several members are one object, and rows that only change places another one.
    let text = lines(&fast[0]).iter().map(|line| format!("{line}\n")).collect::<Vec<_>>();
    let object = |rows: &[String]| {
        let mut encoder = encode::Encoder::new(Gzip::level(1));
        rows.iter().for_each(|row| assert!(encoder.push(row.as_bytes(), 1, |_| true)));
        encoder.finish()
    };
    let members = [object(&text[..3]), object(&text[3..])].concat();
    assert_eq!(read_content(&members).unwrap(), fast[0].content);
    let turned = read_content(&object(&[&text[1..], &text[..1]].concat())).unwrap();
    assert!(turned != fast[0].content && turned.rows == fast[0].content.rows);
    assert!(matches!(read_content(&fast[0].body[..fast[0].body.len() - 1]), Err(UnreadableObject::Gzip(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Pages and earlier batches leave no trace in the bytes of an object.
    #[test]
    fn the_same_records_give_the_same_objects(
        seed: u64, count in 1usize..300, cuts: [prop::sample::Index; 4], level in 1u32..=9,
        packing in prop::sample::select(PACKINGS.to_vec()),
    ) {
        let limits = BatchLimits { gzip: Gzip::level(level), ..BatchLimits::default() };
        let context = packed(Builtin::json(), limits, packing);
        let records = documents(seed, count);
        let mut used = Batcher::new(Arc::clone(&context));
        push(&mut used, &documents(!seed, 20), &[3]);
        used.close();
        push(&mut used, &records, &cuts.map(|cut| cut.index(count)));
        prop_assert_eq!(used.close().unwrap(), batch(&context, &records));
    }

    #[test]
    fn every_record_is_one_row_or_one_dead_letter(payloads in prop::collection::vec((0..3 * HOUR_US, prop_oneof![
        any::<Vec<u8>>(),
        "\\{\"[a-z]{0,5}\": ?[0-9]{1,3}\\}".prop_map(String::into_bytes),
        Just(include_bytes!("../../tests/fixtures/kinesis-dynamodb-insert.json").to_vec()),
    ]), 1..60)) {
        for context in PACKINGS.into_iter().flat_map(|packing| {
            [crypto(), json(BatchLimits::default())].map(|context| BatchContext { packing, ..(*context).clone() })
        }) {
            let batch = batch(&Arc::new(context), &payloads);
            let dead: u64 = batch.dead_letters.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(batch.rows + dead, payloads.len() as u64);
            let packed = packed_rows(&batch);
            let mut seen = read_lines(&packed);
            let mut bytes = packed.len() as u64;
            for object in &batch.objects {
                let lines = lines(object);
                prop_assert_eq!(lines.len() as u64, object.content.rows);
                prop_assert_eq!(read_content(&object.body).unwrap(), object.content);
                bytes += lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
                seen.extend(read_records(&object.body).unwrap());
            }
            prop_assert_eq!(bytes, batch.rows_bytes);
            seen.sort();
            prop_assert!(seen.into_iter().eq((1..=payloads.len()).map(whole)));
        }
    }
}

/// The transform panics at some records: the batch is what it would be without them, and they are dead letters in it.
#[test]
fn records_that_panic_a_transform_cost_themselves() {
    let documents = |keep: fn(usize) -> bool| -> Vec<(usize, Vec<u8>)> {
        let word = |n: usize| if n % 4 == 1 || n == 6 { "panic" } else { "calm" };
        (0..12usize)
            .filter(|n| keep(*n))
            .map(|n| (n, format!("{{\"n\":{n},\"w\":\"{}\"}}", word(n)).into()))
            .collect()
    };
    let build = |documents: Vec<(usize, Vec<u8>)>, base64: bool| {
        let mut page = if base64 { PageBuilder::base64() } else { PageBuilder::default() };
        for (n, document) in documents {
            let payload =
                if base64 { base64_simd::STANDARD.encode_to_string(document).into_bytes() } else { document };
            page.push(&(n + 1).to_string(), "", START_US, &payload);
        }
        let mut batcher = Batcher::new(context(panicking(), BatchLimits::default()));
        let page = page.finish();
        let mut seen = Vec::new();
        each_record(page.records(), |record, panicked| {
            seen.push((record.sequence_number.to_owned(), panicked));
            batcher.push_within(record, panicked, |_| true);
            std::ops::ControlFlow::Continue(())
        });
        (batcher.close().unwrap(), seen)
    };
    for base64 in [false, true] {
        let (batch, seen) = build(documents(|_| true), base64);
        assert_eq!(batch.dead_letters, [(ErrorCode::TransformPanicked, 4)]);
        assert_eq!((batch.records, batch.rows, &batch.first, &batch.last), (12, 8, &at(1), &at(12)));
        assert_eq!(seen.iter().filter(|(_, panicked)| *panicked).count(), 4);
        let letters =
            batch.objects.iter().find(|object| object.key.starts_with("errors/transform_panicked/")).unwrap();
        let first: serde_json::Value = serde_json::from_str(&lines(letters)[0]).unwrap();
        assert_eq!(first["sequenceNumber"], "2");
        let raw = base64_simd::STANDARD.decode_to_vec(first["rawData"].as_str().unwrap()).unwrap();
        assert_eq!(raw, br#"{"n":1,"w":"panic"}"#, "its bytes, to be tried again");
        let (calm, _) = build(documents(|n| n % 4 != 1 && n != 6), base64);
        let rows =
            |batch: &Batch| batch.objects.iter().find(|o| o.key.starts_with("landing/")).map(lines).unwrap();
        assert_eq!(rows(&batch), rows(&calm));
    }
}

#[test]
fn pushing_ends_where_it_is_told() {
    let mut page = PageBuilder::default();
    for n in 0..5 {
        page.push(&n.to_string(), "", START_US, b"panic");
    }
    let page = page.finish();
    let mut batcher = Batcher::new(context(panicking(), BatchLimits::default()));
    each_record(page.records(), |record, panicked| {
        batcher.push_within(record, panicked, |_| true);
        if batcher.records() == 2 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    });
    assert_eq!(batcher.close().unwrap().dead_letters, [(ErrorCode::TransformPanicked, 2)]);
}
