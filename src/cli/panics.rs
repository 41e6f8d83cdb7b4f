//! What a panic does to the process: it ends it at once, since nobody knows what state the program is in; the lease table
//! heals the rest. A transform's panic is caught and costs one record.

use std::backtrace::Backtrace;
use std::collections::BTreeSet;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::process::abort;
use std::sync::Mutex;

use crate::telemetry::logs;
use crate::transform;

/// From now on a panic on any thread ends the process, except that of a transform.
pub fn abort_on_panic() {
    let default = take_hook();
    set_hook(Box::new(move |panic| {
        if transform::at_work() {
            note(panic);
            return;
        }
        // The default would wait for whoever reads the log of the service.
        if !logs::last_words(&format!("{panic}\n{}", Backtrace::capture())) {
            default(panic);
        }
        abort();
    }));
}

/// Says once for each place where transforms panic. Not the message: it may hold values of the record.
fn note(panic: &PanicHookInfo<'_>) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    if SAID.lock().is_ok_and(|mut said| said.insert(place.clone())) {
        tracing::error!(
            place,
            "the transform panicked: such records become dead letters with reason transform_panicked; please report this bug"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    use super::*;
    use std::sync::Arc;

    use crate::transform::testing::panicking;
    use crate::transform::{RecordContext, RowMaker, SourceKind};

    const PART: &str = "KINETIDE_TEST_PANIC";

    /// Runs one test of this binary in a process of its own.
    fn play(test: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("cli::panics::tests::{test}"), "--nocapture"]).env(PART, "1");
        command.output().unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a switch of this test, not a setting")]
    fn is_played() -> bool {
        std::env::var(PART).is_ok()
    }

    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        if is_played() {
            abort_on_panic();
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn_on(async { panic!("an error of the program") }, runtime.handle());
            runtime.block_on(std::future::pending::<()>());
        }
        let ended = play("a_panic_in_a_task_ends_the_process");
        assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("an error of the program"));
    }

    #[test]
    fn a_panic_of_a_transform_does_not() {
        if is_played() {
            abort_on_panic();
            let context = RecordContext {
                source: SourceKind::Kinesis,
                stream: None,
                shard_id: "shardId-0",
                sequence_number: "1",
                sub_sequence: None,
                key: None,
                arrival_us: 0,
                null: false,
            };
            let data = br#"{"wallet":"panic"}"#;
            let made = RowMaker::new(Arc::new(panicking())).make_caught(&context, data, &mut Vec::new());
            return assert!(made.is_err());
        }
        let ended = play("a_panic_of_a_transform_does_not");
        assert!(ended.status.success(), "{ended:?}");
        assert!(
            !String::from_utf8_lossy(&ended.stderr).contains("wallet"),
            "no values of records in the log"
        );
    }
}
