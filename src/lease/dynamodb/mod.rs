//! The lease table in DynamoDB, in the single-table layout of KCL 3.5.
//!
//! Owns: the table and its calls, and what an SDK error says about a write. `codec` maps leases, `rows` the rows of
//! workers and leader.
//! Does not own: what to do about a lost race or an unknown outcome (`held`, `coordinator`).
//!
//! Conditional writes are sent once: a retry inside the SDK could turn our own success into a failed condition,
//! or hide behind a late throttle that an earlier try went through. Reads are retried by the SDK.

mod codec;
mod item;
mod rows;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ReturnValue, ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TableDescription,
    TableStatus,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::time::{Instant, sleep};

use self::codec::LEASE_OWNER;
use self::item::{Item, LEASE_KEY, NotUnderstood, s};
use self::rows::{LEADER, Row};
use super::fleet::{LeaderRow, OddRow, TableSnapshot, WorkerRow};
use super::row::{Lease, LeaseKey, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::{LeaseWrite, apply};

/// The index by which Java workers find the leases given to them.
const OWNER_INDEX: &str = "LeaseOwnerToLeaseKeyIndex";
/// How long one try of one request may take; well below any failover time in use.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// KCL waits as long for a new table.
const CREATE_TIMEOUT: Duration = Duration::from_secs(600);
const CREATE_POLL: Duration = Duration::from_secs(1);

/// A lease table in DynamoDB.
#[derive(Debug)]
pub struct DynamoDbLeaseTable {
    client: Client,
    table: String,
    /// Keys of rows that were reported as not understood.
    reported: Mutex<BTreeSet<String>>,
}

impl DynamoDbLeaseTable {
    /// The table with this name, with the region and credentials of `client`.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let client = Client::from_conf(client.config().to_builder().timeout_config(timeouts).build());
        Self { client, table: table.into(), reported: Mutex::default() }
    }

    fn once() -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::Config::builder().retry_config(RetryConfig::disabled())
    }

    /// The row as a lease; rows that are none are left out, and reported once if they should be one.
    fn decode(&self, item: &Item) -> Option<Lease> {
        match rows::decode(item) {
            Ok(Row::Lease(lease)) => Some(lease),
            Ok(Row::Worker(_) | Row::Other) => None,
            Err(problem) => {
                self.odd(item, LEASE_KEY, problem);
                None
            }
        }
    }

    /// Reports a row that is not understood, once.
    fn odd(&self, item: &Item, key: &str, problem: NotUnderstood) -> OddRow {
        let row = OddRow {
            key: rows::row_key(item, key).unwrap_or_else(|| "(no key)".to_owned()),
            problem: problem.to_string(),
        };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(row.key.clone()) {
            tracing::warn!(table = %self.table, row = row.key, %problem, "row of the lease table left alone");
        }
        row
    }

    fn unusable(&self, reason: impl Into<String>) -> TableError {
        TableError::Unusable { table: self.table.clone(), reason: reason.into() }
    }

    fn table_error<E>(&self, error: SdkError<E, HttpResponse>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match error.code() {
            Some("ResourceNotFoundException") => TableError::NotFound(self.table.clone()),
            Some("AccessDeniedException") => self.unusable(format!(
                "access denied; allow the role of this process to use the table: {}",
                error.message().unwrap_or("no detail given")
            )),
            Some("ValidationException") => self.unusable(format!(
                "not usable as a lease table: {}",
                error.message().unwrap_or("no detail given")
            )),
            _ => TableError::Unavailable(error.into()),
        }
    }

    /// Checks that what exists is a lease table; true when it can be used now.
    fn check(&self, table: &TableDescription) -> Result<bool, TableError> {
        let key_is_right = matches!(
            table.key_schema(),
            [key] if key.attribute_name() == LEASE_KEY && *key.key_type() == KeyType::Hash
        );
        let type_is_right = table.attribute_definitions().iter().any(|attribute| {
            attribute.attribute_name() == LEASE_KEY && *attribute.attribute_type() == ScalarAttributeType::S
        });
        if !key_is_right || !type_is_right {
            return Err(self.unusable(
                "its primary key is not the single string leaseKey; give the application another table name",
            ));
        }
        match table.table_status() {
            Some(TableStatus::Active | TableStatus::Updating) => Ok(true),
            Some(TableStatus::Creating) | None => Ok(false),
            Some(status) => Err(self.unusable(format!("its status is {status}; wait or restore it"))),
        }
    }

    /// Asks for the table to be created; fine if somebody else was faster.
    async fn create_table(&self) -> Result<(), TableError> {
        let built = |problem: aws_sdk_dynamodb::error::BuildError| self.unusable(problem.to_string());
        let attribute = |name: &str| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(built)
        };
        let key = |name: &str, kind: KeyType| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(built)
        };
        let index = GlobalSecondaryIndex::builder()
            .index_name(OWNER_INDEX)
            .key_schema(key(LEASE_OWNER, KeyType::Hash)?)
            .key_schema(key(LEASE_KEY, KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
            .build()
            .map_err(built)?;
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .attribute_definitions(attribute(LEASE_KEY)?)
            .attribute_definitions(attribute(LEASE_OWNER)?)
            .key_schema(key(LEASE_KEY, KeyType::Hash)?)
            .global_secondary_indexes(index)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match created {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(CreateTableError::ResourceInUseException(_)) => Ok(()),
                _ => Err(self.table_error(error)),
            },
        }
    }

    /// What a failed conditional write means. `old` is the row that failed the condition, if it did.
    fn write_error<E>(
        &self,
        error: SdkError<E, HttpResponse>,
        old: impl Fn(&E) -> Option<Option<&Item>>,
    ) -> WriteError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if let Some(row) = error.as_service_error().and_then(&old) {
            return WriteError::Conflict(row.and_then(|item| self.decode(item)).map(Box::new));
        }
        let sent_and_refused = matches!(
            &error,
            SdkError::ServiceError(refused) if refused.raw().status().is_client_error()
        );
        let not_sent = matches!(&error, SdkError::ConstructionFailure(_))
            || matches!(&error, SdkError::DispatchFailure(failure) if failure.is_user());
        if sent_and_refused || not_sent {
            tracing::debug!(table = %self.table, error = %DisplayErrorContext(&error), "lease write refused");
            WriteError::NotWritten(error.into())
        } else {
            WriteError::Unknown(error.into())
        }
    }
}

