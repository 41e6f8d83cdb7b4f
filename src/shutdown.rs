//! Signal → cancellation. SIGTERM (what ECS sends), SIGINT (Ctrl-C) and SIGHUP (the terminal has gone) mean the same to
//! every command, also where it is process 1, which the kernel protects from signals that it does not take.

use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::terminal;

/// A command that does not look at signals itself has this long to take its hands off.
const LET_GO: Duration = Duration::from_millis(200);

/// The signals that ask a process to end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None under `nohup`.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Takes the signals from now on.
    ///
    /// # Errors
    /// When their handlers cannot be installed.
    pub fn new() -> std::io::Result<Self> {
        let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hang_up })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hang_up => "SIGHUP",
        }
    }
}

/// Whether whoever started this process wants it to outlive its terminal.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Cancels `stop` at the first signal, or when whoever reads the output of this command has gone, and returns at the next
/// signal: whoever waits for a drain should race it against this.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining; a second signal ends at once"),
        () = terminal::reader_gone() => {}
    }
    stop.cancel();
    signals.next().await;
    Ok(())
}

/// For commands that do not look at signals themselves: cancels `stop` at the first signal, and ends the process where
/// the command does not notice that, as when it waits for input.
pub async fn end_on_signal(mut signals: Signals, stop: CancellationToken, code: i32) {
    signals.next().await;
    stop.cancel();
    tokio::time::sleep(LET_GO).await;
    std::process::exit(code);
}

/// Waits until the other end of our stdin is closed: the process that started this one has ended, however it did.
///
/// # Errors
/// When stdin is no pipe.
pub async fn parent_gone() -> std::io::Result<()> {
    let mut stdin = pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut ignored = [0; 64];
    while stdin.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// What a task returned that nobody aborts. When the runtime is ending it aborts all tasks: then this waits for the
/// end instead of taking that for an error of the program.
///
/// # Panics
/// When the task did.
pub async fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> T {
    match outcome.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => std::future::pending().await,
    }
}
