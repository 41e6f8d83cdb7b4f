//! When a writer tries again: shared by both targets.

use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

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
        SdkError::ServiceError(service) => service.err().code().is_some_and(|code| {
            code.contains("Throttl")
                || matches!(
                    code,
                    "ProvisionedThroughputExceededException"
                        | "RequestLimitExceeded"
                        | "LimitExceededException"
                        | "InternalServerError"
                        | "InternalFailure"
                        | "ServiceUnavailable"
                )
        }),
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    }
}

/// The error with its causes, for a message.
pub(super) fn explain(error: &(dyn Error + 'static)) -> String {
    DisplayErrorContext(error).to_string()
}
