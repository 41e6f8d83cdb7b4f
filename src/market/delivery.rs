//! The seam to where snapshots go, and what is on its way there. A target that is out of reach is tried again for as long
//! as the poller runs; meanwhile snapshots wait in memory, so many bytes at most.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::plan::{Gap, Interval, wait};
use super::poller::Counts;
use crate::deliver::Backoff;
use crate::transform::Provider;

/// Bodies that wait for the target at most.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Looks back in vain, after which it is left to the next start.
const LOOKS_BACK: u32 = 20;

/// A snapshot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// This poller has put it there.
    New,
    /// It was there already: another poller has.
    Existed,
}

/// Why something is not at the target.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NotDelivered {
    /// What the target said, for people.
    pub reason: String,
    /// It would say so again.
    pub for_good: bool,
}

/// Where snapshots go.
#[async_trait]
pub trait Target: Send + Sync {
    /// Whether the snapshot of this interval is there, so that nobody needs to be asked for it. What another poller has
    /// left half done is completed.
    async fn has(&self, interval: Interval) -> Result<bool, NotDelivered>;

    /// Puts a snapshot there. `time_us`: the time that it says itself.
    async fn snapshot(
        &self,
        interval: Interval,
        time_us: Option<i64>,
        body: &Bytes,
    ) -> Result<Delivered, NotDelivered>;

    /// Says that there is none.
    async fn gap(&self, gap: &Gap) -> Result<(), NotDelivered>;

    /// At a start: completes what a poller has left half done, and finds the intervals before this one that have neither a
    /// snapshot nor a gap.
    async fn look_back(&self, before: Interval) -> Result<Vec<Gap>, NotDelivered>;
}

/// A stream or a topic, which takes records one after the other and does not say what it has.
#[async_trait]
pub trait RecordTarget: Send + Sync {
    /// Whose snapshots it gets.
    fn provider(&self) -> Provider;

    /// Puts the record of this interval there.
    async fn put(&self, interval: Interval, record: Vec<u8>) -> Result<(), NotDelivered>;
}

/// A record for each snapshot, and one for each gap.
#[async_trait]
impl<T: RecordTarget> Target for T {
    async fn has(&self, _interval: Interval) -> Result<bool, NotDelivered> {
        Ok(false)
    }

    async fn snapshot(
        &self,
        interval: Interval,
        time_us: Option<i64>,
        body: &Bytes,
    ) -> Result<Delivered, NotDelivered> {
        let text = str::from_utf8(body)
            .map_err(|_| NotDelivered { reason: "the body is not UTF-8".to_owned(), for_good: true })?;
        self.put(interval, record(self.provider(), interval, time_us, text)).await?;
        Ok(Delivered::New)
    }

    async fn gap(&self, gap: &Gap) -> Result<(), NotDelivered> {
        self.put(gap.first, gap_record(gap)).await
    }

    async fn look_back(&self, _before: Interval) -> Result<Vec<Gap>, NotDelivered> {
        Ok(Vec::new())
    }
}

/// A record of a stream: the reply as a string. The transform `market-snapshot` reads it.
#[derive(Serialize)]
struct Wrapped<'a> {
    provider: &'static str,
    fetched_at_ms: i64,
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<&'a Gap>,
}

/// The record of a snapshot. The fetch time is what the reply says, else the start of the interval: so two pollers send
/// the same rows.
pub fn record(provider: Provider, interval: Interval, time_us: Option<i64>, body: &str) -> Vec<u8> {
    let fetched_at_ms = time_us.unwrap_or(interval.start_us()) / 1000;
    let wrapped = Wrapped { provider: provider.as_str(), fetched_at_ms, body: Some(body), gap: None };
    serde_json::to_vec(&wrapped).expect("strings and numbers always serialise")
}

/// The record of a gap: it becomes a dead letter.
pub fn gap_record(gap: &Gap) -> Vec<u8> {
    let fetched_at_ms = gap.first.start_us() / 1000;
    let wrapped = Wrapped { provider: gap.provider, fetched_at_ms, body: None, gap: Some(gap) };
    serde_json::to_vec(&wrapped).expect("strings and numbers always serialise")
}

/// Something on its way to the target.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Look back from this interval, after so many tries in vain. Nothing waits for it: the right to list may be missing.
    LookBack(Interval, u32),
    Snapshot {
        interval: Interval,
        time_us: Option<i64>,
        entries: usize,
        body: Bytes,
    },
    Gap(Gap),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Snapshot { body, .. } => body.len(),
            Self::LookBack(..) | Self::Gap(_) => 0,
        }
    }
}

/// What waits for the target, first in, first out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: Mutex<VecDeque<Item>>,
    more: Notify,
    /// Nothing comes any more.
    closed: CancellationToken,
    bytes: AtomicU64,
}

impl Queue {
    /// Adds an item; a snapshot that finds no room is given back.
    pub(super) fn push(&self, item: Item) -> Result<(), Item> {
        let mut items = self.items.lock().expect("nothing panics under this lock");
        let waiting: usize = items.iter().map(Item::bytes).sum();
        if item.bytes() > 0 && waiting + item.bytes() > WAITING_BYTES_MAX {
            return Err(item);
        }
        // The first may be on its way.
        let behind_first = items.len() > 1;
        match (items.back_mut(), &item) {
            // While a target is away for days, gaps in a row stay one.
            (Some(Item::Gap(last)), Item::Gap(next)) if behind_first && last.joins(next) => last.join(next),
            _ => items.push_back(item),
        }
        self.bytes.store(items.iter().map(Item::bytes).sum::<usize>() as u64, Relaxed);
        drop(items);
        self.more.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.lock().expect("nothing panics under this lock").is_empty()
    }

