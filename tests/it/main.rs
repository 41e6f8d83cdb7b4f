//! The one integration-test binary.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in helpers too")]

#[cfg(feature = "local")]
mod aggregates;
#[cfg(feature = "local")]
mod cli;
#[cfg(feature = "local")]
mod documents;
mod dynamodb_streams;
#[cfg(feature = "local")]
mod examples;
#[cfg(feature = "local")]
mod fuzz;
#[cfg(feature = "local")]
mod http2;
mod image;
mod interop;
#[cfg(feature = "kafka")]
mod kafka;
mod kinesis_conformance;
mod lease_table;
#[cfg(feature = "local")]
mod library;
mod old_batches;
mod pure;
mod s3;
mod same_objects;
mod sim_lease;
mod sim_streams;
mod sim_worker;
mod sink_conformance;
#[cfg(feature = "local")]
mod stream_conformance;
mod tidy;
