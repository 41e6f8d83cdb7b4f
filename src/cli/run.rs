//! `kinetide run`.

use clap::Args;

use super::Exit;

/// Flags of `kinetide run`.
#[derive(Debug, Args)]
pub struct RunArgs {}

/// Runs the command.
pub async fn run(_args: RunArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
