//! Records of the model as they lie in the stream: each for itself, or so many packed in one.

use super::bounds::Bounds;
use super::made::Made;
use crate::checkpoint::{PendingBatch, Unpacking};
use crate::lease::Lease;
use crate::shard::{Checkpoint, Position, RecordId};

impl Bounds {
    /// Where a record is for a worker that unpacks: records are counted from 1.
    pub(super) fn position(&self, record: u8) -> Position {
        let (sequence, sub) = ((record - 1) / self.packed + 1, (record - 1) % self.packed);
        Position { sequence: u128::from(sequence).into(), sub: sub.into() }
    }

    /// As the worker sees it.
    pub(super) fn position_for(&self, made: Made, record: u8) -> Position {
        let position = self.position(record);
        if made.unpacks() { position } else { Position { sub: 0, ..position } }
    }

    pub(super) fn number(&self, position: &Position) -> u8 {
        let sequence: u8 = position.sequence.as_str().parse().unwrap();
        (sequence - 1) * self.packed + u8::try_from(position.sub).unwrap() + 1
    }

    /// The last record that is in this one.
    pub(super) fn end(&self, id: &RecordId) -> u8 {
        let first = self.number(&RecordId { sub: Some(0), ..id.clone() }.position());
        match id.sub {
            None => first + self.packed - 1,
            Some(sub) => first + u8::try_from(sub).unwrap(),
        }
    }

    pub(super) fn done_up_to(&self, lease: &Lease) -> u8 {
        match (&lease.checkpoint, self.done_of(lease)) {
            (Checkpoint::ShardEnd, _) => self.records,
            (_, Some(done)) => self.end(&done),
            _ => 0,
        }
    }

    /// What a new owner takes for done.
    pub(super) fn done_of(&self, lease: &Lease) -> Option<RecordId> {
        let done = lease.done()?;
        let whole_told = self.whole_told || done.sub.is_some();
        Some(if whole_told { done } else { RecordId { sub: Some(0), ..done } })
    }

    /// The last record of a pending batch.
    pub(super) fn end_of_pending(&self, lease: &Lease) -> u8 {
        let batch = lease.pending.as_ref().map(|pending| PendingBatch::from_pending(pending).ok().flatten());
        batch.flatten().map_or(0, |batch| self.end(&batch.end()))
    }

    /// How this worker's batches say that they are unpacked, where they have parts.
    pub(super) fn unpacking(&self, made: Made) -> Unpacking {
        Unpacking::of(self.packed > 1 && made.unpacks() && self.unpacking_told)
    }

    /// Where a batch of this worker may end.
    pub(super) fn may_end_at(&self, made: Made, record: u8) -> bool {
        let sub = self.position(record).sub;
        match made.unpacks() {
            true => self.packed == 1 || sub > 0 || self.ends_at_first,
            false => sub + 1 == u64::from(self.packed),
        }
    }

    /// A build that does not unpack does nothing with what one that does has left amid a record.
    pub(super) fn refuses(&self, made: Made, lease: &Lease) -> bool {
        let batch = lease.pending.as_ref().map(PendingBatch::from_pending);
        let unpacked =
            batch.is_some_and(|batch| matches!(batch, Ok(Some(batch)) if batch.unpacking == Unpacking::Kpl));
        let remembered = lease.last_prepared.as_ref().map(|last| PendingBatch::from_pending(&last.pending));
        let remembered = remembered
            .is_some_and(|batch| matches!(batch, Ok(Some(batch)) if batch.unpacking == Unpacking::Kpl));
        !made.unpacks() && (unpacked || remembered || !self.done_up_to(lease).is_multiple_of(self.packed))
    }
}
