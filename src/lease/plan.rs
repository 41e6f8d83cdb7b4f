//! Which worker gets which lease: the leader's decision as a pure function.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use super::row::{LeaseKey, WorkerId};

/// One lease to be read, as the leader plans with it.
#[derive(Clone, Debug)]
pub struct LeaseLoad {
    /// Its key.
    pub key: LeaseKey,
    /// Who has it, or will after its hand-off; `None`: unowned or expired.
    pub worker: Option<WorkerId>,
    /// May be moved now.
    pub movable: bool,
    /// Its throughput.
    pub kbps: Option<f64>,
    /// How long its counter stands still.
    pub unmoved: Duration,
}

/// One worker that can be given leases.
#[derive(Clone, Debug)]
pub struct WorkerLoad {
    /// Its id.
    pub id: WorkerId,
    /// Newest value and the value that counts as full, by metric.
    pub usage: BTreeMap<String, (f64, f64)>,
    /// When it started, seconds since the epoch; 0 where unknown.
    pub started: u64,
}

/// What the leader plans with.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// The leases to be read.
    pub leases: Vec<LeaseLoad>,
    /// The workers that can be given leases.
    pub workers: Vec<WorkerLoad>,
}

/// The most that one worker is given.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Leases.
    pub leases_max: usize,
    /// KB/s.
    pub kbps_max: f64,
}

/// One lease and the worker that is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The lease.
    pub lease: LeaseKey,
    /// The worker.
    pub to: WorkerId,
}

/// What to write.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The moves.
    pub moves: Vec<Move>,
    /// Free leases that nobody could take.
    pub spillover: usize,
}

fn counts(fleet: &Fleet) -> BTreeMap<WorkerId, usize> {
    let mut counts: BTreeMap<WorkerId, usize> = fleet.workers.iter().map(|w| (w.id.clone(), 0)).collect();
    for lease in &fleet.leases {
        if let Some(count) = lease.worker.as_ref().and_then(|worker| counts.get_mut(worker)) {
            *count += 1;
        }
    }
    counts
}

/// The leader's plan.
pub fn plan(fleet: &Fleet, rules: &Rules, balance: bool, _rng: &mut impl Rng) -> Plan {
    let mut plan = Plan::default();
    let mut counts = counts(fleet);
    for lease in fleet.leases.iter().filter(|lease| lease.worker.is_none()) {
        match counts
            .iter_mut()
            .min_by_key(|(_, count)| **count)
            .filter(|(_, count)| **count < rules.leases_max)
        {
            Some((id, count)) => {
                *count += 1;
                plan.moves.push(Move { lease: lease.key.clone(), to: id.clone() });
            }
            None => plan.spillover += 1,
        }
    }
    if balance {
        for lease in fleet.leases.iter().filter(|lease| lease.movable) {
            let Some(from) = &lease.worker else { continue };
            let Some((to, least)) = counts.iter().min_by_key(|(_, count)| **count) else { break };
            let to = to.clone();
            if counts.get(from).is_some_and(|most| *most > *least + 1) {
                plan.moves.push(Move { lease: lease.key.clone(), to: to.clone() });
                *counts.get_mut(from).expect("looked at above") -= 1;
                *counts.get_mut(&to).expect("found above") += 1;
            }
        }
    }
    plan
}

/// Where the leases of a worker that stops should go.
pub fn successors(fleet: &Fleet, leaving: &WorkerId, _started: u64, _rules: &Rules) -> Vec<Move> {
    let mut counts = counts(fleet);
    let mut moves = Vec::new();
    for lease in fleet.leases.iter().filter(|lease| lease.worker.as_ref() == Some(leaving)) {
        if let Some((id, count)) = counts.iter_mut().min_by_key(|(_, count)| **count) {
            *count += 1;
            moves.push(Move { lease: lease.key.clone(), to: id.clone() });
        }
    }
    moves
}
