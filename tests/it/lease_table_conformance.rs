//! What every lease table must do: one list of checks, run on the twin in memory, on the embedded DynamoDB,
//! and on independent servers whose endpoint the environment names.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::sync::Arc;

use futures::future::join_all;
use kinetide::lease::memory::MemoryLeaseTable;
use kinetide::lease::{Lease, LeaseTable, LeaseWrite, Pending, WorkerId, WriteError, apply};
use kinetide::shard::{Checkpoint, HashKeyRange, Position, SequenceNumber, Shard, ShardId};

type Table = Arc<dyn LeaseTable>;

fn shard(number: usize) -> Shard {
    Shard {
        id: ShardId::new(format!("shardId-{number:012}")),
        parents: vec![ShardId::new("shardId-parent-a"), ShardId::new("shardId-parent-b")],
        hash_range: HashKeyRange { start: 0, end: u128::MAX },
        starting_sequence_number: SequenceNumber::from(1),
        closed: false,
    }
}

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name)
}

fn at(sequence: u128, sub: u64) -> Checkpoint {
    Checkpoint::At(Position { sequence: SequenceNumber::from(sequence), sub })
}

async fn fresh(table: &Table, number: usize) -> Lease {
    let lease = Lease::new(&shard(number), Checkpoint::TrimHorizon);
    assert!(table.create(&lease).await.unwrap());
    lease
}

/// Every check; each uses its own keys, so that they may share one table.
async fn conforms(table: Table) {
    table.ensure_exists().await.unwrap();
    table.ensure_exists().await.unwrap();
    a_created_row_is_read_back(&table).await;
    creation_has_one_winner(&table).await;
    the_counter_race_is_exact(&table).await;
    every_write_has_the_effect_of_apply(&table).await;
    a_conflict_shows_the_row(&table).await;
    deleting_is_conditional(&table).await;
}

async fn a_created_row_is_read_back(table: &Table) {
    let lease = fresh(table, 0).await;
    assert_eq!(table.get(&lease.key).await.unwrap().as_ref(), Some(&lease));
    assert!(table.snapshot().await.unwrap().leases.contains(&lease));
    assert_eq!(table.get(&ShardId::new("nowhere")).await.unwrap(), None);
}

async fn creation_has_one_winner(table: &Table) {
    let create = |n: u64| {
        let mut lease = Lease::new(&shard(1), Checkpoint::TrimHorizon);
        lease.owner_switches = n;
        async move { (n, table.create(&lease).await.unwrap()) }
    };
    let winners: Vec<u64> =
        join_all((0..8).map(create)).await.into_iter().filter(|(_, won)| *won).map(|(n, _)| n).collect();
    assert_eq!(winners.len(), 1);
    let row = table.get(&shard(1).id).await.unwrap().unwrap();
    assert_eq!(row.owner_switches, winners[0], "the row is the winner's");
}

async fn the_counter_race_is_exact(table: &Table) {
    let key = fresh(table, 2).await.key;
    let writer = |_| {
        let key = key.clone();
        async move {
            let mut accepted = 0;
            for _ in 0..10 {
                let seen = table.get(&key).await.unwrap().unwrap();
                match table.write(&seen, &LeaseWrite::Renew(None)).await {
                    Ok(row) => {
                        assert_eq!(row.counter, seen.counter + 1);
                        accepted += 1;
                    }
                    Err(WriteError::Conflict(Some(row))) => assert!(row.counter > seen.counter),
                    // A busy server may refuse a writer; then the write has not happened.
                    Err(WriteError::NotWritten(_)) => {}
                    Err(error) => panic!("unexpected answer: {error:?}"),
                }
            }
            accepted
        }
    };
    let accepted: u64 = join_all((0..8).map(writer)).await.into_iter().sum();
    let row = table.get(&key).await.unwrap().unwrap();
    assert!(accepted >= 10);
    assert_eq!(row.counter, accepted, "one accepted write per counter");
}

