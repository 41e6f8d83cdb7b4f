//! What operators see: logs, metrics, health and status.
//!
//! Owns: every metric name, the log format, the HTTP endpoints, how busy this process is.
//! Does not own: the facts; modules report them by calling functions of `metrics`.

pub mod cloudwatch;
mod console;
pub mod cpu;
pub mod fleet;
pub mod health;
pub mod history;
pub mod http;
#[cfg(feature = "cli")]
mod log_filter;
#[cfg(feature = "cli")]
mod log_queue;
#[cfg(feature = "cli")]
pub mod logs;
mod metric_table;
pub mod metrics;
pub mod pulse;
pub mod scrape;
pub mod snapshot;
pub mod status;
mod tally;
pub mod trouble;
pub mod waiting;
