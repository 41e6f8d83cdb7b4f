//! Faults as they are played: to processes, to the stream, to the network; and how each is healed.

use std::time::Duration;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::LoadPlan;
use super::brokers::{Brokers, Outage};
use super::chaos::{Chaos, one_of};
use super::crew::Crew;
use super::faults::{Spell, Weather, calls};
use super::readers::{Cause, Held};
use super::stage::Stage;
use super::verdict::Fault;
use crate::deliver::LakeUrl;
use crate::lease::LeaseKey;
use crate::terminal::say;
use crate::trial::TrialError;
use crate::trial::scene::at_random;

/// How long services misbehave.
const SPELL: Duration = Duration::from_secs(4);
/// Share of the requests that are struck meanwhile.
const RATE: f64 = 0.3;
/// A disk stays full for this long.
const DISK_FULL: Duration = Duration::from_secs(4);
/// A worker out of reach comes back after this, whether its leases have been taken or not.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// Clocks are wrong by so many seconds.
const CLOCKS: [i64; 6] = [-86_400, -3_600, -90, 90, 3_600, 86_400];

/// What was done to the run.
#[derive(Debug)]
pub(super) struct Mischief {
    rng: ChaCha8Rng,
    /// What may be denied or left without an answer.
    calls: Vec<&'static str>,
    brokers: Option<Brokers>,
    shards: u32,
    started: Instant,
    faults: Vec<Fault>,
    running: Vec<Running>,
    counts: Tally,
    reshards_tried: usize,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) killed: u64,
    pub(super) zombies: u64,
    pub(super) reshards: u64,
}

/// A fault that goes on.
#[derive(Debug)]
struct Running {
    fault: usize,
    at: Instant,
    what: Ongoing,
}

#[derive(Debug)]
enum Ongoing {
    /// Heals by itself then.
    Spell { until: Instant },
    /// A worker can write no files until then.
    FullDisk { worker: String, until: Instant },
    /// A worker is stopped or cut off, until others have all that it held, and a while longer.
    Away { worker: String, held: Vec<LeaseKey>, grace: Duration, taken: Option<Instant>, stopped: bool },
    /// A broker is down until the command that took it down ends.
    Broker(Outage),
}

