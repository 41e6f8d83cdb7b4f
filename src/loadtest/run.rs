//! A run from start to verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::LoadPlan;
use super::chaos::{Chaos, Timetable};
use super::crew::Crew;
use super::error::LoadError;
use super::follow::Follow;
use super::ledger::{Finished, Ledger, Progress, Since};
use super::mischief::Mischief;
use super::prepare::{Begin, check_wishes, prepare};
use super::readers::{Held, Readers};
use super::stage::Stage;
use super::verdict::{LatencyMs, Requests, Sample, Verdict};
use crate::aws::StreamAddress;
use crate::clock::wall_clock_us;
use crate::deliver::LakeUrl;
use crate::generate::kinesis::{Receipt, StreamWriter};
use crate::generate::synthetic::{Mix, Synthetic};
use crate::generate::{self, Plan, Ramp, Sink, Source, Totals, envelope};
use crate::lease::{Lease, LeaseTable};
use crate::shard::graph::ready;
use crate::shard::{Checkpoint, ShardId};
use crate::shutdown::joined;
use crate::terminal::say;
use crate::trial::workers::{WorkerEndpoints, WorkerSettings};
use crate::trial::{Complaints, Display, LakeCheck, VerifyError, verify, verify_foreign};

/// Short, so that a minute shows what takes a day in production.
const BATCH_AGE: Duration = Duration::from_secs(2);
const FAILOVER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Without any progress for this long something is wrong.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// Another consumer has this long, after the last record that it wrote, for those that it has not: then they are missing.
/// Long enough for one whose leases last for half a minute, and are taken over after three times that.
const PATIENCE: Duration = Duration::from_secs(180);
/// And this long, at most, until all its shards are read for the first time. The Java KCL lets up to half a minute pass
/// before it fills an empty lease table.
const WARM_UP_MAX: Duration = Duration::from_secs(120);
/// So many workers that end by themselves without any progress are not worth another.
const HOPELESS: usize = 20;
/// Share of the records that no consumer can decode, so that dead letters go through the same fire.
const BAD_RATE: f64 = 0.001;
/// Workers that do not start together start so far apart.
const STARTS_APART: Duration = Duration::from_millis(1500);
/// What is put before the application begins, where there is such a time.
const FIRST_RECORDS: Duration = Duration::from_secs(2);
/// Records in the lake for this long are forgotten by the embedded stream, as retention would.
const KEPT_US: i64 = 60_000_000;

