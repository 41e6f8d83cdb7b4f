//! Why a shard is not being read, and since when, from what an observer of the lease table has seen.
//!
//! Owns: one answer for each lease, as a fixed word for machines and a sentence for people.
//! Does not own: the observation (`view`), what a pending batch is (`checkpoint`), anything inside the owner: a
//! worker that holds a lease and stands still there says so itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::{LeaderRow, OddRow, Reads};
use super::key::LeaseKey;
use super::row::{Lease, WorkerId};
use super::view::{FleetView, Seen};
use super::whose::{self, NotOurs, TELL_APART};
use crate::shard::graph::{Leased, children, missing_leases};
use crate::shard::{Checkpoint, Shard, ShardId, StreamId};

/// How long an owner may take for a graceful hand-off (KCL, `gracefulLeaseHandoffTimeoutMillis`).
pub const HAND_OFF_TIMEOUT: Duration = Duration::from_secs(30);
/// A leader looks for unowned leases every two failover times (KCL's `LeaseAssignmentManager`). After two of its
/// rounds it must have had a reason to leave one alone.
const ASSIGNED_WITHIN: u32 = 4;

/// All that is needed to explain: what was seen, and the time now.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The leases and workers, timed.
    pub fleet: &'a FleetView,
    /// The leader's lock, and the end of the read that first showed its version. `None`: there is no lock.
    pub leader: Option<(&'a LeaderRow, Instant)>,
    /// The streams that are known or listed: one that need not be known, or several, of which those count that are.
    pub streams: &'a [StreamSight<'a>],
    /// Whether lease keys of this application name their streams, where that is known.
    pub several: Option<bool>,
    /// Now, on the observer's monotonic clock.
    pub now: Instant,
    /// Now, in seconds since the epoch; only to see which workers are active.
    pub host_clock: u64,
}

/// One stream of the application.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamSight<'a> {
    /// Which one, where that is known.
    pub stream: Option<&'a StreamId>,
    /// Its shards, where they were listed.
    pub listing: Option<&'a [Shard]>,
}

/// One lease, or a shard that should have one.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Key of the lease.
    pub key: LeaseKey,
    /// Whether its shard is read.
    pub standing: Standing,
    /// Since when, where that can be seen: the last sign of life before it, as the observer timed it.
    pub since: Option<Instant>,
    /// It was so when the observer began to watch, perhaps for long.
    pub at_least: bool,
}

/// Whether a shard is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// A live owner holds its lease.
    Read,
    /// It has an owner, who was not heard yet and may still be in time.
    Unheard,
    /// Nobody reads it.
    NotRead(Reason),
    /// It was read to its end, and its lease is kept for now.
    Finished(Kept),
}

/// Why nobody reads a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nobody owns it; this leader will assign it.
    Unowned(WorkerId),
    /// Nobody owns it and nobody leads: the last leader, if any is named.
    NoLeader(Option<WorkerId>),
    /// Nobody owns it and no worker is active.
    NoWorker,
    /// Nobody owns it, and the leader does not give it to any of the active workers.
    NoRoom,
    /// These parent shards have to be read to their end before.
    WaitingForParents(Vec<ShardId>),
    /// Its owner has not renewed it for longer than the failover time.
    OwnerSilent {
        /// The owner.
        owner: WorkerId,
        /// There is a leader to give it to another worker.
        led: bool,
    },
    /// It was given to this worker, who has not begun.
    NotPickedUp(WorkerId),
    /// It is being handed from one worker to another.
    HandingOff(HandOff),
    /// A hand-off that takes too long, or whose old owner is silent.
    HandOffStuck(HandOff),
    /// The stream has the shard, and neither it nor an ancestor has a lease.
    NoLease,
    /// The row cannot be understood: what is wrong with it.
    NotUnderstood(String),
    /// The stream does not know the shard (any more).
    ShardUnknown,
    /// The lease is of another stream, or of a former one with the same name.
    NotOurs(NotOurs),
}

/// Who gives a lease to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct HandOff {
    /// `checkpointOwner`.
    pub from: WorkerId,
    /// `leaseOwner`.
    pub to: Option<WorkerId>,
}

/// Why the lease of a finished shard is still there.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// These parents have leases themselves.
    ParentsRemain(Vec<ShardId>),
    /// These children are not past their first record.
    ChildrenNotStarted(Vec<ShardId>),
    /// Its children are not known from here.
    ChildrenUnknown,
    /// It will be deleted at the next shard sync.
    Due,
}

