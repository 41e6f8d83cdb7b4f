use proptest::prelude::*;
use serde_json::Value;

use super::*;

type OwnedMembers = Vec<(Vec<u8>, Vec<u8>, Kind)>;

/// What both readers make of a document, which is the same.
fn event(document: &str) -> Result<(EventName, i64, OwnedMembers), BadRecord> {
    let [mut quick, mut general] = [Image::default(), Image::general_only()];
    let [quick, general] = [&mut quick, &mut general].map(|image| {
        let (event, members) = decode_event(document.as_bytes(), image)?;
        let member = |at| (members.name(at).to_vec(), members.value(at).to_vec(), members.kind(at));
        Ok((event, (0..members.len()).map(member).collect()))
    });
    assert_eq!(quick, general, "{document}");
    quick.map(|(event, members)| (event.name, event.created_us, members))
}

/// The JSON that an attribute value becomes.
fn attribute(value: &str) -> Result<String, ErrorCode> {
    let document = format!(
        r#"{{"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":1,"NewImage":{{"a":{value}}}}}}}"#
    );
    let (_, _, members) = event(&document).map_err(|bad| bad.code)?;
    let [(name, value, _)] = &members[..] else { panic!("one member: {members:?}") };
    assert_eq!(name, b"a");
    Ok(String::from_utf8(value.clone()).unwrap())
}

fn check(value: &str, expected: &str) {
    assert_eq!(attribute(value).as_deref(), Ok(expected), "{value}");
}

fn refuse(value: &str, code: ErrorCode) {
    assert_eq!(attribute(value), Err(code), "{value}");
}

fn created(json: &str, precision: &str) -> Result<i64, ErrorCode> {
    let document = format!(
        r#"{{"eventName":"REMOVE","dynamodb":{{"Keys":{{"k":{{"S":""}}}},"ApproximateCreationDateTime":{json}{precision}}}}}"#
    );
    event(&document).map(|(_, created, _)| created).map_err(|bad| bad.code)
}

