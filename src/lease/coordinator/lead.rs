//! Leading: looking at the whole table, giving leases to workers, keeping leases and shards in step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{BACKOFF_MAX, Backoff, CONCURRENCY, Coordinator, State, pause, within};
use crate::cause::chain;
use crate::lease::fleet::{STARTED, WorkerRow};
use crate::lease::held::HeldLease;
use crate::lease::plan::{Balancing, Fleet, LeaseLoad, Move, WorkerLoad, plan};
use crate::lease::row::{Lease, WorkerId};
use crate::lease::sync::{ShardSync, clean_up};
use crate::lease::table::{TableError, WriteError};
use crate::lease::view::{ACTIVE_WINDOW, FleetView, Seen, SeenWorker};
use crate::lease::write::LeaseWrite;
use crate::telemetry::metrics::{self, AssignedHow};
use crate::telemetry::pulse::Beat;

/// A look reads at most this many rows a second on average: larger tables are looked at less often.
pub const SCAN_ROWS_PER_SECOND: usize = 500;
/// KCL's leader assigns once in two failover times and balances at every third of these runs. Ours waits as long after
/// workers came or went: in the middle of a deploy each lease moved now would move again.
const BALANCE_FAILOVERS: u32 = 6;
/// But no longer than this where workers come and go all the time. And for so long after that a slow deploy may be under
/// way: only leases that have not moved lately are moved then, as the others may have to move a second time.
const BALANCE_FAILOVERS_MAX: u32 = 30;
/// What a worker may take to end its work on a lease that is handed over (`gracefulLeaseHandoffTimeoutMillis`).
pub const HAND_OFF_TIMEOUT: Duration = Duration::from_secs(30);
/// The row of a worker that has not changed for so long is deleted (`staleWorkerMetricsEntryCleanupDuration`).
const STALE_WORKER: Duration = Duration::from_secs(24 * 3600);

/// When the leader balances next.
#[derive(Default)]
struct Balance {
    last: Option<Instant>,
    workers: BTreeSet<WorkerId>,
    changed: Option<Instant>,
}

impl Balance {
    /// What may be moved now. Nothing until no worker has come or gone for a while; that the leader does not know at first
    /// who is gone counts as such a change. Counts from now on if something may.
    fn due(&mut self, workers: BTreeSet<WorkerId>, failover: Duration, now: Instant) -> Balancing {
        if self.workers != workers {
            self.workers = workers;
            self.changed = Some(now);
        }
        let quiet = |since: Instant, failovers: u32| now.duration_since(since) >= failover * failovers;
        let last = *self.last.get_or_insert(now);
        let changed = self.changed.unwrap_or(last);
        if !quiet(last.max(changed), BALANCE_FAILOVERS) && !quiet(last, BALANCE_FAILOVERS_MAX) {
            return Balancing::Off;
        }
        self.last = Some(now);
        if quiet(changed, BALANCE_FAILOVERS_MAX) { Balancing::All } else { Balancing::Unmoved }
    }
}

impl Coordinator {
    /// While leading: looks, plans and carries out, again and again. A worker that stands by for a leader who has fallen
    /// silent looks too, so that it can tell expired leases the sooner.
    pub(super) async fn keep_leading(&self, leave: &CancellationToken, stop: &CancellationToken) {
        let beat = self.pulse.begin("leading");
        let mut trouble = Backoff::default();
        let mut balance = Balance::default();
        while !leave.is_cancelled() {
            let now = Instant::now();
            let (leads, alert) = {
                let state = self.state();
                (state.watch.leading(now).is_some(), state.watch.is_alert(now))
            };
            if !leads {
                balance = Balance::default();
            }
            let wait = if !leads && !alert {
                // What was seen is no longer followed, so nothing may be timed by it.
                let mut state = self.state();
                if state.view.watching_since().is_some() {
                    state.view.clear();
                    state.told = None;
                }
                drop(state);
                self.settings.failover / 24
            } else {
                let looked = tokio::select! {
                    biased;
                    () = leave.cancelled() => break,
                    looked = within(BACKOFF_MAX * 3, self.look()) => looked,
                };
                match looked {
                    Ok(rows) => {
                        trouble.over();
                        if leads {
                            self.explain_look();
                        }
                        if leads && self.has_watched() && !leave.is_cancelled() {
                            self.assign(&mut balance, leave, &beat).await;
                        }
                        self.jittered(look_interval(self.settings.scan_interval, rows))
                    }
                    Err(_) => trouble.failed(self.settings.scan_interval),
                }
            };
            beat.next(wait);
            tokio::select! {
                biased;
                () = leave.cancelled() => {}
                go_on = pause(wait, &self.look_now, stop) => if !go_on { return },
            }
        }
    }