impl Mischief {
    pub(super) fn new(plan: &LoadPlan, started: Instant) -> Self {
        Self {
            calls: calls(&plan.sources),
            brokers: Brokers::of(plan),
            // Not the numbers of the timetable.
            rng: ChaCha8Rng::seed_from_u64(plan.seed.wrapping_add(1)),
            shards: plan.shards,
            started,
            faults: Vec::new(),
            running: Vec::new(),
            counts: Tally::default(),
            reshards_tried: 0,
        }
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    pub(super) fn counts(&self) -> Tally {
        self.counts
    }

    /// Notes that a shard was without a reader through a fault.
    pub(super) fn unread(&mut self, fault: usize, ms: u64) {
        if let Some(fault) = self.faults.get_mut(fault) {
            fault.shards_unread += 1;
            fault.unread_ms_max = fault.unread_ms_max.max(ms);
        }
    }

    /// Plays a fault; answers it in words. `None` when it cannot be played now: at least one worker stays in reach.
    pub(super) async fn happen(
        &mut self,
        kind: Chaos,
        held: &[Held],
        crew: &mut Crew,
        stage: &mut Stage,
    ) -> Result<Option<String>, TrialError> {
        let now = Instant::now();
        let cause = Cause { fault: self.faults.len(), at: now };
        let healthy = crew.healthy();
        let busy: Vec<&str> =
            healthy.iter().copied().filter(|id| held_by(held, id).next().is_some()).collect();
        let victims = if busy.is_empty() { &healthy } else { &busy };
        let victim = one_of(victims, &mut self.rng).map(str::to_owned);
        let away = matches!(kind, Chaos::Pause | Chaos::Partition);
        if away && healthy.len() < 2 {
            return Ok(None);
        }
        let what = match (kind, victim) {
            (Chaos::Reshard, _) => {
                // Each stream in its turn.
                let stream = self.reshards_tried % stage.scene.streams.len();
                self.reshards_tried += 1;
                let (shards, rng) = (self.shards, &mut self.rng);
                match stage.scene.disturb(stream, &mut |listing| at_random(listing, shards, rng)).await {
                    Ok(done) => {
                        self.counts.reshards += 1;
                        done
                    }
                    Err(refused) => return Ok(Some(format!("no resharding: {refused}"))),
                }
            }
            (Chaos::Throttle, _) => self.spell(Weather::Throttle, stage, now),
            (Chaos::Broken, _) => self.spell(Weather::Broken, stage, now),
            (Chaos::Slow, _) => self.spell(Weather::Slow, stage, now),
            (Chaos::Cut, _) => self.spell(Weather::Cut, stage, now),
            (Chaos::Deny, _) => {
                let call = self.one_call();
                self.spell(Weather::Deny(call), stage, now)
            }
            (Chaos::Hang, _) => {
                let call = self.one_call();
                self.spell(Weather::Hang(call), stage, now)
            }
            (Chaos::Broker, _) => {
                let down = self.running.iter().any(|running| matches!(running.what, Ongoing::Broker(_)));
                let Some(brokers) = self.brokers.as_mut().filter(|_| !down) else { return Ok(None) };
                let outage = brokers.take_one_down(&mut self.rng)?;
                let text = format!("the command for broker {} runs", outage.broker());
                let what = Ongoing::Broker(outage);
                self.running.push(Running { fault: self.faults.len(), at: now, what });
                text
            }
            (_, None) => return Ok(None),
            (Chaos::Kill, Some(id)) => {
                crew.kill(&id, cause).await?;
                self.counts.killed += 1;
                format!("killed {id}, started {}", crew.start(stage, 0).await?)
            }
            (Chaos::Term, Some(id)) => {
                crew.dismiss(&id, cause)?;
                format!("sent SIGTERM to {id}, started {}", crew.start(stage, 0).await?)
            }
            (Chaos::Clock, Some(id)) => {
                let offset = CLOCKS.choose(&mut self.rng).copied().unwrap_or_default();
                crew.dismiss(&id, cause)?;
                let new = crew.start(stage, offset).await?;
                format!("replaced {id} by {new}, whose clock is wrong by {offset} s")
            }
            (Chaos::Pause, Some(id)) => {
                crew.pause(&id, cause)?;
                let text = format!("stopped {id}");
                self.send_away(id, held, now, true);
                text
            }
            (Chaos::Partition, Some(id)) => {
                crew.cut_off(&id, cause);
                stage.network.sky().add(Spell {
                    weather: Weather::Partition,
                    worker: Some(id.clone()),
                    rate: 1.0,
                    until: now + AWAY_MAX,
                });
                let text = format!("cut {id} off from all servers");
                self.send_away(id, held, now, false);
                text
            }
            (Chaos::DiskFull, Some(id)) => {
                let until = now + DISK_FULL;
                match &stage.lake {
                    LakeUrl::Folder(_) => {
                        if let Err(problem) = crew.limit_files(&id, true) {
                            return Ok(Some(format!("could not limit the file size of {id}: {problem}")));
                        }
                    }
                    LakeUrl::S3 { .. } => stage.network.sky().add(Spell {
                        weather: Weather::NoRoom,
                        worker: Some(id.clone()),
                        rate: 1.0,
                        until,
                    }),
                }
                let text = format!("disk full for {id}");
                let what = Ongoing::FullDisk { worker: id, until };
                self.running.push(Running { fault: self.faults.len(), at: now, what });
                text
            }
        };
        let of_all = matches!(kind, Chaos::Reshard | Chaos::Broker);
        if of_all || kind.needs_proxy() && kind != Chaos::Partition {
            crew.blames(cause);
        }
        let at_seconds = (now - self.started).as_secs_f64();
        let said = format!("{kind}: {what}");
        self.faults.push(Fault { kind, at_seconds, seconds: 0.0, what, shards_unread: 0, unread_ms_max: 0 });
        Ok(Some(said))
    }

    /// Ends the faults whose time has come; answers what there is to say.
    pub(super) fn heal(
        &mut self,
        held_now: &[Held],
        crew: &mut Crew,
        stage: &Stage,
    ) -> Result<Vec<String>, TrialError> {
        let now = Instant::now();
        let mut said = Vec::new();
        let mut go_on = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            let over = match &mut running.what {
                Ongoing::Broker(outage) => outage.is_over()?,
                Ongoing::Spell { until } | Ongoing::FullDisk { until, .. } => now >= *until,
                Ongoing::Away { worker, held, grace, taken, .. } => {
                    if !held_by(held_now, worker).any(|lease| held.contains(&lease.key)) {
                        taken.get_or_insert(now);
                    }
                    taken.is_some_and(|taken| now >= taken + *grace) || now >= running.at + AWAY_MAX
                }
            };
            if over {
                said.extend(self.end(running, now, crew, stage)?);
            } else {
                go_on.push(running);
            }
        }
        self.running = go_on;
        Ok(said)
    }

