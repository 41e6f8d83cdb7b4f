//! Positions in a shard and the checkpoint values of the lease table, with their order.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Sequence number of a record: decimal digits of up to 186 bits, kept as the stream wrote them and compared
/// as a number (DynamoDB Streams pads with zeros, Kinesis does not).
#[derive(Clone)]
pub struct SequenceNumber(Arc<str>);

impl SequenceNumber {
    /// Takes decimal digits; `None` when the text is empty, longer than 128 or holds anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| Self(text.into()))
    }

    /// The digits as the stream wrote them.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn significant(&self) -> &str {
        self.0.trim_start_matches('0')
    }
}

impl From<u128> for SequenceNumber {
    fn from(number: u128) -> Self {
        Self(number.to_string().into())
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.significant() == other.significant()
    }
}

impl Eq for SequenceNumber {}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.significant().hash(state);
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.significant(), other.significant());
        a.len().cmp(&b.len()).then_with(|| a.cmp(b))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which record a row was made of: a whole stream record, or one of those that are packed in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// Sequence number of the stream record.
    pub sequence: SequenceNumber,
    /// Index inside the aggregate. `None`: the whole stream record, with all that is in it.
    pub sub: Option<u64>,
}

impl RecordId {
    /// Its place in the shard.
    pub fn position(self) -> Position {
        Position { sequence: self.sequence, sub: self.sub.unwrap_or(0) }
    }

    /// True when a place comes after this record: after all that is in it, where it is whole.
    pub fn is_before(&self, position: &Position) -> bool {
        let within = self.sub.is_some_and(|sub| sub < position.sub);
        self.sequence < position.sequence || within && self.sequence == position.sequence
    }
}

/// A record's place: its sequence number, and its index inside a KPL aggregate (0 outside one).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Sequence number of the stream record.
    pub sequence: SequenceNumber,
    /// Index inside an aggregated record.
    pub sub: u64,
}

impl Position {
    /// Position of an ordinary record.
    pub fn new(sequence: SequenceNumber) -> Self {
        Self { sequence, sub: 0 }
    }
}

impl From<u128> for Position {
    fn from(number: u128) -> Self {
        Self::new(number.into())
    }
}

/// A checkpoint as the lease table stores it: "everything up to here is done", or where to start.
///
/// The derived order is KCL's: AT_TIMESTAMP < TRIM_HORIZON < LATEST < positions < SHARD_END
/// (`ExtendedSequenceNumber`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Checkpoint {
    /// Start at the time in the worker's settings; the time itself is not stored.
    AtTimestamp,
    /// Start at the oldest record.
    TrimHorizon,
    /// Start with the next record written.
    Latest,
    /// Done up to and including this position.
    At(Position),
    /// The shard is closed and all of it is done.
    ShardEnd,
}

impl Checkpoint {
    /// Reads the table's two attributes; `None` when the text is neither a sentinel nor a number.
    pub fn parse(text: &str, sub: u64) -> Option<Self> {
        Some(match text {
            "AT_TIMESTAMP" => Self::AtTimestamp,
            "TRIM_HORIZON" => Self::TrimHorizon,
            "LATEST" => Self::Latest,
            "SHARD_END" => Self::ShardEnd,
            digits => Self::At(Position { sequence: SequenceNumber::parse(digits)?, sub }),
        })
    }

    /// The value of the `checkpoint` attribute.
    pub fn as_str(&self) -> &str {
        match self {
            Self::AtTimestamp => "AT_TIMESTAMP",
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::Latest => "LATEST",
            Self::At(position) => position.sequence.as_str(),
            Self::ShardEnd => "SHARD_END",
        }
    }

    /// The value of the `checkpointSubSequenceNumber` attribute; 0 for sentinels.
    pub fn sub(&self) -> u64 {
        match self {
            Self::At(position) => position.sub,
            _ => 0,
        }
    }

    /// The position, where there is one.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::At(position) => Some(position),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seq(text: &str) -> SequenceNumber {
        SequenceNumber::parse(text).unwrap()
    }

    #[test]
    fn checkpoints_stand_in_kcl_order() {
        let at = |n: &str, sub| Checkpoint::At(Position { sequence: seq(n), sub });
        let ordered = [
            Checkpoint::AtTimestamp,
            Checkpoint::TrimHorizon,
            Checkpoint::Latest,
            at("9", 0),
            at("9", 4),
            at("10", 0),
            Checkpoint::ShardEnd,
        ];
        assert!(ordered.windows(2).all(|pair| pair[0] < pair[1]));
        for checkpoint in &ordered {
            assert_eq!(Checkpoint::parse(checkpoint.as_str(), checkpoint.sub()).as_ref(), Some(checkpoint));
        }
        assert_eq!(Checkpoint::parse("FROM_MARS", 0), None);
    }

    #[test]
    fn padding_does_not_change_a_sequence_number() {
        assert_eq!(seq("000101"), seq("101"));
        assert!(seq("000099") < seq("101"));
        assert_eq!(seq("000101").as_str(), "000101");
        assert!(SequenceNumber::parse("").is_none() && SequenceNumber::parse("12x").is_none());
    }

    proptest! {
        #[test]
        fn order_is_numeric(a: u128, b: u128) {
            prop_assert_eq!(SequenceNumber::from(a).cmp(&SequenceNumber::from(b)), a.cmp(&b));
        }
    }
}
