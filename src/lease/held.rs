//! A lease that this worker holds: every write to its row goes through here, one at a time.
//!
//! Owns: the last known row, how long the lease may be believed in, what became of a write without an answer.
//! Does not own: when to renew (`coordinator`), what to prepare or commit (`checkpoint`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::row::{Lease, LeaseKey, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::{LeaseWrite, apply};
use crate::telemetry::metrics;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// How often one call of [`HeldLease::write`] goes to the table before it gives the decision back.
const ATTEMPTS: usize = 3;

/// Why a write through a held lease did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LeaseWriteError {
    /// The lease is not ours any more, for good. Stop, write nothing.
    #[error("the lease is lost")]
    Lost,
    /// The table refuses or does not answer. Try the same write again; the lease may still be ours.
    #[error("the lease table is not available")]
    Unavailable(#[source] Source),
}

/// A lease held by this worker.
///
/// ```text
///          write: done ─► valid for another failover time, counted from before the request was sent
/// held ──┤ write: row moved on and is not ours ─► lost
///          no answer ─► read the row again: done, not done yet, or lost; if that fails too: unavailable
///          failover time over ─► lost
/// ```
///
/// A write whose answer was lost may still arrive. Its condition names the counter that it saw, so at most one
/// write per counter is accepted, and what it would leave is remembered: a row found in exactly that shape is
/// our own success.
pub struct HeldLease {
    table: Arc<dyn LeaseTable>,
    key: LeaseKey,
    me: WorkerId,
    failover: Duration,
    state: Mutex<State>,
    writer: tokio::sync::Mutex<Vec<Candidate>>,
    lost: CancellationToken,
}

struct State {
    row: Lease,
    sent: Instant,
}

/// A write that may have happened or may yet: the row it leaves, and when it was sent.
struct Candidate {
    row: Lease,
    sent: Instant,
}

/// What the row as it stands means for a write that we asked for.
enum Verdict {
    /// The asked write is done, and the row known.
    Done,
    /// The lease is ours, the asked write not done.
    Ours,
    Lost,
}

