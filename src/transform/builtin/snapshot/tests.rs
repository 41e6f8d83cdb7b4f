use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::decode::ErrorCode;
use crate::transform::{Builtin, SourceKind, Transform, TransformSettings, record_of};

/// 2026-01-15T09:30:12Z.
const FETCHED_US: i64 = 1_768_469_412_000_000;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/fixtures/market/", $name))
    };
}

const COINGECKO: &str = fixture!("coingecko-markets.json");
const COINGECKO_ROWS: &str = fixture!("coingecko-markets.expected.ndjson");
const COINCAP: &str = fixture!("coincap-assets.json");
const COINCAP_ROWS: &str = fixture!("coincap-assets.expected.ndjson");

const CONTEXT: RecordContext<'_> = RecordContext {
    source: SourceKind::Kinesis,
    stream: Some("prices"),
    shard_id: "shardId-000000000000",
    sequence_number: "17",
    sub_sequence: None,
    key: Some(b"coingecko"),
    arrival_us: FETCHED_US,
    null: false,
};

/// The rows of a record without the columns of the stream, and the time of their folder.
fn rows(record: &str) -> Result<(String, i64), BadRecord> {
    let mut out = Vec::new();
    let transform = Builtin::named(NAME, &TransformSettings::default()).unwrap();
    let info = transform.start().apply(&CONTEXT, record.as_bytes(), &mut out)?;
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out.lines().count() as u64, info.rows);
    let own = |row: &str| {
        assert_eq!(record_of(row.as_bytes()).unwrap().sequence.to_string(), "17");
        let (own, entry) = row.split_once("\"ingestion_time\":\"2026-01-15T09:30:12.000000Z\",").unwrap();
        assert!(
            own.starts_with("{\"ordering_key\":\"") && own.contains("\"shard_id\":\"shardId-000000000000\"")
        );
        format!("{{{entry}\n")
    };
    Ok((out.lines().map(own).collect(), info.time_us))
}

fn code(record: &str) -> (ErrorCode, String) {
    let bad = rows(record).unwrap_err();
    (bad.code, bad.message)
}

