//! Checks on the start: which tables are found, made and refused, and which fleets are joined.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ProvisionedThroughput, ScalarAttributeType,
};
use kinetide::internals::lease::dynamodb::DynamoDbLeaseTable;
use kinetide::internals::lease::{LeaseKey, LeaseTable, TableError};
use kinetide::internals::shard::ShardId;
use tokio::time::sleep;

use super::Table;
use super::dynamodb::{Items, n, s, unused_name};
use super::fleet::{lock, owns, report};

const FAILOVER: Duration = Duration::from_secs(1);

pub(super) async fn conform(client: &Client) {
    a_fresh_application_has_one_table(client).await;
    another_kind_of_table_is_refused(client).await;
    an_index_with_other_keys_is_refused(client).await;
    a_table_of_kcl_2_gets_its_index(client).await;
    a_provisioned_table_gets_its_index(client).await;
    a_fleet_of_kcl_2_is_refused_while_it_lives(client).await;
    the_state_of_the_fleet_decides_who_joins(client).await;
    the_state_of_the_migration_decides_the_layout(client).await;
    rows_that_have_moved_are_found(client).await;
    half_a_layout_is_refused(client).await;
}

/// An application that nobody has used.
struct App {
    leases: Items,
    coordinator: Items,
    metrics: Items,
    failover: Duration,
}

impl App {
    fn new(client: &Client, what: &str) -> Self {
        let leases = Items::new(client, &unused_name(what), "leaseKey");
        let (coordinator, metrics) = leases.legacy();
        Self { leases, coordinator, metrics, failover: FAILOVER }
    }

    /// With the three tables of KCL 3.0 to 3.4.
    async fn of_three_tables(client: &Client, what: &str) -> Self {
        let app = Self::new(client, what);
        app.leases.create_table().await;
        app.coordinator.create_table().await;
        app.metrics.create_table().await;
        app
    }

    fn table(&self) -> DynamoDbLeaseTable {
        DynamoDbLeaseTable::new(self.leases.client.clone(), &self.leases.table).with_failover(self.failover)
    }

    /// A worker that starts now is refused; the reason names all of `words`.
    async fn refuses(&self, words: &[&str]) {
        match Self::start(&self.table()).await {
            Err(TableError::Unusable { table, reason }) => {
                let message = format!("{table}: {reason}");
                assert!(words.iter().all(|word| message.contains(word)), "{words:?} in: {message}");
            }
            other => panic!("unexpected answer, not about {words:?}: {other:?}"),
        }
    }

    async fn accepts(&self) -> DynamoDbLeaseTable {
        let table = self.table();
        Self::start(&table).await.unwrap();
        table
    }

    /// As whoever runs a worker does: DynamoDB Local answers nobody while it makes an index, and that takes a while where
    /// the processor is shared.
    async fn start(table: &DynamoDbLeaseTable) -> Result<(), TableError> {
        for _ in 0..8 {
            match table.ensure_exists().await {
                Err(TableError::Unavailable(_)) => {}
                answer => return answer,
            }
        }
        table.ensure_exists().await
    }
}

async fn a_fresh_application_has_one_table(client: &Client) {
    let app = App::new(client, "fresh");
    let starts = (0..4).map(|_| app.accepts());
    futures::future::join_all(starts).await;
    let state = app.leases.get("Migration3.0").await;
    assert_eq!((&state["cv"], &state["mb"]), (&s("CLIENT_VERSION_3X"), &s("kinetide")));
    assert_eq!(state["entityType"], s("CLIENT_VERSION_MIGRATION"));
    assert!(state["mts"].as_n().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000, "milliseconds");
    let table = app.accepts().await;
    assert!(table.lead(None, &lock("a", "1")).await.unwrap());
    table.report(&report("w", 1)).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    assert_eq!((snapshot.leases.len(), snapshot.workers.len(), snapshot.odd.len()), (0, 1, 0));
    for place in [&app.coordinator, &app.metrics] {
        let described = client.describe_table().table_name(&place.table).send().await;
        assert!(described.is_err(), "{} is not created", place.table);
    }
}

async fn another_kind_of_table_is_refused(client: &Client) {
    let app = App::new(client, "other");
    Items { key: "id", ..app.leases.clone() }.create_table().await;
    app.refuses(&["leaseKey", "another table name"]).await;

    let app = App::new(client, "other");
    Items { key: "id", ..app.coordinator.clone() }.create_table().await;
    app.refuses(&["CoordinatorState", "single string key"]).await;
}

