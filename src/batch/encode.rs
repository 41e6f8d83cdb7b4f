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

use super::content::{Content, ContentHash};

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
    gzip: Option<Compressor>,
    rows: u64,
    /// Of all rows: each is hashed while it is in the nearest cache.
    hash: ContentHash,
}

impl Encoder {
    pub(super) fn new(level: u32) -> Self {
        Self { level, block: Vec::new(), gzip: None, rows: 0, hash: ContentHash::new() }
    }

    /// Adds so many rows, each with its `\n`. Asks for room for a compressor before it makes one. False when there was none:
    /// they are kept as they are.
    pub(super) fn push(&mut self, text: &[u8], rows: u64, room: impl FnOnce(usize) -> bool) -> bool {
        self.rows += rows;
        self.hash.update(text);
        if self.gzip.is_none() {
            let plain = self.block.len() + text.len() < PLAIN_BYTES;
            if plain || !room(STATE_BYTES) {
                // Above a block a vector would double what it holds.
                let short = self.block.capacity() - self.block.len() < text.len();
                if short && self.block.len() + text.len() > BLOCK_BYTES {
                    self.block.reserve_exact(text.len().max(BLOCK_BYTES));
                }
                self.block.extend_from_slice(text);
                return plain;
            }
        }
        let gzip = match &mut self.gzip {
            Some(gzip) => gzip,
            none => none.insert(Compressor::taking(self.level, &mut self.block)),
        };
        let mut rest = text;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
                gzip.write(&self.block);
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
            Some(gzip) => STATE_BYTES + gzip.held_bytes() + self.block.capacity(),
            // gzip can make text longer: at level 1 by an eighth, and by header, blocks and trailer. That matters where there
            // are many small objects.
            None => {
                let longer = self.block.len().min(PLAIN_BYTES) / 8 + FRAME_BYTES;
                self.block.capacity().max(self.block.len() + longer)
            }
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.finish_object().0
    }

    /// The object, and what it holds.
    pub(super) fn finish_object(mut self) -> (Bytes, Content) {
        let mut gzip = match self.gzip {
            Some(gzip) => gzip,
            None => Compressor::taking(self.level, &mut self.block),
        };
        gzip.write(&self.block);
        (gzip.finish(), Content { rows: self.rows, hash: self.hash.finish() })
    }
}

/// The compressor of one object.
struct Compressor(GzEncoder<Vec<u8>>);

impl Compressor {
    /// One that has taken the whole blocks of `rows`; the rest stays.
    fn taking(level: u32, rows: &mut Vec<u8>) -> Self {
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(level));
        let mut compressor = Self(gzip);
        let whole = rows.len() - rows.len() % BLOCK_BYTES;
        rows[..whole].chunks(BLOCK_BYTES).for_each(|block| compressor.write(block));
        rows.drain(..whole);
        rows.shrink_to(BLOCK_BYTES);
        compressor
    }

    fn write(&mut self, rows: &[u8]) {
        self.0.write_all(rows).expect(VEC_CANNOT_FAIL);
    }

    fn held_bytes(&self) -> usize {
        self.0.get_ref().capacity()
    }

    fn finish(self) -> Bytes {
        let mut object = self.0.finish().expect(VEC_CANNOT_FAIL);
        // What is counted from now on is its length.
        object.shrink_to_fit();
        object.into()
    }
}
