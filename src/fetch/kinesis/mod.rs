//! Kinesis as a record source, by polling `GetRecords`.
//!
//! An interceptor takes the body of a good answer before the SDK sees it (`taken`), and `body` reads it in place. A body that
//! breaks off is asked for again with the same iterator.

pub(super) mod taken;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{Config, StalledStreamProtectionConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::ShardIteratorType;

use self::taken::TakeBody;
use super::body;
use super::buffer::Body;
use super::page::Page;
use super::polling::{PAGE_RECORDS_MAX, Polled};
use super::source::{FetchError, StartAt};
use crate::aws::{OfStream, StreamAddress, explain};
use crate::shard::ShardId;

/// 10 MB of payload as base64, and 10,000 records with their members and keys of usual length.
pub(super) const PAGE_BYTES_MAX: usize = 18 * 1024 * 1024;

/// Until the head of the answer has come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Larger bodies are read on a blocking thread: this much takes the walker about 0.3 ms.
const PARSE_HERE_MAX: usize = 2 * 1024 * 1024;

const INVALID_ARGUMENT: &str = "InvalidArgumentException";

/// What the SDK reads in place of the body that was taken.
const EMPTY_ANSWER: &str = r#"{"Records":[],"MillisBehindLatest":0}"#;

/// Reads the shards of one Kinesis stream.
#[derive(Clone, Debug)]
pub struct KinesisSource {
    /// For iterators.
    client: Client,
    /// For records: tried once.
    once: Client,
    stream: StreamAddress,
}

impl KinesisSource {
    /// Reads `stream`. The client's retries apply to iterators only: a failed `GetRecords` comes
    /// back at once, as the pace of a shard is decided in one place, `Pacing`.
    pub fn new(client: Client, stream: StreamAddress) -> Self {
        let once = Client::from_conf(tried_once(client.config()));
        Self { client, once, stream }
    }
}

/// Settings for calls whose body is taken. Made once, and without what the reader of the body does itself: 5 % fewer
/// instructions a call.
fn tried_once(settings: &Config) -> Config {
    // One try, so one limit: that of the whole call. A body that stalls is noticed by its reader.
    let timeouts = settings.timeout_config().map(TimeoutConfig::to_builder).unwrap_or_default();
    let timeouts = timeouts.disable_operation_attempt_timeout().operation_timeout(ANSWER_TIMEOUT);
    settings
        .to_builder()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts.build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build()
}

#[async_trait]
impl Polled for KinesisSource {
    async fn iterator(&self, shard: &ShardId, start: &StartAt) -> Result<String, FetchError> {
        let request = self.client.get_shard_iterator().of(&self.stream).shard_id(shard.as_str());
        let request = match start {
            StartAt::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            StartAt::Latest => request.shard_iterator_type(ShardIteratorType::Latest),
            StartAt::Timestamp(us) => {
                request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(start_time(*us)?)
            }
            StartAt::At(sequence) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(sequence.as_str()),
            StartAt::After(sequence) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence.as_str()),
        };
        let settings = aws_sdk_kinesis::config::Builder::new().timeout_config(answer_timeout());
        let answer = request.customize().config_override(settings).send().await;
        let answer = answer.map_err(|error| of_start(fetch_error(error), start))?;
        answer
            .shard_iterator
            .ok_or_else(|| FetchError::Unavailable("the response has no shard iterator".into()))
    }

    async fn fetch(&self, _shard: &ShardId, iterator: &str, records_max: usize) -> Result<Page, FetchError> {
        let taken = TakeBody::leaving(EMPTY_ANSWER);
        self.once
            .get_records()
            .of(&self.stream)
            .shard_iterator(iterator)
            .limit(i32::try_from(records_max.min(PAGE_RECORDS_MAX)).expect("a number of five digits"))
            .customize()
            .interceptor(taken.clone())
            .send()
            .await
            .map_err(fetch_error)?;
        check_end(taken.page(PAGE_BYTES_MAX, parse).await?)
    }

    fn page_bytes_max(&self) -> usize {
        PAGE_BYTES_MAX
    }
}

/// Tries of the SDK included: a shard that waits for longer without a word would look as if it were read.
pub(super) fn answer_timeout() -> TimeoutConfig {
    TimeoutConfig::builder().operation_timeout(ANSWER_TIMEOUT).build()
}

pub(super) async fn parse(body: Body) -> Result<Page, FetchError> {
    let parsed = if body.len() > PARSE_HERE_MAX {
        let parsing = tokio::task::spawn_blocking(move || body::parse(body));
        parsing.await.map_err(|e| FetchError::Unavailable(e.into()))?
    } else {
        body::parse(body)
    };
    parsed.map_err(|e| FetchError::Unavailable(e.into()))
}

/// The end of a shard is believed only when it is complete: nowhere to go on, and children that name their parents
/// (KCL, `ShutdownTask` and `DataFetchingStrategy`: exactly one of both, else the call is repeated).
pub(super) fn check_end(page: Page) -> Result<Page, FetchError> {
    let orphan = page.children.iter().any(|child| child.parents.is_empty());
    if page.next_iterator.is_some() == page.children.is_empty() && !orphan {
        Ok(page)
    } else {
        Err(FetchError::Unavailable(
            "the response says neither where to go on nor completely which the child shards are".into(),
        ))
    }
}

