//! What the workers read, without the network: how much there is, and what it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::local::LocalError;
use crate::local::kinesis::Kinesis;
use crate::local::streams::Streams;
use crate::produce::kinesis::Receipt;
use crate::shard::{Checkpoint, SequenceNumber, ShardId};
use crate::trial::{Put, Puts, TrialError, VerifyError};

/// The streams of the demo.
pub(super) enum Feed {
    /// Of Kinesis.
    Kinesis(Kinesis),
    /// Of tables.
    Tables(TableFeed),
    /// Of Kafka, by what was answered to who produced: the topics are somebody else's.
    Topics(Told),
}

/// What became of records that were produced.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<BTreeMap<String, ToldOf>>>);

/// Of one topic.
#[derive(Debug, Default)]
struct ToldOf {
    /// Of each partition the offsets, and when the records were sent.
    shards: BTreeMap<String, BTreeMap<u128, i64>>,
    puts: Puts,
    wrong: Option<VerifyError>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ToldOf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is told of a topic, until nobody tells more.
    pub(super) async fn hear(self, topic: String, mut receipts: mpsc::Receiver<Vec<Receipt>>) {
        while let Some(told) = receipts.recv().await {
            let mut all = self.lock();
            let of = all
                .entry(topic.clone())
                .or_insert_with(|| ToldOf { puts: Puts::of(&topic), ..ToldOf::default() });
            for receipt in told {
                let Some((shard, offset)) = receipt.place else { continue };
                let put = Put::new(&shard, &offset, &receipt.data, receipt.sent_us);
                let added = put.and_then(|put| of.puts.add(&shard, put));
                of.wrong = of.wrong.take().or(added.err());
                let offset = offset.parse().unwrap_or(u128::MAX);
                of.shards.entry(shard).or_default().insert(offset, receipt.sent_us);
            }
        }
    }
}

/// Changes of tables, as far as they were looked at.
pub(super) struct TableFeed {
    streams: Streams,
    seen: BTreeMap<String, Shards>,
}

/// Of each shard of a table: sequence number and time of its changes, and the position of the last one.
type Shards = BTreeMap<String, (Vec<(SequenceNumber, i64)>, u64)>;

impl Feed {
    /// The changes of tables.
    pub(super) fn of_tables(streams: Streams) -> Self {
        Self::Tables(TableFeed { streams, seen: BTreeMap::new() })
    }

    /// The shards of a stream, each with how many records it has.
    ///
    /// # Errors
    /// When the database refuses.
    pub(super) fn shards(&mut self, stream: &str) -> Result<Vec<(ShardId, u64)>, LocalError> {
        match self {
            Self::Kinesis(kinesis) => Ok(kinesis.shards(stream).unwrap_or_default()),
            Self::Tables(tables) => tables.shards(stream),
            Self::Topics(told) => {
                let told = told.lock();
                let shards = told.get(stream).into_iter().flat_map(|of| &of.shards);
                Ok(shards.map(|(shard, put)| (ShardId::new(shard.as_str()), put.len() as u64)).collect())
            }
        }
    }

    /// Records of a shard that a checkpoint covers, and when the first other one came.
    pub(super) fn up_to(&self, stream: &str, shard: &ShardId, checkpoint: &Checkpoint) -> (u64, Option<i64>) {
        match self {
            Self::Kinesis(kinesis) => {
                let delivered = match checkpoint {
                    Checkpoint::At(at) => kinesis.count_up_to(stream, shard, &at.sequence).unwrap_or(0),
                    _ => 0,
                };
                (delivered, kinesis.oldest_above(stream, shard, checkpoint).ok().flatten())
            }
            Self::Tables(tables) => {
                let shards = tables.seen.get(stream);
                let Some((changes, _)) = shards.and_then(|shards| shards.get(shard.as_str())) else {
                    return (0, None);
                };
                let done = match checkpoint {
                    Checkpoint::At(at) => changes.partition_point(|(number, _)| *number <= at.sequence),
                    _ => 0,
                };
                (done as u64, changes.get(done).map(|(_, created_us)| *created_us))
            }
            Self::Topics(told) => {
                let told = told.lock();
                let Some(put) = told.get(stream).and_then(|of| of.shards.get(shard.as_str())) else {
                    return (0, None);
                };
                let next = match checkpoint {
                    Checkpoint::At(at) => at.sequence.as_str().parse::<u128>().map_or(0, |at| at + 1),
                    _ => 0,
                };
                (put.range(..next).count() as u64, put.range(next..).next().map(|(_, sent_us)| *sent_us))
            }
        }
    }

    /// Every record of a stream.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn puts(&self, stream: &str) -> Result<Puts, TrialError> {
        let mut puts = Puts::of(stream);
        let mut wrong = None;
        let mut add = |shard: &str, number: &str, data: &[u8], arrival_us: i64| {
            let put = Put::new(shard, number, data, arrival_us);
            let added = put.and_then(|put| puts.add(shard, put));
            wrong = wrong.take().or(added.err());
        };
        match self {
            Self::Kinesis(kinesis) => {
                let mut data = Vec::new();
                let visited = kinesis.visit(stream, |shard, record| {
                    data.clear();
                    let decoded = base64_simd::STANDARD.decode_append(&record.data[..], &mut data);
                    let Ok(_) = decoded else { unreachable!("the stream refuses what is not base64") };
                    add(shard.as_str(), record.sequence_number.as_str(), &data, record.arrival_us);
                });
                visited
                    .map_err(|error| TrialError::server(format!("stream {stream}"), format!("{error:?}")))?;
            }
            Self::Tables(TableFeed { streams, .. }) => {
                let visited = streams.visit(
                    stream,
                    |_| 0,
                    |shard, change| {
                        let created_us = change.created_s * 1_000_000;
                        add(shard, &change.sequence_number, change.json.as_bytes(), created_us);
                    },
                );
                visited.map_err(|error| LocalError::Database(error.into()))?;
            }
            Self::Topics(told) => {
                let Some(of) = told.lock().remove(stream) else { return Ok(puts) };
                return of.wrong.map_or(Ok(of.puts), |error| Err(error.into()));
            }
        }
        wrong.map_or(Ok(puts), |error| Err(error.into()))
    }
}

impl TableFeed {
    fn shards(&mut self, table: &str) -> Result<Vec<(ShardId, u64)>, LocalError> {
        let shards = self.seen.entry(table.to_owned()).or_default();
        let before: BTreeMap<String, u64> =
            shards.iter().map(|(shard, (_, last))| (shard.clone(), *last)).collect();
        let last = |shard: &str| before.get(shard).copied().unwrap_or(0);
        let visited = self.streams.visit(table, last, |shard, change| {
            let (changes, last) = shards.entry(shard.to_owned()).or_default();
            if let Some(number) = SequenceNumber::parse(&change.sequence_number) {
                changes.push((number, i64::try_from(change.position).unwrap_or(i64::MAX)));
                *last = change.position;
            }
        });
        visited.map_err(|error| LocalError::Database(error.into()))?;
        Ok(shards
            .iter()
            .map(|(shard, (changes, _))| (ShardId::new(shard.as_str()), changes.len() as u64))
            .collect())
    }
}
