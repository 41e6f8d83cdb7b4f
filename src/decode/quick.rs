//! The quick reader of change records: takes what DynamoDB itself writes, in one pass and eight bytes at a time, and
//! leaves everything else to the general one (`event`).
//!
//! It never refuses a record: at white space, an unknown member that is no scalar, a fault of any kind it answers `None`,
//! "not mine". What it does take it must take as the general reader does, byte for byte; tests compare the two.

use std::borrow::Cow;

use super::event::{EventName, Fields, Text};
use super::image::{Image, Kind, Span};
use super::json::push_escaped;
use super::number::{Number, Short};

/// DynamoDB's items end here.
const DEPTH_MAX: usize = 32;

/// The same byte eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Up to eight bytes as they stand in a word, the first one lowest.
const fn packed(text: &[u8]) -> u64 {
    let (mut word, mut at) = (0, text.len());
    while at > 0 {
        at -= 1;
        word = word << 8 | text[at] as u64;
    }
    word
}

/// The lowest `bytes` of a word.
const fn low(word: u64, bytes: u32) -> u64 {
    word & (u64::MAX >> (64 - 8 * bytes))
}

/// Reads a document; `None` when it is for the general reader, which has to begin anew.
pub(super) fn read<'a>(document: &'a [u8], image: &mut Image) -> Option<Fields<'a>> {
    let mut cursor = Cursor { document, at: 0 };
    let mut fields = Fields::default();
    cursor.object(|cursor| {
        // The first word of a name tells which it is: one look instead of a comparison with each.
        const ID: u64 = packed(b"\"eventID");
        const NAME: u64 = packed(b"\"eventNa");
        const IDENTITY: u64 = packed(b"\"userIde");
        const TABLE: u64 = packed(b"\"tableNa");
        const CHANGE: u64 = packed(b"\"dynamod");
        const SOURCE: u64 = packed(b"\"eventSo");
        // They count for nothing, and are always the same.
        const REGION: u64 = packed(b"\"awsRegi");
        const FORMAT: u64 = packed(b"\"recordF");
        match cursor.word(cursor.at) {
            ID if cursor.at_once(b"\"eventID\":") => fields.id = cursor.text_or_null()?,
            NAME if cursor.at_once(b"\"eventName\":") => {
                fields.name = Some(EventName::parse(cursor.text_or_null()?.as_bytes()?)?);
            }
            IDENTITY if cursor.at_once(b"\"userIdentity\":") => fields.by_ttl = cursor.is_ttl()?,
            TABLE if cursor.at_once(b"\"tableName\":") => fields.table_name = cursor.text_or_null()?,
            CHANGE if cursor.at_once(b"\"dynamodb\":") => {
                let name = fields.name.filter(|_| !fields.change_seen)?;
                fields.change_seen = true;
                cursor.change(name, &mut fields, image)?;
            }
            REGION if cursor.at_once(b"\"awsRegion\":") => _ = cursor.text_or_null()?,
            FORMAT if cursor.at_once(b"\"recordFormat\":\"application/json\"") => {}
            SOURCE if cursor.at_once(b"\"eventSource\":\"aws:dynamodb\"") => {}
            SOURCE if cursor.at_once(b"\"eventSourceARN\":") => fields.source_arn = cursor.text_or_null()?,
            _ => cursor.skip_member()?,
        }
        Some(())
    })?;
    (cursor.at == document.len()).then_some(fields)
}

/// A string of the document, without its quotes.
#[derive(Clone, Copy)]
struct Quoted {
    start: usize,
    end: usize,
    /// Rows hold it as it is written here.
    plain: bool,
}

