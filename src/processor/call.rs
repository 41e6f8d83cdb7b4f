//! One call of a processor: how long it takes, and how it ends.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::ProcessorError;
use crate::cause::chain;
use crate::lease::HeldLease;
use crate::telemetry::status::{ShardHandle, Side};

/// A call that takes longer is said to be slow, and again whenever it has taken twice as long.
const SLOW: Duration = Duration::from_secs(10);
/// A call that was under way when the lease was lost may go on for so long.
const LOST_GRACE: Duration = Duration::from_secs(30);

/// How a call ended.
pub(super) enum Call {
    Done,
    /// It panicked or returned an error.
    Failed(String),
    /// The lease was lost meanwhile.
    LeaseLost,
}

/// The shard that calls are about.
pub(super) struct Caller {
    pub(super) lease: Arc<HeldLease>,
    pub(super) status: Arc<ShardHandle>,
}

impl Caller {
    /// Waits for a call. It is not stopped for being slow, and not at once when the lease is lost: what it does may be half
    /// done.
    pub(super) async fn call(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<(), ProcessorError>>,
    ) -> Call {
        let mut call = std::pin::pin!(AssertUnwindSafe(call).catch_unwind());
        let (began, mut slow) = (Instant::now(), SLOW);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut call => break outcome,
                () = self.lease.lost().cancelled() => {
                    if timeout(LOST_GRACE, call).await.is_err() {
                        tracing::warn!(shard = %self.lease.key(), call = name, "the lease is lost, and the call is given up");
                    }
                    return Call::LeaseLost;
                }
                () = sleep_until(began + slow) => {
                    let seconds = slow.as_secs();
                    tracing::warn!(
                        shard = %self.lease.key(), call = name, seconds,
                        "the processor is slow: nothing more of the shard is read until it returns"
                    );
                    let text = format!("the processor has not returned from {name} for {seconds} s");
                    self.status.stalled_since(Side::Delivering, "processor_slow", text, began);
                    slow *= 2;
                }
            }
        };
        match outcome {
            Ok(Ok(())) => {
                self.status.recovered(Side::Delivering);
                Call::Done
            }
            _ if self.lease.lost().is_cancelled() => Call::LeaseLost,
            Ok(Err(error)) => Call::Failed(format!("the processor failed in {name}: {}", chain(&*error))),
            Err(panic) => Call::Failed(format!("the processor panicked in {name}: {}", message(&*panic))),
        }
    }

    /// Tells a processor that its lease is lost.
    pub(super) async fn tell_lost(&self, call: impl Future<Output = ()>) {
        let told = timeout(LOST_GRACE, AssertUnwindSafe(call).catch_unwind()).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(shard = %self.lease.key(), "the processor panicked in lease_lost, or did not return");
        }
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
