//! What stood in the text before: columns are compared with columns.

use crate::columns;
use crate::deflate::Deflate;

/// How far back a match may reach.
const WINDOW: usize = 32 << 10;
/// Text that is worked on at a time.
const PIECE: usize = 64 << 10;
/// What may be read behind the text: a name and the first word of its value, or a step of a copy.
const PAD: usize = 128;
const TEXT_BYTES: usize = WINDOW + PIECE + PAD;

/// Its length is known to the compiler.
pub(crate) type Text = [u8; TEXT_BYTES];

/// A column that begins nearer to the end of a piece is left for the next one, so that few are cut.
const NEAR: usize = 256;

/// Shorter ones cost about as much as their bytes.
const MATCH_MIN: usize = 5;
/// What is left of a value without a match is searched for only where it is longer: a short rest costs more to look
/// through than its bytes.
const LONG: usize = 48;
/// Columns of a row that are remembered.
const COLUMNS_MAX: usize = 2 << 10;
/// Names of columns that are known as such.
const NAME_MAX: usize = 64;

/// So many columns may be missing before one that is found by its order.
const AHEAD: usize = 4;
/// Bytes of a value that may be equal in the row before, and be found again with others behind them.
const VALUE_BEGIN: usize = 4;

const STARTS_BITS: u32 = 9;
const VALUES_BITS: u32 = 12;
const WORDS_BITS: u32 = 12;

#[derive(Clone, Copy)]
struct Column {
    /// Where it begins.
    at: u32,
    /// From there to its value; 0 when it has no name.
    name: u32,
}

/// The text, and what is known of it. Places in it are counted modulo 2³².
pub(crate) struct Matches {
    text: Box<Text>,
    /// The place of the first byte of `text`.
    base: u32,
    /// Bytes in `text`.
    len: usize,
    /// Columns before it were worked on.
    next: usize,
    /// Everything before it went to the encoder.
    anchor: usize,
    /// Everything before it is in a match, or is going to be literals.
    pos: usize,
    /// Where the last match began, and its distance.
    last_from: usize,
    last_distance: usize,
    /// Columns of this row so far, and of the row before.
    row: Vec<Column>,
    row_before: Vec<Column>,
    /// Which column of the row before comes next.
    likely: usize,
    /// Of the column that is being worked on; 0 for none.
    distance: usize,
    /// Where columns began, by a hash of their first word: there are few that differ.
    starts: Box<[u32; 1 << STARTS_BITS]>,
    /// Where values began, by a hash of their first word and of how long the name before it is.
    values: Box<[u32; 1 << VALUES_BITS]>,
    /// The same for places inside of long values.
    words: Box<[u32; 1 << WORDS_BITS]>,
}

