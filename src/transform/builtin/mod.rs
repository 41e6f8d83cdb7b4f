//! The transforms that are built in, each chosen by its name.

mod cdc;
mod columns;
mod crypto;
mod enrichment;
mod passthrough;
mod raw;
mod schema;
mod snapshot;

use std::sync::Arc;

use serde::Deserialize;

pub use columns::{ColumnSettings, InvalidColumns, Nested};
pub use enrichment::{Constant, Enrichment, FeeDiscount, InvalidEnrichment};
pub use schema::{Column, ColumnType, DEAD_LETTER_COLUMNS};
pub use snapshot::{Provider, look_at_reply, snapshot_rows};

use super::row::ENVELOPE;
use super::{BadRecord, RecordContext, RowInfo, Rows, Transform, TransformId};
use crate::decode::Image;
use columns::{ColumnRules, Columns};
use enrichment::Rules;

/// One of the built-in transforms.
#[derive(Clone, Debug)]
pub struct Builtin {
    id: TransformId,
    kind: Kind,
    columns: Arc<ColumnRules>,
    general_reader: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    CryptoTransactions(Arc<Rules>),
    DynamodbCdc,
    Json,
    MarketSnapshot,
    Raw,
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
#[error(
    "no transform is called {0:?}: use one of crypto-transactions, dynamodb-cdc, json, market-snapshot, raw"
)]
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

impl Builtin {
    /// Names of the built-in transforms.
    pub const NAMES: [&str; 5] = [crypto::NAME, cdc::NAME, passthrough::NAME, snapshot::NAME, raw::NAME];

    /// The transform called `name`.
    ///
    /// # Errors
    /// When there is none, or it cannot work with these settings.
    pub fn named(name: &str, settings: &TransformSettings) -> Result<Self, TransformError> {
        let columns = |own| ColumnRules::new(&settings.columns, own);
        let (version, kind, columns) = match name {
            crypto::NAME => {
                let rules = Arc::new(Rules::try_from(&settings.enrichment)?);
                (crypto::VERSION, Kind::CryptoTransactions(rules), columns(&crypto::OWN)?)
            }
            cdc::NAME => (cdc::VERSION, Kind::DynamodbCdc, columns(&ENVELOPE)?),
            passthrough::NAME => (passthrough::VERSION, Kind::Json, columns(&passthrough::OWN)?),
            snapshot::NAME => (snapshot::VERSION, Kind::MarketSnapshot, columns(&[])?),
            raw::NAME => (raw::VERSION, Kind::Raw, columns(&[])?),
            other => return Err(UnknownTransform(other.to_owned()).into()),
        };
        let options = match kind {
            Kind::CryptoTransactions(_) => settings.enrichment.canonical() + &settings.columns.canonical(),
            Kind::DynamodbCdc | Kind::Json => settings.columns.canonical(),
            // Their columns are always the same.
            Kind::MarketSnapshot | Kind::Raw => String::new(),
        };
        let id = TransformId::new(name, version, &options).expect("names of ours are plain");
        Ok(Self { id, kind, columns: Arc::new(columns), general_reader: false })
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

    /// The same rows without the quick reader of change records: what tests and benchmarks compare it with.
    pub fn general_reader(self) -> Self {
        Self { general_reader: true, ..self }
    }

    /// Whether its rows have `risk_flag` and `is_valid`.
    pub fn has_risk(&self) -> bool {
        matches!(self.kind, Kind::CryptoTransactions(_))
    }

    /// Any JSON object, passed through.
    pub fn json() -> Self {
        Self::named(passthrough::NAME, &TransformSettings::default()).expect("works with the defaults")
    }
}

impl Transform for Builtin {
    fn id(&self) -> &TransformId {
        &self.id
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(AtWork {
            kind: self.kind.clone(),
            columns: Arc::clone(&self.columns),
            scratch: Scratch {
                image: if self.general_reader { Image::general_only() } else { Image::default() },
                columns: Columns::default(),
            },
        })
    }
}

/// Buffers that are reused from record to record.
#[derive(Debug)]
struct Scratch {
    image: Image,
    columns: Columns,
}

struct AtWork {
    kind: Kind,
    columns: Arc<ColumnRules>,
    scratch: Scratch,
}

impl Rows for AtWork {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let Self { kind, columns, scratch } = self;
        let time_us = match kind {
            Kind::CryptoTransactions(rules) => crypto::apply(rules, columns, context, data, scratch, out),
            Kind::DynamodbCdc => cdc::apply(columns, context, data, scratch, out),
            Kind::Json => passthrough::apply(columns, context, data, scratch, out),
            Kind::MarketSnapshot => return snapshot::apply(context, data, out),
            Kind::Raw => Ok(raw::apply(context, data, out)),
        }?;
        Ok(RowInfo { time_us, rows: 1 })
    }

    fn take_read_generally(&mut self) -> u64 {
        self.scratch.image.take_read_generally()
    }
}
