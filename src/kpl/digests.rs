//! MD5 of many messages at once. Pure.
//!
//! Each step of MD5 waits for the one before it, so that one message leaves most of a processor idle. Messages that have
//! nothing to do with each other go side by side, [`LANES`] of them, in vectors of the width that the processor has: five
//! times as many bytes a second, and more. One message alone is better left to `md5`.

use fearless_simd::{Level, Simd, SimdBase, dispatch, u32x8};
use md5::{Digest, Md5};

/// Lanes of a vector. Where the processor has shorter ones, it is two of them.
const VECTOR: usize = 8;
/// Two vectors in turns: while a step of one waits for the step before, the other has work.
const LANES: usize = 2 * VECTOR;
const BLOCK: usize = 64;
/// Bytes of a message that leave room for its end in one block: a byte that marks it, and eight that say how long it is.
const SHORT_MAX: usize = BLOCK - 1 - 8;

/// Bytes of messages that go side by side in a debug build, which takes longer so: what most tests have, and no load test.
const UNOPTIMISED_MAX: usize = 16 << 10;

type Block = [u8; BLOCK];
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
pub(super) fn digests<'a>(mut messages: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Vec<[u8; 16]> {
    if cfg!(debug_assertions) && messages.clone().map(<[u8]>::len).sum::<usize>() > UNOPTIMISED_MAX {
        return messages.map(one).collect();
    }
    // One more than the lanes have room for would have them wait for it alone.
    let together = messages.len() - usize::from(messages.len() % LANES == 1);
    let together = messages.by_ref().take(together);
    let mut digests = side_by_side(Level::new(), together);
    digests.extend(messages.map(one));
    digests
}

fn side_by_side<'a>(level: Level, messages: impl Iterator<Item = &'a [u8]>) -> Vec<[u8; 16]> {
    let mut messages = messages.enumerate();
    let mut digests = Vec::with_capacity(messages.size_hint().0);
    let mut lanes: [Option<Lane<'_>>; LANES] = [const { None }; LANES];
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
        let mut left = lanes.iter().flatten().map(Lane::left);
        let Some(first) = left.next() else { return digests };
        // As far as each of them goes on. What an idle lane does is lost.
        let blocks = left.map(<[_]>::len).fold(first.len(), usize::min);
        let now = lanes.each_ref().map(|lane| &lane.as_ref().map_or(first, Lane::left)[..blocks]);
        dispatch!(level, simd => add_blocks(simd, &mut state, now, blocks));
        for (at, lane) in lanes.iter_mut().enumerate() {
            lane.iter_mut().for_each(|lane| lane.done += blocks);
            if let Some(ended) = lane.take_if(|lane| lane.left().is_empty()) {
                digests[ended.index] = digest(&state, at);
            }
        }
    }
}

/// As [`digests`], of messages that are nearly always short: a block each, which is all that is done with it.
pub(super) fn digests_of_short<'a>(
    messages: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) -> Vec<[u8; 16]> {
    if messages.clone().any(|message| message.len() > SHORT_MAX) {
        return digests(messages);
    }
    short_side_by_side(Level::new(), messages)
}

fn short_side_by_side<'a>(level: Level, mut messages: impl Iterator<Item = &'a [u8]>) -> Vec<[u8; 16]> {
    let mut digests = Vec::with_capacity(messages.size_hint().0);
    let mut blocks = [[[0; BLOCK]]; LANES];
    loop {
        let mut filled = 0;
        for ([block], message) in blocks.iter_mut().zip(&mut messages) {
            *block = last_block(message, message.len());
            filled += 1;
        }
        if filled == 0 {
            return digests;
        }
        let mut state = START.map(|start| [start; LANES]);
        dispatch!(level, simd => add_blocks(simd, &mut state, blocks.each_ref().map(<[_; 1]>::as_slice), 1));
        digests.extend((0..filled).map(|at| digest(&state, at)));
    }
}

fn one(message: &[u8]) -> [u8; 16] {
    Md5::digest(message).into()
}

fn digest(state: &[Words; 4], lane: usize) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.as_chunks_mut().0.copy_from_slice(&state.map(|words| words[lane].to_le_bytes()));
    digest
}