    fn first(&self) -> Option<Item> {
        self.items.lock().expect("nothing panics under this lock").front().cloned()
    }

    fn first_is_done(&self) {
        self.items.lock().expect("nothing panics under this lock").pop_front();
    }

    /// Delivers what there is and what comes, until the queue is closed and empty.
    pub(super) async fn deliver(&self, target: &dyn Target, counts: &Counts, provider: Provider, seed: u64) {
        loop {
            let Some(item) = self.first() else {
                if self.closed.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.more.notified() => {}
                    () = self.closed.cancelled() => {}
                }
                continue;
            };
            if let Item::LookBack(before, tries) = item {
                self.look_back(target, before, tries, counts).await;
                continue;
            }
            let mut waits = Backoff { seed }.waits();
            let after = loop {
                match attempt(target, &item, counts).await {
                    Ok(after) => break after,
                    Err(refused) if refused.for_good => {
                        tracing::error!(%provider, reason = refused.reason, "the target refuses for good");
                        break given_up(&item, provider);
                    }
                    Err(error) => {
                        let wait = waits.next().unwrap_or_default();
                        tracing::warn!(%provider, reason = error.reason, ?wait, "not delivered; trying again");
                        counts.in_vain("target");
                        tokio::time::sleep(wait).await;
                    }
                }
            };
            self.first_is_done();
            for gap in after {
                drop(self.push(Item::Gap(gap)));
            }
        }
    }

    /// Looks back once; where that fails, again when all that waits is delivered.
    async fn look_back(&self, target: &dyn Target, before: Interval, tries: u32, counts: &Counts) {
        let found = target.look_back(before).await;
        self.first_is_done();
        match found {
            Ok(gaps) => gaps.into_iter().for_each(|gap| drop(self.push(Item::Gap(gap)))),
            Err(error) => {
                counts.in_vain("target");
                let again = tries < LOOKS_BACK && !self.closed.is_cancelled();
                tracing::warn!(
                    reason = error.reason,
                    again,
                    "could not look for intervals without a snapshot"
                );
                if again {
                    // Not by `push`, which would end the wait.
                    let next = Item::LookBack(before, tries + 1);
                    self.items.lock().expect("nothing panics under this lock").push_back(next);
                    tokio::select! {
                        () = self.more.notified() => {}
                        () = self.closed.cancelled() => {}
                        () = tokio::time::sleep(wait(tries + 1, None, 0.0)) => {}
                    }
                }
            }
        }
    }
}

/// One try; the gaps that it found.
async fn attempt(target: &dyn Target, item: &Item, counts: &Counts) -> Result<Vec<Gap>, NotDelivered> {
    match item {
        // Has a way of its own.
        Item::LookBack(..) => Ok(Vec::new()),
        Item::Snapshot { interval, time_us, entries, body } => {
            let delivered = target.snapshot(*interval, *time_us, body).await?;
            counts.delivered(*interval, delivered);
            let (start, bytes) = (crate::clock::utc(interval.start_us()), body.len());
            let new = delivered == Delivered::New;
            tracing::info!(interval = start, entries, bytes, new, "snapshot delivered");
            Ok(Vec::new())
        }
        Item::Gap(gap) => {
            target.gap(gap).await?;
            counts.gap(gap.intervals);
            let Gap { interval_start, intervals, reason, attempts, .. } = gap;
            tracing::error!(
                interval = interval_start,
                intervals,
                reason,
                attempts,
                "no snapshot: gap recorded"
            );
            Ok(Vec::new())
        }
    }
}

/// What stands in the place of an item that the target does not take.
fn given_up(item: &Item, provider: Provider) -> Vec<Gap> {
    match item {
        Item::Snapshot { interval, .. } => vec![Gap::new(provider, *interval, 1, "refused_by_target", 0)],
        Item::LookBack(..) | Item::Gap(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn gaps_in_a_row_are_one_and_bodies_are_bounded() {
        let queue = Queue::default();
        let mut interval = Interval::at(0, Duration::from_secs(10));
        for _ in 0..1000 {
            queue.push(Item::Gap(Gap::new(Provider::CoinCap, interval, 1, "timeout", 2))).unwrap();
            interval = interval.next();
        }
        // The first may be on its way.
        queue.first_is_done();
        let Some(Item::Gap(gap)) = queue.first() else { panic!("a gap") };
        assert_eq!((gap.intervals, gap.attempts, &*gap.interval_end), (999, 1998, "1970-01-01T02:46:40Z"));
        queue.push(Item::Gap(Gap::new(Provider::CoinCap, interval, 1, "http_500", 2))).unwrap();
        assert_eq!(queue.items.lock().unwrap().len(), 2);
        let body = Bytes::from(vec![b' '; 20 << 20]);
        let snapshot = || Item::Snapshot { interval, time_us: None, entries: 1, body: body.clone() };
        assert!((0..3).all(|_| queue.push(snapshot()).is_ok()));
        assert!(queue.push(snapshot()).is_err());
    }
}
