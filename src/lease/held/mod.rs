//! A lease that this worker holds: every write to its row goes through here, one at a time.
//!
//! Owns: the last known row, how long the lease may be believed in and when it is given up, what became of a write without
//! an answer.
//! Does not own: when to renew (`coordinator`), what to prepare or commit (`checkpoint`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::caught_up::CaughtUp;
use super::epochs::Epochs;
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::table::{LeaseTable, TableError, WriteError};
use super::write::{LeaseWrite, apply};
use crate::shard::{Checkpoint, SequenceNumber};
use crate::telemetry::metrics;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A renew is sent at least once in so many renew intervals, although other writes have moved the counter: only it
/// tells the throughput.
const THROUGHPUT_INTERVALS: u32 = 10;

/// A worker that has kept a lease for so long will keep it, as far as anyone can tell.
const SETTLED_AFTER: Duration = Duration::from_secs(3600);

/// A lease whose validity ran out is given up when nothing was heard of it for so many more failover times: what its
/// consumer holds takes memory.
const LAPSED_FAILOVERS: u32 = 3;

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
///          failover time over ─► lapsed: still held, but nothing is read or delivered ─┬─ write done ─► valid
///                                                              three more of them over ┴─► lost
/// ```
///
/// The failover time says when others may take the lease, not that somebody has. Whoever takes it moves its counter, so a
/// write that is accepted on the counter last seen proves that nobody has, however late it comes.
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
    handed_over: CancellationToken,
    /// The row was written or read.
    renewed: Notify,
    since: Instant,
    /// Bytes read since `Throughput::since`.
    bytes_read: AtomicU64,
}

struct State {
    row: Lease,
    sent: Instant,
    throughput: Throughput,
    /// When its reader was last at the tip of the shard.
    at_tip: Option<CaughtUp>,
    /// Who wrote what was read.
    epochs: Epochs,
}

/// Moving average of the bytes read, as KCL's `LeaseStatsRecorder` keeps it.
struct Throughput {
    kbps: Option<f64>,
    since: Instant,
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
            state: Mutex::new(State {
                throughput: Throughput { kbps: lease.throughput_kbps, since: valid_from },
                row: lease,
                sent: valid_from,
                at_tip: None,
                epochs: Epochs::default(),
            }),
            writer: tokio::sync::Mutex::default(),
            lost: CancellationToken::new(),
            handed_over: CancellationToken::new(),
            renewed: Notify::new(),
            since: valid_from,
            bytes_read: AtomicU64::new(0),
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

    /// Cancelled when the leader has given the lease to another worker: it is still ours to checkpoint, and to be
    /// released soon ([`LeaseWrite::Evict`] lets the other one begin).
    pub fn handed_over(&self) -> &CancellationToken {
        &self.handed_over
    }

    /// Counts bytes of the shard that were read; the leader balances by them.
    pub fn count_bytes(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that the shard had no more records; a heartbeat tells it when the checkpoint has come there.
    pub fn at_tip(&self, seen: CaughtUp) {
        self.state().at_tip = Some(seen);
    }

    /// Notes who wrote what is read: all records from `first` on, up to the next note. Writes to the row tell it of the last
    /// record of a batch.
    pub fn read_of_epoch(&self, first: SequenceNumber, epoch: i32) {
        self.state().epochs.read(first, epoch);
    }

    /// A batch or a checkpoint, with the epoch of its last record: as it was read, or as the row says of this record.
    fn with_epoch(&self, write: LeaseWrite) -> LeaseWrite {
        let state = self.state();
        let known = |at: &Checkpoint| {
            let noted = || state.row.written.as_ref().filter(|written| written.names(at));
            state.epochs.of(at).or_else(|| noted().map(|written| written.epoch))
        };
        match write {
            LeaseWrite::Prepare { pending, epoch } => {
                LeaseWrite::Prepare { epoch: epoch.or_else(|| known(&pending.checkpoint)), pending }
            }
            LeaseWrite::Commit { to, arrived_us, epoch } => {
                LeaseWrite::Commit { epoch: epoch.or_else(|| known(&to)), to, arrived_us }
            }
            other => other,
        }
    }

    /// What the reader saw at the tip, once all that it had read is committed.
    fn caught_up(&self) -> Option<CaughtUp> {
        let state = self.state();
        let committed = |seen: &&CaughtUp| state.row.checkpoint == Checkpoint::At(seen.after.clone());
        state.at_tip.as_ref().filter(committed).cloned()
    }

    /// True when the lease has been ours for long enough that nobody need know how often it moved before.
    pub(super) fn has_settled(&self) -> bool {
        self.row().moves > 0 && self.since.elapsed() > SETTLED_AFTER
    }

    /// Sends a heartbeat.
    pub(super) async fn renew(&self) -> Result<Lease, LeaseWriteError> {
        let (kbps, caught_up) = (self.measure(), self.caught_up());
        self.write(LeaseWrite::Renew { kbps, caught_up }).await
    }

    /// The row as it stands in the table, by a heartbeat: with what others may have changed in it meanwhile.
    pub async fn look(&self) -> Result<Lease, LeaseWriteError> {
        self.renew().await
    }

    /// When the next heartbeat is due: `interval` after the last write, whatever that was, but now and then in any
    /// case.
    pub(super) fn renew_due(&self, interval: Duration) -> Instant {
        let state = self.state();
        (state.sent + interval).min(state.throughput.since + interval * THROUGHPUT_INTERVALS)
    }

    /// The throughput in KB/s, brought up to date: the mean of the average so far and what was read since.
    fn measure(&self) -> Option<f64> {
        let now = Instant::now();
        let mut state = self.state();
        let seconds = now.duration_since(state.throughput.since).as_secs_f64();
        if seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people and for balancing")]
            let now_kbps = self.bytes_read.swap(0, Ordering::Relaxed) as f64 / 1024.0 / seconds;
            let kbps = state.throughput.kbps.map_or(now_kbps, |average| f64::midpoint(average, now_kbps));
            state.throughput = Throughput { kbps: Some(kbps), since: now };
        }
        state.throughput.kbps
    }

