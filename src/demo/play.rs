//! The demo from start to summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use object_store::local::LocalFileSystem;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::error::DemoError;
use super::mishaps::{Mishap, Mishaps};
use super::progress::Watch;
use super::report::Summary;
use crate::aws::sdk_config;
use crate::cause::chain;
use crate::generate::dynamodb::{TableWriter, create_table, scan};
use crate::generate::synthetic::{Mix, Synthetic};
use crate::generate::trades::TradeFiles;
use crate::generate::{self, Ended, GenerateError, Plan, Sink, Source, Totals};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::local::kinesis::Kinesis;
use crate::local::{Forwarder, LocalAws, LocalError, LocalSettings};
use crate::shard::ShardId;
use crate::shutdown::joined;
use crate::terminal::say;
use crate::trial::workers::{WorkerEndpoints, WorkerSettings, Workers};
use crate::trial::{
    Checked, Complaints, Display, Progress, Put, Puts, Table, VerifyError, folder, numbered, seed_of,
    verify_streams,
};

const TABLE: &str = "CryptoTransactions";
const STREAM: &str = "crypto-transactions";
const APPLICATION: &str = "kinetide-demo";
/// Share of new items that the table's TTL removes again.
const TTL_RATE: f64 = 0.01;
/// Short, so that a minute shows what takes a day in production.
const BATCH_AGE: Duration = Duration::from_secs(2);
const FAILOVER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bad lines of trade files that are shown one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 20;
/// Without any progress for this long something is wrong.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// What to play.
#[derive(Clone, Debug)]
pub struct DemoPlan {
    /// Streams of the application, each behind a table of its own, with the load and the shards that are given here.
    pub streams: usize,
    /// Records to put into a stream; all trades of the files when `None`.
    pub records: Option<u64>,
    /// Records per second of a stream at most.
    pub rate: Option<f64>,
    /// Shards of a stream at the start.
    pub shards: u32,
    /// Worker processes.
    pub workers: usize,
    /// Trade files to replay, none for synthetic trades.
    pub trades: Vec<PathBuf>,
    /// Kill a worker half-way and start another.
    pub kill: bool,
    /// Split and merge while running.
    pub reshard: bool,
    /// Folder for the lake and the logs; it must be empty.
    pub dir: PathBuf,
    /// Seed of the synthetic trades.
    pub seed: u64,
    /// Let some attributes change their type.
    pub odd_values: bool,
    /// After the check, leave everything running until cancelled.
    pub keep_running: bool,
}

