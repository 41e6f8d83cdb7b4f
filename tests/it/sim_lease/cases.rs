//! Crashes, stalls and reshards, and what follows from each of them alone.

use std::collections::BTreeSet;
use std::time::Duration;

use kinetide::internals::lease::memory::Faults;
use kinetide::internals::lease::{LeaseKey, WorkerId};
use kinetide::internals::shard::ShardId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::world::{FAILOVER, Fleet, SCAN, TICK};

/// Crashes, stalls, joins and reshards at random on a bad network, then quiet. Answers the event log.
async fn storm(seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fleet = Fleet::new(seed, 8, true);
    for _ in 0..3 {
        fleet.start_worker();
    }
    for _ in 0..25 {
        let pause = rng.random_range(500..9000);
        fleet.run(Duration::from_millis(pause)).await;
        let alive = fleet.alive();
        let one = alive[rng.random_range(0..alive.len())];
        match rng.random_range(0..6) {
            0 if alive.len() > 1 => fleet.crash(one),
            1 if alive.len() < 5 => fleet.start_worker(),
            2 | 3 => fleet.stall(one, Duration::from_millis(rng.random_range(1000..25_000))),
            4 => {
                let open = fleet.stream.open_shards();
                fleet.stream.split(&open[rng.random_range(0..open.len())]);
            }
            _ => {
                let open = fleet.stream.open_shards();
                let first = rng.random_range(0..open.len().max(2) - 1);
                if let Some(pair) = open.get(first..first + 2) {
                    fleet.stream.open(pair);
                }
            }
        }
    }
    // The longest stall, then the failover time and some scans.
    fleet.run(Duration::from_secs(25)).await;
    fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 8).await;
    // Closed shards are read to their end, their children are balanced, finished leases cleaned up.
    fleet.run(Duration::from_secs(180)).await;
    fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 8).await;
    let log = fleet.log.lock().unwrap();
    let leased: BTreeSet<&ShardId> = log.rows.keys().map(LeaseKey::shard).collect();
    assert_eq!(leased, fleet.stream.open_shards().iter().collect(), "seed {seed}");
    log.lines.clone()
}

