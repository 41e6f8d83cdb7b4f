//! DynamoDB Streams as a record source, by polling `GetRecords`.
//!
//! The service says less than Kinesis does. How far a page is behind is told by the creation time of its last record. That
//! nothing comes after it is told by nobody: an empty answer may come before records too. So the tip is where some answers in
//! a row are empty; how many were is part of the iterator that this source hands out, as is that records are missing before
//! it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodbstreams::config::retry::RetryConfig;
use aws_sdk_dynamodbstreams::config::timeout::TimeoutConfig;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;

use super::buffer::Body;
use super::changes;
use super::kinesis::taken::TakeBody;
use super::page::Page;
use super::polling::Polled;
use super::source::{FetchError, StartAt};
use crate::aws::explain;
use crate::shard::dynamodbstreams::TableStreams;
use crate::shard::{ListError, ShardId};

/// Most records that one call may bring (`GetRecords`, API reference); and 1 MB, by the size of items.
const PAGE_RECORDS_MAX: usize = 1000;
/// 1 MB of items as JSON with type tags, base64 and the members of each record. Longer ones count when they are there.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Until the head of an answer has come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger bodies are read on a blocking thread: this much takes about 0.3 ms.
const PARSE_HERE_MAX: usize = 128 << 10;
/// Between two polls of a shard without news, unless less is set.
const IDLE: Duration = Duration::from_secs(1);
/// So many empty answers in a row are the tip.
const EMPTY_MAX: u8 = 3;

/// What the SDK reads in place of the body that was taken.
const EMPTY_ANSWER: &str = r#"{"Records":[]}"#;

const TRIMMED: &str = "TrimmedDataAccessException";

/// Reads the shards of a table's streams.
#[derive(Clone, Debug)]
pub struct DynamoDbStreamsSource {
    streams: Arc<TableStreams>,
}

impl DynamoDbStreamsSource {
    /// Of these streams.
    pub fn new(streams: Arc<TableStreams>) -> Self {
        Self { streams }
    }

    /// What is said of a start at a time.
    pub(super) fn by_time() -> FetchError {
        let reason = "DynamoDB Streams has no positions by time; read from an earlier record";
        FetchError::Refused(reason.to_owned())
    }

    /// An iterator of the service; nothing where the records at this place have left the stream.
    async fn ask(&self, arn: &str, shard: &ShardId, start: &StartAt) -> Result<Option<String>, FetchError> {
        let request = self.streams.client().get_shard_iterator().stream_arn(arn).shard_id(shard.as_str());
        let (kind, sequence) = match start {
            StartAt::TrimHorizon => (ShardIteratorType::TrimHorizon, None),
            StartAt::Latest => (ShardIteratorType::Latest, None),
            StartAt::At(sequence) => (ShardIteratorType::AtSequenceNumber, Some(sequence)),
            StartAt::After(sequence) => (ShardIteratorType::AfterSequenceNumber, Some(sequence)),
            StartAt::Timestamp(_) => return Err(Self::by_time()),
        };
        let request = request.shard_iterator_type(kind);
        let request = request.set_sequence_number(sequence.map(|sequence| sequence.as_str().to_owned()));
        let settings = aws_sdk_dynamodbstreams::config::Builder::new().timeout_config(answer_timeout());
        match request.customize().config_override(settings).send().await {
            Ok(answer) => {
                let lacks = || FetchError::Unavailable("the response has no shard iterator".into());
                answer.shard_iterator.ok_or_else(lacks).map(Some)
            }
            Err(error) if error.code() == Some(TRIMMED) => Ok(None),
            // The type and the shard are as they should be, so it is about the number.
            Err(error) if error.code() == Some("ValidationException") && sequence.is_some() => {
                Err(FetchError::Foreign(explain(&error)))
            }
            Err(error) => Err(fetch_error(error)),
        }
    }
}

#[async_trait]
impl Polled for DynamoDbStreamsSource {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        let arn = self.streams.of(shard).await.map_err(|error| match error {
            ListError::NotFound(_) => FetchError::NotFound,
            error @ ListError::Unavailable { .. } => FetchError::Unavailable(error.into()),
        })?;
        let arn = arn.ok_or(FetchError::NotFound)?;
        let asked = self.ask(&arn, shard, start).await?;
        let trimmed = asked.is_none();
        let iterator = match asked {
            Some(iterator) => iterator,
            None => self.ask(&arn, shard, &StartAt::TrimHorizon).await?.ok_or_else(|| {
                FetchError::Unavailable("the oldest record is said to have left the stream".into())
            })?,
        };
        Ok(Place { empty: 0, trimmed, iterator: &iterator }.to_string())
    }

    async fn fetch(&self, _shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        let place = Place::parse(iterator)
            .ok_or_else(|| FetchError::Refused("this is not an iterator of this source".to_owned()))?;
        let taken = TakeBody::leaving(EMPTY_ANSWER);
        let settings = aws_sdk_dynamodbstreams::config::Builder::new()
            .retry_config(RetryConfig::disabled())
            .timeout_config(answer_timeout());
        let call = self.streams.client().get_records().shard_iterator(place.iterator);
        call.limit(i32::try_from(records_max.min(PAGE_RECORDS_MAX)).expect("a number of four digits"))
            .customize()
            .config_override(settings)
            .interceptor(taken.clone())
            .send()
            .await
            .map_err(fetch_error)?;
        let mut page = taken.page(PAGE_BYTES_MAX, parse).await?;
        place.tell(&mut page);
        Ok(page)
    }

    fn page_bytes_max(&self) -> usize {
        PAGE_BYTES_MAX
    }

    fn idle_first(&self) -> Duration {
        IDLE
    }
}

