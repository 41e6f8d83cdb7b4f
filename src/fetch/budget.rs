//! The byte budget of the process: how much may be in memory between fetch and delivery, over all shards.
//!
//! Owns: who may take bytes now, in the order of asking, and the sign that somebody waits.
//! Does not own: which batch is closed when memory is short (its consumer decides).

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::spare::{self, Allowance};
use crate::telemetry::metrics;

/// Bytes are counted in these units, so that a semaphore's 32 bits reach far enough.
const UNIT: usize = 1024;

/// A budget of bytes, shared by clones.
///
/// Taking may wait; growing never does. What grew beyond the budget is a debt: released bytes pay it first,
/// and only then does somebody who waits get any.
///
/// Among those who wait, streams take turns, and in each stream its shards: a stream of one shard is not kept waiting by
/// the thousand shards of another ([`ByteBudget::of_stream`]).
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<Shared>, Arc<Semaphore>);

#[derive(Debug)]
struct Shared {
    units: Semaphore,
    total: usize,
    books: Mutex<Books>,
    /// Of what is free, memory of bodies that are done is kept.
    allowance: Allowance,
    /// Told when the first one starts to wait. Not a `watch`: that wakes its receivers in random order, and no
    /// simulation with memory shortage could be repeated.
    short: Notify,
    /// See [`Turn`].
    turn: Arc<Semaphore>,
}

/// The right to wait for bytes while holding some. One at a time has it: two could wait for each other for ever.
#[derive(Debug)]
pub struct Turn {
    _only: OwnedSemaphorePermit,
}

/// All in units.
#[derive(Debug, Default)]
struct Books {
    held: usize,
    debt: usize,
    waiting: usize,
}

impl ByteBudget {
    /// A budget of `bytes`, rounded up to KiB, at least one.
    pub fn new(bytes: usize) -> Self {
        // `acquire_many` takes 32 bits: 4 TiB.
        let total = bytes.div_ceil(UNIT).clamp(1, u32::MAX as usize);
        metrics::byte_budget(total * UNIT);
        let shared = Arc::new(Shared {
            units: Semaphore::new(total),
            total,
            books: Mutex::default(),
            allowance: Allowance::default(),
            short: Notify::new(),
            turn: Arc::new(Semaphore::new(1)),
        });
        shared.allowance.set(total * UNIT, 0);
        Self(shared, Arc::new(Semaphore::new(1)))
    }

    /// The same budget for the shards of another stream: one of them at a time stands in the queue for bytes.
    #[must_use]
    pub fn of_stream(&self) -> Self {
        Self(Arc::clone(&self.0), Arc::new(Semaphore::new(1)))
    }

    /// Takes `bytes`, waiting for them in the order of asking. More than the whole budget counts as the whole
    /// budget, so that no request waits for ever. May be cancelled.
    pub async fn acquire(&self, bytes: usize) -> BytePermit {
        let bytes = bytes.min(self.0.total * UNIT);
        let units = bytes.div_ceil(UNIT);
        let many = u32::try_from(units).expect("clamped to the total, which fits");
        let taken = match self.0.units.try_acquire_many(many) {
            Ok(taken) => taken,
            Err(TryAcquireError::NoPermits) => {
                let _waiting = Waiting::begin(&self.0);
                let _first_of_stream = self.1.acquire().await;
                self.0.units.acquire_many(many).await.expect("the semaphore is never closed")
            }
            Err(TryAcquireError::Closed) => unreachable!("the semaphore is never closed"),
        };
        taken.forget();
        let mut books = self.0.books();
        books.held += units;
        self.0.report(books);
        BytePermit { budget: self.clone(), bytes }
    }

    /// Waits for the right to ask for more while holding some, in the order of asking. Whoever asks for it holds nothing.
    pub async fn turn(&self) -> Turn {
        let only = Arc::clone(&self.0.turn).acquire_owned().await;
        Turn { _only: only.expect("the semaphore is never closed") }
    }

    /// A permit of nothing, to grow or to merge into.
    pub fn empty(&self) -> BytePermit {
        BytePermit { budget: self.clone(), bytes: 0 }
    }

    /// Bytes held now, debt included; rounded up to KiB for each permit.
    pub fn in_use(&self) -> usize {
        self.0.books().held * UNIT
    }

    /// The whole budget, bytes.
    pub fn total(&self) -> usize {
        self.0.total * UNIT
    }

    /// True while somebody waits for bytes: holders of open batches should close and deliver them.
    pub fn is_short(&self) -> bool {
        self.0.books().waiting > 0
    }

    /// Returns when somebody waits for bytes. May be cancelled.
    pub async fn short(&self) {
        loop {
            let told = self.0.short.notified();
            if self.is_short() {
                return;
            }
            told.await;
        }
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no code panics while it holds this lock")
    }

    fn take_unasked(&self, units: usize) {
        let mut books = self.books();
        books.held += units;
        books.debt += units - self.units.forget_permits(units);
        self.report(books);
    }

    fn give_back(&self, units: usize) {
        let mut books = self.books();
        books.held -= units;
        let paid = books.debt.min(units);
        books.debt -= paid;
        self.units.add_permits(units - paid);
        self.report(books);
    }

