//! Streams with a steady producer, the tables of one application, and workers of both kinds on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use kinetide::internals::aws::sdk_config;
use kinetide::internals::local::kinesis::Kinesis;
use kinetide::internals::local::{LocalAws, LocalSettings};
use kinetide::internals::shard::{SequenceNumber, ShardId};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::verify::{Place, Verdict, judge, lake};
use super::worker::{Kind, Worker, log_of};
use super::{Layout, Setup, aggregates, java};

pub(super) const STREAM: &str = "trades";
const REGION: &str = "us-east-1";
/// Failover time of both kinds of worker, in milliseconds.
const FAILOVER_MS: &str = "3000";
/// Between two records.
const PACE: Duration = Duration::from_millis(50);

pub(super) struct Fleet {
    pub(super) aws: LocalAws,
    streams: Vec<Stream>,
    setup: Setup,
    name: &'static str,
    application: String,
    dynamodb: Client,
    dir: Option<TempDir>,
    producer: JoinSet<()>,
    /// All workers ever started.
    started: BTreeMap<String, Kind>,
}

struct Stream {
    name: &'static str,
    /// As the leases name it, with account and time of creation; nothing where there is only one.
    id: Option<String>,
}

impl Stream {
    fn lease(&self, shard: &ShardId) -> String {
        self.id.as_ref().map_or_else(|| shard.to_string(), |id| format!("{id}:{shard}"))
    }

    /// As the records of a shard are told from those of others.
    fn place(&self, shard: &ShardId) -> String {
        if self.id.is_some() { format!("{}/{shard}", self.name) } else { shard.to_string() }
    }
}

/// What the table says about a shard.
#[derive(Debug)]
pub(super) struct Row {
    /// `checkpointOwner` during a hand-off, else `leaseOwner`.
    pub(super) owner: Option<String>,
    pub(super) checkpoint: String,
    /// Index in the aggregate at the checkpoint.
    pub(super) sub: u64,
}

/// A shard whose reader may change.
struct Watched {
    checkpoint: String,
    since: Instant,
    longest: Duration,
    /// By one of those who stay.
    moved: bool,
}

impl Watched {
    fn new(checkpoint: String, now: Instant) -> Self {
        Self { checkpoint, since: now, longest: Duration::ZERO, moved: false }
    }
}

impl Fleet {
    /// A stream that gets twenty records a second from now on, and no tables yet.
    pub(super) async fn new(name: &'static str, setup: Setup, shards: u32) -> Self {
        let mut fleet = Self::without_streams(name, setup).await;
        fleet.aws.kinesis().create_stream(STREAM, shards).unwrap();
        fleet.streams.push(Stream { name: STREAM, id: None });
        fleet.producer.spawn(produce(STREAM, fleet.aws.kinesis().clone()));
        fleet
    }

    /// A stream of one shard that gets aggregates, and now and then a record of its own.
    pub(super) async fn of_aggregates(name: &'static str, setup: Setup) -> Self {
        let mut fleet = Self::without_streams(name, setup).await;
        fleet.aws.kinesis().create_stream(STREAM, 1).unwrap();
        fleet.streams.push(Stream { name: STREAM, id: None });
        fleet.producer.spawn(aggregates::produce(STREAM, fleet.aws.kinesis().clone()));
        fleet
    }

