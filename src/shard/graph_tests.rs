//! Examples and properties of the family tree.

use super::*;
use crate::shard::SequenceNumber;
use proptest::prelude::*;

fn id(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn shard(number: usize, parents: &[usize], closed: bool) -> Shard {
    Shard {
        id: id(number),
        parents: parents.iter().map(|&parent| id(parent)).collect(),
        hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
        starting_sequence_number: SequenceNumber::from(number as u128),
        closed,
    }
}

fn held(checkpoint: Checkpoint, parents: Vec<ShardId>) -> Leased {
    Leased { checkpoint, parents, children: Vec::new(), hash_range: None, gone: false }
}

fn leased(listing: &[Shard], checkpoints: &[(usize, Checkpoint)]) -> Leases {
    let lease = |(number, checkpoint): &(usize, Checkpoint)| {
        let parents = listing
            .iter()
            .find(|shard| shard.id == id(*number))
            .map(|shard| shard.parents.clone())
            .unwrap_or_default();
        (id(*number), held(checkpoint.clone(), parents))
    };
    checkpoints.iter().map(lease).collect()
}

fn missing(listing: &[Shard], leases: &Leases, initial: Checkpoint) -> Vec<(usize, Checkpoint)> {
    let number = |id: &ShardId| id.as_str()["shardId-".len()..].parse().unwrap();
    let missing = missing_leases(listing, leases, &initial).unwrap();
    missing.into_iter().map(|(shard, at)| (number(&shard.id), at)).collect()
}

/// The tree of KCL's comment: 0+1 → 6, 2+3 → 7, 6+7 → 8, 5 → 9 and 10; 4, 8, 9, 10 are open.
fn kcl_tree() -> Vec<Shard> {
    vec![
        shard(0, &[], true),
        shard(1, &[], true),
        shard(2, &[], true),
        shard(3, &[], true),
        shard(4, &[], false),
        shard(5, &[], true),
        shard(6, &[0, 1], true),
        shard(7, &[2, 3], true),
        shard(8, &[6, 7], false),
        shard(9, &[5], false),
        shard(10, &[5], false),
    ]
}

#[test]
fn kcl_worked_example() {
    use Checkpoint::{AtTimestamp, Latest, TrimHorizon};
    let tree = kcl_tree();
    let leases = leased(&tree, &[(4, Latest), (5, Latest), (7, Latest)]);
    assert_eq!(missing(&tree, &leases, Latest), [(6, TrimHorizon)]);
    assert_eq!(missing(&tree, &leases, TrimHorizon), [(0, TrimHorizon), (1, TrimHorizon)]);
    assert_eq!(missing(&tree, &leases, AtTimestamp), [(0, AtTimestamp), (1, AtTimestamp)]);
}

#[test]
fn first_sync() {
    use Checkpoint::{AtTimestamp, Latest, TrimHorizon};
    let tree = kcl_tree();
    let none = Leases::new();
    let expect = |numbers: &[usize], at: Checkpoint| {
        numbers.iter().map(|&number| (number, at.clone())).collect::<Vec<_>>()
    };
    assert_eq!(missing(&tree, &none, Latest), expect(&[4, 8, 9, 10], Latest));
    assert_eq!(missing(&tree, &none, TrimHorizon), expect(&[0, 1, 2, 3, 4, 5], TrimHorizon));
    assert_eq!(missing(&tree, &none, AtTimestamp), expect(&[0, 1, 2, 3, 4, 5], AtTimestamp));
    // Parents that the stream has forgotten do not hold anybody up.
    assert_eq!(missing(&tree[6..], &none, TrimHorizon), expect(&[6, 7, 9, 10], TrimHorizon));
}

#[test]
fn child_that_its_ended_parents_left_behind_is_created() {
    use Checkpoint::{Latest, ShardEnd, TrimHorizon};
    let tree = kcl_tree();
    let mut leases =
        leased(&tree, &[(4, Latest), (6, ShardEnd), (7, Latest), (9, TrimHorizon), (10, TrimHorizon)]);
    assert_eq!(missing(&tree, &leases, Latest), []);
    leases.get_mut(&id(7)).unwrap().checkpoint = ShardEnd;
    assert_eq!(missing(&tree, &leases, Latest), [(8, TrimHorizon)]);
}

fn range(shard: Shard, start: u128, end: u128) -> Shard {
    Shard { hash_range: Some(HashKeyRange { start, end }), ..shard }
}

/// Shard 0 is forgotten and was not read to its end: what comes after it waits until that is certain, then goes on
/// from its oldest record, whatever the initial position.
#[test]
fn children_of_a_shard_that_is_gone_take_over() {
    use Checkpoint::{Latest, ShardEnd, TrimHorizon};
    let at = Checkpoint::parse("7", 0).unwrap();
    let tree = [shard(1, &[0], true), shard(2, &[0], false), shard(3, &[1], false)];
    let mut leases = leased(&tree, &[(0, at.clone())]);
    assert_eq!(missing(&tree, &leases, Latest), []);
    leases.get_mut(&id(0)).unwrap().gone = true;
    assert_eq!(missing(&tree, &leases, Latest), [(1, TrimHorizon), (2, TrimHorizon)]);

    // Its children are forgotten as well: who took over is seen by the hash keys.
    let tree = [
        range(shard(3, &[1], false), 0, 4),
        range(shard(4, &[1], false), 5, 9),
        range(shard(5, &[2], false), 10, u128::MAX),
    ];
    let mut leases = leased(&tree, &[(0, at.clone())]);
    let lease = leases.get_mut(&id(0)).unwrap();
    (lease.gone, lease.hash_range) = (true, Some(HashKeyRange { start: 0, end: 9 }));
    assert_eq!(missing(&tree, &leases, Latest), [(3, TrimHorizon), (4, TrimHorizon), (5, Latest)]);

    // The owner of the other merge parent goes on to the child.
    let tree = [shard(1, &[], true), shard(2, &[0, 1], false)];
    let mut leases = leased(&tree, &[(0, at.clone()), (1, at)]);
    leases.get_mut(&id(0)).unwrap().gone = true;
    assert_eq!(missing(&tree, &leases, Latest), []);
    leases.get_mut(&id(1)).unwrap().checkpoint = ShardEnd;
    assert_eq!(missing(&tree, &leases, Latest), [(2, TrimHorizon)]);
}

#[test]
fn a_merged_child_with_a_trimmed_parent_needs_only_the_other() {
    use Checkpoint::{Latest, ShardEnd, TrimHorizon};
    // 0 was read, deleted and forgotten.
    let tree = [shard(1, &[], true), shard(2, &[0, 1], false)];
    assert_eq!(missing(&tree, &leased(&tree, &[(1, ShardEnd)]), Latest), [(2, TrimHorizon)]);
    assert_eq!(missing(&tree, &leased(&tree, &[(1, TrimHorizon)]), Latest), []);
}

#[test]
fn contradictions_are_errors() {
    let child_of_open = [shard(0, &[], false), shard(1, &[0], false)];
    let error = missing_leases(&child_of_open, &Leases::new(), &Checkpoint::Latest).unwrap_err();
    assert_eq!(error, Inconsistent::OpenParent { child: id(1), parent: id(0) });
    let circle = [shard(0, &[1], true), shard(1, &[0], true)];
    let error = missing_leases(&circle, &Leases::new(), &Checkpoint::Latest).unwrap_err();
    assert_eq!(error, Inconsistent::Circle);
}

/// A stream that is split and merged at random, read by one reader in a random order.
struct World {
    listing: Vec<Shard>,
    leases: Leases,
    read: Vec<usize>,
    created: Vec<ShardId>,
    /// The stream does not list it any more.
    forgotten: Vec<bool>,
}

impl World {
    fn new(shards: usize) -> Self {
        let listing = (0..shards).map(|number| shard(number, &[], false)).collect();
        let forgotten = vec![false; 256];
        Self { listing, leases: Leases::new(), read: vec![0; 256], created: Vec::new(), forgotten }
    }

    fn create(&mut self, shard: &Shard, checkpoint: Checkpoint) {
        let lease = held(checkpoint, shard.parents.clone());
        if self.leases.insert(shard.id.clone(), lease).is_none() {
            self.created.push(shard.id.clone());
        }
    }

    fn sync(&mut self) {
        let listed = |(n, shard): (usize, &Shard)| (!self.forgotten[n]).then(|| shard.clone());
        let listing: Vec<Shard> = self.listing.iter().enumerate().filter_map(listed).collect();
        for (id, lease) in &mut self.leases {
            lease.gone = listing.iter().all(|shard| shard.id != *id);
        }
        let missing = missing_leases(&listing, &self.leases, &Checkpoint::TrimHorizon).unwrap();
        let missing: Vec<_> = missing.into_iter().map(|(shard, at)| (shard.clone(), at)).collect();
        for (shard, at) in missing {
            self.create(&shard, at);
        }
        let done: Vec<_> = deletable(&self.leases, &listing).into_iter().cloned().collect();
        for id in done {
            self.leases.remove(&id);
        }
        self.leases.retain(|_, lease| !lease.gone || lease.checkpoint == Checkpoint::ShardEnd);
    }

    /// Retention: the closed shards forgotten next, read or not.
    fn forget(&mut self, pick: usize) {
        let oldest = self.forgotten.iter().position(|forgotten| !forgotten).unwrap();
        let closed = self.listing[oldest..].iter().take_while(|shard| shard.closed).count();
        self.forgotten[oldest..oldest + closed.min(pick % 4)].fill(true);
    }

    fn reshard(&mut self, pick: usize, merge: bool) {
        let open: Vec<usize> = (0..self.listing.len()).filter(|&n| !self.listing[n].closed).collect();
        let a = open[pick % open.len()];
        let b = open[(pick + 1) % open.len()];
        let next = self.listing.len();
        self.listing[a].closed = true;
        if merge && a != b {
            self.listing[b].closed = true;
            self.listing.push(shard(next, &[a, b], false));
        } else {
            self.listing.push(shard(next, &[a], false));
            self.listing.push(shard(next + 1, &[a], false));
        }
    }

    /// One step of the reader on one ready lease, as the consumer does it.
    fn read(&mut self, pick: usize) -> bool {
        let ready_now = |lease: &Leased| {
            lease.checkpoint != Checkpoint::ShardEnd
                && ready(&lease.parents, |parent| self.leases.get(parent).map(|l| &l.checkpoint))
        };
        let number = |shard: &ShardId| self.listing.iter().position(|s| s.id == *shard).unwrap();
        let work: Vec<usize> =
            self.leases.iter().filter(|(_, l)| ready_now(l)).map(|(id, _)| number(id)).collect();
        let work: Vec<usize> = work
            .into_iter()
            .filter(|&n| !self.forgotten[n])
            .filter(|&n| self.listing[n].closed || self.leases[&id(n)].checkpoint == Checkpoint::TrimHorizon)
            .collect();
        if work.is_empty() {
            return false;
        }
        let n = work[pick % work.len()];
        for parent in self.listing[n].parents.clone() {
            let parent = number(&parent);
            let done = self.read[parent] > 0 || self.forgotten[parent];
            assert!(self.listing[parent].closed && done, "{n} read before {parent}");
        }
        if self.leases[&id(n)].checkpoint == Checkpoint::TrimHorizon {
            self.read[n] += 1;
            let done = Checkpoint::parse("1", 0).unwrap();
            self.leases.get_mut(&id(n)).unwrap().checkpoint = done;
            return true;
        }
        let children: Vec<Shard> =
            self.listing.iter().filter(|shard| shard.parents.contains(&id(n))).cloned().collect();
        for child in &children {
            let number = |shard: &ShardId| self.listing.iter().position(|s| s.id == *shard).unwrap();
            if child.parents.iter().all(|p| self.leases.contains_key(p) || self.forgotten[number(p)]) {
                self.create(child, Checkpoint::TrimHorizon);
            } else if !self.leases.contains_key(&child.id) {
                return true; // the other parent's lease is missing: the next sync creates it
            }
        }
        let lease = self.leases.get_mut(&id(n)).unwrap();
        lease.children = children.into_iter().map(|child| child.id).collect();
        lease.checkpoint = Checkpoint::ShardEnd;
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order of reshards, reads, syncs, clean-ups and retention: every shard is read once, after its
    /// parents, unless the stream forgot it before; and no lease comes back after it was deleted.
    #[test]
    fn every_shard_is_read_once_in_order(
        shards in 1usize..4,
        steps in prop::collection::vec((0u8..8, any::<usize>()), 1..120),
    ) {
        let mut world = World::new(shards);
        for (kind, pick) in steps {
            match kind {
                0 if world.listing.len() < 60 => world.reshard(pick, false),
                1 => world.reshard(pick, true),
                2 => world.sync(),
                3 => world.forget(pick),
                _ => { world.read(pick); }
            }
        }
        for round in 0..200 {
            world.sync();
            for _ in 0..4 {
                world.read(round);
            }
        }
        let listed = world.listing.len();
        for n in 0..listed {
            let (times, forgotten) = (world.read[n], world.forgotten[n]);
            prop_assert!(times == 1 || times == 0 && forgotten, "shard {} was read {} times", n, times);
        }
        let mut once = world.created.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), world.created.len());
        // All that is left: the open shards (each read past its start).
        prop_assert!(world.leases.values().all(|l| l.checkpoint != Checkpoint::ShardEnd));
    }

    /// Against the definition: an open shard is reached if it is leased, created, or has an unfinished
    /// ancestor that is; nothing is created above a leased shard without need, nor twice.
    #[test]
    fn every_open_shard_is_reached(
        reshards in prop::collection::vec((any::<usize>(), any::<bool>()), 0..12),
        leased_bits: u64,
        initial in prop_oneof![
            Just(Checkpoint::Latest), Just(Checkpoint::TrimHorizon), Just(Checkpoint::AtTimestamp)
        ],
    ) {
        let mut world = World::new(3);
        for (pick, merge) in reshards {
            world.reshard(pick, merge);
        }
        let tree = world.listing;
        let some: Vec<_> = (0..tree.len())
            .filter(|n| leased_bits >> (n % 64) & 1 == 1)
            .map(|n| (n, Checkpoint::parse("7", 0).unwrap()))
            .collect();
        let leases = leased(&tree, &some);
        let missing = missing(&tree, &leases, initial);
        let has: BTreeSet<usize> = missing.iter().map(|(n, _)| *n).chain(some.iter().map(|(n, _)| *n)).collect();
        prop_assert_eq!(has.len(), missing.len() + some.len());
        fn reached(tree: &[Shard], has: &BTreeSet<usize>, n: usize) -> bool {
            let number = |shard: &ShardId| tree.iter().position(|s| s.id == *shard).unwrap();
            has.contains(&n)
                || (!tree[n].parents.is_empty()
                    && tree[n].parents.iter().all(|p| reached(tree, has, number(p))))
        }
        for n in (0..tree.len()).filter(|&n| !tree[n].closed) {
            prop_assert!(reached(&tree, &has, n), "shard {} is not reached", n);
        }
    }
}
