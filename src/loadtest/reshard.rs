//! Which shards to split or merge.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::shard::{HashKeyRange, Shard, ShardId};

/// A change of the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reshard {
    /// Split one at this hash key, the start of the upper child.
    Split(ShardId, u128),
    /// Merge two neighbours.
    Merge(ShardId, ShardId),
    /// Change the number of shards.
    Count(u32),
}

/// Something that the stream can do now, so that it stays between half and twice `shards` open shards.
pub(super) fn choose(listing: &[Shard], shards: u32, rng: &mut ChaCha8Rng) -> Option<Reshard> {
    let open = listing.iter().filter(|shard| !shard.closed);
    let mut open: Vec<(HashKeyRange, &ShardId)> =
        open.filter_map(|shard| Some((shard.hash_range?, &shard.id))).collect();
    open.sort_unstable_by_key(|(range, _)| range.start);
    let count = u32::try_from(open.len()).ok().filter(|count| *count > 0)?;
    let (least, most) = (shards.div_ceil(2).max(1), shards.saturating_mul(2));
    let place = rng.random_range(0..open.len());
    let split = (count < most).then(|| {
        let (range, shard) = open[place];
        Reshard::Split(shard.clone(), range.start + (range.end - range.start) / 2 + 1)
    });
    let merge = (count > least).then(|| {
        let low = place.min(open.len() - 2);
        Reshard::Merge(open[low].1.clone(), open[low + 1].1.clone())
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
                let after = match choose(&listing(open), 4, &mut rng).unwrap() {
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
        assert_eq!(choose(&[], 4, &mut rng), None);
    }

    #[test]
    fn one_shard_can_only_be_split() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let choice = choose(&listing(1), 1, &mut rng).unwrap();
            assert!(matches!(choice, Reshard::Split(..) | Reshard::Count(2)), "{choice:?}");
        }
    }
}
