//! A small sound lake, and one test for each way in which a lake can be wrong.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{LakeCheck, Put, Puts, Table, VerifyError, verify};

mod alerts;
mod streams;

/// 2026-01-15T09:59:58Z: the first records fall into hour 09, the others into hour 10.
const START_US: i64 = 1_768_471_198_000_000;

/// Records in the stream and in the objects of a lake, all as text.
#[derive(Clone)]
struct World {
    records: Vec<(String, String, Vec<u8>)>,
    /// Path and lines.
    objects: Vec<(String, Vec<String>)>,
    /// Objects whose bytes are given as they are.
    raw_objects: Vec<(String, Vec<u8>)>,
    items: Vec<String>,
    /// Rows of high risk are to be copied.
    alerts: bool,
}

/// One change: key, the attributes that change from one to the next, and whether it is a delete.
fn change(number: usize) -> (String, String, bool) {
    let key = format!("k{}", number % 7);
    // Trailing zeros and 38 digits must come through as they are.
    let price = format!("{number}.50000000000000000000000000000000000");
    (key, price, number % 7 == 3 && number > 14)
}

fn position(number: usize) -> (String, String) {
    let shard = format!("shardId-{:012}", number % 2);
    (shard, format!("4959033827149025660855969253836157109592157598913658{number:04}"))
}

fn image(number: usize) -> String {
    let (key, price, _) = change(number);
    format!(
        r#"{{"transaction_id":{{"S":"{key}"}},"price":{{"N":"{price}"}},"exchange":{{"S":"Zür\u0069ch \"x\""}},"Mixed Name":{{"SS":["b","a"]}},"trade_status":{{"NULL":true}}}}"#
    )
}

fn record(number: usize) -> Vec<u8> {
    let (key, _, deleted) = change(number);
    let created = START_US + i64::try_from(number).unwrap() * 100_000;
    let (name, image_name) = if deleted { ("REMOVE", "OldImage") } else { ("INSERT", "NewImage") };
    format!(
        r#"{{"awsRegion":"eu-north-1","eventID":"e{number}","eventName":"{name}","userIdentity":null,"recordFormat":"application/json","tableName":"T","dynamodb":{{"ApproximateCreationDateTime":{created},"Keys":{{"transaction_id":{{"S":"{key}"}}}},"{image_name}":{},"SizeBytes":1,"ApproximateCreationDateTimePrecision":"MICROSECOND"}},"eventSource":"aws:dynamodb"}}"#,
        image(number)
    )
    .into_bytes()
}

