//! The lake of another consumer: NDJSON, gzip or plain, in files of any name. Each line is an object with the position
//! of its record, and if it likes the payload and the worker that wrote it.
//!
//! A killed consumer may leave a file that ends in the middle: its whole lines count, and so does the defect.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use serde::Deserialize;

use super::check::LakeCheck;
use super::json::{Malformed, hash};
use super::lake::{Object, Zone};
use super::puts::Puts;
use super::record::Sequence;

/// A line.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    /// Shard of its record.
    #[serde(borrow, alias = "shardId")]
    pub shard_id: Cow<'a, str>,
    /// Sequence number of its record.
    #[serde(borrow, alias = "sequenceNumber")]
    pub sequence_number: Cow<'a, str>,
    /// Index of its record inside an aggregate; a KCL says 0 for one that is none.
    #[serde(alias = "subSequenceNumber", default)]
    sub_sequence_number: Option<u32>,
    /// Payload of its record in base64.
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
    /// Who wrote it.
    #[serde(borrow, default)]
    pub worker: Option<Cow<'a, str>>,
}

/// Every file below `root`, the oldest first. As for Athena and Hive, names with `_` or `.` in front hide what is still
/// being written.
///
/// # Errors
/// When the lake cannot be listed.
pub async fn list(store: &dyn ObjectStore, root: &Path) -> Result<Vec<ObjectMeta>, object_store::Error> {
    let mut found: Vec<ObjectMeta> = store.list(Some(root)).try_collect().await?;
    found.retain(|meta| {
        let mut below = meta.location.prefix_match(root).into_iter().flatten();
        !below.any(|part| part.as_ref().starts_with(['_', '.']))
    });
    found.sort_unstable_by_key(|meta| meta.last_modified);
    Ok(found)
}

/// As objects to check.
pub(super) async fn objects(
    store: &dyn ObjectStore,
    root: &Path,
) -> Result<Vec<Object>, object_store::Error> {
    let found = list(store, root).await?;
    Ok(found.into_iter().map(|meta| Object { meta, zone: Zone::Foreign }).collect())
}

/// Gives each line of a file, or what is wrong with it; answers how many there were. The error says how the file ends
/// in the middle; lines before that were given.
pub fn each_line(bytes: &[u8], mut line: impl FnMut(Result<Line<'_>, Malformed>)) -> Result<u64, String> {
    let mut reader: Box<dyn BufRead + '_> = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(bytes))),
        false => Box::new(bytes),
    };
    let mut text = Vec::with_capacity(4096);
    let mut count = 0;
    loop {
        text.clear();
        let read = reader.read_until(b'\n', &mut text);
        let read = read.map_err(|error| format!("line {}: broken gzip: {error}", count + 1))?;
        if read == 0 {
            return Ok(count);
        }
        // Some writers put line ends only between lines.
        let ended = text.pop_if(|last| *last == b'\n').is_some();
        if text.is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&text).map_err(|_| "a line does not say which record it is");
        if parsed.is_err() && !ended {
            return Err(format!("line {}: it ends in the middle", count + 1));
        }
        line(parsed);
        count += 1;
    }
}

