//! What the service needs and does not find at its start: exit code 1 within ten seconds, and what to do next.

use std::time::Duration;

use super::endpoints::{black_hole, forbidding};
use super::stage::Stage;
use super::{Ran, command, finish, kinetide};

const START_MAX: Duration = Duration::from_secs(10);

/// Settings, and words of the message that they lead to.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

async fn run(stage: &Stage, more: &[(&str, &str)]) -> Ran {
    let arguments = stage.arguments(more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ran = finish(command(&arguments).spawn().unwrap()).await;
    assert!(ran.took < START_MAX, "took {:?}: {}", ran.took, ran.err);
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_missing_is_named_with_what_to_do() {
    let stage = Stage::new(1).await;
    let (hole, forbids) = tokio::join!(black_hole(), forbidding());
    stage.aws.create_table("not-leases", "id").unwrap();
    let file = stage.dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let taken = stage.aws.kinesis_url().trim_start_matches("http://").to_owned();
    let closed = "http://127.0.0.1:1";
    let s3 = [("--lake", "s3://lake/raw"), ("--s3-endpoint", closed)];
    let network = "check the endpoint, the network and the region";
    let file = file.display().to_string();
    let cases: [Case<'_>; 11] = [
        (&[("--stream", "nope")], &["stream nope", "does not exist", "check --stream"]),
        (&[("--application", "not-leases")], &["lease table not-leases", "leaseKey", "another table name"]),
        (&[("--kinesis-endpoint", closed)], &["stream trades", "refused", network]),
        (&[("--dynamodb-endpoint", closed)], &["lease table kinetide-trades", "refused", network]),
        (&[("--kinesis-endpoint", &hole.url)], &["stream trades", "did not respond within", network]),
        (&[("--dynamodb-endpoint", &hole.url)], &["lease table", "did not respond within", network]),
        (
            &[("--kinesis-endpoint", &forbids.url)],
            &["stream trades", "access denied", "allow it in the role"],
        ),
        (&[("--dynamodb-endpoint", &forbids.url)], &["lease table", "access denied", "allow it in the role"]),
        (&[("--lake", &file)], &["lake", "a-file", "cannot be written", "use a folder"]),
        (&s3, &["lake s3://lake/raw", "Connection refused", "--s3-endpoint, and that the role"]),
        (&[("--http", &taken)], &["--http", &taken, "choose another address or port"]),
    ];
    // Two at a time: more would be a test of the machine.
    for pair in cases.chunks(2) {
        let both = pair.iter().map(|(more, words)| async {
            let ran = run(&stage, more).await;
            ran.says(1, words);
            let message = ran.err.lines().last().unwrap();
            assert!(message.starts_with("error: ") && message.len() < 400, "for people: {message}");
        });
        futures::future::join_all(both).await;
    }
}

/// Of a table of another tool every command says the same, once.
#[tokio::test(flavor = "multi_thread")]
async fn leases_on_a_table_of_another_tool_say_what_run_says() {
    let stage = Stage::new(1).await;
    stage.aws.create_table("not-leases", "id").unwrap();
    let (kinesis, dynamodb) = (stage.aws.kinesis_url(), stage.aws.dynamodb_url());
    let common = ["--stream", "trades", "--application", "not-leases"];
    let endpoints = ["--kinesis-endpoint", kinesis, "--dynamodb-endpoint", dynamodb];
    let last = |ran: &Ran| ran.err.lines().last().unwrap().to_owned();
    let worker = run(&stage, &[("--application", "not-leases")]).await;
    let message = last(&worker);
    worker.says(1, &["error: lease table not-leases: ", "leaseKey", "another table name"]);
    assert_eq!(message.matches("not-leases").count(), 1, "{message}");
    let acts: [&[&str]; 4] =
        [&[], &["release", "shardId-0", "--yes"], &["delete", "--all", "--yes"], &["--json"]];
    for act in acts {
        let ran = kinetide(&[&["leases"], act, &common, &endpoints].concat()).await;
        assert_eq!((ran.code, last(&ran)), (Some(1), message.clone()), "leases {act:?}: {}", ran.err);
    }
}
