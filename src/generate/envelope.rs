//! The change record that Kinesis Data Streams for DynamoDB writes: one compact JSON object, no trailing newline.
//!
//! Members, their order and their types follow records captured from AWS; see "Using Kinesis Data Streams to
//! capture changes to DynamoDB" in the DynamoDB Developer Guide.

use super::item::{Change, ChangeKind, Item, KEY, Value};

/// What all change records of one table share.
#[derive(Clone, Debug)]
pub struct Table {
    /// `tableName`.
    pub name: String,
    /// `awsRegion`.
    pub region: String,
}

/// Appends the record of `change` to `out`. `event_id` is a UUID; `created_us` is the creation time in
/// microseconds since the epoch. [`ChangeKind::Broken`] gives bytes that no consumer can decode.
pub fn write(table: &Table, change: &Change, event_id: &uuid::Uuid, created_us: i64, out: &mut Vec<u8>) {
    let (name, new, old, ttl) = match &change.kind {
        ChangeKind::Insert(new) => ("INSERT", Some(new), None, false),
        ChangeKind::Modify { old, new } => ("MODIFY", Some(new), Some(old), false),
        ChangeKind::Remove(old) => ("REMOVE", None, Some(old), false),
        ChangeKind::Expire(old) => ("REMOVE", None, Some(old), true),
        ChangeKind::Broken(item) => return write_broken(table, item, event_id, created_us, out),
    };
    write_record(table, &change.key, name, new, old, ttl, event_id, created_us, out);
}

/// The Kinesis partition key of an item's records: 32 upper-case hex digits, the same for every record of a key.
/// AWS does not say how it hashes; this is FNV-1a, which no other release of the standard library can change.
pub fn partition_key(key: &str) -> String {
    format!("{:032X}", fnv1a(key.as_bytes()))
}

/// FNV-1a, 128 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Appends an item as a map of DynamoDB JSON attribute values.
pub fn write_item(item: &Item, out: &mut Vec<u8>) {
    write_map(item.attributes(), out);
}

#[expect(clippy::too_many_arguments, reason = "the members of one JSON object, written once")]
fn write_record(
    table: &Table,
    key: &str,
    event_name: &str,
    new: Option<&Item>,
    old: Option<&Item>,
    ttl: bool,
    event_id: &uuid::Uuid,
    created_us: i64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"awsRegion\":");
    write_text(&table.region, out);
    out.extend_from_slice(b",\"eventID\":\"");
    out.extend_from_slice(event_id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
    out.extend_from_slice(b"\",\"eventName\":\"");
    out.extend_from_slice(event_name.as_bytes());
    out.extend_from_slice(b"\",\"userIdentity\":");
    out.extend_from_slice(match ttl {
        true => br#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#,
        false => b"null",
    });
    out.extend_from_slice(b",\"recordFormat\":\"application/json\",\"tableName\":");
    write_text(&table.name, out);
    out.extend_from_slice(b",\"dynamodb\":{\"ApproximateCreationDateTime\":");
    out.extend_from_slice(created_us.to_string().as_bytes());
    out.extend_from_slice(b",\"Keys\":{\"");
    out.extend_from_slice(KEY.as_bytes());
    out.extend_from_slice(b"\":{\"S\":");
    write_text(key, out);
    out.extend_from_slice(b"}}");
    let mut size = KEY.len() + key.len();
    for (name, image) in [("NewImage", new), ("OldImage", old)] {
        let Some(image) = image else { continue };
        size += image.size();
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        write_item(image, out);
    }
    out.extend_from_slice(b",\"SizeBytes\":");
    out.extend_from_slice(size.to_string().as_bytes());
    out.extend_from_slice(
        br#","ApproximateCreationDateTimePrecision":"MICROSECOND"},"eventSource":"aws:dynamodb"}"#,
    );
}

/// The ways in which a record can be unreadable, chosen by the key so that a seed repeats them.
fn write_broken(table: &Table, item: &Item, event_id: &uuid::Uuid, created_us: i64, out: &mut Vec<u8>) {
    let key = item.text(KEY).unwrap_or_default();
    let record = |name: &str, item: Option<&Item>, out: &mut Vec<u8>| {
        write_record(table, key, name, item, None, false, event_id, created_us, out);
    };
    let with = |value: Value| {
        let mut item = item.clone();
        item.set("price", value);
        item
    };
    match fnv1a(key.as_bytes()) % 7 {
        0 => out.extend_from_slice(b"not a change record"),
        1 => {
            record("INSERT", Some(item), out);
            out.truncate(out.len() - 40);
        }
        2 => out.extend_from_slice(br#"{"eventName":"INSERT","tableName":"CryptoTransactions"}"#),
        3 => record("UPSERT", Some(item), out),
        4 => record("INSERT", Some(&with(Value::N("1.2.3".into()))), out),
        5 => record("INSERT", None, out),
        // A lone continuation byte: not UTF-8.
        _ => {
            record("INSERT", Some(item), out);
            out.insert(1, 0x80);
        }
    }
}

fn write_map<'a>(members: impl Iterator<Item = (&'a str, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    write_list(members, out, |(name, value), out| {
        write_text(name, out);
        out.push(b':');
        write_value(value, out);
    });
    out.push(b'}');
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    let tag: &[u8] = match value {
        Value::S(_) => b"S",
        Value::N(_) => b"N",
        Value::B(_) => b"B",
        Value::Bool(_) => b"BOOL",
        Value::Null => b"NULL",
        Value::Ss(_) => b"SS",
        Value::Ns(_) => b"NS",
        Value::Bs(_) => b"BS",
        Value::L(_) => b"L",
        Value::M(_) => b"M",
    };
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(tag);
    out.extend_from_slice(b"\":");
    match value {
        Value::S(text) | Value::N(text) => write_text(text, out),
        Value::B(bytes) => write_binary(bytes, out),
        Value::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Null => out.extend_from_slice(b"true"),
        Value::Ss(texts) | Value::Ns(texts) => {
            write_array(texts.iter(), out, |text, out| write_text(text, out));
        }
        Value::Bs(members) => write_array(members.iter(), out, |bytes, out| write_binary(bytes, out)),
        Value::L(members) => write_array(members.iter(), out, write_value),
        Value::M(members) => write_map(members.iter().map(|(name, value)| (name.as_str(), value)), out),
    }
    out.push(b'}');
}

