//! Which worker gets which lease: the leader's decision as a pure function (KCL 3.x: `LeaseAssignmentManager`,
//! `VarianceBasedLeaseAssignmentDecider`).
//!
//! Owns: who gets a free lease, which leases move so that all workers are equally loaded, who inherits from a worker
//! that stops. Does not own: what was seen of the fleet (`view`), the writes (`coordinator`).
//!
//! All loads are in one unit, the *share*: what each worker would have if all had the same. So workers that report
//! their CPU and workers that report nothing can be compared:
//!
//! ```text
//! judged by throughput:  load = throughput of its leases / fair share        (KCL's T / 100)
//! judged by a metric:    load = value / average value × average throughput of the workers that report it, in shares
//! ```
//!
//! Where workers read different streams, as in a deploy that adds one, leases that the same workers can read make a
//! *group*. Each group is balanced among its readers, around the *level*: what each reader would have if the leases of
//! the group could be cut at will. It is the average of the readers, but for those that have more than that of other
//! groups. Where all workers read all streams there is one group, and its level is 1.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::key::LeaseKey;
use super::row::WorkerId;
pub use super::seat::WorkerLoad;
use super::seat::{EPSILON, Ordered, Place, Seat, judge, mean};
use crate::shard::StreamId;

/// A worker gives up to 60 % of what it has too much in one round (`dampeningPercentage`).
const DAMPENING: f64 = 0.60;
/// Beyond twice the average an overload is no noise, and a worker gives all that it has too much.
const CERTAIN: f64 = 2.0;
/// Where the average lease has less than this, in KB/s, leases are counted.
const KBPS_MIN: f64 = 0.001;
/// More than this, in KB/s, is a broken row.
const KBPS_MAX: f64 = 1_000_000.0;
/// A lease counts for at least this part of the average lease, since an idle shard is polled and renewed too.
const IDLE: f64 = 0.10;
/// A lease moves if then its receiver is less loaded than the giver was, by half of the lease: less is not worth a pause.
const WORTH: f64 = 1.5;

/// One lease to be read, as the leader plans with it.
#[derive(Clone, Debug)]
pub struct LeaseLoad {
    /// Its key.
    pub key: LeaseKey,
    /// Who has it, or will after its hand-off; `None`: unowned or expired.
    pub worker: Option<WorkerId>,
    /// It may be moved now: owned, live, not in a hand-off, not finished.
    pub movable: bool,
    /// Its throughput in KB/s, as the row says; a nonsensical one counts as unknown.
    pub kbps: Option<f64>,
    /// How long its counter stands still.
    pub unmoved: Duration,
    /// How often it has moved lately.
    pub moves: u64,
}

/// What the leader plans with.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// The leases to be read. One whose worker is not among `workers` stays with it.
    pub leases: Vec<LeaseLoad>,
    /// The workers that can be given leases.
    pub workers: Vec<WorkerLoad>,
}

/// The most that one worker is given. A lease that alone has more than `kbps_max` goes to the least loaded all the same:
/// else nobody would ever read it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Leases (`maxLeasesForWorker`).
    pub leases_max: usize,
    /// KB/s of all leases of a worker (`maxThroughputPerHostKBps`); infinite for no limit.
    pub kbps_max: f64,
}

/// Which leases may move from one living worker to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    /// None.
    Off,
    /// Those that have not moved lately. While workers come and go the others may have to move again anyway.
    Unmoved,
    /// All.
    All,
}

/// One lease and the worker that is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The lease; its row decides whether it is assigned or handed over.
    pub lease: LeaseKey,
    /// The worker.
    pub to: WorkerId,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The moves; each lease is in at most one of them.
    pub moves: Vec<Move>,
    /// Free leases that nobody could take, for want of room. Those of a stream that nobody reads are left out.
    pub spillover: usize,
}

