//! The demo: the whole pipeline on one machine, and the check that nothing was lost or doubled.
//!
//! Owns: the play (servers, generator, workers as processes, mishaps), its progress, the independent check of the
//! lake (`verify`) and its report. The check shares no decoding or transforming code with the pipeline: it reads
//! records, rows and the table with plain `serde_json` and compares.
//! Does not own: any stage of the pipeline; workers run as `kinetide run`.
//!
//! ```text
//! generator ─► DynamoDB ─► forwarder ─► Kinesis ─► workers ─► lake
//!                 │                        │                   │
//!                 └────────────────────────┴──► verify ◄───────┘ ─► report
//! ```

mod error;
mod json;
mod lake;
mod mishaps;
mod play;
mod progress;
mod record;
pub mod report;
pub mod verify;
mod workers;

pub use error::DemoError;
pub use play::{DemoPlan, play};

#[cfg(test)]
mod tests;
