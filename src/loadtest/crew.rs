//! The workers of a run: which of them can read, what was done to them, what they used.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::readers::Cause;
use super::stage::Stage;
use super::usage::{self, Usage};
use crate::trial::TrialError;
use crate::trial::workers::{Ended, WorkerError, WorkerSettings, Workers};

/// A lease without an owner, or with one that does not renew, is put down to a fault that is not older than this.
const GENERAL: Duration = Duration::from_secs(30);

/// One worker process of the run.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerUse {
    /// Its id.
    pub id: String,
    /// Processor time.
    pub cpu_seconds: f64,
    /// The most memory it had at once.
    pub rss_max_bytes: u64,
    /// How long it was seen alive.
    pub seconds: f64,
    /// `drained`, `killed`, or how it ended by itself.
    pub end: String,
    #[serde(skip)]
    started: Instant,
}

/// The workers.
pub(super) struct Crew {
    workers: Workers,
    /// Proxies of each live worker.
    lanes: HashMap<String, CancellationToken>,
    /// Workers that cannot read, and through what.
    down: HashMap<String, Cause>,
    /// Workers that were told to drain, and through what.
    dismissed: HashMap<String, Cause>,
    /// The last fault that can leave leases without an owner, or with one that cannot renew.
    general: Option<Cause>,
    uses: Vec<WorkerUse>,
}

impl Crew {
    pub(super) fn new(settings: WorkerSettings) -> Self {
        Self {
            workers: Workers::new(settings),
            lanes: HashMap::new(),
            down: HashMap::new(),
            dismissed: HashMap::new(),
            general: None,
            uses: Vec::new(),
        }
    }

    /// Starts one more behind proxies of its own; answers its id.
    pub(super) async fn start(
        &mut self,
        stage: &mut Stage,
        clock_offset_s: i64,
    ) -> Result<String, TrialError> {
        let stop = CancellationToken::new();
        let endpoints = stage.endpoints_for(&self.workers.next_id(), &stop).await?;
        let id = self.workers.start_with(|settings| {
            settings.endpoints = endpoints;
            settings.clock_offset_s = clock_offset_s;
            // Its clock would take a time for one in the future. The rows say where reading begins.
            if clock_offset_s < 0 {
                settings.initial_position = None;
            }
        })?;
        self.lanes.insert(id.clone(), stop);
        self.uses.push(WorkerUse {
            id: id.clone(),
            cpu_seconds: 0.0,
            rss_max_bytes: 0,
            seconds: 0.0,
            end: "running".to_owned(),
            started: Instant::now(),
        });
        Ok(id)
    }

    /// The processes.
    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Running workers that nothing is done to.
    pub(super) fn healthy(&self) -> Vec<&str> {
        self.workers.ids().filter(|id| !self.down.contains_key(*id)).collect()
    }

    /// Whether this worker lives and can read.
    pub(super) fn reads(&self, id: &str) -> bool {
        self.lanes.contains_key(id) && !self.down.contains_key(id)
    }

    /// Why a lease of this owner is not read; of nobody's and of one that does not renew: `None`.
    pub(super) fn blame(&self, owner: Option<&str>, now: Instant) -> Option<Cause> {
        let own = owner.and_then(|owner| self.down.get(owner).or(self.dismissed.get(owner)));
        let fresh = |cause: &Cause| now.saturating_duration_since(cause.at) < GENERAL;
        own.copied().or(self.general.filter(fresh))
    }

    /// Kills one.
    pub(super) async fn kill(&mut self, id: &str, cause: Cause) -> Result<(), WorkerError> {
        self.measure();
        self.workers.kill(Some(id)).await?;
        self.down.insert(id.to_owned(), cause);
        self.gone(id, "killed");
        Ok(())
    }

    /// Stops one where it stands.
    pub(super) fn pause(&mut self, id: &str, cause: Cause) -> Result<(), WorkerError> {
        self.workers.signal(id, Signal::SIGSTOP)?;
        self.down.insert(id.to_owned(), cause);
        Ok(())
    }

    /// Lets one go on.
    pub(super) fn go_on(&mut self, id: &str) -> Result<(), WorkerError> {
        self.workers.signal(id, Signal::SIGCONT)?;
        self.down.remove(id);
        Ok(())
    }

    /// Notes that one is cut off from the servers.
    pub(super) fn cut_off(&mut self, id: &str, cause: Cause) {
        self.down.insert(id.to_owned(), cause);
    }

    /// Notes that one is not cut off any more.
    pub(super) fn reconnected(&mut self, id: &str) {
        self.down.remove(id);
    }

    /// Tells one to drain.
    pub(super) fn dismiss(&mut self, id: &str, cause: Cause) -> Result<(), WorkerError> {
        self.dismissed.insert(id.to_owned(), cause);
        self.general = Some(cause);
        self.workers.dismiss(id)
    }

    /// Notes a fault that is no one worker's.
    pub(super) fn blames(&mut self, cause: Cause) {
        self.general = Some(cause);
    }

    /// Lets one write no byte into files any more, or again as many as it likes.
    pub(super) fn limit_files(&self, id: &str, full: bool) -> Result<(), String> {
        let process = self.workers.processes().find(|(name, _)| *name == id);
        let pid = process.and_then(|(_, pid)| Pid::from_raw(i32::try_from(pid).ok()?));
        let hard = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: if full { Some(0) } else { hard }, maximum: hard };
        match pid {
            Some(pid) => {
                prlimit(Some(pid), Resource::Fsize, limit).map(|_| ()).map_err(|error| error.to_string())
            }
            None => Err("it has ended".to_owned()),
        }
    }

    /// Looks what each uses.
    pub(super) fn measure(&mut self) {
        for (id, pid) in self.workers.processes() {
            let Some(known) = self.uses.iter_mut().find(|known| known.id == id) else { continue };
            known.seconds = known.started.elapsed().as_secs_f64();
            if let Some(Usage { cpu, rss_max_bytes }) = usage::of(pid) {
                known.cpu_seconds = cpu.as_secs_f64();
                known.rss_max_bytes = known.rss_max_bytes.max(rss_max_bytes);
            }
        }
    }

    /// Those that have ended since the last call, killed ones aside.
    pub(super) fn ended(&mut self) -> Vec<Ended> {
        let ended = self.workers.ended();
        for worker in &ended {
            let end = match worker.status.success() {
                true => "drained".to_owned(),
                false => worker.status.to_string(),
            };
            self.gone(&worker.id, &end);
        }
        ended
    }

    /// Drains all.
    pub(super) async fn drain(&mut self) -> Result<(), WorkerError> {
        self.measure();
        let drained = self.workers.drain().await;
        let running = |worker: &&mut WorkerUse| worker.end == "running";
        for worker in self.uses.iter_mut().filter(running) {
            worker.end = "drained".to_owned();
        }
        self.lanes.drain().for_each(|(_, stop)| stop.cancel());
        drained
    }

    pub(super) fn uses(self) -> Vec<WorkerUse> {
        self.uses
    }

    fn gone(&mut self, id: &str, end: &str) {
        if let Some(stop) = self.lanes.remove(id) {
            stop.cancel();
        }
        if let Some(known) = self.uses.iter_mut().find(|known| known.id == id) {
            known.end = end.to_owned();
        }
    }
}
