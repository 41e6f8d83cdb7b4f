//! Which shards have nobody who reads them, since when, and through which fault.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::LeaseKey;

/// A lease at one look.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Its key; the shard is not finished.
    pub(super) key: LeaseKey,
    /// Its owner.
    pub(super) owner: Option<String>,
    /// Moves while the owner renews.
    pub(super) counter: u64,
}

/// Why a shard is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Number of the fault.
    pub(super) fault: usize,
    /// When it struck.
    pub(super) at: Instant,
}

/// A time that a shard was without a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Number of the fault that made it; `None` when none did, as when the first worker starts.
    pub(super) fault: Option<usize>,
    /// How long it was.
    pub(super) length: Duration,
}

/// The shards that are not read now.
#[derive(Debug)]
pub(super) struct Readers {
    /// An owner that has not renewed for so long reads no more.
    failover: Duration,
    /// Of each lease the counter and when it last moved, and the last look at which it had a reader.
    known: HashMap<LeaseKey, Known>,
    unread: HashMap<LeaseKey, (Instant, Option<usize>)>,
}

#[derive(Debug)]
struct Known {
    counter: u64,
    moved: Instant,
    read: Option<Instant>,
}

impl Readers {
    pub(super) fn new(failover: Duration) -> Self {
        Self { failover, known: HashMap::new(), unread: HashMap::new() }
    }

    /// Takes in one look: the leases whose parents are finished; who can read; which fault is to blame for a lease, by the
    /// owner that cannot read, or in general. Answers the gaps that have ended. A shard that is finished or gone ends its gap too.
    pub(super) fn look(
        &mut self,
        now: Instant,
        leases: &[Held],
        reads: impl Fn(&str) -> bool,
        blame: impl Fn(Option<&str>) -> Option<Cause>,
    ) -> Vec<Gap> {
        // Where nobody reads: since when, and whom to blame.
        let mut unread: HashMap<&LeaseKey, (Instant, Option<Cause>)> = HashMap::new();
        for lease in leases {
            let known = self.known.entry(lease.key.clone()).or_insert(Known {
                counter: lease.counter,
                moved: now,
                read: None,
            });
            if known.counter != lease.counter {
                (known.counter, known.moved) = (lease.counter, now);
            }
            let valid_until = known.moved + self.failover;
            match lease.owner.as_deref() {
                Some(owner) if reads(owner) && now < valid_until => known.read = Some(now),
                Some(owner) if reads(owner) => {
                    unread.insert(&lease.key, (valid_until, blame(None)));
                }
                owner => {
                    let cause = blame(owner);
                    // A lease can be given to a worker long after that was killed.
                    let since = cause.map(|cause| cause.at).max(known.read).unwrap_or(now);
                    unread.insert(&lease.key, (since.min(now), cause));
                }
            }
        }
        self.known.retain(|key, _| leases.iter().any(|lease| lease.key == *key));
        let mut ended = Vec::new();
        self.unread.retain(|key, (since, fault)| {
            let goes_on = unread.contains_key(key);
            if !goes_on {
                ended.push(Gap { fault: *fault, length: now.saturating_duration_since(*since) });
            }
            goes_on
        });
        for (key, (since, cause)) in unread {
            self.unread.entry(key.clone()).or_insert((since, cause.map(|cause| cause.fault)));
        }
        ended
    }

    /// Shards without a reader at the last look.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(200);
    const FAILOVER: Duration = Duration::from_secs(3);

    fn held(shard: &str, owner: Option<&str>, counter: u64) -> Held {
        Held { key: LeaseKey::parse(shard), owner: owner.map(str::to_owned), counter }
    }

    #[test]
    fn a_gap_lasts_from_the_fault_to_the_next_reader() {
        let (mut readers, start) = (Readers::new(FAILOVER), Instant::now());
        let blame = |owner: Option<&str>| owner.map(|_| Cause { fault: 3, at: start });
        let mut look = |ticks: u32, leases: &[Held], reads: fn(&str) -> bool| {
            readers.look(start + TICK * ticks, leases, reads, blame)
        };
        assert_eq!(look(0, &[held("1", Some("a"), 1), held("2", Some("b"), 1)], |_| true), []);
        // a is killed.
        assert_eq!(look(1, &[held("1", Some("a"), 1), held("2", Some("b"), 2)], |who| who != "a"), []);
        assert_eq!(look(9, &[held("1", Some("a"), 1)], |who| who != "a"), []);
        let gap = Gap { fault: Some(3), length: TICK * 10 };
        assert_eq!(look(10, &[held("1", Some("b"), 2)], |who| who != "a"), [gap]);
    }

    #[test]
    fn shards_of_equal_ids_have_gaps_of_their_own() {
        let (mut readers, start) = (Readers::new(FAILOVER), Instant::now());
        let [one, other] = ["1:trades:5:1", "1:trades-2:5:1"];
        let mut look = |ticks: u32, leases: &[Held]| {
            (readers.look(start + TICK * ticks, leases, |_| true, |_| None), readers.unread())
        };
        assert_eq!(look(0, &[held(one, Some("a"), 1), held(other, None, 1)]), (vec![], 1));
        assert_eq!(look(1, &[held(one, None, 1), held(other, None, 1)]), (vec![], 2));
        let gap = |ticks| vec![Gap { fault: None, length: TICK * ticks }];
        assert_eq!(look(2, &[held(one, None, 1), held(other, Some("a"), 2)]), (gap(2), 1));
        assert_eq!(look(5, &[held(one, Some("a"), 2), held(other, Some("a"), 2)]), (gap(5), 0));
    }

    #[test]
    fn a_lease_given_to_a_dead_worker_was_read_until_then() {
        let (mut readers, start) = (Readers::new(FAILOVER), Instant::now());
        let cause = Cause { fault: 1, at: start };
        let mut look = |ticks: u32, owner: &str| {
            let lease = held("1", Some(owner), ticks.into());
            readers.look(start + TICK * ticks, &[lease], |who| who != "dead", |_| Some(cause))
        };
        assert_eq!(look(50, "a"), []);
        assert_eq!(look(51, "dead"), []);
        assert_eq!(look(60, "a"), [Gap { fault: Some(1), length: TICK * 10 }]);
    }

    #[test]
    fn a_lease_that_nobody_holds_has_no_reader_and_one_that_is_gone_needs_none() {
        let (mut readers, start) = (Readers::new(FAILOVER), Instant::now());
        assert_eq!(readers.look(start, &[held("1", None, 1)], |_| true, |_| None), []);
        assert_eq!(readers.unread(), 1);
        let ended = readers.look(start + TICK, &[], |_| true, |_| None);
        assert_eq!(ended, [Gap { fault: None, length: TICK }]);
        assert_eq!(readers.unread(), 0);
    }

    #[test]
    fn an_owner_that_does_not_renew_reads_no_longer_than_its_lease_is_valid() {
        let (mut readers, start) = (Readers::new(FAILOVER), Instant::now());
        let cause = Cause { fault: 5, at: start };
        let mut look = |ticks: u32, counter: u64| {
            let at = start + TICK * ticks;
            readers.look(at, &[held("1", Some("a"), counter)], |_| true, |_| Some(cause))
        };
        assert_eq!(look(0, 1), []);
        assert_eq!(look(14, 1), []);
        assert_eq!(look(16, 1), []);
        // Renewed, or taken by another, at tick 20; the lease was valid until tick 15.
        assert_eq!(look(20, 2), [Gap { fault: Some(5), length: TICK * 5 }]);
    }
}
