//! A writer that knows nothing of the reader, and the reader against it.

use proptest::prelude::*;

use super::*;

/// A record as a test writes it: index of its key, of its hash key, payload.
type Packed = (u64, Option<u64>, Vec<u8>);

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag][..], &varint(bytes.len() as u64), bytes].concat()
}

fn message(keys: &[&str], hash_keys: &[&str], records: &[Packed]) -> Vec<u8> {
    let mut message = Vec::new();
    keys.iter().for_each(|key| message.extend(field(0x0a, key.as_bytes())));
    hash_keys.iter().for_each(|key| message.extend(field(0x12, key.as_bytes())));
    for (key, hash_key, data) in records {
        let mut record = [&[0x08][..], &varint(*key)].concat();
        hash_key.iter().for_each(|index| record.extend([&[0x10][..], &varint(*index)].concat()));
        record.extend(field(0x1a, data));
        message.extend(field(0x1a, &record));
    }
    message
}

fn sealed(message: &[u8]) -> Vec<u8> {
    [&MAGIC[..], message, Md5::digest(message).as_slice()].concat()
}

/// Key, hash key and payload of each record.
type Unpacked = Vec<(Vec<u8>, Option<u128>, Vec<u8>)>;

fn read(payload: &[u8]) -> Option<Result<Unpacked, Broken>> {
    let mut reader = Reader::default();
    let read = reader.read(payload)?;
    let bytes = |range: Range<usize>| payload[range].to_vec();
    Some(read.map(|()| {
        let parts = reader.parts().iter();
        parts.map(|part| (bytes(reader.key(part)), reader.hash_key(part), bytes(part.data()))).collect()
    }))
}

#[test]
fn what_cannot_be_unpacked_says_why() {
    let good = message(&["a", "b"], &["340282366920938463463374607431768211455"], &[(0, None, b"x".into())]);
    assert_eq!(read(&sealed(&good)).unwrap().unwrap().len(), 1);
    assert_eq!(read(b"{}"), None);
    assert_eq!(read(&MAGIC[..3]), None);
    let mut changed = sealed(&good);
    changed[9] ^= 1;
    let key_gone = message(&["a"], &[], &[(0, None, b"x".into()), (1, None, b"y".into())]);
    let hash_key_gone = message(&["a"], &["1"], &[(0, Some(1), b"x".into())]);
    let huge = message(&["a"], &[], &[(u64::MAX, None, b"x".into())]);
    let no_data = [message(&["a"], &[], &[]), field(0x1a, &[0x08, 0])].concat();
    let no_key = [message(&["a"], &[], &[]), field(0x1a, &field(0x1a, b"x"))].concat();
    let group = [good.clone(), vec![0x23, 0x24]].concat();
    let field_0 = [good.clone(), vec![0x00, 0x01]].concat();
    let long_varint = [good.clone(), vec![0x28], vec![0xff; 10], vec![1]].concat();
    // It says that it has more bytes than there are: nothing is reserved for them.
    let liar = [good.clone(), vec![0x1a], varint(u64::MAX / 2)].concat();
    for (payload, expected) in [
        (MAGIC.to_vec(), Broken::Short),
        (sealed(b""), Broken::Short),
        ([&MAGIC[..], &[0; 16]].concat(), Broken::Short),
        (changed, Broken::Checksum),
        ([&MAGIC[..], &[0; 17]].concat(), Broken::Checksum),
        (sealed(&good[..good.len() - 1]), Broken::Message),
        (sealed(&no_data), Broken::Message),
        (sealed(&no_key), Broken::Message),
        (sealed(&group), Broken::Message),
        (sealed(&field_0), Broken::Message),
        (sealed(&long_varint), Broken::Message),
        (sealed(&liar), Broken::Message),
        (sealed(&key_gone), Broken::Index),
        (sealed(&hash_key_gone), Broken::Index),
        (sealed(&huge), Broken::Index),
        (sealed(&[field(0x0a, b"\xff"), message(&[], &[], &[(0, None, b"x".into())])].concat()), Broken::Key),
        (sealed(&message(&["a"], &["-1"], &[(0, None, b"x".into())])), Broken::Key),
        (sealed(&message(&["a"], &[""], &[(0, None, b"x".into())])), Broken::Key),
        (sealed(&message(&["a"], &["340282366920938463463374607431768211456"], &[])), Broken::Key),
        (sealed(&message(&["a"], &[], &[])), Broken::Empty),
    ] {
        assert_eq!(read(&payload), Some(Err(expected)), "{payload:x?}");
    }
}

