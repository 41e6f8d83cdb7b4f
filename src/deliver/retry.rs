//! Trying again: every failed delivery is retried for as long as the lease is ours.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Waits between tries: 100 ms doubling to 5 s, with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Seed of the jitter.
    pub seed: u64,
}

impl Backoff {
    /// The waits, one after the other, without end.
    pub fn waits(self) -> impl Iterator<Item = Duration> + Send {
        let longest = Duration::from_secs(5);
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(longest)
            .with_factor(2.0)
            .with_jitter()
            .with_jitter_seed(self.seed)
            .without_max_times()
            .build()
            .chain(std::iter::repeat(longest))
    }
}

/// Calls `attempt` until it succeeds. `failed` is told every error, the number of the try (from 1) and the wait
/// before the next one.
pub async fn retry_until<T, E, F, Fut>(
    backoff: Backoff,
    mut attempt: F,
    mut failed: impl FnMut(&E, u32, Duration),
) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    for (wait, tries) in backoff.waits().zip(1..) {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                failed(&error, tries, wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
    unreachable!("there are waits for ever")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn tries_until_it_works_with_growing_waits() {
        let calls = Cell::new(0);
        let mut waits = Vec::new();
        let answer = retry_until(
            Backoff { seed: 7 },
            || async {
                calls.set(calls.get() + 1);
                if calls.get() < 12 { Err("no") } else { Ok(calls.get()) }
            },
            |_, _, wait| waits.push(wait),
        )
        .await;
        assert_eq!((answer, waits.len()), (12, 11));
        assert!(waits[0] >= Duration::from_millis(100) && waits[10] <= Duration::from_secs(10));
        assert!(waits[8] > waits[0]);
    }
}
