//! The lease table in memory: the twin of DynamoDB for tests and simulations, faults included.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::fleet::{LeaderRow, TableSnapshot, WorkerRow};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::{LeaseWrite, apply, holds};

/// What the network does to calls. The same seed gives the same faults for the same order of calls.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Seed of all draws.
    pub seed: u64,
    /// How long a request, and then its answer, is on the way. Empty: no delay.
    pub delay: Range<Duration>,
    /// Share of calls (0 to 1) whose request never arrives.
    pub lost_request: f64,
    /// Share of calls (0 to 1) that take effect, half of them only after the caller has given up, and whose
    /// answer never arrives.
    pub lost_answer: f64,
}

type Observer = Arc<dyn Fn(Option<&Lease>, Option<&Lease>) + Send + Sync>;

/// A lease table in memory.
#[derive(Default)]
pub struct MemoryLeaseTable {
    observer: Option<Observer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<LeaseKey, Lease>,
    workers: BTreeMap<WorkerId, WorkerRow>,
    leader: Option<LeaderRow>,
    /// The table is gone.
    dropped: bool,
    /// Requests still on the way although their caller has given up, with the time they arrive.
    late: Vec<(Instant, Request)>,
    faults: Option<(Faults, ChaCha8Rng)>,
}

#[derive(Clone)]
enum Request {
    Create(Lease),
    Write(Lease, LeaseWrite),
    Delete(Lease),
    Lead { seen: Option<LeaderRow>, next: Option<LeaderRow> },
    Report(WorkerRow),
    ForgetWorker(WorkerRow),
}

/// What a request did, and the row it leaves or that refused it.
#[derive(Default)]
struct Outcome {
    accepted: bool,
    row: Option<Lease>,
    worker_before: Option<WorkerRow>,
}

enum Fate {
    Answered,
    LostRequest,
    LostAnswer,
    LateAndUnanswered,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer from the lease table")]
struct NoAnswer;

impl MemoryLeaseTable {
    /// An empty table without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same table behind a faulty network.
    pub fn with_faults(self, faults: Faults) -> Self {
        self.set_faults(Some(faults));
        self
    }

    /// Deletes the table, as somebody with the rights to do so can at any time.
    pub fn drop_table(&self) {
        *self.state() = State { dropped: true, ..State::default() };
    }

