//! Reads a Kinesis stream with many workers that share its shards, and either lands rows in a data lake **exactly once**,
//! or gives the records to your code **at least once**. Leases and checkpoints are those of the Java Kinesis Client Library
//! (KCL) 3: workers of both may be in one fleet, and an application can move from one to the other.
//!
//! # Records to your own code
//!
//! Each shard has a processor of its own. It says with a checkpoint what is done; after a crash the next worker goes on
//! from there. What slow, failing and forgetful processors lead to stands at [`Processor`].
//!
//! ```no_run
//! use kinetide::{Checkpointer, Processor, ProcessorError, Records, ShardId, Worker, async_trait};
//!
//! struct Printer(ShardId);
//!
//! #[async_trait]
//! impl Processor for Printer {
//!     async fn records(&mut self, records: &Records, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
//!         for record in records.iter() {
//!             println!("{} {}", self.0, String::from_utf8_lossy(&record.data()));
//!         }
//!         Ok(checkpointer.checkpoint().await?)
//!     }
//!
//!     async fn shard_end(&mut self, checkpointer: &Checkpointer) -> Result<(), ProcessorError> {
//!         Ok(checkpointer.checkpoint().await?) // the children of the shard are read from here on
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let worker = Worker::builder("print-trades", "trades").processor(|shard: &ShardId| Printer(shard.clone()))?;
//! worker.run().await?; // until SIGTERM
//! # Ok(())
//! # }
//! ```
//!
//! # Rows in a lake, exactly once
//!
//! A [`Transform`] makes rows of a record: none, one or many. They land as gzip NDJSON, each once, whatever is killed when.
//! A record that cannot become rows becomes a dead letter.
//!
//! ```no_run
//! use kinetide::{BadRecord, RecordContext, RowInfo, Rows, Transform, TransformId, Worker};
//!
//! struct Sizes(TransformId);
//!
//! impl Transform for Sizes {
//!     fn id(&self) -> &TransformId {
//!         &self.0
//!     }
//!
//!     fn start(&self) -> Box<dyn Rows> {
//!         Box::new(SizesAtWork)
//!     }
//! }
//!
//! struct SizesAtWork;
//!
//! impl Rows for SizesAtWork {
//!     fn apply(
//!         &mut self,
//!         context: &RecordContext<'_>,
//!         data: &[u8],
//!         out: &mut Vec<u8>,
//!     ) -> Result<RowInfo, BadRecord> {
//!         out.push(b'{');
//!         context.push_place(out); // which record the row is of: every row says so
//!         out.extend_from_slice(format!(",\"bytes\":{}}}\n", data.len()).as_bytes());
//!         Ok(RowInfo { time_us: context.arrival_us, rows: 1 })
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let sizes = Sizes(TransformId::new("sizes", 1, "")?); // a new version with every change of the rows
//! Worker::builder("size-of-trades", "trades").transform(sizes, "s3://my-lake/raw").build()?.run().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `cli` is the program `kinetide`, `local` its embedded Kinesis and DynamoDB for trials; both are on by default and not
//! needed by a library: use `default-features = false`. `kafka` reads topics of Kafka. `test-util` adds `kinetide::testing`: twins in memory, and the
//! suites that sources and sinks must pass.
//!
//! `docs/LIBRARY.md` says more: promises compared with the KCL, how to write a source or a sink, what is stable.

// The modules stand in the order of the data's way; `docs/ARCHITECTURE.md` is the map in prose.
//
// ```text
// shard ─► lease ─► fetch ─► decode ─► transform ─► batch ─► deliver ─► checkpoint
//            ▲                                                              │
//            └───────────── conditional write: same lease, same counter ────┘
// ```

// The way of the data.
mod batch;
mod checkpoint;
mod decode;
mod deliver;
mod fetch;
mod kafka;
mod kpl;
mod lease;
mod shard;
mod transform;

// What drives it.
mod consumer;
mod processor;
mod shutdown;
mod worker;

// The edge of the process.
mod aws;
mod cause;
#[cfg(feature = "cli")]
mod cli;
mod clock;
mod config;
#[cfg(feature = "cli")]
mod drawing;
#[cfg(feature = "cli")]
mod figures;
mod nearest;
mod preflight;
mod report;
mod scale;
mod service;
mod telemetry;
mod terminal;

// Rooms of the subcommands.
#[cfg(feature = "cli")]
mod dead_letters;
#[cfg(feature = "local")]
mod demo;
#[cfg(feature = "cli")]
mod generate;
#[cfg(feature = "cli")]
mod insights;
#[cfg(feature = "local")]
mod loadtest;
#[cfg(feature = "local")]
mod local;
#[cfg(feature = "cli")]
mod market;
#[cfg(feature = "cli")]
mod produce;
#[cfg(feature = "test-util")]
pub mod testing;
#[cfg(feature = "local")]
mod trial;

// What a program names. Nothing else of this crate is promised.
pub use crate::config::{BadSetting, RetrievalSetting};
pub use crate::fetch::{OutOfRange, Payload, Record};
pub use crate::lease::Pending as PendingCheckpoint;
pub use crate::processor::{
    CheckpointError, Checkpointer, Processor, ProcessorError, ProcessorFactory, Records, ShardStart,
};
pub use crate::service::{InitialPosition, LakeWorkerBuilder, StartError, Worker, WorkerBuilder};
pub use crate::shard::{Checkpoint, Position, SequenceNumber, ShardId};
pub use crate::transform::{
    BadRecord, Builtin, ErrorCode, InvalidTransformName, RecordContext, RowInfo, Rows, SourceKind, Transform,
    TransformId,
};
pub use crate::worker::Drain;
pub use async_trait::async_trait;

/// What somebody needs who writes a source of records: see `docs/LIBRARY.md`.
pub mod source {
    pub use crate::config::Source;
    pub use crate::fetch::{
        Ahead, Behind, BytePermit, FetchError, Page, PageBuilder, Polled, Polling, Pulled, ReadsFor,
        RecordSource, Retrieval, Room, ShardReader, StartAt, StartRecord, Starts,
    };
    pub use crate::shard::{
        ChildShard, FindStart, HashKeyRange, Lineage, ListError, Shard, ShardLister, StartError, StartFound,
        StartFrom, StreamId,
    };
    pub use crate::telemetry::waiting::Waiting;
}

/// What somebody needs who writes a place to deliver to: see `docs/LIBRARY.md`.
pub mod sink {
    pub use crate::deliver::{Created, MayCreate, Sink, SinkError};
}

macro_rules! hidden {
    ($($(#[$if:meta])? $module:ident),* $(,)?) => {$(
        $(#[$if])?
        pub mod $module {
            pub use crate::$module::*;
        }
    )*};
}

/// For the binary, the tests and the benches of this package only: it changes with every release, without notice.
#[doc(hidden)]
pub mod internals {
    hidden! {
        aws, batch, cause, checkpoint, clock, config, consumer, decode, deliver, fetch, lease, nearest, preflight,
        kafka, kpl, processor, scale, service, shard, shutdown, telemetry, terminal, transform, worker,
        #[cfg(feature = "cli")] cli,
        #[cfg(feature = "cli")] dead_letters,
        #[cfg(feature = "cli")] generate,
        #[cfg(feature = "cli")] insights,
        #[cfg(feature = "cli")] market,
        #[cfg(feature = "cli")] produce,

        #[cfg(feature = "local")] demo,
        #[cfg(feature = "local")] loadtest,
        #[cfg(feature = "local")] local,
        #[cfg(feature = "local")] trial,
    }
}
