//! Inputs as large as a stream takes them and as awkward as they can be made. A reader whose work grows with the square of
//! the input would not come to an end here.

use super::records::{batch, contexts, lines};
use super::small::settings;
use super::within_time;
use kinetide::internals::checkpoint::PendingBatch;
use kinetide::internals::fetch::{PageBuilder, parse_body};
use kinetide::internals::lease::Pending;
use kinetide::internals::shard::Checkpoint;
use serde::de::IgnoredAny;

/// A record of Kinesis has at most 10 MiB; the work is the same per byte.
const BYTES: usize = 512 << 10;

fn change(image: &str) -> String {
    format!(
        r#"{{"eventID":"e","eventName":"INSERT","tableName":"t","dynamodb":{{"ApproximateCreationDateTime":1768469400000000,
            "NewImage":{image}}}}}"#
    )
}

/// `piece` of a number, as often as it takes.
fn many(separator: &str, piece: impl Fn(usize) -> String) -> String {
    let times = BYTES / piece(100_000).len();
    (0..times).map(piece).collect::<Vec<_>>().join(separator)
}

fn shapes() -> Vec<(&'static str, String)> {
    let deep = |open: &str, close: &str| {
        let depth = BYTES / (open.len() + close.len());
        open.repeat(depth) + &close.repeat(depth)
    };
    let any_case = |number: usize| -> String {
        // Names that are all the same column.
        (0..20).map(|bit| if number >> bit & 1 == 0 { 'a' } else { 'A' }).collect()
    };
    vec![
        ("lists in lists", deep("[", "]")),
        ("maps in maps", deep(r#"{"a":"#, "}")),
        ("lists never closed", "[".repeat(BYTES)),
        ("typed lists in lists", change(&format!(r#"{{"a":{}}}"#, deep(r#"{"L":["#, "]}")))),
        ("typed maps in maps", change(&format!(r#"{{"a":{}}}"#, deep(r#"{"M":{"a":"#, "}}")))),
        ("many members", format!("{{{}}}", many(",", |n| format!(r#""a{n}":{n}"#)))),
        ("many attributes", change(&format!("{{{}}}", many(",", |n| format!(r#""a{n}":{{"N":"{n}"}}"#))))),
        ("one name in every case", format!("{{{}}}", many(",", |n| format!(r#""{}":1"#, any_case(n))))),
        (
            "one attribute in every case",
            change(&format!("{{{}}}", many(",", |n| format!(r#""{}":{{"S":""}}"#, any_case(n))))),
        ),
        ("one name again and again", format!("{{{}}}", many(",", |_| r#""a":1"#.to_owned()))),
        (
            "names that are taken",
            format!("{{{}}}", many(",", |n| format!(r#""A__{n}":1,"a__{n}":1,"a__{n}__2":1"#))),
        ),
        ("a change again and again", format!(r#"{{{}}}"#, many(",", |_| r#""dynamodb":{}"#.to_owned()))),
        ("images again and again", {
            let images = many(",", |_| r#""NewImage":null"#.to_owned());
            format!(r#"{{"dynamodb":{{{images}}},"eventName":"INSERT"}}"#)
        }),
        ("a long number", change(&format!(r#"{{"price":{{"N":"{}"}}}}"#, "9".repeat(BYTES)))),
        ("a long fraction", change(&format!(r#"{{"price":{{"N":"0.{}1"}}}}"#, "0".repeat(BYTES)))),
        ("a long exponent", change(&format!(r#"{{"price":{{"N":"1e{}"}}}}"#, "9".repeat(BYTES)))),
        ("a long string", format!(r#"{{"a":"{}"}}"#, "\\ud83e\\uddca".repeat(BYTES / 12))),
        ("line separators", format!(r#"{{"a":"{}"}}"#, "\u{2028}".repeat(BYTES / 3))),
        ("control characters", change(&format!(r#"{{"a":{{"S":"{}"}}}}"#, "\\u0001".repeat(BYTES / 6)))),
        ("white space", format!("{{{}}}", " \n".repeat(BYTES / 2))),
    ]
}

#[test]
fn no_record_takes_more_than_its_share_of_work() {
    for (shape, record) in shapes() {
        let mut page = PageBuilder::default();
        page.push("1001", "key", 1_768_469_401_000_000, record.as_bytes());
        let page = page.finish();
        for context in contexts() {
            let found = within_time(shape, record.as_bytes(), || lines(&batch(&context, &page).unwrap()));
            assert_eq!(found.len(), 1, "{shape}");
        }
    }
}

#[test]
fn no_answer_and_no_state_takes_more_than_its_share_of_work() {
    for (shape, text) in shapes() {
        let valid = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        let answer = format!(r#"{{"Records":[],"Other":{text},"NextShardIterator":null}}"#);
        let state = format!(r#"{{"kinetide":1,"other":{text}}}"#);
        within_time(shape, text.as_bytes(), || {
            assert_eq!(parse_body(answer.into()).is_ok(), valid, "{shape}");
            assert!(parse_body(text.clone().into()).is_err(), "{shape}");
            let checkpoint = Checkpoint::TrimHorizon;
            for state in [text.as_bytes(), state.as_bytes()] {
                let pending = Pending { checkpoint: checkpoint.clone(), state: Some(state.into()) };
                let found = PendingBatch::from_pending(&pending);
                assert!(!matches!(found, Ok(Some(_))), "{shape}");
            }
        });
    }
    let records = many(",", |n| {
        format!(
            r#"{{"SequenceNumber":"{n}","PartitionKey":"k","Data":"","ApproximateArrivalTimestamp":1.{n}e-{n}}}"#
        )
    });
    let answer = format!(r#"{{"Records":[{records}],"NextShardIterator":"n"}}"#);
    let page = within_time("many records", answer.as_bytes(), || parse_body(answer.clone().into()).unwrap());
    assert_eq!(page.len(), records.matches("Data").count());
}

#[test]
fn no_settings_file_takes_more_than_its_share_of_work() {
    let deep = BYTES / 8;
    for (shape, text) in [
        ("lists in lists", format!("a = {}{}", "[".repeat(deep), "]".repeat(deep))),
        ("tables in tables", format!("a = {}1{}", "{a=".repeat(deep), "}".repeat(deep))),
        ("a dotted key", format!("{}a = 1", "a.".repeat(deep))),
        ("a dotted table", format!("[{}a]", "a.".repeat(deep))),
        ("many factors", format!("[enrichment.price_factors]\n{}", many("\n", |n| format!("a{n} = 1")))),
        ("many steps", many("\n", |n| format!("[[enrichment.fee_discounts]]\nfrom = {n}\nfactor = 1"))),
    ] {
        let answer = within_time(shape, text.as_bytes(), || settings(text.as_bytes()));
        assert_eq!(answer.is_ok(), shape.starts_with("many"), "{shape}: {answer:?}");
    }
}