/// Runs the load test: servers, workers, producer, faults, drain, check.
///
/// # Errors
/// See [`LoadError`].
pub async fn run(mut plan: LoadPlan, cancel: CancellationToken) -> Result<Verdict, LoadError> {
    let name = format!("loadtest-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    if plan.worker_command.is_some() {
        for kind in plan.chaos.0.extract_if(.., |kind| kind.needs_own_worker()) {
            say(format!("--chaos {kind} does not work with --worker-command: left out"));
        }
    }
    check_wishes(&plan)?;
    let (lake, logs) = prepare(&plan, &name)?;
    let full_disk_survivable = plan.chaos.0.contains(&Chaos::DiskFull) && matches!(lake, LakeUrl::Folder(_));
    let mut stage = Box::pin(Stage::set(&plan, &name, lake)).await?;
    let (store, root) = stage.lake_store().await?;
    let listed = store.list_with_delimiter(Some(&root)).await;
    listed.map_err(|error| LoadError::server(format!("lake {}", stage.lake), error))?;
    let mut crew = Crew::new(WorkerSettings {
        stream: stage.stream.clone(),
        application: stage.application.clone(),
        lake: stage.lake.to_string(),
        region: stage.region(),
        endpoints: WorkerEndpoints::default(),
        batch_age: BATCH_AGE,
        failover: FAILOVER,
        initial_position: plan.initial.as_ref().map(|(text, _)| text.clone()),
        clock_offset_s: 0,
        full_disk_survivable,
        command: plan.worker_command.clone(),
        logs,
    });
    let begin = plan.initial.as_ref().map(|_| Begin::of(plan.seed));
    // The others follow one by one.
    let first = match begin {
        None => plan.workers,
        Some(Begin::Before) => 1,
        Some(Begin::Amid | Begin::After) => 0,
    };
    for _ in 0..first {
        crew.start(&mut stage, 0).await?;
    }
    say(format!(
        "producer ─► stream {} ({} shards) ─► {} worker processes",
        stage.stream, plan.shards, plan.workers
    ));
    say(format!("       ─► lake in {}; logs in {}", stage.lake, plan.dir.join("logs").display()));

    let leases: Arc<dyn LeaseTable> = Arc::new(stage.leases());
    let ledger = Ledger::default();
    let mut begun = true;
    if let Some((_, Checkpoint::Latest)) = plan.initial {
        ledger.counts_from(if first > 0 { Since::Beginning } else { Since::NotYet });
        begun = false;
    }
    let mut run = Run {
        follow: plan.worker_command.is_some().then(|| Follow::new(store, root, ledger.clone())),
        mischief: Mischief::new(plan.seed, plan.shards, Instant::now()),
        timetable: Timetable::new(&plan.chaos, plan.chaos_every),
        chaos_rng: ChaCha8Rng::seed_from_u64(plan.seed),
        started: Instant::now(),
        to_start: plan.workers - first,
        next_start: Instant::now() + STARTS_APART,
        begin,
        begun,
        plan: &plan,
        stage,
        crew,
        ledger,
        finished: Finished::default(),
        readers: Readers::new(FAILOVER),
        samples: Vec::new(),
        lag_ms_max: 0,
        unread_ms_otherwise: 0,
        ended_by_themselves: Vec::new(),
    };
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        done = run.until_delivered(leases) => Some(done),
    };
    run.mischief.heal_all(&mut run.crew, &run.stage);
    let Some(done) = done else {
        say("interrupted: draining the workers; interrupt again to kill them");
        run.crew.drain().await?;
        run.stage.strike().await;
        return Err(LoadError::Interrupted);
    };
    let (totals, seconds) = done?;
    if let Err(error) = run.crew.drain().await {
        run.ended_by_themselves.push(error.to_string());
    }
    run.judge(&totals, seconds).await
}

struct Run<'a> {
    plan: &'a LoadPlan,
    stage: Stage,
    crew: Crew,
    ledger: Ledger,
    /// Where another consumer runs.
    follow: Option<Follow>,
    finished: Finished,
    timetable: Timetable,
    /// Of the timetable alone, so that the same seed gives the same faults whatever became of the last one.
    chaos_rng: ChaCha8Rng,
    mischief: Mischief,
    readers: Readers,
    started: Instant,
    /// Workers that are yet to be started, and when the next one is.
    to_start: usize,
    next_start: Instant,
    begin: Option<Begin>,
    /// Every shard has had a lease: what is put from now on must be in the lake.
    begun: bool,
    samples: Vec<Sample>,
    lag_ms_max: u64,
    unread_ms_otherwise: u64,
    ended_by_themselves: Vec<String>,
}

