//! Results for a disk that is full, and for a reader that has gone.

use std::process::Stdio;

use super::stage::Stage;
use super::{Ran, command, finish};

async fn into(args: &[&str], stdout: Stdio) -> Ran {
    finish(command(args).stdout(stdout).spawn().unwrap()).await
}

fn letters<'a>(args: &[&'a str], lake: &'a str) -> Vec<&'a str> {
    [&["dead-letters"], args, &["--lake", lake]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_written_is_an_error_and_a_reader_that_has_gone_is_none() {
    let stage = Stage::with_letters(0, &[]).await;
    let lake = stage.lake().display().to_string();
    let shard = "shardId-000000000000";
    let listed = stage.letters_json(&["list"], 0).await;
    let sequence = listed["dead_letters"][0]["sequence_number"].as_str().unwrap();
    let replay =
        ["replay", "--transform", "json", "--landing", "landing/other", "--stream", "trades", "--dry-run"];
    for (args, code) in [
        (vec!["schema", "--format", "duckdb"], 0),
        (letters(&["count"], &lake), 0),
        (letters(&["list", "--json"], &lake), 0),
        (letters(&["show", sequence], &lake), 0),
        // One of them cannot become a row.
        (letters(&replay, &lake), 1),
        (stage.leases_args(&[]), 0),
        (stage.leases_args(&["--json"]), 0),
        (stage.leases_args(&["set-checkpoint", shard, "trim-horizon", "--evict", "--force", "--dry-run"]), 0),
        // A failure is one, whoever reads.
        (stage.leases_args(&["release", "shardId-000000000009", "--yes"]), 1),
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (gone, broken) = std::io::pipe().unwrap();
        drop(gone);
        let whole = into(&args, Stdio::piped()).await;
        assert_eq!(whole.code, Some(code), "{args:?}: {}", whole.err);
        let unread = into(&args, broken.into()).await;
        assert_eq!((unread.code, &unread.err), (Some(code), &whole.err), "{args:?}");
        let full = into(&args, full.into()).await;
        let said =
            if whole.out.is_empty() { "shardId-000000000009" } else { "could not write to stdout: No space" };
        assert!(full.code == Some(1) && full.err.contains(said), "{args:?}: {:?} {}", full.code, full.err);
    }
}
