//! The consumer under whose name the shards of a stream are subscribed to: found or registered, and waited for.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::ConsumerStatus;
use tokio::time::{Instant, sleep};

use crate::aws::{OfStream, StreamAddress, explain};
use crate::fetch::source::FetchError;

/// A consumer becomes ACTIVE, or is gone, within some seconds: looks, and the time between two of them (as KCL does).
const LOOKS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was refused is asked for again after this time, by one shard for all.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Of one call, tries of the SDK included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const NOT_FOUND: &str = "ResourceNotFoundException";

/// Consumers that a stream takes.
pub const PLACES: &str = "a stream takes 20 consumers (50 with On-demand Advantage), and the queues registered on it \
     take the same places";

/// One consumer of one stream, shared by all shards that are read.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    stream: StreamAddress,
    name: String,
    known: Mutex<Known>,
    /// One looks for all.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    arn: Option<Arc<str>>,
    /// Why there is none, and until when that is believed.
    refused: Option<(String, Instant)>,
}

/// What one look found.
enum Look {
    Active(Arc<str>),
    /// Not yet, or not any more.
    Wait(ConsumerStatus),
    Missing,
}

/// Why a consumer is not there.
#[derive(Debug)]
struct Trouble {
    said: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Throttled,
    StreamGone,
    Refused,
    Passing,
}

impl Trouble {
    fn passing(said: impl Into<String>) -> Self {
        Self { said: said.into(), kind: Kind::Passing }
    }
}

impl From<Trouble> for FetchError {
    fn from(Trouble { said, kind }: Trouble) -> Self {
        match kind {
            Kind::Throttled => Self::Throttled,
            Kind::StreamGone => Self::NotFound,
            Kind::Refused => Self::NoFanOut(said),
            Kind::Passing => Self::Unavailable(said.into()),
        }
    }
}

impl Consumer {
    /// The consumer of this name. Nothing is asked yet.
    pub fn new(client: Client, stream: StreamAddress, name: impl Into<String>) -> Self {
        let (known, looking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { client, stream, name: name.into(), known, looking }
    }

    /// Its ARN, once it is there and ACTIVE: it is registered where it is missing.
    ///
    /// # Errors
    /// [`FetchError::NoFanOut`] where it cannot be had: that is believed for a minute, so that it may be asked often.
    pub async fn ready(&self) -> Result<Arc<str>, FetchError> {
        if let Some(known) = self.answer() {
            return known;
        }
        let _looking = self.looking.lock().await;
        if let Some(known) = self.answer() {
            return known;
        }
        let found = self.have().await.map_err(FetchError::from);
        let mut known = self.known();
        match &found {
            Ok(arn) => *known = Known { arn: Some(Arc::clone(arn)), refused: None },
            Err(FetchError::NoFanOut(reason)) => {
                known.refused = Some((reason.clone(), Instant::now() + REFUSED_FOR));
            }
            Err(_) => {}
        }
        found
    }

    /// Why the stream says "not found" to a subscription as the consumer with this ARN: somebody has deregistered the
    /// consumer, or it is the shard.
    pub(super) async fn what_is_gone(&self, arn: &Arc<str>) -> FetchError {
        let call = self.client.describe_stream_consumer().consumer_arn(&**arn);
        match call.customize().config_override(bounded()).send().await {
            Err(error) if error.code() == Some(NOT_FOUND) => {}
            Ok(answer) => {
                let status = answer.consumer_description.map(|consumer| consumer.consumer_status);
                if status != Some(ConsumerStatus::Deleting) {
                    return FetchError::NotFound;
                }
            }
            Err(error) => return FetchError::Unavailable(explain(&error).into()),
        }
        let mut known = self.known();
        // Another shard may have found the next one already.
        if known.arn.as_ref() == Some(arn) {
            tracing::warn!(consumer = self.name, stream = %self.stream, "somebody has deregistered the fan-out consumer");
            known.arn = None;
        }
        FetchError::Unavailable(format!("the fan-out consumer {} was deregistered", self.name).into())
    }

    fn answer(&self) -> Option<Result<Arc<str>, FetchError>> {
        let known = self.known();
        if let Some(arn) = &known.arn {
            return Some(Ok(Arc::clone(arn)));
        }
        let (reason, until) = known.refused.as_ref()?;
        (Instant::now() < *until).then(|| Err(FetchError::NoFanOut(reason.clone())))
    }

    /// Whether it is there, or is made now. Nobody waits until it is ACTIVE.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub async fn is_made(&self) -> Result<(), String> {
        let made = async {
            let stream_arn = self.stream_arn().await?;
            match self.look(&stream_arn).await? {
                Look::Missing => self.register(&stream_arn).await,
                Look::Active(_) | Look::Wait(_) => Ok(()),
            }
        };
        made.await.map_err(|trouble: Trouble| trouble.said)
    }

