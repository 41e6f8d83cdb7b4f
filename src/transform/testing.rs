//! Transforms for tests: one that panics, and one that gives as many rows as a record asks for.

use super::{BadRecord, Builtin, RecordContext, RowInfo, Rows, Transform, TransformId};

/// What a transform makes of a record with the help of `json`.
type Apply = fn(&mut dyn Rows, &RecordContext<'_>, &[u8], &mut Vec<u8>) -> Result<RowInfo, BadRecord>;

/// A transform around `json`.
pub(crate) struct AroundJson(TransformId, Apply);

impl Transform for AroundJson {
    fn id(&self) -> &TransformId {
        &self.0
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(RowsAroundJson(Builtin::json().start(), self.1))
    }
}

struct RowsAroundJson(Box<dyn Rows>, Apply);

impl Rows for RowsAroundJson {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        (self.1)(&mut *self.0, context, data, out)
    }
}

/// As `json`, but panics at a record with the word.
pub(crate) fn panicking() -> AroundJson {
    AroundJson(TransformId::new("panicking", 1, "").unwrap(), |json, context, data, out| {
        let outcome = json.apply(context, data, out);
        assert!(!data.windows(5).any(|word| word == b"panic"), "{}", String::from_utf8_lossy(data));
        outcome
    })
}

/// As `json`, but a record gives as many equal rows as the number with which it begins says; the rest is the document.
pub(crate) fn copying() -> AroundJson {
    AroundJson(TransformId::new("copies", 1, "").unwrap(), |json, context, data, out| {
        let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rows = str::from_utf8(&data[..digits]).unwrap().parse().unwrap_or(1);
        let start = out.len();
        let info = json.apply(context, &data[digits..], out)?;
        let row = out.split_off(start);
        (0..rows).for_each(|_| out.extend_from_slice(&row));
        Ok(RowInfo { rows, ..info })
    })
}
