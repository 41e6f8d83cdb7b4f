//! A DynamoDB item and a change to it, as plain data.

use std::borrow::Cow;
use std::sync::Arc;

/// The attribute that is the partition key of every table written here; there is no sort key.
pub const KEY: &str = "transaction_id";

/// The attribute that a table's TTL setting looks at: a number, epoch seconds.
pub const EXPIRES_AT: &str = "expires_at";

/// One attribute value, with DynamoDB's types. Numbers are text: they never pass through a float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// String.
    S(String),
    /// Number, as decimal text.
    N(String),
    /// Binary.
    B(Vec<u8>),
    /// Boolean.
    Bool(bool),
    /// Null.
    Null,
    /// Set of strings.
    Ss(Vec<String>),
    /// Set of numbers.
    Ns(Vec<String>),
    /// Set of binary values.
    Bs(Vec<Vec<u8>>),
    /// List.
    L(Vec<Value>),
    /// Map.
    M(Vec<(String, Value)>),
}

/// An item: its attributes in the order in which they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item(Vec<(Cow<'static, str>, Value)>);

impl Item {
    /// An item with only its key.
    pub fn with_key(id: impl Into<String>) -> Self {
        Self(vec![(Cow::Borrowed(KEY), Value::S(id.into()))])
    }

    /// Sets an attribute; it keeps its place when it is there already.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: Value) {
        let name = name.into();
        match self.0.iter_mut().find(|(have, _)| *have == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes an attribute away, if it is there.
    pub fn unset(&mut self, name: &str) {
        self.0.retain(|(have, _)| have != name);
    }

    /// One attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value)
    }

    /// The text of a string or number attribute.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::S(text) | Value::N(text)) => Some(text),
            _ => None,
        }
    }

    /// The attributes in order.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// The attributes in order, by value.
    pub fn into_attributes(self) -> impl ExactSizeIterator<Item = (Cow<'static, str>, Value)> {
        self.0.into_iter()
    }

    /// The size that DynamoDB counts: names and values as UTF-8, numbers by their digits, 3 bytes and 1 per
    /// member for a list or map (Developer Guide, "Item sizes and formats"). An estimate, as there.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.size()).sum()
    }
}

impl FromIterator<(Cow<'static, str>, Value)> for Item {
    fn from_iter<I: IntoIterator<Item = (Cow<'static, str>, Value)>>(attributes: I) -> Self {
        Self(attributes.into_iter().collect())
    }
}

impl Value {
    fn size(&self) -> usize {
        let number = |text: &str| text.bytes().filter(u8::is_ascii_digit).count().div_ceil(2) + 1;
        match self {
            Self::S(text) => text.len(),
            Self::N(text) => number(text),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::Ss(texts) => texts.iter().map(String::len).sum(),
            Self::Ns(texts) => texts.iter().map(|text| number(text)).sum(),
            Self::Bs(members) => members.iter().map(Vec::len).sum(),
            Self::L(members) => 3 + members.iter().map(|member| 1 + member.size()).sum::<usize>(),
            Self::M(members) => 3 + members.iter().map(|(name, m)| 1 + name.len() + m.size()).sum::<usize>(),
        }
    }
}

/// One change of one key, with the images that its change record carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Partition key of the item.
    pub key: Arc<str>,
    /// What happens.
    pub kind: ChangeKind,
}

/// What happens to an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// A new key.
    Insert(Item),
    /// An existing key gets new attributes.
    Modify {
        /// Before.
        old: Item,
        /// After.
        new: Item,
    },
    /// A delete by a user.
    Remove(Item),
    /// A delete by the table's TTL. Only a stream is told: a table does this itself.
    Expire(Item),
    /// A record that no consumer can read, made from this item. Only a stream can hold it.
    Broken(Item),
}
