//! Where a play takes place: servers, and in them the streams of one application, of whatever kind they are.
//!
//! Owns: making the streams, putting into them, changing their shards, and what workers are told of them.
//! Does not own: what is put, what else goes wrong, what becomes of it all (`demo`, `loadtest`).

#[cfg(feature = "kafka")]
mod kafka;
mod kinesis;
mod reshard;
pub mod servers;
mod several;
mod source;
mod tables;

pub use reshard::{Reshard, at_random, in_half, together};
pub use source::TrialSource;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::kinesis::KinesisStreams;
use self::servers::Servers;
use self::several::Several;
use self::tables::TableStreams;
use super::{Table, TrialError};
use crate::kafka::KafkaSettings;
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::shard::Shard;

/// What streams a play has.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Their name; they are numbered where there are several, and have the name of their kind where there are several kinds.
    pub name: &'a str,
    /// Their kinds.
    pub sources: &'a [TrialSource],
    /// So many of each kind.
    pub count: usize,
    /// Records for Kinesis go into aggregates, so many in one at most.
    pub packed: Option<usize>,
    /// The brokers of Kafka, where topics are among them.
    pub kafka: Option<&'a KafkaSettings>,
}

/// The streams of a play, which are yet to be made.
///
/// # Errors
/// Where the servers cannot have them.
pub fn on(servers: &Servers, wanted: Wanted<'_>) -> Result<Box<dyn Scene>, TrialError> {
    let Wanted { name, sources, count, packed, kafka } = wanted;
    let one = |source: TrialSource, name: &str| -> Result<Box<dyn Scene>, TrialError> {
        Ok(if source == TrialSource::Kafka {
            topics(kafka, count)?
        } else if source.of_tables() {
            Box::new(TableStreams::new(servers, name, count)?)
        } else {
            Box::new(KinesisStreams::new(servers, name, count, source)?.packed(packed))
        })
    };
    if let [only] = sources {
        return one(*only, name);
    }
    let parts = sources.iter().map(|source| one(*source, &format!("{name}-{}", source.name())));
    Ok(Box::new(Several::new(parts.collect::<Result<_, _>>()?)))
}

/// Topics on these brokers.
#[cfg(feature = "kafka")]
fn topics(brokers: Option<&KafkaSettings>, count: usize) -> Result<Box<dyn Scene>, TrialError> {
    let brokers = brokers.ok_or_else(|| TrialError::server("Kafka", "no brokers are named"))?;
    Ok(Box::new(kafka::Topics::new(brokers.clone(), "kinetide-trial", count)))
}

/// This build has none.
#[cfg(not(feature = "kafka"))]
fn topics(_: Option<&KafkaSettings>, _: usize) -> Result<Box<dyn Scene>, TrialError> {
    Err(TrialError::server("Kafka", "this build is without it"))
}

/// What a stream's shards are to become, by what they are; nothing where nothing can be done.
pub type Choose<'a> = dyn FnMut(&[Shard]) -> Option<Reshard> + Send + 'a;

/// The streams of a trial. A kind of stream that a play is to be played on is an implementation.
#[async_trait]
pub trait Scene: Send + Sync {
    /// Their names, as objects and logs have them.
    fn streams(&self) -> &[String];

    /// Their names, as lease keys have them.
    fn in_leases(&self) -> Vec<String> {
        self.streams().to_vec()
    }

    /// The kind of a stream.
    fn source(&self, stream: usize) -> TrialSource;

    /// Makes them, each with so many shards, and waits until they can be used.
    ///
    /// # Errors
    /// When a server refuses.
    async fn prepare(&self, shards: u32) -> Result<(), TrialError>;

    /// Flags of `kinetide run` that name them.
    fn worker_arguments(&self) -> Vec<String>;

    /// What the settings file of workers says of them, where flags cannot.
    fn worker_settings(&self) -> String {
        String::new()
    }

    /// A way into a stream that says what became of each record, where a writer is told that. The seed decides what tells
    /// records apart.
    fn puts(&self, stream: usize, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink;

    /// Says what became of each record where a writer is not told: until `over`, and then of the rest.
    ///
    /// # Errors
    /// When the stream cannot be looked at.
    async fn tell(
        &self,
        _stream: usize,
        _receipts: mpsc::Sender<Vec<Receipt>>,
        _over: CancellationToken,
    ) -> Result<(), TrialError> {
        Ok(())
    }

    /// The table of a stream as it is now, where it has one.
    ///
    /// # Errors
    /// When the table cannot be read.
    async fn table(&self, _stream: usize) -> Result<Option<Table>, TrialError> {
        Ok(None)
    }

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
