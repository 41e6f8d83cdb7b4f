//! A stream in memory that says no more than DynamoDB Streams does: the twin of a table's streams.
//!
//! A page does not tell its children nor how far it is behind, and shards have no hash keys. A shard that is closed without
//! children is one of a stream that was turned off.

use std::sync::Arc;

use async_trait::async_trait;

use super::dynamodbstreams::{DynamoDbStreamsSource, Place};
use super::memory::MemoryStream;
use super::page::Page;
use super::polling::Polled;
use super::source::{FetchError, StartAt};
use crate::shard::{ChildShard, Lineage, ListError, SequenceNumber, Shard, ShardId, ShardLister};

/// The streams of a table in memory.
pub struct MemoryTable(Arc<MemoryStream>);

impl MemoryTable {
    /// With the shards of this stream.
    pub fn over(stream: Arc<MemoryStream>) -> Self {
        Self(stream)
    }
}

#[async_trait]
impl Polled for MemoryTable {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        if matches!(start, StartAt::Timestamp(_)) {
            return Err(DynamoDbStreamsSource::by_time());
        }
        let iterator = self.0.iterator(shard, start).await?;
        Ok(Place { empty: 0, trimmed: false, iterator: &iterator }.to_string())
    }

    async fn fetch(&self, shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        let place = Place::parse(iterator).expect("handed out above");
        let mut page = self.0.fetch(shard, place.iterator, records_max).await?;
        page.children.clear();
        place.tell(&mut page);
        Ok(page)
    }

    fn page_bytes_max(&self) -> usize {
        self.0.page_bytes_max()
    }
}

#[async_trait]
impl ShardLister for MemoryTable {
    fn lineage(&self) -> Lineage {
        Lineage::Tree
    }

    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        let plain = |shard| Shard { hash_range: None, starting_sequence_number: 0.into(), ..shard };
        Ok(self.0.list().await?.into_iter().map(plain).collect())
    }

    async fn children(&self, shard: &ShardId) -> Result<Option<Vec<ChildShard>>, ListError> {
        let listed = self.0.list().await?;
        let closed = listed.iter().any(|listed| listed.id == *shard && listed.closed);
        let children: Vec<_> = listed
            .into_iter()
            .filter(|listed| listed.parents.contains(shard))
            .map(|listed| ChildShard { id: listed.id, parents: listed.parents, hash_range: None })
            .collect();
        Ok((closed || !children.is_empty()).then_some(children))
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        self.0.accepts(shard, sequence).await
    }
}
