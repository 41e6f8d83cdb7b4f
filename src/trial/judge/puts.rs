//! What was put into the stream: for each shard its records, by sequence number and, where they are packed in an aggregate,
//! by their index in it.
//!
//! Frugal: of each record about 80 bytes are kept, whatever its size.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::check::Position;
use super::json::hash;
use super::record::{self, Expected, Sequence};
use super::verify::VerifyError;

/// One record that was put.
#[derive(Debug)]
pub struct Put {
    sequence: Sequence,
    /// Its index inside an aggregate; `None` for a stream record of its own.
    sub: Option<u32>,
    /// When it was sent, µs since the epoch.
    sent_us: i64,
    /// In how many rows and dead letters.
    seen: AtomicU32,
    /// Hash of the payload.
    pub(super) payload: u64,
    /// What its row must say. Where it can only be a dead letter, the hash of the key that it changes, if one can read it.
    pub(super) expected: Result<Expected, Option<u64>>,
    bytes: u32,
}

/// All records that were put into one stream.
#[derive(Debug, Default)]
pub struct Puts {
    /// Its name, where there are several.
    stream: Option<String>,
    shards: Vec<Shard>,
    numbers: HashMap<String, usize>,
    /// Payloads and event ids of records whose put was not answered, which may be in the stream, nobody knows where; and
    /// positions of records that may be in the lake or not.
    unclear: HashSet<u64>,
    /// Rows of high risk are to be copied.
    alerts: bool,
    len: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Shard {
    id: String,
    /// In the order of the sequence numbers.
    puts: Vec<Put>,
    /// How many of them have been seen in the lake, and before which place all have.
    seen: u64,
    first_unseen: usize,
}

/// What is missing of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen<'a> {
    /// The shard.
    pub shard_id: &'a str,
    /// Records put.
    pub put: u64,
    /// Of these, not seen in the lake.
    pub unseen: u64,
    /// When the first of them was sent, µs since the epoch.
    pub oldest_us: Option<i64>,
}

impl Put {
    /// A record as the stream holds it, sent at `sent_us`, µs since the epoch.
    ///
    /// # Errors
    /// When the sequence number is not one.
    pub fn new(
        shard_id: &str,
        sequence_number: &str,
        data: &[u8],
        sent_us: i64,
    ) -> Result<Self, VerifyError> {
        Self::at(shard_id, sequence_number, None, data, sent_us)
    }

    /// As [`Put::new`], for a record that is part of an aggregate: the one with the index `sub`, counted from 0.
    ///
    /// # Errors
    /// When the sequence number is not one.
    pub fn part(
        shard_id: &str,
        sequence_number: &str,
        sub: u32,
        data: &[u8],
        sent_us: i64,
    ) -> Result<Self, VerifyError> {
        Self::at(shard_id, sequence_number, Some(sub), data, sent_us)
    }

    fn at(
        shard_id: &str,
        sequence_number: &str,
        sub: Option<u32>,
        data: &[u8],
        sent_us: i64,
    ) -> Result<Self, VerifyError> {
        Ok(Self {
            sequence: Sequence::parse(sequence_number)
                .ok_or_else(|| VerifyError::SequenceNumber { shard_id: shard_id.to_owned() })?,
            sub,
            sent_us,
            seen: AtomicU32::new(0),
            payload: hash(&data),
            expected: record::expected(data, (shard_id, sequence_number), sub).map_err(|_| record::key(data)),
            bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
        })
    }

    /// Counts one row or dead letter; answers how many there were before.
    pub(super) fn see(&self) -> u32 {
        self.seen.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn seen(&self) -> u32 {
        self.seen.load(Ordering::Relaxed)
    }

    /// When it was sent, µs since the epoch.
    pub fn sent_us(&self) -> i64 {
        self.sent_us
    }

    /// Where it is in its shard.
    fn place(&self) -> (Sequence, Option<u32>) {
        (self.sequence, self.sub)
    }

    /// Its sequence number.
    pub fn sequence_number(&self) -> String {
        self.sequence.to_string()
    }
}

impl Puts {
    /// None yet, of this stream among several.
    pub fn of(stream: impl Into<String>) -> Self {
        Self { stream: Some(stream.into()), ..Self::default() }
    }

    /// The same, of workers that copy valid rows of high risk or do not.
    #[must_use]
    pub fn with_alerts(self, alerts: bool) -> Self {
        Self { alerts, ..self }
    }

    pub(super) fn alerts(&self) -> bool {
        self.alerts
    }

    /// The stream; `None` where it is the only one.
    pub fn stream(&self) -> Option<&str> {
        self.stream.as_deref()
    }

