//! What was put into the stream: for each shard its records, by sequence number.
//!
//! Frugal: of each record about 80 bytes are kept, whatever its size.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use super::check::Position;
use super::json::hash;
use super::record::{self, Expected, Sequence};
use super::verify::VerifyError;

/// One record that was put.
#[derive(Debug)]
pub struct Put {
    sequence: Sequence,
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

/// All records that were put.
#[derive(Debug, Default)]
pub struct Puts {
    shards: Vec<Shard>,
    numbers: HashMap<String, usize>,
    /// Payloads and event ids of records whose put was not answered, which may be in the stream, nobody knows where; and
    /// positions of records that may be in the lake or not.
    unclear: HashSet<u64>,
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
        Ok(Self {
            sequence: Sequence::parse(sequence_number)
                .ok_or_else(|| VerifyError::SequenceNumber { shard_id: shard_id.to_owned() })?,
            sent_us,
            seen: AtomicU32::new(0),
            payload: hash(&data),
            expected: record::expected(data, sequence_number).map_err(|_| record::key(data)),
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

    /// Its sequence number.
    pub fn sequence_number(&self) -> String {
        self.sequence.to_string()
    }
}

impl Puts {
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
        let later = puts.iter().rev().take_while(|other| other.sequence > put.sequence).count();
        let place = puts.len() - later;
        if place > 0 && puts[place - 1].sequence == put.sequence {
            let sequence_number = put.sequence.to_string();
            return Err(VerifyError::PositionTwice(Position {
                shard_id: shard_id.to_owned(),
                sequence_number,
            }));
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

    /// Records of a shard at or below a sequence number, and when the first one above it was sent.
    pub fn up_to(&self, shard_id: &str, sequence_number: &str) -> (u64, Option<i64>) {
        let (Some(puts), Some(sequence)) = (self.puts(shard_id), Sequence::parse(sequence_number)) else {
            return (0, None);
        };
        let place = puts.partition_point(|put| put.sequence <= sequence);
        (place as u64, puts.get(place).map(Put::sent_us))
    }

    /// Notes that a record was seen in the lake while it is still being written; answers whether it was put.
    pub fn saw(&mut self, shard_id: &str, sequence_number: &str) -> bool {
        let number = self.numbers.get(shard_id).copied();
        let (Some(number), Some(sequence)) = (number, Sequence::parse(sequence_number)) else { return false };
        let shard = &mut self.shards[number];
        let place = shard.puts.binary_search_by_key(&sequence, |put| put.sequence);
        if let Ok(place) = place {
            shard.seen += u64::from(shard.puts[place].see() == 0);
        }
        place.is_ok()
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

    pub(super) fn find(&self, shard_id: &str, sequence: Sequence) -> Option<&Put> {
        let puts = self.puts(shard_id)?;
        puts.binary_search_by_key(&sequence, |put| put.sequence).ok().map(|place| &puts[place])
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

    fn puts(&self, shard_id: &str) -> Option<&[Put]> {
        self.numbers.get(shard_id).map(|number| &self.shards[*number].puts[..])
    }
}

/// Where a record is.
pub(super) fn position(shard_id: &str, put: &Put) -> Position {
    Position { shard_id: shard_id.to_owned(), sequence_number: put.sequence.to_string() }
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
        let up_to = |sequence| puts.up_to("s-1", sequence);
        assert_eq!(up_to("0"), (0, Some(1)));
        assert_eq!(up_to("3"), (3, Some(9)));
        assert_eq!(up_to("8"), (3, Some(9)));
        assert_eq!(up_to("10"), (5, None));
        assert_eq!(puts.up_to("s-2", "1"), (0, None));
        let twice = puts.add("s-1", Put::new("s-1", "2", b"x", 0).unwrap());
        assert!(matches!(twice, Err(VerifyError::PositionTwice(_))));
        assert_eq!(puts.shards().collect::<Vec<_>>(), [("s-1", 5)]);
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
