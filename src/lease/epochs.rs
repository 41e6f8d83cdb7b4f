//! Which leaders wrote what a reader has read, so that a checkpoint can say it of its record. Pure.

use std::collections::VecDeque;

use crate::shard::{Checkpoint, SequenceNumber};

/// The epochs of what was read: each from this record on, to the next one.
#[derive(Debug, Default)]
pub(super) struct Epochs(VecDeque<(SequenceNumber, i32)>);

impl Epochs {
    /// Records from `first` on were read, all of this epoch. What was known of later ones is of another reading.
    pub(super) fn read(&mut self, first: SequenceNumber, epoch: i32) {
        while self.0.pop_back_if(|(from, _)| *from >= first).is_some() {}
        if self.0.back().is_none_or(|(_, last)| *last != epoch) {
            self.0.push_back((first, epoch));
        }
    }

    /// The epoch of a record that was read.
    pub(super) fn of(&self, at: &Checkpoint) -> Option<i32> {
        let sequence = &at.position()?.sequence;
        self.0.iter().rev().find(|(from, _)| from <= sequence).map(|(_, epoch)| *epoch)
    }

    /// Forgets what is only of records before this one.
    pub(super) fn committed(&mut self, at: &Checkpoint) {
        let Some(position) = at.position() else { return };
        while self.0.get(1).is_some_and(|(from, _)| *from <= position.sequence) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shard::Position;

    fn at(number: u128) -> Checkpoint {
        Checkpoint::At(Position::new(number.into()))
    }

    proptest! {
        /// Pages of one epoch each, now and then read again from an earlier record on; checkpoints follow.
        #[test]
        fn the_epoch_of_a_record_is_that_of_its_page(
            pages in prop::collection::vec((1u128..5, 0u128..4, any::<bool>(), any::<bool>()), 1..40),
        ) {
            let (mut epochs, mut model) = (Epochs::default(), Vec::<i32>::new());
            let (mut epoch, mut done) = (0, 0);
            for (records, back, newer, commits) in pages {
                let first = model.len().saturating_sub(back as usize).max(done);
                model.truncate(first);
                epoch += i32::from(newer);
                epochs.read(u128::into(first as u128), epoch);
                model.extend((0..records).map(|_| epoch));
                if commits {
                    done = model.len() - 1;
                    epochs.committed(&at(done as u128));
                }
                for (number, epoch) in model.iter().enumerate().skip(done) {
                    prop_assert_eq!(epochs.of(&at(number as u128)), Some(*epoch));
                }
            }
        }
    }
}
