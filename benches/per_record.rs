//! The per-record path on one core: a `GetRecords` body → records → rows → gzip, against the obvious way.
//! `docs/PERFORMANCE.md` says how to read the figures.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on may stop")]
#![expect(clippy::print_stdout, reason = "sizes belong beside the figures")]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kinetide::internals::batch::{BatchContext, BatchLimits, Batcher, Gzip, GzipEncoder, Layout};
use kinetide::internals::fetch::{ByteBudget, OutOfRange, Page, Payload, parse_body, unpack};
use kinetide::internals::generate::envelope::{self, Table};
use kinetide::internals::generate::synthetic::{Mix, Synthetic};
use kinetide::internals::produce::aggregate::Aggregate;
use kinetide::internals::shard::{HashKeyRange, ShardId};
use kinetide::internals::transform::{Builtin, Enrichment, RecordContext, SourceKind, Transform};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// CPU time of this thread as Linux accounts for it, so that a busy machine does not spoil the figures.
struct CpuTime(WallTime);

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this bench needs Linux");
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

const RECORDS: usize = 5_000;
/// Records in an aggregate.
const PACKED: usize = 100;
const HOUR_MS: u64 = 1_768_467_600_000;

fn uuid(rng: &mut impl Rng) -> String {
    let bits: u128 = rng.random();
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
}

fn item(rng: &mut impl Rng, id: &str, at_us: u64) -> String {
    let mut pick = |from: &[&str]| from[rng.random_range(0..from.len())].to_owned();
    let (exchange, pair, order, status, source) = (
        pick(&["Binance", "Coinbase", "Kraken", "FTX", "OKX", "Bitfinex"]),
        pick(&["BTC/USD", "ETH/USDT", "SOL/USD", "ADA/USDT", "XRP/USD"]),
        pick(&["BUY", "SELL"]),
        pick(&["SUCCESS", "SUCCESS", "SUCCESS", "PENDING", "FAILED"]),
        pick(&["Web", "Mobile", "API"]),
    );
    let price = rng.random_range(10_000..7_000_000u64);
    let quantity = rng.random_range(10_000..5_000_000u64);
    let fee = rng.random_range(100..10_000u64);
    format!(
        concat!(
            r#"{{"transaction_id":{{"S":"{id}"}},"timestamp":{{"S":"2026-01-15T09:{m:02}:{s:02}.{f:06}"}},"#,
            r#""exchange":{{"S":"{exchange}"}},"trading_pair":{{"S":"{pair}"}},"order_type":{{"S":"{order}"}},"#,
            r#""price":{{"N":"{pw}.{pf:02}"}},"quantity":{{"N":"{qw}.{qf:06}"}},"trade_fee":{{"N":"0.{fee:04}"}},"#,
            r#""trade_status":{{"S":"{status}"}},"user_id":{{"S":"{user}"}},"#,
            r#""wallet_address":{{"S":"GB{w1:02}TEST{w2:014}"}},"order_source":{{"S":"{source}"}}}}"#,
        ),
        id = id,
        exchange = exchange,
        pair = pair,
        order = order,
        status = status,
        source = source,
        fee = fee,
        m = at_us / 60_000_000 % 60,
        s = at_us / 1_000_000 % 60,
        f = at_us % 1_000_000,
        pw = price / 100,
        pf = price % 100,
        qw = quantity / 1_000_000,
        qf = quantity % 1_000_000,
        user = uuid(rng),
        w1 = rng.random_range(10..99u32),
        w2 = rng.random_range(0..100_000_000_000_000u64),
    )
}

