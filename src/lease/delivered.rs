//! What a commit notes in the row, so that it says without a look at the stream up to when its records are delivered. Pure.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Position;

    #[test]
    fn a_commit_without_a_position_or_an_arrival_notes_nothing() {
        let at = Checkpoint::At(Position { sequence: 5.into(), sub: 0 });
        assert_eq!(Delivered::of(&Checkpoint::ShardEnd, Some(1)), None);
        assert_eq!(Delivered::of(&at, None), None);
        assert_eq!(Delivered::of(&at, Some(1)).map(|noted| noted.at_us), Some(1));
    }
}
