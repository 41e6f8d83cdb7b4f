//! Lists the shards of a Kinesis stream.

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::types::{self, ShardIteratorType};

use super::audit::holes;
use super::{HashKeyRange, ListError, SequenceNumber, Shard, ShardId, ShardLister, StreamId};
use crate::aws::{OfStream, StreamAddress, explain};

/// Shards per call, the most that `ListShards` allows.
const PAGE_SHARDS_MAX: i32 = 1000;

/// Lists the shards of one stream by `ListShards`, page by page.
#[derive(Debug)]
pub struct KinesisShardLister {
    client: Client,
    stream: StreamAddress,
}

impl KinesisShardLister {
    /// Lists this stream, with the region and credentials of `client`.
    pub fn new(client: Client, stream: StreamAddress) -> Self {
        Self { client, stream }
    }

    fn unavailable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ListError {
        ListError::Unavailable { stream: self.stream.to_string(), source: source.into() }
    }
}

#[async_trait]
impl ShardLister for KinesisShardLister {
    /// Fails when the open shards leave hash keys out, which is normal for seconds around a reshard (KCL's
    /// first sync asks for the same).
    async fn list(&self) -> Result<Vec<Shard>, ListError> {
        let mut shards = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let call = self.client.list_shards().max_results(PAGE_SHARDS_MAX);
            // The service takes the stream or the token, never both.
            let call = match next.take() {
                Some(token) => call.next_token(token),
                None => call.of(&self.stream),
            };
            let page = call.send().await.map_err(|error| match error.code() {
                Some("ResourceNotFoundException") => ListError::NotFound(self.stream.to_string()),
                _ => self.unavailable(explain(&error)),
            })?;
            for shard in page.shards() {
                shards.push(read(shard).map_err(|problem| self.unavailable(problem))?);
            }
            next = page.next_token().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        let open = shards.iter().filter(|shard| !shard.closed);
        if !holes(open.filter_map(|shard| shard.hash_range)).is_empty() {
            let hole = "the open shards do not cover all hash keys yet; list again in a moment";
            return Err(self.unavailable(hole));
        }
        Ok(shards)
    }

    async fn stream(&self) -> Result<Option<StreamId>, ListError> {
        let call = self.client.describe_stream_summary().of(&self.stream);
        let answer = call.send().await.map_err(|error| match error.code() {
            Some("ResourceNotFoundException") => ListError::NotFound(self.stream.to_string()),
            _ => self.unavailable(explain(&error)),
        })?;
        let named = StreamId::of(&self.stream);
        Ok(Some(match answer.stream_description_summary() {
            Some(summary) => {
                let created = u64::try_from(summary.stream_creation_timestamp().secs()).ok();
                named.described(summary.stream_arn(), created)
            }
            None => named,
        }))
    }

    async fn accepts(&self, shard: &ShardId, sequence: &SequenceNumber) -> Result<bool, ListError> {
        let call = self.client.get_shard_iterator().of(&self.stream).shard_id(shard.as_str());
        let call = call.shard_iterator_type(ShardIteratorType::AtSequenceNumber);
        match call.starting_sequence_number(sequence.as_str()).send().await {
            Ok(_) => Ok(true),
            // The type and the shard are as they should be, so it is about the number.
            Err(error) if error.code() == Some("InvalidArgumentException") => Ok(false),
            Err(error) => Err(self.unavailable(explain(&error))),
        }
    }
}

fn read(shard: &types::Shard) -> Result<Shard, String> {
    let id = shard.shard_id();
    let hash_key =
        |text: &str| text.parse().map_err(|_| format!("shard {id} has a hash key that is not a number"));
    let keys = shard.hash_key_range().ok_or_else(|| format!("shard {id} has no hash key range"))?;
    let sequence = shard.sequence_number_range();
    let start = sequence.and_then(|range| SequenceNumber::parse(range.starting_sequence_number()));
    Ok(Shard {
        id: ShardId::new(id),
        parents: [shard.parent_shard_id(), shard.adjacent_parent_shard_id()]
            .into_iter()
            .flatten()
            .map(ShardId::new)
            .collect(),
        hash_range: Some(HashKeyRange {
            start: hash_key(keys.starting_hash_key())?,
            end: hash_key(keys.ending_hash_key())?,
        }),
        starting_sequence_number: start
            .ok_or_else(|| format!("shard {id} has no starting sequence number"))?,
        closed: sequence.is_some_and(|range| range.ending_sequence_number().is_some()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> types::builders::ShardBuilder {
        let keys =
            types::HashKeyRange::builder().starting_hash_key("0").ending_hash_key("9").build().unwrap();
        let sequence = types::SequenceNumberRange::builder().starting_sequence_number("42").build().unwrap();
        types::Shard::builder().shard_id("s-1").hash_key_range(keys).sequence_number_range(sequence)
    }

    #[test]
    fn reads_family_and_range() {
        let shard = described().parent_shard_id("s-0").adjacent_parent_shard_id("s-2").build().unwrap();
        let shard = read(&shard).unwrap();
        assert_eq!(shard.parents, [ShardId::new("s-0"), ShardId::new("s-2")]);
        assert_eq!(shard.hash_range, Some(HashKeyRange { start: 0, end: 9 }));
        assert!(!shard.closed);
    }

    #[test]
    fn an_ending_sequence_number_closes_and_nonsense_is_refused() {
        let range = types::SequenceNumberRange::builder().starting_sequence_number("42");
        let closed = range.clone().ending_sequence_number("50").build().unwrap();
        assert!(read(&described().sequence_number_range(closed).build().unwrap()).unwrap().closed);
        let odd = range.starting_sequence_number("x").build().unwrap();
        assert!(read(&described().sequence_number_range(odd).build().unwrap()).is_err());
    }
}
