//! A client for Kafka: as much of one as a reader of partitions needs, and a producer that waits for its answer.
//!
//! Owns: connections with TLS and SASL, where partitions live now, requests and their answers, the format of record batches.
//! Does not own: positions and what becomes of records (`fetch::kafka`), which partitions are read (`shard::kafka`).
//!
//! There is no consumer group and no state on the broker: leases and checkpoints are in the lease table. Every error code
//! of a broker reaches the caller, and no offset is ever moved by the client itself. Why a client of our own: ADR 39.

#[cfg(feature = "kafka")]
mod admin;
#[cfg(feature = "kafka")]
mod ask;
#[cfg(feature = "kafka")]
mod cluster;
#[cfg(feature = "kafka")]
mod codec;
#[cfg(feature = "kafka")]
mod connection;
#[cfg(feature = "kafka")]
mod error;
#[cfg(feature = "kafka")]
mod producer;
#[cfg(feature = "kafka")]
mod records;
#[cfg(feature = "kafka")]
mod sasl;
mod settings;
#[cfg(feature = "kafka")]
mod tls;
#[cfg(feature = "kafka")]
mod write;

#[cfg(feature = "kafka")]
pub use cluster::{Cluster, EpochEnd, Fetched, Isolation, Offset, Partition, Topic};
#[cfg(feature = "kafka")]
pub(crate) use cluster::{FETCH_BYTES, id_text, parse_id};
#[cfg(feature = "kafka")]
pub use error::KafkaError;
#[cfg(feature = "kafka")]
pub use producer::Producer;
#[cfg(feature = "kafka")]
pub use records::{BatchError, Batches, Entry, Taken};
pub use settings::{Bootstrap, ClientCertificate, KafkaSettings, Mechanism, Password, Sasl, is_topic_name};
#[cfg(feature = "kafka")]
pub use write::{Compression, Stamp, Written, batch_of, stamped};
