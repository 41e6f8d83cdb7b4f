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
mod progress;
mod puts;
mod record;
mod verify;
pub mod workers;

pub use check::{Checked, LakeCheck, Position, StreamCheck};
pub(crate) use check::{UNLIKE_THE_TABLE, write_streams};
pub use complaints::Complaints;
pub use display::Display;
pub use latency::Latencies;
pub use progress::{Checkpoints, Progress};
pub use puts::{Put, Puts, Unseen};
pub use verify::{Table, VerifyError, verify, verify_foreign, verify_streams};

/// Names of streams, of which one may begin like another.
pub fn numbered(name: &str, count: usize) -> Vec<String> {
    let one = |number: usize| if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
    (1..=count).map(one).collect()
}

/// The seed of a stream among several: no two have the same records.
pub fn seed_of(seed: u64, stream: usize) -> u64 {
    seed.wrapping_add(u64::try_from(stream).unwrap_or(u64::MAX) << 32)
}

#[cfg(test)]
mod tests;
