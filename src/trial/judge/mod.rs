//! The judge of a lake: every record that was put is in exactly one row or dead letter, and says what it should.
//!
//! Owns: what is known of the records put, reading the lake back, the comparison and what it found.
//! Does not own: who puts, who writes. It shares no decoding or transforming code with the pipeline, so that it cannot
//! share its mistakes: it reads records, rows and tables with plain `serde_json` and compares.

mod check;
pub mod foreign;
mod json;
mod lake;
mod latency;
mod puts;
mod record;
mod verify;

pub use check::{Checked, LakeCheck, Position, StreamCheck};
pub(crate) use check::{UNLIKE_THE_TABLE, write_streams};
pub use latency::Latencies;
pub use puts::{Put, Puts, Unseen};
pub use verify::{Table, VerifyError, verify, verify_foreign, verify_streams};

#[cfg(test)]
mod tests;
