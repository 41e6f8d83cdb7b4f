//! What nobody may read in any output: values of items, and secrets. Strings are planted in records of every kind and in
//! the environment, and looked for in all that a fleet says while things go wrong.

use std::io::Read;
use std::path::Path;

use base64_simd::STANDARD;
use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use super::stage::{STREAM, Stage, Worker, change};
use super::{command, eventually, finish};

/// Each in a place of its own: a wallet, a key of an item, a price, another attribute, a partition key.
const PLANTED: [&str; 5] = [
    "PLANTED-WALLET-7f3a",
    "PLANTED-KEY-5e21",
    "31415926.53589",
    "PLANTED-USER-90bc",
    "PLANTED-PARTITION-44d0",
];
const TOKEN: &str = "PLANTED-HTTP-TOKEN-c0ffee";
const SECRETS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIAPLANTEDPLANTED00"),
    ("AWS_SECRET_ACCESS_KEY", "PLANTED-SECRET-KEY-1a2b3c4d5e6f"),
    ("AWS_SESSION_TOKEN", "PLANTED-SESSION-TOKEN-998877"),
    ("KINETIDE_HTTP_TOKEN", TOKEN),
];

/// The first of these strings that the text holds, as it is or in base64.
fn found<'a>(text: &str, planted: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    planted.into_iter().find(|planted| {
        // In base64 it looks different at each of three places; the middle of it is whole at one of them.
        let hidden = (0..3).any(|cut| {
            let whole = STANDARD.encode_to_string(&planted.as_bytes()[cut..]);
            text.contains(&whole[..whole.len() - 4])
        });
        text.contains(planted) || hidden
    })
}

fn all_planted() -> impl Iterator<Item = &'static str> {
    PLANTED.into_iter().chain(SECRETS.map(|(_, secret)| secret))
}

#[track_caller]
fn silent(what: &str, text: &str) {
    if let Some(planted) = found(text, all_planted()) {
        let line = text.lines().find(|line| found(line, [planted]).is_some()).unwrap_or(text);
        panic!("{what} shows {planted}:\n{}", &line[..line.len().min(2000)]);
    }
}

/// A good record with all of them, made different by `change_it`.
fn planted(number: u64, change_it: impl FnOnce(&mut Value)) -> Vec<u8> {
    let [wallet, key, price, user, _] = PLANTED;
    let mut record: Value = serde_json::from_slice(&change(number)).unwrap();
    let image = &mut record["dynamodb"]["NewImage"];
    image["wallet_address"]["S"] = wallet.into();
    image["price"]["N"] = price.into();
    image["user_id"]["S"] = user.into();
    image["transaction_id"]["S"] = format!("{key}-{number}").into();
    record["dynamodb"]["Keys"]["transaction_id"]["S"] = format!("{key}-{number}").into();
    change_it(&mut record);
    serde_json::to_vec(&record).unwrap()
}

/// Good, huge, and malformed in every way that has a reason of its own.
fn records() -> Vec<Vec<u8>> {
    let wallet = PLANTED[0];
    let good = planted(0, |_| ());
    let mut not_utf8 = good.clone();
    not_utf8[40] = 0xff;
    let image = |name: &'static str, value: Value| {
        move |record: &mut Value| record["dynamodb"]["NewImage"][name] = value
    };
    vec![
        planted(1, |_| ()),
        planted(2, image("wallet_address", json!({"S": format!("{wallet}{}", "x".repeat(900_000))}))),
        good[..good.len() / 2].to_vec(),
        good[..good.len() - 200].to_vec(),
        not_utf8,
        planted(3, image("price", json!({"N": wallet}))),
        planted(4, image("price", json!({"S": wallet}))),
        planted(5, image("wallet_address", json!({wallet: wallet}))),
        planted(6, image("wallet_address", json!({"N": "1e999", "S": wallet}))),
        planted(7, image("timestamp", json!({"S": wallet}))),
        planted(8, image(wallet, json!({"M": {wallet: {"BOOL": wallet}}}))),
        planted(9, |record| record["eventName"] = wallet.into()),
        planted(10, |record| record["dynamodb"]["ApproximateCreationDateTime"] = wallet.into()),
        planted(11, |record| record["dynamodb"]["Keys"] = json!([wallet])),
        planted(12, |record| record["dynamodb"]["NewImage"] = wallet.into()),
        planted(13, |record| {
            drop(record["dynamodb"]["NewImage"].as_object_mut().unwrap().remove("timestamp"))
        }),
        serde_json::to_vec(&json!([wallet])).unwrap(),
        format!("{wallet} is no JSON").into_bytes(),
        format!("\"{wallet}").into_bytes(),
    ]
}

