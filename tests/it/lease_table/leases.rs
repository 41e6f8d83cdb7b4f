//! Checks on the rows of leases.

use std::sync::Arc;

use futures::future::join_all;
use kinetide::internals::lease::{CaughtUp, Lease, LeaseKey, LeaseWrite, Pending, WriteError, apply};
use kinetide::internals::shard::{Checkpoint, HashKeyRange, ShardId};

use super::{Table, at, fresh, shard, worker};

pub(super) async fn conform(table: &Table) {
    a_created_row_is_read_back(table).await;
    creation_has_one_winner(table).await;
    the_counter_race_is_exact(table).await;
    every_write_has_the_effect_of_apply(table).await;
    a_conflict_shows_the_row(table).await;
    owners_must_be_as_seen(table).await;
    a_hand_off_leaves_the_old_owner_its_checkpoints(table).await;
    the_leader_race_for_a_lease_has_one_winner(table).await;
    deleting_is_conditional(table).await;
}

async fn a_created_row_is_read_back(table: &Table) {
    let lease = fresh(table, 0).await;
    assert_eq!(table.get(&lease.key).await.unwrap().as_ref(), Some(&lease));
    assert!(table.snapshot().await.unwrap().leases.contains(&lease));
    assert_eq!(table.get(&LeaseKey::parse("nowhere")).await.unwrap(), None);
}

async fn creation_has_one_winner(table: &Table) {
    let create = |n: u64| {
        let mut lease = Lease::new(&shard(1), Checkpoint::TrimHorizon);
        lease.owner_switches = n;
        async move { (n, table.create(&lease).await.unwrap()) }
    };
    let winners: Vec<u64> =
        join_all((0..8).map(create)).await.into_iter().filter(|(_, won)| *won).map(|(n, _)| n).collect();
    assert_eq!(winners.len(), 1);
    let row = table.get(&shard(1).id.into()).await.unwrap().unwrap();
    assert_eq!(row.owner_switches, winners[0], "the row is the winner's");
}

async fn the_counter_race_is_exact(table: &Table) {
    let key = fresh(table, 2).await.key;
    let writer = |_| {
        let key = key.clone();
        async move {
            let mut accepted = 0;
            for _ in 0..10 {
                let seen = table.get(&key).await.unwrap().unwrap();
                match table.write(&seen, &LeaseWrite::Renew { kbps: None, caught_up: None }).await {
                    Ok(row) => {
                        assert_eq!(row.counter, seen.counter + 1);
                        accepted += 1;
                    }
                    Err(WriteError::Conflict(Some(row))) => assert!(row.counter > seen.counter),
                    // A busy server may refuse a writer; then the write has not happened.
                    Err(WriteError::NotWritten(_)) => {}
                    Err(error) => panic!("unexpected answer: {error:?}"),
                }
            }
            accepted
        }
    };
    let accepted: u64 = join_all((0..8).map(writer)).await.into_iter().sum();
    let row = table.get(&key).await.unwrap().unwrap();
    assert!(accepted >= 10);
    assert_eq!(row.counter, accepted, "one accepted write per counter");
}

