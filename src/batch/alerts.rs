//! Copies of the rows that somebody wants to hear of, in objects of their own.
//!
//! A copy is made of an object of rows, whoever wrote that, and follows from its key and its bytes alone: any number of
//! workers may make it, in any order, and it is the same. So no lease row has to speak of copies, and where each row
//! is in one object, each of its copies is in one too.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};

use flate2::bufread::MultiGzDecoder;
use memchr::memmem::Finder;
use serde::Deserialize;

use super::LakeObject;
use super::encode::{Encoder, Gzip};
use super::repair::UnreadableObject;

/// Folder of the copies of valid rows of high risk.
pub const HIGH_RISK_ALERTS: &str = "alerts/high_risk";

const HIGH_RISK: &str = "HIGH_RISK";

/// In every row with this flag, as the transform writes it. Nested values may hold it too.
const FLAGGED: &[u8] = br#""risk_flag":"HIGH_RISK""#;

/// The columns that decide.
#[derive(Deserialize)]
struct Flags<'a> {
    #[serde(borrow)]
    risk_flag: Cow<'a, str>,
    is_valid: bool,
}

/// The valid rows of high risk in an object, as an object of their own: the same lines under the same name and hour. `None`
/// where there are none, as in dead letters and seals.
///
/// # Errors
/// When the object is not gzip, or cut off.
pub fn high_risk_copy(key: &str, object: &[u8], gzip: Gzip) -> Result<Option<LakeObject>, UnreadableObject> {
    let flagged = Finder::new(FLAGGED);
    let mut lines = BufReader::new(MultiGzDecoder::new(object));
    let mut copy: Option<Encoder> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(UnreadableObject::Gzip)? == 0 {
            break;
        }
        if flagged.find(&line).is_some() && is_high_risk(&line) {
            // What it takes is bounded by the object.
            copy.get_or_insert_with(|| Encoder::new(gzip)).push(&line, 1, |_| true);
        }
    }
    Ok(copy.map(|copy| {
        let (body, content) = copy.finish_object();
        LakeObject { key: copy_key(key), body, content }
    }))
}

fn is_high_risk(row: &[u8]) -> bool {
    let flags = serde_json::from_slice::<Flags<'_>>(row);
    flags.is_ok_and(|flags| flags.risk_flag == HIGH_RISK && flags.is_valid)
}

/// Hour and name of an object, in the folder of copies.
fn copy_key(key: &str) -> String {
    let place = key.find("/year=").map_or(key, |at| &key[at + 1..]);
    format!("{HIGH_RISK_ALERTS}/{place}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Content, read_content, seal_object};

    const KEY: &str = "landing/transactions/year=2026/month=01/day=15/hour=09/trades-shardId-0-1-9.ndjson.gz";

    fn object(lines: &[String]) -> Vec<u8> {
        let mut encoder = Encoder::new(Gzip::level(1));
        lines.iter().for_each(|line| assert!(encoder.push(format!("{line}\n").as_bytes(), 1, |_| true)));
        encoder.finish().to_vec()
    }

    fn copied(object: &[u8]) -> Vec<String> {
        let Some(copy) = high_risk_copy(KEY, object, Gzip::level(1)).unwrap() else { return Vec::new() };
        assert_eq!(copy.content, read_content(&copy.body).unwrap());
        assert_eq!(
            copy.key,
            "alerts/high_risk/year=2026/month=01/day=15/hour=09/trades-shardId-0-1-9.ndjson.gz"
        );
        let text = std::io::read_to_string(MultiGzDecoder::new(&copy.body[..])).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_valid_rows_of_high_risk_are_copied() {
        let row = |rest: &str| format!(r#"{{"event_id":"e","sequence_number":"1",{rest}}}"#);
        for (rest, high) in [
            (r#""risk_flag":"HIGH_RISK","is_valid":true"#, true),
            (r#""is_valid":true,"risk_flag":"HIGH_RISK","is_deleted":true"#, true),
            (r#""risk_flag":"HIGH_RISK","is_valid":false"#, false),
            (r#""risk_flag":"MEDIUM_RISK","is_valid":true"#, false),
            (r#""risk_flag":null,"is_valid":true"#, false),
            // Inside a value the words are no column.
            (r#""risk_flag":"LOW_RISK","is_valid":true,"extra":{"risk_flag":"HIGH_RISK"}"#, false),
            (r#""risk_flag":"LOW_RISK","is_valid":true,"note":"\"risk_flag\":\"HIGH_RISK\"""#, false),
            (r#""extra":{"risk_flag":"HIGH_RISK","is_valid":true}"#, false),
            // Columns of another table that have the names.
            (r#""risk_flag":"HIGH_RISK","is_valid":"true""#, false),
        ] {
            let line = row(rest);
            let expected: &[String] = if high { std::slice::from_ref(&line) } else { &[] };
            assert_eq!(copied(&object(std::slice::from_ref(&line))), expected, "{line}");
        }
    }

    #[test]
    fn seals_have_no_copy_and_what_is_cut_off_is_said() {
        assert_eq!(high_risk_copy(KEY, &seal_object(), Gzip::level(1)).unwrap(), None);
        let whole = object(&[r#"{"risk_flag":"HIGH_RISK","is_valid":true}"#.to_owned()]);
        assert!(high_risk_copy(KEY, &whole[..whole.len() - 1], Gzip::level(1)).is_err());
        assert!(high_risk_copy(KEY, b"", Gzip::level(1)).is_err());
    }

    proptest! {
        #[test]
        fn a_copy_follows_from_the_rows_whatever_packed_them(
            flags in prop::collection::vec((prop::sample::select(vec!["HIGH_RISK", "LOW_RISK"]), any::<bool>()), 0..40),
            cut: prop::sample::Index,
        ) {
            let line = |(n, (flag, valid)): (usize, &(&str, bool))| {
                format!(r#"{{"sequence_number":"{n}","risk_flag":"{flag}","is_valid":{valid}}}"#)
            };
            let lines: Vec<String> = flags.iter().enumerate().map(line).collect();
            let high = lines.iter().zip(&flags).filter(|(_, (flag, valid))| *flag == HIGH_RISK && *valid);
            let wanted: Vec<String> = high.map(|(line, _)| line.clone()).collect();
            let one = object(&lines);
            prop_assert_eq!(copied(&one), wanted);
            // Two members are the same rows, and give the same copy.
            let (a, b) = lines.split_at(cut.index(lines.len() + 1));
            let two = [object(a), object(b)].concat();
            let content = |bytes: &[u8]| high_risk_copy(KEY, bytes, Gzip::level(6)).unwrap().map(|copy| -> Content { copy.content });
            prop_assert_eq!(content(&one), content(&two));
        }
    }
}
