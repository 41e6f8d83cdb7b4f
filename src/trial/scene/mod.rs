//! Where a play takes place: servers, and in them the streams of one application, of whatever kind they are.
//!
//! Owns: making the streams, putting into them, changing their shards, and what workers are told of them.
//! Does not own: what is put, what else goes wrong, what becomes of it all (`demo`, `loadtest`).

pub mod kinesis;
mod reshard;
pub mod servers;
pub mod tables;

pub use reshard::{Reshard, at_random, in_half, together};

use async_trait::async_trait;
use clap::ValueEnum;
use serde::Serialize;
use tokio::sync::mpsc;

use super::TrialError;
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::shard::Shard;

/// Where workers read from, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialSource {
    /// Streams of Kinesis, polled.
    #[default]
    Kinesis,
    /// Streams of Kinesis, by enhanced fan-out.
    FanOut,
    /// The streams of tables, by DynamoDB Streams.
    DynamodbStreams,
}

/// What a stream's shards are to become, by what they are; nothing where nothing can be done.
pub type Choose<'a> = dyn FnMut(&[Shard]) -> Option<Reshard> + Send + 'a;

/// The streams of a trial. A kind of stream that a play is to be played on is an implementation.
#[async_trait]
pub trait Scene: Send + Sync {
    /// Their names, as objects and logs have them.
    fn streams(&self) -> &[String];

    /// Makes them, each with so many shards, and waits until they can be used.
    ///
    /// # Errors
    /// When a server refuses.
    async fn prepare(&self, shards: u32) -> Result<(), TrialError>;

    /// Flags of `kinetide run` that name them.
    fn worker_arguments(&self) -> Vec<String>;

    /// A way into a stream that says what became of each record. The seed decides what tells records apart.
    fn puts(&self, stream: usize, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink;

    /// Changes the shards of a stream as `choose` likes; answers what was done, in words.
    ///
    /// # Errors
    /// When it cannot be done now, in words.
    async fn disturb(&self, stream: usize, choose: &mut Choose<'_>) -> Result<String, String>;

    /// Forgets records that were put before a time, µs since the epoch, where that can be said: they are in the lake.
    fn forget_before(&self, oldest_us: i64);

    /// Removes the streams from servers that outlive the play.
    async fn strike(&self);
}