/// The block with the end of a message of `length` bytes, and what of it is not in the blocks before.
fn last_block(rest: &[u8], length: usize) -> Block {
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block[rest.len()] = 0x80;
    block[BLOCK - 8..].copy_from_slice(&(length as u64).wrapping_mul(8).to_le_bytes());
    block
}

/// A message, and how far it is.
struct Lane<'a> {
    index: usize,
    whole: &'a [Block],
    /// What is behind the whole blocks, with the padding and the length.
    end: [Block; 2],
    ends: usize,
    done: usize,
}

impl<'a> Lane<'a> {
    fn new(index: usize, message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks();
        let mut end = [[0; BLOCK]; 2];
        let ends = if rest.len() <= SHORT_MAX { 1 } else { 2 };
        if ends == 1 {
            end[0] = last_block(rest, message.len());
        } else {
            end[0][..rest.len()].copy_from_slice(rest);
            end[0][rest.len()] = 0x80;
            end[1][BLOCK - 8..].copy_from_slice(&(message.len() as u64).wrapping_mul(8).to_le_bytes());
        }
        Self { index, whole, end, ends, done: 0 }
    }

    /// Those of the blocks that are left which lie side by side; none at the end.
    fn left(&self) -> &[Block] {
        match self.whole.get(self.done..) {
            Some(left @ [_, ..]) => left,
            _ => &self.end[self.done - self.whole.len()..self.ends],
        }
    }
}

/// RFC 1321, 3.4, of each lane, for so many blocks of each.
///
/// What it consists of is always inlined: only so it gets the instructions of the level that it was called for.
#[inline(always)]
fn add_blocks<S: Simd>(simd: S, state: &mut [Words; 4], lanes: [&[Block]; LANES], blocks: usize) {
    let [mut a, mut b, mut c, mut d] = half(simd, state, 0);
    let [mut e, mut f, mut g, mut h] = half(simd, state, VECTOR);
    for block in 0..blocks {
        let before = [a, b, c, d, e, f, g, h];
        let (one, two) = (words(simd, &lanes, block, 0), words(simd, &lanes, block, VECTOR));
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
                let word = const { $words[$at] };
                let sine = SINES[$sine + $at];
                $a = rotated($a + (one[word] + sine) + $mix($b, $c, $d), const { $turns[$at] }) + $b;
                $e = rotated($e + (two[word] + sine) + $mix($f, $g, $h), const { $turns[$at] }) + $f;
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
        [a, b, c, d] = [a + before[0], b + before[1], c + before[2], d + before[3]];
        [e, f, g, h] = [e + before[4], f + before[5], g + before[6], h + before[7]];
    }
    for (words, (one, two)) in state.iter_mut().zip([(a, e), (b, f), (c, g), (d, h)]) {
        one.store_slice(&mut words[..VECTOR]);
        two.store_slice(&mut words[VECTOR..]);
    }
}

/// What one vector of lanes has, from a lane on.
#[inline(always)]
fn half<S: Simd>(simd: S, state: &[Words; 4], lane: usize) -> [u32x8<S>; 4] {
    let [a, b, c, d] = state;
    [
        u32x8::from_slice(simd, &a[lane..lane + VECTOR]),
        u32x8::from_slice(simd, &b[lane..lane + VECTOR]),
        u32x8::from_slice(simd, &c[lane..lane + VECTOR]),
        u32x8::from_slice(simd, &d[lane..lane + VECTOR]),
    ]
}

