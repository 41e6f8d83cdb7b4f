//! Test and load data: synthetic transactions or replayed trades, and the change records that a table would have
//! produced of them.
//!
//! Owns: the sources (`synthetic`, `trades`) and the envelope of Kinesis Data Streams for DynamoDB.
//! Does not own: writing the changes (`produce`).

mod decimal;
pub mod envelope;
pub mod item;
mod source;
pub mod synthetic;
pub mod trades;

pub use item::{Change, Item, Value};
pub use source::Source;
