//! What was done since somebody last took note, shard by shard: what is sent to CloudWatch as counts.
//!
//! Owns: that each count is given out once, also when its shard has left this worker meanwhile.
//! Does not own: the counts of a process since its start (`metrics`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Records landed and committed, dead letters among them.
    pub(super) records: u64,
    /// Their bytes, uncompressed.
    pub(super) bytes: u64,
    /// Records that became dead letters.
    pub(super) dead_letters: u64,
    /// Tries to deliver that failed.
    pub(super) deliver_failures: u64,
}

/// By stream and shard.
pub(super) type ByShard = BTreeMap<(String, String), Tally>;

/// Counts of all shards; nothing is kept where nobody takes them.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    taken: AtomicBool,
    counts: Mutex<ByShard>,
}

impl Tallies {
    /// Somebody will take them from now on.
    pub(super) fn begin(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// All since the last time.
    pub(super) fn take(&self) -> ByShard {
        std::mem::take(&mut *self.counts())
    }

    pub(super) fn add(&self, shard: &(String, String), more: Tally) {
        if !self.taken.load(Ordering::Relaxed) {
            return;
        }
        let mut counts = self.counts();
        match counts.get_mut(shard) {
            Some(tally) => tally.add(more),
            None => {
                counts.insert(shard.clone(), more);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, ByShard> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Both together.
    pub(super) fn add(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
        self.dead_letters += more.dead_letters;
        self.deliver_failures += more.deliver_failures;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_given_out_once_and_only_where_somebody_takes_it() {
        let shard = ("trades".to_owned(), "1".to_owned());
        let (tallies, two) = (Tallies::default(), Tally { records: 2, bytes: 20, ..Tally::default() });
        tallies.add(&shard, two);
        assert!(tallies.take().is_empty());
        tallies.begin();
        tallies.add(&shard, two);
        tallies.add(&shard, Tally { dead_letters: 1, ..two });
        let all = Tally { records: 4, bytes: 40, dead_letters: 1, deliver_failures: 0 };
        assert_eq!(tallies.take(), [(shard, all)].into());
        assert!(tallies.take().is_empty());
    }
}
