//! The encoder of one object. Its bytes depend on its rows alone.
//!
//! Levels 1 and 6 of zlib-rs give other bytes for other cuts of the same input. A replay sees other pages, so the
//! encoder gets blocks of one size, cut from the row stream without regard to row ends. The gzip header carries no
//! time. Another backend or another version of it may still write other bytes: a test watches that.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

const BLOCK_BYTES: usize = 64 << 10;

/// What the state of a level 1 encoder takes (measured for zlib-rs), bytes.
const STATE_BYTES: usize = 410 << 10;

const VEC_CANNOT_FAIL: &str = "writing to a vector cannot fail";

pub(super) struct Encoder {
    /// Grows with its rows, so that small objects stay small.
    block: Vec<u8>,
    gzip: GzEncoder<Vec<u8>>,
    rows: u64,
}

impl Encoder {
    pub(super) fn new(level: u32) -> Self {
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(level));
        Self { block: Vec::new(), gzip, rows: 0 }
    }

    /// Adds one row, its `\n` included.
    pub(super) fn push(&mut self, row: &[u8]) {
        self.rows += 1;
        let mut rest = row;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
                self.gzip.write_all(&self.block).expect(VEC_CANNOT_FAIL);
                self.block.clear();
            }
            rest = later;
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Memory that it holds, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        STATE_BYTES + self.block.capacity() + self.gzip.get_ref().capacity()
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.gzip.write_all(&self.block).expect(VEC_CANNOT_FAIL);
        let mut object = self.gzip.finish().expect(VEC_CANNOT_FAIL);
        // What is counted from now on is its length.
        object.shrink_to_fit();
        object.into()
    }
}
