//! `generate`, `transform` and `local`, as a newcomer tries them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::endpoints::black_hole;
use super::{command, finish, kinetide};

#[tokio::test(flavor = "multi_thread")]
async fn local_generate_and_forward_work_together() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem").display().to_string();
    let mut local = command(&[
        "local",
        "--kinesis-port",
        "0",
        "--dynamodb-port",
        "0",
        "--tls",
        &ca,
        "--json",
        "--stream",
        "trades:2",
        "--table",
        "CryptoTransactions:transaction_id",
        "--forward",
        "CryptoTransactions:trades",
    ])
    .spawn()
    .unwrap();
    let mut out = BufReader::new(local.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).await.unwrap();
    let urls: Value = serde_json::from_str(&line).unwrap();
    let (kinesis, dynamodb) = (urls["kinesis"].as_str().unwrap(), urls["dynamodb"].as_str().unwrap());
    let taken = dynamodb.rsplit(':').next().unwrap();

    let table = ["generate", "--dynamodb-endpoint", dynamodb, "--records", "50", "--table"];
    let stream = ["generate", "--kinesis-endpoint", kinesis, "--records", "50", "--stream"];
    let (tls, bundle) = (urls["kinesis_tls"].as_str().unwrap(), urls["ca_bundle"].as_str().unwrap());
    assert!(tls == kinesis.replace("http", "https") && bundle == ca, "{urls}");
    // Two at once on free ports, as tests start them: no port is taken for granted.
    let mut twin =
        command(&["local", "--kinesis-port", "0", "--dynamodb-port", "0", "--json"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(twin.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let twins: Value = serde_json::from_str(&line).unwrap();
    for server in ["kinesis", "dynamodb", "dynamodb_streams"] {
        assert!(twins[server].is_string() && twins[server] != urls[server], "{twins} beside {urls}");
    }
    kill(Pid::from_raw(i32::try_from(twin.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    finish(twin).await.says(0, &[]);

    let over_tls = ["generate", "--kinesis-endpoint", tls, "--records", "50", "--stream", "trades"];
    let trusting = command(&over_tls).env("AWS_CA_BUNDLE", bundle).spawn().unwrap();
    let (good, missing_table, good_stream, missing_stream, port, trusting, stranger, foreign) = tokio::join!(
        async { kinetide(&[&table[..], &["CryptoTransactions"]].concat()).await },
        async { kinetide(&[&table[..], &["nope"]].concat()).await },
        async { kinetide(&[&stream[..], &["trades"]].concat()).await },
        async { kinetide(&[&stream[..], &["nope"]].concat()).await },
        async { kinetide(&["local", "--kinesis-port", "0", "--dynamodb-port", taken]).await },
        finish(trusting),
        kinetide(&over_tls),
        kinetide(&["local", "--kinesis-port", "0", "--dynamodb-port", "0", "--tls", "/dev/null/ca"]),
    );
    good.says(0, &[]);
    assert!(good.out.starts_with("50 changes written to table CryptoTransactions"), "{}", good.out);
    good_stream.says(0, &[]);
    missing_table.says(1, &["table nope", "does not exist", "--create"]);
    missing_stream.says(1, &["stream nope", "does not exist", "--stream"]);
    port.says(1, &[taken, "DynamoDB", "choose another port"]);
    trusting.says(0, &[]);
    stranger.says(1, &["stream trades", "UnknownIssuer", "set AWS_CA_BUNDLE"]);
    foreign.says(1, &["/dev/null/ca", "Not a directory", "name another file"]);

    kill(Pid::from_raw(i32::try_from(local.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    finish(local).await.says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_out_of_reach_is_told_within_ten_seconds() {
    let hole = black_hole().await;
    let (closed, silent) = tokio::join!(
        async {
            kinetide(&["generate", "--table", "tab", "--dynamodb-endpoint", "http://127.0.0.1:1"]).await
        },
        async { kinetide(&["generate", "--stream", "s", "--kinesis-endpoint", &hole.url]).await },
    );
    closed.says(1, &["table tab", "refused", "check the endpoint"]);
    silent.says(1, &["stream s", "no response within", "check the endpoint"]);
    assert!(closed.took.as_secs() < 10 && silent.took.as_secs() < 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn transform_shows_rows_and_dead_letters() {
    let fixture = |name: &str| format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let (good, bad) = (fixture("kinesis-dynamodb-insert.json"), fixture("two-tags.json"));
    let as_json = command(&["transform", &good]).env("KINETIDE_TRANSFORM", "json").spawn().unwrap();
    let (row, json, letter, missing, settings) = tokio::join!(
        async { kinetide(&["transform", &good]).await },
        finish(as_json),
        async { kinetide(&["transform", &bad]).await },
        kinetide(&["transform", "/no/file"]),
        kinetide(&["transform", "--settings", "/no/file"]),
    );
    row.says(0, &["1 records: 1 rows, 0 dead letters"]);
    let row: Value = serde_json::from_str(&row.out).unwrap();
    assert_eq!(row["event_name"], "INSERT");
    letter.says(1, &["two_tags", "1 records: 0 rows, 1 dead letters"]);
    missing.says(1, &["/no/file", "could not open"]);
    settings.says(2, &["--settings \"/no/file\": cannot be read"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert!(
        json.get("dynamodb").is_some() && row.get("dynamodb").is_none(),
        "one variable for every command"
    );
}
