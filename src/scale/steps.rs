//! From one number of shards to another in calls that `UpdateShardCount` takes: at most double, at least half.
//!
//! Source: <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html>.

/// `UpdateShardCount` is taken so often of one stream in any 24 hours.
pub const USES_A_DAY: u32 = 10;

/// More shards has no stream, without a higher quota.
pub const SHARDS_MAX: u32 = 10_000;

/// The number of shards to ask for now, on the way from `now` to `target`; none when it is reached.
pub fn next(now: u32, target: u32) -> Option<u32> {
    match target {
        target if target == now => None,
        target if target > now => Some(target.min(now.max(1).saturating_mul(2))),
        target => Some(target.max(now.div_ceil(2))),
    }
}

/// Every number of shards to ask for, in order. There is no shorter way.
pub fn steps(now: u32, target: u32) -> Vec<u32> {
    std::iter::successors(next(now, target), |&step| next(step, target)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_doubles_halves_and_ends_at_the_target() {
        for (now, target, expected) in [
            (4, 4, &[][..]),
            (1, 1, &[]),
            (2, 8, &[4, 8]),
            (4, 18, &[8, 16, 18]),
            (8, 2, &[4, 2]),
            (5, 2, &[3, 2]),
            (100, 99, &[99]),
        ] {
            assert_eq!(steps(now, target), expected, "{now} to {target}");
        }
    }

    proptest! {
        #[test]
        fn each_step_is_legal_and_the_rest_does_not_depend_on_who_goes_on(
            now in 1_u32..=SHARDS_MAX,
            target in 1_u32..=SHARDS_MAX,
        ) {
            let steps = steps(now, target);
            let mut at = now;
            for (place, &step) in steps.iter().enumerate() {
                prop_assert!(step != at && step <= at * 2 && step * 2 >= at, "{at} to {step}");
                prop_assert!((step > at) == (target > now) && step <= SHARDS_MAX);
                at = step;
                // Whoever comes after an interruption knows the stream only.
                prop_assert_eq!(super::steps(at, target), &steps[place + 1..]);
            }
            prop_assert_eq!(at, target);
            // No fewer calls would do.
            let (low, high) = (now.min(target), now.max(target));
            let least = (0..).find(|&doublings| u64::from(low) << doublings >= u64::from(high));
            prop_assert_eq!(Some(steps.len()), least);
        }
    }
}
