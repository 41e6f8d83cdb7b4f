//! The tables themselves: finding, checking, creating and completing them, and joining the fleet that uses them.
//!
//! Owns: the calls and waits behind `ensure_exists`.
//! Does not own: what follows from what is found (`layout`).

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::update_table::UpdateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement, KeyType, Projection, ProjectionType,
    ProvisionedThroughput, ScalarAttributeType, TableDescription, TableStatus,
};
use tokio::time::{Instant, sleep};

use super::codec::LEASE_OWNER;
use super::item::{LEASE_KEY, s};
use super::layout::{self, CLIENT_VERSION_ROW, Layout, State, TABLE_MIGRATION_ROW};
use super::{DynamoDbLeaseTable, OWNER_INDEX, Place, rows, unusable};
use crate::clock::wall_clock_us;
use crate::lease::key::LeaseKey;
use crate::lease::table::TableError;

/// KCL waits as long for the index of a large table.
const READY_TIMEOUT: Duration = Duration::from_secs(3600);
const READY_POLL_FIRST: Duration = Duration::from_millis(100);
const READY_POLL_MAX: Duration = Duration::from_secs(5);
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

const INDEX_BY_HAND: &str = "or add the index LeaseOwnerToLeaseKeyIndex yourself: hash key leaseOwner, range key \
                             leaseKey, both strings, projection KEYS_ONLY";

/// What a worker would meet at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What the lease table lacks.
    pub lacks: Lacks,
    /// Leader and workers have their rows in two more tables, as in KCL 3.0 to 3.4.
    pub three_tables: bool,
    /// The fleet has said that it works by the rules of KCL 3.x; else its first worker says so.
    pub declared: bool,
}

/// What a lease table lacks until it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// Nothing.
    Nothing,
    /// Time: this is being made.
    Time(&'static str),
    /// The index of lease owners, which the first worker adds.
    Index,
    /// All of it: the first worker makes it.
    Table,
}

/// What is still missing before the lease table can be used.
enum Missing {
    Nothing,
    /// Something is being made.
    Time(&'static str),
    Index,
}

impl DynamoDbLeaseTable {
    /// Finds out where the rows are and changes nothing: enough for an onlooker.
    ///
    /// # Errors
    /// When the tables cannot be looked at, or the application is being moved from one layout to the other.
    pub async fn locate(&self) -> Result<(), TableError> {
        match self.describe(&self.table).await? {
            // What is still being made does not keep an onlooker away.
            Some(table) => {
                missing(&self.table, &table)?;
            }
            None => return Err(TableError::NotFound(self.table.clone())),
        }
        let layout = self.find_layout().await?;
        self.layout.get_or_init(|| layout);
        Ok(())
    }

    async fn find_layout(&self) -> Result<Layout, TableError> {
        let coordinator = self.coordinator();
        let legacy = self.legacy_exists(&coordinator).await?;
        let migration = match legacy {
            true => self.state(&coordinator, TABLE_MIGRATION_ROW, rows::TABLE_MIGRATION).await?,
            false => None,
        };
        layout::layout(legacy, migration.as_ref()).map_err(|reason| unusable(&coordinator.table, reason))
    }

    /// What a worker would meet here at its start. Changes nothing, and waits as long as the worker would to see whether
    /// somebody works by the rules of KCL 2.x.
    ///
    /// # Errors
    /// When the worker would refuse to start, with its words, or when the tables cannot be looked at.
    pub async fn look(&self) -> Result<Sight, TableError> {
        let layout = self.find_layout().await?;
        let lacks = match self.describe(&self.table).await? {
            None => Lacks::Table,
            Some(table) => match missing(&self.table, &table)? {
                Missing::Nothing => Lacks::Nothing,
                Missing::Time(what) => Lacks::Time(what),
                Missing::Index => Lacks::Index,
            },
        };
        let fleet = matches!(lacks, Lacks::Nothing | Lacks::Index);
        let declared = fleet && self.may_join(layout).await?;
        if fleet && !declared {
            self.nobody_is_2x(layout).await?;
        }
        self.layout.get_or_init(|| layout);
        Ok(Sight { lacks, three_tables: layout == Layout::Three, declared })
    }

