//! What one worker has seen of the fleet: whose leases are alive, which workers are.
//!
//! Owns: timing of counters as an observer. A lease or a worker is judged by changes of its row on the observer's own
//! monotonic clock; no wall clock of another host decides.
//! Does not own: reading the table (`coordinator`), what follows from it (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::{OddRow, PENDING_FORMAT_OF_ALL, TableSnapshot, WorkerRow, report_interval};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use crate::shard::ShardId;
use crate::shard::graph::ready;

/// A worker of KCL whose row has not changed for this long gets no leases (`WorkerUtilizationAwareAssignmentConfig`:
/// twice the reporting interval).
pub const ACTIVE_WINDOW: Duration = Duration::from_secs(60);

/// The lease table as one observer saw it, with the time since when each row has not moved.
#[derive(Clone, Debug)]
pub struct FleetView {
    failover: Duration,
    watching_since: Option<Instant>,
    /// The end of the last scan.
    looked: Option<Instant>,
    leases: BTreeMap<LeaseKey, Seen>,
    workers: BTreeMap<WorkerId, SeenWorker>,
    odd: Vec<OddRow>,
    /// When a lease of this worker was last found expired.
    lapsed: BTreeMap<WorkerId, Instant>,
}

/// One lease, and since when its counter stands still.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The row as last read.
    pub lease: Lease,
    /// The end of the read that first showed this counter.
    pub since: Instant,
    /// The end of the read that first showed this hand-off, during one.
    pub handing_off_since: Option<Instant>,
    /// The end of the read that first showed the worker that may renew.
    pub owned_since: Instant,
    /// The worker that may renew was seen to get the lease, and not to write since.
    pub given: bool,
    /// The worker that may renew was seen to do so, or to write otherwise.
    pub heard: bool,
}

/// One worker, and since when its row stands still.
#[derive(Clone, Debug)]
pub struct SeenWorker {
    /// The row as last read.
    pub row: WorkerRow,
    /// The end of the read that first showed this row.
    pub since: Instant,
    /// It was seen to change, so somebody writes it.
    pub moved: bool,
}

impl FleetView {
    /// A view of nothing yet. A lease counts as expired when its counter stands still for `failover`.
    pub fn new(failover: Duration) -> Self {
        let (leases, workers, odd, lapsed) = Default::default();
        Self { failover, watching_since: None, looked: None, leases, workers, odd, lapsed }
    }

    /// The time after which a lease counts as expired.
    pub fn failover(&self) -> Duration {
        self.failover
    }

    /// Takes in a whole scan. `returned` is the time after the read returned: a row may be older than that,
    /// never younger, so a live lease is never called expired too early.
    pub fn observe(&mut self, table: TableSnapshot, returned: Instant) {
        self.observe_vouching(table, returned, |_| false);
    }

    /// The same by a worker that vouches for the leases it holds itself: it knows of no better owner than itself,
    /// however late its renewals are.
    pub fn observe_vouching(
        &mut self,
        table: TableSnapshot,
        returned: Instant,
        vouches: impl Fn(&Lease) -> bool,
    ) {
        self.watching_since.get_or_insert(returned);
        self.looked = Some(returned);
        let mut before = std::mem::take(&mut self.leases);
        for lease in table.leases {
            let mut seen = observed(before.remove(&lease.key), lease, returned);
            if vouches(&seen.lease) {
                seen.since = returned;
            }
            self.leases.insert(seen.lease.key.clone(), seen);
        }
        let mut before = std::mem::take(&mut self.workers);
        for row in table.workers {
            let seen = match before.remove(&row.id) {
                Some(seen) if seen.row.updated == row.updated => SeenWorker { row, ..seen },
                Some(_) => SeenWorker { row, since: returned, moved: true },
                None => SeenWorker { row, since: returned, moved: false },
            };
            self.workers.insert(seen.row.id.clone(), seen);
        }
        self.odd = table.odd;
        let expired = |seen: &&Seen| !seen.lease.finished() && !self.is_live(seen, returned);
        let silent =
            self.leases.values().filter(expired).filter_map(|seen| seen.lease.actual_owner().cloned());
        let silent: Vec<WorkerId> = silent.collect();
        self.lapsed.extend(silent.into_iter().map(|worker| (worker, returned)));
        self.lapsed.retain(|worker, _| self.workers.contains_key(worker));
    }

    /// Takes in one lease that was just written or read.
    pub fn note(&mut self, lease: Lease, returned: Instant) {
        let seen = observed(self.leases.remove(&lease.key), lease, returned);
        self.leases.insert(seen.lease.key.clone(), seen);
    }

