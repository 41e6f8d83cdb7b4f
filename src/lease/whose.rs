//! Whose leases these are: of the stream that this worker reads, of another, or of a former one of the same name.
//!
//! A lease of ours names its stream in an attribute that Java leaves alone. Rows of Java workers and of older builds do
//! not: for those the ids, sequence numbers and hash keys decide, and where they contradict the stream it may be either.
//! Advice for one of the two causes would double the stream in the other, so each message says which cause it means, or
//! names both.
//!
//! Owns: the comparison and its words.
//! Does not own: what follows (`sync`, `coordinator`, `explain`), the comparison of shards (`shard::graph`).

use super::key::LeaseKey;
use super::row::Lease;
use crate::shard::graph::is_unlike;
use crate::shard::{Checkpoint, Kinship, SequenceNumber, Shard, StreamId};

/// Leases asked about at the start where they do not name their stream.
const ASKED_MAX: usize = 16;

/// Why leases are not those of this stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// They name another stream.
    #[error(
        "its leases belong to stream {} (see the lease of {lease}), not to {}: correct --stream, or use \
         another --application; do not delete them, or {} is delivered again",
        of.in_words(), ours.in_words(), of.name()
    )]
    Other {
        /// One of them.
        lease: LeaseKey,
        /// The stream that it names.
        of: StreamId,
        /// The stream of this worker.
        ours: StreamId,
    },
    /// They name a stream with this name that was created at another time, or contradict the stream that they name.
    #[error(
        "the lease of {lease} belongs to an earlier stream {}, and this is {}: check --region; if the stream \
         was deleted and created again, stop the workers and run `kinetide leases delete --all`, or use \
         another --application",
        of.in_words(), ours.in_words()
    )]
    Former {
        /// One of them.
        lease: LeaseKey,
        /// The stream that it names.
        of: StreamId,
        /// The stream of this worker.
        ours: StreamId,
    },
    /// Their keys are not of the form that this worker reads and writes.
    #[error(
        "its leases are those of an application of {} (the lease of {lease} has such a key): {}",
        if *.several { "several streams" } else { "one stream" },
        if *.several { SEVERAL } else { ONE }
    )]
    OtherForm {
        /// One of them.
        lease: LeaseKey,
        /// They name their streams, and this worker reads one stream without that.
        several: bool,
    },
    /// They are of a stream that this worker does not read.
    #[error("the lease of {lease} is of stream {}, which is not among the streams of this worker", of.in_words())]
    NotAmong {
        /// One of them.
        lease: LeaseKey,
        /// Its stream.
        of: StreamId,
    },
    /// They do not say whose they are, and cannot be of this stream.
    #[error("the lease of {lease} does not belong to this stream: {}", TELL_APART)]
    Unlike {
        /// One of them.
        lease: LeaseKey,
    },
}

const SEVERAL: &str = "start it with tables [[streams]] in the settings file; to make it an application of one stream, \
     stop its workers and run `kinetide leases convert --to single-stream`; or choose another --application";
const ONE: &str = "start it with one --stream; to make it an application of several, stop its workers and run `kinetide \
     leases convert --to multi-stream`; or choose another --application";

/// How an operator finds out which of two causes it is, and what follows.
pub const TELL_APART: &str = "if these leases belong to another stream (compare the --stream of its workers), \
     correct --stream or --application and keep them; if this stream was deleted and created again (check its \
     creation time), stop the workers and run `kinetide leases delete --all`, or use another --application";

impl NotOurs {
    /// True when a setting of this process is wrong, beyond doubt.
    pub fn is_wrong_setting(&self) -> bool {
        matches!(self, Self::Other { .. } | Self::OtherForm { .. })
    }
}

/// The stream that the row names. One that cannot be read is some other stream.
fn named(row: &Lease) -> Option<StreamId> {
    let text = row.stream.as_ref()?;
    Some(StreamId::parse(text).unwrap_or_else(|| StreamId::named(&**text)))
}

/// Whether the row names another stream than `ours`.
///
/// # Errors
/// When it does. A row that names none may still be of another.
pub fn check(row: &Lease, ours: &StreamId) -> Result<(), NotOurs> {
    let Some(of) = named(row) else { return Ok(()) };
    let (lease, ours) = (row.key.clone(), ours.clone());
    match ours.kinship(&of) {
        Kinship::Same => Ok(()),
        Kinship::Namesake => Err(NotOurs::Former { lease, of, ours }),
        Kinship::Stranger => Err(NotOurs::Other { lease, of, ours }),
    }
}

/// Whether the row's key is of the form of an application of `several` streams, or of one.
///
/// # Errors
/// When it is not.
pub(super) fn check_form(row: &Lease, several: bool) -> Result<(), NotOurs> {
    match row.key.stream().is_some() {
        form if form == several => Ok(()),
        form => Err(NotOurs::OtherForm { lease: row.key.clone(), several: form }),
    }
}

