//! The family tree of shards: which shard may be read yet, which leases are missing, which are done with.
//!
//! Owns: the rules of KCL's `HierarchicalShardSyncer` and `LeaseCleanupManager`, as functions of a listing and
//! of what the lease table holds.
//! Does not own: the reads and writes around them (`lease::coordinator`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkpoint, HashKeyRange, Shard, ShardId};

/// What the lease table says about one shard, as far as the rules here need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// How far the shard is read.
    pub checkpoint: Checkpoint,
    /// Its parents, as the lease row names them.
    pub parents: Vec<ShardId>,
    /// Its children, as far as the lease row names them.
    pub children: Vec<ShardId>,
}

/// The shards that have a lease.
pub type Leases = BTreeMap<ShardId, Leased>;

/// A listing that contradicts itself; normal for a moment around a reshard, so list again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// KCL's rule: a child appears only after its parent is closed.
    #[error("shard {child} is listed while its parent {parent} is still open; list again")]
    OpenParent {
        /// The child.
        child: ShardId,
        /// Its open parent.
        parent: ShardId,
    },
    /// A shard that is its own ancestor.
    #[error("the listed shards descend from each other in a circle; list again")]
    Circle,
}

/// True when a shard with these parents may be read: each parent is read to its end, or has no lease (any more).
pub fn ready<'a>(parents: &[ShardId], checkpoint_of: impl Fn(&ShardId) -> Option<&'a Checkpoint>) -> bool {
    parents.iter().all(|parent| checkpoint_of(parent).is_none_or(|at| *at == Checkpoint::ShardEnd))
}

/// True when the ranges leave no hash key between 0 and 2^128 − 1 out. Overlaps are fine: parent and child may
/// coexist.
pub fn covers_all(ranges: impl IntoIterator<Item = HashKeyRange>) -> bool {
    let mut ranges: Vec<_> = ranges.into_iter().map(|range| (range.start, range.end)).collect();
    ranges.sort_unstable();
    let mut next = Some(0);
    for (start, end) in ranges {
        match next {
            Some(wanted) if start > wanted => return false,
            Some(wanted) if end >= wanted => next = end.checked_add(1),
            _ => {}
        }
    }
    next.is_none()
}

/// The leases to create so that every open shard is read now or by way of its ancestors, in order of starting
/// sequence number, then shard id. Serves the empty table and every later sync.
///
/// Only the oldest level that is needed gets leases; their descendants get theirs at shard end. A shard without
/// any leased ancestor starts at `initial`: the open shards themselves for LATEST, the oldest listed ancestors
/// otherwise. Older relatives of a leased shard start at TRIM_HORIZON, or at AT_TIMESTAMP if that is `initial`.
pub fn missing_leases<'a>(
    listing: &'a [Shard],
    leases: &Leases,
    initial: &Checkpoint,
) -> Result<Vec<(&'a Shard, Checkpoint)>, Inconsistent> {
    let shards: BTreeMap<&ShardId, &Shard> = listing.iter().map(|shard| (&shard.id, shard)).collect();
    let parents_of =
        |shard: &'a Shard| shard.parents.iter().filter_map(|id| shards.get(id).copied()).collect::<Vec<_>>();
    for shard in listing.iter().filter(|shard| !shard.closed) {
        if let Some(parent) = parents_of(shard).into_iter().find(|parent| !parent.closed) {
            return Err(Inconsistent::OpenParent { child: shard.id.clone(), parent: parent.id.clone() });
        }
    }
    let oldest_first = oldest_first(&shards)?;

    // Leased, or with a leased ancestor: read already, or to be created when that ancestor ends.
    let mut descends: BTreeSet<&ShardId> = BTreeSet::new();
    for &shard in &oldest_first {
        if leases.contains_key(&shard.id)
            || parents_of(shard).iter().any(|parent| descends.contains(&parent.id))
        {
            descends.insert(&shard.id);
        }
    }

    let old_relative = match initial {
        Checkpoint::AtTimestamp => Checkpoint::AtTimestamp,
        _ => Checkpoint::TrimHorizon,
    };
    let ended =
        |shard: &Shard| leases.get(&shard.id).is_some_and(|lease| lease.checkpoint == Checkpoint::ShardEnd);
    let mut wanted: BTreeSet<&ShardId> = BTreeSet::new();
    let mut missing = Vec::new();
    for &shard in oldest_first.iter().rev() {
        let is_wanted = !shard.closed || wanted.contains(&shard.id);
        if !is_wanted || leases.contains_key(&shard.id) {
            continue;
        }
        let parents = parents_of(shard);
        // With every parent at its end nobody else will create this lease any more.
        let stop_here = if descends.contains(&shard.id) {
            parents.iter().all(|parent| ended(parent))
        } else {
            *initial == Checkpoint::Latest || parents.is_empty()
        };
        if !stop_here {
            wanted.extend(parents.iter().map(|parent| &parent.id));
        } else if descends.contains(&shard.id) || shard.closed {
            missing.push((shard, old_relative.clone()));
        } else {
            missing.push((shard, initial.clone()));
        }
    }
    missing.sort_by(|(a, _), (b, _)| {
        a.starting_sequence_number.cmp(&b.starting_sequence_number).then_with(|| a.id.cmp(&b.id))
    });
    Ok(missing)
}

