//! The lease table in DynamoDB, in both layouts of KCL 3.x.
//!
//! Owns: the calls about rows, and what an SDK error says about them. `tables` finds and makes the tables, `layout`
//! decides where rows belong, `codec` maps leases, `rows` everything else.
//! Does not own: what to do about a lost race or an unknown outcome (`held`, `coordinator`).
//!
//! Conditional writes are sent once: a retry inside the SDK could turn our own success into a failed condition,
//! or hide behind a late throttle that an earlier try went through. Reads are retried by the SDK.

mod codec;
mod item;
mod layout;
mod rehearse;
mod rows;
mod tables;

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use self::codec::LEASE_OWNER;
use self::item::{Item, LEASE_KEY, NotUnderstood, Update, s};
use self::layout::Layout;
use self::rows::{LEADER, TableRow};
use super::fleet::{LeaderRow, OddRow, TableSnapshot, WorkerRow};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::{LeaseWrite, apply};
use crate::aws::explain;

pub use rehearse::Rehearsed;
pub use tables::{Lacks, Sight};

/// The index by which Java workers find the leases given to them.
const OWNER_INDEX: &str = "LeaseOwnerToLeaseKeyIndex";
/// How long one try of one request may take; well below any failover time in use.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before the client tries again, and the longest: short beside the time that a call may take in all, a
/// sixth of the failover time at the least, so that throttling is reported as what it is and not as silence. Whoever
/// makes the call waits longer and longer by himself.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// KCL's default; see [`DynamoDbLeaseTable::with_failover`].
const FAILOVER: Duration = Duration::from_secs(10);

/// The tables of one application in DynamoDB.
#[derive(Debug)]
pub struct DynamoDbLeaseTable {
    client: Client,
    table: String,
    failover: Duration,
    /// As found at the start; running workers do not change it.
    layout: OnceLock<Layout>,
    /// Keys of rows that were reported as not understood.
    reported: Mutex<BTreeSet<String>>,
}

/// A table and its key attribute.
struct Place {
    table: String,
    key: &'static str,
}

