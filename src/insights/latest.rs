//! The newest state of each trade, within a limit of memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::row::{Row, Trade};

/// Stands for a text; none for null.
pub(super) type Name = Option<NonZeroU32>;

/// What an allocation takes beside its bytes.
const ALLOCATION: usize = 16;
/// Hash tables double, and while they do so the old one is there too.
const TABLE_SPARE: usize = 2;
const STATE_BYTES: usize = TABLE_SPARE * size_of::<(Box<str>, State)>() + 2 * ALLOCATION;
const TRADE_BYTES: usize = size_of::<Trade<Name>>() + ALLOCATION;
const NAME_BYTES: usize = (TABLE_SPARE + 1) * size_of::<(Arc<str>, NonZeroU32)>() + 2 * ALLOCATION;

/// The states take all the memory that they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the newest states of {trades} trades take the {limit} bytes of memory that they may")]
pub struct Full {
    /// Trades so far.
    pub trades: usize,
    /// The limit.
    pub limit: usize,
}

/// The newest state of each trade. Of two states with the same ordering key, which are copies of one row, either counts.
#[derive(Debug)]
pub(super) struct Latest {
    states: HashMap<Box<str>, State>,
    names: Names,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct State {
    order: Box<str>,
    what: What,
}

/// A state: only live trades have figures, but of the others it must be known that they are the newest.
#[derive(Debug)]
pub(super) enum What {
    Deleted,
    Invalid,
    Live(Box<Trade<Name>>),
}

impl Latest {
    /// At most `limit` bytes, about.
    pub(super) fn new(limit: usize) -> Self {
        Self { states: HashMap::new(), names: Names::default(), bytes: 0, limit }
    }

    /// Takes in a row of the trade `key`.
    ///
    /// # Errors
    /// When there is no more memory for it.
    pub(super) fn take(&mut self, key: &str, row: &Row<'_>) -> Result<(), Full> {
        let known = self.states.get_mut(key);
        if known.as_ref().is_some_and(|state| *state.order >= *row.order) {
            return Ok(());
        }
        let what = match (row.is_deleted, row.is_valid) {
            (true, _) => What::Deleted,
            (false, false) => What::Invalid,
            (false, true) => {
                let mut name = |text: &Option<Cow<'_, str>>| {
                    text.as_ref().map(|text| self.names.add(text, &mut self.bytes))
                };
                What::Live(Box::new(row.trade.map(&mut name)))
            }
        };
        let state = State { order: row.order.as_ref().into(), what };
        self.bytes += state.bytes();
        match known {
            Some(old) => {
                self.bytes -= old.bytes();
                *old = state;
            }
            None => {
                self.bytes += key.len() + STATE_BYTES;
                self.states.insert(key.into(), state);
            }
        }
        if self.bytes > self.limit {
            return Err(Full { trades: self.states.len(), limit: self.limit });
        }
        Ok(())
    }

    /// All states, in no order.
    pub(super) fn states(&self) -> impl Iterator<Item = &What> {
        self.states.values().map(|state| &state.what)
    }

    /// What a name stands for.
    pub(super) fn text(&self, name: Name) -> Option<&str> {
        name.map(|name| &*self.names.texts[name.get() as usize - 1])
    }
}

impl State {
    fn bytes(&self) -> usize {
        self.order.len() + if matches!(self.what, What::Live(_)) { TRADE_BYTES } else { 0 }
    }
}

/// Each text once.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, NonZeroU32>,
    texts: Vec<Arc<str>>,
}

impl Names {
    fn add(&mut self, text: &str, bytes: &mut usize) -> NonZeroU32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len() + 1).ok().and_then(NonZeroU32::new);
        let number = number.expect("memory ends long before four thousand million texts");
        let text: Arc<str> = text.into();
        *bytes += text.len() + NAME_BYTES;
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }
}
