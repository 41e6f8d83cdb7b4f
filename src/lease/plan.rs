//! Which leases to take, and from whom: a pure decision on what this worker has observed.
//!
//! Owns: timing of counters as an observer, the rules of KCL 2.x's lease taker (`DynamoDBLeaseTaker`).
//! Does not own: reading the table, taking the leases (`coordinator`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::row::{Lease, LeaseKey, WorkerId};
use crate::shard::graph::ready;

/// A lease that nobody has renewed for this many failover times is taken even by a worker that has its share.
const VERY_OLD_FAILOVERS: u32 = 3;

/// The lease table as one observer saw it, with the time since when each counter has not moved.
#[derive(Clone, Debug)]
pub struct LeaseView {
    failover: Duration,
    rows: BTreeMap<LeaseKey, Seen>,
}

/// One row, and since when its counter stands still.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The row as last read.
    pub lease: Lease,
    /// The end of the read that first showed this counter.
    pub since: Instant,
}

impl LeaseView {
    /// A view of nothing yet. A lease counts as expired when its counter stands still for `failover`.
    pub fn new(failover: Duration) -> Self {
        Self { failover, rows: BTreeMap::new() }
    }

    /// Takes in a whole scan. `returned` is the time after the read returned: a row may be older than that,
    /// never younger, so a live lease is never called expired too early.
    pub fn observe(&mut self, rows: Vec<Lease>, returned: Instant) {
        let mut before = std::mem::take(&mut self.rows);
        for lease in rows {
            let since = match before.remove(&lease.key) {
                Some(seen) if seen.lease.counter == lease.counter => seen.since,
                _ => returned,
            };
            self.rows.insert(lease.key.clone(), Seen { lease, since });
        }
    }

    /// Takes in one row that was just written or read.
    pub fn note(&mut self, lease: Lease, returned: Instant) {
        let since = match self.rows.get(&lease.key) {
            Some(seen) if seen.lease.counter == lease.counter => seen.since,
            _ => returned,
        };
        self.rows.insert(lease.key.clone(), Seen { lease, since });
    }

    /// Every known row, in order of its key.
    pub fn rows(&self) -> impl Iterator<Item = &Seen> {
        self.rows.values()
    }

    /// The row with this key.
    pub fn get(&self, key: &LeaseKey) -> Option<&Seen> {
        self.rows.get(key)
    }

    /// True when the row has an owner who still renews it, as far as one can tell.
    pub fn is_live(&self, seen: &Seen, now: Instant) -> bool {
        seen.lease.actual_owner().is_some() && now.duration_since(seen.since) <= self.failover
    }

    /// True when the shard is not finished and may be read: each parent finished or gone.
    pub fn is_ready(&self, lease: &Lease) -> bool {
        let checkpoint_of = |parent: &LeaseKey| self.rows.get(parent).map(|seen| &seen.lease.checkpoint);
        !lease.finished() && ready(&lease.parents, checkpoint_of)
    }

    /// The workers with a live lease.
    pub fn live_owners(&self, now: Instant) -> BTreeSet<&WorkerId> {
        let live = self.rows.values().filter(|seen| self.is_live(seen, now));
        live.filter_map(|seen| seen.lease.actual_owner()).collect()
    }
}