/// Plays the demo: servers, generator, workers, mishaps, drain, check. `summary` is given the result as soon as it is
/// known (with `keep_running` the play goes on after it).
///
/// # Errors
/// See [`DemoError`].
pub async fn play(
    plan: DemoPlan,
    cancel: CancellationToken,
    summary: impl FnOnce(&Summary),
) -> Result<Summary, DemoError> {
    let (lake, logs) = prepare(&plan.dir)?;
    let settings = LocalSettings { ttl_sweep: Duration::from_secs(2), ..LocalSettings::default() };
    let aws = LocalAws::start(settings).await?;
    let client = Client::new(&sdk_config(Some(aws.dynamodb_url()), Some(aws.region())).await);
    let kinesis = aws.kinesis().clone();
    let (tables, streams) = (numbered(TABLE, plan.streams), numbered(STREAM, plan.streams));
    let mut forwarders = Vec::new();
    for (table, stream) in tables.iter().zip(&streams) {
        create_table(&client, table).await?;
        kinesis.create_stream(stream, plan.shards).map_err(refused)?;
        forwarders.push(aws.forward(table, stream));
    }
    let mut workers = Workers::new(WorkerSettings {
        initial_position: None,
        streams: streams.clone(),
        application: APPLICATION.to_owned(),
        lake: lake.display().to_string(),
        region: None,
        endpoints: WorkerEndpoints {
            kinesis: Some(aws.kinesis_url().to_owned()),
            dynamodb: Some(aws.dynamodb_url().to_owned()),
            s3: None,
        },
        clock_offset_s: 0,
        full_disk_survivable: false,
        batch_age: BATCH_AGE,
        failover: FAILOVER,
        command: None,
        logs: logs.clone(),
    });
    for _ in 0..plan.workers {
        workers.start()?;
    }
    say(format!(
        "trades ─► DynamoDB ({}) ─► Kinesis ({}, {}{} shards)",
        aws.dynamodb_url(),
        aws.kinesis_url(),
        if plan.streams > 1 { format!("{} streams of ", plan.streams) } else { String::new() },
        plan.shards
    ));
    say(format!("       ─► {} worker processes ─► lake in {}", plan.workers, lake.display()));

    let leases = Arc::new(DynamoDbLeaseTable::new(client.clone(), APPLICATION));
    let mut watch = Watch::new(kinesis.clone(), &streams, leases);
    let started = Instant::now();
    let run = Run {
        aws: &aws,
        kinesis: kinesis.clone(),
        forwarders,
        writers: tables.iter().map(|table| Arc::new(TableWriter::new(client.clone(), table))).collect(),
        mishaps: Mishaps::new(records(&plan).unwrap_or(100_000), plan.kill, plan.reshard),
        plan: &plan,
        logs: &logs,
        first_split: vec![None; plan.streams],
        streams: &streams,
    };
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        done = run.until_delivered(&mut watch, &mut workers, cancel.clone()) => Some(done?),
    };
    let Some(mut done) = done else {
        say("interrupted: draining the workers; interrupt again to kill them");
        workers.drain().await?;
        return Err(DemoError::Interrupted { lake });
    };
    done.seconds = started.elapsed().as_secs_f64();
    done.max_delivered_age_ms = watch.lag_max_ms();
    if !plan.keep_running {
        workers.drain().await?;
    }
    say("reading the lake back");
    let checked = check(&kinesis, &client, &tables, &streams, &lake).await?;
    (done.lake, done.streams) = (checked.all, checked.each);
    summary(&done);
    if plan.keep_running {
        say("servers and workers keep running; press Ctrl-C to stop them");
        cancel.cancelled().await;
        workers.drain().await?;
    }
    aws.shutdown().await;
    Ok(done)
}

struct Run<'a> {
    aws: &'a LocalAws,
    kinesis: Kinesis,
    forwarders: Vec<Forwarder>,
    writers: Vec<Arc<TableWriter>>,
    streams: &'a [String],
    mishaps: Mishaps,
    plan: &'a DemoPlan,
    logs: &'a PathBuf,
    /// Of each stream.
    first_split: Vec<Option<[ShardId; 2]>>,
}

