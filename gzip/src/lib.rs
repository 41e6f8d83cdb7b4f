//! gzip for rows of JSON, one a line.
//!
//! Rows of one table have the same columns in the same order, and most of what a row says stood in the same column of the
//! row before. So an earlier occurrence is not searched for byte by byte: a row is cut into columns, and each is compared
//! with the same column of the row before, at the same alignment up to its end, and with the last column of any row that
//! began with the same value. Only where a column has no counterpart, or a long rest, begins a search as other fast
//! encoders do it. Any text will do: where it is not made of rows only its size suffers.
//!
//! The object is one gzip member. Its bytes depend on the text alone, not on how it was cut into pieces, nor on the
//! machine.

mod bits;
mod columns;
mod deflate;
mod huffman;
mod matches;

use deflate::Deflate;
use matches::Matches;

/// Compresses one object.
pub struct Encoder {
    matches: Matches,
    deflate: Deflate,
    crc: crc32fast::Hasher,
    /// Bytes of text as the trailer says them, modulo 2³².
    bytes: u32,
}

impl Encoder {
    /// The most that an encoder holds besides its output, bytes.
    pub const STATE_BYTES: usize = Matches::STATE_BYTES + Deflate::STATE_BYTES;

    /// An encoder that has taken nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Matches::new())
    }

    fn at(matches: Matches) -> Self {
        Self { matches, deflate: Deflate::new(), crc: crc32fast::Hasher::new(), bytes: 0 }
    }

    /// Adds text, however it is cut.
    pub fn push(&mut self, text: &[u8]) {
        self.crc.update(text);
        self.bytes = self.bytes.wrapping_add(text.len() as u32);
        let mut rest = text;
        while !rest.is_empty() {
            rest = self.matches.take(rest, &mut self.deflate);
        }
    }

    /// Text that was taken and is still to be compressed, bytes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.matches.waiting_bytes()
    }

    /// Memory of the output so far, bytes.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.deflate.output_bytes()
    }

    /// The object.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.matches.finish(&mut self.deflate);
        let mut object = self.deflate.finish();
        object.extend_from_slice(&self.crc.finalize().to_le_bytes());
        object.extend_from_slice(&self.bytes.to_le_bytes());
        object
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// After 4 GiB places begin anew. Objects are rarely that long, so the test begins near the end.
    #[test]
    fn places_may_wrap() {
        let row = |n: u64| {
            format!("{{\"id\":\"{:x}\",\"n\":{n},\"same\":\"text\"}}\n", n.wrapping_mul(0x9e37_79b9_7f4a))
        };
        let text: String = (0..10_000).map(row).collect();
        for before in [0, 1, 1000, 32 << 10, 100_000, 300_000] {
            let mut encoder = Encoder::at(Matches::from_place(0u32.wrapping_sub(before)));
            encoder.push(text.as_bytes());
            let (object, mut back) = (encoder.finish(), String::new());
            flate2::read::GzDecoder::new(&object[..]).read_to_string(&mut back).expect("gzip");
            assert!(back == text, "{before}");
        }
    }
}
