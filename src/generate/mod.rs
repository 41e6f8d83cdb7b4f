//! Test and load data: synthetic transactions or replayed trades, written into a DynamoDB table or straight into
//! a Kinesis stream as the change records that the table would have produced.
//!
//! Owns: the sources (`synthetic`, `trades`), the envelope of Kinesis Data Streams for DynamoDB, the writers, the
//! rate, and the order of changes to one key.
//! Does not own: what becomes of the changes afterwards.
//!
//! ```text
//! synthetic ─┐                              ┌─► dynamodb (BatchWriteItem)
//!            ├─► Change ─► pace ─► in_order ─┤
//! trades ────┘                              └─► envelope ─► kinesis (PutRecords)
//! ```

mod decimal;
pub mod dynamodb;
pub mod envelope;
mod in_order;
pub mod item;
pub mod kinesis;
mod pace;
mod retry;
mod run;
pub mod synthetic;
pub mod trades;

pub use item::{Change, Item, Value};
pub use run::{Ended, Event, GenerateError, Plan, Ramp, Sink, Source, Totals, run, run_to_end};