#[async_trait]
impl LeaseTable for DynamoDbLeaseTable {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        let deadline = Instant::now() + CREATE_TIMEOUT;
        loop {
            let described = self.client.describe_table().table_name(&self.table).send().await;
            match described.map_err(|error| self.table_error(error)) {
                Ok(answer) => {
                    if let Some(table) = answer.table()
                        && self.check(table)?
                    {
                        return Ok(());
                    }
                }
                Err(TableError::NotFound(_)) => {
                    tracing::info!(table = %self.table, "creating the lease table");
                    self.create_table().await?;
                }
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(TableError::Unavailable("the table did not become active in 10 minutes".into()));
            }
            sleep(CREATE_POLL).await;
        }
    }

    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        let mut snapshot = TableSnapshot::default();
        let mut start: Option<Item> = None;
        loop {
            let call = self.client.scan().table_name(&self.table).set_exclusive_start_key(start);
            let page = call.send().await.map_err(|error| self.table_error(error))?;
            for item in page.items() {
                match rows::decode(item) {
                    Ok(Row::Lease(lease)) => snapshot.leases.push(lease),
                    Ok(Row::Worker(worker)) => snapshot.workers.push(worker),
                    Ok(Row::Other) => {}
                    Err(problem) => snapshot.odd.push(self.odd(item, LEASE_KEY, problem)),
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(snapshot);
            }
        }
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        let mut keys = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let call = self.client.query().table_name(&self.table).index_name(OWNER_INDEX);
            let call = call
                .key_condition_expression(format!("{LEASE_OWNER} = :owner"))
                .expression_attribute_values(":owner", s(worker.as_str()))
                .set_exclusive_start_key(start);
            let page = call.send().await.map_err(|error| self.table_error(error))?;
            keys.extend(
                page.items().iter().filter_map(|item| rows::row_key(item, LEASE_KEY)).map(LeaseKey::new),
            );
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(keys);
            }
        }
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        let call = self.client.get_item().table_name(&self.table).consistent_read(true);
        let call = call.key(LEASE_KEY, s(key.as_str()));
        let answer = call.send().await.map_err(|error| self.table_error(error))?;
        Ok(answer.item().and_then(|item| self.decode(item)))
    }

    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        let call = self.client.put_item().table_name(&self.table).set_item(Some(codec::encode(lease)));
        let call = call.condition_expression(format!("attribute_not_exists({LEASE_KEY})"));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(self.table_error(error)),
            },
        }
    }

    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        use aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException;
        let update = codec::update(seen, write);
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(seen.key.as_str()))
            .update_expression(update.update)
            .condition_expression(update.condition)
            .set_expression_attribute_values(Some(update.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match call.customize().config_override(Self::once()).send().await {
            // The write has happened; should the answer be unreadable, its effect is known.
            Ok(answer) => {
                Ok(answer.attributes().and_then(|row| self.decode(row)).unwrap_or_else(|| apply(seen, write)))
            }
            Err(error) => Err(self.write_error(error, |refused| match refused {
                ConditionalCheckFailedException(failed) => Some(failed.item()),
                _ => None,
            })),
        }
    }

    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        use aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException;
        let unmoved = codec::unmoved(seen);
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(seen.key.as_str()))
            .condition_expression(unmoved.condition)
            .set_expression_attribute_values(Some(unmoved.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match call.customize().config_override(Self::once()).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.write_error(error, |refused| match refused {
                ConditionalCheckFailedException(failed) => Some(failed.item()),
                _ => None,
            })),
        }
    }

    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        let call = self.client.get_item().table_name(&self.table).consistent_read(true);
        let answer = call.key(LEASE_KEY, s(LEADER)).send().await.map_err(|error| self.table_error(error))?;
        let row = answer.item().map(rows::leader).transpose();
        row.map_err(|problem| {
            self.unusable(format!("its row {LEADER} is no leader's lock ({problem}); delete it"))
        })
    }

    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        use aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException;
        let update = rows::lead(seen, next, LEASE_KEY);
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(LEADER))
            .update_expression(update.update)
            .condition_expression(update.condition)
            .set_expression_attribute_values(Some(update.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                // A retry inside the SDK finds what the first try has written: versions do not repeat.
                Some(ConditionalCheckFailedException(failed)) => Ok(failed
                    .item()
                    .and_then(|item| rows::leader(item).ok())
                    .is_some_and(|row| row.version == next.version)),
                _ => Err(self.table_error(error)),
            },
        }
    }

    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        let unchanged = rows::same_version(mine, LEASE_KEY);
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(LEADER))
            .condition_expression(unchanged.condition)
            .set_expression_attribute_values(Some(unchanged.values));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(self.table_error(error)),
            },
        }
    }

    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        let update = rows::report(worker, LEASE_KEY);
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(worker.id.as_str()))
            .update_expression(update.update)
            .condition_expression(update.condition)
            .set_expression_attribute_values(Some(update.values))
            .return_values(ReturnValue::AllOld);
        match call.send().await {
            Ok(answer) => Ok(answer.attributes().and_then(|item| rows::worker(item, LEASE_KEY).ok())),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Err(self.unusable(
                    format!("its row {} is not that of a worker; give this worker another id", worker.id),
                )),
                _ => Err(self.table_error(error)),
            },
        }
    }

    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        let unchanged = rows::unreported(seen);
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(LEASE_KEY, s(seen.id.as_str()))
            .condition_expression(unchanged.condition)
            .set_expression_attribute_values(Some(unchanged.values));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(self.table_error(error)),
            },
        }
    }
}