impl Run<'_> {
    /// Puts, watches and does mischief until every record is below a checkpoint. Answers what was put and how long all
    /// of it took.
    async fn until_delivered(&mut self, table: Arc<dyn LeaseTable>) -> Result<(Totals, f64), LoadError> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a guess for a bar")]
        let expected = (self.plan.rate.midpoint(self.plan.ramp_to.unwrap_or(self.plan.rate))
            * self.plan.duration.as_secs_f64()) as u64;
        let expected = self.plan.records.map_or(expected, |records| records.min(expected));
        let mut display = Display::new(expected);
        self.warm_up(&display).await?;
        if self.begin == Some(Begin::After) {
            self.put_first(&display, table.as_ref()).await?;
        }
        let mut entering = JoinSet::new();
        let mut putting = JoinSet::new();
        let writer = self.writer(self.ledger.open(&mut entering));
        putting.spawn(put(self.plan.clone(), writer, self.started));
        let mut totals: Option<Totals> = None;
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flowing = JoinSet::new();
        let enough = CancellationToken::new();
        let mut all_put: Option<Instant> = None;
        let mut moved = (Instant::now(), 0);
        let mut complaints = Complaints::default();
        let mut leases = Vec::new();
        let mut hopeless = 0;
        let done = loop {
            tokio::select! {
                biased;
                Some(done) = putting.join_next() => {
                    let done = joined(done).await?;
                    while let Some(entered) = entering.join_next().await {
                        joined(entered).await?;
                    }
                    display.say(&format!("all records put: {}; no more faults", done.written));
                    self.mischief.heal_all(&mut self.crew, &self.stage);
                    totals = Some(done);
                    all_put = Some(Instant::now());
                    if self.follow.is_some() {
                        let writer = self.writer(self.ledger.open_optional(&mut entering));
                        flowing.spawn(flow_on(self.plan.clone(), writer, enough.clone()));
                    }
                }
                Some(entered) = entering.join_next() => joined(entered).await?,
                Some(flowed) = flowing.join_next() => joined(flowed).await.map(|_| ())?,
                _ = ticks.tick() => {}
            }
            self.start_next(&display).await?;
            hopeless += self.replace_ended(&display).await?;
            if hopeless > HOPELESS {
                display.end();
                return Err(LoadError::Hopeless { logs: self.plan.dir.join("logs") });
            }
            let (progress, held) = match &self.follow {
                Some(follow) => follow.look(Instant::now()),
                None => {
                    // The first worker makes the table; later, a server that does not answer leaves things as they
                    // were seen.
                    if let Ok(seen) = table.snapshot().await {
                        leases = seen.leases;
                    }
                    self.note_beginning(&leases, &display);
                    self.look(&leases)
                }
            };
            self.note(&progress);
            let mut line = self.line(&progress);
            if progress.put > progress.delivered
                && let Some(text) = complaints.while_still(progress.delivered, self.crew.workers()).await
            {
                line = format!("{line}  {text}");
            }
            display.show(progress.delivered, progress.put, totals.is_some(), &line);
            let begun = self.begun && self.to_start == 0;
            if let Some(totals) = totals.take_if(|_| begun && progress.delivered == progress.put) {
                break (totals, self.started.elapsed().as_secs_f64());
            }
            for said in self.mischief.heal(&held, &mut self.crew, &self.stage)? {
                display.say(&said);
            }
            // A fault before the beginning would leave open what must be in the lake.
            if totals.is_none()
                && self.begun
                && self.to_start == 0
                && let Some(kind) = self.timetable.due(self.started.elapsed(), &mut self.chaos_rng)
            {
                let (crew, stage) = (&mut self.crew, &mut self.stage);
                if let Some(said) = self.mischief.happen(kind, &held, crew, stage).await? {
                    display.say(&said);
                }
            }
            if progress.delivered != moved.1 {
                moved = (Instant::now(), progress.delivered);
                hopeless = 0;
            } else if self.follow.is_some() {
                let quiet = all_put.is_some_and(|at| at.max(moved.0).elapsed() > PATIENCE);
                if let Some(totals) = totals.take_if(|_| quiet) {
                    let left = progress.put - progress.delivered;
                    let patience = PATIENCE.as_secs();
                    display
                        .say(&format!("no new record for {patience} s, {left} records are not in the lake"));
                    break (totals, self.started.elapsed().as_secs_f64());
                }
            } else if moved.0.elapsed() > STUCK_AFTER && (progress.put > progress.delivered || !begun) {
                display.end();
                let left = progress.put - progress.delivered;
                let (logs, cause) = (self.plan.dir.join("logs"), complaints.cause());
                return Err(LoadError::Stuck { after: STUCK_AFTER, left, logs, cause });
            }
        };
        display.end();
        // What flowed on must be known before the lake is read.
        enough.cancel();
        flowed(flowing, entering).await?;
        Ok(done)
    }

    /// Lets another consumer begin: records flow, which do not count, until some of each shard are in the lake. Then the
    /// run begins.
    async fn warm_up(&mut self, display: &Display) -> Result<(), LoadError> {
        let Some(follow) = self.follow.take() else { return Ok(()) };
        let (mut entering, mut flowing) = (JoinSet::new(), JoinSet::new());
        let enough = CancellationToken::new();
        let writer = self.writer(self.ledger.open_optional(&mut entering));
        flowing.spawn(flow_on(self.plan.clone(), writer, enough.clone()));
        let shards = usize::try_from(self.plan.shards).unwrap_or(usize::MAX);
        let mut ended = 0;
        while follow.shards() < shards && self.started.elapsed() < WARM_UP_MAX {
            sleep(LOOK_EVERY).await;
            ended += self.replace_ended(display).await?;
            if ended > HOPELESS {
                return Err(LoadError::Hopeless { logs: self.plan.dir.join("logs") });
            }
        }
        enough.cancel();
        flowed(flowing, entering).await?;
        let took = self.started.elapsed().as_secs_f64();
        display.say(&format!("{} of {shards} shards are read after {took:.1} s", follow.shards()));
        self.started = Instant::now();
        self.mischief = Mischief::new(self.plan.seed, self.plan.shards, self.started);
        self.follow = Some(follow);
        Ok(())
    }

    /// Records from before the application, on a stream that nobody reads; then the first worker, until it has begun.
    async fn put_first(&mut self, display: &Display, table: &dyn LeaseTable) -> Result<(), LoadError> {
        let (mut entering, mut putting) = (JoinSet::new(), JoinSet::new());
        let writer = self.writer(self.ledger.open(&mut entering));
        let plan = LoadPlan { duration: FIRST_RECORDS, ramp_to: None, ..self.plan.clone() };
        putting.spawn(put(plan, writer, Instant::now()));
        flowed(putting, entering).await?;
        self.started = Instant::now();
        self.next_start = Instant::now();
        self.start_next(display).await?;
        while !self.begun {
            if self.started.elapsed() > STUCK_AFTER {
                let logs = self.plan.dir.join("logs");
                return Err(LoadError::Stuck { after: STUCK_AFTER, left: 0, logs, cause: String::new() });
            }
            sleep(LOOK_EVERY).await;
            self.replace_ended(display).await?;
            if let Ok(seen) = table.snapshot().await {
                self.note_beginning(&seen.leases, display);
            }
        }
        self.started = Instant::now();
        self.mischief = Mischief::new(self.plan.seed, self.plan.shards, self.started);
        Ok(())
    }

    /// Starts the next worker, if it is time.
    async fn start_next(&mut self, display: &Display) -> Result<(), LoadError> {
        if self.to_start == 0 || Instant::now() < self.next_start {
            return Ok(());
        }
        self.to_start -= 1;
        self.next_start = Instant::now() + STARTS_APART;
        if !self.begun {
            self.ledger.counts_from(Since::Beginning);
        }
        let id = self.crew.start(&mut self.stage, 0).await?;
        display.say(&format!("{id} starts"));
        Ok(())
    }

    /// The application has begun when every shard has a lease.
    fn note_beginning(&mut self, leases: &[Lease], display: &Display) {
        if self.begun || leases.len() < usize::try_from(self.plan.shards).unwrap_or(usize::MAX) {
            return;
        }
        self.begun = true;
        self.ledger.counts_from(Since::Begun(wall_clock_us()));
        display.say("every shard has a lease: records put from now on must be in the lake");
    }

    fn writer(&self, receipts: mpsc::Sender<Vec<Receipt>>) -> StreamWriter {
        let table =
            envelope::Table { name: "CryptoTransactions".to_owned(), region: self.stage.region_name.clone() };
        let writer = StreamWriter::new(
            self.stage.kinesis(),
            StreamAddress::named(&self.stage.stream),
            table,
            self.plan.seed,
        );
        writer.with_receipts(receipts)
    }

    /// A worker that ends by itself is started again, as ECS would. Answers how many there were.
    async fn replace_ended(&mut self, display: &Display) -> Result<usize, LoadError> {
        let mut replaced = 0;
        for ended in self.crew.ended() {
            if ended.told && ended.status.success() {
                continue;
            }
            let what = if ended.told { "did not drain cleanly" } else { "exited unexpectedly" };
            let text = format!("{} {what} ({})", ended.id, ended.status);
            display.say(&text);
            self.ended_by_themselves.push(text);
            if !ended.told {
                self.crew.start(&mut self.stage, 0).await?;
                replaced += 1;
            }
        }
        Ok(replaced)
    }

    /// Takes in one look at the lease table; answers how far the workers are, and who holds what is not finished.
    fn look(&mut self, leases: &[Lease]) -> (Progress, Vec<Held>) {
        let by_key: BTreeMap<&ShardId, &Lease> =
            leases.iter().map(|lease| (lease.key.shard(), lease)).collect();
        let progress = self.ledger.progress(&by_key, &mut self.finished);
        let held = |lease: &&Lease| Held {
            shard: lease.key.shard().clone(),
            owner: lease.owner.as_ref().map(|owner| owner.as_str().to_owned()),
            counter: lease.counter,
        };
        let unfinished: Vec<&Lease> = leases.iter().filter(|lease| !lease.finished()).collect();
        let to_read: Vec<Held> = unfinished
            .iter()
            .filter(|lease| ready(&lease.parents, |parent| by_key.get(parent).map(|lease| &lease.checkpoint)))
            .map(held)
            .collect();
        let now = Instant::now();
        let crew = &self.crew;
        let gaps = self.readers.look(now, &to_read, |id| crew.reads(id), |owner| crew.blame(owner, now));
        for gap in gaps {
            let length = u64::try_from(gap.length.as_millis()).unwrap_or(u64::MAX);
            match gap.fault {
                Some(fault) => self.mischief.unread(fault, length),
                None => self.unread_ms_otherwise = self.unread_ms_otherwise.max(length),
            }
        }
        (progress, unfinished.iter().map(held).collect())
    }

    /// Keeps what one look has shown.
    fn note(&mut self, progress: &Progress) {
        let lag_us = progress.oldest_us.map_or(0, |oldest| wall_clock_us() - oldest);
        let lag_ms = u64::try_from(lag_us / 1_000).unwrap_or(0);
        self.lag_ms_max = self.lag_ms_max.max(lag_ms);
        let seconds = self.started.elapsed().as_secs_f64();
        if self.samples.last().is_none_or(|last| seconds - last.seconds >= SAMPLE_EVERY.as_secs_f64()) {
            self.samples.push(Sample {
                seconds,
                put: progress.put,
                delivered: progress.delivered,
                lag_ms,
                unread: self.readers.unread(),
            });
            self.crew.measure();
            // Where another consumer has its checkpoint is not known: it may come back for anything.
            if self.follow.is_none() {
                let oldest = progress.oldest_us.unwrap_or_else(wall_clock_us);
                self.stage.forget_before(oldest - KEPT_US);
            }
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let lag = progress.oldest_us.map_or(0, |oldest| (wall_clock_us() - oldest) / 100_000);
        let workers = self.crew.healthy().len();
        let unread = match self.readers.unread() {
            0 => String::new(),
            shards => format!("  {shards} shards not read"),
        };
        format!(
            "lag {}.{} s  {workers} workers  {} faults{unread}",
            lag / 10,
            lag % 10,
            self.mischief.faults().len()
        )
    }

    /// Reads the lake back.
    async fn judge(mut self, totals: &Totals, seconds: f64) -> Result<Verdict, LoadError> {
        say("reading the lake back");
        self.follow = None;
        let (store, root) = self.stage.lake_store().await?;
        let mut shown = Instant::now();
        let shown = |read, all| {
            if shown.elapsed() > Duration::from_secs(2) {
                shown = Instant::now();
                say(format!("{read} of {all} objects read"));
            }
        };
        let puts = self.ledger.clone().close();
        let lake = match &self.plan.worker_command {
            None => verify(store, &root, puts, None, shown).await?,
            Some(_) => verify_foreign(store, &root, puts, shown).await?,
        };
        let requests = requests(&self.stage, lake.records_put);
        self.stage.strike().await;
        let latency = |percent| lake.latencies.percentile(percent);
        let counts = self.mischief.counts();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let per_second = |seconds: f64| lake.records_put as f64 / seconds.max(f64::MIN_POSITIVE);
        let (exactly_once, no_verdict) =
            super::verdict::exactly_once(lake.ok(), totals.written, lake.records_put);
        Ok(Verdict {
            worker_command: self.plan.worker_command.clone(),
            seed: self.plan.seed,
            put: lake.records_put,
            delivered: lake.records_put - lake.missing,
            dead_letters: lake.dead_letters,
            missing: lake.missing,
            duplicated: lake.duplicated,
            exactly_once,
            no_verdict,
            resent: totals.resent,
            put_seconds: totals.seconds,
            seconds,
            put_per_second: per_second(totals.seconds),
            delivered_per_second: per_second(seconds),
            latency_ms: LatencyMs { p50: latency(50), p99: latency(99), max: latency(100) },
            lag_ms_max: self.lag_ms_max,
            workers_killed: counts.killed,
            zombies: counts.zombies,
            reshards: counts.reshards,
            ended_by_themselves: self.ended_by_themselves,
            faults: self.mischief.into_faults(),
            unread_ms_otherwise: self.unread_ms_otherwise,
            requests,
            workers: self.crew.uses(),
            samples: self.samples,
            lake: LakeCheck { latencies: Default::default(), ..lake },
        })
    }
}