    /// Adds one record of a shard. Quick where records come about in their order.
    ///
    /// # Errors
    /// When the position was given before.
    pub fn add(&mut self, shard_id: &str, put: Put) -> Result<(), VerifyError> {
        let number = match self.numbers.get(shard_id) {
            Some(number) => *number,
            None => {
                self.shards.push(Shard {
                    id: shard_id.to_owned(),
                    puts: Vec::new(),
                    seen: 0,
                    first_unseen: 0,
                });
                self.numbers.insert(shard_id.to_owned(), self.shards.len() - 1);
                self.shards.len() - 1
            }
        };
        let Shard { puts, first_unseen, .. } = &mut self.shards[number];
        // Several requests are on their way at once, so a few records may be before the end.
        let later = puts.iter().rev().take_while(|other| other.place() > put.place()).count();
        let place = puts.len() - later;
        if place > 0 && puts[place - 1].place() == put.place() {
            return Err(VerifyError::PositionTwice(self.position(shard_id, &put)));
        }
        self.len += 1;
        self.bytes += u64::from(put.bytes);
        *first_unseen = place.min(*first_unseen);
        puts.insert(place, put);
        Ok(())
    }

    /// Notes a record whose put was not answered. It may be in the stream or not.
    pub fn add_unclear(&mut self, data: &[u8]) {
        self.unclear.insert(hash(&data));
        self.unclear.extend(record::event_id(data));
    }

    /// Notes a record that may be in the lake or not, wherever it is in the stream.
    pub fn add_optional(&mut self, shard_id: &str, sequence_number: &str) {
        self.unclear.insert(hash(&(shard_id, sequence_number)));
    }

    /// Records added.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Payload bytes added.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The shards that records went to, with how many.
    pub fn shards(&self) -> impl Iterator<Item = (&str, u64)> {
        self.shards.iter().map(|shard| (shard.id.as_str(), shard.puts.len() as u64))
    }

    /// Records of a shard at or before a checkpoint, and when the first one after it was sent. `sub` counts where the
    /// record at that sequence number is an aggregate.
    pub fn up_to(&self, shard_id: &str, sequence_number: &str, sub: u64) -> (u64, Option<i64>) {
        let (Some(puts), Some(sequence)) = (self.puts(shard_id), Sequence::parse(sequence_number)) else {
            return (0, None);
        };
        let at = |put: &Put| (put.sequence, u64::from(put.sub.unwrap_or(0)));
        let place = puts.partition_point(|put| at(put) <= (sequence, sub));
        (place as u64, puts.get(place).map(Put::sent_us))
    }

    /// When the first record of a shard was sent.
    pub fn first_sent(&self, shard_id: &str) -> Option<i64> {
        self.puts(shard_id)?.first().map(Put::sent_us)
    }

    /// Notes that a stream record was seen in the lake, with all that is in it, while it is still being written; answers
    /// whether it was put.
    pub fn saw(&mut self, shard_id: &str, sequence_number: &str) -> bool {
        let number = self.numbers.get(shard_id).copied();
        let (Some(number), Some(sequence)) = (number, Sequence::parse(sequence_number)) else { return false };
        let shard = &mut self.shards[number];
        let places = places(&shard.puts, sequence, None);
        let puts = &shard.puts[places];
        shard.seen += puts.iter().map(|put| u64::from(put.see() == 0)).sum::<u64>();
        !puts.is_empty()
    }

    /// What has not been seen, shard by shard.
    pub fn unseen(&mut self) -> impl Iterator<Item = Unseen<'_>> {
        self.shards.iter_mut().map(|shard| {
            let seen = shard.puts[shard.first_unseen..].iter().take_while(|put| put.seen() > 0).count();
            shard.first_unseen += seen;
            let put = shard.puts.len() as u64;
            Unseen {
                shard_id: &shard.id,
                put,
                unseen: put - shard.seen,
                oldest_us: shard.puts.get(shard.first_unseen).map(Put::sent_us),
            }
        })
    }

    /// Forgets what was seen, for the check in the end.
    pub(super) fn forget_seen(&mut self) {
        for shard in &mut self.shards {
            (shard.seen, shard.first_unseen) = (0, 0);
            shard.puts.iter_mut().for_each(|put| *put.seen.get_mut() = 0);
        }
    }

    /// The record that a line of the lake speaks of: at most one where it names an index inside an aggregate; else the
    /// stream record, which is all those that it packs.
    pub(super) fn find(&self, shard_id: &str, sequence: Sequence, sub: Option<u32>) -> &[Put] {
        let puts = self.puts(shard_id).unwrap_or_default();
        &puts[places(puts, sequence, sub)]
    }

    pub(super) fn is_unclear(&self, hash: u64) -> bool {
        self.unclear.contains(&hash)
    }

    /// Whether a record may be in the lake or not, by its position.
    pub(super) fn is_optional(&self, shard_id: &str, sequence: Sequence) -> bool {
        self.is_unclear(hash(&(shard_id, sequence.to_string().as_str())))
    }

