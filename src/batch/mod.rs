//! Rows of one shard → gzip NDJSON objects, or records of a delivery stream.
//!
//! Owns: base64 of the payload, when a batch is full, the encoder, the partition and the key of an object, what proves
//! that an object is the one meant, how rows are packed into records, reading positions back from an object, which of its
//! rows are copied for alerts.
//! Does not own: how objects get to the store (`deliver`), when the batch is safe (`checkpoint`).

mod alerts;
mod batcher;
mod content;
mod encode;
mod key;
mod lines;
mod pack;
mod repair;
mod row_objects;

pub use alerts::{HIGH_RISK_ALERTS, high_risk_copy};
pub use batcher::{Batcher, each_record};
pub use content::Content;
pub use encode::{Gzip, GzipEncoder};
pub use key::{batch_of_name, folder_of, hour_folder, is_hidden, name_start, range_of_name, replay_name};
pub use lines::{BrokenObject, OBJECT_BYTES_MAX, TooLong, each_line};
pub use pack::Packing;
pub use repair::{RecordsThere, UnreadableObject, read_content, read_records, seal_object};
pub use row_objects::RowObjects;

use std::sync::Arc;

use bytes::Bytes;

use crate::shard::{Position, ShardId};
use crate::transform::{ErrorCode, SourceKind, Transform};

/// Where in the lake objects go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Folder of the rows, for example `landing/transactions`.
    pub landing: String,
    /// Folder of the dead letters, for example `errors`.
    pub errors: String,
    /// Valid rows of high risk are copied to [`HIGH_RISK_ALERTS`].
    pub alerts: bool,
}

/// When a batch is full, and how hard it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Bytes of rows before compression.
    pub rows_bytes_max: usize,
    /// Objects, dead letter objects included. Where their keys would not fit into the description of a batch, fewer.
    pub objects_max: usize,
    /// How hard objects are packed, and by what.
    pub gzip: Gzip,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows_bytes_max: 64 << 20, objects_max: 512, gzip: Gzip::level(1) }
    }
}

/// What all batches of one shard share.
#[derive(Clone, Debug)]
pub struct BatchContext {
    /// Name of the stream.
    pub stream: String,
    /// The shard.
    pub shard: ShardId,
    /// What kind of stream it is.
    pub source: SourceKind,
    /// Where objects go.
    pub layout: Layout,
    /// When a batch is full.
    pub limits: BatchLimits,
    /// What makes the rows.
    pub transform: Arc<dyn Transform>,
    /// How rows are packed for a delivery stream, where they go to one. Dead letters, and rows that are too long for a
    /// record, go to the lake all the same.
    pub packing: Option<Packing>,
}

impl BatchContext {
    /// What decides which rows a batch has and where they go: two workers may finish each other's batches only when it
    /// is equal.
    pub fn id(&self) -> String {
        match self.packing {
            None => self.transform.id().to_string(),
            Some(packing) => format!("{}+{}", self.transform.id(), packing.id()),
        }
    }
}

/// A closed batch: every record between two positions, as objects to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its first record.
    pub first: Position,
    /// Its last record.
    pub last: Position,
    /// Records in it; each gave rows, possibly none, or one dead letter.
    pub records: u64,
    /// Some of them were packed in others.
    pub unpacked: bool,
    /// Rows.
    pub rows: u64,
    /// Dead letters by reason, in the order of the enum.
    pub dead_letters: Vec<(ErrorCode, u64)>,
    /// Earliest arrival time of its records, µs since the epoch.
    pub oldest_arrival_us: i64,
    /// Latest arrival time of its records, µs since the epoch.
    pub newest_arrival_us: i64,
    /// The objects, in the order of their keys.
    pub objects: Vec<LakeObject>,
    /// The other rows, packed into records for a delivery stream, in the order of the shard. None is empty.
    pub packed: Vec<Bytes>,
    /// Bytes of all rows and dead letters before compression.
    pub rows_bytes: u64,
}

impl Batch {
    /// Memory that its objects and packed records take, bytes.
    pub fn held_bytes(&self) -> usize {
        self.objects.iter().map(|object| object.body.len()).chain(self.packed.iter().map(Bytes::len)).sum()
    }
}

/// One object for the lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeObject {
    /// Its key, relative to the lake.
    pub key: String,
    /// gzip of NDJSON.
    pub body: Bytes,
    /// What it holds; never 0 rows.
    pub content: Content,
}

#[cfg(test)]
mod encode_tests;
#[cfg(test)]
mod parts_tests;
#[cfg(test)]
mod rows_tests;
#[cfg(test)]
mod tests;
