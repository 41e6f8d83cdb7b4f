use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::kafka::write::{Compression, Written, batch_of};

/// A batch at an offset, written by a leader of this epoch, with these attributes and this producer.
fn placed(batch: &Bytes, base: i64, epoch: i32, attributes: i16, producer: i64) -> Bytes {
    let mut batch = BytesMut::from(&batch[..]);
    batch[..8].copy_from_slice(&base.to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.to_be_bytes());
    let codec = i16::from_be_bytes([batch[21], batch[22]]);
    batch[21..23].copy_from_slice(&(attributes | codec).to_be_bytes());
    batch[43..51].copy_from_slice(&producer.to_be_bytes());
    let sum = crc32c::crc32c(&batch[SUMMED_FROM..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    batch.freeze()
}

fn values(count: usize, start: usize) -> Bytes {
    let texts: Vec<String> = (start..start + count).map(|number| number.to_string()).collect();
    let records: Vec<Written<'_>> =
        texts.iter().map(|text| (Some(&b"k"[..]), Some(text.as_bytes()), 1_768_469_400_000)).collect();
    batch_of(&records, Compression::None)
}

/// The end of a transaction: given up, or committed.
fn end_of(base: i64, producer: i64, committed: bool) -> Bytes {
    let key = [0, 0, 0, u8::from(committed)];
    let end = batch_of(&[(Some(&key), Some(&[0; 6]), 5)], Compression::None);
    placed(&end, base, 1, TRANSACTIONAL | CONTROL, producer)
}

fn read(
    bytes: Bytes,
    aborted: Vec<(i64, i64)>,
    from: i64,
    most: usize,
) -> Result<(Vec<i64>, Taken), BatchError> {
    let mut offsets = Vec::new();
    let taken = Batches::new(bytes, aborted).each(from, |entry| {
        if offsets.len() == most {
            return ControlFlow::Break(());
        }
        offsets.push(entry.offset);
        ControlFlow::Continue(())
    })?;
    Ok((offsets, taken))
}

fn joined(batches: &[Bytes]) -> Bytes {
    batches.concat().into()
}

#[test]
fn a_batch_is_read_as_it_was_written() {
    let records: [Written<'_>; 3] =
        [(None, Some(b"value"), 1000), (Some(b"key"), None, 999), (Some(b""), Some(b""), 1001)];
    for compression in [Compression::None, Compression::Gzip] {
        let batch = placed(&batch_of(&records, compression), 40, 7, 0, -1);
        let mut read = Vec::new();
        let taken = Batches::new(batch, Vec::new()).each(0, |entry| {
            read.push((
                entry.offset,
                entry.time_ms,
                entry.key.map(<[u8]>::to_vec),
                entry.value.map(<[u8]>::to_vec),
            ));
            ControlFlow::Continue(())
        });
        assert_eq!(taken, Ok(Taken { next: 43, epoch: Some(7) }));
        let expected = records.iter().zip(40..).map(|((key, value, ms), offset)| {
            (offset, *ms, key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec))
        });
        assert_eq!(read, expected.collect::<Vec<_>>());
    }
}

#[test]
fn reading_begins_and_ends_inside_a_batch() {
    let log = joined(&[placed(&values(5, 0), 10, 1, 0, -1), placed(&values(5, 5), 20, 2, 0, -1)]);
    for (from, most, offsets, next, epoch) in [
        (10, 99, (10..15).chain(20..25).collect::<Vec<_>>(), 25, Some(2)),
        (13, 3, vec![13, 14, 20], 21, Some(2)),
        (13, 2, vec![13, 14], 20, Some(1)),
        // Offsets between the two were compacted away.
        (17, 1, vec![20], 21, Some(2)),
        (10, 0, vec![], 10, None),
        (25, 9, vec![], 25, None),
    ] {
        assert_eq!(
            read(log.clone(), Vec::new(), from, most),
            Ok((offsets, Taken { next, epoch })),
            "{from} {most}"
        );
    }
}

#[test]
fn transactions_that_were_given_up_are_left_out() {
    let of = |base, producer| placed(&values(2, 0), base, 1, TRANSACTIONAL, producer);
    let log = joined(&[
        of(0, 1),
        of(2, 2),
        placed(&values(1, 0), 4, 1, 0, -1),
        end_of(5, 1, false),
        of(6, 1),
        end_of(8, 2, true),
        end_of(9, 1, true),
        of(10, 2),
        end_of(12, 2, false),
    ]);
    let (offsets, taken) = read(log.clone(), vec![(1, 0), (2, 10)], 0, 99).unwrap();
    assert_eq!((offsets, taken.next), (vec![2, 3, 4, 6, 7], 13));
    // From the middle of one, as after a restart.
    let (offsets, _) = read(log.clone(), vec![(2, 10), (1, 0)], 1, 99).unwrap();
    assert_eq!(offsets, [2, 3, 4, 6, 7]);
    // Who reads all is told of none.
    assert_eq!(read(log, Vec::new(), 0, 99).unwrap().0, [0, 1, 2, 3, 4, 6, 7, 10, 11]);
}

#[test]
fn what_is_broken_is_an_error_and_its_neighbours_are_read() {
    let good = placed(&values(2, 0), 0, 1, 0, -1);
    let mut broken = BytesMut::from(&placed(&values(2, 2), 2, 1, 0, -1)[..]);
    *broken.last_mut().unwrap() ^= 1;
    let broken = broken.freeze();
    let (offsets, taken) = read(joined(&[good.clone(), broken.clone()]), Vec::new(), 0, 99).unwrap();
    assert_eq!((offsets, taken.next), (vec![0, 1], 2));
    let error = read(joined(&[broken, good.clone()]), Vec::new(), 2, 99).unwrap_err().to_string();
    assert!(error.contains("offset 2") && error.contains("checksum"), "{error}");
    // Part of a batch, as at the end of an answer.
    assert_eq!(read(joined(&[good.clone(), good.slice(..30)]), Vec::new(), 0, 99).unwrap().1.next, 2);
    assert!(read(good.slice(..40), Vec::new(), 0, 99).unwrap_err().to_string().contains("only a part"));
    let mut old = BytesMut::from(&good[..]);
    old[16] = 1;
    assert!(read(old.freeze(), Vec::new(), 0, 99).unwrap_err().to_string().contains("its format is 1"));
}

proptest! {
    /// Whatever a broker sends, nothing panics, and the place to go on never goes back.
    #[test]
    fn any_bytes_are_read_or_refused(
        count in 1usize..6, at: prop::sample::Index, byte: u8, cut: prop::sample::Index, from in 0i64..10, repair: bool,
    ) {
        let mut bytes = BytesMut::from(&joined(&[placed(&values(count, 0), 0, 1, 0, -1), placed(&values(2, 0), 7, 1, 0, -1)])[..]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let first = HEADER.min(bytes.len());
        if repair && at >= SUMMED_FROM {
            // The checksum of the first batch fits, so that what is behind it is looked at.
            let length = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            let end = usize::try_from(length).map_or(first, |length| 12 + length).min(bytes.len());
            let sum = crc32c::crc32c(&bytes[SUMMED_FROM..end.max(SUMMED_FROM)]);
            bytes[17..21].copy_from_slice(&sum.to_be_bytes());
        }
        let cut = cut.index(bytes.len() + 1);
        bytes.truncate(cut);
        if let Ok((offsets, taken)) = read(bytes.freeze(), Vec::new(), from, 99) {
            prop_assert!(taken.next >= from && offsets.is_sorted_by(|a, b| a < b));
            prop_assert!(offsets.iter().all(|offset| (from..taken.next).contains(offset)));
        }
    }
}
