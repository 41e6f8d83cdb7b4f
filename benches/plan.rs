//! The leader's plan for a large fleet on one core: 10,000 leases, 500 workers.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use kinetide::internals::lease::fleet::{CPU, Reads};
use kinetide::internals::lease::plan::{Balancing, Fleet, LeaseLoad, Rules, WorkerLoad, plan, successors};
use kinetide::internals::lease::{LeaseKey, WorkerId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LEASES: usize = 10_000;
const WORKERS: usize = 500;

fn id(worker: usize) -> WorkerId {
    WorkerId::new(format!("ip-10-0-{}-{}.eu-north-1:{worker:032x}", worker / 256, worker % 256))
}

/// Half of the workers report their CPU.
fn fleet(owner: impl Fn(usize) -> Option<usize>) -> Fleet {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    let mut kbps = vec![0.0; WORKERS];
    let lease = |index| {
        let load = rng.random_range(1.0..1_000.0);
        if let Some(worker) = owner(index) {
            kbps[worker] += load;
        }
        LeaseLoad {
            key: LeaseKey::parse(&format!("shardId-{index:012}")),
            worker: owner(index).map(id),
            movable: true,
            kbps: Some(load),
            unmoved: Duration::from_millis(rng.random_range(0..20_000)),
            moves: 0,
        }
    };
    let leases = (0..LEASES).map(lease).collect();
    let worker = |index: usize| WorkerLoad {
        id: id(index),
        usage: match index % 2 {
            0 => BTreeMap::new(),
            _ => BTreeMap::from([(CPU.to_owned(), (5.0 + kbps[index] / 200.0, 100.0))]),
        },
        started: index as u64,
        reads: Reads::Any,
    };
    Fleet { leases, workers: (0..WORKERS).map(worker).collect() }
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(20);
    let unlimited = Rules { leases_max: usize::MAX, kbps_max: f64::INFINITY };
    // Less than what all leases have, so many workers are asked for each of the last ones.
    let tight = Rules { leases_max: usize::MAX, kbps_max: 9_900.0 };
    let situations = [
        ("all leases free", fleet(|_| None), &unlimited),
        ("all leases free, too little room", fleet(|_| None), &tight),
        ("one worker has all", fleet(|_| Some(0)), &unlimited),
        ("one worker has all, too little room", fleet(|_| Some(0)), &tight),
        ("half of the workers are new", fleet(|lease| Some(lease % (WORKERS / 2))), &unlimited),
        ("at rest", fleet(|lease| Some(lease % WORKERS)), &unlimited),
    ];
    for (name, fleet, rules) in &situations {
        group.bench_function(*name, |b| {
            b.iter(|| plan(black_box(fleet), rules, Balancing::All, &mut ChaCha8Rng::seed_from_u64(1)));
        });
    }
    let mut left = fleet(|_| Some(0));
    left.workers.remove(0);
    group.bench_function("successors of one who has all", |b| {
        b.iter(|| successors(black_box(&left), &id(0), WORKERS as u64 / 2, &unlimited));
    });
    group.finish();
}

criterion_group!(benches, planning);
criterion_main!(benches);
