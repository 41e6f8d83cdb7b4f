//! Up to when the records of a shard are delivered, as its row says without a look at the stream. Pure.

use super::row::Lease;
use crate::shard::{Checkpoint, SequenceNumber};

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
    /// What arrived in the shard until this time (by the stream's clock, µs since the epoch) is delivered, give or take the
    /// exactness of arrival times: the arrival of the record at the checkpoint, or the time when nothing was behind it.
    /// `None` where nobody noted it, and for a shard that is read to its end, which owes nothing.
    pub fn delivered_until_us(&self) -> Option<i64> {
        let at = self.checkpoint.position()?;
        let delivered = self.delivered.as_ref().filter(|delivered| delivered.upto == at.sequence);
        // An index inside an aggregate may have records behind it.
        let caught_up = self.caught_up.as_ref().filter(|seen| seen.after == at.sequence && at.sub == 0);
        delivered.map(|delivered| delivered.at_us).max(caught_up.map(|seen| seen.at_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::CaughtUp;
    use crate::shard::{Position, Shard, ShardId};

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
        let seen = |number: u128| Some(CaughtUp { after: number.into(), at_us: 900, retention_hours: 24 });
        for (checkpoint, delivered, seen, expected) in [
            (at(5, 0), None, None, None),
            (at(5, 0), delivered(5), None, Some(100)),
            (at(5, 0), delivered(5), seen(5), Some(900)),
            (at(5, 0), delivered(5), seen(4), Some(100)),
            // Somebody else has moved it, ahead or back.
            (at(5, 0), delivered(4), seen(6), None),
            (at(5, 2), delivered(5), seen(5), Some(100)),
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
