//! Workers as separate processes of this very program, as in production; or of another consumer.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::peer;

/// Short, so that a minute shows what takes a day in production.
pub const BATCH_AGE: Duration = Duration::from_secs(2);
/// Likewise.
pub const FAILOVER: Duration = Duration::from_secs(3);
/// Workers have this long for their drain.
const DRAIN: Duration = Duration::from_secs(60);

/// Something is wrong with a worker process.
#[derive(Debug, thiserror::Error)]
#[error("{id} {problem}")]
pub struct WorkerError {
    id: String,
    problem: String,
}

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Flags that name the streams to read.
    pub stream_flags: Vec<String>,
    /// The name of the first stream, for another consumer.
    pub stream: String,
    /// Application and lease table.
    pub application: String,
    /// As for `--lake`.
    pub lake: String,
    /// AWS region, where not that of the environment.
    pub region: Option<String>,
    /// Servers to speak to.
    pub endpoints: WorkerEndpoints,
    /// As for `--initial-position`.
    pub initial_position: Option<String>,
    /// As for `--settings`.
    pub settings: Option<PathBuf>,
    /// What is added to its wall clock.
    pub clock_offset_s: i64,
    /// Whether a full disk may be played on it, by a limit on the size of its files: it is not ended by the signal that
    /// goes with the limit, and its log does not go straight to a file.
    pub full_disk_survivable: bool,
    /// Another consumer to run, as a command of the shell; `docs/LOADTEST.md` says what it is told. It knows nothing of
    /// clock and full disk.
    pub command: Option<String>,
    /// Folder of the logs.
    pub logs: PathBuf,
}

/// Servers, where not those of AWS.
#[derive(Clone, Debug, Default)]
pub struct WorkerEndpoints {
    /// Of Kinesis.
    pub kinesis: Option<String>,
    /// Of DynamoDB.
    pub dynamodb: Option<String>,
    /// Of DynamoDB Streams.
    pub dynamodb_streams: Option<String>,
    /// Of S3.
    pub s3: Option<String>,
    /// A file of certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    settings: WorkerSettings,
    running: Vec<Worker>,
    /// Told to drain, not ended yet.
    leaving: Vec<Worker>,
    started: usize,
    logs: JoinSet<()>,
}

#[derive(Debug)]
struct Worker {
    id: String,
    log: PathBuf,
    child: Child,
}

/// A worker process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// Whether it had been told to drain.
    pub told: bool,
}

impl Workers {
    /// None yet.
    pub fn new(settings: WorkerSettings) -> Self {
        Self { settings, running: Vec::new(), leaving: Vec::new(), started: 0, logs: JoinSet::new() }
    }

    /// The id that the next one gets.
    pub fn next_id(&self) -> String {
        format!("worker-{}", self.started + 1)
    }

    /// Starts one more; answers its id.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&mut self) -> Result<String, WorkerError> {
        self.start_with(|_| {})
    }

    /// Starts one more with some settings of its own; answers its id.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_with(&mut self, change: impl FnOnce(&mut WorkerSettings)) -> Result<String, WorkerError> {
        let id = self.next_id();
        self.started += 1;
        let log = self.settings.logs.join(format!("{id}.log"));
        let mut settings = self.settings.clone();
        change(&mut settings);
        let child = spawn(&settings, &id, &log, &mut self.logs).map_err(|error| WorkerError {
            id: id.clone(),
            problem: format!("could not be started: {error}"),
        })?;
        self.running.push(Worker { id: id.clone(), log, child });
        Ok(id)
    }

    /// Kills one (SIGKILL): the one named, if it runs, else the first. It gets no chance to say goodbye.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, preferred: Option<&str>) -> Result<Option<String>, WorkerError> {
        if self.running.is_empty() {
            return Ok(None);
        }
        let at = self.running.iter().position(|worker| Some(worker.id.as_str()) == preferred).unwrap_or(0);
        let mut worker = self.running.remove(at);
        worker.child.kill().await.map_err(|error| worker.failed(format!("could not be killed: {error}")))?;
        Ok(Some(worker.id))
    }

    /// Sends a signal to a running worker.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, id: &str, signal: Signal) -> Result<(), WorkerError> {
        self.running.iter().filter(|worker| worker.id == id).try_for_each(|worker| worker.signal(signal))
    }

    /// Tells one to drain (SIGTERM). It leaves while others run.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn dismiss(&mut self, id: &str) -> Result<(), WorkerError> {
        if let Some(at) = self.running.iter().position(|worker| worker.id == id) {
            let worker = self.running.remove(at);
            worker.signal(Signal::SIGTERM)?;
            self.leaving.push(worker);
        }
        Ok(())
    }

    /// Those that have ended since the last call, killed ones aside.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (workers, told) in [(&mut self.running, false), (&mut self.leaving, true)] {
            workers.retain_mut(|worker| match worker.child.try_wait() {
                Ok(Some(status)) => {
                    ended.push(Ended { id: worker.id.clone(), status, told });
                    false
                }
                _ => true,
            });
        }
        while self.logs.try_join_next().is_some() {}
        ended
    }

    /// Fails if a worker has ended that nobody ended.
    ///
    /// # Errors
    /// Then.
    pub fn check(&mut self) -> Result<(), WorkerError> {
        for worker in &mut self.running {
            if let Ok(Some(status)) = worker.child.try_wait() {
                return Err(worker.failed(format!("exited unexpectedly ({status})")));
            }
        }
        Ok(())
    }

    /// Ids of the running ones.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.running.iter().map(|worker| worker.id.as_str())
    }

    /// Ids and logs of the running ones.
    pub fn logs(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.running.iter().map(|worker| (worker.id.as_str(), worker.log.as_path()))
    }

    /// Ids and process numbers of all that have not ended.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u32)> {
        let all = self.running.iter().chain(&self.leaving);
        all.filter_map(|worker| Some((worker.id.as_str(), worker.child.id()?)))
    }

    /// Asks all to drain (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When one does not end cleanly and in time.
    pub async fn drain(&mut self) -> Result<(), WorkerError> {
        for worker in &self.running {
            worker.signal(Signal::SIGTERM)?;
        }
        for mut worker in self.running.drain(..).chain(self.leaving.drain(..)) {
            // Waiting would close it, and some take that for the end of the trial.
            let _stdin = worker.child.stdin.take();
            match timeout(DRAIN, worker.child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => return Err(worker.failed(format!("did not drain cleanly ({status})"))),
                Ok(Err(error)) => {
                    return Err(worker.failed(format!("its exit status could not be read: {error}")));
                }
                Err(_) => return Err(worker.failed("did not drain within a minute".to_owned())),
            }
        }
        Ok(())
    }
}

