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
        let credentials = self.0.for_signing().await;
        credentials.map(Arc::new).map_err(|problem| object_store::Error::Unauthenticated {
            path: String::new(),
            source: Box::new(problem),
        })
    }
}
