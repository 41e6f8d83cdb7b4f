//! Change event → output row, one JSON line. Deterministic: the same record gives the same bytes, so that a batch
//! can be built again by another worker. No wall clock, no random ids.
//!
//! Owns: the built-in transforms, the rows they write, the dead letter row.
//! Does not own: which object a row goes to (`batch`).

mod cdc;
mod columns;
mod crypto;
mod dead_letter;
mod enrichment;
mod id;
mod passthrough;
mod row;
mod time;

pub use crate::decode::{BadRecord, ErrorCode};
pub use dead_letter::dead_letter_row;
pub use enrichment::{Constant, Enrichment, FeeDiscount, InvalidEnrichment};
pub use id::{InvalidTransformId, TransformId};
pub use time::parse_utc_us;

pub(crate) use id::fnv1a;
pub(crate) use time::Utc;

use crate::decode::Image;
use columns::Columns;
use enrichment::Rules;

/// Where a record came from. Decides `ordering_key`: the clocks and sequence numbers of the two cannot be
/// compared, so that one lake table takes one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Kinesis Data Streams.
    Kinesis,
    /// DynamoDB Streams.
    DynamoDbStreams,
}

impl SourceKind {
    /// The value of the `source` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kinesis => "kinesis",
            Self::DynamoDbStreams => "dynamodb-streams",
        }
    }
}

/// What the reader knows about a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordContext<'a> {
    /// Where it came from.
    pub source: SourceKind,
    /// Its shard.
    pub shard_id: &'a str,
    /// Decimal digits of its sequence number.
    pub sequence_number: &'a str,
    /// Its index inside a KPL aggregate, 0 outside one.
    pub sub_sequence: u64,
    /// Arrival time in the stream, µs since the epoch; the creation time for DynamoDB Streams.
    pub arrival_us: i64,
}

/// What the batch needs to know about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowInfo {
    /// Time that decides the partition: of the change, or of arrival where there is no change time. µs.
    pub cdc_us: i64,
}

/// Buffers that a transform reuses from record to record.
#[derive(Debug, Default)]
pub struct Scratch {
    image: Image,
    columns: Columns,
}

/// One of the built-in transforms, ready to run.
#[derive(Clone, Debug)]
pub struct Transform {
    id: TransformId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    CryptoTransactions(Rules),
    DynamodbCdc,
    Json,
}

/// No transform has this name.
#[derive(Debug, thiserror::Error)]
#[error("no transform is called {0:?}: use one of crypto-transactions, dynamodb-cdc, json")]
pub struct UnknownTransform(String);

/// Why a transform cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// The name is wrong.
    #[error(transparent)]
    Unknown(#[from] UnknownTransform),
    /// The constants are wrong.
    #[error(transparent)]
    Enrichment(#[from] InvalidEnrichment),
}

impl Transform {
    /// Names of the built-in transforms.
    pub const NAMES: [&str; 3] = [crypto::NAME, cdc::NAME, passthrough::NAME];

    /// The transform called `name`; `enrichment` is for those that compute columns.
    pub fn named(name: &str, enrichment: &Enrichment) -> Result<Self, TransformError> {
        match name {
            crypto::NAME => Ok(Self::crypto_transactions(enrichment)?),
            cdc::NAME => Ok(Self::dynamodb_cdc()),
            passthrough::NAME => Ok(Self::json()),
            other => Err(UnknownTransform(other.to_owned()).into()),
        }
    }

    /// Changes of the table `CryptoTransactions`: fixed columns, exact enrichment.
    pub fn crypto_transactions(enrichment: &Enrichment) -> Result<Self, InvalidEnrichment> {
        let id = TransformId::new(crypto::NAME, crypto::VERSION, &enrichment.canonical());
        Ok(Self { id, kind: Kind::CryptoTransactions(Rules::try_from(enrichment)?) })
    }

    /// Changes of any DynamoDB table, flattened.
    pub fn dynamodb_cdc() -> Self {
        Self { id: TransformId::new(cdc::NAME, cdc::VERSION, ""), kind: Kind::DynamodbCdc }
    }

    /// Any JSON object, passed through.
    pub fn json() -> Self {
        Self { id: TransformId::new(passthrough::NAME, passthrough::VERSION, ""), kind: Kind::Json }
    }

    /// What rows depend on besides the records.
    pub fn id(&self) -> &TransformId {
        &self.id
    }

    /// Appends the row of one record to `row`, one JSON line with its `\n`. On an error `row` is as it was.
    pub fn apply(
        &self,
        context: &RecordContext<'_>,
        data: &[u8],
        scratch: &mut Scratch,
        row: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let start = row.len();
        let outcome = match &self.kind {
            Kind::CryptoTransactions(rules) => crypto::apply(rules, context, data, scratch, row),
            Kind::DynamodbCdc => cdc::apply(context, data, scratch, row),
            Kind::Json => passthrough::apply(context, data, scratch, row),
        };
        if outcome.is_err() {
            row.truncate(start);
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