    /// Forgets everything: what was seen is too old to time anything by.
    pub fn clear(&mut self) {
        (self.watching_since, self.looked) = (None, None);
        self.leases.clear();
        self.workers.clear();
        self.odd.clear();
        self.lapsed.clear();
    }

    /// The end of the first scan. What stands still since then may have done so for longer.
    pub fn watching_since(&self) -> Option<Instant> {
        self.watching_since
    }

    /// Every known lease, in order of its key.
    pub fn leases(&self) -> impl Iterator<Item = &Seen> {
        self.leases.values()
    }

    /// The lease with this key.
    pub fn get(&self, key: &LeaseKey) -> Option<&Seen> {
        self.leases.get(key)
    }

    /// True when the lease has an owner who still renews it, as far as one can tell.
    pub fn is_live(&self, seen: &Seen, now: Instant) -> bool {
        let Some(owner) = seen.lease.actual_owner() else { return false };
        // A Java worker looks for its leases once in a failover time and renews for the first time a third later. One
        // of ours does so within moments.
        let finds_at_once = |worker: &SeenWorker| worker.row.is_kinetide();
        let slow = seen.given && !self.workers.get(owner).is_some_and(finds_at_once);
        let limit = if slow { self.failover * 2 } else { self.failover };
        now.duration_since(seen.since) <= limit
    }

    /// True when the shard is not finished and may be read: each parent finished or gone.
    pub fn is_ready(&self, lease: &Lease) -> bool {
        let checkpoint_of =
            |parent: &ShardId| self.leases.get(&lease.key.sibling(parent)).map(|seen| &seen.lease.checkpoint);
        !lease.finished() && ready(&lease.parents, checkpoint_of)
    }

    /// The workers that can be given leases: their row is fresh and usable, and was written after the last time that
    /// a lease of theirs was found expired, and they renew what they have. `wall_clock` is our own, in seconds since the epoch; it only vouches for
    /// rows not yet seen to change.
    pub fn active_workers(&self, now: Instant, wall_clock: u64) -> impl Iterator<Item = &SeenWorker> {
        let is_active = move |seen: &&SeenWorker| {
            let window = self.active_window(&seen.row);
            let fresh = seen.moved || wall_clock.abs_diff(seen.row.updated) < window.as_secs();
            let lapsed = self.has_lapsed(seen);
            fresh && !lapsed && now.duration_since(seen.since) < window && seen.row.usage().is_some()
        };
        let silent = self.silent();
        self.workers.values().filter(is_active).filter(move |seen| !silent.contains(&seen.row.id))
    }

    /// The newest format of a pending batch that every worker is known to read: those with a fresh row, whether or not it
    /// could be given leases now, and the owners of live leases.
    pub fn pending_format(&self, now: Instant, wall_clock: u64) -> u64 {
        let fresh = |seen: &&SeenWorker| {
            let window = self.active_window(&seen.row);
            let alive = seen.moved || wall_clock.abs_diff(seen.row.updated) < window.as_secs();
            alive && now.duration_since(seen.since) < window
        };
        let owners = self.leases.values().filter(|seen| !seen.lease.finished() && self.is_live(seen, now));
        let of_owners = owners.filter_map(|seen| seen.lease.actual_owner()).map(|owner| {
            self.workers.get(owner).map_or(PENDING_FORMAT_OF_ALL, |worker| worker.row.pending_format())
        });
        let of_workers = self.workers.values().filter(fresh).map(|seen| seen.row.pending_format());
        of_workers.chain(of_owners).min().unwrap_or(PENDING_FORMAT_OF_ALL)
    }

    /// True when a lease of this worker was found expired, and the worker has not reported since.
    pub fn has_lapsed(&self, worker: &SeenWorker) -> bool {
        self.lapsed.get(&worker.row.id).is_some_and(|lapsed| worker.since <= *lapsed)
    }

    /// The workers that should have renewed a lease by now and have renewed none: they get no more until they do.
    fn silent(&self) -> BTreeSet<WorkerId> {
        let mut newest: BTreeMap<&WorkerId, Instant> = BTreeMap::new();
        for seen in self.leases.values().filter(|seen| !seen.given) {
            if let Some(owner) = seen.lease.actual_owner() {
                let since = newest.entry(owner).or_insert(seen.since);
                *since = seen.since.max(*since);
            }
        }
        // Leases are renewed three times in a failover time. What came after the last look is not known.
        let silent = |since: Instant| {
            self.looked.is_some_and(|looked| looked.saturating_duration_since(since) > self.failover / 2)
        };
        newest.into_iter().filter(|(_, since)| silent(*since)).map(|(worker, _)| worker.clone()).collect()
    }

