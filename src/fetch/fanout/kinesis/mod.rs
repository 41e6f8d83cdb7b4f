//! `SubscribeToShard`: the call, and its body as it comes.
//!
//! As with `GetRecords` the SDK signs, sends and reads errors, and does not read the records. Nothing is taken from the
//! connection that nobody has room for: then the window of the connection fills up, and the stream waits.

mod consumer;
mod frames;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::event_stream::Message;
use futures::FutureExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

pub use self::consumer::{Consumer, PLACES};
pub use self::frames::{FrameError, Frames};
use super::{Subscribed, Subscription};
use crate::cause::one_line;
use crate::fetch::kinesis::taken::{READ_TIMEOUT, TakeBody};
use crate::fetch::kinesis::{
    PAGE_BYTES_MAX, answer_timeout, check_end, fetch_error, of_code, of_start, parse, start_time,
};
use crate::fetch::page::Page;
use crate::fetch::source::{FetchError, StartAt};
use crate::shard::ShardId;

/// Subscribes to the shards of one Kinesis stream, as one of its consumers.
pub struct KinesisFanOut {
    client: Client,
    consumer: Arc<Consumer>,
}

impl KinesisFanOut {
    /// As this consumer. The client's retries do not apply: the pace of a shard is decided in one place, `pace`.
    pub fn new(client: Client, consumer: Arc<Consumer>) -> Self {
        Self { client, consumer }
    }
}

fn position(start: &StartAt) -> Result<StartingPosition, FetchError> {
    let position = match start {
        StartAt::TrimHorizon => StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon),
        StartAt::Latest => StartingPosition::builder().r#type(ShardIteratorType::Latest),
        StartAt::Timestamp(us) => {
            StartingPosition::builder().r#type(ShardIteratorType::AtTimestamp).timestamp(start_time(*us)?)
        }
        StartAt::At(sequence) => StartingPosition::builder()
            .r#type(ShardIteratorType::AtSequenceNumber)
            .sequence_number(sequence.as_str()),
        StartAt::After(sequence) => StartingPosition::builder()
            .r#type(ShardIteratorType::AfterSequenceNumber)
            .sequence_number(sequence.as_str()),
    };
    Ok(position.build().expect("its type is set"))
}

#[async_trait]
impl Subscribed for KinesisFanOut {
    async fn ready(&self) -> Result<(), FetchError> {
        self.consumer.ready().await.map(drop)
    }

    async fn subscribe(&self, shard: &ShardId, start: &StartAt) -> Result<Box<dyn Subscription>, FetchError> {
        let arn = self.consumer.ready().await?;
        let taken = TakeBody::leaving("");
        // An event stream is silent for seconds by design.
        let settings = aws_sdk_kinesis::config::Builder::new()
            .retry_config(RetryConfig::disabled())
            .timeout_config(answer_timeout())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let answer = self
            .client
            .subscribe_to_shard()
            .consumer_arn(&*arn)
            .shard_id(shard.as_str())
            .starting_position(position(start)?)
            .customize()
            .config_override(settings)
            .interceptor(taken.clone())
            .send()
            .await;
        if let Err(error) = answer {
            let denied =
                matches!(error.as_service_error(), Some(error) if error.is_access_denied_exception());
            return Err(match of_start(fetch_error(error), start) {
                FetchError::Refused(reason) if denied => FetchError::NoFanOut(reason),
                FetchError::NotFound => self.consumer.what_is_gone(&arn).await,
                error => error,
            });
        }
        let taken = taken.body()?;
        Ok(Box::new(Events {
            body: ByteStream::new(taken.body),
            frames: Frames::default(),
            ended: false,
            began: Instant::now(),
            began_us: taken.served_us,
            drained: Instant::now(),
            consumer: Arc::clone(&self.consumer),
            arn,
        }))
    }
}

/// The body of one subscription.
struct Events {
    body: ByteStream,
    frames: Frames,
    ended: bool,
    /// When the head of the answer came, by the clock of this host and by that of the stream.
    began: Instant,
    began_us: Option<i64>,
    /// When nothing that had come was unread: what came later was not sent much before.
    drained: Instant,
    consumer: Arc<Consumer>,
    arn: Arc<str>,
}

impl Events {
    /// Takes a piece from the connection; false at its end.
    async fn pull(&mut self) -> Result<bool, FetchError> {
        if self.ended {
            return Ok(false);
        }
        // A look that does not wait, and does not count as work of this task: it shows whether something was left lying.
        let next = match tokio::task::unconstrained(self.body.next()).now_or_never() {
            Some(next) => next,
            None => {
                self.drained = Instant::now();
                self.body.next().await
            }
        };
        match next {
            Some(Ok(piece)) => self.frames.push(&piece),
            Some(Err(error)) => {
                self.ended = true;
                return Err(FetchError::Unavailable(error.into()));
            }
            None => self.ended = true,
        }
        Ok(!self.ended)
    }

    /// When an event was sent at the earliest that has just been read, by the clock of the stream.
    fn sent_us(&self) -> Option<i64> {
        let since = self.drained.saturating_duration_since(self.began);
        Some(self.began_us? + i64::try_from(since.as_micros()).ok()?)
    }

    async fn page(&mut self, message: Message) -> Result<Option<Page>, FetchError> {
        let header = |name: &str| {
            let mut headers = message.headers().iter();
            let found = headers.find(|header| header.name().as_str() == name)?;
            found.value().as_string().ok().map(|text| text.as_str().to_owned())
        };
        match (header(":message-type").as_deref(), header(":event-type").as_deref()) {
            (Some("event"), Some("SubscribeToShardEvent")) => {
                let served_us = self.sent_us();
                let mut page = check_end(parse(message.payload().clone().into()).await?)?;
                page.served_us = served_us;
                Ok(Some(page))
            }
            // The initial response, and what there may be one day.
            (Some("event"), _) => Ok(None),
            _ => {
                let code = header(":exception-type").or_else(|| header(":error-code")).unwrap_or_default();
                let said = said(message.payload()).or_else(|| header(":error-message")).unwrap_or_default();
                Err(match of_code(&code, || format!("{code}: {}", one_line(&said))) {
                    FetchError::NotFound => self.consumer.what_is_gone(&self.arn).await,
                    error => error,
                })
            }
        }
    }
}

/// The message of an exception.
fn said(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(alias = "Message")]
        message: String,
    }
    serde_json::from_slice::<Said>(payload).ok().map(|said| said.message)
}

fn damaged(error: FrameError) -> FetchError {
    FetchError::Unavailable(error.into())
}

#[async_trait]
impl Subscription for Events {
    async fn arriving(&mut self) -> Result<Option<usize>, FetchError> {
        loop {
            if let Some(length) = self.frames.announced(PAGE_BYTES_MAX).map_err(damaged)? {
                return Ok(Some(length));
            }
            if !self.pull().await? {
                return if self.frames.is_empty() { Ok(None) } else { Err(broken_off()) };
            }
        }
    }

    async fn event(&mut self) -> Result<Option<Page>, FetchError> {
        loop {
            if let Some(message) = self.frames.take(PAGE_BYTES_MAX).map_err(damaged)? {
                return self.page(message).await;
            }
            let more = timeout(READ_TIMEOUT, self.pull()).await.map_err(|_| {
                let text = format!("an event stopped half-way for {} s", READ_TIMEOUT.as_secs());
                FetchError::Unavailable(text.into())
            })??;
            if !more {
                return Err(broken_off());
            }
        }
    }
}

fn broken_off() -> FetchError {
    FetchError::Unavailable("the subscription broke off within an event".into())
}

#[cfg(test)]
mod tests;
