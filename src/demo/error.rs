//! Why a demo can fail.

use std::path::PathBuf;
use std::time::Duration;

use crate::generate::GenerateError;
use crate::lease::TableError;
use crate::local::LocalError;
use crate::trial::VerifyError;
use crate::trial::folder::BadFolder;
use crate::trial::workers::WorkerError;

/// Why the demo could not be played to its end. A lake with defects is not an error but a summary that says so.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] BadFolder),
    /// The embedded AWS.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The generator.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The check.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The lease table, as seen from here.
    #[error("could not read the lease table")]
    Leases(#[from] TableError),
    /// The embedded Kinesis refused what a mishap or the check asked for.
    #[error("the embedded Kinesis refused: {0}")]
    Kinesis(String),
    /// A worker process.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Nothing moves any more.
    #[error("nothing was delivered for {} s with {left} records left; the workers' logs are in {}{cause}",
            after.as_secs(), logs.display())]
    Stuck {
        /// For how long.
        after: Duration,
        /// Records put and not delivered.
        left: u64,
        /// Folder of the logs.
        logs: PathBuf,
        /// What a worker says itself, with what comes before it in the message; or nothing.
        cause: String,
    },
    /// There was nothing to play.
    #[error("no record was put: {bad_lines} lines of the trade files could not be read")]
    NothingPut {
        /// Lines passed over.
        bad_lines: u64,
    },
    /// Ended from outside.
    #[error("interrupted: the workers drained and exited, nothing was checked; the lake so far is {}",
            lake.display())]
    Interrupted {
        /// Its folder.
        lake: PathBuf,
    },
}