    /// Everything behind `ensure_exists`: the tables, the layout, the fleet.
    pub(super) async fn join(&self) -> Result<Layout, TableError> {
        let layout = self.find_layout().await?;
        self.lease_table().await?;
        if !self.may_join(layout).await? {
            self.nobody_is_2x(layout).await?;
            self.declare_3x(layout).await?;
        }
        tracing::debug!(table = %self.table, ?layout, "lease table ready");
        Ok(layout)
    }

    /// Whether the fleet has said that it works by the rules of KCL 3.x; its tables are whole.
    async fn may_join(&self, layout: Layout) -> Result<bool, TableError> {
        let known = self.fleet_is_3x(layout).await?;
        let metrics = self.worker_place(layout);
        if layout == Layout::Three && !self.legacy_exists(&metrics).await? {
            return Err(unusable(
                &metrics.table,
                format!(
                    "missing beside {}; let a Java worker create it, or delete that table too if the fleet has no \
                     worker of KCL 3.0 to 3.4 any more",
                    self.coordinator().table
                ),
            ));
        }
        Ok(known)
    }

    /// Looks for one of the tables of KCL 3.0 to 3.4, which are never created here; waits until it can be used.
    async fn legacy_exists(&self, place: &Place) -> Result<bool, TableError> {
        let mut wait = Wait::new(&place.table);
        loop {
            let described = self.describe(&place.table).await.map_err(|error| match error {
                TableError::Unusable { table, reason } => TableError::Unusable {
                    table,
                    reason: format!(
                        "{reason}; whether it exists decides where leader and workers have their rows"
                    ),
                },
                error => error,
            });
            let Some(table) = described? else { return Ok(false) };
            if usable(&place.table, &table, place.key)? {
                return Ok(true);
            }
            wait.a_moment("the table").await?;
        }
    }

    /// Creates the lease table or its index where missing, and waits until both can be used.
    async fn lease_table(&self) -> Result<(), TableError> {
        let mut wait = Wait::new(&self.table);
        loop {
            let described = self.describe(&self.table).await?;
            let missing = match &described {
                None => {
                    tracing::info!(table = %self.table, "creating the lease table");
                    self.create_table().await?;
                    Missing::Time("the table")
                }
                Some(table) => missing(&self.table, table)?,
            };
            match (missing, &described) {
                (Missing::Nothing, _) => return Ok(()),
                (Missing::Index, Some(table)) => {
                    self.create_index(table).await?;
                    wait.a_moment("the index of lease owners").await?;
                }
                (Missing::Time(what), _) => wait.a_moment(what).await?,
                (Missing::Index, None) => {}
            }
        }
    }

