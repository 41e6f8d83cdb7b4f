//! Records → a program's own code, with the promises of the KCL: one processor for each shard, at least once from the
//! last checkpoint, children after their parents.
//!
//! Owns: what a processor is asked and may ask, in which order, and what follows when it fails.
//! Does not own: which shards are read (`lease`), how (`fetch`), where a shard starts and its children (`consumer`).

mod call;
mod checkpointer;
mod run;
#[cfg(test)]
mod tests;

pub use checkpointer::{CheckpointError, Checkpointer};
pub use run::Process;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::fetch::{Page, Record};
use crate::lease::Pending;
use crate::shard::{Checkpoint, ShardId};

/// Whatever a processor could not do.
pub type ProcessorError = Box<dyn std::error::Error + Send + Sync>;

/// What a program does with the records of one shard.
///
/// The calls for one shard come one after the other, in this order: [`initialize`](Self::initialize), any number of
/// [`records`](Self::records), and at most one of [`shard_end`](Self::shard_end),
/// [`shutdown_requested`](Self::shutdown_requested) and [`lease_lost`](Self::lease_lost). The lease is renewed meanwhile,
/// whatever a call takes; the shard is not read ahead by more than two pages. A call must not block its thread: use
/// [`tokio::task::spawn_blocking`] for what does.
///
/// A call that panics or returns an error ends the processor. The worker keeps the lease, and after a pause, which grows
/// from a second to five minutes, it makes a new processor for the shard, which begins at the last checkpoint.
#[async_trait]
pub trait Processor: Send {
    /// The first call. Records that come later are those after `start.checkpoint`.
    ///
    /// # Errors
    /// What ends the processor.
    async fn initialize(&mut self, start: &ShardStart) -> Result<(), ProcessorError> {
        let _ = start;
        Ok(())
    }

    /// The next records of the shard, at least one, in its order. What is done with them is done for good once a
    /// checkpoint at or after them succeeds; until then they may come again, to this worker or to another one.
    ///
    /// # Errors
    /// What ends the processor.
    async fn records(&mut self, records: &Records, checkpointer: &Checkpointer)
    -> Result<(), ProcessorError>;

    /// All records of the shard have come. The shard is finished, and its children are read, only when
    /// [`Checkpointer::checkpoint`] succeeds here: finish first what is still under way. A processor that returns without
    /// that has failed.
    ///
    /// # Errors
    /// What ends the processor.
    async fn shard_end(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError>;

    /// Another worker is to have the shard, or this one is to end: the last call, and the last occasion for a checkpoint.
    /// What it takes counts against the shutdown budget, or 30 s where the shard goes to another worker.
    ///
    /// # Errors
    /// What is logged.
    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
        let _ = checkpointer;
        Ok(())
    }

    /// Another worker may read the shard already, from the last checkpoint: the last call. No checkpoint succeeds any more.
    async fn lease_lost(&mut self) {}
}

/// Makes a processor for each shard. Closures do.
pub trait ProcessorFactory: Send + Sync + 'static {
    /// A processor for this shard, which has seen nothing yet.
    fn processor(&self, shard: &ShardId) -> Box<dyn Processor>;
}

impl<F, P> ProcessorFactory for F
where
    F: Fn(&ShardId) -> P + Send + Sync + 'static,
    P: Processor + 'static,
{
    fn processor(&self, shard: &ShardId) -> Box<dyn Processor> {
        Box::new(self(shard))
    }
}

impl fmt::Debug for dyn ProcessorFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessorFactory")
    }
}

/// Where a processor begins.
#[derive(Clone, Debug)]
pub struct ShardStart {
    /// The stream, as it was named.
    pub stream: Arc<str>,
    /// The shard.
    pub shard: ShardId,
    /// What is done: the first record is the one after it.
    pub checkpoint: Checkpoint,
    /// What a Java worker has prepared and not committed. The records up to there come again; the next checkpoint takes it
    /// off the row.
    pub pending: Option<Pending>,
}

/// Records of one shard, in its order. Never empty.
#[derive(Debug)]
pub struct Records {
    page: Page,
    /// Those before are done.
    from: usize,
}

impl Records {
    /// The records.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator {
        self.page.records().skip(self.from)
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "they are never empty")]
    pub fn len(&self) -> usize {
        self.page.len() - self.from
    }

    /// How far the last of them is behind the newest record of the shard, ms; `None` where the stream does not say.
    pub fn millis_behind_latest(&self) -> Option<u64> {
        self.page.behind().millis()
    }
}
