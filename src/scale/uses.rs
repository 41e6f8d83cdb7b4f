//! How often a stream changed its number of shards, read from the lineage of its shards: AWS counts the uses of
//! `UpdateShardCount` and does not say how many are left.
//!
//! A use replaces every shard of the stream, the first and the last one by a single split or merge. So the shortest line of
//! new shards that leads to an open one is as long as there were uses. Shards that were split or merged one by one do not
//! count, unless that was done to all of them.

use std::collections::BTreeMap;

/// A shard that is open, or was when the time in question began or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its id.
    pub id: String,
    /// The shards that it came from.
    pub parents: Vec<String>,
    /// It is open now.
    pub open: bool,
    /// It did not exist when that time began.
    pub new: bool,
}

/// How often since that time. `None` where no shard is open.
pub fn uses(shards: &[Line]) -> Option<u32> {
    // Ids grow, so parents come first.
    let mut shards: Vec<&Line> = shards.iter().collect();
    shards.sort_by(|a, b| a.id.cmp(&b.id));
    let mut depths: BTreeMap<&str, u32> = BTreeMap::new();
    for shard in &shards {
        let of = |parent: &String| depths.get(parent.as_str()).copied().unwrap_or(0);
        let parents = shard.parents.iter().map(of).min();
        // Shards without parents came with the stream.
        let depth = parents.filter(|_| shard.new).map_or(0, |depth| depth + 1);
        depths.insert(&shard.id, depth);
    }
    shards.iter().filter(|shard| shard.open).map(|shard| depths[shard.id.as_str()]).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32, parents: &[u32], open: bool, new: bool) -> Line {
        let name = |id: &u32| format!("shardId-{id:012}");
        Line { id: name(&id), parents: parents.iter().map(name).collect(), open, new }
    }

    #[test]
    fn a_use_replaces_every_shard() {
        assert_eq!(uses(&[]), None);
        assert_eq!(uses(&[line(0, &[], true, true)]), Some(0), "the stream itself is new");
        assert_eq!(uses(&[line(7, &[3], true, false)]), Some(0), "long ago");
        // 1 to 2 to 4, then 4 to 2; the first doubling was before.
        let shards = [
            line(1, &[0], false, false),
            line(2, &[0], false, false),
            line(3, &[1], false, true),
            line(4, &[1], false, true),
            line(5, &[2], false, true),
            line(6, &[2], false, true),
            line(7, &[3, 4], true, true),
            line(8, &[5, 6], true, true),
        ];
        assert_eq!(uses(&shards), Some(2));
        // One shard was split by hand.
        let split = [
            line(0, &[], false, false),
            line(1, &[], true, false),
            line(2, &[0], true, true),
            line(3, &[0], true, true),
        ];
        assert_eq!(uses(&split), Some(0));
    }
}
