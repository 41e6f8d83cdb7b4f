//! MD5 of many messages at once. Pure.
//!
//! Each step of MD5 waits for the one before it, so that one message leaves most of a processor idle. Messages that have
//! nothing to do with each other go side by side, [`LANES`] of them, as plain arrays, of which the compiler makes vector
//! instructions: two and a half times as many bytes a second. One message alone, or two, are better left to `md5`.

use std::array::from_fn;

use md5::{Digest, Md5};

/// What one vector of the smallest x86-64 holds.
const VECTOR: usize = 4;
/// Two vectors in turns: while a step of one waits for the step before, the other has work.
const LANES: usize = 2 * VECTOR;
const BLOCK: usize = 64;

/// A word of each lane.
type Words = [u32; LANES];

/// RFC 1321, 3.3.
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// How far the steps of each round rotate.
const ROUNDS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// `floor(2^32 * abs(sin(step + 1)))`.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The digests of messages, in their order.
pub(super) fn digests<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<[u8; 16]> {
    let messages = messages.into_iter();
    if let (_, Some(..=2)) = messages.size_hint() {
        return messages.map(|message| Md5::digest(message).into()).collect();
    }
    let mut messages = messages.enumerate();
    let mut digests = Vec::with_capacity(messages.size_hint().0);
    let mut lanes: [Option<Lane<'_>>; LANES] = from_fn(|_| None);
    let mut state = [[0; LANES]; 4];
    loop {
        for (at, lane) in lanes.iter_mut().enumerate() {
            if lane.is_none()
                && let Some((index, message)) = messages.next()
            {
                *lane = Some(Lane::new(index, message));
                digests.push([0; 16]);
                state.iter_mut().zip(START).for_each(|(words, start)| words[at] = start);
            }
        }
        // Until the first message ends: what an idle lane does is lost.
        let Some(blocks) = lanes.iter().flatten().map(Lane::left).min() else { return digests };
        for block in 0..blocks {
            let now = from_fn(|at| lanes[at].as_ref().map_or(&[0; BLOCK], |lane| lane.block(block)));
            add_blocks(&mut state, now);
        }
        for (at, lane) in lanes.iter_mut().enumerate() {
            lane.iter_mut().for_each(|lane| lane.done += blocks);
            if let Some(ended) = lane.take_if(|lane| lane.left() == 0) {
                let words = state.map(|words| words[at].to_le_bytes());
                digests[ended.index].as_chunks_mut().0.copy_from_slice(&words);
            }
        }
    }
}

/// A message, and how far it is.
struct Lane<'a> {
    index: usize,
    whole: &'a [[u8; BLOCK]],
    /// What is behind the whole blocks, with the padding and the length.
    end: [[u8; BLOCK]; 2],
    ends: usize,
    done: usize,
}

impl<'a> Lane<'a> {
    fn new(index: usize, message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks();
        let mut end = [[0; BLOCK]; 2];
        let ends = if rest.len() + 1 + 8 <= BLOCK { 1 } else { 2 };
        end[0][..rest.len()].copy_from_slice(rest);
        end[0][rest.len()] = 0x80;
        let bits = (message.len() as u64).wrapping_mul(8);
        end[ends - 1][BLOCK - 8..].copy_from_slice(&bits.to_le_bytes());
        Self { index, whole, end, ends, done: 0 }
    }

    fn left(&self) -> usize {
        self.whole.len() + self.ends - self.done
    }

    /// One of those that are left.
    fn block(&self, at: usize) -> &[u8; BLOCK] {
        let at = self.done + at;
        self.whole.get(at).unwrap_or_else(|| &self.end[at - self.whole.len()])
    }
}

