//! How `UpdateShardCount` becomes splits and merges, so that every new shard keeps its parents.

use super::hash_key;
use crate::shard::HashKeyRange;

/// One step on the open shards, in the order of their hash keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reshard {
    /// Split the shard that holds this key; the key becomes the start of the upper child.
    SplitAt(u128),
    /// Merge the shard that ends right below this key with the one that starts at it.
    MergeAt(u128),
}

/// Steps from the open ranges (in order, without gaps) to `target` even ones: first cut at every new boundary,
/// then merge across every boundary that is not wanted any more.
pub(crate) fn steps(open: &[HashKeyRange], target: u32) -> Vec<Reshard> {
    let wanted: Vec<u128> = hash_key::even_ranges(target).iter().skip(1).map(|range| range.start).collect();
    let present: Vec<u128> = open.iter().skip(1).map(|range| range.start).collect();
    let splits =
        wanted.iter().filter(|key| present.binary_search(key).is_err()).map(|key| Reshard::SplitAt(*key));
    let merges =
        present.iter().filter(|key| wanted.binary_search(key).is_err()).map(|key| Reshard::MergeAt(*key));
    splits.chain(merges).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(mut ranges: Vec<HashKeyRange>, steps: &[Reshard]) -> Vec<HashKeyRange> {
        for step in steps {
            match *step {
                Reshard::SplitAt(key) => {
                    let i = ranges.iter().position(|r| r.start < key && key <= r.end).unwrap();
                    let upper = HashKeyRange { start: key, end: ranges[i].end };
                    ranges[i].end = key - 1;
                    ranges.insert(i + 1, upper);
                }
                Reshard::MergeAt(key) => {
                    let i = ranges.iter().position(|r| r.start == key).unwrap();
                    ranges[i - 1].end = ranges.remove(i).end;
                }
            }
        }
        ranges
    }

    proptest! {
        #[test]
        fn any_layout_becomes_the_even_one(
            mut cuts in proptest::collection::btree_set(1..u128::MAX, 0..20),
            target in 1_u32..40,
        ) {
            let starts: Vec<u128> = std::iter::once(0).chain(std::mem::take(&mut cuts)).collect();
            let ends = starts.iter().skip(1).map(|s| s - 1).chain([u128::MAX]);
            let open: Vec<_> = starts.iter().zip(ends).map(|(s, end)| HashKeyRange { start: *s, end }).collect();
            let plan = steps(&open, target);
            prop_assert_eq!(apply(open, &plan), hash_key::even_ranges(target));
        }
    }

    #[test]
    fn doubling_only_splits_and_the_same_count_does_nothing() {
        let two = hash_key::even_ranges(2);
        assert_eq!(steps(&two, 2), vec![]);
        assert!(
            steps(&two, 4)
                .iter()
                .all(|s| matches!(s, Reshard::SplitAt(_)) || matches!(s, Reshard::MergeAt(_)))
        );
        assert_eq!(apply(two.clone(), &steps(&two, 4)).len(), 4);
    }
}