/// Bytes of the text as one number, the first lowest.
#[inline]
pub(crate) fn word(text: &Text, at: usize) -> u64 {
    u64::from_le_bytes(text[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes that are compared at a time.
const BLOCK: usize = 16;

#[inline]
fn block(text: &Text, at: usize) -> &[u8; BLOCK] {
    text[at..at + BLOCK].try_into().expect("so many bytes")
}

impl Matches {
    pub(crate) const STATE_BYTES: usize = TEXT_BYTES
        + 2 * COLUMNS_MAX * size_of::<Column>()
        + 4 * ((1 << STARTS_BITS) + (1 << VALUES_BITS) + (1 << WORDS_BITS));

    pub(crate) fn new() -> Self {
        // No entry of new tables is a place near this.
        Self::from_place(1 << 30)
    }

    /// The text begins at `base`. What is behind it, and what tables say of places that were never seen, costs time at most:
    /// bytes are compared before they are said to be equal.
    pub(crate) fn from_place(base: u32) -> Self {
        Self {
            text: vec![0; TEXT_BYTES].try_into().expect("so many bytes"),
            base,
            len: 0,
            next: 0,
            anchor: 0,
            pos: 0,
            last_from: 0,
            last_distance: 0,
            row: Vec::new(),
            row_before: Vec::new(),
            likely: 0,
            distance: 0,
            starts: Box::new([0; 1 << STARTS_BITS]),
            values: Box::new([0; 1 << VALUES_BITS]),
            words: Box::new([0; 1 << WORDS_BITS]),
        }
    }

    /// Takes what there is room for, and answers the rest.
    pub(crate) fn take<'a>(&mut self, text: &'a [u8], deflate: &mut Deflate) -> &'a [u8] {
        let (now, later) = text.split_at(text.len().min(WINDOW + PIECE - self.len));
        self.text[self.len..self.len + now.len()].copy_from_slice(now);
        self.len += now.len();
        if self.len == WINDOW + PIECE {
            self.work(false, deflate);
            self.slide(deflate);
        }
        later
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.len - self.next
    }

    pub(crate) fn finish(&mut self, deflate: &mut Deflate) {
        self.work(true, deflate);
        deflate.literals(&self.text, self.anchor, self.len);
    }

    /// Makes room behind the text.
    fn slide(&mut self, deflate: &mut Deflate) {
        deflate.literals(&self.text, self.anchor, self.pos);
        self.anchor = self.pos;
        let gone = self.next - WINDOW;
        self.text.copy_within(gone..self.len, 0);
        self.base = self.base.wrapping_add(gone as u32);
        self.len -= gone;
        self.next -= gone;
        self.anchor -= gone;
        self.pos -= gone;
        self.last_from = self.last_from.saturating_sub(gone);
    }

    /// Works on columns up to the end, or to where the end is near: the last should not be cut.
    fn work(&mut self, all: bool, deflate: &mut Deflate) {
        let stop = if all { self.len } else { self.len - NEAR };
        while self.next < stop {
            self.next = self.column(self.next, deflate);
        }
    }

    #[inline]
    fn place(&self, at: usize) -> u32 {
        self.base.wrapping_add(at as u32)
    }

    /// How far before `at` it is, when that can be said to a reader.
    #[inline]
    fn distance_to(&self, place: u32, at: usize) -> Option<usize> {
        let distance = self.place(at).wrapping_sub(place) as usize;
        (distance.wrapping_sub(1) < WINDOW.min(at)).then_some(distance)
    }

    /// Equal bytes from `at` on and `distance` before.
    #[inline]
    fn equal(&self, at: usize, distance: usize) -> usize {
        let most = self.len - at;
        let before = at - distance;
        let mut n = 0;
        while n < most {
            let (here, there) = (block(&self.text, at + n), block(&self.text, before + n));
            if here != there {
                let differ = u128::from_le_bytes(*here) ^ u128::from_le_bytes(*there);
                return (n + differ.trailing_zeros() as usize / 8).min(most);
            }
            n += BLOCK;
        }
        most
    }

    /// Equal bytes before `at`, of those that are not in a match yet.
    #[inline]
    fn equal_before(&self, at: usize, distance: usize) -> usize {
        let most = at - self.anchor;
        // More than a word is rare.
        let Some(before) = (at - distance).checked_sub(8) else { return 0 };
        let differ = word(&self.text, before + distance) ^ word(&self.text, before);
        most.min(differ.leading_zeros() as usize / 8)
    }

    #[inline]
    fn matched(&mut self, from: usize, to: usize, distance: usize, deflate: &mut Deflate) {
        deflate.literals(&self.text, self.anchor, from);
        deflate.repeat(to - from, distance);
        (self.anchor, self.pos) = (to, to);
        (self.last_from, self.last_distance) = (from, distance);
    }

    /// Tries a match that goes through `at`.
    #[inline]
    fn try_match(&mut self, at: usize, distance: usize, deflate: &mut Deflate) -> bool {
        if at >= self.len {
            return false;
        }
        let length = self.equal(at, distance);
        let before = self.equal_before(at, distance);
        let good = length + before >= MATCH_MIN;
        if good {
            self.matched(at - before, at + length, distance, deflate);
        }
        good
    }

    /// Works on the column that begins at `start`, and on those behind it that the same match covers; answers where the
    /// next begins. A value that was cut goes on without a beginning.
    fn column(&mut self, start: usize, deflate: &mut Deflate) -> usize {
        let first = word(&self.text, start);
        let begins = columns::begins(first) || start == 0;
        // The column in hand, how far its value is from there, and from where on the next may begin.
        let (mut column, mut name, mut from) = (start, 0, start + 1);
        let mut end = None;
        if begins {
            if first as u8 == b'\n' {
                std::mem::swap(&mut self.row, &mut self.row_before);
                self.row.clear();
                self.likely = 0;
            }
            let aligned;
            (name, aligned) = self.counterpart(start, first);
            if self.distance > 0 {
                // The last match ended because something differs.
                if self.last_distance != self.distance || self.pos <= start {
                    self.try_match(self.pos.max(start), self.distance, deflate);
                }
                if aligned && self.last_distance == self.distance && self.last_from <= start + name {
                    (column, name, from) = self.covered(start, name);
                }
                if aligned {
                    end = self.end_as_before(from);
                }
            }
        }
        let end = end.unwrap_or_else(|| columns::next(&self.text, from, self.len));
        if self.pos < end {
            let value = column + name;
            if name > 0 && self.pos <= value + VALUE_BEGIN {
                let known = self.values[self.slot_of_value(value, name)];
                if let Some(distance) = self.distance_to(known, value)
                    && distance != self.distance
                {
                    self.try_match(self.pos.max(value), distance, deflate);
                }
            }
            let rest = self.pos.max(column);
            if rest < end && (self.distance == 0 || end - rest > LONG) {
                self.search(rest, end, deflate);
            }
        }
        self.pos = self.pos.max(end);
        if begins {
            self.note(column, name);
        }
        end
    }

    /// Goes on from the column at `start` to the last one that begins in the same match: where columns began in the row
    /// before they begin here. Answers it, the distance to its value, and from where on the next may begin.
    #[inline]
    fn covered(&mut self, start: usize, name: usize) -> (usize, usize, usize) {
        let (mut column, mut name, mut from) = (start, name, start + 1);
        while let Some(&there) = self.row_before.get(self.likely) {
            let here = there.at.wrapping_add(self.distance as u32);
            let at = column + here.wrapping_sub(self.place(column)) as usize;
            if at + 2 > self.pos {
                // Both bytes that it would begin with are not in the match.
                from = from.max(self.pos - 1);
                break;
            }
            self.note(column, name);
            (column, name, from) = (at, there.name as usize, at + 1);
            self.likely += 1;
        }
        (column, name, from)
    }

    /// Where the column behind the one in hand begins, at `from` or later, when its value is as long as in the row before:
    /// nothing has to be searched for then.
    #[inline]
    fn end_as_before(&self, from: usize) -> Option<usize> {
        let there = self.row_before.get(self.likely)?.at.wrapping_add(self.distance as u32);
        let at = there.wrapping_sub(self.base) as usize;
        (from <= at && at < self.len && columns::begins(word(&self.text, at))).then_some(at)
    }

    /// Remembers a column of this row, and its value.
    #[inline]
    fn note(&mut self, start: usize, name: usize) {
        let slot = hash(word(&self.text, start), STARTS_BITS);
        self.starts[slot] = self.place(start);
        if self.row.len() < COLUMNS_MAX {
            self.row.push(Column { at: self.place(start), name: name as u32 });
        }
        if name > 0 {
            let slot = self.slot_of_value(start + name, name);
            self.values[slot] = self.place(start + name);
        }
    }

    #[inline]
    fn slot_of_value(&self, value: usize, name: usize) -> usize {
        hash(word(&self.text, value) ^ (name as u64) << 56, VALUES_BITS)
    }

    /// Finds the column in the row before, or the last that began like it, and how far it is. Answers how far it is from
    /// its start to the value, and whether the columns behind it may be those of the row before.
    #[inline]
    fn counterpart(&mut self, start: usize, first: u64) -> (usize, bool) {
        for n in self.likely..(self.likely + AHEAD).min(self.row_before.len()) {
            let Column { at, name } = self.row_before[n];
            let name = name as usize;
            if name > 0
                && let Some(distance) = self.distance_to(at, start)
                && self.same_name(start, distance, first, name)
            {
                self.likely = n + 1;
                self.distance = distance;
                return (name, true);
            }
        }
        let like = self.distance_to(self.starts[hash(first, STARTS_BITS)], start);
        self.distance = like.filter(|&distance| word(&self.text, start - distance) == first).unwrap_or(0);
        // Nested values have names in front of them too.
        let end = columns::next(&self.text, start + 1, self.len).min(start + NAME_MAX);
        let name = self.text[start..end].windows(2).rposition(|two| two == b"\":");
        (name.map_or(0, |at| at + 2), false)
    }

    /// Looks at the first and the last word of a name only: a wrong answer costs no more than a worse match.
    #[inline]
    fn same_name(&self, start: usize, distance: usize, first: u64, name: usize) -> bool {
        let differ = first ^ word(&self.text, start - distance);
        if name < 8 {
            return differ << (64 - 8 * name) == 0;
        }
        let last = start + name - 8;
        differ == 0 && word(&self.text, last) == word(&self.text, last - distance)
    }

    /// Looks for what begins like each place, in the same column and in all that was searched before.
    #[inline(never)]
    fn search(&mut self, mut at: usize, end: usize, deflate: &mut Deflate) {
        let mut misses = 0;
        while at < end {
            let here = word(&self.text, at);
            let slot = hash(here << 24, WORDS_BITS);
            let known = self.distance_to(self.words[slot], at);
            self.words[slot] = self.place(at);
            let same = |distance: usize| here as u32 == word(&self.text, at - distance) as u32;
            let found = [Some(self.distance).filter(|distance| *distance > 0), known];
            let tried = match found.into_iter().flatten().find(|&distance| same(distance)) {
                Some(distance) => self.try_match(at, distance, deflate),
                None => false,
            };
            if tried {
                (at, misses) = (self.pos, 0);
            } else {
                at += 1 + misses / 32;
                misses += 1;
            }
        }
    }
}

#[inline]
fn hash(word: u64, bits: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
}
