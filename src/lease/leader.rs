//! Who leads: the lock of `amazon-dynamodb-lock-client`, as one worker observes it. Pure.
//!
//! Owns: first-seen times across looks, when to take, keep or give up the lock, and when its owner is overdue.
//! Does not own: reading and writing the row (`coordinator`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::LeaderRow;
use super::row::WorkerId;

/// How many workers on average look at the table when the leader falls silent. Of 500 workers all would read more in
/// seconds than they do in an hour; that none of so many stands by happens once in 3,000 fleets, and costs a moment.
const STANDBYS: f64 = 8.0;

/// The lock as observed. It is free when its version stands still for its own lease duration, counted from the end of
/// the read that first showed that version.
#[derive(Debug)]
pub struct LeaderWatch {
    me: WorkerId,
    duration: Duration,
    /// Decides whether we stand by: 0 always does, up to 1.
    lot: f64,
    seen: Option<Seen>,
    /// Versions that we have sent and that may stand in the row, each with the time before it was sent.
    sent: Vec<(LeaderRow, Instant)>,
    /// The last write that is known to stand in the row is ours, sent at this time.
    mine: Option<(LeaderRow, Instant)>,
    /// Since when the row has been read as absent.
    absent_since: Option<Instant>,
    /// What the row was when it was last read or written, whatever has been tried since.
    standing: Option<Standing>,
}

#[derive(Debug)]
struct Standing {
    /// None where there was no row.
    version: Option<Arc<str>>,
    since: Instant,
    duration: Duration,
}

#[derive(Debug)]
struct Seen {
    row: LeaderRow,
    since: Instant,
}

/// What to do about the lock now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// Read the row.
    Look,
    /// Write the lock in our name, on the condition that the row is as given. Begin with [`LeaderWatch::next`].
    Lead(Option<LeaderRow>),
}

impl LeaderWatch {
    /// Nothing seen yet. Our own lock is free after `duration` without a heartbeat. `lot` is drawn from 0 to 1.
    pub fn new(me: WorkerId, duration: Duration, lot: f64) -> Self {
        Self {
            me,
            duration,
            lot,
            seen: None,
            sent: Vec::new(),
            mine: None,
            absent_since: None,
            standing: None,
        }
    }

    /// Takes in the row as read; `returned` is the time after the read returned.
    pub fn observe(&mut self, row: Option<LeaderRow>, returned: Instant) {
        self.stands(row.as_ref(), returned);
        let Some(row) = row else {
            self.absent_since.get_or_insert(returned);
            self.mine = None;
            self.seen = None;
            return;
        };
        self.absent_since = None;
        let sent = self.sent.iter().find(|(sent, _)| sent.version == row.version);
        self.mine = sent.map(|(_, sent)| (row.clone(), *sent));
        match &mut self.seen {
            Some(seen) if seen.row.version == row.version => seen.row = row,
            _ => self.seen = Some(Seen { row, since: returned }),
        }
    }

    /// What to do at `now`, given that the row was looked at since the last write without an answer.
    pub fn step(&self, now: Instant) -> LockStep {
        let Some(seen) = &self.seen else {
            return if self.absent_since.is_some() { LockStep::Lead(None) } else { LockStep::Look };
        };
        if self.mine.is_some() {
            return LockStep::Lead(Some(seen.row.clone()));
        }
        // Those who stand by have looked at the table when the lock falls free, so they shall have it.
        let patience = if self.is_standby(&seen.row) { Duration::ZERO } else { self.duration / 4 };
        let free = seen.row.released || now.duration_since(seen.since) > seen.row.lease_duration + patience;
        if free { LockStep::Lead(Some(seen.row.clone())) } else { LockStep::Look }
    }

    /// The row to write now, with a version of its own; we count so many workers, who all read this format. Remembered, for
    /// its answer may be lost.
    pub fn next(&mut self, version: &str, workers: u64, pending_format: u64, now: Instant) -> LeaderRow {
        let row = LeaderRow {
            owner: self.me.clone(),
            lease_duration: self.duration,
            version: version.into(),
            released: false,
            workers,
            pending_format,
        };
        // More than a few unanswered writes in a row: the oldest can no longer be the one that stands.
        if self.sent.len() > 8 {
            self.sent.remove(0);
        }
        self.sent.push((row.clone(), now));
        row
    }