/// The leader's plan.
///
/// 1. Each free lease goes to the least loaded worker that may take it: first those that fewer workers can read, then the
///    one that stands still for the longest time.
/// 2. Unless `balancing` is off: while a worker is above the level by more than the threshold, or one below it, leases go from
///    the most to the least loaded. A receiver is below the level, and even with the lease less loaded than the giver
///    was: so the fleet comes to rest.
///
/// The same fleet and the same `rng` give the same plan.
pub fn plan(fleet: &Fleet, rules: &Rules, balancing: Balancing, rng: &mut impl Rng) -> Plan {
    let mut model = Model::new(fleet, rules, None);
    for seat in &mut model.seats {
        seat.tie = rng.random();
    }
    // Whatever the rules leave open is decided by this order.
    let mut order: Vec<usize> = (0..fleet.leases.len()).collect();
    order.shuffle(rng);
    let mut spillover = 0;
    let mut moves = Vec::new();
    let mut seats = model.by_room();
    for lease in model.oldest_first(&order) {
        match seats.iter().find(|seat| model.fits(lease, seat.index)).copied() {
            Some(seat) => moves.push(model.grant(lease, seat, &mut seats)),
            None => spillover += 1,
        }
    }
    match balancing {
        Balancing::Off => {}
        Balancing::Unmoved => moves.extend(model.balance(&order, |lease| lease.movable && lease.moves == 0)),
        Balancing::All => moves.extend(model.balance(&order, |lease| lease.movable)),
    }
    Plan { moves, spillover }
}

/// Where the leases of a worker that stops should go. `leaving` is not counted among the workers; its leases still
/// carry its name.
///
/// Workers that started after it come first, the youngest of them before all: in a rolling deploy they stay, the others
/// leave soon. Each gets up to its fair share, by number and by throughput; of leases that have moved lately, which
/// must not have to move once more, the youngest gets all. What is left goes to the least loaded. A lease that nobody
/// may take is left out.
pub fn successors(fleet: &Fleet, leaving: &WorkerId, leaving_started: u64, rules: &Rules) -> Vec<Move> {
    let mut model = Model::new(fleet, rules, Some(leaving));
    let order: Vec<usize> = (0..fleet.leases.len()).collect();
    let planned = model.holders.iter().filter(|holder| **holder != Holder::Outside).count();
    let fair = planned.div_ceil(model.seats.len().max(1));
    let mut younger: Vec<usize> = (0..model.seats.len())
        .filter(|index| leaving_started > 0 && model.seats[*index].worker.started > leaving_started)
        .collect();
    younger.sort_by_key(|index| Reverse(model.seats[*index].worker.started));
    let mut seats = model.by_room();
    let mut moves = Vec::new();
    for lease in model.heaviest_first(&order, |model, lease| model.is_left_by(lease, leaving)) {
        let has_moved = fleet.leases[lease].moves > 0;
        let has_room = |seat: &&Seat| {
            let below_fair_share = seat.leases < fair && seat.share < 1.0 - EPSILON;
            (below_fair_share || has_moved) && model.fits(lease, seat.index)
        };
        let young = younger.iter().map(|index| &model.seats[*index]).find(has_room);
        let seat = young.map(|seat| seat.by_room());
        let seat = seat.or_else(|| seats.iter().find(|seat| model.fits(lease, seat.index)).copied());
        moves.extend(seat.map(|seat| model.grant(lease, seat, &mut seats)));
    }
    moves
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Free,
    /// The worker with this index.
    Seat(usize),
    /// A worker that is not planned with, or nobody, as no worker reads its stream.
    Outside,
}

/// The fleet in numbers that can be relied on: finite, none negative, all leases with a weight.
struct Model<'a> {
    fleet: &'a Fleet,
    rules: &'a Rules,
    /// For each lease: who has it, its throughput in KB/s, its throughput in shares.
    holders: Vec<Holder>,
    kbps: Vec<f64>,
    shares: Vec<f64>,
    /// For each lease its group.
    group: Vec<usize>,
    groups: Vec<Group>,
    seats: Vec<Seat<'a>>,
}

/// Leases that the same workers can read.
#[derive(PartialEq)]
struct Group {
    /// For each worker whether it does.
    readers: Vec<bool>,
    count: usize,
}

