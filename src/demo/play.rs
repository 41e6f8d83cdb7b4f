//! The demo from start to summary.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::mishaps::{Mishap, Mishaps};
use super::progress::Watch;
use super::report::Summary;
use super::tables::Tables;
use crate::cause::chain;
use crate::generate::Source;
use crate::generate::synthetic::{Mix, Synthetic};
use crate::generate::trades::TradeFiles;
use crate::insights::{Insights, Scope, html, read};
use crate::kafka::KafkaSettings;
use crate::local::LocalSettings;
use crate::produce::{Ended, Event, Plan, ProduceError, Sink, Totals, run_to_end};
use crate::shutdown::joined;
use crate::terminal::say;
use crate::trial::scene::servers::Servers;
use crate::trial::scene::{self, Scene, TrialSource, Wanted, in_half, together};
use crate::trial::workers::{WorkerEndpoints, WorkerSettings, Workers};
use crate::trial::{
    Checked, Display, Progress, STUCK_AFTER, TrialError, VerifyError, folder, seed_of, verify_streams,
};

const TABLE: &str = "CryptoTransactions";
const STREAM: &str = "crypto-transactions";
const APPLICATION: &str = "kinetide-demo";
/// Where workers land rows.
const LANDING: &str = "landing/transactions";
/// Share of new items that the table's TTL removes again.
const TTL_RATE: f64 = 0.01;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bad lines of trade files that are shown one by one; the rest is only counted.
const BAD_LINES_SHOWN: u64 = 20;

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
    /// How workers read.
    pub source: TrialSource,
    /// The brokers, where they read topics of Kafka.
    pub kafka: Option<KafkaSettings>,
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
/// See [`TrialError`].
pub async fn play(
    plan: DemoPlan,
    cancel: CancellationToken,
    summary: impl FnOnce(&Summary),
) -> Result<Summary, TrialError> {
    let (lake, logs) = prepare(&plan.dir)?;
    // As at AWS: by HTTP/2 over TLS.
    let ca_file = plan.source.retrieval().map(|_| plan.dir.join("test-ca.pem"));
    let settings = LocalSettings {
        ttl_sweep: Duration::from_secs(2),
        ca_file,
        dynamodb_stream_shards: plan.shards,
        ..LocalSettings::default()
    };
    let servers = Servers::start(settings, &WorkerEndpoints::default(), None).await?;
    let name = if plan.source.of_tables() { TABLE } else { STREAM };
    let (sources, kafka) = ([plan.source], plan.kafka.as_ref());
    let wanted = Wanted { name, sources: &sources, count: plan.streams, packed: None, kafka };
    let scene = scene::on(&servers, wanted)?;
    let streams = &*scene;
    streams.prepare(plan.shards).await?;
    let tables = Tables::with(&servers, TABLE, streams, plan.source).await?;
    let mut workers = Workers::new(WorkerSettings {
        stream_flags: streams.worker_arguments(),
        stream: STREAM.to_owned(),
        application: APPLICATION.to_owned(),
        lake: lake.display().to_string(),
        region: servers.region.clone(),
        endpoints: servers.endpoints.clone(),
        initial_position: None,
        settings: None,
        clock_offset_s: 0,
        full_disk_survivable: false,
        command: None,
        logs: logs.clone(),
    });
    for _ in 0..plan.workers {
        workers.start()?;
    }
    let shards = match plan.streams {
        1 => format!("{} shards", plan.shards),
        streams => format!("{streams} streams of {} shards", plan.shards),
    };
    let dynamodb = servers.endpoints.dynamodb.as_deref().unwrap_or_default();
    let through = plan.source.service();
    let at = plan.source.endpoint(&servers.endpoints).unwrap_or_default();
    match &plan.kafka {
        Some(kafka) => say(format!("trades ─► {through} ({}, {shards})", kafka.bootstrap)),
        None => say(format!("trades ─► DynamoDB ({dynamodb}) ─► {through} ({at}, {shards})")),
    }
    say(format!("       ─► {} worker processes ─► lake in {}", plan.workers, lake.display()));

    let feed = tables.feed();
    let mut watch = Watch::new(feed, streams.streams(), &streams.in_leases(), servers.leases(APPLICATION));
    let started = Instant::now();
    let run = Run {
        tables: &tables,
        scene: streams,
        mishaps: Mishaps::new(records(&plan).unwrap_or(100_000), plan.kill, plan.reshard),
        plan: &plan,
        logs,
    };
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        done = run.until_delivered(&mut watch, &mut workers, cancel.clone()) => Some(done?),
    };
    let Some(mut done) = done else {
        say("interrupted: draining the workers; interrupt again to kill them");
        workers.drain().await?;
        streams.strike().await;
        return Err(TrialError::Interrupted { lake: lake.display().to_string() });
    };
    done.seconds = started.elapsed().as_secs_f64();
    done.max_delivered_age_ms = watch.lag_max_ms();
    if !plan.keep_running {
        workers.drain().await?;
    }
    say("reading the lake back");
    let store = LocalFileSystem::new_with_prefix(&lake).map_err(VerifyError::Store)?;
    let root = object_store::path::Path::default();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let Checked { all, each } = verify_streams(
        Arc::clone(&store),
        &root,
        tables.read_back(watch.feed(), streams.streams()).await?,
        |_, _| {},
    )
    .await?;
    (done.lake, done.streams) = (all, each);
    let page = dashboard(&store, &lake, &plan.dir).await;
    done.dashboard = page.as_ref().ok().map(|page| page.display().to_string());
    summary(&done);
    page?;
    if plan.keep_running {
        say("servers and workers keep running; press Ctrl-C to stop them");
        cancel.cancelled().await;
        workers.drain().await?;
    }
    streams.strike().await;
    drop(scene);
    servers.strike(APPLICATION).await;
    Ok(done)
}