impl Run<'_> {
    /// Generates, watches and does mischief until every record is below a checkpoint.
    async fn until_delivered(
        mut self,
        watch: &mut Watch,
        workers: &mut Workers,
        cancel: CancellationToken,
    ) -> Result<Summary, DemoError> {
        let mut summary = Summary::default();
        let mut display = Display::new(records(self.plan).unwrap_or(0));
        let mut generating = JoinSet::new();
        for (stream, writer) in self.writers.iter().enumerate() {
            generating.spawn(generate(self.plan.clone(), stream, Arc::clone(writer), cancel.clone()));
        }
        let mut done = Done::default();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_put = false;
        let mut moved = (Instant::now(), 0);
        let mut complaints = Complaints::default();
        loop {
            tokio::select! {
                biased;
                Some(generated) = generating.join_next() => {
                    done.add(joined(generated).await);
                    if !generating.is_empty() {
                        continue;
                    }
                    let Done { totals, error } = std::mem::take(&mut done);
                    self.everything_forwarded().await?;
                    if totals.written == 0 {
                        display.end();
                        let nothing = DemoError::NothingPut { bad_lines: totals.bad_lines };
                        return Err(error.map_or(nothing, DemoError::from));
                    }
                    // What was put all the same is delivered and checked.
                    if let Some(error) = error {
                        let error = chain(&error);
                        display.say(&format!("could not make all changes: {error}"));
                        summary.error = Some(error);
                    }
                    display.say(&format!(
                        "changes made: {} inserts, {} modifies, {} removes", totals.inserts, totals.modifies, totals.removes
                    ));
                    (summary.changes_made, summary.bad_lines) = (totals.written, totals.bad_lines);
                    summary.last_read = totals.last_read;
                    all_put = true;
                }
                _ = ticks.tick() => {}
            }
            workers.check()?;
            let look = watch.look().await?;
            let Progress { put, delivered, .. } = look.progress;
            let waits = if put > delivered {
                complaints.while_still(delivered, workers).await.map(|text| format!("  {text}"))
            } else {
                None
            };
            display.show(delivered, put, all_put, &(look.line() + &waits.unwrap_or_default()));
            // Once everything is put, what has not happened yet happens now.
            let due = if all_put { u64::MAX } else { put };
            while let Some(mishap) = self.mishaps.due(due) {
                let reads =
                    look.owners.iter().filter(|(owner, _)| !owner.is_empty()).max_by_key(|(_, n)| **n);
                let happened = self
                    .happen(mishap, reads.map(|(owner, _)| owner.as_str()), workers, &mut summary)
                    .await?;
                display.say(&happened);
            }
            if all_put && delivered == put && self.mishaps.over() {
                display.end();
                return Ok(summary);
            }
            if delivered != moved.1 {
                moved = (Instant::now(), delivered);
            } else if moved.0.elapsed() > STUCK_AFTER && put > delivered {
                display.end();
                return Err(DemoError::Stuck {
                    after: STUCK_AFTER,
                    left: put - delivered,
                    logs: self.logs.clone(),
                    cause: complaints.cause(),
                });
            }
        }
    }

    /// TTL deletes are changes too: lets the table make the last of them, and waits until all are in the stream.
    async fn everything_forwarded(&self) -> Result<(), DemoError> {
        loop {
            let database = self.aws.database().clone();
            let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
            if joined(swept).await.map_err(|error| LocalError::Database(error.into()))? == 0 {
                break;
            }
        }
        for forwarder in &self.forwarders {
            forwarder.drained().await;
        }
        Ok(())
    }

    fn split(&mut self, stream: usize) -> Result<String, DemoError> {
        let (name, first) = (&self.streams[stream], &mut self.first_split[stream]);
        let open = self.kinesis.open_shards(name).map_err(refused)?;
        let young = first.iter().flatten().collect::<Vec<_>>();
        let shard = open.iter().find(|shard| !young.contains(shard)).or(open.first());
        let shard = shard.expect("a stream has an open shard");
        let children = self.kinesis.split(name, shard).map_err(refused)?;
        let [low, high] = &children;
        let text = format!("split shard {} into {} and {}", short(shard), short(low), short(high));
        first.get_or_insert(children);
        Ok(text)
    }

    fn merge(&mut self, stream: usize) -> Result<String, DemoError> {
        let [lower, upper] = self.first_split[stream].take().expect("a merge comes after a split");
        let child = self.kinesis.merge(&self.streams[stream], &lower, &upper).map_err(refused)?;
        Ok(format!("merged shards {} and {} into {}", short(&lower), short(&upper), short(&child)))
    }

    async fn happen(
        &mut self,
        mishap: Mishap,
        busiest: Option<&str>,
        workers: &mut Workers,
        summary: &mut Summary,
    ) -> Result<String, DemoError> {
        match mishap {
            Mishap::Split | Mishap::Merge => {
                let mut said = Vec::new();
                for stream in 0..self.streams.len() {
                    let text =
                        if mishap == Mishap::Split { self.split(stream)? } else { self.merge(stream)? };
                    summary.reshards += 1;
                    said.push(match self.streams {
                        [_] => text,
                        streams => format!("{}: {text}", streams[stream]),
                    });
                }
                Ok(said.join("; "))
            }
            Mishap::Kill => {
                let killed = workers.kill(busiest).await?;
                workers.start()?;
                summary.workers_killed += u64::from(killed.is_some());
                let new = workers.ids().last().unwrap_or_default().to_owned();
                Ok(format!("killed {} (SIGKILL), started {new}", killed.as_deref().unwrap_or("nobody")))
            }
        }
    }
}

