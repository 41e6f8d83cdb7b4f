//! DynamoDB by dynoxide: the database, its endpoint and the timer for time to live.

use std::time::Duration;

use dynoxide::Database;
use dynoxide::actions::create_table::{CreateTableRequest, StreamSpecification};
use dynoxide::storage::Storage;
use dynoxide::types::{AttributeDefinition, KeySchemaElement, KeyType, ScalarAttributeType};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::LocalError;

/// dynoxide 3.2 looks for the last change of a table's stream without an index, so each write would take time in
/// proportion to all changes before it. This index is what its two queries on this table want.
const STREAM_INDEX: &str = "CREATE INDEX _stream_records_by_sequence \
    ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// An empty database in memory.
///
/// The index can only come in with a snapshot: the connection of a [`Database`] is private, that of a [`Storage`]
/// is not.
pub(super) fn database() -> Result<Database, LocalError> {
    let snapshot = std::env::temp_dir().join(format!("kinetide-{}.sqlite", Uuid::new_v4()));
    let database = restored(&snapshot.to_string_lossy());
    // Absent when the snapshot could not be written; then that error is the one to show.
    let removed = std::fs::remove_file(&snapshot);
    let database = database?;
    removed.map_err(|error| LocalError::Database(error.into()))?;
    Ok(database)
}

fn restored(snapshot: &str) -> Result<Database, LocalError> {
    let failed = |error: dynoxide::DynoxideError| LocalError::Database(error.into());
    let seed = Storage::memory().map_err(failed)?;
    seed.conn().execute_batch(STREAM_INDEX).map_err(|error| LocalError::Database(error.into()))?;
    seed.vacuum_into(snapshot).map_err(failed)?;
    let database = Database::memory().map_err(failed)?;
    database.restore_from(snapshot).map_err(failed)?;
    Ok(database)
}

/// Creates a table with one string key and a stream of changes with both images.
pub(super) fn create_table(database: &Database, name: &str, key: &str) -> Result<(), LocalError> {
    let request = CreateTableRequest {
        table_name: name.to_owned(),
        key_schema: vec![KeySchemaElement { attribute_name: key.to_owned(), key_type: KeyType::HASH }],
        attribute_definitions: vec![AttributeDefinition {
            attribute_name: key.to_owned(),
            attribute_type: ScalarAttributeType::S,
        }],
        billing_mode: Some("PAY_PER_REQUEST".to_owned()),
        stream_specification: Some(both_images()),
        ..CreateTableRequest::default()
    };
    database.create_table(request).map_err(|error| LocalError::Database(error.into()))?;
    Ok(())
}

/// A stream of changes with the item before and after.
pub(super) fn both_images() -> StreamSpecification {
    StreamSpecification { stream_enabled: true, stream_view_type: Some("NEW_AND_OLD_IMAGES".to_owned()) }
}

/// Serves DynamoDB and DynamoDB Streams until `stop`.
pub(super) async fn serve(listener: TcpListener, database: Database, stop: CancellationToken) {
    if let Err(error) =
        dynoxide::server::serve_with_shutdown(listener, database, stop.cancelled_owned()).await
    {
        tracing::error!(error, "the embedded DynamoDB ended");
    }
}

/// Removes items past their time to live, again and again until `stop`: the endpoint does not do it by itself.
pub(super) async fn sweep_ttl(database: Database, every: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let database = database.clone();
        match tokio::task::spawn_blocking(move || database.sweep_ttl()).await {
            Ok(Ok(removed)) if removed > 0 => {
                tracing::debug!(removed, "items past their time to live removed")
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not remove items past their time to live"),
            Err(error) => tracing::warn!(%error, "the sweep for time to live ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two queries of dynoxide that run for each change, word for word.
    #[test]
    fn the_index_serves_the_queries_of_the_stream() {
        let storage = Storage::memory().unwrap();
        storage.conn().execute_batch(STREAM_INDEX).unwrap();
        for query in [
            "SELECT COALESCE(MAX(CAST(sequence_number AS INTEGER)), 0) + 1 FROM _stream_records WHERE table_name = 't'",
            "SELECT event_name FROM _stream_records WHERE table_name = 't' AND shard_id = 's' AND \
             CAST(sequence_number AS INTEGER) > 5 ORDER BY CAST(sequence_number AS INTEGER) ASC LIMIT 10",
        ] {
            let plan: Vec<String> = storage
                .conn()
                .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
                .unwrap()
                .query_map([], |row| row.get(3))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert!(plan.iter().all(|step| step.contains("_stream_records_by_sequence")), "{plan:?}");
        }
    }
}
