//! Why a load test can fail to say anything.

use std::path::PathBuf;
use std::time::Duration;

use crate::generate::GenerateError;
use crate::local::LocalError;
use crate::trial::VerifyError;
use crate::trial::folder::BadFolder;
use crate::trial::workers::WorkerError;

/// Why the load test could not be run to its end. A lake with defects is not an error but a verdict.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Two wishes that do not go together.
    #[error("{0}")]
    Wish(String),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] BadFolder),
    /// The embedded AWS.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The producer.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The check.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A worker process.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A server.
    #[error("{what}: {problem}")]
    Server {
        /// What it was asked for.
        what: String,
        /// What it said.
        problem: String,
    },
    /// Workers cannot run here.
    #[error("workers keep exiting; the end of their logs in {} says why", logs.display())]
    Hopeless {
        /// Folder of the logs.
        logs: PathBuf,
    },
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
    /// Ended from outside.
    #[error("interrupted: the workers drained and exited, nothing was checked")]
    Interrupted,
}

impl LoadError {
    pub(super) fn server(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Server { what: what.into(), problem: problem.to_string() }
    }
}
