//! The lease table: whether it is there and whole, who may join its fleet, whose leases are in it, and what a worker may do
//! there.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{BillingMode, PointInTimeRecoveryStatus, TableDescription};
use serde_json::json;

use super::report::{Item, several};
use super::service::{LOOK_MAX, bounded, endpoint, within};
use super::streams;
use crate::aws::{Ear, Heard};
use crate::cause::chain;
use crate::config::Config;
use crate::lease::dynamodb::{DynamoDbLeaseTable, Lacks, Sight};
use crate::lease::{LeaseTable, StreamSet, SyncError, TableError, TableSnapshot, prove};
use crate::preflight::{check_table, not_our_leases, not_usable};

const LEASES: &str = "leases";

/// What was found of the table.
pub(super) struct Looked {
    pub(super) items: Vec<Item>,
    pub(super) heard: Heard,
    about: String,
    table: Arc<DynamoDbLeaseTable>,
    /// Its rows; or why nobody looked, or what came of it.
    rows: Result<TableSnapshot, Item>,
}

pub(super) async fn look(config: &Config, sdk: &SdkConfig) -> Looked {
    let ear = Ear::default();
    let client = aws_sdk_dynamodb::config::Builder::from(sdk).interceptor(ear.clone()).build();
    let client = aws_sdk_dynamodb::Client::from_conf(client);
    let application = &config.application;
    let table = DynamoDbLeaseTable::new(client.clone(), application).with_failover(config.failover);
    let table = Arc::new(table);
    let about = format!("lease table {application}");
    let described = check_table(&client, application).await;
    let heard = ear.heard();
    let mut items = vec![endpoint(&about, &heard, described.as_ref().err().map(|error| error.problem()))];
    let not_yet = |why: &str| Err(Item::not_looked_at(&about, LEASES, why));
    let rest = |why: &str| ["fleet", "permissions"].map(|item| Item::not_looked_at(&about, item, why));
    let rows = match described {
        Err(error) if heard.answered => {
            items.push(Item::refused("table", &error));
            items.extend(rest("the table could not be looked at"));
            not_yet("the table could not be looked at")
        }
        Err(_) => {
            items.push(Item::not_looked_at(&about, "table", "the endpoint does not answer"));
            items.extend(rest("the endpoint does not answer"));
            not_yet("the endpoint does not answer")
        }
        Ok(described) => {
            // It watches for a failover time where somebody may work by the rules of KCL 2.x.
            let sight = within(config.failover + LOOK_MAX, Box::pin(table.look())).await;
            let sight = sight.map_err(|late| Item::failed(&about, "table", late));
            let sight = sight.and_then(|sight| {
                sight.map_err(|error| Item::refused("table", &not_usable(application, error)))
            });
            match (sight, described) {
                (Err(refused), _) => {
                    items.push(refused);
                    items.extend(rest("a worker would not start with this table"));
                    not_yet("a worker would not start with this table")
                }
                (Ok(_), None) => {
                    items.push(Item::ok(&about, "table", "not there: would be created by the first worker"));
                    let why = "dynamodb:CreateTable and the calls to the table cannot be tried without it";
                    items.extend(rest(why));
                    not_yet("there is no table yet")
                }
                (Ok(sight), Some(found)) => {
                    items.push(whole(&about, &client, &found, sight).await);
                    items.push(fleet(&about, sight));
                    items.push(permissions(config, &about, &table, sight).await);
                    match bounded(table.snapshot()).await {
                        Ok(Ok(rows)) => Ok(rows),
                        Ok(Err(error)) => Err(refused(application, LEASES, error)),
                        Err(late) => Err(Item::failed(&about, LEASES, late)),
                    }
                }
            }
        }
    };
    Looked { items, heard, about, table, rows }
}

fn refused(application: &str, item: &str, error: TableError) -> Item {
    Item::refused(item, &not_usable(application, error))
}

