//! The product as its users meet it: real processes of the real binary, against an AWS in this process.

mod alerts;
mod aws;
mod cbor;
mod check;
mod cloudwatch;
mod dead_letters;
mod demo;
mod endpoints;
mod fan_out;
mod faults;
mod firehose;
mod insights;
mod leases;
mod loadtest;
mod log;
mod market;
mod memory;
mod output;
mod overload;
mod permissions;
mod position;
mod replay;
mod restored;
mod roles;
mod scale;
mod secrecy;
mod settings;
mod shutdown;
mod signals;
mod stage;
mod start;
mod starved;
mod streams;
mod tables;
mod telemetry;
mod tools;

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// No command of these tests may take longer, on a busy machine too.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// What a finished process left.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

/// The binary with nothing inherited that could change what it does.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
    command
        .args(args)
        .env_clear()
        .env("COLUMNS", "100")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(std::env::vars().filter(|(name, _)| ["PATH", "TMPDIR"].contains(&name.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn finish(child: Child) -> Ran {
    let started = Instant::now();
    let output = timeout(COMMAND_MAX, child.wait_with_output()).await.expect("the command ends").unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        took: started.elapsed(),
    }
}

/// Runs a command to its end.
async fn kinetide(args: &[&str]) -> Ran {
    finish(command(args).spawn().unwrap()).await
}

impl Ran {
    /// Asserts the exit code and that stderr holds each of the words.
    #[track_caller]
    fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

/// Asks again and again until there is an answer.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, question: impl FnMut() -> F) -> T {
    eventually_every(Duration::from_millis(20), what, question).await
}

/// The same, with at least so long between two questions. One that takes its time is asked less often: it wants the
/// processors that what it asks after needs.
async fn eventually_every<T, F: Future<Output = Option<T>>>(
    pause: Duration,
    what: &str,
    mut question: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(180), "waited in vain: {what}");
        sleep((asked.elapsed() * 3).clamp(pause, pause.max(Duration::from_secs(1)))).await;
    }
}
