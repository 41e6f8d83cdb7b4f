//! Getting records of one shard, in pages.
//!
//! Owns: the source seam, the page, pacing of polls, the byte budget of the process.
//! Does not own: what the bytes of a record mean (`decode`).

mod body;
mod budget;
mod buffer;
pub mod kinesis;
pub mod memory;
mod pacing;
mod page;
mod search;
mod source;
mod start;

pub use body::{BodyError, parse as parse_body};
pub use budget::{ByteBudget, BytePermit, Turn};
pub use pacing::{Next, Pacing};
pub use page::{Page, PageBuilder, Payload, Record};
pub use source::{FetchError, RecordSource, StartAt, fetch_page};
pub use start::Starts;
