//! Where a play takes place: servers, and in them the streams of one application, of whatever kind they are.
//!
//! Owns: making the streams, putting into them, telling what is in them, changing their shards, and what workers are told
//! of them.
//! Does not own: what is put, what else goes wrong, what becomes of it all (`demo`, `loadtest`).

mod changes;
#[cfg(feature = "kafka")]
mod kafka;
mod kinesis;
mod reshard;
pub mod servers;
mod source;
mod tables;

pub use reshard::{Reshard, at_random, in_half, together};
pub use source::TrialSource;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::kinesis::KinesisStream;
use self::servers::Servers;
use self::tables::TableStream;
use super::workers::{WorkerError, WorkerSettings};
use super::{Puts, Table, TrialError, numbered};
use crate::kafka::KafkaSettings;
use crate::lease::LeaseTable;
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::shard::Shard;
use crate::terminal::say;

/// What streams a play has.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The application that reads them, which is the name of its lease table too.
    pub application: &'a str,
    /// Their name; they are numbered where there are several, and have the name of their kind where there are several kinds.
    pub name: &'a str,
    /// Their kinds.
    pub sources: &'a [TrialSource],
    /// So many of each kind.
    pub count: usize,
    /// Shards of each at the start.
    pub shards: u32,
    /// Records for Kinesis go into aggregates, so many in one at most.
    pub packed: Option<usize>,
    /// Name of the tables whose changes are forwarded to the streams of Kinesis, where nothing else is put into them.
    pub tables: Option<&'a str>,
    /// The brokers of Kafka, where topics are among them.
    pub kafka: Option<&'a KafkaSettings>,
}

/// What a stream's shards are to become, by what they are; nothing where nothing can be done.
pub type Choose<'a> = dyn FnMut(&[Shard]) -> Option<Reshard> + Send + 'a;

/// A stream of a play. A kind of stream that a play is to be played on is an implementation.
#[async_trait]
pub trait TrialStream: Send + Sync {
    /// Its name, as objects and logs have it.
    fn name(&self) -> &str;

    /// Its name, as lease keys have it.
    fn in_leases(&self) -> String {
        self.name().to_owned()
    }

    /// Its kind.
    fn source(&self) -> TrialSource;

    /// Flags of `kinetide run` that say how its servers are reached, beyond what is said of all servers.
    fn flags(&self) -> Vec<String> {
        Vec::new()
    }

