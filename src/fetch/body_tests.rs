use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::fetch::Payload;
use crate::shard::SequenceNumber;

const PLAIN: &str = r#"{"MillisBehindLatest":1500,"NextShardIterator":"AAAA+/=","Records":[
        {"ApproximateArrivalTimestamp":1.768469400123E9,"Data":"eyJhIjoxfQ==","PartitionKey":"k1","SequenceNumber":"495900"},
        {"SequenceNumber":"495901","PartitionKey":"schlüssel","Data":"","EncryptionType":"KMS","ApproximateArrivalTimestamp":1768469400.5}]}"#;

#[derive(Debug, PartialEq)]
struct Facts {
    records: Vec<(String, String, i64, Vec<u8>)>,
    next: Option<String>,
    behind: Option<i64>,
    children: Vec<ChildShard>,
}

/// All that a page says, to compare pages built in different ways.
fn facts(page: &Page) -> Facts {
    let records = page.records().map(|r| match r.payload {
        Payload::Base64(data) => {
            (r.sequence_number.to_owned(), r.partition_key().to_owned(), r.arrival_us, data.to_vec())
        }
        Payload::Plain(_) => panic!("payloads of the API are base64"),
    });
    Facts {
        records: records.collect(),
        next: page.next_iterator.clone(),
        behind: page.millis_behind_latest,
        children: page.children.clone(),
    }
}

fn both(body: &str) -> Page {
    assert!(walk(body.as_bytes()).is_some(), "an ordinary body takes the quick way");
    let quick = parse(body.to_owned().into()).unwrap();
    assert_eq!(facts(&quick), facts(&parse_carefully(body.as_bytes()).unwrap()));
    quick
}