impl Reason {
    /// Every word that [`Reason::word`] can say, in no particular order.
    pub const WORDS: [&'static str; 16] = [
        "unowned",
        "no_leader",
        "no_worker",
        "no_room",
        "waiting_for_parents",
        "owner_silent",
        "not_picked_up",
        "handing_off",
        "hand_off_stuck",
        "no_lease",
        "row_not_understood",
        "shard_unknown",
        "other_stream",
        "stream_recreated",
        "stream_mismatch",
        "stream_not_read",
    ];

    /// A fixed word, for metrics and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unowned(_) => "unowned",
            Self::NoLeader(_) => "no_leader",
            Self::NoWorker => "no_worker",
            Self::NoRoom => "no_room",
            Self::WaitingForParents(_) => "waiting_for_parents",
            Self::OwnerSilent { .. } => "owner_silent",
            Self::NotPickedUp(_) => "not_picked_up",
            Self::HandingOff(_) => "handing_off",
            Self::HandOffStuck(_) => "hand_off_stuck",
            Self::NoLease => "no_lease",
            Self::NotUnderstood(_) => "row_not_understood",
            Self::ShardUnknown => "shard_unknown",
            Self::NotOurs(NotOurs::Other { .. } | NotOurs::OtherForm { .. }) => "other_stream",
            Self::NotOurs(NotOurs::NotAmong { .. }) => "stream_not_read",
            Self::NotOurs(NotOurs::Former { .. }) => "stream_recreated",
            Self::NotOurs(NotOurs::Unlike { .. }) => "stream_mismatch",
        }
    }

    /// What to do about it, in a sentence for people.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Unowned(_) => "nothing to do: the leader assigns it within two failover times",
            Self::NoLeader(_) | Self::OwnerSilent { led: false, .. } => {
                "start a worker, or read the workers' logs: one of them becomes leader when the old lock \
                 expires"
            }
            Self::NoWorker => {
                "start a worker, or find out why none is active: an active worker writes its metrics row once \
                 per failover time (a Java worker every 30 s) and renews its leases"
            }
            Self::NoRoom => {
                "start another worker, or raise --leases-max or --throughput-max; the leader's log says why it \
                 does not assign the lease"
            }
            Self::WaitingForParents(_) => "nothing to do here: look at the lines of its parents",
            Self::OwnerSilent { led: true, .. } => {
                "the leader assigns it to another worker within two failover times; if not, read the leader's \
                 log, or remove the owner with `kinetide leases evict`"
            }
            Self::NotPickedUp(_) => {
                "the worker picks it up within a failover time; if not, read its log, or remove the owner with \
                 `kinetide leases evict`"
            }
            Self::HandingOff(_) => {
                "nothing to do: the old owner delivers its open batch first, which may take 30 s"
            }
            Self::HandOffStuck(_) => {
                "nothing to do: the leader ends the hand-off; to be faster, end it with `kinetide leases evict`"
            }
            Self::NoLease => {
                "nothing to do: the next shard sync creates the lease; if not, read the leader's log"
            }
            Self::NotUnderstood(_) => {
                "run a version that understands the row, or repair the row by hand; kinetide never changes it"
            }
            Self::ShardUnknown => {
                "check that --stream is the stream of this application; if it is, records that were not read \
                 in time are lost, and the leader deletes the lease unless it has a pending batch"
            }
            Self::NotOurs(NotOurs::NotAmong { .. }) => {
                "add the stream to the settings of the workers; or, when it is not to be read any more, delete its leases \
                 with `kinetide leases delete`"
            }
            Self::NotOurs(NotOurs::Other { .. } | NotOurs::OtherForm { .. }) => {
                "correct --stream, or use another --application for this stream; do not delete the lease, or \
                 its stream is delivered again from the beginning"
            }
            Self::NotOurs(NotOurs::Former { .. }) => {
                "check --region; if the stream was deleted and created again, stop the workers and delete its \
                 leases with `kinetide leases delete --all`, or use another --application"
            }
            Self::NotOurs(NotOurs::Unlike { .. }) => TELL_APART,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unowned(leader) => write!(f, "waits for the leader {leader} to assign it"),
            Self::NoLeader(None) => f.write_str("it has no owner, and there is no leader to assign it"),
            Self::NoLeader(Some(last)) => {
                write!(f, "it has no owner, and the lock of the leader {last} has expired")
            }
            Self::NoWorker => f.write_str("it has no owner, and no worker is active"),
            Self::NoRoom => f.write_str("it has no owner, and the leader finds no worker with room"),
            Self::WaitingForParents(parents) => {
                write!(f, "waits for {} to be read to the end", join(parents))
            }
            Self::OwnerSilent { owner, led: true } => write!(f, "its owner {owner} is silent"),
            Self::OwnerSilent { owner, led: false } => {
                write!(
                    f,
                    "its owner {owner} is silent, and there is no leader to assign it to another worker"
                )
            }
            Self::NotPickedUp(owner) => write!(f, "assigned to {owner}, which has not picked it up"),
            Self::HandingOff(hand_off) => write!(f, "being handed off {hand_off}"),
            Self::HandOffStuck(hand_off) => write!(f, "hand-off {hand_off} is stuck"),
            Self::NoLease => f.write_str("neither the shard nor an ancestor has a lease"),
            Self::NotUnderstood(problem) => write!(f, "its row is not understood: {problem}"),
            Self::ShardUnknown => {
                f.write_str("the stream does not list the shard; it may be past the retention")
            }
            Self::NotOurs(NotOurs::Other { of, .. }) => {
                write!(f, "its lease belongs to stream {}", of.in_words())
            }
            Self::NotOurs(NotOurs::Former { of, ours, .. }) => {
                write!(
                    f,
                    "its lease belongs to an earlier stream {}, and this is {}",
                    of.in_words(),
                    ours.in_words()
                )
            }
            Self::NotOurs(NotOurs::NotAmong { of, .. }) => {
                write!(f, "no active worker reads its stream {}", of.in_words())
            }
            Self::NotOurs(NotOurs::OtherForm { .. }) => {
                f.write_str("its key has another form than those of this application")
            }
            Self::NotOurs(NotOurs::Unlike { .. }) => f.write_str(
                "its lease does not belong to this stream: it belongs to another one, or this stream was \
                 deleted and created again",
            ),
        }
    }
}

