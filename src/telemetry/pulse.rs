//! Whether the loops of the process go round: what a restart would mend.
//!
//! Each loop says by when it will be back. Whether its calls succeed is no matter of this: a service that refuses calls
//! or does not answer would treat the next process no better.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A loop may be late by so much: each call in it is bounded by less.
const GRACE: Duration = Duration::from_secs(120);

/// The loops of a process.
#[derive(Debug, Default)]
pub struct Pulse {
    due: Mutex<BTreeMap<&'static str, Instant>>,
}

/// The place of one loop; dropped when the loop ends.
#[derive(Debug)]
pub struct Beat {
    pulse: Arc<Pulse>,
    name: &'static str,
}

impl Pulse {
    /// A loop with this name begins.
    pub fn begin(self: &Arc<Self>, name: &'static str) -> Beat {
        let beat = Beat { pulse: Arc::clone(self), name };
        beat.next(Duration::ZERO);
        beat
    }

    /// The loop that is later than any other, and by how much, if one is.
    pub fn late(&self) -> Option<(&'static str, Duration)> {
        let now = Instant::now();
        let (name, due) = self.due().iter().min_by_key(|(_, due)| **due).map(|(name, due)| (*name, *due))?;
        (now > due + GRACE).then(|| (name, now.duration_since(due)))
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<&'static str, Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// The loop has come so far, and will again after `pause`.
    pub fn next(&self, pause: Duration) {
        self.pulse.due().insert(self.name, Instant::now() + pause);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.due().remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_come_back_is_late() {
        let pulse = Arc::<Pulse>::default();
        let (quick, slow) = (pulse.begin("quick"), pulse.begin("slow"));
        slow.next(Duration::from_secs(600));
        advance(Duration::from_secs(119)).await;
        assert_eq!(pulse.late(), None);
        quick.next(Duration::from_secs(1));
        advance(Duration::from_secs(122)).await;
        assert_eq!(pulse.late(), Some(("quick", Duration::from_secs(121))));
        drop(quick);
        assert_eq!(pulse.late(), None, "it has ended");
        advance(Duration::from_secs(600)).await;
        assert_eq!(pulse.late().unwrap().0, "slow");
    }
}