#[test]
fn an_ordinary_answer_is_read_in_place() {
    let page = both(PLAIN);
    let Facts { records, next, behind, children } = facts(&page);
    assert_eq!(
        records,
        [
            ("495900".into(), "k1".into(), 1_768_469_400_123_000, b"eyJhIjoxfQ==".to_vec()),
            ("495901".into(), "schlüssel".into(), 1_768_469_400_500_000, Vec::new()),
        ]
    );
    assert_eq!((next.as_deref(), behind, children.len()), (Some("AAAA+/="), Some(1500), 0));
    assert_eq!(both(r#"{"Records":[],"NextShardIterator":null}"#).next_iterator, None);
}

/// As streams answer whose record distribution is AUTO.
#[test]
fn a_record_without_a_partition_key_is_an_ordinary_record() {
    let page = both(&PLAIN.replace(r#""PartitionKey":"k1","#, ""));
    assert_eq!(page.records().map(|r| r.partition_key()).collect::<Vec<_>>(), ["", "schlüssel"]);
    let null = PLAIN.replace(r#""PartitionKey":"k1""#, r#""PartitionKey":null"#);
    assert_eq!(facts(&parse(null.into()).unwrap()), facts(&page));
    assert!(parse(PLAIN.replace(r#""Data":"","#, "").into()).is_err(), "what makes a record");
}

#[test]
fn the_last_page_of_a_shard_names_its_children() {
    let body = json!({
        "Records": [],
        "MillisBehindLatest": 0,
        "ChildShards": [{
            "ShardId": "shardId-000000000002",
            "ParentShards": ["shardId-000000000000", "shardId-000000000001"],
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": u128::MAX.to_string()},
        }],
    });
    let page = parse(body.to_string().into()).unwrap();
    assert_eq!(page.next_iterator, None);
    assert_eq!(
        page.children,
        [ChildShard {
            id: ShardId::new("shardId-000000000002"),
            parents: vec![ShardId::new("shardId-000000000000"), ShardId::new("shardId-000000000001")],
            hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
        }]
    );
}

#[test]
fn what_is_not_an_answer_is_an_error_that_quotes_nothing() {
    let cut = &PLAIN[..PLAIN.len() - 40];
    let digits = PLAIN.replace("495901", "secret");
    let time = PLAIN.replace("1768469400.5", "\"secret\"");
    let twice = PLAIN.replace("EncryptionType", "Data");
    for body in ["", "{}", "null", "<html>secret</html>", cut, &digits, &time, &twice] {
        let error = parse(body.to_owned().into()).expect_err(body).to_string();
        assert!(error.contains("response of the stream") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn arrival_times_are_exact() {
    let cases: [(&str, Option<i64>); 20] = [
        ("1768469400", Some(1_768_469_400_000_000)),
        ("1768469400.123", Some(1_768_469_400_123_000)),
        ("1.768469400123E9", Some(1_768_469_400_123_000)),
        ("1.768469400123456e+9", Some(1_768_469_400_123_456)),
        ("1768469400123456e-6", Some(1_768_469_400_123_456)),
        ("1768469400.1234569", Some(1_768_469_400_123_456)),
        ("0", Some(0)),
        ("-0.5", Some(-500_000)),
        ("0e99999999999999999999", Some(0)),
        ("1e-99999999999999999999", Some(0)),
        ("1e99999999999999999999", None),
        ("1e13", None),
        ("", None),
        ("-", None),
        ("01", None),
        (".5", None),
        ("5.", None),
        ("1e", None),
        ("1e+", None),
        ("1.5.5", None),
    ];
    for (text, us) in cases {
        assert_eq!(seconds_to_us(text.as_bytes()), us, "{text}");
    }
}

/// Any JSON text of `value`: members in any order, spaces, and escapes where `escape` says so.
fn write(value: &Value, rng: &mut ChaCha8Rng, odd: bool, out: &mut String) {
    let space = |rng: &mut ChaCha8Rng, out: &mut String| {
        if rng.random_ratio(1, 4) {
            out.push([' ', '\n', '\t', '\r'][rng.random_range(0..4)]);
        }
    };
    let text = |s: &str, rng: &mut ChaCha8Rng, out: &mut String| {
        out.push('"');
        for c in s.chars() {
            if (odd && rng.random_ratio(1, 50)) || (c as u32) < 0x20 || c == '"' || c == '\\' {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(c);
            }
        }
        out.push('"');
    };
    space(rng, out);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, rng, odd, out);
            }
            space(rng, out);
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.shuffle(rng);
            out.push('{');
            for (i, (key, item)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                space(rng, out);
                text(key, rng, out);
                space(rng, out);
                out.push(':');
                write(item, rng, odd, out);
            }
            space(rng, out);
            out.push('}');
        }
        Value::String(s) => text(s, rng, out),
        other => out.push_str(&other.to_string()),
    }
    space(rng, out);
}

fn answer() -> impl Strategy<Value = Value> {
    let record = (any::<u128>(), 0i64..4_000_000_000_000, "[A-Za-z0-9+/]{0,40}={0,2}", "\\PC{0,8}", 0..8u8)
        .prop_map(|(sequence, ms, data, key, odd)| {
            let mut record = json!({
                "SequenceNumber": SequenceNumber::from(sequence).as_str(),
                "ApproximateArrivalTimestamp": serde_json::from_str::<Value>(
                    &format!("{}.{:03}", ms / 1000, ms % 1000)).unwrap(),
                "Data": data,
                "PartitionKey": key,
            });
            match odd {
                0 => record["EncryptionType"] = json!("KMS"),
                1 => record["New"] = json!({"deep": [1, {"SequenceNumber": "]}"}]}),
                _ => {}
            }
            record
        });
    let child = json!({"ShardId": "s", "ParentShards": ["p"],
        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}});
    (prop::collection::vec(record, 0..6), any::<Option<String>>(), any::<Option<i64>>(), 0..10u8).prop_map(
        move |(records, next, behind, odd)| {
            let mut body = json!({"Records": records, "NextShardIterator": next});
            if let Some(behind) = behind {
                body["MillisBehindLatest"] = json!(behind);
            }
            match odd {
                0 => body["ChildShards"] = json!([child]),
                1 => body["ChildShards"] = Value::Null,
                2 => body["More"] = json!([true, null, "x"]),
                _ => {}
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn the_walker_reads_what_serde_json_reads(value in answer(), seed: u64, odd: bool) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut body = String::new();
        write(&value, &mut rng, odd, &mut body);
        let careful = parse_carefully(body.as_bytes()).expect(&body);
        prop_assert_eq!(facts(&parse(body.clone().into()).unwrap()), facts(&careful), "{}", body);
    }

    #[test]
    fn no_bytes_make_it_panic(mut body in answer().prop_map(|v| v.to_string().into_bytes()),
                              changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
                              cut: prop::sample::Index) {
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = parse(body[..cut.index(body.len())].to_vec().into());
        let quick = parse(body.clone().into());
        if let (Ok(quick), Ok(careful)) = (quick, parse_carefully(&body)) {
            prop_assert_eq!(facts(&quick), facts(&careful));
        }
    }

    #[test]
    fn whole_microseconds_survive_any_spelling(us in 0i64..i64::MAX / 10, shift in 0i32..30) {
        let spelt = format!("{us}{}e{}", "0".repeat(shift as usize), -6 - shift);
        prop_assert_eq!(seconds_to_us(spelt.as_bytes()), Some(us));
        let (s, rest) = (us / 1_000_000, us % 1_000_000);
        prop_assert_eq!(seconds_to_us(format!("{s}.{rest:06}").as_bytes()), Some(us));
    }
}
