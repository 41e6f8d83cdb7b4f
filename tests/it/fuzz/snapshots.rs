//! Replies of market data providers between two good ones, and the same bytes kept as they are.

use std::collections::HashSet;
use std::sync::Arc;

use kinetide::internals::batch::BatchContext;
use kinetide::internals::fetch::{Page, PageBuilder};
use serde_json::Value;

use super::fuzz;
use super::records::{batch, contexts, lines};

const GOOD: &[u8] = include_bytes!("../../fixtures/market/coingecko-markets.json");
const ARRIVAL_US: i64 = 1_768_469_401_000_000;
const NUMBERS: [&str; 3] = ["1001", "1002", "1003"];

fn page(middle: &[u8]) -> Page {
    let mut page = PageBuilder::default();
    for (number, data) in NUMBERS.into_iter().zip([GOOD, middle, GOOD]) {
        page.push(number, "key", ARRIVAL_US, data);
    }
    page.finish()
}

/// Lines of one record.
fn of<'l>(lines: &'l [(String, bool, String)], number: &str) -> Vec<&'l (String, bool, String)> {
    lines.iter().filter(|line| line.0 == number).collect()
}

fn named(name: &str) -> Arc<BatchContext> {
    contexts().into_iter().find(|context| context.transform.id().name() == name).unwrap()
}

#[test]
fn a_reply_is_rows_or_a_dead_letter_and_its_neighbours_are_what_they_were() {
    let (market, raw) = (named("market-snapshot"), named("raw"));
    let expected = lines(&batch(&market, &page(GOOD)).unwrap());
    fuzz("snapshots", 300, Vec::new(), |data| {
        let page = page(data);
        let made = batch(&market, &page).unwrap();
        let found = lines(&made);
        assert_eq!(made.records, 3);
        for number in [NUMBERS[0], NUMBERS[2]] {
            assert_eq!(of(&found, number), of(&expected, number));
        }
        let middle = of(&found, NUMBERS[1]);
        assert_eq!(found.len(), 6 + middle.len());
        let kept = batch(&raw, &page).unwrap();
        let row: Value = serde_json::from_str(&of(&lines(&kept), NUMBERS[1])[0].2).unwrap();
        let bytes = match row["value"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => base64_simd::STANDARD.decode_to_vec(row["value_base64"].as_str().unwrap()).unwrap(),
        };
        assert_eq!(bytes, data, "the very bytes");
        match middle[..] {
            [(_, true, line)] => {
                let letter: Value = serde_json::from_str(line).unwrap();
                let kept = base64_simd::STANDARD.decode_to_vec(letter["rawData"].as_str().unwrap()).unwrap();
                assert_eq!(kept, data, "a dead letter holds the original bytes");
                letter["errorCode"].to_string()
            }
            _ => {
                let mut ids = HashSet::new();
                let mut unusable = 0;
                for (_, dead, line) in &middle {
                    let row: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
                    assert!(!dead && (row["id"].is_null() || ids.insert(row["id"].to_string())));
                    unusable += usize::from(row.contains_key("unusable"));
                }
                assert!(!middle.is_empty());
                format!("{} rows, {unusable} odd, {}", middle.len(), middle[0].2.contains("event_time"))
            }
        }
    });
}
