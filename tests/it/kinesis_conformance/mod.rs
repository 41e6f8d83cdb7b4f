//! One list of checks on the Kinesis API, run with the real SDK on the embedded server, and on `kinesis-local` when
//! `KINETIDE_TEST_KINESIS_LOCAL` holds its URL. Known differences are `Capabilities`, explained in
//! `docs/LOCAL-AWS.md`.

mod cases;
mod ours;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kinesis::config::{BehaviorVersion, Region, retry::RetryConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Record, Shard, ShardIteratorType, StreamStatus};
use aws_sdk_kinesis::{Client, Config};
use kinetide::internals::clock::wall_clock_us;
use kinetide::internals::local::{LocalAws, LocalSettings};

/// What a server does as the service does.
#[derive(Clone, Copy, Debug)]
struct Capabilities {
    /// Refuses a call with more than 500 records.
    refuses_501_records: bool,
    /// Answers a record above the limit with an error, not by closing the connection.
    refuses_big_records: bool,
    /// Shard filters leave out shards that were closed before their time, or opened after it.
    filters_by_time: bool,
    /// GetShardIterator refuses a sequence number that is missing or not of the shard.
    checks_sequence_numbers: bool,
    /// The numbers of a child shard start above the end of its parent.
    numbers_children_above_parents: bool,
    /// Answers an iterator that is not one with InvalidArgumentException, not with HTTP 500.
    refuses_bad_iterators: bool,
    /// Refuses a second subscription within five seconds.
    refuses_early_resubscribe: bool,
    /// UpdateShardCount refuses a stream in on-demand mode.
    refuses_on_demand: bool,
    /// UpdateShardCount splits and merges towards even ranges.
    resizes_evenly: bool,
    /// Ends a subscription to a closed shard with its children.
    subscription_ends_with_children: bool,
    /// A split key outside the shard is refused with InvalidArgumentException.
    checks_split_keys: bool,
}

const OURS: Capabilities = Capabilities {
    refuses_501_records: true,
    refuses_big_records: true,
    filters_by_time: true,
    checks_sequence_numbers: true,
    numbers_children_above_parents: true,
    refuses_bad_iterators: true,
    refuses_early_resubscribe: true,
    refuses_on_demand: true,
    resizes_evenly: true,
    subscription_ends_with_children: true,
    checks_split_keys: true,
};

/// `kinesis-local` 0.6.2.
const KINESIS_LOCAL: Capabilities = Capabilities {
    refuses_501_records: false,
    refuses_big_records: false,
    filters_by_time: false,
    checks_sequence_numbers: false,
    numbers_children_above_parents: false,
    refuses_bad_iterators: false,
    refuses_early_resubscribe: false,
    refuses_on_demand: false,
    resizes_evenly: false,
    subscription_ends_with_children: false,
    checks_split_keys: false,
};

/// A server under test.
struct Server {
    client: Client,
    can: Capabilities,
}

/// Runs the checks one after the other, each on a stream of its own; a server may be used by several runs.
macro_rules! run_each {
    ($server:expr; $($case:ident),+ $(,)?) => {$(
        eprintln!("conformance: {}", stringify!($case));
        let stream = format!("{}-{}", stringify!($case), wall_clock_us());
        Box::pin(cases::$case($server, &stream)).await;
    )+};
}

async fn run_all(server: &Server) {
    run_each!(server;
        streams_live_and_die,
        streams_are_named_or_addressed,
        records_route_by_hash_key,
        bad_puts_are_refused,
        shards_are_listed_in_pages_by_token_alone,
        shard_filters_see_the_lineage,
        descriptions_are_paged,
        every_iterator_type_starts_where_it_should,
        bad_iterators_are_refused,
        lag_is_told_until_caught_up,
        a_page_holds_ten_megabytes,
        a_split_parent_is_read_to_its_end,
        a_merge_has_two_parents,
        bad_reshards_are_refused,
        a_resize_keeps_the_lineage,
        bad_resizes_are_refused,
        registrations_come_and_go,
        subscriptions_push_records,
        a_subscription_ends_with_the_shard,
        retention_moves_both_ways,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_kinesis_conforms() {
    let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
    run_all(&Server { client: client(aws.kinesis_url()), can: OURS }).await;
    aws.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinesis_local_conforms() {
    #[expect(clippy::disallowed_methods, reason = "a test that needs another server is chosen by a variable")]
    let url = std::env::var("KINETIDE_TEST_KINESIS_LOCAL");
    match url {
        Ok(url) => run_all(&Server { client: client(&url), can: KINESIS_LOCAL }).await,
        Err(_) => {
            eprintln!("skipped: KINETIDE_TEST_KINESIS_LOCAL does not hold the URL of a kinesis-local server")
        }
    }
}

fn client(url: &str) -> Client {
    Client::from_conf(
        Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "static"))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(url)
            .build(),
    )
}

/// The name of the exception in an error.
fn kind<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    match error {
        SdkError::ServiceError(error) => error.err().code().unwrap_or("no code"),
        _ => "no service error",
    }
}