/// A start time as the service takes it.
pub(super) fn start_time(us: i64) -> Result<DateTime, FetchError> {
    DateTime::from_nanos(i128::from(us) * 1000)
        .map_err(|e| FetchError::Refused(format!("start time {us} µs is out of range: {e}; set another one")))
}

/// What an error says of the start that was asked for: the type and the shard are as they should be, so an argument that is
/// refused is the sequence number.
pub(super) fn of_start(error: FetchError, start: &StartAt) -> FetchError {
    let sequence_given = matches!(start, StartAt::At(_) | StartAt::After(_));
    match error {
        FetchError::Refused(reason) if sequence_given && reason.starts_with(INVALID_ARGUMENT) => {
            FetchError::Foreign(reason)
        }
        error => error,
    }
}

pub(super) fn fetch_error<E>(error: SdkError<E, aws_sdk_kinesis::config::http::HttpResponse>) -> FetchError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    of_code(error.code().unwrap_or_default(), || explain(&error))
}

/// The error of a code, with what is to be said of it.
pub(super) fn of_code(code: &str, explained: impl FnOnce() -> String) -> FetchError {
    match code {
        "ExpiredIteratorException" => FetchError::ExpiredIterator,
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "KMSThrottlingException"
        | "ThrottlingException" => FetchError::Throttled,
        "ResourceNotFoundException" => FetchError::NotFound,
        "ResourceInUseException" => FetchError::InUse(explained()),
        "AccessDeniedException"
        | INVALID_ARGUMENT
        | "ValidationException"
        | "UnrecognizedClientException"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired" => FetchError::Refused(explained()),
        _ => FetchError::Unavailable(explained().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use aws_credential_types::Credentials;
    use aws_sdk_kinesis::config::{BehaviorVersion, Region};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::fetch::{PageBuilder, Payload};
    use crate::shard::{ChildShard, HashKeyRange, SequenceNumber};

    /// A server that gives each answer to one connection, then closes it; counts requests and keeps the last.
    struct Script {
        source: KinesisSource,
        requests: Arc<AtomicUsize>,
        last: Arc<Mutex<String>>,
        _server: JoinSet<()>,
    }

    async fn script(answers: Vec<Vec<u8>>) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let last = Arc::new(Mutex::new(String::new()));
        let mut server = JoinSet::new();
        let (seen, kept) = (Arc::clone(&requests), Arc::clone(&last));
        server.spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !complete(&request) {
                    let mut chunk = [0; 4096];
                    let n = socket.read(&mut chunk).await.unwrap();
                    request.extend_from_slice(&chunk[..n]);
                }
                seen.fetch_add(1, Ordering::SeqCst);
                *kept.lock().unwrap() = String::from_utf8(request).unwrap();
                socket.write_all(&answer).await.unwrap();
            }
        });
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .endpoint_url(endpoint)
            .build();
        let source = KinesisSource::new(Client::from_conf(config), StreamAddress::named("trades"));
        Script { source, requests, last, _server: server }
    }

    #[test]
    fn the_end_of_a_shard_is_believed_when_it_is_complete() {
        let child = |parents: &[&str]| ChildShard {
            id: ShardId::new("child"),
            parents: parents.iter().map(|parent| ShardId::new(*parent)).collect(),
            hash_range: Some(HashKeyRange { start: 0, end: 1 }),
        };
        let believed = |next: Option<&str>, children: &[ChildShard]| {
            let mut page = PageBuilder::default().finish();
            page.next_iterator = next.map(str::to_owned);
            page.children = children.to_vec();
            check_end(page).is_ok()
        };
        let (whole, orphan) = (child(&["a", "b"]), child(&[]));
        assert!(believed(Some("next"), &[]) && believed(None, &[child(&["a"]), whole.clone()]));
        let (whole, orphan) = ([whole], [orphan]);
        for children in [&[][..], &orphan, &[&whole[..], &orphan].concat(), &[&orphan[..], &whole].concat()] {
            assert!(!believed(None, children), "{children:?}");
        }
        assert!(!believed(Some("next"), &whole) && !believed(Some("next"), &orphan));
    }

    fn complete(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        body.len() >= length.map_or(0, |n| n.parse().unwrap())
    }

    fn answer(status: &str, body: &str) -> Vec<u8> {
        announced(status, body, body.len())
    }

    fn announced(status: &str, body: &str, length: usize) -> Vec<u8> {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }

    const PAGE: &str = r#"{"Records":[{"SequenceNumber":"7","ApproximateArrivalTimestamp":1.5,"Data":"b25l",
        "PartitionKey":"k"}],"NextShardIterator":"next","MillisBehindLatest":12}"#;

    fn shard() -> ShardId {
        ShardId::new("shardId-000000000000")
    }

    #[tokio::test]
    async fn a_page_is_read_from_the_body_that_was_taken() {
        let script = script(vec![answer("200 OK", PAGE)]).await;
        let page = script.source.fetch(&shard(), "here", 10_000).await.unwrap();
        let record = page.records().next().unwrap();
        assert_eq!((record.sequence_number, record.arrival_us), ("7", 1_500_000));
        assert_eq!(record.payload, Payload::Base64(b"b25l"));
        assert_eq!((page.next_iterator.as_deref(), page.millis_behind_latest), (Some("next"), Some(12)));
        let request = script.last.lock().unwrap().clone();
        assert!(request.contains("Kinesis_20131202.GetRecords"), "{request}");
        assert!(
            request.contains(r#""ShardIterator":"here""#) && request.contains(r#""Limit":10000"#),
            "{request}"
        );
    }

    #[tokio::test]
    async fn a_broken_body_is_a_failed_fetch_and_not_an_empty_page() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"Rec\r\n".into();
        let script = script(vec![
            announced("200 OK", &PAGE[..60], PAGE.len()),
            chunked,
            answer("200 OK", "{\"Records\":"),
            answer("200 OK", "{}"),
            answer("200 OK", r#"{"Records":[],"MillisBehindLatest":0}"#),
            answer("200 OK", PAGE),
        ])
        .await;
        for _ in 0..5 {
            let error = script.source.fetch(&shard(), "here", 10_000).await.unwrap_err();
            assert!(matches!(error, FetchError::Unavailable(_)), "{error:?}");
        }
        assert_eq!(script.source.fetch(&shard(), "here", 10_000).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_large_page_comes_whole() {
        let record = |n: usize| {
            let data = "QUJD".repeat(300_000);
            format!(
                r#"{{"SequenceNumber":"{n}","ApproximateArrivalTimestamp":1,"Data":"{data}","PartitionKey":"k"}}"#
            )
        };
        let records: Vec<_> = (0..3).map(record).collect();
        let body = format!(r#"{{"Records":[{}],"NextShardIterator":"n"}}"#, records.join(","));
        assert!(body.len() > PARSE_HERE_MAX);
        let script = script(vec![answer("200 OK", &body)]).await;
        let page = script.source.fetch(&shard(), "here", 10_000).await.unwrap();
        assert_eq!(page.len(), 3);
        assert!((body.len()..body.len() + 1000).contains(&page.bytes()) && page.bytes() < PAGE_BYTES_MAX);
    }

    #[tokio::test]
    async fn errors_are_told_apart_and_never_retried_here() {
        let cases = [
            ("400 Bad Request", "ExpiredIteratorException", "expired_iterator"),
            ("400 Bad Request", "ProvisionedThroughputExceededException", "throttled"),
            ("400 Bad Request", "LimitExceededException", "throttled"),
            ("400 Bad Request", "KMSThrottlingException", "throttled"),
            ("400 Bad Request", "ResourceNotFoundException", "not_found"),
            ("400 Bad Request", "AccessDeniedException", "refused"),
            ("400 Bad Request", "InvalidArgumentException", "refused"),
            ("500 Internal Server Error", "InternalFailure", "unavailable"),
            ("503 Service Unavailable", "", "unavailable"),
        ];
        let body = |code: &str| format!(r#"{{"__type":"{code}","message":"because"}}"#);
        let script =
            script(cases.iter().map(|(status, code, _)| answer(status, &body(code))).collect()).await;
        for (n, (_, code, kind)) in cases.iter().enumerate() {
            let error = script.source.fetch(&shard(), "here", 10_000).await.unwrap_err();
            assert_eq!(error.kind(), *kind, "{code}: {error:?}");
            assert_eq!(script.requests.load(Ordering::SeqCst), n + 1, "{code} was retried");
            if let FetchError::Refused(reason) = error {
                assert!(reason.contains(code) && reason.contains("because"), "{reason}");
            }
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_unavailable() {
        let script = script(Vec::new()).await;
        let error = script.source.fetch(&shard(), "here", 10_000).await.unwrap_err();
        assert!(matches!(error, FetchError::Unavailable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn iterators_start_where_asked_and_survive_a_hiccup() {
        let good = || answer("200 OK", r#"{"ShardIterator":"it"}"#);
        let script = script(vec![answer("500 Internal Server Error", "{}"), good(), good(), good()]).await;
        let after = StartAt::After(SequenceNumber::from(7));
        assert_eq!(script.source.iterator(&shard(), &after).await.unwrap(), "it");
        assert_eq!(script.requests.load(Ordering::SeqCst), 2, "the SDK tried twice");
        let asked = |script: &Script| script.last.lock().unwrap().clone();
        assert!(asked(&script).contains(r#""StartingSequenceNumber":"7""#), "{}", asked(&script));
        assert!(asked(&script).contains("AFTER_SEQUENCE_NUMBER") && asked(&script).contains("trades"));
        script.source.iterator(&shard(), &StartAt::Timestamp(1_768_469_400_123_000)).await.unwrap();
        assert!(asked(&script).contains(r#""Timestamp":1768469400.123"#), "{}", asked(&script));
        script.source.iterator(&shard(), &StartAt::TrimHorizon).await.unwrap();
        assert!(asked(&script).contains("TRIM_HORIZON"));
    }
}
