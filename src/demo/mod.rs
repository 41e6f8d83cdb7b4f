//! The demo: the whole pipeline on one machine, and the check that nothing was lost or doubled.
//!
//! Owns: the play (servers, generator, mishaps), its progress and its report.
//! Does not own: any stage of the pipeline; workers run as `kinetide run`. Their processes and the check of the lake are
//! in `trial`.
//!
//! ```text
//! generator ─► DynamoDB ─► forwarder ─► Kinesis ─► workers ─► lake
//!                 │     (or its own streams)                   │
//!                 │                        │                   │
//!                 └────────────────────────┴──► verify ◄───────┘ ─► report
//! ```

mod feed;
mod mishaps;
mod play;
mod progress;
pub mod report;
mod tables;

pub use play::{DemoPlan, play};
