//! Who inherits from a worker that stops.

use super::*;

proptest! {
    #[test]
    fn successors_keep_the_rules(mut world in world(), rules in rules(), younger: usize) {
        world.leases.retain(|lease| lease.0.is_some());
        world.hosts[0].alive = false;
        for (index, host) in world.hosts.iter_mut().enumerate() {
            host.started = if index <= younger % 12 { 100 + index as u64 } else { 300 + index as u64 };
        }
        let fleet = world.fleet();
        let moves = successors(&fleet, &id(0), 200, &rules);
        let mut freed = fleet.clone();
        for lease in freed.leases.iter_mut().filter(|lease| lease.worker == Some(id(0))) {
            lease.worker = None;
        }
        let free = freed.leases.iter().filter(|lease| lease.worker.is_none()).count();
        check(&freed, &rules, &Plan { spillover: free - moves.len(), moves })?;
    }

    /// Without a balance between, the new generation takes over each lease as early as it can.
    #[test]
    fn a_rolling_deploy_moves_a_lease_at_most_twice(
        hosts in 2..12usize,
        leases in 0..100usize,
        start_first: bool,
        balance in 0..3u64,
        seed: u64,
    ) {
        let leases_of = |lease| (Some(lease % hosts), Some(100.0));
        let mut world = World::new((0..leases).map(leases_of).collect(), hosts);
        world.hosts.iter_mut().for_each(|host| host.started = 1_000);
        for old in 0..hosts {
            let at = 2_000 + 60 * old as u64;
            if start_first {
                world.start(at);
            } else {
                world.stop(old);
                world.start(at);
            }
            for round in 0..balance {
                world.round(seed.wrapping_add(round));
            }
            if start_first {
                world.stop(old);
            }
        }
        let most = world.moved.iter().copied().max().unwrap_or(0);
        let all: usize = world.moved.iter().sum();
        match (balance, start_first) {
            (0, true) => prop_assert!(most <= 1, "{:?}", world.moved),
            (0, false) => prop_assert!(most <= 2, "{:?}", world.moved),
            // What balancing moves between two stops may land on a worker that stops next.
            _ => prop_assert!(all <= 2 * leases + hosts, "{:?}", world.moved),
        }
    }
}

#[test]
fn the_youngest_inherits_up_to_its_fair_share() {
    let mut world = World::new((0..12).map(|lease| (Some(lease % 4), Some(100.0))).collect(), 6);
    for (host, started) in world.hosts.iter_mut().zip([50, 40, 50, 90, 60, 0]) {
        host.started = started;
    }
    world.hosts[4].alive = false;
    // Of 12 leases each of the 4 that remain besides 0 may have 3: worker 3 has them; 5 is of unknown age.
    world.stop(0);
    assert_eq!(world.counts(), [3, 3, 3, 3]);
    world.hosts[4].alive = true;
    world.stop(1);
    assert_eq!(world.counts(), [3, 3, 3, 3], "the younger worker 4, not 5, which would have room as well");
}