impl<'a> Model<'a> {
    /// The leases of `leaving` are free, and it gets none.
    fn new(fleet: &'a Fleet, rules: &'a Rules, leaving: Option<&WorkerId>) -> Self {
        let mut indices = HashMap::with_capacity(fleet.workers.len());
        let mut seats = Vec::with_capacity(fleet.workers.len());
        for worker in fleet.workers.iter().filter(|worker| Some(&worker.id) != leaving) {
            let index = seats.len();
            if *indices.entry(&worker.id).or_insert(index) == index {
                let nothing = Seat {
                    worker,
                    index,
                    leases: 0,
                    kbps: 0.0,
                    share: 0.0,
                    of_group: Vec::new(),
                    load: 0.0,
                    noise: 0.0,
                    overfull: false,
                    tie: 0,
                };
                seats.push(nothing);
            }
        }
        let (group, groups) = grouped(fleet, &seats);
        let holder = |(lease, group): (&LeaseLoad, &usize)| match &lease.worker {
            Some(worker) if Some(worker) != leaving => {
                indices.get(worker).map_or(Holder::Outside, |index| Holder::Seat(*index))
            }
            _ if groups[*group].count == 0 && !seats.is_empty() => Holder::Outside,
            _ => Holder::Free,
        };
        let holders: Vec<Holder> = fleet.leases.iter().zip(&group).map(holder).collect();

        let known = |lease: &LeaseLoad| lease.kbps.filter(|kbps| (0.0..=KBPS_MAX).contains(kbps));
        let average = mean(fleet.leases.iter().filter_map(known));
        let kbps: Vec<f64> = fleet.leases.iter().map(|lease| known(lease).unwrap_or(average)).collect();
        let weight = |kbps: f64| if average < KBPS_MIN { 1.0 } else { kbps.max(average * IDLE) };
        let planned = kbps.iter().zip(&holders).filter(|(_, holder)| **holder != Holder::Outside);
        let total: f64 = planned.map(|(kbps, _)| weight(*kbps)).sum();
        let per_weight = seats.len() as f64 / if total > 0.0 { total } else { 1.0 };
        let shares: Vec<f64> = kbps.iter().map(|kbps| weight(*kbps) * per_weight).collect();

        let mut model = Self { fleet, rules, holders, kbps, shares, group, groups, seats };
        for seat in &mut model.seats {
            seat.of_group = vec![0.0; model.groups.len()];
        }
        for (lease, holder) in model.holders.iter().enumerate() {
            if let Holder::Seat(index) = holder {
                let seat = &mut model.seats[*index];
                seat.leases += 1;
                seat.kbps += model.kbps[lease];
                seat.share += model.shares[lease];
                seat.of_group[model.group[lease]] += model.shares[lease];
            }
        }
        judge(&mut model.seats);
        model
    }

    /// True when the worker reads the stream of the lease, and the limits let it take the lease.
    fn fits(&self, lease: usize, seat: usize) -> bool {
        let reads = self.groups[self.group[lease]].readers[seat];
        let (seat, kbps, kbps_max) = (&self.seats[seat], self.kbps[lease], self.rules.kbps_max);
        reads && seat.leases < self.rules.leases_max && (seat.kbps + kbps <= kbps_max || kbps > kbps_max)
    }

    fn is_left_by(&self, lease: usize, leaving: &WorkerId) -> bool {
        let lease = &self.fleet.leases[lease];
        lease.movable && lease.worker.as_ref() == Some(leaving)
    }

    /// The workers that may take leases, the least loaded first; among equals the one with the fewest leases.
    fn by_room(&self) -> BTreeSet<Place> {
        let open = self.seats.iter().filter(|seat| seat.leases < self.rules.leases_max);
        open.map(|seat| seat.by_room()).collect()
    }

    /// The free leases in the order in which they are assigned.
    fn oldest_first(&self, order: &[usize]) -> Vec<usize> {
        let mut free = self.heaviest_first(order, |model, lease| model.holders[lease] == Holder::Free);
        free.sort_by_key(|lease| (self.readers(*lease), Reverse(self.fleet.leases[*lease].unmoved)));
        free
    }

    /// How many workers can read the lease. Who takes one that all can read has no room for one that only it can.
    fn readers(&self, lease: usize) -> usize {
        self.groups[self.group[lease]].count
    }

