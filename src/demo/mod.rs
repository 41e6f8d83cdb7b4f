//! The demo: the whole pipeline on one machine, and the check that nothing was lost or doubled.
//!
//! Owns: the trades, the mishaps and when they come, the report.
//! Does not own: any stage of the pipeline; workers run as `kinetide run`. Their processes, the streams, what is told of
//! them, and the check of the lake are in `trial`.
//!
//! ```text
//! generator ─► DynamoDB ─► forwarder ─► Kinesis ─► workers ─► lake
//!                 │     (or its own streams)                   │
//!                 │                        │                   │
//!                 └────────────────────────┴──► verify ◄───────┘ ─► report
//! ```

mod mishaps;
mod play;
pub mod report;

pub use play::{DemoPlan, play};
