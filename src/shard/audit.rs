//! When a leader compares the leases with the stream, and what it may believe of a listing.
//!
//! Owns: the search for hash keys that no lease covers (KCL's `PeriodicShardSyncManager`), how often the stream is
//! listed, which shards count as gone, when the leases count as those of another stream.
//! Does not own: which leases are missing or done with (`graph`), the reads and writes (`lease::sync`).
//!
//! A leader looks at its leases once in a shard sync interval (60 s unless set otherwise), which costs nothing: it has
//! read the table anyway. It lists the stream
//!
//! - when it begins to lead, and at every tenth look: 6 times an hour. A listing is one `ListShards` call for each 1,000
//!   shards that the stream knows, so 6 calls an hour for most streams, 60 for one of 10,000 shards. AWS allows 1,000
//!   calls a second and stream;
//! - when the same hash keys are without a lease for three looks in a row; these follow each other six times as fast, as
//!   a hole is ordinary for moments around a reshard. A hole that stays costs another listing every third look;
//! - at the next look while a shard with a lease is missing from the listing for less than two minutes, or the
//!   stream seems to be another one.
//!
//! Shards whose end is reached cost up to one call each (their children come with the last page, as a rule).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::graph::{Inconsistent, Leases, Strangers, strangers};
use super::{Checkpoint, HashKeyRange, Lineage, Shard, ShardId};

/// The same hole in so many looks in a row makes the leader list the stream
/// (`leasesRecoveryAuditorInconsistencyConfidenceThreshold`).
pub const CONFIDENCE: u32 = 3;
/// The stream is listed at every so manieth look in any case.
pub const LISTING_LOOKS: u32 = 10;
/// What a listing lacks is believed to lack when it does so for this long. Enough for the reader of a shard that is
/// gone, who asks once a minute at least, to see it too and to deliver what it has read.
pub const AGREED_AFTER: Duration = Duration::from_secs(120);
/// Looks follow each other so many times as fast while there is a hole.
const HURRY: u32 = 6;

/// The hash keys that none of the ranges holds, in order. Overlaps are fine: parent and child may coexist.
pub fn holes(ranges: impl IntoIterator<Item = HashKeyRange>) -> Vec<HashKeyRange> {
    let mut ranges: Vec<_> = ranges.into_iter().map(|range| (range.start, range.end)).collect();
    ranges.sort_unstable();
    let mut holes = Vec::new();
    // The first hash key that is not known to be covered.
    let mut next = Some(0);
    for (start, end) in ranges {
        let Some(wanted) = next else { break };
        if start > wanted {
            holes.push(HashKeyRange { start: wanted, end: start - 1 });
        }
        if end >= wanted {
            next = end.checked_add(1);
        }
    }
    holes.extend(next.map(|start| HashKeyRange { start, end: u128::MAX }));
    holes
}

/// A hole, and how often in a row it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The hash keys that no lease covers.
    pub range: HashKeyRange,
    /// The number of looks in a row that found exactly this hole, this one included.
    pub findings: u32,
}

/// What a listing says of the leases.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are of this stream. Shards that are gone are marked so in the leases.
    Ours,
    /// These leases, and so all of them, are of another stream, or of a former one with the same name.
    NotOurs(Vec<ShardId>),
}

/// What a leader remembers between its looks. Another leader begins anew.
#[derive(Debug)]
pub struct Watch {
    interval: Duration,
    lineage: Lineage,
    holes: Vec<Hole>,
    looks: u32,
    /// List the stream at the next look.
    list_next: bool,
    /// Some absent shard may yet turn out to be gone.
    unsettled: bool,
    /// Leases whose shards the stream does not list: since when, and how far each was read then.
    absent: BTreeMap<ShardId, (Instant, Checkpoint)>,
    /// Since when there are doubts whether this is the stream of the leases.
    doubt_since: Option<Instant>,
}

