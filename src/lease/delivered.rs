//! Up to when the records of a shard are delivered, as its row says without a look at the stream. Pure.

use super::row::Lease;
use crate::shard::{Checkpoint, RecordId, SequenceNumber};

/// When the last record of a commit had arrived. It says something of the checkpoint that it names only: others who move
/// the checkpoint do not know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The record of the checkpoint.
    pub upto: SequenceNumber,
    /// When it arrived, by the stream's clock, µs since the epoch.
    pub at_us: i64,
}

impl Delivered {
    /// What a commit notes.
    pub(super) fn of(to: &Checkpoint, arrived_us: Option<i64>) -> Option<Self> {
        let (position, at_us) = to.position().zip(arrived_us)?;
        Some(Self { upto: position.sequence.clone(), at_us })
    }
}

impl Lease {
    /// What is done where the checkpoint is a record: all up to this one.
    ///
    /// Of an aggregate the checkpoint `(sequence, 0)` is either its first record, as Java has it, or all of it: the build
    /// that wrote it took records whole. No build of ours ends at the first of several
    /// ([`Batcher::may_end_before`](crate::batch::Batcher::may_end_before)), so what one has noted of it says that.
    pub fn done(&self) -> Option<RecordId> {
        let at = self.checkpoint.position()?;
        let ours = self.delivered.as_ref().is_some_and(|delivered| delivered.upto == at.sequence);
        Some(RecordId { sequence: at.sequence.clone(), sub: (at.sub > 0 || !ours).then_some(at.sub) })
    }

    /// What arrived in the shard until this time (by the stream's clock, µs since the epoch) is delivered, give or take the
    /// exactness of arrival times: the arrival of the record at the checkpoint, or the time when nothing was behind it.
    /// `None` where nobody noted it, and for a shard that is read to its end, which owes nothing.
    pub fn delivered_until_us(&self) -> Option<i64> {
        let at = self.checkpoint.position()?;
        let delivered = self.delivered.as_ref().filter(|delivered| delivered.upto == at.sequence);
        // Another index inside the same aggregate has records behind it.
        let caught_up = self.caught_up.as_ref().filter(|seen| seen.after == *at);
        delivered.map(|delivered| delivered.at_us).max(caught_up.map(|seen| seen.at_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::CaughtUp;
    use crate::shard::{Position, Shard, ShardId};

    #[test]
    fn a_checkpoint_of_ours_without_an_index_is_the_whole_record() {
        let shard = Shard {
            id: ShardId::new("s"),
            parents: Vec::new(),
            hash_range: None,
            starting_sequence_number: 0.into(),
            closed: false,
        };
        let done = |checkpoint, delivered: Option<u128>| {
            let delivered = delivered.and_then(|number| Delivered::of(&at(number, 0), Some(1)));
            Lease { delivered, ..Lease::new(&shard, checkpoint) }.done()
        };
        let id = |sub| Some(RecordId { sequence: 5.into(), sub });
        assert_eq!(done(at(5, 0), Some(5)), id(None));
        assert_eq!(done(at(5, 0), Some(4)), id(Some(0)), "somebody else has moved it");
        assert_eq!(done(at(5, 0), None), id(Some(0)));
        assert_eq!(done(at(5, 2), Some(5)), id(Some(2)));
        assert_eq!(done(Checkpoint::TrimHorizon, Some(5)), None);
    }

    fn at(number: u128, sub: u64) -> Checkpoint {
        Checkpoint::At(Position { sequence: number.into(), sub })
    }

    #[test]
    fn only_what_is_noted_of_this_checkpoint_counts() {
        let shard = Shard {
            id: ShardId::new("s"),
            parents: Vec::new(),
            hash_range: None,
            starting_sequence_number: 0.into(),
            closed: false,
        };
        let delivered = |number: u128| Delivered::of(&at(number, 0), Some(100));
        let seen_at = |number: u128, sub| {
            let after = Position { sequence: number.into(), sub };
            Some(CaughtUp { after, at_us: 900, retention_hours: 24 })
        };
        let seen = |number| seen_at(number, 0);
        for (checkpoint, delivered, seen, expected) in [
            (at(5, 0), None, None, None),
            (at(5, 0), delivered(5), None, Some(100)),
            (at(5, 0), delivered(5), seen(5), Some(900)),
            (at(5, 0), delivered(5), seen(4), Some(100)),
            // Somebody else has moved it, ahead or back.
            (at(5, 0), delivered(4), seen(6), None),
            (at(5, 2), delivered(5), seen(5), Some(100)),
            (at(5, 2), delivered(5), seen_at(5, 2), Some(900)),
            (Checkpoint::ShardEnd, delivered(5), seen(5), None),
            (Checkpoint::TrimHorizon, delivered(5), None, None),
        ] {
            let lease = Lease { delivered, caught_up: seen, ..Lease::new(&shard, checkpoint) };
            assert_eq!(lease.delivered_until_us(), expected, "{lease:?}");
        }
        assert_eq!(Delivered::of(&Checkpoint::ShardEnd, Some(1)), None);
        assert_eq!(Delivered::of(&at(5, 0), None), None);
    }
}
