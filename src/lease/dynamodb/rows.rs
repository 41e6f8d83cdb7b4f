//! Rows about workers rather than shards as DynamoDB items: KCL's `WorkerMetricStats` and the lock of
//! `amazon-dynamodb-lock-client`. Pure.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::codec;
use super::item::{
    ENTITY_LEASE, ENTITY_TYPE, Item, LEASE_KEY, NotUnderstood, Update, measured, n, number, s, text,
};
use crate::lease::fleet::{LeaderRow, WorkerRow};
use crate::lease::row::{Lease, WorkerId};

/// Key of the leader's row.
pub(super) const LEADER: &str = "Leader";

const ENTITY_WORKER: &str = "WORKER_METRIC_STATS";
const ENTITY_LEADER: &str = "LEADER";
/// Rows of the single table that are neither leases nor workers.
const ENTITIES_ELSEWHERE: [&str; 4] =
    [ENTITY_LEADER, "STREAM", "CLIENT_VERSION_MIGRATION", "TABLE_MIGRATION"];

const UPDATED: &str = "lut";
const SAMPLES: &str = "sts";
const LIMITS: &str = "opr";
const PROPERTIES: &str = "properties";
const SUPPORT: &str = "sup";
const SUPPORT_UPDATED: &str = "slu";

const OWNER_NAME: &str = "ownerName";
const LEASE_DURATION: &str = "leaseDuration";
const VERSION: &str = "recordVersionNumber";
const RELEASED: &str = "isReleased";

/// What KCL sets (`DynamoDBLockBasedLeaderDecider`); taken for a row that does not say.
const LEADER_LEASE: Duration = Duration::from_secs(120);

/// One row of a lease table, by its `entityType`.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    Lease(Lease),
    Worker(WorkerRow),
    /// Known, and read by its key where it is needed.
    Other,
}

/// The key of a row, whatever the row is.
pub(super) fn row_key(item: &Item, key: &str) -> Option<String> {
    item.get(key)?.as_s().ok().cloned()
}

/// Reads any row of a lease table. Rows from before KCL 3.5 have no `entityType` and are leases.
pub(super) fn decode(item: &Item) -> Result<Row, NotUnderstood> {
    match text(item, ENTITY_TYPE)? {
        None | Some(ENTITY_LEASE) => codec::decode(item).map(Row::Lease),
        Some(ENTITY_WORKER) => worker(item, LEASE_KEY).map(Row::Worker),
        Some(entity) if ENTITIES_ELSEWHERE.contains(&entity) => Ok(Row::Other),
        Some(_) => Err(NotUnderstood::Foreign),
    }
}

/// Reads the row of a worker, whose id is in the attribute `key`.
pub(super) fn worker(item: &Item, key: &'static str) -> Result<WorkerRow, NotUnderstood> {
    let id = text(item, key)?.ok_or(NotUnderstood::Missing(key))?;
    let limits = map(item, LIMITS)?.into_iter().flatten().filter_map(|(name, values)| {
        // Java keeps a list and looks at the first only; a metric without one has no limit.
        Some(floats(values, LIMITS).map(|values| Some((name.clone(), *values.first()?))).transpose()?)
    });
    let samples = map(item, SAMPLES)?.into_iter().flatten();
    let samples = samples.map(|(name, values)| Ok((name.clone(), floats(values, SAMPLES)?)));
    let texts = |(name, value): (&String, &AttributeValue)| Some((name.clone(), value.as_s().ok()?.clone()));
    Ok(WorkerRow {
        id: WorkerId::new(id),
        updated: number(item, UPDATED)?.ok_or(NotUnderstood::Missing(UPDATED))?,
        samples: samples.collect::<Result<_, _>>()?,
        limits: limits.collect::<Result<_, _>>()?,
        properties: item
            .get(PROPERTIES)
            .and_then(|value| value.as_m().ok())
            .map(|properties| properties.iter().filter_map(texts).collect())
            .unwrap_or_default(),
        support: number(item, SUPPORT).ok().flatten(),
    })
}

