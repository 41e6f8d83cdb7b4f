//! `dead-letters`: looking at them without seeing values, and replaying them, killed, twice, and two at once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::stage::{STREAM, Stage, change};
use super::{Ran, command, finish, kinetide};
use crate::sink_conformance::create_bucket;

const SECRET: &str = "GB00SECRET";

/// A trade whose price is no number: a dead letter for `crypto-transactions`, a row for `dynamodb-cdc`.
fn wrong_type(number: u64) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(&change(number)).unwrap();
    record["dynamodb"]["NewImage"]["price"] = serde_json::json!({ "S": SECRET });
    serde_json::to_vec(&record).unwrap()
}

impl Stage {
    async fn letters(&self, args: &[&str]) -> Ran {
        let lake = self.lake().display().to_string();
        kinetide(&[&["dead-letters"], args, &["--lake", &lake]].concat()).await
    }

    pub(super) async fn letters_json(&self, args: &[&str], code: i32) -> Value {
        let ran = self.letters(&[args, &["--json"]].concat()).await;
        ran.says(code, &[]);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}\n{}", ran.out))
    }

    /// Lands 10 trades, `wrong` of a wrong type, and two that are no change records.
    pub(super) async fn with_letters(wrong: u64, more: &[(&str, &str)]) -> Self {
        let stage = Self::new(1).await;
        let worker = stage.worker(more).await;
        stage.put(0..10);
        for number in 10..10 + wrong {
            stage.aws.kinesis().put(STREAM, &format!("key-{number}"), &wrong_type(number)).unwrap();
        }
        stage.aws.kinesis().put(STREAM, "a", SECRET.as_bytes()).unwrap();
        stage.aws.kinesis().put(STREAM, "b", br#"{"a":1}"#).unwrap();
        stage.all_delivered().await;
        worker.drain().await;
        stage
    }
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut all = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path.display().to_string()) }
    }
    all.sort();
    all
}

