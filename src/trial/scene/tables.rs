//! Tables whose changes are read by DynamoDB Streams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::servers::Servers;
use super::{Choose, Scene, TrialSource};
use crate::local::LocalError;
use crate::local::streams::Streams;
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table, scan};
use crate::produce::kinesis::Receipt;
use crate::trial::{Table, TrialError, numbered};

/// How often the streams are looked at for what became of the changes.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Some tables, each with its stream.
#[derive(Debug)]
pub(super) struct TableStreams {
    names: Vec<String>,
    dynamodb: Client,
    embedded: Streams,
    turns: AtomicU64,
    /// Of each table the shards that were looked at, and up to which position.
    told: Vec<Arc<Mutex<Told>>>,
}

type Told = HashMap<String, u64>;

impl TableStreams {
    /// So many tables with names of their own, on the embedded servers.
    ///
    /// # Errors
    /// Where there are none: the shards of others cannot be told to rotate.
    pub(super) fn new(servers: &Servers, name: &str, count: usize) -> Result<Self, TrialError> {
        let local =
            servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))?;
        Ok(Self {
            told: (0..count).map(|_| Arc::default()).collect(),
            names: numbered(name, count),
            dynamodb: servers.dynamodb().clone(),
            embedded: local.streams().clone(),
            turns: AtomicU64::new(0),
        })
    }

    /// The changes of a table that were not told yet, shard by shard.
    async fn untold(&self, stream: usize) -> Result<Vec<Receipt>, TrialError> {
        let (streams, table) = (self.embedded.clone(), self.names[stream].clone());
        let told = Arc::clone(&self.told[stream]);
        let looking = tokio::task::spawn_blocking(move || {
            let mut told = told.lock().expect("nothing panics under this lock");
            let before = told.clone();
            let mut changes = Vec::new();
            let after = |shard: &str| before.get(shard).copied().unwrap_or(0);
            let looked = streams.visit(&table, after, |shard, change| {
                told.insert(shard.to_owned(), change.position);
                changes.push(Receipt {
                    data: change.json.clone().into_bytes(),
                    // The embedded database numbers changes by the time, in microseconds.
                    sent_us: i64::try_from(change.position).unwrap_or(i64::MAX),
                    place: Some((shard.to_owned(), change.sequence_number.clone())),
                    sub: None,
                });
            });
            looked.map(|()| changes)
        });
        let looked = looking.await.map_err(|error| TrialError::server("DynamoDB Streams", error))?;
        Ok(looked.map_err(|error| LocalError::Database(error.into()))?)
    }
}

#[async_trait]
impl Scene for TableStreams {
    fn streams(&self) -> &[String] {
        &self.names
    }

    fn source(&self, _stream: usize) -> TrialSource {
        TrialSource::DynamodbStreams
    }

    /// How many shards their streams have is a setting of the embedded servers.
    async fn prepare(&self, _shards: u32) -> Result<(), TrialError> {
        for table in &self.names {
            create_table(&self.dynamodb, table).await?;
        }
        Ok(())
    }

    fn worker_arguments(&self) -> Vec<String> {
        let source = ["--source".to_owned(), "dynamodb-streams".to_owned()];
        let tables = self.names.iter().flat_map(|table| ["--table".to_owned(), table.clone()]);
        source.into_iter().chain(tables).collect()
    }

    /// A table does not say which record of its stream a change became: see [`Scene::tell`].
    fn puts(&self, stream: usize, _seed: u64, _receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        let writer = TableWriter::new(self.dynamodb.clone(), &self.names[stream]);
        Sink::Table(Arc::new(writer.with_oversized()))
    }

    async fn tell(
        &self,
        stream: usize,
        receipts: mpsc::Sender<Vec<Receipt>>,
        over: CancellationToken,
    ) -> Result<(), TrialError> {
        loop {
            let rest = over.is_cancelled();
            let changes = self.untold(stream).await?;
            // Nobody listens any more: whoever did will say why.
            if (!changes.is_empty() && receipts.send(changes).await.is_err()) || rest {
                return Ok(());
            }
            tokio::select! {
                () = over.cancelled() => {}
                () = sleep(TELL_EVERY) => {}
            }
        }
    }

    async fn table(&self, stream: usize) -> Result<Option<Table>, TrialError> {
        let mut items = Table::default();
        let mut unreadable = None;
        let add = |item: &[u8]| unreadable = unreadable.take().or(items.add(item).err());
        scan(&self.dynamodb, &self.names[stream], add).await?;
        unreadable.map_or(Ok(Some(items)), |error| Err(error.into()))
    }

    /// Shards are DynamoDB's own: they rotate, and every second time one splits.
    async fn disturb(&self, stream: usize, _choose: &mut Choose<'_>) -> Result<String, String> {
        let (streams, table) = (self.embedded.clone(), self.names[stream].clone());
        let splits = self.turns.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let changed =
            tokio::task::spawn_blocking(
                move || {
                    if splits { streams.split(&table) } else { streams.rotate(&table) }
                },
            );
        let family = changed.await.map_err(|error| error.to_string())?;
        let what = if splits { "split a shard" } else { "rotated shards" };
        match family.len() {
            0 => Err("there is no open shard".to_owned()),
            children => Ok(format!("{what} of {}: {children} children", self.names[stream])),
        }
    }

    fn forget_before(&self, oldest_us: i64) {
        for table in &self.names {
            self.embedded.forget_before(table, oldest_us);
        }
    }

    /// They go with the embedded servers.
    async fn strike(&self) {}
}