    /// From now on the network is like this.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.state().faults = faults.map(|faults| {
            let rng = ChaCha8Rng::seed_from_u64(faults.seed);
            (faults, rng)
        });
    }

    /// Calls `observer` at every accepted change with the row before and after it.
    pub fn with_observer(
        mut self,
        observer: impl Fn(Option<&Lease>, Option<&Lease>) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Every row, at once and without faults: what an onlooker of a test or a demo sees.
    pub fn rows(&self) -> Vec<Lease> {
        self.arrived().rows.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state after all late requests that are due have arrived.
    fn arrived(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(next) = (0..state.late.len())
            .filter(|&index| state.late[index].0 <= now)
            .min_by_key(|&index| state.late[index].0)
        {
            let (_, request) = state.late.remove(next);
            // Nobody is left to hear the answer.
            drop(self.perform(&mut state, &request));
        }
        state
    }

    /// The effect of one request, all or nothing.
    fn perform(&self, state: &mut State, request: &Request) -> Outcome {
        match request {
            Request::Create(lease) | Request::Write(lease, _) | Request::Delete(lease) => {
                self.change_lease(state, &lease.key, request)
            }
            Request::Lead { seen, next } => {
                let version = |row: &Option<LeaderRow>| row.as_ref().map(|row| Arc::clone(&row.version));
                let accepted = version(&state.leader) == version(seen);
                if accepted {
                    state.leader.clone_from(next);
                }
                Outcome { accepted, ..Outcome::default() }
            }
            Request::Report(row) => {
                let worker_before = state.workers.insert(row.id.clone(), row.clone());
                Outcome { accepted: true, worker_before, row: None }
            }
            Request::ForgetWorker(seen) => {
                let accepted = state.workers.get(&seen.id).is_some_and(|row| row.updated == seen.updated);
                if accepted {
                    state.workers.remove(&seen.id);
                }
                Outcome { accepted, ..Outcome::default() }
            }
        }
    }

    fn change_lease(&self, state: &mut State, key: &LeaseKey, request: &Request) -> Outcome {
        let before = state.rows.get(key).cloned();
        let after = match (request, &before) {
            (Request::Create(lease), None) => Some(lease.clone()),
            (Request::Write(seen, write), Some(row)) if holds(row, seen, write) => Some(apply(row, write)),
            (Request::Delete(seen), Some(row)) if row.counter == seen.counter => None,
            _ => return Outcome { row: before, ..Outcome::default() },
        };
        match &after {
            Some(row) => drop(state.rows.insert(key.clone(), row.clone())),
            None => drop(state.rows.remove(key)),
        }
        if let Some(observer) = &self.observer {
            observer(before.as_ref(), after.as_ref());
        }
        Outcome { accepted: true, row: after, worker_before: None }
    }

    /// Draws what happens to one call: its fate, and how long request and answer are on the way.
    fn draw(&self) -> (Fate, Duration, Duration) {
        let mut state = self.state();
        let Some((faults, rng)) = &mut state.faults else {
            return (Fate::Answered, Duration::ZERO, Duration::ZERO);
        };
        let mut delay = || {
            if faults.delay.is_empty() { Duration::ZERO } else { rng.random_range(faults.delay.clone()) }
        };
        let (there, back) = (delay(), delay());
        let luck = rng.random::<f64>();
        let late = rng.random::<bool>();
        let fate = if luck < faults.lost_request {
            Fate::LostRequest
        } else if luck >= faults.lost_request + faults.lost_answer {
            Fate::Answered
        } else if late {
            Fate::LateAndUnanswered
        } else {
            Fate::LostAnswer
        };
        (fate, there, back)
    }

    /// One changing call through the network; `None` when the caller hears nothing.
    async fn call(&self, request: Request) -> Option<Outcome> {
        let (fate, there, back) = self.draw();
        pause(there).await;
        match fate {
            Fate::LostRequest => None,
            Fate::LateAndUnanswered => {
                pause(back).await;
                let arrival = Instant::now() + there + back;
                self.state().late.push((arrival, request));
                None
            }
            Fate::LostAnswer | Fate::Answered => {
                let outcome = self.perform(&mut self.arrived(), &request);
                pause(back).await;
                matches!(fate, Fate::Answered).then_some(outcome)
            }
        }
    }

    /// One read through the network.
    async fn read<T>(&self, look: impl FnOnce(&State) -> T + Send) -> Result<T, TableError> {
        let (fate, there, back) = self.draw();
        pause(there).await;
        let seen = look(&self.arrived());
        pause(back).await;
        self.exists()?;
        match fate {
            Fate::Answered => Ok(seen),
            _ => Err(no_answer()),
        }
    }

    fn exists(&self) -> Result<(), TableError> {
        if self.state().dropped { Err(TableError::NotFound("leases".into())) } else { Ok(()) }
    }

    async fn accepted(&self, request: Request) -> Result<bool, TableError> {
        self.exists()?;
        self.call(request).await.map(|outcome| outcome.accepted).ok_or_else(no_answer)
    }
}

fn no_answer() -> TableError {
    TableError::Unavailable(NoAnswer.into())
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

#[async_trait]
impl LeaseTable for MemoryLeaseTable {
    async fn ensure_exists(&self) -> Result<(), TableError> {
        self.read(|_| ()).await
    }

    async fn snapshot(&self) -> Result<TableSnapshot, TableError> {
        self.read(|state| TableSnapshot {
            leases: state.rows.values().cloned().collect(),
            workers: state.workers.values().cloned().collect(),
            odd: Vec::new(),
        })
        .await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Vec<LeaseKey>, TableError> {
        let owned = |state: &State| {
            let rows = state.rows.values().filter(|row| row.owner.as_ref() == Some(worker));
            rows.map(|row| row.key.clone()).collect()
        };
        self.read(owned).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
        self.read(|state| state.rows.get(key).cloned()).await
    }

    async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
        self.accepted(Request::Create(lease.clone())).await
    }

    async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
        self.exists().map_err(|error| WriteError::NotWritten(error.into()))?;
        match self.call(Request::Write(seen.clone(), write.clone())).await {
            Some(Outcome { accepted: true, row: Some(row), .. }) => Ok(row),
            Some(outcome) => Err(WriteError::Conflict(outcome.row.map(Box::new))),
            None => Err(WriteError::Unknown(NoAnswer.into())),
        }
    }

    async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
        self.exists().map_err(|error| WriteError::NotWritten(error.into()))?;
        match self.call(Request::Delete(seen.clone())).await {
            Some(Outcome { accepted: true, .. }) => Ok(()),
            Some(outcome) => Err(WriteError::Conflict(outcome.row.map(Box::new))),
            None => Err(WriteError::Unknown(NoAnswer.into())),
        }
    }

    async fn leader(&self) -> Result<Option<LeaderRow>, TableError> {
        self.read(|state| state.leader.clone()).await
    }

    async fn lead(&self, seen: Option<&LeaderRow>, next: &LeaderRow) -> Result<bool, TableError> {
        self.accepted(Request::Lead { seen: seen.cloned(), next: Some(next.clone()) }).await
    }

    async fn resign(&self, mine: &LeaderRow) -> Result<bool, TableError> {
        self.accepted(Request::Lead { seen: Some(mine.clone()), next: None }).await
    }

    async fn report(&self, worker: &WorkerRow) -> Result<Option<WorkerRow>, TableError> {
        self.exists()?;
        let outcome = self.call(Request::Report(worker.clone())).await;
        outcome.map(|outcome| outcome.worker_before).ok_or_else(no_answer)
    }

    async fn forget_worker(&self, seen: &WorkerRow) -> Result<bool, TableError> {
        self.accepted(Request::ForgetWorker(seen.clone())).await
    }
}
