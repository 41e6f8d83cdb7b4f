//! A `SubscribeToShard` stream: events are pushed when records come, not polled.
//!
//! ```text
//! initial-response ─► event* ─► end of five minutes        (nothing; the client subscribes again)
//!                        ├────► event with children         (the shard is closed and drained)
//!                        └────► exception                   (superseded, deregistered, stream deleted)
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::Bytes;
use futures::Stream as FutureStream;
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;

use super::api;
use super::consumers::Grant;
use super::errors::{ACCOUNT, ApiError};
use super::limits::{self, TokenBucket};
use super::shard::{Page, Shard};
use super::stream::Stream;
use crate::clock::wall_clock_us;

/// A subscription lives this long
/// ([SubscribeToShard](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html)).
const LIFETIME: Duration = Duration::from_secs(300);

/// A quiet shard still sends an event this often, so that a consumer sees that the subscription lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Decoded bytes of the records in one event.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The state of one subscription.
pub(crate) struct Subscription {
    stream: Arc<Stream>,
    shard: Arc<Shard>,
    next: u64,
    grant: Grant,
    changed: watch::Receiver<()>,
    bucket: Option<TokenBucket>,
    ends: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Live,
    Ended,
}

impl Subscription {
    pub(crate) fn new(
        stream: Arc<Stream>,
        shard: Arc<Shard>,
        next: u64,
        grant: Grant,
        real_limits: bool,
    ) -> Self {
        Self {
            changed: shard.watch(),
            stream,
            shard,
            next,
            grant,
            bucket: real_limits.then(|| limits::fan_out_bucket(wall_clock_us())),
            ends: Instant::now() + LIFETIME,
            phase: Phase::Greeting,
        }
    }

    /// The frames of the answer's body, made when the client is ready to take them.
    pub(crate) fn into_frames(self) -> impl FutureStream<Item = Result<Frame<Bytes>, Infallible>> {
        futures::stream::unfold(self, |mut subscription| async {
            let message = subscription.next_message().await?;
            Some((Ok(Frame::data(encode(&message))), subscription))
        })
    }

    async fn next_message(&mut self) -> Option<Message> {
        match self.phase {
            Phase::Greeting => {
                self.phase = Phase::Live;
                return Some(message("event", ":event-type", "initial-response", b"{}".to_vec()));
            }
            Phase::Ended => return None,
            Phase::Live => {}
        }
        if let Some(bucket) = &mut self.bucket {
            let wait = Duration::from_micros(bucket.debt_us(wall_clock_us()));
            tokio::time::sleep(wait).await;
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            // Seen before the page is read: a record that comes after it wakes the wait below.
            self.changed.borrow_and_update();
            let now_us = wall_clock_us();
            let oldest_us = self.stream.layout().oldest_us(now_us);
            let page = self.shard.page(self.next, 10_000, EVENT_BYTES_MAX, oldest_us);
            let lost = self.lost();
            if let Some(error) = lost {
                self.phase = Phase::Ended;
                return Some(message("exception", ":exception-type", error.kind, error.body()));
            }
            if !page.run.records.is_empty() || page.ended || Instant::now() >= heartbeat {
                return Some(self.event(&page, now_us));
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.ends) => {
                    self.phase = Phase::Ended;
                    return None;
                }
                () = self.grant.superseded.cancelled() => {}
                () = self.grant.deregistered.cancelled() => {}
                () = self.stream.deleted.cancelled() => {}
                // The sender lives in the shard, which this subscription holds.
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(heartbeat) => {}
            }
        }
    }

    /// Why the subscription is over, if it is.
    fn lost(&self) -> Option<ApiError> {
        if self.stream.deleted.is_cancelled() {
            Some(ApiError::stream_not_found(&self.stream.name, ACCOUNT))
        } else if self.grant.deregistered.is_cancelled() {
            Some(ApiError::consumer_not_found("of this subscription"))
        } else if self.grant.superseded.is_cancelled() {
            Some(ApiError::resource_in_use(
                "Another active subscription took the shard over for this consumer.",
            ))
        } else {
            None
        }
    }

    fn event(&mut self, page: &Page, now_us: i64) -> Message {
        if let Some(bucket) = &mut self.bucket {
            bucket.charge(limits::as_tokens(page.run.bytes));
        }
        self.next = page.run.next();
        let mut payload = vec![b'{'];
        api::write_records(&mut payload, &self.shard, &page.run);
        if page.ended {
            self.phase = Phase::Ended;
            payload.extend_from_slice(br#","ChildShards":"#);
            payload.extend_from_slice(api::child_shards(&self.stream, &self.shard).to_string().as_bytes());
        } else {
            let last_read = self.shard.sequence(self.next.saturating_sub(1));
            payload.extend_from_slice(format!(r#","ContinuationSequenceNumber":"{last_read}""#).as_bytes());
        }
        let behind = page.millis_behind_latest(now_us);
        payload.extend_from_slice(format!(r#","MillisBehindLatest":{behind}}}"#).as_bytes());
        // Five minutes may pass while records never cease.
        if Instant::now() >= self.ends {
            self.phase = Phase::Ended;
        }
        message("event", ":event-type", "SubscribeToShardEvent", payload)
    }
}

fn message(
    message_type: &'static str,
    kind_header: &'static str,
    kind: &'static str,
    payload: Vec<u8>,
) -> Message {
    let text = |value: &'static str| HeaderValue::String(value.into());
    Message::new(payload)
        .add_header(Header::new(":message-type", text(message_type)))
        .add_header(Header::new(kind_header, text(kind)))
        .add_header(Header::new(":content-type", text("application/x-amz-json-1.1")))
}

fn encode(message: &Message) -> Bytes {
    let mut frame = Vec::with_capacity(message.payload().len() + 256);
    write_message_to(message, &mut frame).expect("headers are short and the payload is far below 4 GiB");
    frame.into()
}
