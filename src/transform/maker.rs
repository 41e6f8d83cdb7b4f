//! A transform at work as the batch sees it: what it promises about its rows is looked at, and a panic is known to be its.

use std::sync::Arc;

use super::caught::{Panicked, catch, set_at_work};
use super::{BadRecord, ErrorCode, RecordContext, RowInfo, Rows, Transform, record_of};
use crate::shard::{RecordId, SequenceNumber};

/// Makes rows by a transform.
pub struct RowMaker {
    transform: Arc<dyn Transform>,
    rows: Box<dyn Rows>,
    /// Its rows have been seen to name their record.
    named: bool,
}

impl RowMaker {
    /// Starts the transform.
    pub fn new(transform: Arc<dyn Transform>) -> Self {
        Self { rows: transform.start(), transform, named: false }
    }

    /// Appends the rows of one record to `out`. On an error `out` is as it was.
    ///
    /// # Errors
    /// When the record cannot become rows.
    ///
    /// # Panics
    /// When the transform does, or breaks a promise about its rows. What [`catch`]es that must [`RowMaker::restart`].
    pub fn make(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let start = out.len();
        set_at_work(true);
        let outcome = self.rows.apply(context, data, out);
        match &outcome {
            Ok(info) => self.look_at(context, info, &out[start..]),
            Err(_) => out.truncate(start),
        }
        set_at_work(false);
        outcome
    }

    /// As [`RowMaker::make`], with a panic taken for a bad record. For where one record comes at a time; for many it is
    /// cheaper to [`catch`] around all of them.
    ///
    /// # Errors
    /// When the record cannot become rows.
    pub fn make_caught(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        let start = out.len();
        catch(|| self.make(context, data, out)).unwrap_or_else(|Panicked| {
            self.restart();
            out.truncate(start);
            Err(ErrorCode::TransformPanicked.into())
        })
    }

    /// Records since the last call that were not for the quick reader of the transform.
    pub fn take_read_generally(&mut self) -> u64 {
        self.rows.take_read_generally()
    }

    /// Starts the transform anew, after a panic: its buffers may hold anything.
    pub fn restart(&mut self) {
        self.rows = self.transform.start();
        self.named = false;
    }

    /// The number of rows is part of what proves an object, so each time they are counted. A transform that names the
    /// record in the first rows will not forget it later.
    fn look_at(&mut self, context: &RecordContext<'_>, info: &RowInfo, rows: &[u8]) {
        // Nearly always one, whose end is found sooner than counted.
        let kept = match (info.rows, memchr::memchr(b'\n', rows)) {
            (1, end) => end.is_some_and(|end| end + 1 == rows.len()),
            (told, _) => told == lines(rows) && rows.last().is_none_or(|last| *last == b'\n'),
        };
        assert!(
            kept,
            "the transform {} tells of {} rows and wrote {} lines, or no end of the last",
            self.transform.id(),
            info.rows,
            lines(rows),
        );
        if !self.named && !rows.is_empty() {
            let sequence = SequenceNumber::parse(context.sequence_number);
            let of = sequence.map(|sequence| RecordId { sequence, sub: context.sub_sequence });
            let mut rows = rows.split_inclusive(|byte| *byte == b'\n');
            assert!(
                rows.all(|row| of.is_some() && record_of(row) == of),
                "a row of the transform {} does not name its record: use RecordContext::push_place",
                self.transform.id(),
            );
            self.named = true;
        }
    }
}

fn lines(rows: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', rows).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::caught::at_work;
    use crate::transform::{SourceKind, TransformId};

    const CONTEXT: RecordContext<'_> = RecordContext {
        source: SourceKind::Kinesis,
        stream: None,
        shard_id: "shardId-0",
        sequence_number: "17",
        sub_sequence: None,
        key: None,
        arrival_us: 0,
        null: false,
    };

    /// Writes the data as it is, and says how many rows that were: the first byte.
    struct Raw(TransformId);

    impl Transform for Raw {
        fn id(&self) -> &TransformId {
            &self.0
        }

        fn start(&self) -> Box<dyn Rows> {
            Box::new(AsItIs)
        }
    }

    struct AsItIs;

    impl Rows for AsItIs {
        fn apply(
            &mut self,
            _: &RecordContext<'_>,
            data: &[u8],
            out: &mut Vec<u8>,
        ) -> Result<RowInfo, BadRecord> {
            out.extend_from_slice(&data[1..]);
            match data[0] {
                b'!' => Err(ErrorCode::NotObject.into()),
                count => Ok(RowInfo { time_us: 0, rows: (count - b'0').into() }),
            }
        }
    }

    #[test]
    fn broken_promises_are_bad_records_and_leave_nothing_behind() {
        let mut maker = RowMaker::new(Arc::new(Raw(TransformId::new("raw", 1, "").unwrap())));
        let named = "{\"sequence_number\":\"17\"}\n";
        for (data, expected) in [
            ("0".to_owned(), Ok(0)),
            (format!("1{named}"), Ok(1)),
            (format!("2{named}{named}"), Ok(2)),
            (format!("!{named}"), Err(ErrorCode::NotObject)),
            (format!("1{named}{named}"), Err(ErrorCode::TransformPanicked)),
            (format!("2{named}"), Err(ErrorCode::TransformPanicked)),
            (format!("0{named}"), Err(ErrorCode::TransformPanicked)),
            (format!("1{}", named.trim_end()), Err(ErrorCode::TransformPanicked)),
            (format!("1{named}{{}}"), Err(ErrorCode::TransformPanicked)),
            // The first after a new start are looked at.
            ("1{}\n".to_owned(), Err(ErrorCode::TransformPanicked)),
            ("1{\"sequence_number\":\"18\"}\n".to_owned(), Err(ErrorCode::TransformPanicked)),
            (format!("2{named}{{}}\n"), Err(ErrorCode::TransformPanicked)),
            (
                "1{\"sequence_number\":\"17\",\"sub_sequence_number\":0}\n".to_owned(),
                Err(ErrorCode::TransformPanicked),
            ),
            (String::new(), Err(ErrorCode::TransformPanicked)),
            (format!("1{named}"), Ok(1)),
        ] {
            let mut out = b"before\n".to_vec();
            let made = maker.make_caught(&CONTEXT, data.as_bytes(), &mut out);
            assert_eq!(made.map(|info| info.rows).map_err(|bad| bad.code), expected, "{data}");
            let rows = expected.map_or("", |_| &data[1..]);
            assert_eq!(String::from_utf8(out).unwrap(), format!("before\n{rows}"));
            assert!(!at_work());
        }
    }
}
