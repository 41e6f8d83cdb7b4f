//! Objects → store, whole or not at all, and never over an object that exists. Packed rows → delivery stream, at least
//! once.
//!
//! Owns: the sink seam, create-only puts, calls to Firehose and what of them goes again, when to try again.
//! Does not own: what is in an object or a record (`batch`), whether it may be delivered (`checkpoint`).

mod calls;
mod firehose;
mod lake;
pub mod memory;
mod retry;
mod sink;

pub use calls::{billed_bytes, calls};
pub use firehose::DeliveryStream;
pub use lake::{BadLake, LakeUrl, open, open_existing};
pub use retry::{Backoff, retry_until};
pub use sink::{Created, ObjectSink, Sink, SinkError};
