//! A run from start to verdict.

use std::collections::HashMap;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::LoadPlan;
use super::chaos::{Chaos, Timetable};
use super::crew::Crew;
use super::follow::Follow;
use super::mischief::Mischief;
use super::prepare::{Begin, check_wishes, prepare, settings};
use super::producer;
use super::readers::{Held, Readers};
use super::stage::Stage;
use super::verdict::{Sample, StreamSample};
use crate::clock::wall_clock_us;
use crate::deliver::LakeUrl;
use crate::lease::{Lease, LeaseKey};
use crate::produce::Totals;
use crate::shard::Checkpoint;
use crate::shard::graph::ready;
use crate::shutdown::joined;
use crate::terminal::say;
use crate::trial::workers::{FAILOVER, WorkerSettings};
use crate::trial::{Display, Flow, Ledger, Progress, Puts, STUCK_AFTER, Since, TrialError, Watch};

const LOOK_EVERY: Duration = Duration::from_millis(200);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Another consumer has this long, after the last record that it wrote, for those that it has not: then they are missing.
/// Long enough for one whose leases last for half a minute, and are taken over after three times that.
const PATIENCE: Duration = Duration::from_secs(180);
/// And this long, at most, until all its shards are read for the first time. The Java KCL lets up to half a minute pass
/// before it fills an empty lease table.
const WARM_UP_MAX: Duration = Duration::from_secs(120);
/// So many workers that end by themselves without any progress are not worth another.
const HOPELESS: usize = 20;
/// Workers that do not start together start so far apart.
const STARTS_APART: Duration = Duration::from_millis(1500);
/// What is put before the application begins, where there is such a time.
const FIRST_RECORDS: Duration = Duration::from_secs(2);
/// Records in the lake for this long are forgotten by the embedded stream, as retention would.
const KEPT_US: i64 = 60_000_000;

/// Servers, workers, producer, faults, drain. Answers what was seen, what was put into each stream, and how long all of it
/// took.
pub(super) async fn play(
    plan: &LoadPlan,
    cancel: CancellationToken,
) -> Result<(Run<'_>, Vec<Totals>, f64), TrialError> {
    let name = format!("loadtest-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    check_wishes(plan)?;
    let (lake, logs) = prepare(plan, &name)?;
    let full_disk_survivable = plan.chaos.0.contains(&Chaos::DiskFull) && matches!(lake, LakeUrl::Folder(_));
    let mut stage = Box::pin(Stage::set(plan, &name, lake)).await?;
    let settings = settings(plan, &stage.scene.worker_streams())?;
    let (store, root) = stage.lake_store().await?;
    let listed = store.list_with_delimiter(Some(&root)).await;
    listed.map_err(|error| TrialError::server(format!("lake {}", stage.lake), error))?;
    let mut crew = Crew::new(WorkerSettings {
        initial_position: plan.initial.as_ref().map(|(text, _)| text.clone()),
        settings,
        full_disk_survivable,
        command: plan.worker_command.clone(),
        ..stage.scene.worker(stage.lake.to_string(), logs)
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
        "producer ─► {} {} ({} shards{}) ─► {} worker processes",
        if plan.streams() > 1 { "streams" } else { "stream" },
        stage.scene.names().join(", "),
        plan.shards,
        if plan.streams() > 1 { " each" } else { "" },
        plan.workers
    ));
    say(format!("       ─► lake in {}; logs in {}", stage.lake, plan.dir.join("logs").display()));

    let ledger = Ledger::new(match &stage.scene.names()[..] {
        // What is alone needs no name.
        [_] => vec![Puts::default()],
        names => names.iter().map(Puts::of).collect(),
    });
    let mut begun = true;
    if let Some((_, Checkpoint::Latest)) = plan.initial {
        ledger.counts_from(if first > 0 { Since::Beginning } else { Since::NotYet });
        begun = false;
    }
    let mut run = Run {
        follow: plan.worker_command.is_some().then(|| Follow::new(store, root, ledger.clone())),
        mischief: Mischief::new(plan, Instant::now()),
        timetable: Timetable::new(&plan.chaos, plan.chaos_every),
        chaos_rng: ChaCha8Rng::seed_from_u64(plan.seed),
        started: Instant::now(),
        to_start: plan.workers - first,
        next_start: Instant::now() + STARTS_APART,
        begin,
        begun,
        plan,
        watch: Watch::new(&stage.scene, ledger.clone()),
        stage,
        crew,
        ledger,
        readers: Readers::new(FAILOVER),
        samples: Vec::new(),
        lag_ms_max: vec![0; plan.streams()],
        unread_ms_otherwise: 0,
        ended_by_themselves: Vec::new(),
    };
    let done = cancel.run_until_cancelled(run.until_delivered()).await;
    run.mischief.heal_all(&mut run.crew, &run.stage);
    let back = run.mischief.brokers_are_back().await;
    let Some(done) = done else {
        return run.stage.scene.interrupted(run.stage.lake.to_string(), run.crew.drain()).await;
    };
    let (totals, seconds) = done?;
    back?;
    if let Err(error) = run.crew.drain().await {
        run.ended_by_themselves.push(error.to_string());
    }
    Ok((run, totals, seconds))
}

/// A run, and what was seen of it.
pub(super) struct Run<'a> {
    pub(super) plan: &'a LoadPlan,
    pub(super) stage: Stage,
    pub(super) crew: Crew,
    pub(super) ledger: Ledger,
    /// Where another consumer runs.
    pub(super) follow: Option<Follow>,
    watch: Watch,
    timetable: Timetable,
    /// Of the timetable alone, so that the same seed gives the same faults whatever became of the last one.
    chaos_rng: ChaCha8Rng,
    pub(super) mischief: Mischief,
    readers: Readers,
    started: Instant,
    /// Workers that are yet to be started, and when the next one is.
    to_start: usize,
    next_start: Instant,
    begin: Option<Begin>,
    /// Every shard has had a lease: what is put from now on must be in the lake.
    begun: bool,
    pub(super) samples: Vec<Sample>,
    /// Of each stream.
    pub(super) lag_ms_max: Vec<u64>,
    pub(super) unread_ms_otherwise: u64,
    pub(super) ended_by_themselves: Vec<String>,
}