#[test]
fn every_type_becomes_plain_json() {
    check(r#"{"S":"x"}"#, r#""x""#);
    check(r#"{ "N" : "-12.50" }"#, "-12.50");
    check(r#"{"N":12345678901234567890123.5}"#, "12345678901234567890123.5");
    check(r#"{"N":"\u0031e-7"}"#, "1e-7");
    check(r#"{"B":"/w=="}"#, r#""/w==""#);
    check(r#"{"BOOL":false}"#, "false");
    check(r#"{"NULL":true}"#, "null");
    check(r#"{"SS":["b","a",""]}"#, r#"["b","a",""]"#);
    check(r#"{"NS":["1",2]}"#, "[1,2]");
    check(r#"{"BS":[""]}"#, r#"[""]"#);
    check(r#"{"L":[]}"#, "[]");
    check(r#"{"M":{}}"#, "{}");
    check(r#"{"M":{"S":{"L":[{"S":"N"},{"M":{"\n":{"N":"1"}}}]}}}"#, r#"{"S":["N",{"\n":1}]}"#);
}

#[test]
fn strings_stay_on_one_line() {
    check("{\"S\":\"\u{2028}\u{2029}\u{20ac}\"}", "\"\\u2028\\u2029\u{20ac}\"");
    check(r#"{"S":"\u2028\/\"\\\b\u0000\t\r\n"}"#, r#""\u2028/\"\\\u0008\u0000\t\r\n""#);
    check(r#"{"S":"\ud83e\uddca"}"#, "\"\u{1f9ca}\"");
    refuse(r#"{"S":"\ud83e"}"#, ErrorCode::NotJson);
    refuse("{\"S\":\"\n\"}", ErrorCode::NotJson);
}

#[test]
fn malformed_values_have_their_reasons() {
    refuse(r#"{"X":"1"}"#, ErrorCode::UnknownType);
    refuse(r#"{"S":"1","N":"1"}"#, ErrorCode::TwoTags);
    refuse("{}", ErrorCode::NoTag);
    refuse(r#"{"S":1}"#, ErrorCode::WrongJsonType);
    refuse(r#""S""#, ErrorCode::WrongJsonType);
    refuse(r#"{"NULL":false}"#, ErrorCode::WrongJsonType);
    refuse(r#"{"N":true}"#, ErrorCode::WrongJsonType);
    refuse(r#"{"N":null}"#, ErrorCode::WrongJsonType);
    refuse(r#"{"L":{}}"#, ErrorCode::WrongJsonType);
    refuse(r#"{"B":"a"}"#, ErrorCode::BadBase64);
    refuse(r#"{"BS":["_w=="]}"#, ErrorCode::BadBase64);
    for number in
        ["", " 1", "+1", "01", ".5", "1.", "1e", "1e+", "0x1", "NaN", "Infinity", "1,5", "--1", "1 "]
    {
        refuse(&format!(r#"{{"N":"{number}"}}"#), ErrorCode::BadNumber);
    }
    refuse(r#"{"S":"#, ErrorCode::NotJson);
}

#[test]
fn numbers_keep_to_dynamodbs_range() {
    let nines = "9".repeat(38);
    for number in
        [&nines[..], "9.9999999999999999999999999999999999999E+125", "1E-130", "0E-999", "-0", "1e125"]
    {
        check(&format!(r#"{{"N":"{number}"}}"#), number);
    }
    check(&format!(r#"{{"N":"{nines}0"}}"#), &format!("{nines}0"));
    for number in [
        &format!("{nines}9")[..],
        "1E126",
        "9E-131",
        "1E99999999999999999999",
        "0.1E-130",
        "0E+999",
        "0E-99999999999",
        &format!("1{}", "0".repeat(400)),
        &format!("1.{}", "0".repeat(400)),
        &format!("1E{}1", "0".repeat(400)),
    ] {
        refuse(&format!(r#"{{"N":"{number}"}}"#), ErrorCode::BadNumber);
    }
}

/// Bounds of JSON numbers, as the strictest of DuckDB, pyarrow and Spark has them.
#[test]
fn numbers_are_such_that_readers_take() {
    let taken = |number: &str| {
        let document = format!(r#"{{"a":[{number}]}}"#);
        let outcome = decode_object(document.as_bytes(), &mut Image::default()).map(|_| ());
        outcome.map_err(|bad| assert_eq!(bad.code, ErrorCode::BadNumber, "{number}")).is_ok()
    };
    for number in
        ["-0", "0.0", "1e308", "-1.7976931348623157e308", "1e-308", "4.9e-324", "0e-400", "0.15e309"]
    {
        assert!(taken(number), "{number}");
    }
    assert!(taken(&"9".repeat(300)) && taken(&format!("0.{}", "1".repeat(299))));
    for number in ["1e309", "-1e400", "1.8e308", "1e-324", "-1E-400", "0e309", "0e999", "0e-9999999999"] {
        assert!(!taken(number), "{number}");
    }
    assert!(!taken(&"9".repeat(301)) && !taken(&format!("1e{}1", "0".repeat(300))));
}

#[test]
fn numbers_fit_a_decimal_column_exactly_or_not() {
    let fits = |number: &str| Number::parse(number.as_bytes()).unwrap().fits_decimal();
    for number in [
        "0",
        "-12.5",
        "8.052E-8",
        "1E+19",
        "1e-18",
        "99999999999999999999.999999999999999999",
        "1.10e-17",
        "0E+20",
    ] {
        assert!(fits(number), "{number}");
    }
    for number in
        ["1E+20", "100000000000000000000", "1E-19", "0.1234567890123456789", "1000000000000000000000e-3"]
    {
        assert!(!fits(number), "{number}");
    }
}

#[test]
fn names_inside_maps_differ_by_more_than_case() {
    for (members, code) in [
        (["ID", "id"], ErrorCode::AmbiguousNames),
        (["Ä", "ä"], ErrorCode::AmbiguousNames),
        (["x", "x"], ErrorCode::DuplicateName),
    ] {
        let [a, b] = members;
        let typed = format!(r#"{{"M":{{"{a}":{{"N":"1"}},"other":{{"L":[]}},"{b}":{{"S":"x"}}}}}}"#);
        refuse(&typed, code);
        refuse(&format!(r#"{{"L":[{{"M":{{"deeper":{typed}}}}}]}}"#), code);
        for document in [
            format!(r#"{{"a":{{"{a}":1,"{b}":2}}}}"#),
            format!(r#"{{"a":[1,{{"x":[],"y":{{"{a}":1,"z":{{}},"{b}":[2]}}}}]}}"#),
        ] {
            let bad = decode_object(document.as_bytes(), &mut Image::default()).unwrap_err();
            assert_eq!(bad.code, code, "{document}");
        }
    }
    // Names of different maps, and values, are no names of one map.
    check(r#"{"M":{"a":{"M":{"A":{"S":"a"}}},"b":{"M":{"A":{"N":"1"}}}}}"#, r#"{"a":{"A":"a"},"b":{"A":1}}"#);
    let mut image = Image::default();
    decode_object(br#"{"a":{"x":"x","y":["x",{"x":{"X":1}},"X"],"z":{}}}"#, &mut image).unwrap();
    // An escape is another spelling of the same name.
    let bad = decode_object(br#"{"a":{"x":1,"\u0078":2}}"#, &mut image).unwrap_err();
    assert_eq!(bad.code, ErrorCode::DuplicateName);
    let members = decode_object(br#"{"a":{"\u0078\"":1}}"#, &mut image).unwrap();
    assert_eq!(members.value(0), br#"{"x\"":1}"#);
}

#[test]
fn half_surrogates_are_refused_at_every_depth() {
    for text in [r"\ud83d", r"x\ud83dy", r"\ude00", r"\ud83d\ud83d", r"\ud83d\n", r"\uD83Dx\uDE00"] {
        for document in [
            format!(r#"{{"a":"{text}"}}"#),
            format!(r#"{{"{text}":1}}"#),
            format!(r#"{{"a":[{{"b":"{text}"}}]}}"#),
            format!(r#"{{"a":[{{"{text}":1}}]}}"#),
        ] {
            let bad = decode_object(document.as_bytes(), &mut Image::default()).unwrap_err();
            assert_eq!(bad.code, ErrorCode::NotJson, "{document}");
            assert!(bad.message.contains("surrogate"), "{bad}");
        }
    }
    let mut image = Image::default();
    let members = decode_object(br#"{"a":["\ud83d\ude00","\\ud83d","\\\\"]}"#, &mut image).unwrap();
    assert_eq!(members.value(0), br#"["\ud83d\ude00","\\ud83d","\\\\"]"#);
}

#[test]
fn the_key_is_in_every_image() {
    let images = [
        r#""NewImage":{}"#,
        r#""NewImage":{},"OldImage":{}"#,
        r#""NewImage":{"x":{"N":"1"}},"OldImage":{}"#,
        r#""NewImage":{"k":{"S":"key"}},"OldImage":{"k":{"S":"key"},"s":{"N":"2"}}"#,
    ];
    for (name, images) in
        [("INSERT", &images[..]), ("MODIFY", &images), ("REMOVE", &images), ("REMOVE", &[r#""X":1"#])]
    {
        for image in images {
            let keys = r#""ApproximateCreationDateTime":1,"Keys":{"k":{"S":"key"},"s":{"N":"2"}}"#;
            for change in [format!("{keys},{image}"), format!("{image},{keys}")] {
                for document in [
                    format!(r#"{{"eventName":"{name}","dynamodb":{{{change}}}}}"#),
                    format!(r#"{{"dynamodb":{{{change}}},"eventName":"{name}"}}"#),
                ] {
                    let (_, _, members) = event(&document).unwrap();
                    let value = |name: &[u8]| {
                        let named = members.iter().filter(|member| member.0 == name);
                        named.map(|member| &member.1[..]).collect::<Vec<_>>()
                    };
                    assert_eq!(
                        (value(b"k"), value(b"s")),
                        (vec![&b"\"key\""[..]], vec![&b"2"[..]]),
                        "{document}"
                    );
                }
            }
        }
    }
    let code = |change: &str| {
        event(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":1,{change}}}}}"#))
            .unwrap_err()
            .code
    };
    assert_eq!(code(r#""NewImage":{}"#), ErrorCode::NoImage);
    assert_eq!(code(r#""NewImage":{},"Keys":null"#), ErrorCode::NoImage);
    assert_eq!(code(r#""NewImage":null,"Keys":{"k":{"S":"x"}}"#), ErrorCode::NoImage);
    assert_eq!(code(r#""NewImage":{},"Keys":[]"#), ErrorCode::WrongJsonType);
}

#[test]
fn nesting_ends_at_the_guard() {
    let nested =
        |levels: usize| format!("{}{}{}", r#"{"L":["#.repeat(levels), r#"{"N":"1"}"#, "]}".repeat(levels));
    check(&nested(64), &format!("{}1{}", "[".repeat(64), "]".repeat(64)));
    refuse(&nested(65), ErrorCode::TooDeep);
    refuse(&nested(50_000), ErrorCode::TooDeep);
    let maps =
        |levels: usize| format!("{}{}{}", r#"{"M":{"m":"#.repeat(levels), r#"{"X":1}"#, "}}".repeat(levels));
    refuse(&maps(40), ErrorCode::UnknownType);
    refuse(&maps(65), ErrorCode::TooDeep);
}

#[test]
fn creation_time_is_read_in_every_unit() {
    assert_eq!(created("1768469400", ""), Ok(1_768_469_400_000_000));
    assert_eq!(created("1768469400.25", ""), Ok(1_768_469_400_250_000));
    assert_eq!(created("1.76846940025E9", ""), Ok(1_768_469_400_250_000));
    assert_eq!(created("1768469400123", ""), Ok(1_768_469_400_123_000));
    assert_eq!(created("1768469400123456", ""), Ok(1_768_469_400_123_456));
    assert_eq!(created("1768469400123456789", ""), Ok(1_768_469_400_123_456));
    let precision = |unit| format!(r#","ApproximateCreationDateTimePrecision":"{unit}""#);
    assert_eq!(created("5", &precision("MICROSECOND")), Ok(5));
    assert_eq!(created("5", &precision("MILLISECOND")), Ok(5000));
    assert_eq!(created("5", &precision("FORTNIGHT")), Err(ErrorCode::BadTime));
    for time in ["-1", "null", "\"1768469400\"", "1e30", "[]"] {
        assert_eq!(created(time, ""), Err(ErrorCode::BadTime), "{time}");
    }
    assert_eq!(created("253402300800000000", &precision("MICROSECOND")), Err(ErrorCode::BadTime));
}

#[test]
fn envelope_faults_have_their_reasons() {
    let code = |document: &str| event(document).map(|_| ()).unwrap_err().code;
    assert_eq!(code(""), ErrorCode::NotJson);
    assert_eq!(code("[]"), ErrorCode::WrongJsonType);
    assert_eq!(code("{}"), ErrorCode::NoDynamodb);
    assert_eq!(code(r#"{"dynamodb":{}}"#), ErrorCode::UnknownEventName);
    assert_eq!(code(r#"{"eventName":"insert","dynamodb":{}}"#), ErrorCode::UnknownEventName);
    assert_eq!(code(r#"{"eventName":"INSERT","dynamodb":null}"#), ErrorCode::WrongJsonType);
    assert_eq!(code(r#"{"eventName":"INSERT","dynamodb":{}}"#), ErrorCode::BadTime);
    let change = r#"{"ApproximateCreationDateTime":1,"OldImage":{"a":{"S":"b"}},"NewImage":null}"#;
    for name in ["INSERT", "MODIFY"] {
        assert_eq!(code(&format!(r#"{{"eventName":"{name}","dynamodb":{change}}}"#)), ErrorCode::NoImage);
    }
    assert_eq!(code(&format!(r#"{{"eventName":"REMOVE","dynamodb":{change}}} x"#)), ErrorCode::NotJson);
    assert_eq!(
        code(r#"{"eventName":"REMOVE","dynamodb":{"ApproximateCreationDateTime":1}}"#),
        ErrorCode::NoImage
    );
    let twice = format!(r#"{{"eventName":"REMOVE","dynamodb":{change},"dynamodb":{change}}}"#);
    assert_eq!(code(&twice), ErrorCode::DuplicateName);
    assert_eq!(decode_event(b"\xff{}", &mut Image::default()).unwrap_err().code, ErrorCode::NotUtf8);
}

#[test]
fn only_the_image_of_the_row_is_looked_into() {
    let change =
        r#"{"ApproximateCreationDateTime":1,"OldImage":{"a":{"S":"old"}},"NewImage":{"a":{"X":"new"}}}"#;
    for document in [
        format!(r#"{{"eventName":"REMOVE","dynamodb":{change}}}"#),
        format!(r#"{{"dynamodb":{change},"eventName":"REMOVE"}}"#),
    ] {
        let (name, _, members) = event(&document).unwrap();
        assert_eq!((name, &members[0].1[..]), (EventName::Remove, &b"\"old\""[..]));
    }
    let modify = format!(r#"{{"dynamodb":{change},"eventName":"MODIFY"}}"#);
    assert_eq!(event(&modify).unwrap_err().code, ErrorCode::UnknownType);
}

#[test]
fn tables_known_by_their_arn_have_names() {
    let mut image = Image::default();
    let change = r#"{"ApproximateCreationDateTime":1,"Keys":{"k":{"S":""}}}"#;
    for (member, expected) in [
        (r#""tableName":"T","eventSourceARN":"x""#, Some("T")),
        (r#""tableName":"arn:aws:dynamodb:eu-north-1:000000000000:table/T""#, Some("T")),
        (r#""eventSourceARN":"arn:aws:dynamodb:eu-north-1:0:table/T/stream/2026""#, Some("T")),
        (r#""tableName":null"#, None),
    ] {
        let document = format!(r#"{{"eventName":"REMOVE","dynamodb":{change},{member}}}"#);
        let (event, _) = decode_event(document.as_bytes(), &mut image).unwrap();
        assert_eq!(event.table_name.as_deref(), expected.map(str::as_bytes), "{member}");
    }
}

#[test]
fn messages_never_quote_the_record() {
    for document in [
        r#"{"eventName":"secret"}"#,
        r#"{"eventName":"INSERT","dynamodb":{"ApproximateCreationDateTime":"secret"}}"#,
        r#"{"eventName":"INSERT","dynamodb":{"NewImage":{"a":{"N":"secret"}}}}"#,
        r#"{"eventName":"INSERT","dynamodb":{"NewImage":{"a":{"BOOL":"secret"}}}}"#,
        r#"{"eventName":"INSERT","dynamodb":{"NewImage":{"a":{"secret":1}}}}"#,
        r#"{"eventName":"INSERT","dynamodb":"secret"}"#,
        r#"secret"#,
    ] {
        let bad = event(document).map(|_| ()).unwrap_err();
        assert!(!bad.to_string().contains("secret"), "{bad}");
    }
}

#[test]
fn reasons_are_listed_in_their_order() {
    assert!(ErrorCode::ALL.iter().enumerate().all(|(place, code)| *code as usize == place));
    // The last one; a new one goes behind it, into the list too.
    assert_eq!(ErrorCode::ALL.last(), Some(&ErrorCode::TransformPanicked));
}

#[test]
fn any_object_is_taken_as_written() {
    let mut image = Image::default();
    let document = "{ \"a\" : [ 1.50 , {\"b\\\"\" : \" x\\\\ \u{2028}\"} ],\n \"big\":123456789012345678901234567890e-300 }";
    let members = decode_object(document.as_bytes(), &mut image).unwrap();
    assert_eq!(members.value(0), br#"[1.50,{"b\"":" x\\ \u2028"}]"#);
    assert_eq!(
        (members.name(1), members.value(1)),
        (&b"big"[..], &b"123456789012345678901234567890e-300"[..])
    );

    let code = |document: &str| decode_object(document.as_bytes(), &mut Image::default()).unwrap_err().code;
    assert_eq!(code("[1]"), ErrorCode::NotObject);
    assert_eq!(code("{} {}"), ErrorCode::SeveralDocuments);
    assert_eq!(code(&format!(r#"{{"a":{}{}}}"#, "[".repeat(65), "]".repeat(65))), ErrorCode::TooDeep);
}

/// Any attribute value with the JSON it must become.
fn attribute_values() -> impl Strategy<Value = (Value, Value)> {
    let tagged = |tag: &str, value: Value| Value::from_iter([(tag, value)]);
    let leaf = prop_oneof![
        any::<String>().prop_map(move |text| (tagged("S", text.clone().into()), text.into())),
        any::<i32>().prop_map(move |number| (tagged("N", number.to_string().into()), number.into())),
        any::<bool>().prop_map(move |flag| (tagged("BOOL", flag.into()), flag.into())),
        Just((tagged("NULL", true.into()), Value::Null)),
        prop::collection::vec(any::<String>(), 1..3)
            .prop_map(move |texts| (tagged("SS", texts.clone().into()), texts.into())),
    ];
    leaf.prop_recursive(6, 30, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(move |list| {
                let (tags, plain): (Vec<_>, Vec<_>) = list.into_iter().unzip();
                (tagged("L", tags.into()), plain.into())
            }),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(move |map| {
                let pairs =
                    map.into_iter().map(|(name, (tags, plain))| ((name.clone(), tags), (name, plain)));
                let (tags, plain): (serde_json::Map<_, _>, serde_json::Map<_, _>) = pairs.unzip();
                (tagged("M", tags.into()), plain.into())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn images_become_what_a_tree_would((tagged, plain) in attribute_values()) {
        let text = attribute(&tagged.to_string()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), plain);
        prop_assert!(!text.contains(['\n', '\u{2028}', '\u{2029}']), "splits a line");
    }

    #[test]
    fn objects_survive_pretty_printing((value, _) in attribute_values()) {
        let document = serde_json::to_string_pretty(&serde_json::json!({ "a": value })).unwrap();
        let mut image = Image::default();
        let members = decode_object(document.as_bytes(), &mut image).unwrap();
        prop_assert!(!members.value(0).contains(&b'\n'));
        prop_assert_eq!(serde_json::from_slice::<Value>(members.value(0)).unwrap(), value);
    }

    #[test]
    fn never_panics(mut document in prop::sample::select(DOCUMENTS), cut: prop::sample::Index, edits: [(prop::sample::Index, u8); 3], noise: Vec<u8>) {
        let mut image = Image::default();
        let _ = (decode_event(&noise, &mut image).is_ok(), decode_object(&noise, &mut image).is_ok());
        for (place, byte) in edits {
            let mut bytes = document.to_vec();
            bytes[place.index(document.len())] = byte;
            let _ = (decode_event(&bytes, &mut image).is_ok(), decode_object(&bytes, &mut image).is_ok());
        }
        // Without the line's end a document is still whole.
        document = document.trim_ascii_end();
        document = &document[..cut.index(document.len())];
        prop_assert!(decode_event(document, &mut image).is_err());
    }

    /// One rounding, half away from zero, as an exact decimal library does it.
    #[test]
    fn scaling_agrees_with_a_decimal_library(mantissa in -(1i128 << 95)..1i128 << 95, scale in 0u32..=28, to in 0u32..=8) {
        use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
        let decimal = Decimal::from_i128_with_scale(mantissa, scale);
        let rounded = decimal.round_dp_with_strategy(to, MidpointAwayFromZero);
        let expected = rounded.mantissa() * 10i128.pow(to - rounded.scale().min(to));
        let text = decimal.to_string();
        let number = Number::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(number.scaled(to, 10i128.pow(37)), Some(expected).filter(|e| e.abs() < 10i128.pow(37)));
        // The same number with an exponent.
        let shifted = format!("{mantissa}E-{scale}");
        prop_assert_eq!(Number::parse(shifted.as_bytes()).unwrap().scaled(to, 10i128.pow(37)), Some(expected).filter(|e| e.abs() < 10i128.pow(37)));
    }
}

const DOCUMENTS: &[&[u8]] = &[
    include_bytes!("../../tests/fixtures/all-types.json"),
    include_bytes!("../../tests/fixtures/kinesis-dynamodb-ttl-remove.json"),
    include_bytes!("../../tests/fixtures/kinesis-dynamodb-modify.json"),
];

#[test]
fn rounding_happens_once() {
    let scaled = |text: &str, scale| Number::parse(text.as_bytes()).unwrap().scaled(scale, 10i128.pow(10));
    // Twice would give 0.01 by way of 0.005.
    assert_eq!(scaled("0.0049999999999999999999999999999999999999", 2), Some(0));
    assert_eq!(scaled("0.005", 2), Some(1));
    assert_eq!(scaled("-0.005", 2), Some(-1));
    assert_eq!(scaled("0.9949", 2), Some(99));
    assert_eq!(scaled("5E-3", 2), Some(1));
    assert_eq!(scaled("5E-4", 2), Some(0));
    assert_eq!(scaled("1E-130", 2), Some(0));
    assert_eq!(scaled("0E+125", 2), Some(0));
    assert_eq!(scaled("99999999.994", 2), Some(9_999_999_999));
    assert_eq!(scaled("99999999.995", 2), None);
    assert_eq!(scaled("1E+125", 2), None);
    assert_eq!(scaled("1E+1099511627776", 2), None);
}

#[test]
fn all_error_codes_are_in_the_list() {
    let source = include_str!("mod.rs");
    let names = source.split("pub fn as_str").nth(1).unwrap().split("    }\n\n").next().unwrap();
    assert_eq!(ErrorCode::ALL.len(), names.matches("Self::").count());
    let names: std::collections::BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(names.len(), ErrorCode::ALL.len());
}

/// Other services delete items too, as global tables do.
#[test]
fn only_dynamodb_itself_deletes_by_ttl() {
    let reason = |identity: &str| {
        let document = format!(
            r#"{{"eventName":"REMOVE","userIdentity":{identity},"dynamodb":{{"Keys":{{"k":{{"S":""}}}},"ApproximateCreationDateTime":1}}}}"#
        );
        let mut image = Image::default();
        decode_event(document.as_bytes(), &mut image).unwrap().0.delete_reason
    };
    for by_ttl in [
        r#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#,
        r#"{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}"#,
    ] {
        assert_eq!(reason(by_ttl), Some(DeleteReason::Ttl), "{by_ttl}");
    }
    for by_caller in [
        "null",
        "{}",
        r#"{"type":"Service"}"#,
        r#"{"type":"Service","principalId":"replication.dynamodb.amazonaws.com"}"#,
        r#"{"type":"User","principalId":"dynamodb.amazonaws.com"}"#,
    ] {
        assert_eq!(reason(by_caller), Some(DeleteReason::User), "{by_caller}");
    }
}

/// It makes no row, but what is no JSON is refused there too. The quick reader compares it with the new one, from which it
/// differs here at every place, by everything that counts.
#[test]
fn an_old_image_may_differ_from_the_new_one_anywhere() {
    let new = r#"{"id":{"S":"ä"},"n":{"N":"1.5"},"m":{"M":{"a":{"L":[{"BOOL":true}]}}},"z":{"S":"x"}}"#;
    let pieces = ["", "x", "\"", "\\", "}", "{", ",", ":", "]", " ", "\n", "ö", "}}", r#""},"y":{"S":""#];
    let more = [r#"{"S":"b"}"#, r#"{"L":[]}"#, r#""b":{"N":"2"},"#, r#","b":{"NULL":true}"#];
    let (mut read, mut refused) = (0, 0);
    let mut compare = |old: &str, quickly: Option<bool>| {
        let document = format!(
            r#"{{"eventName":"MODIFY","dynamodb":{{"ApproximateCreationDateTime":1,"NewImage":{new},"OldImage":{old},"SizeBytes":1}}}}"#
        );
        let is_read = event(&document).is_ok();
        (read, refused) = (read + u32::from(is_read), refused + u32::from(!is_read));
        let mut image = Image::default();
        let _ = decode_event(document.as_bytes(), &mut image);
        assert!(quickly.is_none_or(|quickly| quickly == (image.take_read_generally() == 0)), "{old}");
    };
    for (at, _) in new.char_indices() {
        for piece in pieces.iter().chain(&more) {
            for left_out in [0, 1, 2, 5, 16, 40] {
                if let Some(rest) = new.get(at + left_out..) {
                    compare(&format!("{}{piece}{rest}", &new[..at]), None);
                }
            }
        }
    }
    for quickly in [
        new,
        "{}",
        r#"{"id":{"S":"ä"}}"#,
        r#"{"n":{"N":"1.5"},"z":{"S":"x"}}"#,
        r#"{"id":{"S":"other"},"n":{"N":"1.51"},"m":{"M":{}},"z":{"S":"x"},"more":{"L":[{"N":"2"}]}}"#,
    ] {
        compare(quickly, Some(true));
    }
    assert!(read > 100 && refused > 1000, "{read} were read and {refused} refused");
}
