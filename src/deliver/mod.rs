//! Objects → store, whole or not at all, and never over an object that exists. Packed rows → delivery stream, at least
//! once.
//!
//! Owns: the sink seam, create-only puts and uploads, calls to Firehose and what of them goes again, when to try again.
//! Does not own: what is in an object or a record (`batch`), whether it may be delivered (`checkpoint`).

mod calls;
mod firehose;
mod folder;
mod lake;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod objects;
mod retry;
mod s3;
mod said;
mod sink;
mod url;

pub use calls::{billed_bytes, calls};
pub use firehose::DeliveryStream;
pub use lake::{open, open_existing, open_to_write};
pub use objects::{ObjectSink, ProbeError};
pub use retry::{Backoff, retry_until};
pub use s3::{S3Settings, Sse};
pub use said::said;
pub use sink::{BadLake, Created, MayCreate, Sink, SinkError};
pub use url::{LakeUrl, mistaken_url};
