//! The encoder of one object. Its bytes depend on its rows alone.
//!
//! Levels 1 and 6 of zlib-rs give other bytes for other cuts of the same input. A replay sees other pages, so the
//! encoder gets blocks of one size, cut from the row stream without regard to row ends. The gzip header carries no
//! time. The compressor comes when the rows take as much memory as it does; until then they are kept as they are, so
//! that a batch can have an object for each of hundreds of hours. Another backend or another version of it may still write other bytes: a test watches that.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

const BLOCK_BYTES: usize = 64 << 10;

/// What the state of a level 1 encoder takes (measured for zlib-rs), bytes.
const STATE_BYTES: usize = 410 << 10;

/// Rows that are kept as they are, bytes: whole blocks, about as much as the compressor takes.
const PLAIN_BYTES: usize = STATE_BYTES / BLOCK_BYTES * BLOCK_BYTES;

/// More than what gzip puts around the bytes of less than two blocks.
const FRAME_BYTES: usize = 64;

const VEC_CANNOT_FAIL: &str = "writing to a vector cannot fail";

pub(super) struct Encoder {
    level: u32,
    /// Rows that are not compressed yet. Grows with them, so that small objects stay small; less than a block once there
    /// is a compressor.
    block: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    rows: u64,
}

impl Encoder {
    pub(super) fn new(level: u32) -> Self {
        Self { level, block: Vec::new(), gzip: None, rows: 0 }
    }

    /// Adds one row, its `\n` included. Asks for room for a compressor before it makes one. False when there was none:
    /// the row is kept as it is.
    pub(super) fn push(&mut self, row: &[u8], room: impl FnOnce(usize) -> bool) -> bool {
        self.rows += 1;
        if self.gzip.is_none() {
            let plain = self.block.len() + row.len() < PLAIN_BYTES;
            if plain || !room(STATE_BYTES) {
                // Above a block a vector would double what it holds.
                let short = self.block.capacity() - self.block.len() < row.len();
                if short && self.block.len() + row.len() > BLOCK_BYTES {
                    self.block.reserve_exact(row.len().max(BLOCK_BYTES));
                }
                self.block.extend_from_slice(row);
                return plain;
            }
        }
        let gzip = match &mut self.gzip {
            Some(gzip) => gzip,
            none => none.insert(compress(self.level, &mut self.block)),
        };
        let mut rest = row;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
                gzip.write_all(&self.block).expect(VEC_CANNOT_FAIL);
                self.block.clear();
            }
            rest = later;
        }
        true
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of rows that are still to be compressed.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.block.len()
    }

    /// Memory that it holds, or that its object will take if that is more, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.gzip {
            Some(gzip) => STATE_BYTES + gzip.get_ref().capacity() + self.block.capacity(),
            // gzip can make text longer: at level 1 by an eighth, and by header, blocks and trailer. That matters where there
            // are many small objects.
            None => {
                let longer = self.block.len().min(PLAIN_BYTES) / 8 + FRAME_BYTES;
                self.block.capacity().max(self.block.len() + longer)
            }
        }
    }

    pub(super) fn finish(mut self) -> Bytes {
        let mut gzip = match self.gzip {
            Some(gzip) => gzip,
            None => compress(self.level, &mut self.block),
        };
        gzip.write_all(&self.block).expect(VEC_CANNOT_FAIL);
        let mut object = gzip.finish().expect(VEC_CANNOT_FAIL);
        // What is counted from now on is its length.
        object.shrink_to_fit();
        object.into()
    }
}

/// A compressor that has taken the whole blocks of `rows`; the rest stays.
fn compress(level: u32, rows: &mut Vec<u8>) -> GzEncoder<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(level));
    let whole = rows.len() - rows.len() % BLOCK_BYTES;
    for block in rows[..whole].chunks(BLOCK_BYTES) {
        gzip.write_all(block).expect(VEC_CANNOT_FAIL);
    }
    rows.drain(..whole);
    rows.shrink_to(BLOCK_BYTES);
    gzip
}
