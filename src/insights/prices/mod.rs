//! Market prices of a lake: what the views of `athena/market/` show, in one pass from the newest hour back.
//!
//! ```text
//! objects of an hour ─► row ─► each price once ─► gathered hour by hour ─► figures ─► part of the page, or JSON
//! ```
//!
//! Owns: which prices count, the sums and rankings, how they are drawn.
//! Does not own: what is said of objects and lines that cannot be read (`read`), the rest of the page (`page`).

mod figures;
mod gather;
pub(super) mod page;
mod read;
mod row;

pub use figures::PriceFigures;
pub use read::{PriceCoverage, PriceScope, read_prices};

use serde::Serialize;

/// What a look at the prices of a lake came to.
#[derive(Debug, Serialize)]
pub struct Prices {
    /// The lake and the folder in it, as people write them.
    pub lake: String,
    /// What was read, and what could not be.
    pub coverage: PriceCoverage,
    /// What dashboards show.
    pub figures: PriceFigures,
}

#[cfg(test)]
mod tests;