fn wrapped(provider: &str, fetched_at_ms: i64, body: &str) -> String {
    let body = serde_json::to_string(body).unwrap();
    format!(r#"{{"provider":"{provider}","fetched_at_ms":{fetched_at_ms},"body":{body}}}"#)
}

/// A reply of CoinGecko with one coin, members of which are as given.
fn coin(members: &str) -> String {
    format!(r#"[{{"id":"a","symbol":"a","name":"A","current_price":1{members}}}]"#)
}

fn members(row: &str) -> BTreeMap<String, String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(row).unwrap();
    members.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

#[test]
fn samples_give_the_expected_rows() {
    for (provider, body, expected) in
        [(Provider::CoinGecko, COINGECKO, COINGECKO_ROWS), (Provider::CoinCap, COINCAP, COINCAP_ROWS)]
    {
        let mut direct = Vec::new();
        let info = snapshot_rows(provider, FETCHED_US, body.as_bytes(), &mut direct).unwrap();
        assert_eq!((String::from_utf8(direct).unwrap(), info.rows), (expected.to_owned(), 3));
        let ms = FETCHED_US / 1000 + if provider == Provider::CoinCap { 1250 } else { 0 };
        for record in [body.to_owned(), wrapped(provider.as_str(), ms, body)] {
            assert_eq!(rows(&record).unwrap(), (expected.to_owned(), ms * 1000), "{record}");
        }
    }
}

#[test]
fn the_time_is_that_of_the_wrapper_then_of_the_reply_then_of_arrival() {
    let later = FETCHED_US / 1000 + 3_600_000;
    let (of_wrapper, time_us) = rows(&wrapped("coingecko", later, COINGECKO)).unwrap();
    assert_eq!(time_us, later * 1000);
    assert!(of_wrapper.lines().all(|row| row.ends_with(r#""month":"01","day":"15","hour":"10"}"#)));
    let (of_wrapper, _) = rows(&wrapped("coincap", later, COINCAP)).unwrap();
    assert!(of_wrapper.lines().all(|row| row.starts_with(r#"{"event_time":"2026-01-15T10:30:12.000Z""#)));
    // In seconds, in ms, as text.
    for time in
        ["1768469413", "1768469413000", "\"1768469413000\"", "1768469413000.0", "\"2026-01-15T09:30:13\""]
    {
        let (row, time_us) = rows(&format!(r#"{{"timestamp":{time},"data":[{{"id":"a"}}]}}"#)).unwrap();
        assert_eq!(time_us, FETCHED_US + 1_000_000, "{time}");
        assert!(
            row.starts_with(r#"{"event_time":"2026-01-15T09:30:13.000Z","id":"a","symbol":null"#),
            "{row}"
        );
    }
    let (_, time_us) = rows(r#"{"timestamp":null,"data":[{"id":"a"}]}"#).unwrap();
    assert_eq!(time_us, FETCHED_US);
    for time in ["-1", "1e99", "\"soon\"", "{}", "true", "253402300800000", "\"\\ud800\""] {
        assert_eq!(
            code(&format!(r#"{{"timestamp":{time},"data":[{{"id":"a"}}]}}"#)).0,
            ErrorCode::BadTime,
            "{time}"
        );
        let record =
            format!(r#"{{"fetched_at_ms":{time},"body":{}}}"#, serde_json::to_string(COINGECKO).unwrap());
        assert_eq!(code(&record).0, ErrorCode::BadTime, "{time}");
    }
}

/// What a poller sends: rows, or for a gap a dead letter.
#[cfg(feature = "cli")]
#[test]
fn records_of_a_poller_are_read() {
    use crate::market::{Gap, Interval, gap_record, record};

    let text = |data: Vec<u8>| String::from_utf8(data).unwrap();
    let interval = Interval::at(FETCHED_US, std::time::Duration::from_secs(300));
    let body = "[{\"id\":\"a\",\n \"name\":\"\\u00e9\\\"\",\"current_price\":1.50}]";
    let (row, time_us) = rows(&text(record(Provider::CoinGecko, interval, None, body))).unwrap();
    assert_eq!(time_us, 1_768_469_400_000_000, "the start of the interval");
    assert!(
        row.contains(r#""name":"é\"","current_price":1.50"#) && row.contains(r#""timestamp":1768469400"#),
        "{row}"
    );
    let own = record(Provider::CoinCap, interval, Some(FETCHED_US), COINCAP);
    assert_eq!(rows(&text(own)).unwrap().1, FETCHED_US, "the time that the reply says");
    let gap = Gap::new(Provider::CoinGecko, interval, 1, "http_503", 9);
    assert_eq!(code(&text(gap_record(&gap))).0, ErrorCode::NoSnapshot);
}

#[test]
fn flat_assets_come_one_by_one_or_in_lists_with_a_time_of_their_own() {
    let asset = r#"{"id":"a","symbol":"A","rank":2,"priceUsd":1.50,"vwapUsd24Hr":1e-7,"timestamp":"2026-01-15T08:59:59.5"}"#;
    let expected = concat!(
        r#"{"event_time":"2026-01-15T08:59:59.500Z","id":"a","symbol":"A","name":null,"rank":2,"price_usd":1.50,"#,
        r#""change_percent_24hr":null,"volume_usd_24hr":null,"market_cap_usd":null,"supply":null,"max_supply":null,"#,
        r#""vwap_usd_24hr":1e-7,"logo":null}"#
    );
    let time_us = FETCHED_US - 30 * 60_000_000 - 12_500_000;
    for record in [asset.to_owned(), format!("[{asset}]"), format!(r#"{{"data":[{asset}]}}"#)] {
        assert_eq!(rows(&record).unwrap(), (format!("{expected}\n"), time_us), "{record}");
    }
    let skewed = asset.replace("2026-01-15T08:59:59.5", "yesterday");
    let (row, time_us) = rows(&skewed).unwrap();
    assert_eq!(time_us, FETCHED_US);
    assert!(row.contains(r#""unusable":"{\"timestamp\":\"yesterday\"}""#), "{row}");
    let single = r#"{"id":"a","current_price":1}"#;
    assert!(rows(single).unwrap().0.starts_with(r#"{"id":"a","symbol":null,"name":null,"current_price":1,"#));
}

/// Each is a row; what fits no column is kept in one of its own.
#[test]
fn odd_members_cost_their_column_and_nothing_else() {
    for (members_of_coin, column, value, unusable) in [
        (r#","market_cap":null"#, "market_cap", "null", None),
        (r#","market_cap":"12""#, "market_cap", "12", None),
        (r#","market_cap":12.75"#, "market_cap", "12.75", None),
        (r#","market_cap":19822040.0"#, "market_cap", "19822040.0", None),
        (r#","market_cap":4.461282308207794e-07"#, "market_cap", "4.461282308207794e-07", None),
        (r#","market_cap":"1.0E+3""#, "market_cap", "1.0E+3", None),
        (r#","market_cap_rank":1.5"#, "market_cap_rank", "1.5", None),
        (
            r#","market_cap":0.1234567890123456789012345678901234567890"#,
            "market_cap",
            "0.1234567890123456789012345678901234567890",
            None,
        ),
        (r#","surprise":{"a":[1,{"b":null}]}"#, "market_cap", "null", None),
        (r#","market_cap":"n/a""#, "market_cap", "null", Some(r#"{"market_cap":"n/a"}"#)),
        (r#","market_cap":"""#, "market_cap", "null", Some(r#"{"market_cap":""}"#)),
        (r#","market_cap":"\ud800""#, "market_cap", "null", Some(r#"{"market_cap":"\ud800"}"#)),
        (r#","market_cap":1e999"#, "market_cap", "null", Some(r#"{"market_cap":1e999}"#)),
        (r#","market_cap":" 1""#, "market_cap", "null", Some(r#"{"market_cap":" 1"}"#)),
        (r#","total_volume":[1, 2]"#, "volume_24h", "null", Some(r#"{"total_volume":[1, 2]}"#)),
        (r#","total_volume":true"#, "volume_24h", "null", Some(r#"{"total_volume":true}"#)),
        (r#","market_cap":1,"market_cap":2"#, "market_cap", "1", Some(r#"{"market_cap":2}"#)),
        (r#","price_change_percentage_24h":1"#, "price_change_pct_24h", "1", None),
        (
            r#","price_change_percentage_24h":1,"price_change_percentage_24h_in_currency":2"#,
            "price_change_pct_24h",
            "2",
            None,
        ),
        (
            r#","price_change_percentage_24h":1,"price_change_percentage_24h_in_currency":"x""#,
            "price_change_pct_24h",
            "1",
            Some(r#"{"price_change_percentage_24h_in_currency":"x"}"#),
        ),
    ] {
        let (row, _) = rows(&coin(members_of_coin)).unwrap();
        let found = members(&row);
        assert_eq!(found[column], value, "{members_of_coin}");
        assert_eq!(found["current_price"], "1");
        let kept = found.get("unusable").map(|text| serde_json::from_str::<String>(text).unwrap());
        assert_eq!(kept.as_deref(), unusable, "{members_of_coin}");
    }
    for entry in ["null", "7", "[]", "\"text\"", r#"{"\ud800":1}"#] {
        let (found, _) = rows(&format!(r#"[{{"id":"a","current_price":1}},{entry}]"#)).unwrap();
        let last = members(found.lines().last().unwrap());
        assert_eq!(serde_json::from_str::<String>(&last["unusable"]).unwrap(), entry);
        assert_eq!((found.lines().count(), &*last["id"]), (2, "null"));
    }
    let (row, _) = rows(r#"[{"id":5,"symbol":["x"],"current_price":1}]"#).unwrap();
    let kept: String = serde_json::from_str(&members(&row)["unusable"]).unwrap();
    assert_eq!(kept, r#"{"id":5,"symbol":["x"]}"#);
}

#[test]
fn the_first_of_equal_ids_counts_and_equal_ranks_are_two_coins() {
    let list = r#"[{"id":"a","current_price":1,"market_cap_rank":1},{"id":"b","market_cap_rank":1},
                   {"id":"\u0061","current_price":2},{"id":null},{"id":null},{"current_price":3}]"#;
    let (found, _) = rows(list).unwrap();
    let ids: Vec<String> = found.lines().map(|row| members(row)["id"].clone()).collect();
    assert_eq!(ids, ["\"a\"", "\"b\"", "null", "null", "null"]);
    assert_eq!(members(found.lines().next().unwrap())["current_price"], "1");
}

#[test]
fn what_is_no_snapshot_is_a_dead_letter_that_says_why() {
    for (record, expected, word) in [
        ("[]", ErrorCode::NoSnapshot, "empty"),
        (r#"{"timestamp":1768469413250,"data":[]}"#, ErrorCode::NoSnapshot, "empty"),
        (r#"{"timestamp":1768469413250,"data":{}}"#, ErrorCode::NoSnapshot, "no list"),
        (r#"{"status":{"error_code":429}}"#, ErrorCode::NoSnapshot, "neither"),
        (r#"{"error":"invalid key"}"#, ErrorCode::NoSnapshot, "neither"),
        ("{}", ErrorCode::NoSnapshot, "neither"),
        ("[1,2,3]", ErrorCode::NoSnapshot, "no entry"),
        (r#"[{"id":"a"}]"#, ErrorCode::NoSnapshot, "no entry"),
        (r#"{"provider":"coingecko","fetched_at_ms":1,"body":null}"#, ErrorCode::NoSnapshot, "interval"),
        (r#"{"provider":"binance","body":"[]"}"#, ErrorCode::NoSnapshot, "provider"),
        (r#"{"provider":7,"body":"[]"}"#, ErrorCode::NoSnapshot, "provider"),
        (r#"{"provider":"coingecko","body":"[]"}"#, ErrorCode::NoSnapshot, "empty"),
        (
            r#"{"provider":"coingecko","body":"{\"data\":[{\"id\":\"a\"}]}"}"#,
            ErrorCode::NoSnapshot,
            "neither",
        ),
        (r#"{"provider":"coingecko","body":"<html>"}"#, ErrorCode::NotJson, "XML"),
        (r#"{"provider":"coingecko","body":7}"#, ErrorCode::WrongJsonType, "type"),
        (r#"{"body":"[]","body":"[]"}"#, ErrorCode::DuplicateName, "same name"),
        ("<html>", ErrorCode::NotJson, "XML"),
        (r#"[{"id":"a","current_price":1}"#, ErrorCode::NotJson, "line 1"),
        ("7", ErrorCode::WrongJsonType, "type"),
        ("", ErrorCode::NotJson, "empty"),
    ] {
        let (code, message) = code(record);
        assert_eq!(code, expected, "{record}: {message}");
        assert!(message.contains(word), "{record}: {message}");
    }
}

/// Ten MB, most of it one coin's member that no column is filled from.
#[test]
fn a_large_reply_is_as_good_as_a_small_one() {
    let coins: Vec<String> = (0..1000)
        .map(|id| format!(r#"{{"id":"coin-{id}","current_price":{id}.5,"image":"{}"}}"#, "x".repeat(10_000)))
        .collect();
    let (found, _) =
        rows(&wrapped("coingecko", FETCHED_US / 1000, &format!("[{}]", coins.join(",\n")))).unwrap();
    assert_eq!(found.lines().count(), 1000);
    let deep =
        format!(r#"[{{"id":"a","current_price":1,"roi":{}{}}}]"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(rows(&deep).unwrap().0.lines().count(), 1);
}

/// Names and order of the columns are those of the rows, the date members aside.
#[test]
fn the_schema_is_that_of_the_rows() {
    for (provider, body) in [(Provider::CoinGecko, COINGECKO), (Provider::CoinCap, COINCAP)] {
        let mut out = Vec::new();
        let odd = body.replace("\"Bitcoin\"", "[]");
        apply(&CONTEXT, odd.as_bytes(), &mut out).unwrap();
        let row = str::from_utf8(&out).unwrap().lines().next().unwrap();
        let mut names: Vec<String> = serde_json::from_str::<serde_json::Map<String, Value>>(row)
            .unwrap()
            .keys()
            .filter(|name| !["year", "month", "day", "hour"].contains(&&***name))
            .cloned()
            .collect();
        names.sort_by_key(|name| row.find(&format!("\"{name}\":")));
        let columns: Vec<&str> = columns(provider).iter().map(|column| column.name).collect();
        assert_eq!(names, columns);
    }
}

/// A JSON value as a member may have it, and the text of the number that it is, if it is one.
fn values() -> impl Strategy<Value = (String, Option<String>)> {
    let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?";
    prop_oneof![
        4 => number.prop_map(|text| (text.clone(), Some(text))),
        2 => number.prop_map(|text| (format!("\"{text}\""), Some(text))),
        1 => prop::sample::select(vec!["null", "true", "[]", "{\"a\":1}", "\"\"", "\"1,5\"", "\"0x1\"", "\"+1\""])
            .prop_map(|text| (text.to_owned(), None)),
    ]
}

proptest! {
    /// Whatever the members are: a row for each id, numbers with the digits that they had, the rest null and kept.
    #[test]
    fn each_id_is_a_row_and_numbers_keep_their_digits(
        coins in prop::collection::vec(("[a-c]{1,2}", values(), values(), values()), 1..12),
    ) {
        let list: Vec<String> = coins.iter().map(|(id, price, cap, volume)| format!(
            r#"{{"total_volume":{},"id":"{id}","x":{},"current_price":{},"market_cap":{}}}"#,
            volume.0, cap.0, price.0, cap.0,
        )).collect();
        let list = format!("[{}]", list.join(", "));
        let (found, _) = rows(&list).unwrap();
        prop_assert_eq!(&rows(&wrapped("coingecko", FETCHED_US / 1000, &list)).unwrap().0, &found);
        let mut seen = HashSet::new();
        let firsts: Vec<_> = coins.iter().filter(|coin| seen.insert(&coin.0)).collect();
        prop_assert_eq!(found.lines().count(), firsts.len());
        for (row, (id, price, cap, volume)) in found.lines().zip(firsts) {
            let found = members(row);
            prop_assert_eq!(&found["id"], &format!("\"{id}\""));
            let mut kept = Vec::new();
            for (column, member, value) in
                [("current_price", "current_price", price), ("market_cap", "market_cap", cap), ("volume_24h", "total_volume", volume)]
            {
                prop_assert_eq!(&found[column], value.1.as_deref().unwrap_or("null"));
                if value.1.is_none() && value.0 != "null" {
                    kept.push(format!("\"{member}\":{}", value.0));
                }
            }
            let unusable = found.get("unusable").map(|text| serde_json::from_str::<String>(text).unwrap());
            let expected = (!kept.is_empty()).then(|| format!("{{{}}}", kept.join(",")));
            prop_assert_eq!(unusable, expected);
        }
    }

    /// Any bytes: rows or a reason, no panic, and the same again.
    #[test]
    fn any_bytes_are_rows_or_a_reason(text in "[\\[\\]{}\":,a-d0-9 ]{0,40}|\\[\\{\"id\":.{0,20}\\}\\]", bytes: Vec<u8>) {
        for data in [text.as_bytes(), &bytes] {
            let attempt = || {
                let mut out = Vec::new();
                apply(&CONTEXT, data, &mut out).map(|info| (info, out))
            };
            prop_assert_eq!(attempt(), attempt());
        }
    }
}
