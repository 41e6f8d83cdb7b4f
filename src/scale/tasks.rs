//! How many workers a fleet should have, by what it does now. The leader tells it as `kinetide_workers_wanted`, and
//! `kinetide scale plan` says the same.

/// The processors of a worker are to be used so much, percent: as the service template in `ecs/` tracks it.
pub(super) const CPU_TARGET: f64 = 60.0;
/// What one worker is given to read where its processors are not known, KB/s: 16 MiB/s, a third of what half a processor
/// reads at [`CPU_TARGET`] (`docs/PERFORMANCE.md`).
const WORKER_KBPS: f64 = 16.0 * 1024.0;

/// What is known of a fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetLoad {
    /// For each active worker the share of its processors in use, percent; `None` where it does not say.
    pub cpu_percent: Vec<Option<f64>>,
    /// What is read of each shard, KB/s; `None` where nobody has said.
    pub kbps: Vec<Option<f64>>,
    /// Shards that are to be read.
    pub shards: u32,
}

/// Workers wanted: as many as bring the mean of the processors to `CPU_TARGET`, and as can read what is read now; one at
/// least, and no more than there are shards. `None` where neither the processors nor the reading are known.
///
/// What is behind is no part of it: how far a worker can catch up depends on its processors, and shows there. The
/// recording rule adds a worker as long as the readers stay behind.
pub fn wanted(fleet: &FleetLoad) -> Option<u32> {
    let by_cpu = sum(&fleet.cpu_percent).map(|percent| percent / CPU_TARGET);
    let all = u32::try_from(fleet.kbps.len()) == Ok(fleet.shards);
    let by_reading = sum(&fleet.kbps).filter(|_| all).map(|kbps| kbps / WORKER_KBPS);
    let wanted = by_cpu.into_iter().chain(by_reading).reduce(f64::max)?;
    Some(ceiling(wanted).clamp(1, fleet.shards.max(1)))
}

/// The sum where there is something and all of it is known.
fn sum(values: &[Option<f64>]) -> Option<f64> {
    let usable = |value: &Option<f64>| value.filter(|value| value.is_finite() && *value >= 0.0);
    let known: Option<Vec<f64>> = values.iter().map(usable).collect();
    known.filter(|known| !known.is_empty()).map(|known| known.iter().sum())
}

/// The next whole number, where a hair above one is that one.
pub(crate) fn ceiling(value: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates"
    )]
    let whole = (value - 1e-9).ceil().max(0.0) as u32;
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet(cpu_percent: &[f64], kbps: &[f64]) -> FleetLoad {
        let known = |values: &[f64]| values.iter().copied().map(Some).collect();
        FleetLoad {
            cpu_percent: known(cpu_percent),
            kbps: known(kbps),
            shards: kbps.len().try_into().unwrap(),
        }
    }

    #[test]
    fn the_processors_say_how_many_and_else_the_reading() {
        let idle = [0.0; 8];
        for (fleet, expected) in [
            (fleet(&[30.0, 30.0], &idle), Some(1)),
            (fleet(&[60.0, 60.0], &idle), Some(2)),
            (fleet(&[95.0, 95.0], &idle), Some(4)),
            (fleet(&[95.0, 95.0], &[0.0; 3]), Some(3)),
            (fleet(&[1.0], &idle), Some(1)),
            // Java workers may report something else.
            (fleet(&[], &[10_000.0; 8]), Some(5)),
            (fleet(&[5.0], &[10_000.0; 8]), Some(5)),
            (FleetLoad::default(), None),
            (fleet(&[], &[]), None),
        ] {
            assert_eq!(wanted(&fleet), expected, "{fleet:?}");
        }
        let mut unknown = fleet(&[50.0], &idle);
        unknown.kbps[3] = None;
        assert_eq!(wanted(&unknown), Some(1), "the processors are known");
        unknown.cpu_percent.push(None);
        assert_eq!(wanted(&unknown), None, "half of it is not known");
        unknown.kbps = vec![Some(1.0)];
        assert_eq!(wanted(&unknown), None, "seven shards are not known at all");
        unknown.cpu_percent = vec![Some(f64::NAN)];
        assert_eq!(wanted(&unknown), None);
    }

    proptest! {
        #[test]
        fn there_are_never_more_workers_than_shards_and_more_load_never_wants_fewer(
            cpu in proptest::collection::vec(0.0..100.0, 1..20),
            kbps in proptest::collection::vec(0.0..4_096.0, 1..50),
            more in 1.0..3.0,
        ) {
            let now = fleet(&cpu, &kbps);
            let wants = wanted(&now).unwrap();
            prop_assert!(wants >= 1 && wants as usize <= kbps.len());
            let busier: Vec<f64> = kbps.iter().map(|kbps| kbps * more).collect();
            prop_assert!(wanted(&fleet(&cpu, &busier)).unwrap() >= wants);
            // The same fleet with as many workers as it wants is content with them.
            let total: f64 = cpu.iter().sum();
            let spread = vec![total / f64::from(wants); wants as usize];
            prop_assert_eq!(wanted(&fleet(&spread, &kbps)), Some(wants));
        }
    }
}
