//! Record batches as they lie in the log (format 2): which records of them were committed, and where the next ones begin.
//! Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::codec::{CodecError, unpacked};

/// Before this a batch says only where it begins and how long it is.
const PREFIX: usize = 12;
/// A batch without records.
pub(super) const HEADER: usize = 61;
/// The format that all brokers have written since 2017.
pub(super) const MAGIC: i8 = 2;
/// Where in a batch the bytes begin that its checksum is of.
pub(super) const SUMMED_FROM: usize = 21;
/// A batch has no more bytes when it is unpacked.
const BATCH_BYTES_MAX: usize = 128 << 20;

/// Bits of the attributes of a batch.
const CODEC: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// Why a batch cannot be read. Nothing of it was given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch at offset {offset} cannot be read: {problem}")]
pub struct BatchError {
    offset: i64,
    problem: String,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its offset.
    pub offset: i64,
    /// Of the leader that wrote it.
    pub epoch: i32,
    /// Its time, ms since the epoch: the producer's, or the broker's where the topic is set so. −1: none.
    pub time_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none: a tombstone.
    pub value: Option<&'a [u8]>,
}

/// How far the reading of an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The offset to go on at.
    pub next: i64,
    /// The leader that wrote what lies before it, where anything was read.
    pub epoch: Option<i32>,
}

/// The batches of one answer.
pub struct Batches {
    bytes: Bytes,
    /// Transactions that were given up, by the offset that they begin at; those that have begun are taken out.
    aborted: Vec<(i64, i64)>,
    /// Producers whose transaction at this place was given up.
    open: BTreeSet<i64>,
}

/// The head of a batch.
struct Head {
    base: i64,
    last: i64,
    epoch: i32,
    attributes: i16,
    base_ms: i64,
    max_ms: i64,
    producer: i64,
    count: i32,
}

/// Reads numbers one behind the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    fn i16(&mut self) -> Option<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// Zigzag, seven bits a byte, the lowest first.
    fn varint(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        None
    }

    /// Bytes with their length before them; a negative one says that there are none.
    fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            length if length < 0 => Some(None),
            length => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }
}

impl Head {
    fn read(batch: &[u8]) -> Option<Self> {
        let mut from = Reader(batch);
        let base = from.i64()?;
        from.bytes(4)?;
        let epoch = from.i32()?;
        from.bytes(5)?;
        let attributes = from.i16()?;
        let last = base.checked_add(i64::from(from.i32()?))?;
        let (base_ms, max_ms, producer) = (from.i64()?, from.i64()?, from.i64()?);
        from.bytes(6)?;
        let count = from.i32()?;
        Some(Self { base, last, epoch, attributes, base_ms, max_ms, producer, count })
    }

    fn is(&self, bit: i16) -> bool {
        self.attributes & bit != 0
    }
}

impl Batches {
    /// Of an answer, with the transactions in it that were given up: producer, and the offset that they begin at.
    pub fn new(bytes: Bytes, mut aborted: Vec<(i64, i64)>) -> Self {
        aborted.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
        Self { bytes, aborted, open: BTreeSet::new() }
    }

    /// Gives each record from offset `from` on to `take`, in order, until that does not take one, or there are no more.
    /// Records of transactions that were given up are left out.
    ///
    /// # Errors
    /// When the first batch cannot be read. At a later one the reading ends before it.
    pub fn each(
        mut self,
        from: i64,
        mut take: impl FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<Taken, BatchError> {
        let mut taken = Taken { next: from, epoch: None };
        let bytes = self.bytes.clone();
        let mut rest: &[u8] = &bytes;
        while let Some(batch) = cut(&mut rest) {
            let before = taken;
            match self.batch(batch, &mut taken, &mut take) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(taken),
                Err(problem) if before.next == from && before.epoch.is_none() => {
                    let offset = batch.first_chunk().map_or(from, |offset| i64::from_be_bytes(*offset));
                    return Err(BatchError { offset, problem });
                }
                Err(_) => return Ok(before),
            }
        }
        if taken.next == from && !rest.is_empty() {
            let problem = "the broker sent only a part of it".to_owned();
            return Err(BatchError { offset: from, problem });
        }
        Ok(taken)
    }