/// Changes of all tables together.
#[derive(Default)]
struct Done {
    totals: Totals,
    error: Option<GenerateError>,
}

impl Done {
    fn add(&mut self, Ended { totals, error }: Ended) {
        let all = &mut self.totals;
        all.written += totals.written;
        all.inserts += totals.inserts;
        all.modifies += totals.modifies;
        all.removes += totals.removes;
        // All tables replay the same files.
        all.bad_lines = all.bad_lines.max(totals.bad_lines);
        all.last_read = totals.last_read.or(all.last_read.take());
        self.error = self.error.take().or(error);
    }
}

/// Changes to make in all tables, if that is known.
fn records(plan: &DemoPlan) -> Option<u64> {
    Some(plan.records?.saturating_mul(u64::try_from(plan.streams).ok()?))
}

async fn generate(
    plan: DemoPlan,
    stream: usize,
    writer: Arc<TableWriter>,
    cancel: CancellationToken,
) -> Ended {
    let source = if plan.trades.is_empty() {
        let mix = Mix { ttl_rate: TTL_RATE, odd_values: plan.odd_values, ..Mix::default() };
        Source::Synthetic(Box::new(Synthetic::new(seed_of(plan.seed, stream), mix)))
    } else {
        Source::Trades(Box::new(TradeFiles::new(plan.trades.clone())))
    };
    let amount = Plan { records: plan.records, rate: plan.rate, ramp: None };
    let show = |event: generate::Event<'_>| {
        if let generate::Event::BadLine { error, count } = event
            && count <= BAD_LINES_SHOWN
            && stream == 0
        {
            say(format!("skipped: {error}"));
        }
    };
    generate::run_to_end(amount, source, Sink::Table(writer), show, cancel).await
}

/// Makes the folders of lake and logs.
fn prepare(dir: &Path) -> Result<(PathBuf, PathBuf), DemoError> {
    folder::prepare(dir, &["lake", "logs"])?;
    Ok((dir.join("lake"), dir.join("logs")))
}

/// Reads everything back: the records from the streams, the rows from the lake, the items from the tables.
async fn check(
    kinesis: &Kinesis,
    client: &Client,
    tables: &[String],
    streams: &[String],
    lake: &PathBuf,
) -> Result<Checked, DemoError> {
    let mut each = Vec::new();
    for (table, stream) in tables.iter().zip(streams) {
        each.push((put_into(kinesis, stream)?, Some(held_by(client, table).await?)));
    }
    let store = LocalFileSystem::new_with_prefix(lake).map_err(VerifyError::Store)?;
    Ok(verify_streams(Arc::new(store), &object_store::path::Path::default(), each, |_, _| {}).await?)
}

/// What the stream holds.
fn put_into(kinesis: &Kinesis, stream: &str) -> Result<Puts, DemoError> {
    let mut puts = Puts::of(stream);
    let mut wrong = None;
    let mut data = Vec::new();
    kinesis
        .visit(stream, |shard, record| {
            data.clear();
            let decoded = base64_simd::STANDARD.decode_append(&record.data[..], &mut data);
            let Ok(_) = decoded else { unreachable!("the stream refuses what is not base64") };
            let put = Put::new(shard.as_str(), record.sequence_number.as_str(), &data, record.arrival_us);
            let added = put.and_then(|put| puts.add(shard.as_str(), put));
            wrong = wrong.take().or(added.err());
        })
        .map_err(refused)?;
    wrong.map_or(Ok(puts), |error| Err(error.into()))
}

/// What the table holds.
async fn held_by(client: &Client, table: &str) -> Result<Table, DemoError> {
    let mut items = Table::default();
    let mut unreadable = None;
    scan(client, table, |item| unreadable = unreadable.take().or(items.add(item).err())).await?;
    unreadable.map_or(Ok(items), |error| Err(error.into()))
}

/// The number of a shard, as people call it: `shardId-000000000007` is 7.
fn short(shard: &ShardId) -> &str {
    let digits = shard.as_str().trim_start_matches("shardId-").trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}

fn refused(error: impl std::fmt::Debug) -> DemoError {
    DemoError::Kinesis(format!("{error:?}"))
}
