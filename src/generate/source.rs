//! Where changes come from.

use super::item::Change;
use super::synthetic::Synthetic;
use super::trades::{Place, TradeError, TradeFiles};

/// Where changes come from.
pub enum Source {
    /// Made up, endless.
    Synthetic(Box<Synthetic>),
    /// Read from files.
    Trades(Box<TradeFiles>),
}

impl Source {
    /// The next change, or why a line gives none.
    pub(crate) fn next(&mut self) -> Option<Result<Change, TradeError>> {
        match self {
            Self::Synthetic(synthetic) => synthetic.next().map(Ok),
            Self::Trades(trades) => trades.next(),
        }
    }

    /// The last trade that was read, of a trade file.
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            Self::Synthetic(_) => None,
            Self::Trades(trades) => trades.place(),
        }
    }
}