    /// Some of the leases. Few moves do when the heavy ones come first.
    fn heaviest_first(&self, order: &[usize], wanted: impl Fn(&Self, usize) -> bool) -> Vec<usize> {
        let mut leases: Vec<usize> = order.iter().copied().filter(|lease| wanted(self, *lease)).collect();
        // Among leases of about the same weight those that have moved least: in a deploy none moves a third time.
        let class = |lease: usize| Ordered(self.shares[lease].max(f64::MIN_POSITIVE).log2().round());
        leases.sort_by_key(|lease| {
            let lease = *lease;
            let (moves, share) = (self.fleet.leases[lease].moves, Ordered(self.shares[lease]));
            (self.readers(lease), Reverse(class(lease)), moves, Reverse(share))
        });
        leases
    }

    /// Gives a lease that is free to a worker, which goes to its new place in the queue.
    fn grant(&mut self, lease: usize, to: Place, queue: &mut BTreeSet<Place>) -> Move {
        queue.remove(&to);
        let change = self.receive(lease, to.index);
        let seat = &self.seats[to.index];
        if seat.leases < self.rules.leases_max {
            queue.insert(seat.by_room());
        }
        change
    }

    fn receive(&mut self, lease: usize, to: usize) -> Move {
        let seat = &mut self.seats[to];
        seat.load += seat.burden(self.shares[lease]);
        seat.share += self.shares[lease];
        seat.of_group[self.group[lease]] += self.shares[lease];
        seat.kbps += self.kbps[lease];
        seat.leases += 1;
        Move { lease: self.fleet.leases[lease].key.clone(), to: seat.worker.id.clone() }
    }

    /// Moves leases between workers, group by group: first those that fewer workers can read.
    fn balance(&mut self, order: &[usize], movable: impl Fn(&LeaseLoad) -> bool) -> Vec<Move> {
        let mut groups: Vec<usize> = (0..self.groups.len()).collect();
        groups.sort_by_key(|group| self.groups[*group].count);
        groups.into_iter().flat_map(|group| self.balance_group(group, order, &movable)).collect()
    }

    /// The level of a group: its load is poured over what its readers have of other groups.
    fn level(&self, group: usize) -> f64 {
        let readers = &self.groups[group].readers;
        if self.groups.len() == 1 && readers.iter().all(|reads| *reads) {
            return 1.0;
        }
        let mut poured: f64 = self.seats.iter().map(|seat| seat.load_of(group)).sum();
        let readers = self.seats.iter().filter(|seat| readers[seat.index]);
        let mut others: Vec<f64> = readers.map(|seat| seat.load - seat.load_of(group)).collect();
        others.sort_by(f64::total_cmp);
        let mut level = f64::INFINITY;
        for (index, other) in others.into_iter().enumerate() {
            if other >= level {
                break;
            }
            poured += other;
            level = poured / (index + 1) as f64;
        }
        level
    }

    /// Moves leases of one group from workers above its level to readers below it, until none is too far from it or each
    /// giver has given what it should in one round.
    fn balance_group(
        &mut self,
        group: usize,
        order: &[usize],
        movable: impl Fn(&LeaseLoad) -> bool,
    ) -> Vec<Move> {
        let level = self.level(group);
        let offer = |seat: &Seat<'_>| (seat.load > level + EPSILON).then(|| Offer::of(seat, level));
        let mut offers: Vec<Option<Offer>> = self.seats.iter().map(offer).collect();
        let wanted =
            |model: &Self, lease: usize| model.group[lease] == group && movable(&model.fleet.leases[lease]);
        for lease in self.heaviest_first(order, wanted) {
            if let Holder::Seat(index) = self.holders[lease]
                && let Some(offer) = &mut offers[index]
            {
                offer.leases.push(lease);
            }
        }
        let offering = self.seats.iter().filter(|seat| offers[seat.index].is_some());
        let mut givers: BinaryHeap<Place> = offering.map(|seat| seat.by_excess(level)).collect();
        let leases_max = self.rules.leases_max;
        let open = |seat: &Seat<'_>| seat.load < level - EPSILON && seat.leases < leases_max;
        let readers = self.seats.iter().filter(|seat| self.groups[group].readers[seat.index]);
        let mut receivers: BTreeSet<Place> =
            readers.filter(|seat| open(seat)).map(|seat| seat.by_need(level)).collect();

        let mut moves = Vec::new();
        while let Some(giver) = givers.pop() {
            let Some(offer) = &mut offers[giver.index] else { continue };
            let Some((lease, to)) = self.next_move(giver.index, offer, level, &receivers) else { continue };
            receivers.remove(&to);
            moves.push(self.receive(lease, to.index));
            if open(&self.seats[to.index]) {
                receivers.insert(self.seats[to.index].by_need(level));
            }
            self.give(lease, giver.index);
            if self.seats[giver.index].load > level + EPSILON {
                givers.push(self.seats[giver.index].by_excess(level));
            }
        }
        moves
    }