    /// True while no other worker can have taken the lease: not lost, and within the failover time since before
    /// the last write that moved the counter was sent.
    pub fn is_valid(&self, now: Instant) -> bool {
        !self.lost.is_cancelled() && now < self.valid_until()
    }

    /// True while a write may still prove that nobody has taken the lease.
    pub(super) fn may_be_ours(&self, now: Instant) -> bool {
        !self.lost.is_cancelled() && now < self.given_up_at()
    }

    /// When the lease is given up unless a write succeeds.
    pub(super) fn given_up_at(&self) -> Instant {
        self.valid_until() + self.failover * LAPSED_FAILOVERS
    }

    /// Returns when the last write is younger than half a failover time, or the lease lost. Without it a shard is not
    /// polled: on a machine that cannot keep up polls give way to renewals, and a lapsed lease may be read by another.
    pub async fn renewed_lately(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.lost.is_cancelled() || self.last_write().elapsed() < self.failover / 2 {
                return;
            }
            tokio::select! {
                biased;
                () = self.lost.cancelled() => return,
                () = renewed => {}
            }
        }
    }

    /// Returns when a write is done that was sent after this call: nobody had taken the lease until then. Never where it is
    /// lost.
    pub async fn renewed_from_now(&self) {
        let now = Instant::now();
        loop {
            let renewed = self.renewed.notified();
            if self.lost.is_cancelled() {
                return std::future::pending().await;
            }
            if self.last_write() >= now {
                return;
            }
            tokio::select! {
                biased;
                () = self.lost.cancelled() => {}
                () = renewed => {}
            }
        }
    }

    /// Applies `write` to the row, on the condition that nobody else wrote since. Answers the row as written.
    ///
    /// May be dropped at any point; what was on the way then is sorted out by the next write. A successful
    /// [`LeaseWrite::Evict`] ends the lease, and so does a [`LeaseWrite::Assign`] to another worker.
    pub async fn write(&self, write: LeaseWrite) -> Result<Lease, LeaseWriteError> {
        let write = self.with_epoch(write);
        let mut candidates = self.writer.lock().await;
        let mut trouble: Option<Source> = None;
        for _ in 0..ATTEMPTS {
            let sent = Instant::now();
            if !self.may_be_ours(sent) {
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
                    let row = self.row();
                    if row.actual_owner() != Some(&self.me) {
                        self.lose();
                    }
                    return Ok(row);
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
        self.set_row(row, if moved { sent } else { known });
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
            self.set_row(current, self.last_write());
            return if children_set { Verdict::Done } else { Verdict::Ours };
        }
        // The earliest of equal candidates: validity must not be counted from a later one.
        let Some(found) = candidates.iter().find(|candidate| is_outcome(&current, &candidate.row)) else {
            return Verdict::Lost;
        };
        let sent = found.sent;
        let done = is_outcome(&current, asked);
        let still_ours = current.actual_owner() == Some(&self.me);
        self.set_row(current, sent);
        candidates.clear();
        match (done, still_ours) {
            (true, _) => Verdict::Done,
            (false, true) => Verdict::Ours,
            (false, false) => Verdict::Lost, // an earlier evict of ours
        }
    }

    fn set_row(&self, row: Lease, sent: Instant) {
        if row.checkpoint_owner.as_ref() == Some(&self.me) {
            self.handed_over.cancel();
        }
        let mut state = self.state();
        state.epochs.committed(&row.checkpoint);
        state.row = row;
        state.sent = sent;
        drop(state);
        self.renewed.notify_waiters();
    }

    /// No single call may eat the time in which the lease could still be renewed.
    fn call_timeout(&self) -> Duration {
        self.failover / 3
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when `row` is what a write of ours would have left. Children, hash keys, throughput and tip do not count:
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
mod tests;
