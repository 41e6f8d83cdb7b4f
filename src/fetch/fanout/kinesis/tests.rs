//! The calls, against a server that says what it is told.

use std::collections::VecDeque;
use std::sync::Mutex;

use aws_credential_types::Credentials;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::aws::StreamAddress;
use crate::fetch::{Behind, Payload};
use crate::shard::SequenceNumber;

const ARN: &str = "arn:aws:kinesis:us-east-1:111122223333:stream/trades";
const CONSUMER: &str = "arn:aws:kinesis:us-east-1:111122223333:stream/trades/consumer/app:1";
const DATE: &str = "Thu, 15 Jan 2026 09:30:00 GMT";
const DATE_US: i64 = 1_768_469_400_000_000;

/// A server with one answer for each connection, and the calls that came.
struct Script {
    client: Client,
    calls: Arc<Mutex<Vec<(String, String)>>>,
    _server: JoinSet<()>,
}

impl Script {
    async fn new(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        let seen = Arc::clone(&calls);
        server.spawn(async move {
            let mut answers = VecDeque::from(answers);
            while let Some(answer) = answers.pop_front() {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                let (operation, body) = loop {
                    let n = socket.read(&mut piece).await.unwrap();
                    request.extend_from_slice(&piece[..n]);
                    let text = String::from_utf8_lossy(&request);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let member = |name: &str| {
                        let lines = head.lines().filter_map(|line| line.split_once(": "));
                        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
                    };
                    if body.len() >= member("content-length").map_or(0, |n| n.parse().unwrap()) {
                        let target = member("x-amz-target").unwrap();
                        break (target.rsplit_once('.').unwrap().1.to_owned(), body.to_owned());
                    }
                };
                seen.lock().unwrap().push((operation, body));
                socket.write_all(&answer).await.unwrap();
            }
        });
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(endpoint);
        Self { client: Client::from_conf(config.build()), calls, _server: server }
    }

    fn consumer(&self) -> Arc<Consumer> {
        Arc::new(Consumer::new(self.client.clone(), ARN.parse::<StreamAddress>().unwrap(), "app"))
    }

    fn fan_out(&self) -> KinesisFanOut {
        KinesisFanOut::new(self.client.clone(), self.consumer())
    }

    fn operations(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|(operation, _)| operation.clone()).collect()
    }
}

fn json(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn refused(code: &str) -> Vec<u8> {
    json("400 Bad Request", &format!(r#"{{"__type":"{code}","message":"because"}}"#))
}

fn described(status: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"ConsumerDescription":{{"ConsumerName":"app","ConsumerARN":"{CONSUMER}","ConsumerStatus":"{status}",
            "ConsumerCreationTimestamp":1,"StreamARN":"{ARN}"}}}}"#
    );
    json("200 OK", &body)
}

fn registered() -> Vec<u8> {
    let body = format!(
        r#"{{"Consumer":{{"ConsumerName":"app","ConsumerARN":"{CONSUMER}","ConsumerStatus":"CREATING",
            "ConsumerCreationTimestamp":1}}}}"#
    );
    json("200 OK", &body)
}

fn frame(kind: &str, headers: &[(&str, &str)], payload: &str) -> Vec<u8> {
    let text = |value: &str| HeaderValue::String(value.to_owned().into());
    let mut message = Message::new(payload.as_bytes().to_vec())
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(":content-type", text("application/x-amz-json-1.1")));
    for (name, value) in headers {
        message = message.add_header(Header::new((*name).to_owned(), text(value)));
    }
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn initial() -> Vec<u8> {
    frame("event", &[(":event-type", "initial-response")], "{}")
}

fn event(payload: &str) -> Vec<u8> {
    frame("event", &[(":event-type", "SubscribeToShardEvent")], payload)
}

fn exception(code: &str) -> Vec<u8> {
    frame("exception", &[(":exception-type", code)], r#"{"message":"be\ncause"}"#)
}

/// The head of an answer with this body, in pieces.
fn events(pieces: &[&[u8]]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nDate: {DATE}\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    for piece in pieces {
        answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

const EVENT: &str = r#"{"Records":[{"SequenceNumber":"7","ApproximateArrivalTimestamp":1.5,"Data":"b25l",
    "PartitionKey":"k"}],"ContinuationSequenceNumber":"9","MillisBehindLatest":12}"#;

fn shard() -> ShardId {
    ShardId::new("shardId-000000000000")
}

