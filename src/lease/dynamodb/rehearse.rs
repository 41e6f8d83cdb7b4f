//! The writes of a worker, asked for in a way in which none can happen: whether they are allowed.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::item::s;
use super::layout::Layout;
use super::{DynamoDbLeaseTable, Place, unusable};
use crate::lease::table::TableError;

/// No worker's id or lease; the row does not exist, and is not made.
const KEY: &str = "kinetide-check";
/// What no row is.
const NEVER: &str = "attribute_exists(#key) AND attribute_not_exists(#key)";

/// A write that was asked for.
#[derive(Debug)]
pub struct Rehearsed {
    /// Of which table.
    pub table: String,
    /// Which call of DynamoDB.
    pub operation: &'static str,
    /// Whether it would be done.
    pub outcome: Result<(), TableError>,
}

impl DynamoDbLeaseTable {
    /// Asks for each kind of write, in each table that is written, on a condition that no row can meet. Each costs a write
    /// unit. Before this [`DynamoDbLeaseTable::look`] must have found the tables.
    pub async fn rehearse(&self) -> Vec<Rehearsed> {
        let mut places = vec![self.leases()];
        if self.layout() == Layout::Three {
            places.extend([self.coordinator(), self.worker_place(Layout::Three)]);
        }
        let mut all = Vec::new();
        for place in places {
            let client = &self.client;
            let put = client.put_item().table_name(&place.table).item(place.key, s(KEY));
            let put = put.condition_expression(NEVER).expression_attribute_names("#key", place.key);
            let update = client.update_item().table_name(&place.table).key(place.key, s(KEY));
            let update = update.update_expression("REMOVE kinetideCheck").condition_expression(NEVER);
            let update = update.expression_attribute_names("#key", place.key);
            let delete = client.delete_item().table_name(&place.table).key(place.key, s(KEY));
            let delete = delete.condition_expression(NEVER).expression_attribute_names("#key", place.key);
            // The SDK's futures are large.
            let (put, update, delete) =
                tokio::join!(Box::pin(put.send()), Box::pin(update.send()), Box::pin(delete.send()));
            let mut note = |operation, outcome| {
                all.push(Rehearsed { table: place.table.clone(), operation, outcome });
            };
            note("PutItem", self.refused_only_for_its_condition(&place, put));
            note("UpdateItem", self.refused_only_for_its_condition(&place, update));
            note("DeleteItem", self.refused_only_for_its_condition(&place, delete));
        }
        all
    }

    fn refused_only_for_its_condition<R, E>(
        &self,
        place: &Place,
        answer: Result<R, SdkError<E, HttpResponse>>,
    ) -> Result<(), TableError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match answer {
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(()),
            Err(error) => Err(self.table_error(&place.table, error)),
            Ok(_) => Err(unusable(
                &place.table,
                "its service writes rows whose condition is not met; use DynamoDB, or an emulator that honours conditions",
            )),
        }
    }
}
