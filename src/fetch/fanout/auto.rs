//! Enhanced fan-out where there can be one, else polling, and back.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use tokio::time::Instant;

use super::Subscriber;
use crate::cause::chain;
use crate::fetch::source::{FetchError, Pulled, RecordSource, Retrieval, ShardReader, StartAt};
use crate::fetch::started::StartLook;
use crate::shard::SequenceNumber;

/// A shard that no subscription has brought anything of for so long is polled.
const PATIENCE: Duration = Duration::from_secs(60);
/// While a shard is polled, a subscription is tried again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What the log has been told of a stream: once for all of its shards.
pub(super) struct Told {
    stream: String,
    polls: Mutex<bool>,
}

impl Told {
    pub(super) fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned(), polls: Mutex::new(false) }
    }

    fn polls(&self, why: &FetchError) {
        let mut polls = self.lock();
        if !std::mem::replace(&mut *polls, true) {
            tracing::warn!(
                stream = self.stream,
                reason = chain(why),
                "--retrieval auto: the stream is polled until enhanced fan-out is possible"
            );
        }
    }

    fn subscribed(&self) {
        let mut polls = self.lock();
        if std::mem::replace(&mut *polls, false) {
            tracing::info!(
                stream = self.stream,
                "--retrieval auto: the stream is read by enhanced fan-out again"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.polls.lock().expect("no code panics while it holds this lock")
    }
}

/// Reads one shard in the better of two ways. Only one of them is open at a time.
pub(super) struct Auto {
    subscriber: Subscriber,
    polling: Arc<dyn RecordSource>,
    told: Arc<Told>,
    /// While it polls.
    poller: Option<Box<dyn ShardReader>>,
    /// No subscription is tried before this time.
    again_at: Instant,
    /// When a subscription last brought something, or was first tried.
    worked: Instant,
    /// How long it may bring nothing: no time where it did not before.
    patience: Duration,
}

impl Auto {
    pub(super) fn new(subscriber: Subscriber, polling: Arc<dyn RecordSource>, told: Arc<Told>) -> Self {
        let now = Instant::now();
        Self { subscriber, polling, told, poller: None, again_at: now, worked: now, patience: PATIENCE }
    }

    /// Whether the shard is to be polled after this error.
    fn gives_up(&self, error: &FetchError) -> bool {
        match error {
            FetchError::NoFanOut(_) => true,
            // Polling would say the same.
            FetchError::NotFound
            | FetchError::Refused(_)
            | FetchError::Foreign(_)
            | FetchError::Truncated(_) => false,
            FetchError::ExpiredIterator
            | FetchError::Throttled
            | FetchError::InUse(_)
            | FetchError::Unavailable(_) => self.worked.elapsed() >= self.patience,
        }
    }

    fn poll(&mut self, why: &FetchError) {
        self.told.polls(why);
        self.patience = Duration::ZERO;
        self.again_at = Instant::now() + AGAIN_AFTER;
        self.poller = Some(self.subscriber.instead(&*self.polling));
    }

    /// Whether a subscription is to be tried now.
    async fn may_subscribe(&mut self) -> bool {
        // Where nobody has said yet where the tip is, what comes meanwhile would be passed over.
        let knows_place = !matches!(self.subscriber.start, StartAt::Latest);
        if !knows_place || Instant::now() < self.again_at {
            return false;
        }
        self.again_at = Instant::now() + AGAIN_AFTER;
        self.subscriber.stream.ready().await.is_ok()
    }
}

#[async_trait]
impl ShardReader for Auto {
    async fn next(&mut self) -> Result<Pulled, FetchError> {
        if self.poller.is_some() && self.may_subscribe().await {
            self.poller = None;
            self.worked = Instant::now();
            self.subscriber.reads_for.reads_by(Retrieval::FanOut);
        }
        loop {
            if let Some(poller) = &mut self.poller {
                let pulled = poller.next().await?;
                self.subscriber.went_on(&pulled);
                return Ok(pulled);
            }
            match self.subscriber.next().await {
                Ok(pulled) => {
                    if self.subscriber.heard > self.worked {
                        (self.worked, self.patience) = (self.subscriber.heard, PATIENCE);
                        self.told.subscribed();
                    }
                    return Ok(pulled);
                }
                Err(error) if self.gives_up(&error) => self.poll(&error),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Subscriber {
    /// A reader in its place, from where it stands.
    fn instead(&mut self, polling: &dyn RecordSource) -> Box<dyn ShardReader> {
        self.live = None;
        polling.open(&self.shard, self.start.clone(), Arc::clone(&self.reads_for), self.rng.random())
    }

    /// The one in its place has read on.
    fn went_on(&mut self, pulled: &Pulled) {
        if let Some(last) = pulled.page.records().next_back() {
            self.start = StartAt::After(
                SequenceNumber::parse(last.sequence_number).expect("a page has decimal digits"),
            );
        } else if let (Some(_), StartAt::At(sequence)) = (&pulled.start, &self.start) {
            // It is known what became of the record, and not to be told again.
            self.start = StartAt::After(sequence.clone());
        }
        if pulled.start.is_some() {
            self.look = StartLook::at(&self.start);
        }
    }
}