    /// The heaviest lease within the offer that somebody may take; once, if the offer is less than each lease, the
    /// lightest one (KCL: `allowThroughputOvershoot`).
    fn next_move(
        &self,
        giver: usize,
        offer: &mut Offer,
        level: f64,
        receivers: &BTreeSet<Place>,
    ) -> Option<(usize, Place)> {
        let giver = &self.seats[giver];
        let needed = |seat: &Seat<'_>| giver.above(level) || seat.below(level);
        // The only lease of a worker would make another one the busy one.
        if giver.leases < 2 || !needed(&self.seats[receivers.first()?.index]) {
            return None;
        }
        let receiver = |lease: usize| {
            let takes = |place: &&Place| {
                let seat = &self.seats[place.index];
                let better = seat.load + WORTH * seat.burden(self.shares[lease]) < giver.load - EPSILON;
                better && needed(seat) && self.fits(lease, seat.index)
            };
            receivers.iter().find(takes).map(|to| (lease, *to))
        };
        while offer.given < offer.enough
            && let Some(lease) = offer.leases.get(offer.next).copied()
        {
            offer.next += 1;
            let given = offer.given + self.shares[lease];
            if given <= offer.most + EPSILON
                && let Some(found) = receiver(lease)
            {
                offer.given = given;
                return Some(found);
            }
        }
        if offer.given > 0.0 {
            return None;
        }
        offer.given = offer.most;
        offer.leases.last().and_then(|lease| receiver(*lease))
    }

    fn give(&mut self, lease: usize, from: usize) {
        let seat = &mut self.seats[from];
        let remaining = (seat.share - self.shares[lease]).max(0.0);
        seat.load *= remaining / seat.share;
        seat.share = remaining;
        let of_group = &mut seat.of_group[self.group[lease]];
        *of_group = (*of_group - self.shares[lease]).max(0.0);
        seat.kbps -= self.kbps[lease];
        seat.leases -= 1;
    }
}

/// What a worker above the level may give in one round.
struct Offer {
    /// So far, in shares.
    given: f64,
    /// This much should go,
    enough: f64,
    /// and not more than this.
    most: f64,
    /// The heaviest first.
    leases: Vec<usize>,
    /// The first lease not yet considered.
    next: usize,
}

impl Offer {
    fn of(seat: &Seat<'_>, level: f64) -> Self {
        let dampening = if seat.load > CERTAIN * level { 1.0 } else { DAMPENING };
        let most = seat.share * (seat.load - level) / seat.load;
        Self { given: 0.0, enough: most * dampening, most, leases: Vec::new(), next: 0 }
    }
}

/// For each lease its group, and the groups.
fn grouped(fleet: &Fleet, seats: &[Seat<'_>]) -> (Vec<usize>, Vec<Group>) {
    let (mut of_stream, mut groups) = (BTreeMap::<Option<&StreamId>, usize>::new(), Vec::<Group>::new());
    let mut of_lease = Vec::with_capacity(fleet.leases.len());
    for lease in &fleet.leases {
        let of = *of_stream.entry(lease.key.stream()).or_insert_with(|| {
            let readers: Vec<bool> = seats.iter().map(|seat| seat.worker.reads.allows(&lease.key)).collect();
            let count = readers.iter().filter(|reads| **reads).count();
            let group = Group { readers, count };
            groups.iter().position(|known| *known == group).unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            })
        });
        of_lease.push(of);
    }
    (of_lease, groups)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
