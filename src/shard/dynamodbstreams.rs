//! Lists the shards of a table's change streams (DynamoDB Streams).
//!
//! Owns: which streams a table has, what their shards descend from, which of them take no more records.
//! Does not own: how records are read (`fetch::dynamodbstreams`).
//!
//! A table has one stream that is on. One that was turned off can be read for 24 hours; turned on again it is another
//! stream, with shards of its own. So whoever reads a table reads all of its streams, each to its end: nothing is lost
//! between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use async_trait::async_trait;
use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{
    self, ShardFilter, ShardFilterType, ShardIteratorType, StreamDescription, StreamStatus,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{ChildShard, Lineage, ListError, SequenceNumber, Shard, ShardId, ShardLister, StreamId};
use crate::aws::{TableAddress, TableArn, explain};

/// Streams and shards per call, the most that the service allows.
const PAGE_MAX: i32 = 100;

/// Which streams of a table are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that can be read, those included that are turned on later.
    All,
    /// The one that is the newest when it is first asked for: leases of several streams name it.
    Newest,
}

/// The streams of one table.
#[derive(Debug)]
pub struct TableStreams {
    client: Client,
    table: TableAddress,
    which: Which,
    newest: OnceLock<TableArn>,
    known: Mutex<Known>,
}

/// What listings have told so far.
#[derive(Debug, Default)]
struct Known {
    /// The stream of each shard.
    of: BTreeMap<ShardId, Arc<str>>,
    /// Streams that were told of, and whether they were on.
    told: BTreeMap<Arc<str>, bool>,
    /// The newest stream was off when it was last described.
    off: bool,
}

impl TableStreams {
    /// Of this table, or the one stream that the address names.
    pub fn new(client: Client, table: TableAddress, which: Which) -> Self {
        Self { client, table, which, newest: OnceLock::new(), known: Mutex::default() }
    }

    /// Who asks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The streams that are read, the oldest first. There is one at least.
    ///
    /// # Errors
    /// [`ListError::NotFound`] when the table has none.
    pub async fn arns(&self) -> Result<Vec<TableArn>, ListError> {
        if let Some(arn) = self.table.arn().filter(|arn| arn.label().is_some()).or(self.newest.get()) {
            return Ok(vec![arn.clone()]);
        }
        let mut arns: Vec<TableArn> = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let call = self.client.list_streams().table_name(self.table.name()).limit(PAGE_MAX);
            let call = call.set_exclusive_start_stream_arn(next.take());
            let page = call.send().await.map_err(|error| self.failed(&error))?;
            for stream in page.streams() {
                let arn = stream.stream_arn().unwrap_or_default();
                arns.push(
                    arn.parse().map_err(|problem| self.unavailable(format!("stream {arn}: {problem}")))?,
                );
            }
            next = page.last_evaluated_stream_arn().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        // Labels are times, the newest of which is on.
        arns.sort_by(|a, b| a.label().cmp(&b.label()));
        let Some(newest) = arns.last() else { return Err(self.not_found()) };
        Ok(match self.which {
            Which::All => arns,
            Which::Newest => vec![self.newest.get_or_init(|| newest.clone()).clone()],
        })
    }

    /// The newest stream as it is, with some of its shards.
    ///
    /// # Errors
    /// As [`TableStreams::arns`].
    pub async fn newest(&self) -> Result<StreamDescription, ListError> {
        let arns = self.arns().await?;
        let newest = arns.last().ok_or_else(|| self.not_found())?;
        let call = self.client.describe_stream().stream_arn(newest.to_string()).limit(PAGE_MAX);
        let answer = call.send().await.map_err(|error| self.failed(&error))?;
        let newest = answer.stream_description;
        let newest = newest.ok_or_else(|| self.unavailable("the response describes no stream"))?;
        self.known().off = !is_on(&newest);
        Ok(newest)
    }

    /// Whether the newest stream was off when it was last described.
    pub fn is_off(&self) -> bool {
        self.known().off
    }