/// Writes a worker's row, whose id is in the attribute `key`, unless there is a row of another kind. Attributes that
/// are not ours stay.
pub(super) fn report(row: &WorkerRow, key: &str) -> Update {
    let mut out = Update::default();
    let entity = out.value("entity", s(ENTITY_WORKER));
    let untyped = if key == LEASE_KEY {
        format!("attribute_not_exists({key})")
    } else {
        format!("attribute_not_exists({ENTITY_TYPE})")
    };
    out.condition = format!("{untyped} OR {ENTITY_TYPE} = {entity}");
    let lists = |values: &[f64]| AttributeValue::L(values.iter().copied().map(measured).collect());
    let samples = row.samples.iter().map(|(name, values)| (name.clone(), lists(values))).collect();
    let limits = row.limits.iter().map(|(name, limit)| (name.clone(), lists(&[*limit]))).collect();
    let properties = row.properties.iter().map(|(name, value)| (name.clone(), s(value))).collect();
    let mut set = vec![format!("{ENTITY_TYPE} = {entity}")];
    for (name, value) in [
        (UPDATED, n(row.updated)),
        (SAMPLES, AttributeValue::M(samples)),
        (LIMITS, AttributeValue::M(limits)),
        (PROPERTIES, AttributeValue::M(properties)),
    ] {
        set.push(format!("{name} = {}", out.value(name, value)));
    }
    if let Some(support) = row.support {
        set.push(format!("{SUPPORT} = {}", out.value(SUPPORT, n(support))));
        set.push(format!("{SUPPORT_UPDATED} = {}", out.value(UPDATED, n(row.updated))));
    }
    out.update = format!("SET {}", set.join(", "));
    out
}

/// The condition that the row of a worker has not been written since.
pub(super) fn unreported(seen: &WorkerRow) -> Update {
    let mut out = Update::default();
    out.condition = format!("{UPDATED} = {}", out.value("seen", n(seen.updated)));
    out
}

/// Reads the leader's lock.
///
/// A lock without an owner, duration or version can still expire and be taken like any other; Java workers would
/// stumble over it for ever. One that belongs to another kind of row is refused.
pub(super) fn leader(item: &Item) -> Result<LeaderRow, NotUnderstood> {
    if !matches!(text(item, ENTITY_TYPE)?, None | Some(ENTITY_LEADER)) {
        return Err(NotUnderstood::Malformed(ENTITY_TYPE));
    }
    let duration = text(item, LEASE_DURATION).ok().flatten().and_then(|millis| millis.parse().ok());
    Ok(LeaderRow {
        owner: WorkerId::new(text(item, OWNER_NAME).ok().flatten().unwrap_or("(unknown)")),
        lease_duration: duration.map_or(LEADER_LEASE, Duration::from_millis),
        version: text(item, VERSION).ok().flatten().unwrap_or_default().into(),
        released: text(item, RELEASED).is_ok_and(|released| released == Some("1")),
    })
}

/// Takes or keeps the lock in a table whose key is the attribute `key`; only the single table tells kinds of rows
/// apart. Attributes that are not ours stay, except the mark of a release.
pub(super) fn lead(seen: Option<&LeaderRow>, next: &LeaderRow, key: &str) -> Update {
    let mut out = match seen {
        Some(seen) => same_version(seen, key),
        None => Update { condition: format!("attribute_not_exists({key})"), ..Update::default() },
    };
    let mut set = Vec::new();
    let duration = next.lease_duration.as_millis().to_string();
    for (name, value) in
        [(OWNER_NAME, s(next.owner.as_str())), (LEASE_DURATION, s(duration)), (VERSION, s(&*next.version))]
    {
        set.push(format!("{name} = {}", out.value(name, value)));
    }
    if key == LEASE_KEY {
        set.push(format!("{ENTITY_TYPE} = {}", out.value(ENTITY_TYPE, s(ENTITY_LEADER))));
    }
    out.update = format!("SET {} REMOVE {RELEASED}", set.join(", "));
    out
}

/// The condition that the lock has the version seen. The empty version stands for none that could be read.
pub(super) fn same_version(seen: &LeaderRow, key: &str) -> Update {
    let mut out = Update::default();
    let version = out.value("seen", s(&*seen.version));
    out.condition = if seen.version.is_empty() {
        let string = out.value("string", s("S"));
        format!(
            "attribute_exists({key}) AND (NOT attribute_type({VERSION}, {string}) OR {VERSION} = {version})"
        )
    } else {
        format!("{VERSION} = {version}")
    };
    out
}

fn map<'a>(
    item: &'a Item,
    name: &'static str,
) -> Result<Option<&'a HashMap<String, AttributeValue>>, NotUnderstood> {
    let map = item.get(name).filter(|value| !value.is_null()).map(AttributeValue::as_m);
    map.transpose().map_err(|_| NotUnderstood::Malformed(name))
}

fn floats(values: &AttributeValue, name: &'static str) -> Result<Vec<f64>, NotUnderstood> {
    let float =
        |value: &AttributeValue| value.as_n().ok()?.parse::<f64>().ok().filter(|value| value.is_finite());
    let values = values.as_l().ok().and_then(|values| values.iter().map(float).collect());
    values.ok_or(NotUnderstood::Malformed(name))
}
