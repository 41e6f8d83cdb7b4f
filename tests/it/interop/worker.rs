//! One worker process, Java or ours.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// For a graceful end; Java takes its failover time and some seconds.
const END_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Java,
    Ours,
}

pub(super) struct Worker {
    pub(super) id: String,
    pub(super) kind: Kind,
    log: PathBuf,
    child: Child,
}

impl Worker {
    /// Starts a process whose stderr is `FOLDER/ID.log`.
    pub(super) fn start(kind: Kind, id: &str, mut command: Command, folder: &Path) -> Self {
        let log = log_of(folder, id);
        let child = command
            .env_clear()
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(
                std::env::vars().filter(|(name, _)| ["PATH", "TMPDIR", "JAVA_HOME"].contains(&name.as_str())),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{id} could not be started: {error}"));
        Self { id: id.to_owned(), kind, log, child }
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Panics if the process has ended by itself.
    pub(super) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} has ended with {status}:\n{}", self.id, last_lines(&self.log()));
        }
    }

    /// SIGTERM, and the end that follows.
    pub(super) async fn stop(mut self) {
        self.assert_running();
        let code = self.end(Signal::SIGTERM).await;
        // The JVM ends its hooks and then says that it was terminated.
        let expected = match self.kind {
            Kind::Java => 143,
            Kind::Ours => 0,
        };
        assert_eq!(code, Some(expected), "{}:\n{}", self.id, last_lines(&self.log()));
    }

    /// SIGKILL: no goodbye.
    pub(super) async fn kill(mut self) {
        self.assert_running();
        assert_eq!(self.end(Signal::SIGKILL).await, None);
    }

    async fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        let ended = timeout(END_MAX, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("{} does not end:\n{}", self.id, last_lines(&self.log())))
            .unwrap()
            .code()
    }
}

/// Where a worker of this folder writes its log.
pub(super) fn log_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.log"))
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