    /// The stream that a shard is of; nothing where no stream of the table lists it.
    ///
    /// # Errors
    /// When it is not known yet, and the streams cannot be listed.
    pub async fn of(&self, shard: &ShardId) -> Result<Option<Arc<str>>, ListError> {
        let known = self.known().of.get(shard).cloned();
        if known.is_none() {
            self.all().await?;
        }
        Ok(known.or_else(|| self.known().of.get(shard).cloned()))
    }

    /// All shards of all streams.
    async fn all(&self) -> Result<Vec<Shard>, ListError> {
        let mut all = Vec::new();
        for arn in self.arns().await? {
            let arn: Arc<str> = arn.to_string().into();
            let described = match self.describe(&arn, None).await {
                // It was turned off a day ago, and is gone since it was listed.
                Err(ListError::NotFound(_)) if self.which == Which::All => continue,
                described => described?,
            };
            self.tell(&arn, described.on);
            // The newest is the last.
            self.known().off = !described.on;
            let shards = shards(&described);
            self.known().of.extend(shards.iter().map(|shard| (shard.id.clone(), Arc::clone(&arn))));
            all.extend(shards);
        }
        if all.is_empty() { Err(self.not_found()) } else { Ok(all) }
    }

    /// One stream with its shards, page by page; with a parent its children only, where the server knows how to.
    async fn describe(&self, arn: &str, parent: Option<&ShardId>) -> Result<Described, ListError> {
        let mut described = Described { on: true, shards: Vec::new() };
        let filter = |parent: &ShardId| {
            ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(parent.as_str()).build()
        };
        let mut next: Option<String> = None;
        loop {
            let call = self.client.describe_stream().stream_arn(arn).limit(PAGE_MAX);
            let call = call.set_shard_filter(parent.map(filter)).set_exclusive_start_shard_id(next.take());
            let answer = call.send().await.map_err(|error| self.failed(&error))?;
            let Some(page) = answer.stream_description else {
                return Err(self.unavailable("the response describes no stream"));
            };
            described.on = is_on(&page);
            for shard in page.shards() {
                let problem = "the response has a shard without an id";
                described.shards.push(Listed::of(shard).ok_or_else(|| self.unavailable(problem))?);
            }
            next = page.last_evaluated_shard_id().map(str::to_owned);
            if next.is_none() {
                return Ok(described);
            }
        }
    }

    /// Says once of each stream that it is read, and that it was turned off.
    fn tell(&self, arn: &Arc<str>, on: bool) {
        let mut known = self.known();
        let others = !known.told.is_empty();
        match known.told.insert(Arc::clone(arn), on) {
            None if on && others => {
                tracing::warn!(
                    stream = &**arn,
                    "the table's stream was turned on again: it is another stream now, and read from its beginning"
                );
            }
            None | Some(true) if !on => tracing::warn!(
                stream = &**arn,
                "this stream of the table is turned off: it is read to its end, and changes made since are in no stream \
                 until the table has one again"
            ),
            _ => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds this lock")
    }

    fn not_found(&self) -> ListError {
        ListError::NotFound(format!("of table {}", self.table))
    }

    fn unavailable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ListError {
        ListError::Unavailable { stream: format!("table {}", self.table), source: source.into() }
    }

    fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> ListError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error.code() {
            Some("ResourceNotFoundException") => self.not_found(),
            _ => self.unavailable(explain(error)),
        }
    }
}

/// True unless the stream was turned off.
pub fn is_on(stream: &StreamDescription) -> bool {
    stream.stream_status() != Some(&StreamStatus::Disabled)
}

/// A stream as it was described.
struct Described {
    on: bool,
    shards: Vec<Listed>,
}

/// A shard as it was described.
struct Listed {
    id: ShardId,
    parent: Option<ShardId>,
    ended: bool,
}

impl Listed {
    fn of(shard: &types::Shard) -> Option<Self> {
        let text = |text: &str| (!text.is_empty()).then(|| ShardId::new(text));
        Some(Self {
            id: shard.shard_id().and_then(text)?,
            parent: shard.parent_shard_id().and_then(text),
            ended: shard
                .sequence_number_range()
                .is_some_and(|range| range.ending_sequence_number().is_some()),
        })
    }
}

