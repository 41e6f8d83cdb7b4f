//! Answers of `GetRecords`: bodies that are not quite what the API promises.

use kinetide::internals::fetch::{Payload, parse_body};
use serde_json::Value;

use super::fuzz;
use super::records::{batch, contexts, lines};

#[test]
fn an_answer_is_a_page_of_all_its_records_or_an_error() {
    let contexts = contexts();
    let context = contexts.iter().find(|context| context.transform.id().name() == "json").unwrap();
    fuzz("answers", 600, Vec::new(), |body| {
        let document = serde_json::from_slice::<Value>(body).ok();
        let page = match parse_body(body.to_vec().into()) {
            Ok(page) => page,
            Err(error) => {
                let text = error.to_string();
                return text.trim_end_matches(|c: char| c != 'n').to_owned();
            }
        };
        // Where the body is JSON, nothing of it is skipped or changed.
        if let Some(document) = &document {
            let records = document["Records"].as_array().unwrap();
            assert_eq!(page.len(), records.len());
            for (record, expected) in page.records().zip(records) {
                assert_eq!(record.sequence_number, expected["SequenceNumber"]);
                // A record of a stream that distributes by itself may have none.
                assert_eq!(record.partition_key(), expected["PartitionKey"].as_str().unwrap_or_default());
                let Payload::Base64(data) = record.payload else { panic!("payloads of the API are base64") };
                assert_eq!(data, expected["Data"].as_str().unwrap().as_bytes());
            }
            assert_eq!(page.next_iterator.as_deref(), document["NextShardIterator"].as_str());
            assert_eq!(page.millis_behind_latest, document["MillisBehindLatest"].as_i64());
            let children = document["ChildShards"].as_array().map_or(0, Vec::len);
            assert_eq!(page.children.len(), children);
        }
        // Every record of the page has a place and becomes one line, whatever its time and payload.
        let numbers: Vec<_> = page.records().map(|record| record.position().sequence.to_string()).collect();
        let mut expected = numbers.clone();
        expected.sort();
        let found = batch(context, &page).map(|batch| lines(&batch)).unwrap_or_default();
        assert!(found.iter().map(|(number, ..)| number).eq(&expected), "{numbers:?} {found:?}");
        let dead = found.iter().filter(|(_, dead, _)| *dead).count();
        format!("{} {dead} {} {}", page.len(), page.children.len(), document.is_some())
    });
}
