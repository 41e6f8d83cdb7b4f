//! Streams named by ARN, and streams and lakes in the role of another account: an STS that gives credentials for seconds,
//! and doors before Kinesis, S3 and DynamoDB that let in who should come.

mod door;
pub(crate) mod sts;

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::endpoints::forbidding_with;
use super::permissions::gate::{Fault, Gate, Service};
use super::stage::{STREAM, Stage, Worker};
use super::{Ran, command, eventually, finish, kinetide};
use crate::s3::server::S3;
use door::Door;
use sts::{Role, Sts};

const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/trades";
const READER: &str = "arn:aws:iam::222233334444:role/reader";
const WRITER: &str = "arn:aws:iam::333344445555:role/lake/writer";
/// The key of the process itself.
const OWN: &str = "AKOWN";

/// Credentials of a role are new so often that a test sees it.
const LIFE: Duration = Duration::from_secs(5);

type Settings<'a> = &'a [(&'a str, &'a str)];

/// A stage behind doors, and who may pass them.
struct Abroad {
    stage: Stage,
    s3: S3,
    sts: Sts,
    /// Before the STS, for trouble.
    gate: Gate,
    kinesis: Door,
    dynamodb: Door,
    bucket: Door,
}

impl Abroad {
    async fn new() -> Self {
        let mut stage = Stage::new(2).await;
        let s3 = S3::start(&[]).await;
        let sts = Sts::start(&[
            Role { arn: READER, external_id: Some("team:7"), life: LIFE },
            Role { arn: WRITER, external_id: None, life: LIFE },
        ])
        .await;
        let gate = Gate::to(Service::Sts, &sts.endpoint.url).await;
        let of = |role: &'static str| {
            let roles = sts.roles();
            move |key: &str| roles(key) == Some(role)
        };
        let kinesis = Door::to(stage.aws.kinesis_url(), of(READER)).await;
        let dynamodb = Door::to(stage.aws.dynamodb_url(), |key: &str| key == OWN).await;
        let bucket = Door::to(&s3.url, of(WRITER)).await;
        stage.env = own_environment(&gate.endpoint.url);
        Self { stage, s3, sts, gate, kinesis, dynamodb, bucket }
    }

    /// Later ones of `more` replace those of the same name; an empty one leaves it out.
    fn settings<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut settings = vec![
            ("--stream", ARN),
            ("--stream-role", READER),
            ("--stream-role-external-id", "team:7"),
            ("--lake", "s3://lake/raw"),
            ("--lake-role", WRITER),
            ("--kinesis-endpoint", &self.kinesis.endpoint.url),
            ("--dynamodb-endpoint", &self.dynamodb.endpoint.url),
            ("--s3-endpoint", &self.bucket.endpoint.url),
        ];
        settings.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        settings.extend(more.iter().filter(|(_, value)| !value.is_empty()));
        settings
    }

    async fn run(&self, more: &[(&str, &str)]) -> Ran {
        self.run_in(&self.stage.env, more).await
    }

    async fn run_in(&self, env: &[(String, String)], more: &[(&str, &str)]) -> Ran {
        let arguments = self.stage.arguments(&self.settings(more));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        finish(command(&arguments).envs(env.iter().cloned()).spawn().unwrap()).await
    }

    /// Another command with the environment of the workers.
    async fn command(&self, arguments: &[&str]) -> Ran {
        finish(command(arguments).envs(self.stage.env.iter().cloned()).spawn().unwrap()).await
    }

    async fn exactly_once(&self, records: u64) {
        let saved = self.stage.dir.path().join("saved");
        self.s3.save("lake", &saved);
        let check = self.stage.verify_lake(saved.join("raw")).await;
        assert!(check.ok() && check.records_put == records, "{check:#?}");
    }

    async fn ends(self, mut worker: Worker, records: u64) {
        worker.signal(Signal::SIGTERM);
        assert!(matches!(worker.ended().await, Some(0 | 1)), "{}", worker.log());
        self.exactly_once(records).await;
    }
}

/// The environment of a process in an account of its own, with this STS.
pub(super) fn own_environment(sts: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", OWN),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-north-1"),
        ("AWS_ENDPOINT_URL_STS", sts),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Every call is made by who should make it, the credentials of the roles run out and come anew again and again, and