/// Whether any of the rows names another stream than `ours`, as [`check`].
pub(super) fn check_all(rows: &[&Lease], ours: &StreamId) -> Result<(), NotOurs> {
    let problems = || rows.iter().filter_map(|row| check(row, ours).err());
    // Another stream outranks a former one: its leases are in use.
    match problems().find(NotOurs::is_wrong_setting).or_else(|| problems().next()) {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// What it means that a lease contradicts the listing of stream `ours`.
pub(super) fn contradiction(row: &Lease, ours: Option<&StreamId>) -> NotOurs {
    let lease = row.key.clone();
    match (named(row), ours) {
        (Some(of), Some(ours)) => {
            check(row, ours).err().unwrap_or_else(|| NotOurs::Former { lease, of, ours: ours.clone() })
        }
        _ => NotOurs::Unlike { lease },
    }
}

/// Whether the row contradicts the shard with its id.
pub fn contradicts(row: &Lease, shard: &Shard) -> bool {
    is_unlike(&row.checkpoint, row.hash_range, shard)
}

/// Checkpoints to ask the stream about: of leases that do not say whose they are, spread over all of them. A stream
/// knows its own sequence numbers where ids and hash keys are as in every other stream.
pub(super) fn to_ask<'a>(
    unnamed: &[&'a Lease],
    listing: &[Shard],
) -> Vec<(&'a LeaseKey, &'a SequenceNumber)> {
    let position = |row: &&'a Lease| match &row.checkpoint {
        Checkpoint::At(at) => {
            listing.iter().any(|shard| shard.id == *row.key.shard()).then_some((&row.key, &at.sequence))
        }
        _ => None,
    };
    let all: Vec<_> = unnamed.iter().filter_map(position).collect();
    all.iter().step_by(all.len().div_ceil(ASKED_MAX).max(1)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{HashKeyRange, Position, ShardId};

    fn ours() -> StreamId {
        StreamId::parse("1:trades:1000").unwrap()
    }

    fn row(number: usize, stream: Option<&str>) -> Lease {
        let shard = Shard {
            id: ShardId::new(format!("shardId-{number:012}")),
            parents: Vec::new(),
            hash_range: Some(HashKeyRange { start: 0, end: 9 }),
            starting_sequence_number: SequenceNumber::from(1),
            closed: false,
        };
        let at = Checkpoint::At(Position::new(SequenceNumber::from(number as u128)));
        Lease { stream: stream.map(Into::into), ..Lease::new(&shard, at) }
    }

    #[test]
    fn a_row_that_names_its_stream_is_believed() {
        for ours_too in [None, Some("1:trades:1000"), Some(":trades:"), Some("1:trades:")] {
            assert_eq!(check(&row(0, ours_too), &ours()), Ok(()));
        }
        for (other, wrong_setting) in [
            ("1:orders:1000", true),
            ("2:trades:1000", true),
            ("a form of later", true),
            ("1:trades:999", false),
        ] {
            let problem = check(&row(0, Some(other)), &ours()).unwrap_err();
            assert_eq!(problem.is_wrong_setting(), wrong_setting, "{problem}");
        }
        let rows = [row(0, Some("1:trades:9")), row(1, None), row(2, Some("1:orders:9"))];
        assert!(check_all(&rows.each_ref(), &ours()).unwrap_err().is_wrong_setting(), "in use by somebody");
        assert!(!check_all(&rows.each_ref()[..2], &ours()).unwrap_err().is_wrong_setting());
    }

    #[test]
    fn deleting_is_advised_only_where_it_cannot_double_another_stream() {
        let deletes = |problem: &NotOurs| problem.to_string().contains("delete --all");
        let other = check(&row(0, Some("1:orders:9")), &ours()).unwrap_err();
        assert!(!deletes(&other) && other.to_string().contains("stream orders"), "{other}");
        assert!(deletes(&check(&row(0, Some("1:trades:9")), &ours()).unwrap_err()));
        for unknown in [contradiction(&row(0, None), Some(&ours())), contradiction(&row(0, None), None)] {
            let text = unknown.to_string();
            assert!(text.contains("belong to another stream") && text.contains("created again"), "{text}");
        }
        let known = contradiction(&row(0, Some("1:trades:1000")), Some(&ours()));
        assert!(matches!(known, NotOurs::Former { .. }), "{known}");
    }

    #[test]
    fn a_few_checkpoints_are_asked_about() {
        let rows: Vec<Lease> = (0..100).map(|number| row(number, None)).collect();
        let listing: Vec<Shard> = (0..90)
            .map(|number| Shard {
                id: rows[number].key.shard().clone(),
                parents: Vec::new(),
                hash_range: Some(HashKeyRange { start: 0, end: 9 }),
                starting_sequence_number: SequenceNumber::from(0),
                closed: false,
            })
            .collect();
        let unnamed: Vec<&Lease> = rows.iter().collect();
        let asked = to_ask(&unnamed, &listing);
        assert!((ASKED_MAX / 2..=ASKED_MAX).contains(&asked.len()), "{}", asked.len());
        assert_eq!(to_ask(&unnamed[95..], &listing), []);
        assert_eq!(to_ask(&unnamed[..2], &listing).len(), 2);
    }
}