    /// Several such streams, of one application.
    pub(super) async fn of_several(
        name: &'static str,
        setup: Setup,
        streams: &[&'static str],
        shards: u32,
    ) -> Self {
        let mut fleet = Self::without_streams(name, setup).await;
        let sdk = sdk_config(Some(fleet.aws.kinesis_url()), Some(REGION)).await;
        let client = aws_sdk_kinesis::Client::new(&sdk);
        for &name in streams {
            fleet.aws.kinesis().create_stream(name, shards).unwrap();
            let answer = client.describe_stream_summary().stream_name(name).send().await.unwrap();
            let summary = answer.stream_description_summary().unwrap();
            let account = summary.stream_arn().split(':').nth(4).unwrap();
            let id = format!("{account}:{name}:{}", summary.stream_creation_timestamp().secs());
            fleet.streams.push(Stream { name, id: Some(id) });
            fleet.producer.spawn(produce(name, fleet.aws.kinesis().clone()));
        }
        fleet.write_settings();
        fleet
    }

    async fn without_streams(name: &'static str, setup: Setup) -> Self {
        let aws = LocalAws::start(LocalSettings::default()).await.unwrap();
        let sdk = sdk_config(Some(&setup.dynamodb), Some(REGION)).await;
        Self {
            aws,
            streams: Vec::new(),
            application: format!("interop-{name}-{}", uuid::Uuid::new_v4().simple()),
            dynamodb: Client::new(&sdk),
            setup,
            name,
            dir: Some(TempDir::new().unwrap()),
            producer: JoinSet::new(),
            started: BTreeMap::new(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.dir.as_ref().unwrap().path().to_owned()
    }

    fn settings(&self) -> PathBuf {
        self.dir().join("settings.toml")
    }

    /// Of several streams each has folders of its own, as rows do not name their stream.
    fn write_settings(&self) {
        let table = |stream: &Stream| {
            let name = stream.name;
            format!(
                "[[streams]]\nstream = \"{name}\"\nlanding = \"{name}/landing\"\nerrors = \"{name}/errors\"\n"
            )
        };
        std::fs::write(self.settings(), self.streams.iter().map(table).collect::<String>()).unwrap();
    }

    /// Starts a worker on the Java library; later options replace earlier ones.
    pub(super) fn java_with(&mut self, id: &str, more: &[(&str, &str)]) -> Worker {
        let dir = self.dir();
        let ids: Vec<&str> = self.streams.iter().filter_map(|stream| stream.id.as_deref()).collect();
        let ids = ids.join(",");
        let stream = if ids.is_empty() { ("stream", STREAM) } else { ("streams", ids.as_str()) };
        let mut options = BTreeMap::from([
            stream,
            ("application", &self.application),
            ("worker", id),
            ("kinesis", self.aws.kinesis_url()),
            ("dynamodb", &self.setup.dynamodb),
            ("out", dir.to_str().unwrap()),
            ("failover-ms", FAILOVER_MS),
            ("shard-sync-ms", "100"),
            ("poll-idle-ms", "250"),
        ]);
        options.extend(more.iter().copied());
        let options: Vec<(&str, &str)> = options.into_iter().collect();
        let command = java::command(&self.setup.consumer, &options);
        self.start(Kind::Java, id, command)
    }

    pub(super) fn java(&mut self, id: &str) -> Worker {
        self.java_with(id, &[])
    }

    /// Starts one of ours; later options replace earlier ones.
    pub(super) fn ours_with(&mut self, id: &str, more: &[(&str, &str)]) -> Worker {
        let settings = self.settings();
        let several = self.streams.iter().all(|stream| stream.id.is_some());
        let stream = if several { ("settings", settings.to_str().unwrap()) } else { ("stream", STREAM) };
        let command = self.command_of_ours(id, stream, more);
        self.start(Kind::Ours, id, command)
    }

    fn command_of_ours(&self, id: &str, stream: (&str, &str), more: &[(&str, &str)]) -> Command {
        let failover = format!("{FAILOVER_MS}ms");
        let lake = self.dir().join("lake");
        let mut options = BTreeMap::from([
            stream,
            ("application", &self.application),
            ("worker-id", id),
            ("kinesis-endpoint", self.aws.kinesis_url()),
            ("dynamodb-endpoint", &self.setup.dynamodb),
            ("region", REGION),
            ("lake", lake.to_str().unwrap()),
            ("transform", "json"),
            ("http", "127.0.0.1:0"),
            ("batch-age", "300ms"),
            ("failover-time", &failover),
            ("lease-scan-interval", "200ms"),
            ("shard-sync-interval", "1s"),
            ("poll-idle-max", "200ms"),
            ("log-format", "json"),
        ]);
        options.extend(more.iter().copied());
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinetide"));
        command.arg("run");
        for (name, value) in options {
            command.args([format!("--{name}"), value.to_owned()]);
        }
        command
    }

    /// Runs one of ours on the same streams with leases of the other kind: its exit code and what it says.
    pub(super) async fn run_of_several(&self) -> (Option<i32>, String) {
        self.write_settings();
        let settings = self.settings();
        let mut command = self.command_of_ours("several", ("settings", settings.to_str().unwrap()), &[]);
        let ended = command.env("AWS_EC2_METADATA_DISABLED", "true").output().await.unwrap();
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    }

    pub(super) fn ours(&mut self, id: &str) -> Worker {
        self.ours_with(id, &[])
    }

    fn start(&mut self, kind: Kind, id: &str, command: Command) -> Worker {
        assert!(self.started.insert(id.to_owned(), kind).is_none(), "{id} is started twice");
        self.say(&format!("{id} starts"));
        Worker::start(kind, id, command, &self.dir())
    }

    /// What this scenario does, for those who watch.
    #[expect(clippy::print_stdout, reason = "a scenario takes minutes")]
    pub(super) fn say(&self, what: &str) {
        println!("{}: {what}", self.name);
    }

    /// The leases by key; none while there is no table.
    pub(super) async fn leases(&self) -> BTreeMap<String, Row> {
        let answer = self.dynamodb.scan().table_name(&self.application).consistent_read(true).send().await;
        let Ok(answer) = answer else { return BTreeMap::new() };
        let mut rows = BTreeMap::new();
        for item in answer.items() {
            let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
            if text("entityType").is_none_or(|kind| kind == "LEASE") {
                self.names_its_stream(text);
                let owner = text("checkpointOwner").or(text("leaseOwner"));
                let number = item.get("checkpointSubSequenceNumber").and_then(|value| value.as_n().ok());
                let sub = number.map_or(0, |number| number.parse().unwrap());
                rows.insert(
                    text("leaseKey").unwrap(),
                    Row { owner, checkpoint: text("checkpoint").unwrap(), sub },
                );
            }
        }
        rows
    }

    /// In an application of several streams each row says three times whose it is, whoever has written it.
    fn names_its_stream(&self, text: impl Fn(&str) -> Option<String>) {
        let key = text("leaseKey").unwrap();
        let (stream, shard) = (text("streamName"), text("shardId"));
        match key.rsplit_once(':') {
            None => assert_eq!((stream, shard), (None, None), "{key}"),
            Some((of, id)) => {
                assert!(self.streams.iter().any(|stream| stream.id.as_deref() == Some(of)), "{key}");
                assert_eq!((stream.as_deref(), shard.as_deref()), (Some(of), Some(id)), "{key}");
            }
        }
    }

    /// The worker in the leader's row.
    pub(super) async fn leader(&self) -> Option<String> {
        let (table, key) = match self.setup.layout {
            Layout::One => (self.application.clone(), "leaseKey"),
            Layout::Three => (format!("{}-CoordinatorState", self.application), "key"),
        };
        let get = self.dynamodb.get_item().table_name(table).consistent_read(true);
        let answer = get.key(key, AttributeValue::S("Leader".to_owned())).send().await.ok()?;
        answer.item()?.get("ownerName")?.as_s().ok().cloned()
    }

    /// How many leases of open shards each worker has.
    pub(super) async fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        let leases = self.leases().await;
        for stream in &self.streams {
            for shard in self.aws.kinesis().open_shards(stream.name).unwrap() {
                let owner = leases.get(&stream.lease(&shard)).and_then(|row| row.owner.clone());
                *shares.entry(owner.unwrap_or_default()).or_default() += 1;
            }
        }
        shares
    }

    /// For each stream how many records each of its shards has.
    fn put(&self) -> Vec<Vec<(ShardId, u64)>> {
        self.streams.iter().map(|stream| self.aws.kinesis().shards(stream.name).unwrap()).collect()
    }

    /// Waits until a question is answered with yes.
    pub(super) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl AsyncFnMut(&Self) -> bool,
    ) {
        let started = Instant::now();
        while !question(self).await {
            if started.elapsed() > limit {
                panic!(
                    "{}: waited {limit:?} in vain until {what}; leader {:?}, leases {:#?}",
                    self.name,
                    self.leader().await,
                    self.leases().await
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.say(&format!("{:.1} s until {what}", started.elapsed().as_secs_f32()));
    }

    /// Waits until all open shards are held by these workers, each holding some, and what is in the stream now
    /// is behind the checkpoints.
    pub(super) async fn until_shared_by(&self, workers: &[&str], limit: Duration) {
        let what = format!("{} read all", workers.join(" and "));
        let expected: BTreeSet<String> = workers.iter().map(|id| (*id).to_owned()).collect();
        let then = self.put();
        self.until(&what, limit, async |fleet| {
            fleet.shares().await.into_keys().collect::<BTreeSet<_>>() == expected && fleet.covers(&then).await
        })
        .await;
    }

    /// Watches the checkpoints until each was moved by one of these workers, and says how long any of them stood
    /// still.
    pub(super) async fn longest_stall(&self, workers: &[&str], limit: Duration) -> Duration {
        let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
        let all_moved = async |fleet: &Self| {
            let now = Instant::now();
            for (shard, row) in fleet.leases().await {
                let checkpoint = row.checkpoint;
                let seen = watched.entry(shard).or_insert_with(|| Watched::new(checkpoint.clone(), now));
                if seen.checkpoint != checkpoint {
                    seen.longest = seen.longest.max(now.duration_since(seen.since));
                    (seen.checkpoint, seen.since) = (checkpoint, now);
                    seen.moved |= row.owner.is_some_and(|owner| workers.contains(&owner.as_str()));
                }
            }
            watched.values().all(|seen| seen.moved)
        };
        self.until("all shards are read again", limit, all_moved).await;
        watched.values().map(|seen| seen.longest).max().unwrap_or_default()
    }

    /// Whether the first so many records of each shard of each stream are behind its checkpoint.
    async fn covers(&self, records: &[Vec<(ShardId, u64)>]) -> bool {
        let leases = self.leases().await;
        self.streams.iter().zip(records).all(|(stream, records)| self.covered(stream, records, &leases))
    }

    fn covered(&self, stream: &Stream, records: &[(ShardId, u64)], leases: &BTreeMap<String, Row>) -> bool {
        let kinesis = self.aws.kinesis();
        let open = kinesis.open_shards(stream.name).unwrap();
        records.iter().all(|(shard, put)| match leases.get(&stream.lease(shard)) {
            // The finished lease of a parent is cleaned up after its children have begun.
            None => !leases.is_empty() && !open.contains(shard),
            Some(row) => match row.checkpoint.as_str() {
                "SHARD_END" => true,
                "TRIM_HORIZON" => *put == 0 && open.contains(shard),
                number => {
                    let number = SequenceNumber::parse(number).unwrap();
                    let done = kinesis.count_up_to(stream.name, shard, &number).unwrap();
                    done >= *put && open.contains(shard)
                }
            },
        })
    }

    /// Waits for a leader whose name begins like this.
    pub(super) async fn until_led_by(&self, start: &str, limit: Duration) {
        let leads = async |fleet: &Self| fleet.leader().await.is_some_and(|leader| leader.starts_with(start));
        self.until(&format!("{start} leads"), limit, leads).await;
    }

    /// No more records; waits until every checkpoint is at the end of its shard.
    pub(super) async fn rest(&mut self) {
        self.producer.shutdown().await;
        let put = self.put();
        self.until("everything is read", Duration::from_secs(60), async |fleet| fleet.covers(&put).await)
            .await;
    }

    /// What is in the streams, user record by user record.
    pub(super) fn records(&self) -> BTreeSet<Place> {
        let mut put = BTreeSet::new();
        for stream in &self.streams {
            let records = self.aws.kinesis().visit(
                stream.name,
                |_| 0,
                |shard, record| {
                    let place = Place::new(stream.place(shard), record.sequence_number.as_str());
                    put.extend(
                        (0..aggregates::count(&record.data)).map(|sub| Place { sub, ..place.clone() }),
                    );
                },
            );
            records.unwrap();
        }
        put
    }

    /// What lies in our lake, with how often each is there.
    pub(super) fn landed(&self) -> BTreeMap<Place, usize> {
        let (dir, mut landed) = (self.dir(), BTreeMap::new());
        for stream in &self.streams {
            let folder = dir.join("lake");
            let folder = if stream.id.is_some() { folder.join(stream.name) } else { folder };
            for (place, times) in lake(&folder) {
                let shard = stream.place(&ShardId::new(place.shard));
                landed.insert(Place { shard, ..place }, times);
            }
        }
        landed
    }

    /// What this Java worker has written down.
    pub(super) fn given_to(&self, id: &str) -> Vec<Place> {
        java::processed(&self.dir(), id)
    }

    /// Judges records and logs. All workers must have ended.
    pub(super) fn verdict(&self) -> Verdict {
        let dir = self.dir();
        let mut given = Vec::new();
        for (id, kind) in &self.started {
            let log = std::fs::read_to_string(log_of(&dir, id)).unwrap();
            let complaints = match kind {
                Kind::Java => {
                    given.extend(java::processed(&dir, id));
                    java::complaints(&log)
                }
                Kind::Ours => our_complaints(&log),
            };
            let first = &complaints[..complaints.len().min(5)];
            assert!(complaints.is_empty(), "{id} complains {} times, first: {first:#?}", complaints.len());
        }
        let verdict =
            judge(&self.records(), &given, &self.landed()).unwrap_or_else(|defect| panic!("{defect}"));
        self.say(&format!("{verdict:?}"));
        verdict
    }
}

impl Fleet {
    /// Splits the first open shard of each stream.
    pub(super) fn split(&self) {
        let kinesis = self.aws.kinesis();
        for stream in &self.streams {
            let shard = kinesis.open_shards(stream.name).unwrap().remove(0);
            kinesis.split(stream.name, &shard).unwrap();
            self.say(&format!("{shard} of {} is split", stream.name));
        }
    }

    /// Merges the first two open shards of each stream.
    pub(super) fn merge(&self) {
        let kinesis = self.aws.kinesis();
        for stream in &self.streams {
            let open = kinesis.open_shards(stream.name).unwrap();
            kinesis.merge(stream.name, &open[0], &open[1]).unwrap();
            self.say(&format!("{} and {} of {} are merged", open[0], open[1], stream.name));
        }
    }
}

/// A failed scenario leaves its logs.
impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            self.say(&format!("logs and lake are in {}", dir.keep().display()));
        }
    }
}

/// Errors of ours, and rows that we did not understand. Many fleets start at once here, and each waits for a processor then: that nobody leads is no
/// complaint in a worker's first minute. Who takes over later, and when, each scenario asserts by itself.
fn our_complaints(log: &str) -> Vec<String> {
    let time = |line: &str| {
        let rest = line.split_once("\"timestamp\":\"")?.1;
        humantime::parse_rfc3339(rest.split_once('"')?.0).ok()
    };
    let began = log.lines().find_map(time);
    let starts = |line: &str| {
        let since = began.zip(time(line)).and_then(|(began, at)| at.duration_since(began).ok());
        line.contains("the fleet has no leader") && since.is_some_and(|since| since < Duration::from_secs(60))
    };
    let bad = |line: &&str| {
        ["\"level\":\"ERROR\"", "panicked", "skipped a row of the lease table"]
            .iter()
            .any(|word| line.contains(word))
            && !starts(line)
    };
    log.lines().filter(bad).map(str::to_owned).collect()
}

async fn produce(stream: &'static str, kinesis: Kinesis) {
    let padding = "x".repeat(500);
    for number in 0_u64.. {
        let data = format!(r#"{{"number":{number},"padding":"{padding}"}}"#);
        kinesis.put(stream, &format!("key-{number}"), data.as_bytes()).unwrap();
        sleep(PACE).await;
    }
}
