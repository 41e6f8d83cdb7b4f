//! The settings that count, and where each of them comes from.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::variables::{Given, Origin};
use crate::config::{Config, StreamConfig};

/// Flags that are no settings of a worker.
const OWN: [&str; 3] = ["help", "json", "version"];
/// Flags whose values are nobody's business.
const SECRET: [&str; 4] = ["external-id", "password", "secret", "token"];
const HIDDEN: &str = "(hidden)";

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    /// Its flag, without hyphens.
    pub(super) setting: String,
    /// The stream that it is about, where streams stand in the settings file.
    pub(super) stream: Option<String>,
    /// None where there is none.
    pub(super) value: Option<String>,
    pub(super) from: From,
    /// The variable or the file.
    pub(super) source: Option<String>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum From {
    Flag,
    Variable,
    /// The settings file.
    File,
    /// As the clients of AWS found it.
    Aws,
    Default,
}

/// All of them, in the order of the help page. `region`: as the clients of AWS found it.
pub(super) fn effective(given: &[Given], config: &Config, region: Option<String>) -> Vec<Setting> {
    let of_streams = [
        "source",
        "table",
        "stream",
        "stream-role",
        "transform",
        "landing",
        "errors",
        "initial-position",
        "retrieval",
        "consumer-name",
    ];
    let file = config.streams.file.as_ref().map(|file| file.display().to_string());
    let mut all = Vec::new();
    for given in given.iter().filter(|given| !OWN.contains(&given.flag.as_str())) {
        if file.is_none() || !of_streams.contains(&given.flag.as_str()) {
            all.push(one(given, config, region.as_deref()));
            continue;
        }
        for (stream, said) in config.streams.streams.iter().zip(&config.streams.in_file) {
            let in_file = said.contains(&given.flag.as_str());
            let mut setting = one(given, config, None);
            setting.stream = Some(stream.address.to_string());
            setting.value = of_stream(&given.flag, stream, setting.value);
            if in_file {
                (setting.from, setting.source) = (From::File, file.clone());
            }
            all.push(setting);
        }
    }
    all
}

fn one(given: &Given, config: &Config, region: Option<&str>) -> Setting {
    let (from, source) = match &given.origin {
        Origin::Flag => (From::Flag, None),
        Origin::Variable(name) => (From::Variable, Some(name.clone())),
        Origin::Default if given.flag == "region" && region.is_some() => (From::Aws, None),
        Origin::Default => (From::Default, None),
    };
    let value = given.value.clone().or_else(|| derived(&given.flag, config, region));
    let value = value.map(|value| shown(&given.flag, value));
    Setting { setting: given.flag.clone(), stream: None, value, from, source }
}

/// What follows for a setting that nobody says.
fn derived(flag: &str, config: &Config, region: Option<&str>) -> Option<String> {
    Some(match flag {
        "application" => config.application.clone(),
        "consumer-name" => config.application.clone(),
        "cloudwatch-namespace" => config.cloudwatch.as_ref().map(|_| config.application.clone())?,
        "landing" => {
            let landings = config.streams.streams.iter().filter_map(StreamConfig::landing);
            let folders: BTreeSet<&str> = landings.map(|landing| landing.layout.landing.as_str()).collect();
            folders.into_iter().collect::<Vec<_>>().join(",")
        }
        "leases-max" | "throughput-max" => "no limit".to_owned(),
        "region" => region?.to_owned(),
        "worker-id" => "host name and a random part".to_owned(),
        _ => return None,
    })
}

/// What a table of the settings file says, or leaves to a flag.
fn of_stream(flag: &str, stream: &StreamConfig, given: Option<String>) -> Option<String> {
    let layout = stream.landing().map(|landing| &landing.layout);
    match flag {
        "source" => Some(stream.kind().as_str().to_owned()),
        "table" => stream.address.table().map(ToString::to_string),
        "stream" => stream.address.table().is_none().then(|| stream.address.to_string()),
        "stream-role" => stream.role.as_ref().map(|role| role.arn.to_string()),
        "transform" => stream.landing().map(|landing| landing.transform.id().name().to_owned()),
        "landing" => layout.map(|layout| layout.landing.clone()),
        "errors" => layout.map(|layout| layout.errors.clone()),
        "initial-position" => Some(match stream.initial_timestamp_us {
            Some(us) => crate::clock::utc(us),
            None => stream.initial.as_str().to_ascii_lowercase().replace('_', "-"),
        }),
        _ => given,
    }
}

/// Without what is secret: a password may stand in the URL of an endpoint.
fn shown(flag: &str, value: String) -> String {
    if SECRET.iter().any(|word| flag.contains(word)) {
        return HIDDEN.to_owned();
    }
    match url::Url::parse(&value) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            let hidden = url.set_username("").and_then(|()| url.set_password(None));
            hidden.map_or_else(|()| HIDDEN.to_owned(), |()| url.to_string())
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        for (flag, value, text) in [
            ("lake-role-external-id", "team:7", HIDDEN),
            ("http-token", "abc", HIDDEN),
            ("s3-endpoint", "https://me:pass@minio:9000/x", "https://minio:9000/x"),
            ("s3-endpoint", "https://minio:9000", "https://minio:9000"),
            ("lake", "s3://lake/raw", "s3://lake/raw"),
            (
                "stream",
                "arn:aws:kinesis:eu-north-1:111122223333:stream/trades",
                "arn:aws:kinesis:eu-north-1:111122223333:stream/trades",
            ),
        ] {
            assert_eq!(shown(flag, value.to_owned()), text);
        }
    }
}
