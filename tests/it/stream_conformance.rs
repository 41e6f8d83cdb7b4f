//! The checks of every stream, run on the twin in memory, and on the Kinesis adapters over the embedded server.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use kinetide::internals::aws::{Network, StreamAddress, for_subscriptions};
use kinetide::internals::clock::wall_clock_us;
use kinetide::internals::fetch::fanout::FanOut;
use kinetide::internals::fetch::fanout::kinesis::{Consumer, KinesisFanOut};
use kinetide::internals::fetch::fanout::memory::MemoryFanOut;
use kinetide::internals::fetch::kinesis::KinesisSource;
use kinetide::internals::fetch::memory::{Faults, MemoryStream};
use kinetide::internals::fetch::{Polled, Polling, RecordSource, Retrieval};
use kinetide::internals::local::kinesis::{Fault, FaultKind, KinesisSettings};
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::kinesis::KinesisShardLister;
use kinetide::internals::shard::{SequenceNumber, ShardId, ShardLister};
use kinetide::testing::{StreamScene, an_expired_iterator_says_so, reader_conforms, stream_conforms};

struct InMemory {
    stream: Arc<MemoryStream>,
    retrieval: Retrieval,
}

#[async_trait]
impl StreamScene for InMemory {
    fn source(&self) -> Arc<dyn Polled> {
        Arc::clone(&self.stream) as Arc<dyn Polled>
    }

    fn records(&self) -> Arc<dyn RecordSource> {
        let polling = Arc::new(Polling::new(self.source(), Duration::from_secs(1)));
        match self.retrieval {
            Retrieval::Polling => polling,
            Retrieval::FanOut => {
                let stream = Arc::clone(&self.stream);
                let fan_out = MemoryFanOut::new(stream, Arc::default(), Duration::from_millis(100));
                Arc::new(FanOut::new(Arc::new(fan_out), polling))
            }
        }
    }

    fn lister(&self) -> Arc<dyn ShardLister> {
        Arc::clone(&self.stream) as Arc<dyn ShardLister>
    }

    fn put_large(&self, bytes: usize) {
        self.stream.put(0, "key", vec![b'x'; bytes]).unwrap();
    }

    fn put(&self, number: usize) -> SequenceNumber {
        self.stream.put(0, "key", number.to_string()).unwrap().1
    }

    fn split(&self, shard: &ShardId) -> [ShardId; 2] {
        self.stream.split(shard)
    }

    fn merge(&self, lower: &ShardId, upper: &ShardId) -> ShardId {
        self.stream.merge(lower, upper)
    }

    async fn trim(&self) {
        for (shard, sequence, _) in self.stream.records() {
            self.stream.trim(&shard, &sequence);
        }
    }

    fn only_empty_pages(&self, on: bool) {
        self.stream.set_faults(1, Faults { empty: f64::from(u8::from(on)), ..Faults::default() });
    }

    fn throttle(&self, on: bool) {
        self.stream.set_faults(1, Faults { throttled: f64::from(u8::from(on)), ..Faults::default() });
    }

    async fn expire_iterators(&self) {
        self.stream.expire_iterators();
    }
}

/// Iterators of the embedded Kinesis live for so long where a check waits for their end.
const SHORT_LIFE: Duration = Duration::from_millis(400);

struct OverKinesis {
    aws: LocalAws,
    client: Client,
    /// As a worker subscribes: by HTTP/2 over TLS.
    subscribing: Client,
    stream: &'static str,
    address: StreamAddress,
    retrieval: Retrieval,
    consumers: AtomicUsize,
}

impl OverKinesis {
    /// Its stream is named by an ARN.
    async fn by_arn() -> Self {
        let arn = "arn:aws:kinesis:us-east-1:000000000000:stream/conforms";
        Self { address: arn.parse().unwrap(), ..Self::start(Duration::from_secs(300)).await }
    }

