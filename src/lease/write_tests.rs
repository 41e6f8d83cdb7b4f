//! What each write changes in a row, and that it changes nothing else.

use super::*;
use crate::shard::Position;

fn worker(id: &str) -> WorkerId {
    WorkerId::new(id)
}

fn at(number: u128) -> Checkpoint {
    Checkpoint::At(Position::new(number.into()))
}

fn batch(last: u128) -> Pending {
    Pending { checkpoint: at(last), state: Some(Arc::from(&b"state"[..])) }
}

/// Owned by `a`, with something in each attribute.
fn row() -> Lease {
    Lease {
        key: ShardId::new("shard").into(),
        owner: Some(worker("a")),
        counter: 7,
        owner_switches: 3,
        checkpoint: at(10),
        pending: Some(batch(20)),
        last_prepared: LastPrepared::of(&batch(20), &at(10)),
        parents: vec![ShardId::new("parent")],
        children: vec![ShardId::new("child")],
        hash_range: Some(HashKeyRange { start: 1, end: 2 }),
        throughput_kbps: Some(1.5),
        moves: 2,
        stream: Some("1:trades:1000".into()),
        start_us: Some(5),
        caught_up: Some(caught_up(10)),
        delivered: Delivered::of(&at(10), Some(6)),
        written: WrittenBy::of(&at(10), Some(3)),
        checkpoint_owner: None,
    }
}

fn caught_up(after: u128) -> CaughtUp {
    CaughtUp { after: after.into(), at_us: 7, retention_hours: 24 }
}

fn renew() -> LeaseWrite {
    LeaseWrite::Renew { kbps: None, caught_up: None }
}

#[test]
fn each_write_changes_what_it_says_and_nothing_else() {
    let moved = || Lease { counter: 8, ..row() };
    let expect =
        |write: LeaseWrite, expected: Lease| assert_eq!(apply(&row(), &write), expected, "{write:?}");
    expect(renew(), moved());
    expect(
        LeaseWrite::Renew { kbps: Some(2.5), caught_up: None },
        Lease { throughput_kbps: Some(2.5), ..moved() },
    );
    let later = Some(caught_up(11));
    let noted = Lease { caught_up: later.clone(), ..moved() };
    expect(LeaseWrite::Renew { kbps: None, caught_up: later }, noted);
    expect(LeaseWrite::Assign(worker("a")), moved());
    let given = Lease { owner: Some(worker("b")), owner_switches: 4, moves: 3, ..moved() };
    expect(LeaseWrite::Assign(worker("b")), given);
    expect(LeaseWrite::Evict, Lease { owner: None, ..moved() });
    let prepared = Lease {
        pending: Some(batch(30)),
        last_prepared: LastPrepared::of(&batch(30), &at(10)),
        owner_switches: 0,
        ..moved()
    };
    expect(LeaseWrite::prepare(batch(30)), prepared.clone());
    let written = WrittenBy::of(&at(30), Some(4));
    expect(LeaseWrite::Prepare { pending: batch(30), epoch: Some(4) }, Lease { written, ..prepared });
    let committed = |at| Lease {
        checkpoint: at,
        pending: None,
        owner_switches: 0,
        start_us: None,
        written: None,
        ..moved()
    };
    expect(LeaseWrite::commit(at(19)), committed(at(19)));
    for end in [at(20), at(21), Checkpoint::ShardEnd] {
        expect(LeaseWrite::commit(end.clone()), Lease { last_prepared: None, ..committed(end) });
    }
    let noted = Lease { delivered: Delivered::of(&at(19), Some(11)), ..committed(at(19)) };
    expect(LeaseWrite::Commit { to: at(19), arrived_us: Some(11), epoch: None }, noted);
    let noted = Lease { written: WrittenBy::of(&at(19), Some(0)), ..committed(at(19)) };
    expect(LeaseWrite::Commit { to: at(19), arrived_us: None, epoch: Some(0) }, noted);
    let pin = LeaseWrite::Pin { checkpoint: Checkpoint::TrimHorizon, start_us: Some(9) };
    expect(pin, Lease { checkpoint: Checkpoint::TrimHorizon, start_us: Some(9), ..moved() });
    let pin = LeaseWrite::Pin { checkpoint: at(4), start_us: None };
    expect(pin, Lease { checkpoint: at(4), start_us: None, ..moved() });
    // What others than the owner may write moves no counter.
    let children = vec![ShardId::new("x"), ShardId::new("y")];
    expect(LeaseWrite::SetChildren(children.clone()), Lease { children, ..row() });
    expect(LeaseWrite::Settle, Lease { moves: 0, ..row() });
    let range = HashKeyRange { start: 3, end: 4 };
    expect(LeaseWrite::SetHashRange(range), Lease { hash_range: Some(range), ..row() });
    expect(LeaseWrite::SetStream("2:x:1".into()), Lease { stream: Some("2:x:1".into()), ..row() });
}

#[test]
fn owners_come_and_go() {
    let free = Lease { owner: None, ..row() };
    let taken = apply(&free, &LeaseWrite::Assign(worker("b")));
    assert_eq!(taken, Lease { owner: Some(worker("b")), counter: 8, ..row() }, "taken from nobody");
    let handed = apply(&row(), &LeaseWrite::HandOff(worker("b")));
    let both = Lease { owner: Some(worker("b")), checkpoint_owner: Some(worker("a")), moves: 3, ..row() };
    assert_eq!(handed, both, "a hand-off moves no counter");
    let next = apply(&handed, &LeaseWrite::Evict);
    assert_eq!(next, Lease { owner: Some(worker("b")), moves: 3, counter: 8, ..row() });
    let back = apply(&handed, &LeaseWrite::Assign(worker("a")));
    assert_eq!(
        back,
        Lease { owner_switches: 4, moves: 3, counter: 8, ..row() },
        "its old owner takes it back"
    );
    let renewed = apply(&handed, &renew());
    assert_eq!(renewed, Lease { counter: 8, ..handed });
}

/// Who has not seen a change of owners decides nothing.
#[test]
fn a_write_holds_on_the_row_that_was_seen() {
    let handed = apply(&row(), &LeaseWrite::HandOff(worker("b")));
    let other = Lease { owner: Some(worker("c")), ..row() };
    let assign = || LeaseWrite::Assign(worker("d"));
    let hand_off = || LeaseWrite::HandOff(worker("d"));
    for (current, write, expected) in [
        (&row(), renew(), true),
        (&row(), assign(), true),
        (&row(), LeaseWrite::Evict, true),
        (&row(), hand_off(), true),
        (&row(), LeaseWrite::SetStream("1:x:1".into()), false),
        (&handed, renew(), false),
        (&handed, assign(), false),
        (&handed, LeaseWrite::Evict, false),
        (&handed, hand_off(), false),
        (&handed, LeaseWrite::commit(at(20)), true),
        (&handed, LeaseWrite::prepare(batch(30)), true),
        (&other, assign(), false),
        (&other, LeaseWrite::Evict, false),
        (&other, hand_off(), false),
    ] {
        assert_eq!(holds(current, &row(), &write), expected, "{write:?} on {current:?}");
        let later = Lease { counter: 8, ..current.clone() };
        assert!(!holds(&later, &row(), &write), "another has written: {write:?}");
    }
    assert!(holds(&handed, &handed, &renew()) && holds(&handed, &handed, &LeaseWrite::Evict));
    assert!(!holds(&handed, &handed, &hand_off()), "one at a time");
    let free = Lease { owner: None, ..row() };
    assert!(holds(&free, &free, &assign()) && !holds(&free, &free, &hand_off()), "nobody hands it over");
}