impl HeldLease {
    /// Takes charge of `lease`, proven ours by a request that was sent at or after `valid_from`.
    pub fn new(
        table: Arc<dyn LeaseTable>,
        lease: Lease,
        me: WorkerId,
        valid_from: Instant,
        failover: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            table,
            key: lease.key.clone(),
            me,
            failover,
            state: Mutex::new(State { row: lease, sent: valid_from }),
            writer: tokio::sync::Mutex::default(),
            lost: CancellationToken::new(),
        })
    }

    /// The key of the lease.
    pub fn key(&self) -> &LeaseKey {
        &self.key
    }

    /// The row as last known. It was in the table in this form.
    pub fn row(&self) -> Lease {
        self.state().row.clone()
    }

    /// When the last write that moved the counter was sent.
    pub fn last_write(&self) -> Instant {
        self.state().sent
    }

    /// Cancelled for good when the lease is lost or given up.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// True while no other worker can have taken the lease: not lost, and within the failover time since before
    /// the last write that moved the counter was sent.
    pub fn is_valid(&self, now: Instant) -> bool {
        !self.lost.is_cancelled() && now < self.valid_until()
    }

    /// Applies `write` to the row, on the condition that nobody else wrote since. Answers the row as written.
    ///
    /// May be dropped at any point; what was on the way then is sorted out by the next write. A successful
    /// [`LeaseWrite::Evict`] ends the lease.
    pub async fn write(&self, write: LeaseWrite) -> Result<Lease, LeaseWriteError> {
        let mut candidates = self.writer.lock().await;
        let mut trouble: Option<Source> = None;
        for _ in 0..ATTEMPTS {
            let sent = Instant::now();
            if !self.is_valid(sent) {
                self.lose();
                return Err(LeaseWriteError::Lost);
            }
            let seen = self.row();
            let asked = apply(&seen, &write);
            let remembered = candidates.len();
            // Before the first await: if this future is dropped, the request may be out all the same.
            candidates.push(Candidate { row: asked.clone(), sent });
            let verdict = match within(self.call_timeout(), self.table.write(&seen, &write)).await {
                Ok(Ok(row)) => self.adopt(&mut candidates, row, sent, &asked),
                Ok(Err(WriteError::Conflict(row))) => {
                    self.judge(&mut candidates, row.map(|row| *row), &asked, &write)
                }
                Ok(Err(WriteError::NotWritten(source))) => {
                    candidates.truncate(remembered);
                    return Err(LeaseWriteError::Unavailable(source));
                }
                Ok(Err(WriteError::Unknown(source))) | Err(source) => {
                    metrics::lease_write_unknown();
                    trouble = Some(source);
                    match within(self.call_timeout(), self.table.get(&self.key)).await {
                        Ok(Ok(row)) => self.judge(&mut candidates, row, &asked, &write),
                        Ok(Err(error)) => return Err(unavailable(error)),
                        Err(source) => return Err(LeaseWriteError::Unavailable(source)),
                    }
                }
            };
            match verdict {
                Verdict::Done => {
                    if matches!(write, LeaseWrite::Evict) {
                        self.lose();
                    }
                    return Ok(self.row());
                }
                Verdict::Ours => {}
                Verdict::Lost => {
                    self.lose();
                    return Err(LeaseWriteError::Lost);
                }
            }
        }
        Err(LeaseWriteError::Unavailable(trouble.unwrap_or_else(|| "the lease row keeps moving".into())))
    }

    /// Gives the lease up in memory: nothing is written, and nothing will be.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// When the lease stops being valid unless another write succeeds.
    pub(super) fn valid_until(&self) -> Instant {
        self.state().sent + self.failover
    }

    /// The write was answered with `row`, or found done.
    fn adopt(&self, candidates: &mut Vec<Candidate>, row: Lease, sent: Instant, asked: &Lease) -> Verdict {
        let known = self.last_write();
        // Children move no counter: no heartbeat for those who watch, and what is on the way can still arrive.
        let moved = row.counter != self.row().counter;
        if moved {
            candidates.clear();
        }
        // After an evict the owner is nobody, or the next owner of a hand-off.
        let ours = row.actual_owner() == Some(&self.me) || row.actual_owner() == asked.actual_owner();
        *self.state() = State { row, sent: if moved { sent } else { known } };
        if ours { Verdict::Done } else { Verdict::Lost }
    }

    /// The row as it stands, read after a write that was refused or not answered.
    fn judge(
        &self,
        candidates: &mut Vec<Candidate>,
        current: Option<Lease>,
        asked: &Lease,
        write: &LeaseWrite,
    ) -> Verdict {
        let Some(current) = current else { return Verdict::Lost };
        let known = self.row();
        if current.counter == known.counter && current.actual_owner() == Some(&self.me) {
            // Nothing that moves the counter has happened; a hand-off may have started, children may be set.
            let children_set = matches!(write, LeaseWrite::SetChildren(_)) && same_children(&current, asked);
            self.state().row = current;
            return if children_set { Verdict::Done } else { Verdict::Ours };
        }
        // The earliest of equal candidates: validity must not be counted from a later one.
        let Some(found) = candidates.iter().find(|candidate| is_outcome(&current, &candidate.row)) else {
            return Verdict::Lost;
        };
        let sent = found.sent;
        let done = is_outcome(&current, asked);
        let still_ours = current.actual_owner() == Some(&self.me);
        *self.state() = State { row: current, sent };
        candidates.clear();
        match (done, still_ours) {
            (true, _) => Verdict::Done,
            (false, true) => Verdict::Ours,
            (false, false) => Verdict::Lost, // an earlier evict of ours
        }
    }

    /// No single call may eat the time in which the lease could still be renewed.
    fn call_timeout(&self) -> Duration {
        self.failover / 3
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when `row` is what a write of ours would have left. Children, hash keys and throughput do not count:
/// other workers may fill them in without moving the counter, and so may the start of a hand-off change the
/// owners of a row that stays ours.
fn is_outcome(row: &Lease, candidate: &Lease) -> bool {
    row.counter == candidate.counter
        && row.actual_owner() == candidate.actual_owner()
        && row.checkpoint == candidate.checkpoint
        && row.pending == candidate.pending
        && row.owner_switches == candidate.owner_switches
}

fn same_children(a: &Lease, b: &Lease) -> bool {
    let contained = |a: &Lease, b: &Lease| a.children.iter().all(|child| b.children.contains(child));
    contained(a, b) && contained(b, a)
}

async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Source> {
    timeout(limit, call).await.map_err(Source::from)
}

fn unavailable(error: TableError) -> LeaseWriteError {
    LeaseWriteError::Unavailable(error.into())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::ops::Range;

    use async_trait::async_trait;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use tokio::time::sleep;

    use super::*;
    use crate::lease::memory::{Faults, MemoryLeaseTable};
    use crate::shard::{Checkpoint, HashKeyRange, Position, SequenceNumber, Shard, ShardId};

    const FAILOVER: Duration = Duration::from_secs(10);

    fn me() -> WorkerId {
        WorkerId::new("me")
    }

    fn commit(number: u128) -> LeaseWrite {
        LeaseWrite::Commit(Checkpoint::At(Position::new(SequenceNumber::from(number))))
    }

    fn unowned() -> Lease {
        let shard = Shard {
            id: ShardId::new("s"),
            parents: Vec::new(),
            hash_range: HashKeyRange { start: 0, end: 0 },
            starting_sequence_number: SequenceNumber::from(0),
            closed: false,
        };
        Lease::new(&shard, Checkpoint::TrimHorizon)
    }

    /// What becomes of the next calls; afterwards all goes well.
    #[derive(Clone, Copy)]
    enum Fault {
        Fine,
        RequestLost,
        AnswerLost,
        /// The SDK repeats a write that went through.
        SentTwice,
        Throttled,
        Hangs,
    }

    struct Scripted {
        table: MemoryLeaseTable,
        script: Mutex<VecDeque<Fault>>,
    }

    impl Scripted {
        fn next(&self) -> Fault {
            self.script.lock().unwrap().pop_front().unwrap_or(Fault::Fine)
        }
    }

    #[async_trait]
    impl LeaseTable for Scripted {
        async fn ensure_exists(&self) -> Result<(), TableError> {
            self.table.ensure_exists().await
        }
        async fn scan(&self) -> Result<Vec<Lease>, TableError> {
            self.table.scan().await
        }
        async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, TableError> {
            match self.next() {
                Fault::Fine => self.table.get(key).await,
                _ => Err(TableError::Unavailable("no answer".into())),
            }
        }
        async fn create(&self, lease: &Lease) -> Result<bool, TableError> {
            self.table.create(lease).await
        }
        async fn write(&self, seen: &Lease, write: &LeaseWrite) -> Result<Lease, WriteError> {
            match self.next() {
                Fault::Fine => self.table.write(seen, write).await,
                Fault::Throttled => Err(WriteError::NotWritten("throttled".into())),
                Fault::RequestLost => Err(WriteError::Unknown("no answer".into())),
                Fault::AnswerLost => {
                    self.table.write(seen, write).await?;
                    Err(WriteError::Unknown("no answer".into()))
                }
                Fault::SentTwice => {
                    self.table.write(seen, write).await?;
                    self.table.write(seen, write).await
                }
                Fault::Hangs => std::future::pending().await,
            }
        }
        async fn delete(&self, seen: &Lease) -> Result<(), WriteError> {
            self.table.delete(seen).await
        }
    }

    /// A lease just taken, on a table that follows the script from now on.
    async fn taken(script: &[Fault]) -> (Arc<Scripted>, Arc<HeldLease>) {
        let table = MemoryLeaseTable::new();
        table.create(&unowned()).await.unwrap();
        let sent = Instant::now();
        let row = table.write(&unowned(), &LeaseWrite::Assign(me())).await.unwrap();
        let table = Arc::new(Scripted { table, script: Mutex::new(script.iter().copied().collect()) });
        let dynamic: Arc<dyn LeaseTable> = Arc::<Scripted>::clone(&table);
        (table, HeldLease::new(dynamic, row, me(), sent, FAILOVER))
    }

    fn row(table: &Scripted) -> Lease {
        table.table.rows().remove(0)
    }

    async fn steal(table: &Scripted) {
        let seen = row(table);
        table.table.write(&seen, &LeaseWrite::Assign(WorkerId::new("thief"))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_ends_in_exactly_one_write() {
        use Fault::*;
        let scripts: [&[Fault]; 7] = [
            &[],
            &[RequestLost],
            &[AnswerLost],
            &[SentTwice],
            &[Hangs],
            &[RequestLost, Fine, AnswerLost, Fine],
            &[AnswerLost, Fine],
        ];
        for script in scripts {
            let (table, held) = taken(script).await;
            let answer = held.write(commit(1)).await.unwrap();
            assert_eq!((answer.counter, &answer), (2, &row(&table)));
            assert_eq!(held.row(), answer);
            assert!(held.is_valid(Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unavailable_changes_nothing_and_may_be_tried_again() {
        use Fault::*;
        let scripts: [(&[Fault], u64); 3] =
            [(&[Throttled], 1), (&[RequestLost, RequestLost], 1), (&[AnswerLost, RequestLost], 2)];
        for (script, counter) in scripts {
            let (table, held) = taken(script).await;
            let before = held.row();
            assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Unavailable(_))));
            assert_eq!((held.row(), row(&table).counter), (before, counter));
            assert!(!held.lost().is_cancelled());
            assert_eq!(held.write(commit(1)).await.unwrap().counter, 2, "done once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_write_without_an_answer_is_recognised_under_another() {
        use Fault::*;
        let (table, held) = taken(&[AnswerLost, RequestLost]).await;
        let first_sent = Instant::now();
        assert!(held.write(commit(1)).await.is_err());
        sleep(Duration::from_secs(1)).await;
        table.script.lock().unwrap().extend([Fine, RequestLost, RequestLost]);
        // The renew is refused, the commit found and taken in, then the table goes away again.
        assert!(held.write(LeaseWrite::Renew(None)).await.is_err());
        assert_eq!(held.row(), row(&table));
        assert_eq!(held.row().checkpoint.as_str(), "1");
        assert_eq!(held.last_write(), first_sent, "validity counts from the write that was done");
        assert_eq!(held.write(LeaseWrite::Renew(None)).await.unwrap().counter, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_write_is_recognised_too() {
        let (table, held) = taken(&[]).await;
        let seen = held.row();
        table.script.lock().unwrap().push_back(Fault::Hangs);
        assert!(timeout(Duration::from_secs(1), held.write(commit(1))).await.is_err());
        // It arrives after its sender has given up.
        table.table.write(&seen, &commit(1)).await.unwrap();
        let answer = held.write(LeaseWrite::Renew(None)).await.unwrap();
        assert_eq!((answer.counter, answer.checkpoint.as_str()), (3, "1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_others_took_is_lost_for_good() {
        for script in [&[][..], &[Fault::RequestLost]] {
            let (table, held) = taken(script).await;
            steal(&table).await;
            assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Lost)));
            assert!(held.lost().is_cancelled() && !held.is_valid(Instant::now()));
            assert!(matches!(held.write(LeaseWrite::Renew(None)).await, Err(LeaseWriteError::Lost)));
            assert_eq!(row(&table).counter, 2);
        }
        let (table, held) = taken(&[]).await;
        table.table.delete(&row(&table)).await.unwrap();
        assert!(matches!(held.write(commit(1)).await, Err(LeaseWriteError::Lost)));
    }

    #[tokio::test(start_paused = true)]
    async fn validity_counts_from_before_the_request() {
        let (_, held) = taken(&[Fault::Hangs]).await;
        let until = Instant::now() + FAILOVER;
        held.write(LeaseWrite::SetChildren(vec![ShardId::new("child")])).await.unwrap();
        assert!(Instant::now() > until - FAILOVER, "the first try hung for a while");
        assert_eq!(held.valid_until(), until, "children move no counter: nobody saw a heartbeat");
        let sent = Instant::now();
        held.write(LeaseWrite::Renew(None)).await.unwrap();
        assert!(held.is_valid(sent + FAILOVER - Duration::from_millis(1)));
        assert!(!held.is_valid(sent + FAILOVER));
        sleep(FAILOVER).await;
        assert!(matches!(held.write(LeaseWrite::Renew(None)).await, Err(LeaseWriteError::Lost)));
        assert!(held.lost().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn an_evict_ends_the_lease() {
        for script in [&[][..], &[Fault::AnswerLost], &[Fault::SentTwice]] {
            let (table, held) = taken(script).await;
            assert_eq!(held.write(LeaseWrite::Evict).await.unwrap().owner, None);
            assert!(held.lost().is_cancelled());
            assert_eq!(row(&table).owner, None);
        }
    }

    /// A renewer and a committer share the lease on a bad network, until a thief comes or time is over.
    async fn rough_life(seed: u64, delay: Range<Duration>, lost_request: f64, lost_answer: f64) {
        // Every form of the row, with the time since when it stood in the table.
        let history: Arc<Mutex<Vec<(Instant, Lease)>>> = Arc::default();
        let observed = Arc::clone(&history);
        let table = MemoryLeaseTable::new()
            .with_observer(move |_, after| {
                observed.lock().unwrap().push((Instant::now(), after.cloned().unwrap()));
            })
            .with_faults(Faults { seed, delay, lost_request, lost_answer });
        let table = Arc::new(table);
        while !table.create(&unowned()).await.unwrap_or(false) && table.rows().is_empty() {}
        let (sent, row) = loop {
            let sent = Instant::now();
            let seen = table.rows().remove(0);
            if let Ok(row) = table.write(&seen, &LeaseWrite::Assign(me())).await {
                break (sent, row);
            }
        };
        let dynamic: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&table);
        let held = HeldLease::new(dynamic, row, me(), sent, FAILOVER);
        let in_table = |row: &Lease| history.lock().unwrap().iter().any(|(_, form)| form == row);

        let renewer = async {
            while !held.lost().is_cancelled() {
                sleep(FAILOVER / 3).await;
                drop(held.write(LeaseWrite::Renew(None)).await);
            }
        };
        let committer = async {
            let mut next = 1;
            loop {
                sleep(Duration::from_millis(300)).await;
                let children = vec![ShardId::new(format!("child-{next}"))];
                let write =
                    if next % 5 == 0 { LeaseWrite::SetChildren(children.clone()) } else { commit(next) };
                match held.write(write.clone()).await {
                    Ok(row) => {
                        assert!(in_table(&row), "answered a row that never was");
                        match write {
                            LeaseWrite::SetChildren(_) => assert_eq!(row.children, children),
                            _ => assert_eq!(row.checkpoint.as_str(), next.to_string()),
                        }
                        next += 1;
                    }
                    Err(LeaseWriteError::Unavailable(_)) => {}
                    Err(LeaseWriteError::Lost) => return,
                }
            }
        };
        let watcher = async {
            while !held.lost().is_cancelled() {
                sleep(Duration::from_millis(20)).await;
                let row = held.row();
                assert!(in_table(&row), "believes a row that never was");
                let history = history.lock().unwrap();
                let moved = history.iter().find(|(_, form)| form.counter == row.counter).unwrap().0;
                assert!(held.last_write() <= moved, "valid for longer than others wait");
            }
            // Lost: taken by the thief, or too long without a write.
            let taken = table.rows()[0].owner != Some(me());
            assert!(taken || Instant::now() >= held.valid_until());
        };
        let thief = async {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            sleep(Duration::from_millis(rng.random_range(0..60_000))).await;
            while table.rows()[0].owner == Some(me()) {
                let seen = table.rows().remove(0);
                drop(table.write(&seen, &LeaseWrite::Assign(WorkerId::new("thief"))).await);
            }
        };
        tokio::join!(renewer, committer, watcher, thief);

        let history = history.lock().unwrap();
        for pair in history.windows(2) {
            let (old, new) = (&pair[0].1, &pair[1].1);
            assert!(new.checkpoint >= old.checkpoint, "a late write moved the checkpoint back");
            assert!(new.counter >= old.counter && new.counter <= old.counter + 1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn belief_follows_the_table(
            seed: u64,
            delay_ms in 1u64..4000,
            lost_request in 0.0..0.3,
            lost_answer in 0.0..0.3,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let delay = Duration::from_millis(delay_ms / 20)..Duration::from_millis(delay_ms);
            runtime.block_on(rough_life(seed, delay, lost_request, lost_answer));
        }
    }
}
