//! `kinetide local`.

use clap::Args;

use super::Exit;

/// Flags of `kinetide local`.
#[derive(Debug, Args)]
pub struct LocalArgs {}

/// Runs the command.
pub async fn run(_args: LocalArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