    /// The answer to the write of `row`: accepted, or refused because the row was another one.
    pub fn answered(&mut self, row: &LeaderRow, accepted: bool, now: Instant) {
        if accepted {
            let sent = self.sent.iter().find(|(sent, _)| sent.version == row.version);
            self.mine = sent.cloned();
            self.stands(Some(row), now);
            self.seen = Some(Seen { row: row.clone(), since: now });
            self.absent_since = None;
            self.sent.retain(|(sent, _)| sent.version == row.version);
        } else {
            // Unless a read says otherwise.
            self.mine = None;
            self.seen = None;
            self.absent_since = None;
        }
    }

    /// The last write had no answer: it may stand or not, so the row is read before it is written again.
    pub fn unanswered(&mut self) {
        self.seen = None;
        self.absent_since = None;
    }

    /// The row in our name, if we lead: nobody else can have taken the lock yet.
    pub fn leading(&self, now: Instant) -> Option<&LeaderRow> {
        let (row, sent) = self.mine.as_ref()?;
        (now < *sent + self.duration && !row.released).then_some(row)
    }

    /// The row in our name, as far as known, although its time may be over.
    pub fn mine(&self) -> Option<&LeaderRow> {
        self.mine.as_ref().map(|(row, _)| row)
    }

    /// True when it is not known what stands in the row: nothing was read since a write without an answer.
    pub fn is_unsure(&self) -> bool {
        self.seen.is_none() && self.absent_since.is_none()
    }

    /// When the lock has to be looked at or renewed again. Looks of many workers at one row are dear, so they come as
    /// seldom as heartbeats, and closer together when a heartbeat is late.
    pub fn due(&self, now: Instant) -> Instant {
        let on_time = |seen: &Seen| now.duration_since(seen.since) < seen.row.lease_duration / 4;
        match (&self.mine, &self.seen) {
            (Some((_, sent)), _) => *sent + self.duration / 3,
            (None, Some(seen)) if on_time(seen) => now + self.duration / 3,
            (None, _) => now + self.duration / 12,
        }
    }

    /// True when the leader has missed a heartbeat of ours and we stand by, so that we may have to lead soon.
    pub fn is_alert(&self, now: Instant) -> bool {
        let silent = |seen: &Seen| now.duration_since(seen.since) > seen.row.lease_duration / 2;
        let alert = |seen: &Seen| silent(seen) && self.is_standby(&seen.row);
        self.mine.is_none() && self.seen.as_ref().is_some_and(alert)
    }

    /// About [`STANDBYS`] workers stand by, not all: each reads the whole table when the leader falls silent.
    fn is_standby(&self, row: &LeaderRow) -> bool {
        row.workers == 0 || self.lot * row.workers as f64 <= STANDBYS
    }

    /// The lock as last read or written, and since when it stands still.
    pub fn seen(&self) -> Option<(&LeaderRow, Instant)> {
        self.seen.as_ref().map(|seen| (&seen.row, seen.since))
    }

    /// Who leads, as far as known.
    pub fn leader(&self) -> Option<&LeaderRow> {
        self.seen.as_ref().map(|seen| &seen.row).filter(|row| !row.released)
    }