    async fn start(iterator_ttl: Duration) -> Self {
        let kinesis = KinesisSettings { iterator_ttl, ..KinesisSettings::default() };
        let ca = tempfile::tempdir().unwrap();
        let ca_file = ca.path().join("ca.pem");
        let settings = LocalSettings { kinesis, ca_file: Some(ca_file.clone()), ..LocalSettings::default() };
        let aws = LocalAws::start(settings).await.unwrap();
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::for_tests()))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(aws.kinesis_url())
            .build();
        let by_tls = config.to_builder().endpoint_url(aws.kinesis_tls_url().unwrap()).build();
        let subscribing =
            Client::new(&for_subscriptions(&by_tls, &Network::with_ca_bundle(ca_file.to_str())));
        let stream = "conforms";
        aws.kinesis().create_stream(stream, 1).unwrap();
        let address = StreamAddress::named(stream);
        let (retrieval, consumers) = (Retrieval::Polling, AtomicUsize::new(0));
        Self { client: Client::new(&config), subscribing, aws, stream, address, retrieval, consumers }
    }

    async fn by_fan_out() -> Self {
        Self { retrieval: Retrieval::FanOut, ..Self::start(Duration::from_secs(300)).await }
    }

    fn fault(&self, kind: FaultKind, on: bool) {
        let fault = Fault { operation: "GetRecords".to_owned(), kind, rate: 1.0 };
        self.aws.kinesis().set_faults(on.then_some(fault).into_iter().collect(), 1);
    }
}

#[async_trait]
impl StreamScene for OverKinesis {
    fn source(&self) -> Arc<dyn Polled> {
        Arc::new(KinesisSource::new(self.client.clone(), self.address.clone()))
    }

    fn records(&self) -> Arc<dyn RecordSource> {
        let polling = Arc::new(Polling::new(self.source(), Duration::from_secs(1)));
        match self.retrieval {
            Retrieval::Polling => polling,
            Retrieval::FanOut => {
                let name = format!("consumer-{}", self.consumers.fetch_add(1, Ordering::Relaxed));
                let consumer = Consumer::new(self.client.clone(), self.address.clone(), name);
                let fan_out = KinesisFanOut::new(self.subscribing.clone(), Arc::new(consumer));
                Arc::new(FanOut::new(Arc::new(fan_out), polling))
            }
        }
    }

    fn lister(&self) -> Arc<dyn ShardLister> {
        Arc::new(KinesisShardLister::new(self.client.clone(), self.address.clone()))
    }

    fn put(&self, number: usize) -> SequenceNumber {
        self.aws.kinesis().put(self.stream, "key", number.to_string().as_bytes()).unwrap()
    }

    fn put_large(&self, bytes: usize) {
        self.aws.kinesis().put(self.stream, "key", &vec![b'x'; bytes]).unwrap();
    }

    fn split(&self, shard: &ShardId) -> [ShardId; 2] {
        self.aws.kinesis().split(self.stream, shard).unwrap()
    }

    fn merge(&self, lower: &ShardId, upper: &ShardId) -> ShardId {
        self.aws.kinesis().merge(self.stream, lower, upper).unwrap()
    }

    async fn trim(&self) {
        // Arrival times are whole milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.aws.kinesis().forget_before(self.stream, wall_clock_us()).unwrap();
    }

    fn only_empty_pages(&self, on: bool) {
        self.fault(FaultKind::Empty, on);
    }

    fn throttle(&self, on: bool) {
        self.fault(FaultKind::Throttle, on);
    }

    async fn expire_iterators(&self) {
        tokio::time::sleep(SHORT_LIFE + Duration::from_millis(100)).await;
    }
}

fn in_memory(retrieval: Retrieval) -> InMemory {
    InMemory { stream: Arc::new(MemoryStream::new(1, 100, |_| wall_clock_us())), retrieval }
}

#[tokio::test]
async fn the_twin_in_memory_conforms() {
    let new = async || in_memory(Retrieval::Polling);
    stream_conforms(new).await;
    reader_conforms(new).await;
    an_expired_iterator_says_so(&new().await).await;
}

#[tokio::test(start_paused = true)]
async fn fan_out_of_the_twin_conforms() {
    reader_conforms(async || in_memory(Retrieval::FanOut)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fan_out_of_kinesis_conforms() {
    reader_conforms(OverKinesis::by_fan_out).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinesis_conforms() {
    stream_conforms(async || OverKinesis::start(Duration::from_secs(300)).await).await;
    reader_conforms(async || OverKinesis::start(Duration::from_secs(300)).await).await;
    an_expired_iterator_says_so(&OverKinesis::start(SHORT_LIFE).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinesis_conforms_by_arn() {
    stream_conforms(OverKinesis::by_arn).await;
}