impl fmt::Display for HandOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.as_ref().map_or("nobody", WorkerId::as_str);
        write!(f, "from {} to {to}", self.from)
    }
}

impl Kept {
    /// A fixed word, for JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ParentsRemain(_) => "parents_remain",
            Self::ChildrenNotStarted(_) => "children_not_started",
            Self::ChildrenUnknown => "children_unknown",
            Self::Due => "due",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ParentsRemain(parents) => write!(f, "kept until the lease of {} is deleted", join(parents)),
            Self::ChildrenNotStarted(children) => {
                write!(f, "kept until {} is past its first record", join(children))
            }
            Self::ChildrenUnknown => f.write_str("kept, because its child shards are unknown"),
            Self::Due => f.write_str("deleted at the next shard sync"),
        }
    }
}

fn join(shards: &[ShardId]) -> String {
    shards.iter().map(ShardId::as_str).collect::<Vec<_>>().join(" and ")
}

/// Every lease, every row that should be one, and every listed shard that nobody will get to, in order of their keys.
pub fn explain(sight: &Sight<'_>) -> Vec<Explained> {
    let context = Context::new(sight);
    let mut all: Vec<Explained> = sight.fleet.leases().map(|seen| context.lease(seen)).collect();
    let odd = sight.fleet.odd().iter().filter(|row| context.should_be_a_lease(row));
    all.extend(odd.map(|row| {
        let key = LeaseKey::parse(&row.key);
        not_seen(key, Reason::NotUnderstood(row.problem.clone()))
    }));
    all.extend(context.unleased().map(|key| not_seen(key, Reason::NoLease)));
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

fn not_seen(key: LeaseKey, reason: Reason) -> Explained {
    Explained { key, standing: Standing::NotRead(reason), since: None, at_least: false }
}

/// What is the same for all leases.
struct Context<'a> {
    sight: &'a Sight<'a>,
    streams: Vec<Listed<'a>>,
    /// What the active workers read; none where nobody is active.
    active: Option<Reads>,
}

/// One stream, with its shards by id.
struct Listed<'a> {
    stream: Option<&'a StreamId>,
    listing: Option<&'a [Shard]>,
    shards: Option<BTreeMap<&'a ShardId, &'a Shard>>,
    children: BTreeMap<&'a ShardId, Vec<&'a ShardId>>,
}

