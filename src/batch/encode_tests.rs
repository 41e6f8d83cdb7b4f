//! The two encoders of level 1: the same rows, other bytes.

use std::io::Read;

use flate2::bufread::GzDecoder;
use proptest::prelude::*;

use super::encode::Encoder;
use super::{Content, Gzip, GzipEncoder, read_content};
use crate::transform::fnv1a;

const ZLIB: Gzip = Gzip { level: 1, encoder: GzipEncoder::Zlib };
const ALL: [Gzip; 3] = [Gzip::level(1), ZLIB, Gzip::level(6)];

fn rows(count: usize) -> String {
    let row = |n: usize| {
        let pair = ["BTC/USD", "ETH/USDT", "SOL/USD"][n % 7 % 3];
        format!(
            "{{\"event_id\":\"{:016x}\",\"sequence_number\":\"{:020}\",\"pair\":\"{pair}\",\"price\":{}.5}}\n",
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            n,
            n % 1000
        )
    };
    (0..count).map(row).collect()
}

/// `room` says for the n-th push whether there is room for a compressor.
fn object(gzip: Gzip, text: &str, room: impl Fn(usize) -> bool) -> (bytes::Bytes, Content) {
    let mut encoder = Encoder::new(gzip);
    let mut most = 0;
    for (n, row) in text.split_inclusive('\n').enumerate() {
        encoder.push(row.as_bytes(), 1, |_| room(n));
        most = most.max(encoder.held_bytes());
        assert!(encoder.waiting_bytes() <= text.len());
    }
    let (object, content) = encoder.finish_object();
    assert!(object.len() <= most.max(100), "{} bytes, and {most} were said", object.len());
    (object, content)
}

fn read(object: &[u8]) -> String {
    let (mut reader, mut text) = (GzDecoder::new(object), String::new());
    reader.read_to_string(&mut text).unwrap();
    assert!(reader.into_inner().is_empty(), "one member, and nothing behind it");
    text
}

/// Compressed bytes may differ between workers, as what an object holds is proven by its rows. That they change with an
/// update of flate2 or zlib-rs, because a dependency switched on a C zlib, or with a change of our own encoder, should be
/// known all the same.
#[test]
fn compressed_bytes_are_known() {
    let text = rows(9000);
    let hashes = ALL.map(|gzip| format!("{:016x}", fnv1a(&object(gzip, &text, |_| true).0)));
    assert_eq!(hashes, ["f0eb30fe8a21d351", "ee05864efd8b3cdf", "0576ce8d0e0cbc92"]);
}

#[test]
fn objects_hold_the_same_rows_whatever_compressed_them() {
    for count in [0, 1, 100, 9000] {
        let text = rows(count);
        let contents = ALL.map(|gzip| {
            let (object, content) = object(gzip, &text, |_| true);
            assert_eq!(read(&object), text);
            assert_eq!(read_content(&object).unwrap(), content);
            content
        });
        assert_eq!(contents, [contents[0]; 3]);
    }
    let sizes = ALL.map(|gzip| object(gzip, &rows(9000), |_| true).0.len());
    assert!(sizes[0] * 5 < sizes[1] * 4, "{sizes:?}");
}

/// A row of 10 MiB, of one column and of thousands; rows that say the same; rows that nothing makes shorter.
#[test]
fn odd_rows_are_read_back() {
    let noise = |bytes: usize| -> String {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from(state >> 58).unwrap())
        };
        (0..bytes).map(|_| next()).filter(|c| *c != '"').collect()
    };
    let wide = (0..2000).map(|n| format!("\"c{n}\":{n}")).collect::<Vec<_>>().join(",");
    for (text, most) in [
        (format!("{{\"a\":\"{}\"}}\n", "x".repeat(10 << 20)), 60_000),
        (format!("{{\"a\":\"{}\"}}\n", noise(10 << 20)), 8 << 20),
        (format!("{{{wide}}}\n").repeat(40), 60_000),
        (rows(1).repeat(20_000), 20_000),
        ("\n".repeat(300_000), 3_000),
        (",\"".repeat(200_000), 3_000),
    ] {
        let (object, _) = object(Gzip::level(1), &text, |_| true);
        assert!(read(&object) == text, "{}", &text[..20]);
        assert!(object.len() < most, "{} bytes of {}: {}", object.len(), text.len(), &text[..20]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// When there was room is nothing that a replay would see again.
    #[test]
    fn bytes_do_not_depend_on_room(count in 0usize..12_000, from: prop::sample::Index) {
        let text = rows(count);
        let from = from.index(count + 1);
        for gzip in ALL {
            prop_assert_eq!(object(gzip, &text, |_| true), object(gzip, &text, |n| n >= from));
        }
    }
}
