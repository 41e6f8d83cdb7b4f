//! A lease table that answers slowly: a worker with many leases renews too few of them in time, and yet keeps them.

use std::ops::Range;
use std::time::Duration;

use kinetide::internals::lease::memory::Faults;
use tokio::time::{Instant, sleep};

use super::world::{FAILOVER, Fleet};

const SHARDS: usize = 600;

fn slow(delay_ms: Range<u64>) -> Option<Faults> {
    let delay = Duration::from_millis(delay_ms.start)..Duration::from_millis(delay_ms.end);
    Some(Faults { seed: 1, delay, lost_request: 0.0, lost_answer: 0.0 })
}

/// A worker alone with its idle shards, all of them begun.
async fn lone_worker() -> Fleet {
    let mut fleet = Fleet::new(1, SHARDS, false);
    fleet.idle = true;
    fleet.start_worker();
    sleep(FAILOVER * 6).await;
    assert_eq!(fleet.counts(), [SHARDS]);
    fleet
}

fn valid(fleet: &Fleet) -> usize {
    let now = Instant::now();
    fleet.workers[0].coordinator.held().iter().filter(|held| held.is_valid(now)).count()
}

fn begun_once(fleet: &Fleet) {
    let begun = fleet.begun.lock().unwrap();
    assert_eq!((begun.len(), begun.values().sum::<usize>()), (SHARDS, SHARDS), "lost and begun again");
}

/// Twenty calls at a time would renew each lease once in twelve seconds.
#[tokio::test(start_paused = true)]
async fn late_renewals_go_out_in_order_of_expiry_and_more_at_a_time() {
    let fleet = lone_worker().await;
    fleet.table.set_faults(slow(150..250));
    for second in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(valid(&fleet), SHARDS, "after {second} s");
    }
    begun_once(&fleet);
}

/// So slow that every lease runs out: nobody else is there, so none of them is lost.
#[tokio::test(start_paused = true)]
async fn leases_that_nobody_takes_outlive_their_validity() {
    let fleet = lone_worker().await;
    fleet.table.set_faults(slow(1_300..1_400));
    let mut least = SHARDS;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        least = least.min(valid(&fleet));
    }
    assert!(least < SHARDS / 2, "{least} were valid all the while: not slow enough for this test");
    fleet.table.set_faults(None);
    sleep(FAILOVER).await;
    assert_eq!((valid(&fleet), fleet.counts()), (SHARDS, vec![SHARDS]));
    begun_once(&fleet);
}

/// A worker that hears nothing for longer than the failover time does not keep others from its leases, and finds out.
#[tokio::test(start_paused = true)]
async fn a_worker_that_stands_still_loses_its_leases_to_another() {
    let mut fleet = Fleet::new(1, 20, false);
    fleet.idle = true;
    fleet.start_worker();
    fleet.start_worker();
    fleet.run(FAILOVER * 12).await;
    assert_eq!(fleet.counts(), [10, 10]);
    // Whoever does not lead.
    let still = 1 - fleet.leader();
    fleet.stall(still, FAILOVER * 3);
    fleet.run(FAILOVER * 2).await;
    let taken = |fleet: &Fleet| fleet.workers[1 - still].coordinator.held().len();
    assert_eq!(taken(&fleet), 20);
    fleet.run(FAILOVER * 2).await;
    let both: usize = fleet.counts().iter().sum();
    assert_eq!(both, 20, "each lease has one holder");
}