async fn every_write_has_the_effect_of_apply(table: &Table) {
    let mut row = fresh(table, 3).await;
    let state: Arc<[u8]> = (0..=255u8).collect::<Vec<_>>().into();
    let pending = |state| Pending { checkpoint: at(2u128.pow(100), 7), state };
    let children = vec![ShardId::new("child-a"), ShardId::new("child-b")];
    for write in [
        LeaseWrite::Assign(worker("a")),
        LeaseWrite::Renew { kbps: None, caught_up: None },
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Renew { kbps: Some(0.000_5), caught_up: None },
        LeaseWrite::prepare(pending(Some(Arc::clone(&state)))),
        // The batch is remembered until a checkpoint passes it.
        LeaseWrite::commit(at(1, 0)),
        LeaseWrite::commit(at(2, 0)),
        LeaseWrite::Commit { to: at(3, 0), arrived_us: Some(1), epoch: Some(7) },
        LeaseWrite::prepare(pending(Some(Arc::clone(&state)))),
        LeaseWrite::Prepare { pending: pending(Some(state)), epoch: Some(8) },
        LeaseWrite::Commit { to: at(2u128.pow(100), 7), arrived_us: None, epoch: Some(8) },
        LeaseWrite::Renew { kbps: None, caught_up: None },
        LeaseWrite::prepare(pending(None)),
        LeaseWrite::commit(at(2u128.pow(100), 7)),
        LeaseWrite::Renew { kbps: Some(2048.75), caught_up: None },
        LeaseWrite::Renew { kbps: None, caught_up: Some(caught_up(7)) },
        LeaseWrite::Renew { kbps: Some(1.0), caught_up: None },
        LeaseWrite::Renew { kbps: None, caught_up: Some(caught_up(8)) },
        LeaseWrite::SetChildren(children),
        LeaseWrite::SetChildren(Vec::new()),
        LeaseWrite::SetHashRange(HashKeyRange { start: 5, end: u128::MAX - 1 }),
        LeaseWrite::SetStream("1:trades:1000".into()),
        LeaseWrite::HandOff(worker("c")),
        LeaseWrite::Renew { kbps: Some(0.0), caught_up: None },
        LeaseWrite::commit(at(2u128.pow(100), 8)),
        LeaseWrite::Assign(worker("c")),
        LeaseWrite::HandOff(worker("d")),
        LeaseWrite::Assign(worker("c")),
        LeaseWrite::HandOff(worker("d")),
        LeaseWrite::Evict,
        LeaseWrite::Evict,
        LeaseWrite::Evict,
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::commit(Checkpoint::ShardEnd),
    ] {
        let expected = apply(&row, &write);
        row = table.write(&row, &write).await.unwrap();
        assert_eq!(row, expected, "answer of {write:?}");
        assert_eq!(table.get(&row.key).await.unwrap(), Some(expected), "row after {write:?}");
    }
    assert!(row.finished());
}

fn caught_up(at_us: i64) -> CaughtUp {
    CaughtUp { after: 2u128.pow(100).into(), at_us, retention_hours: 24 }
}