    /// Whoever begins to look only learns who is there: workers started together report within moments of each other, and
    /// the first of them must not be given everything.
    fn has_watched(&self) -> bool {
        let since = self.state().view.watching_since();
        since.is_some_and(|since| since.elapsed() >= self.settings.scan_interval / 2)
    }

    /// Reads the whole table. Answers how many rows there are.
    pub(super) async fn look(&self) -> Result<usize, TableError> {
        let table = self.table.snapshot().await?;
        let returned = Instant::now();
        let rows = table.leases.len() + table.workers.len() + table.odd.len();
        let mut state = self.state();
        for row in &table.leases {
            // Counters only grow, so a later row of another owner cannot become ours again.
            let taken = |held: &&Arc<HeldLease>| {
                row.counter > held.row().counter && row.actual_owner() != Some(&self.settings.worker)
            };
            if let Some(held) = state.held.get(&row.key).filter(taken) {
                held.lose();
            }
        }
        // A worker is alive to itself, however late its renewals are: it does not take its own leases away. A hand-off to
        // another worker is still possible, and others judge by what they see.
        let State { view, held, .. } = &mut *state;
        view.observe_vouching(table, returned, |row| {
            held.get(&row.key)
                .is_some_and(|held| !held.lost().is_cancelled() && held.row().counter == row.counter)
        });
        state.last_look = Some(returned);
        drop(state);
        self.held_changed.notify_one();
        Ok(rows)
    }

    async fn assign(&self, balance: &mut Balance, leave: &CancellationToken, beat: &Beat) {
        let now = Instant::now();
        let (plan, balancing) = {
            let mut state = self.state();
            let State { view, rng, .. } = &mut *state;
            let fleet = fleet(view, now, (self.settings.wall_clock)(), |row| self.streams.check(row).is_ok());
            let workers: BTreeSet<WorkerId> = fleet.workers.iter().map(|worker| worker.id.clone()).collect();
            let due = balance.due(workers, self.settings.failover, now);
            (plan(&fleet, &self.settings.rules, due, rng), due)
        };
        if let Some(told) = self.state().told.as_mut() {
            told.unplaced = Some(plan.spillover);
        }
        let moves = plan.moves.len();
        // Not while leaving: this worker may be among those that are given leases, and the next leader plans anew.
        let moves_now = plan.moves.into_iter().take_while(|_| !leave.is_cancelled());
        let written =
            stream::iter(moves_now).map(|change| self.carry_out(change)).buffer_unordered(CONCURRENCY);
        let written = written.inspect(|_| beat.next(Duration::ZERO));
        let written = written.filter(|written| std::future::ready(*written)).count().await;
        if moves > 0 {
            tracing::debug!(moves, written, ?balancing, "leases moved");
        }
        if !leave.is_cancelled() {
            self.forget_stale_workers(now, beat).await;
        }
    }