/// What a subscription with this body says after its initial response.
async fn said(body: &[u8]) -> Result<Option<Page>, FetchError> {
    let script = Script::new(vec![described("ACTIVE"), events(&[&initial(), body])]).await;
    let mut subscription = script.fan_out().subscribe(&shard(), &StartAt::TrimHorizon).await.unwrap();
    loop {
        if subscription.arriving().await?.is_none() {
            return Ok(None);
        }
        if let Some(page) = subscription.event().await? {
            return Ok(Some(page));
        }
    }
}

#[tokio::test]
async fn an_event_is_read_whole_however_it_is_cut() {
    let body = [initial(), event(EVENT), event(EVENT)].concat();
    for size in [1, 7, 100, body.len()] {
        let pieces: Vec<&[u8]> = body.chunks(size).collect();
        let script = Script::new(vec![described("ACTIVE"), events(&pieces)]).await;
        let after = StartAt::After(SequenceNumber::from(6));
        let mut subscription = script.fan_out().subscribe(&shard(), &after).await.unwrap();
        let mut pages = 0;
        while let Some(bytes) = subscription.arriving().await.unwrap() {
            assert!(bytes <= body.len());
            let Some(page) = subscription.event().await.unwrap() else { continue };
            pages += 1;
            let record = page.records().next().unwrap();
            assert_eq!((record.sequence_number, record.arrival_us), ("7", 1_500_000));
            assert_eq!(record.payload, Payload::Base64(b"b25l"));
            assert_eq!((page.next_iterator.as_deref(), page.behind()), (Some("9"), Behind::Millis(12)));
            let served = page.served_us.unwrap() - DATE_US;
            assert!((0..60_000_000).contains(&served), "by the clock of the stream: {served}");
        }
        assert_eq!(pages, 2);
        let (operation, asked) = script.calls.lock().unwrap()[1].clone();
        assert_eq!(operation, "SubscribeToShard");
        assert!(
            asked.contains(r#""SequenceNumber":"6""#) && asked.contains("AFTER_SEQUENCE_NUMBER"),
            "{asked}"
        );
        assert!(asked.contains(CONSUMER), "{asked}");
    }
}

#[tokio::test]
async fn a_record_of_ten_mebibytes_is_an_ordinary_one() {
    let data = base64_simd::STANDARD.encode_to_string(vec![b'x'; 10 << 20]);
    let large = EVENT.replace("b25l", &data);
    let page = said(&event(&large)).await.unwrap().unwrap();
    assert_eq!(page.records().next().unwrap().data().len(), 10 << 20);
    assert!(page.bytes() < PAGE_BYTES_MAX);
}

#[tokio::test]
async fn the_end_of_a_shard_is_believed_when_it_is_complete() {
    let end = |children: &str| {
        event(&format!(r#"{{"Records":[],"MillisBehindLatest":0,"ChildShards":{children}}}"#))
    };
    let child = r#"[{"ShardId":"c","ParentShards":["p"],"HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"9"}}]"#;
    let page = said(&end(child)).await.unwrap().unwrap();
    assert_eq!((page.next_iterator, page.children.len()), (None, 1));
    for no_end in [end("[]"), end("null"), event(r#"{"Records":[],"MillisBehindLatest":0}"#)] {
        let error = said(&no_end).await.unwrap_err();
        assert!(matches!(&error, FetchError::Unavailable(why) if why.to_string().contains("child shards")));
    }
}

#[tokio::test]
async fn an_exception_ends_it_with_its_cause_on_one_line() {
    for (code, kind) in [
        ("ResourceInUseException", "subscription_in_use"),
        ("InternalFailureException", "unavailable"),
        ("KMSAccessDeniedException", "refused"),
        ("KMSThrottlingException", "throttled"),
        ("SomethingNewException", "unavailable"),
    ] {
        let error = said(&exception(code)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error:?}");
        let text = crate::cause::chain(&error);
        assert!(kind == "throttled" || text.contains(&format!("{code}: be cause")), "{text}");
    }
}

#[tokio::test]
async fn what_breaks_off_or_is_no_event_is_an_error_and_not_an_end() {
    let whole = event(EVENT);
    assert!(said(b"").await.unwrap().is_none(), "five minutes are over");
    let half = said(&whole[..whole.len() - 5]).await.unwrap_err();
    assert!(half.to_string().contains("could not read") && matches!(half, FetchError::Unavailable(_)));
    let mut damaged = whole.clone();
    damaged[60] ^= 1;
    for (body, words) in [
        (damaged, "damaged"),
        (vec![0xff; 40], "4294967295 bytes"),
        (whole[..6].to_vec(), "broke off"),
        (event("{\"Records\":"), "not valid"),
    ] {
        let error = said(&body).await.unwrap_err();
        assert!(crate::cause::chain(&error).contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_never_retried_here() {
    let at = StartAt::At(SequenceNumber::from(1));
    for (code, start, kind) in [
        ("ResourceInUseException", &at, "subscription_in_use"),
        ("LimitExceededException", &at, "throttled"),
        ("AccessDeniedException", &at, "no_fan_out"),
        ("InvalidArgumentException", &at, "stream_recreated"),
        ("InvalidArgumentException", &StartAt::TrimHorizon, "refused"),
        ("InternalFailure", &at, "unavailable"),
    ] {
        let script = Script::new(vec![described("ACTIVE"), refused(code)]).await;
        let error = script.fan_out().subscribe(&shard(), start).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{code}: {error:?}");
        assert_eq!(script.operations(), ["DescribeStreamConsumer", "SubscribeToShard"], "{code}");
    }
}

/// "Not found" is about the shard, unless somebody has deregistered the consumer: then it is registered again.
#[tokio::test]
async fn a_consumer_that_was_deregistered_is_no_shard_that_is_gone() {
    let gone = || refused("ResourceNotFoundException");
    let script = Script::new(vec![described("ACTIVE"), gone(), described("ACTIVE")]).await;
    let error = script.fan_out().subscribe(&shard(), &StartAt::TrimHorizon).await.err().unwrap();
    assert!(matches!(error, FetchError::NotFound), "{error:?}");
    let script = Script::new(vec![
        described("ACTIVE"),
        events(&[&initial(), &exception("ResourceNotFoundException")]),
        gone(),
        gone(),
        registered(),
        described("ACTIVE"),
        events(&[&initial(), &event(EVENT)]),
    ])
    .await;
    let fan_out = script.fan_out();
    let mut first = fan_out.subscribe(&shard(), &StartAt::TrimHorizon).await.unwrap();
    first.arriving().await.unwrap();
    assert!(first.event().await.unwrap().is_none(), "the initial response");
    first.arriving().await.unwrap();
    let error = first.event().await.unwrap_err();
    assert!(crate::cause::chain(&error).contains("consumer app was deregistered"), "{error:?}");
    fan_out.subscribe(&shard(), &StartAt::TrimHorizon).await.unwrap();
    assert_eq!(
        script.operations(),
        [
            "DescribeStreamConsumer",
            "SubscribeToShard",
            "DescribeStreamConsumer",
            "DescribeStreamConsumer",
            "RegisterStreamConsumer",
            "DescribeStreamConsumer",
            "SubscribeToShard",
        ]
    );
}

#[tokio::test]
async fn many_shards_register_one_consumer() {
    let missing = refused("ResourceNotFoundException");
    for register in [registered(), refused("ResourceInUseException")] {
        let script =
            Script::new(vec![missing.clone(), register, described("CREATING"), described("ACTIVE")]).await;
        let consumer = script.consumer();
        let all = join_all((0..50).map(|_| consumer.ready())).await;
        assert!(all.iter().all(|ready| ready.as_ref().is_ok_and(|arn| &**arn == CONSUMER)), "{all:?}");
        let looks = ["DescribeStreamConsumer", "RegisterStreamConsumer", "DescribeStreamConsumer"];
        assert_eq!(script.operations(), [&looks[..], &["DescribeStreamConsumer"]].concat());
    }
}

#[tokio::test]
async fn a_consumer_that_cannot_be_had_is_asked_for_once_a_minute_and_says_what_to_do() {
    for (answers, words) in [
        (
            vec![refused("ResourceNotFoundException"), refused("LimitExceededException")],
            &["queues", "20 consumers (50", "kinetide consumers list", "--retrieval polling"][..],
        ),
        (vec![refused("AccessDeniedException")], &["AccessDeniedException", "consumer app"]),
        (vec![refused("UnknownOperationException")], &["UnknownOperationException"]),
    ] {
        let calls = answers.len();
        let script = Script::new(answers).await;
        let consumer = script.consumer();
        for _ in 0..10 {
            let error = consumer.ready().await.unwrap_err();
            assert!(matches!(error, FetchError::NoFanOut(_)), "{error:?}");
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)) && !text.contains('\n'), "{text}");
        }
        assert_eq!(script.operations().len(), calls);
    }
}