/// An iterator of the service with what was learned on the way to it.
pub(super) struct Place<'a> {
    /// Answers without records in a row.
    pub(super) empty: u8,
    /// Records that were to be read next have left the stream, and it is not told yet.
    pub(super) trimmed: bool,
    pub(super) iterator: &'a str,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}", self.empty, if self.trimmed { '!' } else { '.' }, self.iterator)
    }
}

impl<'a> Place<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (empty, rest) = text.split_at_checked(1)?;
        let (trimmed, iterator) = rest.split_at_checked(1)?;
        Some(Self { empty: empty.parse().ok()?, trimmed: trimmed == "!", iterator })
    }

    /// Makes the page say where it ends, and what is missing before it.
    pub(super) fn tell(&self, page: &mut Page) {
        let empty = if page.is_empty() { (self.empty + 1).min(EMPTY_MAX) } else { 0 };
        let at_tip = empty == EMPTY_MAX || page.next_iterator.is_none();
        page.tip_unsure = page.is_empty() && !at_tip;
        page.trimmed = self.trimmed && !page.tip_unsure;
        let last_us = page.records().next_back().map(|record| record.arrival_us);
        page.millis_behind_latest = match last_us.zip(page.served_us) {
            // Never 0: what comes next is not known.
            Some((last_us, served_us)) => Some(((served_us - last_us) / 1000).max(1)),
            None => at_tip.then_some(0).filter(|_| page.is_empty()),
        };
        let trimmed = self.trimmed && page.tip_unsure;
        page.next_iterator =
            page.next_iterator.take().map(|next| Place { empty, trimmed, iterator: &next }.to_string());
    }
}

/// Tries of the SDK included: a shard that waits for longer without a word would look as if it were read.
fn answer_timeout() -> TimeoutConfig {
    TimeoutConfig::builder().operation_timeout(ANSWER_TIMEOUT).build()
}

async fn parse(body: Body) -> Result<Page, FetchError> {
    let parsed = if body.len() > PARSE_HERE_MAX {
        let parsing = tokio::task::spawn_blocking(move || changes::parse(body));
        parsing.await.map_err(|e| FetchError::Unavailable(e.into()))?
    } else {
        changes::parse(body)
    };
    parsed.map_err(|e| FetchError::Unavailable(e.into()))
}

fn fetch_error<E>(error: SdkError<E, aws_sdk_dynamodbstreams::config::http::HttpResponse>) -> FetchError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.code().unwrap_or_default() {
        // Where the iterator stands is gone: the next one is asked for at the last position, which tells what is missing.
        "ExpiredIteratorException" | TRIMMED => FetchError::ExpiredIterator,
        "LimitExceededException" | "ProvisionedThroughputExceededException" | "ThrottlingException" => {
            FetchError::Throttled
        }
        "ResourceNotFoundException" => FetchError::NotFound,
        "AccessDeniedException" | "ValidationException" | "UnrecognizedClientException" => {
            FetchError::Refused(explain(&error))
        }
        _ => FetchError::Unavailable(explain(&error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::{Behind, PageBuilder};

    fn told(from: &str, records: usize, next: Option<&str>) -> Page {
        let mut builder = PageBuilder::default();
        for n in 0..records {
            builder.push(&(n + 1).to_string(), "{}", 1_000_000_000, b"{}");
        }
        let mut page = builder.finish();
        page.next_iterator = next.map(str::to_owned);
        page.served_us = Some(1_003_000_000);
        Place::parse(from).unwrap().tell(&mut page);
        page
    }

    #[test]
    fn the_tip_is_where_nothing_comes_for_some_answers() {
        let first = told("0.a", 2, Some("b"));
        assert_eq!((first.behind(), first.next_iterator.as_deref()), (Behind::Millis(3000), Some("0.b")));
        let mut next = first.next_iterator.unwrap();
        for (behind, expected) in
            [(Behind::Unknown, "1.b"), (Behind::Unknown, "2.b"), (Behind::Tip, "3.b"), (Behind::Tip, "3.b")]
        {
            let page = told(&next, 0, Some("b"));
            assert_eq!((page.behind(), page.next_iterator.as_deref()), (behind, Some(expected)));
            assert_eq!(page.tip_unsure, behind == Behind::Unknown);
            next = expected.to_owned();
        }
        assert_eq!(told(&next, 1, Some("b")).next_iterator.as_deref(), Some("0.b"), "counted anew");
        let end = told("0.a", 0, None);
        assert!(end.behind() == Behind::Tip && end.next_iterator.is_none(), "the end is certain");
        let last = told("0.a", 1, None);
        assert_eq!((last.behind(), last.tip_unsure), (Behind::Millis(3000), false));
    }

    #[test]
    fn what_is_missing_is_told_with_the_first_record_or_the_tip() {
        let empty = told("0!a", 0, Some("b"));
        assert_eq!((empty.trimmed, empty.next_iterator.as_deref()), (false, Some("1!b")));
        for (from, records, next) in [("1!b", 1, Some("c")), ("2!b", 0, Some("c")), ("0!b", 0, None)] {
            let page = told(from, records, next);
            assert!(page.trimmed, "{from}");
            assert!(page.next_iterator.is_none_or(|next| next.as_bytes()[1] == b'.'), "told once");
        }
        assert!(!told("0.a", 1, Some("b")).trimmed);
    }

    #[test]
    fn what_nobody_handed_out_is_no_iterator() {
        for text in ["", "0", "x.a", "é.a"] {
            assert!(Place::parse(text).is_none(), "{text}");
        }
    }
}
