//! `kinetide transform`.

use clap::Args;

use super::Exit;

/// Flags of `kinetide transform`.
#[derive(Debug, Args)]
pub struct TransformArgs {}

/// Runs the command.
pub async fn run(_args: TransformArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