    /// Writes one move. False when the row has moved on, or the table did not answer: the next look shows what came of
    /// it.
    async fn carry_out(&self, change: Move) -> bool {
        let Some((seen, how)) = self.considered(&change) else { return false };
        let write = match how {
            AssignedHow::HandOff => LeaseWrite::HandOff(change.to.clone()),
            _ => LeaseWrite::Assign(change.to.clone()),
        };
        let outcome = timeout(self.settings.failover / 3, self.table.write(&seen, &write)).await;
        let (row, accepted) = match outcome {
            Ok(Ok(row)) => (Some(row), true),
            Ok(Err(WriteError::Conflict(row))) => (row.map(|row| *row), false),
            Ok(Err(error)) => {
                tracing::debug!(lease = %change.lease, error = %chain(&error), "could not assign the lease");
                (None, false)
            }
            Err(_) => (None, false),
        };
        if accepted {
            metrics::lease_assigned(how);
            let from = seen.actual_owner().map_or("nobody", WorkerId::as_str);
            tracing::info!(lease = %change.lease, from, to = %change.to, ?how, "lease assigned");
            if change.to == self.settings.worker {
                self.discover_now.notify_one();
            }
        }
        if let Some(row) = row {
            self.state().view.note(row, Instant::now());
        }
        accepted
    }

    /// The row that a move starts from, and why it may be moved now.
    fn considered(&self, change: &Move) -> Option<(Lease, AssignedHow)> {
        let now = Instant::now();
        let state = self.state();
        let seen = state.view.get(&change.lease)?;
        let how = match whose(&state.view, seen, now) {
            Whose::Live { handing_off: false, .. } => AssignedHow::HandOff,
            Whose::Live { handing_off: true, .. } => return None,
            Whose::Stuck => AssignedHow::Stuck,
            Whose::Nobodys if seen.lease.actual_owner().is_some() => AssignedHow::Expired,
            Whose::Nobodys if seen.lease.counter == 0 => AssignedHow::New,
            Whose::Nobodys => AssignedHow::Unowned,
        };
        Some((seen.lease.clone(), how))
    }