impl Run<'_> {
    /// Puts, watches and does mischief until every record is below a checkpoint. Answers what was put into each stream,
    /// and how long all of it took.
    async fn until_delivered(&mut self) -> Result<(Vec<Totals>, f64), TrialError> {
        let mut display = Display::new(self.plan.expected());
        self.warm_up(&display).await?;
        if self.begin == Some(Begin::After) {
            self.put_first(&display).await?;
        }
        let mut putting = producer::put(&self.ledger, &self.stage.scene, self.plan, self.started);
        let mut totals = vec![Totals::default(); self.plan.streams()];
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flowing = Flow::new();
        let enough = CancellationToken::new();
        let mut all_put: Option<Instant> = None;
        let (mut known, mut hopeless) = (self.started, 0);
        let done = loop {
            tokio::select! {
                biased;
                Some(done) = putting.join_next() => {
                    let (stream, done) = joined(done).await?;
                    totals[stream] = done;
                    if putting.is_empty() {
                        let written: u64 = totals.iter().map(|totals| totals.written).sum();
                        display.say(&format!("all records put: {written}; no more faults"));
                        self.mischief.heal_all(&mut self.crew, &self.stage);
                        all_put = Some(Instant::now());
                        if self.follow.is_some() {
                            flowing = self.flow_on(&enough);
                        }
                    }
                }
                Some(flowed) = flowing.join_next() => joined(flowed).await.map(|_| ())?,
                _ = ticks.tick() => {}
            }
            self.start_next(&display).await?;
            hopeless += self.replace_ended(&display).await?;
            if hopeless > HOPELESS {
                display.end();
                return Err(TrialError::Hopeless { logs: self.plan.dir.join("logs") });
            }
            let (each, held) = match &self.follow {
                Some(follow) => {
                    let (progress, held) = follow.look(Instant::now());
                    (vec![progress], held)
                }
                None => {
                    let each = self.watch.look().await;
                    self.note_beginning(&display);
                    (each, self.look_at_leases())
                }
            };
            let progress = Progress::sum(&each);
            self.note(&each);
            let moved = display.show(&progress, all_put.is_some(), self.line(), self.crew.workers()).await;
            let begun = self.begun && self.to_start == 0;
            if all_put.is_some() && begun && progress.delivered == progress.put {
                break (totals, self.started.elapsed().as_secs_f64());
            }
            for said in self.mischief.heal(&held, &mut self.crew, &self.stage)? {
                display.say(&said);
            }
            // A fault before the beginning would leave open what must be in the lake.
            if all_put.is_none()
                && begun
                && let Some(kind) = self.timetable.due(self.started.elapsed(), &mut self.chaos_rng)
            {
                let (crew, stage) = (&mut self.crew, &mut self.stage);
                if let Some(said) = self.mischief.happen(kind, &held, crew, stage).await? {
                    display.say(&said);
                }
            }
            if moved != known {
                (known, hopeless) = (moved, 0);
            } else if self.follow.is_some() {
                let quiet = all_put.is_some_and(|at| at.max(moved).elapsed() > PATIENCE);
                if quiet {
                    let left = progress.put - progress.delivered;
                    let patience = PATIENCE.as_secs();
                    display
                        .say(&format!("no new record for {patience} s, {left} records are not in the lake"));
                    break (totals, self.started.elapsed().as_secs_f64());
                }
            } else if moved.elapsed() > STUCK_AFTER && (progress.put > progress.delivered || !begun) {
                return Err(display.stuck(&progress, self.plan.dir.join("logs")));
            }
        };
        display.end();
        // What flowed on must be known before the lake is read.
        enough.cancel();
        producer::over(flowing).await?;
        Ok(done)
    }

    /// Lets another consumer begin: records flow, which do not count, until some of each shard are in the lake. Then the
    /// run begins.
    async fn warm_up(&mut self, display: &Display) -> Result<(), TrialError> {
        let Some(follow) = self.follow.take() else { return Ok(()) };
        let enough = CancellationToken::new();
        let flowing = self.flow_on(&enough);
        let shards = usize::try_from(self.plan.shards).unwrap_or(usize::MAX);
        let mut ended = 0;
        while follow.shards() < shards && self.started.elapsed() < WARM_UP_MAX {
            sleep(LOOK_EVERY).await;
            ended += self.replace_ended(display).await?;
            if ended > HOPELESS {
                return Err(TrialError::Hopeless { logs: self.plan.dir.join("logs") });
            }
        }
        enough.cancel();
        producer::over(flowing).await?;
        let took = self.started.elapsed().as_secs_f64();
        display.say(&format!("{} of {shards} shards are read after {took:.1} s", follow.shards()));
        self.started = Instant::now();
        self.mischief = Mischief::new(self.plan, self.started);
        self.follow = Some(follow);
        Ok(())
    }

    /// Records from before the application, on a stream that nobody reads; then the first worker, until it has begun.
    async fn put_first(&mut self, display: &Display) -> Result<(), TrialError> {
        let first = self.plan.lasting(FIRST_RECORDS);
        producer::over(producer::put(&self.ledger, &self.stage.scene, &first, Instant::now())).await?;
        self.started = Instant::now();
        self.next_start = Instant::now();
        self.start_next(display).await?;
        while !self.begun {
            if self.started.elapsed() > STUCK_AFTER {
                return Err(display.stuck(&Progress::default(), self.plan.dir.join("logs")));
            }
            sleep(LOOK_EVERY).await;
            self.replace_ended(display).await?;
            self.watch.look().await;
            self.note_beginning(display);
        }
        self.started = Instant::now();
        self.mischief = Mischief::new(self.plan, self.started);
        Ok(())
    }

    fn flow_on(&self, enough: &CancellationToken) -> Flow<Totals> {
        producer::flow_on(&self.ledger, &self.stage.scene, self.plan, enough)
    }

    /// Starts the next worker, if it is time.
    async fn start_next(&mut self, display: &Display) -> Result<(), TrialError> {
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
    fn note_beginning(&mut self, display: &Display) {
        let shards = usize::try_from(self.plan.shards).unwrap_or(usize::MAX);
        if self.begun || self.watch.leases().len() < shards.saturating_mul(self.plan.streams()) {
            return;
        }
        self.begun = true;
        self.ledger.counts_from(Since::Begun(wall_clock_us()));
        display.say("every shard has a lease: records put from now on must be in the lake");
    }

    /// A worker that ends by itself is started again, as ECS would. Answers how many there were.
    async fn replace_ended(&mut self, display: &Display) -> Result<usize, TrialError> {
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

    /// Notes which shards are not read; answers who holds what is not finished.
    fn look_at_leases(&mut self) -> Vec<Held> {
        let leases = self.watch.leases();
        let by_key: HashMap<&LeaseKey, &Lease> = leases.iter().map(|lease| (&lease.key, lease)).collect();
        let held = |lease: &&Lease| Held {
            key: lease.key.clone(),
            owner: lease.owner.as_ref().map(|owner| owner.as_str().to_owned()),
            counter: lease.counter,
        };
        let unfinished: Vec<&Lease> = leases.iter().filter(|lease| !lease.finished()).collect();
        let to_read: Vec<Held> = unfinished
            .iter()
            .filter(|lease| {
                let of = |parent: &_| by_key.get(&lease.key.sibling(parent)).map(|lease| &lease.checkpoint);
                ready(&lease.parents, of)
            })
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
        unfinished.iter().map(held).collect()
    }

    /// Keeps what one look has shown.
    fn note(&mut self, streams: &[Progress]) {
        let now_us = wall_clock_us();
        for (max, stream) in self.lag_ms_max.iter_mut().zip(streams) {
            *max = stream.lag_ms(now_us).max(*max);
        }
        let seconds = self.started.elapsed().as_secs_f64();
        if self.samples.last().is_none_or(|last| seconds - last.seconds >= SAMPLE_EVERY.as_secs_f64()) {
            let of = |stream: &Progress| StreamSample {
                put: stream.put,
                delivered: stream.delivered,
                lag_ms: stream.lag_ms(now_us),
            };
            let sample = streams.iter().map(of).collect();
            self.samples.push(Sample { seconds, streams: sample, unread: self.readers.unread() });
            self.crew.measure();
            // Where another consumer has its checkpoint is not known: it may come back for anything.
            if self.follow.is_none() {
                let oldest = Progress::sum(streams).oldest_us.unwrap_or(now_us);
                self.stage.scene.streams.iter().for_each(|stream| stream.forget_before(oldest - KEPT_US));
            }
        }
    }

    fn line(&self) -> String {
        let workers = self.crew.healthy().len();
        let unread = match self.readers.unread() {
            0 => String::new(),
            shards => format!("  {shards} shards not read"),
        };
        format!("{workers} workers  {} faults{unread}", self.mischief.faults().len())
    }
}
