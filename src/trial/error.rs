//! Why a trial can fail to say anything.

use std::path::PathBuf;
use std::time::Duration;

use super::judge::VerifyError;
use super::workers::WorkerError;
use crate::insights::ReadError;
use crate::local::LocalError;
use crate::produce::ProduceError;

/// Why a trial could not be played to its end. A lake with defects is not an error but a result that says so.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Two wishes that do not go together.
    #[error("{0}")]
    Wish(String),
    /// The embedded AWS.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A writer.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// The check.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A worker process.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The dashboard of the lake.
    #[error("could not make the dashboard")]
    Dashboard(#[from] ReadError),
    /// The file of the dashboard.
    #[error("could not write {}", page.display())]
    Page {
        /// Which file.
        page: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A server, or the file system.
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
    /// There was nothing to play.
    #[error("no record was put: {bad_lines} lines of the trade files could not be read")]
    NothingPut {
        /// Lines passed over.
        bad_lines: u64,
    },
    /// Ended from outside.
    #[error("interrupted: the workers drained and exited, nothing was checked; the lake so far is {lake}")]
    Interrupted {
        /// Where it is.
        lake: String,
    },
}

impl TrialError {
    /// What a server said to a request.
    pub fn server(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Server { what: what.into(), problem: problem.to_string() }
    }
}
