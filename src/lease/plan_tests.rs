use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::fleet::{CPU, Reads};
use super::*;

const NO_LIMITS: Rules = Rules { leases_max: usize::MAX, kbps_max: f64::INFINITY };

/// A fleet that is given what its leader plans.
#[derive(Clone, Debug)]
struct World {
    /// Who has a lease, and its throughput.
    leases: Vec<(Option<usize>, Option<f64>)>,
    hosts: Vec<Host>,
    /// How many times each lease has moved from one worker to another.
    moved: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Host {
    started: u64,
    alive: bool,
    cpu: Option<Cpu>,
}

/// How busy a host is: percent for each KB/s, and something else.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    per_kbps: f64,
    noise: f64,
}

fn key(lease: usize) -> LeaseKey {
    LeaseKey::parse(&format!("shardId-{lease:05}"))
}

fn id(host: usize) -> WorkerId {
    WorkerId::new(format!("worker-{host:03}"))
}

fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

impl World {
    fn new(leases: Vec<(Option<usize>, Option<f64>)>, hosts: usize) -> Self {
        let host = Host { started: 0, alive: true, cpu: None };
        let moved = vec![0; leases.len()];
        Self { leases, hosts: vec![host; hosts], moved }
    }

    fn kbps(&self, host: usize) -> f64 {
        self.leases.iter().filter(|lease| lease.0 == Some(host)).filter_map(|lease| lease.1).sum()
    }

    fn fleet(&self) -> Fleet {
        let lease = |(index, (host, kbps)): (usize, &(Option<usize>, Option<f64>))| LeaseLoad {
            key: key(index),
            worker: host.map(id),
            movable: host.is_some(),
            kbps: *kbps,
            unmoved: Duration::from_secs(index as u64 % 3),
            moves: 0,
        };
        let worker = |(index, host): (usize, &Host)| {
            let cpu = host.cpu.map(|cpu| cpu.per_kbps * self.kbps(index) + cpu.noise);
            WorkerLoad {
                id: id(index),
                usage: cpu.map(|value| (CPU.to_owned(), (value, 100.0))).into_iter().collect(),
                started: host.started,
                reads: Reads::Any,
            }
        };
        let alive = self.hosts.iter().enumerate().filter(|(_, host)| host.alive);
        Fleet {
            leases: self.leases.iter().enumerate().map(lease).collect(),
            workers: alive.map(worker).collect(),
        }
    }

    fn apply(&mut self, moves: &[Move]) {
        let number = |text: &str| text.rsplit('-').next().unwrap().parse::<usize>().unwrap();
        for change in moves {
            let (lease, to) = (number(change.lease.as_str()), number(change.to.as_str()));
            if self.leases[lease].0.is_some() {
                self.moved[lease] += 1;
            }
            self.leases[lease].0 = Some(to);
        }
    }

    /// Plans and carries out; tells how many moves.
    fn round(&mut self, seed: u64) -> usize {
        let plan = plan(&self.fleet(), &NO_LIMITS, Balancing::All, &mut seeded(seed));
        self.apply(&plan.moves);
        plan.moves.len()
    }

    /// Replaces a living host by none.
    fn stop(&mut self, host: usize) {
        self.hosts[host].alive = false;
        let moves = successors(&self.fleet(), &id(host), self.hosts[host].started, &NO_LIMITS);
        self.apply(&moves);
        assert!(self.leases.iter().all(|lease| lease.0 != Some(host)), "all leases have a successor");
    }

    fn start(&mut self, at: u64) {
        self.hosts.push(Host { started: at, alive: true, cpu: None });
    }

    fn counts(&self) -> Vec<usize> {
        let alive = (0..self.hosts.len()).filter(|host| self.hosts[*host].alive);
        alive.map(|host| self.leases.iter().filter(|lease| lease.0 == Some(host)).count()).collect()
    }
}

