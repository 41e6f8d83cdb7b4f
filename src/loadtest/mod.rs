//! The load test: a stream under load, workers as real processes, faults on purpose, and a verdict record by record.
//!
//! Owns: the load, the faults and when they come, the proxies that play some of them, what is measured, the
//! verdict and the report.
//! Does not own: any stage of the pipeline; workers run as `kinetide run`. Their processes and the check of the lake are
//! in `trial`, the records are `generate`'s.
//!
//! ```text
//! producer ─────────────► streams ◄─ proxy ─┐
//!    │ receipts                             ├─ workers (kill, stop, full disk, wrong clock) ─► lake
//!    ▼                    DynamoDB ◄─ proxy ┘                                                   │
//!  ledger ───────────────────────────────► verify ◄────────────────────────────────────────────┘
//! ```
//!
//! Workers can also be another consumer. Then what it has done is read from its lake alone (`follow`).

mod brokers;
mod chaos;
mod charts;
mod crew;
mod faults;
mod follow;
mod judge;
mod mischief;
mod prepare;
mod producer;
mod proxy;
mod readers;
pub mod report;
mod run;
mod stage;
mod usage;
mod verdict;

pub use chaos::{Chaos, Choice};
pub use crew::WorkerUse;
pub use faults::Service;
pub use verdict::{Fault, LatencyMs, Requests, Sample, StreamVerdict, Verdict};

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::deliver::LakeUrl;
use crate::kafka::KafkaSettings;
use crate::shard::Checkpoint;
use crate::terminal::say;
use crate::trial::TrialError;
use crate::trial::scene::TrialSource;
use crate::trial::workers::WorkerEndpoints;

/// What to run.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Records per second of a stream.
    pub rate: f64,
    /// Records per second in the end.
    pub ramp_to: Option<f64>,
    /// The kinds of the application's streams: how workers read.
    pub sources: Vec<TrialSource>,
    /// Streams of each kind, each with the load and the shards that are given here.
    pub streams_of_each: usize,
    /// Shards of a stream at the start.
    pub shards: u32,
    /// Worker processes.
    pub workers: usize,
    /// For how long records are put.
    pub duration: Duration,
    /// Records to put into a stream at most.
    pub records: Option<u64>,
    /// Kinds of faults.
    pub chaos: Choice,
    /// Time between faults.
    pub chaos_every: Duration,
    /// Where reading begins: as for `--initial-position` of the workers, and what it means. Their own default when
    /// `None`; then all of them start before the first record.
    pub initial: Option<(String, Checkpoint)>,
    /// Workers copy valid rows of high risk, and the copies are checked too.
    pub alerts: bool,
    /// Records go into aggregates, so many in one at most.
    pub packed: Option<usize>,
    /// Seed of records and faults, and of when the workers start.
    pub seed: u64,
    /// Empty folder for logs, and for the lake where none is given.
    pub dir: PathBuf,
    /// Another lake; the run makes a folder of its own in it.
    pub lake: Option<LakeUrl>,
    /// Servers, where not the embedded ones.
    pub endpoints: WorkerEndpoints,
    /// The brokers of Kafka, where topics are read.
    pub kafka: Option<KafkaSettings>,
    /// AWS region, for servers that are not embedded.
    pub region: Option<String>,
    /// Another consumer to run instead of `kinetide run`, as a command of the shell.
    pub worker_command: Option<String>,
    /// Takes one of the brokers down and up again, as a command of the shell.
    pub broker_command: Option<String>,
}

/// Runs the load test, and judges it.
///
/// # Errors
/// See [`TrialError`].
pub async fn run(mut plan: LoadPlan, cancel: CancellationToken) -> Result<Verdict, TrialError> {
    if plan.worker_command.is_some() {
        for kind in plan.chaos.0.extract_if(.., |kind| kind.needs_own_worker()) {
            say(format!("--chaos {kind} does not work with --worker-command: left out"));
        }
    }
    let (run, totals, seconds) = run::play(&plan, cancel).await?;
    judge::judge(run, &totals, seconds).await
}
