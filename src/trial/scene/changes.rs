//! A table whose changes are the records of a stream, and what the stream says of them: a table does not say which record a
//! change became.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use dynoxide::Database;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::servers::Servers;
use crate::local::{LocalAws, LocalError};
use crate::produce::Sink;
use crate::produce::dynamodb::{TableWriter, create_table, scan};
use crate::produce::kinesis::Receipt;
use crate::shutdown::joined;
use crate::trial::{Table, TrialError};

/// How often a stream is looked at for what became of the changes.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A table on the embedded servers, and how far its stream was told.
pub(super) struct ChangedTable {
    pub(super) name: String,
    client: Client,
    database: Database,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    /// Of each shard that was looked at the place of its last record.
    places: HashMap<String, u64>,
    records: u64,
}

/// Takes a record of a stream: its place in its shard, from which the next look goes on, and what is told of it.
pub(super) type Take<'a> = dyn FnMut(u64, Receipt) + 'a;

impl ChangedTable {
    /// Makes one, on servers that a play can look into.
    pub(super) async fn make<'a>(
        servers: &'a Servers,
        name: &str,
    ) -> Result<(Self, &'a LocalAws), TrialError> {
        let local =
            servers.local().ok_or_else(|| TrialError::server("tables", "only on embedded servers"))?;
        create_table(servers.dynamodb(), name).await?;
        let (client, database) = (servers.dynamodb().clone(), local.database().clone());
        Ok((Self { name: name.to_owned(), client, database, told: Arc::default() }, local))
    }

    /// A way into it.
    pub(super) fn puts(&self) -> Sink {
        Sink::Table(Arc::new(TableWriter::new(self.client.clone(), &self.name).with_oversized()))
    }

    /// What it holds now.
    pub(super) async fn items(&self) -> Result<Table, TrialError> {
        let mut items = Table::default();
        let mut unreadable = None;
        let add = |item: &[u8]| unreadable = unreadable.take().or(items.add(item).err());
        scan(&self.client, &self.name, add).await?;
        unreadable.map_or(Ok(items), |error| Err(error.into()))
    }

    /// Tells what is new in the stream, which `look` reads after the places that it is given, until `over`; and then the
    /// rest, when all changes are in the stream. `all_in_stream` waits for that, and answers how many records they are,
    /// where somebody counted: a stream that shows fewer, to workers too, is found out.
    pub(super) async fn tell(
        &self,
        look: impl Fn(&dyn Fn(&str) -> u64, &mut Take<'_>) -> Result<(), LocalError> + Clone + Send + 'static,
        all_in_stream: impl Future<Output = Option<u64>> + Send,
        receipts: mpsc::Sender<Vec<Receipt>>,
        over: CancellationToken,
    ) -> Result<(), TrialError> {
        // Where nobody listens any more, whoever did will say why.
        let tell = async || -> Result<(), TrialError> {
            let _ = receipts.send(self.untold(look.clone()).await?).await;
            Ok(())
        };
        loop {
            tell().await?;
            tokio::select! {
                () = over.cancelled() => break,
                () = sleep(TELL_EVERY) => {}
            }
        }
        // TTL deletes are changes too: the last of them are made now.
        loop {
            let database = self.database.clone();
            let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
            if joined(swept).await.map_err(|error| LocalError::Database(error.into()))? == 0 {
                break;
            }
        }
        let put = all_in_stream.await;
        tell().await?;
        let shown = self.told.lock().expect("nothing panics under this lock").records;
        match put.filter(|put| *put != shown) {
            Some(put) => Err(TrialError::server(
                format!("stream of table {}", self.name),
                format!("{put} records were put into it, and it shows {shown}: report this as a bug"),
            )),
            None => Ok(()),
        }
    }

    /// The records that were not told yet, shard by shard.
    async fn untold(
        &self,
        look: impl Fn(&dyn Fn(&str) -> u64, &mut Take<'_>) -> Result<(), LocalError> + Send + 'static,
    ) -> Result<Vec<Receipt>, LocalError> {
        let told = Arc::clone(&self.told);
        let looked = tokio::task::spawn_blocking(move || {
            let mut told = told.lock().expect("nothing panics under this lock");
            let mut records = Vec::new();
            let before = told.places.clone();
            look(&|shard| before.get(shard).copied().unwrap_or(0), &mut |at, record| {
                if let Some((shard, _)) = &record.place {
                    told.places.insert(shard.clone(), at);
                }
                records.push(record);
            })?;
            told.records += records.len() as u64;
            Ok(records)
        });
        joined(looked.await).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalSettings;
    use crate::trial::scene::{Scene, TrialSource, Wanted};
    use crate::trial::workers::WorkerEndpoints;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_that_shows_something_else_than_was_put_is_found_out() {
        let embedded = WorkerEndpoints::default();
        let servers = Servers::start(LocalSettings::default(), &embedded, None).await.unwrap();
        let wanted = Wanted {
            application: "readers",
            name: "stream",
            sources: &[TrialSource::Kinesis],
            count: 1,
            shards: 1,
            packed: None,
            tables: Some("table"),
            kafka: None,
        };
        let scene = Scene::set(servers, wanted).await.unwrap();
        let (receipts, mut told) = mpsc::channel(16);
        let over = CancellationToken::new();
        over.cancel();
        let tell = || scene.streams[0].tell(receipts.clone(), over.clone());
        tell().await.unwrap();
        scene.servers.embedded_kinesis().unwrap().put("stream", "k", b"x").unwrap();
        let error = tell().await.unwrap_err().to_string();
        assert!(error.contains("0 records were put into it, and it shows 1"), "{error}");
        drop(receipts);
        let mut all = Vec::new();
        while let Some(some) = told.recv().await {
            all.extend(some.into_iter().map(|receipt| receipt.data));
        }
        assert_eq!(all, [b"x"], "what was told once is not told again");
        scene.strike().await;
    }
}
