//! The top-level members of one decoded item, as plain JSON text in one reused buffer.

use super::names::Names;
use super::{ErrorCode, json};

/// What a member holds, as far as columns care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text (S).
    String,
    /// A number (N).
    Number,
    /// null (NULL).
    Null,
    /// Any other type.
    Other,
}

#[derive(Debug)]
struct Member {
    start: usize,
    name_end: usize,
    value_end: usize,
    kind: Kind,
}

/// The top-level members of an item, in the order they came: name and value, the value as compact JSON text.
/// Reused from record to record, so that decoding allocates nothing once the buffers have grown.
#[derive(Debug, Default)]
pub struct Image {
    text: Vec<u8>,
    members: Vec<Member>,
    names: Names,
    /// Why the visitor gave up; serde's own errors cannot carry it.
    pub(super) fault: Option<ErrorCode>,
    /// The document may hold U+2028 or U+2029, which borrowed strings must then be searched for.
    separators: bool,
}

impl Image {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True when there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The name as received, not as JSON.
    pub fn name(&self, index: usize) -> &[u8] {
        let member = &self.members[index];
        &self.text[member.start..member.name_end]
    }

    /// The value as JSON text.
    pub fn value(&self, index: usize) -> &[u8] {
        let member = &self.members[index];
        &self.text[member.name_end..member.value_end]
    }

    /// What the value is.
    pub fn kind(&self, index: usize) -> Kind {
        self.members[index].kind
    }

    /// Starts a new document.
    pub(super) fn begin(&mut self, document: &str) {
        self.clear();
        self.fault = None;
        // Both separators start with this byte; most documents do not hold it.
        self.separators = memchr::memchr(0xE2, document.as_bytes()).is_some();
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.members.clear();
        self.names.clear();
    }

    /// Starts a member with its name; the value follows through `out` and the `push` functions.
    pub(super) fn begin_member(&mut self, name: &str) {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        let name_end = self.text.len();
        self.members.push(Member { start, name_end, value_end: name_end, kind: Kind::Other });
    }

    pub(super) fn end_member(&mut self, kind: Kind) {
        let value_end = self.text.len();
        let member = self.members.last_mut().expect("a member was begun");
        member.value_end = value_end;
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
    pub(super) fn take_back_repeated(&mut self, before: usize) -> bool {
        let name = self.name(self.len() - 1);
        let repeated = (0..before).any(|index| self.name(index) == name);
        if repeated && let Some(member) = self.members.pop() {
            self.text.truncate(member.start);
        }
        repeated
    }
}
