//! What is checked and made before a run.

use std::path::PathBuf;

use super::LoadPlan;
use super::chaos::Chaos;
use crate::deliver::LakeUrl;
use crate::trial::TrialError;
use crate::trial::folder;
use crate::trial::scene::TrialSource;

/// When the first worker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Before the first record.
    Before,
    /// While records are put.
    Amid,
    /// After some, on a stream at rest.
    After,
}

impl Begin {
    /// By the seed.
    pub(super) fn of(seed: u64) -> Self {
        [Self::Before, Self::Amid, Self::After][usize::try_from(seed % 3).expect("below three")]
    }
}

/// Faults between worker and server need proxies.
pub(super) fn check_wishes(plan: &LoadPlan) -> Result<(), TrialError> {
    let endpoints = [&plan.endpoints.kinesis, &plan.endpoints.dynamodb, &plan.endpoints.s3];
    let tls = endpoints.into_iter().flatten().find(|url| !url.starts_with("http://"));
    if let (Some(url), Some(kind)) = (tls, plan.chaos.0.iter().find(|kind| kind.needs_proxy())) {
        return Err(TrialError::Wish(format!(
            "--chaos {kind} needs a proxy in front of {url}, which TLS does not allow: leave it out, or use servers on \
             http://"
        )));
    }
    if plan.initial.is_some() && plan.worker_command.is_some() {
        let text = "--initial-position does not work with --worker-command: leave one of them out";
        return Err(TrialError::Wish(text.to_owned()));
    }
    if plan.streams() > 1 && plan.worker_command.is_some() {
        let flag = if plan.sources.len() > 1 { "--source with several kinds" } else { "--streams" };
        return Err(TrialError::Wish(format!(
            "{flag} does not work with --worker-command, whose lines name no stream: leave one of them out"
        )));
    }
    if plan.sources.contains(&TrialSource::Kafka) {
        let other = match (&plan.worker_command, plan.packed) {
            _ if plan.sources.len() > 1 => Some("other kinds in one run"),
            (Some(_), _) => Some("--worker-command, which reads a stream of Kinesis"),
            (_, Some(_)) => Some("--kpl: aggregates are records of Kinesis"),
            (None, None) => None,
        };
        if let Some(other) = other {
            return Err(TrialError::Wish(format!("--source kafka does not work with {other}")));
        }
    }
    let chosen = plan.chaos.0.contains(&Chaos::Broker);
    match (chosen, &plan.broker_command) {
        (true, None) => {
            let text = "--chaos broker needs --broker-command, a shell command that takes a broker of Kafka down and up again";
            return Err(TrialError::Wish(text.to_owned()));
        }
        (false, Some(_)) => {
            return Err(TrialError::Wish(
                "--broker-command needs --chaos broker: all is without it".to_owned(),
            ));
        }
        (true, Some(_)) if plan.kafka.is_none() => {
            let text = "--chaos broker needs --source kafka: other streams have no brokers";
            return Err(TrialError::Wish(text.to_owned()));
        }
        _ => {}
    }
    let tables = |source: &TrialSource| source.of_tables();
    if plan.sources.iter().any(tables) {
        let other = match (&plan.worker_command, &plan.endpoints.dynamodb) {
            (Some(_), _) => Some("--worker-command, which reads a stream of Kinesis"),
            (_, Some(_)) => {
                Some("--dynamodb-endpoint: only shards of the embedded DynamoDB rotate when they are told to")
            }
            (None, None) => None,
        };
        if let Some(other) = other {
            return Err(TrialError::Wish(format!("--source dynamodb-streams does not work with {other}")));
        }
    }
    if plan.packed.is_some() && plan.sources.iter().all(tables) {
        let text =
            "--kpl does not work with --source dynamodb-streams alone: aggregates are records of Kinesis";
        return Err(TrialError::Wish(text.to_owned()));
    }
    let on_s3 = matches!(plan.lake, Some(LakeUrl::S3 { .. }));
    if on_s3 && plan.endpoints.s3.is_none() && plan.chaos.0.contains(&Chaos::DiskFull) {
        let text = "--chaos disk-full on s3:// needs --s3-endpoint with a server on http://, or a folder as the lake";
        return Err(TrialError::Wish(text.to_owned()));
    }
    Ok(())
}

/// What workers are set to that copy rows.
const ALERTS: &str = "[alerts]\nhigh_risk = true\n";

/// The settings file of the workers, where they have one. `streams`: what it says of streams.
pub(super) fn settings(plan: &LoadPlan, streams: &str) -> Result<Option<PathBuf>, TrialError> {
    let alerts = if plan.alerts { ALERTS } else { "" };
    let text = [alerts, streams].concat();
    if text.is_empty() {
        return Ok(None);
    }
    let path = plan.dir.join("settings.toml");
    std::fs::write(&path, text).map_err(|error| TrialError::server(path.display().to_string(), error))?;
    Ok(Some(path))
}

/// Makes the folders; answers the lake and the folder of the logs.
pub(super) fn prepare(plan: &LoadPlan, name: &str) -> Result<(LakeUrl, PathBuf), TrialError> {
    folder::prepare(&plan.dir, &["logs"])?;
    let lake = match &plan.lake {
        None => LakeUrl::Folder(plan.dir.join("lake")),
        Some(LakeUrl::Folder(folder)) => LakeUrl::Folder(folder.join(name)),
        Some(LakeUrl::S3 { bucket, prefix }) => {
            let prefix = [prefix.as_str(), name].into_iter().filter(|part| !part.is_empty());
            let prefix = prefix.collect::<Vec<_>>().join("/");
            LakeUrl::S3 { bucket: bucket.clone(), prefix }
        }
    };
    Ok((lake, plan.dir.join("logs")))
}
