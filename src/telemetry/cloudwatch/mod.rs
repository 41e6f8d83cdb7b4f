//! Metrics for CloudWatch: what is sent, how it is packed, and the task that sends it.
//!
//! ```text
//!  Status, once a minute ──series──► data ──pack──► calls ──send──► PutMetricData
//! ```
//!
//! Owns: names, units and dimensions in CloudWatch, when they are sent, what becomes of what cannot be sent.
//! Does not own: the facts (`status`, `tally`), how a call is made (`aws`). The data path knows nothing of all this.

mod pack;
mod send;
mod series;

use serde::Serialize;

use super::trouble::TroubleSnapshot;

pub(super) use send::Export;
pub use send::{Exporter, ExporterSettings, PutFailed};

/// How much is sent. CloudWatch bills each metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A constant number of metrics for the application and for each of several streams.
    Summary,
    /// Beside them some for each shard.
    Detailed,
}

/// How the sending goes, as `/api/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportSnapshot {
    /// How much is sent.
    pub level: Level,
    /// Where to.
    pub namespace: String,
    /// Data that wait for a call that succeeds.
    pub waiting: u64,
    /// Data given up, because they could not be sent in time or were refused.
    pub dropped: u64,
    /// What does not work now.
    pub trouble: Option<TroubleSnapshot>,
}
