//! Hand-offs that do not end by themselves.

use std::time::Duration;

use kinetide::internals::lease::Lease;
use kinetide::internals::lease::coordinator::HAND_OFF_TIMEOUT;
use kinetide::internals::lease::memory::Faults;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::Instant;

use super::world::{FAILOVER, Fleet, SCAN, TICK};

/// A worker that has everything and lets nothing go, and another one that is to get its share. Answers the leases on
/// their way.
async fn begun(seed: u64) -> (Fleet, Vec<Lease>) {
    let mut fleet = Fleet::new(seed, 6, false);
    fleet.stubborn = true;
    fleet.start_worker();
    fleet.until_all_held(SCAN * 5).await;
    fleet.stubborn = false;
    fleet.start_worker();
    let start = Instant::now();
    loop {
        fleet.run(TICK).await;
        let on_their_way: Vec<Lease> =
            fleet.ready().into_iter().filter(|row| row.checkpoint_owner.is_some()).collect();
        if !on_their_way.is_empty() {
            return (fleet, on_their_way);
        }
        assert!(start.elapsed() < FAILOVER * 8, "nothing is handed over");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_let_go_loses_the_lease() {
    let (mut fleet, on_their_way) = begun(1).await;
    let limit = HAND_OFF_TIMEOUT + FAILOVER;
    // All the while it reads on, and nobody else does.
    let start = Instant::now();
    while start.elapsed() < limit - SCAN {
        fleet.run(TICK).await;
        assert!(on_their_way.iter().all(|row| fleet.holder(&row.key) == Some(0)));
    }
    fleet.run(SCAN * 5).await;
    assert!(on_their_way.iter().all(|row| fleet.holder(&row.key) == Some(1)));
}

/// The old owner is gone, and the one that was to get the lease too.
#[tokio::test(start_paused = true)]
async fn a_hand_off_outlives_both_of_its_ends() {
    let (mut fleet, on_their_way) = begun(2).await;
    fleet.start_worker();
    fleet.run(Duration::from_secs(2)).await;
    fleet.crash(0);
    fleet.crash(1);
    fleet.until_all_held(FAILOVER * 3 / 2 + SCAN * 8).await;
    assert!(on_their_way.iter().all(|row| fleet.holder(&row.key) == Some(2)));
}

/// The answer to a release may be lost, and a heartbeat then finds the lease with its next owner.
#[tokio::test(start_paused = true)]
async fn what_was_given_away_is_not_lost() {
    for seed in 30..36 {
        let recorder = PrometheusBuilder::new().build_recorder();
        let told = recorder.handle();
        let _here = metrics::set_default_local_recorder(&recorder);
        let mut fleet = Fleet::at_rest(seed, 20, 3, SCAN * 20).await;
        let delay = Duration::from_millis(1)..Duration::from_millis(80);
        fleet.table.set_faults(Some(Faults { seed, delay, lost_request: 0.0, lost_answer: 0.4 }));
        for number in 0..6 {
            fleet.start_worker();
            fleet.run(SCAN * 4).await;
            fleet.stop(number);
            fleet.run(SCAN * 4).await;
        }
        let told = told.render();
        assert!(told.contains("kinetide_leases_released_total"), "{told}");
        let lost = told.lines().find_map(|line| line.strip_prefix("kinetide_leases_lost_total "));
        assert!(lost.is_none_or(|lost| lost == "0"), "seed {seed}: {lost:?} leases are lost");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_releases_each_lease_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let mut fleet = Fleet::at_rest(40, 12, 3, SCAN * 20).await;
    fleet.stop(1);
    fleet.run(SCAN * 5).await;
    fleet.until_all_held(SCAN * 5).await;
    let told = told.render();
    let released = told.lines().find(|line| line.starts_with("kinetide_leases_released_total"));
    assert_eq!(released, Some("kinetide_leases_released_total 4"), "{told}");
}
