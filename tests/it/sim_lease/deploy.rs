//! Rolling deploys: every worker is replaced, one after the other, and readers should hardly notice.

use std::collections::BTreeMap;
use std::time::Duration;

use kinetide::internals::lease::LeaseKey;
use tokio::time::Instant;

use super::world::{Fleet, SCAN, TICK};

const WORKERS: usize = 4;
const SHARDS: usize = 20;
/// No shard stays without a reader for longer, as consumers have nothing to finish here.
const UNREAD_MAX: Duration = Duration::from_secs(2);

/// Who read each shard, as far as it was seen.
#[derive(Default)]
struct Readers {
    last: BTreeMap<LeaseKey, usize>,
    changes: BTreeMap<LeaseKey, usize>,
    unread_since: BTreeMap<LeaseKey, Instant>,
    unread: Duration,
}

impl Readers {
    fn look(&mut self, fleet: &Fleet) {
        let now = Instant::now();
        let holders = fleet.holders();
        for lease in fleet.of_ready(|row| row.key.clone()) {
            if let Some(&reader) = holders.get(&lease) {
                self.unread_since.remove(&lease);
                if self.last.insert(lease.clone(), reader).is_some_and(|before| before != reader) {
                    *self.changes.entry(lease).or_default() += 1;
                }
            } else {
                let since = *self.unread_since.entry(lease).or_insert(now);
                self.unread = self.unread.max(now - since);
            }
        }
    }

    async fn watch(&mut self, fleet: &mut Fleet, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            fleet.run(TICK).await;
            self.look(fleet);
        }
    }

    /// How many leases changed their reader how often.
    fn histogram(&self) -> BTreeMap<usize, usize> {
        let mut histogram = BTreeMap::new();
        for lease in self.last.keys() {
            *histogram.entry(self.changes.get(lease).copied().unwrap_or(0)).or_default() += 1;
        }
        histogram
    }

    /// At most `more` leases changed their reader more than twice, and none more than `most` times.
    fn moved(&self, more: usize, most: usize) {
        let often = self.changes.values().filter(|changes| **changes > 2).count();
        assert!(
            often <= more && self.changes.values().all(|changes| *changes <= most),
            "{:?}",
            self.histogram()
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    StartFirst,
    StopFirst,
}

/// Replaces each worker, with `gap` after each start and each stop. Answers what readers saw of it.
async fn deploy(seed: u64, order: Order, gap: Duration) -> Readers {
    let mut fleet = Fleet::at_rest(seed, SHARDS, WORKERS, SCAN * 130).await;
    let mut readers = Readers::default();
    readers.look(&fleet);
    for old in 0..WORKERS {
        if order == Order::StartFirst {
            fleet.start_worker();
            readers.watch(&mut fleet, gap).await;
        }
        fleet.stop(old);
        readers.watch(&mut fleet, gap).await;
        if order == Order::StopFirst {
            fleet.start_worker();
            readers.watch(&mut fleet, gap).await;
        }
    }
    // Until everything may be moved again.
    readers.watch(&mut fleet, SCAN * 420).await;
    fleet.assert_balanced();
    assert!(fleet.alive().iter().all(|number| *number >= WORKERS), "an old worker is still there");
    println!(
        "{order:?} with {gap:?} between: unread for {:?}, changes of readers {:?}",
        readers.unread,
        readers.histogram()
    );
    assert!(readers.unread <= UNREAD_MAX, "{:?} without a reader", readers.unread);
    readers
}

/// The fleet is not balanced while its workers come and go, and who leaves gives to the youngest: each lease moves once,
/// directly to its place.
#[tokio::test(start_paused = true)]
async fn start_first() {
    for (seed, gap) in [(0, 3), (1, 6), (2, 20), (3, 40)] {
        let readers = deploy(seed, Order::StartFirst, Duration::from_secs(gap)).await;
        assert_eq!(readers.histogram(), BTreeMap::from([(1, SHARDS)]));
    }
}

/// The leases of the first to leave can only go to workers that leave later; and the last one to start is given some of
/// those that have moved once only.
#[tokio::test(start_paused = true)]
async fn stop_first() {
    for (seed, gap) in [(0, 3), (1, 6), (2, 20), (3, 40)] {
        deploy(seed, Order::StopFirst, Duration::from_secs(gap)).await.moved(0, 2);
    }
}

/// So slow that the fleet is balanced between any two steps: but leases that have moved already are left alone.
#[tokio::test(start_paused = true)]
async fn one_worker_at_a_time() {
    for (seed, gap) in [(4, 90), (5, 280)] {
        deploy(seed, Order::StartFirst, Duration::from_secs(gap)).await.moved(0, 2);
        deploy(seed, Order::StopFirst, Duration::from_secs(gap)).await.moved(0, 2);
    }
}
