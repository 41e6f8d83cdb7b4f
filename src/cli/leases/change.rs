//! What a change would write to one lease, decided from its row and whether its owner is alive. Pure.

use std::fmt;

use crate::checkpoint::PendingBatch;
use crate::lease::whose::{self, NotOurs, TELL_APART};
use crate::lease::{Lease, LeaseWrite, Pending, WorkerId};
use crate::shard::{Checkpoint, Position, SequenceNumber, Shard, StreamId};

/// One write to the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RowChange {
    Write(LeaseWrite),
    Delete,
}

/// What is to be done with one lease. No steps: there is nothing to do, and `does` says why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    /// The row that was seen; every write is on the condition that it is still so.
    pub(super) seen: Lease,
    /// Its owner was alive: heartbeats since then change nothing of what was planned.
    pub(super) live: bool,
    pub(super) steps: Vec<RowChange>,
    /// In words.
    pub(super) does: String,
    /// What it costs.
    pub(super) warnings: Vec<String>,
    /// Arguments of `kinetide leases` that take it back, where that is possible.
    pub(super) undo: Option<String>,
}

/// Why a lease is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{lease}: {problem}")]
pub(super) struct Refused {
    lease: String,
    problem: String,
}

impl Planned {
    fn new(
        seen: &Lease,
        live: bool,
        steps: impl IntoIterator<Item = LeaseWrite>,
        does: impl Into<String>,
    ) -> Self {
        Self {
            seen: seen.clone(),
            live,
            steps: steps.into_iter().map(RowChange::Write).collect(),
            does: does.into(),
            warnings: Vec::new(),
            undo: None,
        }
    }

    /// True when `now` is the row that was seen, renewed by the same live owner.
    pub(super) fn is_renewed(&self, now: &Lease) -> bool {
        let same = Lease {
            counter: self.seen.counter,
            throughput_kbps: self.seen.throughput_kbps,
            caught_up: self.seen.caught_up.clone(),
            ..now.clone()
        };
        self.live && now.counter > self.seen.counter && same == self.seen
    }
}

/// Hands a lease on: gracefully to the worker `to` where its owner is alive, else it is left to the leader.
pub(super) fn release(lease: &Lease, live: bool, to: Option<&WorkerId>) -> Planned {
    let to = to.filter(|_| live);
    match (lease.actual_owner(), to) {
        _ if lease.finished() => {
            Planned::new(lease, live, [], "nothing to do: its shard is finished and no longer read")
        }
        (None, _) => Planned::new(lease, live, [], "nothing to do: it has no owner"),
        (Some(from), _) if lease.checkpoint_owner.is_some() && live => {
            let to = lease.owner.as_ref().map_or("nobody", WorkerId::as_str);
            Planned::new(
                lease,
                live,
                [],
                format!("nothing to do: it is already being handed off from {from} to {to}"),
            )
        }
        (Some(from), Some(to)) => Planned::new(
            lease,
            live,
            [LeaseWrite::HandOff(to.clone())],
            format!("hand it off from {from} to {to}, once {from} has delivered its open batch"),
        ),
        (Some(_), None) => evict(lease, live),
    }
}

/// Takes a lease away from whoever has it.
pub(super) fn evict(lease: &Lease, live: bool) -> Planned {
    let state = if live { "" } else { ", who is silent" };
    match (lease.actual_owner(), &lease.checkpoint_owner, &lease.owner) {
        (None, ..) => Planned::new(lease, live, [], "nothing to do: it has no owner"),
        (Some(from), Some(_), Some(next)) => Planned::new(
            lease,
            live,
            [LeaseWrite::Evict],
            format!("remove its owner {from}{state}, which ends the hand-off: {next} continues"),
        ),
        (Some(from), ..) => Planned::new(
            lease,
            live,
            [LeaseWrite::Evict],
            format!("remove its owner {from}{state}; the leader assigns the lease to a worker"),
        ),
    }
}

/// What an operator allows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowed {
    /// Take the lease from a live owner first.
    pub(super) evict: bool,
    /// Deliver records twice, forget a pending batch.
    pub(super) force: bool,
}

