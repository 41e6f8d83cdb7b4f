use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use serde_json::value::RawValue;

use super::*;

/// 2026-01-15T09:30:30Z.
const ARRIVAL_US: i64 = 1_768_469_430_000_000;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/", $name))
    };
}

fn crypto() -> Builtin {
    Builtin::crypto_transactions(&Enrichment::default()).unwrap()
}

fn context(source: SourceKind, sequence_number: &str) -> RecordContext<'_> {
    RecordContext {
        source,
        stream: None,
        shard_id: "shardId-000000000000",
        sequence_number,
        sub_sequence: None,
        key: None,
        arrival_us: ARRIVAL_US,
        null: false,
    }
}

fn apply(transform: &Builtin, data: &[u8]) -> Result<String, BadRecord> {
    let mut row = Vec::new();
    transform.start().apply(&context(SourceKind::Kinesis, "1"), data, &mut row)?;
    Ok(String::from_utf8(row).unwrap())
}

/// Columns with their values as JSON text, so that numbers compare digit by digit.
fn columns(row: &str) -> BTreeMap<String, String> {
    let columns: BTreeMap<String, &RawValue> = serde_json::from_str(row).unwrap();
    columns.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

/// An INSERT of `item`, members of an image.
fn insert(item: &str) -> Vec<u8> {
    let change = format!(r#"{{"ApproximateCreationDateTime":1768469400123456,"NewImage":{{{item}}}}}"#);
    format!(r#"{{"eventName":"INSERT","dynamodb":{change}}}"#).into_bytes()
}

const TRADE: [(&str, &str, &str); 7] = [
    ("transaction_id", "S", "t-1"),
    ("timestamp", "S", "2026-01-15T09:29:59.987654"),
    ("exchange", "S", "Binance"),
    ("price", "N", "50000"),
    ("quantity", "N", "1"),
    ("trade_fee", "N", "0.5"),
    ("trade_status", "S", "SUCCESS"),
];

/// The columns of a trade with some attributes changed; an empty value takes the attribute away.
fn trade(rules: &Builtin, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let item = TRADE.iter().filter_map(|(name, tag, value)| {
        let value = changes.iter().find(|change| change.0 == *name).map_or(*value, |change| change.1);
        (!value.is_empty()).then(|| format!(r#""{name}":{{"{tag}":"{value}"}}"#))
    });
    columns(&apply(rules, &insert(&item.collect::<Vec<_>>().join(","))).unwrap())
}

#[test]
fn samples_give_the_expected_rows() {
    let samples: [&[u8]; 5] = [
        fixture!("kinesis-dynamodb-insert.json"),
        fixture!("kinesis-dynamodb-modify.json"),
        fixture!("kinesis-dynamodb-remove.json"),
        fixture!("kinesis-dynamodb-ttl-remove.json"),
        fixture!("kinesis-dynamodb-insert-millis.json"),
    ];
    let (mut transform, mut rows) = (crypto().start(), Vec::new());
    for (index, sample) in samples.into_iter().enumerate() {
        let sequence_number = (index + 1).to_string();
        let context = context(SourceKind::Kinesis, &sequence_number);
        transform.apply(&context, sample, &mut rows).unwrap();
    }
    let expected = str::from_utf8(fixture!("expected-rows.ndjson")).unwrap();
    assert_eq!(String::from_utf8(rows).unwrap(), expected);
}

#[test]
fn every_type_keeps_its_value_and_gets_a_column() {
    let row = apply(&Builtin::dynamodb_cdc(), fixture!("all-types.json")).unwrap();
    let mut columns = columns(&row);
    for name in row::ENVELOPE {
        assert!(columns.remove(name).is_some(), "{name}");
    }
    // The expected file spells U+2028 as it is; rows escape it.
    let expected: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(fixture!("all-types.expected.json")).unwrap();
    assert!(columns.keys().eq(expected.keys()));
    let texts: BTreeMap<String, &RawValue> =
        serde_json::from_slice(fixture!("all-types.expected.json")).unwrap();
    for (name, value) in columns {
        if name.starts_with("str_") {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&value).unwrap(), expected[&name]);
        } else {
            assert_eq!(value, texts[&name].get(), "{name}");
        }
    }
}

/// A row of a whole record is what it was before there were parts; that of a part says which one, and is ordered by it.
#[test]
fn rows_of_parts_say_their_index() {
    for (transform, data) in [
        (crypto(), &fixture!("kinesis-dynamodb-insert.json")[..]),
        (Builtin::dynamodb_cdc(), fixture!("kinesis-dynamodb-insert.json")),
        (Builtin::json(), b"{\"a\":1}"),
    ] {
        let row = |sub_sequence| {
            let mut row = Vec::new();
            let context = RecordContext { sub_sequence, ..context(SourceKind::Kinesis, "17") };
            transform.start().apply(&context, data, &mut row).unwrap();
            String::from_utf8(row).unwrap()
        };
        let whole = row(None);
        let index = r#""sequence_number":"17""#;
        let key = columns(&whole)["ordering_key"].clone();
        assert!(key.ends_with("017\"") && !whole.contains("sub_sequence"));
        for (sub, digits) in [(0, "0000000000"), (9, "0000000009"), (4_294_967_295, "4294967295")] {
            let expected = whole
                .replacen(index, &format!(r#"{index},"sub_sequence_number":{sub}"#), 1)
                .replacen(&key, &format!("{}-{digits}\"", key.trim_end_matches('"')), 1);
            assert_eq!(row(Some(sub)), expected, "{}", transform.id());
        }
    }
}

#[test]
fn malformed_samples_are_refused_and_leave_the_row_alone() {
    let samples: [(&[u8], ErrorCode); 6] = [
        (fixture!("not-json.txt"), ErrorCode::NotJson),
        (fixture!("missing-dynamodb.json"), ErrorCode::NoDynamodb),
        (fixture!("unknown-type.json"), ErrorCode::UnknownType),
        (fixture!("two-tags.json"), ErrorCode::TwoTags),
        (fixture!("bad-number.json"), ErrorCode::BadNumber),
        (fixture!("keys-only.json"), ErrorCode::NoImage),
    ];
    for transform in [crypto(), Builtin::dynamodb_cdc()] {
        for (sample, code) in samples {
            let mut row = b"before".to_vec();
            let context = context(SourceKind::Kinesis, "1");
            let bad =
                RowMaker::new(Arc::new(transform.clone())).make(&context, sample, &mut row).unwrap_err();
            assert_eq!((bad.code, &row[..]), (code, &b"before"[..]));
        }
    }
}

#[test]
fn dynamodb_streams_records_are_ordered_by_their_sequence_number() {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, rename = "Records")]
        records: Vec<&'a RawValue>,
    }
    let answer: Answer<'_> = serde_json::from_slice(fixture!("dynamodb-streams-record.json")).unwrap();
    let mut transform = crypto().start();
    let mut seen = Vec::new();
    for record in answer.records {
        let mut row = Vec::new();
        let context = context(SourceKind::DynamoDbStreams, "7");
        transform.apply(&context, record.get().as_bytes(), &mut row).unwrap();
        let columns = columns(str::from_utf8(&row).unwrap());
        let column = |name: &str| columns[name].trim_matches('"').to_owned();
        assert_eq!(column("source"), "dynamodb-streams");
        assert_eq!(column("cdc_ts_us"), "1768469400000000");
        seen.push((column("ordering_key"), column("event_name"), column("delete_reason")));
    }
    let key = |digits: &str| format!("seq-{digits:0>40}");
    let text = |a: String, b: &str, c: &str| (a, b.to_owned(), c.to_owned());
    assert_eq!(
        seen,
        [
            text(key("101"), "INSERT", "null"),
            text(key("102"), "MODIFY", "null"),
            text(key("103"), "REMOVE", "ttl"),
        ]
    );
}

#[test]
fn enrichment_vectors() {
    let transform = crypto();
    for (exchange, price, quantity, fee, value, risk, normalized, adjusted, category) in [
        ("Binance", "50000", "10", "0.5", "500000", "MEDIUM_RISK", "50000", "0.45", "VIP Trader"),
        ("Binance", "50000.01", "10", "0.5", "500000.1", "HIGH_RISK", "50000.01", "0.45", "VIP Trader"),
        ("Coinbase", "100.75", "1", "0.0105", "100.75", "LOW_RISK", "102.77", "0.0105", "Casual Trader"),
        ("Kraken", "33333.33", "1.5", "0.2", "49999.995", "LOW_RISK", "32666.66", "0.2", "Active Trader"),
        ("OKX", "50000", "2", "0.1234", "100000", "LOW_RISK", "50500", "0.11106", "Active Trader"),
        ("FTX", "50000", "1", "0.1111", "50000", "LOW_RISK", "49500", "0.105545", "Casual Trader"),
        (
            "Bitfinex",
            "49999.99",
            "1",
            "0.1111",
            "49999.99",
            "LOW_RISK",
            "51499.99",
            "0.1111",
            "Casual Trader",
        ),
        ("Gemini", "250.5", "0.01", "0.02", "2.505", "LOW_RISK", "250.5", "0.02", "Casual Trader"),
        (
            "Binance",
            "10.005",
            "1.0000005",
            "0.00005",
            "10.01001001",
            "LOW_RISK",
            "10.01",
            "0.0001",
            "Active Trader",
        ),
        ("Binance", "50000", "2.000001", "1", "100000.05", "MEDIUM_RISK", "50000", "0.9", "VIP Trader"),
    ] {
        let changes = [("exchange", exchange), ("price", price), ("quantity", quantity), ("trade_fee", fee)];
        let columns = trade(&transform, &changes);
        let computed =
            ["trade_value", "risk_flag", "normalized_price", "adjusted_trade_fee", "user_category"]
                .map(|name| columns[name].trim_matches('"'));
        assert_eq!(computed, [value, risk, normalized, adjusted, category]);
        assert_eq!([price, quantity, fee], ["price", "quantity", "trade_fee"].map(|name| &columns[name][..]));
        assert_eq!(columns["is_valid"], "true");
    }
}

#[test]
fn invalid_rows_stay_with_the_first_reason() {
    let transform = crypto();
    let reason = |changes: &[(&str, &str)]| {
        let columns = trade(&transform, changes);
        assert_eq!(columns["is_valid"] == "true", columns["invalid_reason"] == "null");
        columns["invalid_reason"].trim_matches('"').to_owned()
    };
    assert_eq!(reason(&[]), "null");
    assert_eq!(reason(&[("trade_status", "PENDING")]), "null");
    assert_eq!(reason(&[("trade_status", "FAILED"), ("price", "")]), "failed_status");
    for name in ["transaction_id", "trade_status", "price", "quantity"] {
        assert_eq!(reason(&[(name, ""), ("timestamp", "x")]), "missing_field");
    }
    assert_eq!(reason(&[("trade_fee", "")]), "null");
    assert_eq!(reason(&[("price", "0"), ("quantity", "1E+19")]), "non_positive");
    assert_eq!(reason(&[("price", "0.004")]), "non_positive");
    assert_eq!(reason(&[("quantity", "-0.1")]), "non_positive");
    assert_eq!(reason(&[("quantity", "10000"), ("timestamp", "x")]), "out_of_range");
    assert_eq!(reason(&[("quantity", "9999.9999994")]), "null");
    assert_eq!(reason(&[("trade_fee", "1000000")]), "out_of_range");
    assert_eq!(reason(&[("exchange", "Coinbase"), ("price", "99999999")]), "out_of_range");
    assert_eq!(reason(&[("timestamp", "yesterday")]), "bad_timestamp");
    assert_eq!(reason(&[("timestamp", "")]), "bad_timestamp");
}

#[test]
fn computed_columns_are_null_where_their_inputs_are() {
    let transform = crypto();
    let nulls = |changes: &[(&str, &str)]| {
        let columns = trade(&transform, changes);
        let computed = [
            "trade_value",
            "risk_flag",
            "normalized_price",
            "adjusted_trade_fee",
            "user_category",
            "hour_bucket",
        ];
        computed.map(|name| columns[name] == "null")
    };
    assert_eq!(nulls(&[("price", "")]), [true, true, true, true, false, false]);
    assert_eq!(nulls(&[("price", "1E+9")]), [true, true, true, true, false, false]);
    assert_eq!(nulls(&[("quantity", "")]), [true, true, false, true, true, false]);
    assert_eq!(nulls(&[("trade_fee", "")]), [false, false, false, true, false, false]);
    assert_eq!(nulls(&[("exchange", "")]), [false, false, true, false, false, false]);
    assert_eq!(nulls(&[("timestamp", "")]), [false, false, false, false, false, true]);
}

#[test]
fn attributes_of_another_type_than_their_column_are_refused() {
    for (item, expected) in [
        (r#""price":{"S":"64250.75"}"#, Err(ErrorCode::WrongType)),
        (r#""exchange":{"N":"1"}"#, Err(ErrorCode::WrongType)),
        (r#""exchange":{"M":{}}"#, Err(ErrorCode::WrongType)),
        (r#""price":{"N":"1"},"price":{"N":"2"}"#, Err(ErrorCode::DuplicateName)),
        (r#""x":{"N":"1"},"x":{"N":"2"}"#, Err(ErrorCode::DuplicateName)),
        (r#""price":{"NULL":true},"exchange":{"NULL":true}"#, Ok(())),
    ] {
        assert_eq!(apply(&crypto(), &insert(item)).map(|_| ()).map_err(|bad| bad.code), expected, "{item}");
    }
}

#[test]
fn unknown_attributes_follow_by_name_and_never_shadow_columns() {
    let item =
        r#""zeta":{"N":"1"},"Price":{"N":"2"},"risk_flag":{"S":"x"},"year":{"N":"3"},"source":{"S":"y"}"#;
    let row = apply(&crypto(), &insert(item)).unwrap();
    let tail = r#""item_risk_flag":"x","item_source":"y","item_year":3,"zeta":1}"#;
    assert!(row.ends_with(&format!("\"invalid_reason\":\"missing_field\",{tail}\n")), "{row}");
    // Names that differ only by case are one column.
    assert_eq!(columns(&row)["price"], "2");
    let row = apply(&Builtin::dynamodb_cdc(), &insert(item)).unwrap();
    let tail = r#""item_source":"y","item_year":3,"price":2,"risk_flag":"x","zeta":1}"#;
    assert!(row.ends_with(&format!("Z\",{tail}\n")), "{row}");
    let both = r#""Price":{"N":"2"},"price":{"N":"3"}"#;
    for transform in [crypto(), Builtin::dynamodb_cdc()] {
        assert_eq!(apply(&transform, &insert(both)).unwrap_err().code, ErrorCode::AmbiguousNames);
    }
}

fn with_columns(name: &str, toml: &str) -> Result<Builtin, TransformError> {
    Builtin::named(name, &toml::from_str(toml).unwrap())
}

#[test]
fn settings_rename_columns_and_write_nested_values_as_text() {
    let toml = "[columns]\nnested = \"json-text\"\n[columns.rename]\nURL = \"address\"\nPreis = \"price\"";
    let image = r#""URL":{"S":"u"},"url":{"S":"v"},"Preis":{"N":"5"},"list":{"L":[{"S":"a\"b"}]},"map":{"M":{}},"set":{"NS":["1"]},"text":{"S":"[1]"}"#;
    let row = columns(&apply(&with_columns("dynamodb-cdc", toml).unwrap(), &insert(image)).unwrap());
    for (name, value) in [
        ("address", r#""u""#),
        ("url", r#""v""#),
        ("price", "5"),
        ("list", r#""[\"a\\\"b\"]""#),
        ("map", r#""{}""#),
        ("set", r#""[1]""#),
        ("text", r#""[1]""#),
    ] {
        assert_eq!(row[name], value, "{name}");
    }
    let row = columns(&apply(&with_columns("crypto-transactions", toml).unwrap(), &insert(image)).unwrap());
    assert_eq!((&row["price"][..], row.contains_key("preis")), ("5", false));
    let row = apply(&with_columns("json", toml).unwrap(), br#"{"URL":[1, {"a":"b"}],"url":1}"#).unwrap();
    assert!(row.ends_with(",\"address\":\"[1,{\\\"a\\\":\\\"b\\\"}]\",\"url\":1}\n"), "{row}");
}

#[test]
fn column_settings_are_part_of_the_id_and_checked() {
    for name in ["crypto-transactions", "dynamodb-cdc", "json"] {
        let id = |toml: &str| with_columns(name, toml).unwrap().id().to_string();
        let plain = id("");
        assert_eq!(plain, id("[columns]\nnested = \"json\"\n[columns.rename]"));
        let [renamed, text] = [id("[columns.rename]\nA = \"b\""), id("[columns]\nnested = \"json-text\"")];
        assert!(plain != renamed && plain != text && renamed != text);
        for wrong in ["Name", "year", "shard_id", "item_year", "a b", "größe", ""] {
            let toml = format!("[columns.rename]\nA = {wrong:?}");
            assert!(matches!(with_columns(name, &toml), Err(TransformError::Columns(_))), "{wrong}");
        }
    }
    for wrong in ["[columns]\nnested = \"text\"", "[columns]\nrenames = {}", "[column]"] {
        assert!(toml::from_str::<TransformSettings>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn numbers_that_do_not_fit_their_column_are_refused() {
    for (number, fits) in [
        ("1E+19", true),
        ("8.052E-8", true),
        ("1E+20", false),
        ("1E-19", false),
        ("0.1234567890123456789", false),
    ] {
        let outcome = apply(&crypto(), &insert(&format!(r#""price":{{"N":"{number}"}}"#)));
        assert_eq!(
            outcome.map_err(|bad| bad.code).err(),
            (!fits).then_some(ErrorCode::BadNumber),
            "{number}"
        );
        assert!(apply(&Builtin::dynamodb_cdc(), &insert(&format!(r#""price":{{"N":"{number}"}}"#))).is_ok());
    }
}

#[test]
fn no_reader_takes_an_ordering_key_for_a_number() {
    for source in [SourceKind::Kinesis, SourceKind::DynamoDbStreams] {
        for transform in [crypto(), Builtin::dynamodb_cdc(), Builtin::json()] {
            let mut row = Vec::new();
            let data = insert(r#""a":{"S":""}"#);
            transform.start().apply(&context(source, "17"), &data, &mut row).unwrap();
            let columns = columns(str::from_utf8(&row).unwrap());
            let key = columns["ordering_key"].trim_matches('"');
            assert!(key.contains('-') && key.ends_with("017") && key.parse::<f64>().is_err(), "{key}");
        }
    }
}

#[test]
fn a_deletion_known_by_its_key_is_a_row() {
    let record = br#"{"eventName":"REMOVE","dynamodb":{"Keys":{"transaction_id":{"S":"t-1"}},
        "ApproximateCreationDateTime":1768469400}}"#;
    let columns = columns(&apply(&crypto(), record).unwrap());
    assert_eq!(columns["transaction_id"], "\"t-1\"");
    assert_eq!(columns["is_deleted"], "true");
    assert_eq!(columns["delete_reason"], "\"user\"");
    assert_eq!(columns["price"], "null");
}

#[test]
fn json_objects_pass_through() {
    let row =
        apply(&Builtin::json(), b"{ \"b\": [1.0, \"x\"],\n \"shard_id\": null, \"A\": 1e300 }").unwrap();
    let key = format!("00001768469430000000-{:0>60}", 1);
    let place = r#""shard_id":"shardId-000000000000","sequence_number":"1","ingestion_time":"2026-01-15T09:30:30.000000Z""#;
    let members = r#""a":1e300,"b":[1.0,"x"],"item_shard_id":null"#;
    assert_eq!(row, format!("{{\"ordering_key\":\"{key}\",{place},{members}}}\n"));
    assert_eq!(apply(&Builtin::json(), b"[]").unwrap_err().code, ErrorCode::NotObject);
}

#[test]
fn dead_letters_carry_the_original_bytes() {
    let mut row = Vec::new();
    let bad = BadRecord::from(ErrorCode::NotJson);
    dead_letter_row(&context(SourceKind::Kinesis, "17"), &bad, b"\xffx", &mut row);
    assert_eq!(
        String::from_utf8(row).unwrap(),
        concat!(
            r#"{"attemptsMade":1,"arrivalTimestamp":1768469430000,"errorCode":"not_json","#,
            r#""errorMessage":"the payload is not one JSON document","attemptEndingTimestamp":1768469430000,"#,
            r#""rawData":"/3g=","source":"kinesis","shardId":"shardId-000000000000","sequenceNumber":"17"}"#,
            "\n"
        )
    );
}

#[test]
fn dead_letters_say_what_a_row_made_from_them_needs() {
    let mut row = Vec::new();
    let finer = RecordContext {
        key: None,
        arrival_us: ARRIVAL_US + 7,
        sub_sequence: Some(3),
        ..context(SourceKind::DynamoDbStreams, "17")
    };
    dead_letter_row(&finer, &BadRecord::from(ErrorCode::NotJson), b"", &mut row);
    let row = String::from_utf8(row).unwrap();
    let end = r#""sequenceNumber":"17","subSequenceNumber":3,"arrivalTimestampMicros":1768469430000007}"#;
    assert!(row.contains(r#""arrivalTimestamp":1768469430000,"#) && row.trim_end().ends_with(end), "{row}");
}

#[test]
fn ids_change_with_the_options() {
    let id = |toml: &str| {
        let settings: Enrichment = toml::from_str(toml).unwrap();
        Builtin::crypto_transactions(&settings).unwrap().id().clone()
    };
    // A changed default changes rows: raise the version, not only this text.
    assert_eq!(crypto().id().to_string(), "crypto-transactions/2/f39cf2c8");
    assert_eq!(id(""), *crypto().id());
    assert_eq!(id("high_risk_above = \"500000.00\""), *crypto().id());
    assert_ne!(id("high_risk_above = 500001"), *crypto().id());
    assert_ne!(*Builtin::json().id(), *Builtin::dynamodb_cdc().id());
    for name in Builtin::NAMES {
        assert_eq!(Builtin::named(name, &TransformSettings::default()).unwrap().id().name(), name);
    }
    assert!(Builtin::named("jsonl", &TransformSettings::default()).is_err());
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refuse = |toml: &str| {
        let settings: Result<Enrichment, _> = toml::from_str(toml);
        assert!(settings.is_err() || Builtin::crypto_transactions(&settings.unwrap()).is_err(), "{toml}");
    };
    refuse("precision = 19");
    refuse("precision = 0");
    refuse("price_scale = 11");
    refuse("vip_above = \"2.0000001\"");
    refuse("vip_above = \"-1\"");
    refuse("vip_above = \"1e3\"");
    refuse("vip_above = 0.5");
    refuse("high_risk_above = \"0.0000000000000000001\"");
    refuse("colour = 1");
    refuse("[[fee_discounts]]\nfrom = 1\nfactor = \"x\"");
}

#[test]
fn finer_scales_keep_small_prices() {
    let toml = "precision = 18\nprice_scale = 10\nquantity_scale = 8\n[price_factors]\nBinance = \"0.5\"";
    let settings: Enrichment = toml::from_str(toml).unwrap();
    let transform = Builtin::crypto_transactions(&settings).unwrap();
    let columns = trade(&transform, &[("price", "0.0000095"), ("quantity", "12345678.00000001")]);
    assert_eq!(columns["trade_value"], "117.283941000000095");
    assert_eq!(columns["normalized_price"], "0.00000475");
}

/// What the rules say, in a decimal library.
fn oracle(price: Decimal, quantity: Decimal, fee: Decimal) -> [Option<Decimal>; 3] {
    let cast = |number: Decimal, scale: u32| {
        let rounded = number.round_dp_with_strategy(scale, MidpointAwayFromZero);
        (rounded.abs() < Decimal::from(10i64.pow(10 - scale))).then_some(rounded)
    };
    let (p, q, f) = (cast(price, 2), cast(quantity, 6), cast(fee, 4));
    let value = p.zip(q).map(|(p, q)| p * q);
    let normalized = p.and_then(|p| cast(p * Decimal::new(102, 2), 2));
    let adjusted = value.zip(f).map(|(value, fee)| match value {
        v if v >= Decimal::from(100_000) => fee * Decimal::new(9, 1),
        v if v >= Decimal::from(50_000) => fee * Decimal::new(95, 2),
        _ => fee,
    });
    [value, normalized, adjusted]
}

proptest! {
    #[test]
    fn enrichment_agrees_with_a_decimal_library(
        price in (-1_000_000_000_000i64..1_000_000_000_000, 0u32..9),
        quantity in (-1_000_000_000_000i64..1_000_000_000_000, 0u32..14),
        fee in (-100_000_000_000i64..100_000_000_000, 0u32..12),
    ) {
        let [price, quantity, fee] = [price, quantity, fee].map(|(digits, scale)| Decimal::new(digits, scale));
        let texts = [price, quantity, fee].map(|number| number.to_string());
        let columns = trade(&crypto(), &[
            ("exchange", "Coinbase"), ("price", &texts[0]), ("quantity", &texts[1]), ("trade_fee", &texts[2]),
        ]);
        let computed = ["trade_value", "normalized_price", "adjusted_trade_fee"];
        for (name, expected) in computed.iter().zip(oracle(price, quantity, fee)) {
            let expected = expected.map_or("null".to_owned(), |number| number.normalize().to_string());
            prop_assert_eq!(&columns[*name], &expected, "{}", name);
        }
    }

    #[test]
    fn never_panics_and_rows_are_lines(item in "\"[a-z_]{0,9}\":\\{\"[SNBLM]\":\"?[0-9a-zE.+-]{0,12}\"?\\}", noise: Vec<u8>) {
        for transform in [crypto(), Builtin::dynamodb_cdc(), Builtin::json()] {
            for data in [insert(&item), noise.clone()] {
                if let Ok(row) = apply(&transform, &data) {
                    prop_assert_eq!(row.find("\n"), Some(row.len() - 1));
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&row).is_ok());
                }
            }
        }
    }
}
