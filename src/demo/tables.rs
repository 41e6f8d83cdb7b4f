//! The tables in front of the streams: changes to their items are what the demo puts.

use std::sync::Arc;

use crate::local::kinesis::Kinesis;
use crate::local::{Forwarder, LocalAws, LocalError};
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table, scan};
use crate::shutdown::joined;
use crate::trial::scene::Scene;
use crate::trial::scene::servers::Servers;
use crate::trial::{Put, Puts, Table, TrialError, numbered};

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
        let aws = servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))?;
        let names = numbered(name, scene.streams().len());
        let mut forwarders = Vec::new();
        for (table, stream) in names.iter().zip(scene.streams()) {
            create_table(servers.dynamodb(), table).await?;
            forwarders.push(aws.forward(table, stream));
        }
        Ok(Self { servers, aws, names, forwarders })
    }

    /// The streams without HTTP.
    pub(super) fn kinesis(&self) -> &Kinesis {
        self.aws.kinesis()
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
    pub(super) async fn read_back(&self, streams: &[String]) -> Result<Vec<ReadBack>, TrialError> {
        let mut each = Vec::new();
        for (table, stream) in self.names.iter().zip(streams) {
            let mut items = Table::default();
            let mut unreadable = None;
            let add = |item: &[u8]| unreadable = unreadable.take().or(items.add(item).err());
            scan(self.servers.dynamodb(), table, add).await?;
            if let Some(error) = unreadable {
                return Err(error.into());
            }
            each.push((self.puts(stream)?, Some(items)));
        }
        Ok(each)
    }

    fn puts(&self, stream: &str) -> Result<Puts, TrialError> {
        let mut puts = Puts::of(stream);
        let mut wrong = None;
        let mut data = Vec::new();
        let visited = self.kinesis().visit(stream, |shard, record| {
            data.clear();
            let decoded = base64_simd::STANDARD.decode_append(&record.data[..], &mut data);
            let Ok(_) = decoded else { unreachable!("the stream refuses what is not base64") };
            let put = Put::new(shard.as_str(), record.sequence_number.as_str(), &data, record.arrival_us);
            let added = put.and_then(|put| puts.add(shard.as_str(), put));
            wrong = wrong.take().or(added.err());
        });
        visited.map_err(|error| TrialError::server(format!("stream {stream}"), format!("{error:?}")))?;
        wrong.map_or(Ok(puts), |error| Err(error.into()))
    }
}
