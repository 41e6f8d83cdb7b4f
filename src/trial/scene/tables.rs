//! Tables whose changes are read by DynamoDB Streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use tokio::sync::mpsc;

use super::servers::Servers;
use super::{Choose, Scene};
use crate::local::streams::Streams;
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table};
use crate::produce::kinesis::Receipt;
use crate::trial::{TrialError, numbered};

/// Some tables, each with its stream.
#[derive(Debug)]
pub struct TableStreams {
    names: Vec<String>,
    dynamodb: Client,
    embedded: Streams,
    turns: AtomicU64,
}

impl TableStreams {
    /// So many tables with names of their own, on the embedded servers.
    ///
    /// # Errors
    /// Where there are none: the shards of others cannot be told to rotate.
    pub fn new(servers: &Servers, name: &str, count: usize) -> Result<Self, TrialError> {
        let local =
            servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))?;
        Ok(Self {
            names: numbered(name, count),
            dynamodb: servers.dynamodb().clone(),
            embedded: local.streams().clone(),
            turns: AtomicU64::new(0),
        })
    }
}

#[async_trait]
impl Scene for TableStreams {
    fn streams(&self) -> &[String] {
        &self.names
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

    /// A table does not say which record of its stream a change became: there are no receipts.
    fn puts(&self, stream: usize, _seed: u64, _receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        Sink::Table(Arc::new(TableWriter::new(self.dynamodb.clone(), &self.names[stream])))
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
