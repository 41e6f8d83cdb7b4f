//! The encoder of level 1 against a reader that shares no code with it.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::bufread::GzDecoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use row_gzip::Encoder;

use super::{attempt, fuzz, iterations};

/// Cuts the text as `pieces` says, whole in the end.
fn compressed(text: &[u8], mut piece: impl FnMut() -> usize) -> Vec<u8> {
    let (mut encoder, mut rest) = (Encoder::new(), text);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        encoder.push(now);
        rest = later;
    }
    encoder.finish()
}

/// Reads everything back, and says how well it was packed.
fn checked(text: &[u8], pieces: &mut impl Rng) -> String {
    let object = compressed(text, || usize::MAX);
    let (mut reader, mut back) = (GzDecoder::new(&object[..]), Vec::new());
    reader.read_to_end(&mut back).expect("gzip");
    assert!(back == text, "the text comes back");
    assert!(reader.into_inner().is_empty(), "one member, and nothing behind it");
    assert!(object.len() <= text.len() + text.len() / 8 + 64, "{} of {}", object.len(), text.len());
    let most = *[10, 5_000, 200_000].get(pieces.random_range(0..3)).unwrap();
    assert!(object == compressed(text, || pieces.random_range(1..=most)), "cuts leave no trace");
    format!("{} {}", text.len().max(1).ilog2(), object.len().max(1).ilog2())
}

const NAMES: [&str; 4] =
    ["c", "", "column_of_the_table_", "a_name_that_is_far_longer_than_one_of_a_column_in_any_table_is_"];

/// Names and kinds of columns.
type Template = Vec<(String, u8)>;

fn template(rng: &mut impl Rng) -> Template {
    let columns = [1, 5, 30, 1000, 5000][rng.random_range(0..5)];
    let name = |n: usize, rng: &mut dyn rand::RngCore| format!("{}{n}", NAMES[rng.random_range(0..4)]);
    (0..columns).map(|n| (name(n, rng), rng.random())).collect()
}

fn value(kind: u8, rng: &mut impl Rng, out: &mut Vec<u8>) {
    match kind % 7 {
        0 => out.extend(rng.random::<u32>().to_string().bytes()),
        1 => out.extend(format!("\"{:032x}\"", rng.random::<u128>()).bytes()),
        2 => out.extend(["\"Web\"", "\"Mobile\"", "null", "\"API\""][rng.random_range(0..4)].bytes()),
        3 => out.extend(b"true"),
        4 => {
            let byte = b"ab,\"\n{x"[rng.random_range(0..7)];
            out.extend(std::iter::repeat_n(byte, rng.random_range(0..300)));
        }
        5 => out.extend((0..rng.random_range(0..80)).map(|_| rng.random_range(b' '..127))),
        _ => out.extend(br#"{"S":{"N":[1,2,"x"]}}"#),
    }
}

fn row(template: &Template, rng: &mut impl Rng, out: &mut Vec<u8>) {
    for (n, (name, kind)) in template.iter().enumerate() {
        out.push(if n == 0 { b'{' } else { b',' });
        out.extend(format!("\"{name}\":").bytes());
        value(*kind, rng, out);
    }
    out.extend(b"}\n");
}

/// Rows whose columns move and vanish, noise, runs, signs that columns begin with, one huge row, what stood there before,
/// or all of it.
fn text(rng: &mut impl Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let most = [10, 1000, 70_000, 200_000, 600_000][rng.random_range(0..5)];
    let (size, kind) = (rng.random_range(0..=most), rng.random_range(0..8));
    let mut template = template(rng);
    while out.len() < size {
        let kind = if kind == 7 { rng.random_range(0..7) } else { kind };
        let many = rng.random_range(1..5000);
        match kind {
            0 => out.extend((0..many).map(|_| rng.random::<u8>())),
            1 => out.extend(std::iter::repeat_n(rng.random::<u8>(), many)),
            2 | 3 => {
                row(&template, rng, &mut out);
                if rng.random_bool(0.1) {
                    let turn = rng.random_range(0..template.len());
                    template.rotate_left(turn);
                }
                if rng.random_bool(0.1) && template.len() > 1 {
                    template.pop();
                }
            }
            4 => out.extend((0..many).map(|_| b",\"\n:{}a1"[rng.random_range(0..8)])),
            5 => {
                out.extend(br#"{"x":""#);
                out.extend((0..many * 60).map(|_| rng.random_range(b'a'..=b'z')));
                out.extend(b"\"}\n");
            }
            _ => {
                if out.is_empty() {
                    row(&template, rng, &mut out);
                }
                let from = rng.random_range(0..out.len());
                let to = rng.random_range(from..out.len().min(from + 40_000));
                out.extend_from_within(from..to);
                out.push(rng.random());
            }
        }
    }
    out
}

#[test]
fn whatever_the_text_is_it_is_read_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_130);
    let (texts, mut bytes) = (iterations(150), 0);
    for _ in 0..texts {
        let text = text(&mut rng);
        bytes += text.len();
        attempt("gzip", &text, |text| checked(text, &mut rng));
    }
    eprintln!("gzip: {texts} texts of {bytes} bytes");
}

#[test]
fn rows_that_were_changed_are_read_back() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut seeds = Vec::new();
    for _ in 0..4 {
        let (template, mut rows) = (template(&mut rng), Vec::new());
        (0..20).for_each(|_| row(&template[..template.len().min(30)].to_vec(), &mut rng, &mut rows));
        seeds.push(rows);
    }
    fuzz("gzip", 300, seeds, |text| checked(text, &mut rng));
}

/// The bytes of an object are decided here alone: they are those of the release before, on any machine. A change of the
/// encoder may change them; then this object is made anew, and the change log says so.
#[test]
fn bytes_are_those_of_the_golden_object() {
    let mut text = Vec::new();
    for n in 0..600u64 {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pair = ["BTC/USD", "ETH/USDT", "SOL/USD", "ADA/USDT"][(mixed >> 62) as usize];
        let extra = if mixed >> 8 & 7 == 0 { r#""note":"once in a while","# } else { "" };
        text.extend(
            format!(
                concat!(
                    r#"{{"event_id":"{:016x}{:016x}","event_name":"INSERT","cdc_ts_us":{},"trading_pair":"{}","#,
                    r#"{}"price":{}.{:02},"nested":{{"a":{{"S":"{:x}"}},"b":null}},"is_deleted":false}}"#,
                    "\n"
                ),
                mixed,
                mixed.rotate_left(29) ^ n,
                1_768_467_600_000_157 + n * 500_316,
                pair,
                extra,
                mixed >> 45,
                mixed & 63,
                mixed >> 50,
            )
            .bytes(),
        );
    }
    let object = compressed(&text, || usize::MAX);
    let golden = include_bytes!("../../fixtures/gzip/rows.ndjson.gz");
    if object != golden {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rows.ndjson.gz");
        fs::write(&found, &object).unwrap();
        panic!("other bytes than those of the golden object: {}", found.display());
    }
}
