//! A panic of a transform costs the record that it was given, not the process.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    /// A transform is at work on this thread.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// A transform panicked; its buffers may hold anything.
#[derive(Debug)]
pub struct Panicked;

/// True while a transform is at work on this thread: somebody catches its panic.
pub fn at_work() -> bool {
    AT_WORK.get()
}

pub(super) fn set_at_work(at_work: bool) {
    AT_WORK.set(at_work);
}

/// Does `work`, which may give any number of records to transforms, and catches the panic of a transform. Every other
/// panic goes on: it is an error of the program.
///
/// # Errors
/// When a transform panicked.
pub fn catch<R>(work: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        if !AT_WORK.replace(false) {
            resume_unwind(panic);
        }
        Panicked
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::transform::testing::panicking;
    use crate::transform::{RecordContext, RowMaker, SourceKind};

    const CONTEXT: RecordContext<'_> = RecordContext {
        source: SourceKind::Kinesis,
        stream: None,
        shard_id: "shardId-0",
        sequence_number: "1",
        sub_sequence: None,
        key: None,
        arrival_us: 0,
        null: false,
    };

    #[test]
    fn a_panic_of_a_transform_is_a_bad_record() {
        let (mut maker, mut rows) = (RowMaker::new(Arc::new(panicking())), b"before\n".to_vec());
        let mut apply = |data: &[u8]| maker.make_caught(&CONTEXT, data, &mut rows);
        assert!(apply(br#"{"a":1}"#).is_ok());
        let bad = apply(br#"{"a":"panic"}"#).unwrap_err();
        assert_eq!(bad.code.as_str(), "transform_panicked");
        assert!(!at_work());
        assert!(apply(br#"{"a":2}"#).is_ok());
        assert_eq!(String::from_utf8(rows).unwrap().lines().count(), 3);
    }

    #[test]
    fn other_panics_are_not_caught() {
        let other = catch_unwind(|| catch(|| panic!("an error of the program")));
        assert!(other.is_err());
        assert!(catch(|| 7).is_ok_and(|seven| seven == 7));
    }
}
