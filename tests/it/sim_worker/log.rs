//! What the table and the lake accepted, in order, checked as it comes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use kinetide::internals::batch::{HIGH_RISK_ALERTS, read_records};
use kinetide::internals::deliver::Created;
use kinetide::internals::lease::{Lease, LeaseKey, WorkerId};
use kinetide::internals::shard::{Checkpoint, Position, ShardId};
use tokio::time::Instant;

/// One record: its shard and its number, which is its sequence number unless it is packed in another.
pub(super) type Place = (ShardId, u128);

pub(super) struct Log {
    start: Instant,
    pub(super) lines: Vec<String>,
    pub(super) rows: BTreeMap<LeaseKey, Lease>,
    /// Every row that ever had a pending batch, as it was written.
    pub(super) prepared: Vec<Lease>,
    /// Leases that were there once.
    known: BTreeSet<LeaseKey>,
    /// Shards that the stream has forgotten unread.
    pub(super) forgotten: BTreeSet<ShardId>,
    /// Shards whose lease said SHARD_END.
    pub(super) ended: BTreeSet<ShardId>,
    /// Who was told that a write to this counter is his.
    writers: BTreeMap<(LeaseKey, u64), WorkerId>,
    /// What was put into each shard, in order.
    pub(super) produced: BTreeMap<ShardId, Vec<u128>>,
    /// Where records are that are packed in others, by their numbers.
    pub(super) parts: BTreeMap<u128, Position>,
    /// The last record of each shard that is not to be read, as its row said when it was made or first pinned.
    pub(super) starts: BTreeMap<ShardId, u128>,
    /// The object that each record is in.
    pub(super) landed: HashMap<Place, String>,
    /// A worker has run that makes copies of records, or none.
    pub(super) copied: bool,
    /// Whether workers copied rows of high risk: each that has run says it.
    pub(super) alerts: BTreeSet<bool>,
    /// Records of which it makes none.
    pub(super) without_copies: BTreeSet<Place>,
    /// Objects that are not to be looked into.
    pub(super) unseen: BTreeSet<String>,
    /// How often something happened, to see that a run tries what it should.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// The first thing that must not be.
    pub(super) failure: Option<String>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            lines: Vec::new(),
            rows: BTreeMap::new(),
            prepared: Vec::new(),
            known: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            ended: BTreeSet::new(),
            writers: BTreeMap::new(),
            produced: BTreeMap::new(),
            parts: BTreeMap::new(),
            starts: BTreeMap::new(),
            landed: HashMap::new(),
            copied: false,
            alerts: BTreeSet::new(),
            without_copies: BTreeSet::new(),
            unseen: BTreeSet::new(),
            counts: BTreeMap::new(),
            failure: None,
        }
    }

    /// Where the record with this number is.
    pub(super) fn position(&self, number: u128) -> Position {
        self.parts.get(&number).cloned().unwrap_or_else(|| number.into())
    }

    pub(super) fn line(&mut self, text: impl std::fmt::Display) {
        self.lines.push(format!("{:>9} {text}", self.start.elapsed().as_millis()));
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// Notes what must not be. It ends the run at the next look, not here, amid the calls of a worker.
    fn must(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds && self.failure.is_none() {
            let problem = problem();
            self.line(format_args!("FAILURE: {problem}"));
            self.failure = Some(problem);
        }
    }

    /// The table accepted a write.
    pub(super) fn row_changed(&mut self, before: Option<&Lease>, after: Option<&Lease>) {
        let Some(row) = after else {
            let Some(old) = before else { return };
            self.line(format_args!("{} deleted", old.key));
            let over = old.finished() || self.forgotten.contains(old.key.shard());
            self.must(over, || format!("the lease of {} was deleted before its end", old.key));
            self.rows.remove(&old.key);
            return;
        };
        self.line(format_args!(
            "{} {} {} {} {}",
            row.key,
            row.owner.as_ref().map_or("nobody", WorkerId::as_str),
            row.counter,
            row.checkpoint.as_str(),
            row.pending.as_ref().map_or("-", |pending| pending.checkpoint.as_str()),
        ));
        match before {
            None => {
                let new = self.known.insert(row.key.clone());
                self.must(new, || format!("the lease of {} came back", row.key));
                self.begins(row);
            }
            Some(old) if is_symbolic(&old.checkpoint) && row.checkpoint != old.checkpoint => self.begins(row),
            Some(old) => {
                self.must(old.checkpoint <= row.checkpoint, || format!("{} moved back", row.key));
                let counted = old.counter == row.counter || old.counter + 1 == row.counter;
                self.must(counted, || format!("the counter of {} jumped", row.key));
                self.all_below_is_landed(old, row);
            }
        }
        if row.pending.is_some() && before.is_none_or(|before| before.pending != row.pending) {
            self.prepared.push(row.clone());
            let state = row.pending.as_ref().and_then(|pending| pending.state.as_deref()).unwrap_or_default();
            if state.windows(6).any(|text| text == b"\"seal\"") {
                self.count("repairs");
            }
            self.count("prepares");
        }
        if row.finished() {
            self.ended.insert(row.key.shard().clone());
        }
        self.rows.insert(row.key.clone(), row.clone());
    }

    /// The row says where reading begins.
    fn begins(&mut self, row: &Lease) {
        if !is_symbolic(&row.checkpoint) {
            let start = self.done(row).unwrap_or(0);
            self.starts.insert(row.key.shard().clone(), start);
        }
    }

    /// The last record that the row says is done: of an aggregate that was taken whole its last one.
    fn done(&self, row: &Lease) -> Option<u128> {
        let done = row.done()?;
        let first = number_of(&Position { sequence: done.sequence.clone(), sub: 0 });
        Some(match done.sub {
            Some(sub) => first + u128::from(sub),
            None => {
                let parts = self.parts.range(first..).take_while(|(_, at)| at.sequence == done.sequence);
                parts.last().map_or(first, |(number, _)| *number)
            }
        })
    }

    /// A checkpoint says: all of this is in the lake.
    fn all_below_is_landed(&mut self, old: &Lease, row: &Lease) {
        if old.checkpoint == row.checkpoint {
            return;
        }
        self.count("commits");
        let from = self.done(old).unwrap_or(0);
        let to = number(&row.checkpoint).unwrap_or(u128::MAX);
        let records = self.produced.get(row.key.shard()).map_or(&[][..], Vec::as_slice);
        let below = &records[records.partition_point(|at| *at <= from)..];
        let mut below = below.iter().take_while(|at| **at <= to);
        let is_done = |place: &Place| {
            self.landed.contains_key(place) || self.copied && self.without_copies.contains(place)
        };
        let missing = below.find(|at| !is_done(&(row.key.shard().clone(), **at))).copied();
        self.must(missing.is_none(), || {
            let checkpoint = row.checkpoint.as_str();
            format!("{}: checkpoint {checkpoint} and record {missing:?} is not in the lake", row.key)
        });
    }

    /// A worker was told that its write to this counter was accepted.
    pub(super) fn told(&mut self, key: &LeaseKey, counter: u64, worker: &WorkerId) {
        let first = self.writers.entry((key.clone(), counter)).or_insert_with(|| worker.clone());
        let alone = first == worker;
        self.must(alone, || format!("two accepted writers of {key} at {counter}"));
    }

    /// A put arrived at the lake.
    pub(super) fn object_put(&mut self, key: &str, body: &Bytes, created: Created) {
        self.line(format_args!("{key} {created:?} {} bytes", body.len()));
        if created == Created::Existed {
            return self.count("refused puts");
        }
        if self.unseen.contains(key) {
            return;
        }
        if key.starts_with(HIGH_RISK_ALERTS) {
            return self.count("alerts");
        }
        let records = read_records(body).unwrap();
        if records.is_empty() {
            return self.count("seals");
        }
        self.count("objects");
        let shard = shard_of(key);
        let parents = self.rows.get(&shard.clone().into()).map_or(&[][..], |row| &row.parents);
        let over = |parent: &ShardId| self.ended.contains(parent) || self.forgotten.contains(parent);
        let open = |parent: &&ShardId| self.known.contains(&(*parent).clone().into()) && !over(parent);
        let early = parents.iter().find(open).cloned();
        self.must(early.is_none(), || format!("records of {shard} delivered before the end of {early:?}"));
        for record in records {
            let place = (shard.clone(), number_of(&record.clone().position()));
            let other = self.landed.insert(place, key.to_owned());
            let alone = other.is_none() || self.copied && other.as_deref() == Some(key);
            self.must(alone, || {
                format!("record {} of {shard} is in {other:?} and in {key}", record.sequence)
            });
        }
    }
}

/// Every reader would take it for another place.
fn is_symbolic(checkpoint: &Checkpoint) -> bool {
    matches!(checkpoint, Checkpoint::Latest | Checkpoint::AtTimestamp)
}

fn number(checkpoint: &Checkpoint) -> Option<u128> {
    checkpoint.position().map(number_of)
}

/// Of a record that is packed in another the sequence number is followed by numbers that are no other's.
pub(super) fn number_of(at: &Position) -> u128 {
    at.sequence.as_str().parse::<u128>().unwrap() + u128::from(at.sub)
}

/// The shard in the key of an object.
pub(super) fn shard_of(key: &str) -> ShardId {
    let start = key.find("shardId-").unwrap();
    ShardId::new(&key[start..start + "shardId-000000000000".len()])
}
