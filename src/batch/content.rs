//! What an object holds, whatever compressed it: how many rows, and a hash of their bytes.
//!
//! Taken of the rows before compression, so that another gzip level, encoder or release of it proves the same. The
//! hash is kept in lease rows: another one is another format of theirs.

/// The rows of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// How many; 0 for an empty seal.
    pub rows: u64,
    /// Hash of their bytes, line ends included.
    pub hash: u64,
}

/// Four words are mixed at a time, each into a lane of its own, so that their multiplications overlap.
const LANES: usize = 4;
const STEP_BYTES: usize = LANES * 8;

/// Odd, and without any pattern: digits of the golden ratio and of √2, √3 and √5.
const KEYS: [u64; LANES] =
    [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];

/// A hash of a sequence of bytes, however it is cut into pieces. Against chance, not against intent.
#[derive(Clone, Debug)]
pub(super) struct ContentHash {
    lanes: [u64; LANES],
    /// The bytes since the last whole step.
    rest: [u8; STEP_BYTES],
    bytes: u64,
}

impl ContentHash {
    pub(super) fn new() -> Self {
        Self { lanes: KEYS, rest: [0; STEP_BYTES], bytes: 0 }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let begun = self.begun();
        self.bytes += bytes.len() as u64;
        if begun > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(STEP_BYTES - begun));
            self.rest[begun..begun + now.len()].copy_from_slice(now);
            if begun + now.len() < STEP_BYTES {
                return;
            }
            bytes = later;
            let step = self.rest;
            mix(&mut self.lanes, &step);
        }
        let (steps, rest) = bytes.as_chunks();
        let mut lanes = self.lanes;
        for step in steps {
            mix(&mut lanes, step);
        }
        self.lanes = lanes;
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    pub(super) fn finish(mut self) -> u64 {
        let begun = self.begun();
        // The length tells zeros at the end from none.
        self.rest[begun..].fill(0);
        let step = self.rest;
        mix(&mut self.lanes, &step);
        let mixed =
            self.lanes.into_iter().zip(KEYS).fold(self.bytes, |all, (lane, key)| fold(all ^ lane, key));
        fold(mixed ^ KEYS[0], KEYS[1])
    }

    /// Bytes in `rest`.
    fn begun(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "less than a step")]
        let begun = (self.bytes % STEP_BYTES as u64) as usize;
        begun
    }
}

/// Read as two numbers: of four words the compiler makes vectors, and takes each out again for its multiplication, which
/// doubles what a step takes.
#[inline(always)]
fn mix(lanes: &mut [u64; LANES], step: &[u8; STEP_BYTES]) {
    let [first, second] = [step.first_chunk(), step.last_chunk()]
        .map(|half: Option<&[u8; STEP_BYTES / 2]>| u128::from_le_bytes(*half.expect("half of a step")));
    #[expect(clippy::cast_possible_truncation, reason = "the halves of each")]
    let words = [first as u64, (first >> 64) as u64, second as u64, (second >> 64) as u64];
    for ((lane, word), key) in lanes.iter_mut().zip(words).zip(KEYS) {
        // Added, so that a lane that has become 0 does not stay so.
        *lane = fold(*lane ^ word, key).wrapping_add(key);
    }
}

/// Both halves of the product, so that every bit counts.
#[inline]
fn fold(word: u64, key: u64) -> u64 {
    let product = u128::from(word) * u128::from(key);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let low = product as u64;
    low ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn hash(bytes: &[u8]) -> u64 {
        let mut hash = ContentHash::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Lease rows hold such hashes: with other ones no batch of another release could be finished as it is.
    #[test]
    fn the_hash_never_changes() {
        let text: Vec<u8> = (0..1000u32).flat_map(|n| format!("row {n}\n").into_bytes()).collect();
        let hashes = [hash(b""), hash(b"{\"a\":1}\n"), hash(&text[..32]), hash(&text)];
        assert_eq!(
            hashes.map(|hash| format!("{hash:016x}")),
            ["fb8213bfb1b15218", "1c859a482a13abc1", "be8e4f839445baa8", "a7a5aff80879d2a8"]
        );
    }

    #[test]
    fn whatever_differs_by_a_bit_a_byte_or_its_order_has_another_hash() {
        let text: Vec<u8> = (0..40u8).flat_map(|n| [n, 0, 255 - n, 0]).collect();
        let mut all = BTreeSet::from([hash(&text)]);
        for bit in 0..text.len() * 8 {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(all.insert(hash(&other)), "bit {bit}");
        }
        for cut in 0..text.len() {
            assert!(all.insert(hash(&text[..cut])), "{cut} bytes");
            assert!(
                cut % 4 != 0 || cut == 0 || all.insert(hash(&[&text[cut..], &text[..cut]].concat())),
                "turned at {cut}"
            );
        }
        let mut all = BTreeSet::from([hash(b"")]);
        for zeros in 1..100 {
            assert!(all.insert(hash(&vec![0; zeros])), "{zeros} zeros");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(0usize..80, 0..20)) {
            let (mut pieces, mut rest) = (ContentHash::new(), &bytes[..]);
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                pieces.update(now);
                rest = later;
            }
            pieces.update(rest);
            prop_assert_eq!(pieces.finish(), hash(&bytes));
        }
    }
}