/// The shards of a stream. One that has children takes no more records, whatever else is said of it; nor does any shard
/// of a stream that is off.
fn shards(stream: &Described) -> Vec<Shard> {
    let parents: BTreeSet<&ShardId> =
        stream.shards.iter().filter_map(|shard| shard.parent.as_ref()).collect();
    let shard = |listed: &Listed| Shard {
        id: listed.id.clone(),
        parents: listed.parent.iter().cloned().collect(),
        hash_range: None,
        starting_sequence_number: SequenceNumber::from(0),
        closed: listed.ended || !stream.on || parents.contains(&listed.id),
    };
    stream.shards.iter().map(shard).collect()
}

/// Lists the shards of a table's streams.
#[derive(Debug)]
pub struct DynamoDbStreamsLister {
    streams: Arc<TableStreams>,
}

impl DynamoDbStreamsLister {
    /// Of these streams.
    pub fn new(streams: Arc<TableStreams>) -> Self {
        Self { streams }
    }
}

#[async_trait]
impl ShardLister for DynamoDbStreamsLister {
    fn lineage(&self) -> Lineage {
        Lineage::Tree
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        self.streams.all().await
    }

    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        let streams = &self.streams;
        let Some(arn) = streams.of(shard).await? else { return Ok(Some(Vec::new())) };
        let described = match streams.describe(&arn, Some(shard)).await {
            Ok(described) => described,
            // It was turned off a day ago: nothing comes after what was read.
            Err(ListError::NotFound(_)) => return Ok(Some(Vec::new())),
            // A server may refuse a filter that it does not know. One that ignores it tells of all shards.
            Err(ListError::Unavailable { .. }) => streams.describe(&arn, None).await?,
        };
        let children = described.shards.iter().filter(|listed| listed.parent.as_ref() == Some(shard));
        let children: Vec<_> = children
            .map(|listed| ChildShard {
                id: listed.id.clone(),
                parents: vec![shard.clone()],
                hash_range: None,
            })
            .collect();
        Ok((!children.is_empty() || !described.on).then_some(children))
    }

    fn is_off(&self) -> bool {
        self.streams.is_off()
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        Ok(self.streams.arns().await?.last().map(StreamId::of_table))
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        let Some(arn) = self.streams.of(shard).await? else { return Ok(true) };
        let call = self.streams.client.get_shard_iterator().stream_arn(&*arn).shard_id(shard.as_str());
        let call = call.shard_iterator_type(ShardIteratorType::AtSequenceNumber);
        match call.sequence_number(sequence.as_str()).send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.code() {
                Some("TrimmedDataAccessException") => Ok(true),
                // The type and the shard are as they should be, so it is about the number.
                Some("ValidationException") => Ok(false),
                _ => Err(self.streams.failed(&error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, parent: Option<&str>, ended: bool) -> Listed {
        Listed { id: ShardId::new(id), parent: parent.map(ShardId::new), ended }
    }

    #[test]
    fn a_shard_with_children_or_of_a_stream_that_is_off_is_closed() {
        let all =
            || vec![listed("a", None, false), listed("b", Some("a"), true), listed("c", Some("gone"), false)];
        let closed = |on| {
            let shards = shards(&Described { on, shards: all() });
            shards.iter().map(|shard| shard.closed).collect::<Vec<_>>()
        };
        assert_eq!((closed(true), closed(false)), (vec![true, true, false], vec![true; 3]));
        let family = shards(&Described { on: true, shards: all() });
        assert_eq!(family[1].parents, [ShardId::new("a")]);
        assert!(family.iter().all(|shard| shard.hash_range.is_none()));
    }

    #[test]
    fn an_end_is_told_by_its_sequence_number() {
        let range = types::SequenceNumberRange::builder().starting_sequence_number("1");
        let open = types::Shard::builder().shard_id("a").sequence_number_range(range.clone().build()).build();
        let ended = types::Shard::builder().shard_id("a").parent_shard_id("p");
        let ended = ended.sequence_number_range(range.ending_sequence_number("2").build()).build();
        assert!(!Listed::of(&open).unwrap().ended && Listed::of(&ended).unwrap().ended);
        assert_eq!(Listed::of(&ended).unwrap().parent, Some(ShardId::new("p")));
        assert!(Listed::of(&types::Shard::builder().build()).is_none());
    }
}