    async fn have(&self) -> Result<Arc<str>, Trouble> {
        let stream_arn = self.stream_arn().await?;
        let mut last = ConsumerStatus::Creating;
        for look in 0..LOOKS {
            if look > 0 {
                sleep(LOOK_EVERY).await;
            }
            match self.look(&stream_arn).await? {
                Look::Active(arn) => return Ok(arn),
                Look::Wait(status) => last = status,
                Look::Missing => self.register(&stream_arn).await?,
            }
        }
        Err(Trouble::passing(format!("the fan-out consumer {} is still {last}", self.name)))
    }

    async fn stream_arn(&self) -> Result<String, Trouble> {
        if let Some(arn) = self.stream.arn() {
            return Ok(arn.to_string());
        }
        let call = self.client.describe_stream_summary().of(&self.stream);
        let answer = call.customize().config_override(bounded()).send().await;
        let summary = answer.map_err(|error| self.trouble(&error))?.stream_description_summary;
        summary
            .map(|summary| summary.stream_arn)
            .ok_or_else(|| Trouble::passing("the stream's ARN is not said"))
    }

    async fn look(&self, stream_arn: &str) -> Result<Look, Trouble> {
        let call = self.client.describe_stream_consumer().stream_arn(stream_arn).consumer_name(&self.name);
        match call.customize().config_override(bounded()).send().await {
            Ok(answer) => {
                let consumer = answer.consumer_description;
                let consumer = consumer.ok_or_else(|| Trouble::passing("the consumer is not described"))?;
                Ok(match consumer.consumer_status {
                    ConsumerStatus::Active => Look::Active(consumer.consumer_arn.into()),
                    status => Look::Wait(status),
                })
            }
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(Look::Missing),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    async fn register(&self, stream_arn: &str) -> Result<(), Trouble> {
        let call = self.client.register_stream_consumer().stream_arn(stream_arn).consumer_name(&self.name);
        match call.customize().config_override(bounded()).send().await {
            Ok(_) => {
                tracing::info!(consumer = self.name, stream = %self.stream, "fan-out consumer registered");
                Ok(())
            }
            // Another worker was faster.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) if error.code() == Some("LimitExceededException") => {
                let said = format!(
                    "consumer {} cannot be registered: {}; {PLACES}: look with `kinetide consumers list --stream {}`, \
                     deregister one that nobody uses, or use --retrieval polling",
                    self.name,
                    explain(&error),
                    self.stream,
                );
                Err(Trouble { said, kind: Kind::Refused })
            }
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// What a failed call means: an answer of the service that will be the same next time, or not.
    fn trouble<E>(&self, error: &SdkError<E, aws_sdk_kinesis::config::http::HttpResponse>) -> Trouble
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let kind = match error.code() {
            Some(
                "LimitExceededException" | "ThrottlingException" | "ProvisionedThroughputExceededException",
            ) => Kind::Throttled,
            // Of a call about the consumer it is said that there is none.
            Some(NOT_FOUND) => Kind::StreamGone,
            Some("InternalFailure" | "InternalFailureException" | "ServiceUnavailable") | None => {
                Kind::Passing
            }
            // Refused, or an operation that the server does not have.
            Some(_) => Kind::Refused,
        };
        Trouble { said: format!("consumer {}: {}", self.name, explain(error)), kind }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds this lock")
    }
}

fn bounded() -> aws_sdk_kinesis::config::Builder {
    let timeout = TimeoutConfig::builder().operation_timeout(CALL_TIMEOUT).build();
    aws_sdk_kinesis::config::Builder::new().timeout_config(timeout)
}
