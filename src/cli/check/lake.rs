//! The lake: whether it takes objects and replaces none, in each folder that rows and dead letters go to.

use std::collections::BTreeSet;

use super::report::Item;
use super::service::{Part, bounded, credentials, endpoint};
use crate::aws::{Heard, bucket, bucket_config, reach};
use crate::batch::HIGH_RISK_ALERTS;
use crate::cause::chain;
use crate::config::{Config, LakeConfig, LakePlace, Landing, StreamConfig};
use crate::deliver::{LakeUrl, ObjectSink};
use crate::preflight::{check_lake, open_lake};

const PROBE: &str = "probe";

pub(super) async fn look(config: &Config) -> Part {
    let Some(LakeConfig { place: LakePlace::Url(url), s3, .. }) = &config.lake else {
        return Part::default();
    };
    let about = format!("lake {url}");
    let mut part = Part::default();
    let folders = folders(config);
    let not_looked_at = |part: &mut Part, why: &str| {
        let rest = std::iter::once(PROBE.to_owned()).chain(folders.iter().cloned());
        part.items.extend(rest.map(|item| Item::not_looked_at(&about, item, why)));
    };
    if let LakeUrl::S3 { bucket: name, .. } = url {
        let (region, given) = (config.region.as_deref(), config.endpoints.s3.as_deref());
        let sdk = bucket_config(s3.role.as_ref(), given, region).await;
        if s3.role.is_some() {
            let role = credentials(&about, &sdk, s3.role.as_ref()).await;
            let assumed = role.is_ok();
            part.items.push(role);
            if !assumed {
                part.items.push(Item::not_looked_at(&about, "endpoint", "the role cannot be assumed"));
                not_looked_at(&mut part, "the role cannot be assumed");
                return part;
            }
        }
        // Settings that make no bucket are said by the opening below, as a start would.
        if let Ok(bucket) = bucket(&sdk, name).await {
            let answer = bounded(reach(&bucket.url)).await.and_then(|answer| answer);
            part.heard = match &answer {
                Ok(heard) => heard.clone(),
                Err(_) => Heard::silent(&bucket.url),
            };
            part.items.push(endpoint(&about, &part.heard, answer.as_ref().err().map(String::as_str)));
            if answer.is_err() {
                not_looked_at(&mut part, "the endpoint does not answer");
                return part;
            }
        }
    }
    let sink = match open_lake(url, s3, config).await {
        Ok(sink) => sink,
        Err(error) => {
            part.items.push(Item::refused(PROBE, &error));
            let why = "the lake cannot be opened";
            part.items.extend(folders.iter().map(|item| Item::not_looked_at(&about, item, why)));
            return part;
        }
    };
    part.items.push(match check_lake(Some(&sink), config).await {
        Ok(()) => Item::ok(&about, PROBE, "takes objects, and replaces none"),
        Err(error) => Item::refused(PROBE, &error),
    });
    // A policy may allow one folder and not another.
    for folder in &folders {
        part.items.push(in_folder(&about, &sink, folder).await);
    }
    let _ = bounded(sink.settled()).await;
    part
}

/// Where rows and dead letters go, and copies for alerts.
fn folders(config: &Config) -> BTreeSet<String> {
    let layouts = config.streams.streams.iter().filter_map(StreamConfig::landing);
    let folders = layouts.flat_map(|Landing { layout, .. }| {
        let alerts = layout.alerts.then(|| HIGH_RISK_ALERTS.to_owned());
        [layout.landing.clone(), layout.errors.clone()].into_iter().chain(alerts)
    });
    folders.collect()
}

async fn in_folder(about: &str, sink: &ObjectSink, folder: &str) -> Item {
    match bounded(sink.rehearse(folder)).await {
        Ok(Ok(())) => Item::ok(about, folder, "takes objects"),
        Ok(Err(error)) => Item::failed(about, folder, chain(&error)),
        Err(late) => Item::failed(about, folder, late),
    }
}
