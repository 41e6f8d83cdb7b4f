//! Writing JSON text: strings, and values copied without their white space.
//!
//! U+2028 and U+2029 are escaped although JSON allows them: line readers that know Unicode split a row there.

use super::{DEPTH_MAX, ErrorCode};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.push(b'"');
    // No branch inside, so that the compiler can look at many bytes at a time.
    let special =
        bytes.iter().fold(false, |any, &b| any | (b < 0x20) | (b == b'"') | (b == b'\\') | (b == 0xE2));
    if special {
        push_escaped(out, bytes)
    } else {
        out.extend_from_slice(bytes)
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
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

/// Appends `value`, which must be valid JSON, on one line: white space between tokens goes, tokens stay as they
/// are written (numbers keep every digit).
pub(super) fn push_compact(out: &mut Vec<u8>, value: &str) -> Result<(), ErrorCode> {
    let mut rest = value.as_bytes();
    let (mut in_string, mut depth) = (false, 0usize);
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => {
                // Only strings hold backslashes, and the escaped byte is never special.
                out.push(byte);
                if let Some((&escaped, tail)) = rest.split_first() {
                    out.push(escaped);
                    rest = tail;
                }
                continue;
            }
            0xE2 => {
                rest = push_e2(out, rest);
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => continue,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(ErrorCode::TooDeep);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        out.push(byte);
    }
    Ok(())
}
