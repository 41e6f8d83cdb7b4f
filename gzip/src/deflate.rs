//! Literals and matches → blocks of DEFLATE.

use crate::bits::{BitWriter, Bits};
use crate::huffman;
use crate::matches::Text;

/// Matches in a block.
const MATCHES_MAX: usize = 8 << 10;
/// Literals in a block: fewer than a stored block can have.
const LITERALS_MAX: usize = 32 << 10;

/// Literals are copied so many at a time.
const COPY_STEP: usize = 32;

const MATCH_MIN: usize = 3;
const MATCH_MAX: usize = 258;
const END: usize = 256;
const SYMBOLS: usize = 286;
const DISTANCES: usize = 30;
/// A power of two, so that no symbol is out of bounds.
const DISTANCE_CODES: usize = 32;
/// So many literals, and what is left of a byte before, fit into a word.
const GROUP: usize = 4;
const LITERAL_BITS_MAX: u32 = 14;
const DISTANCE_BITS_MAX: u32 = 15;

/// What a length is written as: its symbol, the bits behind it and how many they are.
const LENGTHS: [(u16, u8, u8); 256] = {
    let mut table = [(0, 0, 0); 256];
    let mut n = 0;
    while n < 256 {
        table[n] = if n == 255 {
            (285, 0, 0)
        } else if n < 8 {
            (257 + n as u16, 0, 0)
        } else {
            let bits = n.ilog2() - 2;
            (257 + (bits * 4 + (n as u32 >> bits)) as u16, (n & ((1 << bits) - 1)) as u8, bits as u8)
        };
        n += 1;
    }
    table
};

/// The symbol of a distance; its bits are those of `distance - 1` below the first two.
#[inline]
fn distance_symbol(distance: usize) -> u8 {
    let n = distance as u32 - 1;
    if n < 4 {
        return n as u8;
    }
    let bits = n.ilog2() - 1;
    (bits * 2 + (n >> bits)) as u8
}

type Literals = [u8; LITERALS_MAX + COPY_STEP];

#[derive(Clone, Copy)]
struct Match {
    /// Literals before it.
    literals: u16,
    /// One less than the distance.
    distance: u16,
    /// Less the shortest.
    length: u8,
    /// The symbol of the distance.
    symbol: u8,
}

/// One stream of blocks, behind a gzip header.
pub(crate) struct Deflate {
    out: BitWriter,
    literals: Box<Literals>,
    literals_len: usize,
    /// Those behind the last match.
    pending: usize,
    matches: Vec<Match>,
}

impl Deflate {
    pub(crate) const STATE_BYTES: usize = MATCHES_MAX * size_of::<Match>() + LITERALS_MAX + COPY_STEP;

    pub(crate) fn new() -> Self {
        // No name, no time, no system.
        let header = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
        Self {
            out: BitWriter::behind(header),
            literals: vec![0; LITERALS_MAX + COPY_STEP].try_into().expect("so many bytes"),
            literals_len: 0,
            pending: 0,
            matches: Vec::with_capacity(MATCHES_MAX),
        }
    }

    pub(crate) fn output_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Adds `text[from..to]` as literals. `text` reaches a step behind it.
    #[inline]
    pub(crate) fn literals(&mut self, text: &Text, mut from: usize, to: usize) {
        while to - from > LITERALS_MAX - self.literals_len {
            let now = from + LITERALS_MAX - self.literals_len;
            self.copy(text, from, now);
            self.end_block(false);
            from = now;
        }
        self.copy(text, from, to);
    }

    /// Most are few: whole steps are copied, what is too much is overwritten by the next.
    #[inline]
    fn copy(&mut self, text: &Text, from: usize, to: usize) {
        let (mut at, mut from) = (self.literals_len, from);
        self.literals_len += to - from;
        self.pending += to - from;
        loop {
            self.literals[at..at + COPY_STEP].copy_from_slice(&text[from..from + COPY_STEP]);
            at += COPY_STEP;
            from += COPY_STEP;
            if from >= to {
                break;
            }
        }
    }

    /// Adds what stands `distance` before, `length` bytes of it.
    #[inline]
    pub(crate) fn repeat(&mut self, mut length: usize, distance: usize) {
        while length > MATCH_MAX {
            // No rest is too short.
            let now = if length < MATCH_MAX + MATCH_MIN { MATCH_MAX - MATCH_MIN } else { MATCH_MAX };
            self.repeat_once(now, distance);
            length -= now;
        }
        self.repeat_once(length, distance);
    }

