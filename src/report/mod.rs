//! What is known of a fleet, as `kinetide leases` prints it and `/api/leases` shows it. `docs/LEASES.md` documents the
//! members.
//!
//! Owns: the form, and the reading that all who ask a worker share (`live`).
//! Does not own: the words for a shard that is not read (`lease`), what the stream says of a checkpoint (`cli`).

mod live;

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use crate::batch::Content;
use crate::checkpoint::{PendingBatch, Stage};
use crate::clock::{utc, wall_clock_s, wall_clock_us};
use crate::lease::explain::{Explained, Reason, Standing};
use crate::lease::fleet::{CPU, Reads, THROUGHPUT};
use crate::lease::{Lease, LeaseKey, Observer, Pending, WorkerId};
use crate::shard::ShardId;

pub(crate) use live::{Live, LiveSettings};

/// A fleet at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) application: String,
    pub(crate) stream: Option<String>,
    /// For how long it was watched.
    pub(crate) watched_seconds: f64,
    pub(crate) leader: Option<LeaderReport>,
    /// Not read first, then by key.
    pub(crate) leases: Vec<LeaseReport>,
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) odd_rows: Vec<OddReport>,
    /// What could not be looked at, and why.
    pub(crate) notes: Vec<String>,
}

/// How a shard stands, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    NotRead,
    Unheard,
    Read,
    Finished,
}

#[derive(Debug, Serialize)]
pub(crate) struct LeaseReport {
    /// The key of the lease, as commands take it.
    pub(crate) lease: String,
    /// Its stream, in an application of several streams.
    pub(crate) stream: Option<String>,
    pub(crate) shard: String,
    pub(crate) state: State,
    /// A fixed word: why it is not read, or why the lease of a finished shard is kept.
    pub(crate) reason: Option<&'static str>,
    pub(crate) why: Option<String>,
    pub(crate) next_step: Option<&'static str>,
    /// For how long it has been so; for a shard that is read, since the last sign of life.
    pub(crate) for_seconds: Option<f64>,
    /// It was so from the first look on, perhaps for longer.
    pub(crate) at_least: bool,
    pub(crate) owner: Option<String>,
    /// Who gets it, during a hand-off.
    pub(crate) next_owner: Option<String>,
    pub(crate) counter: Option<u64>,
    pub(crate) checkpoint: Option<String>,
    pub(crate) checkpoint_sub: u64,
    #[serde(flatten)]
    pub(crate) lag: Lag,
    /// What arrived until this time is delivered, as the row says it, UTC.
    pub(crate) delivered_until: Option<String>,
    /// How long ago that was, ms: no record that is not delivered is older.
    pub(crate) delivered_age_ms: Option<u64>,
    pub(crate) pending: Option<PendingReport>,
    /// The batch that was prepared last, as long as no checkpoint has passed it.
    pub(crate) last_prepared: Option<PendingReport>,
    pub(crate) parents: Vec<String>,
    pub(crate) children: Vec<String>,
    pub(crate) owner_switches: u64,
    pub(crate) throughput_kbps: Option<f64>,
}

/// What the stream says of one checkpoint, where it was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Lag {
    /// Age of the last record that is done, ms.
    pub(crate) checkpoint_age_ms: Option<i64>,
    /// How far the next record is behind the tip, ms.
    pub(crate) millis_behind_latest: Option<u64>,
    /// The record at the checkpoint has left the stream, and what followed it may be lost.
    pub(crate) trimmed: bool,
    /// Why nothing is known, in short.
    pub(crate) lag_problem: Option<String>,
}

/// A batch that was prepared and not committed.
#[derive(Debug, Serialize)]
pub(crate) struct PendingReport {
    pub(crate) last: String,
    /// Prepared by kinetide; else by another application, whose batch is not continued.
    pub(crate) ours: bool,
    pub(crate) first: Option<String>,
    pub(crate) stage: Option<Stage>,
    pub(crate) transform: Option<String>,
    /// Where its objects are, in format 2.
    pub(crate) lake: Option<String>,
    /// Keys below the lake.
    pub(crate) objects: Vec<String>,
    /// What each of `objects` must hold, in format 2.
    pub(crate) proof: Option<Vec<ContentReport>>,
    /// Keys of earlier attempts: rows found there are not written again.
    pub(crate) sealed: Vec<String>,
    /// Why no worker of this version can go on with it.
    pub(crate) problem: Option<String>,
}

