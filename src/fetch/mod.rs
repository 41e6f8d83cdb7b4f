//! Getting records of one shard, in pages.
//!
//! Owns: the source seam, the page, how a shard is polled or subscribed to, the unpacking of aggregates, the byte budget of
//! the process.
//! Does not own: what the bytes of a record mean (`decode`).

mod aggregate;
mod body;
mod budget;
mod buffer;
mod changes;
pub mod dynamodbstreams;
pub mod fanout;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kinesis;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
#[cfg(any(test, feature = "test-util"))]
pub mod memory_table;
mod pacing;
mod page;
mod polling;
mod search;
mod source;
mod spare;
mod start;
mod started;
mod unpacking;

pub use aggregate::{Found, OutOfRange, has_aggregates, unpack};
pub use body::{BodyError, parse as parse_body};
pub use budget::{ByteBudget, BytePermit, Turn};
pub use changes::parse as parse_changes;
pub use page::{Behind, Page, PageBuilder, Payload, Record};
pub use polling::{Polled, Polling};
pub use source::{
    Ahead, FetchError, Pulled, ReadsFor, RecordSource, Retrieval, Room, ShardReader, StartAt, StartRecord,
};
pub use start::Starts;
pub use unpacking::Unpacking;
