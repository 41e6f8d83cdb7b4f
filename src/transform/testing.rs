//! Transforms for tests: one that panics, and one that gives as many rows as a record asks for.

use super::{BadRecord, Builtin, RecordContext, RowInfo, Rows, Transform, TransformId};

/// As `json`, but panics at a record with the word.
pub(crate) struct Panicking(Builtin, TransformId);

impl Panicking {
    pub(crate) fn new() -> Self {
        Self(Builtin::json(), TransformId::new("panicking", 1, "").unwrap())
    }
}

impl Transform for Panicking {
    fn id(&self) -> &TransformId {
        &self.1
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(PanickingRows(self.0.start()))
    }
}

struct PanickingRows(Box<dyn Rows>);

impl Rows for PanickingRows {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let outcome = self.0.apply(context, data, out);
        assert!(!data.windows(5).any(|word| word == b"panic"), "{}", String::from_utf8_lossy(data));
        outcome
    }
}

/// As `json`, but a record gives as many equal rows as the number with which it begins says; the rest is the document.
pub(crate) struct Copies(Builtin, TransformId);

impl Copies {
    pub(crate) fn new() -> Self {
        Self(Builtin::json(), TransformId::new("copies", 1, "").unwrap())
    }
}

impl Transform for Copies {
    fn id(&self) -> &TransformId {
        &self.1
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(CopiesRows(self.0.start()))
    }
}

struct CopiesRows(Box<dyn Rows>);

impl Rows for CopiesRows {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rows = str::from_utf8(&data[..digits]).unwrap().parse().unwrap_or(1);
        let start = out.len();
        let info = self.0.apply(context, &data[digits..], out)?;
        let row = out.split_off(start);
        (0..rows).for_each(|_| out.extend_from_slice(&row));
        Ok(RowInfo { rows, ..info })
    }
}
