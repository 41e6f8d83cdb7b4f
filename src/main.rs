//! The binary: parse, run, exit code. Everything else is in the library.

use std::process::ExitCode;

use kinetide::internals::cli::{Cli, Exit, panics};
use kinetide::internals::terminal::say_error;

fn main() -> ExitCode {
    panics::abort_on_panic();
    let cli = Cli::of_this_process();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say_error(format!("could not start the async runtime: {error}"));
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(Box::pin(cli.run())) {
        Ok(exit) => exit.into(),
        Err(error) => {
            say_error(kinetide::internals::cause::chain(error.as_ref()));
            Exit::Failed.into()
        }
    }
}
