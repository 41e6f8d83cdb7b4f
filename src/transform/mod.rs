//! Record → rows, each a line of JSON.
//!
//! Owns: what a transform must do and promise, the built-in ones, how rows name their record, the dead letter row.
//! Does not own: which object a row goes to (`batch`).

mod builtin;
mod caught;
mod dead_letter;
mod id;
mod maker;
mod place;
mod row;
#[cfg(test)]
pub(crate) mod testing;
mod time;

pub use crate::decode::{BadRecord, ErrorCode};
pub use builtin::{
    Builtin, Column, ColumnSettings, ColumnType, Constant, DEAD_LETTER_COLUMNS, Enrichment, FeeDiscount,
    InvalidColumns, InvalidEnrichment, Nested, Provider, TransformError, TransformSettings, UnknownTransform,
    look_at_reply, snapshot_rows,
};
pub use caught::{Panicked, at_work, catch};
pub use dead_letter::dead_letter_row;
pub use id::{InvalidTransformId, InvalidTransformName, TransformId};
pub use maker::RowMaker;
pub use place::record_of;
pub use time::parse_utc_us;

pub(crate) use id::fnv1a;
pub(crate) use time::Utc;

use std::fmt;

/// Where a record came from. Decides `ordering_key`: the clocks and sequence numbers of the two cannot be
/// compared, so that one lake table takes one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Kinesis Data Streams.
    Kinesis,
    /// DynamoDB Streams.
    DynamoDbStreams,
    /// Topics of Kafka.
    Kafka,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kinesis, Self::DynamoDbStreams, Self::Kafka];

    /// The value of the `source` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kinesis => "kinesis",
            Self::DynamoDbStreams => "dynamodb-streams",
            Self::Kafka => "kafka",
        }
    }
}

/// What the reader knows about a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordContext<'a> {
    /// Where it came from.
    pub source: SourceKind,
    /// Name of its stream; `None` where that is not known, as in the replay of a dead letter.
    pub stream: Option<&'a str>,
    /// Its shard.
    pub shard_id: &'a str,
    /// Decimal digits of its sequence number.
    pub sequence_number: &'a str,
    /// Its index inside a KPL aggregate; `None`: it is a stream record, whole.
    pub sub_sequence: Option<u64>,
    /// Its partition key; `None` where it has none, or where that is not known, as in the replay of a dead letter.
    pub key: Option<&'a [u8]>,
    /// Arrival time in the stream, µs since the epoch; the creation time for DynamoDB Streams, the record's own for Kafka.
    pub arrival_us: i64,
    /// It has no value at all, as a tombstone of Kafka: its data is empty then.
    pub null: bool,
}

/// What a batch needs to know about the rows of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowInfo {
    /// Time that decides the partition of all of them, since the rows of a record lie in one object: of the change, or of
    /// arrival where there is no change time. µs since the epoch. Of no meaning where there are no rows.
    pub time_us: i64,
    /// How many there are. With none the record is left out of the lake on purpose, and counts as delivered.
    pub rows: u64,
}

/// What makes rows of records. The built-in ones are [`Builtin`]; a program that uses kinetide as a library may bring its
/// own.
///
/// Batches are built again, by other workers too, and compared. So the same record must always give the same bytes, and
/// whatever may change them must be part of the id: no clock, no random numbers, nothing that is remembered from record
/// to record.
pub trait Transform: Send + Sync + 'static {
    /// What rows depend on besides the records. Two workers may finish each other's batches when theirs are equal.
    fn id(&self) -> &TransformId;

    /// Starts work for one reader of records. Must not panic.
    fn start(&self) -> Box<dyn Rows>;
}

impl fmt::Debug for dyn Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transform({})", self.id())
    }
}

/// A transform at work, with the buffers that it reuses from record to record.
pub trait Rows: Send {
    /// Appends the rows of one record to `out`, none or any number. Each is a JSON object on one line, its `\n` included,
    /// and has the columns of [`RecordContext::push_place`]: from them a repair learns which records are in the lake.
    ///
    /// A panic costs this record, which becomes a dead letter; so does a broken promise about the rows, which is made a
    /// panic. Work starts anew after it.
    ///
    /// # Errors
    /// When the record cannot become rows: it becomes a dead letter, whatever was appended.
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord>;

    /// Records since the last call that were not for the quick reader of a transform which has one. They cost more.
    fn take_read_generally(&mut self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
