//! How old a checkpoint is and how far behind the tip, asked of the stream: the record at the checkpoint itself.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};

use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::fetch::{Ahead, Behind, FetchError, RecordSource, StartAt};
use crate::lease::{CaughtUp, Gap, Lease, LeaseKey, gap};
use crate::report::Lag;
use crate::shard::Checkpoint;

/// Shards asked at the same time. Each costs one of the five reads a second that the shard allows.
const CONCURRENCY: usize = 20;

/// Asks for the checkpoints of these leases; those that cannot be asked for are left out.
pub(super) async fn lags<'a>(
    records: &dyn RecordSource,
    leases: impl Iterator<Item = &'a Lease>,
) -> BTreeMap<LeaseKey, Lag> {
    let asked: Vec<_> = leases
        .filter(|lease| matches!(lease.checkpoint, Checkpoint::At(_) | Checkpoint::TrimHorizon))
        .map(|lease| async move { (lease.key.clone(), lag(records, lease).await) })
        .collect();
    stream::iter(asked).buffer_unordered(CONCURRENCY).collect().await
}

async fn lag(records: &dyn RecordSource, lease: &Lease) -> Lag {
    let start = match &lease.checkpoint {
        Checkpoint::At(at) => StartAt::At(at.sequence.clone()),
        _ => StartAt::TrimHorizon,
    };
    match records.lag(lease.key.shard(), &start).await {
        Ok(ahead) => of(&lease.checkpoint, lease.caught_up.as_ref(), &ahead, wall_clock_us()),
        Err(error) => Lag { lag_problem: Some(short(&error)), ..Lag::default() },
    }
}

/// What lies ahead of a checkpoint tells of it.
fn of(checkpoint: &Checkpoint, caught_up: Option<&CaughtUp>, ahead: &Ahead, wall_clock_us: i64) -> Lag {
    let lag = Lag { millis_behind_latest: ahead.behind.millis(), ..Lag::default() };
    let Checkpoint::At(at) = checkpoint else { return lag };
    let first = ahead.first.as_ref();
    if first.is_none() && ahead.behind != Behind::Tip {
        return lag;
    }
    let gap = gap(caught_up, at, first.map(|(sequence, _)| sequence), Some(wall_clock_us), None);
    let there = first.filter(|(sequence, _)| *sequence <= at.sequence);
    Lag {
        checkpoint_age_ms: there.map(|(_, arrival_us)| (wall_clock_us - arrival_us).max(0) / 1000),
        trimmed: gap == Gap::Possible,
        ..lag
    }
}

/// One word where it is known.
fn short(error: &FetchError) -> String {
    match error {
        FetchError::Throttled => "throttled".to_owned(),
        FetchError::ExpiredIterator => "expired".to_owned(),
        FetchError::NotFound => "not found".to_owned(),
        FetchError::Refused(reason) => reason.clone(),
        error => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Position, SequenceNumber};

    #[test]
    fn the_record_at_the_checkpoint_gives_its_age() {
        let ahead = |sequence: Option<u128>, behind| Ahead {
            first: sequence.map(|sequence| (SequenceNumber::from(sequence), 100_000_000)),
            behind,
        };
        let at = Checkpoint::At(Position::new(SequenceNumber::from(9)));
        let of = |checkpoint: &_, ahead: &_, now_us| of(checkpoint, None, ahead, now_us);
        let lag = of(&at, &ahead(Some(9), Behind::Millis(1_500)), 103_250_000);
        assert_eq!((lag.checkpoint_age_ms, lag.millis_behind_latest), (Some(3_250), Some(1_500)));
        // A host whose clock is behind.
        assert_eq!(of(&at, &ahead(Some(9), Behind::Tip), 1).checkpoint_age_ms, Some(0));
        let gone = of(&at, &ahead(Some(10), Behind::Millis(7_000)), 103_250_000);
        assert_eq!(
            (gone.checkpoint_age_ms, gone.millis_behind_latest, gone.trimmed),
            (None, Some(7_000), true)
        );
        // Nothing was lost: the shard was read to its tip a while ago.
        let seen = CaughtUp { after: Position::from(9), at_us: 100_000_000, retention_hours: 24 };
        for found in [ahead(Some(10), Behind::Millis(7_000)), ahead(None, Behind::Tip)] {
            let quiet = super::of(&at, Some(&seen), &found, 103_250_000);
            assert_eq!((quiet.checkpoint_age_ms, quiet.trimmed), (None, false));
            let later = 100_000_000 + 24 * 3_600_000_000;
            assert!(super::of(&at, Some(&seen), &found, later).trimmed);
        }
        // Not found at once is not lost.
        let unknown = of(&at, &ahead(None, Behind::Millis(60_000)), 103_250_000);
        assert_eq!((unknown.checkpoint_age_ms, unknown.trimmed), (None, false));
        let empty = of(&Checkpoint::TrimHorizon, &ahead(None, Behind::Tip), 1);
        assert_eq!(empty, Lag { millis_behind_latest: Some(0), ..Lag::default() });
        let unread = of(&Checkpoint::TrimHorizon, &ahead(Some(3), Behind::Millis(60_000)), 1);
        assert_eq!((unread.checkpoint_age_ms, unread.millis_behind_latest), (None, Some(60_000)));
        assert_eq!(of(&at, &ahead(None, Behind::Unknown), 1), Lag::default());
    }
}