struct Run<'a> {
    tables: &'a Tables<'a>,
    scene: &'a dyn Scene,
    mishaps: Mishaps,
    plan: &'a DemoPlan,
    logs: PathBuf,
}

impl Run<'_> {
    /// Generates, watches and does mischief until every record is below a checkpoint.
    async fn until_delivered(
        mut self,
        watch: &mut Watch,
        workers: &mut Workers,
        cancel: CancellationToken,
    ) -> Result<Summary, TrialError> {
        let mut summary = Summary::default();
        let mut display = Display::new(records(self.plan).unwrap_or(0));
        let (mut generating, mut hearing) = (JoinSet::new(), JoinSet::new());
        for stream in 0..self.plan.streams {
            let seed = seed_of(self.plan.seed, stream);
            let sink = self.tables.sink(stream, self.scene, seed, &mut hearing);
            generating.spawn(generate(self.plan.clone(), stream, sink, cancel.clone()));
        }
        let mut done = Done::default();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_put = false;
        loop {
            tokio::select! {
                biased;
                Some(generated) = generating.join_next() => {
                    done.add(joined(generated).await);
                    if !generating.is_empty() {
                        continue;
                    }
                    while let Some(heard) = hearing.join_next().await {
                        joined(heard).await;
                    }
                    let Done { totals, error } = std::mem::take(&mut done);
                    self.tables.everything_forwarded().await?;
                    if totals.written == 0 {
                        display.end();
                        let nothing = TrialError::NothingPut { bad_lines: totals.bad_lines };
                        return Err(error.map_or(nothing, TrialError::from));
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
            let moved = display.show(&look.progress, all_put, look.line(), workers).await;
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
            if moved.elapsed() > STUCK_AFTER && put > delivered {
                return Err(display.stuck(&look.progress, self.logs));
            }
        }
    }

    async fn happen(
        &mut self,
        mishap: Mishap,
        busiest: Option<&str>,
        workers: &mut Workers,
        summary: &mut Summary,
    ) -> Result<String, TrialError> {
        match mishap {
            Mishap::Split | Mishap::Merge => {
                let mut said = Vec::new();
                for stream in 0..self.plan.streams {
                    let choose = if mishap == Mishap::Split { in_half } else { together };
                    let done = self.scene.disturb(stream, &mut |listing| choose(listing)).await;
                    said.push(done.map_err(|refused| TrialError::server("no resharding", refused))?);
                    summary.reshards += 1;
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
    error: Option<ProduceError>,
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

/// The trades are spread over a day or two, so that the dashboard has hours to show. About every third change is a new
/// trade.
fn trade_gap_ms(records: Option<u64>) -> i64 {
    const DAY_MS: i64 = 24 * 3_600_000;
    let trades = i64::try_from(records.unwrap_or(0) / 3).unwrap_or(i64::MAX).max(1);
    (2 * DAY_MS / trades).clamp(1, DAY_MS / 24)
}

/// Changes to make in all tables, if that is known.
fn records(plan: &DemoPlan) -> Option<u64> {
    Some(plan.records?.saturating_mul(u64::try_from(plan.streams).ok()?))
}

async fn generate(plan: DemoPlan, stream: usize, sink: Sink, cancel: CancellationToken) -> Ended {
    let source = if plan.trades.is_empty() {
        let mix = Mix {
            ttl_rate: TTL_RATE,
            odd_values: plan.odd_values,
            trade_gap_ms: trade_gap_ms(plan.records),
            ..Mix::default()
        };
        Source::Synthetic(Box::new(Synthetic::new(seed_of(plan.seed, stream), mix)))
    } else {
        Source::Trades(Box::new(TradeFiles::new(plan.trades.clone())))
    };
    let amount = Plan { records: plan.records, rate: plan.rate, ramp: None };
    let show = |event: Event<'_>| {
        if let Event::BadLine { error, count } = event
            && count <= BAD_LINES_SHOWN
            && stream == 0
        {
            say(format!("skipped: {error}"));
        }
    };
    run_to_end(amount, source, sink, show, cancel).await
}

/// Writes the dashboard of the lake into the demo's folder.
async fn dashboard(store: &Arc<dyn ObjectStore>, lake: &Path, dir: &Path) -> Result<PathBuf, TrialError> {
    let scope = Scope {
        landing: LANDING.to_owned(),
        since_us: i64::MIN,
        until_us: i64::MAX,
        // The check of the lake, which came before, needs more.
        memory: usize::MAX,
    };
    let (coverage, figures) = read(store, &object_store::path::Path::default(), &scope, |_, _| {}).await?;
    let insights = Insights::new(lake.join(LANDING).display().to_string(), coverage, figures, None);
    let page = dir.join("insights.html");
    std::fs::write(&page, html(&insights))
        .map_err(|source| TrialError::Page { page: page.clone(), source })?;
    Ok(page)
}

/// Makes the folders of lake and logs.
fn prepare(dir: &Path) -> Result<(PathBuf, PathBuf), TrialError> {
    folder::prepare(dir, &["lake", "logs"])?;
    Ok((dir.join("lake"), dir.join("logs")))
}
