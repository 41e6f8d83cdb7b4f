//! What cannot become a row becomes a dead letter with its reason and its bytes; its neighbours are rows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::kinetide;
use super::stage::{STREAM, Stage};

const MALFORMED: [(&str, &[u8]); 6] = [
    ("not_json", include_bytes!("../../fixtures/not-json.txt")),
    ("no_dynamodb", include_bytes!("../../fixtures/missing-dynamodb.json")),
    ("unknown_type", include_bytes!("../../fixtures/unknown-type.json")),
    ("two_tags", include_bytes!("../../fixtures/two-tags.json")),
    ("bad_number", include_bytes!("../../fixtures/bad-number.json")),
    ("no_image", include_bytes!("../../fixtures/keys-only.json")),
];

/// Every line of every object below a folder. As all readers it passes over names that start with `_` or `.`.
pub(super) fn lines(folder: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with(['_', '.']) {
            continue;
        }
        if path.is_dir() {
            all.extend(lines(&path));
        } else {
            let mut text = String::new();
            MultiGzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
            all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_record_is_a_dead_letter_and_no_other() {
    let stage = Stage::new(2).await;
    let worker = stage.worker(&[]).await;
    let generate = ["generate", "--stream", STREAM, "--records", "1000", "--bad-rate", "0.05", "--json"];
    let endpoint = ["--kinesis-endpoint", stage.aws.kinesis_url()];
    let ran = kinetide(&[&generate[..], &endpoint].concat()).await;
    ran.says(0, &[]);
    let totals: Value = serde_json::from_str(&ran.out).unwrap();
    let broken = totals["broken"].as_u64().unwrap();
    assert!(totals["written"] == 1000 && (20..100).contains(&broken), "{totals}");
    for (name, sample) in MALFORMED {
        stage.aws.kinesis().put(STREAM, name, sample).unwrap();
    }
    stage.all_delivered().await;

    let letters = lines(&stage.lake().join("errors"));
    let mut reasons = BTreeMap::<&str, u64>::new();
    for letter in &letters {
        *reasons.entry(letter["errorCode"].as_str().unwrap()).or_default() += 1;
    }
    let raw: BTreeSet<Vec<u8>> = letters
        .iter()
        .map(|letter| base64_simd::STANDARD.decode_to_vec(letter["rawData"].as_str().unwrap()).unwrap())
        .collect();
    for (reason, sample) in MALFORMED {
        assert!(reasons.contains_key(reason), "{reason} is not in {reasons:?}");
        assert!(raw.contains(sample), "the bytes of {reason} are not kept");
    }
    for (reason, count) in &reasons {
        let name = format!("kinetide_records_dead_lettered_total{{reason=\"{reason}\"}}");
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let count = *count as f64;
        worker.counts(&name, count).await;
    }
    worker.drain().await;
    let check = stage.exactly_once(1000 + MALFORMED.len() as u64).await;
    assert_eq!(check.dead_letters, broken + MALFORMED.len() as u64);
}
