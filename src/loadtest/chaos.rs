//! What goes wrong on purpose, and when: a timetable made from a seed.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use rand::seq::{IteratorRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A kind of fault, in the order of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chaos {
    /// SIGKILL a worker and start another with a new id.
    Kill,
    /// SIGSTOP a worker until its leases have been taken, then SIGCONT: a zombie.
    Pause,
    /// SIGTERM a worker and start another.
    Term,
    /// Split, merge, or change the shard count.
    Reshard,
    /// Requests are refused as coming too soon.
    Throttle,
    /// Requests fail inside the service, some of them after they had their effect.
    #[serde(rename = "5xx")]
    #[value(name = "5xx")]
    Broken,
    /// Answers come late.
    Slow,
    /// Connections are cut, before a request got through or before its answer did.
    Cut,
    /// One worker reaches no server until its leases have been taken, and a while longer.
    Partition,
    /// One worker can write no byte into the lake.
    DiskFull,
    /// A worker is replaced by one whose wall clock is wrong.
    Clock,
    /// One call of a service is denied to all workers, as a changed policy would.
    Deny,
    /// One call of a service is not answered.
    Hang,
    /// A broker of Kafka goes down and comes back.
    Broker,
}

impl Chaos {
    /// Every kind.
    pub(super) fn all() -> impl DoubleEndedIterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// Whether it is played with the help of the worker, so only on `kinetide run`.
    pub fn needs_own_worker(self) -> bool {
        matches!(self, Self::DiskFull | Self::Clock)
    }

    /// Whether it is played by a command that only the owner of the servers can give.
    pub fn needs_command(self) -> bool {
        self == Self::Broker
    }

    /// Whether it is played between a worker and the servers.
    pub fn needs_proxy(self) -> bool {
        matches!(
            self,
            Self::Throttle
                | Self::Broken
                | Self::Slow
                | Self::Cut
                | Self::Partition
                | Self::Deny
                | Self::Hang
        )
    }
}

impl Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no kind is skipped").get_name())
    }
}

/// A choice of kinds: names with commas between them, `all` for one of each that needs no command. A kind that is named
/// several times is played as often in each round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice(pub Vec<Chaos>);

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds = Vec::new();
        for name in text.split(',').map(str::trim) {
            match Chaos::from_str(name, false) {
                Ok(kind) => kinds.push(kind),
                Err(_) if name == "all" => kinds.extend(Chaos::all().filter(|kind| !kind.needs_command())),
                Err(_) => {
                    let all: Vec<String> = Chaos::all().map(|kind| kind.to_string()).collect();
                    return Err(format!("unknown fault {name:?}: use {} or all", all.join(", ")));
                }
            }
        }
        kinds.sort_unstable();
        Ok(Self(kinds))
    }
}

/// The order of the faults: every kind as often as it was chosen in each round, each round shuffled anew.
#[derive(Debug)]
pub(super) struct Timetable {
    kinds: Vec<Chaos>,
    round: Vec<Chaos>,
    every: Duration,
    due: Duration,
}

impl Timetable {
    /// The first fault comes after `every`, then one each `every`.
    pub(super) fn new(choice: &Choice, every: Duration) -> Self {
        Self { kinds: choice.0.clone(), round: Vec::new(), every, due: every }
    }

    /// The fault that is due after `elapsed`, if one is. Those that were missed are not made up for.
    pub(super) fn due(&mut self, elapsed: Duration, rng: &mut ChaCha8Rng) -> Option<Chaos> {
        if elapsed < self.due {
            return None;
        }
        self.due = elapsed + self.every;
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.round.shuffle(rng);
        }
        self.round.pop()
    }
}

/// One of these workers; `None` when there is none.
pub(super) fn one_of<'a>(workers: &[&'a str], rng: &mut ChaCha8Rng) -> Option<&'a str> {
    workers.iter().copied().choose(rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn kinds_are_chosen_by_name() {
        assert_eq!("all".parse::<Choice>().unwrap().0, Chaos::value_variants()[..13]);
        assert_eq!("broker,all".parse::<Choice>().unwrap().0, Chaos::value_variants());
        let two: Choice = "kill, 5xx".parse().unwrap();
        assert_eq!(two.0.into_iter().collect::<Vec<_>>(), [Chaos::Kill, Chaos::Broken]);
        let often: Choice = "kill,all,kill".parse().unwrap();
        assert_eq!(
            (often.0.len(), &often.0[..4]),
            (15, &[Chaos::Kill, Chaos::Kill, Chaos::Kill, Chaos::Pause][..])
        );
        let wrong = "kill,fire".parse::<Choice>().unwrap_err();
        assert!(wrong.contains("\"fire\"") && wrong.contains("disk-full"), "{wrong}");
        for kind in Chaos::all() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }

    #[test]
    fn a_seed_repeats_its_timetable_and_each_round_has_every_kind() {
        let faults = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut timetable = Timetable::new(&"all,broker".parse().unwrap(), Duration::from_secs(5));
            (0..200).filter_map(|s| timetable.due(Duration::from_secs(s), &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        assert_eq!(faults(7).len(), 39);
        for round in faults(7).chunks_exact(Chaos::value_variants().len()) {
            assert_eq!(
                round.iter().collect::<std::collections::BTreeSet<_>>().len(),
                Chaos::value_variants().len()
            );
        }
    }

    #[test]
    fn missed_faults_are_not_made_up_for_and_no_kinds_are_no_faults() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let second = Duration::from_secs(1);
        let mut timetable = Timetable::new(&"kill".parse().unwrap(), second);
        assert_eq!(timetable.due(second * 10, &mut rng), Some(Chaos::Kill));
        assert_eq!(timetable.due(second * 10, &mut rng), None);
        assert_eq!(Timetable::new(&Choice::default(), second).due(second * 10, &mut rng), None);
    }
}
