//! Checks on DynamoDB's items themselves: what is written, and what others may have written.

use std::sync::Arc;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use kinetide::internals::lease::{
    LeaderRow, Lease, LeaseKey, LeaseWrite, Pending, TableError, WorkerRow, WriteError,
};
use kinetide::internals::shard::{Checkpoint, ShardId};

use super::dynamodb::{Items, n, s};
use super::fleet::{lock, owns, report};
use super::{Table, at, fresh, shard, worker};

/// `leader` and `workers` are where such rows belong: in `leases`, or in tables of their own.
pub(super) async fn conform(table: &Table, leases: &Items, leader: &Items, workers: &Items) {
    leases_have_kcls_attributes(table, leases, leases.table == leader.table).await;
    the_lock_has_kcls_attributes(table, leader).await;
    workers_have_kcls_attributes(table, workers).await;
    rows_from_before_kcl_3_5_are_leases(table, leases).await;
    odd_rows_are_left_alone(table, leases).await;
    odd_workers_are_left_alone(table, workers).await;
    odd_locks_can_be_taken(table, leader).await;
    attributes_of_newer_versions_survive(table, leases, leader, workers).await;
    a_number_as_pending_state_is_ignored(table, leases).await;
    if leases.table == workers.table {
        a_worker_does_not_overwrite_other_rows(table, leases).await;
    }
    large_tables_are_read_to_the_end(table, leases).await;
}