    /// Rows of the last scan that were not understood.
    pub fn odd(&self) -> &[OddRow] {
        &self.odd
    }

    /// For how long a row vouches for its worker. One of ours that fails to report tries again within seconds.
    fn active_window(&self, row: &WorkerRow) -> Duration {
        if row.is_kinetide() { report_interval(self.failover) * 3 / 2 } else { ACTIVE_WINDOW }
    }

    /// Every worker that has a row.
    pub fn workers(&self) -> impl Iterator<Item = &SeenWorker> {
        self.workers.values()
    }
}

fn observed(before: Option<Seen>, lease: Lease, returned: Instant) -> Seen {
    let owners = |lease: &Lease| (lease.owner.clone(), lease.checkpoint_owner.clone());
    let began = match &before {
        Some(seen) if owners(&seen.lease) == owners(&lease) => seen.handing_off_since.unwrap_or(returned),
        _ => returned,
    };
    let since = match &before {
        Some(seen) if seen.lease.counter == lease.counter => seen.since,
        _ => returned,
    };
    let owned_since = match &before {
        Some(seen) if seen.lease.actual_owner() == lease.actual_owner() => seen.owned_since,
        _ => returned,
    };
    let (given, heard) = before.as_ref().map_or((false, false), |seen| {
        let moved = seen.lease.counter != lease.counter;
        if seen.lease.actual_owner() == lease.actual_owner() {
            (seen.given && !moved, seen.heard || moved)
        } else {
            (true, false)
        }
    });
    Seen {
        since,
        owned_since,
        given,
        heard,
        handing_off_since: lease.checkpoint_owner.is_some().then_some(began),
        lease,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::fleet::{PENDING, SESSION};
    use crate::lease::write::{LeaseWrite, apply};
    use crate::shard::{Checkpoint, HashKeyRange, SequenceNumber, Shard};

    const FAILOVER: Duration = Duration::from_secs(10);
    const TODAY: u64 = 1_768_469_400;

    fn lease(owner: Option<&str>) -> Lease {
        let shard = Shard {
            id: ShardId::new("s-0"),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 0 }),
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        };
        Lease { owner: owner.map(WorkerId::new), ..Lease::new(&shard, Checkpoint::TrimHorizon) }
    }

    fn worker(id: &str, updated: u64, ours: bool) -> WorkerRow {
        let properties = ours.then(|| (SESSION.to_owned(), "1".to_owned())).into_iter().collect();
        WorkerRow {
            id: WorkerId::new(id),
            updated,
            samples: BTreeMap::new(),
            limits: BTreeMap::new(),
            properties,
            support: Some(1),
        }
    }

    /// A table with one lease, looked at now and then.
    struct Look {
        view: FleetView,
        start: Instant,
    }

    impl Look {
        fn new() -> Self {
            Self { view: FleetView::new(FAILOVER), start: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn look(&mut self, seconds: u64, lease: &Lease, workers: &[WorkerRow]) {
            let table =
                TableSnapshot { leases: vec![lease.clone()], workers: workers.to_vec(), odd: Vec::new() };
            self.view.observe(table, self.at(seconds));
        }

        fn is_live(&self, seconds: u64) -> bool {
            self.view.is_live(self.view.leases().next().unwrap(), self.at(seconds))
        }

        fn active(&self, seconds: u64) -> Vec<&str> {
            let active = self.view.active_workers(self.at(seconds), TODAY + seconds);
            active.map(|seen| seen.row.id.as_str()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_format_counts_as_read_when_everybody_alive_says_so() {
        let mut table = Look::new();
        let (mine, nobodys) = (lease(Some("a")), lease(None));
        let says = |id: &str, format: Option<&str>, updated| {
            let mut row = worker(id, updated, true);
            row.properties.extend(format.map(|format| (PENDING.to_owned(), format.to_owned())));
            row
        };
        let read_by_all =
            |table: &Look, seconds| table.view.pending_format(table.at(seconds), TODAY + seconds);
        assert_eq!(read_by_all(&table, 0), 1, "nothing was looked at");
        table.look(0, &nobodys, &[]);
        assert_eq!(read_by_all(&table, 0), 1, "nobody is there");
        table.look(0, &mine, &[says("a", Some("2"), TODAY)]);
        assert_eq!(read_by_all(&table, 0), 2);
        table.look(1, &mine, &[says("a", Some("2"), TODAY), says("old", None, TODAY)]);
        assert_eq!(read_by_all(&table, 1), 1);
        // Its row stands still for longer than it would.
        let mine = apply(&mine, &LeaseWrite::Renew { kbps: None, caught_up: None });
        table.look(30, &mine, &[says("a", Some("2"), TODAY + 30), says("old", None, TODAY)]);
        assert_eq!(read_by_all(&table, 30), 2);
        // A row that was old when it was first seen is that of a worker that has gone.
        table.look(31, &mine, &[says("a", Some("2"), TODAY + 31), says("gone", None, TODAY - 3600)]);
        assert_eq!(read_by_all(&table, 31), 2);
        table.look(32, &lease(Some("b")), &[says("a", Some("2"), TODAY + 31)]);
        assert_eq!(read_by_all(&table, 32), 1, "an owner that says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn expiry_counts_from_the_last_change_of_the_counter() {
        let mut table = Look::new();
        let first = lease(Some("a"));
        table.look(0, &first, &[]);
        table.look(9, &first, &[]);
        assert!(table.is_live(10) && !table.is_live(11));
        table.look(9, &apply(&first, &LeaseWrite::Renew { kbps: None, caught_up: None }), &[]);
        assert!(table.is_live(19) && !table.is_live(20));
        table.look(21, &lease(None), &[]);
        assert!(!table.is_live(21), "nobody owns it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_of_another_kind_has_time_to_find_what_it_is_given() {
        let give = LeaseWrite::Assign(WorkerId::new("b"));
        for (ours, patience) in [(false, 20), (true, 10)] {
            let mut table = Look::new();
            let workers = [worker("b", TODAY, ours)];
            table.look(0, &lease(None), &workers);
            let given = apply(&lease(None), &give);
            table.look(1, &given, &workers);
            assert!(table.is_live(1 + patience) && !table.is_live(2 + patience), "{patience} s");
            // Once it has renewed, it is a worker like any other.
            table.look(5, &apply(&given, &LeaseWrite::Renew { kbps: None, caught_up: None }), &workers);
            assert!(table.is_live(15) && !table.is_live(16));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_active_while_its_row_changes_whatever_its_clock_says() {
        let mut table = Look::new();
        let free = lease(None);
        let rows = |times: [u64; 3]| {
            let [fresh, stale, wrong] = times;
            [worker("fresh", fresh, false), worker("stale", stale, false), worker("wrong", wrong, false)]
        };
        table.look(0, &free, &rows([TODAY, TODAY - 3600, TODAY + 7200]));
        assert_eq!(table.active(1), ["fresh"]);
        table.look(30, &free, &rows([TODAY, TODAY - 3600, TODAY + 7230]));
        assert_eq!(table.active(31), ["fresh", "wrong"]);
        assert_eq!(table.active(61), ["wrong"]);
        assert_eq!(table.active(91), Vec::<&str>::new());
        // One of ours reports more often.
        table.look(100, &free, &[worker("ours", TODAY + 100, true)]);
        assert_eq!((table.active(114).len(), table.active(115).len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_let_a_lease_lapse_is_active_again_when_it_reports() {
        let mut table = Look::new();
        let mut held = lease(Some("a"));
        table.look(0, &held, &[worker("a", TODAY, true)]);
        assert_eq!(table.active(10), ["a"]);
        table.look(12, &held, &[worker("a", TODAY, true)]);
        assert_eq!(table.active(12), Vec::<&str>::new());
        // Somebody else has the lease now; that does not make it better.
        held.owner = Some(WorkerId::new("b"));
        held.counter += 1;
        table.look(13, &held, &[worker("a", TODAY, true)]);
        assert_eq!(table.active(13), Vec::<&str>::new());
        table.look(30, &held, &[worker("a", TODAY + 30, true)]);
        assert_eq!(table.active(30), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hand_off_is_timed_from_its_first_sight() {
        let mut table = Look::new();
        let held = lease(Some("a"));
        table.look(0, &held, &[]);
        let mut handed = apply(&held, &LeaseWrite::HandOff(WorkerId::new("b")));
        table.look(3, &handed, &[]);
        handed = apply(&handed, &LeaseWrite::Renew { kbps: None, caught_up: None });
        table.look(6, &handed, &[]);
        let since = |table: &Look| table.view.leases().next().unwrap().handing_off_since;
        assert_eq!(since(&table), Some(table.at(3)));
        table.look(7, &apply(&handed, &LeaseWrite::Evict), &[]);
        assert_eq!(since(&table), None);
    }
}
