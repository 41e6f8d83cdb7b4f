//! Which records share a call of `PutRecordBatch`, and which of them go again after its answer.

use bytes::Bytes;

/// Records that one call takes.
const RECORDS_MAX: usize = 500;
/// Bytes that one call takes: 4 MiB "for the entire request". It is not said whether they are counted before base64, as
/// they are for a record; so they are counted as they are sent.
const BYTES_MAX: usize = 4 << 20;
/// What the request has beside its records, and around each of them.
const ENVELOPE_BYTES: usize = 256;
const RECORD_ENVELOPE_BYTES: usize = 16;
/// Each record is billed as if it were a multiple of this.
const BILLED_STEP: u64 = 5 << 10;

/// What Firehose bills a record of `bytes` bytes as.
pub fn billed_bytes(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(BILLED_STEP)
}

/// The records in their order, cut into calls. No call is empty.
pub fn calls(records: Vec<Bytes>) -> impl Iterator<Item = Vec<Bytes>> + Send {
    let mut rest = records.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut call = vec![rest.next()?];
        let mut bytes = ENVELOPE_BYTES + sent_bytes(&call[0]);
        while let Some(record) = rest.next_if(|next| bytes + sent_bytes(next) <= BYTES_MAX) {
            bytes += sent_bytes(&record);
            call.push(record);
            if call.len() == RECORDS_MAX {
                break;
            }
        }
        Some(call)
    })
}

fn sent_bytes(record: &Bytes) -> usize {
    record.len().div_ceil(3) * 4 + RECORD_ENVELOPE_BYTES
}

/// What an answer says of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// It has an id.
    pub(super) has_id: bool,
    /// It has an error code.
    pub(super) has_error: bool,
}