    #[inline]
    fn repeat_once(&mut self, length: usize, distance: usize) {
        debug_assert!((MATCH_MIN..=MATCH_MAX).contains(&length) && (1..=32 << 10).contains(&distance));
        let one = Match {
            literals: self.pending as u16,
            distance: (distance - 1) as u16,
            length: (length - MATCH_MIN) as u8,
            symbol: distance_symbol(distance),
        };
        self.pending = 0;
        self.matches.push(one);
        if self.matches.len() == MATCHES_MAX {
            self.end_block(false);
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end_block(true);
        self.out.finish()
    }

    #[cold]
    fn end_block(&mut self, last: bool) {
        let literals = &self.literals[..self.literals_len];
        let (symbols, distances) = count(literals, &self.matches);
        let trees = Trees::of(&symbols, &distances);
        let fixed = fixed_bits(&symbols, &distances);
        let stored = self.stored_bits();
        let best = trees.bits.min(fixed).min(stored);
        self.out.reserve(best);
        self.out.add(last.into(), 1);
        if best == stored {
            self.out.add(0, 2);
            self.out.flush();
            let length = self.literals_len as u16;
            self.out.bytes(&[length.to_le_bytes(), (!length).to_le_bytes()].concat());
            self.out.bytes(literals);
        } else if best == fixed {
            self.out.add(1, 2);
            self.out.flush();
            self.write(&Trees::fixed());
        } else {
            self.out.add(2, 2);
            self.out.flush();
            trees.write_header(&mut self.out);
            self.write(&trees);
        }
        self.literals_len = 0;
        self.matches.clear();
        self.pending = 0;
    }

    /// More than anything else where it is not possible.
    fn stored_bits(&self) -> usize {
        if self.matches.is_empty() { 3 + 7 + 32 + self.literals_len * 8 } else { usize::MAX }
    }

    fn write(&mut self, trees: &Trees) {
        let tables = trees.tables();
        let Self { out, literals, literals_len, matches, .. } = self;
        out.locally(|out| {
            let mut from = 0;
            for one in &*matches {
                let to = from + usize::from(one.literals);
                write_literals(out, literals, from, to, &tables.literals);
                from = to;
                let (code, bits) = tables.lengths[usize::from(one.length)];
                out.add(code.into(), bits.into());
                let (code, bits, more) = tables.distances[usize::from(one.symbol) % DISTANCE_CODES];
                out.add(code.into(), bits.into());
                out.add(u64::from(one.distance) & ((1 << more) - 1), more.into());
                out.flush();
            }
            write_literals(out, literals, from, *literals_len, &tables.literals);
            let (code, bits) = tables.end;
            out.add(code.into(), bits.into());
            out.flush();
        });
    }
}

/// How often each symbol occurs.
fn count(literals: &[u8], matches: &[Match]) -> ([u32; SYMBOLS], [u32; DISTANCES]) {
    // In turns, so that equal neighbours do not wait for each other.
    let mut turns = [[0u32; 256]; 4];
    let (fours, rest) = literals.as_chunks::<4>();
    for four in fours {
        for (counts, &literal) in turns.iter_mut().zip(four) {
            counts[usize::from(literal)] += 1;
        }
    }
    for &literal in rest {
        turns[0][usize::from(literal)] += 1;
    }
    let mut symbols = [0; SYMBOLS];
    let (mut lengths, mut distances) = ([0u32; 256], [0; DISTANCE_CODES]);
    for (n, symbol) in symbols[..256].iter_mut().enumerate() {
        *symbol = turns.iter().map(|counts| counts[n]).sum();
    }
    symbols[END] = 1;
    for one in matches {
        lengths[usize::from(one.length)] += 1;
        distances[usize::from(one.symbol) % DISTANCE_CODES] += 1;
    }
    for ((symbol, ..), count) in LENGTHS.iter().zip(lengths) {
        symbols[usize::from(*symbol)] += count;
    }
    (symbols, *distances.first_chunk().expect("there are fewer symbols"))
}

fn fixed_bits(symbols: &[u32; SYMBOLS], distances: &[u32; DISTANCES]) -> usize {
    3 + bits_of(symbols, &FIXED_SYMBOLS, 257, |n| u32::from(LENGTH_BITS[n]))
        + bits_of(distances, &[5; DISTANCES], 0, distance_bits)
}

/// Writes `from..to` of the literals. The last group is whole too, so that no branch depends on how many there are: what is
/// behind the last literal adds nothing.
#[inline(always)]
fn write_literals(
    out: &mut Bits<'_>,
    literals: &Literals,
    mut from: usize,
    to: usize,
    codes: &[LiteralCode; 256],
) {
    while from + GROUP <= to {
        write_group(out, literals, from, |n| codes[usize::from(n)], &[LiteralCode::MAX; GROUP]);
        from += GROUP;
    }
    if from < to {
        write_group(out, literals, from, |n| codes[usize::from(n)], &KEPT[(to - from) % GROUP]);
    }
}

#[inline(always)]
fn write_group(
    out: &mut Bits<'_>,
    literals: &Literals,
    from: usize,
    code: impl Fn(u8) -> LiteralCode,
    kept: &[LiteralCode; GROUP],
) {
    let group: &[u8; GROUP] = literals[from..from + GROUP].try_into().expect("so many bytes");
    let pair = |n: usize| {
        let (first, second) = (code(group[n]) & kept[n], code(group[n + 1]) & kept[n + 1]);
        let bits = first >> CODE_BITS;
        (u64::from(first & CODE) | u64::from(second & CODE) << bits, bits + (second >> CODE_BITS))
    };
    let ((low, low_bits), (high, high_bits)) = (pair(0), pair(2));
    out.add(low | high << low_bits, low_bits + high_bits);
    out.flush();
}

/// The code of a literal, and above it how many bits it has: zero as a whole adds nothing.
type LiteralCode = u32;
const CODE_BITS: u32 = 16;
const CODE: u32 = (1 << CODE_BITS) - 1;

/// What is kept of the codes of a group when it has so many literals.
const KEPT: [[LiteralCode; GROUP]; GROUP] = {
    let mut kept = [[0; GROUP]; GROUP];
    let mut count = 1;
    while count < GROUP {
        kept[count] = kept[count - 1];
        kept[count][count - 1] = LiteralCode::MAX;
        count += 1;
    }
    kept
};

/// Bits behind the symbols of lengths.
const LENGTH_BITS: [u8; 29] = {
    let mut bits = [0; 29];
    let mut n = 8;
    while n < 28 {
        bits[n] = (n / 4 - 1) as u8;
        n += 1;
    }
    bits
};

fn distance_bits(symbol: usize) -> u32 {
    (symbol as u32 / 2).saturating_sub(1)
}

const FIXED_SYMBOLS: [u8; SYMBOLS] = {
    let mut lengths = [8; SYMBOLS];
    let mut n = 144;
    while n < 280 {
        lengths[n] = if n < 256 { 9 } else { 7 };
        n += 1;
    }
    lengths
};

/// Of so many symbols; those from `first` have more bits behind them.
fn bits_of(counts: &[u32], lengths: &[u8], first: usize, more: impl Fn(usize) -> u32) -> usize {
    let bits = |(n, (&count, &length)): (usize, (&u32, &u8))| {
        let more = n.checked_sub(first).map_or(0, &more);
        count as usize * (usize::from(length) + more as usize)
    };
    counts.iter().zip(lengths).enumerate().map(bits).sum()
}

/// The codes of one block, as the lengths of them.
struct Trees {
    symbols: [u8; SYMBOLS],
    distances: [u8; DISTANCES],
    header: Header,
    /// Of the whole block.
    bits: usize,
}

/// How the lengths are written.
struct Header {
    /// Symbol, and what stands behind it with its bits.
    runs: [(u8, u8, u8); SYMBOLS + DISTANCES],
    runs_len: usize,
    lengths: [u8; 19],
    symbols: usize,
    distances: usize,
}

/// In which order the lengths of the lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

struct Tables {
    literals: [LiteralCode; 256],
    /// With the bits behind them.
    lengths: [(u32, u8); 256],
    /// With how many bits follow.
    distances: [(u16, u8, u8); DISTANCE_CODES],
    end: (u16, u8),
}

impl Trees {
    fn of(symbols: &[u32; SYMBOLS], distances: &[u32; DISTANCES]) -> Self {
        let mut trees =
            Self { symbols: [0; SYMBOLS], distances: [0; DISTANCES], header: Header::EMPTY, bits: 0 };
        huffman::lengths(symbols, LITERAL_BITS_MAX, &mut trees.symbols);
        huffman::lengths(distances, DISTANCE_BITS_MAX, &mut trees.distances);
        // Some readers refuse a tree without two codes.
        complete(&mut trees.symbols);
        complete(&mut trees.distances);
        trees.header.fill(&trees.symbols, &trees.distances);
        trees.bits = 3
            + trees.header.bits()
            + bits_of(symbols, &trees.symbols, 257, |n| u32::from(LENGTH_BITS[n]))
            + bits_of(distances, &trees.distances, 0, distance_bits);
        trees
    }

