//! Writing JSON text: strings, and values copied without their white space.
//!
//! U+2028 and U+2029 are escaped although JSON allows them: line readers that know Unicode split a row there.

use super::names::Names;
use super::number::Number;
use super::{DEPTH_MAX, ErrorCode};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    push_string_bytes(out, text.as_bytes());
}

/// As [`push_string`], for bytes that are known to be UTF-8.
pub(crate) fn push_string_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    // The last word overlaps the one before it, so that few bytes are looked at one by one.
    let special = match bytes.last_chunk() {
        Some(last) => {
            bytes.as_chunks().0.iter().chain([last]).fold(0, |any, word| any | specials(*word)) != 0
        }
        None => bytes.iter().any(|b| matches!(b, 0..0x20 | b'"' | b'\\' | 0xE2)),
    };
    if special {
        push_escaped(out, bytes)
    } else {
        out.extend_from_slice(bytes)
    }
    out.push(b'"');
}

/// Not 0 when one of eight bytes cannot stand in a string of ours as it is.
#[inline]
fn specials(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    let equal = |byte: u8| {
        let differ = word ^ (ONES * u64::from(byte));
        differ.wrapping_sub(ONES) & !differ
    };
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (control | equal(b'"') | equal(b'\\') | equal(0xE2)) & (ONES << 7)
}

/// Appends what is inside of a JSON string for `bytes`.
pub(super) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x00..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            0xE2 => rest = push_e2(out, rest),
            _ => out.push(byte),
        }
    }
}

/// The rest of a character that starts with byte E2; answers what follows it.
fn push_e2<'a>(out: &mut Vec<u8>, rest: &'a [u8]) -> &'a [u8] {
    match rest {
        [0x80, 0xA8, tail @ ..] => {
            out.extend_from_slice(b"\\u2028");
            tail
        }
        [0x80, 0xA9, tail @ ..] => {
            out.extend_from_slice(b"\\u2029");
            tail
        }
        _ => {
            out.push(0xE2);
            rest
        }
    }
}

/// Appends `value`, which must be valid JSON to the grammar, on one line: white space between tokens goes, tokens stay
/// as they are written (numbers keep every digit), but for escapes in names.
///
/// # Errors
/// Where a strict reader would refuse what the grammar allows: names of one map that are the same, half surrogates,
/// numbers out of range, deep nesting.
pub(super) fn push_compact(out: &mut Vec<u8>, names: &mut Names, value: &str) -> Result<(), ErrorCode> {
    let mut rest = value.as_bytes();
    let mut name_next = false;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'"' => {
                let (inside, tail) = split_string(tail);
                rest = tail;
                let start = out.len();
                if name_next && inside.contains(&b'\\') {
                    let quoted = [b"\"", inside, b"\""].concat();
                    let name: String = serde_json::from_slice(&quoted).map_err(|_| ErrorCode::NotJson)?;
                    push_string(out, &name);
                } else {
                    push_written(out, inside)?;
                }
                if std::mem::take(&mut name_next) {
                    names.add(start, out.len());
                }
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let digit = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
                let (more, tail) = tail.split_at(tail.iter().position(|b| !digit(b)).unwrap_or(tail.len()));
                rest = tail;
                let start = out.len();
                out.push(byte);
                out.extend_from_slice(more);
                match Number::parse(&out[start..]) {
                    Some(number) if number.fits_readers() => continue,
                    _ => return Err(ErrorCode::BadNumber),
                }
            }
            b'[' | b'{' if names.depth() == DEPTH_MAX => return Err(ErrorCode::TooDeep),
            b'[' => names.open_list(),
            b'{' => names.open_map(),
            b']' | b'}' => names.close(out)?,
            _ => {}
        }
        name_next = matches!(byte, b'{' | b',') && names.in_map();
        out.push(byte);
    }
    Ok(())
}

/// What is inside a string whose quote was just read, and what follows it.
fn split_string(text: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) {
        at += found;
        if text[at] == b'"' {
            return (&text[..at], &text[at + 1..]);
        }
        at = (at + 2).min(text.len());
    }
    (text, &[])
}

/// Appends a string as it is written, quotes around it.
fn push_written(out: &mut Vec<u8>, inside: &[u8]) -> Result<(), ErrorCode> {
    out.push(b'"');
    let mut rest = inside;
    while let Some(found) = memchr::memchr2(b'\\', 0xE2, rest) {
        let (plain, tail) = rest.split_at(found);
        out.extend_from_slice(plain);
        if tail[0] == 0xE2 {
            rest = push_e2(out, &tail[1..]);
        } else {
            let (escape, tail) = tail.split_at(escape_len(tail).ok_or(ErrorCode::NotJson)?);
            out.extend_from_slice(escape);
            rest = tail;
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
    Ok(())
}

/// Bytes of the escape at the start of `text`, of both where two make a character; `None` for half a surrogate pair.
fn escape_len(text: &[u8]) -> Option<usize> {
    let unit = |at: usize| {
        let hex = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()
    };
    match (text.get(1)?, unit(0)) {
        (b'u', Some(0xD800..0xDC00)) => unit(6).filter(|low| (0xDC00..0xE000).contains(low)).map(|_| 12),
        (b'u', Some(0xDC00..0xE000) | None) => None,
        (b'u', Some(_)) => Some(6),
        _ => Some(2),
    }
}
