//! Rows about workers rather than shards as DynamoDB items: KCL's `WorkerMetricStats` and the lock of
//! `amazon-dynamodb-lock-client`. Pure.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::codec;
use super::item::{
    ENTITY_LEASE, ENTITY_TYPE, Item, LEASE_KEY, NotUnderstood, Update, measured, n, number, s, text,
};
use super::layout::{CLIENT_VERSION_ROW, State};
use crate::lease::fleet::{LeaderRow, PENDING_FORMAT_OF_ALL, WorkerRow};
use crate::lease::row::{Lease, WorkerId};

/// Key of the leader's row.
pub(super) const LEADER: &str = "Leader";

const ENTITY_WORKER: &str = "WORKER_METRIC_STATS";
const ENTITY_LEADER: &str = "LEADER";
const ENTITY_CLIENT_VERSION: &str = "CLIENT_VERSION_MIGRATION";
/// Rows of the single table that are neither leases nor workers.
const ENTITIES_ELSEWHERE: [&str; 4] = [ENTITY_LEADER, "STREAM", ENTITY_CLIENT_VERSION, "TABLE_MIGRATION"];

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
const WORKERS: &str = "kinetideWorkers";
const PENDING: &str = "kinetidePending";

/// The attribute with the state in [`CLIENT_VERSION_ROW`].
pub(super) const CLIENT_VERSION: &str = "cv";
/// The attribute with the state in the row of the table migration.
pub(super) const TABLE_MIGRATION: &str = "tm";
const MODIFIED_BY: &str = "mb";
const MODIFIED_AT: &str = "mts";

/// What KCL sets (`DynamoDBLockBasedLeaderDecider`); taken for a row that does not say.
const LEADER_LEASE: Duration = Duration::from_secs(120);

/// One row of a lease table, by its `entityType`.
#[derive(Debug, PartialEq)]
pub(super) enum TableRow {
    Lease(Box<Lease>),
    Worker(WorkerRow),
    /// Known, and read by its key where it is needed.
    Other,
}

/// The key of a row, whatever the row is.
pub(super) fn row_key(item: &Item, key: &str) -> Option<String> {
    item.get(key)?.as_s().ok().cloned()
}

/// Reads any row of a lease table. Rows from before KCL 3.5 have no `entityType` and are leases.
pub(super) fn decode(item: &Item) -> Result<TableRow, NotUnderstood> {
    match text(item, ENTITY_TYPE)? {
        None | Some(ENTITY_LEASE) => codec::decode(item).map(|lease| TableRow::Lease(Box::new(lease))),
        Some(ENTITY_WORKER) => worker(item, LEASE_KEY).map(TableRow::Worker),
        Some(entity) if ENTITIES_ELSEWHERE.contains(&entity) => Ok(TableRow::Other),
        Some(_) => Err(NotUnderstood::Foreign),
    }
}