/// Moves a checkpoint. `shard` is the lease's shard as the stream lists it, where that is known.
///
/// The lease is always taken from its owner first, silent or not: a commit moves the counter by one, and an owner that
/// finds its counter one higher takes that for a write of its own whose answer was lost (KCL's renewer).
pub(super) fn set_checkpoint(
    lease: &Lease,
    live: bool,
    target: &Checkpoint,
    shard: Option<&Shard>,
    allowed: Allowed,
) -> Result<Planned, Refused> {
    let refused = |problem: String| Err(Refused { lease: lease.key.to_string(), problem });
    let before = Written(&lease.checkpoint);
    let accepts = lease.read_upto().is_some_and(|written| written.names(target));
    if lease.checkpoint == *target && lease.pending.is_none() && !accepts {
        return Ok(Planned::new(
            lease,
            live,
            [],
            format!("nothing to do: its checkpoint is already {before}"),
        ));
    }
    if live && !allowed.evict {
        let owner = lease.actual_owner().map_or("a worker", WorkerId::as_str);
        return refused(format!(
            "{owner} reads it; give --evict to remove its owner first, or stop the workers"
        ));
    }
    if let (Checkpoint::At(position), Some(shard)) = (target, shard)
        && position.sequence < shard.starting_sequence_number
    {
        let start = &shard.starting_sequence_number;
        return refused(format!("{} is before the start of the shard, {start}", position.sequence));
    }
    let mut warnings = Vec::new();
    if let Some(pending) = &lease.pending {
        let batch = in_words(pending);
        if !allowed.force {
            return refused(format!(
                "{batch}: its rows may already be in the lake and would be delivered again; let a worker complete it, \
                 or give --force"
            ));
        }
        warnings.push(format!("{batch} and will be dropped: its rows that are in the lake stay there"));
    }
    match way(&lease.checkpoint, target) {
        Way::Same => {}
        Way::Back if !allowed.force => {
            return refused(format!(
                "{} is before its checkpoint {before}: the records between them would be delivered twice; give --force \
                 if you want that",
                Written(target)
            ));
        }
        Way::Back => warnings.push(format!(
            "records from {} to {before} that are already in the lake will be delivered twice",
            Written(target)
        )),
        Way::Ahead => warnings.push(format!(
            "records from {before} to {} that are not yet delivered will never be delivered",
            Written(target)
        )),
    }
    // During a hand-off the first one only ends it.
    let owners = lease.owner.iter().chain(&lease.checkpoint_owner).count();
    let evictions = std::iter::repeat_n(LeaseWrite::Evict, owners);
    let steps = evictions.chain([LeaseWrite::commit(target.clone())]);
    let from =
        lease.actual_owner().map(|owner| format!("remove its owner {owner}, then ")).unwrap_or_default();
    let does = match lease.checkpoint == *target && lease.pending.is_none() {
        true => {
            format!("{from}keep its checkpoint {before}, and read on there whatever the log holds by now")
        }
        false => format!("{from}move its checkpoint from {before} to {}", Written(target)),
    };
    let undo = format!("set-checkpoint {} {before} --evict --force", lease.key);
    Ok(Planned { warnings, undo: Some(undo), ..Planned::new(lease, live, steps, does) })
}

/// Whether these leases may be deleted: they are those of the stream that was named, as far as one can tell. Deleting
/// those of another stream would deliver that one again.
///
/// # Errors
/// Why not, in words.
pub(super) fn may_delete(
    leases: &[Lease],
    stream: Option<&StreamId>,
    listing: Option<&[Shard]>,
) -> Result<(), String> {
    let named = leases.iter().find_map(|lease| Some((&lease.key, lease.stream.as_ref()?)));
    let Some(stream) = stream else {
        let whose = named.map_or(String::new(), |(lease, stream)| {
            let name = StreamId::parse(stream).map_or(stream.to_string(), |stream| stream.name().to_owned());
            format!(": the lease of {lease} belongs to stream {name}")
        });
        return Err(format!("set --stream to the stream whose leases to delete{whose}"));
    };
    let stranger = |lease: &Lease| whose::check(lease, stream).err().filter(NotOurs::is_wrong_setting);
    if let Some(problem) = leases.iter().find_map(stranger) {
        return Err(problem.to_string());
    }
    // They do not say whose they are.
    let unlike = |lease: &&Lease| {
        let shard = listing.and_then(|listing| listing.iter().find(|shard| shard.id == *lease.key.shard()));
        lease.stream.is_none() && shard.is_some_and(|shard| whose::contradicts(lease, shard))
    };
    match leases.iter().find(unlike) {
        Some(lease) => Err(format!(
            "the lease of {} does not belong to stream {} as it is now: {TELL_APART}; --force deletes them anyway",
            lease.key,
            stream.name()
        )),
        None => Ok(()),
    }
}

