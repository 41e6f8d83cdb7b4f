//! `kinetide generate`.

use clap::Args;

use super::Exit;

/// Flags of `kinetide generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {}

/// Runs the command.
pub async fn run(_args: GenerateArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