async fn leases_have_kcls_attributes(table: &Table, rows: &Items, single: bool) {
    let row = fresh(table, 20).await;
    let key = row.key.as_str();
    let item = rows.get(key).await;
    assert_eq!(item.get("entityType"), single.then(|| s("LEASE")).as_ref());
    assert_eq!(item["endingHashKey"], s(&u128::MAX.to_string()));
    assert!(item["parentShardId"].is_ss());
    let absent = ["leaseOwner", "checkpointOwner", "childShardIds", "pendingCheckpoint", "throughputKBps"];
    assert!(absent.iter().all(|name| !item.contains_key(*name)));

    let pending = Pending { checkpoint: at(77, 3), state: Some(Arc::from([0u8, 255, 10].as_slice())) };
    let row = table.write(&row, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    let row = table.write(&row, &LeaseWrite::prepare(pending)).await.unwrap();
    let item = rows.get(key).await;
    assert_eq!(item["leaseOwner"], s("a"));
    assert_eq!(item["leaseCounter"], n(2));
    assert_eq!(item["checkpoint"], s("TRIM_HORIZON"));
    assert_eq!(item["pendingCheckpoint"], s("77"));
    assert_eq!(item["pendingCheckpointSubSequenceNumber"], n(3));
    assert_eq!(item["pendingCheckpointState"], AttributeValue::B(Blob::new([0u8, 255, 10])));

    let row = table.write(&row, &LeaseWrite::commit(at(77, 3))).await.unwrap();
    let item = rows.get(key).await;
    assert_eq!((&item["checkpoint"], &item["checkpointSubSequenceNumber"]), (&s("77"), &n(3)));
    assert!(item.keys().all(|name| !name.starts_with("pending")));

    let row = table.write(&row, &LeaseWrite::Renew { kbps: Some(1.0 / 3.0), caught_up: None }).await.unwrap();
    assert_eq!(row.throughput_kbps, Some(0.333_333), "six decimals");
    let row = table.write(&row, &LeaseWrite::Renew { kbps: Some(f64::NAN), caught_up: None }).await.unwrap();
    let row =
        table.write(&row, &LeaseWrite::Renew { kbps: Some(f64::INFINITY), caught_up: None }).await.unwrap();
    assert_eq!(row.throughput_kbps, Some(0.333_333), "what is no throughput leaves the last one");
    table.write(&row, &LeaseWrite::HandOff(worker("b"))).await.unwrap();
    let item = rows.get(key).await;
    assert_eq!((&item["leaseOwner"], &item["checkpointOwner"]), (&s("b"), &s("a")));
    assert_eq!(item["leaseCounter"], n(6));
}

async fn the_lock_has_kcls_attributes(table: &Table, rows: &Items) {
    assert!(table.lead(None, &lock("a", "e7b0")).await.unwrap());
    let item = rows.get("Leader").await;
    assert_eq!((&item["ownerName"], &item["leaseDuration"]), (&s("a"), &s("120001")));
    assert_eq!(item["recordVersionNumber"], s("e7b0"));
    let single = rows.key == "leaseKey";
    assert_eq!(item.get("entityType"), single.then(|| s("LEADER")).as_ref());
    assert_eq!(item["kinetideWorkers"], n(3));
    assert_eq!(item.len(), if single { 7 } else { 6 });
    assert!(table.resign(&lock("a", "e7b0")).await.unwrap());
    assert_eq!(rows.find("Leader").await, None);
}

async fn workers_have_kcls_attributes(table: &Table, rows: &Items) {
    table.report(&report("w-item", 77)).await.unwrap();
    let item = rows.get("w-item").await;
    let empty = AttributeValue::M([].into());
    assert_eq!((&item["lut"], &item["slu"], &item["sup"]), (&n(77), &n(77), &n(1)));
    assert_eq!((&item["sts"], &item["opr"]), (&empty, &empty));
    let single = rows.key == "leaseKey";
    assert_eq!(item.get("entityType"), single.then(|| s("WORKER_METRIC_STATS")).as_ref());
    assert_eq!(item.len(), if single { 7 } else { 6 });
}

async fn rows_from_before_kcl_3_5_are_leases(table: &Table, rows: &Items) {
    let legacy = [
        ("leaseCounter", n(41)),
        ("ownerSwitchesSinceCheckpoint", n(2)),
        ("checkpoint", s("TRIM_HORIZON")),
        ("checkpointSubSequenceNumber", n(0)),
        ("leaseOwner", s("java")),
    ];
    rows.put("legacy", &legacy).await;
    let row = table.get(&LeaseKey::parse("legacy")).await.unwrap().unwrap();
    assert_eq!((row.counter, row.owner_switches, row.hash_range), (41, 2, None));
    let row = table.write(&row, &LeaseWrite::Assign(worker("rust"))).await.unwrap();
    assert_eq!((row.counter, row.owner_switches), (42, 3));
    table.write(&row, &LeaseWrite::commit(at(5, 1))).await.unwrap();
    assert!(!rows.get("legacy").await.contains_key("entityType"), "updates never add the entity type");
}

async fn odd_rows_are_left_alone(table: &Table, rows: &Items) {
    let lease = |name: &str, value: AttributeValue| {
        let mut row = vec![
            ("leaseCounter", n(1)),
            ("checkpoint", s("LATEST")),
            ("checkpointSubSequenceNumber", n(0)),
            ("ownerSwitchesSinceCheckpoint", n(0)),
        ];
        row.retain(|(known, _)| *known != name);
        let name = [
            "leaseCounter",
            "checkpoint",
            "entityType",
            "parentShardId",
            "startingHashKey",
            "checkpointOwner",
        ]
        .into_iter()
        .find(|known| *known == name);
        row.push((name.unwrap(), value));
        row
    };
    let odd = [
        ("no-counter", vec![("checkpoint", s("LATEST"))]),
        ("no-checkpoint", vec![("leaseCounter", n(1))]),
        ("nothing", vec![]),
        ("odd-counter", lease("leaseCounter", s("1"))),
        ("last-counter", lease("leaseCounter", n(u64::MAX))),
        ("negative-counter", lease("leaseCounter", AttributeValue::N("-1".into()))),
        ("odd-place", lease("checkpoint", s("FROM_MARS"))),
        ("empty-place", lease("checkpoint", s(""))),
        ("odd-parents", lease("parentShardId", s("shardId-1"))),
        ("odd-range", lease("startingHashKey", s("a"))),
        ("empty-owner", lease("checkpointOwner", s(""))),
        ("newer-kind", lease("entityType", s("SHARD_GROUP"))),
        ("empty-kind", lease("entityType", s(""))),
        ("odd-kind", lease("entityType", n(1))),
    ];
    let known = [
        ("stream", lease("entityType", s("STREAM"))),
        ("migration", lease("entityType", s("TABLE_MIGRATION"))),
    ];
    for (key, row) in odd.iter().chain(&known) {
        rows.put(key, row).await;
    }
    for _ in 0..2 {
        let snapshot = table.snapshot().await.unwrap();
        let reported: Vec<&str> = snapshot.odd.iter().map(|row| row.key.as_str()).collect();
        for (key, _) in &odd {
            assert!(reported.contains(key), "{key} is reported");
        }
        for (key, _) in &known {
            assert!(!reported.contains(key), "{key} is known");
        }
        assert!(snapshot.odd.iter().all(|row| !row.problem.contains("FROM_MARS")), "values stay private");
        for (key, _) in odd.iter().chain(&known) {
            assert!(snapshot.leases.iter().all(|lease| lease.key.as_str() != *key), "{key} is no lease");
        }
    }
    for (key, row) in odd.iter().chain(&known) {
        let id = LeaseKey::parse(key);
        assert_eq!(table.get(&id).await.unwrap(), None);
        let lease = Lease { key: id, ..Lease::new(&shard(0), Checkpoint::Latest) };
        assert!(!table.create(&lease).await.unwrap());
        let answer = table.write(&lease, &LeaseWrite::Renew { kbps: None, caught_up: None }).await;
        assert!(matches!(answer, Err(WriteError::Conflict(None))), "{key}: {answer:?}");
        let item = rows.get(key).await;
        assert_eq!(item.len(), row.len() + 1, "{key} is untouched");
        assert!(row.iter().all(|(name, value)| item[*name] == *value), "{key} is untouched");
        rows.delete(key).await;
    }
}

async fn odd_workers_are_left_alone(table: &Table, rows: &Items) {
    table.report(&report("w-odd", 5)).await.unwrap();
    for (name, value, is_odd) in [
        ("lut", s("now"), true),
        ("sts", s("C"), true),
        ("sts", AttributeValue::M([("C".to_owned(), n(1))].into()), true),
        ("opr", AttributeValue::L(vec![n(1)]), true),
        ("sup", s("yes"), false),
        ("properties", n(1), false),
    ] {
        rows.set("w-odd", name, value.clone()).await;
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.odd.iter().any(|row| row.key == "w-odd"), is_odd, "{name} {value:?}");
        assert_eq!(
            snapshot.workers.iter().any(|row| row.id.as_str() == "w-odd"),
            !is_odd,
            "{name} {value:?}"
        );
        assert_eq!(rows.get("w-odd").await[name], value, "untouched");
        // Its own worker puts it right.
        table.report(&report("w-odd", 6)).await.unwrap();
        if name != "properties" {
            assert_eq!(table.report(&report("w-odd", 5)).await.unwrap(), Some(report("w-odd", 6)));
        }
    }
    rows.remove("w-odd", "lut").await;
    assert!(table.snapshot().await.unwrap().odd.iter().any(|row| row.key == "w-odd"));
    assert!(!table.forget_worker(&report("w-odd", 5)).await.unwrap());
    rows.delete("w-odd").await;
}

