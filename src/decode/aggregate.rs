//! Records that the Kinesis Producer Library has packed into one: how many there are in it.
//!
//! Format: four magic bytes, a protobuf message, its MD5. Field 3 of the message is a record.

const MAGIC: &[u8] = &[0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;
const RECORD: u64 = 3;

/// The number of records that a payload packs; `None` when it is no such payload, and then a record of its own.
pub fn packed_records(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(MAGIC)?;
    let mut message = rest.get(..rest.len().checked_sub(MD5_BYTES)?)?;
    let mut records = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let length = match tag & 7 {
            0 => varint(&mut message).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        records += u64::from(tag >> 3 == RECORD);
        message = message.get(length..)?;
    }
    Some(records)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An aggregate of records of these sizes, with a table of one key.
    fn aggregate(sizes: &[usize]) -> Vec<u8> {
        let length = |n: usize| match n {
            0..128 => vec![u8::try_from(n).unwrap()],
            _ => vec![u8::try_from(n % 128).unwrap() | 0x80, u8::try_from(n / 128).unwrap()],
        };
        let mut bytes = [MAGIC, &[0x0a, 1, b'a']].concat();
        for size in sizes {
            let record = [&[0x08, 0, 0x1a][..], &length(*size), &vec![b'x'; *size]].concat();
            bytes.extend([&[0x1a][..], &length(record.len()), &record].concat());
        }
        bytes.extend([0; MD5_BYTES]);
        bytes
    }

    proptest! {
        #[test]
        fn records_are_counted(sizes in prop::collection::vec(0usize..300, 0..9)) {
            prop_assert_eq!(packed_records(&aggregate(&sizes)), Some(sizes.len() as u64));
        }

        #[test]
        fn other_bytes_are_no_aggregate_or_counted_without_a_panic(bytes: Vec<u8>, cut: prop::sample::Index) {
            packed_records(&bytes);
            packed_records(&[MAGIC, &bytes].concat());
            let whole = aggregate(&[3, 200]);
            packed_records(&whole[..cut.index(whole.len())]);
        }
    }

    #[test]
    fn json_is_no_aggregate() {
        assert_eq!(packed_records(b"{}"), None);
        assert_eq!(packed_records(MAGIC), None);
    }
}