/// What each lease weighs in shares, and each worker carries, the naive way.
fn shares(fleet: &Fleet) -> (BTreeMap<LeaseKey, f64>, BTreeMap<WorkerId, f64>) {
    let known: Vec<f64> =
        fleet.leases.iter().filter_map(|lease| lease.kbps).filter(|k| (0.0..=1e6).contains(k)).collect();
    let average = if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let kbps = |lease: &LeaseLoad| lease.kbps.filter(|k| (0.0..=1e6).contains(k)).unwrap_or(average);
    let weight = |lease: &LeaseLoad| if average < 0.001 { 1.0 } else { kbps(lease).max(average / 10.0) };
    let ids: BTreeSet<&WorkerId> = fleet.workers.iter().map(|worker| &worker.id).collect();
    let planned = |lease: &&LeaseLoad| lease.worker.as_ref().is_none_or(|worker| ids.contains(worker));
    let fair = fleet.leases.iter().filter(planned).map(weight).sum::<f64>() / ids.len() as f64;
    let leases = fleet.leases.iter().map(|lease| (lease.key.clone(), weight(lease) / fair)).collect();
    let of = |id: &WorkerId| {
        let own = fleet.leases.iter().filter(|lease| lease.worker.as_ref() == Some(id));
        own.map(weight).sum::<f64>() / fair
    };
    (leases, ids.iter().map(|id| ((*id).clone(), of(id))).collect())
}

/// Nobody is too far from the average, or no lease could move that leaves its receiver less loaded than the giver was.
fn balanced(fleet: &Fleet) -> Result<(), String> {
    let (weights, loads) = shares(fleet);
    for lease in &fleet.leases {
        let (weight, from) = (weights[&lease.key], lease.worker.as_ref().unwrap());
        for load in loads.values() {
            let far = loads[from] > 1.1001 || *load < 0.8999;
            let opposite = loads[from] > 1.001 && *load < 0.999;
            if far && opposite && load + 1.5 * weight < loads[from] - 0.001 {
                return Err(format!("{:?} ({weight}) could go from {} to {load}", lease.key, loads[from]));
            }
        }
    }
    Ok(())
}

/// What holds for every plan; tells the leases that it moves.
fn check(fleet: &Fleet, rules: &Rules, plan: &Plan) -> Result<(), TestCaseError> {
    let leases: BTreeMap<&LeaseKey, &LeaseLoad> = fleet.leases.iter().map(|l| (&l.key, l)).collect();
    let known: Vec<f64> =
        fleet.leases.iter().filter_map(|lease| lease.kbps).filter(|k| (0.0..=1e6).contains(k)).collect();
    let average = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let kbps = |lease: &LeaseLoad| lease.kbps.filter(|k| (0.0..=1e6).contains(k)).unwrap_or(average);
    let mut owners: BTreeMap<&LeaseKey, Option<&WorkerId>> =
        fleet.leases.iter().map(|lease| (&lease.key, lease.worker.as_ref())).collect();
    let allows = |id: &WorkerId, lease: &LeaseLoad| {
        fleet.workers.iter().any(|worker| worker.id == *id && worker.reads.allows(&lease.key))
    };
    let (mut seen, mut granted) = (BTreeSet::new(), 0);
    for change in &plan.moves {
        let lease = leases[&change.lease];
        prop_assert!(seen.insert(&change.lease), "moved twice: {:?}", change);
        prop_assert!(lease.worker.as_ref() != Some(&change.to), "stays: {:?}", change);
        prop_assert!(lease.worker.is_none() || lease.movable, "may not move: {:?}", change);
        prop_assert!(allows(&change.to, lease), "not read there: {:?}", change);
        granted += usize::from(lease.worker.is_none());
        owners.insert(&change.lease, Some(&change.to));
    }
    let is_read = |lease: &&LeaseLoad| {
        fleet.workers.is_empty() || fleet.workers.iter().any(|worker| worker.reads.allows(&lease.key))
    };
    let free = fleet.leases.iter().filter(|lease| lease.worker.is_none()).filter(is_read).count();
    prop_assert_eq!(granted + plan.spillover, free);
    let carries = |id: &WorkerId| {
        let own = fleet.leases.iter().filter(|lease| owners[&lease.key] == Some(id));
        own.fold((0, 0.0), |(count, sum), lease| (count + 1, sum + kbps(lease)))
    };
    let alone = |lease: &LeaseLoad| kbps(lease) > rules.kbps_max;
    for change in &plan.moves {
        let (count, sum) = carries(&change.to);
        prop_assert!(count <= rules.leases_max, "{:?} has {count}", change.to);
        let heavy = fleet.leases.iter().any(|l| owners[&l.key] == Some(&change.to) && alone(l));
        prop_assert!(heavy || sum <= rules.kbps_max + 0.001, "{:?} has {sum} KB/s", change.to);
    }
    for lease in fleet.leases.iter().filter(|lease| owners[&lease.key].is_none()) {
        for worker in &fleet.workers {
            let (count, sum) = carries(&worker.id);
            let room = alone(lease) || sum + kbps(lease) <= rules.kbps_max - 0.001;
            let gave = plan.moves.iter().any(|m| leases[&m.lease].worker.as_ref() == Some(&worker.id));
            let full = count >= rules.leases_max || !room;
            prop_assert!(
                gave || full || !worker.reads.allows(&lease.key),
                "{:?} could go to {:?}",
                lease.key,
                worker.id
            );
        }
    }
    Ok(())
}

