//! Rows → records of a delivery stream: many lines in one record, in the order of the shard. The records depend on the
//! rows alone.
//!
//! Firehose bills each record as if it were a multiple of 5 KB and files it by the time of its arrival. So a record
//! takes as many rows as it can, whatever their hours are.

use bytes::Bytes;

use super::encode::{Encoder, Gzip};

/// What Firehose takes in one record, before base64: 1,000 KiB.
const RECORD_BYTES_MAX: usize = 1000 << 10;

/// Rows in a record that is compressed. gzip can also make text longer: at level 1, where every byte may take nine bits,
/// by an eighth, and by some bytes for header, blocks and trailer. Even then the record is not too long.
const GZIP_ROWS_BYTES_MAX: usize = 888 << 10;

/// The first memory of an open record, bytes.
const OPEN_BYTES: usize = 16 << 10;

/// How rows become records of a delivery stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Lines as they are: the delivery stream compresses its objects, or does not.
    Lines,
    /// Each record is a whole gzip member: the delivery stream writes them one behind the other, which is gzip again.
    GzipMembers,
}

impl Packing {
    /// The most bytes of rows in one record.
    pub(super) fn rows_bytes_max(self) -> usize {
        match self {
            Self::Lines => RECORD_BYTES_MAX,
            Self::GzipMembers => GZIP_ROWS_BYTES_MAX,
        }
    }

    /// Name and version. Part of what a batch was built with: which rows fit into a record depends on it.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Lines => "firehose-lines/1",
            Self::GzipMembers => "firehose-gzip/1",
        }
    }
}

/// Packs the rows of one batch.
pub(super) struct Packer {
    packing: Packing,
    gzip: Gzip,
    open: Option<Open>,
    /// Bytes of rows in the open record.
    open_bytes: usize,
    done: Vec<Bytes>,
    rows: u64,
}

enum Open {
    Lines(Vec<u8>),
    GzipMember(Box<Encoder>),
}

impl Packer {
    pub(super) fn new(packing: Packing, gzip: Gzip) -> Self {
        Self { packing, gzip, open: None, open_bytes: 0, done: Vec::new(), rows: 0 }
    }

