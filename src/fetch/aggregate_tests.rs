//! Pages against a naive reading of what was put, and the numbers that are told of them.

use md5::{Digest, Md5};
use proptest::prelude::*;

use super::*;
use crate::fetch::PageBuilder;
use crate::fetch::page::Span;

const HALF: HashKeyRange = HashKeyRange { start: 0, end: u128::MAX / 2 };

/// A record as a producer puts it.
#[derive(Clone, Debug)]
enum Put {
    Plain(Vec<u8>),
    /// Key, explicit hash key and payload of each; never more than 127 bytes of one thing.
    Packed(Vec<(String, Option<u128>, Vec<u8>)>),
    /// The same, with a byte changed.
    Changed(Vec<u8>, usize),
    NotBase64,
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 16_384);
    let low = u8::try_from(bytes.len() % 128).unwrap();
    let length = match u8::try_from(bytes.len() / 128).unwrap() {
        0 => vec![low],
        high => vec![low | 0x80, high],
    };
    [vec![tag], length, bytes.to_vec()].concat()
}

/// An aggregate with a key of its own for each record.
fn aggregate(records: &[(String, Option<u128>, Vec<u8>)]) -> Vec<u8> {
    let (mut tables, mut message) = (Vec::new(), Vec::new());
    let mut hash_keys = 0;
    for (index, (key, hash_key, data)) in records.iter().enumerate() {
        tables.extend(field(0x0a, key.as_bytes()));
        let mut record = vec![0x08, u8::try_from(index).unwrap()];
        if let Some(hash_key) = hash_key {
            tables.extend(field(0x12, hash_key.to_string().as_bytes()));
            record.extend([0x10, hash_keys]);
            hash_keys += 1;
        }
        record.extend(field(0x1a, data));
        message.extend(field(0x1a, &record));
    }
    let message = [tables, message].concat();
    [&MAGIC[..], &message, Md5::digest(&message).as_slice()].concat()
}

impl Put {
    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Plain(data) => data.clone(),
            Self::Packed(records) => aggregate(records),
            Self::Changed(data, at) => {
                let mut payload = aggregate(&[("k".to_owned(), None, data.clone())]);
                // Behind the magic, so that it still begins like one.
                let at = 4 + at % (payload.len() - 4);
                payload[at] ^= 0x55;
                payload
            }
            Self::NotBase64 => b"{}".to_vec(),
        }
    }
}

fn page(puts: &[Put], base64: bool) -> Page {
    let mut builder = if base64 { PageBuilder::base64() } else { PageBuilder::default() };
    for (index, put) in puts.iter().enumerate() {
        let mut payload = put.payload();
        if base64 {
            payload = base64_simd::STANDARD.encode_to_string(payload).into_bytes();
            if matches!(put, Put::NotBase64) {
                payload = b"84maw~".to_vec();
            }
        }
        builder.push(&(100 + index).to_string(), "outer", i64::try_from(index).unwrap(), &payload);
    }
    let mut page = builder.finish();
    (page.next_iterator, page.millis_behind_latest, page.served_us) = (Some("next".into()), Some(7), Some(9));
    page
}

/// Sequence number, index, key, arrival, payload.
type Seen = (String, Option<u64>, String, i64, Vec<u8>);

fn seen(page: &Page) -> Vec<Seen> {
    let see = |record: Record<'_>| {
        let data = match record.payload {
            Payload::Base64(text) if base64_simd::STANDARD.check(text).is_err() => text.to_vec(),
            _ => record.data().into_owned(),
        };
        let key = record.partition_key().to_owned();
        (record.sequence_number.to_owned(), record.sub_sequence, key, record.arrival_us, data)
    };
    page.records().map(see).collect()
}