async fn a_conflict_shows_the_row(table: &Table) {
    let old = fresh(table, 4).await;
    let taken = table.write(&old, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    for write in [
        LeaseWrite::Renew { kbps: None, caught_up: None },
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::HandOff(worker("b")),
        LeaseWrite::Evict,
        LeaseWrite::prepare(Pending { checkpoint: at(9, 0), state: None }),
        LeaseWrite::commit(at(9, 0)),
        LeaseWrite::SetChildren(vec![ShardId::new("child")]),
        LeaseWrite::SetHashRange(HashKeyRange { start: 0, end: 1 }),
        LeaseWrite::SetStream("1:trades:1000".into()),
    ] {
        match table.write(&old, &write).await {
            Err(WriteError::Conflict(Some(row))) => assert_eq!(*row, taken, "conflict of {write:?}"),
            other => panic!("unexpected answer to {write:?}: {other:?}"),
        }
    }
    assert_eq!(table.get(&old.key).await.unwrap(), Some(taken));
}

/// The counter alone does not show that a hand-off has begun.
async fn owners_must_be_as_seen(table: &Table) {
    let unowned = fresh(table, 6).await;
    let owned = table.write(&unowned, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    let handed = table.write(&owned, &LeaseWrite::HandOff(worker("b"))).await.unwrap();
    assert_eq!(handed.counter, owned.counter);
    let as_by = |owner: Option<&str>, checkpoint_owner: Option<&str>| Lease {
        owner: owner.map(worker),
        checkpoint_owner: checkpoint_owner.map(worker),
        ..handed.clone()
    };
    for seen in [
        as_by(None, None),
        as_by(Some("a"), None),
        as_by(Some("b"), None),
        as_by(None, Some("a")),
        as_by(Some("a"), Some("a")),
        as_by(Some("b"), Some("c")),
    ] {
        for write in [LeaseWrite::Assign(worker("c")), LeaseWrite::Evict] {
            refused(table, &seen, &write, &handed).await;
        }
    }
    // One hand-off at a time, and nobody hands off what nobody has.
    for seen in [&unowned, &owned, &handed, &as_by(None, None)] {
        refused(table, seen, &LeaseWrite::HandOff(worker("c")), &handed).await;
    }
    let free = fresh(table, 7).await;
    refused(table, &free, &LeaseWrite::HandOff(worker("c")), &free).await;
}

async fn refused(table: &Table, seen: &Lease, write: &LeaseWrite, stands: &Lease) {
    match table.write(seen, write).await {
        Err(WriteError::Conflict(Some(row))) => assert_eq!(*row, *stands, "{write:?} by {seen:?}"),
        other => panic!("unexpected answer to {write:?} by {seen:?}: {other:?}"),
    }
}

async fn a_hand_off_leaves_the_old_owner_its_checkpoints(table: &Table) {
    let row = fresh(table, 8).await;
    let row = table.write(&row, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    let handed = table.write(&row, &LeaseWrite::HandOff(worker("b"))).await.unwrap();
    assert_eq!(handed.actual_owner(), Some(&worker("a")));
    // The old owner does not know yet: it cannot renew, and learns why.
    refused(table, &row, &LeaseWrite::Renew { kbps: None, caught_up: None }, &handed).await;
    // Neither write is about owners.
    let row = table.write(&row, &LeaseWrite::commit(at(3, 0))).await.unwrap();
    assert_eq!((row.owner.as_ref(), row.checkpoint_owner.as_ref()), (Some(&worker("b")), Some(&worker("a"))));
    let row = table.write(&row, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    let done = table.write(&row, &LeaseWrite::Assign(worker("b"))).await.unwrap();
    assert_eq!((done.owner.as_ref(), done.checkpoint_owner.as_ref()), (Some(&worker("b")), None));
    assert_eq!(done.owner_switches, 0, "the switch was decided before the last checkpoint");
    // A zombie.
    refused(table, &row, &LeaseWrite::commit(at(4, 0)), &done).await;
}

async fn the_leader_race_for_a_lease_has_one_winner(table: &Table) {
    let row = fresh(table, 9).await;
    let row = table.write(&row, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    let writes = (0..6).map(|number| {
        let to = worker(&format!("to-{number}"));
        if number % 2 == 0 { LeaseWrite::Assign(to) } else { LeaseWrite::HandOff(to) }
    });
    let race = writes.map(|write| {
        let seen = &row;
        async move { table.write(seen, &write).await.ok().map(|row| (write, row)) }
    });
    let won: Vec<_> = join_all(race).await.into_iter().flatten().collect();
    let [(write, written)] = won.as_slice() else { panic!("one winner: {won:?}") };
    assert_eq!(*written, apply(&row, write));
    assert_eq!(table.get(&row.key).await.unwrap().as_ref(), Some(written));
}

async fn deleting_is_conditional(table: &Table) {
    let old = fresh(table, 5).await;
    let row = table.write(&old, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.unwrap();
    match table.delete(&old).await {
        Err(WriteError::Conflict(Some(found))) => assert_eq!(*found, row),
        other => panic!("unexpected answer: {other:?}"),
    }
    table.delete(&row).await.unwrap();
    assert_eq!(table.get(&row.key).await.unwrap(), None);
    for answer in [
        table.write(&row, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.map(drop),
        table.delete(&row).await,
    ] {
        assert!(matches!(answer, Err(WriteError::Conflict(None))), "deleted: {answer:?}");
    }
}