/// Throughput as it is met: equal, spread, unknown, idle.
fn kbps() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        4 => (1.0..2_000.0f64).prop_map(Some),
        2 => Just(Some(100.0)),
        1 => Just(Some(0.0)),
        1 => Just(None),
    ]
}

/// Each lease has an owner, or none.
fn world() -> impl Strategy<Value = World> {
    (1..12usize).prop_flat_map(|hosts| {
        let owner = prop_oneof![3 => (0..hosts).prop_map(Some), 1 => Just(Some(0)), 1 => Just(None)];
        prop::collection::vec((owner, kbps()), 0..80).prop_map(move |leases| World::new(leases, hosts))
    })
}

/// Each lease has an owner, and all have about the same to do.
fn even_world() -> impl Strategy<Value = World> {
    (1..12usize).prop_flat_map(|hosts| {
        let owner = prop_oneof![2 => 0..hosts, 1 => Just(0)].prop_map(Some);
        let lease = (owner, (200.0..800.0f64).prop_map(Some));
        prop::collection::vec(lease, 1..120).prop_map(move |leases| World::new(leases, hosts))
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let leases_max = prop_oneof![Just(usize::MAX), 0..20usize];
    let kbps_max = prop_oneof![Just(f64::INFINITY), 0.0..10_000.0f64];
    (leases_max, kbps_max).prop_map(|(leases_max, kbps_max)| Rules { leases_max, kbps_max })
}

fn balancing() -> impl Strategy<Value = Balancing> {
    prop_oneof![Just(Balancing::Off), Just(Balancing::Unmoved), Just(Balancing::All)]
}

/// Hosts of which some report their CPU: the average in percent, how many times slower each is, what else it does.
fn cpu_world(slower: f64, noise: f64, reporting: f64) -> impl Strategy<Value = World> {
    let host = (1.0..=slower, -noise..=noise, prop::bool::weighted(reporting));
    (prop::collection::vec(host, 1..12), 5.0..80.0f64).prop_flat_map(|(hosts, average)| {
        let owner = prop_oneof![2 => 0..hosts.len(), 1 => Just(0)].prop_map(Some);
        let leases = prop::collection::vec((owner, (200.0..800.0f64).prop_map(Some)), 1..120);
        leases.prop_map(move |leases| {
            let mut world = World::new(leases, hosts.len());
            let kbps: f64 = world.leases.iter().filter_map(|lease| lease.1).sum();
            for (host, (slower, noise, reports)) in world.hosts.iter_mut().zip(&hosts) {
                let per_kbps = average / (kbps / hosts.len() as f64) * slower;
                host.cpu = reports.then_some(Cpu { per_kbps, noise: noise + 3.0 });
            }
            world
        })
    })
}

proptest! {
    #[test]
    fn a_plan_keeps_the_rules(world in world(), rules in rules(), balance in balancing(), seed: u64) {
        let fleet = world.fleet();
        let plan = plan(&fleet, &rules, balance, &mut seeded(seed));
        check(&fleet, &rules, &plan)?;
        let again = super::plan(&fleet, &rules, balance, &mut seeded(seed));
        prop_assert_eq!(plan, again);
    }

    #[test]
    fn a_giver_gives_what_it_has_too_much_or_one_lease(mut world in world(), seed: u64) {
        world.leases.retain(|lease| lease.0.is_some());
        let fleet = world.fleet();
        let plan = plan(&fleet, &NO_LIMITS, Balancing::All, &mut seeded(seed));
        let (weights, loads) = shares(&fleet);
        let mut given: BTreeMap<&WorkerId, Vec<f64>> = BTreeMap::new();
        let mut received: BTreeMap<&WorkerId, Vec<f64>> = BTreeMap::new();
        for change in &plan.moves {
            let lease = fleet.leases.iter().find(|lease| lease.key == change.lease).unwrap();
            given.entry(lease.worker.as_ref().unwrap()).or_default().push(weights[&change.lease]);
            received.entry(&change.to).or_default().push(weights[&change.lease]);
        }
        for (giver, given) in &given {
            let load = loads[*giver];
            let (sum, last) = (given.iter().sum::<f64>(), given.last().unwrap());
            let enough = (load - 1.0) * if load > 2.0 - 1e-6 { 1.0 } else { 0.6 };
            prop_assert!(load > 1.0, "gives below the average");
            prop_assert!(given.len() == 1 || sum <= load - 1.0 + 1e-6, "gives too much");
            prop_assert!(sum - last <= enough + 1e-6, "does not stop in time");
        }
        let most = loads.values().copied().fold(0.0, f64::max);
        for (receiver, received) in &received {
            let (load, last) = (loads[*receiver], received.last().unwrap());
            let after = load + received.iter().sum::<f64>();
            prop_assert!(load < 1.0, "receives above the average");
            prop_assert!(after - last < 1.0, "passes the average with more than the last lease");
            prop_assert!(after < most, "is worse off than anybody before");
        }
    }

    /// Each move is a pause: while workers come and go a lease is not moved again.
    #[test]
    fn what_has_moved_stays_while_workers_come_and_go(
        world in world(), moves in prop::collection::vec(0..3u64, 60), seed: u64,
    ) {
        let mut fleet = world.fleet();
        fleet.leases.iter_mut().zip(moves.into_iter().cycle()).for_each(|(lease, moves)| lease.moves = moves);
        for change in plan(&fleet, &NO_LIMITS, Balancing::Unmoved, &mut seeded(seed)).moves {
            let lease = fleet.leases.iter().find(|lease| lease.key == change.lease).unwrap();
            prop_assert!(lease.worker.is_none() || lease.moves == 0, "moved {} times", lease.moves);
        }
    }

    /// However busy its host is otherwise: the next one would be as busy with it.
    #[test]
    fn nobody_gives_away_its_only_lease(
        leases in prop::collection::vec(0.0..100.0f64, 2..6), cpu in prop::collection::vec(0.0..100.0f64, 6), seed: u64,
    ) {
        let hosts = leases.len();
        let leases = leases.into_iter().enumerate().map(|(host, kbps)| (Some(host), Some(kbps))).collect();
        let mut world = World::new(leases, hosts + 1);
        for (host, noise) in world.hosts.iter_mut().zip(cpu) {
            host.cpu = Some(Cpu { per_kbps: 0.0, noise });
        }
        prop_assert_eq!(world.round(seed), 0);
    }

    #[test]
    fn three_rounds_balance_leases_of_about_equal_weight(mut world in even_world(), seed: u64) {
        for round in 0..3 {
            world.round(seed.wrapping_add(round));
        }
        prop_assert_eq!(balanced(&world.fleet()), Ok(()));
    }

    #[test]
    fn after_three_rounds_no_two_workers_differ_by_more_than_a_heavy_lease(mut world in world(), seed: u64) {
        for round in 0..3 {
            world.round(seed.wrapping_add(round));
        }
        let (weights, loads) = shares(&world.fleet());
        let heaviest = weights.values().copied().fold(0.0, f64::max);
        let least = loads.values().copied().fold(f64::INFINITY, f64::min);
        for (host, leases) in world.counts().into_iter().enumerate().filter(|(_, leases)| *leases > 1) {
            prop_assert!(loads[&id(host)] <= least + 0.2 + 1.5 * heaviest, "{host} has {leases}");
        }
    }

    #[test]
    fn a_fleet_comes_to_rest(mut world in world(), seed: u64) {
        let rounds = (0..10).take_while(|round| world.round(seed.wrapping_add(*round)) > 0).count();
        prop_assert!(rounds < 10, "still moving");
        prop_assert_eq!(world.round(seed.wrapping_mul(3)), 0);
        prop_assert_eq!(balanced(&world.fleet()), Ok(()));
    }

    #[test]
    fn free_leases_without_throughput_go_to_all_alike(
        leases in 0..100usize,
        hosts in 1..20usize,
        kbps in prop_oneof![Just(None), Just(Some(0.0)), Just(Some(70.0))],
        cpu in prop::option::of(0.0..50.0f64),
        seed: u64,
    ) {
        let mut world = World::new(vec![(None, kbps); leases], hosts);
        world.hosts[0].cpu = cpu.map(|noise| Cpu { per_kbps: 0.0, noise });
        world.round(seed);
        let counts = world.counts();
        prop_assert_eq!(counts.iter().sum::<usize>(), leases);
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
    }

    #[test]
    fn three_rounds_balance_what_is_measured(mut world in cpu_world(1.0, 2.0, 1.0), seed: u64) {
        for round in 0..3 {
            world.round(seed.wrapping_add(round));
        }
        let fleet = world.fleet();
        let percent = |host: usize| fleet.workers[host].usage[CPU].0;
        let hosts = world.hosts.len();
        let average = (0..hosts).map(percent).sum::<f64>() / hosts as f64;
        if average < 10.0 {
            // As good as nothing measured.
            prop_assert_eq!(balanced(&fleet), Ok(()));
        } else {
            // The leader takes what else a host does for load of its leases, so it aims a little off.
            let far = (0.1 * average).max(5.0) + 1.0;
            for (from, kbps) in &world.leases {
                let from = from.unwrap();
                let only = world.leases.iter().filter(|lease| lease.0 == Some(from)).count() == 1;
                let adds = world.hosts[from].cpu.unwrap().per_kbps * kbps.unwrap();
                for to in 0..hosts {
                    let outlier = percent(from) > average + far || percent(to) < average - far;
                    let opposite = percent(from) > average && percent(to) < average;
                    let better = percent(to) + 2.0 * adds + 6.0 < percent(from);
                    prop_assert!(only || !outlier || !opposite || !better, "{adds} from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn measured_or_not_measured_a_fleet_comes_to_rest(
        mut world in prop_oneof![cpu_world(1.0, 2.0, 1.0), cpu_world(1.0, 2.0, 0.5), cpu_world(3.0, 0.0, 0.7)],
        seed: u64,
    ) {
        let rounds = (0..12).take_while(|round| world.round(seed.wrapping_add(*round)) > 0).count();
        prop_assert!(rounds < 12, "still moving");
        prop_assert_eq!(world.round(seed.wrapping_mul(3)), 0);
    }

    #[test]
    fn who_reports_nothing_gets_leases_too(
        hosts in 2..8usize,
        silent in 1..4usize,
        percent in 20.0..90.0f64,
        swapped: bool,
        seed: u64,
    ) {
        let leases = (0..hosts * 20).map(|lease| (Some(lease % hosts), Some(100.0))).collect();
        let mut world = World::new(leases, hosts + silent);
        for (index, host) in world.hosts.iter_mut().enumerate() {
            if (index < hosts) != swapped {
                host.cpu = Some(Cpu { per_kbps: percent / 2_000.0, noise: 1.0 });
            }
        }
        for round in 0..3 {
            world.round(seed.wrapping_add(round));
        }
        let fair = (hosts * 20) as f64 / (hosts + silent) as f64;
        for count in world.counts() {
            // Measured workers may differ by five points.
            prop_assert!((count as f64 - fair).abs() < fair * 0.3 + 1.0, "{:?}", world.counts());
        }
    }

    #[test]
    fn nonsense_in_rows_is_ordinary_input(
        leases in prop::collection::vec(
            (prop::option::of(0..6usize), prop::option::of(any::<f64>()), any::<bool>(), any::<u64>()), 0..40),
        workers in prop::collection::vec(
            (0..5usize, prop::collection::btree_map("[CMT]", (any::<f64>(), any::<f64>()), 0..3), any::<u64>()),
            0..6,
        ),
        limits in (any::<usize>(), any::<f64>()),
        seed: u64,
    ) {
        let leases = leases.into_iter().enumerate().map(|(index, (worker, kbps, movable, secs))| LeaseLoad {
            key: key(index),
            worker: worker.map(id),
            movable: movable && worker.is_some(),
            kbps,
            unmoved: Duration::from_secs(secs), moves: 0
        });
        let workers = workers.into_iter();
        let workers = workers.map(|(host, usage, started)| WorkerLoad { id: id(host), usage, started, reads: Reads::Any });
        let fleet = Fleet { leases: leases.collect(), workers: workers.collect() };
        let rules = Rules { leases_max: limits.0, kbps_max: limits.1 };
        let model = Model::new(&fleet, &rules, None);
        for seat in &model.seats {
            prop_assert!(seat.load >= 0.0 && seat.load.is_finite() && seat.noise.is_finite());
        }
        check(&fleet, &rules, &plan(&fleet, &rules, Balancing::All, &mut seeded(seed)))?;
        let moves = successors(&fleet, &id(0), 5, &rules);
        prop_assert!(moves.iter().all(|change| change.to != id(0)));
    }

}

/// A fleet in which each worker has so many leases of 100 KB/s, and reports this CPU.
fn with_cpu(hosts: &[(usize, f64)]) -> World {
    let leases =
        hosts.iter().enumerate().flat_map(|(host, (leases, _))| vec![(Some(host), Some(100.0)); *leases]);
    let mut world = World::new(leases.collect(), hosts.len());
    for (host, (_, percent)) in world.hosts.iter_mut().zip(hosts) {
        host.cpu = Some(Cpu { per_kbps: 0.0, noise: *percent });
    }
    world
}

#[test]
fn a_difference_of_less_than_five_points_moves_nothing() {
    assert_eq!(with_cpu(&[(10, 24.0), (10, 16.0)]).round(1), 0, "four points off the average");
    assert!(with_cpu(&[(10, 26.0), (10, 14.0)]).round(1) > 0, "six points");
    assert_eq!(with_cpu(&[(10, 86.0), (10, 74.0)]).round(1), 0, "six points are less than a tenth");
    assert!(with_cpu(&[(100, 110.0), (100, 98.0)]).round(1) > 0, "but one of them is beyond its limits");
}

#[test]
fn the_cpu_of_an_idle_fleet_says_nothing() {
    let mut world = with_cpu(&[(12, 9.0), (0, 1.0), (0, 6.0)]);
    world.round(1);
    assert_eq!(world.counts(), [4, 4, 4]);
}

#[test]
fn faster_workers_have_more_when_all_are_equally_busy() {
    assert_eq!(with_cpu(&[(30, 60.0), (10, 61.0), (10, 58.0)]).round(1), 0);
}

#[test]
fn one_that_holds_everything_is_relieved_at_once() {
    let mut world = World::new(vec![(Some(0), Some(10.0)); 1_000], 50);
    world.round(1);
    assert!(world.counts().iter().all(|count| (18..=22).contains(count)), "{:?}", world.counts());
    assert_eq!(world.round(2), 0);
}

#[test]
fn the_oldest_free_leases_come_first() {
    let mut fleet = World::new(vec![(None, None); 9], 1).fleet();
    let plan = plan(&fleet, &Rules { leases_max: 3, ..NO_LIMITS }, Balancing::All, &mut seeded(1));
    let keys: BTreeSet<LeaseKey> = plan.moves.into_iter().map(|change| change.lease).collect();
    assert_eq!((keys, plan.spillover), ([key(2), key(5), key(8)].into(), 6));
    fleet.workers.clear();
    assert_eq!(
        super::plan(&fleet, &NO_LIMITS, Balancing::All, &mut seeded(1)),
        Plan { moves: vec![], spillover: 9 }
    );
}

#[test]
fn leases_of_a_worker_without_a_row_stay_and_do_not_count_as_the_share_of_others() {
    let mut leases = vec![(Some(2), Some(100.0)); 50];
    leases.extend([(Some(0), Some(100.0)); 8]);
    let mut world = World::new(leases, 3);
    world.hosts[2].alive = false;
    world.round(1);
    world.round(2);
    assert_eq!(world.counts(), [4, 4]);
}

#[test]
fn a_lease_beyond_the_limit_is_read_all_the_same() {
    let world = World::new(vec![(None, Some(900.0)), (Some(0), Some(400.0)), (Some(1), Some(200.0))], 2);
    let rules = Rules { kbps_max: 500.0, ..NO_LIMITS };
    let plan = plan(&world.fleet(), &rules, Balancing::All, &mut seeded(1));
    assert_eq!(plan, Plan { moves: vec![Move { lease: key(0), to: id(1) }], spillover: 0 });
}

#[path = "plan_streams_tests.rs"]
mod streams;
#[path = "plan_successors_tests.rs"]
mod successors;
