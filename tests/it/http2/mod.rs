//! Enhanced fan-out as AWS speaks it: HTTP/2 over TLS, by the real SDK, with its own HTTP client and with the one for
//! subscriptions.

mod tap;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    ShardIteratorType, StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use futures::future::join_all;
use kinetide::internals::aws::{Network, for_subscriptions};
use kinetide::internals::local::{LocalAws, LocalSettings};
use tap::Tap;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

type Events = EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>;

const STREAM: &str = "s";

/// Nothing here takes longer, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// After this much silence a reader gives a subscription up.
const SILENCE_MAX: Duration = Duration::from_secs(35);

/// The embedded Kinesis behind a tap, with one consumer.
struct Scene {
    aws: LocalAws,
    tap: Tap,
    folder: TempDir,
    consumer: String,
}

/// Which HTTP client is asked.
#[derive(Clone, Copy, Debug)]
enum By {
    Sdk,
    Subscriptions,
}

impl Scene {
    async fn set(shards: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = Some(folder.path().join("ca.pem"));
        let aws = LocalAws::start(LocalSettings { ca_file, ..LocalSettings::default() }).await.unwrap();
        aws.kinesis().create_stream(STREAM, shards).unwrap();
        let tap = Tap::before(aws.kinesis_tls_url().unwrap()).await;
        let mut scene = Self { aws, tap, folder, consumer: String::new() };
        // Not through the tap.
        let client = Client::new(&scene.config(scene.aws.kinesis_url().to_owned()));
        let stream = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        let stream = stream.stream_description_summary.unwrap().stream_arn;
        let consumer = client.register_stream_consumer().stream_arn(stream).consumer_name("app");
        scene.consumer = consumer.send().await.unwrap().consumer.unwrap().consumer_arn;
        scene
    }

    fn network(&self) -> Network {
        Network::with_ca_bundle(self.folder.path().join("ca.pem").to_str())
    }

    fn config(&self, url: String) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(url)
            .http_client(self.network().http_client().unwrap())
            .build()
    }

    /// A client behind the tap.
    fn client(&self, by: By) -> Client {
        let config = self.config(self.tap.url("https"));
        match by {
            By::Sdk => Client::new(&config),
            By::Subscriptions => Client::new(&for_subscriptions(&config, &self.network())),
        }
    }

    async fn subscribe(&self, client: &Client, shard: u32) -> Events {
        let position = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
        let call = client.subscribe_to_shard().consumer_arn(&self.consumer);
        let call = call.shard_id(format!("shardId-{shard:012}")).starting_position(position);
        match timeout(PATIENCE, call.send()).await.expect("an answer") {
            Ok(subscription) => subscription.event_stream,
            Err(error) => panic!("{}", DisplayErrorContext(error)),
        }
    }

    fn subscriptions(&self) -> usize {
        self.aws.kinesis().open_subscriptions(STREAM).unwrap()
    }
}

async fn next(events: &mut Events) -> Result<Option<SubscribeToShardEvent>, String> {
    match timeout(PATIENCE, events.recv()).await.expect("a word") {
        Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => Ok(Some(event)),
        Ok(Some(other)) => panic!("unknown event {other:?}"),
        Ok(None) => Ok(None),
        Err(error) => Err(DisplayErrorContext(error).to_string()),
    }
}

