//! A Kinesis stream as the target: `PutRecords` with the change records that a table would have produced.

use std::sync::Mutex;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::aggregate::{Aggregate, Group, PARTITION_KEY, ShardMap, group};
use super::records::{ChangeRecords, Made};
use super::retry::{first_answer, is_passing, is_throttle, pause, pauses};
use super::run::{ProduceError, Refusals, Written};
use crate::aws::{OfStream, StreamAddress, explain};
use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::generate::envelope;
use crate::generate::item::Change;
use crate::shard::ShardLister;
use crate::shard::kinesis::KinesisShardLister;

/// Records per `PutRecords` (API Reference).
pub(super) const BATCH_MAX: u16 = 500;

/// Bytes per `PutRecords`, with the partition keys: 5 MiB is the lowest limit that the API has had.
const BATCH_BYTES_MAX: usize = 5 * 1024 * 1024;

/// Writes change records into one stream.
#[derive(Debug)]
pub struct StreamWriter {
    client: Client,
    stream: StreamAddress,
    records: ChangeRecords,
    receipts: Option<mpsc::Sender<Vec<Receipt>>>,
    packed: Option<Packed>,
}

/// Records go into aggregates.
#[derive(Debug)]
struct Packed {
    /// So many in one at most.
    most: usize,
    /// The shards as they were when last looked at. `None`: they are to be looked at.
    shards: Mutex<Option<ShardMap>>,
}

/// What became of a record that was sent.
#[derive(Debug)]
pub struct Receipt {
    /// The payload.
    pub data: Vec<u8>,
    /// When it was sent, µs since the epoch.
    pub sent_us: i64,
    /// Its shard and sequence number. `None` when the put was not answered: it is in the stream or not, and is sent
    /// again as another record.
    pub place: Option<(String, String)>,
    /// Its index, where it was put in an aggregate.
    pub sub: Option<u32>,
}

/// A record of the stream.
#[derive(Clone, Debug)]
struct Record {
    partition_key: String,
    data: Vec<u8>,
    /// Where it packs others: what is in it, and the shard that is to take it with the first of its hash keys.
    parts: Vec<Vec<u8>>,
    shard: Option<(String, u128)>,
}

impl Record {
    fn receipts(self, sent_us: i64, place: Option<(String, String)>) -> Vec<Receipt> {
        if self.parts.is_empty() {
            return vec![Receipt { data: self.data, sent_us, place, sub: None }];
        }
        let parts = self.parts.into_iter().zip(0..);
        parts.map(|(data, sub)| Receipt { data, sent_us, place: place.clone(), sub: Some(sub) }).collect()
    }
}

impl StreamWriter {
    /// Writes records that look as if `table` had sent them. The seed decides the event ids.
    pub fn new(client: Client, stream: StreamAddress, table: envelope::Table, seed: u64) -> Self {
        let records = ChangeRecords::new(table, seed);
        Self { client, stream, records, receipts: None, packed: None }
    }

    /// Puts records into aggregates, up to so many in one, as the Kinesis Producer Library does.
    #[must_use]
    pub fn packed(self, most: Option<usize>) -> Self {
        let packed = most.map(|most| Packed { most, shards: Mutex::default() });
        Self { packed, ..self }
    }

    /// Tells what became of each record. For that to be all of the truth, the client must not try again by itself.
    #[must_use]
    pub fn with_receipts(self, receipts: mpsc::Sender<Vec<Receipt>>) -> Self {
        Self { receipts: Some(receipts), ..self }
    }

    /// Whether the stream is there.
    ///
    /// # Errors
    /// When it is missing or out of reach.
    pub async fn check(&self) -> Result<(), ProduceError> {
        let question = self.client.describe_stream_summary().of(&self.stream).send();
        let missing = format!("it does not exist; {}", self.stream.check());
        first_answer(question, &missing).await.map_err(|reason| self.failed(reason))
    }

    /// Writes changes of different keys.
    pub(super) async fn write(
        &self,
        batch: &[Change],
        cancel: &CancellationToken,
        refusals: &Refusals,
    ) -> Result<Written, ProduceError> {
        let mut written = Written::default();
        let made = self.records.made(batch);
        written.bytes = made.iter().map(|made| made.data.len() as u64).sum();
        let mut left = self.packed_or_alone(made).await?;
        let mut pauses_left = pauses();
        while !left.is_empty() {
            let rest = left.split_off(fitting(&left));
            let sent = left.len();
            let (refused, reason) = self.put(left).await?;
            if refused.len() < sent {
                pauses_left = pauses();
            }
            written.resent += refused.len() as u64;
            let all_accepted = refused.is_empty();
            left = refused;
            left.extend(rest);
            if all_accepted {
                continue;
            }
            refusals.tell(left.len(), &reason);
            let Some(length) = pauses_left.next() else { return Err(self.failed(reason)) };
            if !pause(length, cancel).await {
                written.given_up = true;
                break;
            }
        }
        Ok(written)
    }

