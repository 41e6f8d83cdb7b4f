//! A DynamoDB table as the target: `BatchWriteItem`, and reading the table back for a check.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, DeleteRequest, KeySchemaElement, KeyType, PutRequest,
    ScalarAttributeType, StreamSpecification, StreamViewType, TableStatus, TimeToLiveSpecification,
    WriteRequest,
};
use tokio_util::sync::CancellationToken;

use super::retry::{first_answer, is_passing, pause, pauses};
use super::run::{ProduceError, Refusals, Written};
use crate::aws::explain;
use crate::generate::envelope;
use crate::generate::item::{Change, ChangeKind, EXPIRES_AT, Item, KEY, Value};

/// Writes per `BatchWriteItem` (API Reference).
pub(super) const BATCH_MAX: u8 = 25;

/// Time for a new table to become active; AWS takes seconds.
const CREATE_CHECKS: u32 = 240;

/// Writes changes into one table.
#[derive(Debug)]
pub struct TableWriter {
    client: Client,
    table: String,
    oversized: bool,
}

/// A price that a table can have and no amount of the lake: 31 digits before the point.
const OVERSIZED: &str = "1000000000000000000000000000000";

impl TableWriter {
    /// Takes the table as it is: see [`create_table`].
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into(), oversized: false }
    }

    /// Broken records become items with a price that no column of the lake can hold.
    #[must_use]
    pub fn with_oversized(self) -> Self {
        Self { oversized: true, ..self }
    }

    /// Writes changes of different keys. TTL deletes and, unless told otherwise, broken records have no place in a table and
    /// count as written.
    pub(super) async fn write(
        &self,
        batch: &[Change],
        cancel: &CancellationToken,
        refusals: &Refusals,
    ) -> Result<Written, ProduceError> {
        let mut written = Written { bytes: batch.iter().map(size).sum(), ..Written::default() };
        let mut left: Vec<WriteRequest> =
            batch.iter().filter_map(|change| request(change, self.oversized)).collect();
        let mut pauses_left = pauses();
        while !left.is_empty() {
            let sent = left.len();
            let call = self.client.batch_write_item().request_items(&self.table, left.clone());
            let reason = match call.send().await {
                Ok(reply) => {
                    left = reply
                        .unprocessed_items
                        .and_then(|mut all| all.remove(&self.table))
                        .unwrap_or_default();
                    if left.is_empty() {
                        break;
                    }
                    if left.len() < sent {
                        pauses_left = pauses();
                    }
                    "unprocessed items: raise the write capacity of the table, or lower --rate".to_owned()
                }
                Err(error) if is_passing(&error) => explain(&error),
                Err(error) => return Err(self.failed(explain(&error))),
            };
            written.resent += left.len() as u64;
            refusals.tell(left.len(), &reason);
            let Some(length) = pauses_left.next() else { return Err(self.failed(reason)) };
            if !pause(length, cancel).await {
                written.given_up = true;
                break;
            }
        }
        Ok(written)
    }

    /// Whether the table is there.
    ///
    /// # Errors
    /// When it is missing or out of reach.
    pub async fn check(&self) -> Result<(), ProduceError> {
        let question = self.client.describe_table().table_name(&self.table).send();
        let missing =
            "it does not exist; create it with --create, or check --table, --region and the account";
        first_answer(question, missing).await.map_err(|reason| self.failed(reason))
    }

    fn failed(&self, reason: String) -> ProduceError {
        failed(&self.table, reason)
    }
}

/// Items of a page: about 1 MB of trades.
const SCAN_PAGE: i32 = 2_000;

/// Makes the table if it is missing (on demand, stream of both images, TTL on `expires_at`) and waits until it can
/// be written. True when it was made.
pub async fn create_table(client: &Client, table: &str) -> Result<bool, ProduceError> {
    let error = |error: &aws_sdk_dynamodb::Error| {
        let code = error.code().unwrap_or("no error code");
        failed(table, format!("{code}: {}", error.message().unwrap_or("no detail given")))
    };
    let mut created = false;
    for _ in 0..CREATE_CHECKS {
        match client.describe_table().table_name(table).send().await {
            Ok(reply) => {
                if reply.table().and_then(|table| table.table_status()) == Some(&TableStatus::Active) {
                    if created {
                        set_ttl(client, table).await.map_err(|e| error(&e))?;
                    }
                    return Ok(created);
                }
            }
            Err(missing)
                if missing.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) =>
            {
                if !created {
                    create(client, table).await.map_err(|e| error(&e))?;
                    created = true;
                    continue;
                }
            }
            Err(other) => return Err(failed(table, explain(&other))),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(failed(table, "the table did not become ACTIVE: check it in the AWS console".to_owned()))
}

async fn create(client: &Client, table: &str) -> Result<(), aws_sdk_dynamodb::Error> {
    let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash).build()?;
    let definition =
        AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S).build()?;
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewAndOldImages)
        .build()?;
    client
        .create_table()
        .table_name(table)
        .key_schema(key)
        .attribute_definitions(definition)
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream)
        .send()
        .await?;
    Ok(())
}

