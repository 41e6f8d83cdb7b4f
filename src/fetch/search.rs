//! The search for the last record of a shard that is not to be read. Pure: what to ask for next, from what was answered.
//!
//! The stream has no call for "the last record before". It positions a reader by time, so the search looks a little
//! before the end, then at the oldest record, then further and further back from the end, and halves what is left,
//! until a page holds both a record and the end. A shard that was just written to takes one look, one that is empty two;
//! one that was quiet for a day about fifteen.

use super::aggregate::end_of;
use super::page::{Page, Record};
use super::source::StartAt;
use crate::shard::{Position, SequenceNumber};

/// Most records of a page of a search: enough to follow a busy shard to its tip.
pub(super) const PAGE_RECORDS: usize = 1000;
/// How far before the end the search looks first; each next time so many times as far.
const FIRST_US: i64 = 2_000_000;
const FURTHER: i64 = 8;
/// What lies between two times as close as this is read in order.
const CLOSE_US: i64 = 1_000_000;
/// No search needs that many looks; the rest is read in order.
const LOOKS_MAX: u32 = 60;

/// The end of what is not to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The tip of the shard.
    Tip,
    /// The first record that arrived at or after this time, µs since the epoch.
    Time(i64),
    /// This record.
    Record(SequenceNumber),
}

impl End {
    fn is_before(&self, record: &Record<'_>) -> bool {
        match self {
            Self::Tip => false,
            Self::Time(us) => *us <= record.arrival_us,
            Self::Record(sequence) => *sequence <= record.position().sequence,
        }
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Fetch from here.
    Ask(StartAt),
    /// Fetch the next page.
    More,
    /// The last record that is not to be read, if there is one; of an aggregate the last in it.
    Found(Option<Position>),
}

/// A search under way.
#[derive(Debug)]
pub(super) struct Search {
    end: End,
    /// Nothing that is not to be read is known to have arrived at or after this time. `None`: no clock to go by.
    end_us: Option<i64>,
    asked: StartAt,
    /// The latest record found, and its arrival.
    last: Option<(Position, i64)>,
    /// How far before the end to look next, while nothing was found that way.
    back_us: Option<i64>,
    /// Reading in order, to the end.
    in_order: bool,
    looks: u32,
}

impl Search {
    /// A search, and where it asks first. `end_us` is about when the end arrived, and never later than now.
    pub(super) fn new(end: End, end_us: Option<i64>) -> (Self, StartAt) {
        let (last, back_us) = (None, Some(FIRST_US));
        let mut search =
            Self { end, end_us, asked: StartAt::TrimHorizon, last, back_us, in_order: false, looks: 0 };
        let first = search.look();
        search.asked = first.clone();
        (search, first)
    }

    /// Ends the search before this record. False where it has gone past it already, and must begin anew.
    pub(super) fn ends_before(&mut self, first: &SequenceNumber) -> bool {
        let before = self.last.as_ref().is_none_or(|(last, _)| last.sequence < *first);
        if before {
            self.end = End::Record(first.clone());
        }
        before
    }

    /// Takes in a page of what was asked for last.
    pub(super) fn take(&mut self, page: &Page) -> Turn {
        let old = page.records().take_while(|record| !self.end.is_before(record));
        let (mut count, mut newest) = (0, None);
        for record in old {
            (count, newest) = (count + 1, Some(record));
        }
        let at_end = count < page.len() || is_at_tip(page);
        if let Some(record) = newest {
            let end = end_of(&record);
            if self.last.as_ref().is_none_or(|(last, _)| *last < end) {
                self.last = Some((end, record.arrival_us));
            }
        }
        match (newest.is_some(), at_end) {
            (true, true) => self.found(),
            (false, false) => Turn::More,
            (_, at_end) if self.in_order => {
                if at_end {
                    self.found()
                } else {
                    Turn::More
                }
            }
            (true, false) => {
                if matches!(self.asked, StartAt::Timestamp(_)) {
                    self.back_us = None;
                }
                self.ask()
            }
            (false, true) => match self.asked {
                StartAt::Timestamp(us) => {
                    self.end_us = Some(us);
                    self.ask()
                }
                // All that there is, is to be read.
                _ => self.found(),
            },
        }
    }

    fn found(&self) -> Turn {
        Turn::Found(self.last.as_ref().map(|(last, _)| last.clone()))
    }

    fn ask(&mut self) -> Turn {
        self.asked = self.look();
        Turn::Ask(self.asked.clone())
    }

