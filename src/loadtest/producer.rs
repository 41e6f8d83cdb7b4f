//! Who puts records into the streams: for as long as the run lasts, and beyond it where another consumer needs that.

use std::time::Duration;

use futures::TryFutureExt;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::LoadPlan;
use crate::generate::Source;
use crate::generate::synthetic::{Mix, Synthetic};
use crate::produce::{self, Plan, ProduceError, Ramp, Sink, Totals};
use crate::shutdown::joined;
use crate::trial::scene::Scene;
use crate::trial::{Duty, Flow, Ledger, TrialError};

/// Share of the records that no consumer can decode, so that dead letters go through the same fire.
const BAD_RATE: f64 = 0.001;

/// Puts the load from `started` until the time or the records are over: into every stream the whole load, and each has
/// records of its own.
pub(super) fn put(ledger: &Ledger, scene: &Scene, plan: &LoadPlan, started: Instant) -> Flow<Totals> {
    let amount = Plan {
        records: plan.records,
        rate: Some(plan.rate),
        ramp: plan.ramp_to.map(|to| Ramp { to, over: plan.duration }),
    };
    let mix = Mix { bad_rate: BAD_RATE, ..Mix::default() };
    let until = started + plan.duration;
    ledger.flow(scene, (Duty::Required, plan.seed), |_, seed, sink| {
        let source = Source::Synthetic(Box::new(Synthetic::new(seed, mix)));
        put_until(amount, source, sink, until).map_err(TrialError::from)
    })
}

/// Keeps the streams moving, a few records a second for each shard: a stream does not end in production, and some
/// consumers close a batch by the record that comes after it.
pub(super) fn flow_on(
    ledger: &Ledger,
    scene: &Scene,
    plan: &LoadPlan,
    enough: &CancellationToken,
) -> Flow<Totals> {
    let amount = Plan { records: None, rate: Some(f64::from(plan.shards) * 4.0), ramp: None };
    ledger.flow(scene, (Duty::Optional, plan.seed), |_, seed, sink| {
        let source = Source::Synthetic(Box::new(Synthetic::new(seed.wrapping_add(1), Mix::default())));
        produce::run(amount, source, sink, |_| {}, enough.clone()).map_err(TrialError::from)
    })
}

/// Waits for the end of what flows.
pub(super) async fn over(mut flow: Flow<Totals>) -> Result<(), TrialError> {
    while let Some(flowed) = flow.join_next().await {
        joined(flowed).await?;
    }
    Ok(())
}

async fn put_until(amount: Plan, source: Source, sink: Sink, until: Instant) -> Result<Totals, ProduceError> {
    let time_is_up = CancellationToken::new();
    let putting = produce::run(amount, source, sink, |_| {}, time_is_up.clone());
    let mut putting = std::pin::pin!(putting);
    tokio::select! {
        done = &mut putting => return done,
        () = sleep_until(until) => time_is_up.cancel(),
    }
    putting.await
}

impl LoadPlan {
    /// Streams of all kinds.
    pub(super) fn streams(&self) -> usize {
        self.sources.len().saturating_mul(self.streams_of_each)
    }

    /// How many records will come, as far as one can say.
    pub(super) fn expected(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a guess for a bar")]
        let of_rate =
            (self.rate.midpoint(self.ramp_to.unwrap_or(self.rate)) * self.duration.as_secs_f64()) as u64;
        let of_stream = self.records.map_or(of_rate, |records| records.min(of_rate));
        of_stream.saturating_mul(u64::try_from(self.streams()).unwrap_or(u64::MAX))
    }

    /// As long as this, at the same rate.
    pub(super) fn lasting(&self, duration: Duration) -> Self {
        Self { duration, ramp_to: None, ..self.clone() }
    }
}