/// What proves an object.
#[derive(Debug, Serialize)]
pub(crate) struct ContentReport {
    pub(crate) rows: u64,
    /// Of the rows before compression, in hexadecimal digits as the lease row has it.
    pub(crate) hash: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct LeaderReport {
    pub(crate) worker: String,
    pub(crate) lease_seconds: f64,
    /// How long its lock has not moved.
    pub(crate) unmoved_seconds: f64,
    pub(crate) at_least: bool,
    pub(crate) released: bool,
    pub(crate) expired: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkerReport {
    pub(crate) worker: String,
    pub(crate) leader: bool,
    /// It may be given leases.
    pub(crate) active: bool,
    /// The streams that it reads; none for a worker that may be given leases of any.
    pub(crate) streams: Option<Vec<String>>,
    /// Open leases that it may renew.
    pub(crate) leases: usize,
    /// Shards that it reads by enhanced fan-out; none where it does not say.
    pub(crate) fan_out: Option<usize>,
    /// Share of its processors in use.
    pub(crate) cpu_percent: Option<f64>,
    /// Throughput in percent of its fair share.
    pub(crate) throughput_percent: Option<f64>,
    /// The youngest sign of life: a renewed lease, or its row, by its own clock.
    pub(crate) seen_seconds_ago: Option<f64>,
    pub(crate) has_row: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct OddReport {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Report {
    /// False when it is not known whether there should be leases: there are none, and the stream did not answer.
    #[cfg(feature = "cli")]
    pub(crate) fn looked(&self) -> bool {
        !self.leases.is_empty() || self.notes.is_empty()
    }

    /// What `observer` has seen, with what the stream said of checkpoints.
    pub(crate) fn new(
        application: &str,
        stream: Option<String>,
        observer: &Observer,
        mut lags: BTreeMap<LeaseKey, Lag>,
    ) -> Self {
        let since = |at: Instant| observer.now.duration_since(at).as_secs_f64();
        let started = observer.fleet.watching_since();
        let mut leases: Vec<LeaseReport> = observer
            .explained()
            .into_iter()
            .map(|explained| {
                let row = observer.fleet.get(&explained.key).map(|seen| &seen.lease);
                let lag = lags.remove(&explained.key).unwrap_or_default();
                let for_seconds = explained.since.map(since);
                LeaseReport { for_seconds, ..lease_report(explained, row, lag) }
            })
            .collect();
        leases.sort_by_key(|lease| lease.state);
        let leader = observer.leader.as_ref().map(|(row, moved)| LeaderReport {
            worker: row.owner.to_string(),
            lease_seconds: row.lease_duration.as_secs_f64(),
            unmoved_seconds: since(*moved),
            at_least: !observer.leader_heard,
            released: row.released,
            expired: observer.now.duration_since(*moved) > row.lease_duration,
        });
        Self {
            application: application.to_owned(),
            stream,
            watched_seconds: started.map_or(0.0, since),
            leader,
            leases,
            workers: workers(observer),
            odd_rows: observer
                .fleet
                .odd()
                .iter()
                .map(|row| OddReport { key: row.key.clone(), problem: row.problem.clone() })
                .collect(),
            notes: notes(observer),
        }
    }
}

fn notes(observer: &Observer) -> Vec<String> {
    let unlisted = observer.listing_problems().map(|problem| format!("shards: {problem}"));
    let off = observer.off().map(|stream| {
        format!(
            "the stream {} is turned off: its shards are read to their end, and changes made since are in no stream",
            stream.in_words()
        )
    });
    unlisted.chain(off).collect()
}

fn lease_report(explained: Explained, row: Option<&Lease>, lag: Lag) -> LeaseReport {
    let (state, reason, why) = match &explained.standing {
        Standing::Read => (State::Read, None, None),
        Standing::Unheard => (State::Unheard, None, None),
        Standing::NotRead(reason) => (State::NotRead, Some(reason.word()), Some(reason.to_string())),
        Standing::Finished(kept) => (State::Finished, Some(kept.word()), Some(kept.to_string())),
    };
    let next_step = match &explained.standing {
        Standing::NotRead(reason) => Some(Reason::next_step(reason)),
        _ => None,
    };
    let texts = |ids: &[ShardId]| ids.iter().map(|id| id.as_str().to_owned()).collect();
    let handing_off = row.is_some_and(|row| row.checkpoint_owner.is_some());
    let delivered_us = row.and_then(Lease::delivered_until_us);
    let name = |worker: Option<&WorkerId>| worker.map(|worker| worker.as_str().to_owned());
    LeaseReport {
        lease: explained.key.as_str().to_owned(),
        stream: explained.key.stream().map(ToString::to_string),
        shard: explained.key.shard().as_str().to_owned(),
        state,
        reason,
        why,
        next_step,
        for_seconds: None,
        at_least: explained.at_least,
        owner: name(row.and_then(Lease::actual_owner)),
        next_owner: name(row.filter(|_| handing_off).and_then(|row| row.owner.as_ref())),
        counter: row.map(|row| row.counter),
        checkpoint: row.map(|row| row.checkpoint.as_str().to_owned()),
        checkpoint_sub: row.map_or(0, |row| row.checkpoint.sub()),
        lag,
        delivered_until: delivered_us.map(utc),
        delivered_age_ms: delivered_us.map(|us| u64::try_from(wall_clock_us() - us).unwrap_or(0) / 1000),
        pending: row.and_then(|row| row.pending.as_ref()).map(pending_report),
        last_prepared: row
            .and_then(|row| row.last_prepared.as_ref())
            .map(|last| pending_report(&last.pending)),
        parents: row.map(|row| texts(&row.parents)).unwrap_or_default(),
        children: row.map(|row| texts(&row.children)).unwrap_or_default(),
        owner_switches: row.map_or(0, |row| row.owner_switches),
        throughput_kbps: row.and_then(|row| row.throughput_kbps),
    }
}

pub(crate) fn pending_report(pending: &Pending) -> PendingReport {
    let last = pending.checkpoint.as_str().to_owned();
    let unknown = PendingReport {
        last,
        ours: true,
        first: None,
        stage: None,
        transform: None,
        lake: None,
        objects: Vec::new(),
        proof: None,
        sealed: Vec::new(),
        problem: None,
    };
    match PendingBatch::from_pending(pending) {
        Ok(None) => PendingReport { ours: false, ..unknown },
        Err(error) => PendingReport { problem: Some(error.to_string()), ..unknown },
        Ok(Some(batch)) => {
            let (lake, contents) = batch.proof.map(|proof| (proof.lake, proof.contents)).unzip();
            let content = |content: Content| {
                let hash = format!("{:016x}", content.hash);
                ContentReport { rows: content.rows, hash }
            };
            PendingReport {
                first: Some(batch.first.sequence.as_str().to_owned()),
                stage: Some(batch.stage),
                transform: Some(batch.transform),
                lake,
                objects: batch.objects,
                proof: contents.map(|contents| contents.into_iter().map(content).collect()),
                sealed: batch.sealed,
                ..unknown
            }
        }
    }
}

/// Every worker that has a row or a lease, by id.
fn workers(observer: &Observer) -> Vec<WorkerReport> {
    let wall_clock = wall_clock_s();
    let mut all: BTreeMap<&WorkerId, WorkerReport> = BTreeMap::new();
    let leader = observer.leader.as_ref().filter(|(row, _)| !row.released).map(|(row, _)| &row.owner);
    let unknown = |worker: &WorkerId| WorkerReport {
        worker: worker.to_string(),
        leader: leader == Some(worker),
        active: false,
        streams: None,
        leases: 0,
        fan_out: None,
        cpu_percent: None,
        throughput_percent: None,
        seen_seconds_ago: None,
        has_row: false,
    };
    for seen in observer.fleet.workers() {
        let newest =
            |metric: &str| seen.row.samples.get(metric)?.last().copied().filter(|value| *value >= 0.0);
        let age = std::time::Duration::from_secs(wall_clock.saturating_sub(seen.row.updated));
        let streams = match seen.row.reads() {
            Reads::Any => None,
            Reads::These(streams) => Some(streams.iter().map(ToString::to_string).collect()),
        };
        let report = WorkerReport {
            streams,
            fan_out: seen.row.fan_out(),
            cpu_percent: newest(CPU),
            throughput_percent: newest(THROUGHPUT),
            seen_seconds_ago: Some(age.as_secs_f64()),
            has_row: true,
            ..unknown(&seen.row.id)
        };
        all.insert(&seen.row.id, report);
    }
    for seen in observer.fleet.leases().filter(|seen| !seen.lease.finished()) {
        let Some(owner) = seen.lease.actual_owner() else { continue };
        let worker = all.entry(owner).or_insert_with(|| unknown(owner));
        worker.leases += 1;
        if seen.heard {
            let ago = observer.now.duration_since(seen.since).as_secs_f64();
            worker.seen_seconds_ago = Some(worker.seen_seconds_ago.map_or(ago, |other| other.min(ago)));
        }
    }
    let active = observer.fleet.active_workers(observer.now, wall_clock);
    for seen in active {
        if let Some(worker) = all.get_mut(&seen.row.id) {
            worker.active = true;
        }
    }
    all.into_values().collect()
}
