//! Change records through both readers: what the quick one takes must become the same row as with the general one, or
//! the same error, byte for byte. Most of the records are as DynamoDB writes them but for a detail.

use kinetide::internals::generate::envelope::{self, Table};
use kinetide::internals::generate::synthetic::{Mix, Synthetic};
use kinetide::internals::transform::{
    BadRecord, Builtin, RecordContext, Rows, SourceKind, Transform, TransformSettings,
};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{fuzz, iterations};

const CONTEXT: RecordContext<'_> = RecordContext {
    source: SourceKind::Kinesis,
    stream: None,
    shard_id: "shardId-000000000000",
    sequence_number: "1001",
    sub_sequence: None,
    key: None,
    arrival_us: 1_768_469_401_000_000,
    null: false,
};

/// One transform with each reader.
struct Pair {
    quick: Box<dyn Rows>,
    general: Box<dyn Rows>,
}

impl Pair {
    fn of(name: &str) -> Self {
        let transform = Builtin::named(name, &TransformSettings::default()).unwrap();
        Self { quick: transform.start(), general: transform.general_reader().start() }
    }

    /// The answer of both, which must be the same; and whether the quick reader took the record.
    fn compare(&mut self, data: &[u8]) -> (Result<String, BadRecord>, bool) {
        let [quick, general] = [&mut self.quick, &mut self.general].map(|rows| {
            let mut row = Vec::new();
            let outcome = rows.apply(&CONTEXT, data, &mut row);
            outcome.map(|info| (info, String::from_utf8(row).unwrap()))
        });
        assert_eq!(quick, general, "{}", String::from_utf8_lossy(data));
        (quick.map(|(_, row)| row), self.quick.take_read_generally() == 0)
    }
}

/// Counts of records, and of those that the quick reader took.
#[derive(Default)]
struct Taken {
    records: u64,
    quick: u64,
}

impl Taken {
    fn note(&mut self, quick: bool) {
        self.records += 1;
        self.quick += u64::from(quick);
    }

    /// A reader that takes nothing never differs.
    fn check(&self, least_percent: u64) {
        let Self { records, quick } = self;
        eprintln!("the quick reader took {quick} of {records} records");
        assert!(quick * 100 >= records * least_percent, "it takes {least_percent} % at least");
    }
}

fn compare_all(pairs: &mut [Pair], data: &[u8], taken: &mut Taken) -> Vec<Result<String, BadRecord>> {
    pairs
        .iter_mut()
        .map(|pair| {
            let (outcome, quick) = pair.compare(data);
            taken.note(quick);
            outcome
        })
        .collect()
}

fn pairs() -> [Pair; 2] {
    ["crypto-transactions", "dynamodb-cdc"].map(Pair::of)
}

fn generated(mix: Mix, records: usize) -> impl Iterator<Item = Vec<u8>> {
    let table = Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() };
    let changes = Synthetic::new(3, mix).zip(1_768_469_400_000_000i64..).take(records);
    changes.map(move |(change, created_us)| {
        let (id, mut out) = (uuid::Uuid::from_u128(created_us.unsigned_abs().into()), Vec::new());
        envelope::write(&table, &change, &id, created_us, &mut out);
        out
    })
}

/// What `kinetide generate` writes is what DynamoDB writes.
#[test]
fn the_quick_reader_takes_what_dynamodb_writes() {
    let (mut pairs, mut taken) = (pairs(), Taken::default());
    let mix =
        Mix { live_keys_max: 100, ttl_rate: 0.1, ttl_deletes: true, odd_values: true, ..Mix::default() };
    for record in generated(mix, 3000) {
        compare_all(&mut pairs, &record, &mut taken);
    }
    taken.check(100);
}

#[test]
fn both_readers_agree_on_mutations() {
    let (mut pairs, mut taken) = (pairs(), Taken::default());
    let mix = Mix { live_keys_max: 50, bad_rate: 0.1, odd_values: true, ..Mix::default() };
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let mut seeds: Vec<_> = generated(mix, 100).collect();
    seeds.extend((0..100).map(|_| record(rng)));
    fuzz("changes", 3000, seeds, |data| {
        let outcomes = compare_all(&mut pairs, data, &mut taken);
        outcomes
            .iter()
            .map(|outcome| outcome.as_ref().map_or_else(BadRecord::to_string, |row| kind(row)))
            .collect()
    });
    taken.check(4);
}

