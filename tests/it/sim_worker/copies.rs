//! A transform that is not kinetide's: it makes several rows of a record, or none.

use kinetide::internals::transform::{
    BadRecord, Builtin, RecordContext, RowInfo, Rows, Transform, TransformId,
};

pub(super) const NAME: &str = "copies";

/// The rows of `json`, as often as [`copies_of`] the record says, each with its number.
pub(super) struct Copies {
    id: TransformId,
    json: Builtin,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self { id: TransformId::new(NAME, 1, "").unwrap(), json: Builtin::json() }
    }
}

impl Transform for Copies {
    fn id(&self) -> &TransformId {
        &self.id
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(AtWork { json: self.json.start(), row: Vec::new() })
    }
}

struct AtWork {
    json: Box<dyn Rows>,
    row: Vec<u8>,
}

impl Rows for AtWork {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        self.row.clear();
        let info = self.json.apply(context, data, &mut self.row)?;
        let row = self.row.strip_suffix(b"}\n").unwrap();
        let rows = copies_of(data);
        for copy in 0..rows {
            out.extend_from_slice(row);
            out.extend_from_slice(format!(",\"copy\":{copy}}}\n").as_bytes());
        }
        Ok(RowInfo { rows, ..info })
    }
}

/// How many rows a record gives.
pub(super) fn copies_of(data: &[u8]) -> u64 {
    data.iter().map(|byte| u64::from(*byte)).sum::<u64>() % 4
}
