//! Flags of the commands that are about one stream of Kinesis, and who asks it.

use std::time::Duration;

use anyhow::anyhow;
use aws_sdk_kinesis::Client;
use clap::Args;

use super::leases::{Fleet, FleetArgs, connect};
use crate::aws::{AssumeRole, StreamAddress, stream_config};
use crate::config::{BadSetting, KafkaArgs, StreamRoleArgs, endpoint, stream};

/// The heading of flags about AWS.
pub(super) const AWS: &str = "AWS";

#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// Stream that the command is about.
    #[arg(long, global = true, env = "KINETIDE_STREAM", value_name = "NAME|ARN")]
    stream: Option<String>,

    /// AWS region [default: from the environment]. A stream named by its ARN is in the ARN's region.
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_REGION", value_name = "REGION")]
    pub(super) region: Option<String>,

    /// Kinesis endpoint URL [default: AWS].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_KINESIS_ENDPOINT", value_name = "URL")]
    pub(super) kinesis_endpoint: Option<String>,

    #[command(flatten)]
    stream_role: StreamRoleArgs,

    /// Print JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// A stream as it was named, and in whose role it is asked.
pub(super) struct Named {
    pub(super) address: StreamAddress,
    pub(super) role: Option<AssumeRole>,
}

impl StreamArgs {
    /// The stream, where the flags make sense.
    pub(super) fn checked(&self) -> Result<Named, String> {
        let text = |problem: BadSetting| problem.to_string();
        let named = self.stream.as_deref().ok_or("no stream: set --stream")?;
        let address = stream(named).map_err(text)?;
        endpoint("kinesis-endpoint", self.kinesis_endpoint.clone()).map_err(text)?;
        let role = self.stream_role.clone().checked(None).map_err(text)?;
        Ok(Named { address, role })
    }

    /// A client for it.
    pub(super) async fn client(&self, named: &Named) -> anyhow::Result<Client> {
        let (endpoint, region) = (self.kinesis_endpoint.as_deref(), self.region.as_deref());
        let sdk = stream_config(&named.address, named.role.as_ref(), endpoint, region).await;
        if sdk.region().is_none() {
            return Err(anyhow!("no AWS region: set --region or AWS_REGION"));
        }
        Ok(Client::new(&sdk))
    }

    /// The workers of an application that may read it.
    pub(super) async fn fleet(
        &self,
        named: &Named,
        application: String,
        failover_time: Duration,
        dynamodb_endpoint: Option<String>,
    ) -> anyhow::Result<Fleet> {
        let nobody =
            StreamRoleArgs { stream_role: None, stream_role_external_id: None, stream_role_session: None };
        // What is checked already comes with the names.
        let fleet = FleetArgs {
            application: None,
            stream: Vec::new(),
            table: Vec::new(),
            topic: Vec::new(),
            kafka: KafkaArgs::default(),
            failover_time,
            region: self.region.clone(),
            kinesis_endpoint: self.kinesis_endpoint.clone(),
            dynamodb_endpoint,
            dynamodb_streams_endpoint: None,
            stream_role: nobody,
            json: false,
        };
        connect(fleet, (application, vec![named.address.clone()], named.role.clone())).await
    }
}