/// A place in a document. What is behind it is valid UTF-8: outside of strings it was compared with ASCII, and strings are
/// looked at.
struct Cursor<'a> {
    document: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The eight bytes at `at`, zeros behind the end.
    fn word(&self, at: usize) -> u64 {
        let rest = self.document.get(at..).unwrap_or_default();
        match rest.first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => packed(rest),
        }
    }

    /// Steps over `expected`, if it stands here.
    fn at_once<const N: usize>(&mut self, expected: &[u8; N]) -> bool {
        let has = self.has(expected);
        self.at += if has { N } else { 0 };
        has
    }

    /// Steps over `expected`, which must stand here.
    fn take<const N: usize>(&mut self, expected: &[u8; N]) -> Option<()> {
        self.at_once(expected).then_some(())
    }

    fn has<const N: usize>(&self, expected: &[u8; N]) -> bool {
        self.document.get(self.at..).is_some_and(|rest| rest.starts_with(expected))
    }

    /// Steps over an object; `member` steps over each member.
    fn object(&mut self, mut member: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b"{")?;
        loop {
            member(self)?;
            match self.document.get(self.at)? {
                b',' => self.at += 1,
                b'}' => return self.take(b"}"),
                _ => return None,
            }
        }
    }

    /// Steps over a string with its quotes.
    fn string(&mut self) -> Option<Quoted> {
        self.take(b"\"")?;
        self.string_rest()
    }

    /// Steps over a string whose first quote is behind.
    fn string_rest(&mut self) -> Option<Quoted> {
        let start = self.at;
        let mut end = start;
        let special = loop {
            let special = specials(self.word(end));
            if special != 0 {
                break special;
            }
            end += 8;
        };
        end += lowest(special);
        if self.document.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Some(Quoted { start, end, plain: true });
        }
        self.unusual_string(start, end)
    }

    /// A string of which all is usual up to `at`.
    #[cold]
    fn unusual_string(&mut self, start: usize, mut at: usize) -> Option<Quoted> {
        let mut plain = true;
        loop {
            match self.document[at..] {
                [b'"', ..] => {
                    simdutf8::basic::from_utf8(&self.document[start..at]).ok()?;
                    self.at = at + 1;
                    return Some(Quoted { start, end: at, plain });
                }
                [b'\\', _, ..] => {
                    plain = false;
                    at += 2;
                }
                [0xE2, 0x80, 0xA8 | 0xA9, ..] => {
                    plain = false;
                    at += 3;
                }
                [0x20..=0xFF, ..] => at += 1,
                _ => return None,
            }
        }
    }

    /// Steps over a string or null.
    fn text_or_null(&mut self) -> Option<Text<'a>> {
        if self.at_once(b"null") {
            return Some(Text(None));
        }
        let Quoted { start, end, plain: true } = self.string()? else { return None };
        Some(Text(Some(Cow::Borrowed(&self.document[start..end]))))
    }

    /// Steps over who made the change; true where that was DynamoDB's time to live.
    fn is_ttl(&mut self) -> Option<bool> {
        if self.at_once(b"null") {
            return Some(false);
        }
        let ttl = self.at_once(br#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#)
            || self.at_once(br#"{"principalId":"dynamodb.amazonaws.com","type":"Service"}"#);
        ttl.then_some(true)
    }

    /// Steps over digits, a number without sign, point and exponent.
    fn digits(&mut self) -> Option<&'a [u8]> {
        let rest = &self.document[self.at..];
        let length = rest.iter().position(|byte| !byte.is_ascii_digit())?;
        let digits = &rest[..length];
        self.at += length;
        (length == 1 || length > 1 && digits[0] != b'0').then_some(digits)
    }

    /// Steps over a member that counts for nothing.
    fn skip_member(&mut self) -> Option<()> {
        self.string().filter(|name| name.plain)?;
        self.take(b":")?;
        match self.document.get(self.at)? {
            b'"' => {
                let Quoted { plain: true, .. } = self.string()? else { return None };
                Some(())
            }
            b'0'..=b'9' => self.digits().map(|_| ()),
            b'n' => self.take(b"null"),
            b't' => self.take(b"true"),
            b'f' => self.take(b"false"),
            _ => None,
        }
    }

    /// Steps over the `dynamodb` member.
    fn change(&mut self, event: EventName, fields: &mut Fields<'a>, image: &mut Image) -> Option<()> {
        let mut row_end = 0;
        self.object(|cursor| {
            const APPROXIMATE: u64 = packed(b"\"Approxi");
            const NEW: u64 = packed(b"\"NewImag");
            const OLD: u64 = packed(b"\"OldImag");
            const SEQUENCE: u64 = packed(b"\"Sequenc");
            const SIZE: u64 = packed(b"\"SizeByt");
            match cursor.word(cursor.at) {
                APPROXIMATE if cursor.at_once(b"\"ApproximateCreationDateTime\":") => {
                    fields.created = Some(cursor.digits()?);
                }
                APPROXIMATE if cursor.at_once(b"\"ApproximateCreationDateTimePrecision\":") => {
                    fields.precision = cursor.text_or_null()?;
                }
                NEW if cursor.at_once(b"\"NewImage\":") => {
                    cursor.image(event != EventName::Remove, &mut row_end, fields, image)?;
                }
                OLD if cursor.at_once(b"\"OldImage\":") => {
                    cursor.image(event == EventName::Remove, &mut row_end, fields, image)?;
                }
                SEQUENCE if cursor.at_once(b"\"SequenceNumber\":") => {
                    fields.sequence_number = cursor.text_or_null()?;
                }
                SIZE if cursor.at_once(b"\"SizeBytes\":") => _ = cursor.digits()?,
                _ if cursor.at_once(b"\"Keys\":") => {
                    let start = cursor.at;
                    cursor.item::<false>(image)?;
                    fields.keys = Some(&cursor.document[start..cursor.at]);
                }
                _ => cursor.skip_member()?,
            }
            Some(())
        })
    }

    /// Steps over an image; the one that makes the row may be there once, and ends at `row_end`.
    fn image(
        &mut self,
        of_row: bool,
        row_end: &mut usize,
        fields: &mut Fields<'a>,
        image: &mut Image,
    ) -> Option<()> {
        if !of_row {
            return self.other_image(*row_end, image);
        }
        if std::mem::replace(&mut fields.image_seen, true) {
            return None;
        }
        self.item::<true>(image)?;
        *row_end = self.at;
        Some(())
    }

    /// Steps over the image that makes no row. Nearly always it says what the other one says, which ended at `end`, in all
    /// but a few members. Where the same bytes follow each other from the start of a member on they are as good as those
    /// that were read, and are only compared; a member that differs is read.
    fn other_image(&mut self, end: usize, image: &mut Image) -> Option<()> {
        let Some(mut there) = image.name_start(0).filter(|_| self.has(b"{\"")) else {
            return self.item::<false>(image);
        };
        self.at += 2;
        let mut member = 0;
        loop {
            let same = self.same_bytes(there, end);
            if there + same == end {
                self.at += same;
                return Some(());
            }
            while image.name_start(member + 1).is_some_and(|next| next <= there + same) {
                member += 1;
            }
            self.at += image.name_start(member)? - there;
            if !self.member::<false>(image)? {
                return Some(());
            }
            member += 1;
            there = match image.name_start(member) {
                Some(next) => next,
                None => break,
            };
        }
        while self.member::<false>(image)? {}
        Some(())
    }

    /// How many bytes are here the same as in `from..to`.
    fn same_bytes(&self, from: usize, to: usize) -> usize {
        const STEP: usize = 16;
        let (here, there) = (&self.document[self.at..], &self.document[from..to]);
        let steps = here.as_chunks::<STEP>().0.iter().zip(there.as_chunks::<STEP>().0);
        let same = steps.take_while(|(here, there)| here == there).count() * STEP;
        same + here[same..].iter().zip(&there[same..]).take_while(|(here, there)| here == there).count()
    }

    /// Steps over name → tagged value, and makes members of them where that is to `KEEP`.
    fn item<const KEEP: bool>(&mut self, image: &mut Image) -> Option<()> {
        self.take(b"{")?;
        if self.has(b"}") {
            return self.take(b"}");
        }
        self.take(b"\"")?;
        while self.member::<KEEP>(image)? {}
        Some(())
    }

    /// Steps over a member of an item whose first quote is behind, and over that of the next one; false at the last.
    #[inline]
    fn member<const KEEP: bool>(&mut self, image: &mut Image) -> Option<bool> {
        const STRING: u64 = packed(b"{\"S\":\"");
        const NUMBER: u64 = packed(b"{\"N\":\"");
        const NAME_END: u64 = packed(b"\":");
        const NEXT: u64 = packed(b"},\"");
        const LAST: u64 = packed(b"}}");

        let Quoted { start, end, plain: true } = self.string_rest()? else { return None };
        let name = Span { start, end };
        let word = self.word(end);
        if low(word, 2) != NAME_END {
            return None;
        }
        self.at = end + 2;
        let (value, kind) = match word >> 16 {
            STRING => {
                self.at += 6;
                let text = self.string_rest()?;
                let value = if text.plain {
                    Span { start: text.start - 1, end: text.end + 1 }
                } else {
                    let start = image.end();
                    self.push_string(text, image)?;
                    Span { start, end: image.end() }
                };
                (value, Kind::String)
            }
            NUMBER => {
                self.at += 6;
                let digits = self.string_rest().filter(|digits| digits.plain)?;
                let short = if KEEP { self.check_number(digits)? } else { None };
                (Span { start: digits.start, end: digits.end }, Kind::Number(short))
            }
            _ => {
                let start = image.end();
                let kind = self.value(image, 0)?;
                // Its last brace comes below.
                self.at -= 1;
                (Span { start, end: image.end() }, kind)
            }
        };
        if KEEP {
            image.add(name, value, kind);
        }
        let word = self.word(self.at);
        if low(word, 3) == NEXT {
            self.at += 3;
            return Some(true);
        }
        if low(word, 2) == LAST {
            self.at += 2;
            return Some(false);
        }
        None
    }

    /// Steps over a tagged value in `depth` lists and maps, and writes it.
    fn value(&mut self, image: &mut Image, depth: usize) -> Option<Kind> {
        const STRING: u64 = packed(b"{\"S\":\"");
        const NUMBER: u64 = packed(b"{\"N\":\"");
        const BINARY: u64 = packed(b"{\"B\":\"");
        const MAP: u64 = packed(b"{\"M\":{");
        const LIST: u64 = packed(b"{\"L\":[");
        const STRINGS: u64 = packed(b"{\"SS\":[");
        const NUMBERS: u64 = packed(b"{\"NS\":[");
        const BINARIES: u64 = packed(b"{\"BS\":[");

        if depth == DEPTH_MAX {
            return None;
        }
        let word = self.word(self.at);
        self.at += 6;
        let kind = match low(word, 6) {
            STRING => {
                let text = self.string_rest()?;
                self.push_string(text, image)?;
                Kind::String
            }
            NUMBER => {
                let digits = self.string_rest()?;
                Kind::Number(self.push_number(digits, image)?)
            }
            BINARY => {
                let text = self.string_rest()?;
                self.push_binary(text, image)?;
                Kind::Other
            }
            MAP => {
                self.map(image, depth + 1)?;
                Kind::Other
            }
            LIST => {
                self.list(image, |cursor, image| cursor.value(image, depth + 1).map(|_| ()))?;
                Kind::Other
            }
            _ => {
                self.at += 1;
                match low(word, 7) {
                    STRINGS => self.list(image, |cursor, image| {
                        let text = cursor.string()?;
                        cursor.push_string(text, image)
                    })?,
                    NUMBERS => self.list(image, |cursor, image| {
                        let digits = cursor.string()?;
                        cursor.push_number(digits, image).map(|_| ())
                    })?,
                    BINARIES => self.list(image, |cursor, image| {
                        let text = cursor.string()?;
                        cursor.push_binary(text, image)
                    })?,
                    _ => {
                        self.at -= 7;
                        return self.word_value(image);
                    }
                }
                Kind::Other
            }
        };
        self.take(b"}")?;
        Some(kind)
    }

    /// A value that is written without quotes.
    fn word_value(&mut self, image: &mut Image) -> Option<Kind> {
        let (text, kind): (&[u8], _) = if self.take(b"{\"NULL\":true}").is_some() {
            (b"null", Kind::Null)
        } else if self.take(b"{\"BOOL\":true}").is_some() {
            (b"true", Kind::Other)
        } else {
            self.take(b"{\"BOOL\":false}")?;
            (b"false", Kind::Other)
        };
        image.out().extend_from_slice(text);
        Some(kind)
    }

    /// Steps over the rest of a list whose bracket is behind.
    fn list(
        &mut self,
        image: &mut Image,
        mut element: impl FnMut(&mut Self, &mut Image) -> Option<()>,
    ) -> Option<()> {
        image.out().push(b'[');
        if !self.has(b"]") {
            loop {
                element(self, image)?;
                if self.take(b",").is_none() {
                    break;
                }
                image.out().push(b',');
            }
        }
        image.out().push(b']');
        self.take(b"]")
    }

    /// Steps over the rest of a map whose brace is behind.
    fn map(&mut self, image: &mut Image, depth: usize) -> Option<()> {
        image.open_map();
        if !self.has(b"}") {
            loop {
                let start = image.out().len();
                let name = self.string()?;
                self.push_string(name, image)?;
                image.out().push(b':');
                image.note_name(start);
                self.take(b":")?;
                self.value(image, depth)?;
                if self.take(b",").is_none() {
                    break;
                }
                image.out().push(b',');
            }
        }
        image.close_map().ok()?;
        image.out().push(b'}');
        self.take(b"}")
    }

    fn push_string(&self, text: Quoted, image: &mut Image) -> Option<()> {
        if text.plain {
            image.out().extend_from_slice(&self.document[text.start - 1..=text.end]);
            return Some(());
        }
        image.out().push(b'"');
        push_unescaped(image.out(), &self.document[text.start..text.end])?;
        image.out().push(b'"');
        Some(())
    }

    /// `None` when it is no number of DynamoDB; else what it is, where it is short.
    fn check_number(&self, digits: Quoted) -> Option<Option<Short>> {
        let digits = &self.document[digits.start..digits.end];
        let short = Short::parse(digits);
        (short.is_some() || Number::parse(digits)?.fits_dynamodb()).then_some(short)
    }

    fn push_number(&self, digits: Quoted, image: &mut Image) -> Option<Option<Short>> {
        let short = self.check_number(digits)?;
        image.out().extend_from_slice(&self.document[digits.start..digits.end]);
        Some(short)
    }

    fn push_binary(&self, text: Quoted, image: &mut Image) -> Option<()> {
        base64_simd::STANDARD.check(&self.document[text.start..text.end]).ok()?;
        self.push_string(text, image)
    }
}