/// What is in the objects below a folder.
fn objects(folder: &Path, out: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            objects(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "gz") {
            let mut bytes = Vec::new();
            MultiGzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
            out.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

/// Everything that a worker serves, to whoever has the token and to others.
async fn served(worker: &Worker) -> String {
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut all = String::new();
    for path in
        ["/metrics", "/healthz", "/readyz", "/api/status", "/api/leases", "/api/history", "/", "/nothing"]
    {
        let closed = !["/metrics", "/healthz", "/readyz"].contains(&path);
        let (code, without) = worker.ask(path, "").await;
        assert_eq!(code == 401, closed, "{path} without the token: {code}");
        let (code, with) = worker.ask(path, &bearer).await;
        assert!(code != 401 && code != 403, "{path} with the token: {code}");
        let wrong = worker.ask(path, "Authorization: Bearer PLANTED-WRONG-TOKEN\r\n").await.1;
        all.push_str(&[without, with, wrong].join("\n"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_an_item_and_no_secret_is_in_any_output() {
    let mut stage = Stage::new(2).await;
    stage.env = SECRETS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let open = stage.block_lake();
    let (one, other) = tokio::join!(
        stage.worker(&[("--log", "info,kinetide=trace")]),
        stage.worker(&[("--log", "info,kinetide=trace")]),
    );
    for (number, record) in records().iter().enumerate() {
        stage.aws.kinesis().put(STREAM, &format!("{}-{number}", PLANTED[4]), record).unwrap();
    }
    eventually("a worker complains of the lake", || async {
        let status = one.ask("/api/status", &format!("Authorization: Bearer {TOKEN}\r\n")).await.1;
        let status: Value = serde_json::from_str(&status).unwrap();
        let shards = status["shards"].as_array().unwrap().clone();
        shards.iter().any(|shard| shard["last_error"].is_string()).then_some(())
    })
    .await;
    for worker in [&one, &other] {
        silent("what a worker serves while the lake refuses", &served(worker).await);
        if cfg!(target_os = "linux") {
            let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", worker.pid())).unwrap();
            assert!(arguments.contains("--stream"));
            silent("the process list", &arguments);
        }
    }
    let (one_log, other_log) = (one.log.clone(), other.log.clone());
    other.kill().await;
    std::fs::remove_file(open).unwrap();
    stage.all_delivered().await;
    silent("what a worker serves afterwards", &served(&one).await);

    for arguments in
        [&["leases"][..], &["leases", "--json"], &["dead-letters", "count"], &["dead-letters", "list"]]
    {
        let fleet = ["--stream", STREAM, "--failover-time", "3s"];
        let lake = stage.lake().display().to_string();
        let endpoints =
            ["--kinesis-endpoint", stage.aws.kinesis_url(), "--dynamodb-endpoint", stage.aws.dynamodb_url()];
        let more: Vec<&str> = match arguments[0] {
            "leases" => fleet.into_iter().chain(endpoints).collect(),
            _ => vec!["--lake", &lake],
        };
        let ran = command(&[arguments, &more].concat()).envs(stage.env.iter().cloned()).spawn().unwrap();
        let ran = finish(ran).await;
        ran.says(0, &[]);
        silent(&arguments.join(" "), &format!("{}{}", ran.out, ran.err));
    }
    one.drain().await;
    for log in [one_log, other_log] {
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "it is a log with all there is");
        silent("the log of a worker", &log);
    }

    // They were there to be shown.
    let mut lake = String::new();
    objects(&stage.lake(), &mut lake);
    for planted in &PLANTED[..4] {
        assert_eq!(found(&lake, [*planted]), Some(*planted), "a row or a dead letter has it");
    }
    assert!(found(&lake, SECRETS.map(|(_, secret)| secret)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_refused_show_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "PLANTED secret with spaces").unwrap();
    let file = file.to_str().unwrap();
    for (environment, words) in [
        (vec![("KINETIDE_HTTP_TOKEN", "PLANTED")], "KINETIDE_HTTP_TOKEN: must be 16 to 512"),
        (vec![("KINETIDE_HTTP_TOKEN", "PLANTED secret with spaces")], "KINETIDE_HTTP_TOKEN: must be"),
        (vec![("KINETIDE_HTTP_TOKEN", TOKEN), ("KINETIDE_HTTP_TOKEN_FILE", file)], "not both"),
        (vec![("KINETIDE_HTTP_TOKEN_FILE", file)], "its text must be 16 to 512"),
        (
            vec![("KINETIDE_HTTP_TOKEN_FILE", "/nowhere")],
            "KINETIDE_HTTP_TOKEN_FILE \"/nowhere\": cannot be read",
        ),
        (vec![("KINETIDE_HTTP_TOKEN", TOKEN), ("KINETIDE_BATCH_AGE", "never")], "KINETIDE_BATCH_AGE"),
    ] {
        let mut run = command(&["run", "--stream", STREAM, "--lake", folder.path().to_str().unwrap()]);
        let ran = finish(run.envs(environment).spawn().unwrap()).await;
        ran.says(2, &[words]);
        assert!(!ran.err.contains("PLANTED") && ran.out.is_empty(), "{}", ran.err);
    }
    let typed = finish(command(&["run", "--http-token", TOKEN]).spawn().unwrap()).await;
    assert_eq!(typed.code, Some(2), "there is no such flag: {}", typed.err);
}

/// Where anybody in the network can ask.
#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_a_worker_without_a_token_shows_its_probes_and_metrics_only() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[("--http", "0.0.0.0:0")]).await;
    for (path, expected) in [
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/", 403),
        ("/api/status", 403),
        ("/api/leases", 403),
    ] {
        let (code, text) = worker.ask(path, "").await;
        assert_eq!(code, expected, "{path}: {text}");
        assert!(code == 200 || text.contains("KINETIDE_HTTP_TOKEN"), "{text}");
    }
    worker.drain().await;
}

/// The values that `kinetide loadtest` makes up, in all that it and its workers say.
pub(super) fn nothing_of_a_load_test_is_shown(folder: &Path, outputs: &[&str]) {
    const WALLETS: &str = "GB00TEST";
    let mut lake = String::new();
    objects(folder, &mut lake);
    assert!(lake.contains(WALLETS), "the lake has them");
    let mut logs = 0;
    for entry in std::fs::read_dir(folder.join("logs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "log") {
            logs += 1;
            let log = std::fs::read_to_string(&path).unwrap();
            assert!(!log.contains(WALLETS), "{}", path.display());
        }
    }
    assert!(logs > 1, "workers have logs");
    for output in outputs {
        assert!(!output.contains(WALLETS), "{output}");
    }
}
