//! Bytes → other bytes, almost as valid: what a broken or hostile producer may send.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Inputs stay below this size; large ones have tests of their own.
const LENGTH_MAX: usize = 16 << 10;

/// Pieces that mean something to one of the readers.
const WORDS: &[&[u8]] = &[
    b"null",
    b"true",
    b"false",
    b"{}",
    b"[]",
    b"\"\"",
    b"0",
    b"-0",
    b"-1",
    b"1e400",
    b"-1E-400",
    b"0.0",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"340282366920938463463374607431768211456",
    b"9.9999999999999999999999999999999999999E+125",
    b"1E-130",
    b"1.768469400123E9",
    b"253402300800000000",
    b"{\"S\":\"x\"}",
    b"{\"N\":\"1\"}",
    b"{\"B\":\"AA==\"}",
    b"{\"NULL\":true}",
    b"{\"M\":{}}",
    b"{\"L\":[]}",
    b"{\"SS\":[\"a\"]}",
    b"{\"NS\":[\"1\"]}",
    b"{\"BS\":[\"AA==\"]}",
    b"{\"BOOL\":true}",
    b"SHARD_END",
    b"TRIM_HORIZON",
    b"LATEST",
    b"AT_TIMESTAMP",
    b"INSERT",
    b"MODIFY",
    b"REMOVE",
    b"LEASE",
    b"WORKER_METRIC_STATS",
    b"LEADER",
    b"STREAM",
    b"MICROSECOND",
    b"MILLISECOND",
    b"seal",
    b"deliver",
    b"\\u0000",
    b"\\ud83d",
    b"\\u2028",
    b"\\\"",
    b"\\",
    b"\"",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b",",
    b":",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\xe2\x80\xa8",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf0\x9f\xa7\x8a",
    b"\x1f\x8b\x08",
    b"=",
    b"Z",
    b"/",
    b"..",
    b"year",
    b"shard_id",
    b"source__2",
    b"Source",
    b"2026-01-15T09:30:00Z",
    b"9999-12-31T23:59:59.999999Z",
];

/// `seed` with a few changes; `others` lend pieces.
pub(super) fn mutate(seed: &[u8], others: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    // Mostly one or two: what is wrong everywhere is refused at once.
    for _ in 0..1 + rng.random_range(0..3u32) * rng.random_range(0..2u32) {
        change(&mut bytes, others, rng);
        bytes.truncate(LENGTH_MAX);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..15u32) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8u32),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => bytes.truncate(at),
        3 => {
            let end = (at + rng.random_range(1..32usize)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 | 5 => insert(bytes, at, WORDS.choose(rng).expect("there are words")),
        6 => {
            // The head of this one and the tail of another.
            let other = others.choose(rng).map_or(&b""[..], Vec::as_slice);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
        7 | 8 => replace_number(bytes, at, rng),
        // The rest know the structure of JSON and TOML, loosely.
        kind => {
            let Some((start, end)) = value_from(bytes, at) else { return };
            let value = bytes[start..end].to_vec();
            let new = match kind {
                9 => nested(&value, rng),
                10 => WORDS.choose(rng).expect("there are words").to_vec(),
                11 => {
                    let other = others.choose(rng).map_or(&b""[..], Vec::as_slice);
                    let at = rng.random_range(0..=other.len());
                    value_from(other, at).map(|(start, end)| other[start..end].to_vec()).unwrap_or_default()
                }
                12 => {
                    // A string becomes a long one, a list gets many elements.
                    let times = 1 << rng.random_range(0..8u32);
                    let inner = value.get(1..value.len() - 1).unwrap_or_default();
                    let mut long = vec![value[0]];
                    for time in 0..times {
                        long.extend_from_slice(if time > 0 && value[0] != b'"' { b"," } else { b"" });
                        long.extend_from_slice(inner);
                    }
                    long.push(value[value.len() - 1]);
                    long
                }
                _ => return repeat_member(bytes, start, end, rng),
            };
            bytes.splice(start..end, new);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

/// Another number in the place of the next one.
fn replace_number(bytes: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match rng.random_range(0..7u32) {
        0 => "9".repeat(1 << rng.random_range(0..9u32)),
        1 => "0".repeat(1 << rng.random_range(0..6u32)),
        2 => rng.random::<u64>().to_string(),
        3 => rng.random::<i64>().to_string(),
        4 => format!("{}e{}", rng.random::<u8>(), rng.random::<i16>()),
        5 => format!("{}.{}", rng.random::<u8>(), rng.random::<u128>()),
        _ => (1u128 << rng.random_range(0..128u32)).to_string(),
    };
    bytes.splice(start..start + length, number.into_bytes());
}

/// `value` inside of many lists and maps.
fn nested(value: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (open, close) =
        *[(&b"{\"L\":["[..], &b"]}"[..]), (b"{\"M\":{\"a\":", b"}}"), (b"[", b"]"), (b"{\"a\":", b"}")]
            .choose(rng)
            .expect("there are kinds");
    let depth = [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 400].choose(rng).copied().expect("depths");
    [open.repeat(depth), value.to_vec(), close.repeat(depth)].concat()
}

/// The member whose value this is once more, as it is or under its name in capitals.
fn repeat_member(bytes: &mut Vec<u8>, start: usize, end: usize, rng: &mut ChaCha8Rng) {
    let head = &bytes[..start];
    let from = head.iter().rposition(|byte| b"{[,\n".contains(byte)).map_or(0, |found| found + 1);
    let mut member = bytes[from..end].to_vec();
    if rng.random() {
        member[..start - from].make_ascii_uppercase();
    }
    let separator: &[u8] = if bytes.get(from.wrapping_sub(1)) == Some(&b'\n') { b"\n" } else { b"," };
    insert(bytes, end, &[separator, &member].concat());
}

/// Where the next string, list or object at or behind `at` starts and ends.
fn value_from(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let start = at + bytes[at..].iter().position(|byte| b"\"{[".contains(byte))?;
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (index, byte) in bytes[start..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !in_string {
            return Some((start, start + index + 1));
        }
    }
    None
}