    fn fixed() -> Self {
        Self { symbols: FIXED_SYMBOLS, distances: [5; DISTANCES], header: Header::EMPTY, bits: 0 }
    }

    fn tables(&self) -> Tables {
        let mut symbols = [0; SYMBOLS + 2];
        // The fixed code has two more, which nobody uses.
        let mut lengths = [8; SYMBOLS + 2];
        lengths[..SYMBOLS].copy_from_slice(&self.symbols);
        if self.symbols != FIXED_SYMBOLS {
            lengths[SYMBOLS..].fill(0);
        }
        huffman::codes(&lengths, &mut symbols);
        let mut distances = [0; DISTANCES];
        huffman::codes(&self.distances, &mut distances);
        let length = |n: usize| {
            let (symbol, more, bits) = LENGTHS[n];
            let own = self.symbols[usize::from(symbol)];
            (u32::from(symbols[usize::from(symbol)]) | u32::from(more) << own, own + bits)
        };
        Tables {
            literals: std::array::from_fn(|n| {
                u32::from(symbols[n]) | u32::from(self.symbols[n]) << CODE_BITS
            }),
            lengths: std::array::from_fn(length),
            distances: std::array::from_fn(|n| match self.distances.get(n) {
                Some(&own) => (distances[n], own, distance_bits(n) as u8),
                None => (0, 0, 0),
            }),
            end: (symbols[END], self.symbols[END]),
        }
    }