async fn an_index_with_other_keys_is_refused(client: &Client) {
    let app = App::new(client, "index");
    let attribute = |name: &str| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .unwrap()
    };
    let key =
        || KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash).build().unwrap();
    let index = GlobalSecondaryIndex::builder()
        .index_name("LeaseOwnerToLeaseKeyIndex")
        .key_schema(key())
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
        .unwrap();
    client
        .create_table()
        .table_name(&app.leases.table)
        .attribute_definitions(attribute("leaseKey"))
        .key_schema(key())
        .global_secondary_indexes(index)
        .billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
    app.refuses(&["LeaseOwnerToLeaseKeyIndex", "delete the index"]).await;
}

fn lease(owner: Option<&str>, counter: u64) -> Vec<(&'static str, AttributeValue)> {
    let mut row = vec![
        ("leaseCounter", n(counter)),
        ("checkpoint", s("TRIM_HORIZON")),
        ("checkpointSubSequenceNumber", n(0)),
        ("ownerSwitchesSinceCheckpoint", n(0)),
    ];
    row.extend(owner.map(|owner| ("leaseOwner", s(owner))));
    row
}

/// Left over from workers that are gone.
async fn a_table_of_kcl_2_gets_its_index(client: &Client) {
    let app = App::new(client, "left-over");
    app.leases.create_table().await;
    app.leases.put("shard-1", &lease(Some("java-a"), 5)).await;
    app.leases.put("shard-2", &lease(None, 5)).await;
    let began = tokio::time::Instant::now();
    let table = app.accepts().await;
    assert!(began.elapsed() >= FAILOVER, "the owner was watched");
    let table: Table = Arc::new(table);
    owns(&table, "java-a", &[LeaseKey::from(ShardId::new("shard-1"))]).await;
    assert_eq!(app.leases.get("Migration3.0").await["cv"], s("CLIENT_VERSION_3X"));
    // A suspicion would hold this start up for an hour.
    let app = App { failover: FAILOVER * 3600, ..app };
    let start = tokio::time::timeout(FAILOVER * 120, app.accepts()).await;
    assert!(start.is_ok(), "no suspicion against a fleet that has said what it is");
}

async fn a_provisioned_table_gets_its_index(client: &Client) {
    let app = App::new(client, "provisioned");
    let attribute =
        AttributeDefinition::builder().attribute_name("leaseKey").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash);
    let capacity = ProvisionedThroughput::builder().read_capacity_units(7).write_capacity_units(9);
    client
        .create_table()
        .table_name(&app.leases.table)
        .attribute_definitions(attribute.build().unwrap())
        .key_schema(key.build().unwrap())
        .provisioned_throughput(capacity.build().unwrap())
        .send()
        .await
        .unwrap();
    app.accepts().await;
    let described = client.describe_table().table_name(&app.leases.table).send().await.unwrap();
    let capacity =
        described.table().unwrap().global_secondary_indexes()[0].provisioned_throughput().unwrap().clone();
    let capacity = (capacity.read_capacity_units(), capacity.write_capacity_units());
    // dynoxide 3.2 does not keep the capacity of an added index.
    assert!([(Some(7), Some(9)), (Some(0), Some(0))].contains(&capacity), "{capacity:?}");
}

async fn a_fleet_of_kcl_2_is_refused_while_it_lives(client: &Client) {
    // A server that is busy with its index may hold up a renewal for longer than a second; the first one seen is enough.
    let app = App { failover: FAILOVER * 10, ..App::new(client, "living") };
    app.leases.create_table().await;
    app.leases.put("shard-1", &lease(Some("java-dead"), 5)).await;
    app.leases.put("shard-2", &lease(Some("java-alive"), 5)).await;
    let renewing = async {
        for counter in 6u64.. {
            sleep(FAILOVER / 5).await;
            app.leases.set("shard-2", "leaseCounter", n(counter)).await;
        }
    };
    tokio::select! {
        () = app.refuses(&["java-alive", "KCL 2.x", "stop"]) => {}
        () = renewing => {}
    }
    assert_eq!(app.leases.find("Migration3.0").await, None, "nothing was declared");
}

async fn the_state_of_the_fleet_decides_who_joins(client: &Client) {
    let state = |name: &str| {
        [("cv", s(&format!("CLIENT_VERSION_{name}"))), ("mb", s("java-a")), ("mts", n(1)), ("other", n(1))]
    };
    let single = App::new(client, "state");
    single.leases.create_table().await;
    let three = App::of_three_tables(client, "states").await;
    for (app, place) in [(&single, &single.leases), (&three, &three.coordinator)] {
        for (name, words) in [
            ("INIT", "being upgraded from KCL 2.x"),
            ("2X", "in KCL 2.x mode"),
            ("UPGRADE_FROM_2X", "being upgraded from KCL 2.x"),
            ("4X", "newer version of kinetide"),
        ] {
            place.put("Migration3.0", &state(name)).await;
            app.refuses(&["Migration3.0", &format!("CLIENT_VERSION_{name}, set by java-a"), words]).await;
        }
        place.put("Migration3.0", &[("cv", n(3))]).await;
        app.refuses(&["Migration3.0", "newer version of kinetide"]).await;
        for name in ["3X_WITH_ROLLBACK", "3X"] {
            place.put("Migration3.0", &state(name)).await;
            app.accepts().await;
            assert_eq!(
                place.get("Migration3.0").await["cv"],
                s(&format!("CLIENT_VERSION_{name}")),
                "left alone"
            );
        }
    }
}