async fn every_write_has_the_effect_of_apply(table: &Table) {
    let mut row = fresh(table, 3).await;
    let state: Arc<[u8]> = (0..=255u8).collect::<Vec<_>>().into();
    let pending = |state| Pending { checkpoint: at(2u128.pow(100), 7), state };
    let children = vec![ShardId::new("child-a"), ShardId::new("child-b")];
    for write in [
        LeaseWrite::Assign(worker("a")),
        LeaseWrite::Renew(None),
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Prepare(pending(Some(state))),
        LeaseWrite::Renew(None),
        LeaseWrite::Prepare(pending(None)),
        LeaseWrite::Commit(at(2u128.pow(100), 7)),
        LeaseWrite::SetChildren(children),
        LeaseWrite::SetChildren(Vec::new()),
        LeaseWrite::Evict,
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Commit(Checkpoint::ShardEnd),
    ] {
        let expected = apply(&row, &write);
        row = table.write(&row, &write).await.unwrap();
        assert_eq!(row, expected, "answer of {write:?}");
        assert_eq!(table.get(&row.key).await.unwrap(), Some(expected), "row after {write:?}");
    }
    assert!(row.finished());
}

async fn a_conflict_shows_the_row(table: &Table) {
    let old = fresh(table, 4).await;
    let taken = table.write(&old, &LeaseWrite::Assign(worker("a"))).await.unwrap();
    for write in [
        LeaseWrite::Renew(None),
        LeaseWrite::Assign(worker("b")),
        LeaseWrite::Evict,
        LeaseWrite::Commit(at(9, 0)),
        LeaseWrite::SetChildren(vec![ShardId::new("child")]),
    ] {
        match table.write(&old, &write).await {
            Err(WriteError::Conflict(Some(row))) => assert_eq!(*row, taken, "conflict of {write:?}"),
            other => panic!("unexpected answer to {write:?}: {other:?}"),
        }
    }
    // The owners are part of an evict's condition.
    let other_owner = Lease { owner: Some(worker("z")), ..taken.clone() };
    assert!(matches!(
        table.write(&other_owner, &LeaseWrite::Evict).await,
        Err(WriteError::Conflict(Some(_)))
    ));
    assert_eq!(table.get(&old.key).await.unwrap(), Some(taken));
}

async fn deleting_is_conditional(table: &Table) {
    let old = fresh(table, 5).await;
    let row = table.write(&old, &LeaseWrite::Renew(None)).await.unwrap();
    match table.delete(&old).await {
        Err(WriteError::Conflict(Some(found))) => assert_eq!(*found, row),
        other => panic!("unexpected answer: {other:?}"),
    }
    table.delete(&row).await.unwrap();
    assert_eq!(table.get(&row.key).await.unwrap(), None);
    for answer in [table.write(&row, &LeaseWrite::Renew(None)).await.map(drop), table.delete(&row).await] {
        assert!(matches!(answer, Err(WriteError::Conflict(None))), "deleted: {answer:?}");
    }
}

#[tokio::test]
async fn memory_conforms() {
    conforms(Arc::new(MemoryLeaseTable::new())).await;
}