/// One change as DynamoDB writes it to Kinesis: 80 % INSERT, 15 % MODIFY, 5 % REMOVE.
fn change(rng: &mut impl Rng, at_us: u64) -> String {
    let id = uuid(rng);
    let (new, old) = (item(rng, &id, at_us), item(rng, &id, at_us));
    let (name, images) = match rng.random_range(0..100) {
        0..80 => ("INSERT", format!(r#""NewImage":{new}"#)),
        80..95 => ("MODIFY", format!(r#""NewImage":{new},"OldImage":{old}"#)),
        _ => ("REMOVE", format!(r#""OldImage":{old}"#)),
    };
    format!(
        concat!(
            r#"{{"awsRegion":"eu-north-1","eventID":"{event}","eventName":"{name}","userIdentity":null,"#,
            r#""recordFormat":"application/json","tableName":"CryptoTransactions","dynamodb":{{"#,
            r#""ApproximateCreationDateTime":{at},"Keys":{{"transaction_id":{{"S":"{id}"}}}},{images},"#,
            r#""SizeBytes":341,"ApproximateCreationDateTimePrecision":"MICROSECOND"}},"eventSource":"aws:dynamodb"}}"#,
        ),
        event = uuid(rng),
        name = name,
        at = at_us,
        id = id,
        images = images,
    )
}

/// Changes of one kind, with the body of a `GetRecords` answer that brings them.
struct Records {
    name: &'static str,
    payloads: Vec<String>,
    body: Bytes,
}

impl Records {
    /// Tidy ones, of scalars only, as the table of `docs/PERFORMANCE.md` has them.
    fn plain() -> Self {
        let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(7);
        Self::of("per_record", |index| {
            let at_us = (HOUR_MS + index * 500) * 1000 + rng.random_range(0..1000);
            change(rng, at_us)
        })
    }

    /// Those of `kinetide generate` once the table is full: more MODIFY, nested values, other attributes, escapes.
    fn generated() -> Self {
        let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let table = Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() };
        let mut changes = Synthetic::new(1, Mix::default()).skip(60_000);
        Self::of("generated", |index| {
            let created_us =
                i64::try_from((HOUR_MS + index * 500) * 1000).unwrap() + rng.random_range(0..1000);
            let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
            let mut payload = Vec::new();
            envelope::write(&table, &changes.next().unwrap(), &id, created_us, &mut payload);
            String::from_utf8(payload).unwrap()
        })
    }

    fn of(name: &'static str, mut payload: impl FnMut(u64) -> String) -> Self {
        let payloads: Vec<_> = (0..RECORDS as u64).map(&mut payload).collect();
        Self { name, body: body(&payloads), payloads }
    }
}

fn body(payloads: &[String]) -> Bytes {
    let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(8);
    let mut body =
        Vec::from(&br#"{"MillisBehindLatest":0,"NextShardIterator":"AAAAAAAAAAF","Records":["#[..]);
    for (index, payload) in payloads.iter().enumerate() {
        let at_ms = HOUR_MS + index as u64 * 500;
        let separator = if index == 0 { "" } else { "," };
        write!(
            body,
            concat!(
                r#"{}{{"ApproximateArrivalTimestamp":{}.{:03},"Data":"{}","PartitionKey":"{:032X}","#,
                r#""SequenceNumber":"49658812345678901234567890123456789012345678901234{:06}"}}"#,
            ),
            separator,
            at_ms / 1000,
            at_ms % 1000,
            base64_simd::STANDARD.encode_to_string(payload),
            rng.random::<u128>(),
            index,
        )
        .unwrap();
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// The same payloads as the Kinesis Producer Library packs them, so many in one record.
fn packed_body(payloads: &[String]) -> Bytes {
    let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(8);
    let records = payloads.chunks(PACKED).enumerate().map(|(index, payloads)| {
        let mut aggregate = Aggregate::default();
        for payload in payloads {
            aggregate.push(&format!("{:032X}", rng.random::<u128>()), payload.as_bytes());
        }
        let data = base64_simd::STANDARD.encode_to_string(aggregate.finish());
        json!({
            "ApproximateArrivalTimestamp": HOUR_MS / 1000,
            "Data": data,
            "PartitionKey": "a",
            "SequenceNumber": format!("49658812345678901234567890123456789012345678901234{index:06}"),
        })
    });
    let records: Vec<Value> = records.collect();
    json!({ "MillisBehindLatest": 0, "NextShardIterator": "AAAAAAAAAAF", "Records": records })
        .to_string()
        .into()
}

/// The two readers of change records.
const READERS: [&str; 2] = ["", "/general reader"];

fn transform(reader: &str) -> Builtin {
    let transform = Builtin::crypto_transactions(&Enrichment::default()).unwrap();
    if reader.is_empty() { transform } else { transform.general_reader() }
}

const ROWS: Gzip = Gzip::level(1);
/// As earlier releases did.
const ZLIB: Gzip = Gzip { level: 1, encoder: GzipEncoder::Zlib };
const LEVEL_6: Gzip = Gzip::level(6);

fn context(gzip: Gzip, reader: &str) -> Arc<BatchContext> {
    Arc::new(BatchContext {
        stream: "trades".to_owned(),
        shard: ShardId::new("shardId-000000000000"),
        source: SourceKind::Kinesis,
        layout: Layout {
            landing: "landing/transactions".to_owned(),
            errors: "errors".to_owned(),
            alerts: false,
        },
        limits: BatchLimits { gzip, ..BatchLimits::default() },
        transform: Arc::new(transform(reader)),
        packing: None,
    })
}

fn path(body: &Bytes, context: &Arc<BatchContext>) -> usize {
    path_of(parse_body(body.clone().into()).unwrap(), context)
}

fn path_of(page: Page, context: &Arc<BatchContext>) -> usize {
    let mut batcher = Batcher::new(Arc::clone(context));
    // As of a shard with half of the hash keys, which are looked at then.
    let range = Some(HashKeyRange { start: 0, end: u128::MAX / 2 });
    let (page, _) = unpack(page, range, OutOfRange::Deliver);
    for record in page.records() {
        batcher.push(&record);
    }
    let batch = batcher.close().unwrap();
    assert_eq!((batch.rows, batch.dead_letters.len()), (RECORDS as u64, 0));
    batch.objects.iter().map(|object| object.body.len()).sum()
}

/// What one writes first for the same row: a tree in, a tree out, floats, `format!`, gzip at its default level.
fn obvious(body: &[u8], level: u32) -> usize {
    let time = |us: i64| {
        jiff::Timestamp::from_microsecond(us).unwrap().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    };
    let answer: Value = serde_json::from_slice(body).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    for record in answer["Records"].as_array().unwrap() {
        let data = base64_simd::STANDARD.decode_to_vec(record["Data"].as_str().unwrap()).unwrap();
        let event: Value = serde_json::from_slice(&data).unwrap();
        let change = &event["dynamodb"];
        let image = change.get("NewImage").or(change.get("OldImage")).unwrap();
        let mut row = serde_json::Map::new();
        row.insert("event_id".to_owned(), event["eventID"].clone());
        row.insert("event_name".to_owned(), event["eventName"].clone());
        let created_us = change["ApproximateCreationDateTime"].as_i64().unwrap();
        row.insert("event_timestamp".to_owned(), json!(time(created_us)));
        row.insert("cdc_ts_us".to_owned(), json!(created_us));
        let sequence = record["SequenceNumber"].as_str().unwrap();
        row.insert("ordering_key".to_owned(), json!(format!("{created_us:020}-{sequence:0>60}")));
        row.insert("source".to_owned(), json!("kinesis"));
        row.insert("shard_id".to_owned(), json!("shardId-000000000000"));
        let removed = event["eventName"] == "REMOVE";
        row.insert("is_deleted".to_owned(), json!(removed));
        row.insert("delete_reason".to_owned(), if removed { json!("user") } else { Value::Null });
        row.insert("table_name".to_owned(), event["tableName"].clone());
        row.insert("sequence_number".to_owned(), record["SequenceNumber"].clone());
        for (name, value) in image.as_object().unwrap() {
            let (tag, value) = value.as_object().unwrap().iter().next().unwrap();
            let plain = match tag.as_str() {
                "N" => json!(value.as_str().unwrap().parse::<f64>().unwrap()),
                _ => value.clone(),
            };
            row.insert(name.clone(), plain);
        }
        let number = |name: &str| row[name].as_f64().unwrap();
        let (price, quantity, fee) = (number("price"), number("quantity"), number("trade_fee"));
        let value = price * quantity;
        row.insert("trade_value".to_owned(), json!(value));
        let risk = if value > 500_000.0 {
            "HIGH_RISK"
        } else if value > 100_000.0 {
            "MEDIUM_RISK"
        } else {
            "LOW_RISK"
        };
        row.insert("risk_flag".to_owned(), json!(risk));
        row.insert("normalized_price".to_owned(), json!((price * 102.0).round() / 100.0));
        row.insert("adjusted_trade_fee".to_owned(), json!(fee * 0.95));
        let category = if quantity > 2.0 {
            "VIP Trader"
        } else if quantity > 1.0 {
            "Active Trader"
        } else {
            "Casual Trader"
        };
        row.insert("user_category".to_owned(), json!(category));
        let hour = row["timestamp"].as_str().unwrap()[..13].replace('T', " ") + ":00:00";
        row.insert("hour_bucket".to_owned(), json!(hour));
        #[expect(clippy::cast_possible_truncation, reason = "microseconds fit")]
        let arrived_us = (record["ApproximateArrivalTimestamp"].as_f64().unwrap() * 1e6) as i64;
        row.insert("ingestion_time".to_owned(), json!(time(arrived_us)));
        row.insert("is_valid".to_owned(), json!(row["trade_status"] != "FAILED"));
        row.insert("invalid_reason".to_owned(), Value::Null);
        let mut line = serde_json::to_vec(&row).unwrap();
        line.push(b'\n');
        gzip.write_all(&line).unwrap();
    }
    gzip.finish().unwrap().len()
}

fn per_record(criterion: &mut Criterion<CpuTime>) {
    // As in a worker, which lets memory of unpacked pages be used again.
    let _budget = ByteBudget::new(256 << 20);
    let plain = Records::plain();
    let rows = measure(criterion, &plain);
    measure(criterion, &Records::generated());

    let mut group = criterion.benchmark_group(plain.name);
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.sample_size(20);
    let (body, level_6) = (&plain.body, context(LEVEL_6, READERS[0]));
    group.bench_function("path/gzip 6", |b| b.iter(|| path(black_box(body), &level_6)));
    let (packed, level_1) = (packed_body(&plain.payloads), context(ROWS, READERS[0]));
    group.bench_function("path/KPL, gzip 1", |b| {
        // Aggregates are unpacked where they lie: each time in a body of its own, as it is received.
        b.iter_batched(
            || packed.to_vec(),
            |body| path_of(parse_body(black_box(body).into()).unwrap(), &level_1),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("obvious/gzip 6", |b| b.iter(|| obvious(black_box(body), 6)));
    group.bench_function("stage/copy the body", |b| b.iter(|| black_box(body).to_vec()));
    group.bench_function("stage/body to payloads", |b| {
        let mut decoded = Vec::new();
        b.iter(|| {
            let page = parse_body(black_box(body).clone().into()).unwrap();
            for record in page.records() {
                let Payload::Base64(text) = record.payload else { unreachable!("records are base64") };
                decoded.clear();
                base64_simd::STANDARD.decode_append(text, &mut decoded).unwrap();
            }
        });
    });
    group.bench_function("stage/gzip 1", |b| {
        b.iter(|| {
            let mut gzip = row_gzip::Encoder::new();
            black_box(&rows).chunks(64 << 10).for_each(|block| gzip.push(block));
            gzip.finish().len()
        });
    });
    group.bench_function("stage/gzip 1 by zlib", |b| {
        b.iter(|| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
            for block in black_box(&rows).chunks(64 << 10) {
                gzip.write_all(block).unwrap();
            }
            gzip.finish().unwrap().len()
        });
    });
    group.finish();
}

/// What depends on the reader, with each of them; answers the rows.
fn measure(criterion: &mut Criterion<CpuTime>, records: &Records) -> Vec<u8> {
    let Records { name, payloads, body } = records;
    let context = record_context();
    let (mut transform_of_all, mut rows) = (transform(READERS[0]).start(), Vec::new());
    for payload in payloads {
        transform_of_all.apply(&context, payload.as_bytes(), &mut rows).unwrap();
    }
    println!(
        "{name}: a record is {} B of JSON and {} B of body; its row is {} B, {} B of gzip 1, {} B of that by zlib and \
         {} B of gzip 6; the quick reader left {} of {RECORDS} records to the general one",
        payloads.iter().map(String::len).sum::<usize>() / RECORDS,
        body.len() / RECORDS,
        rows.len() / RECORDS,
        path(body, &self::context(ROWS, READERS[0])) / RECORDS,
        path(body, &self::context(ZLIB, READERS[0])) / RECORDS,
        path(body, &self::context(LEVEL_6, READERS[0])) / RECORDS,
        transform_of_all.take_read_generally(),
    );
    let mut group = criterion.benchmark_group(*name);
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.sample_size(20);
    for reader in READERS {
        let level_1 = self::context(ROWS, reader);
        group.bench_function(format!("path/gzip 1{reader}"), |b| b.iter(|| path(black_box(body), &level_1)));
    }
    let zlib = self::context(ZLIB, READERS[0]);
    group.bench_function("path/gzip 1 by zlib", |b| b.iter(|| path(black_box(body), &zlib)));
    for reader in READERS {
        group.bench_function(format!("stage/transform{reader}"), |b| {
            let (mut transform, mut row) = (transform(reader).start(), Vec::new());
            b.iter(|| {
                for payload in payloads {
                    row.clear();
                    transform.apply(&context, black_box(payload.as_bytes()), &mut row).unwrap();
                }
            });
        });
    }
    group.finish();
    rows
}

fn record_context() -> RecordContext<'static> {
    RecordContext {
        source: SourceKind::Kinesis,
        stream: None,
        shard_id: "shardId-000000000000",
        sequence_number: "49658812345678901234567890123456789012345678901234000001",
        sub_sequence: None,
        key: None,
        arrival_us: 1_768_469_400_123_000,
        null: false,
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime(WallTime));
    targets = per_record
}
criterion_main!(benches);