impl Server {
    async fn create(&self, name: &str, shards: i32) {
        self.client.create_stream().stream_name(name).shard_count(shards).send().await.unwrap();
        self.active(name).await;
    }

    /// Waits until a stream is neither being created nor updated.
    async fn active(&self, name: &str) {
        for _ in 0..200 {
            let summary = self.client.describe_stream_summary().stream_name(name).send().await.unwrap();
            if summary.stream_description_summary.unwrap().stream_status == StreamStatus::Active {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("stream {name} did not become active");
    }

    async fn put(&self, stream: &str, key: &str, data: &[u8]) -> (String, String) {
        let put = self.client.put_record().stream_name(stream).partition_key(key).data(Blob::new(data));
        let put = put.send().await.unwrap();
        (put.shard_id, put.sequence_number)
    }

    /// Puts `count` records, 200 at a time; their data is their number.
    async fn put_many(&self, stream: &str, count: usize) {
        let numbers: Vec<usize> = (0..count).collect();
        for chunk in numbers.chunks(200) {
            let entries = chunk.iter().map(|i| {
                let entry = PutRecordsRequestEntry::builder().partition_key(format!("key-{i}"));
                entry.data(Blob::new(i.to_string())).build().unwrap()
            });
            let put = self.client.put_records().stream_name(stream).set_records(Some(entries.collect()));
            assert_eq!(put.send().await.unwrap().failed_record_count, Some(0));
        }
    }

    async fn shards(&self, stream: &str) -> Vec<Shard> {
        let mut shards =
            self.client.list_shards().stream_name(stream).send().await.unwrap().shards.unwrap_or_default();
        shards.sort_by(|a, b| a.shard_id.cmp(&b.shard_id));
        shards
    }

    async fn iterator(&self, stream: &str, shard: &str, kind: ShardIteratorType) -> String {
        let iterator =
            self.client.get_shard_iterator().stream_name(stream).shard_id(shard).shard_iterator_type(kind);
        iterator.send().await.unwrap().shard_iterator.unwrap()
    }

    async fn get(&self, iterator: &str, limit: i32) -> GetRecordsOutput {
        self.client.get_records().shard_iterator(iterator).limit(limit).send().await.unwrap()
    }

    /// Reads a shard until it ends or is drained; answers its records and the last page.
    async fn drain(&self, stream: &str, shard: &str) -> (Vec<Record>, GetRecordsOutput) {
        let mut iterator = self.iterator(stream, shard, ShardIteratorType::TrimHorizon).await;
        let mut records = Vec::new();
        loop {
            let mut page = self.get(&iterator, 10_000).await;
            records.append(&mut page.records);
            match &page.next_shard_iterator {
                Some(next) if page.millis_behind_latest != Some(0) => iterator = next.clone(),
                // A closed shard may need one more call to say so.
                Some(next) => {
                    let mut last = self.get(next, 10_000).await;
                    records.append(&mut last.records);
                    return (records, last);
                }
                None => return (records, page),
            }
        }
    }
}

/// Data of records, as text.
fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.data.clone().into_inner()).unwrap()).collect()
}

fn ids(shards: &[Shard]) -> BTreeSet<&str> {
    shards.iter().map(|shard| shard.shard_id.as_str()).collect()
}

fn open(shards: &[Shard]) -> Vec<&Shard> {
    shards
        .iter()
        .filter(|s| s.sequence_number_range.as_ref().unwrap().ending_sequence_number.is_none())
        .collect()
}

/// First and last hash key.
fn range(shard: &Shard) -> (u128, u128) {
    let range = shard.hash_key_range.as_ref().unwrap();
    (range.starting_hash_key.parse().unwrap(), range.ending_hash_key.parse().unwrap())
}