    /// Ends every fault at once, but for a broker that comes back by its own command.
    pub(super) fn heal_all(&mut self, crew: &mut Crew, stage: &Stage) {
        stage.network.sky().clear();
        let of_brokers = |running: &mut Running| matches!(running.what, Ongoing::Broker(_));
        let brokers: Vec<Running> = self.running.extract_if(.., of_brokers).collect();
        for running in std::mem::replace(&mut self.running, brokers) {
            if let Err(error) = self.end(running, Instant::now(), crew, stage) {
                tracing::warn!(%error, "could not end a fault");
            }
        }
    }

    /// Returns when no broker is down by a command.
    pub(super) async fn brokers_are_back(&mut self) -> Result<(), TrialError> {
        for running in std::mem::take(&mut self.running) {
            if let Ongoing::Broker(outage) = running.what {
                say(format!("waiting for the command for broker {}", outage.broker()));
                outage.over().await?;
                if let Some(fault) = self.faults.get_mut(running.fault) {
                    fault.seconds = running.at.elapsed().as_secs_f64();
                }
            }
        }
        Ok(())
    }

    fn end(
        &mut self,
        running: Running,
        now: Instant,
        crew: &mut Crew,
        stage: &Stage,
    ) -> Result<Option<String>, TrialError> {
        if let Some(fault) = self.faults.get_mut(running.fault) {
            fault.seconds = (now - running.at).as_secs_f64();
        }
        match running.what {
            Ongoing::Spell { .. } => Ok(None),
            Ongoing::Broker(outage) => {
                Ok(Some(format!("the command for broker {} has ended", outage.broker())))
            }
            Ongoing::FullDisk { worker, .. } => {
                // Only a folder has such a limit; a worker that was killed meanwhile has none any more.
                if let (LakeUrl::Folder(_), Err(problem)) = (&stage.lake, crew.limit_files(&worker, false)) {
                    tracing::debug!(worker, problem, "the disk of a worker stays full");
                }
                Ok(None)
            }
            Ongoing::Away { worker, held, taken, stopped, .. } => {
                if stopped {
                    crew.go_on(&worker)?;
                } else {
                    stage.network.sky().end(Weather::Partition, &worker);
                    crew.reconnected(&worker);
                }
                let zombie = taken.is_some() && !held.is_empty();
                self.counts.zombies += u64::from(zombie && stopped);
                let how = if zombie { ", whose shards other workers have taken," } else { "" };
                let what = if stopped { "continues" } else { "is reconnected" };
                Ok(Some(format!("{worker}{how} {what}")))
            }
        }
    }

    fn spell(&mut self, weather: Weather, stage: &Stage, now: Instant) -> String {
        let until = now + SPELL;
        let one_call = matches!(weather, Weather::Deny(_) | Weather::Hang(_));
        let rate = if one_call { 1.0 } else { RATE };
        stage.network.sky().add(Spell { weather, worker: None, rate, until });
        self.running.push(Running { fault: self.faults.len(), at: now, what: Ongoing::Spell { until } });
        let share = match weather {
            Weather::Throttle => "requests are throttled",
            Weather::Broken => "requests fail, half of them after they took effect",
            Weather::Slow => "responses are delayed",
            Weather::Deny(call) => return format!("{call} is denied to all workers"),
            Weather::Hang(call) => return format!("{call} gets no response"),
            _ => "connections are cut, half of them after the request took effect",
        };
        format!("30 % of the {share}")
    }

    fn one_call(&mut self) -> &'static str {
        self.calls.choose(&mut self.rng).copied().expect("there are always calls to the lease table")
    }

    fn send_away(&mut self, worker: String, held: &[Held], at: Instant, stopped: bool) {
        let held = held_by(held, &worker).map(|lease| lease.key.clone()).collect();
        let grace = Duration::from_millis(self.rng.random_range(200..3_000));
        let what = Ongoing::Away { worker, held, grace, taken: None, stopped };
        self.running.push(Running { fault: self.faults.len(), at, what });
    }
}

fn held_by<'a>(held: &'a [Held], worker: &'a str) -> impl Iterator<Item = &'a Held> {
    held.iter().filter(move |lease| lease.owner.as_deref() == Some(worker))
}
