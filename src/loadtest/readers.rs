//! Which shards have nobody who reads them, since when, and through which fault.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::shard::ShardId;

/// A lease at one look.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Its shard, which is not finished and whose parents are.
    pub(super) shard: ShardId,
    /// Its owner.
    pub(super) owner: Option<String>,
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
#[derive(Debug, Default)]
pub(super) struct Readers {
    unread: HashMap<ShardId, (Instant, Option<usize>)>,
}

impl Readers {
    /// Takes in one look: the open leases; who can read; which fault is to blame for a lease without a reader, by its
    /// owner. Answers the gaps that have ended. A shard that is finished or gone ends its gap too.
    pub(super) fn look(
        &mut self,
        now: Instant,
        leases: &[Held],
        reads: impl Fn(&str) -> bool,
        blame: impl Fn(Option<&str>) -> Option<Cause>,
    ) -> Vec<Gap> {
        let unread: HashMap<&ShardId, Option<&str>> = leases
            .iter()
            .filter(|lease| !lease.owner.as_deref().is_some_and(&reads))
            .map(|lease| (&lease.shard, lease.owner.as_deref()))
            .collect();
        let mut ended = Vec::new();
        self.unread.retain(|shard, (since, fault)| {
            let goes_on = unread.contains_key(shard);
            if !goes_on {
                ended.push(Gap { fault: *fault, length: now.saturating_duration_since(*since) });
            }
            goes_on
        });
        for (shard, owner) in unread {
            self.unread.entry(shard.clone()).or_insert_with(|| match blame(owner) {
                Some(cause) => (cause.at.min(now), Some(cause.fault)),
                None => (now, None),
            });
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

    fn held(shard: &str, owner: Option<&str>) -> Held {
        Held { shard: ShardId::new(shard), owner: owner.map(str::to_owned) }
    }

    #[test]
    fn a_gap_lasts_from_the_fault_to_the_next_reader() {
        let (mut readers, start) = (Readers::default(), Instant::now());
        let blame = |owner: Option<&str>| owner.map(|_| Cause { fault: 3, at: start });
        let mut look = |ticks: u32, leases: &[Held], reads: fn(&str) -> bool| {
            readers.look(start + TICK * ticks, leases, reads, blame)
        };
        assert_eq!(look(0, &[held("1", Some("a")), held("2", Some("b"))], |_| true), []);
        // a is killed.
        assert_eq!(look(1, &[held("1", Some("a")), held("2", Some("b"))], |who| who != "a"), []);
        assert_eq!(look(9, &[held("1", Some("a"))], |who| who != "a"), []);
        let gap = Gap { fault: Some(3), length: TICK * 10 };
        assert_eq!(look(10, &[held("1", Some("b"))], |who| who != "a"), [gap]);
    }

    #[test]
    fn a_lease_that_nobody_holds_has_no_reader_and_one_that_is_gone_needs_none() {
        let (mut readers, start) = (Readers::default(), Instant::now());
        assert_eq!(readers.look(start, &[held("1", None)], |_| true, |_| None), []);
        assert_eq!(readers.unread(), 1);
        let ended = readers.look(start + TICK, &[], |_| true, |_| None);
        assert_eq!(ended, [Gap { fault: None, length: TICK }]);
        assert_eq!(readers.unread(), 0);
    }
}
