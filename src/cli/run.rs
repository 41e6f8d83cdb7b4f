//! `kinetide run`.

pub use crate::config::RunArgs;

use super::Exit;
use crate::clock;
use crate::config::Config;
use crate::service;
use crate::telemetry::logs;
use crate::worker::Drain;

/// Runs the service until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the service cannot start.
pub async fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let (format, filter) = (args.log_format, args.log.clone());
    clock::be_wrong_by(args.clock_offset);
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(Exit::BadSettings);
        }
    };
    if let Err(error) = logs::init(format, &filter) {
        eprintln!("error: --log {filter:?}: {error}");
        return Ok(Exit::BadSettings);
    }
    Ok(match Box::pin(service::run(config)).await {
        Ok(Drain::Clean) => Exit::Done,
        Ok(Drain::CutShort) => Exit::Failed,
        Err(error) if error.is_wrong_setting() => {
            eprintln!("error: {error}");
            Exit::BadSettings
        }
        Err(error) => return Err(error.into()),
    })
}