    /// For how long there should have been another leader: the lock stands still beyond its duration, or is absent, for all
    /// that was tried to take it. Unknown before it was read.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let standing = self.standing.as_ref()?;
        Some(now.duration_since(standing.since).saturating_sub(standing.duration))
    }

    fn stands(&mut self, row: Option<&LeaderRow>, now: Instant) {
        let version = row.map(|row| Arc::clone(&row.version));
        if self.standing.as_ref().is_none_or(|standing| standing.version != version) {
            let duration = row.map_or(Duration::ZERO, |row| row.lease_duration);
            self.standing = Some(Standing { version, since: now, duration });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(10);

    fn row(owner: &str, version: &str, seconds: u64) -> LeaderRow {
        LeaderRow {
            owner: WorkerId::new(owner),
            lease_duration: Duration::from_secs(seconds),
            version: version.into(),
            released: false,
            workers: 0,
            pending_format: 2,
        }
    }

    fn watch() -> LeaderWatch {
        LeaderWatch::new(WorkerId::new("me"), DURATION, 1.0)
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_large_fleet_some_stand_by_and_the_others_wait_for_them() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let alert = |lot: f64, workers: u64| {
            let mut watch = LeaderWatch::new(WorkerId::new("me"), DURATION, lot);
            watch.observe(Some(LeaderRow { workers, ..row("a", "1", 10) }), start);
            assert_eq!(watch.step(at(10_000)), LockStep::Look);
            let (early, late) = (watch.step(at(10_001)), watch.step(at(12_501)));
            assert_ne!(late, LockStep::Look, "in the end anybody leads");
            assert_eq!(early != LockStep::Look, watch.is_alert(at(5_001)));
            watch.is_alert(at(5_001)) && !watch.is_alert(at(5_000))
        };
        assert!(alert(1.0, 0) && alert(1.0, 8) && !alert(1.0, 9));
        let standbys = (0..500).filter(|worker| alert((f64::from(*worker) + 0.5) / 500.0, 500)).count();
        assert_eq!(standbys, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_free_after_its_own_duration_without_another_version() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = watch();
        assert_eq!((watch.step(start), watch.overdue(start)), (LockStep::Look, None));
        watch.observe(Some(row("java", "a", 120)), start);
        watch.observe(Some(row("java", "a", 120)), at(100));
        assert_eq!(watch.step(at(120)), LockStep::Look);
        assert_eq!(watch.overdue(at(120)), Some(Duration::ZERO));
        assert!(watch.is_alert(at(61)));
        assert_eq!(watch.step(at(121)), LockStep::Lead(Some(row("java", "a", 120))));
        assert_eq!(watch.overdue(at(125)), Some(Duration::from_secs(5)));
        // A try that is refused or has no answer gives the fleet no leader.
        watch.unanswered();
        watch.observe(Some(row("java", "a", 120)), at(140));
        assert_eq!(watch.overdue(at(150)), Some(Duration::from_secs(30)));
        watch.observe(Some(row("java", "b", 120)), at(151));
        assert_eq!(watch.step(at(200)), LockStep::Look);
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_closer_together_while_a_heartbeat_is_late() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = watch();
        assert_eq!(watch.due(start), start + DURATION / 12);
        watch.observe(Some(row("a", "1", 10)), start);
        assert_eq!(watch.due(start), start + DURATION / 3);
        watch.observe(Some(row("a", "1", 10)), at(3300));
        assert_eq!(watch.due(at(3300)), at(3300) + DURATION / 12);
        watch.observe(Some(row("a", "2", 10)), at(4100));
        assert_eq!(watch.due(at(4100)), at(4100) + DURATION / 3);
        // A leader of another kind has heartbeats every half a minute, and may leave at any time.
        watch.observe(Some(row("java", "1", 120)), at(5000));
        assert_eq!(watch.due(at(29_000)), at(29_000) + DURATION / 3);
    }

    #[tokio::test(start_paused = true)]
    async fn absent_and_released_locks_are_free_at_once() {
        let start = Instant::now();
        let mut watch = watch();
        watch.observe(None, start);
        assert_eq!(watch.step(start), LockStep::Lead(None));
        let released = LeaderRow { released: true, ..row("java", "a", 120) };
        watch.observe(Some(released.clone()), start);
        assert_eq!(watch.step(start), LockStep::Lead(Some(released)));
        assert_eq!(watch.leader(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_an_answer_counts_from_when_it_was_sent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = watch();
        watch.observe(None, start);
        let mine = watch.next("v1", 3, 2, start);
        assert!(watch.leading(start).is_none());
        watch.unanswered();
        assert!(watch.is_unsure() && watch.mine().is_none());
        // It went through, as the next look shows.
        watch.observe(Some(mine.clone()), at(4));
        assert_eq!(watch.leading(at(9)), Some(&mine));
        assert_eq!((watch.leading(at(10)), watch.mine()), (None, Some(&mine)));
        let next = watch.next("v2", 3, 2, at(4));
        watch.answered(&next, true, at(5));
        assert_eq!(watch.leading(at(13)), Some(&next));
        // Somebody else has it after all.
        watch.answered(&next, false, at(6));
        assert_eq!((watch.leading(at(6)), watch.step(at(6))), (None, LockStep::Look));
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_former_life_is_another_worker() {
        let start = Instant::now();
        let mut watch = watch();
        watch.observe(Some(row("me", "before the restart", 10)), start);
        assert_eq!(watch.step(start), LockStep::Look);
        assert!(watch.leading(start).is_none());
    }
}
