//! When a shard was last read to its tip, and what that says of a checkpoint whose record has left the stream. Pure.
//!
//! A shard with one record a week has no record at its checkpoint most of the time, and nothing is lost. Retention takes
//! records by age: what is lost came after the shard was last seen without an unread record, and was older than the
//! retention when somebody read on.

use crate::shard::{Position, SequenceNumber};

/// Retention that every stream has at least.
pub const RETENTION_HOURS_MIN: u32 = 24;
/// Arrival times and the time of an answer, which is taken after the tip was looked at, are not exact.
const MARGIN_US: i64 = 5 * 60 * 1_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// At one moment the shard had no record after this one. True for ever, whoever holds the lease meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    /// The last record of the shard at that time, or where it was.
    pub after: Position,
    /// The time, by the stream's clock, µs since the epoch.
    pub at_us: i64,
    /// How long the stream kept records, as far as was known then.
    pub retention_hours: u32,
}

impl CaughtUp {
    /// True when retention has taken nothing that came after this moment. `retention_hours` is that of now: records are
    /// not brought back by a longer one, and a shorter one counts at once.
    fn proves_nothing_lost(&self, now_us: i64, retention_hours: Option<u32>) -> bool {
        let hours = retention_hours.map_or(self.retention_hours, |now| now.min(self.retention_hours));
        let kept_us = i64::from(hours).saturating_mul(HOUR_US);
        let until_us = self.at_us.saturating_add(kept_us).saturating_sub(MARGIN_US);
        // A clock that goes back proves nothing.
        (self.at_us.saturating_sub(MARGIN_US)..until_us).contains(&now_us)
    }
}

/// What became of the records between a checkpoint and what the shard has after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// None are missing.
    None,
    /// Some may have left the stream unread.
    Possible,
    /// Nobody has noted anything, as before this was done, and there is no record to tell.
    Unknown,
}

/// Reading begins at `checkpoint`, and the stream answers with `first`, or says that there is nothing up to the tip.
pub fn gap(
    seen: Option<&CaughtUp>,
    checkpoint: &Position,
    first: Option<&SequenceNumber>,
    now_us: Option<i64>,
    retention_hours: Option<u32>,
) -> Gap {
    let proves = |seen: &&CaughtUp| {
        seen.after == *checkpoint
            && now_us.is_some_and(|now_us| seen.proves_nothing_lost(now_us, retention_hours))
    };
    match (first, seen) {
        (Some(first), _) if *first <= checkpoint.sequence => Gap::None,
        (_, Some(_)) if seen.as_ref().is_some_and(proves) => Gap::None,
        (None, None) => Gap::Unknown,
        _ => Gap::Possible,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_US: i64 = 24 * HOUR_US;
    const T: i64 = 1_768_469_400_000_000;

    fn number(n: u128) -> SequenceNumber {
        n.into()
    }

    fn seen(after: u128, at_us: i64, retention_hours: u32) -> CaughtUp {
        CaughtUp { after: after.into(), at_us, retention_hours }
    }

    /// Checkpoint 5; what was noted, the first record, the hours since then, the retention of now.
    #[test]
    fn a_gap_is_judged_by_when_the_shard_was_last_read_to_its_tip() {
        let day = Some(seen(5, T, 24));
        let week = Some(seen(5, T, 168));
        for (noted, first, hours, now, expected) in [
            (&None, Some(5), 1000, Some(24), Gap::None),
            (&day, Some(5), 1000, Some(24), Gap::None),
            (&None, Some(6), 1, Some(24), Gap::Possible),
            (&None, None, 1, Some(24), Gap::Unknown),
            (&day, Some(6), 1, Some(24), Gap::None),
            (&day, None, 23, Some(24), Gap::None),
            (&day, Some(6), 24, Some(24), Gap::Possible),
            (&day, None, 24, Some(24), Gap::Possible),
            // Lengthened by somebody who saw that nothing was read: what had gone is not brought back.
            (&day, Some(6), 30, Some(168), Gap::Possible),
            // Shortened.
            (&week, Some(6), 30, Some(24), Gap::Possible),
            (&week, Some(6), 30, Some(168), Gap::None),
            (&week, Some(6), 30, None, Gap::None),
            (&week, Some(6), 168, None, Gap::Possible),
            // Of another checkpoint: somebody else has moved it since.
            (&Some(seen(4, T, 24)), Some(6), 1, Some(24), Gap::Possible),
            (&Some(seen(4, T, 24)), None, 1, Some(24), Gap::Possible),
            // A time to come.
            (&day, Some(6), -1, Some(24), Gap::Possible),
        ] {
            let now_us = T + hours * HOUR_US;
            let first = first.map(number);
            let found = gap(noted.as_ref(), &5.into(), first.as_ref(), Some(now_us), now);
            assert_eq!(found, expected, "{noted:?} {first:?} {hours} {now:?}");
        }
        assert_eq!(gap(day.as_ref(), &5.into(), Some(&number(6)), None, Some(24)), Gap::Possible);
        let edge = CaughtUp { after: 5.into(), at_us: i64::MAX, retention_hours: u32::MAX };
        assert!(!edge.proves_nothing_lost(i64::MIN, Some(0)));
    }

    proptest! {
        /// A stream of single records, retention, a reader that looks now and then: a record that went unread is never
        /// hidden, and whoever looks at least once within the retention is never alarmed.
        #[test]
        fn a_loss_is_never_hidden_and_a_quiet_shard_never_reported(
            arrivals in prop::collection::btree_set(0i64..20 * 24, 1..8),
            looks in prop::collection::btree_set(0i64..20 * 24, 1..10),
            retention in prop::sample::select(vec![24u32, 48, 168]),
        ) {
            let kept_us = i64::from(retention) * HOUR_US;
            // Off the hour, so that nothing is at the same time.
            let arrivals: Vec<i64> = arrivals.iter().map(|hour| T + hour * HOUR_US + HOUR_US / 2).collect();
            let mut checkpoint: Option<usize> = None;
            let mut noted: Option<CaughtUp> = None;
            let mut last_look = 0;
            for now_us in looks.iter().map(|hour| T + hour * HOUR_US) {
                let there = |n: &usize| arrivals[*n] <= now_us && now_us < arrivals[*n] + kept_us;
                let from = checkpoint.unwrap_or(0);
                let first = (from..arrivals.len()).find(there);
                if let Some(done) = checkpoint {
                    // What was lost before has been reported.
                    let lost = arrivals.iter().any(|at| *at > last_look && at + kept_us <= now_us);
                    let first = first.map(|n| number(n as u128));
                    let found =
                        gap(noted.as_ref(), &(done as u128).into(), first.as_ref(), Some(now_us), Some(retention));
                    prop_assert!(!lost || found == Gap::Possible);
                    let recent = noted.as_ref().is_some_and(|noted| noted.at_us + kept_us - DAY_US / 24 >= now_us);
                    prop_assert!(!recent || found == Gap::None);
                }
                last_look = now_us;
                let read = (from..arrivals.len()).rfind(there);
                checkpoint = read.or(checkpoint);
                noted = checkpoint.map(|last| seen(last as u128, now_us, retention));
            }
        }
    }
}
