//! What workers of several builds make of the records of a batch.

use std::collections::BTreeMap;

use crate::batch::Content;
use crate::checkpoint::PlannedObject;

/// What a worker makes of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Made {
    /// One object.
    One,
    /// Two objects: odd records are in `a`, even ones in `b`.
    Two,
    /// Two objects as well, the other way round: the same keys and other rows. By another name, as it should be, or by the
    /// same as [`Made::Two`].
    Turned { named_so: bool },
    /// Odd records go to the delivery stream, the others into an object.
    Streamed,
    /// One object of dead letters: a build that takes a record of the stream for one, whatever it packs.
    TakesWhole,
    /// Odd records give no rows, the others are in one object: a batch may have none at all.
    LeavesOut,
}

impl Made {
    pub(super) fn id(self) -> &'static str {
        match self {
            // What it unpacks is no part of a transform.
            Self::One | Self::TakesWhole => "one",
            Self::Two | Self::Turned { named_so: false } => "two",
            Self::Turned { named_so: true } => "turned",
            Self::Streamed => "streamed",
            Self::LeavesOut => "leaves out",
        }
    }

    /// Whether it unpacks.
    pub(super) fn unpacks(self) -> bool {
        self != Self::TakesWhole
    }

    /// Whether a record gives no rows.
    pub(super) fn leaves_out(self, record: u8) -> bool {
        self == Self::LeavesOut && !record.is_multiple_of(2)
    }

    /// Folder of a record that gives rows; `None` for the delivery stream.
    pub(super) fn folder(self, record: u8) -> Option<&'static str> {
        let even = record.is_multiple_of(2);
        match self {
            Self::One | Self::LeavesOut => Some("a"),
            Self::TakesWhole => Some("errors"),
            Self::Two => Some(if even { "b" } else { "a" }),
            Self::Turned { .. } => Some(if even { "a" } else { "b" }),
            Self::Streamed => even.then_some("a"),
        }
    }
}

/// What becomes of these records of a batch: objects, and records for the delivery stream.
pub(super) fn build(
    made: Made,
    range: (u8, u8),
    generation: u32,
    records: impl Iterator<Item = u8>,
) -> (BTreeMap<String, Vec<u8>>, Vec<u8>) {
    let mut objects = BTreeMap::<String, Vec<u8>>::new();
    let mut stream = Vec::new();
    for record in records.filter(|record| !made.leaves_out(*record)) {
        match made.folder(record) {
            None => stream.push(record),
            Some(folder) => {
                let key = format!("{folder}/{}-{}-r{generation}", range.0, range.1);
                objects.entry(key).or_default().push(record);
            }
        }
    }
    (objects, stream)
}

pub(super) fn content(records: &[u8]) -> Content {
    let hash = records.iter().fold(0, |hash, record| hash * 100 + u64::from(*record));
    Content { rows: records.len() as u64, hash }
}

pub(super) fn planned(contents: &BTreeMap<String, Vec<u8>>) -> Vec<PlannedObject> {
    let object =
        |(key, records): (&String, &Vec<u8>)| PlannedObject { key: key.clone(), content: content(records) };
    contents.iter().map(object).collect()
}

/// Those of an object's records whose rows are copied.
pub(super) fn copied(records: &[u8]) -> Vec<u8> {
    records.iter().copied().filter(|record| !record.is_multiple_of(2)).collect()
}
