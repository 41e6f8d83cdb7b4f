//! Where a processor says what it has done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::consumer::ShardRow;
use crate::lease::{HeldLease, LeaseWrite};
use crate::shard::{Checkpoint, Position};

/// Why a checkpoint was not written. The checkpoint of the shard is what it was.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Another worker may read the shard already. What was done since the last checkpoint will be done again there.
    #[error(
        "the lease of {shard} is lost: another worker goes on from the last checkpoint; checkpoint no more"
    )]
    LeaseLost {
        /// The shard.
        shard: String,
    },
    /// The position is before the checkpoint, or none of what the processor was given.
    #[error(
        "{shard}: cannot checkpoint at {at}: the checkpoint is {from} and never moves back, and the processor was given the \
         records {given}"
    )]
    OutOfRange {
        /// The shard.
        shard: String,
        /// What was asked for.
        at: String,
        /// The checkpoint.
        from: String,
        /// The first record given and the last, or that there was none.
        given: String,
    },
    /// The processor that this checkpointer was given to is over, and a new one has begun at the last checkpoint.
    #[error("the processor of {shard} that this checkpointer belongs to has ended; its records come again")]
    Ended {
        /// The shard.
        shard: String,
    },
}

/// Writes the checkpoint of one shard, for one processor. Clones may be used by other tasks: checkpoints are written one
/// after the other, and never move back.
#[derive(Clone)]
pub struct Checkpointer {
    /// One for all processors that the shard has in this worker, one after the other.
    row: Arc<tokio::sync::Mutex<ShardRow>>,
    lease: Arc<HeldLease>,
    given: Arc<Mutex<Given>>,
    ended: CancellationToken,
}

/// What the processor has been given.
#[derive(Default)]
struct Given {
    first: Option<Position>,
    last: Option<Position>,
    /// When the last one arrived.
    arrived_us: Option<i64>,
    end: bool,
}

impl Given {
    /// Whether this may be said to be done, where so much is.
    fn covers(&self, to: &Checkpoint, done: &Checkpoint) -> bool {
        let Some(to) = to.position() else { return self.end };
        let inside = (self.first.as_ref()..=self.last.as_ref()).contains(&Some(to));
        inside || done.position() == Some(to)
    }

    /// When the record at this checkpoint arrived; known of the last one.
    fn arrived_us_of(&self, to: &Checkpoint) -> Option<i64> {
        self.arrived_us.filter(|_| self.last.as_ref() == to.position())
    }
}

impl Checkpointer {
    pub(super) fn new(
        row: Arc<tokio::sync::Mutex<ShardRow>>,
        lease: Arc<HeldLease>,
        ended: CancellationToken,
    ) -> Self {
        Self { row, lease, given: Arc::default(), ended }
    }

    /// Everything that the processor was given is done; in [`shard_end`](super::Processor::shard_end) the shard is. Takes
    /// as long as the lease table needs to accept it.
    ///
    /// # Errors
    /// When the lease is lost, or the processor has ended.
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        let to = {
            let given = self.given();
            match &given.last {
                _ if given.end => Checkpoint::ShardEnd,
                Some(last) => Checkpoint::At(last.clone()),
                None => return self.still_ours(),
            }
        };
        self.write(to).await
    }

    /// Everything up to this record is done.
    ///
    /// # Errors
    /// When the position is before the checkpoint, or none of what the processor was given; when the lease is lost, or the
    /// processor has ended.
    pub async fn checkpoint_at(&self, position: &Position) -> Result<(), CheckpointError> {
        self.write(Checkpoint::At(position.clone())).await
    }

    /// The last checkpoint that was written.
    pub fn last(&self) -> Checkpoint {
        self.lease.row().checkpoint
    }

    async fn write(&self, to: Checkpoint) -> Result<(), CheckpointError> {
        let mut row = self.row.lock().await;
        self.still_ours()?;
        let now = self.lease.row().checkpoint;
        // What a Java worker has prepared is taken off the row by the first checkpoint, wherever that is.
        if to == now && self.lease.row().pending.is_none() {
            return Ok(());
        }
        if to < now || !self.given().covers(&to, &now) {
            let given = self.given();
            return Err(CheckpointError::OutOfRange {
                shard: self.shard(),
                at: shown(&to),
                from: shown(&now),
                given: match (&given.first, &given.last) {
                    (Some(first), Some(last)) => {
                        let at = |position: &Position| shown(&Checkpoint::At(position.clone()));
                        format!("{} to {}", at(first), at(last))
                    }
                    _ => "none yet".to_owned(),
                },
            });
        }
        let arrived_us = self.given().arrived_us_of(&to);
        tokio::select! {
            biased;
            () = row.write(LeaseWrite::Commit { to, arrived_us, epoch: None }) => Ok(()),
            () = self.lease.lost().cancelled() => self.still_ours(),
        }
    }

    fn still_ours(&self) -> Result<(), CheckpointError> {
        if self.lease.lost().is_cancelled() {
            return Err(CheckpointError::LeaseLost { shard: self.shard() });
        }
        if self.ended.is_cancelled() {
            return Err(CheckpointError::Ended { shard: self.shard() });
        }
        Ok(())
    }

    pub(super) fn gives(&self, first: Position, last: Position, arrived_us: i64) {
        let mut given = self.given();
        given.first.get_or_insert(first);
        (given.last, given.arrived_us) = (Some(last), Some(arrived_us));
    }

    pub(super) fn gives_end(&self) {
        self.given().end = true;
    }

    /// Whether everything given is done.
    pub(super) fn is_done(&self) -> bool {
        let given = self.given();
        given.last.as_ref().is_none_or(|last| self.last().position().is_none_or(|done| done >= last))
    }

    fn shard(&self) -> String {
        self.lease.key().to_string()
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(checkpoint: &Checkpoint) -> String {
    match checkpoint.sub() {
        0 => checkpoint.as_str().to_owned(),
        sub => format!("{}/{sub}", checkpoint.as_str()),
    }
}
