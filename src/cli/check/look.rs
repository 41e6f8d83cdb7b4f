//! Looks at everything, what belongs to different services side by side, and each item for a limited time.

use futures::future::join_all;

use super::report::Item;
use super::service::credentials;
use super::{clock, lake, out, streams, table};
use crate::aws::sdk_config;
use crate::cli::health;
use crate::config::Config;
use crate::config::variables::Unknown;
use crate::preflight;

const AWS: &str = "AWS";

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
