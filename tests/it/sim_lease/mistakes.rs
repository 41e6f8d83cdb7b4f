//! What people and machines get wrong: one worker id for two processes, wall clocks that are hours off.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{Fleet, SCAN};

/// Time between two reports of a worker, at most.
const REPORT: Duration = Duration::from_secs(11);
/// A leader balances when its workers have been the same for so long.
const SETTLED: Duration = Duration::from_secs(60);
const HOURS: i64 = 5 * 3600;

/// That no counter ever has two accepted writers is checked at each write.
#[tokio::test(start_paused = true)]
async fn two_processes_with_one_worker_id_notice() {
    for (seed, faults) in [(1, false), (2, true), (3, true)] {
        let mut fleet = Fleet::new(seed, 6, faults);
        fleet.start_worker_as("twin", 0);
        fleet.start_worker_as("other", 0);
        fleet.run(SCAN * 10).await;
        assert_eq!(fleet.workers[0].coordinator.fleet_status().worker_id_collisions, 0);
        fleet.start_worker_as("twin", 0);
        // It looks at the leases before it joins.
        fleet.run(SCAN * 25).await;
        let noticed = |fleet: &Fleet, number: usize| {
            let status = fleet.workers[number].coordinator.fleet_status();
            (status.worker_id_collisions, status.worker_id_collision_ms_ago)
        };
        for twin in [0, 2] {
            let (count, ago) = noticed(&fleet, twin);
            assert!(count > 0 && ago.is_some_and(|ago| ago < 25_000), "seed {seed}: {count} {ago:?}");
        }
        assert_eq!(noticed(&fleet, 1), (0, None), "only those that share an id");
        fleet.run(SCAN * 120).await;
        // One of them goes; the other one, and nobody else, has what both had.
        fleet.crash(0);
        fleet.run(SCAN * 60).await;
        fleet.until_all_held(SCAN * 5).await;
        fleet.assert_balanced();
        let (_, ago) = noticed(&fleet, 2);
        assert!(ago.is_some_and(|ago| ago > 30_000), "seed {seed}: {ago:?} after the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_clock_is_hours_off_gets_its_share() {
    for off in [HOURS, -HOURS] {
        let mut fleet = Fleet::new(4, 12, false);
        fleet.start_worker();
        fleet.start_worker();
        fleet.run(SCAN * 20).await;
        fleet.start_worker_as("off", off);
        let active = |fleet: &Fleet| {
            let led = fleet.workers[fleet.leader()].coordinator.fleet_status().led.unwrap();
            led.workers.iter().any(|worker| worker.worker == "off" && worker.active)
        };
        fleet.run(REPORT + SCAN * 3).await;
        assert!(active(&fleet), "it counts since its second report");
        fleet.run(SETTLED + SCAN * 5).await;
        fleet.assert_balanced();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_is_hours_off_gives_others_their_share() {
    for off in [HOURS, -HOURS] {
        let mut fleet = Fleet::new(5, 12, false);
        fleet.start_worker_as("off", off);
        fleet.run(SCAN * 3).await;
        assert_eq!(fleet.leader(), 0);
        fleet.start_worker();
        fleet.start_worker();
        fleet.run(REPORT + SETTLED + SCAN * 5).await;
        assert!(fleet.counts().iter().all(|leases| (3..=5).contains(leases)), "{:?}", fleet.counts());
        // The last bit waits for the next time that it balances.
        fleet.run(SETTLED + SCAN * 5).await;
        fleet.assert_balanced();
    }
}

/// What was right about a worker stays right when its clock, or that of the leader, is set.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_moves_nothing() {
    for (seconds, leads) in [(HOURS, false), (-HOURS, false), (HOURS, true), (-HOURS, true)] {
        let mut fleet = Fleet::at_rest(6, 12, 3, SCAN * 90).await;
        let leader = fleet.leader();
        fleet.step_clock(if leads { leader } else { (leader + 1) % 3 }, seconds);
        let owners = |fleet: &Fleet| fleet.ready().into_iter().map(|row| row.owner).collect::<Vec<_>>();
        let before = owners(&fleet);
        for _ in 0..4 {
            fleet.run(REPORT).await;
            assert_eq!(owners(&fleet), before);
        }
        // The next leader begins with what the rows say.
        fleet.stop(leader);
        fleet.run(SCAN * 3).await;
        fleet.until_all_held(SCAN * 5).await;
        fleet.run(REPORT * 2).await;
        fleet.assert_balanced();
        let distinct: BTreeSet<_> = owners(&fleet).into_iter().flatten().collect();
        assert_eq!(distinct.len(), 2, "both workers that are left have some");
    }
}
