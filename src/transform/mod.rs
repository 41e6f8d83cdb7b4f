//! Change event → output row, one JSON line. Deterministic: the same record gives the same bytes, so that a batch
//! can be built again by another worker. No wall clock, no random ids.
//!
//! Owns: the built-in transforms, the rows they write, the dead letter row.
//! Does not own: which object a row goes to (`batch`).

mod caught;
mod cdc;
mod columns;
mod crypto;
mod dead_letter;
mod enrichment;
mod id;
mod passthrough;
mod place;
mod row;
mod schema;
mod time;

pub use crate::decode::{BadRecord, ErrorCode};
pub use caught::{Panicked, at_work, catch};
pub use columns::{ColumnSettings, InvalidColumns, Nested};
pub use dead_letter::dead_letter_row;
pub use enrichment::{Constant, Enrichment, FeeDiscount, InvalidEnrichment};
pub use id::{InvalidTransformId, TransformId};
pub use place::record_of;
pub use schema::{Column, ColumnType, DEAD_LETTER_COLUMNS};
pub use time::parse_utc_us;

pub(crate) use id::fnv1a;
pub(crate) use time::Utc;

use crate::decode::Image;
use columns::{ColumnRules, Columns};
use enrichment::Rules;
use serde::Deserialize;

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
    /// Its index inside a KPL aggregate; `None`: it is a stream record, whole.
    pub sub_sequence: Option<u64>,
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
    columns: ColumnRules,
}

#[derive(Clone, Debug)]
enum Kind {
    CryptoTransactions(Rules),
    DynamodbCdc,
    Json,
    #[cfg(test)]
    Panicking,
}

/// Nested settings of the transforms, as the settings file holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformSettings {
    /// Constants of the computed columns.
    pub enrichment: Enrichment,
    /// How members become columns.
    pub columns: ColumnSettings,
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
    /// The columns are wrong.
    #[error(transparent)]
    Columns(#[from] InvalidColumns),
}

impl Transform {
    /// Names of the built-in transforms.
    pub const NAMES: [&str; 3] = [crypto::NAME, cdc::NAME, passthrough::NAME];

    /// The transform called `name`.
    ///
    /// # Errors
    /// When there is none, or it cannot work with these settings.
    pub fn named(name: &str, settings: &TransformSettings) -> Result<Self, TransformError> {
        let columns = |own| ColumnRules::new(&settings.columns, own);
        let (version, kind, columns) = match name {
            crypto::NAME => {
                let rules = Rules::try_from(&settings.enrichment)?;
                (crypto::VERSION, Kind::CryptoTransactions(rules), columns(&crypto::OWN)?)
            }
            cdc::NAME => (cdc::VERSION, Kind::DynamodbCdc, columns(&row::ENVELOPE)?),
            passthrough::NAME => (passthrough::VERSION, Kind::Json, columns(&passthrough::OWN)?),
            other => return Err(UnknownTransform(other.to_owned()).into()),
        };
        let mut options = settings.columns.canonical();
        if matches!(kind, Kind::CryptoTransactions(_)) {
            options = settings.enrichment.canonical() + &options;
        }
        Ok(Self { id: TransformId::new(name, version, &options), kind, columns })
    }

    /// Changes of the table `CryptoTransactions`: fixed columns, exact enrichment.
    pub fn crypto_transactions(enrichment: &Enrichment) -> Result<Self, TransformError> {
        let settings = TransformSettings { enrichment: enrichment.clone(), ..TransformSettings::default() };
        Self::named(crypto::NAME, &settings)
    }

    /// Changes of any DynamoDB table, flattened.
    pub fn dynamodb_cdc() -> Self {
        Self::named(cdc::NAME, &TransformSettings::default()).expect("works with the defaults")
    }

    /// Any JSON object, passed through.
    pub fn json() -> Self {
        Self::named(passthrough::NAME, &TransformSettings::default()).expect("works with the defaults")
    }

    /// As [`Transform::json`], but panics at a record with the word.
    #[cfg(test)]
    pub(crate) fn panicking() -> Self {
        Self { id: TransformId::new("panicking", 1, ""), kind: Kind::Panicking, ..Self::json() }
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
        caught::set_at_work(true);
        let outcome = match &self.kind {
            Kind::CryptoTransactions(rules) => {
                crypto::apply(rules, &self.columns, context, data, scratch, row)
            }
            Kind::DynamodbCdc => cdc::apply(&self.columns, context, data, scratch, row),
            Kind::Json => passthrough::apply(&self.columns, context, data, scratch, row),
            #[cfg(test)]
            Kind::Panicking => {
                let outcome = passthrough::apply(&self.columns, context, data, scratch, row);
                assert!(!data.windows(5).any(|word| word == b"panic"), "{}", String::from_utf8_lossy(data));
                outcome
            }
        };
        caught::set_at_work(false);
        if outcome.is_err() {
            row.truncate(start);
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