async fn the_state_of_the_migration_decides_the_layout(client: &Client) {
    let app = App::of_three_tables(client, "migration").await;
    for (name, lock_is_in_coordinator) in
        [(None, true), (Some("INIT"), true), (Some("DEPLOYED"), true), (Some("COMPLETE"), false)]
    {
        if let Some(name) = name {
            let status = s(&format!("TABLE_MIGRATION_STATUS_{name}"));
            app.coordinator
                .put("TableMigration3.5", &[("tm", status), ("mb", s("java-a")), ("mts", n(1))])
                .await;
        }
        let table = app.accepts().await;
        assert!(table.lead(None, &lock("a", "1")).await.unwrap());
        table.report(&report("w", 1)).await.unwrap();
        assert_eq!(app.coordinator.find("Leader").await.is_some(), lock_is_in_coordinator, "{name:?}");
        assert_eq!(app.metrics.find("w").await.is_some(), lock_is_in_coordinator, "{name:?}");
        assert_eq!(app.leases.find("Leader").await.is_some(), !lock_is_in_coordinator, "{name:?}");
        assert_eq!(app.leases.find("w").await.is_some(), !lock_is_in_coordinator, "{name:?}");
        assert!(table.resign(&lock("a", "1")).await.unwrap());
        assert!(table.forget_worker(&report("w", 1)).await.unwrap());
    }
    assert!(!app.coordinator.get("Migration3.0").await.contains_key("entityType"));
    for name in ["TABLE_MIGRATION_STATUS_PENDING", "TABLE_MIGRATION_STATUS_BAKED"] {
        app.coordinator.put("TableMigration3.5", &[("tm", s(name)), ("mb", s("java-a"))]).await;
        app.refuses(&["CoordinatorState", "TableMigration3.5", name, "set by java-a"]).await;
    }
}

/// While a Java leader moves an application to the single table.
async fn rows_that_have_moved_are_found(client: &Client) {
    let app = App::of_three_tables(client, "moved").await;
    app.leases
        .put(
            "Migration3.0",
            &[
                ("entityType", s("CLIENT_VERSION_MIGRATION")),
                ("cv", s("CLIENT_VERSION_3X")),
                ("mb", s("java-a")),
            ],
        )
        .await;
    let table = app.accepts().await;
    assert_eq!(app.coordinator.find("Migration3.0").await, None, "it has moved");

    let stats = |updated| vec![("lut", n(updated)), ("sts", AttributeValue::M([].into())), ("sup", n(1))];
    let moved = |updated| [stats(updated), vec![("entityType", s("WORKER_METRIC_STATS"))]].concat();
    app.metrics.put("stays", &stats(1)).await;
    app.leases.put("moved", &moved(2)).await;
    app.metrics.put("moving", &stats(3)).await;
    app.leases.put("moving", &moved(4)).await;
    let snapshot = table.snapshot().await.unwrap();
    let mut workers: Vec<(&str, u64)> =
        snapshot.workers.iter().map(|row| (row.id.as_str(), row.updated)).collect();
    workers.sort_unstable();
    assert_eq!(workers, [("moved", 2), ("moving", 4), ("stays", 1)]);
    assert!(snapshot.odd.is_empty());
    for row in &snapshot.workers {
        assert!(table.forget_worker(row).await.unwrap(), "{row:?}");
    }
    let left = table.snapshot().await.unwrap().workers;
    assert_eq!(left.iter().map(|row| (row.id.as_str(), row.updated)).collect::<Vec<_>>(), [("moving", 3)]);
}

async fn half_a_layout_is_refused(client: &Client) {
    let app = App::new(client, "half");
    app.coordinator.create_table().await;
    app.refuses(&["WorkerMetricStats", "CoordinatorState"]).await;
    app.metrics.create_table().await;
    let table = app.accepts().await;
    assert_eq!(table.snapshot().await.unwrap().leases.len(), 0, "the lease table is made anew");
    assert_eq!(app.coordinator.get("Migration3.0").await["cv"], s("CLIENT_VERSION_3X"));
}