    fn report(&self, books: MutexGuard<'_, Books>) {
        metrics::bytes_in_flight(books.held * UNIT);
        self.allowance.set(self.total * UNIT, books.held * UNIT);
        // Memory is given back without the lock.
        drop(books);
        spare::trim();
    }
}

/// Keeps count of those who wait; survives cancellation.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut books = shared.books();
        books.waiting += 1;
        drop(books);
        shared.short.notify_waiters();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut books = self.0.books();
        books.waiting -= 1;
        // A waiter at the head of the queue may have had part of its bytes set aside; if it was cancelled they
        // are free again, and a debt made meanwhile comes first.
        books.debt -= self.0.units.forget_permits(books.debt);
    }
}

/// Bytes taken from the budget; given back on drop.
#[derive(Debug)]
pub struct BytePermit {
    budget: ByteBudget,
    bytes: usize,
}

impl BytePermit {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.set(bytes.min(self.bytes));
    }

    /// Takes `bytes` more at once, above the budget if need be: the data is there already.
    pub fn grow(&mut self, bytes: usize) {
        self.set(self.bytes.saturating_add(bytes));
    }

    /// Takes `bytes` more if they are free. False when they are not, and then nothing is taken.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let grown = self.bytes.saturating_add(bytes);
        let units = grown.div_ceil(UNIT) - self.bytes.div_ceil(UNIT);
        let Ok(many) = u32::try_from(units) else { return false };
        let Ok(taken) = self.budget.0.units.try_acquire_many(many) else { return false };
        taken.forget();
        self.bytes = grown;
        let mut books = self.budget.0.books();
        books.held += units;
        self.budget.0.report(books);
        true
    }

    /// Holds at least `bytes` from now on, as far as the budget has so many: waits for what is missing.
    pub async fn grow_in_turn(&mut self, bytes: usize, _turn: &Turn) {
        let missing = bytes.min(self.budget.total()).saturating_sub(self.bytes);
        if missing > 0 {
            let more = self.budget.acquire(missing).await;
            self.merge(more);
        }
    }

    /// Holds exactly `bytes` from now on: grows or shrinks.
    pub fn set(&mut self, bytes: usize) {
        let (held, wanted) = (self.bytes.div_ceil(UNIT), bytes.div_ceil(UNIT));
        self.bytes = bytes;
        if wanted > held {
            self.budget.0.take_unasked(wanted - held);
        } else if wanted < held {
            self.budget.0.give_back(held - wanted);
        }
    }

    /// Takes over what `other`, of the same budget, holds.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(
            Arc::ptr_eq(&self.budget.0, &other.budget.0),
            "permits of two budgets cannot be merged"
        );
        let (mine, theirs) = (self.bytes, std::mem::take(&mut other.bytes));
        self.bytes = mine + theirs;
        let spare = mine.div_ceil(UNIT) + theirs.div_ceil(UNIT) - self.bytes.div_ceil(UNIT);
        if spare > 0 {
            self.budget.0.give_back(spare);
        }
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;

    #[tokio::test]
    async fn bytes_come_back_when_a_permit_shrinks_or_drops() {
        let budget = ByteBudget::new(10 * KIB);
        let mut permit = budget.acquire(8 * KIB).await;
        assert!(budget.acquire(3 * KIB).now_or_never().is_none());
        permit.shrink_to(7 * KIB);
        permit.shrink_to(9 * KIB);
        assert_eq!((permit.bytes(), budget.in_use()), (7 * KIB, 7 * KIB));
        let other = budget.acquire(3 * KIB).now_or_never().unwrap();
        drop(permit);
        assert_eq!(budget.in_use(), 3 * KIB);
        drop(other);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn a_request_above_the_budget_gets_all_of_it() {
        let budget = ByteBudget::new(10 * KIB);
        let small = budget.acquire(1).await;
        let all = budget.acquire(usize::MAX);
        tokio::pin!(all);
        assert!(all.as_mut().now_or_never().is_none());
        drop(small);
        assert_eq!(all.await.bytes(), budget.total());
    }

    #[tokio::test(start_paused = true)]
    async fn debt_is_paid_before_anyone_else_gets_bytes() {
        let budget = ByteBudget::new(4 * KIB);
        let mut grown = budget.acquire(3 * KIB).await;
        grown.grow(5 * KIB);
        assert_eq!(budget.in_use(), 8 * KIB);
        let next = budget.acquire(KIB);
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        grown.shrink_to(4 * KIB);
        assert!(next.as_mut().now_or_never().is_none(), "the budget is full, only the debt is paid");
        grown.shrink_to(3 * KIB);
        let next = tokio::time::timeout(Duration::from_secs(1), next).await.unwrap();
        assert_eq!(budget.in_use(), next.bytes() + grown.bytes());
    }

    #[tokio::test]
    async fn bytes_set_aside_for_a_cancelled_waiter_pay_the_debt() {
        let budget = ByteBudget::new(4 * KIB);
        let mut held = budget.acquire(2 * KIB).await;
        let mut waiter = Box::pin(budget.acquire(4 * KIB));
        assert!(waiter.as_mut().now_or_never().is_none());
        held.grow(2 * KIB);
        drop(waiter);
        assert!(budget.acquire(1).now_or_never().is_none(), "all four KiB are held");
        drop(held);
        assert!(budget.acquire(4 * KIB).now_or_never().is_some());
    }

    #[tokio::test]
    async fn memory_is_short_while_somebody_waits() {
        let budget = ByteBudget::new(2 * KIB);
        let held = budget.acquire(2 * KIB).await;
        let mut told = Box::pin(budget.short());
        assert!(!budget.is_short() && told.as_mut().now_or_never().is_none());
        let mut first = Box::pin(budget.acquire(KIB));
        let mut second = Box::pin(budget.acquire(KIB));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(
            budget.is_short() && told.now_or_never().is_some() && budget.short().now_or_never().is_some()
        );
        drop(first);
        assert!(budget.is_short(), "one still waits after the other was cancelled");
        drop(held);
        second.await;
        assert!(!budget.is_short());
    }

    /// The many shards of one stream stand in one place of the queue, the shard of another in the next.
    #[tokio::test]
    async fn streams_take_turns_in_waiting() {
        let all = ByteBudget::new(KIB);
        let (large, small) = (all.of_stream(), all.of_stream());
        let held = all.acquire(KIB).await;
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(large.acquire(KIB))).collect();
        assert!(waiting.iter_mut().all(|shard| shard.as_mut().now_or_never().is_none()));
        let mut lone = Box::pin(small.acquire(KIB));
        assert!(lone.as_mut().now_or_never().is_none());
        drop(held);
        let first = waiting[0].as_mut().now_or_never().expect("it has waited for the longest time");
        assert!(lone.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting[1].as_mut().now_or_never().is_none());
        assert!(lone.now_or_never().is_some(), "it does not wait for the other 99");
    }

    #[tokio::test]
    async fn small_permits_merge_without_losing_the_rounding() {
        let budget = ByteBudget::new(4 * KIB);
        let mut batch = budget.empty();
        for _ in 0..10 {
            batch.merge(budget.acquire(100).now_or_never().expect("what is merged leaves room"));
        }
        assert_eq!((batch.bytes(), budget.in_use()), (1000, KIB));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_waits_while_it_holds_some() {
        let budget = ByteBudget::new(8 * KIB);
        let turn = budget.turn().await;
        let mut mine = budget.acquire(5 * KIB).await;
        let other = budget.acquire(3 * KIB).await;
        assert!(budget.turn().now_or_never().is_none());
        assert!(mine.grow_in_turn(6 * KIB, &turn).now_or_never().is_none() && mine.bytes() == 5 * KIB);
        mine.grow_in_turn(4 * KIB, &turn).await;
        assert_eq!(mine.bytes(), 5 * KIB, "at least");
        drop(other);
        mine.grow_in_turn(20 * KIB, &turn).await;
        assert_eq!((mine.bytes(), budget.in_use()), (8 * KIB, 8 * KIB), "what there is, and no more");
        drop(turn);
        assert!(budget.turn().now_or_never().is_some());
    }

    proptest! {
        /// Whatever holders do, the books agree with the permits, and all comes back.
        #[test]
        fn the_books_balance(steps in prop::collection::vec((0..7u8, 0usize..9000, any::<prop::sample::Index>()), 0..60)) {
            let budget = ByteBudget::new(16 * KIB);
            let mut held: Vec<BytePermit> = Vec::new();
            for (step, bytes, which) in steps {
                let at = |held: &Vec<BytePermit>| (!held.is_empty()).then(|| which.index(held.len()));
                match step {
                    0 | 1 => {
                        let free = budget.total().saturating_sub(budget.in_use());
                        let got = budget.acquire(bytes).now_or_never();
                        prop_assert_eq!(got.is_some(), bytes.div_ceil(KIB) * KIB <= free || bytes == 0);
                        held.extend(got);
                    }
                    2 => if let Some(at) = at(&held) { held[at].grow(bytes) },
                    3 => if let Some(at) = at(&held) { held[at].shrink_to(bytes) },
                    4 => if let Some(at) = at(&held) { held.swap_remove(at); },
                    5 => if let Some(at) = at(&held) {
                        let (before, in_use) = (held[at].bytes(), budget.in_use());
                        let more = (before + bytes).div_ceil(KIB) * KIB - before.div_ceil(KIB) * KIB;
                        let room = more == 0 || in_use + more <= budget.total();
                        prop_assert_eq!(held[at].try_grow(bytes), room);
                        prop_assert_eq!(held[at].bytes(), if room { before + bytes } else { before });
                    },
                    _ => if let (Some(other), Some(at)) = (held.pop(), at(&held)) { held[at].merge(other) },
                }
                let sum: usize = held.iter().map(|p| p.bytes().div_ceil(KIB) * KIB).sum();
                prop_assert_eq!(budget.in_use(), sum);
                prop_assert!(!budget.is_short());
            }
            held.clear();
            prop_assert_eq!(budget.in_use(), 0);
            prop_assert!(budget.acquire(budget.total()).now_or_never().is_some());
        }
    }
}