    async fn describe(&self, table: &str) -> Result<Option<TableDescription>, TableError> {
        let described = self.client.describe_table().table_name(table).send().await;
        match described.map_err(|error| self.table_error(table, error)) {
            Ok(answer) => Ok(answer.table),
            Err(TableError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the table to be created; fine if somebody else was faster.
    async fn create_table(&self) -> Result<(), TableError> {
        let built = |problem: BuildError| unusable(&self.table, problem.to_string());
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .attribute_definitions(attribute(LEASE_KEY).map_err(built)?)
            .attribute_definitions(attribute(LEASE_OWNER).map_err(built)?)
            .key_schema(key(LEASE_KEY, KeyType::Hash).map_err(built)?)
            .global_secondary_indexes(owner_index().map_err(built)?)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match created {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(CreateTableError::ResourceInUseException(_)) => Ok(()),
                _ => Err(self.table_error(&self.table, error)),
            },
        }
    }

    /// Asks for the index to be added, with the capacity of the table; fine if the table is busy with another change.
    async fn create_index(&self, table: &TableDescription) -> Result<(), TableError> {
        tracing::info!(table = %self.table, index = OWNER_INDEX, "adding the index of lease owners");
        let built = |problem: BuildError| unusable(&self.table, problem.to_string());
        let capacity = table.provisioned_throughput().and_then(|capacity| {
            let (read, write) = (capacity.read_capacity_units()?, capacity.write_capacity_units()?);
            // Tables that are paid per request say zero.
            let units =
                ProvisionedThroughput::builder().read_capacity_units(read).write_capacity_units(write);
            (read > 0 && write > 0).then(|| units.build())?.ok()
        });
        let index = owner_index().map_err(built)?;
        let action = CreateGlobalSecondaryIndexAction::builder()
            .index_name(OWNER_INDEX)
            .set_key_schema(Some(index.key_schema))
            .set_projection(index.projection)
            .set_provisioned_throughput(capacity)
            .build()
            .map_err(built)?;
        let updated = self
            .client
            .update_table()
            .table_name(&self.table)
            .attribute_definitions(attribute(LEASE_KEY).map_err(built)?)
            .attribute_definitions(attribute(LEASE_OWNER).map_err(built)?)
            .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(action).build())
            .send()
            .await;
        let Err(error) = updated else { return Ok(()) };
        match error.as_service_error() {
            Some(
                UpdateTableError::ResourceInUseException(_) | UpdateTableError::LimitExceededException(_),
            ) => {
                tracing::debug!(table = %self.table, error = %DisplayErrorContext(&error), "index not added yet");
                Ok(())
            }
            _ => Err(match self.table_error(&self.table, error) {
                TableError::Unusable { table, reason } => {
                    TableError::Unusable { table, reason: format!("{reason}; {INDEX_BY_HAND}") }
                }
                error => error,
            }),
        }
    }

    /// An application that has not said by which rules it works may be one of KCL 2.x: that takes a failover time to see,
    /// where an owner has no worker's row.
    async fn nobody_is_2x(&self, layout: Layout) -> Result<(), TableError> {
        let suspects = layout::unreported(&self.scan_all(layout).await?);
        if suspects.is_empty() {
            return Ok(());
        }
        tracing::info!(
            table = %self.table, leases = suspects.len(), seconds = self.failover.as_secs_f64(),
            "some leases belong to a worker without a metrics row; waiting one failover time to see \
             whether it renews"
        );
        self.watch(layout, &suspects).await
    }

    /// From now on the application is one of KCL 3.x, unless somebody has said something else in the meantime.
    async fn declare_3x(&self, layout: Layout) -> Result<(), TableError> {
        let place = self.leader_place(layout);
        let row = rows::client_version(layout::CLIENT_VERSION_3X, wall_clock_us() / 1000, place.key);
        let call = self.client.put_item().table_name(&place.table).set_item(Some(row));
        let absent = rows::absent(place.key);
        let call = call.condition_expression(absent.condition);
        let call = call.set_expression_attribute_names(Some(absent.names));
        let Err(error) = call.send().await else { return Ok(()) };
        match error.as_service_error() {
            // Somebody else has said it in the meantime.
            Some(refused) if refused.is_conditional_check_failed_exception() => {
                self.fleet_is_3x(layout).await.map(drop)
            }
            _ => Err(self.table_error(&place.table, error)),
        }
    }

    /// Looks for a failover time whether one of the leases is renewed by a worker that does not report. The last look
    /// is after it, however long a look takes.
    async fn watch(&self, layout: Layout, suspects: &BTreeMap<LeaseKey, u64>) -> Result<(), TableError> {
        let deadline = Instant::now() + self.failover;
        loop {
            let is_last = Instant::now() >= deadline;
            let alive = layout::alive_and_unreported(suspects, &self.scan_all(layout).await?);
            match alive {
                // A worker that started beside us may have declared the fleet, taken the lease, and only then be seen.
                Some(_) if self.fleet_is_3x(layout).await? => return Ok(()),
                Some(owner) => {
                    return Err(unusable(
                        &self.table,
                        format!(
                            "worker {owner} renews leases like KCL 2.x (it has no metrics row); stop all such \
                             workers, or upgrade them to KCL 3.x, then start this worker"
                        ),
                    ));
                }
                None if is_last => return Ok(()),
                None => sleep(self.failover / 5).await,
            }
        }
    }

    /// What the fleet has said; with three tables, in the coordinator's or else, moved there, in the lease table.
    async fn fleet_is_3x(&self, layout: Layout) -> Result<bool, TableError> {
        let place = self.leader_place(layout);
        let mut version = self.state(&place, CLIENT_VERSION_ROW, rows::CLIENT_VERSION).await?;
        if version.is_none() && layout == Layout::Three {
            version = self.state(&self.leases(), CLIENT_VERSION_ROW, rows::CLIENT_VERSION).await?;
        }
        layout::works_as_3x(version.as_ref()).map_err(|reason| unusable(&place.table, reason))
    }

    async fn state(&self, place: &Place, row: &str, name: &str) -> Result<Option<State>, TableError> {
        let call = self.client.get_item().table_name(&place.table).consistent_read(true);
        let answer = call.key(place.key, s(row)).send().await;
        let answer = answer.map_err(|error| self.table_error(&place.table, error))?;
        Ok(answer.item().map(|item| rows::state(item, name)))
    }
}

/// Waiting for a table, with a word now and then.
struct Wait<'a> {
    table: &'a str,
    began: Instant,
    said: Instant,
    pause: Duration,
}

impl<'a> Wait<'a> {
    fn new(table: &'a str) -> Self {
        Self { table, began: Instant::now(), said: Instant::now(), pause: READY_POLL_FIRST }
    }

