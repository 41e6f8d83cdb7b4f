//! Logs: facts with fields, to stderr. JSON lines where a machine reads them, text where a person does.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless told otherwise: our own facts, and of the AWS, HTTP and store crates only trouble. Not even
/// that of the lookup of a region on EC2: elsewhere it fails by nature, and we say ourselves if there is no region.
pub const DEFAULT_FILTER: &str = "info,aws=warn,aws_config::imds=error,hyper=warn,object_store=warn";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not read like `info,kinetide=debug`.
    #[error("is not a log filter: {reason}; write it like \"info,kinetide=debug\"")]
    Filter {
        /// What is wrong with it.
        reason: String,
    },
    /// Another subscriber is installed.
    #[error("logging is set up already")]
    Twice,
}

/// Sends the log events of the process to stderr from now on. `filter` is written like `RUST_LOG`, see
/// [`DEFAULT_FILTER`].
///
/// # Errors
/// When the filter is not valid, or logging was set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let colours = std::io::stderr().is_terminal();
    let subscriber = subscriber(json, colours, filter, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

fn subscriber<W>(
    json: bool,
    colours: bool,
    filter: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let parsed =
        EnvFilter::builder().parse(filter).map_err(|e| LogError::Filter { reason: e.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(writer).with_ansi(colours);
    Ok(if json {
        Box::new(builder.json().flatten_event(true).with_span_list(false).finish())
    } else {
        Box::new(builder.with_target(false).finish())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
        let subscriber = subscriber(json, false, filter, move || writer.clone()).unwrap();
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
    fn a_wrong_filter_says_how_to_write_it() {
        let error = init(LogFormat::Json, "kinetide=loud").unwrap_err().to_string();
        assert!(error.contains("level filter") && error.contains("info,kinetide=debug"), "{error}");
    }
}
