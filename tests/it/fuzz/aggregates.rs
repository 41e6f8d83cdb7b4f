//! Aggregates of the Kinesis Producer Library: as they come, and any message under a right checksum.

use kinetide::internals::fetch::{OutOfRange, PageBuilder, Payload, unpack};
use kinetide::internals::kpl::{MAGIC, Part, Reader};
use kinetide::internals::shard::HashKeyRange;
use md5::{Digest, Md5};

use super::fuzz;

/// Bytes of the smallest record in a message.
const RECORD_BYTES_MIN: usize = 6;
/// One record `beside` with the key `k`: an aggregate that others are checked together with.
const BESIDE: &[u8] = b"\x0a\x01k\x1a\x0a\x08\x00\x1a\x06beside";

#[test]
fn an_aggregate_is_unpacked_whole_or_stays_as_it_is() {
    fuzz("aggregates", 3000, Vec::new(), |input| {
        let message = input.get(MAGIC.len()..input.len().saturating_sub(16)).unwrap_or(input);
        let sealed = [&MAGIC[..], message, Md5::digest(message).as_slice()].concat();
        let answers = [input, &sealed[..]].map(answer);
        answers.join(", ")
    });
}

/// How a payload is read, alone and on a page.
fn answer(payload: &[u8]) -> String {
    let mut reader = Reader::default();
    let read = reader.read(payload);
    let expected = match &read {
        Some(Ok(())) => {
            let parts = reader.parts();
            // So many allocated, and never more than there is room for.
            assert!((1..=payload.len() / RECORD_BYTES_MIN).contains(&parts.len()));
            let part = |part: &Part| (payload[reader.key(part)].to_vec(), payload[part.data()].to_vec());
            Some(parts.iter().map(part).collect::<Vec<_>>())
        }
        _ => None,
    };
    for base64 in [true, false] {
        let mut builder = if base64 { PageBuilder::base64() } else { PageBuilder::default() };
        let text = base64_simd::STANDARD.encode_to_string(payload);
        builder.push("7", "outer", 5, if base64 { text.as_bytes() } else { payload });
        let range = Some(HashKeyRange { start: 0, end: u128::MAX / 2 });
        let (page, found) = unpack(builder.finish(), range, OutOfRange::Deliver);
        assert_eq!(
            (found.unpacked, found.broken),
            match &read {
                Some(Ok(())) => (1, 0),
                Some(Err(_)) => (0, 1),
                None => (0, 0),
            }
        );
        let records: Vec<_> = page.records().collect();
        match &expected {
            Some(parts) => {
                let found = records
                    .iter()
                    .map(|record| (record.partition_key().as_bytes().to_vec(), record.data().into_owned()));
                assert!(found.eq(parts.iter().cloned()));
                let subs = records.iter().map(|record| record.sub_sequence);
                assert!(subs.eq((0..parts.len() as u64).map(Some)));
            }
            None => {
                let whole = if base64 { Payload::Base64(text.as_bytes()) } else { Payload::Plain(payload) };
                assert_eq!((records.len(), records[0].payload, records[0].sub_sequence), (1, whole, None));
            }
        }
    }
    together(payload, expected.as_deref());
    match read {
        None => "none".to_owned(),
        Some(Ok(())) => format!("{} records", reader.parts().len().min(5)),
        Some(Err(broken)) => broken.to_string(),
    }
}

/// Among others, whose checksums are computed at the same time: none changes what becomes of the others.
fn together(payload: &[u8], expected: Option<&[(Vec<u8>, Vec<u8>)]>) {
    let beside = [&MAGIC[..], BESIDE, Md5::digest(BESIDE).as_slice()].concat();
    let mut builder = PageBuilder::default();
    for (index, payload) in [&beside[..], payload, &beside, payload].into_iter().enumerate() {
        builder.push(&index.to_string(), "outer", 5, payload);
    }
    let (page, _) = unpack(builder.finish(), None, OutOfRange::Deliver);
    let found = page.records().map(|record| {
        (
            record.sequence_number.to_owned(),
            record.sub_sequence.is_some(),
            record.key().map(<[u8]>::to_vec),
            record.data().into_owned(),
        )
    });
    let whole = [(b"outer".to_vec(), payload.to_vec())];
    let beside = [(b"k".to_vec(), b"beside".to_vec())];
    let all = [&beside[..], expected.unwrap_or(&whole), &beside, expected.unwrap_or(&whole)];
    let all = all.into_iter().enumerate().flat_map(|(index, records)| {
        let inside = index % 2 == 0 || expected.is_some();
        records.iter().map(move |(key, data)| (index.to_string(), inside, Some(key.clone()), data.clone()))
    });
    assert!(found.eq(all));
}
