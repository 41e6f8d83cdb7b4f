//! The servers that the checks on DynamoDB run on, and what an error of a server means.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use futures::future::join_all;
use kinetide::internals::lease::dynamodb::{DynamoDbLeaseTable, Lacks, Sight};
use kinetide::internals::lease::{Lease, LeaseTable, LeaseWrite, TableError, WriteError};
use kinetide::internals::shard::Checkpoint;

use super::{Table, conforms, items, its_absence_is_noticed, layouts, shard};

/// The common checks in both layouts, then those that need to look at and tamper with the items themselves.
async fn conforms_as_dynamodb(endpoint: &str) {
    let client = client(endpoint);
    // One after the other: a server may answer nobody while it makes an index for one of them.
    single_table(&client).await;
    three_tables(&client).await;
    layouts::conform(&client).await;
}

async fn single_table(client: &Client) {
    let place = Items::new(client, &unused_name("single"), "leaseKey");
    let table = Arc::new(DynamoDbLeaseTable::new(client.clone(), &place.table));
    assert!(matches!(table.snapshot().await, Err(TableError::NotFound(_))));
    let sight = Sight { lacks: Lacks::Table, three_tables: false, declared: false };
    assert_eq!(table.look().await.unwrap(), sight);
    let table: Table = table;
    conforms(&table).await;
    let sight = Sight { lacks: Lacks::Nothing, declared: true, ..sight };
    rehearsals_leave_nothing(sight, &[&place]).await;
    items::conform(&table, &place, &place, &place).await;
    place.delete_table().await;
    its_absence_is_noticed(&table, &Lease::new(&shard(0), Checkpoint::Latest)).await;
}

async fn three_tables(client: &Client) {
    let leases = Items::new(client, &unused_name("three"), "leaseKey");
    let (coordinator, metrics) = leases.legacy();
    coordinator.create_table().await;
    metrics.create_table().await;
    let table: Table = Arc::new(DynamoDbLeaseTable::new(client.clone(), &leases.table));
    conforms(&table).await;
    let sight = Sight { lacks: Lacks::Nothing, three_tables: true, declared: true };
    rehearsals_leave_nothing(sight, &[&leases, &coordinator, &metrics]).await;
    items::conform(&table, &leases, &coordinator, &metrics).await;
    for place in [&leases, &coordinator, &metrics] {
        place.delete_table().await;
    }
    its_absence_is_noticed(&table, &Lease::new(&shard(0), Checkpoint::Latest)).await;
}

/// Who may write is told so, and no table has another row than before.
async fn rehearsals_leave_nothing(sight: Sight, places: &[&Items]) {
    let counts =
        async || {
            join_all(places.iter().map(|place| async {
                place.client.scan().table_name(&place.table).send().await.unwrap().count
            }))
            .await
        };
    let before = counts().await;
    let table = DynamoDbLeaseTable::new(places[0].client.clone(), &places[0].table);
    assert_eq!(table.look().await.unwrap(), sight);
    let rehearsed = table.rehearse().await;
    assert_eq!(rehearsed.len(), 3 * places.len());
    for each in rehearsed {
        assert!(each.outcome.is_ok(), "{each:?}");
    }
    assert_eq!(counts().await, before);
}

pub(super) fn unused_name(what: &str) -> String {
    format!("lease-table-{what}-{}", uuid::Uuid::new_v4())
}

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::for_tests())
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}

/// A table, looked at and changed behind the back of the code under test.
#[derive(Clone)]
pub(super) struct Items {
    pub(super) client: Client,
    pub(super) table: String,
    pub(super) key: &'static str,
}

impl Items {
    pub(super) fn new(client: &Client, table: &str, key: &'static str) -> Self {
        Self { client: client.clone(), table: table.to_owned(), key }
    }

    /// The tables of coordinator and metrics that go with this lease table.
    pub(super) fn legacy(&self) -> (Self, Self) {
        let place = |suffix, key| Self::new(&self.client, &format!("{}-{suffix}", self.table), key);
        (place("CoordinatorState", "key"), place("WorkerMetricStats", "wid"))
    }

    /// As KCL does, but without an index.
    pub(super) async fn create_table(&self) {
        let attribute =
            AttributeDefinition::builder().attribute_name(self.key).attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name(self.key).key_type(KeyType::Hash);
        self.client
            .create_table()
            .table_name(&self.table)
            .attribute_definitions(attribute.build().unwrap())
            .key_schema(key.build().unwrap())
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await
            .unwrap();
    }

    pub(super) async fn delete_table(&self) {
        self.client.delete_table().table_name(&self.table).send().await.unwrap();
    }

