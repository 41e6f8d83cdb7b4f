//! Rows to Firehose: each arrives at least once, whatever the service does and whoever is killed; what does not fit goes to
//! the lake, exactly once.

mod ministack;
pub(super) mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use kinetide::internals::lease::Lease;
use kinetide::internals::shard::Checkpoint;
use serde_json::Value;
use tokio::time::sleep;

use super::dead_letters::lines as lake_rows;
use super::endpoints::forbidding;
use super::memory::{BESIDES, BUDGET, large, noise, read_on, watch};
use super::stage::{STREAM, Stage, Worker};
use super::{command, eventually, finish};
use server::{Call, Mood, Server, description};

/// How the delivery stream is described, settings, and words of the message that they lead to.
type Case<'a> = (Value, &'a [(&'a str, &'a str)], &'a [&'a str]);

const THROTTLE: Mood = Mood::Refuse(500, "ServiceUnavailableException");

const JSON: (&str, &str) = ("--transform", "json");

/// Flags of a worker that sends rows to this server.
fn to<'a>(server: &'a Server, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let base = [("--firehose", "rows"), ("--firehose-endpoint", &*server.endpoint.url)];
    base.iter().chain(more).copied().collect()
}

/// Records of `bytes` bytes: few large ones fill a record of Firehose.
fn put(stage: &Stage, numbers: std::ops::Range<u64>, bytes: usize) {
    for number in numbers {
        let mut text: String = (0u64..).map(|n| format!("{} ", n * number)).take(bytes / 2).collect();
        text.truncate(bytes);
        let data = format!(r#"{{"n":{number},"text":"{text}"}}"#);
        stage.aws.kinesis().put(STREAM, &format!("key-{number}"), data.as_bytes()).unwrap();
    }
}

fn put_bad(stage: &Stage) {
    stage.aws.kinesis().put(STREAM, "bad", b"not JSON").unwrap();
}

/// How often a record is in the lake, as a row or a dead letter, and with Firehose.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    lake: u64,
    firehose: u64,
}

const IN_LAKE: Found = Found { lake: 1, firehose: 0 };
const WITH_FIREHOSE: Found = Found { lake: 0, firehose: 1 };

/// For each record of the stream, by how often it was found: how many records there are.
fn find_all(stage: &Stage, server: &Server) -> BTreeMap<Found, u64> {
    let mut lake = BTreeMap::<(String, String), u64>::new();
    for row in lake_rows(&stage.lake()) {
        let text = |one: &str, other: &str| row[one].as_str().or(row[other].as_str()).unwrap().to_owned();
        let place = (text("shard_id", "shardId"), text("sequence_number", "sequenceNumber"));
        *lake.entry(place).or_default() += 1;
    }
    let firehose = server.rows();
    let mut found = BTreeMap::new();
    stage
        .aws
        .kinesis()
        .visit(
            STREAM,
            |_| 0,
            |shard, record| {
                let place = (shard.as_str().to_owned(), record.sequence_number.as_str().to_owned());
                let times = |of: &BTreeMap<_, u64>| of.get(&place).copied().unwrap_or(0);
                *found.entry(Found { lake: times(&lake), firehose: times(&firehose) }).or_default() += 1;
            },
        )
        .unwrap();
    found
}

/// The calls of one shard: what was not accepted, as far as the sender was told, goes again before anything else, and
/// nothing else goes again.
fn assert_only_refused_go_again(calls: &[Call]) {
    let mut waiting: Vec<&[u8]> = Vec::new();
    let mut sent = Vec::<&[u8]>::new();
    for (number, call) in calls.iter().enumerate() {
        let records: Vec<&[u8]> = call.records.iter().map(Vec::as_slice).collect();
        if waiting.is_empty() {
            sent.extend(records.iter().copied());
        } else {
            assert!(records == waiting, "call {number} does not hold just what was refused before");
        }
        waiting = records
            .into_iter()
            .zip(&call.told)
            .filter(|(_, told)| !**told)
            .map(|(record, _)| record)
            .collect();
    }
    assert!(waiting.is_empty(), "the last call is answered");
    let numbers: Vec<u64> =
        sent.iter().flat_map(|record| server::lines(record)).map(|row| row["n"].as_u64().unwrap()).collect();
    assert!(
        numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "in the order of the shard"
    );
}