impl Watch {
    /// A watch that has not seen anything. The first look lists the stream.
    pub fn new(interval: Duration, lineage: Lineage) -> Self {
        let (holes, absent) = Default::default();
        Self {
            interval,
            lineage,
            holes,
            looks: 0,
            list_next: true,
            unsettled: false,
            absent,
            doubt_since: None,
        }
    }

    /// Looks at all leases, and answers whether the stream is to be listed.
    ///
    /// A lease without a hash range covers nothing: it makes a hole until a listing tells its range. Where nothing but a
    /// listing can show that a lease is missing the stream is listed at every look.
    pub fn look(&mut self, leases: &Leases) -> bool {
        self.looks += 1;
        if leases.is_empty() || self.lineage != Lineage::HashKeys {
            self.holes.clear();
            self.list_next = true;
            return true;
        }
        let read = leases.values().filter(|lease| lease.checkpoint != Checkpoint::ShardEnd);
        let ranges = read.filter_map(|lease| lease.hash_range);
        let before = std::mem::take(&mut self.holes);
        let findings =
            |range| before.iter().find(|hole| hole.range == range).map_or(1, |hole| hole.findings + 1);
        self.holes =
            holes(ranges).into_iter().map(|range| Hole { range, findings: findings(range) }).collect();
        let sure = |hole: &Hole| hole.findings.is_multiple_of(CONFIDENCE);
        self.list_next |= self.looks >= LISTING_LOOKS || self.holes.iter().any(sure);
        self.list_next
    }

    /// The holes of the last look.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The time until the next look.
    pub fn pause(&self) -> Duration {
        if self.holes.is_empty() { self.interval } else { self.interval / HURRY }
    }

    /// Takes in a listing of the stream, and what the table held after it. Marks the leases whose shards are gone: not
    /// listed for [`AGREED_AFTER`], with the checkpoint where it was all the while. A listing may be behind or lack a part,
    /// so one alone is not believed when it lacks something.
    ///
    /// The next look lists again unless [`Watch::in_step`] follows.
    ///
    /// # Errors
    /// When the listing may be behind.
    pub fn listed(
        &mut self,
        listing: &[Shard],
        leases: &mut Leases,
        now: Instant,
    ) -> Result<Verdict, Inconsistent> {
        self.list_next = true;
        let Strangers { former, doubtful } = strangers(listing, leases);
        if !former.is_empty() {
            return Ok(Verdict::NotOurs(former));
        }
        if let Some(first) = doubtful.first() {
            let since = *self.doubt_since.get_or_insert(now);
            if now.duration_since(since) < AGREED_AFTER {
                return Err(Inconsistent::Behind { lease: first.clone() });
            }
            return Ok(Verdict::NotOurs(doubtful));
        }
        self.doubt_since = None;
        self.unsettled = false;
        let known: BTreeSet<&ShardId> = listing.iter().map(|shard| &shard.id).collect();
        let mut before = std::mem::take(&mut self.absent);
        for (id, lease) in leases.iter_mut().filter(|(id, _)| !known.contains(id)) {
            let same = before.remove(id).filter(|(_, checkpoint)| *checkpoint == lease.checkpoint);
            let (since, checkpoint) = same.unwrap_or_else(|| (now, lease.checkpoint.clone()));
            lease.gone = now.duration_since(since) >= AGREED_AFTER;
            self.unsettled |= !lease.gone;
            self.absent.insert(id.clone(), (since, checkpoint));
        }
        Ok(Verdict::Ours)
    }