/// RFC 1321, 3.4, of each lane.
fn add_blocks(state: &mut [Words; 4], blocks: [&[u8; BLOCK]; LANES]) {
    let words: [Words; 16] =
        from_fn(|word| from_fn(|lane| u32::from_le_bytes(blocks[lane].as_chunks().0[word])));
    let [a_of, b_of, c_of, d_of] = state;
    // The compiler makes vectors of a loop that does one thing for each lane, if nothing in it is a loop or an array.
    for lane in 0..VECTOR {
        let other = lane + VECTOR;
        let (mut a, mut b, mut c, mut d) = (a_of[lane], b_of[lane], c_of[lane], d_of[lane]);
        let (mut e, mut f, mut g, mut h) = (a_of[other], b_of[other], c_of[other], d_of[other]);
        // Four steps: the sine of the first, the words, the rotations.
        macro_rules! steps {
            ($mix:ident, $sine:literal, $words:expr, $turns:expr) => {
                steps!(@ $mix, $sine, $words, $turns, 0, a b c d, e f g h);
                steps!(@ $mix, $sine, $words, $turns, 1, d a b c, h e f g);
                steps!(@ $mix, $sine, $words, $turns, 2, c d a b, g h e f);
                steps!(@ $mix, $sine, $words, $turns, 3, b c d a, f g h e);
            };
            (@ $mix:ident, $sine:literal, $words:expr, $turns:expr, $at:literal,
                $a:ident $b:ident $c:ident $d:ident, $e:ident $f:ident $g:ident $h:ident) => {
                let word = &words[const { $words[$at] }];
                let sine = SINES[$sine + $at];
                let one = $a.wrapping_add(word[lane]).wrapping_add(sine).wrapping_add($mix($b, $c, $d));
                let two = $e.wrapping_add(word[other]).wrapping_add(sine).wrapping_add($mix($f, $g, $h));
                $a = one.rotate_left(const { $turns[$at] }).wrapping_add($b);
                $e = two.rotate_left(const { $turns[$at] }).wrapping_add($f);
            };
        }
        steps!(choose_by_x, 0, [0, 1, 2, 3], ROUNDS[0]);
        steps!(choose_by_x, 4, [4, 5, 6, 7], ROUNDS[0]);
        steps!(choose_by_x, 8, [8, 9, 10, 11], ROUNDS[0]);
        steps!(choose_by_x, 12, [12, 13, 14, 15], ROUNDS[0]);
        steps!(choose_by_z, 16, [1, 6, 11, 0], ROUNDS[1]);
        steps!(choose_by_z, 20, [5, 10, 15, 4], ROUNDS[1]);
        steps!(choose_by_z, 24, [9, 14, 3, 8], ROUNDS[1]);
        steps!(choose_by_z, 28, [13, 2, 7, 12], ROUNDS[1]);
        steps!(parity, 32, [5, 8, 11, 14], ROUNDS[2]);
        steps!(parity, 36, [1, 4, 7, 10], ROUNDS[2]);
        steps!(parity, 40, [13, 0, 3, 6], ROUNDS[2]);
        steps!(parity, 44, [9, 12, 15, 2], ROUNDS[2]);
        steps!(wedge, 48, [0, 7, 14, 5], ROUNDS[3]);
        steps!(wedge, 52, [12, 3, 10, 1], ROUNDS[3]);
        steps!(wedge, 56, [8, 15, 6, 13], ROUNDS[3]);
        steps!(wedge, 60, [4, 11, 2, 9], ROUNDS[3]);
        for (kept, one, two) in
            [(&mut *a_of, a, e), (&mut *b_of, b, f), (&mut *c_of, c, g), (&mut *d_of, d, h)]
        {
            kept[lane] = kept[lane].wrapping_add(one);
            kept[other] = kept[other].wrapping_add(two);
        }
    }
}

fn choose_by_x(x: u32, y: u32, z: u32) -> u32 {
    z ^ (x & (y ^ z))
}

fn choose_by_z(x: u32, y: u32, z: u32) -> u32 {
    y ^ (z & (x ^ y))
}

fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

fn wedge(x: u32, y: u32, z: u32) -> u32 {
    y ^ (x | !z)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1321, A.5.
    #[test]
    fn digests_are_those_of_the_rfc() {
        let digits = "1234567890".repeat(8);
        let messages = ["", "a", "abc", "message digest", "abcdefghijklmnopqrstuvwxyz", &digits];
        let found = digests(messages.map(str::as_bytes)).into_iter().map(u128::from_be_bytes);
        let expected = [
            0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e,
            0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661,
            0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72,
            0xf96b_697d_7cb7_938d_525a_2f31_aaf1_61d0,
            0xc3fc_d3d7_6192_e400_7dfb_496c_ca67_e13b,
            0x57ed_f4a2_2be3_c955_ac49_da2e_2107_b67a,
        ];
        assert_eq!(found.collect::<Vec<u128>>(), expected);
        assert_eq!(digests([]), Vec::<[u8; 16]>::new());
    }

    proptest! {
        #[test]
        fn many_messages_have_the_digests_that_each_has_alone(
            lengths in prop::collection::vec(prop_oneof![0..200usize, 0..3000usize], 0..40), by: u8,
        ) {
            let message = |length: usize| (0..=250).cycle().take(length).map(|at| at ^ by).collect::<Vec<u8>>();
            let messages: Vec<_> = lengths.into_iter().map(message).collect();
            let alone: Vec<[u8; 16]> = messages.iter().map(|message| Md5::digest(message).into()).collect();
            prop_assert_eq!(digests(messages.iter().map(Vec::as_slice)), alone);
        }
    }
}