/// Checks all lines of one file.
pub(super) fn check(puts: &Puts, meta: &ObjectMeta, bytes: &Bytes) -> LakeCheck {
    let mut found = LakeCheck { objects: 1, bytes_out: bytes.len() as u64, ..LakeCheck::default() };
    let at = meta.location.as_ref();
    let created_us = meta.last_modified.timestamp_micros();
    let lines = each_line(bytes, |line| {
        found.rows_delivered += 1;
        let line = match line {
            Ok(line) => line,
            Err(reason) => return found.defect(|f| &mut f.broken_lines, format!("{at}: {reason}")),
        };
        let payload = line.data.as_ref().map(|data| {
            let data = base64_simd::STANDARD.decode_to_vec(data.as_bytes()).ok();
            data.map(|data| hash(&data.as_slice()))
        });
        let found_puts = Sequence::parse(&line.sequence_number).map_or(&[][..], |number| {
            match puts.find(&line.shard_id, number, line.sub_sequence_number) {
                [] if line.sub_sequence_number == Some(0) => puts.find(&line.shard_id, number, None),
                found => found,
            }
        });
        let Some(put) = found_puts.first() else {
            let position = hash(&(&*line.shard_id, &*line.sequence_number));
            if puts.is_unclear(position) || payload.flatten().is_some_and(|payload| puts.is_unclear(payload))
            {
                found.unclear += 1;
                return;
            }
            let what = format!("{at}: {} {} was never put", line.shard_id, line.sequence_number);
            return found.defect(|f| &mut f.unexpected, what);
        };
        for put in found_puts {
            if put.see() == 0 {
                found.latencies.add((created_us - put.sent_us()) / 1_000);
            }
        }
        if found_puts.len() == 1 && payload.is_some_and(|payload| payload != Some(put.payload)) {
            let what = format!("{at}: {} has other data than the record", puts.position(&line.shard_id, put));
            found.defect(|f| &mut f.value_mismatches, what);
        }
    });
    match lines {
        Ok(0) if bytes.is_empty() && at.ends_with(".gz") => {
            found.defect(|f| &mut f.broken_objects, format!("{at}: no gzip at all"));
        }
        Ok(0) => found.empty_objects += 1,
        Ok(_) => {}
        Err(reason) => found.defect(|f| &mut f.broken_objects, format!("{at}, {reason}")),
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::super::{Put, verify_foreign};
    use super::*;

    fn line(sequence: u32) -> String {
        format!(r#"{{"shard_id":"s","sequence_number":"{sequence}","data":"eA==","worker":"w-1"}}"#)
    }

    fn gzip(lines: std::ops::Range<u32>) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        lines.for_each(|number| writeln!(encoder, "{}", line(number)).unwrap());
        encoder.finish().unwrap()
    }

    async fn check(files: &[(&str, Vec<u8>)]) -> LakeCheck {
        let store = Arc::new(InMemory::new());
        for (name, bytes) in files {
            store.put(&Path::from(*name), bytes.clone().into()).await.unwrap();
        }
        let mut puts = Puts::default();
        for number in 0..100 {
            puts.add("s", Put::new("s", &number.to_string(), b"x", 0).unwrap()).unwrap();
        }
        puts.add_optional("s", "500");
        // What was seen while the consumer ran does not count.
        assert!(puts.saw("s", "7"));
        verify_foreign(store, &Path::default(), puts, |_, _| {}).await.unwrap().all
    }

    #[tokio::test]
    async fn lines_are_counted_whatever_the_files_look_like() {
        let members = [gzip(0..30), gzip(30..50)].concat();
        let plain = (50..99).map(line).collect::<Vec<_>>().join("\n").into_bytes();
        let other_names = br#"{"shardId":"s","sequenceNumber":"99","more":{"a":[1]}}
            {"shardId":"s","sequenceNumber":"500"}"#
            .to_vec();
        let found = check(&[("w/a.json.gz", members), ("b.ndjson", plain), ("c", other_names)]).await;
        assert!(found.ok(), "{found:?}");
        assert_eq!((found.rows_delivered, found.unclear, found.objects), (101, 1, 3));
    }

    #[tokio::test]
    async fn lost_and_doubled_records_are_counted() {
        let found = check(&[("a.gz", gzip(0..60)), ("b.gz", gzip(40..90)), ("c.gz", gzip(40..50))]).await;
        assert_eq!((found.missing, found.duplicated), (10, 30));
        assert_eq!(found.missing_first[0].sequence_number, "90");
        assert_eq!(found.duplicated_first[0].sequence_number, "40");
    }

    #[tokio::test]
    async fn torn_files_give_their_whole_lines() {
        let whole = gzip(0..100);
        let torn = whole[..whole.len() - 12].to_vec();
        let text = (0..10).map(|number| line(number) + "\n").collect::<String>().into_bytes();
        let cut = text[..text.len() - 5].to_vec();
        let found = check(&[("a.gz", torn), ("b.json", cut), ("c.gz", Vec::new()), ("d", Vec::new())]).await;
        assert_eq!((found.broken_objects, found.empty_objects, found.broken_lines), (3, 1, 0));
        assert!(found.missing < 100 && found.missing > 0, "{found:?}");
        assert_eq!(found.rows_delivered, 100 - found.missing + 9);
    }

    #[tokio::test]
    async fn what_is_still_being_written_is_no_part_of_the_lake() {
        let found =
            check(&[("a.gz", gzip(0..100)), ("_tmp/b.gz", gzip(0..9)), ("x/.c.gz", gzip(0..9))]).await;
        assert!(found.ok(), "{found:?}");
    }

    #[tokio::test]
    async fn lines_of_no_record_are_found() {
        let text = [
            r#"{"shard_id":"s","sequence_number":"1000"}"#,
            r#"{"shard_id":"s","sequence_number":"1","data":"eQ=="}"#,
            r#"{"shard_id":"s"}"#,
            "not json\n",
        ];
        let found = check(&[("a", text.join("\n").into_bytes())]).await;
        assert_eq!((found.unexpected, found.value_mismatches, found.broken_lines), (1, 1, 2));
    }
}
