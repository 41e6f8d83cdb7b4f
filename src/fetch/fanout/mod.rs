//! Reads shards by enhanced fan-out: the stream pushes events to the one subscription that a consumer may have for a shard.
//!
//! ```text
//!        ┌────────── renewed, ended: at once ───────────┐
//!        ▼                                              │
//! subscribe ── refused: wait, look at the lease ──► events ── no room ──► wait, take nothing from the connection
//!        ▲                                              │
//!        └── taken over, silent, broken: wait ──────────┴── children ──► end of the shard
//! ```
//!
//! Owns: when a subscription begins and ends, where the next one goes on, what an event reserves. Never more than one for
//! a reader.
//! Does not own: the calls ([`Subscribed`]), how long a pause is (`pace`), which consumer it is (`kinesis`).

mod auto;
pub mod kinesis;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod pace;

use std::sync::Arc;

use async_trait::async_trait;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::auto::{Auto, Told};
use self::pace::{Idle, Pace};
use super::page::{Behind, Page};
use super::polling::TIP_BYTES;
use super::source::{
    Ahead, FetchError, Pulled, ReadsFor, RecordSource, Retrieval, Room, ShardReader, StartAt,
};
use super::started::StartLook;
use crate::shard::{SequenceNumber, ShardId};
use crate::telemetry::metrics;

/// An event of this size on the wire holds no record.
const EMPTY_EVENT_BYTES: usize = 512;

/// A stream whose shards can be subscribed to.
#[async_trait]
pub trait Subscribed: Send + Sync {
    /// Whether it may be tried: the consumer is there. Cheap where that is known.
    ///
    /// # Errors
    /// [`FetchError::NoFanOut`]: there is none, and none can be made.
    async fn ready(&self) -> Result<(), FetchError>;

    /// The only subscription of the consumer to this shard, from `start` on. It ends when it is dropped.
    ///
    /// # Errors
    /// Of one try.
    async fn subscribe(&self, shard: &ShardId, start: &StartAt) -> Result<Box<dyn Subscription>, FetchError>;
}

/// A subscription to one shard.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next event; answers how many bytes it has on the wire. `None`: it is over, as all are after five
    /// minutes. May be cancelled.
    ///
    /// # Errors
    /// It is over, and this is why.
    async fn arriving(&mut self) -> Result<Option<usize>, FetchError>;

    /// The event that is arriving: its records, and in [`Page::next_iterator`] the sequence number to go on after. `None`:
    /// it was none for us.
    ///
    /// # Errors
    /// It is over, and this is why.
    async fn event(&mut self) -> Result<Option<Page>, FetchError>;
}

/// Reads the shards of a stream by subscriptions.
pub struct FanOut {
    stream: Arc<dyn Subscribed>,
    /// The same stream: for lags, and where there can be no subscription.
    polling: Arc<dyn RecordSource>,
    /// Polls while there can be no subscription, and has been told so.
    auto: Option<Arc<Told>>,
}

impl FanOut {
    /// Always by subscriptions. `polling`: reads the same stream.
    pub fn new(stream: Arc<dyn Subscribed>, polling: Arc<dyn RecordSource>) -> Self {
        Self { stream, polling, auto: None }
    }

    /// By subscriptions while there can be any, else by polling; the log says when that changes. `name`: of the stream.
    pub fn or_polling(stream: Arc<dyn Subscribed>, polling: Arc<dyn RecordSource>, name: &str) -> Self {
        Self { stream, polling, auto: Some(Arc::new(Told::new(name))) }
    }
}

#[async_trait]
impl RecordSource for FanOut {
    fn open(
        &self,
        shard: &ShardId,
        start: StartAt,
        reads_for: Arc<dyn ReadsFor>,
        seed: u64,
    ) -> Box<dyn ShardReader> {
        let subscriber = Subscriber::new(Arc::clone(&self.stream), shard, start, reads_for, seed);
        match &self.auto {
            None => Box::new(subscriber),
            Some(told) => Box::new(Auto::new(subscriber, Arc::clone(&self.polling), Arc::clone(told))),
        }
    }

    async fn lag(&self, shard: &ShardId, start: &StartAt) -> Result<Ahead, FetchError> {
        self.polling.lag(shard, start).await
    }

    fn page_bytes_max(&self) -> usize {
        self.polling.page_bytes_max()
    }
}

/// Reads one shard by one subscription after the other.
struct Subscriber {
    stream: Arc<dyn Subscribed>,
    shard: ShardId,
    reads_for: Arc<dyn ReadsFor>,
    pace: Pace,
    rng: ChaCha8Rng,
    live: Option<Live>,
    /// Where the next subscription begins.
    start: StartAt,
    look: StartLook,
    /// Where the last event ended.
    behind: Behind,
    /// When the stream last sent one.
    heard: Instant,
}

