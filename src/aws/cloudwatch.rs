//! Metrics for CloudWatch by `PutMetricData`: how the call is made, and what a failed one means.

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::Builder;
use aws_sdk_cloudwatch::error::SdkError;
use aws_sdk_cloudwatch::operation::put_metric_data::PutMetricDataError;
use aws_sdk_cloudwatch::types::MetricDatum;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::explain;
use super::heard::Ear;

/// What no repetition makes right: how the codes begin, of all protocols of CloudWatch.
const WRONG: [&str; 5] =
    ["InvalidParameter", "MissingParameter", "MissingRequired", "Validation", "InvalidFormat"];
const TOO_LARGE: u16 = 413;

/// Who takes metrics.
#[derive(Clone, Debug)]
pub struct CloudWatch(Client);

/// A call that failed, in one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NotPut {
    text: String,
    /// The same call would be refused again.
    pub for_ever: bool,
}

impl CloudWatch {
    /// CloudWatch in the environment of `sdk`.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self(Client::from_conf(settings(sdk).build()))
    }

    /// The same, with somebody who listens.
    pub fn heard_by(sdk: &SdkConfig, ear: Ear) -> Self {
        Self(Client::from_conf(settings(sdk).interceptor(ear).build()))
    }

    /// Sends these metrics, once.
    ///
    /// # Errors
    /// When CloudWatch did not take them, or nobody knows whether it did.
    pub async fn put(&self, namespace: &str, metrics: Vec<MetricDatum>) -> Result<(), NotPut> {
        let call = self.0.put_metric_data().namespace(namespace).set_metric_data(Some(metrics));
        call.send().await.map(drop).map_err(|error| not_put(&error))
    }
}

/// Who sends keeps what was not taken and decides when it is sent again, so the client makes each call once. Bodies go as
/// they are: one call a minute of some kilobytes is not worth compressing.
fn settings(sdk: &SdkConfig) -> Builder {
    Builder::from(sdk).retry_config(RetryConfig::disabled()).disable_request_compression(true)
}

fn not_put(error: &SdkError<PutMetricDataError>) -> NotPut {
    let code = error.code().unwrap_or_default();
    let status = error.raw_response().map(|response| response.status().as_u16());
    let for_ever = WRONG.iter().any(|wrong| code.starts_with(wrong)) || status == Some(TOO_LARGE);
    let dropped = if for_ever { "; these metrics are dropped" } else { "" };
    NotPut { text: format!("{}{dropped}", explain(error)), for_ever }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    #[test]
    fn an_answer_says_what_to_do_and_whether_it_helps_to_ask_again() {
        for (status, code, words, for_ever) in [
            (
                400,
                "InvalidParameterValue",
                "InvalidParameterValue: no number; these metrics are dropped",
                true,
            ),
            (400, "InvalidParameterCombinationException", "these metrics are dropped", true),
            (400, "AccessDenied", "access denied (AccessDenied): no number; allow it in the role", false),
            (400, "Throttling", "throttled (Throttling): no number; if it lasts", false),
            (403, "SignatureDoesNotMatch", "check the credentials and the clock", false),
            (500, "InternalServiceError", "InternalServiceError: no number", false),
            (429, "", "HTTP status 429", false),
            (413, "", "HTTP status 413", true),
            (503, "", "HTTP status 503 without an error code; if it lasts, check the endpoint", false),
        ] {
            let refused = match code {
                "" => PutMetricDataError::unhandled("an answer in HTML"),
                code => PutMetricDataError::generic(
                    ErrorMetadata::builder().code(code).message("no\nnumber").build(),
                ),
            };
            let raw = HttpResponse::new(u16::try_into(status).unwrap(), SdkBody::empty());
            let said = not_put(&SdkError::service_error(refused, raw));
            assert!(said.text.contains(words) && said.for_ever == for_ever, "{code} {status}: {said:?}");
        }
    }
}
