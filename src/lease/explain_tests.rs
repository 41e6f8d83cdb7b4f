//! Each reason by an example, and the rules that hold for any fleet.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::fleet::{CPU, STREAMS, TableSnapshot, WorkerRow};
use super::*;
use crate::shard::graph::{Leases, deletable};
use crate::shard::{HashKeyRange, Position, SequenceNumber};

const FAILOVER: Duration = Duration::from_secs(10);
const LOCK: Duration = Duration::from_secs(30);
const WALL_CLOCK: u64 = 1_800_000_000;

fn id(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn shard(number: usize, parents: &[usize], closed: bool) -> Shard {
    Shard {
        id: id(number),
        parents: parents.iter().map(|&parent| id(parent)).collect(),
        hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
        starting_sequence_number: SequenceNumber::from(100),
        closed,
    }
}

fn at(number: u128) -> Checkpoint {
    Checkpoint::At(Position::new(SequenceNumber::from(number)))
}

fn lease(number: usize, owner: Option<&str>) -> Lease {
    Lease { owner: owner.map(WorkerId::new), ..Lease::new(&shard(number, &[], false), at(200)) }
}

fn worker(name: &str) -> WorkerRow {
    WorkerRow {
        id: WorkerId::new(name),
        updated: WALL_CLOCK,
        samples: [(CPU.to_owned(), vec![20.0])].into(),
        limits: [(CPU.to_owned(), 100.0)].into(),
        properties: [].into(),
        support: Some(1),
    }
}

/// A fleet that an observer looks at every second, with a leader `a` and the active workers `a` and `b`.
struct Scene {
    fleet: FleetView,
    leases: Vec<Lease>,
    workers: Vec<WorkerRow>,
    leader: Option<(LeaderRow, Instant)>,
    odd: Vec<OddRow>,
    listing: Option<Vec<Shard>>,
    stream: Option<StreamId>,
    several: Option<bool>,
    now: Instant,
}

impl Scene {
    fn new(leases: Vec<Lease>) -> Self {
        let now = Instant::now();
        let leader = LeaderRow {
            owner: WorkerId::new("a"),
            lease_duration: LOCK,
            version: "1".into(),
            released: false,
            workers: 3,
            pending_format: 2,
        };
        let mut scene = Self {
            fleet: FleetView::new(FAILOVER),
            leases,
            workers: vec![worker("a"), worker("b")],
            leader: Some((leader, now)),
            odd: Vec::new(),
            listing: None,
            stream: None,
            several: None,
            now,
        };
        scene.look();
        scene
    }

    fn look(&mut self) {
        let snapshot = TableSnapshot {
            leases: self.leases.clone(),
            workers: self.workers.clone(),
            odd: self.odd.clone(),
        };
        self.fleet.observe(snapshot, self.now);
    }

    /// Time goes by; workers write their rows, and each of `alive` renews its leases every three seconds.
    fn wait(&mut self, seconds: u64, alive: &[&str]) {
        for second in 1..=seconds {
            self.now += Duration::from_secs(1);
            for row in &mut self.workers {
                row.updated += 1;
            }
            for lease in &mut self.leases {
                if second % 3 == 0
                    && lease.actual_owner().is_some_and(|owner| alive.contains(&owner.as_str()))
                {
                    lease.counter += 1;
                }
            }
            self.look();
        }
    }

    fn explain(&self) -> Vec<Explained> {
        explain(&Sight {
            fleet: &self.fleet,
            leader: self.leader.as_ref().map(|(row, since)| (row, *since)),
            streams: &[StreamSight { stream: self.stream.as_ref(), listing: self.listing.as_deref() }],
            several: self.several,
            now: self.now,
            host_clock: WALL_CLOCK,
        })
    }

    /// The only lease: how it stands, for how many seconds, and whether perhaps for longer.
    #[track_caller]
    fn only(&self) -> (Standing, Option<u64>, bool) {
        let all = self.explain();
        assert_eq!(all.len(), 1, "{all:?}");
        let since = all[0].since.map(|since| self.now.duration_since(since).as_secs());
        (all[0].standing.clone(), since, all[0].at_least)
    }

    #[track_caller]
    fn reason(&self) -> Reason {
        match self.only().0 {
            Standing::NotRead(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_renewed_lease_is_read_and_a_first_look_says_nothing() {
    let mut scene = Scene::new(vec![lease(0, Some("a"))]);
    assert_eq!(scene.only(), (Standing::Unheard, Some(0), true));
    scene.wait(4, &["a"]);
    assert_eq!(scene.only(), (Standing::Read, Some(1), false));
}

#[test]
fn an_owner_who_does_not_renew_is_silent_after_the_failover_time() {
    let mut scene = Scene::new(vec![lease(0, Some("b"))]);
    scene.wait(10, &[]);
    assert_eq!(scene.only(), (Standing::Unheard, Some(10), true));
    scene.wait(1, &[]);
    let silent = Standing::NotRead(Reason::OwnerSilent { owner: WorkerId::new("b"), led: true });
    assert_eq!(scene.only(), (silent.clone(), Some(11), true));
    // Heard once, it is known since when.
    scene.wait(3, &["b"]);
    scene.wait(11, &[]);
    assert_eq!(scene.only(), (silent, Some(11), false));
    scene.leader = None;
    assert_eq!(scene.reason(), Reason::OwnerSilent { owner: WorkerId::new("b"), led: false });
}

#[test]
fn an_unowned_lease_waits_for_the_leader() {
    let mut scene = Scene::new(vec![lease(0, None)]);
    scene.wait(7, &[]);
    let unowned = Standing::NotRead(Reason::Unowned(WorkerId::new("a")));
    assert_eq!(scene.only(), (unowned, Some(7), true));
    scene.leader.as_mut().unwrap().1 = scene.now;
    scene.wait(23, &[]);
    assert!(matches!(scene.reason(), Reason::Unowned(_)));
    scene.wait(11, &[]);
    scene.leader.as_mut().unwrap().1 = scene.now;
    assert_eq!(scene.reason(), Reason::NoRoom);
}

#[test]
fn without_leader_or_workers_an_unowned_lease_stays() {
    let mut scene = Scene::new(vec![lease(0, None)]);
    scene.wait(31, &[]);
    assert_eq!(scene.reason(), Reason::NoLeader(Some(WorkerId::new("a"))));
    scene.leader.as_mut().unwrap().1 = scene.now;
    scene.workers.clear();
    scene.look();
    assert_eq!(scene.reason(), Reason::NoWorker);
    scene.leader.as_mut().unwrap().0.released = true;
    assert_eq!(scene.reason(), Reason::NoLeader(None));
    scene.leader = None;
    assert_eq!(scene.reason(), Reason::NoLeader(None));
}

#[test]
fn a_given_lease_is_picked_up_or_not() {
    let mut scene = Scene::new(vec![lease(0, None)]);
    scene.wait(2, &[]);
    scene.leases[0].owner = Some(WorkerId::new("b"));
    scene.leases[0].counter += 1;
    scene.wait(2, &[]);
    let given = Standing::NotRead(Reason::NotPickedUp(WorkerId::new("b")));
    assert_eq!(scene.only(), (given, Some(1), false));
    let mut picked_up = scene.leases.clone();
    // A worker of another kind has twice the failover time to find it.
    scene.wait(10, &[]);
    assert_eq!(scene.reason(), Reason::NotPickedUp(WorkerId::new("b")));
    scene.wait(10, &[]);
    assert_eq!(scene.reason(), Reason::OwnerSilent { owner: WorkerId::new("b"), led: true });
    picked_up[0].counter += 1;
    scene.leases = picked_up;
    scene.look();
    assert_eq!(scene.only().0, Standing::Read);
}

#[test]
fn a_hand_off_takes_its_time_or_is_stuck() {
    let mut scene = Scene::new(vec![lease(0, Some("a"))]);
    scene.wait(4, &["a"]);
    scene.leases[0].owner = Some(WorkerId::new("b"));
    scene.leases[0].checkpoint_owner = Some(WorkerId::new("a"));
    let hand_off = HandOff { from: WorkerId::new("a"), to: Some(WorkerId::new("b")) };
    scene.wait(21, &["a"]);
    let (standing, since, at_least) = scene.only();
    assert_eq!(standing, Standing::NotRead(Reason::HandingOff(hand_off.clone())));
    assert_eq!((since, at_least), (Some(20), false));
    // Too long, although the old owner lives.
    let mut long = Scene::new(scene.leases.clone());
    long.wait(42, &["a"]);
    assert_eq!(long.reason(), Reason::HandOffStuck(hand_off.clone()));
    assert!(long.only().2);
    // The old owner is silent.
    scene.wait(11, &[]);
    assert_eq!(scene.reason(), Reason::HandOffStuck(hand_off));
}

#[test]
fn a_child_waits_for_parents_that_are_not_finished() {
    let mut child = lease(3, Some("a"));
    child.parents = vec![id(0), id(1), id(2)];
    child.checkpoint = Checkpoint::TrimHorizon;
    let mut finished = lease(1, None);
    finished.checkpoint = Checkpoint::ShardEnd;
    let mut scene = Scene::new(vec![lease(0, Some("a")), finished, child]);
    scene.wait(4, &["a"]);
    let all = scene.explain();
    // Shard 2 has no lease any more: it holds nobody up.
    assert_eq!(all[2].standing, Standing::NotRead(Reason::WaitingForParents(vec![id(0)])));
    assert_eq!(all[2].since, None);
    scene.leases[2].owner = None;
    scene.wait(2, &["a"]);
    assert_eq!(scene.explain()[2].since, Some(scene.now - Duration::from_secs(6) + Duration::from_secs(3)));
}

#[test]
fn what_the_stream_does_not_know_is_not_read() {
    let mut scene = Scene::new(vec![lease(0, Some("a"))]);
    scene.wait(4, &["a"]);
    scene.listing = Some(vec![shard(0, &[], false)]);
    assert_eq!(scene.only().0, Standing::Read);
    scene.listing = Some(vec![]);
    assert_eq!(scene.only(), (Standing::NotRead(Reason::ShardUnknown), None, false));
    scene.listing = Some(vec![shard(0, &[], false)]);
    scene.leases[0].checkpoint = at(99);
    scene.look();
    assert_eq!(scene.reason().word(), "stream_mismatch");
    scene.leases[0].stream = Some("1:trades:1000".into());
    for (stream, word) in [
        ("1:trades:1000", "stream_recreated"),
        ("1:trades:1001", "stream_recreated"),
        ("1:orders:1000", "other_stream"),
        ("2:trades:1000", "other_stream"),
    ] {
        scene.stream = StreamId::parse(stream);
        scene.look();
        assert_eq!(scene.reason().word(), word, "{stream}");
    }
    // Of this stream by its name, and yet not: it was made again a moment after it was looked at.
    scene.stream = StreamId::parse("1:trades:1000");
    scene.leases[0].checkpoint = Checkpoint::ShardEnd;
    scene.look();
    assert_eq!(scene.reason().word(), "stream_recreated");
    scene.leases[0].checkpoint = at(200);
    scene.leases[0].hash_range = Some(HashKeyRange { start: 7, end: 9 });
    scene.look();
    assert_eq!(scene.reason().word(), "stream_recreated", "a shard keeps its hash keys");
    scene.leases[0].checkpoint = Checkpoint::ShardEnd;
    scene.look();
    scene.listing = Some(vec![]);
    assert_eq!(scene.only().0, Standing::Finished(Kept::Due));
}

#[test]
fn a_listed_shard_without_lease_is_told() {
    let mut scene = Scene::new(vec![lease(0, Some("a"))]);
    scene.listing = Some(vec![shard(0, &[], true), shard(1, &[0], false), shard(2, &[], false)]);
    let all = scene.explain();
    // Shard 1 gets its lease when shard 0 ends.
    assert_eq!(all.len(), 2);
    assert_eq!((&all[1].key, &all[1].standing), (&id(2).into(), &Standing::NotRead(Reason::NoLease)));
    // A row that is not understood is there nevertheless.
    let problem = "attribute checkpoint is missing".to_owned();
    scene.odd.push(OddRow { key: id(2).as_str().to_owned(), problem: problem.clone() });
    scene.odd.push(OddRow { key: "worker-7".to_owned(), problem: problem.clone() });
    scene.look();
    let all = scene.explain();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].standing, Standing::NotRead(Reason::NotUnderstood(problem)));
}

#[test]
fn a_finished_lease_says_what_keeps_it() {
    let finished = |number, parents: &[usize], children: &[usize]| Lease {
        checkpoint: Checkpoint::ShardEnd,
        parents: parents.iter().map(|&parent| id(parent)).collect(),
        children: children.iter().map(|&child| id(child)).collect(),
        ..lease(number, None)
    };
    let mut child = lease(3, None);
    child.checkpoint = Checkpoint::TrimHorizon;
    let scene = Scene::new(vec![
        finished(0, &[], &[]),
        finished(1, &[0], &[2]),
        finished(2, &[], &[3, 4]),
        child,
        lease(5, None),
        finished(6, &[], &[5]),
    ]);
    let kept: Vec<Kept> = scene
        .explain()
        .into_iter()
        .filter_map(|explained| match explained.standing {
            Standing::Finished(kept) => Some(kept),
            _ => None,
        })
        .collect();
    assert_eq!(
        kept,
        [
            Kept::ChildrenUnknown,
            Kept::ParentsRemain(vec![id(0)]),
            Kept::ChildrenNotStarted(vec![id(3), id(4)]),
            Kept::Due
        ]
    );
}

#[test]
fn a_stream_that_no_active_worker_reads_is_told_from_the_rows_of_workers() {
    let (trades, orders) = ("1:trades:5", "1:orders:5");
    let both = "1:trades:5 1:orders:5";
    let of = |owner: Option<&str>, workers: [Option<&str>; 2]| {
        let key = LeaseKey::parse(&format!("{trades}:shardId-000000000000"));
        let mut scene = Scene::new(vec![Lease { key, ..lease(0, owner) }]);
        for (row, streams) in scene.workers.iter_mut().zip(workers) {
            row.properties.extend(streams.map(|streams| (STREAMS.to_owned(), streams.to_owned())));
        }
        scene.wait(12, &["a", "b"]);
        scene
    };
    let word = |scene: Scene| scene.reason().word();
    assert_eq!(word(of(None, [Some(orders), Some("")])), "stream_not_read");
    assert_eq!(word(of(Some("dead"), [Some(orders), Some(orders)])), "stream_not_read");
    for workers in [[Some(orders), Some(both)], [Some(orders), None], [Some(trades), Some("")]] {
        assert_eq!(word(of(None, workers)), "unowned", "{workers:?}");
        assert_eq!(word(of(Some("dead"), workers)), "owner_silent", "{workers:?}");
    }
    // Who has it, and renews it, has been told otherwise since, and gives it back.
    assert_eq!(of(Some("a"), [Some(orders), Some(orders)]).only().0, Standing::Read);
    let mut scene = of(None, [Some(orders), Some(orders)]);
    scene.workers.clear();
    scene.look();
    assert_eq!(scene.reason(), Reason::NoWorker);
    scene.several = Some(false);
    assert_eq!(scene.reason().word(), "other_stream");
}

#[test]
fn every_word_is_known_and_every_sentence_goes_on_one_line() {
    let w = || WorkerId::new("w");
    let hand_off = || HandOff { from: w(), to: None };
    let stream = || StreamId::named("trades");
    let reasons = [
        Reason::Unowned(w()),
        Reason::NoLeader(None),
        Reason::NoLeader(Some(w())),
        Reason::NoWorker,
        Reason::NoRoom,
        Reason::WaitingForParents(vec![id(0), id(1)]),
        Reason::OwnerSilent { owner: w(), led: true },
        Reason::OwnerSilent { owner: w(), led: false },
        Reason::NotPickedUp(w()),
        Reason::HandingOff(hand_off()),
        Reason::HandOffStuck(hand_off()),
        Reason::NoLease,
        Reason::NotUnderstood("attribute checkpoint is missing".into()),
        Reason::ShardUnknown,
        Reason::NotOurs(NotOurs::Unlike { lease: id(0).into() }),
        Reason::NotOurs(NotOurs::Other { lease: id(0).into(), of: stream(), ours: stream() }),
        Reason::NotOurs(NotOurs::Former { lease: id(0).into(), of: stream(), ours: stream() }),
        Reason::NotOurs(NotOurs::OtherForm { lease: id(0).into(), several: true }),
        Reason::NotOurs(NotOurs::NotAmong { lease: id(0).into(), of: stream() }),
    ];
    let words: BTreeSet<&str> = reasons.iter().map(Reason::word).collect();
    assert_eq!(words, BTreeSet::from(Reason::WORDS));
    for reason in reasons {
        for text in [reason.to_string(), reason.next_step().to_owned()] {
            assert!(!text.contains('\n') && !text.ends_with('.') && !text.contains("  "), "{text}");
        }
    }
}

fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    prop_oneof![
        Just(Checkpoint::TrimHorizon),
        Just(Checkpoint::Latest),
        Just(Checkpoint::ShardEnd),
        (50u128..300).prop_map(at),
    ]
}

fn any_lease(number: usize) -> impl Strategy<Value = Lease> {
    let owner = || prop::option::of(prop::sample::select(vec!["a", "b", "c"]));
    let family = || prop::collection::vec(0usize..8, 0..3);
    (owner(), owner(), any_checkpoint(), family(), family()).prop_map(
        move |(owner, old, checkpoint, parents, children)| Lease {
            checkpoint,
            checkpoint_owner: old.map(WorkerId::new),
            // A row's parents are older, as in a stream.
            parents: parents.into_iter().filter(|&parent| parent < number).map(id).collect(),
            children: children.into_iter().filter(|&child| child > number).map(id).collect(),
            ..lease(number, owner)
        },
    )
}

fn any_leases() -> impl Strategy<Value = Vec<Lease>> {
    (0..8).map(any_lease).collect::<Vec<_>>().prop_flat_map(|all| {
        let count = all.len();
        prop::sample::subsequence(all, 0..=count)
    })
}

proptest! {
    #[test]
    fn every_lease_is_explained_once_and_in_order(
        leases in any_leases(), alive in prop::sample::subsequence(vec!["a", "b", "c"], 0..=3), seconds in 0u64..60,
        closed in prop::option::of(prop::collection::vec(any::<bool>(), 8)),
    ) {
        let mut scene = Scene::new(leases.clone());
        scene.wait(seconds, &alive);
        scene.listing = closed.map(|closed| (0..8).map(|n| shard(n, &[], closed[n])).collect());
        let all = scene.explain();
        prop_assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key));
        for lease in &leases {
            let explained = all.iter().find(|explained| explained.key == lease.key).unwrap();
            let owner = lease.actual_owner().map(WorkerId::as_str);
            prop_assert!(explained.since.is_none_or(|since| since <= scene.now));
            match &explained.standing {
                Standing::Read => prop_assert!(owner.is_some_and(|owner| alive.contains(&owner))),
                Standing::Unheard => prop_assert!(owner.is_some() && seconds <= 10),
                Standing::NotRead(Reason::OwnerSilent { .. }) => {
                    prop_assert!(seconds > 10 && owner.is_some_and(|owner| !alive.contains(&owner)));
                }
                Standing::NotRead(_) => {}
                Standing::Finished(_) => prop_assert!(lease.finished()),
            }
        }
        for explained in &all {
            if !leases.iter().any(|lease| lease.key == explained.key) {
                prop_assert_eq!(&explained.standing, &Standing::NotRead(Reason::NoLease));
            }
        }
    }

    #[test]
    fn due_is_what_a_shard_sync_deletes(leases in any_leases(), known in prop::collection::vec(any::<bool>(), 8)) {
        let listing: Vec<Shard> = (0..8).filter(|&n| known[n]).map(|n| shard(n, &[], true)).collect();
        let rows = |lease: &Lease| {
            let (checkpoint, parents, children) =
                (lease.checkpoint.clone(), lease.parents.clone(), lease.children.clone());
            let gone = !listing.iter().any(|shard| shard.id == *lease.key.shard());
            (lease.key.shard().clone(), Leased { checkpoint, parents, children, hash_range: lease.hash_range, gone })
        };
        let table: Leases = leases.iter().map(rows).collect();
        let mut scene = Scene::new(leases);
        scene.listing = Some(listing.clone());
        let all = scene.explain();
        let due: Vec<&ShardId> = all
            .iter()
            .filter(|explained| explained.standing == Standing::Finished(Kept::Due))
            .map(|explained| explained.key.shard())
            .collect();
        prop_assert_eq!(due, deletable(&table, &listing));
    }
}
