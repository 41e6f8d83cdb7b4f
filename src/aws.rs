//! Settings of the AWS SDK, in one place for all clients.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;

/// Reaching a service takes milliseconds; this leaves room for two tries within the ten seconds of a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The usual settings chain (environment, profile, task role), with another `endpoint` and `region` where given.
///
/// An endpoint on this machine is one of ours or an emulator's, which check no credentials: they are made up, and
/// the region too if it is not set.
pub async fn sdk_config(endpoint: Option<&str>, region: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
        if is_loopback(endpoint) {
            loader = loader.credentials_provider(Credentials::new("local", "local", None, None, "kinetide"));
            if region.is_none() {
                loader = loader.region(Region::new("eu-north-1"));
            }
        }
    }
    loader.load().await
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