    /// Every record with its shard, shard by shard.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Put)> {
        self.shards.iter().flat_map(|shard| shard.puts.iter().map(|put| (shard.id.as_str(), put)))
    }

    /// Where a record is.
    pub(super) fn position(&self, shard_id: &str, put: &Put) -> Position {
        Position {
            stream: self.stream.clone(),
            shard_id: shard_id.to_owned(),
            sequence_number: put.sequence.to_string(),
            sub_sequence_number: put.sub,
        }
    }

    fn puts(&self, shard_id: &str) -> Option<&[Put]> {
        self.numbers.get(shard_id).map(|number| &self.shards[*number].puts[..])
    }
}

/// Where the record is in `puts` that a sequence number and an index name; without an index all that have that number.
fn places(puts: &[Put], sequence: Sequence, sub: Option<u32>) -> Range<usize> {
    let least = (sequence, sub);
    let first = puts.partition_point(|put| put.place() < least);
    let count = match sub {
        Some(_) => puts[first..].iter().take_while(|put| put.place() == least).count(),
        None => puts[first..].iter().take_while(|put| put.sequence == sequence).count(),
    };
    first..first + count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_position_whatever_order_they_came_in() {
        let mut puts = Puts::default();
        for number in [3, 1, 2, 10, 9] {
            puts.add("s-1", Put::new("s-1", &number.to_string(), b"x", number).unwrap()).unwrap();
        }
        assert_eq!((puts.len(), puts.bytes()), (5, 5));
        let up_to = |sequence| puts.up_to("s-1", sequence, 0);
        assert_eq!(up_to("0"), (0, Some(1)));
        assert_eq!(up_to("3"), (3, Some(9)));
        assert_eq!(up_to("8"), (3, Some(9)));
        assert_eq!(up_to("10"), (5, None));
        assert_eq!(puts.up_to("s-2", "1", 0), (0, None));
        let twice = puts.add("s-1", Put::new("s-1", "2", b"x", 0).unwrap());
        assert!(matches!(twice, Err(VerifyError::PositionTwice(_))));
        assert_eq!(puts.shards().collect::<Vec<_>>(), [("s-1", 5)]);
    }

    #[test]
    fn records_of_an_aggregate_are_found_one_by_one_or_as_a_whole() {
        let mut puts = Puts::default();
        puts.add("s", Put::new("s", "1", b"x", 1).unwrap()).unwrap();
        for sub in [2, 0, 1] {
            puts.add("s", Put::part("s", "5", sub, b"x", 10 + i64::from(sub)).unwrap()).unwrap();
        }
        puts.add("s", Put::new("s", "9", b"x", 20).unwrap()).unwrap();
        let twice = puts.add("s", Put::part("s", "5", 1, b"x", 0).unwrap()).unwrap_err();
        assert_eq!(twice.to_string(), "the stream gave s 5.1 twice: list each record once");
        let find = |digits: &str, sub| {
            let found = puts.find("s", Sequence::parse(digits).unwrap(), sub);
            found.iter().map(Put::sent_us).collect::<Vec<_>>()
        };
        assert_eq!(find("5", Some(1)), [11]);
        assert_eq!(find("5", None), [10, 11, 12], "the whole is all of them");
        assert_eq!(find("1", None), [1]);
        assert!(find("5", Some(3)).is_empty() && find("1", Some(0)).is_empty() && find("2", None).is_empty());
        assert_eq!(puts.up_to("s", "5", 0), (2, Some(11)), "a checkpoint inside an aggregate");
        assert_eq!(puts.up_to("s", "5", 2), (4, Some(20)));
        assert!(puts.saw("s", "5"));
        assert_eq!(puts.unseen().map(|shard| shard.unseen).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_is_not_in_the_lake_yet_is_known() {
        let mut puts = Puts::default();
        let put = |puts: &mut Puts, number: i64| {
            puts.add("s", Put::new("s", &number.to_string(), b"x", 100 + number).unwrap()).unwrap();
        };
        [1, 2, 4].into_iter().for_each(|number| put(&mut puts, number));
        let unseen = |puts: &mut Puts| {
            let all: Vec<_> = puts.unseen().map(|shard| (shard.put, shard.unseen, shard.oldest_us)).collect();
            all[0]
        };
        assert_eq!(unseen(&mut puts), (3, 3, Some(101)));
        assert!(puts.saw("s", "1") && puts.saw("s", "1") && puts.saw("s", "4"));
        assert!(!puts.saw("s", "3") && !puts.saw("t", "1") && !puts.saw("s", "x"));
        assert_eq!(unseen(&mut puts), (3, 1, Some(102)));
        assert!(puts.saw("s", "2"));
        assert_eq!(unseen(&mut puts), (3, 0, None));
        // One that came in late, before others that have been seen.
        put(&mut puts, 3);
        assert_eq!(unseen(&mut puts), (4, 1, Some(103)));
        puts.forget_seen();
        assert_eq!(unseen(&mut puts), (4, 4, Some(101)));
    }
}
