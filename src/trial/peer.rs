//! Another consumer as a worker: how it is started, and what it is told by its environment.

use std::path::PathBuf;

use tokio::process::Command;

use super::workers::{BATCH_AGE, FAILOVER, WorkerSettings, program};

/// The shell's `exec` makes the consumer the very process that is killed, stopped and measured.
pub(super) fn command(line: &str, settings: &WorkerSettings, id: &str) -> Command {
    let mut command = program("/bin/sh");
    command.args(["-c", &format!("exec {line}")]);
    // Where the consumer runs is its own affair, so a folder is given from the root.
    let lake = match settings.lake.contains("://") {
        true => settings.lake.clone(),
        false => {
            let folder = PathBuf::from(&settings.lake);
            std::path::absolute(&folder).unwrap_or(folder).display().to_string()
        }
    };
    let endpoints = &settings.endpoints;
    for (name, value) in [
        ("KINETIDE_PEER_STREAM", Some(settings.stream.clone())),
        ("KINETIDE_PEER_APPLICATION", Some(settings.application.clone())),
        ("KINETIDE_PEER_WORKER", Some(id.to_owned())),
        ("KINETIDE_PEER_LAKE", Some(lake)),
        ("KINETIDE_PEER_REGION", settings.region.clone()),
        ("KINETIDE_PEER_KINESIS", endpoints.kinesis.clone()),
        ("KINETIDE_PEER_DYNAMODB", endpoints.dynamodb.clone()),
        ("KINETIDE_PEER_S3", endpoints.s3.clone()),
        ("KINETIDE_PEER_BATCH_AGE_MS", Some(BATCH_AGE.as_millis().to_string())),
        ("KINETIDE_PEER_FAILOVER_MS", Some(FAILOVER.as_millis().to_string())),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}