#[tokio::test(start_paused = true)]
async fn a_fleet_survives_a_storm() {
    for seed in 0..8 {
        storm(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_history() {
    let (first, second) = (storm(77).await, storm(77).await);
    assert!(first.len() > 500);
    assert_eq!(first, second);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_shares_and_stays_still() {
    let mut fleet = Fleet::new(1, 20, false);
    for _ in 0..3 {
        fleet.start_worker();
    }
    fleet.until_all_held(SCAN * 5).await;
    fleet.run(SCAN * 15).await;
    fleet.assert_balanced();
    fleet.start_worker();
    // A leader waits for a fleet that is about to change further.
    fleet.run(FAILOVER * 6 + SCAN * 15).await;
    fleet.assert_balanced();
    let owners = |fleet: &Fleet| fleet.ready().into_iter().map(|row| row.owner).collect::<Vec<_>>();
    let rest = owners(&fleet);
    for _ in 0..60 {
        fleet.run(SCAN).await;
        assert_eq!(owners(&fleet), rest, "nothing moves at rest");
    }
}

/// A whole fleet starts again, one worker within moments of the other: the leases are there, and nobody has them.
#[tokio::test(start_paused = true)]
async fn a_leader_learns_who_is_there_before_it_assigns() {
    for seed in 20..25 {
        let mut fleet = Fleet::at_rest(seed, 12, 3, SCAN * 20).await;
        (0..3).for_each(|number| fleet.stop(number));
        fleet.run(SCAN * 5).await;
        assert!(fleet.alive().is_empty() && fleet.ready().iter().all(|row| row.owner.is_none()));
        for _ in 0..3 {
            fleet.start_worker();
            fleet.run(SCAN / 4).await;
        }
        fleet.until_all_held(SCAN * 5).await;
        fleet.assert_balanced();
    }
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_crashed_worker_move_after_the_failover_time() {
    let mut fleet = Fleet::at_rest(2, 10, 2, SCAN * 20).await;
    let leader = fleet.leader();
    fleet.crash(1 - leader);
    let taken = fleet.until_all_held(FAILOVER + SCAN * 3).await;
    assert!(taken > FAILOVER - Duration::from_secs(4), "a live lease was taken: {taken:?}");
}

/// The next leader has to be elected, and to see for itself that the leases stand still.
#[tokio::test(start_paused = true)]
async fn leases_of_a_crashed_leader_move_after_half_a_failover_time_more() {
    let mut fleet = Fleet::at_rest(2, 10, 2, SCAN * 20).await;
    let leader = fleet.leader();
    fleet.crash(leader);
    let start = Instant::now();
    while !fleet.workers[1 - leader].coordinator.is_leader() {
        assert!(start.elapsed() < FAILOVER * 2 / 3, "nobody leads");
        fleet.run(TICK).await;
    }
    let taken = fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 3).await;
    assert!(start.elapsed() > FAILOVER - Duration::from_secs(4), "a live lease was taken: {taken:?}");
}

#[tokio::test(start_paused = true)]
async fn released_leases_move_at_the_next_scan() {
    let mut fleet = Fleet::at_rest(3, 10, 2, SCAN * 20).await;
    fleet.workers[0].stop_taking.cancel();
    for lease in fleet.workers[0].coordinator.held() {
        fleet.workers[0].coordinator.release(&lease).await;
        assert!(lease.lost().is_cancelled());
    }
    assert!(fleet.workers[0].coordinator.held().is_empty());
    let taken = fleet.until_all_held(SCAN * 3).await;
    assert!(taken <= SCAN * 3 / 2, "{taken:?}");
    assert_eq!(fleet.workers[1].coordinator.held().len(), 10);
}

/// One lease, so nobody steals: then no two workers believe in it at the same time, whatever stalls.
#[tokio::test(start_paused = true)]
async fn no_two_workers_believe_in_one_lease() {
    let mut moved = 0;
    for seed in 100..106 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut fleet = Fleet::new(seed, 1, true);
        for _ in 0..3 {
            fleet.start_worker();
        }
        let mut owners = BTreeSet::new();
        for _ in 0..20 {
            let one = rng.random_range(0..3);
            fleet.stall(one, Duration::from_millis(rng.random_range(1000..30_000)));
            for _ in 0..rng.random_range(20..300) {
                fleet.run(TICK).await;
                let now = Instant::now();
                let believers = fleet
                    .workers
                    .iter()
                    .filter(|worker| worker.coordinator.held().iter().any(|held| held.is_valid(now)));
                let believers: Vec<&WorkerId> = believers.map(|worker| &worker.id).collect();
                assert!(believers.len() <= 1, "seed {seed}: {believers:?}");
                owners.extend(believers.into_iter().cloned());
            }
        }
        moved += usize::from(owners.len() > 1);
    }
    assert!(moved > 2, "the lease hardly ever moved");
}

/// Two workers on every shard of a merge: the child waits for both.
#[tokio::test(start_paused = true)]
async fn a_child_of_two_is_read_in_the_end() {
    let mut fleet = Fleet::new(4, 2, false);
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(SCAN * 10).await;
    let parents = fleet.stream.open_shards();
    fleet.stream.open(&parents);
    fleet.run(SCAN * 13).await;
    let child = fleet.stream.open_shards()[0].clone();
    let row = fleet.log.lock().unwrap().rows[&child.into()].clone();
    assert!(row.owner.is_some() && row.checkpoint.position().is_some());
}

/// What the leader says of shards that nobody reads.
fn not_read(fleet: &Fleet) -> Vec<(String, &'static str)> {
    let leaders =
        fleet.alive().into_iter().filter_map(|number| fleet.workers[number].coordinator.fleet_status().led);
    leaders.flat_map(|led| led.not_read).map(|shard| (shard.shard, shard.reason)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_leader_names_the_shards_of_a_dead_worker_and_nobody_at_rest() {
    let mut fleet = Fleet::at_rest(5, 10, 3, SCAN * 60).await;
    for _ in 0..30 {
        fleet.run(SCAN).await;
        assert_eq!(not_read(&fleet), [], "at rest");
    }
    let leader = fleet.leader();
    for (number, worker) in fleet.workers.iter().enumerate() {
        let status = worker.coordinator.fleet_status();
        let said = status.leader.unwrap();
        assert_eq!((said.worker, said.this_worker), (fleet.workers[leader].id.to_string(), number == leader));
        assert!(said.unmoved_ms < 5_000 && status.leader_overdue_ms == Some(0));
        assert_eq!(status.led.is_some(), number == leader);
    }
    let led = fleet.workers[leader].coordinator.fleet_status().led.unwrap();
    assert_eq!((led.leases.read, led.leases.not_read, led.workers.len()), (10, 0, 3));
    assert!(led.workers.iter().all(|worker| worker.active && (3..=4).contains(&worker.leases)), "{led:?}");

    let dead = (leader + 1) % 3;
    let lost: BTreeSet<String> =
        fleet.workers[dead].coordinator.held().iter().map(|held| held.key().as_str().to_owned()).collect();
    fleet.crash(dead);
    let crashed = Instant::now();
    let mut named = BTreeSet::new();
    while crashed.elapsed() < FAILOVER + SCAN * 2 {
        fleet.run(TICK).await;
        named.extend(not_read(&fleet));
    }
    for shard in &lost {
        assert!(named.contains(&(shard.clone(), "owner_silent")), "{shard} is not in {named:?}");
    }
    assert!(named.iter().all(|(shard, _)| lost.contains(shard)), "{named:?}");
    fleet.run(SCAN * 5).await;
    assert_eq!(not_read(&fleet), []);
}

/// A leader that stands still is none after its lock has run out, and says nothing of the fleet from then on.
#[tokio::test(start_paused = true)]
async fn a_former_leader_says_nothing_of_fleet_and_streams() {
    let mut fleet = Fleet::at_rest(5, 10, 3, SCAN * 60).await;
    let former = fleet.leader();
    let led = |fleet: &Fleet, number: usize| fleet.workers[number].coordinator.fleet_status().led;
    let seen = led(&fleet, former).unwrap();
    let [stream] = &seen.streams[..] else { panic!("{seen:?}") };
    assert_eq!((seen.unplaced, stream.holes, stream.recreated), (Some(0), Some(0), Some(false)));
    fleet.stall(former, FAILOVER * 5);
    fleet.run(FAILOVER).await;
    assert_eq!(led(&fleet, former), None);
    fleet.run(FAILOVER * 3).await;
    let next = fleet.leader();
    assert_ne!(next, former);
    let seen = led(&fleet, next).unwrap();
    let active = seen.workers.iter().filter(|worker| worker.active).count();
    assert_eq!((active, seen.streams[0].holes, led(&fleet, former)), (2, Some(0), None));
}

/// Each look costs a read of the whole table, so in a large fleet only some watch a leader that has fallen silent.
#[tokio::test(start_paused = true)]
async fn few_look_at_the_table_of_a_dead_leader() {
    const WORKERS: usize = 60;
    let mut fleet = Fleet::new(11, WORKERS, false);
    for _ in 0..WORKERS {
        fleet.start_worker();
    }
    fleet.run(SCAN * 130).await;
    let leader = fleet.leader();
    fleet.lookers.lock().unwrap().clear();
    fleet.crash(leader);
    fleet.run(TICK).await;
    let taken_over = fleet.until_all_held(FAILOVER + SCAN * 5).await;
    let lookers = fleet.lookers.lock().unwrap().len();
    println!("{lookers} of {WORKERS} looked, all leases had readers after {taken_over:?}");
    assert!((1..=WORKERS / 3).contains(&lookers), "{lookers} of {WORKERS}");
}

/// The first renew of a lease counts from when it was sent: when its answer has come, others see it as that much older.
#[tokio::test(start_paused = true)]
async fn a_slow_first_renew_does_not_lengthen_the_lease() {
    let mut fleet = Fleet::new(1, 1, false);
    let delay = Duration::from_millis(700)..Duration::from_millis(701);
    fleet.table.set_faults(Some(Faults { seed: 1, delay, lost_request: 0.0, lost_answer: 0.0 }));
    fleet.start_worker();
    let start = Instant::now();
    let (mut counter, mut moved) = (0, start);
    let held = loop {
        fleet.run(TICK).await;
        let row = fleet.table.rows().pop();
        let now = row.map_or(0, |row| row.counter);
        if now != counter {
            (counter, moved) = (now, Instant::now());
        }
        if let Some(held) = fleet.workers[0].coordinator.held().pop() {
            break held;
        }
        assert!(start.elapsed() < FAILOVER * 12, "no lease was begun");
    };
    // Nobody else may take it before this moment, and anybody may from it on.
    let expires = moved + FAILOVER;
    assert!(held.is_valid(Instant::now()) && !held.is_valid(expires), "valid beyond {expires:?}");
}