/// Puts records until the time or the records are over.
async fn put(
    plan: LoadPlan,
    writer: StreamWriter,
    started: Instant,
) -> Result<Totals, generate::GenerateError> {
    let mix = Mix { bad_rate: BAD_RATE, ..Mix::default() };
    let source = Source::Synthetic(Box::new(Synthetic::new(plan.seed, mix)));
    let amount = Plan {
        records: plan.records,
        rate: Some(plan.rate),
        ramp: plan.ramp_to.map(|to| Ramp { to, over: plan.duration }),
    };
    let time_is_up = CancellationToken::new();
    let putting = generate::run(amount, source, Sink::Stream(Arc::new(writer)), |_| {}, time_is_up.clone());
    let mut putting = std::pin::pin!(putting);
    tokio::select! {
        done = &mut putting => return done,
        () = tokio::time::sleep_until(started + plan.duration) => time_is_up.cancel(),
    }
    putting.await
}

/// Waits for the end of what flowed, and of what is known about it.
async fn flowed(
    mut flowing: JoinSet<Result<Totals, generate::GenerateError>>,
    mut entering: JoinSet<Result<(), VerifyError>>,
) -> Result<(), LoadError> {
    while let Some(flowed) = flowing.join_next().await {
        joined(flowed).await?;
    }
    while let Some(entered) = entering.join_next().await {
        joined(entered).await?;
    }
    Ok(())
}

