//! When a writer tries again: shared by both targets.

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::aws::explain;

/// The target must answer a first question within this time, retries included.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

/// Pauses between refusals: 50 ms doubling to 5 s, about two minutes in all, then `None`.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(30)
        .with_jitter()
        .build()
}

/// Waits; false when cancelled meanwhile.
pub(super) async fn pause(length: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(length) => true,
    }
}

/// Whether the same request may succeed later: throttled, no answer, or trouble inside the service.
pub(super) fn is_passing<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    match error {
        SdkError::ServiceError(service) => {
            let trouble = ["InternalServerError", "InternalFailure", "ServiceUnavailable"];
            is_throttle(error) || service.err().code().is_some_and(|code| trouble.contains(&code))
        }
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    }
}

/// Whether the request was refused for coming too soon, so that it had no effect.
pub(super) fn is_throttle<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    let SdkError::ServiceError(service) = error else { return false };
    let codes = ["ProvisionedThroughputExceededException", "RequestLimitExceeded", "LimitExceededException"];
    service.err().code().is_some_and(|code| code.contains("Throttl") || codes.contains(&code))
}

/// What the target says to a first question. A target that is missing or out of reach is told at once; one that may
/// not be described may still be written.
pub(super) async fn first_answer<T, E>(
    question: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    missing: &str,
) -> Result<(), String>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match timeout(FIRST_ANSWER, question).await {
        Err(_) => Err(format!(
            "no response within {} s; check the endpoint, the network and the region",
            FIRST_ANSWER.as_secs()
        )),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match error.code() {
            Some("AccessDeniedException") => Ok(()),
            Some("ResourceNotFoundException") => Err(missing.to_owned()),
            _ => Err(explain(&error)),
        },
    }
}
