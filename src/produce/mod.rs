//! Writers of changes: into a DynamoDB table, or straight into a Kinesis stream or a topic of Kafka as the change records that
//! the table would have produced.
//!
//! Owns: the writers with their retries and receipts, the packing into aggregates, the rate, and the order of changes to one
//! key.
//! Does not own: what is written (`generate`), what becomes of it afterwards.
//!
//! ```text
//! generate ─► Change ─► pace ─► in_order ─┬─► dynamodb (BatchWriteItem)
//!                                         └─► records ─┬─► kinesis (PutRecords)
//!                                                      └─► kafka (Produce)
//! ```

pub mod aggregate;
pub mod dynamodb;
mod in_order;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kinesis;
mod pace;
mod records;
mod retry;
mod run;

pub use run::{Ended, Event, Plan, ProduceError, Ramp, Sink, Totals, run, run_to_end};
