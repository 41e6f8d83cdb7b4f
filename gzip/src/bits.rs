//! Bits into bytes, the lowest first.

/// Writes into memory that was reserved for a whole block.
pub(crate) struct BitWriter {
    out: Vec<u8>,
    /// Whole bytes of `out` that are written; what follows is room.
    at: usize,
    held: u64,
    held_bits: u32,
}

impl BitWriter {
    /// Goes on behind `out`.
    pub(crate) fn behind(out: Vec<u8>) -> Self {
        Self { at: out.len(), out, held: 0, held_bits: 0 }
    }

    /// Makes room for so many bits more.
    pub(crate) fn reserve(&mut self, bits: usize) {
        // What is held, and the last whole word.
        let wanted = self.at + bits / 8 + 24;
        if wanted > self.out.len() {
            self.out.resize(wanted, 0);
        }
    }

    /// As [`Bits::add`].
    pub(crate) fn add(&mut self, value: u64, bits: u32) {
        self.locally(|local| local.add(value, bits));
    }

    /// As [`Bits::flush`].
    pub(crate) fn flush(&mut self) {
        self.locally(|local| local.flush());
    }

    /// Does `work` with a writer that the compiler can keep in registers.
    #[inline]
    pub(crate) fn locally(&mut self, work: impl FnOnce(&mut Bits<'_>)) {
        let mut bits = Bits { out: &mut self.out, at: self.at, held: self.held, held_bits: self.held_bits };
        work(&mut bits);
        (self.at, self.held, self.held_bits) = (bits.at, bits.held, bits.held_bits);
    }

    /// Whole bytes, beginning at the next one.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.held_bits = self.held_bits.next_multiple_of(8);
        self.flush();
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(crate) fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// All that was written; the last byte is filled up with zeros.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes(&[]);
        self.out.truncate(self.at);
        self.out
    }
}

/// A [`BitWriter`] at work.
pub(crate) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    held: u64,
    held_bits: u32,
}

impl Bits<'_> {
    /// Adds the lowest `bits` of `value`, which has no others. With what was added since the last [`Bits::flush`] at
    /// most 56.
    #[inline]
    pub(crate) fn add(&mut self, value: u64, bits: u32) {
        debug_assert!(bits <= 56 && value >> bits == 0 && self.held_bits + bits < 64);
        self.held |= value << self.held_bits;
        self.held_bits += bits;
    }

    /// Writes what is held, but for less than a byte.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.out[self.at..self.at + 8].copy_from_slice(&self.held.to_le_bytes());
        let bytes = self.held_bits / 8;
        self.at += bytes as usize;
        self.held >>= bytes * 8;
        self.held_bits %= 8;
    }
}