    /// One batch. An error comes before any of its records.
    fn batch(
        &mut self,
        batch: &[u8],
        taken: &mut Taken,
        take: &mut impl FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, String> {
        let magic = batch.get(16).map(|magic| magic.cast_signed());
        if magic != Some(MAGIC) {
            return Err(format!("its format is {}, not {MAGIC}", magic.unwrap_or(-1)));
        }
        let head = Head::read(batch).ok_or("it is shorter than its head")?;
        let sum = u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]);
        if crc32c::crc32c(&batch[SUMMED_FROM..]) != sum {
            return Err("its checksum is wrong".to_owned());
        }
        // Compaction may leave batches before the place asked for.
        if head.last < taken.next {
            return Ok(ControlFlow::Continue(()));
        }
        let done = Taken { next: head.last.saturating_add(1), epoch: Some(head.epoch) };
        if self.is_left_out(&head, batch)? {
            *taken = done;
            return Ok(ControlFlow::Continue(()));
        }
        let records = match head.attributes & CODEC {
            0 => Cow::Borrowed(&batch[HEADER..]),
            codec => {
                let codec = u8::try_from(codec).unwrap_or(u8::MAX);
                let whole = unpacked(codec, &batch[HEADER..], BATCH_BYTES_MAX);
                Cow::Owned(whole.map_err(|error: CodecError| error.to_string())?)
            }
        };
        // Looked at before anything is given out.
        let looked = each_record(&head, &records, &mut |_| ControlFlow::Continue(()));
        if looked.is_none() {
            return Err("a record in it is malformed".to_owned());
        }
        let start = taken.next;
        let flow = each_record(&head, &records, &mut |entry| {
            if entry.offset < start {
                return ControlFlow::Continue(());
            }
            take(entry)?;
            *taken = Taken { next: entry.offset + 1, epoch: Some(head.epoch) };
            ControlFlow::Continue(())
        });
        match flow {
            Some(ControlFlow::Break(offset)) => {
                taken.next = offset;
                Ok(ControlFlow::Break(()))
            }
            _ => {
                *taken = done;
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// True for what is not to be read: the end of a transaction, and records of one that was given up.
    fn is_left_out(&mut self, head: &Head, batch: &[u8]) -> Result<bool, String> {
        if !head.is(TRANSACTIONAL) {
            return Ok(head.is(CONTROL));
        }
        while self.aborted.last().is_some_and(|(_, first)| *first <= head.last) {
            self.open.extend(self.aborted.pop().map(|(producer, _)| producer));
        }
        if !head.is(CONTROL) {
            return Ok(self.open.contains(&head.producer));
        }
        let mut given_up = None;
        let read = each_record(head, &batch[HEADER..], &mut |entry| {
            // Version and type of the end: 0 given up, 1 committed.
            given_up = entry.key.and_then(|key| Reader(key.get(2..)?).i16()).map(|kind| kind == 0);
            ControlFlow::Continue(())
        });
        match (read, given_up) {
            (Some(_), Some(true)) => drop(self.open.remove(&head.producer)),
            (Some(_), Some(false)) => {}
            _ => return Err("the end of a transaction in it is malformed".to_owned()),
        }
        Ok(true)
    }
}

/// The next whole batch; `rest` is what comes after it.
fn cut<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.get(8..PREFIX)?;
    let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    let length = PREFIX + usize::try_from(length).ok()?;
    let (batch, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(batch)
}

/// The records of an unpacked batch in order, until one is not taken, which answers its offset. `None` when they are malformed.
fn each_record(
    head: &Head,
    records: &[u8],
    take: &mut impl FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> Option<ControlFlow<i64>> {
    let mut from = Reader(records);
    let mut before = None;
    for _ in 0..head.count {
        let length = usize::try_from(from.varint()?).ok()?;
        let mut record = Reader(from.bytes(length)?);
        record.bytes(1)?;
        let time_ms = head.base_ms.checked_add(record.varint()?)?;
        let offset = head.base.checked_add(record.varint()?)?;
        if offset > head.last || before.is_some_and(|before| offset <= before) || offset < head.base {
            return None;
        }
        before = Some(offset);
        let time_ms = if head.is(APPEND_TIME) { head.max_ms } else { time_ms };
        let (epoch, key, value) = (head.epoch, record.optional()?, record.optional()?);
        let entry = Entry { offset, epoch, time_ms, key, value };
        if take(&entry).is_break() {
            return Some(ControlFlow::Break(offset));
        }
    }
    Some(ControlFlow::Continue(()))
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
