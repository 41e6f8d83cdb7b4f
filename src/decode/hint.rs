//! What a payload is that is no JSON object: the usual producers that write something else. Looked at only when a
//! record is refused.

use serde::de::IgnoredAny;

use super::{BadRecord, ErrorCode};
use crate::kpl;

/// A better reason than `code`, where the payload is something known.
pub(super) fn explained(code: ErrorCode, data: &[u8]) -> Option<BadRecord> {
    if let (ErrorCode::NotUtf8, Some(read)) = (code, kpl::Reader::default().read(data)) {
        return Some(match read {
            Ok(_) => ErrorCode::KplAggregate.into(),
            Err(broken) => {
                let message = format!("{}: {broken}", ErrorCode::BadAggregate.reason());
                BadRecord { code: ErrorCode::BadAggregate, message }
            }
        });
    }
    let guess = || likely(data).map(|message| (code, message));
    let (code, message) = match code {
        ErrorCode::NotUtf8 => binary(data).or_else(guess)?,
        ErrorCode::NotJson => binary(data).or_else(|| text(data)).or_else(guess)?,
        ErrorCode::NotObject | ErrorCode::WrongJsonType if data.trim_ascii_start().starts_with(b"[") => {
            (code, "the JSON document is an array: put each member into a record of its own")
        }
        _ => return None,
    };
    Some(BadRecord { code, message: message.to_owned() })
}

/// Formats with a magic number.
fn binary(data: &[u8]) -> Option<(ErrorCode, &'static str)> {
    Some(match data {
        [0x1F, 0x8B, 8, ..] => (
            ErrorCode::Compressed,
            "the payload is gzip, as CloudWatch Logs sends it: records must be plain JSON",
        ),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            (ErrorCode::Compressed, "the payload is Zstandard: records must be plain JSON")
        }
        [0x04, 0x22, 0x4D, 0x18, ..] => {
            (ErrorCode::Compressed, "the payload is LZ4: records must be plain JSON")
        }
        [0xFF, 0x06, 0, 0, b's', b'N', b'a', b'P', b'p', b'Y', ..] => {
            (ErrorCode::Compressed, "the payload is Snappy: records must be plain JSON")
        }
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => {
            (ErrorCode::Compressed, "the payload is bzip2: records must be plain JSON")
        }
        [0x78, second @ (0x01 | 0x5E | 0x9C | 0xDA), ..] if data.len() > 7 && is_zlib(*second, data) => {
            (ErrorCode::Compressed, "the payload is zlib: records must be plain JSON")
        }
        // Version 3, compression none or zlib, then the UUID of the schema version.
        [3, 0 | 5, rest @ ..] if rest.len() > 16 => (
            ErrorCode::SchemaRegistry,
            "the payload starts with the header of the Glue Schema Registry: records must be plain JSON",
        ),
        // Then the number of the schema, which is small.
        [0, 0, _, _, _, _, ..] => (
            ErrorCode::SchemaRegistry,
            "the payload starts with the header of the Confluent Schema Registry: records must be plain JSON",
        ),
        _ => return None,
    })
}

/// Text starts like this too; the deflated bytes behind it are none.
fn is_zlib(second: u8, data: &[u8]) -> bool {
    (0x7800 + u32::from(second)).is_multiple_of(31) && data[2..].iter().any(|b| *b >= 0x80 || *b < 9)
}

/// What is wrong with text.
fn text(data: &[u8]) -> Option<(ErrorCode, &'static str)> {
    let whole = |text: &[u8]| serde_json::from_slice::<IgnoredAny>(text).is_ok();
    if let Some(rest) = data.strip_prefix(b"\xEF\xBB\xBF") {
        let message = "the payload starts with a byte order mark";
        return whole(rest).then_some((ErrorCode::NotJson, message));
    }
    if whole(data) {
        // The grammar is kept, so a string was refused.
        return Some((ErrorCode::NotJson, "a string holds half of a surrogate pair"));
    }
    if data.trim_ascii_start().starts_with(b"{") || data.trim_ascii_start().starts_with(b"[") {
        let mut documents = serde_json::Deserializer::from_slice(data).into_iter::<IgnoredAny>();
        let several = matches!((documents.next(), documents.next()), (Some(Ok(_)), Some(Ok(_))));
        return several.then_some((ErrorCode::SeveralDocuments, ErrorCode::SeveralDocuments.reason()));
    }
    let mut inner = Vec::new();
    let decoded = base64_simd::STANDARD.decode_append(data.trim_ascii(), &mut inner).is_ok();
    (decoded && (inner.starts_with(b"{") || binary(&inner).is_some())).then_some((
        ErrorCode::NotJson,
        "the payload is base64: the producer encodes what the SDK encodes again",
    ))
}

/// Formats without a magic number, for a guess in the message.
fn likely(data: &[u8]) -> Option<&'static str> {
    match data {
        [] => Some("the payload is empty"),
        [b'O', b'b', b'j', 1, ..] => Some("the payload is an Avro file: records must be plain JSON"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("the payload looks like UTF-16: records must be UTF-8"),
        [b'<', ..] => Some("the payload looks like XML: records must be JSON"),
        _ if is_protobuf(data) => {
            Some("the payload looks like Protocol Buffers or Avro: records must be plain JSON")
        }
        _ => None,
    }
}