/// The subscription, and that it is counted.
struct Live(Box<dyn Subscription>);

impl Live {
    fn new(subscription: Box<dyn Subscription>) -> Self {
        metrics::subscribed();
        Self(subscription)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        metrics::unsubscribed();
    }
}

impl Subscriber {
    fn new(
        stream: Arc<dyn Subscribed>,
        shard: &ShardId,
        start: StartAt,
        reads_for: Arc<dyn ReadsFor>,
        seed: u64,
    ) -> Self {
        reads_for.reads_by(Retrieval::FanOut);
        Self {
            stream,
            shard: shard.clone(),
            reads_for,
            pace: Pace::new(Instant::now()),
            rng: ChaCha8Rng::seed_from_u64(seed),
            live: None,
            look: StartLook::at(&start),
            start,
            behind: Behind::Unknown,
            heard: Instant::now(),
        }
    }

    /// Closes what is open, which lets the next owner of the shard begin.
    fn failed(&mut self, error: FetchError) -> FetchError {
        self.live = None;
        match &error {
            FetchError::Throttled => metrics::subscription_throttled(),
            error => metrics::subscription_failed(error.kind()),
        }
        self.pace.failed(Instant::now(), &error, &mut self.rng);
        error
    }

    async fn subscribe(&mut self) -> Result<(), FetchError> {
        sleep_until(self.pace.not_before()).await;
        if self.pace.is_taken() {
            // Whoever took the shard may be its owner now.
            self.reads_for.still_ours().await;
        }
        let _calling = self.reads_for.calling("SubscribeToShard");
        let subscription = self.stream.subscribe(&self.shard, &self.start).await?;
        self.pace.subscribed(Instant::now(), &mut self.rng);
        self.live = Some(Live::new(subscription));
        Ok(())
    }

    /// The next event; `None` where it is time to say that there is none.
    async fn pull(&mut self) -> Result<Option<(Page, Room)>, FetchError> {
        loop {
            let Some(Live(subscription)) = &mut self.live else {
                self.subscribe().await?;
                continue;
            };
            let until = match self.pace.idle(Instant::now()) {
                Idle::Until(until) => until,
                Idle::Answer(believed) => {
                    if !believed {
                        self.behind = Behind::Unknown;
                    }
                    return Ok(None);
                }
                Idle::Renew => {
                    self.live = None;
                    continue;
                }
                Idle::Silent => {
                    return Err(FetchError::Unavailable("the subscription had no event for 35 s".into()));
                }
            };
            let Ok(arriving) = timeout_at(until, subscription.arriving()).await else { continue };
            let Some(bytes) = arriving? else {
                self.live = None;
                if self.pace.ended() {
                    continue;
                }
                return Err(FetchError::Unavailable("the subscription ended without any event".into()));
            };
            let room = self.reads_for.room(reserve(bytes)).await;
            self.pace.had_no_room(Instant::now());
            let _calling = self.reads_for.calling("SubscribeToShard");
            if let Some(page) = subscription.event().await? {
                return Ok(Some((page, room)));
            }
        }
    }
}

/// Bytes that an event may take, of so many on the wire: with its index, and, where it has records, until they are in the
/// batch, as their rows may take more than they do.
fn reserve(bytes: usize) -> usize {
    if bytes <= EMPTY_EVENT_BYTES { bytes } else { TIP_BYTES.max(bytes + bytes / 4) }
}

#[async_trait]
impl ShardReader for Subscriber {
    async fn next(&mut self) -> Result<Pulled, FetchError> {
        let (mut page, mut room) = match self.pull().await {
            Ok(Some(event)) => event,
            Ok(None) => {
                let room = self.reads_for.room(0).await;
                return Ok(Pulled {
                    page: Page::default(),
                    room,
                    behind: self.behind,
                    start: None,
                    end: None,
                });
            }
            Err(error) => return Err(self.failed(error)),
        };
        let next = page.next_iterator.take();
        let next =
            next.map(|next| SequenceNumber::parse(&next).ok_or("the sequence number to go on after is none"));
        let next = match next.transpose() {
            Ok(next) => next,
            Err(text) => return Err(self.failed(FetchError::Unavailable(text.into()))),
        };
        self.heard = Instant::now();
        self.pace.event(self.heard);
        metrics::event_received(page.len(), page.bytes());
        room.fit(if page.is_empty() { page.bytes() } else { page.bytes().max(TIP_BYTES) });
        self.behind = page.behind();
        let start = self.look.take(&page, self.behind);
        let end = match next {
            Some(next) => {
                self.start = StartAt::After(next);
                None
            }
            None => {
                self.live = None;
                Some(std::mem::take(&mut page.children))
            }
        };
        Ok(Pulled { page, room, behind: self.behind, start, end })
    }
}

#[cfg(test)]
mod tests;