/// Marks the bytes of a word that end or may change a string: a quote, a backslash, what is below the space or not ASCII.
/// Above the lowest mark there may be wrong ones.
fn specials(word: u64) -> u64 {
    // With one bit turned the quote is beside what is below the space.
    let below = (word ^ each(0x02)).wrapping_sub(each(0x21));
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(0x01));
    (below | backslash | word) & each(0x80)
}

/// Index of the lowest byte that is marked.
fn lowest(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// Appends what is inside a string as rows have it, its escapes read and then written as ours.
fn push_unescaped(out: &mut Vec<u8>, inside: &[u8]) -> Option<()> {
    let mut rest = inside;
    while let Some(found) = memchr::memchr(b'\\', rest) {
        push_escaped(out, &rest[..found]);
        let (letter, tail) = unescaped(&rest[found..])?;
        push_escaped(out, letter.encode_utf8(&mut [0; 4]).as_bytes());
        rest = tail;
    }
    push_escaped(out, rest);
    Some(())
}

/// The character of the escape at the start of `text`, and what follows it; `None` for half a surrogate pair.
fn unescaped(text: &[u8]) -> Option<(char, &[u8])> {
    let letter = match text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| {
                let hex = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
                let digit = |value: u32, byte: &u8| Some(value << 4 | char::from(*byte).to_digit(16)?);
                hex.iter().try_fold(0, digit)
            };
            return match unit(0)? {
                high @ 0xD800..0xDC00 => {
                    let low = unit(6).filter(|low| (0xDC00..0xE000).contains(low))?;
                    let letter = char::from_u32(0x10000 + ((high - 0xD800) << 10 | (low - 0xDC00)))?;
                    Some((letter, &text[12..]))
                }
                letter => Some((char::from_u32(letter)?, &text[6..])),
            };
        }
        _ => return None,
    };
    Some((letter, &text[2..]))
}