/// The leases that `me` should take now, at most up to `leases_max` in all.
///
/// With the workers being all live owners and `me`, the target is 1 for at least as many workers as leases,
/// else leases / workers rounded up. In this order:
/// 1. leases that nobody has renewed for three failover times: all of them, whatever the target;
/// 2. unowned and expired leases at random, up to the target;
/// 3. if there are none: one at random from the most loaded worker, if that has more than the target, or if
///    `me` is two or more below it. Hence at rest all counts are within one of each other.
///
/// Only leases that are [ready](LeaseView::is_ready) are taken, so a child waits for its parents without an
/// owner.
pub fn plan(
    view: &LeaseView,
    me: &WorkerId,
    leases_max: usize,
    now: Instant,
    rng: &mut impl Rng,
) -> Vec<LeaseKey> {
    let mut owned: BTreeMap<&WorkerId, Vec<&LeaseKey>> = BTreeMap::from([(me, Vec::new())]);
    let (mut available, mut very_old) = (Vec::new(), Vec::new());
    for seen in view.rows() {
        let lease = &seen.lease;
        match lease.actual_owner() {
            Some(owner) if view.is_live(seen, now) && !lease.finished() => {
                owned.entry(owner).or_default().push(&lease.key);
            }
            _ if view.is_ready(lease) => {
                available.push(&lease.key);
                if now.duration_since(seen.since) > view.failover * VERY_OLD_FAILOVERS {
                    very_old.push(&lease.key);
                }
            }
            _ => {}
        }
    }

    let mine = owned[me].len();
    let leases = available.len() + owned.values().map(Vec::len).sum::<usize>();
    let target = leases.div_ceil(owned.len()).max(1).min(leases_max);
    let need = target.saturating_sub(mine);
    let (mut pool, wanted) = if !very_old.is_empty() {
        (very_old, leases_max.saturating_sub(mine))
    } else if !available.is_empty() {
        (available, need)
    } else {
        let richest = owned.values().map(Vec::len).max().unwrap_or(0);
        let may_steal = need >= 2 || (need == 1 && richest > target);
        let mut richest: Vec<_> = owned.into_iter().filter(|(_, keys)| keys.len() == richest).collect();
        richest.shuffle(rng);
        let keys = richest.pop().map(|(_, keys)| keys).unwrap_or_default();
        (
            keys.into_iter().filter(|key| view.is_ready(&view.rows[*key].lease)).collect(),
            usize::from(may_steal),
        )
    };
    pool.shuffle(rng);
    pool.into_iter().take(wanted).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::write::{LeaseWrite, apply};
    use crate::shard::{Checkpoint, HashKeyRange, SequenceNumber, Shard, ShardId};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const FAILOVER: Duration = Duration::from_secs(10);

    fn lease(number: usize, parents: &[usize], owner: Option<usize>) -> Lease {
        let id = |number: usize| ShardId::new(format!("s-{number:03}"));
        let shard = Shard {
            id: id(number),
            parents: parents.iter().map(|&parent| id(parent)).collect(),
            hash_range: HashKeyRange { start: 0, end: 0 },
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        };
        Lease { owner: owner.map(worker), ..Lease::new(&shard, Checkpoint::TrimHorizon) }
    }

    fn worker(number: usize) -> WorkerId {
        WorkerId::new(format!("w-{number:03}"))
    }

    fn view(rows: Vec<Lease>, start: Instant) -> LeaseView {
        let mut view = LeaseView::new(FAILOVER);
        view.observe(rows, start);
        view
    }

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[tokio::test(start_paused = true)]
    async fn expiry_counts_from_the_last_change_of_the_counter() {
        let start = Instant::now();
        let mut seen = view(vec![lease(0, &[], Some(1))], start);
        let me = worker(0);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(plan(&seen, &me, 9, at(10), &mut rng(1)).is_empty());
        assert_eq!(plan(&seen, &me, 9, at(11), &mut rng(1)).len(), 1);
        seen.observe(vec![apply(&lease(0, &[], Some(1)), &LeaseWrite::Renew)], at(9));
        assert!(plan(&seen, &me, 9, at(19), &mut rng(1)).is_empty());
        assert_eq!(plan(&seen, &me, 9, at(20), &mut rng(1)).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn children_wait_and_finished_leases_are_left_alone() {
        let start = Instant::now();
        let mut rows = vec![lease(0, &[], None), lease(1, &[0, 7], None)];
        let take = |rows: &[Lease]| plan(&view(rows.to_vec(), start), &worker(0), 9, start, &mut rng(1));
        assert_eq!(take(&rows), [rows[0].key.clone()]);
        rows[0].checkpoint = Checkpoint::ShardEnd;
        assert_eq!(take(&rows), [rows[1].key.clone()]);
        assert_eq!(take(&rows[1..]), [rows[1].key.clone()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_fleet_shares_and_nobody_takes_all() {
        let start = Instant::now();
        let rows: Vec<Lease> = (0..10).map(|n| lease(n, &[], if n < 3 { Some(n) } else { None })).collect();
        // Three owners and me: three each, rounded up.
        assert_eq!(plan(&view(rows.clone(), start), &worker(9), 99, start, &mut rng(1)).len(), 3);
        assert_eq!(plan(&view(rows.clone(), start), &worker(9), 2, start, &mut rng(1)).len(), 2);
        // Nobody came for very long: take what is allowed.
        let late = start + FAILOVER * 4;
        assert_eq!(plan(&view(rows, start), &worker(9), 99, late, &mut rng(1)).len(), 10);
    }

    /// What one worker sees when everybody's leases are alive.
    fn fleet(owners: &[Option<usize>], start: Instant) -> LeaseView {
        view(owners.iter().enumerate().map(|(n, owner)| lease(n, &[], *owner)).collect(), start)
    }

    fn counts(owners: &[Option<usize>], workers: usize) -> Vec<usize> {
        (0..workers).map(|w| owners.iter().filter(|owner| **owner == Some(w)).count()).collect()
    }

    proptest! {
        /// One worker after the other or all at once on the same view: the fleet comes to rest, at rest counts
        /// differ by at most one, and then nothing moves any more.
        #[test]
        fn a_fleet_comes_to_rest_balanced(
            owners in prop::collection::vec(prop::option::weighted(0.7, 0usize..6), 0..40),
            workers in 6usize..9,
            at_once: bool,
            seed: u64,
        ) {
            let start = Instant::now();
            let mut owners = owners;
            let mut rng = rng(seed);
            let mut quiet = 0;
            for round in 0.. {
                let before = fleet(&owners, start);
                let mut moves = 0;
                for w in 0..workers {
                    let current = if at_once { before.clone() } else { fleet(&owners, start) };
                    for key in plan(&current, &worker(w), usize::MAX, start, &mut rng) {
                        let n: usize = key.as_str()[2..].parse().unwrap();
                        // The condition on the counter: who saw an older owner loses the race.
                        if owners[n].map(worker).as_ref() == current.get(&key).unwrap().lease.owner.as_ref() {
                            owners[n] = Some(w);
                            moves += 1;
                        }
                    }
                }
                quiet = if moves == 0 { quiet + 1 } else { 0 };
                if quiet == 3 {
                    break;
                }
                prop_assert!(round < 200, "no rest: {:?}", counts(&owners, workers));
            }
            let counts = counts(&owners, workers);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
            prop_assert_eq!(counts.iter().sum::<usize>(), owners.len());
        }

        /// Against the naive reading of the rules, on random tables with families and ages.
        #[test]
        fn takes_only_what_the_rules_allow(
            rows in prop::collection::vec(
                (prop::option::of(0usize..5), prop::option::of(0usize..30), 0u64..45, prop::bool::weighted(0.2)),
                1..30,
            ),
            leases_max in 0usize..12,
            seed: u64,
        ) {
            let start = Instant::now();
            let now = start + Duration::from_secs(45);
            let mut seen = LeaseView::new(FAILOVER);
            for (number, (owner, parent, age, finished)) in rows.iter().enumerate() {
                let parents: Vec<usize> = parent.iter().copied().filter(|parent| *parent < number).collect();
                let mut lease = lease(number, &parents, *owner);
                if *finished {
                    lease.checkpoint = Checkpoint::ShardEnd;
                }
                seen.note(lease, now - Duration::from_secs(*age));
            }
            let me = worker(0);
            let takes = plan(&seen, &me, leases_max, now, &mut rng(seed));
            let again = plan(&seen, &me, leases_max, now, &mut rng(seed));
            prop_assert_eq!(&takes, &again, "same seed, same plan");

            let mine = seen.rows().filter(|row| seen.is_live(row, now) && !row.lease.finished())
                .filter(|row| row.lease.owner.as_ref() == Some(&me)).count();
            prop_assert!(takes.is_empty() || mine + takes.len() <= leases_max);
            let mut steals = 0;
            for key in &takes {
                let row = seen.get(key).unwrap();
                prop_assert!(!row.lease.finished());
                for parent in &row.lease.parents {
                    prop_assert!(seen.get(parent).is_none_or(|parent| parent.lease.finished()));
                }
                if seen.is_live(row, now) {
                    prop_assert!(row.lease.owner.as_ref() != Some(&me));
                    steals += 1;
                }
            }
            prop_assert!(steals == 0 || takes.len() == 1, "one steal, and nothing beside it");
            let free = seen.rows().any(|row| !seen.is_live(row, now) && seen.is_ready(&row.lease));
            prop_assert!(steals == 0 || !free, "stole while a lease was free");
        }
    }
}
