//! The top-level members of one decoded item, as plain JSON text in one reused buffer.

use super::names::Names;
use super::number::Short;
use super::{ErrorCode, json};

/// What a member holds, as far as columns care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text (S).
    String,
    /// A number (N), and what it is where it is short.
    Number(Option<Short>),
    /// null (NULL).
    Null,
    /// Any other type.
    Other,
}

/// A piece of the document, or behind the end of that a piece of an image's own text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    name: Span,
    value: Span,
    kind: Kind,
}

/// The top-level members of an item, in the order they came: name and value, the value as compact JSON text.
/// Reused from record to record, so that decoding allocates nothing once the buffers have grown.
#[derive(Debug, Default)]
pub struct Image {
    /// What does not stand in the document as it must be.
    text: Vec<u8>,
    /// Length of the document.
    document: usize,
    members: Vec<Member>,
    names: Names,
    /// Why the visitor gave up; serde's own errors cannot carry it.
    pub(super) fault: Option<ErrorCode>,
    /// The document may hold U+2028 or U+2029, which borrowed strings must then be searched for.
    separators: bool,
    general_only: bool,
    read_generally: u64,
}

/// The members of an image, with the document that they were read from.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    document: &'a [u8],
    image: &'a Image,
}

impl<'a> Members<'a> {
    /// Number of members.
    pub fn len(self) -> usize {
        self.image.members.len()
    }

    /// True when there is no member.
    pub fn is_empty(self) -> bool {
        self.image.members.is_empty()
    }

    /// The name as received, not as JSON.
    pub fn name(self, index: usize) -> &'a [u8] {
        self.piece(self.image.members[index].name)
    }

    /// The value as JSON text.
    pub fn value(self, index: usize) -> &'a [u8] {
        self.piece(self.image.members[index].value)
    }

    /// Appends the value.
    #[inline]
    pub fn push_value(self, index: usize, out: &mut Vec<u8>) {
        let Span { start, end } = self.image.members[index].value;
        // Most are short and have more of the document behind them: a step is copied whole, which is no call, and what is too
        // much is cut off again.
        const STEP: usize = 64;
        match self.document.get(start..).and_then(<[u8]>::first_chunk::<STEP>) {
            Some(step) if end - start <= STEP => {
                let end = out.len() + (end - start);
                out.extend_from_slice(step);
                out.truncate(end);
            }
            _ => out.extend_from_slice(self.value(index)),
        }
    }

    /// What the value is.
    pub fn kind(self, index: usize) -> Kind {
        self.image.members[index].kind
    }

    fn piece(self, Span { start, end }: Span) -> &'a [u8] {
        match start.checked_sub(self.document.len()) {
            None => &self.document[start..end],
            Some(start) => &self.image.text[start..end - self.document.len()],
        }
    }
}

impl Image {
    /// One that change records are read to by the general reader alone: what the quick one is compared with.
    pub fn general_only() -> Self {
        Self { general_only: true, ..Self::default() }
    }

    /// Change records since the last call that were not for the quick reader.
    pub fn take_read_generally(&mut self) -> u64 {
        std::mem::take(&mut self.read_generally)
    }

    /// Tries the quick reader.
    pub(super) fn try_quick<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let taken = if self.general_only { None } else { read(self) };
        self.read_generally += u64::from(taken.is_none());
        taken
    }

    /// The members that were read from `document`.
    pub(super) fn members<'a>(&'a self, document: &'a [u8]) -> Members<'a> {
        debug_assert_eq!(document.len(), self.document);
        Members { document, image: self }
    }

    /// Starts a new document.
    pub(super) fn begin(&mut self, document: &[u8]) {
        self.clear();
        self.document = document.len();
        self.fault = None;
        self.separators = true;
    }

    /// As [`Image::begin`], for a reader that borrows most of its strings.
    pub(super) fn begin_borrowed(&mut self, document: &[u8]) {
        self.begin(document);
        // Both separators start with this byte; most documents do not hold it.
        self.separators = memchr::memchr(0xE2, document).is_some();
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.members.clear();
        self.names.clear();
    }

    /// Where what is written next will start.
    pub(super) fn end(&self) -> usize {
        self.document + self.text.len()
    }

    /// Where the name of a member begins.
    pub(super) fn name_start(&self, index: usize) -> Option<usize> {
        self.members.get(index).map(|member| member.name.start)
    }

    /// Adds a member whose name and value are known.
    pub(super) fn add(&mut self, name: Span, value: Span, kind: Kind) {
        self.members.push(Member { name, value, kind });
    }

    /// Starts a member with its name; the value follows through `out` and the `push` functions.
    pub(super) fn begin_member(&mut self, name: &str) {
        let start = self.end();
        self.text.extend_from_slice(name.as_bytes());
        let end = self.end();
        self.add(Span { start, end }, Span { start: end, end }, Kind::Other);
    }

    pub(super) fn end_member(&mut self, kind: Kind) {
        let end = self.end();
        let member = self.members.last_mut().expect("a member was begun");
        member.value.end = end;
        member.kind = kind;
    }

    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// A string that needed no unescaping: it holds no quote, backslash or control character.
    pub(super) fn push_borrowed(&mut self, text: &str) {
        if self.separators {
            json::push_string(&mut self.text, text);
        } else {
            self.text.push(b'"');
            self.text.extend_from_slice(text.as_bytes());
            self.text.push(b'"');
        }
    }

    /// Any string.
    pub(super) fn push_string(&mut self, text: &str) {
        json::push_string(&mut self.text, text);
    }

    /// A value of the same document as it stands there, without its white space.
    pub(super) fn push_compact(&mut self, value: &str) -> Result<(), ErrorCode> {
        json::push_compact(&mut self.text, &mut self.names, value)
    }

    /// Starts a map inside a value; its names follow by [`Image::note_name`].
    pub(super) fn open_map(&mut self) {
        self.names.open_map();
        self.text.push(b'{');
    }

    /// What was pushed since `start` is a name of the open map.
    pub(super) fn note_name(&mut self, start: usize) {
        self.names.add(start, self.text.len());
    }

    /// Ends the names of the open map, which must differ by more than case.
    pub(super) fn close_map(&mut self) -> Result<(), ErrorCode> {
        self.names.close(&self.text)
    }

    /// Takes back the member just begun where one of the first `before` has its name.
    pub(super) fn take_back_repeated(&mut self, document: &[u8], before: usize) -> bool {
        let members = self.members(document);
        let name = members.name(members.len() - 1);
        let repeated = (0..before).any(|index| members.name(index) == name);
        if repeated && let Some(member) = self.members.pop() {
            self.text.truncate(member.name.start - self.document);
        }
        repeated
    }
}
