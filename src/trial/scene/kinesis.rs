//! Streams of Kinesis.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::servers::Servers;
use super::{Choose, Reshard, Scene, TrialSource};
use crate::aws::{StreamAddress, explain};
use crate::generate::envelope;
use crate::local::kinesis::Kinesis;
use crate::produce::Sink;
use crate::produce::kinesis::{Receipt, StreamWriter};
use crate::shard::kinesis::KinesisShardLister;
use crate::shard::{ShardId, ShardLister};
use crate::terminal::say;
use crate::trial::{TrialError, numbered};

/// A stream that is made or changed is ready within this time.
const READY: Duration = Duration::from_secs(120);

/// Some streams, whose shards have equal ids.
#[derive(Debug)]
pub(super) struct KinesisStreams {
    names: Vec<String>,
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
}

impl KinesisStreams {
    /// So many streams with names of their own.
    ///
    /// # Errors
    /// Where nobody says which region it is.
    pub(super) fn new(
        servers: &Servers,
        name: &str,
        count: usize,
        source: TrialSource,
    ) -> Result<Self, TrialError> {
        let sdk = &servers.for_kinesis;
        let region = sdk.region().map(ToString::to_string);
        let region =
            region.ok_or_else(|| TrialError::Wish("no AWS region: set --region or AWS_REGION".to_owned()))?;
        let timeouts = sdk.timeout_config().cloned().unwrap_or_else(|| TimeoutConfig::builder().build());
        let once = aws_sdk_kinesis::config::Builder::from(sdk)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        Ok(Self {
            names: numbered(name, count),
            patient: Client::new(sdk),
            once: Client::from_conf(once.build()),
            region,
            embedded: servers.embedded_kinesis().cloned(),
            source,
            packed: None,
        })
    }

    /// What is put goes into aggregates, up to so many records in one.
    #[must_use]
    pub(super) fn packed(self, most: Option<usize>) -> Self {
        Self { packed: most, ..self }
    }

    /// Waits until a stream is active.
    async fn ready(&self, stream: &str) -> Result<(), TrialError> {
        let started = Instant::now();
        loop {
            let asked = self.patient.describe_stream_summary().stream_name(stream).send().await;
            let status = asked
                .map_err(|error| refused(stream, explain(&error)))?
                .stream_description_summary
                .map(|summary| summary.stream_status);
            if status == Some(StreamStatus::Active) {
                return Ok(());
            }
            if started.elapsed() > READY {
                return Err(refused(stream, format!("not ACTIVE within {} s", READY.as_secs())));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

#[async_trait]
impl Scene for KinesisStreams {
    fn streams(&self) -> &[String] {
        &self.names
    }

    fn source(&self, _stream: usize) -> TrialSource {
        self.source
    }

    async fn prepare(&self, shards: u32) -> Result<(), TrialError> {
        let shards = i32::try_from(shards).unwrap_or(i32::MAX);
        for stream in &self.names {
            let made = self.patient.create_stream().stream_name(stream).shard_count(shards).send().await;
            made.map_err(|error| refused(stream, explain(&error)))?;
            self.ready(stream).await?;
        }
        Ok(())
    }

    fn worker_arguments(&self) -> Vec<String> {
        let named = self.names.iter().flat_map(|stream| ["--stream", stream]);
        let retrieval = self.source.retrieval().into_iter().flat_map(|by| ["--retrieval", by]);
        named.chain(retrieval).map(str::to_owned).collect()
    }

    fn puts(&self, stream: usize, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        let table = envelope::Table { name: "CryptoTransactions".to_owned(), region: self.region.clone() };
        let address = StreamAddress::named(&self.names[stream]);
        let writer = StreamWriter::new(self.once.clone(), address, table, seed).packed(self.packed);
        Sink::Stream(Arc::new(writer.with_receipts(receipts)))
    }

    /// A stream that is still changing says no.
    async fn disturb(&self, stream: usize, choose: &mut Choose<'_>) -> Result<String, String> {
        let name = &self.names[stream];
        let listing = KinesisShardLister::new(self.once.clone(), StreamAddress::named(name)).list().await;
        let listing = listing.map_err(|error| error.to_string())?;
        let Some(reshard) = choose(&listing) else {
            return Err("there is no open shard".into());
        };
        let done = match reshard {
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
        };
        Ok(if self.names.len() > 1 { format!("{done} of {name}") } else { done })
    }

    fn forget_before(&self, oldest_us: i64) {
        let Some(kinesis) = &self.embedded else { return };
        for stream in &self.names {
            if let Err(error) = kinesis.forget_before(stream, oldest_us) {
                tracing::debug!(?error, "the stream is not there");
            }
        }
    }

    async fn strike(&self) {
        for stream in self.names.iter().filter(|_| self.embedded.is_none()) {
            let done = self.patient.delete_stream().stream_name(stream).enforce_consumer_deletion(true);
            if let Err(error) = done.send().await {
                say(format!("the stream {stream} could not be deleted: {}", explain(&error)));
            }
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
