//! Records as a batch that a broker takes. Pure.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};

use super::records::{HEADER, MAGIC, SUMMED_FROM};

/// How a batch is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
}

/// One record to write: key, value (none: a tombstone) and time, ms since the epoch.
pub type Written<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, i64);

/// Who sent a batch, and which of its batches it is: one that comes again is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The id of who produces.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The number of the first record, counted over the partition.
    pub sequence: i32,
}

impl Stamp {
    /// Nobody's.
    pub const NONE: Self = Self { producer: -1, epoch: -1, sequence: -1 };
}

/// These records, at least one, as one batch.
pub fn batch_of(records: &[Written<'_>], compression: Compression) -> Bytes {
    stamped(records, compression, Stamp::NONE)
}

/// The same, with who sent it.
pub fn stamped(records: &[Written<'_>], compression: Compression, stamp: Stamp) -> Bytes {
    let base_ms = records.first().map_or(0, |(_, _, ms)| *ms);
    let max_ms = records.iter().map(|(_, _, ms)| *ms).max().unwrap_or(base_ms);
    let mut body = Vec::new();
    let mut record = Vec::new();
    for (index, (key, value, ms)) in records.iter().enumerate() {
        record.clear();
        record.push(0);
        varint(&mut record, ms.saturating_sub(base_ms));
        varint(&mut record, index as i64);
        optional(&mut record, *key);
        optional(&mut record, *value);
        varint(&mut record, 0);
        varint(&mut body, record.len() as i64);
        body.extend_from_slice(&record);
    }
    let (codec, body) = match compression {
        Compression::None => (0, body),
        Compression::Gzip => (1, gzip(&body)),
    };
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let mut batch = BytesMut::with_capacity(HEADER + body.len());
    batch.put_i64(0);
    batch.put_i32(i32::try_from(HEADER - 12 + body.len()).unwrap_or(i32::MAX));
    batch.put_i32(-1);
    batch.put_i8(MAGIC);
    batch.put_u32(0);
    batch.put_i16(codec);
    batch.put_i32(count - 1);
    batch.put_i64(base_ms);
    batch.put_i64(max_ms);
    batch.put_i64(stamp.producer);
    batch.put_i16(stamp.epoch);
    batch.put_i32(stamp.sequence);
    batch.put_i32(count);
    batch.extend_from_slice(&body);
    let sum = crc32c::crc32c(&batch[SUMMED_FROM..]);
    batch[SUMMED_FROM - 4..SUMMED_FROM].copy_from_slice(&sum.to_be_bytes());
    batch.freeze()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body).and_then(|()| gzip.finish()).expect("memory takes all bytes")
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

fn optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint(out, -1),
        Some(bytes) => {
            varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