    /// Where to look next.
    fn look(&mut self) -> StartAt {
        self.looks += 1;
        let Some(end_us) = self.end_us else {
            self.in_order = true;
            return StartAt::TrimHorizon;
        };
        let Some((last, last_us)) = &self.last else {
            let at_us = end_us.saturating_sub(FIRST_US);
            return if self.looks == 1 && at_us > 0 {
                StartAt::Timestamp(at_us)
            } else {
                StartAt::TrimHorizon
            };
        };
        if end_us.saturating_sub(*last_us) <= CLOSE_US || self.looks > LOOKS_MAX {
            self.in_order = true;
            return StartAt::After(last.sequence.clone());
        }
        if let Some(back_us) = self.back_us.map(|back_us| back_us.saturating_mul(FURTHER)) {
            self.back_us = Some(back_us);
            let at_us = end_us.saturating_sub(back_us);
            if at_us > *last_us {
                return StartAt::Timestamp(at_us);
            }
        }
        let middle = last_us + (end_us - last_us) / 2;
        StartAt::Timestamp(middle - middle.rem_euclid(1000))
    }
}

/// True when nothing comes after the page, as far as the answer tells. A server may say so of a page that is full.
pub(super) fn is_at_tip(page: &Page) -> bool {
    let caught_up = match page.millis_behind_latest {
        Some(behind) => behind == 0 && page.len() < PAGE_RECORDS,
        None => page.is_empty() && !page.tip_unsure,
    };
    caught_up || page.next_iterator.is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fetch::PageBuilder;

    /// A shard as arrivals, in order; the sequence number is the index and one.
    fn answer(arrivals: &[i64], from: usize, size: usize) -> Page {
        let mut builder = PageBuilder::default();
        let end = arrivals.len().min(from + size);
        for (n, arrival_us) in arrivals.iter().enumerate().take(end).skip(from) {
            builder.push(&(n + 1).to_string(), "k", *arrival_us, b"");
        }
        let mut page = builder.finish();
        page.next_iterator = Some("next".into());
        page.millis_behind_latest = Some(i64::from(end < arrivals.len()));
        page
    }

    fn number(sequence: &SequenceNumber) -> usize {
        sequence.as_str().parse().unwrap()
    }

    /// Runs a search over a shard; the record found and the pages it took. Now and then a page is empty before the tip.
    fn run(arrivals: &[i64], end: End, end_us: Option<i64>, size: usize, gaps: bool) -> (Option<usize>, u32) {
        let (mut search, mut start) = Search::new(end, end_us);
        let mut pages = 0;
        'ask: loop {
            let mut from = match &start {
                StartAt::TrimHorizon => 0,
                StartAt::Timestamp(us) => arrivals.partition_point(|arrival| arrival < us),
                StartAt::After(sequence) => number(sequence),
                other => panic!("{other:?}"),
            };
            loop {
                pages += 1;
                assert!(pages < 10_000, "no end");
                let gap = gaps && pages % 3 == 1 && from < arrivals.len();
                let page = answer(arrivals, from, if gap { 0 } else { size });
                from += page.len();
                match search.take(&page) {
                    Turn::More => {}
                    Turn::Ask(next) => {
                        start = next;
                        continue 'ask;
                    }
                    Turn::Found(found) => return (found.map(|found| number(&found.sequence)), pages),
                }
            }
        }
    }

    const S: i64 = 1_000_000;
    const DAY: i64 = 86_400 * S;
    const NOW: i64 = 1_768_469_400 * S;

    #[test]
    fn ordinary_shards_take_few_looks() {
        assert_eq!(run(&[], End::Tip, Some(NOW), 1000, false), (None, 2));
        assert_eq!(run(&[NOW - S], End::Tip, Some(NOW), 1000, false), (Some(1), 1));
        assert_eq!(run(&[NOW - DAY / 2], End::Tip, Some(NOW), 1000, false), (Some(1), 2));
        let busy: Vec<i64> = (0..100_000).map(|n| NOW - DAY + n * DAY / 100_000).collect();
        assert_eq!(run(&busy, End::Tip, Some(NOW), 1000, false), (Some(100_000), 1));
        let quiet = &busy[..50_000];
        let (found, pages) = run(quiet, End::Tip, Some(NOW), 1000, false);
        assert!(found == Some(50_000) && pages < 20, "{found:?} {pages}");
        let (found, pages) = run(&busy, End::Time(NOW - DAY * 2), Some(NOW - DAY * 2), 1000, false);
        assert_eq!((found, pages), (None, 2));
        assert_eq!(run(&busy, End::Record(101.into_sequence()), Some(busy[100]), 1000, false).0, Some(100));
        assert_eq!(run(&busy[..3_000], End::Tip, None, 1000, false), (Some(3_000), 4));
    }

    trait IntoSequence {
        fn into_sequence(self) -> SequenceNumber;
    }

    impl IntoSequence for u128 {
        fn into_sequence(self) -> SequenceNumber {
            SequenceNumber::from(self)
        }
    }

    proptest! {
        #[test]
        fn the_last_one_before_the_end_is_found(
            mut arrivals in prop::collection::vec((0i64..3, 0i64..DAY), 0..60), at in 0i64..2 * DAY, size in 1usize..9,
            gaps: bool, by in 0u8..3, clock: bool,
        ) {
            arrivals.sort_unstable();
            // Bursts and gaps, to the millisecond.
            let arrivals: Vec<i64> =
                arrivals.iter().map(|(burst, at)| NOW - DAY * 3 + burst * DAY + at / (1 + burst * 1000)).map(|us| us - us % 1000).collect();
            let mut arrivals = arrivals;
            arrivals.sort_unstable();
            let time = NOW - DAY * 2 + at - at % 1000;
            let (end, end_us, expected) = match by {
                0 => (End::Tip, NOW, arrivals.len()),
                1 => (End::Time(time), time, arrivals.partition_point(|arrival| *arrival < time)),
                _ => {
                    let first = arrivals.partition_point(|arrival| *arrival < time);
                    let us = arrivals.get(first).map_or(NOW, |arrival| arrival + 1000);
                    (End::Record((first as u128 + 1).into_sequence()), us, first)
                }
            };
            let (found, pages) = run(&arrivals, end, clock.then_some(end_us), size, gaps);
            prop_assert_eq!(found, (expected > 0).then_some(expected));
            prop_assert!(pages < 400, "{} pages", pages);
        }
    }
}
