//! One AWS environment for all clients: credentials, region, endpoints, CA bundle and proxy come from here, also those of
//! the S3 client, which is not one of the SDK.
//!
//! Owns: where each of them is looked for, the host of a bucket, how streams and roles are named, credentials of roles, what
//! a failed call means for people.
//! Does not own: what the clients do. `docs/AWS-ACCESS.md` has the table.

mod arn;
mod cloudwatch;
mod credentials;
mod fan_out;
mod heard;
mod kinesis;
#[cfg(feature = "kafka")]
mod msk;
mod network;
mod role;
mod s3;
mod sts;
mod table;

use std::error::Error;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::cause::{chain, one_line};
use credentials::OnThisMachine;

pub use arn::{BadArn, RoleArn, StreamAddress, StreamArn};
pub use cloudwatch::{CloudWatch, NotPut};
pub use credentials::{Kept, NoCredentials, credentials};
pub use fan_out::for_subscriptions;
pub use heard::{Ear, Heard, reach};
pub use kinesis::{OfStream, stream_config};
#[cfg(feature = "kafka")]
pub use msk::{AWS_MSK_IAM, MskIdentity, NotSigned};
pub use network::Network;
pub use role::{AssumeRole, ExternalId, SessionName};
pub use s3::{BadBucket, Bucket, bucket, bucket_config};
pub use table::{TableAddress, TableArn};

/// Reaching a service takes milliseconds; this leaves room for two tries within the ten seconds of a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The region of endpoints on this machine, where none is given.
const LOCAL_REGION: &str = "eu-north-1";

/// Until the answer to one try. A broken network may swallow a request without a word; nothing waits for ever.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The usual settings chain (environment, profile, task role), with another `endpoint` and `region` where given.
///
/// An endpoint on this machine is one of ours or an emulator's, most of which check no credentials: without any they are
/// made up, and the region too if it is not set.
pub async fn sdk_config(endpoint: Option<&str>, region: Option<&str>) -> SdkConfig {
    let network = Network::of_environment();
    let mut loader =
        aws_config::defaults(BehaviorVersion::latest()).retry_config(RetryConfig::standard()).timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        );
    let http_client = network.http_client();
    if let Some(client) = http_client.clone() {
        loader = loader.http_client(client);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
        if is_loopback(endpoint) {
            // As everywhere, but the instance is not asked.
            let region = RegionProviderChain::first_try(region.map(|region| Region::new(region.to_owned())))
                .or_else(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(LOCAL_REGION));
            let region = region.region().await;
            loader = loader.region(region.clone());
            loader = loader.credentials_provider(OnThisMachine::new(region, http_client));
        }
    }
    loader.load().await
}

/// A client for servers that are not AWS's, which trusts the same certificates and uses the same proxies. It follows no
/// redirect: what it sends is meant for one host.
///
/// # Errors
/// When the bundle of certificates cannot be used.
pub fn web_client() -> Result<reqwest::Client, String> {
    Network::of_environment().web_client()
}

/// A failed call in one line for people: the code of AWS, what the service said, and what to do about it where that can
/// be known.
pub fn explain<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => {
            let Some(code) = refused.err().code() else {
                // Not in the service's words: somebody stands between.
                let status = refused.raw().status().as_u16();
                return format!(
                    "HTTP status {status} without an error code; if it lasts, check the endpoint"
                );
            };
            let text =
                refused.err().message().map(|text| format!(": {}", one_line(text))).unwrap_or_default();
            match code {
                "AccessDeniedException" | "AccessDenied" => {
                    format!("access denied ({code}){text}; {}", allow(&text))
                }
                "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
                    format!("{code}{text}; the credentials of this process have expired: renew them")
                }
                "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "InvalidSignatureException"
                | "SignatureDoesNotMatch"
                | "IncompleteSignature"
                | "MissingAuthenticationToken"
                | "MissingAuthenticationTokenException" => {
                    format!("{code}{text}; check the credentials and the clock of this process")
                }
                "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "LimitExceededException"
                | "ThrottlingException"
                | "Throttling" => {
                    format!("throttled ({code}){text}; if it lasts, raise the capacity or the quota")
                }
                "KMSAccessDeniedException"
                | "KMSDisabledException"
                | "KMSInvalidStateException"
                | "KMSNotFoundException"
                | "KMSOptInRequired"
                | "KMSThrottlingException" => {
                    format!(
                        "{code}{text}; check the KMS key, and that the role that makes the call may use it"
                    )
                }
                _ => format!("{code}{text}"),
            }
        }
        SdkError::TimeoutError(_) => format!("no response in time; {CHECK_NETWORK}"),
        SdkError::DispatchFailure(_) => match NoCredentials::behind(error) {
            Some(nobody) => nobody.to_string(),
            None => format!("{}; {}", chain(error), dispatch_advice(error)),
        },
        SdkError::ResponseError(_) => {
            format!("the response could not be read: {}; check the endpoint", chain(error))
        }
        _ => chain(error),
    }
}

/// Where to allow what was denied. AWS says which policy it missed; for a resource of another account both sides must allow.
fn allow(text: &str) -> &'static str {
    if text.contains("resource-based policy") {
        "allow it in the resource policy of the stream, in its account, and in the role that makes the call"
    } else {
        "allow it in the role that makes the call"
    }
}

const CHECK_NETWORK: &str = "check the endpoint, the network and the region";

/// What to do when the certificate of a server is not trusted.
pub const TRUST_ITS_CA: &str =
    "set AWS_CA_BUNDLE to the certificates of the CA that signed the server's certificate";

/// Credentials are looked for before a request is sent.
fn dispatch_advice<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> &'static str {
    let about_credentials = |error: &dyn Error| error.to_string().contains("credentials");
    let mut below: Option<&dyn Error> = error.source();
    while let Some(error) = below {
        if about_credentials(error) {
            return "give this process a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID";
        }
        if error.to_string().contains("UnknownIssuer") {
            return TRUST_ITS_CA;
        }
        below = error.source();
    }
    CHECK_NETWORK
}

/// True for an endpoint on this machine.
pub fn is_loopback(endpoint: &str) -> bool {
    url::Url::parse(endpoint).is_ok_and(|url| match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_needs_no_credentials() {
        for local in ["http://127.0.0.1:4567", "http://localhost", "http://[::1]:80/"] {
            assert!(is_loopback(local), "{local}");
        }
        for other in
            ["https://vpce-1.kinesis.eu-north-1.vpce.amazonaws.com", "http://127.0.0.1.example.com", "x"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