async fn set_ttl(client: &Client, table: &str) -> Result<(), aws_sdk_dynamodb::Error> {
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES_AT).build()?;
    client.update_time_to_live().table_name(table).time_to_live_specification(ttl).send().await?;
    Ok(())
}

/// Gives every item of the table, read consistently page by page, as DynamoDB JSON. For a check when nobody
/// writes: a scan of a table in use is no snapshot.
pub async fn scan(client: &Client, table: &str, mut each: impl FnMut(&[u8])) -> Result<u64, ProduceError> {
    // AWS ends a page at 1 MB by itself; the embedded server reads all that is left for each page without a limit.
    let scan = client.scan().table_name(table).consistent_read(true).limit(SCAN_PAGE);
    let mut pages = scan.into_paginator().send();
    let mut count = 0;
    let mut json = Vec::new();
    while let Some(page) = pages.next().await {
        for attributes in page.map_err(|error| failed(table, explain(&error)))?.items.unwrap_or_default() {
            let known = attributes.into_iter().map(|(name, value)| Some((name.into(), from_sdk(value)?)));
            let item: Item = known.collect::<Option<_>>().ok_or_else(|| {
                failed(table, "an attribute has a type that this program does not know".into())
            })?;
            json.clear();
            envelope::write_item(&item, &mut json);
            each(&json);
            count += 1;
        }
    }
    Ok(count)
}

fn failed(table: &str, reason: String) -> ProduceError {
    ProduceError::Write { target: format!("table {table}"), reason }
}

fn size(change: &Change) -> u64 {
    let bytes = match &change.kind {
        ChangeKind::Insert(new) | ChangeKind::Modify { new, .. } => new.size(),
        ChangeKind::Remove(_) => KEY.len() + change.key.len(),
        ChangeKind::Expire(_) | ChangeKind::Broken(_) => 0,
    };
    bytes as u64
}

fn request(change: &Change, oversized: bool) -> Option<WriteRequest> {
    let request = WriteRequest::builder();
    let put = |item: &Item| {
        let item = item.attributes().map(|(name, value)| (name.to_owned(), to_sdk(value))).collect();
        let put = PutRequest::builder().set_item(Some(item)).build().expect("the item is set");
        WriteRequest::builder().put_request(put).build()
    };
    Some(match &change.kind {
        ChangeKind::Insert(new) | ChangeKind::Modify { new, .. } => put(new),
        ChangeKind::Broken(item) if oversized => {
            let mut item = item.clone();
            item.set("price", Value::N(OVERSIZED.to_owned()));
            put(&item)
        }
        ChangeKind::Remove(_) => {
            let key = AttributeValue::S(change.key.as_ref().to_owned());
            let delete = DeleteRequest::builder().key(KEY, key).build().expect("the key is set");
            request.delete_request(delete).build()
        }
        ChangeKind::Expire(_) | ChangeKind::Broken(_) => return None,
    })
}

fn to_sdk(value: &Value) -> AttributeValue {
    match value {
        Value::S(text) => AttributeValue::S(text.clone()),
        Value::N(text) => AttributeValue::N(text.clone()),
        Value::B(bytes) => AttributeValue::B(Blob::new(bytes.clone())),
        Value::Bool(flag) => AttributeValue::Bool(*flag),
        Value::Null => AttributeValue::Null(true),
        Value::Ss(texts) => AttributeValue::Ss(texts.clone()),
        Value::Ns(texts) => AttributeValue::Ns(texts.clone()),
        Value::Bs(members) => AttributeValue::Bs(members.iter().cloned().map(Blob::new).collect()),
        Value::L(members) => AttributeValue::L(members.iter().map(to_sdk).collect()),
        Value::M(members) => {
            AttributeValue::M(members.iter().map(|(name, value)| (name.clone(), to_sdk(value))).collect())
        }
    }
}

fn from_sdk(value: AttributeValue) -> Option<Value> {
    Some(match value {
        AttributeValue::S(text) => Value::S(text),
        AttributeValue::N(text) => Value::N(text),
        AttributeValue::B(bytes) => Value::B(bytes.into_inner()),
        AttributeValue::Bool(flag) => Value::Bool(flag),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::Ss(texts) => Value::Ss(texts),
        AttributeValue::Ns(texts) => Value::Ns(texts),
        AttributeValue::Bs(members) => Value::Bs(members.into_iter().map(Blob::into_inner).collect()),
        AttributeValue::L(members) => Value::L(members.into_iter().map(from_sdk).collect::<Option<_>>()?),
        AttributeValue::M(members) => {
            let members = members.into_iter().map(|(name, value)| Some((name, from_sdk(value)?)));
            Value::M(members.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
#[cfg(feature = "local")]
#[path = "dynamodb_tests.rs"]
mod tests;