async fn odd_locks_can_be_taken(table: &Table, rows: &Items) {
    // Released without being deleted; then the mark is no longer ours to keep.
    rows.put(
        "Leader",
        &[
            ("ownerName", s("java")),
            ("leaseDuration", s("120000")),
            ("recordVersionNumber", s("1")),
            ("isReleased", s("1")),
        ],
    )
    .await;
    let released = table.leader().await.unwrap().unwrap();
    assert!(released.released);
    assert!(!table.lead(None, &lock("a", "2")).await.unwrap());
    assert!(table.lead(Some(&released), &lock("a", "2")).await.unwrap());
    assert!(!rows.get("Leader").await.contains_key("isReleased"));

    for (name, value) in [
        ("ownerName", n(1)),
        ("leaseDuration", n(120_000)),
        ("leaseDuration", s("soon")),
        ("recordVersionNumber", n(7)),
        ("recordVersionNumber", s("")),
        ("recordVersionNumber", AttributeValue::B(Blob::new([1]))),
    ] {
        rows.set("Leader", name, value.clone()).await;
        taken_once(table, &format!("{name} {value:?}")).await;
    }
    for name in ["ownerName", "leaseDuration", "recordVersionNumber"] {
        rows.remove("Leader", name).await;
        taken_once(table, name).await;
    }
    rows.put("Leader", &[]).await;
    taken_once(table, "nothing but the key").await;
    rows.remove("Leader", "recordVersionNumber").await;
    let unversioned = table.leader().await.unwrap().unwrap();
    assert!(table.resign(&unversioned).await.unwrap());
    assert!(!table.lead(Some(&unversioned), &lock("a", "3")).await.unwrap(), "there is no row any more");

    rows.put("Leader", &[("entityType", s("LEASE")), ("recordVersionNumber", s("1"))]).await;
    match table.leader().await {
        Err(TableError::Unusable { reason, .. }) => assert!(reason.contains("Leader"), "{reason}"),
        other => panic!("unexpected answer: {other:?}"),
    }
    rows.delete("Leader").await;
}

/// The lock can be read and taken, by one.
async fn taken_once(table: &Table, case: &str) {
    let seen = table.leader().await.unwrap().unwrap();
    let ours = LeaderRow { version: uuid::Uuid::new_v4().to_string().into(), ..lock("a", "") };
    assert!(table.lead(Some(&seen), &ours).await.unwrap(), "{case}");
    assert!(!table.lead(Some(&seen), &lock("b", "late")).await.unwrap(), "{case}");
    assert_eq!(table.leader().await.unwrap(), Some(ours), "{case}");
}

