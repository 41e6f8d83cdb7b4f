//! Checks on the rows of workers and leader, and on the index of lease owners.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kinetide::internals::lease::{LeaderRow, LeaseKey, LeaseWrite, WorkerRow};
use tokio::time::sleep;

use super::{Table, fresh, worker};

pub(super) async fn conform(table: &Table) {
    the_lock_has_one_holder(table).await;
    a_lock_is_taken_over_by_its_version(table).await;
    workers_report(table).await;
    workers_are_forgotten_by_their_last_report(table).await;
    the_index_follows_the_owner(table).await;
}

pub(super) fn lock(owner: &str, version: &str) -> LeaderRow {
    LeaderRow {
        owner: worker(owner),
        lease_duration: Duration::from_millis(120_001),
        version: version.into(),
        released: false,
        workers: 3,
        pending_format: 2,
    }
}

pub(super) fn report(id: &str, updated: u64) -> WorkerRow {
    WorkerRow {
        id: worker(id),
        updated,
        samples: BTreeMap::new(),
        limits: BTreeMap::new(),
        properties: BTreeMap::new(),
        support: Some(1),
    }
}

async fn the_lock_has_one_holder(table: &Table) {
    assert_eq!(table.leader().await.unwrap(), None);
    let candidates: Vec<LeaderRow> =
        (0..8).map(|number| lock(&format!("w{number}"), &format!("v{number}"))).collect();
    let race = candidates.iter().map(|row| table.lead(None, row));
    let won: Vec<bool> = join_all(race).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<&LeaderRow> =
        candidates.iter().zip(won).filter(|(_, won)| *won).map(|(row, _)| row).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(table.leader().await.unwrap().as_ref(), Some(winners[0]));
    assert!(!table.lead(None, &lock("late", "v9")).await.unwrap());
    assert!(!table.resign(&lock("w0", "other")).await.unwrap());
    assert!(table.resign(winners[0]).await.unwrap());
    assert_eq!(table.leader().await.unwrap(), None);
    assert!(!table.resign(winners[0]).await.unwrap(), "there is no row any more");
    assert!(!table.lead(Some(winners[0]), &lock("late", "v9")).await.unwrap());
}

async fn a_lock_is_taken_over_by_its_version(table: &Table) {
    let first = lock("a", "1");
    let second = LeaderRow { lease_duration: Duration::from_secs(6), ..lock("a", "2") };
    assert!(table.lead(None, &first).await.unwrap());
    assert!(table.lead(Some(&first), &second).await.unwrap(), "a heartbeat");
    assert_eq!(table.leader().await.unwrap().as_ref(), Some(&second));
    let other = lock("b", "3");
    assert!(!table.lead(Some(&first), &other).await.unwrap(), "the holder lives");
    assert!(!table.resign(&first).await.unwrap());
    assert!(table.lead(Some(&second), &other).await.unwrap(), "the holder is gone");
    assert!(!table.lead(Some(&second), &lock("a", "4")).await.unwrap(), "and back too late");
    assert_eq!(table.leader().await.unwrap().as_ref(), Some(&other));
    assert!(table.snapshot().await.unwrap().leases.iter().all(|lease| lease.key.as_str() != "Leader"));
    assert!(table.resign(&other).await.unwrap());
}

async fn workers_report(table: &Table) {
    let quiet = report("w-quiet", 1_795_156_386);
    let busy = WorkerRow {
        samples: [("C".to_owned(), vec![-1.0, 12.5, 0.0625]), ("T".to_owned(), Vec::new())].into(),
        limits: [("C".to_owned(), 100.0), ("T".to_owned(), 250.0)].into(),
        properties: [("zone".to_owned(), "a".to_owned())].into(),
        ..report("w-busy", 1_795_156_387)
    };
    for row in [&quiet, &busy] {
        assert_eq!(table.report(row).await.unwrap(), None);
        let later = WorkerRow { updated: row.updated + 30, ..row.clone() };
        assert_eq!(table.report(&later).await.unwrap().as_ref(), Some(row), "the row before it");
        assert_eq!(table.report(row).await.unwrap(), Some(later), "whatever is there");
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.workers.iter().filter(|known| known.id == row.id).collect::<Vec<_>>(), [row]);
        assert!(snapshot.odd.is_empty(), "{:?}", snapshot.odd);
        assert!(snapshot.leases.iter().all(|lease| lease.key.as_str() != row.id.as_str()));
    }
}

async fn workers_are_forgotten_by_their_last_report(table: &Table) {
    let old = report("w-gone", 100);
    table.report(&old).await.unwrap();
    let last = report("w-gone", 130);
    table.report(&last).await.unwrap();
    assert!(!table.forget_worker(&old).await.unwrap(), "it has reported since");
    assert!(table.forget_worker(&last).await.unwrap());
    assert!(!table.forget_worker(&last).await.unwrap());
    assert!(table.snapshot().await.unwrap().workers.iter().all(|row| row.id != last.id));
    assert_eq!(table.report(&last).await.unwrap(), None);
}

async fn the_index_follows_the_owner(table: &Table) {
    let mut rows = Vec::new();
    for number in 30..33 {
        rows.push(fresh(table, number).await);
    }
    let mut keys: Vec<LeaseKey> = rows.iter().map(|row| row.key.clone()).collect();
    keys.sort_unstable();
    owns(table, "ix-a", &[]).await;
    for row in &mut rows {
        *row = table.write(row, &LeaseWrite::Assign(worker("ix-a"))).await.unwrap();
    }
    owns(table, "ix-a", &keys).await;
    let handed = table.write(&rows[0], &LeaseWrite::HandOff(worker("ix-b"))).await.unwrap();
    owns(table, "ix-a", &keys[1..]).await;
    owns(table, "ix-b", &keys[..1]).await;
    let handed = table.write(&handed, &LeaseWrite::Evict).await.unwrap();
    owns(table, "ix-b", &keys[..1]).await;
    table.write(&handed, &LeaseWrite::Evict).await.unwrap();
    owns(table, "ix-b", &[]).await;
    table.delete(&rows[1]).await.unwrap();
    owns(table, "ix-a", &keys[2..]).await;
}

/// The index may lag behind the table.
pub(super) async fn owns(table: &Table, id: &str, keys: &[LeaseKey]) {
    let mut found = Vec::new();
    for _ in 0..100 {
        found = table.owned_by(&worker(id)).await.unwrap();
        found.sort_unstable();
        if found == keys {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} owns {} leases by the index, not {}", found.len(), keys.len());
}
