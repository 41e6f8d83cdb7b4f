//! The shards of one stream: a tree whose leaves hold what comes next.

use std::ops::RangeInclusive;

/// One stream of a table.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) arn: String,
    pub(super) label: String,
    pub(super) view: String,
    pub(super) created_us: u64,
    pub(super) on: bool,
    /// Changes up to this position have left it.
    pub(super) trimmed: u64,
    /// Parents before their children.
    pub(super) shards: Vec<Shard>,
}

/// A stretch of changes to some of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) id: String,
    pub(super) parent: Option<String>,
    hashes: RangeInclusive<u32>,
    /// Its changes come after this position.
    pub(super) after: u64,
    /// And up to this one, once it is closed.
    pub(super) to: Option<u64>,
}

impl Shard {
    pub(super) fn holds(&self, hash: u32) -> bool {
        self.hashes.contains(&hash)
    }
}

impl Stream {
    pub(super) fn new(
        table: &str,
        region: &str,
        label: String,
        view: String,
        begins_us: u64,
        shards: u32,
    ) -> Self {
        let arn = format!("arn:aws:dynamodb:{region}:000000000000:table/{table}/stream/{label}");
        let mut stream =
            Self { arn, label, view, created_us: begins_us, on: true, trimmed: 0, shards: Vec::new() };
        let width = u32::MAX / shards;
        for n in 0..shards {
            let end = if n + 1 == shards { u32::MAX } else { width * (n + 1) - 1 };
            stream.open(None, width * n..=end, begins_us);
        }
        stream
    }

    fn open(&mut self, parent: Option<String>, hashes: RangeInclusive<u32>, after: u64) -> String {
        // The time that the service writes first is older for parents than for children.
        let number = self.shards.len() as u64;
        let tail =
            self.label.bytes().fold(number, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let id = format!("shardId-{:020}-{:08x}", after / 1000 + number, tail & 0xffff_ffff);
        self.shards.push(Shard { id: id.clone(), parent, hashes, after, to: None });
        id
    }

    fn open_shards(&self) -> Vec<Shard> {
        self.shards.iter().filter(|shard| shard.to.is_none()).cloned().collect()
    }

    fn close(&mut self, id: &str, at: u64) {
        if let Some(shard) = self.shards.iter_mut().find(|shard| shard.id == id) {
            shard.to = Some(at.max(shard.after));
        }
    }

    /// Each open shard gets one child.
    pub(super) fn rotate(&mut self, at: u64) -> Vec<(String, String)> {
        let mut family = Vec::new();
        for shard in self.open_shards() {
            self.close(&shard.id, at);
            let child = self.open(Some(shard.id.clone()), shard.hashes, at.max(shard.after));
            family.push((shard.id, child));
        }
        family
    }

    /// The first open shard gets two.
    pub(super) fn split(&mut self, at: u64) -> Vec<(String, String)> {
        let Some(shard) = self.open_shards().into_iter().next() else { return Vec::new() };
        self.close(&shard.id, at);
        let (start, end) = (*shard.hashes.start(), *shard.hashes.end());
        let middle = start + (end - start) / 2;
        let halves = [start..=middle, middle + 1..=end];
        let at = at.max(shard.after);
        halves.map(|half| (shard.id.clone(), self.open(Some(shard.id.clone()), half, at))).into()
    }

    /// It is turned off: every shard ends, without children.
    pub(super) fn end(&mut self, at: u64) {
        self.on = false;
        for shard in self.open_shards() {
            self.close(&shard.id, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(shards: u32) -> Stream {
        Stream::new("T", "r", "1768469400.5".into(), "NEW_IMAGE".into(), 1000, shards)
    }

    #[test]
    fn each_hash_is_in_one_open_shard() {
        for shards in 1..5 {
            let mut stream = stream(shards);
            stream.rotate(2000);
            stream.split(3000);
            for hash in [0, 1, u32::MAX / 3, u32::MAX / 2, u32::MAX - 1, u32::MAX] {
                let open = stream.open_shards();
                assert_eq!(open.iter().filter(|shard| shard.holds(hash)).count(), 1, "{shards} {hash}");
            }
        }
    }

    #[test]
    fn ids_tell_the_order_and_children_go_on_where_their_parents_end() {
        let mut stream = stream(2);
        let family = stream.rotate(2_000_000);
        let both = stream.split(3_000_000);
        assert_eq!((family.len(), both.len()), (2, 2));
        for (parent, child) in family.iter().chain(&both) {
            let find = |id: &str| stream.shards.iter().find(|shard| shard.id == *id).unwrap();
            assert!(parent < child);
            assert_eq!(
                (find(parent).to, find(child).parent.as_ref()),
                (Some(find(child).after), Some(parent))
            );
        }
        let ids: std::collections::BTreeSet<_> = stream.shards.iter().map(|shard| &shard.id).collect();
        assert_eq!(ids.len(), 6);
        stream.end(4_000_000);
        assert!(!stream.on && stream.open_shards().is_empty());
    }
}
