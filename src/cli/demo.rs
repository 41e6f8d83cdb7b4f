//! `kinetide demo`.

use clap::Args;

use super::Exit;

/// Flags of `kinetide demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {}

/// Runs the command.
pub async fn run(_args: DemoArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