async fn attributes_of_newer_versions_survive(
    table: &Table,
    leases: &Items,
    leader: &Items,
    workers: &Items,
) {
    let mut row = fresh(table, 23).await;
    let key = row.key.clone();
    leases.set(key.as_str(), "newer", s("kept")).await;
    for write in [
        LeaseWrite::Assign(worker("a")),
        LeaseWrite::Renew { kbps: Some(1.0), caught_up: None },
        LeaseWrite::prepare(Pending { checkpoint: at(1, 0), state: None }),
        LeaseWrite::commit(at(1, 0)),
        LeaseWrite::SetChildren(vec![ShardId::new("c")]),
        LeaseWrite::SetHashRange(kinetide::internals::shard::HashKeyRange { start: 0, end: 1 }),
        LeaseWrite::SetStream("1:trades:1000".into()),
        LeaseWrite::HandOff(worker("b")),
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Evict,
    ] {
        row = table.write(&row, &write).await.unwrap();
        assert_eq!(leases.get(key.as_str()).await["newer"], s("kept"), "{write:?}");
    }

    assert!(table.lead(None, &lock("a", "1")).await.unwrap());
    leader.set("Leader", "data", AttributeValue::B(Blob::new([1]))).await;
    assert!(table.lead(Some(&lock("a", "1")), &lock("a", "2")).await.unwrap());
    assert!(table.lead(Some(&lock("a", "2")), &lock("b", "3")).await.unwrap());
    assert_eq!(leader.get("Leader").await["data"], AttributeValue::B(Blob::new([1])));
    assert!(table.resign(&lock("b", "3")).await.unwrap());

    table.report(&report("w-newer", 1)).await.unwrap();
    workers.set("w-newer", "newer", s("kept")).await;
    workers.set("w-newer", "properties", AttributeValue::M([("zone".to_owned(), s("a"))].into())).await;
    table.report(&report("w-newer", 2)).await.unwrap();
    assert_eq!(workers.get("w-newer").await["newer"], s("kept"));
    let kept = WorkerRow { properties: [("zone".to_owned(), "a".to_owned())].into(), ..report("w-newer", 2) };
    assert_eq!(
        table.report(&report("w-newer", 3)).await.unwrap(),
        Some(kept),
        "what one does not report stays"
    );
}

async fn a_number_as_pending_state_is_ignored(table: &Table, rows: &Items) {
    let key = fresh(table, 21).await.key;
    rows.set(key.as_str(), "pendingCheckpoint", s("9")).await;
    rows.set(key.as_str(), "pendingCheckpointState", n(9)).await;
    let row = table.get(&key).await.unwrap().unwrap();
    assert_eq!(row.pending, Some(Pending { checkpoint: at(9, 0), state: None }));
}

async fn a_worker_does_not_overwrite_other_rows(table: &Table, rows: &Items) {
    let lease = fresh(table, 24).await;
    let before = rows.get(lease.key.as_str()).await;
    match table.report(&report(lease.key.as_str(), 1)).await {
        Err(TableError::Unusable { reason, .. }) => assert!(reason.contains("another id"), "{reason}"),
        other => panic!("unexpected answer: {other:?}"),
    }
    assert_eq!(rows.get(lease.key.as_str()).await, before);
    assert!(!table.forget_worker(&report(lease.key.as_str(), 1)).await.unwrap());
}

async fn large_tables_are_read_to_the_end(table: &Table, rows: &Items) {
    // Above one page of a megabyte: few large rows for the scan, many large keys for the index.
    for number in 100..105 {
        let row = fresh(table, number).await;
        let state: Arc<[u8]> = vec![7; 300_000].into();
        let pending = Pending { checkpoint: at(1, 0), state: Some(state) };
        table.write(&row, &LeaseWrite::prepare(pending)).await.unwrap();
    }
    let leases = table.snapshot().await.unwrap().leases;
    assert_eq!(
        leases.iter().filter(|row| row.pending.as_ref().is_some_and(|p| p.state.is_some())).count(),
        5
    );

    let keys: Vec<LeaseKey> = (0..1_100).map(|number| LeaseKey::parse(&format!("{number:01000}"))).collect();
    for some in keys.chunks(50) {
        let put = some.iter().map(|key| async move {
            rows.put(
                key.as_str(),
                &[("leaseCounter", n(1)), ("checkpoint", s("LATEST")), ("leaseOwner", s("ix-many"))],
            )
            .await;
        });
        futures::future::join_all(put).await;
    }
    owns(table, "ix-many", &keys).await;
}
