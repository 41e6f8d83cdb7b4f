//! Logs: facts with fields, to stderr. JSON lines where a machine reads them, text where a person does. The service never
//! waits for them ([0015](../../docs/adr/0015-logs-that-cannot-stop-the-service.md)).

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::log_filter;
use super::log_queue::LogQueue;
use super::metrics;
use crate::terminal::is_deceptive;

/// What is logged unless told otherwise: our own facts, and of the AWS, HTTP and store crates only trouble. Not even
/// that of the lookup of a region on EC2: elsewhere it fails by nature, and we say ourselves if there is no region.
pub const DEFAULT_FILTER: &str =
    "info,aws=warn,aws_config::imds=error,aws_config::sts=error,hyper=warn,object_store=warn";

/// Time for the last lines at the end of the process.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The log of this process, once there is one.
static LOG: OnceLock<LogQueue> = OnceLock::new();

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The thread that writes could not be started.
    #[error("could not start the log thread")]
    Thread(#[source] std::io::Error),
    /// Another subscriber is installed.
    #[error("logging is already set up")]
    Twice,
}

/// What is logged.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

impl std::str::FromStr for LogFilter {
    type Err = String;

    /// Written like `RUST_LOG`, see [`DEFAULT_FILTER`]; a word that is no level and no target of ours is refused.
    fn from_str(text: &str) -> Result<Self, String> {
        log_filter::parse(text).map(Self)
    }
}

/// The end of the log: what is written before the process ends goes through here.
#[derive(Debug)]
pub struct Log(LogQueue);

impl Log {
    /// Puts a line that is no event behind the others.
    pub fn line(&self, text: &str) {
        self.0.push(format!("{text}\n").into_bytes());
    }

    /// Waits until everything is written, and not for long: the reader may have gone.
    pub fn flush(&self) {
        self.0.flush(FLUSH_MAX);
    }
}

/// Writes the last words of a process that is about to end, and waits for that as [`Log::flush`] does. False where there is
/// no log.
pub fn last_words(text: &str) -> bool {
    let Some(queue) = LOG.get() else { return false };
    Log(queue.clone()).line(text);
    queue.flush(FLUSH_MAX);
    true
}

/// Sends the log events of the process to stderr from now on.
///
/// # Errors
/// When there are no threads, or logging was set up before.
pub fn init(format: LogFormat, filter: LogFilter) -> Result<Log, LogError> {
    let colours = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !colours,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let say = |lines| tracing::warn!(lines, "log lines were dropped because the log could not be written");
    let queue = LogQueue::start(Safe(std::io::stderr()), metrics::log_lines_dropped, say)
        .map_err(LogError::Thread)?;
    let subscriber = subscriber(json, colours, filter.0, queue.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    // Nobody else has set up a log.
    let _ = LOG.set(queue.clone());
    Ok(Log(queue))
}

fn subscriber<W>(json: bool, colours: bool, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        // They would go to stderr, and end the process where that cannot be written.
        .log_internal_errors(false);
    if json {
        Box::new(builder.json().flatten_event(true).with_span_list(false).finish())
    } else {
        Box::new(builder.with_target(false).finish())
    }
}

/// Lines without characters that nobody sees or that turn the direction of writing. Others that could steer a terminal are
/// escaped where the line is made.
struct Safe<W>(W);

impl<W: Write> Write for Safe<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let deceptive = |c: char| !c.is_ascii() && is_deceptive(c);
        match str::from_utf8(line) {
            Ok(text) if !line.is_ascii() && text.contains(deceptive) => {
                let mut units = [0; 2];
                let mut safe = String::with_capacity(line.len() + 64);
                for c in text.chars() {
                    match deceptive(c) {
                        true => c
                            .encode_utf16(&mut units)
                            .iter()
                            .for_each(|u| safe.push_str(&format!("\\u{u:04x}"))),
                        false => safe.push(c),
                    }
                }
                self.0.write_all(safe.as_bytes()).map(|()| line.len())
            }
            _ => self.0.write(line),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, filter: &str) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let filter = filter.parse::<LogFilter>().unwrap();
        let subscriber = subscriber(json, false, filter.0, move || Safe(writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("consumer", shard_id = "shardId-7").entered();
            tracing::info!(records = 3, "batch delivered");
            tracing::debug!("too much");
            tracing::info!(target: "aws_config::profile", "noise");
            tracing::info!(target: "hyper_util::client", "noise");
            tracing::warn!(target: "aws_smithy_runtime", "trouble");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_hold_the_fields_and_the_span() {
        let text = logged(true, DEFAULT_FILTER);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "batch delivered");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["records"], 3);
        assert_eq!(lines[0]["span"]["shard_id"], "shardId-7");
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(lines[1]["message"], "trouble");
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(false, "warn,kinetide=debug");
        assert!(text.contains("INFO consumer{shard_id=\"shardId-7\"}: batch delivered records=3"), "{text}");
        assert!(text.contains("too much") && !text.contains("noise") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        let captured = Captured::default();
        let mut safe = Safe(captured.clone());
        safe.write_all("a \u{202e}b\u{e0041} ü\n".as_bytes()).unwrap();
        let bytes = captured.0.lock().unwrap().clone();
        assert_eq!(str::from_utf8(&bytes), Ok("a \\u202eb\\udb40\\udc41 ü\n"));
    }
}
