//! Credentials of another role, which STS gives for a while.

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use super::credentials::Kept;
use super::role::{AssumeRole, SESSION};
use super::sdk_config;

/// The same clients in this role, if there is one. Who assumes it is this process, with the credentials and the region of
/// all its other clients; without a region, in that of these.
pub(super) async fn in_role(
    sdk: SdkConfig,
    role: Option<&AssumeRole>,
    own_region: Option<&str>,
) -> SdkConfig {
    let Some(role) = role else { return sdk };
    // Not from `sdk`: its endpoint is that of its service.
    let mut own = sdk_config(None, own_region).await;
    if own.region().is_none() {
        own = own.into_builder().region(sdk.region().cloned()).build();
    }
    let session = role.session_name.as_ref().map_or(SESSION, |name| &name.0);
    let mut provider = AssumeRoleProvider::builder(role.arn.as_str()).configure(&own).session_name(session);
    if let Some(id) = &role.external_id {
        provider = provider.external_id(&id.0);
    }
    let provider = SharedCredentialsProvider::new(provider.build().await);
    let kept = InRole(Kept::in_role(provider, role.clone()));
    // The cache of the SDK would ask 10 s before the end, and all at once when nothing is given.
    sdk.into_builder()
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(SharedCredentialsProvider::new(kept))
        .build()
}

/// Credentials of a role.
#[derive(Debug)]
struct InRole(Kept);

impl ProvideCredentials for InRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let kept = self.0.get().await.map_err(CredentialsError::provider_error)?;
            Ok((*kept).clone())
        })
    }
}
