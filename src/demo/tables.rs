//! The tables in front of the streams: changes to their items are what the demo puts.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::feed::{Feed, Told};
use crate::local::{Forwarder, LocalAws, LocalError};
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table, scan};
use crate::shutdown::joined;
use crate::trial::scene::servers::Servers;
use crate::trial::scene::{Scene, TrialSource};
use crate::trial::{Puts, Table, TrialError, numbered};

/// Receipts of requests that may wait to be heard.
const RECEIPTS: usize = 16;

/// A table for each stream, and what forwards its changes.
pub(super) struct Tables<'a> {
    servers: &'a Servers,
    aws: &'a LocalAws,
    names: Vec<String>,
    forwarders: Vec<Forwarder>,
    source: TrialSource,
    /// What became of what was produced to topics, which have no tables.
    told: Told,
}

/// What was put into a stream, and what its table holds.
type ReadBack = (Puts, Option<Table>);

impl<'a> Tables<'a> {
    /// Those of a scene whose streams are tables; else makes them before its streams, which are embedded ones.
    pub(super) async fn with(
        servers: &'a Servers,
        name: &str,
        scene: &dyn Scene,
        source: TrialSource,
    ) -> Result<Self, TrialError> {
        let aws = servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))?;
        let told = Told::default();
        if source == TrialSource::Kafka {
            return Ok(Self { servers, aws, names: Vec::new(), forwarders: Vec::new(), source, told });
        }
        if source.of_tables() {
            let names = scene.streams().to_vec();
            return Ok(Self { servers, aws, names, forwarders: Vec::new(), source, told });
        }
        let names = numbered(name, scene.streams().len());
        let mut forwarders = Vec::new();
        for (table, stream) in names.iter().zip(scene.streams()) {
            create_table(servers.dynamodb(), table).await?;
            forwarders.push(aws.forward(table, stream));
        }
        Ok(Self { servers, aws, names, forwarders, source, told })
    }

    /// What the workers read, without HTTP.
    pub(super) fn feed(&self) -> Feed {
        if self.source == TrialSource::Kafka {
            Feed::Topics(self.told.clone())
        } else if self.source.of_tables() {
            Feed::of_tables(self.aws.streams().clone())
        } else {
            Feed::Kinesis(self.aws.kinesis().clone())
        }
    }

    /// A way into the table of a stream, or into the topic, which has none. `hearing`: who hears what became of records.
    pub(super) fn sink(
        &self,
        stream: usize,
        scene: &dyn Scene,
        seed: u64,
        hearing: &mut JoinSet<()>,
    ) -> Sink {
        if self.source == TrialSource::Kafka {
            let (receipts, told) = mpsc::channel(RECEIPTS);
            hearing.spawn(self.told.clone().hear(scene.streams()[stream].clone(), told));
            return scene.puts(stream, seed, receipts);
        }
        let client = self.servers.dynamodb().clone();
        Sink::Table(Arc::new(TableWriter::new(client, &self.names[stream])))
    }

    /// TTL deletes are changes too: lets the tables make the last of them, and waits until all are in the streams.
    pub(super) async fn everything_forwarded(&self) -> Result<(), TrialError> {
        loop {
            let database = self.aws.database().clone();
            let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
            if joined(swept).await.map_err(|error| LocalError::Database(error.into()))? == 0 {
                break;
            }
        }
        for forwarder in &self.forwarders {
            forwarder.drained().await;
        }
        Ok(())
    }

    /// Reads the records back from the streams, and the items from the tables.
    pub(super) async fn read_back(
        &self,
        feed: &Feed,
        streams: &[String],
    ) -> Result<Vec<ReadBack>, TrialError> {
        let mut each = Vec::new();
        if self.source == TrialSource::Kafka {
            for stream in streams {
                each.push((feed.puts(stream)?, None));
            }
            return Ok(each);
        }
        for (table, stream) in self.names.iter().zip(streams) {
            let mut items = Table::default();
            let mut unreadable = None;
            let add = |item: &[u8]| unreadable = unreadable.take().or(items.add(item).err());
            scan(self.servers.dynamodb(), table, add).await?;
            if let Some(error) = unreadable {
                return Err(error.into());
            }
            each.push((feed.puts(stream)?, Some(items)));
        }
        Ok(each)
    }
}