fn row(number: usize) -> String {
    let (key, price, deleted) = change(number);
    let created = START_US + i64::try_from(number).unwrap() * 100_000;
    let (shard, sequence) = position(number);
    let (hour, second, tenth) = match number {
        0..20 => ("09:59", 58 + number / 10, number % 10),
        _ => ("10:00", number / 10 - 2, number % 10),
    };
    let (name, reason) = if deleted { ("REMOVE", r#""user""#) } else { ("INSERT", "null") };
    format!(
        r#"{{"event_id":"e{number}","event_name":"{name}","event_timestamp":"2026-01-15T{hour}:{second:02}.{tenth}00000Z","cdc_ts_us":{created},"ordering_key":"{created:020}-{sequence:0>60}","source":"kinesis","table_name":"T","shard_id":"{shard}","sequence_number":"{sequence}","is_deleted":{deleted},"delete_reason":{reason},"transaction_id":"{key}","timestamp":null,"exchange":"Zürich \"x\"","trading_pair":null,"order_type":null,"price":{price},"quantity":null,"trade_fee":null,"trade_status":null,"user_id":null,"wallet_address":null,"order_source":null,"trade_value":null,"risk_flag":null,"normalized_price":null,"adjusted_trade_fee":null,"user_category":null,"hour_bucket":null,"ingestion_time":"2026-01-15T10:00:30.000000Z","is_valid":false,"invalid_reason":"missing_field","mixed_name":["b","a"]}}"#
    )
}

fn hour_path(hour: &str, name: &str) -> String {
    format!("lake/landing/transactions/year=2026/month=01/day=15/hour={hour}/{name}.ndjson.gz")
}

fn dead_letter(number: usize, data: &[u8]) -> String {
    let (shard, sequence) = position(number);
    let data = base64_simd::STANDARD.encode_to_string(data);
    format!(
        r#"{{"attemptsMade":1,"arrivalTimestamp":1,"errorCode":"malformed","errorMessage":"not JSON","attemptEndingTimestamp":1,"rawData":"{data}","source":"kinesis","shardId":"{shard}","sequenceNumber":"{sequence}"}}"#
    )
}

/// 40 changes of 7 keys in four landing objects, and a record that is a dead letter.
fn sound() -> World {
    let rows = |numbers: std::ops::Range<usize>| numbers.map(row).collect::<Vec<_>>();
    let mut records: Vec<_> = (0..40).map(|number| (position(number), record(number))).collect();
    records.push((position(40), b"not a change record".to_vec()));
    let mut items: Vec<String> = (33..40).filter(|number| !change(*number).2).map(image).collect();
    // The table gives sets in any order.
    items[0] = items[0].replace(r#"["b","a"]"#, r#"["a","b"]"#);
    World {
        records: records.into_iter().map(|((shard, sequence), data)| (shard, sequence, data)).collect(),
        objects: vec![
            (hour_path("09", "a"), rows(0..10)),
            (hour_path("09", "b"), rows(10..20)),
            (hour_path("10", "c"), rows(20..30)),
            (hour_path("10", "d"), rows(30..40)),
            (
                "lake/errors/malformed/year=2026/month=01/day=15/hour=10/e.ndjson.gz".into(),
                vec![dead_letter(40, b"not a change record")],
            ),
        ],
        raw_objects: Vec::new(),
        items,
        alerts: true,
    }
}

fn gzip(lines: &[String]) -> Vec<u8> {
    // Two members, as a writer that closes blocks may leave them.
    let (first, second) = lines.split_at(lines.len() / 2);
    let member = |lines: &[String]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        lines.iter().for_each(|line| writeln!(encoder, "{line}").unwrap());
        encoder.finish().unwrap()
    };
    [member(first), member(second)].concat()
}

impl World {
    async fn try_check(&self) -> Result<LakeCheck, VerifyError> {
        let store = Arc::new(InMemory::new());
        for (path, lines) in &self.objects {
            store.put(&Path::from(path.as_str()), gzip(lines).into()).await.unwrap();
        }
        for (path, bytes) in &self.raw_objects {
            store.put(&Path::from(path.as_str()), bytes.clone().into()).await.unwrap();
        }
        let mut puts = Puts::default().with_alerts(self.alerts);
        for (shard, sequence, data) in &self.records {
            puts.add(shard, Put::new(shard, sequence, data, START_US)?)?;
        }
        let mut table = Table::default();
        for item in &self.items {
            table.add(item.as_bytes())?;
        }
        verify(store as Arc<dyn ObjectStore>, &Path::from("lake"), puts, Some(table), |_, _| {}).await
    }

    async fn check(&self) -> LakeCheck {
        self.try_check().await.unwrap()
    }

    /// Checks the world after a change to one line, which must occur.
    async fn check_with(&self, line: usize, from: &str, to: &str) -> LakeCheck {
        let mut world = self.clone();
        let (object, line) = (line / 10, line % 10);
        let line = &mut world.objects[object].1[line];
        assert!(line.contains(from), "{from} is not in the line");
        *line = line.replacen(from, to, 1);
        world.check().await
    }
}

#[tokio::test]
async fn a_sound_lake_is_found_sound() {
    let world = sound();
    let check = world.check().await;
    assert!(check.ok(), "{check:?}");
    assert_eq!((check.records_put, check.rows_delivered, check.dead_letters, check.objects), (41, 40, 1, 5));
    assert_eq!(check.bytes_in, world.records.iter().map(|(_, _, data)| data.len() as u64).sum::<u64>());
    assert!(check.bytes_out > 0 && check.problems.is_empty());
    assert_eq!(check.key_state_mismatches, Some(0));
}

/// Three changes of one aggregate, each in a row that says its index.
async fn aggregate(lines: &[String]) -> LakeCheck {
    let store = Arc::new(InMemory::new());
    let (shard, sequence) = position(1);
    let mut puts = Puts::default();
    for sub in 0..3u32 {
        let data = record(1 + sub as usize);
        puts.add(&shard, Put::part(&shard, &sequence, sub, &data, START_US).unwrap()).unwrap();
    }
    let (rows, letters): (Vec<_>, Vec<_>) = lines.iter().cloned().partition(|line| !line.contains("rawData"));
    let errors = "lake/errors/malformed/year=2026/month=01/day=15/hour=10/e.ndjson.gz";
    for (path, lines) in [(hour_path("09", "a"), rows), (errors.to_owned(), letters)] {
        if !lines.is_empty() {
            store.put(&Path::from(path), gzip(&lines).into()).await.unwrap();
        }
    }
    verify(store as Arc<dyn ObjectStore>, &Path::from("lake"), puts, None, |_, _| {}).await.unwrap()
}

fn row_of_part(sub: usize) -> String {
    let ((shard, sequence), (own_shard, own)) = (position(1), position(1 + sub));
    row(1 + sub).replacen(&format!("{own:0>60}\""), &format!("{sequence:0>60}-{sub:010}\""), 1).replacen(
        &format!(r#""shard_id":"{own_shard}","sequence_number":"{own}""#),
        &format!(r#""shard_id":"{shard}","sequence_number":"{sequence}","sub_sequence_number":{sub}"#),
        1,
    )
}

#[tokio::test]
async fn records_of_an_aggregate_are_each_in_one_row() {
    let rows: Vec<_> = (0..3).map(row_of_part).collect();
    let check = aggregate(&rows).await;
    assert!(check.ok(), "{check:?}");
    let check = aggregate(&rows[..2]).await;
    assert_eq!((check.missing, &check.missing_first[0].sub_sequence_number), (1, &Some(2)));
    let check = aggregate(&[&rows[..], &rows[1..2]].concat()).await;
    assert_eq!((check.missing, check.duplicated), (0, 1));
    let strange = [&rows[..], &[rows[2].replace(r#"number":2,"#, r#"number":3,"#)]].concat();
    assert_eq!(aggregate(&strange).await.unexpected, 1);
    let wrong_key = [&rows[..2], &[rows[2].replace("-0000000002", "-0000000001")]].concat();
    assert_eq!(aggregate(&wrong_key).await.value_mismatches, 1);
    // Whole it is a dead letter of all three, which could have been read.
    let check = aggregate(&[dead_letter(1, b"aggregate")]).await;
    assert_eq!((check.missing, check.duplicated, check.needless_dead_letters), (0, 0, 1));
    let check = aggregate(&[rows[0].clone(), dead_letter(1, b"aggregate")]).await;
    assert_eq!((check.missing, check.duplicated), (0, 1));
    let check = aggregate(&[row(1)]).await;
    assert_eq!((check.missing, check.value_mismatches), (0, 1));
}

#[tokio::test]
async fn a_deleted_object_is_found() {
    let mut world = sound();
    world.objects.remove(1);
    let check = world.check().await;
    assert!(!check.ok());
    assert_eq!((check.missing, check.duplicated), (10, 0));
    let (shard, sequence) = position(10);
    assert_eq!(check.missing_first[0].shard_id, shard);
    assert_eq!(check.missing_first[0].sequence_number, sequence);
}

#[tokio::test]
async fn a_dropped_line_is_found() {
    let mut world = sound();
    world.objects[2].1.remove(4);
    let check = world.check().await;
    assert_eq!((check.missing, check.rows_delivered), (1, 39));
    assert_eq!(check.missing_first[0].sequence_number, position(24).1);
}

#[tokio::test]
async fn a_repeated_row_is_found() {
    let mut world = sound();
    let row = world.objects[3].1[0].clone();
    world.objects[3].1.push(row.clone());
    world.objects[2].1.push(row);
    let check = world.check().await;
    assert!(!check.ok());
    assert_eq!((check.duplicated, check.missing), (2, 0));
    assert_eq!(check.duplicated_first[0].sequence_number, position(30).1);
}

#[tokio::test]
async fn a_record_in_a_row_and_a_dead_letter_is_doubled() {
    let mut world = sound();
    world.objects[4].1.push(dead_letter(5, &record(5)));
    let check = world.check().await;
    assert_eq!((check.duplicated, check.needless_dead_letters), (1, 1));
}

#[tokio::test]
async fn changed_values_are_found() {
    let world = sound();
    for (from, to) in [
        // One digit, and numbers that are equal but spelled otherwise.
        (".50000000000000000000000000000000000", ".50000000000000000000000000000000001"),
        (".50000000000000000000000000000000000", ".5"),
        (r#""exchange":"Zürich"#, r#""exchange":"Zurich"#),
        (r#""order_type":null"#, r#""order_type":"BUY""#),
        (r#"["b","a"]"#, r#"["b"]"#),
        (r#""mixed_name""#, r#""mixed name""#),
        (r#","mixed_name":["b","a"]"#, ""),
        (r#","mixed_name""#, r#","more":1,"mixed_name""#),
        (r#""event_name":"INSERT""#, r#""event_name":"MODIFY""#),
        (r#""event_id":"e12""#, r#""event_id":"e13""#),
        (r#""table_name":"T""#, r#""table_name":null"#),
        (r#""event_timestamp":"2026"#, r#""event_timestamp":"2025"#),
        (r#""delete_reason":null"#, r#""delete_reason":"ttl""#),
        (r#""is_deleted":false"#, r#""is_deleted":true"#),
        (r#""source":"kinesis""#, r#""source":"dynamodb-streams""#),
    ] {
        let check = world.check_with(12, from, to).await;
        assert!(!check.ok(), "{from} → {to}");
        assert_eq!((check.value_mismatches, check.missing), (1, 0), "{from} → {to}");
        assert!(check.problems[0].contains("shardId-000000000000"), "{:?}", check.problems);
    }
    // Spelled otherwise, but the same text: not a defect.
    assert!(world.check_with(12, "Zürich", r"Z\u00fcrich").await.ok());
}

#[tokio::test]
async fn no_problem_quotes_a_value() {
    let mut world = sound();
    world.objects[1].1[2] = world.objects[1].1[2].replace("Zürich", "Zurich");
    world.objects[1].1[3] = "Zürich".into();
    let check = world.check().await;
    assert_eq!(check.problems.len(), 2);
    assert!(!check.problems.iter().any(|problem| problem.contains('Z')), "{:?}", check.problems);
}

#[tokio::test]
async fn rows_that_were_never_put_are_found() {
    let world = sound();
    let sequence = position(12).1;
    for to in ["1", "shardId-000000000007"] {
        let (from, to) = match to {
            "1" => (format!(r#""sequence_number":"{sequence}""#), r#""sequence_number":"1""#.to_owned()),
            shard => (r#""shard_id":"shardId-000000000000""#.to_owned(), format!(r#""shard_id":"{shard}""#)),
        };
        let check = world.check_with(12, &from, &to).await;
        assert_eq!((check.unexpected, check.missing), (1, 1), "{to}");
    }
}

#[tokio::test]
async fn rows_in_the_folder_of_another_hour_are_found() {
    let mut world = sound();
    world.objects[1].0 = hour_path("11", "b");
    let check = world.check().await;
    assert!(!check.ok());
    assert_eq!((check.misplaced, check.missing, check.value_mismatches), (10, 0, 0));
}

#[tokio::test]
async fn keys_that_are_not_as_in_the_table_are_found() {
    // An old value in the table, an item that no row speaks of, one that is gone, one that should be gone.
    let mut stale = sound();
    stale.items[1] = stale.items[1].replace(r#""N":""#, r#""N":"1"#);
    let mut unknown = sound();
    unknown.items.push(r#"{"transaction_id":{"S":"other"}}"#.into());
    let mut gone = sound();
    gone.items.remove(0);
    let mut undead = sound();
    let deleted = (33..40).find(|number| change(*number).2).unwrap();
    undead.items.push(image(deleted));
    for world in [stale, unknown, gone, undead] {
        let check = world.check().await;
        assert!(!check.ok());
        assert_eq!(check.key_state_mismatches, Some(1));
        assert_eq!((check.missing, check.value_mismatches), (0, 0));
    }
}

#[tokio::test]
async fn an_older_row_that_claims_to_be_newer_is_found() {
    // The last change of key k1 is number 36; number 29 gets a later time in its ordering key.
    let created = START_US + 2_900_000;
    let later = format!("{:020}-", created + 60_000_000);
    let check = sound().check_with(29, &format!("{created:020}-"), &later).await;
    assert_eq!((check.value_mismatches, check.key_state_mismatches), (1, Some(1)));
}

#[tokio::test]
async fn broken_objects_are_found_and_named() {
    let world = sound();
    let whole = gzip(&world.objects[1].1);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 4;
    flipped[middle] ^= 0x40;
    let mut no_line_end = GzEncoder::new(Vec::new(), Compression::fast());
    write!(no_line_end, "{}", world.objects[1].1.join("\n")).unwrap();
    for (bytes, missing) in [
        (whole[..whole.len() - 5].to_vec(), 0),
        (whole[..whole.len() / 2].to_vec(), 1),
        (flipped, 1),
        ([&whole[..], b"rubbish"].concat(), 0),
        (no_line_end.finish().unwrap(), 1),
        (Vec::new(), 10),
        (b"{}\n".to_vec(), 10),
    ] {
        let mut world = world.clone();
        let (path, _) = world.objects.remove(1);
        world.raw_objects.push((path.clone(), bytes));
        let check = world.check().await;
        assert!(!check.ok());
        assert_eq!(check.broken_objects, 1, "{check:?}");
        assert!(check.missing >= missing, "{check:?}");
        assert!(check.problems.iter().any(|problem| problem.starts_with(&path)), "{:?}", check.problems);
    }
}

#[tokio::test]
async fn broken_lines_are_found() {
    let world = sound();
    for bad in ["", "{}", "[]", "{\"shard_id\":1}", r#"{"shard_id":"s","sequence_number":"x"}"#] {
        let mut world = world.clone();
        world.objects[0].1[3] = bad.into();
        let check = world.check().await;
        assert_eq!((check.broken_lines, check.missing), (1, 1), "{bad}");
        assert!(!check.ok());
    }
    let twice = world.check_with(3, r#""order_type":null"#, r#""exchange":"a""#).await;
    assert_eq!(twice.broken_lines, 1, "a column that occurs twice fails the row in Athena");
    let mut world = world;
    world.objects[4].1[0] = "{}".into();
    assert_eq!(world.check().await.broken_lines, 1);
}

#[tokio::test]
async fn dead_letters_are_checked() {
    let mut other_bytes = sound();
    other_bytes.objects[4].1[0] = dead_letter(40, b"something else");
    let check = other_bytes.check().await;
    assert!(!check.ok());
    assert_eq!(check.value_mismatches, 1);

    let mut needless = sound();
    needless.objects[1].1.remove(2);
    needless.objects[4].1.push(dead_letter(12, &record(12)));
    let check = needless.check().await;
    assert!(!check.ok());
    assert_eq!((check.needless_dead_letters, check.missing), (1, 0));

    // A row for a record that cannot be read.
    let mut made_up = sound();
    made_up.records[12].2 = b"not a change record".to_vec();
    assert_eq!(made_up.check().await.value_mismatches, 1);
}

/// The newest change of a key cannot be a row: the table is ahead of the lake, and nothing is wrong.
#[tokio::test]
async fn what_only_a_dead_letter_says_is_not_compared_with_the_table() {
    let mut world = sound();
    let (_, price, _) = change(39);
    let tiny = image(39).replace(&price, "1E-130");
    let data = String::from_utf8(record(39)).unwrap().replace(&price, "1E-130").into_bytes();
    world.objects[3].1.remove(9);
    world.objects[4].1.push(dead_letter(39, &data));
    world.records[39].2 = data;
    *world.items.iter_mut().find(|item| **item == image(39)).unwrap() = tiny;
    let check = world.check().await;
    assert!(check.ok(), "{check:?}");
    assert_eq!(
        (check.dead_letters, check.needless_dead_letters, check.key_state_mismatches),
        (2, 0, Some(0))
    );
    world.items.remove(1);
    assert_eq!(world.check().await.key_state_mismatches, Some(1), "of another key");
}

/// Record 12 was a dead letter first; its row came with a replay, into an object of its own.
fn replayed() -> (World, String) {
    let mut world = sound();
    let row = world.objects[1].1.remove(2);
    world.objects[4].1.push(dead_letter(12, &record(12)));
    world.objects.push((hour_path("09", "a-x1"), vec![row]));
    let records = world.objects[4].0.replace("lake/errors/", "lake/errors/_replays/");
    let rows = hour_path("09", "a-x1").replace("lake/", "");
    let plan =
        format!(r#"{{"kinetide":1,"transform":"t/1/0","outputs":[{{"key":"{rows}","lines":[[2,2]]}}]}}"#);
    world.raw_objects.push((format!("{records}/1.json"), plan.into()));
    let done = format!("{records}/1.done.json");
    world.raw_objects.push((done.clone(), br#"{"kinetide":1,"sealed":[]}"#.to_vec()));
    (world, done)
}

#[tokio::test]
async fn a_replayed_dead_letter_is_delivered_once() {
    let (mut world, done) = replayed();
    let check = world.check().await;
    assert!(check.ok(), "{check:?}");
    assert_eq!((check.replayed, check.rows_delivered, check.dead_letters), (1, 40, 1));
    // Not at its end, but its rows are there.
    let finished = world.raw_objects.pop().unwrap();
    assert_eq!(finished.0, done);
    assert!(world.check().await.ok());
    // Rows that are not there yet: the dead letter stands for the record. It could be read, and so is needless.
    let rows = world.objects.pop().unwrap();
    let check = world.check().await;
    assert_eq!((check.missing, check.duplicated, check.needless_dead_letters, check.replayed), (0, 0, 1, 0));
    // A replay that has come to its end without its rows has lost them.
    world.raw_objects.push(finished.clone());
    let check = world.check().await;
    assert_eq!((check.missing, check.duplicated, check.replayed), (1, 0, 1));
    // But for those that are sealed.
    let sealed = format!(r#"{{"kinetide":1,"sealed":["{}"]}}"#, rows.0.replace("lake/", ""));
    world.raw_objects.last_mut().unwrap().1 = sealed.into();
    let check = world.check().await;
    assert_eq!((check.missing, check.duplicated, check.replayed), (0, 0, 0));
    // A row beside a seal is there twice with its dead letter.
    world.objects.push(rows);
    assert_eq!(world.check().await.duplicated, 1);
    world.raw_objects.last_mut().unwrap().1 = b"{".to_vec();
    assert_eq!(world.check().await.broken_objects, 1);
}

#[tokio::test]
async fn sealed_objects_and_other_files_are_no_defect() {
    let mut world = sound();
    world.objects.push((hour_path("09", "sealed"), Vec::new()));
    world.raw_objects.push(("lake/landing/transactions/half.tmp".into(), b"x".to_vec()));
    world.raw_objects.push(("other/landing/x.ndjson.gz".into(), b"x".to_vec()));
    let check = world.check().await;
    assert!(check.ok(), "{check:?}");
    assert_eq!((check.empty_objects, check.objects), (1, 6));
}

#[tokio::test]
async fn a_wrong_list_of_records_is_an_error() {
    let mut twice = sound();
    twice.records.push(twice.records[3].clone());
    assert!(matches!(twice.try_check().await, Err(VerifyError::PositionTwice(_))));
    let mut letters = sound();
    letters.records[0].1 = "LATEST".into();
    assert!(matches!(letters.try_check().await, Err(VerifyError::SequenceNumber { .. })));
}

#[tokio::test]
async fn without_a_table_the_keys_are_not_compared() {
    let lake = Arc::new(InMemory::new());
    let check = verify(lake, &Path::from("lake"), Puts::default(), None, |_, _| {}).await.unwrap();
    assert!(check.ok());
    assert_eq!(check.key_state_mismatches, None);
}

/// A record of AWS and the row that the documentation of the lake gives for it, both word for word.
#[tokio::test]
async fn the_documented_row_fits_its_record() {
    let record = r#"{"awsRegion":"eu-north-1","eventID":"0f7a3d1e-6f0b-4f4e-9a3e-1d2c3b4a5f04","eventName":"REMOVE","userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"},"recordFormat":"application/json","tableName":"CryptoTransactions","dynamodb":{"ApproximateCreationDateTime":1768469406123456,"Keys":{"transaction_id":{"S":"7b1f0c52-3f0e-4c57-9b55-0d2f6a1e9c01"}},"OldImage":{"transaction_id":{"S":"7b1f0c52-3f0e-4c57-9b55-0d2f6a1e9c01"},"timestamp":{"S":"2026-01-15T09:29:59.987654"},"exchange":{"S":"Coinbase"},"trading_pair":{"S":"BTC/USD"},"order_type":{"S":"BUY"},"price":{"N":"64250.75"},"quantity":{"N":"8"},"trade_fee":{"N":"0.4321"},"trade_status":{"S":"SUCCESS"},"user_id":{"S":"2c9d8e10-5a44-4a8e-8f60-77c1b3a2d9f4"},"wallet_address":{"S":"GB00TEST00000000000001"},"order_source":{"S":"Web"},"expires_at":{"N":"1768465800"}},"SizeBytes":361,"ApproximateCreationDateTimePrecision":"MICROSECOND"},"eventSource":"aws:dynamodb"}"#;
    let row = r#"{"event_id":"0f7a3d1e-6f0b-4f4e-9a3e-1d2c3b4a5f04","event_name":"REMOVE","event_timestamp":"2026-01-15T09:30:06.123456Z","cdc_ts_us":1768469406123456,"ordering_key":"00001768469406123456-000000000000000000000000000000000000000000000000000000000004","source":"kinesis","table_name":"CryptoTransactions","shard_id":"shardId-000000000000","sequence_number":"4","is_deleted":true,"delete_reason":"ttl","transaction_id":"7b1f0c52-3f0e-4c57-9b55-0d2f6a1e9c01","timestamp":"2026-01-15T09:29:59.987654","exchange":"Coinbase","trading_pair":"BTC/USD","order_type":"BUY","price":64250.75,"quantity":8,"trade_fee":0.4321,"trade_status":"SUCCESS","user_id":"2c9d8e10-5a44-4a8e-8f60-77c1b3a2d9f4","wallet_address":"GB00TEST00000000000001","order_source":"Web","trade_value":514006,"risk_flag":"HIGH_RISK","normalized_price":65535.77,"adjusted_trade_fee":0.38889,"user_category":"VIP Trader","hour_bucket":"2026-01-15 09:00:00","ingestion_time":"2026-01-15T09:30:30.000000Z","is_valid":true,"invalid_reason":null,"expires_at":1768465800}"#;
    let world = World {
        records: vec![("shardId-000000000000".into(), "4".into(), record.into())],
        objects: vec![(hour_path("09", "a"), vec![row.into()])],
        raw_objects: Vec::new(),
        items: Vec::new(),
        alerts: false,
    };
    let check = world.check().await;
    assert!(check.ok(), "{check:?}");
}

#[tokio::test]
async fn a_record_whose_put_was_not_answered_may_be_there() {
    let mut world = sound();
    // In the lake, but at a position that nobody was told: with a row, and as a dead letter.
    let (_, _, row) = world.records.remove(12);
    let (_, _, broken) = world.records.pop().unwrap();
    let store = Arc::new(InMemory::new());
    for (path, lines) in &world.objects {
        store.put(&Path::from(path.as_str()), gzip(lines).into()).await.unwrap();
    }
    let root = Path::from("lake");
    let check = |unclear: bool| {
        let mut puts = Puts::default();
        for (shard, sequence, data) in &world.records {
            puts.add(shard, Put::new(shard, sequence, data, START_US).unwrap()).unwrap();
        }
        if unclear {
            puts.add_unclear(&row);
            puts.add_unclear(&broken);
        }
        verify(Arc::clone(&store) as Arc<dyn ObjectStore>, &root, puts, None, |_, _| {})
    };
    let found = check(true).await.unwrap();
    assert!(found.ok(), "{found:?}");
    assert_eq!((found.unclear, found.unexpected, found.records_put), (2, 0, 39));
    let unexplained = check(false).await.unwrap();
    assert_eq!((unexplained.unexpected, unexplained.ok()), (2, false));
}
