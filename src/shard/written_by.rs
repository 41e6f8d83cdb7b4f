//! Which leader of a partition wrote a record, where a stream knows such a thing, as Kafka does. Pure.
//!
//! A log that was cut may grow past the place again: the offset alone does not show it, the leader's epoch does.

use super::{Checkpoint, SequenceNumber};

/// A record that was read, and the epoch of the leader that wrote it. True for ever of the log that it was read from, and so
/// is all that lies before the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenBy {
    /// The record.
    pub upto: SequenceNumber,
    /// The epoch.
    pub epoch: i32,
}

impl WrittenBy {
    /// What a write to the row notes of this place.
    pub(crate) fn of(at: &Checkpoint, epoch: Option<i32>) -> Option<Self> {
        let (position, epoch) = at.position().zip(epoch)?;
        Some(Self { upto: position.sequence.clone(), epoch })
    }

    /// Whether it is about this place.
    pub(crate) fn names(&self, at: &Checkpoint) -> bool {
        at.position().is_some_and(|position| position.sequence == self.upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Position;

    #[test]
    fn a_place_without_a_record_or_an_epoch_notes_nothing() {
        let at = |number: u128| Checkpoint::At(Position::new(number.into()));
        assert_eq!(WrittenBy::of(&Checkpoint::TrimHorizon, Some(1)), None);
        assert_eq!(WrittenBy::of(&at(5), None), None);
        let written = WrittenBy::of(&at(5), Some(0)).unwrap();
        assert!(written.names(&at(5)) && !written.names(&at(6)) && !written.names(&Checkpoint::ShardEnd));
    }
}