/// Removes a lease whose owner is not alive.
pub(super) fn delete(lease: &Lease, live: bool) -> Result<Planned, Refused> {
    if live {
        let owner = lease.actual_owner().map_or("a worker", WorkerId::as_str);
        let problem = format!("{owner} reads it; stop the workers first");
        return Err(Refused { lease: lease.key.to_string(), problem });
    }
    let mut warnings = Vec::new();
    if let Some(pending) = &lease.pending {
        warnings.push(format!(
            "{} and will be dropped: its rows that are in the lake stay there",
            in_words(pending)
        ));
    }
    let does = format!("delete the lease, with its checkpoint {}", Written(&lease.checkpoint));
    Ok(Planned { steps: vec![RowChange::Delete], warnings, ..Planned::new(lease, live, [], does) })
}

fn in_words(pending: &Pending) -> String {
    match PendingBatch::from_pending(pending) {
        Ok(Some(batch)) => {
            let streamed = if batch.streamed { " and rows for Firehose" } else { "" };
            let (last, objects) = (batch.last.sequence, batch.objects.len());
            format!("a batch up to {last} with {objects} objects{streamed} is pending")
        }
        Ok(None) => {
            format!("a batch up to {} of another application is pending", Written(&pending.checkpoint))
        }
        Err(error) => error.to_string(),
    }
}

/// What a move of the checkpoint does to records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Same,
    /// Some would be delivered again.
    Back,
    /// Some would not be delivered at all.
    Ahead,
}

/// KCL's order, except that LATEST is where the tip is when reading starts: ahead of every position.
fn way(from: &Checkpoint, to: &Checkpoint) -> Way {
    let rank = |at: &Checkpoint| match at {
        Checkpoint::TrimHorizon => 0,
        Checkpoint::AtTimestamp => 1,
        Checkpoint::At(_) => 2,
        Checkpoint::Latest => 3,
        Checkpoint::ShardEnd => 4,
    };
    match rank(to).cmp(&rank(from)).then_with(|| to.cmp(from)) {
        std::cmp::Ordering::Less => Way::Back,
        std::cmp::Ordering::Equal => Way::Same,
        std::cmp::Ordering::Greater => Way::Ahead,
    }
}

/// A checkpoint as people write it: [`parse_checkpoint`] reads it back.
pub(super) struct Written<'a>(pub(super) &'a Checkpoint);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Checkpoint::At(Position { sequence, sub: 0 }) => write!(f, "{sequence}"),
            Checkpoint::At(Position { sequence, sub }) => write!(f, "{sequence}/{sub}"),
            sentinel => f.write_str(&sentinel.as_str().to_lowercase().replace('_', "-")),
        }
    }
}

