//! A server with DynamoDB and its streams, and one table in it.

use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType,
};
use kinetide::internals::aws::TableAddress;
use kinetide::internals::fetch::dynamodbstreams::DynamoDbStreamsSource;
use kinetide::internals::local::streams::Streams;
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::dynamodbstreams::{DynamoDbStreamsLister, TableStreams, Which};

const REGION: &str = "us-east-1";

pub(crate) struct Server {
    pub(crate) url: String,
    /// Its answers say when they were given.
    pub(crate) has_clock: bool,
    table: String,
    dynamodb: aws_sdk_dynamodb::Client,
    streams: Arc<TableStreams>,
    client: aws_sdk_dynamodbstreams::Client,
    local: Option<LocalAws>,
}

impl Server {
    pub(crate) async fn embedded(table: &str) -> Self {
        let local = LocalAws::start(LocalSettings::default()).await.unwrap();
        let (dynamodb, streams) = (local.dynamodb_url().to_owned(), local.dynamodb_streams_url().to_owned());
        Self { local: Some(local), ..Self::of(&dynamodb, &streams, table) }
    }

    /// A server that others run, and that other runs may have used.
    pub(crate) async fn at(url: &str, table: &str) -> Self {
        let unlike = format!("{table}-{}", uuid::Uuid::new_v4().simple());
        let answer = reqwest::get(url).await.unwrap();
        let has_clock = answer.headers().contains_key("date");
        Self { has_clock, ..Self::of(url, url, &unlike) }
    }

    fn of(dynamodb: &str, streams: &str, table: &str) -> Self {
        let credentials = Credentials::new("test", "test", None, None, "static");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodb::config::Region::new(REGION))
            .credentials_provider(credentials.clone())
            .endpoint_url(dynamodb);
        let of_streams = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(aws_sdk_dynamodbstreams::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodbstreams::config::Region::new(REGION))
            .credentials_provider(credentials)
            .endpoint_url(streams);
        let client = aws_sdk_dynamodbstreams::Client::from_conf(of_streams.build());
        let streams = TableStreams::new(client.clone(), TableAddress::named(table), Which::All);
        Self {
            url: dynamodb.to_owned(),
            has_clock: true,
            table: table.to_owned(),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(config.build()),
            streams: Arc::new(streams),
            client,
            local: None,
        }
    }

    pub(crate) fn source(&self) -> DynamoDbStreamsSource {
        DynamoDbStreamsSource::new(Arc::clone(&self.streams))
    }

    pub(crate) fn lister(&self) -> DynamoDbStreamsLister {
        DynamoDbStreamsLister::new(Arc::clone(&self.streams))
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.local.is_some()
    }

    pub(crate) fn streams(&self) -> &Streams {
        self.local.as_ref().unwrap().streams()
    }

    /// A table with a stream of this view type, as if nobody had read one of its name before.
    pub(crate) async fn create(&mut self, view: &str) {
        let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build().unwrap();
        let id = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
        let made = self.dynamodb.create_table().table_name(&self.table).key_schema(key);
        let made = made.attribute_definitions(id.build().unwrap()).billing_mode(BillingMode::PayPerRequest);
        made.stream_specification(specification(Some(view))).send().await.unwrap();
        let table = TableAddress::named(&*self.table);
        self.streams = Arc::new(TableStreams::new(self.client.clone(), table, Which::All));
    }

    pub(crate) async fn drop_table(&self) {
        self.dynamodb.delete_table().table_name(&self.table).send().await.unwrap();
    }

    pub(crate) async fn put(&self, id: usize, n: usize) {
        let call = self.dynamodb.put_item().table_name(&self.table);
        let call =
            call.item("id", AttributeValue::S(id.to_string())).item("n", AttributeValue::N(n.to_string()));
        let nested = [("b", "1"), ("a", "2"), ("c", "3")];
        let nested = nested.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        call.item("nested", AttributeValue::M(nested.into())).send().await.unwrap();
    }

    pub(crate) async fn put_each(&self, items: &[(usize, usize)]) {
        for (id, n) in items {
            self.put(*id, *n).await;
        }
    }

    pub(crate) async fn delete(&self, id: usize) {
        let call = self.dynamodb.delete_item().table_name(&self.table);
        call.key("id", AttributeValue::S(id.to_string())).send().await.unwrap();
    }

    /// Turns the stream on or off, where the server can.
    pub(crate) async fn turn(&self, on: bool) -> bool {
        let wanted = specification(on.then_some("NEW_IMAGE"));
        let call = self.dynamodb.update_table().table_name(&self.table).stream_specification(wanted);
        call.send().await.is_ok()
    }
}

fn specification(view: Option<&str>) -> StreamSpecification {
    let specification = StreamSpecification::builder().stream_enabled(view.is_some());
    specification.set_stream_view_type(view.map(StreamViewType::from)).build().unwrap()
}
