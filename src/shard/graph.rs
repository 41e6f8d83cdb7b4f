//! The family tree of shards: which shard may be read yet, which leases are missing, which are done with.
//!
//! Owns: the rules of KCL's `HierarchicalShardSyncer` and `LeaseCleanupManager`, as functions of a listing and
//! of what the lease table holds.
//! Does not own: the reads and writes around them (`lease::coordinator`).

use std::collections::{BTreeMap, BTreeSet};

use super::audit::holes;
use super::{Checkpoint, HashKeyRange, Shard, ShardId};

/// What the lease table says about one shard, as far as the rules here need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// How far the shard is read.
    pub checkpoint: Checkpoint,
    /// Its parents, as the lease row names them.
    pub parents: Vec<ShardId>,
    /// Its children, as far as the lease row names them.
    pub children: Vec<ShardId>,
    /// Its hash keys, if the lease row names them.
    pub hash_range: Option<HashKeyRange>,
    /// The stream has forgotten the shard (see [`Watch`](super::audit::Watch)): nobody can read it any more.
    pub gone: bool,
}

impl Leased {
    /// True when nothing more is read by this lease.
    fn is_over(&self) -> bool {
        self.checkpoint == Checkpoint::ShardEnd || self.gone
    }

    /// True when the shard takes over hash keys of this one, which is gone, perhaps with the shards between the two.
    fn is_followed_by(&self, shard: &Shard) -> bool {
        self.hash_range.zip(shard.hash_range).is_some_and(|(mine, theirs)| mine.overlaps(&theirs))
    }
}

/// The shards that have a lease.
pub type Leases = BTreeMap<ShardId, Leased>;

/// A listing that contradicts itself; normal for a moment around a reshard, so list again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// KCL's rule: a child appears only after its parent is closed.
    #[error("shard {child} is listed while its parent {parent} is still open; list again")]
    OpenParent {
        /// The child.
        child: ShardId,
        /// Its open parent.
        parent: ShardId,
    },
    /// The listing seems to be older than what the lease says: read to the end of an open shard, or of a shard that is
    /// to come. If it stays so, the stream is not that of the leases.
    #[error("the lease of {lease} is ahead of the listed shards; list again")]
    Behind {
        /// Key of the lease.
        lease: ShardId,
    },
    /// A shard that is its own ancestor.
    #[error("the listed shards descend from each other in a circle; list again")]
    Circle,
}

/// True when a shard with these parents may be read: each parent is read to its end, or has no lease (any more).
pub fn ready<'a>(parents: &[ShardId], checkpoint_of: impl Fn(&ShardId) -> Option<&'a Checkpoint>) -> bool {
    parents.iter().all(|parent| checkpoint_of(parent).is_none_or(|at| *at == Checkpoint::ShardEnd))
}