/// Keeps the stream moving, a few records a second for each shard: a stream does not end in production, and some
/// consumers close a batch by the record that comes after it.
async fn flow_on(
    plan: LoadPlan,
    writer: StreamWriter,
    enough: CancellationToken,
) -> Result<Totals, generate::GenerateError> {
    let source = Source::Synthetic(Box::new(Synthetic::new(plan.seed.wrapping_add(1), Mix::default())));
    let amount = Plan { records: None, rate: Some(f64::from(plan.shards) * 4.0), ramp: None };
    generate::run(amount, source, Sink::Stream(Arc::new(writer)), |_| {}, enough).await
}

fn requests(stage: &Stage, records: u64) -> Vec<Requests> {
    let mut found: Vec<Requests> = Vec::new();
    for ((service, operation), count) in stage.network.counts() {
        if found.last().is_none_or(|last| last.service != service) {
            let (requests, struck, per_million_records) = (0, 0, 0);
            found.push(Requests { service, requests, struck, per_million_records, operations: Vec::new() });
        }
        let Some(of_service) = found.last_mut() else { continue };
        of_service.requests += count.requests;
        of_service.struck += count.struck;
        of_service.operations.push((operation, count.requests));
    }
    for of_service in &mut found {
        of_service.per_million_records = of_service.requests * 1_000_000 / records.max(1);
    }
    found
}
