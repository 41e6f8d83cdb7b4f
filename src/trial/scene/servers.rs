//! The servers of a trial: embedded, or somebody else's.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;

use crate::aws::{explain, sdk_config};
use crate::lease::dynamodb::DynamoDbLeaseTable;
use crate::local::kinesis::Kinesis;
use crate::local::{LocalAws, LocalSettings};
use crate::terminal::say;
use crate::trial::TrialError;
use crate::trial::workers::WorkerEndpoints;

/// Servers, and how they are reached.
#[derive(Debug)]
pub struct Servers {
    local: Option<LocalAws>,
    /// Where workers find them; the embedded ones too.
    pub endpoints: WorkerEndpoints,
    embedded_kinesis: bool,
    /// The region for `--region` of workers.
    pub region: Option<String>,
    pub(super) for_kinesis: SdkConfig,
    dynamodb: Client,
}

impl Servers {
    /// Reaches the servers that are `given`, and starts the others.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start(
        mut embedded: LocalSettings,
        given: &WorkerEndpoints,
        region: Option<&str>,
    ) -> Result<Self, TrialError> {
        if let Some(region) = region {
            region.clone_into(&mut embedded.kinesis.region);
        }
        let ca_bundle = embedded.ca_file.clone();
        let local = match (&given.kinesis, &given.dynamodb) {
            (Some(_), Some(_)) => None,
            _ => Some(LocalAws::start(embedded).await?),
        };
        let url = |given: &Option<String>, url: fn(&LocalAws) -> &str| {
            given.clone().or_else(|| local.as_ref().map(|local| url(local).to_owned()))
        };
        let mut endpoints = WorkerEndpoints {
            kinesis: url(&given.kinesis, LocalAws::kinesis_url),
            dynamodb: url(&given.dynamodb, LocalAws::dynamodb_url),
            dynamodb_streams: match given.dynamodb {
                Some(_) => given.dynamodb_streams.clone(),
                None => local.as_ref().map(|local| local.dynamodb_streams_url().to_owned()),
            },
            s3: given.s3.clone(),
            ca_bundle: None,
        };
        let region = region.or(local.as_ref().map(LocalAws::region)).map(str::to_owned);
        let (for_kinesis, for_dynamodb) = tokio::join!(
            Box::pin(sdk_config(endpoints.kinesis.as_deref(), region.as_deref())),
            Box::pin(sdk_config(endpoints.dynamodb.as_deref(), region.as_deref()))
        );
        let embedded_kinesis = given.kinesis.is_none();
        // For us the plain door is good enough.
        if let Some(tls) = local.as_ref().filter(|_| embedded_kinesis).and_then(LocalAws::kinesis_tls_url) {
            (endpoints.kinesis, endpoints.ca_bundle) = (Some(tls.to_owned()), ca_bundle);
        }
        let dynamodb = Client::new(&for_dynamodb);
        Ok(Self { local, endpoints, embedded_kinesis, region, for_kinesis, dynamodb })
    }

    /// The embedded servers, where any of them is.
    pub fn local(&self) -> Option<&LocalAws> {
        self.local.as_ref()
    }

    /// Kinesis, where it is the embedded one.
    pub fn embedded_kinesis(&self) -> Option<&Kinesis> {
        self.local.as_ref().filter(|_| self.embedded_kinesis).map(LocalAws::kinesis)
    }

    /// A client for DynamoDB.
    pub fn dynamodb(&self) -> &Client {
        &self.dynamodb
    }

    /// The lease table of an application.
    pub fn leases(&self, application: &str) -> Arc<DynamoDbLeaseTable> {
        Arc::new(DynamoDbLeaseTable::new(self.dynamodb.clone(), application))
    }

    /// Stops our servers; removes the lease table from somebody else's.
    pub async fn strike(self, application: &str) {
        if let Some(local) = self.local {
            return local.shutdown().await;
        }
        if let Err(error) = self.dynamodb.delete_table().table_name(application).send().await {
            say(format!("the table {application} could not be deleted: {}", explain(&error)));
        }
    }
}
