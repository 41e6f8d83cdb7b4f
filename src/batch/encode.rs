//! The encoder of one object. Its bytes depend on its rows alone.
//!
//! Level 1 is the package `kinetide-gzip`, which knows rows of JSON ([ADR 36](../../docs/adr/0036-row-aware-gzip.md)). The other levels
//! are those of zlib-rs, and level 1 too where the settings say so. Its levels 1 and 6 give other bytes for other cuts of
//! the same input. A replay sees other pages, so it gets blocks of one size, cut from the row stream without regard to row
//! ends; another backend or another version of it may still write other bytes: a test watches that.
//!
//! The gzip header carries no time. The compressor comes when the rows take as much memory as it does; until then they
//! are kept as they are, so that a batch can have an object for each of hundreds of hours.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use row_gzip::Encoder as RowEncoder;

use super::content::{Content, ContentHash};

const BLOCK_BYTES: usize = 64 << 10;

/// What the state of a level 1 encoder takes (measured for zlib-rs), bytes.
const ZLIB_BYTES: usize = 410 << 10;

/// More than what gzip puts around the bytes of less than two blocks.
const FRAME_BYTES: usize = 64;

const VEC_CANNOT_FAIL: &str = "writing to a vector cannot fail";

/// How objects are compressed. Workers with different settings finish each other's batches all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gzip {
    /// 1 (fast) to 9 (small).
    pub level: u32,
    /// What compresses at level 1.
    pub encoder: GzipEncoder,
}

/// What compresses at level 1. At the others it is zlib.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GzipEncoder {
    /// What knows rows of JSON: the smaller objects, in less time.
    Rows,
    /// zlib, as in earlier releases.
    Zlib,
}

impl Gzip {
    /// A level, by what compresses best at it.
    pub const fn level(level: u32) -> Self {
        Self { level, encoder: GzipEncoder::Rows }
    }

    fn knows_rows(self) -> bool {
        self.level == 1 && self.encoder == GzipEncoder::Rows
    }

    /// What a compressor takes besides its output, bytes.
    fn state_bytes(self) -> usize {
        if self.knows_rows() { RowEncoder::STATE_BYTES } else { ZLIB_BYTES }
    }

    /// Rows that are kept as they are, bytes: whole blocks, about as much as the compressor takes.
    fn plain_bytes(self) -> usize {
        self.state_bytes() / BLOCK_BYTES * BLOCK_BYTES
    }
}

pub(super) struct Encoder {
    gzip: Gzip,
    /// Rows that are not compressed yet. Grows with them, so that small objects stay small; less than a block once there
    /// is a compressor, and nothing where that has a buffer of its own.
    block: Vec<u8>,
    compressor: Option<Compressor>,
    rows: u64,
    /// Of all rows: each is hashed while it is in the nearest cache.
    hash: ContentHash,
}

impl Encoder {
    pub(super) fn new(gzip: Gzip) -> Self {
        Self { gzip, block: Vec::new(), compressor: None, rows: 0, hash: ContentHash::new() }
    }

    /// Adds so many rows, each with its `\n`. Asks for room for a compressor before it makes one. False when there was none:
    /// they are kept as they are.
    pub(super) fn push(&mut self, text: &[u8], rows: u64, room: impl FnOnce(usize) -> bool) -> bool {
        self.rows += rows;
        self.hash.update(text);
        if self.compressor.is_none() {
            let plain = self.block.len() + text.len() < self.gzip.plain_bytes();
            if plain || !room(self.gzip.state_bytes()) {
                // Above a block a vector would double what it holds.
                let short = self.block.capacity() - self.block.len() < text.len();
                if short && self.block.len() + text.len() > BLOCK_BYTES {
                    self.block.reserve_exact(text.len().max(BLOCK_BYTES));
                }
                self.block.extend_from_slice(text);
                return plain;
            }
        }
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::taking(self.gzip, &mut self.block)),
        };
        compressor.push(text, &mut self.block);
        true
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of rows that are still to be compressed.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.block.len() + self.compressor.as_ref().map_or(0, Compressor::waiting_bytes)
    }

    /// Memory that it holds, or that its object will take if that is more, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.compressor {
            Some(compressor) => self.gzip.state_bytes() + compressor.output_bytes() + self.block.capacity(),
            // gzip can make text longer: at level 1 by an eighth, and by header, blocks and trailer. That matters where there
            // are many small objects.
            None => {
                let longer = self.block.len().min(self.gzip.plain_bytes()) / 8 + FRAME_BYTES;
                self.block.capacity().max(self.block.len() + longer)
            }
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.finish_object().0
    }

    /// The object, and what it holds.
    pub(super) fn finish_object(mut self) -> (Bytes, Content) {
        let compressor = match self.compressor {
            Some(compressor) => compressor,
            None => Compressor::taking(self.gzip, &mut self.block),
        };
        let mut object = compressor.finish(&self.block);
        // What is counted from now on is its length.
        object.shrink_to_fit();
        (object.into(), Content { rows: self.rows, hash: self.hash.finish() })
    }
}

/// The compressor of one object.
enum Compressor {
    Rows(Box<RowEncoder>),
    Zlib(Box<GzEncoder<Vec<u8>>>),
}

impl Compressor {
    /// One that has taken `rows`, or the whole blocks of them: the rest stays.
    fn taking(gzip: Gzip, rows: &mut Vec<u8>) -> Self {
        if gzip.knows_rows() {
            let mut encoder = Box::new(RowEncoder::new());
            encoder.push(&std::mem::take(rows));
            return Self::Rows(encoder);
        }
        let mut zlib = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(gzip.level));
        let whole = rows.len() - rows.len() % BLOCK_BYTES;
        rows[..whole].chunks(BLOCK_BYTES).for_each(|block| zlib.write_all(block).expect(VEC_CANNOT_FAIL));
        rows.drain(..whole);
        rows.shrink_to(BLOCK_BYTES);
        Self::Zlib(Box::new(zlib))
    }

    /// `block` holds what is less than a block.
    fn push(&mut self, text: &[u8], block: &mut Vec<u8>) {
        let zlib = match self {
            Self::Rows(encoder) => return encoder.push(text),
            Self::Zlib(zlib) => zlib,
        };
        let mut rest = text;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - block.len()));
            block.extend_from_slice(now);
            if block.len() == BLOCK_BYTES {
                zlib.write_all(block).expect(VEC_CANNOT_FAIL);
                block.clear();
            }
            rest = later;
        }
    }

    fn waiting_bytes(&self) -> usize {
        match self {
            Self::Rows(encoder) => encoder.waiting_bytes(),
            Self::Zlib(_) => 0,
        }
    }

    fn output_bytes(&self) -> usize {
        match self {
            Self::Rows(encoder) => encoder.output_bytes(),
            Self::Zlib(zlib) => zlib.get_ref().capacity(),
        }
    }

    fn finish(self, rest: &[u8]) -> Vec<u8> {
        match self {
            Self::Rows(mut encoder) => {
                encoder.push(rest);
                encoder.finish()
            }
            Self::Zlib(mut zlib) => {
                zlib.write_all(rest).expect(VEC_CANNOT_FAIL);
                zlib.finish().expect(VEC_CANNOT_FAIL)
            }
        }
    }
}
