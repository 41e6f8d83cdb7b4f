//! What `demo` and `loadtest` share: the scene, worker processes, and the judge of the lake.
//!
//! Owns: servers and streams to play on; what is told of the records put; starting, killing and draining workers; how far
//! they are; the independent check of a lake against what was put into the streams.
//! Does not own: what is put, what goes wrong on purpose, what is printed.

mod complaints;
mod display;
mod error;
pub mod folder;
pub mod judge;
mod ledger;
mod peer;
mod progress;
pub mod scene;
pub mod workers;

pub use display::{Display, STUCK_AFTER};
pub use error::TrialError;
pub use judge::{
    Checked, LakeCheck, Latencies, Position, Put, Puts, StreamCheck, Table, Unseen, VerifyError, foreign,
    verify, verify_foreign, verify_streams,
};
pub(crate) use judge::{UNLIKE_THE_TABLE, write_streams};
pub use ledger::{Duty, Flow, Ledger, Since};
pub use progress::{Progress, Watch};

/// Names of streams, of which one may begin like another.
fn numbered(name: &str, count: usize) -> Vec<String> {
    let one = |number: usize| if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
    (1..=count).map(one).collect()
}

/// The seed of a stream among several: no two have the same records.
fn seed_of(seed: u64, stream: usize) -> u64 {
    seed.wrapping_add(u64::try_from(stream).unwrap_or(u64::MAX) << 32)
}