const CDC: [&str; 5] = ["replay", "--transform", "dynamodb-cdc", "--landing", "landing/transactions"];

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_and_replays() {
    let stage = Stage::with_letters(3, &[]).await;
    let counts = stage.letters_json(&["count"], 0).await;
    assert_eq!((&counts["open"], &counts["replayed"]), (&5.into(), &0.into()), "{counts}");
    let reasons: Vec<_> = counts["counts"].as_array().unwrap().iter().map(|row| &row["reason"]).collect();
    assert_eq!(reasons, ["no_dynamodb", "not_json", "wrong_type"]);
    let by_hour = stage.letters(&["count", "--by", "hour", "--since", "3h"]).await;
    by_hour.says(0, &[]);
    assert!(by_hour.out.starts_with("HOUR ") && by_hour.out.contains("wrong_type"), "{}", by_hour.out);
    assert_eq!(stage.letters_json(&["count", "--until", "2026-01-15T09:30:00Z"], 0).await["open"], 0);
    assert_eq!(stage.letters_json(&["count", "--stream", "trade"], 1).await["open"], 0, "a typo");

    let list = stage.letters_json(&["list", "--stream", STREAM], 0).await;
    let rows = list["dead_letters"].as_array().unwrap();
    assert!(rows.len() == 5 && rows[0]["reason"] == "no_dynamodb", "the newest first: {list:#}");
    assert!(rows.windows(2).all(|pair| pair[0]["time"].as_str() >= pair[1]["time"].as_str()));
    let newest = stage.letters_json(&["list", "--limit", "1"], 0).await;
    assert_eq!((&newest["dead_letters"][0], &newest["limited"]), (&rows[0], &true.into()));
    let table = stage.letters(&["list", "--reason", "not_json"]).await;
    assert_eq!(table.out.lines().count(), 2, "{}", table.out);

    // Values only when asked for.
    let wrong = rows.iter().find(|row| row["reason"] == "wrong_type").unwrap();
    let number = wrong["sequence_number"].as_str().unwrap();
    for args in [&["show", number][..], &["show", number, "--json"]] {
        let hidden = stage.letters(args).await;
        hidden.says(0, &[]);
        assert!(!hidden.out.contains(SECRET) && hidden.out.contains("transaction_id"), "{}", hidden.out);
        let shown = stage.letters(&[args, &["--reveal"]].concat()).await;
        assert!(shown.out.contains(SECRET), "{}", shown.out);
    }
    stage.letters(&["show", "17"]).await.says(1, &["no such dead letter"]);
    stage.letters(&["show", number, "--shard", "shardId-000000000007"]).await.says(1, &["no such"]);

    let file = stage.dir.path().join("letters.ndjson");
    let to = file.display().to_string();
    stage.letters(&["export", "--to", &to]).await.says(0, &[]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    stage.letters(&["export", "--to", &to]).await.says(1, &["letters.ndjson"]);
    let exported = std::fs::read_to_string(&file).unwrap();
    assert!(exported.lines().count() == 5 && !exported.contains(SECRET), "base64");
    let raw = stage.letters(&["export", "--raw", "--to", "-", "--reason", "not_json"]).await;
    raw.says(0, &["1 dead letter written"]);
    let line: Value = serde_json::from_str(&raw.out).unwrap();
    assert_eq!((&line["rawText"], &line["errorCode"]), (&SECRET.into(), &"not_json".into()));

    // A disk without room: nothing is left of it.
    let half = stage.dir.path().join("half.ndjson");
    let full = tokio::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kinetide")])
        .args([
            "dead-letters",
            "export",
            "--lake",
            stage.lake().to_str().unwrap(),
            "--to",
            half.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    finish(full).await.says(1, &["could not write", "half.ndjson", "the file was removed"]);
    assert!(!half.exists());

    // Said before, done once.
    let before = files(&stage.lake());
    let would = stage.letters_json(&[&CDC[..], &["--dry-run"]].concat(), 1).await;
    assert_eq!((&would["landed"], &would["dry_run"]), (&3.into(), &true.into()), "{would}");
    assert_eq!(would["failed"], serde_json::json!({ "no_dynamodb": 1, "not_json": 1 }));
    assert_eq!(files(&stage.lake()), before, "a dry run writes nothing");
    assert_eq!(stage.verify().await.needless_dead_letters, 3);
    stage.letters(&CDC).await.says(2, &["--yes"]);
    stage.letters(&["replay", "--yes"]).await.says(2, &["--landing", "--stream"]);
    let replayed = stage.letters_json(&[&CDC[..], &["--yes"]].concat(), 1).await;
    assert_eq!(replayed["landed"], 3, "{replayed}");
    let check = stage.exactly_once(15).await;
    assert_eq!((check.replayed, check.dead_letters, check.rows_delivered), (3, 2, 13));

    let after = files(&stage.lake());
    let again = stage.letters(&[&CDC[..], &["--yes", "--reason", "wrong_type"]].concat()).await;
    again.says(0, &[]);
    assert!(again.out.starts_with("0 dead letters became rows"), "{}", again.out);
    assert_eq!(files(&stage.lake()), after);
    let open = stage.letters_json(&["list", "--open"], 0).await;
    assert_eq!(open["dead_letters"].as_array().unwrap().len(), 2, "{open}");

    // Another transform takes what it can of the rest.
    let json = ["replay", "--transform", "json", "--stream", STREAM, "--yes"];
    assert_eq!(stage.letters_json(&json, 1).await["landed"], 1);
    assert!(stage.lake().join("landing/trades").is_dir());
    let counts = stage.letters_json(&["count"], 0).await;
    assert_eq!((&counts["open"], &counts["replayed"]), (&1.into(), &4.into()), "{counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said() {
    let stage = Stage::with_letters(2, &[]).await;
    let errors = stage.lake().join("errors");
    std::fs::write(errors.join("notes.txt"), "x").unwrap();
    let object = files(&errors.join("not_json")).pop().unwrap();
    let mut bytes = std::fs::read(&object).unwrap();
    bytes.truncate(bytes.len() - 4);
    std::fs::write(&object, bytes).unwrap();
    for action in
        [&["count"][..], &["list"], &["export", "--to", "-"], &["replay", "--landing", "l", "--yes"]]
    {
        let ran = stage.letters(action).await;
        ran.says(1, &["errors/notes.txt", "not a complete gzip file"]);
        assert!(!ran.err.contains(SECRET));
    }
    let counts = stage.letters_json(&["count"], 1).await;
    assert_eq!(counts["unreadable"]["count"], 2, "{counts}");
}

/// In a lake of which everything can be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_typo_in_a_filter_is_no_success() {
    let stage = Stage::with_letters(2, &[]).await;
    stage.letters(&["count"]).await.says(0, &[]);
    let export = |name: &str| stage.dir.path().join(name).display().to_string();
    for (number, filter, words) in [
        (0, ["--reason", "not_jason"], ["--reason not_jason matches nothing", "not_json"]),
        (1, ["--stream", "tradse"], ["--stream tradse matches nothing", STREAM]),
        (2, ["--shard", "shardId-000000000009"], ["matches nothing", "shardId-000000000000"]),
    ] {
        let to = export(&format!("{number}.ndjson"));
        for action in [
            &["count"][..],
            &["list"],
            &["export", "--to", &to],
            &["replay", "--landing", "l", "--yes"],
            &["replay", "--landing", "l", "--dry-run"],
        ] {
            let ran = stage.letters(&[action, &filter].concat()).await;
            ran.says(1, &words);
        }
    }
    let both = stage.letters(&["count", "--reason", "not_json", "--reason", "not_jason"]).await;
    both.says(1, &["--reason not_jason matches nothing"]);
    assert!(!both.err.contains("--reason not_json "), "{}", both.err);

    kinetide(&["dead-letters", "count"]).await.says(2, &["--lake"]);
    let typo = kinetide(&["dead-letters", "count", "--lake", "/no/such/lake"]).await;
    typo.says(2, &["/no/such/lake", "use a folder that exists"]);
    stage.letters(&["count", "--reason", "../x"]).await.says(2, &["not_json"]);
    stage.letters(&["count", "--since", "1h", "--until", "2h"]).await.says(2, &["--since is later"]);
}

/// `KINETIDE_TEST_S3` is the endpoint of an S3 server.
#[tokio::test(flavor = "multi_thread")]
async fn a_lake_on_s3_is_no_different() {
    #[expect(clippy::disallowed_methods, reason = "the switch of this test, not a setting")]
    let Ok(endpoint) = std::env::var("KINETIDE_TEST_S3") else {
        println!("skipped: dead letters on s3 because KINETIDE_TEST_S3 names no endpoint");
        return;
    };
    let bucket = format!("kinetide-letters-{}", std::process::id());
    create_bucket(&endpoint, &bucket).await;
    let lake = format!("s3://{bucket}/a/lake");
    let place = [("--lake", &lake[..]), ("--s3-endpoint", &endpoint), ("--region", "us-east-1")];
    let _stage = Stage::with_letters(3, &place).await;
    let place = place.map(|(name, value)| [name, value]).concat();
    let run = |args: &[&'static str]| {
        let args: Vec<String> =
            ["dead-letters"].iter().chain(args).chain(&place).map(|arg| (*arg).to_owned()).collect();
        async move { kinetide(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let replay = [&CDC[..], &["--yes", "--json"]].concat();
    for landed in [3, 0] {
        let ran = run(&replay).await;
        ran.says(1, &[]);
        assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["landed"], landed, "{}", ran.out);
    }
    let counts: Value = serde_json::from_str(&run(&["count", "--json"]).await.out).unwrap();
    assert_eq!((&counts["open"], &counts["replayed"]), (&2.into(), &3.into()), "{counts}");
    let list = run(&["list", "--reason", "wrong_type"]).await;
    assert_eq!(list.out.matches(" yes").count(), 3, "{}", list.out);
    // The dashboard of the same lake; what is no hour of rows lies beside them.
    let dashboard = [&["insights", "--json"], &place[..]].concat();
    let found: Value = serde_json::from_str(&kinetide(&dashboard).await.out).unwrap();
    assert!(
        found["coverage"]["objects"].as_u64() > Some(0) && found["coverage"]["unreadable"]["objects"] == 0,
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_raced_each_letter_is_one_row() {
    // A batch for every record, so that there is something to be in the middle of.
    let stage = Stage::with_letters(60, &[("--batch-bytes", "1KiB")]).await;
    let records = stage.lake().join("errors/_replays");
    let lake = stage.lake().display().to_string();
    let replay = |landing| {
        let to = ["--landing", landing, "--lake", &lake, "--yes", "--json"];
        command(&[&["dead-letters", "replay", "--reason", "wrong_type"], &to[..]].concat())
    };
    // The second finds the plans of the first, which it would not have made.
    for landing in ["landing/transactions", "landing/other", "landing/transactions"] {
        let before = files(&records).len();
        let mut child = replay(landing).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && files(&records).len() < before + 5 {
            sleep(Duration::from_millis(1)).await;
        }
        child.kill().await.unwrap();
    }
    let check = stage.verify().await;
    assert_eq!((check.missing, check.duplicated, check.unexpected), (0, 0, 0), "{check:#?}");
    assert!(check.needless_dead_letters > 0, "the kills came too late to show anything");

    let [one, other] =
        ["landing/transactions", "landing/other"].map(|landing| replay(landing).spawn().unwrap());
    let (one, other) = tokio::join!(finish(one), finish(other));
    one.says(0, &[]);
    other.says(0, &[]);
    let check = stage.exactly_once(72).await;
    assert_eq!((check.replayed, check.dead_letters), (60, 2));
}