    /// All that followed from the last listing is done.
    pub fn in_step(&mut self) {
        self.looks = 0;
        self.list_next = self.unsettled;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shard::graph::Leased;
    use crate::shard::{Position, SequenceNumber};

    const INTERVAL: Duration = Duration::from_secs(60);

    fn range(start: u128, end: u128) -> HashKeyRange {
        HashKeyRange { start, end }
    }

    fn id(number: usize) -> ShardId {
        ShardId::new(format!("shardId-{number:012}"))
    }

    fn at(number: u128) -> Checkpoint {
        Checkpoint::At(Position::new(SequenceNumber::from(number)))
    }

    fn lease(checkpoint: Checkpoint, hash_range: Option<HashKeyRange>) -> Leased {
        Leased { checkpoint, parents: Vec::new(), children: Vec::new(), hash_range, gone: false }
    }

    /// Two halves, both read.
    fn halves() -> Leases {
        let middle = u128::MAX / 2;
        Leases::from([
            (id(4), lease(at(700), Some(range(0, middle)))),
            (id(5), lease(at(800), Some(range(middle + 1, u128::MAX)))),
        ])
    }

    /// 4 and 5 with the hash keys of [`halves`].
    fn listed(number: usize, start: u128, closed: bool) -> Shard {
        Shard {
            id: id(number),
            parents: Vec::new(),
            hash_range: halves()
                .get(&id(number))
                .and_then(|half| half.hash_range)
                .or(Some(range(0, u128::MAX))),
            starting_sequence_number: SequenceNumber::from(start),
            closed,
        }
    }

    /// A watch after its first listing.
    fn settled(now: Instant) -> Watch {
        let mut watch = Watch::new(INTERVAL, Lineage::HashKeys);
        assert!(watch.look(&halves()), "a new leader lists");
        let stream = [listed(4, 500, false), listed(5, 600, false)];
        assert_eq!(watch.listed(&stream, &mut halves(), now), Ok(Verdict::Ours));
        watch.in_step();
        watch
    }

    #[test]
    fn holes_of_a_few_ranges() {
        assert_eq!(holes([range(10, u128::MAX), range(0, 9)]), []);
        assert_eq!(holes([range(0, 20), range(5, 9), range(10, u128::MAX)]), []);
        assert_eq!(holes([range(0, 9), range(11, u128::MAX)]), [range(10, 10)]);
        assert_eq!(holes([range(0, u128::MAX - 1)]), [range(u128::MAX, u128::MAX)]);
        assert_eq!(holes([range(3, 4), range(8, 9)]), [range(0, 2), range(5, 7), range(10, u128::MAX)]);
        assert_eq!(holes([]), [range(0, u128::MAX)]);
    }

    #[test]
    fn a_leader_at_rest_lists_at_every_tenth_look() {
        let now = Instant::now();
        let mut watch = settled(now);
        let stream = [listed(4, 500, false), listed(5, 600, false)];
        let mut listings = 0;
        for minute in 0..60 {
            if watch.look(&halves()) {
                listings += 1;
                watch.listed(&stream, &mut halves(), now + INTERVAL * minute).unwrap();
                watch.in_step();
            }
            assert_eq!(watch.pause(), INTERVAL);
        }
        assert_eq!(listings, 6);
    }

    #[test]
    fn without_hash_keys_each_look_lists_and_finds_no_hole() {
        let now = Instant::now();
        for lineage in [Lineage::Tree, Lineage::Flat] {
            let mut watch = Watch::new(INTERVAL, lineage);
            let mut leases = Leases::from([(id(4), lease(at(700), None)), (id(5), lease(at(800), None))]);
            let stream = [4, 5].map(|n| Shard { hash_range: None, ..listed(n, 500, false) });
            for _ in 0..5 {
                assert!(watch.look(&leases));
                assert_eq!(watch.listed(&stream, &mut leases, now), Ok(Verdict::Ours));
                watch.in_step();
                assert_eq!((watch.holes(), watch.pause()), (&[][..], INTERVAL));
            }
        }
    }

    #[test]
    fn the_same_hole_three_times_in_a_row_lists() {
        let now = Instant::now();
        let mut watch = settled(now);
        let mut holed = halves();
        holed.remove(&id(5));
        assert!(!watch.look(&holed) && !watch.look(&holed));
        assert_eq!(watch.holes()[0].findings, 2);
        assert_eq!(watch.pause(), INTERVAL / 6);
        assert!(!watch.look(&halves()), "filled: ordinary around a reshard");
        assert_eq!(watch.pause(), INTERVAL);
        assert!(!watch.look(&holed) && !watch.look(&holed) && watch.look(&holed));
        let stream = [listed(4, 500, false), listed(5, 600, false)];
        watch.listed(&stream, &mut holed, now).unwrap();
        assert!(watch.look(&holed), "until everything is done about it");
        watch.listed(&stream, &mut holed, now).unwrap();
        watch.in_step();
        let looks = [0; 6].map(|_| {
            let list = watch.look(&holed);
            watch.in_step();
            list
        });
        assert_eq!(looks, [false, true, false, false, true, false], "a hole that stays");
    }

    #[test]
    fn another_hole_counts_from_one() {
        let mut watch = settled(Instant::now());
        let mut other = halves();
        for start in 1..9 {
            other.insert(id(4), lease(at(700), Some(range(start, u128::MAX / 2))));
            assert!(!watch.look(&other), "{:?}", watch.holes());
        }
    }

    #[test]
    fn what_covers_and_what_does_not() {
        let mut watch = settled(Instant::now());
        let mut leases = halves();
        leases.insert(id(6), lease(at(900), Some(range(7, 9))));
        watch.look(&leases);
        assert_eq!(watch.holes(), [], "overlaps are fine");
        for other in [lease(Checkpoint::ShardEnd, Some(range(0, u128::MAX / 2))), lease(at(700), None)] {
            leases.insert(id(4), other);
            watch.look(&leases);
            assert_eq!(watch.holes().len(), 2);
        }
        let mut watch = settled(Instant::now());
        assert!(watch.look(&Leases::new()), "no lease at all");
    }

    #[test]
    fn a_shard_is_gone_when_two_listings_agree_and_its_checkpoint_stands() {
        let now = Instant::now();
        let mut watch = settled(now);
        // 4 is forgotten; 6 took over.
        let stream = [listed(5, 600, false), listed(6, 900, false)];
        let mut gone = |seconds: u64, checkpoint: u128, stream: &[Shard]| {
            let mut leases = halves();
            leases.get_mut(&id(4)).unwrap().checkpoint = at(checkpoint);
            let now = now + Duration::from_secs(seconds);
            assert_eq!(watch.listed(stream, &mut leases, now), Ok(Verdict::Ours));
            watch.in_step();
            assert!(!leases[&id(5)].gone);
            (leases[&id(4)].gone, watch.list_next)
        };
        assert_eq!(gone(0, 700, &stream), (false, true));
        assert_eq!(gone(119, 700, &stream), (false, true), "another try is not another opinion");
        assert_eq!(gone(120, 710, &stream), (false, true), "its owner still delivers");
        assert_eq!(gone(239, 710, &stream), (false, true));
        let whole = [listed(4, 500, true), listed(5, 600, false), listed(6, 900, false)];
        assert_eq!(gone(240, 710, &whole), (false, false), "a part was lacking");
        assert_eq!(gone(250, 710, &stream), (false, true));
        assert_eq!(gone(370, 710, &stream), (true, false));
    }

    #[test]
    fn a_former_stream_is_told_by_its_sequence_numbers() {
        let now = Instant::now();
        let mut watch = settled(now);
        let stream = [listed(4, 5000, false), listed(5, 6000, false)];
        let recreated = Ok(Verdict::NotOurs(vec![id(4), id(5)]));
        assert_eq!(watch.listed(&stream, &mut halves(), now), recreated);
        assert!(watch.look(&halves()), "as long as it lasts");
        // A checkpoint at the start of its shard is of this shard.
        assert_eq!(
            watch.listed(&[listed(4, 700, false), listed(5, 800, false)], &mut halves(), now),
            Ok(Verdict::Ours)
        );
    }

    #[test]
    fn a_listing_that_is_behind_is_believed_after_a_while() {
        let now = Instant::now();
        for (stream, suspect) in [
            // 4 was merged with 5 into 6, which is read already, or the stream has fewer shards than it had.
            (vec![listed(0, 100, false), listed(4, 500, false)], id(5)),
            (vec![], id(4)),
        ] {
            let mut watch = settled(now);
            let behind = Err(Inconsistent::Behind { lease: suspect.clone() });
            assert_eq!(watch.listed(&stream, &mut halves(), now), behind);
            assert_eq!(watch.listed(&stream, &mut halves(), now + AGREED_AFTER / 2), behind);
            let Ok(Verdict::NotOurs(leases)) = watch.listed(&stream, &mut halves(), now + AGREED_AFTER)
            else {
                panic!("for how long is it to be doubted?");
            };
            assert_eq!(leases[0], suspect);
        }
        // Read to its end, and yet open.
        let mut watch = settled(now);
        let mut leases = halves();
        leases.get_mut(&id(4)).unwrap().checkpoint = Checkpoint::ShardEnd;
        let stream = [listed(4, 500, false), listed(5, 600, false)];
        let behind = Err(Inconsistent::Behind { lease: id(4) });
        assert_eq!(watch.listed(&stream, &mut leases, now), behind);
        let stream = [listed(4, 500, true), listed(5, 600, false)];
        assert_eq!(watch.listed(&stream, &mut leases, now + AGREED_AFTER), Ok(Verdict::Ours));
        assert_eq!(watch.doubt_since, None);
    }

    /// Whether each hash key of 0 to 9 and of the last ten is covered, one by one.
    fn naive(ranges: &[HashKeyRange]) -> Vec<bool> {
        let keys = (0..10).chain(u128::MAX - 9..=u128::MAX);
        keys.map(|key| ranges.iter().any(|range| (range.start..=range.end).contains(&key))).collect()
    }

    fn any_key() -> impl Strategy<Value = u128> {
        prop_oneof![0..10u128, (0..10u128).prop_map(|below| u128::MAX - below)]
    }

    proptest! {
        #[test]
        fn holes_are_exactly_what_is_not_covered(
            ranges in prop::collection::vec((any_key(), any_key()), 0..8),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| range(a.min(b), a.max(b))).collect();
            let found = holes(ranges.clone());
            let covered = naive(&ranges);
            let of_holes = naive(&found);
            prop_assert!(covered.iter().zip(&of_holes).all(|(covered, hole)| covered != hole));
            prop_assert!(found.iter().all(|hole| hole.start <= hole.end));
            // In order, and merged.
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start - 1));
            prop_assert_eq!(holes(ranges.into_iter().chain(found)), []);
        }

        /// Whatever comes and goes: a listing is asked for exactly when a hole was there in each of the last three
        /// looks (or six, nine …), or ten looks have passed.
        #[test]
        fn listings_follow_from_the_last_looks(steps in prop::collection::vec(0u128..4, 1..60)) {
            let now = Instant::now();
            let mut watch = settled(now);
            let (mut last, mut same, mut since_listing) = (0, 0, 0);
            for step in steps {
                let mut leases = Leases::from([(id(4), lease(at(700), Some(range(step, u128::MAX))))]);
                same = if step == last { same + 1 } else { 1 };
                (last, since_listing) = (step, since_listing + 1);
                let expected = step > 0 && same % CONFIDENCE == 0 || since_listing == LISTING_LOOKS;
                prop_assert_eq!(watch.look(&leases), expected);
                if expected {
                    since_listing = 0;
                    let stream = [Shard { hash_range: Some(range(step, u128::MAX)), ..listed(4, 500, false) }];
                    watch.listed(&stream, &mut leases, now).unwrap();
                    watch.in_step();
                }
            }
        }
    }
}
