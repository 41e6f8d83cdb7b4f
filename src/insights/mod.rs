//! A dashboard of a lake as one HTML page: the newest state of every trade, counted and summed exactly, and market prices.
//!
//! ```text
//! landing objects ─► row ─► latest (newest state by key) ─► figures ─┬─► page with charts, or JSON
//! market objects ──► prices ─────────────────────────────────────────┘
//! ```
//!
//! Owns: which rows count (as the views of `athena/` have it), the sums, how they are drawn, what is said of objects and
//! rows that cannot be read.
//! Does not own: where the lake is and what is printed (`cli`), the lines of an object (`batch`).
//!
//! `docs/adr/0029-insights.md` says why it is computed here and not by a query engine.

mod charts;
mod decimal;
mod figures;
mod latest;
mod page;
mod prices;
mod read;
mod row;

pub use figures::Figures;
pub use latest::Full;
pub use page::html;
pub use prices::{PriceCoverage, PriceFigures, PriceScope, Prices, read_prices};
pub use read::{Coverage, ReadError, Scope, Unreadable, read};

use serde::Serialize;

use crate::clock::{utc, wall_clock_us};

/// What a look at a lake came to: what was read, and the figures.
#[derive(Debug, Serialize)]
pub struct Insights {
    /// The lake and the folder in it, as people write them.
    pub lake: String,
    /// When it was read, like `2026-01-15T09:30:00Z`.
    pub made_at: String,
    /// What was read, and what could not be.
    pub coverage: Coverage,
    /// What dashboards show.
    pub figures: Figures,
    /// Market prices; none where the lake has no object of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
}

impl Insights {
    /// Of a lake that was just read.
    pub fn new(lake: String, coverage: Coverage, figures: Figures, prices: Option<Prices>) -> Self {
        Self { lake, made_at: utc(wall_clock_us()), coverage, figures, prices }
    }

    /// Whether there is anything to say of trades: a lake of prices alone has no visuals of trades.
    pub fn has_trades_part(&self) -> bool {
        self.prices.is_none() || self.coverage.objects > 0 || !self.coverage.unreadable.none()
    }
}

#[cfg(test)]
mod tests;
