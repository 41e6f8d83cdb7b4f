//! A Kinesis stream as the target: `PutRecords` with the change records that a table would have produced.

use std::sync::Mutex;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::retry::{first_answer, is_passing, is_throttle, pause, pauses};
use super::run::{ProduceError, Refusals, Written};
use crate::aws::{OfStream, StreamAddress, explain};
use crate::clock::wall_clock_us;
use crate::generate::envelope;
use crate::generate::item::Change;

/// Records per `PutRecords` (API Reference).
pub(super) const BATCH_MAX: u16 = 500;

/// Bytes per `PutRecords`, with the partition keys: 5 MiB is the lowest limit that the API has had.
const BATCH_BYTES_MAX: usize = 5 * 1024 * 1024;

/// Writes change records into one stream.
#[derive(Debug)]
pub struct StreamWriter {
    client: Client,
    stream: StreamAddress,
    table: envelope::Table,
    stamps: Mutex<Stamps>,
    receipts: Option<mpsc::Sender<Vec<Receipt>>>,
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
}

/// What makes each record different from all others.
#[derive(Debug)]
struct Stamps {
    event_ids: ChaCha8Rng,
    last_created_us: i64,
}

#[derive(Debug)]
struct Record {
    partition_key: String,
    data: Vec<u8>,
}

impl StreamWriter {
    /// Writes records that look as if `table` had sent them. The seed decides the event ids.
    pub fn new(client: Client, stream: StreamAddress, table: envelope::Table, seed: u64) -> Self {
        let stamps = Stamps { event_ids: ChaCha8Rng::seed_from_u64(seed), last_created_us: 0 };
        Self { client, stream, table, stamps: Mutex::new(stamps), receipts: None }
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
        let mut left = self.records(batch);
        written.bytes = left.iter().map(|record| record.data.len() as u64).sum();
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

    /// The records of these changes, created now, one microsecond apart at least: the creation time is what a
    /// consumer orders the changes of a key by.
    fn records(&self, batch: &[Change]) -> Vec<Record> {
        let mut stamps = self.stamps.lock().expect("nothing panics under this lock");
        let make = |change: &Change| {
            let event_id = uuid::Builder::from_random_bytes(stamps.event_ids.random()).into_uuid();
            stamps.last_created_us = wall_clock_us().max(stamps.last_created_us + 1);
            let mut data = Vec::with_capacity(1024);
            envelope::write(&self.table, change, &event_id, stamps.last_created_us, &mut data);
            Record { partition_key: envelope::partition_key(change.key.as_bytes()), data }
        };
        batch.iter().map(make).collect()
    }

    /// One call. Gives back the records that were refused and why.
    async fn put(&self, records: Vec<Record>) -> Result<(Vec<Record>, String), ProduceError> {
        let entries = records.iter().map(|record| {
            PutRecordsRequestEntry::builder()
                .partition_key(&record.partition_key)
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
                    let unclear =
                        |record: &Record| Receipt { data: record.data.clone(), sent_us, place: None };
                    self.tell(|| records.iter().map(unclear).collect()).await;
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
                None if self.receipts.is_some() => {
                    let place = result.shard_id.zip(result.sequence_number);
                    accepted.push(Receipt { data: record.data, sent_us, place });
                }
                None => {}
            }
        }
        self.tell(|| accepted).await;
        Ok((refused, reason))
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
