//! Which shards to split or merge.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::shard::{HashKeyRange, Shard, ShardId};

/// A change of the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reshard {
    /// Split one at this hash key, the start of the upper child.
    Split(ShardId, u128),
    /// Merge two neighbours.
    Merge(ShardId, ShardId),
    /// Change the number of shards.
    Count(u32),
}

/// Something that the stream can do now, so that it stays between half and twice `shards` open shards.
pub fn at_random(listing: &[Shard], shards: u32, rng: &mut ChaCha8Rng) -> Option<Reshard> {
    let open = open(listing);
    let count = u32::try_from(open.len()).ok().filter(|count| *count > 0)?;
    let (least, most) = (shards.div_ceil(2).max(1), shards.saturating_mul(2));
    let place = rng.random_range(0..open.len());
    let split = (count < most).then(|| {
        let (range, shard) = open[place];
        halve(range, shard)
    });
    let merge = (count > least).then(|| {
        let low = place.min(open.len() - 2);
        Reshard::Merge(open[low].1.id.clone(), open[low + 1].1.id.clone())
    });
    // UpdateShardCount goes at most to double and to half.
    let other = rng.random_range(least.max(count.div_ceil(2))..=most.min(count * 2).max(least));
    let resize = (other != count).then_some(Reshard::Count(other));
    let first = match rng.random_range(0..5) {
        0 | 1 => [split.clone(), merge.clone(), resize],
        2 | 3 => [merge.clone(), split.clone(), resize],
        _ => [resize, split.clone(), merge.clone()],
    };
    first.into_iter().flatten().next()
}

/// Splits a shard: one that has been there from the start, while there is any.
pub fn in_half(listing: &[Shard]) -> Option<Reshard> {
    let open = open(listing);
    let old = open.iter().find(|(_, shard)| shard.parents.is_empty());
    let (range, shard) = old.or(open.first())?;
    Some(halve(*range, shard))
}

/// Merges two shards that were split from one.
pub fn together(listing: &[Shard]) -> Option<Reshard> {
    let open = open(listing);
    let siblings = open.windows(2).find(|pair| match (&pair[0].1.parents[..], &pair[1].1.parents[..]) {
        ([one], [other]) => one == other,
        _ => false,
    })?;
    Some(Reshard::Merge(siblings[0].1.id.clone(), siblings[1].1.id.clone()))
}

/// The open shards in the order of their hash keys.
fn open(listing: &[Shard]) -> Vec<(HashKeyRange, &Shard)> {
    let open = listing.iter().filter(|shard| !shard.closed);
    let mut open: Vec<_> = open.filter_map(|shard| Some((shard.hash_range?, shard))).collect();
    open.sort_unstable_by_key(|(range, _)| range.start);
    open
}

fn halve(range: HashKeyRange, shard: &Shard) -> Reshard {
    Reshard::Split(shard.id.clone(), range.start + (range.end - range.start) / 2 + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;
    use crate::shard::{HashKeyRange, SequenceNumber};

    fn listing(open: u128) -> Vec<Shard> {
        let width = u128::MAX / open;
        let shard = |number: u128| Shard {
            id: ShardId::new(format!("s-{number}")),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: number * width, end: (number + 1) * width - 1 }),
            starting_sequence_number: SequenceNumber::parse("1").unwrap(),
            closed: false,
        };
        let closed = Shard { id: ShardId::new("s-99"), closed: true, ..shard(0) };
        (0..open).map(shard).chain([closed]).collect()
    }

    #[test]
    fn the_stream_stays_between_half_and_twice_its_size() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for open in [2, 4, 8] {
            let mut kinds = HashSet::new();
            for _ in 0..200 {
                let after = match at_random(&listing(open), 4, &mut rng).unwrap() {
                    Reshard::Split(_, key) => {
                        assert!(key > 0);
                        kinds.insert("split");
                        open + 1
                    }
                    Reshard::Merge(low, high) => {
                        let number = |id: &ShardId| id.as_str()[2..].parse::<u32>().unwrap();
                        assert_eq!(number(&low) + 1, number(&high));
                        kinds.insert("merge");
                        open - 1
                    }
                    Reshard::Count(count) => {
                        assert!(u128::from(count) != open && u128::from(count) <= open * 2);
                        assert!(u128::from(count) >= open.div_ceil(2));
                        kinds.insert("count");
                        count.into()
                    }
                };
                assert!((2..=8).contains(&after), "{open} to {after}");
            }
            assert_eq!(kinds.len(), if open == 4 { 3 } else { 2 }, "{open}: {kinds:?}");
        }
        assert_eq!(at_random(&[], 4, &mut rng), None);
    }

    #[test]
    fn old_shards_are_split_first_and_only_siblings_are_merged() {
        let mut shards = listing(2);
        assert_eq!(together(&shards), None);
        let Some(Reshard::Split(split, middle)) = in_half(&shards) else { panic!("a shard can be split") };
        assert_eq!(split.as_str(), "s-0");
        let range = shards[0].hash_range.unwrap();
        let child = |id: &str, start, end| Shard {
            id: ShardId::new(id),
            parents: vec![split.clone()],
            hash_range: Some(HashKeyRange { start, end }),
            ..shards[0].clone()
        };
        let children = [child("s-2", range.start, middle - 1), child("s-3", middle, range.end)];
        shards[0].closed = true;
        shards.extend(children);
        assert_eq!(together(&shards), Some(Reshard::Merge(ShardId::new("s-2"), ShardId::new("s-3"))));
        let split = |shards: &[Shard]| match in_half(shards) {
            Some(Reshard::Split(shard, _)) => shard.as_str().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(split(&shards), "s-1");
        shards[1].closed = true;
        assert_eq!(split(&shards), "s-2");
        assert_eq!((in_half(&[]), together(&[])), (None, None));
    }

    #[test]
    fn one_shard_can_only_be_split() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let choice = at_random(&listing(1), 1, &mut rng).unwrap();
            assert!(matches!(choice, Reshard::Split(..) | Reshard::Count(2)), "{choice:?}");
        }
    }
}
