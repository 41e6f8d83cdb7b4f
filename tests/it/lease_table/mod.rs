//! What every lease table must do: one list of checks, run on the twin in memory, on the embedded DynamoDB,
//! and on independent servers whose endpoint the environment names; on DynamoDB in both layouts of KCL 3.x.

mod dynamodb;
mod fleet;
mod items;
mod layouts;
mod leases;

use std::sync::Arc;

use kinetide::internals::lease::memory::MemoryLeaseTable;
use kinetide::internals::lease::{Lease, LeaseTable, LeaseWrite, TableError, WorkerId, WriteError};
use kinetide::internals::shard::{Checkpoint, HashKeyRange, Position, SequenceNumber, Shard, ShardId};

type Table = Arc<dyn LeaseTable>;

fn shard(number: usize) -> Shard {
    Shard {
        id: ShardId::new(format!("shardId-{number:012}")),
        parents: vec![ShardId::new("shardId-parent-a"), ShardId::new("shardId-parent-b")],
        hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
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
async fn conforms(table: &Table) {
    table.ensure_exists().await.unwrap();
    table.ensure_exists().await.unwrap();
    leases::conform(table).await;
    fleet::conform(table).await;
}

/// Somebody has deleted the table under a running worker.
async fn its_absence_is_noticed(table: &Table, lease: &Lease) {
    for answer in [
        table.snapshot().await.map(drop),
        table.owned_by(&worker("a")).await.map(drop),
        table.get(&lease.key).await.map(drop),
        table.create(lease).await.map(drop),
        table.leader().await.map(drop),
        table.lead(None, &fleet::lock("a", "1")).await.map(drop),
        table.report(&fleet::report("a", 1)).await.map(drop),
        table.forget_worker(&fleet::report("a", 1)).await.map(drop),
    ] {
        assert!(matches!(answer, Err(TableError::NotFound(_))), "{answer:?}");
    }
    for answer in [
        table.write(lease, &LeaseWrite::Renew { kbps: None, caught_up: None }).await.map(drop),
        table.delete(lease).await,
    ] {
        assert!(matches!(answer, Err(WriteError::NotWritten(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn memory_conforms() {
    let memory = Arc::new(MemoryLeaseTable::new());
    let table: Table = Arc::clone(&memory) as _;
    conforms(&table).await;
    memory.drop_table();
    its_absence_is_noticed(&table, &Lease::new(&shard(0), Checkpoint::Latest)).await;
}