/// The next event with records.
async fn next_records(events: &mut Events) -> SubscribeToShardEvent {
    loop {
        let event = next(events).await.unwrap().expect("it goes on");
        if !event.records.is_empty() {
            return event;
        }
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// One port speaks HTTP/2 and HTTP/1.1 over TLS, and HTTP/1.1 without; whoever does not know the CA hangs up.
#[tokio::test(flavor = "multi_thread")]
async fn one_port_speaks_all_of_them() {
    let scene = Scene::set(1).await;
    let ca = std::fs::read(scene.folder.path().join("ca.pem")).unwrap();
    let ca = reqwest::Certificate::from_pem_bundle(&ca).unwrap();
    let trusting = || reqwest::Client::builder().no_proxy().tls_certs_only(ca.clone());
    let port = scene.tap.url("x").rsplit(':').next().unwrap().to_owned();
    for (client, scheme, host, version) in [
        (trusting(), "https", "127.0.0.1", reqwest::Version::HTTP_2),
        (trusting(), "https", "localhost", reqwest::Version::HTTP_2),
        (trusting().http1_only(), "https", "127.0.0.1", reqwest::Version::HTTP_11),
        (trusting(), "http", "127.0.0.1", reqwest::Version::HTTP_11),
    ] {
        let url = format!("{scheme}://{host}:{port}");
        let call = client.build().unwrap().post(&url).header("x-amz-target", "Kinesis_20131202.ListStreams");
        let answer = call.send().await.unwrap();
        assert_eq!(answer.version(), version, "{url}");
        assert!(answer.text().await.unwrap().contains(r#""StreamNames":["s"]"#), "{url}");
    }
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    let refused = stranger.post(scene.tap.url("https")).send().await.unwrap_err();
    let refused = kinetide::internals::cause::chain(&refused);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}

/// 120 subscriptions on one connection, which only HTTP/2 can do. Each brings its records, and each is freed when its reader
/// lets go, while the connection lives on.
#[tokio::test(flavor = "multi_thread")]
async fn many_subscriptions_share_a_connection_of_the_sdk() {
    const SHARDS: u32 = 120;
    let scene = Scene::set(SHARDS).await;
    let client = scene.client(By::Sdk);
    client.list_streams().send().await.unwrap();
    let mut all = join_all((0..SHARDS).map(|shard| scene.subscribe(&client, shard))).await;
    for i in 0..4_000 {
        scene.aws.kinesis().put(STREAM, &format!("key-{i}"), b"x").unwrap();
    }
    join_all(all.iter_mut().map(next_records)).await;
    assert_eq!((scene.subscriptions(), scene.tap.accepted()), (SHARDS as usize, 1));
    all.truncate(7);
    eventually("those are freed", || scene.subscriptions() == 7).await;
    drop(all);
    eventually("all are freed", || scene.subscriptions() == 0).await;
    client.list_streams().send().await.unwrap();
    assert_eq!((scene.tap.accepted(), scene.tap.open()), (1, 1));
}

/// With the client for subscriptions each has a connection of its own, which ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_has_a_connection_of_its_own() {
    let scene = Scene::set(4).await;
    let client = scene.client(By::Subscriptions);
    let mut all = join_all((0..4).map(|shard| scene.subscribe(&client, shard))).await;
    assert_eq!((scene.subscriptions(), scene.tap.accepted()), (4, 4));
    for i in 0..100 {
        scene.aws.kinesis().put(STREAM, &format!("key-{i}"), b"x").unwrap();
    }
    join_all(all.iter_mut().map(next_records)).await;
    all.truncate(1);
    eventually("three are gone", || (scene.subscriptions(), scene.tap.open()) == (1, 1)).await;
    drop(all);
    eventually("all are gone", || (scene.subscriptions(), scene.tap.open()) == (0, 0)).await;
}

/// A reader that does not read stops the server at its window: of 40 MB a few events are made, and the rest never.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_stops_the_server() {
    const RECORDS: usize = 40;
    for by in [By::Sdk, By::Subscriptions] {
        let scene = Scene::set(1).await;
        for _ in 0..RECORDS {
            scene.aws.kinesis().put(STREAM, "k", &vec![b'x'; 1_000_000]).unwrap();
        }
        let mut events = scene.subscribe(&scene.client(by), 0).await;
        scene.tap.quiet().await;
        // What the server has not made yet, it never will.
        let client = Client::new(&scene.config(scene.aws.kinesis_url().to_owned()));
        client.deregister_stream_consumer().consumer_arn(&scene.consumer).send().await.unwrap();
        let mut made = 0;
        let end = loop {
            match next(&mut events).await {
                Ok(Some(event)) => made += event.records.len(),
                Ok(None) => panic!("it ended without a word after {made} records"),
                Err(end) => break end,
            }
        };
        assert!(end.contains("ResourceNotFoundException"), "{end}");
        // The SDK's window holds 2 MiB, ours half a MiB; on top comes the event that waits for room.
        let most = if matches!(by, By::Sdk) { 4 } else { 2 };
        assert!((1..=most).contains(&made), "{by:?}: {made} of {RECORDS} records");
    }
}

/// Readers that wait take nothing from others: neither from a subscription nor from other calls.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_wait_stop_nobody_else() {
    const WAITING: u32 = 6;
    let scene = Scene::set(WAITING + 1).await;
    let kinesis = scene.aws.kinesis();
    // Each shard has megabytes to send: together more than the window of a connection of the SDK.
    for i in 0..10 * WAITING {
        kinesis.put(STREAM, &format!("key-{i}"), &vec![b'x'; 1_000_000]).unwrap();
    }
    assert!(kinesis.shards(STREAM).unwrap().iter().all(|(_, records)| *records >= 3));
    let client = scene.client(By::Subscriptions);
    let waiting = join_all((0..WAITING).map(|shard| scene.subscribe(&client, shard))).await;
    scene.tap.quiet().await;
    let mut events = scene.subscribe(&client, WAITING).await;
    next_records(&mut events).await;
    timeout(PATIENCE, client.list_streams().send()).await.expect("an answer").unwrap();
    drop(waiting);
}

/// The largest record that a stream can have is one event.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_ten_mebibytes_comes_whole() {
    let scene = Scene::set(1).await;
    let data: Vec<u8> = (0..10_u32 << 20).map(|i| (i % 251) as u8).collect();
    scene.aws.kinesis().put(STREAM, "k", &data).unwrap();
    scene.aws.kinesis().put(STREAM, "k", b"after").unwrap();
    for by in [By::Sdk, By::Subscriptions] {
        let mut events = scene.subscribe(&scene.client(by), 0).await;
        let mut records = next_records(&mut events).await.records;
        if records.len() == 1 {
            records.extend(next_records(&mut events).await.records);
        }
        assert!(records[0].data.as_ref() == data, "{by:?}");
        assert_eq!(records[1].data.as_ref(), b"after", "{by:?}");
        // Within five seconds of the first one nobody else may subscribe.
        drop(events);
        sleep(Duration::from_millis(5_050)).await;
    }
}

/// A connection through which nothing comes any more is given up before a reader would do so, and the next subscription does
/// not go through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_noticed() {
    let scene = Scene::set(1).await;
    let client = scene.client(By::Subscriptions);
    let mut events = scene.subscribe(&client, 0).await;
    scene.aws.kinesis().put(STREAM, "k", b"x").unwrap();
    next_records(&mut events).await;
    scene.tap.silence();
    let end = timeout(SILENCE_MAX, next(&mut events)).await.expect("it is noticed").unwrap_err();
    assert!(end.contains("broken pipe"), "{end}");
    let mut events = scene.subscribe(&client, 0).await;
    assert_eq!(next_records(&mut events).await.records.len(), 1);
}