impl Worker {
    fn signal(&self, signal: Signal) -> Result<(), WorkerError> {
        // One that has ended by itself is found by others.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
        kill(Pid::from_raw(pid), signal)
            .map_err(|error| self.failed(format!("could not be sent {signal}: {error}")))
    }

    fn failed(&self, problem: String) -> WorkerError {
        WorkerError { id: self.id.clone(), problem: format!("{problem}; its log is {}", self.log.display()) }
    }
}

fn spawn(settings: &WorkerSettings, id: &str, log: &Path, logs: &mut JoinSet<()>) -> io::Result<Child> {
    let log = File::create(log)?;
    let mut command = match &settings.command {
        Some(line) => {
            let mut command = peer::command(line, settings, id);
            command.stdout(log.try_clone()?).stderr(log.try_clone()?);
            command
        }
        None => own(settings, id, &log)?,
    };
    let mut child = command
        // Held open until the trial ends, however it ends: a worker never outlives it.
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        // Ctrl-C on a terminal reaches the whole group; when workers end is for the trial to say.
        .process_group(0)
        .spawn()?;
    if let Some(stderr) = child.stderr.take() {
        logs.spawn(keep(stderr, tokio::fs::File::from_std(log)));
    }
    Ok(child)
}

/// A program that gets no setting from the environment of this process: what a worker is told stands in its arguments.
pub(super) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"KINETIDE_") {
            command.env_remove(name);
        }
    }
    command
}

/// `kinetide run`.
fn own(settings: &WorkerSettings, id: &str, log: &File) -> io::Result<Command> {
    let time = |time: Duration| format!("{}ms", time.as_millis());
    let kinetide = std::env::current_exe()?;
    let mut command = if settings.full_disk_survivable {
        // A signal that is ignored stays so across exec.
        let mut shell = program("/bin/sh");
        shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]).arg(kinetide).stderr(Stdio::piped());
        shell
    } else {
        let mut command = program(kinetide);
        command.stderr(log.try_clone()?);
        command
    };
    command
        .arg("run")
        .args(&settings.stream_flags)
        .args(["--application", &settings.application, "--lake", &settings.lake])
        .args(["--transform", "crypto-transactions", "--worker-id", id])
        .args(["--batch-age", &time(BATCH_AGE), "--failover-time", &time(FAILOVER)])
        .args(["--lease-scan-interval", "300ms", "--http", "127.0.0.1:0", "--log-format", "json"])
        .arg("--stop-with-parent")
        .stdout(Stdio::null());
    let endpoints = &settings.endpoints;
    for (flag, value) in [
        ("--region", &settings.region),
        ("--kinesis-endpoint", &endpoints.kinesis),
        ("--dynamodb-endpoint", &endpoints.dynamodb),
        ("--dynamodb-streams-endpoint", &endpoints.dynamodb_streams),
        ("--s3-endpoint", &endpoints.s3),
        ("--initial-position", &settings.initial_position),
    ] {
        command.args(value.iter().flat_map(|value| [flag, value]));
    }
    if let Some(file) = &settings.settings {
        command.arg("--settings").arg(file);
    }
    command.envs(endpoints.ca_bundle.iter().map(|file| ("AWS_CA_BUNDLE", file)));
    if settings.clock_offset_s != 0 {
        command.arg(format!("--clock-offset={}", settings.clock_offset_s));
    }
    Ok(command)
}

/// Copies a log into its file.
async fn keep(mut stderr: ChildStderr, mut file: tokio::fs::File) {
    if let Err(error) = tokio::io::copy(&mut stderr, &mut file).await {
        tracing::warn!(%error, "the log of a worker could not be written");
    }
}
