//! Memory of large bodies that are done, kept for the next ones: what comes fresh from the system costs a page fault for
//! each 4 KiB, a fifth of the CPU of a worker at full load.
//!
//! Owns: how much is kept and for how long. Does not own: how much there may be of everything (`budget`), which says what
//! may be kept: no more than it has free, so that bodies, batches and what is kept stay within the byte budget together.
//! One for the process, as the allocator is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use memmap2::MmapMut;
use tokio::time::Instant;

/// Sizes are rounded up to this much, so that bodies of about the same size fit into the memory of each other. What a
/// body does not reach is only an address.
const STEP: usize = 512 << 10;
/// A body may leave a fourth of its memory unused: it is counted as long as it is.
const UNUSED_SHARE: usize = 4;
/// What nobody has taken for so long goes back to the system: the shards have been caught up with.
const KEPT_MAX: Duration = Duration::from_secs(5);
/// A budget lets this share of it be kept when nothing of it is free: what two bodies in turns need at the usual one.
const ALWAYS_SHARE: usize = 16;
/// And never more than this one.
const MOST_SHARE: usize = 4;

static SPARE: Spare =
    Spare { allowed: AtomicUsize::new(0), kept: AtomicUsize::new(0), maps: Mutex::new(Vec::new()) };

struct Spare {
    allowed: AtomicUsize,
    /// Bytes of `maps`, to be read without the lock.
    kept: AtomicUsize,
    /// Since when; the oldest first.
    maps: Mutex<Vec<(Instant, MmapMut)>>,
}

impl Spare {
    fn maps(&self) -> MutexGuard<'_, Vec<(Instant, MmapMut)>> {
        self.maps.lock().expect("no code panics while it holds this lock")
    }

    /// Memory for a body of `length` bytes; `None` when the system has none.
    fn take(&self, length: usize) -> Option<MmapMut> {
        let mut maps = self.maps();
        let fits =
            |map: &MmapMut| map.len() >= length && map.len() - length <= STEP.max(map.len() / UNUSED_SHARE);
        // The one that was used last: parts of it may still be in a cache.
        if let Some(at) = maps.iter().rposition(|(_, map)| fits(map)) {
            let (_, map) = maps.remove(at);
            self.kept.fetch_sub(map.len(), Ordering::Relaxed);
            return Some(map);
        }
        drop(maps);
        MmapMut::map_anon(length.next_multiple_of(STEP)).ok()
    }

    /// The oldest ones make room: what nobody took for longest is perhaps of a size that nobody needs any more.
    fn put(&self, map: MmapMut) {
        let mut maps = self.maps();
        let allowed = self.allowed.load(Ordering::Relaxed);
        if map.len() > allowed {
            return;
        }
        self.kept.fetch_add(map.len(), Ordering::Relaxed);
        maps.push((Instant::now(), map));
        self.shorten(maps, allowed);
    }

    /// Gives back to the system what may not be kept any more, and what was of no use.
    fn trim(&self) {
        if self.kept.load(Ordering::Relaxed) > 0 {
            self.shorten(self.maps(), self.allowed.load(Ordering::Relaxed));
        }
    }

    /// The oldest ones go: those that are too much, and those that nobody took for long.
    fn shorten(&self, mut maps: MutexGuard<'_, Vec<(Instant, MmapMut)>>, allowed: usize) {
        let mut kept = self.kept.load(Ordering::Relaxed);
        let gone = maps.iter().take_while(|(since, map)| {
            let goes = kept > allowed || since.elapsed() >= KEPT_MAX;
            kept -= if goes { map.len() } else { 0 };
            goes
        });
        let gone = gone.count();
        let gone: Vec<_> = maps.drain(..gone).collect();
        self.kept.store(kept, Ordering::Relaxed);
        drop(maps);
        drop(gone);
    }
}

/// Memory of a body, for as long as there is one in it. Kept when nobody reads it any more.
#[derive(Debug)]
pub(super) struct Lent {
    /// None while it is dropped.
    map: Option<MmapMut>,
    length: usize,
}

impl Lent {
    /// The body is in the first `length` bytes of `map`.
    pub(super) fn of(map: MmapMut, length: usize) -> Self {
        Self { map: Some(map), length }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| &map[..self.length])
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().map_or(&mut [], |map| &mut map[..self.length])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.map.take().into_iter().for_each(|map| SPARE.put(map));
    }
}

/// Memory for a body of `length` bytes, of any content; `None` when the system has none.
pub(super) fn take(length: usize) -> Option<MmapMut> {
    SPARE.take(length)
}

/// What one budget lets be kept, bytes.
#[derive(Debug, Default)]
pub(super) struct Allowance(AtomicUsize);

impl Allowance {
    /// Of a budget of so many bytes, of which so many are held. Called in the order in which that changes.
    pub(super) fn set(&self, total: usize, held: usize) {
        self.to(total.saturating_sub(held).clamp(total / ALWAYS_SHARE, total / MOST_SHARE));
    }

    fn to(&self, allowed: usize) {
        let before = self.0.swap(allowed, Ordering::Relaxed);
        // Wraps around, and so subtracts where it is less.
        SPARE.allowed.fetch_add(allowed.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.to(0);
        trim();
    }
}

/// To be called after [`Allowance::set`], and now and then.
pub(super) fn trim() {
    SPARE.trim();
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn spare(allowed: usize) -> Spare {
        Spare { allowed: AtomicUsize::new(allowed), kept: AtomicUsize::new(0), maps: Mutex::default() }
    }

    fn kept(spare: &Spare) -> Vec<usize> {
        let sizes: Vec<_> = spare.maps().iter().map(|(_, map)| map.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), spare.kept.load(Ordering::Relaxed));
        sizes
    }

    #[test]
    fn what_was_used_is_used_again_where_it_fits() {
        let spare = spare(10 * MIB);
        let mut map = spare.take(4 * MIB - 1).unwrap();
        assert_eq!(map.len(), 4 * MIB);
        map[7] = 42;
        spare.put(map);
        assert_eq!(spare.take(4 * MIB + 1).unwrap().len(), 4 * MIB + STEP, "too long for it");
        assert_eq!(
            spare.take(3 * MIB - 1).unwrap().len(),
            3 * MIB,
            "it would leave more than a fourth unused"
        );
        assert_eq!(kept(&spare), [4 * MIB]);
        assert_eq!(spare.take(3 * MIB).unwrap()[7], 42);
        assert!(kept(&spare).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_kept_than_is_allowed_and_none_for_long() {
        let spare = spare(4 * MIB);
        let maps = [1, 2, 2].map(|size| spare.take(size * MIB).unwrap());
        maps.into_iter().for_each(|map| spare.put(map));
        assert_eq!(kept(&spare), [2 * MIB, 2 * MIB], "the oldest made room");
        spare.put(spare.take(5 * MIB).unwrap());
        spare.trim();
        assert_eq!(kept(&spare), [2 * MIB, 2 * MIB]);
        spare.allowed.store(2 * MIB, Ordering::Relaxed);
        spare.trim();
        assert_eq!(kept(&spare), [2 * MIB]);
        tokio::time::advance(KEPT_MAX).await;
        spare.trim();
        assert!(kept(&spare).is_empty());
    }
}