/// Reads the row of a worker, whose id is in the attribute `key`.
pub(super) fn worker(item: &Item, key: &'static str) -> Result<WorkerRow, NotUnderstood> {
    let id = text(item, key)?.ok_or(NotUnderstood::Missing(key))?;
    let limits = map(item, LIMITS)?.into_iter().flatten().filter_map(|(name, values)| {
        // Java keeps a list and looks at the first only; a metric without one has no limit.
        floats(values, LIMITS).map(|values| Some((name.clone(), *values.first()?))).transpose()
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

/// Adds a worker's row; of two with the same id the newer one stays.
pub(super) fn merge(workers: &mut Vec<WorkerRow>, row: WorkerRow) {
    match workers.iter_mut().find(|known| known.id == row.id) {
        Some(known) if known.updated < row.updated => *known = row,
        Some(_) => {}
        None => workers.push(row),
    }
}

/// Writes a worker's row, whose id is in the attribute `key`; in the lease table not over a row of another kind.
/// Attributes that are not ours stay, and only the lease table tells kinds of rows apart.
pub(super) fn report(row: &WorkerRow, key: &str) -> Update {
    let mut out = Update::default();
    let mut set = Vec::new();
    if key == LEASE_KEY {
        let entity = out.value("entity", s(ENTITY_WORKER));
        out.condition = format!("attribute_not_exists({}) OR {ENTITY_TYPE} = {entity}", out.key(key));
        set.push(format!("{ENTITY_TYPE} = {entity}"));
    }
    let lists = |values: &[f64]| AttributeValue::L(values.iter().copied().map(measured).collect());
    let samples = row.samples.iter().map(|(name, values)| (name.clone(), lists(values))).collect();
    let limits = row.limits.iter().map(|(name, limit)| (name.clone(), whole(*limit))).collect();
    for (name, value) in [
        (UPDATED, n(row.updated)),
        (SAMPLES, AttributeValue::M(samples)),
        (LIMITS, AttributeValue::M(limits)),
    ] {
        set.push(format!("{name} = {}", out.value(name, value)));
    }
    // Java leaves out what it does not have.
    if !row.properties.is_empty() {
        let properties = row.properties.iter().map(|(name, value)| (name.clone(), s(value))).collect();
        set.push(format!("{PROPERTIES} = {}", out.value(PROPERTIES, AttributeValue::M(properties))));
    }
    if let Some(support) = row.support {
        set.push(format!("{SUPPORT} = {}", out.value(SUPPORT, n(support))));
        set.push(format!("{SUPPORT_UPDATED} = {}", out.value(UPDATED, n(row.updated))));
    }
    out.update = format!("SET {}", set.join(", "));
    out
}

/// Java reads these as a list of long integers and rejects the whole row where one has decimals; 0 is not valid.
fn whole(limit: f64) -> AttributeValue {
    let limit = if limit.is_nan() { 1.0 } else { limit.clamp(1.0, 1e15) };
    AttributeValue::L(vec![AttributeValue::N(format!("{limit:.0}"))])
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
        workers: number(item, WORKERS).ok().flatten().unwrap_or(0),
        pending_format: pending_format(item).unwrap_or(PENDING_FORMAT_OF_ALL),
    })
}

/// What the owner of this very version of the lock says of its fleet.
fn pending_format(item: &Item) -> Option<u64> {
    let (format, version) = text(item, PENDING).ok()??.split_once(' ')?;
    (Some(version) == text(item, VERSION).ok()?).then(|| format.parse().ok())?
}

/// Takes or keeps the lock in a table whose key is the attribute `key`; only the single table tells kinds of rows
/// apart. Attributes that are not ours stay, except the mark of a release.
pub(super) fn lead(seen: Option<&LeaderRow>, next: &LeaderRow, key: &str) -> Update {
    let mut out = match seen {
        Some(seen) => same_version(seen, key),
        None => absent(key),
    };
    let mut set = Vec::new();
    let duration = next.lease_duration.as_millis().to_string();
    for (name, value) in [
        (OWNER_NAME, s(next.owner.as_str())),
        (LEASE_DURATION, s(duration)),
        (VERSION, s(&*next.version)),
        (WORKERS, n(next.workers)),
        (PENDING, s(format!("{} {}", next.pending_format, next.version))),
    ] {
        set.push(format!("{name} = {}", out.value(name, value)));
    }
    if key == LEASE_KEY {
        set.push(format!("{ENTITY_TYPE} = {}", out.value(ENTITY_TYPE, s(ENTITY_LEADER))));
    }
    out.update = format!("SET {} REMOVE {RELEASED}", set.join(", "));
    out
}

/// The condition that there is no such row, in a table whose key is the attribute `key`.
pub(super) fn absent(key: &str) -> Update {
    let mut out = Update::default();
    out.condition = format!("attribute_not_exists({})", out.key(key));
    out
}

/// The condition that the lock has the version seen. The empty version stands for none that could be read.
pub(super) fn same_version(seen: &LeaderRow, key: &str) -> Update {
    let mut out = Update::default();
    let version = out.value("seen", s(&*seen.version));
    out.condition = if seen.version.is_empty() {
        let string = out.value("string", s("S"));
        format!(
            "attribute_exists({}) AND (NOT attribute_type({VERSION}, {string}) OR {VERSION} = {version})",
            out.key(key)
        )
    } else {
        format!("{VERSION} = {version}")
    };
    out
}

/// Reads one of the rows that hold a state in the attribute `name`.
pub(super) fn state(item: &Item, name: &str) -> State {
    let text =
        |name: &str| item.get(name).and_then(|value| value.as_s().ok()).filter(|text| !text.is_empty());
    State {
        name: text(name).map_or_else(|| format!("without a readable {name}"), Clone::clone),
        by: text(MODIFIED_BY).map_or_else(|| "nobody".to_owned(), Clone::clone),
    }
}

/// A new row for the state of the fleet, in a table whose key is the attribute `key`.
pub(super) fn client_version(version: &str, now_ms: i64, key: &str) -> Item {
    let mut item = Item::from([
        (key.to_owned(), s(CLIENT_VERSION_ROW)),
        (CLIENT_VERSION.to_owned(), s(version)),
        (MODIFIED_BY.to_owned(), s("kinetide")),
        (MODIFIED_AT.to_owned(), AttributeValue::N(now_ms.to_string())),
    ]);
    if key == LEASE_KEY {
        item.insert(ENTITY_TYPE.to_owned(), s(ENTITY_CLIENT_VERSION));
    }
    item
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::dynamodb::item::b;

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn numbers(values: &[&str]) -> AttributeValue {
        AttributeValue::L(values.iter().map(|value| AttributeValue::N((*value).to_owned())).collect())
    }

    fn map_of(name: &str, value: AttributeValue) -> AttributeValue {
        AttributeValue::M([(name.to_owned(), value)].into())
    }

    /// As KCL 3.5.1 writes it outside of EC2 and ECS, and with everything it can hold.
    fn java_worker() -> Item {
        item(&[
            ("entityType", s("WORKER_METRIC_STATS")),
            ("leaseKey", s("java-c")),
            ("lut", n(1_795_156_386)),
            ("opr", AttributeValue::M(HashMap::new())),
            ("slu", n(1_795_156_386)),
            ("sts", AttributeValue::M(HashMap::new())),
            ("sup", n(1)),
        ])
    }

    #[test]
    fn workers_of_java_are_understood() {
        let row = worker(&java_worker(), LEASE_KEY).unwrap();
        assert_eq!((row.id.as_str(), row.updated, row.support), ("java-c", 1_795_156_386, Some(1)));
        assert!(row.samples.is_empty() && row.limits.is_empty() && row.properties.is_empty());

        let mut full = java_worker();
        full.insert("sts".into(), map_of("C", numbers(&["-1", "5.0E-6", "42"])));
        full.insert("opr".into(), map_of("C", numbers(&["100", "0"])));
        full.insert("properties".into(), map_of("zone", s("a")));
        let row = worker(&full, LEASE_KEY).unwrap();
        assert_eq!(row.samples["C"], [-1.0, 5.0e-6, 42.0]);
        assert_eq!(row.limits["C"], 100.0, "the first counts");
        assert_eq!(row.properties["zone"], "a");
        assert_eq!(decode(&full), Ok(TableRow::Worker(row)));
    }

    #[test]
    fn nonsense_in_a_workers_row_is_named_where_it_matters() {
        for (name, value, problem) in [
            ("lut", s("now"), Some("lut")),
            ("lut", AttributeValue::N("1.5".into()), Some("lut")),
            ("sts", numbers(&["1"]), Some("sts")),
            ("sts", map_of("C", n(1)), Some("sts")),
            ("sts", map_of("C", AttributeValue::L(vec![s("1")])), Some("sts")),
            ("opr", map_of("C", s("1")), Some("opr")),
            ("opr", map_of("C", AttributeValue::L(Vec::new())), None),
            ("sts", AttributeValue::Null(true), None),
            ("sup", s("yes"), None),
            ("properties", n(1), None),
            ("properties", map_of("zone", n(1)), None),
        ] {
            let mut row = java_worker();
            row.insert(name.to_owned(), value.clone());
            let found = worker(&row, LEASE_KEY);
            match problem {
                Some(name) => assert!(matches!(found, Err(NotUnderstood::Malformed(found)) if found == name)),
                None => assert!(found.is_ok(), "{name} {value:?}"),
            }
        }
        let mut row = java_worker();
        row.remove("lut");
        assert_eq!(worker(&row, LEASE_KEY), Err(NotUnderstood::Missing("lut")));
        row.insert("lut".into(), n(1));
        row.remove("sts");
        row.remove("opr");
        assert!(worker(&row, LEASE_KEY).is_ok(), "a worker that measures nothing");
        assert_eq!(worker(&row, "wid"), Err(NotUnderstood::Missing("wid")));
    }

    #[test]
    fn what_a_worker_reports_can_be_stored_and_read() {
        let row = WorkerRow {
            id: WorkerId::new("w"),
            updated: 7,
            samples: [("C".to_owned(), vec![f64::NAN, f64::INFINITY, 12.5])].into(),
            limits: [("C".to_owned(), 100.0)].into(),
            properties: [("zone".to_owned(), "a".to_owned())].into(),
            support: Some(1),
        };
        let single = report(&row, LEASE_KEY);
        assert_eq!(single.condition, "attribute_not_exists(#key) OR entityType = :entity");
        assert_eq!(
            single.update,
            "SET entityType = :entity, lut = :lut, sts = :sts, opr = :opr, properties = :properties, sup = :sup, \
             slu = :lut"
        );
        let three = report(&WorkerRow { properties: [].into(), support: None, ..row }, "wid");
        assert_eq!(
            (three.condition.as_str(), three.update.as_str()),
            ("", "SET lut = :lut, sts = :sts, opr = :opr")
        );

        let mut stored = java_worker();
        stored.insert("sts".into(), single.values[":sts"].clone());
        stored.insert("opr".into(), single.values[":opr"].clone());
        let read = worker(&stored, LEASE_KEY).unwrap();
        assert_eq!(read.samples["C"], [-1.0, 1e15, 12.5]);
        assert_eq!(read.limits["C"], 100.0);
        let n = |text: &str| AttributeValue::L(vec![AttributeValue::N(text.to_owned())]);
        assert_eq!(stored["opr"], AttributeValue::M([("C".to_owned(), n("100"))].into()), "no decimals");
        assert_eq!(whole(f64::NAN), n("1"));
    }

    #[test]
    fn of_two_rows_of_a_worker_the_newer_one_counts() {
        let row = |updated| WorkerRow { updated, ..worker(&java_worker(), LEASE_KEY).unwrap() };
        for order in [[1, 2], [2, 1]] {
            let mut workers = vec![row(order[0])];
            merge(&mut workers, row(order[1]));
            assert_eq!(workers, [row(2)]);
        }
    }

    fn java_leader() -> Item {
        item(&[
            ("entityType", s("LEADER")),
            ("leaseKey", s("Leader")),
            ("ownerName", s("java-c")),
            ("leaseDuration", s("120000")),
            ("recordVersionNumber", s("e7b0")),
        ])
    }

    #[test]
    fn a_lock_can_always_be_read() {
        let row = leader(&java_leader()).unwrap();
        assert_eq!((row.owner.as_str(), &*row.version, row.released), ("java-c", "e7b0", false));
        assert_eq!(row.lease_duration, Duration::from_secs(120));

        let row = leader(&item(&[("key", s("Leader"))])).unwrap();
        assert_eq!((row.lease_duration, &*row.version), (Duration::from_secs(120), ""));
        for (name, value) in [
            ("ownerName", n(1)),
            ("ownerName", s("")),
            ("leaseDuration", s("soon")),
            ("leaseDuration", n(5)),
            ("leaseDuration", s("-5")),
            ("recordVersionNumber", b(&[1])),
            ("isReleased", n(1)),
        ] {
            let mut row = java_leader();
            row.insert(name.to_owned(), value.clone());
            let row = leader(&row).unwrap();
            assert!(!row.released && row.lease_duration == Duration::from_secs(120), "{name} {value:?}");
        }
        let mut released = java_leader();
        released.insert("isReleased".into(), s("1"));
        assert!(leader(&released).unwrap().released);
        let mut lease = java_leader();
        lease.insert("entityType".into(), s("LEASE"));
        assert_eq!(leader(&lease), Err(NotUnderstood::Malformed("entityType")));
    }

    /// A leader of another kind, or of a release before it, writes its version over ours and leaves the attribute.
    #[test]
    fn what_a_leader_says_of_its_fleet_ends_with_its_version() {
        let said = |pending: AttributeValue| {
            let mut row = java_leader();
            row.insert("kinetidePending".into(), pending);
            leader(&row).unwrap().pending_format
        };
        assert_eq!(leader(&java_leader()).unwrap().pending_format, 1);
        assert_eq!(said(s("2 e7b0")), 2);
        for other in [s("2 e7b1"), s("2"), s("two e7b0"), s(""), n(2)] {
            assert_eq!(said(other.clone()), 1, "{other:?}");
        }
        let next = LeaderRow { version: "f8c1".into(), pending_format: 2, ..leader(&java_leader()).unwrap() };
        assert_eq!(lead(None, &next, "key").values[":kinetidePending"], s("2 f8c1"));
    }

    #[test]
    fn expressions_of_the_lock_read_as_in_its_protocol() {
        let seen = leader(&java_leader()).unwrap();
        let next = LeaderRow { owner: WorkerId::new("me"), version: "f8c1".into(), ..seen.clone() };
        let acquire = lead(None, &next, "key");
        assert_eq!(acquire.condition, "attribute_not_exists(#key)");
        assert_eq!(
            acquire.update,
            "SET ownerName = :ownerName, leaseDuration = :leaseDuration, recordVersionNumber = :recordVersionNumber, \
             kinetideWorkers = :kinetideWorkers, kinetidePending = :kinetidePending REMOVE isReleased"
        );
        let keep = lead(Some(&seen), &next, LEASE_KEY);
        assert_eq!(keep.condition, "recordVersionNumber = :seen");
        assert!(keep.update.contains("entityType = :entityType"));
        assert_eq!((&keep.values[":seen"], &keep.values[":leaseDuration"]), (&s("e7b0"), &s("120000")));
        let unversioned = LeaderRow { version: "".into(), ..seen };
        assert_eq!(
            same_version(&unversioned, "key").condition,
            "attribute_exists(#key) AND (NOT attribute_type(recordVersionNumber, :string) OR recordVersionNumber = \
             :seen)"
        );
    }

    #[test]
    fn rows_are_told_apart_by_their_kind() {
        let lease = [
            ("leaseKey", s("shardId-000000000000")),
            ("leaseCounter", n(7)),
            ("checkpoint", s("TRIM_HORIZON")),
        ];
        assert!(
            matches!(decode(&item(&lease)), Ok(TableRow::Lease(lease)) if lease.counter == 7),
            "before KCL 3.5"
        );
        let mut lease = item(&lease);
        for (kind, expected) in [
            (s("LEADER"), Ok(TableRow::Other)),
            (s("STREAM"), Ok(TableRow::Other)),
            (s("CLIENT_VERSION_MIGRATION"), Ok(TableRow::Other)),
            (s("TABLE_MIGRATION"), Ok(TableRow::Other)),
            (s("WORKER_METRIC_STATS"), Err(NotUnderstood::Missing("lut"))),
            (s("COFFEE"), Err(NotUnderstood::Foreign)),
            (s(""), Err(NotUnderstood::Malformed("entityType"))),
            (n(1), Err(NotUnderstood::Malformed("entityType"))),
        ] {
            lease.insert("entityType".into(), kind);
            assert_eq!(decode(&lease), expected);
        }
        let unmarked = item(&[("leaseKey", s("Leader")), ("ownerName", s("java"))]);
        assert_eq!(decode(&unmarked), Err(NotUnderstood::Missing("leaseCounter")));
    }

    #[test]
    fn states_are_read_with_who_set_them() {
        let row = item(&[("cv", s("CLIENT_VERSION_2X")), ("mb", s("java-c")), ("mts", n(5))]);
        assert_eq!(state(&row, "cv").to_string(), "CLIENT_VERSION_2X, set by java-c");
        assert_eq!(state(&row, "tm").to_string(), "without a readable tm, set by java-c");
        let ours = client_version("CLIENT_VERSION_3X", 12, LEASE_KEY);
        assert_eq!(state(&ours, CLIENT_VERSION).to_string(), "CLIENT_VERSION_3X, set by kinetide");
        assert_eq!(decode(&ours), Ok(TableRow::Other));
        assert!(!client_version("CLIENT_VERSION_3X", 12, "key").contains_key("entityType"));
    }
}