/// What the records of a shard with these hash keys should be.
fn expected(
    puts: &[Put],
    base64: bool,
    range: Option<HashKeyRange>,
    outside: OutOfRange,
) -> (Vec<Seen>, Found) {
    let (mut records, mut found) = (Vec::new(), Found::default());
    for (index, put) in puts.iter().enumerate() {
        let (sequence, arrival) = ((100 + index).to_string(), i64::try_from(index).unwrap());
        let whole = |data: Vec<u8>| (sequence.clone(), None, "outer".to_owned(), arrival, data);
        match put {
            Put::Plain(data) => {
                records.push(whole(data.clone()));
                found.broken += u64::from(data.starts_with(&MAGIC));
            }
            Put::NotBase64 => records.push(whole(if base64 { b"84maw~".to_vec() } else { put.payload() })),
            Put::Changed(..) => {
                records.push(whole(put.payload()));
                found.broken += 1;
            }
            Put::Packed(packed) => {
                let beyond = |(key, hash_key, _): &&(String, Option<u128>, Vec<u8>)| {
                    let hash_key = hash_key.unwrap_or_else(|| {
                        let digest: [u8; 16] = Md5::digest(key.as_bytes()).into();
                        digest.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
                    });
                    range.is_some_and(|range| hash_key < range.start || hash_key > range.end)
                };
                let count = packed.iter().filter(beyond).count() as u64;
                if count > 0 && outside == OutOfRange::KclExact {
                    found.dropped += 1;
                    continue;
                }
                found.unpacked += 1;
                found.records += packed.len() as u64;
                found.outside += count;
                let parts = packed.iter().enumerate().map(|(sub, (key, _, data))| {
                    (sequence.clone(), Some(sub as u64), key.clone(), arrival, data.clone())
                });
                records.extend(parts);
            }
        }
    }
    (records, found)
}

fn any_put() -> impl Strategy<Value = Put> {
    let data = || prop::collection::vec(any::<u8>(), 0..100);
    let magic = data().prop_map(|data| [&MAGIC[..], &data].concat());
    let record = ("[a-z]{0,3}|ü{1,9}", prop::option::of(any::<u128>()), data());
    prop_oneof![
        data().prop_map(Put::Plain),
        magic.prop_map(Put::Plain),
        prop::collection::vec(record, 1..9).prop_map(Put::Packed),
        (data(), any::<usize>()).prop_map(|(data, at)| Put::Changed(data, at)),
        Just(Put::NotBase64),
    ]
}

proptest! {
    #[test]
    fn a_page_has_what_was_put(
        puts in prop::collection::vec(any_put(), 0..9), base64: bool, range in prop_oneof![
            Just(None),
            Just(Some(HALF)),
            Just(Some(HashKeyRange { start: 0, end: u128::MAX })),
            (any::<u128>(), any::<u128>()).prop_map(|(a, b)| Some(HashKeyRange { start: a.min(b), end: a.max(b) })),
        ],
        exact: bool,
    ) {
        let outside = if exact { OutOfRange::KclExact } else { OutOfRange::Deliver };
        let packed = page(&puts, base64);
        let ends: Vec<Position> = packed.records().map(|record| end_of(&record)).collect();
        let (unpacked, found) = unpack(packed.clone(), range, outside);
        let (records, numbers) = expected(&puts, base64, range, outside);
        prop_assert_eq!(seen(&unpacked), records);
        prop_assert_eq!(found, numbers);
        prop_assert_eq!(unpacked.next_iterator.as_deref(), packed.next_iterator.as_deref());
        prop_assert_eq!((unpacked.millis_behind_latest, unpacked.served_us), (Some(7), Some(9)));
        // Where a stream record ends is where its last part lies.
        if !exact {
            let mut last = Vec::<Position>::new();
            for record in unpacked.records() {
                last.retain(|at| at.sequence != record.position().sequence);
                last.push(record.position());
            }
            prop_assert_eq!(last, ends);
        }
        // What is unpacked is not unpacked again, also where it packs others.
        prop_assert_eq!(seen(&unpack(unpacked.clone(), range, outside).0), seen(&unpacked));
    }
}

#[test]
fn a_page_without_aggregates_is_the_very_same() {
    let page = page(&[Put::Plain(b"{}".to_vec()), Put::Plain(Vec::new())], true);
    let before = page.bytes();
    assert!(!has_aggregates(&page));
    let (same, found) = unpack(page, Some(HALF), OutOfRange::Deliver);
    assert_eq!((same.bytes(), found), (before, Found::default()));
}

/// Nothing is copied: the body stays where it is, and its memory is all that there is besides the index.
#[test]
fn an_unpacked_page_is_the_body_of_the_page_before() {
    let record = ("key".to_owned(), None, vec![b'x'; 100]);
    let puts = vec![Put::Packed(vec![record; 100]); 50];
    let packed = page(&puts, true);
    let place = |page: &Page| page.records().next().unwrap().sequence_number.as_ptr();
    let (before, at) = (packed.bytes(), place(&packed));
    let (unpacked, found) = unpack(packed, None, OutOfRange::Deliver);
    assert_eq!((found.unpacked, found.records, place(&unpacked)), (50, 5000, at));
    let index = 5000 * (size_of::<Span>() + size_of::<Option<u32>>());
    assert!(unpacked.bytes() < before + index, "{} of {before}", unpacked.bytes());
}
