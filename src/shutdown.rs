//! Signal → cancellation. SIGTERM (what ECS sends) and Ctrl-C ask for a drain; a second one ends the process.

use std::os::fd::AsFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `stop` at the first SIGTERM or SIGINT, and returns at the second: whoever waits for a drain should
/// race it against this.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for asked in 0..2 {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if asked == 0 {
            tracing::info!(signal = name, "draining; a second signal ends at once");
            stop.cancel();
        }
    }
    Ok(())
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
