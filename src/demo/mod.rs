//! The demo: the whole pipeline on one machine, and the check that nothing was lost or doubled.
//!
//! Owns: the independent check of a lake (`verify`) and its report. The check shares no decoding or transforming
//! code with the pipeline: it reads records, rows and the table with plain `serde_json` and compares.
//! Does not own: any stage of the pipeline.
//!
//! ```text
//! stream records ─► record ─┐
//! lake objects ───► lake ───┼─► verify ─► report
//! table items ────► json ───┘
//! ```

mod json;
mod lake;
mod record;
pub mod report;
pub mod verify;

#[cfg(test)]
mod tests;
