//! `leases`: what an operator sees of workers that live and die, and what the changes do to them.

use std::time::Duration;

use kinetide::internals::lease::{Lease, LeaseKey, LeaseTable};
use kinetide::internals::shard::Checkpoint;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::stage::{STREAM, Stage};
use super::{Ran, command, eventually, finish, kinetide};

impl Stage {
    /// Runs `kinetide leases` on this stage.
    async fn leases_command(&self, args: &[&str]) -> Ran {
        kinetide(&self.leases_args(args)).await
    }

    pub(super) fn leases_args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let stage = ["--stream", STREAM, "--failover-time", "3s"];
        let endpoints =
            ["--kinesis-endpoint", self.aws.kinesis_url(), "--dynamodb-endpoint", self.aws.dynamodb_url()];
        [&["leases"], args, &stage, &endpoints].concat()
    }

    async fn lease(&self, number: usize) -> Lease {
        let key = shard(number);
        self.leases().await.into_iter().find(|lease| lease.key.as_str() == key).unwrap()
    }
}

fn shard(number: usize) -> String {
    format!("shardId-{number:012}")
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}\n{}\n{}", ran.out, ran.err))
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    let leases = report["leases"].as_array().unwrap();
    leases
        .iter()
        .map(|lease| (lease["state"].as_str().unwrap(), lease["reason"].as_str().unwrap_or("")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_who_reads_and_why_nobody_does() {
    let stage = Stage::new(2).await;
    let none = stage.leases_command(&[]).await;
    none.says(1, &["lease table kinetide-trades", "does not exist", "--application"]);

    let worker = stage.worker(&[]).await;
    stage.put(0..40);
    stage.all_delivered().await;
    let (json_ran, text) = tokio::join!(stage.leases_command(&["--json"]), stage.leases_command(&[]));
    json_ran.says(0, &[]);
    let report = json(&json_ran);
    assert_eq!(states(&report), [("read", ""), ("read", "")], "{report:#}");
    for lease in report["leases"].as_array().unwrap() {
        assert_eq!(lease["owner"], worker.id.as_str());
        assert_eq!(lease["millis_behind_latest"], 0, "all is delivered");
        assert!(lease["checkpoint_age_ms"].as_i64().unwrap() < 60_000, "{lease}");
    }
    assert_eq!(report["leader"]["worker"], worker.id.as_str());
    assert_eq!((&report["workers"][0]["leases"], &report["workers"][0]["active"]), (&2.into(), &true.into()));
    text.says(0, &[]);
    assert!(text.out.starts_with("kinetide-trades of stream trades: 2 shards, 2 read\n"), "{}", text.out);
    assert!(text.out.lines().all(|line| line.chars().count() <= 100), "{}", text.out);
    assert!(text.err.is_empty(), "{}", text.err);

    worker.kill().await;
    let (silent, no_lag) =
        tokio::join!(stage.leases_command(&["--json"]), stage.leases_command(&["--no-lag"]));
    let report = json(&silent);
    assert_eq!(states(&report), [("not_read", "owner_silent"); 2], "{report:#}");
    assert_eq!(report["leader"]["expired"], true, "{report:#}");
    assert!(
        report["leases"][0]["at_least"] == true && report["leases"][0]["for_seconds"].as_f64().unwrap() > 3.0
    );
    no_lag.says(0, &[]);
    assert!(no_lag.out.contains("2 NOT READ") && no_lag.out.contains("Leader: none."), "{}", no_lag.out);

    // What does not fit the stream.
    let row = Lease { counter: 7, owner: None, ..stage.lease(1).await };
    stage.table().delete(&stage.lease(1).await).await.unwrap();
    let unleased = json(&stage.leases_command(&["--json"]).await);
    assert_eq!(states(&unleased), [("not_read", "owner_silent"), ("not_read", "no_lease")], "{unleased:#}");
    assert!(stage.table().create(&Lease { checkpoint: Checkpoint::ShardEnd, ..row }).await.unwrap());
    let recreated = json(&stage.leases_command(&["--json"]).await);
    assert_eq!(states(&recreated)[1], ("not_read", "stream_recreated"), "{recreated:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_listed_is_a_note_and_exit_code_1() {
    let stage = Stage::new(1).await;
    let _worker = stage.worker(&[]).await;
    let dynamodb = stage.aws.dynamodb_url();
    let args = [
        "leases",
        "--application",
        "kinetide-trades",
        "--stream",
        "other",
        "--failover-time",
        "3s",
        "--json",
    ];
    let endpoints = ["--dynamodb-endpoint", dynamodb, "--kinesis-endpoint", stage.aws.kinesis_url()];
    // Whether the worker was heard in time is up to the machine.
    let report = eventually("the worker is heard", || async {
        let ran = kinetide(&[&args[..], &endpoints].concat()).await;
        ran.says(1, &[]);
        Some(json(&ran)).filter(|report| states(report) == [("read", "")])
    })
    .await;
    assert!(report["notes"][0].as_str().unwrap().contains("stream other not found"), "{report:#}");

    let wrong = kinetide(&["leases", "--stream", STREAM, "--dynamodb-endpoint", "here"]).await;
    wrong.says(2, &["--dynamodb-endpoint", "here", "http://127.0.0.1:4567"]);
    kinetide(&["leases"]).await.says(2, &["--application, --stream"]);
    kinetide(&["leases", "--stream", STREAM, "--failover-time", "1ms"])
        .await
        .says(2, &["between 1s and 10m"]);
    kinetide(&["leases", "--stream", STREAM, "--watch", "delete", "--all", "--yes"])
        .await
        .says(2, &["--watch"]);
}

/// Two streams with the same shards, and one application for both by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_stream_takes_no_lease_and_gives_no_advice_that_doubles() {
    let stage = Stage::new(2).await;
    stage.aws.kinesis().create_stream("orders", 2).unwrap();
    let wrong = [("--stream", "orders"), ("--application", "kinetide-trades")];
    let refused = async |code: i32| {
        let arguments = stage.arguments(&wrong);
        let ran = kinetide(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        ran.says(code, &["lease table kinetide-trades: ", "orders", "--stream"]);
        assert!(ran.err.lines().last().unwrap().starts_with("error: "), "{}", ran.err);
        ran.err
    };
    let delete = async |more: &[&str]| {
        let args = ["leases", "delete", "--all", "--yes", "--failover-time", "3s"];
        let at =
            ["--kinesis-endpoint", stage.aws.kinesis_url(), "--dynamodb-endpoint", stage.aws.dynamodb_url()];
        kinetide(&[&args[..], &at, &["--application", "kinetide-trades"], more].concat()).await
    };
    let worker = stage.worker(&[]).await;
    stage.put(0..40);
    stage.all_delivered().await;
    let said = refused(2).await;
    assert!(said.contains("its leases belong to stream trades") && !said.contains("delete --all"), "{said}");
    let active = delete(&["--stream", "trades"]).await;
    active.says(1, &["active workers: ", &worker.id, "stop them first"]);

    // The fleet is down: its leases are still those of its stream.
    worker.drain().await;
    refused(2).await;
    delete(&["--stream", "orders"]).await.says(1, &["its leases belong to stream trades", "do not delete"]);

    // As a build wrote them that did not say whose they are: the stream is asked about the checkpoints.
    let before = stage.leases().await;
    for row in &before {
        stage.table().delete(row).await.unwrap();
        assert!(stage.table().create(&Lease { stream: None, ..row.clone() }).await.unwrap());
    }
    let said = refused(1).await;
    assert!(
        said.contains("these leases belong to another stream") && said.contains("created again"),
        "{said}"
    );

    // Nothing was taken away, and the right stream goes on and notes whose they are.
    stage.put(40..60);
    let worker = stage.worker(&[]).await;
    stage.all_delivered().await;
    eventually("the leases say whose they are", || async {
        stage.leases().await.iter().all(|row| row.stream.is_some()).then_some(())
    })
    .await;
    assert_eq!(stage.leases().await.len(), before.len());
    worker.drain().await;
    stage.exactly_once(60).await;
    delete(&["--stream", "trades"]).await.says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_until_ctrl_c() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    let mut watch = command(&stage.leases_args(&["--watch", "--json"])).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let report: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(states(&report), [("read", "")], "{report:#}");
    }
    // What is not heard of any more is noticed without a second look from the start.
    worker.kill().await;
    loop {
        let report: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        if states(&report) == [("not_read", "owner_silent")] {
            assert_eq!(report["leases"][0]["at_least"], false);
            break;
        }
    }
    kill(Pid::from_raw(i32::try_from(watch.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    finish(watch).await.says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_handed_over_and_taken_away_without_loss() {
    let stage = Stage::new(2).await;
    let first = stage.worker(&[]).await;
    stage.put(0..20);
    stage.all_delivered().await;
    let second = stage.worker(&[]).await;
    let owner = |lease: Lease| lease.actual_owner().map(|owner| owner.as_str().to_owned());
    let (mine, name) = loop {
        // Until the leader has given the second worker its share.
        let number = if owner(stage.lease(0).await).as_deref() == Some(second.id.as_str()) { 1 } else { 0 };
        if owner(stage.lease(number).await).as_deref() == Some(first.id.as_str()) {
            break (number, shard(number));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };

    let refused = stage.leases_command(&["release", &name]).await;
    let unknown = stage.leases_command(&["release", "shardId-9", "--yes"]).await;
    let dry = stage.leases_command(&["release", &name, "--dry-run", "--json"]).await;
    refused.says(2, &["not a terminal", "--yes", "--dry-run"]);
    unknown.says(1, &["shardId-9", "no such lease", &shard(0), &shard(1)]);
    dry.says(0, &["once w"]);
    assert_eq!(json(&dry)[0]["outcome"], "dry_run");
    assert_eq!(stage.lease(mine).await.checkpoint_owner, None, "nothing was written");

    let released = stage.leases_command(&["release", &name, "--yes", "--json"]).await;
    released.says(0, &[]);
    let result = json(&released);
    assert_eq!(result[0]["outcome"], "written", "{result:#}");
    assert_eq!(result[0]["after"]["owner"], second.id.as_str(), "{result:#}");
    stage.put(20..40);
    stage.all_delivered().await;

    let evicted = stage.leases_command(&["evict", "--worker", &second.id, "--yes"]).await;
    evicted.says(0, &[]);
    assert!(evicted.out.contains("0 failed"), "{}", evicted.out);
    let nobody = stage.leases_command(&["evict", "--worker", "w99", "--yes"]).await;
    nobody.says(1, &["w99", "has no lease", "owners there: ", &first.id]);
    stage.put(40..60);
    stage.all_delivered().await;
    stage.exactly_once(60).await;
}

/// The next owner would deliver it too, but only when its own batch is due: with these settings in ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_delivers_the_open_batch_first() {
    let stage = Stage::new(1).await;
    let patient = [("--batch-age", "10m")];
    let first = stage.worker(&patient).await;
    eventually("the first worker has the shard", || async {
        (first.metric("kinetide_leases_held ").await == 1.0).then_some(())
    })
    .await;
    let _second = stage.worker(&patient).await;
    stage.put(0..20);
    eventually("all of it is in the open batch", || async {
        (first.status().await["shards"][0]["batch_records"] == 20).then_some(())
    })
    .await;
    assert_eq!(stage.verify().await.rows_delivered, 0, "no batch is due");

    // With a silent owner or nobody to give it to the shard would be taken away at once.
    eventually("the shard can be handed over", || async {
        let dry = json(&stage.leases_command(&["release", &shard(0), "--dry-run", "--json"]).await);
        dry[0]["does"].as_str().unwrap().starts_with("hand it off from").then_some(())
    })
    .await;
    stage.leases_command(&["release", &shard(0), "--yes"]).await.says(0, &[]);
    eventually("the shard goes to the second worker", || async {
        let row = stage.lease(0).await;
        (row.actual_owner().is_some_and(|owner| owner.as_str() != first.id)).then_some(())
    })
    .await;
    assert!(stage.delivered().await, "the row that was given on has it");
    stage.exactly_once(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_moved_knowingly() {
    let stage = Stage::new(1).await;
    let worker = stage.worker(&[]).await;
    stage.put(0..20);
    stage.all_delivered().await;
    let name = shard(0);
    let set = |more: &[&str]| {
        let args: Vec<String> =
            ["set-checkpoint", &name].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let stage = &stage;
        async move { stage.leases_command(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let before = stage.lease(0).await.checkpoint;
    set(&["yesterday", "--yes"]).await.says(2, &["yesterday", "trim-horizon, latest"]);
    // All is delivered, so this is where it stands already.
    set(&["latest", "--yes"]).await.says(0, &[]);
    set(&["trim-horizon", "--force", "--yes"]).await.says(1, &[&name, &worker.id, "--evict"]);
    set(&["7", "--evict", "--force", "--yes"]).await.says(1, &["before the start of the shard"]);
    set(&["trim-horizon", "--evict", "--yes"]).await.says(1, &["delivered twice", "--force"]);
    stage.leases_command(&["delete", &name, "--yes"]).await.says(1, &[&worker.id, "stop the workers"]);
    assert_eq!(stage.lease(0).await.checkpoint, before);
    worker.drain().await;

    let far = "9".repeat(60);
    set(&[&far, "--yes"]).await.says(1, &["refuses this position", "--force"]);
    let moved = set(&["trim-horizon", "--force", "--yes", "--json"]).await;
    moved.says(0, &["Warning: ", "delivered twice", "To undo"]);
    let result = json(&moved);
    assert_eq!(result[0]["before"]["checkpoint"], before.as_str(), "{result:#}");
    assert_eq!(stage.lease(0).await.checkpoint, Checkpoint::TrimHorizon);
    // The command that is shown takes it back.
    let undo: Vec<&str> = result[0]["undo"].as_str().unwrap().split(' ').skip(2).take(3).collect();
    stage.leases_command(&[&undo[..], &["--yes"]].concat()).await.says(0, &[]);
    assert_eq!(stage.lease(0).await.checkpoint, before);

    // A worker that comes back goes on from there.
    stage.put(20..30);
    let worker = stage.worker(&[]).await;
    stage.all_delivered().await;
    stage.exactly_once(30).await;
    worker.drain().await;

    let deleted = stage.leases_command(&["delete", "--all", "--yes"]).await;
    deleted.says(0, &[]);
    assert!(deleted.out.contains("delivered again") && deleted.out.contains("1 written"), "{}", deleted.out);
    assert!(stage.table().get(&LeaseKey::parse(&name)).await.unwrap().is_none());
    let empty = stage.leases_command(&[]).await;
    assert!(
        empty.out.contains("!  shardId-000000000000  -") && empty.out.contains("no lease"),
        "{}",
        empty.out
    );
}