/// The shards, each after its listed parents.
fn oldest_first<'a>(shards: &BTreeMap<&'a ShardId, &'a Shard>) -> Result<Vec<&'a Shard>, Inconsistent> {
    let mut children: BTreeMap<&ShardId, Vec<&'a Shard>> = BTreeMap::new();
    let mut parents_left: BTreeMap<&ShardId, usize> = BTreeMap::new();
    for &shard in shards.values() {
        let listed = shard.parents.iter().filter(|parent| shards.contains_key(parent));
        parents_left.insert(&shard.id, listed.clone().count());
        for parent in listed {
            children.entry(parent).or_default().push(shard);
        }
    }
    let mut order: Vec<&Shard> = shards.values().copied().filter(|s| parents_left[&s.id] == 0).collect();
    let mut done = 0;
    while let Some(&shard) = order.get(done) {
        done += 1;
        for &child in children.get(&shard.id).into_iter().flatten() {
            if let Some(left) = parents_left.get_mut(&child.id) {
                *left -= 1;
                if *left == 0 {
                    order.push(child);
                }
            }
        }
    }
    if order.len() == shards.len() { Ok(order) } else { Err(Inconsistent::Circle) }
}

/// The finished leases that nobody needs any more: read to the end, their own parents' leases gone, and every
/// child past its first record. Children that the row does not name are taken from the listing; a shard that
/// the stream has forgotten, with no child known, is done with as well.
///
/// A child still at its start keeps its parent: until it moves, the parent's row is what tells a sync that the
/// child was reached in order.
pub fn deletable<'a>(leases: &'a Leases, listing: &[Shard]) -> Vec<&'a ShardId> {
    let moved =
        |lease: &Leased| !matches!(lease.checkpoint, Checkpoint::TrimHorizon | Checkpoint::AtTimestamp);
    let mut listed: BTreeSet<&ShardId> = BTreeSet::new();
    let mut listed_children: BTreeMap<&ShardId, Vec<&ShardId>> = BTreeMap::new();
    for shard in listing {
        listed.insert(&shard.id);
        for parent in &shard.parents {
            listed_children.entry(parent).or_default().push(&shard.id);
        }
    }
    let done_with = |(id, lease): &(&ShardId, &Leased)| {
        let children: Vec<&ShardId> = match lease.children.as_slice() {
            [] => listed_children.get(id).cloned().unwrap_or_default(),
            named => named.iter().collect(),
        };
        lease.checkpoint == Checkpoint::ShardEnd
            && lease.parents.iter().all(|parent| !leases.contains_key(parent))
            && children.iter().all(|child| leases.get(*child).is_some_and(moved))
            && (!children.is_empty() || !listed.contains(id))
    };
    leases.iter().filter(done_with).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
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
            hash_range: HashKeyRange { start: 0, end: u128::MAX },
            starting_sequence_number: SequenceNumber::from(number as u128),
            closed,
        }
    }

    fn leased(listing: &[Shard], checkpoints: &[(usize, Checkpoint)]) -> Leases {
        let lease = |(number, checkpoint): &(usize, Checkpoint)| {
            let parents = listing
                .iter()
                .find(|shard| shard.id == id(*number))
                .map(|shard| shard.parents.clone())
                .unwrap_or_default();
            (id(*number), Leased { checkpoint: checkpoint.clone(), parents, children: Vec::new() })
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

    #[test]
    fn contradictions_are_errors() {
        let child_of_open = [shard(0, &[], false), shard(1, &[0], false)];
        let error = missing_leases(&child_of_open, &Leases::new(), &Checkpoint::Latest).unwrap_err();
        assert_eq!(error, Inconsistent::OpenParent { child: id(1), parent: id(0) });
        let circle = [shard(0, &[1], true), shard(1, &[0], true)];
        let error = missing_leases(&circle, &Leases::new(), &Checkpoint::Latest).unwrap_err();
        assert_eq!(error, Inconsistent::Circle);
    }

    #[test]
    fn cover() {
        let range = |start, end| HashKeyRange { start, end };
        assert!(covers_all([range(10, u128::MAX), range(0, 9)]));
        assert!(covers_all([range(0, 20), range(5, 9), range(10, u128::MAX)]));
        assert!(!covers_all([range(0, 9), range(11, u128::MAX)]));
        assert!(!covers_all([range(0, u128::MAX - 1)]));
        assert!(!covers_all([]));
    }

    /// A stream that is split and merged at random, read by one reader in a random order.
    struct World {
        listing: Vec<Shard>,
        leases: Leases,
        read: Vec<usize>,
        created: Vec<ShardId>,
    }

    impl World {
        fn new(shards: usize) -> Self {
            let listing = (0..shards).map(|number| shard(number, &[], false)).collect();
            Self { listing, leases: Leases::new(), read: vec![0; 256], created: Vec::new() }
        }

        fn create(&mut self, shard: &Shard, checkpoint: Checkpoint) {
            let lease = Leased { checkpoint, parents: shard.parents.clone(), children: Vec::new() };
            if self.leases.insert(shard.id.clone(), lease).is_none() {
                self.created.push(shard.id.clone());
            }
        }

        fn sync(&mut self) {
            let missing = missing_leases(&self.listing, &self.leases, &Checkpoint::TrimHorizon).unwrap();
            let missing: Vec<_> = missing.into_iter().map(|(shard, at)| (shard.clone(), at)).collect();
            for (shard, at) in missing {
                self.create(&shard, at);
            }
            let done: Vec<_> = deletable(&self.leases, &self.listing).into_iter().cloned().collect();
            for id in done {
                self.leases.remove(&id);
            }
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
                .filter(|&n| {
                    self.listing[n].closed || self.leases[&id(n)].checkpoint == Checkpoint::TrimHorizon
                })
                .collect();
            if work.is_empty() {
                return false;
            }
            let n = work[pick % work.len()];
            for parent in self.listing[n].parents.clone() {
                let parent = number(&parent);
                assert!(self.listing[parent].closed && self.read[parent] > 0, "{n} read before {parent}");
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
                if child.parents.iter().all(|p| self.leases.contains_key(p)) {
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

        /// Whatever the order of reshards, reads, syncs and clean-ups: every shard is read once, after its
        /// parents, and no lease comes back after it was deleted.
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
            prop_assert!(world.read[..listed].iter().all(|&times| times == 1), "{:?}", &world.read[..listed]);
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
}
