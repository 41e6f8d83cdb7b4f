//! A stream of Kinesis, with a table in front of it where a play wants one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::changes::{ChangedTable, Take};
use super::servers::Servers;
use super::{Choose, Reshard, TrialSource, TrialStream, Wanted};
use crate::aws::{StreamAddress, explain};
use crate::generate::envelope;
use crate::local::kinesis::Kinesis;
use crate::local::{Forwarder, LocalError};
use crate::produce::Sink;
use crate::produce::kinesis::{Receipt, StreamWriter};
use crate::shard::kinesis::KinesisShardLister;
use crate::shard::{ShardId, ShardLister};
use crate::terminal::say;
use crate::trial::{Table, TrialError};

/// A stream that is made or changed is ready within this time.
const READY: Duration = Duration::from_secs(120);

/// One stream.
pub(super) struct KinesisStream {
    name: String,
    /// Tries again by itself.
    patient: Client,
    /// Does not: such a client would put records twice without telling.
    once: Client,
    /// As the records name it.
    region: String,
    embedded: Option<Kinesis>,
    source: TrialSource,
    /// Records go into aggregates, so many in one at most.
    packed: Option<usize>,
    front: Option<Front>,
}

/// A table whose changes are forwarded to the stream, and the stream without HTTP.
struct Front {
    table: ChangedTable,
    forwarder: Forwarder,
    kinesis: Kinesis,
}

impl KinesisStream {
    /// Makes one, and in front of it the table, where there is to be one.
    pub(super) async fn make(
        servers: &Servers,
        name: String,
        source: TrialSource,
        table: Option<&str>,
        wanted: Wanted<'_>,
    ) -> Result<Self, TrialError> {
        let sdk = &servers.for_kinesis;
        let region = sdk.region().map(ToString::to_string);
        let region =
            region.ok_or_else(|| TrialError::Wish("no AWS region: set --region or AWS_REGION".to_owned()))?;
        let timeouts = sdk.timeout_config().cloned().unwrap_or_else(|| TimeoutConfig::builder().build());
        let once = aws_sdk_kinesis::config::Builder::from(sdk)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        let mut stream = Self {
            name,
            patient: Client::new(sdk),
            once: Client::from_conf(once.build()),
            region,
            embedded: servers.embedded_kinesis().cloned(),
            source,
            packed: wanted.packed,
            front: None,
        };
        let (name, shards) = (&stream.name, i32::try_from(wanted.shards).unwrap_or(i32::MAX));
        let made = stream.patient.create_stream().stream_name(name).shard_count(shards).send().await;
        made.map_err(|error| refused(name, explain(&error)))?;
        stream.ready().await?;
        if let Some(table) = table {
            let (table, local) = ChangedTable::make(servers, table).await?;
            let forwarder = local.forward(&table.name, &stream.name);
            stream.front = Some(Front { table, forwarder, kinesis: local.kinesis().clone() });
        }
        Ok(stream)
    }

    /// Waits until it is active.
    async fn ready(&self) -> Result<(), TrialError> {
        let started = Instant::now();
        loop {
            let asked = self.patient.describe_stream_summary().stream_name(&self.name).send().await;
            let status = asked
                .map_err(|error| refused(&self.name, explain(&error)))?
                .stream_description_summary
                .map(|summary| summary.stream_status);
            if status == Some(StreamStatus::Active) {
                return Ok(());
            }
            if started.elapsed() > READY {
                return Err(refused(&self.name, format!("not ACTIVE within {} s", READY.as_secs())));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

#[async_trait]
impl TrialStream for KinesisStream {
    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> TrialSource {
        self.source
    }

    fn puts(&self, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        if let Some(front) = &self.front {
            return front.table.puts();
        }
        let table = envelope::Table { name: "CryptoTransactions".to_owned(), region: self.region.clone() };
        let address = StreamAddress::named(&self.name);
        let writer = StreamWriter::new(self.once.clone(), address, table, seed).packed(self.packed);
        Sink::Stream(Arc::new(writer.with_receipts(receipts)))
    }

    async fn tell(
        &self,
        receipts: mpsc::Sender<Vec<Receipt>>,
        over: CancellationToken,
    ) -> Result<(), TrialError> {
        let Some(Front { table, forwarder, kinesis }) = &self.front else { return Ok(()) };
        let (kinesis, stream) = (kinesis.clone(), self.name.clone());
        let look = move |after: &dyn Fn(&str) -> u64, take: &mut Take<'_>| {
            let looked = kinesis.visit(
                &stream,
                |shard| after(shard.as_str()),
                |shard, record| {
                    let data = base64_simd::STANDARD.decode_to_vec(&record.data[..]);
                    let told = Receipt {
                        data: data.expect("the stream refuses what is not base64"),
                        sent_us: record.arrival_us,
                        place: Some((shard.as_str().to_owned(), record.sequence_number.as_str().to_owned())),
                        sub: None,
                    };
                    take(record.number, told);
                },
            );
            looked.map_err(|error| LocalError::Database(format!("stream {stream}: {error:?}").into()))
        };
        let forwarded = async {
            forwarder.drained().await;
            Some(forwarder.records())
        };
        table.tell(look, forwarded, receipts, over).await
    }

    async fn table(&self) -> Result<Option<Table>, TrialError> {
        let Some(front) = &self.front else { return Ok(None) };
        front.table.items().await.map(Some)
    }

    /// A stream that is still changing says no.
    async fn disturb(&self, choose: &mut Choose<'_>) -> Result<String, String> {
        let name = &self.name;
        let listing = KinesisShardLister::new(self.once.clone(), StreamAddress::named(name)).list().await;
        let listing = listing.map_err(|error| error.to_string())?;
        let Some(reshard) = choose(&listing) else {
            return Err("there is no open shard".into());
        };
        Ok(match reshard {
            Reshard::Split(shard, key) => {
                let call = self.once.split_shard().stream_name(name).shard_to_split(shard.as_str());
                let done = call.new_starting_hash_key(key.to_string()).send().await;
                done.map_err(|error| explain(&error))?;
                format!("split {}", short(&shard))
            }
            Reshard::Merge(low, high) => {
                let call = self.once.merge_shards().stream_name(name).shard_to_merge(low.as_str());
                let done = call.adjacent_shard_to_merge(high.as_str()).send().await;
                done.map_err(|error| explain(&error))?;
                format!("merged {} and {}", short(&low), short(&high))
            }
            Reshard::Count(count) => {
                let call = self.once.update_shard_count().stream_name(name);
                let target = i32::try_from(count).unwrap_or(i32::MAX);
                let call = call.target_shard_count(target).scaling_type(ScalingType::UniformScaling);
                call.send().await.map_err(|error| explain(&error))?;
                format!("changed to {count} shards")
            }
        })
    }

    fn forget_before(&self, oldest_us: i64) {
        let Some(kinesis) = &self.embedded else { return };
        if let Err(error) = kinesis.forget_before(&self.name, oldest_us) {
            tracing::debug!(?error, "the stream is not there");
        }
    }

    async fn strike(&self) {
        if self.embedded.is_some() {
            return;
        }
        let done = self.patient.delete_stream().stream_name(&self.name).enforce_consumer_deletion(true);
        if let Err(error) = done.send().await {
            say(format!("the stream {} could not be deleted: {}", self.name, explain(&error)));
        }
    }
}

fn refused(stream: &str, problem: String) -> TrialError {
    TrialError::server(format!("stream {stream}"), problem)
}

/// The number of a shard, as people call it: `shardId-000000000007` is 7.
fn short(shard: &ShardId) -> &str {
    let digits = shard.as_str().trim_start_matches("shardId-").trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}