/// The words of a block of eight lanes, from a lane on: of each word a vector.
#[inline(always)]
fn words<S: Simd>(simd: S, lanes: &[&[Block]; LANES], block: usize, lane: usize) -> [u32x8<S>; 16] {
    let [a, b, c, d, e, f, g, h] = eight_words(simd, lanes, block, lane, 0);
    let [i, j, k, l, m, n, o, p] = eight_words(simd, lanes, block, lane, 8);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[inline(always)]
fn eight_words<S: Simd>(
    simd: S,
    lanes: &[&[Block]; LANES],
    block: usize,
    lane: usize,
    word: usize,
) -> [u32x8<S>; VECTOR] {
    let rows = [
        row(simd, &lanes[lane][block], word),
        row(simd, &lanes[lane + 1][block], word),
        row(simd, &lanes[lane + 2][block], word),
        row(simd, &lanes[lane + 3][block], word),
        row(simd, &lanes[lane + 4][block], word),
        row(simd, &lanes[lane + 5][block], word),
        row(simd, &lanes[lane + 6][block], word),
        row(simd, &lanes[lane + 7][block], word),
    ];
    // Lines become columns as a deck of 64 cards does that is cut in two and riffled, three times.
    riffled(riffled(riffled(rows)))
}

/// Eight words of one lane.
#[inline(always)]
fn row<S: Simd>(simd: S, block: &Block, word: usize) -> u32x8<S> {
    let words = block.as_chunks().0;
    // The compiler makes one load of it.
    let words = [
        u32::from_le_bytes(words[word]),
        u32::from_le_bytes(words[word + 1]),
        u32::from_le_bytes(words[word + 2]),
        u32::from_le_bytes(words[word + 3]),
        u32::from_le_bytes(words[word + 4]),
        u32::from_le_bytes(words[word + 5]),
        u32::from_le_bytes(words[word + 6]),
        u32::from_le_bytes(words[word + 7]),
    ];
    u32x8::load_array(simd, words)
}

#[inline(always)]
fn riffled<S: Simd>([a, b, c, d, e, f, g, h]: [u32x8<S>; VECTOR]) -> [u32x8<S>; VECTOR] {
    let ((i, j), (k, l), (m, n), (o, p)) =
        (a.interleave(e), b.interleave(f), c.interleave(g), d.interleave(h));
    [i, j, k, l, m, n, o, p]
}

#[inline(always)]
fn rotated<S: Simd>(x: u32x8<S>, by: u32) -> u32x8<S> {
    (x << by) | (x >> (32 - by))
}

#[inline(always)]
fn choose_by_x<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    z ^ (x & (y ^ z))
}

#[inline(always)]
fn choose_by_z<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    y ^ (z & (x ^ y))
}

#[inline(always)]
fn parity<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
    x ^ y ^ z
}

#[inline(always)]
fn wedge<S: Simd>(x: u32x8<S>, y: u32x8<S>, z: u32x8<S>) -> u32x8<S> {
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
        let found =
            digests(messages.iter().map(|message| message.as_bytes())).into_iter().map(u128::from_be_bytes);
        let expected = [
            0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e,
            0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661,
            0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72,
            0xf96b_697d_7cb7_938d_525a_2f31_aaf1_61d0,
            0xc3fc_d3d7_6192_e400_7dfb_496c_ca67_e13b,
            0x57ed_f4a2_2be3_c955_ac49_da2e_2107_b67a,
        ];
        assert_eq!(found.collect::<Vec<u128>>(), expected);
        assert_eq!(digests([].into_iter()), Vec::<[u8; 16]>::new());
    }

    /// All that this processor has: the service takes the best one.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        #[cfg(target_arch = "x86_64")]
        {
            let narrower = [
                best.as_sse2().map(Simd::level),
                best.as_sse4_2().map(Simd::level),
                best.as_avx2().map(Simd::level),
            ];
            [best].into_iter().chain(narrower.into_iter().flatten()).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![best, Level::baseline()]
    }

    proptest! {
        #[test]
        fn many_messages_have_the_digests_that_each_has_alone(
            lengths in prop::collection::vec(prop_oneof![0..200usize, 0..3000usize], 0..40), by: u8,
        ) {
            let message = |length: usize| (0..=250).cycle().take(length).map(|at| at ^ by).collect::<Vec<u8>>();
            let messages: Vec<_> = lengths.into_iter().map(message).collect();
            let alone: Vec<[u8; 16]> = messages.iter().map(|message| Md5::digest(message).into()).collect();
            let messages = messages.iter().map(Vec::as_slice);
            for level in levels() {
                prop_assert_eq!(&side_by_side(level, messages.clone()), &alone, "{:?}", level);
            }
            prop_assert_eq!(&digests(messages.clone()), &alone);
            prop_assert_eq!(&digests_of_short(messages), &alone);
        }

        #[test]
        fn many_short_messages_have_the_digests_that_each_has_alone(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=SHORT_MAX), 0..40),
        ) {
            let alone: Vec<[u8; 16]> = messages.iter().map(|message| one(message)).collect();
            let messages = messages.iter().map(Vec::as_slice);
            for level in levels() {
                prop_assert_eq!(&short_side_by_side(level, messages.clone()), &alone, "{:?}", level);
            }
            prop_assert_eq!(&digests_of_short(messages), &alone);
        }
    }
}
