//! The demo from start to summary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::mishaps::{Mishap, Mishaps};
use super::report::Summary;
use crate::cause::chain;
use crate::clock::wall_clock_us;
use crate::generate::Source;
use crate::generate::synthetic::{Mix, Synthetic};
use crate::generate::trades::TradeFiles;
use crate::insights::{Insights, Scope, html, read};
use crate::kafka::KafkaSettings;
use crate::lease::Lease;
use crate::local::LocalSettings;
use crate::produce::{Ended, Event, Plan, ProduceError, Sink, Totals, run_to_end};
use crate::shutdown::joined;
use crate::terminal::say;
use crate::trial::scene::servers::Servers;
use crate::trial::scene::{Scene, TrialSource, Wanted, in_half, together};
use crate::trial::workers::{WorkerEndpoints, Workers};
use crate::trial::{
    Checked, Display, Duty, Ledger, Progress, Puts, STUCK_AFTER, TrialError, VerifyError, Watch, folder,
    verify_streams,
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
    folder::prepare(&plan.dir, &["lake", "logs"])?;
    let (lake, logs) = (plan.dir.join("lake"), plan.dir.join("logs"));
    // As at AWS: by HTTP/2 over TLS.
    let ca_file = plan.source.retrieval().map(|_| plan.dir.join("test-ca.pem"));
    let settings = LocalSettings {
        ttl_sweep: Duration::from_secs(2),
        ca_file,
        dynamodb_stream_shards: plan.shards,
        ..LocalSettings::default()
    };
    let servers = Servers::start(settings, &WorkerEndpoints::default(), None).await?;
    let wanted = Wanted {
        application: APPLICATION,
        name: if plan.source.of_tables() { TABLE } else { STREAM },
        sources: &[plan.source],
        count: plan.streams,
        shards: plan.shards,
        packed: None,
        tables: Some(TABLE),
        kafka: plan.kafka.as_ref(),
    };
    let scene = Scene::set(servers, wanted).await?;
    let mut workers = Workers::new(scene.worker(lake.display().to_string(), logs.clone()));
    for _ in 0..plan.workers {
        workers.start()?;
    }
    let shards = match plan.streams {
        1 => format!("{} shards", plan.shards),
        streams => format!("{streams} streams of {} shards", plan.shards),
    };
    let dynamodb = scene.servers.endpoints.dynamodb.as_deref().unwrap_or_default();
    let through = plan.source.service();
    let at = plan.source.endpoint(&scene.servers.endpoints).unwrap_or_default();
    match &plan.kafka {
        Some(kafka) => say(format!("trades ─► {through} ({}, {shards})", kafka.bootstrap)),
        None => say(format!("trades ─► DynamoDB ({dynamodb}) ─► {through} ({at}, {shards})")),
    }
    say(format!("       ─► {} worker processes ─► lake in {}", plan.workers, lake.display()));

    let ledger = Ledger::new(scene.names().iter().map(Puts::of).collect());
    let run = Run {
        scene: &scene,
        ledger: &ledger,
        watch: Watch::new(&scene, ledger.clone()),
        mishaps: Mishaps::new(records(&plan).unwrap_or(100_000), plan.kill, plan.reshard),
        plan: &plan,
        logs,
    };
    let playing = run.until_delivered(&mut workers);
    let Some(done) = cancel.run_until_cancelled(playing).await else {
        return scene.interrupted(lake.display().to_string(), workers.drain()).await;
    };
    let mut done = done?;
    if !plan.keep_running {
        workers.drain().await?;
    }
    say("reading the lake back");
    let store = LocalFileSystem::new_with_prefix(&lake).map_err(VerifyError::Store)?;
    let root = object_store::path::Path::default();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let Checked { all, each } =
        verify_streams(Arc::clone(&store), &root, scene.with_tables(ledger.close()).await?, |_, _| {})
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
    scene.strike().await;
    Ok(done)
}

struct Run<'a> {
    scene: &'a Scene,
    ledger: &'a Ledger,
    watch: Watch,
    mishaps: Mishaps,
    plan: &'a DemoPlan,
    logs: PathBuf,
}

impl Run<'_> {
    /// Generates, watches and does mischief until every record is below a checkpoint.
    async fn until_delivered(mut self, workers: &mut Workers) -> Result<Summary, TrialError> {
        let started = Instant::now();
        let mut summary = Summary::default();
        let plan = self.plan;
        let mut display = Display::new(records(plan).unwrap_or(0));
        let mut generating =
            self.ledger.flow(self.scene, (Duty::Required, plan.seed), |stream, seed, sink| {
                generate(plan.clone(), stream, seed, sink).map(Ok)
            });
        let mut done = Done::default();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_put = false;
        loop {
            tokio::select! {
                biased;
                Some(generated) = generating.join_next() => {
                    done.add(joined(generated).await?.1);
                    if !generating.is_empty() {
                        continue;
                    }
                    let Done { totals, error } = std::mem::take(&mut done);
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
            let progress = Progress::sum(&self.watch.look().await);
            let Progress { put, delivered, .. } = progress;
            let lag_ms = progress.lag_ms(wall_clock_us());
            summary.max_delivered_age_ms = summary.max_delivered_age_ms.max(lag_ms);
            let owners = owners(self.watch.leases());
            let moved = display.show(&progress, all_put, readers(&owners), workers).await;
            // Once everything is put, what has not happened yet happens now.
            let due = if all_put { u64::MAX } else { put };
            while let Some(mishap) = self.mishaps.due(due) {
                let reads = owners.iter().filter(|(owner, _)| !owner.is_empty()).max_by_key(|(_, n)| **n);
                let busiest = reads.map(|(owner, _)| owner.as_str());
                let happened = self.happen(mishap, busiest, workers, &mut summary).await?;
                display.say(&happened);
            }
            if all_put && delivered == put && self.mishaps.over() {
                display.end();
                summary.seconds = started.elapsed().as_secs_f64();
                return Ok(summary);
            }
            if moved.elapsed() > STUCK_AFTER && put > delivered {
                return Err(display.stuck(&progress, self.logs));
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

/// Unfinished leases by owner; `""` for those without one.
fn owners(leases: &[Lease]) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for lease in leases.iter().filter(|lease| !lease.finished()) {
        let owner = lease.owner.as_ref().map_or("", |owner| owner.as_str());
        *owners.entry(owner.to_owned()).or_default() += 1;
    }
    owners
}

/// Who reads, in words.
fn readers(owners: &BTreeMap<String, usize>) -> String {
    let nobody = |owner: &str| if owner.is_empty() { "nobody".to_owned() } else { owner.to_owned() };
    let owners = owners.iter().map(|(owner, leases)| format!("{}:{leases}", nobody(owner)));
    let owners = owners.collect::<Vec<_>>().join(" ");
    format!("shards {}", if owners.is_empty() { "not taken yet" } else { &owners })
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

async fn generate(plan: DemoPlan, stream: usize, seed: u64, sink: Sink) -> Ended {
    let source = if plan.trades.is_empty() {
        let mix = Mix {
            ttl_rate: TTL_RATE,
            odd_values: plan.odd_values,
            trade_gap_ms: trade_gap_ms(plan.records),
            ..Mix::default()
        };
        Source::Synthetic(Box::new(Synthetic::new(seed, mix)))
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
    run_to_end(amount, source, sink, show, CancellationToken::new()).await
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
