//! Looks at everything, what belongs to different services side by side, and each item for a limited time.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::report::Item;
use super::{clock, lake, out, streams, table};
use crate::aws::{self, AssumeRole, Heard, sdk_config};
use crate::cli::health;
use crate::clock::utc;
use crate::config::Config;
use crate::config::variables::Unknown;
use crate::preflight;

const AWS: &str = "AWS";

/// No item may take longer, unless it says so.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(10);

/// The region that counts, and all items in the order of a start.
pub(super) async fn look(config: &Config, unknown: &[Unknown]) -> (Option<String>, Vec<Item>) {
    let dynamodb = sdk_config(config.endpoints.dynamodb.as_deref(), config.region.as_deref()).await;
    let mut items = settings(config, unknown).await;
    let region = preflight::region(&dynamodb);
    items.push(match &region {
        Ok(region) => Item::ok(AWS, "region", region),
        Err(missing) => Item::failed(AWS, "region", missing.problem()),
    });
    items.push(credentials(AWS, &dynamodb, None).await);
    let looked = config.streams.streams.iter().map(|stream| streams::look(config, stream));
    let (streams, table, lake, firehose, cloudwatch) = tokio::join!(
        join_all(looked),
        table::look(config, &dynamodb),
        lake::look(config),
        out::firehose(config),
        out::cloudwatch(config),
    );
    let leases = table.leases(config, &streams).await;
    let mut heard = Vec::new();
    for stream in streams {
        items.extend(stream.items);
        heard.push(stream.heard);
    }
    heard.push(table.heard.clone());
    items.extend(table.items);
    items.push(leases);
    for part in [lake, firehose, cloudwatch] {
        items.extend(part.items);
        heard.push(part.heard);
    }
    items.push(clock::look(&heard));
    (region.ok(), items)
}

/// What was looked at of one service.
#[derive(Default)]
pub(super) struct Part {
    pub(super) items: Vec<Item>,
    pub(super) heard: Heard,
}

async fn settings(config: &Config, unknown: &[Unknown]) -> Vec<Item> {
    const ABOUT: &str = "settings";
    let mut items = vec![Item::ok(ABOUT, "values", "each can be used, and they fit each other")];
    items.extend(config.oddities().into_iter().map(|oddity| Item::warning(ABOUT, "values", oddity)));
    items.extend(unknown.iter().map(|each| Item::warning(ABOUT, "variables", each.to_string())));
    if let Some(address) = config.http {
        let about = format!("--http {address}");
        items.push(match preflight::listen(address).await {
            Ok(_) => Item::ok(&about, "address", "is free"),
            // Who looks beside a running worker finds its address taken, and all is well.
            Err(taken) if health::is_alive(address).await => {
                let text = format!("{}; a worker that runs here already has it", taken.problem());
                Item::warning(&about, "address", text)
            }
            Err(error) => Item::refused("address", &error),
        });
    }
    items
}

/// Whether there are credentials, in this role if there is one.
pub(super) async fn credentials(about: &str, sdk: &aws_config::SdkConfig, role: Option<&AssumeRole>) -> Item {
    let item = if role.is_some() { "role" } else { "credentials" };
    let found = match role {
        Some(role) => format!("{} can be assumed", role.arn),
        None => "found".to_owned(),
    };
    match bounded(aws::credentials(sdk, role)).await {
        Ok(Ok(kept)) if kept.made_up => {
            Item::ok(about, item, "none; made up, as an endpoint on this machine needs none")
        }
        Ok(Ok(kept)) => {
            let since_epoch = kept.until.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let us = since_epoch.and_then(|time| i64::try_from(time.as_micros()).ok());
            let until = us.map(|us| format!("; valid until {}", utc(us)));
            Item::ok(about, item, format!("{found}{}", until.unwrap_or_default()))
        }
        Ok(Err(nobody)) => Item::failed(about, item, nobody.to_string()),
        Err(late) => Item::failed(about, item, late),
    }
}

/// The result, or that there is none in time.
pub(super) async fn bounded<T>(look: impl Future<Output = T>) -> Result<T, String> {
    within(LOOK_MAX, look).await
}

/// The same with another limit.
pub(super) async fn within<T>(limit: Duration, look: impl Future<Output = T>) -> Result<T, String> {
    timeout(limit, look).await.map_err(|_| {
        format!(
            "hangs: no result within {} s; check the endpoint, the network and the region",
            limit.as_secs()
        )
    })
}

/// Whether anybody answers at an endpoint. `problem`: what the first call to it came to, if it failed.
pub(super) fn endpoint(about: &str, heard: &Heard, problem: Option<&str>) -> Item {
    const ITEM: &str = "endpoint";
    match (&heard.url, problem) {
        (Some(url), _) if heard.answered => Item::ok(about, ITEM, format!("{url} answers")),
        (Some(url), problem) => Item::failed(
            about,
            ITEM,
            format!("{url}: {}", problem.unwrap_or("no answer; check the endpoint")),
        ),
        // Without credentials or a region there is no request.
        (None, problem) => Item::failed(about, ITEM, problem.unwrap_or("no request was sent")),
    }
}
