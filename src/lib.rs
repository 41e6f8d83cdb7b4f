//! kinetide: leases the shards of a change stream, turns change records into rows and lands them in a lake
//! as gzip NDJSON exactly once.
//!
//! ```text
//! shard ─► lease ─► fetch ─► decode ─► transform ─► batch ─► deliver ─► checkpoint
//!            ▲                                                              │
//!            └───────────── conditional write: same lease, same counter ────┘
//! ```
//!
//! The modules below stand in the order of the data's way. `docs/ARCHITECTURE.md` is the map in prose.

// The way of the data.
pub mod batch;
pub mod checkpoint;
pub mod decode;
pub mod deliver;
pub mod fetch;
pub mod lease;
pub mod shard;
pub mod transform;

// What drives it.
pub mod consumer;
pub mod shutdown;
pub mod worker;

// The edge of the process.
pub mod aws;
pub mod cause;
pub mod cli;
pub mod clock;
pub mod config;
pub mod nearest;
pub mod preflight;
pub mod service;
pub mod telemetry;
pub mod terminal;

// Rooms of the subcommands.
pub mod dead_letters;
#[cfg(feature = "local")]
pub mod demo;
pub mod generate;
#[cfg(feature = "local")]
pub mod loadtest;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "local")]
pub mod trial;