/// True for bytes that are fields of Protocol Buffers to the last one, with a character that no text has.
fn is_protobuf(data: &[u8]) -> bool {
    let mut rest = data;
    while !rest.is_empty() {
        let Some((tag, tail)) = varint(rest) else { return false };
        let skip = match tag & 7 {
            0 => varint(tail).map(|(_, after)| tail.len() - after.len()),
            1 => Some(8),
            2 => varint(tail)
                .and_then(|(len, after)| usize::try_from(len).ok()?.checked_add(tail.len() - after.len())),
            5 => Some(4),
            _ => None,
        };
        let Some(after) = skip.filter(|_| tag >> 3 > 0).and_then(|skip| tail.get(skip..)) else {
            return false;
        };
        rest = after;
    }
    data.iter().any(|b| *b < 9 || (14..32).contains(b))
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let end = data.iter().take(10).position(|b| *b < 0x80)? + 1;
    let value = data[..end].iter().rev().fold(0u64, |value, b| value << 7 | u64::from(b & 0x7F));
    Some((value, &data[end..]))
}

#[cfg(test)]
mod tests {
    use super::super::{Image, decode_event, decode_object};
    use super::*;

    /// One record `{}` of the key `a`.
    const AGGREGATE: &[u8] = b"\xf3\x89\x9a\xc2\x0a\x01a\x1a\x06\x08\0\x1a\x02{}\x58\xb8\x29\x42\x6e\x0e\xf8\x6a\xfc\x07\xfb\x4a\x94\x26\xe7\x9b";

    fn check(data: &[u8], code: ErrorCode, word: &str) {
        for outcome in [
            decode_object(data, &mut Image::default()).map(|_| ()),
            decode_event(data, &mut Image::default()).map(|_| ()),
        ] {
            let bad = outcome.unwrap_err();
            assert_eq!(bad.code, code, "{bad}");
            assert!(bad.message.contains(word), "{bad}");
        }
    }

    #[test]
    fn what_is_no_json_is_named() {
        let glue = [&[3, 0][..], &[7; 16], b"{\"a\":1}"].concat();
        check(&glue, ErrorCode::SchemaRegistry, "Glue");
        check(&[&[3, 5][..], &[0xC1; 16], b"\x78\x9c"].concat(), ErrorCode::SchemaRegistry, "Glue");
        check(b"\0\0\0\0\x07\x02\x08", ErrorCode::SchemaRegistry, "Confluent");
        check(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", ErrorCode::Compressed, "gzip");
        check(b"\x78\x9c\xab\x56\x4a\x54\xb2\x32\xac\x05\0", ErrorCode::Compressed, "zlib");
        check(b"\x28\xb5\x2f\xfd\x04\0", ErrorCode::Compressed, "Zstandard");
        check(b"\xf3\x89\x9a\xc2\x0a\x01a", ErrorCode::BadAggregate, "short");
        check(&[b"\xf3\x89\x9a\xc2"[..].to_vec(), vec![7; 40]].concat(), ErrorCode::BadAggregate, "checksum");
        check(AGGREGATE, ErrorCode::KplAggregate, "inside another");
        check(b"{\"a\":1}\n{\"a\":2}\n", ErrorCode::SeveralDocuments, "several");
        check(b"{\"a\":1}{\"a\":2}", ErrorCode::SeveralDocuments, "several");
        check(b"Obj\x01\x04\xff", ErrorCode::NotUtf8, "Avro");
        check(b"\x0a\x03abc\x10\x96\x01", ErrorCode::NotUtf8, "Protocol Buffers");
        check(b"\xff\xfe{\0}\0", ErrorCode::NotUtf8, "UTF-16");
        check(b"\xef\xbb\xbf{\"a\":1}", ErrorCode::NotJson, "byte order mark");
        check(b"eyJhIjoxfQ==", ErrorCode::NotJson, "base64");
        check(b"<a/>", ErrorCode::NotJson, "XML");
        check(b"", ErrorCode::NotJson, "empty");
        check(b"{\"a\":", ErrorCode::NotJson, "line 1");
        check(b"hello", ErrorCode::NotJson, "line 1");
        check(b"{\"a\":1} x", ErrorCode::NotJson, "line 1");
        check(b"x^2 is a square", ErrorCode::NotJson, "line 1");
    }

    #[test]
    fn an_array_is_named() {
        let bad = decode_object(b" [{}]", &mut Image::default()).unwrap_err();
        assert_eq!(bad.code, ErrorCode::NotObject);
        assert!(bad.message.contains("array"));
        let bad = decode_event(b"[{}]", &mut Image::default()).unwrap_err();
        assert_eq!(bad.code, ErrorCode::WrongJsonType);
        assert!(bad.message.contains("array"));
    }
}
