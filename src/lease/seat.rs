//! One worker while the leader plans: what it has, how busy it is, and where that puts it among the others. Pure.
//!
//! Owns: load in shares, from throughput or from what the worker reports. Does not own: which lease goes where (`plan`).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::fleet::{Reads, THROUGHPUT};
use super::row::WorkerId;

/// Loads within 10 % of the average are left alone (`reBalanceThresholdPercentage`).
const THRESHOLD: f64 = 0.10;
/// A measured metric says nothing within so many percentage points (KCL 3.5.3 has an option for it).
const NOISE: f64 = 5.0;
/// Below this average, in percent, a metric says nothing at all: noise could hide a worker without any lease.
const QUIET: f64 = 2.0 * NOISE;
/// More than this, in percent, is a broken report.
const PERCENT_MAX: f64 = 1_000.0;
/// A worker that looks slower than the average is taken to be at most so many times slower: its load may be that of
/// leases which it has just lost, or all noise.
const SLOWNESS_MAX: f64 = 4.0;
/// What summing up in another order may change.
pub(super) const EPSILON: f64 = 1e-6;

/// One worker that can be given leases.
#[derive(Clone, Debug)]
pub struct WorkerLoad {
    /// Its id.
    pub id: WorkerId,
    /// For each metric the newest value, and the value that counts as full. May be empty.
    pub usage: BTreeMap<String, (f64, f64)>,
    /// When it started, seconds since the epoch; 0 where unknown.
    pub started: u64,
    /// The streams whose leases it can be given.
    pub reads: Reads,
}

/// A number in an order; never NaN here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ordered(pub(super) f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A place in a queue of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) load: Ordered,
    pub(super) leases: usize,
    pub(super) tie: u32,
    pub(super) index: usize,
}

/// One worker while planning.
pub(super) struct Seat<'a> {
    pub(super) worker: &'a WorkerLoad,
    pub(super) index: usize,
    pub(super) leases: usize,
    pub(super) kbps: f64,
    /// The throughput of its leases, in shares.
    pub(super) share: f64,
    /// The same of the leases of each group.
    pub(super) of_group: Vec<f64>,
    /// How busy it is, in shares; the worst of its metrics.
    pub(super) load: f64,
    /// What of its load may be noise, in shares.
    pub(super) noise: f64,
    /// By a metric it has more to do than counts as full: then any difference that is not noise is worth a move.
    pub(super) overfull: bool,
    pub(super) tie: u32,
}

impl Seat<'_> {
    pub(super) fn by_room(&self) -> Place {
        Place { load: Ordered(self.load), leases: self.leases, tie: self.tie, index: self.index }
    }

    /// How far its load may be from the level, in shares.
    fn tolerance(&self, level: f64) -> f64 {
        if self.overfull { self.noise } else { self.noise.max(THRESHOLD * level) }
    }

    /// For receivers: those that are below the level beyond their tolerance come first.
    pub(super) fn by_need(&self, level: f64) -> Place {
        Place { load: Ordered(self.load + self.tolerance(level)), ..self.by_room() }
    }

    /// For givers: the one that is above the level beyond its tolerance is the greatest.
    pub(super) fn by_excess(&self, level: f64) -> Place {
        Place { load: Ordered(self.load - self.tolerance(level)), ..self.by_room() }
    }

    pub(super) fn above(&self, level: f64) -> bool {
        self.load > level + self.tolerance(level) + EPSILON
    }

    pub(super) fn below(&self, level: f64) -> bool {
        self.load < level - self.tolerance(level) - EPSILON
    }

    /// What of its load are leases of this group, as far as throughput tells.
    pub(super) fn load_of(&self, group: usize) -> f64 {
        if self.share > 0.0 { self.load * self.of_group[group] / self.share } else { 0.0 }
    }

    /// What a lease adds to the load. KCL takes all workers for equally fast; but a slow one would be pushed far above
    /// the average, and the lease come back.
    pub(super) fn burden(&self, share: f64) -> f64 {
        let slowness = if self.share > 0.0 { self.load / self.share } else { 1.0 };
        share * slowness.clamp(1.0, SLOWNESS_MAX)
    }
}

/// Finds out how busy each worker is: by the worst of its metrics that say something, or else by throughput.
pub(super) fn judge(seats: &mut [Seat<'_>]) {
    let mut metrics: BTreeMap<&str, Vec<(usize, f64)>> = BTreeMap::new();
    for seat in seats.iter_mut() {
        seat.load = seat.share;
        for (name, (value, full)) in &seat.worker.usage {
            let percent = value / full * 100.0;
            // The leader knows throughput better than the worker.
            if name != THROUGHPUT && *full > 0.0 && (0.0..=PERCENT_MAX).contains(&percent) {
                metrics.entry(name).or_default().push((seat.index, percent));
            }
        }
    }
    let mut measured = vec![false; seats.len()];
    for values in metrics.values() {
        let average = mean(values.iter().map(|(_, percent)| *percent));
        if average < QUIET {
            continue;
        }
        let unit = mean(values.iter().map(|(index, _)| seats[*index].share)) / average;
        for (index, percent) in values {
            let (seat, load, noise) = (&mut seats[*index], percent * unit, NOISE * unit);
            if !std::mem::replace(&mut measured[*index], true) || load > seat.load {
                (seat.load, seat.noise, seat.overfull) = (load, noise, *percent > 100.0);
            }
        }
    }
}

/// 0 for no values.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if count > 0.0 { sum / count } else { 0.0 }
}