async fn stalled(worker: &Worker) -> Value {
    eventually("the shard is shown as stalled", || async {
        let shard = worker.status().await["shards"][0].clone();
        (shard["state"] == "stalled").then_some(shard)
    })
    .await
}

async fn called(server: &Server, times: usize) {
    eventually("Firehose is called", || async { (server.calls() >= times).then_some(()) }).await;
}

async fn only_lease(stage: &Stage) -> Lease {
    stage.leases().await.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_in_every_mood_gets_every_row_and_only_refused_records_again() {
    let stage = Stage::new(1).await;
    let server = Server::start([
        Mood::RefuseOthers,
        THROTTLE,
        Mood::ForgetOthers,
        Mood::Refuse(500, "InternalFailure"),
        Mood::RefuseOthers,
        Mood::Accept,
        Mood::Refuse(400, "ResourceNotFoundException"),
        Mood::LoseAnswer,
        Mood::Refuse(400, "InvalidArgumentException"),
    ])
    .await;
    // Six rows in a record, three records in a call.
    put(&stage, 0..60, 150_000);
    put_bad(&stage);
    put(&stage, 60..61, 1_024_000);
    let worker = stage.worker(&to(&server, &[JSON, ("--batch-age", "3s")])).await;
    stage.all_delivered().await;

    let status = worker.status().await;
    assert_eq!((&status["delivery"], &status["warnings"]), (&"at least once".into(), &serde_json::json!([])));
    let found = find_all(&stage, &server);
    assert_eq!(found.get(&IN_LAKE), Some(&2), "the bad one and the long one: {found:?}");
    assert!(
        found.keys().all(|found| (found.lake == 0) == (found.firehose > 0) && found.lake < 2),
        "{found:?}"
    );
    server.look(assert_only_refused_go_again);
    let outcome = async |outcome: &str| {
        worker.metric(&format!("kinetide_firehose_calls_total{{outcome=\"{outcome}\"}}")).await
    };
    assert_eq!(
        (outcome("partial").await, outcome("throttled").await, outcome("failed").await),
        (3.0, 1.0, 4.0)
    );
    assert!(outcome("accepted").await >= 3.0);
    let (records, resent, bytes, accepted) = server.look(|calls| {
        let told = |call: &Call| call.told.iter().filter(|told| **told).count();
        let again: usize = calls
            .windows(2)
            .filter(|pair| pair[0].told.contains(&false))
            .map(|pair| pair[1].records.len())
            .sum();
        let told_records = calls.iter().flat_map(|call| {
            call.records.iter().zip(&call.told).filter(|(_, told)| **told).map(|(record, _)| record.len())
        });
        let bytes: usize = told_records.sum();
        (calls.iter().map(told).sum::<usize>(), again, bytes, told(calls.last().unwrap()))
    });
    assert!(accepted > 0);
    for (name, value) in [("records", records), ("records_resent", resent), ("bytes", bytes)] {
        let shown = worker.metric(&format!("kinetide_firehose_{name}_total ")).await;
        assert_eq!(shown.to_string(), value.to_string(), "{name}");
    }
    let billed = worker.metric("kinetide_firehose_billed_bytes_total ").await;
    assert!(billed % 5120.0 == 0.0 && billed.to_string().len() >= bytes.to_string().len());
    worker.counts("kinetide_records_delivered_total", 62.0).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_waits_until_firehose_has_accepted() {
    let stage = Stage::new(1).await;
    let server = Server::start([]).await;
    server.always(THROTTLE);
    let worker = stage.worker(&to(&server, &[JSON])).await;
    put(&stage, 0..40, 100);
    let shard = stalled(&worker).await;
    assert_eq!(shard["reason"], "firehose");
    assert!(shard["last_error"].as_str().unwrap().contains("ServiceUnavailableException"), "{shard}");
    let lease = only_lease(&stage).await;
    assert!(lease.checkpoint == Checkpoint::TrimHorizon && lease.pending.is_some(), "{lease:?}");

    // Where nobody knows what was accepted nothing is believed.
    server.always(Mood::LoseAnswer);
    let before = server.calls();
    called(&server, before + 2).await;
    assert_eq!(only_lease(&stage).await.checkpoint, Checkpoint::TrimHorizon);
    assert_eq!(worker.metric("kinetide_records_delivered_total").await, 0.0);

    server.always(Mood::Accept);
    stage.all_delivered().await;
    assert_eq!(worker.status().await["shards"][0]["state"], "reading");
    let found = find_all(&stage, &server);
    assert!(found.keys().all(|found| found.firehose >= 1 && found.lake == 0), "{found:?}");
    assert!(found.keys().any(|found| found.firehose > 1), "at least once is not exactly once");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_leave_nothing_out() {
    let stage = Stage::new(2).await;
    let server = Server::start([]).await;
    for round in 0..3u64 {
        server.always(if round == 1 { Mood::RefuseOthers } else { Mood::LoseAnswer });
        let worker = stage.worker(&to(&server, &[JSON, ("--firehose-gzip", "records")])).await;
        put(&stage, round * 100..round * 100 + 100, 2000);
        put_bad(&stage);
        let before = server.calls();
        called(&server, before + 2).await;
        worker.kill().await;
    }
    server.always(Mood::Accept);
    let worker = stage.worker(&to(&server, &[JSON, ("--firehose-gzip", "records")])).await;
    stage.all_delivered().await;
    let warning = "--firehose-gzip records: each object is gzip with many members";
    let status = worker.status().await;
    assert!(status["warnings"][0].as_str().unwrap().starts_with(warning), "{status}");
    assert!(worker.log().contains(warning));
    assert!(worker.metric("kinetide_batches_recovered_total{how=\"finished\"}").await >= 1.0);
    worker.drain().await;
    let found = find_all(&stage, &server);
    assert_eq!(found.get(&IN_LAKE), Some(&3), "each dead letter once: {found:?}");
    assert!(
        found.keys().all(|found| *found == IN_LAKE || found.lake == 0 && found.firehose > 0),
        "{found:?}"
    );
    server.look(|calls| {
        assert!(calls.iter().flat_map(|call| &call.records).all(|record| record.starts_with(b"\x1f\x8b")))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_sink_takes_over_what_was_prepared() {
    let stage = Stage::new(1).await;
    let server = Server::start([]).await;
    let worker = stage.worker(&[]).await;
    let obstacle = stage.block_lake();
    stage.put(0..30);
    put_bad(&stage);
    stalled(&worker).await;
    worker.kill().await;

    // From the lake to Firehose. The dead letter is there already.
    let worker = stage.worker(&to(&server, &[])).await;
    std::fs::remove_file(obstacle).unwrap();
    stage.all_delivered().await;
    worker.counts("kinetide_batches_recovered_total{how=\"repaired\"}", 1.0).await;
    assert_eq!(find_all(&stage, &server), [(IN_LAKE, 1), (WITH_FIREHOSE, 30)].into());

    // And back.
    server.always(THROTTLE);
    stage.put(30..80);
    put_bad(&stage);
    stalled(&worker).await;
    worker.kill().await;
    let worker = stage.worker(&[]).await;
    stage.all_delivered().await;
    worker.counts("kinetide_batches_recovered_total{how=\"repaired\"}", 1.0).await;
    assert_eq!(worker.status().await["delivery"], "exactly once");
    assert_eq!(find_all(&stage, &server), [(IN_LAKE, 52), (WITH_FIREHOSE, 30)].into());
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_its_budget_while_firehose_takes_nothing() {
    const RECORDS: u64 = 1200;
    let stage = Stage::new(4).await;
    let server = Server::start([]).await;
    server.always(THROTTLE);
    let noise = noise();
    for number in 0..RECORDS {
        stage.aws.kinesis().put(STREAM, &format!("key-{number}"), &large(number, &noise)).unwrap();
    }
    let budget = BUDGET.to_string();
    let worker = stage.worker(&to(&server, &[("--byte-budget", &budget)])).await;
    watch(&worker, async {
        let read = read_on(&worker).await;
        assert!(read > 10.0 && read < 900.0, "{read} records: what does not fit stays in the stream");
    })
    .await;
    server.always(Mood::Accept);
    watch(&worker, stage.all_delivered()).await;
    let peak = worker.peak_bytes();
    println!("peak of the process {peak:?}");
    assert!(peak.is_none_or(|peak| peak < BUDGET + BESIDES), "{peak:?} bytes");
    worker.drain().await;
    assert_eq!(find_all(&stage, &server), [(WITH_FIREHOSE, RECORDS)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_stream_that_cannot_be_used_is_named_at_the_start() {
    let stage = Stage::new(1).await;
    let server = Server::start([]).await;
    let mut creating = description();
    creating["DeliveryStreamStatus"] = "CREATING".into();
    let mut fed = description();
    fed["DeliveryStreamType"] = "KinesisStreamAsSource".into();
    let mut gzip = description();
    gzip["Destinations"][0]["ExtendedS3DestinationDescription"]["CompressionFormat"] = "GZIP".into();
    let records = [("--firehose-gzip", "records")];
    let cases: [Case<'_>; 5] = [
        (
            description(),
            &[("--firehose", "none")],
            &["delivery stream none", "does not exist", "check --firehose"],
        ),
        (creating, &[], &["delivery stream rows", "CREATING", "start again when it is ACTIVE"]),
        (fed, &[], &["KinesisStreamAsSource", "source Direct PUT"]),
        (gzip.clone(), &records, &["GZIP", "UNCOMPRESSED", "--firehose-gzip firehose"]),
        (
            description(),
            &[("--firehose-endpoint", "http://127.0.0.1:1")],
            &["delivery stream rows", "check the endpoint"],
        ),
    ];
    for (description, more, words) in cases {
        server.describe_as(description);
        let mut flags = to(&server, &[]);
        flags.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        flags.extend(more);
        let arguments = stage.arguments(&flags);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        finish(command(&arguments).spawn().unwrap()).await.says(1, words);
    }
    // Its own compression is what plain lines are for.
    server.describe_as(gzip);
    stage.worker(&to(&server, &[])).await.drain().await;
    // Who may put need not be allowed to look.
    let forbids = forbidding().await;
    let worker = stage.worker(&[("--firehose", "rows"), ("--firehose-endpoint", &forbids.url)]).await;
    assert!(worker.log().contains("allow firehose:DescribeDeliveryStream"), "{}", worker.log());
    stage.put(0..1);
    let shard = stalled(&worker).await;
    assert!(shard["last_error"].as_str().unwrap().contains("allow it in the role"), "{shard}");
    worker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_while_firehose_refuses_leaves_the_batch_to_the_next() {
    let stage = Stage::new(1).await;
    let server = Server::start([]).await;
    server.always(THROTTLE);
    let mut worker = stage.worker(&to(&server, &[JSON, ("--shutdown-budget", "2s")])).await;
    put(&stage, 0..10, 100);
    called(&server, 1).await;
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(worker.ended().await, Some(1), "not everything could be delivered");
    assert!(only_lease(&stage).await.pending.is_some());
    server.always(Mood::Accept);
    let worker = stage.worker(&to(&server, &[JSON])).await;
    stage.all_delivered().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(find_all(&stage, &server), [(WITH_FIREHOSE, 10)].into());
    worker.drain().await;
}
