//! Fleets whose workers read different streams.

use super::*;

/// A fleet of three streams.
#[derive(Clone, Debug)]
struct Mixed {
    world: World,
    /// For each lease its stream.
    of: Vec<usize>,
    /// For each host the streams that it reads; none for one that does not say.
    reads: Vec<Option<Vec<usize>>>,
}

fn stream(number: usize) -> StreamId {
    StreamId::parse(&format!("1:stream-{number}:1000")).unwrap()
}

impl Mixed {
    fn new(leases: &[(usize, Option<usize>)], reads: &[&[usize]]) -> Self {
        let world = World::new(leases.iter().map(|(_, host)| (*host, Some(100.0))).collect(), reads.len());
        let reads = reads.iter().map(|streams| Some(streams.to_vec())).collect();
        Self { world, of: leases.iter().map(|(stream, _)| *stream).collect(), reads }
    }

    fn fleet(&self) -> Fleet {
        let mut fleet = self.world.fleet();
        for (lease, of) in fleet.leases.iter_mut().zip(self.of.iter().cycle()) {
            lease.key = LeaseKey::new(Some(&stream(*of)), lease.key.shard());
        }
        let alive = self.reads.iter().zip(&self.world.hosts).filter(|(_, host)| host.alive);
        for (worker, (reads, _)) in fleet.workers.iter_mut().zip(alive) {
            if let Some(streams) = reads {
                worker.reads = Reads::These(streams.iter().map(|number| stream(*number)).collect());
            }
        }
        fleet
    }

    fn round(&mut self, seed: u64) -> usize {
        let plan = plan(&self.fleet(), &NO_LIMITS, Balancing::All, &mut seeded(seed));
        self.world.apply(&plan.moves);
        plan.moves.len()
    }

    /// For each host how many leases of each stream it has.
    fn counts(&self) -> Vec<[usize; 3]> {
        let mut counts = vec![[0; 3]; self.world.hosts.len()];
        for (lease, of) in self.world.leases.iter().zip(self.of.iter().cycle()) {
            if let Some(host) = lease.0 {
                counts[host][*of] += 1;
            }
        }
        counts
    }
}

/// The level of the leases that the same workers can read as this one, the naive way: by trying.
fn level(fleet: &Fleet, of: &LeaseKey) -> f64 {
    let (weights, _) = shares(fleet);
    let readers = |key: &LeaseKey| -> Vec<bool> {
        fleet.workers.iter().map(|worker| worker.reads.allows(key)).collect()
    };
    let (can, group) = (readers(of), |lease: &&LeaseLoad| readers(&lease.key) == readers(of));
    let poured: f64 = fleet.leases.iter().filter(group).map(|lease| weights[&lease.key]).sum();
    let other = |worker: &WorkerLoad| -> f64 {
        let own = fleet.leases.iter().filter(|lease| lease.worker.as_ref() == Some(&worker.id));
        own.filter(|lease| !group(lease)).map(|lease| weights[&lease.key]).sum()
    };
    let others: Vec<f64> =
        fleet.workers.iter().zip(can).filter(|(_, can)| *can).map(|(worker, _)| other(worker)).collect();
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        let room: f64 = others.iter().map(|other| (middle - other).max(0.0)).sum();
        if room < poured { low = middle } else { high = middle }
    }
    low
}

/// No lease could go to a reader of its stream so that one of two is nearer to the level, and neither farther from it.
fn balanced_by_streams(fleet: &Fleet) -> Result<(), String> {
    let (weights, loads) = shares(fleet);
    for lease in &fleet.leases {
        let Some(owner) = &lease.worker else { continue };
        let (weight, from, level) = (weights[&lease.key], loads[owner], level(fleet, &lease.key));
        for worker in fleet.workers.iter().filter(|worker| worker.reads.allows(&lease.key)) {
            let load = loads[&worker.id];
            let far = from > 1.1001 * level || load < 0.8999 * level;
            let opposite = from > level + 0.001 && load < level - 0.001;
            if far && opposite && load + 1.5 * weight < from - 0.001 {
                return Err(format!(
                    "{:?} ({weight}) could go from {owner} ({from}) to {} ({load}): level {level}",
                    lease.key, worker.id
                ));
            }
        }
    }
    Ok(())
}

/// Leases of three streams, of which each host reads some; each with an owner that reads it, or none.
fn mixed() -> impl Strategy<Value = Mixed> {
    let set = prop::sample::subsequence(vec![0, 1, 2], 0..=3);
    let reads = prop_oneof![1 => Just(None), 2 => Just(Some(vec![0, 1])), 4 => set.prop_map(Some)];
    (prop::collection::vec(reads, 1..9), prop::collection::vec((0..3usize, 0..100usize, kbps()), 0..60))
        .prop_map(|(reads, leases)| {
            let reader = |(of, pick, _): &(usize, usize, Option<f64>)| {
                let can: Vec<usize> = (0..reads.len())
                    .filter(|host| reads[*host].as_ref().is_none_or(|streams| streams.contains(of)))
                    .collect();
                can.get(pick % (can.len() + 1)).copied()
            };
            let world =
                World::new(leases.iter().map(|lease| (reader(lease), lease.2)).collect(), reads.len());
            Mixed { world, of: leases.iter().map(|lease| lease.0).collect(), reads }
        })
}