    /// Puts an item with this key.
    pub(super) async fn put(&self, key: &str, attributes: &[(&str, AttributeValue)]) {
        let mut item: HashMap<_, _> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        item.insert(self.key.to_owned(), s(key));
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await.unwrap();
    }

    pub(super) async fn find(&self, key: &str) -> Option<HashMap<String, AttributeValue>> {
        let call = self.client.get_item().table_name(&self.table).consistent_read(true);
        call.key(self.key, s(key)).send().await.unwrap().item
    }

    pub(super) async fn get(&self, key: &str) -> HashMap<String, AttributeValue> {
        self.find(key).await.unwrap()
    }

    pub(super) async fn set(&self, key: &str, name: &str, value: AttributeValue) {
        let call = self.client.update_item().table_name(&self.table).key(self.key, s(key));
        let call = call.update_expression("SET #n = :v").expression_attribute_names("#n", name);
        call.expression_attribute_values(":v", value).send().await.unwrap();
    }

    pub(super) async fn remove(&self, key: &str, name: &str) {
        let call = self.client.update_item().table_name(&self.table).key(self.key, s(key));
        let call = call.update_expression("REMOVE #n").expression_attribute_names("#n", name);
        call.send().await.unwrap();
    }

    pub(super) async fn delete(&self, key: &str) {
        self.client.delete_item().table_name(&self.table).key(self.key, s(key)).send().await.unwrap();
    }
}

pub(super) fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub(super) fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[cfg(feature = "local")]
#[tokio::test]
async fn embedded_dynamodb_conforms() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let database = dynoxide::Database::memory().unwrap();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(dynoxide::server::serve_with_shutdown(listener, database, std::future::pending()));
    conforms_as_dynamodb(&endpoint).await;
}

/// Runs on a server that somebody else has started, if the environment names its endpoint.
#[expect(clippy::print_stdout, reason = "says what was skipped")]
async fn conforms_at(variable: &str) {
    #[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
    let endpoint = std::env::var(variable);
    match endpoint {
        Ok(endpoint) => conforms_as_dynamodb(&endpoint).await,
        Err(_) => println!("skipped: lease table conformance because {variable} names no endpoint"),
    }
}

#[tokio::test]
async fn dynamodb_local_conforms() {
    conforms_at("KINETIDE_TEST_DYNAMODB_LOCAL").await;
}

#[tokio::test]
async fn ministack_conforms() {
    conforms_at("KINETIDE_TEST_MINISTACK").await;
}

#[tokio::test]
async fn no_server_means_unknown_for_writes_and_unavailable_for_reads() {
    // A port that was just free: nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let table = DynamoDbLeaseTable::new(client(&endpoint), "lease-conformance");
    let lease = Lease::new(&shard(0), Checkpoint::Latest);
    assert!(matches!(
        table.write(&lease, &LeaseWrite::Renew { kbps: None, caught_up: None }).await,
        Err(WriteError::Unknown(_))
    ));
    assert!(matches!(table.get(&lease.key).await, Err(TableError::Unavailable(_))));
}

/// Answers every request in the same way.
async fn canned(status: &'static str, kind: &'static str) -> (String, tokio::task::JoinSet<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        let body = format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{kind}","message":"canned"}}"#);
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16_384];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (endpoint, server)
}

#[tokio::test]
async fn a_refused_write_has_not_happened_and_a_failed_one_is_unknown() {
    let lease = Lease::new(&shard(0), Checkpoint::Latest);
    for (status, kind, refused) in [
        ("400 Bad Request", "ProvisionedThroughputExceededException", true),
        ("400 Bad Request", "ThrottlingException", true),
        ("400 Bad Request", "AccessDeniedException", true),
        ("500 Internal Server Error", "InternalServerError", false),
        ("503 Service Unavailable", "ServiceUnavailable", false),
    ] {
        let (endpoint, _server) = canned(status, kind).await;
        let table = DynamoDbLeaseTable::new(client(&endpoint), "lease-conformance");
        match table.write(&lease, &LeaseWrite::Renew { kbps: None, caught_up: None }).await {
            Err(WriteError::NotWritten(_)) => assert!(refused, "{kind}"),
            Err(WriteError::Unknown(_)) => assert!(!refused, "{kind}"),
            other => panic!("unexpected answer to {kind}: {other:?}"),
        }
    }
    let (endpoint, _server) = canned("400 Bad Request", "AccessDeniedException").await;
    let table = DynamoDbLeaseTable::new(client(&endpoint), "lease-conformance");
    assert!(matches!(table.ensure_exists().await, Err(TableError::Unusable { .. })));
}
