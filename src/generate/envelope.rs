//! The change record that Kinesis Data Streams for DynamoDB writes: one compact JSON object, no trailing newline.
//!
//! Members, their order and their types follow records captured from AWS; see "Using Kinesis Data Streams to
//! capture changes to DynamoDB" in the DynamoDB Developer Guide.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::item::{Change, ChangeKind, Item, KEY, Value};

/// One change record. `I` is an item that serializes as a map of attribute values in DynamoDB JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<'a, K, I> {
    /// Region of the table.
    pub aws_region: &'a str,
    /// A UUID.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// `INSERT`, `MODIFY` or `REMOVE`.
    pub event_name: &'a str,
    /// Null for users.
    pub user_identity: Option<UserIdentity<'a>>,
    record_format: &'static str,
    /// Name of the table.
    pub table_name: &'a str,
    /// The change itself.
    pub dynamodb: Images<K, I>,
    event_source: &'static str,
}

/// Who made a change, where it was a service.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity<'a> {
    /// `Service`.
    pub r#type: &'a str,
    /// `dynamodb.amazonaws.com` for TTL.
    pub principal_id: &'a str,
}

/// A delete by the table's TTL.
pub const TTL: UserIdentity<'static> =
    UserIdentity { r#type: "Service", principal_id: "dynamodb.amazonaws.com" };

/// Keys and images of a change.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Images<K, I> {
    #[serde(rename = "ApproximateCreationDateTime")]
    created_us: i64,
    keys: K,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_image: Option<I>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_image: Option<I>,
    size_bytes: usize,
    #[serde(rename = "ApproximateCreationDateTimePrecision")]
    precision: &'static str,
}

impl<K, I> Images<K, I> {
    /// A change at `created_us`, µs since the epoch. `size_bytes` as DynamoDB counts keys and images.
    pub fn new(
        created_us: i64,
        keys: K,
        new_image: Option<I>,
        old_image: Option<I>,
        size_bytes: usize,
    ) -> Self {
        Self { created_us, keys, new_image, old_image, size_bytes, precision: "MICROSECOND" }
    }
}

impl<'a, K: Serialize, I: Serialize> Envelope<'a, K, I> {
    /// The record of a change in `table`. `event_id` is a UUID.
    pub fn new(
        table: (&'a str, &'a str),
        event_id: &uuid::Uuid,
        event_name: &'a str,
        user_identity: Option<UserIdentity<'a>>,
        dynamodb: Images<K, I>,
    ) -> Self {
        let (aws_region, table_name) = table;
        Self {
            aws_region,
            event_id: event_id.to_string(),
            event_name,
            user_identity,
            record_format: "application/json",
            table_name,
            dynamodb,
            event_source: "aws:dynamodb",
        }
    }
}

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
    let (name, new, old, who) = match &change.kind {
        ChangeKind::Insert(new) => ("INSERT", Some(new), None, None),
        ChangeKind::Modify { old, new } => ("MODIFY", Some(new), Some(old), None),
        ChangeKind::Remove(old) => ("REMOVE", None, Some(old), None),
        ChangeKind::Expire(old) => ("REMOVE", None, Some(old), Some(TTL)),
        ChangeKind::Broken(item) => return write_broken(table, item, event_id, created_us, out),
    };
    let keys = Item::with_key(&*change.key);
    let size = [Some(&keys), new, old].into_iter().flatten().map(Item::size).sum();
    let images = Images::new(created_us, &keys, new, old, size);
    write_json(&Envelope::new((&table.region, &table.name), event_id, name, who, images), out);
}

/// The Kinesis partition key of an item's records: 32 upper-case hex digits, the same for every record of a key.
/// AWS does not say how it hashes; this is FNV-1a, which no other release of the standard library can change.
pub fn partition_key(key: &[u8]) -> String {
    format!("{:032X}", fnv1a(key))
}

/// FNV-1a, 128 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Appends an item as a map of DynamoDB JSON attribute values.
pub fn write_item(item: &Item, out: &mut Vec<u8>) {
    write_json(item, out);
}

fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("text and lists always serialize, and memory takes them");
}

/// The ways in which a record can be unreadable, chosen by the key so that a seed repeats them.
fn write_broken(table: &Table, item: &Item, event_id: &uuid::Uuid, created_us: i64, out: &mut Vec<u8>) {
    let key = item.text(KEY).unwrap_or_default();
    let keys = Item::with_key(key);
    let record = |name: &str, item: Option<&Item>, out: &mut Vec<u8>| {
        let images = Images::new(created_us, &keys, item, None, item.map_or(0, Item::size));
        write_json(&Envelope::new((&table.region, &table.name), event_id, name, None, images), out);
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

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.attributes())
    }
}

impl Serialize for Value {
    /// An object with one member, the type tag.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let binary = |bytes: &Vec<u8>| base64_simd::STANDARD.encode_to_string(bytes);
        let mut tagged = serializer.serialize_map(Some(1))?;
        match self {
            Self::S(text) => tagged.serialize_entry("S", text),
            Self::N(text) => tagged.serialize_entry("N", text),
            Self::B(bytes) => tagged.serialize_entry("B", &binary(bytes)),
            Self::Bool(flag) => tagged.serialize_entry("BOOL", flag),
            Self::Null => tagged.serialize_entry("NULL", &true),
            Self::Ss(texts) => tagged.serialize_entry("SS", texts),
            Self::Ns(texts) => tagged.serialize_entry("NS", texts),
            Self::Bs(members) => {
                tagged.serialize_entry("BS", &members.iter().map(binary).collect::<Vec<_>>())
            }
            Self::L(members) => tagged.serialize_entry("L", members),
            Self::M(members) => tagged.serialize_entry("M", &Members(members)),
        }?;
        tagged.end()
    }
}

struct Members<'a>(&'a [(String, Value)]);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
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
        let key = partition_key(b"k1");
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)));
        assert_ne!(key, partition_key(b"k2"));
        // The published test vector of FNV-1a for "a".
        assert_eq!(partition_key(b"a"), "D228CB696F1A8CAF78912B704E4A8964");
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
