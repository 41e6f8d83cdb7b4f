//! Settings of the AWS clients that write.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;

/// The usual settings chain. With an `endpoint` of one's own the credentials are made up, since local servers
/// check none.
pub async fn sdk_config(endpoint: Option<&str>, region: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader
            .endpoint_url(endpoint)
            .credentials_provider(Credentials::new("local", "local", None, None, "kinetide"));
        if region.is_none() {
            loader = loader.region(Region::new("eu-north-1"));
        }
    }
    loader.load().await
}