impl DynamoDbLeaseTable {
    /// The tables of the application with this name, with the region and credentials of `client`. Until
    /// [`LeaseTable::ensure_exists`] has looked, all rows are taken to be in the lease table.
    pub fn new(client: Client, application: impl Into<String>) -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let retries =
            RetryConfig::standard().with_initial_backoff(RETRY_PAUSE).with_max_backoff(RETRY_PAUSE_MAX);
        let config = client.config().to_builder().timeout_config(timeouts).retry_config(retries);
        let client = Client::from_conf(config.build());
        Self {
            client,
            table: application.into(),
            failover: FAILOVER,
            layout: OnceLock::new(),
            reported: Mutex::default(),
        }
    }

    /// How long at most the owner of a lease takes to renew it: so long the start watches owners that may be workers
    /// of KCL 2.x.
    pub fn with_failover(self, failover: Duration) -> Self {
        Self { failover, ..self }
    }

    fn layout(&self) -> Layout {
        self.layout.get().copied().unwrap_or(Layout::Single)
    }

    /// Where the state of the coordinator is if it has a table of its own.
    fn coordinator(&self) -> Place {
        Place { table: format!("{}-CoordinatorState", self.table), key: "key" }
    }

    /// Where the leader's lock and the state of the fleet are.
    fn leader_place(&self, layout: Layout) -> Place {
        match layout {
            Layout::Single => self.leases(),
            Layout::Three => self.coordinator(),
        }
    }

    fn leases(&self) -> Place {
        Place { table: self.table.clone(), key: LEASE_KEY }
    }

    /// Where the rows of workers are.
    fn worker_place(&self, layout: Layout) -> Place {
        match layout {
            Layout::Single => self.leases(),
            Layout::Three => Place { table: format!("{}-WorkerMetricStats", self.table), key: "wid" },
        }
    }

    fn once() -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::Config::builder().retry_config(RetryConfig::disabled())
    }

    /// The row as a lease; rows that are none are left out, and reported once if they should be one.
    fn decode(&self, item: &Item) -> Option<Lease> {
        match rows::decode(item) {
            Ok(TableRow::Lease(lease)) => Some(*lease),
            Ok(TableRow::Worker(_) | TableRow::Other) => None,
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
            tracing::warn!(
                table = %self.table, row = row.key, %problem,
                "skipped a row of the lease table that is not understood"
            );
        }
        row
    }

    fn table_error<E>(&self, table: &str, error: SdkError<E, HttpResponse>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let detail = error.message().unwrap_or("no detail given");
        match error.code() {
            Some("ResourceNotFoundException") => TableError::NotFound(table.to_owned()),
            Some("AccessDeniedException") => unusable(table, explain(&error)),
            Some("ValidationException") => unusable(table, format!("not usable as a lease table: {detail}")),
            _ => TableError::Unavailable(explain(&error).into()),
        }
    }

    /// All leases and workers. Workers that have moved to the lease table are found beside those that have not.
    async fn scan_all(&self, layout: Layout) -> Result<TableSnapshot, TableError> {
        let mut snapshot = TableSnapshot::default();
        self.scan(&self.table, |item| match rows::decode(item) {
            Ok(TableRow::Lease(lease)) => snapshot.leases.push(*lease),
            Ok(TableRow::Worker(worker)) => snapshot.workers.push(worker),
            Ok(TableRow::Other) => {}
            Err(problem) => snapshot.odd.push(self.odd(item, LEASE_KEY, problem)),
        })
        .await?;
        if layout == Layout::Three {
            let place = self.worker_place(layout);
            self.scan(&place.table, |item| match rows::worker(item, place.key) {
                Ok(worker) => rows::merge(&mut snapshot.workers, worker),
                Err(problem) => snapshot.odd.push(self.odd(item, place.key, problem)),
            })
            .await?;
        }
        Ok(snapshot)
    }

    async fn scan(&self, table: &str, mut each: impl FnMut(&Item) + Send) -> Result<(), TableError> {
        let mut start: Option<Item> = None;
        loop {
            let call = self.client.scan().table_name(table).set_exclusive_start_key(start);
            let page = call.send().await.map_err(|error| self.table_error(table, error))?;
            page.items().iter().for_each(&mut each);
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }

    fn update(&self, place: &Place, key: &str, update: Update) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&place.table)
            .key(place.key, s(key))
            .update_expression(update.update)
            .set_condition_expression(Some(update.condition).filter(|condition| !condition.is_empty()))
            .set_expression_attribute_names(Some(update.names).filter(|names| !names.is_empty()))
            .set_expression_attribute_values(Some(update.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    fn delete_if(&self, place: &Place, key: &str, unchanged: Update) -> DeleteItemFluentBuilder {
        self.client
            .delete_item()
            .table_name(&place.table)
            .key(place.key, s(key))
            .condition_expression(unchanged.condition)
            .set_expression_attribute_names(Some(unchanged.names).filter(|names| !names.is_empty()))
            .set_expression_attribute_values(Some(unchanged.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// False when the condition failed.
    async fn deleted(&self, place: &Place, key: &str, unchanged: Update) -> Result<bool, TableError> {
        let Err(error) = self.delete_if(place, key, unchanged).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(refused) if refused.is_conditional_check_failed_exception() => Ok(false),
            _ => Err(self.table_error(&place.table, error)),
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
            WriteError::NotWritten(explain(&error).into())
        } else {
            WriteError::Unknown(explain(&error).into())
        }
    }
}

#[async_trait]
impl LeaseTable for DynamoDbLeaseTable {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        let layout = self.join().await?;
        self.layout.get_or_init(|| layout);
        Ok(())
    }

    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.scan_all(self.layout()).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        let mut keys = Vec::new();
        let mut start: Option<Item> = None;
        loop {
            let call = self
                .client
                .query()
                .table_name(&self.table)
                .index_name(OWNER_INDEX)
                .key_condition_expression(format!("{LEASE_OWNER} = :owner"))
                .expression_attribute_values(":owner", s(worker.as_str()))
                .set_exclusive_start_key(start);
            let page = call.send().await.map_err(|error| self.table_error(&self.table, error))?;
            keys.extend(
                page.items()
                    .iter()
                    .filter_map(|item| rows::row_key(item, LEASE_KEY))
                    .map(|key| LeaseKey::parse(&key)),
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
        let answer = call.send().await.map_err(|error| self.table_error(&self.table, error))?;
        Ok(answer.item().and_then(|item| self.decode(item)))
    }

    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(codec::encode(lease, self.layout())));
        let call = call.condition_expression(format!("attribute_not_exists({LEASE_KEY})"));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(self.table_error(&self.table, error)),
            },
        }
    }

    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        use aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException;
        let place = self.leases();
        let call = self.update(&place, seen.key.as_str(), codec::update(seen, write));
        let call = call.return_values(ReturnValue::AllNew);
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
        let call = self.delete_if(&self.leases(), seen.key.as_str(), codec::unmoved(seen));
        match call.customize().config_override(Self::once()).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.write_error(error, |refused| match refused {
                ConditionalCheckFailedException(failed) => Some(failed.item()),
                _ => None,
            })),
        }
    }

    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        let place = self.leader_place(self.layout());
        // Eventually consistent at half the price: an old row makes nobody lead, as each write of it is conditional.
        let answer = self.client.get_item().table_name(&place.table).key(place.key, s(LEADER)).send().await;
        let answer = answer.map_err(|error| self.table_error(&place.table, error))?;
        answer.item().map(rows::leader).transpose().map_err(|problem| {
            unusable(
                &place.table,
                format!("its row {LEADER} is not a leader lock ({problem}); delete the row"),
            )
        })
    }

    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        use aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException;
        let place = self.leader_place(self.layout());
        let call = self.update(&place, LEADER, rows::lead(seen, next, place.key));
        let Err(error) = call.send().await else { return Ok(true) };
        match error.as_service_error() {
            // A retry inside the SDK finds what the first try has written: versions do not repeat.
            Some(ConditionalCheckFailedException(failed)) => Ok(failed
                .item()
                .and_then(|item| rows::leader(item).ok())
                .is_some_and(|row| row.version == next.version)),
            _ => Err(self.table_error(&place.table, error)),
        }
    }

    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        let place = self.leader_place(self.layout());
        self.deleted(&place, LEADER, rows::same_version(mine, place.key)).await
    }

    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        let place = self.worker_place(self.layout());
        let call = self.update(&place, worker.id.as_str(), rows::report(worker, place.key));
        match call.return_values(ReturnValue::AllOld).send().await {
            Ok(answer) => Ok(answer.attributes().and_then(|item| rows::worker(item, place.key).ok())),
            Err(error) => match error.as_service_error() {
                Some(refused) if refused.is_conditional_check_failed_exception() => Err(unusable(
                    &place.table,
                    format!(
                        "its row {} is not a worker's metrics row; give this worker another id",
                        worker.id
                    ),
                )),
                _ => Err(self.table_error(&place.table, error)),
            },
        }
    }

    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        let layout = self.layout();
        let deleted =
            self.deleted(&self.worker_place(layout), seen.id.as_str(), rows::unreported(seen)).await?;
        // The row may be one that has moved.
        if !deleted && layout == Layout::Three {
            return self.deleted(&self.leases(), seen.id.as_str(), rows::unreported(seen)).await;
        }
        Ok(deleted)
    }
}

fn unusable(table: &str, reason: impl Into<String>) -> TableError {
    TableError::Unusable { table: table.to_owned(), reason: reason.into() }
}