mod dynamodb {
    use super::*;
    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::primitives::Blob;
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    };
    use kinetide::lease::TableError;
    use kinetide::lease::dynamodb::DynamoDbLeaseTable;
    use std::collections::HashMap;

    fn client(endpoint: &str) -> Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::for_tests())
            .endpoint_url(endpoint)
            .build();
        Client::from_conf(config)
    }

    /// The common checks, then those that need to look at and tamper with the items themselves.
    async fn conforms_as_dynamodb(endpoint: &str) {
        let client = client(endpoint);
        let name = format!("lease-conformance-{}", uuid::Uuid::new_v4());
        let table: Table = Arc::new(DynamoDbLeaseTable::new(client.clone(), &name));
        assert!(matches!(table.snapshot().await, Err(TableError::NotFound(_))));
        conforms(Arc::clone(&table)).await;
        let rows = Items { client: client.clone(), name };
        foreign_rows_are_left_alone(&table, &rows).await;
        rows_from_before_kcl_3_5_are_leases(&table, &rows).await;
        attributes_have_kcl_types(&table, &rows).await;
        a_number_as_pending_state_is_ignored(&table, &rows).await;
        a_hand_off_stops_the_renew_that_does_not_know_of_it(&table, &rows).await;
        large_tables_are_scanned_to_the_end(&table).await;
        rows.client.delete_table().table_name(&rows.name).send().await.unwrap();
        another_kind_of_table_is_refused(&client).await;
    }

    struct Items {
        client: Client,
        name: String,
    }

    impl Items {
        async fn put(&self, attributes: &[(&str, AttributeValue)]) {
            let item: HashMap<_, _> =
                attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            self.client.put_item().table_name(&self.name).set_item(Some(item)).send().await.unwrap();
        }

        async fn get(&self, key: &str) -> HashMap<String, AttributeValue> {
            let call = self.client.get_item().table_name(&self.name).consistent_read(true);
            call.key("leaseKey", s(key)).send().await.unwrap().item.unwrap()
        }

        async fn set(&self, key: &str, name: &str, value: AttributeValue) {
            let call = self.client.update_item().table_name(&self.name).key("leaseKey", s(key));
            let call = call.update_expression(format!("SET {name} = :v"));
            call.expression_attribute_values(":v", value).send().await.unwrap();
        }
    }

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn n(number: u64) -> AttributeValue {
        AttributeValue::N(number.to_string())
    }

    async fn foreign_rows_are_left_alone(table: &Table, rows: &Items) {
        let foreign: [&[(&str, AttributeValue)]; 4] = [
            &[("leaseKey", s("Leader")), ("entityType", s("LEADER")), ("ownerName", s("java"))],
            &[("leaseKey", s("no-counter")), ("checkpoint", s("LATEST"))],
            &[("leaseKey", s("odd-counter")), ("checkpoint", s("LATEST")), ("leaseCounter", s("1"))],
            &[("leaseKey", s("odd-place")), ("checkpoint", s("FROM_MARS")), ("leaseCounter", n(1))],
        ];
        for row in foreign {
            rows.put(row).await;
        }
        let known = table.snapshot().await.unwrap().leases;
        for row in foreign {
            let AttributeValue::S(key) = &row[0].1 else { panic!("keys are strings") };
            let key = ShardId::new(key.as_str());
            assert!(known.iter().all(|lease| lease.key != key), "{key} is no lease");
            assert_eq!(table.get(&key).await.unwrap(), None);
            let lease = Lease { key: key.clone(), ..Lease::new(&shard(0), Checkpoint::Latest) };
            assert!(!table.create(&lease).await.unwrap());
            assert!(matches!(
                table.write(&lease, &LeaseWrite::Renew(None)).await,
                Err(WriteError::Conflict(None))
            ));
            assert_eq!(rows.get(key.as_str()).await.len(), row.len(), "{key} is untouched");
        }
    }

    async fn rows_from_before_kcl_3_5_are_leases(table: &Table, rows: &Items) {
        rows.put(&[
            ("leaseKey", s("legacy")),
            ("leaseCounter", n(41)),
            ("ownerSwitchesSinceCheckpoint", n(2)),
            ("checkpoint", s("TRIM_HORIZON")),
            ("checkpointSubSequenceNumber", n(0)),
            ("leaseOwner", s("java")),
            ("ours", s("kept")),
        ])
        .await;
        let row = table.get(&ShardId::new("legacy")).await.unwrap().unwrap();
        assert_eq!((row.counter, row.owner_switches, row.hash_range), (41, 2, None));
        let row = table.write(&row, &LeaseWrite::Assign(worker("rust"))).await.unwrap();
        assert_eq!((row.counter, row.owner_switches), (42, 3));
        table.write(&row, &LeaseWrite::Commit(at(5, 1))).await.unwrap();
        let item = rows.get("legacy").await;
        assert_eq!(item["ours"], s("kept"), "unknown attributes survive");
        assert!(!item.contains_key("entityType"), "updates never add the entity type");
    }

    async fn attributes_have_kcl_types(table: &Table, rows: &Items) {
        let row = fresh(table, 20).await;
        let key = row.key.as_str();
        let item = rows.get(key).await;
        assert_eq!(item["entityType"], s("LEASE"));
        assert_eq!(item["endingHashKey"], s(&u128::MAX.to_string()));
        assert!(item["parentShardId"].is_ss());
        let absent =
            ["leaseOwner", "checkpointOwner", "childShardIds", "pendingCheckpoint", "throughputKBps"];
        assert!(absent.iter().all(|name| !item.contains_key(*name)));

        let pending = Pending { checkpoint: at(77, 3), state: Some(Arc::from([0u8, 255, 10].as_slice())) };
        let row = table.write(&row, &LeaseWrite::Assign(worker("a"))).await.unwrap();
        let row = table.write(&row, &LeaseWrite::Prepare(pending)).await.unwrap();
        let item = rows.get(key).await;
        assert_eq!(item["leaseOwner"], s("a"));
        assert_eq!(item["leaseCounter"], n(2));
        assert_eq!(item["checkpoint"], s("TRIM_HORIZON"));
        assert_eq!(item["pendingCheckpoint"], s("77"));
        assert_eq!(item["pendingCheckpointSubSequenceNumber"], n(3));
        assert_eq!(item["pendingCheckpointState"], AttributeValue::B(Blob::new([0u8, 255, 10])));

        table.write(&row, &LeaseWrite::Commit(at(77, 3))).await.unwrap();
        let item = rows.get(key).await;
        assert_eq!((&item["checkpoint"], &item["checkpointSubSequenceNumber"]), (&s("77"), &n(3)));
        assert!(item.keys().all(|name| !name.starts_with("pending")));
    }

    async fn a_number_as_pending_state_is_ignored(table: &Table, rows: &Items) {
        let key = fresh(table, 21).await.key;
        rows.set(key.as_str(), "pendingCheckpoint", s("9")).await;
        rows.set(key.as_str(), "pendingCheckpointState", n(9)).await;
        let row = table.get(&key).await.unwrap().unwrap();
        assert_eq!(row.pending, Some(Pending { checkpoint: at(9, 0), state: None }));
    }

    /// The start of a hand-off, as a Java leader writes it: owners change, the counter does not.
    async fn a_hand_off_stops_the_renew_that_does_not_know_of_it(table: &Table, rows: &Items) {
        let row = fresh(table, 22).await;
        let row = table.write(&row, &LeaseWrite::Assign(worker("a"))).await.unwrap();
        rows.set(row.key.as_str(), "leaseOwner", s("b")).await;
        rows.set(row.key.as_str(), "checkpointOwner", s("a")).await;
        let found = match table.write(&row, &LeaseWrite::Renew(None)).await {
            Err(WriteError::Conflict(Some(found))) => *found,
            other => panic!("unexpected answer: {other:?}"),
        };
        assert_eq!(found.actual_owner(), Some(&worker("a")));
        let found = table.write(&found, &LeaseWrite::Renew(None)).await.unwrap();
        let found = table.write(&found, &LeaseWrite::Commit(at(3, 0))).await.unwrap();
        let found = table.write(&found, &LeaseWrite::Evict).await.unwrap();
        assert_eq!((found.owner, found.checkpoint_owner), (Some(worker("b")), None));
    }

    async fn large_tables_are_scanned_to_the_end(table: &Table) {
        // Above one page of a megabyte.
        for number in 100..105 {
            let row = fresh(table, number).await;
            let state: Arc<[u8]> = vec![7; 300_000].into();
            let pending = Pending { checkpoint: at(1, 0), state: Some(state) };
            table.write(&row, &LeaseWrite::Prepare(pending)).await.unwrap();
        }
        let rows = table.snapshot().await.unwrap().leases;
        assert_eq!(
            rows.iter().filter(|row| row.pending.as_ref().is_some_and(|p| p.state.is_some())).count(),
            5
        );
    }

    async fn another_kind_of_table_is_refused(client: &Client) {
        let name = format!("no-lease-table-{}", uuid::Uuid::new_v4());
        let attribute =
            AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
        client
            .create_table()
            .table_name(&name)
            .attribute_definitions(attribute.build().unwrap())
            .key_schema(key.build().unwrap())
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await
            .unwrap();
        let table = DynamoDbLeaseTable::new(client.clone(), &name);
        match table.ensure_exists().await {
            Err(TableError::Unusable { reason, .. }) => assert!(reason.contains("leaseKey"), "{reason}"),
            other => panic!("unexpected answer: {other:?}"),
        }
        client.delete_table().table_name(&name).send().await.unwrap();
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
        assert!(matches!(table.write(&lease, &LeaseWrite::Renew(None)).await, Err(WriteError::Unknown(_))));
        assert!(matches!(table.get(&lease.key).await, Err(TableError::Unavailable(_))));
    }

    /// Answers every request in the same way.
    async fn canned(status: &'static str, kind: &'static str) -> (String, tokio::task::JoinSet<()>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move {
            let body =
                format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{kind}","message":"canned"}}"#);
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
            match table.write(&lease, &LeaseWrite::Renew(None)).await {
                Err(WriteError::NotWritten(_)) => assert!(refused, "{kind}"),
                Err(WriteError::Unknown(_)) => assert!(!refused, "{kind}"),
                other => panic!("unexpected answer to {kind}: {other:?}"),
            }
        }
        let (endpoint, _server) = canned("400 Bad Request", "AccessDeniedException").await;
        let table = DynamoDbLeaseTable::new(client(&endpoint), "lease-conformance");
        assert!(matches!(table.ensure_exists().await, Err(TableError::Unusable { .. })));
    }
}
