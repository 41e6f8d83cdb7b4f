//! The lease row as a value: the attributes of KCL's lease table with their types.

use std::fmt;
use std::sync::Arc;

use super::caught_up::CaughtUp;
use super::delivered::Delivered;
use super::key::LeaseKey;
use crate::shard::{Checkpoint, HashKeyRange, RecordId, Shard, ShardId, WrittenBy};

/// Identifies one worker process. Unique per live process: a re-used id silently resumes its leases.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// Wraps the text; never empty, never a lease key or one of KCL's fixed row keys.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A prepared, not yet committed checkpoint (KCL's two-phase checkpoint).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// `pendingCheckpoint` and `pendingCheckpointSubSequenceNumber`.
    pub checkpoint: Checkpoint,
    /// `pendingCheckpointState`: opaque application bytes, ours or another application's.
    pub state: Option<Arc<[u8]>>,
}

/// The batch that was prepared last, which the row remembers after its pending trio has gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LastPrepared {
    /// The checkpoint when it was prepared: its first record is the next one.
    pub after: Checkpoint,
    /// Its pending trio.
    pub pending: Pending,
}

impl LastPrepared {
    /// A longer description is not remembered: an item has room for one of that kind.
    const STATE_BYTES_MAX: usize = 48 << 10;

    /// What a row with this checkpoint remembers of a batch.
    pub fn of(pending: &Pending, after: &Checkpoint) -> Option<Self> {
        let short = pending.state.as_ref().is_some_and(|state| state.len() <= Self::STATE_BYTES_MAX);
        short.then(|| Self { after: after.clone(), pending: pending.clone() })
    }

    /// True when a row with this checkpoint has not come past the batch: some of its records are still to be delivered.
    pub fn is_ahead_of(&self, checkpoint: &Checkpoint) -> bool {
        self.after <= *checkpoint && *checkpoint < self.pending.checkpoint
    }
}

/// One row of the lease table.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// `leaseKey`.
    pub key: LeaseKey,
    /// `leaseOwner`; absent means unassigned. During a graceful hand-off already the next owner.
    pub owner: Option<WorkerId>,
    /// `leaseCounter`: heartbeat and optimistic lock.
    pub counter: u64,
    /// `ownerSwitchesSinceCheckpoint`.
    pub owner_switches: u64,
    /// `checkpoint` and `checkpointSubSequenceNumber`.
    pub checkpoint: Checkpoint,
    /// The pending trio, if a checkpoint is prepared.
    pub pending: Option<Pending>,
    /// `kinetideLastPrepared`, an attribute of our own that Java leaves alone: what was pending, until a checkpoint of ours
    /// passes it. Whoever checkpoints in between, or forgets it, does not make its rows double.
    pub last_prepared: Option<LastPrepared>,
    /// `parentShardId`.
    pub parents: Vec<ShardId>,
    /// `childShardIds`.
    pub children: Vec<ShardId>,
    /// `startingHashKey`, `endingHashKey`.
    pub hash_range: Option<HashKeyRange>,
    /// `throughputKBps`.
    pub throughput_kbps: Option<f64>,
    /// `kinetideMoves`, an attribute of our own that Java leaves alone: how often the lease has changed its worker since
    /// one last kept it for a while. The leader moves those that have moved least.
    pub moves: u64,
    /// `kinetideStream`, an attribute of our own that Java leaves alone: the stream of the shard
    /// ([`StreamId`](crate::shard::StreamId) as text). Rows of Java workers and of older builds have none at first.
    pub stream: Option<Arc<str>>,
    /// `kinetideStart`, an attribute of our own that Java leaves alone: reading began at this time, µs since the epoch,
    /// and nothing is committed yet. Children of the shard begin there too.
    pub start_us: Option<i64>,
    /// `kinetideCaughtUp`, an attribute of our own that Java leaves alone: when the shard was last read to its tip. It says
    /// something of the checkpoint that it names only.
    pub caught_up: Option<CaughtUp>,
    /// `kinetideDelivered`, an attribute of our own that Java leaves alone: when the record at the checkpoint had arrived. It
    /// says something of the checkpoint that it names only.
    pub delivered: Option<Delivered>,
    /// `kinetideLeaderEpoch`, an attribute of our own in rows of Kafka: which leader wrote the last record that was prepared or
    /// committed. It says something of the checkpoint, or of the end of the pending batch, that it names only.
    pub written: Option<WrittenBy>,
    /// `checkpointOwner`: present only during a graceful hand-off, the old owner that may still checkpoint.
    pub checkpoint_owner: Option<WorkerId>,
}

impl Lease {
    /// A new, unowned lease for `shard`, to be read from `start`, in an application of one stream.
    pub fn new(shard: &Shard, start: Checkpoint) -> Self {
        Self {
            key: shard.id.clone().into(),
            owner: None,
            counter: 0,
            owner_switches: 0,
            checkpoint: start,
            pending: None,
            last_prepared: None,
            parents: shard.parents.clone(),
            children: Vec::new(),
            hash_range: shard.hash_range,
            throughput_kbps: None,
            moves: 0,
            stream: None,
            start_us: None,
            caught_up: None,
            delivered: None,
            written: None,
            checkpoint_owner: None,
        }
    }

    /// The worker that may renew and checkpoint: `checkpointOwner` during a hand-off, else `leaseOwner`.
    pub fn actual_owner(&self) -> Option<&WorkerId> {
        self.checkpoint_owner.as_ref().or(self.owner.as_ref())
    }

    /// True when the shard is read to its end.
    pub fn finished(&self) -> bool {
        self.checkpoint == Checkpoint::ShardEnd
    }

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

    /// The last record that is known to have been read, and who wrote it: that of the pending batch, else the one at the
    /// checkpoint. A log that does not hold it is another one.
    pub fn read_upto(&self) -> Option<&WrittenBy> {
        let pending = self.pending.as_ref().map(|pending| &pending.checkpoint);
        let known = [Some(&self.checkpoint), pending];
        self.written.as_ref().filter(|written| known.into_iter().flatten().any(|at| written.names(at)))
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
    use crate::shard::Position;

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
    }
}