    /// Deletes the rows of workers that have gone. Also of one of ours that has let a lease lapse, so that the next leader
    /// does not take it for a living one: if it lives it reports as soon as it finds that it has lost the lease.
    async fn forget_stale_workers(&self, now: Instant, beat: &Beat) {
        let wall_clock = (self.settings.wall_clock)();
        let stale: Vec<WorkerRow> = {
            let state = self.state();
            let old = |row: &WorkerRow| wall_clock.saturating_sub(row.updated) > STALE_WORKER.as_secs();
            let still = |since: Instant| now.duration_since(since) > ACTIVE_WINDOW;
            let gone = |seen: &&SeenWorker| old(&seen.row) && still(seen.since);
            let lapsed = |seen: &&SeenWorker| seen.row.is_kinetide() && state.view.has_lapsed(seen);
            let stale = state.view.workers().filter(|seen| gone(seen) || lapsed(seen));
            stale.map(|seen| seen.row.clone()).collect()
        };
        for row in stale {
            beat.next(Duration::ZERO);
            match within(self.settings.failover / 3, self.table.forget_worker(&row)).await {
                Ok(true) => {
                    tracing::info!(worker = %row.id, "deleted the metrics row of a worker that is gone")
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(
                    worker = %row.id, error = %chain(&error),
                    "could not delete a metrics row"
                ),
            }
        }
    }

    /// Keeps streams and leases in step, each stream for itself: a call about one that hangs does not hold up the others.
    /// Every worker: deletes its own finished leases once nobody needs them, for a leader of another kind does not.
    pub(super) async fn keep_in_step(&self, leave: &CancellationToken, stop: &CancellationToken) {
        tokio::join!(self.keep_clean(leave, stop), async {
            while !leave.is_cancelled() && !stop.is_cancelled() {
                let changed = self.streams.changed();
                let streams = self.streams.all();
                let all =
                    join_all(streams.iter().map(|stream| self.keep_stream_in_step(stream, leave, stop)));
                tokio::select! {
                    biased;
                    // What each stream's watch has seen stays with it.
                    () = changed => {}
                    _ = all, if !streams.is_empty() => {}
                    () = leave.cancelled(), if streams.is_empty() => {}
                    () = stop.cancelled(), if streams.is_empty() => {}
                }
            }
        });
    }

    /// Finds out which stream this is; then, while leading, compares stream and table now and then (`shard::audit`).
    async fn keep_stream_in_step(
        &self,
        stream: &ShardSync,
        leave: &CancellationToken,
        stop: &CancellationToken,
    ) {
        let beat = self.pulse.begin("comparing shards and leases");
        let mut trouble = Backoff::default();
        let never = Notify::new();
        let interval = self.settings.shard_sync_interval;
        let mut led = false;
        while !leave.is_cancelled() {
            let leads = self.is_leader();
            let knew = stream.id().is_some();
            let done = if leads {
                let seen = self.state().view.leases().map(|seen| seen.lease.clone()).collect();
                timeout(BACKOFF_MAX * 6, stream.look(seen)).await
            } else {
                stream.stand_by().await;
                timeout(BACKOFF_MAX * 6, stream.identify()).await
            };
            if !knew && stream.id().is_some() {
                self.report_now.notify_one();
            }
            let wait = match done {
                Ok(Ok(())) => {
                    trouble.over();
                    if leads && !led {
                        self.look_now.notify_one();
                    }
                    if leads { self.jittered(stream.pause().await) } else { self.jittered(interval) }
                }
                Ok(Err(error)) => {
                    // Its calls may all have been answered: a listing may contradict itself.
                    tracing::debug!(
                        stream = %stream.name(), error = %chain(&error), "shards and leases do not match yet"
                    );
                    trouble.failed(self.settings.scan_interval)
                }
                Err(_) => trouble.failed(self.settings.scan_interval),
            };
            beat.next(wait);
            led = leads;
            tokio::select! {
                biased;
                () = leave.cancelled() => {}
                () = self.elected(leads) => {}
                go_on = pause(wait, &never, stop) => if !go_on { return },
            }
        }
    }

    async fn keep_clean(&self, leave: &CancellationToken, stop: &CancellationToken) {
        let beat = self.pulse.begin("deleting finished leases");
        let never = Notify::new();
        while !leave.is_cancelled() {
            // The leader finds them when it looks at all leases.
            if !self.is_leader() {
                let finished: Vec<Lease> =
                    self.held().iter().map(|held| held.row()).filter(Lease::finished).collect();
                if let Ok(Err(error)) =
                    timeout(BACKOFF_MAX * 6, clean_up(self.table.as_ref(), &finished)).await
                {
                    tracing::debug!(error = %chain(&error), "finished leases not deleted yet");
                }
            }
            let wait = self.jittered(self.settings.shard_sync_interval);
            beat.next(wait);
            tokio::select! {
                biased;
                () = leave.cancelled() => {}
                go_on = pause(wait, &never, stop) => if !go_on { return },
            }
        }
    }

    /// Returns when this worker begins to lead.
    async fn elected(&self, leads: bool) {
        if leads {
            std::future::pending::<()>().await;
        }
        while !self.is_leader() {
            sleep(self.settings.failover / 12).await;
        }
    }
}

/// Who has a lease, as the leader sees it.
pub(super) enum Whose {
    /// Somebody who renews it.
    Live {
        /// Who has it, or will after the hand-off.
        worker: WorkerId,
        /// A hand-off is under way.
        handing_off: bool,
    },
    /// Its owner renews it and has not let it go in the time that a hand-off may take.
    Stuck,
    /// No owner, or one who does not renew it.
    Nobodys,
}

fn whose(view: &FleetView, seen: &Seen, now: Instant) -> Whose {
    let lease = &seen.lease;
    match &lease.owner {
        Some(worker) if view.is_live(seen, now) => match seen.handing_off_since {
            Some(since) if now.duration_since(since) > HAND_OFF_TIMEOUT + view.failover() => Whose::Stuck,
            since => Whose::Live { worker: worker.clone(), handing_off: since.is_some() },
        },
        _ => Whose::Nobodys,
    }
}

/// What there is to plan with: the shards that can be read now, those that are owned already, and the workers.
/// Leases that are not `ours` are not there.
pub(super) fn fleet(view: &FleetView, now: Instant, wall_clock: u64, ours: impl Fn(&Lease) -> bool) -> Fleet {
    let lease = |seen: &Seen| {
        let lease = &seen.lease;
        if lease.finished() || !ours(lease) {
            return None;
        }
        let (worker, movable) = match whose(view, seen, now) {
            Whose::Live { worker, handing_off } => (Some(worker), !handing_off),
            // A child waits for its parents without an owner.
            Whose::Nobodys | Whose::Stuck if !view.is_ready(lease) => return None,
            Whose::Nobodys | Whose::Stuck => (None, false),
        };
        let unmoved = now.duration_since(seen.since);
        Some(LeaseLoad {
            key: lease.key.clone(),
            worker,
            movable,
            kbps: lease.throughput_kbps,
            unmoved,
            moves: lease.moves,
        })
    };
    let mut newest: BTreeMap<&WorkerId, Instant> = BTreeMap::new();
    for seen in view.leases() {
        if let Some(owner) = seen.lease.actual_owner() {
            let since = newest.entry(owner).or_insert(seen.owned_since);
            *since = seen.owned_since.max(*since);
        }
    }
    let worker = |seen: &SeenWorker| {
        // What it reported before it got its newest lease says nothing of the load with it.
        let stale = newest.get(&seen.row.id).is_some_and(|since| seen.since <= *since);
        let usage = if stale { None } else { seen.row.usage() };
        WorkerLoad {
            id: seen.row.id.clone(),
            usage: usage.into_iter().flatten().map(|(name, usage)| (name.to_owned(), usage)).collect(),
            started: seen.row.properties.get(STARTED).and_then(|started| started.parse().ok()).unwrap_or(0),
            reads: seen.row.reads(),
        }
    };
    Fleet {
        leases: view.leases().filter_map(lease).collect(),
        workers: view.active_workers(now, wall_clock).map(worker).collect(),
    }
}

/// The time between looks at a table with this many rows.
fn look_interval(wanted: Duration, rows: usize) -> Duration {
    let rows_per_second = u32::try_from(SCAN_ROWS_PER_SECOND).unwrap_or(u32::MAX);
    let affordable = Duration::from_secs(rows as u64) / rows_per_second;
    wanted.max(affordable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fleet_is_balanced_when_its_workers_have_settled_and_now_and_then() {
        const FAILOVER: Duration = Duration::from_secs(10);
        let start = Instant::now();
        let mut balance = Balance::default();
        let mut due = |second: u64, workers: &[&str]| {
            let workers = workers.iter().map(|id| WorkerId::new(*id)).collect();
            balance.due(workers, FAILOVER, start + Duration::from_secs(second))
        };
        assert_eq!(due(0, &["a"]), Balancing::Off, "a new leader waits as well");
        let both = &["a", "b"];
        let dues = |due: &mut dyn FnMut(u64) -> Balancing, seconds: std::ops::Range<u64>| {
            seconds.map(|at| (at, due(at))).filter(|due| due.1 != Balancing::Off).collect::<Vec<_>>()
        };
        let settling = dues(&mut |at| due(at, both), 9..400);
        let unmoved = [69, 129, 189, 249].map(|at| (at, Balancing::Unmoved));
        assert_eq!(settling[..4], unmoved);
        assert_eq!(settling[4..], [(309, Balancing::All), (369, Balancing::All)]);
        // One comes and goes, and nobody settles for long: it is balanced all the same.
        let changing = dues(&mut |at| due(at, if at % 10 < 5 { &["a"] } else { both }), 400..700);
        assert_eq!(changing, [(669, Balancing::Unmoved)]);
    }
}