    /// Adds the rows of one record, each with its `\n`, all of them no longer than [`Packing::rows_bytes_max`]: they stay
    /// together. As [`Encoder::push`] with `room` and the answer.
    pub(super) fn push(&mut self, text: &[u8], rows: u64, room: impl FnOnce(usize) -> bool) -> bool {
        let most = self.packing.rows_bytes_max();
        if self.open_bytes + text.len() > most {
            self.end_record();
        }
        self.rows += rows;
        self.open_bytes += text.len();
        let open = self.open.get_or_insert_with(|| match self.packing {
            Packing::Lines => Open::Lines(Vec::new()),
            Packing::GzipMembers => Open::GzipMember(Box::new(Encoder::new(self.gzip))),
        });
        match open {
            Open::Lines(lines) => {
                if self.open_bytes > lines.capacity() {
                    // Doubled, as a vector would by itself, but not beyond what a record can hold.
                    let room = (lines.capacity() * 2).clamp(OPEN_BYTES, most).max(self.open_bytes);
                    lines.reserve_exact(room - lines.len());
                }
                lines.extend_from_slice(text);
                true
            }
            Open::GzipMember(encoder) => encoder.push(text, rows, room),
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of rows that are still to be compressed.
    pub(super) fn waiting_bytes(&self) -> usize {
        match &self.open {
            Some(Open::GzipMember(encoder)) => encoder.waiting_bytes(),
            Some(Open::Lines(_)) | None => 0,
        }
    }

    /// Memory that it holds, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| match open {
            Open::Lines(lines) => lines.capacity(),
            Open::GzipMember(encoder) => encoder.held_bytes(),
        });
        open + self.done.iter().map(Bytes::len).sum::<usize>()
    }

    /// The records, in the order of their rows. None of them is empty.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.end_record();
        self.done
    }

    fn end_record(&mut self) {
        self.open_bytes = 0;
        self.done.extend(self.open.take().map(|open| match open {
            Open::Lines(mut lines) => {
                lines.shrink_to_fit();
                lines.into()
            }
            Open::GzipMember(encoder) => encoder.finish(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::{GzDecoder, MultiGzDecoder};
    use proptest::prelude::*;
    use rand::{RngCore, SeedableRng};

    use super::*;

    const BOTH: [Packing; 2] = [Packing::Lines, Packing::GzipMembers];

    fn pack(packing: Packing, level: u32, rows: &[Vec<u8>]) -> Vec<Bytes> {
        let mut packer = Packer::new(packing, Gzip::level(level));
        rows.iter().for_each(|row| assert!(packer.push(row, 1, |_| true)));
        assert_eq!(packer.rows(), rows.len() as u64);
        let held = packer.held_bytes();
        let records = packer.finish();
        let kept: usize = records.iter().map(Bytes::len).sum();
        assert!(held >= kept, "{held} bytes counted, {kept} there");
        records
    }

    /// The rows of one record alone, as a reader of the delivery stream's object sees them.
    fn plain(packing: Packing, record: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        match packing {
            Packing::Lines => text.extend_from_slice(record),
            Packing::GzipMembers => {
                GzDecoder::new(record).read_to_end(&mut text).unwrap();
            }
        }
        text
    }

    /// A row of `bytes` bytes in which nothing repeats.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut row = vec![0; bytes];
        rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut row);
        row[bytes - 1] = b'\n';
        row
    }

    #[test]
    fn a_record_never_grows_over_the_limit_whatever_is_in_it() {
        let any_byte = noise(1, GZIP_ROWS_BYTES_MAX);
        // Bytes from 0x90 take nine bits in the fixed code of level 1.
        let long_codes: Vec<u8> = any_byte.iter().map(|byte| byte | 0x90).collect();
        let rows = [any_byte, long_codes];
        for level in 1..=9 {
            let records = pack(Packing::GzipMembers, level, &rows);
            assert_eq!(records.len(), 2);
            let longest = records.iter().map(Bytes::len).max().unwrap();
            assert!(longest <= RECORD_BYTES_MAX, "level {level}: {longest}");
            assert!(plain(Packing::GzipMembers, &records[1]) == rows[1]);
        }
    }

    #[test]
    fn records_are_as_full_as_they_can_be() {
        for packing in BOTH {
            let most = packing.rows_bytes_max();
            let (first, last) = (noise(1, most - 1000), noise(2, 1000));
            assert_eq!(pack(packing, 1, &[first.clone(), last.clone()]).len(), 1, "to the last byte");
            let records = pack(packing, 1, &[first.clone(), noise(3, 1001), last.clone()]);
            assert_eq!(plain(packing, &records[0]), first);
            assert_eq!(plain(packing, &records[1]), [noise(3, 1001), last].concat());
            assert_eq!(pack(packing, 1, &[]), Vec::<Bytes>::new());
        }
    }

    #[test]
    fn an_open_record_has_little_more_memory_than_rows() {
        let mut packer = Packer::new(Packing::Lines, Gzip::level(1));
        for index in 1..=3000 {
            packer.push(&noise(1, 700), 1, |_| true);
            let rows = index * 700;
            assert!((rows..=(rows * 2).max(OPEN_BYTES)).contains(&packer.held_bytes()), "{index}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        #[test]
        fn all_rows_are_there_in_their_order_and_whole(
            seed: u64, sizes in prop::collection::vec(prop_oneof![1usize..4000, 50_000usize..909_000], 1..12), level in prop::sample::select(vec![1, 6]),
        ) {
            let rows: Vec<_> = sizes.iter().zip(seed..).map(|(&bytes, seed)| noise(seed, bytes)).collect();
            for packing in BOTH {
                let records = pack(packing, level, &rows);
                prop_assert_eq!(&records, &pack(packing, level, &rows), "the same rows give the same records");
                let mut lines = Vec::new();
                for record in &records {
                    prop_assert!((1..=RECORD_BYTES_MAX).contains(&record.len()));
                    let text = plain(packing, record);
                    prop_assert!(text.ends_with(b"\n") && text.len() <= packing.rows_bytes_max());
                    lines.extend(text);
                }
                prop_assert!(lines == rows.concat());
                // Firehose writes them one behind the other.
                let mut object = Vec::new();
                match packing {
                    Packing::Lines => object = records.concat(),
                    Packing::GzipMembers => {
                        MultiGzDecoder::new(&records.concat()[..]).read_to_end(&mut object).unwrap();
                    }
                }
                prop_assert!(object == rows.concat());
            }
        }
    }
}
