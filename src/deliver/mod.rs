//! Objects → store, whole or not at all, and never over an object that exists.
//!
//! Owns: the sink seam, create-only puts and uploads, when to try again.
//! Does not own: what is in an object (`batch`), whether it may be delivered (`checkpoint`).

mod lake;
pub mod memory;
mod retry;
mod s3;
mod sink;

pub use lake::{BadLake, LakeUrl, open, open_to_write};
pub use retry::{Backoff, retry_until};
pub use s3::{S3Settings, Sse};
pub use sink::{Created, ObjectSink, Sink, SinkError};