proptest! {
    #[test]
    fn nobody_is_given_what_it_does_not_read(mixed in mixed(), rules in rules(), balance in balancing(), seed: u64) {
        let fleet = mixed.fleet();
        check(&fleet, &rules, &plan(&fleet, &rules, balance, &mut seeded(seed)))?;
        let free = fleet.leases.iter().filter(|lease| lease.worker.is_none());
        let read = free.filter(|lease| fleet.workers.iter().any(|worker| worker.reads.allows(&lease.key)));
        let all = plan(&fleet, &NO_LIMITS, Balancing::Off, &mut seeded(seed));
        prop_assert_eq!((all.moves.len(), all.spillover), (read.count(), 0));
    }

    #[test]
    fn successors_read_what_they_inherit(mixed in mixed(), rules in rules()) {
        let mut mixed = mixed;
        mixed.world.hosts[0].alive = false;
        let fleet = mixed.fleet();
        let moves = successors(&fleet, &id(0), 200, &rules);
        let reader = |change: &Move| fleet.workers.iter().find(|worker| worker.id == change.to).unwrap();
        prop_assert!(moves.iter().all(|change| reader(change).reads.allows(&change.lease)));
    }

    #[test]
    fn a_mixed_fleet_comes_to_rest_in_balance(mixed in mixed(), seed: u64) {
        let mut mixed = mixed;
        let rounds = (0..20).take_while(|round| mixed.round(seed.wrapping_add(*round)) > 0).count();
        prop_assert!(rounds < 20, "still moving");
        prop_assert_eq!(mixed.round(seed.wrapping_mul(3)), 0);
        prop_assert_eq!(balanced_by_streams(&mixed.fleet()), Ok(()));
    }

    /// Fleets that share nothing but the table are balanced as if each were alone.
    #[test]
    fn fleets_of_other_streams_do_not_count(
        leases in prop::collection::vec((0..2usize, any::<bool>()), 0..80), hosts in 1..6usize, others in 1..6usize, seed: u64,
    ) {
        let reads: Vec<&[usize]> = [&[0][..]].repeat(hosts).into_iter().chain([&[1][..]].repeat(others)).collect();
        let place = |(of, owned): &(usize, bool)| (*of, owned.then_some(of * hosts));
        let mut mixed = Mixed::new(&leases.iter().map(place).collect::<Vec<_>>(), &reads);
        for round in 0..4 {
            mixed.round(seed.wrapping_add(round));
        }
        let fleet = mixed.fleet();
        for number in 0..2 {
            let mut alone = fleet.clone();
            alone.leases.retain(|lease| lease.key.stream() == Some(&stream(number)));
            alone.workers.retain(|worker| worker.reads == Reads::These([stream(number)].into()));
            prop_assert_eq!(balanced(&alone), Ok(()));
        }
    }
}

#[test]
fn who_reads_a_stream_alone_leaves_the_others_to_the_rest() {
    // A deploy has begun: the first of the new workers reads a stream more.
    let leases: Vec<(usize, Option<usize>)> =
        (0..9).map(|_| (0, Some(0))).chain((0..6).map(|_| (1, None))).collect();
    let mut mixed = Mixed::new(&leases, &[&[0], &[0], &[0], &[0, 1]]);
    for seed in 0..4 {
        mixed.round(seed);
    }
    assert_eq!(mixed.counts(), [[3, 0, 0], [3, 0, 0], [3, 0, 0], [0, 6, 0]]);
    // All of them read both.
    mixed.reads = vec![Some(vec![0, 1]); 4];
    for seed in 0..4 {
        mixed.round(seed);
    }
    let sums: Vec<usize> = mixed.counts().iter().map(|counts| counts.iter().sum()).collect();
    assert!(sums.iter().all(|sum| (3..=4).contains(sum)), "{sums:?}");
}

#[test]
fn a_worker_keeps_room_for_what_only_it_reads() {
    let leases: Vec<(usize, Option<usize>)> =
        (0..4).map(|_| (0, None)).chain((0..4).map(|_| (1, None))).collect();
    let mut fleet = Mixed::new(&leases, &[&[0], &[0, 1]]).fleet();
    fleet.leases.iter_mut().filter(|lease| lease.key.stream() == Some(&stream(0))).for_each(|lease| {
        lease.unmoved = Duration::from_secs(600);
    });
    let found = plan(&fleet, &Rules { leases_max: 4, ..NO_LIMITS }, Balancing::Off, &mut seeded(1));
    assert_eq!((found.moves.len(), found.spillover), (8, 0), "{found:?}");
}

#[test]
fn a_stream_that_nobody_reads_weighs_nothing() {
    let leases: Vec<(usize, Option<usize>)> =
        (0..90).map(|_| (2, None)).chain((0..6).map(|_| (0, Some(0)))).collect();
    let mut mixed = Mixed::new(&leases, &[&[0], &[0, 1]]);
    for seed in 0..3 {
        mixed.round(seed);
    }
    assert_eq!(mixed.counts(), [[3, 0, 0], [3, 0, 0]]);
}
