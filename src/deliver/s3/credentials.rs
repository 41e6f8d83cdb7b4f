//! Credentials of the SDK for `object_store`.

use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::aws::Kept;

/// Gives `object_store` what the SDK's clients use.
#[derive(Debug)]
pub(super) struct SdkCredentials(Kept);

impl SdkCredentials {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self(Kept::new(provider))
    }
}

#[async_trait]
impl CredentialProvider for SdkCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let credentials = self.0.get().await.map_err(|problem| object_store::Error::Unauthenticated {
            path: String::new(),
            source: Box::new(problem),
        })?;
        Ok(Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        }))
    }
}
