//! What is looked at of every service: who asks, whether anybody answers, and for how long that may take.

use std::time::Duration;

use tokio::time::timeout;

use super::report::Item;
use crate::aws::{self, AssumeRole, Heard};
use crate::clock::utc;

/// No item may take longer, unless it says so.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(10);

/// What was looked at of one service.
#[derive(Default)]
pub(super) struct Part {
    pub(super) items: Vec<Item>,
    pub(super) heard: Heard,
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