fn write_array<T>(members: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    write_list(members, out, write);
    out.push(b']');
}

fn write_list<T>(members: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (place, member) in members.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(member, out);
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string into memory cannot fail");
}

fn write_binary(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(base64_simd::STANDARD.encode_to_string(bytes).as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() }
    }

    fn record(kind: ChangeKind) -> Vec<u8> {
        let mut out = Vec::new();
        let change = Change { key: "k1".into(), kind };
        write(&table(), &change, &uuid::Uuid::from_u128(7), 1_768_469_400_123_456, &mut out);
        out
    }

    fn item(price: &str) -> Item {
        let mut item = Item::with_key("k1");
        item.set("price", Value::N(price.into()));
        item
    }

    #[test]
    fn insert_has_the_members_of_a_captured_record() {
        let expected = concat!(
            r#"{"awsRegion":"eu-north-1","eventID":"00000000-0000-0000-0000-000000000007","eventName":"INSERT","#,
            r#""userIdentity":null,"recordFormat":"application/json","tableName":"CryptoTransactions","#,
            r#""dynamodb":{"ApproximateCreationDateTime":1768469400123456,"Keys":{"transaction_id":{"S":"k1"}},"#,
            r#""NewImage":{"transaction_id":{"S":"k1"},"price":{"N":"64250.75"}},"SizeBytes":42,"#,
            r#""ApproximateCreationDateTimePrecision":"MICROSECOND"},"eventSource":"aws:dynamodb"}"#
        );
        assert_eq!(String::from_utf8(record(ChangeKind::Insert(item("64250.75")))).unwrap(), expected);
    }

    #[test]
    fn both_images_come_and_ttl_deletes_say_so() {
        let parse = |kind| serde_json::from_slice::<serde_json::Value>(&record(kind)).unwrap();
        let modify = parse(ChangeKind::Modify { old: item("1"), new: item("2") });
        assert_eq!(modify["eventName"], "MODIFY");
        assert_eq!(modify["dynamodb"]["NewImage"]["price"], json!({"N": "2"}));
        assert_eq!(modify["dynamodb"]["OldImage"]["price"], json!({"N": "1"}));
        let remove = parse(ChangeKind::Remove(item("2")));
        assert_eq!((&remove["eventName"], &remove["userIdentity"]), (&json!("REMOVE"), &json!(null)));
        assert!(remove["dynamodb"].get("NewImage").is_none());
        let expire = parse(ChangeKind::Expire(item("2")));
        assert_eq!(
            expire["userIdentity"],
            json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"})
        );
    }

    #[test]
    fn every_type_has_its_tag() {
        let mut item = Item::default();
        item.set("s", Value::S("a\"\u{1}ü".into()));
        item.set("b", Value::B(vec![0, 1, 255]));
        item.set("t", Value::Bool(true));
        item.set("z", Value::Null);
        item.set("ss", Value::Ss(vec!["x".into(), "y".into()]));
        item.set("ns", Value::Ns(vec!["1".into(), "2.5".into()]));
        item.set("bs", Value::Bs(vec![vec![1]]));
        item.set("l", Value::L(vec![Value::N("1".into()), Value::L(vec![])]));
        item.set("m", Value::M(vec![("S".into(), Value::S("tag as a name".into()))]));
        let mut out = Vec::new();
        write_item(&item, &mut out);
        let expected = json!({
            "s": {"S": "a\"\u{1}ü"}, "b": {"B": "AAH/"}, "t": {"BOOL": true}, "z": {"NULL": true},
            "ss": {"SS": ["x", "y"]}, "ns": {"NS": ["1", "2.5"]}, "bs": {"BS": ["AQ=="]},
            "l": {"L": [{"N": "1"}, {"L": []}]}, "m": {"M": {"S": {"S": "tag as a name"}}},
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), expected);
    }

    #[test]
    fn partition_keys_are_hex_of_32_digits() {
        let key = partition_key("k1");
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)));
        assert_ne!(key, partition_key("k2"));
        // The published test vector of FNV-1a for "a".
        assert_eq!(partition_key("a"), "D228CB696F1A8CAF78912B704E4A8964");
    }

    #[test]
    fn broken_records_never_read_as_a_change() {
        let mut ways = std::collections::HashSet::new();
        for key in 0..100 {
            let key = key.to_string();
            ways.insert(fnv1a(key.as_bytes()) % 7);
            let mut item = Item::with_key(key.as_str());
            item.set("price", Value::N("1".into()));
            let change = Change { key: key.as_str().into(), kind: ChangeKind::Broken(item) };
            let mut out = Vec::new();
            write(&table(), &change, &uuid::Uuid::from_u128(7), 1, &mut out);
            let readable = serde_json::from_slice::<serde_json::Value>(&out).ok().filter(|record| {
                let price = &record["dynamodb"]["NewImage"]["price"]["N"];
                record["eventName"] == "INSERT" && price.as_str().is_some_and(|n| n.parse::<f64>().is_ok())
            });
            assert_eq!(readable, None, "key {key}");
        }
        assert_eq!(ways.len(), 7);
    }
}
