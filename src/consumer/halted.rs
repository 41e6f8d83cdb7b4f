//! A shard that halted: it keeps its lease and looks again, later and later.
//!
//! Owns: when to look again, what is said meanwhile.
//! Does not own: why a shard halts (`checkpoint`, and where reading starts).

use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Consumer;

/// Until the first look, and the longest time between two. The causes are a stream that answers wrongly for a while, or
/// something that a person has to put right: both show within minutes.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

pub(super) struct Halted {
    pause: Duration,
}

impl Halted {
    pub(super) fn new() -> Self {
        Self { pause: PAUSES.0 }
    }

    /// Keeps the lease and does nothing, as any automatic way on would lose or double records; until it is time to look
    /// again. True when asked to stop.
    pub(super) async fn wait(
        &mut self,
        consumer: &mut Consumer,
        reason: &str,
        stop: &CancellationToken,
    ) -> bool {
        let shard = consumer.row.lease.key();
        let pause = self.pause.mul_f64(consumer.row.rng.random_range(0.75..1.0));
        self.pause = (self.pause * 2).min(PAUSES.1);
        tracing::error!(%shard, reason, next_look = ?pause, "shard halted: manual intervention may be required");
        consumer.row.status.halted(reason);
        tokio::select! {
            biased;
            () = stop.cancelled() => return true,
            () = sleep(pause) => {}
        }
        // With whatever was changed in the row. Without an answer the look is at the row as it was.
        tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = consumer.row.lease.look() => false,
        }
    }
}