    fn write_header(&self, out: &mut BitWriter) {
        let header = &self.header;
        let mut codes = [0; 19];
        huffman::codes(&header.lengths, &mut codes);
        let lengths = header.lengths_len();
        out.add((header.symbols - 257) as u64, 5);
        out.add((header.distances - 1) as u64, 5);
        out.add((lengths - 4) as u64, 4);
        out.flush();
        for &n in &ORDER[..lengths] {
            out.add(header.lengths[n].into(), 3);
            out.flush();
        }
        for &(symbol, more, bits) in &header.runs[..header.runs_len] {
            out.add(codes[usize::from(symbol)].into(), header.lengths[usize::from(symbol)].into());
            out.add(more.into(), bits.into());
            out.flush();
        }
    }
}

fn complete(lengths: &mut [u8]) {
    let used = lengths.iter().filter(|&&length| length > 0).count();
    for n in 0..2usize.saturating_sub(used) {
        let unused = lengths.iter().position(|&length| length == 0).unwrap_or(n);
        lengths[unused] = 1;
    }
}

impl Header {
    const EMPTY: Self = Self {
        runs: [(0, 0, 0); SYMBOLS + DISTANCES],
        runs_len: 0,
        lengths: [0; 19],
        symbols: 0,
        distances: 0,
    };

    fn fill(&mut self, symbols: &[u8; SYMBOLS], distances: &[u8; DISTANCES]) {
        let used = |lengths: &[u8]| lengths.iter().rposition(|&length| length > 0).map_or(0, |n| n + 1);
        (self.symbols, self.distances) = (used(symbols).max(257), used(distances).max(1));
        let mut all = [0; SYMBOLS + DISTANCES];
        all[..self.symbols].copy_from_slice(&symbols[..self.symbols]);
        all[self.symbols..self.symbols + self.distances].copy_from_slice(&distances[..self.distances]);
        for run in all[..self.symbols + self.distances].chunk_by(|a, b| a == b) {
            self.run(run[0], run.len());
        }
        let mut counts = [0; 19];
        for (symbol, ..) in &self.runs[..self.runs_len] {
            counts[usize::from(*symbol)] += 1;
        }
        huffman::lengths(&counts, 7, &mut self.lengths);
        complete(&mut self.lengths);
    }

    fn run(&mut self, length: u8, mut times: usize) {
        if length != 0 {
            self.put(length, 0, 0);
            times -= 1;
        }
        while times >= 3 {
            let now = match (length, times) {
                (0, 11..) => {
                    let now = times.min(138);
                    self.put(18, (now - 11) as u8, 7);
                    now
                }
                (0, _) => {
                    self.put(17, (times - 3) as u8, 3);
                    times
                }
                _ => {
                    let now = times.min(6);
                    self.put(16, (now - 3) as u8, 2);
                    now
                }
            };
            times -= now;
        }
        for _ in 0..times {
            self.put(length, 0, 0);
        }
    }

    fn put(&mut self, symbol: u8, more: u8, bits: u8) {
        self.runs[self.runs_len] = (symbol, more, bits);
        self.runs_len += 1;
    }

    fn lengths_len(&self) -> usize {
        ORDER.iter().rposition(|&n| self.lengths[n] > 0).map_or(4, |n| (n + 1).max(4))
    }

    fn bits(&self) -> usize {
        let run = |&(symbol, _, bits): &(u8, u8, u8)| usize::from(self.lengths[usize::from(symbol)] + bits);
        14 + self.lengths_len() * 3 + self.runs[..self.runs_len].iter().map(run).sum::<usize>()
    }
}