/// Reads `trim-horizon`, `latest`, `at-timestamp`, `shard-end`, or a sequence number, with `/N` for a record inside a
/// KPL aggregate.
pub(super) fn parse_checkpoint(text: &str) -> Result<Checkpoint, String> {
    let (sequence, sub) = match text.split_once('/') {
        Some((sequence, sub)) => (sequence, sub.parse().ok()),
        None => (text, Some(0)),
    };
    let sentinel = || Checkpoint::parse(&text.to_uppercase().replace('-', "_"), 0);
    let number = || Some(Checkpoint::At(Position { sequence: SequenceNumber::parse(sequence)?, sub: sub? }));
    number().or_else(sentinel).ok_or_else(|| {
        "must be trim-horizon, latest, at-timestamp, shard-end, or the sequence number of the last record that is done"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::apply;
    use crate::shard::{HashKeyRange, ShardId, WrittenBy};

    fn shard() -> Shard {
        Shard {
            id: ShardId::new("shardId-000000000000"),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: u128::MAX }),
            starting_sequence_number: SequenceNumber::from(100),
            closed: false,
        }
    }

    fn at(number: u128) -> Checkpoint {
        Checkpoint::At(Position::new(SequenceNumber::from(number)))
    }

    fn lease(owner: Option<&str>, from: Option<&str>) -> Lease {
        Lease {
            owner: owner.map(WorkerId::new),
            checkpoint_owner: from.map(WorkerId::new),
            ..Lease::new(&shard(), at(200))
        }
    }

    fn pending(state: Option<&[u8]>) -> Lease {
        let pending = Pending { checkpoint: at(300), state: state.map(Into::into) };
        Lease { pending: Some(pending), ..lease(None, None) }
    }

    const ALL: Allowed = Allowed { evict: true, force: true };

    #[test]
    fn leases_of_another_stream_are_not_deleted() {
        let of = |stream: &str| Lease { stream: Some(stream.into()), ..lease(None, None) };
        let unnamed = lease(None, None);
        let trades = StreamId::parse("1:trades:1000").unwrap();
        let listing = [shard()];
        let may = |leases: &[Lease], stream: Option<&StreamId>| may_delete(leases, stream, Some(&listing));
        // Of this stream, or of a former one of its name.
        for ours in ["1:trades:1000", "1:trades:999"] {
            assert_eq!(may(&[of(ours), unnamed.clone()], Some(&trades)), Ok(()));
        }
        // The stream is gone, and only its name is known.
        assert_eq!(may_delete(&[of("1:trades:9")], Some(&StreamId::named("trades")), None), Ok(()));
        for other in ["1:orders:1000", "2:trades:1000"] {
            let refused = may(&[unnamed.clone(), of(other)], Some(&trades)).unwrap_err();
            assert!(refused.contains("do not delete") && !refused.contains("delete --all"), "{refused}");
        }
        let refused = may(&[of("1:trades:1000")], None).unwrap_err();
        assert!(refused.contains("--stream") && refused.contains("belongs to stream trades"), "{refused}");
        assert!(may(&[], None).is_err());
        // A row that does not say it, and contradicts the stream: it may be of either.
        let older = Lease { checkpoint: at(99), ..unnamed };
        let refused = may(&[older], Some(&trades)).unwrap_err();
        assert!(refused.contains("another stream") && refused.contains("--force"), "{refused}");
    }

    #[test]
    fn a_release_is_graceful_where_it_can_be() {
        let b = WorkerId::new("b");
        let step = |lease: &Lease, live, to| release(lease, live, to).steps;
        let owned = lease(Some("a"), None);
        assert_eq!(step(&owned, true, Some(&b)), [RowChange::Write(LeaseWrite::HandOff(b.clone()))]);
        let evict = [RowChange::Write(LeaseWrite::Evict)];
        assert_eq!(step(&owned, true, None), evict);
        assert_eq!(step(&owned, false, Some(&b)), evict);
        assert_eq!(step(&lease(Some("b"), Some("a")), false, Some(&b)), evict);
        let finished = Lease { checkpoint: Checkpoint::ShardEnd, ..owned };
        for nothing in [lease(None, None), lease(Some("b"), Some("a")), finished] {
            assert_eq!(step(&nothing, true, Some(&b)), []);
        }
    }

    #[test]
    fn an_eviction_says_who_reads_on() {
        let plan = evict(&lease(Some("b"), Some("a")), true);
        assert!(plan.does.contains("b continues"), "{}", plan.does);
        assert!(evict(&lease(Some("a"), None), false).does.contains("silent"));
        assert_eq!(evict(&lease(None, None), false).steps, []);
    }

    #[test]
    fn a_checkpoint_is_moved_only_after_its_owner_is_gone() {
        for owned in [lease(None, None), lease(Some("a"), None), lease(Some("b"), Some("a"))] {
            let plan = set_checkpoint(&owned, true, &at(250), None, ALL).unwrap();
            let mut row = owned;
            for step in &plan.steps {
                let RowChange::Write(write) = step else { panic!("{step:?}") };
                if let LeaseWrite::Commit { .. } = write {
                    assert_eq!(row.actual_owner(), None);
                }
                row = apply(&row, write);
            }
            assert_eq!((row.checkpoint, row.owner, row.checkpoint_owner), (at(250), None, None));
        }
    }

    #[track_caller]
    fn refuses(lease: &Lease, live: bool, target: &Checkpoint, allowed: Allowed, word: &str) {
        let refused = set_checkpoint(lease, live, target, Some(&shard()), allowed).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }

    #[test]
    fn what_loses_or_doubles_records_has_to_be_allowed() {
        let (free, none) = (lease(None, None), Allowed::default());
        refuses(&lease(Some("a"), None), true, &at(250), none, "--evict");
        refuses(&free, false, &at(99), ALL, "before the start");
        refuses(&free, false, &at(150), none, "delivered twice");
        refuses(&free, false, &Checkpoint::TrimHorizon, none, "delivered twice");
        refuses(&pending(None), false, &at(400), none, "another application");
        refuses(&pending(Some(b"{\"kinetide\":9}")), false, &at(400), none, "newer version");
        let warns = |lease: &Lease, target: &Checkpoint, word: &str| {
            let plan = set_checkpoint(lease, false, target, Some(&shard()), ALL).unwrap();
            assert!(plan.warnings.iter().any(|warning| warning.contains(word)), "{plan:?}");
        };
        warns(&free, &at(150), "delivered twice");
        warns(&free, &at(250), "never");
        warns(&free, &Checkpoint::Latest, "never");
        warns(&pending(None), &at(200), "will be dropped");
        assert_eq!(set_checkpoint(&free, false, &at(200), None, none).unwrap().steps, []);
    }

    /// Who has compared a log that was cut with the producers may want to read on where the checkpoint is.
    #[test]
    fn a_log_is_accepted_as_it_is_by_its_own_checkpoint() {
        let written = Some(WrittenBy { upto: SequenceNumber::from(200), epoch: 3 });
        let row = Lease { written, ..lease(None, None) };
        let plan = set_checkpoint(&row, false, &at(200), None, Allowed::default()).unwrap();
        assert!(plan.does.contains("keep its checkpoint"), "{}", plan.does);
        let [RowChange::Write(write)] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
        let after = apply(&row, write);
        assert_eq!((after.checkpoint, after.written), (at(200), None));
    }

    #[test]
    fn undo_gives_the_checkpoint_back() {
        let sub = Checkpoint::At(Position { sequence: SequenceNumber::from(7), sub: 3 });
        let all = [
            Checkpoint::AtTimestamp,
            Checkpoint::TrimHorizon,
            Checkpoint::Latest,
            Checkpoint::ShardEnd,
            at(7),
            sub,
        ];
        for before in all {
            let row = Lease { checkpoint: before.clone(), ..lease(None, None) };
            let undo = set_checkpoint(&row, false, &at(9), None, ALL).unwrap().undo.unwrap();
            let text = undo.split(' ').nth(2).unwrap();
            assert_eq!(parse_checkpoint(text), Ok(before.clone()));
            assert_eq!(parse_checkpoint(before.as_str()).unwrap().as_str(), before.as_str());
        }
        for wrong in ["", "yesterday", "12x", "7/", "7/x", "-7"] {
            assert!(parse_checkpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_leases_without_a_live_owner_are_deleted() {
        assert!(delete(&lease(Some("a"), None), true).unwrap_err().to_string().contains("stop the workers"));
        assert_eq!(delete(&lease(Some("a"), None), false).unwrap().steps, [RowChange::Delete]);
        assert_eq!(delete(&pending(None), false).unwrap().warnings.len(), 1);
    }
}
