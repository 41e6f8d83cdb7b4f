//! Subscriptions to a stream in memory: the twin of `SubscribeToShard` for tests and simulations, in virtual time.
//!
//! It behaves where behaviour matters: a shard has one subscription at a time, a second one within five seconds is refused,
//! a later one takes the shard over; all end after five minutes; a quiet one sends an empty event every five seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{Subscribed, Subscription};
use crate::fetch::page::Page;
use crate::fetch::polling::Polled;
use crate::fetch::source::{FetchError, StartAt};
use crate::shard::{SequenceNumber, ShardId, ShardLister};

const LIFETIME: Duration = Duration::from_secs(300);
const HEARTBEAT: Duration = Duration::from_secs(5);
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(5);
/// Records of one event.
const EVENT_RECORDS: usize = 1000;

/// Who has which shard, for all who subscribe as one consumer.
#[derive(Debug, Default)]
pub struct Seats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the subscription began, and which one it is.
    taken: BTreeMap<ShardId, (Instant, u64)>,
    next: u64,
    /// Subscriptions that are open, of each shard.
    open: BTreeMap<ShardId, usize>,
    open_max: usize,
    subscribed: usize,
    refused: usize,
    no_consumer: Option<String>,
    mute: bool,
}

impl Seats {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a panic of another thread has failed the test already")
    }

    /// Whether there is no consumer, and why.
    pub fn set_no_consumer(&self, why: Option<&str>) {
        self.state().no_consumer = why.map(str::to_owned);
    }

    /// Whether the subscriptions send nothing, not even empty events.
    pub fn set_mute(&self, mute: bool) {
        self.state().mute = mute;
    }

    /// Somebody else takes the shard.
    pub fn take_over(&self, shard: &ShardId) {
        let mut state = self.state();
        state.next += 1;
        let seat = (Instant::now(), state.next);
        state.taken.insert(shard.clone(), seat);
    }

    /// Ends all subscriptions, as after five minutes.
    pub fn end_all(&self) {
        self.state().taken.clear();
    }

    /// The most subscriptions that a shard ever had at a time.
    pub fn open_max(&self) -> usize {
        self.state().open_max
    }

    /// Subscriptions that are open.
    pub fn open(&self) -> usize {
        self.state().open.values().sum()
    }

    /// Subscriptions so far, and those that were refused because there was one.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.subscribed, state.refused)
    }
}

/// Subscribes to a stream that can be polled.
pub struct MemoryFanOut<S> {
    stream: Arc<S>,
    seats: Arc<Seats>,
    /// How soon a record is noticed.
    every: Duration,
}

impl<S> MemoryFanOut<S> {
    /// As one of those who share `seats`. The stream is looked at this often.
    pub fn new(stream: Arc<S>, seats: Arc<Seats>, every: Duration) -> Self {
        Self { stream, seats, every }
    }
}

#[async_trait]
impl<S: Polled + ShardLister + 'static> Subscribed for MemoryFanOut<S> {
    async fn ready(&self) -> Result<(), FetchError> {
        let why = self.seats.state().no_consumer.clone();
        why.map_or(Ok(()), |why| Err(FetchError::NoFanOut(why)))
    }

    async fn subscribe(&self, shard: &ShardId, start: &StartAt) -> Result<Box<dyn Subscription>, FetchError> {
        self.ready().await?;
        // What the shard accepts, and where it begins.
        let iterator = self.stream.iterator(shard, start).await?;
        let listed = self.stream.list().await.map_err(|error| FetchError::Unavailable(error.into()))?;
        let found = listed.into_iter().find(|listed| listed.id == *shard).ok_or(FetchError::NotFound)?;
        let now = Instant::now();
        let mut state = self.seats.state();
        if state.taken.get(shard).is_some_and(|(since, _)| now - *since < RESUBSCRIBE_AFTER) {
            state.refused += 1;
            return Err(FetchError::InUse("within five seconds".into()));
        }
        state.next += 1;
        let seat = state.next;
        state.taken.insert(shard.clone(), (now, seat));
        state.subscribed += 1;
        let open = state.open.entry(shard.clone()).or_default();
        *open += 1;
        let open = *open;
        state.open_max = state.open_max.max(open);
        drop(state);
        Ok(Box::new(Seated {
            stream: Arc::clone(&self.stream),
            seats: Arc::clone(&self.seats),
            shard: shard.clone(),
            seat,
            every: self.every,
            ends: now + LIFETIME,
            heartbeat: now + HEARTBEAT,
            iterator,
            after: match start {
                StartAt::After(sequence) => sequence.clone(),
                _ => found.starting_sequence_number,
            },
            arrived: None,
        }))
    }
}

struct Seated<S> {
    stream: Arc<S>,
    seats: Arc<Seats>,
    shard: ShardId,
    seat: u64,
    every: Duration,
    ends: Instant,
    heartbeat: Instant,
    iterator: String,
    /// Where to go on.
    after: SequenceNumber,
    arrived: Option<Page>,
}

impl<S> Drop for Seated<S> {
    fn drop(&mut self) {
        if let Some(open) = self.seats.state().open.get_mut(&self.shard) {
            *open -= 1;
        }
    }
}

impl<S> Seated<S> {
    /// `false` when it is over.
    fn sits(&self) -> Result<bool, FetchError> {
        match self.seats.state().taken.get(&self.shard) {
            Some((_, seat)) if *seat == self.seat => Ok(Instant::now() < self.ends),
            Some(_) => Err(FetchError::InUse("another subscription took it over".into())),
            None => Ok(false),
        }
    }
}

#[async_trait]
impl<S: Polled + ShardLister> Subscription for Seated<S> {
    async fn arriving(&mut self) -> Result<Option<usize>, FetchError> {
        loop {
            if let Some(page) = &self.arrived {
                return Ok(Some(page.bytes()));
            }
            if !self.sits()? {
                return Ok(None);
            }
            if self.seats.state().mute {
                sleep(self.every).await;
                continue;
            }
            let mut page = match self.stream.fetch(&self.shard, &self.iterator, EVENT_RECORDS).await {
                Ok(page) => page,
                Err(FetchError::ExpiredIterator) => {
                    let after = StartAt::After(self.after.clone());
                    self.iterator = self.stream.iterator(&self.shard, &after).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if page.is_empty() && page.next_iterator.is_some() && Instant::now() < self.heartbeat {
                if let Some(next) = page.next_iterator.take() {
                    self.iterator = next;
                }
                sleep(self.every).await;
                continue;
            }
            if let Some(last) = page.records().next_back() {
                self.after = last.position().sequence;
            }
            if let Some(next) = page.next_iterator.take() {
                self.iterator = next;
                page.next_iterator = Some(self.after.to_string());
            }
            self.heartbeat = Instant::now() + HEARTBEAT;
            self.arrived = Some(page);
        }
    }

    async fn event(&mut self) -> Result<Option<Page>, FetchError> {
        Ok(self.arrived.take())
    }
}
