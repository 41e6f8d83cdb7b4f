//! `raw`: any record as it is, for whoever wants to trace a row back to the bytes that the stream held.

use super::schema::{Column, ColumnType};
use crate::decode::json::push_string;
use crate::transform::RecordContext;
use crate::transform::row::{push_ingestion_time, push_ordering_key};

pub(super) const NAME: &str = "raw";
/// Raise it with every change that changes a row.
pub(super) const VERSION: u32 = 1;

/// Its columns, in row order.
const COLUMNS: [&str; 10] = [
    "ordering_key",
    "source",
    "stream",
    "shard_id",
    "sequence_number",
    "ingestion_time",
    "key",
    "key_base64",
    "value",
    "value_base64",
];

/// Appends the row of a record; answers its time. No record is malformed here.
pub(super) fn apply(context: &RecordContext<'_>, data: &[u8], row: &mut Vec<u8>) -> i64 {
    row.extend_from_slice(b"{\"ordering_key\":");
    push_ordering_key(row, context, context.arrival_us.max(0).unsigned_abs(), None);
    row.extend_from_slice(b",\"source\":");
    push_string(row, context.source.as_str());
    row.extend_from_slice(b",\"stream\":");
    match context.stream {
        Some(stream) => push_string(row, stream),
        None => row.extend_from_slice(b"null"),
    }
    row.push(b',');
    context.push_place(row);
    push_ingestion_time(row, context);
    push_bytes(row, "key", context.key);
    push_bytes(row, "value", (!context.null).then_some(data));
    row.extend_from_slice(b"}\n");
    context.arrival_us
}

/// `,"name":…,"name_base64":…`: of bytes that are UTF-8 the first, of others the second, of none neither.
fn push_bytes(row: &mut Vec<u8>, name: &str, bytes: Option<&[u8]>) {
    let text = bytes.map(simdutf8::basic::from_utf8);
    row.extend_from_slice(b",\"");
    row.extend_from_slice(name.as_bytes());
    row.extend_from_slice(b"\":");
    match text {
        Some(Ok(text)) => push_string(row, text),
        _ => row.extend_from_slice(b"null"),
    }
    row.extend_from_slice(b",\"");
    row.extend_from_slice(name.as_bytes());
    row.extend_from_slice(b"_base64\":");
    match (text, bytes) {
        (Some(Err(_)), Some(bytes)) => {
            row.push(b'"');
            row.extend_from_slice(base64_simd::STANDARD.encode_to_string(bytes).as_bytes());
            row.push(b'"');
        }
        _ => row.extend_from_slice(b"null"),
    }
}

pub(super) fn columns() -> Vec<Column> {
    COLUMNS.map(|name| Column { name, kind: ColumnType::Text }).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::{SourceKind, record_of};

    const CONTEXT: RecordContext<'_> = RecordContext {
        source: SourceKind::Kinesis,
        stream: Some("prices"),
        shard_id: "shardId-000000000001",
        sequence_number: "17",
        sub_sequence: None,
        key: Some(b"k"),
        arrival_us: 1_768_469_412_345_678,
        null: false,
    };

    fn row(context: &RecordContext<'_>, data: &[u8]) -> String {
        let mut row = Vec::new();
        assert_eq!(apply(context, data, &mut row), context.arrival_us);
        assert_eq!(record_of(&row).unwrap().sub, context.sub_sequence);
        String::from_utf8(row).unwrap()
    }

    /// The bytes that two columns stand for.
    fn bytes(row: &str, name: &str) -> Option<Vec<u8>> {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let base64 = format!("{name}_base64");
        match (row[name].as_str(), row[&base64].as_str()) {
            (Some(text), None) => Some(text.as_bytes().to_vec()),
            (None, Some(text)) => Some(base64_simd::STANDARD.decode_to_vec(text).unwrap()),
            (None, None) => None,
            both => panic!("{both:?}"),
        }
    }

    #[test]
    fn a_row_says_where_its_record_was() {
        let expected = concat!(
            "{\"ordering_key\":\"00001768469412345678-",
            "000000000000000000000000000000000000000000000000000000000017\",",
            "\"source\":\"kinesis\",\"stream\":\"prices\",\"shard_id\":\"shardId-000000000001\",",
            "\"sequence_number\":\"17\",\"ingestion_time\":\"2026-01-15T09:30:12.345678Z\",",
            "\"key\":\"k\",\"key_base64\":null,\"value\":\"{\\\"a\\\": 1}\\n\",\"value_base64\":null}\n"
        );
        assert_eq!(row(&CONTEXT, b"{\"a\": 1}\n"), expected);
        let unknown = row(&RecordContext { stream: None, key: None, ..CONTEXT }, b"\xff\0");
        let end = r#""key":null,"key_base64":null,"value":null,"value_base64":"/wA="}"#;
        assert!(unknown.contains("\"stream\":null") && unknown.trim_end().ends_with(end), "{unknown}");
        let tombstone = row(&RecordContext { source: SourceKind::Kafka, null: true, ..CONTEXT }, b"");
        assert!(
            tombstone
                .trim_end()
                .ends_with(r#""key":"k","key_base64":null,"value":null,"value_base64":null}"#)
        );
        let names: Vec<&str> = expected.split("\":").filter_map(|part| part.rsplit('"').next()).collect();
        let columns: Vec<&str> = columns().iter().map(|column| column.name).collect();
        assert!(columns.iter().all(|column| names.contains(column)), "{names:?}");
    }

    proptest! {
        #[test]
        fn decoding_gives_the_very_bytes(
            data: Vec<u8>, text: String, separators in "[\u{2028}\u{2029}\u{0}\\\\\"\r\n]{0,9}", key: Option<Vec<u8>>, sub: Option<u64>,
        ) {
            let context = RecordContext { key: key.as_deref(), sub_sequence: sub, ..CONTEXT };
            for data in [&data[..], text.as_bytes(), separators.as_bytes(), b""] {
                let row = row(&context, data);
                prop_assert_eq!(row.lines().count(), 1);
                let split = row.contains(['\u{2028}', '\u{2029}']);
                prop_assert!(!split);
                prop_assert_eq!(bytes(&row, "value"), Some(data.to_vec()));
                prop_assert_eq!(bytes(&row, "key"), key.clone());
            }
        }
    }
}