/// The leases to create so that every open shard is read now or by way of its ancestors, in order of starting
/// sequence number, then shard id. Serves the empty table and every later sync.
///
/// Only the oldest level that is needed gets leases; their descendants get theirs at shard end. A shard without
/// any leased ancestor starts at `initial`: the open shards themselves for LATEST, the oldest listed ancestors
/// otherwise. Older relatives of a leased shard start at TRIM_HORIZON, or at AT_TIMESTAMP if that is `initial`; and so
/// do those that come after a lease whose shard is gone, for they go on where it stopped.
pub fn missing_leases<'a>(
    listing: &'a [Shard],
    leases: &Leases,
    initial: &Checkpoint,
) -> Result<Vec<(&'a Shard, Checkpoint)>, Inconsistent> {
    let shards: BTreeMap<&ShardId, &Shard> = listing.iter().map(|shard| (&shard.id, shard)).collect();
    let parents_of =
        |shard: &'a Shard| shard.parents.iter().filter_map(|id| shards.get(id).copied()).collect::<Vec<_>>();
    for shard in listing.iter().filter(|shard| !shard.closed) {
        if let Some(parent) = parents_of(shard).into_iter().find(|parent| !parent.closed) {
            return Err(Inconsistent::OpenParent { child: shard.id.clone(), parent: parent.id.clone() });
        }
    }
    let oldest_first = oldest_first(&shards)?;

    // Leased, or with a leased ancestor: read already, or to be created when that ancestor ends.
    let gone: Vec<&Leased> = leases.values().filter(|lease| lease.gone).collect();
    let mut descends: BTreeSet<&ShardId> = BTreeSet::new();
    for &shard in &oldest_first {
        let below = |parent: &ShardId| leases.contains_key(parent) || descends.contains(parent);
        if leases.contains_key(&shard.id)
            || shard.parents.iter().any(below)
            || gone.iter().any(|lease| lease.is_followed_by(shard))
        {
            descends.insert(&shard.id);
        }
    }

    let old_relative = match initial {
        Checkpoint::AtTimestamp => Checkpoint::AtTimestamp,
        _ => Checkpoint::TrimHorizon,
    };
    // A parent that the stream has forgotten and that has no lease is as good as ended.
    let ended =
        |parent: &ShardId| leases.get(parent).map_or(!shards.contains_key(parent), |lease| lease.is_over());
    let parents: BTreeSet<&ShardId> = listing.iter().flat_map(|shard| &shard.parents).collect();
    let is_last = |shard: &Shard| *initial != Checkpoint::Latest && !parents.contains(&shard.id);
    let mut wanted: BTreeSet<&ShardId> = BTreeSet::new();
    let mut missing = Vec::new();
    for &shard in oldest_first.iter().rev() {
        let is_wanted = !shard.closed || wanted.contains(&shard.id) || is_last(shard);
        if !is_wanted || leases.contains_key(&shard.id) {
            continue;
        }
        let parents = parents_of(shard);
        // With every parent at its end nobody else will create this lease any more.
        let stop_here = if descends.contains(&shard.id) {
            shard.parents.iter().all(ended)
        } else {
            *initial == Checkpoint::Latest || parents.is_empty()
        };
        if !stop_here {
            wanted.extend(parents.iter().map(|parent| &parent.id));
        } else if descends.contains(&shard.id) || shard.closed {
            missing.push((shard, old_relative.clone()));
        } else {
            missing.push((shard, initial.clone()));
        }
    }
    missing.sort_by(|(a, _), (b, _)| {
        a.starting_sequence_number.cmp(&b.starting_sequence_number).then_with(|| a.id.cmp(&b.id))
    });
    Ok(missing)
}

/// The shards, each after its listed parents.
fn oldest_first<'a>(shards: &BTreeMap<&'a ShardId, &'a Shard>) -> Result<Vec<&'a Shard>, Inconsistent> {
    let mut children: BTreeMap<&ShardId, Vec<&'a Shard>> = BTreeMap::new();
    let mut parents_left: BTreeMap<&ShardId, usize> = BTreeMap::new();
    for &shard in shards.values() {
        let listed = shard.parents.iter().filter(|parent| shards.contains_key(parent));
        parents_left.insert(&shard.id, listed.clone().count());
        for parent in listed {
            children.entry(parent).or_default().push(shard);
        }
    }
    let mut order: Vec<&Shard> = shards.values().copied().filter(|s| parents_left[&s.id] == 0).collect();
    let mut done = 0;
    while let Some(&shard) = order.get(done) {
        done += 1;
        for &child in children.get(&shard.id).into_iter().flatten() {
            if let Some(left) = parents_left.get_mut(&child.id) {
                *left -= 1;
                if *left == 0 {
                    order.push(child);
                }
            }
        }
    }
    if order.len() == shards.len() { Ok(order) } else { Err(Inconsistent::Circle) }
}

