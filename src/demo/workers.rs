//! The workers of the demo: separate processes of this very program, as in production.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::DemoError;

/// Workers have this long for their drain.
const DRAIN: Duration = Duration::from_secs(60);

/// What every worker is told.
#[derive(Clone, Debug)]
pub(super) struct WorkerSettings {
    pub(super) stream: String,
    pub(super) application: String,
    pub(super) lake: PathBuf,
    pub(super) kinesis: String,
    pub(super) dynamodb: String,
    pub(super) batch_age: Duration,
    pub(super) failover: Duration,
    /// Folder of their logs.
    pub(super) logs: PathBuf,
}

/// The running workers.
#[derive(Debug)]
pub(super) struct Workers {
    settings: WorkerSettings,
    running: Vec<Worker>,
    started: usize,
}

#[derive(Debug)]
struct Worker {
    id: String,
    log: PathBuf,
    child: Child,
}

impl Workers {
    pub(super) fn new(settings: WorkerSettings) -> Self {
        Self { settings, running: Vec::new(), started: 0 }
    }

    /// Starts one more.
    pub(super) fn start(&mut self) -> Result<(), DemoError> {
        self.started += 1;
        let id = format!("worker-{}", self.started);
        let log = self.settings.logs.join(format!("{id}.log"));
        let child = spawn(&self.settings, &id, &log).map_err(|error| DemoError::Worker {
            id: id.clone(),
            problem: format!("could not be started: {error}"),
        })?;
        self.running.push(Worker { id, log, child });
        Ok(())
    }

    /// Kills one (SIGKILL): the one named, if it runs, else the first. It gets no chance to say goodbye.
    pub(super) async fn kill(&mut self, preferred: Option<&str>) -> Result<Option<String>, DemoError> {
        if self.running.is_empty() {
            return Ok(None);
        }
        let at = self.running.iter().position(|worker| Some(worker.id.as_str()) == preferred).unwrap_or(0);
        let mut worker = self.running.remove(at);
        worker.child.kill().await.map_err(|error| worker.failed(format!("could not be killed: {error}")))?;
        Ok(Some(worker.id))
    }

    /// Fails if a worker has ended that nobody ended.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for worker in &mut self.running {
            if let Ok(Some(status)) = worker.child.try_wait() {
                return Err(worker.failed(format!("ended by itself ({status})")));
            }
        }
        Ok(())
    }

    /// Ids of the running ones.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.running.iter().map(|worker| worker.id.as_str())
    }

    /// Asks all to drain (SIGTERM) and waits for it.
    pub(super) async fn drain(&mut self) -> Result<(), DemoError> {
        for worker in &self.running {
            let pid = worker.child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid {
                kill(Pid::from_raw(pid), Signal::SIGTERM)
                    .map_err(|error| worker.failed(format!("could not be told to drain: {error}")))?;
            }
        }
        for mut worker in self.running.drain(..) {
            match timeout(DRAIN, worker.child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => return Err(worker.failed(describe(status))),
                Ok(Err(error)) => return Err(worker.failed(format!("could not be waited for: {error}"))),
                Err(_) => return Err(worker.failed("did not drain within a minute".to_owned())),
            }
        }
        Ok(())
    }
}

impl Worker {
    fn failed(&self, problem: String) -> DemoError {
        DemoError::Worker {
            id: self.id.clone(),
            problem: format!("{problem}; its log is {}", self.log.display()),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    format!("did not drain cleanly ({status})")
}

fn spawn(settings: &WorkerSettings, id: &str, log: &Path) -> std::io::Result<Child> {
    let time = |time: Duration| format!("{}ms", time.as_millis());
    let log = File::create(log)?;
    Command::new(std::env::current_exe()?)
        .arg("run")
        .args(["--stream", &settings.stream, "--application", &settings.application])
        .arg("--lake")
        .arg(&settings.lake)
        .args(["--transform", "crypto-transactions", "--worker-id", id])
        .args(["--kinesis-endpoint", &settings.kinesis, "--dynamodb-endpoint", &settings.dynamodb])
        .args(["--batch-age", &time(settings.batch_age), "--failover-time", &time(settings.failover)])
        .args(["--lease-scan-interval", "300ms", "--http", "127.0.0.1:0", "--log-format", "json"])
        // Held open until the demo ends, however it ends: a worker never outlives it.
        .arg("--stop-with-parent")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        // Ctrl-C on a terminal reaches the whole group; when workers end is for the demo to say.
        .process_group(0)
        .spawn()
}