impl<'a> Context<'a> {
    fn new(sight: &'a Sight<'a>) -> Self {
        let index = |listing: &'a [Shard]| listing.iter().map(|shard| (&shard.id, shard)).collect();
        let listed = |sight: &StreamSight<'a>| Listed {
            stream: sight.stream,
            listing: sight.listing,
            shards: sight.listing.map(index),
            children: children(sight.listing.unwrap_or_default()),
        };
        Self {
            sight,
            streams: sight.streams.iter().map(listed).collect(),
            active: sight
                .fleet
                .active_workers(sight.now, sight.host_clock)
                .map(|worker| worker.row.reads())
                .reduce(Reads::or),
        }
    }

    /// The stream of a lease: the one that its key names, or where it names none the only one.
    fn of(&self, key: &LeaseKey) -> Option<&Listed<'a>> {
        match key.stream() {
            Some(stream) => self.streams.iter().find(|listed| listed.stream == Some(stream)),
            None => self.streams.first(),
        }
    }

    fn lease(&self, seen: &Seen) -> Explained {
        let (standing, since) = self.standing(seen);
        let at_least = since.is_some() && since <= self.sight.fleet.watching_since();
        Explained { key: seen.lease.key.clone(), standing, since, at_least }
    }

    fn standing(&self, seen: &Seen) -> (Standing, Option<Instant>) {
        let (lease, fleet, now) = (&seen.lease, self.sight.fleet, self.sight.now);
        let not_read = |reason, since| (Standing::NotRead(reason), since);
        if let Some(reason) = self.contradicts_stream(lease) {
            return not_read(reason, None);
        }
        if lease.finished() {
            return (Standing::Finished(self.kept(lease)), None);
        }
        if !fleet.is_ready(lease) {
            // An owner renews while it waits, so its counter does not tell since when.
            let since = lease.actual_owner().is_none().then_some(seen.since);
            return not_read(Reason::WaitingForParents(self.unfinished_parents(lease)), since);
        }
        let live = fleet.is_live(seen, now);
        if let Some(from) = &lease.checkpoint_owner {
            let hand_off = HandOff { from: from.clone(), to: lease.owner.clone() };
            let began = seen.handing_off_since.unwrap_or(seen.since);
            if live && now.duration_since(began) <= HAND_OFF_TIMEOUT + fleet.failover() {
                return not_read(Reason::HandingOff(hand_off), Some(began));
            }
            return not_read(Reason::HandOffStuck(hand_off), Some(began));
        }
        let Some(owner) = &lease.owner else {
            return not_read(self.unassigned(seen), Some(seen.since));
        };
        let standing =
            match (live, seen.heard) {
                (false, _) => Standing::NotRead(self.is_not_read(lease).unwrap_or_else(|| {
                    Reason::OwnerSilent { owner: owner.clone(), led: self.leader().is_ok() }
                })),
                (true, true) => Standing::Read,
                (true, false) if Some(seen.since) <= fleet.watching_since() => Standing::Unheard,
                (true, false) => Standing::NotRead(Reason::NotPickedUp(owner.clone())),
            };
        (standing, Some(seen.since))
    }

    /// Why the lease cannot be of the stream as it is listed.
    fn contradicts_stream(&self, lease: &Lease) -> Option<Reason> {
        let form = self.sight.several.map_or(Ok(()), |several| whose::check_form(lease, several));
        if let Err(other_form) = form {
            return Some(Reason::NotOurs(other_form));
        }
        let listed = self.of(&lease.key)?;
        let ours = listed.stream;
        if let Some(not_ours) = ours.and_then(|ours| whose::check(lease, ours).err()) {
            return Some(Reason::NotOurs(not_ours));
        }
        let shard = match listed.shards.as_ref()?.get(lease.key.shard()) {
            Some(shard) => shard,
            None if lease.finished() => return None,
            None => return Some(Reason::ShardUnknown),
        };
        // Read to its end, and still open.
        let ended = lease.finished() && !shard.closed;
        let contradicts = ended || whose::contradicts(lease, shard);
        contradicts.then(|| Reason::NotOurs(whose::contradiction(lease, ours)))
    }

    fn unfinished_parents(&self, lease: &Lease) -> Vec<ShardId> {
        let unfinished = |parent: &&ShardId| {
            let parent = self.sight.fleet.get(&lease.key.sibling(parent));
            parent.is_some_and(|parent| !parent.lease.finished())
        };
        lease.parents.iter().filter(unfinished).cloned().collect()
    }

    /// Workers are active, and none of them reads the stream of this lease.
    fn is_not_read(&self, lease: &Lease) -> Option<Reason> {
        let of =
            lease.key.stream().filter(|_| !self.active.as_ref().is_none_or(|all| all.allows(&lease.key)))?;
        Some(Reason::NotOurs(NotOurs::NotAmong { lease: lease.key.clone(), of: of.clone() }))
    }

    /// Why nobody has given this ready lease to a worker.
    fn unassigned(&self, seen: &Seen) -> Reason {
        let now = self.sight.now;
        let leader = match self.leader() {
            Ok(leader) => leader.clone(),
            Err(last) => return Reason::NoLeader(last.cloned()),
        };
        if self.active.is_none() {
            Reason::NoWorker
        } else if let Some(reason) = self.is_not_read(&seen.lease) {
            reason
        } else if now.duration_since(seen.since) > self.sight.fleet.failover() * ASSIGNED_WITHIN {
            Reason::NoRoom
        } else {
            Reason::Unowned(leader)
        }
    }

    /// Who leads, or who did last.
    fn leader(&self) -> Result<&WorkerId, Option<&WorkerId>> {
        match self.sight.leader {
            None => Err(None),
            Some((row, _)) if row.released => Err(None),
            Some((row, since)) if self.sight.now.duration_since(since) > row.lease_duration => {
                Err(Some(&row.owner))
            }
            Some((row, _)) => Ok(&row.owner),
        }
    }

    /// The rules of `shard::graph::deletable`, one by one.
    fn kept(&self, lease: &Lease) -> Kept {
        let fleet = self.sight.fleet;
        let of = |shard: &ShardId| fleet.get(&lease.key.sibling(shard));
        let remain: Vec<ShardId> =
            lease.parents.iter().filter(|parent| of(parent).is_some()).cloned().collect();
        if !remain.is_empty() {
            return Kept::ParentsRemain(remain);
        }
        let listed = self.of(&lease.key);
        let children: Vec<&ShardId> = match lease.children.as_slice() {
            [] => {
                listed.and_then(|listed| listed.children.get(lease.key.shard()).cloned()).unwrap_or_default()
            }
            named => named.iter().collect(),
        };
        let shards = listed.and_then(|listed| listed.shards.as_ref());
        let unlisted = |shard: &ShardId| shards.is_some_and(|shards| !shards.contains_key(shard));
        let forgotten = unlisted(lease.key.shard());
        let at_start = |child: &ShardId| match of(child) {
            Some(child) => {
                matches!(child.lease.checkpoint, Checkpoint::TrimHorizon | Checkpoint::AtTimestamp)
            }
            None => !(forgotten && unlisted(child)),
        };
        let waiting: Vec<ShardId> =
            children.iter().copied().filter(|child| at_start(child)).cloned().collect();
        if !waiting.is_empty() {
            Kept::ChildrenNotStarted(waiting)
        } else if children.is_empty() && !forgotten {
            Kept::ChildrenUnknown
        } else {
            Kept::Due
        }
    }

    /// KCL's lease keys end in a shard id; a worker's row has the id of the worker.
    fn should_be_a_lease(&self, row: &OddRow) -> bool {
        let key = LeaseKey::parse(&row.key);
        let shards = self.of(&key).and_then(|listed| listed.shards.as_ref());
        row.key.contains("shardId-") || shards.is_some_and(|shards| shards.contains_key(key.shard()))
    }

    /// Listed shards that need a lease and have none, not even an odd one. Nothing while the listing contradicts
    /// itself.
    fn unleased(&self) -> impl Iterator<Item = LeaseKey> {
        let several = self.sight.fleet.leases().any(|seen| seen.lease.key.stream().is_some());
        let all = self.streams.iter().flat_map(move |listed| {
            let stream = listed.stream.filter(|_| several);
            let of = |seen: &&Seen| seen.lease.key.stream() == stream;
            let leased = |seen: &Seen| {
                let (checkpoint, parents) = (seen.lease.checkpoint.clone(), seen.lease.parents.clone());
                let (children, hash_range) = (Vec::new(), seen.lease.hash_range);
                let leased = Leased { checkpoint, parents, children, hash_range, gone: false };
                (seen.lease.key.shard().clone(), leased)
            };
            let missing = listed.listing.and_then(|listing| {
                let leases = self.sight.fleet.leases().filter(of).map(leased).collect();
                missing_leases(listing, &leases, &Checkpoint::Latest).ok()
            });
            let missing = missing.unwrap_or_default().into_iter();
            missing.map(move |(shard, _)| LeaseKey::new(stream, &shard.id)).collect::<Vec<_>>()
        });
        all.filter(|key| !self.sight.fleet.odd().iter().any(|row| row.key == key.as_str()))
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
