//! `kinetide run`.

pub use crate::config::RunArgs;

use super::Exit;
use crate::cause::chain;
use crate::clock;
use crate::config::variables::Unknown;
use crate::config::{BadSetting, Config};
use crate::service;
use crate::telemetry::logs::{self, LogFilter};
use crate::terminal::{error_line, say, say_error};
use crate::worker::Drain;

/// Runs the service until a signal. `unknown`: variables that nobody knows.
///
/// # Errors
/// When the log cannot be set up.
pub async fn run(args: RunArgs, unknown: &[Unknown]) -> anyhow::Result<Exit> {
    let format = args.log_format;
    clock::be_wrong_by(args.clock_offset);
    let (filter, config) = match checked(args) {
        Ok(checked) => checked,
        Err(error) => {
            unknown.iter().for_each(|variable| say(format!("warning: {variable}")));
            say_error(error);
            return Ok(Exit::BadSettings);
        }
    };
    let log = logs::init(format, filter)?;
    for variable in unknown {
        tracing::warn!(
            variable = variable.name,
            meant = variable.meant,
            "unknown environment variable: it has no effect"
        );
    }
    let exit = match service::run(config).await {
        Ok(Drain::Clean) => Exit::Done,
        Ok(Drain::CutShort) => Exit::Failed,
        Err(error) => {
            let exit = if error.is_wrong_setting() { Exit::BadSettings } else { Exit::Failed };
            log.line(&error_line(chain(&error)));
            exit
        }
    };
    // Not for long: nobody may read the log.
    log.flush();
    Ok(exit)
}

/// The settings, where they can be used.
pub(super) fn checked(args: RunArgs) -> Result<(LogFilter, Config), BadSetting> {
    let filter = args.log.parse().map_err(|reason| BadSetting::new("log", &args.log, reason))?;
    Ok((filter, Config::try_from(args)?))
}
