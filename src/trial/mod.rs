//! What `demo` and `loadtest` share: worker processes, and the judge of the lake.
//!
//! Owns: starting, killing and draining workers; the independent check of a lake against what was put into the stream.
//! The check shares no decoding or transforming code with the pipeline: it reads records, rows and the table with plain
//! `serde_json` and compares.
//! Does not own: what is put, what goes wrong on purpose, what is printed.

mod check;
mod complaints;
mod display;
pub mod figures;
pub mod folder;
pub mod foreign;
mod json;
mod lake;
mod latency;
mod peer;
mod puts;
mod record;
mod verify;
pub mod workers;

pub(crate) use check::UNLIKE_THE_TABLE;
pub use check::{LakeCheck, Position};
pub use complaints::Complaints;
pub use display::Display;
pub use latency::Latencies;
pub use puts::{Put, Puts, Unseen};
pub use verify::{Table, VerifyError, verify, verify_foreign};

#[cfg(test)]
mod tests;