    /// The records to put: each for itself, or packed.
    async fn packed_or_alone(&self, mut made: Vec<Made>) -> Result<Vec<Record>, ProduceError> {
        let alone =
            |Made { partition_key, data }| Record { partition_key, data, parts: Vec::new(), shard: None };
        let Some(packed) = &self.packed else { return Ok(made.into_iter().map(alone).collect()) };
        let known = packed.shards.lock().expect("nothing panics under this lock").clone();
        let shards = match known {
            Some(shards) => shards,
            None => {
                let listed = self.open_shards().await?;
                packed.shards.lock().expect("nothing panics under this lock").insert(listed).clone()
            }
        };
        let sizes = made.iter().map(|made| (made.partition_key.as_str(), made.data.len()));
        let groups = group(sizes, &shards, packed.most);
        let mut take = |index: usize| {
            let Made { partition_key, data } = &mut made[index];
            Made { partition_key: std::mem::take(partition_key), data: std::mem::take(data) }
        };
        let pack = |Group { records, shard }: Group| {
            if shard.is_none() {
                return alone(take(records[0]));
            }
            let (mut aggregate, mut parts) = (Aggregate::default(), Vec::with_capacity(records.len()));
            for index in records {
                let made = take(index);
                aggregate.push(&made.partition_key, &made.data);
                parts.push(made.data);
            }
            Record { partition_key: PARTITION_KEY.to_owned(), data: aggregate.finish(), parts, shard }
        };
        Ok(groups.into_iter().map(pack).collect())
    }

    /// The shards that take records now.
    async fn open_shards(&self) -> Result<ShardMap, ProduceError> {
        let lister = KinesisShardLister::new(self.client.clone(), self.stream.clone());
        let listed = lister.list().await.map_err(|error| self.failed(chain(&error)))?;
        let open = listed.into_iter().filter(|shard| !shard.closed);
        let open = open.filter_map(|shard| {
            let range = shard.hash_range?;
            Some((shard.id.as_str().to_owned(), range.start, range.end))
        });
        Ok(ShardMap::new(open.collect()))
    }

    /// One call. Gives back the records that were refused and why.
    async fn put(&self, records: Vec<Record>) -> Result<(Vec<Record>, String), ProduceError> {
        let entries = records.iter().map(|record| {
            PutRecordsRequestEntry::builder()
                .partition_key(&record.partition_key)
                .set_explicit_hash_key(record.shard.as_ref().map(|(_, first)| first.to_string()))
                .data(Blob::new(record.data.as_slice()))
                .build()
                .expect("data and partition key are set")
        });
        let call = self.client.put_records().of(&self.stream).set_records(Some(entries.collect()));
        let sent_us = wall_clock_us();
        let reply = match call.send().await {
            Ok(reply) => reply,
            Err(error) if is_passing(&error) => {
                if !is_throttle(&error) {
                    let unclear = |record: &Record| record.clone().receipts(sent_us, None);
                    self.tell(|| records.iter().flat_map(unclear).collect()).await;
                }
                return Ok((records, explain(&error)));
            }
            Err(error) => return Err(self.failed(explain(&error))),
        };
        if reply.records.len() != records.len() {
            return Err(self.failed("the response does not have one result per record".to_owned()));
        }
        let (mut refused, mut accepted, mut reason) = (Vec::new(), Vec::new(), String::new());
        for (record, result) in records.into_iter().zip(reply.records) {
            match result.error_code {
                Some(code) => {
                    reason = code;
                    refused.push(record);
                }
                None => {
                    self.look_again_where_other(&record, result.shard_id.as_deref());
                    if self.receipts.is_some() {
                        let place = result.shard_id.zip(result.sequence_number);
                        accepted.extend(record.receipts(sent_us, place));
                    }
                }
            }
        }
        self.tell(|| accepted).await;
        Ok((refused, reason))
    }

    /// An aggregate went to another shard than it was made for: the stream was resharded.
    fn look_again_where_other(&self, record: &Record, shard: Option<&str>) {
        if let (Some(packed), Some((expected, _))) = (&self.packed, &record.shard)
            && shard != Some(expected)
        {
            *packed.shards.lock().expect("nothing panics under this lock") = None;
        }
    }

    async fn tell(&self, receipts: impl FnOnce() -> Vec<Receipt>) {
        if let Some(sender) = &self.receipts {
            // Whoever does not listen any more does not want to know.
            let _ = sender.send(receipts()).await;
        }
    }

    fn failed(&self, reason: String) -> ProduceError {
        ProduceError::Write { target: format!("stream {}", self.stream), reason }
    }
}

/// How many records, from the first, go into one call.
fn fitting(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.partition_key.len() + record.data.len();
        bytes <= BATCH_BYTES_MAX
    };
    // A single record over the limit goes alone, and the service says what it thinks of it.
    records.iter().take(BATCH_MAX.into()).take_while(fits).count().max(1)
}

#[cfg(test)]
#[path = "kinesis_tests.rs"]
mod tests;