/// The children of each shard, where the listing names all of them: those of a listed shard take over all of its hash
/// keys, if it has any.
pub fn children(listing: &[Shard]) -> BTreeMap<&ShardId, Vec<&ShardId>> {
    let mut children: BTreeMap<&ShardId, Vec<&Shard>> = BTreeMap::new();
    for shard in listing {
        for parent in &shard.parents {
            children.entry(parent).or_default().push(shard);
        }
    }
    for parent in listing {
        if let Some(found) = children.get(&parent.id) {
            let lacking = holes(found.iter().filter_map(|child| child.hash_range));
            if parent.hash_range.is_some_and(|range| lacking.iter().any(|hole| hole.overlaps(&range))) {
                children.remove(&parent.id);
            }
        }
    }
    children
        .into_iter()
        .map(|(parent, found)| (parent, found.into_iter().map(|child| &child.id).collect()))
        .collect()
}

/// The finished leases that nobody needs any more: read to the end, their own parents' leases gone, and every
/// child past its first record. Children that the row does not name are taken from the listing, which may be left
/// empty; a shard that is gone, with no child known, is done with as well.
///
/// A child still at its start keeps its parent: until it moves, the parent's row is what tells a sync that the
/// child was reached in order.
pub fn deletable<'a>(leases: &'a Leases, listing: &[Shard]) -> Vec<&'a ShardId> {
    let moved =
        |lease: &Leased| !matches!(lease.checkpoint, Checkpoint::TrimHorizon | Checkpoint::AtTimestamp);
    let listed: BTreeSet<&ShardId> = listing.iter().map(|shard| &shard.id).collect();
    let listed_children = children(listing);
    let done_with = |(id, lease): &(&ShardId, &Leased)| {
        let children: Vec<&ShardId> = match lease.children.as_slice() {
            [] => listed_children.get(id).cloned().unwrap_or_default(),
            named => named.iter().collect(),
        };
        lease.checkpoint == Checkpoint::ShardEnd
            && lease.parents.iter().all(|parent| !leases.contains_key(parent))
            && children.iter().all(|child| match leases.get(*child) {
                Some(child) => moved(child),
                None => lease.gone && !listed.contains(child),
            })
            && (!children.is_empty() || lease.gone)
    };
    leases.iter().filter(done_with).map(|(id, _)| id).collect()
}

/// True when the checkpoint cannot be of this shard, but of one with the same id in a former stream of the same name:
/// sequence numbers grow with time, and a shard starts above all that was before it.
pub fn is_of_former_stream(checkpoint: &Checkpoint, shard: &Shard) -> bool {
    checkpoint.position().is_some_and(|at| at.sequence < shard.starting_sequence_number)
}

/// True when a lease with this checkpoint and these hash keys cannot be of this shard: [`is_of_former_stream`], or the
/// hash keys differ, which a shard keeps as long as it lives.
pub fn is_unlike(checkpoint: &Checkpoint, hash_range: Option<HashKeyRange>, shard: &Shard) -> bool {
    is_of_former_stream(checkpoint, shard)
        || hash_range.zip(shard.hash_range).is_some_and(|(leased, listed)| leased != listed)
}

/// Leases that cannot be of the stream as it is listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// Of a former stream or of another one, beyond doubt ([`is_unlike`]).
    pub former: Vec<ShardId>,
    /// Either that, or the listing is behind: read to the end and yet listed as open, or unknown and younger than
    /// every listed shard, while a stream that forgets a shard lists younger ones.
    pub doubtful: Vec<ShardId>,
}

/// Compares what the leases say with the listing.
pub fn strangers(listing: &[Shard], leases: &Leases) -> Strangers {
    let shards: BTreeMap<&ShardId, &Shard> = listing.iter().map(|shard| (&shard.id, shard)).collect();
    // Ids grow: Kinesis counts its shards, DynamoDB Streams begins theirs with the time.
    let youngest = shards.keys().next_back();
    let mut found = Strangers::default();
    for (id, lease) in leases {
        match shards.get(id) {
            Some(shard) if is_unlike(&lease.checkpoint, lease.hash_range, shard) => {
                found.former.push(id.clone());
            }
            Some(shard) if lease.checkpoint == Checkpoint::ShardEnd && !shard.closed => {
                found.doubtful.push(id.clone());
            }
            None if youngest.is_none_or(|youngest| id > *youngest) => found.doubtful.push(id.clone()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