    /// A way into it that says what became of each record, where a writer is told that. The seed decides what tells
    /// records apart.
    fn puts(&self, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink;

    /// Says what became of each record where a writer is not told: until `over`, and then of the rest.
    ///
    /// # Errors
    /// When the stream cannot be looked at.
    async fn tell(
        &self,
        _receipts: mpsc::Sender<Vec<Receipt>>,
        _over: CancellationToken,
    ) -> Result<(), TrialError> {
        Ok(())
    }

    /// Its table as it is now, where it has one.
    ///
    /// # Errors
    /// When the table cannot be read.
    async fn table(&self) -> Result<Option<Table>, TrialError> {
        Ok(None)
    }

    /// Changes its shards as `choose` likes; answers what was done, in words.
    ///
    /// # Errors
    /// When it cannot be done now, in words.
    async fn disturb(&self, choose: &mut Choose<'_>) -> Result<String, String>;

    /// Forgets records that were put before a time, µs since the epoch, where that can be said: they are in the lake.
    fn forget_before(&self, _oldest_us: i64) {}

    /// Removes it from servers that outlive the play.
    async fn strike(&self) {}
}

/// The servers of a play and the streams in them.
pub struct Scene {
    /// The servers.
    pub servers: Servers,
    /// The streams.
    pub streams: Vec<Arc<dyn TrialStream>>,
    application: String,
}

impl Scene {
    /// Makes the streams, and waits until they can be used.
    ///
    /// # Errors
    /// When a server refuses, or cannot have them.
    pub async fn set(servers: Servers, wanted: Wanted<'_>) -> Result<Self, TrialError> {
        let Wanted { name, sources, count, .. } = wanted;
        let mut streams: Vec<Arc<dyn TrialStream>> = Vec::new();
        for source in sources.iter().copied() {
            let name = match source {
                // They are somebody else's brokers.
                TrialSource::Kafka => format!("kinetide-trial-{:08x}", rand::random::<u32>()),
                _ if sources.len() == 1 => name.to_owned(),
                _ => format!("{name}-{}", source.name()),
            };
            let tables = wanted.tables.map(|table| numbered(table, count)).unwrap_or_default();
            for (number, name) in numbered(&name, count).into_iter().enumerate() {
                streams.push(match source {
                    TrialSource::Kafka => topic(wanted, name).await?,
                    TrialSource::DynamodbStreams => Arc::new(TableStream::make(&servers, &name).await?),
                    TrialSource::Kinesis | TrialSource::FanOut => {
                        let table = tables.get(number).map(String::as_str);
                        Arc::new(KinesisStream::make(&servers, name, source, table, wanted).await?)
                    }
                });
            }
        }
        Ok(Self { servers, streams, application: wanted.application.to_owned() })
    }

    /// Names of the streams.
    pub fn names(&self) -> Vec<String> {
        self.streams.iter().map(|stream| stream.name().to_owned()).collect()
    }

    /// Names of the streams, as lease keys have them.
    pub fn in_leases(&self) -> Vec<String> {
        self.streams.iter().map(|stream| stream.in_leases()).collect()
    }

    /// The lease table.
    pub fn leases(&self) -> Arc<dyn LeaseTable> {
        self.servers.leases(&self.application)
    }

    /// What workers are told that land in this lake.
    pub fn worker(&self, lake: String, logs: PathBuf) -> WorkerSettings {
        WorkerSettings {
            stream_flags: self.worker_arguments(),
            stream: self.streams[0].name().to_owned(),
            application: self.application.clone(),
            lake,
            region: self.servers.region.clone(),
            endpoints: self.servers.endpoints.clone(),
            initial_position: None,
            settings: None,
            clock_offset_s: 0,
            full_disk_survivable: false,
            command: None,
            logs,
        }
    }

    /// Whether flags cannot name the streams: they name those of one kind.
    fn of_several_kinds(&self) -> bool {
        self.streams.iter().any(|stream| stream.source() != self.streams[0].source())
    }

    /// Flags of `kinetide run` that name the streams, where flags can.
    fn worker_arguments(&self) -> Vec<String> {
        if self.of_several_kinds() {
            return Vec::new();
        }
        let (kind, name) = self.streams[0].source().flags();
        let named = self.streams.iter().flat_map(|stream| [name, stream.name()]);
        let flags = kind.iter().copied().chain(named).map(str::to_owned);
        flags.chain(self.streams[0].flags()).collect()
    }

    /// What the settings file of workers says of the streams, where flags cannot.
    pub fn worker_streams(&self) -> String {
        let table = |stream: &Arc<dyn TrialStream>| {
            let (name, source) = (stream.name(), stream.source());
            if source.of_tables() {
                return format!("[[streams]]\nkind = \"dynamodb-streams\"\ntable = \"{name}\"\n");
            }
            let retrieval = source.retrieval().map(|by| format!("retrieval = \"{by}\"\n"));
            format!("[[streams]]\nstream = \"{name}\"\n{}", retrieval.unwrap_or_default())
        };
        self.streams.iter().filter(|_| self.of_several_kinds()).map(table).collect()
    }

    /// Changes the shards of a stream as `choose` likes; answers what was done, in words.
    ///
    /// # Errors
    /// When it cannot be done now, in words.
    pub async fn disturb(&self, stream: usize, choose: &mut Choose<'_>) -> Result<String, String> {
        let stream = &self.streams[stream];
        let done = stream.disturb(choose).await?;
        // A stream that is alone has no need to be named.
        let named = self.streams.len() == 1 || done.contains(stream.name());
        Ok(if named { done } else { format!("{done} of {}", stream.name()) })
    }

    /// What was put into each stream, with its table as it is now.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub async fn with_tables(&self, puts: Vec<Puts>) -> Result<Vec<(Puts, Option<Table>)>, TrialError> {
        let mut each = Vec::new();
        for (puts, stream) in puts.into_iter().zip(&self.streams) {
            each.push((puts, stream.table().await?));
        }
        Ok(each)
    }

    /// Ends a play that was interrupted, when its workers are drained.
    ///
    /// # Errors
    /// Always: what was interrupted has no result.
    pub async fn interrupted<T>(
        self,
        lake: String,
        drain: impl Future<Output = Result<(), WorkerError>>,
    ) -> Result<T, TrialError> {
        say("interrupted: draining the workers; interrupt again to kill them");
        drain.await?;
        self.strike().await;
        Err(TrialError::Interrupted { lake })
    }

    /// Removes streams and lease table from somebody else's servers, and stops ours.
    pub async fn strike(self) {
        for stream in &self.streams {
            stream.strike().await;
        }
        drop(self.streams);
        self.servers.strike(&self.application).await;
    }
}

/// A topic on the brokers.
#[cfg(feature = "kafka")]
async fn topic(wanted: Wanted<'_>, name: String) -> Result<Arc<dyn TrialStream>, TrialError> {
    let brokers = wanted.kafka.ok_or_else(|| TrialError::server("Kafka", "no brokers are named"))?;
    Ok(Arc::new(kafka::TopicStream::make(brokers, name, wanted.shards).await?))
}

/// This build has none.
#[cfg(not(feature = "kafka"))]
async fn topic(_: Wanted<'_>, _: String) -> Result<Arc<dyn TrialStream>, TrialError> {
    Err(TrialError::server("Kafka", "this build is without it"))
}