async fn whole(
    about: &str,
    client: &aws_sdk_dynamodb::Client,
    table: &TableDescription,
    sight: Sight,
) -> Item {
    let billing = table.billing_mode_summary().and_then(|summary| summary.billing_mode());
    // Tables that never were anything else do not say it.
    let on_demand = billing == Some(&BillingMode::PayPerRequest);
    let protected = table.deletion_protection_enabled();
    let name = table.table_name().unwrap_or_default();
    // A worker does not need this permission, so that nothing follows where it is missing.
    let backups = bounded(Box::pin(client.describe_continuous_backups().table_name(name).send())).await;
    let recovery = backups.ok().and_then(Result::ok).and_then(|answer| {
        let described = answer.continuous_backups_description?.point_in_time_recovery_description?;
        Some(described.point_in_time_recovery_status? == PointInTimeRecoveryStatus::Enabled)
    });
    let seen = |seen: Option<bool>| seen.map_or("not visible", |on| if on { "on" } else { "off" });
    let layout = if sight.three_tables { "three tables (KCL 3.0 to 3.4)" } else { "one table (KCL 3.5)" };
    let said = format!(
        "{}, {}, {layout}, deletion protection {}, point-in-time recovery {}",
        table.table_status().map_or("status not said", |status| status.as_str()),
        if on_demand { "on-demand" } else { "provisioned" },
        seen(protected),
        seen(recovery),
    );
    let item = match sight.lacks {
        Lacks::Nothing => Item::ok(about, "table", said),
        Lacks::Index => Item::ok(
            about,
            "table",
            format!(
                "{said}; the first worker would add the index of lease owners (dynamodb:UpdateTable, not tried)"
            ),
        ),
        Lacks::Time(what) => {
            Item::warning(about, "table", format!("{said}; {what} is being made: a worker would wait for it"))
        }
        Lacks::Table => Item::warning(about, "table", "it was deleted a moment ago: check again"),
    };
    item.with(json!({
        "status": table.table_status().map(|status| status.as_str()),
        "billing": if on_demand { "on_demand" } else { "provisioned" },
        "layout": if sight.three_tables { "three_tables" } else { "one_table" },
        "index": sight.lacks == Lacks::Nothing,
        "deletion_protection": protected,
        "point_in_time_recovery": recovery,
    }))
}

fn fleet(about: &str, sight: Sight) -> Item {
    match (sight.lacks, sight.declared) {
        (Lacks::Time(_) | Lacks::Table, _) => Item::not_looked_at(about, "fleet", "the table is not ready"),
        (_, true) => Item::ok(about, "fleet", "works by the rules of KCL 3.x; this worker may join"),
        (_, false) => Item::ok(about, "fleet", "has not said how it works; nobody works as KCL 2.x does"),
    }
}

/// The calls of a worker that nothing else here makes.
async fn permissions(config: &Config, about: &str, table: &DynamoDbLeaseTable, sight: Sight) -> Item {
    const ITEM: &str = "permissions";
    let tried = async {
        let owned = match sight.lacks {
            Lacks::Nothing => Some(table.owned_by(&config.worker).await),
            _ => None,
        };
        (owned, table.rehearse().await)
    };
    let (owned, writes) = match bounded(Box::pin(tried)).await {
        Ok(tried) => tried,
        Err(late) => return Item::failed(about, ITEM, late),
    };
    let mut allowed = Vec::new();
    let mut problems = Vec::new();
    let query = owned.map(|owned| ("Query", config.application.clone(), owned.map(drop)));
    let writes = writes.into_iter().map(|write| (write.operation, write.table, write.outcome));
    for (operation, of, outcome) in query.into_iter().chain(writes) {
        let place = if of == config.application { String::new() } else { format!(" on {of}") };
        match outcome {
            Ok(()) => allowed.push(format!("{operation}{place}")),
            Err(error) => {
                let error = not_usable(&config.application, error);
                problems.push(format!("{operation}{place}: {}", error.problem()));
            }
        }
    }
    let facts = json!({ "allowed": allowed });
    let item = if problems.is_empty() {
        Item::ok(about, ITEM, format!("allowed: {}", allowed.join(", ")))
    } else {
        Item::failed(about, ITEM, problems.join("; "))
    };
    item.with(facts)
}

impl Looked {
    /// Whether the leases are those of these streams.
    pub(super) async fn leases(&self, config: &Config, streams: &[streams::Looked]) -> Item {
        let rows = match &self.rows {
            Ok(rows) => rows,
            Err(item) => return item.clone(),
        };
        let known: Vec<_> = streams.iter().filter_map(|stream| stream.leases.clone()).collect();
        let set = match known.as_slice() {
            // With several streams, only the form of the keys is compared at a start.
            _ if config.streams.several => StreamSet::Several(known),
            [only] => StreamSet::One(only.clone()),
            _ => return Item::not_looked_at(&self.about, LEASES, "the stream could not be looked at"),
        };
        let (leases, workers, odd) = (rows.leases.len(), rows.workers.len(), rows.odd.len());
        match bounded(prove(set, Arc::clone(&self.table) as _)).await {
            Ok(Ok(())) => {
                let said = format!("{}, {}", several(leases, "lease"), several(workers, "worker"));
                let item = if odd > 0 {
                    Item::warning(
                        &self.about,
                        LEASES,
                        format!("{said}; not understood: {}", several(odd, "row")),
                    )
                } else {
                    Item::ok(&self.about, LEASES, said)
                };
                item.with(json!({ "leases": leases, "workers": workers, "odd_rows": odd }))
            }
            Ok(Err(SyncError::NotOurs(not_ours))) => {
                Item::refused(LEASES, &not_our_leases(&config.application, &not_ours))
            }
            Ok(Err(SyncError::Table(error))) => refused(&config.application, LEASES, error),
            Ok(Err(error)) => Item::failed(&self.about, LEASES, chain(&error)),
            Err(late) => Item::failed(&self.about, LEASES, late),
        }
    }
}