/// What leads to new ways through the readers is mutated further: the members of a row and its marks.
fn kind(row: &str) -> String {
    let marks = ["null", "\\u", "\\", "[", "{", "item_"].map(|mark| row.contains(mark));
    format!("row {marks:?}")
}

#[test]
fn both_readers_agree_on_records_of_odd_pieces() {
    let (mut pairs, mut taken) = (pairs(), Taken::default());
    let rng = &mut ChaCha8Rng::seed_from_u64(20_260_115);
    let (mut rows, mut errors) = (0u64, std::collections::BTreeSet::new());
    for _ in 0..iterations(6_000) {
        for outcome in compare_all(&mut pairs, &record(rng), &mut taken) {
            match outcome {
                Ok(_) => rows += 1,
                Err(bad) => drop(errors.insert(bad.code)),
            }
        }
    }
    assert!(rows * 4 > taken.records, "{rows} of {} became rows", taken.records);
    assert!(errors.len() > 8, "{errors:?}");
    taken.check(30);
}

/// A change record, nearly as DynamoDB writes it.
fn record(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let new = image(rng);
    let mut change = vec![
        format!(r#""ApproximateCreationDateTime":{}"#, time(rng)),
        format!(r#""Keys":{}"#, keys(rng)),
        format!(r#""NewImage":{new}"#),
        format!(r#""OldImage":{}"#, old_image(rng, &new)),
        format!(r#""SizeBytes":{}"#, rng.random_range(0..999)),
        format!(r#""ApproximateCreationDateTimePrecision":{}"#, precision(rng)),
    ];
    if rng.random_bool(0.1) {
        change.push(format!(r#""SequenceNumber":{}"#, string(rng)));
    }
    let mut members = vec![
        r#""awsRegion":"eu-north-1""#.to_owned(),
        format!(r#""eventID":{}"#, if rng.random_bool(0.95) { r#""a-1""#.into() } else { odd(rng) }),
        format!(
            r#""eventName":{}"#,
            match rng.random_range(0..40u32) {
                0 => odd(rng),
                1..20 => r#""INSERT""#.to_owned(),
                _ => pick(rng, &[r#""MODIFY""#, r#""REMOVE""#]).to_owned(),
            }
        ),
        format!(r#""userIdentity":{}"#, identity(rng)),
        format!(r#""tableName":{}"#, table(rng)),
        format!(r#""dynamodb":{}"#, object(rng, change)),
        r#""eventSource":"aws:dynamodb""#.to_owned(),
    ];
    if rng.random_bool(0.1) {
        members.push(format!(r#""eventSourceARN":{}"#, table(rng)));
    }
    let mut record = object(rng, members);
    match rng.random_range(0..200u32) {
        0 => record.truncate(record.floor_char_boundary(rng.random_range(0..record.len()))),
        1 => record.push_str(pick(rng, &[" ", "\n", "{}", "\0", "}"])),
        2 => record.insert(0, pick(rng, &[" ", "\u{feff}", "\n", "["]).chars().next().unwrap()),
        _ => {}
    }
    let mut record = record.into_bytes();
    if rng.random_ratio(1, 200) {
        let at = rng.random_range(0..record.len().max(1)).min(record.len());
        record.insert(at, pick(rng, &[0x00, 0x1f, 0x7f, 0x80, 0xc3, 0xe2, 0xed, 0xff]));
    }
    record
}

fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    *from.choose(rng).expect("there are some")
}

/// `members` in braces, now and then in another order, with one missing, one twice, or white space.
fn object(rng: &mut ChaCha8Rng, mut members: Vec<String>) -> String {
    match rng.random_range(0..100u32) {
        0 => members.shuffle(rng),
        1 if !members.is_empty() => drop(members.remove(rng.random_range(0..members.len()))),
        2 if !members.is_empty() => {
            let twice = members[rng.random_range(0..members.len())].clone();
            members.insert(rng.random_range(0..=members.len()), twice);
        }
        3 => {
            let member = format!("{}:{}", string(rng), odd(rng));
            members.insert(rng.random_range(0..=members.len()), member);
        }
        4 => members.iter_mut().for_each(|member| member.push(' ')),
        _ => {}
    }
    format!("{{{}}}", members.join(","))
}

/// Any JSON, and what is nearly JSON.
fn odd(rng: &mut ChaCha8Rng) -> String {
    const VALUES: [&str; 22] = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "01",
        "1.5",
        "1e5",
        "{}",
        "[]",
        "[1]",
        r#"{"a":1}"#,
        "\"\"",
        r#"{"S":"x"}"#,
        r#"{"N":"1"}"#,
        "nul",
        "",
        "-",
        "1.",
        r#"{"S":1}"#,
        r#"{"S":"a","N":"1"}"#,
        "\"",
    ];
    if rng.random() { string(rng) } else { pick(rng, &VALUES).to_owned() }
}

fn time(rng: &mut ChaCha8Rng) -> String {
    const TIMES: [&str; 16] = [
        "0",
        "1",
        "1768469400",
        "1768469400123",
        "1768469400123456789",
        "253402300799999999",
        "253402300800000000",
        "99999999999999999999999",
        "00",
        "01",
        "-1",
        "1.768469400E9",
        "1768469400.5",
        "\"1768469400123456\"",
        "null",
        "1768469400123456 ",
    ];
    if rng.random_bool(0.9) { "1768469400123456".to_owned() } else { pick(rng, &TIMES).to_owned() }
}

fn precision(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..20u32) {
        0 => r#""MILLISECOND""#.to_owned(),
        1 => odd(rng),
        _ => r#""MICROSECOND""#.to_owned(),
    }
}

fn identity(rng: &mut ChaCha8Rng) -> String {
    const ANY: [&str; 7] = [
        r#"{"principalId":"dynamodb.amazonaws.com","type":"Service"}"#,
        r#"{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}"#,
        r#"{"type":"User","principalId":"dynamodb.amazonaws.com"}"#,
        r#"{"type":"Service","principalId":"x","more":{}}"#,
        r#"{"type":"Service","type":"Service"}"#,
        r#"{"type":"Service","principalId":null}"#,
        "{}",
    ];
    match rng.random_range(0..20u32) {
        0..3 => r#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#.to_owned(),
        3 => pick(rng, &ANY).to_owned(),
        4 => odd(rng),
        _ => "null".to_owned(),
    }
}

fn table(rng: &mut ChaCha8Rng) -> String {
    const ANY: [&str; 4] = [
        "null",
        r#""arn:aws:dynamodb:eu-north-1:000000000000:table/T/stream/2026""#,
        r#""arn:aws:dynamodb""#,
        r#""\u0041""#,
    ];
    match rng.random_range(0..20u32) {
        0 => pick(rng, &ANY).to_owned(),
        1 => odd(rng),
        _ => r#""CryptoTransactions""#.to_owned(),
    }
}

fn keys(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..20u32) {
        0 => image(rng),
        1 => format!(r#"{{"transaction_id":{{"S":"k1"}},"at":{}}}"#, tagged(rng, 0)),
        2 => format!(r#"{{{}:{{"S":"k1"}}}}"#, string(rng)),
        3 => odd(rng),
        _ => r#"{"transaction_id":{"S":"k1"}}"#.to_owned(),
    }
}

/// Mostly the new one but for a detail, as changes are.
fn old_image(rng: &mut ChaCha8Rng, new: &str) -> String {
    if rng.random_ratio(1, 4) {
        return image(rng);
    }
    let mut old = new.to_owned();
    for _ in 0..rng.random_range(0..3) {
        let from = old.floor_char_boundary(rng.random_range(0..=old.len()));
        let to = old.floor_char_boundary((from + rng.random_range(0..12)).min(old.len()));
        let other = match rng.random_range(0..8) {
            0 => odd(rng),
            1 => pick(rng, &["\"", "}", "{", ",", "\\", "x", "7"]).to_owned(),
            2 => pick(rng, &[r#"},"b":{"S":""#, r#""b":{"N":"1"},"#, "\"},\"", "}}"]).to_owned(),
            // Another value of the same length.
            _ => old[from..to].replace(|letter: char| letter.is_ascii_alphanumeric(), "0"),
        };
        old.replace_range(from..to, &other);
    }
    old
}

fn image(rng: &mut ChaCha8Rng) -> String {
    if rng.random_ratio(1, 40) {
        return odd(rng);
    }
    const KNOWN: [&str; 12] = [
        "transaction_id",
        "timestamp",
        "exchange",
        "trading_pair",
        "order_type",
        "price",
        "quantity",
        "trade_fee",
        "trade_status",
        "user_id",
        "wallet_address",
        "order_source",
    ];
    let mut members = Vec::new();
    for (index, name) in KNOWN.into_iter().enumerate() {
        let value = match index {
            _ if rng.random_ratio(1, 30) => continue,
            _ if rng.random_ratio(1, 200) => tagged(rng, 0),
            1 => r#"{"S":"2026-01-15T09:29:59.5"}"#.to_owned(),
            5..8 => format!(r#"{{"N":"{}"}}"#, number(rng)),
            _ => format!(r#"{{"S":{}}}"#, string(rng)),
        };
        members.push(format!("\"{name}\":{value}"));
    }
    for _ in 0..rng.random_range(0..3u32) {
        const NAMES: [&str; 10] = [
            r#""note""#,
            r#""Mixed Case.Name""#,
            r#""URL""#,
            r#""url""#,
            r#""year""#,
            r#""item_year""#,
            r#""Price""#,
            r#""""#,
            r#""sub_sequence_number""#,
            "\"Größe\"",
        ];
        let name = if rng.random_bool(0.9) { pick(rng, &NAMES).to_owned() } else { string(rng) };
        members.push(format!("{name}:{}", tagged(rng, 0)));
    }
    object(rng, members)
}

/// A tagged value, mostly one of DynamoDB's, in `depth` lists and maps.
fn tagged(rng: &mut ChaCha8Rng, depth: u32) -> String {
    let elements = |rng: &mut ChaCha8Rng, one: &dyn Fn(&mut ChaCha8Rng) -> String| {
        let elements: Vec<_> = (0..rng.random_range(0..4u32)).map(|_| one(rng)).collect();
        let comma = if rng.random_ratio(1, 50) { pick(rng, &[", ", ",,", ""]) } else { "," };
        format!("[{}]", elements.join(comma))
    };
    let kinds = if depth < 4 { 12 } else { 8 };
    let (tag, value) = match rng.random_range(0..kinds) {
        0 => ("S", string(rng)),
        1 => ("N", format!("\"{}\"", number(rng))),
        2 => ("B", binary(rng)),
        3 => ("BOOL", pick(rng, &["true", "false"]).to_owned()),
        4 => ("NULL", if rng.random_ratio(1, 50) { "false" } else { "true" }.to_owned()),
        5 => ("SS", elements(rng, &|rng| string(rng))),
        6 => ("NS", elements(rng, &|rng| format!("\"{}\"", number(rng)))),
        7 => ("BS", elements(rng, &|rng| binary(rng))),
        8 | 9 => ("L", elements(rng, &|rng| tagged(rng, depth + 1))),
        10 if rng.random_ratio(1, 20) => return deep(rng),
        _ => {
            let names = [r#""a""#, r#""A""#, r#""b""#, r#""S""#, r#""\u0062""#, "\"ä\"", "\"c\"", "\"d\""];
            let count = rng.random_range(0..4u32);
            let member = |_| {
                let name = if rng.random_bool(0.2) { string(rng) } else { pick(rng, &names).to_owned() };
                format!("{name}:{}", tagged(rng, depth + 1))
            };
            let members = (0..count).map(member).collect();
            ("M", object(rng, members))
        }
    };
    match rng.random_range(0..150u32) {
        0 => format!(r#"{{"{tag}":{}}}"#, odd(rng)),
        1 => format!(r#"{{"{tag}":{value},"S":"x"}}"#),
        2 => format!(r#"{{"{}":{value}}}"#, pick(rng, &["X", "s", "", "\\u0053"])),
        3 => format!(r#"{{ "{tag}":{value}}}"#),
        4 => "{}".to_owned(),
        _ => format!(r#"{{"{tag}":{value}}}"#),
    }
}

/// A value in many lists and maps: about as many as DynamoDB, each reader and serde_json take.
fn deep(rng: &mut ChaCha8Rng) -> String {
    let (open, close) = pick(rng, &[(r#"{"L":["#, "]}"), (r#"{"M":{"a":"#, "}}")]);
    let depth = pick(rng, &[30, 31, 32, 33, 61, 62, 63, 64, 65, 130]);
    format!("{}{{\"N\":\"1\"}}{}", open.repeat(depth), close.repeat(depth))
}

/// At the limits of DynamoDB, of decimal(38,18), of doubles, and of what is a number at all.
fn number(rng: &mut ChaCha8Rng) -> String {
    const NUMBERS: [&str; 44] = [
        "0",
        "-0",
        "0.0",
        "1",
        "-1",
        "12.50",
        "0.00000000397",
        "1E-130",
        "9.9999999999999999999999999999999999999E+125",
        "99999999999999999999999999999999999999",
        "999999999999999999999999999999999999990",
        "999999999999999999999999999999999999999",
        "0.99999999999999999999999999999999999999",
        "1E126",
        "9E-131",
        "0.1E-130",
        "12345678901234567890",
        "-12345678901234567890.123456789012345678",
        "123456789012345678901",
        "0.1234567890123456789",
        "1e19",
        "1e-18",
        "1e20",
        "0E-999",
        "0E+999",
        "0E-1001",
        "1E99999999999999999999",
        "01",
        "1.",
        ".5",
        "+1",
        "",
        "-",
        "1e",
        "1e+",
        "--1",
        "1,5",
        " 1",
        "NaN",
        "\\u0031",
        "1\\n",
        "0x1",
        "1\\6",
        "\\x",
    ];
    match rng.random_range(0..60u32) {
        0..2 => pick(rng, &NUMBERS).to_owned(),
        2..6 => pick(rng, &NUMBERS[..7]).to_owned(),
        6..10 => rng.random::<i64>().to_string(),
        10 => format!("{}.{}", rng.random::<i8>(), rng.random::<u64>()),
        _ => format!("{}.{:02}", rng.random_range(0..70_000u32), rng.random_range(0..100u32)),
    }
}

fn binary(rng: &mut ChaCha8Rng) -> String {
    const TEXTS: [&str; 8] = ["", "AA==", "/w==", "AAH/", "AA=", "A", "_w==", "A\\/=="];
    let whole = rng.random_ratio(49, 50);
    format!("\"{}\"", pick(rng, if whole { &TEXTS[..4] } else { &TEXTS }))
}

/// A string with its quotes: of every length, with every kind of byte at every place of a word.
fn string(rng: &mut ChaCha8Rng) -> String {
    const PIECES: [&str; 33] = [
        "a",
        "bc",
        "0123456",
        "abcdefghijklm",
        " ",
        "/",
        "'",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "},",
        "}}",
        "!",
        "#",
        "\u{7f}",
        "ü",
        "é",
        "🧊",
        "☃",
        "€",
        "\u{2027}",
        "\u{2028}",
        "\u{2029}",
        "\u{202a}",
        "\u{e2}",
        "\u{a8}",
        "\u{fffd}",
        "\u{ffff}",
        "]",
        "^",
    ];
    const ESCAPES: [&str; 26] = [
        r#"\""#,
        r"\\",
        r"\/",
        r"\b",
        r"\f",
        r"\n",
        r"\r",
        r"\t",
        r"\u0000",
        r"\u001f",
        r"\u0022",
        r"\u005c",
        r"\u0041",
        r"\u00e9",
        r"\u2028",
        r"\u2029",
        r"\uD83E\uDDCA",
        r"\ud83e\uddca",
        r"\ud83e",
        r"\uddca",
        r"\ud83e\u0041",
        r"\ud83e\ufffd",
        r"\u12",
        r"\u+123",
        r"\x",
        "\t",
    ];
    let mut text = String::from("\"");
    let escapes = rng.random_bool(0.1);
    for _ in 0..pick(rng, &[0, 1, 2, 3, 9]) {
        text.push_str(match rng.random_range(0..6u32) {
            0..3 => pick(rng, &PIECES[..4]),
            3 if escapes && rng.random_ratio(1, 4) => pick(rng, &ESCAPES),
            3 if escapes => pick(rng, &ESCAPES[..18]),
            _ => pick(rng, &PIECES),
        });
    }
    text + "\""
}
