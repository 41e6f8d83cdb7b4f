//! A table whose changes are read by DynamoDB Streams.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::changes::ChangedTable;
use super::servers::Servers;
use super::{Choose, TrialSource, TrialStream};
use crate::local::LocalError;
use crate::local::streams::Streams;
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::trial::{Table, TrialError};

/// The stream of a table.
pub(super) struct TableStream {
    table: ChangedTable,
    embedded: Streams,
    /// Whether the next disturbance is a split.
    splits: AtomicBool,
}

impl TableStream {
    /// On the embedded servers: the shards of others cannot be told to rotate. How many shards there are is a setting of
    /// these.
    pub(super) async fn make(servers: &Servers, name: &str) -> Result<Self, TrialError> {
        let (table, local) = ChangedTable::make(servers, name).await?;
        Ok(Self { table, embedded: local.streams().clone(), splits: AtomicBool::new(false) })
    }
}

#[async_trait]
impl TrialStream for TableStream {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn source(&self) -> TrialSource {
        TrialSource::DynamodbStreams
    }

    fn puts(&self, _seed: u64, _receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        self.table.puts()
    }

    async fn tell(
        &self,
        receipts: mpsc::Sender<Vec<Receipt>>,
        over: CancellationToken,
    ) -> Result<(), TrialError> {
        let (streams, table) = (self.embedded.clone(), self.table.name.clone());
        let look = move |after: &dyn Fn(&str) -> u64, take: &mut super::changes::Take<'_>| {
            let looked = streams.visit(&table, after, |shard, change| {
                let record = Receipt {
                    data: change.json.clone().into_bytes(),
                    // The embedded database numbers changes by the time, in microseconds.
                    sent_us: i64::try_from(change.position).unwrap_or(i64::MAX),
                    place: Some((shard.to_owned(), change.sequence_number.clone())),
                    sub: None,
                };
                take(change.position, record);
            });
            looked.map_err(|error| LocalError::Database(error.into()))
        };
        self.table.tell(look, std::future::ready(None), receipts, over).await
    }

    async fn table(&self) -> Result<Option<Table>, TrialError> {
        self.table.items().await.map(Some)
    }

    /// Shards are DynamoDB's own: they rotate, and every second time one splits.
    async fn disturb(&self, _choose: &mut Choose<'_>) -> Result<String, String> {
        let (streams, table) = (self.embedded.clone(), self.table.name.clone());
        let splits = self.splits.fetch_xor(true, Ordering::Relaxed);
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
            children => Ok(format!("{what} of {}: {children} children", self.table.name)),
        }
    }

    fn forget_before(&self, oldest_us: i64) {
        self.embedded.forget_before(&self.table.name, oldest_us);
    }
}