    async fn a_moment(&mut self, what: &str) -> Result<(), TableError> {
        let waited = self.began.elapsed();
        if waited > READY_TIMEOUT {
            return Err(TableError::Unavailable(
                format!("{what} did not become ACTIVE within an hour").into(),
            ));
        }
        if self.said.elapsed() > PROGRESS_EVERY {
            self.said = Instant::now();
            tracing::info!(table = self.table, waited_seconds = waited.as_secs(), "waiting for {what}");
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(READY_POLL_MAX);
        Ok(())
    }
}

/// Checks that the table has the one string key; true when it can be used now.
fn usable(name: &str, table: &TableDescription, key: &str) -> Result<bool, TableError> {
    let key_is_right = matches!(
        table.key_schema(),
        [schema] if schema.attribute_name() == key && *schema.key_type() == KeyType::Hash
    );
    let type_is_right = table.attribute_definitions().iter().any(|attribute| {
        attribute.attribute_name() == key && *attribute.attribute_type() == ScalarAttributeType::S
    });
    if !key_is_right || !type_is_right {
        let reason = format!(
            "its primary key is not the single string {key}; give the application another table name"
        );
        return Err(unusable(name, reason));
    }
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => Ok(true),
        Some(TableStatus::Creating) | None => Ok(false),
        Some(status) => Err(unusable(name, format!("its status is {status}; wait or restore it"))),
    }
}

fn missing(name: &str, table: &TableDescription) -> Result<Missing, TableError> {
    if !usable(name, table, LEASE_KEY)? {
        return Ok(Missing::Time("the table"));
    }
    let index = table.global_secondary_indexes().iter().find(|index| index.index_name() == Some(OWNER_INDEX));
    let Some(index) = index else { return Ok(Missing::Index) };
    let keys = index.key_schema().iter().map(|key| (key.attribute_name(), key.key_type()));
    if !keys.eq([(LEASE_OWNER, &KeyType::Hash), (LEASE_KEY, &KeyType::Range)]) {
        let reason =
            format!("its index {OWNER_INDEX} does not have the keys that KCL uses; delete the index");
        return Err(unusable(name, reason));
    }
    match index.index_status() {
        Some(IndexStatus::Active | IndexStatus::Updating) => Ok(Missing::Nothing),
        _ => Ok(Missing::Time("the index of lease owners")),
    }
}

fn attribute(name: &str) -> Result<AttributeDefinition, BuildError> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
}

fn key(name: &str, kind: KeyType) -> Result<KeySchemaElement, BuildError> {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build()
}

fn owner_index() -> Result<GlobalSecondaryIndex, BuildError> {
    GlobalSecondaryIndex::builder()
        .index_name(OWNER_INDEX)
        .key_schema(key(LEASE_OWNER, KeyType::Hash)?)
        .key_schema(key(LEASE_KEY, KeyType::Range)?)
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
}