#[test]
fn what_protobuf_allows_is_read() {
    let record = |data: &[u8]| field(0x1a, &[&[0x08, 0][..], &field(0x1a, data)].concat());
    // Tables behind the records, a field that nobody knows, one twice, tags, and fields of other kinds.
    let tags = field(0x22, &[field(0x0a, b"k"), field(0x12, b"v")].concat());
    let twice =
        field(0x1a, &[&[0x08, 7, 0x08, 0][..], &field(0x1a, b"no"), &field(0x1a, b"yes"), &tags].concat());
    let unknown = [&[0x29][..], &[1; 8], &[0x35], &[1; 4], &[0x38, 0xff, 0x01]].concat();
    let payload =
        sealed(&[record(b"one"), unknown, twice, record(b""), field(0x0a, "ключ".as_bytes())].concat());
    let parts = read(&payload).unwrap().unwrap();
    let part = |data: &[u8]| ("ключ".as_bytes().to_vec(), None, data.to_vec());
    assert_eq!(parts, [part(b"one"), part(b"yes"), part(b"")]);
}

/// From the description of PutRecord: MD5 of the key as a number of 128 bits.
#[test]
fn hash_keys_are_those_of_kinesis() {
    let expected = [0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661, 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e];
    assert!(hashes_of_keys([&b"a"[..], b""].into_iter()).eq(expected));
}

proptest! {
    #[test]
    fn what_was_packed_is_what_is_unpacked(
        keys in prop::collection::vec(".{0,9}", 1..5),
        hash_keys in prop::collection::vec(any::<u128>(), 1..4),
        records in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::option::of(any::<prop::sample::Index>()), prop::collection::vec(any::<u8>(), 0..300)),
            1..20,
        ),
    ) {
        let texts: Vec<&str> = keys.iter().map(String::as_str).collect();
        let digits: Vec<String> = hash_keys.iter().map(u128::to_string).collect();
        let digits: Vec<&str> = digits.iter().map(String::as_str).collect();
        let packed: Vec<Packed> = records.iter().map(|(key, hash_key, data)| {
            let hash_key = hash_key.map(|index| index.index(hash_keys.len()) as u64);
            (key.index(keys.len()) as u64, hash_key, data.clone())
        }).collect();
        let payload = sealed(&message(&texts, &digits, &packed));
        let expected: Unpacked = packed.iter().map(|(key, hash_key, data)| {
            let at = |index: &u64| usize::try_from(*index).unwrap();
            let hash_key = hash_key.as_ref().map(|index| hash_keys[at(index)]);
            (keys[at(key)].as_bytes().to_vec(), hash_key, data.clone())
        }).collect();
        prop_assert_eq!(read(&payload), Some(Ok(expected)));
    }

    /// Any bytes under a right checksum: an answer, and ranges that lie inside.
    #[test]
    fn any_message_is_an_answer(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80), cut: prop::sample::Index, at: prop::sample::Index, by: u8, whole: bool,
    ) {
        if !whole {
            bytes = message(&["a", "b"], &["7"], &[(0, None, bytes.clone()), (1, Some(0), bytes)]);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
        let payload = sealed(&bytes);
        if let Some(Ok(parts)) = read(&payload) {
            prop_assert!(!parts.is_empty());
            prop_assert!(parts.iter().all(|(key, ..)| std::str::from_utf8(key).is_ok()));
        }
    }
}