/// For each of the records sent, whether it was accepted. What the answer does not clearly say to be accepted goes again:
/// a record twice is allowed, one lost is not.
pub(super) fn accepted(sent: usize, failed_put_count: usize, entries: &[Entry]) -> Vec<bool> {
    let accepted: Vec<bool> = (0..sent)
        .map(|index| entries.get(index).is_some_and(|entry| entry.has_id && !entry.has_error))
        .collect();
    let refused = accepted.iter().filter(|accepted| !**accepted).count();
    // More are said to have failed than are named.
    if failed_put_count > refused { vec![false; sent] } else { accepted }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchContext, BatchLimits, Batcher, Layout, Packing};
    use crate::fetch::PageBuilder;
    use crate::generate::envelope::{self, Table};
    use crate::generate::synthetic::{Mix, Synthetic};
    use crate::shard::ShardId;
    use crate::transform::{Builtin, Enrichment, SourceKind};

    const OK: Entry = Entry { has_id: true, has_error: false };
    const ERROR: Entry = Entry { has_id: false, has_error: true };
    const KIB: usize = 1 << 10;

    fn records(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|&bytes| Bytes::from(vec![b'x'; bytes])).collect()
    }

    #[test]
    fn each_record_is_billed_in_steps_of_its_own() {
        let billed = [1, 5120, 5121, 1000 * KIB].map(billed_bytes);
        assert_eq!(billed, [5120, 5120, 10_240, 1_024_000]);
    }

    #[test]
    fn a_call_is_as_full_as_the_limits_allow() {
        let lengths = |records: Vec<Bytes>| calls(records).map(|call| call.len()).collect::<Vec<_>>();
        assert_eq!(lengths(records(&[10; 1001])), [500, 500, 1]);
        assert_eq!(lengths(records(&[1000 * KIB; 7])), [3, 3, 1]);
        assert_eq!(lengths(Vec::new()), Vec::<usize>::new());
    }

    #[test]
    fn only_what_is_clearly_accepted_does_not_go_again() {
        assert_eq!(accepted(3, 0, &[OK, OK, OK]), [true, true, true]);
        assert_eq!(accepted(3, 1, &[OK, ERROR, OK]), [true, false, true]);
        assert_eq!(accepted(3, 0, &[OK, ERROR, OK]), [true, false, true], "the count is wrong");
        assert_eq!(accepted(3, 0, &[OK]), [true, false, false], "an answer that is too short");
        assert_eq!(accepted(1, 0, &[OK, ERROR]), [true], "or too long");
        assert_eq!(accepted(2, 2, &[OK, ERROR]), [false, false], "more failed than are named");
        let (neither, both) =
            (Entry { has_id: false, has_error: false }, Entry { has_id: true, has_error: true });
        assert_eq!(accepted(2, 0, &[neither, both]), [false, false]);
        assert_eq!(accepted(2, 0, &[]), [false, false]);
    }

    /// Bytes that Firehose bills for a million rows of trades; `docs/PERFORMANCE.md` shows them.
    #[test]
    fn packed_rows_are_billed_at_a_fraction() {
        let table = Table { name: "CryptoTransactions".into(), region: "eu-north-1".into() };
        let mut page = PageBuilder::default();
        for (number, change) in (1..=20_000i64).zip(Synthetic::new(1, Mix::default())) {
            let at_us = 1_768_469_400_000_000 + number * 1000;
            let mut data = Vec::new();
            let id = uuid::Uuid::from_u128(u128::from(number.unsigned_abs()) << 64);
            envelope::write(&table, &change, &id, at_us, &mut data);
            // As long as those of Kinesis.
            page.push(&format!("4966{number:052}"), "key", at_us, &data);
        }
        let page = page.finish();
        let packed = |packing| {
            let mut batcher = Batcher::new(Arc::new(BatchContext {
                stream: "trades".into(),
                shard: ShardId::new("shardId-000000000000"),
                source: SourceKind::Kinesis,
                layout: Layout { landing: "landing".into(), errors: "errors".into(), alerts: false },
                limits: BatchLimits::default(),
                transform: Arc::new(Builtin::crypto_transactions(&Enrichment::default()).unwrap()),
                packing: Some(packing),
            }));
            page.records().for_each(|record| batcher.push(&record));
            let batch = batcher.close().unwrap();
            assert_eq!((batch.rows, batch.objects.len()), (20_000, 0));
            batch.packed
        };
        let lines = packed(Packing::Lines);
        let rows: Vec<usize> =
            lines.iter().flat_map(|lines| lines.split_inclusive(|b| *b == b'\n')).map(<[u8]>::len).collect();
        let bytes_of =
            |records: &[Bytes]| records.iter().map(|record| billed_bytes(record.len())).sum::<u64>() / 20_000;
        let alone = rows.iter().map(|row| billed_bytes(*row)).sum::<u64>() / 20_000;
        let gzip = packed(Packing::GzipMembers);
        let (lines, gzip) = (bytes_of(&lines), bytes_of(&gzip));
        let plain = rows.iter().sum::<usize>() / 20_000;
        println!(
            "a row of {plain} bytes is billed as {alone} bytes alone, {lines} among lines, {gzip} in gzip records"
        );
        assert_eq!((rows.len(), alone), (20_000, 5120));
        assert!(lines <= plain as u64 * 101 / 100 && gzip * 10 < alone, "{plain} {lines} {gzip}");
    }

    proptest! {
        #[test]
        fn calls_keep_records_order_and_limits(sizes in prop::collection::vec(prop_oneof![1usize..300, 900_000usize..1_024_001], 0..60), many in 0usize..1200) {
            let mut records = records(&sizes);
            records.extend(vec![Bytes::from_static(b"row\n"); many]);
            let calls: Vec<_> = calls(records.clone()).collect();
            for (call, next) in calls.iter().zip(calls.iter().skip(1).map(Some).chain([None])) {
                let bytes = |call: &[Bytes]| 256 + call.iter().map(|r| r.len().div_ceil(3) * 4 + 16).sum::<usize>();
                prop_assert!((1..=500).contains(&call.len()) && bytes(call) <= 4 << 20);
                let full = |next: &Vec<Bytes>| call.len() == 500 || bytes(call) + bytes(&next[..1]) - 256 > 4 << 20;
                prop_assert!(next.is_none_or(full), "no call is cut short");
            }
            prop_assert!(calls.concat() == records);
        }
    }
}