/// every record lands once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_lake_of_other_accounts_are_used_in_their_roles() {
    let abroad = Abroad::new().await;
    let worker = abroad.stage.worker(&abroad.settings(&[])).await;
    let mut put = 0;
    while abroad.sts.given(READER) < 4 || abroad.sts.given(WRITER) < 3 {
        abroad.stage.put(put..put + 5);
        put += 5;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(put < 3_000, "the credentials come anew: {}", worker.log());
    }
    abroad.stage.all_delivered().await;
    let status = worker.status().await;
    assert_eq!((&status["streams"][0], &status["application"]), (&ARN.into(), &"kinetide-trades".into()));
    let log = worker.log();
    assert!(log.contains(&format!(r#""stream":"{ARN}""#)), "{log}");

    let kinesis = abroad.kinesis.calls();
    let operations: BTreeSet<&str> = kinesis.iter().map(|call| call.operation.as_str()).collect();
    assert_eq!(
        operations,
        BTreeSet::from(["DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards"])
    );
    for call in &kinesis {
        assert_eq!((call.stream, call.region.as_str()), ([false, true], "us-east-1"), "{call:?}");
        assert!(call.key.starts_with("ASIA"), "{call:?}");
    }
    assert!(
        abroad.bucket.calls().iter().all(|call| call.key.starts_with("ASIA") && call.region == "eu-north-1")
    );
    assert!(abroad.dynamodb.calls().iter().all(|call| call.key == OWN && call.region == "eu-north-1"));
    assert_eq!(
        (abroad.sts.callers(), abroad.sts.sessions()),
        (vec![OWN.to_owned()], vec![worker.id.clone()])
    );
    abroad.ends(worker, put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_commands_work_in_the_roles_too() {
    let abroad = Abroad::new().await;
    let worker = abroad.stage.worker(&abroad.settings(&[])).await;
    abroad.stage.put(0..20);
    let kinesis = ["--kinesis-endpoint", &abroad.kinesis.endpoint.url];
    let role = ["--stream", ARN, "--stream-role", READER, "--stream-role-external-id", "team:7"];
    let generated = abroad.command(&[&["generate", "--records", "30"], &kinesis[..], &role].concat()).await;
    generated.says(0, &[]);
    assert!(generated.out.contains(&format!("written to stream {ARN}")), "{}", generated.out);
    abroad.stage.all_delivered().await;

    let dynamodb = ["--dynamodb-endpoint", &abroad.dynamodb.endpoint.url, "--failover-time", "3s"];
    let leases = abroad.command(&[&["leases", "--json"], &kinesis[..], &dynamodb, &role].concat()).await;
    leases.says(0, &[]);
    let report: Value = serde_json::from_str(&leases.out).unwrap();
    assert_eq!((&report["stream"], report["leases"].as_array().unwrap().len()), (&"trades".into(), 2));
    let known = |lease: &Value| lease["millis_behind_latest"].is_i64();
    assert!(report["leases"].as_array().unwrap().iter().all(known), "{report:#}");
    let alone = abroad.command(&[&["leases"], &kinesis[..], &dynamodb, &role[..2]].concat()).await;
    assert_eq!(alone.code, Some(1), "without the role the door is shut: {}", alone.out);

    let lake = ["--lake", "s3://lake/raw", "--s3-endpoint", &abroad.bucket.endpoint.url];
    let count = ["dead-letters", "list", "--stream", ARN];
    let listed = abroad.command(&[&count[..], &lake, &["--lake-role", WRITER]].concat()).await;
    // It cannot list; but it was asked.
    listed.says(1, &["NoSuchKey"]);
    abroad.command(&[&count[..], &lake].concat()).await.says(1, &["ExpiredToken"]);
    assert_eq!(abroad.sts.sessions(), ["kinetide".to_owned(), worker.id.clone()]);
    abroad.ends(worker, 50).await;
}

/// What a start says when a role cannot be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_cannot_be_assumed_is_named_with_what_sts_said_and_what_to_do() {
    let abroad = Abroad::new().await;
    let stranger = "arn:aws:iam::444455556666:role/stranger";
    let denied =
        ["cannot be assumed: AccessDenied: User: arn:aws:iam::111122223333:user/worker is not authorized"];
    let cases: [(Settings<'_>, &[&str]); 4] = [
        (
            &[("--stream-role-external-id", "")],
            &[
                "stream arn:aws:kinesis:us-east-1:000000000000:stream/trades: the role",
                READER,
                "no external ID is set",
            ],
        ),
        (
            &[("--stream-role-external-id", "team:8")],
            &[READER, "trust policy", "check that the external ID matches"],
        ),
        (
            &[("--stream-role", stranger)],
            &[stranger, "allow sts:AssumeRole on it in the role of this process"],
        ),
        (
            &[("--lake-role", stranger)],
            &["lake s3://lake/raw: could not create _kinetide/probe: the role", stranger, "trust policy"],
        ),
    ];
    for (more, words) in cases {
        let ran = abroad.run(more).await;
        ran.says(1, &[&denied[..], words].concat());
        let message = ran.err.lines().last().unwrap();
        assert!(message.starts_with("error: ") && message.len() < 600, "{message}");
        assert_eq!(message.matches("AccessDenied").count(), 1, "said once: {message}");
    }
    // Who has no credentials can assume nothing.
    let env: Vec<_> = abroad.stage.env.iter().filter(|(name, _)| !name.contains("KEY")).cloned().collect();
    let nobody = abroad.run_in(&env, &[("--dynamodb-endpoint", abroad.stage.aws.dynamodb_url())]).await;
    nobody
        .says(1, &["the role", READER, "cannot be assumed", "give this process a role, or set AWS_PROFILE"]);
    // Nor who does not reach STS.
    let mut env = abroad.stage.env.clone();
    env.last_mut().unwrap().1 = "http://127.0.0.1:1".to_owned();
    let unreachable = abroad.run_in(&env, &[]).await;
    unreachable.says(1, &[READER, "cannot be assumed", "refused", "check the STS endpoint"]);
}

/// Amid the run STS refuses: while the old credentials count nothing shows; then both halves say which role and why, and
/// go on when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_lost_while_running_shows_and_comes_back() {
    let abroad = Abroad::new().await;
    let worker = abroad.stage.worker(&abroad.settings(&[])).await;
    abroad.stage.put(0..20);
    abroad.stage.all_delivered().await;
    abroad.gate.set("AssumeRole", Some(Fault::Denied));
    abroad.stage.put(20..40);
    let body = eventually("both halves say it", || async {
        let (code, body) = worker.get("/readyz").await;
        let words =
            ["not ready: DescribeStreamSummary (", "stuck: shardId-", READER, "AccessDenied", "trust policy"];
        (code == 503 && words.iter().all(|word| body.contains(word))).then_some(body)
    })
    .await;
    assert!(body.lines().all(|line| line.len() < 900), "{body}");
    assert_eq!(worker.get("/healthz").await.0, 200, "a restart mends nothing");
    let status = worker.status().await;
    let causes =
        status["troubles"].as_array().unwrap().iter().map(|trouble| trouble["cause"].as_str().unwrap());
    assert!(causes.clone().any(|cause| cause.contains(READER)), "{status:#}");
    let asked = abroad.sts.given(READER);
    abroad.gate.set("AssumeRole", None);
    abroad.stage.put(40..60);
    abroad.stage.all_delivered().await;
    eventually("ready again", || async { (worker.get("/readyz").await.0 == 200).then_some(()) }).await;
    assert!(abroad.sts.given(READER) > asked);
    assert!(worker.log().contains("could not refresh credentials"), "{}", worker.log());
    abroad.ends(worker, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arn_that_leads_nowhere_is_said() {
    let stage = Stage::new(1).await;
    let message = "User: arn:aws:iam::111122223333:user/worker is not authorized to perform: \
                   kinesis:DescribeStreamSummary on resource: arn:aws:kinesis:us-east-1:222233334444:stream/trades \
                   because no resource-based policy allows the kinesis:DescribeStreamSummary action";
    let forbids = forbidding_with(message).await;
    let foreign = "arn:aws:kinesis:us-east-1:222233334444:stream/trades";
    let cases: [(Settings<'_>, i32, &[&str]); 6] = [
        (
            &[("--stream", foreign)],
            1,
            &[
                &format!("stream {foreign}: does not exist"),
                "check the region, the account and the name in --stream",
            ],
        ),
        (&[("--stream", "arn:aws:kinesis:eu-north-1:000000000000:stream/trades")], 1, &["does not exist"]),
        (
            &[("--stream", foreign), ("--kinesis-endpoint", &forbids.url)],
            1,
            &["access denied", "allow it in the resource policy of the stream, in its account"],
        ),
        (
            &[("--stream", "arn:aws:sns:eu-north-1:000000000000:trades")],
            2,
            &["--stream", "a resource of sns, not of Kinesis"],
        ),
        (&[("--stream-role", "reader")], 2, &["--stream-role \"reader\": is not an ARN"]),
        (&[("--lake-role", WRITER)], 2, &["--lake-role", "requires a lake at s3://"]),
    ];
    for (more, code, words) in cases {
        let arguments = stage.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        finish(command(&arguments).spawn().unwrap()).await.says(code, words);
    }
    let there = ["--stream", ARN, "--region", "eu-north-1", "--kinesis-endpoint", stage.aws.kinesis_url()];
    let elsewhere = kinetide(&[&["generate"], &there[..]].concat()).await;
    elsewhere.says(2, &["--region \"eu-north-1\"", "the stream is in us-east-1, as its ARN says"]);
    let wrong = kinetide(&["leases", "--stream", &format!("{ARN}/consumer/app:1525898737")]).await;
    wrong.says(2, &["--stream", "the ARN of a consumer; use the ARN of its stream", ARN]);
    assert_eq!(stage.aws.kinesis().count(STREAM).unwrap(), 0);
}
