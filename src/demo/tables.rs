//! The tables in front of the streams: changes to their items are what the demo puts.

use std::sync::Arc;

use super::feed::Feed;
use crate::local::{Forwarder, LocalAws, LocalError};
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table, scan};
use crate::shutdown::joined;
use crate::trial::scene::servers::Servers;
use crate::trial::scene::{Scene, TrialSource};
use crate::trial::{Puts, Table, TrialError, numbered};

/// A table for each stream, and what forwards its changes.
pub(super) struct Tables<'a> {
    servers: &'a Servers,
    aws: &'a LocalAws,
    names: Vec<String>,
    forwarders: Vec<Forwarder>,
}

/// What was put into a stream, and what its table holds.
type ReadBack = (Puts, Option<Table>);

impl<'a> Tables<'a> {
    /// Makes them before the streams of a scene, which are embedded ones.
    pub(super) async fn before(
        servers: &'a Servers,
        name: &str,
        scene: &dyn Scene,
    ) -> Result<Self, TrialError> {
        let aws = embedded(servers)?;
        let names = numbered(name, scene.streams().len());
        let mut forwarders = Vec::new();
        for (table, stream) in names.iter().zip(scene.streams()) {
            create_table(servers.dynamodb(), table).await?;
            forwarders.push(aws.forward(table, stream));
        }
        Ok(Self { servers, aws, names, forwarders })
    }

    /// Those of a scene whose streams are tables.
    pub(super) fn of(servers: &'a Servers, scene: &dyn Scene) -> Result<Self, TrialError> {
        let names = scene.streams().to_vec();
        Ok(Self { servers, aws: embedded(servers)?, names, forwarders: Vec::new() })
    }

    /// What the workers read, without HTTP.
    pub(super) fn feed(&self, source: TrialSource) -> Feed {
        match source {
            TrialSource::Kinesis | TrialSource::FanOut => Feed::Kinesis(self.aws.kinesis().clone()),
            TrialSource::DynamodbStreams => Feed::of_tables(self.aws.streams().clone()),
        }
    }

    /// A way into the table of a stream.
    pub(super) fn sink(&self, stream: usize) -> Sink {
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

fn embedded(servers: &Servers) -> Result<&LocalAws, TrialError> {
    servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))
}
